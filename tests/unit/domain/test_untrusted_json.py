"""
JSON from outside: the order of two members with one name decides nothing
(app/domain/untrusted_json.py).
"""

import pytest

from app.domain.untrusted_json import AMBIGUOUS, UnusableValue, decode, has_repeated_names


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param('{"a": "1", "b": "2"}', {"a": "1", "b": "2"}, id="nothing odd"),
        pytest.param('{"a": "1", "a": "2"}', {"a": AMBIGUOUS}, id="two values"),
        pytest.param('{"a": "1", "a": "1"}', {"a": "1"}, id="the same value twice"),
        pytest.param(
            '{"a": "1", "a": "2", "a": "1"}', {"a": AMBIGUOUS}, id="three, first and last the same"
        ),
        pytest.param(
            '{"a": 1, "a": true}', {"a": AMBIGUOUS}, id="values that are equal in Python only"
        ),
        pytest.param('{"a": 1, "a": 1.0}', {"a": AMBIGUOUS}, id="an integer and a float"),
        pytest.param('{"a": [1], "a": [true]}', {"a": AMBIGUOUS}, id="equal in a list only"),
        pytest.param(
            '{"a": {"b": [0]}, "a": {"b": [false]}}', {"a": AMBIGUOUS}, id="equal further inside"
        ),
        pytest.param('{"a": [1], "a": [1, 2]}', {"a": AMBIGUOUS}, id="a longer list"),
        pytest.param('{"a": {"b": 1}, "a": {"c": 1}}', {"a": AMBIGUOUS}, id="other names inside"),
        pytest.param(
            '{"a": {"b": [1, null], "c": 2}, "a": {"c": 2, "b": [1, null]}}',
            {"a": {"b": [1, None], "c": 2}},
            id="the same members in another order",
        ),
        pytest.param(
            '{"a": {"b": 1, "b": 2}, "c": 3}', {"a": {"b": AMBIGUOUS}, "c": 3}, id="further inside"
        ),
        pytest.param('[{"b": [], "b": {}}]', [{"b": AMBIGUOUS}], id="in a list"),
        pytest.param(
            '{"a": 1, "\\u0061": 2}', {"a": AMBIGUOUS}, id="the name spelt with an escape"
        ),
        pytest.param(
            b'{"a": "\xff", "b": 1}', {"a": "\N{REPLACEMENT CHARACTER}", "b": 1}, id="no UTF-8"
        ),
        pytest.param(b'\xef\xbb\xbf{"a": 1}', {"a": 1}, id="a byte order mark"),
        pytest.param(
            '{"a": 1' + "0" * 5000 + ', "b": 1}',
            {"a": UnusableValue.TOO_LONG, "b": 1},
            id="a number without end",
        ),
    ],
)
def test_a_member_with_two_values_is_ambiguous_and_no_other_is_lost(
    body: bytes | str, expected: object
) -> None:
    assert decode(body) == expected


@pytest.mark.parametrize("body", [b"", b"<html>", b"{", '{"a": 1,}', b"\xff\xfe\xff"])
def test_what_is_not_json_is_refused(body: bytes | str) -> None:
    with pytest.raises(ValueError, match=r"(?s)."):
        decode(body)


def test_two_values_that_are_too_deep_to_be_compared_are_ambiguous() -> None:
    deep = "[" * 900 + "]" * 900
    assert decode(f'{{"a": {deep}, "a": {deep}, "b": 1}}') == {"a": AMBIGUOUS, "b": 1}


def test_what_is_nested_too_deeply_is_refused() -> None:
    with pytest.raises(RecursionError):
        decode("[" * 100_000)


@pytest.mark.parametrize(
    ("text", "repeated"),
    [
        ('{"a": {"b": 1}, "b": 1}', False),
        ('{"a": 1, "a": 1}', True),
        ('{"a": [{"b": 1, "b": 2}]}', True),
        ("[1, 1]", False),
    ],
)
def test_repeated_names_are_found_at_any_depth(text: str, *, repeated: bool) -> None:
    assert has_repeated_names(text) is repeated
