"""`alpha-monday status`: the state of the service in words, and what a person must do about it."""

import sys
from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from typing import Any

import click
import msgspec

from app.commands.terminal import asynchronous, clock, lasting, local, opened
from app.core import settings
from app.database.rights import Need
from app.domain import calendar
from app.domain.model import BatchStatus, FailureReason
from app.domain.text import as_sentence, printable
from app.ops import snapshot
from app.ops.snapshot import MessageState, OperatorSnapshot, PendingCheckpoint, SkippedCheckpoint
from app.providers import model_ends

# Upkeep makes a round a minute: what it has not seen to after some is in nobody's hands.
_PATIENCE = timedelta(minutes=10)
_JUST_NOW = timedelta(minutes=2)
# A close is asked for until the evening, a spent quota is free again in a day.
_LONGEST_MORNING = timedelta(hours=36)
_RETAKEN = timedelta(days=2)
# A model's end is a note at first, and soon enough a person's.
_URGENT = timedelta(weeks=2)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print all of it as one JSON document, for scripts.")
@click.option("--rehearsal", "of_the_rehearsal", is_flag=True, help="How the embedded rehearsal stands.")
@asynchronous
async def status(as_json: bool, of_the_rehearsal: bool) -> None:
    """Say what runs, what is next, what waits, what succeeded last, and what needs a person.

    Lines that begin with `note:` explain what went otherwise than it should have; `to do:` is for a person.

    \b
    The last line is "All is well." only if nothing is wrong at this moment.

    \b
    Exit code: 0 nothing needs a person, 1 something does.

    \b
    Examples:
      alpha-monday status
      alpha-monday status --json
      alpha-monday status --rehearsal
    """
    configuration = settings.load()
    async with opened(configuration, rehearsal=of_the_rehearsal, need=Need.READ_ALL) as pool:
        state = await snapshot.for_operator(pool, configuration, clock)
    to_do, noted = list(needs(state)), list(notes(state))
    if as_json:
        outcome = {"notes": noted, "to_do": to_do, "well": not to_do and not _is_overdue(state)}
        click.echo(msgspec.json.encode(document(state) | outcome))
    else:
        for line in facts(state):
            click.echo(printable(line))
        for mark, lines in (("note", noted), ("to do", to_do)):
            for line in lines:
                click.echo(f"{mark}: {printable(line)}")
        if not to_do:
            click.echo("Nothing needs a person." if _is_troubled(state) else "All is well.")
    if to_do:
        sys.exit(1)


def _is_overdue(state: OperatorSnapshot) -> bool:
    """Return whether a checkpoint has been overdue for longer than a worker needs to come to it."""
    return any(state.at - one.due_at > _PATIENCE for one in state.work.overdue)


def _is_troubled(state: OperatorSnapshot) -> bool:
    """Return whether something is wrong at this moment, although it needs no person."""
    work, batch = state.work, state.record.monday.batch
    without_picks = batch is not None and batch.status == BatchStatus.FAILED
    waits = bool(work.overdue or work.skipped or work.stalled) or state.quota_is_spent
    return waits or without_picks or bool(state.past.unrecorded)


def document(state: OperatorSnapshot) -> dict[str, Any]:
    """Return what `--json` prints of the snapshot. Scripts read its keys: they never change."""
    monday = state.record.monday
    return {
        "at": state.at,
        "rehearsed": state.rehearsed,
        "standing_still": state.clock_stopped,
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
        "last_batch": state.last_batch,
        "last_checkpoint": state.last_checkpoint,
        "journal_head": state.record.journal_head,
        "past": state.past,
        "skipped": state.work.skipped,
        "alerts": state.messages.alerts,
        "heartbeat": state.messages.heartbeat,
        "model": state.model,
    }


