"""What is attacked: a Postgres with a record of many Mondays, simulated providers, and one process of the service."""

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
from app.simulation.rehearsal import CLOCK, EARLIEST

sys.path.append(str(Path(__file__).parents[1] / "bench"))
import data

HERE = Path(__file__).parent

# As it is installed, but for what makes the disk wait: it is shared with whatever else runs here.
POSTGRES = {"fsync": "off", "log_min_messages": "fatal", "shared_buffers": "64MB"}

# The written record ends long before the first Monday that is lived through: its made-up shares are no longer asked
# for. The Mondays between are recorded as missed.
NEWEST = EARLIEST
BEGIN = calendar.due_at(NEWEST + timedelta(weeks=10)) + timedelta(hours=36)

# The Monday, counted back from the newest, with one very long text: in the journal, and as a model's answer.
LONG_TEXT_AT = 30
LONG_TEXT = 30_000_000

# An entry of a real journal has some 2,000 characters; those of the bench have 350.
_LONGER_ENTRIES = """
SET session_replication_role = replica;
WITH longer AS (
    SELECT seq, replace(content, '"note":"', '"note":"' || repeat('every figure of the morning, and more ', 44)) AS text
    FROM journal)
UPDATE journal SET content = text, hash = encode(sha256(convert_to(previous || chr(10) || text, 'UTF8')), 'hex')
    FROM longer WHERE longer.seq = journal.seq;
"""
_LONG_ENTRY = """
SET session_replication_role = replica;
WITH long AS (
    SELECT min(seq) AS seq, '{"note":"' || repeat('0123456789', %d) || '"}' AS text
    FROM journal JOIN batches ON batches.id = batch_id WHERE run_date = '%s')
UPDATE journal SET content = text, hash = encode(sha256(convert_to(previous || chr(10) || text, 'UTF8')), 'hex')
    FROM long WHERE long.seq = journal.seq;
"""
_LONG_ANSWER = """
SET session_replication_role = replica;
UPDATE generations SET accepted = false, refusal = 'The answer is not JSON.', answer = repeat('0123456789', %d)
    WHERE run_date = '%s';
"""


