"""
Mondays on which the model fails: the questions, what is stored of them, and what they cost. The
model's simulator stores each question before it answers, whatever happens to the answer. So its
count is the number of questions on the bill.
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from clocks import HandSetClock
from commands import environment
from job_context import (
    MONDAY,
    new_york,
    open_context,
    rows,
    run_attempt,
    run_until_done,
    standins,
)
from job_context import clock as clock
from msgspec import Struct

from app.database import pools
from app.domain.journal import GENESIS_HASH, entry_hash
from app.domain.model import QUESTIONS_PER_MONDAY, batch_id
from app.errors import QuestionInProgress
from app.simulation.faults import FaultRule
from jobs import weekly
from jobs.context import Context

CHOSEN = ["JPM", "UPS", "NVDA"]  # the simulated model's picks of that Monday
PROSE = "The answer was not JSON of the schema: JSON is malformed: invalid character (byte 0)."
TWO = "The answer had 2 picks; exactly 3 are needed."
REFUSED = "The model refused: I can't help with that."


class Stage(Struct, frozen=True):
    """A context whose provider simulators have a script of faults."""

    database: str
    url: str
    context: Context
    clock: HandSetClock
    log: Path

    async def begin(self, job_id: int = 1, questions: int | None = None) -> None:
        """Run the weekly job's function."""
        await weekly.run_if_due(self.context, job_id, questions)

    async def begin_manually(self, job_id: int) -> None:
        """Run the weekly job's function as `alpha-monday pick` does."""
        await self.begin(job_id, len(await self.generations()) + QUESTIONS_PER_MONDAY)

    def requested_symbols(self, provider: str = "alphavantage") -> list[str]:
        """Return the symbols of the requests that a simulator received, in order."""
        lines = map(json.loads, self.log.read_text().splitlines())
        return [line["symbol"] for line in lines if line["provider"] == provider]

    @property
    def questions(self) -> int:
        """Return the number of questions that the model's simulator received."""
        return len(self.requested_symbols("openai"))

    async def generations(self) -> list[tuple[int, bool | None, str | None]]:
        """Return the stored questions: attempt, accepted, refusal."""
        return await rows(
            self.context.pool, "SELECT attempt, accepted, refusal FROM generations ORDER BY attempt"
        )

    async def prompt(self, attempt: int) -> str:
        """Return a question's prompt."""
        ((prompt,),) = await rows(
            self.context.pool, "SELECT user_prompt FROM generations WHERE attempt = %s", attempt
        )
        return prompt

    async def batches(self) -> list[tuple]:
        """Return all rows of a Monday: id, status, reason, late."""
        return await rows(self.context.pool, "SELECT id, status, failure_reason, late FROM batches")

    async def picks(self) -> list[str]:
        """Return the tickers of the picks, in the model's order."""
        return [
            ticker
            for (ticker,) in await rows(
                self.context.pool, "SELECT ticker FROM picks ORDER BY position"
            )
        ]

    async def jobs(self) -> int:
        """Return the number of waiting checkpoint jobs."""
        ((count,),) = await rows(
            self.context.pool, "SELECT count(*) FROM procrastinate_jobs WHERE status = 'todo'"
        )
        return count

    async def journal(self) -> list[str]:
        """
        Return the entries in short, without the declarations, the claims and the readings.

        The chain is complete, and each question is claimed before it has an outcome.
        """
        summaries, previous = [], GENESIS_HASH
        claimed: set[str] = set()
        entries = await rows(
            self.context.pool, "SELECT seq, kind, content, previous, hash FROM journal ORDER BY seq"
        )
        for number, (seq, kind, content, before, hash_) in enumerate(entries, 1):
            assert (seq, before, hash_) == (number, previous, entry_hash(previous, content))
            previous = hash_
            recorded = json.loads(content)
            if kind in ("GENESIS", "SERIES", "READINGS"):
                continue
            if kind == "GENERATION":
                question = recorded["generation"]
                if "accepted" not in question:
                    assert question["id"] not in claimed
                    claimed.add(question["id"])
                    continue
                assert question["id"] in claimed
            summaries.append(in_short(kind, recorded))
        return summaries

    async def kinds(self) -> list[str]:
        """Return the kinds of all entries."""
        entries = await rows(self.context.pool, "SELECT kind FROM journal ORDER BY seq")
        return [kind for (kind,) in entries]


