"""
Questions whose answers are missing: the page of the batch, `show` and the record's page say so, in
plain words.
"""

import json
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from api_records import WON, Record, engine_on
from served_pages import find_all, find_one, pages_on, parse_page, visible_text

from app.domain.model import BatchStatus

ANSWERED = datetime(2026, 1, 5, 14, 0, 9, tzinfo=UTC)
ACCEPTED: dict[str, Any] = {"accepted": True, "answer": "{}", "answered_at": ANSWERED}
REFUSED: dict[str, Any] = {
    "accepted": False,
    "answer": "{}",
    "answered_at": ANSWERED,
    "refusal": 'No "picks".',
}
LOST: dict[str, Any] = {"accepted": False, "refusal": "The process ended before the answer came."}
OPEN: dict[str, Any] = {}

ORDINARY = "The model was asked"


def asked(times: str, lost: str) -> str:
    return f"The model was asked {times}; {lost} lost."


CASES = [
    pytest.param([ACCEPTED], [], 0, id="one question"),
    pytest.param([REFUSED, ACCEPTED], [], 0, id="a refused answer is not lost"),
    pytest.param([LOST, ACCEPTED], [asked("twice", "the first answer was")], 1, id="twice"),
    pytest.param(
        [LOST, LOST, ACCEPTED],
        [asked("three times", "the first and the second answer were")],
        2,
        id="three times",
    ),
    pytest.param(
        [REFUSED, LOST, ACCEPTED],
        [asked("three times", "the second answer was")],
        1,
        id="the second one",
    ),
    pytest.param(
        [LOST, REFUSED, ACCEPTED],
        [asked("three times", "the first answer was")],
        1,
        id="the first one, and a refused one",
    ),
    pytest.param(
        [LOST, LOST, LOST, REFUSED, LOST, ACCEPTED],
        [asked("six times", "the first, the second, the third and the fifth answer were")],
        4,
        id="six times",
    ),
    pytest.param(
        [*[REFUSED] * 7, LOST, ACCEPTED],
        [asked("9 times", "the 8th answer was")],
        1,
        id="nine times",
    ),
    pytest.param([LOST], [], 0, id="lost, and no other question"),
    pytest.param(
        [LOST, LOST], [asked("twice", "the first answer was")], 1, id="the last one is lost, too"
    ),
    pytest.param(
        [OPEN], ["Question 1 is still open: no answer has arrived yet."], 0, id="an open one"
    ),
    pytest.param(
        [LOST, OPEN],
        [
            asked("twice", "the first answer was"),
            "Question 2 is still open: no answer has arrived yet.",
        ],
        1,
        id="a lost one and an open one",
    ),
    pytest.param(
        [OPEN, ACCEPTED],
        ["Question 1 is still open, although the model was asked again."],
        0,
        id="an open one before the accepted one",
    ),
]
by_case = pytest.mark.parametrize(("outcomes", "sentences", "lost"), CASES)


def write_questions(address: str, outcomes: list[dict[str, Any]]) -> None:
    with psycopg.connect(address) as conn:
        record = Record(conn)
        batch, _ = record.batch("main", WON, BatchStatus.ACTIVE, "AAPL BUY, KO SELL, BRK.B BUY")
        for attempt, outcome in enumerate(outcomes, 1):
            record.question("main", WON, attempt, batch.id, **outcome)


@by_case
@pytest.mark.sampled(4)
async def test_the_page_of_the_batch(outcomes, sentences, lost, database, pool):
    write_questions(database, outcomes)
    async with pages_on(pool) as browser:
        page = parse_page(await browser.get("/batches/2026-01-05"))
    shown = [visible_text(item) for item in find_all(page, "b")]
    about_questions = [
        words for words in shown if words.startswith((ORDINARY, "Question ")) and words[-1] == "."
    ]
    assert about_questions == sentences
    # Each question stays visible by itself.
    assert len(find_all(page, "article", class_="question")) == len(outcomes)


@by_case
def test_show(outcomes, sentences, lost, database, commanded):
    write_questions(database, outcomes)
    done = commanded("show", "2026-01-05", DATABASE_URL=database)
    assert done.exit_code == 0, done.error
    lines = done.output.splitlines()
    printed = [line for line in lines if line.startswith((ORDINARY, "Question "))]
    assert printed == sentences


@by_case
@pytest.mark.sampled(4)
async def test_the_api_and_the_page_of_the_record(outcomes, sentences, lost, database, pool):
    write_questions(database, outcomes)
    data = json.loads((await engine_on(pool).execute("{ service { lostAnswers } }")).body)["data"]
    assert data["service"]["lostAnswers"] == lost
    async with pages_on(pool) as browser:
        page = parse_page(await browser.get("/record"))
    words = visible_text(find_one(page, "main"))
    expected = {
        0: None,
        1: "An answer of the model was lost once, and the model was asked again.",
        2: "Answers of the model were lost twice, and the model was asked again each time.",
        4: "Answers of the model were lost 4 times, and the model was asked again each time.",
    }[lost]
    if expected is None:
        assert "lost" not in words
    else:
        assert expected in words


async def test_the_profile_of_a_question(database, pool):
    """A question of a sealed record names its profile."""
    write_questions(database, [ACCEPTED])
    profile = "ab" * 32
    with psycopg.connect(database) as conn:
        conn.execute("SET session_replication_role = replica")
        conn.execute("UPDATE generations SET profile_sha256 = %s", (profile,))
    query = "{ latestBatch { generations { profileSha256 } } }"
    data = json.loads((await engine_on(pool).execute(query)).body)["data"]
    assert data["latestBatch"]["generations"] == [{"profileSha256": profile}]
    async with pages_on(pool) as browser:
        page = parse_page(await browser.get("/batches/2026-01-05"))
    assert f"SHA-256 of the profile: {profile}." in visible_text(find_one(page, "main"))
