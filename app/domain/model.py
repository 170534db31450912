"""The record's nouns, as frozen values. Each is what one row of its table says; docs/record.md explains them."""

from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from uuid import UUID, uuid5

from msgspec import Struct

SERIES = "main"

# The namespace of batch ids: one series and run date always has the same id, so its questions can name it
# before its row is there, and a repeated Monday could not become a second batch.
_BATCHES = UUID("8a1c8f0e-6d0b-5c55-9a37-3f0d7a1e6b52")


class Action(StrEnum):
    """What to do with a ticker."""

    BUY = "BUY"
    SELL = "SELL"


class BatchStatus(StrEnum):
    """What became of a batch."""

    ACTIVE = "active"
    COMPLETED = "completed"
    FAILED = "failed"


class FailureReason(StrEnum):
    """Why a Monday has no picks."""

    MISSED = "MISSED"
    NO_USABLE_ANSWER = "NO_USABLE_ANSWER"
    MISSING_CLOSE = "MISSING_CLOSE"
    PROVIDER_ERROR = "PROVIDER_ERROR"
    CONFIGURATION = "CONFIGURATION"


class CheckpointStatus(StrEnum):
    """Whether a checkpoint has its prices."""

    COMPUTED = "computed"
    SKIPPED = "skipped"


class SkipReason(StrEnum):
    """Why a checkpoint has no prices."""

    MARKET_CLOSED = "MARKET_CLOSED"
    MISSING_CLOSE = "MISSING_CLOSE"
    PROVIDER_ERROR = "PROVIDER_ERROR"


class JournalKind(StrEnum):
    """What an entry of the journal records."""

    GENERATION = "GENERATION"
    BATCH = "BATCH"
    CHECKPOINT = "CHECKPOINT"
    CORRECTION = "CORRECTION"
    FAILURE = "FAILURE"
    PICK_ENDED = "PICK_ENDED"
    PICK_RENAMED = "PICK_RENAMED"


class Idea(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the model proposed, not yet priced."""

    ticker: str
    action: Action
    reasoning: str


class Bar(Struct, frozen=True, kw_only=True):
    """What a provider says of one ticker's session: raw prices, as traded."""

    trading_day: date
    open: Decimal
    close: Decimal


class Close(Struct, frozen=True, kw_only=True):
    """A reading of one ticker's session: its raw prices, with where and when they were read."""

    id: UUID
    ticker: str
    trading_day: date
    open: Decimal | None
    close: Decimal
    source: str
    read_at: datetime


class Split(Struct, frozen=True, kw_only=True):
    """
    A reading of one ticker's split: from `effective_date` on, one share is `factor` shares.

    A factor of 1 takes back what was read before.
    """

    ticker: str
    effective_date: date
    factor: Decimal
    source: str
    read_at: datetime


class Batch(Struct, frozen=True, kw_only=True):
    """
    One Monday's picks of one series, with the benchmark they are measured against.

    `run_date` is the Monday in New York; `trading_day` is the baseline session. A failed batch has neither
    prices nor a trading day, but a reason (code) and a failure (sentence).
    """

    id: UUID
    series: str
    run_date: date
    created_at: datetime
    status: BatchStatus
    late: bool
    failure_reason: FailureReason | None = None
    failure: str | None = None
    benchmark_symbol: str
    benchmark_initial_price: Decimal | None = None
    benchmark_initial_close_id: UUID | None = None
    trading_day: date | None = None


class Pick(Struct, frozen=True, kw_only=True):
    """
    An idea with its initial price: the close of the baseline session.

    `entry_open` is the open of the first session on or after the run date, None until it is known.
    """

    id: UUID
    batch_id: UUID
    position: int
    ticker: str
    action: Action
    reasoning: str
    initial_price: Decimal
    initial_close_id: UUID
    entry_open: Decimal | None = None
    entry_close_id: UUID | None = None
    ended: bool = False


class Ending(Struct, frozen=True, kw_only=True):
    """
    What became of a pick that stopped trading: its last session, and what a share was worth from then on.

    It is kept in the journal's entry of kind PICK_ENDED, where every later figure of the pick leads.
    """

    pick_id: UUID
    last_session: date
    value: Decimal
    source: str


class Checkpoint(Struct, frozen=True, kw_only=True):
    """
    One morning's look at a batch: day 0 is the baseline, days 1 to 14 follow.

    A skipped one has no prices but a reason; computed later, it keeps `skipped_at` and why.
    """

    id: UUID
    batch_id: UUID
    day: int
    checkpoint_date: date
    trading_day: date | None = None
    status: CheckpointStatus
    skip_reason: SkipReason | None = None
    note: str | None = None
    taken_at: datetime
    skipped_at: datetime | None = None
    benchmark_price: Decimal | None = None
    benchmark_close_id: UUID | None = None
    benchmark_split_factor: Decimal | None = None
    benchmark_return_pct: Decimal | None = None


class PickMetric(Struct, frozen=True, kw_only=True):
    """One pick at one computed checkpoint of day 1 or later. Returns are in percent; the action does not enter them."""

    id: UUID
    checkpoint_id: UUID
    pick_id: UUID
    current_price: Decimal
    close_id: UUID | None
    split_factor: Decimal
    absolute_return_pct: Decimal
    vs_benchmark_pct: Decimal
    return_from_open_pct: Decimal | None = None
    unusual_move: bool = False
    ended: bool = False


class Correction(Struct, frozen=True, kw_only=True):
    """
    A stored figure that was put right: what it said before, what it says now, and why.

    `field` is the column; `ticker` is the pick's, None for a figure of the batch or the checkpoint itself. Figures of
    the baseline (initial prices) are corrected on day 0.
    """

    id: UUID
    checkpoint_id: UUID
    field: str
    ticker: str | None
    before: str | None
    after: str | None
    reason: str
    made_at: datetime


class Generation(Struct, frozen=True, kw_only=True):
    """
    One question put to the model and what became of it.

    `accepted` is None while the question is open; a refused answer has a `refusal`, as has a question
    that got none.
    """

    id: UUID
    series: str
    run_date: date
    attempt: int
    asked_at: datetime
    answered_at: datetime | None = None
    requested_model: str
    answered_model: str | None = None
    prompt_version: str
    system_prompt: str
    user_prompt: str
    answer: str | None = None
    request_id: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    accepted: bool | None = None
    refusal: str | None = None


class JournalEntry(Struct, frozen=True, kw_only=True):
    """One entry of the append-only, hash-chained log; `content` is canonical JSON."""

    seq: int
    kind: JournalKind
    at: datetime
    content: str
    previous: str
    hash: str
    batch_id: UUID | None = None


def batch_id(series: str, run_date: date) -> UUID:
    """Return the id that the batch of `series` and `run_date` has, or will have."""
    return uuid5(_BATCHES, f"{series}/{run_date}")
