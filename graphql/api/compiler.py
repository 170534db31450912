"""
Compiles the selection of a GraphQL operation to SQL.

An operation becomes one statement with one column for each root field. The text of a column is the
JSON of the field:

    { latestBatch { runDate picks { ticker } } }

    SELECT coalesce((SELECT concat('{"runDate":', to_json(batches.run_date), ',"picks":[',
        (SELECT string_agg(concat('{"ticker":', to_json((picks.ticker)::text), '}'), ','
                ORDER BY picks.position)
         FROM picks WHERE (picks.batch_id = batches.id)), ']}')
      FROM batches WHERE (batches.series = $1) ORDER BY batches.run_date DESC LIMIT 1), 'null')

graphql-core defines what a selection means (fragments, merging, @skip, aliases, coercion).
The value of an argument becomes a parameter. Only null and the values of enums become constants in
the SQL. So a plan depends on only four parts of a request, and the planner sees no other part:

- the document
- the operation
- the values of the variables that directives name
- of each variable that no directive names: whether it is null and, if it is an enum, its value

SQL is built from pieces. A piece is a `KnownText`, or an expression whose value is JSON text.

Postgres does not compute the value of a computed field. The column of a computed root field has
only the rows from which `api.computed_values` computes the value. If the field belongs to a row
inside a root field, the JSON has an object in place of the value: `rows`, and `arguments`, which
are the arguments that the row supplies. The engine replaces this object by the value. The planner
also collects what the operation selects of the value (`Member`), so that `api.computed_values`
writes only that.

**Damaged records.** Two things would corrupt the response silently: a null where the schema
promises a value, and a list that breaks a promise of the record. In such a place the SQL writes
`DAMAGE_CHARACTER`, which JSON never contains. There is one check for all columns of a row, and one
for each expression, relation and list. If the character occurs in a result, or if Postgres raises
an error about a row, the operation is planned again with `diagnose`. This slower plan writes a
marker in each damaged place. A marker is a JSON object that names the row, and `api.damage`
replaces it as GraphQL prescribes.
"""
# ruff: noqa: S608 - writing SQL is what this module is for; values of callers travel as parameters.

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
from graphql.execution.collect_fields import (
    FieldDetails,
    FragmentDetails,
    collect_fields,
    collect_subfields,
)
from graphql.execution.values import VariableValues
from msgspec import Struct
from msgspec.structs import replace
from strawberry import UNSET

from api.fields import (
    Argument,
    Column,
    Computed,
    Fact,
    Paginated,
    Related,
    Same,
    Source,
    ValuePart,
)
from api.guard import row_bytes_check
from api.lengths import LONG, MAX_RESULT_BYTES

# The SQL that writes a scalar: as text that needs quotes around it, or as complete JSON.
QUOTED_SCALARS = {
    "ID": "{}",
    "Decimal": "{}",
    "DateTime": """to_char({} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')""",
}
JSON_SCALARS = {
    "Int": "{}",
    "Boolean": "({})::text",
    "String": "to_json(({})::text)",
    "Date": "to_json({})",
}
# Returns the values of a group of parameters when the plan runs. Its arguments are the variables
# and the facts: what the process knows and the database does not (`api.schema.Facts`).
Values = Callable[[VariableValues, Any], Iterable[object]]
# Returns the values of a field's arguments, by name, for the variables of a request.
ArgumentValues = Callable[[VariableValues], Mapping[str, object]]


# The key that only markers have: no response key contains a space.
MARKER_KEY = " damaged"

# The character that an ordinary plan writes in a damaged place. JSON never contains it.
DAMAGE_CHARACTER = "\x01"
_DAMAGE_CHARACTER_SQL = r"E'\x01'"

# The lowest and the highest value that the API can write of each of these types, in SQL.
WRITABLE = {
    "Date": ("date '0001-01-01'", "date '9999-12-31'"),
    "DateTime": ("timestamptz '0001-01-01 00:00Z'", "timestamptz '9999-12-31 23:59:59.999999Z'"),
}

# Postgres takes at most 100 arguments in one call.
_MAX_SQL_ARGUMENTS = 100


class KnownText(str):
    """
    Text of the response that is known when the plan is made.

    It contains only GraphQL names and punctuation, so nothing in it needs escaping.
    """

    __slots__ = ()


class Member(Struct, frozen=True):
    """
    One member of a value's JSON: its key, the field that it shows, and the type of that field.

    `field` is the field's full name, such as `Batch.picks`. `attribute` names the attribute of the
    computed value that the member shows. If `arguments` is set, this attribute is a function of the
    arguments that it returns. `children` are the members of an object; None for a value
    that is not an object. `computed` says how the value is computed if the field is a computed one
    inside a root field. The member for `__typename` has only a key and `typename`, the name of the
    type.
    """

    key: str
    field: str = ""
    type: Any = None
    attribute: str = ""
    arguments: "ArgumentValues | None" = None
    children: "Sequence[Member] | None" = None
    computed: "ComputedField | None" = None
    typename: str = ""


