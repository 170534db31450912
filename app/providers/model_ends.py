"""
The ends of models: OpenAI's announced shutdown dates, and the warnings about the end of any model.

The installed library (openai 3.54.0) lists the dates in the docstring of its type ChatModel. The
source of these dates is https://developers.openai.com/api/docs/deprecations. This module has a copy
of the dates and does not read the docstring: a docstring is not an interface, and importing the
library takes a second and a half. A test compares the copy with the docstring, so that an upgrade
of the library shows which dates have changed.
"""

import re
from collections.abc import Mapping
from datetime import date, timedelta

import structlog
from msgspec import Struct

from app.providers.llm import ModelClient

# A warning starts this long before a model ends.
WARNING_PERIOD = timedelta(days=60)
# When the end is this near, a person must act.
URGENT_PERIOD = timedelta(weeks=2)

_ANNOUNCED = {
    "2024-09-13": "gpt-3.5-turbo-16k gpt-3.5-turbo-0301 gpt-3.5-turbo-0613 gpt-3.5-turbo-16k-0613",
    "2024-12-06": "gpt-4-vision-preview",
    "2025-06-06": "gpt-4-32k gpt-4-32k-0314 gpt-4-32k-0613",
    "2025-07-28": "o1-preview o1-preview-2024-09-12",
    "2025-10-10": "gpt-4o-audio-preview-2024-10-01",
    "2025-10-27": "o1-mini o1-mini-2024-09-12",
    "2026-02-12": "codex-mini-latest",
    "2026-02-17": "chatgpt-4o-latest",
    "2026-03-26": "gpt-4-0125-preview gpt-4-turbo-preview gpt-4-0314",
    "2026-05-07": (
        "gpt-4o-audio-preview gpt-4o-audio-preview-2024-12-17 gpt-4o-audio-preview-2025-06-03 "
        "gpt-4o-mini-audio-preview gpt-4o-mini-audio-preview-2024-12-17"
    ),
    "2026-07-23": (
        "gpt-5.1-codex gpt-5.1-chat-latest gpt-5-chat-latest gpt-4o-search-preview "
        "gpt-4o-mini-search-preview "
        "gpt-4o-search-preview-2025-03-11 gpt-4o-mini-search-preview-2025-03-11"
    ),
    "2026-08-10": "gpt-5.3-chat-latest gpt-5.2-chat-latest",
    "2026-09-28": "gpt-3.5-turbo-1106",
    "2026-10-23": (
        "gpt-4.1-nano gpt-4.1-nano-2025-04-14 o4-mini o4-mini-2025-04-16 o3-mini "
        "o3-mini-2025-01-31 o1 o1-2024-12-17 "
        "gpt-4o-2024-05-13 gpt-4-turbo gpt-4-turbo-2024-04-09 gpt-4-1106-preview gpt-4 gpt-4-0613 "
        "gpt-3.5-turbo "
        "gpt-3.5-turbo-0125"
    ),
    "2026-12-11": (
        "gpt-5 gpt-5-mini gpt-5-nano gpt-5-2025-08-07 gpt-5-mini-2025-08-07 gpt-5-nano-2025-08-07 "
        "o3 o3-2025-04-16"
    ),
    "2027-01-14": (
        "gpt-4.1 gpt-4.1-mini gpt-4.1-2025-04-14 gpt-4.1-mini-2025-04-14 gpt-4o gpt-4o-2024-11-20 "
        "gpt-4o-2024-08-06 "
        "gpt-4o-mini gpt-4o-mini-2024-07-18"
    ),
    "2027-01-20": "gpt-audio-mini gpt-audio-mini-2025-12-15",
    "2027-04-01": "gpt-5.4-nano gpt-5.4-nano-2026-03-17 gpt-5.1 gpt-5.1-2025-11-13",
}


def _by_model() -> dict[str, date]:
    ends: dict[str, date] = {}
    for day, names in _ANNOUNCED.items():
        ends |= dict.fromkeys(names.split(), date.fromisoformat(day))
    return ends


ANNOUNCED_ENDS = _by_model()

# The name of a snapshot ends with its date, in OpenAI's form or in the form of other platforms.
_SNAPSHOT_DATE = re.compile(r"-([0-9]{4}-[0-9]{2}-[0-9]{2}|[0-9]{8})$")

log = structlog.get_logger()


def announced_end(model: str) -> date | None:
    """
    Return the day on which OpenAI shuts down a model, or None if no day is announced.

    A relay's prefix ("openai/gpt-4o") and suffix ("gpt-4o:online") are ignored. Capital letters
    count as small ones. A fine-tuned model ("ft:gpt-4o:acme::id") has the date of its base model. A
    snapshot that the table does not list has the date of its model. For example,
    "gpt-5.1-2030-01-31" has the date of "gpt-5.1".
    """
    name = model.strip().lower().rpartition("/")[2].removeprefix("ft:").partition(":")[0]
    return ANNOUNCED_ENDS.get(name) or ANNOUNCED_ENDS.get(_SNAPSHOT_DATE.sub("", name))


class ModelEnd(Struct, frozen=True, kw_only=True):
    """
    What is known about the end of a series' model.

    - `series`, `model`: the name of the series, and of the model that it asks
    - `setting`: what an operator changes to ask another model, for example OPENAI_MODEL
    - `ends_on`: the day on which the model is switched off, or None if no day is known
    - `is_gone`: whether the model's server no longer knows the model
    """

    series: str
    model: str
    setting: str = "OPENAI_MODEL"
    ends_on: date | None = None
    is_gone: bool = False

    def needs_warning(self, today: date) -> bool:
        """Return whether the end is at most WARNING_PERIOD away, or over."""
        if self.is_gone:
            return True
        return self.ends_on is not None and self.ends_on - today <= WARNING_PERIOD

    def is_urgent(self, today: date) -> bool:
        """Return whether the end is at most URGENT_PERIOD away, or over."""
        if self.is_gone:
            return True
        return self.ends_on is not None and self.ends_on - today <= URGENT_PERIOD

    def describe(self, today: date) -> str:
        """Return a clause that says when the model ends, for a model that needs a warning."""
        if self.is_gone:
            return f"The model's provider no longer knows {self.model}"
        assert self.ends_on
        provider = "The model's provider"
        if announced_end(self.model) == self.ends_on:
            provider = "OpenAI"
        verb = "ends" if today < self.ends_on else "ended"
        return f"{provider} {verb} {self.model} on {self.ends_on}"

    def warning(self, today: date) -> str | None:
        """
        Return a sentence that warns of the end, or None if no warning is needed.

        The warning begins WARNING_PERIOD before the end of a model, and continues after its end.
        """
        if not self.needs_warning(today):
            return None
        return f"{self.describe(today)}: set {self.setting} to another model."


def end_warning(model: str, today: date, setting: str = "OPENAI_MODEL") -> str | None:
    """
    Return a sentence that warns of a model's announced end, or None if no warning is needed.

    `setting` is what an operator changes to ask another model.
    """
    end = ModelEnd(series="", model=model, setting=setting, ends_on=announced_end(model))
    return end.warning(today)


def log_end_warnings(clients: Mapping[str, ModelClient], today: date) -> None:
    """
    Log a warning for each series whose model's announced end is near, or over.

    `clients` are the clients of the models by the names of their series.
    """
    for series, client in clients.items():
        advice = end_warning(client.model, today, client.model_setting)
        if advice:
            log.warning(
                "OpenAI retires the model",
                series=series,
                model=client.model,
                end=str(announced_end(client.model)),
                advice=advice,
            )
