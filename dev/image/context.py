"""
The build context: which files of this checkout an engine is given to build the image from.

    python3 dev/image/context.py              write .dockerignore anew
    python3 dev/image/context.py --left-out   name the files beside the program's that stay out

.dockerignore names every file that goes in, so that nothing else can: a key, an editor's copy, a
local module. A pattern would not do, because a key may stand in a Python module. A part of the
program is what git tracks. The list holds for `make image`, for `fly deploy` and for an engine that is
called directly, and an engine needs no git to read it.

Needs git, and nothing but Python: `make image` calls it before there is a virtual environment.
"""

import argparse
import subprocess
import sys
from pathlib import Path

HOUSE = Path(__file__).resolve().parents[2]
LIST = HOUSE / ".dockerignore"

# The same as the wheel's, in pyproject.toml.
FOLDERS = ("app", "graphql/api", "graphql/former_operations", "graphql/operations", "jobs", "migrations")
BESIDE = ("LICENSE", "README.md", "dev/image/requirements.lock", "pyproject.toml", "requirements.lock")

# What files of the program end in. A tracked file with another ending is refused: it may be a key
# that was added by mistake.
ENDINGS = {".css", ".graphql", ".html", ".js", ".json", ".py", ".sql", ".svg", ".toml", ".ttf", ".txt"}

# An engine would read these in a name as a pattern.
SPECIAL = set("*?[]\\!# ")

HEAD = """\
# What the image is made of: every file by its name. Nothing else gets in, a file with keys least of all.
# `make image-files` writes this list, from what git tracks; tests/project/test_image_files.py says when it is due.
*
"""


class Refused(Exception):
    """The list cannot be written; the text says why."""


def tracked(house: Path) -> list[str]:
    """Return the files that git tracks in the program's folders and beside them, sorted."""
    # In a container the checkout may be another user's: it is only read.
    git = ["git", "-c", "safe.directory=*", "-C", str(house)]
    command = [*git, "ls-files", "-z", "--", *FOLDERS, *BESIDE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Refused(f"git cannot list the files of {house}: {done.stderr.strip()}")
    # In the order of the bytes, whatever the locale. A deleted file that git still tracks is left out.
    return sorted(name for name in done.stdout.split("\0") if name and (house / name).is_file())


def program(house: Path) -> list[str]:
    """Return the files that the image is made of."""
    files = [name for name in tracked(house) if not Path(name).name.startswith(".")]
    for name in files:
        if name not in BESIDE and Path(name).suffix not in ENDINGS:
            known = " ".join(sorted(ENDINGS))
            raise Refused(f"git tracks {name}, which does not end as a file of the program does: {known}")
        if (house / name).is_symlink():
            raise Refused(f"{name} is a symbolic link: the image takes files only.")
        if SPECIAL & set(name):
            raise Refused(f"{name} has a character in its name that an engine would read as a pattern.")
    return files


def text(files: list[str]) -> str:
    """Return what .dockerignore says for these files."""
    return HEAD + "".join(f"!{name}\n" for name in files)


def listed(house: Path) -> list[str]:
    """Return the files that .dockerignore lets in."""
    return [line[1:] for line in (house / LIST.name).read_text().splitlines() if line.startswith("!")]


def left_out(house: Path) -> list[str]:
    """Return the files in the program's folders that stay out, except hidden and generated ones."""
    known = set(listed(house))
    found = []
    for folder in FOLDERS:
        for path in sorted((house / folder).rglob("*")):
            name = path.relative_to(house)
            generated = {"__pycache__", "node_modules"} & set(name.parts)
            hidden = any(part.startswith(".") for part in name.parts)
            if path.is_file() and not generated and not hidden and str(name) not in known:
                found.append(str(name))
    return found


def main() -> int:
    """Do what the command line asks for; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--left-out", action="store_true", help="name what stays out, and change nothing")
    if not parser.parse_args().left_out:
        try:
            LIST.write_text(text(program(HOUSE)))
        except Refused as refusal:
            print(refusal, file=sys.stderr)
            return 1
        return 0
    for name in left_out(HOUSE):
        print(
            f"Not in the image: {name}. If the program needs it: `git add {name}`, then `make image-files`.",
            file=sys.stderr,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
