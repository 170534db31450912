"""
The composition root: builds the pools, the queue, the worker and the handlers of one process.

`create_app(settings)` returns the service as an ASGI application. `open_process` starts the service
without the web server. In the package `app`, only `app.commands` imports this module.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
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

from api.cache import ResponseCache
from api.engine import Engine
from api.fair_semaphore import QuerySemaphores
from api.headers import EXPOSED_HEADERS
from api.http import routes
from api.limits import MAX_BODY_BYTES
from api.schema import Facts, schema
from app.core.settings import Settings
from app.database import migrations, pools
from app.database.embedded import resolve_database_url
from app.database.queries import Fetch, pool_fetcher, snapshot_fetcher
from app.database.revision import Revision
from app.domain import calendar
from app.domain.calendar import Calendar, Clock
from app.ops import snapshot
from app.providers import model_ends
from app.store import rehearsed
from app.store.rehearsed import REHEARSED_NOTICE
from app.web.charts.image import chart_image_route
from app.web.feeds.atom import feed_route
from app.web.feeds.downloads import MAX_EXPORTS, export_routes
from app.web.feeds.timestamp_files import timestamp_file_route
from app.web.health import health_routes
from app.web.journal_stream import JournalStream
from app.web.metrics import Metrics, ProcessState, metrics_route
from app.web.middleware import RequestMiddleware
from app.web.pages.site import Site
from app.web.routes import cached_query
from app.web.unsent_responses import counting_send, make_room
from jobs import queue as job_queue
from jobs import request_budget, start_checks
from jobs.context import Context, RealClock
from jobs.queue import Queue
from jobs.worker import Worker, supervised

log = structlog.get_logger()

VERSION = version("alpha-monday")

# How long Postgres may work on one query of the API, and how long a query waits for a connection,
# in seconds.
READ_LIMIT = 5
READ_WAIT = 2

# How long a job may use a connection at a time, in seconds. A job holds no connection while it
# waits for a provider.
JOB_LIMIT = 60

# The number of connections that jobs, the health check and the reconciliation share.
_POOL_SIZE = 12

# A function that opens the simulated clock of a rehearsal, which replaces the real clock.
OpenClock = Callable[[pools.Pool, Queue], AbstractAsyncContextManager[Any]]


@dataclass(frozen=True)
class ServiceProcess:
    """
    The parts of one process, with or without the web server.

    `direct` is an address that leads to Postgres and not to a PgBouncer, because LISTEN needs a
    direct connection. `worker` is None if the process runs no jobs.
    """

    pool: pools.Pool
    queue_pool: pools.Pool
    direct: str
    context: Context
    clock: Clock
    worker: Worker | None


@asynccontextmanager
async def open_process(
    settings: Settings, open_clock: OpenClock | None = None, *, work: bool = True
) -> AsyncIterator[ServiceProcess]:
    """
    Start everything except the web server, and close it at the end of the context.

    At the end, running jobs first get `jobs.queue.DRAIN_TIMEOUT` seconds to finish. `open_clock`
    opens the clock of a rehearsal. Without `work` there is no worker.

    Raises ConfigurationError if the database cannot be used or lacks a migration. Without
    `open_clock`, a database with a rehearsal raises ConfigurationError, too.
    """
    address = resolve_database_url(settings.database_url)
    direct = settings.queue_address or address
    async with AsyncExitStack() as stack:
        pool = pools.make_pool(
            address,
            pooled=settings.database_pooled,
            max_size=_POOL_SIZE,
            max_use_seconds=JOB_LIMIT,
        )
        await stack.enter_async_context(pools.opened(pool))
        await migrations.require_current(direct)
        queue, connector = job_queue.app, job_queue.make_connector(direct)
        stack.enter_context(queue.replace_connector(connector))
        await stack.enter_async_context(queue.open_async())
        clock: Any = RealClock()
        if open_clock:
            clock = await stack.enter_async_context(open_clock(pool, queue))
        else:
            await rehearsed.refuse_rehearsal(pool)
        binding = job_queue.bind_context(queue, settings, pool=pool, clock=clock)
        context = await stack.enter_async_context(binding)
        worker = None
        if work and not open_clock:
            await start_checks.require_series(pool, settings, context.in_force)
            today = calendar.new_york_date(clock.now())
            model_ends.log_end_warnings(context.model_clients, today)
            await _log_request_plan(settings, context)
        if work:
            options = clock.worker_options if open_clock else dict
            worker = await stack.enter_async_context(supervised(queue, context, options))
        if worker and open_clock:
            # When the simulated time reaches the present, the clock restarts the worker, which then
            # gets the options of a worker in real time.
            clock.restart_worker = worker.restart
        yield ServiceProcess(
            pool=pool,
            queue_pool=connector.pool,
            direct=direct,
            context=context,
            clock=clock,
            worker=worker,
        )


async def _log_request_plan(settings: Settings, context: Context) -> None:
    """Log how many price requests are planned for each of the next days, and what has no room."""
    configured = request_budget.configured_by(settings)
    async with context.pool.connection() as conn:
        inputs = await request_budget.read(
            conn, context.prices.ledger, configured=configured, now=context.now()
        )
    plan = inputs.make_plan()
    log.info(
        "price requests planned",
        series=list(configured.series),
        per_day=plan.per_day,
        from_day=str(plan.days[0].day),
        closes=[day.closes for day in plan.days],
        splits=[day.splits for day in plan.days],
        splits_left_out=plan.left_out_splits,
        dividends=[day.dividends for day in plan.days],
        dividends_left_out=plan.left_out_dividends,
    )


@dataclass(frozen=True)
class ReaderPools:
    """
    The connections that read the record for clients.

    Queries of the API use `fetch`, which uses `queries`. Each export keeps a connection of
    `exports` for as long as its client reads.
    """

    queries: pools.Pool
    exports: pools.Pool
    fetch: Fetch


@asynccontextmanager
async def open_reader_pools(settings: Settings) -> AsyncIterator[ReaderPools]:
    """
    Open the pools that only clients use.

    The jobs use another pool: clients that send many or slow queries must not take the connections
    of the jobs. For the same reason exports and queries have separate pools. The pool of the
    exports opens its first connection when one is needed. If API_DATABASE_URL is set, both pools
    connect as the user of that address, so that a query has only the rights of the reader.
    """
    address, pooled = resolve_database_url(settings.api_address), settings.database_pooled
    queries = pools.make_pool(
        address,
        pooled=pooled,
        max_size=settings.api_pool_size,
        name="api",
        statement_timeout=READ_LIMIT,
        generic_plans=True,
        acquire_timeout=READ_WAIT,
        separate_user=bool(settings.api_database_url),
    )
    exports = pools.make_pool(
        address,
        pooled=pooled,
        max_size=MAX_EXPORTS,
        min_size=0,
        name="exports",
        statement_timeout=READ_LIMIT,
        acquire_timeout=READ_WAIT,
        separate_user=bool(settings.api_database_url),
    )
    async with pools.opened(queries), exports:
        fetch = pool_fetcher(queries, pooled=pooled, statement_timeout=READ_LIMIT)
        yield ReaderPools(queries, exports, fetch)


@dataclass(frozen=True)
class RunningService:
    """The process and the pools of a service that runs."""

    process: ServiceProcess
    reader: ReaderPools


class Runtime:
    """
    Gives the request handlers access to the running service.

    Litestar gets its handlers before its lifespan opens the pools. So the handlers get methods of
    this object, and call them when a request arrives.
    """

    def __init__(self, *, rehearsed: bool, sessions: Calendar | None = None) -> None:
        self.facts = Facts(
            version=VERSION,
            rehearsed=rehearsed,
            now=self.now,
            sessions=sessions or Calendar(),
        )
        self._running: RunningService | None = None
        self._health: asyncio.Task[snapshot.Health] | None = None

    @asynccontextmanager
    async def opened(
        self,
        settings: Settings,
        open_clock: OpenClock | None,
        *,
        work: bool,
    ) -> AsyncIterator[RunningService]:
        """Open the process and the pools that the handlers use, and close them at the end."""
        try:
            async with (
                open_process(settings, open_clock, work=work) as process,
                open_reader_pools(settings) as reader,
            ):
                self._running = RunningService(process, reader)
                yield self._running
        finally:
            self._running = None

    @property
    def running(self) -> RunningService:
        """Return the running service. Raises RuntimeError outside of the context of `opened`."""
        if self._running is None:
            raise RuntimeError("The service is not running: its database pools are not open.")
        return self._running

    async def health(self) -> snapshot.Health:
        """
        Return the health of the database and of this process's worker.

        Requests that arrive during a check wait for its result, because each check takes a
        connection from the jobs.
        """
        if self._health is None or self._health.done():
            process = self.running.process
            self._health = asyncio.create_task(snapshot.health(process.pool, process.worker))
        # A client that disconnects must not cancel the check for the other requests that wait.
        return await asyncio.shield(self._health)

    def now(self) -> datetime:
        """Return the time of the process's clock."""
        return self.running.process.clock.now()

    def fetch(self, sql: str, parameters: Sequence[str | None]) -> Awaitable[list[bytes]]:
        """
        Run one statement of the API, and return its row, as `app.database.queries.Fetch` says.

        This method is not `async`: otherwise each query that is not cached would need one more
        coroutine.
        """
        return self.running.reader.fetch(sql, parameters)

    @asynccontextmanager
    async def snapshot_engine(self) -> AsyncIterator[Engine]:
        """Provide an engine whose queries all read the record as it is at this moment."""
        exports = self.running.reader.exports
        async with snapshot_fetcher(exports, statement_timeout=READ_LIMIT) as fetch:
            yield Engine(schema, fetch, self.facts, max_documents=1)


