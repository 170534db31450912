"""
The declarations of the API: its types (most of them for a table) and the source of each field.

The types of the track record are not declared here. They are the structs of
`app.domain.track_record`, and `Query` names the outermost struct. The enums come from `app.domain`.

Descriptions are written for the readers of the API. `make schema` prints the schema to
`graphql/schema.graphql`, the contract.
"""
# ruff: noqa: S608 - the SQL of declarations is built from other declarations, never from input.

import re
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import date, datetime, timedelta
from decimal import Decimal, DecimalException
from functools import cache
from itertools import pairwise
from string import Template
from typing import Any, ClassVar
from uuid import UUID

import msgspec
import strawberry
from graphql import GraphQLSchema, print_schema
from msgspec import Struct
from strawberry import ID
from strawberry.schema.config import StrawberryConfig
from strawberry.types.scalar import ScalarDefinition

from api import lengths
from api.fields import (
    DATE,
    NUMBER,
    ROW_ID,
    TIME,
    Argument,
    CursorConnection,
    Edge,
    Fact,
    UnknownNameError,
    api_error,
    bad_value,
    column,
    computed,
    describe_enums,
    page,
    related,
    same,
    table,
    to_parameter,
)
from app.domain import calendar, declarations, model, prompt, verdict
from app.domain import track_record as track
from app.domain.check_contents import Untested
from app.domain.further_track_record import ComparedPick
from app.domain.journal import format_timestamp
from app.domain.prompt import MAX_ANSWER_BYTES
from app.domain.returns import format_decimal
from app.domain.timestamps import TimestampKind, TimestampStatus, closed_first_days
from app.errors import RecordDamaged
from app.store.rehearsed import (
    HAS_CLOCK,
    HAS_GENESIS,
    IS_STATED_LATE,
    SAYS_REHEARSED,
    STATED_ORIGIN,
    STATED_RECORD_ID,
)

DESCRIPTION = """
The public record of Alpha Monday, read-only: every Monday a language model picks three S&P 500
stocks, and each pick is measured against SPY on the 14 mornings that follow.

Start with `latestBatch`. Percentages are in percent (`1.5` means 1.5 %), prices are in US dollars,
and every decimal is a string at full precision. Dates are dates in New York; times are in UTC.

Glossary:

- **series**: the Mondays of one chooser under one name. The chooser is a model with its settings
  and its prompt, or a control. The default series is `main`.
- **profile**: everything that decides what the model of a series is asked, or from what a control
  draws. The journal states it before the first question.
- **control**: a series without a model. It draws stocks and actions at random, so it shows what
  luck alone achieves.
- **batch**: the picks of one Monday in one series, with the benchmark that they are measured
  against. A Monday on which no picks were made is a batch with the status `FAILED`.
- **run date**: the Monday of a batch.
- **pick**: one share of a batch, with the action BUY or SELL and the model's reasoning.
- **session**: a day on which the New York Stock Exchange trades.
- **baseline session**: the last session before the run date. Its closing prices are the initial
  prices, from which returns are computed.
- **benchmark**: what picks are measured against; SPY by default.
- **checkpoint**: one morning's measurement of a batch. Day 0 is the baseline; days 1 to 14 follow.
- **metric**: the figures of one pick at one computed checkpoint.
- **result**: the checkpoint of the last session before day 14.
- **alpha**: a pick's return minus the benchmark's, with the sign reversed for a SELL.
- **reading**: a price, a split, a dividend or a rate as a provider returned it once, with its
  source and time. A reading never changes; a later, different value is a second reading.
- **correction**: the replacement of a stored figure, with the value before, the reason and the
  time.
- **generation**: one question to the model, with its answer.
- **journal**: the append-only, hash-chained log of everything that was recorded.
- **timestamp**: a proof by another service that an entry of the journal, and so all entries before
  it, existed at a time.
- **scored**: a completed batch that has a result and was not stored late. Only scored batches
  count in the track record.
- **yearly check**: the test of skill or luck for all series together, on a date that was fixed in
  advance. It is held once, and its result is an entry of the journal. The API calls it a look (the
  type `Look`).
""".strip()


class Facts(Struct, frozen=True):
    """
    What the process knows and the database does not.

    `series` are the names of the series that this process knows. No series ever leaves a record, so
    each of these names stays valid. `sessions` is the exchange's calendar.
    """

    version: str
    rehearsed: bool
    now: Callable[[], datetime]
    series: set[str] = msgspec.field(default_factory=lambda: {model.SERIES})
    sessions: calendar.Calendar = calendar.ORDINARY_CALENDAR

    async def read_names(
        self, fetch: Callable[[str, Sequence[str | None]], Awaitable[list[bytes]]]
    ) -> bool:
        """Read the names of the record's series again. Return whether there are new ones."""
        (names,) = await fetch("SELECT coalesce(json_agg(name), '[]')::text FROM series", [])
        known_count = len(self.series)
        self.series.update(msgspec.json.decode(names, type=list[str]))
        return len(self.series) > known_count


ENUMS = (
    model.BatchStatus,
    model.FailureReason,
    model.CheckpointStatus,
    model.SkipReason,
    model.Action,
    model.SeriesKind,
    model.JournalKind,
    declarations.Origin,
    TimestampKind,
    TimestampStatus,
    verdict.Finding,
    Untested,
)
describe_enums(*ENUMS)


# An error quotes at most this many characters of a refused value.
_MAX_QUOTED = 40
_EXAMPLE_ID = "f1e5a5c6-3a5f-5f0b-9c3c-0a51e9a3a0d4"


def quote_value(text: str) -> str:
    """Return a refused value in quotes, for an error message; a long one is cut."""
    ending = "..." if len(text) > _MAX_QUOTED else ""
    return f'"{text[:_MAX_QUOTED]}{ending}"'


def parse_id(text: str) -> UUID:
    """Return the UUID that a text contains; raises BAD_ID for any other text."""
    with suppress(ValueError):
        parsed = UUID(text)
        # UUID() also accepts, for example, a text without hyphens. The API never returns that.
        if str(parsed) == text.lower():
            return parsed
    message = "An id is a UUID with hyphens, as the fields `id` return it, such as"
    raise bad_value("BAD_ID", f"{message} {_EXAMPLE_ID}, not {quote_value(text)}.")


def parse_ticker(text: str) -> str:
    """
    Return a ticker in the record's form.

    Raises BAD_TICKER for any other text; the message names the ticker that was probably meant.
    """
    to_parameter(text)
    if re.fullmatch(model.TICKER_PATTERN, text):
        return text
    form = "A ticker is written in capitals, such as NVDA, or BRK.B for a class of shares"
    meant = prompt.parse_ticker(text)
    hint = f" Ask for {meant}." if meant else ""
    raise bad_value("BAD_TICKER", f"{form}, not {quote_value(text)}.{hint}")


def parse_sha256(text: str) -> str:
    """Return a SHA-256 in the record's form; raises BAD_HASH for any other text."""
    if re.fullmatch(model.SHA256_PATTERN, text):
        return text
    form = "A SHA-256 is written as 64 hexadecimal digits, in lower case"
    raise bad_value("BAD_HASH", f"{form}, not as {quote_value(text)}.")


def require_monday(day: date) -> date:
    """Return a Monday; raises BAD_DATE for another day and names the Monday of its week."""
    if day.weekday() == 0:
        return day
    monday = day - timedelta(days=day.weekday())
    raise bad_value(
        "BAD_DATE",
        f"`runDate` must be a Monday; {day} is a {day:%A}. Its week began on {monday}.",
    )


def check_series(name: str, facts: Facts) -> None:
    """
    Raise BAD_SERIES for an unknown series; the message names the known ones.

    If the text can be a name, the error is an UnknownNameError: the record may have a new series.
    """
    if name in facts.series:
        return
    known = ", ".join(sorted(facts.series))
    error = bad_value("BAD_SERIES", f"There is no series {quote_value(name)}. The series: {known}.")
    if re.fullmatch(model.SERIES_PATTERN, name):
        raise UnknownNameError(error.message, extensions=error.extensions)
    raise error


# Conditions and expressions in SQL from which the declarations below are built.


def counts_as_session(checkpoint: str, benchmark: str) -> str:
    """
    Return the condition that the day before a checkpoint was a session, as far as the record knows.

    A checkpoint that was skipped as a closed day counts as one of a session if a price of the
    benchmark was read for that day. Otherwise a session could be struck off after its prices were
    known, and an earlier day would become the result. `checkpoint` is the name of the table in the
    statement, and `benchmark` the SQL of the batch's benchmark. Weekends are never sessions;
    without this comparison, Postgres would look for the prices of four more days in each fortnight.
    With OFFSET, Postgres looks for one reading. Without it, Postgres reads all readings of the
    benchmark, once for each batch.
    """
    return f"""(
        {checkpoint}.skip_reason IS DISTINCT FROM 'MARKET_CLOSED'
        OR extract(isodow FROM {checkpoint}.checkpoint_date - 1) < 6 AND EXISTS (
            SELECT FROM closes
            WHERE closes.ticker = {benchmark}
                AND closes.trading_day = {checkpoint}.checkpoint_date - 1
            OFFSET 0))"""


# The checkpoint of the last session before day 14. If that one was skipped, the batch has no
# result: no earlier day takes its place.
IS_RESULT = f"""
    checkpoints.batch_id = batches.id
    AND checkpoints.status = 'computed' AND batches.status = 'completed'
    AND checkpoints.day = (
        SELECT max(open_day.day) FROM checkpoints open_day
        WHERE open_day.batch_id = batches.id AND open_day.day > 0
            AND {counts_as_session("open_day", "batches.benchmark_symbol")})"""
NEXT_CHECKPOINT_AT = f"""
    SELECT (batches.run_date + awaited.day + time '{calendar.DUE_TIME}')
        AT TIME ZONE '{calendar.TIME_ZONE}'
    FROM generate_series({calendar.MEASURED_DAYS[0]}, {calendar.MEASURED_DAYS[-1]}) AS awaited (day)
    WHERE batches.status = 'active' AND NOT EXISTS (
        SELECT FROM checkpoints
        WHERE checkpoints.batch_id = batches.id AND checkpoints.day = awaited.day)
    ORDER BY awaited.day LIMIT 1"""
WAS_SESSION = counts_as_session(
    "checkpoints",
    "(SELECT batches.benchmark_symbol FROM batches WHERE batches.id = checkpoints.batch_id)",
)
METRICS = "pick_checkpoint_metrics"
HAS_TOTAL_RETURN = f"{METRICS}.total_return_pct IS NOT NULL"
HAS_BENCHMARK_TOTAL = "checkpoints.benchmark_total_return_pct IS NOT NULL"
NOT_A_RESULT = "on every checkpoint that is not the result of its batch"
DIRECTION_SIGN = f"""(
    SELECT CASE picks.action WHEN 'SELL' THEN -1 WHEN 'BUY' THEN 1 END
    FROM picks WHERE picks.id = {METRICS}.pick_id)"""


def valid_ticker_sql(table: str) -> str:
    """
    Return the SQL of a row's ticker, which is null if the text in the column is not a ticker.

    The pattern ends in two dollars, because a single dollar would begin the name of an argument.
    The pattern's group does not capture: otherwise `substring` would return only the group. A
    condition in WHERE (`ticker ~ ...`) could replace this expression, but Postgres would then find
    the row in another way, which takes five times as long.
    """
    pattern = model.TICKER_PATTERN.replace("(", "(?:")
    return f"substring({table}.ticker, '^{pattern}$$')"


PICKED_TICKER = (
    f"(SELECT {valid_ticker_sql('closes')} FROM closes WHERE closes.id = picks.initial_close_id)"
)
# A pick whose batch is missing is sorted first, so that no page leaves it out.
PICK_RUN_DATE = (
    "coalesce((SELECT batches.run_date FROM batches WHERE batches.id = picks.batch_id), 'infinity')"
)
HAS_BATCH = (
    "EXISTS (SELECT FROM batches WHERE batches.id = picks.batch_id AND batches.status <> 'failed')"
)


