"""
Answers that are too long, through the real jobs: what is stored and shown of them, and what they
cost.

The kind: anything that a model or its provider makes too long. The members: an answer that obeys
the rules, one that does not, one that the model refused, one of letters of several bytes, one of
characters that cannot be stored, a body that is not read to its end; and such answers in records of
earlier versions.
"""

import asyncio
import hashlib
import re
from datetime import timedelta
from uuid import uuid4

import msgspec
import pytest
from hostile_bodies import compressed, endless, plain
from independent_verifier.verifier import verify as verify_from_outside
from job_context import (
    CHOSEN,
    MONDAY,
    JobHarness,
    make_answer,
    make_completion,
    new_york,
    run_until_done,
)
from job_context import clock as clock
from job_context import harness as harness
from msgspec.structs import replace
from provider_server import Reply, says
from record_server import check_record, record_server
from served_pages import find_all, find_one, pages_on, parse_page, visible_text

from app.database.pools import transaction
from app.domain import prompt
from app.domain.model import SERIES, Generation
from app.domain.prompt import MAX_ANSWER_BYTES
from app.store import generations

ANSWERS = "SELECT attempt, accepted, refusal, answer FROM generations ORDER BY attempt"
MB = 1_000_000
SENTENCE = re.compile(
    r"\n\nThe answer was cut here\. It had ([\d,]+) bytes; their SHA-256 is ([0-9a-f]{64})\.\Z"
)


def picks(size: int) -> str:
    """
    Return an answer of so many bytes that obeys the rules: a model's thoughts, and then three
    picks.
    """
    body = make_completion(make_answer(*CHOSEN)).body
    answer = msgspec.json.decode(body)["choices"][0]["message"]["content"]
    thought = "<think>{}</think>"
    return thought.format("." * (size - len(answer) - len(thought) + 2)) + answer


