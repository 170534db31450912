"""A Monday: three ideas, their prices and the fourteen mornings that follow, all or nothing."""

import asyncio
import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from job_tools import (
    BASELINE,
    CHOSEN,
    MONDAY,
    House,
    World,
    an_answer,
    completes,
    new_york,
    standins,
    tools_for,
    until_it_can,
)
from job_tools import clock as clock
from job_tools import house as house
from msgspec.structs import replace
from procrastinate.exceptions import ConnectorException
from provider_server import CUT, FOR_EVER, Reply, says

from app.database.pools import transaction
from app.domain.journal import GENESIS, digest
from app.domain.model import batch_id
from app.errors import QuestionInProgress, QuotaSpent, TryAgainAt
from app.simulation.provider_simulators import ideas
from app.store import batches, generations
from jobs import daily, reconcile, weekly

GENERATIONS = "SELECT attempt, accepted, refusal FROM generations ORDER BY attempt"
PICKS = "SELECT ticker, action, initial_price FROM picks ORDER BY position"
ASKED_AGAIN = [new_york(MONDAY, *clock) for clock in ((9, 30), (10, 30), (12, 30), (16, 30), (20, 30))]


async def nothing_stored(house: House) -> bool:
    """Whether there is neither a batch, nor anything of one, nor a job."""
    counted = await house.rows(
        """
        SELECT (SELECT count(*) FROM batches) + (SELECT count(*) FROM picks) + (SELECT count(*) FROM checkpoints)
            + (SELECT count(*) FROM procrastinate_jobs) + (SELECT count(*) FROM journal WHERE kind = 'BATCH')
        """
    )
    return counted == [(0,)]


async def test_a_monday(house):
    """Nine o'clock: one question, four closes of Friday with the benchmark's first, and everything is stored."""
    house.world.closes["MSFT", BASELINE] = "402.1200"
    await house.begin()

    batch = await house.batch()
    assert batch.id == batch_id("main", MONDAY)
    assert (batch.status, batch.late, batch.trading_day) == ("active", False, BASELINE)
    assert (batch.benchmark_symbol, batch.benchmark_initial_price) == ("SPY", Decimal("600.0000"))
    assert len(house.questions) == 1
    assert house.asked == ["SPY", "MSFT", "AAPL", "NVDA"]
    assert await house.rows(
        "SELECT position, ticker, action, reasoning, initial_price FROM picks ORDER BY position"
    ) == [
        (1, "MSFT", "SELL", "MSFT has its reasons.", Decimal("402.1200")),
        (2, "AAPL", "BUY", "AAPL has its reasons.", Decimal("80.0000")),
        (3, "NVDA", "SELL", "NVDA has its reasons.", Decimal("7.0000")),
    ]
    assert await house.rows(
        "SELECT day, checkpoint_date, trading_day, status, benchmark_price, benchmark_return_pct FROM checkpoints"
    ) == [(0, MONDAY, BASELINE, "computed", Decimal("600.0000"), None)]
    assert await house.rows("SELECT count(*) FROM pick_checkpoint_metrics") == [(0,)]
    assert await house.rows(
        "SELECT DISTINCT closes.trading_day, source FROM closes JOIN picks ON picks.initial_close_id = closes.id"
    ) == [(BASELINE, "alphavantage TIME_SERIES_DAILY")]


async def test_what_the_question_leaves_behind(house):
    """The question and its answer are kept in full: prompts, models, request id, tokens, text."""
    house.world.model = [completes(an_answer(*CHOSEN), x_request_id="req_99")]
    await house.begin()
    assert await house.rows(
        """
        SELECT series, run_date, attempt, asked_at, answered_at, requested_model, answered_model, prompt_version,
            answer, request_id, prompt_tokens, completion_tokens, accepted, refusal
        FROM generations
        """
    ) == [
        (
            *("main", MONDAY, 1, new_york(MONDAY), new_york(MONDAY)),
            *("gpt-5.4-mini", "gpt-5.4-mini-2026-03-17", "1"),
            *(json.dumps(an_answer(*CHOSEN), separators=(",", ":")), "req_99", 200, 90, True, None),
        )
    ]
    ((system, user),) = await house.rows("SELECT system_prompt, user_prompt FROM generations")
    sent = next(request.json for request in house.provider.requests if request.path != "/query")
    assert [message["content"] for message in sent["messages"]] == [system, user]
    assert "26 October 2026" in user


async def test_the_journal_of_a_monday(house):
    """The answer and the batch are an entry each, chained, and the batch's entry holds all that was recorded."""
    await house.begin()
    first, second = await house.journal()
    assert [(entry.seq, entry.kind) for entry in (first, second)] == [(1, "GENERATION"), (2, "BATCH")]
    assert (first.previous, second.previous) == (GENESIS, first.hash)
    assert second.hash == digest(first.hash, second.content)
    assert first.batch_id == second.batch_id == batch_id("main", MONDAY)
    recorded = json.loads(second.content)
    assert [pick["ticker"] for pick in recorded["picks"]] == list(CHOSEN)
    assert {close["ticker"]: close["close"] for close in recorded["closes"]} == {
        "SPY": "600.0000",
        "MSFT": "3.0000",
        "AAPL": "80.0000",
        "NVDA": "7.0000",
    }
    assert recorded["batch"]["status"] == "active"
    assert recorded["checkpoint"]["day"] == "0"


