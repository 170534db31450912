"""
Rehearsals of several series: two models and a control, an operator's own file, and a long one in
which a model retires and another one joins.

The record is checked from outside: by the command, from its database and from its address, and by
the independent verifier.
"""

import json
from collections import Counter
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest
from commands import run, served
from independent_verifier.verifier import verify as verify_from_outside

from app.core import universe
from app.domain.calendar import Calendar
from app.simulation.market import Market, find_share

NEW_YORK = ZoneInfo("America/New_York")
# A Friday, so that the last Monday's batch is active.
UNTIL = date(2026, 10, 30)
SERIES = ("dice", "main", "second")
# What the plan allows with two models and a control: the benchmark, and nine shares each of this
# Monday and of the one before.
CLOSES_A_WEEKDAY = 1 + 3 * 3 * 2
PER_DAY = 25


class Rehearsed:
    """A rehearsal that is served: its address, its database and its folder."""

    def __init__(self, url: str, address: str, folder: Path, weeks: int) -> None:
        self.url, self.address, self.folder, self.weeks = url, address, folder, weeks

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        with psycopg.connect(self.address) as conn:
            return conn.execute(query.encode(), values).fetchall()

    @property
    def mondays(self) -> list[date]:
        """Return the Mondays of the rehearsal, the oldest one first."""
        newest = UNTIL - timedelta(days=UNTIL.weekday())
        return [newest - timedelta(weeks=back) for back in reversed(range(self.weeks))]

    @property
    def requests(self) -> list[dict[str, Any]]:
        """Return the requests that the simulators received, from their log."""
        return requests(self.folder)


