"""
The cheats of an owner who wants a better record than the model has earned, each as a whole story.

The owner is the superuser of the database. Each test says what `alpha-monday verify` shows of the
database and of the served address, what the API and the pages show, and what a reader finds who
has kept a copy of the head, or a token of an authority. docs/trust.md quotes these words.
"""

import asyncio
import json
import re
import subprocess
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
import shown
from clocks import HandSetClock
from commands import CommandResult, environment
from forging import refigured
from git_repositories import git, make_bare
from job_context import (
    CHOSEN,
    MONDAY,
    JobHarness,
    make_answer,
    make_completion,
    new_york,
    open_harness,
    run_until_done,
)
from job_context import clock as clock
from msgspec import Struct
from provider_server import FOR_EVER, Reply
from receivers import harness as harness
from receivers import receiver as receiver
from record_server import (
    as_recorded,
    copy_of,
    record_server,
    rehearsed,
    without_triggers,
)
from sealing import is_claim, without_sealing
from shown import Commanded, words_of
from tampering import Content, entry_of, forge, rows_of

from app.database import migrations
from app.domain import rfc3161
from app.domain.calendar import MEASURED_DAYS
from app.domain.model import Batch
from app.simulation.timestamp_authority import SimulatedAuthority
from app.store.rehearsed import REHEARSED_NOTICE
from jobs import corrections, daily, picks
from tests.conftest import BEFORE
from tests.integration.jobs.test_alerts_alternate import morning, reported
from tests.integration.jobs.test_timestamps import opened
from tests.integration.ops.test_verify_closures import harness_with, take

__all__ = ["as_recorded", "clock", "harness", "receiver", "rehearsed"]

TRUST = (Path(__file__).parents[2] / "docs" / "trust.md").read_text()
COMMANDS = re.findall(r"```sh\n(.*?)```", TRUST, re.DOTALL)

BATCH_PAGE = f"/batches/{MONDAY}"
NEXT = MONDAY + timedelta(days=7)
# The result of the first batch is that of day 12, with the closes of this Friday.
LAST_SESSION = MONDAY + timedelta(days=11)

# What `alpha-monday verify` says.
FITS = "Everything fits: "
REWRITTEN = "The journal was rewritten after the copy was made. (rule: head)"
OTHER_HASH = "is about the hash "
OTHER_IMPRINT = "does not verify. "
OTHER_PROOF = "proves another hash"
NOT_THE_ANSWER = (
    "ticker of pick 1 is 'KO', but the answer to question 1 says 'MSFT'. "
    "(rule: picks-of-the-answer)"
)
NO_READING = "its figures need a reading of KO on 2026-10-23"
NO_GENESIS = "it is a SERIES entry, but no GENESIS entry comes before it. (rule: genesis)"
PUT_IN = "It was written without the journal, or the journal's tail was cut off. (rule: row)"
CUT_OFF = "of which there is a copy. Its tail was cut off. (rule: head)"
NOT_PINNED = "The root of the authority was not pinned"
NOT_THE_ROOT = "The time-stamping authority signed with a certificate that leads to no pinned root"
USED_WITHOUT_ENTRY = (
    "it is first mentioned in a CORRECTION entry, but in a sealed record a READINGS entry mentions "
    "each reading first. (rule: readings)"
)
QUESTION_REMOVED = "Questions were removed, or the number was changed. (rule: question-number)"
LATE_AND_LIVE = (
    "origin is LIVE, but the record already had entries when it was sealed. (rule: genesis)"
)
LIVE_WITH_A_CLOCK = (
    "The origin of the record is LIVE by its GENESIS entry, but its database has the clock of a "
    "rehearsal. (rule: genesis)"
)
STRUCK_OFF = (
    "because settings list that day, but the record has a reading of SPY of 2026-11-06: the "
    "exchange traded. (rule: session)"
)
NOT_SEALED = "Not sealed: the journal does not say where the record comes from."

# What other commands and an alert say.
WITHOUT_CLOCK = (
    "Its clock was deleted, so the rehearsal cannot continue, and it never becomes a live record."
)
CONTRADICTS = "HEAD_REPOSITORY contradicts the journal"
IS_NEWER = ", which is newer than the journal's newest entry"
ALTERNATE = (
    "two processes record with different settings, and each declares its own in the journal again "
    "and again: BENCHMARK_SYMBOL is QQQ in one and SPY in the other."
)

