"""
The settings: `settings.toml` and the environment, converted into one typed `Settings`.

dynaconf loads and validates them. If a value does not fit its setting, `load` raises a
ConfigurationError whose text is one line: the variable, what its value must be, and an example. The
value itself is never shown, because it may be a secret.
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

from app.core import cores, repository_address
from app.core.isolated_dynaconf import (
    Dynaconf,
    ValidationError,
    Validator,
    toml_loader,
    without_dynaconf_variables,
)
from app.domain.model import TICKER_PATTERN
from app.domain.text import REDACTED, canonical_host
from app.errors import ConfigurationError

_URL = r"https?://[^\s]+"
# An address whose host is followed by a colon, with the text between the colon and the path. An
# address with an @ does not match: what follows its colon may be a password.
_HOST_AND_PORT = re.compile(r"https?://(\[[^\]@]+\]|[^\s/?#@:\[\]]+):([^\s/?#@]+)([/?#][^@]*)?")
# The ends of the addresses of single endpoints, which users copy from a page about an API.
_ENDPOINT = re.compile(
    r"/+(chat/+completions|completions|embeddings|messages|models|responses)/*", re.IGNORECASE
)

_Key = Annotated[
    str,
    Meta(
        description="the key that the provider gave you",
        examples=["sk-abc123"],
        pattern=r"^[!-~]*$",
    ),
]
_Url = Annotated[str, Meta(description="an http or https address")]
_ReceiverUrl = Annotated[str, Meta(description="an http or https address with a host name")]
# The address of a service that stamps. It is stored with each proof and shown to every reader, so
# it must not contain a secret: no user name, no password and no query.
_ServiceUrl = Annotated[str, Meta(pattern=r"^https?://[^\s/?#@,\\\[\]]+(/[^\s?#@,\\]*)?$")]
# The table allows 500 bytes. Addresses are shown, so a shorter limit is no loss.
_MAX_SERVICE_URL_BYTES = 400
_RequestLimit = Annotated[
    int,
    Meta(
        ge=1,
        le=100_000,
        description="a whole number of requests from 1 to 100000",
        examples=["5"],
    ),
]
_DatabaseUrl = Annotated[
    str,
    Meta(
        description="a Postgres address (in a password, write @ as %40 and / as %2F)",
        examples=["postgresql://user:password@host:5432/alpha_monday"],
    ),
]

# The name of a branch begins with a letter or a digit, so that git cannot take it for an option. It
# has no `..`, `//`, `/.` or `./`, and does not end in `.`, `/` or `.lock`: git refuses such a name.
_BRANCH = r"^(?!.*(\.\.|//|/\.|\./|[./]$|\.lock(/|$)))[A-Za-z0-9][A-Za-z0-9._/-]*$"

# The default of Postgres's setting max_connections, which limits the connections of all its clients
# together.
MAX_API_CONNECTIONS = 100

# If API_CONNECTIONS is not set, the API has two connections for each core, within these bounds.
# The cores cannot serve more of them at once: more connections only wait for one another. More
# connections even do harm if the kernel groups processes by their Unix session
# (CONFIG_SCHED_AUTOGROUP). Then one process of Postgres may wait for up to 0.2 s on the core that
# the service keeps busy. The minimum is four: heavy operations may use half of the connections
# (`api.fair_semaphore`), so two heavy operations can run at once, and two connections are left for
# other queries.
_MIN_DEFAULT_CONNECTIONS = 4
_MAX_DEFAULT_CONNECTIONS = 8
_CONNECTIONS_PER_CORE = 2

# More benchmarks would say little more, and each of them needs two price requests a week.
MAX_FURTHER_BENCHMARKS = 4

# Like a key, the address of a receiver is a secret: a person who knows the address can send
# messages in our name.
RECEIVERS = frozenset({"alert_webhook_url", "heartbeat_url"})

# Settings that must be an address with a host if they are set. The service sends requests to the
# address, or shows it in links.
_ADDRESSES = frozenset({"openai_base_url", "alpha_vantage_base_url", "public_url"}) | RECEIVERS
# Settings with several such addresses. A service that is listed twice is refused: two services are
# better than one because one of them may be unavailable, and this would seem to be two.
_ADDRESS_LISTS = frozenset({"timestamp_urls", "ots_calendars"})
SECRETS = (
    frozenset(
        {
            "database_url",
            "queue_database_url",
            "api_database_url",
            "migrate_database_url",
            "openai_api_key",
            "alpha_vantage_api_key",
            # It may contain a token with which anyone can write to the repository.
            "head_repository",
        }
    )
    | RECEIVERS
)
_COMMA = re.compile(r"\s*,\s*")

# The variables with other addresses of the database to which DATABASE_URL leads.
_OTHER_DATABASE_URLS = ("QUEUE_DATABASE_URL", "API_DATABASE_URL", "MIGRATE_DATABASE_URL")

# A shell removes the quotes around a value. If Docker or a platform reads a file of variables, the
# quotes stay in the value.
_QUOTES = ('"', "'", "`", "“", "”", "‘", "’")
_SCHEME = re.compile(r"((?:jdbc:)?[A-Za-z][A-Za-z0-9+.-]{0,30}):/")
_SCHEMES = ("postgresql", "postgres")

# Characters that a value may contain if it was copied from a page or a chat: characters without
# width, and dashes other than the hyphen-minus.
_INVISIBLE = re.compile("[\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")
# How Python represents a byte of a variable that is not UTF-8. Such a text cannot be stored.
_UNDECODED = re.compile("[\ud800-\udfff]")
_DASH = re.compile("[\u2010-\u2015\u2212]")
_COMMENT = re.compile(r"\s#")
_INVALID_PERCENT = re.compile("%(?![0-9A-Fa-f]{2})|%00")
_UNKNOWN_PARAMETER = re.compile(r'invalid URI query parameter: "(\w+)"')


class Settings(Struct, frozen=True, kw_only=True):
    """All settings. A text that is not set is empty."""

    database_url: _DatabaseUrl
    queue_database_url: _DatabaseUrl
    api_database_url: _DatabaseUrl
    migrate_database_url: _DatabaseUrl
    database_pooled: Annotated[bool, Meta(description="true or false", examples=["true"])]
    api_connections: Annotated[
        Annotated[int, Meta(ge=1, le=MAX_API_CONNECTIONS)] | None,
        Meta(
            description=f"a whole number of connections from 1 to {MAX_API_CONNECTIONS}",
            examples=["4"],
        ),
    ]

    host: Annotated[str, Meta(description="an address to listen on", examples=["127.0.0.1"])]
    port: Annotated[
        int, Meta(ge=0, le=65535, description="a port number, 0 to 65535", examples=["8080"])
    ]
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
                "the name of the header (other than Forwarded) in which your proxy writes a "
                "client's address"
            ),
            examples=["Fly-Client-IP"],
            # Forwarded has another syntax (`for=192.0.2.1;by=...`), which we do not parse.
            pattern=r"^(?!(?i:forwarded)$)[A-Za-z0-9-]*$",
        ),
    ]

    openai_api_key: _Key
    openai_model: Annotated[
        str,
        # The name is stored with every question, so it is short and has no control characters.
        Meta(
            pattern=r"^[^\x00-\x1f\x7f-\x9f]*$",
            max_length=200,
            description="a model's name, on one line and of at most 200 characters",
            examples=["gpt-5.4-mini"],
        ),
    ]
    openai_base_url: Annotated[_Url, Meta(examples=["http://localhost:11434/v1"])]
    openai_temperature: Annotated[
        Annotated[float, Meta(ge=0, le=2)] | None,
        Meta(description="a number from 0 to 2", examples=["0.7"]),
    ]
    openai_timeout: Annotated[
        float,
        Meta(
            gt=0,
            le=1800,
            description="a number of seconds above 0 and up to 1800",
            examples=["180"],
        ),
    ]

    series_file: Annotated[
        str,
        Meta(
            pattern=r"^[^\x00-\x1f\x7f-\x9f]*$",
            description="the path of a TOML file with the series",
            examples=["/etc/alpha-monday/series.toml"],
        ),
    ]

    alpha_vantage_api_key: _Key
    alpha_vantage_base_url: Annotated[_Url, Meta(examples=["https://www.alphavantage.co"])]
    alpha_vantage_per_second: _RequestLimit
    alpha_vantage_per_minute: _RequestLimit
    alpha_vantage_per_day: _RequestLimit

    benchmark_symbol: Annotated[
        str,
        Meta(pattern=f"^{TICKER_PATTERN}$", description="a ticker in capitals", examples=["SPY"]),
    ]
    benchmarks: Annotated[
        tuple[Annotated[str, Meta(pattern=f"^{TICKER_PATTERN}$")], ...],
        Meta(
            max_length=1 + MAX_FURTHER_BENCHMARKS,
            description=(
                f"one to {1 + MAX_FURTHER_BENCHMARKS} tickers in capitals, with commas between them"
            ),
            examples=["SPY,RSP"],
        ),
    ]
    market_closed_days: Annotated[
        tuple[date, ...],
        Meta(description="dates with commas between them", examples=["2025-01-09,2027-03-01"]),
    ]

    timestamp_urls: Annotated[
        tuple[_ServiceUrl, ...],
        Meta(
            description=(
                "http or https addresses without a user name, ? and #, with commas between them"
            ),
            examples=["https://timestamp.sigstore.dev/api/v1/timestamp,https://freetsa.org/tsr"],
        ),
    ]
    timestamp_roots: Annotated[
        str,
        Meta(
            pattern=r"^[^\x00-\x1f\x7f-\x9f]*$",
            description="the path of a file with root certificates in PEM form",
            examples=["/etc/alpha-monday/timestamp-roots.pem"],
        ),
    ]
    ots_calendars: Annotated[
        tuple[_ServiceUrl, ...],
        Meta(
            description=(
                "http or https addresses without a user name, ? and #, with commas between them"
            ),
            examples=["https://a.pool.opentimestamps.org,https://b.pool.opentimestamps.org"],
        ),
    ]
    ots_hosts: Annotated[
        tuple[Annotated[str, Meta(pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$")], ...],
        Meta(
            description="host names in small letters, with commas between them",
            examples=["alice.btc.calendar.opentimestamps.org,finney.calendar.eternitywall.com"],
        ),
    ]

    alert_webhook_url: Annotated[
        _ReceiverUrl, Meta(examples=["https://hooks.example.org/services/T0/B0/abc123"])
    ]
    heartbeat_url: Annotated[_ReceiverUrl, Meta(examples=["https://ping.example.org/abc123"])]

    head_repository: Annotated[
        str,
        Meta(
            description=(
                "the address of a git repository: https://, http://, ssh://, git@host:path, or an "
                "absolute path"
            ),
            examples=["https://user:token@git.example.org/owner/heads.git"],
        ),
    ]
    head_branch: Annotated[
        str,
        # A subset of the names that git accepts. `_BRANCH` excludes the rest.
        Meta(
            pattern=_BRANCH,
            max_length=200,
            description="the name of a branch, of letters, digits and the characters . _ / -",
            examples=["main"],
        ),
    ]

    def __repr__(self) -> str:
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        values = msgspec.structs.asdict(self)
        shown = []
        for name, value in values.items():
            is_hidden = name in SECRETS and value
            shown.append((name, REDACTED if is_hidden else value))
        return shown

    @property
    def secret_texts(self) -> list[str]:
        """
        Return the texts that must be replaced in every line of the log.

        They are the providers' keys, the receivers' addresses, and the path and query of these
        addresses, as they are sent in a request. Of the repository for heads, they are the address
        and its parts. Database addresses are not among them: `app.database.advice` removes their
        passwords before it shows them.
        """
        receivers = [url for url in (self.alert_webhook_url, self.heartbeat_url) if url]
        repository = []
        if self.head_repository:
            address = repository_address.parse(self.head_repository)
            repository = [self.head_repository, *address.secret_texts]
        return [
            self.openai_api_key,
            self.alpha_vantage_api_key,
            *receivers,
            *map(_path_and_query, receivers),
            *repository,
        ]

    @property
    def further_benchmarks(self) -> tuple[str, ...]:
        """Return the tickers of BENCHMARKS after the first one, which is the benchmark itself."""
        return self.benchmarks[1:]

    @property
    def queue_address(self) -> str:
        """Return the address for the queue and LISTEN, which need a direct connection."""
        return self.queue_database_url or self.database_url

    @property
    def api_address(self) -> str:
        """Return the address from which the API reads. It may lead to a PgBouncer."""
        return self.api_database_url or self.database_url

    @property
    def api_pool_size(self) -> int:
        """Return the API's maximum number of connections: the setting, or two for each core."""
        if self.api_connections is not None:
            return self.api_connections
        return api_connections_for(cores.available())


