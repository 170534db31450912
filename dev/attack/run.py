"""
Attacks: many attackers of one kind, beside one reader and a Monday that becomes due.

The real service (web server and worker in one process) runs on a record of many Mondays, with
simulated providers, in simulated time that runs at the pace of real time during an attack. For each
kind, number and origin of attackers the table shows: how long the reader waited, how late the
Monday's question and batch were, the peak memory of the service and of Postgres, and which
responses the attackers got. The first row is a run without attackers, for comparison.

Exit code 0 if every promise holds: the reader's p99 within --p99, that of new documents within
--new-document, no error for the reader, the question no later than --late, and the service's memory
under --memory; 1 if one does not.
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
from datetime import datetime, timedelta
from itertools import product
from pathlib import Path

import reader
from client import http_request, open_connection
from kinds import KINDS
from reader import ReaderMeasurements, ReaderStream, percentile
from target import (
    BEGIN,
    NEWEST,
    AttackTarget,
    children,
    count_open_files,
    peak_memory,
    proportional_memory,
    reset_peak_memory,
    resident_memory,
)

from app.domain import calendar

sys.path.append(str(Path(__file__).parents[1]))
import isolation

HERE = Path(__file__).parent
PROJECT = HERE.parents[1]

# All times are in seconds.

# The Monday becomes due this long after the attack began.
DUE_AFTER = 2.0
WATCH_INTERVAL = 0.1

# How long the stream's event is waited for once the batch is stored.
EVENT_TIMEOUT = 1.0

# How long the service may take to answer once the attackers have left; and how long after that its
# memory is read.
RECOVERY_TIMEOUT = 60.0
SETTLE_TIME = 0.5

# In MB: with more memory than this after an attack the service is restarted, so that the next
# attack begins like this one.
RESTART_ABOVE = 220.0

ONE, MANY, SHARED = "one", "many", "shared"
ORIGINS = {
    ONE: "all attackers have one address, the reader another",
    MANY: "each attacker has an address of its own",
    SHARED: "attackers and reader share one address",
}
NONE = "none"


@dataclass
class AttackCase:
    """
    One attack and its measurements.

    Lateness is in seconds, None if it did not come. Memory and `temporary` (Postgres's temporary
    files) and `logged` are in MB. `files` is the peak of open files. `ended` says how the service
    ended, empty while it runs. `well_after` is after how many seconds the service answered once the
    attackers had left, None if it did not.
    """

    kind: str
    number: int
    origin: str
    measured: ReaderMeasurements = field(default_factory=ReaderMeasurements)
    stream: ReaderStream = field(default_factory=ReaderStream)
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
        """Return the case's name in the progress and the verdicts."""
        if self.kind == NONE:
            return NONE
        return f"{self.kind}, {self.number} from {self.origin}"


@dataclass(frozen=True)
class Bounds:
    """The promises: seconds, and MB."""

    p99: float
    new_document: float
    late: float
    memory: float

    def broken_by(self, case: AttackCase) -> list[str]:
        """Return the promises that a case breaks, with figures."""
        broken = []
        p99 = percentile(case.measured.all, 0.99)
        if p99 > self.p99:
            broken.append(f"p99 {p99:.2f} s, {p99 / self.p99:.1f} times the budget")
        new_document = percentile(case.measured.seconds[reader.NEW_DOCUMENT], 0.99)
        if new_document > self.new_document:
            broken.append(f"a new document took {new_document:.2f} s")
        if case.measured.errors:
            broken.append(f"errors for the reader ({format_counts(case.measured.errors)})")
        if case.stream.ended:
            broken.append(f"the reader's stream ended: {case.stream.ended}")
        if case.question_late is None or case.question_late > self.late:
            broken.append(f"the question {describe_lateness(case.question_late)}")
        if case.service_peak > self.memory:
            broken.append(f"memory {case.service_peak:.0f} MB")
        if case.well_after is None:
            broken.append("the service does not answer once the attackers have left")
        if case.ended:
            broken.append(f"the service ended: {case.ended}")
        return broken


def format_counts(counts: Counter[str]) -> str:
    """Return the four most frequent names with their numbers."""
    return ", ".join(f"{number:,} x {name}" for name, number in counts.most_common(4))


def describe_lateness(late: float | None) -> str:
    """Return how late something was, in words."""
    return "did not come" if late is None else f"came {late:.2f} s late"


