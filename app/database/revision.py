"""
Whether the record has moved: a connection of its own hears what Postgres announces at every commit.

Announcements and our own beats travel in one queue, in the order of commits, and arrive when the commit can be seen.
So a beat that came back proves that everything committed before it was sent has been heard; from then on `Revision` is
sure for `SILENCE` seconds. Whatever breaks (the connection, the network without a word, a PgBouncer where none should
be), it knows no revision at most `SILENCE` seconds after the last commit that it could have missed.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

import psycopg
import structlog
from psycopg import AsyncConnection, Notify

from app.core import presence, tasks
from app.core.presence import why
from app.database.advice import where
from app.database.pools import hang_up
from app.database.sessions import Session

BEAT = 2.0
SILENCE = 5.0
PAUSE = 0.3

log = structlog.get_logger()


class Revision:
    """How often the record is known to have moved since this process began."""

    def __init__(self) -> None:
        self._number = 0
        self._head: object = None
        self._moves = asyncio.Event()
        # Not the loop's time: uvloop's stands still while a callback runs, however long that takes.
        self._sure_until = monotonic()
        self._conn: AsyncConnection[Any] | None = None
        self._leaving = False

    def now(self) -> int | None:
        """Return the revision, or None while the record may have moved unheard."""
        return self._number if monotonic() < self._sure_until else None

    def moved(self) -> None:
        """Begin a new revision."""
        self._number += 1
        self._moves.set()

    async def changed(self, since: int) -> int:
        """Wait until the revision is another than `since`, and return it."""
        while self._number == since:
            self._moves.clear()
            await self._moves.wait()
        return self._number

    @asynccontextmanager
    async def heard(self, conninfo: str) -> AsyncIterator[None]:
        """Listen for as long as the context lasts. LISTEN needs a direct connection: PgBouncer would forget it."""
        self._leaving = False
        listening = asyncio.create_task(self._listen(conninfo))
        try:
            yield
        finally:
            # On a connection that died without a word a cancellation takes ten seconds.
            self._leaving = True
            if self._conn:
                hang_up(self._conn)
                await asyncio.wait([listening], timeout=PAUSE)
            await tasks.end(listening)

    async def _listen(self, conninfo: str) -> None:
        """Hear announcements until it is time to leave, on one connection after another."""
        heard = True
        database = presence.of(where(conninfo))
        while not self._leaving:
            try:
                async with await Session.connect(conninfo, name="announcements", autocommit=True) as conn:
                    self._conn = conn
                    database.connected(conn)
                    await conn.execute("LISTEN record")
                    self.moved()  # whatever was announced before, nobody heard
                    while True:
                        await self._beat(conn)
                        database.worked(conn)
                        heard = True
            except (psycopg.Error, OSError) as error:
                if not self._leaving:
                    database.failed(error, connecting=self._conn is None)
                if heard and not self._leaving:
                    log.warning("no announcements are heard, no answers kept", reason=why(error))
                heard = False
            self._conn, self._sure_until = None, monotonic()
            if not self._leaving:
                await asyncio.sleep(PAUSE)

    async def _beat(self, conn: AsyncConnection[Any]) -> None:
        """Announce something to ourselves, and hear what there is to hear until the next beat."""
        sent = monotonic()
        # A query on a connection that died without a word would be waited for, and so would its cancellation.
        hanging_up = asyncio.get_running_loop().call_later(SILENCE, hang_up, conn)
        try:
            cursor = await conn.execute(
                "SELECT (SELECT max(seq) FROM public.journal), pg_notify('record', %s)", (str(sent),)
            )
            head = await cursor.fetchone()
            if head != self._head:  # also where triggers were switched off, as pg_restore may
                self._head = head
                self.moved()
            async for notice in conn.notifies(timeout=BEAT):
                self._hear(notice, conn.info.backend_pid)
        finally:
            hanging_up.cancel()
        if self._sure_until < sent + SILENCE:
            raise psycopg.OperationalError("What we announced did not come back; is this a direct connection?")

    def _hear(self, notice: Notify, ourselves: int) -> None:
        if not notice.payload:
            self.moved()
        elif notice.pid == ourselves:  # others' beats are theirs
            self._sure_until = float(notice.payload) + SILENCE
