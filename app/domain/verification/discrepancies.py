"""The names of the rules that `alpha-monday verify` checks, and the error for a broken rule."""

from datetime import UTC, datetime
from enum import StrEnum

from app.domain.text import replace_unprintable
from app.errors import Discrepancy


class Rule(StrEnum):
    """The name of a rule. docs/journal.md#the-rules defines the rules in this order."""

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
    # Declarations
    GENESIS = "genesis"
    SETTINGS = "settings"
    SERIES = "series"
    READINGS = "readings"
    # Questions
    PROFILE = "profile"
    CLAIM = "claim"
    QUESTION_NUMBER = "question-number"
    QUESTION_COUNT = "question-count"
    QUESTION_TIME = "question-time"
    QUESTION_ORDER = "question-order"
    ANSWER_ACCEPTED = "answer-accepted"
    ANSWER_REFUSED = "answer-refused"
    PROMPT_SAYS_WHY = "prompt-says-why"
    DRAWS = "draws"
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
    FURTHER_BENCHMARK = "further-benchmark"
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
    # Total returns
    DIVIDEND_LISTED = "dividend-listed"
    TOTAL_RETURN = "total-return"
    EVERY_TOTAL = "every-total"
    # Picks
    ENDING = "ending"
    RENAMING = "renaming"
    FORCED_RENAME = "forced-rename"
    # Yearly checks
    RULES = "rules"
    CHECK = "check"
    EVERY_CHECK = "every-check"
    # Rows
    ROW = "row"
    # Timestamps
    TIMESTAMP = "timestamp"


def discrepancy(rule: Rule, text: str) -> Discrepancy:
    """
    Return the error for a broken rule: `text` as a sentence, and the name of the rule.

    The text may quote anything from a forged record. So unprintable characters are replaced: the
    message is one line that a terminal can show.
    """
    sentence = text[:1].upper() + text[1:]
    return Discrepancy(replace_unprintable(f"{sentence} (rule: {rule})", "?"))


def format_utc(moment: datetime) -> str:
    """Return a time for a message, in UTC, to the second."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
