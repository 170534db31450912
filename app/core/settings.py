"""
`settings.toml` and the environment, loaded and validated by dynaconf, converted once into one typed `Settings`.

A value that does not fit refuses with one line: the variable, what it must be, an example. The value itself is never
shown, for it may be a secret.
"""

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints
from urllib.parse import urlsplit, urlunsplit

import msgspec
from msgspec import Meta, Struct
from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict

from app.core import cores
from app.core.isolated_dynaconf import Dynaconf, ValidationError, Validator, toml_loader, without_its_variables
from app.domain.model import TICKER_PATTERN
from app.domain.text import HIDDEN
from app.errors import ConfigurationError

_URL = r"https?://[^\s]+"

_Key = Annotated[
    str, Meta(description="the key that the provider gave you", examples=["sk-abc123"], pattern=r"^[!-~]*$")
]
_Base = Annotated[str, Meta(description="an http or https address")]
_Receiver = Annotated[str, Meta(description="an http or https address of a host that can be asked")]
_Limit = Annotated[int, Meta(ge=1, le=100_000, description="a whole number of requests, 1 or more", examples=["5"])]
_Database = Annotated[
    str,
    Meta(
        description="a Postgres address, a password's @ written %40 and its / %2F",
        examples=["postgresql://user:password@host:5432/alpha_monday"],
    ),
]

# As many as a Postgres without settings of its own gives to all together.
MOST_API_CONNECTIONS = 100

# The API's connections where API_CONNECTIONS is not set: two for each core, within these bounds. More than the cores
# can serve only wait on one another: a kernel that groups tasks by session (CONFIG_SCHED_AUTOGROUP) then leaves a
# single session of Postgres for up to 0.2 s on the core that the service keeps busy. With four, two are left for
# other queries beside two heavy operations (`api.lanes`).
_LEAST_BY_CORES, _MOST_BY_CORES, _FOR_EACH_CORE = 4, 8, 2

# What leads to a receiver of ours is a secret, too: whoever knows it can speak in our name.
RECEIVERS = frozenset({"alert_webhook_url", "heartbeat_url"})
# What must be the address of a host that can be asked, or be shown to others.
_ADDRESSES = frozenset({"openai_base_url", "alpha_vantage_base_url", "public_url"}) | RECEIVERS
SECRETS = (
    frozenset(
        {
            "database_url",
            "queue_database_url",
            "api_database_url",
            "migrate_database_url",
            "openai_api_key",
            "alpha_vantage_api_key",
        }
    )
    | RECEIVERS
)
_COMMA = re.compile(r"\s*,\s*")

# The addresses that lead to the database of DATABASE_URL, too.
_MORE_ADDRESSES = ("QUEUE_DATABASE_URL", "API_DATABASE_URL", "MIGRATE_DATABASE_URL")

# A shell removes the quotes around a value. A file of variables that Docker or a platform reads keeps them.
_QUOTES = ('"', "'", "`", "“", "”", "‘", "’")
_SCHEME = re.compile(r"((?:jdbc:)?[A-Za-z][A-Za-z0-9+.-]{0,30}):/")
_SCHEMES = ("postgresql", "postgres")

# What is copied from a page or a chat and not seen: marks without width, and dashes that are not the keyboard's.
_UNSEEN = re.compile("[\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")
_DASH = re.compile("[\u2010-\u2015\u2212]")
_COMMENT = re.compile(r"\s#")
_PERCENT = re.compile("%(?![0-9A-Fa-f]{2})|%00")
_UNKNOWN = re.compile(r'invalid URI query parameter: "(\w+)"')


