"""
What the world can read: each type is a table, each field says what it is and where it stands.

The track record's types are not declared here: they are the structs of `app.domain.track_record`,
and `Query` names the outermost one. Enums are the domain's, too.

Printed by `make schema` to `graphql/schema.graphql`, the contract.
"""
# ruff: noqa: S608 - declarations are SQL, put together from nothing but each other.

import re
import sys
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from datetime import date, datetime, timedelta
from decimal import Decimal, DecimalException
from itertools import pairwise
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
    Connection,
    Edge,
    bad_value,
    column,
    computed,
    describe,
    given,
    page,
    parameter,
    refusal,
    related,
    same,
    table,
)
from app.domain import calendar, model, prompt
from app.domain import track_record as track
from app.domain.journal import timestamp
from app.domain.prompt import LONGEST_ANSWER
from app.domain.returns import plain
from app.errors import RecordDamaged


class Facts(Struct, frozen=True):
    """
    What the process that answers knows and the database does not.

    `series` are the names of all series that the record may have. A query about another one is
    refused without a look into the database.
    """

    version: str
    rehearsed: bool
    now: Callable[[], datetime]
    series: Collection[str] = (model.SERIES,)


describe(
    model.BatchStatus,
    model.FailureReason,
    model.CheckpointStatus,
    model.SkipReason,
    model.Action,
    model.JournalKind,
    track.Finding,
)


# How much of a value that is refused its error quotes.
_QUOTED = 40
_AN_ID = "f1e5a5c6-3a5f-5f0b-9c3c-0a51e9a3a0d4"


def quoted(text: str) -> str:
    """Return a refused value as its error quotes it."""
    return f'"{text[:_QUOTED]}{"..." if len(text) > _QUOTED else ""}"'


def read_id(text: str) -> UUID:
    """Return the id that a text is, or refuse what cannot be one."""
    with suppress(ValueError):
        found = UUID(text)
        # UUID() also reads other forms, which the API never writes.
        if str(found) == text.lower():
            return found
    message = "An id is a UUID with hyphens, as the fields `id` have it, such as"
    raise bad_value("BAD_ID", f"{message} {_AN_ID}, not {quoted(text)}.")


def read_ticker(text: str) -> str:
    """Return a ticker in the record's one form, or refuse every other text, naming what would fit."""
    parameter(text)
    if re.fullmatch(model.TICKER_PATTERN, text):
        return text
    form = "A ticker is written in capitals, a class of shares after a dot, such as NVDA or BRK.B"
    meant = prompt.as_ticker(text)
    hint = f" Ask for {meant}." if meant else ""
    raise bad_value("BAD_TICKER", f"{form}, not {quoted(text)}.{hint}")


def read_monday(day: date) -> date:
    """Return a Monday, or refuse another day, naming the Monday of its week."""
    if day.weekday() == 0:
        return day
    monday = day - timedelta(days=day.weekday())
    raise bad_value(
        "BAD_DATE",
        f"`runDate` must be a Monday; {day} is a {day:%A}. Its week began on {monday}.",
    )


def check_series(name: str, facts: Facts) -> None:
    """Refuse a series that the record cannot have, naming those that it may have."""
    if name not in facts.series:
        known = ", ".join(facts.series)
        raise bad_value("BAD_SERIES", f"There is no series {quoted(name)}. The series: {known}.")


# A batch's checkpoint of the last session before day 14. If that one was skipped, no earlier day stands in for it.
RESULT = """
    checkpoints.batch_id = batches.id AND checkpoints.status = 'computed' AND batches.status = 'completed'
    AND checkpoints.day = (
        SELECT max(open_day.day) FROM checkpoints open_day
        WHERE open_day.batch_id = batches.id AND open_day.day > 0
            AND open_day.skip_reason IS DISTINCT FROM 'MARKET_CLOSED')"""
NEXT_CHECKPOINT_AT = f"""
    SELECT (batches.run_date + awaited.day + time '{calendar.DUE}') AT TIME ZONE '{calendar.TIME_ZONE}'
    FROM generate_series({calendar.FORTNIGHT[0]}, {calendar.FORTNIGHT[-1]}) AS awaited (day)
    WHERE batches.status = 'active' AND NOT EXISTS (
        SELECT FROM checkpoints WHERE checkpoints.batch_id = batches.id AND checkpoints.day = awaited.day)
    ORDER BY awaited.day LIMIT 1"""
METRIC = "pick_checkpoint_metrics"
SIGN = (
    f"(SELECT CASE picks.action WHEN 'SELL' THEN -1 WHEN 'BUY' THEN 1 END FROM picks WHERE picks.id = {METRIC}.pick_id)"
)


