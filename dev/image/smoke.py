"""
Tries an image out: with the strictest options, a real Postgres, and nothing outside this machine.

    python dev/image/smoke.py alpha-monday:0.2.0

Each line is a check or a figure; the exit code is 1 when a check failed. Needs Linux, and podman or
docker.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from uuid import uuid4

import clients
import httpx
import planted
from checks import KEYS, Checks
from database import fill_database, running_server, temporary_database
from engine import (
    Container,
    find_engine,
    inspect_image,
    isolate,
    read_contents,
    run_engine,
    run_once,
    running_container,
)
from ports import free_port

PROJECT = Path(__file__).parents[2]
REQUESTS = 10_000
MAX_DRAIN = 30.0
LISTED_PARTS = 12


class LinkParser(HTMLParser):
    """Collects the addresses of a page's scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect what a browser would load."""
        if tag not in ("script", "link"):
            return
        self.addresses += [value for name, value in attrs if value and name in ("src", "href")]


def check_image(check: Checks, image: str) -> None:
    """Check the image's configuration and contents, and print what fills it."""
    known, held = inspect_image(image), read_contents(image)
    user = str(known["User"]).split(":")[0]
    check("the user is a number and not root", user.isdecimal() and user != "0", known["User"])
    check(
        "the command is started itself, without a shell",
        known["Cmd"] == ["alpha-monday", "serve"],
        known["Cmd"],
    )
    version = known["Labels"].get("org.opencontainers.image.version", "unknown")
    check("it says which version it is", version != "unknown", version)
    check(
        "no compiler, installer, client or Postgres is in it",
        not held["unwanted"],
        held["unwanted"] or "",
    )
    check("certificates are in it", held["certificates"], held["certificates"])
    check("time zones are in it", held["zones"], held["zones"])
    sizes = Counter[str](held["sizes"])
    check.figure(
        "size", f"{known['Size'] / 1e6:.0f} MB, of which {sizes.total() / 1e6:.0f} MB are seen"
    )
    largest = sizes.most_common(LISTED_PARTS)
    rest = sizes.total() - sum(size for _, size in largest)
    parts = [*largest, (f"{len(sizes) - LISTED_PARTS} others", rest)]
    check.figure("filled by, in MB", ", ".join(f"{part} {size / 1e6:.1f}" for part, size in parts))


def check_git(check: Checks, image: str) -> None:
    """Check that git and its helper for https find their libraries."""
    done = run_once(image, "git", "ls-remote", "https://127.0.0.1:9/none", GIT_TERMINAL_PROMPT="0")
    check(
        "git can publish over https",
        "Failed to connect" in done.stderr or "Couldn't connect" in done.stderr,
        one_line(done.stderr),
    )


def one_line(text: str) -> str:
    """Return a text on one line."""
    return " ".join(text.split())


def check_refusals(check: Checks, image: str) -> None:
    """Check that the service names a missing setting."""
    done = run_once(image, PORT="0", **KEYS)
    check(
        "without DATABASE_URL it refuses, naming it",
        done.returncode == 1 and "DATABASE_URL is not set" in done.stderr,
    )
    done = run_once(image, PORT="0", DATABASE_URL="postgresql://user@127.0.0.1:9/none")
    check(
        "without keys it refuses, naming them",
        done.returncode == 1 and "OPENAI_API_KEY" in done.stderr,
    )


def check_rehearsal(check: Checks, image: str, address: str) -> None:
    """
    Check a rehearsal: the whole service, with jobs and the providers' clients.

    Only here the container has a writable folder.
    """
    # A rehearsal writes its logs into the current folder.
    more = ["--tmpfs=/tmp:mode=1777", "--workdir=/tmp"]
    began = time.monotonic()
    done = run_once(
        image,
        "alpha-monday",
        "rehearse",
        "--weeks=2",
        "--no-serve",
        more=more,
        DATABASE_URL=address,
    )
    took = f"{time.monotonic() - began:.0f} s"
    check(
        "it lives through two weeks with simulated providers",
        done.returncode == 0,
        took if not done.returncode else done.stderr,
    )
    done = run_once(image, "alpha-monday", "verify", "--rehearsal", DATABASE_URL=address)
    check(
        "the record it made verifies",
        done.returncode == 0,
        (done.stdout or done.stderr).strip().splitlines()[-1],
    )