class ComputedField(Struct, frozen=True):
    """How to compute a field: its source, and its arguments without those that a row supplies."""

    source: Computed
    arguments: ArgumentValues


class Root(Struct, frozen=True):
    """
    A root field: its response key and nodes, the SQL of its JSON, and the parameters of that SQL.

    An introspection field has no SQL. The SQL of a `computed` field returns only the rows that its
    value is computed from. `has_computed_parts` says that rows inside the field have computed
    fields.
    `parameters` has a pair for each group of parameters: their number, and the function that
    returns their values. `non_null` says that the field must not be null. `selected` is the field
    as a member; it is set if something of the field is computed, and in a diagnosing plan.
    """

    key: str
    nodes: Sequence[FieldNode]
    non_null: bool
    sql: str = ""
    parameters: Sequence[tuple[int, Values]] = ()
    computed: ComputedField | None = None
    has_computed_parts: bool = False
    selected: Member | None = None


class ColumnRule(Struct, frozen=True):
    """
    What the schema promises of one column of a row.

    - `required_if`: where this condition is true, the column must have a value.
    - `allowed_if`: where this condition is not true, the column must be null. None allows a value
      everywhere.
    - `type`: the name of the scalar. If `WRITABLE` has a range for this scalar, the value
      must lie in that range.
    - `invalid_if`: all of these conditions must be false or null.

    A rule for an expression on the row has only `invalid_if`.
    """

    column: str = ""
    required_if: str | None = None
    allowed_if: str | None = None
    type: str = ""
    invalid_if: Sequence[str] = ()


class Scope(Struct, frozen=True):
    """
    The context of a selection: the table of its rows, their order, and the SQL of each `$name`.

    (The SQL of a source contains such names, and `expand` replaces them.) `join` names a field, or
    is None: the row of that field is joined to each row. `row_name` is SQL that names a row in an
    error message: a list of arguments for concat(). `row_valid_if` is a condition that each row
    must fulfil.
    """

    table: str = ""
    order: str | None = None
    names: Mapping[str, str] = {}
    join: str | None = None
    row_name: str = ""
    row_valid_if: str | None = None


