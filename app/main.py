"""
The composition root: builds the pools, the queue, the worker, the reconciler and the handlers of one process.

Only `app.commands` imports it.

`create_app(settings)` is the service as an ASGI application; `living` is the same without its web server.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from typing import Any

import structlog
from litestar import Litestar
from litestar.config.cors import CORSConfig
from litestar.datastructures import ResponseHeader
from litestar.exceptions import HTTPException

from api.cache import Cache
from api.engine import Engine
from api.headers import EXPOSED
from api.http import routes
from api.lanes import Lanes
from api.limits import LONGEST_BODY
from api.schema import Facts, schema
from app.core.settings import Settings
from app.database import migrations, pools, rehearsed
from app.database.embedded import address_of
from app.database.queries import Fetch, fetcher, standing
from app.database.revision import Revision
from app.domain import calendar
from app.domain.calendar import Calendar, Clock
from app.ops import snapshot
from app.providers import model_ends
from app.web.charts.image import picture
from app.web.feeds.atom import feed
from app.web.feeds.downloads import MOST_AT_ONCE as EXPORTS_AT_ONCE
from app.web.feeds.downloads import downloads
from app.web.health import health_routes
from app.web.live import Live
from app.web.metrics import Life, Metrics, metrics_route
from app.web.middleware import Requests
from app.web.pages.site import Site
from app.web.routes import cached_query
from app.web.unsent import counted, is_full
from jobs import queue as the_queue
from jobs.context import Context, RealClock
from jobs.queue import Queue
from jobs.worker import Worker, supervised

log = structlog.get_logger()

VERSION = version("alpha-monday")

# How long Postgres works on one query of the API, and how long a query waits for a connection, in seconds.
READ_LIMIT = 5
READ_WAIT = 2

# How long a job may use a connection at a time, in seconds: it holds none while it asks a provider.
JOB_LIMIT = 60

_MADE_UP = "Rehearsed: every price and every word of this record is made up."

ClockOf = Callable[[pools.Pool, Queue], AbstractAsyncContextManager[Any]]


@dataclass(frozen=True)
class Process:
    """
    What runs in one process, with or without the web server.

    `direct` is the database's address without a PgBouncer: LISTEN needs it. `worker` is None where
    it was switched off.
    """

    pool: pools.Pool
    queue_pool: pools.Pool
    direct: str
    context: Context
    clock: Clock
    worker: Worker | None


@asynccontextmanager
async def living(settings: Settings, clock_of: ClockOf | None = None, *, work: bool = True) -> AsyncIterator[Process]:
    """
    Bring everything but the web server to life, and drain it at the end.

    `clock_of` gives another clock than the real one: a rehearsal's, in a database that is one.
    """
    address = address_of(settings.database_url)
    direct = settings.queue_address or address
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(
            pools.opened(pools.make_pool(address, pooled=settings.database_pooled, size=12, longest=JOB_LIMIT))
        )
        await migrations.refuse_old(direct)
        queue, connector = the_queue.app, the_queue.connector(direct)
        stack.enter_context(queue.replace_connector(connector))
        await stack.enter_async_context(queue.open_async())
        clock: Any = RealClock()
        if clock_of:
            clock = await stack.enter_async_context(clock_of(pool, queue))
        else:
            await rehearsed.refuse(pool)
        context = await stack.enter_async_context(the_queue.handed(queue, settings, pool, clock))
        worker = None
        if work and not clock_of:
            model_ends.warn(settings.openai_model, calendar.today(clock.now()))
        if work:
            options = clock.options if clock_of else dict
            worker = await stack.enter_async_context(supervised(queue, context, options))
            if clock_of:
                clock.worker_anew = worker.start_anew
        yield Process(
            pool=pool,
            queue_pool=connector.pool,
            direct=direct,
            context=context,
            clock=clock,
            worker=worker,
        )


@asynccontextmanager
async def reading(settings: Settings) -> AsyncIterator[tuple[pools.Pool, pools.Pool, Fetch]]:
    """
    Give the API a pool of its own: however many reads there are, and however slow, jobs find a connection.

    So do the API's reads beside exports, which have a pool of their own, too: each of them keeps a connection for as
    long as its client reads. It opens none before one is asked for.

    Its user is API_DATABASE_URL's, where that is set: what a query could do at the worst is then what the reader may.
    """
    address, pooled = address_of(settings.api_address), settings.database_pooled
    pool = pools.make_pool(
        address,
        pooled=pooled,
        size=settings.api_pool_size,
        name="api",
        limit=READ_LIMIT,
        generic=True,
        wait=READ_WAIT,
        apart=bool(settings.api_database_url),
    )
    exports = pools.make_pool(
        address,
        pooled=pooled,
        size=EXPORTS_AT_ONCE,
        least=0,
        name="exports",
        limit=READ_LIMIT,
        wait=READ_WAIT,
        apart=bool(settings.api_database_url),
    )
    async with pools.opened(pool), exports:
        yield pool, exports, fetcher(pool, pooled=pooled, limit=READ_LIMIT)


@dataclass(frozen=True)
class Running:
    """
    What is open while the service runs.

    `api_pool` is the pool that `fetch` reads from, `export_pool` that of exports.
    """

    process: Process
    api_pool: pools.Pool
    export_pool: pools.Pool
    fetch: Fetch


class Runtime:
    """
    What the request handlers read of the running service.

    Litestar is given its handlers before its lifespan opens the pools. So the handlers are given
    methods of this object, and call them when a request comes.
    """

    def __init__(self, *, rehearsed: bool) -> None:
        self.facts = Facts(version=VERSION, rehearsed=rehearsed, now=self.now)
        self._running: Running | None = None
        self._health: asyncio.Task[snapshot.Health] | None = None

    @asynccontextmanager
    async def opened(
        self,
        settings: Settings,
        clock_of: ClockOf | None,
        *,
        work: bool,
    ) -> AsyncIterator[Running]:
        """Open everything that the handlers read, and close it at the end."""
        try:
            async with (
                living(settings, clock_of, work=work) as process,
                reading(settings) as (api_pool, export_pool, fetch),
            ):
                self._running = Running(process, api_pool, export_pool, fetch)
                yield self._running
        finally:
            self._running = None

    @property
    def running(self) -> Running:
        """Return what is open, or raise RuntimeError before `opened` has begun and after it has ended."""
        if self._running is None:
            raise RuntimeError("The service is not running: its database pools are not open.")
        return self._running

    async def health(self) -> snapshot.Health:
        """
        Return whether the database answers and the process's worker lives.

        Requests that come while it is found out wait for the same result: each would take a connection from the jobs.
        """
        if self._health is None or self._health.done():
            process = self.running.process
            self._health = asyncio.create_task(snapshot.health(process.pool, process.worker))
        return await asyncio.shield(self._health)

    def now(self) -> datetime:
        """Return the time by the process's clock."""
        return self.running.process.clock.now()

    def fetch(self, sql: str, parameters: Sequence[str | None]) -> Awaitable[list[bytes]]:
        """
        Run one statement of the API.

        Not `async`, because each query that is not cached would pay for one more coroutine.
        """
        return self.running.fetch(sql, parameters)

    @asynccontextmanager
    async def on_a_snapshot(self) -> AsyncIterator[Engine]:
        """Give an engine that reads the record as it stands now, whatever is written meanwhile."""
        async with standing(self.running.export_pool, limit=READ_LIMIT) as fetch:
            yield Engine(schema, fetch, self.facts, kept=1)