def check_migration(check: Checks, image: str, address: str) -> None:
    """Check the release command, as the platform runs it."""
    command = tomllib.loads((PROJECT / "fly.toml").read_text())["deploy"]["release_command"].split()
    # The second time there is nothing to migrate.
    for expected in ("", "The database is up to date."):
        done = run_once(image, *command, DATABASE_URL=address)
        passed = done.returncode == 0 and expected in done.stdout
        lines = done.stdout.strip().splitlines()
        details = lines[-1] if expected else f"{len(lines)} steps"
        check(f"`{' '.join(command)}`", passed, details)


def check_start(check: Checks, service: Container) -> None:
    """Print how soon the service is healthy."""
    healthy = service.wait_until_healthy()
    processor = service.process()["processor"]
    check.figure("healthy after", f"{healthy:.1f} s, of which {processor:.1f} s were its own work")


def check_confinement(check: Checks, service: Container) -> None:
    """Check the rights of the process."""
    process = service.process()
    check(
        "it is process 1",
        process["command"][0].endswith("/alpha-monday"),
        " ".join(process["command"]),
    )
    check("its user is not root", 0 not in process["users"], process["users"][0])
    check(
        "it has no capabilities and gets none",
        not process["capabilities"] and not process["may gain more"],
    )
    check("it may write nowhere", not process["writable"], process["writable"] or "")


def check_responses(check: Checks, service: Container, image: str) -> None:
    """Check the responses that clients see, and commands in the container."""
    health = httpx.get(f"{service.url}/health")
    check("/health", health.status_code == 200, health.text)
    check(
        "the image's own health check", service.can_run(inspect_image(image)["Check"]["Test"][1:])
    )
    check("an operator's command in there", service.can_run(["alpha-monday", "jobs", "list"]))
    check(
        "the queue's own command in there",
        service.can_run(["procrastinate", "--app=jobs.queue.app", "healthchecks"]),
    )
    answer = httpx.post(f"{service.url}/graphql", json=clients.operation("Batches")).json()
    check(
        "a query", len(answer["data"]["batches"]["nodes"]) == 20, f"{len(str(answer)):,} characters"
    )
    page = httpx.get(f"{service.url}/graphql", headers={"accept": "text/html"})
    policy = page.headers.get("content-security-policy", "")
    check(
        "GraphiQL's page lets nothing in from elsewhere",
        page.status_code == 200 and policy and "http" not in policy,
    )
    addresses = LinkParser(page.text).addresses
    linked = [address for address in addresses if not address.startswith("data:")]
    files = [
        httpx.get(f"{service.url}{address}").status_code
        for address in linked
        if address.startswith("/")
    ]
    check(
        "GraphiQL's files come from the service",
        files == [200] * len(linked) and len(files) >= 5,
        f"{len(files)} files",
    )


def check_load(check: Checks, service: Container) -> None:
    """Check ten thousand queries, and print what they do to the memory."""
    idle = service.process()["memory"]
    seconds, outcomes = clients.send_requests(service.url, REQUESTS)
    check(f"{REQUESTS:,} queries", outcomes == {"answered": REQUESTS}, dict(outcomes))
    check.figure(
        "of these",
        "a half may come from the response cache, a quarter have new variables, a quarter are new "
        "documents",
    )
    check.figure(
        "per second, by eight clients beside it on this machine", f"{REQUESTS / seconds:,.0f}"
    )
    after = service.process()["memory"]
    check.figure("memory", f"{idle:.0f} MB idle, {after:.0f} MB after {REQUESTS:,} queries")


def check_drain(check: Checks, service: Container) -> None:
    """Check that SIGTERM ends the service, but no request that is under way."""
    slow = clients.SlowClient(service.url)
    # Until the service has read the head.
    time.sleep(0.2)
    start = time.monotonic()
    service.terminate()
    time.sleep(0.5)
    answer = slow.finish()
    check(
        "a request under way at SIGTERM is answered",
        answer.startswith("HTTP/1.1 200") and "2026-11-13" in answer,
    )
    code = service.wait_for_end()
    took = time.monotonic() - start
    check("exit code after SIGTERM", code == 0, code)
    check(f"it drains within {MAX_DRAIN:.0f} s", took < MAX_DRAIN, f"{took:.1f} s")


