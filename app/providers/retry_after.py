"""The `Retry-After` header of an HTTP response."""

from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime

_MAX_WAIT = timedelta(days=1)


def parse_retry_after(text: str, now: datetime) -> datetime | None:
    """
    Return the time until which a `Retry-After` header asks us to wait: at most a day after `now`.

    `text` is a number of seconds or an HTTP date. Return None for a time that has passed and for a
    text that cannot be parsed.
    """
    # Python also reads the digits of other scripts; HTTP has only those of ASCII.
    if not text.isascii():
        return None
    try:
        if text.isdecimal():
            until = now + timedelta(seconds=int(text))
        else:
            until = parsedate_to_datetime(text)
        # A date without a time zone cannot be compared with `now`: that is the TypeError below.
        if until <= now:
            return None
        return min(until, now + _MAX_WAIT)
    except (ValueError, TypeError, OverflowError):
        return None
