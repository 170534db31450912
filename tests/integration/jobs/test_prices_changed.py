"""
A reading that differs from the one that figures use causes an alert, one for each response. The
kind: the provider corrects a price that was used. Members tried: a pick's baseline, the
benchmark's, a checkpoint's price, a rounding, a restated series, one of the open only, one that
returns to what was used, one that no figure uses, two batches that use it, a completed batch, the
same response twice, and no receiver at all.
"""

from datetime import timedelta

import pytest
from job_context import BASELINE, CHOSEN, MONDAY, JobHarness, run_until_done
from job_context import clock as clock
from receivers import MessageReceiver, send_due_messages
from receivers import harness as harness
from receivers import receiver as receiver

from app.domain.calendar import due_at
from app.domain.model import Batch
from jobs import corrections, daily, picks, prices

TUESDAY, WEDNESDAY = (MONDAY + timedelta(days=days) for days in (1, 2))


async def mornings(harness: JobHarness, batch: Batch, *days: int) -> None:
    """Take these days as the queue would."""
    for day in days:
        harness.clock.time = max(harness.clock.time, due_at(batch.run_date, day))
        await run_until_done(harness, lambda day=day: daily.take(harness.context, batch.id, day))


async def changed(harness: JobHarness, receiver: MessageReceiver) -> list[str]:
    """Return the alerts about changed readings."""
    await send_due_messages(harness)
    return [alert["text"] for alert in receiver.alerts if alert["kind"] == "reading_changed"]


async def test_a_picks_baseline(harness, receiver):
    """
    The whole text has the ticker, the session, both prices, the batch that uses them, and the
    command.
    """
    batch = await harness.make_batch()
    await mornings(harness, batch, 1)
    harness.world.closes["MSFT", BASELINE] = "3.2000"
    await mornings(harness, batch, 2)
    await send_due_messages(harness)
    (alert,) = receiver.alerts
    assert (alert["kind"], alert["run_date"], alert["day"]) == ("reading_changed", "2026-10-26", 0)
    assert alert["text"] == (
        "Alpha Monday: the provider now says that MSFT closed at 3.2000 on 2026-10-23, not at "
        "3.0000 (the baseline of "
        "2026-10-26). If the new reading is right, `alpha-monday checkpoint correct 2026-10-26 0 "
        "MSFT --reason TEXT` "
        "adopts it; the same for each day named."
    )
    await mornings(harness, batch, 3)  # the same response again
    assert len(await changed(harness, receiver)) == 1


CORRECT = "`alpha-monday checkpoint correct 2026-10-26 {} {} --reason TEXT`"

CASES = [
    pytest.param(
        {("SPY", BASELINE): "601.0000"},
        "SPY closed at 601.0000 on 2026-10-23, not at 600.0000 (the baseline of 2026-10-26).",
        CORRECT.format(0, "SPY"),
        id="the benchmark's baseline",
    ),
    pytest.param(
        {("SPY", MONDAY): "601.0000"},
        "SPY closed at 601.0000 on 2026-10-26, not at 600.0000 (day 1 of 2026-10-26).",
        CORRECT.format(1, "SPY"),
        id="a checkpoint's price of the benchmark",
    ),
    pytest.param(
        {("NVDA", MONDAY): "7.0100"},
        "NVDA closed at 7.0100 on 2026-10-26, not at 7.0000 (day 1 of 2026-10-26).",
        CORRECT.format(1, "NVDA"),
        id="a checkpoint's price, by a cent",
    ),
    pytest.param(
        {("NVDA", MONDAY): "7.1000", ("NVDA", BASELINE): "7.2000"},
        "NVDA closed at 7.2000 on 2026-10-23, not at 7.0000 (the baseline of 2026-10-26), NVDA "
        "closed at 7.1000 on "
        "2026-10-26, not at 7.0000 (day 1 of 2026-10-26).",
        CORRECT.format(0, "NVDA"),
        id="both: the baseline first, in one alert",
    ),
]


@pytest.mark.parametrize(("says", "words", "command"), CASES)
async def test_a_price_that_was_used(harness, receiver, says, words, command):
    """The alert names the session, both prices and the day; the command is for the first day."""
    batch = await harness.make_batch()
    await mornings(harness, batch, 1)
    harness.world.closes |= says
    await mornings(harness, batch, 2)
    (text,) = await changed(harness, receiver)
    assert words in text
    assert command in text


async def test_a_share_that_was_renamed_since(harness, receiver):
    """The command has the share's present ticker; with the old one it would be refused."""
    batch = await harness.make_batch()
    await mornings(harness, batch, 1)
    harness.clock.time = due_at(MONDAY, 3)
    harness.world.closes |= {("KO", day): "3.0000" for day in (MONDAY, TUESDAY, WEDNESDAY)}
    assert (
        await picks.rename(
            harness.context,
            run_date=MONDAY,
            ticker="MSFT",
            new="KO",
            from_session=TUESDAY,
            source="8-K of 2026-10-27",
        )
        == 0
    )
    harness.world.closes["MSFT", BASELINE] = "3.2000"
    await prices.fetch_closes(harness.context, ["MSFT"], TUESDAY)
    (text,) = await changed(harness, receiver)
    assert "MSFT closed at 3.2000 on 2026-10-23, not at 3.0000 (the baseline of 2026-10-26)" in text
    assert CORRECT.format(0, "KO") in text
    assert (
        await corrections.adopt(
            harness.context.pool,
            now=harness.context.now(),
            run_date=MONDAY,
            day=0,
            ticker="KO",
            reason="A misprint.",
            in_force=None,
        )
        == 2
    )


