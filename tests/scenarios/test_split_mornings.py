"""
Checkpoints with splits, with late splits and without: every figure computed manually, to all of its
digits.

NVDA (a SELL) begins at 7 and opens Monday at 7.05; the benchmark begins at 600 and is at 607.31
from Monday on. In the tables: day, benchmark_split_factor, split_factor, benchmark_return_pct,
absolute_return_pct, vs_benchmark_pct, return_from_open_pct, and whether the move is marked.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from decimal import Decimal
from fractions import Fraction
from math import prod
from typing import Any

import psycopg
import pytest
from api_records import engine_on
from job_context import (
    BASELINE,
    CHOSEN,
    MONDAY,
    JobHarness,
    new_york,
    run_attempt,
    run_until_done,
)
from job_context import clock as clock
from job_context import harness as harness
from journal_checks import JOURNAL_LOCK, wait_for_blocked_connections
from journal_checks import check_journal as check_journal
from provider_server import Reply, Request, says

from app.domain.calendar import due_at, new_york_date
from app.domain.model import Batch
from jobs import daily, picks, splits
from jobs.prices import fetch_closes

TUESDAY, WEDNESDAY, THURSDAY, FRIDAY = (MONDAY + timedelta(days=days) for days in range(1, 5))
SUNDAY, NEXT_MONDAY, NEXT_WEDNESDAY = (MONDAY + timedelta(days=days) for days in (6, 7, 9))
ALL = ["SPY", *CHOSEN]

FIGURES = """
SELECT
    day, benchmark_split_factor, split_factor, benchmark_return_pct, absolute_return_pct,
    vs_benchmark_pct, return_from_open_pct, unusual_move
