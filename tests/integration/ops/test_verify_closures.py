"""
`alpha-monday verify` and days on which the exchange was closed on short notice. The kind: a closure
that only the operator's setting has. Members tried: in the middle of the first week, the Monday
itself, the Friday before the first Monday, the first Friday, two days in a row, a day of the second
week. Each is known at its time, and some only after checkpoints had requested prices without
success.

The journal of a sealed record declares the closures. For a record that is not sealed, the one who
verifies must name them: each test looks at the same record twice, the second time as a version
before the sealing wrote it.
"""

import asyncio
from contextlib import asynccontextmanager
from datetime import date, timedelta

import pytest
from commands import command
from job_context import (
    BASELINE,
    MONDAY,
    JobHarness,
    World,
    clock,
    new_york,
    open_context,
    run_attempt,
)
from provider_server import ProviderServer
from record_server import record_server
from sealing import unseal

from app.domain.calendar import Calendar
from app.domain.model import Batch
from jobs import daily
from tests.integration.domain.test_rules import discrepancies_of

__all__ = ["clock"]

TUESDAY, WEDNESDAY, THURSDAY = (MONDAY + timedelta(days=days) for days in (1, 2, 3))
NEXT_TUESDAY = MONDAY + timedelta(days=8)


@asynccontextmanager
async def harness_with(
    database: str, pool, clock, closed: tuple[date, ...], known: tuple[date, ...]
):
    """
    A harness whose exchange is closed on some days, of which the settings name the `known` ones.
    """
    world = World(clock)
    world.calendar = Calendar(closed)
    setting = ",".join(map(str, known))
    async with (
        ProviderServer() as provider,
        open_context(
            database=database,
            pool=pool,
            clock=clock,
            base_url=provider.url,
            MARKET_CLOSED_DAYS=setting,
        ) as context,
    ):
        provider.answers = world
        yield JobHarness(context=context, provider=provider, world=world, clock=clock)


async def take(harness: JobHarness, batch: Batch, days: range) -> None:
    """Take the checkpoints of some days, each at its time, and again when it asks for that."""
    for day in days:
        harness.clock.time = new_york(batch.run_date + timedelta(days=day))
        while later := await run_attempt(
            lambda day=day: daily.take(harness.context, batch.id, day)
        ):
            harness.clock.time = later


CLOSURES = [
    pytest.param((WEDNESDAY,), 5, "session", id="in the middle of a week"),
    pytest.param((MONDAY,), 3, "session", id="the Monday itself"),
    pytest.param((BASELINE,), 1, "baseline-session", id="the Friday before the first Monday"),
    pytest.param(
        (MONDAY + timedelta(days=4),), 6, "session", id="the Friday", marks=pytest.mark.long
    ),
    pytest.param(
        (TUESDAY, WEDNESDAY), 5, "session", id="two days in a row", marks=pytest.mark.long
    ),
    pytest.param((MONDAY, TUESDAY), 4, "session", id="the first two days", marks=pytest.mark.long),
    pytest.param((NEXT_TUESDAY,), 9, "session", id="in the second week", marks=pytest.mark.long),
]


@pytest.mark.parametrize(("closed", "days", "rule"), CLOSURES)
@pytest.mark.sampled(1)
async def test_a_closure_known_in_time(database, pool, clock, closed, days, rule):
    """
    A sealed record made with the closure verifies. One that is not sealed verifies with the
    closure; without it, the discrepancy says what to do.
    """
    async with harness_with(
        database=database, pool=pool, clock=clock, closed=closed, known=closed
    ) as harness:
        batch = await harness.make_batch()
        await take(harness, batch, range(1, days + 1))
    assert await discrepancies_of(database) == []
    assert await discrepancies_of(database, closed) == []
    unseal(database)
    assert await discrepancies_of(database, closed) == []
    discrepancies = await discrepancies_of(database)
    assert len(discrepancies) == 2
    for text in discrepancies:
        assert text.endswith(f"(rule: {rule})"), text
        assert (
            f"If the exchange was closed on short notice on {closed[0]}, verify with `--closed "
            f"{closed[0]}`"
        ) in text


@pytest.mark.parametrize(
    ("closed", "days"),
    [
        pytest.param((WEDNESDAY,), 4, id="in the middle of a week"),
        pytest.param((MONDAY,), 2, id="the Monday itself"),
        pytest.param((MONDAY, TUESDAY), 4, id="the first two days", marks=pytest.mark.long),
        pytest.param((THURSDAY,), 4, id="the Thursday", marks=pytest.mark.long),
    ],
)
@pytest.mark.sampled(1)
async def test_a_closure_known_too_late(database, pool, clock, closed, days):
    """
    The record verifies with and without the closure, whether its checkpoints were taken before or
    after it was known.
    """
    async with harness_with(
        database=database, pool=pool, clock=clock, closed=closed, known=()
    ) as harness:
        batch = await harness.make_batch()
        await take(harness, batch, range(1, days + 1))
    assert await discrepancies_of(database) == []
    assert await discrepancies_of(database, closed) == []
    async with harness_with(
        database=database, pool=pool, clock=clock, closed=closed, known=closed
    ) as harness:
        await take(harness, batch, range(days + 1, days + 3))
        reasons = await harness.rows(
            "SELECT DISTINCT skip_reason FROM checkpoints WHERE skip_reason <> 'MARKET_CLOSED'"
        )
        opens = await harness.rows("SELECT count(*) FROM picks WHERE entry_open IS NOT NULL")
    assert reasons == [("MISSING_CLOSE",)]
    assert opens == [(3,)]
    assert await discrepancies_of(database) == []
    assert await discrepancies_of(database, closed) == []
    unseal(database)
    assert await discrepancies_of(database, closed) == []


