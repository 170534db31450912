"""
Calendars whose answers name several calendars, some of which fail or are foreign.

One that fails does not stop the others, and the number of requests is limited.
"""

from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import pytest
from job_context import clock as clock
from job_context import run_attempt
from provider_server import CUT, ProviderServer, Reply, Request
from provider_server import provider as provider
from record_server import without_triggers
from stamping import opened

from app.domain import opentimestamps
from app.domain.opentimestamps import APPEND, ATTESTATION, FORK, PENDING, SHA256
from app.errors import RecordDamaged
from app.providers.timestamp_calendar import TimestampCalendar
from app.simulation import timestamp_calendar
from jobs import timestamps as jobs

FOREIGN = "https://calendar.example.org"


@pytest.fixture
async def stamps(database, clock, provider) -> AsyncIterator[Any]:
    """A harness whose calendar answers through `provider`."""
    async with opened(database, clock, address=provider.url) as harness:
        yield harness


def own(request: Request) -> str:
    """Return the address of the calendar that a request has reached."""
    return f"http://{request.headers['host']}{timestamp_calendar.PATH}/"


def promise(uri: str, way: bytes = b"") -> bytes:
    """Return an item with a way of operations to a promise of the calendar at `uri`."""
    text = bytes([len(uri)]) + uri.encode()
    return FORK + way + ATTESTATION + PENDING + bytes([len(text)]) + text


def add(provider: ProviderServer, stamps: Any, items: Callable[[Request], bytes]) -> None:
    """Let the calendar put `items` before its own promise. It fails for unknown commitments."""

    def answer(request: Request) -> Reply:
        reply = stamps.answer(request)
        if request.path.endswith("/digest"):
            return Reply(items(request) + reply.body, 200, reply.headers)
        return reply

    provider.answers = answer


async def stored_promise(stamps: Any) -> Any:
    """Stamp a batch, go on to the time of its upgrade, and return the pending proof."""
    await stamps.harness.make_batch()
    await stamps.stamp(stamps.calendar)
    (pending,) = await stamps.stored()
    stamps.clock.time = pending.received_at + timedelta(hours=6)
    return pending


MIXED: dict[str, Callable[[Request], bytes]] = {
    "a foreign one": lambda _: promise(FOREIGN),
    "three foreign ones": lambda _: b"".join(
        promise(f"{FOREIGN}/{number}", APPEND + bytes([1, number])) for number in range(3)
    ),
    "a foreign port": lambda _: promise("http://127.0.0.1:1/calendar"),
    "an unknown commitment": lambda request: promise(own(request), SHA256),
    "four unknown commitments": lambda request: b"".join(
        promise(own(request), APPEND + bytes([1, number])) for number in range(4)
    ),
    "many foreign ones": lambda _: b"".join(
        promise(FOREIGN, APPEND + bytes([1, number])) for number in range(100)
    ),
}


@pytest.mark.parametrize("items", MIXED.values(), ids=MIXED)
async def test_a_promise_beside_one_that_is_not_kept_yet(stamps, provider, items):
    """The job is run again later. That is no failure: the own calendar only needs more time."""
    add(provider, stamps, items)
    pending = await stored_promise(stamps)
    stamps.clock.time = pending.received_at
    retry_at = await run_attempt(lambda: jobs.upgrade(stamps.context, pending.id))
    assert retry_at == stamps.clock.now() + timedelta(hours=12)
    assert not stamps.services.failures
    assert await stamps.stored() == [pending]


@pytest.mark.parametrize("items", MIXED.values(), ids=MIXED)
async def test_a_promise_beside_the_own_one(stamps, provider, items):
    """The own one completes the proof."""
    add(provider, stamps, items)
    pending = await stored_promise(stamps)
    assert await run_attempt(lambda: jobs.upgrade(stamps.context, pending.id)) is None
    assert [one.status for one in await stamps.stored()] == ["PENDING", "CONFIRMED"]


FAILURES = {
    "status 500": Reply(status=500),
    "redirect": Reply(status=301, headers={"location": FOREIGN}),
    "cut": CUT,
    "no proof": Reply(b"<html>"),
    "too long": Reply(bytes(20_000)),
}


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
async def test_a_promise_that_fails_does_not_stop_the_next(stamps, provider, failure):
    """The calendar fails for the first commitment, and completes the second one."""
    add(provider, stamps, lambda request: promise(own(request), SHA256))
    pending = await stored_promise(stamps)
    answer = provider.answers
    failures = iter([failure])
    provider.answers = lambda request: next(failures, None) or answer(request)
    assert await run_attempt(lambda: jobs.upgrade(stamps.context, pending.id)) is None
    assert [one.status for one in await stamps.stored()] == ["PENDING", "CONFIRMED"]


async def test_the_requests_of_a_job_are_limited(stamps, provider):
    """An answer with 200 promises causes no 200 requests."""
    add(
        provider,
        stamps,
        lambda request: b"".join(
            promise(own(request), APPEND + bytes([1, number])) for number in range(200)
        ),
    )
    pending = await stored_promise(stamps)
    before = len(provider.requests)
    retry_at = await run_attempt(lambda: jobs.upgrade(stamps.context, pending.id))
    assert retry_at == stamps.clock.now() + timedelta(hours=12)
    assert len(provider.requests) - before == 5
    assert await stamps.stored() == [pending]


async def test_no_allowed_promise_is_left(stamps, provider, monkeypatch):
    """The reason names a host that OTS_HOSTS could allow."""
    add(provider, stamps, lambda _: promise(FOREIGN))
    pending = await stored_promise(stamps)
    monkeypatch.setattr(TimestampCalendar, "is_allowed", lambda *_: False)
    assert await run_attempt(lambda: jobs.upgrade(stamps.context, pending.id))
    assert stamps.services.failures == {("OPENTIMESTAMPS", "configuration"): 1}
    assert await stamps.stored() == [pending]


async def test_the_first_error_is_the_reason(stamps, provider):
    """If no calendar completes the proof, one line says why."""
    add(provider, stamps, lambda _: promise(FOREIGN))
    pending = await stored_promise(stamps)
    provider.answers = lambda _: Reply(status=500)
    assert await run_attempt(lambda: jobs.upgrade(stamps.context, pending.id))
    assert stamps.services.failures["OPENTIMESTAMPS", "unavailable"] == 1


# The proof of another hash. An item without FORK is the last one of its tree.
OTHER_PROOF = opentimestamps.pending_file(bytes(32), promise(FOREIGN).removeprefix(FORK))


@pytest.mark.parametrize(
    ("proof", "reason"),
    [
        (b"0", "This is not an OpenTimestamps file"),
        (b"<html>", "This is not an OpenTimestamps file"),
        (opentimestamps.MAGIC, "is incomplete"),
        (OTHER_PROOF, "It proves another hash."),
        (OTHER_PROOF[:-1], "its end is missing."),
        (OTHER_PROOF + b"x", "1 byte too many"),
    ],
    ids=range(6),
)
async def test_a_proof_that_was_changed(stamps, provider, proof, reason):
    """The row was changed by hand: the job names it, asks no calendar, and stores nothing."""
    add(provider, stamps, lambda _: b"")
    pending = await stored_promise(stamps)
    with without_triggers(stamps.context.pool.conninfo) as conn:
        conn.execute("UPDATE timestamps SET proof = %s", [proof])
    provider.requests.clear()
    with pytest.raises(RecordDamaged, match=f"{pending.id} for entry {pending.seq} can") as error:
        await jobs.upgrade(stamps.context, pending.id)
    assert reason in str(error.value)
    assert provider.requests == []
    assert len(await stamps.stored()) == 1
