"""
The service is stopped for hours, days and weeks; New York's clocks change twice; and one session is
a half day.

Real processes run one record of twelve weeks in simulated time. Between two of them the test moves
the simulated clock ahead, as an outage does: a mere pause of a rehearsal takes no simulated time.
"""

import json
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner
from commands import ALPHA_MONDAY, environment, run, standins, without_place
from job_context import new_york
from judged import Series, series_of
from processes import until
from psycopg.rows import dict_row

from app.commands.status import status
from app.domain.calendar import NEW_YORK

pytestmark = pytest.mark.long

LATE, SLEPT = date(2025, 11, 10), date(2025, 11, 17)
GONE, BACK = date(2025, 12, 10), date(2026, 1, 14)
MISSED = [date(2025, 12, 15) + timedelta(weeks=week) for week in range(5)]
END = date(2026, 1, 20)

# The outages, without any process; the first two begin at the end of a day.
OUTAGES = [
    pytest.param(new_york(LATE, 0), new_york(LATE, 14), id="Sunday to Monday 14:00"),
    pytest.param(
        new_york(SLEPT + timedelta(days=1), 0),
        new_york(date(2025, 11, 20), 10, 15),
        id="Monday to Thursday",
    ),
    pytest.param(new_york(GONE + timedelta(days=1), 0), new_york(BACK, 11), id="five weeks"),
]
AGAIN = [moment.values[1] for moment in OUTAGES]

CHECKPOINTS = """
SELECT run_date, day, checkpoint_date, checkpoints.trading_day, checkpoints.status::text,
    skip_reason, taken_at,
    benchmark_price::text AS benchmark,
    (SELECT json_object_agg(ticker, current_price::text) FROM pick_checkpoint_metrics
        JOIN picks ON picks.id = pick_id WHERE checkpoint_id = checkpoints.id) AS prices
FROM checkpoints JOIN batches ON batches.id = batch_id
WHERE day > 0
ORDER BY taken_at
"""


