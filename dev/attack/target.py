"""
The target of the attacks: a Postgres with a record of many Mondays, simulators, and one service.

The functions at the end read what the kernel knows of a process.
"""

import asyncio
import os
import re
import subprocess
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
from psycopg.sql import SQL

from app.database import migrations, sessions
from app.database.embedded import EmbeddedPostgres
from app.domain import calendar
from app.simulation.provider_simulators import CLOCK_VARIABLE
from app.simulation.rehearsal import EARLIEST_MONDAY

sys.path.append(str(Path(__file__).parents[1] / "bench"))
import data

HERE = Path(__file__).parent

# The settings of an ordinary installation, except fsync: the disk is shared with other programs.
POSTGRES = {"fsync": "off", "log_min_messages": "fatal", "shared_buffers": "64MB"}

# The generated record ends long before the simulated time begins, so its invented tickers are no
# longer requested from the simulators. The service records the Mondays between as missed.
NEWEST = EARLIEST_MONDAY
BEGIN = calendar.due_at(NEWEST + timedelta(weeks=10)) + timedelta(hours=36)

# The Monday with one very long text in the journal and in a model's answer, counted back from the
# newest, and the length of the text.
LONG_TEXT_INDEX = 30
LONG_TEXT_LENGTH = 30_000_000

# An entry of a real journal has some 2,000 characters; those of the bench have 350.
_LENGTHEN_ENTRIES = """
SET session_replication_role = replica;
WITH longer AS (
    SELECT
        seq,
        replace(
            content,
            '"note":"',
            '"note":"' || repeat('every figure of the morning, and more ', 44)
        ) AS text
    FROM journal)
UPDATE journal
    SET content = text,
        hash = encode(sha256(convert_to(previous || chr(10) || text, 'UTF8')), 'hex')
    FROM longer WHERE longer.seq = journal.seq;
"""
_SET_LONG_ENTRY = """
SET session_replication_role = replica;
WITH long AS (
    SELECT min(seq) AS seq, '{"note":"' || repeat('0123456789', %d) || '"}' AS text
    FROM journal JOIN batches ON batches.id = batch_id WHERE run_date = '%s')
UPDATE journal
    SET content = text,
        hash = encode(sha256(convert_to(previous || chr(10) || text, 'UTF8')), 'hex')
    FROM long WHERE long.seq = journal.seq;
"""
_SET_LONG_ANSWER = """
SET session_replication_role = replica;
UPDATE generations
    SET accepted = false, refusal = 'The answer is not JSON.', answer = repeat('0123456789', %d)
    WHERE run_date = '%s';
"""


