"""The journal: append an entry after the last one, and read entries."""

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any
from uuid import UUID

from app.core.locks import Lock
from app.domain import journal
from app.domain.declarations import InForce, ProviderResponse
from app.domain.model import Close, Dividend, JournalEntry, JournalHead, JournalKind, Rate, Split
from app.store import declarations
from app.store.declarations import Declaration
from app.store.entries import decode_content
from app.store.rows import Conn, insert_row, select_row, select_rows


async def append(
    conn: Conn,
    kind: JournalKind,
    *,
    at: datetime,
    recorded: Mapping[str, object],
    batch_id: UUID | None,
    in_force: InForce | None = None,
    asked_for: date | None = None,
) -> JournalEntry:
    """
    Append an entry with the rows in `recorded`, in the transaction that stores these rows.

    Call this last in the transaction: it takes the journal's lock, for which every other writer
    waits until the transaction ends.

    With `in_force`, the declarations that differ from the newest ones are appended first (see
    `app.store.declarations.list_due`, also for `asked_for`). Without it, nothing is compared. This
    is right for an entry about something that began before: the completion of a question, and the
    readings of a response that was already received.
    """
    # In a sealed record, Postgres refuses entries of a version that does not know sealed records.
    await declarations.declare_version(conn)
    await conn.execute("SELECT pg_advisory_xact_lock(%s)", (Lock.JOURNAL,))
    # The head is read by a separate statement, because a statement sees only what was committed
    # before it started. This statement starts after the wait for the lock, so it sees the entries
    # that were committed during the wait.
    last = await head(conn)
    due: list[Declaration] = []
    if in_force:
        due = await declarations.list_due(conn, last, in_force, at=at, asked_for=asked_for)
    for declared_kind, members in due:
        declaration = journal.next_entry(last, kind=declared_kind, at=at, recorded=members)
        await insert_row(conn, "journal", declaration)
        last = JournalHead(declaration.seq, declaration.hash, declaration.at)

    entry = journal.next_entry(last, kind=kind, at=at, recorded=recorded, batch=batch_id)
    await insert_row(conn, "journal", entry)
    return entry


async def append_readings(
    conn: Conn,
    response: ProviderResponse,
    *,
    closes: Sequence[Close] = (),
    splits: Sequence[Split] = (),
    dividends: Sequence[Dividend] | None = None,
    rates: Sequence[Rate] | None = None,
    in_force: InForce | None,
) -> None:
    """
    Append the entry of a provider's response, with the readings that were kept of it.

    `dividends` is given for a response with dividends only, and `rates` for one with rates only,
    also if they are empty. The entry is appended even
    if no reading was kept. In a record that is not sealed, nothing is appended:
    the entries of its batches and checkpoints mention the readings that they use. Only a new
    journal gets declarations first, because the response was received before any entry.
    """
    # The caller has inserted its readings, so no seal can begin before the transaction ends
    # (`app.ops.seal` locks the tables). If nothing was kept, a seal loses nothing.
    if not await declarations.will_be_sealed(conn):
        return
    await conn.execute("SELECT pg_advisory_xact_lock(%s)", (Lock.JOURNAL,))
    if await head(conn):
        in_force = None
    elif in_force is None:
        return
    await append(
        conn,
        JournalKind.READINGS,
        at=response.read_at,
        recorded={
            "response": response,
            "closes": closes,
            "splits": splits,
            "dividends": dividends,
            "rates": rates,
        },
        batch_id=None,
        in_force=in_force,
    )


async def list_contents(conn: Conn, batch_id: UUID, kind: JournalKind) -> list[dict[str, Any]]:
    """
    Return the decoded contents of a batch's entries of one kind, oldest first.

    Raises RecordDamaged if one of them is no JSON object.
    """
    return [decode_content(entry) for entry in await list_of_batch(conn, batch_id, kind)]


async def list_of_batch(conn: Conn, batch_id: UUID, kind: JournalKind) -> list[JournalEntry]:
    """Return a batch's entries of one kind, oldest first."""
    return await select_rows(
        conn,
        JournalEntry,
        table="journal",
        where="WHERE batch_id = %s AND kind = %s ORDER BY seq",
        values=(batch_id, kind),
    )


async def get_batch_seq(conn: Conn, batch_id: UUID) -> int:
    """Return the number of a batch's first entry; 0 if it has none."""
    cursor = await conn.execute("SELECT min(seq) FROM journal WHERE batch_id = %s", (batch_id,))
    (seq,) = await cursor.fetchone() or (None,)
    return seq or 0


async def newest_of_kind(conn: Conn, kind: JournalKind) -> JournalEntry | None:
    """Return the newest entry of a kind, or None if there is none."""
    return await select_row(
        conn,
        JournalEntry,
        table="journal",
        where="WHERE kind = %s ORDER BY seq DESC LIMIT 1",
        values=(kind,),
    )


async def count_of_kind(conn: Conn, kind: JournalKind) -> int:
    """Return the number of entries of a kind."""
    cursor = await conn.execute("SELECT count(*) FROM journal WHERE kind = %s", (kind,))
    (count,) = await cursor.fetchone() or (0,)
    return count


async def head(conn: Conn) -> JournalHead | None:
    """
    Return the head of the newest entry, or None if the journal is empty.

    The other columns are not read: the newest entry may be of a kind that only a later version
    knows, and this version can still append an entry after it.
    """
    return await select_row(conn, JournalHead, table="journal", where="ORDER BY seq DESC LIMIT 1")


async def head_text(conn: Conn) -> str | None:
    """Return the head as `alpha-monday verify --head` accepts it; None for an empty journal."""
    newest = await head(conn)
    if newest is None:
        return None
    return journal.format_head(newest.seq, newest.hash)
