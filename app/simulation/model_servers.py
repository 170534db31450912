"""
Simulated servers of chat completions: what each kind of server refuses, and how it answers.

Many servers are compatible with OpenAI's chat completions, and each of them in its own way. A
simulator here is as strict as the strictest server of its kind: a profile that it accepts should be
accepted by the real one. The sources are the servers' documentation and the issues of their
clients; docs/operate/models.md has a tried profile for each.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from app.simulation.faults import SimulatedReply, json_reply

# The members of a request that every kind knows.
_USUAL_MEMBERS = frozenset({"messages", "model", "n", "stop", "stream", "temperature", "top_p"})
_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")

# Keywords of a JSON schema that some servers refuse or ignore.
_LIMITS = frozenset(
    {
        "maxItems",
        "maxLength",
        "maximum",
        "minItems",
        "minLength",
        "minimum",
        "multipleOf",
        "pattern",
    }
)
_REFERENCES = frozenset({"$ref", "$defs", "definitions"})

Members = Mapping[str, Any]
# Returns the reply to a request that the server refuses; None if it accepts the request.
Check = Callable[[Members], SimulatedReply | None]
# Returns the members of a completion, from the members of a request and the text of the answer.
Complete = Callable[[Members, str], dict[str, Any]]


class ModelServer(Struct, frozen=True, kw_only=True):
    """
    A kind of server: its name, a model that it could have, and its behaviour.

    `needs_key` is false for servers that run on one's own machine. `answers_about_model` is false
    for servers that have no address for one model, only the list of all. `id_prefix` stands before
    the names in that list.
    """

    name: str
    model: str
    check: Check
    complete: Complete
    needs_key: bool = True
    answers_about_model: bool = True
    id_prefix: str = ""

    def reply_about_models(
        self, name: str, key: str, *, has_model: bool = True, shutdown_date: object = None
    ) -> SimulatedReply:
        """
        Return the reply to a request about the model `name`, or about all models if it is empty.

        `has_model` says whether the server still has its model, and `shutdown_date` when it ends.
        Only OpenAI names such a day.
        """
        if self.needs_key and not key:
            return _error(401, "No API key was provided.")
        names = ["another-model", *([self.model] if has_model else [])]
        models: list[dict[str, object]] = [
            {"id": f"{self.id_prefix}{one}", "object": "model", "owned_by": self.name}
            for one in names
        ]
        if self.name == "openai":
            for one in models:
                one["shutdown_date"] = shutdown_date if one["id"] == self.model else None
        if not name:
            return json_reply({"object": "list", "data": models})
        if not self.answers_about_model:
            return json_reply({"detail": "Not Found"}, 404)
        for one in models:
            if one["id"] == f"{self.id_prefix}{name}":
                return json_reply(one)
        return _error(404, f"The model '{name}' does not exist", "model_not_found")

    def reply(self, body: bytes, key: str, picks: Sequence[Mapping[str, Any]]) -> SimulatedReply:
        """Return the reply to a request with this body and this key; `picks` is the answer."""
        if self.needs_key and not key:
            return _error(401, "No API key was provided.")
        members = msgspec.json.decode(body)
        refusal = self.check(members)
        if refusal is not None:
            return refusal
        return json_reply(self.complete(members, _content(members, picks)))


def _content(members: Members, picks: Sequence[Mapping[str, Any]]) -> str:
    """
    Return the text of the answer, with the members that were asked for.

    A model that was asked for a text alone wraps its JSON, as models do.
    """
    prompt = " ".join(message["content"] for message in members["messages"])
    shown = list(picks)
    if "probability" not in prompt:
        shown = [
            {name: value for name, value in pick.items() if name != "probability"} for pick in picks
        ]
    text = json.dumps({"picks": shown})
    if _format_of(members) == "text":
        return f"```json\n{text}\n```"
    return text


def _format_of(members: Members) -> str:
    kind: str = members.get("response_format", {}).get("type", "text")
    return kind


def _schema_of(members: Members) -> dict[str, Any]:
    """Return the requested schema; empty without one."""
    if _format_of(members) != "json_schema":
        return {}
    schema: dict[str, Any] = members["response_format"]["json_schema"]["schema"]
    return schema


def _parts(schema: Any) -> Iterator[dict[str, Any]]:
    """Yield a schema and all schemas in it."""
    if isinstance(schema, list):
        for part in schema:
            yield from _parts(part)
    if isinstance(schema, dict):
        yield schema
        for part in schema.values():
            yield from _parts(part)


def _schema_problem(members: Members, refused: frozenset[str]) -> str | None:
    """
    Return what a strict server says about a schema; None if it accepts the schema.

    Every object lists all of its properties as required and allows no other, and no schema has a
    keyword of `refused`.
    """
    schema = _schema_of(members)
    if schema and not members["response_format"]["json_schema"].get("strict"):
        return "json_schema is only supported with strict: true."
    for part in _parts(schema):
        if found := refused & part.keys():
            return f"Invalid schema: {min(found)} is not supported."
        if part.get("type") != "object":
            continue
        if part.get("additionalProperties") is not False:
            return "Invalid schema: 'additionalProperties' is required to be false."
        if set(part.get("required", ())) != part.get("properties", {}).keys():
            return "Invalid schema: 'required' must have every key in properties."
    return None


def _error(status: int, message: str, code: object = None) -> SimulatedReply:
    """Return an error in OpenAI's form."""
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    return json_reply({"error": error}, status)


