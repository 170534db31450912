"""What the readers' pages say is so."""

import json
import re
from datetime import date
from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext
from fractions import Fraction
from itertools import groupby
from pathlib import Path

import pytest
from graphql import parse, validate
from pages import shouted

from api import cache, fields, http, lanes, lengths, limits, turns
from api.schema import schema
from app.domain.model import Action, BatchStatus
from app.domain.track_record import MOST as MOST_MONDAYS
from app.domain.track_record import Fortnight, Held, track_record
from app.main import READ_LIMIT
from app.web import live, received, timeouts, unsent, upgrades
from app.web.feeds import downloads

HOUSE = Path(__file__).parents[2]
RECORD = (HOUSE / "docs" / "record.md").read_text()
API = (HOUSE / "docs" / "api.md").read_text()
ROWS = re.findall(r"^\| `(\w+)` \| (.+?) \| (-?[0-9.]+) \|$", RECORD, re.MULTILINE)


def test_the_worked_example_is_there():
    """Every figure of a metric has its line."""
    assert [name for name, *_ in ROWS] == [
        "splitFactor", "benchmarkReturnPct", "absoluteReturnPct", "vsBenchmarkPct", "returnFromOpenPct"
    ]  # fmt: skip


@pytest.mark.parametrize(("name", "formula", "value"), ROWS, ids=[name for name, *_ in ROWS])
def test_the_worked_example(name, formula, value):
    """Each line's formula, evaluated as it is written, gives its value to the last digit."""
    values = {name: Decimal(value) for name, _, value in ROWS}
    with localcontext(Context(prec=28, rounding=ROUND_HALF_EVEN)):
        if name == "vsBenchmarkPct":
            computed = values["absoluteReturnPct"] - values["benchmarkReturnPct"]
        else:
            written = re.match(r"[0-9.() */-]+", formula)[0]
            computed = eval(re.sub(r"[0-9.]+", r"Decimal('\g<0>')", written))
    assert format(computed, "f") == value


MONDAYS = re.findall(
    r"^\| (\S+) \| ([A-Z.]+) (BUY|SELL) \| (\S+), (\S+) \| (\S+) \| (\S+) \| (\S+) \| (\S+), (\S+) \|$",
    RECORD,
    re.MULTILINE,
)


def fortnight(rows: list[tuple[str, ...]]) -> Fortnight:
    """A batch of the track record's example, from its picks' rows."""
    picks = [
        Held("", ticker, Action(action), Decimal(middle), Decimal(result), Decimal(0))
        for _, ticker, action, middle, result, *_ in rows
    ]
    *_, middle, result = rows[0]
    status = BatchStatus.COMPLETED
    return Fortnight(date.fromisoformat(rows[0][0]), status, False, Decimal(middle), Decimal(result), picks)


def test_the_track_records_example():
    """What the table's picks add, and what is said to follow from it, is what the code makes of it."""
    batches = [fortnight(list(rows)) for _, rows in groupby(MONDAYS, key=lambda row: row[0])]
    assert [len(batch.picks) for batch in batches] == [3, 3]
    for row, pick in zip(MONDAYS, [pick for batch in batches for pick in batch.picks], strict=True):
        first = pick.directed(pick.middle_vs_benchmark_pct)
        assert [Decimal(told) for told in row[5:8]] == [pick.alpha_pct, first, pick.alpha_pct - first]
    found = track_record("main", batches)
    said = " ".join(RECORD[RECORD.index("Three hits of six") : RECORD.index("**The verdict**")].split())
    for interval in (
        found.picks.hit_rate_interval, found.weekly_excess.mean_interval, found.weekly_excess.beyond_beta_interval,
    ):  # fmt: skip
        assert f"{interval.low} to {interval.high}" in said
    weeks = re.findall(r"^\| (\S+) \| (\d) \| .*= (\S+) \| .*?([\d/]+) \|$", RECORD, re.MULTILINE)
    assert [(str(week.monday), str(week.picks)) for week in found.weekly_excess.weeks] == [row[:2] for row in weeks]
    for week, (*_, excess, market) in zip(found.weekly_excess.weeks, weeks, strict=True):
        assert (float(week.excess_pct), float(week.benchmark_pct)) == pytest.approx(
            (float(Fraction(excess)), float(Fraction(market)))
        )


