"""
What an entry of the journal holds, as values of the record.

An entry comes as the journal writes it: every value a text, members without a value left out.
Its rows become the types of `app.domain.model`, and only if they have exactly the journal's form.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import date, datetime
from decimal import Decimal
from typing import Any, TypeVar
from uuid import UUID

import msgspec
from msgspec import Struct

from app.domain import journal, model
from app.domain.model import (
    Batch,
    Checkpoint,
    Close,
    Correction,
    Ending,
    Generation,
    JournalKind,
    Pick,
    PickMetric,
    Renaming,
    Split,
)
from app.domain.verification.misfits import Rule, misfit

# A row as the journal and the API write it: each value a text.
Texts = Mapping[str, str]
AnyRow = Generation | Batch | Pick | Checkpoint | PickMetric | Correction | Close | Split
R = TypeVar("R", bound=AnyRow)

TABLES: Mapping[str, type[AnyRow]] = {
    "generations": Generation,
    "batches": Batch,
    "picks": Pick,
    "checkpoints": Checkpoint,
    "pick_checkpoint_metrics": PickMetric,
    "corrections": Correction,
    "closes": Close,
    "splits": Split,
}

# Under which name an entry holds the rows of a table.
MEMBERS = {
    "generation": "generations",
    "batch": "batches",
    "pick": "picks",
    "picks": "picks",
    "checkpoint": "checkpoints",
    "metrics": "pick_checkpoint_metrics",
    "corrections": "corrections",
    "closes": "closes",
    "splits": "splits",
}
# The members that are lists of rows; the others are one row each.
_LISTS = frozenset({"picks", "metrics", "corrections", "closes", "splits"})

# Which members an entry of a kind must have, and which it may have, besides `seq`, `kind` and `at`.
_MEMBERS_OF = {
    JournalKind.GENERATION: ({"generation"}, set[str]()),
    JournalKind.BATCH: ({"batch", "picks", "checkpoint", "closes"}, set[str]()),
    JournalKind.FAILURE: ({"batch"}, set[str]()),
    JournalKind.CHECKPOINT: ({"checkpoint"}, {"metrics", "closes", "splits", "picks", "batch"}),
    JournalKind.CORRECTION: (
        {"corrections", "checkpoint"},
        {"batch", "picks", "metrics", "closes", "splits", "reason"},
    ),
    JournalKind.PICK_ENDED: ({"pick", "ending"}, set[str]()),
    JournalKind.PICK_RENAMED: ({"pick", "before"}, {"renaming"}),
}
_OF_EVERY_ENTRY = {"seq", "kind", "at"}

# What can be mentioned more than once by one entry: a split that two figures count.
_MAY_REPEAT = (Close, Split)

# Prices and factors, in every table, are above zero.
_ABOVE_ZERO = frozenset(
    {
        "benchmark_initial_price",
        "initial_price",
        "entry_open",
        "benchmark_price",
        "benchmark_split_factor",
        "current_price",
        "split_factor",
        "open",
        "close",
        "factor",
        "value",
    }
)
_NOT_BELOW_ZERO = frozenset({"prompt_tokens", "completion_tokens", "day"})
_FROM_ONE = frozenset({"attempt", "position"})
_TICKERS = frozenset({"ticker", "benchmark_symbol"})
_NOT_EMPTY = frozenset({"source", "series", "reason", "reasoning"})


class Mention(Struct, frozen=True):
    """A row that an entry holds: its table, its values, and those of the mention before, if there is one."""

    table: str
    row: AnyRow
    before: AnyRow | None


class Entry(Struct, frozen=True):
    """An entry of the journal with the rows that it mentions."""

    seq: int
    kind: JournalKind
    at: datetime
    content: Mapping[str, Any]
    mentions: Sequence[Mention]
    ending: Ending | None = None
    renaming: Renaming | None = None

    def rows(self, type_: type[R]) -> list[R]:
        """Return the rows of a type, in the entry's order."""
        return [mention.row for mention in self.mentions if isinstance(mention.row, type_)]

    def mentions_of(self, type_: type[AnyRow]) -> list[Mention]:
        """Return the mentions of a type's rows, in the entry's order."""
        return [mention for mention in self.mentions if isinstance(mention.row, type_)]

    def one(self, type_: type[R]) -> R | None:
        """Return the first row of a type, if there is one."""
        return next(iter(self.rows(type_)), None)


