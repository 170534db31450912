"""A Monday: three ideas, their prices, and the jobs of fourteen checkpoints, all or nothing."""

import asyncio
import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from job_context import (
    ASKED,
    BASELINE,
    CHOSEN,
    DECLARED,
    FIRST_MONDAY,
    MONDAY,
    JobHarness,
    World,
    make_answer,
    make_completion,
    new_york,
    open_context,
    run_until_done,
    standins,
)
from job_context import clock as clock
from job_context import harness as harness
from msgspec.structs import replace
from procrastinate.exceptions import ConnectorException
from provider_server import CUT, FOR_EVER, Reply, says

from app.database.pools import transaction
from app.domain.journal import GENESIS_HASH, entry_hash
from app.domain.model import batch_id
from app.errors import QuestionInProgress, QuotaSpent, TryAgainAt
from app.simulation.habits import ideas
from app.store import batches, generations
from jobs import daily, reconcile, weekly

GENERATIONS = "SELECT attempt, accepted, refusal FROM generations ORDER BY attempt"
PICKS = "SELECT ticker, action, initial_price FROM picks ORDER BY position"
REQUEST_TIMES = [
    new_york(MONDAY, *clock) for clock in ((9, 30), (10, 30), (12, 30), (16, 30), (20, 30))
]


async def nothing_stored(harness: JobHarness) -> bool:
    """Return whether there is neither a batch nor any part of one, nor a job."""
    counted = await harness.rows(
        """
        SELECT (SELECT count(*) FROM batches)
            + (SELECT count(*) FROM picks)
            + (SELECT count(*) FROM checkpoints)
            + (SELECT count(*) FROM procrastinate_jobs)
            + (SELECT count(*) FROM journal WHERE kind = 'BATCH')
        """
    )
    return counted == [(0,)]


async def test_a_monday(harness):
    """
    At 09:00 the job asks one question, requests four closes of Friday, the benchmark first, and
    stores everything.
    """
    harness.world.closes["MSFT", BASELINE] = "402.1200"
    await harness.begin()

    batch = await harness.batch()
    assert batch.id == batch_id("main", MONDAY)
    assert (batch.status, batch.late, batch.trading_day) == ("active", False, BASELINE)
    assert (batch.benchmark_symbol, batch.benchmark_initial_price) == ("SPY", Decimal("600.0000"))
    assert len(harness.questions) == 1
    assert harness.requested_tickers == ["SPY", "MSFT", "AAPL", "NVDA"]
    assert await harness.rows(
        "SELECT position, ticker, action, reasoning, initial_price FROM picks ORDER BY position"
    ) == [
        (1, "MSFT", "SELL", "MSFT has its reasons.", Decimal("402.1200")),
        (2, "AAPL", "BUY", "AAPL has its reasons.", Decimal("80.0000")),
        (3, "NVDA", "SELL", "NVDA has its reasons.", Decimal("7.0000")),
    ]
    assert await harness.rows(
        "SELECT day, checkpoint_date, trading_day, status, benchmark_price, benchmark_return_pct "
        "FROM checkpoints"
    ) == [(0, MONDAY, BASELINE, "computed", Decimal("600.0000"), None)]
    assert await harness.rows("SELECT count(*) FROM pick_checkpoint_metrics") == [(0,)]
    assert await harness.rows(
        "SELECT DISTINCT closes.trading_day, source FROM closes JOIN picks ON "
        "picks.initial_close_id = closes.id"
    ) == [(BASELINE, "alphavantage TIME_SERIES_DAILY")]


async def test_the_stored_question(harness):
    """The question and its answer are stored in full: prompts, models, request id, tokens, text."""
    harness.world.model = [make_completion(make_answer(*CHOSEN), x_request_id="req_99")]
    await harness.begin()
    assert await harness.rows(
        """
        SELECT
            series, run_date, attempt, asked_at, answered_at, requested_model, answered_model,
            prompt_version,
            answer, request_id, prompt_tokens, completion_tokens, reasoning_tokens, finish_reason,
            system_fingerprint, reasoning_effort, accepted, refusal
        FROM generations
        """
    ) == [
        (
            *("main", MONDAY, 1, new_york(MONDAY), new_york(MONDAY)),
            *("gpt-5.4-mini", "gpt-5.4-mini-2026-03-17", "2"),
            *(
                json.dumps(make_answer(*CHOSEN), separators=(",", ":")),
                "req_99",
                200,
                90,
                None,
                "stop",
                None,
                None,
                True,
                None,
            ),
        )
    ]
    ((system, user),) = await harness.rows("SELECT system_prompt, user_prompt FROM generations")
    sent = next(request.json for request in harness.provider.requests if request.path != "/query")
    assert [message["content"] for message in sent["messages"]] == [system, user]
    assert "26 October 2026" in user


async def test_the_journal_of_a_monday(harness):
    """
    A record begins with its declarations. The question is an entry before it is sent and one when
    it is answered, each response with prices is an entry, and so is the batch.
    """
    await harness.begin()
    entries = await harness.journal()
    assert [entry.kind for entry in entries] == FIRST_MONDAY
    before = GENESIS_HASH
    for entry in entries:
        assert entry.previous == before
        assert entry.hash == entry_hash(before, entry.content)
        before = entry.hash
    about_batch = [entry.kind for entry in entries if entry.batch_id == batch_id("main", MONDAY)]
    assert about_batch == ["GENERATION", "GENERATION", "BATCH"]
    contents = [json.loads(entry.content) for entry in entries]
    claim, completion = [one["generation"] for one in contents if one["kind"] == "GENERATION"]
    assert "accepted" not in claim
    assert completion["accepted"] == "true"
    assert completion.items() >= claim.items()
    assert claim["profile_sha256"] == contents[1]["series"]["profile_sha256"]
    recorded = contents[-1]
    assert [pick["ticker"] for pick in recorded["picks"]] == list(CHOSEN)
    assert {close["ticker"]: close["close"] for close in recorded["closes"]} == {
        "SPY": "600.0000",
        "MSFT": "3.0000",
        "AAPL": "80.0000",
        "NVDA": "7.0000",
    }
    assert recorded["batch"]["status"] == "active"
    assert recorded["checkpoint"]["day"] == "0"
    read = []
    for content in contents[4:8]:
        read += content["closes"]
    for close in recorded["closes"]:
        assert close in read


