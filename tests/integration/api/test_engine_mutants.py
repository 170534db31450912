"""The comparison with graphql-core finds every planted mistake in the engine."""

from json import JSONDecodeError

import pytest
from api_records import FACTS, plant
from mutations import Argument, Mutation, Swap, Text, mutated, parsed, places

from api import compiler, computed_values, engine
from api.schema import schema
from app.database import pools
from app.database.queries import pool_fetcher
from tests.integration.api.test_engine_differential import compare

MODULES = [engine, compiler, computed_values]
MEMO = "self.own_plans = Memo(self._plan, max_documents, MAX_CACHED_OBJECTS)"


def forgetful(key: str) -> Swap:
    """Make the cache of plans use only a part of its key."""
    return Swap(
        MEMO,
        f"""self.own_plans = type("Some", (Memo,), {{
            "get": lambda self, q, n, s, k: Memo.get(self, {key}),
            "put": lambda self, result, q, n, s, k: Memo.put(self, result, {key}),
        }})(self._plan, max_documents, MAX_CACHED_OBJECTS)""",
    )


MUTANTS: dict[str, Mutation] = {
    "@skip is ignored": Swap(
        "collect_variables(parse_document(query))",
        "collect_variables(parse_document(query.replace('@skip(if: true)', ' ' * 15)))",
    ),
    "@include is inverted at fragments": Swap(
        "collect_variables(parse_document(query))",
        r"""collect_variables(parse_document(
            __import__("re").sub(r"(\.\.\.\w+) @include", r"\1 @skip   ", query)
        ))""",
    ),
    "an alias is not used": Text('"{key}":', '"{details[0].node.name.value}":'),
    "only the first of merged selections counts": Argument(
        "collect_subfields", "field_details_list", "fields[:1]"
    ),
    "members are sorted": Swap(
        "collected.grouped_field_set.items()",
        "sorted(collected.grouped_field_set.items())",
        within="Planner.selected_fields",
    ),
    "a variable's default is ignored": Swap(
        "values.coerced",
        "{n: v for n, v in values.coerced.items() if n in (variables or {})}",
        within="Engine._prepare",
    ),
    "a variable that is null counts as left out": Argument(
        "get_variable_values",
        "inputs",
        "{n: v for n, v in (variables or {}).items() if v is not None}",
    ),
    "a variable that is left out counts as null": Argument(
        "get_variable_values",
        "inputs",
        "{**dict.fromkeys(document.variables), **(variables or {})}",
    ),
    "an argument that is null counts as left out": Swap(
        "return 'NULL'", "return ''", within="Planner.constant_sql"
    ),
    "__typename is the root's": Text('"{parent.name}"', '"Query"'),
    "plans are cached whatever the directives' variables": forgetful("q, n, k"),
    "plans are cached whatever the enums' values": forgetful("q, n, s"),
    "plans are cached whatever the operation": forgetful("q, s, k"),
    "the first operation is answered": Swap(
        "get_operation_ast(parsed.document, operation_name)",
        "next(one for one in parsed.document.definitions "
        "if isinstance(one, OperationDefinitionNode))",
    ),
    "a list has no order": Swap(
        "array_pieces(pieces, relation.order)", "array_pieces(pieces, None)"
    ),
    "the latest is any": Text("{rows} ORDER BY {relation.order} LIMIT 1", "{rows} LIMIT 1"),
    "the error of a refused field is lost": Swap("list(argument_errors.values())", "[]"),
    "a refused field that must not be null is null": Swap(
        "root.non_null and root.key in errors", "False"
    ),
    "what must be null as a whole is empty": Swap(
        "{'data': None, 'errors': errors}", "{'data': {}, 'errors': errors}"
    ),
    "hasNextPage is off by one": Text(
        "OFFSET {names['first']})", "OFFSET {names['first']}::bigint + 1)"
    ),
    "a page is one too long": Text(
        "{queries.following} LIMIT {names['first']}",
        "{queries.following} LIMIT {names['first']}::bigint + 1",
    ),
    "a cursor's own row comes again": Text(
        "({keys}) {after_operator} ({start})", "({keys}) {after_operator}= ({start})"
    ),
    "hasPreviousPage leaves out the cursor's row": Text(
        "{before_operator}= (", "{before_operator} ("
    ),
    "startCursor is the last": Text(
        "({queries.cursors})[1]", "({queries.cursors})[count(*)::integer]"
    ),
    "an enum says its value": Text("""THEN '"{name}"'""", """THEN '"{value.value}"'"""),
    "an argument is sent as it came": Swap("argument.convert(value)", "value"),
    "text is not escaped": Text("to_json(({})::text)", """'"' || {} || '"'"""),
    "times lose digits": Text("SS.US", "SS.MS"),
    "what is not there is empty": Swap(
        '''"'null'"''', '''"'{}'"''', within="Planner.missing_row_sql"
    ),
    "a computed value has no aliases": Swap("selected.key", "selected.attribute", within="to_json"),
    "a computed value's type is its field": Swap(
        "return member.typename", "return member.key", within="_member_json"
    ),
    "a computed null is empty": Swap("return None", "return {}", within="to_json"),
    "arguments of a computed value are ignored": Swap(
        "computed.check(argument_values(definition, details, variables, facts=facts))",
        "argument_values(definition, details, variables, facts=facts)",
    ),
    "an argument is not checked against the facts": Swap("facts is not None", "False"),
    "a computed value is made without its arguments": Swap(
        "computed.arguments(variables)", "dict.fromkeys(computed.arguments(variables), 'main')"
    ),
    "a value is cached whatever its arguments": Swap("tuple(arguments.items())", "()"),
    "introspection comes last": Swap(
        'dict.fromkeys((root.key for root in plan.roots), b"null")', "{}"
    ),
}


def made_anew(pool: pools.Pool, mutation: Mutation | None) -> engine.Engine:
    """
    Return an engine whose modules are made anew from their syntax trees, with a mistake or without.
    """
    made, planning, computing = mutated(MODULES, mutation)
    made.Planner = planning.Planner
    made.ValueComputer, made.to_json = computing.ValueComputer, computing.to_json
    return made.Engine(schema, pool_fetcher(pool), FACTS)


async def run(database: str, of: engine.Engine, most: int) -> None:
    """Compare random operations, until a mistake is found."""
    plant(database)
    for seed in range(100, 100 + most // 50):
        await compare(database=database, engine=of, seed=seed, count=50)


def test_every_mistake_has_its_place():
    """Each is planted in exactly one place of the three modules."""
    trees = parsed(MODULES)
    assert {name: places(trees, one) for name, one in MUTANTS.items()} == dict.fromkeys(MUTANTS, 1)


@pytest.mark.long
async def test_the_engine_passes(database, pool):
    """In an engine that is made anew without a change, no mistake is found."""
    await run(database, made_anew(pool, None), 500)


@pytest.mark.long
@pytest.mark.parametrize("name", MUTANTS)
async def test_a_mutant_is_found(name, database, pool):
    with pytest.raises((AssertionError, JSONDecodeError)):
        await run(database, made_anew(pool, MUTANTS[name]), 5_000)