def decoded(seq: int, content: str) -> dict[str, Any]:
    """Return what canonical JSON says; there is only one way to write it."""
    try:
        found = json.loads(content)
        if isinstance(found, dict) and journal.canonical(found) == content:
            return found
    except (ValueError, RecursionError):
        pass
    raise misfit(
        Rule.CANONICAL,
        f"Entry {seq} of the journal is not canonical JSON. Alpha Monday did not write it so.",
    )


def check_complete(seq: int, entry: Texts) -> None:
    """Refuse an entry that lacks one of its columns."""
    for name in ("seq", "kind", "at", "content", "previous", "hash"):
        if name not in entry:
            raise misfit(Rule.COLUMNS, f"Entry {seq} of the journal: it has no {name}.")


def check_columns(seq: int, entry: Texts, content: Mapping[str, Any]) -> None:
    """Refuse an entry whose columns say something else than its content."""
    expected = {**content, "batch_id": batch_of(content)}
    for name in ("seq", "kind", "at", "batch_id"):
        if name in entry and entry[name] != expected.get(name):
            here, there = shortened(entry[name], expected.get(name))
            raise misfit(
                Rule.COLUMNS,
                f"Entry {seq} of the journal: its {name} is {here}, but its content says {there}.",
            )


def batch_of(content: Mapping[str, Any]) -> str | None:
    """Return the id of the batch that an entry is about."""
    match content:
        case (
            {"batch": {"id": str(id)}}
            | {"checkpoint": {"batch_id": str(id)}}
            | {"pick": {"batch_id": str(id)}}
            | {"picks": [{"batch_id": str(id)}, *_]}
        ):
            return id
        case {"generation": {"series": str(series), "run_date": str(run_date)}}:
            with suppress(ValueError):
                return str(model.batch_id(series, date.fromisoformat(run_date)))
    return None


def kind_of(seq: int, content: Mapping[str, Any]) -> JournalKind:
    """Return the kind of an entry, which must have the members of that kind and no others."""
    where = f"Entry {seq} of the journal"
    try:
        kind = JournalKind(content.get("kind", ""))
    except ValueError:
        raise misfit(
            Rule.MEMBERS,
            f"{where} has the kind {content.get('kind')!r}, which this version does not know.",
        ) from None
    needed, allowed = _MEMBERS_OF[kind]
    missing = sorted((needed | _OF_EVERY_ENTRY) - content.keys())
    if missing:
        raise misfit(Rule.MEMBERS, f"{where}: a {kind} entry without {' and '.join(missing)}.")
    unknown = sorted(content.keys() - needed - allowed - _OF_EVERY_ENTRY)
    if unknown:
        raise misfit(Rule.MEMBERS, f"{where}: a {kind} entry does not have {' and '.join(map(repr, unknown))}.")
    for member in sorted(content.keys() & MEMBERS.keys()):
        if isinstance(content[member], list) != (member in _LISTS):
            shape = "a list of rows" if member in _LISTS else "one row"
            raise misfit(Rule.MEMBERS, f"{where}: what it calls {member} is not {shape}.")
    return kind


def time_of(seq: int, content: Mapping[str, Any]) -> datetime:
    """Return the time that an entry says it was made."""
    try:
        at = datetime.fromisoformat(content["at"])
        if journal.timestamp(at) == content["at"]:
            return at
    except (ValueError, TypeError, OverflowError):
        pass
    raise misfit(Rule.ROW_FORM, f"Entry {seq} of the journal has {content['at']!r} as its at, which is no time.")


