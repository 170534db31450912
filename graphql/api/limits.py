"""
How much one document may ask for: measured before anything else works on it, and refused by name and number.

Each fragment is measured once, however often it is spread, so a bomb of fragments costs no more to refuse than to
read. The limits leave room for GraphiQL's own introspection and for a page of a hundred batches with their picks;
what they let through, graphql-core validates in some 50 ms at worst (it compares repeated fields with each other).
"""

from collections.abc import Iterable, Mapping
from typing import Any

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    GraphQLField,
    GraphQLSchema,
    InlineFragmentNode,
    IntValueNode,
    OperationDefinitionNode,
    SelectionNode,
    SelectionSetNode,
    VariableNode,
    get_named_type,
    is_introspection_type,
    is_object_type,
    parse,
)
from msgspec import Struct

from api.compiler import source_of
from api.fields import DEFAULT_PAGE, LONGEST_PAGE, Computed, Page, Part, Related, Source, refusal

# In bytes, for the body of any request to the service. Nothing else below measures a body: they measure a document.
LONGEST_BODY = 64 * 1024
LONGEST_DOCUMENT = 16_000
MOST_TOKENS = 1_000
DEEPEST = 10
MOST_FIELDS = 235
MOST_ALIASES = 50
MOST_VALUES = 25_000
# Of introspection, instead of the four above. The standard query with all of its options has 230 fields and tells 513
# values of a type; clients that add `__typename` to each selection make it 311 fields.
MOST_SCHEMA_FIELDS = 350
MOST_TOLD = 550
DEEPEST_VARIABLES = 5

# How long a type's lists about itself are, on average; the others have one item or none. How many types there are has
# no say: what is told is limited for each, so that a schema may grow and still be read by the same queries.
TOLD = {"fields": 5, "enumValues": 2}


class Size(Struct, frozen=True):
    """
    How large a selection is with its fragments spread, and how many values its answer may hold.

    A page whose `first` is a variable is left out of `values`: `paged` has what one row of it brings, by the variable.
    Introspection is left out of `depth`, `fields`, `aliases` and `values`, because it is deep and long by nature. What
    it costs is bounded by two numbers of its own: `schema_fields` are its fields, which validation compares with each
    other, and `told` is what it tells of each type.
    """

    depth: int = 0
    fields: int = 0
    aliases: int = 0
    values: int = 0
    paged: Mapping[str, int] = {}
    schema_fields: int = 0
    told: int = 0

    def __add__(self, other: "Size") -> "Size":
        """Return the size of two selections side by side."""
        paged = {name: self.paged.get(name, 0) + other.paged.get(name, 0) for name in {*self.paged, *other.paged}}
        return Size(
            depth=max(self.depth, other.depth),
            fields=self.fields + other.fields,
            aliases=self.aliases + other.aliases,
            values=self.values + other.values,
            paged=paged,
            schema_fields=self.schema_fields + other.schema_fields,
            told=self.told + other.told,
        )

    def check(self) -> None:
        """Refuse a document that is too large to be worked on."""
        if self.depth > DEEPEST:
            raise exceeded("DOCUMENT_TOO_DEEP", f"The document has {told(self.depth)} levels", DEEPEST)
        if self.fields > MOST_FIELDS:
            raise exceeded("TOO_MANY_FIELDS", f"The document has {told(self.fields)} fields", MOST_FIELDS)
        if self.aliases > MOST_ALIASES:
            raise exceeded("TOO_MANY_ALIASES", f"The document has {told(self.aliases)} aliases", MOST_ALIASES)
        if self.schema_fields > MOST_SCHEMA_FIELDS:
            has = f"The document asks for {told(self.schema_fields)} fields of the schema"
            raise exceeded("TOO_MANY_FIELDS", has, MOST_SCHEMA_FIELDS)
        if self.told > MOST_TOLD:
            raise exceeded("ANSWER_TOO_LARGE", f"Of each type it may tell {told(self.told)} values", MOST_TOLD)

    def check_values(self, variables: Mapping[str, Any]) -> None:
        """Refuse an operation whose answer may become too large with these variables."""
        values = self.values + sum(rows(variables.get(name)) * brought for name, brought in self.paged.items())
        if values > MOST_VALUES:
            raise exceeded("ANSWER_TOO_LARGE", f"The answer may hold {told(values)} values", MOST_VALUES)


