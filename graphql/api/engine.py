"""From a request to the bytes of its answer: parse, validate and plan (kept), one statement, and what is computed."""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import Enum
from functools import lru_cache, partial
from time import monotonic
from typing import Any
from uuid import uuid4

import structlog
from graphql import (
    DirectiveNode,
    DocumentNode,
    Executor,
    FragmentDefinitionNode,
    GraphQLError,
    GraphQLSchema,
    OperationDefinitionNode,
    OperationType,
    SelectionSetNode,
    VariableDefinitionNode,
    VariableNode,
    Visitor,
    execute_sync,
    get_operation_ast,
    located_error,
    validate,
    visit,
)
from graphql.execution.collect_fields import FragmentDetails
from graphql.execution.values import VariableValues
from msgspec import Struct
from psycopg import DataError
from psycopg.errors import CardinalityViolation, InvalidTextRepresentation, QueryCanceled

from api.compiler import Planner, Root
from api.damage import CODE, SUSPICIOUS, DamagedError
from api.damage import shown as shown_of
from api.fields import refusal
from api.limits import DEEPEST, Measure, Size, check_variables, exceeded, name_of, parsed
from api.values import Maker, written
from app.core import presence
from app.core.presence import is_away, why
from app.domain.text import one_line
from app.errors import RecordDamaged

# Runs one statement that gives one row, and returns its columns as the bytes Postgres wrote.
Fetch = Callable[[str, Sequence[str | None]], Awaitable[list[bytes]]]
Formatted = Mapping[str, Any]

MOST_ERRORS = 5
LONGEST_MESSAGE = 500

# What Postgres says of rows that are not what they should be.
UNREADABLE = (DataError, CardinalityViolation)

# A request that fails may have waited for so long after a failure of the database, in seconds.
AWAY_LATELY = 5.0

log = structlog.get_logger()


class Answer(Struct, frozen=True):
    """
    The JSON of an answer; if there is no data because the request was refused or failed, the code of why.

    `lasting` says that it stays true until the record moves; `damaged` what is said of a damaged record, if it met one.
    """

    body: bytes
    refused: str | None = None
    lasting: bool = False
    damaged: str | None = None


class Document(Struct, frozen=True):
    """A document, what is wrong with it, what its directives name, all of its variables, and its operations' sizes."""

    node: DocumentNode
    errors: Sequence[Formatted] = ()
    switches: Sequence[str] = ()
    variables: Sequence[str] = ()
    sizes: Mapping[str | None, Size] = {}


class Plan(Struct, frozen=True):
    """An operation's root fields, the statement that answers them, and what is left to graphql-core."""

    roots: Sequence[Root]
    sql: str
    introspection: DocumentNode | None
    lasting: bool
    careful: "Callable[[], Plan] | None" = None

    def parameters(self, variables: VariableValues, facts: object) -> tuple[list[str | None], dict[str, Formatted]]:
        """Return the statement's parameters, and the errors of root fields that refuse theirs."""
        parameters: list[str | None] = []
        errors: dict[str, Formatted] = {}
        for root in self.roots:
            for count, values in root.asks:
                try:
                    parameters += [None if value is None else str(value) for value in list(values(variables, facts))]
                except GraphQLError as error:
                    located = located_error(error, root.nodes, [root.key])
                    errors.setdefault(root.key, formatted(located, "BAD_USER_INPUT"))
                    parameters += [None] * count
            if root.non_null and root.key in errors:
                break
        return parameters, errors