class Planner:
    """
    Plans one operation of a valid document.

    - `directive_values`: the values of the variables that directives name.
    - `known_variables`: what the planner may know of each variable. For null, this is None. For an
      enum, it is the value. For any other value it is `...`, which hides the value.
    - `diagnose`: whether the SQL writes a marker in each damaged place.
    - `max_row_bytes`: the most bytes that the long texts of one row may have together.
    """

    def __init__(
        self,
        schema: GraphQLSchema,
        operation: OperationDefinitionNode,
        fragments: dict[str, FragmentDetails],
        *,
        directive_values: dict[str, Any],
        known_variables: Mapping[str, object],
        diagnose: bool = False,
        max_row_bytes: int = MAX_RESULT_BYTES,
    ) -> None:
        self.schema = schema
        self.operation = operation
        self.fragments = fragments
        self.variables = VariableValues({}, directive_values)
        self.known_variables = known_variables
        self.diagnose = diagnose
        self.max_row_bytes = max_row_bytes
        # The next three attributes belong to the root field that is being planned.
        self.parameters: list[tuple[int, Values]] = []
        self.computed_root: ComputedField | None = None
        self.has_computed_parts = False
        # The next two attributes belong to the whole operation.
        self.parameter_count = 0
        self.is_cacheable = True

    def roots(self) -> Iterable[Root]:
        """Return the operation's root fields, in the order of the document."""
        query = self.schema.query_type
        assert query
        collected = collect_fields(
            schema=self.schema,
            fragments=self.fragments,
            variable_values=self.variables,
            runtime_type=query,
            operation=self.operation,
        )
        for key, fields in collected.grouped_field_set.items():
            nodes = [details.node for details in fields]
            name = nodes[0].name.value
            if name in ("__schema", "__type"):
                yield Root(key, nodes, non_null=False)
                continue
            definition = self.schema.get_field(query, name)
            assert definition
            self.parameters, self.computed_root, self.has_computed_parts = [], None, False
            sql = concat(self.field_pieces(query, fields, Scope()))
            selected = None
            if self.diagnose or self.computed_root or self.has_computed_parts:
                selected = self.selected_member(key, query, fields)
            yield Root(
                key=key,
                nodes=nodes,
                non_null=is_non_null_type(definition.type),
                sql=sql,
                parameters=self.parameters,
                computed=self.computed_root,
                has_computed_parts=self.has_computed_parts,
                selected=selected,
            )

    def selection_pieces(
        self, type_: GraphQLObjectType, fields: list[FieldDetails], scope: Scope
    ) -> list[str]:
        """Return the pieces of the JSON object that shows what is selected on `type_`."""
        pieces: list[str] = []
        rules: list[ColumnRule] = []
        long_columns: Counter[str] = Counter()
        for key, details in self.selected_fields(type_, fields):
            if pieces:
                pieces.append(KnownText(","))
            pieces.append(KnownText(f'"{key}":'))
            pieces += self.field_pieces(type_, details, scope)
            rules += self.column_rules(type_, details, scope)
            long_columns.update(long_text_columns(type_, details, scope))
        # The check aborts the statement if the long texts of a row are too long. Postgres evaluates
        # the pieces in their order, so the check comes before the texts.
        check = [row_bytes_check(long_columns, self.max_row_bytes)] if long_columns else []
        pieces = [*check, KnownText("{"), *pieces, KnownText("}")]
        return self.with_row_check(pieces, rules, scope)

    def with_row_check(
        self, pieces: list[str], rules: Sequence[ColumnRule], scope: Scope
    ) -> list[str]:
        """Return the pieces of a row's JSON with the checks of the row."""
        # A diagnosing plan checks each column separately (`with_field_check`).
        violations = [] if self.diagnose else rule_violations(rules)
        if scope.row_valid_if is not None:
            violations.append(f"{scope.row_valid_if} IS NOT TRUE")
        if not violations:
            return pieces
        damage_condition = " OR ".join(violations)
        if self.diagnose:
            damage = self.damage_sql(scope)
            return [f"CASE WHEN {damage_condition} THEN {damage} ELSE {concat(pieces)} END"]
        # One check for all columns of a row costs a third of what a check for each column costs.
        return [*pieces, f"CASE WHEN {damage_condition} THEN {_DAMAGE_CHARACTER_SQL} END"]

    def column_rules(
        self, type_: GraphQLObjectType, fields: list[FieldDetails], scope: Scope
    ) -> list[ColumnRule]:
        """Return what the schema promises of the column that a field shows or depends on."""
        definition = type_.fields.get(fields[0].node.name.value)
        match source_of(definition) if definition else None:
            case Related(foreign_key=str() as foreign_key, required_if=str() as condition):
                return [ColumnRule(foreign_key, allowed_if=condition)]
            case Column(sql=None) as source:
                assert definition
            case Column(invalid_if=str() as condition):
                return [ColumnRule(invalid_if=[condition])]
            case _:
                return []
        named_type = get_named_type(definition.type)
        column = f"{scope.table}.{declared(definition).python_name}"
        required_if = source.required_if
        # An enum needs no check for null: the CASE that writes it has a branch for unknown values.
        if is_non_null_type(definition.type) and not is_enum_type(named_type):
            required_if = "true"
        invalid_if: list[str] = []
        # A number that is not finite has no JSON. Only a diagnosing plan checks for it. In the
        # result of an ordinary plan, `api.damage` finds the text of the number (`SUSPICIOUS`).
        if self.diagnose and named_type.name == "Decimal":
            invalid_if.append(f"{column} IN ('NaN', 'Infinity', '-Infinity')")
        if source.invalid_if:
            invalid_if.append(source.invalid_if)
        rule = ColumnRule(
            column=column,
            required_if=required_if,
            allowed_if=source.allowed_if,
            type=named_type.name,
            invalid_if=invalid_if,
        )
        return [rule]

    def damage_sql(self, scope: Scope, problem: str = "") -> str:
        """
        Return the SQL of what the JSON contains in a damaged place.

        `problem` is SQL for what the error says about the damage: a list of arguments for concat().
        """
        if not self.diagnose:
            return _DAMAGE_CHARACTER_SQL
        row_name = scope.row_name or "''"
        members = f"'{MARKER_KEY}', concat({row_name})"
        if problem:
            members += f", 'problem', concat({problem})"
        return f"json_build_object({members})::text"

    def selected_fields(
        self, type_: GraphQLObjectType, fields: list[FieldDetails]
    ) -> Iterable[tuple[str, list[FieldDetails]]]:
        """Return the fields that are selected on `type_`, merged, by response key."""
        collected = collect_subfields(
            schema=self.schema,
            fragments=self.fragments,
            variable_values=self.variables,
            operation=self.operation,
            return_type=type_,
            field_details_list=fields,
        )
        return collected.grouped_field_set.items()

    def field_pieces(
        self, parent: GraphQLObjectType, fields: list[FieldDetails], scope: Scope
    ) -> list[str]:
        """Return the pieces of the JSON of one field."""
        name = fields[0].node.name.value
        if name == "__typename":
            return [KnownText(f'"{parent.name}"')]
        definition = parent.fields[name]
        target: Any = get_named_type(definition.type)
        match source_of(definition):
            case Column() as column:
                pieces = self.column_pieces(column, definition, scope)
                return self.with_field_check(pieces, parent, fields, scope=scope)
            case Same():
                return self.same_row_pieces(definition, target, fields, scope=scope)
            case Related() if name == scope.join:
                joined = Scope(table_of(target), row_name=row_name_sql(target))
                return self.selection_pieces(target, fields, joined)
            case Related() as relation:
                pieces = self.related_pieces(relation, definition, fields, scope=scope)
                return self.with_field_check(pieces, parent, fields, scope=scope)
            case Paginated() as page:
                return self.page_pieces(page, definition, fields)
            case Computed() as computed:
                return self.computed_pieces(computed, definition, fields, parent=parent)
            case ValuePart():
                raise TypeError(f"{parent.name}.{name} is not inside a computed value")

    def with_field_check(
        self,
        pieces: list[str],
        parent: GraphQLObjectType,
        fields: list[FieldDetails],
        *,
        scope: Scope,
    ) -> list[str]:
        """Return the pieces of a field, with the check of its column if the plan diagnoses."""
        if not self.diagnose:
            return pieces
        violations = rule_violations(self.column_rules(parent, fields, scope))
        if not violations:
            return pieces
        damage_condition = " OR ".join(violations)
        return [
            f"CASE WHEN {damage_condition} THEN {self.damage_sql(scope)} ELSE {concat(pieces)} END"
        ]

    def column_pieces(self, column: Column, definition: GraphQLField, scope: Scope) -> list[str]:
        """Return the pieces of the JSON of a column, or of an expression on the row."""
        if column.sql is not None:
            sql = expand(column.sql, {**scope.names, **self.fact_sql(column)})
            return leaf_pieces(definition.type, sql, self.damage_sql(scope))
        sql = f"{scope.table}.{declared(definition).python_name}"
        # In an ordinary plan, the check of the whole row covers this column.
        is_checked = not self.diagnose
        return leaf_pieces(definition.type, sql, self.damage_sql(scope), is_checked=is_checked)

    def fact_sql(self, column: Column) -> Mapping[str, str]:
        """Return the SQL of each fact that a column's expression uses, by the fact's name."""
        names: dict[str, str] = {}
        for name, fact in column.facts.items():
            if not fact.is_cacheable:
                self.is_cacheable = False
            (parameter,) = self.add_parameters(1, _fact_values(fact))
            names[name] = f"{parameter}::{fact.type}"
        return names

    def same_row_pieces(
        self,
        definition: GraphQLField,
        target: Any,
        fields: list[FieldDetails],
        *,
        scope: Scope,
    ) -> list[str]:
        """
        Return the pieces of the JSON of a nested object that shows the same row as its parent.

        If the field is a list (`nodes`, `edges`), its JSON is an array of all rows of the page.
        """
        if not is_many(definition.type):
            return self.selection_pieces(target, fields, replace(scope, row_valid_if=None))
        rows = replace(
            scope, row_name=scope.names["row_name"], row_valid_if=scope.names.get("row_valid_if")
        )
        return array_pieces(self.selection_pieces(target, fields, rows), scope.order)

    def computed_pieces(
        self,
        computed: Computed,
        definition: GraphQLField,
        fields: list[FieldDetails],
        *,
        parent: GraphQLObjectType,
    ) -> list[str]:
        """
        Return the pieces of the rows from which a value is computed.

        For a root field, the rows are the whole text, and `computed_root` is set. Otherwise the
        text is a JSON object with the rows and the arguments that the row of the field supplies.
        """
        names = {**computed.row_arguments, **self.argument_sql(definition, fields[0])}
        details = fields[0]._replace(node=without_selections(fields[0].node))

        def check(variables: VariableValues, facts: object) -> Iterable[object]:
            computed.check(argument_values(definition, details, variables, facts=facts))
            return ()

        # A group without parameters: its function only checks the arguments when the plan runs.
        self.parameters.append((0, check))
        rows = expand(computed.rows, names)
        if parent is self.schema.query_type:
            self.computed_root = computed_field(computed, definition, fields[0])
            return [rows]
        self.has_computed_parts = True
        supplied = ", ".join(f"'{name}', {sql}" for name, sql in computed.row_arguments.items())
        return [
            KnownText('{"rows":'),
            f"to_json({rows})::text",
            KnownText(',"arguments":'),
            f"json_build_object({supplied})::text",
            KnownText("}"),
        ]

    def selected_member(
        self, key: str, parent: GraphQLObjectType, fields: list[FieldDetails]
    ) -> Member:
        """Return a field as a member, with the members that are selected of its value."""
        name = fields[0].node.name.value
        if name == "__typename":
            return Member(key, typename=parent.name)
        definition = parent.fields[name]
        target: Any = get_named_type(definition.type)
        computed = arguments = None
        match source_of(definition):
            case Computed() as source if parent is not self.schema.query_type:
                computed = computed_field(source, definition, fields[0])
            case ValuePart() if definition.args:
                arguments = self.part_arguments(definition, fields[0])
        children = None
        if not is_leaf_type(target):
            children = [
                self.selected_member(key, target, details)
                for key, details in self.selected_fields(target, fields)
            ]
        return Member(
            key=key,
            field=f"{parent.name}.{name}",
            type=definition.type,
            attribute=declared(definition).python_name,
            arguments=arguments,
            children=children,
            computed=computed,
        )

    def part_arguments(self, definition: GraphQLField, details: FieldDetails) -> ArgumentValues:
        """
        Return how a part of a computed value gets its arguments.

        When the plan runs, they are also checked together with the arguments of the root field, so
        that nothing is read and computed for invalid ones.
        """
        arguments = field_arguments(definition, details)

        def check(variables: VariableValues, facts: object) -> Iterable[object]:
            arguments(variables)
            return ()

        self.parameters.append((0, check))
        return arguments

    def related_pieces(
        self,
        relation: Related,
        definition: GraphQLField,
        fields: list[FieldDetails],
        *,
        scope: Scope,
    ) -> list[str]:
        """Return the pieces of the JSON of a relation: of all its rows, or of one of them."""
        names = self.argument_sql(definition, fields[0])
        target: Any = get_named_type(definition.type)
        table = table_of(target)
        rows = f"FROM {table} {join_sql(target, relation)}WHERE {expand(relation.where, names)}"
        inner_scope = Scope(
            table,
            join=relation.join,
            row_name=row_name_sql(target),
            row_valid_if=relation.row_valid_if,
        )
        pieces = self.selection_pieces(target, fields, inner_scope)
        if is_many(definition.type):
            return self.related_list_pieces(relation, pieces, rows, names=names, scope=scope)
        otherwise = self.missing_row_sql(relation, definition.type, names=names, scope=scope)
        if relation.order:
            row = f"SELECT {concat(pieces)} {rows} ORDER BY {relation.order} LIMIT 1"
            return [f"coalesce(({row}), {otherwise})"]
        if self.diagnose:
            json = f"string_agg({concat(pieces)}, '')"
            several = self.damage_sql(scope, "'has ', count(*), ' rows, and must have one'")
            cases = f"WHEN 0 THEN {otherwise} WHEN 1 THEN {json} ELSE {several}"
            return [f"(SELECT CASE count(*) {cases} END {rows})"]
        # If there are two rows where there must be one, Postgres raises CardinalityViolation. Then
        # the operation is planned again with `diagnose`.
        return [f"coalesce((SELECT {concat(pieces)} {rows}), {otherwise})"]

    def related_list_pieces(
        self,
        relation: Related,
        pieces: list[str],
        rows: str,
        *,
        names: Mapping[str, str],
        scope: Scope,
    ) -> list[str]:
        """Return the pieces of the JSON array of all related rows, with the check of the list."""
        opening, items, closing = array_pieces(pieces, relation.order)
        if relation.valid_if is None:
            return [opening, f"(SELECT {items} {rows})", closing]
        problem = "'has ', count(*)"
        if relation.expected:
            problem += f", ', and must have ', {expand(relation.expected, names)}"
        damage = self.damage_sql(scope, problem)
        valid_if = expand(relation.valid_if, names)
        if self.diagnose:
            # The marker takes the place of the whole array, brackets included.
            whole = f"concat('[', {items}, ']')"
            return [f"(SELECT CASE WHEN {valid_if} THEN {whole} ELSE {damage} END {rows})"]
        checked = f"(SELECT CASE WHEN {valid_if} THEN {items} ELSE {damage} END {rows})"
        return [opening, checked, closing]

    def missing_row_sql(
        self,
        relation: Related,
        type_: GraphQLOutputType,
        *,
        names: Mapping[str, str],
        scope: Scope,
    ) -> str:
        """Return the SQL of a relation's JSON if the related row is missing: null, or damage."""
        damage = self.damage_sql(scope, "'has no row, and must have one'")
        if relation.required_if is not None:
            condition = expand(relation.required_if, names)
            if relation.foreign_key:
                condition = f"{relation.foreign_key} IS NOT NULL OR {condition}"
            return f"CASE WHEN {condition} THEN {damage} ELSE 'null' END"
        return damage if is_non_null_type(type_) else "'null'"

    def page_pieces(
        self, page: Paginated, definition: GraphQLField, fields: list[FieldDetails]
    ) -> list[str]:
        """
        Return the SQL of the JSON of a connection: one row of aggregates over a page's rows.
        """
        names = self.argument_sql(definition, fields[0])
        target: Any = get_named_type(definition.type)
        node_type = get_named_type(target.fields["nodes"].type)
        table = table_of(node_type)
        queries = PageQueries(page, table, names)
        meanings = {
            "row_name": row_name_sql(node_type),
            "cursor": queries.cursor,
            "start": f"({queries.cursors})[1]",
            "end": f"({queries.cursors})[count(*)::integer]",
            # Without OFFSET, Postgres ignores the ORDER BY inside EXISTS, and may scan the table
            # from one end to the cursor.
            "has_next": f"EXISTS ({queries.following} OFFSET {names['first']})",
            "has_previous": f"EXISTS ({queries.preceding} OFFSET 0)",
        }
        if page.row_valid_if is not None:
            meanings["row_valid_if"] = page.row_valid_if
        pieces = self.selection_pieces(target, fields, Scope(table, queries.order, meanings))
        if page.valid_if is not None:
            pieces = self.with_page_check(page.valid_if, page.problem or "", pieces)
        rows = f"{queries.following} LIMIT {names['first']}"
        return [f"(SELECT {concat(pieces)} FROM ({rows}) {table} GROUP BY ())"]

    def with_page_check(self, valid_if: str, problem: str, pieces: list[str]) -> list[str]:
        """Return the pieces of a page whose rows together must fulfil a condition."""
        if self.diagnose:
            damage = self.damage_sql(Scope(), problem)
            return [f"CASE WHEN ({valid_if}) IS FALSE THEN {damage} ELSE {concat(pieces)} END"]
        return [*pieces, f"CASE WHEN NOT ({valid_if}) THEN {_DAMAGE_CHARACTER_SQL} END"]

    def argument_sql(self, definition: GraphQLField, details: FieldDetails) -> Mapping[str, str]:
        """
        Return the SQL of each argument of a field, by the argument's name.

        For each argument, a second name is added, with the prefix "no_": `true` if the argument is
        null, otherwise `false`.

        - An optional argument that is null, or that the document leaves out, is NULL. Then the
          condition on the argument is constant, and Postgres removes the condition when it plans.
        - An enum is a constant. So Postgres sees, for example, how rare a status is, and plans for
          that.
        - Any other value is a parameter. So Postgres can use one plan for all of these values.
        """
        details = details._replace(node=without_selections(details.node))
        nodes = {node.name.value: node.value for node in details.node.arguments or ()}
        names: dict[str, str] = {}
        parameters: list[str] = []
        arguments: Mapping[str, Argument] = declared(definition).metadata["arguments"]
        for (name, argument), key in zip(arguments.items(), definition.args, strict=True):
            type_ = definition.args[key].type
            text = ""
            if argument.default is UNSET and not is_non_null_type(type_):
                text = self.constant_sql(nodes.get(key), type_)
            names[name] = text
            names[f"no_{name}"] = str(text == "NULL").lower()
            if not text:
                parameters.append(name)
        if not parameters:
            return names

        def values(variables: VariableValues, facts: object) -> Iterable[object]:
            converted = argument_values(definition, details, variables, facts=facts)
            return (converted[name] for name in parameters)

        numbered = self.add_parameters(len(parameters), values)
        return {**names, **dict(zip(parameters, numbered, strict=True))}

    def constant_sql(self, node: ValueNode | None, type_: Any) -> str:
        """
        Return the SQL of an optional argument that is null or a known value of an enum.

        For any other value the returned text is empty, and the value becomes a parameter.
        """
        value: object = node
        if isinstance(node, VariableNode):
            value = self.known_variables.get(node.name.value, ...)
        if value is None or isinstance(value, NullValueNode):
            return "NULL"
        if isinstance(value, EnumValueNode):
            return f"'{type_.values[value.value].value}'"
        if isinstance(value, Enum):
            return f"'{value.value}'"
        return ""

    def add_parameters(self, count: int, values: Values) -> Sequence[str]:
        """
        Return the SQL of `count` new parameters (`$1`, `$2`, ...).

        `values` returns their values when the plan runs.
        """
        self.parameters.append((count, values))
        first = self.parameter_count + 1
        self.parameter_count += count
        return [f"${number}" for number in range(first, first + count)]


