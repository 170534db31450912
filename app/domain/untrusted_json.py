"""
A JSON decoder for input from outside: one bad value does not make the whole document unusable.

If several members of an object have the same name, the decoders of Python and msgspec silently take
the last of these members. So if a provider wrote two closes for one session, their order would
decide which of the two is published. RFC 8259 (section 4) leaves the meaning of such an object
open, so this module does not guess. If the values of such members differ, the result has one member
with the value AMBIGUOUS, which no caller accepts. The other members of the object stay as they were
sent.
"""

import json
from collections.abc import Iterable
from enum import Enum
from typing import Any, Final

# Python refuses to convert a number of more than about 4,300 digits. One such number would make the
# whole document unusable. Our limit is lower; no real figure comes near to it.
_MAX_DIGITS = 1000


class UnusableValue(Enum):
    """
    What replaces a value that was sent but cannot be used.

    The text of each of these constants describes in messages what was sent.
    """

    AMBIGUOUS = "two values for one name"
    TOO_LONG = "a number of more than 1,000 digits"


AMBIGUOUS: Final = UnusableValue.AMBIGUOUS


def decode(body: bytes | str) -> Any:
    """
    Return the value of the JSON document `body`.

    A member that stands in an object twice, with different values, becomes AMBIGUOUS; with equal
    values it is one member. Bytes that cannot be decoded (as UTF-8, -16 or -32) become replacement
    characters; a caller that needs the text refuses a text with such characters.

    Raises ValueError if `body` is not JSON, and RecursionError if it is nested too deeply.
    """
    if isinstance(body, bytes):
        body = body.decode(json.detect_encoding(body), errors="replace")
    return json.loads(body, object_pairs_hook=_merge_members, parse_int=_parse_integer)


def has_repeated_names(text: str) -> bool:
    """
    Return whether an object in `text` has two members of one name, with equal values or not.

    Raises the same errors as `decode`.
    """
    repeated = False

    def check_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal repeated
        members = dict(pairs)
        repeated = repeated or len(members) < len(pairs)
        return members

    json.loads(text, object_pairs_hook=check_members, parse_int=_parse_integer)
    return repeated


def _merge_members(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for name, value in pairs:
        if name in members and _differs(members[name], value):
            value = AMBIGUOUS
        members[name] = value
    return members


def _differs(before: Any, after: Any) -> bool:
    try:
        return not _is_equal(before, after)
    except RecursionError:
        # The values are nested too deeply to be compared. Only this member becomes unusable.
        return True


def _is_equal(before: Any, after: Any) -> bool:
    # 1, 1.0 and true are equal in Python, but they are three different values in JSON. Python also
    # ignores this difference inside lists and objects, so their values are compared one by one.
    if type(before) is not type(after):
        return False
    if isinstance(before, dict):
        return before.keys() == after.keys() and all(
            _is_equal(value, after[name]) for name, value in before.items()
        )
    if isinstance(before, list):
        return len(before) == len(after) and all(map(_is_equal, before, after))
    return bool(before == after)


def _parse_integer(digits: str) -> int | UnusableValue:
    if len(digits) > _MAX_DIGITS:
        return UnusableValue.TOO_LONG
    return int(digits)
