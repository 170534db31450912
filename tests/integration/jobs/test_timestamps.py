"""
The jobs that let other services stamp the journal, with simulators of an authority and a calendar.

MONDAY's batch is made at 09:00 in New York, which is 13:00 UTC; its open is at 13:30 UTC.
"""

import os
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from time import monotonic
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from job_context import (
    MONDAY,
    logged,
    new_york,
    run_attempt,
)
from job_context import clock as clock
from job_context import harness as harness
from openssl_program import accepts
from provider_server import CUT, HANGING, ProviderServer, Reply
from stamping import Stamps, opened

from app.database.pools import transaction
from app.domain import opentimestamps
from app.domain.rfc3161 import read_roots, verify_response
from app.domain.timestamps import TimestampKind
from app.errors import ConfigurationError
from app.providers import timestamp_authority, timestamp_services
from app.providers import timestamp_calendar as timestamp_calendar_client
from app.providers.timestamp_services import TimestampServices
from app.simulation import timestamp_calendar
from app.simulation.faults import TIMESTAMP, FaultRule
from app.store import timestamps as store
from jobs import admin, daily, queue_tables, reconcile
from jobs import timestamps as jobs

OPEN = new_york(MONDAY, 9, 30)


@pytest.fixture
async def stamps(database, clock) -> AsyncIterator[Stamps]:
    async with opened(database, clock) as opened_stamps:
        yield opened_stamps


async def test_a_batch_is_stamped_before_its_open(stamps, tmp_path):
    """
    Both services stamp the batch's entry some seconds after nine, and openssl accepts the token.
    """
    batch = await stamps.harness.make_batch()
    waiting = await stamps.waiting("stamp_head")
    assert [args["kind"] for args, _ in waiting] == ["RFC3161", "OPENTIMESTAMPS"]
    for _, at in waiting:
        assert timedelta(seconds=10) <= at - stamps.clock.now() <= timedelta(seconds=20)
        assert at < OPEN
    stamps.clock.time = waiting[0][1]
    for service in stamps.services:
        await stamps.stamp(service)
    entry = (await stamps.harness.journal())[-1]
    assert entry.kind == "BATCH"
    token, promise = await stamps.stored()
    assert (token.kind, promise.kind) == ("RFC3161", "OPENTIMESTAMPS")
    for stamp in (token, promise):
        assert (stamp.seq, stamp.hash) == (entry.seq, entry.hash)
    assert token.at == stamps.clock.now().replace(microsecond=0)
    assert accepts(token.proof, data_hash=entry.hash, root=stamps.root, at=token.at, cwd=tmp_path)
    assert await check_log(stamps, batch) == "batch stamped before its open"


async def check_log(stamps: Stamps, batch: Any) -> str:
    """Check the timestamp of a batch at its open, and return what was logged."""
    stamps.clock.time = OPEN + timedelta(seconds=30)
    with logged("INFO", stamps.clock) as lines:
        await jobs.check(stamps.context, batch.id)
    return str(lines[-1]["event"])


async def test_the_token_can_be_verified_years_later(stamps):
    """What is stored is enough: the response, the hash of the entry, the nonce and the chain."""
    await stamps.harness.make_batch()
    await stamps.stamp()
    (token,) = await stamps.stored()
    roots = read_roots(token.chain.encode())
    stamp = verify_response(token.proof, data_hash=token.hash, nonce=int(token.nonce), roots=roots)
    assert stamp.gen_time == token.at
    assert roots[-1] == read_roots(stamps.root)[0]


async def test_a_stamped_head_is_not_stamped_again(stamps):
    """The newest stamped entry of each service says whether there is anything to do."""
    await stamps.harness.make_batch()
    await stamps.stamp()
    await stamps.stamp()
    assert len(await stamps.stored()) == 1
    assert not stamps.services.failures


