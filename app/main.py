"""
One process: pools, queue, worker, upkeep and routes, tied together. Everything else ignores this module.

`create_app(settings)` is the service as an ASGI application; `living` is the same without its web server.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import structlog
from litestar import Litestar
from litestar.config.cors import CORSConfig
from litestar.datastructures import ResponseHeader
from litestar.exceptions import HTTPException

from api.cache import Cache
from api.engine import Engine
from api.http import routes
from api.schema import Facts, schema
from app.core.settings import Settings
from app.database import migrations, pools, rehearsed
from app.database.embedded import address_of
from app.database.queries import Fetch, fetcher, standing
from app.database.revision import Revision
from app.domain.calendar import Clock
from app.ops import snapshot
from app.web.charts.image import picture
from app.web.feeds.atom import feed, is_followed
from app.web.feeds.downloads import downloads
from app.web.health import health_routes
from app.web.live import Live
from app.web.metrics import Life, Metrics, metrics_route
from app.web.middleware import Requests
from app.web.pages.site import Site, kept_by
from jobs import queue as the_queue
from jobs.context import Context, RealClock
from jobs.queue import Queue
from jobs.worker import Worker, supervised

log = structlog.get_logger()

VERSION = version("alpha-monday")

# How long Postgres works on one query of the API, and how long a query waits for a connection, in seconds.
READ_LIMIT = 5
READ_WAIT = 2

_MADE_UP = "Rehearsed: every price and every word of this record is made up."

ClockOf = Callable[[pools.Pool, Queue], AbstractAsyncContextManager[Any]]


@dataclass
class House:
    """What lives in a process; `queued` is the queue's own pool. `worker` is None where it was switched off."""

    pool: pools.Pool
    queued: pools.Pool
    direct: str
    tools: Context
    clock: Clock
    worker: Worker | None


@asynccontextmanager
async def living(settings: Settings, clock_of: ClockOf | None = None, *, work: bool = True) -> AsyncIterator[House]:
    """
    Bring everything but the web server to life, and drain it at the end.

    `clock_of` gives another clock than the real one: a rehearsal's, in a database that is one.
    """
    address = address_of(settings.database_url)
    direct = settings.queue_address or address
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(
            pools.opened(pools.make_pool(address, pooled=settings.database_pooled, size=12))
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
        tools = await stack.enter_async_context(the_queue.handed(queue, settings, pool, clock))
        worker = None
        if work:
            options = clock.options if clock_of else dict
            worker = await stack.enter_async_context(supervised(queue, tools, options))
            if clock_of:
                clock.worker_anew = worker.start_anew
        yield House(pool, connector.pool, direct, tools, clock, worker)


@asynccontextmanager
async def reading(settings: Settings) -> AsyncIterator[tuple[pools.Pool, Fetch]]:
    """Give the API a pool of its own: however many reads there are, and however slow, jobs find a connection."""
    pool = pools.make_pool(
        address_of(settings.database_url),
        pooled=settings.database_pooled,
        size=8,
        name="api",
        limit=READ_LIMIT,
        generic=True,
        wait=READ_WAIT,
    )
    async with pools.opened(pool):
        yield pool, fetcher(pool, pooled=settings.database_pooled, limit=READ_LIMIT)


def create_app(settings: Settings, clock_of: ClockOf | None = None, *, work: bool = True) -> Cache:
    """Return the service; its lifespan brings the rest to life."""
    lives: list[House] = []
    fetches: list[Fetch] = []
    reads_from: list[pools.Pool] = []
    revision = Revision()
    metrics = Metrics(VERSION, rehearsed=clock_of is not None)

    async def fetch(sql: str, parameters: Sequence[str | None]) -> list[bytes]:
        return await fetches[0](sql, parameters)

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        async with (
            living(settings, clock_of, work=work) as house,
            reading(settings) as (its_pool, reads),
            snapshot.metrics_reader(settings, house.tools.prices.ledger, house.clock) as reader,
            revision.heard(house.direct),
            AsyncExitStack() as stack,
        ):
            lives.append(house)
            fetches.append(reads)
            reads_from.append(its_pool)
            pools.tell(house.pool, revision.moved)
            await stack.enter_async_context(live.following())
            metrics.life = Life(
                cache, {"app": house.pool, "api": its_pool, "queue": house.queued}, house.worker, reader
            )
            log.info("alive", version=VERSION, serves=True, works=work, rehearsed=clock_of is not None)
            try:
                yield
            finally:
                log.info("stopping")
        metrics.life = None
        lives.clear()
        fetches.clear()
        reads_from.clear()
        log.info("stopped")

    facts = Facts(version=VERSION, rehearsed=clock_of is not None, now=lambda: lives[0].clock.now())

    @asynccontextmanager
    async def on_a_snapshot() -> AsyncIterator[Engine]:
        async with standing(reads_from[0], limit=READ_LIMIT) as fixed:
            yield Engine(schema, fixed, facts, kept=1)

    marks = {"X-Rehearsed": "true"} if clock_of else {}
    cors = (
        CORSConfig(allow_origins=list(settings.cors_allow_origins), allow_methods=["GET", "POST"])
        if settings.cors_allow_origins
        else None
    )
    engine, notice = Engine(schema, fetch, facts), _MADE_UP if clock_of else ""
    site = Site(engine, notice, settings.public_url)
    live = Live(revision.changed, site.head)
    service = Litestar(
        route_handlers=[
            *routes(engine, notice, marks),
            *site.routes(),
            live.route(marks),
            feed(engine, settings.public_url, rehearsed=clock_of is not None),
            picture(engine, rehearsed=clock_of is not None),
            *downloads(on_a_snapshot, marks),
            *health_routes(lambda: snapshot.health(lives[0].pool, lives[0].worker)),
            metrics_route(metrics),
        ],
        lifespan=[lifespan],
        exception_handlers={HTTPException: site.refuse, Exception: site.fail},
        cors_config=cors,
        openapi_config=None,
        logging_config=None,  # logs are the command's to configure
        response_headers=[ResponseHeader(name=name, value=value) for name, value in marks.items()],
        request_max_body_size=64 * 1024,
    )
    cache = Cache(
        Requests(service, metrics.count),
        revision.now,
        lambda path, query: b"" if is_followed(path) else kept_by(path, query),
        told=metrics.answered,
    )
    return cache
