"""
What the jobs' tests share: an exchange and a model that say what a test writes down, and tools that lead to them.

Prices are the usual thing, one round price a ticker for every session, except for what a test is about.
"""

import asyncio
import io
import json
import logging
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import date, datetime, time, timedelta
from typing import Any

import msgspec
import pytest
import structlog
import uvicorn
from clocks import HandSetClock
from provider_server import ProviderServer, Reply, Request, says

from app.core import logging as logs
from app.core import settings
from app.database import pools
from app.database.pools import Pool
from app.domain import calendar
from app.domain.calendar import Calendar, today
from app.domain.model import SERIES, Batch, JournalEntry
from app.errors import TryAgainAt
from app.simulation.faults import Rule, Script
from app.simulation.market import Market
from app.simulation.provider_simulators import StandIns
from app.store import batches
from app.store.rows import select
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
CHOSEN = ("MSFT", "AAPL", "NVDA")


def new_york(day: date, hour: int = 9, minute: int = 0) -> datetime:
    """The moment at which New York's clocks show this."""
    return calendar.at(day, time(hour, minute))


def an_answer(*tickers: str) -> dict[str, Any]:
    """A model's answer that chooses these tickers, SELL and BUY in turn."""
    return {
        "picks": [
            {"ticker": ticker, "action": "BUY" if number % 2 else "SELL", "reasoning": f"{ticker} has its reasons."}
            for number, ticker in enumerate(tickers)
        ]
    }


def completes(content: object, **headers: str) -> Reply:
    """A completion with `content`: a text, or what becomes one as JSON."""
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


class World:
    """Both providers at once, as of the clock's time; what is out of the ordinary is written into its members."""

    def __init__(self, clock: HandSetClock) -> None:
        self.clock, self.calendar = clock, Calendar()
        self.prices = dict(PRICES)
        self.closes: dict[tuple[str, date], str] = {}
        self.absent: set[tuple[str, date]] = set()
        self.unknown: set[str] = set()
        self.opens: dict[tuple[str, date], str] = {}
        self.splits: dict[str, list[tuple[date, str]]] = {}
        self.instead: list[Reply] = []  # what Alpha Vantage answers to its next requests in place of bars
        self.model: list[Reply] = [completes(an_answer(*CHOSEN))]  # the last one for ever

    def __call__(self, request: Request) -> Reply:
        if request.path == "/v1/chat/completions":
            return self.model.pop(0) if len(self.model) > 1 else self.model[0]
        if self.instead:
            return self.instead.pop(0)
        ticker = request.query["symbol"].replace("-", ".")
        if ticker in self.unknown:
            return says({"Error Message": "Invalid API call. Please retry."})
        if request.query["function"] == "SPLITS":
            listed = [{"effective_date": str(day), "split_factor": said} for day, said in self.splits.get(ticker, ())]
            return says({"symbol": request.query["symbol"], "data": listed})
        return says({"Meta Data": {}, "Time Series (Daily)": self._bars(ticker)})

    def _bars(self, ticker: str) -> dict[str, Any]:
        day, bars = today(self.clock.now()) - timedelta(days=1), {}
        for _ in range(40):
            if self.calendar.is_session(day) and (ticker, day) not in self.absent:
                price = self.closes.get((ticker, day), self.prices[ticker])
                bars[str(day)] = {"1. open": self.opens.get((ticker, day), price), "4. close": price}
            day -= timedelta(days=1)
        return bars


