"""`alpha-monday rehearse` and `standins`: a simulated past, and simulators of the providers."""

import asyncio
import socket
import sys
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime, timedelta
from pathlib import Path
from typing import cast

import click
import msgspec
import uvloop
from msgspec import Struct
from rich.progress import Progress

from app.commands import server, terminal
from app.commands.migrate import apply_migrations
from app.commands.signals import StopSignals, run_until_stopped
from app.commands.terminal import DAY, clock, report
from app.core import logging, request_quota, series_file, settings
from app.core.settings import Settings
from app.database import migrations, pools
from app.database.embedded import EmbeddedPostgres, uses_server_of_another_process
from app.domain import calendar
from app.domain.calendar import NEW_YORK, Clock
from app.domain.text import pluralize
from app.errors import ConfigurationError
from app.main import create_app, open_process
from app.simulation import provider_simulators, rehearsal, rehearsed_record, rehearsed_series
from app.simulation.clock import SimulatedClock
from app.simulation.rehearsed_series import SeriesPhase

_SERIES_FOLDER = Path(".alpha-monday")
_LOG = _SERIES_FOLDER / "rehearsal.log"


@click.command()
@click.option(
    "--weeks",
    type=click.IntRange(1, 520),
    default=12,
    show_default=True,
    help="The number of Mondays.",
)
@click.option(
    "--until", type=DAY, help="Stop at the end of this day, and serve the record as of then."
)
@click.option("--calm", is_flag=True, help="Simulate providers that never fail.")
@click.option(
    "--odd",
    metavar="SEED",
    help="Inject many kinds of faults: one request in four gets a short fault, and other faults "
    "continue for a morning or longer. Not with --calm.",
)
@click.option(
    "--faults",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A file with a script of faults.",
)
@click.option(
    "--series",
    "series_path",
    metavar="FILE",
    help="Play the series of this file, which is like that of SERIES_FILE. Their models are "
    "simulated, so the keys are not needed.",
)
@click.option("--single", is_flag=True, help="Play only the series main.")
@click.option("--no-serve", is_flag=True, help="Only simulate the weeks, do not serve them.")
def rehearse(
    weeks: int,
    until: datetime | None,
    calm: bool,
    odd: str | None,
    faults: Path | None,
    series_path: str | None,
    single: bool,
    no_serve: bool,
) -> None:
    """Simulate past Mondays with provider simulators, then serve the record.

    It plays two models and a control. In 26 weeks and more, one of the models retires, and a third
    one joins. With --series, or if SERIES_FILE is set, it plays the series of that file: each of
    their models is answered by a simulator of its kind of server, and no request leaves this
    machine. If OPENAI_BASE_URL is set and there is no such file, it plays only main.

    Sometimes a simulated provider fails or returns wrong data, as real ones do;
    `alpha-monday standins --help` lists the faults of a script. With --odd there are many kinds of
    faults: one request in four gets a short fault, and other faults continue for a morning or
    longer, such as a delisted ticker. The market then has more splits than usual.

    \b
    Needs no keys and no database. Examples:
      alpha-monday rehearse
      alpha-monday rehearse --weeks 4 --until 2026-10-30 --no-serve
      alpha-monday rehearse --calm --faults faults.json
      alpha-monday rehearse --odd a-seed
      alpha-monday rehearse --series series.toml --weeks 2
    """
    _refuse_contradictions(calm=calm, odd=odd, single=single, series_path=series_path)
    configuration = settings.load()
    source = series_file.SETTING
    if series_path is not None:
        source = "--series"
        configuration = msgspec.structs.replace(configuration, series_file=series_path)
    if single:
        configuration = msgspec.structs.replace(configuration, series_file="")
    file = configuration.series_file or None
    configuration, phases = _read_series(configuration, source, single=single)
    rehearsal.refuse_address_without_key(configuration)
    _refuse_without_effect(configuration, calm=calm, odd=bool(odd), faults=faults)
    with _opened(configuration, no_serve=no_serve) as listener:
        span = rehearsal.choose_span(
            weeks=weeks,
            until=until.date() if until else None,
            now=clock.now(),
            has_real_prices=bool(configuration.alpha_vantage_base_url),
        )
        address = _prepare_database(configuration, listener)
        simulators = rehearsal.running_simulators(
            configuration, address, calm=calm, odd=odd or "", faults=faults
        )
        with simulators as simulated:
            if phases is None:
                phases = rehearsed_series.several(simulated, span.begin, weeks)
            plan = _plan(simulated, phases, span)
            run_until_stopped(uvloop.run, lambda signals: _rehearse(plan, file, signals))
            if listener:
                _serve(plan[-1], listener)


