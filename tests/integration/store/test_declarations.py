"""Declarations in the journal: when they are written, and which version may record."""

import asyncio
import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import psycopg
import pytest
from declaring import PROFILE, in_force, question
from msgspec.structs import replace
from record_server import make_unreadable

from app.core.locks import Lock
from app.database import pools
from app.domain.calendar import Calendar
from app.domain.declarations import ProviderResponse, ResponseKind, SeriesInForce
from app.domain.model import Bar, JournalKind
from app.errors import RecordDamaged, TryAgainAt
from app.store import closes, declarations, generations, journal, splits
from app.store.rehearsed import CREATE_CLOCK_TABLE, is_rehearsed

MONDAY = date(2026, 10, 26)
BASELINE = date(2026, 10, 23)
NINE = datetime(2026, 10, 26, 13, tzinfo=UTC)
BARS = [Bar(trading_day=BASELINE, open=Decimal("600.0000"), close=Decimal("600.0000"))]


async def claim(pool, process=None, *, attempt=1, series="main", at=NINE):
    """Claim a question of a process; an older version if `process` is None."""
    async with pools.transaction(pool) as conn:
        return await generations.claim(conn, question(MONDAY, at, attempt, series), process)


async def complete(pool, claimed):
    """Store a refusal of a question's answer."""
    done = replace(
        claimed, answered_at=NINE, answered_model="m", answer="?", accepted=False, refusal="No."
    )
    async with pools.transaction(pool) as conn:
        assert await generations.complete(conn, done, NINE)


async def read_response(pool, process, bars=BARS, at=NINE):
    """Store a response of the price provider."""
    async with pools.transaction(pool) as conn:
        inserted = await closes.insert_new(conn, "SPY", bars, "alphavantage X", at)
        response = ProviderResponse(
            source="alphavantage X",
            kind=ResponseKind.CLOSES,
            ticker="SPY",
            read_at=at,
            first_session=BASELINE,
            last_session=BASELINE,
            sha256="0" * 64,
        )
        await journal.append_readings(conn, response, closes=inserted.readings, in_force=process)


async def contents(pool) -> list[dict]:
    async with pool.connection() as conn:
        cursor = await conn.execute("SELECT content FROM journal ORDER BY seq")
        return [json.loads(content) for (content,) in await cursor.fetchall()]


async def kinds(pool) -> list[str]:
    return [content["kind"] for content in await contents(pool)]


async def test_a_new_record_begins_with_its_declarations(pool):
    """GENESIS has a random id, the origin and the settings; SERIES has the profile."""
    claimed = await claim(pool, in_force())
    genesis, series, asked = await contents(pool)
    assert genesis["genesis"]["origin"] == "LIVE"
    assert genesis["genesis"]["late"] == "false"
    assert len(bytes.fromhex(genesis["genesis"]["record_id"])) == 16
    assert genesis["settings"]["calendar_from"] == str(BASELINE)
    assert genesis["settings"]["calendar_to"] == "2028-12-31"
    assert series["series"]["holds_from"] == str(MONDAY)
    assert series["series"]["profile_sha256"] == PROFILE.sha256 == claimed.profile_sha256
    assert asked["generation"]["profile_sha256"] == PROFILE.sha256
    assert asked["at"] == asked["generation"]["asked_at"] == "2026-10-26T13:00:00.000000Z"
    assert "accepted" not in asked["generation"]
    assert not await is_rehearsed(pool)


async def test_the_origin_of_a_rehearsal(pool):
    """A record in a database with a simulated clock is rehearsed, and stays so without it."""
    async with pool.connection() as conn:
        await conn.execute(CREATE_CLOCK_TABLE)
    await claim(pool, in_force())
    async with pool.connection() as conn:
        await conn.execute("DROP SCHEMA told CASCADE")
    assert await is_rehearsed(pool)


async def test_two_first_entries_at_once(pool):
    """One process begins the record; the other one declares what differs."""
    processes = [in_force(), in_force(version="0.3.1")]
    claims = [claim(pool, one, attempt=number) for number, one in enumerate(processes, 1)]
    await asyncio.gather(*claims)
    assert await kinds(pool) == ["GENESIS", "SERIES", "GENERATION", "SETTINGS", "GENERATION"]


