"""
What `/metrics` says, in Prometheus's text format: what this process counts, and what Postgres knows of the service.

No label has a value that comes from outside, and each has all of its values from the beginning, with 0: a first error
is an increase, too. Times and ages are in seconds of the service's own clock. What is asked twice within three seconds
is answered once.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import product
from time import monotonic
from typing import Any

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
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from api.cache import Cache
from app.database.pools import Pool
from app.domain.model import BatchStatus, CheckpointStatus, FailureReason, SkipReason
from app.ops.snapshot import LATENESS_BUCKETS, MONDAY_STATES, MetricsReader, MetricsSnapshot
from app.providers.alpha_vantage import DAILY, SPLITS
from app.providers.rate_limiter import Outcome
from app.web.routes import LABELS, METRICS, route_of
from jobs.queue import app as queue
from jobs.queue_tables import QUEUE_STATUSES
from jobs.worker import Worker

SHARED = 3.0  # seconds
MEDIA = "text/plain; version=0.0.4"
CLASSES = ("2xx", "3xx", "4xx", "5xx")

# Seconds; an answer takes milliseconds, and a statement five seconds at most.
_DURATIONS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_WINDOWS = ("second", "minute", "day")
_OTHER = "other"

# By the values of the labels, in their order.
Samples = Mapping[Any, float]

# When a histogram was made: nobody reads that, and each would be a line more.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Life(Struct, frozen=True):
    """What lives in the process while it serves. `worker` is None where it was switched off."""

    cache: Cache
    pools: Mapping[str, Pool]
    worker: Worker | None
    reader: MetricsReader


class Metrics:
    """The numbers of a process: told of each request, and asked for all together."""

    def __init__(self, version: str, *, rehearsed: bool) -> None:
        self.life: Life | None = None
        self._facts = {"version": version, "rehearsed": str(rehearsed).lower()}
        self._registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._registry)
        self._requests: Counter[tuple[str, str]] = Counter()
        self._outcomes: Counter[str] = Counter()
        # Of what the kept answers count, by class of status: what was not GraphQL.
        self._elsewhere: Counter[str] = Counter()
        durations = Histogram(
            "alpha_monday_http_request_duration_seconds",
            "Seconds until an answer that was worked for began; a kept answer takes less than a thousandth of one.",
            ["route"],
            buckets=_DURATIONS,
            registry=self._registry,
        )
        self._snapshot: MetricsSnapshot | None = None
        self._durations = {route: durations.labels(route) for route in LABELS}
        self._making: asyncio.Task[bytes] | None = None
        self._fresh_until = monotonic()
        self._registry.register(_Collected(self._families))

    def count(self, route: str, status: int, outcome: str | None, seconds: float) -> None:
        """Count a request (see app.web.middleware.Told)."""
        self._requests[route, f"{status // 100}xx"] += 1
        self._durations[route].observe(seconds)
        if outcome and route == "graphql":
            self._outcomes[outcome] += 1

    def answered(self, path: str, status: int) -> None:
        """Count a request of another address than the API's that was answered without being worked for."""
        self._requests[route_of(path), f"{status // 100}xx"] += 1
        self._elsewhere[f"{status // 100}xx"] += 1

    async def text(self) -> bytes:
        """Return everything, as it stands or stood a moment ago."""
        if self._making is None or (self._making.done() and monotonic() >= self._fresh_until):
            self._making = asyncio.create_task(self._make())
        return await asyncio.shield(self._making)  # whoever leaves does not take it from the others

    async def _make(self) -> bytes:
        try:
            self._snapshot = await self.life.reader.read() if self.life else None
            return generate_latest(self._registry)
        finally:
            self._fresh_until = monotonic() + SHARED

    def _families(self) -> Iterator[Metric]:
        yield _gauge("build_info", "What runs here; always 1.", {tuple(self._facts.values()): 1}, *self._facts)
        if self.life:
            yield from self._of_requests(self.life.cache)
            yield from _of_the_process(self.life)
        yield _gauge("database_up", "Whether the database answered in time.", {(): self._snapshot is not None})
        if self._snapshot:
            yield from _of_the_record(self._snapshot)
            yield from _of_the_jobs(self._snapshot)
            yield from _of_the_providers(self._snapshot)

    def _of_requests(self, cache: Cache) -> Iterator[Metric]:
        """Give the requests: those that were worked for, those with a kept answer, and those refused as too many."""
        answers = Counter(dict.fromkeys(product(LABELS, CLASSES), 0))
        answers.update(self._requests)
        hits, busy = cache.hits - self._elsewhere["2xx"], cache.busy - self._elsewhere["5xx"]
        answers.update({("graphql", "2xx"): hits, ("graphql", "5xx"): busy})
        yield _counter(
            "http_requests",
            "Requests by route and class of status; a 304 of what is kept counts as the answer that it stands for.",
            answers,
            "route",
            "status",
        )
        outcomes = Counter({"answered": hits, "SERVICE_UNAVAILABLE": busy})
        outcomes.update(self._outcomes)
        yield _counter(
            "graphql_requests", "GraphQL requests by outcome: answered, or a code.", _single(outcomes), "outcome"
        )
        yield _counter("cache_hits", "Requests that got a kept answer: queries and pages.", {(): cache.hits})
        yield _counter("cache_misses", "Requests that were worked for, of what may be kept.", {(): cache.misses})
        yield _counter("cache_unchanged", "Answers that the client had already, sent as a 304.", {(): cache.unchanged})
        yield _counter("busy_refusals", "Requests refused because too many were under way.", {(): cache.busy})
        yield _gauge("answers_under_way", "Requests that are being worked for.", {(): cache.under_way})
        yield _gauge("cache_answers", "Answers that are kept.", {(): cache.kept})
        yield _gauge("cache_bytes", "Memory that kept answers take.", {(): cache.size})
        yield _gauge("cache_limit_bytes", "Memory that kept answers may take.", {(): cache.most})


