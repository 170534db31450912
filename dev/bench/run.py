"""
Our numbers beside those of PostGraphile and Mercurius: the same database, queries and run.

Every round runs wrk against every server in turn, so that other work of the machine affects all
alike, and every other round in the opposite order. The table gives medians over rounds. The records
are stored in .alpha-monday/bench (some 3 GB), so that only the first run writes them.

With --beside, the server of another checkout of this project (a worktree in which
`make .venv/.ready` has run) is measured in the same rounds, on the same database: so two versions
are compared.

With --series, the record has several series with so many batches each. The queries ask for `main`.
The other checkout of --beside then gets the record with one series: with `--beside .`, this shows
what the other series cost.
"""

import argparse
import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import date, timedelta
from itertools import product
from pathlib import Path

import data
import httpx
import measured
from measured import BenchCase, CostTarget, ProcessStat, RunSample, TailTarget, WrkResult

from app.database.embedded import FAST_SETTINGS, EmbeddedPostgres

sys.path.append(str(Path(__file__).parents[1]))
import isolation
from ports import free_port

HERE = Path(__file__).parent
PEERS = HERE / "peers"
FOLDER = HERE.parents[1] / ".alpha-monday" / "bench"
DOCUMENT = HERE.parents[1] / "docs" / "bench.md"
# Postgres does no work of its own while queries are measured.
POSTGRES = {
    **FAST_SETTINGS,
    "autovacuum": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "1GB",
}
MIN_NODE_VERSION = (22, 15)
# The number of batches of the shorter record.
SHORT = 520
# The bounds that are promised: our p99 as a multiple of a peer's, and the cost and the p99 of this
# version as multiples of another version's (--beside).
P99_BESIDE_PEERS, COST_BESIDE_OTHER, P99_BESIDE_OTHER = 1.2, 1.1, 1.2
QUERIES = ("latest", "page", "deep page")

# "kept" in a name means: with the response cache.
OURS, OURS_CACHED, RAW = "Alpha Monday", "Alpha Monday, kept", "raw ASGI, the limit"
OTHER, OTHER_CACHED = "the other Alpha Monday", "the other Alpha Monday, kept"
POSTGRAPHILE, MERCURIUS, MERCURIUS_CACHED = "PostGraphile", "Mercurius", "Mercurius, cached"


@dataclass
class BenchServer:
    """A running server: its process, its address and the files with the requests for it."""

    name: str
    batches: int
    pid: int
    url: str
    requests: dict[str, Path] = field(default_factory=dict)

    def address(self, query: str) -> str:
        """Return the address to which a query is posted."""
        if self.name == RAW:
            return f"{self.url}/{query.replace(' ', '-')}"
        return f"{self.url}/graphql"

    def fetch_answer(self, query: str) -> object:
        """Post a query once, and return the answer. Raises SystemExit for an answer with errors."""
        response = httpx.post(
            self.address(query),
            content=self.requests[query].read_bytes(),
            headers={"Content-Type": "application/json"},
            timeout=60,
        )
        answer = response.raise_for_status().json()
        if "errors" in answer:
            raise SystemExit(f"{self.name} answers {query} with {answer['errors']}")
        return answer


def report(line: str) -> None:
    """Print a line of progress."""
    print(f"[{time.strftime('%H:%M:%S')}] {line}", file=sys.stderr, flush=True)


def install_peers(npm_environment: dict[str, str]) -> tuple[str, str]:
    """
    Install the peers; return the path of a Node that runs them, or an empty path and the reason.

    npm needs its settings and its proxy from `npm_environment`.
    """
    if not shutil.which("npm"):
        return "", "npm is missing. On Debian: apt-get install npm"
    lock, installed = PEERS / "package-lock.json", PEERS / "node_modules" / ".package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
        report("Installing the peers (once)")
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        done = subprocess.run(command, cwd=PEERS, stdout=sys.stderr, env=npm_environment)
        if done.returncode:
            return "", "npm could not install them, see above"
        installed.touch()
    # The peers' packages include a Node; without it the system's may be new enough.
    candidates = [*map(str, PEERS.glob("node_modules/node-linux-*/bin/node"))]
    if system_node := shutil.which("node"):
        candidates.append(system_node)
    for path in candidates:
        if _node_version(path) >= MIN_NODE_VERSION:
            return path, ""
    return "", f"Node {'.'.join(map(str, MIN_NODE_VERSION))} or newer is needed"


