"""`alpha-monday status`: prints the state of the service, and what a person must do."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import date, timedelta
from typing import Any

import click
import msgspec

from app.commands.terminal import (
    async_command,
    clock,
    format_duration,
    format_new_york,
    open_record,
    rehearsal_option,
)
from app.core import settings
from app.database.rights import Need
from app.domain import calendar
from app.domain.journal import format_head
from app.domain.model import SERIES, Batch, BatchStatus, FailureReason, SeriesKind
from app.domain.request_plan import RequestPlan
from app.domain.text import end_sentence, escape_unprintable, join_words
from app.ops import snapshot
from app.ops.snapshot import (
    MessageState,
    Monday,
    OperatorSnapshot,
    PastProblems,
    PendingCheckpoint,
    SeriesState,
    SkippedCheckpoint,
)
from app.providers.model_ends import ModelEnd
from app.store.checkpoints import ComputedCheckpoint
from jobs.published_heads import FAILING_TOO_LONG
from jobs.queue_tables import WorkerRow

# The reconciliation runs at least once a minute. If it has not repaired something after this time,
# it will probably not repair it any more.
_OVERDUE_AFTER = timedelta(minutes=10)

# If no worker runs, but the last round of the reconciliation is not older than this, the service is
# probably restarting its worker at the moment.
_RECENT_ROUND = timedelta(minutes=2)

# A job requests a missing close until the evening, and a quota that is used up is renewed within a
# day. So a checkpoint that is overdue for longer than this does not wait for prices.
_LONGEST_WAIT_FOR_PRICES = timedelta(hours=36)

# A skipped checkpoint is retaken once a day. After this time, so after two retakes, a person must
# act.
_RETAKE_PERIOD = timedelta(days=2)

# How many overdue checkpoints are listed one by one.
_MAX_OVERDUE_LINES = 5


@click.command()
@click.option(
    "--json", "as_json", is_flag=True, help="Print everything as one JSON document, for scripts."
)
@rehearsal_option("Show the state of the embedded rehearsal.")
@async_command
async def status(as_json: bool, rehearsal: bool) -> None:
    """Show what runs, what comes next, what waits, what succeeded last, and what you must do.

    Lines that begin with `note:` report problems that need no action. Lines that begin with
    `to do:` say what you must do.

    \b
    The last line is "All is well." only if nothing is wrong at this moment.

    \b
    Exit code: 0 no action is needed; 1 there is something to do, or the state could not be read.

    \b
    Examples:
      alpha-monday status
      alpha-monday status --json
      alpha-monday status --rehearsal
    """
    configuration = settings.load()
    async with open_record(configuration, rehearsal=rehearsal, need=Need.READ_ALL) as pool:
        state = await snapshot.read_for_operator(pool, configuration, clock)
    if as_json:
        _print_json(state)
    else:
        _print_lines(state)
    if list(to_dos(state)):
        sys.exit(1)


def _print_json(state: OperatorSnapshot) -> None:
    to_do = list(to_dos(state))
    # `well` is less strict than the printed "All is well.": a problem that the service solves by
    # itself, such as a quota that is used up, leaves `well` true.
    summary = {
        "notes": list(notes(state)),
        "to_do": to_do,
        "well": not to_do and not _is_overdue(state),
    }
    click.echo(msgspec.json.encode(document(state) | summary))


def _print_lines(state: OperatorSnapshot) -> None:
    # Lines quote texts of providers. An escape sequence in such a text must not reach the terminal.
    for line in facts(state):
        click.echo(escape_unprintable(line))
    for line in notes(state):
        click.echo(f"note: {escape_unprintable(line)}")
    to_do = list(to_dos(state))
    for line in to_do:
        click.echo(f"to do: {escape_unprintable(line)}")
    if to_do:
        return
    if _has_problem(state):
        click.echo("No action is needed.")
    else:
        click.echo("All is well.")


def _is_overdue(state: OperatorSnapshot) -> bool:
    """Return whether a checkpoint has been overdue for longer than a worker needs to take it."""
    return any(state.at - checkpoint.due_at > _OVERDUE_AFTER for checkpoint in state.work.overdue)


def _has_problem(state: OperatorSnapshot) -> bool:
    """Return whether something is wrong at this moment, even if it needs no action."""
    work = state.work
    if work.overdue or work.skipped or work.stalled or state.quota_is_spent:
        return True
    for monday in state.record.mondays:
        if monday.batch is not None and monday.batch.status == BatchStatus.FAILED:
            return True
    return bool(state.past.unrecorded)


def document(state: OperatorSnapshot) -> dict[str, Any]:
    """Return what `--json` prints of the snapshot. Scripts read its keys, so they never change."""
    monday = state.record.monday
    return {
        "at": state.at,
        "rehearsed": state.rehearsed,
        "standing_still": state.is_behind_real_time,
        "workers": state.queue.workers,
        "upkeep": state.queue.reconciler,
        "monday": monday.run_date,
        "batch": monday.batch,
        "monday_job": monday.job,
        "next_monday_at": state.next_run_at,
        "next_checkpoints": state.work.next_checkpoints,
        "overdue": state.work.overdue,
        "jobs": state.queue.jobs,
        "stalled": state.work.stalled,
        "failed": state.work.failed,
        "quota": state.providers.quota,
        "allowed": [limit.requests for limit in state.providers.limits],
        "request_plan": _plan_document(state.request_plan),
        "last_batch": state.last_batch,
        "last_checkpoint": state.last_checkpoint and _taken_document(state.last_checkpoint),
        "record": state.identity,
        "journal_head": state.record.journal_head,
        "past": _past_document(state.past),
        "skipped": state.work.skipped,
        "alerts": state.messages.alerts,
        "heartbeat": state.messages.heartbeat,
        "model": state.model,
        "models": [_model_document(end) for end in state.model_ends],
        "timestamps": state.stamps,
        "unstamped_monday": state.unstamped[0].run_date if state.unstamped else None,
        "published_head": _publication_document(state),
        "series": [_series_document(one, state) for one in state.series],
        "further_benchmarks": state.further_benchmarks,
    }


def _series_document(one: SeriesState, state: OperatorSnapshot) -> dict[str, Any]:
    monday = one.monday
    return {
        "name": one.name,
        "label": one.label,
        "kind": one.kind,
        "model": one.model,
        "configured": one.configured,
        "declared": one.declared,
        "retired": one.retired,
        "joins": one.joins,
        "leaves": one.leaves,
        "first_monday": one.first_run_date,
        "batch": monday and monday.batch,
        "monday_job": monday and monday.job,
        "questions": monday and monday.questions,
        "missed": one.missed,
        "unrecorded": one.unrecorded,
        "unstamped": one.name in {unstamped.series for unstamped in state.unstamped},
    }


def _model_document(end: ModelEnd) -> dict[str, Any]:
    return {
        "series": end.series,
        "name": end.model,
        "ends_on": end.ends_on,
        "gone": end.is_gone,
    }


def _publication_document(state: OperatorSnapshot) -> dict[str, Any]:
    publication = state.publication
    return {
        "on": state.publishes_heads,
        "seq": publication.seq,
        "hash": publication.hash,
        "published_at": publication.published_at,
        "failing_since": publication.failing_since,
        "failure": publication.failure,
    }


def _plan_document(plan: RequestPlan) -> dict[str, Any]:
    return {
        "per_day": plan.per_day,
        "most_closes": plan.most_closes,
        "splits_left_out": plan.left_out_splits,
        "dividends_left_out": plan.left_out_dividends,
        "days": plan.days,
    }


def _past_document(past: PastProblems) -> dict[str, Any]:
    return {
        "missed": past.missed,
        "unrecorded": sorted({monday.run_date for monday in past.unrecorded}),
        "late_batches": past.delayed_batches,
        "late_checkpoints": [
            _taken_document(checkpoint) for checkpoint in past.delayed_checkpoints
        ],
    }


def _taken_document(checkpoint: ComputedCheckpoint) -> dict[str, Any]:
    return {
        "run_date": checkpoint.run_date,
        "day": checkpoint.day,
        "taken_at": checkpoint.taken_at,
        "again": checkpoint.was_skipped,
        "series": checkpoint.series,
    }


# The state: one line for each part


def facts(state: OperatorSnapshot) -> Iterator[str]:
    """Yield one line for each part of the service, with its state."""
    yield _now_line(state)
    workers = [_describe_worker(worker) for worker in state.queue.workers]
    yield f"workers: {'; '.join(workers) or 'none'}"
    yield f"reconciliation: {_describe_reconciliation(state)}"
    if state.has_several_series:
        yield f"series: {', '.join(map(_describe_series, state.series))}"
    for monday in state.record.mondays:
        of_series = _of_series(monday.series, state)
        yield f"Monday {monday.run_date}{of_series}: {_describe_monday(monday, state)}"
    yield f"next Monday: {format_new_york(state.next_run_at)}"
    yield f"next checkpoints: {_describe_next_checkpoints(state)}"
    jobs = [f"{count.jobs} {count.task} {count.status}" for count in state.queue.jobs]
    yield f"jobs: {', '.join(jobs) or 'none'}"
    yield f"overdue: {len(state.work.overdue) or 'none'}"
    yield f"Alpha Vantage requests left: {_describe_quota(state)}"
    yield f"price requests planned: {_describe_plan(state.request_plan)}"
    yield f"last batch: {_describe_last_batch(state)}"
    yield f"last figures: {_describe_last_checkpoint(state)}"
    if state.further_benchmarks:
        yield f"further benchmarks: {_describe_further(state)}"
    yield f"alerts: {_describe_messages(state.messages.alerts, 'ALERT_WEBHOOK_URL')}"
    yield f"heartbeat: {_describe_messages(state.messages.heartbeat, 'HEARTBEAT_URL')}"
    yield f"timestamps: {_describe_stamps(state)}"
    yield f"record: {_describe_record(state)}"
    head = state.record.journal_head
    if head:
        yield f"journal: {format_head(head.seq, head.hash)}"
    else:
        yield "journal: empty"
    yield f"published head: {_describe_publication(state)}"


def _now_line(state: OperatorSnapshot) -> str:
    line = f"now: {format_new_york(state.at)}"
    if state.rehearsed:
        line += " (rehearsed: all of it is made up)"
    return line


def _describe_record(state: OperatorSnapshot) -> str:
    identity = state.identity
    origin = f"its origin is {identity.origin}"
    if identity.sealed:
        return f"{identity.id or 'its id is not readable'}; {origin}; sealed"
    if state.record.journal_head is None:
        return "empty; its first entry seals it"
    return f"{origin}; not sealed, `alpha-monday seal` seals it"


def _describe_worker(worker: WorkerRow) -> str:
    line = f"id {worker.id}, heartbeat {worker.silent:.0f} s ago"
    if not worker.is_alive:
        line += " (silent)"
    return line


def _describe_reconciliation(state: OperatorSnapshot) -> str:
    reconciler = state.queue.reconciler
    if reconciler is None:
        return "it has never run"
    last_round = f"last round {format_duration(state.at - reconciler.last_round_at)} ago"
    if reconciler.last_mended_at is None:
        return last_round
    repairs = []
    for name, count in reconciler.mended.items():
        if count:
            words = name.replace("_", " ")
            # `begun` (today's Monday was started) is true or false, not a number.
            repairs.append(words if count is True else f"{count} {words}")
    repaired_at = format_new_york(reconciler.last_mended_at)
    return f"{last_round}; last repairs {repaired_at}: {', '.join(repairs)}"


def _describe_series(one: SeriesState) -> str:
    """Return the name of a series, with its label and what it asks."""
    words = []
    if one.label not in (one.name, one.model and one.model.name):
        words.append(one.label)
    if one.model:
        words.append(one.model.name)
    elif one.kind == SeriesKind.RANDOM:
        words.append("control")
    if one.retired and not one.configured:
        words.append("retired")
    elif one.leaves:
        words.append("not configured")
    return f"{one.name} ({', '.join(words)})" if words else one.name


def _describe_monday(monday: Monday, state: OperatorSnapshot) -> str:
    batch = monday.batch
    if batch is None and monday.job:
        line = f"job {monday.job} makes its batch"
        if state.has_several_series and monday.questions:
            line += f", {_count(monday.questions, 'question')} so far"
        return line
    if batch is None:
        return "no batch"
    if batch.status == BatchStatus.FAILED:
        return f"failed ({batch.failure_reason}): {batch.failure}"
    if batch.late:
        return f"{batch.status}, late"
    return str(batch.status)


def _describe_next_checkpoints(state: OperatorSnapshot) -> str:
    checkpoints = state.work.next_checkpoints
    if not checkpoints:
        return "none"
    figures = state.work.next_figures
    if figures == checkpoints:
        return _describe_due(checkpoints, state)
    # The day before the next checkpoint has no session, so this checkpoint will be skipped. A
    # person who waits for figures wants to know the first checkpoint that has some.
    next_figures = _describe_due(figures, state) if figures else "none"
    return f"{_describe_due(checkpoints, state)}, without figures; next figures: {next_figures}"


def _describe_due(checkpoints: Sequence[PendingCheckpoint], state: OperatorSnapshot) -> str:
    """Return the names of checkpoints that are due at the same time, with that time."""
    series_by_name: dict[str, list[str]] = {}
    for checkpoint in checkpoints:
        name = _name(checkpoint.day, checkpoint.run_date)
        series_by_name.setdefault(name, []).append(checkpoint.series)
    names = []
    for name, series in series_by_name.items():
        if state.has_several_series:
            name += f" of {join_words(sorted(series))}"
        names.append(name)
    return f"{', '.join(names)}: {format_new_york(checkpoints[0].due_at)}"


def _describe_quota(state: OperatorSnapshot) -> str:
    quota = state.providers.quota
    allowed = [limit.requests for limit in state.providers.limits]
    windows = zip(quota.requests, allowed, ("second", "minute", "day"), strict=True)
    line = ", ".join(f"{left} of {limit} a {window}" for left, limit, window in windows)
    if state.quota_is_spent:
        line += f"; used up until {format_new_york(quota.next_at)}"
    return line


def _describe_plan(plan: RequestPlan) -> str:
    """Return the most that is planned for today, for tomorrow and for the fullest day."""
    today, tomorrow = plan.days[:2]
    fullest = max(plan.days, key=lambda day: day.closes)
    line = (
        f"closes {today.closes} today, {tomorrow.closes} tomorrow, at most {fullest.closes} "
        f"({fullest.day:%A}, {fullest.day}); splits {today.splits} today, {tomorrow.splits} "
        f"tomorrow; dividends {today.dividends} today, {tomorrow.dividends} tomorrow; rate and "
        f"further benchmarks {today.weekly} today, {tomorrow.weekly} tomorrow; of {plan.per_day} "
        "a day"
    )
    if plan.left_out_splits:
        line += f"; {plan.left_out_splits} for splits have no room in the next two weeks"
    if plan.left_out_dividends:
        line += f"; {plan.left_out_dividends} for dividends have no room in the next two weeks"
    return line


def _describe_last_batch(state: OperatorSnapshot) -> str:
    batch = state.last_batch
    if batch is None:
        return "none yet"
    of_series = _of_series(batch.series, state)
    return f"{batch.run_date}{of_series}, made {format_new_york(batch.created_at)}"


def _describe_last_checkpoint(state: OperatorSnapshot) -> str:
    taken = state.last_checkpoint
    if taken is None:
        return "none yet"
    name = _name(taken.day, taken.run_date) + _of_series(taken.series, state)
    return f"{name}, {format_new_york(taken.taken_at)}"


def _describe_messages(messages: MessageState, setting: str) -> str:
    line = "on" if messages.enabled else f"off, {setting} is not set here"
    if messages.last_at is None and messages.enabled:
        return f"{line}; none yet"
    if messages.last_at is None:
        return line
    kind = (messages.kind or "").replace("_", " ")
    outcome = (messages.outcome or "waiting").replace("_", " ")
    line += f"; last {kind}, {format_new_york(messages.last_at)}: {outcome}"
    if messages.waiting:
        line += f"; {messages.waiting} waiting"
    return line


def _describe_further(state: OperatorSnapshot) -> str:
    parts = []
    for one in state.further_benchmarks:
        when = "never read"
        if one.last_read_at is not None:
            when = f"new prices {format_duration(state.at - one.last_read_at)} ago"
        parts.append(f"{one.symbol} {when}")
    return "; ".join(parts)


def _describe_stamps(state: OperatorSnapshot) -> str:
    parts = []
    for one in state.stamps:
        part = f"{one.authority} entry {one.seq}, {format_duration(state.at - one.received_at)} ago"
        if one.pending:
            part += f", {one.pending} pending"
        parts.append(part)
    if state.rehearsed:
        # The rehearsal sets its simulators itself. The settings here may name real services, which
        # never stamp a rehearsal.
        return f"simulated; {'; '.join(parts) or 'none yet'}"
    stamped = {one.authority for one in state.stamps}
    parts += [f"{name} nothing yet" for name in state.stamp_services if name not in stamped]
    line = "; ".join(parts)
    if state.stamp_services:
        return f"on; {line}"
    off = "off, TIMESTAMP_URLS and OTS_CALENDARS are not set here"
    return f"{off}; {line}" if line else off


def _describe_publication(state: OperatorSnapshot) -> str:
    publication = state.publication
    line = "on" if state.publishes_heads else "off, HEAD_REPOSITORY is not set here"
    if publication.seq is not None and publication.hash and publication.published_at:
        head = format_head(publication.seq, publication.hash)
        return f"{line}; {head}, {format_new_york(publication.published_at)}"
    if state.publishes_heads:
        return f"{line}; none yet"
    return line


# Notes: problems that need no action


def notes(state: OperatorSnapshot) -> Iterator[str]:
    """Yield the problems that need no action, and what the service does about them."""
    yield from _notes_on_series(state)
    yield from _notes_on_mondays(state)
    yield from _notes_on_late_checkpoints(state)
    yield from _notes_on_overdue_checkpoints(state)
    yield from _model_warnings(state, urgent=False)
    if state.quota_is_spent:
        until = format_new_york(state.providers.quota.next_at)
        yield f"The quota of Alpha Vantage is used up until {until}. Jobs that need prices wait."
    yield from _notes_on_the_plan(state)
    yield from _notes_on_jobs(state)
    for messages, name in (
        (state.messages.alerts, "alert"),
        (state.messages.heartbeat, "heartbeat"),
    ):
        if messages.outcome == "given_up":
            yield f"The last {name} was given up. The service's log says why (`message given up`)."
    if _is_publishing_failing(state) and not _is_failing_too_long(state):
        yield f"{_describe_failing_publication(state)} The service tries again within an hour."
    for skipped in state.work.skipped:
        if state.at - skipped.due_at <= _RETAKE_PERIOD:
            described = _describe_skipped(skipped, _of_series(skipped.series, state))
            yield f"{described} The reconciliation retakes it once a day."


def _notes_on_series(state: OperatorSnapshot) -> Iterator[str]:
    """Yield what the next Monday changes: series that join, and series that retire."""
    next_run = format_new_york(state.next_run_at)
    for one in state.series:
        if one.joins and one.retired:
            yield f"The series {one.name} is configured again: it is asked again {next_run}."
        elif one.joins:
            yield (
                f"The series {one.name} is configured and new: it is asked for the first time "
                f"{next_run}."
            )
        elif one.leaves:
            yield (
                f"The series {one.name} is declared in the journal and not configured here. If no "
                "process that works has it, the first question of the next Monday retires it."
            )


def _notes_on_the_plan(state: OperatorSnapshot) -> Iterator[str]:
    plan = state.request_plan
    crowded = [day for day in plan.days if day.closes > plan.per_day]
    if crowded:
        yield (
            f"On {crowded[0].day}, the closes need up to {crowded[0].closes} price requests, and "
            f"ALPHA_VANTAGE_PER_DAY is {plan.per_day}: some figures will be a day late. The series "
            "take turns."
        )
    if plan.left_out_splits:
        yield (
            f"{_count(plan.left_out_splits, 'request')} for splits will have no room in the next "
            f"two weeks, because ALPHA_VANTAGE_PER_DAY is {plan.per_day}: a split that is listed "
            "late may correct figures later, or never. A key with more requests a day prevents "
            "this."
        )
    if plan.left_out_dividends:
        yield (
            f"{_count(plan.left_out_dividends, 'request')} for dividends will have no room in the "
            f"next two weeks, because ALPHA_VANTAGE_PER_DAY is {plan.per_day}: results will get "
            "their total returns later, or never. Every other figure does without dividends. A key "
            "with more requests a day prevents this."
        )
    if state.plan_inputs.refuses_dividends:
        yield (
            "The price provider refused the last request for dividends, so results get no total "
            "return. Every other figure does without dividends. The log has the provider's words "
            "(`dividends refused by the provider`); two requests are tried each week."
        )


def _notes_on_mondays(state: OperatorSnapshot) -> Iterator[str]:
    past = state.past
    missed_while_down = [
        (monday.run_date, monday.series) for monday in past.missed if not monday.started
    ]
    if missed_while_down:
        yield f"{_mondays_missed(missed_while_down, state)} while the service was down."
    for monday in past.missed:
        if monday.started:
            yield (
                f"The Monday {monday.run_date}{_of_series(monday.series, state)} was begun, but it "
                f"was over before its batch was stored: {end_sentence(monday.failure)}"
            )
    if past.unrecorded:
        unrecorded = [(monday.run_date, monday.series) for monday in past.unrecorded]
        missed = _mondays_missed(unrecorded, state)
        yield f"{missed}. A running service records that within a minute."
    for unstamped in state.unstamped:
        yield (
            f"The batch of Monday {unstamped.run_date}{_of_series(unstamped.series, state)} has no "
            "timestamp (RFC 3161) from before its open. It cannot get one any more. The log says "
            "why (`no timestamp received`)."
        )
    for batch in past.delayed_batches:
        delay = format_duration(snapshot.delay_of_batch(batch))
        of_series = _of_series(batch.series, state)
        yield f"The batch of Monday {batch.run_date}{of_series} was made {delay} after it was due."


def _notes_on_late_checkpoints(state: OperatorSnapshot) -> Iterator[str]:
    delayed = state.past.delayed_checkpoints
    if not delayed:
        return
    most_delayed = max(delayed, key=lambda checkpoint: checkpoint.late_by)
    verb = "was" if len(delayed) == 1 else "were"
    name = _name(most_delayed.day, most_delayed.run_date) + _of_series(most_delayed.series, state)
    yield (
        f"{_count(len(delayed), 'checkpoint')} {verb} taken late in the last four weeks. The "
        f"longest delay: {name}, {format_duration(most_delayed.late_by)}."
    )


def _notes_on_overdue_checkpoints(state: OperatorSnapshot) -> Iterator[str]:
    overdue = state.work.overdue
    for checkpoint in overdue[:_MAX_OVERDUE_LINES]:
        delay = format_duration(state.at - checkpoint.due_at)
        yield (
            f"{_name_checkpoint(checkpoint, state).capitalize()} is overdue by {delay}; "
            f"{_describe_next_attempt(checkpoint, state)}."
        )
    more = len(overdue) - _MAX_OVERDUE_LINES
    if more > 0:
        verb = "is" if more == 1 else "are"
        yield f"{_count(more, 'later checkpoint')} {verb} overdue, too."


def _describe_next_attempt(checkpoint: PendingCheckpoint, state: OperatorSnapshot) -> str:
    if checkpoint.job is None:
        return "a running service defers a job for it within a minute"
    if checkpoint.next_attempt_at and checkpoint.next_attempt_at > state.at:
        next_attempt = format_new_york(checkpoint.next_attempt_at)
        return f"job {checkpoint.job} tries to take it on {next_attempt}"
    return f"job {checkpoint.job} takes it"


def _notes_on_jobs(state: OperatorSnapshot) -> Iterator[str]:
    stalled = state.work.stalled
    if stalled:
        yield (
            f"{_count(len(stalled), 'job')} stalled, because the worker has stopped. A running "
            "service puts such jobs back within two minutes. To put them back at once, run "
            "`alpha-monday jobs stalled --retry`."
        )
    not_owed = [str(job.id) for job in state.work.failed if not job.owed]
    if len(not_owed) == 1:
        yield f"Job {not_owed[0]} has failed, but its work is no longer needed."
    elif not_owed:
        yield f"Jobs {', '.join(not_owed)} have failed, but their work is no longer needed."


# What a person must do


def to_dos(state: OperatorSnapshot) -> Iterator[str]:
    """Yield what a person must do."""
    if state.series_problem:
        yield state.series_problem
    if not state.queue.has_worker:
        yield _to_do_without_worker(state)
    elif not state.is_behind_real_time and _is_without_reconciliation(state):
        yield (
            f"A worker runs, but no reconciliation ({_describe_reconciliation(state)}): only the "
            "workers of `alpha-monday serve` and `alpha-monday work` run it. If one of them runs, "
            "its log says what is wrong (`reconciliation failed`)."
        )
    for monday in state.record.mondays:
        yield from _to_dos_of_the_monday(monday, state)
    yield from _model_warnings(state, urgent=True)
    yield from _to_dos_of_stuck_checkpoints(state)
    for job in state.work.failed:
        if job.owed:
            name = _name(job.day, job.run_date) + _of_series(job.series or SERIES, state)
            yield (
                f"Job {job.id} ({job.task}, {name}) has failed: run "
                f"`alpha-monday jobs show {job.id}`, then `alpha-monday jobs retry {job.id}`."
            )
    for skipped in state.work.skipped:
        if state.at - skipped.due_at > _RETAKE_PERIOD:
            command = f"alpha-monday checkpoint retake {skipped.run_date} {skipped.day}"
            described = _describe_skipped(skipped, _of_series(skipped.series, state))
            yield (
                f"{described} To retake it, run "
                f"`{command}{_option(skipped.series, state)}`. If the share "
                "stopped trading, record that with `alpha-monday pick end`."
            )
    if _is_publishing_failing(state) and _is_failing_too_long(state):
        yield (
            f"{_describe_failing_publication(state)} To try it at once, run "
            "`alpha-monday head --publish`."
        )


def _is_publishing_failing(state: OperatorSnapshot) -> bool:
    return state.publishes_heads and state.publication.failing_since is not None


def _is_failing_too_long(state: OperatorSnapshot) -> bool:
    failing_since = state.publication.failing_since
    return failing_since is not None and state.at - failing_since >= FAILING_TOO_LONG


def _describe_failing_publication(state: OperatorSnapshot) -> str:
    publication = state.publication
    assert publication.failing_since
    return (
        "The journal's head could not be published since "
        f"{format_new_york(publication.failing_since)}: {end_sentence(publication.failure or '')}"
    )


def _to_do_without_worker(state: OperatorSnapshot) -> str:
    workers, reconciler = state.queue.workers, state.queue.reconciler
    start = "`alpha-monday serve` or `alpha-monday work`"
    if state.rehearsed:
        start = "`alpha-monday rehearse`"
    last_seen = ""
    if workers:
        silence = format_duration(timedelta(seconds=workers[0].silent))
        last_seen = f" (the last heartbeat was {silence} ago)"
    elif reconciler:
        # A worker that is stopped with SIGTERM removes its own row. So the last round of the
        # reconciliation shows when a worker ran last.
        since_round = format_duration(state.at - reconciler.last_round_at)
        last_seen = f" (the last round of the reconciliation was {since_round} ago)"
    restart_hint = ""
    if reconciler and state.at - reconciler.last_round_at < _RECENT_ROUND:
        restart_hint = (
            " If the service runs, it starts another worker within a minute. If it does not, look "
            "for `worker restarts` in its log."
        )
    return (
        f"No worker runs{last_seen}, so nothing is picked or measured: start the service, "
        f"{start}.{restart_hint}"
    )


def _is_without_reconciliation(state: OperatorSnapshot) -> bool:
    reconciler = state.queue.reconciler
    return reconciler is None or state.at - reconciler.last_round_at > _OVERDUE_AFTER


def _to_dos_of_the_monday(monday: Monday, state: OperatorSnapshot) -> Iterator[str]:
    is_today = monday.run_date == calendar.new_york_date(state.at)
    if monday.batch is None:
        since_due = state.at - calendar.due_at(monday.run_date)
        if is_today and monday.job is None and since_due > _OVERDUE_AFTER:
            remedy = "A service that is started before midnight in New York makes its batch."
            if state.queue.has_worker:
                command = f"alpha-monday pick{_option(monday.series, state)}"
                remedy = f"To make its batch, run `{command}` before midnight in New York."
            name = f"The Monday {monday.run_date}{_of_series(monday.series, state)}"
            yield f"{name} has neither a batch nor a job. {remedy}"
        return
    yield from _to_dos_of_a_failed_batch(monday.batch, state, is_today=is_today)


def _to_dos_of_a_failed_batch(
    batch: Batch, state: OperatorSnapshot, *, is_today: bool
) -> Iterator[str]:
    failure = end_sentence(batch.failure or "")
    name = f"The Monday {batch.run_date}{_of_series(batch.series, state)}"
    if batch.status == BatchStatus.FAILED and is_today:
        yield (
            f"{name} failed ({batch.failure_reason}): {failure} To run it again, use "
            f"`alpha-monday pick{_option(batch.series, state)}` before midnight in New York."
        )
    elif batch.failure_reason == FailureReason.CONFIGURATION:
        # A wrong setting makes the next Monday fail, too.
        yield (
            f"{name} failed: {failure} "
            f"The next Monday begins on {format_new_york(state.next_run_at)}."
        )


def _to_dos_of_stuck_checkpoints(state: OperatorSnapshot) -> Iterator[str]:
    stuck = [checkpoint for checkpoint in state.work.overdue if _is_stuck(checkpoint, state)]
    if not stuck:
        return
    first = stuck[0]
    delay = format_duration(state.at - first.due_at)
    sentences = [
        f"{_name_checkpoint(first, state).capitalize()} is overdue by {delay}, although a worker "
        "runs."
    ]
    if len(stuck) > 1:
        verb = "is" if len(stuck) == 2 else "are"
        sentences.append(f"{_count(len(stuck) - 1, 'other checkpoint')} {verb} overdue, too.")
    if first.job:
        sentences.append(
            f"To find the reason, run `alpha-monday jobs show {first.job}` and read the service's "
            "log."
        )
    else:
        sentences.append("It has no job. The service's log says why.")
    yield " ".join(sentences)


def _is_stuck(checkpoint: PendingCheckpoint, state: OperatorSnapshot) -> bool:
    """Return whether the service had enough time for an overdue checkpoint, but did not take it."""
    if not state.queue.has_worker or state.quota_is_spent:
        return False
    # After an outage, a job without an attempt only waits for its turn.
    if checkpoint.job and not checkpoint.attempts:
        return False
    limit = _LONGEST_WAIT_FOR_PRICES if checkpoint.job else _OVERDUE_AFTER
    return state.at - checkpoint.due_at > limit


def _model_warnings(state: OperatorSnapshot, *, urgent: bool) -> Iterator[str]:
    """
    Yield a warning for each model that ends soon.

    The end is a note at first; when it is near, it is `urgent`, and a person must act. The models
    of a rehearsal are simulated, and never end.
    """
    if state.rehearsed:
        return
    today = calendar.new_york_date(state.at)
    for end in state.model_ends:
        warning = end.warning(today)
        if warning and end.is_urgent(today) is urgent:
            yield warning


# Words


def _name(day: int | None, run_date: date | None) -> str:
    if day is None:
        return f"the Monday {run_date}"
    return f"day {day} of {run_date}"


def _of_series(series: str, state: OperatorSnapshot) -> str:
    """Return the words that name a series behind a Monday or a day; empty if there is only one."""
    return f" of {series}" if state.has_several_series else ""


def _option(series: str, state: OperatorSnapshot) -> str:
    """Return the option with which a command is about a series; empty if there is only one."""
    return f" --series {series}" if state.has_several_series else ""


def _name_checkpoint(checkpoint: PendingCheckpoint, state: OperatorSnapshot) -> str:
    return _name(checkpoint.day, checkpoint.run_date) + _of_series(checkpoint.series, state)


def _describe_skipped(skipped: SkippedCheckpoint, of_series: str = "") -> str:
    """Return a sentence about a skipped checkpoint; `of_series` follows its name."""
    name = _name(skipped.day, skipped.run_date).capitalize() + of_series
    if not skipped.note:
        return f"{name} has no prices ({skipped.reason})."
    return f"{name} has no prices ({skipped.reason}): {end_sentence(skipped.note)}"


def _mondays_missed(mondays: Iterable[tuple[date, str]], state: OperatorSnapshot) -> str:
    """
    Return the sentence that Mondays were missed, without its end.

    Each of `mondays` has a date and the name of a series.
    """
    series_by_day: dict[date, list[str]] = {}
    for day, series in mondays:
        series_by_day.setdefault(day, []).append(series)
    names = []
    for day, missing in series_by_day.items():
        of_series = f" of {join_words(missing)}" if state.has_several_series else ""
        names.append(f"{day}{of_series}")
    if len(names) == 1:
        return f"The Monday {names[0]} was missed"
    return f"The Mondays {', '.join(names)} were missed"


def _count(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"
