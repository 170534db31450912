"""
The verdict on a series: what the checks that were held say about it.

The kind: a record with CHECK entries, as the API reads them. Members tried: no check, one that
finds nothing, one that finds better or worse, every reason for which a series is not tested, an
earlier finding, a series that joined late, a check that is due, and damaged entries.
"""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import msgspec
import pytest
from held_checks import MONDAY, as_read, content_of, record_checks, standing

from app.domain.check_contents import MAX_FAILED_MONDAYS, Untested
from app.domain.verdict import (
    CountedBatch,
    Finding,
    RecordChecks,
    Verdict,
    reach_verdict,
    verdict_of_a_part,
)
from app.errors import RecordDamaged

WEEK = timedelta(weeks=1)
FIRST_CHECK, SECOND_CHECK = date(2027, 1, 4), date(2028, 1, 3)
NEXT = "The next yearly check is on 2028-01-03."


def counted(weeks: int, start: date = MONDAY) -> list[CountedBatch]:
    """Return a scored batch on each of so many Mondays."""
    return [CountedBatch(start + week * WEEK, is_scored=True) for week in range(weeks)]


def verdict_on(
    series: str, *contents: object, newest: date = FIRST_CHECK + 4 * WEEK, batches: int = 52
) -> Verdict:
    checks = record_checks(series, *contents, newest=newest)
    return reach_verdict(checks, counted(batches), has_batches=True)


def test_no_check_yet():
    """Before the first check, only its date is known."""
    verdict = verdict_on("main", newest=MONDAY + WEEK, batches=2)
    assert verdict == Verdict(
        finding=None,
        words="Too early to tell skill from luck: 2 scored batches so far. The first yearly check "
        "is on 2027-01-04.",
        looks=[],
        next_look=FIRST_CHECK,
        # 09:00 in New York, in winter.
        next_look_held_at=datetime(2027, 1, 25, 14, tzinfo=UTC),
        found_on=None,
    )
    assert "1 scored batch so far" in verdict_on("main", newest=MONDAY, batches=1).words


@pytest.mark.parametrize(
    ("newest", "words"),
    [
        pytest.param(date(2026, 12, 28), "The first yearly check is on 2027-01-04.", id="before"),
        pytest.param(
            date(2027, 1, 4),
            "The yearly check of 2027-01-04 waits until 2027-01-25 for figures that are still "
            "missing.",
            id="on its date",
        ),
        pytest.param(date(2027, 1, 25), "waits until 2027-01-25", id="on the day it is held"),
        pytest.param(
            date(2027, 2, 1),
            "The yearly check of 2027-01-04 was due on 2027-01-25, and the journal does not have "
            "it yet.",
            id="a record of an older version",
        ),
    ],
)
def test_a_check_that_is_due_is_not_computed(newest, words):
    verdict = verdict_on("main", newest=newest, batches=60)
    assert words in verdict.words
    assert (verdict.finding, verdict.looks, verdict.next_look) == (None, [], FIRST_CHECK)


def test_a_check_that_finds_nothing():
    content = content_of(1, standing("main"))
    verdict = verdict_on("main", content)
    (look,) = verdict.looks
    assert (look.number, look.on, look.seq, look.late) == (1, FIRST_CHECK, "1", False)
    assert (look.weeks, look.gaps, look.failed_mondays, look.batches) == (52, 0, 0, 51)
    assert str(look.share_pct) == "2.500000"
    assert (look.finding, look.untested_reason) == (Finding.UNDECIDED, None)
    (step,), (figures,) = content["order"], content["series"]
    assert str(look.bound) == step["bound"] == "0.025000000"
    assert str(look.probability) == step["p"]
    assert str(look.beyond_beta_pct) in {
        figures[side]["beyond_beta_pct"] for side in ("better", "worse")
    }
    assert (verdict.finding, verdict.found_on) == (Finding.UNDECIDED, None)
    value = f"{look.beyond_beta_pct:+.2f}"
    percent = (look.probability * 100).quantize(Decimal("0.0001"))
    assert verdict.words == (
        "At the yearly check of 2027-01-04, over 52 weeks, the record could not be distinguished "
        f"from luck: beyond the benchmark and its beta, the picks added {value} % a week, which "
        f"luck alone reaches with a probability of {percent} %. {NEXT}"
    )


