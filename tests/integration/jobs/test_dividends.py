"""
Dividends: requested once a week, added to results as total returns, corrected when they change.

The kind: what the provider says about the dividends of a fortnight. Members tried: all goes well,
none at all, it refuses, it does not know the function, an amount cannot be read, a dividend is
listed late, withdrawn, moved, changed, restated for a split; a split that is learnt late; a share
that ended; a result that is computed later; no room in the quota; a record that is not sealed.
"""

from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from job_context import MONDAY, JobHarness, allow, new_york, run_attempt, run_until_done
from job_context import clock as clock
from job_context import harness as harness
from paid_dividends import add_total_returns, paid, refresh_dividends
from provider_server import says
from record_server import check_record
from sealing import unseal
from several_series import take_checkpoints

from app.errors import TryAgainAt
from jobs import daily, dividends, picks, reconcile, splits

SUNDAY = MONDAY + timedelta(days=13)
END = MONDAY + timedelta(days=14)
LATER = SUNDAY + timedelta(weeks=2)
LAST_LOOK = SUNDAY + timedelta(weeks=4)
# The session of the result, the eleventh day after the Monday.
RESULT = MONDAY + timedelta(days=11)
TUESDAY, WEDNESDAY = MONDAY + timedelta(days=1), MONDAY + timedelta(days=2)

TOTALS = """
SELECT ticker, dividends, total_return_pct, vs_benchmark_total_pct, spin_off_counted_once
FROM pick_checkpoint_metrics
JOIN picks ON picks.id = pick_id
JOIN checkpoints ON checkpoints.id = checkpoint_id
WHERE day = 12
ORDER BY position
"""
OF_BENCHMARK = """
SELECT benchmark_dividends, benchmark_total_return_pct, benchmark_spin_off_counted_once
FROM checkpoints WHERE day = 12
"""
CORRECTED = (
    "SELECT ticker, before, after FROM corrections WHERE field = 'dividends' ORDER BY made_at"
)
# No total return: the four columns of a metric.
NOTHING = (None, None, None, None)


async def live(harness: JobHarness) -> None:
    """Take the checkpoints of a fortnight, ask for its dividends, and add its total returns."""
    await take_checkpoints(harness, SUNDAY)
    await refresh_dividends(harness, SUNDAY)
    await take_checkpoints(harness, END)
    await add_total_returns(harness)


async def received(harness: JobHarness) -> dict[str, Decimal | None]:
    """Return the dividends of each pick at its result."""
    return {ticker: amount for ticker, amount, *_ in await harness.rows(TOTALS)}


def requested(harness: JobHarness) -> list[str]:
    """Return the tickers whose dividends were requested, in order."""
    queries = [request.query for request in harness.provider.requests if request.path == "/query"]
    return [query["symbol"] for query in queries if query["function"] == "DIVIDENDS"]


async def test_a_fortnight(harness, database):
    """
    SPY pays 6 of 600 (1 %), MSFT 0.03 of 3 before the last session and 0.06 after it, AAPL nothing,
    NVDA 0.07 on the baseline session and 0.14 of 7 in the fortnight.
    """
    harness.world.dividends = {
        "SPY": [paid(WEDNESDAY, "6.0000")],
        "MSFT": [paid(RESULT + timedelta(days=3), "0.06"), paid(RESULT, "0.0300")],
        "NVDA": [paid(MONDAY, "0.14"), paid(MONDAY - timedelta(days=3), "0.07")],
    }
    await harness.make_batch()
    await live(harness)
    assert await harness.rows(OF_BENCHMARK) == [(Decimal("6.0000"), 1, False)]
    assert await harness.rows(TOTALS) == [
        ("MSFT", Decimal("0.0300"), 1, 0, False),
        ("AAPL", 0, 0, -1, False),
        ("NVDA", Decimal("0.14"), 2, 1, False),
    ]
    assert requested(harness) == ["SPY", "MSFT", "AAPL", "NVDA"]
    newest = (await harness.journal())[-1]
    content = msgspec.json.decode(newest.content)
    assert newest.kind == "EXTENSION"
    assert sorted(one["ticker"] for one in content["dividends"]) == ["MSFT", "NVDA", "SPY"]
    await check_record(database)


async def test_none_at_all_is_zero(harness, database):
    """An empty list is an answer."""
    await harness.make_batch()
    await live(harness)
    assert await received(harness) == {"MSFT": 0, "AAPL": 0, "NVDA": 0}
    await check_record(database)


