"""The kinds of harm; each is done at a random moment to a random target."""

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock_time
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

import psycopg
import storm_series
from installation import MAX_DRAIN, Installation, ServiceProcess
from process import NOT_STARTED

from app.domain import calendar
from app.simulation import faults, timestamp_calendar
from app.simulation.rehearsal import RehearsalSpan

# How often each kind is done, per hundred.
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


class NoTarget(Exception):
    """There is nothing that a kind of harm can be done to."""


class Storm:
    """
    All harm that is done to an installation, drawn from one seed.

    `problems` collects sentences about processes that behaved wrongly, and `failed_starts` counts
    those that ended without being harmed.
    """

    def __init__(
        self,
        *,
        installation: Installation,
        span: RehearsalSpan,
        rng: Random,
        count: int,
        log: Path,
    ) -> None:
        self.installation = installation
        self.span = span
        self.rng = rng
        self.log = log
        self.done: Counter[str] = Counter()
        # When the database was harmed, on the monotonic clock.
        self.database_harmed_at: list[float] = []
        self.remaining = _draw_kinds(rng, count)
        # Actions that follow a harm, with the time at which they are due.
        self._scheduled: list[tuple[float, Callable[[], None]]] = []
        self.problems: list[str] = []
        self.failed_starts = 0

    @property
    def is_over(self) -> bool:
        """Return whether all harm is done, and every action that follows it."""
        return not self.remaining and not self._scheduled

    def strike(self) -> None:
        """Do the first remaining harm that has a target now."""
        for index, kind in enumerate(self.remaining):
            try:
                now = self.installation.now()
                target = self._do(kind)
            except (NoTarget, psycopg.OperationalError):
                # There is no target, or the database is away: another kind may be possible.
                continue
            self.done[self.remaining.pop(index)] += 1
            line = {"at": datetime.now(UTC).isoformat(), "told": str(now), kind: target}
            with self.log.open("a") as log:
                log.write(json.dumps(line) + "\n")
            return

    def tend(self) -> None:
        """Run the scheduled actions that are due, and start processes that ended by themselves."""
        due = [entry for entry in self._scheduled if entry[0] <= time.monotonic()]
        self._scheduled = [entry for entry in self._scheduled if entry not in due]
        for _, action in due:
            action()
        for service_process in self.installation.processes:
            has_ended = service_process.running is not None and not service_process.is_alive
            if has_ended and not service_process.is_expected_to_end:
                self._handle_end(service_process)

    def _schedule(self, seconds: float, action: Callable[[], None]) -> None:
        self._scheduled.append((time.monotonic() + seconds, action))

    def _handle_end(self, service_process: ServiceProcess) -> None:
        """
        Start a process again that ended by itself.

        It may do so only if it was starting and found no database; otherwise it is a problem.
        """
        service_process.is_expected_to_end = True
        code = service_process.running.exitcode
        # An outage just before the start may still last.
        since = service_process.started_at - 5
        was_database_harmed = any(at >= since for at in self.database_harmed_at)
        self.failed_starts += 1
        if code != NOT_STARTED or not was_database_harmed:
            self.problems.append(
                f"{service_process.name} ended by itself with {code} at {datetime.now(UTC)}"
            )
        self._schedule(0.3, lambda: service_process.start(self.span))

    def _do(self, kind: str) -> object:
        """Do one harm; return its target for the log. Raises NoTarget without one."""
        match kind:
            case "SIGKILL of a process":
                return self._kill(self._choose_process())
            case "SIGTERM of a process":
                return self.stop(self._choose_process())
            case "SIGSTOP of a process, SIGCONT seconds later":
                return self._suspend(self._choose_process())
            case "SIGKILL of Postgres":
                return self._kill_postgres()
            case "SIGKILL of a Postgres backend":
                # Postgres restarts all backends after one was killed, so this is a short outage.
                self.database_harmed_at.append(time.monotonic())
                return self._kill_backend()
            case "connections terminated":
                self.database_harmed_at.append(time.monotonic())
                return self._terminate_connections()
            case "jobs deleted, waiting":
                return self._delete_jobs("todo")
            case "jobs deleted, running":
                return self._delete_jobs("doing")
            case _:
                return self._delete_workers()

    def _choose_process(self) -> ServiceProcess:
        unharmed = [one for one in self.installation.processes if one.is_unharmed]
        if not unharmed:
            raise NoTarget
        return self.rng.choice(unharmed)

    def _fetch_rows(self, sql: str, *parameters: object) -> list[Any]:
        rows = self.installation.fetch_rows(sql, *parameters)
        if not rows:
            raise NoTarget
        return [list(map(str, row)) for row in rows]

    def _kill(self, service_process: ServiceProcess) -> str:
        service_process.signal(signal.SIGKILL)
        self._schedule(self.rng.uniform(0, 1.2), lambda: service_process.start(self.span))
        return service_process.name

    def stop(self, service_process: ServiceProcess) -> str:
        """Stop a process as an operator does. It must end in time, and is started again."""
        if service_process.is_alive:
            service_process.signal(signal.SIGTERM)
        stopped_at = time.monotonic()

        def restart_when_ended() -> None:
            if service_process.is_alive and time.monotonic() - stopped_at < MAX_DRAIN:
                self._schedule(0.1, restart_when_ended)
                return
            if service_process.is_alive:
                self.problems.append(
                    f"{service_process.name} did not end within {MAX_DRAIN:.0f} s of SIGTERM"
                )
                service_process.running.kill()
            service_process.running.join()
            # A process that is just starting has no handler yet, and ends by the signal itself.
            if service_process.running.exitcode not in (0, -signal.SIGTERM):
                self.problems.append(
                    f"{service_process.name} ended with {service_process.running.exitcode} "
                    "after SIGTERM"
                )
            service_process.start(self.span)

        self._schedule(0.1, restart_when_ended)
        return service_process.name

    def _suspend(self, service_process: ServiceProcess) -> str:
        service_process.signal(signal.SIGSTOP)
        seconds = self.rng.uniform(0.5, 6)
        self._schedule(seconds, lambda: service_process.signal(signal.SIGCONT))
        return f"{service_process.name} for {seconds:.1f} s"

    def _kill_postgres(self) -> str:
        postgres = self.installation.postgres
        if postgres.process is None or postgres.process.poll() is not None:
            raise NoTarget
        self.installation.kill_postgres()
        seconds = self.rng.choice((0.0, 0.5, 2.0))

        def restart() -> None:
            postgres.start()
            self.database_harmed_at.append(time.monotonic())

        self.database_harmed_at.append(time.monotonic() + seconds)
        self._schedule(seconds, restart)
        return f"away for {seconds} s"

    def _kill_backend(self) -> object:
        ((pid,), *_) = self._fetch_rows(
            "SELECT pid FROM pg_stat_activity "
            "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() "
            "ORDER BY random() LIMIT 1"
        )
        os.kill(int(pid), signal.SIGKILL)
        return pid

    def _terminate_connections(self) -> object:
        return self._fetch_rows(
            "SELECT pid, pg_terminate_backend(pid), application_name, left(query, 80) "
            "FROM pg_stat_activity "
            "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() "
            "ORDER BY random() LIMIT %s",
            self.rng.choice((1, 2, 5)),
        )

    def _delete_jobs(self, status: str) -> object:
        return self._fetch_rows(
            "DELETE FROM procrastinate_jobs WHERE id IN "
            "(SELECT id FROM procrastinate_jobs WHERE status = %s ORDER BY random() LIMIT %s) "
            "RETURNING id, task_name, args",
            status,
            self.rng.choice((1, 2)),
        )

    def _delete_workers(self) -> object:
        return self._fetch_rows(
            "DELETE FROM procrastinate_workers WHERE id IN "
            "(SELECT id FROM procrastinate_workers ORDER BY random() LIMIT %s) RETURNING id",
            self.rng.choice((1, 1, 3)),
        )


