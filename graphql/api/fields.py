"""
How a GraphQL type declares where its data comes from.

Nothing here depends on the types of the record. `@table` names the table of a type. Each field is
one declaration: its description and its source. The compiler (`api.compiler`) reads the sources and
builds the SQL.

In the SQL of a source, a column has the name of its table before it (`picks.ticker`), and an
argument has a dollar before it (`$status`). `$no_status` is true if the argument `status` is null
or was not given. A table in a nested SELECT hides the same table of the outer SELECTs, so
`batches.id` always means the batch of the innermost SELECT from `batches`. For the same reason a
table can be related to itself only under an alias.
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
from app.domain.text import make_storable

T = TypeVar("T")

DEFAULT_PAGE_SIZE = 20
MAX_PAGE_SIZE = 100


class Fact(Struct, frozen=True):
    """
    A value that the process knows and the database does not know.

    An expression uses it under a name, as in `$now`. `type` is its type in SQL. When the query
    runs, `value` gets the facts (`api.schema.Facts`) and returns the value.

    `is_cacheable` is false if the response must not be cached. It may be true only if each change
    of the expression's result is announced by a notification, or if the result never changes.
    """

    type: str
    value: Callable[[Any], object]
    is_cacheable: bool = False


class Column(Struct, frozen=True):
    """
    A value of one row: the column that has the same name as the field, or the expression `sql`.

    `facts` are the values of the process that `sql` uses, by name.

    The other attributes are conditions on this row, in SQL:

    - `required_if`: where it is true, the value must not be null.
    - `allowed_if`: where it is not true, the value must be null. None allows a value everywhere.
    - `invalid_if`: where it is true, the value is damaged: no service could have stored it.
    """

    sql: str | None = None
    required_if: str | None = None
    allowed_if: str | None = None
    invalid_if: str | None = None
    facts: Mapping[str, Fact] = {}


class Same(Struct, frozen=True):
    """
    A nested object that shows the same row as its parent.

    If the field is a list (`nodes`, `edges`), its parent is a page, and the list shows all rows of
    this page.
    """


class Related(Struct, frozen=True):
    """
    The rows for which the condition `where` is true.

    If the field is a list, it has all of these rows. Otherwise it has the first of them by `order`;
    without `order`, several rows are an error. All strings are SQL.

    - `order` sorts the rows; `usual_length` is the usual number of rows.
    - `join` names a field of the target type. The row of that field is joined to each related row,
      so that `order` may name columns of the joined row.
    - `required_if` is a condition on the row that has the field: where it is true, a related row
      must exist.
    - `foreign_key` has an effect only together with `required_if`. It is the column with the
      related row's id, in the row that has the field. Where this column is not null, the related
      row must exist. Where `required_if` is not true, this column must be null.
    - `valid_if` is a condition on aggregates over all related rows. A list for which it is not true
      is damaged. `expected` describes in the error what the list must contain.
    - `row_valid_if` is a condition that each related row must fulfil.
    """

    where: str
    order: str | None
    usual_length: int = 1
    join: str | None = None
    required_if: str | None = None
    valid_if: str | None = None
    foreign_key: str | None = None
    row_valid_if: str | None = None
    expected: str | None = None


class Key(Struct, frozen=True):
    """
    One part of a cursor: the function that parses it, and its type in SQL.

    `lowest` is below all values of a column, and `highest` above all of them. `text_sql` is the SQL
    that writes a value as text, with `{}` in place of the value.
    """

    parse: Callable[[str], object]
    type: str
    lowest: str
    highest: str
    text_sql: str = "({})::text"


class Paginated(Struct, frozen=True):
    """
    The rows for which `where` is true, one page at a time.

    `sort_keys` are the expressions that sort the rows. No two rows have the same values of all of
    these expressions. `valid_if` and `row_valid_if` are as in `Related`, but `valid_if` is about
    the rows of one page. `problem` is SQL: the arguments of concat(), which returns the text that
    says what is wrong with a page. These arguments may use aggregates.
    """

    where: str
    sort_keys: Mapping[str, Key]
    descending: bool
    valid_if: str | None = None
    row_valid_if: str | None = None
    problem: str | None = None


class Computed(Struct, frozen=True):
    """
    A value that a function computes from rows. Each field of the value's type is a `ValuePart`.

    - `rows` is a SELECT that returns all rows as one text, in the form that `compute` reads.
    - `compute` gets this text as bytes, and the arguments of the field by name. Its result must
      depend on nothing else, because results are cached. It runs in a thread.
    - `check` raises an error for invalid arguments, before the rows are read.
    - `cost` is added to the estimated number of values of a response, for the work of `compute`. It
      is added once for a field, also for a field of a list: the work depends on the length of the
      rows, and the rows of all items together are limited (`api.guard`).
    - `row_arguments` are further arguments of `compute`, by name: SQL expressions on the row that
      has the field. The SQL of `rows` may use them, too. A field of the root has none.
    """

    rows: str
    compute: Callable[[bytes, Mapping[str, Any]], object]
    check: Callable[[Mapping[str, Any]], None]
    cost: int
    row_arguments: Mapping[str, str] = {}


class ValuePart(Struct, frozen=True):
    """
    The attribute of a computed value that has the same name as the field.

    If this attribute is a list, it usually has `usual_length` items. If the field has arguments,
    the attribute is a function of these arguments, and the field shows its result. The function
    runs while other requests wait, so its work must not grow with the record.
    """

    usual_length: int = 1


Source = Column | Same | Related | Paginated | Computed | ValuePart


def api_error(code: str, message: str, **extensions: object) -> GraphQLError:
    """Return a GraphQL error with `code` and `extensions` in the error's extensions."""
    return GraphQLError(message, extensions={"code": code, **extensions})


