"""
Ideas from a language model, over OpenAI's chat completions or any server that speaks them.

One question is one request: the queue does the retrying, so the library's own is switched off. The model's text is
returned as it came; `app.domain.prompt` decides whether it can become ideas.

Only the text is needed. Each member of a completion is read by itself, because servers differ in all others: what
cannot be read of the model's name, the request's id or the counts of tokens is None, and never costs the text. An
answer without a usable text says in `unusable` why, in a sentence that is true of what came.
"""

import asyncio
import importlib
import json
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from msgspec import Struct

from app.domain import untrusted_json
from app.domain.calendar import Clock
from app.domain.prompt import schema
from app.domain.text import one_line, quotable, redact, without_controls
from app.domain.untrusted_json import AMBIGUOUS
from app.errors import AlphaMondayError, ConfigurationError, ProviderBusy, ProviderUnavailable
from app.providers.retry_after import asked_to_wait

# In seconds, as OPENAI_TIMEOUT's default.
DEFAULT_TIMEOUT = 180.0

# In bytes. Three picks with their reasons are some 2 KB, what a model thinks before them seldom more than 100: a body
# of more is none that we could use, and is not read on.
LARGEST_BODY = 1_000_000
_SENDER = "The model's provider"

# We ask for one choice. A body could hold tens of thousands of them.
_MOST_CHOICES = 10

# How much is kept of an answer that is no completion, of a provider's own words, and of a name or an id.
LONGEST_ODDITY = 2000
LONGEST_REASON = 500
LONGEST_NAME = 200

# What the columns of the counts hold.
_MOST_TOKENS = 2**31

# Servers follow OpenAI's older names of the counts, or the newer.
_PROMPT_TOKENS = ("prompt_tokens", "input_tokens")
_COMPLETION_TOKENS = ("completion_tokens", "output_tokens")

# Parts of a message that hold its text; others hold what the model thought, a picture or a sound.
_TEXT_PARTS = ("text", "output_text")

# How servers spell that a content filter stopped an answer, or that it broke off; in small letters, with underscores.
_FILTERED = ("content_filter", "content_filtered", "safety", "prohibited_content", "blocklist")
_BROKE_OFF = ("length", "max_tokens", "max_output_tokens")
_MAY_BE_FILTERED = (400, 403, 422, 451)
_FILTERED_QUESTION = re.compile(r"content[ _-]?filter|content management policy|ResponsibleAIPolicyViolation", re.I)

# Only these errors of a request prove that the same request will fail again, unless their words say that it may not.
_FOR_GOOD = (400, 402, 405, 406, 410, 411, 413, 414, 415, 422, 431, 451)
_PASSING = re.compile(r"re-?try\b|try(ing)? again|temporar|overload|at capacity|timed? ?-?out|\bbusy\b", re.I)

_TWICE = "The answer's {} stood there twice, with different values."


class Answer(Struct, frozen=True, kw_only=True):
    """
    What came back for one question.

    `unusable` says why its text cannot be read at all, for instance truncation. `by_provider` says that it was the
    provider, or a relay, that spoke in the model's place: the same question may be answered some time later.
    """

    text: str | None
    model: str | None
    request_id: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    unusable: str | None = None
    by_provider: bool = False


class OpenAIPicker:
    """
    A client of one key and one model.

    `timeout` is how many seconds a question may take. `clock` tells until when a Retry-After asks to wait; without a
    clock, nothing does.
    """

    def __init__(
        self,
        key: str,
        model: str,
        base_url: str = "",
        temperature: float | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        clock: Clock | None = None,
    ) -> None:
        self.key, self.model, self.base_url, self.temperature = key, model, base_url, temperature
        self.timeout, self.clock = timeout, clock
        self._client: Any = None

    async def close(self) -> None:
        """Give back the connections."""
        if self._client:
            await self._client.close()

    async def ask(self, system: str, user: str) -> Answer:
        """
        Put one question to the model.

        Raises ConfigurationError (key, model, billing, a request the server does not take), ProviderBusy and
        ProviderUnavailable.
        """
        # 1.5 seconds and 50 MB that nobody needs before the first question.
        openai = await asyncio.to_thread(importlib.import_module, "openai")
        if self._client is None:
            made = importlib.import_module("app.providers.openai_client")
            self._client = made.client(self.key, self.base_url, self.timeout, LARGEST_BODY, _SENDER)
        # Some model families refuse any temperature but their own.
        extra = {} if self.temperature is None else {"temperature": self.temperature}
        try:
            async with asyncio.timeout(self.timeout):
                response = await self._client.chat.completions.with_raw_response.create(
                    model=self.model,
                    messages=[{"role": "system", "content": system}, {"role": "user", "content": user}],
                    response_format={
                        "type": "json_schema",
                        "json_schema": {"name": "picks", "schema": schema(), "strict": True},
                    },
                    **extra,
                )
        except TimeoutError:
            raise ProviderUnavailable(f"The model did not answer within {self.timeout:g} s.") from None
        except ProviderUnavailable:  # its body is more than is read
            raise
        except openai.OpenAIError as error:
            now = self.clock.now() if self.clock else None
            raise _meaning(openai, error, self.key, now) from None
        except Exception as error:
            # Among the library's own are errors of an address to which an answer points.
            raise ProviderUnavailable(f"The model's provider cannot be read ({type(error).__name__}).") from None
        return read(response.content, response.headers.get("x-request-id"), self.key)


