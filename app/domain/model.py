"""
The types of the record, as immutable values.

Most of them are one row of a table. Field names are column names and also member names of the
journal, so they must not change. docs/architecture.md#the-record explains the words, and
docs/record.md the numbers.
"""

from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Self
from uuid import UUID, uuid5

from msgspec import Struct

# The default series.
SERIES = "main"
# The greatest number of series that run at the same time. More could not be asked in the half hour
# before the open, nor be shown side by side.
MAX_SERIES = 32
# The name of a series: it is a part of ids, links and exports, so it has no character that needs an
# escape.
SERIES_PATTERN = r"[a-z][a-z0-9-]{0,31}"

# The number of stocks of a batch, and the number of checkpoints after day 0.
PICKS_PER_BATCH = 3
CHECKPOINT_DAYS = 14
# The greatest number of questions to the model for one Monday, the first question included. Each
# time that a failed Monday is run again, it may use the same number again.
QUESTIONS_PER_MONDAY = 3

# A ticker of the S&P 500 in the form of the record: BRK.B, never BRK-B.
TICKER_PATTERN = r"[A-Z]{1,5}(\.[A-Z])?"

# A SHA-256 in the form of the record, such as the hash of an entry.
SHA256_PATTERN = r"[0-9a-f]{64}"

# The namespace of batch ids. A series and a run date always give the same id. So the journal entry
# of a question can name the batch before the batch is stored, and a Monday that is run twice cannot
# get two batches.
_BATCHES = UUID("8a1c8f0e-6d0b-5c55-9a37-3f0d7a1e6b52")


class DescribedEnum(StrEnum):
    """
    Base class of the record's enums.

    A value is declared once, with its stored text and its description. The schema of the API shows
    the description, so it is written for the API's readers.
    """

    description: str

    # `description` has a default because type checkers take a look-up such as `Action("BUY")` for
    # a call of `__new__` with the text alone.
    def __new__(cls, text: str, description: str = "") -> Self:
        """Create a value that equals its text and has a description."""
        member = str.__new__(cls, text)
        member._value_ = text
        member.description = description
        return member


class Action(DescribedEnum):
    """What the model recommends to do with a share."""

    BUY = "BUY", "It is expected to do better than the benchmark."
    SELL = "SELL", "It is expected to do worse than the benchmark."

    def in_direction(self, figure: Decimal) -> Decimal:
        """Return a figure in the direction of the call: for a SELL, with the other sign."""
        return -figure if self is Action.SELL else figure


class BatchStatus(DescribedEnum):
    """The status of a batch: whether its 14 days are running, completed, or never began."""

    ACTIVE = "active", "The batch has picks, and not all of its fifteen checkpoints are stored yet."
    COMPLETED = (
        "completed",
        "The batch has picks and all of its fifteen checkpoints, day 0 to day 14.",
    )
    FAILED = (
        "failed",
        "No picks were made on that Monday; `failureReason` and `failure` have the reason.",
    )


class FailureReason(DescribedEnum):
    """The reason why no picks were made on a Monday."""

    MISSED = "MISSED", "The Monday ended before its picks were stored."
    NO_USABLE_ANSWER = "NO_USABLE_ANSWER", "The model gave no answer that follows the rules."
    MISSING_CLOSE = "MISSING_CLOSE", "A price of the baseline session was not available in time."
    PROVIDER_ERROR = "PROVIDER_ERROR", "A provider did not return the requested data."
    CONFIGURATION = "CONFIGURATION", "A key, an account or a setting of the service was wrong."


class CheckpointStatus(DescribedEnum):
    """Whether a checkpoint has prices and figures."""

    COMPUTED = (
        "computed",
        "The checkpoint has all prices that it needs, and its figures are stored.",
    )
    SKIPPED = "skipped", "The checkpoint has no prices and no figures; `skipReason` has the reason."


class SkipReason(DescribedEnum):
    """The reason why a checkpoint has no prices."""

    MARKET_CLOSED = (
        "MARKET_CLOSED",
        "The day before the checkpoint was not a session, so there are no closing prices.",
    )
    MISSING_CLOSE = (
        "MISSING_CLOSE",
        "A closing price that the checkpoint needs was not published in time.",
    )
    PROVIDER_ERROR = "PROVIDER_ERROR", "The provider of prices did not return usable data."


