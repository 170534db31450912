"""
The content of a journal entry, as values of the record.

An entry arrives as the journal writes it: every value is a text, and the entry lacks the members
that have no value. The rows of the entry become values of the types of `app.domain.model`, if they
have exactly the form of the journal.
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
from app.domain.declarations import (
    AnyDeclaration,
    Genesis,
    ProviderResponse,
    RecordSettings,
    SeriesDeclaration,
    declaration_type,
)
from app.domain.model import (
    Batch,
    Checkpoint,
    Close,
    Correction,
    Dividend,
    Ending,
    FurtherBenchmark,
    Generation,
    JournalKind,
    Pick,
    PickMetric,
    Rate,
    Renaming,
    Split,
)
from app.domain.prompt import MAX_PROBABILITY, MIN_PROBABILITY
from app.domain.verification.discrepancies import Rule, discrepancy

# A row in the form of the journal and of the API: each value is a text.
TextRow = Mapping[str, str]
AnyRow = (
    Generation
    | Batch
    | Pick
    | Checkpoint
    | PickMetric
    | FurtherBenchmark
    | Correction
    | Close
    | Split
    | Dividend
    | Rate
)
R = TypeVar("R", bound=AnyRow)

TABLES: Mapping[str, type[AnyRow]] = {
    "generations": Generation,
    "batches": Batch,
    "picks": Pick,
    "checkpoints": Checkpoint,
    "pick_checkpoint_metrics": PickMetric,
    "further_benchmarks": FurtherBenchmark,
    "corrections": Correction,
    "closes": Close,
    "splits": Split,
    "dividends": Dividend,
    "rates": Rate,
}

# The members of an entry that hold rows, each with its table.
MEMBERS = {
    "generation": "generations",
    "generations": "generations",
    "batch": "batches",
    "pick": "picks",
    "picks": "picks",
    "checkpoint": "checkpoints",
    "metrics": "pick_checkpoint_metrics",
    "further_benchmark": "further_benchmarks",
    "corrections": "corrections",
    "closes": "closes",
    "splits": "splits",
    "dividends": "dividends",
    "rates": "rates",
}
# Those of `MEMBERS` that are lists of rows; each other member of `MEMBERS` is one row.
_LIST_MEMBERS = frozenset(
    {"generations", "picks", "metrics", "corrections", "closes", "splits", "dividends", "rates"}
)

# An EXTENSION entry has the members of one of these two sets, and none of the other: it adds total
# returns, or the return of a further benchmark.
_EXTENSION_MEMBERS = (
    {"checkpoint", "metrics", "dividends"},
    {"further_benchmark", "closes", "splits"},
)

# For each kind of entry, the members that it must have and those that it may have, besides `seq`,
# `kind` and `at`.
_MEMBERS_BY_KIND = {
    JournalKind.GENERATION: ({"generation"}, set[str]()),
    JournalKind.BATCH: ({"batch", "picks", "checkpoint", "closes"}, set[str]()),
    JournalKind.FAILURE: ({"batch"}, set[str]()),
    JournalKind.CHECKPOINT: ({"checkpoint"}, {"metrics", "closes", "splits", "picks", "batch"}),
    JournalKind.CORRECTION: (
        {"corrections", "checkpoint"},
        {
            "batch",
            "picks",
            "metrics",
            "further_benchmark",
            "closes",
            "splits",
            "dividends",
            "reason",
        },
    ),
    JournalKind.PICK_ENDED: ({"pick", "ending"}, set[str]()),
    JournalKind.PICK_RENAMED: ({"pick", "before"}, {"renaming"}),
    JournalKind.GENESIS: ({"genesis", "settings"}, set[str]()),
    JournalKind.SETTINGS: ({"settings"}, {"sealed"}),
    JournalKind.SERIES: ({"series"}, set[str]()),
    JournalKind.READINGS: (
        {"closes", "splits"},
        {"response", "adopted", "generations", "dividends", "rates"},
    ),
    JournalKind.EXTENSION: (set[str](), set[str]().union(*_EXTENSION_MEMBERS)),
    JournalKind.CHECK: ({"check", "rates"}, set[str]()),
    JournalKind.RULES: ({"rules"}, set[str]()),
}
# The entries of these kinds belong to no batch.
_KINDS_WITHOUT_BATCH = (
    JournalKind.GENESIS,
    JournalKind.SETTINGS,
    JournalKind.SERIES,
    JournalKind.READINGS,
    JournalKind.CHECK,
    JournalKind.RULES,
)
# The `batch_id` of an entry of a database that belongs to no batch.
NO_BATCH = "none"
# A READINGS entry has the members of one of these two sets, and none of the other. It may also have
# `dividends` or `rates`.
_READINGS_MEMBERS = ({"response"}, {"adopted", "generations"})
# The members that have the value true, or are absent.
_MARKERS = ("sealed", "adopted")
_COMMON_MEMBERS = {"seq", "kind", "at"}

# One entry may mention a row of these types more than once: two figures can use one reading.
_MAY_REPEAT = (Close, Split, Dividend, Rate)

# The next sets contain names of columns, whatever their table is. The rule `row-form` limits the
# values of these columns (docs/journal.md#the-values-of-a-row). The first set has the prices and
# the factors.
_ABOVE_ZERO = frozenset(
    {
        "benchmark_initial_price",
        "initial_price",
        "entry_open",
        "benchmark_price",
        "benchmark_split_factor",
        "current_price",
        "split_factor",
        "further_initial_price",
        "further_price",
        "further_split_factor",
        "open",
        "close",
        "factor",
        "value",
    }
)
# The amounts of dividends.
_NOT_NEGATIVE = frozenset({"amount", "dividends", "benchmark_dividends"})
_AT_LEAST_ZERO = frozenset({"prompt_tokens", "completion_tokens", "reasoning_tokens", "day"})
_AT_LEAST_ONE = frozenset({"attempt", "position"})
_TICKERS = frozenset({"ticker", "benchmark_symbol", "symbol"})
_NOT_EMPTY = frozenset({"source", "series", "reason", "reasoning"})

# In characters. A message quotes at most `_MAX_QUOTED` characters of each of two values. The quoted
# part of a long value begins `_CONTEXT_BEFORE` characters before the first difference of the two.
_MAX_QUOTED = 60
_CONTEXT_BEFORE = 20


class Mention(Struct, frozen=True):
    """
    A row that an entry holds: its table and its values.

    `before` has the row's values in its last mention before this entry; None if no earlier entry
    mentions the row.
    """

    table: str
    row: AnyRow
    before: AnyRow | None


class ParsedEntry(Struct, frozen=True):
    """
    An entry of the journal with the rows that it mentions, as values of the record.

    `content` has all members of the entry in the form of the journal. `hash` is the hash of the
    entry. The other members have the values of the members of the same name, None if the entry does
    not have them.
    """

    seq: int
    kind: JournalKind
    at: datetime
    content: Mapping[str, Any]
    hash: str
    mentions: Sequence[Mention]
    ending: Ending | None = None
    renaming: Renaming | None = None
    genesis: Genesis | None = None
    settings: RecordSettings | None = None
    series: AnyDeclaration | None = None
    response: ProviderResponse | None = None

    @property
    def is_adoption(self) -> bool:
        """Return whether the entry mentions rows from before the record was sealed."""
        return "adopted" in self.content

    @property
    def is_sealing(self) -> bool:
        """Return whether the record is sealed from this entry on."""
        return "sealed" in self.content

    def rows(self, type_: type[R]) -> list[R]:
        """Return the rows of a type, in the order of the entry."""
        return [mention.row for mention in self.mentions if isinstance(mention.row, type_)]

    def mentions_of(self, type_: type[AnyRow]) -> list[Mention]:
        """Return the mentions of rows of a type, in the order of the entry."""
        return [mention for mention in self.mentions if isinstance(mention.row, type_)]

    def first_row(self, type_: type[R]) -> R | None:
        """Return the first row of a type; None if the entry has no such row."""
        return next(iter(self.rows(type_)), None)


def parse_content(seq: int, content: str) -> dict[str, Any]:
    """
    Return the members of an entry's content.

    Raises Discrepancy if the content is not canonical JSON. A value has only one canonical form, so
    the content must equal the encoding of its members.
    """
    # A forged content may be any text, also one that is nested too deeply for the decoder.
    with suppress(ValueError, RecursionError):
        members = json.loads(content)
        if (
            isinstance(members, dict)
            and journal.canonical_json(members) == content
            and not _has_nul(content)
        ):
            return members
    raise discrepancy(
        Rule.CANONICAL,
        f"Entry {seq} of the journal is not canonical JSON. Alpha Monday did not write it in this "
        "form.",
    )


def _has_nul(content: str) -> bool:
    """Return whether a text in canonical JSON has U+0000, which no text of the journal may have."""
    # In canonical JSON, U+0000 is always escaped. Two backslashes are one that is escaped itself.
    return r"\u0000" in content.replace(r"\\", "")


def check_complete(seq: int, entry: TextRow) -> None:
    """Raise Discrepancy for an entry that lacks one of its columns."""
    for name in ("seq", "kind", "at", "content", "previous", "hash"):
        if name not in entry:
            raise discrepancy(Rule.COLUMNS, f"Entry {seq} of the journal: it has no {name}.")


def check_link(seq: int, previous: str, entry: TextRow) -> None:
    """
    Raise Discrepancy unless the entry is entry `seq`, which follows entry `seq - 1`.

    `previous` is the hash of entry `seq - 1`, or GENESIS_HASH for the first entry.
    """
    place = f"Entry {seq} of the journal"
    if entry["seq"] != str(seq):
        raise discrepancy(
            Rule.CHAIN, f"{place} is not there: after entry {seq - 1} comes {entry['seq']}."
        )
    if entry["previous"] != previous:
        raise discrepancy(
            Rule.CHAIN,
            f"{place} follows the hash {entry['previous']}, but entry {seq - 1} has the hash "
            f"{previous}. One of the two was changed, or entries between them were removed.",
        )
    expected = journal.entry_hash(previous, entry["content"])
    if entry["hash"] != expected:
        raise discrepancy(
            Rule.CHAIN,
            f"{place} has the hash {entry['hash']}, but its content gives {expected}. "
            "It was changed after it was written.",
        )


def check_columns(seq: int, entry: TextRow, content: Mapping[str, Any]) -> None:
    """Raise Discrepancy for an entry whose columns differ from its content."""
    batch_id = entry_batch_id(content)
    if content.get("kind") in _KINDS_WITHOUT_BATCH:
        batch_id = NO_BATCH
    expected = {**content, "batch_id": batch_id}
    names = ["seq", "kind", "at"]
    # How the batch follows from the content is known for the known kinds only.
    if is_known_kind(content):
        names.append("batch_id")
    for name in names:
        # An entry that was read from an API (`verify --from`) has no batch_id.
        if name not in entry or entry[name] == expected.get(name):
            continue
        here, there = show_difference(entry[name], expected.get(name))
        raise discrepancy(
            Rule.COLUMNS,
            f"Entry {seq} of the journal: its {name} is {here}, but its content says {there}.",
        )


def entry_batch_id(content: Mapping[str, Any]) -> str | None:
    """Return the id of the batch that an entry belongs to; None if the content names none."""
    match content:
        case (
            {"batch": {"id": str(id)}}
            | {"checkpoint": {"batch_id": str(id)}}
            | {"pick": {"batch_id": str(id)}}
            | {"picks": [{"batch_id": str(id)}, *_]}
            | {"further_benchmark": {"batch_id": str(id)}}
        ):
            return id
        # The batch of a question may not be stored yet, but its id follows from the series and the
        # run date.
        case {"generation": {"series": str(series), "run_date": str(run_date)}}:
            with suppress(ValueError):
                return str(model.batch_id(series, date.fromisoformat(run_date)))
    return None


def is_known_kind(content: Mapping[str, Any]) -> bool:
    """Return whether this version knows the rules for entries of the kind of `content`."""
    kind = content.get("kind")
    # A forged kind may be a list, which cannot be looked up.
    return isinstance(kind, str) and kind in _MEMBERS_BY_KIND


def entry_kind(seq: int, content: Mapping[str, Any]) -> JournalKind:
    """
    Return the kind of an entry, which must be a known one (`is_known_kind`).

    Raises Discrepancy for an entry that does not have exactly the members of its kind.
    """
    place = f"Entry {seq} of the journal"
    kind = JournalKind(content["kind"])
    needed, allowed = _MEMBERS_BY_KIND[kind]
    missing = sorted((needed | _COMMON_MEMBERS) - content.keys())
    if missing:
        raise discrepancy(Rule.MEMBERS, f"{place}: a {kind} entry without {' and '.join(missing)}.")
    unknown = sorted(content.keys() - needed - allowed - _COMMON_MEMBERS)
    if unknown:
        raise discrepancy(
            Rule.MEMBERS,
            f"{place}: a {kind} entry does not have {' and '.join(map(repr, unknown))}.",
        )
    if kind is JournalKind.READINGS:
        _check_readings_members(place, content)
    if kind is JournalKind.EXTENSION:
        _check_extension_members(place, content)
    for member in _MARKERS:
        if content.get(member, "true") != "true":
            raise discrepancy(
                Rule.MEMBERS, f"{place}: its member {member} is not 'true', which it must be."
            )
    for member in sorted(content.keys() & MEMBERS.keys()):
        _check_shape(place, member, content[member])
    return kind


def _check_readings_members(place: str, content: Mapping[str, Any]) -> None:
    """Raise Discrepancy unless a READINGS entry is either about a response or adopts rows."""
    members = content.keys() & set.union(*_READINGS_MEMBERS)
    if members in _READINGS_MEMBERS:
        return
    raise discrepancy(
        Rule.MEMBERS,
        f"{place}: a READINGS entry has either response, or adopted and generations.",
    )


def _check_extension_members(place: str, content: Mapping[str, Any]) -> None:
    """Raise Discrepancy unless an EXTENSION entry has the members of one of its two forms."""
    if content.keys() - _COMMON_MEMBERS in _EXTENSION_MEMBERS:
        return
    raise discrepancy(
        Rule.MEMBERS,
        f"{place}: an EXTENSION entry has either checkpoint, metrics and dividends, or "
        "further_benchmark, closes and splits.",
    )


def _check_shape(place: str, member: str, value: object) -> None:
    """Raise Discrepancy for a list in place of one row, or one row in place of a list."""
    is_list = member in _LIST_MEMBERS
    if isinstance(value, list) == is_list:
        return
    shape = "one row"
    if is_list:
        shape = "a list of rows"
    raise discrepancy(Rule.MEMBERS, f"{place}: its member {member} is not {shape}.")


def entry_time(seq: int, content: Mapping[str, Any]) -> datetime:
    """Return the `at` of an entry; raises Discrepancy if it does not have the journal's form."""
    # A forged value may be no text at all, or a time that no calendar has.
    with suppress(ValueError, TypeError, OverflowError):
        at = datetime.fromisoformat(content["at"])
        if journal.format_timestamp(at) == content["at"]:
            return at
    raise discrepancy(
        Rule.ROW_FORM,
        f"Entry {seq} of the journal has {content['at']!r} as its at, which is no time.",
    )


