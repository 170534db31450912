"""
The rules of the record that the journal and the calendar decide, one module per subject.

Each module has a `check` that takes an entry and the state after it, and raises the first misfit. Some have a
`check_end`, too: it decides what only the whole journal, or all readings of the record, can decide.
"""

from app.domain.verification.entries import Entry
from app.domain.verification.rules import (
    changes,
    checkpoints,
    figures,
    marks,
    missing,
    mondays,
    picks,
    prices,
    questions,
    uncounted,
)
from app.domain.verification.state import State

# In this order: a rule with a name of its own comes before the general ones about changes.
_CHECKS = (
    changes.check_places,
    questions.check,
    mondays.check,
    picks.check,
    checkpoints.check,
    prices.check,
    figures.check,
    marks.check,
    uncounted.check,
    missing.check,
    changes.check,
)


def check(entry: Entry, state: State) -> None:
    """Refuse an entry that breaks a rule; raises Misfit."""
    state.take_event(entry)
    for rule in _CHECKS:
        rule(entry, state)