class Settings(Struct, frozen=True, kw_only=True):
    """Everything that can be set. Texts that are not set are empty."""

    database_url: _Database
    queue_database_url: _Database
    api_database_url: _Database
    migrate_database_url: _Database
    database_pooled: Annotated[bool, Meta(description="true or false", examples=["true"])]
    api_connections: Annotated[
        Annotated[int, Meta(ge=1, le=MOST_API_CONNECTIONS)] | None,
        Meta(description=f"a whole number of connections from 1 to {MOST_API_CONNECTIONS}", examples=["4"]),
    ]

    host: Annotated[str, Meta(description="an address to listen on", examples=["127.0.0.1"])]
    port: Annotated[int, Meta(ge=0, le=65535, description="a port number, 0 to 65535", examples=["8080"])]
    log_level: Annotated[
        Literal["DEBUG", "INFO", "WARNING", "ERROR"],
        Meta(description="DEBUG, INFO, WARNING or ERROR", examples=["INFO"]),
    ]
    public_url: Annotated[
        str,
        Meta(
            description="an http or https address without ? and #",
            examples=["https://alpha-monday.example"],
            pattern=r"^[^?#]*$",
        ),
    ]
    cors_allow_origins: Annotated[
        tuple[Annotated[str, Meta(pattern=r"^(\*|https?://[^\s/?#]+)$")], ...],
        Meta(
            description="origins, without a / after the host, with commas between them",
            examples=["https://example.org,https://example.com"],
        ),
    ]
    trusted_address_header: Annotated[
        str,
        Meta(
            description=(
                "the name of the header in which the proxy in front writes a client's address, but not Forwarded"
            ),
            examples=["Fly-Client-IP"],
            # Forwarded has a form of its own (`for=192.0.2.1;by=...`), in which no address would be found.
            pattern=r"^(?!(?i:forwarded)$)[A-Za-z0-9-]*$",
        ),
    ]

    openai_api_key: _Key
    openai_model: Annotated[
        str,
        # It is stored with every question.
        Meta(
            pattern=r"^[^\x00-\x1f\x7f-\x9f]*$",
            max_length=200,
            description="a model's name, on one line and of at most 200 characters",
            examples=["gpt-5.4-mini"],
        ),
    ]
    openai_base_url: Annotated[_Base, Meta(examples=["http://localhost:11434/v1"])]
    openai_temperature: Annotated[
        Annotated[float, Meta(ge=0, le=2)] | None, Meta(description="a number from 0 to 2", examples=["0.7"])
    ]
    openai_timeout: Annotated[
        float,
        Meta(gt=0, le=1800, description="a number of seconds above 0 and up to 1800", examples=["180"]),
    ]

    alpha_vantage_api_key: _Key
    alpha_vantage_base_url: Annotated[_Base, Meta(examples=["https://www.alphavantage.co"])]
    alpha_vantage_per_second: _Limit
    alpha_vantage_per_minute: _Limit
    alpha_vantage_per_day: _Limit

    benchmark_symbol: Annotated[
        str, Meta(pattern=f"^{TICKER_PATTERN}$", description="a ticker in capitals", examples=["SPY"])
    ]
    market_closed_days: Annotated[
        tuple[date, ...], Meta(description="dates with commas between them", examples=["2025-01-09,2027-03-01"])
    ]

    alert_webhook_url: Annotated[_Receiver, Meta(examples=["https://hooks.example.org/services/T0/B0/abc123"])]
    heartbeat_url: Annotated[_Receiver, Meta(examples=["https://ping.example.org/abc123"])]

    def __repr__(self) -> str:
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        values = msgspec.structs.asdict(self)
        return [(name, HIDDEN if name in SECRETS and value else value) for name, value in values.items()]

    @property
    def keys(self) -> list[str]:
        """Return what no log may show: the providers' keys, and all that follows the host in a receiver's address."""
        receivers = [url for url in (self.alert_webhook_url, self.heartbeat_url) if url]
        return [self.openai_api_key, self.alpha_vantage_api_key, *receivers, *map(_after_the_host, receivers)]

    @property
    def queue_address(self) -> str:
        """Return the direct connection's address."""
        return self.queue_database_url or self.database_url

    @property
    def api_pool_size(self) -> int:
        """Return how many connections the API may have: as many as are set, or as many as the cores can serve."""
        if self.api_connections is not None:
            return self.api_connections
        return api_connections_for(cores.available())

    @property
    def api_address(self) -> str:
        """Return the address over which the API reads; as DATABASE_URL it may be a PgBouncer's."""
        return self.api_database_url or self.database_url


