"""Which batches a yearly check counts: those that are over, have picks and were not late."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest

from app.domain.calendar import Calendar
from app.domain.check_contents import SeriesStanding
from app.domain.model import Batch, BatchStatus, JournalHead, batch_id
from app.domain.verification.check_inputs import next_check, read_inputs
from app.domain.verification.state import JournalState

FIRST = date(2026, 10, 26)
AT = datetime(2026, 10, 26, 13, 1, tzinfo=UTC)
# The first check is of 25 October 2027.
CHECK = next_check(FIRST, held=0)


def make_batch(week: int, status: BatchStatus = BatchStatus.COMPLETED, *, late: bool) -> Batch:
    """Return a batch without picks; only one that has not failed has a baseline."""
    run_date = FIRST + timedelta(weeks=week)
    has_picks = status is not BatchStatus.FAILED
    return Batch(
        id=batch_id("main", run_date),
        series="main",
        run_date=run_date,
        created_at=AT + timedelta(weeks=week),
        status=status,
        late=late,
        benchmark_symbol="SPY",
        benchmark_initial_price=Decimal(600) if has_picks else None,
        trading_day=run_date - timedelta(days=3) if has_picks else None,
    )


def standing_of(*batches: Batch) -> SeriesStanding:
    """Return the only series of a record with these batches, at its first check."""
    state = JournalState(Calendar())
    for batch in batches:
        state.batches[batch.id] = batch
        state.mondays[batch.series, batch.run_date] = batch.id
    head = JournalHead(812, "f" * 64, CHECK.held_at)
    (standing,) = read_inputs(state, CHECK, head=head, rules_at=AT).standings
    return standing


def test_only_batches_that_are_over_are_counted():
    """The last one is of 11 October 2027, 14 days before the check."""
    standing = standing_of(*(make_batch(week, late=False) for week in range(54)))
    mondays = [batch.monday for batch in standing.batches]
    assert (mondays[0], mondays[-1]) == (FIRST, date(2027, 10, 11))
    assert len(mondays) == 51


@pytest.mark.parametrize(
    ("status", "late"),
    [(BatchStatus.FAILED, False), (BatchStatus.FAILED, True), (BatchStatus.COMPLETED, True)],
)
def test_failed_and_late_mondays(status, late):
    """They are not counted. Those from the check before to the day before this one are lost."""
    lost = [make_batch(week, status, late=late) for week in (1, 51, 52)]
    standing = standing_of(make_batch(0, late=False), *lost)
    assert [batch.monday for batch in standing.batches] == [FIRST]
    assert standing.failed_mondays == 2