class House:
    """All of it, in a folder of its own."""

    def __init__(self, folder: Path, mondays: int) -> None:
        self.folder, self.mondays = folder, mondays
        self.postgres = EmbeddedPostgres(folder / "postgres", POSTGRES)
        self.log = folder / "service.log"
        self.leap_until = folder / "leap-until"
        self.service: subprocess.Popen[bytes] | None = None
        self.simulators: subprocess.Popen[bytes] | None = None
        self.port = 0
        self.given: dict[str, str] = {}
        self.address = ""
        self._conn: psycopg.Connection[Any] | None = None

    def start(self) -> None:
        """Write the record, and start everything."""
        self.postgres.start()
        self.address = self.postgres.database("attack")
        asyncio.run(migrations.migrate(self.address, datetime(2010, 1, 1, tzinfo=UTC)))
        with sessions.connect(self.address, autocommit=True) as conn:
            data.write(conn, self.mondays, str(NEWEST))
            self._lengthen(conn)
        self._leap_until(BEGIN)
        self.simulators = subprocess.Popen(
            [sys.executable, "-m", "app.simulation.provider_simulators", "--until-input-ends", "--no-limits"],
            env={**sessions.environment(), CLOCK: self.address},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.simulators.stdout
        base = self.simulators.stdout.readline().decode().strip()
        self.given = {
            "DATABASE_URL": self.address,
            "PORT": "0",
            "OPENAI_BASE_URL": f"{base}/v1",
            "OPENAI_API_KEY": "key-of-no-account",
            "ALPHA_VANTAGE_BASE_URL": base,
            "ALPHA_VANTAGE_API_KEY": "key-of-no-account",
            # A Monday asks for four prices: its lateness shall not depend on what earlier mornings asked for.
            "ALPHA_VANTAGE_PER_SECOND": "10",
            "ALPHA_VANTAGE_PER_MINUTE": "500",
            "ALPHA_VANTAGE_PER_DAY": "5000",
        }
        self.serve()

    def _lengthen(self, conn: psycopg.Connection[Any]) -> None:
        """Give the record texts as long as an attacker finds them, or once had them stored."""
        conn.execute(_LONGER_ENTRIES)  # type: ignore[arg-type]
        monday = self.long_text_on
        for statement in (_LONG_ENTRY, _LONG_ANSWER):
            with suppress(psycopg.errors.CheckViolation):  # a record of today cannot hold it
                conn.execute((statement % (LONG_TEXT // 10, monday)).encode())
        conn.execute("VACUUM (ANALYZE)")

    @property
    def long_text_on(self) -> str:
        """Return the Monday with the very long texts."""
        return str(NEWEST - timedelta(weeks=min(LONG_TEXT_AT, self.mondays - 1)))

    def serve(self) -> None:
        """Start the service, and return when it listens."""
        began = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as output:
            self.service = subprocess.Popen(
                [
                    sys.executable,
                    str(HERE / "service.py"),
                    "--begin",
                    BEGIN.isoformat(),
                    "--leap-until",
                    str(self.leap_until),
                ],
                cwd=self.folder,
                env={**os.environ, **self.given},
                stdout=output,
                stderr=output,
            )
        serving, deadline = None, time.monotonic() + 60
        while not serving:
            time.sleep(0.05)
            text = self.log.read_bytes()[began:]
            serving = re.search(rb"Serving GraphQL at http://127.0.0.1:(\d+)", text)
            if self.service.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"The service did not start: {text.decode(errors='replace')}")
        self.port = int(serving[1])
        while not self.rows("SELECT 1 WHERE to_regclass('told.clock') IS NOT NULL"):
            time.sleep(0.05)

    def end_service(self) -> None:
        """End the service."""
        if self.service and self.service.poll() is None:
            self.service.terminate()
            try:
                self.service.wait(40)
            except subprocess.TimeoutExpired:
                self.service.kill()
                self.service.wait()

    def rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Return what Postgres answers."""
        if self._conn is None or self._conn.closed:
            self._conn = sessions.connect(self.address, name="attack", autocommit=True)
        cursor = self._conn.execute(SQL(sql), values or None)  # type: ignore[arg-type]
        return cursor.fetchall() if cursor.description else []

    def now(self) -> datetime:
        """Return the simulated time."""
        ((now,),) = self.rows("SELECT told.now()")
        return now.astimezone(UTC)  # type: ignore[no-any-return]

    def _leap_until(self, moment: datetime) -> None:
        """Write the file at once: the service reads it at any time."""
        written = self.leap_until.with_suffix(".new")
        written.write_text(moment.isoformat())
        written.replace(self.leap_until)

    def leap_to(self, moment: datetime, within: float = 120.0) -> None:
        """Let the simulated time leap until `moment`, and wait for it."""
        self._leap_until(moment)
        deadline = time.monotonic() + within
        while self.now() < moment:
            if time.monotonic() > deadline:
                raise SystemExit(f"Simulated time has come no further than {self.now()} in {within:.0f} s.")
            time.sleep(0.02)

    def end(self) -> None:
        """End whatever still runs."""
        self.end_service()
        if self.simulators:
            assert self.simulators.stdin
            self.simulators.stdin.close()
            self.simulators.wait(10)
        if self._conn:
            self._conn.close()
        self.postgres.stop()


# What the kernel knows of processes


def field_of(pid: int, file: str, name: str) -> float:
    """Return a field of a file of /proc/PID that is given in kB, in MB; 0 for a process that has ended."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) / 1024
    return 0.0


def peak_memory(pid: int) -> float:
    """Return the peak of the resident memory since `forget_peak`, in MB."""
    return field_of(pid, "status", "VmHWM:")


def memory(pid: int) -> float:
    """Return the resident memory, in MB."""
    return field_of(pid, "status", "VmRSS:")


def forget_peak(pid: int) -> None:
    """Let the peak begin anew."""
    with suppress(OSError):
        Path(f"/proc/{pid}/clear_refs").write_text("5")


def open_files(pid: int) -> int:
    """Return how many files a process has open."""
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0


def children(pid: int) -> list[int]:
    """Return the children of a process."""
    with suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def share(pid: int) -> float:
    """Return the memory of a process in MB, with its share of what it has in common with others."""
    return field_of(pid, "smaps_rollup", "Pss:")
