"""The general rules of an entry: its rows belong together, and change only in allowed columns."""

from collections import Counter
from collections.abc import Iterator
from uuid import UUID

from msgspec.structs import asdict

from app.domain.journal import to_text, to_texts
from app.domain.model import (
    Batch,
    BatchStatus,
    Checkpoint,
    CheckpointStatus,
    Close,
    Correction,
    Dividend,
    FurtherBenchmark,
    Generation,
    JournalKind,
    Pick,
    PickMetric,
    SkipReason,
    Split,
)
from app.domain.verification.discrepancies import Rule, discrepancy
from app.domain.verification.entries import (
    AnyRow,
    Mention,
    ParsedEntry,
    row_key,
    show_difference,
)
from app.domain.verification.rules.marks import UPGRADE_WINDOW
from app.domain.verification.rules.questions import COMPLETION_COLUMNS
from app.domain.verification.rules.tolerance import CLOCK_TOLERANCE, overdue_limit
from app.domain.verification.state import LEFT_OUT, JournalState, locate

# The kinds of entry that may have the first mention of a row, by the type of the row. For a
# checkpoint, the kind depends on its day: see `_check_first_mention`.
_FIRST_KINDS = {
    # A question of a record that is sealed late may be in a READINGS entry that adopts it.
    Generation: {JournalKind.GENERATION, JournalKind.READINGS},
    Batch: {JournalKind.BATCH, JournalKind.FAILURE},
    Pick: {JournalKind.BATCH},
    PickMetric: {JournalKind.CHECKPOINT},
    Correction: {JournalKind.CORRECTION},
    FurtherBenchmark: {JournalKind.EXTENSION},
}

# The columns that a correction can change: the possible values of a correction's `field`.
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
            *LEFT_OUT["checkpoints"],
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
            *LEFT_OUT["pick_checkpoint_metrics"],
        }
    ),
    FurtherBenchmark: frozenset({"further_split_factor", "further_return_pct"}),
}

# The kinds of entries that state what is in force, before the entry that needs them.
_DECLARATIONS = frozenset({JournalKind.GENESIS, JournalKind.SETTINGS, JournalKind.SERIES})

# The columns that a skipped checkpoint gets when it is computed later.
_RETAKE_COLUMNS = (CORRECTABLE[Checkpoint] - set(LEFT_OUT["checkpoints"])) | {
    "status",
    "trading_day",
    "taken_at",
}

# The columns that stay when a failed Monday is run again.
_BATCH_IDENTITY_COLUMNS = {"id", "series", "run_date"}


def check_structure(entry: ParsedEntry, state: JournalState) -> None:
    """
    Raise Discrepancy for rows that do not belong in the entry.

    This check runs before the other rules, which rely on it.
    """
    _check_at(entry, state)
    for mention in entry.mentions:
        _check_first_mention(entry, state, mention)
    _check_belongs(entry, state)
    _check_readings_agree(entry, state)


def check(entry: ParsedEntry, state: JournalState) -> None:
    """
    Raise Discrepancy for a change that is not allowed, or that no correction explains.

    This check runs after the other rules, because their messages are more specific.
    """
    _check_tickers(entry, state)
    for mention in entry.mentions:
        _check_unchanged(entry, state, mention)
    if entry.kind is JournalKind.CORRECTION:
        _check_corrections(entry, state)
    _check_backdated(entry, state)


def _check_backdated(entry: ParsedEntry, state: JournalState) -> None:
    """Raise Discrepancy for an entry that is more than a day older than entries before it."""
    limit = overdue_limit(state.times)
    if limit is None or entry.at >= limit:
        return
    raise discrepancy(
        Rule.AT,
        f"Entry {entry.seq} of the journal: its at is {to_text(entry.at)}, but earlier entries "
        "are more than a day newer. The entry was backdated.",
    )


def _check_at(entry: ParsedEntry, state: JournalState) -> None:
    _check_declared_at(entry, state)
    for question in entry.rows(Generation):
        name, moment = "answered_at", question.answered_at
        if moment is None:
            name, moment = "asked_at", question.asked_at
        if entry.at < moment - CLOCK_TOLERANCE:
            raise discrepancy(
                Rule.AT,
                f"{locate(entry, state, question)}: {name} is {to_text(moment)}, after the entry's "
                "at.",
            )
    for row, name, value in _times_of_rows(entry, state):
        if value != entry.at:
            raise discrepancy(
                Rule.AT,
                f"{locate(entry, state, row)}: {name} is {to_text(value)}, but the entry's at is "
                f"{to_text(entry.at)}.",
            )