class AttackTarget:
    """Everything that is attacked, in one folder; the record has `mondays` Mondays."""

    def __init__(self, folder: Path, mondays: int) -> None:
        self.folder = folder
        self.mondays = mondays
        self.postgres = EmbeddedPostgres(folder / "postgres", POSTGRES)
        self.log = folder / "service.log"
        # The file with the moment until which simulated time jumps, see `service.py`.
        self.jump_file = folder / "leap-until"
        self.service: subprocess.Popen[bytes] | None = None
        self.simulators: subprocess.Popen[bytes] | None = None
        self.port = 0
        self.environment: dict[str, str] = {}
        self.address = ""
        self._conn: psycopg.Connection[Any] | None = None

    def start(self) -> None:
        """Write the record, and start everything."""
        self.postgres.start()
        self.address = self.postgres.ensure_database("attack")
        asyncio.run(migrations.migrate(self.address, datetime(2010, 1, 1, tzinfo=UTC)))
        with sessions.connect(self.address, autocommit=True) as conn:
            data.write(conn, self.mondays, str(NEWEST))
            self._lengthen_texts(conn)
        self._write_jump_file(BEGIN)
        base_url = self._start_simulators()
        self.environment = {
            "DATABASE_URL": self.address,
            "PORT": "0",
            "OPENAI_BASE_URL": f"{base_url}/v1",
            "OPENAI_API_KEY": "key-of-no-account",
            "ALPHA_VANTAGE_BASE_URL": base_url,
            "ALPHA_VANTAGE_API_KEY": "key-of-no-account",
            # High limits: the lateness of a Monday must not depend on the requests of earlier
            # mornings.
            "ALPHA_VANTAGE_PER_SECOND": "10",
            "ALPHA_VANTAGE_PER_MINUTE": "500",
            "ALPHA_VANTAGE_PER_DAY": "5000",
        }
        self.start_service()

    def _start_simulators(self) -> str:
        """Start the provider simulators, and return their address."""
        module = "app.simulation.provider_simulators"
        self.simulators = subprocess.Popen(
            [sys.executable, "-m", module, "--until-input-ends", "--no-limits"],
            env={**sessions.full_environment(), CLOCK_VARIABLE: self.address},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.simulators.stdout
        return self.simulators.stdout.readline().decode().strip()

    def _lengthen_texts(self, conn: psycopg.Connection[Any]) -> None:
        """Make the record's texts as long as in a real record, and one as long as once possible."""
        conn.execute(_LENGTHEN_ENTRIES)  # type: ignore[arg-type]
        monday = self.long_text_on
        for statement in (_SET_LONG_ENTRY, _SET_LONG_ANSWER):
            # Today's constraints do not allow such a text; an older version stored it.
            with suppress(psycopg.errors.CheckViolation):
                conn.execute((statement % (LONG_TEXT_LENGTH // 10, monday)).encode())
        conn.execute("VACUUM (ANALYZE)")

    @property
    def long_text_on(self) -> str:
        """Return the Monday with the very long texts."""
        return str(NEWEST - timedelta(weeks=min(LONG_TEXT_INDEX, self.mondays - 1)))

    def start_service(self) -> None:
        """Start the service, and return when it listens and its simulated time has begun."""
        log_start = self.log.stat().st_size if self.log.exists() else 0
        command = [sys.executable, str(HERE / "service.py")]
        command += ["--begin", BEGIN.isoformat(), "--leap-until", str(self.jump_file)]
        with self.log.open("ab") as output:
            self.service = subprocess.Popen(
                command,
                cwd=self.folder,
                env={**os.environ, **self.environment},
                stdout=output,
                stderr=output,
            )
        match, deadline = None, time.monotonic() + 60
        while not match:
            time.sleep(0.05)
            text = self.log.read_bytes()[log_start:]
            match = re.search(rb"Serving GraphQL at http://127.0.0.1:(\d+)", text)
            if self.service.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"The service did not start: {text.decode(errors='replace')}")
        self.port = int(match[1])
        # The clock is created after the service listens.
        while not self.fetch_rows("SELECT 1 WHERE to_regclass('told.clock') IS NOT NULL"):
            time.sleep(0.05)

    def stop_service(self) -> None:
        """Stop the service."""
        if self.service and self.service.poll() is None:
            self.service.terminate()
            try:
                self.service.wait(40)
            except subprocess.TimeoutExpired:
                self.service.kill()
                self.service.wait()

    def fetch_rows(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        if self._conn is None or self._conn.closed:
            self._conn = sessions.connect(self.address, name="attack", autocommit=True)
        cursor = self._conn.execute(SQL(sql), parameters or None)  # type: ignore[arg-type]
        return cursor.fetchall() if cursor.description else []

    def now(self) -> datetime:
        """Return the simulated time."""
        ((now,),) = self.fetch_rows("SELECT told.now()")
        return now.astimezone(UTC)  # type: ignore[no-any-return]

    def _write_jump_file(self, moment: datetime) -> None:
        """Write the file in one step, because the service may read it at any time."""
        new_file = self.jump_file.with_suffix(".new")
        new_file.write_text(moment.isoformat())
        new_file.replace(self.jump_file)

    def jump_to(self, moment: datetime, within: float = 120.0) -> None:
        """Let the simulated time jump until `moment`, and wait for it."""
        self._write_jump_file(moment)
        deadline = time.monotonic() + within
        while self.now() < moment:
            if time.monotonic() > deadline:
                raise SystemExit(
                    f"Simulated time has come no further than {self.now()} in {within:.0f} s."
                )
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop everything that still runs."""
        self.stop_service()
        if self.simulators:
            assert self.simulators.stdin
            self.simulators.stdin.close()
            self.simulators.wait(10)
        if self._conn:
            self._conn.close()
        self.postgres.stop()


def _read_size(pid: int, file: str, name: str) -> float:
    """
    Return a size from a file of /proc/PID, in MB.

    The kernel writes it in kB. Return 0 for a process that has ended.
    """
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) / 1024
    return 0.0


def peak_memory(pid: int) -> float:
    """Return the peak of the resident memory since `reset_peak_memory`, in MB."""
    return _read_size(pid, "status", "VmHWM:")


def resident_memory(pid: int) -> float:
    """Return the resident memory, in MB."""
    return _read_size(pid, "status", "VmRSS:")


def reset_peak_memory(pid: int) -> None:
    """Let the peak of the resident memory begin again."""
    # 5 is the kernel's code for "reset the peak".
    with suppress(OSError):
        Path(f"/proc/{pid}/clear_refs").write_text("5")


def count_open_files(pid: int) -> int:
    """Return how many files a process has open."""
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0


def children(pid: int) -> list[int]:
    """Return the children of a process."""
    with suppress(OSError):
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        return [int(child) for child in text.split()]
    return []


def proportional_memory(pid: int) -> float:
    """Return the memory of a process with its share of what it has in common with others, in MB."""
    return _read_size(pid, "smaps_rollup", "Pss:")