async def test_a_series_that_is_restated(harness, receiver):
    """
    Four of six sessions are named; splits are requested, and nothing is to be corrected until then.
    """
    batch = await harness.make_batch()
    await mornings(harness, batch, 1, 2, 3, 4, 5)
    for number in range(-10, 5):
        harness.world.closes["NVDA", MONDAY + timedelta(days=number)] = "0.7000"
    for number in range(5, 30):
        harness.world.closes["NVDA", MONDAY + timedelta(days=number)] = "0.7000"
    await mornings(harness, batch, 8)
    (text,) = await changed(harness, receiver)
    assert "NVDA closed at 0.7000 on 2026-10-23, not at 7.0000 (the baseline of 2026-10-26)" in text
    assert ", and 2 more sessions differ. So large a difference is likely a split" in text
    assert "correct nothing until then" in text
    assert harness.requested_splits == ["NVDA"]


NOTHING = [
    pytest.param({("NVDA", BASELINE): ("7.0000", "6.9000")}, id="an open"),
    pytest.param({("NVDA", BASELINE): ("7.00", "7.0000")}, id="fewer decimals"),
    pytest.param(
        {("NVDA", BASELINE - timedelta(days=1)): ("6.5000", "6.5000")},
        id="a session before the baseline",
    ),
    pytest.param({("KO", BASELINE): ("61", "61")}, id="a ticker that is no pick"),
]


@pytest.mark.parametrize("says", NOTHING)
async def test_a_reading_that_no_figure_uses(harness, receiver, says):
    """The reading is stored, and causes no alert."""
    batch = await harness.make_batch()
    await mornings(harness, batch, 1)
    for (ticker, session), (close, opened) in says.items():
        harness.world.closes[ticker, session], harness.world.opens[ticker, session] = close, opened
    await mornings(harness, batch, 2)
    assert await changed(harness, receiver) == []


async def test_a_reading_that_returns_to_what_was_used(harness, receiver):
    """The second change does not matter to the figures."""
    batch = await harness.make_batch()
    await mornings(harness, batch, 1)
    harness.world.closes["MSFT", BASELINE] = "3.2000"
    await mornings(harness, batch, 2)
    assert len(await changed(harness, receiver)) == 1
    harness.world.closes["MSFT", BASELINE] = "3.0000"
    await mornings(harness, batch, 3)
    assert len(await changed(harness, receiver)) == 1
    assert await harness.rows(
        "SELECT count(*) FROM closes WHERE ticker = 'MSFT' AND trading_day = %s", BASELINE
    ) == [(3,)]


async def test_two_batches_that_use_the_reading(harness, receiver):
    """The newer one's baseline is the older one's day 5: both are named, the baseline first."""
    older = await harness.make_batch()
    await mornings(harness, older, 1, 2, 3, 4, 5)
    newer = await harness.make_batch(MONDAY + timedelta(days=7))
    friday = MONDAY + timedelta(days=4)
    assert newer.trading_day == friday
    harness.world.closes["AAPL", friday] = "81.0000"
    await mornings(harness, newer, 1)
    (text,) = await changed(harness, receiver)
    assert (
        "AAPL closed at 81.0000 on 2026-10-30, not at 80.0000 (the baseline of 2026-11-02; day 5 "
        "of 2026-10-26)"
    ) in text
    assert "`alpha-monday checkpoint correct 2026-11-02 0 AAPL --reason TEXT`" in text


async def test_a_completed_batch(harness, receiver):
    """Changed prices of its last days are reported, as long as its late splits are requested."""
    older = await harness.make_batch()
    await mornings(harness, older, *range(1, 15))
    newer = await harness.make_batch(MONDAY + timedelta(days=14))
    result_day = MONDAY + timedelta(days=11)
    assert newer.trading_day == result_day
    harness.world.closes["AAPL", result_day] = "81.0000"
    await mornings(harness, newer, 1)
    (text,) = await changed(harness, receiver)
    assert "(the baseline of 2026-11-09; day 12 of 2026-10-26)" in text


async def test_without_a_receiver(harness, receiver):
    """No alert is stored, and the checkpoint is not affected."""
    harness.context.alerts._url, harness.context.alerts.is_configured = "", False
    batch = await harness.make_batch()
    await mornings(harness, batch, 1)
    harness.world.closes["MSFT", BASELINE] = "3.2000"
    await mornings(harness, batch, 2)
    assert await harness.rows("SELECT count(*) FROM operations.alerts") == [(0,)]
    assert await harness.rows("SELECT count(*) FROM pick_checkpoint_metrics") == [
        (2 * len(CHOSEN),)
    ]