# What the pages say.
BEFORE_THE_OPEN = "stamped 09:00 New York, before the open"
IS_LIVE = "Its origin is live"
IS_REHEARSED = "Its origin is a rehearsal: a simulated past. It is made up."
THREE = "3 of 3"
IS_NOT_STATED = "Its origin is not stated"
ASKED_TWICE = "The model was asked twice; the first answer was lost."
ENDED = "; stopped trading"
LOST_ONCE = "An answer of the model was lost once"
MOVED = (
    "The exchange was closed on short notice on Friday 6 November 2026, so the result is that of "
    "day 11."
)
CONTRADICTED = (
    "Day 12 was skipped as a closed day, but a price of that session was read. So the batch has "
    "no result."
)


# --- The records ------------------------------------------------------------


@pytest.fixture(scope="session")
def fortnight(made_once) -> str:
    """
    The address of a live record of one fortnight, in which each pick is wrong.

    Its batch has a token of an authority, and its last entry another one.
    """

    def record(address: str) -> None:
        asyncio.run(_record_fortnight(address))

    return made_once("fortnight", record)


async def _record_fortnight(address: str) -> None:
    await migrations.migrate(address, BEFORE)
    clock = HandSetClock(new_york(MONDAY))
    async with opened(address, clock) as stamps:
        harness = stamps.harness
        for ticker, close in {"MSFT": "3.1500", "AAPL": "76.0000", "NVDA": "7.3500"}.items():
            for day in MEASURED_DAYS:
                harness.world.closes[ticker, MONDAY + timedelta(days=day)] = close
        first = await harness.make_batch()
        clock.time = new_york(MONDAY) + timedelta(seconds=15)
        await _stamp(stamps)
        for day in range(1, 8):
            await _morning(harness, first, day)
        second = await harness.make_batch(NEXT, "KO", "BRK.B", "AAPL")
        for day in range(1, 8):
            await _morning(harness, second, day)
            await _morning(harness, first, 7 + day)
        await _stamp(stamps)


async def _stamp(stamps: Any) -> None:
    for service in stamps.services:
        await stamps.stamp(service)


async def _morning(harness: JobHarness, batch: Batch, day: int) -> None:
    harness.clock.time = new_york(batch.run_date + timedelta(days=day))
    await daily.take(harness.context, batch.id, day)


# --- Cheats with a record that is there -------------------------------------


def a_changed_row(address: str) -> None:
    with without_triggers(address) as conn:
        conn.execute("UPDATE picks SET action = 'BUY' WHERE position = 1")


def swapped_picks(address: str) -> None:
    """Put a winner in the place of a pick, in the rows and in the chain."""
    _rewrite(address, lambda contents: _replace_ticker(contents, "picks"))


def swapped_picks_and_answer(address: str) -> None:
    """Change the model's answer, too."""

    def change(contents: list[Content]) -> None:
        _replace_ticker(contents, "picks")
        _replace_ticker(contents, "generations")

    _rewrite(address, change)


def _replace_ticker(contents: list[Content], table: str) -> None:
    for content in contents:
        for its, row in rows_of(content):
            if its != table:
                continue
            if row.get("ticker") == "MSFT":
                row["ticker"] = "KO"
            for name in {"answer", "reasoning"} & row.keys():
                row[name] = row[name].replace("MSFT", "KO")


def winners_everywhere(contents: list[Content]) -> list[Content]:
    """Turn each BUY into a SELL, and the other way round: then each pick was right."""
    turned = {"BUY": "SELL", "SELL": "BUY"}
    for content in contents:
        for _, row in rows_of(content):
            if "action" in row:
                row["action"] = turned[row["action"]]
            if "answer" in row:
                answer = json.loads(row["answer"])
                for pick in answer["picks"]:
                    pick["action"] = turned[pick["action"]]
                row["answer"] = json.dumps(answer)
    return contents


def _rewrite(address: str, change: Callable[[list[Content]], list[Content] | None]) -> None:
    """Rewrite rows and chain, and delete the timestamps, which do not fit any more."""
    forge(address, change)
    with without_triggers(address) as conn:
        conn.execute("DELETE FROM timestamps")


def rewritten_beside_the_stamps(address: str) -> None:
    forge(address, winners_everywhere)


def rewritten_with_the_tokens(address: str) -> None:
    """Write the new hashes into the tokens, too, and delete the other timestamps."""
    _rewritten_with(address, "RFC3161")


def rewritten_with_the_proofs(address: str) -> None:
    """Write the new hashes into the proofs of OpenTimestamps, and delete the others."""
    _rewritten_with(address, "OPENTIMESTAMPS")


