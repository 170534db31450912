"""What is in force in a process: its settings as the journal states them, and its calendar."""

import dataclasses
import json
from datetime import date, timedelta

import pytest
from job_context import BASELINE, CHOSEN, MONDAY, new_york
from job_context import clock as clock
from job_context import harness as harness
from msgspec.structs import replace

from app.core import settings
from app.database import pools
from app.domain.calendar import Calendar
from app.errors import ConfigurationError
from jobs import daily, in_force, weekly

TUESDAY = MONDAY + timedelta(days=1)
FRIDAY = MONDAY + timedelta(days=4)


def profile(**environment: str):
    """Return the profile of `main` in a process with these variables."""
    process = in_force.make(settings.load({"DATABASE_URL": "postgresql://x/y", **environment}))
    return process.series[0].profile


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.7", "0.7"),
        ("0", "0"),
        ("0.0", "0"),
        ("1", "1"),
        ("2.0", "2"),
        ("1e-7", "0.0000001"),
        ("0.123456789", "0.123456789"),
    ],
)
def test_a_temperature_keeps_every_digit(text, expected):
    """In plain notation, without zeros at the end: two settings never have the same text."""
    assert profile(OPENAI_TEMPERATURE=text).temperature == expected


def test_numbers_that_are_not_set_or_round():
    """A temperature that is not sent is absent; a time-out keeps the zeros of a whole number."""
    assert profile().temperature is None
    assert profile(OPENAI_TIMEOUT="1800").timeout_seconds == "1800"
    assert profile(OPENAI_TIMEOUT="90.50").timeout_seconds == "90.5"


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("", ""),
        ("https://api.example.org/v1", "https://api.example.org/v1"),
        ("https://api.example.org:8443/v1/", "https://api.example.org:8443/v1"),
        ("https://api.example.org/", "https://api.example.org"),
        ("https://api.example.org/v1//", "https://api.example.org/v1"),
        ("https://API.Example.org/V1", "https://api.example.org/V1"),
        ("HTTPS://api.example.org/v1", "https://api.example.org/v1"),
        ("https://api.example.org:443/v1", "https://api.example.org/v1"),
        ("http://api.example.org:80/v1", "http://api.example.org/v1"),
        ("http://api.example.org:443/v1", "http://api.example.org:443/v1"),
        ("https://[2001:DB8::1]:443/v1", "https://[2001:db8::1]/v1"),
        ("https://[2001:db8::443]/v1", "https://[2001:db8::443]/v1"),
        ("http://LOCALHOST/v1/", "http://localhost/v1"),
        ("https://user:pa%40ss@api.example.org/v1", "https://api.example.org/v1"),
        ("https://us@er:secret@api.example.org/v1", "https://api.example.org/v1"),
        ("https://api.example.org/v1?key=secret#secret", "https://api.example.org/v1"),
        ("http://localhost:11434/v1", "http://localhost/v1"),
        ("http://127.0.0.1:40001/v1", "http://localhost/v1"),
        ("http://127.8.9.10/v1", "http://localhost/v1"),
        ("http://[::1]:40001/v1", "http://localhost/v1"),
        ("http://user:secret@[::1]:40001/v1?key=secret", "http://localhost/v1"),
        ("http://[2001:db8::1]:8080/v1", "http://[2001:db8::1]:8080/v1"),
    ],
)
def test_an_address_of_a_profile_has_no_secret(address, expected):
    """No user information, query and fragment, and no port of this machine."""
    assert in_force.declared_address(address) == expected


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("OPENAI_BASE_URL", "https://api.openai.com/v1"),
        ("OPENAI_BASE_URL", "https://api.openai.com/v1/"),
        ("OPENAI_BASE_URL", "https://API.openai.com:443/v1"),
        ("ALPHA_VANTAGE_BASE_URL", "https://www.alphavantage.co"),
        ("ALPHA_VANTAGE_BASE_URL", "https://www.alphavantage.co/"),
        ("ALPHA_VANTAGE_BASE_URL", "https://www.AlphaVantage.co:443"),
    ],
)
def test_the_usual_address_of_a_provider_is_not_declared(name, address):
    """However it is written, it is the same as the one that is used without the setting."""
    database = {"DATABASE_URL": "postgresql://x/y"}
    process = in_force.make(settings.load({**database, name: address}))
    assert (process.price_source, process.series[0].profile.base_url) == ("alphavantage", "")


def test_a_profile_with_odd_texts_can_be_journaled():
    """A model's name in any language has a hash; NUL and bytes that are not UTF-8 are refused."""
    assert len(profile(OPENAI_MODEL="モデル 🚀").sha256) == 64
    with pytest.raises(ConfigurationError, match="OPENAI_MODEL must be"):
        profile(OPENAI_MODEL="a\0b")
    for name in ("OPENAI_MODEL", "OPENAI_BASE_URL"):
        with pytest.raises(ConfigurationError, match=f"{name} contains a byte that is not UTF-8"):
            profile(**{name: "http://a\udcffb/"})


def closing(harness, *days: date) -> None:
    """Let the process list these days in MARKET_CLOSED_DAYS."""
    calendar = Calendar(days)
    process = dataclasses.replace(
        harness.context,
        calendar=calendar,
        in_force=replace(harness.context.in_force, calendar=calendar),
    )
    harness.context = process


async def take(harness, batch, day):
    harness.clock.time = new_york(batch.run_date + timedelta(days=day))
    await daily.take(harness.context, batch.id, day)
    return await harness.rows(
        "SELECT status, skip_reason, trading_day FROM checkpoints WHERE day = %s", day
    )


async def kinds_after(harness, number):
    return (await harness.kinds())[number:]


