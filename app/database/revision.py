"""
Tracks the record's revision.

A dedicated connection LISTENs for notifications: every commit that changes the record sends one.
This process also sends notifications to itself. They are called probes. Postgres delivers
notifications in the order of the commits. So when a probe arrives, the notifications of all commits
before the probe have arrived, too. From then on, `Revision` knows the revision until `MAX_SILENCE`
seconds after it sent the probe.

If anything fails, the revision becomes unknown, at most `MAX_SILENCE` seconds after the first
commit that this process misses. Examples of failures are a broken connection, a network that is
silent, and a PgBouncer in place of a direct connection.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

import psycopg
import structlog
from psycopg import AsyncConnection, Notify

from app.core import availability, tasks
from app.core.availability import describe_cause
from app.database.advice import display_address
from app.database.pools import disconnect
from app.database.sessions import Session

# How long to wait for notifications before the next probe, in seconds.
PROBE_INTERVAL = 2.0

# How long the revision is known after a probe was sent, in seconds, if the probe arrives. A
# connection that is silent for longer than this is ended.
MAX_SILENCE = 5.0

# The pause before the next attempt to connect, in seconds.
_RECONNECT_PAUSE = 0.3

log = structlog.get_logger()


class Revision:
    """A counter of the changes of the record that this process knows of, since it started."""

    def __init__(self) -> None:
        self._number = 0
        # The row with the journal's newest number, as the last probe read it.
        self._head: object = None
        self._changed = asyncio.Event()
        # `_known_until` is a time of `time.monotonic` and not of the loop's clock: uvloop's clock
        # does not advance during a callback, even if the callback takes long.
        self._known_until = monotonic()
        self._conn: AsyncConnection[Any] | None = None
        self._stopping = False

    def current(self) -> int | None:
        """Return the revision, or None while this process may have missed a change."""
        if monotonic() >= self._known_until:
            return None
        return self._number

    def mark_changed(self) -> None:
        """Begin a new revision, because the record has changed or may have changed."""
        self._number += 1
        self._changed.set()

    async def wait_for_change(self, since: int) -> int:
        """Wait until the revision differs from `since`, and return the new revision."""
        while self._number == since:
            self._changed.clear()
            await self._changed.wait()
        return self._number

    @asynccontextmanager
    async def listen(self, conninfo: str) -> AsyncIterator[None]:
        """
        Receive notifications within the context.

        `conninfo` must lead directly to Postgres: a PgBouncer in transaction mode drops LISTEN.
        """
        self._stopping = False
        listening = asyncio.create_task(self._listen(conninfo))
        try:
            yield
        finally:
            self._stopping = True
            # The connection is ended before the task is cancelled: if its network is silent, a
            # cancellation takes ten seconds.
            if self._conn:
                disconnect(self._conn)
                await asyncio.wait([listening], timeout=_RECONNECT_PAUSE)
            await tasks.cancel_and_wait(listening)

    async def _listen(self, conninfo: str) -> None:
        """Receive notifications until `listen` ends, on one connection after another."""
        # Only the first error of an outage is logged.
        was_receiving = True
        database = availability.for_database(display_address(conninfo))
        while not self._stopping:
            try:
                async with await Session.connect(
                    conninfo, name="announcements", autocommit=True
                ) as conn:
                    self._conn = conn
                    database.record_connection(conn)
                    await conn.execute("LISTEN record")
                    # Notifications that were sent before LISTEN were missed, so the record may have
                    # changed.
                    self.mark_changed()
                    while True:
                        await self._probe(conn)
                        database.record_success(conn)
                        was_receiving = True
            except (psycopg.Error, OSError) as error:
                if not self._stopping:
                    database.record_failure(error, is_connect_error=self._conn is None)
                if was_receiving and not self._stopping:
                    log.warning(
                        "no notifications are received, responses are not cached",
                        reason=describe_cause(error),
                    )
                was_receiving = False
            self._conn = None
            self._known_until = monotonic()
            if not self._stopping:
                await asyncio.sleep(_RECONNECT_PAUSE)

    async def _probe(self, conn: AsyncConnection[Any]) -> None:
        """
        Send a probe, and receive notifications for `PROBE_INTERVAL` seconds.

        Raises OperationalError if the probe does not arrive in this time.
        """
        sent_at = monotonic()
        # If the network is silent, neither a query nor its cancellation would end. So after
        # MAX_SILENCE the connection is ended.
        loop = asyncio.get_running_loop()
        disconnecting = loop.call_later(MAX_SILENCE, disconnect, conn)
        try:
            cursor = await conn.execute(
                "SELECT (SELECT max(seq) FROM public.journal), pg_notify('record', %s)",
                (str(sent_at),),
            )
            head = await cursor.fetchone()
            # A new head means a new revision, even without a notification: the triggers that send
            # notifications may have been switched off, as in a pg_restore.
            if head != self._head:
                self._head = head
                self.mark_changed()
            async for notification in conn.notifies(timeout=PROBE_INTERVAL):
                self._receive(notification, conn.info.backend_pid)
        finally:
            disconnecting.cancel()
        if self._known_until < sent_at + MAX_SILENCE:
            raise psycopg.OperationalError(
                "The service's own notification did not arrive; is this a direct connection?"
            )

    def _receive(self, notification: Notify, own_pid: int) -> None:
        if not notification.payload:
            # Postgres sends an empty payload when the record changes.
            self.mark_changed()
        elif notification.pid == own_pid:
            # A probe of this process. The probes of other processes prove nothing about this
            # connection.
            self._known_until = float(notification.payload) + MAX_SILENCE