_FILE = Path(__file__).with_name("settings.toml")
_HINTS = get_type_hints(Settings, include_extras=True)

# These options switch off features of dynaconf. Only settings.toml, and the environment variables
# with the names of the fields of `Settings`, may decide a setting.
_OPTIONS = {
    # No search for sources: `_load_sources` reads our two sources instead. The search would
    # - read settings.local.toml and .secrets.toml,
    # - run a dynaconf_hooks.py,
    # - obey every *_FOR_DYNACONF variable: each replaces an option of this table,
    # - use DYNACONF_PORT for PORT,
    # - parse each environment variable as TOML, even without auto_cast: 0x1F becomes 31.
    # Some options have an effect only in this search, so they are not set here. They concern
    # merging, nested names such as DATABASE__URL, and the environment as a fallback.
    "dynaconf_skip_loaders": True,
    # No .env file of the current folder. If this option is missing, LOAD_DOTENV_FOR_DYNACONF
    # decides.
    "load_dotenv": False,
    # No variable that names more files to load. If this option is missing, ENVVAR_FOR_DYNACONF
    # chooses that variable.
    "envvar": "",
    # No casts such as "@int 5" and "@format {env[HOME]}": such a text may be a password.
    "auto_cast": False,
    # No sections such as [development]. ENV_FOR_DYNACONF would choose one.
    "environments": False,
    # The name of the current section. toml_loader raises an AttributeError without it, and the
    # search for sources, which would set it, is off.
    "main_env": "main",
}