def _unknown(members: Members, known: frozenset[str]) -> str | None:
    """Return the first member that is not among the usual ones and `known`; None without one."""
    return min(members.keys() - _USUAL_MEMBERS - known, default=None)


def _completion(
    members: Members, text: str, *, model: str | None = None, **changes: Any
) -> dict[str, Any]:
    """Return a completion in OpenAI's form, with other members where `changes` has them."""
    prompt = sum(len(message["content"]) for message in members["messages"])
    # A token has four characters, approximately.
    prompt_tokens, completion_tokens = prompt // 4, len(text) // 4
    completion: dict[str, Any] = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_800_000_000,
        "model": model or members["model"],
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text},
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
        },
    }
    return completion | changes


# OpenAI. With a reasoning effort other than `none`, it refuses the temperature. `max_tokens` is
# replaced by `max_completion_tokens`. Source: its API reference.


def _check_openai(members: Members) -> SimulatedReply | None:
    known = frozenset(
        {"max_completion_tokens", "reasoning_effort", "response_format", "store", "tools"}
    )
    if "max_tokens" in members:
        return _error(
            400,
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
            "'max_completion_tokens' instead.",
            "unsupported_parameter",
        )
    if unknown := _unknown(members, known):
        return _error(400, f"Unrecognized request argument supplied: {unknown}")
    effort = members.get("reasoning_effort", "none")
    if effort not in _EFFORTS:
        return _error(400, f"Invalid value: '{effort}'.", "invalid_value")
    if effort != "none" and "temperature" in members:
        return _error(
            400,
            "Unsupported parameter: 'temperature' is not supported with this model.",
            "unsupported_parameter",
        )
    problem = _schema_problem(members, frozenset())
    return _error(400, problem) if problem else None


def _complete_openai(members: Members, text: str) -> dict[str, Any]:
    completion = _completion(
        members,
        text,
        model=f"{members['model']}-2026-03-17",
        system_fingerprint="fp_44709d6fcb",
        service_tier="default",
    )
    completion["choices"][0]["message"]["refusal"] = None
    completion["usage"]["completion_tokens_details"] = {"reasoning_tokens": 256}
    return completion


# Anthropic's compatible endpoint. It ignores members that it does not know. Newer models refuse the
# temperature. Source: its documentation of OpenAI SDK compatibility.


def _check_anthropic(members: Members) -> SimulatedReply | None:
    if "temperature" in members:
        return _error(400, "`temperature` is deprecated for this model.")
    if _format_of(members) == "json_object":
        return _error(400, "response_format.type: json_object is not supported.")
    problem = _schema_problem(members, _LIMITS | _REFERENCES)
    return _error(400, problem) if problem else None


