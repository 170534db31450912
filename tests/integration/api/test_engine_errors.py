"""Every error of a caller, and every error of ours, has a code, and none reveals too much."""

import json
from base64 import b64encode
from collections.abc import AsyncIterator

import psycopg
import pytest
import structlog
from api_records import FACTS, an_id, engine_on, plant
from psycopg import errors

from api.engine import Engine
from api.schema import schema
from app.database import pools
from app.database.queries import pool_fetcher

SURROGATE = "\ud800"


@pytest.fixture
async def pool(migrated) -> AsyncIterator[pools.Pool]:
    """A pool on the migrated database, to which only tests with the fixture `database` write."""
    async with pools.opened(pools.make_pool(migrated, max_size=1)) as opened:
        yield opened


def a_cursor(text: str) -> str:
    return b64encode(text.encode()).decode()


def codes(answer) -> list[str]:
    return [error["extensions"]["code"] for error in json.loads(answer.body).get("errors", [])]


@pytest.mark.parametrize(
    "malformed",
    [
        pytest.param("", id="empty"),
        pytest.param("nope", id="a word"),
        pytest.param("5" * 60_000, id="very long"),
        pytest.param("\0", id="NUL"),
        pytest.param(str(an_id(3, 1)) + "\0", id="an id and NUL"),
        pytest.param(SURROGATE, id="lone surrogate"),
        pytest.param(SURROGATE * 32, id="lone surrogates"),
        pytest.param("١" * 32, id="other digits"),
        pytest.param(f"urn:uuid:{an_id(3, 1)}", id="a URN"),
        pytest.param(an_id(3, 1).hex, id="without hyphens"),
        pytest.param(5, id="a number"),
    ],
)
@pytest.mark.parametrize("field", ["batch", "pick"])
async def test_a_malformed_id(field, malformed, pool):
    """A text that cannot be an id is refused, with the form of an id. Null is for an unknown id."""
    query = f"query($id: ID!) {{ {field}(id: $id) {{ id }} }}"
    answer = await engine_on(pool).execute(query, {"id": malformed})
    body = json.loads(answer.body)
    assert (body["data"], codes(answer)) == ({field: None}, ["BAD_ID"])
    assert body["errors"][0]["message"].startswith("An id is a UUID with hyphens")
    assert len(body["errors"][0]["message"]) < 200
    unknown = await engine_on(pool).execute(query, {"id": str(an_id(9, 9))})
    assert json.loads(unknown.body) == {"data": {field: None}}


async def test_an_id_is_known_in_capitals(database, pool):
    plant(database)
    query = "query($id: ID!) { batch(id: $id) { id } }"
    answer = await engine_on(pool).execute(query, {"id": str(an_id(3, 10)).upper()})
    assert json.loads(answer.body) == {"data": {"batch": None}}
    answer = await engine_on(pool).execute(query, {"id": str(an_id(3, 1)).upper()})
    assert json.loads(answer.body) == {"data": {"batch": {"id": str(an_id(3, 1))}}}


@pytest.mark.parametrize(
    "text", [pytest.param("A\0", id="NUL"), pytest.param(f"A{SURROGATE}", id="lone surrogate")]
)
@pytest.mark.parametrize(
    "query",
    [
        "query($text: String!) { latestBatch(series: $text) { id } }",
        "query($text: String!) { batches(series: $text) { nodes { id } } }",
        'query($text: String!) { batchOn(runDate: "2026-01-05", series: $text) { id } }',
        "query($text: String!) { picks(ticker: $text) { nodes { id } } }",
    ],
)
async def test_a_text_that_cannot_be_stored(query, text, pool):
    """Postgres stores neither NUL nor lone surrogates, so no search for them is sent."""
    assert codes(await engine_on(pool).execute(query, {"text": text})) == ["BAD_TEXT"]


