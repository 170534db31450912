"""fly.toml agrees with the image and the service. The platform itself cannot be asked from here."""

import re
import tomllib
from pathlib import Path

import pytest
from containerfile import CONTAINERFILE, environment, words

from api.cache import MAX_BYTES, MAX_CONCURRENT
from app.commands import migrate, server
from app.commands.cli import group
from app.core import settings
from app.main import create_app
from jobs import worker
from jobs.queue import DRAIN_TIMEOUT

HOUSE = Path(__file__).parents[2]
FLY = tomllib.loads((HOUSE / "fly.toml").read_text())
SERVICE, DEPLOY = FLY["http_service"], FLY["deploy"]

# The proxy's checks decide whether a machine gets requests. The others, by name, do not; a
# deployment waits for both.
ROUTING, OTHERS = SERVICE["checks"], FLY["checks"]
CHECKS = [*ROUTING, *OTHERS.values()]
checks = pytest.mark.parametrize("check", CHECKS, ids=[check["path"] for check in CHECKS])

# The keys that flyctl reads, as far as they could be of use here. It ignores all others silently.
KNOWN = {
    "": "app primary_region kill_signal kill_timeout build deploy env http_service checks restart "
    "vm metrics",
    "build": "dockerfile",
    "deploy": "release_command release_command_timeout strategy wait_timeout",
    "http_service": "internal_port force_https auto_stop_machines auto_start_machines "
    "min_machines_running "
    "concurrency checks",
    "concurrency": "type soft_limit hard_limit",
    "checks": "method path interval timeout grace_period headers",
    "named check": "type port method path interval timeout grace_period headers processes",
    "restart": "policy",
    "vm": "size memory",
    "metrics": "port path",
}


def seconds(text: str) -> int:
    """Parse a duration as flyctl does, in the units that the file uses."""
    number, unit = re.fullmatch(r"(\d+)(s|m)", text).groups()
    return int(number) * {"s": 1, "m": 60}[unit]


def unknown(table: dict[str, object], name: str = "") -> list[str]:
    """Return the keys of a table, and of the tables in it, that flyctl would not read."""
    unread = [f"{name}.{key}" for key in table if key not in KNOWN[name].split()]
    for key, value in table.items():
        if (name, key) == ("", "checks"):  # at the top, each has a name of its own
            unread += [slip for check in value.values() for slip in unknown(check, "named check")]
            continue
        for inner in value if isinstance(value, list) else [value]:
            if isinstance(inner, dict) and key != "env" and key in KNOWN:
                unread += unknown(inner, key)
    return unread


def routes() -> set[str]:
    """Return the paths of the service."""
    return {route.path for route in create_app(settings.load({}), work=False).app.app.routes}


def test_every_key_is_read():
    """A misspelt key would have no effect."""
    assert unknown(FLY) == []


def test_a_key_that_flyctl_does_not_read_is_found():
    """It is found in a table, in a list of tables, in a named check, and at the top."""
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
    """
    The proxy, the scraper, the image and the service use one port, which is open to other hosts.
    """
    image = environment()
    loaded = settings.load({**image, **FLY["env"]})
    ports = {
        SERVICE["internal_port"],
        FLY["metrics"]["port"],
        *(check["port"] for check in OTHERS.values()),
    }
    assert ports == {loaded.port} == {int(words("EXPOSE")[0])}
    assert loaded.host == "0.0.0.0"


def test_the_environment_holds_settings_and_no_secrets():
    """Every variable is a setting and no secret; `fly secrets import` sets secrets."""
    names = {name.lower() for name in FLY["env"]}
    assert names <= set(settings.Settings.__struct_fields__)
    assert not names & settings.SECRETS


def test_requests_are_routed_by_whether_the_process_answers():
    """
    The only machine gets requests even if its worker is unavailable, which another check tests.
    """
    assert [check["path"] for check in ROUTING] == ["/live"]
    assert [check["path"] for check in OTHERS.values()] == ["/health"]


@checks
def test_a_check_asks_a_route(check):
    """Its method is one that the service supports, and there is no redirect."""
    assert check["path"] in routes()
    assert check["method"] == "GET"


def test_metrics_are_a_route():
    """The platform's Prometheus reads them."""
    assert FLY["metrics"]["path"] in routes()


def test_a_check_at_the_top_has_a_type_and_a_port():
    """flyctl requires the type, and such a check has no service whose port it could take."""
    assert {check["type"] for check in OTHERS.values()} == {"http"}
    assert all(isinstance(check["port"], int) for check in OTHERS.values())