FROM pick_checkpoint_metrics
JOIN picks ON picks.id = pick_id
JOIN checkpoints ON checkpoints.id = checkpoint_id
JOIN batches ON batches.id = checkpoints.batch_id
WHERE ticker = %s AND run_date = %s
ORDER BY day
"""
CORRECTED = """
SELECT day, ticker, field, before, after
FROM corrections JOIN checkpoints ON checkpoints.id = checkpoint_id
ORDER BY day, ticker NULLS FIRST, field
"""
SKIPPED = "SELECT status, skip_reason, note FROM checkpoints WHERE day = %s"
READINGS = (
    "SELECT ticker, effective_date, factor, source FROM splits ORDER BY ticker, "
    "effective_date, read_at"
)

Listed = Mapping[str, Sequence[tuple[date, str]]]


def read(table: str) -> list[tuple[Any, ...]]:
    """Return a table of figures as written in a test; `-` is none, and not marked."""
    return [
        (int(day), *(None if text == "-" else Decimal(text) for text in numbers), mark == "unusual")
        for day, *numbers, mark in (line.split() for line in table.strip().splitlines())
    ]


async def figures(
    harness: JobHarness, ticker: str = "NVDA", run_date: date = MONDAY
) -> list[tuple[Any, ...]]:
    """Return the stored figures of a pick."""
    return await harness.rows(FIGURES, ticker, run_date)


def trades(
    harness: JobHarness, ticker: str, *prices: tuple[date, str], until: date = date(2026, 11, 30)
) -> None:
    """Let a ticker close (and open) at each price from its day on."""
    for first, price in prices:
        for day in (first + timedelta(days=number) for number in range((until - first).days)):
            harness.world.closes[ticker, day] = price


async def mornings(
    harness: JobHarness, batch: Batch, *days: int, again: bool = False
) -> dict[int, list[str]]:
    """
    Take these days, each until it is stored, as the queue would. Return whose splits were
    requested, by day.
    """
    requested = {}
    for day in days:
        before = len(harness.requested_splits)
        harness.clock.time = max(harness.clock.time, due_at(batch.run_date, day))
        await run_until_done(
            harness, lambda day=day: daily.take(harness.context, batch.id, day, retake=again)
        )
        requested[day] = harness.requested_splits[before:]
    return requested


async def a_usual_batch(harness: JobHarness) -> Batch:
    """The batch of the tables."""
    trades(harness, "SPY", (MONDAY, "607.31"))
    harness.world.opens["NVDA", MONDAY] = "7.05"
    return await harness.make_batch()


def splits_answer(harness: JobHarness, *replies: Reply) -> None:
    """Answer the next requests for splits with these."""
    left, world = list(replies), harness.world

    def answers(request: Request) -> Reply:
        return left.pop(0) if left and request.query.get("function") == "SPLITS" else world(request)

    harness.provider.answers = answers


def listed_by(harness: JobHarness, listed: Listed) -> None:
    """Let the provider list splits from their own day on, as real ones are."""
    world, clock = harness.world, harness.clock

    def answers(request: Request) -> Reply:
        now = new_york_date(clock.now())
        world.splits = {
            ticker: [one for one in of if one[0] <= now] for ticker, of in listed.items()
        }
        return world(request)

    harness.provider.answers = answers


# (607.31 - 600) / 600
B = "1.218333333333333333333333333"
# 1 / 15
NTH = "0.06666666666666666666666666667"

CASES = [
    pytest.param(
        {"NVDA": [(MONDAY, "7.13"), (TUESDAY, "7.25"), (WEDNESDAY, "1.83")]},
        {"NVDA": [(WEDNESDAY, "4.0000")]},
        f"""
            1 1 1 {B} 1.857142857142857142857142857 0.638809523809523809523809524 \
                1.134751773049645390070921986 -
            2 1 1 {B} 3.571428571428571428571428571 2.353095238095238095238095238 \
                2.836879432624113475177304965 -
            3 1 4 {B} 4.571428571428571428571428571 3.353095238095238095238095238 \
                3.829787234042553191489361702 -
            4 1 4 {B} 4.571428571428571428571428571 3.353095238095238095238095238 \
                3.829787234042553191489361702 -
        """,
        {3: ["NVDA"]},
        id="four for one",
    ),
    pytest.param(
        {"NVDA": [(MONDAY, "7.13"), (TUESDAY, "7.25"), (WEDNESDAY, "108.95")]},
        {"NVDA": [(WEDNESDAY, "0.0667")]},
        f"""
            1 1 1 {B} 1.857142857142857142857142857 0.638809523809523809523809524 \
                1.134751773049645390070921986 -
            2 1 1 {B} 3.571428571428571428571428571 2.353095238095238095238095238 \
                2.836879432624113475177304965 -
            3 1 {NTH} {B} 3.761904761904761904761904771 2.543571428571428571428571438 \
                3.026004728132387706855791972 -
            4 1 {NTH} {B} 3.761904761904761904761904771 2.543571428571428571428571438 \
                3.026004728132387706855791972 -
        """,
        {3: ["NVDA"]},
        id="one for fifteen, listed as 0.0667",
    ),
    pytest.param(
        {
            "NVDA": [
                (MONDAY, "7.13"),
                (TUESDAY, "7.25"),
                (WEDNESDAY, "3.61"),
                (NEXT_WEDNESDAY, "2.39"),
            ]
        },
        {"NVDA": [(NEXT_WEDNESDAY, "1.5000"), (WEDNESDAY, "2.0000")]},
        f"""
            1 1 1 {B} 1.857142857142857142857142857 0.638809523809523809523809524 \
                1.134751773049645390070921986 -
            2 1 1 {B} 3.571428571428571428571428571 2.353095238095238095238095238 \
                2.836879432624113475177304965 -
            3 1 2 {B} 3.142857142857142857142857143 1.92452380952380952380952381 \
                2.41134751773049645390070922 -
            4 1 2 {B} 3.142857142857142857142857143 1.92452380952380952380952381 \
                2.41134751773049645390070922 -
            5 1 2 {B} 3.142857142857142857142857143 1.92452380952380952380952381 \
                2.41134751773049645390070922 -
            8 1 2 {B} 3.142857142857142857142857143 1.92452380952380952380952381 \
                2.41134751773049645390070922 -
            9 1 2 {B} 3.142857142857142857142857143 1.92452380952380952380952381 \
                2.41134751773049645390070922 -
            10 1 3 {B} 2.428571428571428571428571429 1.210238095238095238095238096 \
                1.702127659574468085106382979 -
            11 1 3 {B} 2.428571428571428571428571429 1.210238095238095238095238096 \
                1.702127659574468085106382979 -
        """,
        {3: ["NVDA"], 6: ALL, 10: ["NVDA"]},
        id="two in a fortnight, two for one and three for two",
    ),
    pytest.param(
        {"NVDA": [(MONDAY, "1.76"), (TUESDAY, "1.78")]},
        {"NVDA": [(MONDAY, "4.0000")]},
        f"""
            1 1 4 {B} 0.5714285714285714285714285714 -0.6469047619047619047619047616 \
                0.5714285714285714285714285714 -
            2 1 4 {B} 1.714285714285714285714285714 0.495952380952380952380952381 \
                1.714285714285714285714285714 -
        """,
        {1: ["NVDA"]},
        id="on the first day: the open is after it",
    ),
    pytest.param(
        {"NVDA": [(MONDAY, "7.13"), (NEXT_MONDAY, "1.79")]},
        {"NVDA": [(NEXT_MONDAY, "4.0000")]},
        f"""
            5 1 1 {B} 1.857142857142857142857142857 0.638809523809523809523809524 \
                1.134751773049645390070921986 -
            8 1 4 {B} 2.285714285714285714285714286 1.067380952380952380952380953 \
                1.56028368794326241134751773 -
            9 1 4 {B} 2.285714285714285714285714286 1.067380952380952380952380953 \
                1.56028368794326241134751773 -
        """,
        {6: ALL, 8: ["NVDA"]},
        id="effective on a later Monday",
    ),
    pytest.param(
        {"NVDA": [(MONDAY, "7.11"), (WEDNESDAY, "5.70")]},
        {"NVDA": [(WEDNESDAY, "1.2500")]},
        f"""
            2 1 1 {B} 1.571428571428571428571428571 0.353095238095238095238095238 \
                0.8510638297872340425531914894 -
            3 1 1.25 {B} 1.785714285714285714285714286 0.567380952380952380952380953 \
                1.063829787234042553191489362 -
            4 1 1.25 {B} 1.785714285714285714285714286 0.567380952380952380952380953 \
                1.063829787234042553191489362 -
        """,
        {3: ["NVDA"]},
        id="five for four, a fifth down",
    ),
    pytest.param(
        {"NVDA": [(MONDAY, "7.13")], "SPY": [(MONDAY, "607.31"), (WEDNESDAY, "303.66")]},
        {"SPY": [(WEDNESDAY, "2.0000")]},
        f"""
            2 1 1 {B} 1.857142857142857142857142857 0.638809523809523809523809524 \
                1.134751773049645390070921986 -
            3 2 1 1.22 1.857142857142857142857142857 0.637142857142857142857142857 \
                1.134751773049645390070921986 -
            4 2 1 1.22 1.857142857142857142857142857 0.637142857142857142857142857 \
                1.134751773049645390070921986 -
        """,
        {3: ["SPY"]},
        id="the benchmark, two for one",
    ),
    pytest.param(
        {"NVDA": [(MONDAY, "7.13"), (WEDNESDAY, "5.68")]},
        {"NVDA": [(WEDNESDAY, "1.2530")]},
        f"""
            2 1 1 {B} 1.857142857142857142857142857 0.638809523809523809523809524 \
                1.134751773049645390070921986 -
            3 1 1.253 {B} 1.672 0.453666666666666666666666667 0.9509219858156028368794326241 -
            4 1 1.253 {B} 1.672 0.453666666666666666666666667 0.9509219858156028368794326241 -
        """,
        {3: ["NVDA"]},
        id="a spin-off, listed as a split",
    ),
    pytest.param(
        {"NVDA": [(MONDAY, "7.13"), (WEDNESDAY, "9.30"), (FRIDAY, "9.31")]},
        {"NVDA": [(date(2024, 6, 10), "10.0000")]},
        f"""
            2 1 1 {B} 1.857142857142857142857142857 0.638809523809523809523809524 \
                1.134751773049645390070921986 -
            3 1 1 {B} 32.85714285714285714285714286 31.63880952380952380952380953 \
                31.91489361702127659574468085 unusual
            4 1 1 {B} 32.85714285714285714285714286 31.63880952380952380952380953 \
                31.91489361702127659574468085 unusual
            5 1 1 {B} 33 31.78166666666666666666666667 32.0567375886524822695035461 unusual
        """,
        {3: ["NVDA"]},
        id="three tenths up without a split: marked on that day and later ones",
    ),
    pytest.param(
        {"NVDA": [(MONDAY, "7.13"), (WEDNESDAY, "8.00"), (FRIDAY, "8.01")]},
        {},
        f"""
            2 1 1 {B} 1.857142857142857142857142857 0.638809523809523809523809524 \
                1.134751773049645390070921986 -
            3 1 1 {B} 14.28571428571428571428571429 13.06738095238095238095238096 \
                13.47517730496453900709219858 unusual
            4 1 1 {B} 14.28571428571428571428571429 13.06738095238095238095238096 \
                13.47517730496453900709219858 unusual
            5 1 1 {B} 14.42857142857142857142857143 13.2102380952380952380952381 \
                13.61702127659574468085106383 unusual
        """,
        {3: ["NVDA"]},
        id="an eighth up without a split: one request, marked on that day and later ones",
    ),
    pytest.param(
        {"NVDA": [(MONDAY, "7.13"), (WEDNESDAY, "7.80"), (FRIDAY, "8.53")]},
        {},
        f"""
            2 1 1 {B} 1.857142857142857142857142857 0.638809523809523809523809524 \
                1.134751773049645390070921986 -
            3 1 1 {B} 11.42857142857142857142857143 10.2102380952380952380952381 \
                10.63829787234042553191489362 -
            4 1 1 {B} 11.42857142857142857142857143 10.2102380952380952380952381 \
                10.63829787234042553191489362 -
            5 1 1 {B} 21.85714285714285714285714286 20.63880952380952380952380953 \
                20.99290780141843971631205674 -
        """,
        {},
        id="a fifth in two steps, each below a tenth: no request, no mark",
    ),
]


@pytest.mark.parametrize(("closes", "listed", "table", "requested"), CASES)
@pytest.mark.sampled(4)
async def test_figures(harness, closes, listed, table, requested):
    """
    Each checkpoint counts the splits since the baseline; before that, a move of a tenth causes one
    request for splits.
    """
    batch = await a_usual_batch(harness)
    for ticker, prices in closes.items():
        trades(harness, ticker, *prices)
    if (MONDAY, "4.0000") in listed.get("NVDA", ()):
        harness.world.opens["NVDA", MONDAY] = "1.75"
    listed_by(harness, listed)
    expected = read(table)
    days = range(1, expected[-1][0] + 1)
    assert {
        day: tickers for day, tickers in (await mornings(harness, batch, *days)).items() if tickers
    } == requested
    assert [
        row for row in await figures(harness) if row[0] in {day for day, *_ in expected}
    ] == expected
    assert await harness.rows(CORRECTED) == []


def test_the_tables_are_exact():
    """
    The same in fractions: no digit of the tables is off by more than the last, and the factors are
    the splits'.
    """
    sessions = [BASELINE, *(MONDAY + timedelta(days=day) for day in range(14))]
    for case in CASES:
        closes, listed, table, _ = case.values
        for day, _, factor, *_, absolute, _, _, _ in read(table):
            session = max(one for one in sessions if one < MONDAY + timedelta(days=day))
            price = [price for first, price in closes["NVDA"] if first <= session][-1]
            meant = {"0.0667": Fraction(1, 15)}
            count = prod(
                (
                    meant.get(text, Fraction(text))
                    for first, text in listed.get("NVDA", ())
                    if MONDAY <= first <= session
                ),
                start=Fraction(1),
            )
            assert abs(Fraction(factor) - count) < Fraction(1, 10**28)
            assert abs(Fraction(absolute) - (Fraction(price) * count / 7 - 1) * 100) < Fraction(
                1, 10**25
            )


# Listed late

BEFORE = f"""
    1 1 1 {B} 1.857142857142857142857142857 0.638809523809523809523809524 \
        1.134751773049645390070921986 -
    2 1 1 {B} -74.28571428571428571428571429 -75.50404761904761904761904762 \
        -74.46808510638297872340425532 unusual
    3 1 1 {B} -74.14285714285714285714285714 -75.36119047619047619047619047 \
        -74.32624113475177304964539007 unusual
    4 1 1 {B} -74.14285714285714285714285714 -75.36119047619047619047619047 \
        -74.32624113475177304964539007 unusual
    5 1 1 {B} -74 -75.21833333333333333333333333 -74.18439716312056737588652482 unusual
