"""The alert about two processes that record with different settings."""

import dataclasses
from datetime import timedelta

from job_context import MONDAY, new_york
from job_context import clock as clock
from msgspec.structs import replace
from receivers import harness as harness
from receivers import receiver as receiver
from receivers import send_due_messages

from jobs import daily, reconcile


async def morning(harness, day: int, benchmark: str) -> None:
    """Take a checkpoint in a process with these settings, and do a round of reconciliation."""
    batch = await harness.batch()
    process = replace(harness.context.in_force, benchmark=benchmark)
    context = dataclasses.replace(harness.context, in_force=process)
    harness.clock.time = new_york(MONDAY + timedelta(days=day))
    await daily.take(context, batch.id, day)
    await rounds(harness)


async def rounds(harness) -> None:
    """Do two rounds of reconciliation, and send the alerts."""
    for _ in range(2):
        await reconcile.run_round(harness.context)
    await send_due_messages(harness)


def reported(receiver) -> list[dict]:
    return [one for one in receiver.alerts if one["kind"] == "settings_alternate"]


async def test_two_processes_that_differ(harness, receiver):
    """
    Two workers take mornings by turns: one alert, when their settings alternate for the second
    time; it names the setting and both values. Later mornings have no second alert.
    """
    await harness.make_batch()
    for day, benchmark in enumerate(("SPY", "QQQ", "SPY"), 1):
        await morning(harness, day, benchmark)
    assert reported(receiver) == []  # a change and its rollback
    for day, benchmark in enumerate(("QQQ", "SPY", "QQQ", "SPY"), 4):
        await morning(harness, day, benchmark)
    (alert,) = reported(receiver)
    assert alert["at"].startswith("2026-10-30T13:00")
    assert (alert["run_date"], alert["day"], alert["reason"]) == (None, None, "benchmark")
    text = (
        "Alpha Monday: two processes record with different settings, and each declares its own in "
        "the journal again and again: BENCHMARK_SYMBOL is QQQ in one and SPY in the other. "
    )
    to_do = (
        "Give every process that runs `serve` or `work` the same version and settings, also the "
        "environment in which you run commands, and start them again."
    )
    assert (alert["text"], alert["to_do"]) == (text + to_do, to_do)


async def test_the_alert_is_repeated_after_peace(harness, receiver):
    """After two mornings without an alternation, the next one has an alert of its own."""
    await harness.make_batch()
    for day, benchmark in enumerate(("QQQ", "SPY", "QQQ", "SPY"), 1):
        await morning(harness, day, benchmark)
    assert len(reported(receiver)) == 1
    for day in (5, 6):
        await morning(harness, day, "SPY")
    assert len(reported(receiver)) == 1
    await morning(harness, 7, "QQQ")
    assert len(reported(receiver)) == 2


async def test_a_rollback(harness, receiver):
    """A new version, the old one again, and the new one for good: no alert."""
    batch = await harness.make_batch()
    for day, version in enumerate(("0.3.1", "0.3.0", "0.4.0", "0.4.0"), 1):
        process = replace(harness.context.in_force, version=version)
        context = dataclasses.replace(harness.context, in_force=process)
        harness.clock.time = new_york(MONDAY + timedelta(days=day))
        await daily.take(context, batch.id, day)
        await rounds(harness)
    assert (await harness.kinds()).count("SETTINGS") == 3
    assert reported(receiver) == []


async def test_a_record_without_declarations(harness, receiver):
    """A round of reconciliation on an empty journal reports nothing, and logs no error."""
    await rounds(harness)
    assert receiver.alerts == []
