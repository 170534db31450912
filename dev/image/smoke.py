"""
Try an image out: as strictly as it may be run, against a real Postgres and with nothing outside this machine.

    python dev/image/smoke.py alpha-monday:0.1.0

Each line is a check or a figure; the exit code is 1 when a check failed. Needs Linux, and podman or docker.
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
from database import database, fill, server
from engine import Container, asked, contents, engine, facts, isolate, once, serving
from ports import free_port

HOUSE = Path(__file__).parents[2]
REQUESTS = 10_000
LONGEST_DRAIN = 30.0
LARGEST = 12


class Links(HTMLParser):
    """The addresses of a page's scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take note of what a browser would load."""
        self.found += [at for name, at in attrs if at and name in ("src", "href") and tag in ("script", "link")]


def built(check: Checks, image: str) -> None:
    """What the image says of itself, what is in it, and what fills it."""
    known, held = facts(image), contents(image)
    user = str(known["User"]).split(":")[0]
    check("the user is a number and not root", user.isdecimal() and user != "0", known["User"])
    check("the command is started itself, without a shell", known["Cmd"] == ["alpha-monday", "serve"], known["Cmd"])
    version = known["Labels"].get("org.opencontainers.image.version", "unknown")
    check("it says which version it is", version != "unknown", version)
    check("no compiler, installer, client or Postgres is in it", not held["unwanted"], held["unwanted"] or "")
    check("certificates are in it", held["certificates"], held["certificates"])
    check("time zones are in it", held["zones"], held["zones"])
    sizes = Counter[str](held["sizes"])
    check.figure("size", f"{known['Size'] / 1e6:.0f} MB, of which {sizes.total() / 1e6:.0f} MB are seen")
    largest = sizes.most_common(LARGEST)
    rest = sizes.total() - sum(size for _, size in largest)
    told = [*largest, (f"{len(sizes) - LARGEST} others", rest)]
    check.figure("filled by, in MB", ", ".join(f"{part} {size / 1e6:.1f}" for part, size in told))


def refusals(check: Checks, image: str) -> None:
    """What is missing is named."""
    done = once(image, PORT="0", **KEYS)
    check(
        "without DATABASE_URL it refuses, naming it", done.returncode == 1 and "DATABASE_URL is not set" in done.stderr
    )
    done = once(image, PORT="0", DATABASE_URL="postgresql://nobody@127.0.0.1:9/none")
    check("without keys it refuses, naming them", done.returncode == 1 and "OPENAI_API_KEY" in done.stderr)


def rehearsed(check: Checks, image: str, address: str) -> None:
    """The whole of it, jobs and providers' clients too, in told time; only here is there a place to write."""
    more = ["--tmpfs=/tmp:mode=1777", "--workdir=/tmp"]
    began = time.monotonic()
    done = once(image, "alpha-monday", "rehearse", "--weeks=2", "--no-serve", more=more, DATABASE_URL=address)
    took = f"{time.monotonic() - began:.0f} s"
    check(
        "it lives through two weeks with played providers",
        done.returncode == 0,
        took if not done.returncode else done.stderr,
    )
    done = once(image, "alpha-monday", "verify", "--rehearsal", DATABASE_URL=address)
    check("the record it made verifies", done.returncode == 0, (done.stdout or done.stderr).strip().splitlines()[-1])


def migrated(check: Checks, image: str, address: str) -> None:
    """The release command, as the platform runs it."""
    command = tomllib.loads((HOUSE / "fly.toml").read_text())["deploy"]["release_command"].split()
    for says in ("", "The database is up to date."):
        done = once(image, *command, DATABASE_URL=address)
        well = done.returncode == 0 and says in done.stdout
        lines = done.stdout.strip().splitlines()
        check(f"`{' '.join(command)}`", well, f"{len(lines)} steps" if not says else lines[-1])


def began(check: Checks, service: Container) -> None:
    """How soon it is there."""
    healthy = service.healthy()
    processor = service.process()["processor"]
    check.figure("healthy after", f"{healthy:.1f} s, of which {processor:.1f} s were its own work")


def confined(check: Checks, service: Container) -> None:
    """What the process may do."""
    process = service.process()
    check("it is process 1", process["command"][0].endswith("/alpha-monday"), " ".join(process["command"]))
    check("its user is not root", 0 not in process["users"], process["users"][0])
    check("it has no capabilities and gets none", not process["capabilities"] and not process["may gain more"])
    check("it may write nowhere", not process["writable"], process["writable"] or "")


def answers(check: Checks, service: Container, image: str) -> None:
    """What the world sees."""
    health = httpx.get(f"{service.url}/health")
    check("/health", health.status_code == 200, health.text)
    check("the image's own health check", service.runs(facts(image)["Check"]["Test"][1:]))
    check("an operator's command in there", service.runs(["alpha-monday", "jobs", "list"]))
    check("the queue's own command in there", service.runs(["procrastinate", "--app=jobs.queue.app", "healthchecks"]))
    answer = httpx.post(f"{service.url}/graphql", json=clients.operation("Batches")).json()
    check("a query", len(answer["data"]["batches"]["nodes"]) == 20, f"{len(str(answer)):,} characters")
    page = httpx.get(f"{service.url}/graphql", headers={"accept": "text/html"})
    policy = page.headers.get("content-security-policy", "")
    check("GraphiQL's page lets nothing in from elsewhere", page.status_code == 200 and policy and "http" not in policy)
    linked = [address for address in Links(page.text).found if not address.startswith("data:")]
    files = [httpx.get(f"{service.url}{address}").status_code for address in linked if address.startswith("/")]
    check(
        "GraphiQL's files come from the service",
        files == [200] * len(linked) and len(files) >= 5,
        f"{len(files)} files",
    )


