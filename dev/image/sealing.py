"""
Rehearses the way of a record from an old version to its seal: three images, one Postgres.

    python dev/image/sealing.py alpha-monday:0.1.0 alpha-monday:0.2.0 alpha-monday:0.5.0

The steps are those of docs/operate/upgrade.md. Every version continues the same rehearsal, so its
simulated time goes on, and a fortnight is always running.

1. The old version records Mondays and mornings.
2. The middle version continues. It knows the kinds of entries of a sealed record.
3. The new version continues. The record is not sealed yet.
4. The way back: the middle version continues, on the newer schema.
5. Both work on the queue at the same time.
6. The new version seals the record, and continues.
7. The middle version is refused: it logs one line for each job, and records nothing.
8. The new version continues to the end of the fortnight.

After each step, the version that worked and the newest so far verify the record. An older version
may refuse entries of the newest, but only if it says that it is too old for them. The independent
verifier of the tests verifies what the newest one serves, and the heads of all earlier steps are in
the chain.
Each line is a check or a figure; the exit code is 1 if a check failed. Needs Linux, and podman or
docker.
"""

import argparse
import json
import re
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from checks import Checks
from database import running_server, temporary_database
from engine import isolate, run_engine, run_once, running_container
from ports import free_port

from app.database import sessions

# The verifier was written from docs/journal.md, and shares no code with the service.
sys.path.append(str(Path(__file__).parents[2] / "tests" / "support"))
from independent_verifier.refused import RecordRefused
from independent_verifier.verifier import verify as verify_from_outside

# A rehearsal writes its log into the current folder. Nothing else in the container is writable.
FOLDER = "/rehearsal"
WRITABLE = [f"--tmpfs={FOLDER}", f"--workdir={FOLDER}"]
READ_LOG = ["cat", ".alpha-monday/rehearsal.log"]

# The last day of each step. The first Monday is 2026-10-12.
OLD_UNTIL = "2026-10-21"
MIDDLE_UNTIL = "2026-10-23"
NEW_UNTIL = "2026-10-27"
BACK_UNTIL = "2026-10-29"
BOTH_UNTIL = "2026-11-03"
SEALED_UNTIL = "2026-11-05"
REFUSED_UNTIL = "2026-11-07"
END = "2026-11-13"

# In seconds: how long the refused version may take until it says so, and how long it is watched
# after that. It tries again each simulated minute.
REFUSAL_TIMEOUT = 60.0
WATCHED_SECONDS = 5.0

# The end of what an older `verify` says about entries of a newer version.
ASKS_FOR_NEWER = "verify it with a newer version."
REFUSAL = "this version is too old for the record"
COUNT_ENTRIES = "SELECT count(*) FROM journal"