def _refuse_contradictions(
    *, calm: bool, odd: str | None, single: bool, series_path: str | None
) -> None:
    """
    Raise UsageError for an empty seed or path, and for two options that contradict each other.
    """
    if odd is not None and not odd.strip():
        raise click.UsageError(
            "--odd needs a seed, a text of any kind such as a-seed; this one is empty."
        )
    if odd and calm:
        raise click.UsageError("--odd and --calm contradict each other: leave one of them out.")
    if single and series_path is not None:
        raise click.UsageError(
            "--single and --series contradict each other: leave one of them out."
        )
    if series_path is not None and not series_path.strip():
        raise click.UsageError("--series needs the path of a TOML file; this one is empty.")


def _opened(
    configuration: Settings, *, no_serve: bool
) -> AbstractContextManager[socket.socket | None]:
    """
    Open the socket on which the record will be served; with `no_serve` there is none.

    It is opened before the weeks are simulated, so that a refusal comes at once. Raises
    ConfigurationError if another rehearsal of this folder is running.
    """
    if no_serve:
        # This is allowed while another rehearsal serves its record: this one extends that record
        # and ends by itself (dev/audit/pages.mjs uses this).
        return nullcontext()
    if not configuration.database_url and EmbeddedPostgres().is_owned_elsewhere:
        raise _second_rehearsal_error()
    return _listen(configuration)


class _Stage(Struct, frozen=True):
    """A part of the rehearsal, at whose end the service starts anew with other settings."""

    configuration: Settings
    span: rehearsal.RehearsalSpan

    def has_ended(self, now: datetime) -> bool:
        """Return whether the stage is over at a simulated time."""
        return self.span.until is not None and self.span.until <= now


def _read_series(
    configuration: Settings, source: str, *, single: bool
) -> tuple[Settings, list[SeriesPhase] | None]:
    """
    Return the settings with simulated models, and the phases of a file of series.

    `source` is the setting or the option with the path of the file. Without a file, the phases are
    None, or empty if only `main` is played.
    """
    if not configuration.series_file:
        is_alone = single or bool(configuration.openai_base_url)
        return configuration, [] if is_alone else None
    phases = rehearsed_series.of_file(configuration, source=source)
    # The rehearsal has the same count of requests as the service. Without this check, it would skip
    # mornings of a configuration with which the service does not start.
    request_quota.require_room_for_closes(configuration, source=source)
    # The models of the file are simulated, whatever address the settings have.
    simulated = msgspec.structs.replace(configuration, openai_base_url="", series_file="")
    return simulated, phases


def _plan(
    simulated: Settings, phases: list[SeriesPhase], span: rehearsal.RehearsalSpan
) -> list[_Stage]:
    """Return the stages of a rehearsal, one for each phase. Write their files of series."""
    if not phases:
        return [_Stage(simulated, span)]
    stages = []
    for number, phase in enumerate(phases, 1):
        path = _SERIES_FOLDER / f"series-{number}.toml"
        configuration = rehearsed_series.with_series(simulated, phase, path)
        until = phase.until or span.until
        stages.append(_Stage(configuration, rehearsal.RehearsalSpan(span.begin, until)))
    return stages


