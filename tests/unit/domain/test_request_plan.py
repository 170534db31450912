"""
The plan of price requests: each number was worked out by hand.

The weeks are those of March 2026: no holiday, and Friday the 3rd of April is Good Friday.
"""

from datetime import date, timedelta
from itertools import product

import pytest

from app.domain import request_plan
from app.domain.calendar import Calendar
from app.domain.request_plan import PlannedBatch, RequestPlan, Sent

SUNDAY = date(2026, 3, 15)
MONDAY = SUNDAY + timedelta(days=1)


def names(count: int) -> list[str]:
    """Return the names of so many series."""
    return [f"s{number}" for number in range(count)]


def make_batch(series: str, run_date: date, *tickers: str) -> PlannedBatch:
    """Return a batch with these picks, or with picks that no other batch has."""
    own = [f"{series} {run_date} {place}" for place in "abc"]
    return PlannedBatch(series, run_date, ("SPY", *(tickers or own)))


def make_record(count: int, first: date = SUNDAY) -> list[PlannedBatch]:
    """Return the batches of so many series in the weeks before a day, without common picks."""
    monday = first - timedelta(days=first.weekday() or 7)
    run_dates = [monday - timedelta(weeks=week) for week in range(5)]
    return [make_batch(*one) for one in product(names(count), run_dates)]


def make_plan(
    count: int, per_day: int = 25, first: date = SUNDAY, **options: object
) -> RequestPlan:
    """Return the plan of so many series, which have made a batch each Monday."""
    defaults = {"batches": make_record(count, first), "sessions": Calendar(), "benchmark": "SPY"}
    return request_plan.plan(first, series=names(count), per_day=per_day, **{**defaults, **options})


def test_one_series():
    """
    A Sunday needs none, a Monday SPY and 3, a morning SPY and two batches with 3 each. All 13
    splits (SPY, and 3 of each of four batches) have room on the Sunday.
    """
    plan = make_plan(1)
    assert len(plan.days) == 14
    week = [(0, 0, 13), (4, 0, 0), *[(0, 7, 0)] * 5]
    assert [
        (day.baseline_closes, day.checkpoint_closes, day.splits) for day in plan.days
    ] == week * 2
    assert (plan.most_closes, plan.left_out_splits) == (7, 0)


def test_three_series_on_25_requests():
    """
    SPY and 18 on a morning: 6 are left, and one of them stays unused.

    Splits: SPY, and 9 of each of four ages, are 37. On the Sunday at nine, those of the two active
    fortnights (SPY and 18) have room. At ten, 6 of the day's 25 are left, and one stays unused.
    (Monday needs 10, 7 if a ticker is unknown, and one, which would leave 25 - 18 = 7.) So 5 more
    are sent. On Monday, Tuesday needs 19 and one, so 5 are sent; then 5 on Tuesday, and the last 3
    on Wednesday.
    """
    plan = make_plan(3)
    assert [day.closes for day in plan.days[:7]] == [0, 10, 19, 19, 19, 19, 19]
    assert [day.splits for day in plan.days[:7]] == [19 + 5, 5, 5, 3, 0, 0, 0]
    assert [day.splits_waiting for day in plan.days[:7]] == [13, 8, 3, 0, 0, 0, 0]
    assert plan.left_out_splits == 0


def test_four_series_on_25_requests():
    """
    SPY and 24 take every request of a morning. Of the splits of the active fortnights (SPY and 24),
    24 have room on the Sunday; the other one and the 24 late ones have none in the week.
    """
    plan = make_plan(4)
    assert [day.closes for day in plan.days[:7]] == [0, 13, 25, 25, 25, 25, 25]
    assert [day.splits for day in plan.days[:7]] == [24, 0, 0, 0, 0, 0, 0]
    assert [day.splits_waiting for day in plan.days[:7]] == [25] * 7
    assert plan.left_out_splits == 50


def test_two_series_on_14_and_15_requests():
    """
    A morning needs 13. With 14, Sunday begins with SPY and 12, and no other day has room for the
    other 12. With 15, each other day has room for one.
    """
    assert [day.splits for day in make_plan(2, 14).days[:8]] == [13, 0, 0, 0, 0, 0, 0, 13]
    assert [day.splits for day in make_plan(2, 15).days[:8]] == [13, 1, 1, 1, 1, 1, 1, 13]
    assert make_plan(2, 15).left_out_splits == 2 * 6


