"""
Mondays on which the model fails: what is asked, what is kept of it, and what it cost.

The stand-in for the model writes each question down before it answers, whatever becomes of the answer: what it counts
is what would be on the bill.
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
from job_tools import MONDAY, new_york, rows, standins, the_time_it_says, tools_for, until_it_can
from job_tools import clock as clock
from msgspec import Struct

from app.database import pools
from app.domain.journal import GENESIS, digest
from app.domain.model import QUESTIONS_PER_MONDAY, batch_id
from app.errors import QuestionInProgress
from app.simulation.faults import Rule
from jobs import weekly
from jobs.context import Context

CHOSEN = ["JPM", "UPS", "NVDA"]  # by the stand-ins' model, on that Monday
PROSE = "The answer was not JSON of the schema: JSON is malformed: invalid character (byte 0)."
TWO = "The answer had 2 picks; exactly 3 are needed."
REFUSED = "The model refused: I can't help with that."


class Stage(Struct, frozen=True):
    """Providers as a script has them, and tools that lead to them."""

    database: str
    url: str
    tools: Context
    clock: HandSetClock
    log: Path

    async def begin(self, job_id: int = 1, questions: int | None = None) -> None:
        """Run the weekly job's function."""
        await weekly.begin(self.tools, job_id, questions)

    async def begin_by_hand(self, job_id: int) -> None:
        """Run the weekly job's function as `alpha-monday pick` has it run."""
        await self.begin(job_id, len(await self.generations()) + QUESTIONS_PER_MONDAY)

    def asked(self, provider: str = "alphavantage") -> list[str]:
        """The symbols that a stand-in was asked for, in their order."""
        lines = map(json.loads, self.log.read_text().splitlines())
        return [line["symbol"] for line in lines if line["provider"] == provider]

    @property
    def questions(self) -> int:
        """How many questions the stand-in for the model counts."""
        return len(self.asked("openai"))

    async def generations(self) -> list[tuple[int, bool | None, str | None]]:
        """The questions as they are kept: attempt, accepted, refusal."""
        return await rows(self.tools.pool, "SELECT attempt, accepted, refusal FROM generations ORDER BY attempt")

    async def prompt(self, attempt: int) -> str:
        """What the model was asked."""
        ((prompt,),) = await rows(self.tools.pool, "SELECT user_prompt FROM generations WHERE attempt = %s", attempt)
        return prompt

    async def batches(self) -> list[tuple]:
        """Every row of a Monday: id, status, reason, late."""
        return await rows(self.tools.pool, "SELECT id, status, failure_reason, late FROM batches")

    async def picks(self) -> list[str]:
        """The tickers of the picks, in the model's order."""
        return [ticker for (ticker,) in await rows(self.tools.pool, "SELECT ticker FROM picks ORDER BY position")]

    async def jobs(self) -> int:
        """How many mornings wait."""
        ((count,),) = await rows(self.tools.pool, "SELECT count(*) FROM procrastinate_jobs WHERE status = 'todo'")
        return count

    async def journal(self) -> list[str]:
        """What the entries say in short, the chain being whole."""
        said, previous = [], GENESIS
        entries = await rows(self.tools.pool, "SELECT seq, kind, content, previous, hash FROM journal ORDER BY seq")
        for number, (seq, kind, content, before, hash_) in enumerate(entries, 1):
            assert (seq, before, hash_) == (number, previous, digest(previous, content))
            previous = hash_
            said.append(in_short(kind, json.loads(content)))
        return said


def in_short(kind: str, content: dict) -> str:
    """An entry in a few words."""
    if kind == "GENERATION":
        generation = content["generation"]
        return f"{generation['attempt']} {'refused' if generation.get('refusal') else 'accepted'}"
    return f"{kind} {content['batch']['status']}"


