"""Readings of prices: shared by all batches, never changed. A second reading stands beside the first."""

from collections.abc import Iterable, Sequence
from datetime import date, datetime
from uuid import uuid4

from msgspec import Struct

from app.domain import splits
from app.domain.calendar import today
from app.domain.model import Bar, Close
from app.domain.tickers import Tickers
from app.store.rows import Conn, insert, select


class Difference(Struct, frozen=True):
    """A provider's second word on a session."""

    before: Close
    after: Close


async def newest(conn: Conn, ticker: str, session: date) -> Close | None:
    """Return the newest reading of `ticker`'s session."""
    found = await select(
        conn,
        Close,
        "closes",
        "WHERE ticker = %s AND trading_day = %s ORDER BY read_at DESC LIMIT 1",
        ticker,
        session,
    )
    return found[0] if found else None


async def latest(conn: Conn, ticker: str) -> date | None:
    """Return the newest session of which a close of `ticker` was ever read."""
    cursor = await conn.execute("SELECT max(trading_day) FROM closes WHERE ticker = %s", (ticker,))
    row = await cursor.fetchone()
    return row[0] if row else None


async def path(conn: Conn, tickers: Tickers, first: date, last: date) -> list[Close]:
    """Return the newest readings from `first` to `last` of a share; of a period's tickers the last counts most."""
    newest: dict[date, Close] = {}
    for period in tickers.periods:
        for ticker in period.tickers:
            readings = await of(conn, ticker, max(first, period.first), min(last, period.last))
            newest |= {one.trading_day: one for one in readings}
    return [newest[session] for session in sorted(newest)]


async def of(conn: Conn, ticker: str, first: date = date.min, last: date = date.max) -> list[Close]:
    """Return all readings of `ticker`'s sessions from `first` to `last`, in their order."""
    where = "WHERE ticker = %s AND trading_day BETWEEN %s AND %s ORDER BY trading_day, read_at"
    return await select(conn, Close, "closes", where, ticker, first, last)


async def among(conn: Conn, ids: Iterable[object]) -> list[Close]:
    """Return the readings with these ids, by ticker."""
    return await select(conn, Close, "closes", 'WHERE id = ANY(%s) ORDER BY ticker COLLATE "C"', list(ids))


async def last_read(conn: Conn, ticker: str) -> datetime | None:
    """Return when a close of `ticker` was stored last."""
    cursor = await conn.execute("SELECT max(read_at) FROM closes WHERE ticker = %s", (ticker,))
    row = await cursor.fetchone()
    return row[0] if row else None


async def add_all(
    conn: Conn,
    ticker: str,
    bars: Sequence[Bar],
    source: str,
    read_at: datetime,
    series: Sequence[Bar] = (),
) -> list[Difference]:
    """
    Store what `bars` say that is not yet known; return where they differ from what was said before.

    `series` is all that their answer has, which tells whether it is restated: such a reading says so in its source.
    """
    whole = series or bars
    known: dict[date, list[Close]] = {}
    for close in await select(
        conn,
        Close,
        "closes",
        "WHERE ticker = %s AND trading_day = ANY(%s) ORDER BY read_at",
        ticker,
        [bar.trading_day for bar in whole],
    ):
        known.setdefault(close.trading_day, []).append(close)
    restated = splits.restated_since(whole, known, today(read_at))
    differences = []
    for bar in bars:
        before = known[bar.trading_day][-1] if bar.trading_day in known else None
        # An open that cannot be read this time takes nothing back.
        if before and before.close == bar.close and bar.open in (None, before.open):
            continue
        since = restated.get(bar.trading_day)
        reading = Close(
            id=uuid4(),
            ticker=ticker,
            trading_day=bar.trading_day,
            open=bar.open,
            close=bar.close,
            source=splits.restated_source(source, since) if since else source,
            read_at=read_at,
        )
        if await insert(conn, "closes", reading, "ON CONFLICT DO NOTHING") and before:
            differences.append(Difference(before, reading))
    return differences
