"""
Rehearse an upgrade and its way back, with two images on one Postgres and a client that never pauses.

    python dev/image/upgrade.py alpha-monday:0.1.0 alpha-monday:0.2.0

In the order of `strategy = "bluegreen"`, which fly.toml sets:

1. The old version serves (blue). The release command of the new one migrates under it.
2. A new version whose worker fails is started beside it (green). It answers `/live` and never passes `/health`, so no
   request goes to it. It is killed; the old version goes on, and works on the newer schema. So it does after a new
   version that ends at its start, for want of a setting.
3. The new version is started beside the old one. Both work on the queue at the same time. Its checks pass, the requests
   move to it, and only then is the old one stopped.
4. The way back: the old version takes over in the same manner, on the newer schema.
5. The schema's way back: with the service stopped, the new version takes its migration back; the old one is started.

Not one request may fail, and no job may be done twice or stay behind. Where both know the same migrations, the new one
is given another. Each line is a check or a figure; the exit code is 1 when a check failed. Needs Linux, and podman or
docker.
"""

import argparse
import re
import sys
import tempfile
import time
import tomllib
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

import clients
import httpx
from checks import KEYS, Checks
from database import BATCHES, database, fill, server
from engine import Container, asked, isolate, once, serving
from ports import free_port

from app.database import sessions

FLY = tomllib.loads((Path(__file__).parents[2] / "fly.toml").read_text())
ROUTING = FLY["http_service"]["checks"][0]["path"]
CHECKED = [ROUTING, *(check["path"] for check in FLY["checks"].values())]

WHILE = 3.0  # seconds of each state
UNWELL_FOR = 12.0  # seconds for which a version that fails is watched: longer than it takes to be well
JOBS_WITHIN = 60.0  # seconds until both workers have done jobs

PACKAGES = "/alpha-monday/lib/python3.13/site-packages/"
MIGRATIONS = f"{PACKAGES}app/database/migrations/"
UP = """
ALTER TABLE batches ADD COLUMN rehearsed text NOT NULL DEFAULT 'nothing';
CREATE INDEX rehearsed ON checkpoints (checkpoint_date, status);
"""
DOWN = """
DROP INDEX rehearsed;
ALTER TABLE batches DROP COLUMN rehearsed;
"""

# Python imports a module of this name at its start.
FAILING = "sitecustomize.py"
FAILS = """
import procrastinate

async def run_worker_async(self, **options):
    raise RuntimeError("the worker of this version fails")

procrastinate.App.run_worker_async = run_worker_async
"""

# A heartbeat of a morning that none was announced for: a job that finds nothing to do.
DEFER = """
INSERT INTO queue.procrastinate_jobs (queue_name, task_name, args)
SELECT 'default', 'send_heartbeat', '{"morning": "2026-11-16"}' FROM generate_series(1, %s) RETURNING id
"""
DONE = """
SELECT id, status::text, attempts, worker_id FROM queue.procrastinate_jobs WHERE id = ANY(%s) AND status <> 'todo'
AND status <> 'doing'
"""
WORKERS = "SELECT count(*) FROM queue.procrastinate_workers WHERE last_heartbeat > now() - interval '30 seconds'"
LEFT_BEHIND = "SELECT count(*) FROM queue.procrastinate_jobs WHERE status = 'doing' AND worker_id IS NULL"


def steps(image: str, address: str) -> dict[int, bool]:
    """Return the migrations that an image knows, by number, and whether they were applied."""
    said = once(image, "alpha-monday", "migrate", "--status", DATABASE_URL=address).stdout
    return {
        int(number): word == "applied" for number, word in re.findall(r"^(\d+) \w+: (not applied|applied)", said, re.M)
    }


def unasked(image: str) -> list[str]:
    """Return what an image's `migrate --down-to` needs to ask nothing; earlier versions know no such option."""
    return ["--yes"] if "--yes" in once(image, "alpha-monday", "migrate", "--help").stdout else []


