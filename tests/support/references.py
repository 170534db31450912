"""
What comments, docstrings and documents refer to, and whether it is there.

`references` finds them in a file, and `missing` says of one why it leads nowhere. The kinds:

- link: a Markdown or HTML link into the repository, from the document that holds it, down to the
  heading;
- path: what is written like a file or folder of ours, from the top of the repository or from the
  folder of the file that names it; `*` stands for any name, `#heading` for a part of a document;
- module: a dotted name that begins with one of our packages, down to a name in that module;
- test: a name that begins with `test_`, of a test or of a module of tests;
- name: a word between backticks in a docstring or a comment of Python.

A `name` is of the file's own code, of a module of ours, or of something that is declared in our
code, our tables or the API's schema. So a module or a function that was renamed is missed in a
docstring, unless something else still has the old name.
"""

import ast
import importlib
import io
import re
import sys
import tokenize
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from document_text import anchors
from tracked import HOUSE, tracked

TOP = ("app", "jobs", "graphql", "migrations", "tests", "dev", "docs", ".github", ".ci")
ENDINGS = (
    "css",
    "graphql",
    "html",
    "in",
    "js",
    "lock",
    "lua",
    "md",
    "mjs",
    "py",
    "sql",
    "toml",
    "ts",
    "yml",
)
ROOTS = {"app": HOUSE / "app", "jobs": HOUSE / "jobs", "api": HOUSE / "graphql" / "api"}

_BLOCK = re.compile(r"^ *```.*?^ *```", re.DOTALL | re.MULTILINE)
_LINK = re.compile(
    r"\]\(\s*<?([^)\s>]+)|\b(?:href|src|srcset)=\"([^\"]+)\"|^\[[^\]]+\]:\s*(\S+)", re.MULTILINE
)
_LABELLED = re.compile(r"\[[^\]]*\]\([^)]*\)")
_ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:|//")
_PATH = re.compile(
    rf"(?<![\w/.:~$@*-])(?:(?:{'|'.join(map(re.escape, TOP))})/[\w./*-]*[\w*]"
    rf"|[\w*-][\w./*-]*\.(?:{'|'.join(ENDINGS)})\b(?![\w/-]))(?:#[\w-]+)?"
)
_MODULE = re.compile(r"(?<![\w./@-])(?:app|jobs|api)(?:\.[A-Za-z_]\w*)+")
_TEST = re.compile(r"(?<![\w.*-])test_\w+(?!\w*(?:\.py\b|\*))")
_NAME = re.compile(r"`([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)(?:\(\))?`")
_WORD = re.compile(r"[A-Za-z_]\w*")
# Comments and descriptions in SQL and in the schema.
_SAID = re.compile(r"--[^\n]*|#[^\n]*|\"\"\".*?\"\"\"", re.DOTALL)


class Reference(NamedTuple):
    """A reference of a file: its line, its kind, and its words."""

    file: Path
    line: int
    kind: str
    words: str

    def __str__(self) -> str:
        return f"{self.file.relative_to(HOUSE)}:{self.line}: {self.kind} {self.words}"


@cache
def references(file: Path) -> tuple[Reference, ...]:
    """Return every reference in a file's text."""
    readers = {".md": in_markdown, ".py": in_python}
    reader = readers.get(file.suffix, in_lines)
    return tuple(reader(file, file.read_text()))


def in_markdown(file: Path, text: str) -> Iterator[Reference]:
    """
    Return a document's links, paths, modules and tests.

    Blocks of code are left out, because they have tests of their own.
    """
    prose = _BLOCK.sub(blanked, text)
    for match in _LINK.finditer(prose):
        target = next(group for group in match.groups() if group)
        if not _ELSEWHERE.match(target):
            yield Reference(
                file=file, line=line_of(prose, match.start()), kind="link", words=target
            )
    # A link's target has its label in full.
    yield from found_in(file, 1, _LABELLED.sub(blanked, prose))