def _prepare_database(configuration: Settings, listener: socket.socket | None) -> str:
    """
    Start the rehearsal's Postgres if it is the embedded one, check and migrate the database.

    Return the address of the database. Raises ConfigurationError if the record is to be served and
    another rehearsal of this folder is running.
    """
    address = rehearsal.database_address(configuration)
    # Checked once more: at the first check, another rehearsal may have been about to start its
    # Postgres.
    if listener and uses_server_of_another_process():
        raise _second_rehearsal_error()
    if listener:
        _report_other_port(configuration, listener)
    run_until_stopped(
        asyncio.run,
        lambda _: terminal.check_database(configuration, address, rehearsal=True),
    )
    run_until_stopped(asyncio.run, lambda _: _migrate(address))
    return address


async def _migrate(address: str) -> None:
    await migrations.require_owner(address, "rehearse", "DATABASE_URL")
    await apply_migrations(address, quiet=True)


def _refuse_without_effect(
    configuration: Settings, *, calm: bool, odd: bool, faults: Path | None
) -> None:
    """
    Raise UsageError for options about simulated providers that would have no effect.

    If only one of the two providers is simulated, print that the options apply to that one.
    """
    is_set = {"--calm": calm, "--odd": odd, "--faults": bool(faults)}
    options = " and ".join(name for name, value in is_set.items() if value)
    simulated = rehearsal.simulated_providers(configuration)
    if options and not simulated:
        raise click.UsageError(
            f"{options} would have no effect: OPENAI_BASE_URL and ALPHA_VANTAGE_BASE_URL are set, "
            "so no provider is simulated. Leave out the option, or unset an address."
        )
    if faults:
        _refuse_faults_without_effect(configuration, faults)
    if options and len(simulated) < len(rehearsal.ADDRESS_SETTINGS):
        (real,) = rehearsal.ADDRESS_SETTINGS.keys() - simulated
        setting = rehearsal.ADDRESS_SETTINGS[real]
        report(f"{options}: only for {simulated[0]}, because {setting} is set.")


def _refuse_faults_without_effect(configuration: Settings, faults: Path) -> None:
    unsimulated = rehearsal.unsimulated_providers(faults, configuration)
    if not unsimulated:
        return
    names = {**rehearsal.ADDRESS_SETTINGS, **rehearsal.STAMP_SETTINGS}
    addresses = " and ".join(names[name] for name in unsimulated)
    raise click.UsageError(
        f"{faults} has faults of {' and '.join(unsimulated)}, which would have no effect: "
        f"{addresses} is set, so that provider is not simulated. Leave them out, or unset the "
        "address."
    )


def _second_rehearsal_error() -> ConfigurationError:
    """
    Return the error to raise while another process runs the embedded Postgres of this folder.

    That process stops Postgres when it ends, and this rehearsal would then fail.
    """
    return ConfigurationError(
        "A rehearsal or a service of this folder is running already, and its Postgres stops with "
        "it. Use that one, stop it first, or run this one in another folder."
    )


def _listen(configuration: Settings) -> socket.socket:
    """
    Open the listening socket.

    If PORT is not set and the default port is in use, another port is chosen, so that rehearsals of
    several folders can run at once.
    """
    if settings.is_set("PORT"):
        return server.listen(configuration)
    return server.listen_nearby(configuration)


def _report_other_port(configuration: Settings, listener: socket.socket) -> None:
    """Print the port of the rehearsal if it is not the default port."""
    port = listener.getsockname()[1]
    if not settings.is_set("PORT") and port != configuration.port:
        report(
            f"Port {configuration.port} is in use: the rehearsal will be served on port {port} "
            "instead. Set PORT to choose another."
        )


def _serve(stage: _Stage, listener: socket.socket) -> None:
    """Serve the record with the settings of the last stage, until the process is stopped."""
    terminal.configure_log(stage.configuration)
    # A rehearsal that ended in the past has no jobs left to run.
    works = stage.span.until is None
    app = create_app(stage.configuration, rehearsal.clock_factory(stage.span), work=works)
    server.run(app, listener)


