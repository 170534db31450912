"""
Ideas from a language model, over OpenAI's chat completions or any server that speaks them.

One question is one request: the queue does the retrying, so the library's own is switched off. What the model answered
is returned as text; whether it can become ideas is the record's to say.
"""

import asyncio
import importlib
from typing import Any

from msgspec import Struct

from app.errors import AlphaMondayError, ConfigurationError, ProviderBusy, ProviderUnavailable
from app.record.ideas import schema

TIME_LIMIT = 60.0


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
                api_key=self.key, base_url=self.base_url or None, max_retries=0, timeout=TIME_LIMIT
            )
        # Some model families refuse any temperature but their own.
        extra = {} if self.temperature is None else {"temperature": self.temperature}
        try:
            async with asyncio.timeout(TIME_LIMIT):
                completion = await self._client.chat.completions.create(
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
        return _read(completion)


def _meaning(openai: Any, error: Any, key: str) -> AlphaMondayError:
    """Return what an error of the library means for us."""
    text = str(error).replace(key, "***")[:300] if key else str(error)[:300]
    if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
        return ConfigurationError("The model's provider does not accept the key: set OPENAI_API_KEY to a valid one.")
    if isinstance(error, openai.NotFoundError):
        return ConfigurationError(f"The model's provider does not know what was asked for: check OPENAI_MODEL. {text}")
    if isinstance(error, openai.RateLimitError):
        if getattr(error, "code", None) == "insufficient_quota":
            return ConfigurationError("The account at the model's provider is out of credit: see its billing page.")
        return ProviderBusy(f"The model's provider asked us to slow down: {text}")
    if isinstance(error, openai.APIStatusError) and error.status_code < 500 and error.status_code not in (408, 409):
        return ConfigurationError(f"The model's provider refused the request: {text}")
    return ProviderUnavailable(f"The model's provider did not answer ({type(error).__name__}): {text}")


def _read(completion: Any) -> Answer:
    """Return what a completion holds. A relay's error in a 200 has no choices; an HTML page arrives as a str."""
    choices = None if isinstance(completion, str) else completion.choices
    if not choices:
        return Answer(
            text=completion if isinstance(completion, str) else None,
            model=None,
            request_id=None,
            prompt_tokens=None,
            completion_tokens=None,
            unusable="The answer had no choices.",
        )
    choice, usage = choices[0], completion.usage
    unusable = None
    if choice.finish_reason == "length":
        unusable = "The answer was truncated."
    elif choice.message.refusal:
        unusable = f"The model refused: {choice.message.refusal[:500]}"
    elif not choice.message.content:
        unusable = "The answer was empty."
    return Answer(
        text=choice.message.content or choice.message.refusal,
        model=completion.model,
        request_id=getattr(completion, "_request_id", None),
        prompt_tokens=usage.prompt_tokens if usage else None,
        completion_tokens=usage.completion_tokens if usage else None,
        unusable=unusable,
    )
