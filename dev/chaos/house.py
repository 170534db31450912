"""What is harmed: a Postgres, three processes of the service, and the stand-ins for their providers."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import process
import psycopg
from psycopg.sql import SQL

from app.database import sessions
from app.database.embedded import EmbeddedPostgres
from app.simulation.rehearsal import CLOCK, Span

PROCESSES = 3
LONGEST_DRAIN = 40.0  # the jobs' 20 seconds, the requests', and a noisy machine

# Killed programs lose nothing that was written: what the kernel was handed stays. Only the machine's own end would.
POSTGRES = {"fsync": "off", "synchronous_commit": "on", "log_min_messages": "fatal"}

_FORKED = multiprocessing.get_context("forkserver")
_FORKED.set_forkserver_preload(["process"])


class Process:
    """One place for a process: whoever lives there now, and what became of those before."""

    def __init__(self, number: int, folder: Path, given: Mapping[str, str]) -> None:
        self.said, self.given = folder / f"process-{number}.log", given
        self.name = f"process {number}"
        self.living: Any = None
        self.frozen, self.began, self.expected_to_end = False, 0.0, True
        self._port = 0
        self._heard: Any = None

    def start(self, span: Span) -> None:
        """Start a process here."""
        self._port, (self._heard, tell) = 0, _FORKED.Pipe(duplex=False)
        self.living = _FORKED.Process(target=process.live, args=(self.given, span, self.said, tell), daemon=True)
        self.living.start()
        tell.close()
        self.began, self.expected_to_end = time.monotonic(), False

    @property
    def there(self) -> bool:
        """Return whether a process is here, be it frozen."""
        return self.living is not None and self.living.is_alive()

    @property
    def awake(self) -> bool:
        """Return whether a process is here that nobody has harmed yet."""
        return self.there and not self.frozen and not self.expected_to_end

    @property
    def port(self) -> int:
        """Return where it listens, 0 before it does."""
        with suppress(EOFError):
            if not self._port and self._heard and self._heard.poll():
                self._port = self._heard.recv()
        return self._port

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.expected_to_end |= number in (signal.SIGKILL, signal.SIGTERM)
        self.frozen = number == signal.SIGSTOP
        os.kill(self.living.pid, number)

    def head(self) -> tuple[int, str] | None:
        """Return the journal's newest entry as its API shows it, or None while it does not answer."""
        if not (self.awake and self.port):
            return None
        query = {"query": "{ service { journalHead { seq hash } } }"}
        with suppress(httpx.HTTPError, KeyError, TypeError):  # it is starting, or away from its database
            answer = httpx.post(f"http://127.0.0.1:{self.port}/graphql", json=query, timeout=0.3).json()
            head = answer["data"]["service"]["journalHead"]
            return int(head["seq"]), head["hash"]
        return None

    def unwell(self) -> str:
        """Return what is wrong with it, by its own word; empty if nothing is."""
        try:
            answer = httpx.get(f"http://127.0.0.1:{self.port}/health", timeout=5)
        except httpx.HTTPError as error:
            return repr(error)
        return "" if answer.status_code == 200 else answer.text


class House:
    """All of it, in a folder of its own."""

    def __init__(self, folder: Path, hostile: str, rules: list[dict[str, Any]]) -> None:
        self.folder = folder
        self.postgres = EmbeddedPostgres(folder / "postgres", POSTGRES)
        self.postgres.start()
        self.address = self.postgres.database("chaos")
        self.requests = folder / "requests.jsonl"
        self.standins = self._play(hostile, rules)
        assert self.standins.stdout
        base = self.standins.stdout.readline().decode().strip()
        given = {
            "DATABASE_URL": self.address,
            "PORT": "0",
            "OPENAI_BASE_URL": f"{base}/v1",
            "OPENAI_API_KEY": "nobodys",
            "ALPHA_VANTAGE_BASE_URL": base,
            "ALPHA_VANTAGE_API_KEY": "nobodys",
        }
        self.given = given
        self.processes = [Process(number, folder, given) for number in range(1, PROCESSES + 1)]
        self.conn: psycopg.Connection[Any] | None = None

    def _play(self, hostile: str, rules: list[dict[str, Any]]) -> subprocess.Popen[bytes]:
        script = self.folder / "faults.json"
        script.write_text(json.dumps(rules))
        options = ["--faults", str(script), "--log", str(self.requests)]
        if hostile:
            options += ["--hostile", hostile]
        return subprocess.Popen(
            [sys.executable, "-m", "app.simulation.provider_simulators", "--until-input-ends", *options],
            env={**sessions.environment(), CLOCK: self.address},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Return what Postgres answers; a connection that was harmed is made anew once."""
        for _ in range(2):
            try:
                if self.conn is None or self.conn.closed:
                    self.conn = sessions.connect(self.address, name="chaos", autocommit=True, connect_timeout=2)
                    self.conn.execute("SET search_path = public, queue, operations")
                cursor = self.conn.execute(SQL(sql), values or None)  # type: ignore[arg-type]
                return cursor.fetchall() if cursor.description else []
            except psycopg.OperationalError as error:
                self.conn, failed = None, error
        raise failed

    def now(self) -> datetime:
        """Return the told time."""
        ((now,),) = self.rows("SELECT told.now()")
        return now.astimezone(UTC)  # type: ignore[no-any-return]

    def verify(self, head: tuple[int, str], where: str) -> subprocess.CompletedProcess[str]:
        """Have `alpha-monday verify` look at the database, or at what an API shows, and at the head of a journal."""
        from_ = ["--rehearsal"] if where == "database" else ["--from", f"http://127.0.0.1:{self.processes[0].port}"]
        command = [Path(sys.executable).with_name("alpha-monday"), "verify", "--head", f"{head[0]}:{head[1]}", *from_]
        return subprocess.run(command, env=self.given, cwd=self.folder, capture_output=True, text=True, check=False)

    def kill_postgres(self) -> None:
        """Kill the server and all its children at once, as the kernel would when memory runs out."""
        assert self.postgres.process
        family = [self.postgres.process.pid, *_children(self.postgres.process.pid)]
        for pid in family:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.postgres.process.wait()
        while any(Path(f"/proc/{pid}").exists() for pid in family[1:]):
            time.sleep(0.01)
        self.conn = None

    def end(self) -> None:
        """End whatever still runs."""
        for one in self.processes:
            if one.there:
                one.living.kill()
                one.living.join()
        if self.standins.stdin:
            self.standins.stdin.close()
        self.standins.wait(10)
        if self.conn:
            self.conn.close()
        self.postgres.stop()


def _children(pid: int) -> list[int]:
    tasks: Callable[[str], Path] = Path(f"/proc/{pid}/task").joinpath
    return [int(child) for child in tasks(f"{pid}/children").read_text().split()]
