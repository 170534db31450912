"""Readings of splits: shared by all batches, never changed. The newest of a ticker's date is in force."""

from collections.abc import Sequence
from datetime import date

from app.record import splits
from app.record.model import Split
from app.store.rows import Conn, insert, select


async def of(conn: Conn, tickers: Sequence[str]) -> list[Split]:
    """Return the splits in force of one share, which may have had several tickers, oldest first."""
    return splits.in_force(await select(conn, Split, "splits", "WHERE ticker = ANY(%s)", list(tickers)))


async def readings(conn: Conn, ticker: str) -> list[Split]:
    """Return everything that was read of a ticker's splits, by date and reading."""
    return await select(conn, Split, "splits", "WHERE ticker = %s ORDER BY effective_date, read_at", ticker)


async def add(conn: Conn, split: Split) -> bool:
    """Store a reading; return False if the same was read at that time already."""
    return await insert(conn, "splits", split, "ON CONFLICT DO NOTHING")


async def needed_since(conn: Conn, ticker: str) -> date | None:
    """Return the earliest baseline session of the batches that hold `ticker`; splits up to it change no figure."""
    cursor = await conn.execute(
        """
        SELECT min(batches.trading_day)
        FROM batches LEFT JOIN picks ON picks.batch_id = batches.id
        WHERE batches.benchmark_symbol = %s OR picks.ticker = %s
        """,
        (ticker, ticker),
    )
    row = await cursor.fetchone()
    return row[0] if row else None