PREMIUM = {
    "Information": "Thank you for using Alpha Vantage! DIVIDENDS is a premium endpoint. You may "
    "subscribe to any of the premium plans to instantly unlock all premium endpoints."
}
UNKNOWN = {"Error Message": "This API function (DIVIDENDS) does not exist."}


@pytest.mark.parametrize(
    ("answer", "asked"), [(PREMIUM, 1), (UNKNOWN, 8)], ids=["premium", "no such function"]
)
async def test_a_provider_without_dividends(harness, database, answer, asked):
    """Results stand, total returns stay null, and nothing is skipped for it."""
    await harness.make_batch()
    await take_checkpoints(harness, SUNDAY)
    harness.clock.time = new_york(SUNDAY, 12)
    harness.world.instead = [says(answer) for _ in range(20)]
    again = await run_attempt(lambda: dividends.refresh(harness.context, SUNDAY))
    assert (again is None) == (answer is PREMIUM)
    # Two attempts for each of four tickers; a refusal ends the week.
    assert len(requested(harness)) == asked
    harness.world.instead = []
    await take_checkpoints(harness, END)
    await add_total_returns(harness)
    await reconcile.run_round(harness.context)
    assert [figures for _, *figures in await harness.rows(TOTALS)] == [[*NOTHING]] * 3
    skipped = await harness.rows(
        "SELECT count(*) FROM checkpoints WHERE skip_reason <> 'MARKET_CLOSED'"
    )
    assert skipped == [(0,)]
    await check_record(database)


async def test_a_dividend_that_is_listed_three_weeks_late(harness, database):
    """It is corrected, with the old and the new value."""
    await harness.make_batch()
    await live(harness)
    harness.world.dividends = {"MSFT": [paid(WEDNESDAY, "0.0300")]}
    await refresh_dividends(harness, LATER)
    assert await received(harness) == {"MSFT": Decimal("0.0300"), "AAPL": 0, "NVDA": 0}
    assert await harness.rows(CORRECTED) == [("MSFT", "0", "0.0300")]
    reasons = await harness.rows("SELECT DISTINCT reason FROM corrections")
    assert reasons == [(f"MSFT: the dividend of {WEDNESDAY} was read as 0.0300.",)]
    await check_record(database)


# What the provider lists first and later, and what counts then.
CHANGES: dict[str, tuple[list[Any], list[Any], str]] = {
    "withdrawn": ([paid(WEDNESDAY, "0.03")], [], "0"),
    "moved": ([paid(WEDNESDAY, "0.03")], [paid(TUESDAY, "0.03")], "0.03"),
    "moved out": ([paid(WEDNESDAY, "0.03")], [paid(RESULT + timedelta(days=3), "0.03")], "0"),
    "changed": ([paid(WEDNESDAY, "0.03")], [paid(WEDNESDAY, "0.04")], "0.04"),
    "a second one": (
        [paid(WEDNESDAY, "0.03")],
        [paid(WEDNESDAY, "0.03"), paid(WEDNESDAY, "0.50")],
        "0.53",
    ),
    "without a date": ([paid(WEDNESDAY, "0.03")], [paid("None", "0.03")], "0"),
    "unreadable": ([paid(WEDNESDAY, "0.03")], [paid(WEDNESDAY, "None")], "0.03"),
}


@pytest.mark.parametrize(("first", "later", "counted"), CHANGES.values(), ids=CHANGES)
async def test_a_change(harness, database, first, later, counted):
    """The newest response holds; an amount that cannot be read keeps what is known."""
    harness.world.dividends = {"MSFT": first}
    await harness.make_batch()
    await live(harness)
    harness.world.dividends = {"MSFT": later}
    await refresh_dividends(harness, LATER)
    amounts = await received(harness)
    assert amounts["MSFT"] == Decimal(counted)
    assert len(await harness.rows(CORRECTED)) == (counted != "0.03")
    await check_record(database)


async def test_an_amount_that_can_be_read_later(harness, database):
    """The total return is null until then: a missing amount is a missing amount."""
    harness.world.dividends = {"MSFT": [paid(WEDNESDAY, "None")]}
    await harness.make_batch()
    await live(harness)
    assert await received(harness) == {"MSFT": None, "AAPL": 0, "NVDA": 0}
    await check_record(database)
    harness.world.dividends = {"MSFT": [paid(WEDNESDAY, "0.03")]}
    await refresh_dividends(harness, SUNDAY + timedelta(weeks=1))
    assert await received(harness) == {"MSFT": Decimal("0.03"), "AAPL": 0, "NVDA": 0}
    assert await harness.rows(CORRECTED) == []
    await check_record(database)


