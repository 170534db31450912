"""
What is in force in this process, for the declarations of the journal.

`app.domain.declarations` explains what a declaration is.
"""

from decimal import Decimal
from importlib.metadata import version
from ipaddress import ip_address
from urllib.parse import urlsplit, urlunsplit

from app.core import series_file, universe
from app.core.series_file import SeriesSettings
from app.core.settings import Settings
from app.domain import control, prompt, rfc3161
from app.domain.calendar import Calendar
from app.domain.declarations import (
    ControlProfile,
    InForce,
    Profile,
    SeriesInForce,
    schema_text,
    sha256_of,
)
from app.domain.returns import format_decimal
from app.domain.text import canonical_host, public_address
from app.providers.alpha_vantage import BASE_URL, PRICE_SOURCE
from app.providers.timestamp_services import read_root_file
from app.store import closes, declarations
from app.store.rows import Conn

# The address of the model's client if OPENAI_BASE_URL is not set. The library has it, too.
_MODEL_ADDRESS = "https://api.openai.com/v1"


def make(settings: Settings, *, is_command: bool = False) -> InForce:
    """
    Return what is in force in a process with these settings.

    `is_command` is true in a command of an operator. Such a command declares no root certificates
    and no series (see `app.domain.declarations.InForce`), so it does not read their files.

    Raises ConfigurationError if the file of TIMESTAMP_ROOTS or SERIES_FILE cannot be read.
    """
    timestamp_roots: tuple[str, ...] = ()
    series: list[SeriesSettings] = []
    if not is_command:
        timestamp_roots = _timestamp_roots(settings)
        series = series_file.load(settings)
    return InForce(
        version=version("alpha-monday"),
        benchmark=settings.benchmark_symbol,
        price_source=_price_source(settings),
        calendar=Calendar(settings.market_closed_days),
        timestamp_roots=timestamp_roots,
        further_benchmarks=settings.further_benchmarks,
        series=tuple(_in_force(one) for one in series),
        is_command=is_command,
    )


def _timestamp_roots(settings: Settings) -> tuple[str, ...]:
    """Return the fingerprints of the roots in the file of TIMESTAMP_ROOTS, if it is set."""
    if not settings.timestamp_roots:
        return ()
    certificates = rfc3161.read_roots(read_root_file(settings.timestamp_roots))
    return rfc3161.root_fingerprints(certificates)


def _in_force(series: SeriesSettings) -> SeriesInForce:
    profile: Profile | ControlProfile
    if series.kind == "random":
        profile = _control_profile()
    else:
        profile = _model_profile(series)
    return SeriesInForce(name=series.name, label=series.label, profile=profile)


def _control_profile() -> ControlProfile:
    listed = universe.load()
    return ControlProfile(
        draw_version=control.DRAW_VERSION,
        universe=listed.tickers,
        universe_source=listed.source,
    )


def _model_profile(series: SeriesSettings) -> Profile:
    return Profile(
        base_url=_model_address(series.base_url),
        model=series.model,
        response_format=series.response_format,
        temperature=_format_optional(series.temperature),
        reasoning_effort=series.reasoning_effort,
        max_tokens=_format_optional(series.max_tokens),
        token_limit_as=series.token_limit_as if series.max_tokens is not None else None,
        extra_body=schema_text(series.extra_body) if series.extra_body else None,
        tools=True if series.tools else None,
        timeout_seconds=_format(series.timeout_seconds),
        prompt_version=prompt.CURRENT.version,
        system_prompt_sha256=sha256_of(prompt.CURRENT.system_prompt),
        user_prompt_sha256=sha256_of(prompt.USER_PROMPT_TEMPLATE),
        schema=schema_text(prompt.CURRENT.schema),
    )


def _model_address(base_url: str) -> str:
    """Return the address of the model's provider; empty if it is the default one."""
    address = declared_address(base_url)
    return "" if address == _MODEL_ADDRESS else address


def _price_source(settings: Settings) -> str:
    """Return the name of the price provider, with its address if it is not the usual one."""
    address = declared_address(settings.alpha_vantage_base_url)
    if address in ("", BASE_URL):
        return PRICE_SOURCE
    return f"{PRICE_SOURCE} at {address}"


def _format(number: float) -> str:
    """Return a number in plain notation at full precision, without zeros at its end."""
    text = format_decimal(Decimal(str(number)))
    if "." in text:
        return text.rstrip("0").removesuffix(".")
    return text


def _format_optional(number: float | None) -> str | None:
    return None if number is None else _format(number)


def declared_address(url: str) -> str:
    """
    Return the address of a provider as the journal states it: empty for the default address.

    Besides what `app.domain.text.public_address` leaves out, the port of an address of this machine
    is left out: it says nothing about the provider, and the provider simulators of a rehearsal have
    another one at each start. One address has one form: a slash at its end, the port that its
    scheme has anyway and capitals in its host make no difference. Otherwise two processes that use
    the same provider would declare two settings by turns.
    """
    parts = urlsplit(public_address(url))
    host = canonical_host(parts)
    if _is_loopback(parts.hostname or ""):
        host = "localhost"
    return urlunsplit(parts._replace(netloc=host, path=parts.path.rstrip("/")))


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


async def effective_calendar(conn: Conn, sessions: Calendar, benchmark: str) -> Calendar:
    """
    Return the calendar of this process, without the closures that a price contradicts.

    MARKET_CLOSED_DAYS may list a day on which the exchange traded after all. In a sealed record, if
    a price of the benchmark was ever read for such a day, it is a session: the operator alone
    cannot take a session away. In a record that is not sealed, the setting decides, as before.
    """
    if not sessions.closed or not await declarations.is_sealed(conn):
        return sessions
    first, last = min(sessions.closed), max(sessions.closed)
    days_read = await closes.list_days_read(conn, benchmark, first=first, last=last)
    return Calendar(sessions.closed - days_read)