"""
AFTER = f"""
    1 1 1 {B} 1.857142857142857142857142857 0.638809523809523809523809524 \
        1.134751773049645390070921986 -
    2 1 4 {B} 2.857142857142857142857142857 1.638809523809523809523809524 \
        2.127659574468085106382978723 -
    3 1 4 {B} 3.428571428571428571428571429 2.210238095238095238095238096 \
        2.695035460992907801418439716 -
    4 1 4 {B} 3.428571428571428571428571429 2.210238095238095238095238096 \
        2.695035460992907801418439716 -
    5 1 4 {B} 4 2.781666666666666666666666667 3.262411347517730496453900709 -
    8 1 4 {B} 4.571428571428571428571428571 3.353095238095238095238095238 \
        3.829787234042553191489361702 -
"""
FIELDS = (
    "absolute_return_pct",
    "return_from_open_pct",
    "split_factor",
    "unusual_move",
    "vs_benchmark_pct",
)
LATE = [
    (MONDAY, "7.13"),
    (TUESDAY, "1.80"),
    (WEDNESDAY, "1.81"),
    (FRIDAY, "1.82"),
    (NEXT_MONDAY, "1.83"),
]


def numbers(corrected: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Return corrections with their values as numbers, so that 4 is 4.0000."""
    return [(*rest, _number(before), _number(after)) for *rest, before, after in corrected]


def _number(text: str) -> object:
    return text == "true" if text in ("true", "false") else Decimal(text)


def expected_corrections(before: str, after: str, *days: int) -> list[tuple[Any, ...]]:
    """Return what differs for NVDA between two tables, in the order of CORRECTED."""
    columns = {
        "split_factor": 2,
        "absolute_return_pct": 4,
        "vs_benchmark_pct": 5,
        "return_from_open_pct": 6,
    }
    columns["unusual_move"] = 7
    was, now = ({row[0]: row for row in read(table)} for table in (before, after))
    return [
        (day, "NVDA", field, was[day][columns[field]], now[day][columns[field]])
        for day in days
        for field in FIELDS
        if was[day][columns[field]] != now[day][columns[field]]
    ]