class Measure:
    """Measures the selections of a document, valid or not."""

    def __init__(self, schema: GraphQLSchema, document: DocumentNode) -> None:
        self.schema = schema
        nodes = [node for node in document.definitions if isinstance(node, FragmentDefinitionNode)]
        self.fragments = {node.name.value: node for node in nodes}
        self.known: dict[str, Size] = {}
        operations = [node for node in document.definitions if isinstance(node, OperationDefinitionNode)]
        sizes = [self.selection(node.selection_set, schema.query_type) for node in operations]
        self.operations = dict(zip(map(name_of, operations), sizes, strict=True))
        # Fragments that no operation spreads have no say in an answer, but validation works on them too.
        unused = [name for name in self.fragments if name not in self.known]
        self.whole = sum((*sizes, *map(self.fragment, unused)), Size())

    def fragment(self, name: str) -> Size:
        """Return the size of a fragment; validation has its own words for one that is not there or holds itself."""
        if name not in self.known:
            self.known[name] = Size()
            if node := self.fragments.get(name):
                parent = self.schema.get_type(node.type_condition.name.value)
                self.known[name] = self.selection(node.selection_set, parent)
        return self.known[name]

    def selection(self, selections: SelectionSetNode | None, parent: Any) -> Size:
        """Return the size of what is selected on a type."""
        return sum((self.one(node, parent) for node in (selections.selections if selections else ())), Size())

    def one(self, node: SelectionNode, parent: Any) -> Size:
        """Return the size of a field, or of a fragment that stands in its place."""
        if isinstance(node, FragmentSpreadNode):
            return self.fragment(node.name.value)
        if isinstance(node, InlineFragmentNode):
            condition = node.type_condition
            return self.selection(
                node.selection_set, self.schema.get_type(condition.name.value) if condition else parent
            )
        assert isinstance(node, FieldNode)
        name = node.name.value
        definition = self.schema.get_field(parent, name) if is_object_type(parent) else None
        below = self.selection(node.selection_set, get_named_type(definition.type) if definition else None)
        fields, aliases = below.fields + 1, below.aliases + (node.alias is not None)
        if name in ("__schema", "__type"):
            return Size(depth=1, values=1, schema_fields=fields, told=below.values)
        if name == "__typename" and node.alias is None and parent is not None and is_introspection_type(parent):
            # However often it stands in a selection, it is one value of an object that is counted already.
            return Size(depth=1, fields=1)
        own = Size(below.depth + 1, fields, aliases, 1 + cost(definition))
        return own + self.repeated(node, definition, below) if definition else own

    def repeated(self, node: FieldNode, definition: GraphQLField, below: Size) -> Size:
        """Return the values below a field, once for each of its rows."""
        most = below.values + sum(below.paged.values()) * LONGEST_PAGE
        first = page_size(node, definition)
        if isinstance(first, VariableNode):
            return Size(paged={first.name.value: most})
        times = length(node.name.value, definition) if first is None else first
        return Size(values=below.values * times, paged={name: of * times for name, of in below.paged.items()})


def name_of(operation: OperationDefinitionNode) -> str | None:
    """Return the name of an operation, if it has one."""
    return operation.name.value if operation.name else None


def page_size(node: FieldNode, definition: GraphQLField) -> VariableNode | int | None:
    """Return what a page's `first` is, or None for what is no page."""
    if not isinstance(source(definition), Page):
        return None
    given = next((argument.value for argument in node.arguments or () if argument.name.value == "first"), None)
    if isinstance(given, VariableNode):
        return given
    return rows(int(given.value[:9]) if isinstance(given, IntValueNode) else None)


def rows(first: int | None) -> int:
    """Return how many rows a page may have; a number out of bounds is refused where the page is."""
    return DEFAULT_PAGE if first is None else max(0, min(first, LONGEST_PAGE))


def length(name: str, definition: GraphQLField) -> int:
    """Return about how many items a field has."""
    stands = source(definition)
    return stands.about if isinstance(stands, Related | Part) else TOLD.get(name, 1) if stands is None else 1


def cost(definition: GraphQLField | None) -> int:
    """Return how many values a field is worth beside those it shows: the work of making it."""
    stands = source(definition) if definition else None
    return stands.cost if isinstance(stands, Computed) else 0


def source(definition: GraphQLField) -> Source | None:
    """Return where a field's data stands, or None for what the schema tells of itself."""
    return source_of(definition) if definition.extensions else None


def exceeded(code: str, has: str, limit: int) -> GraphQLError:
    """Return the error for what is over a limit, with its number."""
    return refusal(code, f"{has}; the limit is {limit:,}.", limit=limit)


def told(number: int) -> str:
    """Return a number in words that stay short: spread fragments multiply without end."""
    return f"{number:,}" if number < 10**9 else "over a billion"


def parsed(query: str) -> DocumentNode:
    """Return the document of a text, or refuse a text that is none or is too long."""
    if len(query) > LONGEST_DOCUMENT:
        raise exceeded("DOCUMENT_TOO_LONG", f"The document has {len(query):,} characters", LONGEST_DOCUMENT)
    try:
        return parse(query, max_lexical_tokens=MOST_TOKENS)
    except GraphQLError as error:
        if "Document contains more than" in error.message[:50]:
            raise exceeded("TOO_MANY_TOKENS", f"The document has over {MOST_TOKENS:,} tokens", MOST_TOKENS) from None
        if "Document is nested too deeply" in error.message[:50]:
            raise exceeded("DOCUMENT_TOO_DEEP", "The document has over a hundred levels", DEEPEST) from None
        raise


def check_variables(variables: Mapping[str, Any] | None) -> None:
    """Refuse variables that nest deeper than any type here."""
    layer: list[Any] = [variables]
    for _ in range(DEEPEST_VARIABLES + 1):
        layer = [inner for value in layer for inner in inside(value)]
    if layer:
        raise exceeded("VARIABLES_TOO_DEEP", f"The variables have over {DEEPEST_VARIABLES} levels", DEEPEST_VARIABLES)


def inside(value: Any) -> Iterable[Any]:
    """Return what a JSON value holds."""
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