def _rewritten_with(address: str, kind: str) -> None:
    forge(address, winners_everywhere)
    with without_triggers(address) as conn:
        conn.execute("DELETE FROM timestamps WHERE kind <> %s", (kind,))
        conn.execute(
            "UPDATE timestamps SET hash = journal.hash FROM journal WHERE journal.seq = "
            "timestamps.seq"
        )


def rewritten_without_stamps(address: str) -> None:
    _rewrite(address, winners_everywhere)


def rewritten_with_an_own_authority(address: str) -> None:
    """Make new tokens with the old times, by an authority of the owner's."""
    forge(address, winners_everywhere)
    authority = SimulatedAuthority()
    with without_triggers(address) as conn:
        conn.execute("DELETE FROM timestamps WHERE kind <> 'RFC3161'")
        rows = conn.execute(
            "SELECT id, timestamps.at, previous, content FROM timestamps JOIN journal USING (seq)"
        ).fetchall()
        for id, at, previous, content in rows:
            request = rfc3161.make_request(f"{previous}\n{content}".encode())
            token = authority.stamp(request.encoded, at)
            verified = rfc3161.verify_response(
                token,
                data_hash=request.data_hash,
                nonce=request.nonce,
                roots=rfc3161.read_roots(authority.root_pem),
            )
            conn.execute(
                "UPDATE timestamps SET hash = %s, nonce = %s, proof = %s, chain = %s, at = %s, "
                "accuracy_seconds = %s WHERE id = %s",
                (
                    request.data_hash,
                    str(request.nonce),
                    token,
                    verified.chain_pem,
                    verified.gen_time,
                    verified.accuracy_seconds,
                    id,
                ),
            )


def cut_off(address: str) -> None:
    """Remove the bad last week: its entries, its rows and its timestamps."""

    def change(contents: list[Content]) -> list[Content]:
        return contents[: contents.index(entry_of(contents, "CHECKPOINT", day="8"))]

    _rewrite(address, change)


def genesis_removed(address: str) -> None:
    _rewrite(address, lambda contents: contents[1:])


def all_declarations_removed(address: str) -> None:
    """Write the journal as a version before the sealing would have written it."""
    _rewrite(address, without_sealing)
    with without_triggers(address) as conn:
        conn.execute("UPDATE generations SET profile_sha256 = NULL")


def a_price_put_in(address: str) -> None:
    with without_triggers(address) as conn:
        conn.execute(
            "INSERT INTO closes (id, ticker, trading_day, open, close, source, read_at) SELECT "
            "gen_random_uuid(), ticker, trading_day, open, close * 0.95, source, "
            "read_at + interval '1 minute' FROM closes WHERE ticker = 'MSFT' AND trading_day = %s",
            (LAST_SESSION,),
        )


def a_false_reading(address: str) -> None:
    """Change a price in the entry of its response, and in each figure."""

    def change(contents: list[Content]) -> list[Content]:
        day = str(LAST_SESSION)
        for content in contents:
            for table, row in rows_of(content):
                if table == "closes" and (row["ticker"], row["trading_day"]) == ("MSFT", day):
                    row["close"] = "2.8500"
        return refigured(contents)

    _rewrite(address, change)


class Cheat(Struct, frozen=True, kw_only=True):
    """
    A cheat with the record of a fortnight, and what shows it.

    `verify` is what `alpha-monday verify` says of the database and of the address. `stamp` is what
    the page of the batch says of its timestamp, and `calls` how many of its calls it calls right.
    `head` is what `verify --head` says with the head that a reader has kept. `token_fits` is
    whether the token that a reader has kept still fits the served chain.
    """

    commit: Callable[[str], None]
    verify: str
    stamp: str = ""
    origin: str = "LIVE"
    about: str = IS_LIVE
    head: str = REWRITTEN
    token_fits: bool = False
    calls: str = "None of 3"


