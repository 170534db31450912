"""
A year with providers that fail and list dividends wrongly: each total return is right in the end.

The expected figures are computed from the simulator's own dividends, with none of the service's
rules: what a holder of a share received, and the return with it.
"""

import json
from collections import Counter
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext
from typing import NamedTuple

import pytest
from commands import run
from independent_verifier.verifier import verify as verify_from_outside
from judged import Series

from app.domain.calendar import Calendar, new_york_date
from app.domain.splits import intended_factor
from app.simulation.dividends import UNKNOWN_VALUE
from app.simulation.market import Market
from app.simulation.rehearsal import _FAULT_SEED
from tests.scenarios.test_hostile_rehearsal import UNTIL, Hostile, hostile_rehearsal

pytestmark = pytest.mark.long

WEEKS = 52
# A batch is asked about on the Sundays of days 13, 27 and 41.
LAST_SUNDAY = timedelta(days=41)
MARKET = Market(Calendar(), hostile=_FAULT_SEED)
PRECISE = Context(prec=28, rounding=ROUND_HALF_EVEN)

ROWS = """
SELECT
    batches.run_date, batches.trading_day, checkpoints.trading_day, 'SPY', benchmark_initial_price,
    benchmark_price, benchmark_split_factor, benchmark_dividends, benchmark_total_return_pct,
    benchmark_spin_off_counted_once, NULL, NULL
FROM checkpoints
JOIN batches ON batches.id = batch_id
WHERE day = (SELECT max(day) FROM checkpoints AS other WHERE other.batch_id = batches.id
        AND skip_reason IS DISTINCT FROM 'MARKET_CLOSED')
    AND checkpoints.status = 'computed' AND batches.status = 'completed'
UNION ALL
SELECT
    batches.run_date, batches.trading_day, checkpoints.trading_day, ticker, initial_price,
    current_price, split_factor, dividends, total_return_pct, spin_off_counted_once,
    vs_benchmark_total_pct, benchmark_total_return_pct
FROM pick_checkpoint_metrics
JOIN picks ON picks.id = pick_id
JOIN checkpoints ON checkpoints.id = checkpoint_id
JOIN batches ON batches.id = picks.batch_id
WHERE day = (SELECT max(day) FROM checkpoints AS other WHERE other.batch_id = batches.id
        AND skip_reason IS DISTINCT FROM 'MARKET_CLOSED')
    AND checkpoints.status = 'computed' AND batches.status = 'completed'
"""


class Row(NamedTuple):
    """A result of a share, as it is stored."""

    run_date: date
    baseline: date
    session: date
    ticker: str
    initial: Decimal
    current: Decimal
    factor: Decimal
    dividends: Decimal | None
    total: Decimal | None
    is_spin_off: bool | None
    excess: Decimal | None
    benchmark: Decimal | None

    @property
    def place(self) -> str:
        return f"{self.ticker} of {self.run_date}"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory, create) -> Iterator[Hostile]:
    """Rehearse a year with the default faults, and serve it."""
    folder = tmp_path_factory.mktemp("dividends")
    with hostile_rehearsal(folder, create(), "--weeks", WEEKS, "--until", UNTIL) as hostile:
        hostile.weeks = WEEKS
        yield hostile


@pytest.fixture(scope="module")
def results(hostile) -> list[Row]:
    return [Row(*row) for row in hostile.rows(ROWS)]


@pytest.fixture(scope="module")
def asked(hostile) -> dict[str, list[datetime]]:
    """Return when the dividends of each ticker were read, oldest first."""
    times: dict[str, list[datetime]] = {}
    for entry in hostile.journal:
        response = json.loads(entry["content"]).get("response", {})
        if response.get("kind") == "DIVIDENDS":
            read_at = datetime.fromisoformat(response["read_at"])
            times.setdefault(response["ticker"], []).append(read_at)
    return times


def true_amounts(row: Row) -> dict[date, Decimal]:
    """Return what the share really paid between the two sessions, by ex-date."""
    amounts: dict[date, Decimal] = {}
    for one in MARKET.true_dividends(row.ticker, row.session):
        if one.ex_date > row.baseline:
            amounts[one.ex_date] = amounts.get(one.ex_date, Decimal(0)) + Decimal(one.amount)
    return amounts


def spin_offs(row: Row) -> set[date]:
    """Return the days between the two sessions on which a spin-off is listed as a dividend."""
    listed = MARKET.spin_offs_as_dividends(row.ticker, row.session)
    return {day for day, _ in listed if day > row.baseline}


def listed_amounts(row: Row, at: datetime) -> dict[date, Decimal] | None:
    """Return what the provider lists of this time; None if an amount or a date is unknown."""
    rows: dict[str, dict[str, str]] = {}
    for one in MARKET.dividends_known(row.ticker, at):
        rows.setdefault(json.dumps(one), one)
    amounts: dict[date, Decimal] = {}
    spun_off = {
        json.dumps(one) for _, one in MARKET.spin_offs_as_dividends(row.ticker, row.session)
    }
    for text, one in rows.items():
        if text in spun_off or one["ex_dividend_date"] == UNKNOWN_VALUE:
            continue
        day = date.fromisoformat(one["ex_dividend_date"])
        if not row.baseline < day <= row.session:
            continue
        if one["amount"] == UNKNOWN_VALUE:
            return None
        amounts[day] = amounts.get(day, Decimal(0)) + Decimal(one["amount"])
    return amounts


