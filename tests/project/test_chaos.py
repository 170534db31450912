"""
A small storm, and that the checker of storms finds violations.

`make chaos` is the large one.
"""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import UTC
from pathlib import Path
from typing import Any

import psycopg
import pytest

from app.database.embedded import EmbeddedPostgres

CHAOS = Path(__file__).parents[2] / "dev" / "chaos"
# With this seed, the server of the series `second` refuses its key on the first Monday.
SEED, HARMS = "15", 9


@pytest.fixture(scope="module")
def storm(tmp_path_factory) -> tuple[subprocess.CompletedProcess[str], Path]:
    """
    Run one harm of each kind in the first days of the batches of three series. Return the finished
    command, and its folder.
    """
    folder = tmp_path_factory.mktemp("chaos")
    options = [
        "--seed",
        SEED,
        "--faults",
        str(HARMS),
        "--days",
        "1",
        "--calm",
        "1",
        "--pause",
        "0.5",
        "--folder",
        str(folder),
    ]
    done = subprocess.run(
        [sys.executable, str(CHAOS / "run.py"), "--keep", *options],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    return done, folder / SEED


def test_every_invariant_holds_after_a_small_storm(storm):
    """
    Processes, connections and Postgres are killed and frozen, and jobs deleted, and a model's key
    is refused; afterwards every invariant holds for every series.
    """
    done, folder = storm
    print(done.stdout, done.stderr)
    assert done.returncode == 0
    assert done.stdout.count("  ok    ") == 16
    assert len((folder / "harm.jsonl").read_text().splitlines()) == HARMS
    assert "1 Mondays of 3 series, 1 failed because their server did" in done.stdout
    assert re.search(r"failed second \d{4}-\d\d-\d\d: CONFIGURATION", done.stdout)


# The checker


@pytest.fixture(scope="module")
def checker() -> Any:
    """The checker, which is in no package."""
    spec = importlib.util.spec_from_file_location("chaos_checker", CHAOS / "checker.py")
    assert spec
    assert spec.loader
    sys.modules[spec.name] = loaded = importlib.util.module_from_spec(spec)
    # It imports its neighbours.
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(CHAOS))
        spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture(scope="module")
def aftermath(storm) -> Iterator[str]:
    """The address of the storm's database."""
    with EmbeddedPostgres(storm[1] / "postgres") as postgres:
        yield postgres.address("chaos")


WRONGS = [
    (
        "1",
        "UPDATE batches SET run_date = run_date + 7 "
        "WHERE run_date = (SELECT max(run_date) FROM batches)",
    ),
    ("1", "DELETE FROM batches WHERE series = 'dice'"),
    ("1", "UPDATE batches SET failure_reason = 'NO_USABLE_ANSWER' WHERE series = 'second'"),
    ("2", "DELETE FROM checkpoints WHERE day = 2"),
    ("3", "UPDATE pick_checkpoint_metrics SET vs_benchmark_pct = vs_benchmark_pct + 1e-20"),
    ("4", "UPDATE closes SET close = close + 0.01 WHERE id = (SELECT id FROM closes LIMIT 1)"),
    ("5", "DELETE FROM journal WHERE seq = (SELECT max(seq) FROM journal)"),
    (
        "5",
        "INSERT INTO closes (id, ticker, trading_day, open, close, source, read_at) "
        "SELECT gen_random_uuid(), ticker, trading_day, open, close, source, read_at + interval "
        "'1 s' FROM closes LIMIT 1",
    ),
    (
        "7",
        "INSERT INTO provider_requests (provider, function, symbol, at) "
        "SELECT provider, function, symbol, at + interval '0.9 s' FROM provider_requests LIMIT 1",
    ),
    ("9", "DELETE FROM generations WHERE run_date = (SELECT max(run_date) FROM batches)"),
    ("9", "DELETE FROM generations WHERE series = 'second'"),
    (
        "A",
        "UPDATE procrastinate_jobs SET status = 'doing' "
        "WHERE id = (SELECT min(id) FROM procrastinate_jobs)",
    ),
    # A stamp of another entry, and another promise's block.
    (
        "C",
        "UPDATE timestamps SET proof = (SELECT proof FROM timestamps WHERE kind = 'RFC3161' "
        "ORDER BY seq LIMIT 1) WHERE kind = 'RFC3161'",
    ),
    ("C", "UPDATE timestamps SET hash = (SELECT hash FROM journal WHERE seq = 1)"),
    ("C", "UPDATE timestamps SET block_height = block_height + 1 WHERE block_height > 0"),
    (
        "D",
        "DELETE FROM timestamps WHERE kind = 'RFC3161' AND seq >= "
        "(SELECT max(seq) FROM journal WHERE kind = 'BATCH')",
    ),
    ("D", "DELETE FROM timestamps WHERE status = 'CONFIRMED'"),
    (
        "D",
        "UPDATE procrastinate_jobs SET status = 'todo' WHERE id = (SELECT max(id) "
        "FROM procrastinate_jobs WHERE task_name = 'stamp_head')",
    ),
    ("F", "DELETE FROM journal WHERE kind = 'SERIES' AND content LIKE '%dice%'"),
    ("G", "UPDATE batches SET failure = 'Wrong: KEY' WHERE series = 'second'"),
    (
        "E",
        "INSERT INTO timestamps (id, seq, hash, kind, status, authority, at, accuracy_seconds, "
        "received_at, nonce, proof, chain) SELECT gen_random_uuid(), seq, hash, kind, status, "
        "authority || number, at, accuracy_seconds, received_at, nonce, proof, chain "
        "FROM timestamps CROSS JOIN generate_series(1, 30) AS number WHERE kind = 'RFC3161'",
    ),
]


