"""
The file of SERIES_FILE: which series this service asks every Monday, and how.

The file is TOML, with a table for each series. docs/operate/models.md explains the options, and has
a tried profile for each kind of server. Without a file there is one series, `main`, from the
settings that begin with OPENAI_.

The file has no secret. An option names the environment variable that has a key: the file can be
shown, and kept in a repository. Every mistake is a ConfigurationError with one line, which names
the file, the series and the option. A value that may be a key is never shown.
"""

import ast
import json
import math
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime, time
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from msgspec import Struct

from app.core import settings as core_settings
from app.core.settings import Settings
from app.domain.model import MAX_SERIES, SERIES, SERIES_PATTERN
from app.domain.text import one_line
from app.errors import ConfigurationError

Kind = Literal["model", "random"]
ResponseFormat = Literal["json_schema", "json_object", "text"]
TokenLimitOption = Literal["max_completion_tokens", "max_tokens", "none"]

KINDS = ("model", "random")
RESPONSE_FORMATS = ("json_schema", "json_object", "text")
TOKEN_LIMIT_OPTIONS = ("max_completion_tokens", "max_tokens", "none")
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")

# A key is sent in a header of a request.
_KEY = re.compile(r"[!#-&(-_a-~]+")
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]{0,99}")

# A reference to a variable, as users write one in place of the key. A text without _ is more likely
# to be a key in capitals.
_REFERENCE = re.compile(r"(?=.*_)(\$\{?)?[A-Z][A-Z0-9_]{0,99}\}?")

# The setting with the path of the file.
SETTING = "SERIES_FILE"

# The variable with the key of a series that names no other.
_USUAL_KEY = "OPENAI_API_KEY"

# In bytes. A longer file is no file of series.
_MAX_FILE_BYTES = 1_000_000
_MAX_LABEL_LENGTH = 60
_MAX_MODEL_LENGTH = 200
_MAX_TIMEOUT_SECONDS = 1800
_MIN_TOKENS, _MAX_TOKENS = 256, 1_000_000
# In characters, of `extra_body` as JSON: the journal states it.
_MAX_EXTRA_BODY_LENGTH = 10_000
# How many tables and lists may stand within each other in `extra_body`.
_MAX_EXTRA_BODY_DEPTH = 20
# Whole numbers of TOML have 64 bits. Python reads longer ones, which other programs round.
_MAX_WHOLE_NUMBER = 2**63
# In characters. A longer address cannot be sent by every client.
_MAX_ADDRESS_LENGTH = 500

# Members of a request that the service itself sends. `extra_body` must not replace them: the record
# would then not show what was asked.
_OWN_MEMBERS = frozenset(
    {
        "frequency_penalty",
        "max_completion_tokens",
        "max_tokens",
        "messages",
        "model",
        "n",
        "reasoning_effort",
        "response_format",
        "stream",
        "stream_options",
        "temperature",
    }
)
# Members that give the model tools or a search on the web, on the servers of
# docs/operate/models.md.
_TOOL_MEMBERS = frozenset(
    {
        "enable_search",
        "functions",
        "google_search",
        "plugins",
        "search_parameters",
        "tools",
        "web_search",
        "web_search_options",
    }
)
# Names of models that search the web: OpenRouter's suffix, the models for searches of OpenAI and
# Perplexity, those for deep research of several providers, and Groq's systems with tools.
_SEARCHING_MODEL = re.compile(
    r":online$|-search(-|$)|-deep-research(-|$)|(^|/)sonar(-|$)|(^|/)compound(-|$)", re.I
)

_SECRET_NAME = re.compile(
    r"api[-_ ]?key|authorization|bearer|credential|passw(or)?d|secret|(^|[-_])(key|token)$", re.I
)
# What providers' keys look like: a known beginning, or a long text of letters and digits.
_SECRET_VALUE = re.compile(
    r"\b(sk|pk|rk|gsk|xai|key|ghp|AIza|Bearer)[-_ ][A-Za-z0-9_-]{8,}|"
    r"(?=[A-Za-z0-9_-]*[0-9])(?=[A-Za-z0-9_-]*[A-Za-z])[A-Za-z0-9_-]{32,}"
)
# The beginnings of keys that no name of a model and no path of an address has. Both may have long
# texts of letters and digits.
_KNOWN_KEY = re.compile(
    r"\b((sk|rk|gsk|xai)[-_][A-Za-z0-9_-]{12,}|AIza[A-Za-z0-9_-]{20,}|gh[opsu]_[A-Za-z0-9]{20,})"
)


