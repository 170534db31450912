"""
The export contains every row of the record with the API's figures: CSV and JSON, over HTTP and as a
command.
"""

import asyncio
import csv
import io
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import aclosing
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from api_records import FACTS, ODD, an_id, plant, plant_years
from commands import ALPHA_MONDAY, environment, without_place
from processes import serving, until

from api.engine import Engine
from api.schema import schema
from app.database.queries import snapshot_fetcher
from app.web.feeds import downloads
from app.web.feeds.export import FORMAT_VERSION, CsvRow, ExportRange, JsonRow, read_parts
from tests.integration.api.test_cache import Service, a_monday, living, write

DOCS = (Path(__file__).parents[3] / "docs" / "export.md").read_text()
COLUMNS = CsvRow.__struct_fields__
HEAD = "{ service { journalHead { seq hash } } }"
# The same figures, requested from the API by another document than the export's.
FIGURES = """{ batches(first: 10) { nodes {
    runDate status failureReason benchmarkInitialPrice
    picks { id ticker pickedAs action initialPrice entryOpen metrics {
        checkpoint { day tradingDay benchmarkPrice benchmarkReturnPct }
        currentPrice splitFactor absoluteReturnPct vsBenchmarkPct directionalReturnPct alphaPct hit
        returnFromOpenPct unusualMove ended renamed } }
    checkpoints { day status skipReason checkpointDate } } } }"""


@pytest.fixture
async def service(database) -> AsyncIterator[Service]:
    plant(database)
    async with living(database) as service:
        yield service


async def in_csv(service: Service, **parameters: str) -> list[dict[str, str]]:
    answer = await service.client.get("/export.csv", params=parameters)
    assert answer.status_code == 200, answer.text
    return list(csv.DictReader(io.StringIO(answer.text, newline="")))


async def in_json(service: Service, **parameters: str) -> dict[str, Any]:
    answer = await service.client.get("/export.json", params=parameters)
    assert answer.status_code == 200, answer.text
    return answer.json()


def cell(value: object) -> str:
    """Return a value of JSON as it is written in CSV."""
    if value is None:
        return ""
    text = str(value)
    return text.lower() if isinstance(value, bool) else text


async def test_every_row_is_there(service):
    """
    There are three rows for each of the fifteen days, skipped ones too; one row for a failed
    Monday.
    """
    assert Counter(row["run_date"] for row in await in_csv(service)) == {
        "2026-01-26": 15,  # a running one: days 0, 1, 2, 3 and 5
        "2026-01-19": 1,
        "2026-01-12": 45,
        "2026-01-05": 45,
    }


async def test_every_figure_is_the_apis(service):
    """
    The export has every figure of the API, to the last digit, in the row of its Monday, day and
    share.
    """
    rows = {(row["run_date"], row["day"], row["ticker"]): row for row in await in_csv(service)}
    batches = (await service.tell(FIGURES)).json()["data"]["batches"]["nodes"]
    compared = 0
    for batch in batches:
        for pick in batch["picks"]:
            for metric in pick["metrics"]:
                row = rows[batch["runDate"], str(metric["checkpoint"]["day"]), pick["ticker"]]
                for name, value in {**metric.pop("checkpoint"), **metric, **pick}.items():
                    column = {"id": "pick_id"}.get(
                        name, re.sub("[A-Z]", lambda letter: f"_{letter[0].lower()}", name)
                    )
                    if column != "metrics":
                        assert row[column] == cell(value), (column, row)
                        compared += 1
    # 9 computed days of the first Monday, 8 of the second, 4 of the running one; 3 picks; 4 + 10 +
    # 5 values.
    assert compared == (9 + 8 + 4) * 3 * 21


