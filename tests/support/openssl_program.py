"""The program `openssl`: an implementation of RFC 3161 that shares no code with the service."""

import os
import shutil
import subprocess
from datetime import datetime
from pathlib import Path


def openssl(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run `openssl` in a folder, with the configuration that comes with it."""
    program = shutil.which("openssl")
    assert program, "openssl is missing. On Debian: apt-get install openssl"
    return subprocess.run(
        [program, *map(str, arguments)],
        cwd=cwd,
        env={"PATH": os.environ["PATH"], "HOME": str(cwd)},
        capture_output=True,
        text=True,
    )


def accepts(response: bytes, *, data_hash: str, root: bytes, at: datetime, cwd: Path) -> bool:
    """
    Return whether `openssl ts -verify` accepts a response.

    The command is that of an independent verifier: it gets the hash of a journal's entry, the file
    of the stamp, the root in PEM form, and the time at which the certificates must be valid.
    """
    (cwd / "stamp.tsr").write_bytes(response)
    (cwd / "root.pem").write_bytes(root)
    result = openssl(
        *("ts", "-verify", "-digest", data_hash, "-in", "stamp.tsr"),
        *("-CAfile", "root.pem", "-attime", int(at.timestamp())),
        cwd=cwd,
    )
    is_accepted = result.returncode == 0
    # Only a refusal of the stamp counts as one, not a command that could not run.
    expected = "Verification: OK" if is_accepted else "Verification: FAILED"
    assert expected in result.stdout + result.stderr, result
    return is_accepted