async def a_late_split(harness: JobHarness, *days: int) -> Batch:
    """
    A batch whose NVDA is split four for one on Tuesday, which the provider does not list; these
    days are taken.
    """
    batch = await a_usual_batch(harness)
    trades(harness, "NVDA", *LATE)
    await mornings(harness, batch, *days)
    return batch


async def test_a_split_that_arrives_five_days_late(harness):
    """The request after the move returned no split; Sunday's list corrects all figures openly."""
    batch = await a_usual_batch(harness)
    trades(harness, "NVDA", *LATE)
    requested = await mornings(harness, batch, *range(1, 6))
    assert requested == {1: [], 2: ["NVDA"], 3: [], 4: [], 5: []}
    assert await figures(harness) == read(BEFORE)
    others = [await figures(harness, ticker) for ticker in ("MSFT", "AAPL")]
    harness.world.splits["NVDA"] = [(TUESDAY, "4.0000")]
    assert await mornings(harness, batch, 6) == {6: ALL}
    assert numbers(await harness.rows(CORRECTED)) == expected_corrections(BEFORE, AFTER, 2, 3, 4, 5)
    assert len(await harness.rows(CORRECTED)) == 20
    assert await mornings(harness, batch, 7, 8) == {7: [], 8: []}
    assert await figures(harness) == read(AFTER)
    assert [(await figures(harness, ticker))[:5] for ticker in ("MSFT", "AAPL")] == others
    assert await harness.rows(READINGS) == [("NVDA", TUESDAY, 4, "alphavantage SPLITS")]


async def test_what_is_recorded_of_a_correction(harness):
    """
    One entry for each checkpoint: the corrections, the rows as they are now, the split; the API
    shows the same.
    """
    batch = await a_late_split(harness, 1, 2, 3, 4, 5)
    harness.world.splits["NVDA"] = [(TUESDAY, "4.0000")]
    seq = (await harness.journal())[-1].seq
    await mornings(harness, batch, 6)
    skip, *more = [entry for entry in await harness.journal() if entry.seq > seq]
    assert skip.kind == "CHECKPOINT"
    responses = [json.loads(entry.content) for entry in more if entry.kind == "READINGS"]
    # The response with the split comes before the corrections that it causes.
    assert more[len(responses) - 1].kind == "READINGS"
    assert [one["splits"][0]["ticker"] for one in responses if one["splits"]] == ["NVDA"]
    entries = more[len(responses) :]
    assert [(entry.kind, entry.batch_id) for entry in entries] == [("CORRECTION", batch.id)] * 4
    reason = "NVDA: a split by 4.0000 from 2026-10-27 on was learnt."
    for entry in entries:
        content = json.loads(entry.content)
        assert {one["reason"] for one in content["corrections"]} == {reason}
        assert {one["made_at"] for one in content["corrections"]} == {content["at"]}
        assert {one["field"] for one in content["corrections"]} == set(FIELDS)
        (metric,) = content["metrics"]
        assert (metric["split_factor"], metric["unusual_move"]) == ("4.0000", "false")
        assert [
            (one["ticker"], one["effective_date"], one["factor"]) for one in content["splits"]
        ] == [("NVDA", "2026-10-27", "4.0000")]
        assert not {"batch", "picks", "closes"} & content.keys()
        assert content["checkpoint"]["id"] == metric["checkpoint_id"]
    selection = """{
        checkpoints {
            day
            corrections { field ticker before after reason madeAt }
            metrics {
                pick { ticker action }
                absoluteReturnPct directionalReturnPct vsBenchmarkPct alphaPct hit
            }
        }
    }"""
    answer = json.loads(
        (
            await engine_on(harness.context.pool).execute(
                f'{{ batchOn(runDate: "{MONDAY}") {selection} }}'
            )
        ).body
    )
    shown = answer["data"]["batchOn"]["checkpoints"]
    corrected = [
        (
            one["day"],
            correction["ticker"],
            correction["field"],
            correction["before"],
            correction["after"],
        )
        for one in shown
        for correction in sorted(one["corrections"], key=lambda correction: correction["field"])
    ]
    assert corrected == await harness.rows(CORRECTED)
    metrics = [metric for one in shown for metric in one["metrics"]]
    assert len(metrics) == 15
    for metric in metrics:  # derived figures have the opposite sign for a SELL
        sign = 1 if metric["pick"]["action"] == "BUY" else -1
        assert Decimal(metric["directionalReturnPct"]) == sign * Decimal(
            metric["absoluteReturnPct"]
        )
        assert Decimal(metric["alphaPct"]) == sign * Decimal(metric["vsBenchmarkPct"])
        assert metric["hit"] == (Decimal(metric["alphaPct"]) > 0)


async def test_a_benchmarks_split_that_arrives_late(harness):
    """
    Two for one from Tuesday on, listed on Sunday: the checkpoint's own figures, and all three
    picks'.
    """
    batch = await a_usual_batch(harness)
    trades(harness, "SPY", (TUESDAY, "303.66"))
    assert await mornings(harness, batch, 1, 2, 3) == {1: [], 2: ["SPY"], 3: []}
    # (303.66 - 600) / 600; no pick has moved
    assert [row[1:] for row in (await figures(harness))[1:]] == [
        (
            1,
            1,
            Decimal("-49.39"),
            0,
            Decimal("49.39"),
            Decimal("-0.7092198581560283687943262411"),
            False,
        )
    ] * 2
    harness.world.splits["SPY"] = [(TUESDAY, "2.0000")]
    assert await mornings(harness, batch, 6) == {6: ALL}
    changed = [
        (None, "benchmark_return_pct", Decimal("-49.39"), Decimal("1.22")),  # (607.32 - 600) / 600
        (None, "benchmark_split_factor", 1, 2),
        (None, "benchmark_unusual_move", True, False),
        *(
            (ticker, "vs_benchmark_pct", Decimal("49.39"), Decimal("-1.22"))
            for ticker in sorted(CHOSEN)
        ),
    ]
    assert numbers(await harness.rows(CORRECTED)) == [
        (day, *one) for day in (2, 3) for one in changed
    ]
    for ticker in CHOSEN:
        for row in (await figures(harness, ticker))[1:]:
            assert (row[1], row[3], row[5]) == (2, Decimal("1.22"), Decimal("-1.22"))


