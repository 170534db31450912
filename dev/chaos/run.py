"""
Chaos: the service runs for some Mondays while it is harmed at random; then invariants are checked.

Three processes of the real service share one Postgres, in simulated time. They have three series:
two models and a control. The providers send wrong answers or none, and so do a time-stamping
authority and a calendar of OpenTimestamps; on some Mondays, the server of one model fails all day.
Drawn from a seed, processes are killed, stopped and suspended; Postgres and its connections are
killed; jobs and workers are deleted. After some calm days the record of every series, its
timestamps, the queue and the providers' log must be as if nothing had happened.

    python dev/chaos/run.py --seed 7 --faults 200
"""

import argparse
import asyncio
import random
import shutil
import sys
import time
from contextlib import suppress
from datetime import time as clock_time
from datetime import timedelta
from pathlib import Path

import psycopg
from checker import InvariantBroken, InvariantChecker, Observations, count_faults
from harm import Storm, broken_series_rules, failing_stamp_rules, slow_provider_rules
from installation import Installation

from app.database import migrations
from app.domain import calendar
from app.simulation.rehearsal import EARLIEST_MONDAY, RehearsalSpan

sys.path.append(str(Path(__file__).parents[1]))
import isolation

PROJECT = Path(__file__).parents[2]

# How long a day of the calm may take, in seconds of real time. It takes some ten seconds, and many
# more on a machine that is busy with other work.
CALM_DAY_TIMEOUT = 120.0
# Seconds between two observations of the installation.
OBSERVE_INTERVAL = 0.5
# Seconds between two lines of progress that go to a file.
PROGRESS_INTERVAL = 10

_JOB_AT_WORK = (
    "SELECT 1 FROM procrastinate_jobs "
    "WHERE status = 'doing' OR (status = 'todo' AND scheduled_at <= told.now())"
)


