"""What a `Retry-After` means."""

from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime


def asked_to_wait(text: str, now: datetime) -> datetime | None:
    """Return until when a `Retry-After` asks us to wait: a day at most, and not at all if it cannot be read."""
    try:
        until = now + timedelta(seconds=int(text)) if text.isdecimal() else parsedate_to_datetime(text)
        return min(until, now + timedelta(days=1)) if until > now else None
    except (ValueError, TypeError, OverflowError):
        return None
