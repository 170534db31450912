"""
Executes GraphQL requests: parse, validate and plan (all cached), run one statement, compute values.

The caches contain no complete syntax tree. The trees of 256 documents can be a million objects, and
each full garbage collection visits all objects (`api.memo`). The caches contain only the nodes that
are needed again: definitions of variables, root fields with their arguments, and the fields of
introspection. To plan an operation again, the engine parses the document again.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from enum import Enum
from functools import partial
from time import monotonic
from typing import Any, Protocol
from uuid import uuid4

import structlog
from graphql import (
    ASTValidationRule,
    DirectiveNode,
    DocumentNode,
    FieldNode,
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

from api.compiler import MARKER_KEY, Member, Planner, Root, without_selections
from api.computed_values import ValueComputer, to_json
from api.damage import (
    DAMAGED_CODE,
    SUSPICIOUS,
    DamagedError,
    replace_marked_values,
    replace_markers,
)
from api.fair_executor import FairExecutor
from api.fair_semaphore import DEFAULT_CONNECTIONS, QuerySemaphores
from api.fields import UnknownNameError, api_error
from api.guard import TooLargeError, is_too_long, limit_result_bytes, too_large
from api.lengths import MAX_LONG_RESULT_BYTES, MAX_RESULT_BYTES
from api.limits import (
    MAX_DEPTH,
    Amount,
    DocumentMeasure,
    Size,
    check_variables,
    exceeded,
    name_of,
    parse_document,
)
from api.memo import Memo, weight_of
from app.core import availability
from app.core.availability import describe_cause, is_unavailable
from app.domain.text import one_line
from app.errors import RecordDamaged

# Runs a statement that returns at most one row, and returns its columns as the bytes that Postgres
# wrote. If the columns would be too long, the statement returns no row (`api.guard`), and the list
# is empty.
Fetch = Callable[[str, Sequence[str | None]], Awaitable[list[bytes]]]
FormattedError = Mapping[str, Any]

# The most errors that a response reports about a document or about variables.
MAX_ERRORS = 5

# The limit of each of the engine's four caches, in objects (`api.memo`): a full garbage collection
# visits every object. A cache has room for more than a hundred ordinary operations, or for ten of
# the largest.
MAX_CACHED_OBJECTS = 16_000

# The most characters of an error's message; a longer one is cut.
MAX_MESSAGE_LENGTH = 500

# The errors of Postgres for rows that break what the record promises.
ROW_ERRORS = (DataError, CardinalityViolation)

# If a request fails within this time after a failure of the database, both belong to one outage:
# the request may have waited for a connection in the meantime.
RECENT_FAILURE_SECONDS = 5.0

log = structlog.get_logger()


class KnownFacts(Protocol):
    """What the process knows and the database does not, or only after a question."""

    async def read_names(self, fetch: Fetch) -> bool:
        """Read the names of the record again. Return whether there are new ones."""
        ...


class InvalidRequestError(Exception):
    """The request is invalid, for the reasons in `errors`; its response has no data."""

    def __init__(self, errors: Sequence[GraphQLError | FormattedError]) -> None:
        super().__init__()
        self.errors = errors


class GraphQLResult(Struct, frozen=True):
    """
    The JSON of a response to a GraphQL request.

    `error_code` is the code of the first error if the request was invalid or failed; then there is
    no data. `is_cacheable` is true if the result is the same until the record changes. `damage` is
    the message of the first error about a damaged record, or None.
    """

    body: bytes
    error_code: str | None = None
    is_cacheable: bool = False
    damage: str | None = None


class Operation(Struct, frozen=True):
    """One operation of a document: its name, its type, its variables and its size."""

    name: str | None
    type: OperationType
    variables: Sequence[VariableDefinitionNode]
    size: Size


class Document(Struct, frozen=True):
    """
    What is cached of a document: its errors, its variables and its operations.

    `directive_variables` are the names of the variables that are arguments of directives, and
    `variables` the names of all variables, both sorted. `weight` is the number of objects of which
    this `Document` consists (`api.memo`).
    """

    errors: Sequence[FormattedError] = ()
    directive_variables: Sequence[str] = ()
    variables: Sequence[str] = ()
    operations: Sequence[Operation] = ()
    weight: int = 0

    def operation(self, name: str | None) -> Operation | None:
        """
        Return the operation with a name; without a name, the document's only operation.

        Returns None if there is no such operation.
        """
        if name is not None:
            return next((one for one in self.operations if one.name == name), None)
        if len(self.operations) == 1:
            return self.operations[0]
        return None


class PreparedRequest(Struct, frozen=True):
    """
    The coerced variables of a request, and the estimated size of its response.

    A plan is cached under the document, the operation's name and the two `plan_values`. The first
    of these has the values of the variables that directives name. The second has, for each
    variable, what the planner may know of it (`known_value`).
    """

    variables: VariableValues
    plan_values: tuple[object, ...]
    amount: Amount


async def never() -> None:
    """Never return: for a request whose client cannot disconnect."""
    await asyncio.get_running_loop().create_future()


class ClientRequest(Struct, frozen=True):
    """
    The address of a request's client, and how the request waits for its turn.

    The request waits inside the context `while_waiting`. In this context the request does not count
    as active. `wait_for_disconnect` returns when the client has disconnected.
    """

    client: str
    while_waiting: Callable[[], AbstractContextManager[object]] = nullcontext
    wait_for_disconnect: Callable[[], Awaitable[object]] = never


class ParameterValues(Struct, frozen=True):
    """
    The parameters of a statement, and the errors of root fields with invalid arguments.

    The errors are by response key. `has_unknown_name` says that one of them is an
    UnknownNameError.
    """

    parameters: Sequence[str | None]
    errors: Mapping[str, FormattedError]
    has_unknown_name: bool


class Plan(Struct, frozen=True):
    """
    The plan of an operation: its root fields, its statement, and its introspection.

    `introspection` is the document of the operation's introspection fields; graphql-core executes
    it. The response has at most `max_bytes` bytes; a longer response needs another plan. `plan_key`
    has the arguments from which the plan was made. `weight` is the number of objects of which this
    `Plan` consists (`api.memo`).
    """

    roots: Sequence[Root]
    sql: str
    introspection: DocumentNode | None
    is_cacheable: bool
    plan_key: tuple[Any, ...] = ()
    weight: int = 0
    max_bytes: int = MAX_RESULT_BYTES

    def too_large(self) -> TooLargeError:
        """Return the error for a response of this plan that is too long."""
        are_computed = [root.computed is not None for root in self.roots if root.sql]
        return too_large(
            self.max_bytes,
            has_returned_columns=not all(are_computed),
            has_computed_columns=any(are_computed) or self.has_computed_parts,
        )

    @property
    def has_computed_parts(self) -> bool:
        """Return whether rows inside a root field have computed fields."""
        return any(root.has_computed_parts for root in self.roots)

    def parameter_values(self, variables: VariableValues, facts: object) -> ParameterValues:
        """Return the statement's parameters, and the errors of invalid arguments."""
        parameters: list[str | None] = []
        errors: dict[str, FormattedError] = {}
        has_unknown_name = False
        for root in self.roots:
            for count, values in root.parameters:
                try:
                    parameters += [
                        None if value is None else str(value) for value in values(variables, facts)
                    ]
                except GraphQLError as error:
                    has_unknown_name = has_unknown_name or isinstance(error, UnknownNameError)
                    located = located_error(error, root.nodes, [root.key])
                    errors.setdefault(root.key, format_error(located, "BAD_USER_INPUT"))
                    parameters += [None] * count
            if root.non_null and root.key in errors:
                # `data` will be null, so no statement is run, and no other error is needed.
                break
        return ParameterValues(parameters, errors, has_unknown_name)