@pytest.fixture
def on_stage(database, pool, clock, tmp_path):
    """Set up a stage with a script."""

    @asynccontextmanager
    async def set_up(*rules: Rule) -> AsyncIterator[Stage]:
        log = tmp_path / "requests"
        async with standins(clock, log, rules) as url, tools_for(database, pool, clock, url) as tools:
            yield Stage(database, url, tools, clock, log)

    return set_up


def model(fault: str, times: int | None = None) -> Rule:
    return Rule(provider="openai", fault=fault, times=times)


def prices(fault: str, symbol: str, times: int | None = None) -> Rule:
    return Rule(provider="alphavantage", fault=fault, symbol=symbol, times=times)


ID = batch_id("main", MONDAY)


async def test_badly_twice_and_well_the_third_time(on_stage):
    """The third question is told what was wrong with both answers, and its answer becomes the picks."""
    async with on_stage(model("prose", 1), model("two_picks", 1)) as stage:
        await stage.begin()
        assert stage.questions == 3
        assert await stage.generations() == [(1, False, PROSE), (2, False, TWO), (3, True, None)]
        assert await stage.journal() == ["1 refused", "2 refused", "3 accepted", "BATCH active"]
        assert await stage.batches() == [(ID, "active", None, False)]
        assert await stage.picks() == CHOSEN
        assert (await stage.prompt(3)).endswith(f"could not be used:\n- {PROSE}\n- {TWO}\nAnswer anew.")
        assert stage.asked() == ["SPY", *CHOSEN]


async def test_badly_three_times(on_stage):
    """The Monday has failed, and neither a tick nor its job's next attempt asks a fourth time."""
    async with on_stage(model("two_picks")) as stage:
        await stage.begin()
        await stage.begin()
        await stage.begin(job_id=2)
        assert stage.questions == 3
        assert await stage.generations() == [(1, False, TWO), (2, False, TWO), (3, False, TWO)]
        assert await stage.journal() == ["1 refused", "2 refused", "3 refused", "FAILURE failed"]
        assert await stage.batches() == [(ID, "failed", "NO_USABLE_ANSWER", False)]
        assert (stage.asked(), await stage.picks(), await stage.jobs()) == ([], [], 0)


async def test_a_model_that_refuses(on_stage):
    """A refusal is an answer: it is kept to the letter and paid for, and the model is asked again."""
    async with on_stage(model("refusal", 2)) as stage:
        await stage.begin()
        assert stage.questions == 3
        assert await stage.generations() == [(1, False, REFUSED), (2, False, REFUSED), (3, True, None)]
        assert await stage.journal() == ["1 refused", "2 refused", "3 accepted", "BATCH active"]
        kept = await rows(
            stage.tools.pool,
            """
            SELECT answer, answered_at, request_id IS NOT NULL, prompt_tokens > 0, completion_tokens > 0
            FROM generations
            WHERE attempt = 1
            """,
        )
        assert kept == [("I can't help with that.", new_york(MONDAY), True, True, True)]


async def test_a_time_out_after_having_been_charged(on_stage):
    """What is not answered in time counts as asked: a second question, nothing for the model to be told."""
    async with on_stage(model("slow", 1)) as stage:
        stage.tools.picker.timeout = 2.0
        assert await until_it_can(stage, stage.begin) == [new_york(MONDAY, 9, 1)]
        assert stage.questions == 2
        assert await stage.generations() == [(1, False, "The model did not answer within 2 s."), (2, True, None)]
        assert await stage.journal() == ["1 refused", "2 accepted", "BATCH active"]
        assert await stage.prompt(1) == await stage.prompt(2)
        kept = await rows(stage.tools.pool, "SELECT answer, answered_at FROM generations WHERE attempt = 1")
        assert kept == [(None, None)]