def requests(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / ".alpha-monday" / "requests.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def price_requests_by_day(folder: Path) -> Counter[date]:
    """Return the number of price requests of each day in New York."""
    return Counter(
        datetime.fromisoformat(one["at"]).astimezone(NEW_YORK).date()
        for one in requests(folder)
        # A machine under load may deliver two requests within the second that they were sent apart.
        if one["provider"] == "alphavantage" and one["refused"] != "burst"
    )


@pytest.fixture(
    scope="module",
    params=[pytest.param(weeks, marks=pytest.mark.long) for weeks in (2, 12)],
    ids="{} weeks".format,
)
def rehearsed(request, tmp_path_factory, create) -> Iterator[Rehearsed]:
    """Rehearse two models and a control, and serve them."""
    folder, address = tmp_path_factory.mktemp("rehearsal"), create()
    options = ("--weeks", request.param, "--until", UNTIL, "--calm")
    with served("rehearse", *options, cwd=folder, DATABASE_URL=address) as url:
        yield Rehearsed(url, address, folder, request.param)


def test_every_monday_is_complete(rehearsed):
    """Each series has a batch with three picks on each Monday, made in the first minutes."""
    batches = rehearsed.rows(
        "SELECT run_date, series, status, late, created_at, "
        "(SELECT count(*) FROM picks WHERE batch_id = batches.id) "
        "FROM batches ORDER BY run_date, series"
    )
    assert [(monday, series) for monday, series, *_ in batches] == [
        (monday, series) for monday in rehearsed.mondays for series in SERIES
    ]
    for monday, _, status, late, created_at, picks in batches:
        is_over = monday + timedelta(days=14) <= UNTIL
        assert (status, late, picks) == ("completed" if is_over else "active", False, 3)
        # At most five requests a minute are allowed, and a Monday needs ten.
        made = created_at.astimezone(NEW_YORK)
        assert made.date() == monday
        assert (made.hour, made.minute) <= (9, 4)
    checkpoints = rehearsed.rows(
        "SELECT count(*) FROM checkpoints JOIN batches ON batches.id = batch_id "
        "WHERE day > 0 AND checkpoints.status = 'skipped' AND skip_reason <> 'MARKET_CLOSED'"
    )
    assert checkpoints == [(0,)]


def test_the_models_have_different_habits(rehearsed):
    """The second model is careful: its probabilities are near a half. The control states none."""
    probabilities = {
        series: (lowest, highest)
        for series, lowest, highest in rehearsed.rows(
            "SELECT series, min(probability), max(probability) FROM picks "
            "JOIN batches ON batches.id = batch_id GROUP BY 1"
        )
    }
    assert probabilities["dice"] == (None, None)
    assert probabilities["second"][0] >= 51
    assert probabilities["second"][1] <= 62
    assert probabilities["main"][1] > 62
    answers = rehearsed.rows("SELECT DISTINCT series, answered_model FROM generations ORDER BY 1")
    assert answers == [
        ("dice", None),
        ("main", "gpt-5.4-mini-2026-03-17"),
        ("second", "claude-opus-4-8"),
    ]


def test_the_verifiers_agree(rehearsed):
    """The command, from the database and from the address, and the independent verifier."""
    done = run("verify", "--rehearsal", cwd=rehearsed.folder, DATABASE_URL=rehearsed.address)
    assert done.returncode == 0, done.stderr
    assert "Everything fits: " in done.stdout
    done = run("verify", "--from", rehearsed.url, cwd=rehearsed.folder)
    assert done.returncode == 0, done.stderr
    summary = verify_from_outside(rehearsed.url)
    assert f"Everything fits: {summary.entries:,} entries, " in done.stdout


@pytest.mark.long
def test_the_requests_of_a_day(rehearsed, tmp_path_factory, create):
    """
    Three series stay within the plan and the quota, and need less than three times one series:
    readings are shared.
    """
    several = price_requests_by_day(rehearsed.folder)
    alone = tmp_path_factory.mktemp("alone")
    options = ("--single", "--weeks", rehearsed.weeks, "--until", UNTIL, "--calm", "--no-serve")
    done = run("rehearse", *options, cwd=alone, DATABASE_URL=create())
    assert done.returncode == 0, done.stderr
    single = price_requests_by_day(alone)
    for day in sorted(several):
        print(day, f"{day:%a}", several[day], "beside", single[day])
    assert max(several.values()) <= PER_DAY
    assert sum(several.values()) < 3 * sum(single.values())
    closes = Counter(
        datetime.fromisoformat(one["at"]).astimezone(NEW_YORK).date()
        for one in rehearsed.requests
        if one["function"] == "TIME_SERIES_DAILY" and one["refused"] is None
    )
    assert max(closes.values()) <= CLOSES_A_WEEKDAY
    refused = [one for one in rehearsed.requests if one["refused"] not in (None, "burst")]
    assert refused == []
    # Each share is requested once a day, also if several series picked it.
    asked = sorted(
        (one["at"][:10], one["function"], one["symbol"])
        for one in rehearsed.requests
        if one["provider"] == "alphavantage" and one["refused"] is None
    )
    assert [key for key, same in groupby(asked) if len(list(same)) > 1] == []


# A file of one's own


OWN_FILE = """
[main]
label = "GPT"
model = "gpt-5.4-mini"
reasoning_effort = "low"

[claude]
base_url = "https://api.anthropic.com/v1/"
key_from = "A_KEY_THAT_IS_NOT_SET"
model = "claude-opus-4-8"

[router]
base_url = "https://openrouter.ai/api/v1"
key_from = "A_KEY_THAT_IS_NOT_SET"
model = "qwen/qwen4-max"
extra_body = { provider = { require_parameters = true } }

[deep]
base_url = "https://api.deepseek.com/v1"
key_from = "A_KEY_THAT_IS_NOT_SET"
model = "deepseek-reasoner"

[own]
base_url = "https://models.example.org/v1"
key_from = "A_KEY_THAT_IS_NOT_SET"
model = "some-model"
"""


@pytest.mark.parametrize("by_setting", [False, True], ids=["--series", "SERIES_FILE"])
@pytest.mark.long
def test_a_file_of_ones_own(tmp_path, create, by_setting):
    """
    Each model is answered by the simulator of its kind of server, without a key. DeepSeek's refuses
    a schema as the real one does, so its Monday fails, and says why.
    """
    (tmp_path / "own.toml").write_text(OWN_FILE)
    address = create()
    options = ["--weeks", "1", "--until", "2026-10-26", "--calm", "--no-serve"]
    # Five series need more closes than the free key allows.
    settings = {"DATABASE_URL": address, "ALPHA_VANTAGE_PER_DAY": "31"}
    if by_setting:
        settings["SERIES_FILE"] = "own.toml"
    else:
        options += ["--series", "own.toml"]
    done = run("rehearse", *options, cwd=tmp_path, **settings)
    assert done.returncode == 0, done.stderr
    with psycopg.connect(address) as conn:
        batches = conn.execute(
            "SELECT series, status, failure_reason, failure FROM batches ORDER BY series"
        ).fetchall()
        profiles = conn.execute(
            "SELECT series, label, profile ->> 'base_url', profile ->> 'reasoning_effort', "
            "profile ->> 'extra_body' FROM profiles ORDER BY series"
        ).fetchall()
    assert [(name, status) for name, status, *_ in batches] == [
        ("claude", "active"),
        ("deep", "failed"),
        ("main", "active"),
        ("own", "active"),
        ("router", "active"),
    ]
    failed = next(failure for name, _, _, failure in batches if name == "deep")
    assert "This response_format type is unavailable now" in failed
    assert profiles == [
        ("claude", "claude-opus-4-8", "http://localhost/servers/anthropic/v1", None, None),
        ("deep", "deepseek-reasoner", "http://localhost/servers/deepseek/v1", None, None),
        ("main", "GPT", "http://localhost/servers/openai/v1", "low", None),
        ("own", "some-model", "http://localhost/servers/openai/v1", None, None),
        (
            "router",
            "qwen/qwen4-max",
            "http://localhost/servers/openrouter/v1",
            None,
            '{"provider":{"require_parameters":true}}',
        ),
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("[main]\nmodle = 'x'", "Did you mean model?", id="a typing error"),
        pytest.param("", "it has no series", id="empty"),
        pytest.param(
            None,
            "it cannot be read (No such file or directory). Set --series to the path of a TOML "
            "file.",
            id="no file",
        ),
        pytest.param("main: x", "it is no TOML", id="no TOML"),
        pytest.param("[main]\nmodel = 'x'\nkey = 'sk-abc'", "a key does not belong", id="a key"),
    ],
)
def test_a_bad_file(tmp_path, commanded, text, says):
    """It is refused in one line, before anything is started."""
    path = tmp_path / "bad.toml"
    if text is not None:
        path.write_text(text)
    done = commanded("rehearse", "--series", path, "--no-serve")
    assert done.exit_code == 1
    shown = " ".join(done.error.split())
    assert says in shown
    # The user gave the path with the option, so the line does not speak of the setting.
    assert f"--series ({path}): " in shown
    assert "SERIES_FILE" not in shown
    assert "Traceback" not in done.error
    assert "sk-abc" not in done.error
    assert not (tmp_path / ".alpha-monday").exists()


