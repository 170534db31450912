"""`alpha-monday status`: how the service stands, in words, and what a person must do about it."""

import sys
from collections.abc import Iterator, Sequence
from datetime import date, timedelta

import click
import msgspec

from app.commands.terminal import asynchronous, clock, lasting, local, opened
from app.core import settings
from app.domain import calendar
from app.domain.model import BatchStatus, FailureReason
from app.domain.text import printable
from app.ops import standing
from app.ops.standing import Awaited, Standing, Told

# Upkeep makes a round a minute: what it has not seen to after some is in nobody's hands.
_PATIENCE = timedelta(minutes=10)
_JUST_NOW = timedelta(minutes=2)
# A close is asked for until the evening, a spent quota is free again in a day.
_LONGEST_MORNING = timedelta(hours=36)
_RETAKEN = timedelta(days=2)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print all of it as one JSON document, for scripts.")
@click.option("--rehearsal", "of_the_rehearsal", is_flag=True, help="How the embedded rehearsal stands.")
@asynchronous
async def status(as_json: bool, of_the_rehearsal: bool) -> None:
    """Say what runs, what is next, what waits, what succeeded last, and what needs a person.

    Lines that begin with `note:` explain what went otherwise than it should have; `to do:` is for a person.

    \b
    Exit code: 0 all is well, 1 something needs a person.

    \b
    Examples:
      alpha-monday status
      alpha-monday status --json
      alpha-monday status --rehearsal
    """
    configuration = settings.load()
    async with opened(configuration, rehearsal=of_the_rehearsal) as pool:
        stands = await standing.now(pool, configuration, clock)
    to_do, noted = list(needs(stands)), list(notes(stands))
    if as_json:
        told = {**msgspec.to_builtins(stands), "notes": noted, "to_do": to_do, "well": not to_do}
        click.echo(msgspec.json.encode(told))
    else:
        for line in facts(stands):
            click.echo(printable(line))
        for mark, lines in (("note", noted), ("to do", to_do)):
            for line in lines:
                click.echo(f"{mark}: {printable(line)}")
        if not to_do:
            click.echo("All is well.")
    if to_do:
        sys.exit(1)


def facts(stands: Standing) -> Iterator[str]:
    """Say how everything is, a line each."""
    yield f"now: {local(stands.at)}{' (rehearsed: all of it is made up)' if stands.rehearsed else ''}"
    heard = [
        f"number {one.id}, heard {one.silent:.0f} s ago{'' if one.lives else ' (silent)'}" for one in stands.workers
    ]
    yield f"workers: {'; '.join(heard) or 'none'}"
    yield f"upkeep: {_upkeep(stands)}"
    yield f"Monday {stands.monday}: {_monday(stands)}"
    yield f"next Monday: {local(stands.next_monday_at)}"
    yield f"next checkpoints: {_next_checkpoints(stands)}"
    yield f"jobs: {', '.join(f'{one.jobs} {one.task} {one.status}' for one in stands.jobs) or 'none'}"
    yield f"overdue: {len(stands.overdue) or 'none'}"
    left = zip(stands.quota.requests, stands.allowed, ("second", "minute", "day"), strict=True)
    until = f"; spent until {local(stands.quota.next_at)}" if stands.spent else ""
    yield f"Alpha Vantage leaves: {', '.join(f'{one} of {of} a {per}' for one, of, per in left)}{until}"
    last = stands.last_batch
    yield f"last batch: {f'{last.run_date}, made {local(last.created_at)}' if last else 'none yet'}"
    taken = stands.last_checkpoint
    yield f"last checkpoint: {f'{_name(taken.day, taken.run_date)}, {local(taken.taken_at)}' if taken else 'none yet'}"
    yield f"alerts: {_told(stands.alerts, 'ALERT_WEBHOOK_URL')}"
    yield f"heartbeat: {_told(stands.heartbeat, 'HEARTBEAT_URL')}"
    head = stands.journal_head
    yield f"journal: {f'{head.seq}:{head.hash}' if head else 'empty'}"