async def test_a_split_that_arrives_after_the_fortnight(harness):
    """A completed batch is corrected when another batch requests the splits; it stays completed."""
    batch = await a_late_split(harness, *range(1, 15))
    assert (await harness.batch()).status == "completed"
    unlike = await figures(harness)
    assert {row[2] for row in unlike} == {1}
    second = await harness.make_batch(date(2026, 11, 16))
    assert second.trading_day == date(2026, 11, 13)
    trades(harness, "NVDA", (date(2026, 11, 17), "2.10"))  # a seventh up
    harness.world.splits["NVDA"] = [
        (TUESDAY, "4.0000"),
        (BASELINE, "3.0000"),
        (date(2024, 6, 10), "10.0000"),
    ]
    assert await mornings(harness, second, 1, 2) == {1: [], 2: ["NVDA"]}
    assert (await figures(harness))[:6] == read(AFTER)
    assert {row[2] for row in (await figures(harness))[1:]} == {4}
    assert {row[2] for row in await figures(harness, run_date=second.run_date)} == {1}
    assert (await harness.batch()).status == "completed"
    assert await harness.rows(
        "SELECT DISTINCT batches.run_date FROM corrections JOIN checkpoints ON checkpoints.id = "
        "checkpoint_id JOIN batches ON batches.id = batch_id"
    ) == [(batch.run_date,)]
    assert await harness.rows(READINGS) == [
        ("NVDA", TUESDAY, 4, "alphavantage SPLITS")
    ]  # the others change no figure


async def test_a_factor_that_is_changed(harness):
    """A changed factor is a second reading, and the figures are corrected openly."""
    batch = await a_usual_batch(harness)
    trades(harness, "NVDA", *LATE)
    harness.world.splits["NVDA"] = [(TUESDAY, "3.0000")]
    await mornings(harness, batch, 1, 2)
    # 3 * 1.80 = 5.40: a move of 24 % remains
    assert (await figures(harness))[1][2:6] == (
        3,
        Decimal(B),
        Decimal("-22.85714285714285714285714286"),
        Decimal("-24.07547619047619047619047619"),
    )
    harness.world.splits["NVDA"] = [(TUESDAY, "4.0000")]
    await mornings(harness, batch, 6)
    assert await figures(harness) == read(AFTER)[:2]
    assert await harness.rows(READINGS) == [
        ("NVDA", TUESDAY, 3, "alphavantage SPLITS"),
        ("NVDA", TUESDAY, 4, "alphavantage SPLITS"),
    ]
    fields = [
        (day, field, before) for day, _, field, before, _ in numbers(await harness.rows(CORRECTED))
    ]
    assert fields == [
        (2, "absolute_return_pct", Decimal("-22.85714285714285714285714286")),
        (
            2,
            "return_from_open_pct",
            Decimal("-23.40425531914893617021276596"),
        ),  # (5.40 - 7.05) / 7.05
        (2, "split_factor", 3),
        (2, "unusual_move", True),
        (2, "vs_benchmark_pct", Decimal("-24.07547619047619047619047619")),
    ]


OTHERS = [
    pytest.param([(date(2024, 6, 10), "10.0000")], id="but old ones are"),
    pytest.param([(WEDNESDAY, "1.0000")], id="but a later one that is none is"),
]


@pytest.mark.parametrize("others", OTHERS)
async def test_a_split_that_is_no_longer_listed(harness, others):
    """
    It is withdrawn: a reading with the factor 1, and figures without it. Listed again, it counts
    again.
    """
    batch = await a_usual_batch(harness)
    trades(harness, "NVDA", *LATE)
    harness.world.splits["NVDA"] = [*others, (TUESDAY, "4.0000")]
    await mornings(harness, batch, *range(1, 6))
    assert await figures(harness) == read(AFTER)[:5]
    harness.world.splits["NVDA"] = others
    await mornings(harness, batch, 6)
    assert await figures(harness) == read(BEFORE)
    assert numbers(await harness.rows(CORRECTED)) == expected_corrections(AFTER, BEFORE, 2, 3, 4, 5)
    assert await harness.rows("SELECT DISTINCT reason FROM corrections") == [
        ("NVDA: the split of 2026-10-27 is no longer listed.",)
    ]
    assert await harness.rows(READINGS) == [
        ("NVDA", TUESDAY, 4, "alphavantage SPLITS"),
        ("NVDA", TUESDAY, 1, "alphavantage SPLITS, no longer listed"),
    ]
    harness.world.splits["NVDA"] = [*others, (TUESDAY, "4.0000")]
    harness.clock.time = due_at(MONDAY, 13)
    await splits.refresh_on_sunday(harness.context, batch, tickers=["NVDA"], day=13)
    assert await figures(harness) == read(AFTER)[:5]
    assert len(await harness.rows(CORRECTED)) == 40


async def test_a_list_that_is_empty(harness):
    """It withdraws nothing."""
    batch = await a_usual_batch(harness)
    trades(harness, "NVDA", *LATE)
    harness.world.splits["NVDA"] = [(TUESDAY, "4.0000")]
    await mornings(harness, batch, *range(1, 6))
    harness.world.splits["NVDA"] = []
    assert await mornings(harness, batch, 6) == {6: ALL}
    assert await figures(harness) == read(AFTER)[:5]
    assert await harness.rows(CORRECTED) == []
    assert len(await harness.rows(READINGS)) == 1


# What is requested, and when


async def test_a_sundays_requests_are_shared(harness):
    """Two batches of one Sunday: each ticker is requested once."""
    older = await harness.make_batch(date(2026, 10, 19), "AAPL", "KO", "NVDA")
    newer = await harness.make_batch(MONDAY, *CHOSEN)
    harness.clock.time = new_york(SUNDAY)
    await daily.take(harness.context, older.id, 13)
    await daily.take(harness.context, newer.id, 6)
    assert harness.requested_splits == ["SPY", "AAPL", "KO", "NVDA", "MSFT"]
    await daily.take(harness.context, newer.id, 6)
    assert len(harness.requested_splits) == 5


