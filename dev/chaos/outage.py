"""
Outages: how soon the service works again after its Postgres is back.

Each case has its own Postgres and its own service (`alpha-monday serve`, with its worker). Postgres
is taken away for a given time and comes back. From that moment on the API and `/health` are
requested several times a second, and a job waits in the queue. The table shows after how many
seconds each of the three works again without a further failure.

Kinds of outage:
  stopped  Postgres is shut down: connections end, new ones are refused
  frozen   Postgres is suspended (SIGSTOP): connections stay open without an answer, and new ones
           are accepted

    python dev/chaos/outage.py --seconds 20 75 150 400
"""

import argparse
import asyncio
import json
import os
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count, product
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psycopg
from psycopg.conninfo import make_conninfo

from app.database import migrations
from app.database.embedded import FAST_SETTINGS, EmbeddedPostgres
from app.database.sessions import Session
from jobs.context import RealClock

sys.path.append(str(Path(__file__).parents[1]))
import isolation
from ports import free_port

PROJECT = Path(__file__).parents[2]
SERVICE = Path(sys.executable).with_name("alpha-monday")
STOPPED, FROZEN = "stopped", "frozen"
IDLE, LOAD = "idle", "load"

# In seconds: the interval between two probes of a part once Postgres is back, and between two
# requests of the client that makes the load.
PROBE_INTERVAL = 0.25
LOAD_INTERVAL = 0.2

# In seconds: a part is back when it has worked for this long without a failure, and the case ends
# after the longest wait all the same.
STEADY = 10.0
MAX_WAIT = 600.0

_DEFER_JOB = (
    "INSERT INTO queue.procrastinate_jobs (queue_name, task_name, args) "
    "VALUES ('default', 'send_alert', %s) RETURNING id"
)
_numbers = count()


@dataclass
class ServicePart:
    """
    One part of the service after the return of Postgres.

    `back_after` is since when it works, in seconds after the return; None while it does not.
    """

    back_after: float | None = None
    probed_until: float = 0.0

    def record(self, seconds: float, is_working: bool) -> None:
        """Record a probe, `seconds` after the return of Postgres."""
        self.probed_until = seconds
        if not is_working:
            self.back_after = None
        elif self.back_after is None:
            self.back_after = seconds

    @property
    def is_steady(self) -> bool:
        """Return whether it has worked for long enough."""
        return self.back_after is not None and self.probed_until - self.back_after >= STEADY

    def __str__(self) -> str:
        return "never" if self.back_after is None else f"{self.back_after:.1f}"


@dataclass
class OutageCase:
    """
    One outage and its measurements.

    `noticed_after` is when `/health` reported the outage, in seconds; it is measured under load
    only. `log_lines` has the number of lines of the service's log by level.
    """

    seconds: float
    kind: str
    load: str
    parts: dict[str, ServicePart] = field(
        default_factory=lambda: {name: ServicePart() for name in ("api", "health", "worker")}
    )
    noticed_after: float | None = None
    log_lines: Counter[str] = field(default_factory=Counter)

    @property
    def name(self) -> str:
        """Return the case's name in its folder and in the progress."""
        return f"{self.kind}-{self.seconds:g}s-{self.load}"


class OutageInstallation:
    """The Postgres and the service of one case."""

    def __init__(self, folder: Path, program: Path) -> None:
        self.folder = folder
        self.program = program
        port = str(free_port())
        settings = {
            **FAST_SETTINGS,
            "listen_addresses": "127.0.0.1",
            "port": port,
            "log_min_messages": "fatal",
        }
        self.postgres = EmbeddedPostgres(folder / "postgres", settings)
        self.address = make_conninfo(host="127.0.0.1", port=port, user="postgres", dbname="outage")
        self.log = folder / "service.log"
        self.process: asyncio.subprocess.Process | None = None
        self.url = ""

    async def start(self) -> None:
        """Start both, and return when the service listens."""
        await asyncio.to_thread(self.postgres.start)
        await asyncio.to_thread(self.postgres.ensure_database, "outage")
        await migrations.migrate(self.address, RealClock().now())
        # Nothing listens on port 1, so the jobs of today get no answer from any provider.
        providers = {
            "OPENAI_BASE_URL": "http://127.0.0.1:1/v1",
            "ALPHA_VANTAGE_BASE_URL": "http://127.0.0.1:1",
            "OPENAI_API_KEY": "nobodys",
            "ALPHA_VANTAGE_API_KEY": "nobodys",
        }
        with self.log.open("wb") as output:
            self.process = await asyncio.create_subprocess_exec(
                self.program,
                "serve",
                cwd=self.folder,
                env={**os.environ, "DATABASE_URL": self.address, "PORT": "0", **providers},
                stdout=output,
                stderr=output,
            )
        # The service prints its address when it listens, with the port that it was given.
        prefix = "Serving GraphQL at "
        while prefix not in self.log.read_text():
            await asyncio.sleep(0.1)
            if self.process.returncode is not None:
                raise SystemExit(f"The service did not start: {self.log.read_text()}")
        lines = self.log.read_text().splitlines()
        line = next(line for line in lines if line.startswith(prefix))
        self.url = line.removeprefix(prefix).split("/graphql")[0]

    async def take_postgres_away(self, kind: str) -> None:
        """Begin an outage of Postgres."""
        if kind == STOPPED:
            await asyncio.to_thread(self.postgres.stop)
        else:
            self._signal_postgres(signal.SIGSTOP)

    async def bring_postgres_back(self, kind: str) -> None:
        """End an outage of Postgres."""
        if kind == STOPPED:
            await asyncio.to_thread(self.postgres.start)
        else:
            self._signal_postgres(signal.SIGCONT)

    def _signal_postgres(self, number: signal.Signals) -> None:
        """Send a signal to the server and to all of its children."""
        assert self.postgres.process
        pid = self.postgres.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for each in (pid, *map(int, children)):
            with suppress(ProcessLookupError):
                os.kill(each, number)

    async def stop(self) -> None:
        """Stop both."""
        if self.process and self.process.returncode is None:
            self.process.terminate()
            try:
                await asyncio.wait_for(self.process.wait(), 40)
            except TimeoutError:
                self.process.kill()
                await self.process.wait()
        # A suspended server could not be stopped.
        with suppress(OSError, AssertionError):
            self._signal_postgres(signal.SIGCONT)
        await asyncio.to_thread(self.postgres.stop)

    def count_log_lines(self, start: int) -> Counter[str]:
        """Return the number of log lines by level, from byte `start` on."""
        levels: Counter[str] = Counter()
        for line in self.log.read_bytes()[start:].decode().splitlines():
            # Lines that are no JSON do not count.
            with suppress(ValueError, KeyError, TypeError):
                levels[json.loads(line)["level"]] += 1
        return levels