def _meaning(openai: Any, error: Any, key: str, now: datetime | None) -> AlphaMondayError:
    """Return what an error of the library means for us."""
    text = quotable(str(error), [key])[:300]
    if (
        isinstance(error, openai.APIStatusError)
        and error.status_code in _MAY_BE_FILTERED
        and _FILTERED_QUESTION.search(f"{error} {error.code} {error.body}")
    ):
        return ProviderUnavailable(f"The provider's content filter stopped the question: {text}")
    if isinstance(error, openai.AuthenticationError):
        return ConfigurationError("The model's provider does not accept the key: set OPENAI_API_KEY to a valid one.")
    if isinstance(error, openai.PermissionDeniedError) and isinstance(error.body, dict):
        return ConfigurationError(f"The model's provider does not allow this: check OPENAI_API_KEY. {text}")
    if isinstance(error, openai.NotFoundError):
        return ConfigurationError(f"The model's provider does not know what was asked for: check OPENAI_MODEL. {text}")
    until = _asked_to_wait(error, now) if now else None
    if isinstance(error, openai.RateLimitError):
        if getattr(error, "code", None) == "insufficient_quota":
            return ConfigurationError("The account at the model's provider is out of credit: see its billing page.")
        return ProviderBusy(f"The model's provider asked us to slow down: {text}", until)
    if isinstance(error, openai.APIStatusError) and error.status_code in _FOR_GOOD and not _PASSING.search(str(error)):
        return ConfigurationError(f"The model's provider refused the request: {text}")
    message = f"The model's provider did not answer ({type(error).__name__}): {text}"
    return ProviderBusy(message, until) if until else ProviderUnavailable(message)


def _asked_to_wait(error: Any, now: datetime) -> datetime | None:
    """Return until when the answer behind an error asks us to wait, if there was one and it does."""
    response = getattr(error, "response", None)
    return asked_to_wait(response.headers.get("retry-after", ""), now) if response is not None else None


class _Content(Struct, frozen=True):
    """What one choice of a completion holds: its text, or why it has none that can be used."""

    text: str | None
    unusable: str | None = None
    by_provider: bool = False


def read(body: bytes, request_id: str | None, key: str) -> Answer:
    """
    Return what a 200 holds.

    Of several choices the first that can be used counts, of ten at most; we ask for one.
    """
    completion, unusable = _decoded(body)
    choices = _choices(completion)
    if isinstance(choices, list) and choices:
        read_choices = [_choice(choice, body, key) for choice in choices[:_MOST_CHOICES]]
        chosen = next((one for one in read_choices if not one.unusable), read_choices[0])
        text = chosen.text and redact(chosen.text, [key])
        unusable, by_provider = chosen.unusable, chosen.by_provider
    else:
        text, by_provider = quotable(body.decode(errors="replace"), [key])[:LONGEST_ODDITY], True
        unusable = unusable or _why_no_choices(completion, choices, key)
    members = completion if isinstance(completion, dict) else {}
    usage = members.get("usage")
    return Answer(
        text=text,
        model=_name(members.get("model"), key),
        request_id=_name(request_id, key),
        prompt_tokens=_tokens(usage, _PROMPT_TOKENS),
        completion_tokens=_tokens(usage, _COMPLETION_TOKENS),
        unusable=unusable,
        by_provider=by_provider,
    )


def _decoded(body: bytes) -> tuple[Any, str | None]:
    """Return the value of a body, or None and why it has none."""
    try:
        return untrusted_json.decode(body), None
    except RecursionError:
        return None, "The provider's answer was JSON that is nested too deeply."
    except ValueError:  # every error of a decoder is one
        start = body.lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    if start == b"":
        return None, "The provider's answer was empty."
    if start == b"<":
        return None, "The provider answered with a web page in place of JSON."
    return None, "The provider's answer was not JSON, or not all of it."


def _choices(completion: Any) -> Any:
    choices = completion.get("choices") if isinstance(completion, dict) else None
    # A server that gives one choice may leave out the list.
    return [choices] if isinstance(choices, dict) and "message" in choices else choices


def _why_no_choices(completion: Any, choices: Any, key: str) -> str:
    if not isinstance(completion, dict):
        return "The provider answered with JSON that is no completion."
    if choices is AMBIGUOUS:
        return _TWICE.format("list of choices")
    error = _error_of(completion, key, completion.get("message"), completion.get("detail"))
    if error and not choices:
        return error
    if choices is None or choices == []:
        return "The answer had no choices."
    return "The answer's choices were no list."