async def test_fourteen_mornings_across_the_end_of_summer_time(harness):
    """Each checkpoint's job is due at 09:00 in New York, from November 1 an hour later in UTC."""
    await harness.begin()
    jobs = await harness.jobs()
    assert [task for task, _, _ in jobs] == ["take_checkpoint"] * 14
    assert [args for _, args, _ in jobs] == [
        {"batch_id": str(batch_id("main", MONDAY)), "day": day} for day in range(1, 15)
    ]
    assert [at for _, _, at in jobs] == [
        *(datetime(2026, 10, day, 13, tzinfo=UTC) for day in (27, 28, 29, 30, 31)),
        *(datetime(2026, 11, day, 14, tzinfo=UTC) for day in range(1, 10)),
    ]


async def test_fourteen_mornings_across_the_begin_of_summer_time(harness):
    """In March each checkpoint's job is due an hour earlier in UTC."""
    await harness.make_batch(date(2026, 3, 2))
    assert [at for _, _, at in await harness.jobs()] == [
        *(datetime(2026, 3, day, 14, tzinfo=UTC) for day in range(3, 8)),
        *(datetime(2026, 3, day, 13, tzinfo=UTC) for day in range(8, 17)),
    ]


async def test_a_monday_with_the_simulators(database, pool, clock, tmp_path):
    """
    The rehearsal's simulators make a Monday, too: their ideas, in order, at their market's prices.
    """
    async with (
        standins(clock, tmp_path / "log") as url,
        open_context(database=database, pool=pool, clock=clock, base_url=url) as context,
    ):
        await weekly.run_if_due(context, 1, None)
        market = World(clock)
        chosen = ideas(MONDAY, "alpha monday")
        async with pool.connection() as conn:
            batch = await batches.get_by_run_date(conn, "main", MONDAY)
            picks = await batches.list_picks(conn, batch.id)
    assert market.calendar.is_session(batch.trading_day)
    assert [(pick.ticker, pick.action, pick.reasoning) for pick in picks] == [
        (idea["ticker"], idea["action"], idea["reasoning"]) for idea in chosen
    ]
    requests = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [(request["provider"], request.get("refused")) for request in requests] == [
        ("openai", None),
        *[("alphavantage", None)] * 4,
    ]


async def test_a_repeated_run_date_ends_quietly(harness):
    """A Monday that has its batch does not change: no question, no request, no entry."""
    await harness.make_batch()
    before = await harness.journal()
    await harness.begin(job_id=2)
    await harness.begin(job_id=3, questions=6)
    assert harness.provider.requests == []
    assert await harness.journal() == before
    assert len(await harness.jobs()) == 14


@pytest.mark.parametrize(
    "now",
    [
        pytest.param(new_york(MONDAY, 8, 59), id="before nine"),
        pytest.param(new_york(MONDAY - timedelta(days=1), 12), id="Sunday"),
        pytest.param(new_york(MONDAY + timedelta(days=1), 0, 0), id="Tuesday"),
    ],
)
async def test_no_monday_has_begun(harness, now):
    """A tick at another time does nothing."""
    harness.clock.time = now
    await harness.begin()
    assert harness.provider.requests == []
    assert await nothing_stored(harness)


async def test_two_ticks_at_once_in_two_processes(harness):
    """
    The process that claims the question asks it; the other waits for the answer, and finds all
    done.
    """
    harness.world.model = [
        Reply(make_completion(make_answer(*CHOSEN)).body, delay=2)
    ]  # open until both have read the state
    first, second = await asyncio.gather(harness.begin(1), harness.begin(2), return_exceptions=True)
    assert sorted(map(type, (first, second)), key=str) == sorted(
        [type(None), QuestionInProgress], key=str
    )
    assert len(harness.questions) == 1
    harness.clock.time = new_york(MONDAY, 9, 2)
    await harness.begin(2)
    assert len(harness.questions) == 1
    assert await harness.rows(GENERATIONS) == [(1, True, None)]
    assert await harness.rows("SELECT count(*) FROM batches") == [(1,)]
    assert len(await harness.jobs()) == 14


async def test_two_ticks_at_once_in_the_queue(harness):
    """Of two weekly jobs that run, the younger one ends without doing anything."""
    async with transaction(harness.context.pool) as conn:
        older = await weekly.defer_run(conn, harness.clock.now())
        younger = await weekly.defer_run(conn, harness.clock.now())
    await harness.begin(younger)
    assert harness.provider.requests == []
    await asyncio.gather(harness.begin(older), harness.begin(younger))
    assert len(harness.questions) == 1
    assert await harness.rows("SELECT count(*) FROM batches") == [(1,)]


async def test_a_job_left_behind_by_an_earlier_monday(harness):
    """A weekly job whose end was not stored does not prevent the next Mondays."""
    async with harness.context.pool.connection() as conn:
        left = await weekly.defer_run(conn, new_york(MONDAY))
    await harness.rows("UPDATE procrastinate_jobs SET status = 'doing' WHERE id = %s", left)
    following = MONDAY + timedelta(weeks=1)
    harness.clock.time = new_york(following)
    await harness.begin(left + 1)
    batch = await harness.batch(following)
    assert batch
    assert batch.status == "active"


