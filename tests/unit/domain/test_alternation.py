"""Declarations that alternate: two processes that differ for long, and nothing else."""

from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta

import pytest
from msgspec.structs import replace

from app.domain.alternation import Declared, Difference, find_alternation
from app.domain.declarations import (
    ControlDeclaration,
    ControlProfile,
    ModelDeclaration,
    Profile,
    RecordSettings,
)

NOW = datetime(2026, 11, 30, 14, tzinfo=UTC)
A = RecordSettings(
    version="0.3.0",
    benchmark="SPY",
    price_source="alphavantage",
    calendar_from=date(2026, 10, 23),
    calendar_to=date(2028, 12, 31),
    days_without_session=(date(2026, 12, 25),),
)
B = replace(A, benchmark="QQQ")
C = replace(A, version="0.3.1")
EXTENDED = {
    "calendar_to": date(2029, 12, 31),
    "days_without_session": (date(2026, 12, 25), date(2029, 1, 1)),
}


def entries(
    settings: Iterable[RecordSettings], apart: timedelta = timedelta(hours=24)
) -> list[Declared]:
    """Return the entries of these settings, the newest one first; it is an hour old."""
    found = []
    for number, one in enumerate(reversed(list(settings))):
        found.append(Declared(NOW - timedelta(hours=1) - number * apart, one))
    return found


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param([], id="no entry"),
        pytest.param([A], id="the first one"),
        pytest.param([A, B], id="a change"),
        pytest.param([A, B, A], id="a rollback"),
        pytest.param([A, B, A, C], id="a rollback and another change"),
        pytest.param([A, B, A, B, C], id="an end with the same settings everywhere"),
        pytest.param([A, replace(A, **EXTENDED)], id="a new year"),
        pytest.param(
            [A, B, replace(B, **EXTENDED), replace(A, **EXTENDED)], id="a new year between"
        ),
    ],
)
def test_ordinary_declarations_do_not_alternate(settings):
    """Changes, rollbacks and the yearly extension of the calendar are no alternation."""
    assert find_alternation(entries(settings), NOW) is None


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param([A, B, A, B], id="four"),
        pytest.param([C, A, B, A, B], id="after another change"),
        pytest.param([A, B, A, B, replace(B, **EXTENDED), replace(A, **EXTENDED)], id="new year"),
    ],
)
def test_two_processes_that_differ(settings):
    """The field, the setting that it comes from, and both values."""
    found = find_alternation(entries(settings), NOW)
    assert found is not None
    (difference,) = found.differences
    assert (difference.field, difference.source) == ("benchmark", "BENCHMARK_SYMBOL")
    assert sorted(difference.values) == ["QQQ", "SPY"]


def test_a_deployment_is_too_short():
    """An old and a new process that work side by side for some minutes are no alternation."""
    assert find_alternation(entries([A, C, A, C], timedelta(minutes=19)), NOW) is None
    assert find_alternation(entries([A, C, A, C], timedelta(minutes=20)), NOW)


def test_an_alternation_that_is_over():
    """A day and a half after the last entry, nothing is reported any more."""
    found = entries([A, B, A, B])
    assert find_alternation(found, NOW + timedelta(hours=35))
    assert find_alternation(found, NOW + timedelta(hours=35, seconds=1)) is None


def test_peace_begins_a_new_alternation():
    """`since` is the time of the first entry after a pause of more than a day and a half."""
    mornings = entries([A, B, A, B])
    earlier = [Declared(entry.at - timedelta(days=4, hours=13), entry.value) for entry in mornings]
    found = find_alternation([*mornings, *earlier], NOW)
    assert found
    assert found.since == mornings[-1].at


def test_closures_are_named_once():
    """MARKET_CLOSED_DAYS changes the calendar, too; the alert names only the setting."""
    closed = replace(
        A,
        closed_days=(date(2026, 12, 1),),
        days_without_session=(date(2026, 12, 1), *A.days_without_session),
    )
    found = find_alternation(entries([A, closed, A, closed]), NOW)
    assert found
    assert found.differences == [
        Difference("closed_days", "MARKET_CLOSED_DAYS", ("2026-12-01", "none"))
    ]


def series(
    model: str, temperature: str | None, name: str = "main", prompt_version: str = "1"
) -> ModelDeclaration:
    """Return the declaration of a series that asks a model."""
    profile = Profile(
        base_url="",
        model=model,
        response_format="json_schema",
        temperature=temperature,
        timeout_seconds="180",
        prompt_version=prompt_version,
        system_prompt_sha256="a" * 64,
        user_prompt_sha256="b" * 64,
        schema="{}",
    )
    return ModelDeclaration(
        name=name,
        label=model,
        kind="model",
        holds_from=date(2026, 10, 26),
        profile=profile,
        profile_sha256=profile.sha256,
    )


def test_two_models():
    """The declarations of a series alternate: each Monday another process asks."""
    one, other = series("gpt-5.4-mini", "0.7"), series("gpt-5.4", None)
    found = find_alternation(entries([one, other, one, other], timedelta(days=7)), NOW)
    assert found
    assert found.differences == [
        Difference("model", "OPENAI_MODEL", ("gpt-5.4", "gpt-5.4-mini")),
        Difference("temperature", "OPENAI_TEMPERATURE", ("not set", "0.7")),
    ]
    assert found.since == NOW - timedelta(hours=1)


@pytest.mark.parametrize(
    ("name", "has_file"),
    [pytest.param("claude", False, id="another name"), pytest.param("main", True, id="a file")],
)
def test_a_series_of_a_file(name, has_file):
    """The differences name the series, and the options of its table."""
    one = series("gpt-5.4-mini", "0.7", name)
    other = series("gpt-5.4", None, name, prompt_version="2")
    declared = entries([one, other, one, other], timedelta(days=1))
    found = find_alternation(declared, NOW, has_file=has_file)
    assert found
    assert found.series == name
    assert [(difference.field, difference.source) for difference in found.differences] == [
        ("model", f"model of [{name}] in SERIES_FILE"),
        ("temperature", f"temperature of [{name}] in SERIES_FILE"),
        ("prompt_version", f"the version of the prompt (series {name})"),
    ]


def test_a_series_that_only_one_process_has():
    """One process retires the series, the other one declares it again."""
    one = series("gpt-5.4-mini", None, "claude")
    found = find_alternation(entries([one, replace(one, retired=True)] * 2), NOW)
    assert found
    assert [difference.source for difference in found.differences] == [
        "whether SERIES_FILE has [claude]"
    ]


def test_a_model_and_a_control():
    """Only the kind is named: the two have no other field in common."""
    profile = ControlProfile(draw_version="1", universe=("KO", "MSFT"), universe_source="a test")
    control = ControlDeclaration(
        name="x",
        label="x",
        holds_from=date(2026, 10, 26),
        profile=profile,
        profile_sha256=profile.sha256,
    )
    found = find_alternation(entries([control, series("gpt-5.4", None, "x")] * 2), NOW)
    assert found
    assert found.differences == [
        Difference("kind", "kind of [x] in SERIES_FILE", ("model", "random"))
    ]
