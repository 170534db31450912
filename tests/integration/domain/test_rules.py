"""
The rules that `alpha-monday verify` checks: each has forgeries of a whole record that only this
rule detects.
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
    Return the discrepancies of a record, from its database and from a server of it; nothing if it
    verifies.

    The exchange was `closed` on some days on short notice.
    """
    discrepancies = []
    async with record_server(address) as url:
        for opened in (open_database(address), open_api(url, asyncio.sleep)):
            try:
                async with opened as source:
                    await verify(
                        source=source, heads=[], report_progress=silent, sessions=Calendar(closed)
                    )
            except Discrepancy as error:
                discrepancies.append(str(error))
    return discrepancies


async def check_forgery(address: str, change: Change, rule: str) -> None:
    """Forge a copied record, and expect both its database and its server to name this rule."""
    forge(address, change)
    discrepancies = await discrepancies_of(address)
    assert len(discrepancies) == 2, discrepancies
    for text in discrepancies:
        assert text.endswith(f"(rule: {rule})"), text


async def test_a_rewritten_record_without_a_change(rehearsed, create):
    """Rewriting the record breaks no rule, so every discrepancy comes from a forgery."""
    copy = copy_of(rehearsed, create)
    forge(copy, lambda contents: contents)
    assert await discrepancies_of(copy) == []
