"""
The fast path of queries: the bytes of a statement's result, and the state of the connection
afterwards.
"""

import asyncio
import socket
import struct

import psycopg
import pytest
import uvloop
from silent_proxy import fatal

from app.database import pools
from app.database.queries import MAX_PREPARED, pool_fetcher, wait_for_result


def on_both_loops(scenario):
    """
    Run a test on asyncio's and uvloop's event loop, with a pool of one connection, so that its
    state afterwards shows.
    """

    @pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
    def test(run, migrated):
        async def live():
            async with pools.opened(
                pools.make_pool(migrated, max_size=1, statement_timeout=1, generic_plans=True)
            ) as pool:
                await scenario(pool)

        run(live())

    test.__doc__ = scenario.__doc__
    return test


@on_both_loops
async def test_columns_as_postgres_wrote_them(one):
    fetch = pool_fetcher(one)
    assert await fetch("SELECT $1::text, $2::int + 1, NULL, ''", ["käse", "41"]) == [
        "käse".encode(),
        b"42",
        b"",
        b"",
    ]
    assert await fetch("SELECT $1::text", [None]) == [b""]


@on_both_loops
async def test_much_in_both_directions(one):
    """Parameters and results that are larger than the socket's buffers arrive completely."""
    text = "x" * 5_000_000
    for pooled in (False, True):
        assert await pool_fetcher(one, pooled=pooled)("SELECT $1::text || $1::text", [text]) == [
            text.encode() * 2
        ]


@on_both_loops
async def test_each_statement_has_its_own_answer(one):
    """
    Two functions share a connection, and run more statements than a session keeps prepared,
    twice.
    """
    for fetch in (pool_fetcher(one), pool_fetcher(one)):
        for _ in range(2):
            for number in range(MAX_PREPARED + 5):
                assert await fetch(f"SELECT {number}, $1::text", ["a"]) == [b"%d" % number, b"a"]
        assert (
            int((await fetch("SELECT count(*) FROM pg_prepared_statements", []))[0])
            <= 2 * MAX_PREPARED
        )


@on_both_loops
async def test_behind_a_pgbouncer_nothing_is_prepared(one):
    fetch = pool_fetcher(one, pooled=True)
    assert await fetch("SELECT $1::text", ["a"]) == [b"a"]
    assert await fetch("SELECT count(*) FROM pg_prepared_statements", []) == [b"0"]


@on_both_loops
async def test_an_error_leaves_the_connection_as_it_was(one):
    fetch = pool_fetcher(one)
    (before,) = await fetch("SELECT pg_backend_pid()", [])
    with pytest.raises(psycopg.errors.UndefinedColumn, match="nope"):
        await fetch("SELECT nope", [])
    with pytest.raises(psycopg.errors.DivisionByZero):
        await fetch("SELECT 1 / $1::int", ["0"])
    with pytest.raises(psycopg.errors.QueryCanceled, match="statement timeout"):
        await fetch("SELECT pg_sleep(30)", [])
    assert await fetch("SELECT pg_backend_pid()", []) == [before]


@on_both_loops
async def test_a_cancelled_statement_leaves_no_result_to_the_next(one):
    fetch = pool_fetcher(one)
    waiting = asyncio.create_task(fetch("SELECT 'late' FROM pg_sleep(0.3)", []))
    await asyncio.sleep(0.1)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await fetch("SELECT 'mine'", []) == [b"mine"]
    assert one.get_stats()["pool_size"] == 1


@on_both_loops
async def test_a_connection_that_ends(one):
    """
    A connection that ends during a statement is an outage; the next statement gets a new
    connection.
    """
    fetch = pool_fetcher(one)
    (backend,) = await fetch("SELECT pg_backend_pid()", [])
    waiting = asyncio.create_task(fetch("SELECT pg_sleep(0.9)", []))
    await asyncio.sleep(0.1)
    async with await psycopg.AsyncConnection.connect(one.conninfo, autocommit=True) as other:
        await other.execute("SELECT pg_terminate_backend(%s)", (int(backend),))
    with pytest.raises(psycopg.OperationalError) as error:
        await waiting
    assert (error.value.sqlstate or "08").startswith(("08", "57P"))
    assert await fetch("SELECT pg_backend_pid()", []) != [backend]


@on_both_loops
async def test_a_connection_that_ended_unused(one):
    fetch = pool_fetcher(one)
    (backend,) = await fetch("SELECT pg_backend_pid()", [])
    async with await psycopg.AsyncConnection.connect(one.conninfo, autocommit=True) as other:
        await other.execute("SELECT pg_terminate_backend(%s)", (int(backend),))
    await asyncio.sleep(0.1)
    assert await fetch("SELECT 1", []) == [b"1"]


READY = b"R\0\0\0\x08\0\0\0\0" + b"Z\0\0\0\x05I"
CRASHED = fatal("57P02", "terminating connection because of crash of another server process")


# The cases: a connection that ends during a statement. Other tests are about a session that
# Postgres ends (above), a silent network (`statement_timeout`, and test_pools.py), and a cancelled
# caller (above).
@pytest.mark.parametrize(
    "last",
    [
        pytest.param((b"N" + CRASHED[1:], True), id="a notice and a reset"),
        pytest.param((b"N" + CRASHED[1:], False), id="a notice and an end"),
        pytest.param((CRASHED, True), id="an error and a reset"),
        pytest.param((CRASHED[:9], True), id="half a message and a reset"),
        pytest.param((b"", True), id="a reset"),
        pytest.param((b"", False), id="an end"),
    ],
)
@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_a_connection_that_ends_as_postgres_crashes(run, last):
    """
    Postgres's last message and the end of the connection arrive together; the waiting statement
    gets an error.
    """
    words, resets = last

    async def live() -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.setblocking(False)
            port = server.getsockname()[1]
            connecting = asyncio.create_task(
                psycopg.AsyncConnection.connect(
                    f"host=127.0.0.1 port={port} sslmode=disable gssencmode=disable user=am"
                )
            )
            postgres, _ = await asyncio.get_running_loop().sock_accept(server)
            await asyncio.get_running_loop().sock_recv(postgres, 1000)
            postgres.send(READY)
            conn = await connecting
            conn.pgconn.send_query_params(b"SELECT 1", None)
            waiting = asyncio.create_task(wait_for_result(conn.pgconn))
            await asyncio.sleep(0.05)
            if resets:
                postgres.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            postgres.send(words)
            postgres.close()
            with pytest.raises(psycopg.OperationalError):
                await asyncio.wait_for(waiting, 5)
            await conn.close()

    run(live())
