"""Metrics of several series: the families keep their names, and one has the series."""

from job_context import MONDAY
from job_context import clock as clock
from prometheus_client.metrics_core import Metric
from provider_server import says
from series_harness import ALL, CLAUDE, DICE, MAIN
from series_harness import harness as harness
from series_harness import keys as keys
from series_harness import receiver as receiver

from app.domain.calendar import Calendar
from app.ops.snapshot import MONDAY_STATES, MetricsReader
from app.web.metric_families import snapshot_families
from jobs.request_budget import Configured

REFUSED = says({"error": {"message": "No such key."}}, 401)


async def read(harness, *series: str) -> dict[str, Metric]:
    """Return the families by their names, of a process with these series."""
    ledger = harness.context.prices.ledger
    reader = MetricsReader(
        harness.context.pool,
        ledger,
        harness.clock,
        configured=Configured(series=series, sessions=Calendar(), benchmarks=("SPY",)),
    )
    snapshot = await reader.read()
    assert snapshot
    return {
        family.name.removeprefix("alpha_monday_"): family for family in snapshot_families(snapshot)
    }


def true_labels(family: Metric) -> list[tuple[str, ...]]:
    """Return the values of the labels of the samples that are not 0."""
    return [tuple(sample.labels.values()) for sample in family.samples if sample.value]


async def test_the_monday_of_each_series(harness):
    """One fails, one has picks, one has none yet: none hides another."""
    harness.answers[CLAUDE] = REFUSED
    await harness.run(MAIN, CLAUDE)
    families = await read(harness, *ALL)
    assert true_labels(families["series_monday"]) == [
        (MAIN, "active"),
        (CLAUDE, "failed"),
        (DICE, "absent"),
    ]
    assert len(families["series_monday"].samples) == len(ALL) * len(MONDAY_STATES)
    assert true_labels(families["newest_monday"]) == [("absent",), ("active",), ("failed",)]
    assert true_labels(families["mondays"]) == [("active", ""), ("failed", "CONFIGURATION")]


async def test_one_series(harness):
    """With `main` alone, the other families are as they were."""
    await harness.run(MAIN)
    families = await read(harness, MAIN)
    assert true_labels(families["series_monday"]) == [(MAIN, "active")]
    assert true_labels(families["newest_monday"]) == [("active",)]


async def test_a_series_that_joins_next(harness):
    """A series without any Monday is not absent on the days before its first one."""
    await harness.run(MAIN)
    harness.clock.time = harness.clock.time.replace(day=MONDAY.day + 1)
    families = await read(harness, MAIN, DICE)
    assert true_labels(families["series_monday"]) == [(MAIN, "active"), (DICE, "not_begun")]
