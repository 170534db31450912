"""How the rows of an entry belong together, and what may change between two mentions of a row."""

from collections import Counter
from collections.abc import Iterator
from uuid import UUID

from msgspec.structs import asdict

from app.domain.journal import texts, written
from app.domain.model import (
    Batch,
    BatchStatus,
    Checkpoint,
    CheckpointStatus,
    Close,
    Correction,
    Generation,
    JournalKind,
    Pick,
    PickMetric,
    SkipReason,
    Split,
)
from app.domain.verification.entries import AnyRow, Entry, Mention, key_of, shortened
from app.domain.verification.misfits import Rule, misfit
from app.domain.verification.rules.marks import UPGRADE
from app.domain.verification.rules.tolerance import ABOUT, long_over
from app.domain.verification.state import State, where

# Which kinds of entry mention a row of a type first. (A checkpoint's depend on its day.)
_FIRST = {
    Generation: {JournalKind.GENERATION},
    Batch: {JournalKind.BATCH, JournalKind.FAILURE},
    Pick: {JournalKind.BATCH},
    PickMetric: {JournalKind.CHECKPOINT},
    Correction: {JournalKind.CORRECTION},
}

# The columns that a correction can change: the vocabulary of a correction's `field`.
CORRECTABLE: dict[type[AnyRow], frozenset[str]] = {
    Batch: frozenset({"benchmark_initial_price", "benchmark_initial_close_id"}),
    Pick: frozenset({"initial_price", "initial_close_id"}),
    Checkpoint: frozenset(
        {
            "benchmark_price",
            "benchmark_close_id",
            "benchmark_split_factor",
            "benchmark_return_pct",
            "benchmark_unusual_move",
        }
    ),
    PickMetric: frozenset(
        {
            "current_price",
            "close_id",
            "split_factor",
            "absolute_return_pct",
            "vs_benchmark_pct",
            "return_from_open_pct",
            "unusual_move",
        }
    ),
}

# What a skipped checkpoint gets when it is computed.
_OF_A_RETAKE = CORRECTABLE[Checkpoint] | {"status", "trading_day", "taken_at"}

_KEPT_BY_A_MONDAY = {"id", "series", "run_date"}


def check_places(entry: Entry, state: State) -> None:
    """Refuse rows that do not belong into the entry, before any other rule; raises Misfit."""
    _check_at(entry, state)
    for mention in entry.mentions:
        _check_first(entry, state, mention)
    _check_belongs(entry, state)
    _check_readings_agree(entry, state)


def check(entry: Entry, state: State) -> None:
    """Refuse a change that is not allowed or not corrected, after all other rules; raises Misfit."""
    _check_tickers(entry, state)
    for mention in entry.mentions:
        _check_unchanged(entry, state, mention)
    if entry.kind is JournalKind.CORRECTION:
        _check_corrections(entry, state)
    _check_hindsight(entry, state)


def _check_hindsight(entry: Entry, state: State) -> None:
    """Refuse an entry that says a time long before those of the entries that it follows."""
    limit = long_over(state.times)
    if limit is not None and entry.at < limit:
        text = f"its at is {written(entry.at)}, but entries before it are of days after that"
        raise misfit(Rule.AT, f"Entry {entry.seq} of the journal: {text}. It was written in hindsight.")


def _check_at(entry: Entry, state: State) -> None:
    for question in entry.rows(Generation):
        name = "asked_at" if question.answered_at is None else "answered_at"
        answered = question.answered_at or question.asked_at
        if entry.at < answered - ABOUT:
            text = f"{name} is {written(answered)}, after the entry's at"
            raise misfit(Rule.AT, f"{where(entry, state, question)}: {text}.")
    for row, name, moment in _moments(entry):
        if moment != entry.at:
            text = f"{name} is {written(moment)}, but the entry's at is {written(entry.at)}"
            raise misfit(Rule.AT, f"{where(entry, state, row)}: {text}.")


def _moments(entry: Entry) -> Iterator[tuple[AnyRow, str, object]]:
    """Yield the times of rows that the entry's `at` must be."""
    if entry.kind in (JournalKind.BATCH, JournalKind.FAILURE):
        for batch in entry.rows(Batch):
            yield batch, "created_at", batch.created_at
    if entry.kind is JournalKind.CHECKPOINT:
        for checkpoint in entry.rows(Checkpoint):
            yield checkpoint, "taken_at", checkpoint.taken_at
    for correction in entry.rows(Correction):
        yield correction, "made_at", correction.made_at


