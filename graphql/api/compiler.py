"""
From a GraphQL selection to SQL: one statement, one column for each root field, the column's text being its JSON.

    { latestBatch { runDate picks { ticker } } }

    SELECT coalesce((SELECT concat('{"runDate":', to_json(batches.run_date), ',"picks":[',
        (SELECT string_agg(concat('{"ticker":', to_json((picks.ticker)::text), '}'), ',' ORDER BY picks.position)
         FROM picks WHERE (picks.batch_id = batches.id)), ']}')
      FROM batches WHERE (batches.series = $1) ORDER BY batches.run_date DESC LIMIT 1), 'null')

What a selection means (fragments, merging, @skip, aliases, coercion) is graphql-core's to say. Arguments become
parameters, so a plan hangs on nothing but the document, the operation, the variables that directives name, and of the
others which are null and what enums say: the planner is shown no more. SQL is built from pieces: a `Literal`, or an
expression whose text is JSON.

A computed field's column is only the rows that its value is made of. What is selected of the value is found out here
all the same (`Member`), and written by `api.values`.

A null where the schema promises a value would corrupt the answer in silence. A column is kept from that by its
constraint; for an expression or a relation, the database's function `absent` raises the field's name instead.
"""
# ruff: noqa: S608 - writing SQL is what this module is for; whatever callers make up travels as a parameter.

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from itertools import groupby
from string import Template
from typing import Any

from graphql import (
    EnumValueNode,
    FieldNode,
    GraphQLField,
    GraphQLObjectType,
    GraphQLOutputType,
    GraphQLSchema,
    NullValueNode,
    OperationDefinitionNode,
    ValueNode,
    VariableNode,
    get_argument_values,
    get_named_type,
    get_nullable_type,
    is_enum_type,
    is_leaf_type,
    is_list_type,
    is_non_null_type,
)
from graphql.execution.collect_fields import FieldDetails, FragmentDetails, collect_fields, collect_subfields
from graphql.execution.values import VariableValues
from msgspec import Struct
from strawberry import UNSET

from api.fields import Argument, Column, Computed, Given, Page, Part, Related, Same, Source

# How a scalar is written: as text that wants quotes around it, or as JSON already; and what a value of ours is sent as.
QUOTED = {
    "ID": "{}",
    "Decimal": "{}",
    "DateTime": """to_char({} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')""",
}
BARE = {"Int": "{}", "Boolean": "({})::text", "String": "to_json(({})::text)", "Date": "to_json({})"}
SENT_AS = {"Int": "bigint", "Boolean": "boolean", "Decimal": "numeric", "Date": "date", "DateTime": "timestamptz"}

# Where the values of some parameters come from when the plan runs: from the variables and this process's facts.
Values = Callable[[VariableValues, Any], Iterable[object]]


class Literal(str):
    """Text of the answer that is known beforehand. It holds GraphQL names only, so nothing in it needs escaping."""

    __slots__ = ()


class Member(Struct, frozen=True):
    """
    One member of a value's JSON: its key, the field it shows and that one's type, and what is selected of an object.

    Its `name` is the attribute's; a `__typename` has none, and a type's name for a field.
    """

    key: str
    field: str
    type: Any = None
    name: str = ""
    below: "Sequence[Member] | None" = None


class Made(Struct, frozen=True):
    """How a computed root field is made: by whom, of which arguments, and what is shown of it."""

    by: Computed
    arguments: Callable[[VariableValues], Mapping[str, object]]
    shown: Member


class Root(Struct, frozen=True):
    """
    A root field: its response key and nodes, the SQL of its JSON (none: introspection), and what that asks for.

    If it is `made`, its SQL is only of the rows that the value is made of.
    """

    key: str
    nodes: Sequence[FieldNode]
    non_null: bool
    sql: str = ""
    asks: Sequence[tuple[int, Values]] = ()
    made: Made | None = None


class Scope(Struct, frozen=True):
    """Where a selection stands: on which table's rows, in what order, what `$name` means, and which field is joined."""

    table: str = ""
    order: str | None = None
    names: Mapping[str, str] = {}
    beside: str | None = None


