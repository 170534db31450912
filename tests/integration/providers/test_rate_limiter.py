"""The ledger of requests: its limits hold for all processes, and one request serves all jobs."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from clocks import HandSetClock
from hypothesis import given, settings
from hypothesis import strategies as st
from job_context import logged
from psycopg.conninfo import make_conninfo

from app.database import pools
from app.errors import QuotaSpent
from app.providers.rate_limiter import (
    COOLDOWN,
    GRANT_LIFETIME,
    AlreadyAnswered,
    Grant,
    RateLimit,
    RequestLedger,
    RequestOutcome,
    next_allowed_at,
    rate_limits,
)

NOW = datetime(2026, 1, 5, 14, 0, 0, tzinfo=UTC)
FREE = rate_limits(1, 5, 25)  # what a free key allows


def ago(*seconds: float) -> list[datetime]:
    """Return times before NOW."""
    return [NOW - timedelta(seconds=second) for second in seconds]


def test_windows_have_a_margin():
    """A second, a minute and a day, each a little longer."""
    assert rate_limits(1, 5, 25) == [
        RateLimit(1, timedelta(seconds=2, milliseconds=100)),
        RateLimit(5, timedelta(seconds=61)),
        RateLimit(25, timedelta(hours=24, seconds=1)),
    ]


@pytest.mark.parametrize(
    ("times", "wait"),
    [
        pytest.param([], 0, id="no request yet"),
        pytest.param(ago(0), 2.1, id="one at this moment"),
        pytest.param(ago(0.4), 1.7, id="one a moment ago"),
        pytest.param(ago(2.1), 0, id="two seconds and a tenth ago"),
        pytest.param(ago(2.099999), 0.000001, id="a microsecond less than that"),
        pytest.param(ago(3, 10, 20, 30), 0, id="four in the last minute"),
        pytest.param(
            ago(3, 10, 20, 30, 40), 21, id="five in the last minute: when the first is 61 s old"
        ),
        pytest.param(ago(3, 10, 20, 30, 61), 0, id="five, the first of them 61 s ago"),
        pytest.param(ago(0.1, 10, 20, 30, 60.5), 2.0, id="the longest of two waits: the second's"),
        pytest.param(ago(0.1, 10, 20, 30, 45), 16, id="the longest of two waits: the minute's"),
        pytest.param(
            ago(*range(3000, 75001, 3000)), 11401, id="25 today: a day and a second after the first"
        ),
        pytest.param(ago(*range(3000, 72001, 3000)), 0, id="24 today"),
        pytest.param(ago(*range(3456, 86401, 3456)), 1, id="25 in exactly a day: one second more"),
        pytest.param(ago(-600), 602.1, id="one in the future, after the clock was set back"),
        pytest.param(ago(-600, -500, -400, -300, -1), 602.1, id="five in the future"),
        pytest.param(ago(-30, 1, 2, 3, 4), 57, id="one of five in the future"),
    ],
)
def test_next_allowed(times, wait):
    """The next request may go when every window has room for it."""
    assert next_allowed_at(times, FREE, NOW) == NOW + timedelta(seconds=wait)


def test_several_in_a_second():
    """A paid key: five in a second."""
    limits = rate_limits(5, 75, 100_000)
    assert next_allowed_at(ago(0, 0.1, 0.2, 0.3), limits, NOW) == NOW
    assert next_allowed_at(ago(0, 0.1, 0.2, 0.3, 0.6), limits, NOW) == NOW + timedelta(seconds=1.5)


def exceeded(times: list[datetime], limits: list[RateLimit]) -> list[tuple[datetime, RateLimit]]:
    """Return where a window has more requests than it allows."""
    times = sorted(times)
    return [
        (time, limit)
        for limit in limits
        for time, later in zip(times, times[limit.requests :], strict=False)
        if later - time < limit.length
    ]


@settings(deadline=None)
@given(
    gaps=st.lists(st.floats(0, 30), max_size=60),
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 12)),
)
def test_windows_are_never_exceeded(gaps, sizes):
    """Requests are granted as soon as every limit allows it, and never earlier."""
    limits = [
        RateLimit(n, timedelta(seconds=s)) for n, s in zip(sizes, (2.1, 10, 100), strict=True)
    ]
    granted: list[datetime] = []
    now = NOW
    for gap in gaps:
        now = next_allowed_at(granted[::-1], limits, now + timedelta(seconds=gap))
        granted.append(now)
    assert exceeded(granted, limits) == []


@settings(deadline=None)
@given(
    gaps=st.lists(st.floats(0, 30), max_size=60),
    delays=st.lists(st.floats(0, GRANT_LIFETIME.total_seconds()), min_size=60, max_size=60),
)
def test_requests_that_are_sent_late_keep_the_providers_limits(gaps, delays):
    """
    Each request is sent up to GRANT_LIFETIME after its grant. Even then no second has two requests,
    no minute more than five, and no day more than 25.
    """
    granted: list[datetime] = []
    now = NOW
    for gap in gaps:
        now = next_allowed_at(granted[::-1], FREE, now + timedelta(seconds=gap))
        granted.append(now)
    sent = [at + timedelta(seconds=delay) for at, delay in zip(granted, delays, strict=False)]
    provider = [
        RateLimit(1, timedelta(seconds=1)),
        RateLimit(5, timedelta(minutes=1)),
        RateLimit(25, timedelta(days=1)),
    ]
    assert exceeded(sent, provider) == []


@pytest.fixture
def clock() -> HandSetClock:
    """A clock that stands at NOW."""
    return HandSetClock(NOW)


@pytest.fixture
def ledger(pool, clock) -> RequestLedger:
    """A ledger with the limits of a free key."""
    return RequestLedger(pool=pool, provider="alpha", limits=FREE, clock=clock)


async def requests(pool: pools.Pool) -> list[tuple[object, ...]]:
    """Return the rows of the ledger: symbol, time in seconds after NOW, outcome."""
    async with pool.connection() as conn:
        cursor = await conn.execute(
            "SELECT symbol, at, outcome FROM operations.provider_requests ORDER BY id"
        )
        rows = await cursor.fetchall()
    return [(symbol, (at - NOW).total_seconds(), outcome) for symbol, at, outcome in rows]


async def test_a_job_waits_by_itself(ledger, clock, pool):
    """
    The first request goes at once, four more 2.1 seconds apart, the sixth a minute after the first.
    """
    for symbol in ("SPY", "KO", "MSFT", "XOM", "IBM", "T"):
        grant = await ledger.acquire("DAILY", symbol)
        assert isinstance(grant, Grant)
        await ledger.store_failure(grant, RequestOutcome.FAILED)
    assert [at for _, at, _ in await requests(pool)] == [0, 2.1, 4.2, 6.3, 8.4, 61]
    assert clock.slept == [2.1, 2.1, 2.1, 2.1, 52.6]


async def test_a_spent_quota(pool, clock):
    """
    If the wait is longer than a job should wait, the error has the time, and the ledger gets no
    row.
    """
    ledger = RequestLedger(pool=pool, provider="alpha", limits=rate_limits(1, 5, 2), clock=clock)
    await ledger.acquire("DAILY", "SPY")
    clock.forward(hours=1)
    await ledger.acquire("DAILY", "KO")
    clock.forward(hours=1)
    with pytest.raises(QuotaSpent) as spent:
        await ledger.acquire("DAILY", "XOM")
    assert spent.value.at == NOW + timedelta(hours=24, seconds=1)
    assert str(spent.value) == "The quota of alpha is spent until 2026-01-06 14:00:01 UTC."
    assert (clock.slept, len(await requests(pool))) == ([], 2)
    clock.time = spent.value.at
    assert isinstance(await ledger.acquire("DAILY", "XOM"), Grant)


async def test_the_time_of_a_spent_quota_is_in_utc(database, clock):
    """The time is in UTC also behind a pooler, where sessions keep the server's time zone."""
    elsewhere = make_conninfo(database, options="-c timezone=Asia/Tokyo")
    async with pools.opened(pools.make_pool(elsewhere, pooled=True, max_size=2)) as pool:
        ledger = RequestLedger(
            pool=pool, provider="alpha", limits=rate_limits(1, 5, 1), clock=clock
        )
        await ledger.acquire("DAILY", "SPY")
        with pytest.raises(QuotaSpent, match=r"until 2026-01-06 14:00:01 UTC\.$"):
            await ledger.acquire("DAILY", "KO")