class SeriesSettings(Struct, frozen=True, kw_only=True):
    """
    A series, as it is configured.

    - `name`: the stable name; `label`: the name for readers
    - `kind`: `model`, or `random` for a control; the other options are those of a model
    - `base_url`: the address of the model's server; empty for OpenAI's own
    - `key_from`: the name of the environment variable with the key; `key` is its value
    - `reasoning_effort`, `temperature`, `max_tokens`: sent only if they are not None
    - `token_limit_as`: the member of a request that has `max_tokens`
    - `extra_body`: additional members of each request
    - `tools`: whether `extra_body`, or the model itself, has tools or a search on the web
    """

    name: str
    label: str
    kind: Kind = "model"
    model: str = ""
    base_url: str = ""
    key_from: str = ""
    key: str = ""
    response_format: ResponseFormat = "json_schema"
    reasoning_effort: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    token_limit_as: TokenLimitOption = "max_completion_tokens"  # noqa: S105 - no password
    timeout_seconds: float = 0
    extra_body: Mapping[str, Any] = {}
    tools: bool = False

    def __repr__(self) -> str:
        return f"SeriesSettings(name={self.name!r})"  # without the key


def load(
    settings: Settings,
    environment: Mapping[str, str] | None = None,
    *,
    source: str = SETTING,
) -> list[SeriesSettings]:
    """
    Return the configured series, in the order of the file.

    If `environment` is given, it is used instead of os.environ. `source` is what has the path of
    the file: a setting, or an option of a command. Raises ConfigurationError for the first mistake;
    its message names `source`.
    """
    if environment is None:
        environment = os.environ
    if not settings.series_file:
        return [_main_series(settings)]
    return _FileReader(settings, environment, source).read()


def require_keys(series: Iterable[SeriesSettings]) -> None:
    """Raise ConfigurationError if the key of a model is missing, or cannot be sent."""
    for one in series:
        if one.kind == "model" and not one.key:
            raise ConfigurationError(
                f"{one.key_from} must be set to the key of the series {one.name}, for example "
                f"{one.key_from}=abc123."
            )
        if one.kind == "model" and not _KEY.fullmatch(one.key):
            raise ConfigurationError(
                f"{one.key_from} must be the key of the series {one.name} alone, without quotes, "
                f"blanks and letters other than a to z, for example {one.key_from}=abc123."
            )


def require_service_keys(
    settings: Settings, environment: Mapping[str, str] | None = None, *, name: str | None = None
) -> list[SeriesSettings]:
    """
    Return the configured series, or that of `name`. Their models and the prices must have keys.

    Without a file, OPENAI_API_KEY is the key of the only model. With a file, each model needs the
    key that it names, so OPENAI_API_KEY may be missing. If `environment` is given, it is used
    instead of os.environ. Raises ConfigurationError for a missing key, for a name that is not
    configured, and for a mistake in the file.
    """
    series = load(settings, environment)
    if name is not None:
        series = [require_name(series, name)]
    if not settings.series_file:
        core_settings.require_keys(settings)
        return series
    require_keys(series)
    core_settings.require_price_key(settings.alpha_vantage_api_key)
    return series


def require_name(series: Iterable[SeriesSettings], name: str) -> SeriesSettings:
    """Return the series with a name. Raises ConfigurationError if it is not configured."""
    series = list(series)
    for one in series:
        if one.name == name:
            return one
    names = ", ".join(one.name for one in series)
    raise ConfigurationError(
        f"There is no series {_shown(name)!r}. The configured series: {names}."
    )


def secret_texts(settings: Settings, environment: Mapping[str, str] | None = None) -> list[str]:
    """
    Return the texts that must be replaced in every line of the log.

    They are those of the settings, and the keys of the series. If the file has a mistake, the keys
    of the series are not known: then the service does not start, and nothing uses them. If
    `environment` is given, it is used instead of os.environ.
    """
    texts = settings.secret_texts
    try:
        series = load(settings, environment)
    except ConfigurationError:
        return texts
    keys = [one.key for one in series if one.key and one.key not in texts]
    return [*texts, *dict.fromkeys(keys)]


