"""
The verdict on a series: what the yearly checks that were held say about it.

A check is held once, and its CHECK entry in the journal holds what was found. So nothing is tested
here. A correction changes the figures of the track record, and never a verdict. A finding stands,
also if a later check does not find it again, or does not test the series any more.

`app.domain.yearly_check` explains the test, and docs/record.md#every-figure-of-trackrecord defines
each value and each text: independent verifiers compare them.
"""

from collections.abc import Iterable, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from itertools import chain
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from app.domain import calendar, yearly_check
from app.domain.check_contents import MAX_FAILED_MONDAYS, Untested
from app.domain.model import DescribedEnum
from app.domain.statistics import Interval
from app.domain.yearly_check import MIN_WEEKS, WEEKS_BETWEEN_CHECKS, Side
from app.errors import RecordDamaged

_FORTNIGHT = timedelta(weeks=2)
_SIX_PLACES = Decimal("0.000001")
# The smallest percentage that the words of a verdict show.
_SMALLEST_SHOWN = Decimal("0.0001")


class Finding(DescribedEnum):
    """The finding of a yearly check: whether the picks can be distinguished from luck."""

    BETTER = (
        "BETTER",
        "The picks did better than luck explains: Holm's procedure found the series, and "
        "`Look.beyondBetaPct` is above zero.",
    )
    WORSE = (
        "WORSE",
        "The picks did worse than bad luck explains: Holm's procedure found the series, and "
        "`Look.beyondBetaPct` is below zero.",
    )
    UNDECIDED = (
        "UNDECIDED",
        "The picks cannot be distinguished from luck: the series was tested and not found.",
    )


# `Look` and `Verdict` are also types of the API: see the comment in `app.domain.track_record`.


class Look(Struct, frozen=True, kw_only=True):
    """
    One yearly check that was held, and what it says about the series. Its `CHECK` entry in the
    journal holds all values but `batches`. It was held once: corrections that were made afterwards
    do not change it. docs/record.md explains the test.
    """

    number: Annotated[int, Meta(description="The number of the check, from 1.")]
    on: Annotated[
        date,
        Meta(
            description=f"The date of the check: {WEEKS_BETWEEN_CHECKS} weeks times `number` after "
            "the first Monday of the record's first series."
        ),
    ]
    share_pct: Annotated[
        Decimal,
        Meta(
            description="The significance level that this check spends, in percent, for all series "
            "together: 5 / (n (n + 1)), where n is `number`, such as `2.500000` for the first. All "
            "checks together spend 5 %."
        ),
    ]
    batches: Annotated[
        int,
        Meta(
            description="The number of batches that are counted: those with picks that were not "
            "late, whose Monday lies at least 14 days before `on`."
        ),
    ]
    weeks: Annotated[
        int,
        Meta(
            description="The number of weeks in which these batches held picks. In the last week "
            "only the newest of these batches has picks."
        ),
    ]
    beyond_beta_pct: Annotated[
        Decimal | None,
        Meta(
            description="The weekly excess that neither beta nor the rate of a loan without risk "
            "explains, in percentage points, to six decimal places. Its gaps are filled against "
            "the series, for the side with the smaller probability. Null for fewer than three "
            "weeks, if the benchmark's change does not vary, or if a change of the benchmark or a "
            "rate is missing."
        ),
    ]
    interval: Annotated[
        Interval | None,
        Meta(
            description="It is always null: a check holds a probability in place of an interval.",
            extra={"deprecated": "A check holds `probability` and `bound`, and no interval."},
        ),
    ] = None
    finding: Annotated[
        Finding | None,
        Meta(
            description="The finding: `BETTER` or `WORSE` if the series was found, `UNDECIDED` if "
            "it was tested and not found. Null if it was not tested: see `untestedReason`."
        ),
    ]
    seq: Annotated[
        str,
        Meta(description="The number of the `CHECK` entry in the journal, as a string of digits."),
    ]
    held_at: Annotated[
        datetime, Meta(description="The time at which the check was held, and its entry written.")
    ]
    late: Annotated[
        bool,
        Meta(
            description="True if the check was already due when its rules were journaled. A late "
            "check tests `main` only."
        ),
    ]
    untested_reason: Annotated[
        Untested | None,
        Meta(description="The reason why the check did not test the series. Null if it did."),
    ]
    gaps: Annotated[
        int,
        Meta(
            description="The number of weeks of batches with a gap: a pick without a reading at "
            "its middle or at its result."
        ),
    ]
    failed_mondays: Annotated[
        int,
        Meta(
            description="The number of failed and late Mondays of the series since the check "
            "before, or since the record's first Monday."
        ),
    ]
    probability: Annotated[
        Decimal | None,
        Meta(
            description="The probability of a value at least as far from zero as `beyondBetaPct`, "
            "on either side, if the true value is zero: from 0 to 1, to nine decimal places. Null "
            "if it cannot be computed."
        ),
    ]
    bound: Annotated[
        Decimal | None,
        Meta(
            description="The bound of Holm's procedure for `probability`, to nine decimal places. "
            "The series is found if its probability is within its bound, and so are those of all "
            "series with a smaller probability. Null if the check did not test the series."
        ),
    ]