async def test_a_row_that_was_computed_manually(service):
    """
    Apple closed at 267.41 on the session before, and at 269.12 on the Monday: 1.71 / 267.41 is
    0.6395 %.
    """
    (row,) = [
        row
        for row in await in_csv(service, to="2026-01-05")
        if (row["day"], row["ticker"], row["run_date"]) == ("1", "AAPL", "2026-01-05")
    ]
    figures = {
        name: round(Decimal(row.pop(name)), 4)
        for name in COLUMNS
        if name.endswith("_pct") and row[name]
    }
    spy = Decimal("1.56") / Decimal("687.40") * 100  # from 687.40 to 688.96
    own = Decimal("1.71") / Decimal("267.41") * 100
    assert figures == {
        "absolute_return_pct": Decimal("0.6395"),
        "directional_return_pct": Decimal("0.6395"),
        "benchmark_return_pct": round(spy, 4),
        "vs_benchmark_pct": round(own - spy, 4),
        "alpha_pct": round(own - spy, 4),
    }
    assert {name: text for name, text in row.items() if text} == {
        "series": "main",
        "run_date": "2026-01-05",
        "batch_status": "COMPLETED",
        "late": "false",
        "position": "1",
        "ticker": "AAPL",
        "action": "BUY",
        "initial_price": "267.41",
        "day": "1",
        "checkpoint_date": "2026-01-06",
        "checkpoint_status": "COMPUTED",
        "trading_day": "2026-01-05",
        "result": "false",
        "current_price": "269.12",
        "split_factor": "1",
        "hit": "true",
        "ended": "false",
        "renamed": "false",
        "unusual_move": "false",
        "benchmark_symbol": "SPY",
        "picked_as": "AAPL",
        "benchmark_initial_price": "687.4",
        "benchmark_price": "688.96",
        "benchmark_split_factor": "1",
        "batch_id": str(an_id(3, 1)),
        "pick_id": row["pick_id"],
        "rehearsed": "false",
        "origin": "UNKNOWN",
        "stamped_before_open": "true",
    }


async def test_what_has_no_figures_says_why(service):
    """A Monday without picks and a day without prices have rows that contain the reason."""
    rows = await in_csv(service)
    (failed,) = [row for row in rows if row["run_date"] == "2026-01-19"]
    assert {name: text for name, text in failed.items() if text} == {
        "series": "main",
        "run_date": "2026-01-19",
        "batch_status": "FAILED",
        "late": "true",
        "failure_reason": "PROVIDER_ERROR",
        "benchmark_symbol": "SPY",
        "batch_id": failed["batch_id"],
        "rehearsed": "false",
        "origin": "UNKNOWN",
    }
    skipped = {
        (int(row["day"]), row["skip_reason"], row["trading_day"], row["current_price"])
        for row in rows
        if row["run_date"] == "2026-01-05" and row["checkpoint_status"] == "SKIPPED"
    }
    closed = {(day, "MARKET_CLOSED", "", "") for day in (6, 7, 13, 14)}
    assert skipped == {*closed, (4, "MISSING_CLOSE", "", "")}


async def test_a_result_is_marked(service):
    """
    The marked rows are those of the last session before day 14; an unresolved fortnight has
    none.
    """
    assert Counter(
        (row["run_date"], row["day"]) for row in await in_csv(service) if row["result"] == "true"
    ) == {("2026-01-05", "12"): 3}


async def test_json_says_the_same_and_the_words(service):
    """JSON has the rows of CSV and the texts; a pick's whole reasoning is in its row of day 0."""
    document, rows = await in_json(service), await in_csv(service)
    json_rows = [
        {name: cell(value) for name, value in row.items() if name in COLUMNS}
        for row in document["rows"]
    ]
    assert json_rows == rows
    whole = (await in_json(service))["rows"]
    reasons = [(row["run_date"], row["day"], row["reasoning"]) for row in whole if row["reasoning"]]
    assert len(reasons) == 9
    assert ("2026-01-05", 0, ODD) in reasons
    assert {day for _, day, _ in reasons} == {0}
    assert {row["failure"] for row in whole if row["batch_status"] == "FAILED"} == {
        'The model said "429".'
    }
    assert {row["note"] for row in whole if row["skip_reason"]} == {
        "No session.",
        'No close of "KO".',
    }


async def test_the_head_identifies_the_moment(service):
    """JSON describes itself; for CSV, the header and the file's name contain the head."""
    head = (await service.tell(HEAD)).json()["data"]["service"]["journalHead"]
    document = await in_json(service, **{"from": "2026-01-19"})
    del document["rows"]
    assert document == {
        "format": FORMAT_VERSION,
        "head": f"{head['seq']}:{head['hash']}",
        "at": "2026-01-28T14:00:05.000000Z",
        "rehearsed": False,
        "origin": "UNKNOWN",
        "record_id": None,
        "series": "main",
        "from": "2026-01-19",
        "to": None,
    }
    answer = await service.client.get("/export.csv")
    assert answer.headers["x-journal-head"] == f"{head['seq']}:{head['hash']}"
    assert (
        answer.headers["content-disposition"]
        == f'attachment; filename="alpha-monday-{head["seq"]}.csv"'
    )
    assert answer.headers["content-type"] == "text/csv; charset=utf-8; header=present"


