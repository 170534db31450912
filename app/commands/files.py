"""Writes large outputs of commands to standard output, or to a file that is never incomplete."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from app.errors import Refused


@contextmanager
def complete_file(file: Path, *, force: bool, public: bool = False) -> Iterator[IO[bytes]]:
    """
    Open a file that gets its name only when all of it is on the disk.

    Only its owner can read it, unless `public` is set. Raises Refused if `file` exists and `force`
    is not set, or if something exists at `file` that is not a regular file.
    """
    if file.exists() and not file.is_file():
        raise Refused(f"{file} is not a file. Choose another name, or `-` for the standard output.")
    if file.exists() and not force:
        raise Refused(f"{file} already exists. Choose another name, or overwrite it with --force.")
    # Each command has its own temporary file, so two commands at once never write into the same
    # file. mkstemp makes a file that only its owner can read.
    descriptor, temporary = tempfile.mkstemp(
        prefix=f"{file.name}.", suffix=".part", dir=file.parent
    )
    try:
        with open(descriptor, "wb") as output:
            yield output
            output.flush()
            if public:
                os.fchmod(output.fileno(), 0o666 & ~_umask())
            os.fsync(descriptor)
        os.replace(temporary, file)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    # The folder, which contains the new name, is written to the disk, too. Otherwise, a power
    # failure could remove the name.
    folder = os.open(file.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def _umask() -> int:
    """
    Return the rights that new files of this process do not get.

    The system has no call that only reads the umask, so it is set and restored.
    """
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


class _OutputStream:
    """
    A stream that can only be written forward.

    The standard output may be a file to which other programs append. There ZipFile must not go back
    to an earlier position, as it does in a stream that can seek. So this stream cannot seek.
    """

    def __init__(self, output: IO[bytes]) -> None:
        self.write = output.write
        self.flush = output.flush


@contextmanager
def stdout() -> Iterator[IO[bytes]]:
    """Open the standard output for bytes."""
    # The buffer of this file is not the one of `sys.stdout`. So a failed write raises here, and not
    # when Python ends.
    with open(sys.stdout.fileno(), "wb", closefd=False) as output:
        yield cast(Any, _OutputStream(output))
