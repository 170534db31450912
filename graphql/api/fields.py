"""
How a GraphQL type says where its data stands. Nothing here knows the domain, and none of it runs when a query does.

`@table` names a type's table; each field is one line: what it is, and its source. SQL names a column by its table
(`picks.ticker`), an argument by a dollar (`$status`), and whether it was left out by a no before it (`$no_status`).
Nested selects shadow outer ones, so `batches.id` is always the nearest batch's. (So no table can be related to itself
without an alias.)
"""

from base64 import b64decode
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime
from enum import Enum
from functools import cache
from inspect import cleandoc
from types import NoneType, UnionType
from typing import Annotated, Any, Generic, TypeVar, cast, get_args, get_origin, get_type_hints
from uuid import UUID

import strawberry
from graphql import GraphQLError
from msgspec import Struct
from strawberry import ID
from strawberry.annotation import StrawberryAnnotation
from strawberry.types.arguments import StrawberryArgument

from api import lengths
from app.domain.text import storable

T = TypeVar("T")

DEFAULT_PAGE = 20
LONGEST_PAGE = 100


class Column(Struct, frozen=True):
    """
    A value of the row: the column of the field's name, or an expression.

    A row for which `needed` holds, a condition on it, must have a value; one for which `only` does not must have none.
    `wrong` is a condition on the row under which the value is none that the record can have.
    """

    sql: str | None = None
    needed: str | None = None
    only: str | None = None
    wrong: str | None = None


class Given(Struct, frozen=True):
    """A value that this process knows: a function of its facts, asked when the query runs."""

    value: Callable[[Any], object]


class Same(Struct, frozen=True):
    """Another view of the same row; in a list, of the same rows."""


class Related(Struct, frozen=True):
    """
    The rows `where` a condition holds: all of them in `order`, usually `about` so many, or the first.

    `beside` names a field of theirs whose row stands beside each of them, so that `order` may name its columns.

    Where `needed` holds, a condition on the row that has the field, there must be one. `link` is its column that names
    the other row: where it does, that one must be there, and where `needed` does not hold, it must name none. `holds`
    is a condition on aggregates of all of them: a list for which it is not true is damaged; `must` is the SQL of what
    an error says that it must have. `sound` is a condition on each row.
    """

    where: str
    order: str | None
    about: int = 1
    beside: str | None = None
    needed: str | None = None
    holds: str | None = None
    link: str | None = None
    sound: str | None = None
    must: str | None = None


class Key(Struct, frozen=True):
    """
    One part of what a cursor holds: how it is read and which type it is in SQL.

    `lowest` and `highest` lie before and after all values; `written` is the SQL of its text.
    """

    read: Callable[[str], object]
    type: str
    lowest: str
    highest: str
    written: str = "({})::text"


class Page(Struct, frozen=True):
    """
    The rows `where` a condition holds, a page at a time, in the order of expressions that are unique together.

    `holds` and `sound` are as in `Related`; `breaks` is the SQL, on aggregates too, of how a page does not hold.
    """

    where: str
    by: Mapping[str, Key]
    newest_first: bool
    holds: str | None = None
    sound: str | None = None
    breaks: str | None = None


class Computed(Struct, frozen=True):
    """
    A value that a function makes of rows, whose parts the fields of its type show: their `Part`s, at whatever depth.

    `rows` is the SQL of one text, whatever `value` reads; `value` gets it as bytes, and the field's arguments by their
    names. It must hang on nothing else, for what it returned is kept, and it is called in a thread. `check` may refuse
    arguments beforehand. It is worth `cost` values of an answer.
    """

    rows: str
    value: Callable[[bytes, Mapping[str, Any]], object]
    check: Callable[[Mapping[str, Any]], None]
    cost: int


class Part(Struct, frozen=True):
    """An attribute of a value, under the field's name; in a list, usually `about` so many."""

    about: int = 1


Source = Column | Given | Same | Related | Page | Computed | Part


def refusal(code: str, message: str, **more: object) -> GraphQLError:
    """Return the error for a caller's mistake, with its code."""
    return GraphQLError(message, extensions={"code": code, **more})


def bad_value(code: str, message: str) -> GraphQLError:
    """Return the error for an argument's value; tools know by the classification that the mistake is the caller's."""
    return refusal(code, message, classification="ValidationError")