def in_python(file: Path, text: str) -> Iterator[Reference]:
    """Return what the docstrings and comments of a module refer to."""
    for line, prose in prose_of(text):
        yield from found_in(file, line, prose)
        for match in _NAME.finditer(prose):
            words = match[1]
            if (
                not _PATH.fullmatch(words)
                and not _MODULE.fullmatch(words)
                and not _TEST.fullmatch(words)
            ):
                yield Reference(
                    file=file,
                    line=line + line_of(prose, match.start()) - 1,
                    kind="name",
                    words=words,
                )


def in_lines(file: Path, text: str) -> Iterator[Reference]:
    """
    Return the references in the comments of another kind of file: after a hash, or on a line that
    begins with slashes.
    """
    comment = r"^\s*//.*" if file.suffix in (".js", ".mjs") else r"(?:^|(?<=\s))#.*"
    for number, line in enumerate(text.splitlines(), 1):
        for match in re.findall(comment, line):
            yield from found_in(file, number, match)


def found_in(file: Path, first: int, prose: str) -> Iterator[Reference]:
    """Return the paths, modules and tests that a text names. It begins on the line `first`."""
    for kind, pattern in (("path", _PATH), ("module", _MODULE), ("test", _TEST)):
        for match in pattern.finditer(prose):
            yield Reference(
                file=file, line=first + line_of(prose, match.start()) - 1, kind=kind, words=match[0]
            )


@cache
def prose_of(text: str) -> tuple[tuple[int, str], ...]:
    """
    Return the docstrings and comments of a module, each with its line.

    Neighbouring comments are one text.
    """
    return (*_docstrings(text), *_comments(text))


def _docstrings(text: str) -> Iterator[tuple[int, str]]:
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    # Not `ast.get_source_segment`, which splits the whole text for each of them.
    lines = text.split("\n")
    for node in ast.walk(tree_of(text)):
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            docstring = node.body[0]
            segment = lines[docstring.lineno - 1 : docstring.end_lineno]
            yield docstring.lineno, "\n".join(segment).lstrip()


@cache
def tree_of(text: str) -> ast.Module:
    """Return the syntax tree of a module."""
    return ast.parse(text)


@cache
def tokens_of(text: str) -> tuple[tokenize.TokenInfo, ...]:
    """Return the tokens of a module that are names, strings or comments."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return tuple(token for token in tokens if token.type != tokenize.OP)


def _comments(text: str) -> Iterator[tuple[int, str]]:
    lines: list[str] = []
    last = 0
    for token in tokens_of(text):
        if token.type != tokenize.COMMENT:
            continue
        if lines and token.start[0] != last + 1:
            yield last - len(lines) + 1, "\n".join(lines)
            lines = []
        lines.append(token.string)
        last = token.start[0]
    if lines:
        yield last - len(lines) + 1, "\n".join(lines)


def line_of(text: str, position: int) -> int:
    """Return the line on which a position of a text stands, from 1."""
    return text.count("\n", 0, position) + 1


def blanked(match: re.Match[str]) -> str:
    """Return only the line feeds of a match, so that the text after it keeps its line."""
    return "\n" * match[0].count("\n")


@cache
def missing(reference: Reference) -> str | None:
    """Return why a reference leads nowhere, or None if it leads somewhere."""
    return _MISSING[reference.kind](reference)


def missing_link(reference: Reference) -> str | None:
    """
    Return which part of a link is missing: the file or the heading. It is relative to its document.
    """
    path, _, anchor = reference.words.partition("#")
    target = reference.file.parent / path if path else reference.file
    if not target.exists():
        return "there is no such file"
    return missing_heading(target, anchor)


def missing_path(reference: Reference) -> str | None:
    """Return which part of a path is missing: the file or the heading."""
    path, _, anchor = reference.words.partition("#")
    for folder in (HOUSE, reference.file.parent):
        for target in folder.glob(path.rstrip("/.")):
            return missing_heading(target, anchor)
    return "there is no such file or folder"


def missing_heading(target: Path, anchor: str) -> str | None:
    """Return whether a document lacks the heading that an anchor names."""
    if not anchor:
        return None
    if target.suffix != ".md":
        return "only a document has headings"
    return None if anchor in anchors(target.read_text()) else "there is no such heading"


def missing_module(reference: Reference) -> str | None:
    """Return which part of a dotted name is missing: the module, or the name in it."""
    package, *names = reference.words.split(".")
    place = ROOTS[package]
    while names and ((place / names[0]).is_dir() or (place / f"{names[0]}.py").is_file()):
        place = place / names.pop(0)
    module = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    return next(
        (f"{module.name} has no {name}" for name in names if name not in words_of(module)), None
    )


def missing_test(reference: Reference) -> str | None:
    """Return whether no test and no module of tests has this name."""
    return None if reference.words in tests() else "there is no such test"


def missing_name(reference: Reference) -> str | None:
    """Return whether a word between backticks is no name of our code and no name of Python."""
    first, *rest = reference.words.split(".")
    if {first, *rest} <= words_of(reference.file):
        return None
    if not rest:
        known = (
            first in modules()
            or first in stored()
            or first in declared(tests=is_for_us(reference.file))
        )
        return None if known else "nothing of ours has this name"
    if first in modules():
        there = set().union(*map(words_of, modules()[first]))
        return next((f"{first} has no {name}" for name in rest if name not in there), None)
    if first in sys.stdlib_module_names:
        there = dir(importlib.import_module(first))
        return None if rest[0] in there else f"{first} has no {rest[0]}"
    return None if {first, *rest} <= stored() else "nothing of ours has this name"


_MISSING: dict[str, Callable[[Reference], str | None]] = {
    "link": missing_link,
    "path": missing_path,
    "module": missing_module,
    "test": missing_test,
    "name": missing_name,
}


@cache
def words_of(file: Path) -> frozenset[str]:
    """Return the names in a module's code, and the words of its strings except docstrings."""
    text = file.read_text()
    words: set[str] = set()
    docstrings = {line for line, prose in prose_of(text) if not prose.startswith("#")}
    for token in tokens_of(text):
        if token.type == tokenize.NAME:
            words.add(token.string)
        elif token.type != tokenize.COMMENT and token.start[0] not in docstrings:
            words.update(_WORD.findall(token.string))
    return frozenset(words)


