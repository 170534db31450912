"""The table of several series in docs/operate/costs.md: each number is what the plan says."""

import re
from datetime import date, timedelta

import pytest
from document_text import HOUSE

from app.domain import request_plan
from app.domain.calendar import Calendar
from app.domain.request_plan import PlannedBatch, RequestPlan

PAGE = (HOUSE / "docs" / "operate" / "costs.md").read_text()
FREE = 25
# A Sunday with two weeks after it that have no holiday.
SUNDAY = date(2026, 3, 15)


def plan_of(series_count: int, per_day: int) -> RequestPlan:
    """Return the plan of series that have made a batch each Monday, all with different picks."""
    names = [f"s{number}" for number in range(series_count)]
    batches = []
    for week in range(5):
        run_date = SUNDAY - timedelta(days=6 + 7 * week)
        for name in names:
            picks = (f"{name} {run_date} {place}" for place in "abc")
            batches.append(PlannedBatch(name, run_date, ("SPY", *picks)))
    return request_plan.plan(
        SUNDAY,
        series=names,
        batches=batches,
        sessions=Calendar(),
        per_day=per_day,
        benchmark="SPY",
    )


def least_for_all_splits(series_count: int) -> int:
    """Return the smallest limit with which each week requests all its splits."""
    per_day = request_plan.closes_on_weekday(series_count)
    while plan_of(series_count, per_day).left_out_splits:
        per_day += 1
    return per_day


def on_a_free_key(series_count: int) -> str:
    """Return what the last column says."""
    if request_plan.explain_misfit(series_count, FREE, "SPY"):
        return "does not start"
    plan = plan_of(series_count, FREE)
    first, second = plan.days[6], plan.days[13]
    assert first.splits_waiting == second.splits_waiting
    if first.splits_waiting:
        return f"{first.splits_waiting} splits left out each week"
    last = max(day.day for day in plan.days[:7] if day.splits)
    return "all splits on Sunday" if last == SUNDAY else f"all splits by {last:%A}"


@pytest.mark.parametrize("series_count", range(1, 9))
def test_a_row(series_count):
    """The first six columns are numbers, the last one is a sentence."""
    (row,) = re.findall(rf"^\| {series_count} \| (\d.*) \|$", PAGE, re.MULTILINE)
    *numbers, sentence = row.split(" | ")
    starts_from = request_plan.closes_on_weekday(series_count)
    assert request_plan.explain_misfit(series_count, starts_from - 1, "SPY")
    assert not request_plan.explain_misfit(series_count, starts_from, "SPY")
    plan = plan_of(series_count, 1000)
    assert [int(number) for number in numbers] == [
        plan.days[1].closes,
        plan.most_closes,
        plan.days[0].splits,
        starts_from,
        least_for_all_splits(series_count),
    ]
    assert sentence == on_a_free_key(series_count)
