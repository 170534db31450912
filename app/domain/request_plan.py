"""
The plan of price requests: how many the series need on each day, and which come first.

A key allows a number of requests in any 24 hours. One request for a ticker serves all batches and
all series that need it on that day. These are the classes of requests:

- *Closes* cannot wait: without them, a Monday has no batch, and a morning has no figures. If the
  closes of the configured series do not fit, the service does not start (`explain_misfit`).
- *Splits* are best effort: they are requested with what is left, on the Sunday or later in the week
  that begins with it. A figure that needs a ticker's splits requests them itself, at once
  (`jobs/splits.py`); such a request cannot be planned.
- *Weekly requests* come after the splits: one for the rate of a loan without risk, and two for each
  further benchmark, its closes and its splits.
- *Dividends* come last, on the Sunday or later in its week. A result has no total return until they
  are known; every other figure does without them.

How many closes a day needs follows from the days of a batch:

- Day 0 is a Monday. The closes of its baseline are those of the benchmark and of its picks.
- A checkpoint measures the session of the day before. So closes are needed from Tuesday to
  Saturday, for two batches of each series: one in its first week, and one in its second week.
- The checkpoints of days 6 and 13 are on Sundays, those of days 7 and 14 on Mondays. The day before
  is no session, so they need no closes. A batch that begins on the same Monday is therefore the
  only one of its series that needs closes on that day.

A day of the plan begins at 09:00 in New York, when its requests begin.
"""

from collections.abc import Iterable, Sequence
from datetime import date, timedelta

from msgspec import Struct

from app.domain.calendar import (
    LATE_SPLIT_CHECK_DAYS,
    MEASURED_DAYS,
    SPLIT_CHECK_DAYS,
    Calendar,
)
from app.domain.model import CHECKPOINT_DAYS, PICKS_PER_BATCH

# How many days a plan has.
PLANNED_DAYS = CHECKPOINT_DAYS

# The days of a batch on which a week of requests for its splits begins, the most important first.
# Day 13 is the last chance before the batch is completed, and day 27 the last of all.
SPLIT_DAYS = (*reversed(SPLIT_CHECK_DAYS), *reversed(LATE_SPLIT_CHECK_DAYS))

# The days of a batch on which a week of requests for its dividends begins, the most important
# first: day 13 is the first Sunday after its result. The Sundays two and four weeks later find
# dividends that are listed late.
DIVIDEND_DAYS = (13, 27, 41)

# How many requests a week needs for the rate of a loan without risk.
RATE_REQUESTS = 1

# If the provider does not know a proposed ticker, a Monday needs this many requests more: four more
# attempts for that ticker, and the closes of other picks.
UNKNOWN_TICKER_REQUESTS = 4 + PICKS_PER_BATCH

# Splits leave this many requests of each day unused, for an attempt that fails or for splits that a
# figure needs. It also means that a day of the plan alone never uses up the quota.
SPARE_REQUESTS = 1

# How many closes one checkpoint needs at most.
CHECKPOINT_REQUESTS = 1 + PICKS_PER_BATCH

# How many batches of one series are active on a morning that needs closes.
ACTIVE_BATCHES = CHECKPOINT_DAYS // 7

_DAY = timedelta(days=1)
_WEEK = timedelta(days=7)
_MONDAY, _SUNDAY = 0, 6


class PlannedBatch(Struct, frozen=True):
    """
    A batch with the tickers that it needs requests for.

    `tickers` are those of its benchmark and of its picks. For splits, and in a plan of some weeks,
    picks that stopped trading are left out. For the dividends that a week still needs, they are
    included, and so are the former tickers of renamed picks.
    """

    series: str
    run_date: date
    tickers: tuple[str, ...]


class PlannedDay(Struct, frozen=True, kw_only=True):
    """
    The requests that are planned for a day.

    - `baseline_closes`: the most requests that the baselines of a Monday need
    - `checkpoint_closes`: the most requests that the checkpoints of the morning need
    - `splits`: the requests for splits that have room on this day
    - `splits_waiting`: the requests for splits that have no room yet. On a Saturday, the last day
      of their week, they are left out.
    - `weekly`: the weekly requests that have room on this day
    - `dividends`, `dividends_waiting`: the same as for splits
    """

    day: date
    baseline_closes: int
    checkpoint_closes: int
    splits: int
    splits_waiting: int
    weekly: int
    dividends: int
    dividends_waiting: int

    @property
    def closes(self) -> int:
        """Return how many requests the closes of the day need at most."""
        return self.baseline_closes + self.checkpoint_closes