def _check_first(entry: Entry, state: State, mention: Mention) -> None:
    """Refuse a row that an entry of another kind should have mentioned first, and an entry that says nothing new."""
    if mention.before is not None:
        if _is_repeated(entry.kind, mention):
            text = "an entry before says the same of it"
            raise misfit(Rule.FIRST_MENTION, f"{where(entry, state, mention.row)}: {text}.")
        return
    kinds = _FIRST.get(type(mention.row))
    if isinstance(mention.row, Checkpoint):
        kinds = {JournalKind.CHECKPOINT if mention.row.day > 0 else JournalKind.BATCH}
    if kinds and entry.kind not in kinds:
        text = f"a {entry.kind} entry mentions it, but no {' or '.join(sorted(kinds))} entry before"
        raise misfit(Rule.FIRST_MENTION, f"{where(entry, state, mention.row)}: {text}.")


def _is_repeated(kind: JournalKind, mention: Mention) -> bool:
    """Return whether an entry mentions what it is about again, though nothing became of it."""
    match mention.row, mention.before, kind:
        case Generation() as now, Generation() as former, JournalKind.GENERATION:
            return now.accepted == former.accepted
        case Batch() as now, Batch(status=BatchStatus.FAILED) as former, JournalKind.FAILURE:
            return now.created_at == former.created_at
        case Checkpoint() as now, Checkpoint() as former, JournalKind.CHECKPOINT:
            return now.status is former.status
    return False


def _check_belongs(entry: Entry, state: State) -> None:
    about = _batch_of(entry)
    if about is None:
        return
    for mention in entry.mentions:
        place = where(entry, state, mention.row)
        try:
            problem = _why_elsewhere(entry, state, mention, about)
        except LookupError as error:
            problem = f"it needs {error}, which the journal does not have"
        if problem is not None:
            raise misfit(Rule.BELONGS, f"{place}: {problem}.")


def _check_readings_agree(entry: Entry, state: State) -> None:
    """Refuse a reading that one entry holds twice, with different values: readings never change."""
    held: dict[str, Close | Split] = {}
    for mention in entry.mentions:
        reading = mention.row
        if isinstance(reading, Close | Split):
            key = f"{mention.table} {key_of(mention.table, texts(asdict(reading)))}"
            if held.setdefault(key, reading) != reading:
                text = "the entry holds it twice, with different values"
                raise misfit(Rule.UNCHANGED, f"{where(entry, state, reading)}: {text}.")


def _batch_of(entry: Entry) -> UUID | None:
    """Return the id of the batch that an entry is about; a question's need not be there."""
    for row in (entry.one(Checkpoint), entry.one(Pick)):
        if row is not None:
            return row.batch_id
    batch = entry.one(Batch)
    return batch.id if batch else None


def _why_elsewhere(entry: Entry, state: State, mention: Mention, about: UUID) -> str | None:
    """Return why a row does not belong to the batch that the entry is about."""
    row = mention.row
    checkpoint = entry.one(Checkpoint)
    match row:
        case Batch() if row.id != about:
            return f"the entry is about the batch {about}"
        case Pick() | Checkpoint():
            state.batch(row.batch_id)
            if row.batch_id != about:
                return f"it is of the batch {row.batch_id}, but the entry is about {about}"
        case PickMetric():
            ids = {
                state.checkpoint(row.checkpoint_id).batch_id,
                state.pick(row.pick_id).batch_id,
            }
            if ids != {about}:
                return f"its checkpoint and its pick are not both of the batch {about}"
            is_filled = mention.before is not None and entry.kind is JournalKind.CHECKPOINT
            if not is_filled and checkpoint and row.checkpoint_id != checkpoint.id:
                return f"it is not of day {checkpoint.day}, which the entry is about"
        case Correction() if checkpoint and row.checkpoint_id != checkpoint.id:
            return f"it is not of day {checkpoint.day}, which the entry is about"
    return None


def _check_tickers(entry: Entry, state: State) -> None:
    """Refuse a reading of a share that the batch does not have, after the rules that name such a fault better."""
    about = _batch_of(entry)
    for close in entry.rows(Close):
        if about is None or close.ticker in _tickers_of(state, about):
            continue
        text = "its ticker is neither the benchmark's nor one that a pick of the batch has or had"
        raise misfit(Rule.BELONGS, f"{where(entry, state, close)}: {text}.")


def _tickers_of(state: State, batch: UUID) -> set[str]:
    """Return the ticker of a batch's benchmark, and every ticker that its picks have or had."""
    tickers = {state.batch(batch).benchmark_symbol}
    return tickers.union(*(state.shares[id].all for id in state.picks_of[batch]))


def _check_unchanged(entry: Entry, state: State, mention: Mention) -> None:
    """Refuse another value in a column that must not change in an entry of this kind."""
    if mention.before is None:
        return
    allowed = _may_change(entry.kind, mention)
    now = asdict(mention.row)
    for name, former in asdict(mention.before).items():
        here, there = written(now[name]), written(former)
        # A number that is only written with other zeros at its end is no change that is allowed.
        if here == there or (name in allowed and now[name] != former):
            continue
        was, is_now = shortened(there, here)
        text = f"{name} was {was} and is {is_now}, which a {entry.kind} entry does not change"
        raise misfit(Rule.UNCHANGED, f"{where(entry, state, mention.row)}: {text}.")