class PageQueries:
    """
    The SQL of a page: the rows after the cursor, the rows up to it, and the cursor of each row.

    `following` selects the rows after the cursor, and `preceding` the rows up to and including it.
    `cursor` is the cursor of one row, and `cursors` the array of the cursors of all rows.
    """

    def __init__(self, page: Paginated, table: str, names: Mapping[str, str]) -> None:
        after_operator, before_operator, direction = (">", "<", "ASC")
        if page.descending:
            after_operator, before_operator, direction = ("<", ">", "DESC")
        keys = ", ".join(page.sort_keys)
        self.order = ", ".join(f"{key} {direction}" for key in page.sort_keys)
        cursor_values = [
            f"split_part({names['after']}, ' ', {position})::{key.type}"
            for position, key in enumerate(page.sort_keys.values(), 1)
        ]
        all_rows = f"SELECT * FROM {table} WHERE {expand(page.where, names)}"
        start = self._start_position(page, cursor_values)
        after_condition = f"({keys}) {after_operator} ({start})"
        self.following = f"{all_rows} AND {after_condition} ORDER BY {self.order}"
        cursor_position = ", ".join(cursor_values)
        before_condition = f"({keys}) {before_operator}= ({cursor_position})"
        self.preceding = f"{all_rows} AND {before_condition} ORDER BY {self.order}"
        texts = ", ".join(key.text_sql.format(sql) for sql, key in page.sort_keys.items())
        row_position = f"concat_ws(' ', {texts})"
        # Postgres breaks base64 into lines, so the line feeds are removed.
        base64 = f"encode(convert_to({row_position}, 'UTF8'), 'base64')"
        self.cursor = f"translate({base64}, chr(10), '')"
        self.cursors = f"array_agg({self.cursor} ORDER BY {self.order})"

    @staticmethod
    def _start_position(page: Paginated, cursor_values: Sequence[str]) -> str:
        """
        Return the position after which the page begins.

        Without a cursor, that is a position before all rows. So the condition has the same form
        with and without a cursor, and a generic plan of Postgres can use the index.
        """
        keys = page.sort_keys.values()
        edges = [key.highest if page.descending else key.lowest for key in keys]
        pairs = zip(cursor_values, edges, strict=True)
        return ", ".join(f"coalesce({value}, '{edge}')" for value, edge in pairs)


