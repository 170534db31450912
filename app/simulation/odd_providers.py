"""
Chooses odd faults (`app/simulation/odd_faults.py`) at random. The same seed chooses the same
faults.

There are three kinds of faults:

- A passing fault belongs to a single request. One request in four has one.
- A lasting fault is chosen for the subject of a request, because a provider gives the same wrong
  answer to two requests with the same subject. Some of these faults never end, for example a split
  that is listed as two, or a restated series. Others last a morning: a late bar or an unreadable
  close.
- A permanent fault lasts for at least a day. No retry on that day helps, so the fault can make a
  Monday fail. `PERMANENT` lists these faults. A ticker stays delisted or unknown for a quarter of a
  year. A key is refused for a day, and a quota stays spent for a day.

A Monday has three questions to the model. The third one never gets a passing fault that makes the
answer unusable: three such faults in a row would be an outage, which a fault script can simulate.
"""

from collections import Counter
from datetime import date, datetime, time, timedelta
from random import Random
from typing import NamedTuple

from app.domain import calendar
from app.domain.model import QUESTIONS_PER_MONDAY
from app.simulation.faults import (
    DIVIDENDS,
    Fault,
    Series,
    SimulatedRequest,
    change_bars,
    is_premium_week,
)
from app.simulation.market import BENCHMARK_TICKER
from app.simulation.odd_faults import ALL_FAULTS, VERY_LATE_SPLIT_DELAY

# The chance of a passing fault per request, and of most lasting faults.
FAULT_CHANCE = 0.25

# The chance of a split per share and session. It is so high that the few tickers of the active
# batches have enough splits in a year.
SPLIT_CHANCE = 0.012

# Passing faults of any request for prices, and those of requests for bars, for splits or for
# dividends only.
ANY_REQUEST = (
    "throttle_premium", "throttle_plan", "throttle_bursty", "unheard_of", "error_unheard_of",
    "unknown_once", "empty_object", "symbol_twice", "other_symbol", "not_utf_8", "burst", "note",
    "information", "http_429", "http_500", "http_503", "html", "truncated_body", "cut",
)  # fmt: skip
BARS = (
    "no_bars", "session_twice", "close_twice", "saturday_bar", "old_bar_open_zero",
    "old_bar_close_unreadable", "open_zero",
)  # fmt: skip
SPLITS = ("old_splits_clash", "old_split_unreadable", "split_unreadable", "factor_twice")
DIVIDEND_ROWS = (
    "old_dividend_unreadable", "dividend_unreadable", "dividend_undated", "amount_twice",
)  # fmt: skip
# Passing faults of a question. With a fault of METADATA the answer is still usable, with one of
# SLIPS it is not.
METADATA = (
    "usage_float", "usage_negative", "usage_text", "usage_huge", "usage_null", "usage_list",
    "usage_absent", "content_parts", "fenced", "thinks",
)  # fmt: skip
SLIPS = (
    "content_filter", "ticker_twice", "action_twice", "not_utf_8", "http_500", "http_503",
    "refusal", "truncated", "two_picks",
)  # fmt: skip

# The faults that can make a Monday fail, by provider. `tests/support/odd_checker.py`, which checks
# the record of a rehearsal with odd faults, accepts a failed Monday for no other reason.
PERMANENT = {
    "alphavantage": ("unknown_for_good", "delisted_lately", "bad_key", "premium", "quota"),
    "openai": ("bad_key", "no_credit"),
}
_FAULTS_OF_A_DAY = {
    "alphavantage": ("bad_key", "premium", "quota"),
    "openai": ("bad_key", "no_credit"),
}
_FAULT_OF_A_DAY_CHANCE = {"alphavantage": 0.02, "openai": 0.05}
# The chance that a ticker is delisted in a quarter, and the chance that it is unknown.
_GONE_CHANCE = 0.015
_QUARTER_DAYS = 13 * 7


class NamedFault(NamedTuple):
    """A fault and its name."""

    name: str
    fault: Fault