def _may_change(kind: JournalKind, mention: Mention) -> frozenset[str]:
    """Return the columns of a row that an entry of a kind may change."""
    if kind is JournalKind.CORRECTION:
        return CORRECTABLE.get(type(mention.row), frozenset())
    match mention.row, mention.before, kind:
        case Generation(accepted=False), Generation(accepted=True), JournalKind.GENERATION:
            return frozenset({"accepted", "refusal"})
        case Batch(), Batch(status=BatchStatus.FAILED), JournalKind.BATCH | JournalKind.FAILURE:
            return frozenset(Batch.__struct_fields__) - _KEPT_BY_A_MONDAY
        case Batch(status=BatchStatus.COMPLETED), Batch(status=BatchStatus.ACTIVE), JournalKind.CHECKPOINT:
            return frozenset({"status"})
        case Pick(), Pick(ended=False), JournalKind.PICK_ENDED:
            return frozenset({"ended"})
        case Pick(), Pick(), JournalKind.PICK_RENAMED:
            return frozenset({"ticker"})
        case Pick(), Pick(entry_open=None), JournalKind.CHECKPOINT:
            return frozenset({"entry_open", "entry_close_id"})
        case Checkpoint(), Checkpoint() as former, JournalKind.CHECKPOINT:
            is_open = former.status is CheckpointStatus.SKIPPED
            is_closed = former.skip_reason is SkipReason.MARKET_CLOSED
            return _OF_A_RETAKE if is_open and not is_closed else frozenset()
        case PickMetric(), PickMetric(return_from_open_pct=None), JournalKind.CHECKPOINT:
            return frozenset({"return_from_open_pct"})
    return frozenset()


# A change of a row: the column, the ticker of its pick, and the values before and after.
_Change = tuple[str, str | None, str | None, str | None]


def _check_corrections(entry: Entry, state: State) -> None:
    """Refuse a changed column without its correction, and a correction without its change."""
    corrections = entry.rows(Correction)
    if not corrections:
        raise misfit(Rule.CORRECTED, f"Entry {entry.seq} of the journal: a CORRECTION entry corrects nothing.")
    if len({one.reason for one in corrections}) > 1:
        text = "its corrections have several reasons"
        raise misfit(Rule.CORRECTED, f"Entry {entry.seq} of the journal: {text}.")
    made = Counter(change for mention in entry.mentions for change in _changes(entry, mention, state))
    said = Counter((one.field, one.ticker, one.before, one.after) for one in corrections)
    place = f"Entry {entry.seq} of the journal, {state.name(corrections[0])}"
    for change in made - said:
        raise misfit(Rule.CORRECTED, f"{place}: {_described(change)}, which no correction says.")
    for change in said - made:
        text = f"a correction says that {_described(change)}, which it does not"
        raise misfit(Rule.CORRECTED, f"{place}: {text}.")
    _check_day(entry, state)


def _described(change: _Change) -> str:
    field, ticker, before, after = change
    column = f"{field} of {ticker}" if ticker else field
    return f"{column} changes from {before} to {after}"


def _changes(entry: Entry, mention: Mention, state: State) -> Iterator[_Change]:
    """Yield the changes of a row that can be corrected."""
    if mention.before is None:
        return
    ticker = None
    if isinstance(mention.row, Pick):
        ticker = mention.row.ticker
    if isinstance(mention.row, PickMetric):
        ticker = state.pick(mention.row.pick_id).ticker
    now = asdict(mention.row)
    for name, former in asdict(mention.before).items():
        if now[name] != former and not _is_by_an_earlier_version(entry, name, now[name], state):
            yield name, ticker, written(former), written(now[name])


def _is_by_an_earlier_version(entry: Entry, column: str, now: object, state: State) -> bool:
    """Return whether a mark is absent because an earlier version, which does not know it, wrote the entry."""
    since = state.examined_since
    is_gone = column == "benchmark_unusual_move" and now is None
    return is_gone and since is not None and entry.at <= since + UPGRADE


def _check_day(entry: Entry, state: State) -> None:
    """Refuse a baseline that is corrected on another day than 0, and metrics that are on day 0."""
    checkpoint = entry.one(Checkpoint)
    if checkpoint is None:
        return
    wrong: list[AnyRow] = [*entry.rows(PickMetric)]
    if checkpoint.day > 0:
        wrong = [*entry.rows(Batch), *entry.rows(Pick)]
    if wrong:
        text = f"it is not corrected on day {checkpoint.day}"
        raise misfit(Rule.CORRECTED, f"{where(entry, state, wrong[0])}: {text}.")