def refuses(words: str) -> Reply:
    """Return a completion in which the model refuses with these words."""
    message = {"role": "assistant", "content": None, "refusal": words}
    return says(
        {"model": "m", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    )


async def fits(harness: JobHarness, database: str) -> None:
    """Check the record with `verify` and with the independent verifier."""
    await check_record(database)
    async with record_server(database) as url:
        await asyncio.to_thread(verify_from_outside, url)


@pytest.mark.parametrize(
    ("reply", "whole", "refusal"),
    [
        pytest.param(
            make_completion(picks(300_000)),
            picks(300_000),
            "The answer had 300,000 bytes; at most 65,536 are read.",
            id="picks that obey the rules",
        ),
        pytest.param(
            make_completion(picks(MAX_ANSWER_BYTES + 1)),
            picks(MAX_ANSWER_BYTES + 1),
            "The answer had 65,537 bytes; at most 65,536 are read.",
            id="one byte too many",
            marks=pytest.mark.long,
        ),
        pytest.param(
            make_completion("no JSON " * 100_000),
            "no JSON " * 100_000,
            "The answer had 800,000 bytes; at most 65,536 are read.",
            id="no JSON",
            marks=pytest.mark.long,
        ),
        pytest.param(
            refuses("I will not. " * 50_000),
            "I will not. " * 50_000,
            None,
            id="the model refused",
            marks=pytest.mark.long,
        ),
        pytest.param(
            make_completion("\u4e2d" * 100_000),
            "\u4e2d" * 100_000,
            None,
            id="letters of three bytes",
            marks=pytest.mark.long,
        ),
        pytest.param(
            make_completion("a" + "\U0001f600" * 50_000),
            "a" + "\U0001f600" * 50_000,
            None,
            id="of four bytes",
            marks=pytest.mark.long,
        ),
        pytest.param(
            make_completion("\0" * 100_000),
            "\ufffd" * 100_000,
            None,
            id="what cannot be stored",
            marks=pytest.mark.long,
        ),
        pytest.param(
            make_completion("\x01" * 100_000),
            "\x01" * 100_000,
            None,
            id="controls",
            marks=pytest.mark.long,
        ),
    ],
)
async def test_an_answer_that_is_too_long(harness, database, reply, whole, refusal):
    """
    It is refused, and stored in part with its length and SHA-256; the next question has the reason.
    It costs one question.
    """
    harness.world.model = [reply, make_completion(make_answer(*CHOSEN))]
    await harness.begin()
    (first, second) = await harness.rows(ANSWERS)
    assert (first[1], second[1]) == (False, True)
    assert refusal is None or first[2] == refusal
    stored = first[3]
    match = SENTENCE.search(stored)
    assert match
    beginning = stored[: match.start()]
    assert MAX_ANSWER_BYTES - 4 <= len(stored.encode()) <= MAX_ANSWER_BYTES
    assert whole.startswith(beginning)
    digest = hashlib.sha256(whole.encode()).hexdigest()
    assert match.groups() == (f"{len(whole.encode()):,}", digest)
    assert harness.questions[1].endswith(f"{prompt.REFUSALS_INTRO}\n- {first[2]}\nAnswer anew.")
    assert len(harness.questions[1]) < 2000
    assert (await harness.batch()).status == "active"
    await fits(harness, database)


@pytest.mark.long
async def test_an_answer_of_the_longest_length(harness, database):
    """It is accepted and stored unchanged."""
    answer = picks(MAX_ANSWER_BYTES)
    assert len(answer.encode()) == MAX_ANSWER_BYTES
    harness.world.model = [make_completion(answer)]
    await harness.begin()
    assert [(row[1], row[3]) for row in await harness.rows(ANSWERS)] == [(True, answer)]
    await fits(harness, database)


@pytest.mark.parametrize(
    ("reply", "refusal"),
    [
        pytest.param(
            plain(30 * MB), "more than 1,000,000 bytes", id="30 MB", marks=pytest.mark.long
        ),
        pytest.param(
            make_completion("x" * 30 * MB),
            "more than 1,000,000 bytes",
            id="30 MB of an answer",
            marks=pytest.mark.long,
        ),
        pytest.param(compressed(30 * MB), "more than 1,000,000 bytes", id="30 MB in gzip"),
        pytest.param(
            endless(), "more than 1,000,000 bytes", id="without an end", marks=pytest.mark.long
        ),
        pytest.param(
            plain(30 * MB, 500),
            "InternalServerError",
            id="an error of 30 MB",
            marks=pytest.mark.long,
        ),
    ],
)
async def test_a_body_that_is_too_long(harness, database, reply, refusal):
    """Nothing of it is stored; two of them leave the Monday its third question."""
    harness.world.model = [reply, reply, make_completion(make_answer(*CHOSEN))]
    times = await run_until_done(harness, harness.begin)
    assert times == [
        new_york(MONDAY) + timedelta(minutes=1),
        new_york(MONDAY) + timedelta(minutes=11),
    ]
    rows = await harness.rows(ANSWERS)
    assert [row[1] for row in rows] == [False, False, True]
    assert [row[3] for row in rows[:2]] == [None, None]
    assert all(refusal in row[2] and len(row[2]) < 300 for row in rows[:2])
    assert (await harness.batch()).status == "active"
    await fits(harness, database)


async def an_older_refusal(harness: JobHarness, answer: str) -> None:
    """Store a refused answer whole, as earlier versions did."""
    now = harness.clock.now()
    question = Generation(
        id=uuid4(),
        series=SERIES,
        run_date=MONDAY,
        attempt=1,
        asked_at=now,
        requested_model="m",
        prompt_version="1",
        system_prompt=prompt.VERSION_1.system_prompt,
        user_prompt=prompt.VERSION_1.user_prompt(MONDAY, "SPY"),
    )
    answered = replace(
        question,
        answered_at=now,
        answer=answer,
        accepted=False,
        refusal="The answer was not JSON of the schema: no.",
    )
    async with transaction(harness.context.pool) as conn:
        await generations.claim(conn, question, in_force=None)
        assert await generations.complete(conn, answered, now)


@pytest.mark.parametrize(
    ("letter", "size"),
    [
        pytest.param("<", 2 * MB, id="2 MB of markup"),
        pytest.param("x", 30 * MB, id="30 MB", marks=pytest.mark.long),
        pytest.param("<", 30 * MB, id="30 MB of markup", marks=pytest.mark.long),
        pytest.param("\u4e2d", 30 * MB, id="30 MB of other letters", marks=pytest.mark.long),
    ],
)
async def test_a_page_of_an_older_record(harness, database, size, letter):
    """
    The page shows the beginning of an answer, states its whole length, and links to all of it.
    """
    whole = letter * (size // len(letter.encode()))
    await an_older_refusal(harness, whole)
    await harness.begin()
    async with pages_on(harness.context.pool) as browser:
        response = await browser.get(f"/batches/{MONDAY}")
        print(f"\nan answer of {size:,} bytes: a page of {len(response.content):,} bytes")
        assert response.status_code == 200
        assert len(response.content) < 200_000
        page = parse_page(response)
        (first,) = [
            element for element in find_all(page, "details") if element.get("id") == "answer-1"
        ]
        assert visible_text(find_one(first, "pre")) == letter * 16_384
        notice = visible_text(find_one(first, "p"))
        assert notice.startswith(
            f"These are the first 16,384 characters of an answer of {len(whole.encode()):,} bytes."
        )
        (second,) = [
            element for element in find_all(page, "details") if element.get("id") == "answer-2"
        ]
        assert not find_all(second, "p")
        for path in ("/", "/feed.atom", "/record", "/batches"):
            assert len((await browser.get(path)).content) < 200_000
    await check_record(database)
