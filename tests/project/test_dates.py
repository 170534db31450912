"""What `make test-dates` runs, and how it moves the date."""

import re
import signal
import subprocess
import sys
from datetime import UTC, datetime, time, timedelta

import isolation
import pytest
from commands import environment
from dates import moved_clock, run
from document_text import HOUSE
from processes import until

from app.database import embedded
from app.domain.calendar import NEW_YORK, Calendar


# The kind: each way in which a test can depend on the real time. A manual list would miss each of
# them.
@pytest.mark.parametrize(
    "text",
    [
        "at = RealClock().now()",
        "today = datetime.now(UTC).date()",
        "day = date.today()",
        "began = time.time()",
        "conn.execute('SELECT now()')",
        'with served("rehearse", cwd=tmp_path):',
        'done = run("status", cwd=tmp_path)',
        "result = commanded('status')",
        "with serving(tmp_path, **settings) as one:",
        "with standins(tmp_path, now) as url:",
        "with EmbeddedPostgres(folder) as postgres:",
        "subprocess.run([ALPHA_MONDAY, 'show'])",
    ],
)
def test_tests_of_the_real_time_are_run_at_other_dates(text):
    """Whichever way the test reads the time."""
    assert run.USES_REAL_TIME.search(text)


@pytest.mark.parametrize(
    "text",
    [
        "clock.time = new_york(MONDAY)",
        "at = harness.clock.now()",
        "asyncio.run(ask())",
        "what a rehearsal writes",
        "assert returns.of(a, b) == 1",
        "returned(x)",
    ],
)
def test_what_sets_its_own_clock_is_not(text):
    """Such a test has the same result at every date."""
    assert not run.USES_REAL_TIME.search(text)


def test_the_selection():
    """
    It contains the tests that use the real clock. Each exception exists, and would be selected
    otherwise.
    """
    tests = HOUSE / "tests"
    chosen = [str(path.relative_to(tests)) for path in run.select_tests()]
    assert set(chosen[: len(run.RUN_FIRST)]) == set(run.RUN_FIRST)
    assert {
        "integration/commands/test_cli.py",
        "integration/jobs/test_queue.py",
        "integration/jobs/test_weekly.py",
        "integration/web/test_health.py",
        "scenarios/test_many_machines.py",
    } <= {*chosen}
    files = {
        str(path.relative_to(tests)): path
        for folder in run.FOLDERS
        for path in (tests / folder).rglob("test_*.py")
    }
    assert run.EXCLUDED.keys() <= files.keys()
    assert all(run.USES_REAL_TIME.search(files[name].read_text()) for name in run.EXCLUDED)
    for path, _, name in (deselected.partition("::") for deselected in run.DESELECTED):
        assert re.search(rf"^(async )?def {name}\(", (HOUSE / path).read_text(), re.MULTILINE)


def test_the_dates_are_what_they_are_called():
    """
    The run passes a holiday, both changes of the clocks, a Monday at nine, and the turn of the
    year.
    """
    local = {name: date.moment.astimezone(NEW_YORK) for name, date in run.DATES.items()}
    before = {
        name: (date.moment - run.LEAD_TIME).astimezone(NEW_YORK) for name, date in run.DATES.items()
    }
    assert local["holiday"].weekday() < 5
    assert not Calendar().is_session(local["holiday"].date())
    shifts = {name: local[name].utcoffset() - before[name].utcoffset() for name in local}
    assert shifts["spring"] == timedelta(hours=1)
    assert shifts["autumn"] == timedelta(hours=-1)
    assert (local["monday"].weekday(), local["monday"].time()) == (0, time(9))
    assert (local["monday"].date() - local["spring"].date()) == timedelta(days=1)
    assert local["new-year"].year == before["new-year"].year + 1


@pytest.mark.parametrize(
    ("text", "at"),
    [
        pytest.param("2026-12-02", datetime(2026, 12, 2, 12, tzinfo=UTC), id="a day: its noon"),
        pytest.param("2028-02-29T14:00", datetime(2028, 2, 29, 14, tzinfo=UTC), id="a time in UTC"),
        pytest.param("2026-12-02T00:00", datetime(2026, 12, 2, tzinfo=UTC), id="midnight"),
        pytest.param(
            "2026-12-02T09:00-05:00", datetime(2026, 12, 2, 14, tzinfo=UTC), id="a time elsewhere"
        ),
        pytest.param("2026-02-29", None, id="a day that is not there"),
        pytest.param("tomorrow", None, id="a word"),
        pytest.param("", None, id="an empty text"),
    ],
)
def test_moments(text, at):
    """A date alone means its noon; an invalid date is refused in a sentence."""
    if at:
        assert moved_clock.parse_moment(text) == at
        return
    with pytest.raises(moved_clock.ClockError, match="is no date such as 2026-12-02"):
        moved_clock.parse_moment(text)


