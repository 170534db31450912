"""
Rehearse an upgrade and its way back, with two images on one Postgres and somebody who asks without a pause.

    python dev/image/upgrade.py alpha-monday:0.1.0 alpha-monday:0.2.0

The old one serves while the new one migrates; then the new one serves; then the old one again, on the newer schema;
then the schema goes back under it. Not one request may fail. Where both know the same migrations, the new one is given
another, for the sake of the rehearsal. Each line is a check or a figure; the exit code is 1 when a check failed. Needs
Linux, and podman or docker.
"""

import argparse
import re
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

import clients
import httpx
from checks import KEYS, Checks
from database import BATCHES, database, fill, free_port, server
from engine import Container, asked, isolate, once, serving

WHILE = 3.0  # seconds of each state
MIGRATIONS = "/alpha-monday/lib/python3.13/site-packages/app/database/migrations/"
UP = """
ALTER TABLE batches ADD COLUMN rehearsed text NOT NULL DEFAULT 'nothing';
CREATE INDEX rehearsed ON checkpoints (checkpoint_date, status);
"""
DOWN = """
DROP INDEX rehearsed;
ALTER TABLE batches DROP COLUMN rehearsed;
"""


def steps(image: str, address: str) -> dict[int, bool]:
    """Return the migrations that an image knows, by number, and whether they were applied."""
    said = once(image, "alpha-monday", "migrate", "--status", DATABASE_URL=address).stdout
    return {
        int(number): word == "applied" for number, word in re.findall(r"^(\d+) \w+: (not applied|applied)", said, re.M)
    }


def with_a_migration(image: str, number: int) -> str:
    """Return an image that is another with one more migration."""
    name = f"{image.partition(':')[0]}:rehearsed-upgrade-{uuid4().hex[:8]}"  # others may rehearse at the same time
    with tempfile.TemporaryDirectory() as folder:
        for way, text in (("up", UP), ("down", DOWN)):
            (Path(folder) / f"{number:04}_rehearsed.{way}.sql").write_text(text)
        file = Path(folder) / "Containerfile"
        file.write_text(f"FROM {image}\nCOPY {number:04}_rehearsed.*.sql {MIGRATIONS}\n")
        asked("build", "--quiet", f"--tag={name}", f"--file={file}", folder)
    return name


def history(service: Container) -> list[object]:
    """Return what the service tells of the Mondays that there were; the worker may have recorded another since."""
    answer = httpx.post(f"{service.url}/graphql", json=clients.operation("Batches", first=100)).json()
    return list(answer["data"]["batches"]["nodes"])[-BATCHES:]


class Rehearsal:
    """An upgrade in its steps. `asker` is told who serves."""

    def __init__(self, check: Checks, address: str, asker: clients.Asking) -> None:
        self.check, self.address, self.asker = check, address, asker

    def migrate(self, image: str, *arguments: str) -> None:
        """Migrate while somebody else serves."""
        began = time.monotonic()
        done = once(image, "alpha-monday", "migrate", *arguments, DATABASE_URL=self.address)
        took = time.monotonic() - began
        said = (done.stdout + done.stderr).strip().splitlines()
        self.check(" ".join(["migrate", *arguments]), done.returncode == 0, f"{took:.1f} s: {', '.join(said)}")
        self.goes_on()

    def hand_over(self, before: Container, after: Container, to: str) -> None:
        """Let another serve once it is healthy, then stop the one before."""
        healthy = after.healthy()
        self.asker.switch(after.url)
        self.goes_on()
        began = time.monotonic()
        before.terminate()
        code = before.ended()
        drained = time.monotonic() - began
        self.check(f"{to} serves, the other one has ended with exit code {code}", code == 0)
        self.check.figure("healthy after, and the other one ended within", f"{healthy:.1f} s, {drained:.1f} s")
        self.goes_on()

    def goes_on(self) -> None:
        """Let some time pass."""
        time.sleep(WHILE)


def rehearse(old: str, new: str) -> int:
    """Go there and back again; return how much failed."""
    check = Checks()
    with server() as postgres, database(postgres) as address, ExitStack() as stack:
        settings = {"DATABASE_URL": address, **KEYS}
        once(old, "alpha-monday", "migrate", DATABASE_URL=address)
        fill(address)
        last = max(steps(old, address))
        if all(steps(new, address).values()):
            new = with_a_migration(new, last + 1)
            stack.callback(asked, "rmi", "--force", new, check=False)
            check.figure("both know the same migrations; the new one is given another", f"{last + 1:04}")
        first = stack.enter_context(serving(old, free_port(), **settings))
        check.figure("the old one is healthy after", f"{first.healthy():.1f} s")
        before = history(first)
        asker = stack.enter_context(clients.asking(first.url))
        rehearsal = Rehearsal(check, address, asker)
        rehearsal.migrate(new)
        second = stack.enter_context(serving(new, free_port(), **settings))
        rehearsal.hand_over(first, second, "the new one")
        third = stack.enter_context(serving(old, free_port(), **settings))
        rehearsal.hand_over(second, third, "the old one, on the newer schema,")
        rehearsal.migrate(new, f"--down-to={last}")
        check("the old one is well on its own schema", httpx.get(f"{third.url}/health").status_code == 200)
        check("it tells the same history as in the beginning", history(third) == before)
        asker.stop()
        check("not one request failed", not asker.failures, asker.failures[:3] or f"{asker.answered:,} were answered")
        check.figure("the slowest answer", f"{asker.slowest * 1000:,.0f} ms")
    return check.failed


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", help="the image that serves now")
    parser.add_argument("new", help="the image to come")
    images = parser.parse_args()
    isolate()
    sys.exit(1 if rehearse(images.old, images.new) else 0)