def facts(state: OperatorSnapshot) -> Iterator[str]:
    """Say how everything is, a line each."""
    yield f"now: {local(state.at)}{' (rehearsed: all of it is made up)' if state.rehearsed else ''}"
    heard = [
        f"number {one.id}, heard {one.silent:.0f} s ago{'' if one.lives else ' (silent)'}"
        for one in state.queue.workers
    ]
    yield f"workers: {'; '.join(heard) or 'none'}"
    yield f"upkeep: {_upkeep(state)}"
    yield f"Monday {state.record.monday.run_date}: {_monday(state)}"
    yield f"next Monday: {local(state.next_run_at)}"
    yield f"next checkpoints: {_next_checkpoints(state)}"
    yield f"jobs: {', '.join(f'{one.jobs} {one.task} {one.status}' for one in state.queue.jobs) or 'none'}"
    yield f"overdue: {len(state.work.overdue) or 'none'}"
    allowed = [limit.requests for limit in state.providers.limits]
    left = zip(state.providers.quota.requests, allowed, ("second", "minute", "day"), strict=True)
    until = f"; spent until {local(state.providers.quota.next_at)}" if state.quota_is_spent else ""
    yield f"Alpha Vantage leaves: {', '.join(f'{one} of {of} a {per}' for one, of, per in left)}{until}"
    last = state.last_batch
    yield f"last batch: {f'{last.run_date}, made {local(last.created_at)}' if last else 'none yet'}"
    taken = state.last_checkpoint
    yield f"last checkpoint: {f'{_name(taken.day, taken.run_date)}, {local(taken.taken_at)}' if taken else 'none yet'}"
    yield f"alerts: {_messages(state.messages.alerts, 'ALERT_WEBHOOK_URL')}"
    yield f"heartbeat: {_messages(state.messages.heartbeat, 'HEARTBEAT_URL')}"
    head = state.record.journal_head
    yield f"journal: {f'{head.seq}:{head.hash}' if head else 'empty'}"


def _messages(messages: MessageState, setting: str) -> str:
    on = "on" if messages.enabled else f"off, {setting} is not set here"
    if messages.last_at is None:
        return f"{on}; none yet" if messages.enabled else on
    kind = (messages.kind or "").replace("_", " ")
    outcome = (messages.outcome or "waiting").replace("_", " ")
    waiting = f"; {messages.waiting} waiting" if messages.waiting else ""
    return f"{on}; last {kind}, {local(messages.last_at)}: {outcome}{waiting}"


def _upkeep(state: OperatorSnapshot) -> str:
    reconciler = state.queue.reconciler
    if reconciler is None:
        return "never made a round"
    rounds = f"last round {lasting(state.at - reconciler.last_round_at)} ago"
    if reconciler.last_mended_at is None:
        return rounds
    done = {name.replace("_", " "): what for name, what in reconciler.mended.items() if what}
    mended = ", ".join(name if what is True else f"{what} {name}" for name, what in done.items())
    return f"{rounds}; mended last {local(reconciler.last_mended_at)}: {mended}"


def _monday(state: OperatorSnapshot) -> str:
    monday = state.record.monday
    match monday.batch:
        case None if monday.job:
            return f"on its way, in job {monday.job}"
        case None:
            return "no batch"
        case batch if batch.status == BatchStatus.FAILED:
            return f"failed ({batch.failure_reason}): {batch.failure}"
        case batch:
            return f"{batch.status}{', late' if batch.late else ''}"


def _next_checkpoints(state: OperatorSnapshot) -> str:
    checkpoints = state.work.next_checkpoints
    if not checkpoints:
        return "none"
    figures = state.work.next_figures
    if figures == checkpoints:
        return _due(checkpoints)
    # The day before it is no session, so it is always skipped: a person waits for the figures.
    return f"{_due(checkpoints)}, without figures; next figures: {_due(figures) if figures else 'none'}"


def _due(checkpoints: Sequence[PendingCheckpoint]) -> str:
    names = ", ".join(_name(one.day, one.run_date) for one in checkpoints)
    return f"{names}: {local(checkpoints[0].due_at)}"


