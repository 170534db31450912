"""
Attacks: many attackers of one kind beside one reader and a Monday that becomes due.

The real service (web server and worker in one process) runs on a record of many Mondays, with simulated providers, in
simulated time that goes at its real pace during an attack. For each kind, number and origin of attackers the table
says: how long the reader waited, how late the Monday's question and batch were, the peak memory of the service and of
Postgres, and what the attackers were answered. A run without attackers stands first, to compare.

Exit code 0 if every promise holds: the reader's p99 within --p99, that of documents which are new within
--new-document, no error for the reader, the question no later than --late, and the service's memory under --memory; 1
if one does not.
"""

import argparse
import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import reader
from client import connected, request
from house import BEGIN, NEWEST, House, children, forget_peak, memory, open_files, peak_memory, share
from kinds import KINDS
from reader import Measured, Stream, percentile

from app.domain import calendar

sys.path.append(str(Path(__file__).parents[1]))
import isolation

HERE = Path(__file__).parent
PROJECT = HERE.parents[1]

# The Monday becomes due so long after the attack began, in seconds.
DUE_AFTER = 2.0
WATCHED_EVERY = 0.1

# How long the stream's event is waited for, once the batch is stored, in seconds.
EVENT_WITHIN = 1.0

# How long the service is waited for once the attackers have left, in seconds; and when it has answered, until its
# memory is looked at.
LONGEST_RECOVERY = 60.0
AFTERWARDS = 0.5

# The service is started anew when it still has so much memory after an attack, in MB: the next one shall begin as this.
START_ANEW = 220.0

ONE, MANY, SHARED = "one", "many", "shared"
FROM = {
    ONE: "all attackers have one address, the reader another",
    MANY: "each attacker has an address of its own",
    SHARED: "attackers and reader share one address",
}
NONE = "none"


@dataclass
class Case:
    """One attack, and what was measured."""

    kind: str
    number: int
    origin: str
    measured: Measured = field(default_factory=Measured)
    stream: Stream = field(default_factory=Stream)
    question_late: float | None = None
    batch_late: float | None = None
    event_late: float | None = None
    service_peak: float = 0.0
    service_after: float = 0.0
    postgres_peak: float = 0.0
    temporary: float = 0.0
    logged: float = 0.0
    files: int = 0
    seconds: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)
    ended: str = ""
    well_after: float | None = None

    @property
    def name(self) -> str:
        """Return what the case is called in progress and verdicts."""
        return self.kind if self.kind == NONE else f"{self.kind}, {self.number} from {self.origin}"


@dataclass(frozen=True)
class Bounds:
    """What is promised: seconds, and MB."""

    p99: float
    new_document: float
    late: float
    memory: float

    def broken_by(self, case: Case) -> list[str]:
        """Return which promises a case breaks, with figures."""
        found = []
        p99 = percentile(case.measured.all, 0.99)
        if p99 > self.p99:
            found.append(f"p99 {p99:.2f} s, {p99 / self.p99:.1f} times the budget")
        new = percentile(case.measured.took[reader.NEW_DOCUMENT], 0.99)
        if new > self.new_document:
            found.append(f"a new document took {new:.2f} s")
        if case.measured.errors:
            shown = ", ".join(f"{number} x {what}" for what, number in case.measured.errors.most_common(4))
            found.append(f"errors for the reader ({shown})")
        if case.stream.ended:
            found.append(f"the reader's stream ended: {case.stream.ended}")
        if case.question_late is None or case.question_late > self.late:
            found.append(f"the question {seconds_late(case.question_late)}")
        if case.service_peak > self.memory:
            found.append(f"memory {case.service_peak:.0f} MB")
        if case.well_after is None:
            found.append("the service does not answer once the attackers have left")
        if case.ended:
            found.append(f"the service ended: {case.ended}")
        return found


def seconds_late(late: float | None) -> str:
    """Return how late something was, in words."""
    return "did not come" if late is None else f"came {late:.2f} s late"