def create_app(
    settings: Settings, open_clock: OpenClock | None = None, *, work: bool = True
) -> ResponseCache:
    """
    Return the service as an ASGI application; its lifespan opens the pools and starts the worker.

    `open_clock` opens the clock of a rehearsal. Without `work` the process runs no jobs.
    """
    rehearsed = open_clock is not None
    notice = REHEARSED_NOTICE if rehearsed else ""
    marks = _response_marks(rehearsed=rehearsed)
    sessions = Calendar(settings.market_closed_days)
    runtime = Runtime(rehearsed=rehearsed, sessions=sessions)
    revision = Revision()
    metrics = Metrics(VERSION, rehearsed=rehearsed)
    semaphores = QuerySemaphores(settings.api_pool_size)
    engine = Engine(schema, runtime.fetch, runtime.facts, semaphores=semaphores)
    site = Site(
        engine,
        notice=notice,
        public_url=settings.public_url,
        sessions=sessions,
        expects_stamps=bool(settings.timestamp_urls),
    )
    stream = JournalStream(revision.wait_for_change, site.journal_head)

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        async with (
            runtime.opened(settings, open_clock, work=work) as running,
            snapshot.metrics_reader(
                settings,
                running.process.context.prices.ledger,
                running.process.clock,
            ) as reader,
            revision.listen(running.process.direct),
            stream.run(),
        ):
            pools.set_transaction_callback(running.process.pool, revision.mark_changed)
            metrics.process_state = _process_state(running, cache, reader)
            log.info("alive", version=VERSION, serves=True, works=work, rehearsed=rehearsed)
            try:
                yield
            finally:
                log.info("stopping")
        metrics.process_state = None
        log.info("stopped")

    cors = _cors_config(settings)
    handlers = [
        *routes(engine, notice, marks),
        *site.routes(),
        stream.route(marks),
        feed_route(
            engine,
            settings.public_url,
            rehearsed=rehearsed,
            expects_stamps=bool(settings.timestamp_urls),
        ),
        chart_image_route(engine, rehearsed=rehearsed),
        timestamp_file_route(engine),
        *export_routes(runtime.snapshot_engine, marks, runtime.facts.series),
        *health_routes(runtime.health),
        metrics_route(metrics),
    ]
    litestar = Litestar(
        route_handlers=handlers,
        lifespan=[lifespan],
        exception_handlers={
            HTTPException: site.respond_to_http_error,
            Exception: site.respond_to_failure,
        },
        cors_config=cors,
        openapi_config=None,
        # The command that starts the process configures the log.
        logging_config=None,
        response_headers=[ResponseHeader(name=name, value=value) for name, value in marks.items()],
        request_max_body_size=MAX_BODY_BYTES,
    )
    cache = ResponseCache(
        RequestMiddleware(litestar, metrics.count, marks),
        revision.current,
        cached_query,
        on_response=metrics.count_cached,
        extra_headers=marks,
        cors=cors,
        make_room=make_room,
        count_unsent=counting_send,
        address_header=settings.trusted_address_header,
    )
    return cache


def _process_state(
    running: RunningService, cache: ResponseCache, reader: snapshot.MetricsReader
) -> ProcessState:
    """Return the parts of this process that `/metrics` reads."""
    process = running.process
    return ProcessState(
        cache=cache,
        pools={
            "app": process.pool,
            "api": running.reader.queries,
            "queue": process.queue_pool,
        },
        worker=process.worker,
        reader=reader,
    )


def _response_marks(*, rehearsed: bool) -> Mapping[str, str]:
    """Return headers that mark each response of a rehearsal, and ask search engines to skip it."""
    if not rehearsed:
        return {}
    return {"X-Rehearsed": "true", "X-Robots-Tag": "noindex"}


def _cors_config(settings: Settings) -> CORSConfig | None:
    if not settings.cors_allow_origins:
        return None
    return CORSConfig(
        allow_origins=list(settings.cors_allow_origins),
        allow_methods=["GET", "HEAD", "POST"],
        expose_headers=list(EXPOSED_HEADERS),
    )
