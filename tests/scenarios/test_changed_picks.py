"""
What an operator records afterwards: an ended pick, one with a new ticker, a retake of a checkpoint.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import pytest
from api_records import engine_on
from click.testing import CliRunner
from commands import CommandResult, run, without_place
from job_context import CHOSEN, MONDAY, JobHarness, make_completion, new_york, run_until_done
from job_context import clock as clock
from job_context import harness as harness

from app.commands.cli import group
from app.domain.calendar import due_at
from app.domain.model import Batch
from app.errors import Refused
from app.ops.verify import open_database as opened
from app.ops.verify import verify
from jobs import daily, picks, queue, splits

TUESDAY, WEDNESDAY, THURSDAY, FRIDAY = (MONDAY + timedelta(days=days) for days in range(1, 5))
SATURDAY = MONDAY + timedelta(days=5)
SOURCE = "8-K of 2026-10-28"

CHECKPOINTS = """
SELECT day, status, trading_day, skip_reason
FROM checkpoints
WHERE day > 0
ORDER BY day
"""
METRICS = """
SELECT day, ticker, current_price, metrics.ended, close_id IS NULL, absolute_return_pct
FROM pick_checkpoint_metrics AS metrics
JOIN picks ON picks.id = pick_id
JOIN checkpoints ON checkpoints.id = checkpoint_id
ORDER BY day, position
"""
RETAKES = (
    "SELECT (args ->> 'day')::integer FROM procrastinate_jobs WHERE args ? 'retake' ORDER BY 1"
)


async def mornings(harness: JobHarness, batch: Batch, *days: int, again: bool = False) -> None:
    """Take these days, each until it is stored, as the queue would."""
    for day in days:
        harness.clock.time = max(harness.clock.time, due_at(batch.run_date, day))
        await run_until_done(
            harness, lambda day=day: daily.take(harness.context, batch.id, day, retake=again)
        )


async def ends(
    harness: JobHarness,
    run_date: date = MONDAY,
    ticker: str = "MSFT",
    last: date = WEDNESDAY,
    value: str = "4.5",
    source: str = SOURCE,
) -> int:
    context = harness.context
    return await picks.end(
        context.pool,
        calendar=context.calendar,
        now=context.now(),
        run_date=run_date,
        ticker=ticker,
        last_session=last,
        value=Decimal(value),
        source=source,
        in_force=None,
    )


async def renamed(
    harness: JobHarness,
    new: str,
    run_date: date = MONDAY,
    ticker: str = "MSFT",
    first: date = TUESDAY,
    source: str = SOURCE,
    *,
    force: bool = True,
) -> int:
    return await picks.rename(
        harness.context,
        run_date=run_date,
        ticker=ticker,
        new=new,
        from_session=first,
        source=source,
        force=force,
    )


async def api(harness: JobHarness, selection: str) -> Any:
    """Return the API's response about the batch."""
    answer = json.loads(
        (
            await engine_on(harness.context.pool).execute(
                f'{{ batchOn(runDate: "{MONDAY}") {selection} }}'
            )
        ).body
    )
    assert "errors" not in answer, answer
    return answer["data"]["batchOn"]


async def halted(harness: JobHarness, *days: int) -> Batch:
    """A batch whose MSFT last traded on Wednesday; these checkpoints have been taken."""
    batch = await harness.make_batch()
    harness.world.absent |= {("MSFT", MONDAY + timedelta(days=day)) for day in range(3, 14)}
    await mornings(harness, batch, *days)
    return batch


# Ended


