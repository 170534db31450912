"""
The weekly job: makes a Monday's batch.

It asks the model for ideas, and reads their prices. Then it stores the batch with its fourteen
checkpoint jobs in one transaction. If there can be no batch, it stores the reason.
"""

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from uuid import uuid4

import structlog
from msgspec import Struct
from msgspec.structs import asdict, replace
from procrastinate import JobContext
from structlog.contextvars import bind_contextvars

from app.core.locks import Lock
from app.database.pools import transaction
from app.domain import calendar, control, prompt, returns
from app.domain.calendar import Calendar
from app.domain.declarations import ControlDeclaration, expected_mondays, in_force_on
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
from app.domain.text import make_storable
from app.domain.verification.rules.questions import parse_ideas
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
from app.providers.llm import ModelAnswer
from app.store import batches, closes, declarations, generations, journal
from app.store.checkpoints import DueCheckpoint
from app.store.rows import Conn
from jobs import alerts, queue_tables, timestamps
from jobs.context import Context
from jobs.daily import MAX_READING_AGE, defer_checkpoints
from jobs.in_force import effective_calendar
from jobs.prices import TemporarilyUnknownTicker, fetch_closes, is_traded
from jobs.queue import RetryPolicy, app, current_context
from jobs.queue_tables import LIVE, QUEUE_STATUSES

log = structlog.get_logger()

# A question stays open for as long as the model's client waits for the answer, plus this time to
# store it.
_TIME_TO_STORE = timedelta(seconds=5)

# A job waits for its tick if the tick lies at most this far in the future. In such a case another
# process has deferred the job, and that process's clock is ahead of this process's clock. For a
# tick further in the future, the job does not wait: while an older weekly job waits, no newer one
# runs its Monday (see `run_if_due`).
_MAX_TICK_LEAD = timedelta(days=1)

# The pause after a question that the provider did not answer: ten minutes before the last question,
# one minute before the others. Without pauses, an outage of one minute would use up all three
# questions, and the Monday would fail. With these pauses, the last question is sent before the
# market opens at 09:30.
_PAUSE_BEFORE_LAST_QUESTION = timedelta(minutes=10)
_PAUSE = timedelta(minutes=1)

_DAYS_PER_WEEK = 7


class _MondayIsOver(Exception):
    """The Monday ended before its answer was accepted or its prices were read."""


# 09:00 in New York is 13:00 UTC in summer and 14:00 UTC in winter. The job starts at both times: in
# summer the second job finds the batch stored, and in winter the first one finds no Monday due.
@app.periodic(cron="0 13,14 * * 1")
@app.task(name="pick_week", retry=RetryPolicy(), pass_context=True)
async def pick_week(
    job_context: JobContext,
    timestamp: int,
    questions: int | None = None,
    series: str | None = None,
) -> None:
    """
    Make this Monday's batch of a series, if it is Monday after 09:00 in New York and there is none.

    `timestamp` is the time of the tick that deferred the job. For a job without a tick, it is the
    time at which `defer_run` deferred the job. If `timestamp` is ahead of this process's clock, the
    job waits (`wait_for_tick`). The clock, not `timestamp`, decides which Monday is run.
    `list_jobs` finds the jobs of a Monday by their `timestamp`.

    `questions` is set only for a manual run (`alpha-monday pick`): the most questions that the
    Monday may have in all, earlier ones included. The argument keeps its short name, because queued
    jobs carry it.

    The job of a tick has no `series`. It defers a job for each other series, and is itself the job
    of the series `main`: so the failure of one series does not touch another. The jobs of earlier
    versions have no `series` either.
    """
    assert job_context.job.id is not None
    context = current_context()
    wait_for_tick(timestamp, context.now())
    async with alerts.alert_if_quota_spent(context):
        if series is None:
            await defer_other_series(context, timestamp)
        await run_if_due(context, job_context.job.id, questions, series=series or SERIES)


async def defer_other_series(context: Context, timestamp: int) -> None:
    """
    Defer this Monday's job of each series except `main`, unless the series has a batch or a job.

    `timestamp` is the time of the tick. The order of the series changes every week: if the day's
    requests run short, it is not always the same series that gets none.
    """
    run_date = calendar.run_date(context.now())
    others = [name for name in context.series if name != SERIES]
    if run_date is None or not others:
        return
    async with transaction(context.pool) as conn:
        # Two ticks may do this at the same moment, so the second one waits and finds the jobs of
        # the first one.
        await conn.execute("SELECT pg_advisory_xact_lock(%s)", (Lock.RECONCILIATION,))
        for name in rotate_by_week(others, run_date):
            has_batch = await batches.get_by_run_date(conn, name, run_date)
            if not has_batch and not await list_jobs(conn, name, run_date, statuses=QUEUE_STATUSES):
                await defer_run(conn, datetime.fromtimestamp(timestamp, UTC), name)