def _told(told: Told, setting: str) -> str:
    on = "on" if told.on else f"off, {setting} is not set here"
    if told.last is None:
        return f"{on}; none yet" if told.on else on
    waiting = f"; {told.waiting} waiting" if told.waiting else ""
    outcome = (told.outcome or "waiting").replace("_", " ")
    return f"{on}; last {(told.what or '').replace('_', ' ')}, {local(told.last)}: {outcome}{waiting}"


def _upkeep(stands: Standing) -> str:
    if stands.upkeep is None:
        return "never made a round"
    rounds = f"last round {lasting(stands.at - stands.upkeep.last_round_at)} ago"
    if stands.upkeep.last_mended_at is None:
        return rounds
    done = {name.replace("_", " "): what for name, what in stands.upkeep.mended.items() if what}
    mended = ", ".join(name if what is True else f"{what} {name}" for name, what in done.items())
    return f"{rounds}; mended last {local(stands.upkeep.last_mended_at)}: {mended}"


def _monday(stands: Standing) -> str:
    match stands.batch:
        case None if stands.monday_job:
            return f"on its way, in job {stands.monday_job}"
        case None:
            return "no batch"
        case batch if batch.status == BatchStatus.FAILED:
            return f"failed ({batch.failure_reason}: {batch.failure})"
        case batch:
            return f"{batch.status}{', late' if batch.late else ''}"


def _next_checkpoints(stands: Standing) -> str:
    if not stands.next_checkpoints:
        return "none"
    names = ", ".join(_name(one.day, one.run_date) for one in stands.next_checkpoints)
    return f"{names}: {local(stands.next_checkpoints[0].due_at)}"


def notes(stands: Standing) -> Iterator[str]:
    """Explain what went otherwise than it should have, and what is being done about it."""
    away = [one.run_date for one in stands.past.missed if not one.asked]
    if away:
        yield f"{_mondays(away)} missed while the service was down."
    for one in stands.past.missed:
        if one.asked:
            yield f"The Monday {one.run_date} was begun, but over before its batch was stored: {one.failure}"
    if stands.past.unrecorded:
        yield f"{_mondays(stands.past.unrecorded)} missed; a service that runs records that within a minute."
    for batch in stands.past.late_batches:
        yield f"The batch of Monday {batch.run_date} was late by {lasting(standing.late_by(batch))}."
    if late := stands.past.late_checkpoints:
        worst = max(late, key=lambda one: one.late_by)
        yield (
            f"{_count(len(late), 'checkpoint')} {'was' if len(late) == 1 else 'were'} taken late in the last four "
            f"weeks, {_name(worst.day, worst.run_date)} by {lasting(worst.late_by)}."
        )
    yield from _overdue(stands)
    if stands.spent:
        yield f"The quota of Alpha Vantage is spent until {local(stands.quota.next_at)}: what needs prices waits."
    if stands.stalled:
        yield (
            f"{_count(len(stands.stalled), 'job')} stalled, left behind by a worker that is gone: a service that runs "
            "puts such jobs back within two minutes, and so does `alpha-monday jobs stalled --retry`."
        )
    if done := [str(job.id) for job in stands.failed if not job.owed]:
        yield f"Failed, but nothing is owed for it: job{'s' if done[1:] else ''} {', '.join(done)}."
    for told, name in ((stands.alerts, "alert"), (stands.heartbeat, "heartbeat")):
        if told.outcome == "given_up":
            yield f"The last {name} was given up: the service's log says why (`message given up`)."
    for skipped in stands.skipped:
        if stands.at - skipped.due_at <= _RETAKEN:
            yield f"{_lacks(skipped)} Upkeep has it looked at again once a day."


def _overdue(stands: Standing) -> Iterator[str]:
    told = 5
    for one in stands.overdue[:told]:
        name, late = _name(one.day, one.run_date), lasting(stands.at - one.due_at)
        yield f"{name.capitalize()} is overdue by {late}; {_in_hand(one, stands)}."
    if (more := len(stands.overdue) - told) > 0:
        yield f"{_count(more, 'more checkpoint')} {'is' if more == 1 else 'are'} overdue, dated later."


def _in_hand(one: Awaited, stands: Standing) -> str:
    if one.job is None:
        return "a service that runs defers a job for it within a minute"
    if one.tried_at and one.tried_at > stands.at:
        return f"job {one.job} tries it on {local(one.tried_at)}"
    return f"job {one.job} is to do it"