async def test_a_text_with_nul_in_the_document(pool):
    assert codes(await engine_on(pool).execute('{ latestBatch(series: "\\u0000") { id } }')) == [
        "BAD_TEXT"
    ]


@pytest.mark.parametrize(
    ("field", "cursor"),
    [
        pytest.param(field, cursor, id=f"{field}, {what}")
        for field, own in {
            "batches": "2026-01-05",
            "picks(ticker)": f"2026-01-05 {an_id(4, 1)}",
            "journal": "7",
        }.items()
        for what, cursor in {
            "empty": "",
            "no base64": "!!",
            "other digits": "٧",
            "NUL": "\0",
            "lone surrogate": SURROGATE,
            "encoded NUL": a_cursor("\0"),
            "no UTF-8": b64encode(b"\xff").decode(),
            "a word": a_cursor("word"),
            "no such date": a_cursor("2026-13-01"),
            "a date as a week": a_cursor("2026-W02-1"),
            "infinity": a_cursor("infinity"),
            "just beyond bigint": a_cursor(str(2**63)),
            "far beyond bigint": a_cursor("9" * 5000),
            "a number with a sign": a_cursor("+7"),
            "a number with a space": a_cursor(" 7"),
            "too much": a_cursor(f"{own} {own}"),
            "of batches": a_cursor("2026-01-05") if field != "batches" else "",
            "of picks": a_cursor(f"2026-01-05 {an_id(4, 1)}") if field != "picks(ticker)" else "",
            "of the journal": a_cursor("7") if field != "journal" else "",
        }.items()
    ],
)
async def test_a_cursor_of_no_such_list(field, cursor, pool):
    field = field.replace("(ticker)", '(ticker: "AAPL", after: $after)')
    field = field if "(" in field else f"{field}(after: $after)"
    answer = await engine_on(pool).execute(
        f"query($after: String) {{ {field} {{ nodes {{ __typename }} }} }}", {"after": cursor}
    )
    assert codes(answer) == ["BAD_CURSOR"]
    assert json.loads(answer.body)["data"] is None


@pytest.mark.parametrize("first", [0, -1, 101, 2**31 - 1])
async def test_a_page_of_no_such_size(first, pool):
    """The error names the requested size."""
    answer = await engine_on(pool).execute(
        "query($n: Int!) { journal(first: $n) { nodes { seq } } }", {"n": first}
    )
    assert codes(answer) == ["BAD_PAGE_SIZE"]
    assert f"not {first}." in json.loads(answer.body)["errors"][0]["message"]


@pytest.mark.parametrize(
    "day",
    ["", "tomorrow", "20260105", "2026-1-5", "2026-W02-1", "2026-02-30", "0000-01-01",
        "10000-01-01",
     "2026-01-05T00:00", " 2026-01-05", "2026-01-05\n", "٢٠٢٦-01-05", "infinity", "\0", SURROGATE,
     20260105, True, ["2026-01-05"]],
    ids=repr,
)  # fmt: skip
async def test_a_date_that_is_none(day, pool):
    answer = await engine_on(pool).execute(
        "query($day: Date!) { batchOn(runDate: $day) { id } }", {"day": day}
    )
    assert answer.error_code == "BAD_DATE"


@pytest.mark.parametrize("day", ['"2026-1-5"', "20260105", "MONDAY", "{a: 1}"])
async def test_a_date_in_the_document_that_is_none(day, pool):
    """The error has its location."""
    answer = await engine_on(pool).execute(f"{{ batchOn(runDate: {day}) {{ id }} }}")
    assert answer.error_code == "BAD_DATE"
    assert json.loads(answer.body)["errors"][0]["locations"] == [{"line": 1, "column": 20}]


@pytest.mark.parametrize(
    "day", ["0001-01-01", "9999-12-27", "2024-01-29", "2999-12-30", "2026-11-30"]
)
async def test_a_monday_without_a_batch(day, pool):
    """
    A Monday long ago, in the future, or not yet begun could have a batch and has none: null,
    without an error.
    """
    answer = await engine_on(pool).execute(
        "query($day: Date!) { batchOn(runDate: $day) { id } }", {"day": day}
    )
    assert json.loads(answer.body) == {"data": {"batchOn": None}}