def rotate_by_week(names: Sequence[str], run_date: date) -> list[str]:
    """Return the names in their order, beginning with another one every week."""
    first = run_date.toordinal() // _DAYS_PER_WEEK % max(1, len(names))
    return [*names[first:], *names[:first]]


def wait_for_tick(timestamp: int, now: datetime) -> None:
    """
    Raise TryAgainAt if a tick is ahead of `now`, this process's time.

    In this case, another process with a clock that is ahead has deferred the job of the tick.
    Without the wait, the job of the tick at 09:00 would find no Monday due, because this process's
    clock does not show 09:00 yet.
    """
    tick = datetime.fromtimestamp(timestamp, UTC)
    if now < tick <= now + _MAX_TICK_LEAD:
        raise TryAgainAt(
            f"The tick of {tick:%Y-%m-%d %H:%M} UTC is ahead of this process's clock.", tick
        )


async def run_if_due(
    context: Context, job_id: int, max_questions: int | None, series: str = SERIES
) -> None:
    """
    Run this Monday of a series if it is due.

    Nothing is run if the Monday's batch is stored, or if an older job of the series waits or runs.
    Only a manual run replaces a failed batch. `max_questions` is the argument `questions` of
    `pick_week`.
    """
    run_date = calendar.run_date(context.now())
    if run_date is None:
        log.info("no Monday run is due")
        return
    if series not in context.series:
        # The job of a tick is always of `main`, which a file of series may lack. Another job may be
        # of a series that was taken out of the file a moment ago.
        log.info("series not configured", series=series)
        return
    bind_contextvars(
        run_date=str(run_date), batch=str(batch_id(series, run_date)), series=series, step="begin"
    )
    is_manual = max_questions is not None
    async with transaction(context.pool) as conn:
        batch = await batches.get_by_run_date(conn, series, run_date)
        other_jobs = await list_live_jobs(conn, series, run_date, before=job_id)
    if batch and (batch.status != BatchStatus.FAILED or not is_manual):
        log.info("batch already stored", status=batch.status)
    elif other_jobs:
        log.info("Monday run already in progress", other_job=other_jobs)
    else:
        log.info("Monday run started", by_hand=is_manual)
        run = _Run(
            series=series,
            run_date=run_date,
            max_questions=max_questions or QUESTIONS_PER_MONDAY,
            is_manual=is_manual,
        )
        await _run_monday(context, run)


async def list_live_jobs(
    conn: Conn,
    series: str,
    run_date: date,
    *,
    until: date | None = None,
    before: int | None = None,
) -> list[int]:
    """Return the ids of the weekly jobs of a series that wait or run (see `list_jobs`)."""
    return await list_jobs(
        conn,
        series,
        run_date,
        statuses=LIVE,
        until=until,
        before=before,
    )


async def list_jobs(
    conn: Conn,
    series: str,
    run_date: date,
    *,
    statuses: Sequence[str],
    until: date | None = None,
    before: int | None = None,
) -> list[int]:
    """
    Return the ids of the weekly jobs of a series that have one of these statuses, oldest first.

    The argument `timestamp` of these jobs is on `run_date` or later. The result has no jobs of
    earlier Mondays: such a job may stay `doing` for ever, and would prevent the run of every later
    Monday. With `until`, the `timestamp` is also on that date or earlier. With `before`, the id of
    each job is also lower than `before`.
    """
    end = None
    if until:
        end = calendar.end_of_day(until)
    return await queue_tables.periodic_jobs(
        conn,
        task=pick_week.name,
        series=series,
        since=calendar.from_new_york(run_date, time(0)),
        statuses=statuses,
        until=end,
        before=before,
    )


async def max_questions_of_manual_run(conn: Conn, series: str, run_date: date) -> int:
    """
    Return how many questions a Monday may have in all, if it is run manually now.

    A Monday may have three questions, and three more after each stored failure: this is a rule of
    the journal. If a manual run was interrupted before it stored a failure, the next manual run has
    only the questions that the interrupted one left of its three. Example: a Monday had three
    questions and failed, and a manual run was interrupted after two more. The result is six, so one
    question is left.
    """
    batch = await batches.get_by_run_date(conn, series, run_date)
    if batch is None:
        return QUESTIONS_PER_MONDAY
    question_count = len(await generations.list_by_run_date(conn, series, run_date))
    failures = len(await journal.list_contents(conn, batch.id, JournalKind.FAILURE))
    return min(question_count, QUESTIONS_PER_MONDAY * failures) + QUESTIONS_PER_MONDAY