def _main_series(settings: Settings) -> SeriesSettings:
    return SeriesSettings(
        name=SERIES,
        label=settings.openai_model,
        model=settings.openai_model,
        base_url=settings.openai_base_url,
        key_from=_USUAL_KEY,
        key=settings.openai_api_key,
        temperature=settings.openai_temperature,
        timeout_seconds=settings.openai_timeout,
    )


class _Mistake(ValueError):
    """What is wrong with a value: the text that follows the option's name in the message."""


class _FileReader:
    """
    Reads the file of series. Each mistake is a ConfigurationError with one line.

    `source` is the setting, or the option of a command, that has the path of the file.
    """

    def __init__(self, settings: Settings, environment: Mapping[str, str], source: str) -> None:
        self._settings = settings
        self._environment = environment
        self._source = source
        self._path = settings.series_file

    def read(self) -> list[SeriesSettings]:
        tables = self._read_tables()
        series = [self._read_series(name, table) for name, table in tables.items()]
        labels: dict[str, str] = {}
        for one in series:
            # Two labels that differ in capital letters alone look the same to a reader.
            label = one.label.casefold()
            if label in labels:
                raise self._error(
                    f"[{one.name}] label is that of [{labels[label]}], too: readers could not "
                    "tell them apart. Change one of the two."
                )
            labels[label] = one.name
        return series

    def _error(self, problem: str) -> ConfigurationError:
        return ConfigurationError(f"{self._source} ({self._path}): {problem}")

    def _read_tables(self) -> dict[str, dict[str, Any]]:
        content = self._parse(self._read_bytes())
        for name, table in content.items():
            if _is_list_of_tables(table):
                raise self._error(
                    f"[[{_shown(name)}]] is a list of tables. Write [{_shown(name)}], with one "
                    "pair of brackets."
                )
            if not isinstance(table, dict):
                raise self._error(
                    f"{_shown(name)} stands outside of a table. Put it below the name of its "
                    "series, for example below [main]."
                )
            if _SECRET_VALUE.search(name):
                raise self._error(
                    "the name of a table looks like a key. A key does not belong into the file: "
                    "use key_from."
                )
            if not re.fullmatch(SERIES_PATTERN, name):
                raise self._error(
                    f"[{_shown(name)}] is no name of a series. A name has small letters, digits "
                    "and -, begins with a letter, and has at most 32 characters, for example "
                    "[main]."
                )
        if not content:
            raise self._error("it has no series. Add a table for each, for example [main].")
        if len(content) > MAX_SERIES:
            raise self._error(f"it has {len(content)} series; at most {MAX_SERIES} can run.")
        return content

    def _read_bytes(self) -> bytes:
        path = Path(self._path)
        advice = f"Set {self._source} to the path of a TOML file."
        try:
            # A folder that may not be searched, and a name that is too long, raise an OSError here.
            if path.exists() and not path.is_file():
                raise self._error(f"it is no file. {advice}")
            with path.open("rb") as file:
                content = file.read(_MAX_FILE_BYTES + 1)
        except OSError as error:
            raise self._error(f"it cannot be read ({error.strerror}). {advice}") from None
        except ValueError:
            raise self._error(f"it is no path. {advice}") from None
        if len(content) > _MAX_FILE_BYTES:
            raise self._error(f"it is longer than {_MAX_FILE_BYTES:,} bytes.")
        return content

    def _parse(self, content: bytes) -> dict[str, Any]:
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError:
            raise self._error("it is not UTF-8. Save it as UTF-8.") from None
        try:
            return tomllib.loads(text)
        except RecursionError:
            raise self._error("it is nested too deeply.") from None
        except tomllib.TOMLDecodeError as error:
            if repeated := _repeated_name(str(error), text):
                raise self._error(repeated) from None
            # The error has the place and the kind of the mistake, and a name at most. It may quote
            # a part of a line that is no TOML, so it is not shown if it looks like a key.
            reason = one_line(error)
            if _SECRET_VALUE.search(reason):
                reason = "a value is no TOML"
            raise self._error(f"it is no TOML: {reason}") from None
        except ValueError:
            # Python itself refuses to read a whole number of more than 4,300 digits.
            raise self._error("it has a number with too many digits.") from None

    def _read_series(self, name: str, table: dict[str, Any]) -> SeriesSettings:
        kind = self._read(name, table, "kind", read=_read_kind, default="model")
        known = _OPTIONS_OF_CONTROL if kind == "random" else _OPTIONS_OF_MODEL
        for option, value in table.items():
            if option in known:
                continue
            problem = _unknown_table(name, option, value)
            if not problem:
                problem = _unknown_option(option, value, kind=kind, known=known)
            raise self._error(f"[{name}] {problem}")
        label = self._read(name, table, "label", read=_read_label, default="")
        if kind == "random":
            return SeriesSettings(name=name, label=label or name, kind="random")
        return self._read_model(name, table, label)

    def _read_model(self, name: str, table: dict[str, Any], label: str) -> SeriesSettings:
        settings = self._settings
        if "model" not in table:
            raise self._error(f'[{name}] model is missing, for example model = "gpt-5.4-mini".')
        model = self._read(name, table, "model", read=_read_model_name, default="")
        key_from = self._read(name, table, "key_from", read=_read_variable_name, default=_USUAL_KEY)
        extra_body = self._read(name, table, "extra_body", read=_read_extra_body, default={})
        tools = self._read(name, table, "tools", read=_read_bool, default=False)
        has_tools = _has_tools(extra_body) or bool(_SEARCHING_MODEL.search(model))
        if has_tools and not tools:
            raise self._error(
                f"[{name}] gives the model tools or a search on the web. Declare it with "
                "tools = true: the series is then shown, and not tested."
            )
        temperature = self._read(name, table, "temperature", read=_read_temperature, default=None)
        effort = self._read(name, table, "reasoning_effort", read=_read_effort, default=None)
        return SeriesSettings(
            name=name,
            label=label or model,
            model=model,
            base_url=self._read(
                name, table, "base_url", read=_read_address, default=settings.openai_base_url
            ),
            key_from=key_from,
            key=self._key(key_from),
            response_format=self._read(
                name,
                table,
                "response_format",
                read=_one_of(RESPONSE_FORMATS),
                default="json_schema",
            ),
            reasoning_effort=effort,
            temperature=temperature,
            max_tokens=self._read(name, table, "max_tokens", read=_read_token_limit, default=None),
            token_limit_as=self._read(
                name,
                table,
                "token_limit_as",
                read=_one_of(TOKEN_LIMIT_OPTIONS),
                default="max_completion_tokens",
            ),
            timeout_seconds=self._read(
                name, table, "timeout_seconds", read=_read_timeout, default=settings.openai_timeout
            ),
            extra_body=extra_body,
            tools=tools,
        )

    def _key(self, variable: str) -> str:
        """Return the value of the variable with the key; empty if it is not set."""
        if variable == _USUAL_KEY and self._settings.openai_api_key:
            # The setting of this name may come from elsewhere: a rehearsal replaces it.
            return self._settings.openai_api_key
        return self._environment.get(variable, "").strip()

    def _read(
        self,
        name: str,
        table: dict[str, Any],
        option: str,
        *,
        read: Callable[[Any], Any],
        default: Any,
    ) -> Any:
        """Return the value of an option, or its default. Raises ConfigurationError."""
        if option not in table:
            return default
        try:
            return read(table[option])
        except _Mistake as mistake:
            raise self._error(f"[{name}] {option} {mistake}") from None