class Planner:
    """Plans one operation of a valid document."""

    def __init__(
        self,
        schema: GraphQLSchema,
        operation: OperationDefinitionNode,
        fragments: dict[str, FragmentDetails],
        switches: dict[str, Any],
        known: Mapping[str, object],
    ) -> None:
        self.schema, self.operation, self.fragments, self.known = schema, operation, fragments, known
        self.variables = VariableValues({}, switches)
        self.asks: list[tuple[int, Values]] = []
        self.count = 0
        self.made: Made | None = None
        self.lasting = True

    def roots(self) -> Iterable[Root]:
        """Return the operation's root fields, in its order."""
        query = self.schema.query_type
        assert query
        collected = collect_fields(self.schema, self.fragments, self.variables, query, self.operation)
        for key, fields in collected.grouped_field_set.items():
            nodes = [details.node for details in fields]
            if nodes[0].name.value in ("__schema", "__type"):
                yield Root(key, nodes, non_null=False)
                continue
            definition = self.schema.get_field(query, nodes[0].name.value)
            assert definition
            self.asks, self.made = [], None
            json = concat(self.value(query, fields, Scope()))
            yield Root(key, nodes, is_non_null_type(definition.type), json, self.asks, self.made)

    def selection(self, type_: GraphQLObjectType, fields: list[FieldDetails], scope: Scope) -> list[str]:
        """Return the JSON object of what is selected on `type_`."""
        pieces: list[str] = []
        for key, details in self.collected(type_, fields):
            pieces += [Literal(f'{"," if pieces else ""}"{key}":'), *self.value(type_, details, scope)]
        return [Literal("{"), *pieces, Literal("}")]

    def collected(
        self, type_: GraphQLObjectType, fields: list[FieldDetails]
    ) -> Iterable[tuple[str, list[FieldDetails]]]:
        """Return what is selected on `type_`, merged, by response key."""
        found = collect_subfields(self.schema, self.fragments, self.variables, self.operation, type_, fields)
        return found.grouped_field_set.items()

    def value(self, parent: GraphQLObjectType, fields: list[FieldDetails], scope: Scope) -> list[str]:
        """Return the JSON of one field."""
        name = fields[0].node.name.value
        if name == "__typename":
            return [Literal(f'"{parent.name}"')]
        definition, field = parent.fields[name], f"{parent.name}.{name}"
        target: Any = get_named_type(definition.type)
        match source_of(definition):
            case Column(None):
                return leaf(field, definition.type, f"{scope.table}.{declared(definition).python_name}", kept=True)
            case Column(sql):
                return leaf(field, definition.type, expand(sql or "", scope.names))
            case Given(value):
                self.lasting = False  # what a process knows may hang on the time of day
                (parameter,) = self.ask(1, lambda _, facts: [value(facts)])
                return leaf(field, definition.type, f"{parameter}::{SENT_AS.get(target.name, 'text')}")
            case Same():
                pieces = self.selection(target, fields, scope)
                return array(pieces, scope.order) if is_many(definition.type) else pieces
            case Related() if name == scope.beside:
                return self.selection(target, fields, Scope(table_of(target)))
            case Related() as relation:
                names = self.arguments(definition, fields[0])
                return self.related(relation, field, definition.type, fields, names)
            case Page() as page:
                return self.page(page, target, fields, self.arguments(definition, fields[0]))
            case Computed() as computed:
                return self.computed(computed, definition, fields)
            case Part():
                raise TypeError(f"{field} is a part, and stands in no computed value")

    def computed(self, computed: Computed, definition: GraphQLField, fields: list[FieldDetails]) -> list[str]:
        """Return the rows that a value is made of; how it is made of them, and what is shown, is noted."""
        names = self.arguments(definition, fields[0])

        def arguments(variables: VariableValues) -> Mapping[str, object]:
            return given_arguments(definition, fields[0], variables)

        def checked(variables: VariableValues, facts: object) -> Iterable[object]:
            computed.check(given_arguments(definition, fields[0], variables, facts))
            return ()

        self.asks.append((0, checked))
        parent = self.schema.query_type
        assert parent
        self.made = Made(computed, arguments, self.member("", parent, fields))
        return [expand(computed.rows, names)]

    def member(self, key: str, parent: GraphQLObjectType, fields: list[FieldDetails]) -> Member:
        """Return what is selected of a field of a value."""
        name = fields[0].node.name.value
        if name == "__typename":
            return Member(key, parent.name)
        definition = parent.fields[name]
        target: Any = get_named_type(definition.type)
        below = None
        if not is_leaf_type(target):
            below = [self.member(key, target, details) for key, details in self.collected(target, fields)]
        return Member(key, f"{parent.name}.{name}", definition.type, declared(definition).python_name, below)

    def related(
        self,
        relation: Related,
        field: str,
        type_: GraphQLOutputType,
        fields: list[FieldDetails],
        names: Mapping[str, str],
    ) -> list[str]:
        """Return the JSON of other rows: all of them, or the first."""
        target: Any = get_named_type(type_)
        rows = f"FROM {table_of(target)} {joined(target, relation)}WHERE {expand(relation.where, names)}"
        pieces = self.selection(target, fields, Scope(table_of(target), beside=relation.beside))
        if is_many(type_):
            opening, items, closing = array(pieces, relation.order)
            return [opening, f"(SELECT {items} {rows})", closing]
        order = f" ORDER BY {relation.order}" if relation.order else ""
        otherwise = absent(field) if is_non_null_type(type_) else "'null'"
        return [f"coalesce((SELECT {concat(pieces)} {rows}{order} LIMIT 1), {otherwise})"]

    def page(
        self, page: Page, target: GraphQLObjectType, fields: list[FieldDetails], names: Mapping[str, str]
    ) -> list[str]:
        """Return the JSON of a connection: one row of aggregates over the rows of a page."""
        table, keys = table_of(get_named_type(target.fields["nodes"].type)), ", ".join(page.by)
        beyond, before, order = ("<", ">", "DESC") if page.newest_first else (">", "<", "ASC")
        after = [f"split_part({names['after']}, ' ', {n})::{key.type}" for n, key in enumerate(page.by.values(), 1)]
        edge = [key.highest if page.newest_first else key.lowest for key in page.by.values()]
        # One comparison with or without a cursor, so that it stays an index condition in a generic plan.
        start = ", ".join(f"coalesce({value}, '{end}')" for value, end in zip(after, edge, strict=True))
        in_order = ", ".join(f"{key} {order}" for key in page.by)
        every = f"SELECT * FROM {table} WHERE {expand(page.where, names)}"
        onward = f"{every} AND ({keys}) {beyond} ({start}) ORDER BY {in_order}"
        passed = f"{every} AND ({keys}) {before}= ({', '.join(after)}) ORDER BY {in_order}"
        written = ", ".join(key.written.format(sql) for sql, key in page.by.items())
        # Postgres breaks base64 into lines.
        cursor = f"translate(encode(convert_to(concat_ws(' ', {written}), 'UTF8'), 'base64'), chr(10), '')"
        cursors = f"array_agg({cursor} ORDER BY {in_order})"
        infos = {
            "cursor": cursor,
            "start": f"({cursors})[1]",
            "end": f"({cursors})[count(*)::integer]",
            # Without OFFSET, Postgres drops an EXISTS's order and may look for the cursor from one end of the table.
            "has_next": f"EXISTS ({onward} OFFSET {names['first']})",
            "has_previous": f"EXISTS ({passed} OFFSET 0)",
        }
        pieces = self.selection(target, fields, Scope(table, in_order, infos))
        return [f"(SELECT {concat(pieces)} FROM ({onward} LIMIT {names['first']}) {table} GROUP BY ())"]

    def arguments(self, definition: GraphQLField, at: FieldDetails) -> Mapping[str, str]:
        """
        Return what stands for each argument of a field: NULL for one that is left out, an enum's value, or a parameter.

        So one plan of Postgres serves for all parameters: what would not restrict is not in the statement, and how rare
        a status is, which decides where it is best looked for, can be seen.
        """
        written = {node.name.value: node.value for node in at.node.arguments or ()}
        names: dict[str, str] = {}
        asked: list[str] = []
        arguments: Mapping[str, Argument] = declared(definition).metadata["arguments"]
        for (name, argument), key in zip(arguments.items(), definition.args, strict=True):
            optional = argument.default is UNSET and not is_non_null_type(definition.args[key].type)
            text = self.constant(written.get(key), definition.args[key].type) if optional else ""
            names |= {name: text, f"no_{name}": str(text == "NULL").lower()}
            asked += [] if text else [name]

        def values(variables: VariableValues, facts: object) -> Iterable[object]:
            given = given_arguments(definition, at, variables, facts)
            return (given[name] for name in asked)

        return {**names, **dict(zip(asked, self.ask(len(asked), values), strict=True))} if asked else names

    def constant(self, value: ValueNode | None, type_: Any) -> str:
        """Return the SQL of an optional argument that is null or a known value of an enum, or nothing."""
        known = self.known.get(value.name.value, ...) if isinstance(value, VariableNode) else value
        if known is None or isinstance(known, NullValueNode):
            return "NULL"
        if isinstance(known, EnumValueNode):
            return f"'{type_.values[known.value].value}'"
        return f"'{known.value}'" if isinstance(known, Enum) else ""

    def ask(self, count: int, values: Values) -> Sequence[str]:
        """Return `count` new parameters, which get their values when the plan runs."""
        self.asks.append((count, values))
        self.count += count
        return [f"${number}" for number in range(self.count - count + 1, self.count + 1)]