class Engine:
    """
    Executes operations on a schema whose fields declare their sources (`api.fields`).

    - `fetch` runs a statement.
    - `facts` are what the process knows and the database does not (`api.schema.Facts`).
    - `max_documents` is the greatest number of entries of each cache.
    - A `quiet` engine does not log damage, because its caller reports it.
    - `semaphores` limit how many expensive operations run at once. By default, they are made for a
      pool of DEFAULT_CONNECTIONS connections.
    """

    def __init__(
        self,
        schema: GraphQLSchema,
        fetch: Fetch,
        facts: KnownFacts,
        max_documents: int = 256,
        *,
        quiet: bool = False,
        semaphores: QuerySemaphores | None = None,
    ) -> None:
        self.schema = schema
        self.fetch = fetch
        self.facts = facts
        self.quiet = quiet
        self.value_computer = ValueComputer()
        self.executor = FairExecutor()
        self.semaphores = semaphores or QuerySemaphores(DEFAULT_CONNECTIONS)
        # The few documents of the service itself have separate caches, so that documents of clients
        # cannot evict them.
        self.own_documents = Memo(self._document, max_documents, MAX_CACHED_OBJECTS)
        self.own_plans = Memo(self._plan, max_documents, MAX_CACHED_OBJECTS)
        self.client_documents = Memo(self._document, max_documents, MAX_CACHED_OBJECTS)
        self.client_plans = Memo(self._plan, max_documents, MAX_CACHED_OBJECTS)

    async def execute(
        self,
        query: str,
        variables: dict[str, Any] | None = None,
        operation_name: str | None = None,
        *,
        client: str | None = None,
        while_waiting: Callable[[], AbstractContextManager[object]] = nullcontext,
        wait_for_disconnect: Callable[[], Awaitable[object]] = never,
        allow_long: bool = True,
    ) -> GraphQLResult:
        """
        Execute one request. The result is always JSON, and every error in it has a code.

        `client` is the address of the client, or None for the service's own requests. If the
        document or the plan of a client's request is not cached, the request waits for its turn
        (`ClientRequest`); the service's own requests are validated at once. Every heavy request
        waits for its turn, also a request of the service itself (`api.fair_semaphore`).

        With `allow_long`, a response with few rows may be longer than MAX_RESULT_BYTES, because
        earlier versions stored very long texts. Without `allow_long`, every response that is longer
        than MAX_RESULT_BYTES is refused.
        """
        request = None
        if client is not None:
            request = ClientRequest(client, while_waiting, wait_for_disconnect)
        try:
            return await self._execute(
                query, variables, operation_name, request=request, allow_long=allow_long
            )
        except RecursionError:
            return error_result(
                exceeded("DOCUMENT_TOO_DEEP", "The document has hundreds of levels", MAX_DEPTH)
            )
        except GraphQLError as error:
            return error_result(error)
        except InvalidRequestError as error:
            return error_result(*error.errors)
        except Exception as error:
            return _failure_result(error)

    async def _execute(
        self,
        query: str,
        variables: dict[str, Any] | None,
        operation_name: str | None,
        *,
        request: ClientRequest | None,
        allow_long: bool,
    ) -> GraphQLResult:
        check_variables(variables)
        document = self.own_documents.get(query) or self.client_documents.get(query)
        plan = None
        if document is None:
            document, plan = await self._new_document(
                query, variables, operation_name, request=request
            )
        prepared = self._prepare(document, variables, operation_name)
        plan_key = (query, operation_name, *prepared.plan_values)
        if plan is None or plan.plan_key != plan_key:
            plan = self.own_plans.get(*plan_key) or self.client_plans.get(*plan_key)
        if plan is None:
            plan = await self._new_plan(plan_key, request)
        # The service's own requests wait as one client.
        waiting = request or ClientRequest(client="")
        run = partial(
            self._run, variables=prepared.variables, raw_variables=variables, request=request
        )
        try:
            if not prepared.amount.is_heavy:
                return await run(plan)
            async with self.semaphores.heavy.turn(waiting.client, waiting.while_waiting):
                return await run(plan)
        except TooLargeError:
            # The rows of computed values are never longer than MAX_SOURCE_BYTES: the work of a
            # computation depends on their length.
            is_allowed = allow_long and not plan.has_computed_parts
            if not (is_allowed and prepared.amount.has_few_rows):
                raise
        # This response has few rows. Only very long texts that earlier versions stored can make it
        # so long. So it may have MAX_LONG_RESULT_BYTES.
        async with self.semaphores.long_turn(waiting.client, waiting.while_waiting):
            return await run(await self._long_plan(plan, request))

    async def _long_plan(self, plan: Plan, request: ClientRequest | None) -> Plan:
        """Return a plan of the operation of `plan` for a longer response. It is not cached."""
        make_plan = partial(self._plan, *plan.plan_key, max_bytes=MAX_LONG_RESULT_BYTES)
        if request is None:
            return make_plan()
        key = (plan.plan_key, MAX_LONG_RESULT_BYTES)
        return await self._in_turn(request, key, make_plan)  # type: ignore[no-any-return]

    async def _new_document(
        self,
        query: str,
        variables: dict[str, Any] | None,
        operation_name: str | None,
        *,
        request: ClientRequest | None,
    ) -> tuple[Document, Plan | None]:
        """
        Validate a document and make the plan of its first request; cache both, and return both.

        Requests with the same document share this work. So the plan may belong to another request,
        which has other variables or another operation.
        """
        if request is None:
            return self.own_documents(query), None
        work = partial(
            self._document_and_plan,
            query=query,
            variables=variables,
            operation_name=operation_name,
        )
        document, prepared, plan = await self._in_turn(request, query, work)
        # If several requests shared the work, the first of them has already cached the document.
        if self.client_documents.get(query) is None:
            self.client_documents.put(document, query, client=request.client)
            if plan:
                plan_key = (query, operation_name, *prepared.plan_values)
                self.client_plans.put(plan, *plan_key, client=request.client)
        return document, plan

    async def _new_plan(self, plan_key: tuple[Any, ...], request: ClientRequest | None) -> Plan:
        """Make a plan and cache it."""
        if request is None:
            return self.own_plans(*plan_key)
        plan = await self._in_turn(request, plan_key, partial(self._plan, *plan_key))
        if self.client_plans.get(*plan_key) is None:
            self.client_plans.put(plan, *plan_key, client=request.client)
        return plan  # type: ignore[no-any-return]

    async def _in_turn(
        self, request: ClientRequest, key: object, function: Callable[[], Any]
    ) -> Any:
        """
        Run `function`, which takes milliseconds, when it is the client's turn; return its result.

        Raises SERVICE_UNAVAILABLE if the client disconnects meanwhile.
        """
        with request.while_waiting():
            work = asyncio.ensure_future(self.executor.run(request.client, key, function))
            disconnect = asyncio.ensure_future(request.wait_for_disconnect())
            try:
                await asyncio.wait({work, disconnect}, return_when=asyncio.FIRST_COMPLETED)
                if work.done():
                    return work.result()
                raise api_error("SERVICE_UNAVAILABLE", "The client has disconnected.")
            finally:
                work.cancel()
                disconnect.cancel()

    def _prepare(
        self, document: Document, variables: dict[str, Any] | None, operation_name: str | None
    ) -> PreparedRequest:
        """
        Return the coerced variables of a request, and the estimated size of its response.

        Raises GraphQLError or InvalidRequestError if the request is invalid.
        """
        operation = document.operation(operation_name)
        if operation and operation.type is not OperationType.QUERY:
            raise api_error(
                "OPERATION_NOT_SUPPORTED",
                f"This API executes only queries, no {operation.type.value}.",
            )
        if document.errors:
            raise InvalidRequestError(document.errors)
        if not operation:
            raise api_error("OPERATION_RESOLUTION_FAILURE", _no_operation_message(operation_name))
        values = get_variable_values(
            schema=self.schema,
            var_def_nodes=operation.variables,
            inputs=variables or {},
            max_errors=MAX_ERRORS,
        )
        if isinstance(values, list):
            raise InvalidRequestError(values[:MAX_ERRORS])
        coerced = values.coerced
        amount = operation.size.check_values(coerced)
        directive_values = tuple(coerced.get(name) for name in document.directive_variables)
        known = tuple(known_value(coerced.get(name)) for name in document.variables)
        return PreparedRequest(values, (directive_values, known), amount)

    def _document_and_plan(
        self, query: str, variables: dict[str, Any] | None, operation_name: str | None
    ) -> tuple[Document, PreparedRequest | None, Plan | None]:
        """
        Return what a request with a new document needs: the document, the variables and the plan.

        For an invalid request, only the document is returned. Each request that waits for the
        document then calls `_prepare`, and `_prepare` raises the error.
        """
        document, parsed = self._validate(query)
        try:
            prepared = self._prepare(document, variables, operation_name)
        except (GraphQLError, InvalidRequestError):
            return document, None, None
        plan_key: Any = (query, operation_name, *prepared.plan_values)
        return document, prepared, self._plan(*plan_key, parsed=parsed)

    async def _run(
        self,
        plan: Plan,
        *,
        variables: VariableValues,
        raw_variables: dict[str, Any] | None,
        request: ClientRequest | None,
    ) -> GraphQLResult:
        """
        Run a plan and return its result.

        The value of a root field comes from the database, is computed from rows of the database, or
        comes from graphql-core. The value of a field with an error is null.
        """
        values = plan.parameter_values(variables, self.facts)
        if values.has_unknown_name and await self.facts.read_names(self.fetch):
            values = plan.parameter_values(variables, self.facts)
        argument_errors = values.errors
        errors = list(argument_errors.values())
        if any(root.non_null for root in plan.roots if root.key in argument_errors):
            return GraphQLResult(encode_json({"data": None, "errors": errors}))
        # The members of `data` have the order of the fields in the document.
        members = dict.fromkeys((root.key for root in plan.roots), b"null")
        damage_errors: list[DamagedError] = []
        try:
            if plan.sql:
                members |= await self._columns(plan, values.parameters, damage_errors)
            for root in plan.roots:
                if root.key in argument_errors:
                    continue
                if root.computed:
                    members[root.key] = await self._compute(root, members[root.key], variables)
                elif root.has_computed_parts:
                    members[root.key] = await self._compute_parts(
                        root, members[root.key], variables, damage_errors=damage_errors
                    )
        except DamagedError as error:
            return self._damaged_result(None, [error, *damage_errors], errors)
        if plan.introspection:
            introspected, failed = await self._introspect(
                plan.introspection, raw_variables, request
            )
            members |= introspected
            errors += failed
        members |= dict.fromkeys(argument_errors, b"null")
        if damage_errors:
            return self._damaged_result(members, damage_errors, errors)
        # The statement does not limit the length of computed values and of introspection.
        if sum(map(len, members.values())) > plan.max_bytes:
            raise plan.too_large()
        is_cacheable = plan.is_cacheable and not errors
        return GraphQLResult(join_body(members, errors), is_cacheable=is_cacheable)

    async def _columns(
        self, plan: Plan, parameters: Sequence[str | None], damage_errors: list[DamagedError]
    ) -> dict[str, bytes]:
        """
        Return the JSON of the root fields that have SQL.

        If the record is damaged, the JSON has null in each damaged place, and the errors are added
        to `damage_errors`. Raises DamagedError if nothing can be returned.
        """
        roots = [root for root in plan.roots if root.sql]
        try:
            columns = await self._fetch_row(plan, parameters)
            if not any(map(_is_suspicious, columns)):
                return dict(zip((root.key for root in roots), columns, strict=True))
        except InvalidTextRepresentation:
            # This error is about a parameter, not about a row.
            raise
        except ROW_ERRORS as error:
            if not self.quiet:
                log.debug("the record is read again to diagnose damage", reason=one_line(error))
        diagnosis = self._plan(*plan.plan_key, diagnose=True, max_bytes=plan.max_bytes)
        try:
            columns = await self._fetch_row(diagnosis, parameters)
        except ROW_ERRORS as error:
            first = roots[0].key
            raise DamagedError((first,), f"what `{first}` shows") from error
        diagnosed_roots = (root for root in diagnosis.roots if root.sql)
        members: dict[str, bytes] = {}
        for root, column in zip(diagnosed_roots, columns, strict=True):
            assert root.selected
            members[root.key] = column
            if not root.computed:
                members[root.key] = encode_json(
                    replace_markers(column, root.selected, damage_errors)
                )
        return members

    async def _fetch_row(self, plan: Plan, parameters: Sequence[str | None]) -> list[bytes]:
        """Return the columns of a plan's statement; raises TooLargeError if they are too long."""
        try:
            columns = await self.fetch(plan.sql, parameters)
        except Exception as error:
            if is_too_long(error):
                raise plan.too_large() from None
            raise
        if not columns:
            raise plan.too_large()
        return columns

    async def _compute(self, root: Root, rows: bytes, variables: VariableValues) -> bytes:
        """Return the JSON of a computed root field."""
        computed, selected = root.computed, root.selected
        assert computed
        assert selected
        arguments = computed.arguments(variables)
        try:
            value = await self.value_computer.value(computed.source, rows, arguments)
        except RecordDamaged as error:
            raise DamagedError((root.key,), selected.field, text=str(error)) from error
        return encode_json(to_json(value, selected.type, selected, variables=variables))

    async def _compute_parts(
        self,
        root: Root,
        column: bytes,
        variables: VariableValues,
        *,
        damage_errors: list[DamagedError],
    ) -> bytes:
        """Return the JSON of a root field whose rows have computed fields."""
        assert root.selected
        value = json.loads(column)
        await self._replace_rows(value, root.selected, variables)
        return encode_json(replace_marked_values(value, root.selected, damage_errors))

    async def _replace_rows(self, value: Any, member: Member, variables: VariableValues) -> None:
        """Replace the rows of each computed field inside `value` by the computed value."""
        if isinstance(value, list):
            for item in value:
                await self._replace_rows(item, member, variables)
            return
        # A damaged value is null already.
        if not isinstance(value, dict):
            return
        for child in member.children or ():
            part = value.get(child.key)
            if child.computed is None:
                await self._replace_rows(part, child, variables)
            elif part is not None:
                value[child.key] = await self._computed_part(part, child, variables)

    async def _computed_part(
        self, part: Mapping[str, Any], member: Member, variables: VariableValues
    ) -> object:
        """Return the value of a computed field of a row, or a marker if the rows are damaged."""
        field = member.computed
        assert field
        arguments = {**part["arguments"], **field.arguments(variables)}
        try:
            value = await self.value_computer.value(field.source, part["rows"].encode(), arguments)
        except RecordDamaged as error:
            return {MARKER_KEY: "", "text": str(error)}
        return to_json(value, member.type, member, variables=variables)

    def _damaged_result(
        self,
        members: Mapping[str, bytes] | None,
        damage_errors: Sequence[DamagedError],
        errors: Sequence[FormattedError],
    ) -> GraphQLResult:
        """Return the result of a request that found damage, and log the damage."""
        if not self.quiet:
            log.error(
                "the record is damaged",
                damages=len(damage_errors),
                first=str(damage_errors[0]),
                path=list(damage_errors[0].path),
            )
        # Each error names a path, and every step of a path may be an alias of thousands of letters.
        # So the errors alone may be too long.
        if sum(map(_error_length, damage_errors)) > MAX_RESULT_BYTES:
            raise too_large(MAX_RESULT_BYTES, has_returned_columns=True, has_computed_columns=False)
        formatted = [
            {"message": str(one), "path": list(one.path), "extensions": {"code": DAMAGED_CODE}}
            for one in damage_errors
        ]
        body = join_body(members, [*errors, *formatted])
        return GraphQLResult(body, damage=str(damage_errors[0]))

    async def _introspect(
        self,
        document: DocumentNode,
        raw_variables: dict[str, Any] | None,
        request: ClientRequest | None,
    ) -> tuple[dict[str, bytes], list[FormattedError]]:
        """Return the JSON of the introspection fields, and errors. Clients wait for their turn."""
        introspect = partial(self._introspect_now, document, raw_variables)
        if request is None:
            return introspect()
        # A new object as the key is equal to no other key, so requests do not share this work.
        return await self._in_turn(request, object(), introspect)  # type: ignore[no-any-return]

    def _introspect_now(
        self, document: DocumentNode, raw_variables: dict[str, Any] | None
    ) -> tuple[dict[str, bytes], list[FormattedError]]:
        """
        Return the JSON of the introspection fields, and errors. This takes tens of milliseconds.
        """
        result = execute_sync(self.schema, document, variable_values=raw_variables)
        errors = [format_error(error, "BAD_USER_INPUT") for error in result.errors or ()]
        return {key: encode_json(value) for key, value in (result.data or {}).items()}, errors

    def _document(self, query: str) -> Document:
        document, _ = self._validate(query)
        return document

    def _validate(self, query: str) -> "tuple[Document, ParsedDocument | None]":
        """
        Return what is cached of a document, and its syntax tree.

        There is no tree if the document cannot be parsed or exceeds a limit.
        """
        try:
            node = parse_document(query)
            measure = DocumentMeasure(self.schema, node)
            measure.check()
        except GraphQLError as error:
            return Document([format_error(error, "GRAPHQL_PARSE_FAILED")], weight=20), None
        # A document with circular fragments is invalid. For such a document the work of the other
        # rules has no limit, so only the rule against cycles runs.
        rules: Iterable[type[ASTValidationRule]] = specified_rules
        if measure.is_circular:
            rules = [NoFragmentCyclesRule]
        errors = validation_errors(self.schema, node, rules)
        parsed = collect_variables(node)
        operations = [
            Operation(
                name=name_of(one),
                type=one.operation,
                variables=() if errors else one.variable_definitions or (),
                size=measure.operations[name_of(one)],
            )
            for one in node.definitions
            if isinstance(one, OperationDefinitionNode)
        ]
        document = Document(
            errors=[format_error(error, "GRAPHQL_VALIDATION_FAILED") for error in errors],
            directive_variables=sorted(parsed.directive_variables),
            variables=sorted(parsed.variables),
            operations=operations,
        )
        return replace(document, weight=weight_of(document)), parsed

    def _plan(
        self,
        query: str,
        operation_name: str | None,
        directive_values: tuple[object, ...],
        known: tuple[object, ...] = (),
        *,
        diagnose: bool = False,
        parsed: "ParsedDocument | None" = None,
        max_bytes: int = MAX_RESULT_BYTES,
    ) -> Plan:
        parsed = parsed or collect_variables(parse_document(query))
        operation = get_operation_ast(parsed.document, operation_name)
        assert operation
        fragments = [
            one for one in parsed.document.definitions if isinstance(one, FragmentDefinitionNode)
        ]
        planner = Planner(
            self.schema,
            operation,
            {node.name.value: FragmentDetails(node) for node in fragments},
            directive_values=dict(
                zip(sorted(parsed.directive_variables), directive_values, strict=True)
            ),
            known_variables=dict(zip(sorted(parsed.variables), known, strict=True)),
            diagnose=diagnose,
            max_row_bytes=max_bytes,
        )
        roots = list(planner.roots())
        columns = [root.sql for root in roots if root.sql]
        are_computed = [root.computed is not None for root in roots if root.sql]
        sql = limit_result_bytes(columns, are_computed, max_bytes) if columns else ""
        plan = Plan(
            roots=[
                replace(root, nodes=[without_selections(node) for node in root.nodes])
                for root in roots
            ],
            sql=sql,
            introspection=introspection_document(operation, roots, fragments),
            is_cacheable=planner.is_cacheable,
            plan_key=(query, operation_name, directive_values, known),
            max_bytes=max_bytes,
        )
        return replace(plan, weight=weight_of(plan))


