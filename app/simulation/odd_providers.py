"""
Providers that err in every known way, at one request in four, by a seed.

What passes is drawn for each request. What does not pass within a request is drawn for what it is about, because no
provider changes its mind between two requests: how a ticker's splits are listed and whether its series is restated, for
the whole market; a late bar or an unreadable close, for a ticker and a morning; a delisted or unknown ticker, for a
quarter of a year; a key that is refused or a quota that is spent, for a day.

Only the last two kinds can cost a Monday for good: `PERMANENT` names them. A model has three questions on a Monday, so
its third one never meets a passing fault: three in a row would be an outage, which is a script's to play.
"""

from collections import Counter
from datetime import date, datetime, time, timedelta
from random import Random
from typing import NamedTuple

from app.domain import calendar
from app.domain.model import QUESTIONS_PER_MONDAY
from app.simulation.faults import Asked, Fault, bars
from app.simulation.market import MARKET
from app.simulation.odd_faults import EVERY, VERY_LATE

# One request in four.
OFTEN = 0.25

# So that the few tickers that are held at a time meet enough splits in a year.
SPLITS_OFTEN = 0.012

# Drawn for one request, whatever it asks of the price provider; then what only bars or only splits can have.
ANY_REQUEST = (
    "throttle_premium", "throttle_plan", "throttle_bursty", "unheard_of", "error_unheard_of", "unknown_once",
    "empty_object", "symbol_twice", "other_symbol", "not_utf_8", "burst", "note", "information", "http_429", "http_500",
    "http_503", "html", "truncated_body", "cut",
)  # fmt: skip
BARS = (
    "no_bars", "session_twice", "close_twice", "saturday_bar", "old_bar_open_zero", "old_bar_close_unreadable",
    "open_zero",
)  # fmt: skip
SPLITS = ("old_splits_clash", "old_split_unreadable", "split_unreadable", "factor_twice")
# Drawn for a question: what must not cost the answer, and what does.
METADATA = (
    "usage_float", "usage_negative", "usage_text", "usage_huge", "usage_null", "usage_list", "usage_absent",
    "content_parts", "fenced", "thinks",
)  # fmt: skip
SLIPS = (
    "content_filter", "ticker_twice", "action_twice", "not_utf_8", "http_500", "http_503", "refusal", "truncated",
    "two_picks",
)  # fmt: skip

# What ends a Monday for good, by provider; the judge of a rehearsal accepts no other reason.
PERMANENT = {
    "alphavantage": ("unknown_for_good", "delisted_lately", "bad_key", "premium", "quota"),
    "openai": ("bad_key", "no_credit"),
}
_LOST_DAYS = {"alphavantage": ("bad_key", "premium", "quota"), "openai": ("bad_key", "no_credit")}
_QUARTER = 13 * 7
_LOST = {"alphavantage": 0.02, "openai": 0.05}


class Named(NamedTuple):
    """A fault and its name."""

    name: str
    fault: Fault