async def test_fourteen_mornings_across_the_end_of_summer_time(house):
    """Each morning has its job at nine in New York, which is an hour later in UTC from the first of November on."""
    await house.begin()
    jobs = await house.jobs()
    assert [task for task, _, _ in jobs] == ["take_checkpoint"] * 14
    assert [args for _, args, _ in jobs] == [
        {"batch_id": str(batch_id("main", MONDAY)), "day": day} for day in range(1, 15)
    ]
    assert [at for _, _, at in jobs] == [
        *(datetime(2026, 10, day, 13, tzinfo=UTC) for day in (27, 28, 29, 30, 31)),
        *(datetime(2026, 11, day, 14, tzinfo=UTC) for day in range(1, 10)),
    ]


async def test_fourteen_mornings_across_the_begin_of_summer_time(house):
    """In March it is the other way round."""
    await house.a_batch(date(2026, 3, 2))
    assert [at for _, _, at in await house.jobs()] == [
        *(datetime(2026, 3, day, 14, tzinfo=UTC) for day in range(3, 8)),
        *(datetime(2026, 3, day, 13, tzinfo=UTC) for day in range(8, 17)),
    ]


async def test_a_monday_with_the_stand_ins(database, pool, clock, tmp_path):
    """The rehearsal's own providers make a Monday too: their ideas, in their order, at the prices of their market."""
    async with standins(clock, tmp_path / "log") as url, tools_for(database, pool, clock, url) as tools:
        await weekly.begin(tools, 1, None)
        market = World(clock)
        chosen = ideas(MONDAY, "alpha monday")
        async with pool.connection() as conn:
            batch = await batches.on(conn, "main", MONDAY)
            picks = await batches.picks_of(conn, batch.id)
    assert market.calendar.is_session(batch.trading_day)
    assert [(pick.ticker, pick.action, pick.reasoning) for pick in picks] == [
        (idea["ticker"], idea["action"], idea["reasoning"]) for idea in chosen
    ]
    requests = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [(request["provider"], request.get("refused")) for request in requests] == [
        ("openai", None),
        *[("alphavantage", None)] * 4,
    ]


async def test_a_repeated_run_date_ends_quietly(house):
    """A Monday that has its batch is left as it is: no question, no request, no entry."""
    await house.a_batch()
    before = await house.journal()
    await house.begin(job_id=2)
    await house.begin(job_id=3, questions=6)
    assert house.provider.requests == []
    assert await house.journal() == before
    assert len(await house.jobs()) == 14


@pytest.mark.parametrize(
    "now",
    [
        pytest.param(new_york(MONDAY, 8, 59), id="before nine"),
        pytest.param(new_york(MONDAY - timedelta(days=1), 12), id="Sunday"),
        pytest.param(new_york(MONDAY + timedelta(days=1), 0, 0), id="Tuesday"),
    ],
)
async def test_no_monday_has_begun(house, now):
    """A tick at another time does nothing."""
    house.clock.time = now
    await house.begin()
    assert house.provider.requests == []
    assert await nothing_stored(house)


async def test_two_ticks_at_once_in_two_processes(house):
    """Whoever claims the question asks it; the other comes back when it is answered, and finds all done."""
    house.world.model = [Reply(completes(an_answer(*CHOSEN)).body, delay=2)]  # open until both have looked
    first, second = await asyncio.gather(house.begin(1), house.begin(2), return_exceptions=True)
    assert sorted(map(type, (first, second)), key=str) == sorted([type(None), QuestionInProgress], key=str)
    assert len(house.questions) == 1
    house.clock.time = new_york(MONDAY, 9, 2)
    await house.begin(2)
    assert len(house.questions) == 1
    assert await house.rows(GENERATIONS) == [(1, True, None)]
    assert await house.rows("SELECT count(*) FROM batches") == [(1,)]
    assert len(await house.jobs()) == 14


async def test_two_ticks_at_once_in_the_queue(house):
    """Of two weekly jobs that live, the younger one ends quietly."""
    async with transaction(house.tools.pool) as conn:
        older = await weekly.begin_again(conn, house.clock.now())
        younger = await weekly.begin_again(conn, house.clock.now())
    await house.begin(younger)
    assert house.provider.requests == []
    await asyncio.gather(house.begin(older), house.begin(younger))
    assert len(house.questions) == 1
    assert await house.rows("SELECT count(*) FROM batches") == [(1,)]


async def test_a_job_left_behind_by_an_earlier_monday(house):
    """A weekly job whose end was never written down does not keep the next Mondays from beginning."""
    async with house.tools.pool.connection() as conn:
        left = await weekly.begin_again(conn, new_york(MONDAY))
    await house.rows("UPDATE procrastinate_jobs SET status = 'doing' WHERE id = %s", left)
    following = MONDAY + timedelta(weeks=1)
    house.clock.time = new_york(following)
    await house.begin(left + 1)
    batch = await house.batch(following)
    assert batch
    assert batch.status == "active"


async def test_a_monday_that_ends_while_its_batch_is_made(house, monkeypatch):
    """Upkeep and the job both find at midnight that it was missed; it is recorded once."""
    await house.a_batch()
    following, snapshot = MONDAY + timedelta(weeks=1), weekly._snapshot
    house.clock.time = new_york(following, 23, 59)

    async def past_midnight(*given):
        found = await snapshot(*given)
        house.clock.time = new_york(following + timedelta(days=1), 0, 1)
        assert (await reconcile.look_after(house.tools)).missed == 1
        return found

    monkeypatch.setattr(weekly, "_snapshot", past_midnight)
    await house.begin()
    assert [entry.kind for entry in await house.journal()] == ["GENERATION", "BATCH", "GENERATION", "FAILURE"]


