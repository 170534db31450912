"""
The metrics that are read from Postgres: the record, the jobs and the providers.

Every process reports the same values for them. `app.ops.snapshot` reads them.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import time as clock_time
from itertools import product
from typing import Any

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from app.domain import calendar
from app.domain.model import BatchStatus, CheckpointStatus, FailureReason, SkipReason
from app.ops.snapshot import LATENESS_BUCKETS, MONDAY_STATES, MetricsSnapshot
from app.providers.alpha_vantage import DAILY, DIVIDENDS, RATES, SPLITS
from app.providers.rate_limiter import RequestOutcome
from app.store.checkpoints import Lateness
from jobs.queue import app as queue
from jobs.queue_tables import QUEUE_STATUSES

# The windows of the rate limits, in the order of `app.providers.rate_limiter`.
_WINDOWS = ("second", "minute", "day")
_OTHER_TASK = "other"
# The lateness for a status that no checkpoint has.
_NO_LATENESS = Lateness(dict.fromkeys(LATENESS_BUCKETS, 0))

# The numbers of a metric, by the values of its labels. A key is a tuple of these values, in the
# order of the labels.
Samples = Mapping[Any, float]


def gauge(name: str, description: str, samples: Samples, *, labels: Sequence[str] = ()) -> Metric:
    """Return a gauge. `name` is without the prefix `alpha_monday_`; `labels` are label names."""
    family = GaugeMetricFamily(f"alpha_monday_{name}", description, labels=labels)
    for values, number in samples.items():
        family.add_metric(values, float(number))
    return family


def counter(name: str, description: str, samples: Samples, *, labels: Sequence[str] = ()) -> Metric:
    """Return a counter. `name` is without the prefix `alpha_monday_` and without "_total"."""
    family = CounterMetricFamily(f"alpha_monday_{name}", description, labels=labels)
    for values, number in samples.items():
        family.add_metric(values, float(number))
    return family


def one_label(numbers: Mapping[str, float]) -> Samples:
    """Return the samples of a metric with one label. `numbers` has the label's values as keys."""
    return {(value,): number for value, number in numbers.items()}


def snapshot_families(snapshot: MetricsSnapshot) -> Iterator[Metric]:
    """Yield all metrics of a snapshot."""
    yield from _batch_families(snapshot)
    yield from _checkpoint_families(snapshot)
    yield from _journal_families(snapshot)
    yield from _queue_families(snapshot)
    yield from _quota_families(snapshot)
    yield from _plan_families(snapshot)
    yield from _model_families(snapshot)
    yield from _model_end_families(snapshot)
    yield from _timestamp_families(snapshot)


def _age(name: str, description: str, seconds: float | None) -> Iterator[Metric]:
    """Yield an age in seconds. Yield nothing if the event has never happened."""
    if seconds is not None:
        yield gauge(f"{name}_age_seconds", description, {(): seconds})


def _batch_families(snapshot: MetricsSnapshot) -> Iterator[Metric]:
    mondays = {(status.value, ""): 0 for status in BatchStatus if status != BatchStatus.FAILED}
    mondays |= {(BatchStatus.FAILED.value, reason.value): 0 for reason in FailureReason}
    mondays |= snapshot.totals.mondays
    yield gauge(
        "mondays",
        "Mondays of all series by status; failed Mondays also by reason.",
        mondays,
        labels=("status", "reason"),
    )
    by_series = snapshot.monday_states
    states = {str(state): state in by_series.values() for state in MONDAY_STATES}
    yield gauge(
        "newest_monday",
        "The state of the newest Monday that has begun: 1 for its state, 0 for the others. With "
        "several series: 1 for the state of any of them.",
        one_label(states),
        labels=("status",),
    )
    # The names come from SERIES_FILE and from the record, so there are few of them.
    yield gauge(
        "series_monday",
        "The state of the newest Monday that has begun, of each series: 1 for its state, 0 for the "
        "others.",
        {
            (name, str(state)): state == by_series[name]
            for name, state in product(by_series, MONDAY_STATES)
        },
        labels=("series", "status"),
    )