async def test_no_cell_of_csv_can_be_a_formula(database, service):
    """
    Whatever the model and the providers write, each cell is a figure, a date, an id or a fixed
    word.
    """
    with psycopg.connect(database) as conn:
        conn.execute("SET session_replication_role = replica")
        conn.execute("UPDATE picks SET reasoning = '=cmd|''/c calc''!A1'")
        conn.execute("UPDATE checkpoints SET note = '@SUM(1+1)' WHERE skip_reason IS NOT NULL")
        conn.execute("UPDATE batches SET failure = '+1' WHERE failure IS NOT NULL")
    plain = re.compile(
        r"|-?[0-9]+(\.[0-9]+)?|[0-9]{4}-[0-9]{2}-[0-9]{2}|[0-9a-f-]{36}|[A-Za-z_]+|[A-Z]+\.[A-Z]"
    )
    rows = await in_csv(service)
    assert {text for row in rows for text in row.values() if not plain.fullmatch(text)} == set()
    whole = (await in_json(service))["rows"]
    assert [row["reasoning"] for row in whole if row["day"] == 0] == ["=cmd|'/c calc'!A1"] * 9


async def test_the_csv_is_rfc_4180(service):
    """There is a header, every line has the same number of cells, and each line ends with CRLF."""
    text = (await service.client.get("/export.csv")).text
    lines = text.split("\r\n")
    assert lines[0].split(",") == list(COLUMNS)
    assert {line.count(",") for line in lines[:-1]} == {len(COLUMNS) - 1}
    assert (lines[-1], "\n" in text.replace("\r\n", "")) == ("", False)


def test_every_column_is_explained():
    """docs/export.md has a row for each column, in their order, and one for each text of JSON."""
    named = re.findall(r"^\| `(\w+)` \|", DOCS, re.MULTILINE)
    assert named == list(JsonRow.__struct_fields__)


@pytest.mark.parametrize(
    ("parameters", "mondays"),
    [
        pytest.param(
            {"from": "2026-01-19"}, ["2026-01-26", "2026-01-19"], id="from a Monday, that one too"
        ),
        pytest.param({"from": "2026-01-20"}, ["2026-01-26"], id="from a Tuesday"),
        pytest.param(
            {"to": "2026-01-12"}, ["2026-01-12", "2026-01-05"], id="to a Monday, that one too"
        ),
        pytest.param({"to": "2026-01-11"}, ["2026-01-05"], id="to a Sunday"),
        pytest.param({"from": "2026-01-12", "to": "2026-01-12"}, ["2026-01-12"], id="one Monday"),
        pytest.param(
            {"to": "9999-12-31"},
            ["2026-01-26", "2026-01-19", "2026-01-12", "2026-01-05"],
            id="for ever",
        ),
        pytest.param({"to": "0001-01-01"}, [], id="before everything"),
    ],
)
@pytest.mark.sampled(3)
async def test_which_mondays(service, parameters, mondays):
    """Both ends of the range are included, and need not be Mondays."""
    assert (
        list(dict.fromkeys(row["run_date"] for row in await in_csv(service, **parameters)))
        == mondays
    )
    assert {row["run_date"] for row in (await in_json(service, **parameters))["rows"]} == set(
        mondays
    )


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("from=19.1.2026", "`from` must be a date written as YYYY-MM-DD, such as 2026-11-16."),
        ("to=2026-02-30", "`to` must be a date written as YYYY-MM-DD, such as 2026-11-16."),
        ("from=", "`from` must be a date written as YYYY-MM-DD, such as 2026-11-16."),
        (
            "from=2026-01-12&to=2026-01-05",
            "`from` must not be after `to`: 2026-01-12 is after 2026-01-05.",
        ),
        ("from=2026-01-12&from=2026-01-05", "`from` may be given only once."),
        (
            "form=csv",
            "An export has no parameter `form`. Its parameters are `from`, `to` and `series`.",
        ),
        ("series=%00", 'There is no series "\0". The series: main, second.'),
        ("series=", 'There is no series "". The series: main, second.'),
        ("series=Main", 'There is no series "Main". The series: main, second.'),
        ("series=nobody%27s", 'There is no series "nobody\'s". The series: main, second.'),
        (f"series={'m' * 999}", f'There is no series "{"m" * 40}...". The series: main, second.'),
    ],
)
@pytest.mark.parametrize("form", ["csv", "json"])
@pytest.mark.sampled(7)
async def test_what_is_refused(service, form, query, message):
    """
    An invalid parameter is refused and never ignored: the client would take the wrong rows for
    the right ones.
    """
    answer = await service.client.get(f"/export.{form}?{query}")
    assert answer.status_code == 400
    assert answer.json()["errors"] == [{"message": message, "extensions": {"code": "BAD_REQUEST"}}]