def test_the_first_weeks_of_a_record():
    """Without batches, the first Monday is a day's only need; then one batch is active."""
    plan = make_plan(2, batches=[])
    assert [day.closes for day in plan.days] == [0, 7, *[7] * 5, 0, 7, *[13] * 5]
    # On the second Sunday, the first batch is six days old: SPY and 6.
    assert [day.splits for day in plan.days] == [0] * 7 + [7] + [0] * 6


def test_readings_are_shared():
    """Two series that picked the same three shares need one request for each."""
    batches = [make_batch(name, MONDAY - timedelta(days=7), "A", "B", "C") for name in names(2)]
    plan = make_plan(2, batches=batches)
    # On Tuesday: SPY, the three shares, and six of the batches that Monday will make.
    assert plan.days[2].checkpoint_closes == 1 + 3 + 6


def test_a_day_without_a_session():
    """Friday is Good Friday, so Saturday needs no closes; nor does Tuesday after a holiday."""
    days = {day.day: day for day in make_plan(1, first=date(2026, 3, 29)).days}
    assert days[date(2026, 4, 3)].checkpoint_closes == 7  # for the closes of Thursday
    assert days[date(2026, 4, 4)].checkpoint_closes == 0
    days = {day.day: day for day in make_plan(1, first=date(2026, 5, 24)).days}
    assert days[date(2026, 5, 25)].baseline_closes == 4
    assert days[date(2026, 5, 26)].checkpoint_closes == 0
    closed = Calendar([date(2026, 3, 18)])
    assert make_plan(1, sessions=closed).days[4].checkpoint_closes == 0


def test_a_monday_has_only_its_baselines():
    """Days 7 and 14 of older batches measure the Sunday, which is no session."""
    day = make_plan(3, first=MONDAY).days[0]
    assert (day.baseline_closes, day.checkpoint_closes) == (10, 0)


def test_a_batch_of_a_retired_series():
    """Its mornings go on, and it makes no batch any more."""
    plan = make_plan(1, batches=make_record(2))
    assert [day.closes for day in plan.days[:3]] == [0, 4, 10]  # SPY, 3 of s0 and s1, and 3 of s0
    assert plan.days[9].closes == 7


def test_what_was_already_requested():
    """Splits that were answered wait no more, and the requests of today count."""
    batches = make_record(3)
    waiting = request_plan.order_splits(batches, SUNDAY, benchmark="SPY")
    plan = make_plan(3, batches=batches, answered=waiting[:20], sent=Sent(19, 1))
    assert [day.splits for day in plan.days[:4]] == [24, 5, 5, 3]
    # 7 were sent at noon. Now 25 - 7 are left for Monday, which needs 18: none of them is free.
    plan = make_plan(3, batches=batches, answered=waiting[:26], sent=Sent(10, 7))
    assert [day.splits for day in plan.days[:4]] == [17, 5, 5, 1]


def test_the_order_of_splits():
    """
    SPY, then the batch of day 13, of day 6, of day 27 and of day 20. Series take turns within a
    day: 2026-03-15 is the day 739,690, so the first of two names is first.
    """
    assert SUNDAY.toordinal() % 2 == 0
    ages = {13: "B", 6: "C", 20: "E", 27: "D"}
    batches = []
    for (age, letter), series in product(ages.items(), ("x", "y")):
        picks = (f"{letter}{series}1", f"{letter}{series}2")
        batches.append(PlannedBatch(series, SUNDAY - timedelta(days=age), ("SPY", *picks)))
    ordered = request_plan.order_splits(batches, SUNDAY, benchmark="SPY")
    assert ordered[0] == "SPY"
    assert ordered[1:5] == ["Bx1", "By1", "Bx2", "By2"]
    assert [ticker[0] for ticker in ordered[1:]] == list("BBBBCCCCDDDDEEEE")
    # On Monday the other series begins, and each batch with its second ticker.
    ordered = request_plan.order_splits(batches, MONDAY, benchmark="SPY", answered=["SPY", "By1"])
    assert ordered[:3] == ["Bx1", "By2", "Bx2"]


def test_turns():
    """Each day another one is first; the order does not depend on how the names are given."""
    day = date(2026, 3, 16)  # the day 739,691, and 739,691 = 3 * 246,563 + 2
    assert request_plan.in_turn(["b", "c", "a", "a"], day) == ["c", "a", "b"]
    assert request_plan.in_turn(["a", "b", "c"], day + timedelta(days=1)) == ["a", "b", "c"]
    assert request_plan.in_turn(["a", "b", "c"], day + timedelta(days=2)) == ["b", "c", "a"]
    assert request_plan.in_turn([], day) == []