async def test_a_promise_is_upgraded_hours_later(stamps):
    """The calendar is asked after 6 hours, and the complete proof is stored beside the promise."""
    await stamps.harness.make_batch()
    await stamps.stamp(stamps.calendar)
    (pending,) = await stamps.stored()
    assert pending.status == "PENDING"
    ((args, due_at),) = await stamps.waiting("upgrade_proof")
    assert args == {"timestamp": str(pending.id)}
    assert due_at == pending.received_at + timedelta(hours=6)
    stamps.clock.time = due_at
    await jobs.upgrade(stamps.context, pending.id)
    await jobs.upgrade(stamps.context, pending.id)
    _, complete = await stamps.stored()
    assert (complete.status, complete.seq, complete.authority) == (
        "CONFIRMED",
        pending.seq,
        pending.authority,
    )
    proof = opentimestamps.parse(complete.proof)
    assert proof.digest.hex() == pending.hash
    assert proof.block
    assert proof.block.height == complete.block_height


async def test_a_promise_that_is_not_kept_is_given_up_after_two_weeks(database, clock):
    """The calendar is asked every 12 hours for 14 days, and then no more."""
    rule = FaultRule(provider="calendar", fault="not_found", function="timestamp")
    async with opened(database, clock, [rule]) as stamps:
        await stamps.harness.make_batch()
        await stamps.stamp(stamps.calendar)
        (pending,) = await stamps.stored()
        clock.time = pending.received_at + timedelta(hours=6)
        times = []
        with logged("INFO", clock) as lines:
            while at := await run_attempt(lambda: jobs.upgrade(stamps.context, pending.id)):
                times.append(at - pending.received_at)
                clock.time = at
        assert times == [timedelta(hours=18 + 12 * number) for number in range(27)]
        assert lines[-1]["event"] == "proof given up"
        assert len(await stamps.stored()) == 1


# Faults that are no lies: the answer is only slow, or is for a person (a redirect).
NO_LIES = ("slow", "hang", "redirect")
UNAVAILABLE = ("html", "http_429", "http_500", "http_503", "cut", "gzip", "wrong_content_type")


@pytest.mark.parametrize("fault", [name for name in TIMESTAMP if name not in NO_LIES])
@pytest.mark.sampled(8)
async def test_no_token_is_stored_that_does_not_verify(fault, database, clock):
    """A lie is one warning in the log and is counted, and a later attempt gets the timestamp."""
    rule = FaultRule(provider="timestamp", fault=fault, times=1)
    async with opened(database, clock, [rule]) as stamps:
        await stamps.harness.make_batch()
        with logged("INFO", clock) as lines:
            retry_at = await run_attempt(stamps.stamp)
        assert await stamps.stored() == []
        assert retry_at
        assert retry_at >= clock.now() + timedelta(seconds=30)
        (line,) = [line for line in lines if line["event"] == "no timestamp received"]
        assert line["level"] == "warning"
        reason = "unavailable" if fault in UNAVAILABLE else "unusable"
        assert stamps.services.failures == {("RFC3161", reason): 1}
        clock.time = retry_at
        await stamps.stamp(attempts=1)
        assert len(await stamps.stored()) == 1


# What only the block chain can show, and what is no fault of a submitted hash.
CALENDAR_LIES = [
    name
    for name in timestamp_calendar.FAULTS
    if name
    not in (
        *NO_LIES, "not_found", "other_digest", "unknown_attestation_beside", "false_block",
    )
]  # fmt: skip


@pytest.mark.parametrize("fault", CALENDAR_LIES)
@pytest.mark.sampled(8)
async def test_no_promise_is_stored_that_cannot_be_used(fault, database, clock):
    """An answer that is no proof, or that leads to a host that is not allowed, is refused."""
    rule = FaultRule(provider="calendar", fault=fault, times=1)
    async with opened(database, clock, [rule]) as stamps:
        await stamps.harness.make_batch()
        retry_at = await run_attempt(lambda: stamps.stamp(stamps.calendar))
        assert await stamps.stored() == []
        assert retry_at
        assert stamps.services.failures.total() == 1
        clock.time = retry_at
        await stamps.stamp(stamps.calendar, attempts=1)
        assert len(await stamps.stored()) == 1


SERVICES = ["authority", "calendar"]
MODULES = {"authority": timestamp_authority, "calendar": timestamp_calendar_client}
# The name of each service in a fault script.
PROVIDERS = {"authority": "timestamp", "calendar": "calendar"}


