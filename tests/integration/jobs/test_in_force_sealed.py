"""
What the jobs write first in a sealed record: declarations, the claim of each question, and an entry
of each response with prices. A record of an earlier version goes on as it was, until it is sealed.
"""

import asyncio
import hashlib
import json
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import psycopg
import pytest
from job_context import (
    ALPHA_VANTAGE_KEY,
    ASKED,
    DECLARED,
    FIRST_MONDAY,
    MONDAY,
    OPENAI_KEY,
    JobHarness,
    new_york,
    run_attempt,
)
from job_context import clock as clock
from job_context import harness as harness
from journal_checks import JOURNAL_LOCK, wait_for_blocked_connections
from msgspec import structs
from provider_server import Reply, Request, says
from record_server import check_record
from sealing import unseal

from app.core.locks import Lock
from app.database.pools import transaction
from app.domain.calendar import Calendar
from app.domain.declarations import InForce
from app.ops import seal as sealing
from app.store import declarations, generations
from app.store.rehearsed import CREATE_CLOCK_TABLE
from jobs import daily, splits, weekly
from jobs.context import Context

TUESDAY = MONDAY + timedelta(days=1)
NEXT_MONDAY = MONDAY + timedelta(weeks=1)
# A Monday of the second week without a holiday.
CLOSED = date(2026, 11, 30)


async def contents(harness: JobHarness, kind: str) -> list[dict[str, Any]]:
    """Return the contents of the entries of one kind, oldest first."""
    return [json.loads(entry.content) for entry in await harness.journal() if entry.kind == kind]


def with_in_force(harness: JobHarness, **changes: Any) -> InForce:
    """Let the process of the harness run with other settings. Return what is in force then."""
    in_force = structs.replace(harness.context.in_force, **changes)
    harness.context = replace(harness.context, in_force=in_force)
    return in_force


def other_profile(in_force: InForce) -> InForce:
    """Return the same settings with a temperature for the model."""
    (series,) = in_force.series
    profile = structs.replace(series.profile, temperature="0.5")
    return structs.replace(in_force, series=(structs.replace(series, profile=profile),))


# How a record begins


@pytest.mark.parametrize("origin", ["LIVE", "REHEARSED"])
async def test_a_record_begins_with_its_declarations(harness, origin):
    """The first entry says where the record comes from; the second has the profile, and no key."""
    if origin == "REHEARSED":
        await harness.rows(CREATE_CLOCK_TABLE)
    await harness.make_batch()
    await harness.make_batch(NEXT_MONDAY)
    begin, series = [json.loads(entry.content) for entry in (await harness.journal())[:2]]
    assert begin["genesis"]["origin"] == origin
    assert begin["genesis"]["late"] == "false"
    assert len(bytes.fromhex(begin["genesis"]["record_id"])) == 16
    settings = begin["settings"]
    assert (settings["calendar_from"], settings["calendar_to"]) == ("2026-10-23", "2028-12-31")
    assert settings["benchmark"] == "SPY"
    assert "2026-11-26" in settings["days_without_session"]
    assert series["series"]["holds_from"] == str(MONDAY)
    assert series["series"]["profile"]["model"] == "gpt-5.4-mini"
    for key in (OPENAI_KEY, ALPHA_VANTAGE_KEY):
        assert key not in json.dumps([begin, series])
    # The second Monday declares nothing, because nothing differs.
    assert await harness.kinds() == [*FIRST_MONDAY, *FIRST_MONDAY[2:]]


async def test_two_processes_begin_one_record(harness, database):
    """Of two processes that ask the first question at once, one asks. There is one GENESIS."""
    async with transaction(harness.context.pool) as conn:
        await conn.execute(JOURNAL_LOCK)
        both = [asyncio.ensure_future(run_attempt(harness.begin)) for _ in range(2)]
        await wait_for_blocked_connections(harness, 2)
    await asyncio.gather(*both)
    assert (await harness.kinds())[:4] == [*DECLARED, *ASKED]
    assert len(harness.questions) == 1
    await check_record(database)


# Each question and each response has its entry


async def test_a_question_is_an_entry_before_it_is_sent(harness):
    """When the model gets the question, its claim is committed, and no cached answer hides it."""
    kinds: list[str] = []

    def answers(request: Request) -> Reply:
        if request.path != "/query":
            with psycopg.connect(harness.context.pool.conninfo) as conn:
                kinds.extend(
                    kind for (kind,) in conn.execute("SELECT kind FROM journal ORDER BY seq")
                )
        return harness.world(request)

    harness.provider.answers = answers
    await harness.begin()
    assert kinds == [*DECLARED, "GENERATION"]


