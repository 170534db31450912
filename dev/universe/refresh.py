"""
Writes app/core/universe.json: the tickers from which a control draws, with their source.

    make universe                                     with the pinned version of pytickersymbols
    make universe ARGS="--accept-changes 60"          when the list has changed more than usual

The list is the S&P 500 of the installed package `pytickersymbols`. The service never asks for it
over the network: it reads the committed file. dev/universe/requirements.in pins the version of the
package; to get a newer list, raise that version and run `make lock` first.

If the tickers are the same as in the file, the file is not changed. Its source and date would
otherwise become a new profile of every control, although the control draws from the same list.
"""

import argparse
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import NamedTuple

PROJECT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(PROJECT))

from app.domain.control import universe_sha256
from app.domain.model import TICKER_PATTERN

FILE = PROJECT / "app" / "core" / "universe.json"
PACKAGE = "pytickersymbols"
INDEX = "S&P 500"
# The index has 500 companies, and some of them have two kinds of shares.
MIN_TICKERS, MAX_TICKERS = 495, 515
# The index changes about 20 companies a year. A list with more changes may have a mistake.
USUAL_CHANGES = 40

# Runs with the Python of the environment that has the package, and prints what it has.
_READER = f"""
import importlib.metadata, json
from pytickersymbols import PyTickerSymbols
symbols = [stock["symbol"] for stock in PyTickerSymbols().get_stocks_by_index({INDEX!r})]
print(json.dumps([importlib.metadata.version({PACKAGE!r}), symbols]))
"""


class RefreshError(Exception):
    """The file cannot be written; the text says why."""


class SourceList(NamedTuple):
    """The tickers that a version of the package has, sorted."""

    version: str
    tickers: list[str]


def read_package(python: Path) -> SourceList:
    """Return the list of the package that is installed in the environment of `python`."""
    command = [str(python), "-I", "-X", "utf8", "-c", _READER]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise RefreshError(
            f"{python} cannot be run ({error.strerror}): use `make universe`."
        ) from None
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2]
        raise RefreshError(f"{PACKAGE} cannot be read: {last}")
    version, symbols = json.loads(done.stdout)
    return SourceList(version, check_tickers(symbols))


def check_tickers(symbols: Sequence[str]) -> list[str]:
    """
    Return the symbols in our form, sorted.

    Raises RefreshError if a symbol has another form, stands there twice, or if their number cannot
    be that of the index.
    """
    # Yahoo writes BRK-B. The price provider and the record write BRK.B.
    tickers = sorted(symbol.strip().replace("-", ".") for symbol in symbols)
    odd = [ticker for ticker in tickers if not re.fullmatch(TICKER_PATTERN, ticker)]
    if odd:
        raise RefreshError(f"These symbols have not the form of a ticker: {', '.join(odd)}")
    repeated = [ticker for ticker, times in Counter(tickers).items() if times > 1]
    if repeated:
        raise RefreshError(f"These tickers stand there twice: {', '.join(repeated)}")
    if not MIN_TICKERS <= len(tickers) <= MAX_TICKERS:
        raise RefreshError(
            f"The list has {len(tickers)} tickers; {MIN_TICKERS} to {MAX_TICKERS} are plausible."
        )
    return tickers


def make_content(source: SourceList, today: date) -> str:
    """Return the content of the file."""
    content = {
        "package": PACKAGE,
        "version": source.version,
        "index": INDEX,
        "read_on": str(today),
        "number": len(source.tickers),
        "sha256": universe_sha256(source.tickers),
        "tickers": source.tickers,
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def refresh(source: SourceList, today: date, *, max_changes: int, file: Path = FILE) -> str:
    """
    Write the file, if the tickers have changed. Return a sentence that says what was done.

    Raises RefreshError, and writes nothing, if more than `max_changes` tickers came or went.
    """
    stored: list[str] = []
    if file.exists():
        stored = json.loads(file.read_text(encoding="utf-8"))["tickers"]
    if stored == source.tickers:
        return f"{file.name} has these {len(stored)} tickers already; it is not changed."
    added = sorted(set(source.tickers) - set(stored))
    removed = sorted(set(stored) - set(source.tickers))
    if stored and len(added) + len(removed) > max_changes:
        raise RefreshError(
            f"{len(added)} tickers came and {len(removed)} went, more than {max_changes}. Look at "
            f"the list. If it is right, use --accept-changes {len(added) + len(removed)}."
        )
    file.write_text(make_content(source, today), encoding="utf-8")
    changes = f"new: {', '.join(added)}; gone: {', '.join(removed) or 'none'}"
    if not stored:
        changes = "the first list"
    return f"{file.name}: {len(source.tickers)} tickers of {PACKAGE} {source.version} ({changes})."


def main() -> None:
    """Read the package and write the file; exit with 1 and a line if that is impossible."""
    parser = argparse.ArgumentParser(
        description="Write app/core/universe.json from the installed package pytickersymbols.",
        epilog="Example: make universe ARGS='--accept-changes 60'",
    )
    parser.add_argument(
        "--python",
        type=Path,
        default=PROJECT / "dev" / "universe" / ".venv" / "bin" / "python",
        help="the Python of the environment with the package (default: that of `make universe`)",
    )
    parser.add_argument(
        "--accept-changes",
        type=int,
        default=USUAL_CHANGES,
        metavar="NUMBER",
        help=f"the most tickers that may come or go (default: {USUAL_CHANGES})",
    )
    options = parser.parse_args()
    try:
        source = read_package(options.python)
        today = datetime.now(UTC).date()
        print(refresh(source, today, max_changes=options.accept_changes))
    except RefreshError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
