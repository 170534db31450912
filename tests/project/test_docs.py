"""The pages for readers agree with the code."""

import json
import re
from datetime import date
from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext
from fractions import Fraction
from itertools import groupby
from pathlib import Path

import pytest
from document_text import capital_words
from graphql import parse, validate

from api import cache, fair_executor, fair_semaphore, fields, http, lengths, limits
from api.schema import TRACK_RECORD_COST, schema
from app.domain.model import Action, BatchStatus
from app.domain.track_record import MAX_BATCHES as MOST_MONDAYS
from app.domain.track_record import TrackedBatch, TrackedPick, compute_track_record
from app.main import READ_LIMIT
from app.web import journal_stream, received_requests, request_parsing, timeouts, unsent_responses
from app.web.feeds import downloads

HOUSE = Path(__file__).parents[2]
RECORD = (HOUSE / "docs" / "record.md").read_text()
API = (HOUSE / "docs" / "api.md").read_text()
ROWS = re.findall(r"^\| `(\w+)` \| (.+?) \| (-?[0-9.]+) \|$", RECORD, re.MULTILINE)


def test_the_worked_example_is_there():
    """Every figure of a metric has a row."""
    assert [name for name, *_ in ROWS] == [
        "splitFactor",
        "benchmarkReturnPct",
        "absoluteReturnPct",
        "vsBenchmarkPct",
        "returnFromOpenPct",
    ]


@pytest.mark.parametrize(("name", "formula", "value"), ROWS, ids=[name for name, *_ in ROWS])
def test_the_worked_example(name, formula, value):
    """The formula of each row, evaluated as it is written, gives its value to the last digit."""
    values = {name: Decimal(value) for name, _, value in ROWS}
    with localcontext(Context(prec=28, rounding=ROUND_HALF_EVEN)):
        if name == "vsBenchmarkPct":
            computed = values["absoluteReturnPct"] - values["benchmarkReturnPct"]
        else:
            expression = re.match(r"[0-9.() */-]+", formula)[0]
            computed = eval(re.sub(r"[0-9.]+", r"Decimal('\g<0>')", expression))
    assert format(computed, "f") == value


MONDAYS = re.findall(
    r"^\| (\S+) \| ([A-Z.]+) (BUY|SELL) \| (\S+), (\S+) \| (\S+) \| (\S+) \| (\S+) \| (\S+), (\S+) "
    r"\|$",
    RECORD,
    re.MULTILINE,
)


def fortnight(rows: list[tuple[str, ...]]) -> TrackedBatch:
    """Return a batch of the track record's example from the rows of its picks."""
    picks = [
        TrackedPick(
            id="",
            ticker=ticker,
            action=Action(action),
            middle_vs_benchmark_pct=Decimal(middle),
            vs_benchmark_pct=Decimal(result),
            absolute_return_pct=Decimal(0),
        )
        for _, ticker, action, middle, result, *_ in rows
    ]
    *_, middle, result = rows[0]
    status = BatchStatus.COMPLETED
    return TrackedBatch(
        run_date=date.fromisoformat(rows[0][0]),
        status=status,
        late=False,
        middle_benchmark_pct=Decimal(middle),
        benchmark_pct=Decimal(result),
        picks=picks,
    )


def test_the_track_records_example():
    """The code computes what the table of picks shows, and what the text concludes from it."""
    batches = [fortnight(list(rows)) for _, rows in groupby(MONDAYS, key=lambda row: row[0])]
    assert [len(batch.picks) for batch in batches] == [3, 3]
    for row, pick in zip(MONDAYS, [pick for batch in batches for pick in batch.picks], strict=True):
        first = pick.in_direction(pick.middle_vs_benchmark_pct)
        assert [Decimal(figure) for figure in row[5:8]] == [
            pick.alpha_pct,
            first,
            pick.alpha_pct - first,
        ]
    record = compute_track_record("main", batches, None)
    text = " ".join(
        RECORD[RECORD.index("Three hits of six") : RECORD.index("**The verdict**")].split()
    )
    for interval in (
        record.picks.hit_rate_interval,
        record.weekly_excess.mean_interval,
        record.weekly_excess.beyond_beta_interval,
    ):
        assert f"{interval.low} to {interval.high}" in text
    weeks = re.findall(r"^\| (\S+) \| (\d) \| .*= (\S+) \| .*?([\d/]+) \|$", RECORD, re.MULTILINE)
    assert [(str(week.monday), str(week.picks)) for week in record.weekly_excess.weeks] == [
        row[:2] for row in weeks
    ]
    for week, (*_, excess, market) in zip(record.weekly_excess.weeks, weeks, strict=True):
        assert (float(week.excess_pct), float(week.benchmark_pct)) == pytest.approx(
            (float(Fraction(excess)), float(Fraction(market)))
        )


def test_the_pages_name_what_there_is():
    """Every word in the form of an API field is one."""
    fields = {name for type_ in schema.type_map.values() for name in getattr(type_, "fields", {})}
    named = set(re.findall(r"`([a-z]+[A-Z]\w+)`", RECORD))
    assert named
    assert named <= fields