class Attack:
    """One house, and all attacks on it."""

    def __init__(self, house: House, seconds: float, longest: float) -> None:
        self.house, self.seconds, self.longest = house, seconds, longest
        self.monday = calendar.latest_run_date(BEGIN)
        self.asked = reader.requests(NEWEST, house.mondays)

    async def lived(self, case: Case) -> None:
        """Live through one attack."""
        house = self.house
        self.monday += timedelta(weeks=1)
        due = calendar.due_at(self.monday)
        await asyncio.to_thread(house.leap_to, due - timedelta(seconds=DUE_AFTER + 1))
        assert house.service
        pid = house.service.pid
        forget_peak(pid)
        temporary, logged = self._temporary(), house.log.stat().st_size
        attackers = self._attackers(case) if case.kind != NONE else None
        source = "127.0.0.1" if case.origin == SHARED else reader.SOURCE
        began = time.monotonic()
        due_at = began + (due - house.now()).total_seconds()
        async with reader.reading(house.port, source, self.asked) as (case.measured, case.stream):
            await asyncio.to_thread(self._watch, case, began, due_at)
            case.seconds = time.monotonic() - began
            if attackers:
                case.outcomes = await asyncio.to_thread(self._end, attackers)
        case.service_peak, case.files = peak_memory(pid), max(case.files, open_files(pid))
        case.temporary, case.logged = self._temporary() - temporary, (house.log.stat().st_size - logged) / 1e6
        if case.batch_late is not None:
            stored = due_at + case.batch_late
            case.event_late = min((at - stored for at in case.stream.events if at > stored - 0.2), default=None)
        case.well_after = await self._well_again(time.monotonic())
        if case.batch_late is None:  # a Monday that comes once the attackers have left is late, and not lost
            await asyncio.to_thread(self._watch, case, time.monotonic(), due_at)
        await asyncio.sleep(AFTERWARDS)
        case.service_after = memory(pid)
        if (code := house.service.poll()) is not None:
            case.ended = f"exit code {code}"
        if case.ended or case.well_after is None or case.service_after > START_ANEW:
            await asyncio.to_thread(house.end_service)
            await asyncio.to_thread(house.serve)

    async def _well_again(self, since: float) -> float | None:
        """Return after how many seconds the service answers at once again, None if it does not within a minute."""
        while time.monotonic() < since + LONGEST_RECOVERY:
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(0.5), connected(self.house.port, reader.SOURCE) as conn:
                    await conn.send(request("GET", "/health"))
                    if (await conn.answer()).status == 200:
                        return time.monotonic() - since
            await asyncio.sleep(0.1)
        return None

    def _watch(self, case: Case, began: float, due_at: float) -> None:
        """Watch memory, and the Monday come, until the attack has lasted long enough."""
        house = self.house
        assert house.service
        assert house.postgres.process
        pid, postmaster = house.service.pid, house.postgres.process.pid
        asked = (
            "SELECT EXISTS (SELECT FROM generations WHERE run_date = %s), "
            "EXISTS (SELECT FROM batches WHERE run_date = %s)"
        )
        looks = 0
        while time.monotonic() < began + self.longest:
            ((question, batch),) = house.rows(asked, self.monday, self.monday)
            late = max(0.0, time.monotonic() - due_at)
            if question and case.question_late is None:
                case.question_late = late
            if batch and case.batch_late is None:
                case.batch_late = late
            if looks % 5 == 0:
                total = sum(map(share, [postmaster, *children(postmaster)]))
                case.postgres_peak = max(case.postgres_peak, total)
                case.files = max(case.files, open_files(pid))
            looks += 1
            if case.batch_late is not None and time.monotonic() > max(
                began + self.seconds, due_at + case.batch_late + EVENT_WITHIN
            ):
                return
            if house.service.poll() is not None:
                return
            time.sleep(WATCHED_EVERY)

    def _attackers(self, case: Case) -> "subprocess.Popen[str]":
        house = self.house
        command = [sys.executable, str(HERE / "attackers.py"), "--kind", case.kind, "--number", str(case.number)]
        command += ["--port", str(house.port), "--newest", str(NEWEST), "--mondays", str(house.mondays)]
        command += ["--long-text-on", house.long_text_on]
        if case.origin == MANY:
            command.append("--many")
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdout
        if process.stdout.readline() != "attacking\n":
            raise SystemExit(f"The attackers of {case.name} did not start.")
        return process

    def _end(self, attackers: "subprocess.Popen[str]") -> Counter[str]:
        text, _ = attackers.communicate(timeout=60)
        return Counter(json.loads(text))

    def _temporary(self) -> float:
        ((size,),) = self.house.rows("SELECT temp_bytes FROM pg_stat_database WHERE datname = current_database()")
        return float(size) / 1e6