class JournalKind(DescribedEnum):
    """The kind of event that an entry of the journal records."""

    GENERATION = (
        "GENERATION",
        "A question to the model, with its outcome: accepted, refused or not answered.",
    )
    BATCH = "BATCH", "A batch was stored: its picks, their initial prices and day 0."
    CHECKPOINT = (
        "CHECKPOINT",
        "A checkpoint was computed or skipped; one that was skipped may be computed later.",
    )
    CORRECTION = "CORRECTION", "One or more stored figures of a checkpoint were corrected."
    FAILURE = "FAILURE", "A Monday ended without picks; the entry has the reason."
    PICK_ENDED = "PICK_ENDED", "The share of a pick stopped trading; the entry has its last value."
    PICK_RENAMED = "PICK_RENAMED", "The share of a pick has a new ticker from a session on."
    GENESIS = (
        "GENESIS",
        "The beginning of a sealed record: its id, its origin and its first settings.",
    )
    SETTINGS = "SETTINGS", "The settings of the record have changed; the entry has the new ones."
    SERIES = "SERIES", "A series was registered, or its model, prompt or settings have changed."
    READINGS = (
        "READINGS",
        "A provider's response was read: its readings of prices, splits, dividends or rates.",
    )
    CHECK = "CHECK", "A yearly check was held: its figures, Holm's order and its findings."
    RULES = "RULES", "The rules of the yearly checks, and the first check that they decide."
    EXTENSION = (
        "EXTENSION",
        "Figures beside those of a result became known: its total returns, or the return of a "
        "further benchmark.",
    )
    NOTE = "NOTE", "An entry of a kind that only later versions write. This version writes none."
    SUPPLEMENT = (
        "SUPPLEMENT",
        "An entry of another kind that only later versions write. This version writes none.",
    )


class SeriesKind(DescribedEnum):
    """What chooses the picks of a series."""

    MODEL = "model", "A language model, which is asked every Monday."
    RANDOM = (
        "random",
        "A control: it draws stocks and actions at random, so that every reader can draw them "
        "again.",
    )


class Idea(Struct, frozen=True, kw_only=True):
    """
    A proposal of the model: a ticker, an action and a reasoning, without a price.

    `probability` is the model's own, in percent, that the pick turns out right. It is None under
    version 1 of the prompt, and for the picks of a control.
    """

    ticker: str
    action: Action
    reasoning: str
    probability: int | None = None


class Bar(Struct, frozen=True, kw_only=True):
    """
    A provider's prices of one ticker in one session, raw and as traded.

    `open` is None if it cannot be read.
    """

    trading_day: date
    open: Decimal | None
    close: Decimal


class Close(Struct, frozen=True, kw_only=True):
    """
    A reading of one ticker in one session: its raw prices, their source, and the time of reading.

    A reading never changes. If the provider later returns another value, that is a second reading.
    """

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

    A reading with the factor 1 takes back an earlier reading of the same split: the provider no
    longer lists this split.
    """

    ticker: str
    effective_date: date
    factor: Decimal
    source: str
    read_at: datetime


class Dividend(Struct, frozen=True, kw_only=True):
    """
    A reading of one ticker's dividend: a share pays `amount` to its holders before `ex_date`.

    `amount` is in dollars for each share of that day, as declared. If a ticker has several
    dividends with one ex-date, it is their sum. A reading with the amount 0 takes back an earlier
    reading: the provider no longer lists this dividend. A reading never changes.
    """

    ticker: str
    ex_date: date
    amount: Decimal
    source: str
    read_at: datetime


class Rate(Struct, frozen=True, kw_only=True):
    """
    A reading of the rate of a loan without risk: the yield of three-month Treasury bills.

    `value_pct` is in percent a year, as observed on the day `observed_on`. A reading never changes.
    If the provider later returns another value, that is a second reading.
    """

    observed_on: date
    value_pct: Decimal
    source: str
    read_at: datetime


class Batch(Struct, frozen=True, kw_only=True):
    """
    One Monday's picks of one series, with the benchmark against which they are measured.

    `run_date` is the Monday in New York, and `trading_day` is the baseline session. A failed batch
    has no prices and no trading day. It has a `failure_reason` (a code) and a `failure` (a
    sentence).
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

    `probability` is the model's own, in percent, that the pick turns out right; None if the model
    was not asked for it. `entry_open` is the open of the first session on or after the run date,
    None until it is known.
    """

    id: UUID
    batch_id: UUID
    position: int
    ticker: str
    action: Action
    reasoning: str
    probability: int | None = None
    initial_price: Decimal
    initial_close_id: UUID
    entry_open: Decimal | None = None
    entry_close_id: UUID | None = None
    ended: bool = False


class Ending(Struct, frozen=True, kw_only=True):
    """
    The end of a pick whose share stopped trading.

    After `last_session` a share is worth `value`, and the pick's figures for later sessions are
    computed from this value. An ending is not a row of a table: only the journal has it, in a
    PICK_ENDED entry.
    """

    pick_id: UUID
    last_session: date
    value: Decimal
    source: str


class Renaming(Struct, frozen=True, kw_only=True):
    """
    A rename of a pick's share.

    `from_session` is the first session under the new ticker, and `source` names the publication
    that reported the rename. `forced` says that the closes under both tickers were not compared. A
    renaming is not a row of a table: only the journal has it, in a PICK_RENAMED entry. The
    PICK_RENAMED entries that earlier versions of the service wrote have no renaming (see
    `app.domain.tickers`).
    """

    pick_id: UUID
    from_session: date
    source: str
    forced: bool


class Checkpoint(Struct, frozen=True, kw_only=True):
    """
    The measurement of a batch on one morning: day 0 is the baseline, days 1 to 14 follow.

    A skipped checkpoint has a reason and no prices. If it is computed later, it keeps `skipped_at`
    and the reason. `benchmark_unusual_move` is None if the benchmark's move was not checked: on day
    0, on a skipped checkpoint, and on one that was computed before this column existed.

    The last three fields are the benchmark's total return, see `PickMetric`. They are None until
    its dividends are known, and on every checkpoint that is not its batch's result.
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
    benchmark_dividends: Decimal | None = None
    benchmark_total_return_pct: Decimal | None = None
    benchmark_spin_off_counted_once: bool | None = None

    @property
    def has_totals(self) -> bool:
        """Return whether the benchmark's total return is known."""
        return self.benchmark_total_return_pct is not None


