"""
Limits what one document may ask for, before any other work is done for it.

A document over a limit is refused; the error names the limit and what the document has. Each
fragment is measured only once, even if it is spread many times. So a document whose nested
fragments would select billions of fields is refused as fast as it is parsed. The limits leave room
for GraphiQL's own introspection and for a page of a hundred batches with their picks.

`MAX_OCCURRENCES` and `MAX_FRAGMENTS` limit the time of validation. Validation compares all fields
of one response name with each other. It does the same with all fragments of one selection set.
"""

from collections.abc import Iterable, Mapping
from itertools import chain
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

from api.compiler import max_bytes_of, source_of
from api.fields import (
    DEFAULT_PAGE_SIZE,
    MAX_PAGE_SIZE,
    Computed,
    Paginated,
    Related,
    Source,
    ValuePart,
    api_error,
)
from api.lengths import MAX_RESULT_BYTES, SENTENCE

# The most bytes of the body of any request to the service. The limits below this one are about a
# document, its response and its variables.
MAX_BODY_BYTES = 64 * 1024
MAX_DOCUMENT_CHARACTERS = 16_000
MAX_TOKENS = 1_000
MAX_DEPTH = 10
MAX_FIELDS = 235
MAX_ALIASES = 50
# How often one response name may occur in a selection set whose fragments are spread. Validation
# compares each occurrence with each other one, so its time grows with the square of their number.
# The limit must not be much lower: some clients spread one fragment for each part of a page, and
# every one of these fragments has `id` and `__typename`.
MAX_OCCURRENCES = 20
MAX_VALUES = 25_000
# The estimated size of a response, in bytes: all names, and each text with the greatest length that
# its column can have. Postgres has to do its work before it knows the real length of a response.
# This limit keeps that work to a tenth of a second. It leaves room for a page of a hundred entries
# of the journal, and for all entries of twelve Mondays.
MAX_ESTIMATED_BYTES = 32 * 1024 * 1024
# The limits of introspection. They replace MAX_DEPTH, MAX_FIELDS, MAX_ALIASES, MAX_VALUES and
# MAX_ESTIMATED_BYTES. The standard introspection query with all of its options has 230 fields and
# returns 513 values for each type. With `__typename` in each selection, which some clients add, it
# has 311 fields.
MAX_INTROSPECTION_FIELDS = 350
MAX_INTROSPECTION_VALUES = 550
MAX_INTROSPECTION_BYTES = 50_000
MAX_VARIABLES_DEPTH = 5

# The most fragments of a document: validation compares all fragments of one selection set with each
# other.
MAX_FRAGMENTS = 30

