"""
The draws of a control: a series without a model, whose picks are random and can be recomputed.

A control answers the question whether chance alone does as well as a model. So its operator must
not be able to choose its draws:

- The **seed** of a Monday depends on the hash of the control's first SERIES entry in the journal
  and on the Monday. The entry is written before the prices of the first Monday are known.
- The **universe**, the list of tickers to draw from, is stated by a SERIES entry, at least
  `UNIVERSE_NOTICE` before it holds. The first one holds at once, because no seed existed before it.
- The draws follow from the seed and the universe alone, without a choice. A ticker that cannot be
  a pick is skipped, and the same stream goes on.

docs/record.md#the-draws-of-a-control defines the draws, so that others can recompute them.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import date, timedelta
from hashlib import sha256, shake_256

import msgspec
from msgspec import Struct

from app.domain import journal
from app.domain.model import PICKS_PER_BATCH, Action, DescribedEnum, Generation, Idea
from app.domain.tickers import names_ticker
from app.errors import UnusableAnswer

# The version of the rules of this module. A profile states it.
DRAW_VERSION = "1"

# A question of a control has these in place of a model's name and of the version of a prompt. Its
# prompts are empty texts.
REQUESTED_MODEL = "random"
QUESTION_VERSION = f"draw-{DRAW_VERSION}"

# How long before its first Monday a new universe is in the journal.
UNIVERSE_NOTICE = timedelta(days=28)

# The reasoning of every pick of a control. It is stored, so it must not change.
REASONING = "This pick was drawn at random."

# Each number of the stream is made of so many bytes.
_NUMBER_BYTES = 4
_NUMBERS = 256**_NUMBER_BYTES

# The stream is computed in pieces of this many numbers. A Monday needs six numbers, and more only
# after skipped tickers.
_PIECE = 64

# More draws than this are refused. In a universe that has three possible picks among a thousand
# tickers, fewer are needed with a probability above 1 - 1e-9.
_MAX_DRAWS = 20_000


class SkippedDraw(DescribedEnum):
    """The reason why a drawn ticker is no pick."""

    REPEATED = "REPEATED", "The ticker was drawn before, on the same Monday."
    BENCHMARK = "BENCHMARK", "The ticker is the benchmark."
    REFUSED = "REFUSED", "The price provider does not know the ticker, or it is no longer traded."


class Draw(Struct, frozen=True, kw_only=True):
    """A drawn ticker with its drawn action. `skipped` is None if the draw is a pick."""

    ticker: str
    action: Action
    skipped: SkippedDraw | None = None


class _Answer(Struct, frozen=True, forbid_unknown_fields=True):
    """What is stored where a model's answer would be: see `answer_text`."""

    draws: list[Draw]
    seed: str
    universe_sha256: str


class RandomStream:
    """
    Random numbers that follow from a seed: the output of SHAKE-256.

    The seed has the form of a SHA-256: 64 hexadecimal digits. SHAKE-256 gets the 32 bytes that they
    stand for.
    """

    def __init__(self, seed: str) -> None:
        self._shake = shake_256(bytes.fromhex(seed))
        self._output = b""
        self._position = 0

    def below(self, bound: int) -> int:
        """
        Return the next number from 0 to `bound` - 1; each is equally likely.

        Four bytes are a number from 0 to 2^32 - 1, the first byte is the highest. The numbers from
        the highest multiple of `bound` on are skipped: the remainder of the division by `bound`
        would otherwise be small too often.
        """
        limit = _NUMBERS - _NUMBERS % bound
        while True:
            number = self._next_number()
            if number < limit:
                return number % bound

    def _next_number(self) -> int:
        end = self._position + _NUMBER_BYTES
        if end > len(self._output):
            # The output for a greater length begins with the output for a smaller one.
            self._output = self._shake.digest(len(self._output) + _PIECE * _NUMBER_BYTES)
        number = int.from_bytes(self._output[self._position : end])
        self._position = end
        return number


def draw_seed(first_hash: str, run_date: date) -> str:
    """
    Return the seed of a Monday, as 64 hexadecimal digits.

    It is the SHA-256 of `first_hash`, the hash of the control's first SERIES entry as 64
    hexadecimal digits, a line feed, and the Monday as YYYY-MM-DD.
    """
    return sha256(f"{first_hash}\n{run_date}".encode()).hexdigest()