async def test_a_monday_that_ends_while_its_batch_is_made(harness, monkeypatch):
    """Reconciliation and the job both find at midnight that it was missed; it is recorded once."""
    await harness.make_batch()
    following, snapshot = MONDAY + timedelta(weeks=1), weekly._request_baseline
    harness.clock.time = new_york(following, 23, 59)

    async def past_midnight(*arguments):
        baseline = await snapshot(*arguments)
        harness.clock.time = new_york(following + timedelta(days=1), 0, 1)
        assert (await reconcile.run_round(harness.context)).missed == 1
        return baseline

    monkeypatch.setattr(weekly, "_request_baseline", past_midnight)
    await harness.begin()
    following_kinds = (await harness.kinds())[len(FIRST_MONDAY) :]
    # The round also journals the rules of the yearly checks.
    assert sorted(following_kinds) == sorted([*ASKED, *["READINGS"] * 4, "FAILURE", "RULES"])


async def test_all_or_nothing(harness):
    """
    If the last of the fourteen jobs cannot be stored, there is no batch, pick, entry or other job.
    """
    await harness.rows(
        """
        CREATE FUNCTION queue.refuse() RETURNS trigger LANGUAGE plpgsql
            AS $$ BEGIN RAISE 'refused'; END $$;
        CREATE TRIGGER refuse BEFORE INSERT ON queue.procrastinate_jobs
            FOR EACH ROW WHEN (NEW.args ->> 'day' = '14') EXECUTE FUNCTION queue.refuse()
        """
    )
    try:
        with pytest.raises(ConnectorException):
            await harness.begin()
    finally:
        await harness.rows("DROP FUNCTION queue.refuse() CASCADE")
    assert await nothing_stored(harness)
    assert await harness.rows(GENERATIONS) == [(1, True, None)]

    await harness.begin()  # the answer is paid for, and the closes are stored
    assert len(harness.questions) == 1
    assert len(harness.requested_tickers) == 4
    assert [ticker for ticker, _, _ in await harness.rows(PICKS)] == list(CHOSEN)
    assert len(await harness.jobs()) == 14


async def test_jobs_belong_to_the_transaction(harness):
    """Jobs that were deferred in a transaction that is rolled back do not exist."""
    batch = await harness.make_batch()
    await harness.rows("DELETE FROM procrastinate_jobs")
    async with transaction(harness.context.pool) as conn, conn.transaction(force_rollback=True):
        await daily.defer_checkpoints(
            conn, [weekly.DueCheckpoint(batch.id, MONDAY, day) for day in range(1, 15)]
        )
    assert await harness.jobs() == []


async def test_a_crash_in_the_middle_of_a_question(harness):
    """A question whose process died is waited for until it lapses, and then asked again."""
    harness.world.model = [Reply(delay=FOR_EVER), make_completion(make_answer(*CHOSEN))]
    crashing = asyncio.create_task(harness.begin())
    await harness.provider.request_arrived.wait()
    crashing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await crashing
    assert await harness.rows(GENERATIONS) == [(1, None, None)]
    assert await harness.kinds() == [*DECLARED, "GENERATION"]

    harness.clock.time = new_york(MONDAY) + timedelta(seconds=10)
    with pytest.raises(QuestionInProgress) as waiting:
        await harness.begin()
    assert waiting.value.at == new_york(MONDAY) + timedelta(seconds=185)
    assert len(harness.questions) == 1

    harness.clock.time = waiting.value.at
    await harness.begin()
    assert await harness.rows(GENERATIONS) == [
        (1, False, "No answer was stored: whoever asked was cut off."),
        (2, True, None),
    ]
    assert await harness.kinds() == [*DECLARED, *ASKED, *FIRST_MONDAY[2:]]
    assert harness.questions[0] == harness.questions[1]  # the prompt has no reason to mention


async def test_an_answer_at_the_last_moment(harness):
    """
    A process that refuses a lapsed question does not undo an answer that has arrived meanwhile.
    """
    await harness.begin()
    async with harness.context.pool.connection() as conn:
        (answered,) = await generations.list_by_run_date(conn, "main", MONDAY)
        lapsed = replace(
            answered,
            **dict.fromkeys(("answered_at", "answered_model", "answer", "request_id")),
            accepted=False,
            refusal="No answer was stored: whoever asked was cut off.",
        )
        async with conn.transaction():
            assert not await generations.complete(conn, lapsed, harness.clock.now())
        assert await generations.list_by_run_date(conn, "main", MONDAY) == [answered]


async def test_an_accepted_answer_is_used_by_every_later_attempt(harness):
    """A close that is not available yet does not cost a second question."""
    harness.world.absent.add(("NVDA", BASELINE))
    with pytest.raises(TryAgainAt):
        await harness.begin()
    assert await nothing_stored(harness)
    harness.world.absent.clear()
    harness.world.model = [make_completion(make_answer("KO", "AAPL", "MSFT"))]
    harness.clock.time = new_york(MONDAY, 9, 30)
    await harness.begin()
    assert [ticker for ticker, _, _ in await harness.rows(PICKS)] == list(CHOSEN)
    assert len(harness.questions) == 1
    assert harness.requested_tickers == ["SPY", "MSFT", "AAPL", "NVDA", "NVDA"]


REFUSED = [
    pytest.param(
        make_answer("AAPL", "MSFT"), "The answer had 2 picks; exactly 3 are needed.", id="two picks"
    ),
    pytest.param(
        make_answer("AAPL", "MSFT", "NVDA", "KO"),
        "The answer had 4 picks; exactly 3",
        id="four picks",
    ),
    pytest.param(
        make_answer("AAPL", "MSFT", "AAPL"), "AAPL was chosen more than once", id="a ticker twice"
    ),
    pytest.param(make_answer("AAPL", "MSFT", "SPY"), "SPY is the benchmark", id="the benchmark"),
    pytest.param(
        make_answer("AAPL", "MSFT", "Apple Inc."), "'Apple Inc.' is not a ticker", id="no ticker"
    ),
    pytest.param("Buy Apple.", "The answer was not JSON of the schema", id="no JSON"),
    pytest.param('{"picks": [{"ticker": "A\\u0000"', "The answer was not JSON", id="half of it"),
    pytest.param(
        json.dumps(make_answer("AAPL", "MSFT", "NVDA")).replace("NVDA has", "NVDA\\u0000has"),
        "The reasoning of NVDA holds characters that cannot be stored.",
        id="an escaped NUL",
    ),
    pytest.param(
        json.dumps(make_answer("AAPL", "MSFT", "NVDA")).replace("NVDA has", "NVDA\\ud800has"),
        "The answer was not JSON of the schema",
        id="an escaped lone surrogate",
    ),
    pytest.param("a NUL \0", "The answer was not JSON of the schema", id="a NUL"),
    pytest.param("\ud800", "The answer was not JSON of the schema", id="a lone surrogate"),
]