# A message quotes at most this many characters of a name.
MAX_QUOTED_NAME = 40
# The most bytes of one value in a response, without its name, by its type. These numbers are
# used for a field whose declaration has no `max_bytes`.
BYTES_BY_TYPE = {
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
# The bytes of the value of an enum, or of the brackets of an object or a list.
OTHER_BYTES = 24
# Each character of a name counts as this many bytes of the estimate (8), although it is one byte of
# the response. The estimate counts a text with its greatest length, so most texts are much shorter
# than their estimate. But a name always has its full length. If a character counted as one byte, a
# response within MAX_ESTIMATED_BYTES could have 33 MB of names. With 8 bytes for each character, it
# has 4 MB of names at most, about as much as MAX_RESULT_BYTES.
BYTES_PER_NAME_CHARACTER = MAX_ESTIMATED_BYTES // MAX_RESULT_BYTES
# The quotes, the colon and the comma around a name.
NAME_BYTES = 4
# The average bytes of the sentences that introspection returns, by field. The other texts of
# introspection are names.
INTROSPECTION_BYTES = {"description": 180}

# An operation with at most this many estimated bytes reads few rows, for example one entry of the
# journal, one question, or one Monday in full. Its response is longer than MAX_RESULT_BYTES only if
# an earlier version has stored a text that is longer than today's limits. So that such a text can
# still be read, the limit of this response is higher: MAX_LONG_RESULT_BYTES.
MAX_BYTES_OF_FEW_ROWS = 1_000_000

# An operation with more values or more estimated bytes than these is heavy, and takes turns with
# other heavy ones (`api.fair_semaphore`). A Monday in full has 1,200 values, a page of a hundred
# Mondays with their picks 3,400, a track record about 8,900.
HEAVY_VALUES = 12_500
HEAVY_BYTES = 8_000_000

# The average lengths of a type's lists in introspection, by field. The other lists of a type have
# one item or none. The number of types does not count, because the limits of introspection are for
# each type: if the schema grows, the same queries can still read it.
INTROSPECTION_LENGTHS = {"fields": 5, "enumValues": 2}


class Amount(Struct, frozen=True):
    """
    How many values a response may contain, and how many bytes they can have together.

    `cost` is the work of the computed fields, as a number of values.
    """

    values: int = 0
    bytes: int = 0
    cost: int = 0

    def __add__(self, other: "Amount") -> "Amount":
        """Return the amount of two responses together."""
        return Amount(
            values=self.values + other.values,
            bytes=self.bytes + other.bytes,
            cost=self.cost + other.cost,
        )

    def times(self, rows: int) -> "Amount":
        """
        Return the amount of `rows` rows, if this is the amount of one.

        The cost stays: it is counted once for each field (`api.fields.Computed`).
        """
        return Amount(values=self.values * rows, bytes=self.bytes * rows, cost=self.cost)

    @property
    def counted_values(self) -> int:
        """Return the number of values that the limits count."""
        return self.values + self.cost

    @property
    def is_heavy(self) -> bool:
        """Return whether the operation takes turns with other heavy ones."""
        return self.counted_values > HEAVY_VALUES or self.bytes > HEAVY_BYTES

    @property
    def has_few_rows(self) -> bool:
        """
        Return whether the response has few rows.

        Such a response can only be too long because of texts that earlier versions have stored.
        """
        return self.bytes <= MAX_BYTES_OF_FEW_ROWS


NOTHING = Amount()


class Size(Struct, frozen=True):
    """
    The size of a selection with its fragments spread, and the estimated amount of its response.

    If the `first` of a page is a variable, the number of the page's rows is not known yet. So these
    rows are not part of `amount`. In their place, `paged` has the amount of one row, by the name of
    the variable. If several pages use one variable, their amounts are added: for two pages with
    `first: $n` whose rows have 10 and 20 values, `paged` has 30 values for `n`.

    Introspection is not part of `depth`, `fields`, `aliases` and `amount`, because it is deep and
    long by nature. It has limits of its own: `introspection_fields` are its fields, which
    validation compares with each other, and `introspection` is what it returns for each type.
    """

    depth: int = 0
    fields: int = 0
    aliases: int = 0
    amount: Amount = NOTHING
    paged: Mapping[str, Amount] = {}
    introspection_fields: int = 0
    introspection: Amount = NOTHING

    def __add__(self, other: "Size") -> "Size":
        """Return the size of two selections side by side."""
        names = {*self.paged, *other.paged}
        paged = {
            name: self.paged.get(name, NOTHING) + other.paged.get(name, NOTHING) for name in names
        }
        return Size(
            depth=max(self.depth, other.depth),
            fields=self.fields + other.fields,
            aliases=self.aliases + other.aliases,
            amount=self.amount + other.amount,
            paged=paged,
            introspection_fields=self.introspection_fields + other.introspection_fields,
            introspection=self.introspection + other.introspection,
        )

    def check(self) -> None:
        """Raise the error for the first limit that a document of this size exceeds."""
        if self.depth > MAX_DEPTH:
            has = f"The document has {format_count(self.depth)} levels"
            raise exceeded("DOCUMENT_TOO_DEEP", has, MAX_DEPTH)
        if self.fields > MAX_FIELDS:
            has = f"The document has {format_count(self.fields)} fields"
            raise exceeded("TOO_MANY_FIELDS", has, MAX_FIELDS)
        if self.aliases > MAX_ALIASES:
            has = f"The document has {format_count(self.aliases)} aliases"
            raise exceeded("TOO_MANY_ALIASES", has, MAX_ALIASES)
        if self.introspection_fields > MAX_INTROSPECTION_FIELDS:
            count = format_count(self.introspection_fields)
            has = f"The document asks for {count} fields of the schema"
            raise exceeded("TOO_MANY_FIELDS", has, MAX_INTROSPECTION_FIELDS)
        if self.introspection.values > MAX_INTROSPECTION_VALUES:
            count = format_count(self.introspection.values)
            has = f"The response may have {count} values for each type"
            raise exceeded("ANSWER_TOO_LARGE", has, MAX_INTROSPECTION_VALUES)
        if self.introspection.bytes > MAX_INTROSPECTION_BYTES:
            count = format_count(self.introspection.bytes)
            raise exceeded(
                "ANSWER_TOO_LARGE",
                f"The response may have {count} bytes for each type",
                MAX_INTROSPECTION_BYTES,
                advice="Ask for each text once, under a short name.",
            )

    def check_values(self, variables: Mapping[str, Any]) -> Amount:
        """
        Return the estimated amount of a response with these variables.

        Raises ANSWER_TOO_LARGE if the amount exceeds a limit.
        """
        pages = (
            one_row.times(limit_rows(variables.get(name))) for name, one_row in self.paged.items()
        )
        amount = sum(pages, self.amount)
        if amount.counted_values > MAX_VALUES:
            has = f"The response may have {format_count(amount.counted_values)} values"
            raise exceeded("ANSWER_TOO_LARGE", has, MAX_VALUES)
        if amount.bytes > MAX_ESTIMATED_BYTES:
            count = format_count(amount.bytes)
            raise exceeded(
                "ANSWER_TOO_LARGE",
                f"The response may have {count} bytes, by how long its texts can be",
                MAX_ESTIMATED_BYTES,
                advice="Ask for fewer rows (a smaller `first`), and for each long text once.",
            )
        return amount


class DocumentMeasure:
    """Measures the selections of a document, valid or not."""

    def __init__(self, schema: GraphQLSchema, document: DocumentNode) -> None:
        self.schema = schema
        fragments = [one for one in document.definitions if isinstance(one, FragmentDefinitionNode)]
        operations = [
            one for one in document.definitions if isinstance(one, OperationDefinitionNode)
        ]
        self.fragments = {node.name.value: node for node in fragments}
        self.fragment_count = len(fragments)
        self.measured: dict[str, Size] = {}
        self.in_progress: set[str] = set()
        self.is_circular = False
        sizes = [self.selection_size(node.selection_set, schema.query_type) for node in operations]
        self.operations = dict(zip(map(name_of, operations), sizes, strict=True))
        # Fragments that no operation spreads add nothing to a response. But validation checks them,
        # too, so `whole` counts them.
        unused = [name for name in self.fragments if name not in self.measured]
        self.whole = sum((*sizes, *map(self.fragment_size, unused)), Size())
        starts = [*operations, *(self.fragments[name] for name in unused)]
        self.roots = [node.selection_set for node in starts]

    def check(self) -> None:
        """Raise the error for the first limit that the document exceeds."""
        self.whole.check()
        if self.fragment_count > MAX_FRAGMENTS:
            raise exceeded(
                "TOO_MANY_FRAGMENTS",
                f"The document has {self.fragment_count} fragments",
                MAX_FRAGMENTS,
                advice="Send the operations in several documents.",
            )
        # `check_occurrences` would never end for fragments that spread each other in a circle.
        # Validation refuses a document with such fragments.
        if not self.is_circular:
            self.check_occurrences()

    def check_occurrences(self) -> None:
        """
        Raise TOO_MANY_FIELDS for a response name that occurs too often in one selection set.

        Each merged selection set is visited once, so the check visits no more fields than `whole`
        counts. Call it only for a document whose `whole` is within its limits.
        """
        pending = [[root] for root in self.roots]
        while pending:
            for name, nodes in self.merge_fields(pending.pop()).items():
                if len(nodes) > MAX_OCCURRENCES:
                    quoted = name[:MAX_QUOTED_NAME]
                    raise exceeded(
                        "TOO_MANY_FIELDS",
                        f"The response name `{quoted}` occurs {len(nodes)} times in one selection "
                        "set",
                        MAX_OCCURRENCES,
                        advice="Ask for each field once.",
                    )
                below = [node.selection_set for node in nodes if node.selection_set]
                if below:
                    pending.append(below)

    def merge_fields(
        self, selection_sets: Iterable[SelectionSetNode]
    ) -> dict[str, list[FieldNode]]:
        """
        Return the fields of selection sets by response name.

        A fragment is spread only once, as in execution.
        """
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
                    fragment = self.fragments.get(node.name.value)
                    if fragment:
                        pending.append(fragment.selection_set)
        return fields

    def fragment_size(self, name: str) -> Size:
        """
        Return the size of a fragment.

        A fragment that does not exist has the size 0. If a fragment spreads itself, this spread has
        the size 0. Validation reports both errors.
        """
        if name in self.in_progress:
            self.is_circular = True
        if name not in self.measured:
            self.measured[name] = Size()
            if node := self.fragments.get(name):
                self.in_progress.add(name)
                parent = self.schema.get_type(node.type_condition.name.value)
                self.measured[name] = self.selection_size(node.selection_set, parent)
                self.in_progress.remove(name)
        return self.measured[name]

    def selection_size(self, selection_set: SelectionSetNode | None, parent: Any) -> Size:
        """Return the size of what is selected on a type."""
        if selection_set is None:
            return Size()
        return sum((self.node_size(node, parent) for node in selection_set.selections), Size())

    def node_size(self, node: SelectionNode, parent: Any) -> Size:
        """Return the size of a field or of a fragment."""
        if isinstance(node, FragmentSpreadNode):
            return self.fragment_size(node.name.value)
        if isinstance(node, InlineFragmentNode):
            condition = node.type_condition
            type_ = self.schema.get_type(condition.name.value) if condition else parent
            return self.selection_size(node.selection_set, type_)
        assert isinstance(node, FieldNode)
        return self.field_size(node, parent)

    def field_size(self, node: FieldNode, parent: Any) -> Size:
        """Return the size of a field, its selection included."""
        name = node.name.value
        definition = self.schema.get_field(parent, name) if is_object_type(parent) else None
        type_ = get_named_type(definition.type) if definition else None
        below = self.selection_size(node.selection_set, type_)
        fields = below.fields + 1
        key = (node.alias or node.name).value
        name_bytes = BYTES_PER_NAME_CHARACTER * len(key)
        if name in ("__schema", "__type"):
            return Size(
                depth=1,
                amount=Amount(1, name_bytes),
                introspection_fields=fields,
                introspection=below.amount,
            )
        is_introspection = parent is not None and is_introspection_type(parent)
        if name == "__typename" and node.alias is None and is_introspection:
            # This `__typename` adds no amount. However often it is selected, an object has it only
            # once. So there are no more of these values than objects, and each object already
            # counts as a value.
            return Size(depth=1, fields=1)
        own = Size(
            depth=below.depth + 1,
            fields=fields,
            aliases=below.aliases + (node.alias is not None),
            amount=Amount(
                values=1,
                bytes=name_bytes + NAME_BYTES + bytes_of(name, definition),
                cost=cost_of(definition),
            ),
        )
        if definition is None:
            return own
        return own + self.rows_size(node, definition, below)

    def rows_size(self, node: FieldNode, definition: GraphQLField, below: Size) -> Size:
        """Return the amount of a field's selection, counted once for each row of the field."""
        first = page_size(node, definition)
        if isinstance(first, VariableNode):
            # If the `first` of a page inside this page is a variable too, the inner page is counted
            # with the greatest page size.
            inner = (one_row.times(MAX_PAGE_SIZE) for one_row in below.paged.values())
            return Size(paged={first.name.value: sum(inner, below.amount)})
        times = first
        if times is None:
            times = usual_length_of(node.name.value, definition)
        paged = {name: one_row.times(times) for name, one_row in below.paged.items()}
        return Size(amount=below.amount.times(times), paged=paged)


def name_of(operation: OperationDefinitionNode) -> str | None:
    """Return the name of an operation, or None if it has none."""
    return operation.name.value if operation.name else None


def page_size(node: FieldNode, definition: GraphQLField) -> VariableNode | int | None:
    """Return the `first` of a page, a number or a variable; None for a field that is not a page."""
    if not isinstance(field_source(definition), Paginated):
        return None
    values = (argument.value for argument in node.arguments or () if argument.name.value == "first")
    first = next(values, None)
    if isinstance(first, VariableNode):
        return first
    if isinstance(first, IntValueNode):
        # Nine digits are enough for any number up to MAX_PAGE_SIZE. Parsing more digits would cost
        # time.
        return limit_rows(int(first.value[:9]))
    return limit_rows(None)


def limit_rows(first: int | None) -> int:
    """
    Return how many rows a page may have.

    A number out of bounds is refused later, when the arguments are checked.
    """
    if first is None:
        return DEFAULT_PAGE_SIZE
    return max(0, min(first, MAX_PAGE_SIZE))


def usual_length_of(name: str, definition: GraphQLField) -> int:
    """Return about how many items a field has."""
    source = field_source(definition)
    if source is None:
        return INTROSPECTION_LENGTHS.get(name, 1)
    if isinstance(source, Related | ValuePart):
        return source.usual_length
    return 1


def cost_of(definition: GraphQLField | None) -> int:
    """Return the cost of computing a field, as a number of values; 0 if it is not computed."""
    source = field_source(definition) if definition else None
    return source.cost if isinstance(source, Computed) else 0


def bytes_of(name: str, definition: GraphQLField | None) -> int:
    """Return how many bytes a value of a field can have; for an object, those of its brackets."""
    if definition is None:
        return OTHER_BYTES
    if field_source(definition) is None:
        return INTROSPECTION_BYTES.get(name, OTHER_BYTES)
    max_bytes = max_bytes_of(definition)
    if max_bytes is None:
        return BYTES_BY_TYPE.get(get_named_type(definition.type).name, OTHER_BYTES)
    return max_bytes


def field_source(definition: GraphQLField) -> Source | None:
    """Return the source of a field's data, or None for a field of introspection."""
    return source_of(definition) if definition.extensions else None


def exceeded(code: str, has: str, limit: int, *, advice: str = "") -> GraphQLError:
    """Return the error for an exceeded limit; its message contains the limit and the advice."""
    message = f"{has}; the limit is {limit:,}. {advice}".rstrip()
    return api_error(code, message, limit=limit)


def format_count(number: int) -> str:
    """
    Return a number for a message.

    A huge number becomes words, because nested fragments can give it any number of digits.
    """
    if number >= 10**9:
        return "over a billion"
    return f"{number:,}"


def parse_document(query: str) -> DocumentNode:
    """
    Return the syntax tree of a document.

    Raises GraphQLError for a syntax error, and for a document that is too long, has too many tokens
    or is too deep.
    """
    if len(query) > MAX_DOCUMENT_CHARACTERS:
        has = f"The document has {len(query):,} characters"
        raise exceeded("DOCUMENT_TOO_LONG", has, MAX_DOCUMENT_CHARACTERS)
    try:
        return unlink_tokens(parse(query, max_lexical_tokens=MAX_TOKENS))
    except GraphQLError as error:
        # graphql-core has no codes for too many tokens and for too many levels. So these two errors
        # are recognized by their messages.
        if "Document contains more than" in error.message[:50]:
            has = f"The document has over {MAX_TOKENS:,} tokens"
            raise exceeded("TOO_MANY_TOKENS", has, MAX_TOKENS) from None
        if "Document is nested too deeply" in error.message[:50]:
            has = "The document has over a hundred levels"
            raise exceeded("DOCUMENT_TOO_DEEP", has, MAX_DEPTH) from None
        raise


def unlink_tokens(document: DocumentNode) -> DocumentNode:
    """
    Cut the chain of a document's tokens, which no code here reads, and return the document.

    Each node refers to its tokens, and each token to its neighbours. So one cached node would keep
    all tokens in memory. And the references between tokens are cycles: a document that is no longer
    used would stay in memory until a full garbage collection, and many such documents would make
    full collections frequent.
    """
    token = document.loc.start_token if document.loc else None
    while token:
        following = token.next
        token.prev = token.next = None
        token = following
    return document


def check_variables(variables: Mapping[str, Any] | None) -> None:
    """Raise VARIABLES_TOO_DEEP for variables that nest deeper than any type of the schema."""
    layer: list[Any] = [variables]
    for _ in range(MAX_VARIABLES_DEPTH + 1):
        layer = list(chain.from_iterable(map(items_of, layer)))
    if layer:
        has = f"The variables have over {MAX_VARIABLES_DEPTH} levels"
        raise exceeded("VARIABLES_TOO_DEEP", has, MAX_VARIABLES_DEPTH)


def items_of(value: Any) -> Iterable[Any]:
    """Return the values that a JSON object or list contains; nothing for other values."""
    if isinstance(value, dict):
        return value.values()
    if isinstance(value, list):
        return value
    return ()