def iter_rows(content: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Yield the rows of an entry as (member, table, row); each row is as the entry has it."""
    for member, table in MEMBERS.items():
        rows = content.get(member, [])
        if not isinstance(rows, list):
            rows = [rows]
        for row in rows:
            yield member, table, row


def parse_row(seq: int, member: str, table: str, texts: Any) -> AnyRow:
    """Return a row of an entry as a value; raises Discrepancy if its form is not the journal's."""
    subject = f"Entry {seq} of the journal: its member {member}"
    return parse_struct(texts, TABLES[table], subject=subject, problem=f"no row of {table}")


S = TypeVar("S", bound=Struct)


def parse_struct(texts: Any, type_: type[S], *, subject: str, problem: str) -> S:
    """
    Return the value of `type_` that `texts` represent.

    The journal writes a value in only one form, so `texts` must equal this form; otherwise this
    function raises Discrepancy. The message of the error begins with `subject`, which names the
    texts, and may contain `problem`, such as "no reading".
    """
    if not isinstance(texts, dict) or not all(isinstance(one, str) for one in texts.values()):
        raise discrepancy(Rule.ROW_FORM, f"{subject} is {problem}.")
    try:
        row = msgspec.convert(texts, type_, strict=False)
        expected = journal.to_texts(msgspec.structs.asdict(row))
    except (msgspec.ValidationError, ValueError, ArithmeticError) as error:
        raise discrepancy(Rule.ROW_FORM, f"{subject} is {problem}: {error}.") from None

    if expected != texts:
        name = first_difference(texts, expected)
        here, there = show_difference(texts.get(name), expected.get(name))
        raise discrepancy(Rule.ROW_FORM, f"{subject} has {name} as {here}, which must be {there}.")
    for name, value in msgspec.structs.asdict(row).items():
        value_problem = _value_problem(name, value)
        if value_problem is not None:
            raise discrepancy(
                Rule.ROW_FORM, f"{subject} has {name} as {texts[name]!r}, which is {value_problem}."
            )
    return row


def first_difference(texts: TextRow, others: TextRow) -> str:
    """Return the alphabetically first column in which two rows differ; they must differ."""
    names = {*texts, *others}
    return min(name for name in names if texts.get(name) != others.get(name))


def _value_problem(name: str, value: object) -> str | None:
    """
    Return why a column of this name must not have this value; None if it may.

    Definition: docs/journal.md#the-values-of-a-row.
    """
    # For Python a bool is an int, but no rule limits the bools of a row.
    match value:
        case Decimal():
            return _decimal_problem(name, value)
        case int() if not isinstance(value, bool):
            return _integer_problem(name, value)
        case str():
            return _text_problem(name, value)
    return None


def _decimal_problem(name: str, value: Decimal) -> str | None:
    if not value.is_finite():
        return "no number"
    if name in _ABOVE_ZERO and value <= 0:
        return "not above zero"
    if name in _NOT_NEGATIVE and value < 0:
        return "below zero"
    return None


def _integer_problem(name: str, value: int) -> str | None:
    if name in _AT_LEAST_ONE and value < 1:
        return "below 1"
    if name in _AT_LEAST_ZERO and value < 0:
        return "below 0"
    if name == "probability" and not MIN_PROBABILITY <= value <= MAX_PROBABILITY:
        return f"not from {MIN_PROBABILITY} to {MAX_PROBABILITY}"
    return None


def _text_problem(name: str, value: str) -> str | None:
    if name in _TICKERS and not re.fullmatch(model.TICKER_PATTERN, value):
        return "no ticker"
    if name in _NOT_EMPTY and not value.strip():
        return "empty"
    return None


def check_repeats(seq: int, mentions: Sequence[Mention]) -> None:
    """Raise Discrepancy for an entry that mentions a row twice, except a row of `_MAY_REPEAT`."""
    seen = set[tuple[str, UUID]]()
    for mention in mentions:
        if isinstance(mention.row, _MAY_REPEAT):
            continue
        key = (mention.table, mention.row.id)
        if key in seen:
            raise discrepancy(
                Rule.MEMBERS, f"Entry {seq} of the journal mentions {key[1]} of {key[0]} twice."
            )
        seen.add(key)


def parse_ending(seq: int, content: Mapping[str, Any]) -> Ending | None:
    """Return the ending of a pick that an entry records; None if it records none."""
    if "ending" not in content:
        return None
    subject = f"Entry {seq} of the journal: its member ending"
    return parse_struct(content["ending"], Ending, subject=subject, problem="no ending of a pick")


def parse_renaming(seq: int, content: Mapping[str, Any]) -> Renaming | None:
    """Return the renaming of a pick that an entry records; None if it records none."""
    if "renaming" not in content:
        return None
    subject = f"Entry {seq} of the journal: its member renaming"
    return parse_struct(
        content["renaming"], Renaming, subject=subject, problem="no renaming of a pick"
    )


D = TypeVar("D", bound=Genesis | RecordSettings | SeriesDeclaration | ProviderResponse)


def parse_member(seq: int, content: Mapping[str, Any], member: str, type_: type[D]) -> D | None:
    """
    Return a member that is no row, as a value of `type_`; None if the entry does not have it.

    Raises Discrepancy if the member does not have exactly the form of the journal.
    """
    if member not in content:
        return None
    texts = content[member]
    subject = f"Entry {seq} of the journal: its member {member}"
    try:
        value = msgspec.convert(texts, type_, strict=False)
        expected = journal.to_texts(msgspec.structs.asdict(value))
    except (msgspec.ValidationError, ValueError, OverflowError) as error:
        raise discrepancy(
            Rule.ROW_FORM, f"{subject} is not of the form of {member}: {error}."
        ) from None
    if expected != texts:
        name = first_difference(texts, expected)
        here, there = show_difference(_show(texts.get(name)), _show(expected.get(name)))
        raise discrepancy(Rule.ROW_FORM, f"{subject} has {name} as {here}, which must be {there}.")
    for name, text in texts.items():
        if isinstance(text, str) and (problem := _text_problem(name, text)):
            raise discrepancy(
                Rule.ROW_FORM, f"{subject} has {name} as {text!r}, which is {problem}."
            )
    return value


def parse_series(seq: int, content: Mapping[str, Any]) -> AnyDeclaration | None:
    """Return the series that an entry declares; None if it declares none."""
    type_ = declaration_type(content.get("series"))
    return parse_member(seq, content, member="series", type_=type_)


def _show(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def key_columns(table: str) -> tuple[str, ...]:
    """Return the columns that identify a row of a table."""
    if table == "splits":
        return ("ticker", "effective_date", "read_at")
    if table == "dividends":
        return ("ticker", "ex_date", "read_at")
    if table == "rates":
        return ("observed_on", "read_at")
    return ("id",)


def row_key(table: str, row: TextRow) -> str:
    """Return the text that identifies a row in its table."""
    return " ".join(row[name] for name in key_columns(table))


def show_difference(first: str | None, second: str | None) -> tuple[str, str]:
    """
    Return two texts that differ, in a form for a message.

    Long texts are cut to the part around their first difference. None becomes `absent`.
    """
    start = 0
    if max(len(first or ""), len(second or "")) > _MAX_QUOTED:
        start = max(0, _first_different_letter(first or "", second or "") - _CONTEXT_BEFORE)
    return _quote_part(first, start), _quote_part(second, start)


def _first_different_letter(first: str, second: str) -> int:
    """Return the place of the first difference; 0 if one text is the beginning of the other."""
    for place, (here, there) in enumerate(zip(first, second, strict=False)):
        if here != there:
            return place
    return 0


def _quote_part(text: str | None, start: int) -> str:
    if text is None:
        return "absent"
    end = start + _MAX_QUOTED
    quoted = repr(text[start:end])
    if start > 0:
        quoted = f"...{quoted}"
    if end < len(text):
        quoted = f"{quoted}..."
    return quoted
