"""
The rule `draws`: what a control draws follows from the journal.

Definition: docs/record.md#the-draws-of-a-control. The draws are computed again from the hash of the
control's first SERIES entry, the Monday, the universe that is in force, and the tickers that were
refused earlier on that Monday.

Refused answers count, too: the picks that a refusal names are not drawn again. So a made-up answer
that is refused would choose the draws of the next question.
"""

from app.domain import control
from app.domain.declarations import ControlDeclaration
from app.domain.model import Generation
from app.domain.verification.discrepancies import Rule, discrepancy
from app.domain.verification.entries import ParsedEntry, show_difference
from app.domain.verification.state import JournalState, locate
from app.errors import UnusableAnswer


def check(entry: ParsedEntry, state: JournalState) -> None:
    """Raise Discrepancy for an answer of a control that has other draws."""
    for mention in entry.mentions_of(Generation):
        question, former = mention.row, mention.before
        assert isinstance(question, Generation)
        # An answer never changes. The benchmark may change before it is mentioned again.
        is_known = isinstance(former, Generation) and former.answer is not None
        if question.answer is None or is_known:
            continue
        declared = state.series_in_force(question.series, question.run_date)
        if not isinstance(declared, ControlDeclaration):
            continue
        expected = _expected_answer(question, declared, state)
        if question.answer != expected:
            here, there = show_difference(question.answer, expected)
            raise discrepancy(
                Rule.DRAWS,
                f"{locate(entry, state, question)}: its answer is {here}, but the draws of that "
                f"Monday give {there}.",
            )


def _expected_answer(
    question: Generation, declared: ControlDeclaration, state: JournalState
) -> str | None:
    """Return the answer that follows from the journal; None if there are no three picks."""
    first = state.declared_series[question.series][0]
    seed = control.draw_seed(first.hash, question.run_date)
    settings = state.record_calendar.newest
    assert settings is not None, "a series is declared only after the settings"
    universe = declared.profile.universe
    try:
        draws = control.draw(
            universe,
            seed,
            benchmark=settings.benchmark,
            refused=_refused_tickers(question, state),
        )
    except UnusableAnswer:
        return None
    return control.answer_text(universe, seed, draws)


def _refused_tickers(question: Generation, state: JournalState) -> set[str]:
    """Return the tickers that the refusals of earlier answers of the Monday name."""
    earlier = []
    for one in state.questions_on((question.series, question.run_date)):
        if one.id == question.id:
            break
        earlier.append(one)
    return control.refused_tickers(earlier)