_DAY_COUNT = 1 + model.CHECKPOINT_DAYS
# The next four values are for HAS_THREE_PICKS and HAS_EVERY_DAY, which explain them.
# All days, 0 to 14, combined by OR: 15. And all positions, 1 to 3: 3.
_DAYS_COMBINED = 2 ** model.CHECKPOINT_DAYS.bit_length() - 1
_POSITIONS_COMBINED = 2 ** model.PICKS_PER_BATCH.bit_length() - 1
# One bit for each day, and one for each position.
_DAY_BITS = 2**_DAY_COUNT - 1
_POSITION_BITS = sum(1 << position for position in range(1, 1 + model.PICKS_PER_BATCH))

# What the record promises about rows, as conditions. If a row breaks a condition, the API reports
# the row as damaged.
HAS_PICKS = "batches.status <> 'failed'"
IS_FAILED = "batches.status = 'failed'"
IS_COMPUTED = "checkpoints.status = 'computed'"
HAS_FIGURES = f"({IS_COMPUTED} AND checkpoints.day > 0)"
HAS_UNKNOWN_STATUS = "checkpoints.status NOT IN ('computed', 'skipped')"
WAS_SKIPPED = "checkpoints.skip_reason IS NOT NULL"
# A batch must have each number (of a position, or of a day) exactly once. It does if each number
# occurs, and there are as many rows as numbers. To see which numbers occur, their bits
# (`1 << number`) are combined by OR. Postgres shifts by the number modulo 32, so 33 has the same
# bit as 1. To find such a number, the numbers themselves are combined by OR, too. They are shifted
# by 8 or 16, so that they do not overlap with the bits.
HAS_THREE_PICKS = f"""
    count(*) = {model.PICKS_PER_BATCH}
    AND bit_or((picks.position << 8) | (1 << picks.position))
        = {_POSITIONS_COMBINED << 8 | _POSITION_BITS}"""
HAS_EVERY_DAY = f"""
    count(*) = {_DAY_COUNT}
    AND bit_or((checkpoints.day << 16) | (1 << checkpoints.day))
        = {_DAYS_COMBINED << 16 | _DAY_BITS}"""
# Without this condition, a day with an unknown status or skip reason would count as a day without
# figures.
HAS_ONLY_KNOWN_STATES = """
    bool_and(coalesce(
        CASE checkpoints.status
            WHEN 'computed' THEN checkpoints.skip_reason IS DISTINCT FROM 'MARKET_CLOSED'
            WHEN 'skipped' THEN
                checkpoints.skip_reason IN ('MARKET_CLOSED', 'MISSING_CLOSE', 'PROVIDER_ERROR')
        END,
    false))"""
# Whether a batch has all of its days. If one is missing, IS_RESULT may select a wrong day.
IS_COMPLETE = f"""(
    SELECT {HAS_EVERY_DAY} AND {HAS_ONLY_KNOWN_STATES}
    FROM checkpoints WHERE checkpoints.batch_id = batches.id)"""
# Whether a further benchmark is of the batch of a metric, and the metric is of the batch's result.
IS_COMPARED_AT_RESULT = f"""
    further_benchmarks.batch_id = (
        SELECT checkpoints.batch_id FROM checkpoints
        WHERE checkpoints.id = {METRICS}.checkpoint_id)
    AND EXISTS (
        SELECT FROM batches JOIN checkpoints ON {IS_RESULT}
        WHERE batches.id = further_benchmarks.batch_id
            AND checkpoints.id = {METRICS}.checkpoint_id
            AND checkpoints.trading_day = further_benchmarks.trading_day
            AND {IS_COMPLETE})"""
HAS_NO_DAY_TWICE = f"""
    coalesce(sum(1 << checkpoints.day) = bit_or(1 << checkpoints.day)
        AND bit_or(checkpoints.day) BETWEEN 0 AND {_DAYS_COMBINED}
        AND max(checkpoints.day) < {_DAY_COUNT}, true)"""


def is_not_a_ticker(column: str) -> str:
    """Return the condition that a column is not a ticker in the record's form."""
    return f"{column} !~ '^{model.TICKER_PATTERN}$'"


def is_not_a_price(column: str) -> str:
    """Return the condition that a column has a number that no price or split factor can have."""
    return f"{column} <= 0"


def is_not_a_number(column: str) -> str:
    """
    Return the condition that a column is NaN or infinite.

    Postgres sorts NaN above all other numbers, so the first comparison covers it.
    """
    return f"{column} >= 'Infinity' OR {column} <= '-Infinity'"


SERIES = Argument(
    str,
    "The name of the series, such as `main`. A name that the record does not have is refused.",
    model.SERIES,
    check=check_series,
)
TICKER = Argument(
    str,
    "The ticker of the share, in capital letters, such as `NVDA` or `BRK.B`. Any other form is "
    "refused.",
    convert=parse_ticker,
)


@table("closes")
class Close:
    """
    A reading of one share's prices in one session, with its source and the time at which it was
    read. The prices are raw, as traded, unless `source` says that they are restated.
    """

    id: ID = column("The stable id of the reading, a UUID.")
    ticker: str = column(
        "The ticker of the share, such as `NVDA`.",
        invalid_if=is_not_a_ticker("closes.ticker"),
        max_bytes=lengths.TICKER,
    )
    trading_day: date = column("The session in which these prices were traded.")
    open: Decimal | None = column(
        "The first price of the session, in US dollars. Null if the source had no opening price "
        "that could be read.",
        invalid_if=is_not_a_price("closes.open"),
    )
    close: Decimal = column(
        "The last price of the session, in US dollars, not adjusted for dividends. It is adjusted "
        "for a later split only if `source` says that it is restated.",
        invalid_if=is_not_a_price("closes.close"),
    )
    source: str = column(
        "The source of the reading, such as `alphavantage TIME_SERIES_DAILY`. If the provider has "
        "divided the prices by the factor of a later split, the source ends in `, restated as of` "
        "and a date: the prices are then per share of that date.",
        max_bytes=lengths.SENTENCE,
    )
    read_at: datetime = column("The time at which the prices were read from the source.")


@table("splits", "concat_ws(' ', splits.ticker, splits.effective_date, splits.read_at)")
class Split:
    """
    A reading of one split of a share, with its source and the time at which it was read.
    The provider lists spin-offs as splits, too.
    """

    ticker: str = column(
        "The ticker of the share, such as `NVDA`.",
        invalid_if=is_not_a_ticker("splits.ticker"),
        max_bytes=lengths.TICKER,
    )
    effective_date: date = column("The first day whose prices are per new share.")
    factor: Decimal = column(
        "The number of new shares for one old share: `4.0000` for a split of 4:1. The factor 1 "
        "means that the provider no longer lists the split. Such a reading revokes the earlier "
        "readings of the same date.",
        invalid_if=is_not_a_price("splits.factor"),
    )
    source: str = column(
        "The source of the reading, such as `alphavantage SPLITS`.", max_bytes=lengths.SENTENCE
    )
    read_at: datetime = column("The time at which the split was read from the source.")


@table("dividends", "concat_ws(' ', dividends.ticker, dividends.ex_date, dividends.read_at)")
class Dividend:
    """
    A reading of one dividend of a share, with its source and the time at which it was read.
    Several dividends with one ex-date are one reading, with their sum.
    """

    ticker: str = column(
        "The ticker of the share, such as `NVDA`.",
        invalid_if=is_not_a_ticker("dividends.ticker"),
        max_bytes=lengths.TICKER,
    )
    ex_date: date = column(
        "The ex-date: who buys the share on this day or later does not receive the dividend."
    )
    amount: Decimal = column(
        "The amount in US dollars for each share of the ex-date, as declared. The amount 0 means "
        "that the provider no longer lists the dividend. Such a reading revokes the earlier "
        "readings of the same ex-date.",
        invalid_if=f"dividends.amount < 0 OR {is_not_a_number('dividends.amount')}",
    )
    source: str = column(
        "The source of the reading, such as `alphavantage DIVIDENDS`. If several dividends have "
        "one ex-date, it names each amount.",
        max_bytes=lengths.SENTENCE,
    )
    read_at: datetime = column("The time at which the dividend was read from the source.")


@table("rates", "concat_ws(' ', rates.observed_on, rates.read_at)")
class Rate:
    """
    A reading of the rate of a loan without risk, with its source and the time at which it was
    read. It is the yield of three-month Treasury bills.
    """

    observed_on: date = column("The day of the observation.")
    value_pct: Decimal = column(
        "The rate, in percent a year.", invalid_if=is_not_a_number("rates.value_pct")
    )
    source: str = column(
        "The source of the reading, such as `alphavantage TREASURY_YIELD 3month`.",
        max_bytes=lengths.SENTENCE,
    )
    read_at: datetime = column("The time at which the rate was read from the source.")


# The excess of a share over a further benchmark at a metric, rounded as every other figure: to 28
# significant digits, half to even. Postgres subtracts exactly, and `round` would round half up.
# `exact` is the exact difference, and `places` the number of decimals that are kept.
EXCESS_OVER_FURTHER = f"""(
    SELECT CASE
        WHEN places >= scale(exact) THEN exact
        WHEN abs(exact - trunc(exact, places)) * 10::numeric ^ (places + 1) = 5
            AND mod(trunc(exact, places) * 10::numeric ^ places, 2) = 0
        THEN trunc(exact, places)
        ELSE round(exact, places) END
    FROM (
        SELECT
            exact,
            scale(exact) + 28 - length(ltrim(translate(exact::text, '-.', ''), '0')) AS places
        FROM (
            SELECT {METRICS}.absolute_return_pct - further_benchmarks.further_return_pct AS exact
        ) AS difference
    ) AS digits)"""


@table("further_benchmarks")
class BenchmarkComparison:
    """
    The return of a further benchmark over the fortnight of a pick, and the pick's excess over it.
    A further benchmark decides no other figure.
    """

    symbol: str = column(
        "The ticker of the further benchmark, such as `RSP`.",
        invalid_if=is_not_a_ticker("further_benchmarks.symbol"),
        max_bytes=lengths.TICKER,
    )
    return_pct: Decimal = column(
        "The return of the further benchmark since the baseline, in percent, adjusted for splits.",
        "further_benchmarks.further_return_pct",
    )
    vs_pct: Decimal = column(
        "`PickMetric.absoluteReturnPct` minus `returnPct`, in percentage points. The action does "
        "not change its sign.",
        EXCESS_OVER_FURTHER,
        invalid_if=is_not_a_number("further_benchmarks.further_return_pct"),
    )


@table("further_benchmarks")
class FurtherBenchmark:
    """
    A further benchmark of a batch: its return from the baseline session to the session of the
    result, in percent, without dividends. It is shown beside the benchmark's return, and decides
    nothing.
    """

    id: ID = column("The stable id of the row, a UUID.")
    symbol: str = column(
        "The ticker of the further benchmark, such as `RSP`.",
        invalid_if=is_not_a_ticker("further_benchmarks.symbol"),
        max_bytes=lengths.TICKER,
    )
    position: int = column(
        "Its place among the further benchmarks that the newest settings up to the batch's entry "
        "name, from 1.",
        invalid_if="further_benchmarks.position < 1",
    )
    trading_day: date = column("The session of the result of the batch.")
    initial_price: Decimal = column(
        "The closing price in the baseline session, in US dollars.",
        "further_benchmarks.further_initial_price",
        invalid_if=is_not_a_price("further_benchmarks.further_initial_price"),
    )
    initial_close: Close = related(
        "The reading that supplied `initialPrice`.",
        "closes.id = further_benchmarks.further_initial_close_id",
    )
    price: Decimal = column(
        "The closing price on the trading day, in US dollars.",
        "further_benchmarks.further_price",
        invalid_if=is_not_a_price("further_benchmarks.further_price"),
    )
    close: Close = related(
        "The reading that supplied `price`.", "closes.id = further_benchmarks.further_close_id"
    )
    split_factor: Decimal = column(
        "The product of the split factors since the baseline session; 1 without a split.",
        "further_benchmarks.further_split_factor",
        invalid_if=is_not_a_price("further_benchmarks.further_split_factor"),
    )
    return_pct: Decimal = column(
        "The return since the baseline, in percent, adjusted for splits.",
        "further_benchmarks.further_return_pct",
        invalid_if=is_not_a_number("further_benchmarks.further_return_pct"),
    )
    measured_at: datetime = column(
        "The time at which the return was measured. A late split corrects it later."
    )