CHEATS = {
    "nothing": Cheat(
        commit=lambda _: None, verify=FITS, stamp=BEFORE_THE_OPEN, head=FITS, token_fits=True
    ),
    "a row is changed": Cheat(
        commit=a_changed_row,
        verify="The record was changed after it was journaled. (rule: row)",
        stamp=BEFORE_THE_OPEN,
        head="The record was changed after it was journaled. (rule: row)",
        token_fits=True,
        calls="1 of 3",
    ),
    "picks are swapped, in the rows and the chain": Cheat(
        commit=swapped_picks, verify=NOT_THE_ANSWER, head=NOT_THE_ANSWER
    ),
    "picks and the answer are swapped": Cheat(
        commit=swapped_picks_and_answer, verify=NO_READING, head=NO_READING
    ),
    "all is rewritten, and the timestamps stay": Cheat(
        commit=rewritten_beside_the_stamps,
        verify=OTHER_HASH,
        calls=THREE,
    ),
    "all is rewritten, and the tokens name the new hashes": Cheat(
        commit=rewritten_with_the_tokens,
        verify=OTHER_IMPRINT,
        stamp=BEFORE_THE_OPEN,
        calls=THREE,
    ),
    "all is rewritten, and the proofs of OpenTimestamps name the new hashes": Cheat(
        commit=rewritten_with_the_proofs,
        verify=OTHER_PROOF,
        stamp="promised by OpenTimestamps; no timestamp with the minute yet",
        calls=THREE,
    ),
    "all is rewritten, and the timestamps are deleted": Cheat(
        commit=rewritten_without_stamps, verify=FITS, calls=THREE
    ),
    "all is rewritten, and the owner's authority stamps it": Cheat(
        commit=rewritten_with_an_own_authority,
        verify=NOT_PINNED,
        stamp=BEFORE_THE_OPEN,
        calls=THREE,
    ),
    "the end is cut off": Cheat(commit=cut_off, verify=FITS, head=CUT_OFF),
    "the genesis is removed": Cheat(
        commit=genesis_removed,
        verify=NO_GENESIS,
        head=NO_GENESIS,
        origin="UNKNOWN",
        about=IS_NOT_STATED,
    ),
    "all declarations are removed": Cheat(
        commit=all_declarations_removed,
        verify=NOT_SEALED,
        origin="UNKNOWN",
        about=IS_NOT_STATED,
        head=CUT_OFF,
    ),
    "a price is put in": Cheat(
        commit=a_price_put_in,
        verify=PUT_IN,
        stamp=BEFORE_THE_OPEN,
        head="(rule: row)",
        token_fits=True,
    ),
    "a price is false in its entry, too": Cheat(
        commit=a_false_reading, verify=FITS, calls="1 of 3"
    ),
}


QUICK = ("nothing", "the genesis is removed", "all is rewritten, and the timestamps are deleted")


@pytest.mark.parametrize(
    "name", [pytest.param(one, marks=[] if one in QUICK else [pytest.mark.long]) for one in CHEATS]
)
async def test_a_cheat_with_a_fortnight(name, fortnight, create, commanded, tmp_path):
    cheat = CHEATS[name]
    kept = await shown.keep(fortnight)
    address = copy_of(fortnight, create)
    cheat.commit(address)
    for verify in (shown.verify, shown.verify_served):
        check_words(await verify(commanded, address), cheat.verify)
    for head in (kept.head, f"{kept.seq}:{kept.hash}"):
        check_words(await shown.verify_served(commanded, address, "--head", head), cheat.head)
    assert await shown.token_fits(address, kept, tmp_path) == cheat.token_fits

    stated = await shown.service(address)
    is_sealed = cheat.origin == "LIVE"
    assert (stated["origin"], stated["sealed"]) == (cheat.origin, is_sealed)
    assert stated["recordId"] == (kept.record_id if is_sealed else None)
    assert cheat.about in await shown.page(address, "/about")
    page = await shown.page(address, BATCH_PAGE)
    assert f"{cheat.calls} calls" in page
    assert ("(the proof)" in page) == bool(cheat.stamp)
    assert cheat.stamp in page


def check_words(result: CommandResult, words: str) -> None:
    """Check what a command says, and whether its exit code means a discrepancy."""
    assert words in words_of(result)
    is_misfit = words not in (FITS, NOT_PINNED, NOT_SEALED)
    assert result.exit_code == int(is_misfit)
    assert ("(rule: " in words_of(result)) == is_misfit


@pytest.mark.long
async def test_the_root_of_the_authority(fortnight, create, commanded, tmp_path):
    """
    Tokens of the owner's own authority verify by themselves. With the root certificate of the
    authority that the reader trusts, they do not.
    """
    kept = await shown.keep(fortnight)
    root = tmp_path / "root.pem"
    root.write_bytes(kept.root)
    honest = await shown.verify_served(commanded, fortnight, "--timestamp-root", root)
    check_words(honest, FITS)
    assert NOT_PINNED not in words_of(honest)
    address = copy_of(fortnight, create)
    rewritten_with_an_own_authority(address)
    for verify in (shown.verify, shown.verify_served):
        result = await verify(commanded, address, "--timestamp-root", root)
        check_words(result, OTHER_IMPRINT)
        assert NOT_THE_ROOT in words_of(result)


