"""
Readings of splits. All batches share them, and no reading is ever changed.

If a ticker's split was read several times for the same date, the newest reading is in force.
"""

from app.domain.model import Split
from app.domain.tickers import TickerHistory
from app.store import declarations
from app.store.rows import Conn, insert_row, select_rows


async def list_in_force(conn: Conn, tickers: TickerHistory) -> list[Split]:
    """
    Return the splits of one share that are in force, oldest first.

    Only readings under a ticker that the share has on the split's effective date count.
    """
    # SQL need not sort the readings: `splits_in_force` chooses the newest ones and sorts them.
    readings = await select_rows(
        conn,
        Split,
        table="splits",
        where="WHERE ticker = ANY(%s)",
        values=(list(tickers.all_tickers),),
    )
    return tickers.splits_in_force(readings)


async def list_readings(conn: Conn, ticker: str) -> list[Split]:
    """Return all readings of a ticker's splits, by effective date, then by time of reading."""
    return await select_rows(
        conn,
        Split,
        table="splits",
        where="WHERE ticker = %s ORDER BY effective_date, read_at",
        values=(ticker,),
    )


async def insert(conn: Conn, split: Split) -> bool:
    """Insert a reading. Return False if one of this split with the same time is already stored."""
    await declarations.declare_version(conn)
    return await insert_row(conn, "splits", split, on_conflict="ON CONFLICT DO NOTHING")