_FILE = Path(__file__).with_name("settings.toml")
_HINTS = get_type_hints(Settings, include_extras=True)

# What of dynaconf is off, and why: nothing but settings.toml and the variables that it names decides a setting.
_OPTIONS = {
    # Its own search for sources. It would read settings.local.toml and .secrets.toml, run a dynaconf_hooks.py, obey
    # every *_FOR_DYNACONF variable (each replaces an option of this table), and take DYNACONF_PORT for PORT. Its loader
    # of the environment also parses each text as TOML, whatever auto_cast says: 0x1F becomes 31. `_source` names our
    # two sources instead. Options that only this search reads, and those that it would switch on (merging, dotted and
    # nested names such as DATABASE__URL, the environment as a fallback), stay off with it.
    "dynaconf_skip_loaders": True,
    # A .env of the folder that the command happens to run in. Without this, LOAD_DOTENV_FOR_DYNACONF switches it on.
    "load_dotenv": False,
    # The variable that names more files to load. Without this, ENVVAR_FOR_DYNACONF chooses it.
    "envvar": "",
    # "@int 5" and "@format {env[HOME]}" may be passwords; no text is an instruction.
    "auto_cast": False,
    # Sections such as [development]; ENV_FOR_DYNACONF would choose one.
    "environments": False,
    # Needed because the search for sources is off: toml_loader asks for the current section, and raises an
    # AttributeError where neither this option nor the search has named one.
    "main_env": "main",
}


def load(environment: Mapping[str, str] | None = None) -> Settings:
    """Return the settings of the environment (or of a mapping in its place) over those of `settings.toml`."""
    with without_its_variables():
        source = _source(environment)
        refusal = _refusal(source)
    # Not in an except: Procrastinate's shell prints what an error came from, and that may quote the text.
    if refusal:
        raise ConfigurationError(refusal)
    return Settings(**{name: _converted(name, source.get(name.upper())) for name in Settings.__struct_fields__})


def api_connections_for(number_of_cores: float) -> int:
    """Return how many connections the API has by default, by the number of cores that its process may use."""
    by_cores = _FOR_EACH_CORE * min(number_of_cores, _MOST_BY_CORES)
    return min(_MOST_BY_CORES, max(_LEAST_BY_CORES, math.ceil(by_cores)))


def is_set(name: str, environment: Mapping[str, str] | None = None) -> bool:
    """Return whether the environment (or a mapping in its place) sets a variable; an empty one is not set."""
    return bool(_text(name, environment))


def name_of_address(address: str) -> str:
    """Return the variable that an address of a database comes from, to name in a message."""
    for name in _MORE_ADDRESSES:
        if address == _text(name, None) != _text("DATABASE_URL", None):
            return name
    return "DATABASE_URL"


def refuse_without_keys(settings: Settings) -> None:
    """Refuse settings without which nothing can be picked or priced, naming all that is missing."""
    keys = {"OPENAI_API_KEY": settings.openai_api_key, "ALPHA_VANTAGE_API_KEY": settings.alpha_vantage_api_key}
    if missing := [name for name, value in keys.items() if not value]:
        raise ConfigurationError(f"{_missing_keys(missing)} (`alpha-monday rehearse` needs none.)")


def refuse_without_price_key(key: str) -> None:
    """Refuse an empty key of Alpha Vantage, before it is asked for prices."""
    if not key:
        raise ConfigurationError(_missing_keys(["ALPHA_VANTAGE_API_KEY"]))


def _missing_keys(names: Sequence[str]) -> str:
    many = "s" if names[1:] else ""
    wanted = f"must be set to the key{many} that the provider{many} gave you"
    return f"{' and '.join(names)} {wanted}, for example {names[0]}=abc123."


def _text(name: str, environment: Mapping[str, str] | None) -> str:
    given = os.environ if environment is None else environment
    return given.get(name, "").strip()


def _source(environment: Mapping[str, str] | None) -> Dynaconf:
    """Return dynaconf's settings: the texts of settings.toml, and over them those that the environment sets."""
    source = Dynaconf(**_OPTIONS)
    toml_loader.load(source, filename=str(_FILE))
    names = [name.upper() for name in Settings.__struct_fields__]
    source.update({name: _text(name, environment) for name in names if is_set(name, environment)})
    return source


