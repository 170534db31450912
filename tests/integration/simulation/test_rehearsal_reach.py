"""
How far back a rehearsal can go: the simulated market and a real provider have different limits.
Also: which options for provider simulators are refused if a provider is not simulated.
"""

import json
import re
from datetime import UTC, date, datetime, timedelta

import psycopg
import pytest
from commands import run, standins
from job_context import ALPHA_VANTAGE_KEY, OPENAI_KEY
from provider_server import ProviderServer, Reply, refusing, says

from app.core import settings
from app.domain.calendar import NEW_YORK, Calendar
from app.errors import ConfigurationError
from app.simulation import rehearsal

NOW = datetime(2026, 12, 2, 15, tzinfo=UTC)


# The kind: where the bound of a span comes from. Each case is asked with simulated prices and with
# real ones.
@pytest.mark.parametrize(
    ("weeks", "until", "simulated", "real"),
    [
        pytest.param(12, None, date(2026, 9, 14), date(2026, 9, 14), id="the newest weeks"),
        pytest.param(
            12,
            "2018-02-06",
            "begins on Monday 2023-06-05. Choose a later",
            date(2017, 11, 20),
            id="2018",
        ),
        pytest.param(
            520, None, "at most --weeks 183;", date(2016, 12, 19), id="ten years, until now"
        ),
        pytest.param(184, None, "at most --weeks 183;", date(2023, 5, 29), id="one week too many"),
        pytest.param(183, None, date(2023, 6, 5), date(2023, 6, 5), id="just not too many"),
        pytest.param(
            1, "2023-06-05", date(2023, 6, 5), date(2023, 6, 5), id="the market's first Monday"
        ),
        pytest.param(
            1, "2023-06-11", date(2023, 6, 5), date(2023, 6, 5), id="the market's first Sunday"
        ),
        pytest.param(
            1, "2023-06-04", "Choose a later --until;", date(2023, 5, 29), id="the day before"
        ),
        pytest.param(
            2,
            "2023-06-05",
            "a later --until, or at most --weeks 1;",
            date(2023, 5, 29),
            id="a week before",
        ),
        pytest.param(
            520,
            "2018-02-06",
            "Choose a later --until;",
            date(2008, 2, 25),
            id="ten years, until 2018",
        ),
        pytest.param(
            1, "2026-11-26", date(2026, 11, 23), date(2026, 11, 23), id="until Thanksgiving"
        ),
        pytest.param(1, "2026-11-29", date(2026, 11, 23), date(2026, 11, 23), id="until a Sunday"),
        pytest.param(
            1, "2026-09-07", date(2026, 9, 7), date(2026, 9, 7), id="until Labor Day, a Monday"
        ),
        pytest.param(1, "2026-12-01", date(2026, 11, 30), date(2026, 11, 30), id="until yesterday"),
        pytest.param(
            1, "2026-12-02", "for example 2026-12-01.", "for example 2026-12-01.", id="until today"
        ),
        pytest.param(
            1, "2999-01-01", "a day before today", "a day before today", id="until the future"
        ),
        pytest.param(
            1,
            "9999-12-31",
            "a day before today",
            "a day before today",
            id="until the last day of all",
        ),
        pytest.param(
            1,
            "0001-01-01",
            "market begins",
            "begins on Monday 1970-01-05 or later.",
            id="the first day",
        ),
        pytest.param(
            520, "1970-02-02", "market begins", "at most --weeks 5.", id="weeks before all dates"
        ),
    ],
)
def test_the_span(weeks, until, simulated, real):
    """Gives the first Monday, or the reason for a refusal."""
    day = until and date.fromisoformat(until)
    for has_real_prices, expected in ((False, simulated), (True, real)):
        if isinstance(expected, date):
            span = rehearsal.choose_span(weeks, day, NOW, has_real_prices=has_real_prices)
            assert (span.begin + timedelta(minutes=1)).date() == expected
            continue
        with pytest.raises(ConfigurationError, match=re.escape(expected)) as refusal:
            rehearsal.choose_span(weeks, day, NOW, has_real_prices=has_real_prices)
        assert not (has_real_prices and "simulated market" in str(refusal.value))


