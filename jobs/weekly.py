"""A Monday: ask for ideas, look up their prices, and store the batch with its fourteen mornings, all or nothing."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from uuid import uuid4

import structlog
from msgspec.structs import asdict, replace
from procrastinate import JobContext
from structlog.contextvars import bind_contextvars

from app.core.locks import Lock
from app.database.pools import transaction
from app.domain import calendar, prompt, returns
from app.domain.model import (
    QUESTIONS_PER_MONDAY,
    SERIES,
    Batch,
    BatchStatus,
    Checkpoint,
    CheckpointStatus,
    Close,
    FailureReason,
    Generation,
    Idea,
    JournalKind,
    Pick,
    batch_id,
)
from app.domain.text import storable
from app.errors import (
    ConfigurationError,
    MissingClose,
    ProviderBusy,
    ProviderError,
    ProviderUnavailable,
    QuestionInProgress,
    TryAgainAt,
    UnknownTicker,
    UnusableAnswer,
)
from app.providers.llm import Answer
from app.store import batches, closes, generations, journal
from app.store.checkpoints import Due
from app.store.rows import Conn
from jobs import alerts, queue_tables
from jobs.context import Context
from jobs.daily import FRESH, defer
from jobs.prices import SeemsUnknown, closes_of
from jobs.queue import Retry, app, tools
from jobs.queue_tables import LIVE

log = structlog.get_logger()

# A question is open for as long as the picker waits, and a little more, for the answer to be stored.
_STORED_WITHIN = timedelta(seconds=5)

# How far two processes' clocks may be apart for a tick to be waited for.
_ANOTHER_CLOCK = timedelta(days=1)

# How long a question that the provider did not answer keeps the next waiting, by the number of questions that are left.
# Three within seconds would lose the Monday to an outage of a minute; these are over before the open, at half past
# nine.
_PAUSES = {1: timedelta(minutes=10)}
_PAUSE = timedelta(minutes=1)


class _MondayIsOver(Exception):
    """It is too late to ask the model for this Monday."""


# Nine in New York is one of the two, whatever the season: the job itself asks which.
@app.periodic(cron="0 13,14 * * 1")
@app.task(name="pick_week", retry=Retry(), pass_context=True)
async def pick_week(context: JobContext, timestamp: int, questions: int | None = None) -> None:
    """
    Make this Monday's batch, if a Monday has begun and nobody has.

    `timestamp` is the tick's: it only says whether this process's clock has come to it, and the clock says which Monday
    it is. `questions` is how many may have been asked in all when a failed Monday is run again by hand.
    """
    assert context.job.id is not None
    wait_for_tick(timestamp, tools().now())
    async with alerts.quota_watched(tools()):
        await begin(tools(), context.job.id, questions)


def wait_for_tick(timestamp: int, now: datetime) -> None:
    """
    Raise TryAgainAt if a tick lies ahead of `now`: the process that put it into the queue has another clock.

    Otherwise the tick of nine o'clock would be over before this clock shows nine.
    """
    tick = datetime.fromtimestamp(timestamp, UTC)
    if now < tick <= now + _ANOTHER_CLOCK:
        raise TryAgainAt(f"The tick of {tick:%Y-%m-%d %H:%M} UTC is ahead of this process's clock.", tick)


async def begin(tools: Context, job_id: int, questions: int | None) -> None:
    """Run the Monday that has begun, unless it is done or on its way in another job."""
    run_date = calendar.run_date(tools.now())
    if run_date is None:
        log.info("no Monday has begun")
        return
    bind_contextvars(run_date=str(run_date), batch=str(batch_id(SERIES, run_date)), step="begin")
    async with transaction(tools.pool) as conn:
        batch = await batches.on(conn, SERIES, run_date)
        on_its_way = await live_jobs(conn, run_date, before=job_id)
    if batch and (batch.status != BatchStatus.FAILED or questions is None):
        log.info("this Monday has its batch", status=batch.status)
    elif on_its_way:
        log.info("this Monday is on its way", other_job=on_its_way)
    else:
        log.info("this Monday begins", by_hand=questions is not None)
        await _run(tools, run_date, questions or QUESTIONS_PER_MONDAY, by_hand=questions is not None)


async def live_jobs(
    conn: Conn,
    run_date: date,
    *,
    until: date | None = None,
    before: int | None = None,
) -> list[int]:
    """Return the ids of the weekly jobs of this Monday to `until` that wait or run, older than `before`."""
    return await jobs_of(conn, run_date, LIVE, until=until, before=before)


async def jobs_of(
    conn: Conn,
    run_date: date,
    statuses: Sequence[str],
    *,
    until: date | None = None,
    before: int | None = None,
) -> list[int]:
    """
    Return the ids of the weekly jobs that have one of these statuses and are older than `before`.

    Only those of this Monday and later; with `until`, to the end of that day.

    An earlier Monday's job that was left behind as `doing` must not keep all later Mondays from beginning.
    """
    return await queue_tables.periodic_jobs(
        conn,
        pick_week.name,
        since=calendar.at(run_date, time(0)),
        statuses=statuses,
        until=calendar.at(until + timedelta(days=1), time(0)) if until else None,
        before=before,
    )


async def questions_by_hand(conn: Conn, run_date: date) -> int:
    """
    Return how many questions may have been asked in all when a Monday is run by hand now.

    A Monday that failed gets three more than were asked. An earlier run by hand that was cut off before it could record
    a failure has used these: the journal allows three for each failure, and three more.
    """
    batch = await batches.on(conn, SERIES, run_date)
    if batch is None:
        return QUESTIONS_PER_MONDAY
    asked = len(await generations.of(conn, SERIES, run_date))
    failures = len(await journal.told(conn, batch.id, JournalKind.FAILURE))
    return min(asked, QUESTIONS_PER_MONDAY * failures) + QUESTIONS_PER_MONDAY


async def begin_again(conn: Conn, at: datetime, questions: int | None = None) -> int:
    """Put a weekly job into the queue outside its tick; return its id."""
    job = pick_week.configure().job.evolve(task_kwargs={"timestamp": int(at.timestamp()), "questions": questions})
    (deferred,) = await app.job_manager.batch_defer_jobs_async([job], connection=conn)
    assert deferred.id is not None
    return deferred.id


async def _run(tools: Context, run_date: date, questions: int, *, by_hand: bool) -> None:
    """Make the batch of `run_date`, or store why there is none; only `by_hand` does it replace a failed one."""

    async def fail(reason: FailureReason, failure: str) -> None:
        await _fail(tools, run_date, reason, failure, again=by_hand)

    await _record_missed_first(tools)
    try:
        while choice := await _choose(tools, run_date, questions):
            generation, chosen = choice
            looked_at = tools.now()
            try:
                bind_contextvars(step="snapshot")
                readings = await _priced(tools, chosen, run_date)
            except UnknownTicker as unknown:
                await _complete(tools, replace(generation, accepted=False, refusal=str(unknown)))
                continue
            now = tools.now()
            if calendar.today(now) != run_date:  # picks are never back-dated
                await fail(FailureReason.MISSED, "The Monday was over before its prices were in.")
                return
            if now > looked_at + FRESH:
                continue  # another process may have stored newer readings meanwhile
            if await _store(tools, run_date, now, generation, chosen, readings, again=by_hand):
                return
    except _MondayIsOver as over:
        await fail(FailureReason.MISSED, str(over))
    except MissingClose as missing:
        await fail(FailureReason.MISSING_CLOSE, str(missing))
    except UnusableAnswer as error:
        await fail(FailureReason.NO_USABLE_ANSWER, str(error))
    except ConfigurationError as error:
        await fail(FailureReason.CONFIGURATION, str(error))
    except ProviderError as error:
        await fail(FailureReason.PROVIDER_ERROR, str(error))


async def _choose(tools: Context, run_date: date, questions: int) -> tuple[Generation, list[Idea]] | None:
    """
    Return an accepted answer and its ideas: one that was paid for already, or a new one.

    Returns None when another process has made the Monday's batch meanwhile.

    Raises QuestionInProgress while another process's question is open; TryAgainAt while a provider that did not answer
    is left alone; UnusableAnswer or ProviderError when all questions are used up; ConfigurationError at once.
    """
    bind_contextvars(step="choose")
    while True:
        async with tools.pool.connection() as conn:
            batch = await batches.on(conn, SERIES, run_date)
            asked = await generations.of(conn, SERIES, run_date)
        if batch and batch.status != BatchStatus.FAILED:
            log.info("somebody was first")
            return None
        if accepted := next((one for one in asked if one.accepted), None):
            try:
                ideas = prompt.read(accepted.answer or "", tools.benchmark)
                _refuse_other_benchmark(accepted, tools.benchmark)
            except UnusableAnswer as error:  # another version of this program, or another benchmark, had accepted it
                await _complete(tools, replace(accepted, accepted=False, refusal=str(error)))
                continue
            return accepted, ideas
        last = asked[-1] if asked else None
        if last and last.accepted is None:
            if (lapses := _lapse_of(tools, last)) > tools.now():
                raise QuestionInProgress("A question to the model is open.", lapses)
            await _complete(
                tools, replace(last, accepted=False, refusal="No answer was stored: whoever asked was cut off.")
            )
        elif last and len(asked) >= questions:
            told = f"{len(asked)} questions brought no usable answer. The last: {last.refusal}"
            raise UnusableAnswer(told) if last.answered_at else ProviderUnavailable(told)
        else:
            await _ask(tools, run_date, asked, left=questions - len(asked) - 1)


def _refuse_other_benchmark(question: Generation, benchmark: str) -> None:
    """Raise UnusableAnswer if the model was told that its choice is measured against another benchmark."""
    if prompt.benchmark_of(question.user_prompt) not in (None, benchmark):
        raise UnusableAnswer(prompt.BENCHMARK_CHANGED)


def _lapse_of(tools: Context, question: Generation) -> datetime:
    """Return until when an open question may still be answered, by the time that this process gives one."""
    return question.asked_at + timedelta(seconds=tools.picker.timeout) + _STORED_WITHIN


async def _ask(tools: Context, run_date: date, asked: Sequence[Generation], left: int) -> None:
    """
    Put one more question, claimed before it is sent, and store what became of it.

    `left` is how many questions remain after it. Raises TryAgainAt if the provider did not answer and some remain, and
    _MondayIsOver when it is too late to ask.
    """
    now = tools.now()
    if calendar.today(now) != run_date:
        raise _MondayIsOver("The Monday was over before an answer was accepted.")
    refusals = [one.refusal for one in asked if one.answered_at and one.refusal]
    question = Generation(
        id=uuid4(),
        series=SERIES,
        run_date=run_date,
        attempt=len(asked) + 1,
        asked_at=now,
        requested_model=tools.picker.model,
        prompt_version=prompt.PROMPT_VERSION,
        system_prompt=prompt.SYSTEM_PROMPT,
        user_prompt=prompt.user_prompt(run_date, tools.benchmark, refusals),
    )
    async with tools.pool.connection() as conn:
        if not await generations.claim(conn, question):
            return  # somebody else asks
    log.info("model asked", question=question.attempt, model=question.requested_model, generation=str(question.id))
    try:
        answer = await tools.picker.ask(question.system_prompt, question.user_prompt)
    except ConfigurationError as error:
        await _complete(tools, replace(question, accepted=False, refusal=str(error)))
        raise
    except (ProviderBusy, ProviderUnavailable) as error:
        await _complete(tools, replace(question, accepted=False, refusal=str(error)))
        _leave_alone(tools, run_date, left, error.until if isinstance(error, ProviderBusy) else None)
        return
    await _complete(tools, _answered(tools, question, answer))
    if answer.by_provider:
        _leave_alone(tools, run_date, left)


def _leave_alone(tools: Context, run_date: date, left: int, until: datetime | None = None) -> None:
    """
    Raise when to ask a provider again that did not answer, if any question is left.

    That is a time of the queue's and no wait of the job's, so that a stop is not delayed. `until` is when the provider
    asked for; no later than the day's last time of asking for a close, or the questions that are left would be lost.
    """
    if not left:
        return
    at = tools.now() + _PAUSES.get(left, _PAUSE)
    if until:
        at = max(at, min(until, calendar.at(run_date, calendar.ASK_AGAIN[-1])))
    raise TryAgainAt("The model's provider did not answer.", at)


def _answered(tools: Context, question: Generation, answer: Answer) -> Generation:
    """Return the question with its answer, accepted or refused; one that is too long is refused, and stored in part."""
    text = storable(answer.text or "")
    try:
        if answer.unusable:
            raise UnusableAnswer(answer.unusable)
        prompt.refuse_too_long(text)
        prompt.read(answer.text or "", tools.benchmark)
        refusal = None
    except UnusableAnswer as error:
        refusal = str(error)
    return replace(
        question,
        answered_at=tools.now(),
        answered_model=answer.model,
        answer=prompt.stored(text),
        request_id=answer.request_id,
        prompt_tokens=answer.prompt_tokens,
        completion_tokens=answer.completion_tokens,
        accepted=refusal is None,
        refusal=refusal,
    )


async def _complete(tools: Context, generation: Generation) -> None:
    """Store what became of a question: as it was said, but for what Postgres cannot carry."""
    said = {name: storable(value) for name, value in asdict(generation).items() if isinstance(value, str)}
    generation = replace(generation, **said)
    async with transaction(tools.pool) as conn:
        if not await generations.complete(conn, generation, tools.now()):
            log.warning("the question had lapsed, or somebody was first", generation=str(generation.id))
            return
    if generation.accepted:
        log.info("answer accepted", model=generation.answered_model)
    else:
        log.warning("question in vain", refusal=generation.refusal)


async def _priced(tools: Context, chosen: Sequence[Idea], run_date: date) -> dict[str, Close]:
    """
    Return the closes of the baseline session, the benchmark's first.

    Raises TryAgainAt for what may be there at the day's next time of asking, and after the last one what was missing:
    MissingClose or ProviderError. UnknownTicker is only ever about a pick: the model is to choose another. After the
    last time of asking that is also a pick which the provider knew lately, and does not know any more.
    """
    failed: MissingClose | ProviderError
    try:
        return await _snapshot(tools, chosen, run_date)
    except UnknownTicker as unknown:
        if unknown.ticker != tools.benchmark:
            raise
        async with tools.pool.connection() as conn:
            if not await closes.latest(conn, tools.benchmark):
                raise ConfigurationError(f"{unknown} Set BENCHMARK_SYMBOL to a ticker that it knows.") from None
        failed = ProviderUnavailable(str(unknown))  # it was priced before: the provider errs
    except (MissingClose, ProviderError) as error:
        failed = error
    if again := calendar.ask_again_at(tools.now()):
        raise TryAgainAt(str(failed), again) from None
    if isinstance(failed, SeemsUnknown) and failed.ticker != tools.benchmark:
        raise UnknownTicker(f"Alpha Vantage does not know {failed.ticker} any more.", failed.ticker) from None
    raise failed


async def _snapshot(tools: Context, chosen: Sequence[Idea], run_date: date) -> dict[str, Close]:
    """Return the closes of the baseline session, the benchmark's first; a ticker no longer traded is unknown."""
    session = tools.calendar.session_before(run_date)
    tickers = [tools.benchmark, *(idea.ticker for idea in chosen)]
    try:
        return await closes_of(tools, tickers, session, await _attempts_since(tools, run_date))
    except MissingClose as missing:
        picks = [ticker for ticker in missing.tickers if ticker != tools.benchmark]
        if ended := await _ended(tools, picks, session):
            # All of them at once: the model has few questions left to choose others.
            raise UnknownTicker(" ".join(ended.values()), next(iter(ended))) from None
        raise