def test_a_bad_file_of_the_setting(tmp_path, commanded):
    """Without --series, the line names the setting."""
    done = commanded("rehearse", "--no-serve", SERIES_FILE=str(tmp_path / "missing.toml"))
    assert done.exit_code == 1
    shown = " ".join(done.error.split())
    assert f"SERIES_FILE ({tmp_path}/missing.toml): it cannot be read" in shown
    assert "--series" not in shown


def test_too_many_series_for_the_key(tmp_path, commanded):
    """The line names the option, too."""
    path = tmp_path / "own.toml"
    path.write_text("\n".join(f'[s{n}]\nkind = "random"' for n in range(5)))
    done = commanded("rehearse", "--series", path, "--no-serve")
    assert done.exit_code == 1
    assert "or take series out of --series." in " ".join(done.error.split())


@pytest.mark.parametrize("path", ["", " "])
def test_an_empty_path(commanded, path):
    """It is refused, and does not stand for a rehearsal of one series."""
    done = commanded("rehearse", "--series", path, "--no-serve")
    assert done.exit_code == 2
    assert "--series needs the path of a TOML file" in done.error


def test_one_series_and_a_file(commanded):
    """--single and --series contradict each other."""
    done = commanded("rehearse", "--single", "--series", "own.toml")
    assert done.exit_code == 2
    assert "contradict each other" in done.error


def test_every_share_of_the_universe_has_prices():
    """A control may draw each of them, and no simulated share but these is known."""
    market = Market(Calendar())
    for ticker in universe.load().tickers:
        assert find_share(ticker)
    for ticker in universe.load().tickers[::50]:
        assert len(market.bars(ticker, UNTIL)) == 100
    assert find_share("ZZZZ") is None


# A long rehearsal


@pytest.mark.long
def test_a_model_retires_and_another_one_joins(tmp_path, create):
    """
    The journal has an entry for each before the first question of its Monday. The fortnights of the
    retired series go on to their end.
    """
    address, weeks = create(), 26
    options = ("--weeks", weeks, "--until", UNTIL, "--calm")
    with served("rehearse", *options, cwd=tmp_path, DATABASE_URL=address) as url:
        rehearsed = Rehearsed(url, address, tmp_path, weeks)
        mondays = rehearsed.mondays
        retired, joined = str(mondays[12]), str(mondays[13])
        declared = rehearsed.rows(
            "SELECT content::json #>> '{series,name}', content::json #>> '{series,holds_from}', "
            "content::json #>> '{series,retired}' FROM journal WHERE kind = 'SERIES' ORDER BY seq"
        )
        first = str(mondays[0])
        assert declared == [
            ("main", first, None),
            ("second", first, None),
            ("dice", first, None),
            ("second", retired, "true"),
            ("third", joined, None),
        ]
        batches = rehearsed.rows(
            "SELECT series, min(run_date), max(run_date), count(*), "
            "count(*) FILTER (WHERE status = 'completed') FROM batches GROUP BY 1 ORDER BY 1"
        )
        assert batches == [
            ("dice", mondays[0], mondays[-1], 26, 24),
            ("main", mondays[0], mondays[-1], 26, 24),
            ("second", mondays[0], mondays[11], 12, 12),
            ("third", mondays[13], mondays[-1], 13, 11),
        ]
        several = price_requests_by_day(tmp_path)
        print(Counter(several.values()))
        done = run("verify", "--from", url, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        summary = verify_from_outside(url)
        assert f"Everything fits: {summary.entries:,} entries, " in done.stdout
        times = rehearsed.rows("SELECT at FROM operations.provider_requests ORDER BY at")
        for (earlier,), (later,) in zip(times, times[PER_DAY:], strict=False):
            assert later - earlier >= timedelta(days=1)
