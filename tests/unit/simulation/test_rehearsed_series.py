"""The series of a rehearsal: the kinds of servers, the file that is written, and the phases."""

from datetime import date

import pytest

from app.core import series_file, settings
from app.domain.calendar import due_at, new_york_date
from app.simulation import rehearsed_series
from app.simulation.model_servers import MODEL_SERVERS

SIMULATORS = "http://127.0.0.1:8090"


@pytest.mark.parametrize(
    ("base_url", "kind"),
    [
        ("", "openai"),
        ("https://api.openai.com/v1", "openai"),
        ("https://api.anthropic.com/v1/", "anthropic"),
        ("https://generativelanguage.googleapis.com/v1beta/openai/", "gemini"),
        ("https://api.deepseek.com/v1", "deepseek"),
        ("https://api.mistral.ai/v1", "mistral"),
        ("https://api.x.ai/v1", "xai"),
        ("https://openrouter.ai/api/v1", "openrouter"),
        ("http://localhost:11434/v1", "ollama"),
        ("http://[::1]:11434/v1", "ollama"),
        ("http://gpu-box:8000/v1", "vllm"),
        ("http://192.168.1.7:8000/v1", "vllm"),
        ("http://localhost:9000/v1", "openai"),
        ("https://models.example.org:8000/v1", "openai"),
        ("https://notanthropic.com/v1", "openai"),
    ],
)
def test_the_kind_of_a_server(base_url, kind):
    assert rehearsed_series.server_kind(base_url) == kind
    assert kind in MODEL_SERVERS


def test_the_file_says_the_same(tmp_path):
    """Only the addresses, the keys and the names of their variables differ."""
    path = tmp_path / "own.toml"
    path.write_text(
        """
        [main]
        label = 'A "quoted" \\ label'
        model = "gpt-5.4-mini"

        [mistral]
        base_url = "https://api.mistral.ai/v1"
        key_from = "MISTRAL_API_KEY"
        model = "magistral-medium-latest"
        response_format = "json_object"
        reasoning_effort = "low"
        temperature = 0.7
        max_tokens = 20000
        token_limit_as = "max_tokens"
        timeout_seconds = 90
        tools = true
        extra_body = { plugins = [{ id = "web", on = true }], n-best = 1.5, "a b" = "ü" }

        [dice]
        kind = "random"
        label = "Dice"
        """
    )
    loaded = settings.load({"SERIES_FILE": str(path), "OPENAI_API_KEY": "sk-simulated"})
    (phase,) = rehearsed_series.of_file(loaded)
    assert phase.until is None
    written = tmp_path / "series-1.toml"
    rehearsed_series.write_file(written, phase.series, SIMULATORS)
    again = settings.load({"SERIES_FILE": str(written), "OPENAI_API_KEY": "sk-simulated"})
    servers = ["openai", "mistral"]
    for own, simulated in zip(series_file.load(loaded), series_file.load(again), strict=True):
        left_out = ("base_url", "key", "key_from")
        for name in own.__struct_fields__:
            if name not in left_out:
                assert getattr(simulated, name) == getattr(own, name)
        if own.kind == "model":
            assert simulated.base_url == f"{SIMULATORS}/servers/{servers.pop(0)}/v1"
            assert simulated.key == "sk-simulated"


@pytest.mark.parametrize(
    "model",
    ["deepseek-r1-distill-qwen-32b-instruct-20250101", "accounts/fireworks/models/" + "x" * 150],
)
def test_a_model_whose_name_is_no_label(tmp_path, model):
    """A series without a label has the name of its model, which may be longer than a label."""
    path, written = tmp_path / "series.toml", tmp_path / "series-1.toml"
    path.write_text(f'[main]\nmodel = "{model}"\n')
    loaded = settings.load({"SERIES_FILE": str(path)})
    (phase,) = rehearsed_series.of_file(loaded)
    rehearsed_series.write_file(written, phase.series, SIMULATORS)
    (again,) = series_file.load(settings.load({"SERIES_FILE": str(written)}))
    assert again.label == again.model == model


@pytest.mark.parametrize(
    ("weeks", "phases"),
    [
        (25, [(["main", "second", "dice"], None)]),
        (
            26,
            [
                (["main", "second", "dice"], date(2026, 7, 26)),
                (["main", "dice"], date(2026, 8, 2)),
                (["main", "third", "dice"], None),
            ],
        ),
    ],
)
def test_the_phases_of_a_rehearsal(weeks, phases):
    """A long rehearsal changes its series on the Sunday before a Monday."""
    found = rehearsed_series.several(settings.load({}), due_at(date(2026, 5, 4)), weeks)
    assert [
        (
            [one.settings.name for one in phase.series],
            phase.until and new_york_date(phase.until),
        )
        for phase in found
    ] == phases
