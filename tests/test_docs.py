"""What the readers' pages say is so."""

import re
from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext
from pathlib import Path

import pytest

from api.types import schema

RECORD = (Path(__file__).parents[1] / "docs" / "record.md").read_text()
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


def test_the_pages_name_what_there_is():
    """Whatever is written like a field of the API is one."""
    fields = {name for type_ in schema.type_map.values() for name in getattr(type_, "fields", {})}
    named = set(re.findall(r"`([a-z]+[A-Z]\w+)`", RECORD))
    assert named
    assert named <= fields
