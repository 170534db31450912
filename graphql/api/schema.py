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
from decimal import Decimal
from typing import Any, ClassVar
from uuid import UUID

import msgspec
import strawberry
from graphql import GraphQLSchema, print_schema
from msgspec import Struct
from strawberry import ID
from strawberry.schema.config import StrawberryConfig
from strawberry.types.scalar import ScalarDefinition

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
from app.domain.returns import plain


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
SIGN = f"(SELECT CASE picks.action WHEN 'SELL' THEN -1 ELSE 1 END FROM picks WHERE picks.id = {METRIC}.pick_id)"
PICKED_AS = "(SELECT closes.ticker FROM closes WHERE closes.id = picks.initial_close_id)"
DAY = f"(SELECT checkpoints.day FROM checkpoints WHERE checkpoints.id = {METRIC}.checkpoint_id)"
RUN_DATE = "(SELECT batches.run_date FROM batches WHERE batches.id = picks.batch_id)"


SERIES = Argument(str, "Whose Mondays: `main`. Another name is refused.", model.SERIES, check=check_series)
TICKER = Argument(str, "The share, in capitals, as in `NVDA` or `BRK.B`.", convert=read_ticker)


@table("closes")
class Close:
    """A reading of one share's session: its raw, as-traded prices, with where and when they were read."""

    id: ID = column("Never changes.")
    ticker: str = column("The share.")
    trading_day: date = column("The session.")
    open: Decimal | None = column("The session's first price, if the source gave it.")
    close: Decimal = column("The session's last price.")
    source: str = column(
        "Where it was read. It ends in `, restated as of` and a day where the price is one of that day's shares."
    )
    read_at: datetime = column("When it was read.")


@table("splits")
class Split:
    """A reading of one share's split, with where and when it was read; spin-offs are listed among them."""

    ticker: str = column("The share.")
    effective_date: date = column("The first session whose prices are of the new shares.")
    factor: Decimal = column("How many shares one became; 1 takes back what was read before.")
    source: str = column("Where it was read.")
    read_at: datetime = column("When it was read.")


