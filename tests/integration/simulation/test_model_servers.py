"""
The model's client and the simulated servers of each kind, over real HTTP: a profile that each kind
accepts, and what each refuses.
"""

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from document_text import HOUSE
from provider_server import ProviderServer, Reply, Request
from provider_server import provider as provider

from app.core import series_file, settings
from app.core.series_file import SeriesSettings
from app.domain import prompt
from app.domain.model import Action
from app.errors import AlphaMondayError, ConfigurationError, UnusableAnswer
from app.providers.llm import ModelAnswer, ModelClient, ModelOptions
from app.simulation.model_servers import MODEL_SERVERS

KEY = "a-key-of-nobody"
PICKS = [
    {"ticker": "KO", "action": "BUY", "reasoning": "People drink it.", "probability": 55},
    {"ticker": "MSFT", "action": "SELL", "reasoning": "It is dear.", "probability": 60},
    {"ticker": "XOM", "action": "BUY", "reasoning": "Oil is up.", "probability": 99},
]

DOCUMENT = (HOUSE / "docs" / "operate" / "models.md").read_text()
# The profiles of the document, by the kind of server, in the order of the document.
_PROFILES = re.findall(r"^```toml\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)
BLOCKS = dict(zip(MODEL_SERVERS, _PROFILES, strict=True))


def load(text: str, folder: Path, **environment: str) -> SeriesSettings:
    """Return the only series of a file with this text."""
    path = folder / "series.toml"
    path.write_text(text)
    variables = {"SERIES_FILE": str(path), **environment}
    (series,) = series_file.load(settings.load(variables), variables)
    return series


def options_of(series: SeriesSettings) -> dict[str, object]:
    """Return what a request of a series has besides its model and its messages."""
    return {
        "response_format": series.response_format,
        "temperature": series.temperature,
        "reasoning_effort": series.reasoning_effort,
        "max_tokens": series.max_tokens,
        "token_limit_as": series.token_limit_as,
        "extra_body": series.extra_body,
    }


@pytest.fixture
def profile(tmp_path) -> Callable[[str], SeriesSettings]:
    """Return a function that returns the documented series for a kind of server."""
    return lambda kind: load(BLOCKS[kind], tmp_path)


Ask = Callable[..., Awaitable[ModelAnswer]]


@pytest.fixture
async def ask(provider: ProviderServer) -> AsyncIterator[Ask]:
    """Return a function that asks the simulated server of a kind one question."""
    clients: list[ModelClient] = []

    async def asked(kind: str, key: str = KEY, path: str = "/v1", **options: object) -> ModelAnswer:
        server = MODEL_SERVERS[kind]

        def answer(request: Request) -> Reply:
            is_known = request.headers["authorization"] == f"Bearer {KEY}"
            reply = server.reply(request.body, KEY if is_known else "", PICKS)
            return Reply(reply.body, status=reply.status, headers=reply.headers)

        provider.answers = answer
        client = ModelClient(
            key,
            ModelOptions(model=server.model, **options),
            f"{provider.url}{path}",
            timeout=20,
            key_setting="A_KEY",
            model_setting="the option model of [a]",
        )
        clients.append(client)
        current = prompt.CURRENT
        return await client.ask(current.system_prompt, "Choose 3 different S&P 500 stocks.")

    yield asked
    for client in clients:
        await client.close()


def test_every_kind_has_one_documented_profile():
    """The headings of the profiles are the kinds of simulated servers, in their order."""
    section = DOCUMENT.split("## A profile for each kind of server")[1].split("\n## ")[0]
    headings = [heading.lower() for heading in re.findall(r"^### (.+)$", section, re.M)]
    assert headings == [*MODEL_SERVERS, "any other server"]
    assert section.count("```toml") == len(MODEL_SERVERS)


@pytest.mark.parametrize("kind", MODEL_SERVERS)
async def test_the_documented_profile(ask, provider, profile, kind):
    """Each kind of server answers it with three picks and their probabilities."""
    series = profile(kind)
    assert series.model == MODEL_SERVERS[kind].model
    assert series.key_from != "OPENAI_API_KEY" or kind == "openai"
    path = urlsplit(series.base_url).path or "/v1"
    answer = await ask(kind, path=path, **options_of(series))
    assert provider.requests[-1].path == f"{path.rstrip('/')}/chat/completions"
    assert answer.unusable_reason is None
    ideas = prompt.parse_answer(answer.text or "", "SPY", prompt.CURRENT.version)
    assert [(idea.ticker, idea.action, idea.probability) for idea in ideas] == [
        ("KO", Action.BUY, 55),
        ("MSFT", Action.SELL, 60),
        ("XOM", Action.BUY, 99),
    ]
    assert answer.model
    assert answer.finish_reason == "stop"


def test_all_profiles_fit_into_one_file(tmp_path):
    """Their names and labels differ, so that an operator can copy any of them."""
    path = tmp_path / "series.toml"
    path.write_text("\n".join(BLOCKS.values()))
    variables = {"SERIES_FILE": str(path)}
    loaded = series_file.load(settings.load(variables), variables)
    assert len(loaded) == len(MODEL_SERVERS)


def test_every_option_is_documented():
    """The table has each option once, with the default and the limits of the code."""
    rows = {
        option: (default, values, meaning)
        for option, default, values, meaning in re.findall(
            r"^\| `(\w+)` \| (.+?) \| (.+?) \| (.+) \|$", DOCUMENT, re.M
        )
    }
    assert rows.keys() == set(series_file._OPTIONS_OF_MODEL)
    choices = {
        "kind": series_file.KINDS,
        "response_format": series_file.RESPONSE_FORMATS,
        "reasoning_effort": series_file.EFFORTS,
        "token_limit_as": series_file.TOKEN_LIMIT_OPTIONS,
    }
    for option, texts in choices.items():
        assert rows[option][1] == ", ".join(f'`"{text}"`' for text in texts)
    limits = {
        "label": series_file._MAX_LABEL_LENGTH,
        "model": series_file._MAX_MODEL_LENGTH,
        "timeout_seconds": series_file._MAX_TIMEOUT_SECONDS,
        "extra_body": series_file._MAX_EXTRA_BODY_LENGTH,
        "max_tokens": series_file._MAX_TOKENS,
    }
    for option, limit in limits.items():
        assert str(limit) in rows[option][1].replace(",", ""), option
    assert f"from {series_file._MIN_TOKENS} to" in rows["max_tokens"][1]
    text = " ".join(DOCUMENT.split())
    assert f"1 to {series_file.MAX_SERIES} series" in text
    assert f"at most {series_file._MAX_FILE_BYTES:,} bytes" in text


def test_the_documented_defaults(tmp_path):
    """They are those of a series that has only a model."""
    series = load('[a]\nmodel = "m"', tmp_path, OPENAI_TIMEOUT="90", OPENAI_BASE_URL="http://a/v1")
    documented = dict(re.findall(r"^\| `(\w+)` \| (.+?) \|", DOCUMENT, re.M))
    quoted = ("kind", "key_from", "response_format", "token_limit_as")
    assert {name: documented[name] for name in quoted} == {
        name: f'`"{getattr(series, name)}"`' for name in quoted
    }
    assert [name for name, default in documented.items() if default == "not sent"] == [
        "reasoning_effort",
        "temperature",
        "max_tokens",
    ]
    assert series.reasoning_effort is series.temperature is series.max_tokens is None
    assert (series.label, documented["label"]) == ("m", "the model, for a control the name")
    assert (series.base_url, documented["base_url"]) == ("http://a/v1", "`OPENAI_BASE_URL`")
    assert (series.timeout_seconds, documented["timeout_seconds"]) == (90, "`OPENAI_TIMEOUT`")
    assert (series.extra_body, documented["extra_body"]) == ({}, "nothing")
    assert (series.tools, documented["tools"]) == (False, "`false`")


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("openai", (256, "fp_44709d6fcb")),
        ("anthropic", (None, None)),
        ("gemini", (None, None)),
        ("deepseek", (512, "fp_ffc7281d48_prod0820")),
        ("mistral", (None, None)),
        ("xai", (301, "fp_156d35dcaa")),
        ("openrouter", (None, None)),
        ("ollama", (None, "fp_ollama")),
        ("vllm", (None, None)),
    ],
)
async def test_what_is_kept(ask, profile, kind, expected):
    """Hidden tokens and the fingerprint are kept where a server has them; else they are None."""
    answer = await ask(kind, **options_of(profile(kind)))
    assert (answer.reasoning_tokens, answer.system_fingerprint) == expected
    assert answer.completion_tokens
    if kind == "openrouter":  # it has a fraction of a token
        assert answer.prompt_tokens is None
    else:
        assert answer.prompt_tokens