class RequestPlan(Struct, frozen=True):
    """The planned requests of PLANNED_DAYS days, and how many the key allows in 24 hours."""

    per_day: int
    days: list[PlannedDay]

    @property
    def most_closes(self) -> int:
        """Return how many closes the day with the most closes needs."""
        return max(day.closes for day in self.days)

    @property
    def left_out_splits(self) -> int:
        """Return how many requests for splits have no room until the last day of their week."""
        return sum(day.splits_waiting for day in self._last_days)

    @property
    def left_out_dividends(self) -> int:
        """Return how many requests for dividends have no room until the last day of their week."""
        return sum(day.dividends_waiting for day in self._last_days)

    @property
    def _last_days(self) -> list[PlannedDay]:
        return [day for day in self.days if _is_last_day(day.day)]


def closes_on_weekday(series_count: int) -> int:
    """Return how many closes a morning from Tuesday to Saturday needs at most."""
    return 1 + ACTIVE_BATCHES * PICKS_PER_BATCH * series_count


def explain_misfit(
    series_count: int, per_day: int, benchmark: str, *, source: str = "SERIES_FILE"
) -> str | None:
    """
    Return why the closes of so many series do not fit in `per_day` requests, and what to set.

    `source` is the setting, or the option of a command, with the file of series. Return None if
    they fit.
    """
    needed = closes_on_weekday(series_count)
    if needed <= per_day:
        return None
    series = "one series"
    remedy = f"Set ALPHA_VANTAGE_PER_DAY to {needed} or more if the key allows it"
    if series_count > 1:
        series = f"{series_count} series"
        remedy += f", or take series out of {source}"
    return (
        f"ALPHA_VANTAGE_PER_DAY is {per_day}, but the closes of {series} need up to {needed} "
        f"requests a day: {benchmark}, and {ACTIVE_BATCHES} active batches with "
        f"{PICKS_PER_BATCH} picks for each series. {remedy}."
    )


def in_turn(names: Iterable[str], day: date) -> list[str]:
    """
    Return the names of series, or other names, in the order of their turns on a day.

    The names are sorted, and each day another one is first. So if only some of them can be served,
    it is another one each day that has to wait.
    """
    ordered = sorted(set(names))
    if not ordered:
        return []
    first = day.toordinal() % len(ordered)
    return [*ordered[first:], *ordered[:first]]


def week_sunday(day: date) -> date:
    """Return the Sunday that begins the week of `day`. Weekly requests are sent from then on."""
    return day - _DAY * ((day.weekday() - _SUNDAY) % _WEEK.days)


def _is_last_day(day: date) -> bool:
    """Return whether a day is the last one of the week of its splits: a Saturday."""
    return week_sunday(day + _DAY) == day + _DAY


def order_splits(
    batches: Sequence[PlannedBatch], day: date, *, benchmark: str, answered: Iterable[str] = ()
) -> list[str]:
    """
    Return the tickers whose splits are still to be requested in the week of `day`, in order.

    The benchmark is first. The other tickers follow by the importance of their batch's day
    (SPLIT_DAYS). Batches of the same day take turns: first one ticker of each series, then another
    one of each. Each day begins with another series, and with another ticker of each batch: a
    ticker for which the provider does not answer must not use up what is left every day.

    `answered` are the tickers whose splits were already requested in this week.
    """
    return _order(batches, day, ages=SPLIT_DAYS, benchmark=benchmark, answered=answered)


def order_dividends(
    batches: Sequence[PlannedBatch], day: date, *, benchmark: str, answered: Iterable[str] = ()
) -> list[str]:
    """
    Return the tickers whose dividends are still to be requested in the week of `day`, in order.

    The order is that of `order_splits`, with the days of DIVIDEND_DAYS.
    """
    return _order(batches, day, ages=DIVIDEND_DAYS, benchmark=benchmark, answered=answered)