async def test_all_or_nothing(house):
    """When the last of the fourteen jobs cannot be stored there is no batch, no pick, no entry and no other job."""
    await house.rows(
        """
        CREATE FUNCTION queue.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'refused'; END $$;
        CREATE TRIGGER refuse BEFORE INSERT ON queue.procrastinate_jobs
            FOR EACH ROW WHEN (NEW.args ->> 'day' = '14') EXECUTE FUNCTION queue.refuse()
        """
    )
    try:
        with pytest.raises(ConnectorException):
            await house.begin()
    finally:
        await house.rows("DROP FUNCTION queue.refuse() CASCADE")
    assert await nothing_stored(house)
    assert await house.rows(GENERATIONS) == [(1, True, None)]

    await house.begin()  # the answer was paid for, and the closes are known
    assert len(house.questions) == 1
    assert len(house.asked) == 4
    assert [ticker for ticker, _, _ in await house.rows(PICKS)] == list(CHOSEN)
    assert len(await house.jobs()) == 14


async def test_jobs_are_of_the_transaction(house):
    """Jobs that were deferred in a transaction that is rolled back never were."""
    batch = await house.a_batch()
    await house.rows("DELETE FROM procrastinate_jobs")
    async with transaction(house.tools.pool) as conn, conn.transaction(force_rollback=True):
        await daily.defer(conn, [weekly.Due(batch.id, MONDAY, day) for day in range(1, 15)])
    assert await house.jobs() == []


async def test_a_crash_in_the_middle_of_a_question(house):
    """A question that its process did not live to see answered is waited for, and then asked again."""
    house.world.model = [Reply(delay=FOR_EVER), completes(an_answer(*CHOSEN))]
    crashing = asyncio.create_task(house.begin())
    await house.provider.asked.wait()
    crashing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await crashing
    assert await house.rows(GENERATIONS) == [(1, None, None)]
    assert await house.journal() == []

    house.clock.time = new_york(MONDAY) + timedelta(seconds=10)
    with pytest.raises(QuestionInProgress) as waiting:
        await house.begin()
    assert waiting.value.at == new_york(MONDAY) + timedelta(seconds=185)
    assert len(house.questions) == 1

    house.clock.time = waiting.value.at
    await house.begin()
    assert await house.rows(GENERATIONS) == [
        (1, False, "No answer was stored: whoever asked was cut off."),
        (2, True, None),
    ]
    assert [entry.kind for entry in await house.journal()] == ["GENERATION", "GENERATION", "BATCH"]
    assert house.questions[0] == house.questions[1]  # there was nothing to tell the model


async def test_an_answer_at_the_last_moment(house):
    """Whoever gives up a question that was answered in the meantime does not take the answer back."""
    await house.begin()
    async with house.tools.pool.connection() as conn:
        (answered,) = await generations.of(conn, "main", MONDAY)
        given_up = replace(
            answered,
            **dict.fromkeys(("answered_at", "answered_model", "answer", "request_id")),
            accepted=False,
            refusal="No answer was stored: whoever asked was cut off.",
        )
        async with conn.transaction():
            assert not await generations.complete(conn, given_up, house.clock.now())
        assert await generations.of(conn, "main", MONDAY) == [answered]


async def test_an_accepted_answer_is_used_by_every_later_attempt(house):
    """A close that is not there yet does not cost a second question."""
    house.world.absent.add(("NVDA", BASELINE))
    with pytest.raises(TryAgainAt):
        await house.begin()
    assert await nothing_stored(house)
    house.world.absent.clear()
    house.world.model = [completes(an_answer("KO", "AAPL", "MSFT"))]
    house.clock.time = new_york(MONDAY, 9, 30)
    await house.begin()
    assert [ticker for ticker, _, _ in await house.rows(PICKS)] == list(CHOSEN)
    assert len(house.questions) == 1
    assert house.asked == ["SPY", "MSFT", "AAPL", "NVDA", "NVDA"]


REFUSED = [
    pytest.param(an_answer("AAPL", "MSFT"), "The answer had 2 picks; exactly 3 are needed.", id="two picks"),
    pytest.param(an_answer("AAPL", "MSFT", "NVDA", "KO"), "The answer had 4 picks; exactly 3", id="four picks"),
    pytest.param(an_answer("AAPL", "MSFT", "AAPL"), "AAPL was chosen more than once", id="a ticker twice"),
    pytest.param(an_answer("AAPL", "MSFT", "SPY"), "SPY is the benchmark", id="the benchmark"),
    pytest.param(an_answer("AAPL", "MSFT", "Apple Inc."), "'Apple Inc.' is not a ticker", id="no ticker"),
    pytest.param("Buy Apple.", "The answer was not JSON of the schema", id="no JSON"),
    pytest.param('{"picks": [{"ticker": "A\\u0000"', "The answer was not JSON", id="half of it"),
    pytest.param(
        json.dumps(an_answer("AAPL", "MSFT", "NVDA")).replace("NVDA has", "NVDA\\u0000has"),
        "The reasoning of NVDA holds characters that cannot be stored.",
        id="an escaped NUL",
    ),
    pytest.param(
        json.dumps(an_answer("AAPL", "MSFT", "NVDA")).replace("NVDA has", "NVDA\\ud800has"),
        "The answer was not JSON of the schema",
        id="an escaped lone surrogate",
    ),
    pytest.param("a NUL \0", "The answer was not JSON of the schema", id="a NUL"),
    pytest.param("\ud800", "The answer was not JSON of the schema", id="a lone surrogate"),
]