async def _attempts_since(tools: Context, run_date: date) -> datetime:
    """
    Return since when attempts at a close count together: five in all, and then one each time.

    Each time of asking has five of its own while more than half of the day's requests are left. Then only one more
    each, because an outage that lasts the whole morning would otherwise use up the requests that the Monday, and the
    checkpoints of other batches, need once it is over.
    """
    now, ledger = tools.now(), tools.prices.ledger
    async with tools.pool.connection() as conn:
        left = await ledger.left(conn, now)
    day_left, a_day = left.requests[-1], ledger.limits[-1].requests
    return calendar.asked_since(now) if 2 * day_left > a_day else calendar.due_at(run_date)


async def _ended(tools: Context, tickers: Sequence[str], session: date) -> dict[str, str]:
    """
    Return the tickers among those without a close of `session` that are no longer traded, and what shows it.

    One that also lacks the session before is refused at once. One that lacks only `session` may be late at the
    provider, and is asked for all day; at the last time of asking, an own latest bar that is older than the
    benchmark's (which has one of `session`) shows that its series ended.
    """
    before = tools.calendar.session_before(session)
    is_last_time = calendar.ask_again_at(tools.now()) is None
    ended: dict[str, str] = {}
    async with tools.pool.connection() as conn:
        benchmarks_last = await closes.latest(conn, tools.benchmark)
        for ticker in tickers:
            last = await closes.latest(conn, ticker)
            if not await closes.newest(conn, ticker, before):
                ended[ticker] = f"{ticker} has no recent price; it is no longer traded."
            elif is_last_time and last and benchmarks_last and last < benchmarks_last:
                ended[ticker] = (
                    f"{ticker} is taken for no longer traded: its last close is of {last}, "
                    f"and {tools.benchmark} has one of {benchmarks_last}."
                )
    return ended


