"""
The rules of yearly checks: `rules`, `check` and `every-check`.

A RULES entry states the rules of the checks, and each CHECK entry holds one check. Whether a CHECK
entry is right is decided by computing it again from the entries before it. Definition:
docs/journal.md#yearly-checks.
"""

from collections.abc import Mapping
from typing import Any

from app.domain import journal
from app.domain.check_contents import check_content, rules_content
from app.domain.model import JournalHead, JournalKind, Rate
from app.domain.verification.check_inputs import NextCheck, first_monday, next_check, read_inputs
from app.domain.verification.discrepancies import Rule, discrepancy, format_utc
from app.domain.verification.entries import ParsedEntry
from app.domain.verification.rules.tolerance import overdue_limit
from app.domain.verification.state import JournalState


def check(entry: ParsedEntry, state: JournalState) -> None:
    """Raise Discrepancy for wrong rules, a wrong check, or a check that is missing."""
    if entry.kind is JournalKind.RULES:
        _check_rules(entry, state)
        state.rules_at = entry.at
        return
    if entry.kind is JournalKind.CHECK:
        _check_check(entry, state)
        # It was held in time if it was not long over before.
        _check_missing(state)
        state.held_checks += 1


def check_end(state: JournalState) -> None:
    """Raise Discrepancy if a check was long over and is not in the journal."""
    _check_missing(state)


def _check_rules(entry: ParsedEntry, state: JournalState) -> None:
    place = f"Entry {entry.seq} of the journal"
    if state.rules_at is not None:
        raise discrepancy(Rule.RULES, f"{place}: the journal already has these rules.")
    expected = journal.to_texts(rules_content())
    if entry.content["rules"] != expected:
        raise discrepancy(
            Rule.RULES,
            f"{place}: its rules are not version {expected['version']} with the SHA-256 "
            f"{expected['sha256']}, from check {expected['from_check']} on. A newer version may "
            "know other rules.",
        )


def _check_check(entry: ParsedEntry, state: JournalState) -> None:
    problem = _check_problem(entry, state)
    if problem is not None:
        raise discrepancy(Rule.CHECK, f"Entry {entry.seq} of the journal: {problem}.")


def _check_problem(entry: ParsedEntry, state: JournalState) -> str | None:
    """Return what is wrong with a CHECK entry; None if nothing is."""
    due = _next_check(state)
    if state.rules_at is None or due is None:
        return "it is a check, but no rules or no batch come before it"
    if entry.at < due.held_at:
        return f"check {due.number} is held before {format_utc(due.held_at)}"
    inputs = read_inputs(
        state, due, head=JournalHead(*state.head, entry.at), rules_at=state.rules_at
    )
    expected = journal.to_texts(check_content(inputs))
    name = _first_difference(entry.content["check"], expected)
    if name is not None:
        return f"{name} of its check is not what the entries before it give"
    if entry.rows(Rate) != list(inputs.rates):
        return "its rates are not those of the weeks that it counts"
    return None


def _first_difference(check: Any, expected: Mapping[str, Any]) -> str | None:
    """Return the first member in which a check differs; None if it is equal."""
    if not isinstance(check, dict):
        return "each member"
    names = sorted({*check, *expected})
    return next((name for name in names if check.get(name) != expected.get(name)), None)


def _check_missing(state: JournalState) -> None:
    """Raise Discrepancy if the next check was due so long ago that the journal must have it."""
    due = _next_check(state)
    limit = overdue_limit(sorted(state.worked_at))
    if state.rules_at is None or due is None or limit is None:
        return
    deadline = max(due.held_at, state.rules_at)
    if deadline <= limit:
        raise discrepancy(
            Rule.EVERY_CHECK,
            f"No entry of the journal holds check {due.number}, of {due.on}, in time: it was due "
            f"at {format_utc(deadline)}, and there are entries long after that.",
        )


def _next_check(state: JournalState) -> NextCheck | None:
    first = first_monday(state)
    if first is None:
        return None
    return next_check(first, state.held_checks)
