"""The rules that `alpha-monday verify` checks, by name, and the error that names a broken one (docs/journal.md)."""

from datetime import UTC, datetime
from enum import StrEnum

from app.domain.text import without_controls
from app.errors import Misfit


class Rule(StrEnum):
    """The name of a rule. docs/journal.md#the-rules has a sentence for each, in the same order."""

    # Entries
    CHAIN = "chain"
    HEAD = "head"
    CANONICAL = "canonical"
    COLUMNS = "columns"
    MEMBERS = "members"
    ROW_FORM = "row-form"
    AT = "at"
    BELONGS = "belongs"
    FIRST_MENTION = "first-mention"
    UNCHANGED = "unchanged"
    CORRECTED = "corrected"
    # Questions
    QUESTION_NUMBER = "question-number"
    QUESTION_COUNT = "question-count"
    QUESTION_TIME = "question-time"
    QUESTION_ORDER = "question-order"
    ANSWER_ACCEPTED = "answer-accepted"
    ANSWER_REFUSED = "answer-refused"
    PROMPT_SAYS_WHY = "prompt-says-why"
    # Mondays
    BATCH_ID = "batch-id"
    MONDAY = "monday"
    LATE = "late"
    FAILED = "failed"
    RUN_AGAIN = "run-again"
    BASELINE_SESSION = "baseline-session"
    THREE_PICKS = "three-picks"
    PICKS_OF_THE_ANSWER = "picks-of-the-answer"
    DAY_ZERO = "day-zero"
    EVERY_MONDAY = "every-monday"
    # Checkpoints
    DAY = "day"
    DUE = "due"
    SESSION = "session"
    SKIPPED = "skipped"
    COMPUTED = "computed"
    EVERY_METRIC = "every-metric"
    COMPLETED = "completed"
    EVERY_DAY = "every-day"
    # Prices
    READING = "reading"
    READING_SESSION = "reading-session"
    READ_BEFORE_USED = "read-before-used"
    NEWEST_READING = "newest-reading"
    FIGURE = "figure"
    ENTRY_OPEN = "entry-open"
    FROM_OPEN = "from-open"
    ENDED = "ended"
    UNUSUAL_MOVE = "unusual-move"
    SPLIT_COUNTED = "split-counted"
    # Picks
    ENDING = "ending"
    RENAMING = "renaming"
    FORCED_RENAME = "forced-rename"
    # Rows
    ROW = "row"


def misfit(rule: Rule, text: str) -> Misfit:
    """
    Return the misfit that `text` describes, with the name of the rule that is broken.

    It is one line that a terminal can show, whatever it quotes.
    """
    sentence = text[:1].upper() + text[1:]
    return Misfit(without_controls(f"{sentence} (rule: {rule})", "?"))


def in_utc(moment: datetime) -> str:
    """Return a time as a misfit shows it, to the second."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def truth(value: bool) -> str:
    """Return a truth value as a misfit shows it: as the journal writes it."""
    return "true" if value else "false"
