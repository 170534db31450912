"""
From a request to the bytes of its answer: parse, validate and plan (remembered), one statement, and what is computed.

What is remembered of a document is small, and no syntax tree: a plan that has to be made anew parses the text again.
The trees of 256 documents can be a million objects, which each full garbage collection walks (`api.memo`).
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from enum import Enum
from functools import partial
from time import monotonic
from typing import Any
from uuid import uuid4

import structlog
from graphql import (
    ASTValidationRule,
    DirectiveNode,
    DocumentNode,
    FragmentDefinitionNode,
    GraphQLError,
    GraphQLSchema,
    NoFragmentCyclesRule,
    OperationDefinitionNode,
    OperationType,
    SelectionSetNode,
    ValidationContext,
    VariableDefinitionNode,
    VariableNode,
    Visitor,
    execute_sync,
    get_operation_ast,
    get_variable_values,
    located_error,
    specified_rules,
    validate,
    visit,
)
from graphql.execution.collect_fields import FragmentDetails
from graphql.execution.values import VariableValues
from msgspec import Struct
from msgspec.structs import replace
from psycopg import DataError
from psycopg.errors import CardinalityViolation, InvalidTextRepresentation, QueryCanceled

from api.compiler import Planner, Root, lean
from api.damage import CODE, SUSPICIOUS, DamagedError
from api.damage import shown as shown_of
from api.fields import refusal
from api.guard import TooLargeError, guarded, is_too_long, too_large
from api.lanes import CONNECTIONS, Lanes
from api.lengths import MOST_BYTES, MOST_BYTES_OF_ONE
from api.limits import DEEPEST, Amount, Measure, Size, check_variables, exceeded, name_of, parsed
from api.memo import Memo, weight_of
from api.turns import Turns
from api.values import Maker, written
from app.core import presence
from app.core.presence import is_away, why
from app.domain.text import one_line
from app.errors import RecordDamaged

# Runs one statement that gives one row, and returns its columns as the bytes Postgres wrote; none if it has no row.
Fetch = Callable[[str, Sequence[str | None]], Awaitable[list[bytes]]]
Formatted = Mapping[str, Any]

MOST_ERRORS = 5

# Objects that all remembered documents consist of, and all plans: some hundred ordinary operations have room, or ten of
# the largest. A full garbage collection looks at each of them.
MOST_KEPT = 16_000
LONGEST_MESSAGE = 500

# What Postgres says of rows that are not what they should be.
UNREADABLE = (DataError, CardinalityViolation)

# A request that fails may have waited for so long after a failure of the database, in seconds.
AWAY_LATELY = 5.0

log = structlog.get_logger()


class RefusedError(Exception):
    """A request gets no data, for these reasons."""

    def __init__(self, errors: Sequence[GraphQLError | Formatted]) -> None:
        super().__init__()
        self.errors = errors


class Answer(Struct, frozen=True):
    """
    The JSON of an answer; if there is no data because the request was refused or failed, the code of why.

    `lasting` says that it stays true until the record moves; `damaged` what is said of a damaged record, if it met one.
    """

    body: bytes
    refused: str | None = None
    lasting: bool = False
    damaged: str | None = None


class Operation(Struct, frozen=True):
    """One operation of a document: its name, its type, its variables' definitions, and its size."""

    name: str | None
    type: OperationType
    variables: Sequence[VariableDefinitionNode]
    size: Size


class Document(Struct, frozen=True):
    """What is wrong with a document, what its directives name, all of its variables, and its operations."""

    errors: Sequence[Formatted] = ()
    switches: Sequence[str] = ()
    variables: Sequence[str] = ()
    operations: Sequence[Operation] = ()
    weight: int = 0

    def operation(self, name: str | None) -> Operation | None:
        """Return the operation of a name, or the only one."""
        if name is None:
            return self.operations[0] if len(self.operations) == 1 else None
        return next((one for one in self.operations if one.name == name), None)


class Request(Struct, frozen=True):
    """
    A request's variables as the schema has them, and what else its plan depends on beside the document.

    `amount` is how much its answer may hold.
    """

    variables: VariableValues
    known: tuple[object, ...]
    amount: Amount