def line_of(lines: Sequence[dict[str, Any]], event: str) -> dict[str, Any]:
    """Return the line with an event; there must be one, and no other line of a failure."""
    (line,) = [line for line in lines if line["level"] in ("warning", "error")]
    assert line["event"] == event
    return line


@pytest.mark.parametrize("fault", ["slow", "hang"])
@pytest.mark.parametrize("name", SERVICES)
@pytest.mark.sampled(2)
async def test_a_slow_service_ends_the_attempt(name, fault, database, clock, monkeypatch):
    """The client waits no longer than its limit; the next attempt gets the stamp."""
    rule = FaultRule(provider=PROVIDERS[name], fault=fault, times=1)
    async with opened(database, clock, [rule]) as stamps:
        service = getattr(stamps, name)
        await stamps.harness.make_batch()
        began_at = monotonic()
        with logged("INFO", clock) as lines, monkeypatch.context() as patched:
            patched.setattr(MODULES[name], "TIMEOUT_SECONDS", 0.2)
            retry_at = await run_attempt(lambda: stamps.stamp(service))
        assert 0.2 <= monotonic() - began_at < 5
        assert await stamps.stored() == []
        assert retry_at == clock.now() + timedelta(seconds=30)
        assert "did not answer within" in line_of(lines, "no timestamp received")["reason"]
        assert stamps.services.failures == {(service.kind, "unavailable"): 1}
        clock.time = retry_at
        await stamps.stamp(service, attempts=1)
        (stored,) = await stamps.stored()
        assert stored.kind == service.kind


@pytest.mark.parametrize("name", SERVICES)
async def test_a_redirect_is_not_followed(name, database, clock):
    """It is one error in the log, for a person. The job stays, with the pauses of an outage."""
    rule = FaultRule(provider=PROVIDERS[name], fault="redirect", times=1)
    async with opened(database, clock, [rule]) as stamps:
        service = getattr(stamps, name)
        await stamps.harness.make_batch()
        with logged("INFO", clock) as lines:
            retry_at = await run_attempt(lambda: stamps.stamp(service))
        assert retry_at == clock.now() + timedelta(seconds=30)
        assert await stamps.stored() == []
        line = line_of(lines, "no timestamp received")
        assert line["level"] == "error"
        assert "answered 302, a redirect, which is not followed" in line["reason"]
        assert stamps.services.failures == {(service.kind, "configuration"): 1}
        await stamps.stamp(service)
        (stored,) = await stamps.stored()
        assert stored.kind == service.kind


@pytest.mark.parametrize("is_listening", [False, True], ids=["refuses", "ends"])
@pytest.mark.parametrize("name", SERVICES)
async def test_a_service_that_is_away(name, is_listening, database, clock):
    """
    Its port refuses connections, or accepts them and ends them. When it is back, it stamps.
    """
    async with AsyncExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        server = ProviderServer(listener)
        server.play(CUT)
        if is_listening:
            await stack.enter_async_context(server)
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        stamps = await stack.enter_async_context(opened(database, clock, address=address))
        service = getattr(stamps, name)
        await stamps.harness.make_batch()
        with logged("INFO", clock) as lines:
            retry_at = await run_attempt(lambda: stamps.stamp(service))
        assert await stamps.stored() == []
        assert retry_at == clock.now() + timedelta(seconds=30)
        reason = "cannot be reached (ConnectError)"
        if is_listening:
            reason = "cannot be reached (RemoteProtocolError)"
        assert reason in line_of(lines, "no timestamp received")["reason"]
        assert stamps.services.failures == {(service.kind, "unavailable"): 1}

        server.answers = stamps.answer
        if not is_listening:
            await stack.enter_async_context(server)
        clock.time = retry_at
        await stamps.stamp(service, attempts=1)
        (stored,) = await stamps.stored()
        assert stored.kind == service.kind


