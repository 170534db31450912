"""
Questions to a language model, through OpenAI's chat completions or any compatible server.

One question is one request. The queue repeats failed questions, so the retries of the `openai`
library are switched off. The model's text is returned unchanged; `app.domain.prompt` decides
whether it can become ideas.

Only the text is required. Compatible servers differ in every other member of a completion, so each
member is read on its own: a model's name, a request id or a token count that cannot be read is
None, and the text is still used. If an answer has no usable text, `unusable_reason` says why, in a
sentence.
"""

import asyncio
import importlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from msgspec import Struct

from app.domain import untrusted_json
from app.domain.calendar import Clock
from app.domain.prompt import CURRENT
from app.domain.text import one_line, redact, redact_for_record, replace_unprintable
from app.domain.untrusted_json import AMBIGUOUS
from app.errors import AlphaMondayError, ConfigurationError, ProviderBusy, ProviderUnavailable
from app.providers import model_lookup
from app.providers.model_lookup import ModelLookup
from app.providers.retry_after import parse_retry_after

# The default of OPENAI_TIMEOUT.
DEFAULT_TIMEOUT_SECONDS = 180.0

# Three picks with their reasons have about 2 KB, and the text of a model that reasons before it
# answers seldom has more than 100 KB. A body above this limit of 1 MB is no usable answer, so the
# rest of it is not read.
MAX_BODY_BYTES = 1_000_000
# The name with which an error's sentence begins: "The model's provider answered ...".
_SENDER = "The model's provider"

# We ask for one choice, but a body could contain tens of thousands.
_MAX_CHOICES = 10

# The next constants are the greatest lengths of texts, in characters; longer texts are cut. First,
# a body that is not a completion.
MAX_ODD_BODY_LENGTH = 2000
# The text of an error or of a refusal in a response with status 200.
MAX_REASON_LENGTH = 500
# A model's name, or a request id.
MAX_NAME_LENGTH = 200
# The text of an error that the library raises.
_MAX_ERROR_LENGTH = 300

# The columns of the token counts are 32-bit integers.
_TOKENS_LIMIT = 2**31

# Some servers use OpenAI's older names of the counts, some the newer ones.
_PROMPT_TOKENS = ("prompt_tokens", "input_tokens")
_COMPLETION_TOKENS = ("completion_tokens", "output_tokens")
_TOKEN_DETAILS = ("completion_tokens_details", "output_tokens_details")
_REASONING_TOKENS = ("reasoning_tokens",)

# Types of a message's parts that contain its text. Other types contain the model's reasoning, a
# picture or a sound.
_TEXT_PARTS = ("text", "output_text")

# Values of `finish_reason`, after `_normalized_reason`: a content filter stopped the answer, or it
# was truncated.
_FILTERED = ("content_filter", "content_filtered", "safety", "prohibited_content", "blocklist")
_TRUNCATED = ("length", "max_tokens", "max_output_tokens", "model_length")
# Statuses with which a content filter may refuse a question, and the words that it then uses.
_FILTER_STATUSES = (400, 403, 422, 451)
_FILTERED_QUESTION = re.compile(
    r"content[ _-]?filter|content management policy|ResponsibleAIPolicyViolation", re.I
)

# With these statuses the same request will fail again, unless the error's text says otherwise.
# `_classify` checks 401, 403, 404 and 429 before it uses this list. With any other status, the
# request may succeed later.
_PERMANENT_STATUSES = (400, 402, 405, 406, 410, 411, 413, 414, 415, 422, 431, 451)
_TEMPORARY = re.compile(
    r"re-?try\b|try(ing)? again|temporar|overload|at capacity|timed? ?-?out|\bbusy\b", re.I
)

_DUPLICATE_MEMBER = "The answer's {} stood there twice, with different values."


# The value of `token_limit_as` with which no limit is sent.
_NOT_SENT = "none"


