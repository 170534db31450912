"""
Three series whose closes need more requests than the key allows: who waits, and for how long.

The database, the worker, the queue and the HTTP server of the prices are real. Time is simulated,
as in a rehearsal. The batches are stored with the functions that the weekly job uses.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import date, timedelta
from itertools import combinations, product
from statistics import fmean

import pytest
from clocks import HandSetClock
from job_context import ALPHA_VANTAGE_KEY, OPENAI_KEY, World, new_york, open_context, rows
from msgspec import Struct
from provider_server import ProviderServer, Reply
from scarce_series import FIRST_MONDAY, PRICE, SERIES, store_batches, tickers_of

from app.core import settings
from app.core.settings import Settings
from app.database import pools
from app.domain import calendar
from app.domain.request_plan import SPLIT_DAYS
from app.main import open_process
from app.simulation.rehearsal import RehearsalSpan, clock_factory

COMPUTED = """
SELECT series, run_date, day, taken_at
FROM checkpoints
JOIN batches ON batches.id = batch_id
WHERE day > 0 AND checkpoints.status = 'computed'
ORDER BY run_date, day, series
"""


class Prices(World):
    """A provider with a flat price for every ticker, and a model that refuses the key."""

    def __init__(self, clock) -> None:
        super().__init__(clock)
        weeks = [FIRST_MONDAY + timedelta(weeks=week) for week in range(4)]
        names = [one for series in SERIES for week in weeks for one in tickers_of(series, week)]
        self.prices = dict.fromkeys(["SPY", *names], str(PRICE))
        self.model = [Reply(status=401)]


@asynccontextmanager
async def opened_prices(database: str) -> AsyncIterator[tuple[Prices, pools.Pool, str]]:
    async with pools.opened(pools.make_pool(database, max_size=5)) as pool, ProviderServer() as one:
        one.answers = Prices(HandSetClock(new_york(FIRST_MONDAY)))
        yield one.answers, pool, one.url


def make_settings(database: str, base_url: str, per_day: int) -> Settings:
    return settings.load(
        {
            "DATABASE_URL": database,
            "OPENAI_API_KEY": OPENAI_KEY,
            "OPENAI_BASE_URL": f"{base_url}/v1",
            "ALPHA_VANTAGE_API_KEY": ALPHA_VANTAGE_KEY,
            "ALPHA_VANTAGE_BASE_URL": base_url,
            "ALPHA_VANTAGE_PER_DAY": str(per_day),
        }
    )


class Taken(Struct):
    """A computed checkpoint: its batch's series and run date, its day, and how late it was."""

    series: str
    run_date: date
    day: int
    late: timedelta


async def rehearse(database: str, per_day: int, weeks: int) -> list[Taken]:
    """Store the batches of so many Mondays, take all their checkpoints, and return them."""
    async with opened_prices(database) as (prices, pool, base_url):
        for week in range(weeks):
            run_date = FIRST_MONDAY + timedelta(weeks=week)
            clock = HandSetClock(new_york(run_date, 9, 20))
            async with open_context(
                database=database, pool=pool, clock=clock, base_url=base_url
            ) as context:
                await store_batches(context, run_date)
            is_last = week == weeks - 1
            until = new_york(run_date + timedelta(days=16 if is_last else 7), 9, 20)
            span = RehearsalSpan(clock.now(), until)
            await run_service(make_settings(database, base_url, per_day), prices, span)
        computed = await rows(pool, COMPUTED)
        assert await most_in_a_day(pool) <= per_day
    return [
        Taken(series, run_date, day, taken_at - calendar.due_at(run_date, day))
        for series, run_date, day, taken_at in computed
    ]


async def run_service(configuration: Settings, prices: Prices, span: RehearsalSpan) -> None:
    """Run the worker and the reconciliation in simulated time."""
    async with open_process(configuration, clock_factory(span)) as process:
        prices.clock = process.clock
        await process.clock.finished


async def most_in_a_day(pool: pools.Pool) -> int:
    """Return the greatest number of requests that were sent within 24 hours."""
    ((most,),) = await rows(
        pool,
        """
        SELECT max(count)
        FROM (
            SELECT count(*) OVER (ORDER BY at RANGE BETWEEN '1 day' PRECEDING AND CURRENT ROW)
            FROM operations.provider_requests
        ) AS counts
        """,
    )
    return most


async def missing_splits(database: str, sundays: list[date]) -> list[tuple[date, str]]:
    """Return the Sundays and tickers whose splits were not requested in the week that begins."""
    async with pools.opened(pools.make_pool(database, max_size=2)) as pool:
        answered = await rows(
            pool,
            "SELECT symbol, at FROM operations.provider_requests "
            "WHERE function = 'SPLITS' AND outcome = 'answered'",
        )
    missing = []
    for sunday, series, age in product(sundays, SERIES, SPLIT_DAYS):
        run_date = sunday - timedelta(days=age)
        begin, end = calendar.due_at(sunday), calendar.due_at(sunday, 7)
        done = {symbol for symbol, at in answered if begin <= at < end}
        if run_date >= FIRST_MONDAY:
            wanted = ["SPY", *tickers_of(series, run_date)]
            missing += [(sunday, ticker) for ticker in wanted if ticker not in done]
    return missing


def late_days(taken: list[Taken], series: str) -> list[int]:
    """Return by how many days each checkpoint of a series was late."""
    return [one.late.days for one in taken if one.series == series]


@pytest.mark.parametrize(
    ("per_day", "weeks", "latest"),
    [
        # A morning needs ten: SPY and nine. One series waits each day. A Saturday's waits for
        # Sunday, so it is never more than a day.
        pytest.param(7, 1, 1, id="one fortnight, seven a day", marks=pytest.mark.long),
        # A morning needs nineteen, so two series wait with their newer batch: one of them is served
        # the next day, the other one two days later.
        pytest.param(13, 2, 2, id="two fortnights, thirteen a day", marks=pytest.mark.long),
    ],
)
async def test_scarcity_is_shared(database, per_day, weeks, latest):
    """
    No checkpoint is lost, older batches come first, and no series waits longer than the others.

    The number of late checkpoints of two series differs by at most one, and so does the longest
    lateness, in days.
    """
    taken = await rehearse(database, per_day, weeks)
    # Ten of fourteen days have a session before them; the second batch has Juneteenth, too.
    assert len(taken) == sum((10, 9)[:weeks]) * len(SERIES)
    late = [one for one in taken if one.late >= timedelta(hours=1)]
    assert {one.run_date for one in late} == {FIRST_MONDAY + timedelta(weeks=weeks - 1)}
    days = {series: late_days(taken, series) for series in SERIES}
    assert max(max(one) for one in days.values()) == latest
    for one, other in combinations(days.values(), 2):
        assert abs(max(one) - max(other)) <= 1
        assert abs(len([day for day in one if day]) - len([day for day in other if day])) <= 1
        assert abs(fmean(one) - fmean(other)) < 1


@pytest.mark.long
async def test_three_series_on_a_free_key(database):
    """25 requests a day are enough: nothing is late, and each week requests all its splits."""
    taken = await rehearse(database, per_day=25, weeks=4)
    assert max(one.late for one in taken) < timedelta(minutes=10)
    sundays = [FIRST_MONDAY + timedelta(days=6 + 7 * week) for week in range(4)]
    assert await missing_splits(database, sundays) == []