def ticker_of(table: str) -> str:
    """
    Return the expression, in which a dollar is written twice, of a row's ticker; null for one that is none.

    (As a condition on the row it would have Postgres look for the row in another way, which takes five times as long.)
    """
    return f"substring({table}.ticker, '^{model.TICKER_PATTERN.replace('(', '(?:')}$$')"


PICKED_AS = f"(SELECT {ticker_of('closes')} FROM closes WHERE closes.id = picks.initial_close_id)"
# A pick whose batch is gone comes first, so that no page leaves it out.
RUN_DATE = "coalesce((SELECT batches.run_date FROM batches WHERE batches.id = picks.batch_id), 'infinity')"
OF_A_BATCH = "EXISTS (SELECT FROM batches WHERE batches.id = picks.batch_id AND batches.status <> 'failed')"


_DAYS = 1 + model.CHECKPOINT_DAYS
_BITS_OF_DAYS = 2 ** model.CHECKPOINT_DAYS.bit_length() - 1
_ALL_PLACES = sum(1 << place for place in range(1, 1 + model.PICKS_PER_BATCH))

# What the record promises of rows, as conditions on them: the API answers a row that breaks one as damaged.
MADE = "batches.status <> 'failed'"
WITHOUT_PICKS = "batches.status = 'failed'"
COMPUTED = "checkpoints.status = 'computed'"
MEASURED = f"({COMPUTED} AND checkpoints.day > 0)"
OF_NO_STATUS = "checkpoints.status NOT IN ('computed', 'skipped')"
WAS_SKIPPED = "checkpoints.skip_reason IS NOT NULL"
# As many rows as there are numbers, with every number among them, have each of them once. (Postgres takes the place of
# a bit modulo 32, so the numbers' own bits are looked at, too.)
THREE_PICKS = f"""
    count(*) = {model.PICKS_PER_BATCH}
    AND bit_or((picks.position << 8) | (1 << picks.position)) = {model.PICKS_PER_BATCH << 8 | _ALL_PLACES}"""
EVERY_DAY = f"""
    count(*) = {_DAYS}
    AND bit_or((checkpoints.day << 16) | (1 << checkpoints.day)) = {_BITS_OF_DAYS << 16 | 2**_DAYS - 1}"""
# A day of another status, or skipped for another reason, would be taken for one without figures.
EACH_SETTLED = """
    bool_and(coalesce(
        CASE checkpoints.status WHEN 'computed' THEN checkpoints.skip_reason IS DISTINCT FROM 'MARKET_CLOSED'
        WHEN 'skipped' THEN checkpoints.skip_reason IN ('MARKET_CLOSED', 'MISSING_CLOSE', 'PROVIDER_ERROR') END,
    false))"""
NO_DAY_TWICE = f"""
    coalesce(sum(1 << checkpoints.day) = bit_or(1 << checkpoints.day)
        AND bit_or(checkpoints.day) BETWEEN 0 AND {_BITS_OF_DAYS} AND max(checkpoints.day) < {_DAYS}, true)"""


def no_ticker(column: str) -> str:
    """Return the condition under which a column has no ticker in the record's one form."""
    return f"{column} !~ '^{model.TICKER_PATTERN}$'"


def no_price(column: str) -> str:
    """Return the condition under which a column has a number that no price, or factor of splits, can be."""
    return f"{column} <= 0"


def no_number(column: str) -> str:
    """Return the condition under which a column has NaN, which Postgres sorts above all, or is infinite."""
    return f"{column} >= 'Infinity' OR {column} <= '-Infinity'"


SERIES = Argument(str, "Whose Mondays: `main`. Another name is refused.", model.SERIES, check=check_series)
TICKER = Argument(str, "The share, in capitals, as in `NVDA` or `BRK.B`.", convert=read_ticker)


@table("closes")
class Close:
    """A reading of one share's session: its raw, as-traded prices, with where and when they were read."""

    id: ID = column("Never changes.")
    ticker: str = column("The share.", wrong=no_ticker("closes.ticker"), longest=lengths.TICKER)
    trading_day: date = column("The session.")
    open: Decimal | None = column("The session's first price, if the source gave it.", wrong=no_price("closes.open"))
    close: Decimal = column("The session's last price.", wrong=no_price("closes.close"))
    source: str = column(
        "Where it was read. It ends in `, restated as of` and a day where the price is one of that day's shares.",
        longest=lengths.SENTENCE,
    )
    read_at: datetime = column("When it was read.")


@table("splits", "concat_ws(' ', splits.ticker, splits.effective_date, splits.read_at)")
class Split:
    """A reading of one share's split, with where and when it was read; spin-offs are listed among them."""

    ticker: str = column("The share.", wrong=no_ticker("splits.ticker"), longest=lengths.TICKER)
    effective_date: date = column("The first session whose prices are of the new shares.")
    factor: Decimal = column(
        "How many shares one became; 1 takes back what was read before.", wrong=no_price("splits.factor")
    )
    source: str = column("Where it was read.", longest=lengths.SENTENCE)
    read_at: datetime = column("When it was read.")