DOWN = [Reply(status=503)] * 5


async def test_splits_that_are_not_available(harness):
    """
    Five attempts, then the checkpoint is skipped, because a figure may be wrong. The next day it is
    computed.
    """
    batch = await a_usual_batch(harness)
    trades(harness, "NVDA", *LATE)
    harness.world.splits["NVDA"] = [(TUESDAY, "4.0000")]
    splits_answer(harness, *DOWN)
    assert await mornings(harness, batch, 1, 2) == {1: [], 2: ["NVDA"] * 5}
    assert await harness.rows(SKIPPED, 2) == [
        ("skipped", "PROVIDER_ERROR", "Alpha Vantage answered 503.")
    ]
    assert await harness.rows(READINGS) == []
    harness.clock.time = new_york(THURSDAY, 10)
    assert await mornings(harness, batch, 3) == {3: ["NVDA"]}
    assert await mornings(harness, batch, 2, again=True) == {2: []}
    assert await figures(harness) == read(AFTER)[:3]
    ((status, reason, skipped),) = await harness.rows(
        "SELECT status, skip_reason, skipped_at IS NOT NULL FROM checkpoints WHERE day = 2"
    )
    assert (status, reason, skipped) == ("computed", "PROVIDER_ERROR", True)


UNREADABLE = [
    pytest.param(
        {"data": "none"}, "NVDA: Alpha Vantage answered without a list of splits.", id="no list"
    ),
    pytest.param({}, "NVDA: Alpha Vantage answered without a list of splits.", id="nothing"),
    pytest.param(
        {"data": [{"effective_date": "27 October", "split_factor": "4"}]},
        "NVDA: '27 October' is not a split's day.",
        id="no date",
    ),
]


@pytest.mark.parametrize(("answer", "note"), UNREADABLE)
async def test_a_list_that_cannot_be_read(harness, answer, note):
    """It is requested five times, and the checkpoint is skipped."""
    batch = await a_usual_batch(harness)
    trades(harness, "NVDA", *LATE)
    splits_answer(harness, *[says(answer)] * 5)
    assert await mornings(harness, batch, 1, 2) == {1: [], 2: ["NVDA"] * 5}
    assert await harness.rows(SKIPPED, 2) == [("skipped", "PROVIDER_ERROR", note)]
    assert await harness.rows(READINGS) == []


async def test_a_sunday_without_splits(harness):
    """
    The other tickers are requested, and the day is skipped like any Sunday; the next computed
    checkpoint requests the splits again.
    """
    batch = await a_late_split(harness, 1, 2)
    splits_answer(harness, *DOWN * 2)
    harness.world.splits["NVDA"] = [(TUESDAY, "4.0000")]
    assert await mornings(harness, batch, 6) == {6: ["SPY"] * 5 + ["MSFT"] * 5 + ["AAPL", "NVDA"]}
    assert (await harness.rows(SKIPPED, 6))[0][:2] == ("skipped", "MARKET_CLOSED")
    assert await figures(harness) == read(AFTER)[:2]


async def test_a_quota_that_is_spent(harness):
    """A request for splits waits for it as one for closes does; so does a Sunday's."""
    batch = await a_usual_batch(harness)
    trades(harness, "NVDA", *LATE)
    harness.world.splits["NVDA"] = [(TUESDAY, "4.0000")]
    spent = says(
        {"Information": "We have detected your API key as AVKEY4711 and 25 requests per day."}
    )
    splits_answer(harness, spent)
    await mornings(harness, batch, 1)
    for day, tickers in ((2, ["NVDA"] * 2), (6, ["SPY", *ALL])):
        splits_answer(harness, spent)
        harness.provider.requests.clear()
        harness.clock.time = due_at(MONDAY, day)
        later = await run_attempt(lambda day=day: daily.take(harness.context, batch.id, day))
        assert later
        assert later >= due_at(MONDAY, day) + timedelta(hours=1)
        assert (await harness.rows(SKIPPED, day) == []) == (day == 2)
        harness.clock.time = later
        await daily.take(harness.context, batch.id, day)
        assert harness.requested_splits == tickers
    assert await figures(harness) == read(AFTER)[:2]


async def test_a_ticker_whose_splits_are_unknown(harness):
    """
    "Unknown ticker" is not an empty list: five requests are sent, and then no figure that may be
    wrong is computed.
    """
    batch = await a_usual_batch(harness)
    trades(harness, "NVDA", *LATE)
    splits_answer(harness, *[says({"Error Message": "Invalid API call."})] * 5)
    assert await mornings(harness, batch, 1, 2) == {1: [], 2: ["NVDA"] * 5}
    ((status, reason, note),) = await harness.rows(SKIPPED, 2)
    assert (status, reason) == ("skipped", "PROVIDER_ERROR")
    assert (
        note == "NVDA: Alpha Vantage answered as if it did not know the ticker: Invalid API call."
    )


# The open


async def test_an_open_that_comes_late(harness):
    """
    Monday's bar is missing: Tuesday's figures have none, and get it when it becomes known; so does
    the pick.
    """
    batch = await a_usual_batch(harness)
    trades(harness, "NVDA", (MONDAY, "7.13"), (TUESDAY, "1.80"))
    harness.world.splits["NVDA"] = [(TUESDAY, "4.0000")]
    harness.world.absent.add(("NVDA", MONDAY))
    await mornings(harness, batch, 1, 2)
    assert (await harness.rows(SKIPPED, 1))[0][:2] == ("skipped", "MISSING_CLOSE")
    assert [row[6] for row in await figures(harness)] == [None]
    assert await harness.rows(
        "SELECT entry_open, entry_close_id FROM picks WHERE ticker = 'NVDA'"
    ) == [(None, None)]
    harness.world.absent.clear()
    await mornings(harness, batch, 3)
    from_open = Decimal("2.127659574468085106382978723")  # (4 * 1.80 - 7.05) / 7.05
    assert [row[6] for row in await figures(harness)] == [from_open] * 2
    ((entry_open, day),) = await harness.rows(
        "SELECT entry_open, trading_day FROM picks JOIN closes ON closes.id = entry_close_id "
        "WHERE position = 3"
    )
    assert (entry_open, day) == (Decimal("7.05"), MONDAY)
    assert json.loads((await harness.journal())[-1].content)["picks"][0]["entry_open"] == "7.05"
    await mornings(harness, batch, 1, again=True)
    assert [row[6] for row in await figures(harness)] == [
        Decimal("1.134751773049645390070921986"),
        from_open,
        from_open,
    ]
    assert await harness.rows(CORRECTED) == []


