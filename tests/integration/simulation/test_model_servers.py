"""
The model's client and the simulated servers of each kind, over real HTTP: a profile that each kind
accepts, and what each refuses.
"""

import json
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from provider_server import ProviderServer, Reply, Request
from provider_server import provider as provider

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

# The profile that docs/operate/models.md has for each kind of server.
PROFILES: dict[str, dict[str, object]] = {
    "openai": {"reasoning_effort": "low", "max_tokens": 20_000},
    "anthropic": {"max_tokens": 20_000},
    "gemini": {"reasoning_effort": "low", "max_tokens": 20_000},
    "deepseek": {
        "response_format": "json_object",
        "max_tokens": 20_000,
        "token_limit_as": "max_tokens",
    },
    "mistral": {"max_tokens": 20_000, "token_limit_as": "max_tokens", "temperature": 0.7},
    "xai": {"max_tokens": 20_000},
    "openrouter": {
        "max_tokens": 20_000,
        "token_limit_as": "max_tokens",
        "extra_body": {"provider": {"require_parameters": True}},
    },
    "ollama": {"reasoning_effort": "none"},
    "vllm": {"max_tokens": 20_000},
}

Ask = Callable[..., Awaitable[ModelAnswer]]


@pytest.fixture
async def ask(provider: ProviderServer) -> AsyncIterator[Ask]:
    """Return a function that asks the simulated server of a kind one question."""
    clients: list[ModelClient] = []

    async def asked(kind: str, key: str = KEY, **options: object) -> ModelAnswer:
        server = MODEL_SERVERS[kind]

        def answer(request: Request) -> Reply:
            is_known = request.headers["authorization"] == f"Bearer {KEY}"
            reply = server.reply(request.body, KEY if is_known else "", PICKS)
            return Reply(reply.body, status=reply.status, headers=reply.headers)

        provider.answers = answer
        client = ModelClient(
            key,
            ModelOptions(model=server.model, **options),
            f"{provider.url}/v1",
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


@pytest.mark.parametrize("kind", MODEL_SERVERS)
async def test_the_documented_profile(ask, kind):
    """Each kind of server answers it with three picks and their probabilities."""
    answer = await ask(kind, **PROFILES[kind])
    assert answer.unusable_reason is None
    ideas = prompt.parse_answer(answer.text or "", "SPY", prompt.CURRENT.version)
    assert [(idea.ticker, idea.action, idea.probability) for idea in ideas] == [
        ("KO", Action.BUY, 55),
        ("MSFT", Action.SELL, 60),
        ("XOM", Action.BUY, 99),
    ]
    assert answer.model
    assert answer.finish_reason == "stop"


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
async def test_what_is_kept(ask, kind, expected):
    """Hidden tokens and the fingerprint are kept where a server has them; else they are None."""
    answer = await ask(kind, **PROFILES[kind])
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
async def test_a_wrong_key(ask, kind):
    """The message names the variable of this series."""
    with pytest.raises(AlphaMondayError, match="A_KEY"):
        await ask(kind, key="another", **PROFILES[kind])


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
