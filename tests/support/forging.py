"""
The parts of a forgery of a whole record: finding rows by their facts, and computing figures again.

`rows` and `entries` find the rows that a change is about. `refigured` computes all prices and
figures again from the readings, splits and endings that the entries mention, and makes corrections
fit the changes of their entries. Then only the forged facts themselves show the forgery.
"""

from collections.abc import Callable, Iterable, Iterator
from datetime import date
from decimal import Decimal, InvalidOperation
from uuid import UUID, uuid4, uuid5

from tampering import Change, Content, rows_of

from app.domain import model, returns
from app.domain.calendar import Calendar
from app.domain.model import JournalKind
from app.domain.verification import entries as parsing
from app.domain.verification.entries import TABLES, Mention, ParsedEntry
from app.domain.verification.rules import figures
from app.domain.verification.rules.changes import CORRECTABLE
from app.domain.verification.state import JournalState

Contents = list[Content]
Row = dict[str, str]
Value = str | None | Callable[[str], str]


class Names:
    """The facts that belong to the ids of a journal."""

    def __init__(self, contents: Iterable[Content]) -> None:
        self.run_dates: dict[str, str] = {}  # of a batch
        self.days: dict[str, tuple[str, str]] = {}  # of a checkpoint: its batch and its day
        self.picks: dict[str, str] = {}  # the batch of a pick
        self.tickers: dict[str, set[str]] = {}  # all that a pick has or had
        for content in contents:
            for table, row in rows_of(content):
                if table == "batches":
                    self.run_dates[row["id"]] = row["run_date"]
                if table == "checkpoints":
                    self.days[row["id"]] = row["batch_id"], row["day"]
                if table == "picks":
                    self.picks[row["id"]] = row["batch_id"]
                    self.tickers.setdefault(row["id"], set()).add(row["ticker"])

    def are(self, table: str, row: Row, **facts: object) -> bool:
        """
        Whether a row is of this `run_date`, `day` and `ticker`, and its other columns have these
        values.
        """
        batch, day = row.get("batch_id", row.get("id", "")), row.get("day")
        if "checkpoint_id" in row:
            batch, day = self.days[row["checkpoint_id"]]
        pick = row.get("pick_id") or (row["id"] if table == "picks" else None)
        known = row | {"run_date": row.get("run_date") or self.run_dates.get(batch, ""), "day": day}
        tickers = self.tickers[pick] if pick else {row.get("ticker")}
        for name, wanted in facts.items():
            if name == "ticker":
                if wanted not in tickers:
                    return False
            elif known.get(name) != str(wanted):
                return False
        return True


def rows(contents: Contents, table: str, *, kind: str | None = None, **facts: object) -> list[Row]:
    """
    All mentions of the rows with these facts, in their order; at least one.

    A fact is `run_date`, `day`, `ticker` (any that the pick ever has), or a column. `kind` is that
    of the entry.
    """
    names = Names(contents)
    result = [
        row
        for content in contents
        if kind in (None, content["kind"])
        for its, row in rows_of(content)
        if its == table and names.are(table, row, **facts)
    ]
    assert result, f"no {table} with {facts}"
    return result


def entries(contents: Contents, kind: str, **facts: object) -> Contents:
    """
    All entries of a kind whose question, checkpoint, pick or batch has these facts (see `rows`); at
    least one.
    """
    names = Names(contents)
    result = [
        content
        for content in contents
        if content["kind"] == kind and _is_about(content, names, facts)
    ]
    assert result, f"no {kind} entry with {facts}"
    return result


def _is_about(content: Content, names: Names, facts: dict[str, object]) -> bool:
    for member in ("generation", "checkpoint", "pick", "batch"):
        if member in content:
            return names.are(parsing.MEMBERS[member], content[member], **facts)
    raise LookupError(content["kind"])


# Changes


def edited(
    table: str, values: dict[str, Value], *, nth: int | None = None, **facts: object
) -> Change:
    """
    A change of all mentions of the rows with these facts, or of the `nth` alone.

    A value is a text, None for none, or a function of the text before.
    """

    def change(contents: Contents) -> None:
        mentions = rows(contents, table, **facts)
        for row in mentions if nth is None else [mentions[nth]]:
            for name, value in values.items():
                text = value(row[name]) if callable(value) else value
                row.pop(name, None)
                if text is not None:
                    row[name] = text

    return change