def given_arguments(
    definition: GraphQLField,
    at: FieldDetails,
    variables: VariableValues,
    facts: object = None,
) -> Mapping[str, object]:
    """
    Return all arguments of a field by their names, converted; None for one that is left out.

    With `facts`, each value is also checked against them.
    """
    given = get_argument_values(definition, at.node, variables, at.fragment_variable_values)
    arguments: Mapping[str, Argument] = declared(definition).metadata["arguments"]
    found: dict[str, object] = {}
    for (name, argument), key in zip(arguments.items(), definition.args, strict=True):
        value = given.get(key)
        if value is None:
            found[name] = None
            continue
        found[name] = argument.convert(value)
        if facts is not None:
            argument.check(found[name], facts)
    return found


def declared(definition: Any) -> Any:
    """Return the Strawberry declaration behind a type or field of the schema."""
    return definition.extensions["strawberry-definition"]


def source_of(definition: GraphQLField) -> Source:
    """Return where a field's data stands."""
    source: Source = declared(definition).metadata["source"]
    return source


def table_of(type_: Any) -> str:
    """Return the table whose rows a type shows, or nothing."""
    return str(declared(type_).origin.__table__)


def joined(type_: GraphQLObjectType, relation: Related) -> str:
    """Return what joins the row that stands beside each of a relation's rows."""
    if relation.beside is None:
        return ""
    field = type_.fields[relation.beside]
    beside = source_of(field)
    assert isinstance(beside, Related)
    return f"JOIN {table_of(get_named_type(field.type))} ON {expand(beside.where, {})} "