async def test_ordinary_operation_declares_nothing(pool):
    """Questions, their outcomes and responses of the same process write no second declaration."""
    await complete(pool, await claim(pool, in_force()))
    await read_response(pool, in_force())
    await complete(pool, await claim(pool, in_force(), attempt=2))
    await read_response(pool, in_force(), at=NINE + timedelta(hours=1))
    assert await kinds(pool) == [
        *["GENESIS", "SERIES"],
        *["GENERATION", "GENERATION", "READINGS"],
        *["GENERATION", "GENERATION", "READINGS"],
    ]
    assert [len(one["closes"]) for one in await contents(pool) if "closes" in one] == [1, 0]


async def test_a_change_is_declared_before_the_next_claim(pool):
    """First the settings, then the series, then the question with the new profile."""
    await complete(pool, await claim(pool, in_force()))
    profile = replace(PROFILE, model="gpt-5.4")
    series = SeriesInForce(name="main", label="gpt-5.4", profile=profile)
    changed = in_force(series=(series,), calendar=Calendar([date(2026, 11, 24)]))
    assert (await claim(pool, changed, attempt=2)).profile_sha256 == profile.sha256
    assert (await kinds(pool))[-3:] == ["SETTINGS", "SERIES", "GENERATION"]


async def test_what_began_before_a_change_is_exempt(pool):
    """
    Another process declares its settings between a claim and its outcome: neither the outcome nor
    the response that was received meanwhile declares the earlier settings again.
    """
    claimed = await claim(pool, in_force())
    await claim(pool, in_force(benchmark="QQQ"), attempt=2)
    await complete(pool, claimed)
    await read_response(pool, in_force())
    assert (await kinds(pool))[3:] == ["SETTINGS", "GENERATION", "GENERATION", "READINGS"]
    # The next entry of the first process is a new step, so its settings are declared.
    await claim(pool, in_force(), attempt=3)
    assert (await kinds(pool))[7:] == ["SETTINGS", "GENERATION"]


async def test_a_series_that_was_never_declared(pool):
    """The newest SERIES entry is of another series: the series is declared at its first claim."""
    await claim(pool, in_force())
    profile = replace(PROFILE, model="another")
    both = (*in_force().series, SeriesInForce(name="another", label="Another", profile=profile))
    claimed = await claim(pool, in_force(series=both), series="another")
    assert claimed.profile_sha256 == profile.sha256
    await claim(pool, in_force(), attempt=2)
    # A process without the other series retires it.
    assert (await kinds(pool))[2:] == ["GENERATION", "SERIES", "GENERATION", "SERIES", "GENERATION"]


async def test_a_record_of_an_older_version_goes_on_as_before(pool):
    """No declarations, no claims, no READINGS entries, and no profiles."""
    await complete(pool, await claim(pool))
    claimed = await claim(pool, in_force(), attempt=2)
    assert claimed.profile_sha256 is None
    await complete(pool, claimed)
    await read_response(pool, in_force())
    assert await kinds(pool) == ["GENERATION", "GENERATION"]


async def test_an_older_version_has_asked_the_first_question(pool):
    """The record has no entry yet, but it is not new: it is not sealed by the newer version."""
    first = await claim(pool)
    assert (await claim(pool, in_force(), attempt=2)).profile_sha256 is None
    await read_response(pool, in_force())
    assert await kinds(pool) == []
    await complete(pool, first)
    assert await kinds(pool) == ["GENERATION"]


async def test_an_older_version_writes_the_first_entry_during_a_claim(pool):
    """The claim is made again, for a record that is not sealed."""
    async with pools.transaction(pool) as other:
        await other.execute("SELECT pg_advisory_xact_lock(%s)", (Lock.JOURNAL,))
        waiting = asyncio.create_task(claim(pool, in_force()))
        while not await is_waiting(pool):
            await asyncio.sleep(0.01)
        await journal.append(
            other, JournalKind.FAILURE, at=NINE, recorded={"batch": {}}, batch_id=None
        )
    with pytest.raises(TryAgainAt):
        await waiting
    assert (await claim(pool, in_force())).profile_sha256 is None
    assert await kinds(pool) == ["FAILURE"]


async def is_waiting(pool) -> bool:
    """Return whether a process waits for an advisory lock."""
    async with pool.connection() as conn:
        query = "SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        return await (await conn.execute(query)).fetchone() is not None


