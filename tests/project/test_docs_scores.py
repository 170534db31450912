"""The examples of costs and of probabilities in docs/record.md agree with the code."""

import re
from decimal import Decimal
from fractions import Fraction
from itertools import groupby
from pathlib import Path

from app.domain import calibration, costs
from app.domain.calibration import StatedPick, score_probabilities
from app.domain.track_record import compute_track_record
from tests.project.test_docs import MONDAYS, fortnight

HOUSE = Path(__file__).parents[2]
RECORD = (HOUSE / "docs" / "record.md").read_text()
COSTS = RECORD[RECORD.index("\n## Costs") : RECORD.index("\n## Probability")]
PROBABILITY = RECORD[RECORD.index("\n## Probability") : RECORD.index("\n## Every figure of track")]
GROUPS = re.findall(
    r"^\| (\d+) % \| (\d+) \| (\d+) \| (.+?) = (\S+) \| (.+?) = (\S+) \| (.+?) = (\S+) \|$",
    PROBABILITY,
    re.MULTILINE,
)


def as_fraction(formula: str) -> Fraction:
    """Return the value of a formula of the example, with fractions of whole numbers."""
    text = formula.replace("×", "*").replace("²", "**2")
    return eval(re.sub(r"[0-9]+\.[0-9]+|(?<!\*)\b[0-9]+\b", r"Fraction('\g<0>')", text))


def test_the_example_of_costs():
    """Every row of its table has the figure that the code computes from the picks of the page."""
    batches = [fortnight(list(rows)) for _, rows in groupby(MONDAYS, key=lambda row: row[0])]
    record = compute_track_record("main", batches, None)
    bps = int(re.search(r"With a cost of (\d+) basis points", COSTS)[1])
    after = record.after_costs(bps)
    rows = re.findall(r"^\| `(\w+)` (?:after costs|of these picks) \| .+ \| (\S+) \|$", COSTS, re.M)
    assert {name: Decimal(value) for name, value in rows} == {
        "costPct": after.cost_pct,
        "meanAlphaPct": after.mean_alpha_pct,
        "medianAlphaPct": after.median_alpha_pct,
        "sumPct": after.sum_pct,
        "hits": after.hits,
        "hitRatePct": after.hit_rate_pct,
        "breakEvenBps": record.break_even_bps,
    }


def test_the_example_of_probabilities():
    """Each formula of its table gives the value beside it, and the code computes the sums."""
    assert len(GROUPS) == 3
    for _, _, _, *formulas in GROUPS:
        for formula, value in zip(formulas[::2], formulas[1::2], strict=True):
            assert as_fraction(formula) == Fraction(value)
    picks = []
    for percent, number, hits, *_ in GROUPS:
        picks += [StatedPick(int(percent), n < int(hits)) for n in range(int(number))]
    scores = score_probabilities(picks)
    assert scores
    sums = [sum(Fraction(group[column]) for group in GROUPS) for column in (4, 6, 8)]
    figures = (scores.brier_score, scores.reliability, scores.resolution)
    assert [total / scores.picks for total in sums] == [Fraction(figure) for figure in figures]
    text = " ".join(PROBABILITY.split())
    for figure in figures:
        assert f" {figure}" in text
    assert f"= {scores.brier_score}. Reliability is" in text
    assert f"uncertainty 0.6 × 0.4 = {scores.uncertainty}:" in text
    assert f"share of hits {scores.hits * 10} %" in text
    assert f"mean stated probability is {scores.mean_stated_pct} %" in text
    interval = scores.hit_rate_interval
    assert f"its interval from {interval.low} to {interval.high}" in text


def test_the_numbers_of_the_text():
    """The limits that the text names are those of the code."""
    assert f"Fewer than {calibration.MIN_PICKS} picks, those of twenty Mondays" in " ".join(
        PROBABILITY.split()
    )
    assert f"If n is below {calibration.MIN_PICKS}, `words` is" in RECORD
    assert f"a whole number from 0 to {costs.MAX_BPS:,} |" in RECORD
    starts = re.search(r"five bins for P from (.+?), in this order", RECORD)[1]
    assert [int(one) for one in re.findall(r"(\d+) to", starts)] == list(calibration.BIN_STARTS)