@pytest.mark.parametrize(
    ("length", "waits"),
    [
        pytest.param(timedelta(seconds=62), True, id="62 s"),
        pytest.param(timedelta(seconds=62, microseconds=1), False, id="a microsecond more"),
    ],
)
async def test_the_longest_wait(pool, clock, length, waits):
    """A job waits for 62 seconds, and no longer."""
    ledger = RequestLedger(pool=pool, provider="alpha", limits=[RateLimit(1, length)], clock=clock)
    await ledger.acquire("DAILY", "SPY")
    if waits:
        assert isinstance(await ledger.acquire("DAILY", "KO"), Grant)
    else:
        with pytest.raises(QuotaSpent):
            await ledger.acquire("DAILY", "KO")


async def test_at_most_three_are_open(pool, clock):
    """
    The fourth grant waits until one of the three requests is answered, so that no granted request
    waits to be sent.
    """
    ledger = RequestLedger(
        pool=pool,
        provider="alphavantage",
        limits=[RateLimit(1000, timedelta(seconds=1))],
        clock=clock,
    )
    first, *_ = [await ledger.acquire("TIME_SERIES_DAILY", ticker) for ticker in "ABC"]
    assert isinstance(first, Grant)
    clock.meanwhile = lambda: ledger.store_failure(first, RequestOutcome.ANSWERED)
    before = clock.now()
    assert isinstance(await ledger.acquire("TIME_SERIES_DAILY", "D"), Grant)
    assert clock.now() - before == timedelta(seconds=1)