class PickMetric(Struct, frozen=True, kw_only=True):
    """
    The figures of one pick at one computed checkpoint of day 1 or later.

    Returns are in percent. They are returns of the share: they are the same for BUY and SELL.

    The last four fields are the total return. Only the metric of a result has it, once the
    dividends of the share and of the benchmark are known. `dividends` is what a holder received, in
    dollars for each share of the baseline. `spin_off_counted_once` says that the provider lists a
    spin-off as a split and as a dividend, and that only the split was counted.
    """

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
    dividends: Decimal | None = None
    total_return_pct: Decimal | None = None
    vs_benchmark_total_pct: Decimal | None = None
    spin_off_counted_once: bool | None = None

    @property
    def has_totals(self) -> bool:
        """Return whether the total return is known."""
        return self.total_return_pct is not None


class FurtherBenchmark(Struct, frozen=True, kw_only=True):
    """
    The return of a further benchmark over the fortnight of a batch, in percent.

    It is shown beside the benchmark's, and decides nothing. `position` is its place among the
    further benchmarks that were in force when the batch was stored, from 1. `trading_day` is the
    session of the batch's result. A batch has one row for each of them, as soon as its prices are
    known.
    """

    id: UUID
    batch_id: UUID
    symbol: str
    position: int
    trading_day: date
    further_initial_price: Decimal
    further_initial_close_id: UUID
    further_price: Decimal
    further_close_id: UUID
    further_split_factor: Decimal
    further_return_pct: Decimal
    measured_at: datetime


class Correction(Struct, frozen=True, kw_only=True):
    """
    A correction of a stored figure: its value before and after, and the reason.

    `field` is the column of the figure. `ticker` is the ticker of the pick that has the figure, or
    the symbol of the further benchmark that has it. It is None for a figure of the batch or of the
    checkpoint itself. A correction of the baseline's figures (initial prices) belongs to the
    checkpoint of day 0.
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
    One question to the model, with its answer and whether it was accepted.

    `attempt` is the number of the question among the questions of its Monday, from 1. `accepted` is
    None until the outcome of the question is stored; then it is true or false. `refusal` is set for
    a refused answer, and for a question that ended without an answer. `profile_sha256` identifies
    the profile with which the question was asked (see `app.domain.declarations.Profile`). It is
    None for a question of a record that was not sealed then. `finish_reason` says why the model
    stopped, and `system_fingerprint` names the server's configuration, both in the words of the
    server. `reasoning_tokens` are the part of `completion_tokens` that the answer does not show.
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
    profile_sha256: str | None = None
    reasoning_effort: str | None = None
    finish_reason: str | None = None
    system_fingerprint: str | None = None
    reasoning_tokens: int | None = None


class JournalHead(Struct, frozen=True):
    """The number, the hash and the time of the journal's newest entry."""

    seq: int
    hash: str
    at: datetime


class JournalEntry(Struct, frozen=True, kw_only=True):
    """One entry of the journal, the append-only, hash-chained log; `content` is canonical JSON."""

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


def further_benchmark_id(batch: UUID, symbol: str) -> UUID:
    """Return the id of the row of a further benchmark of a batch."""
    return uuid5(batch, symbol)
