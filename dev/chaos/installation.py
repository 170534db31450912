"""
The installation that is harmed: Postgres, three service processes, and simulators.

The simulators are those of the providers, of a time-stamping authority (RFC 3161) and of a calendar
of OpenTimestamps. All of them are one process, which is never harmed.
"""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import process
import psycopg
import storm_series
from psycopg.sql import SQL

from app.database import sessions
from app.database.embedded import EmbeddedPostgres
from app.simulation import timestamp_calendar
from app.simulation.provider_simulators import CLOCK_VARIABLE
from app.simulation.rehearsal import RehearsalSpan

PROCESSES = 3
# In seconds: the jobs' 20 seconds, the requests' 10, and the delays of a busy machine.
MAX_DRAIN = 40.0

# A killed program loses nothing that it has written: the kernel still has it. Only a crash of the
# machine itself would lose it, so fsync is not needed here.
POSTGRES = {"fsync": "off", "synchronous_commit": "on", "log_min_messages": "fatal"}

# Processes are forked from one server that has imported everything, which saves seconds per start.
_FORKSERVER = multiprocessing.get_context("forkserver")
_FORKSERVER.set_forkserver_preload(["process"])


class ServiceProcess:
    """
    One of the service's processes, by its number; it is started again whenever it has ended.

    `is_expected_to_end` is True after a signal that ends the process, and before the first start.
    """

    def __init__(self, number: int, folder: Path, environment: Mapping[str, str]) -> None:
        self.name = f"process {number}"
        self.log = folder / f"process-{number}.log"
        self.environment = environment
        self.running: Any = None
        self.is_suspended = False
        self.started_at = 0.0
        self.is_expected_to_end = True
        self._port = 0
        self._receiver: Any = None

    def start(self, span: RehearsalSpan) -> None:
        """Start the process."""
        self._port = 0
        self._receiver, sender = _FORKSERVER.Pipe(duplex=False)
        # daemon: the process is terminated when this one ends.
        self.running = _FORKSERVER.Process(
            target=process.serve, args=(self.environment, span, self.log, sender), daemon=True
        )
        self.running.start()
        sender.close()
        self.started_at = time.monotonic()
        self.is_expected_to_end = False

    @property
    def is_alive(self) -> bool:
        """Return whether the process exists, suspended or not."""
        return self.running is not None and self.running.is_alive()

    @property
    def is_unharmed(self) -> bool:
        """Return whether the process exists, and no harm is under way."""
        return self.is_alive and not self.is_suspended and not self.is_expected_to_end

    @property
    def port(self) -> int:
        """Return the port on which the process listens, 0 before it does."""
        # EOFError: the process ended before it listened.
        with suppress(EOFError):
            if not self._port and self._receiver and self._receiver.poll():
                self._port = self._receiver.recv()
        return self._port

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process."""
        self.is_expected_to_end |= number in (signal.SIGKILL, signal.SIGTERM)
        self.is_suspended = number == signal.SIGSTOP
        os.kill(self.running.pid, number)

    def journal_head(self) -> tuple[int, str] | None:
        """Return the head of the journal from the process's API, or None if it does not answer."""
        if not (self.is_unharmed and self.port):
            return None
        query = {"query": "{ service { journalHead { seq hash } } }"}
        # The process may be starting, or may have lost its database.
        with suppress(httpx.HTTPError, KeyError, TypeError):
            url = f"http://127.0.0.1:{self.port}/graphql"
            answer = httpx.post(url, json=query, timeout=0.3).json()
            head = answer["data"]["service"]["journalHead"]
            return int(head["seq"]), head["hash"]
        return None

    def health_problem(self) -> str:
        """Return the problem that `/health` reports, empty without one."""
        try:
            response = httpx.get(f"http://127.0.0.1:{self.port}/health", timeout=5)
        except httpx.HTTPError as error:
            return repr(error)
        return "" if response.status_code == 200 else response.text


