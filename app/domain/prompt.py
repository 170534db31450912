"""
The prompt for the model, and the rules for its answers (docs/record.md#what-happens).

An answer that breaks a rule is refused with a sentence. The next prompt contains that sentence, and
the record stores it. So the texts in this module are stored: they must not change.
"""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import date
from hashlib import sha256
from typing import Any

import msgspec
from msgspec import Struct

from app.domain import untrusted_json
from app.domain.model import CHECKPOINT_DAYS, PICKS_PER_BATCH, TICKER_PATTERN, Action, Idea
from app.domain.text import make_storable, replace_unprintable, truncate_bytes
from app.errors import UnusableAnswer

# The question of a Monday, in every version, without the reasons for earlier refusals. `{date}` is
# the Monday, such as `23 November 2026`, and `{benchmark}` is the ticker of the benchmark.
USER_PROMPT_TEMPLATE = (
    f"Today is Monday, {{date}}. Choose {PICKS_PER_BATCH} different S&P 500 stocks, "
    f"each BUY or SELL, to be measured against {{benchmark}} for the next {CHECKPOINT_DAYS} "
    "calendar days. {benchmark} itself cannot be chosen."
)

# The probability that a model may state for a pick, in percent. A model that expects a pick to be
# wrong more often than right would choose the other action, so 50 is the lowest. 100 would claim
# what nobody knows.
MIN_PROBABILITY, MAX_PROBABILITY = 50, 99

# A line of a prompt. The lines after it are the reasons for earlier refusals.
REFUSALS_INTRO = "Earlier answers could not be used:"

TICKER_RE = re.compile(TICKER_PATTERN)

# How a prompt names the benchmark: see `user_prompt`.
_BENCHMARK = re.compile(rf"\bmeasured against ({TICKER_RE.pattern}) for\b")

# An answer that was accepted is refused later with this text, if BENCHMARK_SYMBOL was changed after
# the question was sent.
BENCHMARK_CHANGED = "The benchmark was changed."

# What some servers leave around the JSON, although the prompt asks for JSON alone: see
# `parse_answer`.
_FENCE = re.compile(r"```[a-zA-Z]*\s(.*)```", re.DOTALL)
_THOUGHTS = re.compile(r".*?</(?:think|thinking|thought|reasoning)>", re.DOTALL | re.IGNORECASE)
_OUTER_SPACE = "\ufeff \t\r\n"

# In characters.
MAX_REASONING_LENGTH = 4000

# In bytes of UTF-8. A longer answer is refused, and stored only in part. Three reasonings of the
# greatest length have at most 48 KB; the other 16 KB are for the thoughts that a model may write
# before its JSON. Rows and journal entries are never deleted, so their size needs a limit.
MAX_ANSWER_BYTES = 65_536


class _IdeaOfVersion1(Struct, frozen=True, forbid_unknown_fields=True):
    """The schema of a pick in version 1 of the prompt."""

    ticker: str
    action: Action
    reasoning: str


class _IdeaOfVersion2(Struct, frozen=True, forbid_unknown_fields=True):
    """The schema of a pick in version 2 of the prompt."""

    ticker: str
    action: Action
    reasoning: str
    probability: int


class _AnswerOfVersion1(Struct, frozen=True, forbid_unknown_fields=True):
    """
    The schema of an answer in version 1 of the prompt.

    A strict schema requires an object at the root, so the picks are a member of an object.
    `parse_answer` checks their number.
    """

    picks: list[_IdeaOfVersion1]


class _AnswerOfVersion2(Struct, frozen=True, forbid_unknown_fields=True):
    """The schema of an answer in version 2 of the prompt."""

    picks: list[_IdeaOfVersion2]


def _inline_schema(answer: type) -> dict[str, object]:
    """
    Return the JSON schema of an answer, in the form that most servers accept.

    It has no references, every property is required, no other property is allowed, and there are no
    limits of numbers or lengths: several servers refuse or ignore these. `parse_answer` checks
    everything.
    """
    (root,), components = msgspec.json.schema_components([answer], ref_template="{name}")
    schema: dict[str, object] = _without_references(components[root["$ref"]], components)
    return schema


