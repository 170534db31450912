"""The option `--series`, and the names that it accepts."""

from collections.abc import Callable, Iterable
from typing import Any

import click

from app.domain.text import escape_unprintable
from app.errors import Refused
from app.store import batches
from app.store.rows import Conn

# In characters: a longer name is cut in a message.
_MAX_SHOWN = 40


def series_option(help_text: str) -> Callable[[Any], Any]:
    """Return the option `--series`, which names one series."""
    return click.option("--series", metavar="NAME", help=help_text)


async def list_recorded(conn: Conn, name: str | None) -> list[str]:
    """
    Return the names of the series that have a batch, or only `name`.

    A series that is not configured any more has its batches, and counts. Raises Refused if `name`
    has no batch, unless the record has no batch at all.
    """
    names = await batches.list_series(conn)
    if name is None:
        return names
    if names:
        require_known(name, names)
    return [name]


def require_known(name: str, names: Iterable[str]) -> None:
    """Raise Refused if `name` is none of `names`: the message lists them."""
    names = list(names)
    if name not in names:
        shown = escape_unprintable(name)[:_MAX_SHOWN]
        raise Refused(f"There is no series {shown}. The series of the record: {', '.join(names)}.")