@table("pick_checkpoint_metrics")
class PickMetric:
    """One pick at one computed checkpoint after day 0; returns are in percent, without dividends and costs."""

    id: ID = column("Never changes.")
    pick: "Pick" = related("The pick.", f"picks.id = {METRIC}.pick_id")
    checkpoint: "Checkpoint" = related("The checkpoint.", f"checkpoints.id = {METRIC}.checkpoint_id")
    current_price: Decimal = column(
        "The close of the checkpoint's trading day, or the last value of an ended pick.",
        wrong=no_price(f"{METRIC}.current_price"),
    )
    close: Close | None = related(
        "The reading that the price came from; null once the pick has ended.",
        f"closes.id = {METRIC}.close_id",
        link=f"{METRIC}.close_id",
        needed=f"{METRIC}.ended IS NOT TRUE",
    )
    split_factor: Decimal = column(
        "The product of the split factors since the baseline session; 1 without a split.",
        wrong=no_price(f"{METRIC}.split_factor"),
    )
    absolute_return_pct: Decimal = column("The share's change since the baseline, whatever the action.")
    vs_benchmark_pct: Decimal = column("`absoluteReturnPct` less the benchmark's change, whatever the action.")
    directional_return_pct: Decimal = column(
        "`absoluteReturnPct` in the pick's direction: its negative for a SELL.",
        f"{SIGN} * {METRIC}.absolute_return_pct",
        wrong=no_number(f"{METRIC}.absolute_return_pct"),
    )
    alpha_pct: Decimal = column(
        "`vsBenchmarkPct` in the pick's direction: its negative for a SELL. Points in the call's favour.",
        f"{SIGN} * {METRIC}.vs_benchmark_pct",
        wrong=no_number(f"{METRIC}.vs_benchmark_pct"),
    )
    hit: bool = column(
        "Whether the call is right: `alphaPct` is above zero.",
        f"{SIGN} * {METRIC}.vs_benchmark_pct > 0",
        wrong=no_number(f"{METRIC}.vs_benchmark_pct"),
    )
    return_from_open_pct: Decimal | None = column(
        "The share's change since `Pick.entryOpen`, whatever the action; null until that is known."
    )
    unusual_move: bool = column(
        "Whether a move of a tenth or more from one session to the next, since the baseline, remains unexplained by "
        "splits; a quarter or more on figures that an older version computed."
    )
    ended: bool = column("Whether the pick had stopped trading by then.")
    renamed: bool = column(
        "Whether its price was read under another ticker than `Pick.pickedAs`; without a reading, `Pick.renamed`.",
        f"""
        CASE WHEN {METRIC}.close_id IS NULL
            THEN (SELECT {ticker_of("picks")} FROM picks WHERE picks.id = {METRIC}.pick_id)
            ELSE (SELECT {ticker_of("closes")} FROM closes WHERE closes.id = {METRIC}.close_id)
        END <> (
            SELECT {ticker_of("closes")} FROM picks JOIN closes ON closes.id = picks.initial_close_id
            WHERE picks.id = {METRIC}.pick_id
        )""",
    )


@table("corrections")
class Correction:
    """A stored figure that was put right, with what it said before."""

    id: ID = column("Never changes.")
    checkpoint: "Checkpoint" = related("Where the figure stands.", "checkpoints.id = corrections.checkpoint_id")
    field: str = column(
        "Which figure: its column, such as `vs_benchmark_pct`; docs/journal.md lists all that can be corrected.",
        wrong="corrections.field = ''",
        longest=lengths.WORD,
    )
    ticker: str | None = column(
        "The ticker of the pick whose figure it is, as it was when the correction was made: a rename since does not "
        "change it. Null if the figure is the batch's or the checkpoint's own, such as `benchmark_price`.",
        wrong=no_ticker("corrections.ticker"),
        longest=lengths.TICKER,
    )
    before: str | None = column(
        "The value before, as the journal writes it: a decimal with all its digits (`-0.0892990`), `true` or `false`, "
        "or the id of a reading. Null where the column had no value.",
        longest=lengths.WORD,
    )
    after: str | None = column(
        "The value that the correction gave it, written as `before`. A later correction of the same field may have "
        "changed it again. Null where the column has no value since.",
        longest=lengths.WORD,
    )
    reason: str = column(
        "Why it was corrected: a split that was learnt, or the operator's words.", longest=lengths.STATEMENT
    )
    made_at: datetime = column("When it was made; the same for all corrections of one journal entry.")