def load(environment: Mapping[str, str] | None = None) -> Settings:
    """
    Return the settings: the values of settings.toml, overridden by the environment.

    If `environment` is given, it is used instead of os.environ. Raises ConfigurationError for the
    first value that does not fit its setting.
    """
    with without_dynaconf_variables():
        source = _load_sources(environment)
        error = _validation_error(source)
    # The error is raised outside of an except block. Otherwise Procrastinate's shell would also
    # print dynaconf's error, which may contain the value.
    if error:
        raise ConfigurationError(error)
    values = {name: _convert(name, source.get(name.upper())) for name in Settings.__struct_fields__}
    values["benchmark_symbol"] = _choose_benchmark(values, environment)
    return Settings(**values)


def _choose_benchmark(values: Mapping[str, Any], environment: Mapping[str, str] | None) -> str:
    """
    Return the benchmark: the first ticker of BENCHMARKS, or BENCHMARK_SYMBOL if that is not set.

    Raises ConfigurationError if both are set and differ.
    """
    benchmark: str = values["benchmark_symbol"]
    if not values["benchmarks"]:
        return benchmark
    first: str = values["benchmarks"][0]
    if is_set("BENCHMARK_SYMBOL", environment) and benchmark != first:
        raise ConfigurationError(
            "BENCHMARK_SYMBOL and BENCHMARKS name different benchmarks: the first ticker of "
            "BENCHMARKS is the benchmark. Unset BENCHMARK_SYMBOL, or write its ticker first in "
            f"BENCHMARKS, {_for_example('benchmarks')}"
        )
    return first


