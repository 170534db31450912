"""
The time of the next figures: the next checkpoint with a session on the day before, wherever it is
shown.

No place may name a time at which no figures can come. Once, pages named Sunday's checkpoint, which
is always skipped, after every Friday's figures. The cases are in `CASES`: weekends, holidays on a
Monday and on a Friday, a closure on short notice, a change of the clocks, a gap, a new batch, and
days after which no figures come. A time in the past is a case, too: pages are cached until the
record changes, so they say "due", and `show`, which knows the time, says since when they are
overdue (`OVERDUE`).
"""

from datetime import date, datetime, timedelta

import psycopg
import pytest
from api_records import RUNNING, UNRESOLVED, WON, Record
from job_context import MONDAY, new_york
from job_context import clock as clock
from job_context import harness as harness
from served_pages import find_one, pages_on, parse_page, visible_text

from app.commands import status, tables
from app.core import settings
from app.domain.calendar import NEW_YORK, Calendar
from app.domain.model import BatchStatus
from app.ops import snapshot
from app.store.rehearsed import CREATE_CLOCK_TABLE
from app.web.pages import batch_text
from tests.integration.api.test_cache import living

ACTIVE = BatchStatus.ACTIVE
CLOSED = date(2026, 2, 2)

# A Monday, the days that are stored, days closed by the setting, and the day of the next figures.
CASES = [
    pytest.param("2026-01-26", range(1), (), 1, id="a batch that just began"),
    pytest.param("2026-01-26", range(3), (), 3, id="within a week"),
    pytest.param("2026-01-26", range(5), (), 5, id="Friday's closes, on Saturday"),
    pytest.param("2026-01-26", range(6), (), 8, id="a weekend"),
    pytest.param("2026-01-26", range(7), (), 8, id="Sunday is over"),
    pytest.param("2026-01-26", range(8), (), 8, id="Monday is over"),
    pytest.param("2026-01-26", [0, 1, 2, 3, 5], (), 4, id="a gap"),
    pytest.param(
        "2026-01-26", range(6), (CLOSED,), 9, id="a closure on short notice after a weekend"
    ),
    pytest.param(
        "2026-01-26",
        range(2),
        (date(2026, 1, 27),),
        3,
        id="a closure on short notice within a week",
    ),
    pytest.param("2026-01-12", range(6), (), 9, id="a holiday on Monday after a weekend"),
    pytest.param("2026-01-19", range(1), (), 2, id="a holiday on the run date"),
    pytest.param("2026-03-30", range(5), (), 8, id="Good Friday before a weekend"),
    pytest.param("2026-12-21", range(5), (), 8, id="Christmas on Friday"),
    pytest.param("2026-03-02", range(6), (), 8, id="the clocks go forward"),
    pytest.param("2026-10-26", range(6), (), 8, id="the clocks go back"),
    pytest.param("2026-01-26", range(12), (), 12, id="the last session"),
    pytest.param("2026-01-26", range(13), (), None, id="no session is left"),
    pytest.param("2026-01-26", range(14), (), None, id="only the last day is left"),
    pytest.param("2026-01-26", range(15), (), None, id="nothing is left"),
]


def batch_response(monday: str, days, state: str = "ACTIVE") -> dict:
    """Return the API's response for a batch, with only the fields that matter here."""
    checkpoints = [
        {
            "day": day,
            "status": "COMPUTED",
            "checkpointDate": str(date.fromisoformat(monday) + timedelta(day)),
            "tradingDay": monday,
            "skippedAt": None,
            "skipReason": None,
            "note": None,
            "corrections": [],
        }
        for day in days
    ]
    return {"runDate": monday, "status": state, "checkpoints": checkpoints, "result": None}


@pytest.mark.parametrize(("monday", "days", "closed", "expected"), CASES)
def test_the_time_of_the_next_figures(monday, days, closed, expected):
    """The next figures come at nine in New York on that day; None if no session is left."""
    at = batch_text.next_figures_at(batch_response(monday, days), Calendar(closed))
    if expected is None:
        assert at is None
        return
    local = datetime.combine(
        date.fromisoformat(monday) + timedelta(expected), datetime.min.time().replace(hour=9)
    )
    assert at == local.replace(tzinfo=NEW_YORK)