def _complete_anthropic(members: Members, text: str) -> dict[str, Any]:
    return _completion(members, text, system_fingerprint="", service_tier=None)


# Gemini's compatible endpoint. A member that it does not know is an error, whose body is a list.


def _check_gemini(members: Members) -> SimulatedReply | None:
    known = frozenset(
        {
            "extra_body",
            "max_completion_tokens",
            "max_tokens",
            "reasoning_effort",
            "response_format",
            "tools",
        }
    )
    if unknown := _unknown(members, known):
        return _gemini_error(
            f'Invalid JSON payload received. Unknown name "{unknown}": Cannot find field.'
        )
    if any(_REFERENCES & part.keys() for part in _parts(_schema_of(members))):
        return _gemini_error('Invalid JSON payload received. Unknown name "$ref".')
    return None


def _gemini_error(message: str) -> SimulatedReply:
    error = {"code": 400, "message": message, "status": "INVALID_ARGUMENT"}
    return json_reply([{"error": error}], 400)


def _complete_gemini(members: Members, text: str) -> dict[str, Any]:
    completion = _completion(members, text)
    # The hidden tokens are in the total, and in no count of their own.
    completion["usage"]["total_tokens"] += 731
    return completion


# DeepSeek. It has no `json_schema`; `json_object` needs the word "json" in the prompt.


def _check_deepseek(members: Members) -> SimulatedReply | None:
    kind = _format_of(members)
    if kind == "json_schema":
        return _error(400, "This response_format type is unavailable now")
    prompt = " ".join(message["content"] for message in members["messages"])
    if kind == "json_object" and not re.search("json", prompt, re.IGNORECASE):
        return _error(400, "Prompt must contain the word 'json' to use 'response_format'.")
    return None


def _complete_deepseek(members: Members, text: str) -> dict[str, Any]:
    completion = _completion(members, text, system_fingerprint="fp_ffc7281d48_prod0820")
    completion["choices"][0]["message"]["reasoning_content"] = "KO sells drinks in any weather."
    completion["usage"] |= {"prompt_cache_hit_tokens": 0, "prompt_cache_miss_tokens": 210}
    completion["usage"]["completion_tokens_details"] = {"reasoning_tokens": 512}
    return completion


# Mistral. It validates requests strictly. The content of an answer may be a list of parts, and the
# thoughts of the model are one of them.


def _check_mistral(members: Members) -> SimulatedReply | None:
    known = frozenset(
        {"max_tokens", "prompt_mode", "random_seed", "response_format", "safe_prompt", "tools"}
    )
    if unknown := _unknown(members, known):
        detail = {
            "type": "extra_forbidden",
            "loc": ["body", unknown],
            "msg": "Extra inputs are not permitted",
        }
        message = {"detail": [detail]}
        return json_reply(
            {"object": "error", "message": message, "type": "invalid_request_error"}, 422
        )
    return None


def _complete_mistral(members: Members, text: str) -> dict[str, Any]:
    completion = _completion(members, text)
    completion["choices"][0]["message"]["content"] = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "Drinks, then chips."}]},
        {"type": "text", "text": text[:20]},
        {"type": "text", "text": text[20:]},
    ]
    return completion


# xAI. Some models refuse a reasoning effort. The member `error` of an error is a text.


def _check_xai(members: Members) -> SimulatedReply | None:
    if "reasoning_effort" in members:
        return json_reply(
            {
                "code": "Client specified an invalid argument",
                "error": f"Argument not supported on this model: reasoningEffort "
                f"({members['model']})",
            },
            400,
        )
    return None


def _complete_xai(members: Members, text: str) -> dict[str, Any]:
    completion = _completion(members, text, system_fingerprint="fp_156d35dcaa")
    completion["choices"][0]["message"]["refusal"] = None
    completion["usage"]["completion_tokens_details"] = {"reasoning_tokens": 301}
    return completion


# OpenRouter. It leaves out a parameter that no provider of the model takes, without a word, unless
# `provider.require_parameters` is true. Token counts may be fractions.


