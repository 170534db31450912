"""
The pages for operators agree with the code: commands, settings, links, files, and numbers that can
be counted.
"""

import ast
import re
from collections.abc import Iterator

import click
import httpx
import pytest
from document_text import (
    HOUSE,
    anchors,
    capital_words,
    commands,
    files,
    links,
    targets,
    unaccepted_argument,
)
from processes import query_rows, serving, until

from app.commands.cli import group
from app.core.settings import Settings
from app.database import migrations
from app.domain.model import FailureReason, SkipReason
from app.providers import head_repository
from app.web.feeds import downloads
from jobs.reconcile import ReconcileResult

OPS = HOUSE / "docs" / "operate"
PAGES = {path.name: path.read_text() for path in sorted(OPS.glob("*.md"))}
LINKING = [path for folder in (OPS, HOUSE / "docs", HOUSE) for path in sorted(folder.glob("*.md"))]

# Words in capitals that are no setting of ours: the record's reasons, what the reconciler repairs,
# and variables of other programs (of git: those that `app/providers/head_repository.py` passes on).
REASONS = {str(reason) for reason in (*FailureReason, *SkipReason)}
REPAIRED = {field.upper() for field in ReconcileResult.__struct_fields__}
GIT = {name.upper() for name in head_repository.INHERITED}
# Variables that the examples of SERIES_FILE name, with the keys of models.
MODEL_KEYS = set(re.findall(r'key_from = "(\w+)"', "".join(PAGES.values())))
OTHERS = {"FLY_API_TOKEN", "FLY_SSH_TOKEN", "RUN_DATE", "TIME_SERIES_DAILY"} | GIT | MODEL_KEYS

NAMES = (
    "SELECT application_name FROM pg_stat_activity WHERE datname = current_database() AND "
    "application_name <> ''"
)

page = pytest.mark.parametrize("name", PAGES)


@page
def test_every_command_can_be_given(name):
    """Each `alpha-monday ...` is a command with these options and arguments."""
    for command in commands(PAGES[name]):
        assert unaccepted_argument(command) is None, (
            f"{command.words}: {unaccepted_argument(command)}"
        )


@pytest.mark.parametrize(
    ("command", "why"),
    [
        pytest.param("`alpha-monday migrate --down 3`", "--down", id="an unknown option"),
        pytest.param(
            "`alpha-monday backup one.zip two.zip`", "too many arguments", id="an argument too many"
        ),
        pytest.param(
            '```\nfly ssh console -C "alpha-monday status --yaml"\n```',
            "--yaml",
            id="inside another",
        ),
        pytest.param(
            "`alpha-monday verify --head 8:3f --from https://example.org`",
            None,
            id="one that is right",
        ),
    ],
)
def test_a_wrong_command_is_found(command, why):
    """A part that no command accepts is named, wherever it is written."""
    (documented,) = commands(command)
    assert unaccepted_argument(documented) == why


def test_an_unknown_command_is_found():
    """A word that is not a command is refused."""
    with pytest.raises(AssertionError, match="alpha-monday jobs mend"):
        list(commands("`alpha-monday jobs mend 17`"))


@page
def test_every_target_exists(name):
    """Each `make ...` is a target of the Makefile."""
    known = set(re.findall(r"^([a-z-]+):", (HOUSE / "Makefile").read_text(), re.MULTILINE))
    assert targets(PAGES[name]) <= known


@page
def test_every_setting_exists(name):
    """Every word in the form of a setting is one, or is listed as something else."""
    settings = {setting.upper() for setting in Settings.__struct_fields__}
    assert capital_words(PAGES[name]) <= settings | REASONS | REPAIRED | OTHERS


def test_every_setting_is_documented():
    """The table of settings lists exactly the settings."""
    documented = [
        name
        for row in re.findall(r"^\| (.*?) \|", PAGES["settings.md"], re.MULTILINE)
        for name in re.findall(r"`([A-Z_]+)`", row)
    ]
    documented = [f"ALPHA_VANTAGE{name}" if name.startswith("_") else name for name in documented]
    assert {name.upper() for name in Settings.__struct_fields__} == set(documented)
    assert len(documented) == len(set(documented))


def test_every_command_is_documented():
    """The page on commands names each command, and each command of a group."""
    documented = {command.words for command in commands(PAGES["commands.md"])}
    every = set(leaves("alpha-monday", group))
    assert {
        name
        for name in every
        if not any(f"{words} ".startswith(f"{name} ") for words in documented)
    } == set()


def leaves(name: str, command: click.Command) -> Iterator[str]:
    """Return every command below a command, and the command itself if it can be used alone."""
    if not isinstance(command, click.Group) or command.invoke_without_command:
        yield name
    if isinstance(command, click.Group):
        for below, inner in command.commands.items():
            yield from leaves(f"{name} {below}", inner)


