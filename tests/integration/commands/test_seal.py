"""`alpha-monday seal`: what it says, what it asks, its exit codes, and the roles that may seal."""

import asyncio
import dataclasses
import re
import signal

import psycopg
import pytest
import three_roles
from commands import command, start, without_place
from job_context import clock as clock
from job_context import harness as harness
from job_context import open_harness
from journal_checks import wait_for_blocked_connections

from app.core.locks import Lock
from app.database import migrations

NO_ENTRY = (
    "alpha-monday: The record has no entry yet: it will be sealed from its first entry on, without "
    "this command.\n"
)


@pytest.fixture
async def older(harness):
    """A record with one batch, as a version before the seal stores it."""
    harness.context = dataclasses.replace(harness.context, in_force=None)
    await harness.make_batch()
    return harness


def test_the_help(commanded):
    """It says what the command writes, that it cannot be undone, and its exit codes."""
    done = commanded("seal", "--help")
    assert done.exit_code == 0
    text = " ".join(done.output.split())
    assert "Seal a record that earlier versions made. It cannot be undone." in text
    assert "Exit code: 0 the record is sealed; 1 the command was refused or has failed." in text
    assert "--yes" in text


def test_a_new_database(commanded, database):
    """Nothing is to be sealed: exit code 1, and one line."""
    done = commanded("seal", "--yes", DATABASE_URL=database)
    assert (done.exit_code, done.output) == (1, "")
    assert without_place(done.error) == NO_ENTRY


async def test_a_seal(older, commanded, database):
    """
    It first says what it will do, and wants `--yes` without a terminal. Then it seals the record,
    which verifies. A second seal is refused.
    """
    asked = await asyncio.to_thread(commanded, "seal", DATABASE_URL=database)
    assert (asked.exit_code, asked.output) == (1, "")
    assert [line.partition(":")[0] for line in without_place(asked.error).splitlines()] == [
        "The record has 2 entries, and verifies.",
        "Its origin will be UNKNOWN",
        "Readings that will be adopted",
        "Settings",
        "Workers of versions before 0.3.0 are refused from then on. A seal cannot be undone.",
        "alpha-monday",
    ]
    assert asked.error.endswith("there is no terminal to ask on. Add --yes.\n")
    assert "Settings: version 0.5.0, benchmark SPY, prices from alphavantage" in asked.error
    assert "MARKET_CLOSED_DAYS: none, calendar from 2026-10-23 to " in asked.error
    assert await older.kinds() == ["GENERATION", "BATCH"]

    done = await asyncio.to_thread(commanded, "seal", "--yes", DATABASE_URL=database)
    assert done.exit_code == 0
    assert re.fullmatch(
        r"Sealed: 2 entries from before, 4 readings and 0 open questions adopted\. Keep the head "
        r"that `alpha-monday verify` prints\.\n",
        done.output,
    )
    assert (await older.kinds())[2:] == ["GENESIS", "READINGS", "SETTINGS"]
    verified = await asyncio.to_thread(commanded, "verify", DATABASE_URL=database)
    assert verified.exit_code == 0
    assert "Sealed since entry 5" in verified.output

    again = await asyncio.to_thread(commanded, "seal", "--yes", DATABASE_URL=database)
    assert (again.exit_code, again.output) == (1, "")
    assert without_place(again.error) == (
        "alpha-monday: The record is sealed already: its journal has a GENESIS entry.\n"
    )


# Where a seal waits while another session holds a lock.
AT_THE_TABLES = "LOCK TABLE splits IN ROW EXCLUSIVE MODE"
AT_THE_JOURNAL = f"SELECT pg_advisory_xact_lock({Lock.JOURNAL})"
# The second entry of the seal waits for a row of another session with the same number.
AT_THE_SECOND_ENTRY = """
    INSERT INTO journal (seq, kind, at, content, previous, hash)
    SELECT
        seq + 2, kind, at, content, hash,
        encode(sha256(convert_to(hash || chr(10) || content, 'UTF8')), 'hex')
    FROM journal ORDER BY seq DESC LIMIT 1
"""