@table("pick_checkpoint_metrics")
class PickMetric:
    """
    The figures of one pick at one computed checkpoint after day 0. Returns are in percent,
    without costs, and without dividends except in `totalReturnPct`, `vsBenchmarkTotalPct` and
    `totalAlphaPct`.
    """

    id: ID = column("The stable id of the metric, a UUID.")
    pick: "Pick" = related(
        "The pick that these figures belong to.", f"picks.id = {METRICS}.pick_id"
    )
    checkpoint: "Checkpoint" = related(
        "The checkpoint at which the pick was measured.",
        f"checkpoints.id = {METRICS}.checkpoint_id",
    )
    current_price: Decimal = column(
        "The closing price of the share on the checkpoint's trading day, in US dollars. If `ended` "
        "is true, it is the last value that an operator recorded for the share.",
        invalid_if=is_not_a_price(f"{METRICS}.current_price"),
    )
    close: Close | None = related(
        "The reading that supplied `currentPrice`. Null if `ended` is true.",
        f"closes.id = {METRICS}.close_id",
        foreign_key=f"{METRICS}.close_id",
        required_if=f"{METRICS}.ended IS NOT TRUE",
    )
    split_factor: Decimal = column(
        "The number of shares that one share of the baseline session has become by this "
        "checkpoint: the product of the share's split factors since that session, or 1.",
        invalid_if=is_not_a_price(f"{METRICS}.split_factor"),
    )
    absolute_return_pct: Decimal = column(
        "The return of the share since the baseline, in percent, adjusted for splits. The action "
        "does not change its sign."
    )
    vs_benchmark_pct: Decimal = column(
        "`absoluteReturnPct` minus the benchmark's return, in percentage points. The action does "
        "not change its sign."
    )
    directional_return_pct: Decimal = column(
        "The return in the direction of the pick, in percent: `absoluteReturnPct` for a BUY, its "
        "negative for a SELL.",
        f"{DIRECTION_SIGN} * {METRICS}.absolute_return_pct",
        invalid_if=is_not_a_number(f"{METRICS}.absolute_return_pct"),
    )
    alpha_pct: Decimal = column(
        "The excess over the benchmark in the direction of the pick, in percentage points: "
        "`vsBenchmarkPct` for a BUY, its negative for a SELL. If it is above zero, the call (the "
        "pick's BUY or SELL) is right.",
        f"{DIRECTION_SIGN} * {METRICS}.vs_benchmark_pct",
        invalid_if=is_not_a_number(f"{METRICS}.vs_benchmark_pct"),
    )
    hit: bool = column(
        "True if the call (the pick's BUY or SELL) is right at this checkpoint, that is if "
        "`alphaPct` is above zero. The share's return is then above the benchmark's for a BUY, and "
        "below it for a SELL.",
        f"{DIRECTION_SIGN} * {METRICS}.vs_benchmark_pct > 0",
        invalid_if=is_not_a_number(f"{METRICS}.vs_benchmark_pct"),
    )
    return_from_open_pct: Decimal | None = column(
        "The return of the share since `Pick.entryOpen`, in percent, adjusted for splits. The "
        "action does not change its sign. Null until `Pick.entryOpen` is known."
    )
    unusual_move: bool = column(
        "True if the price moved by 10 % or more from one session to the next since the baseline, "
        "and no known split explains the move. It is also true if an operator recorded a new "
        "ticker without a comparison of closes. For figures that an older version computed, the "
        "threshold is 25 %."
    )
    ended: bool = column("True if the share had stopped trading before this checkpoint.")
    dividends: Decimal | None = column(
        "What a holder received in dividends between the baseline session and this result, in US "
        "dollars for each share of the baseline. Zero if there was none. Null until the dividends "
        f"are known, and {NOT_A_RESULT}.",
        allowed_if=HAS_TOTAL_RETURN,
        required_if=HAS_TOTAL_RETURN,
    )
    total_return_pct: Decimal | None = column(
        "The return of the share since the baseline with its dividends, in percent, adjusted for "
        "splits. Dividends are not reinvested, and no tax is deducted. The action does not change "
        f"its sign. Null until the dividends are known, and {NOT_A_RESULT}."
    )
    vs_benchmark_total_pct: Decimal | None = column(
        "`totalReturnPct` minus the benchmark's total return, in percentage points. The action "
        "does not change its sign. Null if `totalReturnPct` is null.",
        allowed_if=HAS_TOTAL_RETURN,
        required_if=HAS_TOTAL_RETURN,
    )
    total_alpha_pct: Decimal | None = column(
        "The excess over the benchmark with dividends, in the direction of the pick, in percentage "
        "points: `vsBenchmarkTotalPct` for a BUY, its negative for a SELL: who is short pays the "
        "dividend. Null if `totalReturnPct` is null.",
        f"{DIRECTION_SIGN} * {METRICS}.vs_benchmark_total_pct",
        invalid_if=is_not_a_number(f"{METRICS}.vs_benchmark_total_pct"),
    )
    spin_off_counted_once: bool | None = column(
        "True if the provider lists a spin-off of the share as a split and as a dividend. Then it "
        "counts as a split, and not as a dividend. Null if `totalReturnPct` is null.",
        allowed_if=HAS_TOTAL_RETURN,
        required_if=HAS_TOTAL_RETURN,
    )
    renamed: bool = column(
        "True if `currentPrice` was read under another ticker than `Pick.pickedAs`. If `close` is "
        "null, this is equal to `Pick.renamed`.",
        f"""
        CASE WHEN {METRICS}.close_id IS NULL
            THEN (SELECT {valid_ticker_sql("picks")} FROM picks WHERE picks.id = {METRICS}.pick_id)
            ELSE (
                SELECT {valid_ticker_sql("closes")} FROM closes
                WHERE closes.id = {METRICS}.close_id
            )
        END <> (
            SELECT {valid_ticker_sql("closes")}
            FROM picks JOIN closes ON closes.id = picks.initial_close_id
            WHERE picks.id = {METRICS}.pick_id
        )""",
    )
    vs_benchmarks: list[BenchmarkComparison] = related(
        "The comparison with each further benchmark of the batch, in the order of the setting. The "
        "list is empty at every checkpoint but the result, if the batch has none, and while their "
        "prices are not known.",
        IS_COMPARED_AT_RESULT,
        order="further_benchmarks.position",
        usual_length=2,
    )


@table("corrections")
class Correction:
    """
    The replacement of one stored figure, with the values before and after it, the reason and
    the time.
    """

    id: ID = column("The stable id of the correction, a UUID.")
    checkpoint: "Checkpoint" = related(
        "The checkpoint that the figure belongs to. Initial prices belong to day 0.",
        "checkpoints.id = corrections.checkpoint_id",
    )
    field: str = column(
        "The figure that was corrected, by the name of its database column, such as "
        "`vs_benchmark_pct` for `PickMetric.vsBenchmarkPct`. docs/journal.md lists all columns "
        "that can be corrected.",
        invalid_if="corrections.field = ''",
        max_bytes=lengths.WORD,
    )
    ticker: str | None = column(
        "The ticker of the pick whose figure was corrected, as it was at the time of the "
        "correction, such as `NVDA`. Null if the figure belongs to the batch or the checkpoint "
        "itself, such as `benchmark_price`.",
        invalid_if=is_not_a_ticker("corrections.ticker"),
        max_bytes=lengths.TICKER,
    )
    before: str | None = column(
        "The value before the correction, as the journal writes it: a decimal with all of its "
        "digits (`-0.0892990`), `true` or `false`, or the id of a reading. Null if the column had "
        "no value.",
        max_bytes=lengths.WORD,
    )
    after: str | None = column(
        "The value after the correction, written like `before`. A later correction of the same "
        "field may have changed it again. Null if the correction removed the value.",
        max_bytes=lengths.WORD,
    )
    reason: str = column(
        "The reason for the correction in a sentence: a split that arrived late, or a statement "
        "of the operator.",
        max_bytes=lengths.STATEMENT,
    )
    made_at: datetime = column(
        "The time of the correction. All corrections of one journal entry have the same time."
    )


@table("checkpoints")
class Checkpoint:
    """
    One morning's measurement of a batch, due at 09:00 in New York. Day 0 is the baseline; days
    1 to 14 follow.
    """

    id: ID = column("The stable id of the checkpoint, a UUID.")
    batch: "Batch" = related(
        "The batch that the checkpoint belongs to.", "batches.id = checkpoints.batch_id"
    )
    day: int = column(
        "The number of days since the run date: 0 for the baseline, then 1 to 14.",
        invalid_if=f"checkpoints.day NOT BETWEEN 0 AND {model.CHECKPOINT_DAYS}",
    )
    checkpoint_date: date = column(
        "The date on which the checkpoint is due at 09:00 in New York: the run date plus `day` "
        "days."
    )
    trading_day: date | None = column(
        "The session whose closing prices the checkpoint uses. Null if the status is `SKIPPED`.",
        required_if=IS_COMPUTED,
        allowed_if=IS_COMPUTED,
    )
    status: model.CheckpointStatus = column(
        "The status of the checkpoint: `COMPUTED` with prices, `SKIPPED` without."
    )
    skip_reason: model.SkipReason | None = column(
        "The reason why the checkpoint was skipped, as a code. It stays if the checkpoint was "
        "computed later. Null if it was never skipped.",
        required_if="checkpoints.status = 'skipped'",
    )
    was_session: bool = column(
        "True if the day before the checkpoint counts as a session of the exchange. False if the "
        "checkpoint was skipped because that day was closed. It is true in spite of such a skip if "
        "a price of the benchmark was read for that day: then a session was struck off by mistake, "
        "or afterwards, and no earlier day takes its place. The last checkpoint with `true` "
        "decides the result of the batch.",
        WAS_SESSION,
    )
    note: str | None = column(
        "The reason why the checkpoint was skipped, in a sentence for people. It stays if the "
        "checkpoint was computed later. Null if it was never skipped.",
        max_bytes=lengths.REASON,
    )
    taken_at: datetime = column(
        "The time at which the checkpoint was computed or skipped. If it was skipped first and "
        "computed later, this is the time at which it was computed."
    )
    skipped_at: datetime | None = column(
        "The time at which the checkpoint was skipped. It stays if the checkpoint was computed "
        "later. Null if it was never skipped.",
        required_if=WAS_SKIPPED,
        allowed_if=WAS_SKIPPED,
    )
    benchmark_price: Decimal | None = column(
        "The benchmark's closing price on the trading day, in US dollars. Null if the status is "
        "`SKIPPED`.",
        required_if=IS_COMPUTED,
        allowed_if=IS_COMPUTED,
        invalid_if=is_not_a_price("checkpoints.benchmark_price"),
    )
    benchmark_close: Close | None = related(
        "The reading that supplied `benchmarkPrice`. Null if the status is `SKIPPED`.",
        "closes.id = checkpoints.benchmark_close_id",
        foreign_key="checkpoints.benchmark_close_id",
        required_if=IS_COMPUTED,
    )
    benchmark_split_factor: Decimal | None = column(
        "The product of the benchmark's split factors since the baseline session; 1 without a "
        "split. Null if the status is `SKIPPED`.",
        required_if=IS_COMPUTED,
        allowed_if=IS_COMPUTED,
        invalid_if=is_not_a_price("checkpoints.benchmark_split_factor"),
    )
    benchmark_return_pct: Decimal | None = column(
        "The benchmark's return since the baseline, in percent, adjusted for splits. Null on day "
        "0, or if the status is `SKIPPED`.",
        required_if=HAS_FIGURES,
        allowed_if=HAS_FIGURES,
    )
    benchmark_unusual_move: bool | None = column(
        "True if the benchmark moved by 10 % or more from one session to the next since the "
        "baseline, and no known split explains the move. Null if this was not examined: on day "
        "0, on skipped checkpoints, and on checkpoints that an older version computed.",
        allowed_if=HAS_FIGURES,
    )
    benchmark_dividends: Decimal | None = column(
        "What a holder of the benchmark received in dividends since the baseline session, in US "
        "dollars for each share of the baseline. Null until the dividends are known, and "
        f"{NOT_A_RESULT}.",
        allowed_if=HAS_BENCHMARK_TOTAL,
        required_if=HAS_BENCHMARK_TOTAL,
    )
    benchmark_total_return_pct: Decimal | None = column(
        "The benchmark's return since the baseline with its dividends, in percent, adjusted for "
        f"splits. Null until the dividends are known, and {NOT_A_RESULT}.",
        allowed_if=HAS_FIGURES,
    )
    benchmark_spin_off_counted_once: bool | None = column(
        "True if the provider lists a spin-off of the benchmark as a split and as a dividend. Then "
        "it counts as a split, and not as a dividend. Null if `benchmarkTotalReturnPct` is null.",
        allowed_if=HAS_BENCHMARK_TOTAL,
        required_if=HAS_BENCHMARK_TOTAL,
    )
    metrics: list[PickMetric] = related(
        "The figures of each pick at this checkpoint, in the order of the model's answer. The "
        "list is empty on day 0, or if the status is `SKIPPED`.",
        f"{METRICS}.checkpoint_id = checkpoints.id",
        order="picks.position",
        join="pick",
        usual_length=model.PICKS_PER_BATCH,
        valid_if=f"""
            CASE WHEN {HAS_FIGURES}
                THEN {HAS_THREE_PICKS} AND bool_and(picks.batch_id = checkpoints.batch_id)
                ELSE count(*) = 0 END""",
        expected=f"""
            CASE WHEN {HAS_FIGURES}
                THEN '{model.PICKS_PER_BATCH}, one of each pick' ELSE 'none' END""",
    )
    corrections: list[Correction] = related(
        "The corrections of figures of this checkpoint, oldest first. Those of day 0 also cover "
        "the initial prices.",
        "corrections.checkpoint_id = checkpoints.id",
        order="corrections.made_at, corrections.id",
        usual_length=3,
    )


