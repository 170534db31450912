"""
Further benchmarks: which of them each batch is compared with, and the rows with their returns.

`app.domain.further_benchmarks` explains what a further benchmark is.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from datetime import date
from uuid import UUID

from msgspec import Struct

from app.domain.declarations import InForce, RecordSettings
from app.domain.model import (
    Batch,
    BatchStatus,
    Close,
    FurtherBenchmark,
    JournalEntry,
    JournalKind,
    Split,
)
from app.store import declarations, journal
from app.store.entries import read_member
from app.store.rows import Conn, insert_row, select_rows

# A member of the settings that only a record with further benchmarks has. In canonical JSON, no
# other text can contain these quotation marks without escapes.
_MEMBER = '"further_benchmarks":'

_WITH_SETTINGS = [JournalKind.GENESIS, JournalKind.SETTINGS]


class Awaited(Struct, frozen=True):
    """A further benchmark of a batch that was not measured yet; `position` counts from 1."""

    batch: Batch
    symbol: str
    position: int


async def are_declared(conn: Conn) -> bool:
    """Return whether any settings of the journal name further benchmarks."""
    cursor = await conn.execute(
        "SELECT EXISTS (SELECT FROM journal WHERE kind = ANY(%s) AND strpos(content, %s) > 0)",
        (_WITH_SETTINGS, _MEMBER),
    )
    (exists,) = await cursor.fetchone() or (False,)
    return bool(exists)


async def list_awaited(conn: Conn, since: date) -> list[Awaited]:
    """
    Return the further benchmarks of batches that were not measured yet, oldest batch first.

    These are the active and the completed batches with a run date from `since` on. Raises
    RecordDamaged if settings cannot be read.
    """
    if not await are_declared(conn):
        return []
    batches = await select_rows(
        conn,
        Batch,
        table="batches",
        where="WHERE run_date >= %s AND status <> %s ORDER BY run_date, series",
        values=(since, BatchStatus.FAILED),
    )
    declared = await list_of_batches(conn, [batch.id for batch in batches])
    cursor = await conn.execute(
        "SELECT batch_id, symbol FROM further_benchmarks WHERE batch_id = ANY(%s)",
        ([batch.id for batch in batches],),
    )
    measured = set(await cursor.fetchall())
    awaited = []
    for batch in batches:
        for position, symbol in enumerate(declared.get(batch.id, ()), start=1):
            if (batch.id, symbol) not in measured and symbol != batch.benchmark_symbol:
                awaited.append(Awaited(batch, symbol, position))
    return awaited


async def list_of_batches(conn: Conn, batch_ids: Sequence[UUID]) -> Mapping[UUID, tuple[str, ...]]:
    """
    Return the further benchmarks of each of these batches, in the order of the setting.

    They are those that the newest settings up to the BATCH entry of the batch name. A batch that
    has none is left out.
    """
    settings = await select_rows(
        conn,
        JournalEntry,
        table="journal",
        where="WHERE kind = ANY(%s) ORDER BY seq",
        values=(_WITH_SETTINGS,),
    )
    numbers = [entry.seq for entry in settings]
    named = [_further_of(entry) for entry in settings]
    cursor = await conn.execute(
        "SELECT batch_id, max(seq) FROM journal WHERE batch_id = ANY(%s) AND kind = %s "
        "GROUP BY batch_id",
        (list(batch_ids), JournalKind.BATCH),
    )
    further: dict[UUID, tuple[str, ...]] = {}
    for batch_id, seq in await cursor.fetchall():
        count = bisect_right(numbers, seq)
        if count and named[count - 1]:
            further[batch_id] = named[count - 1]
    return further


def _further_of(entry: JournalEntry) -> tuple[str, ...]:
    return read_member(entry, "settings", RecordSettings).further_benchmarks or ()


async def list_of_batch(conn: Conn, batch_id: UUID) -> list[FurtherBenchmark]:
    """Return the rows of a batch, in the order of the setting."""
    return await select_rows(
        conn,
        FurtherBenchmark,
        table="further_benchmarks",
        where="WHERE batch_id = %s ORDER BY position",
        values=(batch_id,),
    )


async def list_symbols_since(conn: Conn, run_date: date) -> set[str]:
    """Return the symbols of the rows of batches with a run date from `run_date` on."""
    cursor = await conn.execute(
        "SELECT DISTINCT symbol FROM further_benchmarks JOIN batches ON batches.id = batch_id "
        "WHERE run_date >= %s",
        (run_date,),
    )
    return {symbol for (symbol,) in await cursor.fetchall()}


async def insert(
    conn: Conn,
    row: FurtherBenchmark,
    *,
    closes: Sequence[Close],
    splits: Sequence[Split],
    in_force: InForce | None,
) -> bool:
    """
    Insert a row, and the journal entry with the readings and the splits that it depends on.

    Return False if the batch has a row of this symbol already.
    """
    await declarations.declare_version(conn)
    if not await insert_row(conn, "further_benchmarks", row, on_conflict="ON CONFLICT DO NOTHING"):
        return False
    await journal.append(
        conn,
        JournalKind.EXTENSION,
        at=row.measured_at,
        recorded={"further_benchmark": row, "closes": closes, "splits": splits},
        batch_id=row.batch_id,
        in_force=in_force,
    )
    return True
