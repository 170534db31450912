"""The house's rules: who may import whom, one clock, and what may not stand in a tracked file."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[1]
SOURCES = {
    ".".join(path.relative_to(root).with_suffix("").parts): path
    for root, folder in ((HOUSE, "app"), (HOUSE, "jobs"), (HOUSE / "graphql", "api"))
    for path in sorted((root / folder).rglob("*.py"))
}

# Who may import which of our parts; a part may always import itself. `*` is everything.
MAY_IMPORT = {
    "app.errors": set(),
    "app.settings": {"app.errors"},
    "app.logs": {"app.errors", "app.record"},
    "app.tools": {"app.record", "app.providers", "app.errors"},
    "app.record": {"app.errors"},
    "app.store": {"app.record", "app.errors"},
    "app.providers": {"app.record", "app.errors"},
    "app.database": {"app.errors"},
    "api": {"app.record"},
    "app.pages": {"app.record", "api"},
    "jobs.queue": {
        "app.record",
        "app.store",
        "app.providers",
        "app.database",
        "app.tools",
        "app.errors",
        "app.settings",
        "app.logs",
    },
    "jobs": {"app.record", "app.store", "app.providers", "app.database", "app.tools", "app.errors"},
    "app.follow": {"app.record", "app.pages", "app.errors", "api"},
    "app.rehearsal": {"*"},
    "app.tables": {"app.database", "app.record", "app.store", "app.errors"},
    "app.verify": {"app.record", "app.store", "app.database", "app.errors"},
    "app.backup": {"app.store", "app.database", "app.verify", "app.errors", "jobs"},
    "app.operate": {
        "app.backup",
        "app.record",
        "app.store",
        "app.providers",
        "app.database",
        "app.tools",
        "app.tables",
        "app.settings",
        "app.errors",
        "app.follow",
        "api",
        "jobs",
        "jobs.queue",
    },
    "app.requests": {"api"},
    "app.survey": {"app.record", "app.store", "app.providers", "app.database", "jobs"},
    "app.metrics": {
        "app.record",
        "app.providers",
        "app.database",
        "app.requests",
        "app.survey",
        "api",
        "jobs",
        "jobs.queue",
    },
    "app.main": {"*"},
    "app.cli": {"*"},
}
# Who may be imported by whom only.
IMPORTED_BY = {
    "app.rehearsal": {"app.cli"},
    "app.tables": {"app.cli", "app.operate"},
    "app.operate": {"app.cli"},
    "app.pages": {"app.main", "app.follow"},
    "app.verify": {"app.cli", "app.backup"},
    "app.backup": {"app.operate"},
    "app.requests": {"app.metrics", "app.main"},
    "app.survey": {"app.metrics", "app.main"},
    "app.metrics": {"app.main"},
    "app.main": {"app.cli"},
    "app.cli": set(),
}


def part_of(module: str) -> str:
    """Return the part of the house that a module belongs to."""
    parts = [part for part in (*MAY_IMPORT, "app") if module == part or module.startswith(f"{part}.")]
    return max(parts, key=len, default="")


def imports_of(path: Path) -> set[str]:
    """Return the modules of ours that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if part_of(name)}


@pytest.mark.parametrize("module", [name for name in SOURCES if part_of(name) != "app"])
def test_imports(module):
    """Jobs write, graphql reads, app knows."""
    part = part_of(module)
    for imported in imports_of(SOURCES[module]):
        other = part_of(imported)
        inside = other == part or other.split(".")[0] == part == "jobs" or (part == "jobs.queue" and other == "jobs")
        assert inside or {"*", other} & MAY_IMPORT[part], f"{module} may not import {imported}"
        assert part in IMPORTED_BY.get(other, {part}) | {other}, f"{imported} may not be imported by {module}"


def test_the_record_does_no_io():
    """The law imports nothing that reads, writes or waits."""
    doors = {"psycopg", "httpx", "asyncio", "os", "socket", "subprocess", "pathlib", "structlog", "procrastinate"}
    for module, path in SOURCES.items():
        if part_of(module) == "app.record":
            words = set(re.findall(r"^(?:from|import) (\w+)", path.read_text(), re.MULTILINE))
            assert not words & doors, module