@pytest.mark.parametrize(
    ("missing", "says"),
    [
        pytest.param(
            "FOLDERS",
            "libfaketime is missing. On Debian: apt-get install faketime",
            id="the library",
        ),
        pytest.param(
            "CC",
            "A C compiler is missing. On Debian: apt-get install gcc libc6-dev",
            id="the compiler",
        ),
    ],
)
def test_what_is_missing_is_one_line(monkeypatch, missing, says):
    """The line says what to install."""
    monkeypatch.setattr(moved_clock, "FOLDERS", ())
    if missing == "CC":
        monkeypatch.setenv("CC", "no-such-compiler")
    else:
        monkeypatch.setattr(moved_clock, "_compile_waits", lambda: "")
    with pytest.raises(moved_clock.ClockError) as refused:
        moved_clock.clock_variables(datetime.now(UTC))
    assert str(refused.value) == says


def test_a_moved_clock_is_passed_on_to_every_process(monkeypatch):
    """
    The tests, the commands, and Postgres have the same date; without a moved clock, no variable is
    passed on.
    """
    clock_variables = {
        "LD_PRELOAD": "/nowhere/libfaketime.so",
        "FAKETIME": "+5s",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    for name in [*clock_variables, *isolation.moved_clock()]:
        monkeypatch.delenv(name, raising=False)
    assert not isolation.moved_clock()
    assert clock_variables.keys().isdisjoint({**environment(), **embedded._environment()})
    for name, value in clock_variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PGHOST", "hostile")
    assert isolation.moved_clock() == clock_variables
    assert clock_variables.items() <= environment().items()
    assert clock_variables.items() <= embedded._environment().items()
    assert "PGHOST" not in embedded._environment()
    monkeypatch.delenv("FAKETIME")  # another preloaded library is not ours
    assert "LD_PRELOAD" not in {**environment(), **embedded._environment()}


RUN = [sys.executable, str(HOUSE / "dev" / "dates" / "run.py")]


# The kind: an impossible request, which the command refuses before any test is run.
@pytest.mark.parametrize(
    ("variables", "arguments", "says"),
    [
        pytest.param(
            {},
            ["--at", "someday"],
            "'someday' is no date such as 2026-12-02, or 2026-12-0",
            id="a word",
        ),
        pytest.param({}, ["--at", ""], "'' is no date such as", id="an empty moment"),
        pytest.param(
            {},
            ["--at", "2027-02-29"],
            "'2027-02-29' is no date such as",
            id="a day that is not there",
        ),
        pytest.param(
            {},
            ["--at", "9999-12-31T23:00-05:00"],
            "-05:00 is too far away: choose",
            id="after all dates",
        ),
        pytest.param(
            {},
            ["--at", "0001-01-01"],
            "choose a moment from 2000 to 2199.",
            id="before a clock can show",
        ),
        pytest.param({}, ["--at", "1969-12-31"], "1969-12-31 is too far away", id="before Unix"),
        pytest.param(
            {},
            ["--at", "2999-01-01"],
            "2999-01-01 is too far away",
            id="after what a clock can show",
        ),
        pytest.param(
            {"TEST_DATABASE_URL": "postgresql://localhost:1/x"},
            ["--date", "holiday"],
            "TEST_DATABASE_URL is set, and the clock of its server cannot be moved. "
            "Unset it: the tests then start a Postgres of their own at each date.",
            id="another's server",
        ),
        pytest.param(
            {"FAKETIME": "+1d"},
            [],
            "FAKETIME must not be set: this command moves",
            id="a moved clock",
        ),
        pytest.param(
            {"FAKETIME_SKIP_CMDS": "postgres", "FAKETIME_NO_CACHE": "1"},
            [],
            "FAKETIME_NO_CACHE and FAKETIME_SKIP_CMDS must not be set",
            id="settings of a moved clock",
        ),
        pytest.param({"CC": "no-such-compiler"}, [], "A C compiler is missing.", id="no compiler"),
    ],
)
def test_what_cannot_be_done_is_one_line(variables, arguments, says):
    """The command exits with 1 before any test is run."""
    surroundings = {**environment(), **variables}
    command = [*RUN, *arguments]
    done = subprocess.run(
        command, env=surroundings, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert says in done.stderr


SLOW = """
import pathlib, time, pytest

@pytest.fixture
def made():
    yield
    pathlib.Path("{folder}/cleaned").touch()

def test_slow(made):
    pathlib.Path("{folder}/begun").touch()
    time.sleep(60)
"""


# At today's date: `make test` needs no libfaketime.
UNMOVED = "from dates import run; run.clock_variables = lambda at: dict(); run.main()"


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name
)
def test_it_stops_after_its_tests_have_cleaned_up(tmp_path, number):
    """The exit code names the signal, and the summary the dates that were not run."""
    slow = tmp_path / "test_slow.py"
    slow.write_text(SLOW.format(folder=tmp_path))
    command = [
        sys.executable,
        "-c",
        UNMOVED,
        "--date",
        "monday",
        "--date",
        "holiday",
        "--",
        "-n",
        "0",
        str(slow),
    ]
    surroundings = environment(PYTHONPATH=str(HOUSE / "dev"))
    with subprocess.Popen(command, env=surroundings, stdout=subprocess.PIPE, text=True) as process:
        until(lambda: (tmp_path / "begun").exists(), within=60)
        process.send_signal(number)
        output = process.communicate(timeout=60)[0]
    assert process.returncode == 128 + number
    assert output.splitlines()[-3:] == [
        "monday     not run to its end",
        "holiday    not run to its end",
        f"Stopped by {number.name}.",
    ]
    assert (tmp_path / "cleaned").exists()
