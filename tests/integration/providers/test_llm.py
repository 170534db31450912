"""
The model's provider over real HTTP, through the real library: the request, and the meaning of every
response.
"""

import json
import logging
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from clocks import HandSetClock
from provider_server import CUT, CUT_IN_THE_BODY, HANGING, STALLED, Reply, refusing, says
from provider_server import provider as provider

from app.domain import prompt
from app.errors import AlphaMondayError, ConfigurationError, ProviderBusy, ProviderUnavailable
from app.providers.llm import ModelAnswer, ModelClient, ModelOptions

KEY = "sk-abc123secret"
TEXT = '{"picks": []}'
NOW = datetime(2026, 10, 26, 13, tzinfo=UTC)

Picker = Callable[..., ModelClient]


@pytest.fixture
async def picker(provider) -> AsyncIterator[Picker]:
    """Make clients of the provider."""
    async with AsyncExitStack() as stack:

        def make(
            base_url: str = "", temperature: float | None = None, timeout: float = 30.0
        ) -> ModelClient:
            address = base_url or f"{provider.url}/v1"
            made = ModelClient(
                key=KEY,
                options=ModelOptions(model="gpt-5.4-mini", temperature=temperature),
                base_url=address,
                timeout=timeout,
                clock=HandSetClock(NOW),
            )
            stack.push_async_callback(made.close)
            return made

        yield make