async def test_an_empty_record(database):
    """CSV has its header, JSON has its members, and there is no head."""
    async with living(database) as service:
        answer = await service.client.get("/export.csv")
        assert (answer.text, answer.headers["x-journal-head"]) == (
            ",".join(COLUMNS) + "\r\n",
            "none",
        )
        document = await in_json(service)
    assert (document["head"], document["at"], document["rows"]) == (None, None, [])


async def test_what_is_known_is_not_sent_again(service, pool):
    """A request with the ETag of the head gets 304, until the record changes."""
    tag = (await service.client.get("/export.csv")).headers["etag"]
    again = await service.client.get("/export.csv", headers={"If-None-Match": tag})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    await write(pool, 1)
    after = await service.client.get("/export.csv", headers={"If-None-Match": tag})
    assert (after.status_code, after.headers["etag"] == tag) == (200, False)


async def test_methods(service):
    """HEAD gets the headers of GET, without the rows; other methods are refused."""
    whole, head = (
        await service.client.get("/export.json"),
        await service.client.head("/export.json"),
    )
    for answer in (whole, head):
        del answer.headers["x-request-id"]
    assert (head.status_code, head.headers, head.content) == (200, whole.headers, b"")
    other = await service.client.post("/export.json")
    assert (other.status_code, other.headers["allow"]) == (405, "GET, HEAD")


async def test_a_rehearsal_says_so(database):
    """Every row, the first line of JSON, and a header say so."""
    plant(database)
    async with living(database, rehearsed=True) as service:
        assert {row["rehearsed"] for row in await in_csv(service)} == {"true"}
        assert (await in_json(service))["rehearsed"] is True
        assert (await service.client.get("/export.csv")).headers["x-rehearsed"] == "true"


async def test_many_mondays_one_after_the_other(database, pool):
    """
    However many parts are read, every Monday is exported once, newest first, and JSON is one
    document.
    """
    for number in range(1, 46):
        await write(pool, number)
    mondays = [str(a_monday(number).run_date) for number in range(45, 0, -1)]
    async with living(database) as service:
        assert [row["run_date"] for row in await in_csv(service)] == mondays
        assert [row["run_date"] for row in (await in_json(service))["rows"]] == mondays
        some = await in_csv(service, **{"from": mondays[41], "to": mondays[3]})
        assert [row["run_date"] for row in some] == mondays[3:42]


async def test_another_series(database, pool):
    """A series beside `main` has an export of its own."""
    plant(database)
    async with (
        snapshot_fetcher(pool) as fixed,
        aclosing(read_parts(Engine(schema, fixed, FACTS), ExportRange("second"))) as reading,
    ):
        parts = [part async for part in reading]
    assert {(row.series, row.run_date) for part in parts for row in part.rows} == {
        ("second", "2026-01-05")
    }