def api_connections_for(number_of_cores: float) -> int:
    """Return the API's default number of connections for a process with a number of cores."""
    by_cores = _CONNECTIONS_PER_CORE * min(number_of_cores, _MAX_DEFAULT_CONNECTIONS)
    return min(_MAX_DEFAULT_CONNECTIONS, max(_MIN_DEFAULT_CONNECTIONS, math.ceil(by_cores)))


def is_set(name: str, environment: Mapping[str, str] | None = None) -> bool:
    """
    Return whether a variable is set to a text that is not empty.

    If `environment` is given, it is used instead of os.environ.
    """
    return bool(_read_variable(name, environment))


def find_endpoint(address: str) -> str:
    """
    Return the path of an endpoint with which an address of a model's server ends.

    The service itself adds /chat/completions and /models to the address. Return an empty text if
    the address does not end with an endpoint, or if it is no address.
    """
    found = _split_endpoint(address)
    return found[1] if found else ""


def without_endpoint(address: str) -> str:
    """Return an address without the endpoint at its end, without a query and a fragment."""
    found = _split_endpoint(address)
    return found[0] if found else address


def _split_endpoint(address: str) -> tuple[str, str] | None:
    """Return an address before its endpoint, and the endpoint; None if it has no endpoint."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return None
    # The longest endpoint is found first: /chat/completions also ends with /completions.
    for start in re.finditer("/+", parts.path):
        endpoint = _ENDPOINT.fullmatch(parts.path, start.start())
        if endpoint:
            before = parts.path[: start.start()]
            shown = re.sub("/+", "/", endpoint[1].lower())
            return urlunsplit((parts.scheme, parts.netloc, before, "", "")), f"/{shown}"
    return None


def has_wrong_port(address: str) -> bool:
    """Return whether an http address has a host, and a port that is not from 1 to 65535."""
    found = _HOST_AND_PORT.fullmatch(address)
    return found is not None and not _is_port(found[2])


def find_url_variable(address: str) -> str:
    """Return the name of the variable from which a database address comes, for a message."""
    main_address = _read_variable("DATABASE_URL")
    for name in _OTHER_DATABASE_URLS:
        if address == _read_variable(name) and address != main_address:
            return name
    return "DATABASE_URL"


def require_keys(settings: Settings) -> None:
    """Raise ConfigurationError if a key is missing that is needed to pick or to read prices."""
    keys = {
        "OPENAI_API_KEY": settings.openai_api_key,
        "ALPHA_VANTAGE_API_KEY": settings.alpha_vantage_api_key,
    }
    missing = [name for name, key in keys.items() if not key]
    if missing:
        raise ConfigurationError(
            f"{_missing_keys_message(missing)} (`alpha-monday rehearse` needs none.)"
        )


def require_price_key(key: str) -> None:
    """Raise ConfigurationError if the key for Alpha Vantage is empty."""
    if not key:
        raise ConfigurationError(_missing_keys_message(["ALPHA_VANTAGE_API_KEY"]))


def _missing_keys_message(names: Sequence[str]) -> str:
    requirement = "must be set to the key that the provider gave you"
    if len(names) > 1:
        requirement = "must be set to the keys that the providers gave you"
    return f"{' and '.join(names)} {requirement}, for example {names[0]}=abc123."


def _read_variable(name: str, environment: Mapping[str, str] | None = None) -> str:
    if environment is None:
        environment = os.environ
    return environment.get(name, "").strip()


def _load_sources(environment: Mapping[str, str] | None) -> Dynaconf:
    """Return dynaconf's settings: the texts of settings.toml, overridden by the environment."""
    source = Dynaconf(**_OPTIONS)
    toml_loader.load(source, filename=str(_FILE))
    names = [name.upper() for name in Settings.__struct_fields__]
    overrides = {
        name: _read_variable(name, environment) for name in names if is_set(name, environment)
    }
    source.update(overrides)
    return source