@pytest.mark.parametrize(("monday", "days", "closed", "expected"), CASES)
def test_the_strip(monday, days, closed, expected):
    """The strip marks the same day as next, and marks none after a day without a session."""
    sessions = Calendar(closed)
    strip = batch_text.strip_days(batch_response(monday, days), sessions)
    assert [one.day for one in strip if one.state == "next"] == (
        [] if expected is None else [expected]
    )
    for one_day in strip:
        if one_day.is_past:
            continue
        session = sessions.trading_day(one_day.calendar_date)
        assert (one_day.state == "closed") == (session is None)
        assert one_day.words.startswith("without figures: " if session is None else "due at 09:00")


@pytest.mark.parametrize("state", ["COMPLETED", "FAILED"])
def test_a_finished_batch_has_no_next_figures(state):
    response = batch_response("2026-01-26", range(3), state)
    assert batch_text.next_figures_at(response, Calendar()) is None


@pytest.mark.parametrize(
    ("monday", "last", "words"),
    [
        pytest.param(RUNNING, 5, "due Tue 3 Feb 2026, 09:00 in New York", id="a weekend"),
        pytest.param(
            UNRESOLVED, 5, "due Wed 21 Jan 2026, 09:00 in New York", id="a weekend and a holiday"
        ),
        pytest.param(
            RUNNING,
            12,
            "none: no session is left, and the fortnight ends on Mon 9 Feb 2026, 09:00 in New York",
            id="no session is left",
        ),
    ],
)
async def test_on_the_pages(database, pool, monday, last, words):
    """Both pages of an active batch show the time, and a browser counts down to it."""
    with psycopg.connect(database) as conn:
        record = Record(conn)
        batch, picks = record.batch("main", monday, ACTIVE, "AAPL SELL, KO BUY, XOM SELL")
        for day in range(1, last + 1):
            record.checkpoint(batch, picks, day)
    async with pages_on(pool) as browser:
        for path in ("/", f"/batches/{monday}"):
            facts = visible_text(find_one(parse_page(await browser.get(path)), "dl"))
            assert f"Next figures{words}" in facts
            assert "Next checkpoint" not in facts


async def test_a_closure_of_the_setting(database):
    """The pages take MARKET_CLOSED_DAYS of the service into account."""
    with psycopg.connect(database) as conn:
        record = Record(conn)
        batch, picks = record.batch("main", RUNNING, ACTIVE, "AAPL SELL, KO BUY, XOM SELL")
        for day in range(1, 6):
            record.checkpoint(batch, picks, day)
    async with living(database, MARKET_CLOSED_DAYS=str(CLOSED)) as service:
        page = (await service.client.get("/", headers={"accept": "text/html"})).text
    assert "Wed 4 Feb 2026, 09:00</time> in New York" in page


async def test_a_future_day_without_a_session_is_no_gap(database, pool):
    """The sentence about skipped days is only about past days."""
    with psycopg.connect(database) as conn:
        Record(conn).batch("main", WON, ACTIVE, "AAPL SELL, KO BUY, XOM SELL")
    async with pages_on(pool) as browser:
        assert "the exchange was closed the day before" not in (await browser.get("/")).text


def test_show(database, commanded):
    with psycopg.connect(database) as conn:
        record = Record(conn)
        batch, picks = record.batch("main", RUNNING, ACTIVE, "AAPL SELL, KO BUY, XOM SELL")
        for day in range(1, 6):
            record.checkpoint(batch, picks, day)
    output = commanded("show", DATABASE_URL=database).output
    assert "Next figures: day 8, overdue since Tuesday, 2026-02-03 09:00 in New York." in output
    output = commanded("show", DATABASE_URL=database, MARKET_CLOSED_DAYS=str(CLOSED)).output
    assert "Next figures: day 9, overdue since Wednesday, 2026-02-04 09:00 in New York." in output
    with psycopg.connect(database) as conn:
        for day in range(6, 13):
            conn.execute(
                "INSERT INTO checkpoints "
                "(id, batch_id, day, checkpoint_date, status, skip_reason, skipped_at, taken_at) "
                "VALUES (gen_random_uuid(), %s, %s, %s, 'skipped', 'MARKET_CLOSED', now(), now())",
                (batch.id, day, RUNNING + timedelta(day)),
            )
    output = commanded("show", DATABASE_URL=database).output
    assert (
        "Next figures: none, no session is left. The fortnight ends on Monday, 2026-02-09 09:00 "
        "in New York." in output
    )


