"""
The simulated calendar among the other simulators (app/simulation/timestamp_calendar.py): its
faults, and that it changes nothing for the other providers.
"""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from app.domain.calendar import Calendar
from app.domain.opentimestamps import parse_answer
from app.simulation.faults import FaultScript, SimulatedRequest, read_script
from app.simulation.market import Market
from app.simulation.odd_providers import OddProviders
from app.simulation.provider_simulators import KNOWN_FAULTS, ProviderSimulators

NOW = datetime(2026, 10, 26, 13, tzinfo=UTC)
DIGEST = bytes(32)
MARKET = Market(Calendar())


def scope(method: str, path: str, query: bytes = b"") -> dict[str, object]:
    """Return the parts of an ASGI scope that the simulators read."""
    headers = [(b"host", b"127.0.0.1:9"), (b"authorization", b"Bearer k")]
    return {"method": method, "path": path, "query_string": query, "headers": headers}


SUBMISSION = scope("POST", "/calendar/digest")
QUESTION = scope("POST", "/v1/chat/completions")
PRICES = scope("GET", "/query", b"function=TIME_SERIES_DAILY&symbol=MSFT&apikey=k")


def simulators(**options) -> ProviderSimulators:
    """Return simulators without limits."""
    return ProviderSimulators(MARKET, None, limits=False, **options)


def test_a_proof_leads_to_the_address_of_the_request():
    """The client compares it with its setting, so it has the host that the client used."""
    reply = simulators().reply(SUBMISSION, DIGEST, NOW)
    (one,) = parse_answer(DIGEST, reply.body)
    assert one.uri == "http://127.0.0.1:9/calendar/"


@pytest.mark.parametrize("fault", KNOWN_FAULTS["calendar"])
def test_a_script_can_name_each_fault(fault):
    """It applies as often as the rule says, to the function that the rule names."""
    rule = {"provider": "calendar", "fault": fault, "function": "digest", "times": 1}
    rules = read_script(msgspec.json.encode([rule]), KNOWN_FAULTS)
    simulated = simulators(script=FaultScript(rules))
    good = simulators().reply(SUBMISSION, DIGEST, NOW)
    other = simulated.reply(scope("GET", "/calendar/timestamp/00"), b"", NOW)
    assert other.status == 404
    assert simulated.reply(SUBMISSION, DIGEST, NOW) != good
    assert simulated.reply(SUBMISSION, DIGEST, NOW) == good


@pytest.mark.parametrize("fault", KNOWN_FAULTS["calendar"])
@pytest.mark.parametrize("path", ["/calendar/", "/calendar/timestamp/00", "/calendar/tip"])
def test_a_fault_of_a_refused_request(fault, path):
    """A fault can be applied to any reply, a short text too."""
    rules = read_script(
        msgspec.json.encode([{"provider": "calendar", "fault": fault}]), KNOWN_FAULTS
    )
    assert simulators(script=FaultScript(rules)).reply(scope("GET", path), b"", NOW)


@pytest.mark.parametrize("options", [{"script": FaultScript(seed="a")}, {"odd": OddProviders("a")}])
def test_no_fault_is_drawn_at_random(options):
    """With a seed of either kind, the calendar answers correctly."""
    simulated, good = simulators(**options), simulators()
    for minute in range(300):
        at = NOW + timedelta(minutes=minute)
        assert simulated.reply(SUBMISSION, DIGEST, at) == good.reply(SUBMISSION, DIGEST, at)


@pytest.mark.parametrize("seed", ["a", "b", "a bad day"])
def test_requests_to_the_calendar_change_no_other_fault(seed):
    """The same seeds choose the same faults of the other providers, with and without stamps."""
    for make in (lambda: {"script": FaultScript(seed=seed)}, lambda: {"odd": OddProviders(seed)}):
        alone, beside = simulators(**make()), simulators(**make())
        for hour in range(200):
            at = NOW + timedelta(hours=hour)
            beside.reply(SUBMISSION, DIGEST, at)
            beside.reply(scope("GET", "/calendar/timestamp/00"), b"", at)
            for request, body in ((PRICES, b""), (QUESTION, b'{"model": "m"}')):
                assert beside.reply(request, body, at) == alone.reply(request, body, at)


def test_a_request_is_in_the_log(tmp_path):
    """With its function, its time and its fault."""
    rules = read_script(
        b'[{"provider": "calendar", "fault": "http_503", "times": 1}]', KNOWN_FAULTS
    )
    simulated = simulators(log=tmp_path / "log", script=FaultScript(rules))
    for _ in range(2):
        simulated.reply(SUBMISSION, DIGEST, NOW)
    assert simulated._log
    simulated._log.close()
    lines = [msgspec.json.decode(line) for line in (tmp_path / "log").read_bytes().splitlines()]
    assert [(line["provider"], line["function"], line["fault"]) for line in lines] == [
        ("calendar", "digest", "http_503"),
        ("calendar", "digest", None),
    ]


def test_a_script_without_faults_at_random_is_unchanged():
    """A request of a provider that no seed knows gets no fault."""
    request = SimulatedRequest(provider="another", key="", symbol="", at=NOW)
    assert FaultScript(seed="a").next_fault(request) is None