HAS_ENTRY_OPEN = "picks.entry_close_id IS NOT NULL"

# A pick has one metric at each computed checkpoint after day 0 of its batch. These conditions and
# expressions find the number of its metrics, and the checkpoints of its latest metric and of its
# result.
IS_MEASURED_DAY_OF_BATCH = f"checkpoints.batch_id = picks.batch_id AND {HAS_FIGURES}"
FIGURE_COUNT = f"(SELECT count(*) FROM checkpoints WHERE {IS_MEASURED_DAY_OF_BATCH})"
LATEST_CHECKPOINT_ID = f"""(
    SELECT checkpoints.id FROM checkpoints WHERE {IS_MEASURED_DAY_OF_BATCH}
    ORDER BY checkpoints.day DESC LIMIT 1)"""
IS_INCOMPLETE = f"batches.status = 'completed' AND NOT {IS_COMPLETE}"
RESULT_CHECKPOINT_ID = f"""(
    SELECT checkpoints.id FROM batches JOIN checkpoints ON {IS_RESULT}
    WHERE batches.id = picks.batch_id AND {IS_COMPLETE}
    LIMIT 1)"""


@table("picks")
class Pick:
    """One of the three shares that the model picked on a Monday, with its initial price."""

    id: ID = column("The stable id of the pick, a UUID. Pass it to `pick(id:)`.")
    batch: "Batch" = related("The batch that the pick belongs to.", "batches.id = picks.batch_id")
    position: int = column(
        "The place of the pick in the model's answer, from 1 to 3.",
        invalid_if=f"picks.position NOT BETWEEN 1 AND {model.PICKS_PER_BATCH}",
    )
    ticker: str = column(
        "The ticker that the share has now, such as `NVDA`. `pickedAs` is the ticker that the "
        "model chose.",
        invalid_if=is_not_a_ticker("picks.ticker"),
        max_bytes=lengths.TICKER,
    )
    action: model.Action = column("The action that the model recommends, BUY or SELL.")
    reasoning: str = column(
        "The model's reasoning for the pick, in its own words.", max_bytes=lengths.REASONING
    )
    probability: int | None = column(
        "The probability, in percent from 50 to 99, that the model gives its own pick: that "
        "`alphaPct` of the result is above zero. Null if the model was not asked for it.",
        invalid_if="picks.probability NOT BETWEEN 50 AND 99",
    )
    initial_price: Decimal = column(
        "The closing price of the share in the baseline session, in US dollars. Returns are "
        "computed from this price.",
        invalid_if=is_not_a_price("picks.initial_price"),
    )
    initial_close: Close = related(
        "The reading that supplied `initialPrice`.", "closes.id = picks.initial_close_id"
    )
    entry_open: Decimal | None = column(
        "The opening price, in US dollars, of the first session on or after the run date: the "
        "first price at which the pick could be traded. Null until it is known.",
        required_if=HAS_ENTRY_OPEN,
        allowed_if=HAS_ENTRY_OPEN,
        invalid_if=is_not_a_price("picks.entry_open"),
    )
    entry_close: Close | None = related(
        "The reading that supplied `entryOpen`. Null while `entryOpen` is null.",
        "closes.id = picks.entry_close_id",
        required_if=HAS_ENTRY_OPEN,
    )
    ended: bool = column(
        "True if the share has stopped trading and an operator has recorded its last value, with "
        "the source."
    )
    picked_as: str = column(
        "The ticker that the model chose. It differs from `ticker` if the share was renamed.",
        PICKED_TICKER,
        max_bytes=lengths.TICKER,
    )
    renamed: bool = column(
        "True if the share now has another ticker than `pickedAs`.",
        f"picks.ticker <> {PICKED_TICKER}",
        invalid_if=is_not_a_ticker("picks.ticker"),
    )
    metrics: list[PickMetric] = related(
        "The figures of the pick at each computed checkpoint after day 0, earliest day first.",
        f"{METRICS}.pick_id = picks.id",
        order="checkpoints.day",
        join="checkpoint",
        usual_length=10,
        # A metric of another batch, or of a day without figures, counts as 100, so that the sum is
        # larger than any number of days.
        valid_if=f"""
            coalesce(sum(CASE WHEN {IS_MEASURED_DAY_OF_BATCH} THEN 1 ELSE 100 END), 0)
            = {FIGURE_COUNT}""",
        expected=f"concat({FIGURE_COUNT}, ', one at each computed checkpoint of its batch')",
    )
    latest_metric: PickMetric | None = related(
        "The figures of the pick at the newest computed checkpoint after day 0. Null while there "
        "is no such checkpoint.",
        f"{METRICS}.pick_id = picks.id AND {METRICS}.checkpoint_id = {LATEST_CHECKPOINT_ID}",
        required_if=f"{LATEST_CHECKPOINT_ID} IS NOT NULL",
    )
    result: PickMetric | None = related(
        "The figures of the pick at its batch's result: the checkpoint of the last session before "
        "day 14. Null while the batch is active, or if that checkpoint was skipped.",
        f"{METRICS}.pick_id = picks.id AND {METRICS}.checkpoint_id = {RESULT_CHECKPOINT_ID}",
        required_if=f"""
            {RESULT_CHECKPOINT_ID} IS NOT NULL
            OR EXISTS (
                SELECT FROM batches WHERE batches.id = picks.batch_id AND {IS_INCOMPLETE})""",
    )


IS_CLOSED = "generations.accepted IS NOT NULL"

# The length of `answerBeginning`, in characters. An answer with three picks and the longest
# reasonings is shorter. A page shows no more of an answer than this.
BEGINNING_LENGTH = 16_384


@table("generations")
class Generation:
    """One question to the model, with its answer and whether the answer was accepted."""

    id: ID = column("The stable id of the question, a UUID.")
    attempt: int = column(
        "The number of the question among all questions of its Monday, from 1.",
        invalid_if="generations.attempt < 1",
    )
    accepted: bool | None = column(
        "True if the answer was accepted: the batch's picks come from it, unless the Monday "
        "failed. False if the answer was refused or did not arrive. Null while the question is "
        "open."
    )
    refusal: str | None = column(
        "The reason why the answer was refused or did not arrive, in a sentence. Null unless "
        "`accepted` is false.",
        required_if="generations.accepted IS FALSE",
        allowed_if="generations.accepted IS FALSE",
        max_bytes=lengths.REASON,
    )
    requested_model: str = column(
        "The name of the model that was requested.", max_bytes=lengths.PROVIDER_NAME
    )
    answered_model: str | None = column(
        "The name of the model that answered, as the provider reports it. Null if it was not "
        "reported.",
        max_bytes=lengths.PROVIDER_NAME,
    )
    prompt_version: str = column(
        "The version of the prompt that was sent, such as `1`.", max_bytes=lengths.WORD
    )
    profile_sha256: str | None = column(
        "The SHA-256 of the profile with which the question was asked, as 64 hexadecimal digits: "
        "of the model, its settings and the prompts, as the newest `SERIES` entry of the journal "
        "states them. Null if the record was not sealed yet when the question was asked.",
        max_bytes=lengths.HASH,
    )
    system_prompt: str = column(
        "The system prompt that was sent: the instructions that set the model's role and the form "
        "of its answer.",
        max_bytes=lengths.SYSTEM,
    )
    user_prompt: str = column(
        "The user prompt that was sent: the question of its Monday. If earlier answers of this "
        "Monday were refused, it also contains the reasons.",
        max_bytes=lengths.USER_PROMPT,
    )
    answer: str | None = column(
        "The model's answer, exactly as it was stored. Null while the question is open, or if no "
        f"answer arrived. An answer of more than {MAX_ANSWER_BYTES:,} bytes is refused; only its "
        "beginning is stored, with a sentence that gives its length and SHA-256. Earlier versions "
        "stored longer answers whole.",
        required_if="generations.accepted",
        allowed_if=IS_CLOSED,
        max_bytes=lengths.MODEL_ANSWER,
    )
    answer_beginning: str | None = column(
        f"The first {BEGINNING_LENGTH:,} characters of `answer`. Null if `answer` is null.",
        f"left(generations.answer, {BEGINNING_LENGTH})",
        max_bytes=4 * BEGINNING_LENGTH,
    )
    answer_bytes: int | None = column(
        "The length of `answer` in bytes of UTF-8. Null if `answer` is null.",
        "octet_length(generations.answer)",
    )
    request_id: str | None = column(
        "The id that the provider gave the request. Null if the provider gave none.",
        max_bytes=lengths.PROVIDER_NAME,
    )
    prompt_tokens: int | None = column(
        "The number of tokens in both prompts, as the provider counted them. Null if the provider "
        "did not report it."
    )
    completion_tokens: int | None = column(
        "The number of tokens in the model's answer, as the provider counted them. Null if the "
        "provider did not report it."
    )
    reasoning_tokens: int | None = column(
        "The number of tokens with which the model reasoned before it answered, as the provider "
        "counted them. Most providers count them in `completionTokens`, too. Null if the provider "
        "did not report it."
    )
    reasoning_effort: str | None = column(
        "The reasoning effort that was requested, such as `low`. Null if none was requested.",
        max_bytes=lengths.WORD,
    )
    finish_reason: str | None = column(
        "The reason why the model stopped, in the provider's words, such as `stop` or `length`. "
        "Null if the provider did not report it.",
        max_bytes=lengths.PROVIDER_NAME,
    )
    system_fingerprint: str | None = column(
        "The provider's name for the configuration that answered. Null if it was not reported.",
        max_bytes=lengths.PROVIDER_NAME,
    )
    asked_at: datetime = column("The time at which the question was sent.")
    answered_at: datetime | None = column(
        "The time at which the answer arrived. Null while the question is open, or if no answer "
        "arrived.",
        required_if="generations.accepted",
        allowed_if=IS_CLOSED,
    )


