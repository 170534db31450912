"""The journal: its canonical form, its chain, and what Postgres refuses."""

import asyncio
import hashlib
import json
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from later_kinds import FIRST_KINDS, LATER_KINDS, append_later

from app.database import pools
from app.domain import journal
from app.domain.journal import GENESIS_HASH, canonical_json
from app.domain.model import Close, JournalEntry, JournalHead, JournalKind
from app.store import journal as store

AT = datetime(2026, 1, 5, 14, 0, 20, 123456, tzinfo=UTC)
BATCH = UUID("00000000-0000-4000-8000-000000000001")

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=60)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param({}, "{}", id="nothing"),
        pytest.param({"b": "1", "a": "2"}, '{"a":"2","b":"1"}', id="members in order"),
        pytest.param(
            {"a": {"d": "1", "c": "2"}}, '{"a":{"c":"2","d":"1"}}', id="within members, too"
        ),
        pytest.param(
            {"a": [{"d": "1", "c": "2"}, ["y", "x"]]},
            '{"a":[{"c":"2","d":"1"},["y","x"]]}',
            id="lists stay",
        ),
        pytest.param({"a": ()}, '{"a":[]}', id="an empty list stays"),
        pytest.param(
            {"a1": "", "a": "", "A": "", "_": ""},
            '{"A":"","_":"","a":"","a1":""}',
            id="capitals first",
        ),
        pytest.param(
            {
                "\u20ac": "",
                "\r": "",
                "\ufb33": "",
                "1": "",
                "\U0001f600": "",
                "\x80": "",
                "\xf6": "",
            },
            '{"\\r":"","1":"","\x80":"","\xf6":"","\u20ac":"","\U0001f600":"","\ufb33":""}',
            id="the order of UTF-16, as the RFC shows it",
        ),
        pytest.param({"a": '"\\/'}, r'{"a":"\"\\/"}', id="quotes and backslashes, not slashes"),
        pytest.param({"a": "\b\t\n\f\r"}, r'{"a":"\b\t\n\f\r"}', id="the five short escapes"),
        pytest.param(
            {"a": "\x01\x0b\x1f"},
            r'{"a":"\u0001\u000b\u001f"}',
            id="control characters, in small hex",
        ),
        pytest.param(
            {"a": "\x7f\x85\u2028\u2029"},
            '{"a":"\x7f\x85\u2028\u2029"}',
            id="nothing else is escaped",
        ),
        pytest.param({"a": "naïve 株価 🚀"}, '{"a":"naïve 株価 🚀"}', id="any language"),
        pytest.param(
            {"a": "e\u0301", "b": "\xe9"}, '{"a":"e\u0301","b":"\xe9"}', id="not normalised"
        ),
        pytest.param({"a": None, "b": "1"}, '{"b":"1"}', id="a member without a value is left out"),
        pytest.param({"a": {"b": None}}, '{"a":{}}', id="within a member, too"),
        pytest.param({"a": ""}, '{"a":""}', id="an empty text is a value"),
        pytest.param(
            {"a": 12, "b": -1, "c": 0}, '{"a":"12","b":"-1","c":"0"}', id="whole numbers are text"
        ),
        pytest.param(
            {"a": True, "b": False}, '{"a":"true","b":"false"}', id="truth values are text"
        ),
        pytest.param(
            {"a": Decimal("187.4200"), "b": Decimal("1E+3"), "c": Decimal("-1E-10")},
            '{"a":"187.4200","b":"1000","c":"-0.0000000001"}',
            id="decimals in plain notation, with every digit",
        ),
        pytest.param({"a": AT}, '{"a":"2026-01-05T14:00:20.123456Z"}', id="a time"),
        pytest.param(
            {"a": datetime(2026, 7, 6, 9, tzinfo=timezone(timedelta(hours=-4)))},
            '{"a":"2026-07-06T13:00:00.000000Z"}',
            id="a time of another zone is written in UTC, with six digits",
        ),
        pytest.param({"a": date(2026, 1, 5)}, '{"a":"2026-01-05"}', id="a date"),
        pytest.param({"a": BATCH}, f'{{"a":"{BATCH}"}}', id="an id"),
        pytest.param({"a": JournalKind.PICK_ENDED}, '{"a":"PICK_ENDED"}', id="a kind"),
    ],
)
def test_canonical(value, expected):
    """Canonical JSON conforms to RFC 8785, and all of its values are texts."""
    assert canonical_json(value) == expected