async def is_api_working(client: httpx.AsyncClient) -> bool:
    """Return whether the API answers a query that is in no cache."""
    query = f"{{ q{next(_numbers)}: latestBatch {{ id }} }}"
    return await _is_200(client.post("/graphql", json={"query": query}))


async def is_healthy(client: httpx.AsyncClient) -> bool:
    """Return whether `/health` answers 200."""
    return await _is_200(client.get("/health"))


async def _is_200(response: Awaitable[httpx.Response]) -> bool:
    try:
        return (await response).status_code == 200
    except httpx.HTTPError:
        return False


async def is_worker_working(installation: OutageInstallation) -> bool:
    """Defer a job without any work; return whether it has succeeded within five seconds."""
    arguments = json.dumps({"alert": str(uuid4())})
    try:
        async with await Session.connect(
            installation.address, name="outage", autocommit=True
        ) as conn:
            cursor = await conn.execute(_DEFER_JOB, (arguments,))
            row: Any = await cursor.fetchone()
            for _ in range(50):
                cursor = await conn.execute(
                    "SELECT status::text FROM queue.procrastinate_jobs WHERE id = %s", row
                )
                if await cursor.fetchone() == ("succeeded",):
                    return True
                await asyncio.sleep(0.1)
    except psycopg.Error:
        pass
    return False


async def probe(
    part: ServicePart,
    *,
    is_working: Callable[[], Awaitable[bool]],
    start: float,
    is_over: Callable[[], bool],
) -> None:
    """Probe a part of the service again and again until the case is over."""
    while not is_over():
        result = await is_working()
        part.record(time.monotonic() - start, result)
        await asyncio.sleep(PROBE_INTERVAL)


async def make_load(client: httpx.AsyncClient) -> None:
    """Send requests several times a second, whether they are answered or not, until cancelled."""
    open_requests: set[asyncio.Task[bool]] = set()
    try:
        while True:
            task = asyncio.create_task(is_api_working(client))
            open_requests.add(task)
            task.add_done_callback(open_requests.discard)
            await asyncio.sleep(LOAD_INTERVAL)
    finally:
        for task in open_requests:
            task.cancel()