def create_app(settings: Settings, clock_of: ClockOf | None = None, *, work: bool = True) -> Cache:
    """Return the service; its lifespan brings the rest to life."""
    rehearsed = clock_of is not None
    notice = _MADE_UP if rehearsed else ""
    # What is made up is marked on every response, and search engines are asked to leave it out.
    marks = {"X-Rehearsed": "true", "X-Robots-Tag": "noindex"} if rehearsed else {}
    runtime = Runtime(rehearsed=rehearsed)
    revision = Revision()
    metrics = Metrics(VERSION, rehearsed=rehearsed)
    engine = Engine(schema, runtime.fetch, runtime.facts, lanes=Lanes(settings.api_pool_size))
    site = Site(engine, notice, settings.public_url, Calendar(settings.market_closed_days))
    live = Live(revision.changed, site.head)

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        async with (
            runtime.opened(settings, clock_of, work=work) as running,
            snapshot.metrics_reader(settings, running.process.context.prices.ledger, running.process.clock) as reader,
            revision.heard(running.process.direct),
            live.following(),
        ):
            process = running.process
            pools.tell(process.pool, revision.moved)
            metrics.life = Life(
                cache=cache,
                pools={"app": process.pool, "api": running.api_pool, "queue": process.queue_pool},
                worker=process.worker,
                reader=reader,
            )
            log.info("alive", version=VERSION, serves=True, works=work, rehearsed=rehearsed)
            try:
                yield
            finally:
                log.info("stopping")
        metrics.life = None
        log.info("stopped")

    cors = None
    if settings.cors_allow_origins:
        cors = CORSConfig(
            allow_origins=list(settings.cors_allow_origins),
            allow_methods=["GET", "HEAD", "POST"],
            expose_headers=list(EXPOSED),
        )
    litestar = Litestar(
        route_handlers=[
            *routes(engine, notice, marks),
            *site.routes(),
            live.route(marks),
            feed(engine, settings.public_url, rehearsed=rehearsed),
            picture(engine, rehearsed=rehearsed),
            *downloads(runtime.on_a_snapshot, marks, runtime.facts.series),
            *health_routes(runtime.health),
            metrics_route(metrics),
        ],
        lifespan=[lifespan],
        exception_handlers={HTTPException: site.refuse, Exception: site.fail},
        cors_config=cors,
        openapi_config=None,
        logging_config=None,  # logs are the command's to configure
        response_headers=[ResponseHeader(name=name, value=value) for name, value in marks.items()],
        request_max_body_size=LONGEST_BODY,
    )
    cache = Cache(
        Requests(litestar, metrics.count, marks),
        revision.now,
        cached_query,
        told=metrics.answered,
        marks=marks,
        cors=cors,
        is_full=is_full,
        counted=counted,
        address_header=settings.trusted_address_header,
    )
    return cache