@pytest.mark.parametrize("fault", ["slow", "redirect", "cut", "whole_file"])
async def test_a_proof_that_is_not_completed_is_asked_for_again(
    fault, database, clock, monkeypatch
):
    """The rest of a proof comes half a day later, if the calendar fails once."""
    rule = FaultRule(provider="calendar", fault=fault, function="timestamp", times=1)
    async with opened(database, clock, [rule]) as stamps:
        await stamps.harness.make_batch()
        await stamps.stamp(stamps.calendar)
        (pending,) = await stamps.stored()
        clock.time = pending.received_at + timedelta(hours=6)
        with logged("INFO", clock) as lines, monkeypatch.context() as patched:
            patched.setattr(timestamp_calendar_client, "TIMEOUT_SECONDS", 0.2)
            retry_at = await run_attempt(lambda: jobs.upgrade(stamps.context, pending.id))
        assert await stamps.stored() == [pending]
        assert line_of(lines, "proof not upgraded")["level"] == "warning"
        assert retry_at == clock.now() + timedelta(hours=12)
        clock.time = retry_at
        assert await run_attempt(lambda: jobs.upgrade(stamps.context, pending.id)) is None
        assert [stored.status for stored in await stamps.stored()] == ["PENDING", "CONFIRMED"]


@pytest.mark.parametrize(
    ("attempts", "seconds"), [(0, 30), (1, 60), (2, 120), (6, 1920), (7, 3600), (50, 3600)]
)
async def test_the_pauses_grow_to_an_hour(attempts, seconds, database, clock):
    """An authority that is away is asked again and again, without an end."""
    rule = FaultRule(provider="timestamp", fault="http_503")
    async with opened(database, clock, [rule]) as stamps:
        await stamps.harness.make_batch()
        retry_at = await run_attempt(lambda: stamps.stamp(attempts=attempts))
        assert retry_at == clock.now() + timedelta(seconds=seconds)


async def test_a_later_job_takes_over(database, clock):
    """A job that failed ends if another one of its service is due before its next attempt."""
    rule = FaultRule(provider="timestamp", fault="http_503")
    async with opened(database, clock, [rule]) as stamps:
        await stamps.harness.make_batch()
        ((first,), *_) = await stamps.harness.rows(
            "SELECT id FROM procrastinate_jobs WHERE task_name = 'stamp_head' ORDER BY id"
        )
        async with transaction(stamps.context.pool) as conn:
            await jobs.defer_for_checkpoint(conn, stamps.context)
        # The job of the checkpoint is due at 09:10:10.
        assert await run_attempt(lambda: stamps.stamp(id=first)) == clock.now() + timedelta(
            seconds=30
        )
        assert await run_attempt(lambda: stamps.stamp(id=first, attempts=5)) is None
        assert stamps.services.failures == {("RFC3161", "unavailable"): 2}


async def test_entries_of_one_moment_share_a_job(stamps):
    """A second entry within the slot defers nothing, and does not end its own transaction."""
    async with transaction(stamps.context.pool) as conn:
        batch = SimpleNamespace(id=uuid4(), run_date=MONDAY, late=True)
        for _ in range(3):
            await jobs.defer_for_batch(conn, stamps.context, batch)
            await jobs.defer_for_checkpoint(conn, stamps.context)
        await conn.execute("SELECT 1")
    waiting = await stamps.waiting("stamp_head")
    assert len(waiting) == 4
    assert {at for _, at in waiting} == {
        new_york(MONDAY) + timedelta(seconds=20),
        new_york(MONDAY, 9, 10) + timedelta(seconds=10),
    }
    assert await stamps.waiting("check_stamp") == []


@pytest.mark.parametrize(
    ("minute", "second", "due"),
    [
        (9, 59, (10, 10)),
        (10, 0, (70, 10)),
        (10, 5, (70, 10)),
        (59, 0, (70, 10)),
    ],
)
async def test_checkpoints_are_stamped_at_most_once_an_hour(minute, second, due, stamps):
    """The slots end ten minutes after each full hour."""
    stamps.clock.time = new_york(MONDAY, 9, minute) + timedelta(seconds=second)
    async with transaction(stamps.context.pool) as conn:
        await jobs.defer_for_checkpoint(conn, stamps.context)
    minutes, seconds = due
    expected = new_york(MONDAY) + timedelta(minutes=minutes, seconds=seconds)
    assert {at for _, at in await stamps.waiting("stamp_head")} == {expected}