async def test_each_response_is_an_entry(harness, database):
    """An entry has the hash of the body, its first and last session, and what was kept of it."""
    sent: dict[str, Reply] = {}

    def answers(request: Request) -> Reply:
        reply = harness.world(request)
        sent[request.query.get("function", ""), request.query.get("symbol", "")] = reply
        return reply

    harness.provider.answers = answers
    await harness.begin()
    harness.clock.time = new_york(TUESDAY)
    batch = await harness.batch()
    harness.world.closes["MSFT", MONDAY] = "1.5000"
    harness.world.splits["MSFT"] = [(MONDAY, "2.0000")]
    await daily.take(harness.context, batch.id, 1)

    entries = await contents(harness, "READINGS")
    newest = {(one["response"]["kind"], one["response"]["ticker"]): one for one in entries}
    closes, listed = newest["CLOSES", "MSFT"], newest["SPLITS", "MSFT"]
    body = sent["TIME_SERIES_DAILY", "MSFT"].body
    assert closes["response"]["sha256"] == hashlib.sha256(body).hexdigest()
    assert closes["response"]["last_session"] == str(MONDAY)
    assert [close["close"] for close in closes["closes"]] == ["1.5000"]
    assert listed["response"]["sha256"] == hashlib.sha256(sent["SPLITS", "MSFT"].body).hexdigest()
    assert [split["factor"] for split in listed["splits"]] == ["2.0000"]
    assert closes["splits"] == listed["closes"] == []
    await check_record(database)


@pytest.mark.parametrize("hour", [9, 17, 23])
@pytest.mark.parametrize(
    "later", ["2026-10-28", "2026-10-31", "2026-11-02", "2027-10-27", "9999-12-31"]
)
@pytest.mark.sampled(5)
async def test_a_bar_of_a_later_day_is_no_evidence(harness, database, hour, later):
    """
    A response goes up to the day in New York on which it was read, whatever bars it has.

    At 23:00 in New York, it is tomorrow in UTC.
    """
    await harness.make_batch()
    harness.clock.time = new_york(TUESDAY, hour)
    harness.provider.answers = lambda request: with_bars(
        harness.world(request), str(TUESDAY), later
    )
    batch = await harness.batch()
    await daily.take(harness.context, batch.id, 1)

    (closes, *_) = reversed(await contents(harness, "READINGS"))
    assert closes["response"]["last_session"] == str(TUESDAY)
    checkpoint = (await contents(harness, "CHECKPOINT"))[-1]["checkpoint"]
    assert (checkpoint["status"], checkpoint["trading_day"]) == ("computed", str(MONDAY))
    await check_record(database)


def with_bars(reply: Reply, *days: str) -> Reply:
    """Return a response of the provider with bars of some more days."""
    body = json.loads(reply.body)
    if bars := body.get("Time Series (Daily)"):
        bars.update({day: {"1. open": "7.0000", "4. close": "7.0000"} for day in days})
    return says(body)


async def test_a_response_with_nothing_new_is_an_entry(harness, database):
    """An entry shows that the provider was asked, and what days its response had."""
    batch = await harness.make_batch()
    before = len(await contents(harness, "READINGS"))
    await splits.refresh_on_sunday(harness.context, batch, tickers=["SPY"], day=6)
    newest = (await contents(harness, "READINGS"))[before:]
    assert [(one["response"]["kind"], one["splits"]) for one in newest] == [("SPLITS", [])]
    assert "first_session" not in newest[0]["response"]
    await check_record(database)


# A change is declared before it has an effect


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"version": "9.9.9"}, id="another version"),
        pytest.param({"calendar": Calendar(frozenset({CLOSED}))}, id="a closed day"),
        pytest.param({"timestamp_roots": ("0" * 64,)}, id="another root certificate"),
    ],
)
async def test_changed_settings(harness, database, changes):
    """The first new fact under other settings comes after a SETTINGS entry, and only that one."""
    batch = await harness.make_batch()
    with_in_force(harness, **changes)
    harness.clock.time = new_york(TUESDAY)
    await daily.take(harness.context, batch.id, 1)
    harness.clock.time = new_york(TUESDAY + timedelta(days=1))
    await daily.take(harness.context, batch.id, 2)
    added = (await harness.kinds())[len(FIRST_MONDAY) :]
    assert [kind for kind in added if kind != "READINGS"] == [
        "SETTINGS",
        "CHECKPOINT",
        "CHECKPOINT",
    ]
    (declared,) = await contents(harness, "SETTINGS")
    assert (
        declared["settings"].items() != (await contents(harness, "GENESIS"))[0]["settings"].items()
    )
    await check_record(database)


