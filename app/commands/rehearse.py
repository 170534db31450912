"""`alpha-monday rehearse` and `alpha-monday standins`: the service in a simulated past, and its providers alone."""

import asyncio
import socket
import sys
from datetime import datetime, timedelta
from pathlib import Path

import click
import uvloop

from app.commands import server, terminal
from app.commands.migrate import apply_migrations
from app.commands.signals import StopSignals, run_until_stopped
from app.commands.terminal import DAY, clock, say
from app.core import logging, settings
from app.core.settings import Settings
from app.database import migrations
from app.database.embedded import EmbeddedPostgres
from app.domain import calendar
from app.domain.calendar import NEW_YORK
from app.errors import ConfigurationError
from app.main import create_app, living
from app.simulation import provider_simulators, rehearsal

_LOG = Path(".alpha-monday") / "rehearsal.log"


@click.command()
@click.option("--weeks", type=click.IntRange(1, 520), default=12, show_default=True, help="How many Mondays.")
@click.option("--until", type=DAY, help="Stop at the end of this day and serve the record as it stood.")
@click.option("--calm", is_flag=True, help="Let the providers behave.")
@click.option(
    "--odd", metavar="SEED", help="Let one request in four go wrong, in every way that is known. Not with --calm."
)
@click.option("--faults", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A script of faults.")
@click.option("--no-serve", is_flag=True, help="Only live through the weeks.")
def rehearse(
    weeks: int, until: datetime | None, calm: bool, odd: str | None, faults: Path | None, no_serve: bool
) -> None:
    """Live through past Mondays with played providers, then serve the record.

    Now and then a provider lies, as providers do; `alpha-monday standins --help` lists the faults of a script. With
    --odd all of them happen, at one request in four, in a market with more splits than usual.

    \b
    Needs no keys and no database. Examples:
      alpha-monday rehearse
      alpha-monday rehearse --weeks 4 --until 2026-10-30 --no-serve
      alpha-monday rehearse --calm --faults faults.json
      alpha-monday rehearse --odd a-seed
    """
    if odd is not None and not odd.strip():
        raise click.UsageError("--odd needs a seed, a text of any kind such as a-seed; it is empty.")
    if odd and calm:
        raise click.UsageError("--odd and --calm contradict each other: leave one of them out.")
    configuration = settings.load()
    rehearsal.refuse_address_without_key(configuration)
    _refuse_without_effect(configuration, calm=calm, odd=bool(odd), faults=faults)
    listener = None if no_serve else _listen(configuration)
    span = rehearsal.span(
        weeks,
        until.date() if until else None,
        clock.now(),
        has_real_prices=bool(configuration.alpha_vantage_base_url),
    )
    address = rehearsal.database(configuration)
    run_until_stopped(asyncio.run, lambda _: terminal.reach(configuration, address, rehearsal=True))
    run_until_stopped(asyncio.run, lambda _: _make_ready(address))
    with rehearsal.played(configuration, address, calm=calm, odd=odd or "", faults=faults) as provided:
        run_until_stopped(uvloop.run, lambda signals: _rehearse(provided, span, signals))
        if listener:
            terminal.configure_log(configuration)
            app = create_app(provided, rehearsal.clock_of(span), work=span.until is None)
            server.run(app, listener)


async def _make_ready(address: str) -> None:
    await migrations.refuse_another_than_the_owner(address, "rehearse", "DATABASE_URL")
    await apply_migrations(address, quiet=True)


def _refuse_without_effect(configuration: Settings, *, calm: bool, odd: bool, faults: Path | None) -> None:
    """Refuse options about what simulated providers do where none is simulated; say which of two they do not reach."""
    options = [name for name, given in (("--calm", calm), ("--odd", odd), ("--faults", bool(faults))) if given]
    simulated = rehearsal.simulated_providers(configuration)
    if options and not simulated:
        raise click.UsageError(
            f"{' and '.join(options)} would have no effect: OPENAI_BASE_URL and ALPHA_VANTAGE_BASE_URL are set, so no "
            "provider is simulated. Leave out the option, or unset an address."
        )
    if faults and (without := rehearsal.not_simulated_in(faults, configuration)):
        addresses = " and ".join(rehearsal.ADDRESSES[name] for name in without)
        raise click.UsageError(
            f"{faults} has faults of {' and '.join(without)}, which would have no effect: {addresses} is set, so that "
            "provider is not simulated. Leave them out, or unset the address."
        )
    if options and len(simulated) < len(rehearsal.ADDRESSES):
        (real,) = rehearsal.ADDRESSES.keys() - simulated
        say(f"{' and '.join(options)}: only for {simulated[0]}, for {rehearsal.ADDRESSES[real]} is set.")


def _listen(configuration: Settings) -> socket.socket:
    """Take the port; where it is only the default and in use, another one, so that rehearsals can run side by side."""
    if settings.is_set("PORT"):
        return server.listen(configuration)
    if not configuration.database_url and EmbeddedPostgres().is_borrowed:
        # Another process of this folder owns the Postgres, and stops it when it ends: this one would lose it.
        raise ConfigurationError(
            "A rehearsal or a service of this folder is running already, and its Postgres stops with it. "
            "Use that one, stop it first, or run this one in another folder."
        )
    listener = server.listen_nearby(configuration)
    port = listener.getsockname()[1]
    if port != configuration.port:
        say(
            f"Port {configuration.port} is in use: the rehearsal will be served on port {port} instead. "
            "Set PORT to choose another."
        )
    return listener


async def _rehearse(provided: Settings, span: rehearsal.Span, signals: StopSignals) -> None:
    _LOG.parent.mkdir(exist_ok=True)
    with _LOG.open("a") as log, terminal.progress() as progress:
        told = clock
        logging.configure(provided.log_level, lambda: told.now(), provided.keys, to=log)
        await rehearsal.refuse_out_of_reach(provided, span, say)
        line, told_of = progress.add_task("", total=1.0), span.begin - timedelta(days=1)
        async with living(provided, rehearsal.clock_of(span)) as process:
            told = process.clock  # type: ignore[assignment]

            def tell(begin: datetime, now: datetime, end: datetime) -> None:
                nonlocal told_of
                signals.check()
                done = 1.0 if now >= end else (now - begin) / (end - begin)
                if not sys.stderr.isatty() and (monday := calendar.latest_run_date(now)) > told_of.date():
                    told_of = calendar.due_at(monday)
                    say(f"Rehearsing the week of {monday}")
                progress.update(line, completed=done, description=f"Rehearsing {now.astimezone(NEW_YORK):%a %d %b %Y}")

            await rehearsal.catch_up(process.clock, span, tell)  # type: ignore[arg-type]
            async with process.pool.connection() as conn:
                cursor = await conn.execute("SELECT count(*), min(run_date), max(run_date) FROM batches")
                count, first, last = await cursor.fetchone() or (0, None, None)
    if first and first < calendar.today(span.begin):
        say("This went on with the rehearsal that was there; `alpha-monday db reset` forgets it.")
    mondays = f"{count} Monday{'' if count == 1 else 's'}, {first} to {last}"
    say(f"Rehearsed: {mondays}. All of it is made up. Log: {_LOG}")


@click.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def standins(arguments: tuple[str, ...]) -> None:
    """Serve simulators of both providers on loopback, with faults on request, to test any client against.

    \b
    Example:
      alpha-monday standins --port 8090 --faults faults.json
    """
    provider_simulators.main(arguments)
