"""
Ideas from a language model, over OpenAI's chat completions or any server that speaks them.

One question is one request: the queue does the retrying, so the library's own is switched off. What the model answered
is returned as text; whether it can become ideas is the record's to say.
"""

import asyncio
import importlib
import json
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from app.domain.prompt import schema
from app.domain.text import quotable, redact
from app.errors import AlphaMondayError, ConfigurationError, ProviderBusy, ProviderUnavailable

TIME_LIMIT = 60.0

# How much is kept of an answer that is no completion.
LONGEST_ODDITY = 2000


class Answer(Struct, frozen=True, kw_only=True):
    """What came back for one question. `unusable` says why its text cannot be read at all, for instance truncation."""

    text: str | None
    model: str | None
    request_id: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    unusable: str | None = None


class OpenAIPicker:
    """A client of one key and one model."""

    def __init__(self, key: str, model: str, base_url: str = "", temperature: float | None = None) -> None:
        self.key, self.model, self.base_url, self.temperature = key, model, base_url, temperature
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
            self._client = openai.AsyncOpenAI(
                api_key=self.key,
                base_url=self.base_url or None,
                max_retries=0,
                timeout=TIME_LIMIT,
                http_client=openai.DefaultAsyncHttpxClient(
                    follow_redirects=False,  # elsewhere is not who was asked
                    # A cookie that is not ASCII would be kept, and every later request fail with it.
                    cookies=CookieJar(policy=DefaultCookiePolicy(allowed_domains=[])),
                ),
            )
        # Some model families refuse any temperature but their own.
        extra = {} if self.temperature is None else {"temperature": self.temperature}
        try:
            async with asyncio.timeout(TIME_LIMIT):
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
            raise ProviderUnavailable(f"The model did not answer within {TIME_LIMIT:.0f} s.") from None
        except openai.OpenAIError as error:
            raise _meaning(openai, error, self.key) from None
        except Exception as error:
            # The library reads an error's body by the charset that it names, and Python's codecs raise what they like.
            raise ProviderUnavailable(f"The model's provider cannot be read ({type(error).__name__}).") from None
        return _read(response.content, response.headers.get("x-request-id"), self.key)


def _meaning(openai: Any, error: Any, key: str) -> AlphaMondayError:
    """Return what an error of the library means for us."""
    text = quotable(str(error), [key])[:300]
    if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
        return ConfigurationError("The model's provider does not accept the key: set OPENAI_API_KEY to a valid one.")
    if isinstance(error, openai.NotFoundError):
        return ConfigurationError(f"The model's provider does not know what was asked for: check OPENAI_MODEL. {text}")
    if isinstance(error, openai.RateLimitError):
        if getattr(error, "code", None) == "insufficient_quota":
            return ConfigurationError("The account at the model's provider is out of credit: see its billing page.")
        return ProviderBusy(f"The model's provider asked us to slow down: {text}")
    if (
        isinstance(error, openai.APIStatusError)
        and error.status_code // 100 == 4
        and error.status_code not in (408, 409)
    ):
        return ConfigurationError(f"The model's provider refused the request: {text}")
    return ProviderUnavailable(f"The model's provider did not answer ({type(error).__name__}): {text}")


def _redacted(key: str, text: str | None) -> str | None:
    return redact(text, [key]) if text else text  # as it was said: the rest is the record's to judge


# What the column holds.
Count = Annotated[int, Meta(ge=0, lt=2**31)]


class _Message(Struct):
    content: str | None = None
    refusal: str | None = None


class _Choice(Struct):
    message: _Message
    finish_reason: str | None = None


class _Usage(Struct):
    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None


class _Completion(Struct):
    choices: list[_Choice] | None = None
    model: str | None = None
    usage: _Usage | None = None


def _read(body: bytes, request_id: str | None, key: str) -> Answer:
    """Return what a 200 holds. A relay's error has no choices; a page, or half an answer, is no completion at all."""
    request_id = _redacted(key, request_id)
    try:
        # Not msgspec's decoder: a lone surrogate is for the record to refuse.
        completion = msgspec.convert(json.loads(body), _Completion)
        choice, usage = (completion.choices or [])[0], completion.usage or _Usage()
    except (msgspec.ValidationError, ValueError, IndexError, RecursionError):
        return Answer(
            text=quotable(body.decode(errors="replace"), [key])[:LONGEST_ODDITY],
            model=None,
            request_id=request_id,
            prompt_tokens=None,
            completion_tokens=None,
            unusable="The answer had no choices.",
        )
    content, refusal = _redacted(key, choice.message.content), _redacted(key, choice.message.refusal)
    unusable = None
    if choice.finish_reason == "length":
        unusable = "The answer was truncated."
    elif refusal:
        unusable = f"The model refused: {refusal[:500]}"
    elif not content:
        unusable = "The answer was empty."
    return Answer(
        text=content or refusal,
        model=_redacted(key, completion.model),
        request_id=request_id,
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        unusable=unusable,
    )
