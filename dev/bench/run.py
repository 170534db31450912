"""
Our numbers beside those of PostGraphile and Mercurius, on the same database and queries, in one run.

Every round runs wrk against every server in turn, so that what else the machine does hits all alike, and every other
round in the opposite order; the table gives medians over rounds. The records are kept in .alpha-monday/bench (some 3
GB), so that only the first run writes them.

With --beside, the server of another checkout of this project (a worktree in which `make .venv/.ready` has run) is
measured in the same rounds, on the same database: so two versions are compared.
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
from pathlib import Path

import data
import httpx
import measured
from measured import Case, Load, Process, Sample, TailTarget, Target

from app.database.embedded import FAST, EmbeddedPostgres

sys.path.append(str(Path(__file__).parents[1]))
import isolation
from ports import free_port

HERE = Path(__file__).parent
PEERS = HERE / "peers"
FOLDER = HERE.parents[1] / ".alpha-monday" / "bench"
DOCUMENT = HERE.parents[1] / "docs" / "bench.md"
# Nothing but the queries shall work while they are measured.
POSTGRES = {**FAST, "autovacuum": "off", "wal_level": "minimal", "max_wal_senders": "0", "max_wal_size": "1GB"}
NODE_WANTED = (22, 15)
SHORT = 520
# What is promised: how many times the p99 of a peer ours may be, and how many times the cost and the p99 of another
# version (--beside) this one's.
P99_BESIDE_PEERS, COST_BESIDE_OTHER, P99_BESIDE_OTHER = 1.2, 1.1, 1.2
QUERIES = ("latest", "page", "deep page")

OURS, OURS_CACHED, RAW = "Alpha Monday", "Alpha Monday, kept", "raw ASGI, the limit"
OTHER, OTHER_CACHED = "the other Alpha Monday", "the other Alpha Monday, kept"
POSTGRAPHILE, MERCURIUS, MERCURIUS_CACHED = "PostGraphile", "Mercurius", "Mercurius, cached"


@dataclass
class Server:
    """A running server: its process, its address and the files with the requests it is asked."""

    name: str
    batches: int
    pid: int
    url: str
    requests: dict[str, Path] = field(default_factory=dict)

    def address(self, query: str) -> str:
        """Return where a query is posted."""
        return f"{self.url}/{query.replace(' ', '-')}" if self.name == RAW else f"{self.url}/graphql"

    def answer(self, query: str) -> object:
        """Ask once, and return what comes."""
        content = self.requests[query].read_bytes()
        answer = httpx.post(
            self.address(query), content=content, headers={"Content-Type": "application/json"}, timeout=60
        )
        said = answer.raise_for_status().json()
        if "errors" in said:
            raise SystemExit(f"{self.name} answers {query} with {said['errors']}")
        return said


def tell(line: str) -> None:
    """Say on the terminal what goes on."""
    print(f"[{time.strftime('%H:%M:%S')}] {line}", file=sys.stderr, flush=True)


def node(surroundings: dict[str, str]) -> tuple[str, str]:
    """
    Install the peers; return the path of a Node that runs them, or nothing and why not.

    npm finds its settings and its way to the network in `surroundings`.
    """
    if not shutil.which("npm"):
        return "", "npm is missing. On Debian: apt-get install npm"
    lock, installed = PEERS / "package-lock.json", PEERS / "node_modules" / ".package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
        tell("Installing the peers (once)")
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        if subprocess.run(command, cwd=PEERS, stdout=sys.stderr, env=surroundings).returncode:
            return "", "npm could not install them, see above"
        installed.touch()
    for path in [*map(str, PEERS.glob("node_modules/node-linux-*/bin/node")), shutil.which("node") or ""]:
        version = subprocess.run([path, "--version"], capture_output=True, text=True).stdout if path else ""
        if tuple(int(part) for part in version.strip("v\n").split(".")[:2] if part) >= NODE_WANTED:
            return path, ""
    return "", f"Node {'.'.join(map(str, NODE_WANTED))} or newer is needed"


@contextmanager
def running(name: str, batches: int, command: Sequence[str], environment: dict[str, str]) -> Iterator[Server]:
    """Start a server on a free port and end it again."""
    port = free_port()
    arguments = [part.replace("PORT", str(port)) for part in command]
    log = (FOLDER / f"{name}-{batches}.log").open("w")
    process = subprocess.Popen(arguments, env={**os.environ, **environment, "PORT": str(port)}, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.1)
        else:
            raise SystemExit(f"{name} does not start; {log.name} says why.")
        yield Server(name, batches, process.pid, f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()


def server_of(checkout: Path) -> list[str]:
    """Return the command that starts the server of a checkout, with the checkout's own Python and packages."""
    python, program = checkout / ".venv" / "bin" / "python", checkout / "dev" / "bench" / "serve.py"
    for path, advice in ((program, "name a checkout of Alpha Monday"), (python, "run `make .venv/.ready` in it first")):
        if not path.exists():
            raise SystemExit(f"--beside {checkout}: {path.relative_to(checkout)} is missing; {advice}.")
    return [str(python), str(program), "--port", "PORT"]