# The kind: moments at which the date in New York is not the one in UTC, or has just become it.
@pytest.mark.parametrize(
    ("now", "newest"),
    [
        pytest.param("2026-11-29T00:00:00", "2026-11-27", id="midnight in UTC"),
        pytest.param(
            "2026-11-29T04:59:59", "2026-11-27", id="the last second of the day in New York"
        ),
        pytest.param("2026-11-29T05:00:00", "2026-11-28", id="midnight in New York"),
        pytest.param(
            "2027-03-14T04:59:59", "2027-03-12", id="before the night in which summer time begins"
        ),
        pytest.param("2027-03-15T04:00:00", "2027-03-14", id="the first midnight of summer time"),
        pytest.param(
            "2027-11-07T03:59:59", "2027-11-05", id="before the night in which summer time ends"
        ),
        pytest.param(
            "2027-11-08T04:59:59", "2027-11-06", id="the last second of a day of 25 hours"
        ),
        pytest.param("2026-12-31T23:59:00", "2026-12-30", id="the last minute of a year in UTC"),
        pytest.param(
            "2027-01-01T04:59:59", "2026-12-30", id="a new year that has not reached New York"
        ),
        pytest.param("2028-03-01T04:59:59", "2028-02-28", id="29 February in New York"),
    ],
)
def test_today_is_new_yorks(now, newest):
    """
    A rehearsal ends at the latest with yesterday in New York, and the refusal of a later day says
    so.
    """
    at, day = datetime.fromisoformat(now).replace(tzinfo=UTC), date.fromisoformat(newest)
    assert rehearsal.choose_span(1, day, at).until.astimezone(NEW_YORK).date() == day
    with pytest.raises(ConfigurationError) as refusal:
        rehearsal.choose_span(1, day + timedelta(days=1), at)
    assert (
        str(refusal.value)
        == f"--until must be a day before today in New York, for example {newest}."
    )


# What a price provider answers to the question how far its bars reach.


def bars(first: date, last: date, price: str = "100.00") -> Reply:
    days, sessions = (
        [first + timedelta(days=number) for number in range((last - first).days + 1)],
        Calendar(),
    )
    named = {
        str(day): {"1. open": price, "4. close": price} for day in days if sessions.is_session(day)
    }
    return says({"Meta Data": {"2. Symbol": "SPY"}, "Time Series (Daily)": named})


GOOD = bars(date(2018, 1, 2), date(2018, 4, 30))
QUOTA = says(
    {
        "Information": f"Your API key is {ALPHA_VANTAGE_KEY}. Our standard API rate limit is 25 "
        "requests per day."
    }
)
BURST = says(
    {
        "Information": "Please consider spreading out your free API requests more sparingly (1 "
        "request per second)."
    }
)
SPAN = rehearsal.choose_span(1, date(2018, 2, 6), NOW, has_real_prices=True)
QUICKLY = (0.05, 0.05)


class Probed:
    """The result of asking a provider how far back its bars go."""

    def __init__(self, database: str) -> None:
        self.database, self.lines, self.refusal = database, [], ""

    async def ask(self, url: str) -> None:
        """Ask the server at `url`, with two short pauses."""
        self.lines, self.refusal = [], ""
        keys = {"OPENAI_API_KEY": OPENAI_KEY, "ALPHA_VANTAGE_API_KEY": ALPHA_VANTAGE_KEY}
        limits = {"ALPHA_VANTAGE_PER_SECOND": "100", "ALPHA_VANTAGE_PER_MINUTE": "100"}
        ours = settings.load(
            {"DATABASE_URL": self.database, "ALPHA_VANTAGE_BASE_URL": url, **keys, **limits}
        )
        try:
            await rehearsal.refuse_out_of_reach(
                settings=ours, span=SPAN, report=self.lines.append, pauses=QUICKLY
            )
        except ConfigurationError as error:
            self.refusal = str(error)

    def left(self) -> list[int]:
        """Return the number of rows of the simulated clock and of the ledger."""
        with psycopg.connect(self.database) as conn:
            tables = ("told.clock", "operations.provider_requests")
            return [conn.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables]


