"""
Seal a record that earlier versions made: from then on, what it promises can be checked.

A record that this version begins is sealed from its first entry on. A record from before is sealed
once, by these entries, in one transaction:

1. GENESIS, marked as late: the record already has entries.
2. READINGS entries, marked as adopted: the readings and open questions that no entry has mentioned
   so far. From now on, such a row without an entry is a discrepancy.
3. SETTINGS with the mark `sealed`: from here on the rules of sealed records hold.

Workers of the version before can work meanwhile. Afterwards, Postgres refuses their questions,
readings and entries (migrations 0015 and 0018).
"""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TypeVar

import msgspec
from msgspec import Struct
from psycopg import errors

from app.core.locks import Lock
from app.database import pools
from app.domain import calendar
from app.domain.declarations import (
    Genesis,
    InForce,
    Origin,
    RecordSettings,
    first_calendar_day,
    last_calendar_day,
    new_record_id,
    settings_in_force,
)
from app.domain.journal import format_timestamp
from app.domain.model import Batch, Close, Generation, JournalKind, Rate, Split
from app.errors import Refused
from app.ops.verify import DatabaseRecord, ReportProgress, verify
from app.store import declarations, journal, rehearsed, rows
from app.store.rows import Conn

Row = TypeVar("Row", bound=Struct)

# The greatest number of rows in an entry of adopted rows. An entry of a year's readings would be
# too long for a page of the API.
ROWS_PER_ENTRY = 500

# New readings and questions wait until the seal is committed, and the seal waits for those that
# are being stored. The order of locks is that of every writer: first the tables, then the journal.
_LOCK_TABLES = "LOCK TABLE closes, splits, rates, generations IN SHARE ROW EXCLUSIVE MODE"

# While the seal waits for a lock, all later readings and questions wait behind it. So it waits at
# most ten seconds for each lock, as a migration does, and then fails. The operator runs it again.
_SET_LOCK_TIMEOUT = "SET LOCAL lock_timeout = '10s'"


class SealPlan(Struct, frozen=True, kw_only=True):
    """
    What a seal will write, or has written.

    `entries` is the number of entries that the journal already has. `closes`, `splits`, `rates`
    and `questions` are the numbers of rows that no entry mentions, and `settings` are declared.
    """

    origin: Origin
    entries: int
    closes: int
    splits: int
    rates: int
    questions: int
    settings: RecordSettings


async def preview(
    address: str, in_force: InForce, now: datetime, report_progress: ReportProgress
) -> SealPlan:
    """
    Return what a seal would write. Nothing is stored.

    Raises Refused if the record cannot be sealed, and Discrepancy if it does not verify: a seal
    must not cover a record that contradicts its journal.
    """
    async with pools.snapshot(address, "seal") as conn:
        await _refuse_sealed(conn)
        await verify(
            source=DatabaseRecord(conn),
            heads=[],
            report_progress=report_progress,
            sessions=in_force.calendar,
        )
        now = await rehearsed.get_simulated_time_on_connection(conn) or now
        unmentioned = await _find_unmentioned(conn)
        return await _make_plan(conn, in_force, now=now, unmentioned=unmentioned)


async def seal(address: str, in_force: InForce, now: datetime) -> SealPlan:
    """
    Seal the record, and return what was written.

    Raises Refused if it cannot be sealed, or if another session holds a lock for ten seconds.

    It cannot be undone.
    """
    async with (
        pools.opened(pools.make_pool(address, max_size=1, name="seal")) as pool,
        pools.transaction(pool) as conn,
    ):
        await _lock(conn)
        # Checked again under the locks, because another process may have sealed the record.
        await _refuse_sealed(conn)
        # The entries of a rehearsal have its simulated time.
        now = await rehearsed.get_simulated_time_on_connection(conn) or now
        unmentioned = await _find_unmentioned(conn)
        plan = await _make_plan(conn, in_force, now=now, unmentioned=unmentioned)
        await _append_entries(conn, plan, unmentioned, now=now)
    return plan


async def _lock(conn: Conn) -> None:
    """
    Lock what a seal reads and writes, until the transaction ends.

    Raises Refused if another session holds such a lock for ten seconds.
    """
    await conn.execute(_SET_LOCK_TIMEOUT)
    try:
        await conn.execute(_LOCK_TABLES)
        await conn.execute("SELECT pg_advisory_xact_lock(%s)", (Lock.JOURNAL,))
    except errors.LockNotAvailable:
        raise Refused(
            "Another session held a lock that the seal needs. The seal waited for ten seconds. The "
            "lock may belong to a service's transaction, a migration or an open psql. Nothing was "
            "sealed: run it again."
        ) from None


class _Unmentioned(Struct, frozen=True):
    """The rows that no entry of the journal mentions."""

    closes: list[Close]
    splits: list[Split]
    rates: list[Rate]
    questions: list[Generation]


async def _refuse_sealed(conn: Conn) -> None:
    if await declarations.is_sealed(conn):
        raise Refused("The record is sealed already: its journal has a GENESIS entry.")
    if await journal.head(conn) is None:
        raise Refused(
            "The record has no entry yet: it will be sealed from its first entry on, without this "
            "command."
        )