def parameter(value: Any) -> object:
    """Return what Postgres gets for an argument: an enum's value, or a text without what no text there can hold."""
    value = getattr(value, "value", value)
    if isinstance(value, str) and storable(value) != value:
        raise bad_value("BAD_TEXT", "A text must hold neither NUL nor lone surrogates.")
    return value


def any_value(value: object, facts: Any) -> None:
    """Accept every value."""


class Argument(Struct, frozen=True):
    """
    An argument of a field, and what Postgres gets for its value.

    `convert` refuses a value that is wrong in itself; `check` one that does not fit what this
    process knows, its facts.
    """

    type: Any
    description: str
    default: Any = strawberry.UNSET
    convert: Callable[[Any], object] = parameter
    check: Callable[[Any, Any], None] = any_value


def _number(text: str) -> int:
    if not -(2**63) <= (value := int(text)) < 2**63:
        raise ValueError(text)
    return value


def _moment(text: str) -> str:
    return datetime.fromisoformat(text).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


DATE = Key(date.fromisoformat, "date", "-infinity", "infinity", "to_char({}, 'YYYY-MM-DD')")
TIME = Key(
    _moment,
    "timestamptz",
    "-infinity",
    "infinity",
    """to_char({} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')""",
)
NUMBER = Key(_number, "bigint", str(-(2**63)), str(2**63 - 1))
ROW_ID = Key(UUID, "uuid", str(UUID(int=0)), str(UUID(int=2**128 - 1)))


def table(name: str = "", row: str = "") -> Callable[[type[T]], type[T]]:
    """
    Make a class the GraphQL type of a table's rows, described by its docstring.

    `row` is the SQL of what an error calls a row, its id if it is left out.
    """

    def declare(cls: type[T]) -> type[T]:
        cls.__table__ = name  # type: ignore[attr-defined]
        cls.__row__ = row or (f"{name}.id" if name else "")  # type: ignore[attr-defined]
        cls.__annotations__ = {field: _shown_as(type_) for field, type_ in cls.__annotations__.items()}
        return strawberry.type(cls, description=cleandoc(cls.__doc__ or ""))

    return declare


def describe(*enums: type[Enum]) -> None:
    """Make enums of ours GraphQL enums: each has a docstring, and each of its values a `description`."""
    for enum in enums:
        decorated: Any = strawberry.enum(enum, description=cleandoc(enum.__doc__ or ""))
        for value in decorated.__strawberry_definition__.values:
            value.description = decorated[value.name].description


def column(
    description: str,
    sql: str | None = None,
    *,
    needed: str | None = None,
    only: str | None = None,
    wrong: str | None = None,
    longest: int | None = None,
) -> Any:
    """
    Declare a field that is a column, or an expression on the row.

    `needed`, `only` and `wrong` are as in `Column`; `longest` is how many bytes a text can have.
    """
    return _field(description, Column(sql, needed, only, wrong), longest=longest)


def given(description: str, value: Callable[[Any], object]) -> Any:
    """Declare a field whose value this process knows."""
    return _field(description, Given(value))


def same(description: str) -> Any:
    """Declare a field that shows the same row, or rows, as another type."""
    return _field(description, Same())


def related(
    description: str,
    where: str = "true",
    *,
    order: str | None = None,
    about: int = 1,
    beside: str | None = None,
    needed: str | None = None,
    holds: str | None = None,
    link: str | None = None,
    sound: str | None = None,
    must: str | None = None,
    **arguments: Argument,
) -> Any:
    """
    Declare a field that is other rows: a list, usually `about` so long, or one of them.

    `needed`, `holds`, `link`, `sound` and `must` are as in `Related`.

    With `beside`, the field of that name is joined to each of them; every row must have one, and `where` must not name
    that table.
    """
    return _field(description, Related(where, order, about, beside, needed, holds, link, sound, must), arguments)


def page(
    description: str,
    where: str = "true",
    *,
    by: Mapping[str, Key],
    newest_first: bool,
    holds: str | None = None,
    sound: str | None = None,
    breaks: str | None = None,
    **arguments: Argument,
) -> Any:
    """Declare a field that is a list too long to be given whole; `holds`, `sound` and `breaks` are as in `Page`."""
    first = Argument(int, f"How many at most: 1 to {LONGEST_PAGE}.", DEFAULT_PAGE, _size)
    after = Argument(str | None, "Only what follows this cursor.", convert=lambda text: _position(text, by.values()))
    return _field(
        description, Page(where, by, newest_first, holds, sound, breaks), {"first": first, "after": after, **arguments}
    )