def in_short(kind: str, content: dict) -> str:
    """Return an entry in a few words."""
    if kind == "GENERATION":
        generation = content["generation"]
        return f"{generation['attempt']} {'refused' if generation.get('refusal') else 'accepted'}"
    return f"{kind} {content['batch']['status']}"


@pytest.fixture
def on_stage(database, pool, clock, tmp_path):
    """Set up a stage with a script."""

    @asynccontextmanager
    async def set_up(*rules: FaultRule) -> AsyncIterator[Stage]:
        log = tmp_path / "requests"
        async with (
            standins(clock, log, rules) as url,
            open_context(database=database, pool=pool, clock=clock, base_url=url) as context,
        ):
            yield Stage(database=database, url=url, context=context, clock=clock, log=log)

    return set_up


def model(fault: str, times: int | None = None) -> FaultRule:
    return FaultRule(provider="openai", fault=fault, times=times)


def prices(fault: str, symbol: str, times: int | None = None) -> FaultRule:
    return FaultRule(provider="alphavantage", fault=fault, symbol=symbol, times=times)


ID = batch_id("main", MONDAY)


async def test_two_bad_answers_and_a_good_third_one(on_stage):
    """The third question has the reasons for both refusals, and its answer becomes the picks."""
    async with on_stage(model("prose", 1), model("two_picks", 1)) as stage:
        await stage.begin()
        assert stage.questions == 3
        assert await stage.generations() == [(1, False, PROSE), (2, False, TWO), (3, True, None)]
        assert await stage.journal() == ["1 refused", "2 refused", "3 accepted", "BATCH active"]
        assert await stage.batches() == [(ID, "active", None, False)]
        assert await stage.picks() == CHOSEN
        assert (await stage.prompt(3)).endswith(
            f"could not be used:\n- {PROSE}\n- {TWO}\nAnswer anew."
        )
        assert stage.requested_symbols() == ["SPY", *CHOSEN]


async def test_three_bad_answers(on_stage):
    """The Monday fails, and neither a tick nor a retry of its job sends a fourth question."""
    async with on_stage(model("two_picks")) as stage:
        await stage.begin()
        await stage.begin()
        await stage.begin(job_id=2)
        assert stage.questions == 3
        assert await stage.generations() == [(1, False, TWO), (2, False, TWO), (3, False, TWO)]
        assert await stage.journal() == ["1 refused", "2 refused", "3 refused", "FAILURE failed"]
        assert await stage.batches() == [(ID, "failed", "NO_USABLE_ANSWER", False)]
        assert (stage.requested_symbols(), await stage.picks(), await stage.jobs()) == ([], [], 0)


async def test_a_model_that_refuses(on_stage):
    """
    A refusal is an answer: it is stored unchanged, it counts as a question, and the next one is
    sent.
    """
    async with on_stage(model("refusal", 2)) as stage:
        await stage.begin()
        assert stage.questions == 3
        assert await stage.generations() == [
            (1, False, REFUSED),
            (2, False, REFUSED),
            (3, True, None),
        ]
        assert await stage.journal() == ["1 refused", "2 refused", "3 accepted", "BATCH active"]
        stored = await rows(
            stage.context.pool,
            """
            SELECT
                answer, answered_at, request_id IS NOT NULL,
                prompt_tokens > 0, completion_tokens > 0
            FROM generations
            WHERE attempt = 1
            """,
        )
        assert stored == [("I can't help with that.", new_york(MONDAY), True, True, True)]


async def test_a_time_out_after_having_been_charged(on_stage):
    """
    A question that gets no answer in time counts. A second question is sent, without a reason for
    the model.
    """
    async with on_stage(model("slow", 1)) as stage:
        stage.context.model_clients["main"].timeout = 2.0
        assert await run_until_done(stage, stage.begin) == [new_york(MONDAY, 9, 1)]
        assert stage.questions == 2
        assert await stage.generations() == [
            (1, False, "The model did not answer within 2 s."),
            (2, True, None),
        ]
        assert await stage.journal() == ["1 refused", "2 accepted", "BATCH active"]
        assert await stage.prompt(1) == await stage.prompt(2)
        stored = await rows(
            stage.context.pool, "SELECT answer, answered_at FROM generations WHERE attempt = 1"
        )
        assert stored == [(None, None)]