def computed_field(
    computed: Computed, definition: GraphQLField, details: FieldDetails
) -> ComputedField:
    """Return how a computed field gets its value."""
    return ComputedField(computed, field_arguments(definition, details))


def field_arguments(definition: GraphQLField, details: FieldDetails) -> ArgumentValues:
    """Return the function that returns the arguments of a field for the variables of a request."""
    without_children = details._replace(node=without_selections(details.node))

    def arguments(variables: VariableValues) -> Mapping[str, object]:
        return argument_values(definition, without_children, variables)

    return arguments


def _fact_values(fact: Fact) -> Values:
    """Return the function that returns a fact as the value of a parameter."""

    def values(variables: VariableValues, facts: object) -> Iterable[object]:
        return [fact.value(facts)]

    return values


def without_selections(node: FieldNode) -> FieldNode:
    """
    Return a field without its selections.

    A plan keeps the nodes of fields for arguments and errors. They are kept without selections,
    because a plan must stay small.
    """
    return FieldNode(name=node.name, alias=node.alias, arguments=node.arguments, loc=node.loc)


def argument_values(
    definition: GraphQLField,
    details: FieldDetails,
    variables: VariableValues,
    facts: object = None,
) -> Mapping[str, object]:
    """
    Return the converted value of each argument of a field, by name; None if it is null or missing.

    If `facts` (`api.schema.Facts`) are given, each value is also checked against them.
    """
    coerced = get_argument_values(
        type_def=definition,
        node=details.node,
        variable_values=variables,
        fragment_variable_values=details.fragment_variable_values,
    )
    arguments: Mapping[str, Argument] = declared(definition).metadata["arguments"]
    values: dict[str, object] = {}
    for (name, argument), key in zip(arguments.items(), definition.args, strict=True):
        value = coerced.get(key)
        if value is None:
            values[name] = None
            continue
        values[name] = argument.convert(value)
        if facts is not None:
            argument.check(values[name], facts)
    return values


