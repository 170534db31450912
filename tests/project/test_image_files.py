"""
Which files get into the image, and into the wheel, computed without an engine.

The kind: any file that is not a part of the program. `dev/image/planted.py` has the members that
are tried here, and by `make image-test` in an image: keys and settings in each folder and at the
top, in capitals, hidden, nested, editors' copies, copies of a database, local modules, with the
ending of a part of the program, and links that lead outside.
"""

import importlib.util
import io
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from tracked import tracked as tracked_files

HOUSE = Path(__file__).parents[2]
IMAGE = HOUSE / "dev" / "image"


def module(name: str):
    """Return a module of dev/image, which is not a package."""
    spec = importlib.util.spec_from_file_location(name, IMAGE / f"{name}.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture(scope="module")
def context():
    return module("context")


@pytest.fixture(scope="module")
def planted(context):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "context", context)
        return module("planted")


@pytest.fixture(scope="module")
def checkout(planted, tmp_path_factory) -> Path:
    """A copy of the files from which an image is built, with all planted files in it."""
    folder = tmp_path_factory.mktemp("image")
    planted.copy_checkout(HOUSE, folder / "checkout", (*planted.NEEDED, ".gitignore"))
    planted.plant(folder / "checkout", folder / "outside", "planted")
    return folder / "checkout"


def let_in(house: Path, path: str) -> bool:
    """
    Return whether a file goes into the build, as engines read .dockerignore: the last line that
    fits decides.

    Docker, BuildKit, flyctl (moby's patternmatcher) and buildah (containers/storage's fileutils)
    agree on that. They differ in wildcards inside of a path: there are none, as a test below shows.
    """
    inside = True
    for line in (house / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        if (
            line
            and not line.startswith("#")
            and (pattern in ("*", "**/*") or f"{path}/".startswith(f"{pattern}/"))
        ):
            inside = line.startswith("!")
    return inside


def files(house: Path) -> set[str]:
    """Return the files and links of a checkout, and the contents of its links to folders."""
    folders = os.walk(house, followlinks=True)
    return {
        str(Path(root, name).relative_to(house)) for root, _, names in folders for name in names
    }


def test_the_list_is_what_git_tracks(context):
    """
    A file of the program that is new, renamed or gone changes the list. An archive has no git.
    """
    program = (
        context.program_files(HOUSE) if (HOUSE / ".git").exists() else context.read_list(HOUSE)
    )
    assert context.LIST.read_text() == context.make_list(program), "run: make image-files"
    assert all((HOUSE / name).is_file() for name in program)


def test_the_context_is_the_list(context, checkout):
    """From a checkout with planted files, only the program goes into the build."""
    inside = {name for name in files(checkout) if let_in(checkout, name)}
    assert inside == set(context.read_list(HOUSE))
    assert "app/main.py" in inside
    assert "migrations/0001_record.up.sql" in inside


def test_no_planted_file_is_a_part_of_the_program(context, planted):
    """Otherwise it would replace that part in the copy, and test nothing."""
    assert not set(context.read_list(HOUSE)) & {*planted.FILES, *planted.LINKS}


@pytest.mark.parametrize(
    "path",
    [
        *(
            "app/secrets.env",
            "jobs/prod.toml",
            "graphql/api/id_rsa",
            "app/secrets.py",
            "App/main.py",
            "APP/SECRETS.PY",
        ),
        *(
            ".git/config",
            ".alpha-monday/postgres/data/base",
            ".venv/bin/python",
            ".gitignore",
            "fly.toml",
            "x/app/main.py",
        ),
        *(
            "app/main.py.bak",
            "app/main.pyc",
            "app/__pycache__/main.cpython-313.pyc",
            "docs/images/home-light.png",
        ),
        *(
            "graphql/api/graphiql/node_modules/react/LICENSE",
            "migrations/0001_record.up.sql.orig",
            "dev/image/smoke.py",
        ),
    ],
)
def test_what_stays_out_of_the_build(path):
    """Secrets, the git history, build results, and files that the service does not need."""
    assert not let_in(HOUSE, path)


def test_engines_cannot_read_the_list_in_two_ways(context):
    """The first line excludes everything. Then come only names, without any pattern."""
    lines = [line for line in context.LIST.read_text().splitlines() if not line.startswith("#")]
    assert lines[:2] == ["*", "**/*"]
    assert all(re.fullmatch(r"![A-Za-z0-9_./-]+", line) for line in lines[2:])
    assert not [
        line for line in lines if ".." in line or "//" in line or line.startswith(("!/", "!./"))
    ]


def test_every_engine_reads_one_file():
    """
    Podman asks for .containerignore first, docker and flyctl know .dockerignore only.

    A link from one to the other would become a file without patterns where a checkout has no links
    (git on Windows, some archives), and podman would then take every file.
    """
    context = module("context")
    context.check_list(HOUSE)
    assert not [name for name in context.OTHER_IGNORE_FILES if os.path.lexists(HOUSE / name)]


@pytest.mark.parametrize(
    "name", [".containerignore", "Containerfile.dockerignore", "Containerfile.containerignore"]
)
def test_another_list_is_refused(context, tmp_path, name):
    """A file that an engine would read first is named before the build."""
    (tmp_path / ".dockerignore").write_text("*\n")
    (tmp_path / name).write_text(".dockerignore\n")
    with pytest.raises(context.ContextError, match=f"would read {re.escape(name)} in place of"):
        context.check_list(tmp_path)


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("gone", "is missing"),
        ("folder", "is no file any more"),
        ("link", "is no file any more"),
        ("dangling", "is no file"),
    ],
)
def test_a_listed_name_that_is_no_file_is_refused(context, tmp_path, kind, why):
    """An engine would copy a folder of that name, and the image would lack a file."""
    (tmp_path / ".dockerignore").write_text(context.make_list(["main.py"]))
    if kind == "folder":
        (tmp_path / "main.py").mkdir()
    elif kind != "gone":
        (tmp_path / "main.py").symlink_to("/etc/hostname" if kind == "link" else "nowhere")
    with pytest.raises(context.ContextError, match=f"main.py {why}"):
        context.check_list(tmp_path)