# The kind: an argument that no value of the record can ever equal. It is refused with a code, and
# the message says what would be valid. The first cases were "nvda", a Tuesday and an unknown
# series. Each is also sent in the document, in variables, by POST and by GET
# (test_values_are_refused_in_every_form_of_a_request).


@pytest.mark.parametrize(
    ("day", "message"),
    [
        ("2026-11-24", "2026-11-24 is a Tuesday. Its week began on 2026-11-23."),
        ("2026-01-11", "2026-01-11 is a Sunday. Its week began on 2026-01-05."),
        ("2026-01-10", "2026-01-10 is a Saturday. Its week began on 2026-01-05."),
        ("2024-02-29", "2024-02-29 is a Thursday. Its week began on 2024-02-26."),
        ("0001-01-02", "0001-01-02 is a Tuesday. Its week began on 0001-01-01."),
        ("9999-12-31", "9999-12-31 is a Friday. Its week began on 9999-12-27."),
    ],
)
async def test_a_run_date_that_is_no_monday(day, message, pool):
    answer = await engine_on(pool).execute(
        "query($day: Date!) { batchOn(runDate: $day) { id } }", {"day": day}
    )
    assert json.loads(answer.body)["data"] == {"batchOn": None}
    assert codes(answer) == ["BAD_DATE"]
    assert (
        json.loads(answer.body)["errors"][0]["message"] == f"`runDate` must be a Monday; {message}"
    )


@pytest.mark.parametrize(
    ("ticker", "hint"),
    [
        pytest.param("nvda", " Ask for NVDA.", id="small letters"),
        pytest.param("Nvda", " Ask for NVDA.", id="one capital"),
        pytest.param("BRK-B", " Ask for BRK.B.", id="a dash"),
        pytest.param("brk.b", " Ask for BRK.B.", id="small letters and a dot"),
        pytest.param("BRK/B", "", id="a slash"),
        pytest.param(" NVDA", " Ask for NVDA.", id="a space before"),
        pytest.param("NVDA\n", " Ask for NVDA.", id="a line feed behind"),
        pytest.param("NV DA", "", id="a space within"),
        pytest.param("", "", id="an empty text"),
        pytest.param("TOOLONG", "", id="too long"),
        pytest.param("BRK.BB", "", id="a long class"),
        pytest.param("BRK.", "", id="no class"),
        pytest.param("3M", "", id="a digit"),
        pytest.param("NASDAQ:NVDA", "", id="an exchange"),
        pytest.param("$NVDA", "", id="a sign"),
        pytest.param("ＮＶＤＡ", "", id="wide letters"),
        pytest.param("ﬁ", "", id="a ligature"),
        pytest.param("%", "", id="a wildcard"),
        pytest.param("N" * 5_000, "", id="very long"),
    ],
)
@pytest.mark.parametrize("field", ["picks", "closes", "splits"])
async def test_a_ticker_that_no_share_can_have(field, ticker, hint, pool):
    """
    Each is refused with the record's one form, and with the corrected text where there is one.
    """
    query = f"query($ticker: String!) {{ {field}(ticker: $ticker) {{ nodes {{ __typename }} }} }}"
    answer = await engine_on(pool).execute(query, {"ticker": ticker})
    body = json.loads(answer.body)
    assert (body["data"], codes(answer)) == (None, ["BAD_TICKER"])
    message = body["errors"][0]["message"]
    assert message.startswith(
        "A ticker is written in capitals, such as NVDA, or BRK.B for a class of shares,"
    )
    assert message.endswith(f'".{hint}')
    assert len(message) < 200


