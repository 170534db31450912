"""What pages write about a yearly check, and about the whole record."""

import pytest

from app.web.pages.batch_text import finding_text, is_check_waiting, record_headline

INTERVAL = {"low": "0.1", "high": "0.3"}


def a_check(**changes: object) -> dict[str, object]:
    """Return a check as the API returns it: of 51 batches, with every figure and no finding."""
    usual = {"batches": 51, "weeks": 52, "beyondBetaPct": "0.2", "interval": INTERVAL}
    return {**usual, "finding": None, **changes}


@pytest.mark.parametrize(
    ("check", "text"),
    [
        pytest.param(a_check(finding="BETTER"), "Better than luck explains.", id="better"),
        pytest.param(a_check(finding="WORSE"), "Worse than bad luck explains.", id="worse"),
        pytest.param(
            a_check(finding="UNDECIDED"), "Cannot be distinguished from luck.", id="undecided"
        ),
        pytest.param(
            a_check(batches=29), "none: fewer than 30 scored batches", id="too few batches"
        ),
        pytest.param(
            a_check(batches=0, weeks=0, beyondBetaPct=None, interval=None),
            "none: fewer than 30 scored batches",
            id="no data",
        ),
        pytest.param(
            a_check(batches=30, weeks=2, beyondBetaPct=None, interval=None),
            "none: fewer than 3 weeks with figures",
            id="enough batches, and too few weeks",
        ),
        pytest.param(
            a_check(batches=30, weeks=3, beyondBetaPct=None, interval=None),
            "none: the benchmark moved equally in all weeks",
            id="no line",
        ),
        pytest.param(
            a_check(batches=30, interval=None),
            "none: without the effect of the benchmark’s moves, the weeks are all alike",
            id="no interval",
        ),
    ],
)
def test_a_check_has_a_finding_or_a_reason(check, text):
    """The reason is that of the rule that prevents a finding, as docs/record.md defines them."""
    assert finding_text(check) == text


def a_record(*checks: dict[str, object], total: int = 53) -> dict[str, object]:
    """Return a record as the API returns it; its finding is that of the last check."""
    finding = checks[-1]["finding"] if checks else None
    return {"batches": {"total": total}, "verdict": {"finding": finding, "looks": checks}}


@pytest.mark.parametrize(
    ("record", "text"),
    [
        pytest.param(a_record(total=0), "The record is empty.", id="no data"),
        pytest.param(a_record(), "Too early to tell.", id="before the first check"),
        pytest.param(a_record(a_check(batches=29)), "Too early to tell.", id="too few batches"),
        pytest.param(
            a_record(a_check(interval=None)),
            "The last yearly check has no finding.",
            id="a check without a finding",
        ),
        pytest.param(
            a_record(a_check(finding="BETTER"), a_check(interval=None)),
            "The last yearly check has no finding.",
            id="a finding before the last check",
        ),
        pytest.param(
            a_record(a_check(interval=None), a_check(finding="WORSE")),
            "Worse than bad luck explains.",
            id="a finding of the last check",
        ),
    ],
)
def test_the_headline_of_a_record(record, text):
    """It has the finding of the last check, or the reason why there is none."""
    assert record_headline(record) == text


@pytest.mark.parametrize(
    ("next_check", "newest", "is_waiting"),
    [
        pytest.param("2027-01-04", "2026-12-28", False, id="not yet due"),
        pytest.param("2027-01-04", "2027-01-04", True, id="due"),
        pytest.param("2027-01-04", "2027-02-01", True, id="due for a month"),
        pytest.param(None, None, False, id="no batch"),
    ],
)
def test_a_check_that_waits(next_check, newest, is_waiting):
    """A check whose date has come is not announced as the next one."""
    record = {"verdict": {"nextLook": next_check}, "lastRunDate": newest}
    assert is_check_waiting(record) is is_waiting
