"""
What pages show of results with dividends, of those after costs, and of stated probabilities.

A record is a mapping, as the API returns it, with the fields of `RECORD_FIELDS`.
"""

from collections.abc import Mapping, Sequence
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any

from app.web.formatting import signed

# The costs of one way that the page of a record shows, in basis points.
SHOWN_BPS = (0, 5, 15)
# The fields of `trackRecord` that the page of a record needs for its dividends, costs and
# probabilities.
RECORD_FIELDS = f"""
totalResults {{
  count totalHits
  alphaPct {{ mean median }} totalAlphaPct {{ mean median }} directionalTotalReturnPct {{ mean }}
}}
breakEvenBps
{" ".join(f"costs{bps}: afterCosts(bps: {bps}) {{ ...Costs }}" for bps in SHOWN_BPS)}
probability {{
  picks hits meanStatedPct hitRatePct hitRateInterval {{ low high }}
  brierScore reliability resolution uncertainty halfBrierScore hitRateBrierScore
  bins {{ lowPct highPct picks hits meanStatedPct hitRatePct hitRateInterval {{ low high }} }}
  words
}}
"""
COSTS_FRAGMENT = """
fragment Costs on AfterCosts {
  bps meanAlphaPct medianAlphaPct meanDirectionalReturnPct sumPct
  hits hitRatePct hitRateInterval { low high }
}
"""
# The fields of `trackRecord` that the leaderboard needs.
LEADERBOARD_FIELDS = "probability { picks brierScore }"

_FOUR_DECIMALS = Decimal("0.0001")


def after_costs(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the results after each of SHOWN_BPS."""
    return [record[f"costs{bps}"] for bps in SHOWN_BPS]


def total_count_words(record: Mapping[str, Any]) -> str:
    """Return how many of the finished calls have a result with dividends, as words."""
    count, finished = record["totalResults"]["count"], record["picks"]["finished"]
    if count == finished:
        return f"all {finished} finished calls"
    return f"{count} of {finished} finished calls"


def break_even_words(record: Mapping[str, Any]) -> str:
    """Return a sentence about the costs that use up the mean of the points."""
    basis_points = Decimal(record["breakEvenBps"])
    if basis_points < 0:
        return "The mean of the points is below zero even without costs."
    if basis_points == 0:
        return "The mean of the points is exactly zero without costs."
    shown = signed(record["breakEvenBps"]).removeprefix("+")
    return (
        f"At a cost of {shown} basis points for one way, the mean of the points is zero. At a "
        "higher cost, it is below zero."
    )


def score(figure: str) -> str:
    """Return a score from 0 to 1 with four decimals, half to even."""
    return str(Decimal(figure).quantize(_FOUR_DECIMALS, rounding=ROUND_HALF_EVEN))


def brier_rows(scores: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
    """Return name and value of the Brier score, of what it is compared with, and of its parts."""
    return [
        ("Brier score of the stated probabilities", scores["brierScore"]),
        ("Always saying 50 %", scores["halfBrierScore"]),
        (
            "Always saying the record’s own share of right calls (known only afterwards)",
            scores["hitRateBrierScore"],
        ),
        ("Reliability (what wrong probabilities add)", scores["reliability"]),
        ("Resolution (what telling good calls from bad ones takes off)", scores["resolution"]),
        ("Uncertainty (what no probability changes)", scores["uncertainty"]),
    ]