# What a server refuses: a profile of another server, and a part of the message.
REFUSED = [
    ("openai", {"temperature": 0.7, "reasoning_effort": "low"}, "'temperature' is not supported"),
    ("openai", {"max_tokens": 999, "token_limit_as": "max_tokens"}, "Use 'max_completion_tokens'"),
    ("openai", {"extra_body": {"provider": {}}}, "Unrecognized request argument"),
    ("openai", {"reasoning_effort": "huge"}, "Invalid value: 'huge'"),
    ("anthropic", {"temperature": 0.7}, "`temperature` is deprecated"),
    ("anthropic", {"response_format": "json_object"}, "json_object is not supported"),
    ("gemini", {"extra_body": {"store": False}}, 'Unknown name "store"'),
    ("deepseek", {}, "This response_format type is unavailable now"),
    ("mistral", {"max_tokens": 999}, "Extra inputs are not permitted"),
    ("mistral", {"extra_body": {"store": False}}, "Extra inputs are not permitted"),
    ("mistral", {"reasoning_effort": "low"}, "Extra inputs are not permitted"),
    ("xai", {"reasoning_effort": "low"}, "Argument not supported on this model"),
    ("ollama", {"reasoning_effort": "max"}, "invalid reasoning value"),
    ("vllm", {"max_tokens": 99_999}, "maximum context length"),
    (
        "openrouter",
        {"max_tokens": 999, "extra_body": {"provider": {"require_parameters": True}}},
        "No endpoints found that can handle the requested parameters",
    ),
]