@pytest.mark.parametrize("day", range(7))
def test_the_week_of_splits(day):
    """It lasts from Sunday to Saturday."""
    assert request_plan.week_sunday(SUNDAY + timedelta(days=day)) == SUNDAY


def test_a_week_in_which_no_two_picks_are_the_same():
    """
    For each series: three closes on Monday, and six on the other days.

    The splits of a week are those of four batches, so of twelve picks. SPY is one more each time.
    """
    for count in range(1, 9):
        plan = make_plan(count, 1000)
        assert plan.days[1].closes == 1 + 3 * count
        assert {day.closes for day in plan.days[2:7]} == {1 + 6 * count}
        assert request_plan.closes_on_weekday(count) == plan.most_closes == 1 + 6 * count
        assert plan.days[0].splits == 1 + 12 * count


def test_what_does_not_fit():
    """Four series need all of 25 requests; five do not fit, and one does not fit in six."""
    assert request_plan.explain_misfit(4, 25, "SPY") is None
    assert request_plan.explain_misfit(1, 7, "SPY") is None
    assert request_plan.explain_misfit(5, 25, "SPY") == (
        "ALPHA_VANTAGE_PER_DAY is 25, but the closes of 5 series need up to 31 requests a day: "
        "SPY, and 2 active batches with 3 picks for each series. Set ALPHA_VANTAGE_PER_DAY to 31 "
        "or more if the key allows it, or take series out of SERIES_FILE."
    )
    shown = request_plan.explain_misfit(5, 25, "SPY", source="--series")
    assert shown.endswith(", or take series out of --series.")
    assert request_plan.explain_misfit(1, 6, "QQQ") == (
        "ALPHA_VANTAGE_PER_DAY is 6, but the closes of one series need up to 7 requests a day: "
        "QQQ, and 2 active batches with 3 picks for each series. Set ALPHA_VANTAGE_PER_DAY to 7 "
        "or more if the key allows it."
    )


def make_long_record(count: int) -> list[PlannedBatch]:
    """Return eight weeks of batches, so that each of DIVIDEND_DAYS has one."""
    mondays = [SUNDAY - timedelta(days=6 + 7 * week) for week in range(8)]
    return [make_batch(name, monday) for name, monday in product(names(count), mondays)]


# The dividends of each day of a week on a free key, with one weekly request (the rate), and with
# three: those of a second benchmark, too. Splits come first.
DIVIDENDS = {
    (1, 1): [6, 4, 0, 0, 0, 0, 0],
    (1, 3): [4, 6, 0, 0, 0, 0, 0],
    (2, 1): [0, 8, 11, 0, 0, 0, 0],
    (2, 3): [0, 6, 11, 2, 0, 0, 0],
    (3, 1): [0, 0, 0, 1, 5, 5, 5],
    (3, 3): [0, 0, 0, 0, 4, 5, 5],
}


@pytest.mark.parametrize(("count", "weekly"), DIVIDENDS)
def test_dividends_of_a_week(count, weekly):
    """One and two series get all; three get 16 of 28, or 14 with a second benchmark."""
    plan = make_plan(count, batches=make_long_record(count), weekly=weekly, weekly_waiting=weekly)
    assert [day.dividends for day in plan.days[:7]] == DIVIDENDS[count, weekly]
    assert [day.weekly for day in plan.days[:7]].count(0) <= 6
    assert sum(day.weekly for day in plan.days[:7]) == weekly
    needed = 1 + 9 * count
    left_out = needed - sum(DIVIDENDS[count, weekly])
    assert plan.days[6].dividends_waiting == left_out
    assert plan.left_out_dividends == 2 * left_out
    assert plan.left_out_splits == 0


def test_the_order_of_dividends():
    """SPY, then the results of day 13, and the two later looks."""
    batches = [make_batch("x", SUNDAY - timedelta(days=age), f"A{age}") for age in (41, 13, 27, 6)]
    waiting = request_plan.order_dividends(batches, SUNDAY, benchmark="SPY")
    assert waiting == ["SPY", "A13", "A27", "A41"]
    assert request_plan.order_dividends(
        batches, SUNDAY, benchmark="SPY", answered=["SPY", "A27"]
    ) == ["A13", "A41"]