@pytest.mark.parametrize(
    ("alpha", "finding", "words"),
    [
        (1.0, Finding.BETTER, "the picks did better than luck explains: "),
        (-1.0, Finding.WORSE, "the picks did worse than bad luck explains: "),
    ],
)
def test_a_check_that_finds_something(alpha, finding, words):
    verdict = verdict_on("main", content_of(1, standing("main", alpha), standing("other")))
    (look,) = verdict.looks
    assert look.finding is verdict.finding is finding
    assert verdict.found_on == FIRST_CHECK
    assert (look.beyond_beta_pct > 0) == (finding is Finding.BETTER)
    # Of two series, the first one has half of the risk as its bound.
    assert str(look.bound) == "0.012500000"
    assert words in verdict.words
    assert "with a probability of less than 0.0001 %." in verdict.words
    other = verdict_on("other", content_of(1, standing("main", alpha), standing("other")))
    assert other.finding is Finding.UNDECIDED


def test_the_side_of_a_series_with_gaps():
    """Its gaps are filled against the finding, so both sides have another value."""
    content = content_of(1, standing("main", 0.3, gaps=5))
    (look,) = verdict_on("main", content).looks
    (figures,) = content["series"]
    assert figures["better"]["beyond_beta_pct"] != figures["worse"]["beyond_beta_pct"]
    assert str(look.beyond_beta_pct) == figures["better"]["beyond_beta_pct"]
    assert look.gaps == 6


UNTESTED = {
    Untested.LATE: {},
    Untested.CONTROL: {"is_control": True},
    Untested.TOOLS: {"has_tools": True},
    Untested.RETIRED: {"was_retired": True},
    Untested.FAILED_MONDAYS: {"failed_mondays": MAX_FAILED_MONDAYS + 1},
    Untested.TOO_FEW_WEEKS: {"weeks": 29},
    Untested.NO_PROBABILITY: {},
}


def untested(reason: Untested, name: str = "one", number: int = 1) -> dict[str, object]:
    """Return a check that does not test a series for a reason."""
    one = standing(name, 1.0, **UNTESTED[reason])
    if reason is Untested.NO_PROBABILITY:
        one.batches[0] = type(one.batches[0])(
            monday=MONDAY, picks=one.batches[0].picks, benchmark=(None, 1.0), risk_free=(0.0, 0.0)
        )
    return content_of(number, one, standing("zero"), is_late=reason is Untested.LATE)


@pytest.mark.parametrize("reason", Untested)
def test_a_series_that_is_not_tested(reason):
    """It is shown with the reason, and nothing is found."""
    verdict = verdict_on("one", untested(reason))
    (look,) = verdict.looks
    assert (look.finding, look.untested_reason, look.bound) == (None, reason, None)
    assert (look.late, verdict.finding) == (reason is Untested.LATE, None)
    assert verdict.words.startswith("The yearly check of 2027-01-04 did not test the picks: ")
    assert verdict.words.endswith(NEXT)


@pytest.mark.parametrize("reason", sorted({*Untested} - {Untested.LATE}))
def test_an_earlier_finding_stands(reason):
    """A series that the next check does not test keeps its finding, with its date."""
    first = content_of(1, standing("one", 1.0))
    verdict = verdict_on("one", first, untested(reason, number=2), newest=date(2028, 3, 6))
    assert (verdict.finding, verdict.found_on) == (Finding.BETTER, FIRST_CHECK)
    assert [look.finding for look in verdict.looks] == [Finding.BETTER, None]
    assert verdict.words.startswith("At the yearly check of 2027-01-04, ")
    assert "The yearly check of 2028-01-03 did not test the picks: " in verdict.words
    assert verdict.words.endswith(
        "The earlier finding stands. The next yearly check is on 2029-01-01."
    )
    assert len(verdict.words) <= 500