async def test_several_corrections_after_a_change(harness, database, monkeypatch):
    """
    One split corrects checkpoints of two batches in one transaction: the first correction comes
    after the SETTINGS entry, and the later ones compare nothing.
    """
    first = await harness.make_batch()
    for day in range(1, 8):
        harness.clock.time = new_york(MONDAY + timedelta(days=day))
        await daily.take(harness.context, first.id, day)
    second = await harness.make_batch(NEXT_MONDAY)
    for day in (1, 2):
        harness.clock.time = new_york(NEXT_MONDAY + timedelta(days=day))
        await daily.take(harness.context, first.id, 7 + day)
        await daily.take(harness.context, second.id, day)
    before = len(await harness.kinds())

    with_in_force(harness, version="9.9.9")
    harness.world.splits["MSFT"] = [(NEXT_MONDAY, "2.0000")]
    compared: list[str] = []
    list_due = declarations.list_due

    async def counted(*arguments: Any, **options: Any) -> Any:
        due = await list_due(*arguments, **options)
        compared.append(",".join(kind for kind, _ in due))
        return due

    monkeypatch.setattr(declarations, "list_due", counted)
    harness.clock.time += timedelta(hours=1)
    await splits.refresh_on_sunday(harness.context, second, tickers=["MSFT"], day=6)
    added = (await harness.kinds())[before:]
    assert added == ["READINGS", "SETTINGS", *["CORRECTION"] * 4]
    assert compared == ["SETTINGS"]
    await check_record(database)


async def test_a_changed_profile(harness, database):
    """A question with another temperature comes after a SERIES entry, and names that profile."""
    await harness.make_batch()
    changed = other_profile(harness.context.in_force)
    with_in_force(harness, series=changed.series)
    await harness.make_batch(NEXT_MONDAY)
    assert await harness.kinds() == [*FIRST_MONDAY, "SERIES", *FIRST_MONDAY[2:]]
    first, second = await contents(harness, "SERIES")
    assert (first["series"]["holds_from"], second["series"]["holds_from"]) == (
        str(MONDAY),
        str(NEXT_MONDAY),
    )
    assert second["series"]["profile"]["temperature"] == "0.5"
    assert await harness.rows("SELECT profile_sha256 FROM generations ORDER BY asked_at") == [
        (first["series"]["profile_sha256"],),
        (second["series"]["profile_sha256"],),
    ]
    await check_record(database)


async def test_a_command_declares_no_profile_and_no_version(harness):
    """A command of another version, with another calendar's end, writes only its own entry."""
    await harness.make_batch()
    with_in_force(harness, version="9.9.9", is_command=True)
    async with transaction(harness.context.pool) as conn:
        assert await weekly.record_missed_monday(conn, harness.context, NEXT_MONDAY)
    assert await harness.kinds() == [*FIRST_MONDAY, "FAILURE"]


# Records of an earlier version


async def test_an_unsealed_record_goes_on_as_it_was(harness, database):
    """No declaration, no claim and no entry of a response is written, and no profile stored."""
    batch = await harness.make_batch()
    unseal(database)
    harness.clock.time = new_york(TUESDAY)
    await daily.take(harness.context, batch.id, 1)
    await harness.make_batch(NEXT_MONDAY)
    kinds = ["GENERATION", "BATCH", "CHECKPOINT", "GENERATION", "BATCH"]
    assert await harness.kinds() == kinds
    assert await harness.rows("SELECT DISTINCT profile_sha256 FROM generations") == [(None,)]
    await check_record(database)


async def test_an_unsealed_record_is_sealed_while_the_service_works(harness, database):
    """After the seal, the same process claims its questions, and writes what it reads."""
    batch = await harness.make_batch()
    unseal(database)
    harness.clock.time = new_york(TUESDAY)
    await daily.take(harness.context, batch.id, 1)
    done = await sealing.seal(database, harness.context.in_force, harness.clock.now())
    assert (done.entries, done.questions) == (3, 0)
    harness.clock.time = new_york(TUESDAY + timedelta(days=1))
    await daily.take(harness.context, batch.id, 2)
    await harness.make_batch(NEXT_MONDAY)
    kinds = await harness.kinds()
    assert kinds[:6] == ["GENERATION", "BATCH", "CHECKPOINT", "GENESIS", "READINGS", "SETTINGS"]
    assert kinds[-8:] == ["SERIES", *FIRST_MONDAY[2:]]
    await check_record(database)


