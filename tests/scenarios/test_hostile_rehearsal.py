"""
Four weeks, or twelve with `make test-long`, with faulty providers, checked through the API.

The first rehearsal is the default of `alpha-monday rehearse`: the simulators fail by chance. In the
second, the keys come from the environment, and the providers do all they can to get the keys
recorded. Afterwards no key is stored or shown anywhere.
"""

import hashlib
import json
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime, time, timedelta
from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext
from pathlib import Path
from time import sleep
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import psycopg
import pytest
from commands import ALPHA_MONDAY, environment
from commands import standins as simulators_at
from judged import Series, series_of
from psycopg.sql import SQL, Identifier

from app.simulation.rehearsal import _SIMULATED_KEY

UNTIL = date(2026, 11, 22)
NEW_YORK = ZoneInfo("America/New_York")

REQUESTS = Path(".alpha-monday") / "requests.jsonl"

# Two keys that nothing else could spell.
OPENAI_KEY = "sk-proj-Zq7vXw0Kd2-used-at-openai"
ALPHA_VANTAGE_KEY = "QX7ZVW90KD3TOLDBYAV"

METRIC = """
id currentPrice splitFactor absoluteReturnPct vsBenchmarkPct directionalReturnPct alphaPct hit
returnFromOpenPct unusualMove ended pick { ticker }
close { id ticker tradingDay open close source readAt }
"""
BATCH = f"""
id runDate createdAt status late failureReason failure benchmarkSymbol benchmarkInitialPrice
tradingDay
picks {{
  id position ticker action reasoning initialPrice entryOpen ended
  initialClose {{ id ticker tradingDay open close source readAt }}
}}
checkpoints {{
  id day checkpointDate tradingDay status skipReason note takenAt skippedAt
  benchmarkPrice benchmarkSplitFactor benchmarkReturnPct
  metrics {{ {METRIC} }} corrections {{ id field ticker before after reason madeAt }}
}}
generations {{
  id attempt accepted refusal requestedModel answeredModel promptVersion systemPrompt userPrompt
  answer requestId promptTokens completionTokens askedAt answeredAt
}}
result {{ day }} latestCheckpoint {{ day }} nextCheckpointAt
"""


class Hostile:
    """
    A rehearsal that is served: its folder, its database, its API, and every response of the API.
    """

    weeks: int

    def __init__(self, url: str, folder: Path, address: str, log: Path) -> None:
        self.url, self.folder, self.address = url, folder, address
        self.requests = [
            {**one, "at": datetime.fromisoformat(one["at"])}
            for one in map(json.loads, log.read_text().splitlines())
        ]
        self.received: list[str] = []
        self.batches = self.pages("batches", BATCH, 2)
        self.journal = self.pages("journal", "seq kind at content previous hash", 100)

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """Return the data of a response without errors, and remember the whole response."""
        answer = httpx.post(f"{self.url}/graphql", json={"query": query, "variables": variables})
        self.received += [answer.text, repr(answer.headers)]
        assert "errors" not in answer.json(), answer.text
        return answer.json()["data"]

    def pages(self, field: str, selection: str, first: int, **only: str) -> list[dict[str, Any]]:
        """Return every node of a connection, page by page."""
        nodes, after = [], None
        more = "".join(f', {name}: "{value}"' for name, value in only.items())
        page = f"nodes {{ {selection} }} pageInfo {{ hasNextPage endCursor }}"
        query = (
            f"query($after: String) {{ {field}(first: {first}, after: $after{more}) {{ {page} }} }}"
        )
        while True:
            answer = self.ask(query, after=after)[field]
            nodes += answer["nodes"]
            if not answer["pageInfo"]["hasNextPage"]:
                return nodes
            after = answer["pageInfo"]["endCursor"]

    @property
    def mondays_with_picks(self) -> int:
        """Return how many Mondays did not fail: how many do depends on the random faults."""
        return sum(batch["status"] != "FAILED" for batch in self.batches)

    @property
    def log(self) -> str:
        """Return what the rehearsal logged."""
        return (self.folder / ".alpha-monday" / "rehearsal.log").read_text()

    def requests_to(self, provider: str) -> list[dict[str, Any]]:
        """Return the requests to a provider from the simulators' log, oldest first."""
        return sorted(
            (one for one in self.requests if one["provider"] == provider), key=lambda one: one["at"]
        )

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.address) as conn:
            return conn.execute(query.encode()).fetchall()

    def stored(self) -> Iterator[tuple[str, str]]:
        """Yield every table of the service with all of its rows, as text."""
        tables = self.rows(
            "SELECT schemaname, tablename FROM pg_tables WHERE schemaname IN ('public', 'queue', "
            "'operations', 'told')"
        )
        with psycopg.connect(self.address) as conn:
            for schema, table in tables:
                rows = conn.execute(
                    SQL("SELECT whole::text FROM {} AS whole").format(Identifier(schema, table))
                )
                yield f"{schema}.{table}", "\n".join(text for (text,) in rows)