def _checkpoint_families(snapshot: MetricsSnapshot) -> Iterator[Metric]:
    checkpoints = {(CheckpointStatus.COMPUTED.value, ""): 0}
    checkpoints |= {(CheckpointStatus.SKIPPED.value, reason.value): 0 for reason in SkipReason}
    checkpoints |= snapshot.totals.checkpoints
    yield gauge(
        "checkpoints",
        "Checkpoints of day 1 or later by status; skipped checkpoints also by reason.",
        checkpoints,
        labels=("status", "reason"),
    )
    yield gauge(
        "checkpoints_lacking_prices",
        "Checkpoints of active batches whose prices are missing.",
        {(): len(snapshot.record.skipped)},
    )
    yield _lateness(snapshot)
    overdue = snapshot.record.overdue
    yield gauge(
        "checkpoints_overdue",
        "Checkpoints that are due and not stored yet.",
        {(): len(overdue)},
    )
    overdue_seconds = 0.0
    if overdue:
        overdue_seconds = snapshot.seconds_since(overdue[0].due_at) or 0.0
    yield gauge(
        "checkpoint_overdue_seconds",
        "How long the oldest overdue checkpoint is overdue; 0 if there is none.",
        {(): overdue_seconds},
    )
    yield from _age(
        "newest_checkpoint",
        "Time since the newest checkpoint was taken.",
        snapshot.seconds_since(snapshot.newest_checkpoint_at),
    )


def _lateness(snapshot: MetricsSnapshot) -> Metric:
    family = HistogramMetricFamily(
        "alpha_monday_checkpoint_lateness_seconds",
        "Time from when a checkpoint was due until it was first taken, by its status at that time. "
        "For the whole record.",
        labels=["status"],
    )
    for status in CheckpointStatus:
        lateness = snapshot.totals.lateness.get(status, _NO_LATENESS)
        buckets = [(str(limit), lateness.count_by_bound[limit]) for limit in LATENESS_BUCKETS]
        # Prometheus requires a last bucket that contains everything.
        buckets.append(("+Inf", lateness.count))
        family.add_metric([status], buckets, lateness.seconds)
    return family


def _journal_families(snapshot: MetricsSnapshot) -> Iterator[Metric]:
    head = snapshot.record.journal_head
    seq, age = 0, None
    if head:
        seq, age = head.seq, snapshot.seconds_since(head.at)
    yield gauge("journal_seq", "The number of the journal's newest entry.", {(): seq})
    yield from _age("journal", "Time since the journal's newest entry.", age)
    yield from _publication_families(snapshot)


def _publication_families(snapshot: MetricsSnapshot) -> Iterator[Metric]:
    publication = snapshot.publication
    yield gauge(
        "head_published_seq",
        "The number of the newest entry that was published in the git repository; 0 without one.",
        {(): publication.seq or 0},
    )
    yield from _age(
        "head_published",
        "Time since the journal's head was published.",
        snapshot.seconds_since(publication.published_at),
    )
    yield gauge(
        "head_failing_seconds",
        "How long the journal's head could not be published; 0 if it could be published last.",
        {(): snapshot.seconds_since(publication.failing_since) or 0.0},
    )


def _queue_families(snapshot: MetricsSnapshot) -> Iterator[Metric]:
    our_tasks = {name for name in queue.tasks if "procrastinate" not in name}
    jobs = Counter(dict.fromkeys(product(sorted(our_tasks), QUEUE_STATUSES), 0))
    for row in snapshot.queue.jobs:
        # Another program may have deferred a job with any task name. Such a name must not become
        # the value of a label. Samples with the label "other" exist only while there are such jobs,
        # which is rare.
        task = row.task
        if task not in our_tasks:
            task = _OTHER_TASK
        jobs[task, row.status] += row.jobs
    yield gauge(
        "jobs",
        "Jobs by task and status. Jobs that have ended stay for 30 days.",
        jobs,
        labels=("task", "status"),
    )
    yield gauge(
        "job_wait_seconds",
        "How long the oldest job that could run has waited; 0 if there is none.",
        {(): snapshot.seconds_since(snapshot.waiting_since) or 0.0},
    )
    alive = sum(worker.is_alive for worker in snapshot.queue.workers)
    silent = len(snapshot.queue.workers) - alive
    yield gauge(
        "workers",
        "Workers of all processes, by whether they send heartbeats.",
        one_label({"alive": alive, "silent": silent}),
        labels=("status",),
    )
    reconciler = snapshot.queue.reconciler
    if reconciler:
        yield from _age(
            "upkeep",
            "Time since the last round of the reconciliation.",
            snapshot.seconds_since(reconciler.last_round_at),
        )
    yield counter(
        "upkeep_mended",
        "What the reconciliation has repaired, in all processes.",
        one_label(snapshot.totals.repairs),
        labels=("kind",),
    )


