"""
The newest declarations of the journal, and those that a process must add before it records.

`app.domain.declarations` explains what a declaration is.
"""

from collections.abc import Sequence
from datetime import date, datetime
from typing import NamedTuple

from app.domain import calendar
from app.domain.alternation import Declared
from app.domain.declarations import (
    AnyDeclaration,
    Genesis,
    InForce,
    Origin,
    RecordSettings,
    changed_series,
    changed_settings,
    declaration_type,
    declare_series,
    first_calendar_day,
    in_force_on,
    is_known_kind,
    last_calendar_day,
    new_record_id,
    retirement,
    settings_in_force,
)
from app.domain.model import JournalEntry, JournalHead, JournalKind
from app.store.entries import read_member
from app.store.rehearsed import HAS_GENESIS, is_rehearsed_on_connection
from app.store.rows import Conn, select_rows

# An entry that is to be appended: its kind, and its members.
Declaration = tuple[JournalKind, dict[str, object]]


class StoredDeclaration(NamedTuple):
    """A declaration of a series, with the hash and the time of its entry."""

    value: AnyDeclaration
    hash: str
    at: datetime


# Postgres refuses a question, a reading or an entry in a sealed record, unless its transaction has
# set this parameter: an older version does not set it, and does not declare what is in force in it.
_DECLARE_VERSION = "SELECT set_config('alpha_monday.knows_sealed_records', 'yes', true)"

# More declarations than any series has.
_ALL = 1_000_000

# How many SERIES entries one statement reads.
_SERIES_PAGE = 50
# A greater number than that of any entry: the greatest bigint of Postgres.
_AFTER_EVERY_ENTRY = 2**63 - 1


async def declare_version(conn: Conn) -> None:
    """Tell Postgres that this version knows sealed records. It holds until the transaction ends."""
    await conn.execute(_DECLARE_VERSION)


async def is_sealed(conn: Conn) -> bool:
    """Return whether the record is sealed: whether its journal has a GENESIS entry."""
    cursor = await conn.execute(f"SELECT {HAS_GENESIS}")
    (exists,) = await cursor.fetchone() or (False,)
    return bool(exists)


async def will_be_sealed(conn: Conn) -> bool:
    """
    Return whether the record is sealed after its next entry: it is sealed, or it is new.

    A record without an entry is not new if an older version has asked its first question: such a
    question has no profile, and no entry before its outcome is known.
    """
    cursor = await conn.execute(
        f"""
        SELECT {HAS_GENESIS}
            OR NOT EXISTS (SELECT FROM journal)
                AND NOT EXISTS (SELECT FROM generations WHERE profile_sha256 IS NULL)
        """  # noqa: S608 - the condition is a constant
    )
    (exists,) = await cursor.fetchone() or (False,)
    return bool(exists)


async def get_settings(conn: Conn) -> RecordSettings | None:
    """Return the newest declared settings; None if the record is not sealed."""
    newest = await list_settings(conn, 1)
    return newest[0].value if newest else None


async def list_listed_days(conn: Conn) -> frozenset[date]:
    """Return the days without a session that any declared settings list."""
    listed: set[date] = set()
    for kind in (JournalKind.SETTINGS, JournalKind.GENESIS):
        for entry in await _list_entries(conn, "kind = %s", (kind,)):
            listed.update(read_member(entry, "settings", RecordSettings).days_without_session)
    return frozenset(listed)


async def get_series(conn: Conn, name: str) -> AnyDeclaration | None:
    """Return the newest declaration of a series; None if it was not declared."""
    newest = await list_series(conn, name, 1)
    return newest[0].value if newest else None


async def get_series_in_force(conn: Conn, name: str, run_date: date) -> AnyDeclaration | None:
    """Return the declaration of a series that holds on a Monday; None if there is none."""
    declared = await list_series(conn, name, _ALL)
    return in_force_on((one.value for one in reversed(declared)), run_date)


async def list_newest_series(conn: Conn) -> dict[str, AnyDeclaration]:
    """
    Return the newest declaration of each series, by name.

    Raises RecordDamaged if a SERIES entry cannot be read.
    """
    newest: dict[str, AnyDeclaration] = {}
    for declared in await list_all_series(conn):
        newest[declared.value.name] = declared.value
    return newest


async def list_all_series(conn: Conn) -> list[StoredDeclaration]:
    """
    Return the declarations of all series, in the order of the journal.

    Declarations of a kind that only a later version knows are left out. Raises RecordDamaged if a
    SERIES entry cannot be read.
    """
    entries = await _list_entries(conn, "kind = %s ORDER BY seq", (JournalKind.SERIES,))
    declared = []
    for entry in entries:
        series = read_member(entry, "series", dict[str, object])
        if is_known_kind(series):
            one = StoredDeclaration(_read_series(entry), hash=entry.hash, at=entry.at)
            declared.append(one)
    return declared