# The hours since the run date, and what `show` says; day 1 is stored.
OVERDUE = [
    pytest.param(24, "day 2, Wednesday, 2026-10-28 09:00 in New York.", id="not due yet"),
    pytest.param(47, "day 2, Wednesday, 2026-10-28 09:00 in New York.", id="an hour before"),
    pytest.param(48, "day 2, Wednesday, 2026-10-28 09:00 in New York.", id="at that time"),
    pytest.param(
        49, "day 2, overdue since Wednesday, 2026-10-28 09:00 in New York.", id="an hour after"
    ),
    pytest.param(
        24 * 8,
        "day 2, overdue since Wednesday, 2026-10-28 09:00 in New York.",
        id="a week of mornings",
    ),
    pytest.param(
        24 * 60,
        "day 2, overdue since Wednesday, 2026-10-28 09:00 in New York.",
        id="after the fortnight",
    ),
]


@pytest.mark.parametrize(("hours", "words"), OVERDUE)
async def test_show_at_a_time(database, pool, capsys, hours, words):
    """A time before now is overdue."""
    with psycopg.connect(database) as conn:
        record = Record(conn)
        batch, picks = record.batch("main", MONDAY, ACTIVE, "AAPL SELL, KO BUY, XOM SELL")
        record.checkpoint(batch, picks, 1)
    await tables.show(
        pool=pool,
        batch=batch,
        sessions=Calendar(),
        now=new_york(MONDAY, 9) + timedelta(hours=hours),
    )
    assert f"Next figures: {words}" in capsys.readouterr().out.splitlines()


async def test_show_of_a_rehearsal(database, pool, capsys):
    """The days of a rehearsal are not called overdue, because they are not in real time."""
    with psycopg.connect(database) as conn:
        batch, _ = Record(conn).batch("main", MONDAY, ACTIVE, "AAPL SELL, KO BUY, XOM SELL")
        conn.execute(CREATE_CLOCK_TABLE)
    await tables.show(
        pool=pool, batch=batch, sessions=Calendar(), now=new_york(MONDAY, 9) + timedelta(days=5)
    )
    assert "overdue" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("notice", "marked"), [("", True), ("Made up.", False)], ids=["real", "rehearsed"]
)
async def test_only_real_times_are_marked_for_the_browser(database, pool, notice, marked):
    """
    Only the time of real figures is marked for the script that compares it with the browser's
    clock.
    """
    with psycopg.connect(database) as conn:
        Record(conn).batch("main", RUNNING, ACTIVE, "AAPL SELL, KO BUY, XOM SELL")
    async with pages_on(pool, notice) as browser:
        page = (await browser.get("/")).text
    assert (" data-ahead data-due>Tue 27 Jan 2026, 09:00</time>" in page) == marked
    assert "due <time" in page


@pytest.mark.parametrize(
    ("at", "environment", "line"),
    [
        pytest.param(
            new_york(MONDAY, 12),
            {},
            "day 1 of 2026-10-26: Tuesday, 2026-10-27 09:00 in New York",
            id="on Monday",
        ),
        pytest.param(
            new_york(date(2026, 10, 31), 12),
            {},
            "day 6 of 2026-10-26: Sunday, 2026-11-01 09:00 in New York, without figures; next "
            "figures: "
            "day 8 of 2026-10-26: Tuesday, 2026-11-03 09:00 in New York",
            id="on Saturday",
        ),
        pytest.param(
            new_york(date(2026, 10, 31), 12),
            {"MARKET_CLOSED_DAYS": "2026-11-02"},
            "day 6 of 2026-10-26: Sunday, 2026-11-01 09:00 in New York, without figures; next "
            "figures: "
            "day 9 of 2026-10-26: Wednesday, 2026-11-04 09:00 in New York",
            id="before a closure on short notice",
        ),
        pytest.param(
            new_york(date(2026, 11, 7), 12),
            {},
            "day 13 of 2026-10-26: Sunday, 2026-11-08 09:00 in New York, without figures; next "
            "figures: none",
            id="after the last session",
        ),
    ],
)
async def test_status(harness, at, environment, line):
    """`status` names the next checkpoints, and if these have no figures, the next ones that do."""
    await harness.make_batch()
    harness.clock.time = at
    state = await snapshot.read_for_operator(
        harness.context.pool, settings.load(environment), harness.clock
    )
    assert f"next checkpoints: {line}" in list(status.facts(state))
