"""A clock that is set by hand: it stands still, and waiting moves it. And the log as it is written by that clock."""

import asyncio
import io
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import structlog

from app import logs
from app.record import calendar


class JobClock:
    """Tells the time it was set to; a sleep takes no time but the told one, and is remembered in `slept`."""

    def __init__(self, now: datetime) -> None:
        self._now = now.astimezone(UTC)
        self.slept: list[float] = []

    def now(self) -> datetime:
        """The told time, in UTC."""
        return self._now

    async def sleep(self, seconds: float) -> None:
        """Move the told time on, and let others have their turn."""
        self.slept.append(seconds)
        self._now += timedelta(seconds=max(0.0, seconds))
        await asyncio.sleep(0)

    def set(self, now: datetime) -> None:
        """Put the hands somewhere else."""
        self._now = now.astimezone(UTC)


def new_york(day: date, hour: int = 9, minute: int = 0) -> datetime:
    """The moment at which New York's clocks show this."""
    return calendar.at(day, time(hour, minute))


@contextmanager
def logged(level: str, clock: JobClock, *secrets: str) -> Iterator[list[dict[str, Any]]]:
    """Log as the service does; the list holds the lines, ours and the libraries', when the context has ended."""
    root = logging.getLogger()
    loggers = {logging.getLogger(name): logging.getLogger(name).level for name in ("", *logs._QUIETER)}
    handlers, text, lines = root.handlers, io.StringIO(), []
    logs.configure(level, clock.now, secrets, to=text)
    try:
        yield lines
    finally:
        root.handlers = handlers
        for logger, before in loggers.items():
            logger.setLevel(before)
        structlog.reset_defaults()
        lines += map(json.loads, text.getvalue().splitlines())
