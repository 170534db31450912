"""
The series of a rehearsal: its own ones, or those of an operator's file.

A rehearsal writes a file of series, as an operator does, and runs the service with it. All of its
models are asked at the simulators, whatever addresses the operator's file has: no request leaves
this machine, and no key is needed. A server is recognised by its address, and simulated by its kind
(`app.simulation.model_servers`).
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, time, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from msgspec import Struct
from msgspec.structs import replace

from app.core import series_file
from app.core.series_file import SeriesSettings
from app.core.settings import Settings
from app.domain import calendar
from app.simulation.model_servers import MODEL_SERVERS
from app.simulation.provider_simulators import MODEL_PATH, SERVERS_PATH

# A rehearsal of at least this many weeks changes its series on the way. The second model retires
# before the Monday with the index _RETIRES_AT (the first Monday has the index 0), and the third one
# joins a week later. Never four series at once: their closes would take all requests of a day.
WEEKS_WITH_CHANGES = 26
_RETIRES_AT = 12
_JOINS_AT = 13
# The change is made at this time on the day before the Monday.
_TIME_OF_CHANGE = time(18)

# The names of a rehearsal's own series.
_MAIN, _SECOND, _THIRD, _DICE = "main", "second", "third", "dice"
OWN_NAMES = frozenset({_MAIN, _SECOND, _THIRD, _DICE})

_OPENAI = "openai"
# The kinds of servers by the end of their host's name, and those on one's own machine by their
# usual port.
_KINDS_BY_HOST = {
    "anthropic.com": "anthropic",
    "api.x.ai": "xai",
    "deepseek.com": "deepseek",
    "googleapis.com": "gemini",
    "mistral.ai": "mistral",
    "openrouter.ai": "openrouter",
}
_KINDS_BY_PORT = {8000: "vllm", 11434: "ollama"}

# Options of a series that are written into the file as they are.
_OPTIONS = (
    "label",
    "model",
    "response_format",
    "reasoning_effort",
    "temperature",
    "max_tokens",
    "token_limit_as",
    "timeout_seconds",
    "tools",
)


class SimulatedSeries(Struct, frozen=True, kw_only=True):
    """
    A series of a rehearsal.

    `path` is the path at the simulators at which its model is asked; it is empty for a control.
    """

    settings: SeriesSettings
    path: str = ""


class SeriesPhase(Struct, frozen=True, kw_only=True):
    """
    The series that a rehearsal plays for a time.

    `until` is the time at which the next phase begins; None for the last phase.
    """

    series: list[SimulatedSeries]
    until: datetime | None = None


def several(settings: Settings, first_monday: datetime, weeks: int) -> list[SeriesPhase]:
    """
    Return the phases of a rehearsal with two models and a control.

    `first_monday` is a time on the first Monday. In a rehearsal of at least WEEKS_WITH_CHANGES
    weeks, the second model retires, and a third one joins.
    """
    main, dice = _main(settings), _control()
    second = _model(settings, name=_SECOND, label="Claude Opus 4.8", kind="anthropic")
    if weeks < WEEKS_WITH_CHANGES:
        return [SeriesPhase(series=[main, second, dice])]
    third = _model(settings, name=_THIRD, label="Magistral Medium", kind="mistral")
    return [
        SeriesPhase(series=[main, second, dice], until=_change_before(first_monday, _RETIRES_AT)),
        SeriesPhase(series=[main, dice], until=_change_before(first_monday, _JOINS_AT)),
        SeriesPhase(series=[main, third, dice]),
    ]


def of_file(settings: Settings, *, source: str = series_file.SETTING) -> list[SeriesPhase]:
    """
    Return the only phase of a rehearsal with the series of the file of the settings.

    Raises ConfigurationError for the first mistake in the file. The message names `source`, the
    setting or the option of the command that has the path of the file.
    """
    played = []
    for one in series_file.load(settings, source=source):
        if one.kind == "random":
            played.append(SimulatedSeries(settings=one))
        else:
            played.append(SimulatedSeries(settings=one, path=_path(server_kind(one.base_url))))
    return [SeriesPhase(series=played)]


def server_kind(base_url: str) -> str:
    """Return the kind of the server at an address; OpenAI's for an unknown address."""
    parts = urlsplit(base_url)
    host = parts.hostname or ""
    if _is_own_machine(host):
        return _KINDS_BY_PORT.get(parts.port or 0, _OPENAI)
    for end, kind in _KINDS_BY_HOST.items():
        if host == end or host.endswith(f".{end}"):
            return kind
    return _OPENAI


