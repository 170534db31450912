"""The simulated time-stamping authority, judged by `openssl ts -verify`."""

from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from openssl_program import accepts, openssl

from app.domain import rfc3161
from app.simulation.faults import (
    TIMESTAMP,
    FaultScript,
    SimulatedReply,
    SimulatedRequest,
    read_script,
)
from app.simulation.odd_faults import ALL_FAULTS
from app.simulation.timestamp_authority import MalformedQuery, SimulatedAuthority

NOW = datetime(2026, 11, 16, 14, 4, 5, tzinfo=UTC)
AUTHORITY = SimulatedAuthority()
REQUEST = rfc3161.make_request(b"an entry of the journal")
# In as many bytes as it needs, as `openssl` prints it.
WRONG_NONCE = (REQUEST.nonce + 1).to_bytes(((REQUEST.nonce + 1).bit_length() + 7) // 8)
GOOD = AUTHORITY.stamp(REQUEST.encoded, NOW)


def stamp_with(fault: str) -> bytes:
    """Return the body of a reply with a fault."""
    request = SimulatedRequest(
        provider="timestamp",
        key="",
        symbol="",
        at=NOW,
        stamp=partial(AUTHORITY.stamp, REQUEST.encoded),
    )
    return TIMESTAMP[fault](SimulatedReply(body=GOOD), request).body


@pytest.mark.parametrize(
    "at",
    [
        pytest.param(datetime(2020, 1, 1, 0, 0, 1, tzinfo=UTC), id="the first day"),
        pytest.param(NOW, id="today"),
        pytest.param(datetime(2099, 12, 31, 23, 59, 59, tzinfo=UTC), id="the last day"),
    ],
)
def test_a_stamp_of_any_simulated_time(tmp_path, at):
    """It verifies, because the certificates are valid from 2020 to 2110."""
    response = AUTHORITY.stamp(REQUEST.encoded, at)
    assert accepts(
        response, data_hash=REQUEST.data_hash, root=AUTHORITY.root_pem, at=at, cwd=tmp_path
    )


@pytest.mark.parametrize(
    "fault",
    [
        "wrong_digest",
        "sha512_imprint",
        "bad_signature",
        "expired_certificate",
        "other_root",
        "wrong_purpose",
        "no_certificates",
        "rejection",
        "rejection_with_stamp",
    ],
)
def test_a_fault_that_openssl_finds(tmp_path, fault):
    """So the fault is really one. A wrong nonce or time shows only beside the request."""
    assert not accepts(
        stamp_with(fault),
        data_hash=REQUEST.data_hash,
        root=AUTHORITY.root_pem,
        at=NOW,
        cwd=tmp_path,
    )


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        # With an id: the nonce is random, and every process must know the case by the same name.
        pytest.param("wrong_nonce", f"Nonce: 0x{WRONG_NONCE.hex().upper()}", id="wrong_nonce"),
        ("no_nonce", "Nonce: unspecified"),
        ("a_day_early", "Time stamp: Nov 15 14:04:05 2026 GMT"),
        ("a_day_late", "Time stamp: Nov 17 14:04:05 2026 GMT"),
        ("wrong_algorithm", "Hash Algorithm: sha512"),
    ],
)
def test_a_fault_that_openssl_prints(tmp_path, fault, line):
    """All else of the response is as it should be."""
    printed = []
    for body in (GOOD, stamp_with(fault)):
        (tmp_path / "stamp.tsr").write_bytes(body)
        text = openssl("ts", "-reply", "-in", "stamp.tsr", "-text", cwd=tmp_path).stdout
        printed.append([one for one in text.splitlines() if not one.startswith("Serial number")])
    changed = [new for old, new in zip(*printed, strict=True) if old != new]
    assert changed == [line]


def test_no_key_is_the_same_twice():
    """A timestamp of another process does not verify with this root."""
    other = SimulatedAuthority().stamp(REQUEST.encoded, NOW)
    assert SimulatedAuthority().root_pem != AUTHORITY.root_pem
    with pytest.raises(rfc3161.UnusableStamp):
        rfc3161.verify_response(
            other,
            data_hash=REQUEST.data_hash,
            nonce=None,
            roots=rfc3161.read_roots(AUTHORITY.root_pem),
        )


@pytest.mark.parametrize(
    "query",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"{}", id="JSON"),
        pytest.param(REQUEST.encoded[:-1], id="a shorter request"),
        pytest.param(REQUEST.encoded * 2, id="two requests"),
        pytest.param(GOOD, id="a response"),
    ],
)
def test_a_malformed_request(query):
    """It gets no timestamp."""
    with pytest.raises(MalformedQuery):
        AUTHORITY.stamp(query, NOW)


def test_a_script_can_name_every_fault():
    """The provider is `timestamp`, and a rule has a time like every other rule."""
    for fault in TIMESTAMP:
        text = f'[{{"provider": "timestamp", "fault": "{fault}", "until": "2026-11-16T14:04:05Z"}}]'
        (rule,) = read_script(text.encode(), ALL_FAULTS)
        request = SimulatedRequest(provider="timestamp", key="", symbol="", at=NOW)
        assert not rule.matches(request)
        earlier = NOW - timedelta(seconds=1)
        assert rule.matches(SimulatedRequest(provider="timestamp", key="", symbol="", at=earlier))


def test_no_fault_is_chosen_at_random():
    """The seeds of a rehearsal choose the same faults as before, and none for a timestamp."""
    script = FaultScript(seed="a seed")
    for number in range(1000):
        at = NOW + timedelta(minutes=number)
        request = SimulatedRequest(provider="timestamp", key="", symbol="", at=at)
        assert script.next_fault(request) is None