@pytest.mark.parametrize("ticker", ["NVDA", "BRK.B", "F", "GOOGL", "SPY", "ZZZZZ.Z"])
@pytest.mark.parametrize("field", ["picks", "closes", "splits"])
async def test_a_ticker_of_which_nothing_is_known(field, ticker, pool):
    """It is well-formed, so its list is empty."""
    answer = await engine_on(pool).execute(
        f'{{ {field}(ticker: "{ticker}") {{ nodes {{ __typename }} }} }}'
    )
    assert json.loads(answer.body) == {"data": {field: {"nodes": []}}}


@pytest.mark.parametrize(
    "series", ["unknown", "Main", "MAIN", " main", "main ", "", "máin", "main'--", "m" * 9_999]
)
@pytest.mark.parametrize(
    ("field", "data"),
    [
        ("latestBatch(series: $series) { id }", {"latestBatch": None}),
        ('batchOn(runDate: "2026-01-05", series: $series) { id }', {"batchOn": None}),
        ("batches(series: $series) { nodes { id } }", None),
        ("trackRecord(series: $series) { series }", None),
    ],
)
async def test_a_series_that_is_not_there(field, data, series, pool):
    """It is refused, and the message names the existing series."""
    answer = await engine_on(pool).execute(
        f"query($series: String!) {{ {field} }}", {"series": series}
    )
    body = json.loads(answer.body)
    assert (body["data"], codes(answer)) == (data, ["BAD_SERIES"])
    assert body["errors"][0]["message"].startswith(f'There is no series "{series[:40]}')
    assert body["errors"][0]["message"].endswith("The series: main, second.")
    assert len(body["errors"][0]["message"]) < 120


@pytest.mark.parametrize("series", sorted(FACTS.series))
async def test_each_series_that_is_there(series, pool):
    """A series without a Monday is not refused: its list is empty."""
    query = """query($series: String!) {
        latestBatch(series: $series) { id } batches(series: $series) { nodes { id } }
        trackRecord(series: $series) { series batches { total } } }"""
    answer = await engine_on(pool).execute(query, {"series": series})
    total = {"series": series, "batches": {"total": 0}}
    assert json.loads(answer.body)["data"] == {
        "latestBatch": None,
        "batches": {"nodes": []},
        "trackRecord": total,
    }


async def test_a_refused_argument_asks_the_database_nothing_more():
    """
    The known series are cached by the process. For another name, only the names are read again; for
    a text that can be no name, nothing is read.
    """
    statements = []

    async def fetch(sql, parameters):
        statements.append((sql[:20], parameters))
        return [b'["main"]']

    engine = Engine(schema, fetch, FACTS)
    await engine.execute('{ latestBatch(series: "second") { id } }')
    await engine.execute('{ batches(series: "unknown") { nodes { id } } }')
    await engine.execute('{ batches(series: "Main") { nodes { id } } }')
    assert statements == [("SELECT c1 FROM (SELE", ["second"]), ("SELECT coalesce(json", [])]


async def test_neighbours_of_a_refused_argument(database, pool):
    """A nullable field is null with its error, and the other fields are answered."""
    plant(database)
    answer = await engine_on(pool).execute(
        """{ tuesday: batchOn(runDate: "2026-01-06") { id } monday: batchOn(runDate: "2026-01-05") {
            late }
        other: latestBatch(series: "third") { id } }"""
    )
    body = json.loads(answer.body)
    assert body["data"] == {"tuesday": None, "monday": {"late": False}, "other": None}
    assert [(error["path"], error["extensions"]["code"]) for error in body["errors"]] == [
        (["tuesday"], "BAD_DATE"), (["other"], "BAD_SERIES"),
    ]  # fmt: skip
    assert {error["extensions"]["classification"] for error in body["errors"]} == {
        "ValidationError"
    }
    assert not answer.is_cacheable