class ModelOptions(Struct, frozen=True, kw_only=True):
    """
    What a request has besides its messages and the schema of an answer.

    - `response_format`: `json_schema` sends the schema, `json_object` asks for JSON alone, and
      `text` asks for nothing: not every server accepts each of them
    - `temperature`, `reasoning_effort`: sent only if they are not None, because some models refuse
      them
    - `max_tokens`: the most tokens of an answer, sent as the member `token_limit_as`; not sent if
      it is None, or if `token_limit_as` is `none`
    - `extra_body`: additional members, sent as they are
    """

    model: str
    response_format: str = "json_schema"
    temperature: float | None = None
    reasoning_effort: str | None = None
    max_tokens: int | None = None
    token_limit_as: str = "max_completion_tokens"  # noqa: S105 - no password
    extra_body: Mapping[str, Any] = {}

    def members(self) -> dict[str, Any]:
        """Return the members of a request, without its messages."""
        members: dict[str, Any] = {"model": self.model, **self.extra_body}
        if self.response_format == "json_schema":
            members["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "picks", "schema": CURRENT.schema, "strict": True},
            }
        elif self.response_format == "json_object":
            members["response_format"] = {"type": "json_object"}
        if self.temperature is not None:
            members["temperature"] = self.temperature
        if self.reasoning_effort is not None:
            members["reasoning_effort"] = self.reasoning_effort
        if self.max_tokens is not None and self.token_limit_as != _NOT_SENT:
            members[self.token_limit_as] = self.max_tokens
        return members


class ModelAnswer(Struct, frozen=True, kw_only=True):
    """
    The response to one question.

    `unusable_reason` is a sentence that says why the text cannot be used, such as truncation.
    `is_from_provider` is True if the provider or a relay answered in place of the model: then the
    same question may be answered later. `finish_reason` says why the model stopped, in the words of
    the server. `reasoning_tokens` is the part of `completion_tokens` that the answer does not show.
    """

    text: str | None
    model: str | None
    request_id: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    reasoning_tokens: int | None = None
    finish_reason: str | None = None
    system_fingerprint: str | None = None
    unusable_reason: str | None = None
    is_from_provider: bool = False