@table("checkpoints")
class Checkpoint:
    """One morning's look at a batch."""

    id: ID = column("Never changes.")
    batch: "Batch" = related("Its batch.", "batches.id = checkpoints.batch_id")
    day: int = column(
        "0 is the baseline; 1 to 14 are the mornings of the fortnight.",
        wrong=f"checkpoints.day NOT BETWEEN 0 AND {model.CHECKPOINT_DAYS}",
    )
    checkpoint_date: date = column("The run date plus `day`; due at nine in New York.")
    trading_day: date | None = column(
        "The session whose closes it uses; null when skipped.", needed=COMPUTED, only=COMPUTED
    )
    status: model.CheckpointStatus = column("Whether it has its prices.")
    skip_reason: model.SkipReason | None = column(
        "Why it has, or at first had, no prices.", needed="checkpoints.status = 'skipped'"
    )
    note: str | None = column("The same in a sentence.", longest=lengths.REASON)
    taken_at: datetime = column("When it was stored or computed.")
    skipped_at: datetime | None = column(
        "When it was skipped, also if it was computed later.", needed=WAS_SKIPPED, only=WAS_SKIPPED
    )
    benchmark_price: Decimal | None = column(
        "The benchmark's close of the trading day.",
        needed=COMPUTED,
        only=COMPUTED,
        wrong=no_price("checkpoints.benchmark_price"),
    )
    benchmark_close: Close | None = related(
        "The reading that it came from.",
        "closes.id = checkpoints.benchmark_close_id",
        link="checkpoints.benchmark_close_id",
        needed=COMPUTED,
    )
    benchmark_split_factor: Decimal | None = column(
        "The product of the benchmark's split factors since the baseline.",
        needed=COMPUTED,
        only=COMPUTED,
        wrong=no_price("checkpoints.benchmark_split_factor"),
    )
    benchmark_return_pct: Decimal | None = column(
        "The benchmark's change since the baseline, in percent; null on day 0.", needed=MEASURED, only=MEASURED
    )
    benchmark_unusual_move: bool | None = column(
        "Whether a move of the benchmark of a tenth or more from one session to the next remains unexplained by "
        "splits. Null where that was not examined: without figures, on day 0, and on checkpoints that were computed "
        "by an older version.",
        only=MEASURED,
    )
    metrics: list[PickMetric] = related(
        "How the picks stand, in the model's order; none on day 0.",
        f"{METRIC}.checkpoint_id = checkpoints.id",
        order="picks.position",
        beside="pick",
        about=model.PICKS_PER_BATCH,
        holds=f"""
            CASE WHEN {MEASURED} THEN {THREE_PICKS} AND bool_and(picks.batch_id = checkpoints.batch_id)
            ELSE count(*) = 0 END""",
        must=f"CASE WHEN {MEASURED} THEN '{model.PICKS_PER_BATCH}, one of each pick' ELSE 'none' END",
    )
    corrections: list[Correction] = related(
        "What was put right here, oldest first.",
        "corrections.checkpoint_id = checkpoints.id",
        order="corrections.made_at, corrections.id",
        about=3,
    )


OPENED = "picks.entry_close_id IS NOT NULL"

# How many figures a pick has, and where its last and its result's are: one at each computed checkpoint.
OF_ITS_BATCH = f"checkpoints.batch_id = picks.batch_id AND {MEASURED}"
FIGURES = f"(SELECT count(*) FROM checkpoints WHERE checkpoints.batch_id = picks.batch_id AND {MEASURED})"
LATEST = f"""(
    SELECT checkpoints.id FROM checkpoints WHERE checkpoints.batch_id = picks.batch_id AND {MEASURED}
    ORDER BY checkpoints.day DESC LIMIT 1)"""
# Whether a batch has all of its days: which of them is the result's cannot be told otherwise.
WHOLE = f"(SELECT {EVERY_DAY} AND {EACH_SETTLED} FROM checkpoints WHERE checkpoints.batch_id = batches.id)"
NOT_WHOLE = f"batches.status = 'completed' AND NOT {WHOLE}"
RESULT_OF = f"""(
    SELECT checkpoints.id FROM batches JOIN checkpoints ON {RESULT} WHERE batches.id = picks.batch_id AND {WHOLE}
    LIMIT 1)"""


