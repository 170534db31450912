"""
Phrases that are false of a SELL, in everything that the service says of picks.

Of a SELL that is right the share is behind the benchmark. So no text says of a pick, or of picks,
that they are "ahead of SPY", "beat the benchmark" or "lag the index".
tests/integration/web/test_pages_sell.py reads what is made of them.
"""

import re

import pytest
from tracked import HOUSE, tracked

# What speaks of picks: pages, drawings, feeds, commands, alerts, schema, documents; not the
# simulated model's words.
SPEAKS = re.compile(
    r"(app/(web|commands|ops|domain|core|store|providers)|jobs|graphql|docs)/.*\.(py|html|js|md|graphql|yml)"
    r"|README\.md"
)
BENCHMARK = (
    r"(SPY|(the|its|their) (benchmark|index|market)|benchmark\b|S&P|\{[^}]*benchmark[^}]*\})"
)
NEVER = re.compile(
    rf"\b(ahead of|(fall|fell|falls|fallen|is|are) behind|beat|beats|beating|beaten|"
    rf"outperform\w*|underperform\w*|lag|lags|lagged|trail|trails|trailed|outrun|outruns)\s+(of\s+)?{BENCHMARK}",
    re.IGNORECASE,
)
# "Better" and "worse" are right where the sentence is about the share, and says so. Each such
# sentence is named here.
COMPARES = re.compile(rf"\b(better|worse|more|less) than {BENCHMARK}", re.IGNORECASE)
# Between two parts of a text that is written as adjacent literals.
JOINED = re.compile(r'" [fr]?"')
ABOUT_SHARES = (
    "It is expected to do better than the benchmark.",  # the enum's value BUY
    "It is expected to do worse than the benchmark.",  # SELL
    "you expect it to do better than the index",  # the prompt, of a BUY
    "does better than {{ batch.benchmarkSymbol }}, a SELL when it does worse",
    "a SELL is right when the share did worse than the benchmark",
    "for a SELL it is above zero when the share did worse than SPY",
    "of these shares did better than SPY",
    "shares that move more than SPY",
    "shares that move more than the benchmark",
    "shares that merely move more than the benchmark",
    "A BUY is right when the share did better than the benchmark, a SELL when it did worse",
)


def said() -> dict[str, str]:
    """Every text that speaks of picks, in one line each, by its path."""
    paths = [path for path in tracked() if SPEAKS.fullmatch(str(path.relative_to(HOUSE)))]
    return {
        str(path.relative_to(HOUSE)): JOINED.sub("", " ".join(path.read_text("utf-8").split()))
        for path in paths
    }


def test_no_text_puts_a_pick_ahead_of_the_benchmark():
    texts = said()
    assert len(texts) > 100
    found = {path: match[0] for path, text in texts.items() if (match := NEVER.search(text))}
    assert found == {}


def test_what_compares_with_the_benchmark_is_about_a_share():
    """
    A new sentence that compares with the benchmark is named above, once it was read with a SELL in
    mind.
    """
    found = []
    for path, text in said().items():
        for match in COMPARES.finditer(text):
            around = text[max(0, match.start() - 80) : match.end() + 80]
            if not any(sentence in around for sentence in ABOUT_SHARES):
                found.append(f"{path}: {around}")
    assert found == []


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
