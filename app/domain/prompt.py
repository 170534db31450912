"""
What the model is asked, and which answers can become ideas (docs/record.md#what-happens).

An answer is refused with a sentence that the model is told when it is asked again.
"""

import re
from collections.abc import Sequence
from datetime import date
from hashlib import sha256

import msgspec
from msgspec import Struct

from app.domain import untrusted_json
from app.domain.model import CHECKPOINT_DAYS, PICKS_PER_BATCH, TICKER_PATTERN, Action, Idea
from app.domain.text import beginning, storable, without_controls
from app.errors import UnusableAnswer

PROMPT_VERSION = "1"
SYSTEM_PROMPT = (
    "You are a disciplined equity analyst. Every Monday, before the New York Stock Exchange opens, you choose exactly "
    f"{PICKS_PER_BATCH} different stocks of the S&P 500. Each is a BUY (you expect it to do better than the index "
    "over the next two weeks) or a SELL (you expect it to do worse), with a reasoning of two to four sentences. You "
    "answer with JSON of the given schema and nothing else. Your picks are recorded in public and measured for "
    f"{CHECKPOINT_DAYS} days."
)

# How a question begins to tell why earlier answers were refused.
EARLIER = "Earlier answers could not be used:"

TICKER = re.compile(TICKER_PATTERN)

# How a question names the benchmark: see `user_prompt`.
_BENCHMARK = re.compile(rf"\bmeasured against ({TICKER.pattern}) for\b")

# Why an accepted answer is refused when the setting was changed after it was asked for.
BENCHMARK_CHANGED = "The benchmark was changed."

# What servers leave around the JSON although it was asked for alone: see `read`.
_FENCE = re.compile(r"```[a-z]*\s(.*)```", re.DOTALL | re.IGNORECASE)
_THOUGHT = re.compile(r".*?</(?:think|thinking|thought|reasoning)>", re.DOTALL | re.IGNORECASE)
LONGEST_REASONING = 4000

# In bytes of UTF-8: what is taken of an answer, and what is stored of one. Three reasonings of the longest kind are at
# most 48 KB; the rest is room for what a model thinks before its JSON. Rows and entries stay for ever.
LONGEST_ANSWER = 65_536


class _Answer(Struct, frozen=True, forbid_unknown_fields=True):
    """The schema of an answer: a root object, as strict schemas demand; the count is checked by us."""

    picks: list[Idea]


def user_prompt(run_date: date, benchmark: str, refusals: Sequence[str] = ()) -> str:
    """Return the question for `run_date`, with the reasons for which earlier answers were refused."""
    question = (
        f"Today is Monday, {run_date:%d %B %Y}. Choose {PICKS_PER_BATCH} different S&P 500 stocks, each BUY or SELL, "
        f"to be measured against {benchmark} for the next {CHECKPOINT_DAYS} calendar days. "
        f"{benchmark} itself cannot be chosen."
    )
    return f"{question}\n\n{told(refusals)}" if refusals else question


def told(refusals: Sequence[str]) -> str:
    """Return how a question tells the reasons for which earlier answers were refused."""
    return "".join((EARLIER, *(f"\n- {refusal}" for refusal in refusals), "\nAnswer anew."))


def benchmark_of(user_prompt: str) -> str | None:
    """Return the benchmark that a question names, if it names one."""
    named = _BENCHMARK.search(user_prompt)
    return named[1] if named else None


def schema() -> dict[str, object]:
    """Return the answer's JSON schema in the strict form that providers ask for: no reference at its root."""
    (_,), components = msgspec.json.schema_components([_Answer], ref_template="#/$defs/{name}")
    root = components.pop(_Answer.__name__)
    for definition in (root, *components.values()):
        definition.pop("title", None)
        definition.pop("description", None)
        if "enum" in definition:
            definition["type"] = "string"  # strict providers want a type of everything
    return {**root, "$defs": components}


