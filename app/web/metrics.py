"""
`/metrics`, in Prometheus's text format: what this process counts, and what Postgres knows.

No label has a value that comes from outside the service. The time series of counters exist from the
beginning, with the value 0, so that the first error is an increase that an alert can see. There is
one exception, `graphql_requests`: from the beginning it has only the outcomes `answered` and
`SERVICE_UNAVAILABLE`, and each other error code is added with its first error. Times and ages are
in seconds of the service's own clock. Requests for `/metrics` within three seconds share one
result.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import product
from time import monotonic

from litestar import Response, route
from litestar.handlers import HTTPRouteHandler
from msgspec import Struct
from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from api.cache import ResponseCache
from app.database.pools import Pool
from app.domain.timestamps import TimestampKind
from app.ops.snapshot import MetricsReader, MetricsSnapshot
from app.providers.timestamp_services import FAILURE_REASONS
from app.web.metric_families import counter, gauge, one_label, snapshot_families
from app.web.routes import LABELS, METRICS, route_label
from jobs.worker import Worker

# How long all requests get the same text, in seconds.
SHARED_FOR = 3.0
CONTENT_TYPE = "text/plain; version=0.0.4"
STATUS_CLASSES = ("2xx", "3xx", "4xx", "5xx")

# In seconds. Most responses take milliseconds, and a statement takes five seconds at most.
_DURATION_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

# Without this call, each histogram would have one more series: the time at which it was created.
disable_created_metrics()  # type: ignore[no-untyped-call]


class ProcessState(Struct, frozen=True):
    """The parts of the running service. `worker` is None if this process has no worker."""

    cache: ResponseCache
    pools: Mapping[str, Pool]
    worker: Worker | None
    reader: MetricsReader


class Metrics:
    """
    The metrics of one process.

    It counts the requests that are reported to it. All other values are read for each new text of
    `/metrics`. `process_state` is None before the service has started and after it has stopped.
    """

    def __init__(self, version: str, *, rehearsed: bool) -> None:
        self.process_state: ProcessState | None = None
        self._build_info = {"version": version, "rehearsed": str(rehearsed).lower()}
        self._registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._registry)
        # The number of requests by route and class of status, and of GraphQL requests by outcome.
        # GraphQL requests that were answered from the cache are not included.
        self._requests: Counter[tuple[str, str]] = Counter()
        self._outcomes: Counter[str] = Counter()
        # The requests that the cache answered on other paths than the API's, by class of status.
        # The cache itself counts them together with those of the API.
        self._cached_elsewhere: Counter[str] = Counter()
        durations = Histogram(
            "alpha_monday_http_request_duration_seconds",
            "Seconds from a request to the start of its response. Responses from the cache, which "
            "take less than a millisecond, are not included.",
            ["route"],
            buckets=_DURATION_BUCKETS,
            registry=self._registry,
        )
        self._durations = {route: durations.labels(route) for route in LABELS}
        self._snapshot: MetricsSnapshot | None = None
        self._rendering: asyncio.Task[bytes] | None = None
        self._fresh_until = monotonic()
        self._registry.register(_LazyCollector(self._families))

    def count(self, *, route: str, status: int, outcome: str | None, seconds: float) -> None:
        """Count a request. This method is an `app.web.middleware.RequestObserver`."""
        self._requests[route, _status_class(status)] += 1
        self._durations[route].observe(seconds)
        if outcome and route == "graphql":
            self._outcomes[outcome] += 1

    def count_cached(self, path: str, status: int) -> None:
        """Count a request to another path than the API's that was answered by the cache."""
        self._requests[route_label(path), _status_class(status)] += 1
        self._cached_elsewhere[_status_class(status)] += 1

    async def text(self) -> bytes:
        """Return the text of `/metrics`, at most three seconds old."""
        rendering = self._rendering
        if rendering is None or (rendering.done() and monotonic() >= self._fresh_until):
            rendering = self._rendering = asyncio.create_task(self._render())
        # Shielded: a client that disconnects must not cancel the result for the other clients.
        return await asyncio.shield(rendering)

    async def _render(self) -> bytes:
        try:
            snapshot = None
            if self.process_state:
                snapshot = await self.process_state.reader.read()
            self._snapshot = snapshot
            return generate_latest(self._registry)
        finally:
            self._fresh_until = monotonic() + SHARED_FOR

    def _families(self) -> Iterator[Metric]:
        yield gauge(
            "build_info",
            "The version that runs; always 1.",
            {tuple(self._build_info.values()): 1},
            labels=tuple(self._build_info),
        )
        if self.process_state:
            yield from self._request_families(self.process_state.cache)
            yield from _process_families(self.process_state)
        yield gauge(
            "database_up",
            "Whether the database answered in time.",
            {(): self._snapshot is not None},
        )
        if self._snapshot:
            yield from snapshot_families(self._snapshot)

    def _request_families(self, cache: ResponseCache) -> Iterator[Metric]:
        """Yield the counts of requests, and of the response cache."""
        # The cache counts hits and refusals of all paths. `_requests` already has those of other
        # paths than the API's, so only the hits and refusals of the API are added.
        hits = cache.hits - self._cached_elsewhere["2xx"]
        refusals = cache.refusals - self._cached_elsewhere["5xx"]

        requests = Counter(dict.fromkeys(product(LABELS, STATUS_CLASSES), 0))
        requests.update(self._requests)
        requests.update({("graphql", "2xx"): hits, ("graphql", "5xx"): refusals})
        yield counter(
            "http_requests",
            "Requests by route and class of status. A 304 that the response cache sends counts as "
            "2xx.",
            requests,
            labels=("route", "status"),
        )
        outcomes = Counter({"answered": hits, "SERVICE_UNAVAILABLE": refusals})
        outcomes.update(self._outcomes)
        yield counter(
            "graphql_requests",
            "GraphQL requests by outcome: answered, or an error code.",
            one_label(outcomes),
            labels=("outcome",),
        )
        yield from _cache_families(cache)