def test_a_missing_list_is_refused(context, tmp_path):
    """Without a list every file would go in."""
    with pytest.raises(context.ContextError, match=r"\.dockerignore is missing"):
        context.check_list(tmp_path)


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", "-C", str(folder), *arguments], check=True, capture_output=True)


@pytest.fixture
def tracked(tmp_path, context) -> Path:
    """A repository with two files of a program."""
    git(tmp_path, "init")
    for name in ("app/main.py", "jobs/weekly.py"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    git(tmp_path, "add", ".")
    return tmp_path


def test_what_git_does_not_track_is_not_listed(context, tracked):
    """
    Neither a local module nor a deleted file is listed.

    A change that is not committed has no effect.
    """
    (tracked / "app" / "secrets.py").touch()
    (tracked / "app" / "main.py").write_text("changed = True\n")
    (tracked / "jobs" / "weekly.py").unlink()
    assert context.program_files(tracked) == ["app/main.py"]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        pytest.param("app/id_rsa", "does not end as a file of the program does", id="a key"),
        pytest.param("jobs/prod.env", "does not end as a file of the program does", id="settings"),
        pytest.param(
            "app/server.PEM", "does not end as a file of the program does", id="in capitals"
        ),
        *(
            pytest.param(
                f"app/{name}",
                "has a letter in its name that an engine may read in another way",
                id=what,
            )
            for name, what in {
                "a*.py": "a star in the name",
                "a b.py": "a space",
                "a.py ": "a space at the end",
                "a\n!b.py": "a line's end",
                "a.py\r": "a carriage return",
                "a\\b.py": "a backslash",
                "#a.py": "a comment's sign",
                "prüfung.py": "a letter that is not English",
                "a\udcff.py": "a byte that is no letter",
            }.items()
        ),
    ],
)
def test_a_tracked_file_that_is_no_part_is_refused(context, tracked, name, why):
    """A key that was added to git by mistake is named before it is in the list."""
    (tracked / name).touch()
    git(tracked, "add", "--force", name)
    with pytest.raises(context.ContextError, match=re.escape(why)) as refused:
        context.program_files(tracked)
    assert ascii(name)[1:-1] in str(refused.value)
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("target", ["/etc/hostname", "main.py", "../jobs", "nowhere"])
def test_a_tracked_link_is_refused(context, tracked, target):
    """
    Engines differ in whether they follow it: to a file outside or inside, to a folder, to nothing.
    """
    (tracked / "app" / "keys.py").symlink_to(target)
    git(tracked, "add", ".")
    with pytest.raises(context.ContextError, match=r"app/keys\.py is a symbolic link"):
        context.program_files(tracked)


def test_a_repository_of_its_own_is_refused(context, tracked):
    """Of a submodule git lists only the folder: its files would be missing in the image."""
    part = tracked / "app" / "part"
    git(tracked, "init", str(part))
    git(
        part,
        "-c",
        "user.name=A",
        "-c",
        "user.email=a@localhost",
        "commit",
        "--allow-empty",
        "--message=Begin",
    )
    git(tracked, "add", "app/part")
    with pytest.raises(context.ContextError, match="app/part is a repository of its own"):
        context.program_files(tracked)