async def test_an_ended_pick(harness):
    """
    Skipped days are retaken, and later ones use the value: marked, without a reading, without a
    request. Days up to the last session keep their closes.
    """
    batch = await halted(harness, 1, 2, 3, 4)
    assert await harness.rows(CHECKPOINTS) == [
        *((day, "computed", MONDAY + timedelta(days=day - 1), None) for day in (1, 2, 3)),
        (4, "skipped", None, "MISSING_CLOSE"),
    ]
    harness.provider.requests.clear()
    assert await ends(harness) == 1
    assert await harness.rows(RETAKES) == [(4,)]
    await mornings(harness, batch, 4, again=True)
    assert "MSFT" not in harness.requested_tickers
    await mornings(harness, batch, 5, 6, 8)
    assert "MSFT" not in harness.requested_tickers
    msft = [row for row in await harness.rows(METRICS) if row[1] == "MSFT"]
    assert msft == [
        *((day, "MSFT", 3, False, False, 0) for day in (1, 2, 3)),
        *((day, "MSFT", Decimal("4.5"), True, True, 50) for day in (4, 5, 8)),  # (4.5 - 3) / 3
    ]
    others = [row for row in await harness.rows(METRICS) if row[1] != "MSFT"]
    assert {row[3:5] for row in others} == {(False, False)}
    retaken = (
        await harness.rows(
            "SELECT status, skip_reason, skipped_at IS NOT NULL FROM checkpoints WHERE day = 4"
        )
    )[0]
    assert retaken == ("computed", "MISSING_CLOSE", True)


async def test_what_is_recorded_of_an_ended_pick(harness):
    """
    One entry: the pick as it is now, its last session, the value in plain notation, and the source.
    """
    batch = await halted(harness, 1)
    ((pick_id,),) = await harness.rows("SELECT id FROM picks WHERE ticker = 'MSFT'")
    harness.clock.time = new_york(FRIDAY, 12)
    await ends(harness, source=f"  {SOURCE} ")
    entry = (await harness.journal())[-1]
    recorded = json.loads(entry.content)
    assert (entry.kind, entry.batch_id, entry.at) == ("PICK_ENDED", batch.id, new_york(FRIDAY, 12))
    assert recorded["ending"] == {
        "pick_id": str(pick_id), "last_session": str(WEDNESDAY), "value": "4.5", "source": SOURCE
    }  # fmt: skip
    assert (recorded["pick"]["id"], recorded["pick"]["ticker"], recorded["pick"]["ended"]) == (
        str(pick_id), "MSFT", "true"
    )  # fmt: skip
    assert await harness.rows("SELECT ticker, ended FROM picks ORDER BY position") == [
        ("MSFT", True), ("AAPL", False), ("NVDA", False)
    ]  # fmt: skip


async def test_the_api_shows_an_ended_pick(harness):
    """
    The pick and its later metrics are marked; these have a price and no reading; the entry has its
    kind.
    """
    batch = await halted(harness, 1, 2, 3, 4)
    await ends(harness)
    await mornings(harness, batch, 4, again=True)
    shown = await api(
        harness,
        "{ picks { ticker ended metrics { ended currentPrice close { tradingDay } checkpoint { "
        "day } } } "
        "journal { kind } }",
    )
    assert [(pick["ticker"], pick["ended"]) for pick in shown["picks"]] == [
        ("MSFT", True), ("AAPL", False), ("NVDA", False)
    ]  # fmt: skip
    third, fourth = shown["picks"][0]["metrics"][-2:]
    assert third == {
        "ended": False,
        "currentPrice": "3.0000",
        "close": {"tradingDay": str(WEDNESDAY)},
        "checkpoint": {"day": 3},
    }
    assert fourth == {"ended": True, "currentPrice": "4.5", "close": None, "checkpoint": {"day": 4}}
    assert [entry["kind"] for entry in shown["journal"]][-2:] == ["PICK_ENDED", "CHECKPOINT"]