async def defer_run(
    conn: Conn, now: datetime, series: str = SERIES, max_questions: int | None = None
) -> int:
    """
    Defer a weekly job of a series without a tick, to run at once. Return its id.

    `max_questions` is the argument `questions` of `pick_week`.
    """
    arguments: dict[str, object] = {"timestamp": int(now.timestamp()), "questions": max_questions}
    # The job of `main` has the arguments that an earlier version knows.
    if series != SERIES:
        arguments["series"] = series
    job = pick_week.configure().job.evolve(task_kwargs=arguments)
    (deferred,) = await app.job_manager.batch_defer_jobs_async([job], connection=conn)
    assert deferred.id is not None
    return deferred.id


class _Run(Struct, frozen=True, kw_only=True):
    """
    One run of a Monday of a series.

    `max_questions` is how many questions the Monday may have in all, those of earlier runs
    included. Only a manual run replaces a failed batch.
    """

    series: str
    run_date: date
    max_questions: int
    is_manual: bool


async def _run_monday(context: Context, run: _Run) -> None:
    """Make the batch of a Monday, or store why there is none."""
    await _record_missed_mondays_first(context)
    try:
        await _choose_and_store(context, run)
    except _MondayIsOver as error:
        await _fail(context, run, reason=FailureReason.MISSED, failure=str(error))
    except MissingClose as error:
        await _fail(context, run, reason=FailureReason.MISSING_CLOSE, failure=str(error))
    except UnusableAnswer as error:
        await _fail(context, run, reason=FailureReason.NO_USABLE_ANSWER, failure=str(error))
    except ConfigurationError as error:
        await _fail(context, run, reason=FailureReason.CONFIGURATION, failure=str(error))
    except ProviderError as error:
        await _fail(context, run, reason=FailureReason.PROVIDER_ERROR, failure=str(error))


async def _choose_and_store(context: Context, run: _Run) -> None:
    """
    Choose picks, read their prices and store the batch.

    Choose again if the provider does not know a ticker, or if a share is no longer traded.
    """
    while True:
        choice = await _choose(context, run)
        if choice is None:
            return
        read_at = context.now()
        bind_contextvars(step="snapshot")
        try:
            readings = await _read_baseline(context, choice.ideas, run.run_date)
        except UnknownTicker as error:
            refused = replace(choice.generation, accepted=False, refusal=str(error))
            await _complete(context, refused)
            continue
        now = context.now()
        if calendar.new_york_date(now) != run.run_date:
            # A batch of a Monday that is over would be back-dated.
            raise _MondayIsOver("The Monday was over before its prices were in.")
        if now > read_at + MAX_READING_AGE:
            # The readings are too old now, because another process may have stored newer ones. So
            # the loop begins again.
            continue
        if await _store(context, run, choice=choice, readings=readings, now=now):
            return


class _Choice(Struct, frozen=True, kw_only=True):
    """An accepted answer with its ideas."""

    generation: Generation
    ideas: list[Idea]


async def _choose(context: Context, run: _Run) -> _Choice | None:
    """
    Return an accepted answer with its ideas: a stored one, or a new one from the model.

    A stored answer is preferred, because it is paid for. Return None if another process has stored
    the Monday's batch meanwhile. Raise:

    - QuestionInProgress while another process's question is open
    - TryAgainAt for the pause after a question that the provider did not answer
    - UnusableAnswer or ProviderUnavailable if no questions are left
    - ConfigurationError if the provider refuses the request because of a setting; then no other
      question is sent
    - _MondayIsOver if the Monday is over
    """
    bind_contextvars(step="choose")
    # Each pass of the loop reads what is stored, because another process may have added to it.
    while True:
        async with context.pool.connection() as conn:
            batch = await batches.get_by_run_date(conn, run.series, run.run_date)
            questions = await generations.list_by_run_date(conn, run.series, run.run_date)
        if batch and batch.status != BatchStatus.FAILED:
            log.info("batch already stored by another process")
            return None
        accepted = next((one for one in questions if one.accepted), None)
        last = questions[-1] if questions else None
        if accepted:
            choice = await _read_accepted(context, accepted)
            if choice:
                return choice
        elif last and last.accepted is None:
            await _refuse_timed_out(context, last)
        elif last and len(questions) >= run.max_questions:
            _raise_no_questions_left(questions)
        elif run.series in context.model_clients:
            await _ask(context, run, questions)
        else:
            await _draw(context, run, questions)