_OPTIONS_OF_CONTROL = ("kind", "label")
_OPTIONS_OF_MODEL = (
    "base_url",
    "extra_body",
    "key_from",
    "kind",
    "label",
    "max_tokens",
    "model",
    "reasoning_effort",
    "response_format",
    "temperature",
    "timeout_seconds",
    "token_limit_as",
    "tools",
)


def _unknown_table(series: str, option: str, value: Any) -> str:
    """
    Return what is wrong with a table within the table of a series.

    The user may have meant a name with a dot, such as [gpt-5.4], or members of a request. Return an
    empty text if the value is no table, or if the name is that of a key or similar to an option.
    """
    is_table = isinstance(value, dict) or _is_list_of_tables(value)
    if not is_table or option in _OPTIONS_OF_MODEL or _may_name_key(option):
        return ""
    if get_close_matches(option, ["extra_body"]):
        return ""
    name = re.sub("[^a-z0-9]", "-", f"{series}-{option}".lower())
    if not re.fullmatch(SERIES_PATTERN, name) or _SECRET_VALUE.search(name):
        name = "claude-opus"
    return (
        f"{_shown(option)} is no option, and the name of a series has no dot. Write a series as "
        f"[{name}], for example, and members of a request in extra_body."
    )


def _unknown_option(option: str, value: Any, *, kind: Kind, known: Sequence[str]) -> str:
    """Return what is wrong with an option that a series of this kind does not have."""
    if kind == "random" and option in _OPTIONS_OF_MODEL:
        return f"{option} is an option of a model, and this series is a control: remove it."
    similar = _similar_option(option, value, known)
    if similar:
        return f"{_shown(option)} is no option. Did you mean {similar}?"
    if _may_be_key(option, value):
        return _key_in_file(option, value, kind)
    return f"{_shown(option)} is no option. The options: {', '.join(known)}."