def _validation_error(source: Dynaconf) -> str | None:
    """Return a message about the first value that does not fit its setting, or None."""
    source.validators.register(*_validators(source))
    try:
        source.validators.validate()
    except ValidationError as error:
        return str(error)
    return None


def _validators(source: Dynaconf) -> list[Validator]:
    # Each validator has a message of ours, because dynaconf's messages quote the value.
    field_validators = [
        Validator(
            name.upper(),
            must_exist=True,
            condition=_fits(name),
            messages={"condition": f"{{name}} {_describe_mistake(name, source.get(name.upper()))}"},
        )
        for name in Settings.__struct_fields__
    ]
    queue_url_validator = Validator(
        "QUEUE_DATABASE_URL",
        ne="",
        when=Validator("DATABASE_POOLED", condition=_is_true),
        messages={
            "operations": (
                "{name} must be set when DATABASE_POOLED is true: the queue needs a direct "
                "connection, for example {name}=postgresql://user:password@host:5432/alpha_monday"
            )
        },
    )
    main_url_validators = [
        Validator(
            "DATABASE_URL",
            ne="",
            when=Validator(other, ne=""),
            messages={
                "operations": (
                    f"{{name}} must be set when {other} is set, and both must lead to the same "
                    f"database. Set {{name}}, for example "
                    f"{{name}}=postgresql://user:password@host:5432/alpha_monday, or unset {other}."
                )
            },
        )
        for other in _OTHER_DATABASE_URLS
    ]
    roots_validator = Validator(
        "TIMESTAMP_ROOTS",
        ne="",
        when=Validator("TIMESTAMP_URLS", ne=""),
        messages={
            "operations": (
                "{name} must be set when TIMESTAMP_URLS is set, to the path of a file with the "
                "root certificates of these authorities, for example "
                "{name}=/etc/alpha-monday/timestamp-roots.pem"
            )
        },
    )
    return [*field_validators, queue_url_validator, *main_url_validators, roots_validator]


