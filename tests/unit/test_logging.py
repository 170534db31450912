"""What the logs must not show."""

import io
import logging

import pytest
from clocks import HandSetClock
from job_tools import ALPHA_VANTAGE_KEY, MONDAY, new_york

from app.core import logging as logs


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stream", [pytest.param(Terminal, id="terminal"), pytest.param(io.StringIO, id="file")])
def test_a_traceback_shows_no_key(stream):
    """Not in the error's text, and not among the locals on its way."""
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
