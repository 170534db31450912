"""
Computed values: made in a thread, one at a time, each only once, the last few kept; and written as JSON.

Arithmetic holds Python's lock, and would hold up every other answer. So at most one thread works on values, whoever
asks for however many; who asks for the same value waits for the same work; and who would wait too long is sent away.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping
from enum import Enum
from hashlib import sha256
from typing import Any

from graphql import get_nullable_type, is_list_type, is_non_null_type

from api.compiler import Member
from api.fields import Computed, refusal

KEPT = 32  # values of at most half a megabyte each
PATIENCE = 5.0  # seconds

Key = tuple[Callable[..., object], tuple[tuple[str, object], ...], bytes]


class Maker:
    """Makes values of rows."""

    def __init__(self, kept: int = KEPT, patience: float = PATIENCE) -> None:
        self.kept, self.patience, self.made = kept, patience, 0
        self._kept: OrderedDict[Key, object] = OrderedDict()
        self._under_way: dict[Key, asyncio.Task[object]] = {}
        self._turn = asyncio.Semaphore(1)

    async def value(self, computed: Computed, rows: bytes, arguments: Mapping[str, object]) -> object:
        """
        Return what `computed` makes of these rows and arguments.

        Raises SERVICE_UNAVAILABLE when others' values are being made for too long.
        """
        key = computed.value, tuple(arguments.items()), sha256(rows).digest()
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        if key not in self._under_way:
            self._under_way[key] = asyncio.create_task(self._make(key, computed, rows, arguments))
            self._under_way[key].add_done_callback(lambda task: self._end(key, task))
        # Whoever goes away meanwhile leaves the work to the others, and to the next.
        return await asyncio.shield(self._under_way[key])

    async def _make(self, key: Key, computed: Computed, rows: bytes, arguments: Mapping[str, object]) -> object:
        try:
            async with asyncio.timeout(self.patience):
                await self._turn.acquire()
        except TimeoutError:
            raise refusal("SERVICE_UNAVAILABLE", "Too much is being worked out right now. Try again soon.") from None
        try:
            self.made += 1
            value = await asyncio.to_thread(computed.value, rows, arguments)
        finally:
            self._turn.release()
        self._kept[key] = value
        if len(self._kept) > self.kept:
            self._kept.popitem(last=False)
        return value

    def _end(self, key: Key, task: asyncio.Task[object]) -> None:
        del self._under_way[key]
        if not task.cancelled():
            task.exception()  # or it would be called unseen, when everybody who waited has gone


def written(value: Any, type_: Any, member: Member) -> object:
    """Return a value as JSON has it; a null where the schema promises a value is our error, and names the field."""
    if value is None:
        if is_non_null_type(type_):
            raise ValueError(f"{member.field} has no value")
        return None
    bare = get_nullable_type(type_)
    if is_list_type(bare):
        return [written(item, bare.of_type, member) for item in value]
    if member.below is None:
        return value.name if isinstance(value, Enum) else bare.coerce_output_value(value)
    return {one.key: selected(value, one) for one in member.below}


def selected(value: object, member: Member) -> object:
    """Return one member of what is selected of a value."""
    return written(getattr(value, member.name), member.type, member) if member.name else member.field
