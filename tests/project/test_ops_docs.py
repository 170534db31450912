"""What the operator's pages say, holds: their commands, settings, links, files, and the numbers that can be counted."""

import re
from collections.abc import Iterator

import click
import httpx
import pytest
from pages import HOUSE, anchors, commands, files, links, misfit, shouted, targets
from processes import asked, serving, until

from app.commands.cli import group
from app.core.settings import Settings
from app.database import migrations
from app.domain.model import FailureReason, SkipReason
from app.web.feeds import downloads
from jobs.reconcile import Mended

OPS = HOUSE / "docs" / "operate"
PAGES = {path.name: path.read_text() for path in sorted(OPS.glob("*.md"))}
LINKING = [path for folder in (OPS, HOUSE / "docs", HOUSE) for path in sorted(folder.glob("*.md"))]

# Words in capitals that are no setting of ours: the record's reasons, what upkeep mends, and others' words.
REASONS = {str(reason) for reason in (*FailureReason, *SkipReason)}
MENDED = {field.upper() for field in Mended.__struct_fields__}
OTHERS = {"FLY_API_TOKEN", "FLY_SSH_TOKEN", "RUN_DATE", "TIME_SERIES_DAILY"}

NAMES = "SELECT application_name FROM pg_stat_activity WHERE datname = current_database() AND application_name <> ''"

page = pytest.mark.parametrize("name", PAGES)


@page
def test_every_command_can_be_given(name):
    """Each `alpha-monday ...` exists, with its options, and takes as many arguments."""
    for written in commands(PAGES[name]):
        assert misfit(written) is None, f"{written.words}: {misfit(written)}"


@pytest.mark.parametrize(
    ("written", "why"),
    [
        pytest.param("`alpha-monday migrate --down 3`", "--down", id="an option that is none"),
        pytest.param("`alpha-monday backup one.zip two.zip`", "too many arguments", id="an argument too many"),
        pytest.param('```\nfly ssh console -C "alpha-monday status --yaml"\n```', "--yaml", id="inside another"),
        pytest.param("`alpha-monday verify --head 8:3f --from https://example.org`", None, id="one that is right"),
    ],
)
def test_a_wrong_command_is_found(written, why):
    """What no command takes is named, wherever it is written."""
    (found,) = commands(written)
    assert misfit(found) == why


def test_a_command_that_is_none_is_found():
    """A word that names no command is refused."""
    with pytest.raises(AssertionError, match="alpha-monday jobs mend"):
        list(commands("`alpha-monday jobs mend 17`"))


@page
def test_every_target_exists(name):
    """Each `make ...` is one of the Makefile's."""
    known = set(re.findall(r"^([a-z-]+):", (HOUSE / "Makefile").read_text(), re.MULTILINE))
    assert targets(PAGES[name]) <= known


@page
def test_every_setting_exists(name):
    """Whatever is written like a setting is one, or known to be something else."""
    settings = {setting.upper() for setting in Settings.__struct_fields__}
    assert shouted(PAGES[name]) <= settings | REASONS | MENDED | OTHERS


def test_every_setting_is_told():
    """The table of settings and the settings are the same."""
    told = [
        name
        for row in re.findall(r"^\| (.*?) \|", PAGES["settings.md"], re.MULTILINE)
        for name in re.findall(r"`([A-Z_]+)`", row)
    ]
    told = [f"ALPHA_VANTAGE{name}" if name.startswith("_") else name for name in told]
    assert {name.upper() for name in Settings.__struct_fields__} == set(told)
    assert len(told) == len(set(told))


def test_every_command_is_told():
    """The page on commands names each command, and each command of a group."""
    told = {written.words for written in commands(PAGES["commands.md"])}
    every = set(leaves("alpha-monday", group))
    assert {name for name in every if not any(f"{words} ".startswith(f"{name} ") for words in told)} == set()


def leaves(name: str, command: click.Command) -> Iterator[str]:
    """Return every command below one, and the one itself if it can be given alone."""
    if not isinstance(command, click.Group) or command.invoke_without_command:
        yield name
    if isinstance(command, click.Group):
        for below, inner in command.commands.items():
            yield from leaves(f"{name} {below}", inner)


@pytest.mark.parametrize("path", LINKING, ids=lambda path: str(path.relative_to(HOUSE)))
def test_every_link_leads_somewhere(path):
    """Each link to a page or file of ours is good, down to the heading."""
    for file, anchor in links(path.read_text()):
        there = path.parent / file if file else path
        assert there.exists(), file
        assert not anchor or anchor in anchors(there.read_text()), f"{file}#{anchor}"


@page
def test_every_file_exists(name):
    """Whatever is written like a file of ours is one, seen from the page or from the top."""
    missing = {file for file in files(PAGES[name]) if not any((root / file).exists() for root in (OPS, HOUSE))}
    assert missing == set()


def test_the_index_names_every_page():
    """Nobody has to look into the folder to find a page."""
    linked = {file for file, _ in links(PAGES["README.md"])}
    assert set(PAGES) - {"README.md"} <= linked


def test_the_way_back_over_every_migration_is_told():
    """The page on upgrades says of each later migration what taking it back deletes."""
    told = set(re.findall(r"^\| `(\d{4}) (\w+)`", PAGES["upgrade.md"], re.MULTILINE))
    latest = {(f"{step.number:04}", step.name) for step in migrations.known() if step.number >= 6}
    assert told == latest


def test_what_needs_no_coordination_is_named_right():
    """Each constraint that the page on several machines leans on is there."""
    section = PAGES["scale.md"].split("## What needs no coordination")[1]
    named = set(re.findall(r"`(one_\w+)`", section))
    schema = "".join(step.up for step in migrations.known())
    assert len(named) == 3
    assert {name for name in named if f"CONSTRAINT {name} " in schema} == named


def test_the_connections_of_a_server_are_counted_right(database, tmp_path):
    """A real server has the pools that the page on several machines adds up, in name and size, and no others."""
    with serving(tmp_path, DATABASE_URL=database, API_CONNECTIONS="8") as server:
        told = httpx.get(f"{server.told}/metrics").text
        limits = dict(re.findall(r'^alpha_monday_pool_limit_connections\{pool="(\w+)"\} (\d+)', told, re.MULTILINE))
        expected = {f"alpha-monday {name}" for name in (*limits, "announcements", "metrics")}
        until(lambda: {name for (name,) in asked(database, NAMES)} == expected, 20)
    for name, size in limits.items():
        assert re.search(rf"of {size} for [^(]*\(`{name}`\)", PAGES["scale.md"]), name
    (most,) = re.findall(r"^\| `alpha-monday serve` \|.* (\d+) \|$", PAGES["scale.md"], re.MULTILINE)
    # Beside these pools one connection listens, one is for `/metrics`, and each export has one.
    assert int(most) == sum(map(int, limits.values())) + 2 + downloads.MOST_AT_ONCE