async def _read_accepted(context: Context, generation: Generation) -> _Choice | None:
    """Return a stored answer with its ideas; refuse it and return None if it is unusable now."""
    try:
        ideas = parse_ideas(generation, context.benchmark)
        _require_same_benchmark(generation, context.benchmark)
    except UnusableAnswer as error:
        # Another version of this program has accepted the answer, or the benchmark has changed.
        refused = replace(generation, accepted=False, refusal=str(error))
        await _complete(context, refused)
        return None
    return _Choice(generation=generation, ideas=ideas)


def _require_same_benchmark(question: Generation, benchmark: str) -> None:
    """Raise UnusableAnswer if the prompt of the question names another benchmark."""
    if prompt.benchmark_in_prompt(question.user_prompt) not in (None, benchmark):
        raise UnusableAnswer(prompt.BENCHMARK_CHANGED)


async def _refuse_timed_out(context: Context, question: Generation) -> None:
    """
    Store a refusal for an open question that has timed out.

    Raise QuestionInProgress if the question has not timed out yet.
    """
    # This process's timeout is used; the process that asked may have a different one.
    timeout = timedelta(0)
    if question.series in context.model_clients:
        timeout = timedelta(seconds=context.model_clients[question.series].timeout)
    times_out_at = question.asked_at + timeout + _TIME_TO_STORE
    if times_out_at > context.now():
        raise QuestionInProgress("A question to the model is open.", times_out_at)
    refusal = "No answer was stored: whoever asked was cut off."
    await _complete(context, replace(question, accepted=False, refusal=refusal))


def _raise_no_questions_left(questions: Sequence[Generation]) -> None:
    """
    Raise the error of a Monday that may have no more questions.

    It is UnusableAnswer if the last question was answered, otherwise ProviderUnavailable.
    """
    last = questions[-1]
    message = f"{len(questions)} questions brought no usable answer. The last: {last.refusal}"
    if last.answered_at:
        raise UnusableAnswer(message)
    raise ProviderUnavailable(message)


async def _draw(context: Context, run: _Run, questions: Sequence[Generation]) -> None:
    """
    Draw the picks of a control, and store them as the answer to a question.

    `questions` are the Monday's earlier questions: their picks without a price are not drawn again.
    Raise ConfigurationError if the universe has too few possible picks, and _MondayIsOver if it is
    too late to draw.
    """
    question = _new_question(
        context,
        run,
        attempt=len(questions) + 1,
        requested_model=control.REQUESTED_MODEL,
        version=control.QUESTION_VERSION,
        system_prompt="",
        user_prompt="",
    )
    # The question and its answer are stored together: nothing has to be waited for between them.
    async with transaction(context.pool) as conn:
        claimed = await generations.claim(conn, question, context.in_force)
        if claimed is None:
            # Another process has drawn.
            return
        answered = await _with_draws(conn, context, claimed, earlier=questions)
        await generations.complete(conn, answered, context.now())
    if answered.refusal:
        # Another draw from the same universe would fail, too.
        raise ConfigurationError(answered.refusal)
    log.info("picks drawn", generation=str(answered.id))


async def _with_draws(
    conn: Conn, context: Context, question: Generation, *, earlier: Sequence[Generation]
) -> Generation:
    """
    Return the question of a control with its draws, accepted or refused.

    `earlier` are the Monday's earlier questions. The claim of the question has declared the
    control, so the hash of its first entry is there.
    """
    declared = []
    for one in await declarations.list_all_series(conn):
        if one.value.name == question.series:
            declared.append(one)
    in_force = in_force_on((one.value for one in declared), question.run_date)
    assert isinstance(in_force, ControlDeclaration)
    universe = in_force.profile.universe
    seed = control.draw_seed(declared[0].hash, question.run_date)
    try:
        draws = control.draw(
            universe,
            seed,
            benchmark=context.benchmark,
            refused=control.refused_tickers(earlier),
        )
    except UnusableAnswer as error:
        return replace(question, accepted=False, refusal=str(error))
    return replace(
        question,
        answered_at=context.now(),
        answer=control.answer_text(universe, seed, draws),
        accepted=True,
    )


def _new_question(
    context: Context,
    run: _Run,
    *,
    attempt: int,
    requested_model: str,
    version: str,
    system_prompt: str,
    user_prompt: str,
    reasoning_effort: str | None = None,
) -> Generation:
    """Return a question that is asked now. Raise _MondayIsOver if it is too late to ask."""
    now = context.now()
    if calendar.new_york_date(now) != run.run_date:
        raise _MondayIsOver("The Monday was over before an answer was accepted.")
    return Generation(
        id=uuid4(),
        series=run.series,
        run_date=run.run_date,
        attempt=attempt,
        asked_at=now,
        requested_model=requested_model,
        prompt_version=version,
        system_prompt=system_prompt,
        user_prompt=user_prompt,
        reasoning_effort=reasoning_effort,
    )