def _node_version(path: str) -> tuple[int, ...]:
    done = subprocess.run([path, "--version"], capture_output=True, text=True)
    parts = done.stdout.strip("v\n").split(".")
    return tuple(int(part) for part in parts[:2] if part)


@contextmanager
def running_server(
    name: str, batches: int, command: Sequence[str], environment: dict[str, str]
) -> Iterator[BenchServer]:
    """Start a server on a free port, which replaces `PORT` in the command, and stop it again."""
    port = free_port()
    arguments = [part.replace("PORT", str(port)) for part in command]
    # A file and not a pipe: the output is not read while the server runs.
    log = (FOLDER / f"{name}-{batches}.log").open("w")
    process = subprocess.Popen(
        arguments, env={**os.environ, **environment, "PORT": str(port)}, stdout=log, stderr=log
    )
    try:
        if not _wait_until_listening(process, port):
            raise SystemExit(f"{name} does not start; {log.name} says why.")
        yield BenchServer(name, batches, pid=process.pid, url=f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()


def _wait_until_listening(process: "subprocess.Popen[bytes]", port: int) -> bool:
    """Return whether a process listens on a port within a minute."""
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return True
    return False


def server_command(checkout: Path) -> list[str]:
    """
    Return the command that starts the server of a checkout, with its own Python and packages.

    Raises SystemExit if something is missing.
    """
    python, program = checkout / ".venv" / "bin" / "python", checkout / "dev" / "bench" / "serve.py"
    for path, advice in (
        (program, "name a checkout of Alpha Monday"),
        (python, "run `make .venv/.ready` in it first"),
    ):
        if not path.exists():
            raise SystemExit(
                f"--beside {checkout}: {path.relative_to(checkout)} is missing; {advice}."
            )
    return [str(python), str(program), "--port", "PORT"]


def describe_version(checkout: Path) -> str:
    """Return the commit of a checkout, with "-dirty" if files differ from it."""
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--exclude=*"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() or "no commit"


class ServerGroup:
    """
    All servers of a run, started in the context of `stack`.

    `node` is the path of Node, empty without peers; `beside` is another checkout. The records have
    so many `series`; those of the other checkout have one.
    """

    def __init__(
        self,
        stack: ExitStack,
        postgres: EmbeddedPostgres,
        *,
        node: str,
        beside: Path | None,
        series: int,
    ) -> None:
        self.stack = stack
        self.postgres = postgres
        self.node = node
        self.series = series
        self.other = server_command(beside) if beside else []
        self.servers: list[BenchServer] = []
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="am-bench-"))
        self._requests = Path(folder)

    def start_for(self, batches: int) -> None:
        """Start every server on the record with so many batches."""
        url = self._record_url(batches, self.series)
        python = [sys.executable, str(HERE / "serve.py"), "--port", "PORT"]
        ours = self._start(OURS, batches, [*python, "--uncached"], DATABASE_URL=url)
        url_of_other = ""
        if self.other:
            url_of_other = self._record_url(batches, series=1)
            self._start(OTHER, batches, [*self.other, "--uncached"], DATABASE_URL=url_of_other)
        environment = {"DATABASE": url, "NODE_ENV": "production", "GRAPHILE_ENV": "production"}
        mercurius = [self.node, str(PEERS / "mercurius.js")]
        if self.node:
            postgraphile = [self.node, str(PEERS / "postgraphile.js")]
            self._start(POSTGRAPHILE, batches, postgraphile, **environment)
            self._start(MERCURIUS, batches, mercurius, **environment)
        # The speed of a response cache does not depend on the length of the record.
        if batches > SHORT:
            return
        if importlib.util.find_spec("api.cache"):
            self._start(OURS_CACHED, batches, python, DATABASE_URL=url)
        if self.other:
            self._start(OTHER_CACHED, batches, self.other, DATABASE_URL=url_of_other)
        if self.node:
            self._start(MERCURIUS_CACHED, batches, mercurius, **environment, CACHE="true")
        raw = [sys.executable, str(HERE / "raw.py"), "--port", "PORT"]
        for query in QUERIES:
            raw.append(f"{query.replace(' ', '-')}={ours.address(query)},{ours.requests[query]}")
        self._start(RAW, batches, raw)

    def _record_url(self, batches: int, series: int) -> str:
        """Return the address of the record with so many batches of each of so many series."""
        address = data.ensure_database(self.postgres, batches, report, series)
        name = address.split("dbname=")[1].split()[0]
        return f"postgresql:///{name}?host={self.postgres.socket}&user=postgres"

    def _start(
        self, name: str, batches: int, command: Sequence[str], **environment: str
    ) -> BenchServer:
        server = self.stack.enter_context(
            running_server(name, batches, command=command, environment=environment)
        )
        self.servers.append(server)
        for query in QUERIES:
            server.requests[query] = self._requests / f"{name}-{batches}-{query}.json"
            server.requests[query].write_text(json.dumps(make_request(server, query)))
        return server