def test_a_row_is_written_with_its_columns():
    """A row in the journal equals the row of the table, without its empty columns."""
    close = Close(
        id=BATCH,
        ticker="KO",
        trading_day=date(2026, 1, 2),
        open=None,
        close=Decimal("61.07"),
        source="test",
        read_at=AT,
    )
    assert canonical_json({"closes": [close]}) == (
        f'{{"closes":[{{"close":"61.07","id":"{BATCH}","read_at":"2026-01-05T14:00:20.123456Z",'
        '"source":"test","ticker":"KO","trading_day":"2026-01-02"}]}'
    )


@settings(deadline=None)
@given(st.dictionaries(texts, texts | st.lists(texts, max_size=3), max_size=6))
def test_canonical_json_is_json(value):
    """
    Any JSON parser can read it, and encodes it to the same bytes; members are sorted by UTF-16.
    """
    text = canonical_json(value)
    assert json.loads(text) == value
    assert canonical_json(json.loads(text)) == text
    names = [name.encode("utf-16-be") for name in json.loads(text)]
    assert names == sorted(names)


def test_the_hashes_of_a_chain():
    """
    The previous hash of the first entry is 64 zeros; each hash is the SHA-256 of the previous hash,
    a line feed and the content.
    """
    first = journal.next_entry(
        after=None,
        kind=JournalKind.BATCH,
        at=AT,
        recorded={"price": Decimal("61.0700")},
        batch=BATCH,
    )
    second = journal.next_entry(
        after=first,
        kind=JournalKind.CHECKPOINT,
        at=AT + timedelta(days=1),
        recorded={"note": "né"},
        batch=BATCH,
    )

    content = '{"at":"2026-01-05T14:00:20.123456Z","kind":"BATCH","price":"61.0700","seq":"1"}'
    assert (first.seq, first.previous, first.content) == (1, "0" * 64, content)
    assert first.hash == hashlib.sha256(b"0" * 64 + b"\n" + content.encode()).hexdigest()

    content = '{"at":"2026-01-06T14:00:20.123456Z","kind":"CHECKPOINT","note":"né","seq":"2"}'
    assert (second.seq, second.previous, second.content) == (2, first.hash, content)
    assert second.hash == hashlib.sha256(first.hash.encode() + b"\n" + content.encode()).hexdigest()
    assert (second.kind, second.at, second.batch_id) == (
        JournalKind.CHECKPOINT,
        AT + timedelta(days=1),
        BATCH,
    )


async def append_entry(
    pool: pools.Pool, kind: JournalKind = JournalKind.BATCH, **recorded: object
) -> JournalEntry:
    """Append an entry in a transaction of its own."""
    async with pools.transaction(pool) as conn:
        return await store.append(conn, kind, at=AT, recorded=recorded, batch_id=BATCH)


async def entries(pool: pools.Pool) -> list[tuple[int, str, str, str]]:
    """Return the chain as it is stored: seq, content, previous, hash."""
    async with pool.connection() as conn:
        cursor = await conn.execute("SELECT seq, content, previous, hash FROM journal ORDER BY seq")
        return await cursor.fetchall()


def is_unbroken(chain: list[tuple[int, str, str, str]]) -> bool:
    """Return whether a chain has no gap and no fork, using only hashlib."""
    before = "0" * 64
    for number, (seq, content, previous, hashed) in enumerate(chain, 1):
        stored_seq = json.loads(content)["seq"]
        digest = hashlib.sha256(f"{before}\n{content}".encode()).hexdigest()
        if (seq, stored_seq, previous, hashed) != (number, str(number), before, digest):
            return False
        before = hashed
    return True