class Verdict(Struct, frozen=True, kw_only=True):
    """The verdict on skill or luck for the whole series, from the yearly checks that were held."""

    finding: Annotated[
        Finding | None,
        Meta(
            description="The newest finding that is `BETTER` or `WORSE`: it stands, also if a "
            "later check does not find it again. `UNDECIDED` if checks have tested the series and "
            "found nothing. Null if no check has tested it; `words` then gives the reason."
        ),
    ]
    words: Annotated[
        str,
        Meta(
            description="The text of the verdict: sentences for people, with the date of the "
            "finding and the date of the next yearly check. For a series that no yearly check "
            "tests, such as a control, they say so."
        ),
    ]
    looks: Annotated[
        Sequence[Look],
        Meta(
            description="All yearly checks that were held while the series existed, oldest first. "
            "The list is empty for a part of the series.",
            extra={"usual_length": 10},
        ),
    ] = ()
    next_look: Annotated[
        date | None,
        Meta(
            description="The date of the next yearly check of the record: it is the same for all "
            "series, also for a control, which the check lists and does not test. It lies in the "
            "past until the check is held: see `nextLookHeldAt`. Null for a part of the series, or "
            "if the record has no batch."
        ),
    ] = None
    next_look_held_at: Annotated[
        datetime | None,
        Meta(
            description="The time from which the next yearly check is held: 09:00 in New York on "
            "the 21st day after its date. Until then, figures that are still missing may be read. "
            "Null if `nextLook` is null."
        ),
    ] = None
    found_on: Annotated[
        date | None,
        Meta(
            description="The date of the check that `finding` is from, if that is `BETTER` or "
            "`WORSE`. Otherwise null."
        ),
    ] = None


class _Evaluated(Struct, frozen=True):
    """A side of a series in a CHECK entry."""

    beyond_beta_pct: Decimal | None = None
    p: Decimal | None = None


class _OfSeries(Struct, frozen=True):
    """A series in a CHECK entry. A value that is None is absent there."""

    weeks: Annotated[int, Meta(ge=0)]
    imputed: Annotated[int, Meta(ge=0)]
    failed_mondays: Annotated[int, Meta(ge=0)]
    tested: bool
    better: _Evaluated
    worse: _Evaluated
    reason: Untested | None = None
    p: Decimal | None = None

    def require_consistency(self) -> None:
        """Raise ValueError if a number is not possible, or if two members contradict each other."""
        if self.tested != (self.reason is None):
            raise ValueError("`tested` and `reason` contradict each other")
        figures = [self.better.beyond_beta_pct, self.worse.beyond_beta_pct]
        if self.tested and None in (self.p, *figures):
            raise ValueError("a series was tested without a probability")
        if not all(figure is None or figure.is_finite() for figure in figures):
            raise ValueError("a figure is no number")
        _require_probabilities([self.p, self.better.p, self.worse.p])


class _Step(Struct, frozen=True):
    """A step of Holm's procedure in a CHECK entry."""

    bound: Decimal
    found: bool


class _Found(Struct, frozen=True):
    """A finding in a CHECK entry."""

    side: Side


class _Check(Struct, frozen=True):
    """The member `check` of a CHECK entry, with what it has about one series."""

    number: Annotated[int, Meta(ge=1)]
    on: date
    late: bool
    risk: Decimal
    series: Annotated[Sequence[_OfSeries], Meta(max_length=1)]
    order: Annotated[Sequence[_Step], Meta(max_length=1)]
    findings: Annotated[Sequence[_Found], Meta(max_length=1)]

    def require_consistency(self) -> None:
        """Raise ValueError if a number is not possible, or if two members contradict each other."""
        _require_probabilities([self.risk, *(step.bound for step in self.order)])
        for one in self.series:
            one.require_consistency()
        if len(self.order) != sum(one.tested for one in self.series):
            raise ValueError("`order` and `series` contradict each other")
        if len(self.findings) != sum(step.found for step in self.order):
            raise ValueError("`findings` and `order` contradict each other")