async def test_each_provider_has_its_own_ledger(ledger, pool, clock):
    """Requests to one provider do not count for another."""
    await ledger.acquire("DAILY", "SPY")
    assert isinstance(
        await RequestLedger(pool=pool, provider="beta", limits=FREE, clock=clock).acquire(
            "DAILY", "SPY"
        ),
        Grant,
    )
    assert clock.slept == []


async def settle(
    ledger: RequestLedger,
    grant: Grant | AlreadyAnswered,
    outcome: RequestOutcome = RequestOutcome.ANSWERED,
) -> None:
    """Store the outcome of a request."""
    assert isinstance(grant, Grant)
    async with ledger.pool.connection() as conn:
        await ledger.store_outcome(conn, grant, outcome)


@pytest.mark.parametrize(
    ("since", "shared"),
    [
        pytest.param(timedelta(seconds=-5), True, id="answered after that time"),
        pytest.param(timedelta(seconds=2), True, id="answered at that time"),
        pytest.param(timedelta(seconds=2, microseconds=1), False, id="answered before that time"),
        pytest.param(None, False, id="any answer would be too old"),
    ],
)
async def test_an_answer_is_shared(ledger, clock, pool, since, shared):
    """If an answer has arrived since the given time, no second request is made."""
    grant = await ledger.acquire("DAILY", "SPY", NOW)
    clock.forward(seconds=2)
    await settle(ledger, grant)
    clock.forward(minutes=20)
    again = await ledger.acquire("DAILY", "SPY", NOW + since if since else None)
    assert isinstance(again, AlreadyAnswered) is shared
    assert len(await requests(pool)) == (1 if shared else 2)


