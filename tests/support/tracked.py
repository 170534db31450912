"""The files of the repository: those that git tracks, or would track."""

import subprocess
from pathlib import Path

HOUSE = Path(__file__).parents[2]


def tracked() -> list[Path]:
    """
    Return the files that git tracks or would track; in an unpacked archive, all except those of a
    build.
    """
    listed = subprocess.run(
        # git's settings are out of reach, which may say that this folder of another user's is safe.
        ["git", "-c", "safe.directory=*", "ls-files", "-co", "--exclude-standard"],
        cwd=HOUSE,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode == 0:
        return [path for name in listed.stdout.splitlines() if (path := HOUSE / name).is_file()]
    built = {".venv", ".alpha-monday", "__pycache__", "node_modules", "generated", "shots"}
    return [path for path in HOUSE.rglob("*") if path.is_file() and not built & set(path.parts)]
