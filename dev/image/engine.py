"""The container engine, podman or docker: its commands that a trial of an image needs."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx

sys.path.append(str(Path(__file__).parents[1]))
import isolation

# Prefixes of variables that the engine reads: which engine it is, where it stores images, how to
# reach it.
ENGINES = (
    "ENGINE",
    "HOME",
    "XDG_",
    "DOCKER_",
    "CONTAINER",
    "BUILDAH",
    "STORAGE_",
    "REGISTRY_",
    "DBUS_",
)

# The strictest options under which the image must run: nothing is writable, and the process has no
# rights and cannot gain any. It uses the host's network, because Postgres and the clients are on
# its loopback.
STRICT = [
    "--network=host",
    "--read-only",
    "--cap-drop=all",
    "--security-opt=no-new-privileges",
    "--no-healthcheck",
]
# Podman would add a writable /tmp to a read-only root.
STRICT_OF_ENGINE = {"podman": ["--read-only-tmpfs=false"]}
# In seconds.
START_TIMEOUT = END_TIMEOUT = 60.0
# The command that runs `inside.py` in a container.
INSIDE = ("python", "-c", Path(__file__).with_name("inside.py").read_text())


def isolate() -> None:
    """
    Remove all environment variables but the engine's and a few others.

    Podman would pass a proxy's address to every container.
    """
    isolation.isolate(*ENGINES)


@cache
def find_engine() -> str:
    """Return the engine's program: the one of ENGINE, or the first that works."""
    chosen = os.environ.get("ENGINE")
    for name in [chosen] if chosen else ["podman", "docker"]:
        if shutil.which(name) is None:
            continue
        done = subprocess.run([name, "info"], capture_output=True, check=False)
        if done.returncode == 0:
            return name
    if chosen:
        raise SystemExit(f"{chosen} does not answer.")
    raise SystemExit("Neither podman nor docker answers: install one of them.")


def run_engine(
    *arguments: str, check: bool = True, within: float | None = None
) -> subprocess.CompletedProcess[str]:
    """
    Run the engine to its end, for `within` seconds at most, and return its output.

    With `check`, raises SystemExit if it fails.
    """
    done = subprocess.run(
        [find_engine(), *arguments], capture_output=True, text=True, check=False, timeout=within
    )
    if check and done.returncode:
        raise SystemExit(f"{find_engine()} {arguments[0]} failed: {done.stderr.strip()}")
    return done


def inspect_image(image: str) -> dict[str, Any]:
    """Return the configuration of an image, with its `Size` in bytes and its `Check`."""
    (details,) = json.loads(run_engine("image", "inspect", image).stdout)
    return {
        **details["Config"],
        "Size": details["Size"],
        "Check": details.get("Healthcheck") or details["Config"]["Healthcheck"],
    }


def run_options(settings: dict[str, str], more: Sequence[str] = ()) -> list[str]:
    """Return the options of `run`: the strict ones, `more`, and the settings as variables."""
    return [
        *STRICT,
        *STRICT_OF_ENGINE.get(find_engine(), []),
        *more,
        *(f"--env={name}={text}" for name, text in settings.items()),
    ]


def run_once(
    image: str, *command: str, more: Sequence[str] = (), **settings: str
) -> subprocess.CompletedProcess[str]:
    """Run a command in a container of its own, to its end."""
    return run_engine("run", "--rm", *run_options(settings, more), image, *command, check=False)


def read_contents(image: str) -> Any:
    """Return the contents of an image, see `inside.py`."""
    done = run_engine("run", "--rm", *run_options({}), image, *INSIDE, "contents")
    return json.loads(done.stdout)


@dataclass
class Container:
    """A running service: the container's name, its address, and when it was started."""

    name: str
    url: str
    started_at: float

    def wait_until_healthy(self) -> float:
        """Wait for a 200 of `/health`; return how many seconds after the start it came."""
        while time.monotonic() - self.started_at < START_TIMEOUT:
            try:
                if httpx.get(f"{self.url}/health", timeout=5).status_code == 200:
                    return time.monotonic() - self.started_at
            except httpx.TransportError:
                # Nothing listens yet.
                time.sleep(0.05)
        raise SystemExit(f"Not healthy within {START_TIMEOUT:.0f} s. Its log:\n{self.log()}")

    def can_run(self, command: Sequence[str]) -> bool:
        """Return whether a command in the container succeeds."""
        return run_engine("exec", self.name, *command, check=False).returncode == 0

    def process(self) -> Any:
        """Return details of its first process, see `inside.py`."""
        return json.loads(run_engine("exec", self.name, *INSIDE, "process").stdout)

    def log(self) -> str:
        """Return its whole output."""
        done = run_engine("logs", self.name, check=False)
        return done.stdout + done.stderr

    def status(self, path: str) -> int | None:
        """Return the status of one response, or None without a response."""
        with suppress(httpx.TransportError):
            return httpx.get(f"{self.url}{path}", timeout=5).status_code
        return None

    def terminate(self, signal: str = "TERM") -> None:
        """Send a signal that stops the service, as a platform does."""
        run_engine("kill", f"--signal={signal}", self.name)

    def kill(self) -> None:
        """Kill it, as a platform does with a machine whose checks never pass."""
        run_engine("kill", "--signal=KILL", self.name)

    def wait_for_end(self) -> int | None:
        """Wait for its end; return its exit code, or None if it does not end in time."""
        with suppress(subprocess.TimeoutExpired):
            return int(run_engine("wait", self.name, within=END_TIMEOUT).stdout.strip())
        return None


@contextmanager
def running_container(
    image: str, port: int, *, command: Sequence[str] = (), more: Sequence[str] = (), **settings: str
) -> Iterator[Container]:
    """Run the image with its own command or another, and remove the container at the end."""
    # A random name, because several runs may happen on one machine.
    name = f"alpha-monday-{uuid4().hex[:8]}"
    started_at = time.monotonic()
    options = run_options({**settings, "PORT": str(port)}, more)
    run_engine("run", "--detach", f"--name={name}", *options, image, *command)
    try:
        yield Container(name, f"http://127.0.0.1:{port}", started_at)
    finally:
        run_engine("rm", "--force", name, check=False)
