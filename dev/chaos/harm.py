"""The kinds of harm that are done, each at a random moment to something random."""

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import psycopg
from house import LONGEST_DRAIN, House, Process
from process import NOT_STARTED

from app.simulation.rehearsal import Span

# How often each kind is done, in a hundred.
KINDS = {
    "SIGKILL of a process": 25,
    "SIGTERM of a process": 11,
    "SIGSTOP of a process, SIGCONT seconds later": 16,
    "SIGKILL of Postgres": 7,
    "SIGKILL of a Postgres backend": 4,
    "connections terminated": 13,
    "jobs deleted, waiting": 8,
    "jobs deleted, running": 9,
    "worker rows deleted": 7,
}


class Harm(Exception):
    """Nobody was there to be harmed."""


class Storm:
    """Everything that is done to a house, from one seed."""

    def __init__(self, house: House, span: Span, chance: Random, count: int, log: Path) -> None:
        self.house, self.span, self.chance, self.log = house, span, chance, log
        self.done: Counter[str] = Counter()
        self.moments: list[float] = []  # when the database was harmed
        kinds = [kind for kind, often in KINDS.items() for _ in range(often)]
        whole, rest = divmod(count, len(kinds))
        each = list(KINDS) if rest >= len(KINDS) else []  # however few: every kind
        self.left = kinds * whole + each + chance.sample(kinds, rest - len(each))
        chance.shuffle(self.left)
        self._later: list[tuple[float, Callable[[], None]]] = []
        self.odd: list[str] = []
        self.ended_by_itself = 0

    @property
    def over(self) -> bool:
        """Return whether all harm is done, and what was to follow of it."""
        return not self.left and not self._later

    def strike(self) -> None:
        """Do the next harm that can be done."""
        for at, kind in enumerate(self.left):
            try:
                told = self.house.now()
                what = self._do(kind)
            except (Harm, psycopg.OperationalError):
                continue  # nobody there, or the database is away; another one fits
            self.done[self.left.pop(at)] += 1
            with self.log.open("a") as log:
                log.write(json.dumps({"at": datetime.now(UTC).isoformat(), "told": str(told), kind: what}) + "\n")
            return

    def tend(self) -> None:
        """Do what is due: start again, go on; and start whoever ended by himself."""
        due = [one for one in self._later if one[0] <= time.monotonic()]
        self._later = [one for one in self._later if one not in due]
        for _, act in due:
            act()
        for one in self.house.processes:
            if one.living is not None and not one.there and not one.expected_to_end:
                self._ended(one)

    def _after(self, seconds: float, act: Callable[[], None]) -> None:
        self._later.append((time.monotonic() + seconds, act))

    def _ended(self, one: Process) -> None:
        """Somebody ended whom nobody told to: he may, if he was just starting and found no database."""
        one.expected_to_end = True
        code, harmed = one.living.exitcode, [at for at in self.moments if at >= one.began - 5]
        self.ended_by_itself += 1
        if code != NOT_STARTED or not harmed:
            self.odd.append(f"{one.name} ended by itself with {code} at {datetime.now(UTC)}")
        self._after(0.3, lambda: one.start(self.span))

    def _do(self, kind: str) -> object:
        awake = [one for one in self.house.processes if one.awake]
        match kind:
            case "SIGKILL of a process":
                return self._kill(self._one(awake))
            case "SIGTERM of a process":
                return self.stop(self._one(awake))
            case "SIGSTOP of a process, SIGCONT seconds later":
                return self._freeze(self._one(awake))
            case "SIGKILL of Postgres":
                return self._kill_postgres()
            case "SIGKILL of a Postgres backend":
                self.moments.append(time.monotonic())
                return self._kill_backend()
            case "connections terminated":
                self.moments.append(time.monotonic())
                return self._terminate()
            case "jobs deleted, waiting":
                return self._delete("todo")
            case "jobs deleted, running":
                return self._delete("doing")
            case _:
                count = self.chance.choice((1, 1, 3))
                return self._rows(
                    "DELETE FROM procrastinate_workers WHERE id IN "
                    "(SELECT id FROM procrastinate_workers ORDER BY random() LIMIT %s) RETURNING id",
                    count,
                )

    def _one(self, awake: list[Process]) -> Process:
        if not awake:
            raise Harm
        return self.chance.choice(awake)

    def _rows(self, sql: str, *values: object) -> list[Any]:
        found = self.house.rows(sql, *values)
        if not found:
            raise Harm
        return [list(map(str, row)) for row in found]

    def _kill(self, one: Process) -> str:
        one.signal(signal.SIGKILL)
        self._after(self.chance.uniform(0, 1.2), lambda: one.start(self.span))
        return one.name

    def stop(self, one: Process) -> str:
        """Stop a process as an operator does; it must end in time, and starts again."""
        if one.there:
            one.signal(signal.SIGTERM)
        asked = time.monotonic()

        def again() -> None:
            if one.there and time.monotonic() - asked < LONGEST_DRAIN:
                self._after(0.1, again)
                return
            if one.there:
                self.odd.append(f"{one.name} did not end within {LONGEST_DRAIN:.0f} s of SIGTERM")
                one.living.kill()
            one.living.join()
            if one.living.exitcode not in (0, -signal.SIGTERM):  # the latter while it is just beginning
                self.odd.append(f"{one.name} ended with {one.living.exitcode} after SIGTERM")
            one.start(self.span)

        self._after(0.1, again)
        return one.name

    def _freeze(self, one: Process) -> str:
        one.signal(signal.SIGSTOP)
        seconds = self.chance.uniform(0.5, 6)
        self._after(seconds, lambda: one.signal(signal.SIGCONT))
        return f"{one.name} for {seconds:.1f} s"

    def _kill_postgres(self) -> str:
        if self.house.postgres.process is None or self.house.postgres.process.poll() is not None:
            raise Harm
        self.house.kill_postgres()
        seconds = self.chance.choice((0.0, 0.5, 2.0))

        def again() -> None:
            self.house.postgres.start()
            self.moments.append(time.monotonic())

        self.moments.append(time.monotonic() + seconds)
        self._after(seconds, again)
        return f"away for {seconds} s"

    def _kill_backend(self) -> object:
        ((pid,), *_) = self._rows(
            "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() "
            "ORDER BY random() LIMIT 1"
        )
        os.kill(int(pid), signal.SIGKILL)
        return pid

    def _terminate(self) -> object:
        return self._rows(
            "SELECT pid, pg_terminate_backend(pid), application_name, left(query, 80) FROM pg_stat_activity "
            "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() ORDER BY random() LIMIT %s",
            self.chance.choice((1, 2, 5)),
        )

    def _delete(self, status: str) -> object:
        return self._rows(
            "DELETE FROM procrastinate_jobs WHERE id IN (SELECT id FROM procrastinate_jobs WHERE status = %s "
            "ORDER BY random() LIMIT %s) RETURNING id, task_name, args",
            status,
            self.chance.choice((1, 2)),
        )


def hanging(chance: Random, first: date) -> list[dict[str, Any]]:
    """Return the stand-ins' script: in a year, providers that hang, trickle or break off every few days."""
    rules = []
    for day in range(366):
        since = datetime.combine(first + timedelta(days=day), datetime.min.time(), UTC) + timedelta(hours=12)
        window = {"since": since.isoformat(), "until": (since + timedelta(hours=12)).isoformat(), "times": 1}
        if chance.random() < 0.15:
            rules.append(
                {"provider": "alphavantage", "fault": chance.choice(("hang", "hang", "slow", "cut")), **window}
            )
        if chance.random() < 0.15:
            rules.append({"provider": "openai", "fault": chance.choice(("hang", "slow", "cut")), **window})
    return rules