class Engine:
    """Answers operations on a schema of declarations; a `quiet` one leaves it to the caller to tell of damage."""

    # What is kept of the largest document that the limits let through takes a quarter of a megabyte.
    def __init__(
        self, schema: GraphQLSchema, fetch: Fetch, facts: object, kept: int = 256, *, quiet: bool = False
    ) -> None:
        self.schema, self.fetch, self.facts, self.quiet = schema, fetch, facts, quiet
        self.maker = Maker()
        self.document = lru_cache(kept)(self._document)
        self.plan = lru_cache(kept)(self._plan)

    async def answer(
        self, query: str, variables: dict[str, Any] | None = None, operation_name: str | None = None
    ) -> Answer:
        """Answer one request; whatever happens, the answer is JSON and every error in it has a code."""
        try:
            return await self._answer(query, variables, operation_name)
        except RecursionError:
            return refused(exceeded("DOCUMENT_TOO_DEEP", "The document has hundreds of levels", DEEPEST))
        except GraphQLError as error:
            return refused(error)
        except Exception as error:
            if is_away(error):
                # While the database is away the log has said so, with the cause, and says when it is back.
                if not presence.has_failed_since(monotonic() - AWAY_LATELY):
                    log.warning("no connection to the database", reason=why(error))
                return refused(refusal("SERVICE_UNAVAILABLE", "The record cannot be read right now. Try again soon."))
            if isinstance(error, QueryCanceled):
                return refused(refusal("OPERATION_TOO_LARGE", "The query took too long. Ask for less at once."))
            return unexpected(error)

    async def _answer(self, query: str, variables: dict[str, Any] | None, operation_name: str | None) -> Answer:
        check_variables(variables)
        document = self.document(query)
        operation = get_operation_ast(document.node, operation_name)
        if operation and operation.operation is not OperationType.QUERY:
            raise refusal("OPERATION_NOT_SUPPORTED", f"Only queries are answered here, no {operation.operation.value}.")
        if document.errors:
            return refused(*document.errors)
        if not operation:
            raise refusal("OPERATION_RESOLUTION_FAILURE", unresolved(operation_name))
        request = Executor.build(
            self.schema, document.node, raw_variable_values=variables, operation_name=operation_name
        )
        if isinstance(request, list):
            return refused(*request[:MOST_ERRORS])
        coerced = request.variable_values.coerced
        document.sizes[name_of(operation)].check_values(coerced)
        switches = tuple(coerced.get(name) for name in document.switches)
        known = tuple(shown(coerced.get(name)) for name in document.variables)
        return await self._run(self.plan(query, operation_name, switches, known), request.variable_values, variables)

    async def _run(self, plan: Plan, variables: VariableValues, raw: dict[str, Any] | None) -> Answer:
        """Answer the root fields in their order: from the database, from graphql-core, or with null and an error."""
        parameters, refusals = plan.parameters(variables, self.facts)
        errors = list(refusals.values())
        if any(root.non_null for root in plan.roots if root.key in refusals):
            return Answer(encode({"data": None, "errors": errors}))
        answers = dict.fromkeys((root.key for root in plan.roots), b"null")
        damages: list[DamagedError] = []
        try:
            if plan.sql:
                answers |= await self._columns(plan, parameters, damages)
            for root in plan.roots:
                if root.made and root.key not in refusals:
                    answers[root.key] = await self._made(root, answers[root.key], variables)
        except DamagedError as error:
            return self._damaged(None, [error, *damages], errors)
        if plan.introspection:
            told = execute_sync(self.schema, plan.introspection, variable_values=raw)
            answers |= {key: encode(value) for key, value in (told.data or {}).items()}
            errors += [formatted(error, "BAD_USER_INPUT") for error in told.errors or ()]
        answers |= dict.fromkeys(refusals, b"null")
        if damages:
            return self._damaged(answers, damages, errors)
        rest = b',"errors":' + encode(errors) if errors else b""
        return Answer(b'{"data":%b%b}' % (_object(answers), rest), lasting=plan.lasting and not errors)

    async def _columns(
        self, plan: Plan, parameters: Sequence[str | None], damages: list[DamagedError]
    ) -> dict[str, bytes]:
        """
        Return the JSON of the root fields; of a damaged record, with null for what is damaged, which `damages` names.

        Raises DamagedError where nothing can be answered.
        """
        roots = [root for root in plan.roots if root.sql]
        try:
            columns = await self.fetch(plan.sql, parameters)
            if not any(text in column for column in columns for text in SUSPICIOUS):
                return dict(zip((root.key for root in roots), columns, strict=True))
        except InvalidTextRepresentation:  # a parameter of ours, not a row
            raise
        except UNREADABLE as error:
            if not self.quiet:
                log.debug("the record is read again with care", reason=one_line(error))
        assert plan.careful
        careful = plan.careful()
        try:
            columns = await self.fetch(careful.sql, parameters)
        except UNREADABLE as error:
            raise DamagedError((roots[0].key,), f"what `{roots[0].key}` shows") from error
        answers: dict[str, bytes] = {}
        for root, column in zip((one for one in careful.roots if one.sql), columns, strict=True):
            assert root.shown
            answers[root.key] = column if root.made else encode(shown_of(column, root.shown, damages))
        return answers

    async def _made(self, root: Root, rows: bytes, variables: VariableValues) -> bytes:
        """Return the JSON of a computed root field."""
        assert root.made
        try:
            value = await self.maker.value(root.made.by, rows, root.made.arguments(variables))
        except RecordDamaged as error:
            raise DamagedError((root.key,), root.made.shown.field, what=str(error)) from error
        return encode(written(value, root.made.shown.type, root.made.shown))

    def _damaged(
        self, answers: Mapping[str, bytes] | None, damages: Sequence[DamagedError], errors: Sequence[Formatted]
    ) -> Answer:
        """Return the answer of a damaged record, and log what is damaged."""
        if not self.quiet:
            first = damages[0]
            log.error("the record is damaged", damages=len(damages), first=str(first), path=list(first.path))
        added = [{"message": str(one), "path": list(one.path), "extensions": {"code": CODE}} for one in damages]
        shown = b"null" if answers is None else _object(answers)
        return Answer(b'{"data":%b,"errors":%b}' % (shown, encode([*errors, *added])), damaged=str(damages[0]))

    def _document(self, query: str) -> Document:
        try:
            node = parsed(query)
            measured = Measure(self.schema, node)
            measured.whole.check()
        except GraphQLError as error:
            return Document(DocumentNode(definitions=()), [formatted(error, "GRAPHQL_PARSE_FAILED")])
        errors = validate(self.schema, node, max_errors=MOST_ERRORS)
        named = Named()
        visit(node, named)
        return Document(
            node,
            [formatted(error, "GRAPHQL_VALIDATION_FAILED") for error in errors],
            sorted(named.variables),
            sorted(named.defined),
            measured.operations,
        )

    def _plan(
        self,
        query: str,
        operation_name: str | None,
        switches: tuple[object, ...],
        known: tuple[object, ...] = (),
        *,
        careful: bool = False,
    ) -> Plan:
        document = self.document(query)
        operation = get_operation_ast(document.node, operation_name)
        assert operation
        fragments = [node for node in document.node.definitions if isinstance(node, FragmentDefinitionNode)]
        by_name = {node.name.value: FragmentDetails(node) for node in fragments}
        switched = dict(zip(document.switches, switches, strict=True))
        named = dict(zip(document.variables, known, strict=True))
        planner = Planner(self.schema, operation, by_name, switched, named, careful=careful)
        roots = list(planner.roots())
        columns = [root.sql for root in roots if root.sql]
        rest = [node for root in roots if not root.sql for node in root.nodes]
        only = OperationDefinitionNode(
            operation=operation.operation,
            variable_definitions=operation.variable_definitions,
            directives=(),
            selection_set=SelectionSetNode(selections=tuple(rest)),
        )
        return Plan(
            roots,
            f"SELECT {', '.join(columns)}" if columns else "",
            DocumentNode(definitions=(only, *fragments)) if rest else None,
            planner.lasting,
            partial(self._plan, query, operation_name, switches, known, careful=True),
        )


