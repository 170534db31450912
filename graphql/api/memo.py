"""
Remembered results of a function, bounded by their number and by how many objects they are made of.

A full garbage collection walks all objects that may refer to each other, and stops the process meanwhile. The syntax
tree of one long document is thousands of objects. So what counts here is the number of objects: a plan has few, and a
long text.
"""

import gc
from collections import OrderedDict
from collections.abc import Callable
from enum import Enum
from types import FunctionType
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from graphql import GraphQLField, GraphQLNamedType, GraphQLSchema
from msgspec import Struct

from api.fields import Source

# Characters of a text that weigh as much as an object.
CHARACTERS = 256

# What many results refer to, and no result holds for itself alone.
_SHARED = GraphQLSchema | GraphQLNamedType | GraphQLField | Source | Enum | type


class Weighed(Protocol):
    """A result that knows how many objects it is made of."""

    @property
    def weight(self) -> int:
        """Return the number of objects."""


Result = TypeVar("Result", bound=Weighed)
Arguments = tuple[Any, ...]


class Info(NamedTuple):
    """How many results were made, how many are remembered, and what those weigh."""

    misses: int
    currsize: int
    weight: int


class Entry(Struct, frozen=True, gc=False):
    """A remembered result, what it weighs, and the client whose request it was made for."""

    result: Any
    weight: int
    client: str


class Part:
    """Some of the remembered results, by client."""

    def __init__(self) -> None:
        self.entries: dict[Arguments, Entry] = {}
        self.weight = 0
        # In the order in which the clients came last: of two with as much, the one that has been away for longer loses.
        self._by_client: OrderedDict[str, OrderedDict[Arguments, None]] = OrderedDict()
        self._weights: dict[str, int] = {}

    def add(self, arguments: Arguments, entry: Entry) -> None:
        """Add a result, the newest of its client."""
        self.entries[arguments] = entry
        self._by_client.setdefault(entry.client, OrderedDict())[arguments] = None
        self._by_client.move_to_end(entry.client)
        self._weights[entry.client] = self._weights.get(entry.client, 0) + entry.weight
        self.weight += entry.weight

    def use(self, arguments: Arguments, client: str) -> None:
        """Make a result the newest of its client."""
        self._by_client[client].move_to_end(arguments)
        self._by_client.move_to_end(client)

    def remove(self, arguments: Arguments) -> None:
        """Remove a result."""
        entry = self.entries.pop(arguments)
        self.weight -= entry.weight
        self._weights[entry.client] -= entry.weight
        results = self._by_client[entry.client]
        del results[arguments]
        if not results:
            del self._by_client[entry.client], self._weights[entry.client]

    def remove_one(self, *, heaviest: bool) -> None:
        """Remove the oldest result of the client that has the most results, or the heaviest ones."""
        most = max(self._by_client, key=self._weights.__getitem__ if heaviest else self._count_of)
        self.remove(next(iter(self._by_client[most])))

    def _count_of(self, client: str) -> int:
        return len(self._by_client[client])


class Memo(Generic[Result]):
    """
    Remembers results by the arguments they were made of, the first of which is a text.

    Where there is no room, results that were not asked for again make room first, down to a quarter of all: however
    many clients send one new document after the other, the documents that others come back to stay. Of the results
    that make room, the client that has the most of them, or the heaviest ones, loses its oldest one.
    """

    def __init__(self, make: Callable[..., Result], most: int, heaviest: int) -> None:
        self.make, self.most, self.heaviest = make, most, heaviest
        self._new, self._used = Part(), Part()
        self._misses = 0

    def __call__(self, *arguments: Any) -> Result:
        """Return the result, made now if it is not remembered."""
        found = self.get(*arguments)
        return self.put(self.make(*arguments), *arguments) if found is None else found

    def get(self, *arguments: Any) -> Result | None:
        """Return the result if it is remembered."""
        if entry := self._used.entries.get(arguments):
            self._used.use(arguments, entry.client)
        elif entry := self._new.entries.get(arguments):
            self._new.remove(arguments)
            self._used.add(arguments, entry)
        else:
            return None
        return entry.result  # type: ignore[no-any-return]

    def put(self, result: Result, *arguments: Any, client: str = "") -> Result:
        """Remember a new result, and forget others that there is no room for."""
        self._misses += 1
        for part in (self._new, self._used):
            if arguments in part.entries:
                part.remove(arguments)
        weight = result.weight + len(arguments[0]) // CHARACTERS
        self._new.add(arguments, Entry(result, weight, client))
        while self._count() > self.most:
            few = len(self._new.entries) <= self.most // 4
            self._part(few=few).remove_one(heaviest=False)
        while self._weight() > self.heaviest and self._count() > 1:
            few = self._new.weight <= self.heaviest // 4
            self._part(few=few).remove_one(heaviest=True)
        return result

    def results(self) -> list[Result]:
        """Return all that is remembered."""
        return [entry.result for part in (self._new, self._used) for entry in part.entries.values()]

    def cache_info(self) -> Info:
        """Return how much was made and is remembered."""
        return Info(self._misses, self._count(), self._weight())

    def _part(self, *, few: bool) -> Part:
        """Return the part that makes room: the new results, unless there are few of them and others."""
        return self._used if few and self._used.entries else self._new

    def _count(self) -> int:
        return len(self._new.entries) + len(self._used.entries)

    def _weight(self) -> int:
        return self._new.weight + self._used.weight


def weight_of(result: object) -> int:
    """Return how many objects a result consists of, as the garbage collector counts."""
    found: dict[int, object] = {}
    pending = [result]
    texts = 0
    while pending:
        one = pending.pop()
        if isinstance(one, str):
            texts += len(one)
        if not gc.is_tracked(one) or isinstance(one, _SHARED) or id(one) in found:
            continue
        found[id(one)] = one
        # A function also refers to its module.
        pending += (one.__closure__ or ()) if isinstance(one, FunctionType) else gc.get_referents(one)
    return len(found) + texts // CHARACTERS
