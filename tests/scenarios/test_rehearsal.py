"""
Six weeks, and twelve with `make test-long`, rehearsed and then checked from outside.

The checks use the simulators' series and the API and nothing else: none of `app`, no SQL. (Only the
ledger of requests is read, and the killed rehearsal is inspected between its runs.)
"""

import hashlib
import json
import random
import signal
import subprocess
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import psycopg
import pytest
from commands import ALPHA_MONDAY, environment, run, served, standins
from gql import Client, gql
from gql.transport.httpx import HTTPXAsyncTransport
from judged import Series, series_of

from app.database.embedded import EmbeddedPostgres

# How many weeks up to which Sunday. Each has a split of a picked share, and the change of New
# York's clocks; the long one also has a Monday on which the exchange is closed.
SPANS = {6: date(2026, 11, 15), 12: date(2026, 11, 22)}
NEW_YORK = ZoneInfo("America/New_York")

BATCH = """
id runDate createdAt status late benchmarkSymbol benchmarkInitialPrice tradingDay
picks { id position ticker action initialPrice initialClose { ticker tradingDay close readAt } }
checkpoints {
  id day checkpointDate tradingDay status skipReason takenAt benchmarkPrice benchmarkSplitFactor
  benchmarkReturnPct
  metrics {
    pick { ticker entryOpen } currentPrice splitFactor absoluteReturnPct vsBenchmarkPct
    directionalReturnPct alphaPct hit returnFromOpenPct
    close { tradingDay readAt }
  }
}
result { day } latestCheckpoint { day } nextCheckpointAt
generations { attempt accepted answeredAt } journal { seq kind }
"""


class Rehearsed:
    """A rehearsal that is served: its address, its folder, and every batch and entry of its API."""

    def __init__(self, url: str, folder: Path, address: str, weeks: int) -> None:
        self.url, self.folder, self.address, self.weeks = url, folder, address, weeks
        self.until = SPANS[weeks]
        self.batches = list(self.pages("batches", f"nodes {{ {BATCH} }}", 3))
        self.journal = list(
            self.pages("journal", "nodes { seq kind at content previous hash }", 100)
        )

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """Return the data of an answer without errors."""
        answer = httpx.post(
            f"{self.url}/graphql", json={"query": query, "variables": variables}
        ).json()
        assert "errors" not in answer, answer
        return answer["data"]

    def pages(self, field: str, selection: str, first: int) -> Iterator[dict[str, Any]]:
        """Return every node of a connection, page by page."""
        page = f"{selection} pageInfo {{ hasNextPage endCursor }}"
        query = f"query($after: String) {{ {field}(first: {first}, after: $after) {{ {page} }} }}"
        after = None
        while True:
            page = self.ask(query, after=after)[field]
            yield from page["nodes"]
            if not page["pageInfo"]["hasNextPage"]:
                return
            after = page["pageInfo"]["endCursor"]

    @property
    def requests(self) -> list[dict[str, Any]]:
        """Return the requests that the simulators received, from their log."""
        return requests(self.folder)


def requests(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / ".alpha-monday" / "requests.jsonl").read_text().splitlines()
    return [{**json.loads(line), "at": moment(json.loads(line)["at"])} for line in lines]


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


@pytest.fixture(
    scope="module", params=[6, pytest.param(12, marks=pytest.mark.long)], ids="{} weeks".format
)
def rehearsed(request, tmp_path_factory, create) -> Iterator[Rehearsed]:
    """Rehearse weeks up to a Sunday, and serve them at that time."""
    folder, address = tmp_path_factory.mktemp("rehearsal"), create()
    weeks = ("--weeks", request.param, "--until", SPANS[request.param], "--calm")
    with served("rehearse", "--single", *weeks, cwd=folder, DATABASE_URL=address) as url:
        yield Rehearsed(url=url, folder=folder, address=address, weeks=request.param)