@pytest.mark.parametrize(("invariant", "wrong"), WRONGS, ids=[one for one, _ in WRONGS])
def test_the_checker_finds_what_is_wrong(storm, checker, aftermath, invariant, wrong):
    """Each invariant holds after the storm, and is violated after a small change of its data."""
    with psycopg.connect(aftermath, options=OPTIONS) as conn:
        seen = observe(checker, conn, storm=storm)
        conn.execute(
            "SET session_replication_role = replica"
        )  # the record's own guards would refuse
        invariant_of(checker, conn, requests=storm[1], seen=seen, number=invariant)()
        conn.execute(wrong)
        with pytest.raises(checker.InvariantBroken):
            invariant_of(checker, conn, requests=storm[1], seen=seen, number=invariant)()
        conn.rollback()


def test_the_checker_finds_timestamps_that_were_not_stored(storm, checker, aftermath, tmp_path):
    """The servers of timestamps answered many more requests than the service stored answers."""
    shutil.copy(storm[1] / "faults.json", tmp_path)
    lines = (storm[1] / "requests.jsonl").read_text().splitlines()
    digest = next(line for line in lines if '"calendar"' in line and '"digest"' in line)
    answered = json.loads(digest) | {"fault": None}
    more = [json.dumps(answered)] * (len(lines) + HARMS)
    (tmp_path / "requests.jsonl").write_text("\n".join([*lines, *more]) + "\n")
    with psycopg.connect(aftermath, options=OPTIONS) as conn:
        seen = observe(checker, conn, storm=storm)
        invariant_of(checker, conn, requests=storm[1], seen=seen, number="E")()
        with pytest.raises(checker.InvariantBroken):
            invariant_of(checker, conn, requests=tmp_path, seen=seen, number="E")()


OPTIONS = "-c search_path=public,queue,operations -c timezone=UTC"


def observe(checker: Any, conn: psycopg.Connection, *, storm: Any) -> Any:
    """Return what the storm's own command observed."""
    ((until,),) = conn.execute("SELECT until FROM told.clock").fetchall()
    return checker.Observations(
        end=until.astimezone(UTC),
        heads=set(conn.execute("SELECT seq, hash FROM journal").fetchall()),
        harm=Counter(SIGSTOP=HARMS),
        problems=[],
        verify=None,
        url="",
        keys=["Wrong: KEY"],
        timestamp_root=(storm[1] / "timestamp-root.pem").read_bytes(),
    )


def invariant_of(
    checker: Any, conn: psycopg.Connection, *, requests: Path, seen: Any, number: str
) -> Any:
    """Return the function of an invariant, of a new checker. `requests` is their folder."""
    rows = lambda sql: conn.execute(sql).fetchall()  # noqa: E731
    its = checker.InvariantChecker(rows, requests / "requests.jsonl", seen)
    return getattr(its, next(name for name in dir(its) if name.startswith(f"inv_{number}_")))


# Outages


def outage(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run `dev/chaos/outage.py`."""
    command = [sys.executable, str(CHAOS / "outage.py"), "--folder", str(folder), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.long
def test_the_service_is_back_soon_after_an_outage(tmp_path):
    """
    Stopped and frozen, idle and under load: the table has a row for each, and all parts work again.
    """
    done = outage(tmp_path / "outage", "--seconds", "8", "--within", "20")
    assert done.returncode == 0, done.stdout + done.stderr
    head, *rows = done.stdout.splitlines()
    assert head.split()[:6] == ["outage", "kind", "load", "noticed", "API", "/health"]
    assert [row.split()[2:4] for row in rows] == [
        ["stopped", "idle"],
        ["stopped", "load"],
        ["frozen", "idle"],
        ["frozen", "load"],
    ]


def test_the_outage_command_says_what_it_does():
    """`--help` has the choices."""
    done = subprocess.run(
        [sys.executable, str(CHAOS / "outage.py"), "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    for option in ("--seconds", "--kind", "--load", "--parallel", "--within", "stopped", "frozen"):
        assert option in done.stdout
