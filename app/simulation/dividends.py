"""
The dividends of the simulated market: who pays them, when, and what a hostile provider lists.

The benchmark and about two thirds of the shares pay every quarter, and some shares pay a special
dividend once. All of it depends only on the seed of the market, the ticker and the calendar.
`app.simulation.market` adds the amounts, which depend on prices.

A dividend does not make the price fall on its ex-date: the prices are the same as without
dividends.

A hostile provider lists a dividend late, on another day, with another amount, twice, or in two
parts (`DIVIDENDS_LISTED_WRONGLY`). Most of these faults end some days after the ex-date, and the
row is right from then on.
"""

from collections.abc import Callable, Sequence
from datetime import date, timedelta
from decimal import Decimal
from itertools import product
from random import Random
from typing import NamedTuple

from msgspec import Struct

from app.domain.calendar import Calendar

# A dividend as Alpha Vantage lists it. An unknown value is the text `None`.
Row = dict[str, str]
UNKNOWN_VALUE = "None"

# The chance that a company pays dividends.
_PAYING_CHANCE = 2 / 3
# The amount of a quarter, in hundredths of a percent of the price: of a share, and of the
# benchmark.
_RATES = (20, 100)
_BENCHMARK_RATES = (28, 36)
_RATE_UNIT = Decimal("0.0001")
# How many decimals a share's amounts have.
_DECIMALS = (2, 4, 4, 6)
_BENCHMARK_DECIMALS = 4
# How many days before its ex-date a dividend is declared, and how many days after it is paid.
_DECLARED_BEFORE = (20, 40)
DECLARED_AT_MOST_BEFORE = timedelta(days=_DECLARED_BEFORE[1])
_BENCHMARK_DECLARED_BEFORE = 30
_PAID_AFTER = (16, 35)
_QUARTER_MONTHS = 3
_QUARTER_DAYS = 91
# Every month has these days.
_DAYS_OF_MONTH = (1, 28)
# The third Friday of a month is one of the seven days from this one on.
_EARLIEST_THIRD_FRIDAY = 15
_FRIDAY = 4

_SPECIAL_CHANCE = 0.2
# The chance that a special dividend has the ex-date of an ordinary one.
_WITH_ORDINARY_CHANCE = 0.5
# The days of special dividends, and their rates in the unit of `_RATES`.
_SPECIAL_DAYS = (date(2025, 1, 1), date(2028, 12, 31))
_SPECIAL_RATES = (200, 500)
# Ordinary dividends are planned at least until then, after every special one.
_ORDINARY_UNTIL = date(2029, 12, 31)

# Rows of an earlier ex-date lack at least one of these dates.
_COMPLETE_SINCE = date(2025, 1, 1)
_OTHER_DATES = ("declaration_date", "record_date", "payment_date")

# The chance that a hostile provider lists a dividend wrongly, and the chance per ticker and quarter
# of a dividend that it withdraws.
_WRONG_CHANCE = 0.5
_WITHDRAWN_CHANCE = 0.1
_WITHDRAWN_DECLARED_BEFORE = timedelta(days=20)
# A withdrawn dividend is listed until so long after its ex-date.
_WITHDRAWN_AFTER = timedelta(days=8)
_WITHDRAWN_RATE = 80
_WITHDRAWN_DECIMALS = 4
# The chance that a spin-off is listed as a dividend, too.
_SPIN_OFF_CHANCE = 0.5
# A dividend may be restated for a split that follows its ex-date within this time.
RESTATED_WITHIN = timedelta(days=60)
RESTATED = "restated_amount"
# The precision to which a restated amount is written.
_RESTATED_UNIT = Decimal("1e-10")
_CORRECTED_BY = Decimal("1.05")
# The smaller part of a dividend in two parts is the amount divided by this number.
_PARTS = 3


class PlannedDividend(Struct, frozen=True, kw_only=True):
    """
    A dividend without its amount.

    `rate` is the amount as a part of the price, and `decimals` says to how many decimals the amount
    is rounded. The provider lists it from `declared_on` on.
    """

    ex_date: date
    declared_on: date
    paid_on: date
    rate: Decimal
    decimals: int
    is_special: bool = False


