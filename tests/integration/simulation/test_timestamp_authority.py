"""The simulated time-stamping authority as a part of `alpha-monday standins`."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from clocks import HandSetClock
from commands import environment, run

from app.domain import rfc3161
from app.errors import UnusableStamp
from app.providers.timestamp_authority import TimestampAuthority

NOW = datetime(2026, 11, 16, 14, tzinfo=UTC)


@pytest.fixture
def start_standins(tmp_path):
    """Start the simulators with some options, and return their address; they end with the test."""
    processes = []

    def start(*options: object) -> str:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "app.simulation.provider_simulators"),
                *("--now", NOW.isoformat(), "--until-input-ends", *map(str, options)),
            ],
            cwd=tmp_path,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process.stdout.readline().strip()

    yield start
    for process in processes:
        process.stdin.close()
        process.wait(30)
        process.stdout.close()


async def test_stamps_of_the_simulators(start_standins, tmp_path):
    """Their root is in the file when the address is printed, and a script chooses their faults."""
    rule = {"provider": "timestamp", "fault": "wrong_digest", "times": 1}
    Path(tmp_path / "faults.json").write_text(json.dumps([rule]))
    url = start_standins(
        *("--timestamp-root", "root.pem", "--faults", "faults.json", "--log", "requests.jsonl"),
        *("--odd", "a seed"),
    )
    roots = rfc3161.read_roots((tmp_path / "root.pem").read_bytes())
    authority = TimestampAuthority(f"{url}/timestamp", roots, HandSetClock(NOW))
    with pytest.raises(UnusableStamp, match="stamped another hash"):
        await authority.stamp(b"an entry")
    received = await authority.stamp(b"an entry")
    await authority.close()
    assert 0 <= (received.stamp.gen_time - NOW).total_seconds() < 60
    lines = [json.loads(line) for line in (tmp_path / "requests.jsonl").read_text().splitlines()]
    assert [(line["provider"], line["fault"]) for line in lines] == [
        ("timestamp", "wrong_digest"),
        ("timestamp", None),
    ]


def test_a_request_that_is_none(start_standins):
    """It is rejected in the authority's own form, whatever its bytes are."""
    url = start_standins("--timestamp-root", "root.pem")
    for body in (b"", b"{}", b"\x30\x80" * 1000):
        response = httpx.post(f"{url}/timestamp", content=body)
        assert response.headers["content-type"] == "application/timestamp-reply"
        with pytest.raises(UnusableStamp, match='the status 2, "rejection"'):
            rfc3161.verify_response(response.content, data_hash="0" * 64, nonce=None, roots=[])


def test_without_the_option(start_standins):
    """There is no authority, so the address is not found."""
    assert httpx.post(f"{start_standins()}/timestamp", content=b"").status_code == 404


def test_a_file_that_cannot_be_written(tmp_path):
    """The error is one line that names the file."""
    ended = run("standins", "--timestamp-root", "no/root.pem", cwd=tmp_path)
    assert ended.returncode == 1
    assert ended.stderr == (
        "alpha-monday: The simulators cannot start: no/root.pem: No such file or directory.\n"
    )
