"""What a server's answer about its models means."""

from datetime import date

import pytest

from app.providers.model_lookup import ModelLookup, find_in_list, parse_day, parse_model

DAY = date(2027, 1, 14)


@pytest.mark.parametrize(
    ("value", "day"),
    [
        ("2027-01-14", DAY),
        (" 2027-01-14 ", DAY),
        ("2027-01-14T00:00:00Z", DAY),
        ("2027-01-14 09:00", DAY),
        (1_799_884_800, DAY),
        (1_799_884_800.5, DAY),
        (None, None),
        ("", None),
        ("soon", None),
        ("2027-02-30", None),
        ("2027-01-141", None),
        ("٢٠٢٧-٠١-١٤", None),
        ("14.01.2027", None),
        ("1970-01-01", None),
        ("9999-12-31", None),
        (0, None),
        (True, None),
        (10**30, None),
        (float("nan"), None),
        (float("inf"), None),
        (["2027-01-14"], None),
    ],
)
def test_a_shutdown_date(value, day):
    """A day is read in the usual forms; anything else is no day."""
    assert parse_day(value) == day


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"id": "m"}, ModelLookup()),
        ({"id": "m", "shutdown_date": None}, ModelLookup()),
        ({"id": "m", "shutdown_date": "2027-01-14"}, ModelLookup(ends_on=DAY)),
        ({"id": "m", "shutdown_date": {"at": 1}}, ModelLookup()),
        ({"error": "no"}, None),
        ({"id": 7}, None),
        ([], None),
        ("m", None),
        (None, None),
    ],
)
def test_an_answer_about_one_model(found, expected):
    assert parse_model(found) == expected


GONE = ModelLookup(is_gone=True)


@pytest.mark.parametrize(
    ("found", "model", "expected"),
    [
        ({"data": [{"id": "a"}, {"id": "m"}]}, "m", ModelLookup()),
        ({"data": [{"id": "m", "shutdown_date": "2027-01-14"}]}, "m", ModelLookup(ends_on=DAY)),
        ({"data": [{"id": "models/M"}]}, "m", ModelLookup()),
        ({"data": [{"id": "a"}]}, "m", GONE),
        ({"data": [{"id": "a"}], "has_more": False}, "m", GONE),
        ({"data": [{"id": "a"}], "has_more": True}, "m", None),
        ({"data": [{"id": "a"}], "nextPageToken": "x"}, "m", None),
        # A gateway may take more spellings of a name than its list has.
        ({"data": [{"id": "x/m"}]}, "x/m:online", None),
        ({"data": [{"id": "m"}]}, "x/m", None),
        ({"data": [{"id": "m:8b"}]}, "m:32b", None),
        ({"data": []}, "m", None),
        ({"data": [{"id": "a"}, "m"]}, "m", None),
        ({"data": {"id": "a"}}, "m", None),
        ({"models": [{"name": "a"}]}, "m", None),
        ([{"id": "a"}], "m", None),
        (None, "m", None),
    ],
)
def test_a_list_of_models(found, model, expected):
    """A model is gone only if a complete list has nothing like it."""
    assert find_in_list(found, model) == expected