INSERTS = {
    "closes": (
        "INSERT INTO closes (id, ticker, trading_day, close, source, read_at) "
        "VALUES (gen_random_uuid(), 'KO', '2026-10-23', 60, 'x', now())"
    ),
    "splits": (
        "INSERT INTO splits (ticker, effective_date, factor, source, read_at) "
        "VALUES ('KO', '2026-10-23', 2, 'x', now())"
    ),
    "generations": (
        "INSERT INTO generations (id, series, run_date, attempt, asked_at, requested_model, "
        "prompt_version, system_prompt, user_prompt) "
        "VALUES (gen_random_uuid(), 'main', '2026-10-26', 9, now(), 'm', '1', 's', 'u')"
    ),
}


REFUSAL = (
    "This record is sealed: use version 0.3.0 or newer of alpha-monday to record in it. "
    "This program is older."
)


async def refused(pool, statement, *values) -> None:
    """Execute a statement as an older version does, and expect its refusal."""
    with pytest.raises(psycopg.errors.CheckViolation) as error:
        async with pools.transaction(pool) as conn:
            await conn.execute(statement, values)
    assert error.value.diag.constraint_name == "this_record_is_sealed"
    assert error.value.diag.message_primary == REFUSAL


@pytest.mark.parametrize("table", INSERTS)
async def test_a_version_that_does_not_know_sealed_records(pool, table):
    """Postgres refuses its questions and readings, in one line that says what to use."""
    await claim(pool, in_force())
    await refused(pool, INSERTS[table])
    async with pools.transaction(pool) as conn:
        await declarations.declare_version(conn)
        await conn.execute(INSERTS[table])
    # The declaration ends with its transaction: the next user of the connection is refused.
    await refused(pool, INSERTS[table])


@pytest.mark.parametrize("table", INSERTS)
async def test_a_record_that_is_not_sealed_refuses_no_version(pool, table):
    """Until the seal, versions before this one record as ever."""
    await complete(pool, await claim(pool))
    async with pools.transaction(pool) as conn:
        await conn.execute(INSERTS[table])


# The entries of an older version that need no new question and no new reading.
OLDER_ENTRIES = (
    "BATCH",
    "CHECKPOINT",
    "FAILURE",
    "CORRECTION",
    "PICK_ENDED",
    "PICK_RENAMED",
    "SETTINGS",
)
APPEND = """
INSERT INTO journal (seq, kind, at, content, previous, hash)
SELECT seq + 1, %s, at, '{}', hash,
    encode(sha256(convert_to(hash || chr(10) || '{}', 'UTF8')), 'hex')
FROM journal ORDER BY seq DESC LIMIT 1
"""


@pytest.mark.parametrize("kind", OLDER_ENTRIES)
async def test_an_entry_of_a_version_that_does_not_know_sealed_records(pool, kind):
    """It does not declare its settings, so it appends nothing, with or without a new row."""
    await claim(pool, in_force())
    await refused(pool, APPEND, kind)
    async with pools.transaction(pool) as conn:
        await declarations.declare_version(conn)
        await conn.execute(APPEND, (kind,))
    await refused(pool, APPEND, kind)


@pytest.mark.parametrize("kind", OLDER_ENTRIES)
async def test_an_entry_of_an_older_version_before_the_seal(pool, kind):
    """Until the seal, it is appended as ever."""
    await complete(pool, await claim(pool))
    async with pools.transaction(pool) as conn:
        await conn.execute(APPEND, (kind,))


async def test_an_older_version_completes_its_question_from_before_the_seal(pool):
    """So an answer that was on its way during the seal is not lost."""
    await claim(pool, in_force())
    async with pools.transaction(pool) as conn:
        await conn.execute(APPEND, ("GENERATION",))


async def test_an_older_version_cannot_complete_a_question_with_a_profile(pool):
    """Its entry would lack the profile. A question from before the seal can be completed."""
    claimed = await claim(pool, in_force())
    refuse = "UPDATE generations SET accepted = false, refusal = 'Late.' WHERE id = %s"
    await refused(pool, refuse, claimed.id)
    async with pools.transaction(pool) as conn:
        await declarations.declare_version(conn)
        await conn.execute(INSERTS["generations"])
    async with pools.transaction(pool) as conn:
        cursor = await conn.execute("SELECT id FROM generations WHERE profile_sha256 IS NULL")
        await conn.execute(refuse, await cursor.fetchone())