@pytest.mark.parametrize(("content", "reason"), REFUSED)
@pytest.mark.sampled(4)
async def test_a_refused_answer_is_asked_again_with_the_reason(harness, content, reason):
    """The model gets the reason, and the second answer counts; both are stored."""
    refused = make_completion(content) if isinstance(content, dict) else completion_of(content)
    harness.world.model = [refused, make_completion(make_answer(*CHOSEN))]
    await harness.begin()
    (first, second) = await harness.rows(GENERATIONS)
    assert first[:2] == (1, False)
    assert first[2].startswith(reason)
    assert second == (2, True, None)
    assert "could not be used" not in harness.questions[0]
    assert f"could not be used:\n- {first[2]}" in harness.questions[1]
    assert await harness.kinds() == [*DECLARED, *ASKED, *FIRST_MONDAY[2:]]
    assert [ticker for ticker, _, _ in await harness.rows(PICKS)] == list(CHOSEN)


def completion_of(content: str) -> Reply:
    """Return a completion with any text, lone surrogates included."""
    reply = make_completion("PLACE")
    return Reply(
        reply.body.replace(b'"PLACE"', json.dumps(content).encode()), headers=reply.headers
    )


async def test_a_refusal_that_postgres_cannot_store(harness):
    """The model's refusal is stored as far as possible, and the model is asked again."""
    refusal = json.loads(make_completion("").body)
    refusal["choices"][0]["message"] = {"role": "assistant", "content": None, "refusal": "No\0."}
    harness.world.model = [says(refusal), make_completion(make_answer(*CHOSEN))]
    await harness.begin()
    (first, second) = await harness.rows(GENERATIONS)
    assert first == (1, False, "The model refused: No\N{REPLACEMENT CHARACTER}.")
    assert second == (2, True, None)


async def test_three_refused_answers(harness):
    """After three refused answers the Monday fails: a row with the reason, an entry, and no job."""
    harness.world.model = [make_completion(make_answer("SPY", "AAPL", "MSFT"))]
    await harness.begin()
    batch = await harness.batch()
    assert (batch.status, batch.failure_reason) == ("failed", "NO_USABLE_ANSWER")
    assert batch.failure.startswith(
        "3 questions brought no usable answer. The last: SPY is the benchmark"
    )
    assert (batch.benchmark_initial_price, batch.trading_day) == (None, None)
    assert len(harness.questions) == 3
    assert harness.requested_tickers == []
    journal = await harness.journal()
    assert [entry.kind for entry in journal] == [*DECLARED, *ASKED * 3, "FAILURE"]
    assert json.loads(journal[-1].content)["batch"]["failure_reason"] == "NO_USABLE_ANSWER"
    assert await harness.jobs() == []


async def test_a_failed_monday_is_not_begun_again_by_a_tick(harness):
    """A Monday has three questions, whatever is retried."""
    harness.world.model = [make_completion("no")]
    await harness.begin()
    await harness.begin(job_id=2)
    assert len(harness.questions) == 3
    assert await harness.kinds() == [*DECLARED, *ASKED * 3, "FAILURE"]


async def test_a_failed_monday_is_run_again_manually(harness):
    """
    Three more questions: the same row and id, question numbers go on, and a batch like any other.
    """
    harness.world.model = [make_completion("no")]
    await harness.begin()
    before = await harness.batch()
    harness.world.model = [make_completion("still no"), make_completion(make_answer(*CHOSEN))]
    harness.clock.time = new_york(MONDAY, 11)
    await harness.begin(job_id=2, questions=6)
    batch = await harness.batch()
    assert batch.id == before.id
    assert (batch.status, batch.failure_reason, batch.failure, batch.late) == (
        "active",
        None,
        None,
        True,
    )
    assert batch.created_at > before.created_at
    assert [attempt for attempt, _, _ in await harness.rows(GENERATIONS)] == [1, 2, 3, 4, 5]
    first_run = [*DECLARED, *ASKED * 3, "FAILURE"]
    assert await harness.kinds() == [*first_run, *ASKED, *FIRST_MONDAY[2:]]
    assert len(await harness.jobs()) == 14


async def test_a_key_that_the_model_does_not_accept(harness):
    """An error that a retry cannot cure fails at once, and says what to change."""
    harness.world.model = [says({"error": {"message": "no", "code": "invalid_api_key"}}, 401)]
    await harness.begin()
    batch = await harness.batch()
    assert (batch.status, batch.failure_reason) == ("failed", "CONFIGURATION")
    assert "OPENAI_API_KEY" in batch.failure
    assert len(harness.questions) == 1


async def test_a_model_that_does_not_answer(harness):
    """
    Three questions, a minute and ten minutes apart; then the Monday fails because of the provider.
    """
    harness.world.model = [
        CUT,
        says({"error": {"message": "busy"}}, 429),
        says({"error": {"message": "broken"}}, 503),
    ]
    assert await run_until_done(harness, harness.begin) == [
        new_york(MONDAY, 9, 1),
        new_york(MONDAY, 9, 11),
    ]
    batch = await harness.batch()
    assert (batch.status, batch.failure_reason, batch.late) == ("failed", "PROVIDER_ERROR", False)
    assert "broken" in batch.failure
    assert len(harness.questions) == 3
    assert harness.clock.slept == []  # the queue waits, so that a stop is not delayed
    assert all(
        accepted is False and refusal for _, accepted, refusal in await harness.rows(GENERATIONS)
    )


