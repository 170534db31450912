"""
Sessions that were struck off: where they move a result, or leave a batch without one, every output
says so and shows the same result.
"""

import json
from datetime import date
from uuid import uuid4
from xml.etree import ElementTree

import psycopg
import pytest
from api_records import WON, Record, engine_on
from msgspec import Struct
from served_pages import find_all, find_one, pages_on, parse_page, visible_text

from app.domain.calendar import MEASURED_DAYS, Calendar, due_at
from app.domain.model import BatchStatus
from app.web.charts.batch_chart import chart_of_batch
from app.web.feeds.export import ExportRange, read_parts

ALL_DAYS = tuple(MEASURED_DAYS)
# The sessions of the second week: Thursday's closes are of day 11, Friday's of day 12.
FIRST_FRIDAY, TUESDAY, THURSDAY, FRIDAY = (date(2026, 1, day) for day in (9, 13, 15, 16))
SATURDAY, SUNDAY = date(2026, 1, 17), date(2026, 1, 18)

NO_RESULT = " So the batch has no result."


def moved(dates: str, day: int) -> str:
    return (
        f"The exchange was closed on short notice on {dates}, so the result is that of day {day}."
    )


def contradicted(day: int) -> str:
    return f"Day {day} was skipped as a closed day, but a price of that session was read."


class Case(Struct, kw_only=True):
    """
    Closed days, the prices that were read all the same, and what the outputs say.

    `without_middle` is whether the batch has no figures at the end of its first week.
    """

    closed: tuple[date, ...] = ()
    priced: tuple[tuple[str, date], ...] = ()
    missing: tuple[int, ...] = ()
    days: tuple[int, ...] = ALL_DAYS
    result: int | None
    sentences: tuple[str, ...] = ()
    without_middle: bool = False


CASES = {
    "an ordinary fortnight": Case(result=12),
    "the last session is struck off": Case(
        closed=(FRIDAY,), result=11, sentences=(moved("2026-01-16", 11),)
    ),
    "the last two sessions": Case(
        closed=(THURSDAY, FRIDAY),
        result=10,
        sentences=(moved("2026-01-15 and 2026-01-16", 10),),
    ),
    "a session before the last one": Case(closed=(TUESDAY,), result=12),
    "the last session, although a price of it was read": Case(
        closed=(FRIDAY,),
        priced=(("SPY", FRIDAY),),
        result=None,
        sentences=(contradicted(12) + NO_RESULT,),
    ),
    "the last two sessions, with a price of the last one": Case(
        closed=(THURSDAY, FRIDAY),
        priced=(("SPY", FRIDAY),),
        result=None,
        sentences=(contradicted(12) + NO_RESULT,),
    ),
    "the last two sessions, with a price of the first one": Case(
        closed=(THURSDAY, FRIDAY),
        priced=(("SPY", THURSDAY),),
        result=None,
        sentences=(contradicted(11) + NO_RESULT,),
    ),
    "the last two sessions, with prices of both": Case(
        closed=(THURSDAY, FRIDAY),
        priced=(("SPY", THURSDAY), ("SPY", FRIDAY)),
        result=None,
        sentences=(contradicted(11), contradicted(12) + NO_RESULT),
    ),
    "a session before the last one, with its price": Case(
        closed=(TUESDAY,), priced=(("SPY", TUESDAY),), result=12, sentences=(contradicted(9),)
    ),
    "the last session of the first week, with its price": Case(
        closed=(FIRST_FRIDAY,),
        priced=(("SPY", FIRST_FRIDAY),),
        result=12,
        sentences=(contradicted(5),),
        without_middle=True,
    ),
    "the last session of the first week": Case(closed=(FIRST_FRIDAY,), result=12),
    "a price of another share only": Case(
        closed=(FRIDAY,),
        priced=(("KO", FRIDAY),),
        result=11,
        sentences=(moved("2026-01-16", 11),),
    ),
    "prices of a weekend": Case(
        priced=(("SPY", SATURDAY), ("SPY", SUNDAY)),
        result=12,
    ),
    "the last session, and the one before has no price": Case(
        closed=(FRIDAY,), missing=(11,), result=None
    ),
    "every session of the fortnight": Case(
        closed=tuple(date(2026, 1, day) for day in (5, 6, 7, 8, 9, 12, 13, 14, 15, 16)),
        result=None,
        without_middle=True,
    ),
    "a fortnight that is not over": Case(
        closed=(TUESDAY,),
        priced=(("SPY", TUESDAY),),
        days=tuple(range(1, 11)),
        result=None,
        sentences=(contradicted(9),),
    ),
}
by_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def write_fortnight(address: str, case: Case) -> None:
    is_over = case.days == ALL_DAYS
    status = BatchStatus.COMPLETED if is_over else BatchStatus.ACTIVE
    with psycopg.connect(address) as conn:
        record = Record(conn)
        record.calendar = Calendar(case.closed)
        batch, picks = record.batch("main", WON, status, "AAPL BUY, KO SELL, BRK.B BUY")
        for day in case.days:
            record.checkpoint(batch, picks, day, missing=day in case.missing)
        for ticker, session in case.priced:
            record.add(
                "closes",
                id=uuid4(),
                ticker=ticker,
                trading_day=session,
                close=700,
                source="test",
                read_at=due_at(session, 1),
            )


