"""How exactly times of different rows are compared."""

from bisect import bisect_right
from collections.abc import Sequence
from datetime import datetime, timedelta

# The clocks of two processes can differ a little: what the rules call `about` (docs/journal.md#the-rules).
ABOUT = timedelta(minutes=1)

# How long a row may take from its readings to its entry: meanwhile another job may read a newer one.
MEANWHILE = timedelta(hours=1)

_DAY = timedelta(days=1)


def long_over(times: Sequence[datetime]) -> datetime | None:
    """
    Return until when what was due is long over, or None if nothing is (docs/journal.md#what-is-long-over).

    `times`, in ascending order, show that it could be recorded: one at least a day after it was due, and one at least
    a day after that. A single entry whose clock was ahead shows nothing by itself.
    """
    if not times:
        return None
    before = bisect_right(times, times[-1] - _DAY)
    return times[before - 1] - _DAY if before else None