def test_there_is_one_clock():
    """Only the real clock, and the told one that lags behind it, ask what time it is."""
    asking = re.compile(r"datetime\.(now|utcnow|today)\(|date\.today\(|time\.time\(|retry_in=")
    asked_by = {module for module, path in SOURCES.items() if asking.search(path.read_text())}
    assert asked_by == {"app.tools", "app.rehearsal.told"}


def test_one_module_names_the_time_zone():
    """New York is the calendar's word; a constraint of the schema is the one other place."""
    assert {module for module, path in SOURCES.items() if "America/" in path.read_text()} == {"app.record.calendar"}


def test_graphql_is_a_source_root():
    """The folder never shadows graphql-core."""
    import graphql

    assert "site-packages" in str(graphql.__file__)
    assert not (HOUSE / "graphql" / "__init__.py").exists()
    assert not list((HOUSE / "tests").rglob("__init__.py"))
    done = subprocess.run([sys.executable, "-c", "import strawberry, api.types"], cwd=HOUSE, check=False)
    assert done.returncode == 0


def tracked() -> list[Path]:
    """Return the files that git tracks or would; in an unpacked archive, all but what a build leaves."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=HOUSE, capture_output=True, text=True, check=False
    )
    if listed.returncode == 0:
        return [path for name in listed.stdout.splitlines() if (path := HOUSE / name).is_file()]
    built = {".venv", ".alpha-monday", "__pycache__", "node_modules", "generated", "shots"}
    return [path for path in HOUSE.rglob("*") if path.is_file() and not built & set(path.parts)]


def test_no_tracked_file_names_a_registry_or_a_machine():
    """Lock files carry hashes and no addresses; nothing names where it was made."""
    words = ("py" + "pi.org", "python" + "hosted", "registry." + "npm", "deb." + "debian", "/wo" + "rk/", "/ro" + "ot/")
    for path in tracked():
        text = path.read_text(errors="replace")
        assert not [word for word in words if word in text], path


@pytest.mark.parametrize(
    "lock", ["requirements.lock", "requirements-dev.lock", "dev/audit/requirements.lock", "dev/image/requirements.lock"]
)
def test_locks_pin_everything_by_hash(lock):
    """Every requirement has a version and a hash, and the lock knows what is asked for."""
    text = (HOUSE / lock).read_text()
    pinned = re.findall(r"^([a-z0-9-]+)(?:\[[\w,]+\])?==", text, re.MULTILINE)
    assert len(pinned) == len(re.findall(r"^\S", text, re.MULTILINE))
    assert text.count("--hash=sha256:") >= len(pinned)
    asked = re.findall(
        r'^    "([a-z0-9-]+)', (HOUSE / "pyproject.toml").read_text().split("[project.scripts]")[0], re.MULTILINE
    )
    source = (HOUSE / lock).with_suffix(".in")
    listed = re.findall(r"^([a-z0-9-]+)==", source.read_text(), re.MULTILINE) if source.exists() else asked
    wanted = {"requirements.lock": asked[: asked.index("editables")]}
    assert set(wanted.get(lock, listed)) <= set(pinned)


@pytest.mark.parametrize("lock", ["dev/audit/package-lock.json", "graphql/api/graphiql/package-lock.json"])
def test_npm_locks_pin_everything_by_hash(lock):
    """Every package has a version and a hash, and none an address."""
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


def test_the_map_in_the_readme_is_true():
    """Every folder and file that the map of the house names is there."""
    readme = (HOUSE / "README.md").read_text()
    house = re.search(r"```\n(app/.*?)```", readme, re.DOTALL)
    assert house
    at = HOUSE
    for line in house[1].splitlines():
        names = re.match(r"( *)((?:[\w.*/]+ ?)+?)(?:  |$)", line)
        assert names, line
        for name in names[2].split():
            at_root = not names[1]
            folder = HOUSE if at_root else at
            assert list(folder.glob(name.rstrip("/"))), f"{name} is not in {folder.name}"
            if at_root and name.endswith("/"):
                at = HOUSE / name
