"""
Until when OpenAI serves its models: our table against the installed library's, and how names are
compared.
"""

import re
from datetime import date
from importlib.util import find_spec
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from app.core import settings
from app.providers.llm import ModelClient, ModelOptions
from app.providers.model_ends import (
    ANNOUNCED_ENDS,
    announced_end,
    end_warning,
    log_end_warnings,
)

ENTRY = re.compile(
    r'^- ((?:"[^"]+",?\s+)*"[^"]+"): Announced shutdown date: (\d{4}-\d\d-\d\d)\.', re.MULTILINE
)


def of_the_library() -> tuple[list[str], dict[str, date]]:
    """Return the names that the library knows, and the ends that its docstring announces."""
    spec = find_spec("openai")
    assert spec
    assert spec.origin
    text = (Path(spec.origin).parent / "types/shared/chat_model.py").read_text()
    listed, _, docstring = text.partition("Deprecated values:")
    # A line may be broken at any place.
    joined = re.sub(r"\n +", " ", docstring)
    ends = {
        name: date.fromisoformat(day)
        for names, day in ENTRY.findall(joined)
        for name in re.findall('"(.*?)"', names)
    }
    assert len(ends) == sum(len(re.findall('"', names)) // 2 for names, _ in ENTRY.findall(joined))
    assert joined.count("Announced shutdown date") == len(ENTRY.findall(joined))
    return re.findall(r'^    "(.*)",$', listed, re.MULTILINE), ends


def test_the_table_is_the_installed_library_s():
    """This fails if a newer version of the library announces another end: then copy its dates."""
    assert of_the_library()[1] == ANNOUNCED_ENDS


def test_every_name_that_the_library_knows():
    """Each name has the end that is announced for exactly this name."""
    names, ends = of_the_library()
    assert len(names) > 50
    assert {name: announced_end(name) for name in names} == {name: ends.get(name) for name in names}


def test_the_default_model():
    """The library knows it, and no end of it is announced."""
    model = settings.load({}).openai_model
    assert model in of_the_library()[0]
    assert announced_end(model) is None


@pytest.mark.parametrize(
    ("model", "end"),
    [
        ("gpt-4o-mini", date(2027, 1, 14)),
        ("gpt-4o-mini-2024-07-18", date(2027, 1, 14)),
        ("openai/gpt-4o-mini", date(2027, 1, 14)),
        ("openrouter/openai/gpt-4o", date(2027, 1, 14)),
        ("openai/gpt-4o:online", date(2027, 1, 14)),
        (" GPT-4o ", date(2027, 1, 14)),
        (
            "gpt-4o-2024-05-13",
            date(2026, 10, 23),
        ),  # earlier than the model that it is a snapshot of
        ("gpt-4o-2026-01-01", date(2027, 1, 14)),  # a snapshot that is not listed
        ("gpt-4o-20240806", date(2027, 1, 14)),
        ("ft:gpt-4o-mini-2024-07-18:acme::9aBcDeFg", date(2027, 1, 14)),
        ("o3", date(2026, 12, 11)),
        ("gpt-5.1-2025-11-13", date(2027, 4, 1)),
        ("gpt-5.4-mini", None),
        ("gpt-5.4-mini-2026-03-17", None),
        ("openai/gpt-5.4-mini", None),
        ("gpt-4o-mega", None),
        ("gpt-4o-２０２４-08-06", None),  # digits of another script are no date
        ("llama3.2:3b", None),
        ("my/gpt-4o-tuned", None),
        ("", None),
    ],
)
def test_names(model, end):
    """A name is recognized in every spelling of a relay, and no other name is mistaken for it."""
    assert announced_end(model) == end


@pytest.mark.parametrize(
    ("model", "today", "warning"),
    [
        ("gpt-4o-mini", date(2026, 11, 14), None),
        (
            "gpt-4o-mini",
            date(2026, 11, 15),
            "OpenAI ends gpt-4o-mini on 2027-01-14: set OPENAI_MODEL to another model.",
        ),
        (
            "gpt-4o-mini",
            date(2027, 1, 13),
            "OpenAI ends gpt-4o-mini on 2027-01-14: set OPENAI_MODEL to another model.",
        ),
        (
            "gpt-4o-mini",
            date(2027, 1, 14),
            "OpenAI ended gpt-4o-mini on 2027-01-14: set OPENAI_MODEL to another model.",
        ),
        (
            "o1",
            date(2026, 11, 28),
            "OpenAI ended o1 on 2026-10-23: set OPENAI_MODEL to another model.",
        ),
        (
            "openai/o3",
            date(2026, 11, 28),
            "OpenAI ends openai/o3 on 2026-12-11: set OPENAI_MODEL to another model.",
        ),
        ("gpt-5.1", date(2026, 11, 28), None),
        ("gpt-5.4-mini", date(2029, 1, 1), None),
        ("llama3.2:3b", date(2029, 1, 1), None),
    ],
)
def test_warnings(model, today, warning):
    """The warning begins 60 days before the model's end, and does not stop."""
    assert end_warning(model, today) == warning


def test_the_warnings_at_the_start():
    """One for each series whose model ends, with the setting of the series."""
    clients = {
        series: ModelClient("", ModelOptions(model=model), model_setting=f"model of [{series}]")
        for series, model in (("main", "gpt-5.4-mini"), ("old", "o1"), ("soon", "gpt-5.1"))
    }
    with capture_logs() as lines:
        log_end_warnings(clients, date(2027, 3, 1))
    assert [(line["series"], line["end"], line["advice"]) for line in lines] == [
        (
            "old",
            "2026-10-23",
            "OpenAI ended o1 on 2026-10-23: set model of [old] to another model.",
        ),
        (
            "soon",
            "2027-04-01",
            "OpenAI ends gpt-5.1 on 2027-04-01: set model of [soon] to another model.",
        ),
    ]
