"""The worked examples of total returns in docs/record.md agree with the code."""

import re
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from app.domain import dividends, returns, splits
from app.domain.model import Dividend, Split

RECORD = (Path(__file__).parents[2] / "docs" / "record.md").read_text()
SECTION = RECORD[RECORD.index("\n## Total return") : RECORD.index("\n## Further benchmarks")]
CASES = re.findall(
    r"^\| (\w[^|]*) \| ([\d.]+) \| ([\d.]+) \| ([^|]*)\| ([^|]*)\| ([\d.]+) \| ([\d.]+) \|$",
    SECTION,
    re.MULTILINE,
)
# A Friday, from which the days of the table are counted; the result is of the Friday after next.
BASELINE = date(2026, 10, 23)
RESULT = BASELINE + timedelta(days=14)
READ_AT = datetime(2026, 11, 8, tzinfo=UTC)


def by_day(text: str) -> list[tuple[date, Decimal]]:
    """Return the days and numbers of a cell such as `4: 0.2500, 6: 0.7500`."""
    pairs = re.findall(r"(\d+): ([\d.]+)", text)
    return [(BASELINE + timedelta(days=int(day)), Decimal(number)) for day, number in pairs]


def test_the_table_has_all_cases():
    assert len(CASES) == 11


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_a_row_of_the_table(case):
    name, initial, current, listed, paid, received, total = case
    factors = [
        Split(ticker="IBM", effective_date=day, factor=factor, source="test", read_at=READ_AT)
        for day, factor in by_day(listed)
    ]
    in_force = [
        Dividend(ticker="IBM", ex_date=day, amount=amount, source="test", read_at=READ_AT)
        for day, amount in by_day(paid)
    ]
    got = dividends.receive(
        in_force,
        initial=Decimal(initial),
        factors=factors,
        basis=BASELINE,
        after=BASELINE,
        through=RESULT,
    )
    assert got.per_share == Decimal(received)
    assert got.spin_off_counted_once == name.startswith("a spin-off")
    factor = splits.total_factor(factors, after=BASELINE, through=RESULT)
    change = dividends.total_return_pct(
        Decimal(initial), Decimal(current), factor=factor, received=got.per_share
    )
    assert change == Decimal(total)


def test_the_example_of_alpha():
    """A BUY of 3 % against SPY's quarterly dividend, and the SELL of the same share."""
    (of_spy,) = [case[-1] for case in CASES if case[0].startswith("SPY")]
    (alpha,) = re.findall(r"has a `totalAlphaPct` of ([\d.]+), and a SELL", SECTION)
    assert returns.subtract(Decimal(3), Decimal(of_spy)) == Decimal(alpha)
    assert f"has -{alpha}." in SECTION


def test_the_value_of_the_spin_off():
    assert round(100 * (1 - 1 / Decimal("1.1111")), 4) == Decimal("9.9991")
    assert "100.0000 * (1 - 1/1.1111) = 9.9991" in SECTION