class DeclaredDividend(Struct, frozen=True, kw_only=True):
    """
    A dividend as it was declared.

    `amount` is in dollars per share of the ex-date: splits up to and including that day are in it,
    and a later split does not change it.
    """

    ex_date: date
    declared_on: date
    paid_on: date
    amount: str
    is_special: bool = False


def plan_dividends(
    seed: str, ticker: str, *, is_benchmark: bool, calendar: Calendar, first: date, last: date
) -> list[PlannedDividend]:
    """
    Return the dividends of a ticker that have an ex-date up to and including `last`, oldest first.

    They are declared after `first`. An ex-date is a session.
    """
    if is_benchmark:
        planned = _plan_benchmark(seed, ticker, calendar=calendar, first=first, last=last)
    else:
        planned = _plan_share(seed, ticker, calendar=calendar, first=first, last=last)
    known = [one for one in planned if one.declared_on > first and one.ex_date <= last]
    return sorted(known, key=lambda one: (one.ex_date, one.is_special))


def _plan_benchmark(
    seed: str, ticker: str, *, calendar: Calendar, first: date, last: date
) -> list[PlannedDividend]:
    """Plan a dividend for the third Friday of March, June, September and December."""
    planned = []
    for month in _quarterly_months(first, last, phase=0):
        friday = month.replace(day=_EARLIEST_THIRD_FRIDAY)
        friday += timedelta(days=(_FRIDAY - friday.weekday()) % 7)
        ex_date = _session_until(calendar, friday)
        rng = _random(seed, f"dividend/{ticker}/{ex_date}")
        planned.append(
            PlannedDividend(
                ex_date=ex_date,
                declared_on=ex_date - timedelta(days=_BENCHMARK_DECLARED_BEFORE),
                paid_on=ex_date + timedelta(days=rng.randint(*_PAID_AFTER)),
                rate=rng.randint(*_BENCHMARK_RATES) * _RATE_UNIT,
                decimals=_BENCHMARK_DECIMALS,
            )
        )
    return planned


def _plan_share(
    seed: str, ticker: str, *, calendar: Calendar, first: date, last: date
) -> list[PlannedDividend]:
    # The order of the calls of `rng` must not change: in another order, the same seed would give
    # other dividends.
    rng = _random(seed, f"dividends/{ticker}")
    is_paying = rng.random() < _PAYING_CHANCE
    phase = rng.randrange(_QUARTER_MONTHS)
    day_of_month = rng.randint(*_DAYS_OF_MONTH)
    rate = rng.randint(*_RATES) * _RATE_UNIT
    decimals = rng.choice(_DECIMALS)
    declared_before = timedelta(days=rng.randint(*_DECLARED_BEFORE))
    paid_after = timedelta(days=rng.randint(*_PAID_AFTER))

    def make(ex_date: date, rate: Decimal, *, is_special: bool = False) -> PlannedDividend:
        return PlannedDividend(
            ex_date=ex_date,
            declared_on=ex_date - declared_before,
            paid_on=ex_date + paid_after,
            rate=rate,
            decimals=decimals,
            is_special=is_special,
        )

    planned = []
    if is_paying:
        # The special dividend may have the ex-date of any of these, so they do not end at `last`.
        end = max(last, _ORDINARY_UNTIL)
        for month in _quarterly_months(first, end, phase):
            ex_date = _session_until(calendar, month.replace(day=day_of_month))
            planned.append(make(ex_date, rate))

    if rng.random() < _SPECIAL_CHANCE:
        earliest, latest = (day.toordinal() for day in _SPECIAL_DAYS)
        day = date.fromordinal(rng.randint(earliest, latest))
        special_rate = rng.randint(*_SPECIAL_RATES) * _RATE_UNIT
        with_ordinary = [one.ex_date for one in planned if one.ex_date >= day]
        if with_ordinary and rng.random() < _WITH_ORDINARY_CHANCE:
            day = with_ordinary[0]
        planned.append(make(_session_until(calendar, day), special_rate, is_special=True))
    return planned