@pytest.mark.parametrize(
    ("rules", "generations"),
    [
        pytest.param([], [(1, True, None)], id="and are answered well"),
        pytest.param([model("prose", 1)], [(1, False, PROSE), (2, True, None)], id="and are answered badly at first"),
        pytest.param(
            [model("prose")], [(1, False, PROSE), (2, False, PROSE), (3, False, PROSE)], id="and are answered badly"
        ),
    ],
)
async def test_two_processes_at_once(on_stage, clock, rules, generations):
    """Each question is asked once, whoever asks it; there is one batch, with one entry and its fourteen mornings."""
    async with (
        on_stage(*rules) as stage,
        pools.opened(pools.make_pool(stage.database, size=5)) as pool,
        tools_for(stage.database, pool, clock, stage.url) as others,
    ):
        processes = [stage.tools, others]
        for _ in range(6):
            later = await asyncio.gather(*(the_time_it_says(lambda t=t: weekly.begin(t, 1, None)) for t in processes))
            if not any(later):
                break
            clock.time = max(clock.time, *(at for at in later if at))
        assert later == [None, None]
        assert stage.questions == len(generations)
        assert await stage.generations() == generations
        made = generations[-1][1]
        questions = [f"{attempt} {'accepted' if accepted else 'refused'}" for attempt, accepted, _ in generations]
        assert await stage.journal() == [*questions, "BATCH active" if made else "FAILURE failed"]
        assert [(id, status) for id, status, _, _ in await stage.batches()] == [(ID, "active" if made else "failed")]
        assert (await stage.picks(), await stage.jobs()) == ((CHOSEN, 14) if made else ([], 0))
        assert stage.asked() == (["SPY", *CHOSEN] if made else [])


A_PROCESS = """
import asyncio, sys
from clocks import HandSetClock
from job_tools import MONDAY, new_york, tools_for
from app.database import pools
from jobs import weekly

async def main(database, url):
    clock = HandSetClock(new_york(MONDAY))
    async with pools.opened(pools.make_pool(database)) as pool, tools_for(database, pool, clock, url) as tools:
        await weekly.begin(tools, 1, None)

asyncio.run(main(*sys.argv[1:]))
"""


async def killed(stage: Stage, provider: str) -> None:
    """Run the Monday in a process of its own, and kill it when it has asked a provider."""
    command = [sys.executable, "-c", A_PROCESS, stage.database, stage.url]
    with subprocess.Popen(command, env=environment(PYTHONPATH=str(Path(__file__).parents[1] / "support"))) as process:
        async with asyncio.timeout(30):
            while not stage.asked(provider):
                assert process.poll() is None
                await asyncio.sleep(0.02)
        process.kill()


async def test_a_crash_in_the_middle_of_a_question(on_stage):
    """The open question is left alone while an answer may still come; then it was in vain, and the next is asked."""
    async with on_stage(model("hang", 1)) as stage:
        await killed(stage, "openai")
        assert await stage.generations() == [(1, None, None)]
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
    """An accepted answer outlives its process: the closes are asked for again, the model is not."""
    async with on_stage(prices("hang", "SPY", 1)) as stage:
        await killed(stage, "alphavantage")
        assert await stage.journal() == ["1 accepted"]
        assert await stage.batches() == []

        await stage.begin()
        assert stage.questions == 1
        assert await stage.generations() == [(1, True, None)]
        assert await stage.journal() == ["1 accepted", "BATCH active"]
        assert (await stage.picks(), await stage.jobs()) == (CHOSEN, 14)
        assert stage.asked() == ["SPY", "SPY", *CHOSEN]


async def test_a_ticker_that_nobody_knows_at_the_snapshot(on_stage):
    """The accepted answer is taken back, in the journal too; the next question says why."""
    async with on_stage(model("unknown_ticker", 1)) as stage:
        await stage.begin()
        assert stage.questions == 2
        refusal = "Alpha Vantage does not know ZZZZ."
        assert await stage.generations() == [(1, False, refusal), (2, True, None)]
        assert await stage.journal() == ["1 accepted", "1 refused", "2 accepted", "BATCH active"]
        assert f"\n- {refusal}\n" in await stage.prompt(2)
        assert await stage.picks() == CHOSEN
        assert stage.asked() == ["SPY", *["ZZZZ"] * 5, *CHOSEN]