def test_a_hidden_file_is_not_listed(context, tracked):
    """Nor a file in a hidden folder: no part of the program is hidden."""
    for name in ("app/.keys.json", "app/.old/main.py"):
        (tracked / name).parent.mkdir(exist_ok=True)
        (tracked / name).touch()
    git(tracked, "add", "--force", ".")
    assert context.program_files(tracked) == ["app/main.py", "jobs/weekly.py"]


def test_a_file_is_listed_once_while_a_merge_is_under_way(context, tracked):
    """Git then lists a file that both sides changed three times."""
    git(tracked, "config", "user.name", "A")
    git(tracked, "config", "user.email", "a@localhost")
    git(tracked, "commit", "--message=Begin")
    for branch, content in (("one", "1"), ("two", "2")):
        git(tracked, "checkout", "-b", branch, "HEAD~1" if branch == "two" else "HEAD")
        (tracked / "app" / "main.py").write_text(content)
        git(tracked, "commit", "--all", f"--message={branch}")
    with pytest.raises(subprocess.CalledProcessError):
        git(tracked, "merge", "one")
    assert context.program_files(tracked) == ["app/main.py", "jobs/weekly.py"]


def test_another_repository_in_the_environment_is_not_used(
    context, tracked, tmp_path_factory, monkeypatch
):
    """In a git hook, GIT_DIR names another repository."""
    other = tmp_path_factory.mktemp("other")
    git(other, "init")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", "nothing")
    assert context.program_files(tracked) == ["app/main.py", "jobs/weekly.py"]


@pytest.mark.parametrize(
    ("folder", "path", "why"),
    [
        pytest.param("none", None, "git cannot list the files", id="no folder"),
        pytest.param(
            "inside", None, "git tracks no file of the program", id="unpacked in another repository"
        ),
        pytest.param(".", "/nowhere", "git is missing", id="no git"),
    ],
)
def test_without_git_the_list_is_not_written(context, tracked, monkeypatch, folder, path, why):
    """One line says what is missing. An empty list would exclude the program from the image."""
    (tracked / "inside").mkdir()
    if path:
        monkeypatch.setenv("PATH", path)
    with pytest.raises(context.ContextError, match=why):
        context.program_files(tracked / folder)


def test_what_stays_out_is_named(context, checkout):
    """
    So an operator notices a module that was not added to git before it is missing in the image.
    """
    left_out = context.list_left_out(checkout)
    assert {"app/notes.py", "app/secrets.env", "jobs/prod.toml"} <= set(left_out)
    assert not set(left_out) & set(context.read_list(HOUSE))


def wheel(house: Path, to: Path) -> set[str]:
    """Return the names of the files in a wheel that is built from a checkout."""
    command = [
        sys.executable,
        "-I",
        "-m",
        "hatchling",
        "build",
        "--target=wheel",
        f"--directory={to}",
    ]
    subprocess.run(command, cwd=house, check=True, capture_output=True)
    (built,) = to.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        return set(archive.namelist())


def installed(name: str) -> str:
    """Return the path of a file of the program in the wheel."""
    path = (
        re.sub(r"^graphql/", "", name)
        if name.startswith("graphql/api/")
        else re.sub(r"^graphql/", "api/", name)
    )
    return re.sub(r"^migrations/", "app/database/migrations/", path)


# What a build needs, and the installed program does not.
FOR_THE_BUILD = {"graphql/api/graphiql/package.json", "graphql/api/graphiql/package-lock.json"}


def test_the_wheel_holds_the_program(context, tmp_path, planted):
    """Every file that goes into the build is installed."""
    planted.copy_checkout(HOUSE, tmp_path / "checkout")
    program = {name for name in context.read_list(HOUSE) if "/" in name} - {
        *FOR_THE_BUILD,
        "dev/image/requirements.lock",
    }
    held = wheel(tmp_path / "checkout", tmp_path / "dist")
    assert {name for name in held if ".dist-info/" not in name} == {
        installed(name) for name in program
    }


# Only the list of files distinguishes Python modules, style sheets and the like: a wheel that is
# built from the work tree itself, as no target does, would contain these.
LIKE_A_PART = {"app/notes.py", "app/secrets.py", "app/web/pages/templates/draft.html"}


def test_the_wheel_is_a_second_barrier(context, checkout, tmp_path, planted):
    """
    Built from a checkout with planted files, it has none whose name shows that it is no part of the
    program.
    """
    held = wheel(checkout, tmp_path / "dist")
    likely = {*planted.FILES, *planted.LINKS}
    got_in = {name for name in likely if installed(name) in held}
    assert got_in <= {
        name for name in likely if name.endswith((".py", ".html", ".graphql", ".up.sql"))
    }, got_in
    assert got_in >= LIKE_A_PART