def version_of(checkout: Path) -> str:
    """Return the commit of a checkout, and whether files differ from it."""
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--exclude=*"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() or "no commit"


def started(
    stack: ExitStack, postgres: EmbeddedPostgres, sizes: Sequence[int], node: str, beside: Path | None
) -> list[Server]:
    """Start everything, each with the requests that it is asked."""
    requests = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="am-bench-")))
    python = [sys.executable, str(HERE / "serve.py"), "--port", "PORT"]
    other = server_of(beside) if beside else []
    servers = []

    def start(name: str, batches: int, command: Sequence[str], **environment: str) -> Server:
        server = stack.enter_context(running(name, batches, command, environment))
        servers.append(server)
        for query in QUERIES:
            server.requests[query] = requests / f"{name}-{batches}-{query}.json"
            server.requests[query].write_text(json.dumps(request(server, query)))
        return server

    for batches in sizes:
        address = data.database(postgres, batches, tell)
        url = f"postgresql:///{address.split('dbname=')[1].split()[0]}?host={postgres.socket}&user=postgres"
        ours = start(OURS, batches, [*python, "--uncached"], DATABASE_URL=url)
        if other:
            start(OTHER, batches, [*other, "--uncached"], DATABASE_URL=url)
        environment = {"DATABASE": url, "NODE_ENV": "production", "GRAPHILE_ENV": "production"}
        if node:
            start(POSTGRAPHILE, batches, [node, str(PEERS / "postgraphile.js")], **environment)
            start(MERCURIUS, batches, [node, str(PEERS / "mercurius.js")], **environment)
        if batches > SHORT:  # what is kept does not hang on how much there is
            continue
        if importlib.util.find_spec("api.cache"):
            start(OURS_CACHED, batches, python, DATABASE_URL=url)
        if other:
            start(OTHER_CACHED, batches, other, DATABASE_URL=url)
        if node:
            start(MERCURIUS_CACHED, batches, [node, str(PEERS / "mercurius.js")], **environment, CACHE="true")
        asked = [f"{query.replace(' ', '-')}={ours.address(query)},{ours.requests[query]}" for query in QUERIES]
        start(RAW, batches, [sys.executable, str(HERE / "raw.py"), "--port", "PORT", *asked])
    return servers


def request(server: Server, query: str) -> dict[str, object]:
    """Return what a server is asked."""
    file = f"{'postgraphile-' if server.name == POSTGRAPHILE else ''}{query.split()[-1]}.graphql"
    variables = {"after": middle(server)} if query == "deep page" else {}
    return {"query": (HERE / "queries" / file).read_text(), "variables": variables}


def middle(server: Server) -> str:
    """Return the cursor of the Monday in the middle of the record. (PostGraphile's only it can write.)"""
    back = server.batches // 2
    if server.name != POSTGRAPHILE:
        return b64encode(f"{date.fromisoformat(data.NEWEST) - timedelta(weeks=back)}".encode()).decode()
    document = (
        '{ allBatches(condition: { series: "main" }, orderBy: RUN_DATE_DESC, first: 1, offset: %d)'
        " { pageInfo { endCursor } } }"
    )
    answer = httpx.post(server.address(""), json={"query": document % back}, timeout=60).raise_for_status().json()
    return answer["data"]["allBatches"]["pageInfo"]["endCursor"]