async def _store(
    tools: Context,
    run_date: date,
    now: datetime,
    generation: Generation,
    chosen: Sequence[Idea],
    readings: dict[str, Close],
    *,
    again: bool,
) -> bool:
    """
    Store the batch, its picks, its baseline, the journal's entry and the fourteen jobs: all of it or none.

    `now` is when it was still this Monday, and the batch says so, however long the transaction waits. Returns False if
    another process has refused the answer meanwhile, so that another one is needed.
    """
    bind_contextvars(step="store")
    benchmark = readings[tools.benchmark]
    batch = Batch(
        id=batch_id(SERIES, run_date),
        series=SERIES,
        run_date=run_date,
        created_at=now,
        status=BatchStatus.ACTIVE,
        late=tools.calendar.is_late(run_date, now),
        benchmark_symbol=tools.benchmark,
        benchmark_initial_price=benchmark.close,
        benchmark_initial_close_id=benchmark.id,
        trading_day=benchmark.trading_day,
    )
    picks = [
        Pick(
            id=uuid4(),
            batch_id=batch.id,
            position=position,
            ticker=idea.ticker,
            action=idea.action,
            reasoning=idea.reasoning,
            initial_price=readings[idea.ticker].close,
            initial_close_id=readings[idea.ticker].id,
        )
        for position, idea in enumerate(chosen, 1)
    ]
    baseline = Checkpoint(
        id=uuid4(),
        batch_id=batch.id,
        day=0,
        checkpoint_date=run_date,
        trading_day=benchmark.trading_day,
        status=CheckpointStatus.COMPUTED,
        taken_at=now,
        benchmark_price=benchmark.close,
        benchmark_close_id=benchmark.id,
        benchmark_split_factor=returns.ONE,
    )
    async with transaction(tools.pool) as conn:
        # Held, so that no other process refuses it between this look and the batch.
        if not (await generations.hold(conn, generation.id)).accepted:
            log.info("the answer was refused meanwhile", generation=str(generation.id))
            return False
        if not await batches.add(conn, batch, picks, baseline, list(readings.values()), again=again):
            log.info("somebody was first")
            return True
        await defer(conn, [Due(batch.id, run_date, day) for day in calendar.FORTNIGHT])
    log.info(
        "batch stored",
        late=batch.late,
        picks=[f"{pick.action} {pick.ticker} at {pick.initial_price}" for pick in picks],
        pick_ids=[str(pick.id) for pick in picks],
        benchmark=f"{batch.benchmark_symbol} at {batch.benchmark_initial_price}",
    )
    return True


