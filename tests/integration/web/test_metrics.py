"""
`/metrics`: the counts of the process, what Postgres knows, and nothing that clients can inject.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from time import monotonic

import httpx
import psycopg
import pytest
from job_context import MONDAY, new_york
from job_context import clock as clock
from job_context import harness as harness
from processes import serving
from prometheus_client.parser import text_string_to_metric_families
from silent_proxy import Proxy

from api.cache import ResponseCache
from app.core import settings
from app.database import pools
from app.domain.model import SERIES, batch_id
from app.ops.snapshot import MetricsReader
from app.web import metrics as page
from app.web.metrics import Metrics, ProcessState
from jobs import daily, reconcile, request_budget, weekly

TUESDAY = MONDAY + timedelta(days=1)
SUNDAY = MONDAY + timedelta(days=6)
QUERY = {"query": "{ latestBatch { id } }"}

CONFIGURED = request_budget.configured_by(settings.load({}))

Samples = dict[str, dict[tuple[str, ...], float]]


def read(text: str | bytes) -> Samples:
    """
    Return the samples of a page by name, then by the values of the labels in the order of their
    names.
    """
    samples: Samples = {}
    for family in text_string_to_metric_families(text if isinstance(text, str) else text.decode()):
        for sample in family.samples:
            values = tuple(sample.labels[name] for name in sorted(sample.labels))
            samples.setdefault(sample.name.removeprefix("alpha_monday_"), {})[values] = sample.value
    return samples


async def nothing(*_: object) -> None:
    """Answer nothing."""


class Source:
    """The metrics of a process, with a database connection of their own."""

    def __init__(self, pool: pools.Pool, harness) -> None:
        self.pool, self.metrics = pool, Metrics("1.2.3", rehearsed=False)
        reader = MetricsReader(
            pool, harness.context.prices.ledger, harness.clock, configured=CONFIGURED
        )
        self.metrics.process_state = ProcessState(
            cache=ResponseCache(nothing, lambda: 1),
            pools={"app": harness.context.pool},
            worker=None,
            reader=reader,
        )

    async def current(self) -> Samples:
        """Return the current values, not those of a moment ago."""
        self.metrics._fresh_until = monotonic()
        return read(await self.metrics.text())


@asynccontextmanager
async def opened_source(harness, address: str) -> AsyncIterator[Source]:
    async with pools.make_pool(
        address, max_size=1, min_size=0, name="metrics", acquire_timeout=2
    ) as pool:
        yield Source(pool, harness)


@pytest.fixture
async def source(harness, database) -> AsyncIterator[Source]:
    async with opened_source(harness, database) as source:
        yield source


async def test_before_anything_is_there(source):
    """Every series begins at 0; the age of an event that never happened is left out."""
    samples = await source.current()
    assert samples["build_info"] == {("false", "1.2.3"): 1}
    assert samples["database_up"] == {(): 1}
    for name in (
        "mondays",
        "checkpoints",
        "jobs",
        "provider_requests_total",
        "upkeep_mended_total",
        "generations",
        "http_requests_total",
        "model_tokens_total",
        "checkpoint_lateness_seconds_count",
    ):
        assert samples[name]
        assert not any(samples[name].values()), name
    assert samples["newest_monday"]["absent",] == 1  # nine o'clock on the Monday
    assert samples["workers"] == {("alive",): 0, ("silent",): 0}
    assert (
        not {
            "newest_checkpoint_age_seconds",
            "journal_age_seconds",
            "upkeep_age_seconds",
            "worker_up",
        }
        & samples.keys()
    )
    assert samples["process_start_time_seconds"]


async def test_a_monday_and_its_mornings(source, harness):
    """
    The newest Monday's state, the requests, the checkpoints and their lateness, across a change
    of the clocks.
    """
    await harness.make_batch()
    samples = await source.current()
    assert [status for (status,), is_it in samples["newest_monday"].items() if is_it] == ["active"]
    assert samples["mondays"]["", "active"] == 1
    assert samples["generations"] == {("accepted",): 1, ("failed",): 0, ("refused",): 0}
    assert samples["model_tokens_total"] == {("prompt",): 200, ("completion",): 90}
    assert samples["provider_requests_total"]["TIME_SERIES_DAILY", "answered"] == 4
    assert samples["jobs"]["todo", "take_checkpoint"] == 14

    # Sunday, the 1st of November: nine is 14:00 in UTC from that morning on. The checkpoints of the
    # days before were not taken.
    harness.clock.time = new_york(SUNDAY)
    samples = await source.current()
    assert samples["checkpoints_overdue"] == {(): 6}
    assert samples["checkpoint_overdue_seconds"] == {(): 5 * 86_400 + 3600}
    harness.clock.forward(seconds=90)
    await daily.take(harness.context, batch_id(SERIES, MONDAY), 6)
    harness.clock.time = new_york(SUNDAY, 10)
    samples = await source.current()
    assert samples["checkpoints"]["MARKET_CLOSED", "skipped"] == 1
    assert samples["checkpoint_lateness_seconds_sum"]["skipped",] == 90
    late = {
        float(le): count
        for (le, status), count in samples["checkpoint_lateness_seconds_bucket"].items()
        if status == "skipped"
    }
    assert late == {
        60: 0,
        **dict.fromkeys([300, 900, 3600, 14_400, 43_200, 86_400, 172_800, float("inf")], 1),
    }
    assert samples["newest_checkpoint_age_seconds"] == {(): 3600 - 90}
    # The newest entry may be about a response that was read after the checkpoint.
    assert samples["journal_age_seconds"][()] <= 3600 - 90
    assert samples["checkpoints_overdue"] == {(): 5}


async def test_a_monday_that_failed(source, harness):
    """It has its reason; the next Monday, which no run has begun, is absent."""
    async with harness.context.pool.connection() as conn, conn.transaction():
        assert await weekly.give_up(conn, harness.context, MONDAY, failure="It is only a test.")
    samples = await source.current()
    assert samples["newest_monday"]["failed",] == 1
    assert samples["mondays"]["CONFIGURATION", "failed"] == 1
    harness.clock.forward(days=8)
    assert (await source.current())["newest_monday"][
        "absent",
    ] == 1  # also on a Tuesday: the series has begun


async def test_a_monday_before_the_first(source, harness):
    """Before a series has begun, nothing is missed on other days than Monday."""
    harness.clock.time = new_york(TUESDAY)
    assert (await source.current())["newest_monday"]["not_begun",] == 1


async def test_missing_prices_and_repairs(source, harness):
    """Repairs are counted over all rounds and processes."""
    await harness.make_batch()
    for day in (1, 2):
        await harness.rows("DELETE FROM procrastinate_jobs WHERE args ->> 'day' = %s", str(day))
        harness.clock.time = new_york(MONDAY + timedelta(days=day))
        assert (await reconcile.run_round(harness.context)).deferred == 1
    harness.clock.forward(seconds=30)
    samples = await source.current()
    assert samples["upkeep_mended_total"] == {
        ("put_back",): 0, ("given_up",): 0, ("deferred",): 2, ("begun",): 0, ("missed",): 0
    }  # fmt: skip
    assert samples["upkeep_age_seconds"] == {(): 30}

    harness.world.absent.add(("SPY", MONDAY))
    harness.clock.time = new_york(TUESDAY, 20, 45)
    await daily.take(harness.context, batch_id(SERIES, MONDAY), 1)
    samples = await source.current()
    assert samples["checkpoints_lacking_prices"] == {(): 1}
    assert samples["checkpoints"]["MISSING_CLOSE", "skipped"] == 1


async def test_the_quota(source, harness):
    """
    The rest of each limit, and the time until the next request, come from the ledger of all
    processes.
    """
    now = harness.clock.now()
    await harness.rows(
        "INSERT INTO operations.provider_requests (provider, function, symbol, at, ended_at, "
        "outcome) "
        "SELECT 'alphavantage', 'SPLITS', 'XOM', at, at, 'failed' FROM generate_series(%s, %s, "
        "interval '1 min') AS at",
        now - timedelta(minutes=24),
        now,
    )
    await harness.rows(
        "INSERT INTO operations.provider_requests (provider, function, symbol, at) "
        "VALUES ('alphavantage', 'SPLITS', 'XOM', %s)",
        now - timedelta(hours=1),
    )
    samples = await source.current()
    assert samples["provider_quota_left_requests"] == {("second",): 0, ("minute",): 3, ("day",): 0}
    assert samples["provider_quota_limit_requests"] == {
        ("second",): 1,
        ("minute",): 5,
        ("day",): 25,
    }
    # The 25th newest of 26 was 24 minutes ago: a day and a second after it.
    assert samples["provider_quota_wait_seconds"] == {(): 86_401 - 24 * 60}
    assert samples["provider_requests_total"]["SPLITS", "failed"] == 25
    assert samples["provider_requests_total"]["SPLITS", "cut_off"] == 1


async def test_workers_and_jobs(source, harness):
    """Workers are counted by their heartbeats; a job of another program has the task "other"."""
    await harness.rows(
        "INSERT INTO procrastinate_workers (last_heartbeat) VALUES (now()), (now() - interval "
        "'1 hour')"
    )
    await harness.rows(
        "INSERT INTO procrastinate_jobs (queue_name, task_name, args, scheduled_at) "
        "VALUES ('default', 'MSFT', '{}', %s)",
        harness.clock.now() - timedelta(minutes=20),
    )
    samples = await source.current()
    assert samples["workers"] == {("alive",): 1, ("silent",): 1}
    assert samples["jobs"]["todo", "other"] == 1
    assert samples["job_wait_seconds"] == {(): 1200}
    assert not [values for values in samples["jobs"] if "MSFT" in values]


async def test_a_job_without_a_time_waits_too(source, harness):
    """A job without a scheduled time waits from when it was deferred or put back."""
    ((job,),) = await harness.rows(
        "INSERT INTO procrastinate_jobs (queue_name, task_name, args) "
        "VALUES ('default', 'send_alert', '{}') RETURNING id"
    )
    assert (await source.current())["job_wait_seconds"] == {
        (): 0
    }  # deferred in real time, after the harness's
    at = harness.clock.now() - timedelta(minutes=20)
    await harness.rows("UPDATE procrastinate_events SET at = %s WHERE job_id = %s", at, job)
    assert (await source.current())["job_wait_seconds"] == {(): 1200}


async def test_requests_at_once_share_one_read(source, harness):
    """
    Fifty requests cause one read of Postgres; one that comes a moment later gets the same
    result.
    """
    before = await asyncio.gather(*(source.metrics.text() for _ in range(50)))
    assert len(set(before)) == 1
    await harness.make_batch()
    assert await source.metrics.text() == before[0]
    stats = source.pool.get_stats()
    assert (stats["requests_num"], stats["pool_size"]) == (1, 1)
    assert (await source.current())["mondays"]["", "active"] == 1


async def test_a_cancelled_request_leaves_the_result_to_others(source):
    """A request that is cancelled does not cancel the result for the next one."""
    leaving = asyncio.create_task(source.metrics.text())
    await asyncio.sleep(0)
    leaving.cancel()
    assert b"alpha_monday_database_up 1.0" in await source.metrics.text()


async def test_a_database_that_is_silent(harness, database):
    """
    The page answers in time without the values of the database, and has them again afterwards.
    """
    async with (
        Proxy().leading_to(database) as proxy,
        opened_source(harness, proxy.address) as source,
    ):
        assert (await source.current())["database_up"] == {(): 1}
        proxy.silent = True
        began = monotonic()
        samples = await source.current()
        assert monotonic() - began < 10  # two seconds, on a busy machine
        assert samples["database_up"] == {(): 0}
        assert samples["build_info"]
        assert samples["cache_hits_total"]
        assert (
            not {"mondays", "jobs", "journal_seq", "provider_quota_left_requests"} & samples.keys()
        )
        proxy.silent = False
        assert (await source.current())["database_up"] == {(): 1}


async def test_a_slow_database_is_not_waited_for(source, database):
    """A statement is given up after two seconds; the next request has all values again."""
    with psycopg.connect(database) as holding:
        holding.execute("LOCK TABLE checkpoints IN ACCESS EXCLUSIVE MODE")
        assert (await source.current())["database_up"] == {(): 0}
    assert (await source.current())["database_up"] == {(): 1}


def test_requests_are_counted(database, tmp_path):
    """
    Requests are counted by route, class and outcome, those from the cache too, without any text
    of a client.
    """
    with (
        serving(tmp_path, DATABASE_URL=database) as server,
        httpx.Client(base_url=server.address) as client,
    ):
        while not (before := read(client.get("/metrics").text))["announcements_heard"][()]:
            time.sleep(0.1)
        for _ in range(3):
            assert client.post("/graphql", json=QUERY).status_code == 200
        tag = client.get("/graphql", params=QUERY).headers["etag"]
        assert (
            client.get("/graphql", params=QUERY, headers={"if-none-match": tag}).status_code == 304
        )
        client.post(
            "/graphql", json={"query": "{ secretOfMine }"}, headers={"x-request-id": "secretOfMine"}
        )
        client.get("/secretOfMine")
        client.put("/live")
        for _ in range(2):
            assert client.get("/about").status_code == client.get("/feed.atom").status_code == 200
        assert "x-request-id" not in client.get("/about").headers  # cached
        time.sleep(page.SHARED_FOR)
        response = client.get("/metrics")
        assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert response.headers["cache-control"] == "no-store"
        assert "secretOfMine" not in response.text
        samples = read(response.text)

    def more(name: str, *values: str) -> float:
        return samples[name][values] - before[name].get(values, 0)

    assert [more(f"cache_{what}_total") for what in ("hits", "misses", "unchanged")] == [
        6,
        5,
        1,
    ]  # of pages and the feed 3 and 2
    assert (
        more("http_requests_total", "graphql", "2xx") == 6
    )  # the refused document is a 200, by its media type
    assert more("graphql_requests_total", "answered") == 5
    assert samples["graphql_requests_total"]["GRAPHQL_VALIDATION_FAILED",] == 1
    assert more("http_requests_total", "pages", "2xx") == 3
    assert more("http_requests_total", "followed", "2xx") == 2
    assert more("http_requests_total", "other", "4xx") == 1
    assert more("http_requests_total", "live", "4xx") == 1
    assert more("http_request_duration_seconds_count", "graphql") == 3
    assert samples["cache_answers"] == {(): 4}
    assert samples["pool_limit_connections"] == {
        ("api",): settings.load({}).api_pool_size,
        ("app",): 12,
        ("queue",): 4,
    }


def test_names_are_as_prometheus_wants_them(database, tmp_path):
    """Base units, `_total` only for counters, a description for each, and less than 600 lines."""
    with serving(tmp_path, DATABASE_URL=database) as server:
        text = httpx.get(f"{server.address}/metrics").text
    families = list(text_string_to_metric_families(text))
    ours = [family for family in families if family.name.startswith("alpha_monday_")]
    assert len(ours) > 30
    for family in ours:
        assert family.documentation.endswith("."), family.name
        totals = {sample.name.endswith("_total") for sample in family.samples}
        assert (totals == {True}) == (family.type == "counter"), family.name
        assert not re.search("_(ms|milliseconds|minutes|hours|kb|percent)$", family.name)
    assert len(text.splitlines()) < 600
