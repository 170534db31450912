"""
Hooks for schemathesis: rules of the API that the schema cannot express.

schemathesis reads this file because of SCHEMATHESIS_HOOKS (`make audit`, fuzz.mjs). The rules are:

- `first` is 1 to 100, and `bps` is 0 to 10,000;
- `after` is a cursor of the same list;
- a text contains no NUL;
- an id, a ticker, a series, a profile or a Monday is one that the record could have;
- two series that are compared are different ones;
- `from` is not later than `to`;
- an answer has at most 25,000 values and 250 long texts, and no list except a page is longer than
  20: pages are made smaller accordingly.

A value that breaks only one of these rules is replaced by one that keeps it. A value that breaks
the schema itself (another type, too large for an Int, null or missing where a value is required)
stays. An id, a ticker, a series, a profile or a Monday is replaced by one of the record, so that
queries find something.
"""

import json
from collections.abc import Iterable
from functools import cache
from typing import Any
from urllib.request import Request, urlopen
from zlib import crc32

import schemathesis
from graphql import (
    ArgumentNode,
    DocumentNode,
    FieldNode,
    IntValueNode,
    StringValueNode,
    TypeInfo,
    TypeInfoVisitor,
    ValueNode,
    Visitor,
    get_nullable_type,
    is_list_type,
    visit,
)
from schemathesis.graphql import nodes

MAX_PAGE, MAX_LIST, MAX_VALUES = 100, 20, 25_000
MAX_BPS = 10_000
# The fields whose texts may have more than 60 KB (graphql/api/lengths.py), and how many of them an
# answer of 32 MB can hold.
LONG_TEXTS = ("content", "answer", "proof", "chain", "text")
MAX_LONG_TEXTS = 250
INTS = range(-(2**31), 2**31)
RECORD = """{
    batches { edges { cursor node { id series runDate picks { id ticker } } } }
    journal { edges { cursor } }
    series { name profiles { sha256 } }
}"""
LISTS = """query($ticker: String!) {
    picks(ticker: $ticker) { edges { cursor } }
    closes(ticker: $ticker) { edges { cursor } }
    splits(ticker: $ticker) { edges { cursor } }
    dividends(ticker: $ticker) { edges { cursor } }
}"""


@schemathesis.hook
def filter_body(context: schemathesis.HookContext, body: DocumentNode) -> bool:
    """Leave out a query whose answer is too large even with pages of one row."""
    return count_rows(context, body) >= 1


@schemathesis.hook
def map_body(context: schemathesis.HookContext, body: DocumentNode) -> DocumentNode:
    """Replace values that only the schema allows by values that the API accepts."""
    operation: Any = context.operation
    max_rows = min(MAX_PAGE, count_rows(context, body))
    known = read_record(operation.base_url)
    return visit(body, ArgumentReplacer(operation.definition.field_name, max_rows, known))