def bad_value(code: str, message: str) -> GraphQLError:
    """
    Return the error for an unusable value of an argument.

    The member `classification` of its extensions tells programs that the mistake is the client's.
    """
    return api_error(code, message, classification="ValidationError")


class UnknownNameError(GraphQLError):
    """
    An argument is a name that this process does not know, but the record may have it by now.

    The engine then reads the names of the record again (`api.engine.KnownFacts`), and checks the
    argument once more.
    """


def to_parameter(value: Any) -> object:
    """
    Return the value that Postgres gets for an argument; for an enum, its stored text.

    Raises BAD_TEXT for characters that no text of Postgres can hold.
    """
    value = getattr(value, "value", value)
    if isinstance(value, str) and make_storable(value) != value:
        raise bad_value("BAD_TEXT", "A text must contain neither NUL nor lone surrogates.")
    return value


def accept_any(value: object, facts: Any) -> None:
    """Accept every value."""


class Argument(Struct, frozen=True):
    """
    An argument of a field, and how its value becomes a parameter of the statement.

    `convert` returns the parameter, and raises an error for a value that is never valid. `check`
    raises an error for a value that is not valid in this process (`api.schema.Facts`).
    """

    type: Any
    description: str
    default: Any = strawberry.UNSET
    convert: Callable[[Any], object] = to_parameter
    check: Callable[[Any, Any], None] = accept_any


def _parse_bigint(text: str) -> int:
    value = int(text)
    if not -(2**63) <= value < 2**63:
        raise ValueError(text)
    return value


def _parse_timestamp(text: str) -> str:
    return datetime.fromisoformat(text).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


DATE = Key(
    parse=date.fromisoformat,
    type="date",
    lowest="-infinity",
    highest="infinity",
    text_sql="to_char({}, 'YYYY-MM-DD')",
)
TIME = Key(
    parse=_parse_timestamp,
    type="timestamptz",
    lowest="-infinity",
    highest="infinity",
    text_sql="""to_char({} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')""",
)
NUMBER = Key(
    parse=_parse_bigint,
    type="bigint",
    lowest=str(-(2**63)),
    highest=str(2**63 - 1),
)
ROW_ID = Key(
    parse=UUID,
    type="uuid",
    lowest=str(UUID(int=0)),
    highest=str(UUID(int=2**128 - 1)),
)


def table(
    name: str = "", row_name: str = "", *, type_name: str | None = None
) -> Callable[[type[T]], type[T]]:
    """
    Make a class the GraphQL type of a table's rows, with the class's docstring as its description.

    `row_name` is the SQL of the text that names a row in an error message; by default it is the
    row's id. `type_name` is the name of the type in the schema; by default it is the name of the
    class.
    """

    def declare(cls: type[T]) -> type[T]:
        default_row_name = f"{name}.id" if name else ""
        cls.__table__ = name  # type: ignore[attr-defined]
        cls.__row_name__ = row_name or default_row_name  # type: ignore[attr-defined]
        cls.__annotations__ = {
            field: _strawberry_annotation(type_) for field, type_ in cls.__annotations__.items()
        }
        return strawberry.type(cls, name=type_name, description=_description_of(cls))

    return declare


def describe_enums(*enums: type[Enum]) -> None:
    """
    Turn the domain's enums into enums of the GraphQL schema.

    Each enum has a docstring, and each of its values a `description`.
    """
    for enum in enums:
        decorated: Any = strawberry.enum(enum, description=_description_of(enum))
        for value in decorated.__strawberry_definition__.values:
            value.description = decorated[value.name].description