def _order(
    batches: Sequence[PlannedBatch],
    day: date,
    *,
    ages: Sequence[int],
    benchmark: str,
    answered: Iterable[str],
) -> list[str]:
    """Return the tickers of the batches that are so many days old on the Sunday, in order."""
    sunday = week_sunday(day)
    days_passed = (day - sunday).days
    turns = in_turn((batch.series for batch in batches), day)
    keys: dict[str, tuple[int, int, int]] = {}
    for batch in batches:
        age = (sunday - batch.run_date).days
        if age not in ages:
            continue
        for index, ticker in enumerate(batch.tickers):
            place = (index - days_passed) % len(batch.tickers)
            key = (ages.index(age), place, turns.index(batch.series))
            keys[ticker] = min(key, keys.get(ticker, key))
    if benchmark in keys:
        keys[benchmark] = (-1, 0, 0)
    done = set(answered)
    return [ticker for ticker in sorted(keys, key=keys.__getitem__) if ticker not in done]


class Sent(Struct, frozen=True):
    """
    The requests that were already sent on the first day of a plan, besides closes.

    - `splits_early`, `splits_late`: for splits, with the morning's closes and later
    - `after_splits`: for what comes after the splits
    """

    splits_early: int = 0
    splits_late: int = 0
    after_splits: int = 0

    @property
    def late(self) -> int:
        """Return how many of them still count on the next morning."""
        return self.splits_late + self.after_splits


_NOTHING_SENT = Sent()


def plan(
    first_day: date,
    *,
    series: Sequence[str],
    batches: Sequence[PlannedBatch],
    sessions: Calendar,
    per_day: int,
    benchmark: str,
    answered: Iterable[str] = (),
    answered_dividends: Iterable[str] = (),
    weekly: int = RATE_REQUESTS,
    weekly_waiting: int = 0,
    sent: Sent = _NOTHING_SENT,
) -> RequestPlan:
    """
    Return the plan from `first_day` on.

    `series` are the names of the configured series: each makes a batch on every Monday. `batches`
    are those of the record that are young enough to need requests; batches of series that are no
    longer configured are among them. A batch that is still to be made counts with as many different
    tickers as a batch can have. `answered` and `answered_dividends` are the tickers whose splits
    and dividends were already requested in the week of `first_day`. `weekly` is the number of
    weekly requests, and `weekly_waiting` how many of them are still to be sent in that week.
    """
    needs = _Needs(
        first_day, series=series, batches=batches, sessions=sessions, benchmark=benchmark
    )
    waiting = _Waiting(
        splits=order_splits(
            needs.split_batches(first_day), first_day, benchmark=benchmark, answered=answered
        ),
        weekly=weekly_waiting,
        dividends=order_dividends(
            needs.dividend_batches(first_day),
            first_day,
            benchmark=benchmark,
            answered=answered_dividends,
        ),
    )
    days: list[PlannedDay] = []
    late_before = 0
    for number in range(PLANNED_DAYS):
        day = first_day + number * _DAY
        if number and day == week_sunday(day):
            waiting = _Waiting(
                splits=order_splits(needs.split_batches(day), day, benchmark=benchmark),
                weekly=weekly,
                dividends=order_dividends(needs.dividend_batches(day), day, benchmark=benchmark),
            )
        done = _plan_day(
            day, needs=needs, waiting=waiting, sent=sent, per_day=per_day, late_before=late_before
        )
        days.append(done.planned)
        waiting, late_before, sent = done.waiting, done.late, _NOTHING_SENT
    return RequestPlan(per_day, days)


class _Waiting(Struct, frozen=True):
    """The requests that a week still needs: tickers for splits and dividends, in order."""

    splits: list[str]
    weekly: int
    dividends: list[str]


class _DoneDay(Struct, frozen=True):
    """
    A planned day, and what follows from it for the next one.

    `waiting` are the requests that had no room, and `late` is how many requests of the day still
    count on the next morning.
    """

    planned: PlannedDay
    waiting: _Waiting
    late: int


def _plan_day(
    day: date,
    *,
    needs: "_Needs",
    waiting: _Waiting,
    sent: Sent,
    per_day: int,
    late_before: int,
) -> _DoneDay:
    """
    Return the plan of one day.

    `sent` are the requests that were already sent on this day, and `late_before` those of the day
    before that still count on its morning.
    """
    closes = needs.closes(day)
    free = per_day - closes - sent.splits_early - sent.late - SPARE_REQUESTS
    early = 0
    if day == week_sunday(day):
        # The splits of active batches are requested at nine, with the Sunday's checkpoints. These
        # requests no longer count at nine on Monday.
        own = own_tickers(needs.split_batches(day), day, needs.benchmark)
        early = _room(sum(ticker in own for ticker in waiting.splits), free - late_before)
    tomorrow = day + _DAY
    room = _room(
        free - early,
        per_day - sent.late - reserve(tomorrow, needs.closes(tomorrow)),
    )
    late = min(room, len(waiting.splits) - early)
    weekly = min(room - late, waiting.weekly)
    dividends = min(room - late - weekly, len(waiting.dividends))
    left = _Waiting(
        splits=waiting.splits[early + late :],
        weekly=waiting.weekly - weekly,
        dividends=waiting.dividends[dividends:],
    )
    planned = PlannedDay(
        day=day,
        baseline_closes=len(needs.baseline_tickers(day)),
        checkpoint_closes=len(needs.checkpoint_tickers(day)),
        splits=sent.splits_early + early + sent.splits_late + late,
        splits_waiting=len(left.splits),
        weekly=weekly,
        dividends=dividends,
        dividends_waiting=len(left.dividends),
    )
    return _DoneDay(planned=planned, waiting=left, late=sent.late + late + weekly + dividends)