async def _ask(context: Context, run: _Run, questions: Sequence[Generation]) -> None:
    """
    Ask the model one more question, and store the outcome.

    The question is committed before it is sent, so that no other process asks it too. `questions`
    are the Monday's earlier questions. Raise TryAgainAt if the provider did not answer and more
    questions are allowed, and _MondayIsOver if it is too late to ask.
    """
    client = context.model_clients[run.series]
    # The model learns why its answers were refused. It does not learn of errors of the provider.
    refusals = [one.refusal for one in questions if one.answered_at and one.refusal]
    question = _new_question(
        context,
        run,
        attempt=len(questions) + 1,
        requested_model=client.model,
        version=prompt.CURRENT.version,
        system_prompt=prompt.CURRENT.system_prompt,
        user_prompt=prompt.CURRENT.user_prompt(run.run_date, context.benchmark, refusals),
        reasoning_effort=client.options.reasoning_effort,
    )
    async with transaction(context.pool) as conn:
        claimed = await generations.claim(conn, question, context.in_force)
    if claimed is None:
        # Another process asks this question.
        return
    question = claimed
    log.info(
        "question sent to the model",
        question=question.attempt,
        model=question.requested_model,
        generation=str(question.id),
    )

    questions_left = run.max_questions - question.attempt
    try:
        answer = await client.ask(question.system_prompt, question.user_prompt)
    except ConfigurationError as error:
        await _complete(context, replace(question, accepted=False, refusal=str(error)))
        raise
    except (ProviderBusy, ProviderUnavailable) as error:
        await _complete(context, replace(question, accepted=False, refusal=str(error)))
        retry_after = None
        if isinstance(error, ProviderBusy):
            retry_after = error.until
        _pause_if_questions_left(
            context, run, questions_left=questions_left, retry_after=retry_after
        )
        return
    await _complete(context, _with_answer(context, question, answer))
    if answer.is_from_provider:
        # The provider or a relay has answered in place of the model.
        _pause_if_questions_left(context, run, questions_left=questions_left)


def _pause_if_questions_left(
    context: Context, run: _Run, *, questions_left: int, retry_after: datetime | None = None
) -> None:
    """
    Raise TryAgainAt for the pause after a question without an answer, if questions are left.

    The job goes back to the queue and does not wait itself, so that it does not delay a stop of the
    process. `retry_after` is the time that the provider gave. If it is after the last price retry
    of the day (20:30), 20:30 is used in its place: a longer pause could leave no time for the
    remaining questions on that Monday.
    """
    if not questions_left:
        return
    pause = _PAUSE
    if questions_left == 1:
        pause = _PAUSE_BEFORE_LAST_QUESTION
    retry_at = context.now() + pause
    if retry_after:
        latest = calendar.from_new_york(run.run_date, calendar.PRICE_RETRY_TIMES[-1])
        retry_at = max(retry_at, min(retry_after, latest))
    raise TryAgainAt("The model's provider did not answer.", retry_at)


def _with_answer(context: Context, question: Generation, answer: ModelAnswer) -> Generation:
    """
    Return the question with its answer, accepted or refused.

    An answer that is too long is refused, and stored in part.
    """
    text = make_storable(answer.text or "")
    refusal = None
    try:
        if answer.unusable_reason:
            raise UnusableAnswer(answer.unusable_reason)
        prompt.require_storable_length(text)
        prompt.parse_answer(answer.text or "", context.benchmark, question.prompt_version)
    except UnusableAnswer as error:
        refusal = str(error)
    return replace(
        question,
        answered_at=context.now(),
        answered_model=answer.model,
        answer=prompt.text_to_store(text),
        request_id=answer.request_id,
        prompt_tokens=answer.prompt_tokens,
        completion_tokens=answer.completion_tokens,
        finish_reason=answer.finish_reason,
        system_fingerprint=answer.system_fingerprint,
        reasoning_tokens=answer.reasoning_tokens,
        accepted=refusal is None,
        refusal=refusal,
    )


async def _complete(context: Context, generation: Generation) -> None:
    """Store the outcome of a question. Replace the characters that Postgres cannot store."""
    texts = {}
    for name, value in asdict(generation).items():
        if isinstance(value, str):
            texts[name] = make_storable(value)
    generation = replace(generation, **texts)
    async with transaction(context.pool) as conn:
        if not await generations.complete(conn, generation, context.now()):
            log.warning(
                "question already completed by another process", generation=str(generation.id)
            )
            return
    if generation.accepted:
        log.info("answer accepted", model=generation.answered_model)
    else:
        log.warning("no usable answer", refusal=generation.refusal)