def declared(definition: Any) -> Any:
    """Return the Strawberry declaration of a type or field of the schema."""
    return definition.extensions["strawberry-definition"]


def source_of(definition: GraphQLField) -> Source:
    """Return the declared source of a field's data."""
    source: Source = declared(definition).metadata["source"]
    return source


def long_text_columns(
    type_: GraphQLObjectType, fields: list[FieldDetails], scope: Scope
) -> list[str]:
    """Return a list with the field's column if its text may be long, otherwise an empty list."""
    definition = type_.fields.get(fields[0].node.name.value)
    match source_of(definition) if definition else None:
        case Column(sql=None) if (max_bytes_of(definition) or 0) > LONG:
            return [f"{scope.table}.{declared(definition).python_name}"]
        case _:
            return []


def max_bytes_of(definition: Any) -> int | None:
    """Return the most bytes that a field's text can have; None if its declaration has no limit."""
    max_bytes: int | None = declared(definition).metadata["max_bytes"]
    return max_bytes


def table_of(type_: Any) -> str:
    """Return the table whose rows a type shows; an empty text for a type without a table."""
    return str(declared(type_).origin.__table__)


def row_name_sql(type_: Any) -> str:
    """
    Return SQL that names a row in an error message: a list of arguments for concat().

    The text is empty for a type without a table.
    """
    origin = declared(type_).origin
    if not origin.__row_name__:
        return ""
    return f"'the row ', {origin.__row_name__}, ' of {origin.__table__}'"