def make_request(server: BenchServer, query: str) -> dict[str, object]:
    """Return the body of a query's request to a server."""
    prefix = "postgraphile-" if server.name == POSTGRAPHILE else ""
    document = (HERE / "queries" / f"{prefix}{query.split()[-1]}.graphql").read_text()
    variables: dict[str, object] = {}
    if query == "deep page":
        variables["after"] = middle_cursor(server)
    return {"query": document, "variables": variables}


def middle_cursor(server: BenchServer) -> str:
    """Return the cursor of the Monday in the middle of the record."""
    offset = server.batches // 2
    if server.name != POSTGRAPHILE:
        monday = date.fromisoformat(data.NEWEST) - timedelta(weeks=offset)
        return b64encode(str(monday).encode()).decode()
    # Only PostGraphile itself can make its cursors.
    document = (
        '{ allBatches(condition: { series: "main" }, orderBy: RUN_DATE_DESC, first: 1, offset: %d)'
        " { pageInfo { endCursor } } }"
    )
    response = httpx.post(server.address(""), json={"query": document % offset}, timeout=60)
    answer = response.raise_for_status().json()
    return answer["data"]["allBatches"]["pageInfo"]["endCursor"]


def compare_answers(servers: Sequence[BenchServer]) -> None:
    """Raise SystemExit unless the answers of all servers contain the same values."""
    sizes = {server.batches for server in servers}
    for query, batches in product(QUERIES, sizes):
        fingerprints = {
            server.name: measured.fingerprint(server.fetch_answer(query))
            for server in servers
            if server.batches == batches
        }
        if len(set(fingerprints.values())) != 1:
            raise SystemExit(
                f"The answers to {query} with {batches} batches differ: {fingerprints}"
            )
        count, checksum = fingerprints[OURS]
        names = "; ".join(fingerprints)
        report(f"{query}, {batches:,} batches: the same {count} values ({checksum}) from {names}")


def read_processes() -> list[ProcessStat]:
    """Return all processes of the machine."""
    processes = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            processes.append(measured.parse_stat(path.read_text()))
        except (FileNotFoundError, ProcessLookupError):
            # It has ended since the folder was listed.
            continue
    return processes


