"""What the journal has said up to an entry: the newest mention of every row, and how rows belong together."""

from bisect import insort
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, TypeVar
from uuid import UUID

from app.domain import model
from app.domain.calendar import Calendar
from app.domain.model import (
    Batch,
    BatchStatus,
    Checkpoint,
    CheckpointStatus,
    Close,
    Correction,
    Ending,
    Generation,
    JournalKind,
    Pick,
    PickMetric,
    Split,
)
from app.domain.tickers import Tickers
from app.domain.verification.entries import AnyRow, Entry, Mention, rows_of, typed

if TYPE_CHECKING:  # these modules import this one
    from app.domain.verification.rules.marks import Open
    from app.domain.verification.rules.missing import Fitting, Missing
    from app.domain.verification.rules.prices import Use, WithoutOpen
    from app.domain.verification.rules.uncounted import Count

T = TypeVar("T")

# What only a running service records; the others can be a person's.
_OF_THE_SERVICE = (JournalKind.GENERATION, JournalKind.BATCH, JournalKind.FAILURE, JournalKind.CHECKPOINT)

# A Monday of a series.
Monday = tuple[str, date]


class State:
    """
    What the journal has said so far; `sessions` is the calendar that the rules are checked with.

    The rows are those of the newest mention. `figures` counts the figures that were recomputed. `tickers` are those of
    the journal's shares, whose readings the record of an address is asked for.
    """

    def __init__(self, sessions: Calendar) -> None:
        self.sessions = sessions
        # A closure on short notice may have been announced, or told to the process, after an entry was made.
        self.calendars = (sessions, Calendar())
        self.figures = 0
        self.series = {model.SERIES}
        self.tickers = set[str]()
        self.times: list[datetime] = []  # `at` of every entry, in ascending order
        # `at` of the entries that only a running service writes, and of those for which it had prices, by batch.
        self.worked_at: list[datetime] = []
        self.priced_at: dict[UUID, list[datetime]] = defaultdict(list)
        self.questions: dict[UUID, Generation] = {}
        self.batches: dict[UUID, Batch] = {}
        self.picks: dict[UUID, Pick] = {}
        self.checkpoints: dict[UUID, Checkpoint] = {}
        self.metrics: dict[UUID, PickMetric] = {}
        self.corrections: dict[UUID, Correction] = {}
        self.closes: dict[UUID, Close] = {}
        self.splits: dict[str, dict[tuple[date, datetime], Split]] = defaultdict(dict)
        # How rows belong together, in the order of first mention.
        self.questions_of: dict[Monday, list[UUID]] = defaultdict(list)
        self.mondays: dict[Monday, UUID] = {}
        self.picks_of: dict[UUID, list[UUID]] = defaultdict(list)
        self.days_of: dict[UUID, dict[int, UUID]] = defaultdict(dict)
        self.metrics_of: dict[UUID, dict[UUID, UUID]] = defaultdict(dict)
        self.metrics_of_pick: dict[UUID, list[UUID]] = defaultdict(list)
        self.failures: Counter[UUID] = Counter()  # the FAILURE entries of each batch
        self.endings: dict[UUID, Ending] = {}
        self.shares: dict[UUID, Tickers] = {}
        # Readings of the record that no entry mentions; known when the rows were read.
        self.unused_closes: list[Close] = []
        self.unused_splits: list[Split] = []
        # Whether the rows were read, so that the entries from now on came meanwhile.
        self.rows_are_told = False
        # Since when computed checkpoints have the benchmark's mark, and whether earlier ones lack it.
        self.examined_since: datetime | None = None
        self.has_unexamined = False
        # The tickers of a metric's share when it was mentioned last.
        self.shares_of_metric: dict[UUID, Tickers] = {}
        # What only all readings of the record decide, kept until the rows were read.
        self.open_marks: list[Open] = []
        self.uses: list[Use] = []
        self.without_open: list[WithoutOpen] = []
        self.counts: list[Count] = []
        self.claims: list[Missing | Fitting] = []

    def take(self, seq: int, kind: JournalKind, content: dict[str, object]) -> list[Mention]:
        """Take note of the rows of an entry; return their mentions."""
        mentions = []
        for member, table, texts in rows_of(content):
            row = typed(seq, member, table, texts)
            mention = Mention(table, row, self.newest(row))
            mentions.append(mention)
        for mention in mentions:
            self.learn(mention.row)
        if kind is JournalKind.FAILURE:
            self.failures.update(m.row.id for m in mentions if isinstance(m.row, Batch))
        return mentions

    def newest(self, row: AnyRow) -> AnyRow | None:
        """Return the newest mention of a row, if there is one."""
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
            case Correction():
                return self.corrections.get(row.id)
            case Close():
                return self.closes.get(row.id)
            case Split():
                return self.splits[row.ticker].get((row.effective_date, row.read_at))

    def learn(self, row: AnyRow) -> None:
        """Take note of a row, which is its newest mention from now on."""
        match row:
            case Generation():
                self.series.add(row.series)
                _add(self.questions_of[row.series, row.run_date], row.id)
                self.questions[row.id] = row
            case Batch():
                self.series.add(row.series)
                self.mondays[row.series, row.run_date] = row.id
                self.batches[row.id] = row
            case Pick():
                self.tickers.add(row.ticker)
                _add(self.picks_of[row.batch_id], row.id)
                self.picks[row.id] = row
                self.shares.setdefault(row.id, Tickers.only(row.ticker))
            case Checkpoint():
                self.days_of[row.batch_id].setdefault(row.day, row.id)
                self.checkpoints[row.id] = row
            case PickMetric():
                self.metrics_of[row.checkpoint_id].setdefault(row.pick_id, row.id)
                _add(self.metrics_of_pick[row.pick_id], row.id)
                self.metrics[row.id] = row
            case Correction():
                self.corrections[row.id] = row
            case Close():
                self.tickers.add(row.ticker)
                self.closes[row.id] = row
            case Split():
                self.tickers.add(row.ticker)
                self.splits[row.ticker][row.effective_date, row.read_at] = row

    def take_event(self, entry: Entry) -> None:
        """Take note of what an entry says besides its rows: an ending, or a new ticker."""
        insort(self.times, entry.at)
        if entry.kind in _OF_THE_SERVICE:
            self.worked_at.append(entry.at)
            checkpoint = entry.one(Checkpoint)
            if checkpoint and checkpoint.status is CheckpointStatus.COMPUTED:
                self.priced_at[checkpoint.batch_id].append(entry.at)
        if entry.ending is not None:
            self.endings[entry.ending.pick_id] = entry.ending
        pick = entry.one(Pick)
        if entry.kind is JournalKind.PICK_RENAMED and pick is not None:
            share = self.shares[pick.id]
            renaming = entry.renaming
            if renaming is None:  # an entry of an earlier version, which says no session
                self.shares[pick.id] = share.renamed(pick.ticker, None)
            else:
                # A share has no period before the first day of all; the rule of renamings refuses that day.
                first = max(renaming.from_session, date.min + timedelta(days=1))
                self.shares[pick.id] = share.renamed(pick.ticker, first, forced=renaming.forced)

    def batch(self, id: UUID) -> Batch:
        """Return the newest mention of a batch; raises LookupError."""
        return _found(self.batches, id, "batches")

    def pick(self, id: UUID) -> Pick:
        """Return the newest mention of a pick; raises LookupError."""
        return _found(self.picks, id, "picks")

    def checkpoint(self, id: UUID) -> Checkpoint:
        """Return the newest mention of a checkpoint; raises LookupError."""
        return _found(self.checkpoints, id, "checkpoints")

    def close(self, id: UUID | None) -> Close:
        """Return a reading; raises LookupError."""
        return _found(self.closes, id, "closes")

    def all_closes(self) -> Iterable[Close]:
        """Return every reading of a price: those that entries mention, and those that none does."""
        return {close.id: close for close in (*self.closes.values(), *self.unused_closes)}.values()

    def all_splits(self) -> dict[str, list[Split]]:
        """Return every reading of a split, by ticker: those that entries mention, and those that none does."""
        found = {ticker: [*readings.values()] for ticker, readings in self.splits.items()}
        for split in self.unused_splits:
            found.setdefault(split.ticker, []).append(split)
        return found

    def checkpoints_of(self, batch: UUID) -> list[Checkpoint]:
        """Return the checkpoints of a batch, by day."""
        days = self.days_of.get(batch, {})
        return [self.checkpoints[days[day]] for day in sorted(days)]

    def metrics_at(self, checkpoint: UUID) -> list[PickMetric]:
        """Return the metrics of a checkpoint."""
        return [self.metrics[id] for id in self.metrics_of.get(checkpoint, {}).values()]

    def asked(self, monday: Monday) -> list[Generation]:
        """Return the questions of a Monday that the journal mentions, in the order of first mention."""
        return [self.questions[id] for id in self.questions_of.get(monday, ())]

    def questions_without_batch(self) -> Iterator[UUID]:
        """Yield the ids of the questions whose Monday has no batch."""
        for monday, ids in self.questions_of.items():
            if monday not in self.mondays:
                yield from ids

    def is_made(self, batch: Batch) -> bool:
        """Return whether a batch has picks."""
        return batch.status is not BatchStatus.FAILED

    def first_sessions(self, run_date: date) -> set[date]:
        """Return the days that may have been taken for the first session of a Monday's picks."""
        return {one.session_from(run_date) for one in self.calendars}

    def baseline_sessions(self, run_date: date) -> set[date]:
        """Return the days that may have been taken for the last session before a Monday."""
        return {one.session_before(run_date) for one in self.calendars}

    def if_closed(self, day: date) -> str:
        """Return how to tell the verifier that a session was none."""
        return (
            f"If the exchange was closed on short notice on {day}, verify with `--closed {day}`, "
            "or with that day in MARKET_CLOSED_DAYS."
        )

    def name(self, row: AnyRow) -> str:
        """Return what a person calls a row."""
        match row:
            case Generation():
                return f"question {row.attempt} of {row.run_date}"
            case Batch():
                return f"the batch of {row.run_date}"
            case Pick():
                return f"the pick {row.ticker} of {self._monday(row.batch_id)}"
            case Checkpoint():
                return f"day {row.day} of {self._monday(row.batch_id)}"
            case PickMetric():
                pick = self.picks.get(row.pick_id)
                ticker = pick.ticker if pick else row.pick_id
                return f"{ticker} on {self._day(row.checkpoint_id)}"
            case Correction():
                return f"the correction of {row.field} on {self._day(row.checkpoint_id)}"
            case Close():
                return f"the reading of {row.ticker} of {row.trading_day}"
            case Split():
                return f"the split of {row.ticker} of {row.effective_date}"

    def _monday(self, batch: UUID) -> object:
        return self.batches[batch].run_date if batch in self.batches else f"batch {batch}"

    def _day(self, checkpoint: UUID) -> str:
        found = self.checkpoints.get(checkpoint)
        return self.name(found) if found else f"checkpoint {checkpoint}"


def has_figures(checkpoint: Checkpoint) -> bool:
    """Return whether a checkpoint has figures: it is computed, and not the baseline."""
    return checkpoint.day > 0 and checkpoint.status is CheckpointStatus.COMPUTED


def where(entry: Entry, state: State, row: AnyRow) -> str:
    """Return how a misfit begins that is about a row of an entry."""
    return f"Entry {entry.seq} of the journal, {state.name(row)}"


def _add(ids: list[UUID], id: UUID) -> None:
    if id not in ids:
        ids.append(id)


def _found(rows: dict[UUID, T], id: UUID | None, table: str) -> T:
    if id is not None and id in rows:
        return rows[id]
    raise LookupError(f"{id} of {table}")
