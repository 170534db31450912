"""
Measure the style of the code: line lengths, conditional expressions, comments, functions, names.

Needs nothing but Python 3.11, so that it can measure any checkout of the project, an old one too:

    python3 dev/style/measure.py
    python3 dev/style/measure.py --root ../old-checkout
    python3 dev/style/measure.py app/web jobs --list conditionals
    python3 dev/style/measure.py --words

Exits with 0, or with 2 if an argument is wrong.
"""

import argparse
import ast
import io
import re
import statistics
import subprocess
import sys
import tokenize
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

WIDTH = 100
ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("app", "jobs", "graphql", "dev", "tests")
PRODUCT = ("app", "jobs", "graphql")

# A call with this many arguments passes them by keyword.
NAMED_FROM = 4

# Functions of the standard library and of pytest that take any number of equal arguments: there
# the arguments have no names.
VARIADIC = frozenset(
    {"chain", "frozenset", "gather", "join", "joinpath", "max", "min", "pack", "Path", "print"}
    | {"product", "zip", "param", "merge", "Literal", "format", "replace", "TypeVar", "partial"}
    | {"date", "datetime", "to_thread", "create_subprocess_exec"}
    # Helpers of the tests that pass any number of words to a command, or take any number of days.
    | {"run", "command", "commanded", "run_command", "served", "procrastinate", "git", "jobs"}
    | {"mornings"}
)


@dataclass
class Place:
    """One finding: a file, a line and what stands there."""

    path: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.text}"


@dataclass
class Measures:
    """What is counted in a set of files."""

    lines: int = 0
    code_lines: int = 0
    comments: int = 0
    function_lengths: list[int] = field(default_factory=list)
    findings: dict[str, list[Place]] = field(default_factory=lambda: defaultdict(list))
    classes: dict[str, list[Place]] = field(default_factory=lambda: defaultdict(list))

    def add(self, kind: str, place: Place) -> None:
        """Add one finding of a kind."""
        self.findings[kind].append(place)

    def count(self, kind: str) -> int:
        """Return how many findings of a kind there are."""
        return len(self.findings[kind])

    @property
    def repeated_classes(self) -> dict[str, list[Place]]:
        """Return the class names that are defined at two places or more."""
        return {name: places for name, places in self.classes.items() if len(places) > 1}


# What `--list` can show.
KINDS = {
    "long": f"lines over {WIDTH} columns",
    "conditionals": "conditional expressions",
    "nested": "conditional expressions within another",
    "comprehensions": "comprehensions with a second `for` or a second `if`",
    "positional": f"calls with {NAMED_FROM} or more arguments, of which that many have no name",
    "functions": "functions of more than 60 lines",
    "classes": "class names that are defined twice",
}
LONG_FUNCTION = 60