def reserve(day: date, closes: int) -> int:
    """Return how many requests must be left for a day that needs so many closes."""
    reserved = closes + SPARE_REQUESTS
    if day.weekday() == _MONDAY:
        reserved += UNKNOWN_TICKER_REQUESTS
    return reserved


def own_tickers(batches: Sequence[PlannedBatch], sunday: date, benchmark: str) -> set[str]:
    """Return the tickers whose splits a Sunday within their batch's fortnight requests."""
    tickers = {benchmark}
    for batch in batches:
        if (sunday - batch.run_date).days in SPLIT_CHECK_DAYS:
            tickers.update(batch.tickers)
    return tickers


def _room(*limits: int) -> int:
    return max(0, min(limits))


class _Needs:
    """The tickers that each day needs: those of known batches, and of those that will be made."""

    def __init__(
        self,
        first_day: date,
        *,
        series: Sequence[str],
        batches: Sequence[PlannedBatch],
        sessions: Calendar,
        benchmark: str,
    ) -> None:
        self._first_day = first_day
        self._series = series
        self._sessions = sessions
        self.benchmark = benchmark
        self._known: dict[date, list[PlannedBatch]] = {}
        for batch in batches:
            self._known.setdefault(batch.run_date, []).append(batch)

    def closes(self, day: date) -> int:
        """Return how many closes a day needs at most."""
        return len(self.baseline_tickers(day)) + len(self.checkpoint_tickers(day))

    def baseline_tickers(self, day: date) -> set[str]:
        """Return the tickers whose closes the baselines of a day need."""
        if day.weekday() != _MONDAY:
            return set()
        return _tickers_of(self._batches_of(day))

    def checkpoint_tickers(self, day: date) -> set[str]:
        """Return the tickers whose closes the checkpoints of a day need."""
        if self._sessions.trading_day(day) is None:
            return set()
        return _tickers_of(self._batches_of_ages(day, MEASURED_DAYS))

    def split_batches(self, day: date) -> list[PlannedBatch]:
        """Return the batches that may need splits in the week of `day`."""
        return self._batches_of_ages(week_sunday(day), SPLIT_DAYS)

    def dividend_batches(self, day: date) -> list[PlannedBatch]:
        """Return the batches that may need dividends in the week of `day`."""
        return self._batches_of_ages(week_sunday(day), DIVIDEND_DAYS)

    def _batches_of_ages(self, day: date, ages: Iterable[int]) -> list[PlannedBatch]:
        """Return the batches of the Mondays that are so many days before `day`."""
        found: list[PlannedBatch] = []
        for age in ages:
            run_date = day - age * _DAY
            if run_date.weekday() == _MONDAY:
                found += self._batches_of(run_date)
        return found

    def _batches_of(self, run_date: date) -> list[PlannedBatch]:
        """Return the batches of a Monday, with those that are still to be made."""
        known = self._known.get(run_date, [])
        if run_date < self._first_day:
            return known
        made = {batch.series for batch in known}
        expected = [self._expected(name, run_date) for name in self._series if name not in made]
        return [*known, *expected]

    def _expected(self, series: str, run_date: date) -> PlannedBatch:
        # No ticker has such a name, so each place counts as another ticker.
        places = range(1, PICKS_PER_BATCH + 1)
        picks = [f"{series}, {run_date}, {place}" for place in places]
        return PlannedBatch(series, run_date, (self.benchmark, *picks))


def _tickers_of(batches: Sequence[PlannedBatch]) -> set[str]:
    tickers: set[str] = set()
    for batch in batches:
        tickers.update(batch.tickers)
    return tickers
