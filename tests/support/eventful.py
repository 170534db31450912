"""
A record with every kind of event that a journal can contain.

The real jobs make it, against a provider server. They run as the service's role, which has only the
rights to add to the record and to change what a job changes.

These are its Mondays, each by the name of its constant. The picks are a SELL, a BUY and a SELL:

- `REFUSED`, 2026-10-19 (MSFT, AAPL, NVDA), completed. The first answer has two picks and is
  refused; the second question contains the refusal, and its answer is accepted. NVDA is split four
  for one on `SPLIT_AT_ONCE`, counted on its first day. The AAPL factor 1.05 of `TAKEN_BACK` becomes
  known on the first Sunday, which corrects days 3 to 5, and is taken back (factor 1) on the second,
  which corrects days 3 to 12.
- `UNKNOWN`, 2026-10-26 (KO, BRK.B, JPM), completed. The first answer is accepted, and refused
  later: ZZZZ is unknown. JPM falls by an eighth on `LISTED_LATE`, marked as unusual; the split by
  1.1290 becomes known on day 20, which corrects the completed batch and takes the marks away. New
  York's clocks go back on day 6.
- `RUN_AGAIN`, 2026-11-02 (GE, T, MMM), completed. Three answers are refused: the Monday fails
  (NO_USABLE_ANSWER), and is run again manually on the same morning; the fourth question brings the
  batch. GE rises by a fifth on `UNEXPLAINED`: unusual from then on, never explained.
- `MISSED`, 2026-11-09, failed. The service was away; Tuesday's reconciliation recorded it.
- `LATE`, 2026-11-16 (XOM, CVX, COP), completed. XOM's baseline close comes at 10:30, so the batch
  is late. Day 2 is skipped (PROVIDER_ERROR) and stays so. Day 3 is skipped (MISSING_CLOSE of CVX)
  and computed on the day after. Day 4 is skipped (MISSING_CLOSE of COP) and stays so. Day 11 is the
  morning after Thanksgiving (MARKET_CLOSED).
- `CHANGED`, 2026-11-23 (INTC, FB, TWTR), completed. INTC ends on day 2's session (`LAST_SESSION`):
  day 3 is skipped, and computed at its value, as all later ones. Day 4 is the morning after
  Thanksgiving. FB is META from `META_FROM` on, recorded before that day was computed and compared.
  TWTR is X from `X_FROM` on, recorded by force after that day was computed: day 10 keeps TWTR's
  reading, and day 11 and 12 are marked.
- `ADOPTED`, 2026-11-30 (WMT, TGT, COST), completed. SPY falls by an eighth on `BENCHMARK_FELL`:
  benchmarkUnusualMove from day 3 on, here and in `CHANGED` from day 10 on. The first reading of WMT
  of day 2 and that of TGT's baseline are replaced by newer ones, manually. COST is split ten for
  one on `RESTATED`: the series is restated; its session of day 9 is skipped at first, and computed
  from a reading of the restated series.
- `OPENED_LATER`, 2026-12-07 (PG, PEP, PM), active, with day 14 to come. The first question gets no
  answer (503), the second is accepted. PG's open of Monday cannot be read on day 1; day 2 brings
  it, and fills day 1's return from open. PEP has the factor 1.05 from a day after the record's end
  on: a split that no figure counts.
- `OPEN`, 2026-12-14 (MSFT, KO, GE), active, with days 7 to 14 to come.
- `ASKED`, 2026-12-21: a question without an answer so far.

No figure uses these readings: those of the sessions before a share's own baseline, which an answer
brings, and second readings (TGT, WMT, COST).
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import date, timedelta
from decimal import Decimal

import psycopg
import pytest
from clocks import HandSetClock
from job_context import (
    JobHarness,
    make_answer,
    make_completion,
    new_york,
    open_harness,
    run_until_done,
)
from provider_server import FOR_EVER, Reply
from sealing import unseal
from three_roles import applied

from app.database import migrations
from app.domain.calendar import MEASURED_DAYS
from app.domain.model import BatchStatus
from app.store import checkpoints
from jobs import corrections, daily, late_splits, picks, reconcile, weekly

REFUSED = date(2026, 10, 19)
UNKNOWN = date(2026, 10, 26)
RUN_AGAIN = date(2026, 11, 2)
MISSED = date(2026, 11, 9)
LATE = date(2026, 11, 16)
CHANGED = date(2026, 11, 23)
ADOPTED = date(2026, 11, 30)
OPENED_LATER = date(2026, 12, 7)
OPEN = date(2026, 12, 14)
ASKED = date(2026, 12, 21)

SPLIT_AT_ONCE = date(2026, 10, 21)
TAKEN_BACK = date(2026, 10, 21)
LISTED_LATE = date(2026, 10, 27)
UNEXPLAINED = date(2026, 11, 4)
THANKSGIVING = date(2026, 11, 26)
LAST_SESSION = date(2026, 11, 24)
META_FROM = date(2026, 12, 1)
X_FROM = date(2026, 12, 2)
BENCHMARK_FELL = date(2026, 12, 2)
RESTATED = date(2026, 12, 9)

PICKS = {
    REFUSED: ("MSFT", "AAPL", "NVDA"),
    UNKNOWN: ("KO", "BRK.B", "JPM"),
    RUN_AGAIN: ("GE", "T", "MMM"),
    LATE: ("XOM", "CVX", "COP"),
    CHANGED: ("INTC", "FB", "TWTR"),
    ADOPTED: ("WMT", "TGT", "COST"),
    OPENED_LATER: ("PG", "PEP", "PM"),
    OPEN: ("MSFT", "KO", "GE"),
}
PRICES = {
    "JPM": "80.0000",
    "GE": "100.0000",
    "T": "20.0000",
    "MMM": "95.5000",
    "XOM": "110.0000",
    "CVX": "150.2500",
    "COP": "99.9900",
    "INTC": "30.0000",
    "FB": "330.0000",
    "META": "330.0000",
    "TWTR": "40.0000",
    "X": "41.0000",
    "WMT": "90.0000",
    "TGT": "140.0000",
    "COST": "1010.0000",
    "PG": "170.0000",
    "PEP": "160.0000",
    "PM": "125.0000",
}
DAY = timedelta(days=1)

Event = Callable[[JobHarness], Awaitable[None]]


@pytest.fixture(scope="session")
def eventful_as_recorded(made_once: Callable[..., str]) -> str:
    """
    Return the address of that record's database. The record is sealed.

    Tests only read it; they change a copy (`record_server.copy_of`).
    """
    return made_once("eventful", lambda address: asyncio.run(live_all(address)))


@pytest.fixture(scope="session")
def eventful(made_once: Callable[..., str]) -> str:
    """Return the address of the same record as a version before the sealing recorded it."""
    copy = made_once("eventful", lambda address: asyncio.run(live_all(address)))
    unseal(copy)
    return copy


async def live_all(
    address: str, prepare: Callable[[psycopg.Connection], None] | None = None
) -> None:
    """
    Make that record in an empty database.

    `prepare` gets an administrator's connection to the migrated database, before the first event.
    """
    clock = HandSetClock(new_york(REFUSED))
    await migrations.migrate(address, clock.now())
    if prepare:
        with psycopg.connect(address) as conn:
            prepare(conn)
    roles = await applied(address)
    async with open_harness(roles.service, clock) as harness:
        harness.world.prices |= PRICES
        await Story(harness).live()


class Story:
    """
    What happens, day by day; each day's events come in the order of their hours.

    An event is a method with a day in its name: one that begins with "early" comes before that
    day's mornings, one with "late" after them.
    """

    def __init__(self, harness: JobHarness) -> None:
        self.harness, self.world, self.context = harness, harness.world, harness.context

    async def live(self) -> None:
        """Live from the first Monday to the last."""
        self._prices()
        day = REFUSED
        while day < ASKED:
            await self._day(day)
            day += DAY
        await self._question_without_answer()

    async def _day(self, day: date) -> None:
        """The early events of a day, its mornings, its Monday, and the later events."""
        await self._happens(day, "early")
        async with self.context.pool.connection() as conn:
            due = [
                one
                for one in await checkpoints.list_due(conn, day)
                if day in _days_of(one.run_date)
            ]
        self._at(day, 9)
        for one in due:
            await run_until_done(
                self.harness, lambda one=one: daily.take(self.context, one.batch_id, one.day)
            )
        if day in PICKS:
            await self._monday(day)
        await self._happens(day, "late")

    async def _happens(self, day: date, when: str) -> None:
        event: Event | None = getattr(self, f"_{when}_{day:%m_%d}", None)
        if event:
            await event()

    def _at(self, day: date, hour: int, minute: int = 0) -> None:
        clock = self.harness.clock
        clock.time = max(clock.time, new_york(day, hour, minute))

    async def _monday(self, day: date) -> None:
        answers = {
            REFUSED: [make_answer("MSFT", "AAPL")],
            UNKNOWN: [make_answer("KO", "ZZZZ", "JPM")],
            RUN_AGAIN: ["Buy low.", make_answer("GE", "SPY", "T"), make_answer("GE", "GE", "T")],
        }
        replies = [make_completion(answer) for answer in answers.get(day, [])]
        if day == OPENED_LATER:
            replies = [Reply(status=503)]
        self.world.model = [*replies, make_completion(make_answer(*PICKS[day]))]
        await run_until_done(self.harness, self.harness.begin)
        if day == RUN_AGAIN:
            batch = await self.harness.batch(day)
            assert batch is not None
            assert batch.status == BatchStatus.FAILED
            await run_until_done(self.harness, lambda: self.harness.begin(2, 6))
        batch = await self.harness.batch(day)
        assert batch is not None
        assert batch.status == BatchStatus.ACTIVE, batch

    def _trades(self, ticker: str, first: date, price: str, last: date = ASKED) -> None:
        for number in range((last - first).days + 1):
            self.world.closes[ticker, first + number * DAY] = price

    def _prices(self) -> None:
        """What is known of all prices from the beginning."""
        world = self.world
        world.unknown.add("ZZZZ")
        self._trades("SPY", date(2026, 10, 20), "607.31")
        self._trades("MSFT", date(2026, 10, 22), "3.0700")
        self._trades("NVDA", SPLIT_AT_ONCE, "1.8000")
        self._trades("JPM", LISTED_LATE, "70.5000")
        self._trades("GE", UNEXPLAINED, "120.0000")
        self._trades("CVX", date(2026, 11, 20), "148.0000")
        self._trades("META", META_FROM, "333.3300")
        self._trades("X", X_FROM, "43.0000")
        self._trades("SPY", BENCHMARK_FELL, "534.4300")
        self._trades("COST", RESTATED, "102.0000")
        self._trades("PM", date(2026, 12, 10), "126.5000")
        for ticker, (monday, opened) in {
            "NVDA": (REFUSED, "7.0500"),
            "KO": (UNKNOWN, "59.8000"),
        }.items():
            world.opens[ticker, monday] = opened
        world.opens["PG", OPENED_LATER] = "n/a"
        world.splits["AAPL"] = [(date(2020, 8, 31), "4.0000")]
        world.splits["NVDA"] = [(date(2021, 7, 20), "4.0000")]
        world.absent |= {("XOM", date(2026, 11, 13))}
        world.absent |= {("CVX", date(2026, 11, 18)), ("COP", date(2026, 11, 19))}
        world.absent |= {("INTC", LAST_SESSION + number * DAY) for number in range(1, 30)}
        world.absent |= {("COST", date(2026, 12, 8))}

    async def _again(self, run_date: date, day: int) -> None:
        batch = await self.harness.batch(run_date)
        assert batch is not None
        await run_until_done(
            self.harness, lambda: daily.take(self.context, batch.id, day, retake=True)
        )

    # Splits

    async def _early_10_22(self) -> None:
        self.world.splits["NVDA"].append((SPLIT_AT_ONCE, "4.0000"))

    async def _early_10_25(self) -> None:
        """The first Sunday."""
        self.world.splits["AAPL"].append((TAKEN_BACK, "1.0500"))

    async def _early_11_01(self) -> None:
        """The second Sunday."""
        self.world.splits["AAPL"].pop()

    async def _late_11_15(self) -> None:
        """Day 20 of `UNKNOWN`."""
        self.world.splits["JPM"] = [(LISTED_LATE, "1.1290")]
        self._at(UNKNOWN + 20 * DAY, 10)
        batch = await self.harness.batch(UNKNOWN)
        assert batch is not None
        await run_until_done(self.harness, lambda: late_splits.refresh(self.context, batch.id, 20))

    async def _early_12_13(self) -> None:
        """A split that comes into force after all that is measured here."""
        self.world.splits["PEP"] = [(ASKED + 7 * DAY, "1.0500")]

    # A Monday without a service, and mornings that fail

    async def _late_11_10(self) -> None:
        mended = await reconcile.run_round(self.context)
        assert mended is not None
        assert mended.missed == 1

    async def _early_11_16(self) -> None:
        """XOM's close of Friday comes at half past ten."""
        world, clock = self.world, self.harness.clock

        def answers(request: object) -> Reply:
            if clock.now() >= new_york(LATE, 10, 30):
                world.absent.discard(("XOM", date(2026, 11, 13)))
            return world(request)

        self.harness.provider.answers = answers

    async def _late_11_16(self) -> None:
        self.harness.provider.answers = self.world

    async def _early_11_18(self) -> None:
        self.world.instead = [Reply(status=503)] * 5

    async def _late_11_18(self) -> None:
        assert self.world.instead == []

    async def _late_11_19(self) -> None:
        """Day 3 was skipped this morning; its close is there in the night."""
        self.world.absent.discard(("CVX", date(2026, 11, 18)))

    async def _late_11_20(self) -> None:
        """This morning's answer for CVX had that close."""
        self._at(date(2026, 11, 20), 10)
        await self._again(LATE, 3)

    # Ended and renamed picks

    async def _late_11_26(self) -> None:
        """Day 3 of `CHANGED` was skipped: INTC has ended."""
        self._at(THANKSGIVING, 21)
        context, value = self.context, Decimal("31.5")
        await picks.end(
            context.pool,
            calendar=context.calendar,
            now=context.now(),
            run_date=CHANGED,
            ticker="INTC",
            last_session=LAST_SESSION,
            value=value,
            source="8-K of 2026-11-25",
            in_force=None,
        )
        await self._again(CHANGED, 3)

    async def _early_12_02(self) -> None:
        self.world.unknown.add("FB")
        self._at(date(2026, 12, 2), 8)
        await picks.rename(
            self.context,
            run_date=CHANGED,
            ticker="FB",
            new="META",
            from_session=META_FROM,
            source="8-K of 2026-11-30",
        )

    async def _late_12_03(self) -> None:
        """Day 10 was computed this morning."""
        self._at(date(2026, 12, 3), 12)
        await picks.rename(
            self.context,
            run_date=CHANGED,
            ticker="TWTR",
            new="X",
            from_session=X_FROM,
            source="A notice of 2026-12-03",
            force=True,
        )

    # Readings that prove wrong

    async def _early_12_04(self) -> None:
        """The provider corrects two prices, one by three percent and one by two."""
        self.world.closes["WMT", date(2026, 12, 1)] = "92.7000"
        self.world.closes["TGT", date(2026, 11, 27)] = "137.2000"

    async def _late_12_04(self) -> None:
        self._at(date(2026, 12, 4), 12)
        pool, now = self.context.pool, self.context.now
        assert (
            await corrections.adopt(
                pool,
                now=now(),
                run_date=ADOPTED,
                day=2,
                ticker="WMT",
                reason="The exchange says 92.70.",
                in_force=None,
            )
            == 1
        )
        assert (
            await corrections.adopt(
                pool,
                now=now(),
                run_date=ADOPTED,
                day=0,
                ticker="TGT",
                reason="The exchange says 137.20.",
                in_force=None,
            )
            > 1
        )

    # A restated series

    async def _early_12_10(self) -> None:
        """The split is listed, and all earlier prices are divided."""
        self.world.splits["COST"] = [(RESTATED, "10.0000")]
        self._trades(ticker="COST", first=date(2026, 9, 1), price="101.0000", last=RESTATED - DAY)
        self.world.absent.discard(("COST", date(2026, 12, 8)))

    async def _late_12_10(self) -> None:
        self._at(date(2026, 12, 10), 10)
        await self._again(ADOPTED, 9)

    # An open that is read later

    async def _early_12_09(self) -> None:
        self.world.opens["PG", OPENED_LATER] = "171.0000"

    # The end

    async def _question_without_answer(self) -> None:
        self.world.model = [Reply(delay=FOR_EVER)]
        self._at(ASKED, 9)
        self.harness.provider.requests.clear()
        self.harness.provider.request_arrived.clear()
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(self._begin_until_cancelled())
            await self.harness.provider.request_arrived.wait()
            asking.cancel()

    async def _begin_until_cancelled(self) -> None:
        with suppress(asyncio.CancelledError):
            await weekly.run_if_due(self.context, 3, None)


def _days_of(run_date: date) -> list[date]:
    return [run_date + day * DAY for day in MEASURED_DAYS]
