"""
Chaos: the service lives through Mondays while it is harmed at random, and then every promise is checked.

Three processes of the real service share one Postgres, in told time, with providers that lie and hang. From a seed
they are killed, stopped and frozen; Postgres and its connections are killed; jobs and workers are deleted. Then comes a
calm of some days, and the record, the queue and the providers' own log must be as if nothing had happened.

    python dev/chaos/run.py --seed 7 --faults 200
"""

import argparse
import asyncio
import datetime as dt
import random
import shutil
import sys
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import psycopg
from harm import Storm, hanging
from house import House
from judge import Judge, Misfit, Seen, faults_of

from app.database import migrations
from app.domain import calendar
from app.simulation.rehearsal import EARLIEST, Span

sys.path.append(str(Path(__file__).parents[1]))
import isolation

HOUSE = Path(__file__).parents[2]

# How long the calm may take, in real time.
PATIENCE = 120.0

_AT_WORK = "SELECT 1 FROM procrastinate_jobs WHERE status = 'doing' OR (status = 'todo' AND scheduled_at <= told.now())"


class Run:
    """One storm, from its seed to the verdict."""

    def __init__(self, seed: int, faults: int, mondays: int, calm: int, pause: float, folder: Path) -> None:
        self.faults, self.mondays, self.calm, self.pause = faults, mondays, timedelta(days=calm), pause
        self.chance = random.Random(seed)
        first = EARLIEST + timedelta(weeks=self.chance.randrange(100))
        self.span = Span(calendar.due_at(first) - timedelta(minutes=1), None)
        self.house = House(folder, str(seed), hanging(self.chance, first))
        self.storm = Storm(self.house, self.span, self.chance, faults, folder / "harm.jsonl")
        self.heads: set[tuple[int, str]] = set()
        self.told, self.began, self.looked, self.said = self.span.begin, time.monotonic(), 0.0, 0.0

    def live(self) -> None:
        """Live through the storm and the calm after it."""
        asyncio.run(migrations.migrate(self.house.address, self.span.begin))
        for one in self.house.processes:
            one.start(self.span)
        while not self.house.rows("SELECT 1 WHERE to_regclass('told.clock') IS NOT NULL"):
            time.sleep(0.1)
        next_strike = time.monotonic() + 2
        while not self.storm.over or self.told < self.span.begin + timedelta(weeks=self.mondays):
            if time.monotonic() >= next_strike and self._behind():
                self.storm.strike()
                next_strike = time.monotonic() + self.chance.expovariate(1 / self.pause)
            self._look("Storm", 0.02)
        self._calm()

    def _behind(self) -> bool:
        """Return whether more harm is to be done by now: where the machine is slow it must not all fall on one day."""
        lived = (self.told - self.span.begin) / timedelta(weeks=self.mondays)
        return bool(self.storm.left) and self.storm.done.total() < 5 + lived * self.faults

    def _calm(self) -> None:
        """Have everybody start anew with an end to told time, and wait for it."""
        for one in self.house.processes:
            self.storm.stop(one)
        end = calendar.at(calendar.today(self.house.now() + self.calm), dt.time(23, 30))
        self.span = self.storm.span = Span(self.span.begin, end)
        while not self.storm.over:
            self._look("Calm", 0.02)
        give_up = time.monotonic() + PATIENCE
        while self.told < end or self.house.rows(_AT_WORK):
            if time.monotonic() > give_up:
                self.storm.odd.append(f"told time has come no further than {self.told} in {PATIENCE:.0f} s of calm")
                return
            self._look("Calm", 0.05)
        # Two of them may have lived through the calm before the third had started.
        while any(one.unwell() for one in self.house.processes) and time.monotonic() < give_up:
            time.sleep(0.1)
        self.storm.odd += [f"{one.name} is not well: {said}" for one in self.house.processes if (said := one.unwell())]

    def _look(self, when: str, pause: float) -> None:
        """Tend to what is due; now and then tell how far it is and take down the journal's head."""
        self.storm.tend()
        time.sleep(pause)
        if time.monotonic() < self.looked + 0.5:
            return
        self.looked = time.monotonic()
        with suppress(psycopg.OperationalError):  # it is away
            self.told = self.house.now()
            self.heads |= set(self.house.rows("SELECT seq, hash FROM journal ORDER BY seq DESC LIMIT 1"))
        self.heads |= {head for one in self.house.processes if (head := one.head())}
        line = f"{when}: {self.told.astimezone(calendar.NEW_YORK):%a %d %b %Y %H:%M}, "
        line += f"{self.storm.done.total()} harms, {self.looked - self.began:.0f} s"
        if sys.stderr.isatty():
            print(f"\r{line:<70}", end="", file=sys.stderr, flush=True)
        elif self.looked > self.said + 10:
            self.said = self.looked
            print(line, file=sys.stderr, flush=True)

    def verdict(self) -> bool:
        """Tell what was survived, and of each invariant whether it holds."""
        print("\nHarm done, and what the providers did:")
        for kind, count in self.storm.done.most_common():
            print(f"  {count:4}  {kind}")
        print(f"  {self.storm.ended_by_itself:4}  starts in vain, for want of a database")
        assert self.span.until
        seen = Seen(self.span.until, self.heads, self.storm.done, self.storm.odd, self.house.verify)
        judge = Judge(self.house.rows, self.house.requests, seen)
        for fault, count in faults_of(judge.requests).most_common():
            print(f"  {count:4}  {fault}")
        print("\nInvariants:")
        holds = True
        for name, ask in judge.invariants():
            try:
                print(f"  ok    {name}: {ask()}", flush=True)
            except Misfit as misfit:
                holds = False
                print(f"  FAIL  {name}: {misfit}", flush=True)
        print()
        for line in judge.lateness():
            print(line)
        return holds


def main() -> int:
    """Run from the command line; 0 if every promise was kept."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="python dev/chaos/run.py"
    )
    parser.add_argument("--seed", type=int, default=None, help="what to draw everything from; printed")
    parser.add_argument("--faults", type=int, default=200, help="how many harms at least (200)")
    parser.add_argument("--mondays", type=int, default=10, help="how many Mondays at least (10)")
    parser.add_argument("--calm", type=int, default=3, help="told days to recover in (3)")
    parser.add_argument("--pause", type=float, default=0.7, help="seconds between two harms, on average (0.7)")
    parser.add_argument("--folder", type=Path, default=HOUSE / ".alpha-monday" / "chaos", help="where logs are kept")
    parser.add_argument("--keep", action="store_true", help="keep the folder also when all is well")
    given = parser.parse_args()
    isolation.isolate()  # all that is started here inherits this environment
    seed = random.randrange(100_000) if given.seed is None else given.seed
    folder = (given.folder / str(seed)).resolve()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    print(f"Seed {seed}. Logs: {folder}", flush=True)
    run = Run(seed, given.faults, given.mondays, given.calm, given.pause, folder)
    try:
        run.live()
        holds = run.verdict()
    finally:
        run.house.end()
    if holds and not given.keep:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{'Every promise was kept' if holds else 'BROKEN'}: seed {seed}, {time.monotonic() - run.began:.0f} s.")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