@pytest.fixture(scope="module")
def series(tmp_path_factory, rehearsed) -> dict[str, Series]:
    """Return every ticker's prices and splits, as the simulators serve them to every client."""
    tickers = (
        "SPY AAPL MSFT NVDA AMZN GOOGL META BRK.B JPM V MA UNH LLY JNJ MRK PFE XOM CVX HD LOW COST "
        "WMT PG KO PEP MCD NKE DIS NFLX CRM ORCL ADBE AMD INTC QCOM CAT DE BA GE UPS"
    )
    now = f"{rehearsed.until}T20:00:00+00:00"
    with standins(tmp_path_factory.mktemp("market"), now) as url:
        return {ticker: series_of(url, ticker) for ticker in tickers.split()}


def ended(rehearsed: Rehearsed, batch: dict[str, Any]) -> bool:
    return date.fromisoformat(batch["runDate"]) + timedelta(days=14) <= rehearsed.until


def test_every_monday_has_its_batch(rehearsed):
    """
    Each Monday has a batch, holidays included, made within a minute of its own nine o'clock; the
    newest comes first.
    """
    assert [batch["runDate"] for batch in rehearsed.batches] == [
        str(rehearsed.until - timedelta(weeks=week, days=6)) for week in range(rehearsed.weeks)
    ]
    for batch in rehearsed.batches:
        made = moment(batch["createdAt"]).astimezone(NEW_YORK)
        nine = datetime.combine(date.fromisoformat(batch["runDate"]), time(9), NEW_YORK)
        assert timedelta(0) <= made - nine < timedelta(minutes=1, seconds=30)
        assert not batch["late"]
        assert [(one["attempt"], one["accepted"]) for one in batch["generations"]] == [(1, True)]


def test_every_fortnight_has_its_fifteen_checkpoints(rehearsed, series):
    """
    They are skipped exactly if the day before was no session, else computed; each on its own
    morning.
    """
    sessions = series["SPY"].closes.keys()
    for batch in rehearsed.batches:
        run_date = date.fromisoformat(batch["runDate"])
        days = [one["day"] for one in batch["checkpoints"]]
        assert (
            days == list(range(15))
            if ended(rehearsed, batch)
            else days == list(range((rehearsed.until - run_date).days + 1))
        )
        assert batch["status"] == ("COMPLETED" if ended(rehearsed, batch) else "ACTIVE")
        for one in batch["checkpoints"][1:]:
            before = run_date + timedelta(days=one["day"] - 1)
            closed = before not in sessions
            assert one["checkpointDate"] == str(before + timedelta(days=1))
            assert (one["status"], one["skipReason"]) == (
                ("SKIPPED", "MARKET_CLOSED") if closed else ("COMPUTED", None)
            )
            assert one["tradingDay"] == (None if closed else str(before))
            taken = moment(one["takenAt"]).astimezone(NEW_YORK)
            nine = datetime.combine(before + timedelta(days=1), time(9), NEW_YORK)
            assert timedelta(0) <= taken - nine < timedelta(minutes=5)


