"""
The universe of a control: the list of tickers from which it draws, with its source.

The list is a committed file, `universe.json`. `make universe` writes it from a named version of the
package pytickersymbols; the service never asks for it over the network. A control's SERIES entry
in the journal has the whole list, so the record does not depend on this file.
"""

from functools import cache
from pathlib import Path

import msgspec
from msgspec import Struct

_FILE = Path(__file__).with_name("universe.json")


class Universe(Struct, frozen=True, kw_only=True):
    """The tickers, sorted, and a text that names their source."""

    tickers: tuple[str, ...]
    source: str


class UniverseFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    The content of the file.

    - `package`, `version`, `index`: where the list is from
    - `read_on`: the day, in UTC, on which it was read from there, as YYYY-MM-DD
    - `number`, `sha256`: of the tickers; `app.domain.control.universe_sha256` defines the hash
    - `tickers`: sorted, each once, in the record's form, for example BRK.B
    """

    package: str
    version: str
    index: str
    read_on: str
    number: int
    sha256: str
    tickers: tuple[str, ...]


def read_file() -> UniverseFile:
    """Return the content of the committed file."""
    return msgspec.json.decode(_FILE.read_bytes(), type=UniverseFile)


@cache
def load() -> Universe:
    """Return the universe from which a control of this version draws."""
    content = read_file()
    source = f"{content.index} of {content.package} {content.version}, read on {content.read_on}"
    return Universe(tickers=content.tickers, source=source)