def count_rows(context: schemathesis.HookContext, body: DocumentNode) -> int:
    """Return how many rows a page may have, so that the answer does not become too large."""
    operation: Any = context.operation
    types = TypeInfo(operation.schema.client_schema)
    counter = ValueCounter(types)
    visit(body, TypeInfoVisitor(types, counter))
    return min(MAX_VALUES // counter.values, MAX_LONG_TEXTS // max(counter.long_texts, 1))


class ValueCounter(Visitor):
    """
    Counts the values and the long texts of an answer with pages of one row.

    Each field counts once in each row that contains it.
    """

    def __init__(self, types: TypeInfo) -> None:
        super().__init__()
        self.types = types
        self.values = 0
        self.long_texts = 0
        # The number of rows at each level of the selection.
        self.rows = [1]

    def enter_field(self, node: FieldNode, *_: object) -> None:
        """Count a field, and enter its rows. A page counts as one row."""
        self.values += self.rows[-1]
        if node.name.value in LONG_TEXTS:
            self.long_texts += self.rows[-1]
        is_list = is_list_type(get_nullable_type(self.types.get_type()))
        is_page = node.name.value in ("nodes", "edges")
        # The lists of the schema are at most this long; the length of a page is chosen later.
        factor = MAX_LIST if is_list and not is_page else 1
        self.rows.append(self.rows[-1] * factor)

    def leave_field(self, *_: object) -> None:
        """Leave the rows of a field."""
        self.rows.pop()


class ArgumentReplacer(Visitor):
    """Replaces the values of arguments of one root field, whose page may have `max_rows` rows."""

    def __init__(self, root: str, max_rows: int, record: dict[str, list[str]]) -> None:
        super().__init__()
        self.root = root
        self.max_rows = max_rows
        self.record = record

    def enter_field(self, node: FieldNode, *_: object) -> FieldNode | None:
        """Swap the ends of a range that ends before it begins, and compare two series."""
        by_name = {argument.name.value: argument.value for argument in node.arguments or ()}
        if node.name.value == "comparison":
            return self._with_arguments(node, self._choose_pair(by_name))
        first, last = by_name.get("from"), by_name.get("to")
        if first is None or last is None:
            return None
        texts = [value.value for value in (first, last) if isinstance(value, StringValueNode)]
        if texts == sorted(texts):
            return None
        return self._with_arguments(node, {"from": last, "to": first})

    def _choose_pair(self, by_name: dict[str, ValueNode]) -> dict[str, ValueNode]:
        """Return two series of the record for `a` and `b`, if both are texts."""
        texts = [value.value for value in by_name.values() if isinstance(value, StringValueNode)]
        known = self.record["series"]
        if len(texts) != len(known[:2]):
            return {}
        first = crc32("".join(texts).encode()) % len(known)
        other = (first + 1) % len(known)
        return {"a": nodes.String(known[first]), "b": nodes.String(known[other])}

    @staticmethod
    def _with_arguments(node: FieldNode, values: dict[str, ValueNode]) -> FieldNode:
        """Return a field with other values for some of its arguments."""
        arguments = [
            ArgumentNode(name=argument.name, value=values.get(argument.name.value, argument.value))
            for argument in node.arguments or ()
        ]
        return FieldNode(
            alias=node.alias,
            name=node.name,
            arguments=tuple(arguments),
            directives=node.directives,
            selection_set=node.selection_set,
        )

    def enter_argument(self, node: ArgumentNode, *_: object) -> ArgumentNode | None:
        """Replace a value by another one of its type."""
        name, value = node.name.value, node.value
        if name == "first" and isinstance(value, IntValueNode) and int(value.value) in INTS:
            rows = int(value.value) % self.max_rows + 1
            return ArgumentNode(name=node.name, value=nodes.Int(rows))
        if name == "bps" and isinstance(value, IntValueNode) and int(value.value) in INTS:
            return ArgumentNode(name=node.name, value=nodes.Int(int(value.value) % (MAX_BPS + 1)))
        # An ID may be written as a number, too.
        if isinstance(value, StringValueNode) or (name == "id" and isinstance(value, IntValueNode)):
            return ArgumentNode(name=node.name, value=self._replace_text(name, value.value))
        return None

    def _replace_text(self, name: str, text: str) -> ValueNode:
        """
        Return one of the record's values for an argument.

        A cursor of a list without any becomes null; another text loses its NUL characters.
        """
        known = self.record.get(f"{self.root}.{name}") or self.record.get(name, [])
        # A checksum, so that the same text always becomes the same value.
        if known:
            return nodes.String(known[crc32(text.encode()) % len(known)])
        if name == "after":
            return nodes.Null
        return nodes.String(text.replace("\0", ""))


@cache
def read_record(url: str) -> dict[str, list[str]]:
    """Return the record's values for each argument, or for each argument of a list."""
    data = fetch(url, RECORD)
    batches = [edge["node"] for edge in data["batches"]["edges"]]
    picks: list[dict[str, str]] = []
    for batch in batches:
        picks += batch["picks"]
    tickers = sorted({pick["ticker"] for pick in picks})
    series = [one["name"] for one in data["series"]]
    profiles: list[str] = []
    for one in data["series"]:
        profiles += [profile["sha256"] for profile in one["profiles"]]
    answers = [data, *(fetch(url, LISTS, ticker=ticker) for ticker in tickers)]
    return {
        "batch.id": [batch["id"] for batch in batches],
        "pick.id": [pick["id"] for pick in picks],
        "series": series,
        "seriesNamed.name": series,
        "profile": profiles,
        "runDate": [batch["runDate"] for batch in batches],
        "ticker": tickers,
        **{
            f"{name}.after": cursors(answers, name)
            for name in ("batches", "journal", "picks", "closes", "splits", "dividends")
        },
    }


def cursors(answers: Iterable[dict[str, Any]], name: str) -> list[str]:
    """Return the cursors of the lists `name` in all answers."""
    result: list[str] = []
    for answer in answers:
        if name in answer:
            result += [edge["cursor"] for edge in answer[name]["edges"]]
    return result


def fetch(url: str, query: str, **variables: str) -> dict[str, Any]:
    """Return the data of a query's answer."""
    body = json.dumps({"query": query, "variables": variables}).encode()
    with urlopen(Request(url, body, {"Content-Type": "application/json"}), timeout=10) as answer:
        data: dict[str, Any] = json.load(answer)["data"]
    return data