HEAD = [
    "kind",
    "attackers",
    "from",
    "p50 ms",
    "p99 ms",
    "max ms",
    "new document p99 ms",
    "requests",
    "errors",
    "question late s",
    "batch late s",
    "event after s",
    "service MB",
    "after MB",
    "well after s",
    "Postgres MB",
    "temp MB",
    "log KB/s",
    "files",
    "attackers were answered",
    "verdict",
]


def row(case: Case, bounds: Bounds) -> list[str]:
    """Return the cells of one case."""
    times = case.measured.all
    outcomes = ", ".join(f"{number:,} x {what}" for what, number in case.outcomes.most_common(4))

    def shown(late: float | None) -> str:
        return "never" if late is None else f"{late:.2f}"

    return [
        case.kind,
        str(case.number),
        case.origin,
        f"{percentile(times, 0.5) * 1e3:.0f}",
        f"{percentile(times, 0.99) * 1e3:.0f}",
        f"{max(times, default=0) * 1e3:.0f}",
        f"{percentile(case.measured.took[reader.NEW_DOCUMENT], 0.99) * 1e3:.0f}",
        str(len(times)),
        str(case.measured.errors.total()),
        shown(case.question_late),
        shown(case.batch_late),
        shown(case.event_late) if not case.stream.ended else case.stream.ended,
        f"{case.service_peak:.0f}",
        f"{case.service_after:.0f}",
        shown(case.well_after),
        f"{case.postgres_peak:.0f}",
        f"{case.temporary:.0f}",
        f"{case.logged * 1e3 / max(case.seconds, 0.1):.0f}",
        str(case.files),
        outcomes,
        "BROKEN" if bounds.broken_by(case) else "ok",
    ]


def report(cases: list[Case], bounds: Bounds) -> str:
    """Return all that was measured, as Markdown."""
    lines = [HEAD, ["---"] * 3 + ["--:"] * 16 + ["---"] * 2, *(row(case, bounds) for case in cases)]
    parts = ["\n".join(f"| {' | '.join(line)} |" for line in lines)]
    if broken := [(case, found) for case in cases if (found := bounds.broken_by(case))]:
        parts.append("Broken promises:\n\n" + "\n".join(f"- {case.name}: {'; '.join(found)}" for case, found in broken))
    paths = [*reader.PATHS, reader.EXPORT]
    by_path = [["kind", "attackers", "from", *paths], ["---"] * 3 + ["--:"] * len(paths)]
    for case in cases:
        cells = [
            f"{percentile(times, 0.5) * 1e3:.0f} / {percentile(times, 0.99) * 1e3:.0f}"
            for times in (case.measured.took[name] for name in paths)
        ]
        by_path.append([case.kind, str(case.number), case.origin, *cells])
    parts.append(
        "The reader's p50 / p99 in ms, by what it asked:\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in by_path)
    )
    return "\n\n".join(parts)


def cases_of(given: argparse.Namespace) -> Iterator[Case]:
    """Give the cases that were asked for, the baseline first."""
    yield Case(NONE, 0, "")
    for kind in chosen(given.kinds):
        for origin in given.origins:
            for number in given.attackers:
                yield Case(kind, number, origin)