def _draw_kinds(rng: Random, count: int) -> list[str]:
    """Return the kinds of `count` harms in a random order, with the shares of KINDS."""
    hundred: list[str] = []
    for kind, times in KINDS.items():
        hundred += [kind] * times
    whole, rest = divmod(count, len(hundred))
    # Every kind at least once, if the number allows it.
    each = list(KINDS) if rest >= len(KINDS) else []
    kinds = hundred * whole + each + rng.sample(hundred, rest - len(each))
    rng.shuffle(kinds)
    return kinds


def slow_provider_rules(rng: Random, first: date) -> list[dict[str, Any]]:
    """
    Return a fault script of a year, for the simulators.

    Every few days a provider sends no answer, sends it slowly, or breaks it off.
    """
    rules: list[dict[str, Any]] = []
    for day in range(366):
        noon = datetime.combine(first + timedelta(days=day), clock_time(12), UTC)
        window = {
            "since": noon.isoformat(),
            "until": (noon + timedelta(hours=12)).isoformat(),
            "times": 1,
        }
        if rng.random() < 0.15:
            fault = rng.choice(("hang", "hang", "slow", "cut"))
            rules.append({"provider": "alphavantage", "fault": fault, **window})
        if rng.random() < 0.15:
            fault = rng.choice(("hang", "slow", "cut"))
            rules.append({"provider": "openai", "fault": fault, **window})
    return rules


