"""
JSON from outside, decoded so that one odd value does not cost the whole answer, and nothing odd passes unseen.

Python's decoder, and msgspec's, take the last of several members with one name and say nothing. A provider that wrote
two closes for one session would decide by their order which of them is published. RFC 8259 (section 4) leaves open what
such an object means, so nothing here guesses: the member's value becomes AMBIGUOUS, which no reader takes for a value,
and every other member stays as it was sent.
"""

import json
from collections.abc import Iterable
from enum import Enum
from typing import Any, Final

# Python itself refuses to convert more digits than about 4,300, and with them the whole answer.
_MOST_DIGITS = 1000


class Odd(Enum):
    """A value that was sent, but says nothing that can be relied on."""

    AMBIGUOUS = "two values for one name"
    TOO_LONG = "a number of more than 1,000 digits"


AMBIGUOUS: Final = Odd.AMBIGUOUS


def decode(body: bytes | str) -> Any:
    """
    Return the value that `body` holds; a member that stands there twice, with different values, is AMBIGUOUS.

    Two members of one name with the same value are one member. Bytes that are no UTF-8 become replacement characters:
    where they stand in a text that is needed, its reader refuses it. Raises ValueError for what is not JSON, and
    RecursionError for what is nested too deeply.
    """
    text = body.decode(json.detect_encoding(body), errors="replace") if isinstance(body, bytes) else body
    return json.loads(text, object_pairs_hook=_members, parse_int=_whole_number)


def has_repeated_names(text: str) -> bool:
    """Return whether an object in `text` has two members of one name, the same value or not. Raises as `decode`."""
    repeated = False

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal repeated
        found = dict(pairs)
        repeated = repeated or len(found) < len(pairs)
        return found

    json.loads(text, object_pairs_hook=members, parse_int=_whole_number)
    return repeated


def _members(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        same = name not in found or _is_same(found[name], value)
        found[name] = value if same else AMBIGUOUS
    return found


def _is_same(before: Any, after: Any) -> bool:
    # 1, 1.0 and true are equal in Python, and three different values in JSON.
    return type(before) is type(after) and before == after


def _whole_number(digits: str) -> int | Odd:
    return int(digits) if len(digits) <= _MOST_DIGITS else Odd.TOO_LONG