@pytest.mark.parametrize(
    ("rules", "generations"),
    [
        pytest.param([], [(1, True, None)], id="a good answer"),
        pytest.param(
            [model("prose", 1)],
            [(1, False, PROSE), (2, True, None)],
            id="a bad answer, then a good one",
        ),
        pytest.param(
            [model("prose")],
            [(1, False, PROSE), (2, False, PROSE), (3, False, PROSE)],
            id="only bad answers",
        ),
    ],
)
async def test_two_processes_at_once(on_stage, clock, rules, generations):
    """
    Each question is sent by one process only; there is one batch, one entry and fourteen jobs.
    """
    async with (
        on_stage(*rules) as stage,
        pools.opened(pools.make_pool(stage.database, max_size=5)) as pool,
        open_context(database=stage.database, pool=pool, clock=clock, base_url=stage.url) as others,
    ):
        processes = [stage.context, others]
        for _ in range(6):
            later = await asyncio.gather(
                *(run_attempt(lambda t=t: weekly.run_if_due(t, 1, None)) for t in processes)
            )
            if not any(later):
                break
            clock.time = max(clock.time, *(at for at in later if at))
        assert later == [None, None]
        assert stage.questions == len(generations)
        assert await stage.generations() == generations
        made = generations[-1][1]
        questions = [
            f"{attempt} {'accepted' if accepted else 'refused'}"
            for attempt, accepted, _ in generations
        ]
        assert await stage.journal() == [*questions, "BATCH active" if made else "FAILURE failed"]
        assert [(id, status) for id, status, _, _ in await stage.batches()] == [
            (ID, "active" if made else "failed")
        ]
        assert (await stage.picks(), await stage.jobs()) == ((CHOSEN, 14) if made else ([], 0))
        assert stage.requested_symbols() == (["SPY", *CHOSEN] if made else [])


A_PROCESS = """
import asyncio, sys
from clocks import HandSetClock
from job_context import MONDAY, new_york, open_context
from app.database import pools
from jobs import weekly

async def main(database, url):
    clock = HandSetClock(new_york(MONDAY))
    async with (
        pools.opened(pools.make_pool(database)) as pool,
        open_context(database, pool, clock, url) as context,
    ):
        await weekly.run_if_due(context, 1, None)

asyncio.run(main(*sys.argv[1:]))
"""


async def killed(stage: Stage, provider: str) -> None:
    """Run the Monday in a separate process, and kill it when it has made a request."""
    command = [sys.executable, "-c", A_PROCESS, stage.database, stage.url]
    with subprocess.Popen(
        command, env=environment(PYTHONPATH=str(Path(__file__).parents[1] / "support"))
    ) as process:
        async with asyncio.timeout(30):
            while not stage.requested_symbols(provider):
                assert process.poll() is None
                await asyncio.sleep(0.02)
        process.kill()


async def test_a_crash_in_the_middle_of_a_question(on_stage):
    """The open question stays open while an answer may still arrive; then the next one is sent."""
    async with on_stage(model("hang", 1)) as stage:
        await killed(stage, "openai")
        assert await stage.generations() == [(1, None, None)]
        assert await stage.kinds() == ["GENESIS", "SERIES", "GENERATION"]
        assert await stage.journal() == []

        stage.clock.time = new_york(MONDAY) + timedelta(seconds=184)
        with pytest.raises(QuestionInProgress) as open_:
            await stage.begin()
        assert open_.value.at == new_york(MONDAY) + timedelta(seconds=185)
        assert stage.questions == 1

        stage.clock.time = open_.value.at
        await stage.begin()
        assert stage.questions == 2
        assert await stage.generations() == [
            (1, False, "No answer was stored: whoever asked was cut off."),
            (2, True, None),
        ]
        assert await stage.journal() == ["1 refused", "2 accepted", "BATCH active"]
        assert await stage.picks() == CHOSEN


async def test_a_crash_after_the_answer(on_stage):
    """
    An accepted answer survives its process: the closes are requested again, and no question is
    sent.
    """
    async with on_stage(prices("hang", "SPY", 1)) as stage:
        await killed(stage, "alphavantage")
        assert await stage.journal() == ["1 accepted"]
        assert await stage.batches() == []

        await stage.begin()
        assert stage.questions == 1
        assert await stage.generations() == [(1, True, None)]
        assert await stage.journal() == ["1 accepted", "BATCH active"]
        assert (await stage.picks(), await stage.jobs()) == (CHOSEN, 14)
        assert stage.requested_symbols() == ["SPY", "SPY", *CHOSEN]