async def test_a_batch_with_an_ended_pick_is_resolved(harness):
    """Its fortnight ends like any other, with a result that uses the value."""
    batch = await halted(harness, 1, 2, 3)
    await ends(harness)
    await mornings(harness, batch, *range(4, 15))
    shown = await api(
        harness, "{ status result { day metrics { ended currentPrice pick { ticker } } } }"
    )
    assert (shown["status"], shown["result"]["day"]) == ("COMPLETED", 12)
    assert [(one["pick"]["ticker"], one["ended"]) for one in shown["result"]["metrics"]] == [
        ("MSFT", True), ("AAPL", False), ("NVDA", False)
    ]  # fmt: skip


@pytest.mark.parametrize("last", [MONDAY, TUESDAY], ids=["on day 1", "on day 2"])
@pytest.mark.sampled(1)
async def test_a_split_of_days_after_a_last_session_that_is_recorded_late(harness, database, last):
    """
    Days that were computed from closes keep them, count a split of those days, and their
    corrections have it.
    """
    batch = await harness.make_batch()
    await mornings(harness, batch, 1, 2, 3, 4)
    harness.clock.time = new_york(FRIDAY, 12)
    assert await ends(harness, last=last) == 0
    harness.world.splits["MSFT"] = [(WEDNESDAY, "2.0000")]
    harness.clock.time = new_york(FRIDAY, 13)
    await splits.refresh(
        harness.context, "MSFT", since=new_york(FRIDAY, 13), needed_since=new_york(FRIDAY, 13)
    )
    await mornings(harness, batch, 5)
    rows = await harness.rows(METRICS.replace("current_price", "split_factor"))
    factors = [(day, factor, ended) for day, ticker, factor, ended, *_ in rows if ticker == "MSFT"]
    assert factors == [(1, 1, False), (2, 1, False), (3, 2, False), (4, 2, False), (5, 1, True)]
    entries = len(await harness.journal())
    async with opened(database) as source:
        assert (await verify(source, [], lambda *_: None)).seq == entries


async def test_all_picks_ended(harness):
    """Then only the benchmark is requested."""
    batch = await harness.make_batch()
    await mornings(harness, batch, 1)
    for ticker in CHOSEN:
        harness.clock.time = new_york(TUESDAY, 12)
        await ends(harness, ticker=ticker, last=MONDAY, value="1")
    harness.provider.requests.clear()
    await mornings(harness, batch, 2)
    assert harness.requested_tickers == ["SPY"]
    assert [row[2:5] for row in await harness.rows(METRICS) if row[0] == 2] == [(1, True, True)] * 3


@pytest.mark.long
async def test_skipped_days_of_a_completed_batch_are_retaken(harness):
    """An unresolved batch gets its result when the pick's end is recorded."""
    batch = await halted(harness, *range(1, 15))
    assert (await api(harness, "{ status result { day } }")) == {
        "status": "COMPLETED",
        "result": None,
    }
    assert await ends(harness) == 7
    days = [day for (day,) in await harness.rows(RETAKES)]
    assert days == [4, 5, 8, 9, 10, 11, 12]
    await mornings(harness, batch, *days, again=True)
    assert (await api(harness, "{ status result { day } }")) == {
        "status": "COMPLETED",
        "result": {"day": 12},
    }