def test_requests_and_jobs_have_their_time_to_end():
    """The platform waits longer than requests and jobs together may take, within its own limit."""
    assert FLY["kill_signal"] == "SIGTERM"
    assert server.LAST_REQUESTS + DRAIN_TIMEOUT < FLY["kill_timeout"] <= 300


@checks
def test_a_check_waits_longer_than_health_needs(check):
    """`/health` needs up to four seconds to notice a silent database, and checks do not overlap."""
    assert 4 < seconds(check["timeout"]) < seconds(check["interval"])
    assert seconds(check["timeout"]) <= 60
    assert seconds(check["interval"]) >= 2
    assert seconds(check["grace_period"]) >= 10


@checks
def test_a_deployment_waits_for_a_check(check):
    """
    It waits longer than a slow start and some checks, so that one failed check does not end it.
    """
    assert seconds(check["grace_period"]) + 4 * seconds(check["interval"]) < seconds(
        DEPLOY["wait_timeout"]
    )


def test_a_deployment_that_fails_leaves_the_old_version():
    """
    Blue/green starts the new version beside the old one. It needs a check, and refuses a volume.
    """
    assert DEPLOY["strategy"] == "bluegreen"
    assert CHECKS
    assert "mounts" not in FLY


def test_the_release_command_is_a_command():
    """It migrates, and the image has no entry point that would come before it."""
    program, *command = DEPLOY["release_command"].split()
    assert program == "alpha-monday" == words("CMD")[0]
    assert command == ["migrate"]
    assert group.get_command(None, "migrate") is migrate.migrate
    assert not words("ENTRYPOINT")


def test_one_machine_always_runs():
    """
    The platform does not stop it when there are no requests, and restarts it after every exit.
    """
    assert SERVICE["auto_stop_machines"] == "off"
    assert SERVICE["min_machines_running"] == 1
    assert [restart["policy"] for restart in FLY["restart"]] == ["always"]


def test_nothing_is_stored_on_the_machine():
    """
    There is no volume, because the record is in Postgres.

    The image is built from our Containerfile.
    """
    assert not {"mounts", "files", "statics"} & set(FLY)
    assert HOUSE / FLY["build"]["dockerfile"] == CONTAINERFILE


def test_the_service_decides_who_is_refused():
    """
    The proxy lets more requests through than the service answers at once, so that the service can
    refuse them itself.
    """
    limits = SERVICE["concurrency"]
    assert limits["type"] == "requests"
    assert MAX_CONCURRENT < limits["soft_limit"] < limits["hard_limit"]


def test_the_response_cache_leaves_room():
    """The response cache uses a small part of the machine's memory."""
    (machine,) = FLY["vm"]
    megabytes = int(re.fullmatch(r"(\d+)mb", machine["memory"])[1])
    assert megabytes * 2**20 >= 16 * MAX_BYTES


def test_visitors_are_led_to_https():
    """The proxy redirects them. The checks go past the proxy, so they are not redirected."""
    assert SERVICE["force_https"] is True
    assert not [check for check in CHECKS if "headers" in check]


def page(name: str) -> str:
    """Return one of the operator's pages as one line."""
    return " ".join((HOUSE / "docs" / "operate" / name).read_text().split())


def test_the_page_on_upgrades_says_the_same():
    """It has the strategy, the checks and the times of this file."""
    text = page("upgrade.md")
    assert f'`strategy = "{DEPLOY["strategy"]}"`' in text
    assert " and ".join(f"`{check['path']}`" for check in CHECKS) in text
    assert seconds(DEPLOY["wait_timeout"]) == 300
    assert "within the five minutes of `wait_timeout`" in text
    waits = (
        f"Running requests have {server.LAST_REQUESTS} seconds to end, and then running jobs have "
        f"{DRAIN_TIMEOUT:g}. The platform would kill the process after {FLY['kill_timeout']}."
    )
    assert waits in text


def test_the_page_on_health_says_what_starts_a_worker_again():
    """
    The process does, and the page says how soon. Of the platform only the restart policy does.
    """
    text = page("monitoring.md")
    assert (
        f"{worker.RESTART_PAUSE:g} seconds; {worker.RESTART_PAUSE_AFTER_FAILURE:g} if it fails "
        "repeatedly" in text
    )
    (restart,) = FLY["restart"]
    assert f'`[[restart]] policy = "{restart["policy"]}"`' in text
