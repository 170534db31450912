"""What the README says, holds: its commands, its settings, its query, its files."""

import os
import re
import shutil
import subprocess
import sys

import pytest
from graphql import parse, validate
from pages import HOUSE, commands, misfit, targets

from api.limits import LONGEST_BODY
from api.schema import schema
from app.core.settings import Settings

README = (HOUSE / "README.md").read_text()
TEXTS = {name: (HOUSE / name).read_text() for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")}


@pytest.mark.parametrize("name", TEXTS)
def test_every_command_exists(name):
    """Every `alpha-monday ...` and `make ...` can be run as it stands."""
    for written in commands(TEXTS[name]):
        assert misfit(written) is None, f"{written.words}: {misfit(written)}"
    assert targets(TEXTS[name]) <= set(re.findall(r"^([a-z-]+):", (HOUSE / "Makefile").read_text(), re.MULTILINE))


def test_every_setting_is_told():
    """The table of settings and the settings are the same."""
    table = README[README.index("| setting |") : README.index("## The house")]
    told = [
        name for row in re.findall(r"^\| (.*?) \|", table, re.MULTILINE) for name in re.findall(r"`([A-Z_]+)`", row)
    ]
    told = [f"ALPHA_VANTAGE{name}" if name.startswith("_") else name for name in told]
    assert {name.upper() for name in Settings.__struct_fields__} == set(told)


def test_the_longest_body_is_told():
    """The page that lists the API's limits has the number that the code has."""
    pages = [HOUSE / "README.md", *(HOUSE / "docs").rglob("*.md")]
    told = [size for page in pages for size in re.findall(r"^\| body \| (\d+) KB", page.read_text(), re.MULTILINE)]
    assert told == [str(LONGEST_BODY // 1024)]


def test_the_query_is_valid():
    """The query in the README asks for what the schema has."""
    (query,) = re.findall(r"```graphql\n(.*?)```", README, re.DOTALL)
    assert validate(schema, parse(query)) == []


def test_a_field_is_added_as_told(tmp_path):
    """The change in CONTRIBUTING fits, and makes of the declarations what it makes of the printed schema."""
    (change,) = re.findall(r"```diff\n(.*?)```", TEXTS["CONTRIBUTING.md"], re.DOTALL)
    shutil.copytree(HOUSE / "graphql", tmp_path / "graphql", ignore=shutil.ignore_patterns("node_modules"))
    (tmp_path / "tests" / "project").mkdir(parents=True)
    shutil.copy(HOUSE / "tests" / "project" / "test_api_schema.py", tmp_path / "tests" / "project")
    subprocess.run(["git", "apply", "-C1", "-"], cwd=tmp_path, input=change, text=True, check=True)
    path = {**os.environ, "PYTHONPATH": str(tmp_path / "graphql")}
    printed = subprocess.run(
        [sys.executable, "-m", "api.schema"], cwd=tmp_path, env=path, capture_output=True, text=True, check=True
    )
    assert printed.stdout == (tmp_path / "graphql" / "schema.graphql").read_text()
    assert printed.stdout != (HOUSE / "graphql" / "schema.graphql").read_text()