def _check_declared_at(entry: ParsedEntry, state: JournalState) -> None:
    """
    Raise Discrepancy for a declaration before this entry that has another time than it.

    An entry and the declarations that it needs are written in one transaction, at one time.
    """
    declared_at, state.declared_at = state.declared_at, None
    if declared_at is not None and declared_at != entry.at:
        raise discrepancy(
            Rule.AT,
            f"Entry {entry.seq - 1} of the journal: its at is {to_text(declared_at)}, but that of "
            f"the entry that needed it is {to_text(entry.at)}.",
        )
    if entry.is_adoption or (entry.kind in _DECLARATIONS and not entry.is_sealing):
        state.declared_at = entry.at


def _times_of_rows(entry: ParsedEntry, state: JournalState) -> Iterator[tuple[AnyRow, str, object]]:
    """Yield the times of rows that must equal the entry's `at`, as (row, column, time)."""
    if entry.kind is JournalKind.GENERATION and state.is_sealed:
        for mention in entry.mentions_of(Generation):
            question = mention.row
            assert isinstance(question, Generation)
            if mention.before is None and question.accepted is None:
                yield question, "asked_at", question.asked_at
    if entry.kind in (JournalKind.BATCH, JournalKind.FAILURE):
        for batch in entry.rows(Batch):
            yield batch, "created_at", batch.created_at
    if entry.kind is JournalKind.CHECKPOINT:
        for checkpoint in entry.rows(Checkpoint):
            yield checkpoint, "taken_at", checkpoint.taken_at
    if entry.kind is JournalKind.EXTENSION:
        for further in entry.rows(FurtherBenchmark):
            yield further, "measured_at", further.measured_at
    for correction in entry.rows(Correction):
        yield correction, "made_at", correction.made_at


def _check_first_mention(entry: ParsedEntry, state: JournalState, mention: Mention) -> None:
    """
    Raise Discrepancy for a first mention in the wrong kind of entry, or a repeated state.

    A state is repeated if, for example, a CHECKPOINT entry mentions its checkpoint again with the
    same status.
    """
    row = mention.row
    if mention.before is not None:
        if _is_repeated(entry.kind, mention):
            raise discrepancy(
                Rule.FIRST_MENTION,
                f"{locate(entry, state, row)}: an earlier entry already has this row in the same "
                "state.",
            )
        return

    kinds = _FIRST_KINDS.get(type(row))
    # Day 0 is stored together with its batch.
    if isinstance(row, Checkpoint):
        kinds = {JournalKind.CHECKPOINT}
        if row.day <= 0:
            kinds = {JournalKind.BATCH}
    if kinds and entry.kind not in kinds:
        raise discrepancy(
            Rule.FIRST_MENTION,
            f"{locate(entry, state, row)}: it is first mentioned in a {entry.kind} entry, but must "
            f"be in a {' or '.join(sorted(kinds))} entry.",
        )


def _is_repeated(kind: JournalKind, mention: Mention) -> bool:
    """Return whether an entry mentions a row again, although the row's state did not change."""
    match mention.row, mention.before, kind:
        case Generation() as now, Generation() as former, JournalKind.GENERATION:
            return now.accepted == former.accepted
        case Batch() as now, Batch(status=BatchStatus.FAILED) as former, JournalKind.FAILURE:
            return now.created_at == former.created_at
        case Checkpoint() as now, Checkpoint() as former, JournalKind.CHECKPOINT:
            return now.status is former.status
        case FurtherBenchmark(), FurtherBenchmark(), JournalKind.EXTENSION:
            return True
    return False


def _check_belongs(entry: ParsedEntry, state: JournalState) -> None:
    """Raise Discrepancy for a row that does not belong to the batch of the entry."""
    batch_id = _batch_of(entry)
    if batch_id is None:
        return
    for mention in entry.mentions:
        place = locate(entry, state, mention.row)
        try:
            problem = _belongs_problem(entry, state, mention=mention, batch_id=batch_id)
        except LookupError as error:
            problem = f"it needs {error}, which the journal does not have"
        if problem is not None:
            raise discrepancy(Rule.BELONGS, f"{place}: {problem}.")


def _check_readings_agree(entry: ParsedEntry, state: JournalState) -> None:
    """Raise Discrepancy for a reading that an entry holds with two values."""
    held: dict[str, Close | Split | Dividend] = {}
    for mention in entry.mentions:
        reading = mention.row
        if not isinstance(reading, Close | Split | Dividend):
            continue
        key = f"{mention.table} {row_key(mention.table, to_texts(asdict(reading)))}"
        if held.setdefault(key, reading) != reading:
            raise discrepancy(
                Rule.UNCHANGED,
                f"{locate(entry, state, reading)}: the entry holds it twice, with different "
                "values.",
            )


def _batch_of(entry: ParsedEntry) -> UUID | None:
    """Return the id of the entry's batch; None for a question, whose batch may not exist yet."""
    for row in (entry.first_row(Checkpoint), entry.first_row(Pick)):
        if row is not None:
            return row.batch_id
    batch = entry.first_row(Batch)
    if batch is not None:
        return batch.id
    further = entry.first_row(FurtherBenchmark)
    if further is None:
        return None
    return further.batch_id