async def list_recent_series(conn: Conn, count: int) -> dict[str, list[Declared[AnyDeclaration]]]:
    """
    Return the newest declarations of each series with their times, the newest one first.

    There are at most `count` of each. Raises RecordDamaged if a SERIES entry cannot be read.
    """
    recent: dict[str, list[Declared[AnyDeclaration]]] = {}
    for one in reversed(await list_all_series(conn)):
        of_series = recent.setdefault(one.value.name, [])
        if len(of_series) < count:
            of_series.append(Declared(one.at, one.value))
    return recent


def _read_series(entry: JournalEntry) -> AnyDeclaration:
    type_ = declaration_type(read_member(entry, "series", dict[str, object]))
    return read_member(entry, "series", type_)


async def list_settings(conn: Conn, count: int) -> list[Declared[RecordSettings]]:
    """Return the newest declared settings with their times, the newest ones first."""
    entries: list[JournalEntry] = []
    # One search of the index (kind, seq) for each kind: a search for both kinds at once would read
    # the journal backwards, from its newest entry on. All SETTINGS are newer than the GENESIS.
    for kind in (JournalKind.SETTINGS, JournalKind.GENESIS):
        if len(entries) < count:
            entries += await _list_entries(
                conn, "kind = %s ORDER BY seq DESC LIMIT %s", (kind, count - len(entries))
            )
    return [Declared(entry.at, read_member(entry, "settings", RecordSettings)) for entry in entries]


async def list_series(conn: Conn, name: str, count: int) -> list[Declared[AnyDeclaration]]:
    """
    Return the newest declarations of a series with their times, the newest one first.

    Raises RecordDamaged if one of the SERIES entries on the way cannot be read: it may be one of
    this series.
    """
    # The names are compared here, because a cast of a damaged content to JSON would be an error of
    # Postgres that does not name the entry.
    declared: list[Declared[AnyDeclaration]] = []
    before = _AFTER_EVERY_ENTRY
    while len(declared) < count:
        entries = await _list_entries(
            conn,
            "kind = %s AND seq < %s ORDER BY seq DESC LIMIT %s",
            (JournalKind.SERIES, before, _SERIES_PAGE),
        )
        for entry in entries:
            # Another series may be of a kind that only a later version knows.
            if read_member(entry, "series", dict[str, object]).get("name") == name:
                declared.append(Declared(entry.at, _read_series(entry)))
        if len(entries) < _SERIES_PAGE:
            break
        before = entries[-1].seq
    return declared[:count]


async def _list_entries(conn: Conn, condition: str, values: Sequence[object]) -> list[JournalEntry]:
    return await select_rows(
        conn, JournalEntry, table="journal", where=f"WHERE {condition}", values=values
    )


async def list_due(
    conn: Conn,
    head: JournalHead | None,
    in_force: InForce,
    at: datetime,
    *,
    asked_for: date | None = None,
) -> list[Declaration]:
    """
    Return the declarations that a process must append before its entry of the time `at`.

    The caller holds the journal's lock, and `head` is the newest entry. A new journal gets its
    GENESIS and the declaration of each series. A journal of an older version, without a GENESIS,
    gets nothing: its record is not sealed, and goes on as it was. `asked_for` is the Monday of a
    question, before its claim: only then are the series compared.
    """
    if head is None:
        if not await will_be_sealed(conn):
            return []
        return await _first_declarations(conn, in_force, at)
    newest = await get_settings(conn)
    if newest is None:
        return []
    due: list[Declaration] = []
    changed = changed_settings(in_force, newest, calendar.new_york_date(at))
    if changed:
        due.append((JournalKind.SETTINGS, {"settings": changed}))
    if asked_for:
        due += await _list_due_series(conn, in_force, at, run_date=asked_for)
    return due


async def _list_due_series(
    conn: Conn, in_force: InForce, at: datetime, *, run_date: date
) -> list[Declaration]:
    """Return the declarations of the series that are new, changed, or no longer configured."""
    newest = await list_newest_series(conn)
    today = calendar.new_york_date(at)
    declared = []
    for one in in_force.series:
        changed = changed_series(one, newest.get(one.name), run_date=run_date, today=today)
        if changed is not None:
            declared.append(changed)
    names = {one.name for one in in_force.series}
    for name, former in newest.items():
        if name not in names and not former.retired:
            declared.append(retirement(former, run_date))
    return [(JournalKind.SERIES, {"series": one}) for one in declared]


async def _first_declarations(conn: Conn, in_force: InForce, at: datetime) -> list[Declaration]:
    is_rehearsed = await is_rehearsed_on_connection(conn)
    genesis = Genesis(
        record_id=new_record_id(),
        origin=Origin.REHEARSED if is_rehearsed else Origin.LIVE,
        late=False,
    )
    first_monday = calendar.latest_run_date(at)
    declared = settings_in_force(
        in_force,
        calendar_from=first_calendar_day(first_monday, in_force.calendar),
        calendar_to=last_calendar_day(calendar.new_york_date(at)),
    )
    due: list[Declaration] = [
        (JournalKind.GENESIS, {"genesis": genesis, "settings": declared}),
    ]
    for one in in_force.series:
        due.append((JournalKind.SERIES, {"series": declare_series(one, first_monday)}))
    return due
