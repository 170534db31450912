"""
How much one document may ask for: measured before anything else works on it, and refused by name and number.

Each fragment is measured once, however often it is spread, so a bomb of fragments costs no more to refuse than to
read. The limits leave room for GraphiQL's own introspection and for a page of a hundred batches with their picks;
`MOST_OCCURRENCES` and `MOST_FRAGMENTS` bound what validation costs: it compares the fields of one response name, and
the fragments of one selection set, with each other.
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

from api.compiler import longest_of, source_of
from api.fields import DEFAULT_PAGE, LONGEST_PAGE, Computed, Page, Part, Related, Source, refusal
from api.lengths import MOST_BYTES, SENTENCE

# In bytes, for the body of any request to the service. Nothing else below measures a body: they measure a document.
LONGEST_BODY = 64 * 1024
LONGEST_DOCUMENT = 16_000
MOST_TOKENS = 1_000
DEEPEST = 10
MOST_FIELDS = 235
MOST_ALIASES = 50
# Occurrences of one response name in one selection set, with its fragments spread: validation compares each with each
# other, so the time grows with the square of their number. A client that spreads a fragment of its own for each part of
# a page repeats `id` and `__typename` once for each.
MOST_OCCURRENCES = 20
MOST_VALUES = 25_000
# What the values of an answer can come to, in bytes: names, and texts of the length that their columns can have. It
# bounds what Postgres works on before it knows how long an answer is: a tenth of a second. It leaves room for a page of
# a hundred entries of the journal, and for all entries of twelve Mondays.
MOST_MEASURED_BYTES = 32 * 1024 * 1024
# Of introspection, instead of the four above. The standard query with all of its options has 230 fields and tells 513
# values of a type; clients that add `__typename` to each selection make it 311 fields.
MOST_SCHEMA_FIELDS = 350
MOST_TOLD = 550
MOST_TOLD_BYTES = 50_000
DEEPEST_VARIABLES = 5

# Fragments of a document: validation compares all that stand in one selection set with each other.
MOST_FRAGMENTS = 30

# Characters that a message quotes of a name.
LONGEST_NAME = 40
# What one value of a type takes in an answer besides its name, in bytes, where its column does not say it.
BYTES = {
    "Boolean": 5,
    "Int": 11,
    "Date": 12,
    "DateTime": 29,
    "ID": 38,
    # 28 digits, a sign and a point.
    "Decimal": 32,
    # Texts of computed values: the longest is a verdict's sentence.
    "String": SENTENCE,
}
# An enum's value, or the brackets of an object or a list.
OTHER_BYTES = 24
# A letter of a name counts more than one of a text: a name is always as long as it is, and a text seldom as long as it
# can be. So the names of an answer cannot come to more than MOST_BYTES.
NAME_LETTER = MOST_MEASURED_BYTES // MOST_BYTES
# The quotes, the colon and the comma around a name.
NAME_BYTES = 4
# What introspection tells of something in a sentence; its other texts are names.
TOLD_BYTES = {"description": 120}

# An operation that is measured to have at most so many bytes can only be refused for its length if the record holds a
# text that is longer than a new one can be. Such an operation may have a longer answer (MOST_BYTES_OF_ONE): one entry
# of the journal, one question, one Monday in full.
MOST_BYTES_OF_FEW = 1_000_000

# From here on an operation takes turns with others of its kind (`api.lanes`). A Monday in full has 1,200 values, a page
# of a hundred with picks 3,400, a track record some 7,000.
HEAVY_VALUES = 12_500
HEAVY_BYTES = 8_000_000

# How long a type's lists about itself are, on average; the others have one item or none. How many types there are has
# no say: what is told is limited for each, so that a schema may grow and still be read by the same queries.
TOLD = {"fields": 5, "enumValues": 2}


class Amount(Struct, frozen=True):
    """How many values an answer may hold, and how many bytes they can come to."""

    values: int = 0
    bytes: int = 0

    def __add__(self, other: "Amount") -> "Amount":
        """Return what two answers hold together."""
        return Amount(self.values + other.values, self.bytes + other.bytes)

    def times(self, rows: int) -> "Amount":
        """Return what so many rows hold."""
        return Amount(self.values * rows, self.bytes * rows)

    @property
    def is_heavy(self) -> bool:
        """Return whether the operation takes turns with others that are heavy."""
        return self.values > HEAVY_VALUES or self.bytes > HEAVY_BYTES

    @property
    def is_of_few(self) -> bool:
        """Return whether only texts that are longer than new ones can make the answer too large."""
        return self.bytes <= MOST_BYTES_OF_FEW


NOTHING = Amount()


class Size(Struct, frozen=True):
    """
    How large a selection is with its fragments spread, and how much its answer may hold.

    A page whose `first` is a variable is left out of `amount`: `paged` has what one row of it brings, by the variable.
    Introspection is left out of `depth`, `fields`, `aliases` and `amount`, because it is deep and long by nature. What
    it costs is bounded by numbers of its own: `schema_fields` are its fields, which validation compares with each
    other, and `told` is what it tells of each type.
    """

    depth: int = 0
    fields: int = 0
    aliases: int = 0
    amount: Amount = NOTHING
    paged: Mapping[str, Amount] = {}
    schema_fields: int = 0
    told: Amount = NOTHING

    def __add__(self, other: "Size") -> "Size":
        """Return the size of two selections side by side."""
        names = {*self.paged, *other.paged}
        paged = {name: self.paged.get(name, NOTHING) + other.paged.get(name, NOTHING) for name in names}
        return Size(
            depth=max(self.depth, other.depth),
            fields=self.fields + other.fields,
            aliases=self.aliases + other.aliases,
            amount=self.amount + other.amount,
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
        if self.told.values > MOST_TOLD:
            raise exceeded("ANSWER_TOO_LARGE", f"Of each type it may tell {told(self.told.values)} values", MOST_TOLD)
        if self.told.bytes > MOST_TOLD_BYTES:
            has = f"Of each type it may tell {told(self.told.bytes)} bytes"
            raise exceeded("ANSWER_TOO_LARGE", has, MOST_TOLD_BYTES, "Ask for each text once, under a short name.")

    def check_values(self, variables: Mapping[str, Any]) -> Amount:
        """Return how much an answer may hold with these variables; refuse an operation that may ask for too much."""
        pages = (brought.times(rows(variables.get(name))) for name, brought in self.paged.items())
        amount = sum(pages, self.amount)
        if amount.values > MOST_VALUES:
            raise exceeded("ANSWER_TOO_LARGE", f"The answer may hold {told(amount.values)} values", MOST_VALUES)
        if amount.bytes > MOST_MEASURED_BYTES:
            has = f"The answer may have {told(amount.bytes)} bytes, by how long its texts can be"
            advice = "Ask for fewer rows (a smaller `first`), and for each long text once."
            raise exceeded("ANSWER_TOO_LARGE", has, MOST_MEASURED_BYTES, advice)
        return amount


class Measure:
    """Measures the selections of a document, valid or not."""

    def __init__(self, schema: GraphQLSchema, document: DocumentNode) -> None:
        self.schema = schema
        nodes = [node for node in document.definitions if isinstance(node, FragmentDefinitionNode)]
        self.fragments = {node.name.value: node for node in nodes}
        self.fragment_count = len(nodes)
        self.known: dict[str, Size] = {}
        self.unfinished: set[str] = set()
        self.is_circular = False
        operations = [node for node in document.definitions if isinstance(node, OperationDefinitionNode)]
        sizes = [self.selection(node.selection_set, schema.query_type) for node in operations]
        self.operations = dict(zip(map(name_of, operations), sizes, strict=True))
        # Fragments that no operation spreads have no say in an answer, but validation works on them too.
        unused = [name for name in self.fragments if name not in self.known]
        self.whole = sum((*sizes, *map(self.fragment, unused)), Size())
        starts = [*operations, *(self.fragments[name] for name in unused)]
        self.roots = [node.selection_set for node in starts]

    def check(self) -> None:
        """Refuse a document that is too large to be worked on."""
        self.whole.check()
        if self.fragment_count > MOST_FRAGMENTS:
            has = f"The document has {self.fragment_count} fragments"
            raise exceeded("TOO_MANY_FRAGMENTS", has, MOST_FRAGMENTS, "Send the operations in several documents.")
        # Spread, a circle never ends. Validation refuses it.
        if not self.is_circular:
            self.check_occurrences()

    def check_occurrences(self) -> None:
        """
        Refuse a response name that occurs too often in one selection set.

        Each merged selection set is looked at once, so the work is at most that of the fields that `whole` counts: call
        this for a document whose `whole` is within its limits.
        """
        pending = [[root] for root in self.roots]
        while pending:
            for name, nodes in self.merged(pending.pop()).items():
                if len(nodes) > MOST_OCCURRENCES:
                    has = f"The response name `{name[:LONGEST_NAME]}` occurs {len(nodes)} times in one selection set"
                    raise exceeded("TOO_MANY_FIELDS", has, MOST_OCCURRENCES, "Ask for each field once.")
                if below := [node.selection_set for node in nodes if node.selection_set]:
                    pending.append(below)

    def merged(self, selection_sets: Iterable[SelectionSetNode]) -> dict[str, list[FieldNode]]:
        """Return the fields of selection sets by response name; a fragment is spread once, as execution does."""
        fields: dict[str, list[FieldNode]] = {}
        spread: set[str] = set()
        pending = list(selection_sets)
        while pending:
            for node in pending.pop().selections:
                if isinstance(node, FieldNode):
                    fields.setdefault((node.alias or node.name).value, []).append(node)
                elif isinstance(node, InlineFragmentNode):
                    pending.append(node.selection_set)
                elif isinstance(node, FragmentSpreadNode) and node.name.value not in spread:
                    spread.add(node.name.value)
                    if fragment := self.fragments.get(node.name.value):
                        pending.append(fragment.selection_set)
        return fields

    def fragment(self, name: str) -> Size:
        """Return the size of a fragment; validation has its own words for one that is not there or holds itself."""
        if name in self.unfinished:
            self.is_circular = True
        if name not in self.known:
            self.known[name] = Size()
            if node := self.fragments.get(name):
                self.unfinished.add(name)
                parent = self.schema.get_type(node.type_condition.name.value)
                self.known[name] = self.selection(node.selection_set, parent)
                self.unfinished.remove(name)
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
        key = (node.alias or node.name).value
        if name in ("__schema", "__type"):
            return Size(depth=1, amount=Amount(1, NAME_LETTER * len(key)), schema_fields=fields, told=below.amount)
        if name == "__typename" and node.alias is None and parent is not None and is_introspection_type(parent):
            # However often it stands in a selection, it is one value of an object that is counted already.
            return Size(depth=1, fields=1)
        amount = Amount(1 + cost(definition), NAME_LETTER * len(key) + NAME_BYTES + bytes_of(name, definition))
        own = Size(below.depth + 1, fields, aliases, amount)
        return own + self.repeated(node, definition, below) if definition else own

    def repeated(self, node: FieldNode, definition: GraphQLField, below: Size) -> Size:
        """Return the values below a field, once for each of its rows."""
        most = sum((of.times(LONGEST_PAGE) for of in below.paged.values()), below.amount)
        first = page_size(node, definition)
        if isinstance(first, VariableNode):
            return Size(paged={first.name.value: most})
        times = length(node.name.value, definition) if first is None else first
        paged = {name: of.times(times) for name, of in below.paged.items()}
        return Size(amount=below.amount.times(times), paged=paged)


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


def bytes_of(name: str, definition: GraphQLField | None) -> int:
    """Return how many bytes a value of a field can have; of an object, those of its brackets."""
    if definition is None:
        return OTHER_BYTES
    stands = source(definition)
    if stands is None:
        return TOLD_BYTES.get(name, OTHER_BYTES)
    longest = longest_of(definition)
    return BYTES.get(get_named_type(definition.type).name, OTHER_BYTES) if longest is None else longest


def source(definition: GraphQLField) -> Source | None:
    """Return where a field's data stands, or None for what the schema tells of itself."""
    return source_of(definition) if definition.extensions else None


