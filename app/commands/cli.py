"""
The operator's commands. Each has `--help` with an example; 0 means done, 1 refused or failed, 2 misused.

(`verify`, too: 1 is a misfit, 2 that nothing could be found out.)
"""

from app.commands import startup

startup.begin()

import asyncio
import errno
import sys

import click
import psycopg
import structlog
from psycopg_pool import PoolTimeout

from app.commands import (
    alert,
    backup,
    checkpoint,
    db,
    export,
    jobs,
    migrate,
    pick,
    rehearse,
    roles,
    serve,
    show,
    status,
    terminal,
    verify,
)
from app.commands.terminal import Commands
from app.core import settings
from app.database import migrations
from app.database import roles as the_roles
from app.database.advice import denied, where
from app.domain.text import first_line, one_line
from app.errors import AlphaMondayError

startup.done()


def main() -> None:
    """Run a command; whatever goes wrong is one clear line and an exit code."""
    # What a command logs that sets up no log of its own does not belong among what it prints.
    if isinstance(structlog.get_config()["logger_factory"], structlog.PrintLoggerFactory):
        structlog.configure(logger_factory=lambda *_: structlog.PrintLogger(sys.stderr))
    terminal.checked.clear()
    terminal.reached.clear()
    try:
        sys.exit(group(prog_name="alpha-monday", standalone_mode=False))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except AlphaMondayError as error:
        sys.exit(f"alpha-monday: {error}")
    except (psycopg.Error, PoolTimeout) as error:
        sys.exit(f"alpha-monday: {_of_the_database(error)}")
    except OSError as error:
        if error.errno == errno.ENOSPC and error.filename is None:
            sys.stdout = None  # what could not be written is not tried again at the end
            sys.exit(f"alpha-monday: The output could not be written: {error.strerror}")
        if error.filename is None:
            raise
        sys.exit(f"alpha-monday: {error.filename}: {error.strerror}")
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except asyncio.CancelledError:
        sys.exit(143)


def _of_the_database(error: Exception) -> str:
    """Return what to say of an error of the database that no command explains itself."""
    configuration = settings.load()
    address = configuration.queue_address
    named = where(address) if address else "of this folder"
    match error:
        case psycopg.errors.LockNotAvailable():
            return (
                "Another session held a lock that this migration needs, for ten seconds: a long query, a backup or a "
                "service's transaction. Nothing of this migration was done: run it again."
            )
        case psycopg.errors.ReadOnlySqlTransaction():
            return (
                f"The database {named} takes no writes ({first_line(error)}). It may be a standby: set DATABASE_URL to "
                "the primary."
            )
        case psycopg.OperationalError() | PoolTimeout():
            return f"The database {named} went away: {one_line(error)}"
        case psycopg.errors.InsufficientPrivilege():
            return _of_a_right(address, error)
        case psycopg.errors.UndefinedTable() | psycopg.errors.UndefinedColumn() | psycopg.errors.UndefinedFunction():
            return (
                f"The database {named} is not as Alpha Monday's migrations make it ({first_line(error)}). Check that "
                "DATABASE_URL names the right database; `alpha-monday migrate --status` lists its migrations."
            )
        case _:
            return f"The database {named} refused: {one_line(error)}"


# Commands, and an option of commands, that need the owner's rights, and look at no single one before.
_OF_THE_OWNER = {"migrate", "restore", "--migrate"}


def _of_a_right(address: str, error: psycopg.Error) -> str:
    """Return what to say of a right that was taken away while a command ran, or that no command looks at before."""
    used = terminal.reached[-1] if terminal.reached else address
    try:
        if terminal.checked:
            used, need = terminal.checked[-1]
            asyncio.run(the_roles.refuse_without(used, need))
        elif _OF_THE_OWNER & set(sys.argv[1:]):
            asyncio.run(migrations.refuse_another_than_the_owner(used, "do this"))
    except AlphaMondayError as lacking:
        return str(lacking)
    except psycopg.Error:
        pass
    return denied(used, error)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="alpha-monday")
def group() -> None:
    """Alpha Monday: a public track record of AI stock picks.

    \b
    A first look, without keys or a database:
      alpha-monday rehearse
    """


group.add_section(
    "Run", rehearse.rehearse, serve.serve, serve.work, migrate.migrate, roles.roles, db.db, rehearse.standins
)
group.add_section("Look", status.status, jobs.jobs, show.show, show.show_closes, verify.verify, export.export)
group.add_section("Act", pick.pick, checkpoint.checkpoint, alert.alert)
group.add_section("Keep", backup.backup, backup.restore)
