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

A null where the schema promises a value would corrupt the answer in silence, and so would a list that is not as the
record promises it. There the JSON has `BROKEN` instead, a character that no JSON has: for the columns of a row in one
check, for an expression, a relation or a list in its own. Only then the operation is planned once more, `careful`: what
is damaged is a marker in the JSON, which names the row, and which `api.damage` replaces as GraphQL says.
"""
# ruff: noqa: S608 - writing SQL is what this module is for; whatever callers make up travels as a parameter.

from collections import Counter
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
from msgspec.structs import replace
from strawberry import UNSET

from api.fields import Argument, Column, Computed, Given, Page, Part, Related, Same, Source
from api.guard import row_check
from api.lengths import LONG, MOST_BYTES

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


# The member of a marker: no response key has a space.
DAMAGED = " damaged"

# What stands in the place of what is damaged, before a careful plan asks what it is: no JSON has this character.
BROKEN = "\x01"
_BROKEN = r"E'\x01'"

# What the API can write of these types: from the first to the last, in SQL.
WRITABLE = {
    "Date": ("date '0001-01-01'", "date '9999-12-31'"),
    "DateTime": ("timestamptz '0001-01-01 00:00Z'", "timestamptz '9999-12-31 23:59:59.999999Z'"),
}


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
    shown: Member | None = None


class Promise(Struct, frozen=True):
    """
    What a column of a row must be: there where `needed` holds, and only where `only` does.

    Of a type in `WRITABLE`, it must lie in there. `wrong` are conditions under which it is not as it must be. An
    expression on the row has only these.
    """

    column: str = ""
    needed: str | None = None
    only: str | None = None
    type: str = ""
    wrong: Sequence[str] = ()


class Scope(Struct, frozen=True):
    """
    Where a selection stands: on which table's rows, in what order, what `$name` means, and which field is joined.

    `row` is the SQL, the arguments of `concat`, of what an error calls a row. `sound` is a condition that each of them
    must fulfil.
    """

    table: str = ""
    order: str | None = None
    names: Mapping[str, str] = {}
    beside: str | None = None
    row: str = ""
    sound: str | None = None


class Planner:
    """
    Plans one operation of a valid document; `careful` for one that met a damaged record.

    `most` is how many bytes the long texts of one row may have.
    """

    def __init__(
        self,
        schema: GraphQLSchema,
        operation: OperationDefinitionNode,
        fragments: dict[str, FragmentDetails],
        switches: dict[str, Any],
        known: Mapping[str, object],
        *,
        careful: bool = False,
        most: int = MOST_BYTES,
    ) -> None:
        self.careful, self.most = careful, most
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
            shown = self.member(key, query, fields) if self.careful else None
            yield Root(key, nodes, is_non_null_type(definition.type), json, self.asks, self.made, shown)

    def selection(self, type_: GraphQLObjectType, fields: list[FieldDetails], scope: Scope) -> list[str]:
        """Return the JSON object of what is selected on `type_`."""
        pieces: list[str] = []
        promises: list[Promise] = []
        texts: Counter[str] = Counter()
        for key, details in self.collected(type_, fields):
            pieces += [Literal(f'{"," if pieces else ""}"{key}":'), *self.value(type_, details, scope)]
            promises += self.promised(type_, details, scope)
            texts.update(long_texts(type_, details, scope))
        # Postgres makes the pieces in their order, so what ends the statement stands before the long texts.
        check = [row_check(texts, self.most)] if texts else []
        pieces = [*check, Literal("{"), *pieces, Literal("}")]
        unsound = [] if scope.sound is None else [f"{scope.sound} IS NOT TRUE"]
        # Of a row that is read with care, each column is checked for itself.
        checks = [*broken(promises if not self.careful else []), *unsound]
        if not checks:
            return pieces
        found = " OR ".join(checks)
        if self.careful:
            return [f"CASE WHEN {found} THEN {self.damaged(scope)} ELSE {concat(pieces)} END"]
        # One check for all columns of a row: it costs a third of one for each.
        return [*pieces, f"CASE WHEN {found} THEN {_BROKEN} END"]

    def promised(self, type_: GraphQLObjectType, fields: list[FieldDetails], scope: Scope) -> list[Promise]:
        """Return what the schema promises of the column that a field shows, or rests on."""
        definition = type_.fields.get(fields[0].node.name.value)
        match source_of(definition) if definition else None:
            case Related(link=str() as link, needed=str() as linked):
                return [Promise(link, only=linked)]
            case Column(sql=None) as source:
                assert definition
            case Column(wrong=str() as condition):
                return [Promise(wrong=[condition])]
            case _:
                return []
        name = get_named_type(definition.type).name
        column = f"{scope.table}.{declared(definition).python_name}"
        # An enum's CASE has a place for what it must not be.
        is_needed = is_non_null_type(definition.type) and not is_enum_type(get_named_type(definition.type))
        needed: str | None = "true" if is_needed else source.needed
        wrong = [f"{column} IN ('NaN', 'Infinity', '-Infinity')"] if self.careful and name == "Decimal" else []
        wrong += [source.wrong] if source.wrong else []
        return [Promise(column, needed, source.only, name, wrong)]

    def damaged(self, scope: Scope, breaks: str = "") -> str:
        """
        Return the expression for what the schema promises and the record does not have.

        `breaks` is the SQL, the arguments of `concat`, of what an error says of it.
        """
        if not self.careful:
            return _BROKEN
        why = f", 'breaks', concat({breaks})" if breaks else ""
        return f"json_build_object('{DAMAGED}', concat({scope.row or chr(39) * 2}){why})::text"

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
        definition, damaged = parent.fields[name], self.damaged(scope)
        target: Any = get_named_type(definition.type)
        match source_of(definition):
            case Column(None):
                written = f"{scope.table}.{declared(definition).python_name}"
                pieces = leaf(definition.type, written, damaged, kept=not self.careful)
                return self.unbroken(pieces, parent, fields, scope)
            case Column(sql):
                pieces = leaf(definition.type, expand(sql or "", scope.names), damaged)
                return self.unbroken(pieces, parent, fields, scope)
            case Given(value):
                self.lasting = False  # what a process knows may hang on the time of day
                (parameter,) = self.ask(1, lambda _, facts: [value(facts)])
                return leaf(definition.type, f"{parameter}::{SENT_AS.get(target.name, 'text')}", damaged)
            case Same():
                if not is_many(definition.type):
                    return self.selection(target, fields, replace(scope, sound=None))
                rows = replace(scope, row=scope.names["row"], sound=scope.names.get("sound"))
                return array(self.selection(target, fields, rows), scope.order)
            case Related() if name == scope.beside:
                return self.selection(target, fields, Scope(table_of(target), row=row_of(target)))
            case Related() as relation:
                names = self.arguments(definition, fields[0])
                pieces = self.related(relation, scope, definition.type, fields, names)
                return self.unbroken(pieces, parent, fields, scope)
            case Page() as page:
                return self.page(page, target, fields, self.arguments(definition, fields[0]))
            case Computed() as computed:
                return self.computed(computed, definition, fields)
            case Part():
                raise TypeError(f"{parent.name}.{name} is a part, and stands in no computed value")

    def unbroken(
        self, pieces: list[str], parent: GraphQLObjectType, fields: list[FieldDetails], scope: Scope
    ) -> list[str]:
        """Return the JSON of a field, whose column is checked here if it is read with care."""
        found = " OR ".join(broken(self.promised(parent, fields, scope))) if self.careful else ""
        return [f"CASE WHEN {found} THEN {self.damaged(scope)} ELSE {concat(pieces)} END"] if found else pieces

    def computed(self, computed: Computed, definition: GraphQLField, fields: list[FieldDetails]) -> list[str]:
        """Return the rows that a value is made of; how it is made of them, and what is shown, is noted."""
        names = self.arguments(definition, fields[0])
        at = fields[0]._replace(node=lean(fields[0].node))

        def arguments(variables: VariableValues) -> Mapping[str, object]:
            return given_arguments(definition, at, variables)

        def checked(variables: VariableValues, facts: object) -> Iterable[object]:
            computed.check(given_arguments(definition, at, variables, facts))
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
        scope: Scope,
        type_: GraphQLOutputType,
        fields: list[FieldDetails],
        names: Mapping[str, str],
    ) -> list[str]:
        """Return the JSON of other rows: all of them, or the first."""
        target: Any = get_named_type(type_)
        rows = f"FROM {table_of(target)} {joined(target, relation)}WHERE {expand(relation.where, names)}"
        below = Scope(table_of(target), beside=relation.beside, row=row_of(target), sound=relation.sound)
        pieces = self.selection(target, fields, below)
        if is_many(type_):
            opening, items, closing = array(pieces, relation.order)
            if relation.holds is None:
                return [opening, f"(SELECT {items} {rows})", closing]
            holds = expand(relation.holds, names)
            must = f", ', and must have ', {expand(relation.must, names)}" if relation.must else ""
            damaged = self.damaged(scope, f"'has ', count(*){must}")
            if self.careful:
                whole = f"concat('[', {items}, ']')"
                return [f"(SELECT CASE WHEN {holds} THEN {whole} ELSE {damaged} END {rows})"]
            return [opening, f"(SELECT CASE WHEN {holds} THEN {items} ELSE {damaged} END {rows})", closing]
        damaged = self.damaged(scope, "'has no row, and must have one'")
        otherwise = damaged if is_non_null_type(type_) else "'null'"
        if relation.needed is not None:
            link = f"{relation.link} IS NOT NULL OR " if relation.link else ""
            otherwise = f"CASE WHEN {link}{expand(relation.needed, names)} THEN {damaged} ELSE 'null' END"
        if relation.order:
            return [f"coalesce((SELECT {concat(pieces)} {rows} ORDER BY {relation.order} LIMIT 1), {otherwise})"]
        if self.careful:
            json = f"string_agg({concat(pieces)}, '')"
            several = self.damaged(scope, "'has ', count(*), ' rows, and must have one'")
            return [f"(SELECT CASE count(*) WHEN 0 THEN {otherwise} WHEN 1 THEN {json} ELSE {several} END {rows})"]
        # Of two rows where there can be one, Postgres makes an error.
        return [f"coalesce((SELECT {concat(pieces)} {rows}), {otherwise})"]

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
            "row": row_of(get_named_type(target.fields["nodes"].type)),
            "cursor": cursor,
            "start": f"({cursors})[1]",
            "end": f"({cursors})[count(*)::integer]",
            # Without OFFSET, Postgres drops an EXISTS's order and may look for the cursor from one end of the table.
            "has_next": f"EXISTS ({onward} OFFSET {names['first']})",
            "has_previous": f"EXISTS ({passed} OFFSET 0)",
        }
        if page.sound is not None:
            infos["sound"] = page.sound
        pieces = self.selection(target, fields, Scope(table, in_order, infos))
        if page.holds is not None:
            pieces = self.holding(page.holds, page.breaks or "", pieces)
        return [f"(SELECT {concat(pieces)} FROM ({onward} LIMIT {names['first']}) {table} GROUP BY ())"]

    def holding(self, holds: str, breaks: str, pieces: list[str]) -> list[str]:
        """Return the JSON of a page whose rows together must fulfil a condition; `breaks` says how they do not."""
        if self.careful:
            return [f"CASE WHEN ({holds}) IS FALSE THEN {self.damaged(Scope(), breaks)} ELSE {concat(pieces)} END"]
        return [*pieces, f"CASE WHEN NOT ({holds}) THEN {_BROKEN} END"]

    def arguments(self, definition: GraphQLField, at: FieldDetails) -> Mapping[str, str]:
        """
        Return what stands for each argument of a field: NULL for one that is left out, an enum's value, or a parameter.

        So one plan of Postgres serves for all parameters: what would not restrict is not in the statement, and how rare
        a status is, which decides where it is best looked for, can be seen.
        """
        at = at._replace(node=lean(at.node))
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


def lean(node: FieldNode) -> FieldNode:
    """Return a field without what is selected below it: what a plan keeps for arguments and errors."""
    return FieldNode(name=node.name, alias=node.alias, arguments=node.arguments, loc=node.loc)


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


def long_texts(type_: GraphQLObjectType, fields: list[FieldDetails], scope: Scope) -> list[str]:
    """Return the column of a field, if it holds a text that may be long."""
    definition = type_.fields.get(fields[0].node.name.value)
    match source_of(definition) if definition else None:
        case Column(sql=None) if (longest_of(definition) or 0) > LONG:
            return [f"{scope.table}.{declared(definition).python_name}"]
        case _:
            return []


def longest_of(definition: Any) -> int | None:
    """Return how many bytes a field's text can have, where its declaration says that."""
    longest: int | None = declared(definition).metadata["longest"]
    return longest