class Record:
    """
    A rehearsal's record, the folder in which it runs, and what `status` printed after each
    outage.
    """

    def __init__(self, folder: Path, address: str) -> None:
        self.folder, self.address = folder, address
        self.statuses: list[list[str]] = []

    def live(self, weeks: int, until: date) -> None:
        """Run through weeks up to the end of a day, or continue until then."""
        done = run(
            "rehearse", "--single", "--weeks", weeks, "--until", until, "--calm", "--no-serve",
            cwd=self.folder, DATABASE_URL=self.address,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    def be_away_until(self, back: datetime) -> None:
        """Move the simulated clock ahead while no process runs."""
        with psycopg.connect(self.address) as conn:
            conn.execute(
                "UPDATE told.clock SET until = NULL, lag = extract(epoch FROM "
                "clock_timestamp() - %s::timestamptz), "
                "seen = clock_timestamp()",
                (back,),
            )

    def store_status(self) -> None:
        """Store what `status` prints."""
        done = CliRunner().invoke(status, env={"DATABASE_URL": self.address})
        assert (done.exit_code, without_place(done.stderr)) == (1, "")  # no process runs
        self.statuses.append(done.stdout.splitlines())

    def rows(self, query: str, *values: object) -> list[dict[str, Any]]:
        with psycopg.connect(self.address, row_factory=dict_row) as conn:
            return conn.execute(query.encode(), values).fetchall()

    @property
    def requests(self) -> list[dict[str, Any]]:
        """Return the requests to the simulators, from their log."""
        lines = map(
            json.loads, (self.folder / ".alpha-monday" / "requests.jsonl").read_text().splitlines()
        )
        return [{**line, "at": datetime.fromisoformat(line["at"])} for line in lines]

    @property
    def questions(self) -> int:
        """Return the number of questions that the model's simulator received, from its log."""
        if not (self.folder / ".alpha-monday" / "requests.jsonl").exists():
            return 0
        return sum(one["provider"] == "openai" for one in self.requests)


@pytest.fixture(scope="module")
def record(tmp_path_factory, create) -> Record:
    """Seven weeks of autumn with two outages, and a third one until after New Year."""
    record = Record(tmp_path_factory.mktemp("outages"), create())
    record.live(2, LATE - timedelta(days=1))
    for back, end in zip(AGAIN, (SLEPT, GONE, END), strict=True):
        record.be_away_until(back)
        record.store_status()
        record.live(2, end)
        record.store_status()
    return record


@pytest.fixture(scope="module")
def series(tmp_path_factory, record) -> Iterator[dict[str, Series]]:
    """The prices of all picked shares, as the simulators return them: the last hundred sessions."""
    tickers = {one["ticker"] for one in record.rows("SELECT DISTINCT ticker FROM picks")}
    with standins(tmp_path_factory.mktemp("market"), f"{END}T20:00:00+00:00") as url:
        yield {ticker: series_of(url, ticker) for ticker in ("SPY", *tickers)}


def notes(lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith(("note: ", "to do: "))]


def during(record: Record, gone: datetime, back: datetime) -> list[dict[str, Any]]:
    """
    Return the checkpoints that became due during an outage, in the order in which they were
    taken.
    """
    return [
        one for one in record.rows(CHECKPOINTS) if gone <= new_york(one["checkpoint_date"]) < back
    ]


# The service down


def test_sunday_to_monday_afternoon(record):
    """The batch of that Monday is stored at two, and is late; the next one is not."""
    (late, slept) = record.rows(
        "SELECT run_date, late, status::text, created_at FROM batches WHERE run_date IN (%s, "
        "%s) ORDER BY run_date",
        *(LATE, SLEPT),
    )
    assert (late["late"], slept["late"]) == (True, False)
    assert timedelta(0) < late["created_at"] - new_york(LATE, 14) < timedelta(minutes=2)
    away, back = record.statuses[:2]
    assert away[0] == "now: Monday, 2025-11-10 14:00 in New York (rehearsed: all of it is made up)"
    assert "Monday 2025-11-10: no batch" in away
    assert [line.split(" by ")[0] for line in notes(away)[:2]] == [
        "note: Day 14 of 2025-10-27 is overdue",
        "note: Day 7 of 2025-11-03 is overdue",
    ]
    assert notes(away)[2].startswith(
        "to do: No worker runs (the last round of the reconciliation was 1"
    )
    assert notes(away)[3:] == [
        "to do: The Monday 2025-11-10 has neither a batch nor a job. A service that is started "
        "before midnight in New York makes its batch."
    ]
    assert notes(back)[0] == "note: The batch of Monday 2025-11-10 was made 5 h after it was due."
    assert len(notes(back)) == 2  # and that no process runs now


def test_monday_to_thursday(record):
    """Three checkpoints of two batches are overdue, and are taken as soon as a process runs."""
    batch = record.rows("SELECT created_at FROM batches WHERE run_date = %s", SLEPT)[0]
    last = max(one["at"] for one in record.rows("SELECT at FROM journal WHERE at < %s", AGAIN[1]))
    assert batch["created_at"] == last  # so it may have been stopped some minutes after its batch
    away, back = record.statuses[2:4]
    assert away[0].startswith("now: Thursday, 2025-11-20 10:15 in New York")
    assert "overdue: 6" in away
    assert [line.split("; job")[0] for line in notes(away)[1:6]] == [
        "note: Day 8 of 2025-11-10 is overdue by 2 d 1 h",
        "note: Day 1 of 2025-11-17 is overdue by 2 d 1 h",
        "note: Day 9 of 2025-11-10 is overdue by 1 d 1 h",
        "note: Day 2 of 2025-11-17 is overdue by 1 d 1 h",
        "note: Day 10 of 2025-11-10 is overdue by 1 h 15 min",
    ]
    assert notes(away)[6] == "note: 1 later checkpoint is overdue, too."
    assert notes(away)[7].startswith(
        "to do: No worker runs (the last round of the reconciliation was 2 d 1"
    )
    assert notes(back)[0] == (
        "note: 4 checkpoints were taken late in the last four weeks. The longest delay: day 1 of "
        "2025-11-17, 2 d 1 h."
    )


def test_five_weeks(record):
    """Five Mondays have failed for ever; the Monday after them is normal."""
    missed = record.rows(
        "SELECT run_date, status::text, failure_reason, failure, created_at FROM batches "
        "WHERE failure_reason IS NOT NULL ORDER BY run_date"
    )
    assert [one["run_date"] for one in missed] == MISSED
    for one in missed:
        assert (one["status"], one["failure_reason"]) == ("failed", "MISSED")
        assert one["failure"] == "Nobody was there to ask on that Monday."
        assert timedelta(0) < one["created_at"] - AGAIN[2] < timedelta(minutes=2)
    away, back = record.statuses[4:]
    dates = ", ".join(map(str, MISSED))
    assert (
        f"note: The Mondays {dates} were missed. A running service records that within a minute."
        in away
    )
    assert "overdue: 17" in away
    assert notes(away)[-1].startswith(
        "to do: No worker runs (the last round of the reconciliation was 34 d 1"
    )
    assert notes(back)[:2] == [
        f"note: The Mondays {dates} were missed while the service was down.",
        "note: 11 checkpoints were taken late in the last four weeks. The longest delay: day 3 of "
        "2025-12-08, 34 d 2 h.",
    ]
    assert len(notes(back)) == 3
    (after,) = record.rows("SELECT late, created_at FROM batches WHERE run_date = '2026-01-19'")
    assert (after["late"], after["created_at"] < new_york(date(2026, 1, 19), 9, 2)) == (False, True)


@pytest.mark.parametrize(("gone", "back"), OUTAGES)
def test_missed_checkpoints_are_taken_afterwards(record, series, gone, back):
    """
    Missed checkpoints are taken at once, the oldest batch first and its days in order, each
    with the closes of its own session.
    """
    missed = during(record, gone, back)
    assert missed
    for one in missed:
        eve = one["checkpoint_date"] - timedelta(days=1)
        assert timedelta(0) < one["taken_at"] - back < timedelta(minutes=5)
        if eve not in series["SPY"].closes:
            assert (one["status"], one["skip_reason"], one["trading_day"]) == (
                "skipped",
                "MARKET_CLOSED",
                None,
            )
            continue
        assert (one["status"], one["trading_day"]) == ("computed", eve)
        assert one["benchmark"] == series["SPY"].closes[eve]
        assert one["prices"] == {ticker: series[ticker].closes[eve] for ticker in one["prices"]}
        assert len(one["prices"]) == 3
    computed = [(one["run_date"], one["day"]) for one in missed if one["status"] == "computed"]
    assert computed == sorted(computed)


def test_next_mornings_are_on_their_day(record):
    """Checkpoints that become due while a process runs are taken within minutes of nine o'clock."""
    away = [one["checkpoint_date"] for outage in OUTAGES for one in during(record, *outage.values)]
    others = [one for one in record.rows(CHECKPOINTS) if one["checkpoint_date"] not in away]
    assert len(others) > 60
    for one in others:
        assert (
            timedelta(0)
            <= one["taken_at"] - new_york(one["checkpoint_date"])
            < timedelta(minutes=5)
        ), one


def test_nothing_twice_and_within_the_quota(record):
    """
    There is one question a Monday and one journal entry for each event (a question has one for its
    claim and one for its outcome), and by the simulators' log no limit was exceeded.
    """
    picked = record.rows("SELECT run_date FROM batches WHERE failure_reason IS NULL")
    requests_by_provider = Counter(one["provider"] for one in record.requests)
    assert requests_by_provider["openai"] == len(picked) == 8
    entries = record.rows(
        "SELECT kind::text, count(*), count(DISTINCT content::json -> 'checkpoint' ->> 'id') "
        "FILTER (WHERE kind = 'CHECKPOINT') AS checkpoints FROM journal GROUP BY kind ORDER BY kind"
    )
    ((taken,),) = [
        one.values() for one in record.rows("SELECT count(*) FROM checkpoints WHERE day > 0")
    ]
    (read,) = record.rows(
        "SELECT count(*) FROM operations.provider_requests WHERE outcome = 'answered'"
    )
    # Each pick with a total return got it by one entry. A batch may have several of these entries,
    # because its dividends are known at different times.
    extensions = [
        json.loads(one["content"])
        for one in record.rows("SELECT content FROM journal WHERE kind = 'EXTENSION'")
    ]
    added = [metric["id"] for entry in extensions for metric in entry["metrics"]]
    (known,) = record.rows(
        "SELECT count(*) FROM pick_checkpoint_metrics WHERE total_return_pct IS NOT NULL"
    )
    assert len(added) == len(set(added)) == known["count"]
    assert [tuple(one.values()) for one in entries] == [
        ("BATCH", 8, 0),
        ("CHECKPOINT", taken, taken),
        ("EXTENSION", len(extensions), 0),
        ("FAILURE", 5, 0),
        ("GENERATION", 16, 0),
        ("GENESIS", 1, 0),
        ("READINGS", read["count"], 0),
        ("RULES", 1, 0),
        ("SERIES", 1, 0),
        ("SETTINGS", 1, 0),  # the calendar is extended in the new year
    ]
    granted = [
        one["at"] for one in record.rows("SELECT at FROM operations.provider_requests ORDER BY at")
    ]
    prices = sorted(
        (one for one in record.requests if one["provider"] == "alphavantage"),
        key=lambda one: one["at"],
    )
    # On a machine that is too busy two requests may arrive closer together than they had leave to
    # be sent.
    assert (
        Counter(one["refused"] for one in prices) - Counter({None: len(prices), "burst": 2})
        == Counter()
    )
    prices = [one for one in prices if not one["refused"]]
    for times in (granted, [one["at"] for one in prices]):
        for count, seconds in ((1, 1), (5, 60), (25, 86_400)):
            gaps = [later - earlier for earlier, later in zip(times, times[count:], strict=False)]
            assert min(gaps) >= timedelta(seconds=seconds)
    for back in AGAIN:  # one request a ticker brings every day of it
        once = Counter(
            (one["function"], one["symbol"])
            for one in prices
            if 0 <= (one["at"] - back).total_seconds() < 600
        )
        assert set(once.values()) == {1}
        assert len([function for function, _ in once if function == "TIME_SERIES_DAILY"]) <= 7
    assert {
        one["status"] for one in record.rows("SELECT status::text FROM queue.procrastinate_jobs")
    } == {
        "succeeded",
        "todo",
    }


def test_the_record_is_right(record):
    """`verify` reports no discrepancy, and the log has no unexpected error."""
    done = run("verify", cwd=record.folder, DATABASE_URL=record.address)
    assert done.returncode == 0, done.stderr
    *_, sealed, fits = done.stdout.splitlines()
    assert sealed.startswith("Sealed since entry 1 (record ")
    assert sealed.endswith(", REHEARSED)")
    assert fits.startswith("Everything fits: ")
    assert "Traceback" not in (record.folder / ".alpha-monday" / "rehearsal.log").read_text()
    entries = record.rows("SELECT seq, at FROM journal ORDER BY seq")
    assert all(later["seq"] - earlier["seq"] == 1 for earlier, later in pairwise(entries))


# Clocks and calendars


def hours(record: Record, *run_dates: date) -> list[str]:
    """
    Return when these Mondays began, and when their checkpoints were due and taken, by the hour,
    up to the last one's day 1.
    """
    begun = record.rows(
        "SELECT created_at, created_at AS due, 'Monday ' || run_date AS what FROM batches "
        "WHERE run_date = ANY(%s)",
        list(run_dates),
    )
    mornings = record.rows(
        """
        SELECT taken_at, scheduled_at AS due, 'day ' || day || ' of ' || run_date AS what
        FROM batches
        JOIN checkpoints ON batch_id = batches.id
        JOIN queue.procrastinate_jobs ON args ->> 'batch_id' = batches.id::text AND args ->>
            'day' = day::text
        WHERE run_date = ANY(%s) AND checkpoint_date <= %s
        """,
        list(run_dates),
        max(run_dates) + timedelta(days=1),
    )
    lines = []
    for happened, due, what in (one.values() for one in (*begun, *mornings)):
        hour = happened.replace(minute=0, second=0, microsecond=0)
        # A job that waits for a request writes its next time into its row, so that it may be due a
        # minute later by now.
        assert timedelta(0) <= due - hour < timedelta(minutes=5)
        assert happened - hour < timedelta(minutes=5)
        lines.append(
            f"{hour.astimezone(NEW_YORK):%Y-%m-%d %a %H:%M %Z} {hour.astimezone(UTC):%H:%M} "
            f"UTC {what}"
        )
    return sorted(lines)


def test_clocks_go_back(record):
    """Jobs run at nine in New York before and after 2 November, which is an hour later in UTC."""
    assert hours(record, date(2025, 10, 27), date(2025, 11, 3)) == [
        "2025-10-27 Mon 09:00 EDT 13:00 UTC Monday 2025-10-27",
        "2025-10-28 Tue 09:00 EDT 13:00 UTC day 1 of 2025-10-27",
        "2025-10-29 Wed 09:00 EDT 13:00 UTC day 2 of 2025-10-27",
        "2025-10-30 Thu 09:00 EDT 13:00 UTC day 3 of 2025-10-27",
        "2025-10-31 Fri 09:00 EDT 13:00 UTC day 4 of 2025-10-27",
        "2025-11-01 Sat 09:00 EDT 13:00 UTC day 5 of 2025-10-27",
        "2025-11-02 Sun 09:00 EST 14:00 UTC day 6 of 2025-10-27",
        "2025-11-03 Mon 09:00 EST 14:00 UTC Monday 2025-11-03",
        "2025-11-03 Mon 09:00 EST 14:00 UTC day 7 of 2025-10-27",
        "2025-11-04 Tue 09:00 EST 14:00 UTC day 1 of 2025-11-03",
        "2025-11-04 Tue 09:00 EST 14:00 UTC day 8 of 2025-10-27",
    ]


def test_clocks_go_forward(tmp_path, create):
    """Jobs run at nine in New York before and after 8 March, which is an hour earlier in UTC."""
    spring = Record(tmp_path, create())
    spring.live(2, date(2026, 3, 10))
    assert hours(spring, date(2026, 3, 2), date(2026, 3, 9)) == [
        "2026-03-02 Mon 09:00 EST 14:00 UTC Monday 2026-03-02",
        "2026-03-03 Tue 09:00 EST 14:00 UTC day 1 of 2026-03-02",
        "2026-03-04 Wed 09:00 EST 14:00 UTC day 2 of 2026-03-02",
        "2026-03-05 Thu 09:00 EST 14:00 UTC day 3 of 2026-03-02",
        "2026-03-06 Fri 09:00 EST 14:00 UTC day 4 of 2026-03-02",
        "2026-03-07 Sat 09:00 EST 14:00 UTC day 5 of 2026-03-02",
        "2026-03-08 Sun 09:00 EDT 13:00 UTC day 6 of 2026-03-02",
        "2026-03-09 Mon 09:00 EDT 13:00 UTC Monday 2026-03-09",
        "2026-03-09 Mon 09:00 EDT 13:00 UTC day 7 of 2026-03-02",
        "2026-03-10 Tue 09:00 EDT 13:00 UTC day 1 of 2026-03-09",
        "2026-03-10 Tue 09:00 EDT 13:00 UTC day 8 of 2026-03-02",
    ]


def test_the_half_day_after_thanksgiving(record, series):
    """
    A half day is a normal session: its closes are used for Saturday's checkpoint, and for a
    batch's result.
    """
    half = date(2025, 11, 28)
    fortnights = [
        one for one in record.rows(CHECKPOINTS) if one["run_date"] in (SLEPT, date(2025, 11, 24))
    ]
    table = [
        f"{one['checkpoint_date']:%a %m-%d} day {one['day']} of {one['run_date']:%m-%d}: "
        f"{one['skip_reason'] or 'closes of {:%a %m-%d}'.format(one['trading_day'])}"
        for one in fortnights
        if date(2025, 11, 26) <= one["checkpoint_date"] <= date(2025, 12, 2)
    ]
    # A day without a session is recorded at once, and in any order.
    assert sorted(table, key=lambda line: (line[4:9], line.split(":")[0][-5:])) == [
        "Wed 11-26 day 9 of 11-17: closes of Tue 11-25",
        "Wed 11-26 day 2 of 11-24: closes of Tue 11-25",
        "Thu 11-27 day 10 of 11-17: closes of Wed 11-26",
        "Thu 11-27 day 3 of 11-24: closes of Wed 11-26",
        "Fri 11-28 day 11 of 11-17: MARKET_CLOSED",
        "Fri 11-28 day 4 of 11-24: MARKET_CLOSED",
        "Sat 11-29 day 12 of 11-17: closes of Fri 11-28",
        "Sat 11-29 day 5 of 11-24: closes of Fri 11-28",
        "Sun 11-30 day 13 of 11-17: MARKET_CLOSED",
        "Sun 11-30 day 6 of 11-24: MARKET_CLOSED",
        "Mon 12-01 day 14 of 11-17: MARKET_CLOSED",
        "Mon 12-01 day 7 of 11-24: MARKET_CLOSED",
        "Tue 12-02 day 8 of 11-24: closes of Mon 12-01",
    ]
    on_the_half_day = [one for one in fortnights if one["trading_day"] == half]
    assert [one["benchmark"] for one in on_the_half_day] == [series["SPY"].closes[half]] * 2


# SIGTERM in the middle of a question

# What a running job may take to end, and what open requests may before it.
DRAIN, REQUESTS = 20, 10
CUT = (False, "No answer was stored: whoever asked was cut off.", False)


def cut(record: Record) -> float:
    """
    Run until a question is sent and gets no answer, then stop the process; return how long that
    took.
    """
    faults = record.folder / "faults.json"
    faults.write_text(json.dumps([{"provider": "openai", "fault": "hang"}]))
    questions_before = record.questions
    process = subprocess.Popen(
        [
            ALPHA_MONDAY,
            "rehearse",
            "--single",
            "--weeks",
            "1",
            "--until",
            "2026-10-05",
            "--calm",
            "--no-serve",
            "--faults",
            faults,
        ],
        cwd=record.folder,
        env=environment(DATABASE_URL=record.address),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until(lambda: record.questions > questions_before, 30)
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        assert process.wait(60) == 143
        return time.monotonic() - began
    finally:
        process.kill()
        process.wait()


def outcomes(record: Record) -> list[tuple[Any, ...]]:
    """
    Return the outcomes of the questions from the rows and from the journal: accepted, why not,
    and whether there was an answer.
    """
    rows = record.rows(
        "SELECT accepted, refusal, answered_at IS NOT NULL AS answered FROM generations ORDER "
        "BY attempt"
    )
    journal = [
        json.loads(one["content"])["generation"]
        for one in record.rows("SELECT content FROM journal WHERE kind = 'GENERATION' ORDER BY seq")
    ]
    journaled = [
        (one["accepted"], one.get("refusal"), "answered_at" in one)
        for one in journal
        if "accepted" in one
    ]
    assert len(journal) == 2 * len(journaled)
    assert journaled == [
        (str(one["accepted"]).lower(), one["refusal"], one["answered"]) for one in rows
    ]
    return [tuple(one.values()) for one in rows]


def kinds_of_entries(record: Record) -> list[str]:
    """Return the kinds of the journal's entries."""
    return [one["kind"] for one in record.rows("SELECT kind::text FROM journal ORDER BY seq")]


def weekly_jobs(record: Record) -> list[tuple[str, int]]:
    return [
        (one["status"], one["attempts"])
        for one in record.rows(
            "SELECT status::text, attempts FROM queue.procrastinate_jobs WHERE task_name = "
            "'pick_week' ORDER BY id"
        )
    ]


@pytest.mark.long
def test_a_stop_in_the_middle_of_a_question(tmp_path, create):
    """
    The process stops within its time limit, and the job waits. When the question has expired, the
    next process sends another one.
    """
    monday = Record(tmp_path, create())
    took = cut(monday)
    print(f"gone {took:.1f} s after SIGTERM")
    assert took < DRAIN + REQUESTS
    assert weekly_jobs(monday) == [("todo", 1)]
    assert monday.rows("SELECT accepted FROM generations") == [{"accepted": None}]
    assert kinds_of_entries(monday) == ["GENESIS", "SERIES", "GENERATION"]
    assert monday.rows("SELECT FROM operations.provider_requests") == []
    assert monday.rows("SELECT FROM queue.procrastinate_workers") == []  # it signed off

    monday.live(1, date(2026, 10, 5))
    assert monday.questions == 2
    assert outcomes(monday) == [CUT, (True, None, True)]
    first, second = monday.rows("SELECT asked_at FROM generations ORDER BY attempt")
    assert timedelta(seconds=185) <= second["asked_at"] - first["asked_at"] < timedelta(seconds=240)
    assert {status for status, _ in weekly_jobs(monday)} == {"succeeded"}
    kinds = kinds_of_entries(monday)
    # The claim and the end of the first question, then those of the second.
    assert kinds[2:10] == [*["GENERATION"] * 4, *["READINGS"] * 4]
    assert kinds[10] == "BATCH"
    ledger = monday.rows(
        "SELECT outcome, count(*) FROM operations.provider_requests GROUP BY outcome"
    )
    assert [tuple(one.values()) for one in ledger] == [("answered", 4)]
    assert run("verify", cwd=tmp_path, DATABASE_URL=monday.address).returncode == 0


@pytest.mark.long
def test_three_stops_in_the_middle_of_a_question(tmp_path, create):
    """
    A Monday has only three questions, even if a stop interrupted them: it has failed, with the
    reason.
    """
    monday = Record(tmp_path, create())
    for _ in range(3):
        assert cut(monday) < DRAIN + REQUESTS
    monday.live(1, date(2026, 10, 5))
    assert monday.questions == 3
    assert outcomes(monday) == [CUT] * 3
    (batch,) = monday.rows("SELECT status::text, failure_reason, failure FROM batches")
    assert tuple(batch.values()) == (
        "failed",
        "PROVIDER_ERROR",
        f"3 questions brought no usable answer. The last: {CUT[1]}",
    )
    assert run("verify", cwd=tmp_path, DATABASE_URL=monday.address).returncode == 0