def a_page(**_: object) -> Reply:
    """A page that a proxy returns with status 200 while the server behind it is down."""
    return Reply(b"<html>We will be right back.</html>", headers={"content-type": "text/html"})


# Kind: an outage of some minutes must not lose the Monday. Each is answered in this way for as long
# as it lasts.
OUTAGES = [
    pytest.param([CUT, CUT], [(9, 1), (9, 11)], id="cut"),
    pytest.param([says({}, 503), says({}, 500)], [(9, 1), (9, 11)], id="5xx"),
    pytest.param([says({}, 429), CUT], [(9, 1), (9, 11)], id="busy, then cut"),
    pytest.param([a_page(), a_page()], [(9, 1), (9, 11)], id="a page with a 200"),
    pytest.param(
        [says({"error": {"code": 502}})] * 2, [(9, 1), (9, 11)], id="a relay's error with a 200"
    ),
    pytest.param([Reply(b""), says({})], [(9, 1), (9, 11)], id="nothing with a 200"),
    pytest.param([CUT], [(9, 1)], id="for a moment"),
    pytest.param(
        [make_completion("no"), CUT], [(9, 10)], id="after an answer that was refused at once"
    ),
    pytest.param(
        [says({}, 429, retry_after="300"), CUT], [(9, 5), (9, 15)], id="for as long as it says"
    ),
    pytest.param(
        [says({}, 429, retry_after="5"), CUT], [(9, 1), (9, 11)], id="for longer than it says"
    ),
    pytest.param(
        [says({}, 429), says({}, 503, retry_after="7200")], [(9, 1), (11, 1)], id="for two hours"
    ),
    pytest.param(
        [says({}, 429, retry_after="86400")], [(20, 30)], id="no longer than this day asks"
    ),
]


@pytest.mark.parametrize(("replies", "times"), OUTAGES)
@pytest.mark.sampled(4)
async def test_an_outage_of_the_model(harness, replies, times):
    """
    The remaining questions are spread over the time until the open, or the provider's Retry-After.
    """
    harness.world.model = [*replies, make_completion(make_answer(*CHOSEN))]
    assert await run_until_done(harness, harness.begin) == [
        new_york(MONDAY, *clock) for clock in times
    ]
    assert (await harness.batch()).status == "active"
    assert len(harness.questions) == len(replies) + 1


async def test_an_outage_late_in_the_evening(harness):
    """After the day's last time for prices, a long Retry-After is replaced with the usual wait."""
    harness.clock.time = new_york(MONDAY, 21)
    harness.world.model = [
        says({}, 429, retry_after="86400"),
        make_completion(make_answer(*CHOSEN)),
    ]
    assert await run_until_done(harness, harness.begin) == [new_york(MONDAY, 21, 1)]
    assert (await harness.batch()).status == "active"


async def test_an_outage_while_a_failed_monday_is_run_again_manually(harness):
    """The three additional questions are spread like the first three."""
    harness.world.model = [make_completion("no")]
    await harness.begin()
    harness.clock.time = new_york(MONDAY, 11)
    harness.world.model = [CUT, CUT, make_completion(make_answer(*CHOSEN))]
    times = await run_until_done(harness, lambda: harness.begin(job_id=2, questions=6))
    assert times == [new_york(MONDAY, 11, 1), new_york(MONDAY, 11, 11)]
    assert (await harness.batch()).status == "active"


async def test_a_model_that_answers_after_all(harness):
    """After two failures the third question counts. Its prompt does not mention the failures."""
    harness.world.model = [says({}, 500), says({}, 429), make_completion(make_answer(*CHOSEN))]
    await run_until_done(harness, harness.begin)
    assert (await harness.batch()).status == "active"
    assert "could not be used" not in harness.questions[2]


async def test_an_unknown_ticker(harness):
    """
    A ticker without prices makes the answer a refused one, and the next prompt gives the reason.
    """
    harness.world.unknown.add("MSFT")
    harness.world.model = [
        make_completion(make_answer(*CHOSEN)),
        make_completion(make_answer("KO", "AAPL", "NVDA")),
    ]
    await harness.begin()
    assert await harness.rows(GENERATIONS) == [
        (1, False, "Alpha Vantage does not know MSFT."),
        (2, True, None),
    ]
    assert "\n- Alpha Vantage does not know MSFT.\n" in harness.questions[1]
    assert [ticker for ticker, _, _ in await harness.rows(PICKS)] == ["KO", "AAPL", "NVDA"]
    assert harness.requested_tickers.count("SPY") == 1


async def test_an_unknown_benchmark(harness):
    """
    The benchmark is not the model's idea: its answer stays accepted, and no question is wasted.
    """
    harness.world.unknown.add("SPY")
    await harness.begin()
    batch = await harness.batch()
    assert (batch.status, batch.failure_reason) == ("failed", "CONFIGURATION")
    assert batch.failure.startswith("Alpha Vantage does not know SPY. Set BENCHMARK_SYMBOL")
    assert await harness.rows(GENERATIONS) == [(1, True, None)]


