"""The committed list of tickers from which a control draws, and the tool that writes it."""

import json
import re
import tomllib
from datetime import date
from pathlib import Path

import pytest
from universe import refresh

from app.core import universe
from app.domain import control
from app.domain.model import TICKER_PATTERN

HOUSE = Path(__file__).parents[3]
CONTENT = universe.read_file()
TODAY = date(2026, 11, 30)


def test_every_ticker_has_the_records_form():
    assert [one for one in CONTENT.tickers if not re.fullmatch(TICKER_PATTERN, one)] == []
    assert {"BRK.B", "BF.B", "KO"} <= set(CONTENT.tickers)


def test_the_list_is_sorted_without_repetitions():
    assert list(CONTENT.tickers) == sorted(set(CONTENT.tickers))


def test_the_number_and_the_hash():
    assert len(CONTENT.tickers) == CONTENT.number
    assert control.universe_sha256(CONTENT.tickers) == CONTENT.sha256
    # A change of the list is a decision: it changes every control's profile.
    assert CONTENT.number == 503


def test_the_source():
    """The text names the index, the package, its version and the day."""
    loaded = universe.load()
    assert loaded.tickers == CONTENT.tickers
    assert loaded.source == (
        f"S&P 500 of pytickersymbols {CONTENT.version}, read on {CONTENT.read_on}"
    )
    assert date.fromisoformat(CONTENT.read_on) >= TODAY


def test_the_service_does_not_need_the_package():
    """It is pinned for the tool alone."""
    pinned = (HOUSE / "dev" / "universe" / "requirements.lock").read_text()
    assert f"\n{CONTENT.package}==" in pinned
    project = tomllib.loads((HOUSE / "pyproject.toml").read_text())["project"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    assert not [one for one in needed if one.startswith(CONTENT.package)]
    for lock in ("requirements.lock", "requirements-dev.lock"):
        assert CONTENT.package not in (HOUSE / lock).read_text()


def symbols(count: int = 500) -> list[str]:
    """Return so many symbols of the usual form."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    return [f"{letters[i // 26]}{letters[i % 26]}" for i in range(count)]


def test_yahoos_form_becomes_ours():
    assert refresh.check_tickers([*symbols(), "ZZ-B"])[-1] == "ZZ.B"


@pytest.mark.parametrize(
    ("odd", "why"),
    [
        ([*symbols(), "6758.T"], "have not the form of a ticker: 6758.T"),
        ([*symbols(), "AB"], "stand there twice: AB"),
        (symbols(400), "The list has 400 tickers"),
    ],
    ids=["form", "repetition", "number"],
)
def test_a_wrong_list_is_refused(odd, why):
    with pytest.raises(refresh.RefreshError, match=why):
        refresh.check_tickers(odd)


def test_the_file_changes_only_with_its_tickers(tmp_path):
    """The same tickers of a newer version leave the file, and with it the profiles, as they are."""
    file = tmp_path / "universe.json"
    first = refresh.SourceList("1.0", symbols())
    assert "the first list" in refresh.refresh(first, TODAY, max_changes=0, file=file)
    written = file.read_text()
    assert json.loads(written)["sha256"] == control.universe_sha256(symbols())
    newer = refresh.SourceList("1.1", symbols())
    assert "not changed" in refresh.refresh(newer, TODAY, max_changes=0, file=file)
    assert file.read_text() == written

    changed = refresh.SourceList("1.2", sorted([*symbols()[1:], "ZZ.B"]))
    with pytest.raises(refresh.RefreshError, match=r"1 tickers came and 1 went.*changes 2"):
        refresh.refresh(changed, TODAY, max_changes=1, file=file)
    assert file.read_text() == written
    assert "new: ZZ.B; gone: AA" in refresh.refresh(changed, TODAY, max_changes=2, file=file)
    assert json.loads(file.read_text())["version"] == "1.2"


def test_without_the_package_one_line_says_so(tmp_path):
    with pytest.raises(refresh.RefreshError, match="cannot be run"):
        refresh.read_package(tmp_path / "python")
