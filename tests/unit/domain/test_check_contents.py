"""What the entries of a yearly check contain, with numbers worked by hand."""

import hashlib
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

import app.domain
from app.domain import check_contents, yearly_check
from app.domain.check_contents import CheckInputs, SeriesStanding, check_content
from app.domain.model import JournalHead, Rate
from app.domain.yearly_check import BatchResult, PickResult

MONDAY = date(2026, 10, 26)
HEAD = JournalHead(812, "f" * 64, datetime(2027, 11, 15, 14, tzinfo=UTC))


def batches(alpha: float, count: int = 40, noise: float = 0.3) -> list[BatchResult]:
    """Return batches with a weekly alpha and some noise; every week has a change of SPY."""
    results: list[BatchResult] = []
    for week in range(count):
        first = alpha + noise * (week % 3 - 1)
        second = first + alpha + noise * (week % 4 - 1.5)
        results.append(
            BatchResult(
                monday=MONDAY + timedelta(weeks=week),
                picks=[PickResult(first, second)] * 3,
                benchmark=(week % 5 - 2.0, week % 7 - 3.0),
                risk_free=(0.07, 0.07),
            )
        )
    return results


def content(*standings: SeriesStanding, number: int = 1, is_late: bool = False) -> dict:
    return check_content(
        CheckInputs(
            number=number,
            on=yearly_check.check_date(MONDAY, number),
            is_late=is_late,
            head=HEAD,
            standings=standings,
            rates=[],
        )
    )


def series_of(check: dict) -> dict[str, dict]:
    return {one["name"]: one for one in check["series"]}


def test_the_hash_of_the_rules():
    """The file of a version never changes."""
    path = Path(app.domain.__file__).parent / "rules"
    text = (path / f"yearly_check_{check_contents.RULES_VERSION}.txt").read_bytes()
    assert hashlib.sha256(text).hexdigest() == check_contents.RULES_SHA256


def test_a_check_of_several_series():
    """
    The dates: 52 weeks after 26 October 2026 is 25 October 2027.

    Two series are tested at 2.5 %. Six of the seven are no controls, so the bounds are 2.5 % / 6
    and 2.5 % / 5.
    """
    check = content(
        SeriesStanding(name="good", batches=batches(0.5)),
        SeriesStanding(name="bad", batches=batches(-0.5)),
        SeriesStanding(name="dice", batches=batches(0.5), is_control=True),
        SeriesStanding(name="web", batches=batches(0.5), has_tools=True),
        SeriesStanding(name="gone", batches=batches(0.5), was_retired=True),
        SeriesStanding(name="idle", batches=batches(0.5), failed_mondays=5),
        SeriesStanding(name="new", batches=batches(0.5, count=20)),
    )
    assert (check["number"], check["on"], check["risk"]) == (1, date(2027, 10, 25), "0.025000000")
    assert {name: one["reason"] for name, one in series_of(check).items()} == {
        "bad": None,
        "dice": "CONTROL",
        "gone": "RETIRED",
        "good": None,
        "idle": "FAILED_MONDAYS",
        "new": "TOO_FEW_WEEKS",
        "web": "TOOLS",
    }
    assert [(one["bound"], one["found"]) for one in check["order"]] == [
        ("0.004166667", True),
        ("0.005000000", True),
    ]
    assert {one["series"]: one["side"] for one in check["findings"]} == {
        "good": "BETTER",
        "bad": "WORSE",
    }
    # Those that are not tested are evaluated all the same.
    assert series_of(check)["dice"]["p"] == series_of(check)["good"]["p"]


def test_four_failed_mondays_are_allowed():
    check = content(SeriesStanding(name="main", batches=batches(0.5), failed_mondays=4))
    assert check["findings"] == [{"series": "main", "side": "BETTER"}]


def test_a_late_check_tests_main_only():
    standings = [SeriesStanding(name=name, batches=batches(0.5)) for name in ("main", "other")]
    check = content(*standings, is_late=True)
    ((main, bound),) = [(one["series"], one["bound"]) for one in check["order"]]
    assert (main, bound) == ("main", "0.012500000")
    assert series_of(check)["other"]["reason"] == "LATE"


@pytest.mark.parametrize("missing", ["benchmark", "risk_free"])
def test_nothing_is_found_without_the_benchmark_or_a_rate(missing):
    several = batches(0.5)
    values = {"benchmark": several[3].benchmark, "risk_free": several[3].risk_free}
    values[missing] = (None, 0.0)
    several[3] = BatchResult(monday=several[3].monday, picks=several[3].picks, **values)
    (series,) = content(SeriesStanding(name="main", batches=several))["series"]
    assert series["reason"] == "NO_PROBABILITY"
    assert series["better"] == {
        "mean_pct": None,
        "beta": None,
        "beyond_beta_pct": None,
        "p": None,
    }


def test_numbers_have_a_fixed_number_of_digits():
    """Zero has no sign."""
    still = [
        BatchResult(
            monday=MONDAY + timedelta(weeks=2 * week),
            picks=[PickResult(-0.0, -1e-9)] * 3,
            benchmark=(1.0 + week, 2.0),
            risk_free=(0.0, 0.0),
        )
        for week in range(2)
    ]
    (series,) = content(SeriesStanding(name="main", batches=still))["series"]
    assert series["better"]["mean_pct"] == "0.000000"
    assert series["weeks"] == 4


def rate(day: date, value: str) -> Rate:
    return Rate(
        observed_on=day,
        value_pct=Decimal(value),
        source="test",
        read_at=datetime(2026, 12, 1, tzinfo=UTC),
    )


def test_the_rate_without_risk_by_hand():
    """
    The week from Friday 23 to Friday 30 October 2026 has seven days: 3.65 * 7 / 365 = 0.07.

    The observation of 16 October is seven days before the first session, that of the 17th is not.
    """
    first, last = date(2026, 10, 23), date(2026, 10, 30)
    rates = {
        day: rate(day, value)
        for day, value in (
            (date(2026, 10, 9), "3.00"),
            (date(2026, 10, 16), "3.65"),
            (date(2026, 10, 17), "9.99"),
        )
    }
    chosen = yearly_check.rate_of_week(rates, first)
    assert chosen == rates[date(2026, 10, 16)]
    assert yearly_check.risk_free_pct(chosen, first, last) == Decimal("0.07")
    # Four days: 3.65 * 4 / 365 = 0.04.
    thursday = first - timedelta(days=1)
    assert yearly_check.risk_free_pct(chosen, thursday, date(2026, 10, 26)) == Decimal("0.04")
    assert yearly_check.rate_of_week(rates, thursday) == rates[date(2026, 10, 9)]
    assert yearly_check.rate_of_week(rates, date(2026, 10, 15)) is None


def test_when_a_check_is_held():
    """At 09:00 in New York, 21 days after its date: on 15 November 2027, at 14:00 UTC."""
    assert yearly_check.held_at(date(2027, 10, 25)) == datetime(2027, 11, 15, 14, tzinfo=UTC)
