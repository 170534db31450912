"""`alpha-monday db`: start, stop or delete the embedded Postgres of this folder."""

import time

import click
import psycopg
from msgspec import Struct
from psycopg import sql

from app.commands.terminal import CommandGroup, confirm, report
from app.database import sessions
from app.database.embedded import LIVE, EmbeddedPostgres
from app.errors import ConfigurationError, Refused
from app.store import rehearsed
from jobs import queue_tables

# The session of a process that has just ended may still be listed. So sessions are read several
# times, over one and a half seconds in all.
_ATTEMPTS = 6
_PAUSE = 0.25  # seconds

# The tables of the record, and the ledger of requests, which is the table `provider_requests`. Jobs
# are counted by `queue_tables`. The simulated clock and the other tables of `operations` are not
# counted: without the record they are of no use.
_DATA_TABLES = """
SELECT schemaname, tablename FROM pg_tables
WHERE schemaname NOT IN ('pg_catalog', 'information_schema', 'told', 'queue')
AND NOT (schemaname = 'operations' AND tablename <> 'provider_requests')
ORDER BY schemaname <> 'public', schemaname, tablename
"""


@click.group(cls=CommandGroup)
def db() -> None:
    """Start, stop or delete the embedded Postgres of this folder.

    \b
    Examples:
      export DATABASE_URL="$(alpha-monday db up)"
      alpha-monday db down
    """


@db.command()
def up() -> None:
    """Start the embedded Postgres, and print its address. It runs until `alpha-monday db down`.

    \b
    Example:
      export DATABASE_URL="$(alpha-monday db up)"
    """
    server = EmbeddedPostgres().start(detach=True)
    try:
        click.echo(server.ensure_database(LIVE))
    except BaseException:
        # The user did not get the server's address, and may not know that the server runs. A server
        # that ran before this command is left alone.
        if server.process:
            server.abandon_start()
        raise
    if not server.is_detached:
        report(
            "Another command of this folder started Postgres. Postgres stops when that command "
            "ends."
        )


@db.command()
@click.option("--yes", is_flag=True, help="Stop it even if a service or a command uses it.")
def down(yes: bool) -> None:
    """Stop the embedded Postgres, and keep its data.

    Refused while a service or a command of this folder uses it.

    \b
    Example:
      alpha-monday db down
    """
    server = EmbeddedPostgres()
    if not yes:
        _refuse_in_use(server, advice="To stop Postgres anyway, add --yes.")
    if server.stop_any():
        click.echo("Stopped.")
    else:
        click.echo("The embedded Postgres of this folder was not running.")


@db.command()
@click.option("--yes", is_flag=True, help="Do not ask. This alone does not delete a live record.")
@click.option(
    "--live-record", is_flag=True, help="Delete a live record, too. It cannot be made again."
)
def reset(yes: bool, live_record: bool) -> None:
    """Stop the embedded Postgres and delete all its data.

    Before it deletes the data, the command prints what they are. It is refused while a service or
    another command of this folder uses Postgres.

    A rehearsal can be made again. A live record cannot be made again. If DATABASE_URL is not set,
    `serve` stores a live record here. The command deletes it only with --live-record, or if you
    confirm the deletion.

    \b
    Examples:
      alpha-monday db reset --yes
      alpha-monday db reset --yes --live-record
    """
    server = EmbeddedPostgres()
    if not server.folder.is_dir():
        click.echo(f"Nothing to delete: {server.folder} does not exist.")
        return
    _refuse_in_use(server)
    try:
        may_hold_live_record = _print_contents(server)
        _confirm_reset(
            server,
            yes=yes,
            names_live_record=may_hold_live_record and not live_record,
        )
        # Another command may have connected while the operator was asked.
        _refuse_in_use(server, is_own=True)
        server.reset()
    finally:
        # If the data were not deleted, Postgres still runs: it was started to read them.
        server.stop()
    click.echo("Deleted.")


def _confirm_reset(server: EmbeddedPostgres, *, yes: bool, names_live_record: bool) -> None:
    """Ask before everything is deleted; `--yes` answers the question, but not for a live record."""
    if not names_live_record:
        confirm(f"Delete everything in {server.folder}?", yes=yes)
        return
    if yes:
        raise Refused(
            "A live record cannot be made again, so --yes alone does not delete it, and nothing "
            "was deleted. Back it up with `alpha-monday backup FILE`, if it can be read, then add "
            "--live-record (`make db-reset ARGS=--live-record`)."
        )
    confirm(
        f"Delete the LIVE record, which cannot be made again, in {server.folder}?",
        yes=False,
    )


def _refuse_in_use(server: EmbeddedPostgres, *, advice: str = "", is_own: bool = False) -> None:
    """
    Raise Refused if another process has started the server, or is connected to it.

    `advice` is the last sentence of the message. `is_own` says that this process itself has started
    the server. Then Refused is raised only if another process is connected.
    """
    if not server.is_running():
        return
    users = _current_sessions(server)
    if not users and (is_own or not server.is_owned_elsewhere):
        return
    named_users = f"({', '.join(users)}) " if users else ""
    raise Refused(
        f"A service or a command {named_users}uses the embedded Postgres in {server.folder}. "
        f"Stop it first. Nothing was changed. {advice}".rstrip()
    )


def _current_sessions(server: EmbeddedPostgres) -> list[str]:
    """Return our sessions on the server, without those of processes that have just ended."""
    users = server.list_sessions()
    # A session that stays after all attempts belongs to a process that is running.
    for _ in range(_ATTEMPTS):
        if not users:
            break
        time.sleep(_PAUSE)
        users = server.list_sessions()
    return users


class _DatabaseContents(Struct, frozen=True):
    """The number of rows in each table of a database, and whether a rehearsal made them."""

    rows: dict[str, int]
    rehearsed: bool

    @property
    def is_live(self) -> bool:
        """Return whether the database has rows that no command can make again."""
        return bool(self.rows) and not self.rehearsed

    def __str__(self) -> str:
        if not self.rows:
            return "no rows"
        kind = "a rehearsal, made up" if self.rehearsed else "a LIVE record"
        counts = ", ".join(f"{count:,} {table}" for table, count in self.rows.items())
        return f"{kind}: {counts}"


def _print_contents(server: EmbeddedPostgres) -> bool:
    """Print what would be deleted. Return whether it may include a live record."""
    if not server.has_data:
        return False
    try:
        server.start()
        contents = {name: _read_contents(server.address(name)) for name in server.list_databases()}
    except (ConfigurationError, psycopg.Error) as error:
        report(
            f"The data in {server.folder} cannot be read, so they count as a live record: {error}"
        )
        return True
    report(f"The embedded Postgres in {server.folder} holds:")
    for name, content in contents.items():
        report(f"  {name}: {content}")
    return any(content.is_live for content in contents.values())


def _read_contents(address: str) -> _DatabaseContents:
    with sessions.connect(address, autocommit=True) as conn:
        rows = {}
        for schema, table in conn.execute(_DATA_TABLES).fetchall():
            count_rows = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(schema, table))
            (count,) = conn.execute(count_rows).fetchone() or (0,)
            if count:
                rows[table] = count
        if queue_tables.has_tables_sync(conn) and queue_tables.is_used_sync(conn):
            rows["jobs"] = queue_tables.count_jobs_sync(conn)
        is_rehearsed = rehearsed.is_rehearsed_sync(conn)
    return _DatabaseContents(rows, is_rehearsed)