def _quarterly_months(first: date, last: date, phase: int) -> list[date]:
    """Return the first days of every third month from the year of `first` to that of `last`."""
    months = [month for month in range(1, 13) if month % _QUARTER_MONTHS == phase]
    years = range(first.year, last.year + 1)
    return [date(year, month, 1) for year, month in product(years, months)]


def _session_until(calendar: Calendar, day: date) -> date:
    """Return the last session on or before a day."""
    return calendar.session_before(day + timedelta(days=1))


def _random(seed: str, about: str) -> Random:
    return Random(f"{seed}/{about}")  # noqa: S311


def make_row(dividend: DeclaredDividend, seed: str, ticker: str) -> Row:
    """Return a dividend as the provider lists it. An old row lacks some of its other dates."""
    row = {
        "ex_dividend_date": str(dividend.ex_date),
        "declaration_date": str(dividend.declared_on),
        "record_date": str(dividend.ex_date),
        "payment_date": str(dividend.paid_on),
        "amount": dividend.amount,
    }
    if dividend.ex_date >= _COMPLETE_SINCE:
        return row
    rng = _random(seed, f"dividend row/{ticker}/{dividend.ex_date}")
    missing = rng.sample(_OTHER_DATES, rng.randint(1, len(_OTHER_DATES)))
    return {**row, **dict.fromkeys(missing, UNKNOWN_VALUE)}


# What a hostile provider lists.


class WrongListing(NamedTuple):
    """
    A fault of a listed dividend: the rows in place of the right one, and when the fault ends.

    `ends_after` counts from the ex-date. None: the fault never ends.
    """

    change: Callable[[Row, Calendar], list[Row]]
    ends_after: timedelta | None


def _omit(_: Row, __: Calendar) -> list[Row]:
    return []


def _move_back(row: Row, calendar: Calendar) -> list[Row]:
    day = calendar.session_before(date.fromisoformat(row["ex_dividend_date"]))
    return [{**row, "ex_dividend_date": str(day)}]


def _move_on(row: Row, calendar: Calendar) -> list[Row]:
    day = date.fromisoformat(row["ex_dividend_date"]) + timedelta(days=1)
    return [{**row, "ex_dividend_date": str(calendar.session_from(day))}]


def _increase(row: Row, _: Calendar) -> list[Row]:
    """Return the row with an amount that the provider corrects later."""
    return [{**row, "amount": f"{Decimal(row['amount']) * _CORRECTED_BY:f}"}]


def _hide(member: str) -> Callable[[Row, Calendar], list[Row]]:
    return lambda row, _: [{**row, member: UNKNOWN_VALUE}]


def _repeat(row: Row, _: Calendar) -> list[Row]:
    return [row, dict(row)]


def _divide_in_two(row: Row, _: Calendar) -> list[Row]:
    """Return two rows of one ex-date whose amounts differ, and have the right sum."""
    amount = Decimal(row["amount"])
    # Two more decimals than the amount has: otherwise the parts of a small amount could be equal,
    # or zero.
    unit = Decimal((0, (1,), int(amount.as_tuple().exponent) - 2))
    part = (amount / _PARTS).quantize(unit)
    return [{**row, "amount": f"{part:f}"}, {**row, "amount": f"{amount - part:f}"}]


# Each fault of a listed dividend by name, with how long it lasts after the ex-date. The service
# requests dividends first on day 13. So it sees a fault that lasts eight days or more if the
# ex-date is in the second week of the fortnight.
DIVIDENDS_LISTED_WRONGLY = {
    "late_dividend": WrongListing(_omit, timedelta(days=9)),
    "very_late_dividend": WrongListing(_omit, timedelta(days=22)),
    "dividend_a_day_early": WrongListing(_move_back, timedelta(days=8)),
    "dividend_a_day_late": WrongListing(_move_on, timedelta(days=8)),
    "corrected_amount": WrongListing(_increase, timedelta(days=10)),
    "ex_date_is_none": WrongListing(_hide("ex_dividend_date"), timedelta(days=9)),
    "amount_is_none": WrongListing(_hide("amount"), timedelta(days=9)),
    "dividend_twice": WrongListing(_repeat, None),
    "dividend_in_two": WrongListing(_divide_in_two, None),
}


