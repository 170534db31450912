"""The `Retry-After` header of a response."""

from datetime import UTC, datetime, timedelta

import pytest

from app.providers.retry_after import parse_retry_after

NOON = datetime(2026, 11, 3, 12, tzinfo=UTC)


# The kind: a text that Python reads as a number or a date, and that HTTP does not.
@pytest.mark.parametrize(
    "text",
    [
        pytest.param("٧", id="a digit of another script"),
        pytest.param("１２０", id="wide digits"),
        pytest.param("Tue, ０3 Nov 2026 13:00:00 GMT", id="a date with such a digit"),
        pytest.param("1_0", id="an underscore"),
        pytest.param("1.5", id="a part"),
        pytest.param("-7", id="negative"),
        pytest.param("NaN", id="no number"),
        pytest.param("9" * 5000, id="more digits than Python reads"),
    ],
)
def test_what_is_no_time_is_ignored(text):
    """The caller then waits its usual time."""
    assert parse_retry_after(text, NOON) is None


@pytest.mark.parametrize(
    ("text", "after"),
    [
        pytest.param("7", timedelta(seconds=7), id="seconds"),
        pytest.param("Tue, 03 Nov 2026 13:00:00 GMT", timedelta(hours=1), id="a date"),
        pytest.param("999999", timedelta(days=1), id="more than a day"),
    ],
)
def test_a_time(text, after):
    """It is a day away at most."""
    assert parse_retry_after(text, NOON) == NOON + after
