"""
Rehearses an upgrade and its way back: two images, one Postgres, a client that never pauses.

    python dev/image/upgrade.py alpha-monday:0.1.0 alpha-monday:0.2.0

The steps are those of `strategy = "bluegreen"`, which fly.toml sets:

1. The old version serves (blue). The new version's release command migrates the database meanwhile.
2. A new version with a failing worker is started beside it (green). It answers `/live` and never
   passes `/health`, so it gets no requests. It is killed; the old version goes on, on the newer
   schema. The same happens with a new version that ends at its start because a setting is missing.
3. The new version is started beside the old one. Both work on the queue at the same time. Its
   checks pass, the requests go to it, and only then is the old version stopped.
4. The way back: the old version takes over in the same way, on the newer schema.
5. The way back of the schema: the service is stopped, the new version takes its migration back, and
   the old version is started.

No request may fail, and no job may be done twice or be left behind. If both versions know the same
migrations, the new one gets another. Each line is a check or a figure; the exit code is 1 if a
check failed. Needs Linux, and podman or docker.
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
from database import BATCHES, fill_database, running_server, temporary_database
from engine import Container, isolate, run_engine, run_once, running_container
from ports import free_port

from app.database import sessions

FLY = tomllib.loads((Path(__file__).parents[2] / "fly.toml").read_text())
ROUTING_PATH = FLY["http_service"]["checks"][0]["path"]
CHECKED_PATHS = [ROUTING_PATH, *(check["path"] for check in FLY["checks"].values())]

# How long each state lasts.
STATE_SECONDS = 3.0
# How long a version that fails is watched: longer than a good version takes to be healthy.
UNHEALTHY_SECONDS = 12.0
# In seconds: how long the workers may take to do jobs.
JOBS_TIMEOUT = 60.0

PACKAGES = "/alpha-monday/lib/python3.13/site-packages/"
MIGRATIONS = f"{PACKAGES}app/database/migrations/"
MIGRATION_UP = """
ALTER TABLE batches ADD COLUMN rehearsed text NOT NULL DEFAULT 'nothing';
CREATE INDEX rehearsed ON checkpoints (checkpoint_date, status);
"""
MIGRATION_DOWN = """
DROP INDEX rehearsed;
ALTER TABLE batches DROP COLUMN rehearsed;
"""

# Python imports a module of this name at its start.
FAILING_MODULE = "sitecustomize.py"
FAILING_WORKER = """
import procrastinate

async def run_worker_async(self, **options):
    raise RuntimeError("the worker of this version fails")