def resident_memory(pid: int) -> float:
    """Return the resident memory of a process and all its descendants, in MB."""
    pages = 0
    for process in measured.process_tree(read_processes(), pid):
        pages += int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def run_wrk(server: BenchServer, query: str, *, seconds: int, connections: int) -> WrkResult:
    """Send a query again and again for so many seconds."""
    # One thread: with more, wrk would take the cores of the server and of Postgres.
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "20s", "--latency"]
    command += ["-s", str(HERE / "post.lua"), server.address(query)]
    environment = {**os.environ, "BODY": str(server.requests[query])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    return measured.parse_wrk(done.stdout)


def measure(
    server: BenchServer, query: str, *, seconds: int, connections: int, postmaster: int
) -> RunSample:
    """Measure one run. Raises SystemExit if a request failed."""
    # The difference of the CPU times before and after is the cost of the run, Postgres's included.
    before = read_processes()
    load = run_wrk(server, query, seconds=seconds, connections=connections)
    after = read_processes()
    if load.failed:
        raise SystemExit(
            f"{server.name} failed {load.failed} of {load.requests} requests of {query}"
        )

    def cpu_per_request(pid: int) -> float:
        ticks = measured.cpu_ticks(after, pid) - measured.cpu_ticks(before, pid)
        return ticks * measured.TICK / load.requests

    return RunSample(
        load=load,
        server=cpu_per_request(server.pid),
        postgres=cpu_per_request(postmaster),
        memory=resident_memory(server.pid),
    )


def targets(long: int) -> Iterator[CostTarget | TailTarget]:
    """Yield what the README and docs/bench.md promise; `long` is the size of the longer record."""
    yield from _peer_cost_targets(long)
    yield from _cache_targets()
    for query in QUERIES:
        yield CostTarget(
            f"{query}: {long:,} batches beside {SHORT}",
            ours=BenchCase(query, SHORT, OURS),
            theirs=BenchCase(query, long, OURS),
            bound=1.2,
            at_least=False,
        )
    for query in QUERIES:
        yield from _tail_targets(query, long)


def _peer_cost_targets(long: int) -> Iterator[CostTarget]:
    latest, page, _ = QUERIES
    for query, batches, postgraphile_bound in (
        (latest, SHORT, 2.0),
        (page, SHORT, 1.7),
        (latest, long, 2.0),
        (page, long, 1.7),
    ):
        for peer, bound in ((POSTGRAPHILE, postgraphile_bound), (MERCURIUS, 1.3)):
            yield CostTarget(
                f"{query}, {batches:,}: {peer}'s cost beside ours",
                ours=BenchCase(query, batches, OURS),
                theirs=BenchCase(query, batches, peer),
                bound=bound,
            )


def _cache_targets() -> Iterator[CostTarget]:
    for query in QUERIES:
        cached = BenchCase(query, SHORT, OURS_CACHED)
        yield CostTarget(
            f"{query}, kept: beside the limit",
            ours=BenchCase(query, SHORT, RAW),
            theirs=cached,
            bound=1.5,
            at_least=False,
        )
        yield CostTarget(
            f"{query}, kept: Mercurius's cache beside ours",
            ours=cached,
            theirs=BenchCase(query, SHORT, MERCURIUS_CACHED),
            bound=1.0,
        )


def _tail_targets(query: str, long: int) -> Iterator[TailTarget]:
    for batches, peer in product((SHORT, long), (POSTGRAPHILE, MERCURIUS)):
        yield TailTarget(
            f"{query}, {batches:,}: p99 beside {peer}'s",
            ours=BenchCase(query, batches, OURS),
            theirs=BenchCase(query, batches, peer),
            bound=P99_BESIDE_PEERS,
        )
    yield TailTarget(
        f"{query}, kept: p99 beside {MERCURIUS}'s cache",
        ours=BenchCase(query, SHORT, OURS_CACHED),
        theirs=BenchCase(query, SHORT, MERCURIUS_CACHED),
        bound=P99_BESIDE_PEERS,
    )


def comparison(long: int) -> Iterator[CostTarget | TailTarget]:
    """Yield the bounds beside another version: about the same cost, and the same p99."""
    pairs = ((SHORT, OURS, OTHER), (long, OURS, OTHER), (SHORT, OURS_CACHED, OTHER_CACHED))
    for query, (batches, name, other_name) in product(QUERIES, pairs):
        this = BenchCase(query, batches, name)
        other = BenchCase(query, batches, other_name)
        title = f"{query}, {batches:,}: {name}"
        yield CostTarget(
            f"{title}: cost beside the other's",
            ours=other,
            theirs=this,
            bound=COST_BESIDE_OTHER,
            at_least=False,
        )
        yield TailTarget(
            f"{title}: p99 beside the other's", ours=this, theirs=other, bound=P99_BESIDE_OTHER
        )


def write_document(text: str) -> None:
    """Write the result into docs/bench.md, in place of everything after the introduction."""
    introduction, *_ = re.split(
        r"^\d+ rounds of ", DOCUMENT.read_text(), maxsplit=1, flags=re.MULTILINE
    )
    DOCUMENT.write_text(f"{introduction}{text}\n")


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Examples:\n  make bench\n  make bench ARGS=--quick\n"
        '  make bench ARGS="--rounds 12"\n'
        '  make bench ARGS="--no-peers --beside ../before"\n'
        '  make bench ARGS="--no-peers --quick --series 8 --beside ../before"',
    )
    parser.add_argument(
        "--quick", action="store_true", help="three short rounds with 520 and 5,200 batches"
    )
    parser.add_argument(
        "--rounds", type=int, help="how often every server is measured (default: 6)"
    )
    parser.add_argument("--seconds", type=int, help="the length of each run (default: 2)")
    parser.add_argument(
        "--connections",
        type=int,
        default=8,
        help="the number of clients: 8 keep two cores busy, 2 do not (default: 8)",
    )
    parser.add_argument(
        "--no-peers", action="store_true", help="leave PostGraphile and Mercurius out"
    )
    parser.add_argument(
        "--series", type=int, default=1, help="how many series the record has (default: 1)"
    )
    parser.add_argument(
        "--beside", type=Path, metavar="FOLDER", help="also measure the server of another checkout"
    )
    parser.add_argument(
        "--document", action="store_true", help="write the result into docs/bench.md"
    )
    options = parser.parse_args()
    options.rounds = options.rounds or (3 if options.quick else 6)
    options.seconds = options.seconds or (1 if options.quick else 2)
    if options.series < 1:
        parser.error("--series must be at least 1.")
    if options.beside:
        options.beside = options.beside.absolute()
        # Refused before anything is started.
        server_command(options.beside)
    return options


