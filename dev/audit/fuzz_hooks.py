"""
What the schema cannot say, for schemathesis, which reads this file by SCHEMATHESIS_HOOKS (`make audit`, fuzz.mjs).

- `first` is 1 to 100;
- `after` is a cursor that this list gave;
- a text holds no NUL;
- an id, a ticker, a series or a Monday is one that the record could have;
- `from` is no later than `to`;
- an answer may hold 25,000 values, and no list but a page is longer than 20: pages are made smaller accordingly.

A value that only breaks one of these is replaced by one that does not; one that breaks the schema itself (of another
type, too large for an Int, null or missing where it must be) stays. An id, a ticker, a series or a Monday is replaced
by one that the record holds, so that queries find something.
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

LONGEST_PAGE, LONGEST_LIST, MOST_VALUES = 100, 20, 25_000
INTS = range(-(2**31), 2**31)
RECORD = "{ batches { edges { cursor node { id series runDate picks { id ticker } } } } journal { edges { cursor } } }"
LISTS = """query($ticker: String!) {
    picks(ticker: $ticker) { edges { cursor } }
    closes(ticker: $ticker) { edges { cursor } }
    splits(ticker: $ticker) { edges { cursor } }
}"""


@schemathesis.hook
def filter_body(context: schemathesis.HookContext, body: DocumentNode) -> bool:
    """Leave out what holds too much even with pages of one row."""
    return values(context, body) <= MOST_VALUES


@schemathesis.hook
def map_body(context: schemathesis.HookContext, body: DocumentNode) -> DocumentNode:
    """Put what can be sent in the place of what only the schema lets through."""
    operation: Any = context.operation
    most = min(LONGEST_PAGE, MOST_VALUES // values(context, body))
    return visit(body, Sendable(operation.definition.field_name, most, recorded(operation.base_url)))


def values(context: schemathesis.HookContext, body: DocumentNode) -> int:
    """Return how many values an answer may hold with pages of one row."""
    operation: Any = context.operation
    types = TypeInfo(operation.schema.client_schema)
    counting = Counting(types)
    visit(body, TypeInfoVisitor(types, counting))
    return counting.values


class Counting(Visitor):
    """Counts the values of an answer: one for each field, in each row that it stands in."""

    def __init__(self, types: TypeInfo) -> None:
        super().__init__()
        self.types, self.values, self.rows = types, 0, [1]

    def enter_field(self, node: FieldNode, *_: object) -> None:
        """Count a field, and go into its rows; a page's have their number from `first`."""
        self.values += self.rows[-1]
        many = is_list_type(get_nullable_type(self.types.get_type())) and node.name.value not in ("nodes", "edges")
        self.rows.append(self.rows[-1] * (LONGEST_LIST if many else 1))

    def leave_field(self, *_: object) -> None:
        """Go back to the rows around a field."""
        self.rows.pop()


class Sendable(Visitor):
    """Replaces the values of arguments below one root field, whose page may have `most` rows."""

    def __init__(self, root: str, most: int, record: dict[str, list[str]]) -> None:
        super().__init__()
        self.root, self.most, self.record = root, most, record

    def enter_field(self, node: FieldNode, *_: object) -> FieldNode | None:
        """Turn a range around that ends before it begins."""
        ends = {argument.name.value: argument for argument in node.arguments or ()}
        first, last = ends.get("from"), ends.get("to")
        texts = [end.value.value for end in (first, last) if end and isinstance(end.value, StringValueNode)]
        if not (first and last) or texts == sorted(texts):
            return None
        turned = {"from": last.value, "to": first.value}
        arguments = [
            ArgumentNode(name=one.name, value=turned.get(one.name.value, one.value)) for one in node.arguments or ()
        ]
        return FieldNode(
            alias=node.alias,
            name=node.name,
            arguments=tuple(arguments),
            directives=node.directives,
            selection_set=node.selection_set,
        )

    def enter_argument(self, node: ArgumentNode, *_: object) -> ArgumentNode | None:
        """Replace a value by another of its type."""
        name, value = node.name.value, node.value
        if name == "first" and isinstance(value, IntValueNode) and int(value.value) in INTS:
            return ArgumentNode(name=node.name, value=nodes.Int(int(value.value) % self.most + 1))
        # An ID may be written as a number, too.
        if isinstance(value, StringValueNode) or (name == "id" and isinstance(value, IntValueNode)):
            return ArgumentNode(name=node.name, value=self.text(name, value.value))
        return None

    def text(self, name: str, text: str) -> ValueNode:
        """Return one of the record's values of this argument; a cursor that no list gave is left out."""
        known = self.record.get(f"{self.root}.{name}") or self.record.get(name, [])
        if known:
            return nodes.String(known[crc32(text.encode()) % len(known)])
        return nodes.Null if name == "after" else nodes.String(text.replace("\0", ""))


@cache
def recorded(url: str) -> dict[str, list[str]]:
    """Return what the record holds of each argument, or each list's argument."""
    told = ask(url, RECORD)
    batches = [edge["node"] for edge in told["batches"]["edges"]]
    picks = [pick for batch in batches for pick in batch["picks"]]
    tickers = sorted({pick["ticker"] for pick in picks})
    lists = [told, *(ask(url, LISTS, ticker=ticker) for ticker in tickers)]
    return {
        "batch.id": [batch["id"] for batch in batches],
        "pick.id": [pick["id"] for pick in picks],
        "series": sorted({batch["series"] for batch in batches}),
        "runDate": [batch["runDate"] for batch in batches],
        "ticker": tickers,
        **{f"{name}.after": list(cursors(lists, name)) for name in ("batches", "journal", "picks", "closes", "splits")},
    }


def cursors(lists: Iterable[dict[str, Any]], name: str) -> Iterable[str]:
    """Return the cursors of all lists of a name."""
    return (edge["cursor"] for told in lists if name in told for edge in told[name]["edges"])


def ask(url: str, query: str, **variables: str) -> dict[str, Any]:
    """Return the data of one query's answer."""
    body = json.dumps({"query": query, "variables": variables}).encode()
    with urlopen(Request(url, body, {"Content-Type": "application/json"}), timeout=10) as answer:
        data: dict[str, Any] = json.load(answer)["data"]
    return data
