"""
The yearly check of simulated choosers, whose picks repeat, move together and have a beta.

Seeds are fixed, so no test can fail by chance. Each record has five years and five checks.
"""

from collections import Counter

import choosers
import pytest
import simulated_checks

from app.domain.yearly_check import Side

YEARS = 5
RECORDS = 1000
# Of 1,000 records, as in `test_yearly_check_simulated`.
MOST_WRONG = 66


def findings_of(chooser: choosers.Chooser, records: int) -> Counter[Side]:
    """Return how many records of a chooser alone are found better, and worse, at any check."""
    found: Counter[Side] = Counter()
    for seed in range(records):
        batches = choosers.results(choosers.record(chooser, seed, 52 * YEARS))
        sides: set[Side] = set()
        for number in range(1, YEARS + 1):
            findings = simulated_checks.findings_of(number, choosers.FIRST, {"main": batches})
            sides.update(findings.values())
        found.update(sides)
    return found


@pytest.mark.parametrize("kind", choosers.KINDS)
def test_choosers_without_skill_are_not_called_skilled(kind):
    """Repeated picks, and shares of another beta in a rising market, are not taken for skill."""
    assert findings_of(choosers.KINDS[kind], 30)[Side.BETTER] <= 2


def test_a_chooser_with_skill_is_found():
    """With half a percent a week, nine in ten records are better within five years."""
    assert findings_of(choosers.SKILLED, 20)[Side.BETTER] >= 18


@pytest.mark.long
@pytest.mark.parametrize("kind", choosers.KINDS)
def test_a_thousand_choosers_without_skill(kind, record_property):
    """Over five checks, about 5 % at most are called skilled or the opposite."""
    found = findings_of(choosers.KINDS[kind], RECORDS)
    record_property(f"of 1,000 choosers called skilled: {kind}", found[Side.BETTER])
    record_property(f"of 1,000 choosers called the opposite: {kind}", found[Side.WORSE])
    assert found[Side.BETTER] + found[Side.WORSE] <= MOST_WRONG