async def test_a_ticker_that_is_no_longer_traded(harness):
    """A ticker whose bars end before the session before the baseline session is delisted."""
    harness.world.absent |= {("AAPL", BASELINE), ("AAPL", date(2026, 10, 22))}
    harness.world.model = [
        make_completion(make_answer(*CHOSEN)),
        make_completion(make_answer("MSFT", "KO", "NVDA")),
    ]
    await harness.begin()
    (first, second) = await harness.rows(GENERATIONS)
    assert first == (1, False, "AAPL has no recent price; it is no longer traded.")
    assert second == (2, True, None)
    assert [ticker for ticker, _, _ in await harness.rows(PICKS)] == ["MSFT", "KO", "NVDA"]


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
@pytest.mark.sampled(2)
async def test_a_series_that_has_ended(harness, missing, times):
    """At the day's last time for prices, the model is asked to choose another ticker."""
    sessions, day = [], BASELINE
    for _ in range(missing):
        sessions.append(day)
        day = harness.context.calendar.session_before(day)
    harness.world.absent |= {("AAPL", session) for session in sessions}
    harness.world.model = [
        make_completion(make_answer(*CHOSEN)),
        make_completion(make_answer("MSFT", "KO", "NVDA")),
    ]
    assert len(await run_until_done(harness, harness.begin)) == times
    first, second = await harness.rows(GENERATIONS)
    assert first[:2] == (1, False)
    assert "no longer traded" in first[2]
    assert first[2] in harness.questions[1]
    assert second == (2, True, None)
    assert (await harness.batch()).status == "active"
    assert [ticker for ticker, _, _ in await harness.rows(PICKS)] == ["MSFT", "KO", "NVDA"]


async def test_a_series_that_is_no_longer_there(harness):
    """
    The provider no longer knows a ticker that it knew: at the last time the model chooses another.
    """
    await harness.make_batch(MONDAY - timedelta(days=7))
    harness.clock.time = new_york(MONDAY)
    harness.world.unknown.add("AAPL")
    harness.world.model = [
        make_completion(make_answer(*CHOSEN)),
        make_completion(make_answer("MSFT", "KO", "NVDA")),
    ]
    assert (await run_until_done(harness, harness.begin))[-1] == new_york(MONDAY, 20, 30)
    batch = await harness.batch()
    assert batch.status == "active"
    refusals = await harness.rows(
        "SELECT refusal FROM generations WHERE run_date = %s ORDER BY attempt", MONDAY
    )
    assert refusals == [("Alpha Vantage does not know AAPL any more.",), (None,)]


async def test_two_series_that_have_ended(harness):
    """Each is reported once; the answer that avoids the first may contain the second."""
    harness.world.absent |= {("AAPL", BASELINE), ("KO", BASELINE)}
    harness.world.model = [
        make_completion(make_answer(*CHOSEN)),
        make_completion(make_answer("MSFT", "KO", "NVDA")),
        make_completion(make_answer("MSFT", "BRK.B", "NVDA")),
    ]
    assert (await run_until_done(harness, harness.begin))[-1] == new_york(MONDAY, 20, 30)
    refusals = [refusal for _, _, refusal in await harness.rows(GENERATIONS)]
    assert refusals == [
        "AAPL is taken for no longer traded: its last close is of 2026-10-22, "
        "and SPY has one of 2026-10-23.",
        "KO is taken for no longer traded: its last close is of 2026-10-22, and SPY has one of "
        "2026-10-23.",
        None,
    ]
    assert (await harness.batch()).status == "active"


async def test_two_series_of_one_answer_that_have_ended(harness):
    """Together they cost one question."""
    harness.world.absent |= {("AAPL", BASELINE), ("NVDA", BASELINE)}
    harness.world.model = [
        make_completion(make_answer(*CHOSEN)),
        make_completion(make_answer("MSFT", "KO", "BRK.B")),
    ]
    await run_until_done(harness, harness.begin)
    (_, _, refusal), _ = await harness.rows(GENERATIONS)
    assert refusal == (
        "AAPL is taken for no longer traded: its last close is of 2026-10-22, and SPY has one of "
        "2026-10-23. "
        "NVDA is taken for no longer traded: its last close is of 2026-10-22, and SPY has one of "
        "2026-10-23."
    )
    assert [ticker for ticker, _, _ in await harness.rows(PICKS)] == ["MSFT", "KO", "BRK.B"]


async def test_a_pick_that_ended_and_one_that_is_late(harness):
    """Only the one that has ended is refused at once; the other may just be late."""
    harness.world.absent |= {("AAPL", BASELINE), ("NVDA", BASELINE), ("NVDA", date(2026, 10, 22))}
    harness.world.model = [
        make_completion(make_answer(*CHOSEN)),
        make_completion(make_answer("AAPL", "KO", "MSFT")),
    ]
    with pytest.raises(TryAgainAt):
        await harness.begin()
    (_, _, refusal), second = await harness.rows(GENERATIONS)
    assert refusal == "NVDA has no recent price; it is no longer traded."
    assert second == (2, True, None)


async def test_an_accepted_answer_that_can_no_longer_be_used(harness, database, pool, clock):
    """A changed benchmark makes an accepted answer a refused one; the model is asked again."""
    harness.world.absent.add(("NVDA", BASELINE))
    with pytest.raises(TryAgainAt) as later:
        await harness.begin()
    harness.clock.time = later.value.at
    harness.world.model = [make_completion(make_answer("KO", "AAPL", "BRK.B"))]
    async with open_context(
        database=database,
        pool=pool,
        clock=clock,
        base_url=harness.provider.url,
        BENCHMARK_SYMBOL="MSFT",
    ) as context:
        await weekly.run_if_due(context, 1, None)
    assert await harness.rows(GENERATIONS) == [
        (1, False, "MSFT is the benchmark and cannot be chosen."),
        (2, True, None),
    ]
    assert (await harness.batch()).status == "active"


def named(model: str, **headers: str) -> Reply:
    """Return a good completion by a model of this name."""
    completion = json.loads(make_completion(make_answer(*CHOSEN)).body)
    return says({**completion, "model": model}, **headers)


# Kind: names and ids that a column cannot store unchanged.
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
@pytest.mark.sampled(3)
async def test_a_name_of_any_characters(harness, model, stored):
    """
    An odd name does not fail the Monday, and is stored as far as possible, as is the id of the
    request.
    """
    harness.world.model = [named(model, x_request_id="r" * 9000)]
    await harness.begin()
    assert await harness.rows("SELECT answered_model, request_id, accepted FROM generations") == [
        (stored, "r" * 200, True)
    ]
    assert (await harness.batch()).status == "active"