class ParsedDocument(Struct, frozen=True):
    """
    The syntax tree of a document, with the names of its variables.

    `variables` are those that it defines, `directive_variables` those that its directives name.
    """

    document: DocumentNode
    variables: set[str]
    directive_variables: set[str]


class VariableCollector(Visitor):
    """Collects the variables that a document defines, and those that its directives name."""

    def __init__(self) -> None:
        super().__init__()
        self.directive_variables: set[str] = set()
        self.variables: set[str] = set()

    def enter_variable_definition(self, node: VariableDefinitionNode, *_: object) -> None:
        """Collect a defined variable."""
        self.variables.add(node.variable.name.value)

    def enter_directive(self, node: DirectiveNode, *_: object) -> None:
        """Collect the variables that are arguments of a directive."""
        for argument in node.arguments or ():
            if isinstance(argument.value, VariableNode):
                self.directive_variables.add(argument.value.name.value)


def collect_variables(document: DocumentNode) -> ParsedDocument:
    """Return a document with the names of its variables."""
    collector = VariableCollector()
    visit(document, collector)
    return ParsedDocument(document, collector.variables, collector.directive_variables)


def validation_errors(
    schema: GraphQLSchema, document: DocumentNode, rules: Iterable[type[ASTValidationRule]]
) -> list[GraphQLError]:
    """
    Return the validation errors of a document.

    At the end the visitors are emptied. A visitor of graphql-core refers to its own methods, and to
    the syntax tree. If it were not emptied, only a garbage collection could remove the visitor and
    the tree, and each document would leave thousands of objects to the next full collection.
    """
    visitors: list[ASTValidationRule] = []

    def make_visitor(
        rule: type[ASTValidationRule], context: ValidationContext
    ) -> ASTValidationRule:
        visitors.append(rule(context))
        return visitors[-1]

    makers: Any = [partial(make_visitor, rule) for rule in rules]
    try:
        return validate(schema, document, makers, max_errors=MAX_ERRORS)
    finally:
        for visitor in visitors:
            vars(visitor).clear()