async def test_an_open_question_is_sealed(harness, database):
    """A question that is open when the record is sealed is adopted, and completed as before."""
    await harness.make_batch()
    unseal(database)
    harness.clock.time = new_york(NEXT_MONDAY)

    seal = sealing.seal(database, harness.context.in_force, harness.clock.now())
    with psycopg.connect(database) as conn:

        def answers(request: Request) -> Reply:
            # The outcome of the question has to wait for this lock.
            conn.execute("SELECT FROM generations FOR UPDATE")
            return harness.world(request)

        harness.provider.answers = answers
        asking = asyncio.ensure_future(harness.begin())
        await wait_for_blocked_connections(harness, 1)
        done = await seal
        harness.provider.answers = harness.world
    await asking
    assert done.questions == 1
    assert await harness.rows("SELECT accepted, profile_sha256 FROM generations") == [
        (True, None),
        (True, None),
    ]
    await check_record(database)


async def test_a_question_is_not_sent_if_the_record_is_sealed_at_that_moment(harness, database):
    """A claim that waited for the seal is taken back, and the question asked as a sealed one."""
    await harness.make_batch()
    unseal(database)
    harness.clock.time = new_york(NEXT_MONDAY)
    async with transaction(harness.context.pool) as conn:
        await conn.execute("SELECT pg_advisory_xact_lock(%s)", (Lock.JOURNAL,))
        seal = sealing.seal(database, harness.context.in_force, harness.clock.now())
        sealed = asyncio.ensure_future(seal)
        await wait_for_blocked_connections(harness, 1)
        asked = asyncio.ensure_future(run_attempt(harness.begin))
        await wait_for_blocked_connections(harness, 2)
    await sealed
    assert await asked == harness.clock.now()
    assert harness.questions == []
    await harness.begin()
    assert (await harness.kinds())[-8:] == ["SERIES", *FIRST_MONDAY[2:]]
    await check_record(database)


# Workers of an earlier version

_OLD_QUESTION = (
    "INSERT INTO generations (id, series, run_date, attempt, asked_at, requested_model, "
    "prompt_version, system_prompt, user_prompt) "
    "SELECT gen_random_uuid(), series, run_date + 7, attempt, asked_at + interval '7 days', "
    "requested_model, prompt_version, system_prompt, user_prompt FROM generations"
)
_OLD_CLOSE = (
    "INSERT INTO closes SELECT gen_random_uuid(), ticker, trading_day, open, close, source, "
    "read_at + interval '1 hour' FROM closes"
)
_OLD_SPLIT = (
    "INSERT INTO splits (ticker, effective_date, factor, source, read_at) "
    "VALUES ('SPY', '2026-10-26', 2, 'alphavantage SPLITS', '2026-10-27T13:00:00Z')"
)
_OLD_REFUSAL = "UPDATE generations SET accepted = false, refusal = 'It has no price.'"


@pytest.mark.parametrize(
    "statement",
    [
        pytest.param(_OLD_QUESTION, id="a question"),
        pytest.param(_OLD_CLOSE, id="a close"),
        pytest.param(_OLD_SPLIT, id="a split"),
        # Its entry would not have the profile of the question.
        pytest.param(_OLD_REFUSAL, id="an outcome"),
    ],
)
async def test_an_older_version_cannot_record_in_a_sealed_record(harness, database, statement):
    """It is refused in one sentence. In a record that is not sealed, it works as before."""
    await harness.make_batch()
    with pytest.raises(psycopg.errors.CheckViolation, match="This record is sealed: ") as refused:
        await harness.rows(statement)
    assert refused.value.diag.constraint_name == "this_record_is_sealed"
    # The parameter of this version holds for one transaction, so no later one inherits it.
    async with transaction(harness.context.pool) as conn:
        await generations.complete(conn, (await _questions(harness.context))[0], new_york(MONDAY))
    with pytest.raises(psycopg.errors.CheckViolation):
        await harness.rows(statement)
    unseal(database)
    await harness.rows(statement)


async def _questions(context: Context) -> list[Any]:
    async with context.pool.connection() as conn:
        return await generations.list_by_run_date(conn, "main", MONDAY)