def is_many(type_: GraphQLOutputType) -> bool:
    """Return whether a field is a list."""
    return is_list_type(get_nullable_type(type_))


def expand(sql: str, names: Mapping[str, str]) -> str:
    """Return `sql` with what its `$names` mean."""
    return f"({Template(sql).substitute(names)})"


def absent(field: str) -> str:
    """Return the expression that names a field which must have a value and has none, as an error."""
    return f"absent('{field}')"


def leaf(field: str, type_: GraphQLOutputType, sql: str, *, kept: bool = False) -> list[str]:
    """Return the JSON of one value; `kept` says that the table's constraints keep what the schema promises."""
    named: Any = get_named_type(type_)
    if is_enum_type(named):
        cases = " ".join(f"WHEN '{value.value}' THEN '{name}'" for name, value in named.values.items())
        text, kept = f"CASE {sql} {cases} END", False
    else:
        text = (QUOTED.get(named.name) or BARE[named.name]).format(sql)
    quoted = named.name not in BARE
    if not is_non_null_type(type_):
        return [f"""coalesce('"' || {text} || '"', 'null')""" if quoted else f"coalesce(({text})::text, 'null')"]
    if not kept:
        text = f"coalesce(({text})::text, {absent(field)})"
    return [Literal('"'), text, Literal('"')] if quoted else [text]


def array(pieces: list[str], order: str | None) -> list[str]:
    """Return the JSON array of the rows that `pieces` write, in `order`."""
    return [Literal("["), f"string_agg({concat(pieces)}, ','{f' ORDER BY {order}' if order else ''})", Literal("]")]


def concat(pieces: list[str]) -> str:
    """Return one expression for all the pieces. (Postgres takes at most 100 arguments.)"""
    parts: list[str] = []
    for literal, group in groupby(pieces, lambda piece: isinstance(piece, Literal)):
        run = list(group)
        parts += [f"'{''.join(run)}'"] if literal else run
    while len(parts) > 100:
        parts = [f"concat({', '.join(parts[at : at + 100])})" for at in range(0, len(parts), 100)]
    return parts[0] if len(parts) == 1 else f"concat({', '.join(parts)})"