def introspection_document(
    operation: OperationDefinitionNode,
    roots: Sequence[Root],
    fragments: Sequence[FragmentDefinitionNode],
) -> DocumentNode | None:
    """
    Return the document of an operation's introspection fields, which graphql-core executes.

    Returns None if the operation has no such field.
    """
    nodes: list[FieldNode] = []
    for root in roots:
        if not root.sql:
            nodes += root.nodes
    if not nodes:
        return None
    introspection_operation = OperationDefinitionNode(
        operation=operation.operation,
        variable_definitions=operation.variable_definitions,
        directives=(),
        selection_set=SelectionSetNode(selections=tuple(nodes)),
    )
    return DocumentNode(definitions=(introspection_operation, *fragments))


def _is_suspicious(column: bytes) -> bool:
    """Return whether a column may contain damage, so that a diagnosis (`api.damage`) is needed."""
    return any(text in column for text in SUSPICIOUS)


def known_value(value: object) -> object:
    """
    Return what the planner may know of a variable: None if it is null, or the value of an enum.

    All other values are represented by an ellipsis, so that one plan serves for all of them.
    """
    if value is None or isinstance(value, Enum):
        return value
    return ...


def _no_operation_message(operation_name: str | None) -> str:
    if operation_name is None:
        return "Send `operationName`: the document does not have exactly one operation."
    return f'The document has no operation named "{operation_name}".'