def _refusal(source: Dynaconf) -> str | None:
    """Return the line that refuses the first setting that does not fit, or None."""
    source.validators.register(*_validators(source))
    try:
        source.validators.validate()
    except ValidationError as error:
        return str(error)
    return None


def _validators(source: Dynaconf) -> list[Validator]:
    # Each message is ours, because dynaconf's own quote the value.
    fit = [
        Validator(
            name.upper(),
            must_exist=True,
            condition=_fits(name),
            messages={"condition": f"{{name}} {_misfit(name, source.get(name.upper()))}"},
        )
        for name in Settings.__struct_fields__
    ]
    direct = Validator(
        "QUEUE_DATABASE_URL",
        ne="",
        when=Validator("DATABASE_POOLED", condition=_is_true),
        messages={
            "operations": "{name} must be set when DATABASE_POOLED is true: the queue needs a direct connection, "
            "for example {name}=postgresql://user:password@host:5432/alpha_monday"
        },
    )
    both = [
        Validator(
            "DATABASE_URL",
            ne="",
            when=Validator(other, ne=""),
            messages={
                "operations": f"{{name}} must be set when {other} is: both lead to one database. Set {{name}}, for "
                f"example {{name}}=postgresql://user:password@host:5432/alpha_monday, or unset {other}."
            },
        )
        for other in _MORE_ADDRESSES
    ]
    return [*fit, direct, *both]


def _fits(name: str) -> Callable[[str], bool]:
    def fits(text: str) -> bool:
        if _is_quoted(name, text) or _holds_its_name(name, text) or _not_typed(name, text):
            return False
        try:
            _converted(name, text)
        except (ValueError, ProgrammingError):  # msgspec's is a ValueError, too
            return False
        return True

    return fits


def _is_true(text: str) -> bool:
    pooled: bool = _converted("database_pooled", text)
    return pooled


def _is_quoted(name: str, text: str) -> bool:
    """Return whether quotes stand around a value, or at one end of it; no setting's value has them there."""
    if "database_url" in name:
        return text.startswith(_QUOTES)  # its end may be `password='a b'`
    return text.startswith(_QUOTES) or text.endswith(_QUOTES)


def _holds_its_name(name: str, text: str) -> bool:
    """Return whether a whole line of a file of variables was taken for the value."""
    return bool(re.match(rf"(export\s+)?{name}\s*[=:]", text, re.IGNORECASE))


def _not_typed(name: str, text: str) -> str:
    """Return what is in a value that no keyboard or no shell would have left there; empty if there is nothing."""
    if unseen := _UNSEEN.search(text):
        return f"holds a character that cannot be seen, U+{ord(unseen[0]):04X}: type the value anew, {_such_as(name)}"
    if "database_url" in name:
        return ""  # a password may have the rest
    if dash := _DASH.search(text):
        return (
            f"holds a dash, U+{ord(dash[0]):04X}, that is not the one on the keyboard: type it anew, {_such_as(name)}"
        )
    if _COMMENT.search(text):
        return f"holds a comment: remove all from the # on, {_such_as(name)}"
    return ""


def _misfit(name: str, text: str) -> str:
    """Return what is wrong with a value that does not fit, where that can be said without showing it."""
    variable = name.upper()
    if _is_quoted(name, text):
        return f"has quotes around its value: remove the quotes, {_such_as(name)}"
    if _holds_its_name(name, text):
        return f"holds its own name: remove `{variable}=` from the beginning of its value"
    if found := _not_typed(name, text):
        return found
    if "database_url" in name:
        return _misfit_of_an_address(name, text)
    return f"must be {_wanted(name)}"