async def _find_unmentioned(conn: Conn) -> _Unmentioned:
    """Return the readings and open questions that no entry mentions, oldest first."""
    mentioned_closes: set[str] = set()
    mentioned_splits: set[tuple[str, str, str]] = set()
    mentioned_rates: set[tuple[str, str]] = set()
    async for entry in rows.stream_rows(conn, _Content, table="journal", where="ORDER BY seq"):
        content = msgspec.json.decode(entry["content"])
        mentioned_closes.update(close["id"] for close in content.get("closes", ()))
        for split in content.get("splits", ()):
            key = (split["ticker"], split["effective_date"], split["read_at"])
            mentioned_splits.add(key)
        for rate in content.get("rates", ()):
            mentioned_rates.add((rate["observed_on"], rate["read_at"]))

    unused_closes: list[Close] = []
    async for row in rows.stream_rows(conn, Close, table="closes", where="ORDER BY read_at, id"):
        close = msgspec.convert(row, Close)
        if str(close.id) not in mentioned_closes:
            unused_closes.append(close)
    unused_splits: list[Split] = []
    where = "ORDER BY read_at, ticker, effective_date"
    async for row in rows.stream_rows(conn, Split, table="splits", where=where):
        split = msgspec.convert(row, Split)
        if _split_key(split) not in mentioned_splits:
            unused_splits.append(split)
    unused_rates: list[Rate] = []
    where = "ORDER BY read_at, observed_on"
    async for row in rows.stream_rows(conn, Rate, table="rates", where=where):
        rate = msgspec.convert(row, Rate)
        if (rate.observed_on.isoformat(), format_timestamp(rate.read_at)) not in mentioned_rates:
            unused_rates.append(rate)
    questions = await rows.select_rows(
        conn,
        Generation,
        table="generations",
        where="WHERE accepted IS NULL ORDER BY asked_at",
    )
    return _Unmentioned(
        closes=unused_closes, splits=unused_splits, rates=unused_rates, questions=questions
    )


class _Content(Struct, frozen=True):
    """The content of an entry."""

    content: str


def _split_key(split: Split) -> tuple[str, str, str]:
    return split.ticker, split.effective_date.isoformat(), format_timestamp(split.read_at)


async def _make_plan(
    conn: Conn, in_force: InForce, *, now: datetime, unmentioned: _Unmentioned
) -> SealPlan:
    head = await journal.head(conn)
    origin = Origin.UNKNOWN
    if await rehearsed.is_rehearsed_on_connection(conn):
        origin = Origin.REHEARSED
    first_monday = calendar.latest_run_date(now)
    oldest = await rows.select_row(conn, Batch, table="batches", where="ORDER BY run_date LIMIT 1")
    if oldest:
        first_monday = min(first_monday, oldest.run_date)
    return SealPlan(
        origin=origin,
        entries=head.seq if head else 0,
        closes=len(unmentioned.closes),
        splits=len(unmentioned.splits),
        rates=len(unmentioned.rates),
        questions=len(unmentioned.questions),
        settings=settings_in_force(
            in_force,
            calendar_from=first_calendar_day(first_monday, in_force.calendar),
            calendar_to=last_calendar_day(calendar.new_york_date(now)),
        ),
    )


async def _append_entries(
    conn: Conn, plan: SealPlan, unmentioned: _Unmentioned, *, now: datetime
) -> None:
    genesis = Genesis(record_id=new_record_id(), origin=plan.origin, late=True)
    entries: list[tuple[JournalKind, dict[str, object]]] = [
        (JournalKind.GENESIS, {"genesis": genesis, "settings": plan.settings}),
    ]
    for closes in _chunks(unmentioned.closes):
        entries.append((JournalKind.READINGS, _adopted(closes=closes)))
    for splits in _chunks(unmentioned.splits):
        entries.append((JournalKind.READINGS, _adopted(splits=splits)))
    for rates in _chunks(unmentioned.rates):
        entries.append((JournalKind.READINGS, _adopted(rates=rates)))
    for questions in _chunks(unmentioned.questions):
        entries.append((JournalKind.READINGS, _adopted(questions=questions)))
    entries.append((JournalKind.SETTINGS, {"settings": plan.settings, "sealed": True}))
    for kind, recorded in entries:
        await journal.append(conn, kind, at=now, recorded=recorded, batch_id=None)


def _adopted(
    *,
    closes: Sequence[Close] = (),
    splits: Sequence[Split] = (),
    rates: Sequence[Rate] = (),
    questions: Sequence[Generation] = (),
) -> dict[str, object]:
    return {
        "adopted": True,
        "closes": closes,
        "splits": splits,
        # Absent without a rate: an entry of an earlier version has no such member.
        "rates": rates or None,
        "generations": questions,
    }


def _chunks(all_rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    """Yield the rows in parts of at most ROWS_PER_ENTRY."""
    for begin in range(0, len(all_rows), ROWS_PER_ENTRY):
        yield all_rows[begin : begin + ROWS_PER_ENTRY]