async def test_an_export_is_of_one_moment(database, pool):
    """What is committed while the export is read is neither in its later parts nor in its head."""
    for number in range(1, 46):
        await write(pool, number)
    heads, count = set(), 0
    async with (
        snapshot_fetcher(pool) as fixed,
        aclosing(read_parts(Engine(schema, fixed, FACTS), ExportRange())) as read,
    ):
        async for part in read:
            heads.add(part.head["seq"])
            count += len(part.rows)
            await write(pool, 46 + len(heads) + count)
            with psycopg.connect(database) as conn:  # nor what was changed in the meantime
                conn.execute("SET session_replication_role = replica")
                conn.execute(
                    "UPDATE batches SET late = NOT late, series = 'other' WHERE run_date < "
                    "'2020-02-01'"
                )
    assert (heads, count) == ({"45"}, 45)


class Client:
    """A client of an ASGI application that reads only when the test lets it."""

    def __init__(self, path: str, address: str = "test") -> None:
        self.scope = {
            "type": "http",
            "method": "GET",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [],
            "root_path": "",
            "scheme": "http",
            "server": ("test", 80),
            "client": (address, 1),
            "http_version": "1.1",
        }
        self.reads, self.gone = asyncio.Event(), asyncio.Event()
        self.got: list[dict[str, Any]] = []
        self.begun = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        self.got.append(message)
        self.begun.set()
        if message["type"] == "http.response.body":
            await self.reads.wait()

    @property
    def whole(self) -> bool:
        return (
            bool(self.got)
            and self.got[-1]["type"] == "http.response.body"
            and not self.got[-1].get("more_body")
        )


async def test_few_at_once(service):
    """A further request is refused while others are still reading; then there is room again."""
    clients = [
        Client("/export.csv", f"192.0.2.{number}") for number in range(downloads.MAX_EXPORTS)
    ]
    asking = [
        asyncio.create_task(service.cache(one.scope, one.receive, one.send)) for one in clients
    ]
    for client in clients:
        await client.begun.wait()
    refused = await service.client.get("/export.csv")
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
    assert refused.json()["errors"][0]["extensions"]["code"] == "SERVICE_UNAVAILABLE"
    for client in clients:
        client.reads.set()
    await asyncio.gather(*asking)
    assert all(client.whole for client in clients)
    assert (await service.client.get("/export.csv")).status_code == 200


@pytest.mark.parametrize("form", ["csv", "json"])
async def test_one_address_leaves_a_place_for_another(form, service):
    """
    Its next export is refused with the reason. Another address gets one, and so does it when
    one has ended.
    """
    slow = [Client(f"/export.{form}", "192.0.2.1") for _ in range(downloads.MAX_EXPORTS - 1)]
    asking = [asyncio.create_task(service.cache(one.scope, one.receive, one.send)) for one in slow]
    for client in slow:
        await client.begun.wait()
    one_more, other = Client("/export.csv", "192.0.2.1"), Client("/export.json", "192.0.2.2")
    for client in (one_more, other):
        client.reads.set()
        await service.cache(client.scope, client.receive, client.send)
    assert one_more.got[0]["status"] == 503
    assert dict(one_more.got[0]["headers"])[b"retry-after"] == b"5"
    assert b"Your address has 2 exports in progress" in one_more.got[1]["body"]
    assert (other.got[0]["status"], other.whole) == (200, True)
    for client in slow:
        client.reads.set()
    await asyncio.gather(*asking)
    again = Client("/export.csv", "192.0.2.1")
    again.reads.set()
    await service.cache(again.scope, again.receive, again.send)
    assert (again.got[0]["status"], again.whole) == (200, True)


@pytest.mark.parametrize("how", ["gone", "stalled"])
@pytest.mark.sampled(1)
async def test_who_does_not_read_holds_nothing(database, pool, how, monkeypatch):
    """
    A client that disconnected or stopped reading gives its place back; its export stays without
    an end.
    """
    for number in range(1, 46):
        await write(pool, number)
    monkeypatch.setattr(downloads, "READ_TIMEOUT", 0.2)
    async with living(database) as service:
        for _ in range(downloads.MAX_EXPORTS + 1):
            client = Client("/export.json")
            if how == "gone":
                client.gone.set()
                client.reads.set()
            await service.cache(client.scope, client.receive, client.send)
            assert client.got[0]["status"] == 200
            assert not client.whole
        assert (await service.client.get("/export.json")).json()["rows"]