def _error_length(error: DamagedError) -> int:
    return len(str(error)) + sum(len(str(step)) for step in error.path)


def format_error(error: GraphQLError, default_code: str) -> FormattedError:
    """Return an error in the form that clients get, with its own code or the default one."""
    formatted = error.formatted
    if len(error.message) > MAX_MESSAGE_LENGTH:
        # The message quotes the document or a variable, at any length.
        message = f"{error.message[:MAX_MESSAGE_LENGTH]}..."
        formatted = {**formatted, "message": message}
    return {**formatted, "extensions": {"code": default_code, **(error.extensions or {})}}


def error_result(*errors: GraphQLError | FormattedError) -> GraphQLResult:
    """Return the result of a request that gets no data."""
    formatted = [
        format_error(error, "BAD_USER_INPUT") if isinstance(error, GraphQLError) else error
        for error in errors
    ]
    return GraphQLResult(encode_json({"errors": formatted}), formatted[0]["extensions"]["code"])


def _failure_result(error: Exception) -> GraphQLResult:
    """Return the result of a valid request that failed."""
    if is_unavailable(error):
        # If the database has an outage, the log already has a line with the cause, and gets another
        # one when the outage ends. So this error needs no line.
        if not availability.any_has_failed_since(monotonic() - RECENT_FAILURE_SECONDS):
            log.warning("no connection to the database", reason=describe_cause(error))
        message = "The record cannot be read right now. Try again soon."
        return error_result(api_error("SERVICE_UNAVAILABLE", message))
    if isinstance(error, QueryCanceled):
        message = "The query took too long. Ask for less at once."
        return error_result(api_error("OPERATION_TOO_LARGE", message))
    return unexpected_error_result(error)