async def test_a_batch_just_before_the_open_is_stamped_at_once(stamps):
    """Its job does not wait for others that could share it."""
    stamps.clock.time = OPEN - timedelta(seconds=40)
    async with transaction(stamps.context.pool) as conn:
        batch = SimpleNamespace(id=uuid4(), run_date=MONDAY, late=False)
        await jobs.defer_for_batch(conn, stamps.context, batch)
    assert {at for _, at in await stamps.waiting("stamp_head")} == {stamps.clock.now()}
    ((_, at),) = await stamps.waiting("check_stamp")
    assert at == OPEN + timedelta(seconds=30)


async def test_a_checkpoint_defers_the_stamps_of_its_morning(stamps):
    """Each checkpoint of a morning adds no further job."""
    await stamps.harness.make_batch()
    batch = await stamps.harness.batch()
    for day in (1, 2):
        stamps.clock.time = new_york(MONDAY + timedelta(days=day))
        await daily.take(stamps.context, batch.id, day)
    due = [at for args, at in await stamps.waiting("stamp_head") if args["kind"] == "RFC3161"]
    assert due[1:] == [
        new_york(MONDAY + timedelta(days=day), 9, 10) + timedelta(seconds=10) for day in (1, 2)
    ]


async def test_without_services_nothing_is_deferred(harness):
    """Both settings are off by default."""
    await harness.make_batch()
    assert {task for task, _, _ in await harness.jobs()} == {"take_checkpoint"}


async def test_the_alert_at_the_open(stamps):
    """A batch without a token at its open is one alert and one warning; pages are renewed."""
    batch = await stamps.harness.make_batch()
    stamps.clock.time = OPEN - timedelta(seconds=1)
    assert await run_attempt(lambda: jobs.check(stamps.context, batch.id)) == OPEN
    stamps.context.alerts.is_configured = True
    # A job whose process dies at its end runs again.
    for _ in range(2):
        assert await check_log(stamps, batch) == "batch not stamped before its open"
    ((kind, run_date, text),) = await stamps.harness.rows(
        "SELECT kind, run_date, text FROM operations.alerts"
    )
    assert (kind, run_date) == ("batch_not_stamped", MONDAY)
    assert text == (
        f"the picks of the Monday {MONDAY} have no timestamp (RFC 3161) from before the open, "
        "2026-10-26 13:30 UTC."
    )


# Faults of an authority that never ends them: it is away, slow or lying.
LASTING = ["cut", "slow", "redirect", "a_day_early", "bad_signature"]


@pytest.mark.parametrize("fault", LASTING)
@pytest.mark.sampled(2)
async def test_the_alert_if_the_authority_fails_until_the_open(fault, database, clock, monkeypatch):
    """All attempts until the open are in vain, and the alert is stored once, then."""
    monkeypatch.setattr(timestamp_authority, "TIMEOUT_SECONDS", 0.1)
    rule = FaultRule(provider="timestamp", fault=fault)
    async with opened(database, clock, [rule]) as stamps:
        stamps.context.alerts.is_configured = True
        batch = await stamps.harness.make_batch()
        # 09:00:00, :30, 09:01:30, 09:03:30, 09:07:30, 09:15:30; the next one is at 09:31:30.
        assert await stamps.stamp_until(OPEN) == 6
        assert await check_log(stamps, batch) == "batch not stamped before its open"
        assert await stamps.stored() == []
        assert await alerted(stamps) == [("batch_not_stamped", MONDAY)]


@pytest.mark.parametrize("fault", LASTING)
@pytest.mark.sampled(2)
async def test_no_alert_if_the_authority_is_back_before_the_open(
    fault, database, clock, monkeypatch
):
    """The first attempt after its return gets a token, so the check at the open finds one."""
    monkeypatch.setattr(timestamp_authority, "TIMEOUT_SECONDS", 0.1)
    back_at = new_york(MONDAY, 9, 10)
    rule = FaultRule(provider="timestamp", fault=fault, until=back_at)
    async with opened(database, clock, [rule]) as stamps:
        stamps.context.alerts.is_configured = True
        batch = await stamps.harness.make_batch()
        await stamps.stamp_until(OPEN)
        # From the real limit on, a busy machine has enough time.
        monkeypatch.undo()
        (token,) = await stamps.stored()
        assert back_at <= token.at < OPEN
        assert await check_log(stamps, batch) == "batch stamped before its open"
        assert await alerted(stamps) == []