@pytest.mark.long
async def test_the_repository_with_the_heads(fortnight, create, commanded, tmp_path):
    """
    The heads of a published repository do not fit a record that was rewritten, and the service
    itself does not publish there any more.
    """
    bare = make_bare(tmp_path / "heads.git")
    address = copy_of(fortnight, create)
    first = await publish(commanded, address, bare)
    assert first.exit_code == 0, first.error
    rewritten_without_stamps(address)
    again = await publish(commanded, address, bare)
    assert CONTRADICTS in again.error
    assert again.exit_code == 1
    git(tmp_path, "clone", "--quiet", "--branch", "main", str(bare), "copy")
    (command,) = [command for command in COMMANDS if "git log" in command]
    async with record_server(address) as url:
        compared = await asyncio.to_thread(
            subprocess.run,
            ["sh", "-c", command.replace("https://alpha-monday.example", url)],
            cwd=tmp_path / "copy",
            env=environment(),
            capture_output=True,
            text=True,
        )
    assert REWRITTEN in compared.stderr
    # xargs exits with 123 if the command exits with 1.
    assert compared.returncode == 123


async def publish(commanded: Commanded, address: str, repository: Path) -> CommandResult:
    return await asyncio.to_thread(
        commanded, "head", "--publish", DATABASE_URL=address, HEAD_REPOSITORY=str(repository)
    )


@pytest.mark.long
async def test_starting_over(fortnight, create, commanded, tmp_path):
    """
    The owner empties the database, and begins a new record. The new record fits by itself: only
    what others have kept of the old one shows that there was one.
    """
    kept = await shown.keep(fortnight)
    bare = make_bare(tmp_path / "heads.git")
    address = copy_of(fortnight, create)
    assert (await publish(commanded, address, bare)).exit_code == 0
    empty(address)
    monday = MONDAY + timedelta(days=21)
    async with open_harness(address, HandSetClock(new_york(monday))) as harness:
        await harness.make_batch(monday)

    for verify in (shown.verify, shown.verify_served):
        result = await verify(commanded, address)
        check_words(result, FITS)
        assert kept.record_id not in words_of(result)
        for head in (kept.head, f"{kept.seq}:{kept.hash}"):
            check_words(await verify(commanded, address, "--head", head), CUT_OFF)
    assert not await shown.token_fits(address, kept, tmp_path)
    again = await publish(commanded, address, bare)
    assert again.exit_code == 1
    assert IS_NEWER in again.error
    stated = await shown.service(address)
    assert stated["origin"] == "LIVE"
    assert stated["recordId"] != kept.record_id
    about = await shown.page(address, "/about")
    assert f"Its id is {stated['recordId']}" in about


def empty(address: str) -> None:
    """Delete all rows of the record."""
    with without_triggers(address) as conn:
        tables = conn.execute(
            "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables "
            "WHERE schemaname IN ('public', 'queue', 'operations') AND tablename NOT LIKE "
            "'%migrations'"
        ).fetchall()
        for (table,) in tables:
            conn.execute(f"DELETE FROM {table}")


# --- A rehearsal as a live record -------------------------------------------


def drop_clock(address: str) -> None:
    with psycopg.connect(address) as conn:
        conn.execute("DROP SCHEMA told CASCADE")


async def test_a_rehearsal_without_its_clock(as_recorded, create, commanded):
    """
    The record says that it is a rehearsal, wherever it is shown, and the service refuses to serve
    it as a live one.
    """
    address = copy_of(as_recorded, create)
    drop_clock(address)
    for verify in (shown.verify, shown.verify_served):
        result = await verify(commanded, address)
        check_words(result, FITS)
        assert ", REHEARSED)" in words_of(result)
    for command in ("serve", "work"):
        keys = {"OPENAI_API_KEY": "x", "ALPHA_VANTAGE_API_KEY": "x"}
        refused = await asyncio.to_thread(commanded, command, DATABASE_URL=address, **keys)
        assert refused.exit_code == 1
        assert WITHOUT_CLOCK in refused.error
    stated = await shown.service(address)
    assert (stated["origin"], stated["rehearsed"]) == ("REHEARSED", True)
    assert IS_REHEARSED in await shown.page(address, "/about")
    # A server that has begun to serve an empty database serves whatever comes into it.
    for path in ("/", "/batches", "/batches/2026-10-26", "/record", "/about"):
        assert REHEARSED_NOTICE in await shown.page(address, path)


