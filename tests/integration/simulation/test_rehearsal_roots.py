"""The root of the simulated time-stamping authority in the journal of a rehearsal."""

import json
from pathlib import Path

import psycopg
import pytest
from commands import run

from app.core import settings
from app.database.embedded import EmbeddedPostgres
from app.domain import rfc3161
from app.simulation import rehearsal
from app.simulation.timestamp_authority import SimulatedAuthority

ROOT_FILE = Path(".alpha-monday") / "timestamp-root.pem"


def stated_roots(folder: Path) -> dict[int, list[str]]:
    """Return the root certificates of each entry with settings, by the entry's number."""
    with (
        EmbeddedPostgres(folder / ".alpha-monday" / "postgres") as postgres,
        psycopg.connect(postgres.ensure_database("rehearsal")) as conn,
    ):
        rows = conn.execute("SELECT content FROM journal ORDER BY seq").fetchall()
    entries = [json.loads(content) for (content,) in rows]
    return {
        int(one["seq"]): one["settings"]["timestamp_roots"] for one in entries if "settings" in one
    }


@pytest.mark.long
def test_a_rehearsal_that_is_started_again(tmp_path):
    """
    The second start has the root of the first one, even if the file is lost: no settings change.

    `alpha-monday verify` says that the journal states the root of every token.
    """
    for until in ("2026-11-03", "2026-11-05"):
        weeks = ("--weeks", "1", "--until", until, "--calm", "--no-serve")
        done = run("rehearse", "--single", *weeks, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        (tmp_path / ROOT_FILE).rename(tmp_path / f"{until}.pem")
    (root,) = rfc3161.read_roots((tmp_path / "2026-11-03.pem").read_bytes())
    assert stated_roots(tmp_path) == {1: [rfc3161.fingerprint(root)]}

    line = f" with the root {rfc3161.fingerprint(root)}, which the settings of entry 1 state"
    verify = ("verify", "--rehearsal")
    for options in ((), ("--timestamp-root", "2026-11-05.pem")):
        verified = run(*verify, *options, cwd=tmp_path)
        assert verified.returncode == 0, verified.stderr
        (found,) = [one for one in verified.stdout.splitlines() if line in one]
        assert int(found.split()[0]) > 1
        assert ("was not pinned" in verified.stdout) == (options == ())


def test_the_root_of_a_seed():
    """Two authorities with one seed have the same root, and only the root: both stamps verify."""
    one, other = SimulatedAuthority("a seed"), SimulatedAuthority("a seed")
    assert one.root_pem == other.root_pem
    assert SimulatedAuthority("another seed").root_pem != one.root_pem
    assert rfc3161.root_fingerprints([one.root, other.root]) == (rfc3161.fingerprint(one.root),)


@pytest.mark.parametrize("has_simulators", [True, False])
def test_the_roots_of_a_live_service(tmp_path, has_simulators):
    """A rehearsal does not state the roots of authorities that must not stamp it."""
    (tmp_path / "live.pem").write_bytes(SimulatedAuthority().root_pem)
    environment = {
        "TIMESTAMP_URLS": "https://tsa.example/tsr",
        "TIMESTAMP_ROOTS": str(tmp_path / "live.pem"),
    }
    if not has_simulators:
        for name in ("OPENAI", "ALPHA_VANTAGE"):
            environment[f"{name}_BASE_URL"] = "http://127.0.0.1:9"
            environment[f"{name}_API_KEY"] = "abc123"
    configuration = settings.load(environment)
    simulators = rehearsal.running_simulators(
        configuration, "postgresql://x/y", calm=True, log=tmp_path / "requests.jsonl"
    )
    expected = ""
    if has_simulators:
        expected = str(tmp_path / "timestamp-root.pem")
    with simulators as simulated:
        assert simulated.timestamp_roots == expected
