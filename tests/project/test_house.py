"""The rules of the code: one clock, no I/O in the domain, and what no tracked file may contain."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from tracked import HOUSE, tracked

from app.core.locks import Lock

SOURCES = {
    ".".join(path.relative_to(root).with_suffix("").parts): path
    for root, folder in ((HOUSE, "app"), (HOUSE, "jobs"), (HOUSE / "graphql", "api"))
    for path in sorted((root / folder).rglob("*.py"))
}

LAYERS = tomllib.loads((HOUSE / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][
    0
]["layers"]


def test_every_module_stands_in_a_layer():
    """`make lint` checks the layers; a module that is in none of them could import anything."""
    named = {part for layer in LAYERS for part in layer.split(" | ")}
    outside = {
        module
        for module in SOURCES
        if not any(f"{module}.".startswith(f"{part}.") for part in named)
    }
    assert outside == {"app.__init__"}


def test_the_record_does_no_io():
    """The rules of the record import nothing that reads, writes or waits."""
    doors = {
        "psycopg",
        "httpx",
        "asyncio",
        "os",
        "socket",
        "subprocess",
        "pathlib",
        "structlog",
        "procrastinate",
    }
    for module, path in SOURCES.items():
        if module.startswith("app.domain."):
            words = set(re.findall(r"^(?:from|import) (\w+)", path.read_text(), re.MULTILINE))
            assert not words & doors, module


def test_there_is_one_clock():
    """Only the real clock, and the simulated one that lags behind it, read the time."""
    reading = re.compile(r"datetime\.(now|utcnow|today)\(|date\.today\(|time\.time\(|retry_in=")
    readers = {module for module, path in SOURCES.items() if reading.search(path.read_text())}
    assert readers == {"jobs.context", "app.simulation.clock"}


def test_one_module_has_the_sql_on_the_queues_tables():
    """The tables belong to Procrastinate; when it changes one, only this module changes."""
    named_by = {
        "jobs.queue_tables": "all of it",
        "app.database.advice": "names the queue's tables, in one grant for all of them",
        "app.simulation.clock": "gives the queue's fetch function simulated time in a rehearsal",
    }
    assert {
        module for module, path in SOURCES.items() if "procrastinate_" in path.read_text()
    } == set(named_by)
    striking = {
        module for module, path in SOURCES.items() if "operations.strikes" in path.read_text()
    }
    # The table of rights names every table.
    assert striking == {"jobs.queue_tables", "jobs.strikes", "app.database.rights"}


def test_one_module_names_the_time_zone():
    """Of all modules only the calendar names it; a constraint of the schema does, too."""
    assert {module for module, path in SOURCES.items() if "America/" in path.read_text()} == {
        "app.domain.calendar"
    }


def constants(path: Path) -> list[object]:
    """Return the numbers and texts of a module's code, without its docstrings."""
    tree = ast.parse(path.read_text())
    alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and id(node) not in alone
    ]


# Each 3, 14 or 15 that is neither the number of picks or questions nor that of a batch's days.
OTHER_NUMBERS = {
    "api.cache": {3},  # KiB
    "api.schema": {3},  # corrections of a checkpoint, as many as one may expect
    "app.database.sessions": {3},  # probes of a silent connection
    "app.domain.lost_answers": {3},  # the word "three times"
    "app.domain.verification.rules.declared_calendar": {3},  # days from a Friday to a Monday
    "app.domain.statistics": {3},  # points that a line needs
    "app.domain.text": {3},  # bytes that base64 writes at a time, escapes one around another
    "app.providers.llm": {3},  # errors in a list of errors
    "app.providers.rate_limiter": {3},  # requests in flight
    "app.simulation.faults": {15},  # minutes
    "app.database.migrations": {15},  # a version of Postgres
    "app.simulation.dividends": {3, 15},  # months of a quarter, the earliest third Friday
    "app.simulation.market": {3, 15},  # a day of January, dollars
    "app.simulation.provider_simulators": {3},  # percent
    "app.web.charts.batch_chart": {3},  # pixels
    "app.web.charts.layout": {14},  # pixels
    "app.web.feeds.downloads": {3},  # exports at once
    "app.web.charts.record_charts": {14},  # pixels
    "app.web.pages.score_text": {15},  # basis points
    "jobs.messages": {15},  # seconds
    "jobs.queue": {15},  # hours
}


def test_the_numbers_of_a_batch_are_written_once():
    """
    The numbers of picks, questions and days are defined in `app/domain/model.py`, and imported from
    there.
    """
    numbers = {
        module: used
        for module, path in SOURCES.items()
        if (used := {value for value in constants(path) if type(value) is int} & {3, 14, 15})
    }
    assert numbers == {"app.domain.model": {3, 14}, **OTHER_NUMBERS}
    in_sql = re.compile(r"\(1, 1[45]\)|= 1[45]\b")
    for module, path in SOURCES.items():
        assert not [
            text for text in constants(path) if isinstance(text, str) and in_sql.search(text)
        ], module


def test_the_form_of_a_ticker_is_written_once():
    """Settings, answers and the operator's commands share one definition."""
    forms = [
        module
        for module, path in SOURCES.items()
        for text in constants(path)
        if "A-Z]{" in str(text)
    ]
    assert forms == ["app.domain.model"]