class _RehearsalProgress:
    """Shows how far a rehearsal is: as a bar on a terminal, elsewhere as a line for each week."""

    def __init__(
        self, progress: Progress, span: rehearsal.RehearsalSpan, signals: StopSignals
    ) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=1.0)
        self._signals = signals
        self._begin: datetime | None = None
        self._end = span.until
        self._reported_monday = (span.begin - timedelta(days=1)).date()

    def update(self, begin: datetime, now: datetime, end: datetime) -> None:
        """
        Show the simulated time `now`. Raise CancelledError after a stop signal.

        `begin` and `end` are those of a stage. The bar shows all stages as one.
        """
        self._signals.check()
        begin = self._begin = self._begin or begin
        end = self._end or max(end, clock.now())
        if not sys.stderr.isatty():
            self._report_week(now)
        done = 1.0
        if now < end:
            done = (now - begin) / (end - begin)
        self._progress.update(
            self._task,
            completed=done,
            description=f"Rehearsing {now.astimezone(NEW_YORK):%a %d %b %Y}",
        )

    def _report_week(self, now: datetime) -> None:
        monday = calendar.latest_run_date(now)
        if monday > self._reported_monday:
            self._reported_monday = monday
            report(f"Rehearsing the week of {monday}")


async def _rehearse(plan: list[_Stage], file: str | None, signals: StopSignals) -> None:
    """
    Run the service in simulated time until the end of the plan, and print a summary.

    `file` is the operator's file of series, or None.
    """
    configuration, span = plan[-1].configuration, plan[-1].span
    before = await _check_record(configuration, file)
    _LOG.parent.mkdir(exist_ok=True)
    # Opened to append, because a rehearsal may continue an earlier one.
    with _LOG.open("a") as log, terminal.make_progress() as bar:
        log_clock: Clock = clock
        # The lambda reads `log_clock` for each line: as soon as the rehearsal runs, the lines of
        # the log have the simulated time.
        secrets = series_file.secret_texts(configuration)
        logging.configure(configuration.log_level, lambda: log_clock.now(), secrets, to=log)
        await rehearsal.refuse_out_of_reach(configuration, span, report)
        progress = _RehearsalProgress(bar, span, signals)
        reached = await rehearsal.get_reached_time(configuration)
        for stage in plan:
            if reached and stage is not plan[-1] and stage.has_ended(reached):
                # An earlier rehearsal of this database has passed this stage.
                continue
            open_clock = rehearsal.clock_factory(stage.span)
            async with open_process(stage.configuration, open_clock) as process:
                log_clock = process.clock
                simulated_clock = cast(SimulatedClock, process.clock)
                await rehearsal.wait_for_end(simulated_clock, stage.span, progress.update)
                results = await rehearsed_record.list_results(process.pool)
                after = await rehearsed_record.get_span(process.pool)
    # The bar is gone now, so that it does not mix with these lines.
    for result in results:
        report(result.describe())
    if before.batches:
        report("This continued an earlier rehearsal; `alpha-monday db reset` deletes it.")
    if before.batches == after.batches:
        report("It had all of these Mondays already: no model was asked.")
    mondays = pluralize(after.mondays, "Monday")
    report(
        f"Rehearsed: {mondays}, {after.first} to {after.last}. All of it is made up. Log: {_LOG}"
    )


async def _check_record(
    configuration: Settings, file: str | None
) -> rehearsed_record.RehearsedSpan:
    """
    Check the series against those of the rehearsal that is continued.

    Return the Mondays that it has already. Raises ConfigurationError if a series would be retired
    by mistake.
    """
    async with pools.opened(pools.make_pool(configuration.database_url)) as pool:
        for name in await rehearsed_record.check_series(pool, configuration, file):
            report(f"The file has no [{name}]: this series retires now.")
        return await rehearsed_record.get_span(pool)


@click.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def standins(arguments: tuple[str, ...]) -> None:
    """Serve simulators of the providers and of timestamp services, to test any client.

    \b
    Example:
      alpha-monday standins --port 8090 --faults faults.json
    """
    provider_simulators.main(arguments)