async def test_append(pool):
    """An entry is stored as it was returned, and becomes the head."""
    async with pool.connection() as conn:
        assert await store.head(conn) is None
    first, second = (
        await append_entry(pool, name="one"),
        await append_entry(pool, JournalKind.GENERATION, name="two"),
    )
    async with pool.connection() as conn:
        assert await store.head(conn) == JournalHead(second.seq, second.hash, second.at)
    assert await entries(pool) == [(e.seq, e.content, e.previous, e.hash) for e in (first, second)]
    assert (first.previous, second.previous) == (GENESIS_HASH, first.hash)
    assert is_unbroken(await entries(pool))


@pytest.mark.parametrize("later", LATER_KINDS)
async def test_append_after_an_entry_of_a_later_kind(pool, database, later):
    """The head may be of a kind that only a later version writes: every kind follows it."""
    await append_entry(pool)
    for kind in FIRST_KINDS:
        with psycopg.connect(database) as conn:
            head = append_later(conn, later)
        async with pool.connection() as conn:
            assert await store.head(conn) == JournalHead(head.seq, head.hash, head.at)
        entry = await append_entry(pool, kind, name="after")
        assert (entry.seq, entry.previous) == (head.seq + 1, head.hash)
    assert is_unbroken(await entries(pool))


async def test_each_kind_is_decoded(pool, database):
    """The kinds of version 0.1.0 are read as before, and so are those of later versions."""
    for kind in FIRST_KINDS:
        await append_entry(pool, kind, name=kind)
    with psycopg.connect(database) as conn:
        for kind in LATER_KINDS:
            append_later(conn, kind, BATCH)
    async with pool.connection() as conn:
        for kind in FIRST_KINDS:
            (content,) = await store.list_contents(conn, BATCH, kind)
            assert (content["kind"], content["name"]) == (kind, kind)
        for kind, recorded in LATER_KINDS.items():
            (content,) = await store.list_contents(conn, BATCH, kind)
            assert content == json.loads(
                canonical_json({**content, **recorded, "kind": kind, "at": AT})
            )
    assert {*FIRST_KINDS, *LATER_KINDS} < {*JournalKind}


async def test_an_entry_belongs_to_its_transaction(pool):
    """A transaction that is rolled back leaves no entry, and no gap."""
    await append_entry(pool)
    async with pools.transaction(pool) as conn:
        lost = {"name": "lost"}
        await store.append(conn, JournalKind.BATCH, at=AT, recorded=lost, batch_id=None)
        raise psycopg.Rollback
    await append_entry(pool)
    assert [seq for seq, *_ in await entries(pool)] == [1, 2]
    assert is_unbroken(await entries(pool))


async def test_four_connections_append_at_once(pool):
    """
    Four connections that append at once wait for each other: no gap, no fork, and no entry is
    lost.
    """

    async def appender(name: str) -> None:
        for number in range(10):
            await append_entry(pool, name=name, number=number)

    await asyncio.gather(*(appender(name) for name in "abcd"))
    chain = await entries(pool)
    assert len(chain) == 40
    assert is_unbroken(chain)
    appended = [
        (content["name"], int(content["number"]))
        for content in (json.loads(row[1]) for row in chain)
    ]
    assert sorted(appended) == [(name, number) for name in "abcd" for number in range(10)]
    assert [name for name, _ in appended] != sorted(name for name, _ in appended), "they took turns"


@pytest.mark.parametrize(
    ("statement", "name"),
    [
        pytest.param(
            "UPDATE journal SET content = '{}'", "the_journal_is_append_only", id="update"
        ),
        pytest.param(
            "UPDATE journal SET batch_id = NULL",
            "the_journal_is_append_only",
            id="update of a batch",
        ),
        pytest.param(
            "DELETE FROM journal WHERE seq = 2",
            "the_journal_is_append_only",
            id="delete of the head",
        ),
        pytest.param("DELETE FROM journal", "the_journal_is_append_only", id="delete of all"),
        pytest.param("TRUNCATE journal", "the_journal_is_never_emptied", id="truncate"),
    ],
)
async def test_the_journal_is_append_only(pool, statement, name):
    """Postgres refuses every change of a stored entry."""
    await append_entry(pool)
    await append_entry(pool)
    before = await entries(pool)
    with pytest.raises(psycopg.errors.RestrictViolation) as refused:
        async with pool.connection() as conn:
            await conn.execute(statement)
    assert refused.value.diag.constraint_name == name
    assert await entries(pool) == before