def measure_all(
    servers: Sequence[BenchServer], postmaster: int, options: argparse.Namespace
) -> dict[BenchCase, list[RunSample]]:
    """Measure every case in every round."""
    cases = {
        BenchCase(query, server.batches, server.name): server
        for query, server in product(QUERIES, servers)
    }
    samples: dict[BenchCase, list[RunSample]] = {case: [] for case in cases}
    # The first run of a case fills caches and prepares statements, so it is not measured.
    report(f"Warming up {len(cases)} cases")
    for case, server in cases.items():
        run_wrk(server, case.query, seconds=options.seconds, connections=options.connections)
    for number in range(1, options.rounds + 1):
        seconds = len(cases) * options.seconds
        report(f"Round {number} of {options.rounds}, {seconds} seconds")
        in_order = list(cases.items())
        # Every other round backwards, so that no server always comes after the same one.
        if number % 2 == 0:
            in_order.reverse()
        for case, server in in_order:
            samples[case].append(
                measure(
                    server,
                    case.query,
                    seconds=options.seconds,
                    connections=options.connections,
                    postmaster=postmaster,
                )
            )
    return samples


def make_result(
    samples: dict[BenchCase, list[RunSample]],
    *,
    long: int,
    why_no_peers: str,
    options: argparse.Namespace,
) -> str:
    """Return the whole result as Markdown."""
    parts = [
        f"{options.rounds} rounds of {options.seconds} s, {options.connections} connections, "
        f"{os.cpu_count()} cores: medians (from..to)."
    ]
    if options.beside:
        this, other = describe_version(HERE.parents[1]), describe_version(options.beside)
        parts.append(f"{OURS} is {this}, {OTHER} is {other}.")
    if options.series > 1:
        beside = f"; that of {OTHER} has one" if options.beside else ""
        parts.append(f"The records have {options.series} series{beside}.")
    parts.append(measured.make_table(samples, OURS))
    if why_no_peers:
        parts.append(f"PostGraphile and Mercurius are left out: {why_no_peers}.")
    if not importlib.util.find_spec("api.cache"):
        parts.append(f"{OURS_CACHED}: not yet.")
    if not options.no_peers:
        parts.append("\n".join(target.line(samples) for target in targets(long)))
    if options.beside:
        parts.append("\n".join(target.line(samples) for target in comparison(long)))
    return "\n\n".join(parts)


def main() -> None:
    """Run everything and print the result."""
    options = _parse_options()
    long = 10 * SHORT if options.quick else 100 * SHORT
    if not shutil.which("wrk"):
        sys.exit("wrk is missing. On Debian: apt-get install wrk")
    # SIGTERM raises SystemExit, so that everything that was started is stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("Stopped."))
    # npm needs the variables that isolate() removes.
    npm_environment = dict(os.environ)
    isolation.isolate()
    node, why_no_peers = "", "--no-peers was given"
    if not options.no_peers:
        node, why_no_peers = install_peers(npm_environment)
    if why_no_peers:
        report(f"The peers are left out: {why_no_peers}.")
    with EmbeddedPostgres(FOLDER, POSTGRES) as postgres, ExitStack() as stack:
        assert postgres.process, "another run of the bench is going on"
        group = ServerGroup(
            stack, postgres, node=node, beside=options.beside, series=options.series
        )
        for batches in (SHORT, long):
            group.start_for(batches)
        # Only servers with the same answers can be compared. Checked again at the end, because a
        # server could begin to fail under load.
        compare_answers(group.servers)
        samples = measure_all(group.servers, postgres.process.pid, options)
        compare_answers(group.servers)
    result = make_result(samples, long=long, why_no_peers=why_no_peers, options=options)
    print(result)
    if options.document:
        write_document(result)


if __name__ == "__main__":
    main()