@contextmanager
def hostile_rehearsal(
    folder: Path, address: str, *options: object, log: Path | None = None, **settings: str
) -> Iterator[Hostile]:
    """
    Rehearse weeks and serve them. The process writes its output to the file `output` in the folder.
    """
    with (
        (folder / "output").open("w+") as output,
        subprocess.Popen(
            [ALPHA_MONDAY, "rehearse", "--single", *map(str, options)],
            cwd=folder,
            env=environment(DATABASE_URL=address, **settings),
            stdout=output,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        try:
            yield Hostile(
                url=_address(process, folder / "output"),
                folder=folder,
                address=address,
                log=log or folder / REQUESTS,
            )
        finally:
            process.terminate()
            process.wait(60)


def _address(process: subprocess.Popen[Any], output: Path) -> str:
    while process.poll() is None:
        if match := re.search(r"http://\S+?(?=/graphql)", output.read_text()):
            return match[0]
        sleep(0.05)
    raise AssertionError(output.read_text())


@pytest.fixture(
    scope="module", params=[4, pytest.param(12, marks=pytest.mark.long)], ids="{} weeks".format
)
def hostile(request, tmp_path_factory, create) -> Iterator[Hostile]:
    """Rehearse weeks with the default faults, up to a Sunday, and serve them."""
    folder, weeks = tmp_path_factory.mktemp("hostile"), request.param
    with hostile_rehearsal(folder, create(), "--weeks", weeks, "--until", UNTIL) as hostile:
        hostile.weeks = weeks
        yield hostile


@pytest.fixture(scope="module")
def series(tmp_path_factory, hostile) -> dict[str, Series]:
    """
    Return the prices and splits of the market and of every pick, as simulators without faults serve
    them to every client.
    """
    tickers = {"SPY"} | {pick["ticker"] for batch in hostile.batches for pick in batch["picks"]}
    with simulators_at(tmp_path_factory.mktemp("market"), f"{UNTIL}T20:00:00+00:00") as url:
        return {ticker: series_of(url, ticker) for ticker in tickers}


def day_of(batch: dict[str, Any], day: int = 0) -> date:
    return date.fromisoformat(batch["runDate"]) + timedelta(days=day)


def at_nine(day: date) -> datetime:
    return datetime.combine(day, time(9), NEW_YORK)


def test_the_providers_failed_often(hostile):
    """The simulators' log shows that the providers failed often and in many ways."""
    faults = Counter((one["provider"], one["fault"]) for one in hostile.requests if one["fault"])
    print(faults)
    assert sum(faults.values()) >= 8 * hostile.weeks
    assert len({fault for _, fault in faults}) >= 6
    passing = {
        "burst",
        "http_500",
        "http_503",
        "html",
        "truncated_body",
        "cut",
        "information",
        "empty",
    }
    assert sum(count for (_, fault), count in faults.items() if fault in passing) >= 5


def test_every_monday_has_exactly_one_row(hostile):
    """Each Monday has three picks or the reason why it has none; the newest comes first."""
    mondays = [str(UNTIL - timedelta(weeks=week, days=6)) for week in range(hostile.weeks)]
    assert [batch["runDate"] for batch in hostile.batches] == mondays
    for batch in hostile.batches:
        made = datetime.fromisoformat(batch["createdAt"])
        assert at_nine(day_of(batch)) <= made < at_nine(day_of(batch)) + timedelta(hours=15)
        if batch["status"] == "FAILED":
            assert batch["failureReason"]
            assert batch["failure"]
            assert batch["picks"] == batch["checkpoints"] == []
        else:
            assert len({pick["ticker"] for pick in batch["picks"]} - {"SPY"}) == 3


def test_every_monday_has_at_most_three_questions(hostile):
    """
    They are numbered without a gap, refused ones have their reason, the last one is accepted, and
    the simulator counted each.
    """
    questions = 0
    for batch in hostile.batches:
        generations = batch["generations"]
        assert [one["attempt"] for one in generations] == list(range(1, len(generations) + 1))
        assert 1 <= len(generations) <= 3
        assert [one["accepted"] for one in generations[:-1]] == [False] * (len(generations) - 1)
        assert generations[-1]["accepted"] == (batch["status"] != "FAILED")
        assert all(bool(one["refusal"]) == (not one["accepted"]) for one in generations)
        questions += len(generations)
    assert len(hostile.requests_to("openai")) == questions >= hostile.weeks


def test_every_fortnight_that_is_over_has_its_fifteen_checkpoints(hostile, series):
    """
    Each has its own date. Closed days are skipped, others are computed from their session or
    skipped with a reason.
    """
    over = 0
    for batch in hostile.batches:
        if batch["status"] == "FAILED":
            continue
        ended = day_of(batch, 14) <= UNTIL
        days = [one["day"] for one in batch["checkpoints"]]
        assert days == list(range(15 if ended else (UNTIL - day_of(batch)).days + 1))
        assert batch["status"] == ("COMPLETED" if ended else "ACTIVE")
        over += ended
        for one in batch["checkpoints"][1:]:
            session = day_of(batch, one["day"] - 1)
            assert one["checkpointDate"] == str(day_of(batch, one["day"]))
            assert datetime.fromisoformat(one["takenAt"]) >= at_nine(day_of(batch, one["day"]))
            assert (one["skipReason"] == "MARKET_CLOSED") == (session not in series["SPY"].closes)
            assert bool(one["skipReason"]) == bool(one["skippedAt"]) == bool(one["note"])
            if one["status"] == "COMPUTED":
                assert one["tradingDay"] == str(session)
                assert len(one["metrics"]) == 3
            else:
                assert one["skipReason"]
                assert (
                    one["tradingDay"] is one["benchmarkPrice"] is one["benchmarkReturnPct"] is None
                )
                assert one["metrics"] == []
        last = max(day for day in series["SPY"].closes if day < day_of(batch, 14))
        result = batch["checkpoints"][(last - day_of(batch)).days + 1] if ended else None
        resolved = result is not None and result["status"] == "COMPUTED"
        assert batch["result"] == ({"day": result["day"]} if resolved else None)
    assert over == sum(batch["status"] != "FAILED" for batch in hostile.batches[2:])


def test_skipped_checkpoints_are_few_and_have_a_reason(hostile):
    """
    Most are computed on the same day; some of the skipped ones were computed later and keep their
    reason.
    """
    taken = [one for batch in hostile.batches for one in batch["checkpoints"][1:]]
    open_market = [one for one in taken if one["skipReason"] != "MARKET_CLOSED"]
    late = [
        one
        for one in open_market
        if datetime.fromisoformat(one["takenAt"]).astimezone(NEW_YORK).time() > time(9, 5)
    ]
    failed = [one for one in open_market if one["skipReason"]]
    print(
        len(open_market),
        "mornings;",
        len(late),
        "late;",
        [(one["checkpointDate"], one["note"]) for one in failed],
    )
    assert len(open_market) > 8 * hostile.mondays_with_picks
    assert late
    assert len(failed) < len(open_market) / 10
    assert {one["skipReason"] for one in failed} <= {"MISSING_CLOSE", "PROVIDER_ERROR"}


def test_every_figure_can_be_recomputed(hostile, series):
    """
    Despite all faults, every stored price is the market's own, and every return is right to the
    last digit.
    """
    figures = 0
    with localcontext(Context(prec=28, rounding=ROUND_HALF_EVEN)):
        for batch in hostile.batches:
            if batch["status"] == "FAILED":
                continue
            baseline = max(day for day in series["SPY"].closes if day < day_of(batch))
            initial = {
                pick["ticker"]: Decimal(series[pick["ticker"]].closes[baseline])
                for pick in batch["picks"]
            }
            action = {pick["ticker"]: pick["action"] for pick in batch["picks"]}
            b0 = Decimal(series["SPY"].closes[baseline])
            assert (batch["tradingDay"], batch["benchmarkInitialPrice"]) == (
                str(baseline),
                series["SPY"].closes[baseline],
            )
            assert [pick["initialPrice"] for pick in batch["picks"]] == [
                f"{price:f}" for price in initial.values()
            ]
            assert {pick["initialClose"]["tradingDay"] for pick in batch["picks"]} == {
                str(baseline)
            }
            for one in batch["checkpoints"][1:]:
                if one["status"] == "SKIPPED":
                    continue
                session = date.fromisoformat(one["tradingDay"])
                benchmark = (Decimal(series["SPY"].closes[session]) - b0) / b0 * 100
                assert one["benchmarkPrice"] == series["SPY"].closes[session]
                assert one["benchmarkReturnPct"] == f"{benchmark:f}"
                assert [metric["pick"]["ticker"] for metric in one["metrics"]] == list(initial)
                for metric in one["metrics"]:
                    ticker = metric["pick"]["ticker"]
                    of = series[ticker]
                    if is_split_listed_too_late(
                        hostile=hostile, batch=batch, ticker=ticker, of=of, session=session
                    ):
                        continue
                    price, factor = Decimal(of.closes[session]), of.factor(baseline, session)
                    absolute = (price * factor - initial[ticker]) / initial[ticker] * 100
                    entry = min(day for day in of.opens if day >= day_of(batch))
                    o = Decimal(of.opens[entry])
                    from_open = (price * of.factor(entry, session) - o) / o * 100
                    alpha = (absolute - benchmark) * (1 if action[ticker] == "BUY" else -1)
                    assert metric["currentPrice"] == metric["close"]["close"] == of.closes[session]
                    assert Decimal(metric["splitFactor"]) == factor
                    assert metric["returnFromOpenPct"] == f"{from_open:f}"
                    assert metric["close"]["tradingDay"] == str(session)
                    assert metric["absoluteReturnPct"] == f"{absolute:f}"
                    assert metric["vsBenchmarkPct"] == f"{absolute - benchmark:f}"
                    assert (Decimal(metric["alphaPct"]), metric["hit"]) == (alpha, alpha > 0)
                    figures += 3
    assert figures > 75 * hostile.mondays_with_picks


def is_split_listed_too_late(
    hostile, batch: dict[str, Any], ticker: str, of: Series, session: date
) -> bool:
    """
    Return whether a split was too small for its move to cause a request, and was listed only after
    the fortnight's last Sunday.
    """
    late = {
        one["symbol"].replace("-", ".") for one in hostile.requests if one["fault"] == "late_split"
    }
    hidden = [day for day in of.splits if day_of(batch, 13) - timedelta(days=5) <= day <= session]
    return ticker in late and any(
        Decimal("0.9") < of.splits[day] < Decimal("1.12") for day in hidden
    )


def test_no_reading_is_of_a_session_that_was_running(hostile, series):
    """
    Many answers had partial bars; every stored reading is the market's, of a day before it was
    read.
    """
    readings = hostile.rows("SELECT ticker, trading_day, close, read_at FROM closes")
    assert any(one["fault"] == "partial_bar" for one in hostile.requests)
    for ticker, trading_day, close, read_at in readings:
        assert trading_day < read_at.astimezone(NEW_YORK).date()
        if ticker in series and trading_day in series[ticker].closes:
            assert close == Decimal(series[ticker].closes[trading_day])
    assert len(readings) > 33 * hostile.mondays_with_picks


def test_the_limits_were_never_exceeded(hostile):
    """
    The ledger has at most one request a second, five a minute and 25 a day, failed ones included.
    """
    requests = hostile.requests_to("alphavantage")
    refused = Counter(one["refused"] for one in requests)
    # "unknown": a ticker that the model made up. "burst": a machine under load may deliver two
    # requests within the second that they were sent apart.
    assert refused.keys() <= {None, "unknown", "burst"}
    assert refused["burst"] * 50 <= len(requests)
    times = [
        at for (at,) in hostile.rows("SELECT at FROM operations.provider_requests ORDER BY at")
    ]
    assert len(times) == len(requests)
    for count, seconds in ((1, 1), (5, 60), (25, 86_400)):
        gaps = [later - earlier for earlier, later in zip(times, times[count:], strict=False)]
        assert min(gaps) >= timedelta(seconds=seconds)
    assert hostile.rows(
        "SELECT count(*) FROM operations.provider_requests WHERE outcome IS NULL"
    ) == [(0,)]


def test_the_journal_is_whole(hostile):
    """
    The chain is recomputed with nothing but SHA-256, and holds every question, batch, checkpoint
    and failure.
    """
    previous = "0" * 64
    for number, entry in enumerate(hostile.journal, 1):
        content = json.loads(entry["content"])
        assert (entry["seq"], content["seq"], content["kind"]) == (
            str(number),
            str(number),
            entry["kind"],
        )
        assert (
            json.dumps(content, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
            == entry["content"]
        )
        assert entry["previous"] == previous
        previous = hashlib.sha256(f"{previous}\n{entry['content']}".encode()).hexdigest()
        assert entry["hash"] == previous
    kinds = Counter(entry["kind"] for entry in hostile.journal)
    failed = sum(batch["status"] == "FAILED" for batch in hostile.batches)
    taken = [one for batch in hostile.batches for one in batch["checkpoints"][1:]]
    computed_later = sum(
        one["status"] == "COMPUTED" and one["skippedAt"] is not None for one in taken
    )
    contents = [
        json.loads(entry["content"]) for entry in hostile.journal if entry["kind"] == "GENERATION"
    ]
    # The first entry of a question is its claim. An accepted answer whose ticker then proved to be
    # unknown has two entries more: the last one counts.
    journaled = {one["generation"]["id"]: one["generation"].get("accepted") for one in contents}
    generations = [one for batch in hostile.batches for one in batch["generations"]]
    assert journaled == {one["id"]: str(one["accepted"]).lower() for one in generations}
    assert kinds["BATCH"] == hostile.weeks - failed
    assert kinds["FAILURE"] == failed
    assert kinds["CHECKPOINT"] == len(taken) + computed_later


def test_no_job_was_given_up(hostile):
    """
    Every job that ran has succeeded; the others wait for later days. The log has no traceback.
    """
    assert {
        status
        for (status,) in hostile.rows("SELECT DISTINCT status::text FROM queue.procrastinate_jobs")
    } == {
        "succeeded",
        "todo",
    }
    ((waiting,),) = hostile.rows(
        "SELECT min(scheduled_at) FROM queue.procrastinate_jobs WHERE status = 'todo'"
    )
    assert waiting >= at_nine(UNTIL + timedelta(days=1))
    assert "Traceback" not in hostile.log
    levels = Counter(json.loads(line)["level"] for line in hostile.log.splitlines())
    failed = sum(batch["status"] == "FAILED" for batch in hostile.batches)
    assert levels["error"] == failed <= 2  # nothing else needs a person


@pytest.mark.parametrize(
    "fault", ["burst", "http_500", "http_503", "html", "truncated_body", "cut", "empty"]
)
def test_a_passing_fault_is_logged_in_one_line(hostile, fault):
    """Each transport fault has a line of the log with its ticker, at its time."""
    lines = [json.loads(line) for line in hostile.log.splitlines()]
    for one in hostile.requests_to("alphavantage"):
        if one["fault"] == fault:
            near = [
                line
                for line in lines
                if abs(datetime.fromisoformat(line["at"]) - one["at"]) < timedelta(seconds=5)
            ]
            ticker = one["symbol"].replace("-", ".")
            assert any(
                line["event"] == "provider request failed, retrying" and line["ticker"] == ticker
                for line in near
            )


def check_no_key_is_stored(hostile: Hostile, *keys: str) -> None:
    """Check that no key is in the log, in a table, in a response of the API, or in the output."""
    for batch in hostile.batches:
        for pick in batch["picks"]:
            hostile.ask(
                f'{{ pick(id: "{pick["id"]}") {{ ticker reasoning metrics {{ {METRIC} }} }} }}'
            )
    for ticker in {pick["ticker"] for batch in hostile.batches for pick in batch["picks"]}:
        hostile.pages("picks", "id ticker reasoning batch { runDate failure }", 1, ticker=ticker)
    hostile.ask("{ service { version rehearsed nextRunAt journalHead { seq content hash } } }")
    pages = [httpx.get(f"{hostile.url}{path}", headers={"accept": "text/html"}) for path in PAGES]
    places = {
        "the log": hostile.log,
        "the terminal": (hostile.folder / "output").read_text(),
        "the API": "\n".join(hostile.received),
        "the pages": "\n".join(page.text + repr(page.headers) for page in pages),
        **dict(hostile.stored()),
    }
    for key in keys:
        assert [place for place, text in places.items() if key in text] == []
    for table in ("batches", "picks", "checkpoints", "generations", "journal", "closes"):
        assert places[f"public.{table}"]
    assert places["queue.procrastinate_jobs"]
    assert places["operations.provider_requests"]
    assert len(places["the log"]) > 10_000


PAGES = ("/graphql", "/health", "/live", "/nowhere")


def test_the_key_is_nowhere(hostile):
    """Some hundred requests had the key, and some faults returned it."""
    check_no_key_is_stored(hostile, _SIMULATED_KEY)


# Providers that return the keys


def key_fault(provider: str, fault: str, **when: Any) -> dict[str, Any]:
    return {"provider": provider, "fault": fault, **when}


def on(day: date, **more: Any) -> dict[str, Any]:
    begin = datetime.combine(day, time(0), NEW_YORK)
    return {"since": begin.isoformat(), "until": (begin + timedelta(days=1)).isoformat(), **more}


# Three Mondays of October. The second one fails, because OpenAI does not accept the key; its
# message has the key.
MONDAYS = [date(2026, 10, 12) + timedelta(weeks=week) for week in range(3)]
KEY_FAULTS = [
    key_fault("openai", "bad_key", **on(MONDAYS[1])),
    key_fault("alphavantage", "information", times=2, **on(MONDAYS[0])),
    key_fault("alphavantage", "close_is_the_key", **on(MONDAYS[0] + timedelta(days=1))),
    key_fault("alphavantage", "information", **on(MONDAYS[0] + timedelta(days=2))),
    key_fault("alphavantage", "quota", times=1, **on(MONDAYS[0] + timedelta(days=3))),
    key_fault("alphavantage", "premium", **on(MONDAYS[0] + timedelta(days=4))),
    key_fault("alphavantage", "bad_key", **on(MONDAYS[2] + timedelta(days=1))),
]


@pytest.fixture(scope="module")
def leaking(tmp_path_factory, create) -> Iterator[Hostile]:
    """
    Rehearse three weeks with keys from the environment, with simulators that return the keys, and
    with the log level DEBUG.
    """
    folder, address = tmp_path_factory.mktemp("leaking"), create()
    (folder / "faults.json").write_text(json.dumps(KEY_FAULTS))
    log = folder / "requests.jsonl"
    options = ["--faults", "faults.json", "--log", str(log), "--until-input-ends"]
    with subprocess.Popen(
        [ALPHA_MONDAY, "standins", *options],
        cwd=folder,
        env=environment(REHEARSAL_CLOCK=address),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin
        assert process.stdout
        base = process.stdout.readline().strip()
        keys = {"OPENAI_API_KEY": OPENAI_KEY, "ALPHA_VANTAGE_API_KEY": ALPHA_VANTAGE_KEY}
        providers = {"OPENAI_BASE_URL": f"{base}/v1", "ALPHA_VANTAGE_BASE_URL": base}
        weeks = ("--weeks", len(MONDAYS), "--until", MONDAYS[2] + timedelta(days=5))
        with hostile_rehearsal(
            folder, address, *weeks, log=log, LOG_LEVEL="DEBUG", **keys, **providers
        ) as leaking:
            yield leaking
        process.stdin.close()


@pytest.mark.long
def test_the_providers_returned_the_keys(leaking):
    """
    Each fault that returns a key has happened, and the record has its message with the key masked.
    """
    faults = Counter((one["provider"], one["fault"]) for one in leaking.requests if one["fault"])
    assert set(faults) == {(rule["provider"], rule["fault"]) for rule in KEY_FAULTS}
    third, failed, first = leaking.batches
    assert (failed["status"], failed["failureReason"]) == ("FAILED", "CONFIGURATION")
    assert failed["generations"][0]["refusal"]
    assert (third["status"], first["status"]) == ("ACTIVE", "COMPLETED")
    notes = [one["note"] for batch in (third, first) for one in batch["checkpoints"] if one["note"]]
    assert any("***" in note for note in notes)
    assert any("'***' is not a price" in note for note in notes)


@pytest.mark.long
def test_the_keys_are_nowhere(leaking):
    """Neither of the two keys is stored or shown anywhere."""
    check_no_key_is_stored(leaking, OPENAI_KEY, ALPHA_VANTAGE_KEY)
    assert "Traceback" not in leaking.log
    assert {
        status
        for (status,) in leaking.rows("SELECT DISTINCT status::text FROM queue.procrastinate_jobs")
    } == {
        "succeeded",
        "todo",
    }