@pytest.mark.parametrize(("content", "reason"), REFUSED)
async def test_a_refused_answer_is_asked_again_with_the_reason(house, content, reason):
    """The model is told why, and the second answer counts; both are kept."""
    refused = completes(content) if isinstance(content, dict) else completion_of(content)
    house.world.model = [refused, completes(an_answer(*CHOSEN))]
    await house.begin()
    (first, second) = await house.rows(GENERATIONS)
    assert first[:2] == (1, False)
    assert first[2].startswith(reason)
    assert second == (2, True, None)
    assert "could not be used" not in house.questions[0]
    assert f"could not be used:\n- {first[2]}" in house.questions[1]
    assert [entry.kind for entry in await house.journal()] == ["GENERATION", "GENERATION", "BATCH"]
    assert [ticker for ticker, _, _ in await house.rows(PICKS)] == list(CHOSEN)


def completion_of(content: str) -> Reply:
    """A completion with any text, lone surrogates included."""
    reply = completes("PLACE")
    return Reply(reply.body.replace(b'"PLACE"', json.dumps(content).encode()), headers=reply.headers)


async def test_a_refusal_that_postgres_cannot_carry(house):
    """The model's own words of refusal are kept as far as they can be, and it is asked again."""
    refusal = json.loads(completes("").body)
    refusal["choices"][0]["message"] = {"role": "assistant", "content": None, "refusal": "No\0."}
    house.world.model = [says(refusal), completes(an_answer(*CHOSEN))]
    await house.begin()
    (first, second) = await house.rows(GENERATIONS)
    assert first == (1, False, "The model refused: No\N{REPLACEMENT CHARACTER}.")
    assert second == (2, True, None)


async def test_three_refused_answers(house):
    """Then the Monday has failed: a row with the reason, an entry, and no job."""
    house.world.model = [completes(an_answer("SPY", "AAPL", "MSFT"))]
    await house.begin()
    batch = await house.batch()
    assert (batch.status, batch.failure_reason) == ("failed", "NO_USABLE_ANSWER")
    assert batch.failure.startswith("3 questions brought no usable answer. The last: SPY is the benchmark")
    assert (batch.benchmark_initial_price, batch.trading_day) == (None, None)
    assert len(house.questions) == 3
    assert house.asked == []
    journal = await house.journal()
    assert [entry.kind for entry in journal] == ["GENERATION"] * 3 + ["FAILURE"]
    assert json.loads(journal[-1].content)["batch"]["failure_reason"] == "NO_USABLE_ANSWER"
    assert await house.jobs() == []


async def test_a_failed_monday_is_not_begun_again_by_a_tick(house):
    """Three questions are all that a Monday has, whatever is retried."""
    house.world.model = [completes("no")]
    await house.begin()
    await house.begin(job_id=2)
    assert len(house.questions) == 3
    assert len(await house.journal()) == 4


async def test_a_failed_monday_is_run_again_by_hand(house):
    """Three more questions: the same row and id, with questions numbered on, and a batch like any other."""
    house.world.model = [completes("no")]
    await house.begin()
    before = await house.batch()
    house.world.model = [completes("still no"), completes(an_answer(*CHOSEN))]
    house.clock.time = new_york(MONDAY, 11)
    await house.begin(job_id=2, questions=6)
    batch = await house.batch()
    assert batch.id == before.id
    assert (batch.status, batch.failure_reason, batch.failure, batch.late) == ("active", None, None, True)
    assert batch.created_at > before.created_at
    assert [attempt for attempt, _, _ in await house.rows(GENERATIONS)] == [1, 2, 3, 4, 5]
    assert [entry.kind for entry in await house.journal()][-3:] == ["GENERATION", "GENERATION", "BATCH"]
    assert len(await house.jobs()) == 14


async def test_a_key_that_the_model_does_not_accept(house):
    """What cannot get better fails at once and says what to change."""
    house.world.model = [says({"error": {"message": "no", "code": "invalid_api_key"}}, 401)]
    await house.begin()
    batch = await house.batch()
    assert (batch.status, batch.failure_reason) == ("failed", "CONFIGURATION")
    assert "OPENAI_API_KEY" in batch.failure
    assert len(house.questions) == 1


async def test_a_model_that_does_not_answer(house):
    """Three questions, a minute and ten minutes apart; then the Monday has failed for the provider's sake."""
    house.world.model = [CUT, says({"error": {"message": "busy"}}, 429), says({"error": {"message": "broken"}}, 503)]
    assert await until_it_can(house, house.begin) == [new_york(MONDAY, 9, 1), new_york(MONDAY, 9, 11)]
    batch = await house.batch()
    assert (batch.status, batch.failure_reason, batch.late) == ("failed", "PROVIDER_ERROR", False)
    assert "broken" in batch.failure
    assert len(house.questions) == 3
    assert house.clock.slept == []  # it is the queue that waits, so that a stop is not delayed
    assert all(accepted is False and refusal for _, accepted, refusal in await house.rows(GENERATIONS))


def a_page(**_: object) -> Reply:
    """What a proxy shows while the server behind it is away, with a 200."""
    return Reply(b"<html>We will be right back.</html>", headers={"content-type": "text/html"})


