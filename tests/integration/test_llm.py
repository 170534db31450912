"""The model's provider over real HTTP, through the real library: what is sent, and what every answer means."""

import json
import logging
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import msgspec
import pytest
from provider_server import CUT, CUT_IN_THE_BODY, HANGING, STALLED, Reply, refusing, says
from provider_server import provider as provider

from app.domain.prompt import schema
from app.errors import AlphaMondayError, ConfigurationError, ProviderBusy, ProviderUnavailable
from app.providers import llm
from app.providers.llm import Answer, OpenAIPicker

KEY = "sk-abc123secret"
TEXT = '{"picks": []}'

Picker = Callable[..., OpenAIPicker]


@pytest.fixture
async def picker(provider) -> AsyncIterator[Picker]:
    """Make clients of the provider."""
    async with AsyncExitStack() as stack:

        def make(base_url: str = "", temperature: float | None = None) -> OpenAIPicker:
            made = OpenAIPicker(KEY, "gpt-4o-mini", base_url or f"{provider.url}/v1", temperature)
            stack.push_async_callback(made.close)
            return made

        yield make


def a_completion(content: str | None = TEXT, finish_reason: str = "stop", refusal: str | None = None) -> dict:
    """The usual answer, except for what a test is about."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_793_620_800,
        "model": "gpt-4o-mini-2024-07-18",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": content, "refusal": refusal},
                "finish_reason": finish_reason,
            }
        ],
        "usage": {"prompt_tokens": 210, "completion_tokens": 95, "total_tokens": 305},
    }


def an_error(status: int, message: str = "No.", code: str | None = None) -> Reply:
    """An error as OpenAI words it."""
    return says({"error": {"message": message, "type": "some_error", "param": None, "code": code}}, status)


async def test_a_good_answer(picker, provider):
    """The text, the model that answered, the request's id and the tokens are kept."""
    provider.play(says(a_completion(), x_request_id="req_42"))
    assert await picker().ask("system", "user") == Answer(
        text=TEXT,
        model="gpt-4o-mini-2024-07-18",
        request_id="req_42",
        prompt_tokens=210,
        completion_tokens=95,
        unusable=None,
    )


async def test_what_is_sent(picker, provider):
    """One request: the model, the two messages, the strict schema, the key, and no temperature unless it is set."""
    provider.play(says(a_completion()))
    await picker().ask("You are an analyst.", "Choose.")
    (request,) = provider.requests
    assert (request.method, request.path) == ("POST", "/v1/chat/completions")
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.json == {
        "model": "gpt-4o-mini",
        "messages": [
            {"role": "system", "content": "You are an analyst."},
            {"role": "user", "content": "Choose."},
        ],
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "picks", "schema": schema(), "strict": True},
        },
    }


@pytest.mark.parametrize("temperature", [0.0, 0.7])
async def test_a_temperature_that_is_set(picker, provider, temperature):
    """A temperature is sent when the setting is set, zero included."""
    provider.play(says(a_completion()))
    await picker(temperature=temperature).ask("system", "user")
    assert provider.requests[0].json["temperature"] == temperature


def without(completion: dict, member: str) -> dict:
    """The completion, less one member."""
    return {name: value for name, value in completion.items() if name != member}


