"""
The operator's commands. Each has `--help` with an example.

The exit code of a command is 0 if it has succeeded, 1 if it was refused or failed, and 2 if it was
used wrongly. If a code means something else, the `--help` of the command says so: for `verify`, 1
means a discrepancy, and 2 that the check could not be completed.
"""

from app.commands import startup

startup.before_imports()

import asyncio
import errno
import logging
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
    head,
    jobs,
    migrate,
    pick,
    rehearse,
    roles,
    seal,
    serve,
    show,
    status,
    terminal,
    verify,
)
from app.commands.terminal import CommandGroup
from app.core import settings
from app.database import migrations
from app.database import roles as database_roles
from app.database.advice import display_address, permission_denied_message
from app.domain.text import first_line, one_line
from app.errors import AlphaMondayError

startup.after_imports()

# A command that loses its connection says so in its own line. Without a handler, Python itself
# would print the warnings of the connection pool, too. A command that configures a log writes those
# that matter.
logging.getLogger("psycopg").addHandler(logging.NullHandler())

# Exit codes of a shell for a process that a signal has ended.
_EXIT_CODE_SIGINT = 130
_EXIT_CODE_SIGTERM = 143


def main() -> None:
    """Run a command. Every failure becomes one clear line and an exit code."""
    # A command that does not configure a log writes its log lines to standard error, so that they
    # are not mixed with its output.
    if isinstance(structlog.get_config()["logger_factory"], structlog.PrintLoggerFactory):
        structlog.configure(logger_factory=lambda *_: structlog.PrintLogger(sys.stderr))
    # Tests run several commands in one process, so the lists of an earlier command are emptied.
    terminal.checked_rights.clear()
    terminal.used_addresses.clear()
    try:
        sys.exit(group(prog_name="alpha-monday", standalone_mode=False))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except AlphaMondayError as error:
        sys.exit(f"alpha-monday: {error}")
    except (psycopg.Error, PoolTimeout) as error:
        sys.exit(f"alpha-monday: {_database_error_message(error)}")
    except OSError as error:
        _exit_after_os_error(error)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(_EXIT_CODE_SIGINT)
    except asyncio.CancelledError:
        sys.exit(_EXIT_CODE_SIGTERM)


def _exit_after_os_error(error: OSError) -> None:
    if error.errno == errno.ENOSPC and error.filename is None:
        # When Python exits, it would try again to write the rest of the output, and fail once more.
        sys.stdout = None
        sys.exit(f"alpha-monday: The output could not be written: {error.strerror}")
    if error.filename is None:
        raise error
    sys.exit(f"alpha-monday: {error.filename}: {error.strerror}")


def _database_error_message(error: Exception) -> str:
    """Return a sentence about an error of the database that the command did not handle."""
    configuration = settings.load()
    address = configuration.queue_address
    database = display_address(address) if address else "of this folder"
    match error:
        case psycopg.errors.LockNotAvailable():
            return (
                "Another session held a lock that this migration needs. The migration waited for "
                "ten seconds. The lock may belong to a long query, a backup or a service's "
                "transaction. Nothing of this migration was done: run it again."
            )
        case psycopg.errors.ReadOnlySqlTransaction():
            return (
                f"The database {database} takes no writes ({first_line(error)}). It may be a "
                "standby: set DATABASE_URL to the primary."
            )
        case psycopg.OperationalError() | PoolTimeout():
            return f"The connection to the database {database} was lost: {one_line(error)}"
        case psycopg.errors.InsufficientPrivilege():
            return _permission_error_message(address, error)
        case (
            psycopg.errors.UndefinedTable()
            | psycopg.errors.UndefinedColumn()
            | psycopg.errors.UndefinedFunction()
        ):
            return (
                f"The database {database} does not have the schema of Alpha Monday's migrations "
                f"({first_line(error)}). Check that DATABASE_URL names the right database; "
                "`alpha-monday migrate --status` lists its migrations."
            )
        case psycopg.IntegrityError():
            # Only the first line says what was refused. The others quote a row, or the place in a
            # trigger's function.
            return f"The database {database} refused: {first_line(error)}"
        case _:
            return f"The database {database} refused: {one_line(error)}"


# Commands, and an option of commands, that need the rights of the owner. They do not check each
# right before they begin.
_NEED_OWNER = {"migrate", "restore", "seal", "--migrate"}


def _permission_error_message(address: str, error: psycopg.Error) -> str:
    """
    Return a sentence about a missing right.

    Either the right was removed while the command ran, or the command does not check its rights at
    the start.
    """
    used_address = address
    if terminal.used_addresses:
        used_address = terminal.used_addresses[-1]
    try:
        # The checks that a command makes before it begins are made again: their error names the
        # missing right.
        if terminal.checked_rights:
            used_address, need = terminal.checked_rights[-1]
            asyncio.run(database_roles.require_rights(used_address, need))
        elif _NEED_OWNER & set(sys.argv[1:]):
            asyncio.run(migrations.require_owner(used_address, "do this"))
    except AlphaMondayError as missing_right:
        return str(missing_right)
    except psycopg.Error:
        # The check itself has failed, so only the text of the command's own error is left.
        pass
    return permission_denied_message(used_address, error)


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="alpha-monday")
def group() -> None:
    """Alpha Monday: a public track record of AI stock picks.

    \b
    To try it without keys or a database:
      alpha-monday rehearse
    """


group.add_section(
    "Run",
    [
        rehearse.rehearse,
        serve.serve,
        serve.work,
        migrate.migrate,
        roles.roles,
        db.db,
        rehearse.standins,
    ],
)
group.add_section(
    "Look",
    [
        status.status,
        jobs.jobs,
        show.show,
        show.show_closes,
        verify.verify,
        head.head,
        export.export,
    ],
)
group.add_section("Act", [pick.pick, checkpoint.checkpoint, alert.alert, seal.seal])
group.add_section("Back up", [backup.backup, backup.restore])