def series_of(ticker: str, last: date) -> Series:
    factors = {day: intended_factor(Decimal(text)) for day, text in MARKET.splits(ticker, last)}
    return Series({}, {}, factors)


def test_each_total_return_is_that_of_the_markets_own_dividends(results, asked):
    """
    To the last digit, wherever the provider's list was right when it was read last, and a dividend
    was not restated before it was read first.
    """
    compared, with_dividends, wrong = 0, 0, []
    for row in results:
        if row.total is None:
            continue
        after = [at for at in asked[row.ticker] if new_york_date(at) > row.session]
        amounts = true_amounts(row)
        series = series_of(row.ticker, row.session)
        if not is_listed_rightly(row, amounts, after) or row.factor != series.factor(
            row.baseline, row.session
        ):
            continue
        with localcontext(PRECISE):
            received = Decimal(0)
            for day, amount in sorted(amounts.items()):
                received += amount * series.factor(row.baseline, day)
            total = (row.current * row.factor + received - row.initial) / row.initial * 100
            stored = (row.dividends, row.total, row.is_spin_off)
            if stored != (received, total, bool(spin_offs(row))):
                wrong.append((row.place, stored, (received, total, bool(spin_offs(row)))))
            elif row.benchmark is not None and row.excess != row.total - row.benchmark:
                wrong.append((row.place, row.excess, row.total - row.benchmark))
        compared += 1
        with_dividends += bool(amounts)
    print(compared, "compared,", with_dividends, "with dividends, of", len(results))
    assert wrong == []
    assert compared > len(results) * 0.8
    assert with_dividends > WEEKS / 8


def is_listed_rightly(row: Row, amounts: dict[date, Decimal], after: list[datetime]) -> bool:
    """Return whether the last list is right, or restates what an earlier one had right."""
    last = listed_amounts(row, after[-1])
    if last == amounts:
        return listed_amounts(row, after[0]) == last or not is_restated_early(row, after)
    first = listed_amounts(row, after[0])
    return (
        first == amounts
        and last is not None
        and last.keys() == amounts.keys()
        and (is_any_restated(row))
    )


def is_any_restated(row: Row) -> bool:
    faults = {
        MARKET.dividend_fault(row.ticker, one)
        for one in MARKET.true_dividends(row.ticker, row.session)
        if one.ex_date > row.baseline
    }
    return "restated_amount" in faults


def is_restated_early(row: Row, after: list[datetime]) -> bool:
    """Return whether the first list had an amount restated already."""
    return is_any_restated(row) and listed_amounts(row, after[0]) != true_amounts(row)


def test_the_results_have_their_total_returns(results, asked):
    """All that were asked about on three Sundays, unless an amount cannot be read to this day."""
    missing = []
    old = [row for row in results if row.run_date + LAST_SUNDAY < UNTIL]
    for row in old:
        if row.total is None:
            missing.append(row.place)
    print(len(old), "results;", missing)
    assert len(old) > 2 * WEEKS
    assert missing == []


def test_the_dividends_were_often_listed_wrongly(hostile, results):
    """In many ways. Late ones have caused corrections with their reason, and no total was stale."""
    faults = Counter(
        MARKET.dividend_fault(row.ticker, one)
        for row in results
        for one in MARKET.true_dividends(row.ticker, row.session)
        if one.ex_date > row.baseline
    )
    print(faults)
    assert len(faults) >= 4
    assert faults.total() - faults[None] > WEEKS / 8
    rows = hostile.rows("SELECT DISTINCT reason FROM corrections WHERE field LIKE '%%total%%'")
    reasons = " ".join(reason for (reason,) in rows)
    assert "was read as" in reasons
    assert "computed again" not in reasons


def test_the_quota_was_never_exceeded(hostile):
    """Of requests that the provider received, at most 25 are in any 24 hours."""
    times = [one["at"] for one in hostile.requests_to("alphavantage")]
    gaps = [later - earlier for earlier, later in zip(times, times[25:], strict=False)]
    assert min(gaps) >= timedelta(days=1)
    functions = {one["function"] for one in hostile.requests_to("alphavantage")}
    assert "DIVIDENDS" in functions


def test_the_record_can_be_verified(hostile):
    """By the command, over the database."""
    done = run("verify", "--rehearsal", cwd=hostile.folder, DATABASE_URL=hostile.address)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_independent_verifier_computes_the_same(hostile, results):
    """It reads the record from outside, and computes every total return from the readings."""
    summary = verify_from_outside(hostile.url)
    print(summary)
    assert summary.totals == sum(row.total is not None for row in results)
    assert summary.links == 0