# Kind: an outage of some minutes must not lose the Monday. Each is answered in this way for as long as it lasts.
OUTAGES = [
    pytest.param([CUT, CUT], [(9, 1), (9, 11)], id="cut"),
    pytest.param([says({}, 503), says({}, 500)], [(9, 1), (9, 11)], id="5xx"),
    pytest.param([says({}, 429), CUT], [(9, 1), (9, 11)], id="busy, then cut"),
    pytest.param([a_page(), a_page()], [(9, 1), (9, 11)], id="a page with a 200"),
    pytest.param([says({"error": {"code": 502}})] * 2, [(9, 1), (9, 11)], id="a relay's error with a 200"),
    pytest.param([Reply(b""), says({})], [(9, 1), (9, 11)], id="nothing with a 200"),
    pytest.param([CUT], [(9, 1)], id="for a moment"),
    pytest.param([completes("no"), CUT], [(9, 10)], id="after an answer that was refused at once"),
    pytest.param([says({}, 429, retry_after="300"), CUT], [(9, 5), (9, 15)], id="for as long as it says"),
    pytest.param([says({}, 429, retry_after="5"), CUT], [(9, 1), (9, 11)], id="for longer than it says"),
    pytest.param([says({}, 429), says({}, 503, retry_after="7200")], [(9, 1), (11, 1)], id="for two hours"),
    pytest.param([says({}, 429, retry_after="86400")], [(20, 30)], id="no longer than this day asks"),
]


@pytest.mark.parametrize(("replies", "times"), OUTAGES)
async def test_an_outage_of_the_model(house, replies, times):
    """The questions that are left are spread over the time until the open, or until the provider wants to be asked."""
    house.world.model = [*replies, completes(an_answer(*CHOSEN))]
    assert await until_it_can(house, house.begin) == [new_york(MONDAY, *clock) for clock in times]
    assert (await house.batch()).status == "active"
    assert len(house.questions) == len(replies) + 1


async def test_an_outage_late_in_the_evening(house):
    """After the day's last time of asking a long Retry-After counts no more than the usual wait."""
    house.clock.time = new_york(MONDAY, 21)
    house.world.model = [says({}, 429, retry_after="86400"), completes(an_answer(*CHOSEN))]
    assert await until_it_can(house, house.begin) == [new_york(MONDAY, 21, 1)]
    assert (await house.batch()).status == "active"


async def test_an_outage_while_a_failed_monday_is_run_again_by_hand(house):
    """The three more questions are spread like the first three."""
    house.world.model = [completes("no")]
    await house.begin()
    house.clock.time = new_york(MONDAY, 11)
    house.world.model = [CUT, CUT, completes(an_answer(*CHOSEN))]
    times = await until_it_can(house, lambda: house.begin(job_id=2, questions=6))
    assert times == [new_york(MONDAY, 11, 1), new_york(MONDAY, 11, 11)]
    assert (await house.batch()).status == "active"


async def test_a_model_that_answers_after_all(house):
    """Two failures leave a third question, and it counts. What was not answered is not told."""
    house.world.model = [says({}, 500), says({}, 429), completes(an_answer(*CHOSEN))]
    await until_it_can(house, house.begin)
    assert (await house.batch()).status == "active"
    assert "could not be used" not in house.questions[2]


async def test_a_ticker_that_nobody_knows(house):
    """A ticker without prices is a refused idea: the accepted answer is taken back, and the model is told."""
    house.world.unknown.add("MSFT")
    house.world.model = [completes(an_answer(*CHOSEN)), completes(an_answer("KO", "AAPL", "NVDA"))]
    await house.begin()
    assert await house.rows(GENERATIONS) == [(1, False, "Alpha Vantage does not know MSFT."), (2, True, None)]
    assert "\n- Alpha Vantage does not know MSFT.\n" in house.questions[1]
    assert [ticker for ticker, _, _ in await house.rows(PICKS)] == ["KO", "AAPL", "NVDA"]
    assert house.asked.count("SPY") == 1


async def test_a_benchmark_that_nobody_knows(house):
    """The benchmark is not the model's idea: its answer stays accepted, and no question is wasted on it."""
    house.world.unknown.add("SPY")
    await house.begin()
    batch = await house.batch()
    assert (batch.status, batch.failure_reason) == ("failed", "CONFIGURATION")
    assert batch.failure.startswith("Alpha Vantage does not know SPY. Set BENCHMARK_SYMBOL")
    assert await house.rows(GENERATIONS) == [(1, True, None)]


async def test_a_ticker_that_is_no_longer_traded(house):
    """Bars that end before the session before the baseline session are a delisted ticker's."""
    house.world.absent |= {("AAPL", BASELINE), ("AAPL", date(2026, 10, 22))}
    house.world.model = [completes(an_answer(*CHOSEN)), completes(an_answer("MSFT", "KO", "NVDA"))]
    await house.begin()
    (first, second) = await house.rows(GENERATIONS)
    assert first == (1, False, "AAPL has no recent price; it is no longer traded.")
    assert second == (2, True, None)
    assert [ticker for ticker, _, _ in await house.rows(PICKS)] == ["MSFT", "KO", "NVDA"]


# Kind: a series that has ended. The first lost its Monday with MISSING_CLOSE.
@pytest.mark.parametrize(
    ("missing", "times"),
    [
        pytest.param(1, 5, id="one session ago"),
        pytest.param(2, 0, id="two sessions ago"),
        pytest.param(3, 0, id="three sessions ago"),
        pytest.param(10, 0, id="ten sessions ago"),
        pytest.param(24, 0, id="twenty-four sessions ago"),
    ],
)
async def test_a_series_that_has_ended(house, missing, times):
    """At the last time of asking at the latest the model is told to choose another, and does."""
    sessions, day = [], BASELINE
    for _ in range(missing):
        sessions.append(day)
        day = house.tools.calendar.session_before(day)
    house.world.absent |= {("AAPL", session) for session in sessions}
    house.world.model = [completes(an_answer(*CHOSEN)), completes(an_answer("MSFT", "KO", "NVDA"))]
    assert len(await until_it_can(house, house.begin)) == times
    first, second = await house.rows(GENERATIONS)
    assert first[:2] == (1, False)
    assert "no longer traded" in first[2]
    assert first[2] in house.questions[1]
    assert second == (2, True, None)
    assert (await house.batch()).status == "active"
    assert [ticker for ticker, _, _ in await house.rows(PICKS)] == ["MSFT", "KO", "NVDA"]