def join_sql(type_: GraphQLObjectType, relation: Related) -> str:
    """Return the JOIN for `relation.join`, or an empty text if that is None."""
    if relation.join is None:
        return ""
    field = type_.fields[relation.join]
    joined = source_of(field)
    assert isinstance(joined, Related)
    return f"LEFT JOIN {table_of(get_named_type(field.type))} ON {expand(joined.where, {})} "


def is_many(type_: GraphQLOutputType) -> bool:
    """Return whether a field of this type is a list."""
    return is_list_type(get_nullable_type(type_))


def expand(sql: str, names: Mapping[str, str]) -> str:
    """Return `sql` in parentheses, with each `$name` replaced by its SQL in `names`."""
    return f"({Template(sql).substitute(names)})"


def rule_violations(rules: Iterable[ColumnRule]) -> list[str]:
    """
    Return the conditions under which a row breaks one of the rules.

    Several columns may depend on the same condition. Then it is evaluated only once, because each
    expression costs Postgres more to prepare than to evaluate for one row. Dicts are used as
    ordered sets.
    """
    missing: dict[str, dict[str, None]] = {}
    unexpected: dict[str, dict[str, None]] = {}
    limited: dict[str, dict[str, None]] = {}
    violations: dict[str, None] = {}
    for rule in rules:
        if rule.required_if is not None:
            missing.setdefault(rule.required_if, {})[f"{rule.column} IS NULL"] = None
        if rule.allowed_if is not None:
            unexpected.setdefault(rule.allowed_if, {})[f"{rule.column} IS NOT NULL"] = None
        if rule.type in WRITABLE:
            limited.setdefault(rule.type, {})[rule.column] = None
        violations |= dict.fromkeys(rule.invalid_if)
    always = list(missing.pop("true", ()))
    for condition in {**missing, **unexpected}:
        if_true = " OR ".join(missing.get(condition, {"false": None}))
        otherwise = " OR ".join(unexpected.get(condition, {"false": None}))
        violations[f"CASE WHEN {condition} THEN {if_true} ELSE {otherwise} END"] = None
    for type_, columns in limited.items():
        first, last = WRITABLE[type_]
        listed = ", ".join(columns)
        violations[f"least({listed}) < {first} OR greatest({listed}) > {last}"] = None
    return [*always, *violations]