async def test_a_split_that_is_learnt_late(harness, database):
    """A dividend after the split is per new share; one before it, restated, corrects nothing."""
    harness.world.dividends = {"MSFT": [paid(RESULT, "0.02"), paid(TUESDAY, "0.04")]}
    await harness.make_batch()
    await live(harness)
    assert (await received(harness))["MSFT"] == Decimal("0.06")
    harness.world.splits["MSFT"] = [(WEDNESDAY, "2.0000")]
    harness.clock.time = new_york(LATER, 11)
    await splits.refresh(
        harness.context, "MSFT", since=harness.clock.time, needed_since=harness.clock.time
    )
    # 0.04 for one share, and 0.02 for each of two.
    assert (await received(harness))["MSFT"] == Decimal("0.08")
    harness.world.dividends = {"MSFT": [paid(RESULT, "0.02"), paid(TUESDAY, "0.02")]}
    await refresh_dividends(harness, LATER)
    assert (await received(harness))["MSFT"] == Decimal("0.08")
    await check_record(database)


async def test_a_pick_that_ended(harness, database):
    """Its dividends count up to its last session."""
    harness.world.dividends = {
        "MSFT": [paid(WEDNESDAY, "0.03"), paid(RESULT - timedelta(days=2), "0.50")]
    }
    await harness.make_batch()
    await take_checkpoints(harness, MONDAY + timedelta(days=6))
    await picks.end(
        harness.context.pool,
        calendar=harness.context.calendar,
        now=harness.clock.time,
        run_date=MONDAY,
        ticker="MSFT",
        last_session=WEDNESDAY + timedelta(days=1),
        value=Decimal("3.5"),
        source="a press release",
        in_force=None,
    )
    await live(harness)
    assert (await received(harness))["MSFT"] == Decimal("0.03")
    await check_record(database)


async def test_a_result_that_is_computed_later(harness, database):
    """It gets its total return then, from the response that is stored already."""
    harness.world.dividends = {"MSFT": [paid(WEDNESDAY, "0.03")]}
    harness.world.absent.add(("MSFT", RESULT))
    batch = await harness.make_batch()
    for day in range(1, 15):
        harness.clock.time = max(harness.clock.time, new_york(MONDAY + timedelta(days=day)))
        await run_until_done(harness, lambda day=day: daily.take(harness.context, batch.id, day))
    await refresh_dividends(harness, SUNDAY)
    await add_total_returns(harness)
    assert await harness.rows(TOTALS) == []
    harness.world.absent.clear()
    harness.clock.time = new_york(SUNDAY + timedelta(days=3))
    await daily.take(harness.context, batch.id, 12, retake=True)
    await add_total_returns(harness)
    assert (await received(harness))["MSFT"] == Decimal("0.03")
    await check_record(database)


async def test_the_quota_comes_first(harness):
    """Without room, nothing is requested; it is tried on the next day, until the week is over."""
    await harness.make_batch()
    await take_checkpoints(harness, SUNDAY)
    harness.clock.time = new_york(SUNDAY, 12)
    allow(harness, 12)
    with pytest.raises(TryAgainAt, match="no room") as later:
        await dividends.refresh(harness.context, SUNDAY)
    assert later.value.at == new_york(SUNDAY + timedelta(days=1), 11, 30)
    assert requested(harness) == []
    harness.clock.time = new_york(SUNDAY + timedelta(days=7), 12)
    await dividends.refresh(harness.context, SUNDAY)
    assert requested(harness) == []


async def test_a_record_that_is_not_sealed(harness, database):
    """Nothing is requested: its journal could not show that a share has no dividend."""
    await harness.make_batch()
    await take_checkpoints(harness, SUNDAY)
    unseal(database)
    harness.clock.time = new_york(SUNDAY, 12)
    await dividends.refresh(harness.context, SUNDAY)
    assert requested(harness) == []


async def test_the_days_on_which_a_batch_is_asked_about(harness):
    """Days 13, 27 and 41, and not on the Sundays between them."""
    await harness.make_batch()
    await live(harness)
    asked: list[date] = []
    for weeks in range(1, 6):
        harness.provider.requests.clear()
        sunday = SUNDAY + timedelta(weeks=weeks)
        harness.clock.time = new_york(sunday, 12)
        await dividends.refresh(harness.context, sunday)
        if requested(harness):
            asked.append(sunday)
    assert asked == [LATER, LAST_LOOK]