def _similar_option(option: str, value: Any, known: Sequence[str]) -> str:
    """Return the option that the user probably meant; empty if there is none, or for a key."""
    if _has_known_key(value):
        return ""
    # A misspelled max_tokens may end like the name of a key, so its value decides. A number is
    # never a key. A text may be one, so the name must then be very similar to an option.
    cutoff = 0.6
    if _may_name_key(option) and not _is_number(value):
        if not isinstance(value, str) or _SECRET_VALUE.search(value):
            return ""
        cutoff = 0.8
    similar = get_close_matches(option.lower(), known, n=1, cutoff=cutoff)
    return similar[0] if similar else ""


def _may_name_key(option: str) -> bool:
    return bool(_SECRET_NAME.search(option) or _SECRET_VALUE.search(option))


def _may_be_key(option: str, value: Any) -> bool:
    """Return whether an option that does not exist may have a key, or the name of its variable."""
    if _is_number(value):
        return False
    names_variable = "key" in option.lower() and _is_reference(value)
    return _may_name_key(option) or names_variable or _has_known_key(value)


def _key_in_file(option: str, value: Any, kind: Kind) -> str:
    """Return what to do about a key, or about the name of its variable. The value is not shown."""
    if kind == "random":
        return f"{_shown(option)}: a control needs no key, and a key does not belong into the file."
    if _is_reference(value):
        return (
            f"{_shown(option)} is no option. The option that names the variable with the key is "
            'key_from, for example key_from = "ANTHROPIC_API_KEY".'
        )
    return (
        f"{_shown(option)}: a key does not belong into the file. Set it as an environment "
        'variable, and name the variable, for example key_from = "ANTHROPIC_API_KEY".'
    )


def _is_reference(value: Any) -> bool:
    """Return whether a value is the name of a variable, also as $NAME or ${NAME}."""
    if not isinstance(value, str) or _SECRET_VALUE.search(value):
        return False
    return bool(_REFERENCE.fullmatch(value.strip()))


def _has_known_key(value: Any) -> bool:
    return isinstance(value, str) and bool(_KNOWN_KEY.search(value))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _is_list_of_tables(value: Any) -> bool:
    """Return whether a value comes from a name in two pairs of brackets."""
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict) for one in value)


# What tomllib says about a name that stands twice in a table: a list of names, one name, or none.
_REPEATED_TABLE = re.compile(
    r"Cannot (?:declare|mutate immutable namespace|redefine namespace) (\(.*\))(?: twice)? \(at "
)
_REPEATED_MEMBER = re.compile(r"Duplicate inline table key (.*) \(at ")
_REPEATED_OPTION = re.compile(r"Cannot overwrite a value \(at ")
# In characters, of a name with many parts.
_MAX_SHOWN_LENGTH = 100
_LINE = re.compile(r"\(at line ([0-9]+), column [0-9]+\)$")


def _repeated_name(reason: str, text: str) -> str:
    """Return in plain words that a file has a name twice; empty if that is not the reason."""
    if found := _REPEATED_TABLE.match(reason):
        names = [_shown(name) for name in ast.literal_eval(found[1])]
        repeated = f"the series {names[0]}"
        if len(names) > 1:
            repeated = f"the table {'.'.join(names)[:_MAX_SHOWN_LENGTH]}"
    elif found := _REPEATED_MEMBER.match(reason):
        repeated = f"the member {_shown(ast.literal_eval(found[1]))}"
    elif _REPEATED_OPTION.match(reason):
        repeated = "a name"
    else:
        return ""
    # At the end of the file, tomllib does not state the line.
    line = _LINE.search(reason)
    number = line[1] if line else text.count("\n") + 1
    return (
        f"it has {repeated} twice, the second time in line {number}. Remove one of the two, or "
        "give it another name."
    )


