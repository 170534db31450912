"""
What the jobs' tests share: simulated providers that return what a test sets, and a job's context.

Each ticker has one round price for all sessions, except where a test sets another.
"""

import io
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import date, datetime, time, timedelta
from functools import cache
from typing import Any

import msgspec
import pytest
import structlog
import uvicorn
from clocks import HandSetClock
from local_server import local_server
from procrastinate.job_context import JobContext
from procrastinate.jobs import Job
from provider_server import ProviderServer, Reply, Request, says
from psycopg.pq import ExecStatus

from app.core import logging as logs
from app.core import settings
from app.core.settings import Settings
from app.database import pools
from app.database.pools import Pool
from app.domain import calendar
from app.domain.calendar import Calendar, new_york_date
from app.domain.declarations import ProviderResponse, ResponseKind, sha256_of
from app.domain.model import SERIES, Batch, Close, JournalEntry, Split
from app.errors import TryAgainAt
from app.providers.rate_limiter import rate_limits
from app.simulation.faults import FaultRule, FaultScript
from app.simulation.market import Market
from app.simulation.provider_simulators import ProviderSimulators
from app.store import batches, declarations, journal
from app.store.rows import Conn, insert_row, select_rows
from jobs import queue, weekly
from jobs.context import Context

# The Monday before New York's clocks go back: its fortnight begins in summer and ends in winter.
MONDAY = date(2026, 10, 26)
BASELINE = date(2026, 10, 23)

ALPHA_VANTAGE_KEY = "AVKEY4711"
OPENAI_KEY = "sk-openai4711"

PRICES = {
    "SPY": "600.0000",
    "AAPL": "80.0000",
    "MSFT": "3.0000",
    "NVDA": "7.0000",
    "KO": "60.0000",
    "BRK.B": "500.0000",
}
# The price of every other ticker: a control may draw any.
OTHER_PRICE = "40.0000"
CHOSEN = ("MSFT", "AAPL", "NVDA")

# The kinds of the first entries of a record, and of the two entries of a question.
DECLARED = ["GENESIS", "SERIES"]
ASKED = ["GENERATION", "GENERATION"]
# The kinds of the entries of a Monday with one question, when the record begins with it.
FIRST_MONDAY = [*DECLARED, *ASKED, *["READINGS"] * 4, "BATCH"]


def new_york(day: date, hour: int = 9, minute: int = 0) -> datetime:
    """Return the moment at which a clock in New York shows this time."""
    return calendar.from_new_york(day, time(hour, minute))


def make_answer(*tickers: str) -> dict[str, Any]:
    """Return a model's answer with these tickers, SELL and BUY in turn."""
    return {
        "picks": [
            {
                "ticker": ticker,
                "action": "BUY" if number % 2 else "SELL",
                "reasoning": f"{ticker} has its reasons.",
                "probability": 60 + number,
            }
            for number, ticker in enumerate(tickers)
        ]
    }


def make_completion(content: object, **headers: str) -> Reply:
    """Return a completion with `content`: a text, or a value that is encoded as JSON."""
    text = content if isinstance(content, str) else msgspec.json.encode(content).decode()
    message = {"role": "assistant", "content": text, "refusal": None}
    completion = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "gpt-5.4-mini-2026-03-17",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 200, "completion_tokens": 90, "total_tokens": 290},
    }
    return says(completion, **{"x_request_id": "req_1", **headers})


def make_dividend(day: date | str, amount: str, **members: str) -> dict[str, str]:
    """Return a row about the dividend of an ex-date, as Alpha Vantage sends it."""
    return {
        "ex_dividend_date": str(day),
        "declaration_date": "None",
        "record_date": str(day),
        "payment_date": "None",
        "amount": amount,
        **members,
    }


