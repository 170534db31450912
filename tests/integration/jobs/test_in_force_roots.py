"""The root certificates of TIMESTAMP_ROOTS, as the journal states them."""

import dataclasses
import json
from datetime import timedelta
from pathlib import Path

import pytest
from commands import command
from job_context import MONDAY, JobHarness, logged, new_york
from job_context import clock as clock
from job_context import harness as harness
from msgspec.structs import replace
from record_server import check_record

from app.core import settings
from app.domain import rfc3161
from app.errors import ConfigurationError
from app.simulation.timestamp_authority import SimulatedAuthority
from jobs import daily, in_force

TUESDAY = MONDAY + timedelta(days=1)
FIRST, SECOND = SimulatedAuthority(), SimulatedAuthority()
BOTH = sorted(rfc3161.fingerprint(one.root) for one in (FIRST, SECOND))
COMMENT = b"# The authority's root, compared in two ways.\n"


def make(path: object, *, is_command: bool = False) -> tuple[str, ...]:
    """Return the fingerprints that a process with this file declares."""
    environment = {"DATABASE_URL": "postgresql://x/y", "TIMESTAMP_ROOTS": str(path)}
    return in_force.make(settings.load(environment), is_command=is_command).timestamp_roots


def signer_pem() -> bytes:
    """Return a certificate that the first root has issued: no root."""
    request = rfc3161.make_request(b"an entry")
    stamp = rfc3161.verify_response(
        FIRST.stamp(request.encoded, new_york(MONDAY)),
        data_hash=request.data_hash,
        nonce=request.nonce,
        roots=[FIRST.root],
    )
    end = "-----END CERTIFICATE-----\n"
    return (stamp.chain_pem.partition(end)[0] + end).encode()


def write(folder: Path, pem: bytes, name: str = "roots.pem") -> Path:
    """Write a file of root certificates, and return its path."""
    path = folder / name
    path.write_bytes(pem)
    return path


async def declare_roots(harness: JobHarness, path: Path) -> None:
    """Let the process of the harness run with a file of root certificates."""
    process = replace(harness.context.in_force, timestamp_roots=make(path))
    harness.context = dataclasses.replace(harness.context, in_force=process)


async def stated_roots(harness: JobHarness) -> list[list[str]]:
    """Return the root certificates of each entry with settings, oldest first."""
    contents = [json.loads(entry.content) for entry in await harness.journal()]
    return [one["settings"]["timestamp_roots"] for one in contents if "settings" in one]


def test_without_the_setting():
    """Nothing is declared."""
    assert make("") == ()


def test_both_roots_in_ascending_order(tmp_path):
    """They are the fingerprints, whatever the order of the file is."""
    path = write(tmp_path, SECOND.root_pem + FIRST.root_pem)
    assert list(make(path)) == BOTH


@pytest.mark.parametrize(
    ("pem", "problem"),
    [
        pytest.param(None, "cannot be read: No such file or directory", id="missing"),
        pytest.param(b"", "cannot be read: it must have certificates in PEM form", id="empty"),
        pytest.param(signer_pem(), "has no root", id="no root"),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path, pem, problem):
    """One line says so, also without TIMESTAMP_URLS. A command that needs no roots works."""
    path = tmp_path / "roots.pem"
    if pem is not None:
        path.write_bytes(pem)
    with pytest.raises(
        ConfigurationError, match=f"^The file of TIMESTAMP_ROOTS {problem}"
    ) as error:
        make(path)
    assert "\n" not in str(error.value)
    assert make(path, is_command=True) == ()


@pytest.mark.parametrize("name", ["serve", "work"])
def test_a_service_with_a_missing_file(clock, capsys, tmp_path, name):
    """The service does not start, and says why in one line, before it looks for its database."""
    # The commands configure the log of their process, which is that of the test.
    with logged("INFO", clock):
        result = command(
            capsys,
            name,
            DATABASE_URL="postgresql://127.0.0.1:1/nobody",
            TIMESTAMP_ROOTS=str(tmp_path / "s3cr3t"),
            OPENAI_API_KEY="a",
            ALPHA_VANTAGE_API_KEY="b",
            PORT="0",
        )
    assert result.exit_code == 1
    (line,) = result.error.splitlines()
    assert line.startswith("alpha-monday: The file of TIMESTAMP_ROOTS cannot be read: No such file")
    assert "s3cr3t" not in line


async def test_a_root_that_is_added_and_removed(harness, database, tmp_path):
    """Each change is one SETTINGS entry, before the next fact."""
    await declare_roots(harness, write(tmp_path, FIRST.root_pem))
    batch = await harness.make_batch()
    for day, pem in enumerate((FIRST.root_pem + SECOND.root_pem, SECOND.root_pem), start=1):
        await declare_roots(harness, write(tmp_path, pem))
        for moment in (9, 10):
            harness.clock.time = new_york(MONDAY + timedelta(days=day), moment)
            await daily.take(harness.context, batch.id, day)
    first, second = ([rfc3161.fingerprint(one.root)] for one in (FIRST, SECOND))
    assert await stated_roots(harness) == [first, BOTH, second]
    await check_record(database)


@pytest.mark.parametrize(
    ("name", "pem"),
    [
        pytest.param("roots.pem", SECOND.root_pem + FIRST.root_pem, id="another order"),
        pytest.param(
            "roots.pem", FIRST.root_pem + SECOND.root_pem + FIRST.root_pem, id="a duplicate"
        ),
        pytest.param(
            "roots.pem", COMMENT + FIRST.root_pem + COMMENT + SECOND.root_pem, id="a comment"
        ),
        pytest.param(
            "roots.pem",
            (FIRST.root_pem + SECOND.root_pem).replace(b"\n", b"\r\n"),
            id="CR LF",
        ),
        pytest.param("other.pem", FIRST.root_pem + SECOND.root_pem, id="another file"),
        pytest.param(
            "roots.pem", FIRST.root_pem + signer_pem() + SECOND.root_pem, id="no other root"
        ),
    ],
)
async def test_a_file_with_the_same_roots(harness, tmp_path, name, pem):
    """It is no change, so no entry is written."""
    await declare_roots(harness, write(tmp_path, FIRST.root_pem + SECOND.root_pem))
    batch = await harness.make_batch()
    await declare_roots(harness, write(tmp_path, pem, name))
    harness.clock.time = new_york(TUESDAY)
    await daily.take(harness.context, batch.id, 1)
    assert (await harness.kinds())[-1] == "CHECKPOINT"
    assert await stated_roots(harness) == [BOTH]