def _shown(name: str) -> str:
    """Return a name from the file, short and on one line; a name that may be a key is hidden."""
    if _SECRET_VALUE.search(name):
        return "a long name"
    return one_line(name)[:40]


# The functions from here read the value of one option. They raise _Mistake with the text that
# follows the option's name in the message. They show no value.


def _read_text(value: Any, example: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _Mistake(f"must be a text, for example {example}.")
    # A text with a slash may be the long name of a model.
    looks_like_key = _KNOWN_KEY if "/" in value else _SECRET_VALUE
    if looks_like_key.search(value):
        raise _Mistake(
            f"looks like a key. A key does not belong into the file, for example {example}."
        )
    return value.strip()


def _read_kind(value: Any) -> str:
    return _one_of(KINDS)(value)


def _one_of(choices: Iterable[str]) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if value not in tuple(choices) or not isinstance(value, str):
            quoted = [f'"{choice}"' for choice in choices]
            raise _Mistake(f"must be {', '.join(quoted[:-1])} or {quoted[-1]}.")
        return value

    return read


def _read_effort(value: Any) -> str:
    return _one_of(EFFORTS)(value)


def _read_bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _Mistake("must be true or false, without quotes.")
    return value


def _read_label(value: Any) -> str:
    text = _read_text(value, 'label = "GPT-5.4 mini"')
    if len(text) > _MAX_LABEL_LENGTH or not text.isprintable():
        raise _Mistake(
            f"must be a text on one line, of at most {_MAX_LABEL_LENGTH} printable characters."
        )
    return text


def _read_model_name(value: Any) -> str:
    example = 'model = "gpt-5.4-mini"'
    if not isinstance(value, str) or not value.strip():
        raise _Mistake(f"must be a text, for example {example}.")
    text = value.strip()
    if re.match(r"sk[-_]", text) or _KNOWN_KEY.search(text):
        raise _Mistake(f"looks like a key. It must be a model's name, for example {example}.")
    # A series without a label has the name of its model as its label.
    if len(text) > _MAX_MODEL_LENGTH or not text.isprintable():
        raise _Mistake(
            "must be a model's name, on one line and of at most "
            f"{_MAX_MODEL_LENGTH} printable characters, for example {example}."
        )
    return text


def _read_variable_name(value: Any) -> str:
    if not isinstance(value, str) or not _VARIABLE.fullmatch(value):
        raise _Mistake(
            "must be the name of an environment variable, in capitals, and never the key itself, "
            'for example key_from = "ANTHROPIC_API_KEY".'
        )
    if value != _USUAL_KEY and value.lower() in Settings.__struct_fields__:
        raise _Mistake(
            f"is {value}, a setting with another purpose: its value would be sent to the model's "
            'provider. Use a variable of its own, for example key_from = "ANTHROPIC_API_KEY".'
        )
    return value


def _read_address(value: Any) -> str:
    example = 'for example base_url = "https://api.anthropic.com/v1/"'
    if not isinstance(value, str) or not re.fullmatch(r"https?://[^\s\\]+", value.strip()):
        raise _Mistake(f"must be an http or https address, {example}.")
    try:
        parts = urlsplit(value.strip())
        port = parts.port
    except ValueError:
        parts, port = None, None
    if (parts is None or port == 0) and core_settings.has_wrong_port(value.strip()):
        raise _Mistake(f"has a port that is not a number from 1 to 65535, {example}.")
    if parts is None:
        raise _Mistake(f"must be an http or https address, {example}.")
    if not parts.hostname or port == 0:
        raise _Mistake(f"must be an http or https address with a host, {example}.")
    # This is before the check for a query: a whole address of an endpoint may have one.
    if endpoint := core_settings.find_endpoint(value.strip()):
        raise _Mistake(
            f"must end before {endpoint}: the service itself adds /chat/completions, "
            f"{_corrected(value.strip(), example)}."
        )
    if "@" in parts.netloc or parts.query or parts.fragment or re.search("[?#]", value):
        raise _Mistake(
            f"must have no user name, no password, no ? and no #: it is shown to every reader, "
            f"{example}."
        )
    if _KNOWN_KEY.search(value):
        raise _Mistake(
            "has a text that looks like a key. It is shown to every reader: use key_from, "
            f"{example}."
        )
    text = value.strip()
    if len(text) > _MAX_ADDRESS_LENGTH or not text.isprintable():
        raise _Mistake(
            f"must be an address of at most {_MAX_ADDRESS_LENGTH:,} printable characters, "
            f"{example}."
        )
    return text


def _corrected(address: str, example: str) -> str:
    """
    Return an address without its endpoint, as an example of an option.

    If the address may have a key or a password, return `example` instead.
    """
    corrected = core_settings.without_endpoint(address)
    is_shown = re.fullmatch(r"[A-Za-z0-9:/\[\]._~-]{1,100}", corrected)
    if not is_shown or _SECRET_VALUE.search(corrected):
        return example
    return f'for example base_url = "{corrected}"'


def _number(value: Any) -> float | None:
    """
    Return a number of the file; None for another value, also for true, inf and nan.

    A whole number that is too great for a float is as good as inf.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _read_temperature(value: Any) -> float:
    number = _number(value)
    if number is None or not 0 <= number <= 2:
        raise _Mistake("must be a number from 0 to 2, without quotes, for example 0.7.")
    return number


def _read_timeout(value: Any) -> float:
    number = _number(value)
    if number is None or not 0 < number <= _MAX_TIMEOUT_SECONDS:
        raise _Mistake(
            f"must be a number of seconds above 0 and up to {_MAX_TIMEOUT_SECONDS}, without "
            "quotes, for example 120."
        )
    return number


def _read_token_limit(value: Any) -> int:
    is_number = isinstance(value, int) and not isinstance(value, bool)
    if not is_number or not _MIN_TOKENS <= value <= _MAX_TOKENS:
        raise _Mistake(
            f"must be a whole number from {_MIN_TOKENS} to {_MAX_TOKENS}, without quotes, for "
            "example 20000."
        )
    return int(value)


def _read_extra_body(value: Any) -> dict[str, Any]:
    example = "for example extra_body = { provider = { require_parameters = true } }"
    if not isinstance(value, dict):
        raise _Mistake(f"must be a table, {example}.")
    for name in value:
        if name.lower() in _OWN_MEMBERS:
            raise _Mistake(
                f"must not have the member {name}: the service sends it. If there is an option of "
                "this name, use the option."
            )
    _refuse_secrets(value)
    text = json.dumps(value, ensure_ascii=False)
    if len(text) > _MAX_EXTRA_BODY_LENGTH:
        raise _Mistake(f"must have at most {_MAX_EXTRA_BODY_LENGTH:,} characters as JSON.")
    return value


def _refuse_secrets(value: Any, depth: int = 0) -> None:
    """
    Raise _Mistake for a member that may be a key, and for a value that JSON does not have.

    `depth` is the number of tables and lists around the value. A dotted name can have thousands.
    """
    if depth > _MAX_EXTRA_BODY_DEPTH:
        raise _Mistake(f"has more than {_MAX_EXTRA_BODY_DEPTH} tables or lists within each other.")
    match value:
        case dict():
            for name, inner in value.items():
                if _SECRET_NAME.search(name) or _SECRET_VALUE.search(name):
                    raise _Mistake(
                        f"has the member {_shown(name)}, which may be a key. A key does not belong "
                        "into the file, and the journal would state it. Use key_from."
                    )
                _refuse_secrets(inner, depth + 1)
        case list():
            for inner in value:
                _refuse_secrets(inner, depth + 1)
        case str():
            if _SECRET_VALUE.search(value):
                raise _Mistake(
                    "has a text that looks like a key. A key does not belong into the file, and "
                    "the journal would state it. Use key_from."
                )
        case int() if not -_MAX_WHOLE_NUMBER <= value < _MAX_WHOLE_NUMBER:
            raise _Mistake("has a whole number of more than 64 bits.")
        case float() if not math.isfinite(value):
            raise _Mistake("has inf or nan, which JSON does not have.")
        case date() | datetime() | time():
            raise _Mistake("has a date or a time, which JSON does not have. Write it as a text.")


def _has_tools(value: Any) -> bool:
    """Return whether a table has a member that gives the model tools, at any depth."""
    if isinstance(value, dict):
        return any(
            name.lower() in _TOOL_MEMBERS or _has_tools(inner) for name, inner in value.items()
        )
    if isinstance(value, list):
        return any(_has_tools(inner) for inner in value)
    return False