async def miss(conn: Conn, tools: Context, run_date: date) -> bool:
    """Record a Monday that is over; return False if it has a row."""
    asked = await generations.of(conn, SERIES, run_date)
    failure = "The Monday was over before its batch was made." if asked else "Nobody was there to ask on that Monday."
    if asked and await tools.prices.ledger.was_spent(conn, calendar.at(run_date + timedelta(days=1), time(0))):
        failure = "The quota of prices was spent, and the Monday was over before its batch was made."
    return await _record_failed(conn, tools, _failed(tools, run_date, FailureReason.MISSED, failure))


async def record_missed(conn: Conn, tools: Context) -> int:
    """Give every Monday that is over and has no row one that says so, from the series' first batch on."""
    missed = 0
    for monday in await _missed(conn, tools):
        missed += await miss(conn, tools, monday)
    return missed


async def _missed(conn: Conn, tools: Context) -> list[date]:
    """Return the Mondays that are over and have no row, from the series' first batch on."""
    known = await batches.run_dates(conn, SERIES)
    today, monday, missed = calendar.today(tools.now()), min(known, default=date.max), []
    while monday < today:
        if monday not in known:
            missed.append(monday)
        monday = calendar.checkpoint_date(monday, 7)
    return missed


async def _record_missed_first(tools: Context) -> None:
    """
    Record the Mondays that were missed before this one has its row: in the journal, none is ever absent between two.

    The lock of upkeep, which does the same, comes before the journal's.
    """
    async with transaction(tools.pool) as conn:
        if await _missed(conn, tools):
            await conn.execute("SELECT pg_advisory_xact_lock(%s)", (Lock.RECONCILIATION,))
            await record_missed(conn, tools)