@table("picks")
class Pick:
    """An idea of the model with its initial price: one of a Monday's three."""

    id: ID = column("Never changes.")
    batch: "Batch" = related("Its batch.", "batches.id = picks.batch_id")
    position: int = column(
        "Its place in the model's answer, from 1.", wrong=f"picks.position NOT BETWEEN 1 AND {model.PICKS_PER_BATCH}"
    )
    ticker: str = column("The share.", wrong=no_ticker("picks.ticker"), longest=lengths.TICKER)
    action: model.Action = column("What the model says to do with it.")
    reasoning: str = column("The model's words.", longest=lengths.REASONING)
    initial_price: Decimal = column(
        "The close of the baseline session, from which every return counts.", wrong=no_price("picks.initial_price")
    )
    initial_close: Close = related("The reading that it came from.", "closes.id = picks.initial_close_id")
    entry_open: Decimal | None = column(
        "The open of the first session on or after the run date; null until known.",
        needed=OPENED,
        only=OPENED,
        wrong=no_price("picks.entry_open"),
    )
    entry_close: Close | None = related(
        "The reading that it came from.",
        "closes.id = picks.entry_close_id",
        needed=OPENED,
    )
    ended: bool = column("Whether it has stopped trading.")
    picked_as: str = column(
        "The ticker that the model chose; `ticker` is the one that the share has now.",
        PICKED_AS,
        longest=lengths.TICKER,
    )
    renamed: bool = column(
        "Whether `ticker` is another one than `pickedAs`.",
        f"picks.ticker <> {PICKED_AS}",
        wrong=no_ticker("picks.ticker"),
    )
    metrics: list[PickMetric] = related(
        "How it stood, by day.",
        f"{METRIC}.pick_id = picks.id",
        order="checkpoints.day",
        beside="checkpoint",
        about=10,
        # Figures of another batch, or of a day that has none, make the sum larger than the number of days ever is.
        holds=f"coalesce(sum(CASE WHEN {OF_ITS_BATCH} THEN 1 ELSE 100 END), 0) = {FIGURES}",
        must=f"concat({FIGURES}, ', one at each computed checkpoint of its batch')",
    )
    latest_metric: PickMetric | None = related(
        "How it stood last.",
        f"{METRIC}.pick_id = picks.id AND {METRIC}.checkpoint_id = {LATEST}",
        needed=f"{LATEST} IS NOT NULL",
    )
    result: PickMetric | None = related(
        "How it stood at its batch's result.",
        f"{METRIC}.pick_id = picks.id AND {METRIC}.checkpoint_id = {RESULT_OF}",
        needed=f"""
            {RESULT_OF} IS NOT NULL
            OR EXISTS (SELECT FROM batches WHERE batches.id = picks.batch_id AND {NOT_WHOLE})""",
    )


CLOSED = "generations.accepted IS NOT NULL"


# In characters: more than three picks with the longest reasonings, and what a page shows of an answer.
BEGINNING_LENGTH = 16_384


@table("generations")
class Generation:
    """One question put to the model, and what became of it."""

    id: ID = column("Never changes.")
    attempt: int = column("Which question of that Monday, from 1.", wrong="generations.attempt < 1")
    accepted: bool | None = column("Whether the answer became the picks; null while the question is open.")
    refusal: str | None = column(
        "Why the answer was not taken.",
        needed="generations.accepted IS FALSE",
        only="generations.accepted IS FALSE",
        longest=lengths.REASON,
    )
    requested_model: str = column("The model that was asked.", longest=lengths.PROVIDER_NAME)
    answered_model: str | None = column("The model that answered, as it names itself.", longest=lengths.PROVIDER_NAME)
    prompt_version: str = column("The version of our prompt.", longest=lengths.WORD)
    system_prompt: str = column("What the model was told to be.", longest=lengths.SYSTEM)
    user_prompt: str = column("What it was asked.", longest=lengths.USER_PROMPT)
    answer: str | None = column(
        f"What it said, to the letter. An answer of more than {LONGEST_ANSWER:,} bytes is refused: of that, its "
        "beginning, and a sentence that says its length and SHA-256. Earlier versions stored all of it.",
        needed="generations.accepted",
        only=CLOSED,
        longest=lengths.MODEL_ANSWER,
    )
    answer_beginning: str | None = column(
        f"The first {BEGINNING_LENGTH:,} characters of `answer`.",
        f"left(generations.answer, {BEGINNING_LENGTH})",
        longest=4 * BEGINNING_LENGTH,
    )
    answer_bytes: int | None = column("How many bytes of UTF-8 `answer` has.", "octet_length(generations.answer)")
    request_id: str | None = column("The provider's name for the exchange.", longest=lengths.PROVIDER_NAME)
    prompt_tokens: int | None = column("The length of the question, as the provider counts.")
    completion_tokens: int | None = column("The length of the answer, as the provider counts.")
    asked_at: datetime = column("When the question was sent.")
    answered_at: datetime | None = column("When the answer was there.", needed="generations.accepted", only=CLOSED)


@table("journal", "journal.seq")
class JournalEntry:
    """One entry of the append-only, hash-chained log of everything that was recorded."""

    seq: str = column("1, 2, 3 without gaps.", longest=lengths.NUMBER)
    kind: model.JournalKind = column("What was recorded.")
    at: datetime = column(
        "When, by the clock of the process that wrote it, before the entry waited for its turn; so it may go back "
        "from one entry to the next."
    )
    content: str = column("All of it, as RFC 8785 canonical JSON.", longest=lengths.ENTRY)
    previous: str = column("The hash of the entry before; 64 zeros at the first.", longest=lengths.HASH)
    hash: str = column("SHA-256, in hex, of `previous`, a line feed and `content`.", longest=lengths.HASH)