class ModelClient:
    """
    A client for one key and one model.

    `timeout` limits a whole question, in seconds. `clock` turns a `Retry-After` into a time;
    without a clock, the header is ignored. `key_setting` and `model_setting` are the names that an
    operator uses to set the key and the model: errors name them.
    """

    def __init__(
        self,
        key: str,
        options: ModelOptions,
        base_url: str = "",
        *,
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
        clock: Clock | None = None,
        key_setting: str = "OPENAI_API_KEY",
        model_setting: str = "OPENAI_MODEL",
    ) -> None:
        self.key = key
        self.options = options
        self.base_url = base_url
        self.timeout = timeout
        self.clock = clock
        self.key_setting = key_setting
        self.model_setting = model_setting
        self._client: Any = None

    @property
    def model(self) -> str:
        """Return the name of the requested model."""
        return self.options.model

    async def close(self) -> None:
        """Close the connections."""
        if self._client:
            await self._client.close()

    async def look_up(self) -> ModelLookup | None:
        """
        Return what the server says about the end of the model, or None if it says nothing.

        The library for questions is not used: it would be loaded long before the first question.
        """
        return await model_lookup.look_up(self.model, key=self.key, base_url=self.base_url)

    async def ask(self, system: str, user: str) -> ModelAnswer:
        """
        Send one question to the model, and return its answer.

        Raises ConfigurationError (key, model, billing, or a request that the server does not
        accept), ProviderBusy and ProviderUnavailable.
        """
        # Imported here and in a thread: the import takes 1.5 seconds and 50 MB of memory, and
        # nothing needs the library before the first question.
        openai = await asyncio.to_thread(importlib.import_module, "openai")
        if self._client is None:
            self._client = self._make_client()
        try:
            async with asyncio.timeout(self.timeout):
                response = await self._create_completion(system, user)
        except TimeoutError:
            raise ProviderUnavailable(
                f"The model did not answer within {self.timeout:g} s."
            ) from None
        except ProviderUnavailable:
            # The body is longer than MAX_BODY_BYTES, or damaged.
            raise
        except openai.OpenAIError as error:
            now = self.clock.now() if self.clock else None
            raise self._classify(openai, error, now) from None
        except Exception as error:
            # The library also raises errors of other packages, for example for the address to which
            # a redirect points.
            raise ProviderUnavailable(
                f"The model's provider cannot be read ({type(error).__name__})."
            ) from None
        return parse_completion(response.content, response.headers.get("x-request-id"), self.key)

    def _make_client(self) -> Any:
        """Return a client of the library. Raises ConfigurationError for an unusable address."""
        openai_client = importlib.import_module("app.providers.openai_client")
        try:
            return openai_client.make_client(
                key=self.key,
                base_url=self.base_url,
                timeout=self.timeout,
                max_bytes=MAX_BODY_BYTES,
                sender=_SENDER,
            )
        except Exception as error:
            # The library reads the address with a package of its own, whose errors it does not
            # wrap.
            raise ConfigurationError(
                "No request can be sent to the address of the model's provider "
                f"({type(error).__name__}): check base_url, or OPENAI_BASE_URL."
            ) from None

    async def _create_completion(self, system: str, user: str) -> Any:
        messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        # All members are in `extra_body`, which the library sends as it is. Its own arguments
        # would check or rename some of them, and the record states what was sent.
        members = self.options.members()
        return await self._client.chat.completions.with_raw_response.create(
            model=members.pop("model"), messages=messages, extra_body=members
        )

    def _classify(self, openai: Any, error: Any, now: datetime | None) -> AlphaMondayError:
        """
        Return our error for an error of the library.

        The order of the checks matters: a content filter may use the statuses of a bad request, and
        spent credit has the status of a rate limit.
        """
        shown = redact_for_record(_error_text(openai, error, self.key), [self.key])
        text = shown[:_MAX_ERROR_LENGTH]
        if _is_filtered_question(openai, error):
            return ProviderUnavailable(
                f"The provider's content filter stopped the question: {text}"
            )
        if isinstance(error, openai.AuthenticationError):
            return ConfigurationError(
                f"The model's provider does not accept the key: set {self.key_setting} to a valid "
                "one."
            )
        # A 403 without a JSON body is a web page of a proxy or a firewall, so the same request may
        # succeed later.
        if isinstance(error, openai.PermissionDeniedError) and isinstance(error.body, dict | list):
            return ConfigurationError(
                f"The model's provider does not allow this: check {self.key_setting}. {text}"
            )
        if isinstance(error, openai.NotFoundError):
            return ConfigurationError(
                "The model's provider does not know what was asked for: check "
                f"{self.model_setting}. {text}"
            )
        until = _retry_time(error, now) if now else None
        if isinstance(error, openai.RateLimitError):
            if getattr(error, "code", None) == "insufficient_quota":
                return ConfigurationError(
                    "The account at the model's provider is out of credit: see its billing page."
                )
            return ProviderBusy(f"The model's provider asked us to slow down: {text}", until)
        if _is_permanent(openai, error):
            return ConfigurationError(f"The model's provider refused the request: {text}")
        message = f"The model's provider did not answer ({type(error).__name__}): {text}"
        if until:
            return ProviderBusy(message, until)
        return ProviderUnavailable(message)


def _error_text(openai: Any, error: Any, key: str) -> str:
    """
    Return the text of an error, with the server's own words.

    The library finds these words only in an error of OpenAI's form. Of other forms, its text is
    only the status. A web page is not shown, nor a body that is not UTF-8.
    """
    text = str(error)
    if not isinstance(error, openai.APIStatusError):
        return text
    words = _find_words(error.body)
    # The body was read as UTF-8, with U+FFFD in place of bytes that are not UTF-8.
    is_readable = not words.startswith("<") and "\ufffd" not in words
    if not words or words in text or not is_readable:
        return text
    return f"{text} - {_printable(redact(words, [key]), _MAX_ERROR_LENGTH)}"