@pytest.mark.parametrize(("function", "symbol"), [("DAILY", "KO"), ("SPLITS", "SPY")])
async def test_only_the_same_question_is_shared(ledger, function, symbol):
    """A request with another ticker or function is a different one."""
    await settle(ledger, await ledger.acquire("DAILY", "SPY", NOW))
    assert isinstance(await ledger.acquire(function, symbol, NOW), Grant)


@pytest.mark.parametrize("outcome", [RequestOutcome.FAILED, RequestOutcome.REJECTED])
async def test_a_failed_request_is_not_shared(ledger, clock, pool, outcome):
    """After a failure the next job sends its own request."""
    grant = await ledger.acquire("DAILY", "SPY", NOW)
    await ledger.store_failure(grant, outcome)
    assert isinstance(await ledger.acquire("DAILY", "SPY", NOW), Grant)
    assert [stored for *_, stored in await requests(pool)] == [outcome, None]
    assert clock.slept == [2.1], "a failed request counts as well"


async def test_a_request_in_flight_is_waited_for(ledger, clock, pool):
    """A job that needs the same data waits for the answer and shares it."""
    grant = await ledger.acquire("DAILY", "SPY", NOW)
    clock.meanwhile = lambda: settle(ledger, grant)
    assert isinstance(await ledger.acquire("DAILY", "SPY", NOW), AlreadyAnswered)
    assert clock.slept == [1]
    assert await requests(pool) == [("SPY", 0, "answered")]


async def test_a_request_in_flight_that_fails(ledger, clock):
    """If the request fails, the waiting job sends its own."""
    grant = await ledger.acquire("DAILY", "SPY", NOW)
    clock.meanwhile = lambda: ledger.store_failure(grant, RequestOutcome.FAILED)
    assert isinstance(await ledger.acquire("DAILY", "SPY", NOW), Grant)


async def test_a_request_in_flight_lapses(ledger, clock, pool):
    """
    A request without an outcome belongs to a process that died; after a minute it is repeated.
    """
    await ledger.acquire("DAILY", "SPY", NOW)
    assert isinstance(await ledger.acquire("DAILY", "SPY", NOW), Grant)
    assert [at for _, at, _ in await requests(pool)] == [0, 60]
    assert clock.slept == [1] * 60


async def test_an_outcome_is_stored_once(ledger, pool):
    """An answer that arrives after the request was given up does not change the outcome."""
    grant = await ledger.acquire("DAILY", "SPY", NOW)
    await ledger.store_failure(grant, RequestOutcome.FAILED)
    await settle(ledger, grant, RequestOutcome.ANSWERED)
    assert [outcome for *_, outcome in await requests(pool)] == ["failed"]


async def test_an_answer_that_is_rolled_back(ledger, clock, pool):
    """
    The outcome belongs to the transaction that stores the answer: after a rollback the request is
    still in flight.
    """
    grant = await ledger.acquire("DAILY", "SPY", NOW)
    async with pool.connection() as conn, conn.transaction(force_rollback=True):
        await ledger.store_outcome(conn, grant, RequestOutcome.ANSWERED)
    assert await requests(pool) == [("SPY", 0, None)]


async def test_a_spent_quota_pauses_the_provider(ledger, clock, pool):
    """
    The provider says that the quota is spent, although the ledger's count does not: it gets no
    request for an hour; other providers do.
    """
    grant = await ledger.acquire("DAILY", "SPY", NOW)
    clock.forward(seconds=3)
    await ledger.store_failure(grant, RequestOutcome.QUOTA_SPENT, clock.now() + COOLDOWN)
    clock.forward(seconds=3)
    for symbol in ("SPY", "KO"):
        with pytest.raises(QuotaSpent) as spent:
            await ledger.acquire("DAILY", symbol, NOW)
        assert spent.value.at == NOW + timedelta(hours=1, seconds=3)
    assert isinstance(
        await RequestLedger(pool=pool, provider="beta", limits=FREE, clock=clock).acquire(
            "DAILY", "KO"
        ),
        Grant,
    )
    clock.time = spent.value.at - timedelta(seconds=10)
    assert isinstance(await ledger.acquire("DAILY", "KO", NOW), Grant)
    assert clock.slept == [10]