def test_a_finding_that_is_not_found_again_stands():
    first, second = content_of(1, standing("main", -1.0)), content_of(2, standing("main"))
    verdict = verdict_on("main", first, second, newest=date(2028, 3, 6))
    assert (verdict.finding, verdict.found_on) == (Finding.WORSE, FIRST_CHECK)
    assert "The yearly check of 2028-01-03 found nothing more. The earlier" in verdict.words


def test_the_newest_finding_counts():
    first, second = content_of(1, standing("main")), content_of(2, standing("main", 1.0))
    verdict = verdict_on("main", first, second, newest=date(2028, 3, 6))
    assert (verdict.finding, verdict.found_on) == (Finding.BETTER, SECOND_CHECK)
    assert "earlier finding" not in verdict.words


def test_a_series_that_was_tested_once():
    """Without a finding, the newest check that tested the series decides."""
    first = content_of(1, standing("one"))
    verdict = verdict_on("one", first, untested(Untested.RETIRED, number=2))
    assert verdict.finding is Finding.UNDECIDED
    assert verdict.words.startswith("At the yearly check of 2027-01-04, ")
    assert "of 2028-01-03 did not test the picks: the series was retired." in verdict.words
    assert "stands" not in verdict.words


def test_a_late_series_has_the_dates_of_the_record():
    """It joined after the first check, which does not name it."""
    verdict = verdict_on("late", content_of(1, standing("main")), batches=3)
    assert (verdict.looks, verdict.next_look) == ([], SECOND_CHECK)
    assert verdict.words == f"Too early to tell skill from luck: 3 scored batches so far. {NEXT}"


OF_A_CONTROL = (
    "A control, whose picks are drawn at random: its results are shown, and no yearly check tests "
    "them."
)
OF_TOOLS = (
    "The model has tools, so it may know prices of Monday: its results are shown, and no yearly "
    "check tests them."
)


@pytest.mark.parametrize(
    ("reason", "contents", "looks", "words"),
    [
        pytest.param(Untested.CONTROL, [], [], OF_A_CONTROL, id="a control before the first check"),
        pytest.param(
            Untested.CONTROL,
            [content_of(1, standing("main", is_control=True))],
            [Untested.CONTROL],
            OF_A_CONTROL,
            id="a control after a check",
        ),
        pytest.param(Untested.TOOLS, [], [], OF_TOOLS, id="tools before the first check"),
        pytest.param(
            Untested.TOOLS,
            [content_of(1, standing("main", has_tools=True))],
            [Untested.TOOLS],
            OF_TOOLS,
            id="tools after a check",
        ),
        pytest.param(
            Untested.TOOLS,
            [content_of(1, standing("main", weeks=3))],
            [Untested.TOO_FEW_WEEKS],
            OF_TOOLS,
            id="tools since the check",
        ),
    ],
)
def test_a_series_that_no_check_tests(reason, contents, looks, words):
    """It has its own words, no finding, and the date of the record's next check."""
    checks = record_checks("main", *contents, newest=FIRST_CHECK + 4 * WEEK)
    checks = msgspec.structs.replace(checks, never_tested=reason)
    verdict = reach_verdict(checks, counted(52), has_batches=True)
    assert (verdict.words, verdict.finding, verdict.found_on) == (words, None, None)
    assert [look.untested_reason for look in verdict.looks] == looks
    assert verdict.next_look == (SECOND_CHECK if looks else FIRST_CHECK)


def test_an_earlier_finding_of_a_model_with_tools():
    """The finding stands, and the words name it."""
    checks = record_checks("main", content_of(1, standing("main", 1.0)), newest=FIRST_CHECK)
    checks = msgspec.structs.replace(checks, never_tested=Untested.TOOLS)
    verdict = reach_verdict(checks, counted(52), has_batches=True)
    assert verdict.finding is Finding.BETTER
    assert verdict.words.startswith("At the yearly check of 2027-01-04, ")


