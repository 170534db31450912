"""What pages and the feed say of a correction: the figure by name, and what it was and is, in short."""

from collections.abc import Mapping
from typing import Any

from app.web.formatting import shortened

_NAMES = {
    "vs_benchmark_pct": "change less the benchmark's, whatever the call, %",
    "absolute_return_pct": "change, whatever the call, %",
    "return_from_open_pct": "change from the open, whatever the call, %",
    "benchmark_return_pct": "benchmark change, %",
    "current_price": "price",
    "entry_open": "first open",
    "skip_reason": "reason why it was skipped",
    "trading_day": "session",
}


def named(field: str) -> str:
    """Return the name of a corrected figure, which the record calls by its column."""
    return _NAMES.get(field) or field.replace("_", " ")


def shown(made: Mapping[str, Any]) -> tuple[str, str]:
    """Return what a figure was and is, to four decimals; in full where these do not tell them apart."""
    was, is_now = _in_words(made["before"]), _in_words(made["after"])
    before, after = shortened(was), shortened(is_now)
    return (was, is_now) if before == after else (before, after)


def _in_words(value: str | None) -> str:
    return "nothing" if value is None else value