def table_of(type_: Any) -> str:
    """Return the table whose rows a type shows, or nothing."""
    return str(declared(type_).origin.__table__)


def row_of(type_: Any) -> str:
    """Return the SQL of what an error calls a row of a type's table."""
    origin = declared(type_).origin
    return f"'the row ', {origin.__row__}, ' of {origin.__table__}'" if origin.__row__ else ""


def joined(type_: GraphQLObjectType, relation: Related) -> str:
    """Return what joins the row that stands beside each of a relation's rows."""
    if relation.beside is None:
        return ""
    field = type_.fields[relation.beside]
    beside = source_of(field)
    assert isinstance(beside, Related)
    return f"LEFT JOIN {table_of(get_named_type(field.type))} ON {expand(beside.where, {})} "


def is_many(type_: GraphQLOutputType) -> bool:
    """Return whether a field is a list."""
    return is_list_type(get_nullable_type(type_))


def expand(sql: str, names: Mapping[str, str]) -> str:
    """Return `sql` with what its `$names` mean."""
    return f"({Template(sql).substitute(names)})"


def broken(promises: Iterable[Promise]) -> list[str]:
    """
    Return the conditions under which a row breaks one of its promises.

    What several columns depend on is asked once: in Postgres, to begin with an expression costs more than a row.
    """
    missing: dict[str, dict[str, None]] = {}
    unasked: dict[str, dict[str, None]] = {}
    written: dict[str, dict[str, None]] = {}
    found: dict[str, None] = {}
    for one in promises:
        if one.needed is not None:
            missing.setdefault(one.needed, {})[f"{one.column} IS NULL"] = None
        if one.only is not None:
            unasked.setdefault(one.only, {})[f"{one.column} IS NOT NULL"] = None
        if one.type in WRITABLE:
            written.setdefault(one.type, {})[one.column] = None
        found |= dict.fromkeys(one.wrong)
    always = list(missing.pop("true", ()))
    for condition in {**missing, **unasked}:
        there = " OR ".join(missing.get(condition, {"false": None}))
        elsewhere = " OR ".join(unasked.get(condition, {"false": None}))
        found[f"CASE WHEN {condition} THEN {there} ELSE {elsewhere} END"] = None
    for type_, columns in written.items():
        (first, last), listed = WRITABLE[type_], ", ".join(columns)
        found[f"least({listed}) < {first} OR greatest({listed}) > {last}"] = None
    return [*always, *found]