@dataclass
class SealingRehearsal:
    """
    The record on its way.

    `heads` are copies of the journal's head, one for each verification. `versions` are the images
    that have worked on the record, the oldest first: the last one has migrated the database.
    `until` is the last day of the newest step. Simulated time never goes back behind it.
    """

    check: Checks
    address: str
    until: str = OLD_UNTIL
    versions: list[str] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)

    def live(self, image: str, until: str) -> None:
        """Let a version continue the rehearsal to the end of a day, and check the record."""
        if image not in self.versions:
            self.versions.append(image)
        self.until = until
        done = run_once(image, *_rehearse(until), more=WRITABLE, DATABASE_URL=self.address)
        self.check(f"{image} continues until {until}", done.returncode == 0, _last_line(done))
        self.verify(image)

    def live_together(self, image: str, until: str) -> None:
        """Let a version and the newest one continue the rehearsal at the same time."""
        images = [image, self.versions[-1]]
        self.until = until
        with ExitStack() as stack:
            containers = [
                stack.enter_context(
                    running_container(
                        image,
                        free_port(),
                        command=_rehearse(until),
                        more=WRITABLE,
                        DATABASE_URL=self.address,
                    )
                )
                for image in images
            ]
            codes = [container.wait_for_end() for container in containers]
        self.check(f"{' and '.join(images)} work at once until {until}", set(codes) == {0}, codes)
        self.verify(image)

    def verify(self, image: str) -> None:
        """Verify the record with a version, with the newest and from outside; keep its head."""
        for verifier in dict.fromkeys([image, self.versions[-1]]):
            heads = [f"--head={head}" for head in self.heads]
            command = ["alpha-monday", "verify", *heads]
            done = run_once(verifier, *command, DATABASE_URL=self.address)
            is_older = verifier != self.versions[-1]
            self.check(
                f"  {verifier} verifies it, or says that it is too old",
                done.returncode == 0 or (is_older and ASKS_FOR_NEWER in done.stderr),
                _last_line(done),
            )
            if match := re.search(r"The head: (\d+:[0-9a-f]{64})", done.stdout):
                self.heads.append(match[1])
        self._verify_from_outside()

    def _verify_from_outside(self) -> None:
        container = running_container(
            self.versions[-1],
            free_port(),
            command=["alpha-monday", "rehearse", f"--until={self.until}", "--calm"],
            more=WRITABLE,
            DATABASE_URL=self.address,
        )
        with container as served:
            served.wait_until_healthy()
            try:
                summary = verify_from_outside(served.url)
            except RecordRefused as error:
                self.check("  the independent verifier accepts what is served", False, error)
            else:
                self.check(
                    "  the independent verifier accepts what is served",
                    True,
                    f"{summary.entries} entries, {summary.rows} rows",
                )

    def seal(self) -> None:
        """Seal the record with the newest version."""
        command = ["alpha-monday", "seal", "--yes"]
        done = run_once(self.versions[-1], *command, DATABASE_URL=self.address)
        self.check("alpha-monday seal", done.returncode == 0, _last_line(done))
        self.verify(self.versions[-1])

    def reject(self, image: str) -> None:
        """Check that a version before the seal is refused, says why, and records nothing."""
        before = self._count_entries()
        self.until = REFUSED_UNTIL
        container = running_container(
            image,
            free_port(),
            command=_rehearse(REFUSED_UNTIL),
            more=WRITABLE,
            DATABASE_URL=self.address,
        )
        with container as refused:
            deadline = time.monotonic() + REFUSAL_TIMEOUT
            lines = _refusals(refused.name)
            while not lines and time.monotonic() < deadline:
                time.sleep(0.5)
                lines = _refusals(refused.name)
            time.sleep(WATCHED_SECONDS)
            refused.kill()
        self.check(
            f"{image} is refused, and says why",
            lines,
            lines[0] if lines else f"nothing in {REFUSAL_TIMEOUT:.0f} s",
        )
        after = self._count_entries()
        self.check("  it has recorded nothing", after == before, f"{after} entries")
        self.verify(image)

    def _count_entries(self) -> int:
        with sessions.connect(self.address, autocommit=True) as conn:
            (count,) = conn.execute(COUNT_ENTRIES).fetchone() or (0,)
        return int(count)


def _rehearse(until: str) -> list[str]:
    options = ["--weeks=2", f"--until={until}", "--calm", "--no-serve"]
    return ["alpha-monday", "rehearse", *options]


def _refusals(container: str) -> list[str]:
    """Return the reasons of the lines in which a running rehearsal says that it is refused."""
    log = run_engine("exec", container, *READ_LOG, check=False).stdout
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    return [line["reason"] for line in lines if line["event"] == REFUSAL]


def _last_line(done: object) -> str:
    text = (getattr(done, "stdout", "") or getattr(done, "stderr", "")).strip()
    return text.splitlines()[-1] if text else ""


def rehearse(old: str, middle: str, new: str) -> int:
    """Take a record from the old version to its seal and beyond; return how many checks failed."""
    check = Checks()
    with running_server() as postgres, temporary_database(postgres) as address:
        record = SealingRehearsal(check, address)
        record.live(old, OLD_UNTIL)
        record.live(middle, MIDDLE_UNTIL)
        record.live(new, NEW_UNTIL)
        record.live(middle, BACK_UNTIL)
        record.live_together(middle, BOTH_UNTIL)
        record.seal()
        record.live(new, SEALED_UNTIL)
        record.reject(middle)
        record.live(new, END)
    return check.failed


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("old", help="the image that made the record")
    parser.add_argument("middle", help="the image that knows the kinds of a sealed record")
    parser.add_argument("new", help="the image that seals the record")
    images = parser.parse_args()
    isolate()
    sys.exit(1 if rehearse(images.old, images.middle, images.new) else 0)
