"""
Logging: structlog formats our own lines and those of the libraries.

Lines are readable text on a terminal, and JSON elsewhere. Each has the time of the process's clock
(simulated time in a rehearsal), a level, an event, and at its end the log context: the request, or
the job with its task, run date, day, batch, attempt and step. docs/operate/log.md explains the
events and the fields.
"""

import logging
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import IO, Any

import structlog
from structlog.typing import EventDict, Processor

from app.core.availability import describe_cause, is_permission_denied, is_unavailable
from app.domain.journal import format_timestamp
from app.domain.text import redact, shorten_middle
from app.errors import AlphaMondayError

# The lowest level at which a library's lines are logged, unless the level of the log is DEBUG. At
# INFO, Procrastinate logs the start and the end of each job; our own lines report these with more
# detail. The HTTP clients log each request, and uvicorn logs its own start and end.
_LIBRARY_LEVELS = {
    "procrastinate": logging.WARNING,
    "httpx": logging.WARNING,
    "httpx2": logging.WARNING,
    "uvicorn.error": logging.WARNING,
}

# The maximum length of each text in a line, in characters. Our own texts are far shorter, but an
# error of Postgres quotes the value that caused the error, however long that value is.
# `shorten_middle` keeps both ends of a text. The calls of a traceback (about 5,000 characters) are
# at the beginning of its text, before the quoted value, so they stay.
MAX_TEXT_LENGTH = 10_000

# How psycopg's pool begins its lines about each attempt to connect and each lost connection. These
# lines are not logged, except at level DEBUG: `app.core.availability` logs one warning with the
# cause, and one line when the database is available again.
_POOL_NOISE = (
    "error connecting in ",
    "reconnection attempt in ",
    "discarding closed connection",
)

# The libraries that log an error of a job although `app.core.availability` has logged the outage
# that caused it. asyncio does so if the end of a job could not be stored while the worker ends.
_REPEATING_LIBRARIES = ("procrastinate", "asyncio")

# The fields of the log context, in the order in which a line has them.
_CONTEXT_FIELDS = ("request", "job", "task", "run_date", "day", "batch", "attempt", "step")


def configure(
    level: str, now: Callable[[], datetime], secrets: Sequence[str] = (), to: IO[str] | None = None
) -> None:
    """
    Configure all logging of this process.

    `level` is the lowest level that is logged. `now` returns the time of a line. `secrets` are
    replaced by `***` in every text. `to` is the output, standard error by default.
    """
    stream = to or sys.stderr
    processors: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        _add_job_context,
        _order_fields(now),
        _shorten_expected_errors,
    ]

    handler = logging.StreamHandler(stream)
    if level != "DEBUG":
        handler.addFilter(_is_relevant)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                # A traceback must become text before secrets are redacted. It never shows local
                # variables, because these hold addresses with keys.
                structlog.processors.format_exc_info,
                _redact_secrets(secrets),
                _renderer(stream),
            ],
            foreign_pre_chain=processors,
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    _set_library_levels(root.level)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *processors,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def _set_library_levels(level: int) -> None:
    for name, lowest in _LIBRARY_LEVELS.items():
        logger = logging.getLogger(name)
        if level > logging.DEBUG:
            logger.setLevel(max(lowest, level))
        else:
            logger.setLevel(logging.DEBUG)


def _renderer(stream: IO[str]) -> Processor:
    """Return the last processor of a line, which writes the line's fields as text."""
    if stream.isatty():
        return structlog.dev.ConsoleRenderer(
            colors=True, exception_formatter=structlog.dev.plain_traceback
        )
    return structlog.processors.JSONRenderer(default=str)


def _order_fields(now: Callable[[], datetime]) -> Processor:
    """Return a processor that adds the time, and puts the log context at the end of a line."""

    def order(_: Any, __: str, event: EventDict) -> EventDict:
        first = {
            "at": format_timestamp(now()),
            "level": event.pop("level"),
            "event": event.pop("event"),
        }
        context = {name: event.pop(name) for name in _CONTEXT_FIELDS if name in event}
        return {**first, **event, **context}

    return order


def _redact_secrets(secrets: Sequence[str]) -> Processor:
    """Return a processor that replaces secrets in all fields, and shortens long texts."""

    def redact_fields(_: Any, __: str, event: EventDict) -> EventDict:
        return {name: _safe_value(value, secrets) for name, value in event.items()}

    return redact_fields


def _safe_value(value: Any, secrets: Sequence[str]) -> Any:
    """Return a field's value without secrets, and with each long text in it shortened."""
    if isinstance(value, str):
        return shorten_middle(redact(value, secrets), MAX_TEXT_LENGTH)
    if isinstance(value, dict):
        return {name: _safe_value(item, secrets) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_safe_value(item, secrets) for item in value]
    return value


def _is_relevant(record: logging.LogRecord) -> bool:
    """Return False for the libraries' repeated lines about a database that is unavailable."""
    if record.name == "psycopg.pool":
        return not str(record.msg).startswith(_POOL_NOISE)
    if record.name.partition(".")[0] in _REPEATING_LIBRARIES and record.exc_info:
        error = record.exc_info[1]
        return error is None or not is_unavailable(error)
    return True


def _add_job_context(_: Any, __: str, event: EventDict) -> EventDict:
    """
    Add the log context to a line that Procrastinate logs about a job.

    Procrastinate logs this line after the job has ended. At that time, the log context that the job
    itself has bound no longer exists.
    """
    job = getattr(event.get("_record"), "job", None)
    if not isinstance(job, dict):
        return event
    arguments = job.get("task_kwargs") or {}
    batch = arguments.get("batch_id")
    if batch:
        event.update(batch=batch, day=arguments.get("day"))
    event.update(job=job.get("id"), task=job.get("task_name"), attempt=job.get("attempts", 0) + 1)
    return event


def _shorten_expected_errors(_: Any, __: str, event: EventDict) -> EventDict:
    """
    Replace the traceback of an expected error by a field `reason`.

    The text of an AlphaMondayError says enough without a traceback. If the database's user lacks a
    right, the reason names the command that lists the missing rights.
    """
    error = event.get("exc_info")
    if isinstance(error, tuple):
        error = error[1]
    if error is True:
        error = sys.exc_info()[1]
    if isinstance(error, AlphaMondayError):
        del event["exc_info"]
        event["reason"] = str(error)
    elif isinstance(error, BaseException) and is_permission_denied(error):
        del event["exc_info"]
        event["reason"] = (
            f"{describe_cause(error)}. `alpha-monday roles --check` names the rights that are "
            "missing."
        )
    return event
