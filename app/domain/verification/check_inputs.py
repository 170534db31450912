"""
What a yearly check rests on, from what the journal has recorded up to its entry.

The service and `alpha-monday verify` both compute a check from a `JournalState`, so a check depends
on entries of the journal alone. The rules are those of app/domain/rules/yearly_check_1.txt.
"""

import decimal
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

from app.domain import calendar, returns, splits, yearly_check
from app.domain.check_contents import CheckInputs, SeriesStanding
from app.domain.model import (
    Action,
    Batch,
    BatchStatus,
    Checkpoint,
    CheckpointStatus,
    Close,
    JournalHead,
    Pick,
    Rate,
    SkipReason,
    Split,
)
from app.domain.returns import DECIMAL_CONTEXT
from app.domain.statistics import to_float
from app.domain.tickers import TickerHistory
from app.domain.verification.state import JournalState
from app.domain.yearly_check import BatchResult, PickResult

_DAY = timedelta(days=1)
_WEEK = timedelta(weeks=1)
_FORTNIGHT = 2 * _WEEK
# The last days of the two weeks of a batch, as days after its Monday.
_LAST_DAYS = (len(calendar.MEASURED_DAYS) // 2, len(calendar.MEASURED_DAYS))


class NextCheck(NamedTuple):
    """The next check of a record: its number, its date, and when it can be held."""

    number: int
    on: date
    held_at: datetime


def next_check(first_monday: date, held: int) -> NextCheck:
    """Return the check after the first `held` ones of a record."""
    on = yearly_check.check_date(first_monday, held + 1)
    return NextCheck(number=held + 1, on=on, held_at=yearly_check.held_at(on))


def first_monday(state: JournalState) -> date | None:
    """Return the first Monday of the record's first series; None without a batch."""
    return min((run_date for _, run_date in state.mondays), default=None)


def read_inputs(
    state: JournalState, check: NextCheck, *, head: JournalHead, rules_at: datetime
) -> CheckInputs:
    """
    Return what a check rests on if it is held after the entries that `state` has.

    `head` is the newest of these entries, and `rules_at` the time of the RULES entry.
    """
    reader = _Reader(state)
    first = first_monday(state) or check.on
    since = yearly_check.check_date(first, check.number - 1)
    standings: list[SeriesStanding] = []
    for name in sorted({series for series, run_date in state.mondays if run_date <= check.on}):
        batches = [batch for batch in state.batches.values() if batch.series == name]
        counted = [batch for batch in batches if _is_counted(batch, check.on)]
        declared = state.series_terms.get(name, [])
        terms = declared[-1] if declared else {}
        profile = terms.get("profile")
        standings.append(
            SeriesStanding(
                name=name,
                batches=[reader.result(one) for one in sorted(counted, key=_run_date)],
                failed_mondays=sum(_is_lost(batch, since, check.on) for batch in batches),
                is_control=terms.get("kind") == "random",
                has_tools=isinstance(profile, dict) and profile.get("tools") == "true",
                was_retired=_is_retired(terms) or _was_retired(declared, since, check.on),
            )
        )
    return CheckInputs(
        number=check.number,
        on=check.on,
        is_late=check.held_at < rules_at,
        head=head,
        standings=standings,
        rates=sorted(reader.used_rates.values(), key=lambda rate: rate.observed_on),
    )


def _run_date(batch: Batch) -> date:
    return batch.run_date


def _is_counted(batch: Batch, on: date) -> bool:
    """Return whether a check counts a batch: one that is over, has picks and was not late."""
    is_over = batch.run_date <= on - _FORTNIGHT
    return is_over and batch.trading_day is not None and not batch.late


def _is_lost(batch: Batch, since: date, on: date) -> bool:
    """
    Return whether a Monday since the check before has no picks that count.

    A late batch counts like a failed one: with a changed program, an operator could look at the
    first prices of the day, and store only the batches late that have begun badly.
    """
    has_failed = batch.status is BatchStatus.FAILED
    return (has_failed or batch.late) and since <= batch.run_date < on


def _is_retired(terms: Mapping[str, Any]) -> bool:
    return terms.get("retired") == "true"


def _was_retired(declared: Sequence[Mapping[str, Any]], since: date, on: date) -> bool:
    """Return whether a series was retired on a Monday from `since` to the day before `on`."""
    for days in range(0, (on - since).days, _WEEK.days):
        # Dates are compared as texts: a journal that is only replayed was not checked.
        monday = str(since + timedelta(days=days))
        in_force = [one for one in declared if str(one.get("holds_from")) <= monday]
        if in_force and _is_retired(in_force[-1]):
            return True
    return False


class _Reader:
    """
    Reads the results of batches from the rows that the journal mentions.

    `used_rates` has the readings of rates that were used so far, by day.
    """

    def __init__(self, state: JournalState) -> None:
        self.state = state
        self.used_rates: dict[date, Rate] = {}
        self._rates: dict[date, Rate] = {}
        for rate in sorted(state.rates.values(), key=lambda rate: rate.read_at):
            self._rates[rate.observed_on] = rate
        self._closes: dict[tuple[str, date], Close] = {}
        mentioned = (*state.read_closes.values(), *state.closes.values())
        for close in sorted(mentioned, key=lambda close: close.read_at):
            self._closes[close.ticker, close.trading_day] = close

    def result(self, batch: Batch) -> BatchResult:
        """Return the figures of a batch that a check counts."""
        assert batch.trading_day, "a batch with picks has a baseline"
        sessions = [batch.trading_day, *(self._last_session(batch, day) for day in _LAST_DAYS)]
        changes = [self._benchmark_change(batch, session) for session in sessions[1:]]
        picks = [self.state.picks[id] for id in self.state.picks_of[batch.id]]
        return BatchResult(
            monday=batch.run_date,
            picks=[
                PickResult(
                    middle=self._alpha(batch, pick, sessions[1]),
                    result=self._alpha(batch, pick, sessions[2]),
                )
                for pick in sorted(picks, key=lambda pick: pick.position)
            ],
            benchmark=(_to_float(changes[0]), _to_float(_difference(changes[1], changes[0]))),
            risk_free=(
                self._rate(sessions[0], sessions[1]),
                self._rate(sessions[1], sessions[2]),
            ),
        )

    def _last_session(self, batch: Batch, last_day: int) -> date:
        """Return the last session before a day of a batch; the baseline if there was none."""
        assert batch.trading_day, "a batch with picks has a baseline"
        for day in range(last_day, 0, -1):
            if self._was_session(batch, day):
                return calendar.checkpoint_date(batch.run_date, day) - _DAY
        return batch.trading_day

    def _was_session(self, batch: Batch, day: int) -> bool:
        """Return whether the day before a checkpoint's date was a session."""
        session = calendar.checkpoint_date(batch.run_date, day) - _DAY
        if not calendar.is_weekday(session):
            return False
        checkpoint = self._checkpoint(batch, day)
        if checkpoint is None or checkpoint.skip_reason is not SkipReason.MARKET_CLOSED:
            return True
        return (batch.benchmark_symbol, session) in self._closes

    def _checkpoint(self, batch: Batch, day: int) -> Checkpoint | None:
        id = self.state.days_of.get(batch.id, {}).get(day)
        if id is None:
            return None
        return self.state.checkpoints[id]

    def _computed(self, batch: Batch, session: date) -> Checkpoint | None:
        """Return the computed checkpoint of a session; None if there is none."""
        checkpoint = self._checkpoint(batch, (session + _DAY - batch.run_date).days)
        if checkpoint is None or checkpoint.status is not CheckpointStatus.COMPUTED:
            return None
        return checkpoint

    def _benchmark_change(self, batch: Batch, session: date) -> Decimal | None:
        """Return the benchmark's change since the baseline, in percent; None without a reading."""
        if session == batch.trading_day:
            return Decimal(0)
        checkpoint = self._computed(batch, session)
        if checkpoint is not None:
            return checkpoint.benchmark_return_pct
        close = self._closes.get((batch.benchmark_symbol, session))
        baseline = self.state.closes.get(batch.benchmark_initial_close_id or batch.id)
        if close is None or baseline is None or batch.benchmark_initial_price is None:
            return None
        factor = self._factor(
            TickerHistory.unchanged(batch.benchmark_symbol),
            after=_basis_date(baseline),
            through=_basis_date(close),
        )
        return returns.return_pct(batch.benchmark_initial_price, close.close, factor)

    def _alpha(self, batch: Batch, pick: Pick, session: date) -> float | None:
        """Return a pick's alpha in a session, in percentage points; None without a reading."""
        excess = self._excess(batch, pick, session)
        if excess is None:
            return None
        if pick.action is Action.SELL:
            excess = -excess
        return to_float(excess)

    def _excess(self, batch: Batch, pick: Pick, session: date) -> Decimal | None:
        """Return a pick's change less the benchmark's, in percentage points."""
        if session == batch.trading_day:
            return Decimal(0)
        checkpoint = self._computed(batch, session)
        if checkpoint is not None:
            metric = self.state.metrics_of.get(checkpoint.id, {}).get(pick.id)
            return self.state.metrics[metric].vs_benchmark_pct if metric else None
        change = self._benchmark_change(batch, session)
        priced = self._price(pick, session)
        baseline = self.state.closes.get(pick.initial_close_id)
        if change is None or priced is None or baseline is None:
            return None
        price, through = priced
        factor = self._factor(
            self.state.shares[pick.id], after=_basis_date(baseline), through=through
        )
        figures = returns.measure_returns(
            initial=pick.initial_price,
            current=price,
            factor=factor,
            benchmark_return_pct=change,
        )
        return figures.vs_benchmark_pct

    def _price(self, pick: Pick, session: date) -> tuple[Decimal, date] | None:
        """Return a pick's price of a session, and the day up to which its splits count."""
        ending = self.state.endings.get(pick.id)
        if ending is not None and session > ending.last_session:
            return ending.value, ending.last_session
        close: Close | None = None
        for ticker in self.state.shares[pick.id].period(session).tickers:
            close = self._closes.get((ticker, session), close)
        if close is None:
            return None
        return close.close, _basis_date(close)

    def _factor(self, share: TickerHistory, *, after: date, through: date) -> Decimal:
        readings: list[Split] = []
        for ticker in share.all_tickers:
            readings += self.state.splits[ticker].values()
        readings += _of_tickers(self.state.read_splits.values(), share.all_tickers)
        return splits.total_factor(share.splits_in_force(readings), after, through)

    def _rate(self, first: date, last: date) -> float | None:
        """Return the rate without risk between two sessions, in percent."""
        rate = yearly_check.rate_of_week(self._rates, first)
        if rate is None:
            return None
        self.used_rates[rate.observed_on] = rate
        return to_float(yearly_check.risk_free_pct(rate, first, last))


def _of_tickers(readings: Iterable[Split], tickers: Iterable[str]) -> Sequence[Split]:
    return [split for split in readings if split.ticker in tickers]


def _basis_date(close: Close) -> date:
    return splits.basis_date(close.source, close.trading_day)


def _difference(later: Decimal | None, earlier: Decimal | None) -> Decimal | None:
    if later is None or earlier is None:
        return None
    with decimal.localcontext(DECIMAL_CONTEXT):
        return later - earlier


def _to_float(value: Decimal | None) -> float | None:
    return None if value is None else to_float(value)