def test_every_figure_can_be_recomputed(rehearsed, series):
    """Every price is the simulators' own, and every return is equal in all of its 28 digits."""
    figures = split = 0
    with localcontext(Context(prec=28, rounding=ROUND_HALF_EVEN)):
        for batch in rehearsed.batches:
            baseline = max(day for day in series["SPY"].closes if str(day) < batch["runDate"])
            b0 = Decimal(series["SPY"].closes[baseline])
            assert (batch["tradingDay"], batch["benchmarkInitialPrice"]) == (
                str(baseline),
                format(b0, "f"),
            )
            actions = {pick["ticker"]: pick["action"] for pick in batch["picks"]}
            for pick in batch["picks"]:
                assert pick["initialPrice"] == series[pick["ticker"]].closes[baseline]
                assert pick["initialClose"]["tradingDay"] == str(baseline)
            for one in batch["checkpoints"][1:]:
                if one["status"] == "SKIPPED":
                    assert one["metrics"] == []
                    assert one["benchmarkPrice"] is one["benchmarkReturnPct"] is None
                    continue
                session = date.fromisoformat(one["tradingDay"])
                b = Decimal(series["SPY"].closes[session])
                benchmark = (b * 1 - b0) / b0 * 100
                assert (one["benchmarkPrice"], one["benchmarkReturnPct"]) == (
                    format(b, "f"),
                    format(benchmark, "f"),
                )
                assert [metric["pick"]["ticker"] for metric in one["metrics"]] == list(actions)
                for metric in one["metrics"]:
                    ticker = metric["pick"]["ticker"]
                    of = series[ticker]
                    p0, p = Decimal(of.closes[baseline]), Decimal(of.closes[session])
                    factor = of.factor(baseline, session)
                    absolute = (p * factor - p0) / p0 * 100
                    entry = min(day for day in of.opens if str(day) >= batch["runDate"])
                    o = Decimal(of.opens[entry])
                    from_open = (p * of.factor(entry, session) - o) / o * 100
                    versus = absolute - benchmark
                    sign = 1 if actions[ticker] == "BUY" else -1
                    assert metric["currentPrice"] == of.closes[session]
                    assert metric["pick"]["entryOpen"] == of.opens[entry]
                    assert metric["returnFromOpenPct"] == format(from_open, "f")
                    assert metric["close"]["tradingDay"] == str(session)
                    assert Decimal(metric["splitFactor"]) == factor
                    split += factor != 1
                    assert metric["absoluteReturnPct"] == format(absolute, "f")
                    assert metric["vsBenchmarkPct"] == format(versus, "f")
                    assert Decimal(metric["directionalReturnPct"]) == sign * absolute
                    assert Decimal(metric["alphaPct"]) == sign * versus
                    assert metric["hit"] == (sign * versus > 0)
                    figures += 3
    assert figures > 75 * rehearsed.weeks
    assert split


def test_results_are_the_last_session_of_the_fortnight(rehearsed, series):
    """A batch that is over has its result at the checkpoint of the last session before day 14."""
    for batch in rehearsed.batches:
        if not ended(rehearsed, batch):
            assert batch["result"] is None
            continue
        last = max(
            day
            for day in series["SPY"].closes
            if day < date.fromisoformat(batch["runDate"]) + timedelta(days=14)
        )
        assert batch["result"]["day"] == (last - date.fromisoformat(batch["runDate"])).days + 1
        assert batch["nextCheckpointAt"] is None