def notes(state: OperatorSnapshot) -> Iterator[str]:
    """Explain what went otherwise than it should have, and what is being done about it."""
    away = [one.run_date for one in state.past.missed if not one.started]
    if away:
        yield f"{_mondays(away)} missed while the service was down."
    for one in state.past.missed:
        if one.started:
            over = f"The Monday {one.run_date} was begun, but over before its batch was stored"
            yield f"{over}: {as_sentence(one.failure)}"
    if state.past.unrecorded:
        yield f"{_mondays(state.past.unrecorded)} missed; a service that runs records that within a minute."
    for batch in state.past.late_batches:
        yield f"The batch of Monday {batch.run_date} was late by {lasting(snapshot.late_by(batch))}."
    if late := state.past.late_checkpoints:
        worst = max(late, key=lambda one: one.late_by)
        yield (
            f"{_count(len(late), 'checkpoint')} {'was' if len(late) == 1 else 'were'} taken late in the last four "
            f"weeks, {_name(worst.day, worst.run_date)} by {lasting(worst.late_by)}."
        )
    yield from _overdue(state)
    if (warning := _of_the_model(state)) and not _is_urgent(state):
        yield warning
    if state.quota_is_spent:
        until = local(state.providers.quota.next_at)
        yield f"The quota of Alpha Vantage is spent until {until}: what needs prices waits."
    if stalled := state.work.stalled:
        yield (
            f"{_count(len(stalled), 'job')} stalled, left behind by a worker that is gone: a service that runs "
            "puts such jobs back within two minutes, and so does `alpha-monday jobs stalled --retry`."
        )
    if done := [str(job.id) for job in state.work.failed if not job.owed]:
        yield f"Failed, but nothing is owed for it: job{'s' if done[1:] else ''} {', '.join(done)}."
    for messages, name in ((state.messages.alerts, "alert"), (state.messages.heartbeat, "heartbeat")):
        if messages.outcome == "given_up":
            yield f"The last {name} was given up: the service's log says why (`message given up`)."
    for skipped in state.work.skipped:
        if state.at - skipped.due_at <= _RETAKEN:
            yield f"{_lacks(skipped)} Upkeep has it looked at again once a day."


def _overdue(state: OperatorSnapshot) -> Iterator[str]:
    told = 5
    for one in state.work.overdue[:told]:
        name, late = _name(one.day, one.run_date), lasting(state.at - one.due_at)
        yield f"{name.capitalize()} is overdue by {late}; {_in_hand(one, state)}."
    if (more := len(state.work.overdue) - told) > 0:
        yield f"{_count(more, 'more checkpoint')} {'is' if more == 1 else 'are'} overdue, dated later."


def _in_hand(one: PendingCheckpoint, state: OperatorSnapshot) -> str:
    if one.job is None:
        return "a service that runs defers a job for it within a minute"
    if one.next_attempt_at and one.next_attempt_at > state.at:
        return f"job {one.job} tries it on {local(one.next_attempt_at)}"
    return f"job {one.job} is to do it"


