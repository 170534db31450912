"""
A damaged record: what stands in an answer where the record breaks what the schema promises.

The JSON of a careful plan has a marker there. As GraphQL says, the nearest field above it that may be null becomes
null, and an error names the field; the rest of the answer stays.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from graphql import get_nullable_type, is_list_type, is_non_null_type

import app.errors
from api.compiler import BROKEN, DAMAGED, Member

CODE = "RECORD_DAMAGED"
BEGINNING = app.errors.DAMAGED
# Read by everyone who reads the record, so it says what its operator can do.
ADVICE = "Its operator finds the first misfit with `alpha-monday verify`."

# What an answer has where the record is damaged, or where a number is none: only such an answer is looked at again.
SUSPICIOUS = (BROKEN.encode(), b'"NaN"', b'nfinity"')

Path = tuple[str | int, ...]


class DamagedError(Exception):
    """
    A field breaks its promise at a path of the answer.

    `breaks` says in which way; `what` says all of it in place of the field and its row.
    """

    def __init__(self, path: Path, field: str, row: str = "", breaks: str = "", *, what: str = "") -> None:
        where = f" in {row}" if row else ""
        said = what or f"{field}{where} {breaks or 'is not what the schema promises'}"
        super().__init__(f"{BEGINNING}{said}. {ADVICE}")
        self.path = path


def shown(text: bytes, member: Member, errors: list[DamagedError]) -> Any:
    """Return the value of a root field's JSON, with null for what is damaged; raise what leaves no value at all."""
    return _value(json.loads(text), member.type, member, (member.key,), errors)


def _value(value: Any, type_: Any, member: Member, path: Path, errors: list[DamagedError]) -> Any:
    try:
        return _whole(value, get_nullable_type(type_), member, path, errors)
    except DamagedError as error:
        if is_non_null_type(type_):
            raise
        errors.append(error)
        return None


def _whole(value: Any, type_: Any, member: Member, path: Path, errors: list[DamagedError]) -> Any:
    if isinstance(value, dict) and DAMAGED in value:
        raise DamagedError(path, member.field, value[DAMAGED], value.get("breaks", ""))
    if value is None or member.type is None:
        return value
    found: list[DamagedError] = []
    if is_list_type(type_):
        result: Any = [_value(one, type_.of_type, member, (*path, nth), found) for nth, one in enumerate(value)]
    elif member.below is None:
        result = value
    else:
        result = dict(_members(value, member.below, path, found))
    errors += found
    return result


def _members(value: Any, below: Sequence[Member], path: Path, errors: list[DamagedError]) -> Iterator[tuple[str, Any]]:
    for one in below:
        yield one.key, _value(value[one.key], one.type, one, (*path, one.key), errors)