# The members of an error's body that may have the server's words, in the order of their use.
_MEMBERS_WITH_WORDS = ("error", "message", "detail", "msg", "error_description")
# An error's body is read to this depth. A list in it is read up to this number of items.
_MAX_ERROR_DEPTH, _MAX_ERROR_ITEMS = 6, 3


def _find_words(body: Any, depth: int = _MAX_ERROR_DEPTH) -> str:
    """
    Return the server's words in the body of an error; empty if there are none.

    The forms that are read: a text; `error` as a text (xAI) or an object; a list of errors
    (Gemini); `message` with a list of details, each with a place and a text (Mistral).
    """
    if isinstance(body, str):
        return body.strip()
    if depth == 0:
        return ""
    if isinstance(body, list):
        found = [_find_words(part, depth - 1) for part in body[:_MAX_ERROR_ITEMS]]
        return "; ".join(words for words in found if words)
    if not isinstance(body, dict):
        return ""
    for name in _MEMBERS_WITH_WORDS:
        words = _find_words(body.get(name), depth - 1)
        if words:
            return words + _place_of(body)
    return ""


def _place_of(detail: dict[str, Any]) -> str:
    """Return where a request has the mistake that a detail of an error is about."""
    place = detail.get("loc")
    if not isinstance(place, list):
        return ""
    return f" ({'.'.join(str(part) for part in place[:_MAX_ERROR_DEPTH])})"


def _is_filtered_question(openai: Any, error: Any) -> bool:
    """Return whether the provider's content filter refused the question."""
    if not isinstance(error, openai.APIStatusError) or error.status_code not in _FILTER_STATUSES:
        return False
    return bool(_FILTERED_QUESTION.search(f"{error} {error.code} {error.body}"))


def _is_permanent(openai: Any, error: Any) -> bool:
    """Return whether the same request will fail again."""
    if not isinstance(error, openai.APIStatusError):
        return False
    return error.status_code in _PERMANENT_STATUSES and not _TEMPORARY.search(str(error))


def _retry_time(error: Any, now: datetime) -> datetime | None:
    """Return the time of the `Retry-After` header in an error's response, or None without one."""
    response = getattr(error, "response", None)
    if response is None:
        return None
    return parse_retry_after(response.headers.get("retry-after", ""), now)


class _ChoiceContent(Struct, frozen=True):
    """The text of one choice of a completion, or the reason why it has no usable text."""

    text: str | None
    unusable_reason: str | None = None
    is_from_provider: bool = False


def parse_completion(body: bytes, request_id: str | None, key: str) -> ModelAnswer:
    """
    Return the answer in the body of a response with status 200.

    We ask for one choice, but a server may return several. Then the first usable choice of the
    first ten is the answer. If none of the ten is usable, the answer is the first choice, with the
    reason why it cannot be used.
    """
    completion, unusable_reason = _decode(body)
    choices = _choices(completion)
    finish_reason = None
    if isinstance(choices, list) and choices:
        contents = [_read_choice(choice, body, key) for choice in choices[:_MAX_CHOICES]]
        usable = (place for place, one in enumerate(contents) if not one.unusable_reason)
        place = next(usable, 0)
        content, choice = contents[place], choices[place]
        if isinstance(choice, dict):
            finish_reason = choice.get("finish_reason")
        text = content.text and redact(content.text, [key])
        unusable_reason = content.unusable_reason
        is_from_provider = content.is_from_provider
    else:
        text = redact_for_record(body.decode(errors="replace"), [key])[:MAX_ODD_BODY_LENGTH]
        unusable_reason = unusable_reason or _explain_missing_choices(completion, choices, key)
        is_from_provider = True
    members = completion if isinstance(completion, dict) else {}
    usage = members.get("usage")
    return ModelAnswer(
        text=text,
        model=_parse_name(members.get("model"), key),
        request_id=_parse_name(request_id, key),
        prompt_tokens=_token_count(usage, _PROMPT_TOKENS),
        completion_tokens=_token_count(usage, _COMPLETION_TOKENS),
        reasoning_tokens=_reasoning_tokens(usage),
        finish_reason=_parse_name(finish_reason, key),
        system_fingerprint=_parse_name(members.get("system_fingerprint"), key),
        unusable_reason=unusable_reason,
        is_from_provider=is_from_provider,
    )