ENDS_REFUSED = [
    pytest.param(
        {"run_date": date(2026, 10, 27)},
        "2026-10-27 is a Tuesday, and batches are of",
        id="a Tuesday",
    ),
    pytest.param(
        {"run_date": date(2026, 10, 19)}, "There is no batch of 2026-10-19.", id="no batch"
    ),
    pytest.param(
        {"ticker": "KO"}, "KO is no pick of 2026-10-26; its picks: MSFT, AAPL, NVDA.", id="no pick"
    ),
    pytest.param({"ticker": "SPY"}, "SPY is no pick of 2026-10-26", id="the benchmark"),
    pytest.param(
        {"last": FRIDAY},
        "--last-session must be a past session of the exchange; 2026-10-30",
        id="today",
    ),
    pytest.param(
        {"last": FRIDAY},
        "; 2026-10-30 is today in New York.",
        id="today, with the end of the message",
    ),
    pytest.param(
        {"last": date(2026, 11, 2)}, "of the exchange; 2026-11-02 is in the future.", id="to come"
    ),
    pytest.param(
        {"last": date(2026, 10, 31)},
        "of the exchange; 2026-10-31 is no session.",
        id="a Saturday to come",
    ),
    pytest.param(
        {"last": date(2026, 10, 25)}, "of the exchange; 2026-10-25 is no session.", id="a Sunday"
    ),
    pytest.param(
        {"last": date(2026, 10, 22)},
        "MSFT was priced on 2026-10-23; it cannot have ended",
        id="before",
    ),
    pytest.param(
        {"source": " \n"},
        "--source must say where this is known from, in plain text on one line, of at most 1,000 "
        "characters.",
        id="no source",
    ),
    pytest.param({"source": "a\0b"}, "--source must say where this is known from", id="a NUL"),
    pytest.param(
        {"source": "a\ud800b"}, "--source must say where this is known from", id="a lone surrogate"
    ),
    pytest.param(
        {"source": "a" * 1001}, "--source must say where this is known from", id="a long one"
    ),
    pytest.param(
        {"source": "a\x1b[2Jb"}, "--source must say where this is known from", id="a control"
    ),
]


@pytest.mark.parametrize(("changes", "message"), ENDS_REFUSED)
@pytest.mark.sampled(4)
async def test_an_ending_that_is_refused(harness, changes, message):
    """With its own message, and nothing is stored."""
    await halted(harness, 1)
    harness.clock.time = new_york(FRIDAY, 12)
    entries = await harness.journal()
    with pytest.raises(Refused) as refused:
        await ends(harness, **changes)
    assert message in str(refused.value)
    assert await harness.journal() == entries
    assert await harness.rows("SELECT count(*) FROM picks WHERE ended") == [(0,)]


async def test_a_pick_ends_once(harness):
    """A second command is refused, even at the same moment."""
    await halted(harness, 1)
    harness.clock.time = new_york(FRIDAY, 12)
    results = await asyncio.gather(
        *(ends(harness, value=value) for value in ("4.5", "5", "6")), return_exceptions=True
    )
    refused = [one for one in results if isinstance(one, Refused)]
    assert [str(one) for one in refused] == ["The end of MSFT is recorded already."] * 2
    assert [entry.kind for entry in await harness.journal()].count("PICK_ENDED") == 1


async def test_a_failed_monday_has_no_pick_to_change(harness):
    """It is refused."""
    harness.world.model = [make_completion("no")]
    await harness.begin()
    harness.clock.time = new_york(FRIDAY, 12)
    for change in (ends(harness), renamed(harness, "KO")):
        with pytest.raises(Refused, match=r"MSFT is no pick of 2026-10-26; its picks: none\."):
            await change


# Renamed


async def test_a_renamed_pick(harness):
    """
    The provider knows only the new ticker: it is requested from then on, and skipped days are
    retaken.
    """
    batch = await harness.make_batch()
    await mornings(harness, batch, 1, 2)
    harness.world.unknown.add("MSFT")
    harness.world.closes |= {("KO", MONDAY + timedelta(days=day)): "3.2400" for day in range(14)}
    await mornings(harness, batch, 3)
    assert (await harness.rows(CHECKPOINTS))[-1] == (3, "skipped", None, "PROVIDER_ERROR")
    assert await renamed(harness, " ko ", first=WEDNESDAY, force=False) == 1
    assert await harness.rows(RETAKES) == [(3,)]
    harness.provider.requests.clear()
    await mornings(harness, batch, 3, again=True)
    await mornings(harness, batch, 4)
    assert "MSFT" not in harness.requested_tickers
    assert harness.requested_tickers.count("KO") == 1  # on Thursday the command made the request
    figures = [row for row in await harness.rows(METRICS) if row[1] == "KO"]
    assert figures == [
        (1, "KO", 3, False, False, 0),
        (2, "KO", 3, False, False, 0),
        (3, "KO", Decimal("3.24"), False, False, 8),  # (3.24 - 3) / 3
        (4, "KO", Decimal("3.24"), False, False, 8),
    ]