def check_log(check: Checks, service: Container) -> None:
    """
    Check the log: every line is JSON, except two for people.

    Those name the database and the address of the service.
    """
    lines = service.log().strip().splitlines()
    others = [line for line in lines if not line.startswith("{") or "event" not in json.loads(line)]
    known = ("Database: ", "Serving GraphQL at ")
    unexpected = [line for line in others if not line.startswith(known)]
    check("its log is JSON", not unexpected, unexpected or f"{len(lines) - len(others)} lines")
    events = [json.loads(line)["event"] for line in lines if line not in others]
    check(
        "its log tells its life",
        # Reconciliation may report a missed Monday before the service is alive.
        "alive" in events and events[-1] == "stopped",
        ", ".join(Counter(events)),
    )


def find_in_image(image: str, folder: Path, marker: str) -> list[str]:
    """Return the places of the marker in an image."""
    saved = folder / "image.tar"
    run_engine("save", "--output", str(saved), image)
    try:
        return planted.find_marker(saved, marker)
    finally:
        saved.unlink()


def check_planted_keys(check: Checks, build_args: str) -> None:
    """
    Check that no planted key gets into an image.

    `make image` builds it from a copy of this checkout with planted files.
    """
    marker, name = f"planted-{uuid4().hex}", f"alpha-monday:planted-{uuid4().hex[:8]}"
    with tempfile.TemporaryDirectory(prefix="am-image-") as temporary:
        folder, copied = Path(temporary), Path(temporary) / "checkout"
        planted.copy_checkout(PROJECT, copied)
        planted.plant(copied, folder / "outside", marker)
        command = ["make", "-C", str(copied), "image", f"IMAGE={name}", f"ENGINE={find_engine()}"]
        environment = {
            **os.environ,
            **dict.fromkeys(KEYS, marker),
            "DATABASE_URL": f"postgresql://{marker}@localhost/",
        }
        try:
            done = subprocess.run(
                [*command, f"IMAGE_BUILD_ARGS={build_args}"],
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            is_built = done.returncode == 0
            check(
                "an image is built from a checkout with planted keys",
                is_built,
                "" if is_built else done.stderr[-2000:],
            )
            if not is_built:
                return
            number = len(planted.FILES) + len(planted.LINKS)
            places = find_in_image(name, folder, marker)
            check(
                f"none of {number} planted files is in a layer of it, nor the keys of the "
                "environment",
                not places,
                places,
            )
            named = [
                file
                for file in ("app/notes.py", "jobs/prod.toml")
                if f"Not in the image: {file}." in done.stderr
            ]
            check("`make image` names what stays out", len(named) == 2, ", ".join(named))
            hidden = build_with_hidden_key(name, folder / "control", marker)
            check(
                "the search finds a key in a layer below",
                find_in_image(hidden, folder, marker) == ["/key"],
            )
            run_engine("rmi", "--force", hidden, check=False)
        finally:
            run_engine("rmi", "--force", name, check=False)


def build_with_hidden_key(image: str, folder: Path, marker: str) -> str:
    """
    Build an image with the marker in a file that a later layer replaces; return its name.

    A container of this image does not show the marker, so the search must read every layer.
    """
    folder.mkdir()
    (folder / "key").write_text(marker)
    # The second layer replaces the key by an empty file.
    (folder / "empty").touch()
    (folder / "Containerfile").write_text(f"FROM {image}\nCOPY key /key\n")
    below, name = f"{image}-below", f"{image}-control"
    run_engine(
        "build", "--quiet", f"--tag={below}", f"--file={folder / 'Containerfile'}", str(folder)
    )
    (folder / "Containerfile").write_text(f"FROM {below}\nCOPY empty /key\n")
    run_engine(
        "build", "--quiet", f"--tag={name}", f"--file={folder / 'Containerfile'}", str(folder)
    )
    run_engine("rmi", below, check=False)
    return name


def smoke(image: str, build_args: str) -> int:
    """Check everything; return how many checks failed."""
    check = Checks()
    check_image(check, image)
    check_refusals(check, image)
    check_git(check, image)
    check_planted_keys(check, build_args)
    with running_server() as postgres:
        with temporary_database(postgres) as address:
            check_rehearsal(check, image, address)
        with temporary_database(postgres) as address:
            check_migration(check, image, address)
            fill_database(address)
            with running_container(image, free_port(), DATABASE_URL=address, **KEYS) as service:
                check_start(check, service)
                check_confinement(check, service)
                check_responses(check, service, image)
                check_load(check, service)
                check_drain(check, service)
                check_log(check, service)
    return check.failed


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("image")
    parser.add_argument(
        "--build-args", default="", help="the value of IMAGE_BUILD_ARGS for `make image`"
    )
    options = parser.parse_args()
    isolate()
    sys.exit(1 if smoke(options.image, options.build_args) else 0)