@cache
def modules() -> dict[str, list[Path]]:
    """
    Return our modules by the last part of their names. A package stands for all of its modules.
    """
    by_name: dict[str, list[Path]] = {}
    for file in tracked():
        if file.suffix == ".py":
            by_name.setdefault(file.stem, []).append(file)
            by_name.setdefault(file.parent.name, []).append(file)
    return by_name


@cache
def stored() -> frozenset[str]:
    """
    Return the words of our tables and of the API's schema: names of columns, types and fields, and
    values.
    """
    words: set[str] = set()
    for file in tracked():
        if file.suffix in (".sql", ".graphql"):
            words.update(_WORD.findall(_SAID.sub("", file.read_text())))
    return frozenset(words)


@cache
def declared(*, tests: bool) -> frozenset[str]:
    """
    Return the names that our modules and classes declare, with or without those of tests and `dev`.
    """
    names: set[str] = set()
    for file in tracked():
        if file.suffix == ".py" and (tests or not is_for_us(file)):
            names |= declared_in(tree_of(file.read_text()))
    return frozenset(names)


def is_for_us(file: Path) -> bool:
    """Return whether a file belongs to the tests or to `dev`, and not to the service."""
    return any(file.is_relative_to(HOUSE / folder) for folder in ("tests", "dev"))


def declared_in(tree: ast.AST) -> set[str]:
    """
    Return a module's functions, classes, constants and fields, and the attributes that it sets.
    """
    names: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                names.add(node.name)
            case ast.ClassDef() | ast.Module():
                names |= {node.name} if isinstance(node, ast.ClassDef) else set()
                names |= {name for statement in node.body for name in assigned(statement)}
            case ast.Attribute(ctx=ast.Store()):
                names.add(node.attr)
    return names


def assigned(statement: ast.stmt) -> set[str]:
    """Return the names that an assignment sets."""
    if not isinstance(statement, ast.Assign | ast.AnnAssign):
        return set()
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    return {
        node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)
    }


@cache
def tests() -> frozenset[str]:
    """Return the names of all tests and of the modules that hold them."""
    names: set[str] = set()
    for file in (HOUSE / "tests").rglob("test_*.py"):
        names.add(file.stem)
        names |= declared_in(tree_of(file.read_text()))
    return frozenset(names)