async def test_a_series_that_is_no_longer_there(house):
    """An earlier Monday had its bars; now the provider does not know it. At the last time the model chooses another."""
    await house.a_batch(MONDAY - timedelta(days=7))
    house.clock.time = new_york(MONDAY)
    house.world.unknown.add("AAPL")
    house.world.model = [completes(an_answer(*CHOSEN)), completes(an_answer("MSFT", "KO", "NVDA"))]
    assert (await until_it_can(house, house.begin))[-1] == new_york(MONDAY, 20, 30)
    batch = await house.batch()
    assert batch.status == "active"
    refusals = await house.rows("SELECT refusal FROM generations WHERE run_date = %s ORDER BY attempt", MONDAY)
    assert refusals == [("Alpha Vantage does not know AAPL any more.",), (None,)]


async def test_two_series_that_have_ended(house):
    """Each is told of once; the answer that knows of the first may name the second."""
    house.world.absent |= {("AAPL", BASELINE), ("KO", BASELINE)}
    house.world.model = [
        completes(an_answer(*CHOSEN)),
        completes(an_answer("MSFT", "KO", "NVDA")),
        completes(an_answer("MSFT", "BRK.B", "NVDA")),
    ]
    assert (await until_it_can(house, house.begin))[-1] == new_york(MONDAY, 20, 30)
    refusals = [refusal for _, _, refusal in await house.rows(GENERATIONS)]
    assert refusals == [
        "AAPL is taken for no longer traded: its last close is of 2026-10-22, and SPY has one of 2026-10-23.",
        "KO is taken for no longer traded: its last close is of 2026-10-22, and SPY has one of 2026-10-23.",
        None,
    ]
    assert (await house.batch()).status == "active"


async def test_two_series_of_one_answer_that_have_ended(house):
    """They cost one question together."""
    house.world.absent |= {("AAPL", BASELINE), ("NVDA", BASELINE)}
    house.world.model = [completes(an_answer(*CHOSEN)), completes(an_answer("MSFT", "KO", "BRK.B"))]
    await until_it_can(house, house.begin)
    (_, _, refusal), _ = await house.rows(GENERATIONS)
    assert refusal == (
        "AAPL is taken for no longer traded: its last close is of 2026-10-22, and SPY has one of 2026-10-23. "
        "NVDA is taken for no longer traded: its last close is of 2026-10-22, and SPY has one of 2026-10-23."
    )
    assert [ticker for ticker, _, _ in await house.rows(PICKS)] == ["MSFT", "KO", "BRK.B"]


async def test_a_pick_that_ended_and_one_that_is_late(house):
    """What has ended is told at once; what may only be late is not."""
    house.world.absent |= {("AAPL", BASELINE), ("NVDA", BASELINE), ("NVDA", date(2026, 10, 22))}
    house.world.model = [completes(an_answer(*CHOSEN)), completes(an_answer("AAPL", "KO", "MSFT"))]
    with pytest.raises(TryAgainAt):
        await house.begin()
    (_, _, refusal), second = await house.rows(GENERATIONS)
    assert refusal == "NVDA has no recent price; it is no longer traded."
    assert second == (2, True, None)


async def test_an_accepted_answer_that_no_longer_can_be_used(house, database, pool, clock):
    """Another benchmark on the way makes it a refused one; the model is asked again."""
    house.world.absent.add(("NVDA", BASELINE))
    with pytest.raises(TryAgainAt) as later:
        await house.begin()
    house.clock.time = later.value.at
    house.world.model = [completes(an_answer("KO", "AAPL", "BRK.B"))]
    async with tools_for(database, pool, clock, house.provider.url, BENCHMARK_SYMBOL="MSFT") as tools:
        await weekly.begin(tools, 1, None)
    assert await house.rows(GENERATIONS) == [
        (1, False, "MSFT is the benchmark and cannot be chosen."),
        (2, True, None),
    ]
    assert (await house.batch()).status == "active"


def named(model: str, **headers: str) -> Reply:
    """A good completion by a model of this name."""
    completion = json.loads(completes(an_answer(*CHOSEN)).body)
    return says({**completion, "model": model}, **headers)


# Kind: names and ids that a column cannot carry as they are.
@pytest.mark.parametrize(
    ("model", "stored"),
    [
        pytest.param("gpt\0", "gpt\N{REPLACEMENT CHARACTER}", id="NUL"),
        pytest.param("gpt\ud800", "gpt\N{REPLACEMENT CHARACTER}", id="a lone surrogate"),
        pytest.param("g" * 900_000, "g" * 200, id="nearly a megabyte"),
        pytest.param("\N{ROCKET}" * 300, "\N{ROCKET}" * 200, id="rockets"),
        pytest.param("", None, id="empty"),
        pytest.param("a\nb\x1b[0m", "a\ufffdb\ufffd[0m", id="control characters"),
    ],
)
async def test_a_name_of_any_characters(house, model, stored):
    """It never costs the Monday, and is stored as far as it can be; so is the request's id."""
    house.world.model = [named(model, x_request_id="r" * 9000)]
    await house.begin()
    assert await house.rows("SELECT answered_model, request_id, accepted FROM generations") == [
        (stored, "r" * 200, True)
    ]
    assert (await house.batch()).status == "active"


