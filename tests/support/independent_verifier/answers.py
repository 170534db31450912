"""The rules of a model's answer: docs/journal.md, "An answer"."""

import json
import re

ENDS = "\ufeff \t\r\n"
END_OF_THOUGHTS = re.compile(r"</(?:think|thinking|thought|reasoning)>", re.IGNORECASE)
FENCE = re.compile(r"```[a-zA-Z]*\s(.*)```", re.DOTALL)
TICKER = re.compile(r"[A-Z]{1,5}(\.[A-Z])?")

PROVIDER_REFUSALS = (
    "The answer was truncated.",
    "The provider's content filter stopped the answer.",
    "The answer held bytes that are no UTF-8.",
    "The answer had no choices.",
    "The provider's answer was not JSON, or not all of it.",
    "The provider answered with a web page in place of JSON.",
)


class BrokenRuleError(ValueError):
    """The answer breaks a rule."""


def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Return a JSON object; raise BrokenRuleError if it has a member twice."""
    made = dict(pairs)
    if len(made) != len(pairs):
        raise BrokenRuleError("an object has two members of one name")
    return made


def inside(answer: str) -> str:
    """Return the JSON of an answer, without the text around it."""
    text = answer.strip(ENDS)
    if not text.startswith(("{", "`")) and (end := END_OF_THOUGHTS.search(text)):
        text = text[end.end() :].strip(ENDS)
    if fence := FENCE.fullmatch(text):
        text = fence[1]
    return text


def as_ticker(text: str) -> str:
    """Return a ticker in the form of the record."""
    return text.strip().upper().replace("-", ".")


def picks_of(answer: str, version: str, benchmark: str | None = None) -> list[dict[str, str]]:
    """Return the three picks of an answer; raise BrokenRuleError if it breaks a rule."""
    if version == "draw-1":
        return drawn_picks(answer, benchmark)
    try:
        value = json.loads(inside(answer), object_pairs_hook=once)
    except ValueError as error:
        raise BrokenRuleError(str(error)) from None
    if not isinstance(value, dict) or set(value) != {"picks"}:
        raise BrokenRuleError("it is no object with the one member picks")
    if not isinstance(value["picks"], list) or len(value["picks"]) != 3:
        raise BrokenRuleError("picks is no array of three")
    picks = [pick_of(one, version) for one in value["picks"]]
    if len({pick["ticker"] for pick in picks}) != 3:
        raise BrokenRuleError("two tickers are the same")
    if any(pick["ticker"] == benchmark for pick in picks):
        raise BrokenRuleError("a ticker is the benchmark")
    return picks


def drawn_picks(answer: str, benchmark: str | None) -> list[dict[str, str]]:
    """Return the three picks of draws; raise BrokenRuleError if they break a rule."""
    try:
        value = json.loads(answer, object_pairs_hook=once)
    except ValueError as error:
        raise BrokenRuleError(str(error)) from None
    texts = ("seed", "universe_sha256")
    fits = isinstance(value, dict) and set(value) == {"draws", *texts}
    if not fits or not all(isinstance(value[name], str) for name in texts):
        raise BrokenRuleError("it is no text of draws")
    if not isinstance(value["draws"], list) or not all(map(is_draw, value["draws"])):
        raise BrokenRuleError("draws is no array of draws")
    picks = [draw for draw in value["draws"] if "skipped" not in draw]
    tickers = {pick["ticker"] for pick in picks}
    if len(picks) != 3 or len(tickers) != 3 or benchmark in tickers:
        raise BrokenRuleError("there are no three different picks")
    return [{**pick, "reasoning": "This pick was drawn at random."} for pick in picks]


def is_draw(draw: object) -> bool:
    """Return whether a value has the form of one draw."""
    if not isinstance(draw, dict) or set(draw) - {"skipped"} != {"ticker", "action"}:
        return False
    skipped = draw.get("skipped", "REFUSED")
    known = skipped in ("REPEATED", "BENCHMARK", "REFUSED") and draw["action"] in ("BUY", "SELL")
    return known and isinstance(draw["ticker"], str)


def pick_of(value: object, version: str) -> dict[str, str]:
    """Return one pick of an answer; raise BrokenRuleError if it breaks a rule."""
    texts = {"ticker", "action", "reasoning"}
    members = texts if version == "1" else texts | {"probability"}
    if not isinstance(value, dict) or set(value) != members:
        raise BrokenRuleError("a pick has other members")
    if not all(isinstance(value[name], str) for name in texts):
        raise BrokenRuleError("a member of a pick is no text")
    ticker = as_ticker(value["ticker"])
    if not value["ticker"].isascii() or not TICKER.fullmatch(ticker):
        raise BrokenRuleError("a ticker has another form")
    if value["action"] not in ("BUY", "SELL"):
        raise BrokenRuleError("an action is neither BUY nor SELL")
    reasoning = value["reasoning"].strip()
    if not 1 <= len(reasoning) <= 4000:
        raise BrokenRuleError("a reasoning is empty or too long")
    if any(is_not_stored(character) for character in reasoning):
        raise BrokenRuleError("a reasoning holds U+0000 or a lone surrogate")
    pick = {"ticker": ticker, "action": value["action"], "reasoning": reasoning}
    if version != "1":
        probability = value["probability"]
        if type(probability) is not int or not 50 <= probability <= 99:
            raise BrokenRuleError("a probability is no whole number from 50 to 99")
        pick["probability"] = str(probability)
    return pick


def is_not_stored(character: str) -> bool:
    """Return whether the record cannot store a character."""
    return character == "\0" or "\ud800" <= character <= "\udfff"


def names(text: str, ticker: str) -> bool:
    """Return whether a text names a ticker as a word of its own."""
    word = rf"(?<![A-Za-z.]){re.escape(ticker)}(?![A-Za-z]|\.[A-Z]\b)"
    return re.search(word, text) is not None


def named_benchmark(prompt: str) -> str | None:
    """Return the benchmark that a question names; None if it names none."""
    match = re.search(r"\bmeasured against ([A-Z]{1,5}(?:\.[A-Z])?) for\b", prompt)
    return match[1] if match else None
