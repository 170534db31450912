"""The record's nouns, as frozen values. Each is what one row of its table says; docs/record.md explains them."""

from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Self
from uuid import UUID, uuid5

from msgspec import Struct

SERIES = "main"

# How many stocks a Monday picks, and on how many mornings after day 0 they are measured.
PICKS_PER_BATCH = 3
CHECKPOINT_DAYS = 14
# How many questions the model may be asked for them, the first included. A failed Monday that is run again gets as
# many more.
QUESTIONS_PER_MONDAY = 3

# An S&P 500 ticker in the record's one form: BRK.B, never BRK-B.
TICKER_PATTERN = r"[A-Z]{1,5}(\.[A-Z])?"

# The namespace of batch ids: one series and run date always has the same id, so its questions can name it
# before its row is there, and a repeated Monday could not become a second batch.
_BATCHES = UUID("8a1c8f0e-6d0b-5c55-9a37-3f0d7a1e6b52")


class DescribedEnum(StrEnum):
    """
    Base of the record's enums: a value is declared once, by its stored text and its description.

    The API's schema shows the description, so it is written for the API's readers.
    """

    description: str

    # The default is for type checkers, which take a look-up like `Action("BUY")` for this call.
    def __new__(cls, text: str, description: str = "") -> Self:
        """Return a value that is its text and has a description."""
        member = str.__new__(cls, text)
        member._value_ = text
        member.description = description
        return member


class Action(DescribedEnum):
    """What to do with a ticker."""

    BUY = "BUY", "It is expected to do better than the benchmark."
    SELL = "SELL", "It is expected to do worse than the benchmark."


class BatchStatus(DescribedEnum):
    """What became of a batch."""

    ACTIVE = "active", "Its fortnight is running."
    COMPLETED = "completed", "All fifteen checkpoints are there."
    FAILED = "failed", "No picks were made that Monday."


class FailureReason(DescribedEnum):
    """Why a Monday has no picks."""

    MISSED = "MISSED", "Nobody was there to ask that Monday."
    NO_USABLE_ANSWER = "NO_USABLE_ANSWER", "The model gave no answer that keeps the rules."
    MISSING_CLOSE = "MISSING_CLOSE", "A price of the baseline session could not be had."
    PROVIDER_ERROR = "PROVIDER_ERROR", "A provider did not give what was asked of it."
    CONFIGURATION = "CONFIGURATION", "A key, an account or a setting was not as it must be."


class CheckpointStatus(DescribedEnum):
    """Whether a checkpoint has its prices."""

    COMPUTED = "computed", "It has all of them."
    SKIPPED = "skipped", "It has none; `skipReason` says why."


class SkipReason(DescribedEnum):
    """Why a checkpoint has no prices."""

    MARKET_CLOSED = "MARKET_CLOSED", "The day before it was no session."
    MISSING_CLOSE = "MISSING_CLOSE", "A close that it needs was not published in time."
    PROVIDER_ERROR = "PROVIDER_ERROR", "The provider of prices did not help."


class JournalKind(DescribedEnum):
    """What an entry of the journal records."""

    GENERATION = "GENERATION", "A question and what became of it."
    BATCH = "BATCH", "A Monday's picks and their baseline."
    CHECKPOINT = "CHECKPOINT", "A morning's look at a batch."
    CORRECTION = "CORRECTION", "A figure that was put right."
    FAILURE = "FAILURE", "A Monday without picks, and why."
    PICK_ENDED = "PICK_ENDED", "A share that stopped trading."
    PICK_RENAMED = "PICK_RENAMED", "A share that has a new ticker."


class Idea(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the model proposed, not yet priced."""

    ticker: str
    action: Action
    reasoning: str


class Bar(Struct, frozen=True, kw_only=True):
    """What a provider says of one ticker's session: raw prices, as traded. An open that cannot be read is None."""

    trading_day: date
    open: Decimal | None
    close: Decimal


class Close(Struct, frozen=True, kw_only=True):
    """A reading of one ticker's session: its raw prices, with where and when they were read."""

    id: UUID
    ticker: str
    trading_day: date
    open: Decimal | None = None
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


class Renaming(Struct, frozen=True, kw_only=True):
    """
    A pick's new ticker: from which session on its share has it, and where that is known from.

    `forced` says that the closes under both tickers were not compared. It is kept in the journal's entry of kind
    PICK_RENAMED; entries of earlier versions have none, see `app.domain.tickers`.
    """

    pick_id: UUID
    from_session: date
    source: str
    forced: bool


class Checkpoint(Struct, frozen=True, kw_only=True):
    """
    One morning's look at a batch: day 0 is the baseline, days 1 to 14 follow.

    A skipped one has no prices but a reason; computed later, it keeps `skipped_at` and why. `benchmark_unusual_move`
    is None where it was not examined: without figures, and on those that were computed before the column was there.
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
    benchmark_unusual_move: bool | None = None


class PickMetric(Struct, frozen=True, kw_only=True):
    """One pick at one computed checkpoint of day 1 or later. Returns are in percent; the action does not enter them."""

    id: UUID
    checkpoint_id: UUID
    pick_id: UUID
    current_price: Decimal
    close_id: UUID | None = None
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
    ticker: str | None = None
    before: str | None = None
    after: str | None = None
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
