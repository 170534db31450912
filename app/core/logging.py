"""
Logs: structlog for our lines and the libraries', readable on a terminal and JSON elsewhere.

A line carries the time of the process's clock (told, in a rehearsal), what happened, and at its end whose it is: the
request, or the job with its task, run date, day, batch, attempt and step. `docs/operate/log.md` reads one.
"""

import logging
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import IO, Any

import structlog
from structlog.typing import EventDict, Processor

from app.core.presence import is_away, is_denied, why
from app.domain.journal import timestamp
from app.domain.text import redact, shortened
from app.errors import AlphaMondayError

# What Procrastinate says at INFO of every job's start and end is in our own lines already, and longer.
_QUIETER = {
    "procrastinate": logging.WARNING,
    "httpx": logging.WARNING,
    "httpx2": logging.WARNING,
    "uvicorn.error": logging.WARNING,
}


# In characters, of each text of a line. Ours are far below it; an error of Postgres quotes the value that it is about,
# and its traceback, of some 5,000, has its cause at the end.
LONGEST_TEXT = 10_000

# What psycopg's pool says of each attempt to connect and of each connection that has ended: `app.core.presence` says
# once that the database is away, with the cause, and once that it is back.
_OF_EACH_ATTEMPT = ("error connecting in ", "reconnection attempt in ", "discarding closed connection")

# Whose a line is, in the order in which it says so.
_WHOSE = ("request", "job", "task", "run_date", "day", "batch", "attempt", "step")


def configure(level: str, now: Callable[[], datetime], secrets: Sequence[str] = (), to: IO[str] | None = None) -> None:
    """Send all logs to `to` (standard error by default), with the time that `now` tells and never a secret."""
    stream = to or sys.stderr

    def time_of(_: Any, __: str, event: EventDict) -> EventDict:
        first = {"at": timestamp(now()), "level": event.pop("level"), "event": event.pop("event")}
        whose = {name: event.pop(name) for name in _WHOSE if name in event}
        return {**first, **event, **whose}

    def without_secrets(_: Any, __: str, event: EventDict) -> EventDict:
        return {name: _quoted(value, secrets) for name, value in event.items()}

    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        _of_its_job,
        time_of,
        _expected,
    ]
    # A traceback becomes text before secrets are taken out, and shows no locals: they hold addresses with keys.
    render: Processor = (
        structlog.dev.ConsoleRenderer(colors=True, exception_formatter=structlog.dev.plain_traceback)
        if stream.isatty()
        else structlog.processors.JSONRenderer(default=str)
    )
    last: list[Processor] = [structlog.processors.format_exc_info, without_secrets, render]
    handler = logging.StreamHandler(stream)
    if level != "DEBUG":
        handler.addFilter(_is_news)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last], foreign_pre_chain=shared
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for name, least in _QUIETER.items():
        logging.getLogger(name).setLevel(max(least, root.level) if root.level > logging.DEBUG else logging.DEBUG)
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def _is_news(record: logging.LogRecord) -> bool:
    """Return whether a line is more than one of the many that the libraries have for a database that is away."""
    if record.name == "psycopg.pool":
        return not str(record.msg).startswith(_OF_EACH_ATTEMPT)
    if record.name.partition(".")[0] == "procrastinate" and record.exc_info:
        error = record.exc_info[1]
        return error is None or not is_away(error)
    return True


def _of_its_job(_: Any, __: str, event: EventDict) -> EventDict:
    """Let what Procrastinate says of a job say whose it is as our own lines do: it speaks when the job is over."""
    job = getattr(event.get("_record"), "job", None)
    if isinstance(job, dict):
        about = job.get("task_kwargs") or {}
        batch, day = about.get("batch_id"), about.get("day")
        event.update({"batch": batch, "day": day} if batch else {})
        event.update(job=job.get("id"), task=job.get("task_name"), attempt=job.get("attempts", 0) + 1)
    return event


def _expected(_: Any, __: str, event: EventDict) -> EventDict:
    """Give an error that explains itself as a reason, without the way it took."""
    error = event.get("exc_info")
    error = error[1] if isinstance(error, tuple) else error
    if error is True:
        error = sys.exc_info()[1]
    if isinstance(error, AlphaMondayError):
        del event["exc_info"]
        event["reason"] = str(error)
    elif isinstance(error, BaseException) and is_denied(error):
        del event["exc_info"]
        event["reason"] = f"{why(error)}. `alpha-monday roles --check` names the rights that are missing."
    return event


def _quoted(value: Any, secrets: Sequence[str]) -> Any:
    """Return a value of a line without secrets, every text in it of a bounded length."""
    if isinstance(value, str):
        return shortened(redact(value, secrets), LONGEST_TEXT)
    if isinstance(value, dict):
        return {name: _quoted(item, secrets) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_quoted(item, secrets) for item in value]
    return value