@pytest.mark.long
async def test_a_rehearsal_that_calls_itself_live(as_recorded, create, commanded, tmp_path):
    """
    With a chain that was written again, nothing inside the record shows it: only a timestamp or a
    copy of the head of that time could, and this chain has none.
    """
    kept = await shown.keep(as_recorded)
    address = copy_of(as_recorded, create)

    def change(contents: list[Content]) -> None:
        contents[0]["genesis"]["origin"] = "LIVE"

    _rewrite(address, change)
    check_words(await shown.verify(commanded, address), LIVE_WITH_A_CLOCK)
    drop_clock(address)
    for verify in (shown.verify, shown.verify_served):
        result = await verify(commanded, address)
        check_words(result, FITS)
        assert ", LIVE)" in words_of(result)
        assert "Timestamps: " not in words_of(result)
        check_words(await verify(commanded, address, "--head", kept.head), REWRITTEN)
    assert not await shown.token_fits(address, kept, tmp_path)
    assert IS_LIVE in await shown.page(address, "/about")


@pytest.mark.parametrize(
    ("has_clock", "origin", "about"),
    [
        pytest.param(True, "REHEARSED", IS_REHEARSED, id="with the clock", marks=pytest.mark.long),
        pytest.param(False, "UNKNOWN", IS_NOT_STATED, id="without it"),
    ],
)
async def test_a_late_genesis_of_a_rehearsal(
    has_clock, origin, about, rehearsed, create, commanded
):
    """The rehearsal of an earlier version is sealed: it is never called live."""
    address = copy_of(rehearsed, create)
    if not has_clock:
        drop_clock(address)
        before = await shown.service(address)
        assert (before["origin"], before["sealed"]) == ("UNKNOWN", False)
        assert NOT_SEALED in words_of(await shown.verify(commanded, address))
    arguments = ["seal", "--yes", *(["--rehearsal"] if has_clock else [])]
    sealed = await asyncio.to_thread(commanded, *arguments, DATABASE_URL=address)
    assert sealed.exit_code == 0, sealed.error
    for verify in (shown.verify, shown.verify_served):
        result = await verify(commanded, address)
        check_words(result, FITS)
        assert f", {origin})" in words_of(result)
    stated = await shown.service(address)
    assert (stated["origin"], stated["sealed"]) == (origin, True)
    assert about in await shown.page(address, "/about")

    def change(contents: list[Content]) -> None:
        entry_of_kind(contents, "GENESIS")["genesis"]["origin"] = "LIVE"

    forge(address, change)
    for verify in (shown.verify, shown.verify_served):
        check_words(await verify(commanded, address), LATE_AND_LIVE)


def entry_of_kind(contents: list[Content], kind: str) -> Content:
    return next(one for one in contents if one["kind"] == kind)


# --- Cheats while the service records ---------------------------------------


SETTINGS = "{ journal(first: 20, kind: SETTINGS) { nodes { content } } }"
ENDINGS = "{ journal(first: 20, kind: PICK_ENDED) { nodes { content } } }"
RESULT = f'{{ batchOn(runDate: "{MONDAY}") {{ result {{ day }} }} }}'


async def eleven_days(harness: JobHarness) -> tuple[Batch, Batch]:
    """Make two Mondays, and take the mornings up to day 11 of the first one."""
    first = await harness.make_batch()
    await take(harness, first, range(1, 8))
    second = await harness.make_batch(NEXT)
    for day in range(8, 12):
        await take(harness, first, range(day, day + 1))
        await take(harness, second, range(day - 7, day - 6))
    return first, second


async def declared(address: str) -> list[dict[str, Any]]:
    """Return the settings of all SETTINGS entries."""
    entries = (await shown.answer(address, SETTINGS))["journal"]["nodes"]
    return [json.loads(entry["content"])["settings"] for entry in entries]


async def result_of(address: str) -> int | None:
    result = (await shown.answer(address, RESULT))["batchOn"]["result"]
    return result and result["day"]