def unexpected_error_result(error: Exception) -> GraphQLResult:
    """
    Return the result of a request that failed because of a fault of the service; log the error.

    The result contains only an id. The log has the whole error under this id.
    """
    error_id = uuid4().hex
    log.error("unexpected error", error_id=error_id, exc_info=error)
    return error_result(api_error("INTERNAL_SERVER_ERROR", "Unexpected error.", id=error_id))


def join_body(members: Mapping[str, bytes] | None, errors: Sequence[FormattedError]) -> bytes:
    """
    Return the JSON of a response whose `data` has these members; each value is JSON already.

    With None in place of the members, `data` is null. All parts are joined at once, because each
    intermediate step would copy a large response.
    """
    parts: list[bytes] = [b'{"data":']
    if members is None:
        parts.append(b"null")
    else:
        parts.append(b"{")
        separator = b""
        for key, value in members.items():
            parts += [separator, b'"%b":' % key.encode(), value]
            separator = b","
        parts.append(b"}")
    if errors:
        parts += [b',"errors":', encode_json(errors)]
    parts.append(b"}")
    return b"".join(parts)


def encode_json(value: object) -> bytes:
    """
    Return JSON in UTF-8.

    Lone surrogates, which a message may quote from a request, are written as escapes.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.encode(errors="backslashreplace")