def _is_own_machine(host: str) -> bool:
    """Return whether a host is this machine, or one of the own network."""
    if host == "localhost" or "." not in host:
        return True
    try:
        return ip_address(host).is_private
    except ValueError:
        return False


def write_file(path: Path, series: Sequence[SimulatedSeries], base_url: str) -> None:
    """Write the file of series for simulators at `base_url`."""
    tables = [_table(one, base_url) for one in series]
    path.write_text("\n\n".join(tables) + "\n", encoding="utf-8")


def with_series(settings: Settings, phase: SeriesPhase, path: Path) -> Settings:
    """
    Write a phase's file of series to `path`, and return the settings of a service that uses it.

    `settings` are those of a rehearsal whose simulators run.
    """
    write_file(path, phase.series, settings.openai_base_url.removesuffix(MODEL_PATH))
    return replace(settings, series_file=str(path))


def _main(settings: Settings) -> SimulatedSeries:
    """Return the series that a service without a file of series has."""
    (main,) = series_file.load(replace(settings, series_file=""))
    return SimulatedSeries(settings=main, path=MODEL_PATH)


def _control() -> SimulatedSeries:
    return SimulatedSeries(settings=SeriesSettings(name=_DICE, label="Dice", kind="random"))


def _model(settings: Settings, *, name: str, label: str, kind: str) -> SimulatedSeries:
    # Mistral refuses OpenAI's name of the token limit. Without a limit, neither name is sent.
    series = SeriesSettings(
        name=name,
        label=label,
        model=MODEL_SERVERS[kind].model,
        timeout_seconds=settings.openai_timeout,
    )
    return SimulatedSeries(settings=series, path=_path(kind))


def _path(kind: str) -> str:
    return f"{SERVERS_PATH}/{kind}/v1"


def _change_before(first_monday: datetime, index: int) -> datetime:
    """Return the time of a change before the Monday with this index."""
    monday = calendar.new_york_date(first_monday) + timedelta(weeks=index)
    return calendar.from_new_york(monday - timedelta(days=1), _TIME_OF_CHANGE)


def _table(series: SimulatedSeries, base_url: str) -> str:
    """Return the table of a series, without an option whose value is the default."""
    settings = series.settings
    lines = [f"[{settings.name}]"]
    if settings.kind == "random":
        lines += ['kind = "random"', f"label = {_toml(settings.label)}"]
        return "\n".join(lines)
    lines.append(f"base_url = {_toml(base_url + series.path)}")
    for option in _OPTIONS:
        value = getattr(settings, option)
        # A model's name may be longer than a label, and is the label of a series without one.
        is_default = option == "label" and value == settings.model
        if value is not None and value is not False and not is_default:
            lines.append(f"{option} = {_toml(value)}")
    if settings.extra_body:
        lines.append(f"extra_body = {_toml(settings.extra_body)}")
    return "\n".join(lines)


def _toml(value: Any) -> str:
    """Return a value of the file as TOML: its texts, numbers and lists are written as in JSON."""
    if isinstance(value, Mapping):
        members = [f"{_toml(name)} = {_toml(inner)}" for name, inner in value.items()]
        return "{ " + ", ".join(members) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(inner) for inner in value) + "]"
    text = json.dumps(value, ensure_ascii=False)
    # The only character that JSON allows in a text and TOML does not.
    return text.replace("\x7f", "\\u007f")