@pytest.mark.parametrize(
    ("query", "variables", "operation_name", "code"),
    [
        pytest.param("", None, None, "GRAPHQL_PARSE_FAILED", id="nothing"),
        pytest.param("{", None, None, "GRAPHQL_PARSE_FAILED", id="half a document"),
        pytest.param(f'{{ batch(id: "{SURROGATE}") {{ id }} }}', None, None, "GRAPHQL_PARSE_FAILED",
            id="surrogate"),
        pytest.param("{" + "a " * 1000 + "}", None, None, "TOO_MANY_TOKENS", id="many tokens"),
        pytest.param("{ service { version } }" + " " * 16_000, None, None, "DOCUMENT_TOO_LONG",
            id="long"),
        pytest.param("{a" * 400 + "}" * 400, None, None, "DOCUMENT_TOO_DEEP", id="deep"),
        pytest.param("{ nope }", None, None, "GRAPHQL_VALIDATION_FAILED", id="unknown field"),
        pytest.param("{ latestBatch }", None, None, "GRAPHQL_VALIDATION_FAILED", id="no selection"),
        pytest.param("fragment F on Batch { id }", None, None, "GRAPHQL_VALIDATION_FAILED",
            id="no operation"),
        pytest.param("query A { service { version } } query B { service { version } }", None, None,
                     "OPERATION_RESOLUTION_FAILURE", id="which operation"),
        pytest.param("query A { service { version } }", None, "B", "OPERATION_RESOLUTION_FAILURE",
            id="no such name"),
        pytest.param("query A { service { version } }", None, SURROGATE,
            "OPERATION_RESOLUTION_FAILURE",
                     id="a name that cannot be written"),
        pytest.param("mutation { pick }", None, None, "OPERATION_NOT_SUPPORTED", id="mutation"),
        pytest.param("subscription { pick }", None, None, "OPERATION_NOT_SUPPORTED",
            id="subscription"),
        pytest.param("query($id: ID!) { batch(id: $id) { id } }", None, None, "BAD_USER_INPUT",
            id="no variable"),
        pytest.param("query($id: ID!) { batch(id: $id) { id } }", {"id": None}, None,
            "BAD_USER_INPUT", id="null"),
        pytest.param("query($id: ID!) { batch(id: $id) { id } }", {"id": {"a": [1]}}, None,
            "BAD_USER_INPUT",
                     id="object"),
        pytest.param("query($n: Int!) { journal(first: $n) { nodes { seq } } }", {"n": "5"}, None,
            "BAD_USER_INPUT",
                     id="a text for a number"),
        pytest.param("query($n: Int!) { journal(first: $n) { nodes { seq } } }", {"n": 2**31}, None,
            "BAD_USER_INPUT",
                     id="a number beyond Int"),
        pytest.param("query($n: Int = 5) { journal(first: $n) { nodes { seq } } }", {"n": None},
            None, "BAD_USER_INPUT",
                     id="null where a default stands"),
        pytest.param("query($s: BatchStatus) { batches(status: $s) { nodes { id } } }",
            {"s": "active"}, None,
                     "BAD_USER_INPUT", id="no value of the enum"),
        pytest.param("query($on: Boolean = true) { latestBatch { id @skip(if: $on) } }",
            {"on": None}, None,
                     "BAD_USER_INPUT", id="null for a directive"),
    ],
)  # fmt: skip
async def test_a_wrong_request(query, variables, operation_name, code, pool):
    answer = await engine_on(pool).execute(query, variables, operation_name)
    assert set(codes(answer)) == {code}


async def test_at_most_a_handful_of_errors(pool):
    answer = await engine_on(pool).execute("{ " + " ".join(f"nope{n}" for n in range(100)) + " }")
    assert set(codes(answer)) == {"GRAPHQL_VALIDATION_FAILED"}
    assert len(codes(answer)) <= 6