def needs(state: OperatorSnapshot) -> Iterator[str]:
    """Say what a person must do."""
    workers, reconciler = state.queue.workers, state.queue.reconciler
    if not state.queue.has_worker:
        start = "`alpha-monday rehearse`" if state.rehearsed else "`alpha-monday serve` or `alpha-monday work`"
        heard = maybe = ""
        if workers:
            heard = f" (the last was heard {lasting(timedelta(seconds=workers[0].silent))} ago)"
        elif reconciler:  # it signed off
            heard = f" (upkeep's last round was {lasting(state.at - reconciler.last_round_at)} ago)"
        if reconciler and state.at - reconciler.last_round_at < _JUST_NOW:
            maybe = " One that runs has another within a minute, or its log says why not: `worker starts again`."
        yield f"No worker runs{heard}, so nothing is picked or measured: start the service, {start}.{maybe}"
    elif not state.clock_stopped and _without_upkeep(state):
        yield (
            f"A worker runs, but no upkeep ({_upkeep(state)}): only that of `alpha-monday serve` or `work` has one. "
            "Where that runs, its log says what keeps it, `upkeep failed`."
        )
    yield from _needs_of_the_monday(state)
    if (warning := _of_the_model(state)) and _is_urgent(state):
        yield warning
    if stuck := [one for one in state.work.overdue if _is_stuck(one, state)]:
        one, more = stuck[0], f", and {len(stuck) - 1} more are" if stuck[1:] else ""
        by = f"; `alpha-monday jobs show {one.job}`" if one.job else ", and no job is about it"
        late = lasting(state.at - one.due_at)
        yield (
            f"{_name(one.day, one.run_date).capitalize()} is overdue by {late}{more}, although a worker runs{by}. "
            "The service's log says why."
        )
    for job in state.work.failed:
        if job.owed:
            what = f"{job.task}, {_name(job.day, job.run_date)}"
            yield f"Job {job.id} ({what}) has failed: `alpha-monday jobs show {job.id}`, then `jobs retry {job.id}`."
    for skipped in state.work.skipped:
        if state.at - skipped.due_at > _RETAKEN:
            yield (
                f"{_lacks(skipped)} `alpha-monday checkpoint retake {skipped.run_date} {skipped.day}` looks again; "
                "a pick that stopped trading is ended with `alpha-monday pick end`."
            )


def _of_the_model(state: OperatorSnapshot) -> str | None:
    """Return what to say of a model that ends; a rehearsal's model is played, and does not."""
    return None if state.rehearsed else model_ends.warning(state.model.name, calendar.today(state.at))


def _is_urgent(state: OperatorSnapshot) -> bool:
    end = state.model.ends_on
    return end is not None and end - calendar.today(state.at) <= _URGENT


def _is_stuck(one: PendingCheckpoint, state: OperatorSnapshot) -> bool:
    """Return whether a worker and upkeep had every chance with an overdue checkpoint."""
    if not state.queue.has_worker or state.quota_is_spent or (one.job and not one.attempts):
        return False
    return state.at - one.due_at > (_LONGEST_MORNING if one.job else _PATIENCE)


def _without_upkeep(state: OperatorSnapshot) -> bool:
    reconciler = state.queue.reconciler
    return reconciler is None or state.at - reconciler.last_round_at > _PATIENCE


def _needs_of_the_monday(state: OperatorSnapshot) -> Iterator[str]:
    monday, batch = state.record.monday, state.record.monday.batch
    lasts = monday.run_date == calendar.today(state.at)
    if batch is None and lasts and monday.job is None:
        if state.at - calendar.due_at(monday.run_date) > _PATIENCE:
            makes = "`alpha-monday pick` makes it" if state.queue.has_worker else "a service that runs makes it"
            yield f"The Monday {monday.run_date} has neither a batch nor a job: {makes}, until it is over in New York."
    elif batch and batch.status == BatchStatus.FAILED and lasts:
        yield (
            f"The Monday {batch.run_date} failed ({batch.failure_reason}): {as_sentence(batch.failure or '')} "
            "`alpha-monday pick` runs it again, until it is over in New York."
        )
    elif batch and batch.failure_reason == FailureReason.CONFIGURATION:
        failed = f"The Monday {batch.run_date} failed: {as_sentence(batch.failure or '')}"
        yield f"{failed} The next begins on {local(state.next_run_at)}."


def _name(day: int | None, run_date: date | None) -> str:
    return f"the Monday {run_date}" if day is None else f"day {day} of {run_date}"


def _lacks(skipped: SkippedCheckpoint) -> str:
    name = _name(skipped.day, skipped.run_date).capitalize()
    if not skipped.note:
        return f"{name} has no prices ({skipped.reason})."
    return f"{name} has no prices ({skipped.reason}): {as_sentence(skipped.note)}"


def _mondays(days: Sequence[date]) -> str:
    return f"The Monday{'s' if days[1:] else ''} {', '.join(map(str, days))} {'were' if days[1:] else 'was'}"


def _count(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"