def removed(kind: str, *, nth: int | None = None, **facts: object) -> Change:
    """A change that takes out all entries with these facts, or the `nth` alone."""

    def change(contents: Contents) -> Contents:
        matching = entries(contents, kind, **facts)
        gone = matching if nth is None else [matching[nth]]
        return [content for content in contents if not any(content is one for one in gone)]

    return change


def all_of(*changes: Change) -> Change:
    """A change that makes several, one after another."""

    def change(contents: Contents) -> Contents:
        for step in changes:
            after = step(contents)
            contents = contents if after is None else after
        return contents

    return change


def forged_id(text: str) -> str:
    """Return an id for an invented row; it is the same for the same text."""
    return str(uuid5(model.batch_id("forged", date.min), text))


# Figures


def refigured(contents: Contents) -> Contents:
    """
    Return the contents with all prices and figures computed again; an equal number keeps its text.
    """
    state, stood, result = JournalState(Calendar()), dict[tuple[str, str], Row](), Contents()
    for content in contents:
        mentions = _taken(content, state)
        held = list(rows_of(content))
        for (table, row), mention in zip(held, mentions, strict=True):
            _agree(row, mention, state)
            parsed = parsing.parse_row(seq=0, member=table, table=table, texts=row)
            state.add_row(parsed, JournalKind(content["kind"]))
        if content["kind"] == "CORRECTION":
            content["corrections"] = list(
                _corrections(content=content, held=held, stood=stood, state=state)
            )
        stood |= {(table, row["id"]): dict(row) for table, row in held if "id" in row}
        if content["kind"] != "CORRECTION" or content["corrections"]:
            result.append(content)
    return result


def _taken(content: Content, state: JournalState) -> list[Mention]:
    kind = JournalKind(content["kind"])
    mentions = state.add_rows(0, kind, content)
    ending, renaming = parsing.parse_ending(0, content), parsing.parse_renaming(0, content)
    at = parsing.entry_time(0, content)
    state.add_event(
        ParsedEntry(
            seq=0,
            kind=kind,
            at=at,
            content=content,
            hash="",
            mentions=mentions,
            ending=ending,
            renaming=renaming,
        )
    )
    return mentions


def _agree(row: Row, mention: Mention, state: JournalState) -> None:
    """Write each figure that is another number than before."""
    try:
        for name, value in figures.expected_figures(mention, state):
            if name not in row or Decimal(row[name]) != value:
                row[name] = returns.format_decimal(value)
    except (LookupError, ArithmeticError):
        pass  # what it depends on was forged away


def _corrections(
    content: Content,
    held: list[tuple[str, Row]],
    stood: dict[tuple[str, str], Row],
    state: JournalState,
) -> Iterator[Row]:
    """
    Yield a correction for each column that changes: those that there were first, then new ones.
    """
    there = {(one["field"], one.get("ticker")): one for one in content["corrections"]}
    example = content["corrections"][0]
    changes = dict(_changes(held, stood, state))
    remaining = [key for key in there if key in changes]
    for field, ticker in [*remaining, *(key for key in changes if key not in there)]:
        was, now = changes[field, ticker]
        new = {**example, "id": str(uuid4()), "field": field, "ticker": ticker}
        correction = {**there.get((field, ticker), new), "before": was, "after": now}
        yield {name: value for name, value in correction.items() if value is not None}


def _changes(
    held: list[tuple[str, Row]], stood: dict[tuple[str, str], Row], state: JournalState
) -> Iterator[tuple[tuple[str, str | None], tuple[str | None, str | None]]]:
    for table, row in held:
        before = stood.get((table, row.get("id", "")))
        if before is None:
            continue
        pick = row.get("pick_id") or (row["id"] if table == "picks" else None)
        ticker = state.picks[UUID(pick)].ticker if pick else None
        for column in sorted(CORRECTABLE.get(TABLES[table], ())):
            was, now = before.get(column), row.get(column)
            if not _is_same(was, now):
                yield (column, ticker), (was, now)


def _is_same(was: str | None, now: str | None) -> bool:
    if was is None or now is None:
        return was == now
    try:
        return Decimal(was) == Decimal(now)
    except InvalidOperation:
        return was == now