async def test_an_answer_is_shared_during_a_pause(ledger, clock):
    """Data that was answered already needs no quota."""
    await settle(ledger, await ledger.acquire("DAILY", "SPY", NOW))
    clock.forward(seconds=2)
    await ledger.store_failure(
        await ledger.acquire("DAILY", "KO", NOW), RequestOutcome.QUOTA_SPENT, clock.now() + COOLDOWN
    )
    assert isinstance(await ledger.acquire("DAILY", "SPY", NOW), AlreadyAnswered)


async def test_a_clock_that_was_set_back(ledger, clock, pool):
    """
    Requests that seem to be hours ahead were sent before the change: their times are shifted back
    with the clock, and the limits still hold.
    """
    for symbol in ("SPY", "KO", "MSFT", "AAPL", "NVDA"):
        await settle(ledger, await ledger.acquire("DAILY", symbol, NOW))
        clock.forward(seconds=3)
    clock.slept.clear()
    clock.time = NOW - timedelta(hours=3)
    with logged("WARNING", clock) as lines:
        await ledger.acquire("DAILY", "BRK.B")
        await ledger.acquire("DAILY", "UPS")
    # The newest of five was sent at the latest just now, the first of them twelve seconds before.
    assert clock.slept == [pytest.approx(61 - 12), pytest.approx(3)]
    assert [(line["event"], line["by"]) for line in lines] == [
        ("clock set back, ledger adjusted", "3:00:12")
    ]
    assert all(at < 0 for _, at, _ in await requests(pool))


async def test_an_answer_from_before_the_clock_was_set_back(ledger, clock):
    """If the clock passes nine a second time, the data is requested again."""
    await settle(ledger, await ledger.acquire("DAILY", "SPY", NOW))
    clock.forward(hours=-3)
    await ledger.acquire("DAILY", "KO")
    clock.forward(hours=3)
    assert isinstance(await ledger.acquire("DAILY", "SPY", NOW), Grant)


async def test_a_pause_from_before_the_clock_was_set_back(ledger, clock):
    """The pause keeps its length; it does not grow by the hours that the clock went back."""
    await ledger.store_failure(
        await ledger.acquire("DAILY", "SPY"), RequestOutcome.QUOTA_SPENT, clock.now() + COOLDOWN
    )
    clock.forward(hours=-3)
    with pytest.raises(QuotaSpent) as spent:
        await ledger.acquire("DAILY", "KO")
    assert spent.value.at == clock.now() + COOLDOWN


async def test_another_machines_clock(ledger, clock, pool):
    """
    A request slightly ahead of the clock is waited for, because two clocks always differ a little.
    """
    await settle(ledger, await ledger.acquire("DAILY", "SPY", NOW))
    clock.forward(seconds=-30)
    await ledger.acquire("DAILY", "KO")
    assert [at for _, at, _ in await requests(pool)] == [0, 2.1]


async def test_a_clock_that_was_set_forward(ledger, clock):
    """
    Earlier requests look old, so the next one is granted; if the provider then refuses it, its
    pause applies.
    """
    await settle(ledger, await ledger.acquire("DAILY", "SPY"))
    clock.forward(days=2)
    await ledger.store_failure(
        await ledger.acquire("DAILY", "KO"), RequestOutcome.QUOTA_SPENT, clock.now() + COOLDOWN
    )
    assert clock.slept == []
    with pytest.raises(QuotaSpent) as spent:
        await ledger.acquire("DAILY", "MSFT")
    assert spent.value.at == clock.now() + COOLDOWN