class World:
    """Both providers, at the clock's time. A test changes the members to change the responses."""

    def __init__(self, clock: HandSetClock) -> None:
        self.clock, self.calendar = clock, Calendar()
        self.prices = dict(PRICES)
        self.closes: dict[tuple[str, date], str] = {}
        self.absent: set[tuple[str, date]] = set()
        self.unknown: set[str] = set()
        self.opens: dict[tuple[str, date], str] = {}
        self.splits: dict[str, list[tuple[date, str]]] = {}
        # The rows of a ticker's dividends, each with the members that the provider sends.
        self.dividends: dict[str, list[dict[str, str]]] = {}
        self.rates: list[tuple[date, str]] = [(date(2026, 10, 2), "3.65")]
        self.instead: list[Reply] = []  # Alpha Vantage's next responses, in place of bars
        self.model: list[Reply] = [
            make_completion(make_answer(*CHOSEN))
        ]  # the last one is repeated
        # What the model's server says about its models: it has no such address.
        self.models: Callable[[Request], Reply] = lambda _: Reply(status=404)

    def __call__(self, request: Request) -> Reply:
        if request.path == "/v1/chat/completions":
            return self.model.pop(0) if len(self.model) > 1 else self.model[0]
        if request.path.startswith("/v1/models"):
            return self.models(request)
        if self.instead:
            return self.instead.pop(0)
        if request.query["function"] == "TREASURY_YIELD":
            return says(self._rates())
        ticker = request.query["symbol"].replace("-", ".")
        if ticker in self.unknown:
            return says({"Error Message": "Invalid API call. Please retry."})
        if request.query["function"] == "SPLITS":
            listed = [
                {"effective_date": str(day), "split_factor": factor}
                for day, factor in self.splits.get(ticker, ())
            ]
            return says({"symbol": request.query["symbol"], "data": listed})
        if request.query["function"] == "DIVIDENDS":
            listed = self.dividends.get(ticker, [])
            return says({"symbol": request.query["symbol"], "data": listed})
        return says({"Meta Data": {}, "Time Series (Daily)": self._bars(ticker)})

    def _rates(self) -> dict[str, Any]:
        return {
            "name": "3-Month Treasury Constant Maturity Rate",
            "interval": "weekly",
            "unit": "percent",
            "data": [{"date": str(day), "value": value} for day, value in self.rates],
        }

    def _bars(self, ticker: str) -> dict[str, Any]:
        day, bars = new_york_date(self.clock.now()) - timedelta(days=1), {}
        for _ in range(40):
            if self.calendar.is_session(day) and (ticker, day) not in self.absent:
                price = self.closes.get((ticker, day), self.prices.get(ticker, OTHER_PRICE))
                bars[str(day)] = {
                    "1. open": self.opens.get((ticker, day), price),
                    "4. close": price,
                }
            day -= timedelta(days=1)
        return bars


class JobHarness:
    """A context for jobs, with the simulated providers and the clock that a test controls."""

    def __init__(
        self, context: Context, provider: ProviderServer, world: World, clock: HandSetClock
    ) -> None:
        self.context, self.provider, self.world, self.clock = context, provider, world, clock

    @property
    def requested_tickers(self) -> list[str]:
        """The tickers whose bars were requested, in order."""
        return self._requested_symbols("TIME_SERIES_DAILY")

    @property
    def requested_splits(self) -> list[str]:
        """The tickers whose splits were requested, in order."""
        return self._requested_symbols("SPLITS")

    @property
    def requested_dividends(self) -> list[str]:
        """The tickers whose dividends were requested, in order."""
        return self._requested_symbols("DIVIDENDS")

    def _requested_symbols(self, function: str) -> list[str]:
        queries = [request.query for request in self.provider.requests if request.path == "/query"]
        return [query["symbol"] for query in queries if query["function"] == function]

    @property
    def questions(self) -> list[str]:
        """The questions that the model received, in order."""
        return [
            request.json["messages"][1]["content"]
            for request in self.provider.requests
            if request.path == "/v1/chat/completions"
        ]

    async def begin(
        self, job_id: int = 1, questions: int | None = None, series: str = SERIES
    ) -> None:
        """Run the weekly job's function."""
        await weekly.run_if_due(self.context, job_id, questions, series)

    async def make_batch(self, run_date: date = MONDAY, *tickers: str) -> Batch:
        """Make the batch of a Monday at 09:00, then clear the list of requests."""
        self.clock.time = new_york(run_date)
        if tickers:
            self.world.model = [make_completion(make_answer(*tickers))]
        await self.begin()
        self.provider.requests.clear()
        self.clock.slept.clear()
        batch = await self.batch(run_date)
        assert batch
        assert batch.status == "active"
        return batch

    async def batch(self, run_date: date = MONDAY, series: str = SERIES) -> Batch | None:
        """Return the batch of a Monday."""
        async with self.context.pool.connection() as conn:
            return await batches.get_by_run_date(conn, series, run_date)

    async def journal(self) -> list[JournalEntry]:
        """Return all entries of the journal."""
        async with self.context.pool.connection() as conn:
            return await select_rows(conn, JournalEntry, table="journal", where="ORDER BY seq")

    async def kinds(self) -> list[str]:
        """Return the kinds of all entries of the journal."""
        return [entry.kind for entry in await self.journal()]

    async def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Return the rows of a statement."""
        return await rows(self.context.pool, query, *values)

    async def jobs(self) -> list[tuple[str, dict[str, Any], Any]]:
        """Return the waiting jobs: task, arguments, scheduled time."""
        return await self.rows(
            "SELECT task_name, args, scheduled_at FROM procrastinate_jobs WHERE status = 'todo' "
            "ORDER BY id"
        )


async def rows(pool: Pool, query: str, *values: object) -> list[tuple[Any, ...]]:
    """Return the rows of a statement; of one that returns none, such as UPDATE, an empty list."""
    async with pool.connection() as conn:
        cursor = await conn.execute(query.encode(), values)
        # A query without columns (SELECT FROM) has rows, too, but its cursor describes no column.
        if cursor.pgresult.status != ExecStatus.TUPLES_OK:
            return []
        return await cursor.fetchall()


async def store_reading(conn: Conn, context: Context, reading: Close | Split) -> None:
    """Store a reading that another process has read, with the entry of its response."""
    is_split = isinstance(reading, Split)
    day = reading.effective_date if isinstance(reading, Split) else reading.trading_day
    response = ProviderResponse(
        source=reading.source,
        kind=ResponseKind.SPLITS if is_split else ResponseKind.CLOSES,
        ticker=reading.ticker,
        read_at=reading.read_at,
        first_session=day,
        last_session=day,
        sha256=sha256_of(reading.source),
    )
    await declarations.declare_version(conn)
    await insert_row(conn, "splits" if is_split else "closes", reading)
    await journal.append_readings(
        conn,
        response,
        closes=[] if is_split else [reading],
        splits=[reading] if is_split else [],
        in_force=context.in_force,
    )


def allow(harness: JobHarness, per_day: int) -> None:
    """Let the key allow so many requests a day."""
    harness.context.prices.ledger.limits = rate_limits(
        per_second=100, per_minute=100, per_day=per_day
    )


async def run_until_done(harness: JobHarness, job: Any) -> list[datetime]:
    """Run `job()` as the queue does, and again at each time that TryAgainAt has. Return them."""
    times: list[datetime] = []
    while retry_at := await run_attempt(job):
        times.append(retry_at)
        harness.clock.time = retry_at
    return times


async def run_attempt(job: Any) -> datetime | None:
    """Run `job()` once. Return the time of its TryAgainAt, or None if it is done."""
    try:
        await job()
    except TryAgainAt as error:
        return error.at
    return None


_KEYS = {"OPENAI_API_KEY": OPENAI_KEY, "ALPHA_VANTAGE_API_KEY": ALPHA_VANTAGE_KEY}


def first_attempt(task: str) -> JobContext:
    """Return what a middleware of the worker gets with the first attempt of a task's job."""
    job = Job(id=1, queue="default", lock=None, queueing_lock=None, task_name=task)
    return JobContext(app=queue.app, job=job, start_timestamp=0.0, abort_reason=lambda: None)