class AttackRun:
    """
    All attacks on one target.

    An attack lasts `seconds` at least, and `longest` at most while its batch is waited for.
    """

    def __init__(self, target: AttackTarget, seconds: float, longest: float) -> None:
        self.target = target
        self.seconds = seconds
        self.longest = longest
        self.monday = calendar.latest_run_date(BEGIN)
        self.reader_requests = reader.requests(NEWEST, target.mondays)

    async def run_case(self, case: AttackCase) -> None:
        """Run one attack, and write its measurements into `case`."""
        target = self.target
        self.monday += timedelta(weeks=1)
        due = calendar.due_at(self.monday)
        await asyncio.to_thread(target.jump_to, due - timedelta(seconds=DUE_AFTER + 1))
        assert target.service
        pid = target.service.pid
        reset_peak_memory(pid)
        temporary, logged = self._temporary_megabytes(), target.log.stat().st_size

        due_at = await self._attack(case, due=due)

        case.service_peak = peak_memory(pid)
        case.files = max(case.files, count_open_files(pid))
        case.temporary = self._temporary_megabytes() - temporary
        case.logged = (target.log.stat().st_size - logged) / 1e6
        if case.batch_late is not None:
            stored_at = due_at + case.batch_late
            # The event may come just before the watch has seen the batch.
            events = [at - stored_at for at in case.stream.events if at > stored_at - 0.2]
            case.event_late = min(events, default=None)
        case.well_after = await self._wait_until_well(time.monotonic())
        if case.batch_late is None:
            # A batch that comes once the attackers have left is late, but not lost.
            await asyncio.to_thread(self._watch, case, time.monotonic(), due_at)
        await asyncio.sleep(SETTLE_TIME)
        case.service_after = resident_memory(pid)
        exit_code = target.service.poll()
        if exit_code is not None:
            case.ended = f"exit code {exit_code}"
        if case.ended or case.well_after is None or case.service_after > RESTART_ABOVE:
            await asyncio.to_thread(target.stop_service)
            await asyncio.to_thread(target.start_service)

    async def _attack(self, case: AttackCase, *, due: datetime) -> float:
        """
        Let attackers and reader work until the attack is over.

        Return when the Monday was due, on the monotonic clock.
        """
        target = self.target
        attackers: subprocess.Popen[str] | None = None
        if case.kind != NONE:
            attackers = self._start_attackers(case)
        source = "127.0.0.1" if case.origin == SHARED else reader.SOURCE
        start = time.monotonic()
        due_at = start + (due - target.now()).total_seconds()
        reading = reader.reading(target.port, source, self.reader_requests)
        async with reading as (case.measured, case.stream):
            await asyncio.to_thread(self._watch, case, start, due_at)
            case.seconds = time.monotonic() - start
            if attackers:
                case.outcomes = await asyncio.to_thread(self._stop_attackers, attackers)
        return due_at

    async def _wait_until_well(self, since: float) -> float | None:
        """
        Wait until the service answers within half a second again.

        Return after how many seconds it does, None if it does not within RECOVERY_TIMEOUT.
        """
        while time.monotonic() < since + RECOVERY_TIMEOUT:
            with suppress(OSError, TimeoutError):
                async with (
                    asyncio.timeout(0.5),
                    open_connection(self.target.port, reader.SOURCE) as conn,
                ):
                    await conn.send(http_request("GET", "/health"))
                    response = await conn.read_response()
                    if response.status == 200:
                        return time.monotonic() - since
            await asyncio.sleep(0.1)
        return None

    def _watch(self, case: AttackCase, start: float, due_at: float) -> None:
        """Watch memory and the Monday until the attack has lasted long enough."""
        assert self.target.service
        rounds = 0
        while time.monotonic() < start + self.longest:
            self._watch_monday(case, due_at)
            # Reading the memory of all backends takes long, so not in every round.
            if rounds % 5 == 0:
                self._watch_processes(case)
            rounds += 1
            if case.batch_late is not None:
                stored_at = due_at + case.batch_late
                end = max(start + self.seconds, stored_at + EVENT_TIMEOUT)
                if time.monotonic() > end:
                    return
            if self.target.service.poll() is not None:
                return
            time.sleep(WATCH_INTERVAL)

    def _watch_monday(self, case: AttackCase, due_at: float) -> None:
        ((has_question, has_batch),) = self.target.fetch_rows(
            "SELECT EXISTS (SELECT FROM generations WHERE run_date = %s), "
            "EXISTS (SELECT FROM batches WHERE run_date = %s)",
            self.monday,
            self.monday,
        )
        late = max(0.0, time.monotonic() - due_at)
        if has_question and case.question_late is None:
            case.question_late = late
        if has_batch and case.batch_late is None:
            case.batch_late = late

    def _watch_processes(self, case: AttackCase) -> None:
        assert self.target.service
        assert self.target.postgres.process
        postmaster = self.target.postgres.process.pid
        total = sum(map(proportional_memory, [postmaster, *children(postmaster)]))
        case.postgres_peak = max(case.postgres_peak, total)
        case.files = max(case.files, count_open_files(self.target.service.pid))

    def _start_attackers(self, case: AttackCase) -> "subprocess.Popen[str]":
        options = {
            "--kind": case.kind,
            "--number": case.number,
            "--port": self.target.port,
            "--newest": NEWEST,
            "--mondays": self.target.mondays,
            "--long-text-on": self.target.long_text_on,
        }
        # A process of its own, so that the attackers' work does not delay the reader's.
        command = [sys.executable, str(HERE / "attackers.py")]
        for name, value in options.items():
            command += [name, str(value)]
        if case.origin == MANY:
            command.append("--many")
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout
        # The attackers print this line when all of them have begun.
        if process.stdout.readline() != "attacking\n":
            raise SystemExit(f"The attackers of {case.name} did not start.")
        return process

    def _stop_attackers(self, attackers: "subprocess.Popen[str]") -> Counter[str]:
        # communicate() closes standard input, which ends the attack.
        text, _ = attackers.communicate(timeout=60)
        return Counter(json.loads(text))

    def _temporary_megabytes(self) -> float:
        """Return how many MB of temporary files Postgres has written since its start."""
        ((size,),) = self.target.fetch_rows(
            "SELECT temp_bytes FROM pg_stat_database WHERE datname = current_database()"
        )
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