def test_the_journal_holds_all_of_it(rehearsed):
    """The chain is recomputed with nothing but SHA-256, and its entries agree with the rows."""
    previous = "0" * 64
    for number, entry in enumerate(rehearsed.journal, 1):
        content = json.loads(entry["content"])
        assert (entry["seq"], content["seq"], content["kind"]) == (
            str(number),
            str(number),
            entry["kind"],
        )
        assert entry["previous"] == previous
        previous = hashlib.sha256(f"{previous}\n{entry['content']}".encode()).hexdigest()
        assert entry["hash"] == previous
        assert content["at"] == entry["at"]
        assert (
            json.dumps(content, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
            == entry["content"]
        )
    head = rehearsed.ask("{ service { journalHead { seq hash } } }")["service"]["journalHead"]
    assert head == {"seq": str(len(rehearsed.journal)), "hash": previous}
    entries = {entry["seq"]: json.loads(entry["content"]) for entry in rehearsed.journal}
    for batch in rehearsed.batches:
        kinds = Counter(entry["kind"] for entry in batch["journal"])
        # A total return is added once its dividends are known: those of all picks, or of one.
        extensions = kinds.pop("EXTENSION", 0)
        assert extensions <= 4 if batch["status"] == "COMPLETED" else extensions == 0
        # The question has an entry for its claim and one for its answer.
        assert kinds == {"GENERATION": 2, "BATCH": 1, "CHECKPOINT": len(batch["checkpoints"]) - 1}
        own = [entries[entry["seq"]] for entry in batch["journal"]]
        checkpoint_entries = {
            one["checkpoint"]["id"]: one for one in own if one["kind"] == "CHECKPOINT"
        }
        for one in batch["checkpoints"][1:]:
            recorded = checkpoint_entries[one["id"]]
            assert recorded["checkpoint"].get("benchmark_return_pct") == one["benchmarkReturnPct"]
            assert [m["vs_benchmark_pct"] for m in recorded["metrics"]] == [
                m["vsBenchmarkPct"] for m in one["metrics"]
            ]
            assert recorded["checkpoint"]["taken_at"] == one["takenAt"]


def test_the_limits_were_never_exceeded(rehearsed):
    """
    The ledger has at most one request a second, five a minute and 25 a day. By the simulators' log
    none was refused, and none was sent twice a day.
    """
    requests = [one for one in rehearsed.requests if one["provider"] == "alphavantage"]
    with psycopg.connect(rehearsed.address) as conn:
        rows = conn.execute("SELECT at FROM operations.provider_requests ORDER BY at").fetchall()
    times = [at for (at,) in rows]
    assert len(times) == len(requests) > 25 * rehearsed.weeks
    # A machine under load may deliver two requests within the second that they were sent apart.
    bursts = [one for one in requests if one["refused"] == "burst"]
    assert len(bursts) * 50 <= len(requests)
    requests = [one for one in requests if one not in bursts]
    assert {one["refused"] for one in requests} == {None}
    for count, seconds in ((1, 1), (5, 60), (25, 86_400)):
        assert min(
            later - earlier for earlier, later in zip(times, times[count:], strict=False)
        ) >= timedelta(seconds=seconds)
    a_day = Counter(
        (one["function"], one["symbol"], one["at"].astimezone(NEW_YORK).date()) for one in requests
    )
    assert set(a_day.values()) == {1}
    mornings = defaultdict(list)
    for one in sorted(requests, key=lambda one: one["at"]):
        mornings[one["at"].astimezone(NEW_YORK).date()].append(one["symbol"])
    assert all(symbols[0] == "SPY" for symbols in mornings.values() if "SPY" in symbols)
    assert sum(one["provider"] == "openai" for one in rehearsed.requests) == rehearsed.weeks


def test_rehearsed_data_is_marked_everywhere(rehearsed):
    """
    The API, its responses, and GraphiQL's page mark rehearsed data. (The table of `show` has its
    own test.)
    """
    assert rehearsed.ask("{ service { rehearsed } }")["service"]["rehearsed"] is True
    assert httpx.get(f"{rehearsed.url}/live").headers["x-rehearsed"] == "true"
    page = httpx.get(f"{rehearsed.url}/graphql", headers={"accept": "text/html"}).text
    assert "Rehearsed: every price and every word of this record is made up." in page


async def test_a_real_client_reads_it(rehearsed):
    """
    `gql` fetches the schema, the latest batch, two pages of history and a batch in full, checked
    against it.
    """
    async with Client(
        transport=HTTPXAsyncTransport(f"{rehearsed.url}/graphql"), fetch_schema_from_transport=True
    ) as session:
        latest = (await session.execute(gql("{ latestBatch { id runDate } }")))["latestBatch"]
        assert latest["runDate"] == str(rehearsed.until - timedelta(days=6))
        document = (
            "query($after: String) { batches(first: 3, after: $after) { nodes { runDate } pageInfo "
            "{ endCursor } } }"
        )
        one = (await session.execute(gql(document)))["batches"]
        request = gql(document)
        request.variable_values = {"after": one["pageInfo"]["endCursor"]}
        two = (await session.execute(request))["batches"]
        dates = [node["runDate"] for node in one["nodes"] + two["nodes"]]
        assert dates == sorted(dates, reverse=True)
        assert len(set(dates)) == 6
        full = gql(f"query($id: ID!) {{ batch(id: $id) {{ {BATCH} }} }}")
        full.variable_values = {"id": latest["id"]}
        assert (await session.execute(full))["batch"] == rehearsed.batches[0]


def test_a_rehearsal_with_an_end_stops_there(rehearsed):
    """After the end the worker does nothing, and the next run stays the one after that end."""
    service = rehearsed.ask("{ service { nextRunAt } latestBatch { nextCheckpointAt } }")
    nine = datetime.combine(rehearsed.until + timedelta(days=1), time(9), NEW_YORK)
    assert moment(service["service"]["nextRunAt"]) == nine
    assert moment(service["latestBatch"]["nextCheckpointAt"]) == nine
    assert httpx.get(f"{rehearsed.url}/health").json() == {
        "database": "alive",
        "worker": "switched off",
    }


STORED_ROWS = """
SELECT 'batch', id::text, run_date::text FROM batches
UNION ALL SELECT 'pick', id::text, batch_id::text FROM picks
UNION ALL SELECT 'checkpoint', id::text, taken_at::text FROM checkpoints
UNION ALL SELECT 'metric', id::text, vs_benchmark_pct::text FROM pick_checkpoint_metrics
UNION ALL SELECT 'close', id::text, ticker || trading_day FROM closes
UNION ALL SELECT 'journal', seq::text, hash FROM journal
"""


@pytest.mark.long
def test_a_killed_rehearsal_goes_on(tmp_path):
    """
    After SIGKILL at three random moments, with its Postgres, the rehearsal ends complete, and
    nothing that was stored is lost.
    """
    seed = random.randrange(10_000)
    print("seed", seed)
    chance = random.Random(seed)
    command = ("rehearse", "--single", "--weeks", "5", "--until", "2026-11-08", "--calm")
    command += ("--no-serve",)
    stored_before: set[tuple[str, str, str]] = set()
    for _ in range(3):
        process = subprocess.Popen(
            [ALPHA_MONDAY, *command],
            cwd=tmp_path,
            env=environment(),
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        try:
            process.wait(chance.uniform(2.5, 6))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        process.wait()
        now = _stored(tmp_path)
        assert stored_before <= now
        stored_before = now
    done = run(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    final = _stored(tmp_path)
    assert stored_before <= final
    counts = Counter(kind for kind, *_ in final)
    # Mondays 5 October to 2 November: four fortnights and half of a fifth, day 0 included, up to
    # Sunday 8 November.
    assert (counts["batch"], counts["pick"], counts["checkpoint"]) == (5, 15, 3 * 15 + 14 + 7)
    again = Counter(
        (one["function"], one["symbol"], one["at"].astimezone(NEW_YORK).date())
        for one in requests(tmp_path)
        if one["provider"] == "alphavantage"
    )
    assert _jobs(tmp_path) == {"succeeded", "todo"}
    closes = {line[2]: line for line in final if line[0] == "close"}
    assert len(closes) == counts["close"]  # no session read twice
    assert (
        sum(count - 1 for count in again.values()) <= 3 * 3
    )  # what was in flight when it was killed
    questions = sum(one["provider"] == "openai" for one in requests(tmp_path))
    assert 5 <= questions <= 5 + 3


def _jobs(folder: Path) -> set[str]:
    database = EmbeddedPostgres(folder / ".alpha-monday" / "postgres")
    with database as postgres, psycopg.connect(postgres.ensure_database("rehearsal")) as conn:
        return {
            status
            for (status,) in conn.execute(
                "SELECT status::text FROM queue.procrastinate_jobs"
            ).fetchall()
        }


def _stored(folder: Path) -> set[tuple[str, str, str]]:
    with (
        EmbeddedPostgres(folder / ".alpha-monday" / "postgres") as postgres,
        psycopg.connect(postgres.ensure_database("rehearsal")) as conn,
    ):
        there = conn.execute("SELECT to_regclass('public.journal')").fetchone()
        return set(conn.execute(STORED_ROWS).fetchall()) if there and there[0] else set()
