"""
Yearly checks: their rules and their entries, written by reconciliation when they are due.

A check is held once, and rests on the entries of the journal before its own. So it is computed from
the journal and not from the tables. A second process cannot hold it too: reconciliation runs in one
process at a time, and the entry is written under the journal's lock.
"""

from collections.abc import Sequence
from datetime import timedelta

import structlog

from app.core.locks import Lock
from app.domain import journal as forms
from app.domain.check_contents import CheckInputs, check_content, rules_content
from app.domain.model import JournalEntry, JournalKind, Rate
from app.domain.verification.check_inputs import NextCheck, first_monday, next_check, read_inputs
from app.domain.verification.replay import JournalReplay
from app.errors import Discrepancy
from app.store import batches, declarations, journal, rates
from app.store.rows import Conn, stream_rows
from jobs.context import Context

# To hold a check, the whole journal is read, which takes seconds in a record of years. While an
# entry is damaged, that fails every time, and a round of reconciliation runs every half minute.
RETRY_AFTER = timedelta(hours=1)

log = structlog.get_logger()


async def hold_due(conn: Conn, context: Context) -> int:
    """
    Write the RULES entry if the record has picks, and a CHECK entry for each check that is due.

    Return how many checks were held. After a damaged entry of the journal, a check is tried again
    when RETRY_AFTER has passed.
    """
    now = context.now()
    first = await batches.first_run_date(conn)
    if first is None or await batches.first_baseline(conn) is None:
        return 0
    if await journal.newest_of_kind(conn, JournalKind.RULES) is None:
        await journal.append(
            conn, JournalKind.RULES, at=now, recorded={"rules": rules_content()}, batch_id=None
        )
    held = await journal.count_of_kind(conn, JournalKind.CHECK)
    if now < next_check(first, held).held_at:
        return 0
    paused_until = context.check_pause.until
    if paused_until and now < paused_until:
        return 0
    try:
        return await _hold(conn, context)
    except Discrepancy as error:
        # `alpha-monday verify` names it, too.
        context.check_pause.until = now + RETRY_AFTER
        log.warning("yearly check not held: the journal cannot be read", reason=str(error))
        return 0


async def _hold(conn: Conn, context: Context) -> int:
    """Hold the checks that are due, and return how many."""
    replay = JournalReplay()
    # Most entries are read before the lock is taken, so that other writers wait only for the rest.
    await _read_new(conn, replay)
    await conn.execute("SELECT pg_advisory_xact_lock(%s)", (Lock.JOURNAL,))
    held = 0
    while True:
        await _read_new(conn, replay)
        due = _next(replay)
        now = context.now()
        if due is None or now < due.held_at:
            return held
        inputs = await _read_inputs(conn, replay, due)
        content = check_content(inputs)
        await journal.append(
            conn,
            JournalKind.CHECK,
            at=now,
            recorded={"check": content, "rates": inputs.rates},
            batch_id=None,
        )
        log.info("yearly check held", number=due.number, on=str(due.on), late=inputs.is_late)
        held += 1


def _next(replay: JournalReplay) -> NextCheck | None:
    first = first_monday(replay.state)
    if first is None:
        return None
    return next_check(first, replay.state.held_checks)


async def _read_new(conn: Conn, replay: JournalReplay) -> None:
    """Read the entries after the newest one that was read."""
    seq = replay.head.seq if replay.head else 0
    where = "WHERE seq > %s ORDER BY seq"
    async for entry in stream_rows(conn, JournalEntry, table="journal", where=where, values=(seq,)):
        replay.add(forms.to_texts(entry))


async def _read_inputs(conn: Conn, replay: JournalReplay, due: NextCheck) -> CheckInputs:
    state = replay.state
    assert replay.head, "a journal with a batch has a head"
    assert state.rules_at, "the RULES entry was written before"
    if not await declarations.is_sealed(conn):
        # No entry has the readings of such a record; the entry of the check will have them.
        for rate in await _all_rates(conn):
            state.rates[rate.observed_on, rate.read_at] = rate
    return read_inputs(state, due, head=replay.head, rules_at=state.rules_at)


async def _all_rates(conn: Conn) -> Sequence[Rate]:
    return list((await rates.list_in_force(conn)).values())