def rows_of(content: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Yield the rows that an entry holds, as it writes them, each with its member and its table."""
    for member, table in MEMBERS.items():
        held = content.get(member, [])
        for row in held if isinstance(held, list) else [held]:
            yield member, table, row


def typed(seq: int, member: str, table: str, texts: Any) -> AnyRow:
    """Return a row of an entry as a value of its type, which must have exactly the form of the journal."""
    what = f"Entry {seq} of the journal: what it calls {member}"
    return converted(what, texts, TABLES[table], f"no row of {table}")


S = TypeVar("S", bound=Struct)


def converted(what: str, texts: Any, type_: type[S], none: str) -> S:
    """
    Return the value that these texts write; raises the misfit that `what` is `none`.

    Only one text writes a value, so the value must be written as these texts again.
    """
    if not isinstance(texts, dict) or not all(isinstance(one, str) for one in texts.values()):
        raise misfit(Rule.ROW_FORM, f"{what} is {none}.")
    try:
        row = msgspec.convert(texts, type_, strict=False)
        again = journal.texts(msgspec.structs.asdict(row))
    except (msgspec.ValidationError, ValueError, ArithmeticError) as error:
        raise misfit(Rule.ROW_FORM, f"{what} is {none}: {error}.") from None
    if again != texts:
        name = min(name for name in {*again, *texts} if again.get(name) != texts.get(name))
        here, there = shortened(texts.get(name), again.get(name))
        raise misfit(Rule.ROW_FORM, f"{what} has {name} as {here}, which is written {there}.")
    for name, value in msgspec.structs.asdict(row).items():
        if (problem := _problem(name, value)) is not None:
            raise misfit(Rule.ROW_FORM, f"{what} has {name} as {texts[name]!r}, which is {problem}.")
    return row


def _problem(name: str, value: object) -> str | None:
    """Return what is wrong with a value that every row of the column's name must not have."""
    if isinstance(value, Decimal):
        if not value.is_finite():
            return "no number"
        if name in _ABOVE_ZERO and value <= 0:
            return "not above zero"
    if isinstance(value, int) and not isinstance(value, bool):
        least = 1 if name in _FROM_ONE else 0
        if name in _FROM_ONE | _NOT_BELOW_ZERO and value < least:
            return f"below {least}"
    if name in _TICKERS and isinstance(value, str) and not re.fullmatch(model.TICKER_PATTERN, value):
        return "no ticker"
    if name in _NOT_EMPTY and isinstance(value, str) and not value.strip():
        return "empty"
    return None


def check_repeats(seq: int, mentions: Sequence[Mention]) -> None:
    """Refuse an entry that mentions one row twice."""
    seen = set[tuple[str, UUID]]()
    for mention in mentions:
        if isinstance(mention.row, _MAY_REPEAT):
            continue
        key = (mention.table, mention.row.id)
        if key in seen:
            raise misfit(Rule.MEMBERS, f"Entry {seq} of the journal mentions {key[1]} of {key[0]} twice.")
        seen.add(key)


def ending_of(seq: int, content: Mapping[str, Any]) -> Ending | None:
    """Return the ending of a pick that an entry records, if it records one."""
    if "ending" not in content:
        return None
    what = f"Entry {seq} of the journal: what it calls ending"
    return converted(what, content["ending"], Ending, "none of a pick")


def renaming_of(seq: int, content: Mapping[str, Any]) -> Renaming | None:
    """Return the renaming of a pick that an entry records, if it records one."""
    if "renaming" not in content:
        return None
    what = f"Entry {seq} of the journal: what it calls renaming"
    return converted(what, content["renaming"], Renaming, "none of a pick from a session on")


def key_names(table: str) -> tuple[str, ...]:
    """Return the columns by which a row of a table is known."""
    return ("ticker", "effective_date", "read_at") if table == "splits" else ("id",)


def key_of(table: str, row: Texts) -> str:
    """Return what a row is known by in its table."""
    return " ".join(row[name] for name in key_names(table))


def shortened(*given: str | None) -> Iterator[str]:
    """Yield texts that differ, shortened to the part around their first difference."""
    texts = [text or "" for text in given]
    letters = enumerate(zip(*texts, strict=False))
    start = next((at for at, same in letters if len(set(same)) > 1), 0)
    start = max(0, start - 20) if max(map(len, texts)) > 60 else 0
    for text in given:
        shown = (text or "")[start : start + 60]
        before = "..." if start > 0 else ""
        after = "..." if start + 60 < len(text or "") else ""
        yield "absent" if text is None else f"{before}{shown!r}{after}"