@table("batches")
class Batch:
    """One Monday's picks of one series, with the benchmark they are measured against."""

    id: ID = column("Never changes.")
    series: str = column("Whose Monday: a model and its prompt.", longest=lengths.WORD)
    run_date: date = column("The Monday, a date in New York.")
    created_at: datetime = column("When it was stored.")
    status: model.BatchStatus = column("What became of it.")
    late: bool = column("Whether it was stored at or after the open of the first session it could be traded in.")
    failure_reason: model.FailureReason | None = column(
        "Why there are no picks.", needed=WITHOUT_PICKS, only=WITHOUT_PICKS
    )
    failure: str | None = column(
        "The same in a sentence.", needed=WITHOUT_PICKS, only=WITHOUT_PICKS, longest=lengths.FAILURE
    )
    benchmark_symbol: str = column(
        "What the picks are measured against.", wrong=no_ticker("batches.benchmark_symbol"), longest=lengths.TICKER
    )
    benchmark_initial_price: Decimal | None = column(
        "Its close at the baseline session; null without picks.",
        needed=MADE,
        only=MADE,
        wrong=no_price("batches.benchmark_initial_price"),
    )
    benchmark_initial_close: Close | None = related(
        "The reading that it came from.",
        "closes.id = batches.benchmark_initial_close_id",
        link="batches.benchmark_initial_close_id",
        needed=MADE,
    )
    trading_day: date | None = column(
        "The baseline session, the last one before the run date; null without picks.", needed=MADE, only=MADE
    )
    picks: list[Pick] = related(
        "In the model's order.",
        "picks.batch_id = batches.id",
        order="picks.position",
        about=model.PICKS_PER_BATCH,
        holds=f"CASE WHEN {MADE} THEN {THREE_PICKS} ELSE count(*) = 0 END",
        must=f"CASE WHEN {MADE} THEN '{model.PICKS_PER_BATCH}, each at a place of its own' ELSE 'none' END",
    )
    checkpoints: list[Checkpoint] = related(
        "By day.",
        f"checkpoints.batch_id = batches.id AND ($no_status OR checkpoints.status = $status OR {OF_NO_STATUS})",
        order="checkpoints.day",
        about=1 + model.CHECKPOINT_DAYS,
        holds=f"""
            CASE WHEN NOT {MADE} THEN count(*) = 0
            WHEN $no_status AND batches.status = 'completed' THEN {EVERY_DAY}
            WHEN NOT $no_status AND batches.status = 'completed' THEN {NO_DAY_TWICE} AND {WHOLE}
            ELSE {NO_DAY_TWICE} AND (count(*) > 0 OR NOT $no_status) END""",
        must=f"""
            CASE WHEN NOT {MADE} THEN 'none' WHEN batches.status = 'completed' AND $no_status
            THEN '{_DAYS}, one of each day' ELSE 'no day twice, and no other days than 0 to {model.CHECKPOINT_DAYS}'
            END""",
        status=Argument(model.CheckpointStatus | None, "Only these."),
    )
    latest_checkpoint: Checkpoint | None = related(
        "The last computed one after day 0.",
        "checkpoints.batch_id = batches.id AND checkpoints.status = 'computed' AND checkpoints.day > 0",
        order="checkpoints.day DESC",
    )
    result: Checkpoint | None = related(
        "The checkpoint of the last session before day 14; null while the batch is open, or if that one was skipped.",
        f"{RESULT} AND {WHOLE}",
        needed=NOT_WHOLE,
    )
    next_checkpoint_at: datetime | None = column(
        "When the first checkpoint that is not there is due; null unless the batch is active. It may be one without "
        "figures, because the day before it is no session.",
        NEXT_CHECKPOINT_AT,
    )
    generations: list[Generation] = related(
        "The questions put to the model that Monday, in their order.",
        "generations.series = batches.series AND generations.run_date = batches.run_date",
        order="generations.attempt",
        about=model.QUESTIONS_PER_MONDAY,
    )
    journal: list[JournalEntry] = related(
        "What the journal says of it, oldest first.", "journal.batch_id = batches.id", order="journal.seq", about=20
    )


@table()
class JournalEdge(Edge[JournalEntry]):
    """An entry of a page and its cursor."""


@table()
class JournalConnection(Connection[JournalEntry]):
    """A page of the journal."""

    # Narrower than a connection's edges, which is sound where nothing is ever written.
    edges: list[JournalEdge] = same("The page's entries, each with its cursor.")  # type: ignore[assignment]


