"""The rules of a fault script."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from app.errors import ConfigurationError
from app.simulation.faults import FAULTS, SimulatedRequest, read_script

NOON = datetime(2026, 11, 3, 12, tzinfo=UTC)


@pytest.mark.parametrize("member", ["since", "until"])
def test_a_time_without_an_offset_is_refused(member):
    """
    Without this refusal every request would fail: a request's time has an offset, so the two cannot
    be compared.
    """
    rule = {"provider": "openai", "fault": "refusal", member: "2026-11-03T12:00:00"}
    message = rf"^The fault script cannot be read: .* at `\$\[0\]\.{member}`\.$"
    with pytest.raises(ConfigurationError, match=message):
        read_script(msgspec.json.encode([rule]), FAULTS)


@pytest.mark.parametrize(
    ("at", "matches"),
    [
        pytest.param(NOON - timedelta(seconds=1), False, id="before"),
        pytest.param(NOON, True, id="since"),
        pytest.param(NOON + timedelta(minutes=59), True, id="within"),
        pytest.param(NOON + timedelta(hours=1), False, id="until"),
    ],
)
def test_the_period_of_a_rule(at, matches):
    """It begins at `since` and ends just before `until`, in any time zone."""
    (rule,) = read_script(
        b'[{"provider": "openai", "fault": "refusal", '
        b'"since": "2026-11-03T07:00:00-05:00", "until": "2026-11-03T13:00:00Z"}]',
        FAULTS,
    )
    assert rule.matches(SimulatedRequest(provider="openai", key="", symbol="", at=at)) is matches
