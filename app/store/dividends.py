"""
Readings of dividends. All batches share them, and no reading is ever changed.

If a ticker's dividend was read several times for the same ex-date, the newest reading is in force.
Only a sealed record has dividends: its journal has the response of each reading, and also the
responses that list no dividend.
"""

from collections.abc import Collection

from app.domain.declarations import ProviderResponse, ResponseKind
from app.domain.dividends import DividendResponse
from app.domain.model import Dividend, JournalEntry, JournalKind
from app.domain.tickers import TickerHistory
from app.store import declarations
from app.store.entries import read_member
from app.store.rows import Conn, insert_row, select_rows

# A part of the text of each READINGS entry about dividends. In canonical JSON, no other text can
# contain these quotation marks without escapes.
_ABOUT_DIVIDENDS = f'"kind":"{ResponseKind.DIVIDENDS}"'


async def list_in_force(conn: Conn, tickers: TickerHistory) -> list[Dividend]:
    """
    Return the dividends of one share that are in force, oldest first.

    Only readings under a ticker that the share has on the ex-date count.
    """
    readings = await select_rows(
        conn,
        Dividend,
        table="dividends",
        where="WHERE ticker = ANY(%s)",
        values=(list(tickers.all_tickers),),
    )
    return tickers.dividends_in_force(readings)


async def list_readings(conn: Conn, ticker: str) -> list[Dividend]:
    """Return all readings of a ticker's dividends, by ex-date, then by time of reading."""
    return await select_rows(
        conn,
        Dividend,
        table="dividends",
        where="WHERE ticker = %s ORDER BY ex_date, read_at",
        values=(ticker,),
    )


async def insert(conn: Conn, dividend: Dividend) -> bool:
    """Insert a reading. Return False if one of this ex-date with the same time is stored."""
    await declarations.declare_version(conn)
    return await insert_row(conn, "dividends", dividend, on_conflict="ON CONFLICT DO NOTHING")


async def list_responses(
    conn: Conn, tickers: Collection[str], since_seq: int
) -> dict[str, DividendResponse]:
    """
    Return the newest response about the dividends of each ticker that has one.

    Only the entries of the journal with a number above `since_seq` are searched.
    """
    entries = await select_rows(
        conn,
        JournalEntry,
        table="journal",
        where="WHERE seq > %s AND kind = %s AND strpos(content, %s) > 0 ORDER BY seq",
        values=(since_seq, JournalKind.READINGS, _ABOUT_DIVIDENDS),
    )
    responses: dict[str, DividendResponse] = {}
    for entry in entries:
        response = read_member(entry, "response", ProviderResponse)
        ticker = response.ticker
        if response.kind is ResponseKind.DIVIDENDS and ticker is not None and ticker in tickers:
            responses[ticker] = DividendResponse(response.read_at, response.ex_dates or ())
    return responses
