"""What pages write about the yearly checks, and about the whole record."""

import pytest

from app.domain.check_contents import Untested
from app.web.pages.batch_text import UNTESTED_REASONS, finding_text, record_headline


def a_check(finding: str | None = None, reason: str | None = None) -> dict[str, object]:
    """Return a check as the API returns it."""
    return {"on": "2027-01-04", "finding": finding, "untestedReason": reason}


@pytest.mark.parametrize(
    ("check", "text"),
    [
        pytest.param(a_check("BETTER"), "Better than luck explains.", id="better"),
        pytest.param(a_check("WORSE"), "Worse than bad luck explains.", id="worse"),
        pytest.param(a_check("UNDECIDED"), "Cannot be distinguished from luck.", id="undecided"),
        pytest.param(a_check(reason="RETIRED"), "not tested: retired", id="retired"),
        pytest.param(
            a_check(reason="TOO_FEW_WEEKS"),
            "not tested: fewer than 30 weeks without a gap",
            id="too few weeks",
        ),
    ],
)
def test_a_check_has_a_finding_or_a_reason(check, text):
    assert finding_text(check) == text


def test_every_reason_has_words():
    assert set(UNTESTED_REASONS) == {*Untested}


def a_record(finding: str | None, *checks: dict[str, object], total: int = 53) -> dict[str, object]:
    """Return a record as the API returns it."""
    return {"batches": {"total": total}, "verdict": {"finding": finding, "looks": checks}}


@pytest.mark.parametrize(
    ("record", "text"),
    [
        pytest.param(a_record(None, total=0), "The record is empty.", id="no data"),
        pytest.param(a_record(None), "Shown, not tested.", id="before the first check"),
        pytest.param(
            a_record(None, a_check(reason="CONTROL")), "Shown, not tested.", id="after a check"
        ),
        pytest.param(
            a_record(None, a_check(reason="TOO_FEW_WEEKS")), "Shown, not tested.", id="too few"
        ),
        pytest.param(
            a_record("BETTER", a_check("BETTER")), "Better than luck explains.", id="a finding"
        ),
    ],
)
def test_the_headline_of_a_series_that_no_check_tests(record, text):
    assert record_headline(record, is_never_tested=True) == text


@pytest.mark.parametrize(
    ("record", "text"),
    [
        pytest.param(a_record(None, total=0), "The record is empty.", id="no data"),
        pytest.param(a_record(None), "Too early to tell.", id="before the first check"),
        pytest.param(
            a_record(None, a_check(reason="TOO_FEW_WEEKS")), "Too early to tell.", id="too few"
        ),
        pytest.param(
            a_record(None, a_check(reason="FAILED_MONDAYS")),
            "The last yearly check has no finding.",
            id="a check that did not test it",
        ),
        pytest.param(a_record(None, a_check(reason="CONTROL")), "Shown, not tested.", id="control"),
        pytest.param(a_record(None, a_check(reason="TOOLS")), "Shown, not tested.", id="tools"),
        pytest.param(
            a_record("BETTER", a_check("BETTER"), a_check(reason="RETIRED")),
            "Better than luck explains.",
            id="a finding before the last check",
        ),
        pytest.param(
            a_record("UNDECIDED", a_check("UNDECIDED")),
            "Cannot be distinguished from luck.",
            id="nothing found",
        ),
    ],
)
def test_the_headline_of_a_record(record, text):
    """It has the finding that stands, or the reason why there is none."""
    assert record_headline(record) == text