def loaded(check: Checks, service: Container) -> None:
    """What ten thousand queries do to it."""
    idle = service.process()["memory"]
    took, told = clients.ask(service.url, REQUESTS)
    check(f"{REQUESTS:,} queries", told == {"answered": REQUESTS}, dict(told))
    check.figure(
        "of these", "a half may be kept answers, a quarter are asked anew, a quarter are documents never seen before"
    )
    check.figure("per second, by eight clients beside it on this machine", f"{REQUESTS / took:,.0f}")
    after = service.process()["memory"]
    check.figure("memory", f"{idle:.0f} MB idle, {after:.0f} MB after {REQUESTS:,} queries")


def drained(check: Checks, service: Container) -> None:
    """A signal ends it, and nothing that was begun."""
    slow = clients.Slow(service.url)
    time.sleep(0.2)  # until its head was read
    began = time.monotonic()
    service.terminate()
    time.sleep(0.5)
    answer = slow.rest()
    check("a request under way at SIGTERM is answered", answer.startswith("HTTP/1.1 200") and "2026-11-13" in answer)
    code = service.ended()
    took = time.monotonic() - began
    check("exit code after SIGTERM", code == 0, code)
    check(f"it drains within {LONGEST_DRAIN:.0f} s", took < LONGEST_DRAIN, f"{took:.1f} s")


def logged(check: Checks, service: Container) -> None:
    """What it says is for machines to read; two lines are for people: which database it is, and where it serves."""
    lines = service.log().strip().splitlines()
    others = [line for line in lines if not line.startswith("{") or "event" not in json.loads(line)]
    strange = [line for line in others if not line.startswith(("Database: ", "Serving GraphQL at "))]
    check("its log is JSON", not strange, strange or f"{len(lines) - len(others)} lines")
    events = [json.loads(line)["event"] for line in lines if line not in others]
    check("its log tells its life", events[0] == "alive" and events[-1] == "stopped", ", ".join(Counter(events)))


def search(image: str, folder: Path, marker: str) -> list[str]:
    """Return where the marker stands in an image."""
    saved = folder / "image.tar"
    asked("save", "--output", str(saved), image)
    try:
        return planted.found(saved, marker)
    finally:
        saved.unlink()


def keys_stay_out(check: Checks, build_args: str) -> None:
    """Build an image with `make image` from a copy of this checkout with planted keys; look for them."""
    marker, name = f"planted-{uuid4().hex}", f"alpha-monday:planted-{uuid4().hex[:8]}"
    with tempfile.TemporaryDirectory(prefix="am-image-") as temporary:
        folder, copied = Path(temporary), Path(temporary) / "checkout"
        planted.copy(HOUSE, copied)
        planted.plant(copied, folder / "outside", marker)
        command = ["make", "-C", str(copied), "image", f"IMAGE={name}", f"ENGINE={engine()}"]
        environment = {**os.environ, **dict.fromkeys(KEYS, marker), "DATABASE_URL": f"postgresql://{marker}@localhost/"}
        try:
            done = subprocess.run(
                [*command, f"IMAGE_BUILD_ARGS={build_args}"],
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            well = not done.returncode
            check("an image is built from a checkout with planted keys", well, "" if well else done.stderr[-2000:])
            if not well:
                return
            number = len(planted.FILES) + len(planted.LINKS)
            found = search(name, folder, marker)
            check(
                f"none of {number} planted files is in a layer of it, nor the keys of the environment", not found, found
            )
            told = [file for file in ("app/notes.py", "jobs/prod.toml") if f"Not in the image: {file}." in done.stderr]
            check("`make image` names what stays out", len(told) == 2, ", ".join(told))
            hidden = with_a_hidden_key(name, folder / "control", marker)
            check("the search finds a key in a layer below", search(hidden, folder, marker) == ["/key"])
            asked("rmi", "--force", hidden, check=False)
        finally:
            asked("rmi", "--force", name, check=False)


def with_a_hidden_key(image: str, folder: Path, marker: str) -> str:
    """Return an image with a file that a later layer replaces: a container of it does not show it."""
    folder.mkdir()
    (folder / "key").write_text(marker)
    (folder / "empty").touch()
    (folder / "Containerfile").write_text(f"FROM {image}\nCOPY key /key\n")
    below, name = f"{image}-below", f"{image}-control"
    asked("build", "--quiet", f"--tag={below}", f"--file={folder / 'Containerfile'}", str(folder))
    (folder / "Containerfile").write_text(f"FROM {below}\nCOPY empty /key\n")
    asked("build", "--quiet", f"--tag={name}", f"--file={folder / 'Containerfile'}", str(folder))
    asked("rmi", below, check=False)
    return name


def smoke(image: str, build_args: str) -> int:
    """Check everything; return how much failed."""
    check = Checks()
    built(check, image)
    refusals(check, image)
    keys_stay_out(check, build_args)
    with server() as postgres:
        with database(postgres) as address:
            rehearsed(check, image, address)
        with database(postgres) as address:
            migrated(check, image, address)
            fill(address)
            with serving(image, free_port(), DATABASE_URL=address, **KEYS) as service:
                began(check, service)
                confined(check, service)
                answers(check, service, image)
                loaded(check, service)
                drained(check, service)
                logged(check, service)
    return check.failed


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image")
    parser.add_argument("--build-args", default="", help="what `make image` needs as IMAGE_BUILD_ARGS")
    given = parser.parse_args()
    isolate()
    sys.exit(1 if smoke(given.image, given.build_args) else 0)
