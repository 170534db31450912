"""The page on several series agrees with the code: its file, its query, its part of fly.toml."""

import json
import re
import tomllib

import pytest
from api_records import engine_on, plant
from document_text import HOUSE
from graphql import parse, validate

from api.schema import schema
from app.core import series_file, settings
from app.domain import control
from app.domain.model import CHECKPOINT_DAYS, PICKS_PER_BATCH

PAGE = (HOUSE / "docs" / "operate" / "series.md").read_text()
TOML = re.findall(r"^```toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
((QUERY),) = re.findall(r"^```graphql\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_the_file(tmp_path):
    """It can be read as it stands, and has a control."""
    path = tmp_path / "series.toml"
    path.write_text(TOML[0])
    variables = {"SERIES_FILE": str(path)}
    loaded = series_file.load(settings.load(variables), variables)
    assert [(one.name, one.kind) for one in loaded] == [
        ("main", "model"),
        ("claude", "model"),
        ("dice", "random"),
    ]


def test_the_part_of_fly_toml():
    """The path in the machine is that of the setting, and the rest of fly.toml can stay."""
    added = tomllib.loads(TOML[1])
    fly = tomllib.loads((HOUSE / "fly.toml").read_text())
    assert set(added) == {"env", "files"}
    (file,) = added["files"]
    # The members that flyctl reads.
    assert set(file) == {"guest_path", "local_path"}
    assert added["env"] == {"SERIES_FILE": file["guest_path"]}
    assert not set(added["env"]) & set(fly["env"])
    assert settings.load({**fly["env"], **added["env"]}).series_file == file["guest_path"]
    assert f"SERIES_FILE={file['guest_path']}" in PAGE.split("## In a container")[1]


async def test_the_query_for_tokens(database, pool):
    """It is valid, and has the tokens of the questions of each series."""
    plant(database)
    assert validate(schema, parse(QUERY)) == []
    for series, tokens in (("main", 812), ("second", None)):
        answer = await engine_on(pool).execute(QUERY, {"series": series})
        document = json.loads(answer.body)
        assert "errors" not in document
        nodes = [edge["node"] for edge in document["data"]["batches"]["edges"]]
        assert nodes
        counted = [one["promptTokens"] for node in nodes for one in node["generations"]]
        assert (tokens in counted) is (tokens is not None)


@pytest.mark.parametrize(
    "sentence",
    [
        f"the control draws from it {control.UNIVERSE_NOTICE.days} days after that Monday",
        f"{PICKS_PER_BATCH} closes for the picks of a new batch on Monday",
        f"two models and a control: {PICKS_PER_BATCH} × {PICKS_PER_BATCH * CHECKPOINT_DAYS // 7} "
        f"+ 1 = {PICKS_PER_BATCH * PICKS_PER_BATCH * CHECKPOINT_DAYS // 7 + 1} closes",
        f"The free key of {settings.load({}).alpha_vantage_per_day} requests a day",
    ],
)
def test_the_numbers(sentence):
    """They are those of the code."""
    assert sentence in " ".join(PAGE.split())
