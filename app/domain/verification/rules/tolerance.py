"""How exactly the times of different rows are compared."""

from bisect import bisect_right
from collections.abc import Sequence
from datetime import datetime, timedelta

# The clocks of two processes can differ a little. A rule that allows this has "(± 1 min)" in
# docs/journal.md#the-rules.
CLOCK_TOLERANCE = timedelta(minutes=1)

# How long a job may take from its readings to its entry. In that time, another job may store a
# newer reading. The entry need not use this newer reading.
CONCURRENT_WINDOW = timedelta(hours=1)

_DAY = timedelta(days=1)


def overdue_limit(times: Sequence[datetime]) -> datetime | None:
    """
    Return the latest due time that is long over; None if no due time is long over.

    `times` are the times of entries, in ascending order. A due time is long over if one entry was
    written at least a day after it, and a second entry at least a day after this entry. For
    example, with entries at 13:00 on 12, 13 and 14 October, the result is 13:00 on 12 October. Two
    entries are needed because a single entry may have been written by a process whose clock was
    ahead of the real time. Definition: docs/journal.md#what-is-long-over.
    """
    if not times:
        return None
    before = bisect_right(times, times[-1] - _DAY)
    if not before:
        return None
    return times[before - 1] - _DAY