@pytest.mark.parametrize(("kind", "options", "part"), REFUSED)
async def test_what_is_refused(ask, kind, options, part):
    """It is a mistake of the configuration, and one line has the server's own words."""
    with pytest.raises(ConfigurationError) as raised:
        await ask(kind, **options)
    assert part in str(raised.value)
    assert "\n" not in str(raised.value)
    assert KEY not in str(raised.value)


@pytest.mark.parametrize("kind", [kind for kind, one in MODEL_SERVERS.items() if one.needs_key])
async def test_a_wrong_key(ask, profile, kind):
    """The message names the variable of this series."""
    with pytest.raises(AlphaMondayError, match="A_KEY"):
        await ask(kind, key="another", **options_of(profile(kind)))


async def test_parameters_that_were_left_out_in_silence(ask):
    """OpenRouter without `require_parameters`: the answer has another form, and is refused."""
    answer = await ask("openrouter")
    with pytest.raises(UnusableAnswer, match="not JSON of the schema"):
        prompt.parse_answer(answer.text or "", "SPY", prompt.CURRENT.version)


async def test_a_model_that_thinks_too_long(ask):
    """Ollama: the thoughts have used up the context, and the content is empty."""
    answer = await ask("ollama")
    assert answer.unusable_reason == "The answer was truncated."
    assert answer.finish_reason == "length"


@pytest.mark.parametrize("response_format", ["json_schema", "json_object", "text"])
async def test_the_schema_is_in_every_prompt(ask, provider, response_format):
    """So all series get the same prompt, whatever their servers take."""
    await ask("vllm", response_format=response_format)
    members = json.loads(provider.requests[-1].body)
    assert '"probability":{"type":"integer"}' in members["messages"][0]["content"]
    assert members.get("response_format", {}).get("type", "text") == response_format