def _misfit_of_an_address(name: str, text: str) -> str:
    """Return what is wrong with the address of a database; its scheme may be shown, for it is no secret."""
    example = _such_as(name)
    if text.lower().startswith("psql "):
        return f"holds a command: remove `psql` and the quotes, so that it begins with postgresql://, {example}"
    scheme = _SCHEME.match(text)
    if scheme and scheme[1] not in _SCHEMES and "postgres" in text.partition("//")[0].lower():
        return f"must begin with postgresql://, and not with {scheme[1]}:, {example}"
    if scheme and scheme[1] in _SCHEMES and not text.startswith(f"{scheme[1]}://"):
        return f"must begin with {scheme[1]}:// (two slashes), {example}"
    if scheme and re.search(r"\s", text):
        return f"has a space or a line break in it: remove it, or write %20 for a space in a password, {example}"
    if scheme and _PERCENT.search(text):
        return f"has a % that begins no code such as %40: write %25 for a % in a password, {example}"
    if scheme and _has_another_port(text):
        return f"has a port that is not a number from 1 to 65535, {example}"
    if scheme and (unknown := _unknown_parameter(text)):
        return f"has a parameter that Postgres's library does not know, {unknown}: remove it, {example}"
    return f"must be {_wanted(name)}"


def _has_another_port(text: str) -> bool:
    """Return whether it is the port of an address that does not fit, and no piece of a password."""
    authority, _, rest = text.partition("://")[2].partition("/")
    if "@" in rest or authority.count("@") > 1 or (not authority.count("@") and text.count("@")):
        return False
    ports = re.findall(r":([^:,\]]*)(?=,|$)", authority.rpartition("@")[2])
    return any(port and not _is_port(port) for port in ports)


def _unknown_parameter(text: str) -> str:
    """Return the name of a parameter that libpq refuses, if it cannot be a piece of a password."""
    if "@" in text.partition("?")[2]:
        return ""
    try:
        conninfo_to_dict(text)
    except ProgrammingError as error:
        found = _UNKNOWN.search(str(error))
        return found[1] if found else ""
    return ""


def _such_as(name: str) -> str:
    return f"for example {name.upper()}={_example(name)}"


def _example(name: str) -> str:
    metas = [meta for meta in _HINTS[name].__metadata__ if isinstance(meta, Meta)]
    return str(next(meta.examples[0] for meta in metas if meta.examples))


def _wanted(name: str) -> str:
    """Return what a setting must be, with an example."""
    metas = [meta for meta in _HINTS[name].__metadata__ if isinstance(meta, Meta)]
    description = next(meta.description for meta in metas if meta.description)
    return f"{description}, {_such_as(name)}"


def _refuse_a_raw_password(text: str) -> None:
    """Refuse an address torn apart by a password's own "/" or "@": its pieces would be shown as a host or a port."""
    parts = conninfo_to_dict(text)
    if re.search(r"\s", text) and _SCHEME.match(text):
        raise ProgrammingError  # libpq leaves a space after the host out, and takes a line break into a name
    ports = str(parts.get("port") or "5432").split(",")
    name = text.partition("://")[2].partition("/")[2].partition("?")[0]
    if "@" in name or "@" in str(parts.get("host") or "") or not all(map(_is_port, ports)):
        raise ProgrammingError


def _is_port(text: str) -> bool:
    return text.isdecimal() and len(text) <= 5 and 0 < int(text) <= 65535


def _refuse_without_a_host(text: str) -> None:
    """Refuse an address that could never be asked: another scheme, no host, a port that is none, or a blank."""
    if text and not (re.fullmatch(_URL, text) and urlsplit(text).hostname and urlsplit(text).port != 0):
        raise ValueError


def _after_the_host(url: str) -> str:
    """Return an address without scheme, host and fragment, as it goes over the wire."""
    parts = urlsplit(url)
    return urlunsplit(("", "", parts.path, parts.query, ""))


def _converted(name: str, text: str) -> Any:
    hint = _HINTS[name]
    meant = get_args(hint)[0]
    if get_origin(meant) is tuple:
        return msgspec.convert(_COMMA.split(text) if text else (), hint, strict=False)
    if "database_url" in name:
        _refuse_a_raw_password(text)
    if name in _ADDRESSES:
        _refuse_without_a_host(text)
    return msgspec.convert(text or (None if type(None) in get_args(meant) else text), hint, strict=False)