def test_the_queries_on_the_pages_are_valid():
    """Each query on a page, alone or in a request, is valid."""
    queries = re.findall(r"^```graphql\n(.*?)^```", API, re.DOTALL | re.MULTILINE)
    queries += [
        json.loads(body)["query"] for body in re.findall(r"-d '(\{.*\})'$", API, re.MULTILINE)
    ]
    queries += re.findall(r"^```\n(\{ \w+ \{.*\})\n```", RECORD, re.MULTILINE)
    assert len(queries) == 5
    for query in queries:
        assert validate(schema, parse(query)) == []


def test_every_error_code_is_documented():
    """The page on the API names all error codes of the API's modules, and no others."""
    sources = "".join(path.read_text() for path in sorted((HOUSE / "graphql" / "api").glob("*.py")))
    codes = set(re.findall(r'"([A-Z]+(?:_[A-Z]+)+)"', sources))
    assert capital_words(API) == codes


def test_the_limits_of_connections_are_the_codes_own():
    """Each number in the table of connections is a constant of the code."""
    table = API.split("These limits hold whatever is requested")[1].split("\n\n")[1]
    documented = [
        int(number)
        for number in re.findall(
            r"(?<![\w`])\d+(?= |,)", re.sub(r"\| [^|]* \|$", "", table, flags=re.M)
        )
    ]
    megabyte = 1024 * 1024
    assert documented == [
        *(
            request_parsing.MAX_HEAD_BYTES // 1024,
            request_parsing.MAX_HEADERS,
            timeouts.HEAD_TIMEOUT,
            request_parsing.MAX_HEAD_BYTES // 1024,
        ),
        *(unsent_responses.MIN_PACE // 1024, unsent_responses.CREDIT),
        *(
            unsent_responses.MAX_UNSENT // megabyte,
            unsent_responses.MAX_UNSENT_PER_ADDRESS // megabyte,
        ),
        *(received_requests.MAX_RECEIVED // megabyte, received_requests.SMALL_REQUEST // 1024),
        *(timeouts.MAX_CONNECTIONS, timeouts.RESERVED_FILES),
        *(journal_stream.MAX_STREAMS, journal_stream.MAX_STREAMS_PER_ADDRESS),
        *(downloads.MAX_EXPORTS, downloads.MAX_EXPORTS_PER_ADDRESS),
    ]
    text = " ".join(API.split())
    assert (
        f"lost {unsent_responses.STALL_TIME:.0f} s of their credit or more are disconnected" in text
    )
    assert f"up to {unsent_responses.SMALL_RESPONSE // 1024} KB is always sent" in text


def test_the_limits_are_the_codes_own():
    """Each number in the table of limits is a constant of the code."""
    table = API.split("## Limits")[1].split("## Caching")[0]
    rows = re.findall(r"^\| [^|]+ \| ([^|]+) \| `", table, re.MULTILINE)
    documented = [
        int(number.replace(",", "")) for row in rows for number in re.findall(r"\d[\d,]*", row)
    ]
    assert documented == [
        *(http.MAX_BODY_BYTES // 1024, http.BODY_TIMEOUT, http.MAX_PARAMETERS),
        *(
            limits.MAX_DOCUMENT_CHARACTERS,
            limits.MAX_TOKENS,
            limits.MAX_DEPTH,
            limits.MAX_FIELDS,
            limits.MAX_ALIASES,
        ),
        *(
            limits.MAX_OCCURRENCES,
            limits.MAX_FRAGMENTS,
            limits.MAX_VALUES,
            limits.MAX_ESTIMATED_BYTES,
        ),
        *(lengths.MAX_RESULT_BYTES, lengths.MAX_SOURCE_BYTES),
        *(
            limits.MAX_INTROSPECTION_FIELDS,
            limits.MAX_INTROSPECTION_VALUES,
            limits.MAX_INTROSPECTION_BYTES,
            limits.MAX_VARIABLES_DEPTH,
        ),
        *(
            MOST_MONDAYS,
            TRACK_RECORD_COST,
            1,
            fields.MAX_PAGE_SIZE,
            READ_LIMIT,
            fair_semaphore.MAX_WAITING,
            fair_semaphore.WAIT_TIMEOUT,
        ),
        *(
            cache.MAX_CONCURRENT,
            cache.MAX_CONCURRENT_PER_CLIENT,
            fair_executor.MAX_WAITING_PER_CLIENT,
            fair_executor.MAX_WAITING,
        ),
    ]
    text = API.split("### Large responses")[1].split("### New documents")[0]
    documented = [int(number.replace(",", "")) for number in re.findall(r"\d+(?:,\d+)+", text)]
    assert documented == [
        limits.MAX_BYTES_OF_FEW_ROWS,
        *(lengths.MAX_LONG_RESULT_BYTES, lengths.MAX_RESULT_BYTES),
        *(limits.HEAVY_VALUES, limits.HEAVY_BYTES),
    ]