class OddProviders:
    """What goes wrong with which request, by a seed."""

    def __init__(self, seed: str) -> None:
        self.seed = seed
        self._asked: Counter[tuple[str, str, date]] = Counter()
        self._told: dict[str, date] = {}
        self._deck: list[str] = []

    def faults(self, asked: Asked) -> list[Named]:
        """Return the faults of a request, in the order in which they change its answer."""
        self._asked[_about(asked)] += 1
        if lost := self._of_the_day(asked):
            return [_known(asked.provider, lost)]
        if asked.provider == "openai":
            return self._of_a_question(asked)
        if asked.symbol == _as_asked(MARKET):
            lasting = []
        elif self._is_gone(asked, "unknown_for_good"):
            return [_known(asked.provider, "unknown_for_good")]
        else:
            lasting = self._of_splits(asked) if asked.function == "SPLITS" else self._of_bars(asked)
        if asked.function != "SPLITS":
            lasting += self._of_the_morning(asked)
        passing = self._passing(asked)
        if asked.function != "SPLITS" and not passing and not lasting:
            self._told[asked.symbol] = calendar.today(asked.at)
        return lasting + passing

    def listed_after(self, ticker: str) -> timedelta:
        """Return how long after its day a split of `ticker` is first listed."""
        draw = self._draw("listed", _as_asked(ticker))
        if draw < OFTEN:
            return timedelta(days=6)
        return VERY_LATE + timedelta(days=1) if draw < 2 * OFTEN else timedelta(0)

    def questions_on(self, day: date) -> int:
        """Return how many questions the model was asked on a day."""
        return sum(count for (_, symbol, asked_on), count in self._asked.items() if not symbol and asked_on == day)

    def _draw(self, *about: object) -> float:
        return Random("/".join(map(str, (self.seed, *about)))).random()  # noqa: S311

    def _chance(self, asked: Asked) -> Random:
        """Return the chances of a request: by its place among those of its day, for two runs ask at other moments."""
        return Random(f"{self.seed}/passing/{_about(asked)}/{self._asked[_about(asked)]}")  # noqa: S311

    def _of_the_day(self, asked: Asked) -> str | None:
        day = calendar.today(asked.at)
        if self._draw("lost", asked.provider, day) >= _LOST[asked.provider]:
            return None
        return Random(f"{self.seed}/how/{asked.provider}/{day}").choice(_LOST_DAYS[asked.provider])  # noqa: S311

    def _of_a_question(self, asked: Asked) -> list[Named]:
        chance = self._chance(asked)
        if chance.random() >= OFTEN:
            return []
        fitting = METADATA if self._asked[_about(asked)] >= QUESTIONS_PER_MONDAY else (*METADATA, *SLIPS)
        # There are few questions in a year: none of these comes again before each has come.
        if not set(self._deck) & set(fitting):
            self._deck = chance.sample((*METADATA, *SLIPS), len(METADATA) + len(SLIPS))
        name = next(one for one in self._deck if one in fitting)
        self._deck.remove(name)
        return [_known("openai", name)]

    def _is_gone(self, asked: Asked, how: str) -> bool:
        return self._draw(how, asked.symbol, _quarter(calendar.today(asked.at))) < 0.015

    def _of_splits(self, asked: Asked) -> list[Named]:
        names = []
        if late := self.listed_after(asked.symbol):
            names.append("late_split" if late < VERY_LATE else "very_late_split")
        if self._draw("in two", asked.symbol) < OFTEN:
            names.append("split_in_two")
        return [_known("alphavantage", name) for name in names]

    def _of_bars(self, asked: Asked) -> list[Named]:
        found = []
        if self._draw("restated", asked.symbol) < OFTEN:
            found.append(_known("alphavantage", "restated"))
        if self._is_gone(asked, "delisted_lately"):
            found.append(Named("delisted_lately", _ended_before(_quarter(calendar.today(asked.at)))))
        return found

    def _of_the_morning(self, asked: Asked) -> list[Named]:
        """Return what is wrong with a ticker's bars all morning, or for some days of the week."""
        day = calendar.today(asked.at)
        monday = day - timedelta(days=day.weekday())
        names = []
        # Only what was told rightly before is corrected; otherwise the correction would be the first reading.
        told = self._told.get(asked.symbol, date.min)
        if told >= monday - timedelta(days=2) and self._draw("corrected", asked.symbol, monday) < OFTEN:
            names.append("baseline_corrected")
        draw = self._draw("morning", asked.symbol, day)
        if draw < 0.02 and _before(asked.at, time(13)):
            names.append("late_bar")
        elif 0.02 <= draw < 0.03 and _before(asked.at, time(11)):
            names.append("close_unreadable")
        elif draw > 0.9:
            names.append("partial_bar")
        return [_known("alphavantage", name) for name in names]

    def _passing(self, asked: Asked) -> list[Named]:
        chance = self._chance(asked)
        if chance.random() >= OFTEN:
            return []
        more = SPLITS if asked.function == "SPLITS" else BARS
        return [_known(asked.provider, chance.choice((*ANY_REQUEST, *more)))]


def _known(provider: str, name: str) -> Named:
    return Named(name, EVERY[provider][name])


def _about(asked: Asked) -> tuple[str, str, date]:
    return asked.function, asked.symbol, calendar.today(asked.at)


def _as_asked(ticker: str) -> str:
    return ticker.replace(".", "-")


def _before(at: datetime, clock: time) -> bool:
    return at < calendar.at(calendar.today(at), clock)


def _quarter(day: date) -> date:
    """Return the first day of the quarter of a year that a day is in, counted in weeks."""
    return date.fromordinal(day.toordinal() // _QUARTER * _QUARTER)


def _ended_before(day: date) -> Fault:
    """Return a fault that ends the series before a day."""
    return bars(lambda series, _: {session: bar for session, bar in series.items() if session < str(day)})