def _require_probabilities(numbers: Iterable[Decimal | None]) -> None:
    """Raise ValueError if a number is not from 0 to 1. None is an absent number."""
    for number in numbers:
        if number is not None and not (number.is_finite() and 0 <= number <= 1):
            raise ValueError("a probability is not from 0 to 1")


class CheckEntry(Struct, frozen=True, array_like=True):
    """
    A CHECK entry of the journal.

    `check` is the JSON of its member `check`, in which the lists `series`, `order` and `findings`
    have only the items of one series. In a damaged entry, members are null. The fields are in the
    order in which CHECK_ROWS of `api.schema` writes them.
    """

    seq: int
    at: datetime
    check: msgspec.Raw


class RecordChecks(Struct, frozen=True, array_like=True):
    """
    The yearly checks of a record, as one series needs them.

    `first_monday` and `newest_monday` are the first and the newest Monday with a batch of any
    series; they are None without a batch. `entries` are all CHECK entries, oldest first.
    `never_tested` is the reason why no check tests the series as its newest SERIES entry declares
    it: CONTROL, TOOLS or None. The fields are in the order in which CHECK_ROWS of `api.schema`
    writes them.
    """

    first_monday: date | None = None
    newest_monday: date | None = None
    entries: Sequence[CheckEntry] = ()
    never_tested: Untested | None = None


class CountedBatch(Struct, frozen=True):
    """A batch with picks that was not late: its Monday, and whether it is scored."""

    run_date: date
    is_scored: bool


_VERDICT_OF_A_PART = (
    "Only the whole series gets a verdict: among parts that are chosen after their results are "
    "known, some look skilled by luck alone. The intervals of this part are given."
)
_VERDICT_WITHOUT_A_BATCH = "There is nothing to judge: the series has no Monday yet."
_VERDICTS_WITHOUT_A_TEST = {
    Untested.CONTROL: (
        "A control, whose picks are drawn at random: its results are shown, and no yearly check "
        "tests them."
    ),
    Untested.TOOLS: (
        "The model has tools, so it may know prices of Monday: its results are shown, and no "
        "yearly check tests them."
    ),
}
_FINDINGS = {
    Finding.BETTER: "the picks did better than luck explains",
    Finding.WORSE: "the picks did worse than bad luck explains",
    Finding.UNDECIDED: "the record could not be distinguished from luck",
}
_REASONS = {
    Untested.LATE: "it was due before its rules were in the journal, so it tested main only",
    Untested.CONTROL: "they are drawn at random, as a control",
    Untested.TOOLS: "the model has tools, so it may know prices of Monday",
    Untested.RETIRED: "the series was retired",
    Untested.FAILED_MONDAYS: (
        f"more than {MAX_FAILED_MONDAYS} Mondays had failed or were late since the check before"
    ),
    Untested.TOO_FEW_WEEKS: f"fewer than {MIN_WEEKS} weeks were without a gap",
    Untested.NO_PROBABILITY: (
        "a change of the benchmark or a rate was missing, or the weeks did not differ enough"
    ),
}


def verdict_of_a_part() -> Verdict:
    """Return the verdict on a part of a series: there is none."""
    return Verdict(finding=None, words=_VERDICT_OF_A_PART)


def reach_verdict(
    checks: RecordChecks, batches: Sequence[CountedBatch], *, has_batches: bool
) -> Verdict:
    """
    Return the verdict on a whole series.

    `batches` are its batches with picks that were not late. `has_batches` says whether it has any
    batch at all. Raises RecordDamaged if a CHECK entry cannot be read.
    """
    looks: list[Look] = []
    for entry in checks.entries:
        looks += _looks_of(entry, batches)
    decisive = _decisive_look(looks)
    finding = found_on = None
    if decisive is not None:
        finding = decisive.finding
        if finding is not Finding.UNDECIDED:
            found_on = decisive.on
    next_look = next_look_held_at = None
    if checks.first_monday is not None:
        next_look = yearly_check.check_date(checks.first_monday, len(checks.entries) + 1)
        next_look_held_at = yearly_check.held_at(next_look)
    words = _VERDICT_WITHOUT_A_BATCH
    if has_batches and checks.never_tested and decisive is None:
        words = _VERDICTS_WITHOUT_A_TEST[checks.never_tested]
    elif has_batches:
        scored = sum(one.is_scored for one in batches)
        sentences = [*_held_sentences(looks, decisive, scored), _next_sentence(checks, next_look)]
        words = " ".join(sentences)
    return Verdict(
        finding=finding,
        words=words,
        looks=looks,
        next_look=next_look,
        next_look_held_at=next_look_held_at,
        found_on=found_on,
    )