async def test_an_open_stays(harness):
    """The provider's later value for it changes no figure."""
    batch = await a_usual_batch(harness)
    trades(harness, "NVDA", (MONDAY, "7.13"))
    await mornings(harness, batch, 1)
    harness.world.opens["NVDA", MONDAY] = "7.10"
    await mornings(harness, batch, 2)
    assert [row[6] for row in await figures(harness)] == [
        Decimal("1.134751773049645390070921986")
    ] * 2
    assert await harness.rows(
        "SELECT count(*) FROM closes WHERE ticker = 'NVDA' AND trading_day = %s", MONDAY
    ) == [(2,)]


async def test_a_holiday_monday(harness):
    """The first session is Tuesday: its open counts, and a split of that day is before it."""
    labor_day = date(2026, 9, 7)
    tuesday = labor_day + timedelta(days=1)
    trades(harness, "NVDA", (tuesday, "1.76"), (tuesday + timedelta(days=1), "1.78"))
    harness.world.opens["NVDA", tuesday] = "1.75"
    harness.world.splits["NVDA"] = [(tuesday, "4.0000")]
    batch = await harness.make_batch(labor_day)
    assert await mornings(harness, batch, 1, 2, 3) == {1: [], 2: ["NVDA"], 3: []}
    assert [
        (row[0], row[2], row[4], row[6]) for row in await figures(harness, run_date=labor_day)
    ] == [
        (
            2,
            4,
            Decimal("0.5714285714285714285714285714"),
            Decimal("0.5714285714285714285714285714"),
        ),
        (3, 4, Decimal("1.714285714285714285714285714"), Decimal("1.714285714285714285714285714")),
    ]


# Ended and renamed


async def test_splits_of_an_ended_pick(harness):
    """Those up to its last session count, none after; no further request."""
    batch = await a_usual_batch(harness)
    trades(harness, "NVDA", *LATE)
    harness.world.splits["NVDA"] = [
        (FRIDAY, "2.0000"),
        (TUESDAY, "4.0000"),
    ]  # Friday's is only announced
    assert await mornings(harness, batch, 1, 2, 3) == {1: [], 2: ["NVDA"], 3: []}
    harness.clock.time = new_york(FRIDAY, 12)
    context = harness.context
    await picks.end(
        context.pool,
        calendar=context.calendar,
        now=context.now(),
        run_date=MONDAY,
        ticker="NVDA",
        last_session=WEDNESDAY,
        value=Decimal("1.90"),
        source="8-K",
        in_force=None,
    )
    assert await mornings(harness, batch, 4, 5, 6) == {4: [], 5: [], 6: ALL[:-1]}
    # (4 * 1.90 - 7) / 7, (4 * 1.90 - 7.05) / 7.05
    ended = (
        4,
        Decimal("8.571428571428571428571428571"),
        Decimal("7.801418439716312056737588652"),
        False,
    )
    assert [(row[2], row[4], row[6], row[7]) for row in (await figures(harness))[3:]] == [ended] * 2


async def test_days_measured_before_an_ending_was_known(harness):
    """
    They keep their closes and splits, also when the benchmark's figures are corrected afterwards.
    """
    batch = await a_usual_batch(harness)
    trades(harness, "NVDA", *LATE)
    trades(harness, "SPY", (WEDNESDAY, "303.66"))
    harness.world.splits["NVDA"] = [(TUESDAY, "4.0000")]
    assert await mornings(harness, batch, 1, 2, 3) == {1: [], 2: ["NVDA"], 3: ["SPY"]}
    context = harness.context
    await picks.end(
        context.pool,
        calendar=context.calendar,
        now=context.now(),
        run_date=MONDAY,
        ticker="NVDA",
        last_session=MONDAY,
        value=Decimal("7.30"),
        source="8-K",
        in_force=None,
    )
    harness.world.splits["SPY"] = [(WEDNESDAY, "2.0000")]
    await mornings(harness, batch, 6)
    assert {(day, ticker, field) for day, ticker, field, *_ in await harness.rows(CORRECTED)} == {
        (3, None, "benchmark_split_factor"),
        (3, None, "benchmark_return_pct"),
        (3, None, "benchmark_unusual_move"),
        *((3, ticker, "vs_benchmark_pct") for ticker in CHOSEN),
    }
    expected = read(AFTER)[:3]
    assert [(row[2], row[4], row[6]) for row in await figures(harness)] == [
        (row[2], row[4], row[6]) for row in expected
    ]


@pytest.mark.parametrize(
    "under_the_new",
    [
        pytest.param([(TUESDAY, "4.0000")], id="listed under both"),
        pytest.param([], id="listed under the old one only"),
    ],
)
async def test_splits_of_a_renamed_pick(harness, under_the_new):
    """A split that was read under the old ticker still counts, once."""
    batch = await a_usual_batch(harness)
    trades(harness, "NVDA", *LATE)
    harness.world.splits["NVDA"] = [(TUESDAY, "4.0000")]
    await mornings(harness, batch, 1, 2, 3)
    harness.clock.time = new_york(THURSDAY, 12)
    trades(harness, "KO", (BASELINE, "7"), *LATE)
    harness.world.opens["KO", MONDAY] = "7.05"
    harness.world.splits["KO"] = under_the_new
    await picks.rename(
        harness.context,
        run_date=MONDAY,
        ticker="NVDA",
        new="KO",
        from_session=THURSDAY,
        source="8-K",
    )
    assert await mornings(harness, batch, 4, 5) == {4: [], 5: []}
    assert await figures(harness, "KO") == read(AFTER)[:5]
    assert await harness.rows(CORRECTED) == []