class OddProviders:
    """Chooses the faults of each request by a seed."""

    def __init__(self, seed: str) -> None:
        self.seed = seed
        # How many requests there were of each kind: function, symbol and day.
        self._counts: Counter[tuple[str, str, date]] = Counter()
        # The day of the newest correct answer with bars, by symbol.
        self._last_correct: dict[str, date] = {}
        # Faults of questions in a random order (see `_draw_for_question`).
        self._deck: list[str] = []

    def faults(self, request: SimulatedRequest) -> list[NamedFault]:
        """Return the faults of a request, in the order in which they change its answer."""
        self._counts[_kind(request)] += 1
        if name := self._fault_of_day(request):
            return [_named(request.provider, name)]
        if request.provider == "openai":
            return self._draw_for_question(request)

        if request.function == DIVIDENDS:
            return self._faults_of_dividends(request)
        is_for_splits = request.function == "SPLITS"
        if request.symbol == _symbol(BENCHMARK_TICKER):
            lasting = []
        elif self._is_gone(request, "unknown_for_good"):
            return [_named(request.provider, "unknown_for_good")]
        elif is_for_splits:
            lasting = self._lasting_faults_of_splits(request)
        else:
            lasting = self._lasting_faults_of_bars(request)
        if not is_for_splits:
            lasting += self._faults_of_morning(request)
        passing = self._draw_passing(request)
        if not is_for_splits and not passing and not lasting:
            self._last_correct[request.symbol] = calendar.new_york_date(request.at)
        return lasting + passing

    def _faults_of_dividends(self, request: SimulatedRequest) -> list[NamedFault]:
        """Return the faults of a request for dividends. The market has their lasting faults."""
        if is_premium_week(self.seed, calendar.new_york_date(request.at)):
            return [_named(request.provider, "premium_dividends")]
        is_benchmark = request.symbol == _symbol(BENCHMARK_TICKER)
        if not is_benchmark and self._is_gone(request, "unknown_for_good"):
            return [_named(request.provider, "unknown_for_good")]
        return self._draw_passing(request)

    def listed_after(self, ticker: str) -> timedelta:
        """
        Return the delay with which the provider lists a split of `ticker`.

        The delay counts from the day of the split.
        """
        draw = self._draw("listed", _symbol(ticker))
        if draw < FAULT_CHANCE:
            return timedelta(days=6)
        if draw < 2 * FAULT_CHANCE:
            return VERY_LATE_SPLIT_DELAY + timedelta(days=1)
        return timedelta(0)

    def questions_on(self, day: date, function: str = "") -> int:
        """Return how many questions a model was asked on a day; `function` is their function."""
        # Only a request to a model has no symbol.
        return self._counts[(function, "", day)]

    def _draw(self, *about: object) -> float:
        """Return a random number from 0 to 1 that depends only on the seed and on `about`."""
        return Random("/".join(map(str, (self.seed, *about)))).random()  # noqa: S311

    def _request_rng(self, request: SimulatedRequest) -> Random:
        """
        Return the random generator of a request.

        It depends on the kind of the request and on its number among the requests of that kind. It
        does not depend on the time, because two runs send the same request at different moments.
        """
        kind = _kind(request)
        return Random(f"{self.seed}/passing/{kind}/{self._counts[kind]}")  # noqa: S311

    def _fault_of_day(self, request: SimulatedRequest) -> str | None:
        day, provider = calendar.new_york_date(request.at), request.provider
        if self._draw("lost", provider, day) >= _FAULT_OF_A_DAY_CHANCE[provider]:
            return None
        rng = Random(f"{self.seed}/how/{provider}/{day}")  # noqa: S311
        return rng.choice(_FAULTS_OF_A_DAY[provider])

    def _draw_for_question(self, request: SimulatedRequest) -> list[NamedFault]:
        rng = self._request_rng(request)
        if rng.random() >= FAULT_CHANCE:
            return []
        allowed: tuple[str, ...] = (*METADATA, *SLIPS)
        if self._counts[_kind(request)] >= QUESTIONS_PER_MONDAY:
            allowed = METADATA
        # A year has few questions, so the faults are drawn like cards from a deck: none repeats
        # before each has occurred. There is one exception: if the deck has no fault that a third
        # question may get, a new deck begins before the old one is used up.
        if not set(self._deck) & set(allowed):
            self._deck = rng.sample((*METADATA, *SLIPS), len(METADATA) + len(SLIPS))
        name = next(fault for fault in self._deck if fault in allowed)
        self._deck.remove(name)
        return [_named("openai", name)]

    def _is_gone(self, request: SimulatedRequest, fault: str) -> bool:
        """Return whether a ticker has `fault` (unknown or delisted) in the quarter of a request."""
        quarter = _quarter_start(calendar.new_york_date(request.at))
        return self._draw(fault, request.symbol, quarter) < _GONE_CHANCE

    def _lasting_faults_of_splits(self, request: SimulatedRequest) -> list[NamedFault]:
        names = []
        if delay := self.listed_after(request.symbol):
            names.append("late_split" if delay < VERY_LATE_SPLIT_DELAY else "very_late_split")
        if self._draw("in two", request.symbol) < FAULT_CHANCE:
            names.append("split_in_two")
        return [_named("alphavantage", name) for name in names]

    def _lasting_faults_of_bars(self, request: SimulatedRequest) -> list[NamedFault]:
        faults = []
        if self._draw("restated", request.symbol) < FAULT_CHANCE:
            faults.append(_named("alphavantage", "restated"))
        if self._is_gone(request, "delisted_lately"):
            quarter = _quarter_start(calendar.new_york_date(request.at))
            faults.append(NamedFault("delisted_lately", _end_series_before(quarter)))
        return faults

    def _faults_of_morning(self, request: SimulatedRequest) -> list[NamedFault]:
        """Return the faults of a ticker's bars that last a morning, or some days of the week."""
        day = calendar.new_york_date(request.at)
        monday = day - timedelta(days=day.weekday())
        names = []
        # Only a close that was read correctly before can be corrected; otherwise the service would
        # read the changed close first, and there would be no correction.
        last_correct = self._last_correct.get(request.symbol, date.min)
        was_read = last_correct >= monday - timedelta(days=2)
        if was_read and self._draw("corrected", request.symbol, monday) < FAULT_CHANCE:
            names.append("baseline_corrected")
        draw = self._draw("morning", request.symbol, day)
        if draw < 0.02 and _is_before(request.at, time(13)):
            names.append("late_bar")
        elif 0.02 <= draw < 0.03 and _is_before(request.at, time(11)):
            names.append("close_unreadable")
        elif draw > 0.9:
            names.append("partial_bar")
        return [_named("alphavantage", name) for name in names]

    def _draw_passing(self, request: SimulatedRequest) -> list[NamedFault]:
        rng = self._request_rng(request)
        if rng.random() >= FAULT_CHANCE:
            return []
        specific = {"SPLITS": SPLITS, DIVIDENDS: DIVIDEND_ROWS}.get(request.function, BARS)
        return [_named(request.provider, rng.choice((*ANY_REQUEST, *specific)))]


def _named(provider: str, name: str) -> NamedFault:
    return NamedFault(name, ALL_FAULTS[provider][name])


def _kind(request: SimulatedRequest) -> tuple[str, str, date]:
    """Return what a request is about: its function, its symbol and its day."""
    return request.function, request.symbol, calendar.new_york_date(request.at)


def _symbol(ticker: str) -> str:
    """Return a ticker in Alpha Vantage's spelling, with a dash."""
    return ticker.replace(".", "-")


def _is_before(moment: datetime, clock_time: time) -> bool:
    """Return whether a moment is before `clock_time` of its day in New York."""
    return moment < calendar.from_new_york(calendar.new_york_date(moment), clock_time)


def _quarter_start(day: date) -> date:
    """Return the first day of the 13 weeks that contain a day."""
    return date.fromordinal(day.toordinal() // _QUARTER_DAYS * _QUARTER_DAYS)


def _end_series_before(day: date) -> Fault:
    """Return a fault that removes the bars from `day` on."""

    def change(series: Series, _: SimulatedRequest) -> Series:
        return {session: bar for session, bar in series.items() if session < str(day)}

    return change_bars(change)