@pytest.mark.parametrize(
    ("reply", "reason", "text"),
    [
        pytest.param(says(a_completion('{"pic', "length")), "The answer was truncated.", '{"pic', id="truncated"),
        pytest.param(
            says(a_completion(None, refusal="I cannot help.")),
            "The model refused: I cannot help.",
            "I cannot help.",
            id="refusal",
        ),
        pytest.param(says(a_completion("")), "The answer was empty.", None, id="empty"),
        pytest.param(says(a_completion(None)), "The answer was empty.", None, id="no content"),
        pytest.param(says(without(a_completion(), "choices")), "The answer had no choices.", ..., id="choices missing"),
        pytest.param(says({**a_completion(), "choices": None}), "The answer had no choices.", ..., id="choices null"),
        pytest.param(says({**a_completion(), "choices": []}), "The answer had no choices.", ..., id="no choices"),
        pytest.param(
            says({"error": {"message": "upstream"}}), "The answer had no choices.", ..., id="a relay's error in a 200"
        ),
        pytest.param(
            Reply(b"<html>Hello</html>", headers={"content-type": "text/html"}),
            "The answer had no choices.",
            "<html>Hello</html>",
            id="HTML",
        ),
    ],
)
async def test_an_answer_that_cannot_be_used(picker, provider, reply, reason, text):
    """An answer without ideas is still an answer, with the reason for which it cannot be used."""
    provider.play(reply)
    answer = await picker().ask("system", "user")
    assert answer.unusable == reason
    assert text is ... or (answer.text or None) == text  # whether a body without choices is kept is left open


async def test_an_odd_answer_that_echoes_the_key(picker, provider):
    """What is kept of a page in place of an answer is public one day: the key is not part of it."""
    provider.play(Reply(f"<html>{KEY}</html>".encode(), headers={"content-type": "text/html"}))
    answer = await picker().ask("system", "user")
    assert answer.unusable
    assert KEY not in (answer.text or "")


async def test_a_word_in_place_of_a_key_stays_in_the_answer(picker, provider, monkeypatch):
    """A local server wants no key, and whatever word is set for it also stands in honest answers."""
    monkeypatch.setitem(globals(), "KEY", "picks")
    provider.play(says(a_completion()))
    assert (await picker().ask("system", "user")).text == TEXT


async def test_a_truncated_answer_keeps_its_facts(picker, provider):
    """What was paid for is known, usable or not."""
    provider.play(says(a_completion('{"pic', "length"), x_request_id="req_7"))
    answer = await picker().ask("system", "user")
    assert (answer.request_id, answer.prompt_tokens, answer.completion_tokens) == ("req_7", 210, 95)


@pytest.mark.parametrize("member", ["usage", "model", "id", "object", "created"])
async def test_a_member_that_other_servers_leave_out(picker, provider, member):
    """Only the choices are needed."""
    provider.play(says(without(a_completion(), member)))
    answer = await picker().ask("system", "user")
    assert (answer.text, answer.unusable) == (TEXT, None)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(json.dumps(a_completion())[:80], id="truncated JSON"),
        pytest.param("<html>Hello</html>", id="HTML that says it is JSON"),
        pytest.param("", id="nothing"),
        pytest.param("[]", id="a list"),
        pytest.param("null", id="null"),
        pytest.param('{"choices": "none"}', id="choices that are a text"),
        pytest.param('{"choices": {"a": 1}}', id="choices that are an object"),
        pytest.param('{"choices": [null]}', id="a choice that is null"),
        pytest.param('{"choices": [{"finish_reason": "stop"}]}', id="a choice without a message"),
        pytest.param('{"choices": [{"message": {"content": 5}, "finish_reason": "stop"}]}', id="content no text"),
    ],
)
async def test_a_200_that_is_no_completion(picker, provider, body):
    """Whatever a server sends with a 200, it is an answer that cannot be used: never a surprise."""
    provider.play(Reply(body.encode()))
    answer = await picker().ask("system", "user")
    assert answer.unusable


@pytest.mark.parametrize(
    "odd",
    [
        pytest.param({"model": 5}, id="model"),
        pytest.param({"usage": 5}, id="usage"),
        pytest.param({"usage": {"prompt_tokens": "x"}}, id="tokens"),
    ],
)
async def test_a_fact_that_is_not_what_it_should_be(picker, provider, odd):
    """What becomes of the answer is left open here, but what is handed on fits its types, and so the database."""
    provider.play(says({**a_completion(), **odd}))
    answer = await picker().ask("system", "user")
    assert msgspec.convert(msgspec.structs.asdict(answer), Answer) == answer