def _decode(body: bytes) -> tuple[Any, str | None]:
    """Return the JSON value of a body and None, or None and a sentence that says what is wrong."""
    try:
        return untrusted_json.decode(body), None
    except RecursionError:
        return None, "The provider's answer was JSON that is nested too deeply."
    except ValueError:
        # `decode` raises ValueError for every body that is not JSON. The first character of the
        # body shows which of the usual cases it is.
        start = body.lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    if start == b"":
        return None, "The provider's answer was empty."
    if start == b"<":
        return None, "The provider answered with a web page in place of JSON."
    return None, "The provider's answer was not JSON, or not all of it."


def _choices(completion: Any) -> Any:
    choices = completion.get("choices") if isinstance(completion, dict) else None
    # A server that returns one choice may leave out the list around it.
    if isinstance(choices, dict) and "message" in choices:
        return [choices]
    return choices


def _explain_missing_choices(completion: Any, choices: Any, key: str) -> str:
    if not isinstance(completion, dict):
        return "The provider answered with JSON that is no completion."
    if choices is AMBIGUOUS:
        return _DUPLICATE_MEMBER.format("list of choices")
    # Servers without a member `error` put the text of the error into one of these members.
    alternatives = (completion.get("message"), completion.get("detail"))
    error = _describe_error(completion, key, alternatives)
    if error and not choices:
        return error
    if choices is None or choices == []:
        return "The answer had no choices."
    return "The answer's choices were no list."


def _describe_error(
    members: dict[str, Any], key: str, alternatives: Iterable[object] = ()
) -> str | None:
    """
    Return a sentence with the error in a response with status 200, or None if it has no error.

    `alternatives` are the values that contain the error's text on servers without a member `error`.
    """
    error = members.get("error")
    inner = error if isinstance(error, dict) else {}
    candidates = (inner.get("message"), error, inner.get("code"), *alternatives)
    texts = (text for text in candidates if isinstance(text, str) and text.strip())
    text = next(texts, None)
    if text:
        # The key is removed before the text is cut; otherwise a part of the key could remain.
        shown = _printable(redact(text, [key]), MAX_REASON_LENGTH)
        return f"The provider answered with an error: {shown}"
    if error:
        return "The provider answered with an error that it does not explain."
    return None


def _read_choice(choice: Any, body: bytes, key: str) -> _ChoiceContent:
    """Return the content of a choice. A text that was truncated or filtered is unusable."""
    members = choice if isinstance(choice, dict) else {}
    message = members.get("message")
    if message is AMBIGUOUS:
        return _ChoiceContent(None, _DUPLICATE_MEMBER.format("message"))
    if isinstance(message, str):
        message = {"content": message}
    if not isinstance(message, dict):
        error = _describe_error(members, key)
        return _ChoiceContent(
            None, error or "The answer's choice had no message.", is_from_provider=True
        )

    content = message.get("content")
    text = _text(content)
    refusal = _text(message.get("refusal")) or _refusal_part(content)
    reason = _normalized_reason(members.get("finish_reason"))
    unusable_reason = None
    if reason in _TRUNCATED:
        unusable_reason = "The answer was truncated."
    elif reason in _FILTERED:
        unusable_reason = "The provider's content filter stopped the answer."
    elif refusal and refusal.strip():
        shown = _printable(redact(refusal, [key]), MAX_REASON_LENGTH)
        unusable_reason = f"The model refused: {shown}"
    elif not text:
        if error := _describe_error(members, key):
            return _ChoiceContent(None, error, is_from_provider=True)
        unusable_reason = _explain_missing_text(members, message)
    elif "\N{REPLACEMENT CHARACTER}" in text and not _is_valid_unicode(body):
        unusable_reason = "The answer held bytes that are no UTF-8."
    return _ChoiceContent(text or refusal, unusable_reason)