# The faults with which the server of one model fails a whole Monday: it hangs, it answers nonsense,
# it refuses the key, and it does not have the model any more.
MONDAY_FAULTS = ("hang", "prose", "bad_key", "unknown_model")
# How long such a fault lasts, from the midnight (in New York) with which the Monday begins: as long
# as a question of the Monday may be asked, and a little longer.
_MONDAY_FAULT_LASTS = timedelta(hours=30)


def broken_series_rules(rng: Random, first: date) -> list[dict[str, Any]]:
    """
    Return a fault script of a year, for the simulators of the models.

    On every third Monday or so, the server of one model fails all day. The other series must have
    their batches.
    """
    rules: list[dict[str, Any]] = []
    for week in range(53):
        midnight = calendar.from_new_york(first + timedelta(weeks=week), clock_time(0))
        series = rng.choice(storm_series.MODELS)
        fault = rng.choice(MONDAY_FAULTS)
        if rng.random() < 0.35:
            rule = {
                "provider": "openai",
                "function": series.model,
                "fault": fault,
                "since": midnight.isoformat(),
                "until": (midnight + _MONDAY_FAULT_LASTS).isoformat(),
            }
            rules.append(rule)
    return rules


# A client has to store these answers, so they are not drawn. In the first two, nothing but the
# block chain shows the fault. The third has another service's attestation beside the right one.
_STORED_FAULTS = ("other_digest", "false_block", "unknown_attestation_beside")
# All other faults of the services that stamp, by their names in a fault script.
_STAMP_FAULTS = {
    "timestamp": list(faults.TIMESTAMP),
    timestamp_calendar.PROVIDER: [
        name for name in timestamp_calendar.FAULTS if name not in _STORED_FAULTS
    ],
}
# The faults of an outage, in which no request succeeds. All of them are quick: simulated time waits
# for each request, and there are many.
_OUTAGE_FAULTS = ("cut", "html", "http_503", "redirect")


def failing_stamp_rules(rng: Random, first: date) -> list[dict[str, Any]]:
    """
    Return a fault script of a year, for the simulators of the services that stamp.

    On every third day or so, a service sends one to three wrong answers. About once a fortnight it
    is away for some hours, from before the open until after it. It is back by the evening, so that
    the last stamps of the calm can be made.
    """
    rules: list[dict[str, Any]] = []
    for day, provider in product(range(366), _STAMP_FAULTS):
        morning = datetime.combine(first + timedelta(days=day), clock_time(12), UTC)
        if rng.random() < 0.07:
            away = {
                "provider": provider,
                "fault": rng.choice(_OUTAGE_FAULTS),
                "since": morning.isoformat(),
                "until": (morning + timedelta(hours=rng.uniform(1.5, 8))).isoformat(),
            }
            rules.append(away)
        elif rng.random() < 0.35:
            wrong = {
                "provider": provider,
                "fault": rng.choice(_STAMP_FAULTS[provider]),
                "since": morning.isoformat(),
                "until": (morning + timedelta(hours=12)).isoformat(),
                "times": rng.randint(1, 3),
            }
            rules.append(wrong)
    return rules