async def test_a_root_field_fails_alone(database, pool):
    """A nullable field that refuses its argument is null; its neighbours are answered."""
    plant(database)
    answer = await engine_on(pool).execute(
        '{ latestBatch(series: "\\u0000") { id } batchOn(runDate: "2026-01-05") { late } }'
    )
    assert json.loads(answer.body)["data"] == {"latestBatch": None, "batchOn": {"late": False}}
    assert json.loads(answer.body)["errors"][0]["path"] == ["latestBatch"]


async def test_a_promise_that_the_data_breaks(database, pool):
    """
    A null where the schema promises a value is our error: the log names the field, and no value is
    invented.
    """
    plant(database)
    with psycopg.connect(database) as conn:
        conn.execute("SET session_replication_role = replica")  # or the foreign key would refuse
        conn.execute(
            "DELETE FROM closes WHERE id = (SELECT initial_close_id FROM picks WHERE id = %s)",
            [an_id(4, 10)],
        )
    with structlog.testing.capture_logs() as lines:
        answer = await engine_on(pool).execute(
            "{ latestBatch { picks { initialClose { close } } } }"
        )
    (error,) = json.loads(answer.body)["errors"]
    assert error["extensions"] == {"code": "RECORD_DAMAGED"}
    assert error["path"] == ["latestBatch", "picks", 2, "initialClose"]
    assert f"Pick.initialClose in the row {an_id(4, 10)} of picks" in error["message"]
    assert lines[-1]["event"] == "the record is damaged"


async def test_an_unexpected_error_reveals_nothing():
    async def fetch(sql, parameters):
        raise RuntimeError("a secret")

    with structlog.testing.capture_logs() as lines:
        answer = await Engine(schema, fetch, FACTS).execute("{ latestBatch { id } }")
    assert answer.error_code == "INTERNAL_SERVER_ERROR"
    assert b"secret" not in answer.body
    assert [line["error_id"] for line in lines] == [
        json.loads(answer.body)["errors"][0]["extensions"]["id"]
    ]


async def test_a_database_that_is_away(database):
    """A pool without a connection is reported as an outage; introspection needs no database."""
    pool = pools.make_pool(database)  # never opened
    answer = await engine_on(pool).execute("{ latestBatch { id } }")
    assert answer.error_code == "SERVICE_UNAVAILABLE"
    answer = await engine_on(pool).execute("{ __schema { queryType { name } } }")
    assert json.loads(answer.body) == {"data": {"__schema": {"queryType": {"name": "Query"}}}}


# The same rule as everywhere else, see `tests/unit/core/test_availability.py`: these are the errors
# that a read can get.
@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.CannotConnectNow(), "SERVICE_UNAVAILABLE"),
        (errors.TooManyConnections(), "SERVICE_UNAVAILABLE"),
        (
            errors.SerializationFailure("canceling statement due to conflict with recovery"),
            "SERVICE_UNAVAILABLE",
        ),
        (errors.IdleInTransactionSessionTimeout(), "SERVICE_UNAVAILABLE"),
        (errors.TransactionTimeout(), "SERVICE_UNAVAILABLE"),
        (psycopg.OperationalError("consuming input failed"), "SERVICE_UNAVAILABLE"),
        (errors.QueryCanceled(), "OPERATION_TOO_LARGE"),
        (errors.ProgramLimitExceeded(), "INTERNAL_SERVER_ERROR"),
        (errors.DataCorrupted(), "INTERNAL_SERVER_ERROR"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value,
)
async def test_what_an_outage_is(error, code):
    """503 says that the next try may succeed; 500 that it will not."""

    async def fetch(sql, parameters):
        raise error

    answer = await Engine(schema, fetch, FACTS).execute("{ latestBatch { id } }")
    assert answer.error_code == code


async def test_a_statement_that_is_wrong_is_no_outage(pool):
    """Only an absent database is an outage."""
    broken = pool_fetcher(pool)
    answer = await Engine(schema, lambda sql, parameters: broken("SELECT nope", []), FACTS).execute(
        "{ latestBatch { id } }"
    )
    assert answer.error_code == "INTERNAL_SERVER_ERROR"