async def test_what_is_recorded_of_a_renamed_pick(harness):
    """The journal keeps the old name; the batch's own entry does not change; the API shows both."""
    batch = await harness.make_batch()
    harness.clock.time = new_york(TUESDAY, 12)
    before = await harness.journal()
    await renamed(harness, "brk-b", ticker="msft", source=f"  {SOURCE} ")
    *rest, entry = await harness.journal()
    recorded = json.loads(entry.content)
    assert rest == before
    assert (entry.kind, entry.batch_id, entry.at) == (
        "PICK_RENAMED",
        batch.id,
        new_york(TUESDAY, 12),
    )
    assert (recorded["before"], recorded["pick"]["ticker"], recorded["pick"]["initial_price"]) == (
        "MSFT", "BRK.B", "3.0000"
    )  # fmt: skip
    assert recorded["renaming"] == {
        "pick_id": recorded["pick"]["id"],
        "from_session": str(TUESDAY),
        "source": SOURCE,
        "forced": "true",
    }
    shown = await api(
        harness, "{ picks { ticker initialClose { ticker } } journal { kind content } }"
    )
    assert [pick["ticker"] for pick in shown["picks"]] == ["BRK.B", "AAPL", "NVDA"]
    assert shown["picks"][0]["initialClose"] == {"ticker": "MSFT"}  # the reading is what was read
    assert shown["journal"][-1] == {"kind": "PICK_RENAMED", "content": entry.content}


async def test_a_pick_renamed_twice_and_back(harness):
    """Each change has its entry; the second one uses the name of the first."""
    await harness.make_batch()
    harness.clock.time = new_york(WEDNESDAY, 12)
    await renamed(harness, "KO")
    await renamed(harness, "MSFT", ticker="KO", first=WEDNESDAY)
    entries = [json.loads(entry.content) for entry in (await harness.journal())[-2:]]
    assert [(one["before"], one["pick"]["ticker"]) for one in entries] == [
        ("MSFT", "KO"),
        ("KO", "MSFT"),
    ]


