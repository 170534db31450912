"""
The rules of the record that the journal and the calendar can decide, one module per subject.

Most modules have a `check` that takes an entry and the state after it, and raises Discrepancy for
the first broken rule. Some modules have a `check_end`, for rules that need the whole journal or all
readings of the record. `tolerance` and `readings` have what several rules use.
"""

from app.domain.verification.entries import ParsedEntry
from app.domain.verification.rules import (
    changes,
    checkpoints,
    counted_splits,
    declarations,
    draws,
    figures,
    further_benchmarks,
    marks,
    mondays,
    picks,
    price_claims,
    prices,
    questions,
    responses,
    totals,
    yearly_checks,
)
from app.domain.verification.state import JournalState

# The order decides which rule is named if several are broken (docs/journal.md#the-rules).
# `declarations.check` comes first: it decides from which entry on the record is sealed.
# `changes.check_structure` comes next, because the other rules rely on it. The general rules about
# changes (`changes.check`) come last, because the messages of the other rules are more specific.
_CHECKS = (
    declarations.check,
    changes.check_structure,
    responses.check,
    declarations.check_questions,
    questions.check,
    draws.check,
    mondays.check,
    picks.check,
    checkpoints.check,
    prices.check,
    figures.check,
    marks.check,
    counted_splits.check,
    totals.check,
    further_benchmarks.check,
    price_claims.check,
    yearly_checks.check,
    changes.check,
)


def check(entry: ParsedEntry, state: JournalState) -> None:
    """Check an entry against every rule; raises Discrepancy for the first broken rule."""
    state.add_event(entry)
    for rule in _CHECKS:
        rule(entry, state)
