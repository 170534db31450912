"""What fly.toml says holds for the image and for the service: the platform itself cannot be asked from here."""

import re
import tomllib
from pathlib import Path

import pytest
from containerfile import CONTAINERFILE, environment, words

from api.cache import MOST, MOST_AT_ONCE
from app.commands import migrate, server
from app.commands.cli import group
from app.core import settings
from app.main import create_app
from jobs import worker
from jobs.queue import DRAIN

HOUSE = Path(__file__).parents[2]
FLY = tomllib.loads((HOUSE / "fly.toml").read_text())
SERVICE, DEPLOY = FLY["http_service"], FLY["deploy"]

# The proxy's checks decide whether a machine gets requests. The others, by name, do not; a deployment waits for both.
ROUTING, OTHERS = SERVICE["checks"], FLY["checks"]
CHECKS = [*ROUTING, *OTHERS.values()]
checks = pytest.mark.parametrize("check", CHECKS, ids=[check["path"] for check in CHECKS])

# What flyctl reads, of what could be of use here; it passes over anything else without a word.
KNOWN = {
    "": "app primary_region kill_signal kill_timeout build deploy env http_service checks restart vm metrics",
    "build": "dockerfile",
    "deploy": "release_command release_command_timeout strategy wait_timeout",
    "http_service": "internal_port force_https auto_stop_machines auto_start_machines min_machines_running "
    "concurrency checks",
    "concurrency": "type soft_limit hard_limit",
    "checks": "method path interval timeout grace_period headers",
    "named check": "type port method path interval timeout grace_period headers processes",
    "restart": "policy",
    "vm": "size memory",
    "metrics": "port path",
}


def seconds(text: str) -> int:
    """Read a time as flyctl does, of those that stand here."""
    number, unit = re.fullmatch(r"(\d+)(s|m)", text).groups()
    return int(number) * {"s": 1, "m": 60}[unit]


def unknown(table: dict[str, object], name: str = "") -> list[str]:
    """Return the keys of a table, and of those in it, that flyctl would not read."""
    found = [f"{name}.{key}" for key in table if key not in KNOWN[name].split()]
    for key, value in table.items():
        if (name, key) == ("", "checks"):  # at the top, each has a name of its own
            found += [slip for check in value.values() for slip in unknown(check, "named check")]
            continue
        for inner in value if isinstance(value, list) else [value]:
            if isinstance(inner, dict) and key != "env" and key in KNOWN:
                found += unknown(inner, key)
    return found


def routes() -> set[str]:
    """Return the service's addresses."""
    return {route.path for route in create_app(settings.load({}), work=False).app.app.routes}


def test_every_key_is_read():
    """A slip of the pen is no setting."""
    assert unknown(FLY) == []


def test_a_key_that_flyctl_does_not_read_is_found():
    """In a table, in one of a list, in a named check, and at the top."""
    slips = {
        "kil_timeout": 60,
        "http_service": {"checks": [{"grace": "1s"}]},
        "checks": {"health": {"internal_port": 8080, "restart_limit": 3}},
        "vm": [{"memroy": "1gb"}],
    }
    assert unknown(slips) == [
        ".kil_timeout",
        "checks.grace",
        "named check.internal_port",
        "named check.restart_limit",
        "vm.memroy",
    ]


def test_ports_agree():
    """The proxy, the scraper, the image and the service mean one port, and it is open to more than loopback."""
    image = environment()
    loaded = settings.load({**image, **FLY["env"]})
    ports = {SERVICE["internal_port"], FLY["metrics"]["port"], *(check["port"] for check in OTHERS.values())}
    assert ports == {loaded.port} == {int(words("EXPOSE")[0])}
    assert loaded.host == "0.0.0.0"


def test_the_environment_holds_settings_and_no_secrets():
    """Whatever is set here is a setting; what must not be read by others is `fly secrets set`'s."""
    names = {name.lower() for name in FLY["env"]}
    assert names <= set(settings.Settings.__struct_fields__)
    assert not names & settings.SECRETS


def test_requests_are_routed_by_whether_the_process_answers():
    """A worker that is away takes no request from the only machine; whether it is well is another check's to ask."""
    assert [check["path"] for check in ROUTING] == ["/live"]
    assert [check["path"] for check in OTHERS.values()] == ["/health"]


@checks
def test_a_check_asks_a_route(check):
    """By a method that the service answers, and without a redirect."""
    assert check["path"] in routes()
    assert check["method"] == "GET"