def _description_of(cls: type) -> str:
    """Return the docstring of a class with one line for each paragraph."""
    # The docstring's line breaks within a paragraph mean nothing to the readers of the schema.
    paragraphs = cleandoc(cls.__doc__ or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split("\n")) for paragraph in paragraphs)


def column(
    description: str,
    sql: str | None = None,
    *,
    required_if: str | None = None,
    allowed_if: str | None = None,
    invalid_if: str | None = None,
    max_bytes: int | None = None,
    facts: Mapping[str, Fact] = {},
) -> Any:
    """
    Declare a field whose value is a column of the row, or the expression `sql`.

    The conditions and `facts` are as in `Column`. If the value is a text, it has at most
    `max_bytes` bytes.
    """
    source = Column(
        sql=sql,
        required_if=required_if,
        allowed_if=allowed_if,
        invalid_if=invalid_if,
        facts=facts,
    )
    return _field(description, source, max_bytes=max_bytes)


def same(description: str) -> Any:
    """Declare a field of another type that shows the row, or the rows, of its parent."""
    return _field(description, Same())


def related(
    description: str,
    where: str = "true",
    *,
    order: str | None = None,
    usual_length: int = 1,
    join: str | None = None,
    required_if: str | None = None,
    valid_if: str | None = None,
    foreign_key: str | None = None,
    row_valid_if: str | None = None,
    expected: str | None = None,
    **arguments: Argument,
) -> Any:
    """
    Declare a field that consists of related rows: a list, or one row.

    The parameters are as in `Related`; `arguments` are those of the field, by name. With `join`,
    every related row must have the row that is joined to it. `where` must not name the table of the
    joined row: that name would mean the joined row, and not a row of an outer table.
    """
    source = Related(
        where=where,
        order=order,
        usual_length=usual_length,
        join=join,
        required_if=required_if,
        valid_if=valid_if,
        foreign_key=foreign_key,
        row_valid_if=row_valid_if,
        expected=expected,
    )
    return _field(description, source, arguments)


def page(
    description: str,
    where: str = "true",
    *,
    sort_keys: Mapping[str, Key],
    descending: bool,
    valid_if: str | None = None,
    row_valid_if: str | None = None,
    problem: str | None = None,
    **arguments: Argument,
) -> Any:
    """
    Declare a field that is a list too long to be returned whole: a cursor connection.

    The parameters are as in `Paginated`. The field gets the arguments `first` and `after`.
    """
    first = Argument(
        type=int,
        description=f"The greatest number of rows on the page, from 1 to {MAX_PAGE_SIZE}.",
        default=DEFAULT_PAGE_SIZE,
        convert=_check_page_size,
    )
    after = Argument(
        type=str | None,
        description=(
            "Return only rows after this cursor: an `endCursor` or another cursor of the same "
            "list. Null, the default, returns the first page."
        ),
        convert=lambda text: _decode_cursor(text, sort_keys.values()),
    )
    source = Paginated(
        where=where,
        sort_keys=sort_keys,
        descending=descending,
        valid_if=valid_if,
        row_valid_if=row_valid_if,
        problem=problem,
    )
    return _field(description, source, {"first": first, "after": after, **arguments})


def computed(
    description: str,
    rows: str,
    compute: Callable[[bytes, Mapping[str, Any]], Struct | None],
    *,
    check: Callable[[Mapping[str, Any]], None],
    cost: int,
    arguments: Mapping[str, Argument],
    row_arguments: Mapping[str, str] = {},
) -> Any:
    """
    Declare a field whose value a function computes from rows: a struct of the domain, or None.

    The parameters are as in `Computed`.
    """
    source = Computed(
        rows=rows, compute=compute, check=check, cost=cost, row_arguments=row_arguments
    )
    return _field(description, source, arguments)


@cache
def type_of(struct: type[Struct]) -> type[Any]:
    """
    Return the GraphQL type that shows each attribute of a struct of the domain under its name.

    The struct declares everything: its docstring describes the type, and the description in a
    field's annotation describes the field. A list's annotation also says, as `usual_length`, how
    many items there usually are. A field named `id` is an ID. An annotation with `deprecated`
    deprecates its field for this reason.

    A field that is a function has arguments. Its annotation has them as `arguments`: the annotated
    type of each, by name (`number_argument`).

    Raises TypeError for a field without a description.
    """
    annotations: dict[str, Any] = {}
    fields: dict[str, Any] = {}
    hints = get_type_hints(struct, include_extras=True)
    for name in struct.__struct_fields__:
        if get_origin(hints[name]) is not Annotated:
            raise TypeError(f"{struct.__name__}.{name} has no description")
        declared_type, meta = get_args(hints[name])
        is_list = get_origin(declared_type) is Sequence
        extra = meta.extra or {}
        usual_length = extra["usual_length"] if is_list else 1
        if get_origin(declared_type) is Callable:
            _, declared_type = get_args(declared_type)
        arguments = {
            argument: number_argument(argument, type_)
            for argument, type_ in extra.get("arguments", {}).items()
        }
        annotations[name] = ID if name == "id" else declared_type
        fields[name] = _field(
            meta.description,
            ValuePart(usual_length),
            arguments,
            deprecated=extra.get("deprecated"),
        )
    body = {"__doc__": struct.__doc__, "__annotations__": annotations, **fields}
    return table()(type(struct.__name__, (), body))