def leaf_pieces(
    type_: GraphQLOutputType, sql: str, damage: str, *, is_checked: bool = False
) -> list[str]:
    """
    Return the pieces of the JSON of one value.

    In place of a null that the schema does not allow, the SQL writes `damage`. `is_checked` says
    that another check covers the value, so the SQL has no check here. An enum is always checked,
    because its value may be unknown.
    """
    named: Any = get_named_type(type_)
    if is_enum_type(named):
        return [_enum_sql(type_, sql, damage)]
    needs_quotes = named.name not in JSON_SCALARS
    scalar = QUOTED_SCALARS[named.name] if needs_quotes else JSON_SCALARS[named.name]
    text = scalar.format(sql)
    if not is_non_null_type(type_):
        if needs_quotes:
            return [f"""coalesce('"' || {text} || '"', 'null')"""]
        return [f"coalesce(({text})::text, 'null')"]
    if is_checked:
        if needs_quotes:
            return [KnownText('"'), text, KnownText('"')]
        return [text]
    if needs_quotes and damage == _DAMAGE_CHARACTER_SQL:
        return [KnownText('"'), f"coalesce(({text})::text, {damage})", KnownText('"')]
    # A marker takes the place of the quotes, too.
    whole = f"({text})::text"
    if needs_quotes:
        whole = f"""'"' || {whole} || '"'"""
    return [f"coalesce({whole}, {damage})"]


def _enum_sql(type_: GraphQLOutputType, sql: str, damage: str) -> str:
    """Return the SQL of the name of an enum's value, or `damage` for an unknown value."""
    named: Any = get_named_type(type_)
    cases = " ".join(
        f"WHEN '{value.value}' THEN '\"{name}\"'" for name, value in named.values.items()
    )
    otherwise = damage
    if not is_non_null_type(type_):
        otherwise = f"CASE WHEN {sql} IS NULL THEN 'null' ELSE {damage} END"
    return f"CASE {sql} {cases} ELSE {otherwise} END"


def array_pieces(pieces: list[str], order: str | None) -> list[str]:
    """Return the three pieces of the JSON array of rows: its brackets, and its items in `order`."""
    ordering = f" ORDER BY {order}" if order else ""
    items = f"string_agg({concat(pieces)}, ','{ordering})"
    return [KnownText("["), items, KnownText("]")]


def concat(pieces: list[str]) -> str:
    """Return one SQL expression for the text of all pieces."""
    parts: list[str] = []
    for is_known, group in groupby(pieces, lambda piece: isinstance(piece, KnownText)):
        run = list(group)
        if is_known:
            parts.append(f"'{''.join(run)}'")
        else:
            parts += run
    while len(parts) > _MAX_SQL_ARGUMENTS:
        starts = range(0, len(parts), _MAX_SQL_ARGUMENTS)
        groups = [parts[start : start + _MAX_SQL_ARGUMENTS] for start in starts]
        parts = [f"concat({', '.join(group)})" for group in groups]
    if len(parts) == 1:
        return parts[0]
    return f"concat({', '.join(parts)})"