@pytest.mark.parametrize(
    "is_read_before", [pytest.param(False, marks=pytest.mark.long), pytest.param(True)]
)
async def test_a_session_that_is_struck_off(is_read_before, database, pool, clock, commanded):
    """
    The last session is listed as closed, before or after another batch has read its price. The
    service asks for the benchmark's price all the same, and measures the day: nothing moves.
    """
    async with harness_with(
        database=database, pool=pool, clock=clock, closed=(), known=()
    ) as harness:
        first, second = await eleven_days(harness)
        if is_read_before:
            await take(harness, second, range(5, 6))
    async with harness_with(
        database=database, pool=pool, clock=clock, closed=(), known=(LAST_SESSION,)
    ) as harness:
        await take(harness, first, range(12, 15))
    for verify in (shown.verify, shown.verify_served):
        check_words(await verify(commanded, database), FITS)
    assert "closed on short notice" not in await shown.page(database, BATCH_PAGE)
    assert await result_of(database) == 12
    (settings,) = await declared(database)
    assert settings["closed_days"] == [str(LAST_SESSION)]


@pytest.mark.long
async def test_a_session_that_is_struck_off_with_its_price_hidden(database, pool, clock, commanded):
    """
    The owner's price server leaves the bar of the last session out: the result moves, and the page
    says so. As soon as the price of that day is read, the batch has no result.
    """
    async with harness_with(
        database=database, pool=pool, clock=clock, closed=(), known=()
    ) as harness:
        first, second = await eleven_days(harness)
    async with harness_with(
        database=database, pool=pool, clock=clock, closed=(), known=(LAST_SESSION,)
    ) as harness:
        harness.world.absent.add(("SPY", LAST_SESSION))
        for day in (12, 13, 14):
            await take(harness, first, range(day, day + 1))
            await take(harness, second, range(day - 7, day - 6))
        for verify in (shown.verify, shown.verify_served):
            check_words(await verify(commanded, database), FITS)
        assert MOVED in await shown.page(database, BATCH_PAGE)
        assert await result_of(database) == 11
        for settings in await declared(database):
            assert settings["price_source"].startswith("alphavantage at http://")
        harness.world.absent.clear()
        await harness.make_batch(MONDAY + timedelta(days=14))
    for verify in (shown.verify, shown.verify_served):
        check_words(await verify(commanded, database), STRUCK_OFF)
    assert CONTRADICTED in await shown.page(database, BATCH_PAGE)
    assert await result_of(database) is None


async def test_an_answer_that_is_withheld(migrated, create, clock, commanded):
    """
    The owner stops the service after the question was sent, and asks again: the claim remains, and
    the page says so. Deleting the question, rows and chain, leaves a gap in the numbers. Only a
    record that is rewritten completely fits, and no copy of the head does then.
    """
    address = copy_of(migrated, create)
    async with open_harness(address, clock) as harness:
        harness.world.model = [Reply(delay=FOR_EVER), make_completion(make_answer(*CHOSEN))]
        asking = asyncio.create_task(harness.begin())
        await harness.provider.request_arrived.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        claim = (await harness.journal())[-1]
        await run_until_done(harness, harness.begin)
    assert (claim.kind, is_claim(json.loads(claim.content))) == ("GENERATION", True)
    head = ("--head", f"{claim.seq}:{claim.hash}")
    for verify in (shown.verify, shown.verify_served):
        check_words(await verify(commanded, address, *head), FITS)
    page = await shown.page(address, BATCH_PAGE)
    assert ASKED_TWICE in page
    assert "No answer was stored: whoever asked was cut off." in page
    assert (await shown.service(address))["lostAnswers"] == 1
    assert LOST_ONCE in await shown.page(address, "/record")

    forge(address, first_question_removed)
    for verify in (shown.verify, shown.verify_served):
        check_words(await verify(commanded, address), QUESTION_REMOVED)
    forge(address, lambda contents: [renumbered(content) for content in contents])
    for verify in (shown.verify, shown.verify_served):
        check_words(await verify(commanded, address), FITS)
        check_words(await verify(commanded, address, *head), REWRITTEN)
    assert ASKED_TWICE not in await shown.page(address, BATCH_PAGE)


def first_question_removed(contents: list[Content]) -> list[Content]:
    left = [one for one in contents if one.get("generation", {}).get("attempt") != "1"]
    # The declarations have the time of the entry that follows them.
    for declaration in left[:2]:
        declaration["at"] = left[2]["at"]
    return left


def renumbered(content: Content) -> Content:
    if "generation" in content:
        content["generation"]["attempt"] = "1"
    return content