class Named(Visitor):
    """Finds the variables that directives name, and all that are defined."""

    def __init__(self) -> None:
        super().__init__()
        self.variables: set[str] = set()
        self.defined: set[str] = set()

    def enter_variable_definition(self, node: VariableDefinitionNode, *_: object) -> None:
        """Note a variable."""
        self.defined.add(node.variable.name.value)

    def enter_directive(self, node: DirectiveNode, *_: object) -> None:
        """Note the variables among a directive's arguments."""
        self.variables |= {
            argument.value.name.value for argument in node.arguments or () if isinstance(argument.value, VariableNode)
        }


def shown(value: object) -> object:
    """Return what the planner is shown of a variable's value: that it is null, or one of a few; else an ellipsis."""
    return value if value is None or isinstance(value, Enum) else ...


def unresolved(operation_name: str | None) -> str:
    """Say why no operation could be chosen."""
    if operation_name is None:
        return "Give `operationName`: the document does not hold exactly one operation."
    return f'The document holds no operation named "{operation_name}".'


def formatted(error: GraphQLError, code: str) -> Formatted:
    """Return an error as clients see it, with a code of its own or this one."""
    shown = error.formatted
    if len(error.message) > LONGEST_MESSAGE:  # it quotes what was sent
        shown = {**shown, "message": f"{error.message[:LONGEST_MESSAGE]}..."}
    return {**shown, "extensions": {"code": code, **(error.extensions or {})}}


def refused(*errors: GraphQLError | Formatted) -> Answer:
    """Return the answer to a request that gets no data."""
    shown = [formatted(error, "BAD_USER_INPUT") if isinstance(error, GraphQLError) else error for error in errors]
    return Answer(encode({"errors": shown}), shown[0]["extensions"]["code"])


def unexpected(error: Exception) -> Answer:
    """Return the answer when we are at fault: an id that leads to the log, and nothing of what happened."""
    error_id = uuid4().hex
    log.error("unexpected error", error_id=error_id, exc_info=error)
    shown = GraphQLError("Unexpected error.", extensions={"code": "INTERNAL_SERVER_ERROR", "id": error_id})
    return refused(shown)


def _object(members: Mapping[str, bytes]) -> bytes:
    """Return the JSON object of members whose values are JSON."""
    return b"{%b}" % b",".join(b'"%b":%b' % (key.encode(), value) for key, value in members.items())


def encode(value: object) -> bytes:
    """Return JSON; a caller's lone surrogates, which a message may quote, are written as escapes."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="backslashreplace")
