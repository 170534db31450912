"""The figures of a check, and those of the independent verifier, which shares no code with them."""

from datetime import date, timedelta
from decimal import Decimal

import numpy as np
import pytest
from independent_verifier.yearly_checks import (
    DIGITS,
    WeeksOfBatch,
    compared,
    is_fixed,
    side_of,
    upper_tail,
)
from scipy import stats

from app.domain import yearly_check
from app.domain.check_contents import CheckInputs, SeriesStanding, check_content
from app.domain.journal import to_texts
from app.domain.model import JournalHead
from app.domain.yearly_check import BatchResult, PickResult

MONDAY = date(2026, 10, 26)


class GivenWeeks(WeeksOfBatch):
    """The two weeks of a batch whose figures are given."""

    def __init__(self, batch: BatchResult) -> None:
        self.weeks = (batch.monday, batch.monday + timedelta(weeks=1))
        self.alphas = [(pick.middle, pick.result) for pick in batch.picks]
        self.given = batch

    def x(self) -> tuple[float, float]:
        first, second = zip(self.given.benchmark, self.given.risk_free, strict=True)
        return first[0] - first[1], second[0] - second[1]


def random_batches(seed: int, weeks: int, gaps: float = 0.05) -> list[BatchResult]:
    """Return batches drawn at random; `gaps` is the part of the readings that are missing."""
    random = np.random.default_rng(seed)

    def pick() -> PickResult:
        middle, second = random.normal(0.2, 2, 2)
        is_missing = random.random(2) < gaps
        return PickResult(
            None if is_missing[0] else float(middle),
            None if is_missing[1] else float(middle + second),
        )

    return [
        BatchResult(
            monday=MONDAY + timedelta(weeks=week),
            picks=[pick() for _ in range(3)],
            benchmark=tuple(map(float, random.normal(0.2, 2, 2))),
            risk_free=(0.07, 0.07),
        )
        for week in range(weeks)
    ]


@pytest.mark.parametrize("weeks", [1, 2, 3, 20, 50, 51])
def test_both_compute_the_same(weeks):
    for seed in range(20):
        batches = random_batches(seed, weeks)
        content = check_content(
            CheckInputs(
                number=1,
                on=yearly_check.check_date(MONDAY, 1),
                is_late=False,
                head=JournalHead(1, "f" * 64, None),
                standings=[SeriesStanding(name="main", batches=batches)],
                rates=[],
            )
        )
        (series,) = content["series"]
        given = [GivenWeeks(batch) for batch in batches]
        observed = [figure for batch in given for figure in batch.observed()]
        for side, fill in (("better", min(observed)), ("worse", max(observed))):
            shown, _ = side_of(given, fill, better=side == "better")
            present = {name: value for name, value in series[side].items() if value is not None}
            assert present.keys() == shown.keys()
            for name, value in present.items():
                assert is_fixed(value, DIGITS[name])
                assert abs(Decimal(value) - Decimal(shown[name])) <= Decimal(10) ** -DIGITS[name]


@pytest.mark.parametrize("retired", [0, 5])
def test_both_compare_alike(retired):
    """Three series are tested, with others that were retired, and a control."""
    batches = [random_batches(seed, 40, gaps=0) for seed in range(9)]
    standings = [
        *(SeriesStanding(name=name, batches=batches.pop()) for name in "abc"),
        SeriesStanding(name="dice", batches=batches.pop(), is_control=True),
    ]
    for number in range(retired):
        name = f"gone-{number}"
        standings.append(SeriesStanding(name=name, batches=batches.pop(), was_retired=True))
    content = check_content(
        CheckInputs(
            number=1,
            on=yearly_check.check_date(MONDAY, 1),
            is_late=False,
            head=JournalHead(1, "f" * 64, None),
            standings=standings,
            rates=[],
        )
    )
    tested = [(float(one["p"]), one["name"]) for one in content["series"] if one["tested"]]
    assert len(tested) == 3
    assert to_texts({"order": content["order"]})["order"] == compared(
        tested, risk=0.025, count=3 + retired
    )


def test_the_tail_of_students_t():
    for freedom in range(1, 60):
        for t in (-3.0, -0.2, 0.0, 0.5, 2.0, 4.5):
            assert upper_tail(t, freedom) == pytest.approx(stats.t.sf(t, freedom), abs=1e-12)
