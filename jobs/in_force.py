"""
What is in force in this process, for the declarations of the journal.

`app.domain.declarations` explains what a declaration is.
"""

from decimal import Decimal
from importlib.metadata import version
from ipaddress import ip_address
from urllib.parse import urlsplit, urlunsplit

from app.core.settings import Settings
from app.domain import prompt, rfc3161
from app.domain.calendar import Calendar
from app.domain.declarations import InForce, Profile, SeriesInForce, schema_text, sha256_of
from app.domain.model import SERIES
from app.domain.returns import format_decimal
from app.domain.text import canonical_host, public_address
from app.providers.alpha_vantage import BASE_URL, PRICE_SOURCE
from app.providers.timestamp_services import read_root_file
from app.store import closes, declarations
from app.store.rows import Conn

# The kind of response format that the model's client requests.
_RESPONSE_FORMAT = "json_schema"

# The address of the model's client if OPENAI_BASE_URL is not set. The library has it, too.
_MODEL_ADDRESS = "https://api.openai.com/v1"


def make(settings: Settings, *, is_command: bool = False) -> InForce:
    """
    Return what is in force in a process with these settings.

    `is_command` is true in a command of an operator. Such a command declares no root certificates
    (see `app.domain.declarations.InForce`), so it does not read their file.

    Raises ConfigurationError if the file of TIMESTAMP_ROOTS cannot be read.
    """
    timestamp_roots: tuple[str, ...] = ()
    if not is_command:
        timestamp_roots = _timestamp_roots(settings)
    return InForce(
        version=version("alpha-monday"),
        benchmark=settings.benchmark_symbol,
        price_source=_price_source(settings),
        calendar=Calendar(settings.market_closed_days),
        timestamp_roots=timestamp_roots,
        series=(_main_series(settings),),
        is_command=is_command,
    )


def _timestamp_roots(settings: Settings) -> tuple[str, ...]:
    """Return the fingerprints of the roots in the file of TIMESTAMP_ROOTS, if it is set."""
    if not settings.timestamp_roots:
        return ()
    certificates = rfc3161.read_roots(read_root_file(settings.timestamp_roots))
    return rfc3161.root_fingerprints(certificates)


def _main_series(settings: Settings) -> SeriesInForce:
    temperature = None
    if settings.openai_temperature is not None:
        temperature = _format(settings.openai_temperature)
    profile = Profile(
        base_url=_model_address(settings),
        model=settings.openai_model,
        response_format=_RESPONSE_FORMAT,
        temperature=temperature,
        timeout_seconds=_format(settings.openai_timeout),
        prompt_version=prompt.CURRENT.version,
        system_prompt_sha256=sha256_of(prompt.CURRENT.system_prompt),
        user_prompt_sha256=sha256_of(prompt.USER_PROMPT_TEMPLATE),
        schema=schema_text(prompt.CURRENT.schema),
    )
    return SeriesInForce(name=SERIES, label=settings.openai_model, profile=profile)


def _model_address(settings: Settings) -> str:
    """Return the address of the model's provider; empty if it is the default one."""
    address = declared_address(settings.openai_base_url)
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