class Installation:
    """
    Everything that is harmed, in one folder.

    `hostile` is the seed of the simulators' random faults and of the keys, `rules` are the
    simulators' fault script. `keys` are all keys of the service: nothing may ever show one.
    """

    def __init__(self, folder: Path, hostile: str, rules: list[dict[str, Any]]) -> None:
        self.folder = folder
        self.postgres = EmbeddedPostgres(folder / "postgres", POSTGRES)
        self.postgres.start()
        self.address = self.postgres.ensure_database("chaos")
        self.request_log = folder / "requests.jsonl"
        self.root_file = folder / "timestamp-root.pem"
        self.simulators = self._start_simulators(hostile, rules)
        assert self.simulators.stdout
        base_url = self.simulators.stdout.readline().decode().strip()
        file_of_series = folder / storm_series.FILE_NAME
        storm_series.write_file(file_of_series, base_url, process.PROVIDER_TIMEOUT)
        keys = {
            **storm_series.make_keys(hostile),
            "ALPHA_VANTAGE_API_KEY": storm_series.make_key(hostile, "prices"),
        }
        self.keys = list(keys.values())
        self.environment = {
            "DATABASE_URL": self.address,
            "PORT": "0",
            "SERIES_FILE": str(file_of_series),
            "ALPHA_VANTAGE_BASE_URL": base_url,
            **keys,
            "TIMESTAMP_URLS": f"{base_url}/timestamp",
            "TIMESTAMP_ROOTS": str(self.root_file),
            "OTS_CALENDARS": f"{base_url}{timestamp_calendar.PATH}",
        }
        self.processes = [
            ServiceProcess(number, folder, self.environment) for number in range(1, PROCESSES + 1)
        ]
        self.conn: psycopg.Connection[Any] | None = None

    @property
    def url(self) -> str:
        """Return the address of the first process."""
        return f"http://127.0.0.1:{self.processes[0].port}"

    def _start_simulators(
        self, hostile: str, rules: list[dict[str, Any]]
    ) -> subprocess.Popen[bytes]:
        script = self.folder / "faults.json"
        script.write_text(json.dumps(rules))
        command = [sys.executable, "-m", "app.simulation.provider_simulators"]
        command += ["--until-input-ends", "--faults", str(script), "--log", str(self.request_log)]
        command += ["--timestamp-root", str(self.root_file)]
        if hostile:
            command += ["--hostile", hostile]
        return subprocess.Popen(
            command,
            env={**sessions.full_environment(), CLOCK_VARIABLE: self.address},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def fetch_rows(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Return the rows of a query; a connection that was harmed is opened again once."""
        for _ in range(2):
            try:
                # The chaos kills this connection, too.
                if self.conn is None or self.conn.closed:
                    self.conn = sessions.connect(
                        self.address, name="chaos", autocommit=True, connect_timeout=2
                    )
                    self.conn.execute("SET search_path = public, queue, operations")
                cursor = self.conn.execute(SQL(sql), parameters or None)  # type: ignore[arg-type]
                return cursor.fetchall() if cursor.description else []
            except psycopg.OperationalError as error:
                self.conn, failed = None, error
        raise failed

    def now(self) -> datetime:
        """Return the simulated time."""
        ((now,),) = self.fetch_rows("SELECT told.now()")
        return now.astimezone(UTC)  # type: ignore[no-any-return]

    def verify(self, head: tuple[int, str], source: str) -> subprocess.CompletedProcess[str]:
        """
        Run `alpha-monday verify` with a head of the journal.

        `source` is "database" for the database; otherwise the record is read through the API.
        """
        seq, hash_ = head
        program = Path(sys.executable).with_name("alpha-monday")
        command = [program, "verify", "--head", f"{seq}:{hash_}"]
        command += ["--timestamp-root", str(self.root_file)]
        if source == "database":
            command += ["--rehearsal"]
        else:
            command += ["--from", self.url]
        return subprocess.run(
            command,
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )

    def kill_postgres(self) -> None:
        """Kill the server and all its children at once, as the kernel does without memory."""
        assert self.postgres.process
        server = self.postgres.process.pid
        children = _children(server)
        for pid in (server, *children):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.postgres.process.wait()
        # A new server refuses to start while a child of the old one still exists.
        while any(Path(f"/proc/{pid}").exists() for pid in children):
            time.sleep(0.01)
        self.conn = None

    def stop(self) -> None:
        """Stop everything that still runs."""
        for service_process in self.processes:
            if service_process.is_alive:
                service_process.running.kill()
                service_process.running.join()
        if self.simulators.stdin:
            self.simulators.stdin.close()
        self.simulators.wait(10)
        if self.conn:
            self.conn.close()
        self.postgres.stop()


def _children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]
