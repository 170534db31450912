"""Readings of splits: shared by all batches, never changed. The newest of a ticker's date is in force."""

from app.domain.model import Split
from app.domain.tickers import Tickers
from app.store.rows import Conn, insert, select


async def of(conn: Conn, tickers: Tickers) -> list[Split]:
    """Return the splits in force of one share, oldest first: of each day those under the ticker that it had then."""
    found = await select(conn, Split, "splits", "WHERE ticker = ANY(%s)", list(tickers.all))
    return tickers.splits_of(found)


async def readings(conn: Conn, ticker: str) -> list[Split]:
    """Return everything that was read of a ticker's splits, by date and reading."""
    return await select(conn, Split, "splits", "WHERE ticker = %s ORDER BY effective_date, read_at", ticker)


async def add(conn: Conn, split: Split) -> bool:
    """Store a reading; return False if the same was read at that time already."""
    return await insert(conn, "splits", split, "ON CONFLICT DO NOTHING")