@table("journal", "journal.seq")
class JournalEntry:
    """
    One entry of the journal: the append-only, hash-chained log of everything that was recorded.
    """

    seq: str = column(
        "The number of the entry, as a string of digits. The first entry is 1, and no number is "
        "missing.",
        max_bytes=lengths.NUMBER,
    )
    kind: model.JournalKind = column("The kind of event that the entry records.")
    at: datetime = column(
        "The time of the recorded event, by the clock of the process that wrote the entry. "
        "Entries are numbered in the order in which they were stored, so `at` may be earlier than "
        "the `at` of the previous entry."
    )
    content: str = column(
        "The complete entry as JSON in canonical form (RFC 8785). docs/journal.md describes its "
        "members.",
        max_bytes=lengths.ENTRY,
    )
    previous: str = column(
        "The `hash` of the previous entry, as 64 hexadecimal digits. For the first entry it is 64 "
        "zeros.",
        max_bytes=lengths.HASH,
    )
    hash: str = column(
        "The SHA-256 of `previous`, a line feed and `content`, as 64 hexadecimal digits.",
        max_bytes=lengths.HASH,
    )


IS_RFC3161 = "timestamps.kind = 'RFC3161'"
IS_OPENTIMESTAMPS = "timestamps.kind = 'OPENTIMESTAMPS'"
IS_IN_BLOCK = f"{IS_OPENTIMESTAMPS} AND timestamps.status = 'CONFIRMED'"


@table("timestamps")
class Timestamp:
    """
    A proof that an entry of the journal existed at a time. It covers all entries before it, too,
    because each entry contains the hash of the previous one.
    """

    seq: str = column(
        "The number of the journal's entry, as a string of digits.", max_bytes=lengths.NUMBER
    )
    hash: str = column(
        "The `hash` of the journal's entry, as 64 hexadecimal digits: what the proof is about.",
        max_bytes=lengths.HASH,
    )
    kind: TimestampKind = column("The kind of the proof.")
    authority: str = column(
        "The address of the service that issued the proof.",
        invalid_if="timestamps.authority = ''",
        max_bytes=lengths.SENTENCE,
    )
    at: datetime = column(
        "If the kind is `RFC3161`, the time that the authority has signed. Otherwise the time at "
        "which the answer arrived, which proves nothing by itself."
    )
    accuracy_seconds: Decimal | None = column(
        "The authority's accuracy: the true time differs from `at` by at most this many seconds. "
        "Null unless the kind is `RFC3161`.",
        required_if=IS_RFC3161,
        allowed_if=IS_RFC3161,
    )
    received_at: datetime = column(
        "The time at which the proof was received, by the clock of this service."
    )
    status: TimestampStatus = column("Whether the proof is complete.")
    proof: str = column(
        "The proof in base64. If the kind is `RFC3161`, it is the authority's response (DER), as "
        "`/timestamps/SEQ.tsr` returns it. Otherwise it is the file `/timestamps/SEQ.ots`.",
        "translate(encode(timestamps.proof, 'base64'), chr(10), '')",
        max_bytes=lengths.PROOF,
    )
    chain: str | None = column(
        "The certificates that verify the proof, in PEM: the signer's first, the root last. Null "
        "unless the kind is `RFC3161`.",
        required_if=IS_RFC3161,
        allowed_if=IS_RFC3161,
        max_bytes=lengths.CHAIN,
    )
    block_height: int | None = column(
        "The height of the Bitcoin block into which the proof leads. Null unless the kind is "
        "`OPENTIMESTAMPS` and the status is `CONFIRMED`.",
        required_if=IS_IN_BLOCK,
        allowed_if=IS_IN_BLOCK,
    )


# The condition that a timestamp covers a batch: it is about this batch's entry or a later one, and
# about the hash that this entry has now. After a rewriting of the journal, an earlier timestamp
# says nothing about it. The bound on `at` lets Postgres begin at the right place of an index: no
# timestamp is stored that is more than five minutes off our clock.
COVERS_BATCH = """
    timestamps.at >= batches.created_at - interval '10 minutes'
    AND timestamps.seq >= (
        SELECT min(journal.seq) FROM journal
        WHERE journal.batch_id = batches.id AND journal.kind = 'BATCH')
    AND EXISTS (
        SELECT FROM journal stamped
        WHERE stamped.seq = timestamps.seq AND stamped.hash = timestamps.hash)"""
# A token is never pending. Only a changed row says so, and its time counts for nothing.
IS_TOKEN = f"{IS_RFC3161} AND timestamps.status = 'CONFIRMED'"
# The id of the first timestamp that covers a batch, of those with a condition.
FIRST_COVERING = f"""(
    SELECT timestamps.id FROM timestamps WHERE {{}} AND {COVERS_BATCH}
    ORDER BY timestamps.at, timestamps.id LIMIT 1)"""
# All days without a session that any settings of the journal list, as a text. The content is not
# parsed as JSON: Postgres raises an error for a damaged text. Nothing of this depends on a batch,
# so Postgres reads it once in a statement.
LISTED_DAYS = """(
    SELECT string_agg(substring(content FROM '"days_without_session":\\[([^]]*)\\]'), ',')
    FROM journal WHERE kind = 'GENESIS' OR kind = 'SETTINGS')"""
# Whether the exchange was closed on short notice on a day after the run date. In a sealed record,
# the journal decides, and a price of the benchmark contradicts it. In another record, the setting
# MARKET_CLOSED_DAYS of this process decides.
CLOSED_ON_SHORT_NOTICE = f"""
    CASE WHEN {HAS_GENESIS} THEN
        strpos({LISTED_DAYS}, '"' || to_char(batches.run_date + ahead, 'YYYY-MM-DD') || '"') > 0
        AND NOT EXISTS (
            SELECT FROM closes
            WHERE closes.ticker = batches.benchmark_symbol
                AND closes.trading_day = batches.run_date + ahead
            OFFSET 0)
    ELSE batches.run_date + ahead = ANY ($closed) END"""
# The open of the first session on or after the run date. A week has no more than five days in a
# row without a session.
FIRST_OPEN = f"""(
    SELECT (batches.run_date + min(ahead) + time '{calendar.OPEN_TIME}')
        AT TIME ZONE '{calendar.TIME_ZONE}'
    FROM generate_series(0, 10) AS ahead
    WHERE extract(isodow FROM batches.run_date + ahead) < 6
        AND batches.run_date + ahead <> ALL ($holidays)
        AND coalesce(NOT ({CLOSED_ON_SHORT_NOTICE}), true))"""
STAMPED_BEFORE_OPEN = f"""
    CASE WHEN batches.status = 'failed' THEN NULL
    WHEN EXISTS (
        SELECT FROM timestamps WHERE {IS_TOKEN} AND {COVERS_BATCH}
            AND timestamps.at + timestamps.accuracy_seconds * interval '1 second' < {FIRST_OPEN})
        THEN true
    WHEN NOT batches.late AND $now < {FIRST_OPEN} AND NOT EXISTS (
        SELECT FROM timestamps WHERE {IS_TOKEN} AND {COVERS_BATCH})
        THEN NULL
    ELSE false END"""


def list_closed_days(facts: Facts) -> str:
    """Return the days on which a week may begin without a session, as an array of Postgres."""
    return _closed_first_days_array(facts.sessions)


def list_holidays(_: Facts) -> str:
    """Return those of these days that are holidays, as an array of Postgres."""
    return _closed_first_days_array(calendar.ORDINARY_CALENDAR)


# There are more than 600 days, so the text is not made again for each query.
@cache
def _closed_first_days_array(sessions: calendar.Calendar) -> str:
    return f"{{{','.join(map(str, closed_first_days(sessions)))}}}"


# The profile that the accepted question of a batch names, or its last question.
ASKED_PROFILE = """(
    SELECT generations.profile_sha256 FROM generations
    WHERE generations.series = batches.series AND generations.run_date = batches.run_date
    ORDER BY generations.accepted IS TRUE DESC, generations.attempt DESC
    LIMIT 1)"""
# The entries that may state this profile. They are found by their text, because to parse all SERIES
# entries as JSON would take a hundred times as long for a page of batches.
ENTRIES_OF_ASKED_PROFILE = f"""ARRAY(
    SELECT journal.seq FROM journal
    WHERE journal.kind = 'SERIES' AND position({ASKED_PROFILE} IN journal.content) > 0)"""


def member_sql(name: str) -> str:
    """Return the SQL of a member of a profile, as a text; null if the profile does not have it."""
    return f"profiles.profile ->> '{name}'"


def number_sql(name: str, pattern: str, type_: str) -> str:
    """Return the SQL of a number of a profile; null if the text of the member is no such number."""
    member = member_sql(name)
    return f"CASE WHEN {member} ~ '^{pattern}$$' THEN ({member})::{type_} END"


# At most nine digits, so that every number fits into its type.
WHOLE_NUMBER = "[0-9]{1,9}"
DECIMAL_NUMBER = "-?[0-9]{1,9}([.][0-9]{1,9})?"
# A ticker has no space, so the text can be split at its spaces.
UNIVERSE = """
    CASE WHEN json_typeof(profiles.profile -> 'universe') = 'array' THEN (
        SELECT string_agg(drawn.ticker, ' ' ORDER BY drawn.position)
        FROM json_array_elements_text(profiles.profile -> 'universe')
            WITH ORDINALITY AS drawn (ticker, position))
    END"""
UNIVERSE_SIZE = """
    CASE WHEN json_typeof(profiles.profile -> 'universe') = 'array'
        THEN json_array_length(profiles.profile -> 'universe')
    END"""


@table("profiles", "profiles.seq")
class Profile:
    """
    What one `SERIES` entry of the journal states about a series: its label, its kind, and
    everything that decides what is asked or drawn. It never contains a key. An entry is written
    before the first question of a series, and before the next question after a change.
    """

    seq: str = column(
        "The number of the journal's entry, as a string of digits.", max_bytes=lengths.NUMBER
    )
    declared_at: datetime = column(
        "The time of the entry, by the clock of the process that wrote it."
    )
    series: str = column("The name of the series, such as `main`.", max_bytes=lengths.WORD)
    label: str = column(
        "The label of the series from this entry on: a name for people.", max_bytes=lengths.LABEL
    )
    kind: model.SeriesKind = column("The kind of the series.")
    holds_from: date = column(
        "The first Monday whose questions or draws this profile decides. If `retired` is true, the "
        "first Monday on which the series has no picks."
    )
    retired: bool = column("True if the entry states that the series is retired.")
    sha256: str = column(
        "The SHA-256 of `text`, as 64 hexadecimal digits. `Generation.profileSha256` names a "
        "profile by it.",
        "profiles.profile_sha256",
        max_bytes=lengths.HASH,
    )
    text: str = column(
        "The whole profile as JSON in canonical form (RFC 8785), as the entry contains it. "
        "docs/journal.md describes its members.",
        "profiles.profile",
        max_bytes=lengths.PROFILE,
    )
    model: str | None = column(
        "The name of the model that is requested. Null for a control.",
        member_sql("model"),
        max_bytes=lengths.PROVIDER_NAME,
    )
    base_url: str | None = column(
        "The address of the model's server. It is empty for the default address of the client "
        "library. Null for a control.",
        member_sql("base_url"),
        max_bytes=lengths.ADDRESS,
    )
    response_format: str | None = column(
        "The form of the answer that is requested, such as `json_schema`. Null for a control.",
        member_sql("response_format"),
        max_bytes=lengths.WORD,
    )
    temperature: Decimal | None = column(
        "The temperature that is requested, without a unit. Null if none is requested.",
        number_sql("temperature", DECIMAL_NUMBER, "numeric"),
    )
    reasoning_effort: str | None = column(
        "The reasoning effort that is requested, such as `low`. Null if none is requested.",
        member_sql("reasoning_effort"),
        max_bytes=lengths.WORD,
    )
    max_tokens: int | None = column(
        "The greatest number of tokens of an answer that is requested. Null if none is requested, "
        "and in entries of versions that did not state it.",
        number_sql("max_tokens", WHOLE_NUMBER, "integer"),
    )
    token_limit_as: str | None = column(
        "The name under which a request has `maxTokens`, such as `max_completion_tokens`. Null if "
        "the entry does not state it.",
        member_sql("token_limit_as"),
        max_bytes=lengths.WORD,
    )
    extra_body: str | None = column(
        "Further members of each request, as JSON. Null if there are none.",
        member_sql("extra_body"),
        max_bytes=lengths.EXTRA_BODY,
    )
    tools: bool = column(
        "True if the model has tools or a search. Such a series is shown and not tested, because "
        "it may know more than Friday's closing prices.",
        f"coalesce({member_sql('tools')}, 'false') = 'true'",
    )
    timeout_seconds: Decimal | None = column(
        "How long an answer may take, in seconds. Null for a control.",
        number_sql("timeout_seconds", DECIMAL_NUMBER, "numeric"),
    )
    prompt_version: str | None = column(
        "The version of the prompt, such as `2`. Null for a control.",
        member_sql("prompt_version"),
        max_bytes=lengths.WORD,
    )
    system_prompt_sha256: str | None = column(
        "The SHA-256 of the system prompt, as 64 hexadecimal digits. Null for a control.",
        member_sql("system_prompt_sha256"),
        max_bytes=lengths.HASH,
    )
    user_prompt_sha256: str | None = column(
        "The SHA-256 of the template of the user prompt, as 64 hexadecimal digits. Null for a "
        "control.",
        member_sql("user_prompt_sha256"),
        max_bytes=lengths.HASH,
    )
    answer_schema: str | None = column(
        "The JSON schema of an answer, as it is sent. Null for a control.",
        member_sql("schema"),
        max_bytes=lengths.ANSWER_SCHEMA,
    )
    draw_version: str | None = column(
        "The version of the draw's rules in docs/record.md, such as `1`. Null for a model.",
        member_sql("draw_version"),
        max_bytes=lengths.WORD,
    )
    universe: str | None = column(
        "The tickers from which the control draws, in order, with one space between them. Null for "
        "a model.",
        UNIVERSE,
        max_bytes=lengths.UNIVERSE,
    )
    universe_size: int | None = column(
        "The number of tickers from which the control draws. Null for a model.", UNIVERSE_SIZE
    )
    universe_source: str | None = column(
        "The source of the list of tickers. Null for a model.",
        member_sql("universe_source"),
        max_bytes=lengths.SENTENCE,
    )