async def give_up(conn: Conn, tools: Context, run_date: date, why: str) -> bool:
    """Record a Monday whose job failed: a person must change something."""
    return await _record_failed(conn, tools, _failed(tools, run_date, FailureReason.CONFIGURATION, why))


async def _record_failed(conn: Conn, tools: Context, batch: Batch) -> bool:
    stored = await _add_failed(conn, tools, batch)
    if stored:
        _tell_failed(batch)
    return stored


async def _fail(tools: Context, run_date: date, reason: FailureReason, failure: str, *, again: bool) -> None:
    batch = _failed(tools, run_date, reason, failure)
    async with transaction(tools.pool) as conn:
        if not await _add_failed(conn, tools, batch, again=again):
            log.info("somebody was first")
            return
    _tell_failed(batch)


def _tell_failed(batch: Batch) -> None:
    log.error(
        "this Monday failed",
        reason=batch.failure_reason,
        failure=batch.failure,
        run_date=str(batch.run_date),
        batch=str(batch.id),
    )


async def _add_failed(conn: Conn, tools: Context, batch: Batch, *, again: bool = False) -> bool:
    """Store a Monday without picks, with the alert that tells of it; return False if it has a row."""
    if not await batches.add_failed(conn, batch, again=again):
        return False
    await alerts.monday_failed(conn, tools, batch)
    return True


def _failed(tools: Context, run_date: date, reason: FailureReason, failure: str) -> Batch:
    now = tools.now()
    return Batch(
        id=batch_id(SERIES, run_date),
        series=SERIES,
        run_date=run_date,
        created_at=now,
        status=BatchStatus.FAILED,
        late=tools.calendar.is_late(run_date, now),
        failure_reason=reason,
        failure=storable(failure),  # it may quote a provider
        benchmark_symbol=tools.benchmark,
    )
