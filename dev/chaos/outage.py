"""
Outages: for how long the service stays away after its Postgres is back.

Each case has a Postgres and a service of its own (`alpha-monday serve`, with its worker). Postgres is taken away for a
given time and comes back; from that moment on the API and `/health` are asked several times a second, and a job waits
in the queue. The table says how many seconds after the return each of the three works again, for good.

Kinds of outage:
  stopped  Postgres is shut down: connections end, new ones are refused
  frozen   Postgres stands still (SIGSTOP): connections stay open and nothing answers, new ones are accepted

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
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psycopg
from psycopg.conninfo import make_conninfo

from app.database import migrations
from app.database.embedded import FAST, EmbeddedPostgres
from app.database.sessions import Session
from jobs.context import RealClock

sys.path.append(str(Path(__file__).parents[1]))
import isolation
from ports import free_port

HOUSE = Path(__file__).parents[2]
SERVICE = Path(sys.executable).with_name("alpha-monday")
STOPPED, FROZEN = "stopped", "frozen"
IDLE, LOAD = "idle", "load"

# How often each part is asked once Postgres is back, and how often a client asks under load: seconds.
PROBE = 0.25
REQUEST = 0.2

# A part counts as back when it has worked for so long without a failure; it is waited for no longer than that.
STEADY = 10.0
LONGEST = 600.0

_JOB = "INSERT INTO queue.procrastinate_jobs (queue_name, task_name, args) VALUES ('default', 'send_alert', %s) "
_numbers = count()


@dataclass
class Part:
    """One part of the service, as it was seen after the return of Postgres."""

    back: float | None = None
    seen_until: float = 0.0

    def see(self, at: float, works: bool) -> None:
        """Remember what was seen `at` so many seconds after the return."""
        self.seen_until = at
        if not works:
            self.back = None
        elif self.back is None:
            self.back = at

    @property
    def is_steady(self) -> bool:
        """Return whether it has worked for long enough."""
        return self.back is not None and self.seen_until - self.back >= STEADY

    def __str__(self) -> str:
        return "never" if self.back is None else f"{self.back:.1f}"


@dataclass
class Case:
    """One outage, and what came of it."""

    seconds: float
    kind: str
    load: str
    parts: dict[str, Part] = field(default_factory=lambda: {name: Part() for name in ("api", "health", "worker")})
    noticed: float | None = None
    lines: Counter[str] = field(default_factory=Counter)

    @property
    def name(self) -> str:
        """Return what the case is called in its folder and in the progress."""
        return f"{self.kind}-{self.seconds:g}s-{self.load}"


class House:
    """A Postgres and a service of one case."""

    def __init__(self, folder: Path, service: Path) -> None:
        self.folder, self.service = folder, service
        port = str(free_port())
        settings = {**FAST, "listen_addresses": "127.0.0.1", "port": port, "log_min_messages": "fatal"}
        self.postgres = EmbeddedPostgres(folder / "postgres", settings)
        self.address = make_conninfo(host="127.0.0.1", port=port, user="postgres", dbname="outage")
        self.log = folder / "service.log"
        self.process: asyncio.subprocess.Process | None = None
        self.url = ""

    async def start(self) -> None:
        """Start both; return when the service is well."""
        await asyncio.to_thread(self.postgres.start)
        await asyncio.to_thread(self.postgres.database, "outage")
        await migrations.migrate(self.address, RealClock().now())
        # Nothing listens on port 1: whatever the jobs of today want to ask, no provider answers.
        providers = {"OPENAI_BASE_URL": "http://127.0.0.1:1/v1", "ALPHA_VANTAGE_BASE_URL": "http://127.0.0.1:1"}
        keys = {"OPENAI_API_KEY": "nobodys", "ALPHA_VANTAGE_API_KEY": "nobodys"}
        with self.log.open("wb") as output:
            self.process = await asyncio.create_subprocess_exec(
                self.service,
                "serve",
                cwd=self.folder,
                env={**os.environ, "DATABASE_URL": self.address, "PORT": "0", **providers, **keys},
                stdout=output,
                stderr=output,
            )
        said = "Serving GraphQL at "
        while said not in self.log.read_text():
            await asyncio.sleep(0.1)
            if self.process.returncode is not None:
                raise SystemExit(f"The service did not start: {self.log.read_text()}")
        line = next(line for line in self.log.read_text().splitlines() if line.startswith(said))
        self.url = line.removeprefix(said).split("/graphql")[0]

    async def take_away(self, kind: str) -> None:
        """Take Postgres away."""
        if kind == STOPPED:
            await asyncio.to_thread(self.postgres.stop)
        else:
            self._signal(signal.SIGSTOP)

    async def bring_back(self, kind: str) -> None:
        """Bring Postgres back."""
        if kind == STOPPED:
            await asyncio.to_thread(self.postgres.start)
        else:
            self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        """Send a signal to the server and all of its children."""
        assert self.postgres.process
        pid = self.postgres.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for each in (pid, *map(int, children)):
            with suppress(ProcessLookupError):
                os.kill(each, number)

    async def end(self) -> None:
        """End both."""
        if self.process and self.process.returncode is None:
            self.process.terminate()
            try:
                await asyncio.wait_for(self.process.wait(), 40)
            except TimeoutError:
                self.process.kill()
                await self.process.wait()
        with suppress(OSError, AssertionError):
            self._signal(signal.SIGCONT)
        await asyncio.to_thread(self.postgres.stop)

    def lines_since(self, start: int) -> Counter[str]:
        """Return how many lines of the log there are by level, from byte `start` on."""
        levels: Counter[str] = Counter()
        for line in self.log.read_bytes()[start:].decode().splitlines():
            with suppress(ValueError, KeyError, TypeError):
                levels[json.loads(line)["level"]] += 1
        return levels


async def api_answers(client: httpx.AsyncClient) -> bool:
    """Return whether the API answers a query that no cache has."""
    return await _is_200(client.post("/graphql", json={"query": f"{{ q{next(_numbers)}: latestBatch {{ id }} }}"}))


async def is_well(client: httpx.AsyncClient) -> bool:
    """Return whether `/health` says that all is well."""
    return await _is_200(client.get("/health"))


async def _is_200(asked: Awaitable[httpx.Response]) -> bool:
    try:
        return (await asked).status_code == 200
    except httpx.HTTPError:
        return False


async def a_job_is_done(house: House) -> bool:
    """Defer a job that has nothing to do; return whether a worker has done it within five seconds."""
    try:
        async with await Session.connect(house.address, name="outage", autocommit=True) as conn:
            cursor = await conn.execute(_JOB + "RETURNING id", (json.dumps({"alert": str(uuid4())}),))
            found: Any = await cursor.fetchone()
            for _ in range(50):
                cursor = await conn.execute("SELECT status::text FROM queue.procrastinate_jobs WHERE id = %s", found)
                if await cursor.fetchone() == ("succeeded",):
                    return True
                await asyncio.sleep(0.1)
    except psycopg.Error:
        pass
    return False


async def watched(part: Part, ask: Callable[[], Awaitable[bool]], began: float, over: Callable[[], bool]) -> None:
    """Ask a part of the service again and again, until all parts are steady."""
    while not over():
        works = await ask()
        part.see(time.monotonic() - began, works)
        await asyncio.sleep(PROBE)


async def used(client: httpx.AsyncClient) -> None:
    """Be a client that asks some times a second, whether it is answered or not."""
    asking: set[asyncio.Task[bool]] = set()
    try:
        while True:
            task = asyncio.create_task(api_answers(client))
            asking.add(task)
            task.add_done_callback(asking.discard)
            await asyncio.sleep(REQUEST)
    finally:
        for task in asking:
            task.cancel()


async def lived(case: Case, house: House, say: Callable[[str], None]) -> None:
    """Live through one outage."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=house.url, timeout=15, limits=limits) as client:
        while not (await is_well(client) and await a_job_is_done(house)):
            await asyncio.sleep(0.2)
        using = asyncio.create_task(used(client)) if case.load == LOAD else None
        await asyncio.sleep(3)
        start = house.log.stat().st_size
        await house.take_away(case.kind)
        gone = time.monotonic()
        say(f"{case.name}: Postgres is away")
        if case.load == LOAD:
            while await is_well(client):
                await asyncio.sleep(PROBE)
            case.noticed = time.monotonic() - gone
        await asyncio.sleep(max(0.0, gone + case.seconds - time.monotonic()))
        await house.bring_back(case.kind)
        began = time.monotonic()
        say(f"{case.name}: Postgres is back")
        api, health, worker = case.parts["api"], case.parts["health"], case.parts["worker"]

        def over() -> bool:
            return all(part.is_steady for part in case.parts.values()) or time.monotonic() - began > LONGEST

        await asyncio.gather(
            watched(api, lambda: api_answers(client), began, over),
            watched(health, lambda: is_well(client), began, over),
            watched(worker, lambda: a_job_is_done(house), began, over),
        )
        case.lines = house.lines_since(start)
        if using:
            using.cancel()
            await asyncio.wait([using])
    say(f"{case.name}: back after {', '.join(f'{part} ({name})' for name, part in case.parts.items())} s")


