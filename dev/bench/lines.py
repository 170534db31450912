"""
Lines of code per part of the house, without blanks, comments and docstrings; `make lines` prints them.

    python dev/bench/lines.py
"""

import ast
import io
import tokenize
from pathlib import Path

HOUSE = Path(__file__).parents[2]
PARTS = [
    f"app/{name}" for name in ("record", "store", "providers", "database", "rehearsal", "operate", "pages", "follow")
]
PARTS += ["app"]
# The API's engine, its declarations, and the rest of it.
PARTS += [f"graphql/api/{name}" for name in ("plan.py", "engine.py", "values.py", "declare.py", "types.py")]
PARTS += ["graphql/api", "jobs", "migrations", "tests"]


def lines(text: str) -> int:
    """Return how many lines of a module hold code."""
    code = {
        line
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type not in (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
        for line in range(token.start[0], token.end[0] + 1)
        if token.type != tokenize.ENDMARKER
    }
    for node in ast.walk(ast.parse(text)):
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
        ):
            code -= set(range(body[0].lineno, (body[0].end_lineno or 0) + 1))
    return len(code)


def sql_lines(text: str) -> int:
    """Return how many lines of an SQL file hold statements."""
    return sum(bool(line.strip()) and not line.strip().startswith("--") for line in text.splitlines())


def count() -> dict[str, int]:
    """Return the lines of every part; what is named before the folder it is in is not counted with that."""
    counted: dict[str, int] = {}
    seen: set[Path] = set()
    for part in PARTS:
        path = HOUSE / part
        files = {path} if path.is_file() else {*path.rglob("*.py"), *path.rglob("*.sql")}
        new = files - seen
        seen |= new
        counted[part] = sum((sql_lines if file.suffix == ".sql" else lines)(file.read_text()) for file in new)
    return counted


if __name__ == "__main__":
    table = count()
    for part, number in table.items():
        print(f"| `{part}` | {number:,} |")
    print(f"| all but tests | {sum(table.values()) - table['tests']:,} |")
