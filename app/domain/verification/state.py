"""What the journal has recorded up to an entry: the newest mention and relations of every row."""

from bisect import insort
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from uuid import UUID

from app.domain import model
from app.domain.calendar import Calendar
from app.domain.declarations import (
    AnyDeclaration,
    Genesis,
    ProviderResponse,
    ResponseKind,
    in_force_on,
)
from app.domain.dividends import DividendResponse
from app.domain.journal import to_text
from app.domain.model import (
    Batch,
    BatchStatus,
    Checkpoint,
    CheckpointStatus,
    Close,
    Correction,
    Dividend,
    Ending,
    FurtherBenchmark,
    Generation,
    JournalKind,
    Pick,
    PickMetric,
    Rate,
    Split,
)
from app.domain.tickers import TickerHistory
from app.domain.verification.entries import (
    MEMBERS,
    AnyRow,
    Mention,
    ParsedEntry,
    iter_rows,
    parse_row,
)
from app.domain.verification.record_calendar import RecordCalendar

if TYPE_CHECKING:  # these modules import this one
    from app.domain.verification.rules.closures import SessionChoice
    from app.domain.verification.rules.counted_splits import SplitCount
    from app.domain.verification.rules.marks import PendingMark
    from app.domain.verification.rules.price_claims import FittingClosesClaim, MissingCloseClaim
    from app.domain.verification.rules.prices import PickWithoutOpen, ReadingUse

T = TypeVar("T")

# Only a running service writes entries of these kinds, so they show that the service was running.
# Entries of the other kinds can come from an operator's command.
_SERVICE_KINDS = (
    JournalKind.GENERATION,
    JournalKind.BATCH,
    JournalKind.FAILURE,
    JournalKind.CHECKPOINT,
)

# The columns, by table, that an earlier version does not know: version 0.3.0 those of questions and
# picks, version 0.4.0 the total returns. It mentions a row without them.
LEFT_OUT = {
    "generations": (
        "reasoning_effort",
        "finish_reason",
        "system_fingerprint",
        "reasoning_tokens",
    ),
    "picks": ("probability",),
    "checkpoints": (
        "benchmark_dividends",
        "benchmark_total_return_pct",
        "benchmark_spin_off_counted_once",
    ),
    "pick_checkpoint_metrics": (
        "dividends",
        "total_return_pct",
        "vs_benchmark_total_pct",
        "spin_off_counted_once",
    ),
}

# A Monday of a series: (series, run date).
SeriesMonday = tuple[str, date]


class DeclaredSeries(NamedTuple):
    """A declaration of a series, with the hash and the time of its entry."""

    declaration: AnyDeclaration
    hash: str
    at: datetime