def number_argument(name: str, annotated_type: Any) -> Argument:
    """
    Return the argument that an annotated whole number declares.

    Its annotation has a description, and the lowest and highest value as `ge` and `le`. Another
    value raises BAD_NUMBER.
    """
    type_, meta = get_args(annotated_type)

    def check_number(value: int) -> int:
        if not meta.ge <= value <= meta.le:
            raise bad_value(
                "BAD_NUMBER", f"`{name}` must be {meta.ge:,} to {meta.le:,}, not {value:,}."
            )
        return value

    return Argument(type=type_, description=meta.description, convert=check_number)


def _strawberry_annotation(declared_type: Any) -> Any:
    """
    Return an annotation in the form that Strawberry needs.

    Structs become GraphQL types, and sequences become lists.
    """
    if isinstance(declared_type, type) and issubclass(declared_type, Struct):
        return type_of(declared_type)
    if get_origin(declared_type) is Sequence:
        (item,) = get_args(declared_type)
        return list[_strawberry_annotation(item)]  # type: ignore[misc]
    if isinstance(declared_type, UnionType):
        (value,) = (one for one in get_args(declared_type) if one is not NoneType)
        return _strawberry_annotation(value) | None
    return declared_type


def _field(
    description: str,
    source: Source,
    arguments: Mapping[str, Argument] = {},
    max_bytes: int | None = None,
    deprecated: str | None = None,
) -> Any:
    metadata = {"source": source, "arguments": arguments, "max_bytes": max_bytes}
    declared = strawberry.field(
        description=description, deprecation_reason=deprecated, metadata=metadata
    )
    field = cast(Any, declared)
    field.arguments = [
        StrawberryArgument(
            python_name=name,
            graphql_name=None,
            type_annotation=StrawberryAnnotation(argument.type),
            description=argument.description,
            default=argument.default,
        )
        for name, argument in arguments.items()
    ]
    return field


def _check_page_size(first: int) -> int:
    if not 1 <= first <= MAX_PAGE_SIZE:
        raise bad_value("BAD_PAGE_SIZE", f"`first` must be 1 to {MAX_PAGE_SIZE}, not {first}.")
    return first


def _decode_cursor(cursor: str, keys: Iterable[Key]) -> str:
    """
    Return the position that a cursor contains: its values, separated by spaces.

    Raises BAD_CURSOR for a text that does not have the form of this list's cursors.
    """
    try:
        position = b64decode(cursor, validate=True).decode()
        parts = zip(keys, position.split(" "), strict=True)
        # Each value is parsed and formatted again, and the result must equal the text of the
        # cursor. So a position has only one form.
        if " ".join(str(key.parse(part)) for key, part in parts) == position:
            return position
    except ValueError:
        pass
    raise bad_value("BAD_CURSOR", "`after` is not a cursor of this list.")


@table()
class PageInfo:
    """The position of a page in its list."""

    has_next_page: bool = column("True if the list has rows after this page.", "$has_next")
    has_previous_page: bool = column("True if the list has rows before this page.", "$has_previous")
    start_cursor: str | None = column(
        "The cursor of the first row of the page. Null if the page is empty.",
        "$start",
        max_bytes=lengths.WORD,
    )
    end_cursor: str | None = column(
        "The cursor of the last row of the page; pass it as `after` to read the next page. Null if "
        "the page is empty.",
        "$end",
        max_bytes=lengths.WORD,
    )


@table()
class Edge(Generic[T]):
    """One row of a page, together with its cursor."""

    cursor: str = column(
        "The position of the row in its list. Pass it as `after` to read the rows after this one.",
        "$cursor",
        max_bytes=lengths.WORD,
    )
    node: T = same("The row itself, without its cursor.")


# The schema calls this type Connection. In Python, `Connection` is psycopg's class.
@table(type_name="Connection")
class CursorConnection(Generic[T]):
    """One page of a list that is too long to return whole."""

    edges: list[Edge[T]] = same("The rows of the page, each together with its cursor.")
    nodes: list[T] = same("The rows of the page, without their cursors.")
    page_info: PageInfo = same(
        "The position of the page in its list, with the cursors of its first and last row."
    )