async def _read_baseline(
    context: Context, ideas: Sequence[Idea], run_date: date
) -> dict[str, Close]:
    """
    Return the closes of the baseline session by ticker, the benchmark's first.

    Raise:

    - TryAgainAt, for the next price retry of the day, if a close is missing or a request fails. At
      the last price retry, MissingClose or ProviderError is raised in its place.
    - UnknownTicker if the provider does not know the ticker of an idea: the model must choose
      another one. But if the provider knew the ticker recently, its answer counts as a failed
      request until the last price retry.
    - ConfigurationError if the provider does not know the benchmark, and never did.
    """
    error: MissingClose | ProviderError
    try:
        return await _request_baseline(context, ideas, run_date)
    except UnknownTicker as unknown:
        if unknown.ticker != context.benchmark:
            raise
        await _require_known_benchmark(context, unknown)
        # The benchmark had prices before, so the error is the provider's.
        error = ProviderUnavailable(str(unknown))
    except (MissingClose, ProviderError) as failure:
        error = failure
    retry_at = calendar.next_price_retry_at(context.now())
    if retry_at:
        raise TryAgainAt(str(error), retry_at) from None
    if isinstance(error, TemporarilyUnknownTicker) and error.ticker != context.benchmark:
        raise UnknownTicker(
            f"Alpha Vantage does not know {error.ticker} any more.", error.ticker
        ) from None
    raise error


async def _require_known_benchmark(context: Context, error: UnknownTicker) -> None:
    """Raise ConfigurationError if no price of the benchmark is stored: the setting is wrong."""
    async with context.pool.connection() as conn:
        newest_session = await closes.get_newest_session(conn, context.benchmark)
    if newest_session is None:
        raise ConfigurationError(
            f"{error} Set BENCHMARK_SYMBOL to a ticker that it knows."
        ) from None


async def _request_baseline(
    context: Context, ideas: Sequence[Idea], run_date: date
) -> dict[str, Close]:
    """
    Return the closes of the baseline session, by ticker.

    Raise UnknownTicker if a share is no longer traded.
    """
    needed_since = await _start_of_attempt_limit(context, run_date)
    session = await _find_baseline_session(context, run_date, needed_since=needed_since)
    tickers = [context.benchmark, *(idea.ticker for idea in ideas)]
    try:
        return await fetch_closes(context, tickers, session, needed_since=needed_since)
    except MissingClose as error:
        missing = [ticker for ticker in error.tickers if ticker != context.benchmark]
        ended = await _find_no_longer_traded(context, missing, session)
        if ended:
            # One refusal names all these shares, because the model has few questions to replace
            # them.
            raise UnknownTicker(" ".join(ended.values()), next(iter(ended))) from None
        raise


async def _find_baseline_session(
    context: Context, run_date: date, *, needed_since: datetime
) -> date:
    """
    Return the last session before a Monday.

    If MARKET_CLOSED_DAYS lists the day, the benchmark's closes are requested first: a close of the
    day shows that the exchange traded (see `jobs.prices.is_traded`).
    """
    session = Calendar().session_before(run_date)
    while not context.calendar.is_session(session):
        if await is_traded(context, context.benchmark, session, needed_since=needed_since):
            break
        session = Calendar().session_before(session)
    return session


async def _start_of_attempt_limit(context: Context, run_date: date) -> datetime:
    """
    Return the time from which failed requests for a close count against the limit of attempts.

    The limit is five attempts. While more than half of the day's requests are left, the count
    begins again at each price retry, so each of them may make five. Otherwise the count begins at
    09:00: when the five are used up, each price retry makes only one more. Without this rule, an
    outage of a whole morning would use up the requests that this Monday, and the checkpoints of
    other batches, need after the outage.
    """
    now = context.now()
    ledger = context.prices.ledger
    async with context.pool.connection() as conn:
        remaining = await ledger.remaining(conn, now)
    left_today, per_day = remaining.requests[-1], ledger.limits[-1].requests
    if 2 * left_today > per_day:
        return calendar.latest_price_request_at(now)
    return calendar.due_at(run_date)


async def _find_no_longer_traded(
    context: Context, tickers: Sequence[str], session: date
) -> dict[str, str]:
    """
    Return the tickers without a close of `session` that are no longer traded, with the reasons.

    If the close of the session before `session` is missing, too, the ticker counts at once as no
    longer traded. If only the close of `session` is missing, the provider may be late, and the
    close is requested again until 20:30. At that last price retry, a ticker counts as no longer
    traded if its newest close is older than the benchmark's.
    """
    before = context.calendar.session_before(session)
    is_last_retry = calendar.next_price_retry_at(context.now()) is None
    reasons: dict[str, str] = {}
    async with context.pool.connection() as conn:
        newest_of_benchmark = await closes.get_newest_session(conn, context.benchmark)
        for ticker in tickers:
            newest = await closes.get_newest_session(conn, ticker)
            if not await closes.get_newest(conn, ticker, before):
                reasons[ticker] = f"{ticker} has no recent price; it is no longer traded."
            elif is_last_retry and newest and newest_of_benchmark and newest < newest_of_benchmark:
                reasons[ticker] = (
                    f"{ticker} is taken for no longer traded: its last close is of {newest}, "
                    f"and {context.benchmark} has one of {newest_of_benchmark}."
                )
    return reasons