class JournalState:
    """
    What the journal has recorded so far.

    Each row has the values of its newest mention. `sessions` is the calendar with which the rules
    are checked before the record is sealed; then `record_calendar` takes its place. `sealed_since`
    is the number of the entry from which on the record is sealed, None if it is not sealed.
    `timestamp_roots` has the number of the first entry that states a root certificate, by the
    SHA-256 of the certificate.
    `figures` counts the figures that the rules computed again. `tickers` are the tickers whose
    readings the rules need. An API shows the readings of a ticker only on request, so `verify`
    requests the readings of these tickers.
    """

    def __init__(self, sessions: Calendar) -> None:
        self.sessions = sessions
        # The calendars with and without the closures on short notice. When an entry was made, a
        # closure may not have been announced yet, or the process may not have known of it. So some
        # rules accept an entry that follows either calendar.
        self.calendars = (sessions, Calendar())
        # Declarations
        self.genesis: Genesis | None = None
        self.sealed_since: int | None = None
        self.record_calendar = RecordCalendar()
        self.timestamp_roots: dict[str, int] = {}
        self.benchmarks = set[str]()  # of all settings
        # The further benchmarks of each batch, in the order of the settings: those that the newest
        # settings up to its BATCH entry name.
        self.further_of_batch: dict[UUID, tuple[str, ...]] = {}
        # The declarations of each series, in the order of the journal.
        self.declared_series: dict[str, list[DeclaredSeries]] = defaultdict(list)

        # The series of a record that was sealed late; None if it was sealed from the beginning.
        self.series_before_seal: frozenset[str] | None = None

        # Yearly checks: the SERIES entries of each series as they were written, the time of the
        # RULES entry, and the number of checks that were held.
        self.series_terms: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        self.rules_at: datetime | None = None
        self.held_checks = 0
        # The number and the hash of the entry before the one that is checked.
        self.head = (0, "")

        self.figures = 0
        self.series = {model.SERIES}
        self.tickers = set[str]()

        # Times
        self.times: list[datetime] = []  # `at` of every entry, in ascending order
        # `at` of the entries that only a running service writes.
        self.worked_at: list[datetime] = []
        # The time of the entry before, if it is a declaration or belongs to a seal.
        self.declared_at: datetime | None = None
        # `at` of the entries with a computed checkpoint, by batch: they show that the service got
        # prices.
        self.priced_at: dict[UUID, list[datetime]] = defaultdict(list)

        # Rows, by id
        self.questions: dict[UUID, Generation] = {}
        self.batches: dict[UUID, Batch] = {}
        self.picks: dict[UUID, Pick] = {}
        self.checkpoints: dict[UUID, Checkpoint] = {}
        self.metrics: dict[UUID, PickMetric] = {}
        self.further_benchmarks: dict[UUID, FurtherBenchmark] = {}
        self.corrections: dict[UUID, Correction] = {}
        self.closes: dict[UUID, Close] = {}
        # Splits have no id: by ticker, and then by effective date and time of reading.
        self.splits: dict[str, dict[tuple[date, datetime], Split]] = defaultdict(dict)

        # Relations between rows, in the order of first mention
        self.questions_of: dict[SeriesMonday, list[UUID]] = defaultdict(list)
        self.mondays: dict[SeriesMonday, UUID] = {}
        self.picks_of: dict[UUID, list[UUID]] = defaultdict(list)
        self.days_of: dict[UUID, dict[int, UUID]] = defaultdict(dict)
        self.metrics_of: dict[UUID, dict[UUID, UUID]] = defaultdict(dict)
        self.metrics_of_pick: dict[UUID, list[UUID]] = defaultdict(list)
        self.failures: Counter[UUID] = Counter()  # the number of FAILURE entries of each batch
        self.endings: dict[UUID, Ending] = {}
        self.shares: dict[UUID, TickerHistory] = {}
        # The tickers of a metric's share when the metric was last mentioned.
        self.shares_of_metric: dict[UUID, TickerHistory] = {}

        # Readings that READINGS entries mention. They are kept apart from `closes` and `splits`:
        # those have the readings that other entries mention, because figures are based on them.
        self.read_closes: dict[UUID, Close] = {}
        self.read_splits: dict[tuple[str, date, datetime], Split] = {}
        self.rates: dict[tuple[date, datetime], Rate] = {}
        # Readings of dividends, by ticker, and then by ex-date and time of reading.
        self.dividends: dict[str, dict[tuple[date, datetime], Dividend]] = defaultdict(dict)
        # By ticker: the responses about its dividends, in the order of the journal.
        self.dividend_responses: dict[str, list[DividendResponse]] = defaultdict(list)
        # The rows whose newest mention lacks columns of LEFT_OUT, with the time of that entry.
        self.left_out_at: dict[UUID, datetime] = {}
        # Those of them that the newest entry mentions.
        self.left_out: set[UUID] = set()
        # By batch: the time of the entry that completed it.
        self.completed_at: dict[UUID, datetime] = {}
        # By ticker: the first and the last session of each response about its closes.
        self.covered: dict[str, set[tuple[date, date]]] = defaultdict(set)

        # The time of the newest response about the splits of each ticker.
        self.splits_read_at: dict[str, datetime] = {}

        # Readings of the record that no entry mentions; known after the rows were read.
        self.unused_closes: list[Close] = []
        self.unused_splits: list[Split] = []
        # The chain of entries is read first, then the rows, then the entries that were written to
        # the journal while the rows were read. This is False while the chain is read. It becomes
        # True before the first row is read, and stays True.
        self.rows_are_read = False

        # Earlier versions computed checkpoints without the mark `benchmark_unusual_move`.
        # `marked_since` is the `at` of the first entry whose computed checkpoint has the mark.
        # `has_unmarked` is whether an entry before that one has a computed checkpoint without the
        # mark.
        self.marked_since: datetime | None = None
        self.has_unmarked = False

        # Each item of these lists can be decided only with all readings of the record, so it is
        # checked after the rows were read.
        self.pending_marks: list[PendingMark] = []
        self.reading_uses: list[ReadingUse] = []
        self.picks_without_open: list[PickWithoutOpen] = []
        self.counts: list[SplitCount] = []
        self.claims: list[MissingCloseClaim | FittingClosesClaim] = []
        self.choices: list[SessionChoice] = []

    @property
    def is_sealed(self) -> bool:
        """Return whether the record is sealed at the newest entry."""
        return self.sealed_since is not None

    @property
    def is_being_sealed(self) -> bool:
        """Return whether a late GENESIS has begun to seal the record, and nothing ended that."""
        return self.genesis is not None and not self.is_sealed

    def series_in_force(self, name: str, run_date: date) -> AnyDeclaration | None:
        """Return the declaration of a series that holds on a Monday; None if there is none."""
        declared = self.declared_series.get(name, ())
        return in_force_on((one.declaration for one in declared), run_date)

    def newest_series(self, name: str) -> AnyDeclaration | None:
        """Return the newest declaration of a series; None if it was not declared."""
        declared = self.declared_series.get(name)
        return declared[-1].declaration if declared else None

    def with_left_out(self, content: dict[str, Any]) -> dict[str, Any]:
        """
        Return the content of an entry, with the values that a mention of a known row leaves out.

        A version that does not know the columns of `LEFT_OUT` mentions such a row without them. The
        row keeps the values of its mention before (docs/journal.md#what-may-change).
        """
        self.left_out = set()
        completed = dict(content)
        for member, table in MEMBERS.items():
            rows = content.get(member)
            if table not in LEFT_OUT or rows is None:
                continue
            if isinstance(rows, list):
                completed[member] = [self._with_left_out(table, row) for row in rows]
            else:
                completed[member] = self._with_left_out(table, rows)
        return completed

    def _with_left_out(self, table: str, texts: Any) -> Any:
        known: Pick | Generation | Checkpoint | PickMetric | None = None
        # A forged row may have any form.
        with suppress(AttributeError, TypeError, ValueError):
            known = self._known_row(table, UUID(texts.get("id")))
        if known is None:
            return texts
        values = {name: to_text(getattr(known, name)) for name in LEFT_OUT[table]}
        left_out = {
            name: value for name, value in values.items() if value is not None and name not in texts
        }
        # An earlier version leaves out all of the columns. A mention that states some of them is
        # checked like any other.
        if left_out and not any(name in texts for name in LEFT_OUT[table]):
            self.left_out.add(known.id)
        return {**texts, **left_out}

    def _known_row(
        self, table: str, id: UUID
    ) -> Pick | Generation | Checkpoint | PickMetric | None:
        """Return the newest mention of a row of a table of LEFT_OUT; None if there is none."""
        match table:
            case "generations":
                return self.questions.get(id)
            case "picks":
                return self.picks.get(id)
            case "checkpoints":
                return self.checkpoints.get(id)
        return self.metrics.get(id)

    def add_rows(self, seq: int, kind: JournalKind, content: dict[str, object]) -> list[Mention]:
        """
        Add the rows of an entry, and return their mentions.

        Raises Discrepancy for a row that does not have the form of the journal.
        """
        mentions = []
        # `newest` must return the mention in an earlier entry and not one in this entry. So no row
        # is added in this loop.
        for member, table, texts in iter_rows(content):
            row = parse_row(seq, member=member, table=table, texts=texts)
            mentions.append(Mention(table, row, self.newest(row)))
        for mention in mentions:
            self.add_row(mention.row, kind)
        if kind is JournalKind.FAILURE:
            self.failures.update(m.row.id for m in mentions if isinstance(m.row, Batch))
        return mentions

    def newest(self, row: AnyRow) -> AnyRow | None:
        """Return the newest mention of a row; None if it was not mentioned."""
        match row:
            case Generation():
                return self.questions.get(row.id)
            case Batch():
                return self.batches.get(row.id)
            case Pick():
                return self.picks.get(row.id)
            case Checkpoint():
                return self.checkpoints.get(row.id)
            case PickMetric():
                return self.metrics.get(row.id)
            case FurtherBenchmark():
                return self.further_benchmarks.get(row.id)
            case Correction():
                return self.corrections.get(row.id)
            case Close():
                return self.closes.get(row.id) or self.read_closes.get(row.id)
            case Split():
                key = (row.ticker, row.effective_date, row.read_at)
                return self.splits[row.ticker].get(key[1:]) or self.read_splits.get(key)
            case Dividend():
                return self.dividends[row.ticker].get((row.ex_date, row.read_at))
            case Rate():
                return self.rates.get((row.observed_on, row.read_at))

    def add_row(self, row: AnyRow, kind: JournalKind) -> None:
        """Add a row of an entry of a kind; its values replace those of an earlier mention."""
        match row:
            case Close() if kind is JournalKind.READINGS:
                self.tickers.add(row.ticker)
                self.read_closes[row.id] = row
            case Split() if kind is JournalKind.READINGS:
                self.tickers.add(row.ticker)
                self.read_splits[row.ticker, row.effective_date, row.read_at] = row
            case Generation():
                self.series.add(row.series)
                _append_new(self.questions_of[row.series, row.run_date], row.id)
                self.questions[row.id] = row
            case Batch():
                self.series.add(row.series)
                self.mondays[row.series, row.run_date] = row.id
                self.batches[row.id] = row
            case Pick():
                self.tickers.add(row.ticker)
                _append_new(self.picks_of[row.batch_id], row.id)
                self.picks[row.id] = row
                self.shares.setdefault(row.id, TickerHistory.unchanged(row.ticker))
            case Checkpoint():
                # A forged second checkpoint of a day must not replace the first one.
                self.days_of[row.batch_id].setdefault(row.day, row.id)
                self.checkpoints[row.id] = row
            case PickMetric():
                self.metrics_of[row.checkpoint_id].setdefault(row.pick_id, row.id)
                _append_new(self.metrics_of_pick[row.pick_id], row.id)
                self.metrics[row.id] = row
            case FurtherBenchmark():
                self.further_benchmarks[row.id] = row
            case Correction():
                self.corrections[row.id] = row
            case Close():
                self.tickers.add(row.ticker)
                self.closes[row.id] = row
            case Split():
                self.tickers.add(row.ticker)
                self.splits[row.ticker][row.effective_date, row.read_at] = row
            case Dividend():
                self.tickers.add(row.ticker)
                self.dividends[row.ticker][row.ex_date, row.read_at] = row
            case Rate():
                self.rates[row.observed_on, row.read_at] = row

    def add_event(self, entry: ParsedEntry) -> None:
        """Add what an entry records besides its rows: its time, an ending, or a new ticker."""
        insort(self.times, entry.at)
        for mention in entry.mentions:
            self._add_left_out(entry, mention.row)
            if isinstance(mention.row, Batch) and mention.row.status is BatchStatus.COMPLETED:
                self.completed_at.setdefault(mention.row.id, entry.at)
        if entry.kind in _SERVICE_KINDS:
            self.worked_at.append(entry.at)
            checkpoint = entry.first_row(Checkpoint)
            if checkpoint and checkpoint.status is CheckpointStatus.COMPUTED:
                self.priced_at[checkpoint.batch_id].append(entry.at)
        if entry.ending is not None:
            self.endings[entry.ending.pick_id] = entry.ending
        if entry.kind is JournalKind.PICK_RENAMED:
            self._add_rename(entry)
        series = entry.content.get("series")
        if isinstance(series, dict) and isinstance(series.get("name"), str):
            self.series_terms[series["name"]].append(series)
        if entry.response is not None:
            self._add_response(entry.response)

    def _add_left_out(self, entry: ParsedEntry, row: AnyRow) -> None:
        if not isinstance(row, Checkpoint | PickMetric):
            return
        if row.id in self.left_out:
            self.left_out_at[row.id] = entry.at
        else:
            self.left_out_at.pop(row.id, None)

    def _add_response(self, response: ProviderResponse) -> None:
        if response.kind is ResponseKind.DIVIDENDS and response.ticker is not None:
            # The rule `readings` requires the member `ex_dates`.
            answer = DividendResponse(response.read_at, response.ex_dates or ())
            self.dividend_responses[response.ticker].append(answer)
        first, last = response.first_session, response.last_session
        if response.ticker is None:
            return
        if response.kind is ResponseKind.SPLITS:
            self.splits_read_at[response.ticker] = response.read_at
        if response.kind is not ResponseKind.CLOSES:
            return
        if first is not None and last is not None:
            self.covered[response.ticker].add((first, last))

    def _add_rename(self, entry: ParsedEntry) -> None:
        pick, renaming = entry.first_row(Pick), entry.renaming
        if pick is None:
            return
        share = self.shares[pick.id]
        if renaming is None:  # an entry of an earlier version, which names no session
            self.shares[pick.id] = share.with_rename(pick.ticker, None)
            return
        # The period before a rename ends on the day before `first`. A forged session may be
        # `date.min`, which has no day before it; then the next day is used here. The rule
        # `renaming` refuses such a session later.
        first = max(renaming.from_session, date.min + timedelta(days=1))
        self.shares[pick.id] = share.with_rename(pick.ticker, first, forced=renaming.forced)

    def batch(self, id: UUID) -> Batch:
        """Return the newest mention of a batch; raises LookupError if there is none."""
        return _look_up(self.batches, id, "batches")

    def pick(self, id: UUID) -> Pick:
        """Return the newest mention of a pick; raises LookupError if there is none."""
        return _look_up(self.picks, id, "picks")

    def checkpoint(self, id: UUID) -> Checkpoint:
        """Return the newest mention of a checkpoint; raises LookupError if there is none."""
        return _look_up(self.checkpoints, id, "checkpoints")

    def close(self, id: UUID | None) -> Close:
        """Return a mentioned reading of a price; raises LookupError if no entry mentions it."""
        return _look_up(self.closes, id, "closes")

    def all_closes(self) -> Iterable[Close]:
        """Return every reading of a price, whether an entry mentions it or not."""
        closes = (*self.read_closes.values(), *self.closes.values(), *self.unused_closes)
        return {close.id: close for close in closes}.values()

    def all_splits(self) -> dict[str, list[Split]]:
        """Return every reading of a split by ticker, whether an entry mentions it or not."""
        readings = {ticker: [*mentioned.values()] for ticker, mentioned in self.splits.items()}
        for split in self.uncounted_splits():
            readings.setdefault(split.ticker, []).append(split)
        return readings

    def uncounted_splits(self) -> Iterator[Split]:
        """Yield the readings of splits that no entry mentions, or only a READINGS entry."""
        yield from self.unused_splits
        for split in self.read_splits.values():
            if (split.effective_date, split.read_at) not in self.splits[split.ticker]:
                yield split

    def checkpoints_of(self, batch: UUID) -> list[Checkpoint]:
        """Return the checkpoints of a batch, in the order of their days."""
        days = self.days_of.get(batch, {})
        return [self.checkpoints[days[day]] for day in sorted(days)]

    def metrics_at(self, checkpoint: UUID) -> list[PickMetric]:
        """Return the metrics of a checkpoint."""
        return [self.metrics[id] for id in self.metrics_of.get(checkpoint, {}).values()]

    def questions_on(self, monday: SeriesMonday) -> list[Generation]:
        """Return the questions of a Monday, in the order of first mention."""
        return [self.questions[id] for id in self.questions_of.get(monday, ())]

    def questions_without_batch(self) -> Iterator[UUID]:
        """Yield the ids of the questions whose Monday has no batch."""
        for monday, ids in self.questions_of.items():
            if monday not in self.mondays:
                yield from ids

    def has_picks(self, batch: Batch) -> bool:
        """Return whether a batch has picks, that is, whether it did not fail."""
        return batch.status is not BatchStatus.FAILED

    def may_be_session(self, day: date) -> bool:
        """Return whether a process may have used a day as a session."""
        if self.is_sealed:
            return self.record_calendar.may_be_session(day)
        return self.sessions.is_session(day)

    def first_sessions(self, run_date: date) -> list[date]:
        """Return the days that a process may have used as the first session of a Monday's picks."""
        if self.is_sealed:
            return self.record_calendar.possible_from(run_date)
        return sorted({one.session_from(run_date) for one in self.calendars})

    def baseline_sessions(self, run_date: date) -> list[date]:
        """Return the days that a process may have used as the last session before a Monday."""
        if self.is_sealed:
            return self.record_calendar.possible_before(run_date)
        return sorted({one.session_before(run_date) for one in self.calendars})

    def sessions_before(self, day: date) -> list[date]:
        """Return the last session before a day; several days if a day struck off decides it."""
        if self.is_sealed:
            return self.record_calendar.possible_before(day)
        return [self.sessions.session_before(day)]

    def closure_advice(self, day: date) -> str:
        """Return a sentence that says how a closure on short notice is stated."""
        if self.is_sealed:
            return f"No settings up to this entry list {day} as a day without a session."
        return (
            f"If the exchange was closed on short notice on {day}, verify with `--closed {day}`, "
            "or with that day in MARKET_CLOSED_DAYS."
        )

    def name(self, row: AnyRow) -> str:
        """Return a row's name for a message."""
        match row:
            case Generation():
                return f"question {row.attempt} of {row.run_date}"
            case Batch():
                return f"the batch of {row.run_date}"
            case Pick():
                return f"the pick {row.ticker} of {self._batch_name(row.batch_id)}"
            case Checkpoint():
                return f"day {row.day} of {self._batch_name(row.batch_id)}"
            case PickMetric():
                return f"{self._pick_name(row.pick_id)} on {self._day_name(row.checkpoint_id)}"
            case FurtherBenchmark():
                return f"the further benchmark {row.symbol} of {self._batch_name(row.batch_id)}"
            case Correction():
                return f"the correction of {row.field} on {self._day_name(row.checkpoint_id)}"
            case Close():
                return f"the reading of {row.ticker} of {row.trading_day}"
            case Split():
                return f"the split of {row.ticker} of {row.effective_date}"
            case Dividend():
                return f"the dividend of {row.ticker} of {row.ex_date}"
            case Rate():
                return f"the rate of {row.observed_on}"

    # Rows of a forged record may name ids that no entry has. Then the message shows the id.

    def _batch_name(self, batch: UUID) -> str:
        if batch in self.batches:
            return str(self.batches[batch].run_date)
        return f"batch {batch}"

    def _pick_name(self, pick: UUID) -> str:
        if pick in self.picks:
            return self.picks[pick].ticker
        return str(pick)

    def _day_name(self, checkpoint: UUID) -> str:
        if checkpoint in self.checkpoints:
            return self.name(self.checkpoints[checkpoint])
        return f"checkpoint {checkpoint}"


def has_figures(checkpoint: Checkpoint) -> bool:
    """Return whether a checkpoint has figures: it is computed, and it is not the baseline."""
    return checkpoint.day > 0 and checkpoint.status is CheckpointStatus.COMPUTED


def locate(entry: ParsedEntry, state: JournalState, row: AnyRow) -> str:
    """Return the beginning of a message about a row of an entry."""
    return f"Entry {entry.seq} of the journal, {state.name(row)}"


def _append_new(ids: list[UUID], id: UUID) -> None:
    if id not in ids:
        ids.append(id)


def _look_up(rows: dict[UUID, T], id: UUID | None, table: str) -> T:
    if id is None or id not in rows:
        raise LookupError(f"{id} of {table}")
    return rows[id]