def _format_seconds(seconds: float | None) -> str:
    return "never" if seconds is None else f"{seconds:.2f}"


def _format_milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.0f}"


def make_row(case: AttackCase, bounds: Bounds) -> list[str]:
    """Return the cells of one case."""
    times = case.measured.all
    new_document = percentile(case.measured.seconds[reader.NEW_DOCUMENT], 0.99)
    return [
        case.kind,
        str(case.number),
        case.origin,
        _format_milliseconds(percentile(times, 0.5)),
        _format_milliseconds(percentile(times, 0.99)),
        _format_milliseconds(max(times, default=0)),
        _format_milliseconds(new_document),
        str(len(times)),
        str(case.measured.errors.total()),
        _format_seconds(case.question_late),
        _format_seconds(case.batch_late),
        case.stream.ended or _format_seconds(case.event_late),
        f"{case.service_peak:.0f}",
        f"{case.service_after:.0f}",
        _format_seconds(case.well_after),
        f"{case.postgres_peak:.0f}",
        f"{case.temporary:.0f}",
        f"{case.logged * 1e3 / max(case.seconds, 0.1):.0f}",
        str(case.files),
        format_counts(case.outcomes),
        "BROKEN" if bounds.broken_by(case) else "ok",
    ]


def _markdown_table(lines: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def make_report(cases: list[AttackCase], bounds: Bounds) -> str:
    """Return all measurements as Markdown."""
    rows = [make_row(case, bounds) for case in cases]
    parts = [_markdown_table([HEAD, ["---"] * 3 + ["--:"] * 16 + ["---"] * 2, *rows])]
    verdicts = [(case.name, bounds.broken_by(case)) for case in cases]
    broken = [f"- {name}: {'; '.join(promises)}" for name, promises in verdicts if promises]
    if broken:
        parts.append("Broken promises:\n\n" + "\n".join(broken))
    names = [*reader.PATHS, reader.EXPORT]
    by_request = [["kind", "attackers", "from", *names], ["---"] * 3 + ["--:"] * len(names)]
    for case in cases:
        cells = [_format_percentiles(case.measured.seconds[name]) for name in names]
        by_request.append([case.kind, str(case.number), case.origin, *cells])
    parts.append(
        "The reader's p50 / p99 in ms, by what it asked:\n\n" + _markdown_table(by_request)
    )
    return "\n\n".join(parts)


def _format_percentiles(times: list[float]) -> str:
    p50, p99 = percentile(times, 0.5), percentile(times, 0.99)
    return f"{_format_milliseconds(p50)} / {_format_milliseconds(p99)}"


def choose_cases(options: argparse.Namespace) -> Iterator[AttackCase]:
    """Yield the chosen cases, the one without attackers first."""
    yield AttackCase(NONE, 0, "")
    kinds = choose_kinds(options.kinds)
    for kind, origin, number in product(kinds, options.origins, options.attackers):
        yield AttackCase(kind, number, origin)


def choose_kinds(words: list[str]) -> list[str]:
    """
    Return the names of the kinds that `words` names, by name or by part; without words all.

    Raises SystemExit for an unknown word.
    """
    parts = {kind.part for kind in KINDS.values()}
    unknown = [word for word in words if word not in KINDS and word not in parts]
    if unknown:
        known = ", ".join([*sorted(parts), *KINDS])
        raise SystemExit(f"There is no kind {', '.join(unknown)}. Choose from {known}.")
    if not words:
        return list(KINDS)
    return [kind.name for kind in KINDS.values() if kind.name in words or kind.part in words]


async def run_cases(
    target: AttackTarget, cases: list[AttackCase], bounds: Bounds, *, options: argparse.Namespace
) -> None:
    """Run all cases, and print the progress."""
    run = AttackRun(target, options.seconds, options.longest)
    start = time.monotonic()
    for number, case in enumerate(cases, 1):
        await run.run_case(case)
        broken = "; ".join(bounds.broken_by(case)) or "ok"
        remaining = (time.monotonic() - start) / number * (len(cases) - number)
        if options.report:
            options.report.write_text(make_report(cases[:number], bounds) + "\n")
        print(
            f"{number}/{len(cases)}, {remaining:.0f} s left  {case.name}: {broken}",
            file=sys.stderr,
            flush=True,
        )


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    kinds = "\n".join(
        f"  {kind.name:24} {kind.part:11} {kind.description}" for kind in KINDS.values()
    )
    origins = "; ".join(f"{name}: {description}" for name, description in ORIGINS.items())
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        prog="python dev/attack/run.py",
        epilog="Kinds, and the part of the service that each attacks:\n"
        f"{kinds}\n\n"
        "Examples:\n"
        "  make attack\n"
        '  make attack ARGS="--kinds answers unknown-fields --attackers 60 --from one many '
        '--seconds 10"',
    )
    parser.add_argument(
        "--kinds", nargs="+", default=[], help="names of kinds, or parts; without it, all kinds"
    )
    parser.add_argument(
        "--attackers",
        type=int,
        nargs="+",
        default=[60],
        help="the number of attackers of each kind (60)",
    )
    parser.add_argument(
        "--from",
        dest="origins",
        nargs="+",
        choices=ORIGINS,
        default=[ONE],
        help=f"the addresses of the attackers: {origins} (one)",
    )
    parser.add_argument(
        "--seconds", type=float, default=6.0, help="how long each attack lasts at least (6)"
    )
    parser.add_argument(
        "--longest",
        type=float,
        default=20.0,
        help="how long a batch is waited for in an attack, and as long again after it (20)",
    )
    parser.add_argument(
        "--mondays", type=int, default=260, help="the number of Mondays of the record (260)"
    )
    parser.add_argument(
        "--p99", type=float, default=1.0, help="the bound of the reader's p99, in seconds (1)"
    )
    parser.add_argument(
        "--new-document",
        type=float,
        default=5.0,
        help="the same for new documents (5)",
    )
    parser.add_argument(
        "--late", type=float, default=2.0, help="how late a question may be, in seconds (2)"
    )
    parser.add_argument(
        "--memory", type=float, default=400.0, help="the bound of the service's memory, in MB (400)"
    )
    parser.add_argument(
        "--report", type=Path, help="a file for the report, besides standard output"
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=PROJECT / ".alpha-monday" / "attack",
        help="the folder for logs",
    )
    return parser


def main() -> int:
    """Run from the command line; return 0 if every promise holds."""
    options = make_parser().parse_args()
    cases = list(choose_cases(options))
    # SIGTERM raises SystemExit, so that everything that was started is stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("Stopped."))
    # Every process that is started here inherits this environment.
    isolation.isolate()
    shutil.rmtree(options.folder, ignore_errors=True)
    options.folder.mkdir(parents=True)
    start = time.monotonic()
    target = AttackTarget(options.folder.resolve(), options.mondays)
    bounds = Bounds(
        p99=options.p99,
        new_document=options.new_document,
        late=options.late,
        memory=options.memory,
    )
    try:
        target.start()
        print(f"{len(cases)} cases. Logs: {options.folder}", file=sys.stderr, flush=True)
        asyncio.run(run_cases(target, cases, bounds, options=options))
    finally:
        target.stop()
    text = make_report(cases, bounds)
    print(text)
    if options.report:
        options.report.write_text(text + "\n")
    broken = sum(bool(bounds.broken_by(case)) for case in cases)
    verdict = "Every promise holds"
    if broken:
        verdict = f"{broken} of {len(cases)} cases broke a promise"
    print(f"\n{verdict}: {time.monotonic() - start:.0f} s on {os.cpu_count()} cores.")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