# Kind: a claim lapses when its question may no longer be answered, by the setting.
@pytest.mark.parametrize(
    ("seconds", "lapse"), [("180", 185), ("30", 35), ("0.5", 5.5), ("1800", 1805), ("61.25", 66.25)]
)
async def test_the_lapse_follows_the_timeout(house, database, pool, clock, seconds, lapse):
    """There is one time limit, OPENAI_TIMEOUT: the client's and the claim's."""
    async with tools_for(database, pool, clock, house.provider.url, OPENAI_TIMEOUT=seconds) as tools:
        house.world.model = [Reply(delay=FOR_EVER), completes(an_answer(*CHOSEN))]
        crashing = asyncio.create_task(weekly.begin(tools, 1, None))
        await house.provider.asked.wait()
        crashing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await crashing
        with pytest.raises(QuestionInProgress) as waiting:
            await weekly.begin(tools, 1, None)
    assert waiting.value.at == new_york(MONDAY) + timedelta(seconds=lapse)


async def test_a_series_that_has_ended_on_a_monday_that_begins_at_night(house):
    """After the last time of asking there is no later one to wait for."""
    house.clock.time = new_york(MONDAY, 21)
    house.world.absent.add(("AAPL", BASELINE))
    house.world.model = [completes(an_answer(*CHOSEN)), completes(an_answer("MSFT", "KO", "NVDA"))]
    await house.begin()
    assert [ticker for ticker, _, _ in await house.rows(PICKS)] == ["MSFT", "KO", "NVDA"]


async def test_a_benchmark_whose_close_never_comes(house):
    """A halted market is no fault of a pick: no answer is taken back, and the Monday fails for the missing close."""
    house.world.absent.add(("SPY", BASELINE))
    assert len(await until_it_can(house, house.begin)) == 5
    batch = await house.batch()
    assert (batch.failure_reason, batch.failure) == ("MISSING_CLOSE", "SPY: no close of 2026-10-23 yet.")
    assert await house.rows(GENERATIONS) == [(1, True, None)]


async def test_class_shares_are_stored_with_a_dot(house):
    """The model's BRK-B is BRK.B in the record, and BRK-B again at the provider."""
    await house.a_batch(MONDAY, "AAPL", "brk-b", "MSFT")
    assert (await house.rows(PICKS))[1] == ("BRK.B", "BUY", Decimal("500.0000"))
    assert await house.rows("SELECT DISTINCT ticker FROM closes WHERE ticker ~ '^BRK'") == [("BRK.B",)]


async def test_a_baseline_close_that_never_comes(house):
    """It is asked for at five more times of that Monday and no more; the model that insists has failed the Monday."""
    house.world.absent.add(("NVDA", BASELINE))
    times = await until_it_can(house, house.begin)
    assert times == ASKED_AGAIN
    batch = await house.batch()
    assert (batch.status, batch.failure_reason) == ("failed", "NO_USABLE_ANSWER")
    assert batch.failure == (
        "3 questions brought no usable answer. The last: NVDA is taken for no longer traded: "
        "its last close is of 2026-10-22, and SPY has one of 2026-10-23."
    )
    assert house.asked == ["SPY", "MSFT", "AAPL", *["NVDA"] * 6]
    assert len(house.questions) == 3


async def test_a_benchmark_without_its_close(house):
    """Without the benchmark's close no pick is asked for."""
    house.world.absent.add(("SPY", BASELINE))
    with pytest.raises(TryAgainAt) as later:
        await house.begin()
    assert later.value.at == new_york(MONDAY, 9, 30)
    assert house.asked == ["SPY"]


async def test_prices_that_need_another_key(house):
    """A configuration error of the price provider fails the Monday at once."""
    house.world.instead = [says({"Information": "This is a premium endpoint."})]
    await house.begin()
    batch = await house.batch()
    assert (batch.failure_reason, len(house.asked)) == ("CONFIGURATION", 1)


async def test_a_price_provider_that_is_down(house):
    """Five attempts each time, fewer when requests are scarce; after the last time the Monday has failed."""
    house.world.instead = [Reply(status=503)] * 100
    assert await until_it_can(house, house.begin) == ASKED_AGAIN
    batch = await house.batch()
    assert (batch.failure_reason, batch.failure) == ("PROVIDER_ERROR", "Alpha Vantage answered 503.")
    assert len(house.asked) == 3 * 5 + 3 * 1  # the ledger's 25 a day are not used up
    assert await house.rows(GENERATIONS) == [(1, True, None)]


# Kind: a provider that fails for a while. Each of these failed the Monday at once.
@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(Reply(status=503), id="503"),
        pytest.param(CUT, id="cut"),
        pytest.param(Reply(b"<html>"), id="a page"),
        pytest.param(says({"Information": "Please spread out requests more sparingly."}), id="a throttle"),
        pytest.param(says({"Information": "Thank you."}), id="a notice"),
        pytest.param(says([]), id="a list"),
    ],
)
@pytest.mark.parametrize(("failures", "times"), [(5, 1), (10, 2), (12, 2), (15, 3), (16, 4), (17, 5)])
async def test_a_price_provider_that_is_down_for_a_while(house, reply, failures, times):
    """It is asked again at the day's times, and the Monday is made when it is back, with requests to spare."""
    house.world.instead = [reply] * failures
    assert await until_it_can(house, house.begin) == ASKED_AGAIN[:times]
    batch = await house.batch()
    assert (batch.status, batch.late) == ("active", True)
    assert len(house.questions) == 1
    assert len(house.asked) == failures + 4