async def run(cases: list[Case], folder: Path, service: Path, parallel: int) -> None:
    """Live through all outages, some at a time, the longest first."""
    began, slots = time.monotonic(), asyncio.Semaphore(parallel)

    def say(what: str) -> None:
        print(f"{time.monotonic() - began:5.0f} s  {what}", file=sys.stderr, flush=True)

    async def one(case: Case) -> None:
        async with slots:
            (folder / case.name).mkdir(parents=True)
            house = House(folder / case.name, service)
            try:
                await house.start()
                await lived(case, house, say)
            finally:
                await house.end()

    await asyncio.gather(*(one(case) for case in sorted(cases, key=lambda case: -case.seconds)))


def table(cases: list[Case]) -> str:
    """Return what was measured: seconds after the return of Postgres, and lines of the log of the whole outage."""
    head = f"{'outage':>8}  {'kind':8} {'load':5} {'noticed':>8} {'API':>7} {'/health':>8} {'worker':>7}  log lines"
    rows = [head]
    for case in cases:
        noticed = "" if case.noticed is None else f"{case.noticed:.1f}"
        api, health, worker = map(str, case.parts.values())
        said = ", ".join(f"{number} {level}" for level, number in sorted(case.lines.items())) or "none"
        rows.append(
            f"{case.seconds:>6g} s  {case.kind:8} {case.load:5} {noticed:>8} {api:>7} {health:>8} {worker:>7}  {said}"
        )
    return "\n".join(rows)


