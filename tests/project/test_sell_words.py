"""
Phrases that are false of a SELL, in every text of the service about picks.

The share of a right SELL is behind the benchmark. So no text says that a pick, or picks, are "ahead
of SPY", "beat the benchmark" or "lag the index". tests/integration/web/test_pages_sell.py reads the
rendered texts.
"""

import re

import pytest
from tracked import HOUSE, tracked

# The files with texts about picks: pages, drawings, feeds, commands, alerts, schema, documents; not
# the texts of the simulated model.
SPEAKS = re.compile(
    r"(app/(web|commands|ops|domain|core|store|providers)|jobs|graphql|docs)/"
    r".*\.(py|html|js|md|graphql|yml)"
    r"|README\.md"
)
BENCHMARK = (
    r"(SPY|(the|its|their) (benchmark|index|market)|benchmark\b|S&P|\{[^}]*benchmark[^}]*\})"
)
NEVER = re.compile(
    rf"\b(ahead of|(fall|fell|falls|fallen|is|are) behind|beat|beats|beating|beaten|"
    r"outperform\w*|underperform\w*|lag|lags|lagged|trail|trails|trailed|outrun|outruns)"
    rf"\s+(of\s+)?{BENCHMARK}",
    re.IGNORECASE,
)
# "Better" and "worse" are right in a sentence about the share, if it says so. `ABOUT_SHARES` lists
# each such sentence.
COMPARES = re.compile(rf"\b(better|worse|more|less) than {BENCHMARK}", re.IGNORECASE)
# Between two parts of a text that is written as adjacent literals.
JOINED = re.compile(r'" [fr]?"')
ABOUT_SHARES = (
    "It is expected to do better than the benchmark.",  # the enum's value BUY
    "It is expected to do worse than the benchmark.",  # SELL
    "you expect it to do better than the index",  # the prompt, of a BUY
    "that a BUY does better than the index over the two weeks, or a SELL worse",
    "does better than {{ batch.benchmarkSymbol }}, a SELL when it does worse",
    "a SELL is right when the share did worse than the benchmark",
    "for a SELL it is above zero when the share did worse than SPY",
    "of these shares did better than SPY",
    "Some shares move more than the benchmark.",
    "shares that move more than SPY",
    "shares that move more than the benchmark",
    "shares that merely move more than the benchmark",
    "same amount of money in each share, may rise more than SPY for",
    "The line of a SELL rises when its share does worse than the benchmark",
    "A BUY is right when the share did better than the benchmark, a SELL when it did worse",
)


def texts_about_picks() -> dict[str, str]:
    """Return every text about picks, each in one line, by its path."""
    paths = [path for path in tracked() if SPEAKS.fullmatch(str(path.relative_to(HOUSE)))]
    return {
        str(path.relative_to(HOUSE)): JOINED.sub("", " ".join(path.read_text("utf-8").split()))
        for path in paths
    }


def test_no_text_puts_a_pick_ahead_of_the_benchmark():
    texts = texts_about_picks()
    assert len(texts) > 100
    wrong = {path: match[0] for path, text in texts.items() if (match := NEVER.search(text))}
    assert wrong == {}


def test_what_compares_with_the_benchmark_is_about_a_share():
    """
    A new sentence that compares with the benchmark must be added to the list above, after it was
    read with a SELL in mind.
    """
    wrong = []
    for path, text in texts_about_picks().items():
        for match in COMPARES.finditer(text):
            around = text[max(0, match.start() - 80) : match.end() + 80]
            if not any(sentence in around for sentence in ABOUT_SHARES):
                wrong.append(f"{path}: {around}")
    assert wrong == []


@pytest.mark.parametrize(
    "sentence",
    [
        "3 of 3 ahead of SPY",
        "Percentage points ahead of {batch['benchmarkSymbol']}",
        "How far each pick is ahead of the benchmark",
        "MSFT fell behind SPY",
        "in a market where most picks beat SPY",
        "BUY that beats the benchmark",
        "It outperforms the index",
        "the pick lags SPY",
    ],
)
def test_the_phrases_are_found(sentence):
    assert NEVER.search(sentence)