@table("batches")
class Batch:
    """
    The picks of one Monday in one series, with the benchmark that they are measured against. A
    Monday without picks is a batch, too, with the status `FAILED`.
    """

    id: ID = column("The stable id of the batch, a UUID. Pass it to `batch(id:)`.")
    series: str = column(
        "The name of the series that the batch belongs to, such as `main`.", max_bytes=lengths.WORD
    )
    run_date: date = column("The Monday of the batch, a date in New York, such as `2026-11-23`.")
    created_at: datetime = column("The time at which the batch was stored.")
    status: model.BatchStatus = column(
        "The status of the batch: `ACTIVE` while its 14 days are running, `COMPLETED` after them, "
        "`FAILED` if no picks were made."
    )
    late: bool = column(
        "True if the batch was stored at or after the open (09:30 in New York) of the first "
        "session in which its picks could be traded. A late batch is never scored."
    )
    failure_reason: model.FailureReason | None = column(
        "The reason why no picks were made, as a code. Null unless the status is `FAILED`.",
        required_if=IS_FAILED,
        allowed_if=IS_FAILED,
    )
    failure: str | None = column(
        "The reason why no picks were made, in a sentence for people. Null unless the status is "
        "`FAILED`.",
        required_if=IS_FAILED,
        allowed_if=IS_FAILED,
        max_bytes=lengths.FAILURE,
    )
    benchmark_symbol: str = column(
        "The ticker of the benchmark that the picks are measured against, such as `SPY`.",
        invalid_if=is_not_a_ticker("batches.benchmark_symbol"),
        max_bytes=lengths.TICKER,
    )
    benchmark_initial_price: Decimal | None = column(
        "The benchmark's closing price in the baseline session, in US dollars. Null if the status "
        "is `FAILED`.",
        required_if=HAS_PICKS,
        allowed_if=HAS_PICKS,
        invalid_if=is_not_a_price("batches.benchmark_initial_price"),
    )
    benchmark_initial_close: Close | None = related(
        "The reading that supplied `benchmarkInitialPrice`. Null if the status is `FAILED`.",
        "closes.id = batches.benchmark_initial_close_id",
        foreign_key="batches.benchmark_initial_close_id",
        required_if=HAS_PICKS,
    )
    trading_day: date | None = column(
        "The baseline session: the last session before the run date. Null if the status is "
        "`FAILED`.",
        required_if=HAS_PICKS,
        allowed_if=HAS_PICKS,
    )
    picks: list[Pick] = related(
        "The three picks of the batch, in the order of the model's answer. The list is empty if "
        "the status is `FAILED`.",
        "picks.batch_id = batches.id",
        order="picks.position",
        usual_length=model.PICKS_PER_BATCH,
        valid_if=f"CASE WHEN {HAS_PICKS} THEN {HAS_THREE_PICKS} ELSE count(*) = 0 END",
        expected=f"""
            CASE WHEN {HAS_PICKS}
                THEN '{model.PICKS_PER_BATCH}, each at a place of its own' ELSE 'none' END""",
    )
    checkpoints: list[Checkpoint] = related(
        "The daily measurements of the batch that are stored so far, day 0 first. The list is "
        "empty if the status is `FAILED`.",
        # A day with an unknown status is never filtered out, so that it is reported as damaged.
        f"""
            checkpoints.batch_id = batches.id
            AND ($no_status OR checkpoints.status = $status OR {HAS_UNKNOWN_STATUS})""",
        order="checkpoints.day",
        usual_length=1 + model.CHECKPOINT_DAYS,
        valid_if=f"""
            CASE WHEN NOT {HAS_PICKS} THEN count(*) = 0
            WHEN $no_status AND batches.status = 'completed' THEN {HAS_EVERY_DAY}
            WHEN NOT $no_status AND batches.status = 'completed'
                THEN {HAS_NO_DAY_TWICE} AND {IS_COMPLETE}
            ELSE {HAS_NO_DAY_TWICE} AND (count(*) > 0 OR NOT $no_status) END""",
        expected=f"""
            CASE WHEN NOT {HAS_PICKS} THEN 'none'
            WHEN batches.status = 'completed' AND $no_status
                THEN '{_DAY_COUNT}, one of each day'
            ELSE 'no day twice, and no other days than 0 to {model.CHECKPOINT_DAYS}' END""",
        status=Argument(
            model.CheckpointStatus | None,
            "Return only checkpoints with this status. Null, the default, returns all of them.",
        ),
    )
    latest_checkpoint: Checkpoint | None = related(
        "The newest computed checkpoint after day 0, with the current figures. Null while there "
        "is none.",
        f"checkpoints.batch_id = batches.id AND {IS_COMPUTED} AND checkpoints.day > 0",
        order="checkpoints.day DESC",
    )
    result: Checkpoint | None = related(
        "The checkpoint of the last session before day 14, with the final figures. Null if the "
        "status is not `COMPLETED`, or if that checkpoint was skipped.",
        f"{IS_RESULT} AND {IS_COMPLETE}",
        required_if=IS_INCOMPLETE,
    )
    next_checkpoint_at: datetime | None = column(
        "The time at which the next checkpoint is due. Null unless the status is `ACTIVE`. That "
        "checkpoint may have no figures, because the day before it may not be a session.",
        NEXT_CHECKPOINT_AT,
    )
    further_benchmarks: list[FurtherBenchmark] = related(
        "The returns of the further benchmarks, in the order of the setting that was in force when "
        "the batch was stored. The list is empty until the batch is completed and their prices are "
        "known.",
        "further_benchmarks.batch_id = batches.id",
        order="further_benchmarks.position",
        usual_length=2,
    )
    generations: list[Generation] = related(
        "The questions that the model was asked for this batch, with its answers, in the order in "
        "which they were asked.",
        "generations.series = batches.series AND generations.run_date = batches.run_date",
        order="generations.attempt",
        usual_length=model.QUESTIONS_PER_MONDAY,
    )
    journal: list[JournalEntry] = related(
        "The journal entries about this batch, oldest first.",
        "journal.batch_id = batches.id",
        order="journal.seq",
        usual_length=20,
    )
    timestamp: Timestamp | None = related(
        "The first timestamp that covers the batch: it is about the journal's entry that stored "
        "the picks, or about a later one. It is the earliest of the kind `RFC3161`, or the "
        "earliest of another kind if there is none. Null while there is none.",
        f"timestamps.id = coalesce({FIRST_COVERING.format(IS_TOKEN)}, "
        f"{FIRST_COVERING.format(IS_OPENTIMESTAMPS)})",
    )
    profile: Profile | None = related(
        "The profile with which the model was asked for this batch: the one that its accepted "
        "question names, or its last question if none was accepted. Null if the question names no "
        "profile, because the record was not sealed yet or the batch has no question, and if the "
        "journal has no such profile of the series, because its entry is damaged.",
        f"""
            profiles.seq = ANY ({ENTRIES_OF_ASKED_PROFILE})
            AND profiles.series = batches.series AND NOT profiles.retired
            AND profiles.holds_from <= batches.run_date
            AND profiles.profile_sha256 = {ASKED_PROFILE}""",
        order="profiles.seq DESC",
    )
    stamped_before_open: bool | None = column(
        "True if a timestamp of the kind `RFC3161` proves that the picks were stored before the "
        "open (09:30 in New York) of the first session in which they could be traded: its `at` "
        "plus its accuracy is before that open. Null if the status is `FAILED`, and while the open "
        "has not come and there is no such timestamp yet.",
        STAMPED_BEFORE_OPEN,
        facts={
            "closed": Fact("date[]", list_closed_days, is_cacheable=True),
            "holidays": Fact("date[]", list_holidays, is_cacheable=True),
            # A job announces the open, so a cached response does not outlive it.
            "now": Fact("timestamptz", lambda facts: facts.now(), is_cacheable=True),
        },
    )


@table()
class JournalEdge(Edge[JournalEntry]):
    """One journal entry of a page, together with its cursor."""


@table()
class JournalConnection(CursorConnection[JournalEntry]):
    """One page of the journal's entries, oldest first."""

    # mypy forbids a narrower type than the parent's. It is safe here: no code assigns this field.
    edges: list[JournalEdge] = same(  # type: ignore[assignment]
        "The entries of the page, each together with its cursor."
    )


# Without a GENESIS entry, only the clock of a rehearsal shows where the record comes from.
ORIGIN = f"""
    CASE WHEN {HAS_GENESIS} THEN ({STATED_ORIGIN})
        WHEN {HAS_CLOCK} THEN '{declarations.Origin.REHEARSED}'
        ELSE '{declarations.Origin.UNKNOWN}' END"""
# A record that is sealed later is sealed from the SETTINGS entry on that has this member.
IS_SEALED = f"""
    {HAS_GENESIS} AND (
        ({IS_STATED_LATE}) = 'false'
        OR EXISTS (
            SELECT FROM journal
            WHERE journal.kind = 'SETTINGS'
                AND position('"sealed":"true"' IN journal.content) > 0))"""


LOST_ANSWERS = """(
    SELECT count(*) FROM generations
    WHERE generations.accepted IS FALSE AND generations.answered_at IS NULL AND EXISTS (
        SELECT FROM generations later
        WHERE later.series = generations.series AND later.run_date = generations.run_date
            AND later.attempt > generations.attempt))"""