def chosen(words: list[str]) -> list[str]:
    """Return the names of the kinds that were chosen by name or part; all of them if none was."""
    found = [kind.name for kind in KINDS.values() if not words or kind.name in words or kind.part in words]
    parts = {kind.part for kind in KINDS.values()}
    if unknown := [word for word in words if word not in KINDS and word not in parts]:
        raise SystemExit(f"There is no kind {', '.join(unknown)}. Choose from {', '.join([*sorted(parts), *KINDS])}.")
    return found


async def attacked(house: House, cases: list[Case], bounds: Bounds, given: argparse.Namespace) -> None:
    """Live through all cases, and say how far it is."""
    attack = Attack(house, given.seconds, given.longest)
    began = time.monotonic()
    for number, case in enumerate(cases, 1):
        await attack.lived(case)
        broken = "; ".join(bounds.broken_by(case)) or "ok"
        left = (time.monotonic() - began) / number * (len(cases) - number)
        if given.report:
            given.report.write_text(report(cases[:number], bounds) + "\n")
        print(f"{number}/{len(cases)}, {left:.0f} s left  {case.name}: {broken}", file=sys.stderr, flush=True)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    kinds = "\n".join(f"  {kind.name:24} {kind.part:11} {kind.does}" for kind in KINDS.values())
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        prog="python dev/attack/run.py",
        epilog=f"Kinds, and the part of the service that each attacks:\n{kinds}\n\nExamples:\n  make attack\n"
        '  make attack ARGS="--kinds answers unknown-fields --attackers 60 --from one many --seconds 10"',
    )
    parser.add_argument("--kinds", nargs="+", default=[], help="names of kinds, or parts; all unless given")
    parser.add_argument("--attackers", type=int, nargs="+", default=[60], help="how many of each kind (60)")
    parser.add_argument(
        "--from",
        dest="origins",
        nargs="+",
        choices=FROM,
        default=[ONE],
        help=f"where they come from: {'; '.join(f'{name}: {what}' for name, what in FROM.items())} (one)",
    )
    parser.add_argument("--seconds", type=float, default=6.0, help="how long each attack lasts at least (6)")
    parser.add_argument(
        "--longest",
        type=float,
        default=20.0,
        help="how long a batch is waited for in an attack, and as long again after it (20)",
    )
    parser.add_argument("--mondays", type=int, default=260, help="how many Mondays the record has (260)")
    parser.add_argument("--p99", type=float, default=1.0, help="the budget of the reader's p99, in seconds (1)")
    parser.add_argument("--new-document", type=float, default=5.0, help="the same of a document that is new (5)")
    parser.add_argument("--late", type=float, default=2.0, help="how late a question may be, in seconds (2)")
    parser.add_argument("--memory", type=float, default=400.0, help="what the service may take, in MB (400)")
    parser.add_argument("--report", type=Path, help="a file for the report, beside standard output")
    parser.add_argument("--folder", type=Path, default=PROJECT / ".alpha-monday" / "attack", help="where logs are kept")
    return parser


def main() -> int:
    """Run from the command line; 0 if every promise was kept."""
    given = parser().parse_args()
    cases = list(cases_of(given))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("Stopped."))  # with an end to all that was started
    isolation.isolate()  # all that is started here inherits this environment
    shutil.rmtree(given.folder, ignore_errors=True)
    given.folder.mkdir(parents=True)
    began = time.monotonic()
    house = House(given.folder.resolve(), given.mondays)
    bounds = Bounds(given.p99, given.new_document, given.late, given.memory)
    try:
        house.start()
        print(f"{len(cases)} cases. Logs: {given.folder}", file=sys.stderr, flush=True)
        asyncio.run(attacked(house, cases, bounds, given))
    finally:
        house.end()
    text = report(cases, bounds)
    print(text)
    if given.report:
        given.report.write_text(text + "\n")
    broken = sum(bool(bounds.broken_by(case)) for case in cases)
    verdict = f"{broken} of {len(cases)} cases broke a promise" if broken else "Every promise was kept"
    print(f"\n{verdict}: {time.monotonic() - began:.0f} s on {os.cpu_count()} cores.")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
