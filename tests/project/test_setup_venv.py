"""`make` sets up its environment in numbered steps, and a step that fails says why."""

import ast
import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from document_text import HOUSE

SCRIPT = HOUSE / "dev" / "setup_venv.py"
# An in-tree backend, so that the project's own installation needs no package and no index.
BACKEND = """
import zipfile

METADATA = "Metadata-Version: 2.1\\nName: tried\\nVersion: 1.0\\n"
WHEEL = "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"

def build_editable(folder, config_settings=None, metadata_directory=None):
    name = "tried-1.0-py3-none-any.whl"
    with zipfile.ZipFile(f"{folder}/{name}", "w") as wheel:
        wheel.writestr("tried-1.0.dist-info/METADATA", METADATA)
        wheel.writestr("tried-1.0.dist-info/WHEEL", WHEEL)
        wheel.writestr("tried-1.0.dist-info/RECORD", "")
    return name
"""
PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "tried"
version = "1.0"
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the script, a project and an empty lock file."""
    (tmp_path / "dev").mkdir()
    shutil.copy(SCRIPT, tmp_path / "dev")
    (tmp_path / "backend.py").write_text(BACKEND)
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    (tmp_path / "requirements-dev.lock").write_text("")
    return tmp_path


def wheel(folder: Path, name: str) -> str:
    """Write a small package. Return its line for a lock file."""
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", "")
        archive.writestr(
            f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
        )
        archive.writestr(
            f"{name}-1.0.dist-info/WHEEL",
            "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr(f"{name}-1.0.dist-info/RECORD", "")
    return f"{name}==1.0 --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"


def begin(checkout: Path, **environment: str) -> subprocess.Popen[str]:
    """Start the script as the Makefile does, with only the given settings of pip."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    return subprocess.Popen(
        [sys.executable, "dev/setup_venv.py", "--venv", "made"],
        cwd=checkout,
        env={**inherited, "PIP_CONFIG_FILE": os.devnull, **environment},
        stderr=subprocess.PIPE,
        text=True,
    )


def set_up(checkout: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the script until it ends."""
    process = begin(checkout, **environment)
    _, output = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, None, output)


def test_it_says_each_step_and_counts_packages(checkout):
    """Four numbered steps; a package that another platform needs does not count."""
    lines = [wheel(checkout, name) for name in ("first", "second", "third")]
    lines.append(f"windows_only==1.0 ; sys_platform == 'win32' --hash=sha256:{'0' * 64}\n")
    (checkout / "requirements-dev.lock").write_text("".join(lines))
    done = set_up(checkout, PIP_NO_INDEX="1", PIP_FIND_LINKS=str(checkout))
    assert done.returncode == 0, done.stderr
    assert re.findall(r"^\[(\d)/4\] .*: (done|3 of 3 packages)$", done.stderr, re.MULTILINE) == [
        ("1", "done"), ("2", "3 of 3 packages"), ("3", "3 of 3 packages"), ("4", "done")
    ]  # fmt: skip
    assert (checkout / "made" / ".ready").exists()
    listed = subprocess.run(
        [checkout / "made" / "bin" / "python", "-c", "import first, second, third"],
        cwd="/",
        check=False,
    )
    assert listed.returncode == 0


@pytest.mark.long
def test_two_at_once(checkout):
    """The second process waits for the first one, and finds everything ready."""
    processes = [begin(checkout) for _ in range(2)]
    output = sorted(process.communicate(timeout=120)[1] for process in processes)
    assert [process.returncode for process in processes] == [0, 0]
    assert output[0] == "Another `make` is setting it up. Waiting for it to finish.\n"
    assert "[4/4]" in output[1]


@pytest.mark.long
def test_after_one_that_fails(checkout):
    """The second process waits for the first one, and then tries itself."""
    (checkout / "requirements-dev.lock").write_text(f"absent==1.0 --hash=sha256:{'0' * 64}\n")
    processes = [begin(checkout, PIP_NO_INDEX="1") for _ in range(2)]
    output = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [1, 1]
    assert sum("Waiting for it to finish." in one for one in output) == 1
    assert ["Downloading the packages failed" in one for one in output] == [True, True]


def test_without_a_network_it_shows_what_pip_says(checkout):
    """
    It shows pip's error in full, then the step and what to check.

    The environment does not count as ready.
    """
    (checkout / "requirements-dev.lock").write_text(f"absent==1.0 --hash=sha256:{'0' * 64}\n")
    done = set_up(checkout, PIP_INDEX_URL="http://127.0.0.1:9/simple", PIP_RETRIES="0")
    assert done.returncode == 1
    assert "ERROR: No matching distribution found for absent==1.0" in done.stderr
    assert "Downloading the packages failed: pip ended with exit code 1" in done.stderr
    assert "The package index could not be reached" in done.stderr
    assert not (checkout / "made" / ".ready").exists()


def test_a_python_that_is_too_old_is_named():
    """The message repeats the target of make, with another Python."""
    program = (
        "import runpy, sys; sys.version_info = (3, 9, 2, 'final', 0); "
        "sys.argv = ['setup_venv.py', '--venv', 'made', '--goals', 'run']; "
        f"runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == (
        "Python 3.11 or newer is needed, this is Python 3.9.2. Choose another with: make "
        "PYTHON=python3.12 run\n"
    )


def test_an_old_python_can_read_it():
    """The syntax is that of Python 3.7, so that an old Python can print the message."""
    tree = ast.parse(SCRIPT.read_text(), feature_version=(3, 7))
    assert not [
        node
        for node in ast.walk(tree)
        if getattr(node, "annotation", None) or getattr(node, "returns", None)
    ]


def test_help_has_an_example_that_fits():
    """The example uses options that the script has."""
    done = subprocess.run(
        [sys.executable, SCRIPT, "--help"], capture_output=True, text=True, check=True
    )
    options, _, example = done.stdout.partition("Example: ")
    program, script, *arguments = example.split()
    assert (program, HOUSE / script) == ("python3", SCRIPT)
    named = [argument for argument in arguments if argument.startswith("--")]
    assert named
    assert all(re.search(rf"{name}\b", options) for name in named)