@table("pick_checkpoint_metrics")
class PickMetric:
    """One pick at one computed checkpoint after day 0; returns are in percent, without dividends and costs."""

    id: ID = column("Never changes.")
    pick: "Pick" = related("The pick.", f"picks.id = {METRIC}.pick_id")
    checkpoint: "Checkpoint" = related("The checkpoint.", f"checkpoints.id = {METRIC}.checkpoint_id")
    current_price: Decimal = column("The close of the checkpoint's trading day, or the last value of an ended pick.")
    close: Close | None = related(
        "The reading that the price came from; null once the pick has ended.", f"closes.id = {METRIC}.close_id"
    )
    split_factor: Decimal = column("The product of the split factors since the baseline session; 1 without a split.")
    absolute_return_pct: Decimal = column("The share's change since the baseline, whatever the action.")
    vs_benchmark_pct: Decimal = column("`absoluteReturnPct` less the benchmark's change, whatever the action.")
    directional_return_pct: Decimal = column(
        "`absoluteReturnPct` in the pick's direction: its negative for a SELL.",
        f"{SIGN} * {METRIC}.absolute_return_pct",
    )
    alpha_pct: Decimal = column(
        "`vsBenchmarkPct` in the pick's direction: its negative for a SELL. Points in the call's favour.",
        f"{SIGN} * {METRIC}.vs_benchmark_pct",
    )
    hit: bool = column(
        "Whether the call is right: `alphaPct` is above zero.", f"{SIGN} * {METRIC}.vs_benchmark_pct > 0"
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
        coalesce(
            (SELECT closes.ticker FROM closes WHERE closes.id = {METRIC}.close_id),
            (SELECT picks.ticker FROM picks WHERE picks.id = {METRIC}.pick_id)
        ) <> (
            SELECT closes.ticker FROM picks JOIN closes ON closes.id = picks.initial_close_id
            WHERE picks.id = {METRIC}.pick_id
        )""",
    )


@table("corrections")
class Correction:
    """A stored figure that was put right, with what it said before."""

    id: ID = column("Never changes.")
    checkpoint: "Checkpoint" = related("Where the figure stands.", "checkpoints.id = corrections.checkpoint_id")
    field: str = column(
        "Which figure: its column, such as `vs_benchmark_pct`; docs/journal.md lists all that can be corrected."
    )
    ticker: str | None = column("Whose figure; null if it is the checkpoint's own.")
    before: str | None = column("What it said.")
    after: str | None = column("What it says now.")
    reason: str = column("Why.")
    made_at: datetime = column("When.")


@table("checkpoints")
class Checkpoint:
    """One morning's look at a batch."""

    id: ID = column("Never changes.")
    batch: "Batch" = related("Its batch.", "batches.id = checkpoints.batch_id")
    day: int = column("0 is the baseline; 1 to 14 are the mornings of the fortnight.")
    checkpoint_date: date = column("The run date plus `day`; due at nine in New York.")
    trading_day: date | None = column("The session whose closes it uses; null when skipped.")
    status: model.CheckpointStatus = column("Whether it has its prices.")
    skip_reason: model.SkipReason | None = column("Why it has, or at first had, no prices.")
    note: str | None = column("The same in a sentence.")
    taken_at: datetime = column("When it was stored or computed.")
    skipped_at: datetime | None = column("When it was skipped, also if it was computed later.")
    benchmark_price: Decimal | None = column("The benchmark's close of the trading day.")
    benchmark_close: Close | None = related(
        "The reading that it came from.", "closes.id = checkpoints.benchmark_close_id"
    )
    benchmark_split_factor: Decimal | None = column("The product of the benchmark's split factors since the baseline.")
    benchmark_return_pct: Decimal | None = column(
        "The benchmark's change since the baseline, in percent; null on day 0."
    )
    benchmark_unusual_move: bool | None = column(
        "Whether a move of the benchmark of a tenth or more from one session to the next remains unexplained by "
        "splits. Null where that was not examined: without figures, on day 0, and on checkpoints that were computed "
        "by an older version."
    )
    metrics: list[PickMetric] = related(
        "How the picks stand, in the model's order; none on day 0.",
        f"{METRIC}.checkpoint_id = checkpoints.id",
        order="picks.position",
        beside="pick",
        about=model.PICKS_PER_BATCH,
    )
    corrections: list[Correction] = related(
        "What was put right here, oldest first.",
        "corrections.checkpoint_id = checkpoints.id",
        order="corrections.made_at, corrections.id",
        about=3,
    )


@table("picks")
class Pick:
    """An idea of the model with its initial price: one of a Monday's three."""

    id: ID = column("Never changes.")
    batch: "Batch" = related("Its batch.", "batches.id = picks.batch_id")
    position: int = column("Its place in the model's answer, from 1.")
    ticker: str = column("The share.")
    action: model.Action = column("What the model says to do with it.")
    reasoning: str = column("The model's words.")
    initial_price: Decimal = column("The close of the baseline session, from which every return counts.")
    initial_close: Close = related("The reading that it came from.", "closes.id = picks.initial_close_id")
    entry_open: Decimal | None = column("The open of the first session on or after the run date; null until known.")
    entry_close: Close | None = related("The reading that it came from.", "closes.id = picks.entry_close_id")
    ended: bool = column("Whether it has stopped trading.")
    picked_as: str = column("The ticker that the model chose; `ticker` is the one that the share has now.", PICKED_AS)
    renamed: bool = column("Whether `ticker` is another one than `pickedAs`.", f"picks.ticker <> {PICKED_AS}")
    metrics: list[PickMetric] = related("How it stood, by day.", f"{METRIC}.pick_id = picks.id", order=DAY, about=10)
    latest_metric: PickMetric | None = related(
        "How it stood last.", f"{METRIC}.pick_id = picks.id", order=f"{DAY} DESC"
    )
    result: PickMetric | None = related(
        "How it stood at its batch's result.",
        f"{METRIC}.pick_id = picks.id AND {METRIC}.checkpoint_id = "
        + f"(SELECT checkpoints.id FROM batches JOIN checkpoints ON {RESULT} WHERE batches.id = picks.batch_id)",
    )


@table("generations")
class Generation:
    """One question put to the model, and what became of it."""

    id: ID = column("Never changes.")
    attempt: int = column("Which question of that Monday, from 1.")
    accepted: bool | None = column("Whether the answer became the picks; null while the question is open.")
    refusal: str | None = column("Why the answer was not taken.")
    requested_model: str = column("The model that was asked.")
    answered_model: str | None = column("The model that answered, as it names itself.")
    prompt_version: str = column("The version of our prompt.")
    system_prompt: str = column("What the model was told to be.")
    user_prompt: str = column("What it was asked.")
    answer: str | None = column("What it said, to the letter.")
    request_id: str | None = column("The provider's name for the exchange.")
    prompt_tokens: int | None = column("The length of the question, as the provider counts.")
    completion_tokens: int | None = column("The length of the answer, as the provider counts.")
    asked_at: datetime = column("When the question was sent.")
    answered_at: datetime | None = column("When the answer was there.")


@table("journal")
class JournalEntry:
    """One entry of the append-only, hash-chained log of everything that was recorded."""

    seq: str = column("1, 2, 3 without gaps.")
    kind: model.JournalKind = column("What was recorded.")
    at: datetime = column(
        "When, by the clock of the process that wrote it, before the entry waited for its turn; so it may go back "
        "from one entry to the next."
    )
    content: str = column("All of it, as RFC 8785 canonical JSON.")
    previous: str = column("The hash of the entry before; 64 zeros at the first.")
    hash: str = column("SHA-256, in hex, of `previous`, a line feed and `content`.")


@table("batches")
class Batch:
    """One Monday's picks of one series, with the benchmark they are measured against."""

    id: ID = column("Never changes.")
    series: str = column("Whose Monday: a model and its prompt.")
    run_date: date = column("The Monday, a date in New York.")
    created_at: datetime = column("When it was stored.")
    status: model.BatchStatus = column("What became of it.")
    late: bool = column("Whether it was stored at or after the open of the first session it could be traded in.")
    failure_reason: model.FailureReason | None = column("Why there are no picks.")
    failure: str | None = column("The same in a sentence.")
    benchmark_symbol: str = column("What the picks are measured against.")
    benchmark_initial_price: Decimal | None = column("Its close at the baseline session; null without picks.")
    benchmark_initial_close: Close | None = related(
        "The reading that it came from.", "closes.id = batches.benchmark_initial_close_id"
    )
    trading_day: date | None = column("The baseline session, the last one before the run date; null without picks.")
    picks: list[Pick] = related(
        "In the model's order.", "picks.batch_id = batches.id", order="picks.position", about=model.PICKS_PER_BATCH
    )
    checkpoints: list[Checkpoint] = related(
        "By day.",
        "checkpoints.batch_id = batches.id AND ($no_status OR checkpoints.status = $status)",
        order="checkpoints.day",
        about=1 + model.CHECKPOINT_DAYS,
        status=Argument(model.CheckpointStatus | None, "Only these."),
    )
    latest_checkpoint: Checkpoint | None = related(
        "The last computed one after day 0.",
        "checkpoints.batch_id = batches.id AND checkpoints.status = 'computed' AND checkpoints.day > 0",
        order="checkpoints.day DESC",
    )
    result: Checkpoint | None = related(
        "The checkpoint of the last session before day 14; null while the batch is open, or if that one was skipped.",
        RESULT,
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
FORTNIGHTS = f"""
    SELECT CASE
    WHEN (SELECT count(*) FROM (SELECT FROM batches WHERE {ASKED} LIMIT {track.MOST + 1}) few) <= {track.MOST}
    THEN (SELECT coalesce('[' || string_agg(concat(
            '["', to_char(batches.run_date, 'YYYY-MM-DD'), '","', batches.status, '",', batches.late::text,
            ',', coalesce('"' || middle.benchmark_return_pct || '"', 'null'),
            ',', coalesce('"' || checkpoints.benchmark_return_pct || '"', 'null'), ',[', (
                SELECT string_agg(concat(
                    '["', picks.id, '","', picks.ticker, '","', picks.action, '"',
                    ',', coalesce('"' || halfway.vs_benchmark_pct || '"', 'null'),
                    ',', coalesce('"' || final.vs_benchmark_pct || '"', 'null'),
                    ',', coalesce('"' || final.absolute_return_pct || '"', 'null'), ']'), ',' ORDER BY picks.position)
                FROM picks
                LEFT JOIN {METRIC} halfway ON halfway.checkpoint_id = middle.id AND halfway.pick_id = picks.id
                LEFT JOIN {METRIC} final ON final.checkpoint_id = checkpoints.id AND final.pick_id = picks.id
                WHERE picks.batch_id = batches.id AND ($no_action OR picks.action = $action)
            ), ']]'), ',' ORDER BY batches.run_date) || ']', '[]')
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


def track_record(rows: bytes, arguments: Mapping[str, Any]) -> track.TrackRecord:
    """Return what the Mondays in `rows` come to."""
    fortnights = msgspec.json.decode(rows, type=list[track.Fortnight] | None)
    if fortnights is None:
        message = f"The track record has over {track.MOST:,} Mondays. Ask for a part of them: `from` and `to`."
        raise refusal("ANSWER_TOO_LARGE", message, limit=track.MOST)
    return track.track_record(arguments["series"], fortnights, part=any(arguments[name] for name in PART))


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
        status=Argument(model.BatchStatus | None, "Only these."),
        series=SERIES,
    )
    pick: Pick | None = related(
        "One pick; null if the id is not known.", "picks.id = $id", id=Argument(ID, "Its id, a UUID.", convert=read_id)
    )
    picks: Connection[Pick] = page(
        "One share's picks in every series, newest first; none if it was never picked.",
        "picks.ticker = $ticker",
        by={RUN_DATE: DATE, "picks.id": ROW_ID},
        newest_first=True,
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