@table()
class Service:
    """What answers here, and what it knows of itself."""

    version: str = given("The software's version.", lambda facts: facts.version)
    rehearsed: bool = given("Whether the record was made up for a rehearsal.", lambda facts: facts.rehearsed)
    next_run_at: datetime = given(
        "The next Monday at nine in New York.", lambda facts: calendar.next_run_at(facts.now())
    )
    journal_head: JournalEntry | None = related(
        "The journal's newest entry: keep its hash, and no one can rewrite what came before.", order="journal.seq DESC"
    )


# One text of all batches, or of none if they are more than can be worked out in time. A batch's middle is its
# checkpoint of the last session of its first week.
MIDDLE = """
    middle.batch_id = batches.id AND middle.status = 'computed'
    AND middle.day = (
        SELECT max(open_day.day) FROM checkpoints open_day
        WHERE open_day.batch_id = batches.id AND open_day.day BETWEEN 1 AND 7
            AND open_day.skip_reason IS DISTINCT FROM 'MARKET_CLOSED')"""
ASKED = """
    batches.series = $series
    AND ($no_from OR batches.run_date >= $from) AND ($no_to OR batches.run_date <= $to)"""
# A computed checkpoint that has no change of the benchmark is no checkpoint that was skipped.
LOST_OF, LOST_OF_RESULT = (
    f"""CASE WHEN {of}.id IS NULL THEN 'null' ELSE '"NaN"' END""" for of in ("middle", "checkpoints")
)
FORTNIGHTS = f"""
    SELECT CASE
    WHEN (SELECT count(*) FROM (SELECT FROM batches WHERE {ASKED} LIMIT {track.MOST + 1}) few) <= {track.MOST}
    THEN (SELECT coalesce('[' || string_agg(concat(
            '[', coalesce(to_json(batches.run_date)::text, 'null'),
            ',', coalesce(to_json(batches.status)::text, 'null'),
            ',', coalesce(batches.late::text, 'null'),
            ',', coalesce('"' || middle.benchmark_return_pct || '"', {LOST_OF}),
            ',', coalesce('"' || checkpoints.benchmark_return_pct || '"', {LOST_OF_RESULT}), ',[', (
                SELECT string_agg(concat(
                    '["', picks.id, '",', coalesce(to_json(picks.ticker)::text, 'null'),
                    ',', coalesce(to_json(picks.action)::text, 'null'),
                    ',', coalesce('"' || halfway.vs_benchmark_pct || '"', 'null'),
                    ',', coalesce('"' || final.vs_benchmark_pct || '"', 'null'),
                    ',', coalesce('"' || final.absolute_return_pct || '"', 'null'), ']'), ',' ORDER BY picks.position)
                FROM picks
                LEFT JOIN {METRIC} halfway ON halfway.checkpoint_id = middle.id AND halfway.pick_id = picks.id
                LEFT JOIN {METRIC} final ON final.checkpoint_id = checkpoints.id AND final.pick_id = picks.id
                WHERE picks.batch_id = batches.id AND ($no_action OR picks.action = $action)
            ), '],',
            (CASE batches.status WHEN 'completed' THEN {WHOLE} ELSE true END)::text, ']'),
            ',' ORDER BY batches.run_date) || ']', '[]')
        FROM batches
        LEFT JOIN checkpoints ON {RESULT}
        LEFT JOIN checkpoints middle ON {MIDDLE}
        WHERE {ASKED})
    ELSE 'null' END"""
PART = ("from", "to", "action")


def in_order(arguments: Mapping[str, Any]) -> None:
    """Refuse a range of Mondays that ends before it begins."""
    first, last = arguments["from"], arguments["to"]
    if first and last and last < first:
        raise bad_value("BAD_RANGE", f"`to` must not be before `from`: {last} is before {first}.")


def unreadable(rows: bytes, error: ValueError) -> str:
    """Return what of the rows of the track record cannot be read: the first Monday, or the first pick of one."""
    with suppress(ValueError):
        for monday in msgspec.json.decode(rows):
            for pick in monday[5]:
                with suppress(ValueError):
                    msgspec.convert(pick, track.Held)
                    continue
                return f"the row {pick[0]} of picks, of the Monday {monday[0]}, cannot be read: {error}"
            with suppress(ValueError):
                msgspec.convert(monday, track.Fortnight)
                continue
            return f"the Monday {monday[0]} cannot be read: {error}"
    return f"the rows of the track record cannot be read: {error}"


def track_record(rows: bytes, arguments: Mapping[str, Any]) -> track.TrackRecord:
    """Return what the Mondays in `rows` come to."""
    try:
        fortnights = msgspec.json.decode(rows, type=list[track.Fortnight] | None)
    except ValueError as error:
        raise RecordDamaged(unreadable(rows, error)) from None
    if fortnights is None:
        message = f"The track record has over {track.MOST:,} Mondays. Ask for a part of them: `from` and `to`."
        raise refusal("ANSWER_TOO_LARGE", message, limit=track.MOST)
    for one, other in pairwise(fortnights):
        if one.run_date == other.run_date:
            raise RecordDamaged(f"the Monday {one.run_date} has two batches")
    for one in fortnights:
        one.check(any_picks=arguments["action"] is not None)
    try:
        return track.track_record(arguments["series"], fortnights, part=any(arguments[name] for name in PART))
    except (DecimalException, OverflowError):
        raise RecordDamaged("the track record has a figure that is too large to be worked with") from None