async def test_a_database_that_goes_away(database, pool, service):
    """Before the first row the response is 503; in the middle, the export stays without an end."""
    client = Client("/export.csv")
    for number in range(1, 46):
        await write(pool, number)
    asking = asyncio.create_task(service.cache(client.scope, client.receive, client.send))
    await client.begun.wait()
    with psycopg.connect(database, autocommit=True) as conn:
        ended = conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'alpha-monday exports' AND state = 'idle in transaction'"
        )
        assert ended.rowcount == 1
    client.reads.set()
    await asking
    assert (client.got[0]["status"], client.whole) == (200, False)


async def test_on_a_real_socket(tmp_path, database):
    """A client that disconnects in the middle blocks neither other clients nor the shutdown."""
    plant_years(database, 200)

    def read_beginning() -> bool:
        with httpx.stream("GET", f"{started.address}/export.csv", timeout=30) as answer:
            return next(answer.iter_raw()).startswith(b"series,run_date")

    with serving(tmp_path, DATABASE_URL=database) as started:
        for _ in range(downloads.MAX_EXPORTS + 1):
            # The service notices a moment later that a client has left. Until then its export
            # counts, and another one of the same address may be refused.
            until(read_beginning, 30)
        until(
            lambda: httpx.get(f"{started.address}/export.json", timeout=30).status_code == 200, 30
        )
        whole = httpx.get(f"{started.address}/export.csv", timeout=60)
        assert whole.text.count("\r\n") == 1 + 200 * 45


def test_the_command_writes_what_the_address_gives(database, tmp_path, commanded):
    """
    The command writes the same bytes; the file's ending chooses the format, and the last line
    has the head.
    """
    plant(database)

    async def both() -> list[bytes]:
        async with living(database) as service:
            return [
                (await service.client.get(f"/export.{form}")).content for form in ("csv", "json")
            ]

    expected = asyncio.run(both())
    for form, content in zip(("csv", "json"), expected, strict=True):
        file = tmp_path / f"all.{form}"
        result = commanded("export", file, "--series", "main", DATABASE_URL=database)
        assert (result.exit_code, file.read_bytes()) == (0, content)
        assert re.fullmatch(
            r"Exported: 106 rows of 4 batches\. The head: 56:[0-9a-f]{64}\n", result.output
        )
        assert file.stat().st_mode & 0o444 == 0o444
    for form, content in zip(("CSV", "Json"), expected, strict=True):
        file = tmp_path / f"capitals.{form}"
        assert (
            commanded(
                "export",
                *[file, "--format", form.lower(), "--series", "main"],
                DATABASE_URL=database,
            ).exit_code
            == 0
        )
        assert file.read_bytes() == content


async def test_the_command_into_a_pipe(database, tmp_path):
    """The standard output has only the rows, and a closed pipe causes no traceback."""
    plant(database)
    settings = environment(DATABASE_URL=database)
    pipe = asyncio.subprocess.PIPE
    exporting = await asyncio.create_subprocess_exec(
        *[ALPHA_MONDAY, "export", "--series", "main"],
        cwd=tmp_path,
        env=settings,
        stdout=pipe,
        stderr=pipe,
    )
    out, err = await exporting.communicate()
    assert (exporting.returncode, out[:7], out.count(b"\r\n")) == (0, b"series,", 107)
    assert without_place(err.decode()).startswith("Exported: 106 rows of 4 batches. The head: 56:")
    cut = await asyncio.create_subprocess_exec(
        "sh", "-c", f"set -o pipefail 2>/dev/null; {ALPHA_MONDAY} export - | true",
        cwd=tmp_path, env=settings, stdout=pipe, stderr=pipe,
    )  # fmt: skip
    _, err = await cut.communicate()
    assert b"Traceback" not in err


def test_the_command_refuses(database, tmp_path, commanded):
    """An existing file is not overwritten without --force, and an incomplete file is removed."""
    file = tmp_path / "all.csv"
    file.write_text("mine")
    result = commanded("export", file, DATABASE_URL=database)
    assert (result.exit_code, "already exists" in result.error, file.read_text()) == (
        1,
        True,
        "mine",
    )
    assert commanded("export", file, "--force", DATABASE_URL=database).exit_code == 0
    assert file.read_bytes() == ",".join(COLUMNS).encode() + b"\r\n"
    assert commanded("export", file, "--format", "xlsx", DATABASE_URL=database).exit_code == 2
    lost = commanded("export", tmp_path / "no" / "all.csv", DATABASE_URL=database)
    assert (lost.exit_code, "could not be written to" in lost.error) == (1, True)
    assert [path.name for path in tmp_path.iterdir()] == ["all.csv"]