def _fits(name: str) -> Callable[[str], bool]:
    """Return a function that decides whether a text is a valid value of a setting."""

    def fits(text: str) -> bool:
        if _is_quoted(name, text) or _contains_name(name, text) or _copying_mistake(name, text):
            return False
        try:
            _convert(name, text)
        except (ValueError, ProgrammingError):  # msgspec's error is a ValueError
            return False
        return True

    return fits


def _is_true(text: str) -> bool:
    is_pooled: bool = _convert("database_pooled", text)
    return is_pooled


def _is_quoted(name: str, text: str) -> bool:
    """Return whether quotes were left around a value."""
    if "database_url" in name:
        # A valid address may end in a quote: `host=h password='a b'`.
        return text.startswith(_QUOTES)
    return text.startswith(_QUOTES) or text.endswith(_QUOTES)


def _contains_name(name: str, text: str) -> bool:
    """Return whether a value is a whole line of a file of variables: `NAME=value`."""
    return bool(re.match(rf"(export\s+)?{name}\s*[=:]", text, re.IGNORECASE))


# The following functions describe a mistake. They never show the value itself: it may be a secret.


def _describe_mistake(name: str, text: str) -> str:
    """
    Return what is wrong with a value that does not fit its setting.

    The returned text follows the variable's name in a message.
    """
    variable = name.upper()
    if _is_quoted(name, text):
        return f"has quotes around its value: remove the quotes, {_for_example(name)}"
    if _contains_name(name, text):
        return f"contains its own name: remove `{variable}=` from the beginning of its value"
    mistake = _copying_mistake(name, text)
    if not mistake and "database_url" in name:
        mistake = _address_mistake(name, text)
    if not mistake and name in _ADDRESS_LISTS and _has_twins(name, text):
        mistake = f"has the same address twice: remove one of the two, {_for_example(name)}"
    if not mistake and name == "benchmarks" and _has_twin_tickers(text):
        mistake = f"has the same ticker twice: remove one of the two, {_for_example(name)}"
    if not mistake and name in _ADDRESSES:
        mistake = _http_address_mistake(name, text)
    return mistake or f"must be {_description(name)}"