async def _store(
    context: Context,
    run: _Run,
    *,
    choice: _Choice,
    readings: dict[str, Close],
    now: datetime,
) -> bool:
    """
    Store the batch, its picks, baseline and journal entry, and defer its fourteen jobs.

    All of it is stored, or none of it. `now` is a time on this Monday. It becomes the batch's
    creation time, even if the transaction has to wait. Return False if another process has refused
    the answer meanwhile, so that a new answer is needed; return True if the Monday has a batch.
    """
    bind_contextvars(step="store")
    generation = choice.generation
    batch = _make_batch(context, run, benchmark=readings[context.benchmark], now=now)
    picks = _make_picks(batch, choice.ideas, readings)
    baseline = _make_baseline(batch, readings[context.benchmark])
    async with transaction(context.pool) as conn:
        # The lock prevents another process from refusing the answer before the batch is stored.
        locked = await generations.lock_for_update(conn, generation.id)
        if not locked.accepted:
            log.info("answer refused by another process", generation=str(generation.id))
            return False
        is_stored = await batches.insert(
            conn,
            batch,
            picks=picks,
            baseline=baseline,
            readings=list(readings.values()),
            rerun=run.is_manual,
            in_force=context.in_force,
        )
        if not is_stored:
            log.info("batch already stored by another process")
            return True
        due = [DueCheckpoint(batch.id, run.run_date, day) for day in calendar.MEASURED_DAYS]
        await defer_checkpoints(conn, due)
        await timestamps.defer_for_batch(conn, context, batch)
    log.info(
        "batch stored",
        late=batch.late,
        picks=[f"{pick.action} {pick.ticker} at {pick.initial_price}" for pick in picks],
        pick_ids=[str(pick.id) for pick in picks],
        benchmark=f"{batch.benchmark_symbol} at {batch.benchmark_initial_price}",
    )
    return True


def _make_batch(context: Context, run: _Run, *, benchmark: Close, now: datetime) -> Batch:
    return Batch(
        id=batch_id(run.series, run.run_date),
        series=run.series,
        run_date=run.run_date,
        created_at=now,
        status=BatchStatus.ACTIVE,
        late=context.calendar.is_late(run.run_date, now),
        benchmark_symbol=context.benchmark,
        benchmark_initial_price=benchmark.close,
        benchmark_initial_close_id=benchmark.id,
        trading_day=benchmark.trading_day,
    )


def _make_picks(batch: Batch, ideas: Sequence[Idea], readings: dict[str, Close]) -> list[Pick]:
    picks = []
    for position, idea in enumerate(ideas, 1):
        reading = readings[idea.ticker]
        pick = Pick(
            id=uuid4(),
            batch_id=batch.id,
            position=position,
            ticker=idea.ticker,
            action=idea.action,
            reasoning=idea.reasoning,
            probability=idea.probability,
            initial_price=reading.close,
            initial_close_id=reading.id,
        )
        picks.append(pick)
    return picks


def _make_baseline(batch: Batch, benchmark: Close) -> Checkpoint:
    """Return the checkpoint of day 0."""
    return Checkpoint(
        id=uuid4(),
        batch_id=batch.id,
        day=0,
        checkpoint_date=batch.run_date,
        trading_day=benchmark.trading_day,
        status=CheckpointStatus.COMPUTED,
        taken_at=batch.created_at,
        benchmark_price=benchmark.close,
        benchmark_close_id=benchmark.id,
        benchmark_split_factor=returns.ONE,
    )


async def record_missed_monday(
    conn: Conn, context: Context, run_date: date, series: str = SERIES
) -> bool:
    """Record that a Monday, which is over, was missed. Return False if it already has a row."""
    questions = await generations.list_by_run_date(conn, series, run_date)
    if not questions:
        failure = "Nobody was there to ask on that Monday."
    elif await context.prices.ledger.was_quota_spent(conn, calendar.end_of_day(run_date)):
        failure = (
            "The quota of prices was spent, and the Monday was over before its batch was made."
        )
    else:
        failure = "The Monday was over before its batch was made."
    batch = await _make_failed(
        conn,
        context,
        series,
        run_date=run_date,
        reason=FailureReason.MISSED,
        failure=failure,
    )
    return await _record_failed(conn, context, batch)