def test_metrics_are_a_route():
    """The platform's Prometheus reads them."""
    assert FLY["metrics"]["path"] in routes()


def test_a_check_at_the_top_says_what_the_proxy_would_know():
    """Its type, which flyctl wants, and its port."""
    assert {check["type"] for check in OTHERS.values()} == {"http"}
    assert all(isinstance(check["port"], int) for check in OTHERS.values())


def test_requests_and_jobs_have_their_time_to_end():
    """Requests are waited for, then jobs; the platform's patience is longer, and no longer than it may be."""
    assert FLY["kill_signal"] == "SIGTERM"
    assert server.LAST_REQUESTS + DRAIN < FLY["kill_timeout"] <= 300


@checks
def test_a_check_is_patient(check):
    """`/health` takes up to four seconds to say that the database has fallen silent; checks do not overlap."""
    assert 4 < seconds(check["timeout"]) < seconds(check["interval"])
    assert seconds(check["timeout"]) <= 60
    assert seconds(check["interval"]) >= 2
    assert seconds(check["grace_period"]) >= 10


@checks
def test_a_deployment_waits_for_a_check(check):
    """Longer than a slow start and some checks take, so that one that fails by chance does not end a deployment."""
    assert seconds(check["grace_period"]) + 4 * seconds(check["interval"]) < seconds(DEPLOY["wait_timeout"])


def test_a_deployment_that_fails_leaves_the_old_version():
    """Blue/green starts the new one beside it. flyctl refuses that without a check, and with a volume."""
    assert DEPLOY["strategy"] == "bluegreen"
    assert CHECKS
    assert "mounts" not in FLY


def test_the_release_command_is_a_command():
    """It migrates, and fits the image: there is no entry point before it."""
    program, *command = DEPLOY["release_command"].split()
    assert program == "alpha-monday" == words("CMD")[0]
    assert command == ["migrate"]
    assert group.get_command(None, "migrate") is migrate.migrate
    assert not words("ENTRYPOINT")


def test_one_machine_always_runs():
    """Nothing stops it for want of requests, and it is started again however its process ends."""
    assert SERVICE["auto_stop_machines"] == "off"
    assert SERVICE["min_machines_running"] == 1
    assert [restart["policy"] for restart in FLY["restart"]] == ["always"]


def test_nothing_is_kept_on_the_machine():
    """The record is Postgres's: there is no volume, and the image is built from our Containerfile."""
    assert not {"mounts", "files", "statics"} & set(FLY)
    assert HOUSE / FLY["build"]["dockerfile"] == CONTAINERFILE


def test_the_service_decides_who_is_refused():
    """More requests come through than it answers at once, so that its own words are heard; some still wait outside."""
    limits = SERVICE["concurrency"]
    assert limits["type"] == "requests"
    assert MOST_AT_ONCE < limits["soft_limit"] < limits["hard_limit"]


def test_kept_answers_leave_room():
    """All that may be kept is a small part of the machine's memory."""
    (machine,) = FLY["vm"]
    megabytes = int(re.fullmatch(r"(\d+)mb", machine["memory"])[1])
    assert megabytes * 2**20 >= 16 * MOST


def test_visitors_are_led_to_https():
    """By the proxy: the checks go past it, and are not redirected."""
    assert SERVICE["force_https"] is True
    assert not [check for check in CHECKS if "headers" in check]


def page(name: str) -> str:
    """Return one of the operator's pages in one line."""
    return " ".join((HOUSE / "docs" / "operate" / name).read_text().split())


def test_the_page_on_upgrades_says_the_same():
    """The strategy, the checks and the times that an operator waits for."""
    text = page("upgrade.md")
    assert f'`strategy = "{DEPLOY["strategy"]}"`' in text
    assert " and ".join(f"`{check['path']}`" for check in CHECKS) in text
    assert seconds(DEPLOY["wait_timeout"]) == 300
    assert "within the five minutes of `wait_timeout`" in text
    waits = (
        f"requests have {server.LAST_REQUESTS} seconds, then jobs {DRAIN:g}, of the platform's {FLY['kill_timeout']}"
    )
    assert waits in text


def test_the_page_on_health_says_what_starts_a_worker_again():
    """The process itself, and how soon; nothing of the platform's but the restart policy, which this file has."""
    text = page("monitoring.md")
    assert f"{worker.PAUSE:g} seconds; {worker.PAUSE_OF_THE_FAILING:g} if it fails over and over" in text
    (restart,) = FLY["restart"]
    assert f'`[[restart]] policy = "{restart["policy"]}"`' in text
