"""
What the page says of simulated models: of calibrated ones, of overconfident ones, and of coin
tossers. Each kind has a thousand models, with the picks of about two years.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from random import Random

import pytest
from msgspec import Struct

from app.domain.calibration import (
    MIN_PICKS,
    Calibration,
    StatedPick,
    judge_calibration,
    score_probabilities,
)

MODELS = 1_000
PICKS = 300
BEGINNINGS = {
    Calibration.OVERCONFIDENT: "Overconfident: ",
    Calibration.UNDERCONFIDENT: "Underconfident: ",
    Calibration.UNDECIDED: "Not distinguishable from calibrated: ",
}


class Kind(Struct, frozen=True):
    """
    What a model states, from the lowest to the highest percentage, and how often it is right then.

    `shared` is how probable it is that a pick has the luck of the first pick of its batch.
    """

    lowest: int
    highest: int
    right: Callable[[int], float]
    shared: float = 0.0


CALIBRATED = Kind(lowest=50, highest=85, right=lambda stated: stated / 100)
# It states 75 % on average, and is right in 60 % of the cases.
OVERCONFIDENT = Kind(lowest=55, highest=95, right=lambda stated: 0.5 + (stated / 100 - 0.5) * 0.4)
UNDERCONFIDENT = Kind(lowest=50, highest=60, right=lambda stated: stated / 100 + 0.15)
COIN_TOSSER = Kind(lowest=50, highest=59, right=lambda stated: 0.5)
TOGETHER = Kind(lowest=50, highest=85, right=lambda stated: stated / 100, shared=1.0)


def picks_of(kind: Kind, random: Random, count: int) -> Iterator[StatedPick]:
    """Yield picks in batches of three; in a batch, some have the luck of the first pick."""
    luck = 0.0
    for number in range(count):
        # A method of Random for whole numbers takes several times as long.
        stated = kind.lowest + int(random.random() * (kind.highest - kind.lowest + 1))
        if number % 3 == 0 or random.random() >= kind.shared:
            own = random.random()
        else:
            own = luck
        if number % 3 == 0:
            luck = own
        yield StatedPick(probability=stated, is_hit=own < kind.right(stated))


def findings(kind: Kind, count: int = PICKS) -> Counter[Calibration]:
    """Return how many of the models get each sentence."""
    found: Counter[Calibration] = Counter()
    for seed in range(MODELS):
        scores = score_probabilities(picks_of(kind, Random(seed), count))
        assert scores
        finding = judge_calibration(scores.picks, scores.mean_stated_pct, scores.hit_rate_interval)
        found[finding] += 1
        assert scores.words.startswith(BEGINNINGS[finding])
    return found


# Each bound is the expected number of models, and three standard deviations of a binomial number
# on either side.


def test_of_calibrated_models():
    """One in twenty gets a wrong sentence, as the interval of 95 % allows, in both directions."""
    found = findings(CALIBRATED)
    wrong = found[Calibration.OVERCONFIDENT], found[Calibration.UNDERCONFIDENT]
    assert 30 <= sum(wrong) <= 70
    assert min(wrong) >= 10


def test_of_overconfident_models():
    """
    They state 75 %, and are right in 60 % of the cases: fifteen points, where the interval of three
    hundred picks is about five and a half points wide on either side.
    """
    found = findings(OVERCONFIDENT)
    assert found[Calibration.OVERCONFIDENT] >= 990
    assert found[Calibration.UNDERCONFIDENT] == 0


def test_of_underconfident_models():
    """They are right fifteen points more often than they state."""
    found = findings(UNDERCONFIDENT)
    assert found[Calibration.UNDERCONFIDENT] >= 990
    assert found[Calibration.OVERCONFIDENT] == 0


def test_of_coin_tossers():
    """
    They state 54.5 % and are right in half of the cases: 4.5 points, or 1.56 standard deviations of
    the share of hits. So a third of them (34 %) are called overconfident, and the others pass.
    """
    found = findings(COIN_TOSSER)
    assert 300 <= found[Calibration.OVERCONFIDENT] <= 400
    assert found[Calibration.UNDERCONFIDENT] <= 10


def test_of_models_whose_picks_depend_on_each_other():
    """
    Calibrated models whose three picks of a batch have the same luck. The share of hits varies 1.56
    times as much as with independent picks, so a fifth (21 %) get a wrong sentence. The words say
    that the interval is too narrow.
    """
    found = findings(TOGETHER)
    wrong = found[Calibration.OVERCONFIDENT] + found[Calibration.UNDERCONFIDENT]
    assert 170 <= wrong <= 247


@pytest.mark.parametrize("kind", [CALIBRATED, OVERCONFIDENT, COIN_TOSSER])
def test_with_few_picks(kind):
    """With a pick less than sixty, no model gets a sentence, however bad its probabilities are."""
    for seed in range(20):
        scores = score_probabilities(picks_of(kind, Random(seed), MIN_PICKS - 1))
        assert scores
        assert scores.words.startswith("Too early")
        scores = score_probabilities(picks_of(kind, Random(seed), MIN_PICKS))
        assert scores
        assert not scores.words.startswith("Too early")