def metrics_route(metrics: Metrics) -> HTTPRouteHandler:
    """Return the handler of `/metrics`."""

    @route(METRICS.litestar_path, http_method=METRICS.methods, media_type=CONTENT_TYPE)
    async def text() -> Response[bytes]:
        """Send all metrics in Prometheus's text format."""
        headers = {"Cache-Control": "no-store"}
        return Response(await metrics.text(), media_type=CONTENT_TYPE, headers=headers)

    return text


class _LazyCollector(Collector):
    """Collects the metrics only when the registry is read."""

    def __init__(self, families: Callable[[], Iterable[Metric]]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        """Return all metrics."""
        return self._families()

    def describe(self) -> Iterable[Metric]:
        """
        Return nothing.

        Without this method, the registry would collect the metrics as soon as this collector is
        registered.
        """
        return ()


def _status_class(status: int) -> str:
    return f"{status // 100}xx"


def _cache_families(cache: ResponseCache) -> Iterator[Metric]:
    for name, description, count in (
        ("cache_hits", "Requests answered from the cache: queries and pages.", cache.hits),
        ("cache_misses", "Requests without a cached response: queries and pages.", cache.misses),
        ("cache_unchanged", "Responses 304, because the client had the response.", cache.unchanged),
        (
            "busy_refusals",
            "Requests refused because too many were active, or too many responses unread.",
            cache.refusals,
        ),
    ):
        yield counter(name, description, {(): count})
    for name, description, number in (
        ("answers_under_way", "Requests that are being processed.", cache.active_requests),
        ("cache_answers", "Responses in the cache.", cache.entry_count),
        ("cache_bytes", "Memory that the cached responses take.", cache.size),
        ("cache_limit_bytes", "Memory that the cached responses may take.", cache.max_bytes),
    ):
        yield gauge(name, description, {(): number})


def _timestamp_failures(worker: Worker) -> Mapping[tuple[str, str], int]:
    kinds = [kind.value for kind in TimestampKind]
    failures = dict.fromkeys(product(kinds, FAILURE_REASONS), 0)
    if worker.queue.context:
        failures |= worker.queue.context.timestamps.failures
    return failures


def _process_families(state: ProcessState) -> Iterator[Metric]:
    yield gauge(
        "announcements_heard",
        "Whether the notifications of commits arrive. Responses are cached only then.",
        {(): state.cache.revision() is not None},
    )
    if state.worker:
        yield gauge("worker_up", "Whether this process's worker runs.", {(): state.worker.is_alive})
        yield counter(
            "timestamp_failures",
            "Requests for a timestamp that gave no proof, of this process's worker. Reasons: the "
            "answer does not verify (unusable), there was none (unavailable), or a setting is "
            "wrong (configuration).",
            _timestamp_failures(state.worker),
            labels=("kind", "reason"),
        )
    stats = {pool_name: pool.get_stats() for pool_name, pool in state.pools.items()}
    # `statistic` is the name of the number in the statistics of psycopg_pool.
    for name, statistic, description in (
        ("pool_connections", "pool_size", "Connections to the database."),
        ("pool_limit_connections", "pool_max", "The most connections that the pool opens."),
        ("pool_idle_connections", "pool_available", "Connections that are not in use."),
        ("pool_waiting_requests", "requests_waiting", "Callers that wait for a connection."),
    ):
        samples = {(pool,): counts.get(statistic, 0) for pool, counts in stats.items()}
        yield gauge(name, description, samples, labels=("pool",))