def test_the_pages_name_what_there_is():
    """Whatever is written like a field of the API is one."""
    fields = {name for type_ in schema.type_map.values() for name in getattr(type_, "fields", {})}
    named = set(re.findall(r"`([a-z]+[A-Z]\w+)`", RECORD))
    assert named
    assert named <= fields


def test_the_queries_on_the_pages_are_valid():
    """Each query that a page shows, alone or in a request, fits the schema."""
    queries = re.findall(r"^```graphql\n(.*?)^```", API, re.DOTALL | re.MULTILINE)
    queries += [json.loads(body)["query"] for body in re.findall(r"-d '(\{.*\})'$", API, re.MULTILINE)]
    queries += re.findall(r"^```\n(\{ \w+ \{.*\})\n```", RECORD, re.MULTILINE)
    assert len(queries) == 3
    for query in queries:
        assert validate(schema, parse(query)) == []


def test_every_code_of_an_error_is_told():
    """The page on the API names each code that the API's modules give, and none that they do not."""
    sources = "".join(path.read_text() for path in sorted((HOUSE / "graphql" / "api").glob("*.py")))
    given = set(re.findall(r'"([A-Z]+(?:_[A-Z]+)+)"', sources))
    assert shouted(API) == given


def test_the_limits_of_connections_are_the_codes_own():
    """So is each number in the table of connections."""
    table = API.split("These hold for each connection")[1].split("\n\n")[1]
    told = [
        int(number) for number in re.findall(r"(?<![\w`])\d+(?= |,)", re.sub(r"\| [^|]* \|$", "", table, flags=re.M))
    ]
    megabyte = 1024 * 1024
    assert told == [
        *(upgrades.LARGEST_HEAD // 1024, upgrades.MOST_HEADERS, timeouts.HEAD_WITHIN, upgrades.LARGEST_HEAD // 1024),
        *(unsent.PACE // 1024, unsent.CREDIT),
        *(unsent.MOST_UNSENT // megabyte, unsent.MOST_OF_AN_ADDRESS // megabyte),
        *(received.MOST_RECEIVED // megabyte, received.SMALL // 1024),
        *(timeouts.MOST_CONNECTIONS, timeouts.OURS),
        *(live.MOST, live.MOST_OF_AN_ADDRESS),
        *(downloads.MOST_AT_ONCE, downloads.MOST_OF_AN_ADDRESS),
    ]
    assert f"for\n{unsent.STALLED:.0f} s are disconnected" in API
    assert f"up to {unsent.SMALL // 1024} KB is always sent" in API


def test_the_limits_are_the_codes_own():
    """Each number in the table of limits is the one that is checked."""
    table = API.split("## Limits")[1].split("## Caching")[0]
    rows = re.findall(r"^\| [^|]+ \| ([^|]+) \| `", table, re.MULTILINE)
    told = [int(number.replace(",", "")) for row in rows for number in re.findall(r"\d[\d,]*", row)]
    (cost,) = re.findall(r"cost=([\d_]+)", (HOUSE / "graphql" / "api" / "schema.py").read_text())
    assert told == [
        *(http.LONGEST_BODY // 1024, http.SLOWEST_BODY, http.MOST_PARAMETERS),
        *(limits.LONGEST_DOCUMENT, limits.MOST_TOKENS, limits.DEEPEST, limits.MOST_FIELDS, limits.MOST_ALIASES),
        *(limits.MOST_OCCURRENCES, limits.MOST_FRAGMENTS, limits.MOST_VALUES, limits.MOST_MEASURED_BYTES),
        *(lengths.MOST_BYTES, lengths.MOST_BYTES_OF_ROWS),
        *(limits.MOST_SCHEMA_FIELDS, limits.MOST_TOLD, limits.MOST_TOLD_BYTES, limits.DEEPEST_VARIABLES),
        *(MOST_MONDAYS, int(cost), 1, fields.LONGEST_PAGE, READ_LIMIT, lanes.MOST_WAITING, lanes.LONGEST_WAIT),
        *(cache.MOST_AT_ONCE, cache.MOST_OF_AN_ADDRESS, turns.MOST_OF_ONE, turns.MOST_WAITING),
    ]
    text = API.split("### Large answers")[1].split("### New documents")[0]
    told = [int(number.replace(",", "")) for number in re.findall(r"\d+(?:,\d+)+", text)]
    assert told == [
        *(limits.MOST_BYTES_OF_FEW, lengths.MOST_BYTES_OF_ONE),
        *(limits.HEAVY_VALUES, limits.HEAVY_BYTES),
    ]