@pytest.mark.parametrize(
    ("reply", "error", "says_"),
    [
        pytest.param(an_error(401, "Wrong.", "invalid_api_key"), ConfigurationError, "OPENAI_API_KEY", id="401"),
        pytest.param(an_error(403), ConfigurationError, "OPENAI_API_KEY", id="403"),
        pytest.param(an_error(404, "no such model", "model_not_found"), ConfigurationError, "OPENAI_MODEL", id="404"),
        pytest.param(an_error(400, "Unsupported value: 'temperature'"), ConfigurationError, "temperature", id="400"),
        pytest.param(an_error(422, "bad schema"), ConfigurationError, "bad schema", id="422"),
        pytest.param(an_error(413, "too large"), ConfigurationError, "too large", id="413"),
        pytest.param(an_error(429, "Slow down."), ProviderBusy, "slow down", id="429"),
        pytest.param(an_error(429, "", "insufficient_quota"), ConfigurationError, "out of credit", id="quota"),
        pytest.param(an_error(408), ProviderUnavailable, "did not answer", id="408"),
        pytest.param(an_error(409), ProviderUnavailable, "did not answer", id="409"),
        pytest.param(an_error(500, "Oops."), ProviderUnavailable, "Oops.", id="500"),
        pytest.param(Reply(b"<html>", status=503), ProviderUnavailable, "did not answer", id="503 HTML"),
        pytest.param(CUT, ProviderUnavailable, "did not answer", id="cut before the answer"),
        pytest.param(CUT_IN_THE_BODY, ProviderUnavailable, "did not answer", id="cut within the answer"),
    ],
)
async def test_what_an_error_means(picker, provider, reply, error, says_):
    """Each error is the one that says what to do; the library asks no second time, whatever the server hopes for."""
    provider.play(Reply(reply.body, reply.status, {**reply.headers, "x-should-retry": "true"}, cut=reply.cut))
    with pytest.raises(error, match=says_) as raised:
        await picker().ask("system", "user")
    assert type(raised.value) is error
    assert len(provider.requests) == 1


async def test_a_refused_connection(picker):
    """Where nobody listens, the provider is unavailable."""
    with refusing() as address, pytest.raises(ProviderUnavailable):
        await picker(f"{address}/v1").ask("system", "user")


@pytest.mark.parametrize(
    "hanging",
    [pytest.param(HANGING, id="before the answer"), pytest.param(STALLED, id="within the answer")],
)
async def test_a_hanging_connection(picker, provider, monkeypatch, hanging):
    """A question has a time limit, and is asked once."""
    monkeypatch.setattr(llm, "TIME_LIMIT", 0.1)
    provider.play(hanging)
    with pytest.raises(ProviderUnavailable, match="did not answer"):
        await picker().ask("system", "user")
    assert len(provider.requests) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 422, 429, 500])
async def test_a_server_that_echoes_the_key(picker, provider, status, caplog):
    """The key is in no error's text, however it came there, nor in the library's lines."""
    provider.play(an_error(status, f"The key {KEY} and {'x' * 280} {KEY}: no."))
    with caplog.at_level(logging.DEBUG), pytest.raises(AlphaMondayError) as raised:
        await picker().ask("system", "user")
    told = "".join(traceback.format_exception(raised.value))
    assert KEY not in told
    assert KEY not in repr(raised.value.args)
    assert KEY not in caplog.text


async def test_one_client_asks_many_times(picker, provider):
    """Questions share the client, each with its own answer."""
    provider.play(says(a_completion("one")), an_error(500), says(a_completion("two")))
    asked = picker()
    assert (await asked.ask("system", "user")).text == "one"
    with pytest.raises(ProviderUnavailable):
        await asked.ask("system", "user")
    assert (await asked.ask("system", "user")).text == "two"