def needs(stands: Standing) -> Iterator[str]:
    """Say what a person must do."""
    if not stands.works:
        start = "`alpha-monday rehearse`" if stands.rehearsed else "`alpha-monday serve` or `alpha-monday work`"
        heard = maybe = ""
        if stands.workers:
            heard = f" (the last was heard {lasting(timedelta(seconds=stands.workers[0].silent))} ago)"
        elif stands.upkeep:  # it signed off
            heard = f" (upkeep's last round was {lasting(stands.at - stands.upkeep.last_round_at)} ago)"
        if stands.upkeep and stands.at - stands.upkeep.last_round_at < _JUST_NOW:
            maybe = " One that runs has another within a minute, or its log says why not: `worker starts again`."
        yield f"No worker runs{heard}, so nothing is picked or measured: start the service, {start}.{maybe}"
    elif not stands.standing_still and _without_upkeep(stands):
        yield (
            f"A worker runs, but no upkeep ({_upkeep(stands)}): only that of `alpha-monday serve` or `work` has one. "
            "Where that runs, its log says what keeps it, `upkeep failed`."
        )
    yield from _needs_of_the_monday(stands)
    if stuck := [one for one in stands.overdue if _is_stuck(one, stands)]:
        one, more = stuck[0], f", and {len(stuck) - 1} more are" if stuck[1:] else ""
        by = f"; `alpha-monday jobs show {one.job}`" if one.job else ", and no job is about it"
        late = lasting(stands.at - one.due_at)
        yield (
            f"{_name(one.day, one.run_date).capitalize()} is overdue by {late}{more}, although a worker runs{by}. "
            "The service's log says why."
        )
    for job in stands.failed:
        if job.owed:
            what = f"{job.task}, {_name(job.day, job.run_date)}"
            yield f"Job {job.id} ({what}) has failed: `alpha-monday jobs show {job.id}`, then `jobs retry {job.id}`."
    for skipped in stands.skipped:
        if stands.at - skipped.due_at > _RETAKEN:
            yield (
                f"{_lacks(skipped)} `alpha-monday checkpoint retake {skipped.run_date} {skipped.day}` looks again; "
                "a pick that stopped trading is ended with `alpha-monday pick end`."
            )


def _is_stuck(one: Awaited, stands: Standing) -> bool:
    """Return whether a worker and upkeep had every chance with an overdue checkpoint."""
    if not stands.works or stands.spent or (one.job and not one.attempts):
        return False
    return stands.at - one.due_at > (_LONGEST_MORNING if one.job else _PATIENCE)


def _without_upkeep(stands: Standing) -> bool:
    return stands.upkeep is None or stands.at - stands.upkeep.last_round_at > _PATIENCE


def _needs_of_the_monday(stands: Standing) -> Iterator[str]:
    batch, lasts = stands.batch, stands.monday == calendar.today(stands.at)
    if batch is None and lasts and stands.monday_job is None:
        if stands.at - calendar.due_at(stands.monday) > _PATIENCE:
            makes = "`alpha-monday pick` makes it" if stands.works else "a service that runs makes it"
            yield f"The Monday {stands.monday} has neither a batch nor a job: {makes}, until it is over in New York."
    elif batch and batch.status == BatchStatus.FAILED and lasts:
        yield (
            f"The Monday {batch.run_date} failed ({batch.failure_reason}: {batch.failure}). "
            "`alpha-monday pick` runs it again, until it is over in New York."
        )
    elif batch and batch.failure_reason == FailureReason.CONFIGURATION:
        yield f"The Monday {batch.run_date} failed: {batch.failure} The next begins on {local(stands.next_monday_at)}."


def _name(day: int | None, run_date: date | None) -> str:
    return f"the Monday {run_date}" if day is None else f"day {day} of {run_date}"


def _lacks(skipped: standing.Skipped) -> str:
    said = f"{skipped.reason}: {skipped.note}"
    return f"{_name(skipped.day, skipped.run_date).capitalize()} has no prices ({said})."


def _mondays(days: Sequence[date]) -> str:
    return f"The Monday{'s' if days[1:] else ''} {', '.join(map(str, days))} {'were' if days[1:] else 'was'}"


def _count(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"