def _belongs_problem(
    entry: ParsedEntry, state: JournalState, *, mention: Mention, batch_id: UUID
) -> str | None:
    """
    Return why a row does not belong to the entry's batch; None if it does.

    Raises LookupError if the row refers to another row that the journal does not have.
    """
    row = mention.row
    checkpoint = entry.first_row(Checkpoint)
    match row:
        case Batch() if row.id != batch_id:
            return f"the entry is about the batch {batch_id}"
        case Pick() | Checkpoint() | FurtherBenchmark():
            state.batch(row.batch_id)
            if row.batch_id != batch_id:
                return f"it is of the batch {row.batch_id}, but the entry is about {batch_id}"
        case PickMetric():
            batches = {
                state.checkpoint(row.checkpoint_id).batch_id,
                state.pick(row.pick_id).batch_id,
            }
            if batches != {batch_id}:
                return f"its checkpoint and its pick are not both of the batch {batch_id}"
            # When a pick's `entry_open` becomes known, the metrics of the days before this
            # checkpoint get their `return_from_open_pct`.
            gets_open = mention.before is not None and entry.kind is JournalKind.CHECKPOINT
            if not gets_open and checkpoint and row.checkpoint_id != checkpoint.id:
                return f"it is not of day {checkpoint.day}, which the entry is about"
        case Correction() if checkpoint and row.checkpoint_id != checkpoint.id:
            return f"it is not of day {checkpoint.day}, which the entry is about"
    return None


def _check_tickers(entry: ParsedEntry, state: JournalState) -> None:
    """
    Raise Discrepancy for a reading of a share that the batch does not have.

    This check runs after other rules that describe such a fault more exactly.
    """
    batch_id = _batch_of(entry)
    if batch_id is None:
        return
    tickers = _tickers_of(state, batch_id)
    if entry.kind is JournalKind.EXTENSION:
        # Only an entry about a further benchmark has closes.
        tickers = {further.symbol for further in entry.rows(FurtherBenchmark)}
    for close in entry.rows(Close):
        if close.ticker not in tickers:
            raise discrepancy(
                Rule.BELONGS,
                f"{locate(entry, state, close)}: its ticker is neither the benchmark's nor one "
                "that a pick of the batch has or had.",
            )


def _tickers_of(state: JournalState, batch: UUID) -> set[str]:
    """Return the ticker of a batch's benchmark, and every ticker that its picks have or had."""
    tickers = {state.batch(batch).benchmark_symbol}
    return tickers.union(*(state.shares[id].all_tickers for id in state.picks_of[batch]))


def _check_unchanged(entry: ParsedEntry, state: JournalState, mention: Mention) -> None:
    """Raise Discrepancy for a new value in a column that this kind of entry must not change."""
    if mention.before is None:
        return
    allowed = _changeable(entry.kind, mention)
    now = asdict(mention.row)
    for name, former in asdict(mention.before).items():
        new_text, old_text = to_text(now[name]), to_text(former)
        # Writing an equal number in another way is never allowed, for example 1.50 for 1.5.
        is_allowed = name in allowed and now[name] != former
        if new_text == old_text or is_allowed:
            continue
        was, is_now = show_difference(old_text, new_text)
        raise discrepancy(
            Rule.UNCHANGED,
            f"{locate(entry, state, mention.row)}: a {entry.kind} entry must not change {name} "
            f"(from {was} to {is_now}).",
        )


def _changeable(kind: JournalKind, mention: Mention) -> frozenset[str]:
    """
    Return the columns of a row that an entry of a kind may change.

    Definition: docs/journal.md#what-may-change.
    """
    if kind is JournalKind.CORRECTION:
        return CORRECTABLE.get(type(mention.row), frozenset())
    match mention.row, mention.before, kind:
        case Generation(), Generation(accepted=None), JournalKind.GENERATION:
            return frozenset(COMPLETION_COLUMNS)
        case Generation(accepted=False), Generation(accepted=True), JournalKind.GENERATION:
            return frozenset({"accepted", "refusal"})
        case Batch(), Batch(status=BatchStatus.FAILED), JournalKind.BATCH | JournalKind.FAILURE:
            return frozenset(Batch.__struct_fields__) - _BATCH_IDENTITY_COLUMNS
        case (
            Batch(status=BatchStatus.COMPLETED),
            Batch(status=BatchStatus.ACTIVE),
            JournalKind.CHECKPOINT,
        ):
            return frozenset({"status"})
        case Pick(), Pick(ended=False), JournalKind.PICK_ENDED:
            return frozenset({"ended"})
        case Pick(), Pick(), JournalKind.PICK_RENAMED:
            return frozenset({"ticker"})
        case Pick(), Pick(entry_open=None), JournalKind.CHECKPOINT:
            return frozenset({"entry_open", "entry_close_id"})
        case Checkpoint(), Checkpoint() as former, JournalKind.CHECKPOINT:
            if _can_be_retaken(former):
                return _RETAKE_COLUMNS
        case PickMetric(), PickMetric(return_from_open_pct=None), JournalKind.CHECKPOINT:
            return frozenset({"return_from_open_pct"})
        case Checkpoint(), Checkpoint(has_totals=False), JournalKind.EXTENSION:
            return frozenset(LEFT_OUT["checkpoints"])
        case PickMetric(), PickMetric(has_totals=False), JournalKind.EXTENSION:
            return frozenset(LEFT_OUT["pick_checkpoint_metrics"])
    return frozenset()