@table()
class Service:
    """The process that answers this request."""

    version: str = column(
        "The version of the software, such as `1.4.0`.",
        "$version",
        max_bytes=lengths.WORD,
        facts={"version": Fact("text", lambda facts: facts.version)},
    )
    rehearsed: bool = column(
        "True if the record is a rehearsal: a simulated past that the real service shows. Its "
        "picks and prices are made up. A record that was rehearsed stays so: the journal's first "
        "entry says it.",
        f"$is_rehearsal OR {HAS_CLOCK} OR {SAYS_REHEARSED}",
        facts={"is_rehearsal": Fact("boolean", lambda facts: facts.rehearsed)},
    )
    origin: declarations.Origin = column(
        "Where the record comes from, as its journal states it.",
        ORIGIN,
    )
    record_id: str | None = column(
        "The id of the record: 32 hexadecimal digits, chosen at random when it was sealed. Null if "
        "the record has none, because its journal has no `GENESIS` entry.",
        f"({STATED_RECORD_ID})",
        invalid_if=f"{HAS_GENESIS} AND ({STATED_RECORD_ID}) IS NULL",
        max_bytes=lengths.HASH,
    )
    sealed: bool = column(
        "True if the record is sealed: each question is in the journal before it is sent, and each "
        "price when it is read. docs/trust.md explains what this shows, and what it does not.",
        IS_SEALED,
    )
    lost_answers: int = column(
        "The number of lost answers of the model: the question was closed without an answer, and "
        "the model was asked again for the same Monday.",
        LOST_ANSWERS,
    )
    next_run_at: datetime = column(
        "The time of the next weekly run: the next time that it is Monday, 09:00, in New York.",
        "$next_run_at",
        facts={"next_run_at": Fact("timestamptz", lambda facts: calendar.next_run_at(facts.now()))},
    )
    journal_head: JournalEntry | None = related(
        "The newest entry of the journal. Keep its `hash`: with it you can prove later whether "
        "this entry or an earlier one was changed. Null while the journal is empty.",
        order="journal.seq DESC",
    )


# The batches of the track record: one JSON text with all selected batches. It is `null` if more
# than MAX_BATCHES are selected, because their figures could not be computed in time.

# The middle of a batch is its checkpoint of the last session of its first week.
IS_MIDDLE = f"""
    middle.batch_id = batches.id AND middle.status = 'computed'
    AND middle.day = (
        SELECT max(open_day.day) FROM checkpoints open_day
        WHERE open_day.batch_id = batches.id AND open_day.day BETWEEN 1 AND 7
            AND {counts_as_session("open_day", "batches.benchmark_symbol")})"""
IS_SELECTED = f"""
    batches.series = $series
    AND ($no_from OR batches.run_date >= $from) AND ($no_to OR batches.run_date <= $to)
    AND ($no_profile OR {ASKED_PROFILE} = $profile)"""
# A missing checkpoint is null. A computed checkpoint without the benchmark's return is damaged. It
# must not look like a missing one, so its return becomes NaN, which the track record refuses.
MISSING_MIDDLE = """CASE WHEN middle.id IS NULL THEN 'null' ELSE '"NaN"' END"""
MISSING_RESULT = """CASE WHEN checkpoints.id IS NULL THEN 'null' ELSE '"NaN"' END"""
BATCH_ROWS = f"""
    SELECT CASE
    WHEN (
        SELECT count(*)
        FROM (SELECT FROM batches WHERE {IS_SELECTED} LIMIT {track.MAX_BATCHES + 1}) few
    ) <= {track.MAX_BATCHES}
    THEN (SELECT coalesce('[' || string_agg(concat(
            '[', coalesce(to_json(batches.run_date)::text, 'null'),
            ',', coalesce(to_json(batches.status)::text, 'null'),
            ',', coalesce(batches.late::text, 'null'),
            ',', coalesce('"' || middle.benchmark_return_pct || '"', {MISSING_MIDDLE}),
            ',', coalesce('"' || checkpoints.benchmark_return_pct || '"', {MISSING_RESULT}), ',[', (
                SELECT string_agg(concat(
                    '["', picks.id, '",', coalesce(to_json(picks.ticker)::text, 'null'),
                    ',', coalesce(to_json(picks.action)::text, 'null'),
                    ',', coalesce('"' || halfway.vs_benchmark_pct || '"', 'null'),
                    ',', coalesce('"' || final.vs_benchmark_pct || '"', 'null'),
                    ',', coalesce('"' || final.absolute_return_pct || '"', 'null'),
                    ',', coalesce(picks.probability::text, 'null'),
                    ',', coalesce('"' || final.total_return_pct || '"', 'null'),
                    ',', coalesce('"' || final.vs_benchmark_total_pct || '"', 'null'), ']'
                ), ',' ORDER BY picks.position)
                FROM picks
                LEFT JOIN {METRICS} halfway
                    ON halfway.checkpoint_id = middle.id AND halfway.pick_id = picks.id
                LEFT JOIN {METRICS} final
                    ON final.checkpoint_id = checkpoints.id AND final.pick_id = picks.id
                WHERE picks.batch_id = batches.id AND ($no_action OR picks.action = $action)
            ), '],',
            (CASE batches.status WHEN 'completed' THEN {IS_COMPLETE} ELSE true END)::text, ']'),
            ',' ORDER BY batches.run_date) || ']', '[]')
        FROM batches
        LEFT JOIN checkpoints ON {IS_RESULT}
        LEFT JOIN checkpoints middle ON {IS_MIDDLE}
        WHERE {IS_SELECTED})
    ELSE 'null' END"""


def items_of_series(items: str, name: str) -> str:
    """
    Return the SQL of the items about the series, in a list of a yearly check, as a JSON list.

    `items` is the name of the list, and `name` the member of an item that has the name of its
    series. If the check has no such list, the result is null.
    """
    return f"""(
        SELECT CASE json_typeof(held."{items}") WHEN 'array' THEN (
            SELECT coalesce(json_agg(item), '[]')
            FROM json_array_elements(held."{items}") AS item
            WHERE item ->> '{name}' = $series) END)"""


# Why no yearly check tests a series: its newest SERIES entry declares a control, or a model with
# tools. Null for other series, and without such an entry.
NEVER_TESTED = f"""
    SELECT CASE
        WHEN profiles.kind = '{model.SeriesKind.RANDOM}' THEN '{Untested.CONTROL}'
        WHEN {member_sql("tools")} = 'true' THEN '{Untested.TOOLS}'
    END
    FROM profiles WHERE profiles.series = $series ORDER BY profiles.seq DESC LIMIT 1"""
# The yearly checks of the record, as one JSON text: of every CHECK entry, what it has about one
# series. Only these entries are read, and each record has one a year. Each is parsed once, because
# of OFFSET 0 and `json_to_record`. In a damaged entry the check is null, or some of its members.
CHECK_ROWS = f"""
    SELECT json_build_array(
        (SELECT min(run_date) FROM batches),
        (SELECT max(run_date) FROM batches),
        coalesce((
            SELECT json_agg(
                json_build_array(journal.seq, journal.at, json_build_object(
                    'number', held.number,
                    'on', held."on",
                    'late', held.late,
                    'risk', held.risk,
                    'series', {items_of_series("series", "name")},
                    'order', {items_of_series("order", "series")},
                    'findings', {items_of_series("findings", "series")}))
                ORDER BY journal.seq)
            FROM journal
            CROSS JOIN LATERAL (
                SELECT json_object_or_null(journal.content) -> 'check' AS content OFFSET 0) AS read
            LEFT JOIN LATERAL json_to_record(
                CASE json_typeof(read.content) WHEN 'object' THEN read.content END
            ) AS held (
                number json, "on" json, late json, risk json, series json, "order" json,
                findings json) ON true
            WHERE journal.kind = '{model.JournalKind.CHECK}'), '[]'),
        ({NEVER_TESTED}))::text"""
# Each finished pick with each of its further benchmarks, as one JSON text.
FURTHER_ROWS = f"""
    SELECT coalesce('[' || string_agg(concat(
        '[', coalesce(to_json(further_benchmarks.symbol)::text, 'null'),
        ',', coalesce(to_json(picks.action)::text, 'null'),
        ',', coalesce('"' || {METRICS}.absolute_return_pct || '"', 'null'),
        ',', coalesce('"' || further_benchmarks.further_return_pct || '"', 'null'),
        ',', coalesce('"' || {METRICS}.vs_benchmark_pct || '"', 'null'), ']'), ',')
        || ']', '[]')
    FROM further_benchmarks
    JOIN batches ON batches.id = further_benchmarks.batch_id
    JOIN checkpoints ON {IS_RESULT}
        AND checkpoints.trading_day = further_benchmarks.trading_day
    JOIN picks ON picks.batch_id = batches.id
    JOIN {METRICS} ON {METRICS}.checkpoint_id = checkpoints.id AND {METRICS}.pick_id = picks.id
    WHERE {IS_SELECTED} AND NOT batches.late AND ($no_action OR picks.action = $action)"""
TRACK_RECORD_ROWS = f"""
    SELECT concat('[', ({BATCH_ROWS}), ',', ({CHECK_ROWS}), ',', ({FURTHER_ROWS}), ']')"""
# With one of these arguments the track record is about a part of the series.
PARTS = {
    "from": Argument(
        date | None,
        "Count only Mondays on or after this date. Null sets no lower limit. With this argument "
        "there is no verdict.",
    ),
    "to": Argument(
        date | None,
        "Count only Mondays on or before this date. Null sets no upper limit. With this argument "
        "there is no verdict.",
    ),
    "action": Argument(
        model.Action | None,
        "Count only picks with this action. Null counts both actions. With this argument there is "
        "no verdict.",
    ),
    "profile": Argument(
        str | None,
        "Count only batches that were asked with this profile: the SHA-256 that `Profile.sha256` "
        "and `Generation.profileSha256` return. Null counts all batches. With this argument there "
        "is no verdict.",
        convert=parse_sha256,
    ),
}
# What a whole series has in place of these arguments, in the SQL above.
WHOLE_SERIES = {f"no_{name}": "true" for name in PARTS} | dict.fromkeys(PARTS, "NULL")
# The work of a track record, as a number of values.
TRACK_RECORD_COST = 5_000

# The declarations of a page of batches.
HAS_STATUS = "($no_status OR batches.status = $status)"
STATUS = Argument(
    model.BatchStatus | None,
    "Return only batches with this status. Null, the default, returns all of them.",
)
NEWEST_BATCH_FIRST: dict[str, Any] = {
    "sort_keys": {"batches.run_date": DATE},
    "descending": True,
    "valid_if": "count(DISTINCT batches.run_date) = count(*)",
    "problem": """
        'has two batches of the Monday ', (
            SELECT twice FROM unnest(array_agg(batches.run_date)) AS twice
            GROUP BY twice HAVING count(*) > 1
            LIMIT 1)""",
}


def check_range(arguments: Mapping[str, Any]) -> None:
    """Raise BAD_RANGE for a range of Mondays that ends before it begins."""
    first, last = arguments["from"], arguments["to"]
    if first and last and last < first:
        raise bad_value("BAD_RANGE", f"`to` must not be before `from`: {last} is before {first}.")


def describe_unreadable(rows: bytes, error: ValueError) -> str:
    """Return a text that names the row that cannot be parsed: a Monday, or a pick of a Monday."""
    with suppress(ValueError):
        for monday in msgspec.json.decode(rows):
            for pick in monday[5]:
                if not _is_convertible(pick, track.TrackedPick):
                    return (
                        f"the row {pick[0]} of picks, of the Monday {monday[0]}, "
                        f"cannot be read: {error}"
                    )
            if not _is_convertible(monday, track.TrackedBatch):
                return f"the Monday {monday[0]} cannot be read: {error}"
    return f"the rows of the track record cannot be read: {error}"


def _is_convertible(value: object, type_: type[Struct]) -> bool:
    try:
        msgspec.convert(value, type_)
    except ValueError:
        return False
    return True


class TrackRecordRows(Struct, frozen=True, array_like=True):
    """The rows of a track record: the batches as JSON, the yearly checks, and compared picks."""

    batches: msgspec.Raw
    checks: verdict.RecordChecks
    further: msgspec.Raw


def compute_track_record(rows: bytes, arguments: Mapping[str, Any]) -> track.TrackRecord:
    """
    Return the track record of the rows in the text that TRACK_RECORD_ROWS returns.

    Raises ANSWER_TOO_LARGE for too many batches, and RecordDamaged for rows that break what the
    record promises.
    """
    read = msgspec.json.decode(rows, type=TrackRecordRows)
    batches = parse_batch_rows(bytes(read.batches), is_filtered=arguments["action"] is not None)
    checks = None
    if not any(arguments[name] for name in PARTS):
        checks = read.checks
    try:
        return track.compute_track_record(
            arguments["series"], batches, checks, further=parse_further_rows(bytes(read.further))
        )
    except (DecimalException, OverflowError):
        raise RecordDamaged(
            "the track record has a figure that is too large to be worked with"
        ) from None