async def test_a_later_token_adds_no_second_alert(database, clock):
    """The alert of the open stays as it is: the token says that it came after the open."""
    rule = FaultRule(provider="timestamp", fault="http_503", until=OPEN + timedelta(minutes=1))
    async with opened(database, clock, [rule]) as stamps:
        stamps.context.alerts.is_configured = True
        batch = await stamps.harness.make_batch()
        await stamps.stamp_until(OPEN)
        assert await check_log(stamps, batch) == "batch not stamped before its open"
        before = await stamps.harness.rows("SELECT * FROM operations.alerts")
        clock.time = OPEN + timedelta(seconds=90)
        assert await stamps.stamp_until(OPEN + timedelta(hours=1)) == 1
        (token,) = await stamps.stored()
        assert token.at > OPEN
        assert await stamps.harness.rows("SELECT * FROM operations.alerts") == before
        assert len(before) == 1


async def alerted(stamps: Stamps) -> list[tuple[Any, ...]]:
    """Return the kinds and Mondays of the stored alerts."""
    return await stamps.harness.rows("SELECT kind, run_date FROM operations.alerts")


async def test_a_token_after_the_open_does_not_count(stamps):
    """The alert names its time."""
    batch = await stamps.harness.make_batch()
    stamps.clock.time = OPEN + timedelta(seconds=5)
    await stamps.stamp()
    stamps.context.alerts.is_configured = True
    assert await check_log(stamps, batch) == "batch not stamped before its open"
    ((text,),) = await stamps.harness.rows("SELECT text FROM operations.alerts")
    assert "; the first one says 2026-10-26 13:30 UTC." in text


async def test_lost_jobs_come_back_once(stamps):
    """The reconciliation defers a stamp for a batch that has none, but no second one."""
    await stamps.harness.make_batch()
    await stamps.harness.rows("DELETE FROM procrastinate_jobs WHERE task_name = 'stamp_head'")
    await reconcile.run_round(stamps.context)
    assert await stamps.waiting("stamp_head") == []  # the entry is too young
    stamps.clock.time += timedelta(minutes=6)
    await reconcile.run_round(stamps.context)
    await reconcile.run_round(stamps.context)
    assert len(await stamps.waiting("stamp_head")) == 2
    for service in stamps.services:
        await stamps.stamp(service)
    await stamps.harness.rows("DELETE FROM procrastinate_jobs WHERE task_name <> 'take_checkpoint'")
    await reconcile.run_round(stamps.context)
    assert await stamps.waiting("stamp_head") == []
    ((args, at),) = await stamps.waiting("upgrade_proof")
    (pending,) = [one for one in await stamps.stored() if one.kind == "OPENTIMESTAMPS"]
    assert args == {"timestamp": str(pending.id)}
    assert at == pending.received_at + timedelta(hours=6)


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 410])
@pytest.mark.parametrize("name", SERVICES)
@pytest.mark.sampled(3)
async def test_a_wrong_address_is_not_asked_every_half_minute(name, status, database, clock):
    """The job stays, so reconciliation defers no other one, and the pauses grow to an hour."""
    async with (
        ProviderServer() as server,
        opened(database, clock, address=server.url) as stamps,
    ):
        server.play(*[Reply(status=status)] * 2)
        service = getattr(stamps, name)
        await stamps.harness.make_batch()
        waiting = await stamps.waiting("stamp_head")
        first = await run_attempt(lambda: stamps.stamp(service))
        last = await run_attempt(lambda: stamps.stamp(service, attempts=12))
        pauses = [first - clock.now(), last - clock.now()]
        assert pauses == [timedelta(seconds=30), timedelta(hours=1)]
        assert stamps.services.failures == {(service.kind, "configuration"): 2}
        clock.forward(minutes=10)
        await reconcile.run_round(stamps.context)
        assert await stamps.waiting("stamp_head") == waiting


async def test_a_service_that_is_no_longer_set_is_left_alone(stamps):
    """Its jobs end without a request."""
    await stamps.harness.make_batch()
    gone = timestamp_services.TimestampService(TimestampKind.RFC3161, "https://gone.example")
    await stamps.stamp(gone)
    assert await stamps.stored() == []