def read(answer: str, benchmark: str) -> list[Idea]:
    """
    Return the ideas of an answer, tickers in their one form.

    Some servers cannot hold a model to JSON alone. What they leave around it is no part of the answer and is taken off:
    a byte order mark and white space, what the model thought before it answered (up to `</think>` or the like), and one
    Markdown fence around all the rest. Any other word before or behind the JSON refuses the answer. The JSON itself is
    read strictly, and the stored answer stays as it was said.

    Raises UnusableAnswer with the reason: not JSON of the schema, two members of one name, another count, a repeated
    ticker, the benchmark itself, an unknown action, a badly formed ticker, an empty reasoning, text that cannot be
    stored.
    """
    text = _json_of(answer)
    try:
        ideas = [_checked(idea) for idea in msgspec.json.decode(text, type=_Answer).picks]
    except (msgspec.DecodeError, UnicodeError) as error:
        # It quotes the answer, of whatever length and with whatever characters.
        reason = without_controls(str(error)[:200], "?")
        raise UnusableAnswer(f"The answer was not JSON of the schema: {reason}.") from None
    # The decoder takes the last of several members with one name: which stock was meant would be a guess.
    if untrusted_json.has_repeated_names(text):
        raise UnusableAnswer("An object of the answer had two members of one name; each name may stand there once.")
    if len(ideas) != PICKS_PER_BATCH:
        raise UnusableAnswer(f"The answer had {len(ideas)} picks; exactly {PICKS_PER_BATCH} are needed.")
    tickers = [idea.ticker for idea in ideas]
    for ticker in tickers:
        if tickers.count(ticker) > 1:
            raise UnusableAnswer(f"{ticker} was chosen more than once; the picks must differ.")
        if ticker == benchmark:
            raise UnusableAnswer(f"{ticker} is the benchmark and cannot be chosen.")
    return ideas


def refuse_too_long(answer: str) -> None:
    """
    Raise UnusableAnswer for an answer that could not be stored whole.

    So every accepted answer stands in the record to the letter. (Not a part of `read`, which also reads the accepted
    answers of records that older versions of this program have made.)
    """
    size = len(answer.encode())
    if size > LONGEST_ANSWER:
        raise UnusableAnswer(f"The answer had {size:,} bytes; at most {LONGEST_ANSWER:,} are read.")


def stored(answer: str) -> str:
    """
    Return what is stored of an answer: all of it up to LONGEST_ANSWER, else its beginning and a sentence about it.

    The sentence says how many bytes of UTF-8 all of it has, and their SHA-256. No answer with that end is JSON, so none
    of them keeps the rules of `read`.
    """
    whole = answer.encode()
    if len(whole) <= LONGEST_ANSWER:
        return answer
    end = f"\n\nThe answer was cut here. It had {len(whole):,} bytes; their SHA-256 is {sha256(whole).hexdigest()}."
    return beginning(answer, LONGEST_ANSWER - len(end)) + end


def _json_of(answer: str) -> str:
    """Return the JSON of an answer without what may stand around it."""
    text = answer.strip("\ufeff \t\r\n")
    # What begins as JSON thinks nothing before it, whatever its reasonings quote.
    if not text.startswith(("{", "`")) and (thought := _THOUGHT.match(text)):
        text = text[thought.end() :].strip("\ufeff \t\r\n")
    fenced = _FENCE.fullmatch(text)
    return fenced[1] if fenced else text


def _checked(idea: Idea) -> Idea:
    ticker = as_ticker(idea.ticker)
    reasoning = idea.reasoning.strip()
    if ticker is None:
        raise UnusableAnswer(f"{idea.ticker[:20]!r} is not a ticker.")
    if not reasoning:
        raise UnusableAnswer(f"{ticker} has no reasoning.")
    if len(reasoning) > LONGEST_REASONING:
        raise UnusableAnswer(f"The reasoning of {ticker} is longer than {LONGEST_REASONING:,} characters.")
    if storable(reasoning) != reasoning:
        raise UnusableAnswer(f"The reasoning of {ticker} holds characters that cannot be stored.")
    return Idea(ticker=ticker, action=Action(idea.action), reasoning=reasoning)


def as_ticker(text: str) -> str | None:
    """Return a ticker as the record writes it, or None if the text is none."""
    # Only ASCII: upper() makes two letters of a ligature.
    ticker = in_one_form(text)
    return ticker if text.isascii() and TICKER.fullmatch(ticker) else None


def in_one_form(ticker: str) -> str:
    """Return a ticker as the record writes it: in capitals, a class of shares after a dot."""
    return ticker.strip().upper().replace("-", ".")