def _normalized_reason(reason: Any) -> str:
    """Return a `finish_reason` in lower case with underscores; empty if it is not a text."""
    if not isinstance(reason, str):
        return ""
    return reason.casefold().replace("-", "_")


def _text(content: Any) -> str | None:
    """Return the text of a message's content: a string, or the joined text parts of a list."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [content]
    texts = [text for text in map(_text_of_part, parts) if text is not None]
    if not texts:
        return None
    return "".join(texts)


def _text_of_part(part: Any) -> str | None:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict) or not _is_text_type(part.get("type")):
        return None
    text = part.get("text", part.get("content"))
    # Some servers wrap the text into an object with the member `value`.
    if isinstance(text, dict):
        text = text.get("value")
    return text if isinstance(text, str) else None


def _is_text_type(part_type: Any) -> bool:
    """Return whether a part of this type contains text; a part without a type does."""
    if not part_type:
        return True
    return isinstance(part_type, str) and part_type.casefold() in _TEXT_PARTS


def _refusal_part(content: Any) -> str | None:
    """Return the refusal among the parts of a content, or None without one."""
    parts = content if isinstance(content, list) else [content]
    for part in parts:
        if not isinstance(part, dict) or part.get("type") != "refusal":
            continue
        refusal = part.get("refusal")
        if isinstance(refusal, str) and refusal:
            return refusal
    return None


def _explain_missing_text(choice: dict[str, Any], message: dict[str, Any]) -> str:
    content = message.get("content")
    if content is AMBIGUOUS:
        return _DUPLICATE_MEMBER.format("content")
    if message.get("tool_calls") or message.get("function_call"):
        return "The answer was a call of a tool, without a text."
    if choice.get("finish_reason") in ("tool_calls", "function_call"):
        return "The answer was a call of a tool, without a text."
    if content is None or content in ("", [], {}):
        return "The answer was empty."
    return "The answer's content held no text."


def _is_valid_unicode(body: bytes) -> bool:
    """
    Return whether a body can be decoded in its Unicode encoding without replacing a byte.

    If it can, the model itself has written the replacement character in its text; otherwise our
    decoder has inserted that character.
    """
    try:
        body.decode(json.detect_encoding(body))
    except UnicodeError:
        return False
    return True


def _parse_name(value: Any, key: str) -> str | None:
    """
    Return a model's name or a request id, or None if the value is not a text.

    The value is shown within our own sentences, on a terminal and in a log, so characters that are
    not printable, such as controls and marks of text direction, are replaced.
    """
    if not isinstance(value, str) or not value:
        return None
    return replace_unprintable(redact(value, [key])[:MAX_NAME_LENGTH], "\N{REPLACEMENT CHARACTER}")


def _printable(text: str, length: int) -> str:
    """
    Return at most `length` characters of a provider's words on one line.

    What is not printable is replaced as in `_parse_name`. `text` has no secrets any more: a secret
    that is cut could not be found.
    """
    # A hostile provider sends a megabyte. The steps below would need many times its memory, so it
    # is cut first, and again after white space was collapsed.
    beginning = text[: 10 * length]
    return replace_unprintable(one_line(beginning)[:length], "\N{REPLACEMENT CHARACTER}")


def _token_count(usage: Any, names: Sequence[str]) -> int | None:
    """Return the first readable count among the members `names` of `usage`."""
    members = usage if isinstance(usage, dict) else {}
    for name in names:
        count = _parse_count(members.get(name))
        if count is not None:
            return count
    return None


def _reasoning_tokens(usage: Any) -> int | None:
    """Return the count of hidden tokens: OpenAI has it one level deeper, some servers do not."""
    members = usage if isinstance(usage, dict) else {}
    for name in _TOKEN_DETAILS:
        count = _token_count(members.get(name), _REASONING_TOKENS)
        if count is not None:
            return count
    return _token_count(members, _REASONING_TOKENS)


def _parse_count(value: Any) -> int | None:
    """
    Return a whole number that fits the column of a token count.

    Return None for any other value: a count is never estimated.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not 0 <= value < _TOKENS_LIMIT or value != int(value):
        return None
    return int(value)