def test_a_text_is_cleaned_in_one_module():
    """`app/domain/text.py` puts texts on one line, and makes them printable or storable."""
    patterns = (
        r"\.join\(str\(\w+\)\.split",
        r"isprintable\(\) else",
        r"splitlines\(\)\[0\]",
        "surrogatepass",
        r"\"\*{3}\"",
    )
    cleaning = re.compile("|".join(patterns))
    others = {
        "api.persisted",  # the SHA-256 of any text
        "app.domain.journal",  # the order of members in RFC 8785
    }
    modules = {module for module, path in SOURCES.items() if cleaning.search(path.read_text())}
    assert modules == {"app.domain.text", *others}


def test_graphql_is_a_source_root():
    """The folder never shadows graphql-core."""
    import graphql

    assert "site-packages" in str(graphql.__file__)
    assert not (HOUSE / "graphql" / "__init__.py").exists()
    assert not list((HOUSE / "tests").rglob("__init__.py"))
    done = subprocess.run(
        [sys.executable, "-c", "import strawberry, api.schema"], cwd=HOUSE, check=False
    )
    assert done.returncode == 0


def test_no_tracked_file_names_a_registry_or_a_machine():
    """
    Lock files have hashes and no addresses, and no file names the machine on which it was made.
    """
    words = (
        "py" + "pi.org",
        "python" + "hosted",
        "registry." + "npm",
        "deb." + "debian",
        "/wo" + "rk/",
        "/ro" + "ot/",
    )
    for path in tracked():
        text = path.read_text(errors="replace")
        assert not [word for word in words if word in text], path


@pytest.mark.parametrize(
    "lock",
    [
        "requirements.lock",
        "requirements-dev.lock",
        "dev/audit/requirements.lock",
        "dev/image/requirements.lock",
        "dev/universe/requirements.lock",
    ],
)
def test_locks_pin_everything_by_hash(lock):
    """Every requirement has a version and a hash, and every direct one is in the lock file."""
    text = (HOUSE / lock).read_text()
    pinned = re.findall(r"^([a-z0-9-]+)(?:\[[\w,]+\])?==", text, re.MULTILINE)
    assert len(pinned) == len(re.findall(r"^\S", text, re.MULTILINE))
    assert text.count("--hash=sha256:") >= len(pinned)
    required = re.findall(
        r'^    "([a-z0-9-]+)',
        (HOUSE / "pyproject.toml").read_text().split("[project.scripts]")[0],
        re.MULTILINE,
    )
    source = (HOUSE / lock).with_suffix(".in")
    listed = (
        re.findall(r"^([a-z0-9-]+)==", source.read_text(), re.MULTILINE)
        if source.exists()
        else required
    )
    wanted = {"requirements.lock": required[: required.index("editables")]}
    assert set(wanted.get(lock, listed)) <= set(pinned)


@pytest.mark.parametrize(
    "lock", ["dev/audit/package-lock.json", "graphql/api/graphiql/package-lock.json"]
)
def test_npm_locks_pin_everything_by_hash(lock):
    """Every package has a version and a hash, and none has an address."""
    ours, *packages = json.loads((HOUSE / lock).read_text())["packages"].items()
    assert all(
        re.fullmatch(r"[\d.]+", version)
        for of in ("dependencies", "devDependencies")
        for version in ours[1].get(of, {}).values()
    )
    for name, package in packages:
        assert package["version"], name
        assert package["integrity"].startswith("sha512-"), name
        assert "resolved" not in package, name


def test_nothing_is_called_utils():
    """A module's name says what it is about."""
    vague = {"utils", "lib", "services", "common", "base", "helpers", "manager"}
    assert not vague & {part for module in SOURCES for part in module.split(".")}


def test_the_map_in_the_architecture_page_is_true():
    """Every folder and file of the map exists."""
    page = (HOUSE / "docs" / "architecture.md").read_text()
    lines = re.findall(
        r"^( *)([\w./]+)(?:  |$)", re.search(r"```\n(app/.*?)```", page, re.DOTALL)[1], re.MULTILINE
    )
    assert len(lines) > 20
    folders = [HOUSE]
    for indent, name in lines:
        del folders[len(indent) // 2 + 1 :]
        path = folders[-1] / name
        assert path.is_dir() if name.endswith("/") else path.is_file(), path
        folders.append(path)


def test_the_numbers_of_the_advisory_locks_never_change():
    """
    Two versions exclude each other by these numbers during a deployment. One module has all numbers
    of a database.
    """
    numbers = {
        "MIGRATIONS": 4021970431,
        "RATE_LIMITER": 4021970432,
        "JOURNAL": 4021970433,
        "RECONCILIATION": 4021970434,
        "SIMULATED_CLOCK": 4021970435,
        "QUOTA_ALERT": 4021970436,
    }
    assert {name: lock.value for name, lock in Lock.__members__.items()} == numbers
    assert len(set(numbers.values())) == len(numbers)
    assert Lock.RATE_LIMITER.first_key == 1874486784
    lock_numbers = re.compile(r"advisory\w*\(\d|advisory.*\d{2}|4_?021_?970_?\d{3}")
    assert {
        module for module, path in SOURCES.items() if lock_numbers.search(path.read_text())
    } == {"app.core.locks"}