async def test_a_declaration_that_cannot_be_read(pool):
    """The record is damaged: one line says which entry, and what to do."""
    await claim(pool, in_force())
    async with pools.transaction(pool) as conn:
        recorded = {"settings": {"version": "0.3.0", "calendar_to": "soon"}}
        await journal.append(conn, JournalKind.SETTINGS, at=NINE, recorded=recorded, batch_id=None)
    with pytest.raises(RecordDamaged, match="the `settings` of entry 4 of the journal cannot be"):
        await claim(pool, in_force(), attempt=2)


async def test_a_declaration_that_is_no_json(pool, database):
    """The record is damaged, too: no error of a library reaches the log."""
    await claim(pool, in_force())
    make_unreadable(database, "GENESIS")
    with pytest.raises(RecordDamaged, match="the `content` of entry 1 of the journal cannot be"):
        await claim(pool, in_force(), attempt=2)


async def test_a_series_that_is_no_json(pool, database):
    """The record is damaged: the line names the entry, also if another series is asked for."""
    await claim(pool, in_force())
    make_unreadable(database, "SERIES")
    async with pool.connection() as conn:
        for name in ("main", "other"):
            with pytest.raises(RecordDamaged, match="the `content` of entry 2 of the journal"):
                await declarations.list_series(conn, name, 9)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "null",
        "[]",
        '{"series":"main"}',
        '{"series":{"name":"main"}}',
        r'{"series":{"name":"main","x":"\u0000"}}',
        r'{"series":{"name":"main","x":"\ud800"}}',
        '{"series":' + "[" * 100_000,
    ],
    ids=range(8),
)
async def test_a_series_that_cannot_be_read(pool, database, content):
    """The next question is not asked: one line names the entry, whatever its content is."""
    await claim(pool, in_force())
    make_unreadable(database, "SERIES", content)
    with pytest.raises(RecordDamaged, match=r"the `(series|content)` of entry 2 of the journal"):
        await claim(pool, in_force(), attempt=2)


async def test_a_series_of_a_later_version(pool):
    """A series of a kind that this version does not know says nothing about the others."""
    await claim(pool, in_force())
    async with pools.transaction(pool) as conn:
        recorded = {"series": {"name": "later", "kind": "of a later version"}}
        await journal.append(conn, JournalKind.SERIES, at=NINE, recorded=recorded, batch_id=None)
    await claim(pool, in_force(), attempt=2)
    async with pool.connection() as conn:
        assert len(await declarations.list_series(conn, "main", 9)) == 1


async def test_a_series_among_many_others(pool):
    """The declarations of a series are found behind more of another one than one page has."""
    await claim(pool, in_force())
    for number in range(60):
        label = f"model {number}"
        other = SeriesInForce(name="other", label=label, profile=replace(PROFILE, model=label))
        both = (*in_force().series, other)
        await claim(pool, in_force(series=both), attempt=number + 1, series="other")
    async with pool.connection() as conn:
        (main,) = await declarations.list_series(conn, "main", 9)
        others = await declarations.list_series(conn, "other", 55)
        assert await declarations.list_series(conn, "a third", 1) == []
        recent = await declarations.list_recent_series(conn, 55)
    assert recent == {"main": [main], "other": others}
    assert main.value.label == "gpt-5.4-mini"
    assert [one.value.label for one in others] == [f"model {number}" for number in range(59, 4, -1)]


async def test_what_alternates_is_listed(pool):
    """The newest settings and the newest declarations of a series come first."""
    await claim(pool, in_force())
    await claim(pool, in_force(benchmark="QQQ"), attempt=2)
    async with pool.connection() as conn:
        listed = await declarations.list_settings(conn, 9)
        (series,) = await declarations.list_series(conn, "main", 9)
    assert [one.value.benchmark for one in listed] == ["QQQ", "SPY"]
    assert (series.at, series.value.profile) == (NINE, PROFILE)


async def test_splits_of_this_version_are_stored(pool):
    """The store of splits declares its version, too."""
    await claim(pool, in_force())
    async with pools.transaction(pool) as conn:
        split = splits.Split(
            ticker="KO",
            effective_date=BASELINE,
            factor=Decimal(2),
            source="alphavantage SPLITS",
            read_at=NINE,
        )
        assert await splits.insert(conn, split)
