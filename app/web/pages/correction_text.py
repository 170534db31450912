"""How pages and the feed describe a correction: the figure's name, its old and its new value."""

from collections.abc import Mapping
from typing import Any

from app.web.formatting import at_most_four_decimals

# The names of figures whose column names need an explanation.
_FIGURE_NAMES = {
    "vs_benchmark_pct": "change less the benchmark's, whatever the call, %",
    "absolute_return_pct": "change, whatever the call, %",
    "return_from_open_pct": "change from the open, whatever the call, %",
    "benchmark_return_pct": "benchmark change, %",
    "dividends": "dividends for each share, $",
    "total_return_pct": "change with dividends, whatever the call, %",
    "vs_benchmark_total_pct": "change with dividends less the benchmark's, whatever the call, %",
    "spin_off_counted_once": "spin-off listed twice",
    "benchmark_dividends": "benchmark dividends for each share, $",
    "benchmark_total_return_pct": "benchmark change with dividends, %",
    "benchmark_spin_off_counted_once": "benchmark spin-off listed twice",
    "further_return_pct": "change of another benchmark, %",
    "current_price": "price",
    "entry_open": "first open",
    "skip_reason": "reason why it was skipped",
    "trading_day": "session",
}


def figure_name(column: str) -> str:
    """Return the name of a corrected figure. A correction names the figure by its column."""
    return _FIGURE_NAMES.get(column) or column.replace("_", " ")


def before_and_after(correction: Mapping[str, Any]) -> tuple[str, str]:
    """
    Return the old and the new value of a corrected figure.

    Both are rounded to four decimals. If they would then be equal, both are returned in full.
    """
    full_before = _value_text(correction["before"])
    full_after = _value_text(correction["after"])
    before = at_most_four_decimals(full_before)
    after = at_most_four_decimals(full_after)
    if before == after:
        return full_before, full_after
    return before, after


def _value_text(value: str | None) -> str:
    return "nothing" if value is None else value