@cache
def _load_settings(environment: tuple[tuple[str, str], ...]) -> Settings:
    return settings.load({"DATABASE_URL": "postgresql://replaced/later", **dict(environment)})


@asynccontextmanager
async def open_context(
    database: str, pool: Pool, clock: HandSetClock, base_url: str, **environment: str
) -> AsyncIterator[Context]:
    """Open the queue on `database`, and bind a context that uses the providers at `base_url`."""
    # Validation takes six milliseconds, so the settings are loaded once for each environment, and
    # only the two addresses, which differ for each test, are replaced.
    configuration = msgspec.structs.replace(
        _load_settings(tuple(sorted({**_KEYS, **environment}.items()))),
        database_url=database,
        openai_base_url=f"{base_url}/v1",
        alpha_vantage_base_url=base_url,
    )
    with queue.app.replace_connector(queue.make_connector(database)):
        async with (
            queue.app.open_async(),
            queue.bind_context(queue.app, configuration, pool=pool, clock=clock) as context,
        ):
            yield context


@pytest.fixture
def clock() -> HandSetClock:
    """A clock that shows 09:00 in New York on the Monday."""
    return HandSetClock(new_york(MONDAY))


@pytest.fixture
async def harness(database, clock) -> AsyncIterator[JobHarness]:
    """A harness whose providers return what the test sets."""
    async with open_harness(database, clock) as harness:
        yield harness


@asynccontextmanager
async def open_harness(
    database: str, clock: HandSetClock, **environment: str
) -> AsyncIterator[JobHarness]:
    """A harness with any migrated database, and with more settings."""
    world = World(clock)
    async with (
        pools.opened(pools.make_pool(database, max_size=5)) as pool,
        ProviderServer() as provider,
        open_context(
            database=database,
            pool=pool,
            clock=clock,
            base_url=provider.url,
            **environment,
        ) as context,
    ):
        provider.answers = world
        yield JobHarness(context=context, provider=provider, world=world, clock=clock)


@contextmanager
def logged(level: str, clock: HandSetClock, *secrets: str) -> Iterator[list[dict[str, Any]]]:
    """
    Log as the service does. The list has the lines, those of libraries too, when the context ends.
    """
    root = logging.getLogger()
    loggers = {
        logging.getLogger(name): logging.getLogger(name).level
        for name in ("", *logs._LIBRARY_LEVELS)
    }
    handlers, text, lines = root.handlers, io.StringIO(), []
    logs.configure(level, clock.now, secrets, to=text)
    try:
        yield lines
    finally:
        root.handlers = handlers
        for logger, before in loggers.items():
            logger.setLevel(before)
        structlog.reset_defaults()
        lines += map(json.loads, text.getvalue().splitlines())


MARKET = Market(Calendar())


@asynccontextmanager
async def standins(
    clock: HandSetClock, log: Any = None, rules: Sequence[FaultRule] = (), market: Market = MARKET
) -> AsyncIterator[str]:
    """Run the rehearsal's provider simulators with a script and a clock. Yield their address."""

    async def now() -> Any:
        return clock.now()

    app = ProviderSimulators(market=market, now=now, log=log, script=FaultScript(rules))
    # uvicorn would log the requested faults as errors.
    config = uvicorn.Config(app, log_level="critical", lifespan="off")
    async with local_server(config) as (host, port):
        try:
            yield f"http://{host}:{port}"
        finally:
            if app._log:
                app._log.close()