@pytest.mark.parametrize("reason", [Untested.CONTROL, Untested.TOOLS])
def test_a_series_that_no_check_tests_without_a_batch(reason):
    checks = RecordChecks(MONDAY, MONDAY, [], never_tested=reason)
    assert reach_verdict(checks, [], has_batches=False).words.startswith("There is nothing to")


def test_which_batches_are_counted():
    """Those with a Monday up to two weeks before the date of the check."""
    checks = record_checks("main", content_of(1, standing("main")), newest=FIRST_CHECK)
    batches = [CountedBatch(FIRST_CHECK - n * WEEK, is_scored=False) for n in (3, 2, 1, 0)]
    (look,) = reach_verdict(checks, batches, has_batches=True).looks
    assert look.batches == 2


def test_a_record_without_a_batch():
    verdict = reach_verdict(RecordChecks(), [], has_batches=False)
    assert verdict.words == "There is nothing to judge: the series has no Monday yet."
    assert (verdict.next_look, verdict.next_look_held_at) == (None, None)


def test_a_series_without_a_batch():
    """The record's next check is known all the same."""
    checks = RecordChecks(MONDAY, MONDAY, [])
    verdict = reach_verdict(checks, [], has_batches=False)
    assert (verdict.finding, verdict.next_look) == (None, FIRST_CHECK)


def test_a_part_gets_no_verdict():
    """A client that chooses the part could choose the finding."""
    verdict = verdict_of_a_part()
    assert verdict.words.startswith("Only the whole series gets a verdict")
    assert (verdict.finding, verdict.looks, verdict.next_look) == (None, (), None)


def damaged(**members: object) -> dict[str, object]:
    return {**content_of(1, standing("main", 1.0)), **members}


def of_series(**members: object) -> dict[str, object]:
    content = content_of(1, standing("main", 1.0))
    content["series"][0].update(members)
    return content


DAMAGES = [
    pytest.param(None, id="no JSON"),
    pytest.param("held", id="a text"),
    pytest.param({}, id="nothing in it"),
    pytest.param(damaged(number="one"), id="a number in words"),
    pytest.param(damaged(number="0"), id="check zero"),
    pytest.param(damaged(on="2027-13-01"), id="no date"),
    pytest.param(damaged(late="perhaps"), id="no boolean"),
    pytest.param(damaged(risk="NaN"), id="no risk"),
    pytest.param(damaged(risk="1.5"), id="more than all risk"),
    pytest.param(damaged(series=None), id="no series"),
    pytest.param(damaged(order=[]), id="no order"),
    pytest.param(damaged(findings=[]), id="a finding that was taken out"),
    pytest.param(damaged(findings=[{"series": "main", "side": "GOOD"}]), id="another side"),
    pytest.param(damaged(findings=2 * [{"series": "main", "side": "BETTER"}]), id="twice"),
    pytest.param(of_series(tested="false"), id="not tested, without a reason"),
    pytest.param(of_series(reason="MOOD", tested="false"), id="another reason"),
    pytest.param(of_series(weeks="-1"), id="weeks below zero"),
    pytest.param(of_series(p="Infinity"), id="an endless probability"),
    pytest.param(of_series(p=None), id="found without a probability"),
    pytest.param(of_series(better={"beyond_beta_pct": "NaN", "p": "0.1"}), id="no figure"),
    pytest.param(of_series(better={}, worse={}), id="found without a figure"),
    pytest.param(of_series(better={}), id="found without the figure of its side"),
]


@pytest.mark.parametrize("content", DAMAGES)
def test_a_damaged_entry_is_named(content):
    """No value is invented, and the error names the entry."""
    checks = RecordChecks(MONDAY, SECOND_CHECK, [as_read(content, "main", seq=812)])
    with pytest.raises(RecordDamaged, match="entry 812 of the journal"):
        reach_verdict(checks, counted(3), has_batches=True)