async def never() -> None:
    """Never return: for a request whose client cannot leave."""
    await asyncio.get_running_loop().create_future()


class Waiting(Struct, frozen=True):
    """
    How the request of a client waits for its turn.

    `outside` is a context in which it does not count among the requests under way; `leaves` ends when the client has
    gone.
    """

    client: str
    outside: Callable[[], AbstractContextManager[object]] = nullcontext
    leaves: Callable[[], Awaitable[object]] = never


class Plan(Struct, frozen=True):
    """
    An operation's root fields, the statement that answers them, and what is left to graphql-core.

    The answer has at most `most` bytes; one that may have more has a plan of its own. `made_of` are the arguments the
    plan was made with.
    """

    roots: Sequence[Root]
    sql: str
    introspection: DocumentNode | None
    lasting: bool
    made_of: tuple[Any, ...] = ()
    weight: int = 0
    most: int = MOST_BYTES

    def too_large(self) -> TooLargeError:
        """Return the error for an answer of this plan that is too long."""
        made = [root.made is not None for root in self.roots if root.sql]
        return too_large(self.most, of_answer=not all(made), of_rows=any(made))

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

    def __init__(
        self,
        schema: GraphQLSchema,
        fetch: Fetch,
        facts: object,
        kept: int = 256,
        *,
        quiet: bool = False,
        lanes: Lanes | None = None,
    ) -> None:
        self.schema, self.fetch, self.facts, self.quiet = schema, fetch, facts, quiet
        self.maker = Maker()
        self.turns = Turns()
        self.lanes = lanes or Lanes(CONNECTIONS)
        # Of the service's own requests, which are few: no document of a client pushes these out.
        self.document = Memo(self._document, kept, MOST_KEPT)
        self.plan = Memo(self._plan, kept, MOST_KEPT)
        self.client_document = Memo(self._document, kept, MOST_KEPT)
        self.client_plan = Memo(self._plan, kept, MOST_KEPT)

    async def answer(
        self,
        query: str,
        variables: dict[str, Any] | None = None,
        operation_name: str | None = None,
        *,
        client: str | None = None,
        outside: Callable[[], AbstractContextManager[object]] = nullcontext,
        leaves: Callable[[], Awaitable[object]] = never,
        larger: bool = True,
    ) -> Answer:
        """
        Answer one request; whatever happens, the answer is JSON and every error in it has a code.

        A request of a `client`, an address, waits for its turn where its document or its plan is not remembered
        (`Waiting`). The service's own requests have no client, and are validated at once; a heavy one waits for a
        connection as others do (`api.lanes`).

        Without `larger`, no answer has more than MOST_BYTES, not even one that few rows of an old record make so long.
        """
        waiting = None if client is None else Waiting(client, outside, leaves)
        try:
            return await self._answer(query, variables, operation_name, waiting, larger=larger)
        except RecursionError:
            return refused(exceeded("DOCUMENT_TOO_DEEP", "The document has hundreds of levels", DEEPEST))
        except GraphQLError as error:
            return refused(error)
        except RefusedError as error:
            return refused(*error.errors)
        except Exception as error:
            if is_away(error):
                # While the database is away the log has said so, with the cause, and says when it is back.
                if not presence.has_failed_since(monotonic() - AWAY_LATELY):
                    log.warning("no connection to the database", reason=why(error))
                return refused(refusal("SERVICE_UNAVAILABLE", "The record cannot be read right now. Try again soon."))
            if isinstance(error, QueryCanceled):
                return refused(refusal("OPERATION_TOO_LARGE", "The query took too long. Ask for less at once."))
            return unexpected(error)

    async def _answer(
        self,
        query: str,
        variables: dict[str, Any] | None,
        operation_name: str | None,
        waiting: Waiting | None,
        *,
        larger: bool,
    ) -> Answer:
        check_variables(variables)
        document, plan = self.document.get(query) or self.client_document.get(query), None
        if document is None:
            document, plan = await self._new_document(query, variables, operation_name, waiting)
        request = self._request(document, variables, operation_name)
        made_of = (query, operation_name, *request.known)
        if plan is None or plan.made_of != made_of:
            plan = self.plan.get(*made_of) or self.client_plan.get(*made_of)
        if plan is None:
            plan = await self._new_plan(made_of, waiting)
        client = waiting.client if waiting else ""
        outside = waiting.outside if waiting else nullcontext
        try:
            if not request.amount.is_heavy:
                return await self._run(plan, request.variables, variables, waiting)
            async with self.lanes.heavy.turn(client, outside):
                return await self._run(plan, request.variables, variables, waiting)
        except TooLargeError:
            if not (larger and request.amount.is_of_few):
                raise
        make = partial(self._plan, *plan.made_of, most=MOST_BYTES_OF_ONE)
        async with self.lanes.both(client, outside):
            of_few = await self._in_turn(waiting, (plan.made_of, MOST_BYTES_OF_ONE), make) if waiting else make()
            return await self._run(of_few, request.variables, variables, waiting)

    async def _new_document(
        self, query: str, variables: dict[str, Any] | None, operation_name: str | None, waiting: Waiting | None
    ) -> tuple[Document, Plan | None]:
        """
        Remember a document, and with it the plan of its first request; return both.

        The plan may be that of another request, which came first with the same document.
        """
        if waiting is None:
            return self.document(query), None
        prepare = partial(self._prepared, query, variables, operation_name)
        document, request, plan = await self._in_turn(waiting, query, prepare)
        # Of several requests with one document the first has remembered it.
        if self.client_document.get(query) is None:
            self.client_document.put(document, query, client=waiting.client)
            if plan:
                self.client_plan.put(plan, query, operation_name, *request.known, client=waiting.client)
        return document, plan

    async def _new_plan(self, made_of: tuple[Any, ...], waiting: Waiting | None) -> Plan:
        """Remember a plan."""
        if waiting is None:
            return self.plan(*made_of)
        plan = await self._in_turn(waiting, made_of, partial(self._plan, *made_of))
        if self.client_plan.get(*made_of) is None:
            self.client_plan.put(plan, *made_of, client=waiting.client)
        return plan  # type: ignore[no-any-return]

    async def _in_turn(self, waiting: Waiting, key: object, do: Callable[[], Any]) -> Any:
        """Return the result of work that takes milliseconds, once it is the client's turn."""
        with waiting.outside():
            work = asyncio.ensure_future(self.turns.run(waiting.client, key, do))
            leaving = asyncio.ensure_future(waiting.leaves())
            try:
                await asyncio.wait({work, leaving}, return_when=asyncio.FIRST_COMPLETED)
                if work.done():
                    return work.result()
                raise refusal("SERVICE_UNAVAILABLE", "The client has gone.")
            finally:
                work.cancel()
                leaving.cancel()

    def _request(self, document: Document, variables: dict[str, Any] | None, operation_name: str | None) -> Request:
        """Return what a document is asked with, or raise what is wrong with it."""
        operation = document.operation(operation_name)
        if operation and operation.type is not OperationType.QUERY:
            raise refusal("OPERATION_NOT_SUPPORTED", f"Only queries are answered here, no {operation.type.value}.")
        if document.errors:
            raise RefusedError(document.errors)
        if not operation:
            raise refusal("OPERATION_RESOLUTION_FAILURE", unresolved(operation_name))
        values = get_variable_values(self.schema, operation.variables, variables or {}, MOST_ERRORS)
        if isinstance(values, list):
            raise RefusedError(values[:MOST_ERRORS])
        coerced = values.coerced
        amount = operation.size.check_values(coerced)
        switches = tuple(coerced.get(name) for name in document.switches)
        return Request(values, (switches, tuple(shown(coerced.get(name)) for name in document.variables)), amount)

    def _prepared(
        self, query: str, variables: dict[str, Any] | None, operation_name: str | None
    ) -> tuple[Document, Request | None, Plan | None]:
        """Return all that a request with a new document needs. What is wrong with the request is left to `_request`."""
        document, tree = self._validated(query)
        try:
            request = self._request(document, variables, operation_name)
        except (GraphQLError, RefusedError):
            return document, None, None
        return document, request, self._plan(query, operation_name, *request.known, tree=tree)  # type: ignore[arg-type]

    async def _run(
        self,
        plan: Plan,
        variables: VariableValues,
        raw: dict[str, Any] | None,
        waiting: Waiting | None,
    ) -> Answer:
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
            ask = partial(self._introspected, plan.introspection, raw)
            values, failed = await self._in_turn(waiting, object(), ask) if waiting else ask()
            answers |= values
            errors += failed
        answers |= dict.fromkeys(refusals, b"null")
        if damages:
            return self._damaged(answers, damages, errors)
        # The statement counts neither computed values nor introspection.
        if sum(map(len, answers.values())) > plan.most:
            raise plan.too_large()
        return Answer(body_of(answers, errors), lasting=plan.lasting and not errors)

    async def _columns(
        self, plan: Plan, parameters: Sequence[str | None], damages: list[DamagedError]
    ) -> dict[str, bytes]:
        """
        Return the JSON of the root fields; of a damaged record, with null for what is damaged, which `damages` names.

        Raises DamagedError where nothing can be answered.
        """
        roots = [root for root in plan.roots if root.sql]
        try:
            columns = await self._row(plan, parameters)
            if not any(text in column for column in columns for text in SUSPICIOUS):
                return dict(zip((root.key for root in roots), columns, strict=True))
        except InvalidTextRepresentation:  # a parameter of ours, not a row
            raise
        except UNREADABLE as error:
            if not self.quiet:
                log.debug("the record is read again with care", reason=one_line(error))
        careful = self._plan(*plan.made_of, careful=True, most=plan.most)
        try:
            columns = await self._row(careful, parameters)
        except UNREADABLE as error:
            raise DamagedError((roots[0].key,), f"what `{roots[0].key}` shows") from error
        answers: dict[str, bytes] = {}
        for root, column in zip((one for one in careful.roots if one.sql), columns, strict=True):
            assert root.shown
            answers[root.key] = column if root.made else encode(shown_of(column, root.shown, damages))
        return answers

    async def _row(self, plan: Plan, parameters: Sequence[str | None]) -> list[bytes]:
        """Return the columns of a plan's statement; raises TooLargeError where they are too long to be sent."""
        try:
            columns = await self.fetch(plan.sql, parameters)
        except Exception as error:
            if is_too_long(error):
                raise plan.too_large() from None
            raise
        if not columns:
            raise plan.too_large()
        return columns

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
        # Each error names a path, and every step of it may be an alias of thousands of letters.
        if sum(len(str(one)) + sum(len(str(step)) for step in one.path) for one in damages) > MOST_BYTES:
            raise too_large(MOST_BYTES, of_answer=True, of_rows=False)
        added = [{"message": str(one), "path": list(one.path), "extensions": {"code": CODE}} for one in damages]
        return Answer(body_of(answers, [*errors, *added]), damaged=str(damages[0]))

    def _introspected(
        self, document: DocumentNode, raw: dict[str, Any] | None
    ) -> tuple[dict[str, bytes], list[Formatted]]:
        """Return the JSON of the introspection fields, and errors; this takes tens of milliseconds."""
        result = execute_sync(self.schema, document, variable_values=raw)
        errors = [formatted(error, "BAD_USER_INPUT") for error in result.errors or ()]
        return {key: encode(value) for key, value in (result.data or {}).items()}, errors

    def _document(self, query: str) -> Document:
        return self._validated(query)[0]

    def _validated(self, query: str) -> "tuple[Document, Tree | None]":
        """Return what is known of a document, and its tree if it could be measured."""
        try:
            node = parsed(query)
            measure = Measure(self.schema, node)
            measure.check()
        except GraphQLError as error:
            return Document([formatted(error, "GRAPHQL_PARSE_FAILED")], weight=20), None
        # A circle of fragments is an error in itself, and has no end that the other rules' work could be measured by.
        rules = [NoFragmentCyclesRule] if measure.is_circular else specified_rules
        errors = broken_rules(self.schema, node, rules)
        node, names = tree = tree_of(node)
        operations = [one for one in node.definitions if isinstance(one, OperationDefinitionNode)]
        document = Document(
            [formatted(error, "GRAPHQL_VALIDATION_FAILED") for error in errors],
            sorted(names.variables),
            sorted(names.defined),
            [
                Operation(
                    name=name_of(one),
                    type=one.operation,
                    variables=() if errors else one.variable_definitions or (),
                    size=measure.operations[name_of(one)],
                )
                for one in operations
            ],
        )
        return replace(document, weight=weight_of(document)), tree

    def _plan(
        self,
        query: str,
        operation_name: str | None,
        switches: tuple[object, ...],
        known: tuple[object, ...] = (),
        *,
        careful: bool = False,
        tree: "Tree | None" = None,
        most: int = MOST_BYTES,
    ) -> Plan:
        node, names = tree or tree_of(parsed(query))
        operation = get_operation_ast(node, operation_name)
        assert operation
        fragments = [one for one in node.definitions if isinstance(one, FragmentDefinitionNode)]
        by_name = {node.name.value: FragmentDetails(node) for node in fragments}
        switched = dict(zip(sorted(names.variables), switches, strict=True))
        of_variables = dict(zip(sorted(names.defined), known, strict=True))
        planner = Planner(self.schema, operation, by_name, switched, of_variables, careful=careful, most=most)
        roots = list(planner.roots())
        columns = [root.sql for root in roots if root.sql]
        of_rows = [root.made is not None for root in roots if root.sql]
        rest = [node for root in roots if not root.sql for node in root.nodes]
        only = OperationDefinitionNode(
            operation=operation.operation,
            variable_definitions=operation.variable_definitions,
            directives=(),
            selection_set=SelectionSetNode(selections=tuple(rest)),
        )
        plan = Plan(
            [replace(root, nodes=[lean(field) for field in root.nodes]) for root in roots],
            guarded(columns, of_rows, most) if columns else "",
            DocumentNode(definitions=(only, *fragments)) if rest else None,
            planner.lasting,
            (query, operation_name, switches, known),
            most=most,
        )
        return replace(plan, weight=weight_of(plan))


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