async def test_an_ended_pick_that_is_renamed_stays_ended(harness):
    """Its end holds under any ticker; after its last session it gets no other."""
    batch = await halted(harness, 1, 2, 3)
    await ends(harness)
    with pytest.raises(
        Refused, match="MSFT ended on 2026-10-28; it cannot have another ticker from 2026-10-29 on"
    ):
        await renamed(harness, "KO", first=THURSDAY)
    await renamed(harness, "KO")
    await mornings(harness, batch, 4)
    assert next(row for row in await harness.rows(METRICS) if row[0] == 4)[1:5] == (
        "KO",
        Decimal("4.5"),
        True,
        True,
    )
    assert "KO" not in harness.requested_tickers


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param(
            {"run_date": date(2026, 10, 19), "new": "KO"},
            "There is no batch of 2026-10-19.",
            id="no batch",
        ),
        pytest.param(
            {"ticker": "KO", "new": "BRK.B"},
            "KO is no pick of 2026-10-26; its picks: MSFT,",
            id="no pick",
        ),
        pytest.param(
            {"new": "AAPL"}, "AAPL is in the batch of 2026-10-26 already.", id="another pick"
        ),
        pytest.param({"new": "MSFT"}, "MSFT is in the batch of 2026-10-26 already.", id="itself"),
        pytest.param(
            {"new": "spy"},
            "SPY is the benchmark of 2026-10-26; no pick can have",
            id="the benchmark",
        ),
        pytest.param(
            {"run_date": date(2026, 10, 27)},
            "is a Tuesday, and batches are of Mondays. Its",
            id="a Tuesday",
        ),
        pytest.param(
            {"run_date": date(2026, 11, 1)},
            "a Sunday, and batches are of Mondays. Its",
            id="a Sunday",
        ),
        pytest.param({"new": ""}, "'' is not a ticker.", id="nothing"),
        pytest.param({"new": "Coca-Cola"}, "'COCA.COLA' is not a ticker.", id="a name"),
        pytest.param({"new": "KO\0"}, "is not a ticker.", id="a NUL"),
        pytest.param({"new": "\ufb01x"}, "is not a ticker.", id="a ligature"),
        pytest.param(
            {"first": date(2026, 10, 24)},
            "the latest; 2026-10-24 is no session. Give",
            id="a Saturday",
        ),
        pytest.param(
            {"first": date(2026, 10, 31)}, "2026-10-31 is no session. Give", id="a Saturday to come"
        ),
        pytest.param(
            {"first": date(2026, 12, 25)}, "2026-12-25 is no session. Give", id="a holiday to come"
        ),
        pytest.param(
            {"first": WEDNESDAY}, "latest; 2026-10-28 is a later one. Record", id="tomorrow"
        ),
        pytest.param(
            {"first": date(2026, 12, 15)},
            "latest; 2026-12-15 is a later one. Record",
            id="far to come",
        ),
        pytest.param(
            {"first": date(2026, 10, 23)},
            "--from must be after 2026-10-23, the session at",
            id="baseline",
        ),
        pytest.param(
            {"first": date(2026, 10, 22)},
            "--from must be after 2026-10-23, the session at",
            id="before it",
        ),
        pytest.param(
            {"source": " \n"},
            "--source must say where this is known from, in plain text on one line, of at most "
            "1,000 characters.",
            id="no source",
        ),
        pytest.param(
            {"source": "a\0b"},
            "--source must say where this is known from",
            id="a NUL in the source",
        ),
        pytest.param(
            {"source": "a\ud800b"},
            "--source must say where this is known from",
            id="a surrogate in it",
        ),
    ],
)
@pytest.mark.sampled(6)
async def test_a_new_ticker_that_is_refused(harness, changes, message):
    """With its own message, and nothing is stored."""
    await harness.make_batch()
    harness.clock.time = new_york(TUESDAY, 12)
    entries = await harness.journal()
    with pytest.raises(Refused) as refused:
        await renamed(harness, **{"new": "KO", **changes})
    assert message in str(refused.value)
    assert await harness.journal() == entries
    assert [
        ticker for (ticker,) in await harness.rows("SELECT ticker FROM picks ORDER BY position")
    ] == list(CHOSEN)


# As an operator runs it


@pytest.fixture
def run_command(commanded, tmp_path, database) -> Any:
    """
    Return a function that runs a command on the harness's database.

    It runs in a thread, and returns the exit code and the error output. A command that waits for
    the worker, or binds its own context, needs `separate_process`.
    """

    async def command(*arguments: object, separate_process: bool = False) -> tuple[int, str]:
        if separate_process:
            process = await asyncio.to_thread(run, *arguments, cwd=tmp_path, DATABASE_URL=database)
            result = CommandResult(process.returncode, process.stdout, process.stderr)
        else:
            result = await asyncio.to_thread(commanded, *arguments, DATABASE_URL=database)
        assert "Traceback" not in result.error
        assert result.output == ""
        return result.exit_code, without_place(result.error).strip()

    return command


