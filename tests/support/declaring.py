"""What is in force in a process of a test, and the questions that it asks."""

from datetime import date, datetime
from uuid import uuid4

from msgspec.structs import replace

from app.domain.calendar import Calendar
from app.domain.declarations import InForce, Profile, RecordSettings, SeriesInForce
from app.domain.model import Generation

PROFILE = Profile(
    base_url="",
    model="gpt-5.4-mini",
    response_format="json_schema",
    timeout_seconds="180",
    prompt_version="1",
    system_prompt_sha256="a" * 64,
    user_prompt_sha256="b" * 64,
    schema="{}",
)

# Settings of a journal, whose calendar lists no days yet.
SETTINGS = RecordSettings(
    version="0.3.0",
    benchmark="SPY",
    price_source="alphavantage",
    calendar_from=date(2026, 1, 2),
    calendar_to=date(2028, 12, 31),
)


def in_force(**changes: object) -> InForce:
    """Return what is in force in a process."""
    usual = InForce(
        version="0.3.0",
        benchmark="SPY",
        price_source="alphavantage",
        calendar=Calendar(),
        series=(SeriesInForce(name="main", label="gpt-5.4-mini", profile=PROFILE),),
    )
    return replace(usual, **changes)


def question(
    run_date: date, asked_at: datetime, attempt: int = 1, series: str = "main"
) -> Generation:
    """Return a question that was not stored yet."""
    return Generation(
        id=uuid4(),
        series=series,
        run_date=run_date,
        attempt=attempt,
        asked_at=asked_at,
        requested_model="gpt-5.4-mini",
        prompt_version="1",
        system_prompt="System.",
        user_prompt="User.",
    )
