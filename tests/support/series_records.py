"""
Records of several series, for the tests of the API: registered series, changed profiles, a control.

The three series are `claude`, which is retired, `dice`, a control, and `main`, whose model changes
on the second Monday. Further series are models without batches.
"""

from collections.abc import Mapping
from datetime import date, datetime, timedelta
from uuid import UUID

import psycopg
from api_records import Record

from app.domain import journal
from app.domain.calendar import MEASURED_DAYS, due_at
from app.domain.declarations import sha256_of
from app.domain.model import BatchStatus, JournalKind

FIRST, SECOND, THIRD = (date(2026, 1, day) for day in (5, 12, 19))
DECLARED_AT = due_at(FIRST) - timedelta(days=3)
RETIRED_AT = due_at(THIRD) - timedelta(hours=1)

HASH_A, HASH_B = "a" * 64, "b" * 64
MODEL = {
    "base_url": "",
    "model": "gpt-test",
    "response_format": "json_schema",
    "timeout_seconds": "180",
    "prompt_version": "1",
    "system_prompt_sha256": HASH_A,
    "user_prompt_sha256": HASH_B,
    "schema": '{"type":"object"}',
}
CHANGED_MODEL = {
    **MODEL,
    "model": "gpt-test-2",
    "temperature": "0.2",
    "max_tokens": "4096",
    "token_limit_as": "max_completion_tokens",
    "timeout_seconds": "90.5",
    "prompt_version": "2",
}
CLAUDE = {
    **MODEL,
    "base_url": "https://api.example/v1/",
    "model": "claude-test",
    "reasoning_effort": "low",
    "extra_body": '{"provider":{"require_parameters":true}}',
    "tools": "true",
}
DICE = {
    "draw_version": "1",
    "universe": ["AAPL", "BRK.B", "KO"],
    "universe_source": "a test's list",
}


def profile_hash(profile: Mapping[str, object]) -> str:
    """Return the SHA-256 of a profile."""
    return sha256_of(journal.canonical_json(profile))


def declare(
    record: Record,
    name: str,
    profile: Mapping[str, object],
    *,
    at: datetime = DECLARED_AT,
    holds_from: date = FIRST,
    **members: str,
) -> None:
    """Write a SERIES entry."""
    series = {
        "name": name,
        "label": name.title(),
        "kind": "random" if "universe" in profile else "model",
        "holds_from": holds_from,
        "profile": dict(profile),
        "profile_sha256": profile_hash(profile),
        **members,
    }
    record.write(JournalKind.SERIES, at, {"series": series})


def add_batch(
    record: Record,
    series: str,
    run_date: date,
    ideas: str,
    profile: Mapping[str, object] | None = None,
    *,
    is_complete: bool = True,
) -> UUID:
    """Add a batch, with a question that names its profile; return the batch's id."""
    status = BatchStatus.COMPLETED if is_complete else BatchStatus.ACTIVE
    batch, picks = record.batch(series, run_date, status, ideas)
    if is_complete:
        for day in MEASURED_DAYS:
            record.checkpoint(batch, picks, day)
    if profile is not None:
        # A question that was refused names another profile: the accepted one decides.
        for attempt, asked, accepted in ((1, MODEL, False), (2, profile, True)):
            record.question(
                series,
                run_date,
                attempt,
                batch.id,
                accepted=accepted,
                refusal=None if accepted else "No picks.",
                answer="{}",
                answered_at=due_at(run_date) + timedelta(seconds=9),
                profile_sha256=profile_hash(asked),
            )
    return batch.id


def write_one_series(record: Record) -> None:
    """Write a record with one series, which was never sealed."""
    add_batch(record, "main", FIRST, "AAPL BUY, KO SELL, BRK.B BUY")


def write_three_series(record: Record) -> None:
    """Write a record with three registered series and three Mondays."""
    declare(record, "main", MODEL)
    declare(record, "claude", CLAUDE, label="Claude, with tools")
    declare(record, "dice", DICE)
    for run_date in (FIRST, SECOND):
        add_batch(record, "claude", run_date, "MSFT SELL, KO BUY, NVDA BUY", CLAUDE)
        add_batch(record, "dice", run_date, "XOM BUY, AAPL SELL, KO BUY", DICE)
    add_batch(record, "main", FIRST, "AAPL BUY, KO SELL, BRK.B BUY", MODEL)
    changed_at = due_at(SECOND) - timedelta(hours=1)
    declare(record, "main", CHANGED_MODEL, at=changed_at, holds_from=SECOND)
    add_batch(record, "main", SECOND, "NVDA BUY, XOM SELL, AAPL BUY", CHANGED_MODEL)
    retirement = {"at": RETIRED_AT, "holds_from": THIRD, "retired": "true"}
    declare(record, "claude", CLAUDE, label="Claude, with tools", **retirement)
    add_batch(record, "main", THIRD, "AAPL BUY, KO SELL, XOM BUY", CHANGED_MODEL, is_complete=False)


def write_nine_series(record: Record) -> None:
    """Write the three series and six others, which have a registration and no batch yet."""
    write_three_series(record)
    for number in range(6):
        declare(record, f"model-{number}", {**MODEL, "model": f"model-{number}"}, at=RETIRED_AT)


def write(address: str, *writers: object) -> None:
    """Write a record into an empty database."""
    with psycopg.connect(address) as conn:
        record = Record(conn)
        for writer in writers:
            writer(record)