def compare(servers: Sequence[Server]) -> None:
    """Refuse to go on unless all servers hold the same values in their answers."""
    for query in QUERIES:
        for batches in {server.batches for server in servers}:
            found = {s.name: measured.values(s.answer(query)) for s in servers if s.batches == batches}
            if len(set(found.values())) != 1:
                raise SystemExit(f"The answers to {query} with {batches} batches differ: {found}")
            count, checksum = found[OURS]
            tell(f"{query}, {batches:,} batches: the same {count} values ({checksum}) from {'; '.join(found)}")


def processes() -> list[Process]:
    """Return what the kernel knows of all processes."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            found.append(measured.process(path.read_text()))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def memory(pid: int) -> float:
    """Return the resident memory of a process and all below it, in MB."""
    pages = sum(int(Path(f"/proc/{one.pid}/statm").read_text().split()[1]) for one in measured.tree(processes(), pid))
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def wrk(server: Server, query: str, seconds: int, connections: int) -> Load:
    """Ask a query for so many seconds."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "20s", "--latency"]
    command += ["-s", str(HERE / "post.lua"), server.address(query)]
    environment = {**os.environ, "BODY": str(server.requests[query])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    return measured.load(done.stdout)


def sample(server: Server, query: str, seconds: int, connections: int, postmaster: int) -> Sample:
    """Measure one run."""
    before = processes()
    load = wrk(server, query, seconds, connections)
    after = processes()
    if load.failed:
        raise SystemExit(f"{server.name} failed {load.failed} of {load.requests} requests of {query}")
    spent = [
        (measured.ticks(after, pid) - measured.ticks(before, pid)) * measured.TICK / load.requests
        for pid in (server.pid, postmaster)
    ]
    return Sample(load, *spent, memory(server.pid))


def targets(long: int) -> Iterator[Target | TailTarget]:
    """Give what the README and docs/bench.md promise."""
    latest, page = QUERIES[:2]
    for query, batches, times in ((latest, SHORT, 2.0), (page, SHORT, 1.7), (latest, long, 2.0), (page, long, 1.7)):
        ours = Case(query, batches, OURS)
        yield Target(
            f"{query}, {batches:,}: PostGraphile's cost beside ours", ours, Case(query, batches, POSTGRAPHILE), times
        )
        yield Target(f"{query}, {batches:,}: Mercurius's cost beside ours", ours, Case(query, batches, MERCURIUS), 1.3)
    for query in QUERIES:
        ours = Case(query, SHORT, OURS_CACHED)
        yield Target(f"{query}, kept: beside the limit", Case(query, SHORT, RAW), ours, 1.5, at_least=False)
        yield Target(f"{query}, kept: Mercurius's cache beside ours", ours, Case(query, SHORT, MERCURIUS_CACHED), 1.0)
    for query in QUERIES:
        short, far = Case(query, SHORT, OURS), Case(query, long, OURS)
        yield Target(f"{query}: {long:,} batches beside {SHORT}", short, far, 1.2, at_least=False)
    for query in QUERIES:
        for batches in (SHORT, long):
            for peer in (POSTGRAPHILE, MERCURIUS):
                ours, theirs = Case(query, batches, OURS), Case(query, batches, peer)
                yield TailTarget(f"{query}, {batches:,}: p99 beside {peer}'s", ours, theirs, P99_BESIDE_PEERS)
        ours, theirs = Case(query, SHORT, OURS_CACHED), Case(query, SHORT, MERCURIUS_CACHED)
        yield TailTarget(f"{query}, kept: p99 beside {MERCURIUS}'s cache", ours, theirs, P99_BESIDE_PEERS)


def comparison(long: int) -> Iterator[Target | TailTarget]:
    """Give what is expected of this version beside another one: about the same cost, and the same p99."""
    for query in QUERIES:
        for batches, name, other in ((SHORT, OURS, OTHER), (long, OURS, OTHER), (SHORT, OURS_CACHED, OTHER_CACHED)):
            ours, before = Case(query, batches, name), Case(query, batches, other)
            says = f"{query}, {batches:,}: {name}"
            yield Target(f"{says}: cost beside the other's", before, ours, COST_BESIDE_OTHER, at_least=False)
            yield TailTarget(f"{says}: p99 beside the other's", ours, before, P99_BESIDE_OTHER)


def document(text: str) -> None:
    """Write what was measured into docs/bench.md, in place of what stands there after the introduction."""
    introduction = re.split(r"^\d+ rounds of ", DOCUMENT.read_text(), maxsplit=1, flags=re.MULTILINE)[0]
    DOCUMENT.write_text(f"{introduction}{text}\n")


def main() -> None:
    """Run it and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Examples:\n  make bench\n  make bench ARGS=--quick\n"
        '  make bench ARGS="--rounds 12"\n'
        '  make bench ARGS="--no-peers --beside ../before"',
    )
    parser.add_argument("--quick", action="store_true", help="three short rounds with 520 and 5,200 batches")
    parser.add_argument("--rounds", type=int, help="how often every server is measured (default: 6)")
    parser.add_argument("--seconds", type=int, help="how long each time (default: 2)")
    parser.add_argument(
        "--connections", type=int, default=8, help="how many ask at once: 8 keep two cores busy, 2 do not (default: 8)"
    )
    parser.add_argument("--no-peers", action="store_true", help="leave PostGraphile and Mercurius out")
    parser.add_argument("--beside", type=Path, metavar="FOLDER", help="also measure the server of another checkout")
    parser.add_argument("--document", action="store_true", help="write the result into docs/bench.md")
    asked = parser.parse_args()
    if asked.beside:
        asked.beside = asked.beside.absolute()
        server_of(asked.beside)
    rounds, seconds = asked.rounds or (3 if asked.quick else 6), asked.seconds or (1 if asked.quick else 2)
    long = 10 * SHORT if asked.quick else 100 * SHORT
    if not shutil.which("wrk"):
        sys.exit("wrk is missing. On Debian: apt-get install wrk")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("Stopped."))
    surroundings = dict(os.environ)
    isolation.isolate()
    path, why_not = ("", "--no-peers was given") if asked.no_peers else node(surroundings)
    if why_not:
        tell(f"The peers are left out: {why_not}.")
    with EmbeddedPostgres(FOLDER, POSTGRES) as postgres, ExitStack() as stack:
        assert postgres.process, "another run of the bench is going on"
        servers = started(stack, postgres, (SHORT, long), path, asked.beside)
        compare(servers)
        cases = {Case(query, s.batches, s.name): s for query in QUERIES for s in servers}
        samples: dict[Case, list[Sample]] = {case: [] for case in cases}
        tell(f"Warming up {len(cases)} cases")
        for case, server in cases.items():
            wrk(server, case.query, seconds, asked.connections)
        for number in range(1, rounds + 1):
            tell(f"Round {number} of {rounds}, {len(cases) * seconds} seconds")
            # Every other round backwards, so that no server always follows the same one.
            in_order = list(cases.items())[:: 1 if number % 2 else -1]
            for case, server in in_order:
                samples[case].append(sample(server, case.query, seconds, asked.connections, postgres.process.pid))
        compare(servers)
    how = f"{rounds} rounds of {seconds} s, {asked.connections} connections, {os.cpu_count()} cores"
    parts = [f"{how}: medians (from..to)."]
    if asked.beside:
        checkout = HERE.parents[1]
        parts.append(f"{OURS} is {version_of(checkout)}, {OTHER} is {version_of(asked.beside)}.")
    parts.append(measured.table(samples, OURS))
    if why_not:
        parts.append(f"PostGraphile and Mercurius are left out: {why_not}.")
    if not importlib.util.find_spec("api.cache"):
        parts.append(f"{OURS_CACHED}: not yet.")
    if not asked.no_peers:
        parts.append("\n".join(target.line(samples) for target in targets(long)))
    if asked.beside:
        parts.append("\n".join(target.line(samples) for target in comparison(long)))
    told = "\n\n".join(parts)
    print(told)
    if asked.document:
        document(told)


if __name__ == "__main__":
    main()