# Kind: a claim lapses when its question may no longer be answered, by the setting.
@pytest.mark.parametrize(
    # A shorter timeout could end before the request has arrived, on a machine that is busy.
    ("seconds", "lapse"),
    [("180", 185), ("30", 35), ("9.5", 14.5), ("1800", 1805), ("61.25", 66.25)],
)
async def test_the_lapse_depends_on_the_timeout(harness, database, pool, clock, seconds, lapse):
    """There is one timeout, OPENAI_TIMEOUT: the client's and the claim's."""
    async with open_context(
        database=database,
        pool=pool,
        clock=clock,
        base_url=harness.provider.url,
        OPENAI_TIMEOUT=seconds,
    ) as context:
        harness.world.model = [Reply(delay=FOR_EVER), make_completion(make_answer(*CHOSEN))]
        crashing = asyncio.create_task(weekly.run_if_due(context, 1, None))
        await harness.provider.request_arrived.wait()
        crashing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await crashing
        with pytest.raises(QuestionInProgress) as waiting:
            await weekly.run_if_due(context, 1, None)
    assert waiting.value.at == new_york(MONDAY) + timedelta(seconds=lapse)


async def test_a_series_that_has_ended_on_a_monday_that_begins_at_night(harness):
    """After the day's last time for prices, there is no later one to wait for."""
    harness.clock.time = new_york(MONDAY, 21)
    harness.world.absent.add(("AAPL", BASELINE))
    harness.world.model = [
        make_completion(make_answer(*CHOSEN)),
        make_completion(make_answer("MSFT", "KO", "NVDA")),
    ]
    await harness.begin()
    assert [ticker for ticker, _, _ in await harness.rows(PICKS)] == ["MSFT", "KO", "NVDA"]


async def test_a_benchmark_whose_close_never_comes(harness):
    """
    A closed market is not a pick's fault: the answer stays accepted, and the Monday fails for the
    close.
    """
    harness.world.absent.add(("SPY", BASELINE))
    assert len(await run_until_done(harness, harness.begin)) == 5
    batch = await harness.batch()
    assert (batch.failure_reason, batch.failure) == (
        "MISSING_CLOSE",
        "SPY: no close of 2026-10-23 yet.",
    )
    assert await harness.rows(GENERATIONS) == [(1, True, None)]


async def test_class_shares_are_stored_with_a_dot(harness):
    """The model's BRK-B is BRK.B in the record, and BRK-B again in requests to the provider."""
    await harness.make_batch(MONDAY, "AAPL", "brk-b", "MSFT")
    assert (await harness.rows(PICKS))[1] == ("BRK.B", "BUY", Decimal("500.0000"))
    assert await harness.rows("SELECT DISTINCT ticker FROM closes WHERE ticker ~ '^BRK'") == [
        ("BRK.B",)
    ]


async def test_a_baseline_close_that_never_comes(harness):
    """The close is requested at five more times of that Monday; then the Monday fails."""
    harness.world.absent.add(("NVDA", BASELINE))
    times = await run_until_done(harness, harness.begin)
    assert times == REQUEST_TIMES
    batch = await harness.batch()
    assert (batch.status, batch.failure_reason) == ("failed", "NO_USABLE_ANSWER")
    assert batch.failure == (
        "3 questions brought no usable answer. The last: NVDA is taken for no longer traded: "
        "its last close is of 2026-10-22, and SPY has one of 2026-10-23."
    )
    assert harness.requested_tickers == ["SPY", "MSFT", "AAPL", *["NVDA"] * 6]
    assert len(harness.questions) == 3


async def test_a_benchmark_without_its_close(harness):
    """Without the benchmark's close no pick's is requested."""
    harness.world.absent.add(("SPY", BASELINE))
    with pytest.raises(TryAgainAt) as later:
        await harness.begin()
    assert later.value.at == new_york(MONDAY, 9, 30)
    assert harness.requested_tickers == ["SPY"]


async def test_prices_that_need_another_key(harness):
    """A configuration error of the price provider fails the Monday at once."""
    harness.world.instead = [says({"Information": "This is a premium endpoint."})]
    await harness.begin()
    batch = await harness.batch()
    assert (batch.failure_reason, len(harness.requested_tickers)) == ("CONFIGURATION", 1)


async def test_a_price_provider_that_is_down(harness):
    """
    Five attempts each time, fewer when few requests are left; after the last time the Monday fails.
    """
    harness.world.instead = [Reply(status=503)] * 100
    assert await run_until_done(harness, harness.begin) == REQUEST_TIMES
    batch = await harness.batch()
    assert (batch.failure_reason, batch.failure) == (
        "PROVIDER_ERROR",
        "Alpha Vantage answered 503.",
    )
    assert len(harness.requested_tickers) == 3 * 5 + 3 * 1  # the ledger's 25 a day are not used up
    assert await harness.rows(GENERATIONS) == [(1, True, None)]


# Kind: a provider that fails for a while. Each of these failed the Monday at once.
@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(Reply(status=503), id="503"),
        pytest.param(CUT, id="cut"),
        pytest.param(Reply(b"<html>"), id="a page"),
        pytest.param(
            says({"Information": "Please spread out requests more sparingly."}), id="a throttle"
        ),
        pytest.param(says({"Information": "Thank you."}), id="a notice"),
        pytest.param(says([]), id="a list"),
    ],
)
@pytest.mark.parametrize(
    ("failures", "times"), [(5, 1), (10, 2), (12, 2), (15, 3), (16, 4), (17, 5)]
)
@pytest.mark.sampled(7)
async def test_a_price_provider_that_is_down_for_a_while(harness, reply, failures, times):
    """
    The provider is asked at the day's times, and the Monday is made when it is back, with requests
    to spare.
    """
    harness.world.instead = [reply] * failures
    assert await run_until_done(harness, harness.begin) == REQUEST_TIMES[:times]
    batch = await harness.batch()
    assert (batch.status, batch.late) == ("active", True)
    assert len(harness.questions) == 1
    assert len(harness.requested_tickers) == failures + 4


