"""The rules of a fault script."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from app.errors import ConfigurationError
from app.simulation.faults import FAULTS, FaultScript, SimulatedRequest, read_script

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


# The kind: a script that could be loaded, and whose rule would fail or never apply at a request.
@pytest.mark.parametrize(
    ("members", "problem"),
    [
        pytest.param(b'"since": "2026-11-03"', "Invalid RFC3339", id="a date alone"),
        pytest.param(b'"since": "2026-11-03T24:00:00Z"', "Invalid RFC3339", id="no such hour"),
        pytest.param(b'"until": "10000-01-01T00:00:00Z"', "Invalid RFC3339", id="a huge year"),
        pytest.param(
            b'"until": "2026-11-03T12:00:00+25:00"', "Invalid RFC3339", id="a huge offset"
        ),
        pytest.param(b'"since": 1762171200', "Expected `datetime | null`", id="seconds"),
        pytest.param(b'"times": true', "Expected `int | null`", id="a bool"),
        pytest.param(b'"times": "2"', "Expected `int | null`", id="a text"),
        pytest.param(b'"times": 2.5', "Expected `int | null`", id="a part"),
        pytest.param(b'"times": 1e400', "out of range", id="a huge number"),
        pytest.param(b'"times": NaN', "malformed", id="no number"),
        pytest.param(b'"times": 0', "Expected `int` >= 1", id="never"),
        pytest.param(b'"times": -1', "Expected `int` >= 1", id="less than never"),
        pytest.param(b'"time": 1', "unknown field `time`", id="an unknown member"),
        pytest.param(b'"symbol": "\xff"', "can't decode byte 0xff", id="no UTF-8"),
        pytest.param(
            b'"since": "2026-11-04T00:00:00Z", "until": "2026-11-03T00:00:00Z"',
            "its since is not before its until",
            id="the end before the begin",
        ),
        pytest.param(
            b'"since": "2026-11-03T07:00:00-05:00", "until": "2026-11-03T12:00:00Z"',
            "its since is not before its until",
            id="an empty period",
        ),
    ],
)
def test_a_rule_that_could_not_be_used_is_refused(members, problem):
    """It is refused when the script is read, with one line."""
    script = b'[{"provider": "openai", "fault": "refusal", %s}]' % members
    with pytest.raises(ConfigurationError) as refused:
        read_script(script, FAULTS)
    assert problem in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "members",
    [
        pytest.param(b'"since": "0001-01-01T00:00:00+14:00"', id="since before the calendar"),
        pytest.param(b'"until": "9999-12-31T23:59:59-14:00"', id="until after the calendar"),
        pytest.param(b'"since": "2026-11-03T12:00:00+23:59"', id="an odd offset"),
        pytest.param(b'"times": 99999999999999999999999999', id="very often"),
        pytest.param(b'"since": null, "until": null, "times": null', id="without values"),
    ],
)
def test_a_rule_with_unusual_values_applies(members):
    """A request at any time can be compared with every value that a script may have."""
    script = read_script(b'[{"provider": "openai", "fault": "refusal", %s}]' % members, FAULTS)
    request = SimulatedRequest(provider="openai", key="", symbol="", at=NOON)
    assert FaultScript(script).next_fault(request) == "refusal"


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
