"""
The promises of the image, as far as its Containerfile shows them; `make image-test` tests the image
itself.
"""

import json
import re
import tomllib
from pathlib import Path

import yaml
from containerfile import environment, last, stages

from app.core import settings
from app.main import create_app

HOUSE = Path(__file__).parents[2]
ALL = [one for stage in stages() for one in stage]
RUNS = [one.text for one in ALL if one.name == "RUN"]
LISTED = [
    line[1:] for line in (HOUSE / ".dockerignore").read_text().splitlines() if line.startswith("!")
]
PROJECT = tomllib.loads((HOUSE / "pyproject.toml").read_text())


def test_bases_are_pinned():
    """
    Each stage has an exact version and system.

    The Python stages have the same one, which CI tests, too.
    """
    bases = [
        re.fullmatch(
            r"(node|python):(\d+\.\d+)\.\d+-(?:slim-)?trixie(?:-slim)?", stage[0].text.split()[0]
        )
        for stage in stages()
    ]
    assert all(bases)
    (python,) = {base[2] for base in bases if base[1] == "python"}
    tested = yaml.safe_load((HOUSE / ".github/workflows/ci.yml").read_text())["jobs"]["embedded"][
        "strategy"
    ]["matrix"]
    assert python in tested["python"]


def test_process_1_is_the_service():
    """The command is a list, so that signals reach the service and not a shell."""
    assert json.loads(last("CMD")) == ["alpha-monday", "serve"]
    assert not last("ENTRYPOINT")
    assert not last("STOPSIGNAL")


def test_the_user_is_a_number_and_not_root():
    """A platform can check a number. No instruction after it writes into the image."""
    user, group = last("USER").split(":")
    assert int(user) >= 10_000
    assert int(group) >= 10_000
    names = [one.name for one in stages()[-1]]
    assert not {"RUN", "COPY"} & set(names[names.index("USER") :])


def test_the_health_check_asks_whether_the_process_answers():
    """It uses Python and the port of the settings, and a route that does not need the database."""
    _, command = last("HEALTHCHECK").split(" CMD ")
    python, flags, code = json.loads(command)
    compile(code, "HEALTHCHECK", "exec")
    assert (python, flags) == ("python", "-Ic")
    assert "{os.environ['PORT']}/live" in code.replace('"', "'")
    assert "/live" in {
        route.path for route in create_app(settings.load({}), work=False).app.app.routes
    }


def test_what_is_installed_has_a_hash():
    """Each package from outside is pinned by a lock file; our own comes from no index."""
    installs = [
        line
        for run in RUNS
        for line in run.split("&&")
        if re.search(r"\b(pip|npm) .*\b(install|wheel|ci)\b", line)
    ]
    assert len(installs) == 5
    for line in installs:
        assert (
            "--require-hashes -r" in line
            or "--no-index" in line
            or "npm ci --ignore-scripts" in line
        )


def test_nothing_is_compiled_here():
    """All packages are installed as wheels, so that no stage needs a compiler."""
    assert any("--only-binary=:all:" in run for run in RUNS)
    assert not [run for run in RUNS if "apt" in run]


def test_git_comes_from_the_base_image():
    """Only the programs for https and for paths are copied, with their libraries, and no ssh."""
    (run,) = [run for run in RUNS if "/git/usr/bin" in run]
    assert "cp /usr/bin/git /git/usr/bin/" in run
    assert "cp -L /usr/lib/git-core/git-remote-https /git/usr/lib/git-core/" in run
    assert "ssh" not in run
    copied = [one.text for one in stages()[-1] if one.name == "COPY"]
    assert "--from=build /git /" in copied


def test_no_secret_goes_into_the_image():
    """No file is downloaded by address, and neither arguments nor environment contain a secret."""
    assert not [one for one in ALL if one.name == "ADD"]
    named = {
        name.partition("=")[0].lower()
        for one in ALL
        if one.name in ("ENV", "ARG")
        for name in one.text.split()
    }
    assert not named & settings.SECRETS
    assert not [name for name in named if re.search("key|token|password|secret", name)]
    assert settings.load({name: text for name, text in environment().items() if name != "PATH"})


def test_what_is_taken_out_was_in():
    """The removed packages are in the lock file, which lists what our packages require."""
    (line,) = [line for run in RUNS for line in run.split("&&") if " uninstall " in line]
    lock = (HOUSE / "requirements.lock").read_text()
    for name in line.split("--yes")[1].split():
        assert f"\n{name}==" in lock


def test_the_wheel_is_built_with_what_the_project_names():
    """The lock file of the build has the version of pyproject.toml's build system."""
    (wanted,) = PROJECT["build-system"]["requires"]
    assert wanted in (HOUSE / "dev/image/requirements.in").read_text().splitlines()
    assert f"{wanted} " in (HOUSE / "dev/image/requirements.lock").read_text()


def test_what_goes_into_the_build():
    """.dockerignore names a part of everything that is copied, and all that it names is copied."""
    copied = set()
    for one in ALL:
        if one.name == "COPY" and "--from" not in one.text:
            *sources, _ = one.text.split()
            copied.update(sources)
    for source in copied:
        assert any(f"{name}/".startswith(f"{source}/") for name in LISTED), source
    for name in LISTED:
        assert any(f"{name}/".startswith(f"{source}/") for source in copied), name


def test_the_wheel_finds_all_that_it_is_made_of():
    """Every package and folder that pyproject.toml puts into the wheel is copied."""
    copied = {one.text.split()[0] for one in ALL if one.name == "COPY"}
    made_of = PROJECT["tool"]["hatch"]["build"]["only-include"]
    assert {Path(source).parts[0] for source in made_of} <= copied
    assert all(any(name.startswith(f"{source}/") for name in LISTED) for source in made_of)