@pytest.mark.parametrize("ending", ["SIGKILL", "SIGTERM", "pg_terminate_backend"])
@pytest.mark.parametrize(
    "waiting",
    [
        pytest.param(AT_THE_TABLES, id="tables"),
        pytest.param(AT_THE_JOURNAL, id="journal"),
        pytest.param(AT_THE_SECOND_ENTRY, id="second entry"),
    ],
)
@pytest.mark.sampled(3)
async def test_a_seal_that_is_ended(older, commanded, database, tmp_path, waiting, ending):
    """
    A seal that is killed, or loses its connection, has written nothing, wherever it was. It can be
    run again.
    """
    with (tmp_path / "error").open("w+b") as error, psycopg.connect(database) as other:
        other.execute("SET session_replication_role = replica")
        other.execute(waiting)
        process = await asyncio.to_thread(
            start,
            "seal",
            "--yes",
            cwd=tmp_path,
            stdout=error,
            stderr=error,
            DATABASE_URL=database,
        )
        (blocked,) = await wait_for_blocked_connections(older)
        if ending == "pg_terminate_backend":
            await older.rows("SELECT pg_terminate_backend(%s)", blocked)
        else:
            process.send_signal(signal.Signals[ending])
        code = await asyncio.to_thread(process.wait, 60)
        other.rollback()
        error.seek(0)
        written = error.read().decode()
    assert code != 0
    lines = without_place(written).splitlines()
    assert lines[4].endswith("A seal cannot be undone.")
    if ending == "pg_terminate_backend":
        (line,) = lines[5:]
        assert line.startswith("alpha-monday: The connection to the database ")
        assert "was lost: terminating connection" in line
    else:
        assert len(lines) == 5
    assert await older.kinds() == ["GENERATION", "BATCH"]

    done = await asyncio.to_thread(commanded, "seal", "--yes", DATABASE_URL=database)
    assert done.exit_code == 0
    assert (await older.kinds())[2:] == ["GENESIS", "READINGS", "SETTINGS"]
    verified = await asyncio.to_thread(commanded, "verify", DATABASE_URL=database)
    assert verified.exit_code == 0


async def test_a_record_that_does_not_verify(older, commanded, database):
    """Exit code 1, one line with the discrepancy, and no entry."""
    with psycopg.connect(database) as conn:
        conn.execute("SET session_replication_role = replica")
        conn.execute("UPDATE picks SET reasoning = 'Better.' WHERE position = 1")
    done = await asyncio.to_thread(commanded, "seal", "--yes", DATABASE_URL=database)
    assert (done.exit_code, done.output) == (1, "")
    assert "reasoning" in without_place(done.error)
    assert "Traceback" not in done.error
    assert await older.kinds() == ["GENERATION", "BATCH"]


async def test_settings_that_do_not_fit(older, commanded, database):
    """A setting that is not valid is named, and nothing is written."""
    done = await asyncio.to_thread(
        commanded, "seal", "--yes", DATABASE_URL=database, BENCHMARK_SYMBOL="spy?"
    )
    assert done.exit_code == 1
    assert "BENCHMARK_SYMBOL must be a ticker" in done.error
    assert await older.kinds() == ["GENERATION", "BATCH"]


async def test_the_roles_that_may_seal(capsys, empty, clock):
    """
    The service's role is refused in one line that names MIGRATE_DATABASE_URL; the owner's role
    seals the record.
    """
    await migrations.migrate(empty, clock.now())
    async with open_harness(empty, clock) as harness:
        harness.context = dataclasses.replace(harness.context, in_force=None)
        await harness.make_batch()
    made = await three_roles.applied(empty)
    refused = await asyncio.to_thread(command, capsys, "seal", "--yes", DATABASE_URL=made.service)
    assert refused.exit_code == 1
    assert "MIGRATE_DATABASE_URL" in without_place(refused.error).splitlines()[-1]
    assert "Traceback" not in refused.error
    done = await asyncio.to_thread(
        command,
        capsys,
        "seal",
        "--yes",
        DATABASE_URL=made.service,
        MIGRATE_DATABASE_URL=made.owner,
    )
    assert (done.exit_code, done.output[:7]) == (0, "Sealed:")


async def test_the_way_back_ends_with_the_seal(empty, commanded, clock):
    """The migrations can be taken back before the seal, and not afterwards."""
    await migrations.migrate(empty, clock.now())
    async with open_harness(empty, clock) as harness:
        harness.context = dataclasses.replace(harness.context, in_force=None)
        await harness.make_batch()
    down = ("migrate", "--down-to", 13, "--yes")
    assert (await asyncio.to_thread(commanded, *down, DATABASE_URL=empty)).exit_code == 0
    await migrations.migrate(empty, clock.now())
    sealed = await asyncio.to_thread(commanded, "seal", "--yes", DATABASE_URL=empty)
    assert sealed.exit_code == 0
    refused = await asyncio.to_thread(commanded, *down, DATABASE_URL=empty)
    assert refused.exit_code == 1
    assert "This record is sealed: it cannot go back to a version before 0.3.0." in refused.error
    assert "Traceback" not in refused.error
    verified = await asyncio.to_thread(commanded, "verify", DATABASE_URL=empty)
    assert verified.exit_code == 0