def computed(
    description: str,
    rows: str,
    value: Callable[[bytes, Mapping[str, Any]], Struct],
    *,
    check: Callable[[Mapping[str, Any]], None],
    cost: int,
    arguments: Mapping[str, Argument],
) -> Any:
    """Declare a field of the root whose value, a struct of the domain, a function makes of rows."""
    return _field(description, Computed(rows, value, check, cost), arguments)


@cache
def type_of(struct: type[Struct]) -> type[Any]:
    """
    Return the GraphQL type that shows each attribute of a struct of the domain under its name.

    The struct declares everything: its docstring describes the type, and the description in a
    field's annotation the field. A list's annotation also says, as `usual_length`, how many items
    there usually are. A field named `id` is an ID.
    """
    annotations: dict[str, Any] = {}
    fields: dict[str, Any] = {}
    hints = get_type_hints(struct, include_extras=True)
    for name in struct.__struct_fields__:
        if get_origin(hints[name]) is not Annotated:
            raise TypeError(f"{struct.__name__}.{name} has no description")
        declared, meta = get_args(hints[name])
        about = meta.extra["usual_length"] if get_origin(declared) is Sequence else 1
        annotations[name] = ID if name == "id" else declared
        fields[name] = _field(meta.description, Part(about))
    body = {"__doc__": struct.__doc__, "__annotations__": annotations, **fields}
    return table()(type(struct.__name__, (), body))


def _shown_as(declared: Any) -> Any:
    """Return an annotation as Strawberry needs it: with the types of structs, and with lists for sequences."""
    if isinstance(declared, type) and issubclass(declared, Struct):
        return type_of(declared)
    if get_origin(declared) is Sequence:
        (item,) = get_args(declared)
        return list[_shown_as(item)]  # type: ignore[misc]
    if isinstance(declared, UnionType):
        (value,) = (one for one in get_args(declared) if one is not NoneType)
        return _shown_as(value) | None
    return declared


def _field(description: str, source: Source, arguments: Mapping[str, Argument] = {}, longest: int | None = None) -> Any:
    metadata = {"source": source, "arguments": arguments, "longest": longest}
    field = cast(Any, strawberry.field(description=description, metadata=metadata))
    field.arguments = [
        StrawberryArgument(name, None, StrawberryAnnotation(a.type), description=a.description, default=a.default)
        for name, a in arguments.items()
    ]
    return field


def _size(first: int) -> int:
    if not 1 <= first <= LONGEST_PAGE:
        raise bad_value("BAD_PAGE_SIZE", f"`first` must be 1 to {LONGEST_PAGE}, not {first}.")
    return first


def _position(cursor: str, keys: Iterable[Key]) -> str:
    """Return what a cursor holds, or refuse what this list never wrote."""
    try:
        position = b64decode(cursor, validate=True).decode()
        parts = zip(keys, position.split(" "), strict=True)
        if " ".join(str(key.read(part)) for key, part in parts) == position:
            return position
    except ValueError:
        pass
    raise bad_value("BAD_CURSOR", "`after` is not a cursor of this list.")


@table()
class PageInfo:
    """Where a page stands in its list."""

    has_next_page: bool = column("Whether rows follow this page.", "$has_next")
    has_previous_page: bool = column("Whether rows come before this page.", "$has_previous")
    start_cursor: str | None = column(
        "The cursor of the page's first row; null when the page is empty.", "$start", longest=lengths.WORD
    )
    end_cursor: str | None = column(
        "The cursor of the page's last row; null when the page is empty.", "$end", longest=lengths.WORD
    )


@table()
class Edge(Generic[T]):
    """A row of a page and its cursor."""

    cursor: str = column("Give it as `after` to go on from here.", "$cursor", longest=lengths.WORD)
    node: T = same("The row.")


@table()
class Connection(Generic[T]):
    """A page of a list."""

    edges: list[Edge[T]] = same("The page's rows, each with its cursor.")
    nodes: list[T] = same("The page's rows.")
    page_info: PageInfo = same("Where the page stands in its list.")
