"""
The rules that `alpha-monday verify` checks: each has forgeries of a whole record that only it
finds.
"""

import asyncio
from collections.abc import Iterable
from datetime import date

from record_server import copy_of, record_server, rehearsed, silent
from tampering import Change, forge

from app.domain.calendar import Calendar
from app.errors import Discrepancy
from app.ops.verify import open_api, open_database, verify

__all__ = ["rehearsed"]


async def discrepancies_of(address: str, closed: Iterable[date] = ()) -> list[str]:
    """
    Return what does not fit in a record, by its database and by a server of it; nothing if it fits.

    The exchange was `closed` on some days on short notice.
    """
    found = []
    async with record_server(address) as url:
        for opened in (open_database(address), open_api(url, asyncio.sleep)):
            try:
                async with opened as source:
                    await verify(source, [], silent, Calendar(closed))
            except Discrepancy as error:
                found.append(str(error))
    return found


async def check_forgery(address: str, change: Change, rule: str) -> None:
    """
    Forge a copied record, and expect this rule to be named, by its database and by its address.
    """
    forge(address, change)
    found = await discrepancies_of(address)
    assert len(found) == 2, found
    for text in found:
        assert text.endswith(f"(rule: {rule})"), text


async def test_a_forger_who_changes_nothing(rehearsed, create):
    """The forger alone breaks no rule, so every discrepancy comes from a forgery."""
    copy = copy_of(rehearsed, create)
    forge(copy, lambda contents: contents)
    assert await discrepancies_of(copy) == []