async def test_a_delisted_ticker_at_the_snapshot(on_stage):
    """Bars that ended long ago are no price: each answer with that ticker is taken back, and it is asked for once."""
    async with on_stage(prices("delisted", "UPS")) as stage:
        await stage.begin()
        assert stage.questions == 3
        refusal = "UPS has no recent price; it is no longer traded."
        assert await stage.generations() == [(1, False, refusal), (2, False, refusal), (3, False, refusal)]
        taken_back = [f"{attempt} {what}" for attempt in (1, 2, 3) for what in ("accepted", "refused")]
        assert await stage.journal() == [*taken_back, "FAILURE failed"]
        assert await stage.batches() == [(ID, "failed", "NO_USABLE_ANSWER", False)]
        assert f"\n- {refusal}\n" in await stage.prompt(3)
        assert stage.asked() == ["SPY", *CHOSEN]


@pytest.mark.parametrize(
    ("rules", "first", "second", "reason"),
    [
        pytest.param([model("prose", 4)], 3, 2, "NO_USABLE_ANSWER", id="after three bad answers"),
        pytest.param([model("bad_key", 1), model("prose", 2)], 1, 3, "CONFIGURATION", id="after a bad key"),
        pytest.param([model("http_503", 3)], 3, 1, "PROVIDER_ERROR", id="after three failures"),
        pytest.param([prices("http_500", "SPY", 18)], 1, 0, "PROVIDER_ERROR", id="after failures of the prices"),
    ],
)
async def test_a_second_run_by_hand(on_stage, rules, first, second, reason):
    """The same Monday: the same row and id, three more questions numbered on, and what was paid for is used."""
    async with on_stage(*rules) as stage:
        await until_it_can(stage, stage.begin)
        assert stage.questions == first
        ((*batch, late),) = await stage.batches()
        assert batch == [ID, "failed", reason]
        assert late == (second == 0)  # only the prices are waited for all day
        before = await stage.journal()
        assert before[-1] == "FAILURE failed"

        stage.clock.time = new_york(MONDAY, 21)
        await stage.begin_by_hand(2)
        assert stage.questions == first + second
        generations = await stage.generations()
        assert [attempt for attempt, _, _ in generations] == list(range(1, first + second + 1))
        assert [accepted for _, accepted, _ in generations] == [False] * (first + second - 1) + [True]
        assert await stage.batches() == [(ID, "active", None, True)]
        assert (await stage.picks(), await stage.jobs()) == (CHOSEN, 14)
        numbered_on = [f"{attempt} refused" for attempt in range(first + 1, first + second)]
        accepted = [f"{first + second} accepted"] if second else []
        assert await stage.journal() == [*before, *numbered_on, *accepted, "BATCH active"]


async def test_a_second_run_by_hand_that_fails_too(on_stage):
    """Six questions in all and no more: the row says the newer failure, and the journal both."""
    async with on_stage(model("prose")) as stage:
        await stage.begin()
        stage.clock.time = new_york(MONDAY, 11)
        await stage.begin_by_hand(2)
        await stage.begin(job_id=3)
        assert stage.questions == 6
        assert await stage.generations() == [(attempt, False, PROSE) for attempt in range(1, 7)]
        asked = [f"{attempt} refused" for attempt in range(1, 7)]
        assert await stage.journal() == [*asked[:3], "FAILURE failed", *asked[3:], "FAILURE failed"]
        assert await stage.batches() == [(ID, "failed", "NO_USABLE_ANSWER", True)]
        ((failure,),) = await rows(stage.tools.pool, "SELECT failure FROM batches")
        assert failure == f"6 questions brought no usable answer. The last: {PROSE}"
        assert await stage.jobs() == 0
