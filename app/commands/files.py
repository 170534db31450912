"""Where commands write what is more than a few lines: a file that is whole or not there, or the standard output."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from app.errors import Refused


@contextmanager
def whole(file: Path, *, force: bool, public: bool = False) -> Iterator[IO[bytes]]:
    """Give a file that takes its name only when all of it is on the disk; its owner's alone, unless it is `public`."""
    if file.exists() and not file.is_file():
        raise Refused(f"{file} is no file. Choose another name, or `-` for the standard output.")
    if file.exists() and not force:
        raise Refused(f"{file} is there already. Choose another name, or write over it with --force.")
    # A name of its own, so that two at once do not write into one; it is its owner's from the beginning.
    number, part = tempfile.mkstemp(prefix=f"{file.name}.", suffix=".part", dir=file.parent)
    try:
        with open(number, "wb") as to:
            yield to
            to.flush()
            if public:
                os.fchmod(to.fileno(), 0o666 & ~_umask())
            os.fsync(number)
        os.replace(part, file)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise
    folder = os.open(file.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def _umask() -> int:
    """Return what new files of this process are denied; it can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


class _Stream:
    """A stream that only goes forward: what looks like a file may be appended to by others."""

    def __init__(self, to: IO[bytes]) -> None:
        self.write, self.flush = to.write, to.flush


@contextmanager
def stdout() -> Iterator[IO[bytes]]:
    """Give the standard output, for bytes."""
    # A buffer of our own: what cannot be written is known here, and not when Python ends.
    with open(sys.stdout.fileno(), "wb", closefd=False) as to:
        yield cast(Any, _Stream(to))
