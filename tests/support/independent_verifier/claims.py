"""Claims of questions: docs/journal.md, "Claims", and the rule `claim`."""

from independent_verifier.api import Row
from independent_verifier.known import Entry
from independent_verifier.refused import require

# What a question has only when it is completed.
OUTCOME = {
    "accepted",
    "answered_at",
    "answered_model",
    "answer",
    "request_id",
    "prompt_tokens",
    "completion_tokens",
    "finish_reason",
    "system_fingerprint",
    "reasoning_tokens",
    "refusal",
}


def check_claim(entry: Entry, row: Row) -> None:
    """Check the rule `claim`, of a first mention."""
    there = OUTCOME & set(row)
    require(not there, "claim", f"{entry.where} is a claim, but has {there}")
