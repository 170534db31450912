"""The results after costs: by hand, and pick by pick."""

from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.costs import MAX_BPS, last_hit_bps, sorted_last_hits
from app.domain.statistics import Interval
from tests.unit.domain.test_track_record import (
    NOT_SCORED,
    SMALL,
    a_pick,
    compute_track_record,
    decimals,
    make_batch,
)


def test_by_hand():
    """
    Alphas are 3, 1, -2 and -3, 6, -3, returns in their direction 4, 0, -1, -1, 8, -5. A cost of 50
    basis points, in and out, is one percentage point: two alphas are above it.
    """
    record = compute_track_record("main", SMALL)
    after = record.after_costs(50)
    mean, directional, summed = decimals(
        "-0.6666666666666666666666666667",
        "-0.1666666666666666666666666667",
        "-1.333333333333333333333333333",
    )
    assert (after.bps, after.cost_pct) == (50, 1)
    assert (after.mean_alpha_pct, after.median_alpha_pct) == (mean, Decimal("-1.5"))
    assert (after.mean_directional_return_pct, after.sum_pct) == (directional, summed)
    assert (after.hits, after.hit_rate_pct) == (2, Decimal("33.333333"))
    assert after.hit_rate_interval == Interval(*decimals("9.677141", "70.000668"))
    # 0.3333333333333333333333333333 / 0.02 is 16.666666666666666666666666665: half to even.
    assert record.break_even_bps == Decimal("16.66666666666666666666666666")


def test_without_costs():
    """A cost of zero changes nothing."""
    record = compute_track_record("main", SMALL)
    free = record.after_costs(0)
    assert free.mean_alpha_pct == record.pick_results.alpha_pct.mean
    assert free.median_alpha_pct == record.pick_results.alpha_pct.median
    assert free.mean_directional_return_pct == record.pick_results.directional_return_pct.mean
    assert free.sum_pct == record.curve[-1].sum_pct
    assert (free.hits, free.hit_rate_pct) == (record.picks.hits, record.picks.hit_rate_pct)
    assert free.hit_rate_interval == record.picks.hit_rate_interval


@pytest.mark.parametrize("batches", [[], NOT_SCORED], ids=["nothing", "nothing finished"])
def test_without_a_finished_pick(batches):
    """Every figure that needs a pick is missing."""
    record = compute_track_record("main", batches)
    after = record.after_costs(5)
    assert (after.hits, after.cost_pct, record.break_even_bps) == (0, Decimal("0.1"), None)
    missing = {
        after.mean_alpha_pct,
        after.median_alpha_pct,
        after.mean_directional_return_pct,
        after.sum_pct,
        after.hit_rate_pct,
        after.hit_rate_interval,
    }
    assert missing == {None}


def test_picks_that_lose_without_costs():
    """The break-even is below zero."""
    losing = make_batch(0, *(a_pick(f"{ticker} BUY", "0", "-0.6") for ticker in "ABC"))
    record = compute_track_record("main", [losing])
    assert record.break_even_bps == -30
    assert record.after_costs(0).hits == 0


@pytest.mark.parametrize(
    ("alpha", "expected"),
    [
        ("-3", -1),
        ("0", -1),
        ("0.0000000000000000000000000001", 0),
        ("0.02", 0),
        ("0.0200000000000000000000000001", 1),
        ("0.30", 14),
        ("0.31", 15),
        ("2.000000000000000000000000001", 100),
        ("1.999999999999999999999999999", 99),
        ("199.99", 9_999),
        ("200", 9_999),
        ("200.0000000000000000000000001", MAX_BPS),
        ("1E+500", MAX_BPS),
    ],
)
def test_the_highest_cost_at_which_a_pick_is_a_hit(alpha, expected):
    """It loses 0.02 points for a basis point, and what it loses must be less than its alpha."""
    assert last_hit_bps(Decimal(alpha)) == expected


ALPHAS = st.lists(
    st.one_of(
        st.decimals(min_value=-250, max_value=250, places=2),
        st.decimals(min_value=-250, max_value=250, places=26),
    ),
    min_size=1,
    max_size=12,
)


@given(ALPHAS, st.integers(0, MAX_BPS))
def test_hits_pick_by_pick(alphas, bps):
    """The number of hits is that of the alphas above the cost, as fractions of whole numbers."""
    last_hits = sorted_last_hits(alphas)
    expected = sum(Fraction(alpha) > Fraction(2 * bps, 100) for alpha in alphas)
    assert sum(last >= bps for last in last_hits) == expected


@given(ALPHAS, st.integers(0, MAX_BPS))
def test_what_always_holds(alphas, bps):
    """
    The mean after costs is the mean less the cost, hits never increase with it, and at the
    break-even the mean is zero.
    """
    batches = [
        make_batch(week, a_pick("A BUY", "0", str(alpha))) for week, alpha in enumerate(alphas)
    ]
    record = compute_track_record("main", batches)
    after, more = record.after_costs(bps), record.after_costs(min(bps + 1, MAX_BPS))
    cost = Decimal(2 * bps) / 100
    with localcontext(Context(prec=28, rounding=ROUND_HALF_EVEN)):
        assert after.mean_alpha_pct == record.pick_results.alpha_pct.mean - cost
        assert after.sum_pct == record.curve[-1].sum_pct - cost * len(alphas)
    assert record.after_costs(0).hits >= after.hits >= more.hits
    assert after.hits == sum(alpha > cost for alpha in alphas)
    rest = Fraction(record.pick_results.alpha_pct.mean) - Fraction(record.break_even_bps) / 50
    assert abs(rest) < Fraction(1, 10**20)
