"""
The build context: the files of this checkout from which an engine builds the image.

    python3 dev/image/context.py              write .dockerignore
    python3 dev/image/context.py --left-out   list the other files of the program's folders

.dockerignore lists every file that goes in, so that nothing else can: no key, no editor's copy, no
local module. A pattern is not enough, because a key may be in a Python module. The program is what
git tracks. The list is used by `make image`, by `fly deploy` and by an engine that is called
directly; an engine needs no git to read it.

This script needs only git and Python's standard library: `make image` calls it before a virtual
environment exists.
"""

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
LIST = PROJECT / ".dockerignore"

# The folders of the program, the same as the wheel's in pyproject.toml; and files beside them.
FOLDERS = (
    "app",
    "graphql/api",
    "graphql/former_operations",
    "graphql/operations",
    "jobs",
    "migrations",
)
FILES_BESIDE = (
    "LICENSE",
    "README.md",
    "dev/image/requirements.lock",
    "pyproject.toml",
    "requirements.lock",
)

# Suffixes of the program's files. A tracked file with another suffix is refused: it may be a key
# that was added by mistake.
SUFFIXES = {
    ".css",
    ".graphql",
    ".html",
    ".js",
    ".json",
    ".py",
    ".sql",
    ".svg",
    ".toml",
    ".ttf",
    ".txt",
}

# With any other character, a name could be a pattern for an engine, contain a line break, or have
# two readings.
PLAIN_NAME = re.compile(r"[A-Za-z0-9_./-]+")

# An engine that finds one of these files reads it instead of .dockerignore.
OTHER_IGNORE_FILES = (
    ".containerignore",
    "Containerfile.containerignore",
    "Containerfile.dockerignore",
)

HEAD = """\
# What the image is made of: every file by its name. Nothing else gets in, a file with keys \
least of all.
# `make image-files` writes this list, from what git tracks; tests/project/test_image_files.py \
says when it is due.
# The first line leaves everything out; so does the second, because buildah's first misses a name \
with a line's end.
*
**/*
"""


class ContextError(Exception):
    """The list cannot be written or used; the text says why."""


def list_tracked(project: Path) -> list[str]:
    """
    Return the names of the files that git tracks, sorted: those of the program's folders and those
    beside them.
    """
    # In a container the checkout may belong to another user. git only reads it here.
    command = [
        "git",
        "-c",
        "safe.directory=*",
        "-C",
        str(project),
        "ls-files",
        "-z",
        "--",
        *FOLDERS,
        *FILES_BESIDE,
    ]
    # GIT_DIR may name another repository, in a hook of git or in a shell.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, check=False)
    except FileNotFoundError:
        raise ContextError(
            "git is missing: it says which files are a part of the program."
        ) from None
    if done.returncode:
        raise ContextError(
            f"git cannot list the files of {project}: {os.fsdecode(done.stderr).strip()}"
        )
    # During a merge git names a file up to three times.
    names = {os.fsdecode(name) for name in done.stdout.split(b"\0") if name}
    if not names:
        raise ContextError(
            f"git tracks no file of the program in {project}: this is no checkout of it."
        )
    # Sorted by code points, independent of the locale.
    return sorted(names)


def program_files(project: Path) -> list[str]:
    """
    Return the files that go into the image.

    Raises ContextError for a tracked file that an engine could misread, or that is none of the
    program's.
    """
    files = []
    for name in list_tracked(project):
        path = project / name
        if not PLAIN_NAME.fullmatch(name):
            raise ContextError(
                f"{ascii(name)[1:-1]} has a letter in its name that an engine may read in another "
                "way. Use letters of English, digits and _ - . only."
            )
        if path.is_symlink():
            raise ContextError(f"{name} is a symbolic link: the image takes files only.")
        if path.is_dir():
            raise ContextError(
                f"{name} is a repository of its own (a submodule): the image takes files only."
            )
        # A file that was deleted, and that git still tracks, is left out.
        if _is_hidden(Path(name)) or not path.is_file():
            continue
        if name not in FILES_BESIDE and path.suffix not in SUFFIXES:
            known = " ".join(sorted(SUFFIXES))
            raise ContextError(
                f"git tracks {name}, which does not end as a file of the program does: {known}"
            )
        files.append(name)
    return files


def _is_hidden(name: Path) -> bool:
    return any(part.startswith(".") for part in name.parts)


def make_list(files: list[str]) -> str:
    """Return the content of .dockerignore for these files."""
    return HEAD + "".join(f"!{name}\n" for name in files)


def read_list(project: Path) -> list[str]:
    """Return the files that .dockerignore lets in."""
    return [
        line[1:] for line in (project / LIST.name).read_text().splitlines() if line.startswith("!")
    ]


def check_list(project: Path) -> None:
    """Raise ContextError if an engine would not take exactly the listed files."""
    if not (project / LIST.name).is_file():
        raise ContextError(
            f"{LIST.name} is missing: without it every file here would get into the image. "
            f"Run: git restore {LIST.name}"
        )
    for name in OTHER_IGNORE_FILES:
        if os.path.lexists(project / name):
            raise ContextError(
                f"An engine would read {name} in place of {LIST.name}, which keeps keys out: "
                "remove it."
            )
    for name in read_list(project):
        path = project / name
        if path.is_symlink() or path.is_dir():
            # An engine would take everything in a folder of this name.
            raise ContextError(
                f"{name} is no file any more. Run `git restore {name}`, or `make image-files`."
            )
        if not path.is_file():
            raise ContextError(
                f"{name} is missing. Run `git restore {name}`, or `make image-files` if it was "
                "removed."
            )


def list_left_out(project: Path) -> list[str]:
    """Return the files in the program's folders that stay out, except hidden and generated ones."""
    known = set(read_list(project))
    left_out = []
    for folder in FOLDERS:
        for path in sorted((project / folder).rglob("*")):
            name = path.relative_to(project)
            is_generated = bool({"__pycache__", "node_modules"} & set(name.parts))
            if (
                path.is_file()
                and not is_generated
                and not _is_hidden(name)
                and str(name) not in known
            ):
                left_out.append(str(name))
    return left_out


def main() -> int:
    """Run from the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--left-out", action="store_true", help="list the files that stay out, and change nothing"
    )
    try:
        if not parser.parse_args().left_out:
            LIST.write_text(make_list(program_files(PROJECT)))
            return 0
        check_list(PROJECT)
    except ContextError as error:
        print(error, file=sys.stderr)
        return 1
    for name in list_left_out(PROJECT):
        print(
            f"Not in the image: {ascii(name)[1:-1]}. If the program needs it: `git add` it, then "
            "`make image-files`.",
            file=sys.stderr,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