def test_an_archive_of_the_source_holds_no_key(checkout, tmp_path):
    """`hatchling build` makes one beside the wheel: it follows the same rules."""
    command = [
        sys.executable,
        "-I",
        "-m",
        "hatchling",
        "build",
        "--target=sdist",
        f"--directory={tmp_path}",
    ]
    subprocess.run(command, cwd=checkout, check=True, capture_output=True)
    (built,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(built) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert not {
        name
        for name in names
        if re.search(r"(?i)secrets\.env|id_rsa|\.pem|\.bak|prod\.toml|credentials", name)
    }


def test_what_the_build_takes_is_named_once(context):
    """The folders of the list are the folders of the wheel."""
    project = tomllib.loads((HOUSE / "pyproject.toml").read_text())
    assert set(project["tool"]["hatch"]["build"]["only-include"]) == set(context.FOLDERS)


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    """A repository with our .gitignore, because this checkout may be an unpacked archive."""
    folder = tmp_path_factory.mktemp("ignored")
    git(folder, "init")
    (folder / ".gitignore").write_text((HOUSE / ".gitignore").read_text())
    return folder


def ignored(repository: Path, names: list[str]) -> list[str]:
    """Return the names that git would not add."""
    command = ["git", "-C", str(repository), "check-ignore", "--stdin"]
    done = subprocess.run(
        command, input="\n".join(names), capture_output=True, text=True, check=False
    )
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    "name",
    [
        *(
            ".env",
            "app/.env",
            ".env.local",
            "secrets.env",
            "app/secrets.env",
            "prod.env",
            "app/core/.secrets.toml",
        ),
        *(
            "app/core/settings.local.toml",
            "server.pem",
            "dev/server.key",
            "id_rsa",
            "jobs/id_ed25519",
            ".netrc",
        ),
        *(
            ".pgpass",
            ".pg_service.conf",
            "credentials.json",
            "service-account.json",
            "dump.sql",
            "today.zip",
        ),
        *(
            "backup.jsonl",
            "app/main.py.bak",
            "app/main.py~",
            "app/.main.py.swp",
            ".git-credentials",
            ".ssh/config",
        ),
    ],
)
def test_git_ignores(repository, name):
    """`git add .` does not add keys, copies of the record, or files of editors."""
    assert ignored(repository, [name]) == [name]


def test_git_ignores_no_part_of_the_project(repository):
    """No tracked file matches a pattern."""
    assert ignored(repository, [str(path.relative_to(HOUSE)) for path in tracked_files()]) == []


def saved(folder: Path, *layers: dict[str, bytes], description: str = "{}") -> Path:
    """Write an image in the format of `podman save`."""
    path = folder / "image.tar"
    with tarfile.open(path, "w") as image:
        parts = {"config.json": description.encode()}
        for number, layer in enumerate(layers):
            content = io.BytesIO()
            with tarfile.open(fileobj=content, mode="w:gz" if number % 2 else "w") as archive:
                _add(archive, layer)
            parts[f"{number}.tar"] = content.getvalue()
        _add(image, parts)
    return path


def _add(archive: tarfile.TarFile, parts: dict[str, bytes]) -> None:
    for name, content in parts.items():
        member = tarfile.TarInfo(name)
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))


def zipped(content: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("app/secrets.py", content)
    return packed.getvalue()


@pytest.mark.parametrize(
    ("layers", "description", "places"),
    [
        pytest.param([{"app/a.py": b"KEY = 'planted'"}], "{}", ["/app/a.py"], id="in a layer"),
        pytest.param(
            [{"key": b"planted"}, {"key": b""}], "{}", ["/key"], id="replaced by a later layer"
        ),
        pytest.param([{}, {"key": b"planted"}], "{}", ["/key"], id="in a compressed layer"),
        pytest.param([{"a.pyc": b"\0\1planted\2"}], "{}", ["/a.pyc"], id="in bytecode"),
        pytest.param(
            [{"a.whl": zipped(b"planted" * 99)}], "{}", ["/a.whl/app/secrets.py"], id="in a wheel"
        ),
        pytest.param([{}], '{"history": "ARG KEY=planted"}', ["config.json"], id="in the history"),
        pytest.param([{"app/a.py": b"KEY = 'another'"}], "{}", [], id="nowhere"),
    ],
)
def test_the_search_finds_a_key(planted, tmp_path, layers, description, places):
    """`make image-test` finds the marker at every place of a saved image."""
    assert (
        planted.find_marker(saved(tmp_path, *layers, description=description), "planted") == places
    )
