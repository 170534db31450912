"""
Asks a model's server about the model: whether it knows it, and when it is switched off.

`GET /models/NAME` is a part of OpenAI's API. Compatible servers have it, or only the list of all
models, or neither. So a 404 alone says nothing: a server may not have that address. A model counts
as gone only if the server's complete list does not have it either. Whatever cannot be read is no
news, because a false alarm would teach operators to ignore the true one.
"""

import re
from collections.abc import Mapping
from contextlib import aclosing
from datetime import UTC, date, datetime
from typing import Any
from urllib.parse import quote

import httpx
from msgspec import Struct

from app.domain import untrusted_json
from app.errors import AlphaMondayError, ProviderUnavailable
from app.providers.bodies import HEADERS, bounded_parts
from app.providers.http_requests import guarded_request, make_client

# For both requests together.
TIMEOUT_SECONDS = 10.0

# Some lists have hundreds of models, with a description of each. A longer list is not read.
MAX_BODY_BYTES = 2_000_000

_OPENAI_ADDRESS = "https://api.openai.com/v1"
_SENDER = "The model's provider"
# The days that a shutdown date may have. Any other value is a mistake of the server.
_FIRST_DAY, _LAST_DAY = date(2020, 1, 1), date(2099, 12, 31)
# Members of a list that has further pages.
_MORE_PAGES = ("has_more", "next_page", "nextPageToken", "next_page_token")


class ModelLookup(Struct, frozen=True, kw_only=True):
    """
    What a server says about a model.

    `ends_on` is the day on which the model is switched off, or None if the server names none.
    `is_gone` is True if the server does not know the model.
    """

    ends_on: date | None = None
    is_gone: bool = False


async def look_up(model: str, *, key: str, base_url: str) -> ModelLookup | None:
    """
    Return what the server at `base_url` says about a model, or None if it says nothing about it.

    An empty `base_url` is OpenAI's own. No error is raised.
    """
    address = (base_url or _OPENAI_ADDRESS).rstrip("/")
    headers = {**HEADERS, "Authorization": f"Bearer {key}"}
    try:
        async with (
            guarded_request(_SENDER, "base_url", TIMEOUT_SECONDS),
            make_client(TIMEOUT_SECONDS, headers) as http,
        ):
            status, found = await _get(http, f"{address}/models/{quote(model, safe='')}")
            if status == 200:
                return parse_model(found)
            if status == 404:
                status, found = await _get(http, f"{address}/models")
                if status == 200:
                    return find_in_list(found, model)
    except AlphaMondayError:
        return None
    return None


async def _get(http: httpx.AsyncClient, address: str) -> tuple[int, Any]:
    """Return the status of a response, and the JSON value of its body; None for any other body."""
    async with http.stream("GET", address) as response:
        if response.status_code != 200:
            return response.status_code, None
        parts = bounded_parts(
            response.aiter_raw(),
            headers=response.headers,
            max_bytes=MAX_BODY_BYTES,
            sender=_SENDER,
        )
        async with aclosing(parts):
            body = b"".join([part async for part in parts])
    try:
        return 200, untrusted_json.decode(body)
    except (ValueError, RecursionError):
        raise ProviderUnavailable("The answer about the model was not JSON.") from None


def parse_model(found: Any) -> ModelLookup | None:
    """Return what an answer about one model says, or None if it is no such answer."""
    if not isinstance(found, dict) or not isinstance(found.get("id"), str):
        return None
    return ModelLookup(ends_on=parse_day(found.get("shutdown_date")))


def parse_day(value: Any) -> date | None:
    """
    Return the day of a shutdown date, or None if it cannot be read.

    It is a text that begins with YYYY-MM-DD, or a number of seconds since 1970.
    """
    try:
        if isinstance(value, str):
            found = re.match(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?![0-9])", value.strip())
            day = date.fromisoformat(found[0]) if found else None
        elif isinstance(value, int | float) and not isinstance(value, bool):
            day = datetime.fromtimestamp(value, UTC).date()
        else:
            return None
    except (ValueError, OverflowError, OSError):
        return None
    if day is None or not _FIRST_DAY <= day <= _LAST_DAY:
        return None
    return day


def find_in_list(found: Any, model: str) -> ModelLookup | None:
    """
    Return what a list of all models says about a model, or None if it says nothing.

    The list says nothing if it is empty, cannot be read, or has further pages.
    """
    if not isinstance(found, Mapping) or any(found.get(name) for name in _MORE_PAGES):
        return None
    models = found.get("data")
    if not isinstance(models, list) or not models:
        return None
    similar = False
    for one in models:
        if not isinstance(one, dict) or not isinstance(one.get("id"), str):
            return None
        if _name(one["id"]) == _name(model):
            return parse_model(one)
        similar = similar or bool(_spellings(one["id"]) & _spellings(model))
    if similar:
        return None
    return ModelLookup(is_gone=True)


def _name(model: str) -> str:
    """Return a name for a comparison. Gemini writes `models/` before a name."""
    return model.strip().lower().removeprefix("models/")


def _spellings(model: str) -> set[str]:
    """
    Return the names under which a list may have a model.

    Some gateways take a name with a prefix (openai/gpt-4o) or a suffix (gpt-4o:online) that is not
    in their list.
    """
    name = _name(model)
    without_prefix = name.rpartition("/")[2]
    return {one.partition(":")[0] for one in (name, without_prefix)}