def _looks_of(entry: CheckEntry, batches: Sequence[CountedBatch]) -> Sequence[Look]:
    """Return what a CHECK entry says about the series; nothing if it does not name the series."""
    try:
        # All values of an entry are texts, so numbers and booleans are converted.
        check = msgspec.json.decode(entry.check, type=_Check, strict=False)
        check.require_consistency()
    except ValueError as error:
        raise RecordDamaged(
            f"entry {entry.seq} of the journal, which holds a yearly check, cannot be read: {error}"
        ) from None
    return [_look(entry, check, one, batches=batches) for one in check.series]


def _look(
    entry: CheckEntry, check: _Check, one: _OfSeries, *, batches: Sequence[CountedBatch]
) -> Look:
    finding = None
    if one.tested:
        finding = Finding.UNDECIDED
    for found in check.findings:
        finding = Finding(found.side)
    return Look(
        number=check.number,
        on=check.on,
        share_pct=(100 * check.risk).quantize(_SIX_PLACES),
        batches=sum(batch.run_date <= check.on - _FORTNIGHT for batch in batches),
        weeks=one.weeks,
        beyond_beta_pct=_side(one, finding).beyond_beta_pct,
        finding=finding,
        seq=str(entry.seq),
        held_at=entry.at,
        late=check.late,
        untested_reason=one.reason,
        gaps=one.imputed,
        failed_mondays=one.failed_mondays,
        probability=one.p,
        bound=next((step.bound for step in check.order), None),
    )


def _side(one: _OfSeries, finding: Finding | None) -> _Evaluated:
    """Return the side that was found; without a finding, the one with the smaller probability."""
    if finding is Finding.BETTER:
        return one.better
    if finding is Finding.WORSE:
        return one.worse
    if one.better.p is None or one.worse.p is None or one.better.p <= one.worse.p:
        return one.better
    return one.worse


def _decisive_look(looks: Sequence[Look]) -> Look | None:
    """Return the newest check that found something; otherwise the newest that tested the series."""
    found = [look for look in looks if look.finding in (Finding.BETTER, Finding.WORSE)]
    tested = [look for look in looks if look.finding is Finding.UNDECIDED]
    return next(chain(reversed(found), reversed(tested)), None)


def _held_sentences(looks: Sequence[Look], decisive: Look | None, scored: int) -> list[str]:
    """Return the sentences about the checks that were held."""
    if not looks:
        noun = "batch" if scored == 1 else "batches"
        return [f"Too early to tell skill from luck: {scored} scored {noun} so far."]
    last = looks[-1]
    if decisive is None:
        return [_untested_sentence(last)]
    sentences = [_tested_sentence(decisive)]
    if last is decisive:
        return sentences
    if last.untested_reason is None:
        sentences.append(f"The yearly check of {last.on} found nothing more.")
    else:
        sentences.append(_untested_sentence(last))
    if decisive.finding is not Finding.UNDECIDED:
        sentences.append("The earlier finding stands.")
    return sentences


def _tested_sentence(look: Look) -> str:
    assert look.finding, "the series was tested"
    assert look.beyond_beta_pct is not None, "a series that was tested has figures"
    assert look.probability is not None, "a series that was tested has a probability"
    return (
        f"At the yearly check of {look.on}, over {look.weeks} weeks, {_FINDINGS[look.finding]}: "
        f"beyond the benchmark and its beta, the picks added {look.beyond_beta_pct:+.2f} % a week, "
        f"which luck alone reaches with a probability of {_percent(look.probability)} %."
    )


def _percent(probability: Decimal) -> str:
    percent = (100 * probability).quantize(_SMALLEST_SHOWN)
    if percent == 0:
        return f"less than {_SMALLEST_SHOWN}"
    return str(percent)


def _untested_sentence(look: Look) -> str:
    assert look.untested_reason, "the series was not tested"
    reason = _REASONS[look.untested_reason]
    return f"The yearly check of {look.on} did not test the picks: {reason}."


def _next_sentence(checks: RecordChecks, next_look: date | None) -> str:
    """Return the sentence about the next check: when it is, or what it waits for."""
    assert next_look, "the record has a batch"
    assert checks.newest_monday, "the record has a batch"
    if checks.newest_monday < next_look:
        first_or_next = "next" if checks.entries else "first"
        return f"The {first_or_next} yearly check is on {next_look}."
    held_on = yearly_check.held_at(next_look).astimezone(calendar.NEW_YORK).date()
    if checks.newest_monday <= held_on:
        return (
            f"The yearly check of {next_look} waits until {held_on} for figures that are still "
            "missing."
        )
    return (
        f"The yearly check of {next_look} was due on {held_on}, and the journal does not have it "
        "yet."
    )