def a_completion(
    content: str | None = TEXT, finish_reason: str = "stop", refusal: str | None = None
) -> dict:
    """Return the usual answer, changed only where a test needs it."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_793_620_800,
        "model": "gpt-5.4-mini-2026-03-17",
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
    """Return an error in the form that OpenAI uses."""
    return says(
        {"error": {"message": message, "type": "some_error", "param": None, "code": code}}, status
    )


async def test_a_good_answer(picker, provider):
    """The answer has the text, the model's name, the request's id and the numbers of tokens."""
    provider.play(says(a_completion(), x_request_id="req_42"))
    assert await picker().ask("system", "user") == ModelAnswer(
        text=TEXT,
        model="gpt-5.4-mini-2026-03-17",
        request_id="req_42",
        prompt_tokens=210,
        completion_tokens=95,
        finish_reason="stop",
        unusable_reason=None,
    )


async def test_the_request(picker, provider):
    """
    One request with the model, the two messages, the strict schema, the key, and no temperature
    unless it is set.
    """
    provider.play(says(a_completion()))
    await picker().ask("You are an analyst.", "Choose.")
    (request,) = provider.requests
    assert (request.method, request.path) == ("POST", "/v1/chat/completions")
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.json == {
        "model": "gpt-5.4-mini",
        "messages": [
            {"role": "system", "content": "You are an analyst."},
            {"role": "user", "content": "Choose."},
        ],
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "picks", "schema": prompt.CURRENT.schema, "strict": True},
        },
    }


@pytest.mark.parametrize("temperature", [0.0, 0.7])
async def test_a_temperature_that_is_set(picker, provider, temperature):
    """A temperature is sent when the setting is set, zero included."""
    provider.play(says(a_completion()))
    await picker(temperature=temperature).ask("system", "user")
    assert provider.requests[0].json["temperature"] == temperature


def without(completion: dict, member: str) -> dict:
    """Return the completion without one member."""
    return {name: value for name, value in completion.items() if name != member}


@pytest.mark.parametrize(
    ("reply", "reason", "text"),
    [
        pytest.param(
            says(a_completion('{"pic', "length")),
            "The answer was truncated.",
            '{"pic',
            id="truncated",
        ),
        pytest.param(
            says(a_completion(None, refusal="I cannot help.")),
            "The model refused: I cannot help.",
            "I cannot help.",
            id="refusal",
        ),
        pytest.param(says(a_completion("")), "The answer was empty.", None, id="empty"),
        pytest.param(says(a_completion(None)), "The answer was empty.", None, id="no content"),
        pytest.param(
            says(without(a_completion(), "choices")),
            "The answer had no choices.",
            ...,
            id="choices missing",
        ),
        pytest.param(
            says({**a_completion(), "choices": None}),
            "The answer had no choices.",
            ...,
            id="choices null",
        ),
        pytest.param(
            says({**a_completion(), "choices": []}),
            "The answer had no choices.",
            ...,
            id="no choices",
        ),
        pytest.param(
            says({"error": {"message": "upstream"}}),
            "The provider answered with an error: upstream",
            ...,
            id="a relay's error in a 200",
        ),
        pytest.param(
            Reply(b"<html>Hello</html>", headers={"content-type": "text/html"}),
            "The provider answered with a web page in place of JSON.",
            "<html>Hello</html>",
            id="HTML",
        ),
    ],
)
async def test_an_answer_that_cannot_be_used(picker, provider, reply, reason, text):
    """An answer without ideas is still an answer, with the reason why it cannot be used."""
    provider.play(reply)
    answer = await picker().ask("system", "user")
    assert answer.unusable_reason == reason
    # `...`: a test does not decide whether the text of a body without choices is stored.
    assert text is ... or (answer.text or None) == text


async def test_an_odd_answer_that_echoes_the_key(picker, provider):
    """The text of a page is stored and later public, so it must not contain the key."""
    provider.play(Reply(f"<html>{KEY}</html>".encode(), headers={"content-type": "text/html"}))
    answer = await picker().ask("system", "user")
    assert answer.unusable_reason
    assert KEY not in (answer.text or "")


LONG_WORDS = f"{'x' * 480} the key {KEY} and {'y' * 600}"


@pytest.mark.parametrize(
    "completion",
    [
        pytest.param({"error": {"message": LONG_WORDS}}, id="a relay's error"),
        pytest.param({"error": LONG_WORDS}, id="an error that is a text"),
        pytest.param({"detail": LONG_WORDS}, id="a detail"),
        pytest.param(a_completion(None, refusal=LONG_WORDS), id="a refusal"),
        pytest.param({"choices": [{"error": {"message": LONG_WORDS}}]}, id="the error of a choice"),
        pytest.param({**a_completion(), "model": f"{'m' * 190}{KEY}"}, id="the model's name"),
    ],
)
async def test_the_key_at_the_end_of_a_cut_text(picker, provider, completion):
    """The key is removed before a text is shortened, so no part of it stays."""
    provider.play(says(completion, x_request_id=f"{'r' * 190}{KEY}"))
    answer = await picker().ask("system", "user")
    assert KEY[:8] not in repr(answer)


async def test_a_word_that_serves_as_key_stays_in_the_answer(picker, provider, monkeypatch):
    """A local server needs no key; if an ordinary word is set as one, answers may contain it."""
    monkeypatch.setitem(globals(), "KEY", "picks")
    provider.play(says(a_completion()))
    assert (await picker().ask("system", "user")).text == TEXT


async def test_a_truncated_answer_keeps_its_metadata(picker, provider):
    """The request id and the tokens are known, whether the answer is usable or not."""
    provider.play(says(a_completion('{"pic', "length"), x_request_id="req_7"))
    answer = await picker().ask("system", "user")
    assert (answer.request_id, answer.prompt_tokens, answer.completion_tokens) == ("req_7", 210, 95)


@pytest.mark.parametrize("member", ["usage", "model", "id", "object", "created"])
async def test_a_member_that_other_servers_leave_out(picker, provider, member):
    """Only the choices are needed."""
    provider.play(says(without(a_completion(), member)))
    answer = await picker().ask("system", "user")
    assert (answer.text, answer.unusable_reason) == (TEXT, None)


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
        pytest.param(
            '{"choices": [{"message": {"content": 5}, "finish_reason": "stop"}]}',
            id="content no text",
        ),
    ],
)
async def test_a_200_without_a_completion(picker, provider, body):
    """Any body with status 200 is an answer that cannot be used, not an unexpected error."""
    provider.play(Reply(body.encode()))
    answer = await picker().ask("system", "user")
    assert answer.unusable_reason


def with_message(**members: object) -> dict:
    """Return the usual answer with other members of its message."""
    completion = a_completion()
    completion["choices"][0]["message"] |= members
    return completion


def a_choice(content: object, finish_reason: object = "stop", **members: object) -> dict:
    """Return one choice of several."""
    return {
        "message": {"role": "assistant", "content": content},
        "finish_reason": finish_reason,
        **members,
    }


FACTS = ("gpt-5.4-mini-2026-03-17", "req_1", 210, 95)

# Kind: odd metadata does not spoil an answer. Each member is read separately; an unreadable one is
# None. The first example was once recorded as an answer that "had no choices".
METADATA = [
    pytest.param(
        {"usage": {"prompt_tokens": 14417.92, "completion_tokens": 95}},
        (*FACTS[:2], None, 95),
        id="example",
    ),
    pytest.param(
        {"usage": {"prompt_tokens": 14417.0, "completion_tokens": 9e1}},
        (*FACTS[:2], 14417, 90),
        id="floats",
    ),
    pytest.param(
        {"usage": {"prompt_tokens": -1, "completion_tokens": -0.5}},
        (*FACTS[:2], None, None),
        id="negative",
    ),
    pytest.param(
        {"usage": {"prompt_tokens": 0, "completion_tokens": 0}},
        (*FACTS[:2], 0, 0),
        id="nothing used",
    ),
    pytest.param(
        {"usage": {"prompt_tokens": "210", "completion_tokens": "x"}},
        (*FACTS[:2], None, None),
        id="texts",
    ),
    pytest.param(
        {"usage": {"prompt_tokens": True, "completion_tokens": None}},
        (*FACTS[:2], None, None),
        id="a bool",
    ),
    pytest.param(
        {"usage": {"prompt_tokens": [210], "completion_tokens": {}}},
        (*FACTS[:2], None, None),
        id="lists",
    ),
    pytest.param(
        {"usage": {"prompt_tokens": 2**31, "completion_tokens": 2**31 - 1}},
        (*FACTS[:2], None, 2**31 - 1),
        id="the most that the column holds",
    ),
    pytest.param(
        {"usage": {"prompt_tokens": 10**400, "completion_tokens": 1e300}},
        (*FACTS[:2], None, None),
        id="huge",
    ),
    pytest.param(
        {"usage": {"prompt_tokens": float("nan"), "completion_tokens": float("inf")}},
        (*FACTS[:2], None, None),
        id="not finite",
    ),
    pytest.param({"usage": None}, (*FACTS[:2], None, None), id="usage null"),
    pytest.param({"usage": []}, (*FACTS[:2], None, None), id="usage a list"),
    pytest.param({"usage": "many"}, (*FACTS[:2], None, None), id="usage a text"),
    pytest.param({"usage": 305}, (*FACTS[:2], None, None), id="usage a number"),
    pytest.param({"usage": {}}, (*FACTS[:2], None, None), id="usage empty"),
    pytest.param(
        {"usage": {"input_tokens": 7, "output_tokens": 8}}, (*FACTS[:2], 7, 8), id="the newer names"
    ),
    pytest.param(
        {"usage": {"prompt_tokens": None, "input_tokens": 7, "completion_tokens": 8}},
        (*FACTS[:2], 7, 8),
        id="both names, one of them null",
    ),
    pytest.param(
        {"usage": {"prompt_tokens": 1, "completion_tokens": 2, "cost": {"a": []}}},
        (*FACTS[:2], 1, 2),
        id="other members beside the counts",
    ),
    pytest.param({"model": None}, (None, *FACTS[1:]), id="model null"),
    pytest.param({"model": 5.4}, (None, *FACTS[1:]), id="model a number"),
    pytest.param({"model": {"name": "x"}}, (None, *FACTS[1:]), id="model an object"),
    pytest.param({"model": "m" * 100_000}, ("m" * 200, *FACTS[1:]), id="model very long"),
    pytest.param({"id": 5, "object": None, "created": "today"}, FACTS, id="id, object, created"),
    pytest.param(
        {"created": 1e400, "service_tier": [], "x": {"y": None}},
        FACTS,
        id="unknown members",
    ),
    pytest.param({"error": None}, FACTS, id="no error"),
    pytest.param(
        {"error": {"message": "slow"}, "warnings": ["x"]}, FACTS, id="an error beside a good answer"
    ),
]


@pytest.mark.parametrize(("odd", "facts"), METADATA)
async def test_odd_metadata_does_not_spoil_an_answer(picker, provider, odd, facts):
    """The text counts, whatever the other members are, and readable metadata is stored."""
    provider.play(says({**a_completion(), **odd}, x_request_id="req_1"))
    answer = await picker().ask("system", "user")
    assert (answer.text, answer.unusable_reason, answer.is_from_provider) == (TEXT, None, False)
    assert (
        answer.model,
        answer.request_id,
        answer.prompt_tokens,
        answer.completion_tokens,
    ) == facts
    assert msgspec.convert(msgspec.structs.asdict(answer), ModelAnswer) == answer


@pytest.mark.parametrize(
    ("choice", "text"),
    [
        pytest.param(a_choice([{"type": "text", "text": TEXT}]), TEXT, id="a list of one part"),
        pytest.param(
            a_choice([{"type": "text", "text": '{"picks"'}, {"type": "text", "text": ": []}"}]),
            TEXT,
            id="several parts",
        ),
        pytest.param(
            a_choice([{"type": "output_text", "text": TEXT}]), TEXT, id="the newer name of a part"
        ),
        pytest.param(
            a_choice([{"type": "reasoning", "text": "Hm."}, {"type": "text", "text": TEXT}]),
            TEXT,
            id="a part with reasoning first",
        ),
        pytest.param(
            a_choice([{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": TEXT}]),
            TEXT,
            id="a part with thinking first",
        ),
        pytest.param(
            a_choice([{"type": "text", "text": {"value": TEXT, "annotations": []}}]),
            TEXT,
            id="a text in an object",
        ),
        pytest.param(
            a_choice([{"text": TEXT}, {"type": "image_url"}, None, 5]),
            TEXT,
            id="parts of several kinds",
        ),
        pytest.param(a_choice([TEXT]), TEXT, id="a list of texts"),
        pytest.param(a_choice({"type": "text", "text": TEXT}), TEXT, id="a part without a list"),
        pytest.param(a_choice(TEXT, None), TEXT, id="no finish_reason"),
        pytest.param(a_choice(TEXT, "eos_token"), TEXT, id="an unknown finish_reason"),
        pytest.param(a_choice(TEXT, ["stop"]), TEXT, id="a finish_reason that is a list"),
        pytest.param(a_choice(TEXT, "tool_calls"), TEXT, id="a text beside a tool call"),
        pytest.param(
            a_choice(TEXT, index=None, logprobs=5, content_filter_results={}),
            TEXT,
            id="further members of a choice",
        ),
        pytest.param(with_message(refusal="")["choices"][0], TEXT, id="an empty refusal"),
        pytest.param(with_message(refusal=False)["choices"][0], TEXT, id="a refusal that is false"),
        pytest.param(
            with_message(role=5, annotations=None, audio=[], tool_calls=[])["choices"][0],
            TEXT,
            id="further members of a message",
        ),
        pytest.param(a_choice("\ufeff" + TEXT), "\ufeff" + TEXT, id="a byte order mark first"),
    ],
)
async def test_forms_of_a_good_answer(picker, provider, choice, text):
    """Servers write the same answer in many forms."""
    provider.play(says({**a_completion(), "choices": [choice]}))
    answer = await picker().ask("system", "user")
    assert (answer.text, answer.unusable_reason, answer.prompt_tokens) == (text, None, 210)


@pytest.mark.parametrize(
    "choices",
    [
        pytest.param([a_choice(TEXT), a_choice("other")], id="two"),
        pytest.param([a_choice(None), a_choice(TEXT)], id="the first empty"),
        pytest.param([None, a_choice(TEXT)], id="the first null"),
        pytest.param([a_choice('{"pi', "length"), a_choice(TEXT)], id="the first truncated"),
        pytest.param([a_choice("", "content_filter"), a_choice(TEXT)], id="the first filtered"),
    ],
)
async def test_several_choices(picker, provider, choices):
    """The first usable choice counts."""
    provider.play(says({**a_completion(), "choices": choices}))
    answer = await picker().ask("system", "user")
    assert (answer.text, answer.unusable_reason) == (TEXT, None)


BY_MODEL, BY_PROVIDER = False, True

# Kind: the stored reason is true. Whether the model or the provider caused it decides when the next
# question is asked.
UNUSABLE = [
    pytest.param(
        {"choices": [a_choice("I", "content_filter")]},
        "The provider's content filter stopped the answer.",
        BY_MODEL,
        id="filtered",
    ),
    pytest.param(
        {"choices": [a_choice(TEXT, "content_filter")]},
        "The provider's content filter stopped the answer.",
        BY_MODEL,
        id="filtered, although the text seems complete",
    ),
    pytest.param(
        {"choices": [a_choice(None, "content_filter")]},
        "The provider's content filter stopped the answer.",
        BY_MODEL,
        id="filtered, without a text",
    ),
    pytest.param(
        {"choices": [a_choice([{"type": "text", "text": "{"}], "length")]},
        "The answer was truncated.",
        BY_MODEL,
        id="truncated parts",
    ),
    pytest.param(
        {"choices": [a_choice(None, "tool_calls")]},
        "The answer was a call of a tool, without a text.",
        BY_MODEL,
        id="a finish_reason of tool calls",
    ),
    pytest.param(
        with_message(content=None, tool_calls=[{"id": "1"}]),
        "The answer was a call of a tool, without a text.",
        BY_MODEL,
        id="a list of tool calls",
    ),
    pytest.param(
        with_message(content="", function_call={"name": "f"}),
        "The answer was a call of a tool, without a text.",
        BY_MODEL,
        id="a function call",
    ),
    pytest.param(
        {"choices": [a_choice([{"type": "refusal", "refusal": "No."}])]},
        "The model refused: No.",
        BY_MODEL,
        id="a refusal among the parts",
    ),
    pytest.param({"choices": [a_choice([])]}, "The answer was empty.", BY_MODEL, id="no parts"),
    pytest.param(
        {"choices": [a_choice([{"type": "reasoning", "text": "Hm."}])]},
        "The answer's content held no text.",
        BY_MODEL,
        id="reasoning alone",
    ),
    pytest.param(
        {"choices": [a_choice([{"type": "image_url"}])]},
        "The answer's content held no text.",
        BY_MODEL,
        id="a picture",
    ),
    pytest.param(
        {"choices": [a_choice(5)]}, "The answer's content held no text.", BY_MODEL, id="a number"
    ),
    pytest.param(
        {"choices": [a_choice(True)]}, "The answer's content held no text.", BY_MODEL, id="a bool"
    ),
    pytest.param(
        {"choices": [a_choice({"picks": []})]},
        "The answer's content held no text.",
        BY_MODEL,
        id="an object",
    ),
    pytest.param(
        {"choices": [{"finish_reason": "stop"}]},
        "The answer's choice had no message.",
        BY_PROVIDER,
        id="no message",
    ),
    pytest.param(
        {"choices": [None]},
        "The answer's choice had no message.",
        BY_PROVIDER,
        id="a choice that is null",
    ),
    pytest.param(
        {"choices": [{"error": {"message": "Upstream died."}, "message": {"content": ""}}]},
        "The provider answered with an error: Upstream died.",
        BY_PROVIDER,
        id="a choice with an error",
    ),
    pytest.param(
        {"choices": {"0": a_choice(TEXT)}},
        "The answer's choices were no list.",
        BY_PROVIDER,
        id="an object",
    ),
    pytest.param({"choices": []}, "The answer had no choices.", BY_PROVIDER, id="none"),
    pytest.param(
        {"choices": None, "error": {"message": "Overloaded,\n try later.", "code": 529}},
        "The provider answered with an error: Overloaded, try later.",
        BY_PROVIDER,
        id="an error of two lines",
    ),
    pytest.param(
        {"choices": [], "error": "No."},
        "The provider answered with an error: No.",
        BY_PROVIDER,
        id="an error that is a text",
    ),
    pytest.param(
        {"choices": [], "error": {"code": "overloaded"}},
        "The provider answered with an error: overloaded",
        BY_PROVIDER,
        id="an error with a code only",
    ),
    pytest.param(
        {"choices": None, "error": [{}]},
        "The provider answered with an error that it does not explain.",
        BY_PROVIDER,
        id="an error without a message",
    ),
    pytest.param(
        {"choices": None, "object": "error", "message": "KV cache full"},
        "The provider answered with an error: KV cache full",
        BY_PROVIDER,
        id="a message",
    ),
    pytest.param(
        {"choices": None, "detail": "Not ready"},
        "The provider answered with an error: Not ready",
        BY_PROVIDER,
        id="a detail",
    ),
]


@pytest.mark.parametrize(("odd", "reason", "is_from_provider"), UNUSABLE)
async def test_the_reason_of_an_unusable_answer(picker, provider, odd, reason, is_from_provider):
    """An unusable answer has its reason, and its metadata is known."""
    provider.play(says({**a_completion(), **odd}, x_request_id="req_1"))
    answer = await picker().ask("system", "user")
    assert (answer.unusable_reason, answer.is_from_provider) == (reason, is_from_provider)
    assert (
        answer.model,
        answer.request_id,
        answer.prompt_tokens,
        answer.completion_tokens,
    ) == FACTS


WHOLE = json.dumps(a_completion())


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        pytest.param(b"", "The provider's answer was empty.", id="nothing"),
        pytest.param(b" \n", "The provider's answer was empty.", id="white space"),
        pytest.param(
            b"\xef\xbb\xbf <!doctype html>",
            "a web page in place of JSON.",
            id="a page after a byte order mark",
        ),
        pytest.param(
            WHOLE[:80].encode(), "was not JSON, or not all of it.", id="half of a completion"
        ),
        pytest.param(b"Bad Gateway", "was not JSON, or not all of it.", id="plain text"),
        pytest.param(
            b"data: " + WHOLE.encode(), "was not JSON, or not all of it.", id="a stream's event"
        ),
        pytest.param(b"[]", "with JSON that is no completion.", id="a list"),
        pytest.param(b"null", "with JSON that is no completion.", id="null"),
        pytest.param(b'"' + b"a" * 9 + b'"', "with JSON that is no completion.", id="a text"),
        pytest.param(
            b'{"choices":' + b"[" * 100_000,
            "JSON that is nested too deeply.",
            id="deeply nested lists",
        ),
        pytest.param(
            b'{"error": "the key sk-abc123secret is bad"}',
            "an error: the key *** is bad",
            id="an error that contains the key",
        ),
    ],
)
async def test_a_body_without_a_completion(picker, provider, body, reason):
    """The reason is attributed to the provider, not to the model, and never contains the key."""
    provider.play(Reply(body))
    answer = await picker().ask("system", "user")
    assert answer.unusable_reason.endswith(reason)
    assert answer.is_from_provider
    assert KEY not in answer.text


TWICE = [
    pytest.param(
        '"model": "gpt-5.4-mini-2026-03-17"', '"model": "a", "model": "b"', None, id="model"
    ),
    pytest.param(
        '"prompt_tokens": 210', '"prompt_tokens": 210, "prompt_tokens": 1', None, id="a count"
    ),
    pytest.param('"usage": {', '"usage": 1, "usage": {', None, id="usage"),
    pytest.param('"index": 0', '"index": 0, "index": 1', None, id="an unused member"),
    pytest.param(
        '"finish_reason": "stop"',
        '"finish_reason": "stop", "finish_reason": "length"',
        None,
        id="reason",
    ),
    pytest.param('"refusal": null', '"refusal": null, "refusal": null', None, id="the same twice"),
    pytest.param(
        '"role": "assistant"', '"content": "other", "role": "assistant"', "content", id="content"
    ),
    pytest.param(
        '"message": {', '"message": {"content": "other"}, "message": {', "message", id="message"
    ),
    pytest.param('"choices": [', '"choices": [], "choices": [', "list of choices", id="choices"),
]


@pytest.mark.parametrize(("once", "twice", "needed"), TWICE)
async def test_a_duplicate_name(picker, provider, once, twice, needed):
    """
    If a name has two values, neither is used: an optional member is None, and a required one makes
    the answer unusable.
    """
    assert WHOLE.count(once) == 1
    provider.play(Reply(WHOLE.replace(once, twice).encode()))
    answer = await picker().ask("system", "user")
    reason = needed and f"The answer's {needed} stood there twice, with different values."
    assert answer.unusable_reason == reason
    if not needed:
        assert answer.text == TEXT
        assert answer.model in ("gpt-5.4-mini-2026-03-17", None)
        assert answer.prompt_tokens in (210, None)


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        pytest.param(b"gpt-5.4-mini-2026", None, id="in the model's name"),
        pytest.param(b"chatcmpl-1", None, id="in the id"),
        pytest.param(b"picks", "The answer held bytes that are no UTF-8.", id="in the text"),
    ],
)
async def test_bytes_that_are_not_utf_8(picker, provider, place, reason):
    """Invalid bytes make an answer unusable only if they are in its text."""
    body = WHOLE.encode()
    assert body.count(place) == 1
    provider.play(Reply(body.replace(place, place[:2] + b"\xff\xfe" + place[2:])))
    answer = await picker().ask("system", "user")
    assert (answer.unusable_reason, answer.prompt_tokens) == (reason, 210)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
async def test_other_encodings(picker, provider, encoding):
    """JSON may have any Unicode encoding."""
    provider.play(Reply(WHOLE.encode(encoding)))
    assert (await picker().ask("system", "user")).text == TEXT


@pytest.mark.parametrize(
    ("id_", "stored"),
    [("", None), ("r" * 3000, "r" * 200), ("req_\xe9\xff", "req_\xe9\xff"), (f"{KEY}!", "***!")],
    ids=["empty", "long", "not ASCII", "the key"],
)
async def test_a_request_id_of_any_bytes(picker, provider, id_, stored):
    """A readable part of the id is stored, and the answer stays usable."""
    provider.play(says(a_completion(), x_request_id=id_))
    answer = await picker().ask("system", "user")
    assert (answer.text, answer.request_id) == (TEXT, stored)


@pytest.mark.parametrize(
    ("status", "after", "wait"),
    [
        pytest.param(429, "90", timedelta(seconds=90), id="429"),
        pytest.param(429, "Mon, 26 Oct 2026 13:20:00 GMT", timedelta(minutes=20), id="a date"),
        pytest.param(503, "300", timedelta(minutes=5), id="503"),
        pytest.param(500, "300", timedelta(minutes=5), id="500"),
        pytest.param(429, "9999999", timedelta(days=1), id="far too long"),
        pytest.param(429, "soon", None, id="not a time"),
        pytest.param(429, "-5", None, id="in the past"),
        pytest.param(429, None, None, id="none"),
    ],
)
async def test_the_retry_after_of_an_error(picker, provider, status, after, wait):
    """The error has the time of the Retry-After header, at most a day ahead."""
    reply = an_error(status)
    headers = {**reply.headers, **({"retry-after": after} if after else {})}
    provider.play(Reply(reply.body, reply.status, headers))
    with pytest.raises(ProviderBusy) as busy:
        await picker().ask("system", "user")
    assert busy.value.until == (wait and NOW + wait)


@pytest.mark.parametrize(
    ("reply", "error", "says_"),
    [
        pytest.param(
            an_error(401, "Wrong.", "invalid_api_key"),
            ConfigurationError,
            "OPENAI_API_KEY",
            id="401",
        ),
        pytest.param(an_error(403), ConfigurationError, "OPENAI_API_KEY", id="403"),
        pytest.param(
            an_error(404, "no such model", "model_not_found"),
            ConfigurationError,
            "OPENAI_MODEL",
            id="404",
        ),
        pytest.param(
            an_error(400, "Unsupported value: 'temperature'"),
            ConfigurationError,
            "temperature",
            id="400",
        ),
        pytest.param(an_error(422, "bad schema"), ConfigurationError, "bad schema", id="422"),
        pytest.param(an_error(413, "too large"), ConfigurationError, "too large", id="413"),
        pytest.param(an_error(429, "Slow down."), ProviderBusy, "slow down", id="429"),
        pytest.param(
            an_error(429, "", "insufficient_quota"), ConfigurationError, "out of credit", id="quota"
        ),
        pytest.param(an_error(408), ProviderUnavailable, "did not answer", id="408"),
        pytest.param(an_error(409), ProviderUnavailable, "did not answer", id="409"),
        pytest.param(
            an_error(400, "We had a problem. Please retry."),
            ProviderUnavailable,
            "retry",
            id="400 for a moment",
        ),
        pytest.param(
            an_error(422, "The model is overloaded"),
            ProviderUnavailable,
            "overloaded",
            id="422 for a moment",
        ),
        pytest.param(an_error(421), ProviderUnavailable, "did not answer", id="421"),
        pytest.param(an_error(423), ProviderUnavailable, "did not answer", id="423"),
        pytest.param(an_error(424), ProviderUnavailable, "did not answer", id="424"),
        pytest.param(an_error(425), ProviderUnavailable, "did not answer", id="425"),
        pytest.param(an_error(499), ProviderUnavailable, "did not answer", id="499"),
        pytest.param(an_error(402, "No credit."), ConfigurationError, "No credit", id="402"),
        pytest.param(
            an_error(403, "Country not supported"),
            ConfigurationError,
            "Country not",
            id="403 with a message",
        ),
        pytest.param(
            Reply(b"<html>Just a moment", status=403),
            ProviderUnavailable,
            "did not answer",
            id="403 HTML",
        ),
        pytest.param(
            an_error(400, "The prompt triggered a policy.", "content_filter"),
            ProviderUnavailable,
            "content filter stopped the question",
            id="a filtered question",
        ),
        pytest.param(
            says(
                {
                    "error": {
                        "message": "No.",
                        "innererror": {"code": "ResponsibleAIPolicyViolation"},
                    }
                },
                400,
            ),
            ProviderUnavailable,
            "content filter stopped the question",
            id="a filtered question, by an inner code",
        ),
        pytest.param(an_error(500, "Oops."), ProviderUnavailable, "Oops.", id="500"),
        pytest.param(
            Reply(b"<html>", status=503), ProviderUnavailable, "did not answer", id="503 HTML"
        ),
        pytest.param(CUT, ProviderUnavailable, "did not answer", id="cut before the answer"),
        pytest.param(
            CUT_IN_THE_BODY, ProviderUnavailable, "did not answer", id="cut within the answer"
        ),
    ],
)
async def test_what_an_error_means(picker, provider, reply, error, says_):
    """
    Each error says what to do; the library does not repeat the request, even if the server asks for
    it.
    """
    provider.play(
        Reply(reply.body, reply.status, {**reply.headers, "x-should-retry": "true"}, cut=reply.cut)
    )
    with pytest.raises(error, match=says_) as raised:
        await picker().ask("system", "user")
    assert type(raised.value) is error
    assert len(provider.requests) == 1


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(
            lambda it: it["choices"][0]["message"].update(refusal=" "),
            id="a refusal of white space",
        ),
        pytest.param(
            lambda it: it.update(choices=it["choices"][0]), id="one choice without a list"
        ),
        pytest.param(
            lambda it: it["choices"][0].update(message=TEXT), id="a message that is a text"
        ),
        pytest.param(
            lambda it: it["choices"][0]["message"].update(content=[{"type": "TEXT", "text": TEXT}]),
            id="in capitals",
        ),
        pytest.param(
            lambda it: it["choices"][0]["message"].update(
                content=[{"type": "text", "content": TEXT}]
            ),
            id="a part's content",
        ),
    ],
)
async def test_further_forms_of_a_good_answer(picker, provider, change):
    """The text is the answer, wherever the server puts it."""
    completion = a_completion()
    change(completion)
    provider.play(says(completion))
    answer = await picker().ask("system", "user")
    assert (answer.text, answer.unusable_reason) == (TEXT, None)


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("CONTENT_FILTER", "content filter"),
        ("content-filter", "content filter"),
        ("SAFETY", "content filter"),
        ("MAX_TOKENS", "truncated"),
        ("max_tokens", "truncated"),
        ("model_length", "truncated"),
    ],
)
async def test_other_spellings_of_a_finish_reason(picker, provider, reason, words):
    """Filters and limits are recognised in other spellings."""
    provider.play(says(a_completion('{"pic', reason)))
    assert words in (await picker().ask("system", "user")).unusable_reason


async def test_a_refused_connection(picker):
    """If no server listens, the provider is unavailable."""
    with refusing() as address, pytest.raises(ProviderUnavailable):
        await picker(f"{address}/v1").ask("system", "user")


@pytest.mark.parametrize(
    "hanging",
    [pytest.param(HANGING, id="before the answer"), pytest.param(STALLED, id="within the answer")],
)
async def test_a_hanging_connection(picker, provider, hanging):
    """A question has a time limit, and is sent once."""
    provider.play(hanging)
    with pytest.raises(ProviderUnavailable, match=r"^The model did not answer within 0\.1 s\.$"):
        await picker(timeout=0.1).ask("system", "user")
    assert len(provider.requests) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 422, 429, 500])
async def test_a_server_that_echoes_the_key(picker, provider, status, caplog):
    """Neither an error's text nor the library's log lines contain the key."""
    provider.play(an_error(status, f"The key {KEY} and {'x' * 280} {KEY}: no."))
    with caplog.at_level(logging.DEBUG), pytest.raises(AlphaMondayError) as raised:
        await picker().ask("system", "user")
    printed = "".join(traceback.format_exception(raised.value))
    assert KEY not in printed
    assert KEY not in repr(raised.value.args)
    assert KEY not in caplog.text


async def test_one_client_asks_many_times(picker, provider):
    """One client asks several questions; each has its own answer."""
    provider.play(says(a_completion("one")), an_error(500), says(a_completion("two")))
    client = picker()
    assert (await client.ask("system", "user")).text == "one"
    with pytest.raises(ProviderUnavailable):
        await client.ask("system", "user")
    assert (await client.ask("system", "user")).text == "two"


@pytest.mark.parametrize(
    "address",
    ["http://[v1.x]/v1", "http://a.example/\0", f"http://a.example/{'x' * 70_000}"],
    ids=["no IPv6", "a control character", "too long"],
)
async def test_an_address_that_the_library_does_not_read(picker, address):
    """It is a mistake of the settings, so no second question is sent."""
    with pytest.raises(ConfigurationError, match="check base_url, or OPENAI_BASE_URL"):
        await picker(base_url=address).ask("system", "user")


# The kind: words of a provider that become a part of our own sentence.
@pytest.mark.parametrize("status", [400, 503, 200])
@pytest.mark.parametrize(
    "body",
    [
        {"error": "no\x1b[31m\u202e\nway"},
        {"message": {"detail": [{"msg": "no\x1b[31m\u202e\nway"}]}},
        {"detail": "no\x1b[31m\u202e\nway"},
        a_completion(content=None, refusal="no\x1b[31m\u202e\nway"),
    ],
    ids=["an error", "details", "a detail", "a refusal"],
)
async def test_words_that_are_not_printable(provider, picker, status, body):
    """They stand in the record, on pages and on terminals."""
    provider.answers = [says(body, status)]
    try:
        reason = (await picker().ask("system", "user")).unusable_reason
    except AlphaMondayError as error:
        reason = str(error)
    assert reason
    assert reason.isprintable(), reason