def parse_further_rows(rows: bytes) -> list[ComparedPick]:
    """Return the picks in `rows`, the text that FURTHER_ROWS returns; raises RecordDamaged."""
    try:
        return msgspec.json.decode(rows, type=list[ComparedPick])
    except ValueError as error:
        raise RecordDamaged(f"the further benchmarks cannot be read: {error}") from None


def parse_batch_rows(rows: bytes, *, is_filtered: bool = False) -> list[track.TrackedBatch]:
    """
    Return the batches in `rows`, the text that BATCH_ROWS returns.

    `is_filtered` says that only picks with one action were selected. Raises the errors of
    `compute_track_record`.
    """
    try:
        batches = msgspec.json.decode(rows, type=list[track.TrackedBatch] | None)
    except ValueError as error:
        raise RecordDamaged(describe_unreadable(rows, error)) from None
    if batches is None:
        message = (
            f"The track record has over {track.MAX_BATCHES:,} Mondays. "
            "Ask for a part of them: `from` and `to`."
        )
        raise api_error("ANSWER_TOO_LARGE", message, limit=track.MAX_BATCHES)
    for one, following in pairwise(batches):
        if one.run_date == following.run_date:
            raise RecordDamaged(f"the Monday {one.run_date} has two batches")
    for one in batches:
        one.check(is_filtered=is_filtered)
    return batches


# The weeks of both series, and the number of series, as one JSON text.
COMPARISON_ROWS = f"""
    SELECT concat(
        '[', (SELECT count(*) FROM series),
        ',', ({Template(BATCH_ROWS).safe_substitute(WHOLE_SERIES, series="$a")}),
        ',', ({Template(BATCH_ROWS).safe_substitute(WHOLE_SERIES, series="$b")}),
        ']')"""


def check_pair(arguments: Mapping[str, Any]) -> None:
    """Raise BAD_SERIES for a comparison of a series with itself."""
    if arguments["a"] == arguments["b"]:
        raise bad_value("BAD_SERIES", "`a` and `b` must be the names of two different series.")


class ComparedRows(Struct, frozen=True, array_like=True):
    """The rows of a comparison: the number of series, and the rows of both as JSON."""

    series_count: int
    a: msgspec.Raw
    b: msgspec.Raw


def compute_comparison(rows: bytes, arguments: Mapping[str, Any]) -> track.Comparison | None:
    """
    Return the comparison of two series from `rows`, the text that COMPARISON_ROWS returns.

    Raises the same errors as `compute_track_record`.
    """
    compared = msgspec.json.decode(rows, type=ComparedRows)
    a, b = parse_batch_rows(bytes(compared.a)), parse_batch_rows(bytes(compared.b))
    try:
        return track.compare_series(
            a, b, names=(arguments["a"], arguments["b"]), series_count=compared.series_count
        )
    except (DecimalException, OverflowError):
        raise RecordDamaged("a series has a figure that is too large to be worked with") from None


@table("series", "series.name")
class Series:
    """
    A series of the record: the Mondays of one chooser under one name. It is a model with its
    settings and its prompt, or a control. A series never leaves the record.
    """

    name: str = column(
        "The name of the series, such as `main`. It never changes.", max_bytes=lengths.WORD
    )
    label: str = column(
        "The label of the series: a name for people, as its newest `SERIES` entry states it. If "
        "there is no such entry, it is the name.",
        max_bytes=lengths.LABEL,
    )
    kind: model.SeriesKind = column(
        "The kind of the series: `MODEL` or `RANDOM`. It is `MODEL` if the journal has no `SERIES` "
        "entry of the series."
    )
    model: str | None = column(
        "The name of the model that is requested now, or was requested last if the series is "
        "retired. Null for a control, and if the journal has no `SERIES` entry of the series.",
        max_bytes=lengths.PROVIDER_NAME,
    )
    first_run_date: date | None = column(
        "The Monday of the first batch of the series. Null while it has no batch.",
        "(SELECT min(batches.run_date) FROM batches WHERE batches.series = series.name)",
    )
    retired_at: datetime | None = column(
        "The time of the `SERIES` entry that states that the series is retired: it is asked no "
        "more, its active batches are measured to their end, and its record stays. Null while it "
        "is not retired."
    )
    profiles: list[Profile] = related(
        "What the `SERIES` entries of the journal state about the series, oldest first: one for "
        "the first registration and one for each change. The list is empty if the record was not "
        "sealed. A damaged entry is left out.",
        "profiles.series = series.name",
        order="profiles.seq",
        usual_length=4,
    )
    latest_batch: Batch | None = related(
        "The newest batch of the series, whatever its status is. Null while the series has no "
        "batch.",
        "batches.series = series.name",
        order="batches.run_date DESC",
    )
    batches: CursorConnection[Batch] = page(
        "A page of the batches of the series, newest Monday first.",
        f"batches.series = series.name AND {HAS_STATUS}",
        **NEWEST_BATCH_FIRST,
        status=STATUS,
    )
    track_record: track.TrackRecord = computed(
        "The track record of the series, or of a part of it, as `Query.trackRecord` returns it.",
        TRACK_RECORD_ROWS,
        compute_track_record,
        check=check_range,
        cost=TRACK_RECORD_COST,
        arguments=PARTS,
        row_arguments={"series": "series.name"},
    )


@table()
class Query:
    """The read-only entry points of the API. Start with `latestBatch`."""

    latest_batch: Batch | None = related(
        "The newest batch of a series, whatever its status is. Null while the series has no batch.",
        "batches.series = $series",
        order="batches.run_date DESC",
        series=SERIES,
    )
    batch: Batch | None = related(
        "The batch with an id. Null if no batch has this id.",
        "batches.id = $id",
        id=Argument(ID, "The id of the batch, a UUID as `Batch.id` returns it.", convert=parse_id),
    )
    batch_on: Batch | None = related(
        "The batch of one Monday. Null if the series has no batch for that Monday.",
        "batches.run_date = $run_date AND batches.series = $series",
        run_date=Argument(
            date,
            "The Monday of the batch, such as `2026-11-23`. A day that is not a Monday is refused.",
            convert=require_monday,
        ),
        series=SERIES,
    )
    batches: CursorConnection[Batch] = page(
        "A page of the batches of a series, newest Monday first.",
        f"batches.series = $series AND {HAS_STATUS}",
        **NEWEST_BATCH_FIRST,
        status=STATUS,
        series=SERIES,
    )
    pick: Pick | None = related(
        "The pick with an id. Null if no pick has this id.",
        "picks.id = $id",
        row_valid_if=HAS_BATCH,
        id=Argument(ID, "The id of the pick, a UUID as `Pick.id` returns it.", convert=parse_id),
    )
    picks: CursorConnection[Pick] = page(
        "A page of the picks of one share in every series, newest first. After a rename, a pick is "
        "found by its new ticker only. The page is empty if the share was never picked.",
        "picks.ticker = $ticker",
        sort_keys={PICK_RUN_DATE: DATE, "picks.id": ROW_ID},
        descending=True,
        row_valid_if=HAS_BATCH,
        ticker=TICKER,
    )
    closes: CursorConnection[Close] = page(
        "A page of all readings of the prices under one ticker, newest session first. A session "
        "has several readings if the provider later returned other prices for it.",
        "closes.ticker = $ticker",
        sort_keys={"closes.trading_day": DATE, "closes.read_at": TIME},
        descending=True,
        ticker=TICKER,
    )
    splits: CursorConnection[Split] = page(
        "A page of all readings of the splits under one ticker, newest effective date first.",
        "splits.ticker = $ticker",
        sort_keys={"splits.effective_date": DATE, "splits.read_at": TIME},
        descending=True,
        ticker=TICKER,
    )
    dividends: CursorConnection[Dividend] = page(
        "A page of all readings of the dividends under one ticker, newest ex-date first.",
        "dividends.ticker = $ticker",
        sort_keys={"dividends.ex_date": DATE, "dividends.read_at": TIME},
        descending=True,
        ticker=TICKER,
    )
    rates: CursorConnection[Rate] = page(
        "A page of all readings of the rate of a loan without risk, newest observation first.",
        sort_keys={"rates.observed_on": DATE, "rates.read_at": TIME},
        descending=True,
    )
    journal: JournalConnection = page(
        "A page of the journal, oldest entry first.",
        "$no_kind OR journal.kind = $kind",
        sort_keys={"journal.seq": NUMBER},
        descending=False,
        kind=Argument(
            model.JournalKind | None,
            "Return only entries of this kind. Null, the default, returns all of them.",
        ),
    )
    timestamps: CursorConnection[Timestamp] = page(
        "A page of the timestamps of the journal, oldest entry first.",
        sort_keys={"timestamps.seq": NUMBER, "timestamps.id": ROW_ID},
        descending=False,
    )
    track_record: track.TrackRecord = computed(
        "The track record of a series, or of a part of it: hit rate, returns, intervals, and the "
        "verdict on skill or luck.",
        TRACK_RECORD_ROWS,
        compute_track_record,
        check=check_range,
        cost=TRACK_RECORD_COST,
        arguments={"series": SERIES, **PARTS},
    )
    series: list[Series] = related(
        "All series of the record, sorted by name, with the retired ones and the controls. The "
        "list is empty while the record has neither a batch nor a `SERIES` entry.",
        order="series.name",
        # A record has more series than this only if some of them are retired.
        usual_length=model.MAX_SERIES,
    )
    series_named: Series | None = related(
        "The series with a name. Null if the record has no series of this name.",
        "series.name = $name",
        name=Argument(str, "The name of the series, such as `main`."),
    )
    comparison: track.Comparison | None = computed(
        "A comparison of two series on the weeks that both have. Null if these are fewer than two "
        "weeks.",
        COMPARISON_ROWS,
        compute_comparison,
        check=check_pair,
        cost=2 * TRACK_RECORD_COST,
        arguments={
            "a": Argument(
                str,
                "The name of the first series. A name that the record does not have is refused.",
                check=check_series,
            ),
            "b": Argument(
                str,
                "The name of the second series: the difference is `a` minus `b`. A name that the "
                "record does not have is refused.",
                check=check_series,
            ),
        },
    )
    service: Service = same(
        "The process that answers this request: its version, its next run and the head of the "
        "journal."
    )


class NotADateError(ValueError):
    """
    A value of the scalar `Date` is not a date.

    graphql-core raises an error of its own from this one: it adds the location and the value to the
    message, and copies the code.
    """

    extensions: ClassVar = {"code": "BAD_DATE"}


def parse_date(text: object) -> date:
    """
    Return the date that a text in the form `YYYY-MM-DD` contains.

    Raises NotADateError for any other text, also for other forms that `fromisoformat` accepts.
    """
    if isinstance(text, str) and re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
        with suppress(ValueError):
            return date.fromisoformat(text)
    raise NotADateError("A date is written as YYYY-MM-DD.")


SCALARS: dict[object, ScalarDefinition] = {
    Decimal: strawberry.scalar(
        name="Decimal",
        description=(
            "A decimal number as a string, in plain notation and at full precision, such as "
            '`"-0.0892990"`. It is never a float.'
        ),
        serialize=format_decimal,
    ),
    date: strawberry.scalar(
        name="Date",
        description="A date as a string in the form `YYYY-MM-DD`, such as `2026-11-23`.",
        serialize=date.isoformat,
        parse_value=parse_date,
    ),
    datetime: strawberry.scalar(
        name="DateTime",
        description="A time in UTC as a string in the form `YYYY-MM-DDTHH:MM:SS.ffffffZ`, such as "
        "`2026-11-23T14:00:00.008207Z`.",
        serialize=format_timestamp,
    ),
}
schema: GraphQLSchema = strawberry.Schema(
    Query, config=StrawberryConfig(scalar_map=SCALARS)
)._schema
# Strawberry has no parameter for the description of a schema.
schema.description = DESCRIPTION


def print_sdl() -> str:
    """Return the schema in GraphQL's schema definition language."""
    return f"{print_schema(schema)}\n"


if __name__ == "__main__":
    sys.stdout.write(print_sdl())