async def test_an_unknown_ticker_at_the_snapshot(on_stage):
    """
    The accepted answer is refused after all, in the journal too; the next question has the reason.
    """
    async with on_stage(model("unknown_ticker", 1)) as stage:
        await stage.begin()
        assert stage.questions == 2
        refusal = "Alpha Vantage does not know ZZZZ."
        assert await stage.generations() == [(1, False, refusal), (2, True, None)]
        assert await stage.journal() == ["1 accepted", "1 refused", "2 accepted", "BATCH active"]
        assert f"\n- {refusal}\n" in await stage.prompt(2)
        assert await stage.picks() == CHOSEN
        assert stage.requested_symbols() == ["SPY", *["ZZZZ"] * 5, *CHOSEN]


async def test_a_delisted_ticker_at_the_snapshot(on_stage):
    """Old bars are no price: each answer with that ticker is refused, and it is requested once."""
    async with on_stage(prices("delisted", "UPS")) as stage:
        await stage.begin()
        assert stage.questions == 3
        refusal = "UPS has no recent price; it is no longer traded."
        assert await stage.generations() == [
            (1, False, refusal),
            (2, False, refusal),
            (3, False, refusal),
        ]
        taken_back = [
            f"{attempt} {what}" for attempt in (1, 2, 3) for what in ("accepted", "refused")
        ]
        assert await stage.journal() == [*taken_back, "FAILURE failed"]
        assert await stage.batches() == [(ID, "failed", "NO_USABLE_ANSWER", False)]
        assert f"\n- {refusal}\n" in await stage.prompt(3)
        assert stage.requested_symbols() == ["SPY", *CHOSEN]


@pytest.mark.parametrize(
    ("rules", "first", "second", "reason"),
    [
        pytest.param([model("prose", 4)], 3, 2, "NO_USABLE_ANSWER", id="after three bad answers"),
        pytest.param(
            [model("bad_key", 1), model("prose", 2)], 1, 3, "CONFIGURATION", id="after a bad key"
        ),
        pytest.param([model("http_503", 3)], 3, 1, "PROVIDER_ERROR", id="after three failures"),
        pytest.param(
            [prices("http_500", "SPY", 18)],
            1,
            0,
            "PROVIDER_ERROR",
            id="after failures of the prices",
        ),
    ],
)
async def test_a_second_manual_run(on_stage, rules, first, second, reason):
    """
    The row and its id stay; three more questions continue the numbers; an accepted answer is used.
    """
    async with on_stage(*rules) as stage:
        await run_until_done(stage, stage.begin)
        assert stage.questions == first
        ((*batch, late),) = await stage.batches()
        assert batch == [ID, "failed", reason]
        assert late == (second == 0)  # only prices are waited for all day
        before = await stage.journal()
        assert before[-1] == "FAILURE failed"

        stage.clock.time = new_york(MONDAY, 21)
        await stage.begin_manually(2)
        assert stage.questions == first + second
        generations = await stage.generations()
        assert [attempt for attempt, _, _ in generations] == list(range(1, first + second + 1))
        assert [accepted for _, accepted, _ in generations] == [False] * (first + second - 1) + [
            True
        ]
        assert await stage.batches() == [(ID, "active", None, True)]
        assert (await stage.picks(), await stage.jobs()) == (CHOSEN, 14)
        numbered_on = [f"{attempt} refused" for attempt in range(first + 1, first + second)]
        accepted = [f"{first + second} accepted"] if second else []
        assert await stage.journal() == [*before, *numbered_on, *accepted, "BATCH active"]


async def test_a_second_manual_run_that_fails_too(on_stage):
    """Six questions in all and no more: the row has the newer failure, and the journal has both."""
    async with on_stage(model("prose")) as stage:
        await stage.begin()
        stage.clock.time = new_york(MONDAY, 11)
        await stage.begin_manually(2)
        await stage.begin(job_id=3)
        assert stage.questions == 6
        assert await stage.generations() == [(attempt, False, PROSE) for attempt in range(1, 7)]
        questions = [f"{attempt} refused" for attempt in range(1, 7)]
        assert await stage.journal() == [
            *questions[:3],
            "FAILURE failed",
            *questions[3:],
            "FAILURE failed",
        ]
        assert await stage.batches() == [(ID, "failed", "NO_USABLE_ANSWER", True)]
        ((failure,),) = await rows(stage.context.pool, "SELECT failure FROM batches")
        assert failure == f"6 questions brought no usable answer. The last: {PROSE}"
        assert await stage.jobs() == 0
