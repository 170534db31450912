"""What decides whether a day was a session: docs/journal.md, "The calendar of a sealed record"."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date

from independent_verifier.api import Row
from independent_verifier.known import Entry, Known, Readings, day_of
from independent_verifier.mondays import is_late
from independent_verifier.record_calendar import STRUCK_OFF
from independent_verifier.refused import require
from independent_verifier.sessions import DAY

NO_SESSION = None


@dataclass
class Part:
    """A part of an entry that depends on days that were struck off."""

    rule: str
    entry: Entry
    benchmark: str
    possible: list[date | None]
    is_right: Callable[[date | None], bool]
    listed: set[str]  # the days that the newest settings up to the entry list


class DecidedDays:
    """Collects such parts, and checks them when all readings and settings are known."""

    def __init__(self, known: Known) -> None:
        self.known = known
        self.parts: list[Part] = []
        self.responses: list[Row] = []

    def take(self, entry: Entry) -> None:
        """Collect the parts of an entry of a sealed record."""
        known, calendar = self.known, self.known.calendar
        if response := entry.content.get("response"):
            self.responses.append(response)
        if not known.declared.sealed:
            return
        for _, row in entry.of("checkpoints"):
            day = day_of(row["checkpoint_date"]) - DAY
            skipped = row.get("skip_reason") == "MARKET_CLOSED"
            if skipped and calendar.state(day) == STRUCK_OFF:
                batch = known.batch(row["batch_id"])
                possible = [day, NO_SESSION]
                self.add("session", entry, batch, possible, lambda one: one is NO_SESSION)
        if entry.kind in ("BATCH", "FAILURE"):
            self.take_monday(entry, entry.content["batch"])
        for _, row in entry.of("picks"):
            if "entry_close_id" in row:
                batch = known.batch(row["batch_id"])
                session = day_of(known.close(row["entry_close_id"])["trading_day"])
                possible = calendar.first_sessions(day_of(batch["run_date"]))
                self.add("entry-open", entry, batch, possible, session.__eq__)

    def take_monday(self, entry: Entry, batch: Row) -> None:
        """Collect the parts of a Monday."""
        calendar, run_date = self.known.calendar, day_of(batch["run_date"])

        def has_its_late(session: date | None) -> bool:
            return is_late(batch, session) == batch["late"]

        self.add("late", entry, batch, calendar.first_sessions(run_date), has_its_late)
        if entry.kind == "BATCH":
            session = day_of(batch["trading_day"])
            possible = calendar.last_sessions(run_date)
            self.add("baseline-session", entry, batch, possible, session.__eq__)

    def add(
        self,
        rule: str,
        entry: Entry,
        batch: Row,
        possible: list[date | None],
        is_right: Callable[[date | None], bool],
    ) -> None:
        """Collect one part, if there is more than one possible session."""
        if len(possible) > 1:
            self.parts.append(
                Part(
                    rule=rule,
                    entry=entry,
                    benchmark=batch["benchmark_symbol"],
                    possible=possible,
                    is_right=is_right,
                    listed=set(self.known.declared.settings[-1]["days_without_session"]),
                )
            )

    def finish(self, readings: Readings) -> None:
        """Raise RecordRefused for a part that the readings of the record contradict."""
        for part in self.parts:
            fits = self.does_fit(part, readings)
            text = f"{part.entry.where}: not so, by the readings of {part.possible}"
            require(fits, part.rule, text)

    def does_fit(self, part: Part, readings: Readings) -> bool:
        """Return whether the first day that may be right is reached."""
        for day in part.possible:
            if part.is_right(day):
                if not self.is_taken_knowingly(part, day, readings):
                    return True
            elif self.is_struck_off(day) and self.is_session(part, day, readings):
                return False
        return False

    def is_taken_knowingly(self, part: Part, day: date | None, readings: Readings) -> bool:
        """Return whether an entry takes a closed day for a session, and its process knew better."""
        if not self.is_struck_off(day) or str(day) not in part.listed:
            return False
        return not self.is_session(part, day, readings) and self.is_closed(part, day)

    def is_struck_off(self, day: date | None) -> bool:
        """Return whether a day is struck off, by the settings of the whole journal."""
        return day is not NO_SESSION and self.known.calendar.state(day) == STRUCK_OFF

    def is_session(self, part: Part, day: date, readings: Readings) -> bool:
        """Point 1: the record has a reading of the benchmark of this day."""
        return bool(readings.closes.get((part.benchmark, str(day))))

    def is_closed(self, part: Part, day: date) -> bool:
        """Point 2: a response about the benchmark goes over the day."""
        before = str(self.known.calendar.nearest_session(day, -DAY))
        after = str(self.known.calendar.nearest_session(day, DAY))
        return any(
            response["kind"] == "CLOSES"
            and response["ticker"] == part.benchmark
            and response.get("first_session", "9999-12-31") <= before
            and response.get("last_session", "") >= after
            for response in self.responses
        )
