"""
Yearly checks that were held, for the tests of the verdict.

The figures of a series are given, and the real procedure decides what is found. With an `alpha` of
1 or -1, a series is found at every check; with 0, it never is.
"""

import json
from collections.abc import Callable, Sequence
from datetime import date, timedelta
from typing import Any

import msgspec
import psycopg
from api_records import Record
from psycopg.rows import class_row

from app.domain import journal, yearly_check
from app.domain.check_contents import CheckInputs, SeriesStanding, check_content
from app.domain.model import JournalEntry, JournalHead, JournalKind
from app.domain.verdict import CheckEntry, RecordChecks
from app.domain.yearly_check import BatchResult, PickResult

# The first Monday of the records of `api_records` and `series_records`.
MONDAY = date(2026, 1, 5)
WEEK = timedelta(weeks=1)


def standing(
    name: str, alpha: float = 0.0, *, weeks: int = 52, gaps: int = 0, **members: Any
) -> SeriesStanding:
    """
    Return a series with a weekly alpha in so many weeks, in percentage points.

    So many of its first batches lack the result of a pick.
    """
    batches: list[BatchResult] = []
    for week in range(weeks - 1):
        first = alpha + (week % 3 - 1) / 10
        pick = PickResult(first, 2 * alpha + (week % 4 - 1.5) / 10)
        picks = [pick, pick, PickResult(first, None) if week < gaps else pick]
        batches.append(
            BatchResult(
                monday=MONDAY + week * WEEK,
                picks=picks,
                benchmark=(week % 5 - 2.0, week % 7 - 3.0),
                risk_free=(0.07, 0.07),
            )
        )
    return SeriesStanding(name=name, batches=batches, **members)


def content_of(
    number: int, *standings: SeriesStanding, is_late: bool = False, first: date = MONDAY
) -> dict[str, Any]:
    """
    Return the member `check` of the entry of a check, as the journal has it.

    `first` is the first Monday of the record.
    """
    content = check_content(
        CheckInputs(
            number=number,
            on=yearly_check.check_date(first, number),
            is_late=is_late,
            head=JournalHead(1, "f" * 64, yearly_check.held_at(MONDAY)),
            standings=standings,
            rates=[],
        )
    )
    texts = journal.to_texts(content)
    assert isinstance(texts, dict)
    return texts


def write_check(
    record: Record, number: int, *standings: SeriesStanding, first: date = MONDAY
) -> None:
    """Write the entry of a check that was held in time."""
    record.write(
        JournalKind.CHECK,
        yearly_check.held_at(yearly_check.check_date(first, number)),
        {"check": content_of(number, *standings, first=first), "rates": []},
    )


def add_checks(address: str, *checks: Sequence[SeriesStanding]) -> None:
    """Write checks of these series, from the first on, after the newest entry of a record."""
    with psycopg.connect(address) as conn:
        record = Record(conn)
        record.head = newest_entry(conn)
        for number, standings in enumerate(checks, 1):
            write_check(record, number, *standings)


def newest_entry(conn: psycopg.Connection) -> JournalEntry | None:
    """Return the newest entry of a journal."""
    with conn.cursor(row_factory=class_row(JournalEntry)) as cursor:
        return cursor.execute("SELECT * FROM journal ORDER BY seq DESC LIMIT 1").fetchone()


def damage_checks(address: str, change: Callable[[str], str]) -> None:
    """Change the content of every CHECK entry of a record, with the hash that belongs to it."""
    with psycopg.connect(address) as conn:
        conn.execute("SET session_replication_role = replica")
        statement = "SELECT seq, previous, content FROM journal WHERE kind = 'CHECK'"
        for seq, previous, content in conn.execute(statement).fetchall():
            damaged = change(content)
            conn.execute(
                "UPDATE journal SET content = %s, hash = %s WHERE seq = %s",
                (damaged, journal.entry_hash(previous, damaged), seq),
            )


def as_read(content: Any, series: str, seq: int = 1) -> CheckEntry:
    """Return an entry as the API reads it for a series."""
    if isinstance(content, dict):
        content = dict(content)
        for items, name in (("series", "name"), ("order", "series"), ("findings", "series")):
            if isinstance(content.get(items), list):
                content[items] = [one for one in content[items] if one.get(name) == series]
    held_at = yearly_check.held_at(MONDAY)
    return CheckEntry(seq=seq, at=held_at, check=msgspec.Raw(json.dumps(content).encode()))


def record_checks(series: str, *contents: Any, newest: date, first: date = MONDAY) -> RecordChecks:
    """Return the checks of a record, as the API reads them for a series."""
    entries: Sequence[CheckEntry] = [
        as_read(content, series, seq) for seq, content in enumerate(contents, 1)
    ]
    return RecordChecks(first, newest, entries)
