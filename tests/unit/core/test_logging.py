"""What a line of the log must not contain, and how long it may be."""

import asyncio
import gc
import io
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
import structlog
from clocks import HandSetClock
from job_context import ALPHA_VANTAGE_KEY, MONDAY, new_york
from procrastinate.exceptions import ConnectorException
from psycopg_pool import PoolTimeout

from app.core import logging as logs


@contextmanager
def configured(to: io.StringIO) -> Iterator[None]:
    """Log into `to` within the block, and restore the configuration afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    logs.configure("INFO", HandSetClock(new_york(MONDAY)).now, [], to=to)
    try:
        yield
    finally:
        root.handlers = handlers
        root.setLevel(level)
        structlog.reset_defaults()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    "stream", [pytest.param(Terminal, id="terminal"), pytest.param(io.StringIO, id="file")]
)
def test_a_traceback_shows_no_key(stream):
    """A traceback shows no key, neither in the error's text nor among local variables."""
    to, root = stream(), logging.getLogger()
    handlers, level = root.handlers, root.level
    logs.configure("INFO", HandSetClock(new_york(MONDAY)).now, [ALPHA_VANTAGE_KEY], to=to)
    try:
        address = f"https://example.org/query?apikey={ALPHA_VANTAGE_KEY}"
        try:
            raise RuntimeError(address)
        except RuntimeError:
            logging.getLogger("procrastinate.worker").exception("Job ended")
    finally:
        root.handlers = handlers
        root.setLevel(level)
    assert "RuntimeError: https://example.org/query?apikey=***" in to.getvalue()
    assert ALPHA_VANTAGE_KEY not in to.getvalue()


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("x" * 1_000_000, id="a text"),
        pytest.param(["x" * 1_000_000], id="a list"),
        pytest.param({"a": {"b": "x" * 1_000_000}}, id="an object"),
        pytest.param("\x1b" * 1_000_000, id="controls"),
    ],
)
def test_a_line_is_bounded(value):
    """
    Each text of a line has at most 10,000 characters: its beginning, its end, and how much is
    left out.
    """
    to = io.StringIO()
    with configured(to):
        structlog.get_logger().warning("it failed", reason=value, about="short")
    (line,) = map(json.loads, to.getvalue().splitlines())
    text = str(line["reason"])
    assert len(text) < 11_000
    assert "[... 990,000 characters ...]" in text
    assert line["about"] == "short"


def test_a_traceback_is_bounded():
    """
    A long text that Postgres quotes in its error is shortened; the traceback is still complete.
    """
    to = io.StringIO()
    with configured(to):
        try:
            raise psycopg.DataError(
                "invalid input syntax for type json\nDETAIL: " + "x" * 1_000_000
            )
        except psycopg.DataError:
            logging.getLogger("procrastinate.worker").exception("Job ended")
    (line,) = map(json.loads, to.getvalue().splitlines())
    assert len(line["exception"]) == logs.MAX_TEXT_LENGTH
    assert "test_a_traceback_is_bounded" in line["exception"]
    assert "invalid input syntax for type json" in line["exception"]


def unavailable(cause: Exception) -> ConnectorException:
    error = ConnectorException()
    error.__cause__ = cause
    return error


@pytest.mark.parametrize("library", ["procrastinate.worker", "procrastinate.app", "asyncio"])
@pytest.mark.parametrize(
    ("error", "is_logged"),
    [
        pytest.param(unavailable(psycopg.errors.AdminShutdown("ended")), False, id="ended"),
        pytest.param(unavailable(psycopg.OperationalError("refused")), False, id="refused"),
        pytest.param(psycopg.OperationalError("refused"), False, id="psycopg's own"),
        pytest.param(PoolTimeout("no connection"), False, id="no connection"),
        pytest.param(psycopg.DataError("no number"), True, id="wrong data"),
        pytest.param(unavailable(psycopg.errors.UndefinedTable("none")), True, id="no table"),
        pytest.param(ValueError("wrong"), True, id="another error"),
    ],
)
def test_a_library_does_not_repeat_an_outage(library, error, is_logged):
    """The outage has its own line; every other error is logged, with its traceback."""
    to = io.StringIO()
    with configured(to):
        try:
            raise error
        except Exception:
            logging.getLogger(library).exception("Job ended")
    assert ("Traceback" in to.getvalue()) is is_logged


async def test_a_task_that_failed_in_an_outage():
    """asyncio reports a task whose error was never read; an outage is not repeated here either."""
    to = io.StringIO()

    async def fail(error: Exception) -> None:
        raise error

    with configured(to):
        errors = (unavailable(psycopg.errors.AdminShutdown("ended")), ValueError("wrong"))
        tasks = [asyncio.create_task(fail(error)) for error in errors]
        await asyncio.wait(tasks)
        del tasks, errors
        gc.collect()
    lines = [json.loads(line) for line in to.getvalue().splitlines()]
    (line,) = [line for line in lines if "never retrieved" in line["event"]]
    assert "ValueError: wrong" in line["exception"]