async def test_a_price_that_is_put_in_and_used_by_a_correction(harness, database, commanded):
    """
    `verify` names the row, and after the correction its entry. The page shows the correction, with
    the figure before it.
    """
    batch = await harness.make_batch()
    await take(harness, batch, range(1, 3))
    with without_triggers(database) as conn:
        conn.execute(
            "INSERT INTO closes (id, ticker, trading_day, open, close, source, read_at) SELECT "
            "gen_random_uuid(), ticker, trading_day, open, close * 0.95, source, "
            "read_at + interval '1 minute' FROM closes WHERE ticker = 'MSFT' AND trading_day = %s",
            (MONDAY,),
        )
    for verify in (shown.verify, shown.verify_served):
        check_words(await verify(commanded, database), PUT_IN)
    await corrections.adopt(
        harness.context.pool,
        now=harness.clock.now(),
        run_date=MONDAY,
        day=1,
        ticker="MSFT",
        reason="The first price was wrong.",
        in_force=harness.context.in_force,
    )
    for verify in (shown.verify, shown.verify_served):
        check_words(await verify(commanded, database), USED_WITHOUT_ENTRY)
    page = await shown.page(database, BATCH_PAGE)
    assert "The first price was wrong." in page


async def test_a_share_that_is_said_to_have_ended(harness, database, commanded):
    """
    The owner says that a share stopped trading, with a value that pleases: the record fits. The
    page says that it ended, and the entry has the value and its source.
    """
    batch = await harness.make_batch()
    await take(harness, batch, range(1, 3))
    await picks.end(
        harness.context.pool,
        calendar=harness.context.calendar,
        now=harness.clock.now(),
        run_date=MONDAY,
        ticker="MSFT",
        last_session=MONDAY,
        value=Decimal("2.00"),
        source="The owner says so.",
        in_force=harness.context.in_force,
    )
    await take(harness, batch, range(3, 4))
    for verify in (shown.verify, shown.verify_served):
        check_words(await verify(commanded, database), FITS)
    page = await shown.page(database, BATCH_PAGE)
    assert ENDED in page
    assert "2.00 (ended)" in page
    (entry,) = (await shown.answer(database, ENDINGS))["journal"]["nodes"]
    ending = json.loads(entry["content"])["ending"]
    assert (ending["value"], ending["source"]) == ("2.00", "The owner says so.")


async def test_two_workers_with_different_settings(harness, receiver, database, commanded):
    """
    For a week two workers record by turns with two benchmarks: each declares its own. The record
    fits, the entries alternate, and an alert names the setting.
    """
    await harness.make_batch()
    for day in range(1, 8):
        await morning(harness, day, ("SPY", "QQQ")[day % 2])
    (alert,) = reported(receiver)
    assert alert["reason"] == "benchmark"
    assert ALTERNATE in alert["text"]
    for verify in (shown.verify, shown.verify_served):
        check_words(await verify(commanded, database), FITS)
    benchmarks = [settings["benchmark"] for settings in await declared(database)]
    assert benchmarks == ["QQQ", "SPY"] * 3 + ["QQQ"]


# --- The page ---------------------------------------------------------------

QUOTED = (
    REWRITTEN,
    "Its tail was cut off. (rule: head)",
    NOT_PINNED,
    NOT_THE_ROOT,
    USED_WITHOUT_ENTRY,
    QUESTION_REMOVED,
    LATE_AND_LIVE,
    LIVE_WITH_A_CLOCK,
    STRUCK_OFF,
    WITHOUT_CLOCK,
    CONTRADICTS,
    IS_NEWER,
    ALTERNATE,
    NOT_SEALED,
    OTHER_HASH,
    OTHER_IMPRINT,
    OTHER_PROOF,
    NOT_THE_ANSWER,
    NO_READING,
    NO_GENESIS,
    PUT_IN,
    IS_REHEARSED,
    IS_NOT_STATED,
    ASKED_TWICE,
    LOST_ONCE,
    ENDED,
    MOVED,
    CONTRADICTED,
)


@pytest.mark.parametrize("words", QUOTED)
def test_the_page_quotes_what_is_shown(words):
    assert words.strip() in " ".join(TRUST.split())


async def test_the_commands_of_the_page(fortnight, tmp_path):
    """The query is valid, and the command about a token prints the hash of its entry."""
    (curl,) = [command for command in COMMANDS if "curl" in command]
    query = json.loads(re.search(r"-d '(.*)'", curl)[1])["query"]
    (series,) = (await shown.answer(fortnight, query))["journal"]["nodes"]
    assert json.loads(series["content"])["series"]["name"] == "main"

    kept = await shown.keep(fortnight)
    (tmp_path / "171.tsr").write_bytes(kept.token)
    (command,) = [command for command in COMMANDS if "openssl" in command]
    printed = subprocess.run(
        ["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert printed.stdout == kept.hash