async def test_a_hanging_authority_holds_no_connection(database, clock, monkeypatch):
    """The request ends after its time limit, and the pool is free meanwhile."""
    monkeypatch.setattr(timestamp_authority, "TIMEOUT_SECONDS", 0.2)
    async with opened(database, clock) as stamps, ProviderServer() as server:
        server.play(HANGING, Reply(status=302, headers={"location": "https://evil.example"}))
        client = timestamp_authority.TimestampAuthority(server.url, [], clock)
        object.__setattr__(stamps.context, "timestamps", TimestampServices({client.name: client}))
        await stamps.harness.make_batch()
        service = timestamp_services.TimestampService(TimestampKind.RFC3161, client.name)
        assert await run_attempt(lambda: stamps.stamp(service)) == clock.now() + timedelta(
            seconds=30
        )
        # A redirect is for a person, but the job stays.
        assert await run_attempt(lambda: stamps.stamp(service)) is not None
        assert stamps.context.timestamps.failures == {
            ("RFC3161", "unavailable"): 1,
            ("RFC3161", "configuration"): 1,
        }
        await client.close()


async def test_the_commands_name_the_jobs(stamps):
    """`jobs list` shows the Monday of a check, and the arguments of the others."""
    await stamps.harness.make_batch()
    async with transaction(stamps.context.pool) as conn:
        found = await queue_tables.find_jobs(conn, ["todo"], task="check_stamp", limit=5)
        subjects = await admin.subjects(conn, found)
    assert [subjects[job.id] for job in found] == [(MONDAY, None, "main")]


async def test_a_job_of_the_queue_runs_with_its_stored_arguments(stamps):
    """The names of the arguments never change, because stored jobs have them."""
    await stamps.harness.make_batch()
    ((args, _), *_) = await stamps.waiting("stamp_head")
    assert set(args) == {"kind", "authority"}
    job: Any = SimpleNamespace(job=SimpleNamespace(attempts=0, id=1))
    await jobs.stamp_head(job, **args)
    (token,) = await stamps.stored()
    async with stamps.context.pool.connection() as conn:
        assert await store.get(conn, token.id) == token


def test_a_missing_file_of_roots_is_one_line(tmp_path: Path):
    """The message says what to set, and does not show the path."""
    with pytest.raises(ConfigurationError) as refused:
        timestamp_services.read_root_file(str(tmp_path / "s3cr3t"))
    (line,) = str(refused.value).splitlines()
    assert line.startswith("The file of TIMESTAMP_ROOTS cannot be read: No such file")
    assert "s3cr3t" not in line


REGULAR = "it is not a regular file. Set it to the path"


@pytest.fixture
def odd_files(tmp_path: Path) -> dict[str, Path]:
    """Paths with which an operator can mistake the file of roots."""
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "to a pipe").symlink_to("pipe")
    with (tmp_path / "long").open("wb") as file:
        file.truncate(timestamp_services.MAX_ROOT_FILE_BYTES + 1)
    return {
        "a folder": tmp_path / "folder",
        "a pipe that nobody writes to": tmp_path / "pipe",
        "a link to a pipe": tmp_path / "to a pipe",
        "an endless device": Path("/dev/zero"),
        "an empty device": Path("/dev/null"),
        "a link to itself": tmp_path / "loop",
        "a long file": tmp_path / "long",
        "a long name": tmp_path / ("n" * 5000),
    }


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a folder", REGULAR),
        ("a pipe that nobody writes to", REGULAR),
        ("a link to a pipe", REGULAR),
        ("an endless device", REGULAR),
        ("an empty device", REGULAR),
        ("a link to itself", "Too many levels of symbolic links."),
        ("a long file", "it has more than 1,000,000 bytes."),
        ("a long name", "File name too long."),
    ],
)
def test_a_file_of_roots_that_cannot_be_read(odd_files, name, reason):
    """It is refused at once, in one line: a process that reads a pipe might wait for ever."""
    with pytest.raises(ConfigurationError) as refused:
        timestamp_services.read_root_file(str(odd_files[name]))
    (line,) = str(refused.value).splitlines()
    assert line.startswith(f"The file of TIMESTAMP_ROOTS cannot be read: {reason}")