def main() -> int:
    """Run from the command line; 0 if every part was back within the given bound."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="python dev/chaos/outage.py"
    )
    parser.add_argument("--seconds", type=float, nargs="+", default=[20], help="how long Postgres is away (20)")
    parser.add_argument("--kind", nargs="+", choices=(STOPPED, FROZEN), default=[STOPPED, FROZEN], help="(both)")
    parser.add_argument("--load", nargs="+", choices=(IDLE, LOAD), default=[IDLE, LOAD], help="with clients? (both)")
    parser.add_argument("--parallel", type=int, default=4, help="how many cases at a time (4)")
    parser.add_argument("--within", type=float, default=10.0, help="seconds within which all must be back (10)")
    parser.add_argument("--service", type=Path, default=SERVICE, help="the alpha-monday to measure (this one)")
    parser.add_argument("--folder", type=Path, default=HOUSE / ".alpha-monday" / "outage", help="where logs are kept")
    given = parser.parse_args()
    isolation.isolate()  # all that is started here inherits this environment
    shutil.rmtree(given.folder, ignore_errors=True)
    given.folder.mkdir(parents=True)
    cases = [Case(seconds, kind, load) for seconds in given.seconds for kind in given.kind for load in given.load]
    asyncio.run(run(cases, given.folder.resolve(), given.service.absolute(), given.parallel))
    print(table(cases))
    late = [
        case.name
        for case in cases
        if any(part.back is None or part.back > given.within for part in case.parts.values())
    ]
    if late:
        print(f"Not back within {given.within:g} s: {', '.join(late)}. Logs: {given.folder}")
    return 1 if late else 0


if __name__ == "__main__":
    sys.exit(main())
