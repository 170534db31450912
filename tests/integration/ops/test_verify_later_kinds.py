"""Entries of kinds that only a later version knows are links of the chain, and are counted."""

import asyncio
import json
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from commands import run
from eventful import live_all
from independent_verifier.sessions import SessionCalendar
from independent_verifier.verifier import IndependentVerification
from later_kinds import FIRST_KINDS, LATER_KINDS, follow_each_transaction
from msgspec.structs import asdict
from record_server import changed, copy_of, record_server, rehearsed, silent, unguarded

from app.domain import journal
from app.domain.model import JournalEntry, JournalHead, JournalKind
from app.errors import Discrepancy
from app.ops.verify import open_api, open_database, verify

__all__ = ["rehearsed"]

AT = datetime(2026, 11, 30, 14, 0, 0, 123456, tzinfo=UTC)


@pytest.fixture(scope="module")
def eventful_between(made_once) -> str:
    """The address of a record with every kind of event, between entries of later kinds."""
    return made_once(
        "between", lambda address: asyncio.run(live_all(address, follow_each_transaction))
    )


@pytest.fixture
def copy(rehearsed, create) -> str:
    """A copy of the rehearsed record that a test may change."""
    return copy_of(rehearsed, create)


def append(address: str, kind: str, recorded: dict[str, object]) -> JournalEntry:
    """Append an entry that follows the head."""
    with unguarded(address) as conn:
        seq, hash = conn.execute(
            "SELECT seq, hash FROM journal ORDER BY seq DESC LIMIT 1"
        ).fetchone()
        entry = journal.next_entry(JournalHead(seq, hash, AT), kind=kind, at=AT, recorded=recorded)
        columns = ", ".join(asdict(entry))
        conn.execute(
            f"INSERT INTO journal ({columns}) VALUES ({', '.join(['%s'] * 7)})",
            list(asdict(entry).values()),
        )
    return entry


@pytest.mark.long
async def test_a_whole_life_between_later_entries(eventful_between):
    """
    The entries of each transaction, in a record with every kind of event, are followed by one of a
    later kind: every writer appends after it, every rule holds, and every figure is the same.
    """
    with psycopg.connect(eventful_between) as conn:
        pairs = conn.execute(
            "SELECT before.kind, journal.kind FROM journal JOIN journal before "
            "ON before.seq = journal.seq - 1"
        ).fetchall()
    assert {after for before, after in pairs if before in LATER_KINDS} >= {*FIRST_KINDS, "READINGS"}
    async with open_database(eventful_between) as source:
        result = await verify(source, [], silent)
    later = [after for _, after in pairs if after in LATER_KINDS]
    assert (result.links, {*later}) == (len(later), {*LATER_KINDS})
    async with record_server(eventful_between) as url, open_api(url, asyncio.sleep) as source:
        assert (await verify(source, [], silent)).links == result.links


async def test_a_discrepancy_beside_later_entries(copy):
    """This version may not know all rules of such a record, and says so."""
    append(copy, JournalKind.NOTE, {})
    changed(copy, "UPDATE picks SET reasoning = 'another' WHERE position = 2")
    for text in await discrepancies(copy):
        assert "(rule: row)" in text
        assert text.endswith("rules of this record: verify it with a newer version.")


async def discrepancies(address: str) -> list[str]:
    """Return what `verify` names, from the database and from the API."""
    texts = []
    with pytest.raises(Discrepancy) as found:
        async with open_database(address) as source:
            await verify(source, [], silent)
    texts.append(str(found.value))
    with pytest.raises(Discrepancy) as found:
        async with record_server(address) as url, open_api(url, asyncio.sleep) as source:
            await verify(source, [], silent)
    return [*texts, str(found.value)]


async def test_later_kinds_are_links(copy):
    for kind, recorded in LATER_KINDS.items():
        append(copy, kind, recorded)
    async with open_database(copy) as source:
        result = await verify(source, [], silent)
    assert result.links == len(LATER_KINDS)
    async with record_server(copy) as url, open_api(url, asyncio.sleep) as source:
        result = await verify(source, [], silent)
    assert result.links == len(LATER_KINDS)