procrastinate.App.run_worker_async = run_worker_async
"""

# Heartbeats of a morning for which none is due: such a job ends without doing anything.
DEFER_JOBS = """
INSERT INTO queue.procrastinate_jobs (queue_name, task_name, args)
SELECT 'default', 'send_heartbeat', '{"morning": "2026-11-16"}'
FROM generate_series(1, %s)
RETURNING id
"""
ENDED_JOBS = """
SELECT id, status::text, attempts, worker_id
FROM queue.procrastinate_jobs
WHERE id = ANY(%s) AND status <> 'todo' AND status <> 'doing'
"""
COUNT_WORKERS = (
    "SELECT count(*) FROM queue.procrastinate_workers "
    "WHERE last_heartbeat > now() - interval '30 seconds'"
)
COUNT_LEFT_BEHIND = (
    "SELECT count(*) FROM queue.procrastinate_jobs WHERE status = 'doing' AND worker_id IS NULL"
)


def read_migrations(image: str, address: str) -> dict[int, bool]:
    """Return the migrations that an image knows, by number, and whether they were applied."""
    done = run_once(image, "alpha-monday", "migrate", "--status", DATABASE_URL=address)
    lines = re.findall(r"^(\d+) \w+: (not applied|applied)", done.stdout, re.MULTILINE)
    return {int(number): word == "applied" for number, word in lines}


def confirm_options(image: str) -> list[str]:
    """
    Return the options with which an image's `migrate --down-to` asks for no confirmation.

    Earlier versions have no such option, and never ask.
    """
    text = run_once(image, "alpha-monday", "migrate", "--help").stdout
    return ["--yes"] if "--yes" in text else []


def build_with_files(image: str, to: str, files: dict[str, str]) -> str:
    """Build an image that is another one with more files in a folder; return its name."""
    # A random name, because another process may rehearse at the same time.
    name = f"{image.partition(':')[0]}:rehearsed-upgrade-{uuid4().hex[:8]}"
    with tempfile.TemporaryDirectory() as folder:
        for file, text in files.items():
            (Path(folder) / file).write_text(text)
        recipe = Path(folder) / "Containerfile"
        recipe.write_text(f"FROM {image}\nCOPY {' '.join(files)} {to}\n")
        run_engine("build", "--quiet", f"--tag={name}", f"--file={recipe}", folder)
    return name


def fetch_batches(service: Container) -> list[object]:
    """
    Return the batches of the generated Mondays from the service's API.

    The worker may have recorded newer ones since.
    """
    query = clients.operation("Batches", first=100)
    answer = httpx.post(f"{service.url}/graphql", json=query).json()
    return list(answer["data"]["batches"]["nodes"])[-BATCHES:]


class UpgradeRehearsal:
    """An upgrade in its steps. `client` sends its requests to the version that serves."""

    def __init__(self, check: Checks, address: str, client: clients.ConstantClient) -> None:
        self.check = check
        self.address = address
        self.client = client

    def migrate(self, image: str, *arguments: str) -> None:
        """Migrate while another version serves."""
        began = time.monotonic()
        done = run_once(image, "alpha-monday", "migrate", *arguments, DATABASE_URL=self.address)
        took = time.monotonic() - began
        lines = (done.stdout or done.stderr).strip().splitlines()
        self.check(
            " ".join(["migrate", *arguments]),
            done.returncode == 0,
            f"{took:.1f} s: {', '.join(lines)}",
        )
        self.wait()

    def reject_unhealthy(self, before: Container, after: Container) -> None:
        """
        Watch a version that never passes its checks, and kill it.

        The version before serves and works meanwhile.
        """
        seen: set[tuple[str, int]] = set()
        while time.monotonic() - after.started_at < UNHEALTHY_SECONDS:
            for path in CHECKED_PATHS:
                if status := after.status(path):
                    seen.add((path, status))
            time.sleep(0.2)
        passed = {path for path, status in seen if status == 200}
        self.check(
            "a version whose worker fails answers, and never passes every check",
            passed == {ROUTING_PATH},
            sorted(seen),
        )
        self.check("meanwhile the old one is well", before.status("/health") == 200)
        after.kill()
        self.check_jobs(1, "after that version was killed, the old one works on the newer schema")
        self.wait()

    def reject_ending(self, before: Container, after: Container) -> None:
        """Check that a version ends at its start; the one before serves and works meanwhile."""
        code = after.wait_for_end()
        self.check(
            "a version that lacks a setting ends at its start",
            code == 1,
            after.log().strip().splitlines()[-1],
        )
        self.check("meanwhile the old one is well", before.status("/health") == 200)
        self.check_jobs(1, "the old one works")

    def hand_over(self, before: Container, after: Container, *, to: str, signal: str) -> None:
        """
        Switch to another version once all of its checks pass; then stop the one before.

        `to` is the name of the new one in the output, `signal` the one that stops the other.
        """
        healthy = after.wait_until_healthy()
        self.check(
            f"{to} passes the checks of fly.toml",
            {after.status(path) for path in CHECKED_PATHS} == {200},
            CHECKED_PATHS,
        )
        self.check_jobs(2, "both generations work at once, and each job is done once")
        self.client.switch(after.url)
        self.wait()
        began = time.monotonic()
        before.terminate(signal)
        code = before.wait_for_end()
        drained = time.monotonic() - began
        self.check(
            f"{to} serves, the other one has ended with exit code {code} after SIG{signal}",
            code == 0,
        )
        self.check.figure(
            "healthy after, and the other one ended within", f"{healthy:.1f} s, {drained:.1f} s"
        )
        self.check_jobs(1, "the one that is left does the jobs")
        self.wait()

    def check_jobs(self, workers: int, title: str) -> None:
        """Defer jobs until so many workers have done some, and check that each was done once."""
        deadline = time.monotonic() + JOBS_TIMEOUT
        done: dict[int, tuple[str, int, int]] = {}
        seen_workers: set[int] = set()
        with sessions.connect(self.address, autocommit=True) as conn:
            # The queue's triggers need this search path.
            conn.execute("SET search_path = queue")
            while len(seen_workers) < workers and time.monotonic() <= deadline:
                jobs = [job_id for (job_id,) in conn.execute(DEFER_JOBS, (20,))]
                ended = conn.execute(ENDED_JOBS, (jobs,)).fetchall()
                while len(ended) < len(jobs) and time.monotonic() <= deadline:
                    time.sleep(0.05)
                    ended = conn.execute(ENDED_JOBS, (jobs,)).fetchall()
                for job_id, status, attempts, worker in ended:
                    done[job_id] = (status, attempts, worker)
                    seen_workers.add(worker)
            (alive,) = conn.execute(COUNT_WORKERS).fetchone() or (0,)
            (left_behind,) = conn.execute(COUNT_LEFT_BEHIND).fetchone() or (0,)
        results = {(status, attempts) for status, attempts, _ in done.values()}
        passed = (
            len(seen_workers) == workers
            and alive == workers
            and left_behind == 0
            and results == {("succeeded", 1)}
        )
        self.check(title, passed, f"{len(done)} jobs by {len(seen_workers)} of {alive} workers")

    def wait(self) -> None:
        """Wait for the length of a state."""
        time.sleep(STATE_SECONDS)


def rehearse(old: str, new: str) -> int:
    """Upgrade and go back again; return how many checks failed."""
    check = Checks()
    with (
        running_server() as postgres,
        temporary_database(postgres) as address,
        ExitStack() as stack,
    ):
        settings = {"DATABASE_URL": address, **KEYS}
        run_once(old, "alpha-monday", "migrate", DATABASE_URL=address)
        fill_database(address)
        # If the upgrade has no migration of its own, it gets one, so that every run tries one.
        last = max(read_migrations(old, address))
        if all(read_migrations(new, address).values()):
            name = f"{last + 1:04}_rehearsed"
            files = {f"{name}.up.sql": MIGRATION_UP, f"{name}.down.sql": MIGRATION_DOWN}
            new = build_with_files(new, MIGRATIONS, files)
            stack.callback(run_engine, "rmi", "--force", new, check=False)
            check.figure(
                "both know the same migrations; the new one is given another", f"{last + 1:04}"
            )
        broken = build_with_files(new, PACKAGES, {FAILING_MODULE: FAILING_WORKER})
        stack.callback(run_engine, "rmi", "--force", broken, check=False)
        # Containers are removed when the stack ends, whatever happens.
        blue = stack.enter_context(running_container(old, free_port(), **settings))
        check.figure("the old one is healthy after", f"{blue.wait_until_healthy():.1f} s")
        before = fetch_batches(blue)
        client = stack.enter_context(clients.constant_client(blue.url))
        rehearsal = UpgradeRehearsal(check, address, client)
        rehearsal.migrate(new)
        rehearsal.reject_unhealthy(
            blue, stack.enter_context(running_container(broken, free_port(), **settings))
        )
        rehearsal.reject_ending(
            blue, stack.enter_context(running_container(new, free_port(), DATABASE_URL=address))
        )
        check(
            "the old one tells the same history on the newer schema", fetch_batches(blue) == before
        )
        green = stack.enter_context(running_container(new, free_port(), **settings))
        rehearsal.hand_over(blue, green, to="the new one", signal="TERM")
        back = stack.enter_context(running_container(old, free_port(), **settings))
        # flyctl says of bluegreen that it may stop a machine with SIGINT.
        rehearsal.hand_over(green, back, to="the old one, on the newer schema,", signal="INT")
        client.stop()
        check(
            "not one request failed",
            not client.failures,
            client.failures[:3] or f"{client.answered:,} were answered",
        )
        check.figure("the slowest answer", f"{client.slowest * 1000:,.0f} ms")
        back.terminate()
        check("the old one is stopped before the schema goes back", back.wait_for_end() == 0)
        rehearsal.migrate(new, f"--down-to={last}", *confirm_options(new))
        last_of_all = stack.enter_context(running_container(old, free_port(), **settings))
        check.figure(
            "the old one is healthy on its own schema after",
            f"{last_of_all.wait_until_healthy():.1f} s",
        )
        check("it tells the same history as in the beginning", fetch_batches(last_of_all) == before)
    return check.failed


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("old", help="the image that serves now")
    parser.add_argument("new", help="the image of the upgrade")
    images = parser.parse_args()
    isolate()
    sys.exit(1 if rehearse(images.old, images.new) else 0)