def leaf(type_: GraphQLOutputType, sql: str, damaged: str, *, kept: bool = False) -> list[str]:
    """
    Return the JSON of one value, or `damaged` where it breaks what the schema promises.

    `kept` says that another check keeps it.
    """
    named: Any = get_named_type(type_)
    if is_enum_type(named):
        cases = " ".join(f"WHEN '{value.value}' THEN '\"{name}\"'" for name, value in named.values.items())
        otherwise = damaged if is_non_null_type(type_) else f"CASE WHEN {sql} IS NULL THEN 'null' ELSE {damaged} END"
        return [f"CASE {sql} {cases} ELSE {otherwise} END"]
    text = (QUOTED.get(named.name) or BARE[named.name]).format(sql)
    quoted = named.name not in BARE
    if not is_non_null_type(type_):
        return [f"""coalesce('"' || {text} || '"', 'null')""" if quoted else f"coalesce(({text})::text, 'null')"]
    if kept:
        return [Literal('"'), text, Literal('"')] if quoted else [text]
    if quoted and damaged == _BROKEN:
        return [Literal('"'), f"coalesce(({text})::text, {damaged})", Literal('"')]
    # A marker takes the quotes' place, too.
    whole = f"""'"' || ({text})::text || '"'""" if quoted else f"({text})::text"
    return [f"coalesce({whole}, {damaged})"]


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
