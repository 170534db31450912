"""Podman or docker, whichever answers: what is asked of either to try an image out."""

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

# What the engine reads itself: which one it is, where it keeps images, how it is reached.
ENGINES = ("ENGINE", "HOME", "XDG_", "DOCKER_", "CONTAINER", "BUILDAH", "STORAGE_", "REGISTRY_", "DBUS_")

# As strictly as it may ever be run: no place to write to, no rights, and none to be had. The host's network, because
# Postgres and the one who asks are on its loopback. Podman would put a writable /tmp beside a read-only root.
STRICT = ["--network=host", "--read-only", "--cap-drop=all", "--security-opt=no-new-privileges", "--no-healthcheck"]
STRICT_OF = {"podman": ["--read-only-tmpfs=false"]}
START_WITHIN = END_WITHIN = 60.0
INSIDE = ("python", "-c", Path(__file__).with_name("inside.py").read_text())


def isolate() -> None:
    """Keep the engine's variables and few others: podman would hand a proxy's address on to every container."""
    isolation.isolate(*ENGINES)


@cache
def engine() -> str:
    """Return the engine's program: ENGINE's, or the first that answers."""
    named = os.environ.get("ENGINE")
    for name in [named] if named else ["podman", "docker"]:
        if shutil.which(name) and not subprocess.run([name, "info"], capture_output=True, check=False).returncode:
            return name
    raise SystemExit(
        f"{named} does not answer." if named else "Neither podman nor docker answers: install one of them."
    )


def asked(*arguments: str, check: bool = True, within: float | None = None) -> subprocess.CompletedProcess[str]:
    """Run the engine to its end, for so many seconds at most; what it says goes into the result."""
    done = subprocess.run([engine(), *arguments], capture_output=True, text=True, check=False, timeout=within)
    if check and done.returncode:
        raise SystemExit(f"{engine()} {arguments[0]} failed: {done.stderr.strip()}")
    return done


def facts(image: str) -> dict[str, Any]:
    """Return what the engine knows of an image."""
    (found,) = json.loads(asked("image", "inspect", image).stdout)
    return {
        **found["Config"],
        "Size": found["Size"],
        "Check": (found.get("Healthcheck") or found["Config"]["Healthcheck"]),
    }


def options(settings: dict[str, str], more: Sequence[str] = ()) -> list[str]:
    """Return the arguments of `run` that the settings and the strict rules make."""
    return [*STRICT, *STRICT_OF.get(engine(), []), *more, *(f"--env={name}={text}" for name, text in settings.items())]


def once(image: str, *command: str, more: Sequence[str] = (), **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a container of its own, to its end."""
    return asked("run", "--rm", *options(settings, more), image, *command, check=False)


def contents(image: str) -> Any:
    """Return what an image holds."""
    return json.loads(asked("run", "--rm", *options({}), image, *INSIDE, "contents").stdout)


@dataclass
class Container:
    """A running service: its name, where it answers, and when it was started."""

    name: str
    url: str
    began: float

    def healthy(self) -> float:
        """Wait for a 200 of `/health`; return how many seconds after its start it came."""
        while time.monotonic() - self.began < START_WITHIN:
            try:
                if httpx.get(f"{self.url}/health", timeout=5).status_code == 200:
                    return time.monotonic() - self.began
            except httpx.TransportError:
                time.sleep(0.05)
        raise SystemExit(f"Not healthy within {START_WITHIN:.0f} s. Its log:\n{self.log()}")

    def runs(self, command: Sequence[str]) -> bool:
        """Return whether a command in there ends well."""
        return asked("exec", self.name, *command, check=False).returncode == 0

    def process(self) -> Any:
        """Return what its first process is."""
        return json.loads(asked("exec", self.name, *INSIDE, "process").stdout)

    def log(self) -> str:
        """Return everything that it said."""
        done = asked("logs", self.name, check=False)
        return done.stdout + done.stderr

    def status(self, path: str) -> int | None:
        """Return the status of one answer, or None where there is none."""
        with suppress(httpx.TransportError):
            return httpx.get(f"{self.url}{path}", timeout=5).status_code
        return None

    def terminate(self, signal: str = "TERM") -> None:
        """Send a signal that asks for an end, as a platform does that wants its machine back."""
        asked("kill", f"--signal={signal}", self.name)

    def kill(self) -> None:
        """End it at once, as a platform does with a machine whose checks never pass."""
        asked("kill", "--signal=KILL", self.name)

    def ended(self) -> int | None:
        """Wait for its end; return its exit code, or None where it does not end."""
        with suppress(subprocess.TimeoutExpired):
            return int(asked("wait", self.name, within=END_WITHIN).stdout.strip())
        return None


@contextmanager
def serving(image: str, port: int, **settings: str) -> Iterator[Container]:
    """Run the image as it is, and take away what is left of it."""
    name = f"alpha-monday-{uuid4().hex[:8]}"
    began = time.monotonic()
    asked("run", "--detach", f"--name={name}", *options({**settings, "PORT": str(port)}), image)
    try:
        yield Container(name, f"http://127.0.0.1:{port}", began)
    finally:
        asked("rm", "--force", name, check=False)