def _copying_mistake(name: str, text: str) -> str:
    """
    Return what follows the variable's name in a message about characters copied by accident.

    Return an empty text if the value has no such characters.
    """
    if invisible := _INVISIBLE.search(text):
        return (
            f"contains an invisible character, U+{ord(invisible[0]):04X}: type the value again, "
            f"{_for_example(name)}"
        )
    if "database_url" in name:
        return ""  # a password may contain any dash and a #
    if _UNDECODED.search(text):
        return f"contains a byte that is not UTF-8: type the value again, {_for_example(name)}"
    if dash := _DASH.search(text):
        return (
            f"contains a dash other than -, U+{ord(dash[0]):04X}: type the value again, "
            f"{_for_example(name)}"
        )
    if _COMMENT.search(text):
        return f"contains a comment: remove the # and everything after it, {_for_example(name)}"
    return ""


def _address_mistake(name: str, text: str) -> str:
    """
    Return what follows the variable's name in a message about a mistake in a database address.

    Return an empty text if none of the known mistakes is found.
    """
    example = _for_example(name)
    if text.lower().startswith("psql "):
        return (
            "contains a command: remove `psql` and the quotes, so that it begins with "
            f"postgresql://, {example}"
        )
    scheme = _SCHEME.match(text)
    if not scheme:
        return ""
    # The scheme may be shown: it is no secret.
    if scheme[1] not in _SCHEMES and "postgres" in text.partition("//")[0].lower():
        return f"must begin with postgresql://, and not with {scheme[1]}:, {example}"
    if scheme[1] in _SCHEMES and not text.startswith(f"{scheme[1]}://"):
        return f"must begin with {scheme[1]}:// (two slashes), {example}"
    if re.search(r"\s", text):
        return (
            "has a space or a line break in it: remove it, or write %20 for a space in a "
            f"password, {example}"
        )
    if _INVALID_PERCENT.search(text):
        return (
            "has a % that does not begin a valid code such as %40: write %25 for a % in a "
            f"password, {example}"
        )
    if _has_invalid_port(text):
        return f"has a port that is not a number from 1 to 65535, {example}"
    if parameter := _unknown_parameter(text):
        return (
            f"has a parameter that Postgres's library does not know, {parameter}: remove it, "
            f"{example}"
        )
    return ""


def _http_address_mistake(name: str, text: str) -> str:
    """
    Return what follows the variable's name in a message about a mistake in an http address.

    Return an empty text if none of the known mistakes is found.
    """
    example = _for_example(name)
    if has_wrong_port(text):
        return f"has a port that is not a number from 1 to 65535, {example}"
    if name == "openai_base_url" and re.fullmatch(_URL, text) and find_endpoint(text):
        return (
            f"must end before {find_endpoint(text)}: the service itself adds /chat/completions, "
            f"{example}"
        )
    return ""


def _has_invalid_port(text: str) -> bool:
    """Return whether an address has an invalid port; False if that may be a part of a password."""
    authority, _, rest = text.partition("://")[2].partition("/")
    # The authority ends at the first slash after `://`. If an @ comes after that slash, or twice
    # before it, the text after a colon may be a part of a password that was not encoded.
    if "@" in rest or authority.count("@") > 1:
        return False
    if "@" in text and "@" not in authority:
        return False
    ports = re.findall(r":([^:,\]]*)(?=,|$)", authority.rpartition("@")[2])
    return any(port and not _is_port(port) for port in ports)


def _unknown_parameter(text: str) -> str:
    """
    Return the name of a parameter that libpq does not know.

    Return an empty text if libpq knows all parameters, or if the name may be a part of a password.
    """
    if "@" in text.partition("?")[2]:
        return ""
    try:
        conninfo_to_dict(text)
    except ProgrammingError as error:
        unknown = _UNKNOWN_PARAMETER.search(str(error))
        if unknown:
            return unknown[1]
    return ""


def _for_example(name: str) -> str:
    example = next(meta.examples[0] for meta in _metas(name) if meta.examples)
    return f"for example {name.upper()}={example}"


def _description(name: str) -> str:
    """Return what the value of a setting must be, with an example."""
    description = next(meta.description for meta in _metas(name) if meta.description)
    return f"{description}, {_for_example(name)}"


