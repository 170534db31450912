"""`alpha-monday db`: the embedded Postgres of this folder."""

import time

import click
import psycopg
from msgspec import Struct
from psycopg import sql

from app.commands.terminal import Commands, confirm, say
from app.database import sessions
from app.database.embedded import LIVE, EmbeddedPostgres
from app.errors import ConfigurationError, Refused
from jobs import queue_tables

# A process that ended a moment ago may still show, so it is looked for again, for one and a half seconds in all.
_ATTEMPTS = 6
_PAUSE = 0.25  # seconds


@click.group(cls=Commands)
def db() -> None:
    """Start, stop or delete the embedded Postgres of this folder.

    \b
    Examples:
      export DATABASE_URL="$(alpha-monday db up)"
      alpha-monday db down
    """


@db.command()
def up() -> None:
    """Start it, until `db down`, and print its address.

    \b
    Example:
      export DATABASE_URL="$(alpha-monday db up)"
    """
    server = EmbeddedPostgres().start(outlive=True)
    click.echo(server.database(LIVE))
    if not server.outlives:
        say("Another command of this folder started it, and takes it along when it ends.")


@db.command()
@click.option("--yes", is_flag=True, help="Stop it even if a service or a command uses it.")
def down(yes: bool) -> None:
    """Stop it; what it holds stays. Refused while a service or a command of this folder uses it.

    \b
    Example:
      alpha-monday db down
    """
    server = EmbeddedPostgres()
    if not yes:
        _refuse_in_use(server, "To stop Postgres all the same, add --yes.")
    click.echo("Stopped." if server.stop_running() else "It was not running.")


@db.command()
@click.option("--yes", is_flag=True, help="Do not ask. A live record is not deleted by this alone.")
@click.option("--live-record", is_flag=True, help="Delete a live record, too, which cannot be made again.")
def reset(yes: bool, live_record: bool) -> None:
    """Stop it and delete everything it holds; say before what that is.

    Refused while a service or a command of this folder uses it. A rehearsal can be made again; a live record, which
    `serve` keeps here where DATABASE_URL is not set, cannot: it is deleted only with --live-record, or when you agree.

    \b
    Examples:
      alpha-monday db reset --yes
      alpha-monday db reset --yes --live-record
    """
    server = EmbeddedPostgres()
    if not server.folder.is_dir():
        click.echo(f"Nothing is to be deleted: {server.folder} does not exist.")
        return
    _refuse_in_use(server, "")
    try:
        live = _say_what_it_holds(server)
        if live and yes and not live_record:
            raise Refused(
                "A live record cannot be made again, so --yes alone does not delete it, and nothing was deleted. Keep "
                "it with `alpha-monday backup FILE`, if it can be read, then add --live-record "
                "(`make db-reset ARGS=--live-record`)."
            )
        what = "the LIVE record, which cannot be made again," if live and not live_record else "everything"
        confirm(f"Delete {what} in {server.folder}?", yes=yes)
        _refuse_in_use(server, "", owned=True)
        server.reset()
    finally:
        server.stop()
    click.echo("Deleted.")


def _refuse_in_use(server: EmbeddedPostgres, otherwise: str, *, owned: bool = False) -> None:
    """
    Refuse a server that another process needs: the one that started it, or one that is connected to it.

    `otherwise` ends the refusal: what to do all the same. With `owned` this process has started the server, so only
    connections count.
    """
    if not server.answers():
        return
    users = _users(server)
    if not users and (owned or not server.is_borrowed):
        return
    by = f"({', '.join(users)}) " if users else ""
    raise Refused(
        f"A service or a command {by}uses the embedded Postgres in {server.folder}. "
        f"Stop it first. Nothing was changed. {otherwise}".rstrip()
    )


def _users(server: EmbeddedPostgres) -> list[str]:
    """Return which of our processes use a server, without those that have ended."""
    users = server.users()
    for _ in range(_ATTEMPTS):
        if not users:
            break
        time.sleep(_PAUSE)
        users = server.users()
    return users


class _Held(Struct, frozen=True):
    """What a database holds: its rows by table, and whether a rehearsal made them up."""

    rows: dict[str, int]
    rehearsed: bool

    @property
    def live(self) -> bool:
        """Return whether rows are lost that no command makes again."""
        return bool(self.rows) and not self.rehearsed

    def __str__(self) -> str:
        if not self.rows:
            return "no rows"
        kind = "a rehearsal, made up" if self.rehearsed else "a LIVE record"
        counted = ", ".join(f"{count:,} {table}" for table, count in self.rows.items())
        return f"{kind}: {counted}"


def _say_what_it_holds(server: EmbeddedPostgres) -> bool:
    """Say what would be deleted; return whether a live record is, or may be, among it."""
    if not server.holds_files:
        return False
    try:
        server.start()
        held = {name: _held(server.address(name)) for name in server.databases()}
    except (ConfigurationError, psycopg.Error) as error:
        say(f"What {server.folder} holds cannot be read, so it counts as a live record: {error}")
        return True
    say(f"The embedded Postgres in {server.folder} holds:")
    for name, found in held.items():
        say(f"  {name}: {found}")
    return any(found.live for found in held.values())


def _held(address: str) -> _Held:
    with sessions.connect(address, autocommit=True) as conn:
        tables = conn.execute(
            "SELECT schemaname, tablename FROM pg_tables "
            "WHERE schemaname NOT IN ('pg_catalog', 'information_schema', 'told', 'queue') "
            "AND NOT (schemaname = 'operations' AND tablename <> 'provider_requests') "
            "ORDER BY schemaname <> 'public', schemaname, tablename"
        ).fetchall()
        rows = {}
        for schema, table in tables:
            counting = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(schema, table))
            (count,) = conn.execute(counting).fetchone() or (0,)
            if count:
                rows[table] = count
        if queue_tables.exist(conn) and queue_tables.are_used(conn):
            rows["jobs"] = queue_tables.count_jobs(conn)
        (rehearsed,) = conn.execute("SELECT to_regclass('told.clock') IS NOT NULL").fetchone() or (False,)
    return _Held(rows, bool(rehearsed))
