"""
Where tests are: the folder says what a test needs, and its name begins with that of the tested
module.
"""

import ast
from pathlib import Path

import pytest
from tracked import HOUSE

SHELVES = ("unit", "integration", "scenarios", "project")
SOURCES = {"api": HOUSE / "graphql" / "api", "jobs": HOUSE / "jobs"}
NEEDS_POSTGRES = {"server", "create", "empty", "migrated", "made_once", "database", "pool", "house"}


def files(shelf: str) -> list[Path]:
    return sorted((HOUSE / "tests" / shelf).rglob("test_*.py"))


def names_of(package: str) -> set[str]:
    """Return the modules and packages below a package of ours; of `app` itself without a name."""
    if not package:
        return {path.stem for path in (HOUSE / "app").glob("*.py")}
    folder = SOURCES.get(package, HOUSE / "app" / package)
    return {path.stem for path in folder.rglob("*") if path.is_dir() or path.suffix == ".py"}


def test_every_test_is_in_one_of_the_folders():
    """There is no fifth folder."""
    every = set((HOUSE / "tests").rglob("test_*.py"))
    assert every == {file for shelf in SHELVES for file in files(shelf)}


@pytest.mark.parametrize("shelf", ["unit", "integration"])
def test_a_test_is_named_after_a_module(shelf):
    """It is in a folder named after the module's package, and its name begins with the module's."""
    unknown = []
    for file in files(shelf):
        package = "" if file.parent.name == shelf else file.parent.name
        name = file.stem.removeprefix("test_")
        modules = names_of(package)
        if not any(name == module or name.startswith(f"{module}_") for module in modules):
            unknown.append(file.relative_to(HOUSE / "tests"))
    assert unknown == []


def test_a_unit_test_needs_no_postgres():
    """None of its fixtures needs one."""
    dependent = {
        f"{file.relative_to(HOUSE)}::{node.name}"
        for file in files("unit")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if node.name.startswith("test_")
        if {argument.arg for argument in node.args.args} & NEEDS_POSTGRES
    }
    assert dependent == set()
