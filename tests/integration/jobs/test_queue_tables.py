"""The queue's tables, where our functions differ from Procrastinate's own API or depend on it."""

import psycopg
import pytest
from procrastinate.jobs import Status

from jobs import queue_tables
from tests.integration.commands.test_jobs import a_job as a_job

SEARCH_PATH = "-c search_path=public,queue"


def test_the_statuses_are_the_queues_and_ours():
    """No list lacks a status that a new version of Procrastinate adds."""
    of_the_queue = {status.value for status in Status} - {
        "aborting"
    }  # a legacy: no version 3 sets it
    assert set(queue_tables.STATUSES) == of_the_queue | {"stalled"}


@pytest.mark.parametrize("status", [status.value for status in Status])
async def test_what_waits_or_runs_is_live(database, a_job, status):
    """Procrastinate uses our connection; a deleted job is no error."""
    id = a_job(status)
    async with await psycopg.AsyncConnection.connect(database, options=SEARCH_PATH) as conn:
        assert await queue_tables.is_live(conn, id) == (status in ("todo", "doing"))
        await conn.execute("DELETE FROM procrastinate_jobs WHERE id = %s", (id,))
        assert not await queue_tables.is_live(conn, id)


async def test_a_job_is_cancelled_in_the_callers_transaction(database, a_job):
    """A rollback undoes it."""
    id = a_job()
    async with await psycopg.AsyncConnection.connect(database, options=SEARCH_PATH) as conn:
        await queue_tables.cancel(conn, id)
        assert not await queue_tables.is_live(conn, id)
        await conn.rollback()
        assert await queue_tables.is_live(conn, id)


@pytest.mark.parametrize("ask", [queue_tables.is_live, queue_tables.cancel])
async def test_a_lost_connection_is_psycopgs_error(database, a_job, ask):
    """Procrastinate wraps it; the command line explains psycopg's in one line."""
    id = a_job()
    async with await psycopg.AsyncConnection.connect(
        database, autocommit=True, options=SEARCH_PATH
    ) as conn:
        with psycopg.connect(database, autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(%s, 5000)", (conn.info.backend_pid,))
        with pytest.raises(psycopg.OperationalError):
            await ask(conn, id)


@pytest.mark.parametrize("args", [["a list"], "a text", 7, {"an": "object"}])
async def test_a_copy_has_the_arguments_whatever_they_are(database, a_job, args):
    """
    A job that another program deferred may have any JSON; Procrastinate's API defers objects only.
    """
    id = a_job("cancelled", args=args)
    async with await psycopg.AsyncConnection.connect(database, options=SEARCH_PATH) as conn:
        copy = await queue_tables.get_job(conn, await queue_tables.defer_copy(conn, id))
        assert copy is not None
        assert (copy.status, copy.args) == ("todo", args)
