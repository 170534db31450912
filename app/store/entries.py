"""The contents of journal entries, decoded. A content that cannot be read is a damaged record."""

from typing import Any, TypeVar

import msgspec

from app.domain.model import JournalEntry
from app.errors import RECORD_DAMAGED_ADVICE, RECORD_DAMAGED_PREFIX, RecordDamaged

T = TypeVar("T")


def decode_content(entry: JournalEntry) -> dict[str, Any]:
    """Return the content of an entry. Raises RecordDamaged if it is no JSON object."""
    try:
        return msgspec.json.decode(entry.content, type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise _damaged(entry, "content", error) from None


def read_member(entry: JournalEntry, name: str, type_: type[T]) -> T:
    """
    Return a member of an entry's content.

    Raises RecordDamaged if the content is no JSON object, or if the member is not of that type.
    """
    content = decode_content(entry)
    try:
        return msgspec.convert(content.get(name), type_, strict=False)
    except msgspec.MsgspecError as error:
        raise _damaged(entry, name, error) from None


def _damaged(entry: JournalEntry, name: str, error: Exception) -> RecordDamaged:
    return RecordDamaged(
        f"{RECORD_DAMAGED_PREFIX}the `{name}` of entry {entry.seq} of the journal cannot be read: "
        f"{error}. {RECORD_DAMAGED_ADVICE}"
    )