def with_files(image: str, to: str, files: dict[str, str]) -> str:
    """Return an image that is another with more files in a folder."""
    name = f"{image.partition(':')[0]}:rehearsed-upgrade-{uuid4().hex[:8]}"  # others may rehearse at the same time
    with tempfile.TemporaryDirectory() as folder:
        for file, text in files.items():
            (Path(folder) / file).write_text(text)
        recipe = Path(folder) / "Containerfile"
        recipe.write_text(f"FROM {image}\nCOPY {' '.join(files)} {to}\n")
        asked("build", "--quiet", f"--tag={name}", f"--file={recipe}", folder)
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
        """Migrate while another version serves."""
        began = time.monotonic()
        done = once(image, "alpha-monday", "migrate", *arguments, DATABASE_URL=self.address)
        took = time.monotonic() - began
        said = (done.stdout or done.stderr).strip().splitlines()
        self.check(" ".join(["migrate", *arguments]), done.returncode == 0, f"{took:.1f} s: {', '.join(said)}")
        self.goes_on()

    def fails(self, before: Container, after: Container) -> None:
        """Watch a version that never passes its checks, and end it; the one before serves and works all the while."""
        seen: set[tuple[str, int]] = set()
        while time.monotonic() - after.began < UNWELL_FOR:
            seen |= {(path, status) for path in CHECKED if (status := after.status(path))}
            time.sleep(0.2)
        well = {path for path, status in seen if status == 200}
        self.check(
            "a version whose worker fails answers, and never passes every check", well == {ROUTING}, sorted(seen)
        )
        self.check("meanwhile the old one is well", before.status("/health") == 200)
        after.kill()
        self.works(1, "after that version was killed, the old one works on the newer schema")
        self.goes_on()

    def ends(self, before: Container, after: Container) -> None:
        """See a version end at its start; the one before serves and works."""
        code = after.ended()
        self.check("a version that lacks a setting ends at its start", code == 1, after.log().strip().splitlines()[-1])
        self.check("meanwhile the old one is well", before.status("/health") == 200)
        self.works(1, "the old one works")

    def hand_over(self, before: Container, after: Container, to: str, signal: str) -> None:
        """Let another serve once all of its checks pass, beside the one before; then stop that one."""
        healthy = after.healthy()
        self.check(f"{to} passes the checks of fly.toml", {after.status(path) for path in CHECKED} == {200}, CHECKED)
        self.works(2, "both generations work at once, and each job is done once")
        self.asker.switch(after.url)
        self.goes_on()
        began = time.monotonic()
        before.terminate(signal)
        code = before.ended()
        drained = time.monotonic() - began
        self.check(f"{to} serves, the other one has ended with exit code {code} after SIG{signal}", code == 0)
        self.check.figure("healthy after, and the other one ended within", f"{healthy:.1f} s, {drained:.1f} s")
        self.works(1, "the one that is left does the jobs")
        self.goes_on()

    def works(self, workers: int, what: str) -> None:
        """Defer jobs until so many workers have done some; each must be done, once."""
        began, done = time.monotonic(), {}
        with sessions.connect(self.address, autocommit=True) as conn:
            conn.execute("SET search_path = queue")  # the queue's triggers need it
            while True:
                jobs = [number for (number,) in conn.execute(DEFER, (20,))]
                while len(ended := conn.execute(DONE, (jobs,)).fetchall()) < len(jobs):
                    if time.monotonic() - began > JOBS_WITHIN:
                        break
                    time.sleep(0.05)
                done.update({number: rest for number, *rest in ended})
                known = {worker for _, _, worker in done.values()}
                if len(known) >= workers or time.monotonic() - began > JOBS_WITHIN:
                    break
            alive = conn.execute(WORKERS).fetchone()
            left = conn.execute(LEFT_BEHIND).fetchone()
        once_each = {tuple(rest[:2]) for rest in done.values()} == {("succeeded", 1)}
        well = len(known) == workers and alive == (workers,) and left == (0,) and once_each
        self.check(what, well, f"{len(done)} jobs by {len(known)} of {alive[0] if alive else 0} workers")

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
            files = {f"{last + 1:04}_rehearsed.{way}.sql": text for way, text in (("up", UP), ("down", DOWN))}
            new = with_files(new, MIGRATIONS, files)
            stack.callback(asked, "rmi", "--force", new, check=False)
            check.figure("both know the same migrations; the new one is given another", f"{last + 1:04}")
        broken = with_files(new, PACKAGES, {FAILING: FAILS})
        stack.callback(asked, "rmi", "--force", broken, check=False)
        blue = stack.enter_context(serving(old, free_port(), **settings))
        check.figure("the old one is healthy after", f"{blue.healthy():.1f} s")
        before = history(blue)
        asker = stack.enter_context(clients.asking(blue.url))
        rehearsal = Rehearsal(check, address, asker)
        rehearsal.migrate(new)
        rehearsal.fails(blue, stack.enter_context(serving(broken, free_port(), **settings)))
        rehearsal.ends(blue, stack.enter_context(serving(new, free_port(), DATABASE_URL=address)))
        check("the old one tells the same history on the newer schema", history(blue) == before)
        green = stack.enter_context(serving(new, free_port(), **settings))
        rehearsal.hand_over(blue, green, "the new one", "TERM")
        back = stack.enter_context(serving(old, free_port(), **settings))
        # flyctl says of bluegreen that it may stop a machine with SIGINT.
        rehearsal.hand_over(green, back, "the old one, on the newer schema,", "INT")
        asker.stop()
        check("not one request failed", not asker.failures, asker.failures[:3] or f"{asker.answered:,} were answered")
        check.figure("the slowest answer", f"{asker.slowest * 1000:,.0f} ms")
        back.terminate()
        check("the old one is stopped before the schema goes back", back.ended() == 0)
        rehearsal.migrate(new, f"--down-to={last}", *unasked(new))
        last_of_all = stack.enter_context(serving(old, free_port(), **settings))
        check.figure("the old one is healthy on its own schema after", f"{last_of_all.healthy():.1f} s")
        check("it tells the same history as in the beginning", history(last_of_all) == before)
    return check.failed


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", help="the image that serves now")
    parser.add_argument("new", help="the image to come")
    images = parser.parse_args()
    isolate()
    sys.exit(1 if rehearse(images.old, images.new) else 0)