def _check_openrouter(members: Members) -> SimulatedReply | None:
    requires = members.get("provider", {}).get("require_parameters")
    if "/" not in members["model"]:
        return json_reply(
            {"error": {"message": f"{members['model']} is not a valid model ID", "code": 400}}, 400
        )
    if requires and "max_completion_tokens" in members:
        message = "No endpoints found that can handle the requested parameters."
        return json_reply({"error": {"message": message, "code": 404}}, 404)
    return None


def _complete_openrouter(members: Members, text: str) -> dict[str, Any]:
    if not members.get("provider", {}).get("require_parameters"):
        # The schema was left out, so the model writes JSON of a form of its own.
        text = json.dumps({"recommendations": json.loads(text.strip("`json\n"))["picks"]})
    completion = _completion(members, text, provider="Chutes")
    completion["choices"][0]["native_finish_reason"] = "stop"
    completion["usage"]["prompt_tokens"] += 0.92
    completion["usage"]["cost"] = 0.000_42
    return completion


# Ollama. It needs no key. A model that thinks answers with an empty content if its thoughts have
# used up the context; a reasoning effort of `none` switches the thoughts off.


def _check_ollama(members: Members) -> SimulatedReply | None:
    effort = members.get("reasoning_effort", "medium")
    if effort not in ("none", "low", "medium", "high"):
        return _error(400, f"invalid reasoning value: '{effort}'")
    return None


def _complete_ollama(members: Members, text: str) -> dict[str, Any]:
    completion = _completion(members, text, system_fingerprint="fp_ollama")
    if members.get("reasoning_effort") != "none":
        choice = completion["choices"][0]
        choice["message"] |= {"content": "", "reasoning": "Let me think about drinks. " * 40}
        choice["finish_reason"] = "length"
    return completion


# vLLM. It ignores members that it does not know. The thoughts of a model are in a member of their
# own. An error is not nested.


def _check_vllm(members: Members) -> SimulatedReply | None:
    limit = members.get("max_completion_tokens", members.get("max_tokens", 0))
    if limit > 32_768:
        return json_reply(
            {
                "object": "error",
                "message": "This model's maximum context length is 32768 tokens.",
                "type": "BadRequestError",
                "param": None,
                "code": 400,
            },
            400,
        )
    return None


def _complete_vllm(members: Members, text: str) -> dict[str, Any]:
    completion = _completion(members, text, prompt_logprobs=None)
    message = completion["choices"][0]["message"]
    message |= {"reasoning_content": "Drinks.", "tool_calls": [], "refusal": None}
    completion["usage"]["prompt_tokens_details"] = None
    return completion


MODEL_SERVERS: dict[str, ModelServer] = {
    server.name: server
    for server in (
        ModelServer(
            name="openai", model="gpt-5.4-mini", check=_check_openai, complete=_complete_openai
        ),
        ModelServer(
            name="anthropic",
            model="claude-opus-4-8",
            check=_check_anthropic,
            complete=_complete_anthropic,
        ),
        ModelServer(
            name="gemini",
            model="gemini-3-flash",
            check=_check_gemini,
            complete=_complete_gemini,
            id_prefix="models/",
        ),
        ModelServer(
            name="deepseek",
            model="deepseek-reasoner",
            check=_check_deepseek,
            complete=_complete_deepseek,
            answers_about_model=False,
        ),
        ModelServer(
            name="mistral",
            model="magistral-medium-latest",
            check=_check_mistral,
            complete=_complete_mistral,
        ),
        ModelServer(name="xai", model="grok-5", check=_check_xai, complete=_complete_xai),
        ModelServer(
            name="openrouter",
            model="qwen/qwen4-max",
            check=_check_openrouter,
            complete=_complete_openrouter,
            answers_about_model=False,
        ),
        ModelServer(
            name="ollama",
            model="qwen4:32b",
            check=_check_ollama,
            complete=_complete_ollama,
            needs_key=False,
        ),
        ModelServer(
            name="vllm",
            model="openai/gpt-oss-120b",
            check=_check_vllm,
            complete=_complete_vllm,
            answers_about_model=False,
            needs_key=False,
        ),
    )
}