QUERY = """{
    batchOn(runDate: "2026-01-05") {
        result { day }
        picks { result { checkpoint { day } } }
        checkpoints { day skipReason wasSession }
    }
    trackRecord { batches { unresolved completed } weeklyExcess { withoutMiddle } }
}"""


@by_case
@pytest.mark.sampled(4)
async def test_the_api(case, database, pool):
    """The result, the results of the picks and the track record follow the same rule."""
    write_fortnight(database, case)
    answer = json.loads((await engine_on(pool).execute(QUERY)).body)
    assert "errors" not in answer
    batch, track_record = answer["data"]["batchOn"], answer["data"]["trackRecord"]
    result = batch["result"]
    assert (result and result["day"]) == case.result
    for pick in batch["picks"]:
        assert (pick["result"] and pick["result"]["checkpoint"]["day"]) == case.result
    is_unresolved = case.days == ALL_DAYS and case.result is None
    assert track_record["batches"]["unresolved"] == int(is_unresolved)
    is_without_middle = case.without_middle and case.result is not None
    assert track_record["weeklyExcess"]["withoutMiddle"] == int(is_without_middle)
    # Anyone can find the result again from the field.
    counted = [one["day"] for one in batch["checkpoints"] if one["wasSession"] and one["day"]]
    if case.result is not None:
        assert max(counted) == case.result


@by_case
@pytest.mark.sampled(4)
async def test_the_pages(case, database, pool):
    """The page of the batch and the first page say why the result is not that of the last day."""
    write_fortnight(database, case)
    async with pages_on(pool) as browser:
        for path in ("/batches/2026-01-05", "/"):
            page = parse_page(await browser.get(path))
            words = [visible_text(item) for item in find_one(page, "ul", class_="gaps")]
            about_closures = [one for one in words if "short notice" in one or "as a closed" in one]
            assert about_closures == [in_full(sentence) for sentence in case.sentences]
            results = [item for item in find_all(page, "li") if "result" in item.get("class", "")]
            days = [visible_text(find_one(item, "span", class_="no")) for item in results]
            assert days == [str(case.result)] * (case.result is not None)


def in_full(sentence: str) -> str:
    """Return a sentence as pages write it."""
    return sentence.replace("2026-01-15", "Thursday 15 January 2026").replace(
        "2026-01-16", "Friday 16 January 2026"
    )


@by_case
@pytest.mark.sampled(4)
async def test_the_feed(case, database, pool):
    """The entry of the result has the same sentences."""
    write_fortnight(database, case)
    async with pages_on(pool) as browser:
        feed = ElementTree.fromstring((await browser.get("/feed.atom")).content)
    texts = [
        "".join(element.itertext()) for element in feed.iter("{http://www.w3.org/1999/xhtml}p")
    ]
    about_closures = [one for one in texts if "short notice" in one or "as a closed" in one]
    expected = [in_full(sentence) for sentence in case.sentences]
    if case.days != ALL_DAYS:
        expected = []
    assert about_closures == expected


@by_case
@pytest.mark.sampled(4)
def test_show(case, database, commanded):
    """The command prints the same result and the same sentences."""
    write_fortnight(database, case)
    done = commanded("show", "2026-01-05", DATABASE_URL=database)
    assert done.exit_code == 0, done.error
    lines = done.output.splitlines()
    printed = [one for one in lines if "short notice" in one or "as a closed day" in one]
    assert printed == list(case.sentences)
    if case.result is None:
        assert not [line for line in lines if line.startswith("The result, of day")]
    else:
        assert [line for line in lines if line.startswith(f"The result, of day {case.result},")]


@by_case
@pytest.mark.sampled(4)
async def test_the_export(case, database, pool):
    """Only the rows of the result have `result`."""
    write_fortnight(database, case)
    days = set()
    async for part in read_parts(engine_on(pool), ExportRange()):
        days |= {row.day for row in part.rows if row.result}
    assert days == {case.result} - {None}


async def test_the_chart(database, pool):
    """A day that was skipped as a closed day, and is one of a session, is not called closed."""
    write_fortnight(database, CASES["the last session, although a price of it was read"])
    query = """{ batchOn(runDate: "2026-01-05") { runDate benchmarkSymbol
        picks { ticker pickedAs action }
        checkpoints { day status skipReason wasSession metrics { pick { ticker } alphaPct } } } }"""
    data = json.loads((await engine_on(pool).execute(query)).body)["data"]
    skipped = chart_of_batch(data["batchOn"]).skipped
    assert skipped == {6: "closed", 7: "closed", 12: "skipped", 13: "closed", 14: "closed"}
