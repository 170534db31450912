"""What each answer about the rate of a loan without risk means."""

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest

from app.errors import (
    AlphaMondayError,
    ConfigurationError,
    ProviderBusy,
    ProviderUnavailable,
    QuotaSpent,
)
from app.providers.alpha_vantage_answers import ListedRate, read_rates
from app.simulation.faults import BURST, PREMIUM, QUOTA

KEY = "K7QZ4XW9J2VB8RTM"
NOW = datetime(2026, 10, 26, 13, tzinfo=UTC)
FRIDAY, BEFORE = date(2026, 10, 23), date(2026, 10, 16)
DESCRIBED = {
    "name": "3-Month Treasury Constant Maturity Rate",
    "interval": "weekly",
    "unit": "percent",
}


def rates(*rows: object, **members: object) -> Any:
    body = json.dumps({**DESCRIBED, "data": rows, **members}).encode()
    return read_rates(body, ticker="3month", key=KEY, now=NOW)


def row(day: object, value: object) -> dict[str, object]:
    return {"date": str(day), "value": value}


def test_the_observations_are_oldest_first():
    listed, unreadable = rates(row(FRIDAY, "3.87"), row(BEFORE, "-0.05"))
    assert listed == [ListedRate(BEFORE, Decimal("-0.05")), ListedRate(FRIDAY, Decimal("3.87"))]
    assert not unreadable


def test_a_date_without_an_observation_is_left_out():
    listed, unreadable = rates(row(FRIDAY, "."), row(BEFORE, "3.80"))
    assert listed == [ListedRate(BEFORE, Decimal("3.80"))]
    assert not unreadable


@pytest.mark.parametrize(
    "value", ["", "3,87", "1e2", "NaN", "Infinity", "٣", "100", "-100", 3.87, None, ["3.87"]]
)
def test_an_unreadable_value_costs_only_its_own_day(value):
    listed, unreadable = rates(row(FRIDAY, value), row(BEFORE, "3.80"))
    assert listed == [ListedRate(BEFORE, Decimal("3.80"))]
    assert [one.day for one in unreadable] == [FRIDAY]


def test_a_day_in_the_future_cannot_be_read():
    listed, unreadable = rates(row("2026-10-30", "3.90"), row(FRIDAY, "3.87"))
    assert [one.observed_on for one in listed] == [FRIDAY]
    assert [one.day for one in unreadable] == [date(2026, 10, 30)]


def test_a_day_with_two_values_has_none():
    listed, _ = rates(
        row(FRIDAY, "3.87"), row(FRIDAY, "3.9"), row(BEFORE, "3.8"), row(BEFORE, "3.80")
    )
    assert listed == [ListedRate(BEFORE, Decimal("3.8"))]


@pytest.mark.parametrize(
    "members",
    [
        pytest.param({"name": "10-Year Treasury Constant Maturity Rate"}, id="another maturity"),
        pytest.param({"name": 3}, id="a name that is no text"),
        pytest.param({"interval": "monthly"}, id="another interval"),
        pytest.param({"unit": "basis points"}, id="another unit"),
        pytest.param({"data": {}}, id="no list"),
        pytest.param({"data": []}, id="an empty list"),
        pytest.param({"data": ["3.87"]}, id="a row that is no object"),
        pytest.param({"data": [{"date": "2026-10-23", "value": "."}]}, id="no observation"),
    ],
)
def test_an_odd_body_is_refused(members):
    with pytest.raises(ProviderUnavailable):
        rates(row(FRIDAY, "3.87"), **members)


def test_a_body_without_a_description_is_read():
    body = json.dumps({"data": [row(FRIDAY, "3.87")]}).encode()
    listed, _ = read_rates(body, ticker="3month", key=KEY, now=NOW)
    assert listed == [ListedRate(FRIDAY, Decimal("3.87"))]


@pytest.mark.parametrize(
    ("notice", "error"),
    [
        pytest.param(PREMIUM, ConfigurationError, id="premium"),
        pytest.param(BURST, ProviderBusy, id="too many requests"),
        pytest.param(QUOTA.format(key=KEY), QuotaSpent, id="quota"),
    ],
)
def test_a_notice_is_its_error(notice, error):
    with pytest.raises(AlphaMondayError) as raised:
        read_rates(json.dumps({"Information": notice}).encode(), ticker="3month", key=KEY, now=NOW)
    assert type(raised.value) is error
    assert KEY not in str(raised.value)