@pytest.mark.parametrize("path", LINKING, ids=lambda path: str(path.relative_to(HOUSE)))
def test_every_link_leads_somewhere(path):
    """Each link to a page or file of ours is valid, including its heading."""
    for file, anchor in links(path.read_text()):
        there = path.parent / file if file else path
        assert there.exists(), file
        assert not anchor or anchor in anchors(there.read_text()), f"{file}#{anchor}"


@page
def test_every_file_exists(name):
    """Every word in the form of a file of ours is one, relative to the page or to the top."""
    missing = {
        file
        for file in files(PAGES[name])
        if not any((root / file).exists() for root in (OPS, HOUSE))
    }
    assert missing == set()


def test_the_index_names_every_page():
    """README.md links every page of the folder."""
    linked = {file for file, _ in links(PAGES["README.md"])}
    assert set(PAGES) - {"README.md"} <= linked


def test_the_way_back_over_every_migration_is_documented():
    """The page on upgrades says what taking back each later migration deletes."""
    documented = set(re.findall(r"^\| `(\d{4}) (\w+)`", PAGES["upgrade.md"], re.MULTILINE))
    latest = {
        (f"{step.number:04}", step.name)
        for step in migrations.load_migrations()
        if step.number >= 6
    }
    assert documented == latest


def test_what_needs_no_coordination_is_named_right():
    """Each constraint that the page on several machines names exists."""
    section = PAGES["scale.md"].split("## What needs no coordination")[1]
    named = set(re.findall(r"`(one_\w+)`", section))
    schema = "".join(step.up for step in migrations.load_migrations())
    assert len(named) == 3
    assert {name for name in named if f"CONSTRAINT {name} " in schema} == named


def test_the_connections_of_a_server_are_counted_right(database, tmp_path):
    """
    A real server has exactly the pools that the page on several machines counts, with their sizes.
    """
    with serving(tmp_path, DATABASE_URL=database, API_CONNECTIONS="8") as server:
        metrics = httpx.get(f"{server.address}/metrics").text
        limits = dict(
            re.findall(
                r'^alpha_monday_pool_limit_connections\{pool="(\w+)"\} (\d+)', metrics, re.MULTILINE
            )
        )
        expected = {f"alpha-monday {name}" for name in (*limits, "announcements", "metrics")}
        until(lambda: {name for (name,) in query_rows(database, NAMES)} == expected, 20)
    for name, size in limits.items():
        assert re.search(rf"of {size} for [^(]*\(`{name}`\)", PAGES["scale.md"]), name
    (most,) = re.findall(
        r"^\| `alpha-monday serve` \|.* (\d+) \|$", PAGES["scale.md"], re.MULTILINE
    )
    # Beside these pools one connection listens, one is for `/metrics`, and each export has one.
    assert int(most) == sum(map(int, limits.values())) + 2 + downloads.MAX_EXPORTS


def _problem_events() -> set[str]:
    """
    Return the events that the code logs as warnings or errors.

    An event is a text, or a variable whose values are texts of the same function.
    """
    events: set[str] = set()
    for folder in ("app", "jobs", "graphql/api"):
        for path in sorted((HOUSE / folder).rglob("*.py")):
            for function in ast.walk(ast.parse(path.read_text())):
                if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                    events |= _events_of(function)
    return events


def _events_of(function: ast.AST) -> set[str]:
    """Return the events that one function logs as warnings or errors."""
    logged: set[str] = set()
    texts: dict[str, set[str]] = {}
    for node in ast.walk(function):
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=str(text))):
                texts.setdefault(name, set()).add(text)
    for node in ast.walk(function):
        match node:
            case ast.Call(
                func=ast.Attribute(
                    value=ast.Name(id="log"), attr="warning" | "error" | "exception" | "critical"
                ),
                args=[event, *_],
            ):
                match event:
                    case ast.Constant(value=str(text)):
                        logged.add(text)
                    case ast.Name(id=name) if name in texts:
                        logged |= texts[name]
                    case _:
                        raise AssertionError(f"line {node.lineno}: the event is no text")
    return logged


def test_the_log_page_has_every_warning_and_error():
    """Each event of these levels is in one of the page's first two tables, and no other event."""
    _, tables = PAGES["log.md"].split("### Warnings")
    tables, _ = tables.split("### Other lines that help")
    on_the_page = re.findall(r"^\| `(.*?)` \|", tables, re.MULTILINE)
    assert set(on_the_page) == _problem_events()
    assert len(on_the_page) == len(set(on_the_page))