async def test_a_session_that_is_struck_off_and_traded(harness):
    """
    MARKET_CLOSED_DAYS lists a session on which the exchange trades: the benchmark's closes are
    requested, they contain the day, and the checkpoint is computed from it.
    """
    batch = await harness.make_batch()
    before = len(await harness.kinds())
    closing(harness, TUESDAY)
    assert await take(harness, batch, 2) == [("computed", None, TUESDAY)]
    assert harness.requested_tickers == ["SPY", *CHOSEN]
    assert await kinds_after(harness, before) == [*["READINGS"] * 4, "SETTINGS", "CHECKPOINT"]


async def test_a_session_that_is_struck_off_and_closed(harness):
    """
    The exchange was closed: one request for the benchmark's closes, which do not have the day, and
    the checkpoint is skipped.
    """
    batch = await harness.make_batch()
    closing(harness, TUESDAY)
    harness.world.calendar = harness.context.calendar
    assert await take(harness, batch, 2) == [("skipped", "MARKET_CLOSED", None)]
    assert harness.requested_tickers == ["SPY"]
    entry = json.loads((await harness.journal())[-1].content)
    assert entry["checkpoint"]["skip_reason"] == "MARKET_CLOSED"
    settled = json.loads((await harness.journal())[-2].content)
    assert settled["settings"]["closed_days"] == [str(TUESDAY)]


async def test_a_struck_off_day_without_an_answer(harness):
    """If the provider does not answer, the setting decides."""
    batch = await harness.make_batch()
    closing(harness, TUESDAY)
    harness.world.unknown.add("SPY")
    assert await take(harness, batch, 2) == [("skipped", "MARKET_CLOSED", None)]


async def test_a_struck_off_day_with_a_reading_is_a_session_without_a_request(harness):
    """A price of the benchmark was read before the day was listed: the earlier calendar holds."""
    batch = await harness.make_batch()
    await take(harness, batch, 1)
    await take(harness, batch, 2)
    closing(harness, MONDAY)
    async with harness.context.pool.connection() as conn:
        sessions = await in_force.effective_calendar(conn, harness.context.calendar, "SPY")
        others = await in_force.effective_calendar(conn, harness.context.calendar, "QQQ")
    assert sessions.closed == frozenset()
    assert others.closed == {MONDAY}


async def test_a_baseline_that_is_struck_off_and_traded(harness):
    """A Monday whose baseline session is listed by mistake: its close is read, and counts."""
    closing(harness, BASELINE)
    batch = await harness.make_batch()
    assert batch.trading_day == BASELINE


async def test_a_baseline_that_is_struck_off_although_the_day_before_is_stored(harness):
    """
    A stored close of the day before does not hide the struck-off day: a request looks for it.
    """
    batch = await harness.make_batch()
    for day in (1, 2, 3, 4):
        await take(harness, batch, day)
    closing(harness, FRIDAY)
    harness.provider.requests.clear()
    second = await harness.make_batch(MONDAY + timedelta(days=7))
    assert second.trading_day == FRIDAY


async def test_a_baseline_before_a_true_closure(harness):
    """The exchange was closed on the day before: the baseline is the session before it."""
    closing(harness, BASELINE)
    harness.world.calendar = harness.context.calendar
    batch = await harness.make_batch()
    assert batch.trading_day == BASELINE - timedelta(days=1)


async def test_a_checkpoint_that_is_given_up_after_a_struck_off_day(harness):
    """It counts as a provider's error if the benchmark has a reading of the day."""
    batch = await harness.make_batch()
    await take(harness, batch, 2)  # its response has Monday, too
    closing(harness, MONDAY, TUESDAY + timedelta(days=1))
    reasons = []
    for day in (1, 3):
        async with pools.transaction(harness.context.pool) as conn:
            due = daily.DueCheckpoint(batch.id, MONDAY, day)
            assert await daily.give_up(conn, harness.context, due, note="x")
        reasons += await harness.rows("SELECT skip_reason FROM checkpoints WHERE day = %s", day)
    assert reasons == [("PROVIDER_ERROR",), ("MARKET_CLOSED",)]


async def test_a_record_that_is_not_sealed_keeps_the_setting(harness):
    """
    Until the seal, MARKET_CLOSED_DAYS alone decides, as before: no request, and a reading of the
    day changes nothing.
    """
    harness.context = dataclasses.replace(harness.context, in_force=None)
    batch = await harness.make_batch()
    closing_calendar = Calendar([TUESDAY])
    harness.context = dataclasses.replace(harness.context, calendar=closing_calendar)
    assert await take(harness, batch, 2) == [("skipped", "MARKET_CLOSED", None)]
    assert harness.requested_tickers == []
    assert await take(harness, batch, 3) == [
        ("computed", None, TUESDAY + timedelta(days=1)),
    ]
    kept = await harness.rows("SELECT id FROM closes WHERE trading_day = %s", TUESDAY)
    assert kept == []
    assert set(await harness.kinds()) == {"GENERATION", "BATCH", "CHECKPOINT"}


async def test_a_missed_monday_is_late_by_the_effective_calendar(harness):
    """A Monday that is listed as closed and was traded: its failure is late from its open on."""
    batch = await harness.make_batch()
    await take(harness, batch, 8)  # its response has the second Monday
    second = MONDAY + timedelta(days=7)
    closing(harness, second)
    harness.clock.time = new_york(second + timedelta(days=1), 9, 5)
    async with pools.transaction(harness.context.pool) as conn:
        assert await weekly.record_missed_monday(conn, harness.context, second)
    assert await harness.rows("SELECT late FROM batches WHERE run_date = %s", second) == [(True,)]
