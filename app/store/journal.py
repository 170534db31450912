"""The journal: append an entry after the last one, and read entries."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from app.core.locks import Lock
from app.domain import journal
from app.domain.model import JournalEntry, JournalHead, JournalKind
from app.store.rows import Conn, insert_row, select_row, select_rows


async def append(
    conn: Conn,
    kind: JournalKind,
    *,
    at: datetime,
    recorded: Mapping[str, object],
    batch_id: UUID | None,
) -> JournalEntry:
    """
    Append an entry with the rows in `recorded`, in the transaction that stores these rows.

    Call this last in the transaction: it takes the journal's lock, for which every other writer
    waits until the transaction ends.
    """
    await conn.execute("SELECT pg_advisory_xact_lock(%s)", (Lock.JOURNAL,))
    # The head is read by a separate statement, because a statement sees only what was committed
    # before it started. This statement starts after the wait for the lock, so it sees the entries
    # that were committed during the wait.
    last = await head(conn)
    entry = journal.next_entry(last, kind=kind, at=at, recorded=recorded, batch=batch_id)
    await insert_row(conn, "journal", entry)
    return entry


async def list_contents(conn: Conn, batch_id: UUID, kind: JournalKind) -> list[dict[str, Any]]:
    """Return the decoded contents of a batch's entries of one kind, oldest first."""
    entries = await select_rows(
        conn,
        JournalEntry,
        table="journal",
        where="WHERE batch_id = %s AND kind = %s ORDER BY seq",
        values=(batch_id, kind),
    )
    return [msgspec.json.decode(entry.content) for entry in entries]


async def head(conn: Conn) -> JournalHead | None:
    """
    Return the head of the newest entry, or None if the journal is empty.

    The other columns are not read: the newest entry may be of a kind that only a later version
    knows, and this version can still append an entry after it.
    """
    return await select_row(conn, JournalHead, table="journal", where="ORDER BY seq DESC LIMIT 1")
