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
import os
import re
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

# Any other letter in a name would be a pattern to an engine, end its line, or be read in two ways.
PLAIN = re.compile(r"[A-Za-z0-9_./-]+")

# An engine that finds one of these reads it in place of .dockerignore.
IN_ITS_PLACE = (".containerignore", "Containerfile.containerignore", "Containerfile.dockerignore")

HEAD = """\
# What the image is made of: every file by its name. Nothing else gets in, a file with keys least of all.
# `make image-files` writes this list, from what git tracks; tests/project/test_image_files.py says when it is due.
# The first line leaves everything out; so does the second, because buildah's first misses a name with a line's end.
*
**/*
"""


class Refused(Exception):
    """The list cannot be written; the text says why."""


def tracked(house: Path) -> list[str]:
    """Return the names that git tracks in the program's folders and beside them, sorted, each once."""
    # In a container the checkout may be another user's: it is only read.
    command = ["git", "-c", "safe.directory=*", "-C", str(house), "ls-files", "-z", "--", *FOLDERS, *BESIDE]
    # A hook of git, or a shell, may name another repository in GIT_DIR.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, check=False)
    except FileNotFoundError:
        raise Refused("git is missing: it says which files are a part of the program.") from None
    if done.returncode:
        raise Refused(f"git cannot list the files of {house}: {os.fsdecode(done.stderr).strip()}")
    # During a merge git names a file up to three times.
    names = {os.fsdecode(name) for name in done.stdout.split(b"\0") if name}
    if not names:
        raise Refused(f"git tracks no file of the program in {house}: this is no checkout of it.")
    # In the order of the letters, whatever the locale.
    return sorted(names)


def program(house: Path) -> list[str]:
    """Return the files that the image is made of."""
    files = []
    for name in tracked(house):
        path = house / name
        if not PLAIN.fullmatch(name):
            raise Refused(
                f"{ascii(name)[1:-1]} has a letter in its name that an engine may read in another way. "
                "Use letters of English, digits and _ - . only."
            )
        if path.is_symlink():
            raise Refused(f"{name} is a symbolic link: the image takes files only.")
        if path.is_dir():
            raise Refused(f"{name} is a repository of its own (a submodule): the image takes files only.")
        # A file that was deleted, and that git still tracks, is left out.
        if _hidden(Path(name)) or not path.is_file():
            continue
        if name not in BESIDE and path.suffix not in ENDINGS:
            known = " ".join(sorted(ENDINGS))
            raise Refused(f"git tracks {name}, which does not end as a file of the program does: {known}")
        files.append(name)
    return files


def _hidden(name: Path) -> bool:
    return any(part.startswith(".") for part in name.parts)


def text(files: list[str]) -> str:
    """Return what .dockerignore says for these files."""
    return HEAD + "".join(f"!{name}\n" for name in files)


def listed(house: Path) -> list[str]:
    """Return the files that .dockerignore lets in."""
    return [line[1:] for line in (house / LIST.name).read_text().splitlines() if line.startswith("!")]


def check(house: Path) -> None:
    """Refuse a checkout of which an engine would not take the listed files, or would take others."""
    if not (house / LIST.name).is_file():
        raise Refused(
            f"{LIST.name} is missing: without it every file here would get into the image. Run: git restore {LIST.name}"
        )
    for name in IN_ITS_PLACE:
        if os.path.lexists(house / name):
            raise Refused(f"An engine would read {name} in place of {LIST.name}, which keeps keys out: remove it.")
    for name in listed(house):
        path = house / name
        if path.is_symlink() or path.is_dir():
            # An engine would take all that a folder of this name holds.
            raise Refused(f"{name} is no file any more. Run `git restore {name}`, or `make image-files`.")
        if not path.is_file():
            raise Refused(f"{name} is missing. Run `git restore {name}`, or `make image-files` if it was removed.")


def left_out(house: Path) -> list[str]:
    """Return the files in the program's folders that stay out, except hidden and generated ones."""
    known = set(listed(house))
    found = []
    for folder in FOLDERS:
        for path in sorted((house / folder).rglob("*")):
            name = path.relative_to(house)
            generated = {"__pycache__", "node_modules"} & set(name.parts)
            if path.is_file() and not generated and not _hidden(name) and str(name) not in known:
                found.append(str(name))
    return found


def main() -> int:
    """Do what the command line asks for; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--left-out", action="store_true", help="name what stays out, and change nothing")
    try:
        if not parser.parse_args().left_out:
            LIST.write_text(text(program(HOUSE)))
            return 0
        check(HOUSE)
    except Refused as refusal:
        print(refusal, file=sys.stderr)
        return 1
    for name in left_out(HOUSE):
        print(
            f"Not in the image: {ascii(name)[1:-1]}. If the program needs it: `git add` it, then `make image-files`.",
            file=sys.stderr,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