# The kind: a name that promises another content than it gets. `export picks.xlsx` wrote CSV.
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("picks.xlsx", []),
        ("picks.xls", []),
        ("picks.ods", []),
        ("picks.tsv", []),
        ("picks.txt", []),
        ("picks.parquet", []),
        ("picks.jsonl", []),
        ("picks.csv.gz", []),
        ("picks.csv.xlsx", []),
        ("picks.csv ", []),
        ("picks.csv~", []),
        ("picks.", []),
        ("picks", []),
        ("csv", []),
        (".csv", []),
        ("picks.xlsx", ["--format", "csv"]),
        ("picks", ["--format", "json"]),
        ("picks.csv", ["--format", "json"]),
        ("picks.JSON", ["--format", "csv"]),
        ("picks.xlsx", ["--force"]),
    ],
)
def test_the_command_refuses_a_name(database, tmp_path, commanded, name, options):
    """
    One line says which names are valid; nothing is written, and an existing file stays
    unchanged.
    """
    file = tmp_path / name
    if "--force" in options:
        file.write_text("mine")
    result = commanded("export", file, *options, DATABASE_URL=database)
    assert (result.exit_code, result.output, len(result.error.splitlines())) == (1, "", 1)
    fits = (
        "Leave --format out"
        if name.lower().endswith((".csv", ".json")) and "--format" in options
        else "FILE must end"
    )
    assert fits in result.error
    assert [path.read_text() for path in tmp_path.iterdir()] == (
        ["mine"] if "--force" in options else []
    )


# The kind: the text of a refusal that quotes the name.
@pytest.mark.parametrize(
    ("file", "says"),
    [
        pytest.param("", "this one is empty", id="empty"),
        pytest.param("no/such/.csv", "'.csv' has no name before its ending", id="only an ending"),
        pytest.param(
            ".JSON", "'.JSON' has no name before its ending", id="only an ending in capitals"
        ),
        pytest.param("picks.xlsx", "'picks.xlsx' does not", id="another ending"),
        pytest.param("picks.", "'picks.' does not", id="a full stop"),
        pytest.param(" ", "' ' does not", id="a blank"),
        pytest.param("picks.csv\n", r"'picks.csv\n' does not", id="a line's end"),
        pytest.param("csv.-", "'csv.-' does not", id="nearly the standard output"),
    ],
)
def test_what_is_wrong_with_a_name(database, commanded, file, says):
    """The error says which names are valid, and how to write to the standard output."""
    result = commanded("export", file, DATABASE_URL=database)
    assert (result.exit_code, result.output, result.error) == (
        1,
        "",
        f"alpha-monday: FILE must end in .csv or .json, as in picks.csv; {says}. "
        "For the standard output, write `-` in its place and choose with --format.\n",
    )


@pytest.mark.long
async def test_memory_does_not_grow_with_the_record(tmp_path, database):
    """To export forty times as many rows takes no more memory."""
    peaks = []
    for mondays in (50, 2_000):
        with psycopg.connect(database, autocommit=True) as conn:
            conn.execute("SET session_replication_role = replica")
            for table in (
                "journal",
                "corrections",
                "generations",
                "pick_checkpoint_metrics",
                "checkpoints",
            ):
                conn.execute(f"DELETE FROM {table}")
            for table in ("picks", "batches", "closes"):
                conn.execute(f"DELETE FROM {table}")
        plant_years(database, mondays)
        with serving(tmp_path, DATABASE_URL=database) as started:
            rows, row, left = 0, b'{"series"', b""
            with httpx.stream("GET", f"{started.address}/export.json", timeout=600) as answer:
                for chunk in answer.iter_raw():
                    text = left + chunk  # a row may begin in one chunk and go on in the next
                    rows, left = rows + text.count(row), text[1 - len(row) :]
            assert rows == mondays * 45
            status = Path(f"/proc/{started.process.pid}/status").read_text()
            peaks.append(int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]))
    print(f"peaks: {peaks} kB")
    assert peaks[1] < peaks[0] + 16 * 1024