def test_the_command_says_how_many(copy, tmp_path):
    for kind, recorded in LATER_KINDS.items():
        append(copy, kind, recorded)
    done = run("verify", cwd=tmp_path, DATABASE_URL=copy)
    assert done.returncode == 0, done.stderr
    _, links, fits = done.stdout.splitlines()
    assert links == (
        f"{len(LATER_KINDS)} entries of kinds that this version does not know: only the chain of "
        "hashes was checked there. A newer version checks the rest."
    )
    assert fits.startswith("Everything fits: ")


def test_an_unknown_kind_is_refused_by_the_database(copy):
    with pytest.raises(psycopg.errors.CheckViolation, match="journal_kind_is_known"):
        append(copy, "NONSENSE", {})


async def test_a_kind_that_even_the_database_does_not_know(copy):
    """A database of a later version may have more kinds."""
    with unguarded(copy) as conn:
        conn.execute("ALTER TABLE journal DROP CONSTRAINT journal_kind_is_known")
    append(copy, "NONSENSE", {"text": "of a later version"})
    async with open_database(copy) as source:
        assert (await verify(source, [], silent)).links == 1


def changed_content(content: str, **members: object) -> str:
    """Return a content with other members, in the canonical form."""
    return journal.canonical_json({**json.loads(content), **members})


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        pytest.param(
            "kind", "SUPPLEMENT", "its kind is 'SUPPLEMENT', but its content says 'NOTE'", id="kind"
        ),
        pytest.param("at", datetime(2026, 1, 1, tzinfo=UTC), "its at is '2026-01-01", id="time"),
        pytest.param("hash", "0" * 64, "but its content gives", id="hash"),
        pytest.param("previous", "f" * 64, "follows the hash ffff", id="previous"),
        pytest.param("content", '{"kind": "NOTE"}', "but its content gives", id="content"),
    ],
)
async def test_a_link_must_fit(copy, column, value, message):
    entry = append(copy, JournalKind.NOTE, {})
    with unguarded(copy) as conn:
        conn.execute(f"UPDATE journal SET {column} = %s WHERE seq = %s", (value, entry.seq))
    for text in await discrepancies(copy):
        assert message in text


async def test_rows_in_a_link_are_no_mention(copy):
    """A batch that only an entry of an unknown kind mentions has no entry that records it."""
    with unguarded(copy) as conn:
        (seq,) = conn.execute("SELECT max(seq) FROM journal WHERE kind = 'CHECKPOINT'").fetchone()
        kinds = conn.execute(
            "SELECT seq, content FROM journal WHERE seq >= %s ORDER BY seq", (seq,)
        ).fetchall()
        before = conn.execute("SELECT hash FROM journal WHERE seq = %s", (seq - 1,)).fetchone()[0]
        for number, text in kinds:
            content = text
            kind = json.loads(text)["kind"]
            if number == seq:
                kind = "NOTE"
                content = changed_content(text, kind=kind)
            hash = journal.entry_hash(before, content)
            conn.execute(
                "UPDATE journal SET kind = %s, content = %s, previous = %s, hash = %s "
                "WHERE seq = %s",
                (kind, content, before, hash, number),
            )
            before = hash
    async with open_database(copy) as source:
        with pytest.raises(Discrepancy) as found:
            await verify(source, [], silent)
    # The hidden entry was the last mention of the checkpoint, and of a batch that it completed.
    assert "(rule: " in str(found.value)


def test_the_independent_verifier_counts_links(copy):
    kinds = (JournalKind.NOTE, JournalKind.SUPPLEMENT)
    for kind in kinds:
        append(copy, kind, LATER_KINDS[kind])
    verification = IndependentVerification(SessionCalendar(()))
    for entry in entries(copy):
        verification.take(entry)
    assert verification.links == len(kinds)


def entries(address: str) -> list[dict[str, Any]]:
    """Return the entries as an API shows them."""
    with psycopg.connect(address) as conn:
        rows = conn.execute(
            "SELECT seq, kind, at, content, previous, hash FROM journal ORDER BY seq"
        ).fetchall()
    return [
        {
            "seq": str(seq),
            "kind": kind,
            "at": journal.format_timestamp(at),
            "content": content,
            "previous": previous,
            "hash": hash,
        }
        for seq, kind, at, content, previous, hash in rows
    ]
