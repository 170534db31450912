"""How exactly the times of different rows are compared."""

from bisect import bisect_right
from collections.abc import Sequence
from datetime import datetime, timedelta

# The clocks of two processes can differ a little. A rule that allows this has "(± 1 min)" in
# docs/journal.md#the-rules.
CLOCK_TOLERANCE = timedelta(minutes=1)

# How long a job may take from its readings to its entry. Another job may store a newer reading in
# that time, which the entry need not use.
CONCURRENT_WINDOW = timedelta(hours=1)

_DAY = timedelta(days=1)


def overdue_limit(times: Sequence[datetime]) -> datetime | None:
    """
    Return the time up to which everything that was due is long over; None if nothing is.

    `times` are the times of entries, in ascending order. Something is long over if an entry was
    written at least a day after it was due, and another entry at least a day after that one. Two
    entries are needed because the clock of a single one may have been ahead. Definition:
    docs/journal.md#what-is-long-over.
    """
    if not times:
        return None
    before = bisect_right(times, times[-1] - _DAY)
    if not before:
        return None
    return times[before - 1] - _DAY
