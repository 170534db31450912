"""The journal's entries: appended one at a time, each after the last."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from app.core.locks import Lock
from app.domain import journal
from app.domain.model import JournalEntry, JournalKind
from app.store.rows import Conn, insert, select


async def append(
    conn: Conn, kind: JournalKind, at: datetime, recorded: Mapping[str, object], batch_id: UUID | None
) -> JournalEntry:
    """
    Write the entry that records `recorded`, in the transaction that stores it.

    Takes the journal's lock until that transaction ends, so it comes last in it.
    """
    await conn.execute("SELECT pg_advisory_xact_lock(%s)", (Lock.JOURNAL,))
    # A statement of its own: only then does it see what was committed while the lock was waited for.
    entry = journal.entry(await head(conn), kind, at, recorded, batch_id)
    await insert(conn, "journal", entry)
    return entry


async def told(conn: Conn, batch_id: UUID, kind: JournalKind) -> list[dict[str, Any]]:
    """Return the contents of a batch's entries of one kind, oldest first."""
    entries = await select(
        conn, JournalEntry, "journal", "WHERE batch_id = %s AND kind = %s ORDER BY seq", batch_id, kind
    )
    return [msgspec.json.decode(entry.content) for entry in entries]


async def head(conn: Conn) -> JournalEntry | None:
    """Return the last entry."""
    entries = await select(conn, JournalEntry, "journal", "ORDER BY seq DESC LIMIT 1")
    return entries[0] if entries else None