def _quota_families(snapshot: MetricsSnapshot) -> Iterator[Metric]:
    outcomes = (*map(str, RequestOutcome), "cut_off")
    requests = dict.fromkeys(product((DAILY, SPLITS, DIVIDENDS, RATES), outcomes), 0)
    requests |= snapshot.totals.requests
    yield counter(
        "provider_requests",
        "Requests to Alpha Vantage by function and outcome, of all processes.",
        requests,
        labels=("function", "outcome"),
    )
    quota = snapshot.providers.quota
    left = dict(zip(_WINDOWS, quota.requests, strict=True))
    yield gauge(
        "provider_quota_left_requests",
        "Requests that our limits still allow.",
        one_label(left),
        labels=("window",),
    )
    allowed = [limit.requests for limit in snapshot.providers.limits]
    yield gauge(
        "provider_quota_limit_requests",
        "Requests that our limits allow.",
        one_label(dict(zip(_WINDOWS, allowed, strict=True))),
        labels=("window",),
    )
    wait = (quota.next_at - snapshot.at).total_seconds()
    yield gauge(
        "provider_quota_wait_seconds",
        "Time until the next request to Alpha Vantage is allowed.",
        {(): max(0.0, wait)},
    )


def _plan_families(snapshot: MetricsSnapshot) -> Iterator[Metric]:
    plan = snapshot.request_plan
    planned: dict[tuple[str, str], int] = {}
    for number, day in enumerate(plan.days):
        planned[str(number), "closes"] = day.closes
        planned[str(number), "splits"] = day.splits
        planned[str(number), "weekly"] = day.weekly
        planned[str(number), "dividends"] = day.dividends
    yield gauge(
        "price_requests_planned",
        "Price requests that are planned for a day, at most; day 0 is today, from 09:00 in New "
        "York on.",
        planned,
        labels=("day", "kind"),
    )
    yield gauge(
        "price_requests_planned_most_closes",
        "The closes of the day with the most closes in the next 14 days. More than the limit of a "
        "day means that figures will be late.",
        {(): plan.most_closes},
    )
    yield gauge(
        "splits_left_out",
        "Requests for splits that have no room until the last day of their week, in the next 14 "
        "days.",
        {(): plan.left_out_splits},
    )
    yield gauge(
        "dividends_left_out",
        "Requests for dividends that have no room until the last day of their week, in the next 14 "
        "days.",
        {(): plan.left_out_dividends},
    )


def _model_families(snapshot: MetricsSnapshot) -> Iterator[Metric]:
    generations = snapshot.totals.generations
    outcomes = {
        "accepted": generations.accepted,
        "refused": generations.refused,
        "failed": generations.failed,
    }
    # Not a counter, because the number of accepted answers can fall: an accepted answer is refused
    # later if one of its tickers has no price.
    yield gauge(
        "generations",
        "Questions to the model by outcome.",
        one_label(outcomes),
        labels=("outcome",),
    )
    tokens = {
        "prompt": generations.prompt_tokens,
        "completion": generations.completion_tokens,
    }
    yield counter(
        "model_tokens",
        "Tokens used, as reported by the model's provider.",
        one_label(tokens),
        labels=("kind",),
    )


def _model_end_families(snapshot: MetricsSnapshot) -> Iterator[Metric]:
    """Yield which models end; no samples before the first check, and in a rehearsal."""
    today = calendar.new_york_date(snapshot.at)
    ending = {end.series: float(end.needs_warning(today)) for end in snapshot.model_ends}
    yield gauge(
        "model_ending",
        "Whether the model of a series ends within 60 days, has ended, or is not known any more.",
        one_label(ending),
        labels=("series",),
    )
    seconds = {}
    for end in snapshot.model_ends:
        if end.ends_on:
            ends_at = calendar.from_new_york(end.ends_on, clock_time())
            seconds[end.series] = (ends_at - snapshot.at).total_seconds()
    yield gauge(
        "model_end_seconds",
        "Time until the known end of a series' model; below 0 after it.",
        one_label(seconds),
        labels=("series",),
    )


def _timestamp_families(snapshot: MetricsSnapshot) -> Iterator[Metric]:
    """Yield what each service has stamped; no samples while there are no timestamps."""
    labels = ("kind", "authority")
    stamps = {(one.kind.value, one.authority): one for one in snapshot.stamps}
    yield gauge(
        "timestamp_seq",
        "The number of the newest entry of the journal that a service has stamped.",
        {key: one.seq for key, one in stamps.items()},
        labels=labels,
    )
    yield gauge(
        "timestamp_age_seconds",
        "Time since the newest proof of a service was received.",
        {key: snapshot.seconds_since(one.received_at) or 0.0 for key, one in stamps.items()},
        labels=labels,
    )
    yield gauge(
        "timestamps_pending",
        "Proofs that are not complete yet.",
        {key: one.pending for key, one in stamps.items()},
        labels=labels,
    )
