"""
What the entries of the yearly checks contain: the kinds CHECK and RULES of the journal.

A RULES entry states the version of the rules, and the SHA-256 of the file that has them. A CHECK
entry holds a check: the figures of every series, Holm's order, and what was found. All numbers have
a fixed number of digits, so that a verifier that computes the check again can compare texts.
docs/journal.md#yearly-checks defines every member.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date

from msgspec import Struct

from app.domain import yearly_check
from app.domain.model import SERIES, DescribedEnum, JournalHead, Rate
from app.domain.yearly_check import BatchResult, HolmStep, SeriesEvaluation, SideEvaluation

# The version of the rules by which this version of the service holds checks, and the SHA-256 of
# their file: app/domain/rules/yearly_check_1.txt.
RULES_VERSION = 1
RULES_SHA256 = "0fd6e2ddb739b2b23871720b0ab3a601d76e2b8bb659438599d8bac844e2ccf9"
# The number of the first check that these rules decide.
RULES_FROM_CHECK = 1

# A series with more failed or late Mondays since the check before is not tested: a series that may
# stop when it looks good is found too often.
MAX_FAILED_MONDAYS = 4

# The digits after the point of figures in percent and of a beta, and of probabilities and bounds.
_FIGURE_DIGITS = 6
_PROBABILITY_DIGITS = 9


class Untested(DescribedEnum):
    """The reason why a check does not test a series. The first one that holds is given."""

    LATE = "LATE", "The check was due before its rules were journaled; it tests `main` only."
    CONTROL = "CONTROL", "The series is a control: its picks are drawn at random."
    TOOLS = "TOOLS", "The model has tools, so it may know prices of Monday."
    RETIRED = "RETIRED", "The series is retired, or was retired since the check before."
    FAILED_MONDAYS = (
        "FAILED_MONDAYS",
        "The series has had more than four failed or late Mondays since the check before.",
    )
    TOO_FEW_WEEKS = "TOO_FEW_WEEKS", "The series has fewer than 30 weeks without a gap."
    NO_PROBABILITY = (
        "NO_PROBABILITY",
        "A change of the benchmark or a rate is missing, or the weeks do not differ enough.",
    )


class SeriesStanding(Struct, frozen=True, kw_only=True):
    """
    A series on the day of a check.

    `failed_mondays` is the number of its failed and late Mondays since the check before, and
    `was_retired` whether it is retired, or was on a Monday since then. `batches` are the batches
    that the check counts.
    """

    name: str
    batches: Sequence[BatchResult]
    failed_mondays: int = 0
    is_control: bool = False
    has_tools: bool = False
    was_retired: bool = False


class CheckInputs(Struct, frozen=True, kw_only=True):
    """
    Everything that a check rests on.

    `head` is the newest entry of the journal. `is_late` is whether the check was due before its
    rules were journaled. `rates` are the readings that give the rates of the counted weeks.
    """

    number: int
    on: date
    is_late: bool
    head: JournalHead
    standings: Sequence[SeriesStanding]
    rates: Sequence[Rate]


def rules_content() -> dict[str, object]:
    """Return the member `rules` of a RULES entry of this version."""
    return {
        "version": RULES_VERSION,
        "sha256": RULES_SHA256,
        "from_check": RULES_FROM_CHECK,
    }


def check_content(inputs: CheckInputs) -> dict[str, object]:
    """Hold a check, and return the member `check` of its entry."""
    evaluations = {one.name: yearly_check.evaluate(one.batches) for one in inputs.standings}
    reasons = {
        one.name: _reason(one, evaluations[one.name], is_late=inputs.is_late)
        for one in inputs.standings
    }
    p_values = {
        name: evaluation.p_value
        for name, evaluation in evaluations.items()
        if reasons[name] is None and evaluation.p_value is not None
    }
    risk = yearly_check.risk_of_check(inputs.number)
    # A control cannot be chosen after its results are known, so it does not count.
    counted = [one for one in inputs.standings if not one.is_control]
    steps = yearly_check.holm(p_values, risk, untested=len(counted) - len(p_values))
    return {
        "number": inputs.number,
        "on": inputs.on,
        "late": inputs.is_late,
        "rules": RULES_VERSION,
        "head": {"seq": inputs.head.seq, "hash": inputs.head.hash},
        "risk": _probability(risk),
        "series": [
            _series_content(one, evaluations[one.name], reasons[one.name])
            for one in sorted(inputs.standings, key=lambda one: one.name)
        ],
        "order": [_step_content(step) for step in steps],
        "findings": list(_findings(steps, evaluations)),
    }


def _reason(
    standing: SeriesStanding, evaluation: SeriesEvaluation, *, is_late: bool
) -> Untested | None:
    """Return why a check does not test a series; None if it does."""
    conditions = {
        Untested.LATE: is_late and standing.name != SERIES,
        Untested.CONTROL: standing.is_control,
        Untested.TOOLS: standing.has_tools,
        Untested.RETIRED: standing.was_retired,
        Untested.FAILED_MONDAYS: standing.failed_mondays > MAX_FAILED_MONDAYS,
        Untested.TOO_FEW_WEEKS: not evaluation.has_enough_weeks,
        Untested.NO_PROBABILITY: evaluation.p_value is None,
    }
    return next((reason for reason, holds in conditions.items() if holds), None)


def _series_content(
    standing: SeriesStanding, evaluation: SeriesEvaluation, reason: Untested | None
) -> dict[str, object]:
    return {
        "name": standing.name,
        "weeks": evaluation.weeks,
        "imputed": evaluation.imputed,
        "failed_mondays": standing.failed_mondays,
        "tested": reason is None,
        "reason": reason,
        "better": _side_content(evaluation.better),
        "worse": _side_content(evaluation.worse),
        "p": _probability(evaluation.p_value),
    }


def _side_content(side: SideEvaluation) -> dict[str, object]:
    return {
        "mean_pct": _figure(side.mean_pct),
        "beta": _figure(side.beta),
        "beyond_beta_pct": _figure(side.beyond_beta_pct),
        "p": _probability(side.p_value),
    }


def _step_content(step: HolmStep) -> dict[str, object]:
    return {
        "series": step.series,
        "p": _probability(step.p_value),
        "bound": _probability(step.bound),
        "found": step.is_found,
    }


def _findings(
    steps: Iterable[HolmStep], evaluations: Mapping[str, SeriesEvaluation]
) -> Iterable[dict[str, object]]:
    for step in steps:
        if step.is_found:
            yield {"series": step.series, "side": evaluations[step.series].side}


def _figure(value: float | None) -> str | None:
    return _fixed(value, _FIGURE_DIGITS)


def _probability(value: float | None) -> str | None:
    return _fixed(value, _PROBABILITY_DIGITS)


def _fixed(value: float | None, digits: int) -> str | None:
    """Return a number with a fixed number of digits after the point; zero has no sign."""
    if value is None:
        return None
    text = f"{value:.{digits}f}"
    if float(text) == 0:
        return text.removeprefix("-")
    return text
