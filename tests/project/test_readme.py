"""The README agrees with the code: its commands, its pictures, its query and the answer."""

import json
import os
import re
import shlex
import shutil
import struct
import subprocess
import sys
import tomllib

import httpx
import pytest
from api_records import plant
from document_text import HOUSE, commands, links, targets, unaccepted_argument
from graphql import parse, validate
from processes import serving

from api.schema import schema

README = (HOUSE / "README.md").read_text()
NAMES = (
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    *(f"docs/{path.name}" for path in (HOUSE / "docs").glob("*.md")),
)
TEXTS = {name: (HOUSE / name).read_text() for name in sorted(NAMES)}
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
PICTURES = re.findall(
    r'<picture>\s*<source media="\(prefers-color-scheme: dark\)" srcset="([^"]+)">\s*'
    r'<img src="([^"]+)" width="(\d+)" height="(\d+)" alt="([^"]+)">\s*</picture>',
    README,
)


@pytest.mark.parametrize("name", TEXTS)
def test_every_command_exists(name):
    """Every `alpha-monday ...` and `make ...` can be run as it is written."""
    for command in commands(TEXTS[name]):
        assert unaccepted_argument(command) is None, (
            f"{command.words}: {unaccepted_argument(command)}"
        )
    assert targets(TEXTS[name]) <= set(
        re.findall(r"^([a-z-]+):", (HOUSE / "Makefile").read_text(), re.MULTILINE)
    )


def test_it_fits_the_front_door():
    """At most 120 lines, and no table."""
    assert len(README.splitlines()) <= 120
    assert not re.search(r"^\|", README, re.MULTILINE)


def test_three_lines_lead_from_a_clone_to_the_page():
    """
    The lines are the repository's address, the folder that git creates, and a target of the
    Makefile.
    """
    ((_, clone),) = [block for block in BLOCKS if "git clone" in block[1]]
    source = tomllib.loads((HOUSE / "pyproject.toml").read_text())["project"]["urls"]["Source"]
    assert clone.splitlines() == [
        f"git clone {source}",
        f"cd {source.rsplit('/', 1)[1]}",
        "make run",
    ]
    assert re.search(r"^run: \$\(READY\)", (HOUSE / "Makefile").read_text(), re.MULTILINE)


def test_every_block_is_tried():
    """The README has no command that these tests do not check."""
    assert [(language, text.split()[0]) for language, text in BLOCKS] == [
        ("", "git"),
        ("", "curl"),
        ("json", '{"data":'),
    ]


def shape(value: object) -> object:
    """
    Return the structure of a JSON value: the keys of its objects in order, and the types of its
    values.
    """
    if isinstance(value, dict):
        return [(key, shape(inner)) for key, inner in value.items()]
    return [shape(inner) for inner in value] if isinstance(value, list) else type(value)


def test_the_query_and_its_answer(database, tmp_path):
    """A server with a record answers the command with a response of the documented shape."""
    ((_, command),) = [block for block in BLOCKS if block[1].startswith("curl")]
    ((_, shown),) = [block for block in BLOCKS if block[0] == "json"]
    curl, how, address, option, parameter = shlex.split(command)
    assert (curl, how, option) == ("curl", "-sG", "--data-urlencode")
    name, _, query = parameter.partition("=")
    assert name == "query"
    assert validate(schema, parse(query)) == []
    plant(database)
    with serving(tmp_path, DATABASE_URL=database) as server:
        assert address == "http://127.0.0.1:8080/graphql"
        answer = httpx.get(f"{server.address}/graphql", params={name: query})
    assert "errors" not in answer.json()
    assert shape(answer.json()) == shape(json.loads(shown))


def test_the_pictures_are_as_large_as_they_say():
    """Each is a PNG of the size in its <picture>, in light and dark, and all of them are small."""
    assert len(PICTURES) == README.count("<picture>") == README.count("<img") == 2
    files = []
    for dark, light, width, height, alt in PICTURES:
        assert dark == light.replace("-light", "-dark") != light
        assert len(alt) > 100  # what is seen, in a sentence
        for name in (light, dark):
            content = (HOUSE / name).read_bytes()
            assert content.startswith(b"\x89PNG\r\n\x1a\n")
            assert struct.unpack(">II", content[16:24]) == (int(width), int(height))
            assert len(content) < 200_000
            files.append(name)
    assert set(files) == {
        f"docs/images/{path.name}" for path in (HOUSE / "docs" / "images").iterdir()
    }
    assert sum((HOUSE / name).stat().st_size for name in files) < 1_000_000


def test_all_pages_can_be_reached():
    """The README links every page for readers, and the index of those for operators."""
    linked = {file for file, _ in links(README)}
    assert {name for name in TEXTS if name != "README.md"} | {
        "docs/operate/README.md",
        "LICENSE",
    } <= linked


def test_a_field_is_added_as_documented(tmp_path):
    """
    The diff in CONTRIBUTING applies, and changes the printed schema as it changes the declarations.
    """
    (change,) = re.findall(r"```diff\n(.*?)```", TEXTS["CONTRIBUTING.md"], re.DOTALL)
    shutil.copytree(
        HOUSE / "graphql", tmp_path / "graphql", ignore=shutil.ignore_patterns("node_modules")
    )
    (tmp_path / "tests" / "project").mkdir(parents=True)
    shutil.copy(HOUSE / "tests" / "project" / "test_api_schema.py", tmp_path / "tests" / "project")
    subprocess.run(["git", "apply", "-C1", "-"], cwd=tmp_path, input=change, text=True, check=True)
    path = {**os.environ, "PYTHONPATH": str(tmp_path / "graphql")}
    printed = subprocess.run(
        [sys.executable, "-m", "api.schema"],
        cwd=tmp_path,
        env=path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert printed.stdout == (tmp_path / "graphql" / "schema.graphql").read_text()
    assert printed.stdout != (HOUSE / "graphql" / "schema.graphql").read_text()