async def record_missed_mondays(conn: Conn, context: Context) -> int:
    """
    Record all missed Mondays of all series: those that are over and have no row.

    Return how many were recorded.
    """
    missed = 0
    for monday, series in await _find_missed_mondays(conn, context):
        missed += await record_missed_monday(conn, context, monday, series=series)
    return missed


async def _find_missed_mondays(conn: Conn, context: Context) -> list[tuple[date, str]]:
    """
    Return the Mondays that are over and have no row, each with its series, the oldest ones first.

    A series must have each Monday from its first batch on. A series that joined a record must have
    each Monday from its first declaration on. While a series is retired, it needs only the Mondays
    on which it was asked.
    """
    declared = await declarations.list_all_series(conn)
    recorded = await batches.list_mondays(conn)
    asked = await generations.list_mondays_without_batch(conn)
    first_of_record = min((monday for _, monday in recorded), default=None)
    if first_of_record is None:
        return []
    names = {series for series, _ in recorded} | {one.value.name for one in declared}
    today = calendar.new_york_date(context.now())
    missed = []
    for name in names:
        of_series = [one.value for one in declared if one.value.name == name]
        own = {monday for series, monday in recorded if series == name}
        expected = expected_mondays(
            of_series,
            own,
            asked={monday for series, monday in asked if series == name},
            first_of_record=first_of_record,
            until=today,
        )
        missed += [(monday, name) for monday in expected if monday not in own]
    return sorted(missed)


async def _record_missed_mondays_first(context: Context) -> None:
    """
    Record missed Mondays before this Monday gets its row, so that the journal has them in order.
    """
    async with transaction(context.pool) as conn:
        if await _find_missed_mondays(conn, context):
            # Reconciliation records missed Mondays, too. It takes this lock first and then the
            # journal's lock. With another order here, reconciliation and this job could wait for
            # each other: a deadlock, which Postgres ends by cancelling one of the two transactions.
            await conn.execute("SELECT pg_advisory_xact_lock(%s)", (Lock.RECONCILIATION,))
            await record_missed_mondays(conn, context)


async def give_up(
    conn: Conn, context: Context, run_date: date, *, series: str = SERIES, failure: str
) -> bool:
    """
    Record a Monday as failed because its job has failed. Return False if it already has a row.

    The reason is CONFIGURATION, because no FailureReason stands for an error of the service.
    """
    batch = await _make_failed(
        conn,
        context,
        series,
        run_date=run_date,
        reason=FailureReason.CONFIGURATION,
        failure=failure,
    )
    return await _record_failed(conn, context, batch)


async def _record_failed(conn: Conn, context: Context, batch: Batch) -> bool:
    is_stored = await _insert_failed(conn, context, batch)
    if is_stored:
        _log_failed(batch)
    return is_stored


async def _fail(context: Context, run: _Run, *, reason: FailureReason, failure: str) -> None:
    """Record this run's Monday as failed."""
    async with transaction(context.pool) as conn:
        batch = await _make_failed(
            conn,
            context,
            run.series,
            run_date=run.run_date,
            reason=reason,
            failure=failure,
        )
        if not await _insert_failed(conn, context, batch, rerun=run.is_manual):
            log.info("batch already stored by another process")
            return
    _log_failed(batch)


def _log_failed(batch: Batch) -> None:
    log.error(
        "Monday failed",
        reason=batch.failure_reason,
        failure=batch.failure,
        series=batch.series,
        run_date=str(batch.run_date),
        batch=str(batch.id),
    )


async def _insert_failed(
    conn: Conn, context: Context, batch: Batch, *, rerun: bool = False
) -> bool:
    """
    Store a failed Monday, with its alert. Return False if the Monday already has a row.

    There is one exception: with `rerun`, the new row replaces an earlier failure of the Monday.
    """
    is_stored = await batches.insert_failed(conn, batch, rerun=rerun, in_force=context.in_force)
    if not is_stored:
        return False
    await alerts.report_monday_failed(conn, context, batch)
    return True


async def _make_failed(
    conn: Conn,
    context: Context,
    series: str,
    *,
    run_date: date,
    reason: FailureReason,
    failure: str,
) -> Batch:
    now = context.now()
    sessions = await effective_calendar(conn, context.calendar, context.benchmark)
    return Batch(
        id=batch_id(series, run_date),
        series=series,
        run_date=run_date,
        created_at=now,
        status=BatchStatus.FAILED,
        late=sessions.is_late(run_date, now),
        failure_reason=reason,
        failure=make_storable(failure),  # it may quote a provider
        benchmark_symbol=context.benchmark,
    )
