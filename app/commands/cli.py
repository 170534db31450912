"""
The operator's commands. Each has `--help` with an example; 0 means done, 1 refused or failed, 2 misused.

(`verify`, too: 1 is a misfit, 2 that nothing could be found out.)
"""

import asyncio
import errno
import sys

import click
import psycopg
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
    serve,
    show,
    status,
    verify,
)
from app.commands.terminal import Commands
from app.domain.text import first_line, one_line
from app.errors import AlphaMondayError


def main() -> None:
    """Run a command; whatever goes wrong is one clear line and an exit code."""
    try:
        sys.exit(group(prog_name="alpha-monday", standalone_mode=False))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except AlphaMondayError as error:
        sys.exit(f"alpha-monday: {error}")
    except psycopg.errors.LockNotAvailable:
        sys.exit(
            "alpha-monday: Somebody else held a lock that this migration needs, for ten seconds. "
            "Nothing of it was done: run it again."
        )
    except (psycopg.OperationalError, PoolTimeout) as error:
        sys.exit(f"alpha-monday: The database went away: {one_line(error)}")
    except psycopg.errors.InsufficientPrivilege as error:
        sys.exit(f"alpha-monday: {first_line(error)}. Give that right to the user of DATABASE_URL.")
    except psycopg.Error as error:
        sys.exit(f"alpha-monday: The database refused: {one_line(error)}")
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


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="alpha-monday")
def group() -> None:
    """Alpha Monday: a public track record of AI stock picks.

    \b
    A first look, without keys or a database:
      alpha-monday rehearse
    """


group.add_section("Run", rehearse.rehearse, serve.serve, serve.work, migrate.migrate, db.db, rehearse.standins)
group.add_section("Look", status.status, jobs.jobs, show.show, show.show_closes, verify.verify, export.export)
group.add_section("Act", pick.pick, checkpoint.checkpoint, alert.alert)
group.add_section("Keep", backup.backup, backup.restore)