def exceeded(code: str, has: str, limit: int, advice: str = "") -> GraphQLError:
    """Return the error for what is over a limit, with its number, and what to do."""
    return refusal(code, f"{has}; the limit is {limit:,}. {advice}".rstrip(), limit=limit)


def told(number: int) -> str:
    """Return a number in words that stay short: spread fragments multiply without end."""
    return f"{number:,}" if number < 10**9 else "over a billion"


def parsed(query: str) -> DocumentNode:
    """Return the document of a text, or refuse a text that is none or is too long."""
    if len(query) > LONGEST_DOCUMENT:
        raise exceeded("DOCUMENT_TOO_LONG", f"The document has {len(query):,} characters", LONGEST_DOCUMENT)
    try:
        return unlinked(parse(query, max_lexical_tokens=MOST_TOKENS))
    except GraphQLError as error:
        if "Document contains more than" in error.message[:50]:
            raise exceeded("TOO_MANY_TOKENS", f"The document has over {MOST_TOKENS:,} tokens", MOST_TOKENS) from None
        if "Document is nested too deeply" in error.message[:50]:
            raise exceeded("DOCUMENT_TOO_DEEP", "The document has over a hundred levels", DEEPEST) from None
        raise


def unlinked(document: DocumentNode) -> DocumentNode:
    """
    Cut the chain of a document's tokens, which nothing here reads, and return the document.

    Each token refers to its neighbours. So one node that is kept keeps all tokens, and a document that is forgotten
    would stay until a full garbage collection, which is how these became frequent.
    """
    token = document.loc.start_token if document.loc else None
    while token:
        following = token.next
        token.prev = token.next = None
        token = following
    return document


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