async def test_a_mark_outlives_the_ticker(harness):
    """Of the new ticker only later sessions are known: the move before stays marked."""
    batch = await a_usual_batch(harness)
    trades(harness, "NVDA", *LATE)
    await mornings(harness, batch, 1, 2, 3)
    trades(harness, "KO", (THURSDAY, "1.81"), (FRIDAY, "1.82"))
    harness.world.absent |= {("KO", BASELINE + timedelta(days=number)) for number in range(-60, 6)}
    harness.clock.time = new_york(FRIDAY, 8)
    await picks.rename(
        harness.context,
        run_date=MONDAY,
        ticker="NVDA",
        new="KO",
        from_session=THURSDAY,
        source="8-K",
    )
    assert await mornings(harness, batch, 4, 5) == {4: [], 5: []}
    assert await figures(harness, "KO") == read(BEFORE)


async def test_a_late_split_under_the_old_ticker(harness):
    """
    Another batch requests the old ticker's splits: the renamed pick's figures are corrected, too.
    """
    await a_late_split(harness, 1, 2)
    newer = await harness.make_batch(NEXT_MONDAY)
    await picks.rename(
        harness.context,
        run_date=MONDAY,
        ticker="NVDA",
        new="KO",
        from_session=NEXT_MONDAY,
        source="8-K",
        force=True,
    )
    harness.world.splits["NVDA"] = [(TUESDAY, "4.0000")]
    harness.clock.time = due_at(NEXT_MONDAY, 6)
    await splits.refresh_on_sunday(harness.context, newer, tickers=["NVDA"], day=6)
    assert await figures(harness, "KO") == read(AFTER)[:2]
    assert {day for day, *_ in await harness.rows(CORRECTED)} == {2}


# At the same time, and cut off


async def test_a_worker_killed_while_it_stores_a_split(harness, database):
    """No partial corrections: what was not committed is not there, and the request is repeated."""
    batch = await a_late_split(harness, 1, 2, 3)
    harness.world.splits["NVDA"] = [(TUESDAY, "4.0000")]
    harness.clock.time = due_at(MONDAY, 6)
    before = await harness.journal()
    async with await psycopg.AsyncConnection.connect(database) as other:
        await other.execute(JOURNAL_LOCK)
        storing = asyncio.create_task(
            splits.refresh_on_sunday(harness.context, batch, tickers=["NVDA"], day=6)
        )
        (process,) = await wait_for_blocked_connections(harness)
        await other.execute("SELECT pg_terminate_backend(%s)", (process,))
        with pytest.raises(psycopg.OperationalError):
            await storing
    assert await harness.journal() == before
    assert (await harness.rows(CORRECTED), await harness.rows(READINGS)) == ([], [])
    assert await figures(harness) == read(BEFORE)[:3]
    harness.clock.forward(minutes=2)
    await splits.refresh_on_sunday(harness.context, batch, tickers=["NVDA"], day=6)
    assert await figures(harness) == read(AFTER)[:3]
    assert harness.requested_splits == ["NVDA"] * 3


def computes(harness: JobHarness, batch: Batch) -> Any:
    """Day 4, with the splits that are known."""
    return daily.take(harness.context, batch.id, 4)


def read_split(harness: JobHarness, batch: Batch) -> Any:
    """Read NVDA's split and store it."""
    return splits.refresh_on_sunday(harness.context, batch, tickers=["NVDA"], day=4)


@pytest.mark.parametrize(
    ("first", "second", "corrected"),
    [
        pytest.param(
            computes, read_split, {2, 3, 4}, id="a figure while a split is read: it is corrected"
        ),
        pytest.param(
            read_split, computes, {2, 3}, id="a split while a figure is computed: it counts at once"
        ),
    ],
)
async def test_a_split_at_the_moment_of_a_checkpoint(harness, database, first, second, corrected):
    """
    Whichever locks the batch first, no figure keeps the old factor. The move is too small to cause
    a request for splits.
    """
    batch = await a_usual_batch(harness)
    trades(harness, "NVDA", (MONDAY, "7.13"), (TUESDAY, "6.80"))
    await mornings(harness, batch, 1, 2, 3)
    harness.world.splits["NVDA"] = [(TUESDAY, "1.0500")]
    harness.clock.time = due_at(MONDAY, 4)
    # The closes are read first: the entry of their response needs the journal, too.
    await fetch_closes(harness.context, ["SPY", *CHOSEN], MONDAY + timedelta(days=3))
    async with await psycopg.AsyncConnection.connect(database) as other:
        await other.execute(JOURNAL_LOCK)
        one = asyncio.create_task(first(harness, batch))
        await wait_for_blocked_connections(harness)
        two = asyncio.create_task(second(harness, batch))
        await wait_for_blocked_connections(harness, 2)
    await asyncio.gather(one, two)
    assert harness.requested_splits == ["NVDA"]
    assert [(row[2], row[4], row[5]) for row in (await figures(harness))[1:]] == [
        (Decimal("1.05"), 2, Decimal("0.781666666666666666666666667"))  # (1.05 * 6.80 - 7) / 7
    ] * 3
    assert {day for day, *_ in await harness.rows(CORRECTED)} == corrected


@pytest.mark.parametrize("change", ["end", "rename"])
async def test_a_pick_that_is_changed_at_the_moment_of_a_checkpoint(harness, database, change):
    """
    A manual change waits for the checkpoint's transaction: the journal's last entry on the pick is
    the newest.
    """
    batch = await a_usual_batch(harness)
    context = harness.context
    harness.clock.time = due_at(MONDAY, 1)
    await fetch_closes(context, ["SPY", *CHOSEN], MONDAY)
    async with await psycopg.AsyncConnection.connect(database) as other:
        await other.execute(JOURNAL_LOCK)
        taking = asyncio.create_task(daily.take(context, batch.id, 1))
        await wait_for_blocked_connections(harness)
        changing = asyncio.create_task(
            picks.rename(
                context,
                run_date=MONDAY,
                ticker="NVDA",
                new="KO",
                from_session=MONDAY,
                source="8-K",
                force=True,
            )
            if change == "rename"
            else picks.end(
                context.pool,
                calendar=context.calendar,
                now=context.now(),
                run_date=MONDAY,
                ticker="NVDA",
                last_session=MONDAY,
                value=Decimal(7),
                source="8-K",
                in_force=None,
            )
        )
        await wait_for_blocked_connections(harness, 2)
    await asyncio.gather(taking, changing)
    assert await harness.rows("SELECT ticker, ended, entry_open FROM picks WHERE position = 3") == [
        ("KO" if change == "rename" else "NVDA", change == "end", Decimal("7.05"))
    ]