def _metas(name: str) -> list[Meta]:
    """Return msgspec's annotations of a setting, which have its description and its example."""
    return [meta for meta in _HINTS[name].__metadata__ if isinstance(meta, Meta)]


def _convert(name: str, text: str) -> Any:
    """
    Convert the text of a setting to its type.

    Raises ValueError (msgspec's ValidationError is a subclass) or psycopg's ProgrammingError if the
    text does not fit.
    """
    hint = _HINTS[name]
    type_ = get_args(hint)[0]
    value: Any = text
    if get_origin(type_) is tuple:
        value = ()
        if text:
            value = _COMMA.split(text)
    elif not text and type(None) in get_args(type_):
        value = None

    if "database_url" in name:
        _refuse_raw_password(text)
    if name in _ADDRESSES:
        _require_host(text)
    if name == "openai_base_url" and find_endpoint(text):
        raise ValueError
    if name in _ADDRESS_LISTS:
        for address in value:
            _require_host(address)
            if len(address.encode()) > _MAX_SERVICE_URL_BYTES:
                raise ValueError
        if len({_canonical_address(name, address) for address in value}) < len(value):
            raise ValueError
    if name == "head_repository" and text:
        repository_address.parse(text)
    if name == "benchmarks" and _has_twin_tickers(text):
        raise ValueError
    return msgspec.convert(value, hint, strict=False)


def _refuse_raw_password(text: str) -> None:
    """
    Raise ProgrammingError for a database address with an unencoded "/" or "@" in its password.

    libpq would split the password at that character, and messages would show a part of the password
    as a host or a port. Also raises ProgrammingError for a URL with a white space, or if libpq
    cannot parse the address.
    """
    parts = conninfo_to_dict(text)
    if re.search(r"\s", text) and _SCHEME.match(text):
        # libpq drops a space after the host, and keeps a line break in the name of a host, a user
        # or a database.
        raise ProgrammingError
    ports = str(parts.get("port") or "5432").split(",")
    database = text.partition("://")[2].partition("/")[2].partition("?")[0]
    host = str(parts.get("host") or "")
    if "@" in database or "@" in host or not all(map(_is_port, ports)):
        raise ProgrammingError


def _is_port(text: str) -> bool:
    # libpq does not read the digits of other scripts, which are decimal for Python.
    return text.isascii() and text.isdecimal() and len(text) <= 5 and 0 < int(text) <= 65535


def _require_host(text: str) -> None:
    """
    Raise ValueError for an address that is not http or https, has no host, or has the port 0.

    An empty text is accepted: the setting is not set.
    """
    if not text:
        return
    if not re.fullmatch(_URL, text):
        raise ValueError
    # `urlsplit` itself raises a ValueError for an invalid port.
    parts = urlsplit(text)
    if not parts.hostname or parts.port == 0:
        raise ValueError


def _has_twin_tickers(text: str) -> bool:
    """Return whether a list of tickers has a ticker twice."""
    tickers = _COMMA.split(text)
    return len(set(tickers)) < len(tickers)


def _has_twins(name: str, text: str) -> bool:
    """Return whether a list of addresses has an address twice. No address need be valid."""
    try:
        addresses = [_canonical_address(name, address) for address in _COMMA.split(text)]
    except ValueError:
        return False
    return len(set(addresses)) < len(addresses)


def _canonical_address(name: str, url: str) -> str:
    """
    Return the form of an address that all its spellings have in common.

    The scheme and the host are in small letters, and the usual port of the scheme is left out. So
    is the slash of an empty path. A calendar adds its own paths to its address, so all slashes at
    the end are left out there; elsewhere, they can lead to another resource.

    Raises ValueError if the text is no address.
    """
    parts = urlsplit(url)
    path = parts.path
    if name == "ots_calendars" or path == "/":
        path = path.rstrip("/")
    return urlunsplit((parts.scheme, canonical_host(parts), path, "", ""))


def _path_and_query(url: str) -> str:
    """Return the path and the query of an address, as they are sent in a request."""
    parts = urlsplit(url)
    return urlunsplit(("", "", parts.path, parts.query, ""))