def _without_references(schema: Any, components: Mapping[str, Any]) -> Any:
    if isinstance(schema, list):
        return [_without_references(part, components) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _without_references(components[schema["$ref"]], components)
    inlined = {}
    for name, part in schema.items():
        # An object's property may have the name `title`, too. Its value is a schema and not a text.
        if name not in ("title", "description") or not isinstance(part, str):
            inlined[name] = _without_references(part, components)
    if "enum" in inlined:
        inlined["type"] = "string"  # strict servers require a type everywhere
    return inlined


class Prompt(Struct, frozen=True, kw_only=True):
    """
    A version of the prompt: what the model is told, and which answers it may give.

    `answer` is the type of an answer, and `schema` its JSON schema.
    """

    version: str
    system_prompt: str
    answer: type
    schema: Mapping[str, object]

    def user_prompt(self, run_date: date, benchmark: str, refusals: Sequence[str] = ()) -> str:
        """Return the prompt for `run_date`, with the reasons why earlier answers were refused."""
        question = USER_PROMPT_TEMPLATE.format(date=f"{run_date:%d %B %Y}", benchmark=benchmark)
        if not refusals:
            return question
        return f"{question}\n\n{refusals_text(refusals)}"


_SCHEMA_1 = _inline_schema(_AnswerOfVersion1)
_SCHEMA_2 = _inline_schema(_AnswerOfVersion2)
# The properties are in the order in which a model writes them: the probability comes last, after
# the reasoning.
_SCHEMA_TEXT_2 = json.dumps(_SCHEMA_2, separators=(",", ":"))

VERSION_1 = Prompt(
    version="1",
    system_prompt=(
        "You are a disciplined equity analyst. Every Monday, before the New York Stock Exchange "
        f"opens, you choose exactly {PICKS_PER_BATCH} different stocks of the S&P 500. Each is a "
        "BUY (you expect it to do better than the index over the next two weeks) or a SELL (you "
        "expect it to do worse), with a reasoning of two to four sentences. You answer with JSON "
        "of the given schema and nothing else. Your picks are recorded in public and measured for "
        f"{CHECKPOINT_DAYS} days."
    ),
    answer=_AnswerOfVersion1,
    schema=_SCHEMA_1,
)

# Version 2 has the schema in the prompt itself, because some servers take no schema: so every model
# gets the same prompt. And it asks for a probability.
VERSION_2 = Prompt(
    version="2",
    system_prompt=(
        "You are a disciplined equity analyst. Every Monday, before the New York Stock Exchange "
        f"opens, you choose exactly {PICKS_PER_BATCH} different stocks of the S&P 500. Each is a "
        "BUY (you expect it to do better than the index over the next two weeks) or a SELL (you "
        "expect it to do worse), with a reasoning of two to four sentences. For each you also give "
        "the probability that you are right: that a BUY does better than the index over the two "
        "weeks, or a SELL worse. It is a whole number of percent, from "
        f"{MIN_PROBABILITY} to {MAX_PROBABILITY}. You answer with JSON of the following schema and "
        f"nothing else: {_SCHEMA_TEXT_2} Your picks and your probabilities are recorded in "
        f"public and measured for {CHECKPOINT_DAYS} days."
    ),
    answer=_AnswerOfVersion2,
    schema=_SCHEMA_2,
)

CURRENT = VERSION_2
_VERSIONS = {one.version: one for one in (VERSION_1, VERSION_2)}


def prompt_of(version: str) -> Prompt:
    """
    Return a version of the prompt.

    A later version of this program may have written another version: its answers are read as those
    of the newest version that is known here.
    """
    return _VERSIONS.get(version, CURRENT)


def refusals_text(refusals: Sequence[str]) -> str:
    """Return the end of a prompt: the reasons for which earlier answers were refused."""
    lines = [REFUSALS_INTRO, *(f"- {refusal}" for refusal in refusals), "Answer anew."]
    return "\n".join(lines)


def benchmark_in_prompt(user_prompt: str) -> str | None:
    """Return the benchmark that a prompt names, if it names one."""
    named = _BENCHMARK.search(user_prompt)
    if named is None:
        return None
    return named[1]


def parse_answer(answer: str, benchmark: str, version: str) -> list[Idea]:
    """
    Return the ideas of an answer to a version of the prompt, with normalized tickers.

    Some servers cannot make a model write JSON alone. Three things around the JSON are removed:

    - a byte order mark and white space
    - the model's thoughts before the answer, up to `</think>` or a similar tag
    - one Markdown fence around all that remains without these two

    An answer with any other text before or after the JSON is refused. The JSON itself is read
    strictly, and the stored answer is not changed.

    Raises UnusableAnswer with the reason if the answer breaks a rule of docs/journal.md#an-answer:

    - The answer is JSON of the schema, without two members of one name.
    - It has the right number of picks, all with different tickers, and none is the benchmark.
    - Each pick has a valid ticker, and the action BUY or SELL.
    - Each pick has a reasoning that is not empty, not too long, and can be stored.
    - From version 2 on, each pick has a probability from 50 to 99, a whole number.
    """
    text = _extract_json(answer)
    answer_type: Any = prompt_of(version).answer
    try:
        ideas = [_check_idea(idea) for idea in msgspec.json.decode(text, type=answer_type).picks]
    except (msgspec.DecodeError, UnicodeError) as error:
        # The error quotes the answer, at any length and with any characters.
        reason = replace_unprintable(str(error)[:200], "?")
        raise UnusableAnswer(f"The answer was not JSON of the schema: {reason}.") from None

    # If several members of an object have the same name, the decoder takes the last of them. But
    # the model may have meant the value of an earlier one.
    if untrusted_json.has_repeated_names(text):
        raise UnusableAnswer(
            "An object of the answer had two members of one name; each name may stand there once."
        )
    _check_picks(ideas, benchmark)
    return ideas


def _check_picks(ideas: Sequence[Idea], benchmark: str) -> None:
    if len(ideas) != PICKS_PER_BATCH:
        raise UnusableAnswer(
            f"The answer had {len(ideas)} picks; exactly {PICKS_PER_BATCH} are needed."
        )
    tickers = [idea.ticker for idea in ideas]
    for ticker in tickers:
        if tickers.count(ticker) > 1:
            raise UnusableAnswer(f"{ticker} was chosen more than once; the picks must differ.")
        if ticker == benchmark:
            raise UnusableAnswer(f"{ticker} is the benchmark and cannot be chosen.")


def require_storable_length(answer: str) -> None:
    """
    Raise UnusableAnswer for an answer that is too long to be stored completely.

    So the record has the complete text of every accepted answer. `parse_answer` does not make this
    check, because it also reads accepted answers that earlier versions stored, and these may be
    longer.
    """
    size = len(answer.encode())
    if size > MAX_ANSWER_BYTES:
        raise UnusableAnswer(
            f"The answer had {size:,} bytes; at most {MAX_ANSWER_BYTES:,} are read."
        )


def text_to_store(answer: str) -> str:
    """
    Return the text that is stored for an answer: all of it, up to MAX_ANSWER_BYTES.

    A longer answer is cut, and a sentence is added. The sentence has the length of the whole answer
    in bytes of UTF-8, and the SHA-256 of these bytes. No text with such an end is JSON, so
    `parse_answer` refuses every cut answer.
    """
    whole = answer.encode()
    if len(whole) <= MAX_ANSWER_BYTES:
        return answer
    end = (
        f"\n\nThe answer was cut here. It had {len(whole):,} bytes; their SHA-256 is "
        f"{sha256(whole).hexdigest()}."
    )
    return truncate_bytes(answer, MAX_ANSWER_BYTES - len(end)) + end


def _extract_json(answer: str) -> str:
    """Return the JSON of an answer without the text that servers leave around it."""
    text = answer.strip(_OUTER_SPACE)
    # An answer that begins with JSON or with a fence has no thoughts before its JSON. If such an
    # answer contains one of these tags, a reasoning quotes the tag.
    if not text.startswith(("{", "`")):
        thoughts = _THOUGHTS.match(text)
        if thoughts:
            text = text[thoughts.end() :].strip(_OUTER_SPACE)
    fenced = _FENCE.fullmatch(text)
    if fenced:
        return fenced[1]
    return text


def _check_idea(idea: _IdeaOfVersion1 | _IdeaOfVersion2) -> Idea:
    ticker = parse_ticker(idea.ticker)
    reasoning = idea.reasoning.strip()
    if ticker is None:
        raise UnusableAnswer(f"{idea.ticker[:20]!r} is not a ticker.")
    if not reasoning:
        raise UnusableAnswer(f"{ticker} has no reasoning.")
    if len(reasoning) > MAX_REASONING_LENGTH:
        raise UnusableAnswer(
            f"The reasoning of {ticker} is longer than {MAX_REASONING_LENGTH:,} characters."
        )
    if make_storable(reasoning) != reasoning:
        raise UnusableAnswer(f"The reasoning of {ticker} holds characters that cannot be stored.")
    probability = None
    if isinstance(idea, _IdeaOfVersion2):
        probability = idea.probability
        if not MIN_PROBABILITY <= probability <= MAX_PROBABILITY:
            raise UnusableAnswer(
                f"The probability of {ticker} is not a whole number of percent from "
                f"{MIN_PROBABILITY} to {MAX_PROBABILITY}."
            )
    return Idea(
        ticker=ticker,
        action=Action(idea.action),
        reasoning=reasoning,
        probability=probability,
    )


def parse_ticker(text: str) -> str | None:
    """Return a ticker in the form of the record, or None if the text is no ticker."""
    ticker = normalize_ticker(text)
    # The white space around the ticker must be ASCII, too (docs/journal.md#an-answer).
    if not text.isascii() or not TICKER_RE.fullmatch(ticker):
        return None
    return ticker


def normalize_ticker(ticker: str) -> str:
    """Return a ticker in the form of the record, without the white space around it."""
    return unify_spelling(ticker.strip())


def unify_spelling(ticker: str) -> str:
    """Return a ticker in capitals, with a dot before a class of shares: "brk-b" becomes "BRK.B"."""
    ticker = ticker.replace("-", ".")
    # upper() turns some other letters into those of a ticker, such as the dotless i into I. A text
    # with such a letter must not become the ticker of another share.
    return ticker.upper() if ticker.isascii() else ticker
