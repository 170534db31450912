"""Yearly checks of simulated records: what the entry of a check would say about each series."""

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Any

from app.domain import yearly_check
from app.domain.check_contents import CheckInputs, SeriesStanding, check_content
from app.domain.model import JournalHead
from app.domain.yearly_check import BatchResult, Side

# A check counts the batches whose Monday is at least this long before its date.
FORTNIGHT = timedelta(weeks=2)


def content_of(
    number: int, first: date, named: Mapping[str, Sequence[BatchResult]]
) -> dict[str, Any]:
    """
    Hold the check `number` of a record, and return the member `check` of its entry.

    `first` is the first Monday of the record, and `named` has all batches of each series, also
    those that are too young for the check.
    """
    on = yearly_check.check_date(first, number)
    standings = [
        SeriesStanding(
            name=name,
            batches=[batch for batch in batches if batch.monday <= on - FORTNIGHT],
        )
        for name, batches in named.items()
    ]
    inputs = CheckInputs(
        number=number,
        on=on,
        is_late=False,
        head=JournalHead(1, "f" * 64, yearly_check.held_at(on)),
        standings=standings,
        rates=[],
    )
    return check_content(inputs)


def findings_of(
    number: int, first: date, named: Mapping[str, Sequence[BatchResult]]
) -> dict[str, Side]:
    """Return what the check `number` finds, by the name of the series. Parameters as above."""
    findings = content_of(number, first, named)["findings"]
    return {one["series"]: one["side"] for one in findings}