@pytest.fixture
def probed(database) -> Probed:
    return Probed(database)


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param([QUOTA], id="a spent quota, once"),
        pytest.param([QUOTA, QUOTA], id="a spent quota, twice"),
        pytest.param([BURST], id="too many a second"),
        pytest.param(
            [Reply(status=429, headers={"retry-after": "1800"})], id="429, for half an hour"
        ),
        pytest.param([Reply(status=503)], id="503"),
        pytest.param([Reply(status=0)], id="no answer"),
        pytest.param([Reply(b"<html>")], id="a page"),
        pytest.param([says({})], id="an empty object"),
        pytest.param([says({"Error Message": "Invalid API call."})], id="an unknown ticker, once"),
        pytest.param(
            [bars(date(2018, 1, 2), date(2018, 4, 30), "free")], id="rows that cannot be read"
        ),
        pytest.param([QUOTA, Reply(status=500)], id="one after another"),
    ],
)
async def test_an_unusable_answer_is_requested_again(probed, bad):
    """The provider is asked again, which is printed, and the rehearsal begins."""
    async with ProviderServer() as provider:
        provider.play(*bad, GOOD)
        await probed.ask(provider.url)
        assert probed.refusal == ""
        assert len(provider.requests) == len(bad) + 1
    assert len(probed.lines) == len(bad)
    assert all(
        "Next attempt in 0 s." in line and ALPHA_VANTAGE_KEY not in line for line in probed.lines
    )
    assert probed.left()[0] == 1


@pytest.mark.parametrize(
    ("always", "says_why", "attempts"),
    [
        pytest.param(QUOTA, "Alpha Vantage", 3, id="a spent quota"),
        pytest.param(
            Reply(status=429, headers={"retry-after": "7200"}), "answered 429", 3, id="429"
        ),
        pytest.param(Reply(status=500), "answered 500", 3, id="500"),
        pytest.param(Reply(status=0), "cannot be reached", 3, id="no answer"),
        pytest.param(Reply(b"[]"), "did not answer with a JSON object", 3, id="a list"),
        pytest.param(
            says({"Error Message": "Invalid API call."}),
            "BENCHMARK_SYMBOL",
            3,
            id="an unknown ticker",
        ),
        pytest.param(
            says({"Error Message": "the parameter apikey is invalid or missing."}),
            "key",
            1,
            id="a bad key",
        ),
        pytest.param(
            bars(date(2018, 3, 1), date(2018, 4, 30)),
            "begin on 2018-03-01, after",
            1,
            id="bars that begin too late",
        ),
        pytest.param(
            bars(date(2017, 3, 1), date(2017, 4, 28)),
            "end on 2017-04-28, before",
            1,
            id="bars that end too early",
        ),
    ],
)
async def test_a_provider_without_a_usable_answer(probed, always, says_why, attempts):
    """
    The check ends within a limited time, says why, and leaves nothing that would stop the next
    rehearsal.
    """
    async with ProviderServer() as provider:
        provider.play(always)
        for _ in range(2):
            provider.requests.clear()
            await probed.ask(provider.url)
            assert says_why in probed.refusal
            assert ALPHA_VANTAGE_KEY not in probed.refusal
            assert ("could not be read, in 3 attempts" in probed.refusal) == (attempts == 3)
            assert len(provider.requests) == attempts
            assert probed.left() == [0, 0]
        provider.play(GOOD)
        await probed.ask(provider.url)
        assert probed.refusal == ""


async def test_a_server_that_is_not_there(probed):
    """The message names its address."""
    with refusing() as url:
        await probed.ask(url)
    assert "The bars of ALPHA_VANTAGE_BASE_URL could not be read" in probed.refusal
    assert "ConnectError" in probed.refusal


