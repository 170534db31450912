"""
Damaged records: what a response contains where the record breaks what the schema promises.

If the result of an ordinary plan shows damage (`SUSPICIOUS`), or if Postgres raises an error about
a row, the operation runs again with a diagnosing plan. The JSON of that plan has a marker in each
damaged place. The place becomes null if it may be null; otherwise the nearest place above it that
may be null becomes null, as GraphQL prescribes. An error names the damaged place. The rest of the
data stays.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from graphql import get_nullable_type, is_list_type, is_non_null_type

import app.errors
from api.compiler import DAMAGE_CHARACTER, MARKER_KEY, Member

DAMAGED_CODE = "RECORD_DAMAGED"
DAMAGE_PREFIX = app.errors.RECORD_DAMAGED_PREFIX
# Every reader of the record may see this, so it says what the operator can do.
DAMAGE_ADVICE = "Its operator finds the first discrepancy with `alpha-monday verify`."

# The texts that show damage in the result of an ordinary plan: the character for damage, and
# numbers that are not finite: NaN, or the end of Infinity and -Infinity. If a result has one of
# them, the operation is planned and run again with markers.
SUSPICIOUS = (DAMAGE_CHARACTER.encode(), b'"NaN"', b'nfinity"')

Path = tuple[str | int, ...]


class DamagedError(Exception):
    """
    The record is damaged at a path of the response: a field breaks what the schema promises.

    The message is made from `field`, `row` and `problem`, or is `text` if that is given.
    """

    def __init__(
        self, path: Path, field: str, row: str = "", problem: str = "", *, text: str = ""
    ) -> None:
        if not text:
            place = f"{field} in {row}" if row else field
            text = f"{place} {problem or 'is not what the schema promises'}"
        super().__init__(f"{DAMAGE_PREFIX}{text}. {DAMAGE_ADVICE}")
        self.path = path


def replace_markers(text: bytes, member: Member, errors: list[DamagedError]) -> Any:
    """
    Return the value of a root field's JSON, with null in place of each damaged value.

    Each damage is appended to `errors`. Raises DamagedError if the root field itself must not be
    null.
    """
    return replace_marked_values(json.loads(text), member, errors)


def replace_marked_values(value: Any, member: Member, errors: list[DamagedError]) -> Any:
    """Do the same for a root field's value that was parsed already."""
    return _nullable_value(value, member.type, member, path=(member.key,), errors=errors)


def _nullable_value(
    value: Any, type_: Any, member: Member, *, path: Path, errors: list[DamagedError]
) -> Any:
    """Return a value, or null if it is damaged and its type allows null."""
    try:
        return _whole_value(value, get_nullable_type(type_), member, path=path, errors=errors)
    except DamagedError as error:
        if is_non_null_type(type_):
            raise
        errors.append(error)
        return None


def _whole_value(
    value: Any, type_: Any, member: Member, *, path: Path, errors: list[DamagedError]
) -> Any:
    """Return a value with its parts; raises DamagedError if it is damaged as a whole."""
    if isinstance(value, dict) and MARKER_KEY in value:
        raise DamagedError(
            path,
            member.field,
            row=value[MARKER_KEY],
            problem=value.get("problem", ""),
            text=value.get("text", ""),
        )
    if value is None or member.type is None or member.computed:
        # Nothing is inside, or it is a computed value, or the rows from which it will be computed.
        return value
    # Errors inside a value count only if the value itself stays. If it becomes null, there is only
    # the error of the value.
    inner_errors: list[DamagedError] = []
    if is_list_type(type_):
        result: Any = [
            _nullable_value(
                item, type_.of_type, member, path=(*path, position), errors=inner_errors
            )
            for position, item in enumerate(value)
        ]
    elif member.children is None:
        result = value
    else:
        result = dict(_members(value, member.children, path=path, errors=inner_errors))
    errors += inner_errors
    return result


def _members(
    value: Any, children: Sequence[Member], *, path: Path, errors: list[DamagedError]
) -> Iterator[tuple[str, Any]]:
    for member in children:
        shown = _nullable_value(
            value[member.key], member.type, member, path=(*path, member.key), errors=errors
        )
        yield member.key, shown
