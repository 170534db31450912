"""The comparison with graphql-core notices what could be wrong with the engine: each planted mistake is found."""

import inspect
from json import JSONDecodeError
from types import ModuleType

import pytest
from api_records import FACTS, plant
from test_api_differential import compare

from api import compiler, engine, values
from api.schema import schema
from app.database import pools
from app.database.queries import fetcher

# What becomes of which text of the engine's or the planner's source; the text stands there once.
KEPT = "self.plan = Memo(self._plan, kept, MOST_KEPT)"
# A memory that does not look at all of its four arguments.
KEY = """self.plan = type("Some", (Memo,), {
            "get": lambda self, q, n, s, k: Memo.get(self, KEY),
            "put": lambda self, result, q, n, s, k: Memo.put(self, result, KEY),
        })(self._plan, kept, MOST_KEPT)"""
MUTANTS = {
    "@skip is ignored": (
        "tree_of(parsed(query))",
        """tree_of(parsed(query.replace("@skip(if: true)", " " * 15)))""",
    ),
    "@include is inverted at fragments": (
        "tree_of(parsed(query))",
        r"""tree_of(parsed(__import__("re").sub(r"(\.\.\.\w+) @include", r"\1 @skip   ", query)))""",
    ),
    "an alias is not used": ('"{key}":', '"{details[0].node.name.value}":'),
    "only the first of merged selections counts": (
        "self.operation, type_, fields)",
        "self.operation, type_, fields[:1])",
    ),
    "members are sorted": (
        "return found.grouped_field_set.items()",
        "return sorted(found.grouped_field_set.items())",
    ),
    "a variable's default is ignored": (
        "coerced = values.coerced",
        "coerced = {n: v for n, v in values.coerced.items() if n in (variables or {})}",
    ),
    "a variable that is null counts as left out": (
        "operation.variables, variables or {}",
        "operation.variables, {n: v for n, v in (variables or {}).items() if v is not None}",
    ),
    "a variable that is left out counts as null": (
        "operation.variables, variables or {}",
        "operation.variables, {**dict.fromkeys(document.variables), **(variables or {})}",
    ),
    "an argument that is null counts as left out": ('return "NULL"', "return ''"),
    "__typename is the root's": ('"{parent.name}"', '"Query"'),
    "plans are kept whatever the directives' variables": (KEPT, KEY.replace("KEY", "q, n, k")),
    "plans are kept whatever the enums' values": (KEPT, KEY.replace("KEY", "q, n, s")),
    "plans are kept whatever the operation": (KEPT, KEY.replace("KEY", "q, s, k")),
    "the first operation is answered": (
        "get_operation_ast(node, operation_name)\n        assert operation",
        "next(one for one in node.definitions if isinstance(one, OperationDefinitionNode))",
    ),
    "a list has no order": ("array(pieces, relation.order)", "array(pieces, None)"),
    "the latest is any": ("{rows} ORDER BY {relation.order} LIMIT 1", "{rows} LIMIT 1"),
    "the error of a refused field is lost": ("errors = list(refusals.values())", "errors = []"),
    "a refused field that must not be null is null": ("if root.non_null and root.key in errors:", "if False:"),
    "what must be null as a whole is empty": ('{"data": None, "errors": errors}', '{"data": {}, "errors": errors}'),
    "hasNextPage is off by one": ("OFFSET {names['first']})", "OFFSET {names['first']}::bigint + 1)"),
    "a page is one too long": ("({onward} LIMIT {names['first']})", "({onward} LIMIT {names['first']}::bigint + 1)"),
    "a cursor's own row comes again": ("({keys}) {beyond} ({start})", "({keys}) {beyond}= ({start})"),
    "hasPreviousPage leaves out the cursor's row": ("{before}= (", "{before} ("),
    "startCursor is the last": ("({cursors})[1]", "({cursors})[count(*)::integer]"),
    "an enum says its value": (r"""THEN '\"{name}\"'""", r"""THEN '\"{value.value}\"'"""),
    "an argument is sent as it came": ("argument.convert(value)", "value"),
    "text is not escaped": ('"String": "to_json(({})::text)"', """"String": "'\\"' || {} || '\\"'\""""),
    "times lose digits": ("SS.US", "SS.MS"),
    "what is not there is empty": ("""else "'null'\"""", """else "'{}'\""""),
    "a computed value has no aliases": ("{one.key: selected", "{one.name: selected"),
    "a computed value's type is its field": ("if member.name else member.field", "if member.name else member.key"),
    "a computed null is empty": ("return None\n    bare", "return {}\n    bare"),
    "arguments of a computed value are not looked at": (
        "computed.check(given_arguments(definition, at, variables, facts))",
        "given_arguments(definition, at, variables, facts)",
    ),
    "an argument is not checked against the facts": ("if facts is not None:", "if False:"),
    "a computed value is made without its arguments": (
        "root.made.arguments(variables))",
        "dict.fromkeys(root.made.arguments(variables), 'main'))",
    ),
    "a value is kept whatever its arguments": ("tuple(arguments.items()), sha256", "(), sha256"),
    "introspection comes last": (
        'answers = dict.fromkeys((root.key for root in plan.roots), b"null")',
        "answers = {}",
    ),
}


def built(module: ModuleType, old: str, new: str) -> ModuleType:
    """A module made anew from its source, with another text in one place."""
    made = ModuleType(module.__name__)
    source = inspect.getsource(module)
    exec(compile(source.replace(old, new), f"{module.__name__} with {new!r}", "exec"), made.__dict__)
    return made


def mutated(old: str, new: str, pool: pools.Pool) -> engine.Engine:
    """An engine with one text of its source changed."""
    assert sum(inspect.getsource(module).count(old) for module in (engine, compiler, values)) == 1
    made, making = built(engine, old, new), built(values, old, new)
    made.Planner, made.Maker, made.written = built(compiler, old, new).Planner, making.Maker, making.written
    return made.Engine(schema, fetcher(pool), FACTS)


async def run(database: str, of: engine.Engine, most: int) -> None:
    """What each of them goes through, until it is found."""
    plant(database)
    for seed in range(100, 100 + most // 50):
        await compare(database, of, seed, 50)


@pytest.mark.long
async def test_the_engine_passes(database, pool):
    """One made anew from its source, with nothing changed, is not found."""
    await run(database, mutated(KEPT, KEPT, pool), 500)


@pytest.mark.long
@pytest.mark.parametrize("name", MUTANTS)
async def test_a_mutant_is_found(name, database, pool):
    with pytest.raises((AssertionError, JSONDecodeError)):
        await run(database, mutated(*MUTANTS[name], pool), 5_000)