BOTH = {
    "OPENAI_API_KEY": "x",
    "OPENAI_BASE_URL": "http://127.0.0.1:9/v1",
    "ALPHA_VANTAGE_API_KEY": "x",
}
BOTH |= {"ALPHA_VANTAGE_BASE_URL": "http://127.0.0.1:9"}
PRICES = {name: text for name, text in BOTH.items() if "ALPHA" in name}
MODEL = {name: text for name, text in BOTH.items() if "OPENAI" in name}


# The kind: an option, a limit or a key of simulated providers where one is not simulated, and the
# reverse.
@pytest.mark.parametrize(
    ("options", "environment", "code", "says_what"),
    [
        pytest.param(["--odd", "a"], BOTH, 2, "--odd would have no effect", id="odd, both set"),
        pytest.param(["--calm"], BOTH, 2, "--calm would have no effect", id="calm, both set"),
        pytest.param(
            ["--faults", "prices.json"],
            BOTH,
            2,
            "--faults would have no effect",
            id="faults, both set",
        ),
        pytest.param(
            ["--calm", "--faults", "prices.json"],
            BOTH,
            2,
            "--calm and --faults would",
            id="two options, both set",
        ),
        pytest.param(
            ["--faults", "prices.json"],
            PRICES,
            2,
            "has faults of alphavantage",
            id="faults of real prices",
        ),
        pytest.param(
            ["--faults", "model.json"],
            MODEL,
            2,
            "has faults of openai",
            id="faults of a real model",
        ),
        pytest.param(
            ["--faults", "bad.json"], PRICES, 1, "is not a provider", id="faults of no provider"
        ),
        pytest.param(
            ["--until", "2018-02-06"],
            MODEL,
            1,
            "The simulated market begins",
            id="only the model set",
        ),
        pytest.param(["--weeks", "520"], {}, 1, "at most --weeks", id="none set, ten years"),
        pytest.param(
            ["--until", "2018-02-06"], {}, 1, "The simulated market begins", id="none set, 2018"
        ),
        pytest.param(
            [],
            {"OPENAI_BASE_URL": BOTH["OPENAI_BASE_URL"]},
            1,
            "OPENAI_API_KEY must be",
            id="no model key",
        ),
        pytest.param(
            [],
            {"ALPHA_VANTAGE_BASE_URL": "http://127.0.0.1:9"},
            1,
            "ALPHA_VANTAGE_API_KEY must be",
            id="no price key",
        ),
    ],
)
def test_options_without_an_effect_are_refused(
    tmp_path, commanded, options, environment, code, says_what
):
    """The error is one line, before any process is started."""
    for name, provider in (("prices", "alphavantage"), ("model", "openai"), ("bad", "a-third")):
        fault = "quota" if name == "prices" else "bad_key"
        (tmp_path / f"{name}.json").write_text(json.dumps([{"provider": provider, "fault": fault}]))
    done = commanded("rehearse", "--no-serve", *options, **environment)
    assert done.exit_code == code, done.error
    assert says_what in " ".join(done.error.replace("│", " ").split())
    assert "Traceback" not in done.error
    assert not (tmp_path / ".alpha-monday").exists()


def test_both_providers_decide_how_far_back(tmp_path, create):
    """A year before the simulated market is rehearsed with servers that have its prices."""
    with standins(tmp_path, "2023-05-10T14:00:00+00:00") as url:
        environment = {
            "OPENAI_BASE_URL": f"{url}/v1",
            "OPENAI_API_KEY": "x",
            "ALPHA_VANTAGE_BASE_URL": url,
        }
        environment |= {"ALPHA_VANTAGE_API_KEY": "x", "DATABASE_URL": create()}
        weeks = ("--weeks", "1", "--until", "2023-05-09")
        done = run("rehearse", *weeks, "--no-serve", cwd=tmp_path, **environment)
    assert done.returncode == 0, done.stderr
    assert "Rehearsed: 1 Monday, 2023-05-08 to 2023-05-08" in done.stderr