def an_entry(after: JournalEntry, **changes: object) -> dict[str, object]:
    """Return a valid next row after `after`, with changes; its hash is that of its content."""
    content = canonical_json({"name": "next"})
    row = {
        "seq": after.seq + 1,
        "kind": "BATCH",
        "at": AT,
        "content": content,
        "previous": after.hash,
    } | changes
    row.setdefault(
        "hash", hashlib.sha256(f"{row['previous']}\n{row['content']}".encode()).hexdigest()
    )
    return row


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        pytest.param({"hash": "0" * 64}, "hash_is_of_previous_and_content", id="a wrong hash"),
        pytest.param(
            {"hash": hashlib.sha256(b"{}").hexdigest(), "content": "{}"},
            "hash_is_of_previous_and_content",
            id="the hash of the content alone",
        ),
        pytest.param({"seq": 4}, "an_entry_follows_the_head", id="a gap"),
        pytest.param({"seq": 2}, "an_entry_follows_the_head", id="a number in use"),
        pytest.param({"seq": 0}, "an_entry_follows_the_head", id="a number before the first"),
        pytest.param(
            {"previous": GENESIS_HASH}, "an_entry_follows_the_head", id="a second first entry"
        ),
        pytest.param(
            {"previous": "f" * 64}, "an_entry_follows_the_head", id="an unknown previous hash"
        ),
        pytest.param({"kind": "MEMO"}, "journal_kind_is_known", id="an unknown kind"),
    ],
)
async def test_refused_entries(pool, changes, name):
    """An entry that breaks a rule is refused by that rule."""
    await append_entry(pool)
    row = an_entry(await append_entry(pool), **changes)
    with pytest.raises(psycopg.errors.CheckViolation) as refused:
        async with pool.connection() as conn:
            await conn.execute(
                "INSERT INTO journal (seq, kind, at, content, previous, hash) "
                "VALUES (%(seq)s, %(kind)s, %(at)s, %(content)s, %(previous)s, %(hash)s)",
                row,
            )
    assert refused.value.diag.constraint_name == name
    assert len(await entries(pool)) == 2


async def test_the_right_entry_is_taken(pool):
    """The unchanged row, from which the refused ones differ, is accepted."""
    row = an_entry(await append_entry(pool))
    async with pool.connection() as conn:
        await conn.execute(
            "INSERT INTO journal (seq, kind, at, content, previous, hash) "
            "VALUES (%(seq)s, %(kind)s, %(at)s, %(content)s, %(previous)s, %(hash)s)",
            row,
        )
    assert [seq for seq, *_ in await entries(pool)] == [1, 2]


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(text=texts)
def test_any_text_is_stored_unchanged(database, text):
    """
    Every text that Postgres can store is stored unchanged, and has the same hash there and here.
    """
    entry = journal.next_entry(after=None, kind=JournalKind.BATCH, at=AT, recorded={"text": text})
    with psycopg.connect(database) as conn:
        content, hashed = conn.execute(
            "SELECT %s::text, encode(sha256(convert_to(%s || chr(10) || %s, 'UTF8')), 'hex')",
            (entry.content, entry.previous, entry.content),
        ).fetchone()
        conn.execute(
            "INSERT INTO journal (seq, kind, at, content, previous, hash) VALUES (1, 'BATCH', %s, "
            "%s, %s, %s)",
            (AT, entry.content, entry.previous, entry.hash),
        )
        stored = conn.execute("SELECT content, content::jsonb ->> 'text' FROM journal").fetchone()
        conn.rollback()
    assert (content, hashed) == (entry.content, entry.hash)
    assert stored == (entry.content, text)
