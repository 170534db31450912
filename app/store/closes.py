"""
Readings of prices. All batches share them, and none is ever changed.

If a provider later reports another price for a session, that is a second reading beside the first.
"""

from collections.abc import Iterable, Sequence
from datetime import date, datetime
from uuid import uuid4

from msgspec import Struct

from app.domain import splits
from app.domain.calendar import new_york_date
from app.domain.model import Bar, Close
from app.domain.tickers import TickerHistory
from app.store import declarations
from app.store.rows import Conn, insert_row, select_row, select_rows


class InsertedCloses(Struct, frozen=True):
    """
    The readings that a response added.

    `changes` are those of them whose session had a reading before.
    """

    readings: list[Close]
    changes: list["ChangedClose"]


class ChangedClose(Struct, frozen=True):
    """Two different readings of one session: `before` was the newest one until `after` was read."""

    before: Close
    after: Close


async def get_newest(conn: Conn, ticker: str, session: date) -> Close | None:
    """Return the newest reading of a ticker's session, or None."""
    return await select_row(
        conn,
        Close,
        table="closes",
        where="WHERE ticker = %s AND trading_day = %s ORDER BY read_at DESC LIMIT 1",
        values=(ticker, session),
    )


async def get_newest_session(conn: Conn, ticker: str) -> date | None:
    """Return the newest session for which a close of `ticker` was read, or None."""
    cursor = await conn.execute("SELECT max(trading_day) FROM closes WHERE ticker = %s", (ticker,))
    (session,) = await cursor.fetchone() or (None,)
    return session


async def list_days_read(conn: Conn, ticker: str, first: date, last: date) -> frozenset[date]:
    """Return the days from `first` to `last` for which a close of `ticker` was read."""
    cursor = await conn.execute(
        "SELECT DISTINCT trading_day FROM closes "
        "WHERE ticker = %s AND trading_day BETWEEN %s AND %s",
        (ticker, first, last),
    )
    return frozenset(day for (day,) in await cursor.fetchall())


async def get_last_read_at(conn: Conn, ticker: str) -> datetime | None:
    """Return the time of the last stored reading of `ticker`, or None."""
    cursor = await conn.execute("SELECT max(read_at) FROM closes WHERE ticker = %s", (ticker,))
    (read_at,) = await cursor.fetchone() or (None,)
    return read_at


async def list_newest(conn: Conn, tickers: TickerHistory, first: date, last: date) -> list[Close]:
    """
    Return the newest reading of each session of a share, the oldest session first.

    The sessions are those from `first` to `last` that have a reading. A period of the history may
    list several tickers. If a session has readings of more than one of them, the newest reading of
    the ticker that the period lists last is used.
    """
    newest: dict[date, Close] = {}
    for period in tickers.periods:
        for ticker in period.tickers:
            readings = await list_by_ticker(
                conn,
                ticker,
                first=max(first, period.first),
                last=min(last, period.last),
            )
            # The oldest reading comes first, so the newest one of a session replaces the others.
            newest |= {reading.trading_day: reading for reading in readings}
    return [newest[session] for session in sorted(newest)]


async def list_by_ticker(
    conn: Conn, ticker: str, first: date = date.min, last: date = date.max
) -> list[Close]:
    """Return all readings of a ticker's sessions from `first` to `last`, by session and time."""
    return await select_rows(
        conn,
        Close,
        table="closes",
        where="WHERE ticker = %s AND trading_day BETWEEN %s AND %s ORDER BY trading_day, read_at",
        values=(ticker, first, last),
    )


async def list_by_ids(conn: Conn, ids: Iterable[object]) -> list[Close]:
    """Return the readings with these ids, sorted by ticker; ids that are None are ignored."""
    # COLLATE "C" makes the order independent of the database's collation.
    return await select_rows(
        conn,
        Close,
        table="closes",
        where='WHERE id = ANY(%s) ORDER BY ticker COLLATE "C"',
        values=(list(ids),),
    )


async def insert_new(
    conn: Conn,
    ticker: str,
    bars: Sequence[Bar],
    source: str,
    read_at: datetime,
    all_bars: Sequence[Bar] = (),
) -> InsertedCloses:
    """
    Insert a reading for each of `bars` that is new or differs from its session's newest reading.

    Return the inserted readings. Those whose session had a reading before are returned once more,
    each with the newest reading before it.

    `all_bars` are all bars of the provider's response. If `all_bars` is empty, the response has
    only `bars`. All bars of the response together show whether the provider restated a session
    after a split. The source of a restated reading names the day on which the restated price was
    first read.
    """
    await declarations.declare_version(conn)
    response_bars = all_bars or bars
    known = await _list_by_session(conn, ticker, [bar.trading_day for bar in response_bars])
    restated = splits.find_restated_sessions(response_bars, known, new_york_date(read_at))
    inserted: list[Close] = []
    changes: list[ChangedClose] = []
    for bar in bars:
        before = None
        if bar.trading_day in known:
            before = known[bar.trading_day][-1]
        # A bar whose open cannot be read does not replace a reading with the same close: that
        # reading may have an open.
        if before and before.close == bar.close and bar.open in (None, before.open):
            continue

        reading_source = source
        since = restated.get(bar.trading_day)
        if since:
            reading_source = splits.restated_source(source, since)
        reading = Close(
            id=uuid4(),
            ticker=ticker,
            trading_day=bar.trading_day,
            open=bar.open,
            close=bar.close,
            source=reading_source,
            read_at=read_at,
        )
        # Another transaction may have stored a reading of the same time.
        is_inserted = await insert_row(
            conn, "closes", reading, on_conflict="ON CONFLICT DO NOTHING"
        )
        if is_inserted:
            inserted.append(reading)
        if is_inserted and before:
            changes.append(ChangedClose(before=before, after=reading))
    return InsertedCloses(inserted, changes)


async def _list_by_session(
    conn: Conn, ticker: str, sessions: Sequence[date]
) -> dict[date, list[Close]]:
    """Return the readings of a ticker's sessions, oldest first, by session."""
    readings = await select_rows(
        conn,
        Close,
        table="closes",
        where="WHERE ticker = %s AND trading_day = ANY(%s) ORDER BY read_at",
        values=(ticker, list(sessions)),
    )
    by_session: dict[date, list[Close]] = {}
    for reading in readings:
        by_session.setdefault(reading.trading_day, []).append(reading)
    return by_session