def metrics_route(metrics: Metrics) -> HTTPRouteHandler:
    """Return the handler of `/metrics`."""

    @route(METRICS.litestar_path, http_method=METRICS.methods, media_type=MEDIA)
    async def text() -> Response[bytes]:
        """Say how everything stands, for Prometheus."""
        return Response(await metrics.text(), media_type=MEDIA, headers={"Cache-Control": "no-store"})

    return text


class _Collected(Collector):
    """Gives the registry what is there only when it is asked for."""

    def __init__(self, families: Callable[[], Iterable[Metric]]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        """Give all of it."""
        return self._families()

    def describe(self) -> Iterable[Metric]:
        """Name nothing before it is there."""
        return ()


def _of_the_process(life: Life) -> Iterator[Metric]:
    heard = life.cache.revision() is not None
    yield _gauge("announcements_heard", "Whether commits are heard of; answers are kept only then.", {(): heard})
    if life.worker:
        yield _gauge("worker_up", "Whether this process's worker lives.", {(): life.worker.alive})
    stats = {(name,): pool.get_stats() for name, pool in life.pools.items()}
    for name, of, text in (
        ("pool_connections", "pool_size", "Connections to the database."),
        ("pool_limit_connections", "pool_max", "Connections that there may be."),
        ("pool_idle_connections", "pool_available", "Connections that nobody uses."),
        ("pool_waiting_requests", "requests_waiting", "Those that wait for a connection."),
    ):
        yield _gauge(name, text, {pool: of_pool.get(of, 0) for pool, of_pool in stats.items()}, "pool")


def _of_the_record(snapshot: MetricsSnapshot) -> Iterator[Metric]:
    mondays = {(status.value, ""): 0 for status in BatchStatus if status != BatchStatus.FAILED}
    mondays |= {(BatchStatus.FAILED.value, reason.value): 0 for reason in FailureReason}
    yield _gauge(
        "mondays",
        "Mondays by status, the failed by reason.",
        {**mondays, **snapshot.totals.mondays},
        "status",
        "reason",
    )
    states = _single({str(state): state == snapshot.monday_state for state in MONDAY_STATES})
    yield _gauge("newest_monday", "How the newest Monday that has begun stands: 1 for one of these.", states, "status")
    checkpoints = {(CheckpointStatus.COMPUTED.value, ""): 0}
    checkpoints |= {(CheckpointStatus.SKIPPED.value, reason.value): 0 for reason in SkipReason}
    yield _gauge(
        "checkpoints",
        "Checkpoints of day 1 or later by status, the skipped by reason.",
        {**checkpoints, **snapshot.totals.checkpoints},
        "status",
        "reason",
    )
    lacking = {(): len(snapshot.record.without_prices)}
    yield _gauge("checkpoints_lacking_prices", "Checkpoints of active batches that lack their prices.", lacking)
    yield _lateness(snapshot)
    overdue = snapshot.record.overdue
    yield _gauge("checkpoints_overdue", "Checkpoints that are due and not there.", {(): len(overdue)})
    oldest = snapshot.seconds_since(overdue[0].at if overdue else None) or 0.0
    yield _gauge("checkpoint_overdue_seconds", "For how long the oldest of them is due; 0 if none is.", {(): oldest})
    taken = snapshot.seconds_since(snapshot.newest_checkpoint_at)
    yield from _age("newest_checkpoint", "Since the newest checkpoint was taken.", taken)
    head = snapshot.record.journal_head
    yield _gauge("journal_seq", "The number of the journal's last entry.", {(): head.seq if head else 0})
    appended = snapshot.seconds_since(head.at if head else None)
    yield from _age("journal", "Since the journal's last entry.", appended)


def _lateness(snapshot: MetricsSnapshot) -> Metric:
    family = HistogramMetricFamily(
        "alpha_monday_checkpoint_lateness_seconds",
        "From when a checkpoint was due until it was first taken, by what it was then. Of the whole record.",
        labels=["status"],
    )
    for status in CheckpointStatus:
        late = snapshot.totals.lateness.get(status)
        buckets = [(str(step), late.within[step] if late else 0) for step in LATENESS_BUCKETS]
        family.add_metric([status], [*buckets, ("+Inf", late.count if late else 0)], late.seconds if late else 0)
    return family


def _of_the_jobs(snapshot: MetricsSnapshot) -> Iterator[Metric]:
    ours = {name for name in queue.tasks if "procrastinate" not in name}
    # What other programs defer has series only while there is some: it is hardly ever there.
    jobs = Counter(dict.fromkeys(product(sorted(ours), QUEUE_STATUSES), 0))
    for one in snapshot.queue.jobs:  # what somebody else deferred may be called anything
        jobs[one.task if one.task in ours else _OTHER, one.status] += one.jobs
    yield _gauge("jobs", "Jobs by task and status; those that ended are known for 30 days.", jobs, "task", "status")
    waits = snapshot.seconds_since(snapshot.waiting_since) or 0.0
    yield _gauge("job_wait_seconds", "For how long a job waits that may run; 0 if none does.", {(): waits})
    alive = sum(worker.lives for worker in snapshot.queue.workers)
    workers = _single({"alive": alive, "silent": len(snapshot.queue.workers) - alive})
    yield _gauge("workers", "Workers of all processes, by whether they give signs of life.", workers, "status")
    reconciler = snapshot.queue.reconciler
    last_round = snapshot.seconds_since(reconciler.last_round_at if reconciler else None)
    yield from _age("upkeep", "Since upkeep's last round.", last_round)
    yield _counter(
        "upkeep_mended", "What upkeep has mended, in all processes.", _single(snapshot.totals.mended), "kind"
    )


def _of_the_providers(snapshot: MetricsSnapshot) -> Iterator[Metric]:
    asked = dict.fromkeys(product((DAILY, SPLITS), (*map(str, Outcome), "cut_off")), 0)
    yield _counter(
        "provider_requests",
        "Requests to Alpha Vantage by function and outcome, of all processes.",
        {**asked, **snapshot.totals.requests},
        "function",
        "outcome",
    )
    quota = snapshot.providers.quota
    left = _single(dict(zip(_WINDOWS, quota.requests, strict=True)))
    yield _gauge("provider_quota_left_requests", "Requests that our limits still allow.", left, "window")
    allowed = [limit.requests for limit in snapshot.providers.limits]
    limits = _single(dict(zip(_WINDOWS, allowed, strict=True)))
    yield _gauge("provider_quota_limit_requests", "Requests that our limits allow.", limits, "window")
    waits = (quota.next_at - snapshot.at).total_seconds()
    yield _gauge("provider_quota_wait_seconds", "Until Alpha Vantage may be asked again.", {(): max(0.0, waits)})
    asks = snapshot.totals.generations
    outcomes = _single({"accepted": asks.accepted, "refused": asks.refused, "failed": asks.failed})
    # No counter: an accepted answer is refused after all when a ticker of it has no price.
    yield _gauge("generations", "Questions to the model by what became of them.", outcomes, "outcome")
    tokens = _single({"prompt": asks.prompt_tokens, "completion": asks.completion_tokens})
    yield _counter("model_tokens", "Tokens that the model said it used.", tokens, "kind")


def _single(counted: Mapping[str, float]) -> Samples:
    """Return what was counted by the values of one label."""
    return {(value,): number for value, number in counted.items()}


def _gauge(name: str, text: str, samples: Samples, *labels: str) -> Metric:
    family = GaugeMetricFamily(f"alpha_monday_{name}", text, labels=labels)
    for values, number in samples.items():
        family.add_metric(values, float(number))
    return family


def _counter(name: str, text: str, samples: Samples, *labels: str) -> Metric:
    family = CounterMetricFamily(f"alpha_monday_{name}", text, labels=labels)
    for values, number in samples.items():
        family.add_metric(values, float(number))
    return family


def _age(name: str, text: str, seconds: float | None) -> Iterator[Metric]:
    """Give an age, or nothing of what has never been."""
    if seconds is not None:
        yield _gauge(f"{name}_age_seconds", text, {(): seconds})