async def test_prices_of_one_pick_that_fail_for_a_while(harness):
    """The closes of the others stay stored."""
    good = harness.world

    def flaky(request):
        if (
            request.path == "/query"
            and request.query["symbol"] == "NVDA"
            and harness.requested_tickers.count("NVDA") <= 7
        ):
            return Reply(status=500)
        return good(request)

    harness.provider.answers = flaky
    assert await run_until_done(harness, harness.begin) == REQUEST_TIMES[:1]
    assert harness.requested_tickers == ["SPY", "MSFT", "AAPL", *["NVDA"] * 8]
    assert (await harness.batch()).status == "active"


async def test_a_benchmark_that_seems_unknown(harness):
    """A benchmark that had prices before is requested again, and no setting is blamed."""
    await harness.make_batch()
    following = MONDAY + timedelta(weeks=3)
    harness.clock.time = new_york(following)
    harness.world.unknown.add("SPY")
    times = await run_until_done(harness, harness.begin)
    assert times == [
        at + timedelta(weeks=3, hours=1) for at in REQUEST_TIMES
    ]  # and it is winter in New York
    batch = await harness.batch(following)
    assert batch.failure_reason == "PROVIDER_ERROR"
    assert "does not know SPY" in batch.failure


async def test_a_benchmark_that_seems_unknown_for_a_moment(harness):
    """A wrong answer about the benchmark costs half an hour and no question."""
    await harness.make_batch()
    following = MONDAY + timedelta(weeks=1)
    harness.clock.time = new_york(following)
    harness.world.unknown.add("SPY")
    with pytest.raises(TryAgainAt) as later:
        await harness.begin()
    harness.clock.time = later.value.at
    harness.world.unknown.clear()
    await harness.begin()
    assert (await harness.batch(following)).status == "active"
    assert len(harness.questions) == 1


async def test_a_spent_quota_is_waited_for(harness):
    """A spent quota is no failure: only the answer is stored, and the job runs again later."""
    harness.world.instead = [
        says({"Information": "We have detected your API key as AVKEY4711 and 25 requests per day."})
    ]
    with pytest.raises(QuotaSpent) as spent:
        await harness.begin()
    assert spent.value.at == new_york(MONDAY, 10)
    assert await nothing_stored(harness)
    harness.clock.time = spent.value.at
    await harness.begin()
    assert (await harness.batch()).late
    assert len(harness.questions) == 1


async def test_a_quota_that_is_spent_until_the_monday_is_over(harness):
    """The row names the quota as the reason."""
    notice = {"Information": "We have detected your API key as AVKEY4711 and 25 requests per day."}
    earlier = MONDAY - timedelta(days=7)
    harness.clock.time = new_york(earlier)
    await harness.begin()
    harness.world.instead = [says(notice) for _ in range(2)]
    harness.clock.time = new_york(MONDAY, 22, 30)
    for _ in range(2):
        with pytest.raises(QuotaSpent) as spent:
            await harness.begin()
        harness.clock.time = spent.value.at
    await harness.begin()
    assert (await reconcile.run_round(harness.context)).missed == 1
    batch = await harness.batch()
    assert (batch.status, batch.failure_reason) == ("failed", "MISSED")
    assert (
        batch.failure
        == "The quota of prices was spent, and the Monday was over before its batch was made."
    )


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
async def test_late(harness, run_date, begun, late):
    """
    A batch is late if it is stored at or after the first open at which its picks can be bought.
    After a holiday on Monday that is Tuesday's.
    """
    harness.clock.time = begun
    await harness.begin()
    assert (await harness.batch(run_date)).late is late


@pytest.mark.parametrize(
    ("run_date", "baseline"),
    [
        pytest.param(date(2026, 10, 26), date(2026, 10, 23), id="Friday"),
        pytest.param(date(2026, 9, 7), date(2026, 9, 4), id="a holiday Monday"),
        pytest.param(date(2026, 4, 6), date(2026, 4, 2), id="Thursday, when Friday is a holiday"),
        pytest.param(date(2026, 11, 30), date(2026, 11, 27), id="a half day"),
    ],
)
async def test_the_baseline_session(harness, run_date, baseline):
    """The baseline is the last session before the run date, for the benchmark and all picks."""
    harness.world.closes["SPY", baseline] = "612.3400"
    batch = await harness.make_batch(run_date)
    assert (batch.trading_day, batch.benchmark_initial_price) == (baseline, Decimal("612.3400"))
    assert await harness.rows(
        "SELECT DISTINCT trading_day FROM closes JOIN picks ON picks.initial_close_id = closes.id"
    ) == [(baseline,)]


async def test_a_closure_on_short_notice(database, pool, clock, harness):
    """A closure on short notice, named in a setting, moves the baseline."""
    harness.world.absent |= {(ticker, BASELINE) for ticker in ("SPY", *CHOSEN)}
    async with open_context(
        database=database,
        pool=pool,
        clock=clock,
        base_url=harness.provider.url,
        MARKET_CLOSED_DAYS=str(BASELINE),
    ) as context:
        await weekly.run_if_due(context, 1, None)
    assert (await harness.batch()).trading_day == date(2026, 10, 22)


async def test_a_busy_price_provider(harness):
    """A short burst limit is waited out, in simulated time, without an effect."""
    burst = says(
        {"Information": "Please spread out your requests more sparingly (1 request per second)."}
    )
    harness.world.instead = [burst, burst]
    await harness.begin()
    assert (await harness.batch()).status == "active"
    assert harness.requested_tickers[:3] == ["SPY"] * 3