def _error_of(members: dict[str, Any], key: str, *otherwise: Any) -> str | None:
    """
    Return what a provider's or a relay's error in a 200 says, or None where there is none.

    `otherwise` are values that hold its words on servers that have no member `error`.
    """
    error = members.get("error")
    inner = error if isinstance(error, dict) else {}
    words = (inner.get("message"), error, inner.get("code"), *otherwise)
    text = next((word for word in words if isinstance(word, str) and word.strip()), None)
    if text:
        # Without the key before it is cut, or a part of it would stay.
        return f"The provider answered with an error: {one_line(redact(text, [key]))[:LONGEST_REASON]}"
    return "The provider answered with an error that it does not explain." if error else None


def _choice(choice: Any, body: bytes, key: str) -> _Content:
    """Return what a choice holds. A text that broke off, or that the provider stopped, is not used."""
    members = choice if isinstance(choice, dict) else {}
    message, reason = members.get("message"), _spelled_alike(members.get("finish_reason"))
    if message is AMBIGUOUS:
        return _Content(None, _TWICE.format("message"))
    if isinstance(message, str):
        message = {"content": message}
    if not isinstance(message, dict):
        return _Content(None, _error_of(members, key) or "The answer's choice had no message.", by_provider=True)
    content = message.get("content")
    text = _text(content)
    refusal = _text(message.get("refusal")) or _refusal_among(content)
    unusable = None
    if reason in _BROKE_OFF:
        unusable = "The answer was truncated."
    elif reason in _FILTERED:
        unusable = "The provider's content filter stopped the answer."
    elif refusal and refusal.strip():
        unusable = f"The model refused: {redact(refusal, [key])[:LONGEST_REASON]}"
    elif not text and (error := _error_of(members, key)):
        return _Content(None, error, by_provider=True)
    elif not text:
        unusable = _why_no_text(members, message)
    elif "\N{REPLACEMENT CHARACTER}" in text and not _is_unicode(body):
        unusable = "The answer held bytes that are no UTF-8."
    return _Content(text or refusal, unusable)


def _spelled_alike(reason: Any) -> str:
    """Return why an answer ended in one spelling of it, empty where nothing says why."""
    return reason.casefold().replace("-", "_") if isinstance(reason, str) else ""


def _text(content: Any) -> str | None:
    """Return the text of a message's content: a text itself, or the text parts of a list, one after the other."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [content]
    texts = [text for part in parts if (text := _text_of_part(part)) is not None]
    return "".join(texts) if texts else None


def _text_of_part(part: Any) -> str | None:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict) or not _is_text(part.get("type")):
        return None
    text = part.get("text", part.get("content"))
    value = text.get("value") if isinstance(text, dict) else text
    return value if isinstance(value, str) else None


def _is_text(kind: Any) -> bool:
    """Return whether a part of this type holds text; one without a type does."""
    return not kind or (isinstance(kind, str) and kind.casefold() in _TEXT_PARTS)


def _refusal_among(content: Any) -> str | None:
    """Return the refusal that stands among the parts of a content."""
    parts = content if isinstance(content, list) else [content]
    refusals = (part.get("refusal") for part in parts if isinstance(part, dict) and part.get("type") == "refusal")
    return next((refusal for refusal in refusals if isinstance(refusal, str) and refusal), None)


def _why_no_text(choice: dict[str, Any], message: dict[str, Any]) -> str:
    content = message.get("content")
    if content is AMBIGUOUS:
        return _TWICE.format("content")
    if message.get("tool_calls") or message.get("function_call"):
        return "The answer was a call of a tool, without a text."
    if choice.get("finish_reason") in ("tool_calls", "function_call"):
        return "The answer was a call of a tool, without a text."
    if content is None or content in ("", [], {}):
        return "The answer was empty."
    return "The answer's content held no text."


def _is_unicode(body: bytes) -> bool:
    """Return whether a body is the encoding that it seems to be, without a byte that had to be replaced."""
    try:
        body.decode(json.detect_encoding(body))
    except UnicodeError:
        return False
    return True


def _name(value: Any, key: str) -> str | None:
    """
    Return a model's name or a request's id, or None where there is none that is a text.

    It is shown in the middle of our own sentences, on a terminal and in a log: what is not printable, such as a control
    or a turn of direction, is replaced.
    """
    if not isinstance(value, str) or not value:
        return None
    return without_controls(redact(value, [key])[:LONGEST_NAME], "\N{REPLACEMENT CHARACTER}")


def _tokens(usage: Any, names: Sequence[str]) -> int | None:
    """Return the first count that can be read under one of its names."""
    members = usage if isinstance(usage, dict) else {}
    return next((count for name in names if (count := _count(members.get(name))) is not None), None)


def _count(value: Any) -> int | None:
    """Return a whole number that the column holds, however it was written, or None: metadata is never guessed."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not 0 <= value < _MOST_TOKENS or value != int(value):
        return None
    return int(value)
