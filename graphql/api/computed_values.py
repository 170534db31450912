"""
Computes the values of computed fields, caches the last few values, and writes them as JSON.

A computation holds Python's global lock, which delays every other response. So only one thread
computes at a time. Requests for the same value wait for the same computation, and a request that
would wait too long is refused.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping
from enum import Enum
from hashlib import sha256
from typing import Any

from graphql import get_nullable_type, is_list_type, is_non_null_type
from graphql.execution.values import VariableValues

from api.compiler import Member
from api.fields import Computed, api_error
from app.domain.model import MAX_SERIES

# How many values are cached: two of each series that may run. Each has half a megabyte at most.
MAX_CACHED_VALUES = 2 * MAX_SERIES
WAIT_TIMEOUT = 5.0  # seconds

Key = tuple[Callable[..., object], tuple[tuple[str, object], ...], bytes]


class ValueComputer:
    """Computes values from rows, one at a time."""

    def __init__(
        self, max_cached: int = MAX_CACHED_VALUES, wait_timeout: float = WAIT_TIMEOUT
    ) -> None:
        self.max_cached = max_cached
        self.wait_timeout = wait_timeout
        self.computed_count = 0
        self._cached: OrderedDict[Key, object] = OrderedDict()
        self._in_progress: dict[Key, asyncio.Task[object]] = {}
        self._turn = asyncio.Semaphore(1)

    async def value(
        self, computed: Computed, rows: bytes, arguments: Mapping[str, object]
    ) -> object:
        """
        Return the value that `computed` computes from these rows and arguments.

        Raises SERVICE_UNAVAILABLE if the value would have to wait too long for other computations.
        """
        key = computed.compute, tuple(arguments.items()), sha256(rows).digest()
        if key in self._cached:
            self._cached.move_to_end(key)
            return self._cached[key]
        if key not in self._in_progress:
            task = asyncio.create_task(self._compute(key, computed, rows, arguments=arguments))
            self._in_progress[key] = task
            task.add_done_callback(lambda task: self._end(key, task))
        # Shielded: if this request is cancelled, the value is still computed for the other requests
        # that wait for it, and for later requests.
        return await asyncio.shield(self._in_progress[key])

    async def _compute(
        self, key: Key, computed: Computed, rows: bytes, *, arguments: Mapping[str, object]
    ) -> object:
        try:
            async with asyncio.timeout(self.wait_timeout):
                await self._turn.acquire()
        except TimeoutError:
            raise api_error(
                "SERVICE_UNAVAILABLE", "Too many values are being computed. Try again soon."
            ) from None
        try:
            self.computed_count += 1
            value = await asyncio.to_thread(computed.compute, rows, arguments)
        finally:
            self._turn.release()
        self._cached[key] = value
        if len(self._cached) > self.max_cached:
            self._cached.popitem(last=False)
        return value

    def _end(self, key: Key, task: asyncio.Task[object]) -> None:
        del self._in_progress[key]
        if not task.cancelled():
            # Reading the exception marks it as retrieved. Otherwise asyncio would log it if every
            # request that waited for the value has been cancelled.
            task.exception()


def to_json(
    value: Any, type_: Any, member: Member, *, variables: VariableValues | None = None
) -> object:
    """
    Return a value in a form that can be written as JSON.

    `variables` are those of the request; without them, no part of the value may have arguments.
    Raises ValueError, which names the field, for a null where the schema promises a value.
    """
    if value is None:
        if is_non_null_type(type_):
            raise ValueError(f"{member.field} has no value")
        return None
    nullable_type = get_nullable_type(type_)
    if is_list_type(nullable_type):
        return [to_json(item, nullable_type.of_type, member, variables=variables) for item in value]
    if member.children is not None:
        return {
            selected.key: _member_json(value, selected, variables) for selected in member.children
        }
    if isinstance(value, Enum):
        return value.name
    return nullable_type.coerce_output_value(value)


def _member_json(value: object, member: Member, variables: VariableValues | None) -> object:
    """Return the value of one member of an object."""
    if member.typename:
        return member.typename
    shown = getattr(value, member.attribute)
    if member.arguments is not None:
        assert variables
        shown = shown(**member.arguments(variables))
    return to_json(shown, member.type, member, variables=variables)