async def run_case(
    case: OutageCase, installation: OutageInstallation, report: Callable[[str], None]
) -> None:
    """Run one outage, and write its measurements into `case`."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=installation.url, timeout=15, limits=limits) as client:
        while not (await is_healthy(client) and await is_worker_working(installation)):
            await asyncio.sleep(0.2)
        load: asyncio.Task[None] | None = None
        if case.load == LOAD:
            load = asyncio.create_task(make_load(client))
        # Some seconds of ordinary operation before the outage.
        await asyncio.sleep(3)
        log_start = installation.log.stat().st_size
        await _pass_outage(case, installation, client, report=report)
        await _probe_until_steady(case, installation, client)
        case.log_lines = installation.count_log_lines(log_start)
        if load:
            load.cancel()
            await asyncio.wait([load])
    results = ", ".join(f"{part} ({name})" for name, part in case.parts.items())
    report(f"{case.name}: back after {results} s")


async def _pass_outage(
    case: OutageCase,
    installation: OutageInstallation,
    client: httpx.AsyncClient,
    *,
    report: Callable[[str], None],
) -> None:
    """Take Postgres away for the seconds of the case."""
    await installation.take_postgres_away(case.kind)
    start = time.monotonic()
    report(f"{case.name}: Postgres is away")
    if case.load == LOAD:
        while await is_healthy(client):
            await asyncio.sleep(PROBE_INTERVAL)
        case.noticed_after = time.monotonic() - start
    await asyncio.sleep(max(0.0, start + case.seconds - time.monotonic()))
    await installation.bring_postgres_back(case.kind)


async def _probe_until_steady(
    case: OutageCase, installation: OutageInstallation, client: httpx.AsyncClient
) -> None:
    """Probe all parts until all of them are steady, or for MAX_WAIT at most."""
    start = time.monotonic()

    def is_over() -> bool:
        are_steady = all(part.is_steady for part in case.parts.values())
        return are_steady or time.monotonic() - start > MAX_WAIT

    probes: dict[str, Callable[[], Awaitable[bool]]] = {
        "api": lambda: is_api_working(client),
        "health": lambda: is_healthy(client),
        "worker": lambda: is_worker_working(installation),
    }
    await asyncio.gather(
        *(
            probe(case.parts[name], is_working=is_working, start=start, is_over=is_over)
            for name, is_working in probes.items()
        )
    )


async def run_cases(cases: list[OutageCase], *, folder: Path, program: Path, parallel: int) -> None:
    """Run all outages, `parallel` at a time, the longest first."""
    start, slots = time.monotonic(), asyncio.Semaphore(parallel)

    def report(line: str) -> None:
        print(f"{time.monotonic() - start:5.0f} s  {line}", file=sys.stderr, flush=True)

    async def run_one(case: OutageCase) -> None:
        async with slots:
            (folder / case.name).mkdir(parents=True)
            installation = OutageInstallation(folder / case.name, program)
            try:
                await installation.start()
                await run_case(case, installation, report)
            finally:
                await installation.stop()

    # The longest cases decide the total time, so they start first.
    longest_first = sorted(cases, key=lambda case: -case.seconds)
    await asyncio.gather(*map(run_one, longest_first))


def make_table(cases: list[OutageCase]) -> str:
    """
    Return the measurements as text.

    Times are seconds after the return of Postgres; log lines are those of the whole outage.
    """
    rows = [
        f"{'outage':>8}  {'kind':8} {'load':5} {'noticed':>8} {'API':>7} {'/health':>8} "
        f"{'worker':>7}  log lines"
    ]
    for case in cases:
        noticed = "" if case.noticed_after is None else f"{case.noticed_after:.1f}"
        api, health, worker = map(str, case.parts.values())
        lines = ", ".join(f"{number} {level}" for level, number in sorted(case.log_lines.items()))
        rows.append(
            f"{case.seconds:>6g} s  {case.kind:8} {case.load:5} {noticed:>8} {api:>7} {health:>8} "
            f"{worker:>7}  {lines or 'none'}"
        )
    return "\n".join(rows)


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        prog="python dev/chaos/outage.py",
    )
    parser.add_argument(
        "--seconds", type=float, nargs="+", default=[20], help="how long Postgres is away (20)"
    )
    parser.add_argument(
        "--kind",
        nargs="+",
        choices=(STOPPED, FROZEN),
        default=[STOPPED, FROZEN],
        help="the kind of outage (both)",
    )
    parser.add_argument(
        "--load",
        nargs="+",
        choices=(IDLE, LOAD),
        default=[IDLE, LOAD],
        help="without or with requests of a client (both)",
    )
    parser.add_argument(
        "--parallel", type=int, default=4, help="the number of cases that run at a time (4)"
    )
    parser.add_argument(
        "--within", type=float, default=10.0, help="seconds within which all parts must work (10)"
    )
    parser.add_argument(
        "--service", type=Path, default=SERVICE, help="the alpha-monday to measure (this one)"
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=PROJECT / ".alpha-monday" / "outage",
        help="the folder for logs",
    )
    return parser.parse_args()


def _is_late(case: OutageCase, limit: float) -> bool:
    """Return whether a part of the service was not back within `limit` seconds."""
    return any(part.back_after is None or part.back_after > limit for part in case.parts.values())


def main() -> int:
    """Run from the command line; return 0 if every part was back within the given bound."""
    options = _parse_options()
    # Every process that is started here inherits this environment.
    isolation.isolate()
    shutil.rmtree(options.folder, ignore_errors=True)
    options.folder.mkdir(parents=True)
    cases = [
        OutageCase(seconds, kind, load)
        for seconds, kind, load in product(options.seconds, options.kind, options.load)
    ]
    asyncio.run(
        run_cases(
            cases,
            folder=options.folder.resolve(),
            program=options.service.absolute(),
            parallel=options.parallel,
        )
    )
    print(make_table(cases))
    late = [case.name for case in cases if _is_late(case, options.within)]
    if late:
        print(f"Not back within {options.within:g} s: {', '.join(late)}. Logs: {options.folder}")
    return 1 if late else 0


if __name__ == "__main__":
    sys.exit(main())