def draw(
    universe: Sequence[str], seed: str, *, benchmark: str, refused: Collection[str] = ()
) -> list[Draw]:
    """
    Return all draws of a Monday, in their order; the last one completes the picks.

    `universe` has each ticker once, sorted. `refused` are the tickers that the price provider has
    refused on this Monday. Raises UnusableAnswer if the universe has too few possible picks.
    """
    possible = set(universe) - {benchmark, *refused}
    if len(possible) < PICKS_PER_BATCH:
        raise UnusableAnswer(
            f"The universe has {len(possible)} tickers that can be drawn; {PICKS_PER_BATCH} are "
            "needed."
        )
    draws: list[Draw] = []
    picks = 0
    for drawn in _draw_without_end(
        universe, RandomStream(seed), benchmark=benchmark, refused=refused
    ):
        draws.append(drawn)
        picks += drawn.skipped is None
        if picks == PICKS_PER_BATCH:
            return draws
        if len(draws) == _MAX_DRAWS:
            break
    raise UnusableAnswer(f"After {_MAX_DRAWS} draws there are only {picks} picks.")


def _draw_without_end(
    universe: Sequence[str], stream: RandomStream, *, benchmark: str, refused: Collection[str]
) -> Iterator[Draw]:
    seen: set[str] = set()
    actions = (Action.BUY, Action.SELL)
    while True:
        ticker = universe[stream.below(len(universe))]
        action = actions[stream.below(len(actions))]
        skipped = None
        if ticker in seen:
            skipped = SkippedDraw.REPEATED
        elif ticker == benchmark:
            skipped = SkippedDraw.BENCHMARK
        elif ticker in refused:
            skipped = SkippedDraw.REFUSED
        seen.add(ticker)
        yield Draw(ticker=ticker, action=action, skipped=skipped)


def answer_text(universe: Sequence[str], seed: str, draws: Sequence[Draw]) -> str:
    """
    Return the text that is stored where a model's answer would be: canonical JSON.

    It has the draws in their order, the seed, and the SHA-256 of the universe.
    """
    return journal.canonical_json(
        {"draws": list(draws), "seed": seed, "universe_sha256": universe_sha256(universe)}
    )


def parse_answer(answer: str, benchmark: str) -> list[Idea]:
    """
    Return the ideas of a text that `answer_text` has made.

    Raises UnusableAnswer if the text has another form, or if a pick is the benchmark.
    """
    try:
        draws = msgspec.json.decode(answer, type=_Answer, strict=False).draws
    except (msgspec.MsgspecError, RecursionError):
        raise UnusableAnswer("The text is not the text of draws.") from None
    picks = [draw for draw in draws if draw.skipped is None]
    if len({pick.ticker for pick in picks}) != PICKS_PER_BATCH or len(picks) != PICKS_PER_BATCH:
        raise UnusableAnswer(f"The draws do not give {PICKS_PER_BATCH} different picks.")
    if any(pick.ticker == benchmark for pick in picks):
        # The benchmark was changed after the draws. The refusal must name the ticker: see
        # docs/journal.md, "An answer".
        raise UnusableAnswer(f"{benchmark} is the benchmark and cannot be chosen.")
    return [
        Idea(ticker=pick.ticker, action=pick.action, reasoning=REASONING, probability=None)
        for pick in picks
    ]


def refused_tickers(questions: Iterable[Generation]) -> set[str]:
    """
    Return the tickers that cannot be drawn after these questions of the same Monday.

    They are the picks of refused answers that the refusal names: a pick has no price.
    """
    refused: set[str] = set()
    for question in questions:
        refusal = question.refusal or ""
        try:
            ideas = parse_answer(question.answer or "", "")
        except UnusableAnswer:
            continue
        refused.update(idea.ticker for idea in ideas if names_ticker(refusal, idea.ticker))
    return refused


def universe_sha256(universe: Sequence[str]) -> str:
    """Return the SHA-256 of the tickers, each with a line feed after it, as 64 hex digits."""
    return sha256("".join(f"{ticker}\n" for ticker in universe).encode()).hexdigest()