class ChaosRun:
    """
    One storm, from its seed to the verdict.

    `duration` and `calm` are simulated time, `pause` is in real seconds.
    """

    def __init__(
        self,
        *,
        seed: int,
        faults: int,
        duration: timedelta,
        calm: timedelta,
        pause: float,
        folder: Path,
    ) -> None:
        self.faults = faults
        self.duration = duration
        self.calm = calm
        self.pause = pause
        self.rng = random.Random(seed)
        first = EARLIEST_MONDAY + timedelta(weeks=self.rng.randrange(100))
        self.span = RehearsalSpan(calendar.due_at(first) - timedelta(minutes=1), None)
        # These have generators of their own, so that their number does not change the storm. Of all
        # rules that match a request, the first one counts.
        rules = broken_series_rules(random.Random(f"series {seed}"), first)
        rules += slow_provider_rules(self.rng, first)
        rules += failing_stamp_rules(random.Random(f"stamps {seed}"), first)
        self.installation = Installation(folder, str(seed), rules)
        self.storm = Storm(
            installation=self.installation,
            span=self.span,
            rng=self.rng,
            count=faults,
            log=folder / "harm.jsonl",
        )
        self.heads: set[tuple[int, str]] = set()
        self.simulated_now = self.span.begin
        self.started_at = time.monotonic()
        self.observed_at = 0.0
        self.progress_at = 0.0

    def run(self) -> None:
        """Let the installation live through the storm and the calm after it."""
        asyncio.run(migrations.migrate(self.installation.address, self.span.begin))
        for service_process in self.installation.processes:
            service_process.start(self.span)
        has_clock = "SELECT 1 WHERE to_regclass('told.clock') IS NOT NULL"
        while not self.installation.fetch_rows(has_clock):
            time.sleep(0.1)
        next_strike = time.monotonic() + 2
        end = self.span.begin + self.duration
        while not self.storm.is_over or self.simulated_now < end:
            if time.monotonic() >= next_strike and self._is_harm_due():
                self.storm.strike()
                next_strike = time.monotonic() + self.rng.expovariate(1 / self.pause)
            self._observe("Storm", 0.02)
        self._run_calm()

    def _is_harm_due(self) -> bool:
        """
        Return whether more harm must be done by now.

        The harm is spread over simulated time. On a slow machine all of it would otherwise happen
        within one day.
        """
        share = (self.simulated_now - self.span.begin) / self.duration
        is_behind = self.storm.done.total() < 5 + share * self.faults
        return bool(self.storm.remaining) and is_behind

    def _run_calm(self) -> None:
        """Restart all processes with an end of simulated time, and wait for the end."""
        for service_process in self.installation.processes:
            self.storm.stop(service_process)
        last_day = calendar.new_york_date(self.installation.now() + self.calm)
        end = calendar.from_new_york(last_day, clock_time(23, 30))
        self.span = self.storm.span = RehearsalSpan(self.span.begin, end)
        while not self.storm.is_over:
            self._observe("Calm", 0.02)
        seconds = CALM_DAY_TIMEOUT * (self.calm / timedelta(days=1))
        deadline = time.monotonic() + seconds
        while self.simulated_now < end or self.installation.fetch_rows(_JOB_AT_WORK):
            if time.monotonic() > deadline:
                self.storm.problems.append(
                    f"simulated time has come no further than {self.simulated_now} "
                    f"in {seconds:.0f} s of calm"
                )
                return
            self._observe("Calm", 0.05)
        # Two processes may have lived through the calm before the third one was ready.
        problems = self._health_problems()
        while problems and time.monotonic() < deadline:
            time.sleep(0.1)
            problems = self._health_problems()
        self.storm.problems += problems

    def _health_problems(self) -> list[str]:
        problems = [(one.name, one.health_problem()) for one in self.installation.processes]
        return [f"{name} is not well: {problem}" for name, problem in problems if problem]

    def _observe(self, phase: str, pause: float) -> None:
        """Run scheduled actions; from time to time note the journal's head and print progress."""
        self.storm.tend()
        time.sleep(pause)
        if time.monotonic() < self.observed_at + OBSERVE_INTERVAL:
            return
        self.observed_at = time.monotonic()
        # The database may be away.
        with suppress(psycopg.OperationalError):
            self.simulated_now = self.installation.now()
            newest = "SELECT seq, hash FROM journal ORDER BY seq DESC LIMIT 1"
            self.heads |= set(self.installation.fetch_rows(newest))
        for service_process in self.installation.processes:
            if head := service_process.journal_head():
                self.heads.add(head)
        self._print_progress(phase)

    def _print_progress(self, phase: str) -> None:
        local = self.simulated_now.astimezone(calendar.NEW_YORK)
        seconds = self.observed_at - self.started_at
        line = (
            f"{phase}: {local:%a %d %b %Y %H:%M}, {self.storm.done.total()} harms, {seconds:.0f} s"
        )
        if sys.stderr.isatty():
            print(f"\r{line:<70}", end="", file=sys.stderr, flush=True)
        elif self.observed_at > self.progress_at + PROGRESS_INTERVAL:
            self.progress_at = self.observed_at
            print(line, file=sys.stderr, flush=True)

    def check(self) -> bool:
        """Print what was survived and each invariant; return whether all of them hold."""
        print("\nHarm done, and what the providers did:")
        for kind, count in self.storm.done.most_common():
            print(f"  {count:4}  {kind}")
        print(f"  {self.storm.failed_starts:4}  starts in vain, for want of a database")
        assert self.span.until
        observed = Observations(
            end=self.span.until,
            heads=self.heads,
            harm=self.storm.done,
            problems=self.storm.problems,
            verify=self.installation.verify,
            url=self.installation.url,
            keys=self.installation.keys,
            timestamp_root=self.installation.root_file.read_bytes(),
        )
        checker = InvariantChecker(
            self.installation.fetch_rows, self.installation.request_log, observed
        )
        for fault, count in count_faults(checker.requests).most_common():
            print(f"  {count:4}  {fault}")
        print("\nInvariants:")
        all_hold = True
        for name, check in checker.invariants():
            try:
                print(f"  ok    {name}: {check()}", flush=True)
            except InvariantBroken as error:
                all_hold = False
                print(f"  FAIL  {name}: {error}", flush=True)
        print()
        for line in (*checker.lateness(), *checker.stamps()):
            print(line)
        return all_hold


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        prog="python dev/chaos/run.py",
    )
    parser.add_argument(
        "--seed", type=int, default=None, help="the seed of everything random; it is printed"
    )
    parser.add_argument("--faults", type=int, default=200, help="the number of harms (200)")
    parser.add_argument(
        "--mondays", type=int, default=10, help="the number of Mondays, at least (10)"
    )
    parser.add_argument(
        "--days", type=int, help="days of simulated time for the storm, instead of whole weeks"
    )
    parser.add_argument(
        "--calm", type=int, default=3, help="days of simulated time for the recovery (3)"
    )
    parser.add_argument(
        "--pause", type=float, default=0.7, help="seconds between two harms, on average (0.7)"
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=PROJECT / ".alpha-monday" / "chaos",
        help="the folder for logs",
    )
    parser.add_argument(
        "--keep", action="store_true", help="do not delete the folder when all promises hold"
    )
    return parser.parse_args()


def main() -> int:
    """Run from the command line; return 0 if every invariant holds."""
    options = _parse_options()
    # Every process that is started here inherits this environment.
    isolation.isolate()
    seed = random.randrange(100_000) if options.seed is None else options.seed
    folder = (options.folder / str(seed)).resolve()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    print(f"Seed {seed}. Logs: {folder}", flush=True)
    duration = timedelta(weeks=options.mondays)
    if options.days:
        duration = timedelta(days=options.days)
    run = ChaosRun(
        seed=seed,
        faults=options.faults,
        duration=duration,
        calm=timedelta(days=options.calm),
        pause=options.pause,
        folder=folder,
    )
    try:
        run.run()
        all_hold = run.check()
    finally:
        run.installation.stop()
    if all_hold and not options.keep:
        shutil.rmtree(folder, ignore_errors=True)
    verdict = "Every invariant holds" if all_hold else "BROKEN"
    print(f"{verdict}: seed {seed}, {time.monotonic() - run.started_at:.0f} s.")
    return 0 if all_hold else 1


if __name__ == "__main__":
    sys.exit(main())