async def test_prices_of_one_pick_that_fail_for_a_while(house):
    """What was read of the others stays read."""
    good = house.world

    def flaky(request):
        if request.path == "/query" and request.query["symbol"] == "NVDA" and house.asked.count("NVDA") <= 7:
            return Reply(status=500)
        return good(request)

    house.provider.answers = flaky
    assert await until_it_can(house, house.begin) == ASKED_AGAIN[:1]
    assert house.asked == ["SPY", "MSFT", "AAPL", *["NVDA"] * 8]
    assert (await house.batch()).status == "active"


async def test_a_benchmark_that_seems_unknown(house):
    """One that was priced before is known, whatever the provider says: it is asked for again, and no setting blamed."""
    await house.a_batch()
    following = MONDAY + timedelta(weeks=3)
    house.clock.time = new_york(following)
    house.world.unknown.add("SPY")
    times = await until_it_can(house, house.begin)
    assert times == [at + timedelta(weeks=3, hours=1) for at in ASKED_AGAIN]  # and it is winter in New York
    batch = await house.batch(following)
    assert batch.failure_reason == "PROVIDER_ERROR"
    assert "does not know SPY" in batch.failure


async def test_a_benchmark_that_seems_unknown_for_a_moment(house):
    """It costs half an hour and no question."""
    await house.a_batch()
    following = MONDAY + timedelta(weeks=1)
    house.clock.time = new_york(following)
    house.world.unknown.add("SPY")
    with pytest.raises(TryAgainAt) as later:
        await house.begin()
    house.clock.time = later.value.at
    house.world.unknown.clear()
    await house.begin()
    assert (await house.batch(following)).status == "active"
    assert len(house.questions) == 1


async def test_a_spent_quota_is_waited_for(house):
    """It is nobody's failure: nothing is stored but the answer, and the job comes back."""
    house.world.instead = [says({"Information": "We have detected your API key as AVKEY4711 and 25 requests per day."})]
    with pytest.raises(QuotaSpent) as spent:
        await house.begin()
    assert spent.value.at == new_york(MONDAY, 10)
    assert await nothing_stored(house)
    house.clock.time = spent.value.at
    await house.begin()
    assert (await house.batch()).late
    assert len(house.questions) == 1


async def test_a_quota_that_is_spent_until_the_monday_is_over(house):
    """The row says so: that the Monday was over would be no reason."""
    notice = {"Information": "We have detected your API key as AVKEY4711 and 25 requests per day."}
    earlier = MONDAY - timedelta(days=7)
    house.clock.time = new_york(earlier)
    await house.begin()
    house.world.instead = [says(notice) for _ in range(2)]
    house.clock.time = new_york(MONDAY, 22, 30)
    for _ in range(2):
        with pytest.raises(QuotaSpent) as spent:
            await house.begin()
        house.clock.time = spent.value.at
    await house.begin()
    assert (await reconcile.look_after(house.tools)).missed == 1
    batch = await house.batch()
    assert (batch.status, batch.failure_reason) == ("failed", "MISSED")
    assert batch.failure == "The quota of prices was spent, and the Monday was over before its batch was made."


@pytest.mark.parametrize(
    ("run_date", "begun", "late"),
    [
        pytest.param(MONDAY, new_york(MONDAY, 9), False, id="at nine"),
        pytest.param(MONDAY, new_york(MONDAY, 9, 29), False, id="before the open"),
        pytest.param(MONDAY, new_york(MONDAY, 9, 30), True, id="at the open"),
        pytest.param(MONDAY, new_york(MONDAY, 23, 59), True, id="at the end of the day"),
        pytest.param(date(2026, 9, 7), new_york(date(2026, 9, 7), 23), False, id="on a holiday"),
    ],
)
async def test_late(house, run_date, begun, late):
    """
    A batch is late when it was made at or after the first open at which its picks could be bought.

    After a holiday Monday that is Tuesday's.
    """
    house.clock.time = begun
    await house.begin()
    assert (await house.batch(run_date)).late is late


@pytest.mark.parametrize(
    ("run_date", "baseline"),
    [
        pytest.param(date(2026, 10, 26), date(2026, 10, 23), id="Friday"),
        pytest.param(date(2026, 9, 7), date(2026, 9, 4), id="a holiday Monday"),
        pytest.param(date(2026, 4, 6), date(2026, 4, 2), id="Thursday, when Friday is a holiday"),
        pytest.param(date(2026, 11, 30), date(2026, 11, 27), id="a half day"),
    ],
)
async def test_the_baseline_session(house, run_date, baseline):
    """The baseline is the last session before the run date, for the benchmark and all picks."""
    house.world.closes["SPY", baseline] = "612.3400"
    batch = await house.a_batch(run_date)
    assert (batch.trading_day, batch.benchmark_initial_price) == (baseline, Decimal("612.3400"))
    assert await house.rows(
        "SELECT DISTINCT trading_day FROM closes JOIN picks ON picks.initial_close_id = closes.id"
    ) == [(baseline,)]


async def test_a_day_that_was_called_off(database, pool, clock, house):
    """A closure announced on short notice moves the baseline, by a setting."""
    house.world.absent |= {(ticker, BASELINE) for ticker in ("SPY", *CHOSEN)}
    async with tools_for(database, pool, clock, house.provider.url, MARKET_CLOSED_DAYS=str(BASELINE)) as tools:
        await weekly.begin(tools, 1, None)
    assert (await house.batch()).trading_day == date(2026, 10, 22)


async def test_a_busy_price_provider(house):
    """A burst is waited out, in told time, and nobody notices."""
    burst = says({"Information": "Please spread out your requests more sparingly (1 request per second)."})
    house.world.instead = [burst, burst]
    await house.begin()
    assert (await house.batch()).status == "active"
    assert house.asked[:3] == ["SPY"] * 3