async def test_the_command(database, pool, clock, capsys):
    """
    A sealed record needs no option. For another one, `--closed` applies to an address and to a
    database, and so does the setting.
    """
    async with harness_with(
        database=database,
        pool=pool,
        clock=clock,
        closed=(TUESDAY, WEDNESDAY),
        known=(TUESDAY, WEDNESDAY),
    ) as harness:
        batch = await harness.make_batch()
        await take(harness, batch, range(1, 4))

    async def verified(*arguments: str, **environment: str) -> tuple[int, str]:
        result = await asyncio.to_thread(command, capsys, "verify", *arguments, **environment)
        return result.exit_code, result.output + result.error

    both = (f"--closed={TUESDAY}", f"--closed={WEDNESDAY}")
    async with record_server(database) as url:
        fits = [
            await verified(DATABASE_URL=database),
            await verified("--from", url),
            await verified("--from", url, MARKET_CLOSED_DAYS=f"{TUESDAY},{WEDNESDAY}"),
            await verified("--from", url, *both),
        ]
    for code, output in fits:
        assert code == 0, output

    unseal(database)
    async with record_server(database) as url:
        fits = [
            await verified("--from", url, *both),
            await verified(*both, DATABASE_URL=database),
            await verified(both[0], DATABASE_URL=database, MARKET_CLOSED_DAYS=str(WEDNESDAY)),
            await verified(DATABASE_URL=database, MARKET_CLOSED_DAYS=f"{TUESDAY},{WEDNESDAY}"),
        ]
        discrepancies = [
            await verified(
                "--from", url, MARKET_CLOSED_DAYS=f"{TUESDAY},{WEDNESDAY}"
            ),  # another service's setting
            await verified("--from", url, both[1]),
            await verified(DATABASE_URL=database),
            await verified(both[0], DATABASE_URL=database),
        ]
    for code, output in fits:
        assert code == 0, output
    for (code, output), day in zip(
        discrepancies, (TUESDAY, TUESDAY, TUESDAY, WEDNESDAY), strict=True
    ):
        assert code == 1, output
        assert f"skip_reason is MARKET_CLOSED, but {day} was a session." in output
        assert f"`--closed {day}`" in output
        assert output.rstrip().endswith("(rule: session)")


async def test_a_backup(database, pool, clock, capsys, create, tmp_path):
    """
    A backup of a sealed record with a closure is restored. A backup of one that is not sealed is
    restored if the setting has the closure, and is refused otherwise.
    """
    async with harness_with(
        database=database, pool=pool, clock=clock, closed=(TUESDAY,), known=(TUESDAY,)
    ) as harness:
        await take(harness, await harness.make_batch(), range(1, 3))
    file, empty = tmp_path / "sealed.zip", create()
    await asyncio.to_thread(command, capsys, "backup", file, DATABASE_URL=database)
    restored = await asyncio.to_thread(command, capsys, "restore", file, DATABASE_URL=empty)
    assert restored.exit_code == 0, restored.error

    unseal(database)
    file, empty = tmp_path / "record.zip", create()
    await asyncio.to_thread(command, capsys, "backup", file, DATABASE_URL=database)
    refused = await asyncio.to_thread(command, capsys, "restore", file, DATABASE_URL=empty)
    assert refused.exit_code == 1
    assert "or with that day in MARKET_CLOSED_DAYS. (rule: session) `--unverified`" in refused.error
    settings = {"DATABASE_URL": empty, "MARKET_CLOSED_DAYS": str(TUESDAY)}
    restored = await asyncio.to_thread(command, capsys, "restore", file, **settings)
    assert restored.exit_code == 0, restored.error
    assert "Everything fits." in restored.output


@pytest.mark.parametrize(
    "day",
    [
        pytest.param("2026-02-30", id="30 February"),
        pytest.param("2026-13-01", id="a thirteenth month", marks=pytest.mark.long),
        pytest.param("28.10.2026", id="another form", marks=pytest.mark.long),
        pytest.param("2026-10-28,2026-10-29", id="two days", marks=pytest.mark.long),
        pytest.param("", id="empty", marks=pytest.mark.long),
        pytest.param("0000-10-28", id="the year 0", marks=pytest.mark.long),
        pytest.param("2026-10-28T00:00", id="a time", marks=pytest.mark.long),
    ],
)
def test_an_invalid_day(capsys, day):
    """An invalid day is one clear line."""
    result = command(capsys, "verify", "--from", "http://127.0.0.1:9", "--closed", day)
    assert result.exit_code == 2
    assert f"{day!r} is not a day such as 2026-11-16." in result.error
    assert "Traceback" not in result.error


def test_help(capsys):
    """The help has an example."""
    output = command(capsys, "verify", "--help").output
    assert "--closed YYYY-MM-DD" in output
    assert "--from https://alpha-monday.example --closed 2026-11-04" in output