async def test_a_pause_is_logged_once(ledger, clock):
    """
    Of three requests that are refused at the same time, only one logs that the provider is paused.
    """
    grants = [await ledger.acquire("DAILY", symbol) for symbol in ("SPY", "KO", "MSFT")]
    with logged("WARNING", clock) as lines:
        for grant in grants:
            await ledger.store_failure(
                grant, RequestOutcome.FAILED, clock.now() + timedelta(minutes=5)
            )
    assert [line["event"] for line in lines] == ["provider requests paused"]


async def test_failures_in_a_row(ledger, clock, pool):
    """
    Failures of all clients count, from the beginning of the work to the last answer; a spent quota
    does not.
    """
    for outcome in ("failed", "answered", "unknown", "quota_spent", "refused", "failed"):
        await ledger.store_failure(await ledger.acquire("DAILY", "SPY"), RequestOutcome(outcome))
        clock.forward(minutes=2)
    await ledger.store_failure(await ledger.acquire("DAILY", "KO"), RequestOutcome.FAILED)
    another = RequestLedger(pool=pool, provider="alpha", limits=FREE, clock=clock)
    assert await another.failures("DAILY", "SPY", NOW) == ["failed", "unknown"]
    assert await another.failures("DAILY", "SPY", NOW + timedelta(minutes=6)) == ["failed"]
    assert await another.failures("SPLITS", "SPY", NOW) == []


# A separate process in real time: it acquires grants as fast as it can, and prints them.
HAMMER = """
import asyncio, json, sys
from datetime import timedelta
from app.database import pools
from app.providers.rate_limiter import RateLimit, RequestLedger, RequestOutcome
from jobs.context import RealClock

async def main(address, name, count):
    limits = [RateLimit(1, timedelta(milliseconds=50)), RateLimit(5, timedelta(milliseconds=600))]
    async with pools.opened(pools.make_pool(address, max_size=3)) as pool:
        ledger = RequestLedger(pool, "alpha", limits, RealClock())
        async def ask(number):
            grant = await ledger.acquire("DAILY", f"{name}{number}")
            sent = RealClock().now().isoformat()
            await ledger.store_failure(grant, RequestOutcome.FAILED)
            return grant.id, sent
        print("ready", flush=True)
        sys.stdin.readline()
        print(json.dumps(await asyncio.gather(*map(ask, range(int(count))))))

asyncio.run(main(*sys.argv[1:]))
"""


def test_three_processes(database):
    """
    Of three processes with several requests at once, none exceeds a limit, and no request is lost
    or repeated.
    """
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", HAMMER, database, name, "8"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in "ABC"
    ]
    assert [process.stdout.readline() for process in processes] == ["ready\n"] * 3
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    granted = [
        grant for process in processes for grant in json.loads(process.communicate(timeout=60)[0])
    ]
    assert [process.returncode for process in processes] == [0, 0, 0]

    rows = stored(database)
    assert sorted(id for id, _ in granted) == [id for id, _, _ in rows]
    assert sorted(symbol for _, symbol, _ in rows) == sorted(
        f"{name}{number}" for name in "ABC" for number in range(8)
    )
    limits = [RateLimit(1, timedelta(milliseconds=50)), RateLimit(5, timedelta(milliseconds=600))]
    times = [at for _, _, at in rows]
    assert exceeded(times, limits) == []
    assert len({symbol[0] for _, symbol, _ in rows[:12]}) > 1, "they took turns"
    at = {id: at for id, _, at in rows}
    assert all(datetime.fromisoformat(sent) >= at[id] for id, sent in granted), (
        "the grant comes before the request"
    )
    # 24 requests take four full windows and some of a fifth; the ledger itself adds little.
    assert timedelta(seconds=2.4) <= max(times) - min(times) < timedelta(seconds=10)


def stored(address: str) -> list[tuple[int, str, datetime]]:
    """Return the requests in the order in which they were granted."""
    with psycopg.connect(address) as conn:
        return conn.execute(
            "SELECT id, symbol, at FROM operations.provider_requests ORDER BY id"
        ).fetchall()
