"""
Readings of the rate of a loan without risk. No reading is ever changed.

If a day's rate was read several times, the newest reading is in force.
"""

from datetime import date

from app.domain.model import Rate
from app.store import declarations
from app.store.rows import Conn, insert_row, select_rows


async def list_in_force(conn: Conn) -> dict[date, Rate]:
    """Return the newest reading of each day, by day."""
    readings = await select_rows(conn, Rate, table="rates", where="ORDER BY read_at")
    return {reading.observed_on: reading for reading in readings}


async def insert(conn: Conn, rate: Rate) -> bool:
    """Insert a reading. Return False if one of this day with the same time is already stored."""
    await declarations.declare_version(conn)
    return await insert_row(conn, "rates", rate, on_conflict="ON CONFLICT DO NOTHING")