async def test_the_commands_pick_end_and_rename(harness, run_command):
    """One line that says what happens next; the same rules as above, and exit codes 0, 1 and 2."""
    await halted(harness, 1, 2, 3, 4)
    facts = ("--last-session", WEDNESDAY, "--value", "4.50", "--source", SOURCE)
    assert await run_command("pick", "end", MONDAY, "msft", *facts) == (
        0,
        "Recorded. Skipped days that are taken again: 1.",
    )
    assert await run_command("pick", "end", MONDAY, "MSFT", *facts) == (
        1, "alpha-monday: The end of MSFT is recorded already."
    )  # fmt: skip
    assert json.loads((await harness.journal())[-1].content)["ending"]["value"] == "4.50"
    options = ("--from", MONDAY, "--source", SOURCE, "--force")
    rename = ("pick", "rename", MONDAY, "AAPL", "KO", *options)
    result = await run_command(*rename, separate_process=True)
    assert result == (0, "Recorded. Skipped days that are taken again: 1.")
    result = await run_command(*rename, separate_process=True)
    assert result == (1, "alpha-monday: AAPL is no pick of 2026-10-26; its picks: MSFT, KO, NVDA.")
    assert [entry.kind for entry in await harness.journal()][-2:] == ["PICK_ENDED", "PICK_RENAMED"]
    assert await harness.rows(RETAKES) == [(4,), (4,)]


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("0", "a price must be above zero"),
        ("-1", "is not a price"),
        ("NaN", "is not a price"),
        ("1e3", "is not a price"),
        ("1,000", "is not a price"),
    ],
)
def test_a_value_that_is_no_price(value, says):
    """The message names the option, before the database is used."""
    facts = ("--last-session", WEDNESDAY, "--value", value, "--source", SOURCE)
    done = CliRunner().invoke(group, ["pick", "end", str(MONDAY), "MSFT", *map(str, facts)])
    assert isinstance(done.exception, Refused)
    assert str(done.exception).startswith("--value: MSFT, 2026-10-28: ")
    assert says in str(done.exception)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("pick", "end", MONDAY, "MSFT"), "Missing option '--last-session'"),
        (("pick", "end", "Monday", "MSFT"), "'RUN_DATE': 'Monday' is not a day such as 2026-11-16"),
        (("pick", "rename", MONDAY, "MSFT"), "Missing argument 'NEW'"),
        (("pick", "rename", MONDAY, "MSFT", "KO", "--source", SOURCE), "Missing option '--from'"),
        (("pick", "rename", MONDAY, "MSFT", "KO", "--from", TUESDAY), "Missing option '--source'"),
        (
            ("pick", "rename", MONDAY, "MSFT", "KO", "--from", "Tuesday"),
            "'Tuesday' is not a day such as 2026-11-16",
        ),
        (("checkpoint", "retake", MONDAY, 0), "0 is not in the range 1<=x<=14"),
        (("checkpoint", "retake", MONDAY, 15), "15 is not in the range 1<=x<=14"),
        (("checkpoint", "retake", MONDAY), "Missing argument 'DAY'"),
    ],
)
def test_misuse(arguments, says):
    """Exit code 2, and what is wrong."""
    done = CliRunner().invoke(group, list(map(str, arguments)))
    assert (done.exit_code, says in done.output) == (2, True), done.output


@pytest.mark.parametrize(
    "command",
    [
        (
            "pick",
            "end",
            MONDAY,
            "MSFT",
            "--last-session",
            WEDNESDAY,
            "--value",
            "1",
            "--source",
            SOURCE,
        ),
        ("pick", "rename", MONDAY, "MSFT", "KO", "--from", TUESDAY, "--source", SOURCE),
        ("checkpoint", "retake", MONDAY, 4),
    ],
    ids=["end", "rename", "retake"],
)
def test_a_database_that_was_not_migrated(commanded, empty, command):
    """One line with the command that helps, as for every other command."""
    done = commanded(*command, DATABASE_URL=empty)
    assert done.exit_code == 1
    assert "lacks migration 0001 (record). Run `alpha-monday migrate`" in done.error
    assert len(without_place(done.error).strip().splitlines()) == 1


