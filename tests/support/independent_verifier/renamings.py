"""Renamings that are not forced: docs/journal.md, "Closes that fit", a part of `renaming`."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from independent_verifier.api import Row
from independent_verifier.known import (
    ABOUT,
    Entry,
    Known,
    Readings,
    TrackedShare,
    day_of,
    moment,
    product,
    share_named,
)
from independent_verifier.refused import require
from independent_verifier.sessions import DAY

HOUR = timedelta(hours=1)
CENT = Decimal("0.01")
LARGE = Decimal("0.10")


@dataclass
class UnforcedRenaming:
    """A renaming that claims that the closes fit."""

    entry: Entry
    share: TrackedShare  # before the renaming
    new: str
    baseline: str
    before: list[str]  # each day that may be the last session before its first one
    first: str


class Renamings:
    """Collects the renamings that are not forced, and checks them when all readings are known."""

    def __init__(self, known: Known) -> None:
        self.known = known
        self.renamings: list[UnforcedRenaming] = []

    def take(self, entry: Entry, share: TrackedShare | None) -> None:
        """Collect a renaming. `share` is the pick's share before the entry."""
        renaming = entry.content.get("renaming")
        if share is None or renaming is None or renaming["forced"] == "true":
            return
        pick = entry.content["pick"]
        first = renaming["from_session"]
        before = [str(day) for day in self.known.calendar.last_sessions(day_of(first))]
        baseline = self.known.batch(pick["batch_id"])["trading_day"]
        self.renamings.append(
            UnforcedRenaming(
                entry=entry,
                share=share,
                new=pick["ticker"],
                baseline=baseline,
                before=before,
                first=first,
            )
        )

    def finish(self, readings: Readings) -> None:
        """Raise RecordRefused for a renaming whose closes do not fit."""
        for renaming in self.renamings:
            moments = times(renaming, readings)
            fits = any(does_fit(renaming, readings, until) for until in moments)
            text = f"{renaming.entry.where}: the closes of {renaming.new} do not fit"
            require(fits, "renaming", text)


def times(renaming: UnforcedRenaming, readings: Readings) -> list[datetime]:
    """Return the times up to which readings may have been known."""
    latest = renaming.entry.at + ABOUT
    earliest = renaming.entry.at - HOUR
    names = {*renaming.share.all_tickers, renaming.new}
    read = [
        moment(row["read_at"])
        for (ticker, _), rows in readings.closes.items()
        for row in rows
        if ticker in names
    ]
    return [latest, *(time for time in read if earliest < time <= latest)]


def does_fit(renaming: UnforcedRenaming, readings: Readings, until: datetime) -> bool:
    """Return whether the closes that were known at a time fit."""
    old = newest_closes(
        readings,
        renaming.share,
        first=renaming.baseline,
        last=str(day_of(renaming.first) - DAY),
        until=until,
    )
    if not old:
        return True
    last, price = max(old.items())
    new = newest_closes(
        readings,
        share_named(renaming.new),
        first=renaming.baseline,
        last="9999-12-31",
        until=until,
    )
    if last in renaming.before and last in new and abs(new[last] - price) <= CENT:
        return True
    since = [day for day in sorted(new) if day >= renaming.first]
    if not since:
        return False
    day = since[0]
    splits = {
        row["effective_date"]: row
        for row in sorted(readings.splits.get(renaming.new, []), key=read_at)
        if moment(row["read_at"]) <= until and row["effective_date"] >= renaming.first
    }
    factor = product(dict(sorted(splits.items())), last, day)
    return abs(new[day] * factor - price) < LARGE * price


def newest_closes(
    readings: Readings, share: TrackedShare, first: str, last: str, until: datetime
) -> dict[str, Decimal]:
    """Return the closes of a share by session, from the newest reading of each."""
    newest: dict[str, Row] = {}
    for (ticker, day), rows in readings.closes.items():
        if not first <= day <= last or ticker not in share.tickers_on(day):
            continue
        for row in rows:
            if moment(row["read_at"]) <= until:
                newest[day] = max(newest.get(day, row), row, key=read_at)
    return {day: Decimal(row["close"]) for day, row in newest.items()}


def read_at(row: Row) -> str:
    """Return the time at which a row was read, as a sort key."""
    return row["read_at"]