def list_wrongly(fault: str, row: Row, *, today: date, calendar: Calendar) -> list[Row]:
    """
    Return the rows that a provider with a fault of DIVIDENDS_LISTED_WRONGLY lists today.

    A row without an ex-date stays as it is.
    """
    wrong = DIVIDENDS_LISTED_WRONGLY[fault]
    if row["ex_dividend_date"] == UNKNOWN_VALUE:
        return [row]
    ex_date = date.fromisoformat(row["ex_dividend_date"])
    if wrong.ends_after is not None and today >= ex_date + wrong.ends_after:
        return [row]
    return wrong.change(row, calendar)


def restate(row: Row, factors: Sequence[Decimal]) -> Row:
    """
    Return the row with its amount divided by the factors of later splits.

    It is rounded to ten decimals. Divided by a factor such as 2, 4 or 10, it needs fewer.
    """
    amount = Decimal(row["amount"])
    for factor in factors:
        amount /= factor
    restated = amount.quantize(_RESTATED_UNIT).normalize()
    return {**row, "amount": f"{restated:f}"}


def choose_fault(
    seed: str, ticker: str, dividend: DeclaredDividend, *, split_days: Sequence[date]
) -> str | None:
    """
    Return the fault with which a hostile provider lists a dividend; None if it lists it rightly.

    It is a name of DIVIDENDS_LISTED_WRONGLY, or RESTATED. Only a dividend that is soon followed by
    a split, on one of `split_days`, is restated.
    """
    about = f"{ticker}/{dividend.ex_date}/{dividend.is_special}"
    rng = _random(seed, f"dividend listed/{about}")
    if rng.random() >= _WRONG_CHANCE:
        return None
    latest = dividend.ex_date + RESTATED_WITHIN
    if any(dividend.ex_date < day <= latest for day in split_days):
        return RESTATED
    return rng.choice(list(DIVIDENDS_LISTED_WRONGLY))


def plan_withdrawn(
    seed: str, ticker: str, *, calendar: Calendar, first: date, on: date
) -> list[PlannedDividend]:
    """
    Return the dividends that a hostile provider lists on a day and withdraws later.

    They are never paid.
    """
    planned = []
    for month in _quarterly_months(first, on + _WITHDRAWN_DECLARED_BEFORE, phase=0):
        rng = _random(seed, f"dividend withdrawn/{ticker}/{month}")
        if rng.random() >= _WITHDRAWN_CHANCE:
            continue
        day = month + timedelta(days=rng.randrange(_QUARTER_DAYS))
        ex_date = _session_until(calendar, day)
        declared_on = ex_date - _WITHDRAWN_DECLARED_BEFORE
        if first < declared_on <= on < ex_date + _WITHDRAWN_AFTER:
            planned.append(
                PlannedDividend(
                    ex_date=ex_date,
                    declared_on=declared_on,
                    paid_on=ex_date + timedelta(days=_PAID_AFTER[0]),
                    rate=_WITHDRAWN_RATE * _RATE_UNIT,
                    decimals=_WITHDRAWN_DECIMALS,
                )
            )
    return planned


def is_spin_off_listed(seed: str, ticker: str, day: date) -> bool:
    """Return whether a hostile provider lists a spin-off as a dividend, too."""
    return _random(seed, f"spin-off/{ticker}/{day}").random() < _SPIN_OFF_CHANCE


def make_spin_off_row(day: date, value: Decimal) -> Row:
    """Return a spin-off as a dividend of its value."""
    return {
        "ex_dividend_date": str(day),
        **dict.fromkeys(_OTHER_DATES, UNKNOWN_VALUE),
        "amount": str(value.quantize(_RATE_UNIT)),
    }