@pytest.mark.parametrize("command", ["pick end", "pick rename", "checkpoint retake"])
def test_help(command):
    """What it does, and an example with every option."""
    done = CliRunner().invoke(group, [*command.split(), "--help"])
    assert done.exit_code == 0
    examples = re.findall(rf"^ +alpha-monday {command} .*", done.output, re.MULTILINE)
    assert all(re.search(r"\d{4}-\d\d-\d\d", example) for example in examples)
    for option in re.findall(r"^ +(--(?!help)[a-z-]+)", done.output, re.MULTILINE):
        assert any(option in example for example in examples)


# Manual retakes


@asynccontextmanager
async def a_worker() -> AsyncIterator[None]:
    """The service's worker, which runs all due jobs."""
    working = asyncio.create_task(
        queue.app.run_worker_async(
            install_signal_handlers=False,
            listen_notify=False,
            shutdown_graceful_timeout=1,
            fetch_job_polling_interval=0.1,
        )
    )
    try:
        yield
    finally:
        working.cancel()
        with suppress(asyncio.CancelledError):
            await working


async def skipped(harness: JobHarness) -> Batch:
    """A batch whose fourth day was skipped for a missing close; no other job waits."""
    batch = await harness.make_batch()
    harness.world.absent.add(("AAPL", THURSDAY))
    await mornings(harness, batch, 4)
    await harness.rows("DELETE FROM procrastinate_jobs")
    harness.clock.time = new_york(SATURDAY, 12)
    return batch


async def test_a_manual_retake(harness, run_command):
    """The worker does it and the command waits: computed, with when and why it had been skipped."""
    await skipped(harness)
    harness.world.absent.clear()
    async with a_worker():
        await the_worker_lives(harness)
        assert await run_command("checkpoint", "retake", MONDAY, 4, separate_process=True) == (
            0,
            "Day 4 is computed.",
        )
    assert await harness.rows(CHECKPOINTS) == [(4, "computed", THURSDAY, "MISSING_CLOSE")]
    assert (await harness.journal())[-1].kind == "CHECKPOINT"
    assert [entry.kind for entry in await harness.journal()].count("CHECKPOINT") == 2
    assert await run_command("checkpoint", "retake", MONDAY, 4) == (
        1, "alpha-monday: Day 4 of 2026-10-26 was not skipped because of a missing price."
    )  # fmt: skip


async def test_a_manual_retake_without_prices(harness, run_command):
    """Exit code 1, and the row does not change."""
    await skipped(harness)
    async with a_worker():
        await the_worker_lives(harness)
        assert await run_command("checkpoint", "retake", MONDAY, 4, separate_process=True) == (
            1, "alpha-monday: Day 4 is still skipped. The log of the service says why."
        )  # fmt: skip
    assert await harness.rows(CHECKPOINTS) == [(4, "skipped", None, "MISSING_CLOSE")]
    assert [entry.kind for entry in await harness.journal()].count("CHECKPOINT") == 1


async def the_worker_lives(harness: JobHarness) -> None:
    while not (await harness.rows("SELECT count(*) FROM procrastinate_workers"))[0][0]:
        await asyncio.sleep(0.02)


async def test_retakes_that_are_refused(harness, run_command):
    """No batch, a computed day, one of a closed market, a future one; no worker."""
    batch = await skipped(harness)
    await mornings(harness, batch, 1, 6)
    assert await run_command("checkpoint", "retake", date(2026, 10, 19), 4) == (
        1, "alpha-monday: There is no batch of 2026-10-19."
    )  # fmt: skip
    for day in (1, 6):
        assert await run_command("checkpoint", "retake", MONDAY, day) == (
            1, f"alpha-monday: Day {day} of 2026-10-26 was not skipped because of a missing price."
        )  # fmt: skip
    assert await run_command("checkpoint", "retake", MONDAY, 4) == (
        1, "alpha-monday: No worker is running that could do it. Start one with "
           "`alpha-monday serve` or `alpha-monday work`."
    )  # fmt: skip
    assert await harness.rows(RETAKES) == []