@table()
class Query:
    """Everything that can be asked."""

    latest_batch: Batch | None = related(
        "The newest Monday, whatever became of it.",
        "batches.series = $series",
        order="batches.run_date DESC",
        series=SERIES,
    )
    batch: Batch | None = related(
        "One batch; null if the id is not known.",
        "batches.id = $id",
        id=Argument(ID, "Its id, a UUID.", convert=read_id),
    )
    batch_on: Batch | None = related(
        "The batch of one Monday; null if that Monday has none.",
        "batches.run_date = $run_date AND batches.series = $series",
        run_date=Argument(date, "The Monday; another day is refused.", convert=read_monday),
        series=SERIES,
    )
    batches: Connection[Batch] = page(
        "The Mondays, newest first.",
        "batches.series = $series AND ($no_status OR batches.status = $status)",
        by={"batches.run_date": DATE},
        newest_first=True,
        holds="count(DISTINCT batches.run_date) = count(*)",
        breaks="""
            'has two batches of the Monday ', (
                SELECT twice FROM unnest(array_agg(batches.run_date)) AS twice GROUP BY twice HAVING count(*) > 1
                LIMIT 1)""",
        status=Argument(model.BatchStatus | None, "Only these."),
        series=SERIES,
    )
    pick: Pick | None = related(
        "One pick; null if the id is not known.",
        "picks.id = $id",
        sound=OF_A_BATCH,
        id=Argument(ID, "Its id, a UUID.", convert=read_id),
    )
    picks: Connection[Pick] = page(
        "One share's picks in every series, newest first; none if it was never picked.",
        "picks.ticker = $ticker",
        by={RUN_DATE: DATE, "picks.id": ROW_ID},
        newest_first=True,
        sound=OF_A_BATCH,
        ticker=TICKER,
    )
    closes: Connection[Close] = page(
        "All readings of one share's prices, newest session first. A session that was read differently has several.",
        "closes.ticker = $ticker",
        by={"closes.trading_day": DATE, "closes.read_at": TIME},
        newest_first=True,
        ticker=TICKER,
    )
    splits: Connection[Split] = page(
        "All readings of one share's splits, newest first.",
        "splits.ticker = $ticker",
        by={"splits.effective_date": DATE, "splits.read_at": TIME},
        newest_first=True,
        ticker=TICKER,
    )
    journal: JournalConnection = page(
        "The journal, oldest first.",
        "$no_kind OR journal.kind = $kind",
        by={"journal.seq": NUMBER},
        newest_first=False,
        kind=Argument(model.JournalKind | None, "Only these."),
    )
    track_record: track.TrackRecord = computed(
        "What all Mondays of a series come to, or those of a part: skill or luck.",
        FORTNIGHTS,
        track_record,
        check=in_order,
        cost=5_000,
        arguments={
            "series": SERIES,
            "from": Argument(date | None, "Only Mondays on this day or later."),
            "to": Argument(date | None, "Only Mondays up to this day."),
            "action": Argument(model.Action | None, "Only these picks."),
        },
    )
    service: Service = same("What answers here.")


class NotADateError(ValueError):
    """What should be a date is none. (graphql-core adds the place and the value, and passes the code on.)"""

    extensions: ClassVar = {"code": "BAD_DATE"}


def read_date(text: object) -> date:
    """Return the date that is written as `YYYY-MM-DD`, or refuse any other form of it."""
    if isinstance(text, str) and re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
        with suppress(ValueError):
            return date.fromisoformat(text)
    raise NotADateError("A date is written as YYYY-MM-DD.")


SCALARS: dict[object, ScalarDefinition] = {
    Decimal: strawberry.scalar(
        name="Decimal", description="A number as text, in plain notation and at full precision.", serialize=plain
    ),
    date: strawberry.scalar(
        name="Date", description="A date as `YYYY-MM-DD`.", serialize=date.isoformat, parse_value=read_date
    ),
    datetime: strawberry.scalar(
        name="DateTime", description="A time in UTC as `YYYY-MM-DDTHH:MM:SS.ffffffZ`.", serialize=timestamp
    ),
}
schema: GraphQLSchema = strawberry.Schema(Query, config=StrawberryConfig(scalar_map=SCALARS))._schema


def printed() -> str:
    """Return the schema as text."""
    return f"{print_schema(schema)}\n"


if __name__ == "__main__":
    sys.stdout.write(printed())