def _can_be_retaken(checkpoint: Checkpoint) -> bool:
    """Return whether a checkpoint was skipped for a temporary reason."""
    is_skipped = checkpoint.status is CheckpointStatus.SKIPPED
    return is_skipped and checkpoint.skip_reason is not SkipReason.MARKET_CLOSED


# A change of a row: the column, the ticker of its pick, and the values before and after.
_Change = tuple[str, str | None, str | None, str | None]


def _check_corrections(entry: ParsedEntry, state: JournalState) -> None:
    """
    Raise Discrepancy unless the corrections of an entry are exactly the changes of its rows.

    Definition: docs/journal.md#corrections.
    """
    corrections = entry.rows(Correction)
    if not corrections:
        raise discrepancy(
            Rule.CORRECTED,
            f"Entry {entry.seq} of the journal: a CORRECTION entry corrects nothing.",
        )
    if len({one.reason for one in corrections}) > 1:
        raise discrepancy(
            Rule.CORRECTED,
            f"Entry {entry.seq} of the journal: its corrections have several reasons.",
        )

    # Counters, because each change needs exactly one correction, and each correction one change.
    actual = Counter[_Change]()
    for mention in entry.mentions:
        actual.update(_changes(entry, mention, state))
    stated = Counter((one.field, one.ticker, one.before, one.after) for one in corrections)
    place = f"Entry {entry.seq} of the journal, {state.name(corrections[0])}"
    for change in actual - stated:
        raise discrepancy(
            Rule.CORRECTED, f"{place}: no correction states that {_describe_change(change)}."
        )
    for change in stated - actual:
        raise discrepancy(
            Rule.CORRECTED,
            f"{place}: a correction states that {_describe_change(change)}, but it does not.",
        )
    _check_corrected_day(entry, state)


def _describe_change(change: _Change) -> str:
    field, ticker, before, after = change
    column = field
    if ticker:
        column = f"{field} of {ticker}"
    was, is_now = show_difference(before, after)
    return f"{column} changes from {was} to {is_now}"


def _changes(entry: ParsedEntry, mention: Mention, state: JournalState) -> Iterator[_Change]:
    """Yield the changes of a row since its previous mention."""
    if mention.before is None:
        return
    ticker = None
    if isinstance(mention.row, Pick):
        ticker = mention.row.ticker
    if isinstance(mention.row, PickMetric):
        ticker = state.pick(mention.row.pick_id).ticker
    if isinstance(mention.row, FurtherBenchmark):
        ticker = mention.row.symbol

    now = asdict(mention.row)
    for name, former in asdict(mention.before).items():
        is_dropped = now[name] is None and _may_drop(entry, name, state)
        if now[name] == former or is_dropped:
            continue
        yield name, ticker, to_text(former), to_text(now[name])


def _may_drop(entry: ParsedEntry, column: str, state: JournalState) -> bool:
    """
    Return whether an entry may leave out a column that an earlier version of the service lacks.

    During an upgrade, a process of such a version may still write entries on the newer schema. Its
    entries leave out the column without a correction.
    """
    since = state.marked_since
    if column != "benchmark_unusual_move" or since is None:
        return False
    return entry.at <= since + UPGRADE_WINDOW


def _check_corrected_day(entry: ParsedEntry, state: JournalState) -> None:
    """
    Raise Discrepancy if the corrected rows do not belong to the day of the entry's checkpoint.

    An entry about day 0 may correct initial prices: those are columns of the batch and its picks.
    Day 0 has no metrics. An entry about a later day may correct that day's metrics.
    """
    checkpoint = entry.first_row(Checkpoint)
    if checkpoint is None:
        return
    misplaced: list[AnyRow] = [*entry.rows(PickMetric)]
    if checkpoint.day > 0:
        misplaced = [*entry.rows(Batch), *entry.rows(Pick)]
    if misplaced:
        raise discrepancy(
            Rule.CORRECTED,
            f"{locate(entry, state, misplaced[0])}: a correction of day {checkpoint.day} must not "
            "contain this row.",
        )
