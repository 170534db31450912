"""`alpha-monday seal`: seal a record that earlier versions made."""

import asyncio

import click

from app.commands import terminal
from app.commands.terminal import clock, progress_bar, rehearsal_option, report
from app.core import settings
from app.domain.text import pluralize
from app.ops import seal as sealing
from app.ops.seal import SealPlan
from jobs import in_force


@click.command()
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@rehearsal_option("Seal the record of the embedded rehearsal.")
def seal(yes: bool, rehearsal: bool) -> None:
    """Seal a record that earlier versions made. It cannot be undone.

    The record of a new database is sealed from its first entry on, without this command.

    The command writes a GENESIS entry, which is marked as late, mentions every reading and every
    open question that the journal has not mentioned so far, and writes the settings that are in
    force. From then on, each question is in the journal before it is sent, and each response with
    prices when it is read, so `alpha-monday verify` names a row that was inserted later. Workers of
    an older version are refused: upgrade all of them first. The command locks tables, so it uses
    MIGRATE_DATABASE_URL if that is set.

    \b
    Exit code: 0 the record is sealed; 1 the command was refused or has failed.

    \b
    Examples:
      alpha-monday seal
      alpha-monday seal --yes
    """
    configuration = settings.load()
    if rehearsal:
        address = terminal.database_address(configuration, rehearsal=True)
    else:
        address = terminal.owner_address(configuration)
    asyncio.run(terminal.check_database(configuration, address, rehearsal=rehearsal))
    asyncio.run(terminal.require_current(configuration, address, rehearsal=rehearsal))
    if not rehearsal:
        asyncio.run(terminal.refuse_different_databases(configuration, "MIGRATE_DATABASE_URL"))
    declared = in_force.make(configuration)
    with progress_bar() as report_progress:
        preview = sealing.preview(address, declared, clock.now(), report_progress=report_progress)
        plan = asyncio.run(preview)
    for line in _describe(plan):
        report(line)
    terminal.confirm("Seal the record?", yes=yes)
    done = asyncio.run(sealing.seal(address, declared, clock.now()))
    click.echo(
        f"Sealed: {pluralize(done.entries, 'entry', 'entries')} from before, "
        f"{pluralize(done.closes + done.splits + done.rates, 'reading')} and "
        f"{pluralize(done.questions, 'open question')} adopted. Keep the head that "
        "`alpha-monday verify` prints."
    )


def _describe(plan: SealPlan) -> list[str]:
    """Return lines that say what a seal will write."""
    declared = plan.settings
    closed = ", ".join(map(str, declared.closed_days)) or "none"
    return [
        f"The record has {pluralize(plan.entries, 'entry', 'entries')}, and verifies.",
        f"Its origin will be {plan.origin}: it has entries from before the seal.",
        f"Readings that will be adopted: {plan.closes:,} closes, {plan.splits:,} splits and "
        f"{plan.rates:,} rates. "
        f"Open questions: {plan.questions:,}.",
        f"Settings: version {declared.version}, benchmark {declared.benchmark}, prices from "
        f"{declared.price_source}, MARKET_CLOSED_DAYS: {closed}, calendar from "
        f"{declared.calendar_from} to {declared.calendar_to}.",
        "Workers of versions before 0.3.0 are refused from then on. A seal cannot be undone.",
    ]
