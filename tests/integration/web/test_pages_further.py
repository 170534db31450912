"""
A result with dividends and further benchmarks, wherever it is shown: page, export and commands.

The fortnight has BENCHMARKS=SPY,RSP,IWM. IWM has no price, so it is shown nowhere. MSFT pays a
dividend, and the amount of NVDA's dividend cannot be read.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import timedelta
from xml.etree.ElementTree import Element

import pytest
from api_records import engine_on
from clocks import HandSetClock
from commands import command
from further_fortnights import RESULT, harness_with, live
from job_context import MONDAY, JobHarness, make_dividend, new_york
from paid_dividends import add_total_returns, refresh_dividends
from served_pages import pages_on, parse_page, visible_text

from app.commands import status
from app.core import settings
from app.database import migrations
from app.ops import snapshot
from app.web.feeds.export import CsvRow, ExportRange, read_parts

BENCHMARKS = {"BENCHMARKS": "SPY,RSP,IWM"}
DIVIDENDS = {
    "SPY": [make_dividend(RESULT, "1.5000")],
    "MSFT": [make_dividend(MONDAY, "0.0300")],
    "NVDA": [make_dividend(MONDAY, "None")],
}
END = MONDAY + timedelta(days=14)


async def live_a_fortnight(database: str) -> None:
    clock = HandSetClock(new_york(MONDAY))
    await migrations.migrate(database, clock.now())
    async with harness_with(database, clock, **BENCHMARKS) as harness:
        world = harness.world
        world.unknown.add("IWM")
        world.closes |= {("SPY", RESULT): "606.0000", ("RSP", RESULT): "103.0000"}
        world.closes |= {("MSFT", RESULT): "3.3000", ("AAPL", RESULT): "76.0000"}
        world.dividends = DIVIDENDS
        await harness.make_batch()
        await live(harness, until=END)
        await refresh_dividends(harness, END - timedelta(days=1))
        await add_total_returns(harness)


@pytest.fixture
def record(made_once) -> str:
    return made_once("shown_further", lambda address: asyncio.run(live_a_fortnight(address)))


@pytest.fixture
async def harness(record) -> AsyncIterator[JobHarness]:
    async with harness_with(record, HandSetClock(new_york(END, 12)), **BENCHMARKS) as harness:
        yield harness


def cells(row: Element) -> str:
    """Return the texts of a row's cells, with a line between two of them."""
    return "|".join(map(visible_text, row))


async def test_the_page(harness):
    """Each benchmark has its row, and each result its dividends; what is unknown is not zero."""
    async with pages_on(harness.context.pool) as browser:
        page = parse_page(await browser.get(f"/batches/{MONDAY}"))
    tables = [[cells(row) for row in table.iter("tr")] for table in page.iter("table")]
    (further,) = [rows for rows in tables if rows[0].startswith("Benchmark|")]
    assert further == [
        "Benchmark|Its return, %|SELL MSFT|BUY AAPL|SELL NVDA",
        "SPY|+1.00|−9.00|−6.00|+1.00",
        "RSP|+3.00|−7.00|−8.00|+3.00",
    ]
    (readings,) = [rows for rows in tables if rows[0].startswith("Session|")]
    assert [row.split("|")[2] for row in readings if "|RSP|" in row] == ["100.00", "103.00"]
    (totals,) = [rows for rows in tables if rows[0].startswith("Share|Dividends")]
    assert totals == [
        "Share|Dividends, $ for each share|Change with them, %|Points with them",
        "SPY|1.50|+1.25|–",
        "MSFT|0.03|+11.00|−9.75",
        "AAPL|0.00|−5.00|−6.25",
        "NVDA|not known|–|–",
    ]


async def export(harness: JobHarness) -> list[CsvRow]:
    """Return the rows of the export that have the result."""
    engine = engine_on(harness.context.pool)
    async with aclosing(read_parts(engine, ExportRange())) as reading:
        rows = [row async for part in reading for row in part.rows]
    assert {row.further_returns_pct for row in rows if not row.result} == {None}
    return [row for row in rows if row.result]


async def test_the_export(harness):
    """The rows of the result have both; an unknown total return is empty."""
    rows = await export(harness)
    assert {row.further_returns_pct for row in rows} == {"RSP 3.00"}
    assert {row.benchmark_total_return_pct for row in rows} == {"1.2500"}
    found = {row.ticker: (row.dividends, row.total_return_pct) for row in rows}
    assert found == {"MSFT": ("0.0300", "11.00"), "AAPL": ("0", "-5.00"), "NVDA": (None, None)}


async def test_the_export_after_a_late_dividend(harness):
    """The export has the corrected total return, and every other figure as before."""
    before = await export(harness)
    late = {"AAPL": [make_dividend(MONDAY, "0.8000")]}
    harness.world.dividends = DIVIDENDS | late
    await refresh_dividends(harness, MONDAY + timedelta(days=27))
    after = await export(harness)
    found = {row.ticker: (row.dividends, row.total_return_pct) for row in after}
    assert found["AAPL"] == ("0.8000", "-4.00")
    assert found["MSFT"] == ("0.0300", "11.00")
    assert [row.absolute_return_pct for row in after] == [row.absolute_return_pct for row in before]


async def test_the_commands(harness, record, capsys):
    """`status` says when each further benchmark was read last, and `show` prints its return."""
    state = await snapshot.read_for_operator(
        harness.context.pool, settings.load(BENCHMARKS), harness.clock
    )
    status._print_lines(state)
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if line.startswith("further benchmarks: ")]
    assert line == "further benchmarks: RSP new prices 1 d 1 h ago; IWM never read"
    shown = await asyncio.to_thread(
        command, capsys, "show", str(MONDAY), DATABASE_URL=record, **BENCHMARKS
    )
    assert shown.exit_code == 0
    lines = [line for line in shown.output.splitlines() if line.startswith(("With", "Against"))]
    assert lines == [
        "With dividends, points in the calls' favour against SPY (+1.25 %): SELL MSFT -9.75, BUY "
        "AAPL -6.25, SELL NVDA not known",
        "Against RSP (+3.00 %): SELL MSFT -7.00, BUY AAPL -8.00, SELL NVDA +3.00 points in the "
        "calls' favour",
    ]
    assert "IWM" not in shown.output
