"""Alerts of several series: each names its series, and none hides another's."""

from datetime import timedelta

from job_context import MONDAY, new_york
from job_context import clock as clock
from msgspec.structs import replace
from provider_server import says
from receivers import send_due_messages
from series_harness import CLAUDE, DICE, MAIN
from series_harness import harness as harness
from series_harness import keys as keys
from series_harness import receiver as receiver

from app.database.pools import transaction
from app.domain.model import JournalKind
from app.store import declarations, journal
from jobs import alerts, daily, reconcile

TUESDAY = MONDAY + timedelta(days=1)
REFUSED = says({"error": {"message": "No such key."}}, 401)


async def test_two_mondays_that_fail(harness, receiver):
    """Each has an alert with its series, and the command for it."""
    harness.answers = {CLAUDE: REFUSED, MAIN: REFUSED}
    await harness.make_all()
    await send_due_messages(harness)
    assert [(one["kind"], one["run_date"], one["reason"]) for one in receiver.alerts] == [
        ("monday_failed", "2026-10-26", "CONFIGURATION"),
        ("monday_failed", "2026-10-26", "CONFIGURATION"),
    ]
    for one in receiver.alerts:
        assert f"of {one['series']} failed" in one["text"]
    by_series = {one["text"].split(" failed")[0]: one["to_do"] for one in receiver.alerts}
    assert by_series == {
        f"Alpha Monday: the Monday 2026-10-26 of {name}": (
            f"Change what it names; then `alpha-monday pick --series {name}` runs it again, until "
            "it is over in New York."
        )
        for name in (MAIN, CLAUDE)
    }


async def test_skipped_checkpoints(harness, receiver):
    """Two series skip the same day: two alerts, each with its series and its command."""
    await harness.make_all()
    harness.world.absent.add(("SPY", MONDAY))
    harness.clock.time = new_york(TUESDAY, 20, 30)
    for name in (MAIN, CLAUDE):
        await daily.take(harness.context, (await harness.batch_of(name)).id, 1)
    await send_due_messages(harness)
    assert {one["series"] for one in receiver.alerts} == {CLAUDE, MAIN}
    texts = sorted(one["text"] for one in receiver.alerts)
    for name, text in zip((CLAUDE, MAIN), texts, strict=True):
        assert text.startswith(
            f"Alpha Monday: day 1 of the Monday 2026-10-26 of {name} was skipped (MISSING_CLOSE)"
        )
        assert f"`alpha-monday checkpoint retake 2026-10-26 1 --series {name}` tries at" in text


async def test_a_changed_reading(harness, receiver):
    """A close that several series use: the alert names the baseline of each."""
    await harness.make_all()
    harness.world.closes["SPY", MONDAY - timedelta(days=3)] = "601.0000"
    harness.clock.time = new_york(TUESDAY)
    await daily.take(harness.context, (await harness.batch_of(MAIN)).id, 1)
    await send_due_messages(harness)
    (alert,) = [one for one in receiver.alerts if one["kind"] == "reading_changed"]
    baselines = "; ".join(f"the baseline of 2026-10-26 of {name}" for name in (CLAUDE, DICE, MAIN))
    assert f"not at 600.0000 ({baselines})" in alert["text"]
    command = "`alpha-monday checkpoint correct 2026-10-26 0 SPY --series claude --reason TEXT`"
    assert command in alert["to_do"]
    assert alert["series"] == CLAUDE


async def test_batches_without_a_timestamp(harness, receiver):
    """One alert for each batch, and only one if its job runs again."""
    await harness.make_all()
    opens_at = new_york(MONDAY, 9, 30)
    for name in (MAIN, CLAUDE, MAIN, CLAUDE):
        batch = await harness.batch_of(name)
        async with transaction(harness.context.pool) as conn:
            await alerts.report_unstamped_batch(
                conn,
                harness.context,
                batch,
                opens_at=opens_at,
                stamps=[],
            )
    await send_due_messages(harness)
    texts = sorted(one["text"].partition(" have no")[0] for one in receiver.alerts)
    assert texts == [
        "Alpha Monday: the picks of the Monday 2026-10-26 of claude",
        "Alpha Monday: the picks of the Monday 2026-10-26 of main",
    ]
    assert {(one["series"], one["reason"]) for one in receiver.alerts} == {
        (MAIN, None),
        (CLAUDE, CLAUDE),
    }


async def declare(harness, name: str, *, model: str, minutes: int) -> None:
    """Declare a series with this model so many minutes after 10:00, then do two rounds."""
    harness.clock.time = new_york(MONDAY, 10) + timedelta(minutes=minutes)
    async with transaction(harness.context.pool) as conn:
        newest = await declarations.get_series(conn, name)
        assert newest
        profile = replace(newest.profile, model=model)
        changed = replace(newest, profile=profile, profile_sha256=profile.sha256)
        await journal.append(
            conn,
            JournalKind.SERIES,
            at=harness.clock.now(),
            recorded={"series": changed},
            batch_id=None,
        )
    for _ in range(2):
        await reconcile.run_round(harness.context)


async def test_alternations_of_two_series(harness):
    """
    Two processes differ in both series. That of claude is found after the alert about main, and has
    an alert of its own, although it began before that alert.
    """
    await harness.make_all()
    for minutes, name, model in (
        (0, MAIN, "one"),
        (25, MAIN, "other"),
        (50, MAIN, "one"),
        (70, CLAUDE, "one"),
        (75, MAIN, "other"),
        (95, CLAUDE, "other"),
        (120, CLAUDE, "one"),
        (145, CLAUDE, "other"),
    ):
        await declare(harness, name, model=model, minutes=minutes)
    found = await harness.rows(
        "SELECT series, reason, text FROM operations.alerts WHERE kind = 'settings_alternate' "
        "ORDER BY at"
    )
    (first_series, first_reason, first), (second_series, second_reason, second) = found
    assert (first_reason, second_reason) == ("model", "model, claude.model")
    # The second alert is about both series.
    assert (first_series, second_series) == (MAIN, None)
    assert "model of [main] in SERIES_FILE is other in one and one in the other." in first
    assert "model of [claude] in SERIES_FILE is other in one and one in the other." in second