def broken_rules(
    schema: GraphQLSchema, document: DocumentNode, rules: Iterable[type[ASTValidationRule]]
) -> list[GraphQLError]:
    """
    Return what is wrong with a document.

    A visitor of graphql-core remembers its own methods, so it never goes without a garbage collection, nor does the
    tree that it refers to. Each document would leave thousands of objects to the next full collection.
    """
    visitors: list[ASTValidationRule] = []

    def remembered(rule: type[ASTValidationRule], context: ValidationContext) -> ASTValidationRule:
        visitors.append(rule(context))
        return visitors[-1]

    make: Any = [partial(remembered, rule) for rule in rules]
    try:
        return validate(schema, document, make, max_errors=MOST_ERRORS)
    finally:
        for visitor in visitors:
            vars(visitor).clear()


Tree = tuple[DocumentNode, Named]


def tree_of(document: DocumentNode) -> Tree:
    """Return a document, and the variables in it."""
    names = Named()
    visit(document, names)
    return document, names


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


def body_of(members: Mapping[str, bytes] | None, errors: Sequence[Formatted]) -> bytes:
    """
    Return the JSON of an answer whose `data` has these members, each value being JSON already.

    It is joined once: each step in between would hold all of a large answer once more.
    """
    parts: list[bytes] = [b'{"data":']
    if members is None:
        parts.append(b"null")
    else:
        for number, (key, value) in enumerate(members.items()):
            parts += [b"," if number else b"{", b'"%b":' % key.encode(), value]
        parts.append(b"}" if members else b"{}")
    if errors:
        parts += [b',"errors":', encode(errors)]
    return b"".join([*parts, b"}"])


def encode(value: object) -> bytes:
    """Return JSON; a caller's lone surrogates, which a message may quote, are written as escapes."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="backslashreplace")