class House:
    """A queue, a pool, tools and a world, all of one test."""

    def __init__(self, tools: Context, provider: ProviderServer, world: World, clock: HandSetClock) -> None:
        self.tools, self.provider, self.world, self.clock = tools, provider, world, clock

    @property
    def asked(self) -> list[str]:
        """The tickers whose bars were asked for, in their order."""
        return self._asked("TIME_SERIES_DAILY")

    @property
    def asked_for_splits(self) -> list[str]:
        """The tickers whose splits were asked for, in their order."""
        return self._asked("SPLITS")

    def _asked(self, function: str) -> list[str]:
        queries = [request.query for request in self.provider.requests if request.path == "/query"]
        return [query["symbol"] for query in queries if query["function"] == function]

    @property
    def questions(self) -> list[str]:
        """What the model was asked, question by question."""
        return [
            request.json["messages"][1]["content"] for request in self.provider.requests if request.path != "/query"
        ]

    async def begin(self, job_id: int = 1, questions: int | None = None) -> None:
        """Run the weekly job's function."""
        await weekly.begin(self.tools, job_id, questions)

    async def a_batch(self, run_date: date = MONDAY, *tickers: str) -> Batch:
        """Make the batch of a Monday at its nine o'clock, and forget how it was made."""
        self.clock.time = new_york(run_date)
        if tickers:
            self.world.model = [completes(an_answer(*tickers))]
        await self.begin()
        self.provider.requests.clear()
        self.clock.slept.clear()
        batch = await self.batch(run_date)
        assert batch
        assert batch.status == "active"
        return batch

    async def batch(self, run_date: date = MONDAY) -> Batch | None:
        """The batch of a Monday."""
        async with self.tools.pool.connection() as conn:
            return await batches.on(conn, SERIES, run_date)

    async def journal(self) -> list[JournalEntry]:
        """All entries."""
        async with self.tools.pool.connection() as conn:
            return await select(conn, JournalEntry, "journal", "ORDER BY seq")

    async def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """What a statement gives."""
        return await rows(self.tools.pool, query, *values)

    async def jobs(self) -> list[tuple[str, dict[str, Any], Any]]:
        """The jobs that wait: task, arguments, due time."""
        return await self.rows(
            "SELECT task_name, args, scheduled_at FROM procrastinate_jobs WHERE status = 'todo' ORDER BY id"
        )


async def rows(pool: Pool, query: str, *values: object) -> list[tuple[Any, ...]]:
    """What a statement gives."""
    async with pool.connection() as conn:
        cursor = await conn.execute(query.encode(), values)
        return await cursor.fetchall() if cursor.description else []


async def until_it_can(house: House, job: Any) -> list[datetime]:
    """Run `job()` as the queue would: again at the times that it says. Return those times."""
    times: list[datetime] = []
    while later := await the_time_it_says(job):
        times.append(later)
        house.clock.time = later
    return times


async def the_time_it_says(job: Any) -> datetime | None:
    """Run `job()`; return when it wants to be run again, or None when it is done."""
    try:
        await job()
    except TryAgainAt as later:
        return later.at
    return None


@asynccontextmanager
async def tools_for(
    database: str, pool: Pool, clock: HandSetClock, base_url: str, **environment: str
) -> AsyncIterator[Context]:
    """The queue open on `database`, and tools that lead to the providers at `base_url`."""
    given = {
        "DATABASE_URL": database,
        "OPENAI_API_KEY": OPENAI_KEY,
        "OPENAI_BASE_URL": f"{base_url}/v1",
        "ALPHA_VANTAGE_API_KEY": ALPHA_VANTAGE_KEY,
        "ALPHA_VANTAGE_BASE_URL": base_url,
        **environment,
    }
    with queue.app.replace_connector(queue.connector(database)):
        async with queue.app.open_async(), queue.handed(queue.app, settings.load(given), pool, clock) as tools:
            yield tools


@pytest.fixture
def clock() -> HandSetClock:
    """Nine in New York on the Monday."""
    return HandSetClock(new_york(MONDAY))


@pytest.fixture
async def house(database, clock) -> AsyncIterator[House]:
    """A house whose providers say what the test writes down."""
    async with house_at(database, clock) as house:
        yield house


@asynccontextmanager
async def house_at(database: str, clock: HandSetClock) -> AsyncIterator[House]:
    """A house whose record is in any migrated database."""
    world = World(clock)
    async with (
        pools.opened(pools.make_pool(database, size=5)) as pool,
        ProviderServer() as provider,
        tools_for(database, pool, clock, provider.url) as tools,
    ):
        provider.answers = world
        yield House(tools, provider, world, clock)


@contextmanager
def logged(level: str, clock: HandSetClock, *secrets: str) -> Iterator[list[dict[str, Any]]]:
    """Log as the service does; the list holds the lines, ours and the libraries', when the context has ended."""
    root = logging.getLogger()
    loggers = {logging.getLogger(name): logging.getLogger(name).level for name in ("", *logs._QUIETER)}
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
    clock: HandSetClock, log: Any = None, rules: Sequence[Rule] = (), market: Market = MARKET
) -> AsyncIterator[str]:
    """The rehearsal's stand-ins for both providers, with a script, in the clock's time; their address on loopback."""

    async def now() -> Any:
        return clock.now()

    app = StandIns(market, now, log, Script(rules))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        # What uvicorn would log as errors are the faults that were asked for.
        config = uvicorn.Config(app, log_level="critical", lifespan="off", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        running = asyncio.create_task(server.serve([listener]))
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await running
            if app._log:
                app._log.close()