def list_files(root: Path) -> list[Path]:
    """
    Return the paths of the files that git tracks in a checkout.

    A file that was deleted and not committed yet is left out.
    """
    command = ["git", "-C", str(root), "ls-files", "-z"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    paths = [root / name for name in done.stdout.split("\0") if name]
    return [path for path in paths if path.is_file()]


def measure(root: Path, paths: Iterable[Path]) -> Measures:
    """Return the measures of these Python files."""
    measures = Measures()
    for path in paths:
        _measure_file(measures, str(path.relative_to(root)), path.read_text("utf-8"))
    return measures


def _measure_file(measures: Measures, name: str, source: str) -> None:
    tree = ast.parse(source)
    lines = source.splitlines()
    measures.lines += len(lines)
    measures.code_lines += _count_code_lines(tree, lines)
    measures.comments += _count_comments(source)
    for number, line in enumerate(lines, 1):
        if len(line) > WIDTH:
            measures.add("long", Place(name, number, f"{len(line)} columns"))
    for node in ast.walk(tree):
        _measure_node(measures, name, node)


def _measure_node(measures: Measures, name: str, node: ast.AST) -> None:
    if isinstance(node, ast.IfExp):
        place = Place(name, node.lineno, _shorten(ast.unparse(node)))
        measures.add("conditionals", place)
        if any(isinstance(child, ast.IfExp) for child in _descendants(node)):
            measures.add("nested", place)
    elif isinstance(node, ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
        conditions = sum(len(generator.ifs) for generator in node.generators)
        if len(node.generators) > 1 or conditions > 1:
            place = Place(name, node.lineno, _shorten(ast.unparse(node)))
            measures.add("comprehensions", place)
    elif isinstance(node, ast.Call):
        positional = [one for one in node.args if not isinstance(one, ast.Starred)]
        if len(positional) >= NAMED_FROM and _function_name(node) not in VARIADIC:
            measures.add("positional", Place(name, node.lineno, _shorten(ast.unparse(node))))
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        length = (node.end_lineno or node.lineno) - node.lineno + 1
        measures.function_lengths.append(length)
        if length > LONG_FUNCTION:
            measures.add("functions", Place(name, node.lineno, f"{node.name}: {length} lines"))
    elif isinstance(node, ast.ClassDef):
        measures.classes[node.name].append(Place(name, node.lineno, node.name))


def _descendants(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        yield from ast.walk(child)


def _function_name(call: ast.Call) -> str:
    if isinstance(call.func, ast.Name):
        return call.func.id
    if isinstance(call.func, ast.Attribute):
        return call.func.attr
    return ""


def _shorten(text: str, length: int = 90) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."


def _count_code_lines(tree: ast.Module, lines: list[str]) -> int:
    """Return how many lines are neither empty, nor a comment alone, nor part of a docstring."""
    outside = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Expr) or not isinstance(node.value, ast.Constant):
            continue
        if isinstance(node.value.value, str):
            outside.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    numbered = enumerate(lines, 1)
    texts = [line.strip() for number, line in numbered if number not in outside]
    return sum(1 for text in texts if text and not text.startswith("#"))


def _count_comments(source: str) -> int:
    """Return how many lines have a comment, without those that are for a tool alone."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = [token.string for token in tokens if token.type == tokenize.COMMENT]
    for_tools = re.compile(r"#\s*(?:noqa(?:: [A-Z0-9, ]+)?|type: ignore(?:\[[\w, -]+\])?)\s*$")
    return sum(1 for comment in comments if not for_tools.match(comment))


# The words of an earlier private dialect, each with what counts as a use of it. "names" are looked
# for among the identifiers of the code, everything else in all text.
WORDS = {
    "told": r"\btold\b",
    "stand-ins, played, lie": r"\bstand-ins?\b|\bplayed\b|\blies?\b",
    "kept": r"\bkept\b",
    "upkeep, look after, keeps every promise": r"upkeep|\blook(?:s|ed)? after\b|every promise",
    "tools, handed": r"\btools\b|\bhanded\b",
    "a look": r"\ba look\b|\blooks\b|\blooked\b",
    "by hand": r"\bby[ _]hand\b",
    "survey, standing": r"\bsurvey\w*|\bstanding\b",
    "follow": r"\bfollow(?:s|ed|er|ers)?\b",
    "patience": r"\bpatien\w+",
    "announced, heard, moved": r"\bannounc\w+|\bheard\b|\bmoved\b",
    "a sign of life": r"\bsigns? of life\b",
    "whoever, somebody, nobody, anybody": r"\b(?:who(?:m|so)?ever|(?:some|no|any)body)\b",
    "whose it is, whose line": r"\bwhose (?:it|line|they)\b",
    "hang on": r"\b(?:hangs?|hung|hanging) on\b",
    "learnt": r"\blearn(?:t|s)\b",
    "what became of": r"\b(?:became|becomes?) of\b",
    "put right": r"\bputs? (?:\w+ )?right\b",
    "stranger": r"\bstrangers?\b",
}
NAMES = frozenset({"asked", "said", "told", "given", "written", "found"})
TEXTS = (".py", ".md", ".html", ".js", ".graphql", ".toml", ".yml", ".mjs")


def count_words(root: Path, paths: Iterable[Path]) -> tuple[dict[str, Counter[str]], Counter[str]]:
    """
    Return how often each old word stands in the files of each top folder.

    The second result counts the identifiers that are one of `NAMES`, by top folder.
    """
    words: dict[str, Counter[str]] = {word: Counter() for word in WORDS}
    names: Counter[str] = Counter()
    patterns = {word: re.compile(pattern, re.IGNORECASE) for word, pattern in WORDS.items()}
    for path in paths:
        relative = path.relative_to(root)
        if path.suffix not in TEXTS or path == Path(__file__).resolve():
            continue
        top = relative.parts[0] if len(relative.parts) > 1 else "top level"
        text = path.read_text("utf-8")
        for word, pattern in patterns.items():
            words[word][top] += len(pattern.findall(text))
        if path.suffix == ".py":
            names[top] += sum(1 for name in _identifiers(ast.parse(text)) if name in NAMES)
    return words, names


def _identifiers(tree: ast.Module) -> Iterator[str]:
    """Yield the names that the code defines: variables, parameters, functions and classes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name


def _per(number: int, total: int, unit: int) -> str:
    return f"{number * unit / total:.1f}" if total else "-"


# The columns of the table: a heading, and how its cell is made.
COLUMNS: dict[str, Callable[[Measures], object]] = {
    "lines": lambda one: f"{one.lines:,}",
    f"over {WIDTH}": lambda one: one.count("long"),
    "conditional / 1,000": lambda one: _per(one.count("conditionals"), one.lines, unit=1000),
    "nested": lambda one: one.count("nested"),
    "two fors": lambda one: one.count("comprehensions"),
    "unnamed": lambda one: one.count("positional"),
    "comments / 100": lambda one: _per(one.comments, one.code_lines, unit=100),
    "function p50": lambda one: f"{statistics.median(one.function_lengths or [0]):.0f}",
    "p90": lambda one: f"{_percentile(one.function_lengths, 0.9)}",
    "max": lambda one: max(one.function_lengths, default=0),
    "classes twice": lambda one: len(one.repeated_classes),
}


def _percentile(numbers: list[int], share: float) -> int:
    ordered = sorted(numbers)
    return ordered[int(share * (len(ordered) - 1))] if ordered else 0


def print_table(root: Path, paths: list[Path], folders: Iterable[str]) -> None:
    """Print a row of measures for each folder, and one for those of the product together."""
    groups = {folder: [folder] for folder in folders}
    if set(PRODUCT) <= set(groups):
        groups["app + jobs + graphql"] = list(PRODUCT)
    rows = [["", *COLUMNS]]
    for name, parts in groups.items():
        measures = measure(root, [path for path in paths if _is_below(path, root, parts)])
        rows.append([name, *[str(cell(measures)) for cell in COLUMNS.values()]])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        print("  ".join([row[0].ljust(widths[0]), *cells]))
    print("\nComments: per 100 lines of code, without docstrings, empty lines and comments.")


def _is_below(path: Path, root: Path, folders: Iterable[str]) -> bool:
    return any(path.is_relative_to(root / folder) for folder in folders)


def print_words(root: Path, paths: list[Path]) -> None:
    """Print how often each word of the earlier dialect still stands, by top folder."""
    words, names = count_words(root, paths)
    words["asked, said, told, given, written, found as names"] = names
    tops = sorted({top for counter in words.values() for top in counter})
    width = max(map(len, words))
    print(" ".ljust(width), *[top.rjust(9) for top in tops])
    for word, counter in words.items():
        print(word.ljust(width), *[str(counter[top]).rjust(9) for top in tops])


def main() -> int:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="*", default=FOLDERS, help="measure these folders alone")
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout to measure")
    parser.add_argument("--words", action="store_true", help="count words of the earlier dialect")
    parser.add_argument(
        "--list", choices=KINDS, metavar="KIND", help=f"print each place: {', '.join(KINDS)}"
    )
    options = parser.parse_args()
    root = options.root.resolve()
    if not (root / ".git").exists():
        parser.error(f"{root} is not a checkout of git: name one with --root.")
    for folder in options.folders:
        if not (root / folder).is_dir():
            parser.error(f"There is no folder {folder} in {root}.")
    tracked = list_files(root)
    if options.words:
        print_words(root, tracked)
        return 0
    python = [path for path in tracked if path.suffix == ".py"]
    if options.list is None:
        print_table(root, python, options.folders)
        return 0
    measures = measure(root, [path for path in python if _is_below(path, root, options.folders)])
    places = measures.findings[options.list]
    if options.list == "classes":
        places = [place for places in measures.repeated_classes.values() for place in places]
    for place in places:
        print(place)
    print(f"{len(places)} {KINDS[options.list]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
