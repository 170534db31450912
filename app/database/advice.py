"""
What to say of a database: which one it is, why it cannot be reached or refuses, and the command that helps.

Each text names the place without its password, and ends with what a person does next.
"""

import re
from typing import Any

from psycopg import Error, OperationalError, pq, sql

from app.core.settings import name_of_address
from app.database import rights, sessions
from app.domain.text import first_line
from app.errors import ConfigurationError

_GONE = re.compile("No such file or directory|Connection refused")

# What Postgres says of a right that is missing, and the statement that gives it.
_DENIED = re.compile(r"permission denied for (\w+) (.+)")
_NOT_THE_OWNER = re.compile(r"must be owner of (?:\w+ )?(.+)")
_GRANTS = {
    "database": "GRANT CREATE ON DATABASE {object} TO {user};",
    "sequence": "GRANT USAGE ON ALL SEQUENCES IN SCHEMA queue TO {user};",
    "function": "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA queue TO {user};",
}

# The words that Postgres takes for a name only in quotes (pg_get_keywords(), version 18).
_KEYWORDS = (
    " all analyse analyze and any array as asc asymmetric authorization binary both case cast check "
    " collate collation column concurrently constraint create cross current_catalog current_date "
    " current_role current_schema current_time current_timestamp current_user default deferrable desc "
    " distinct do else end except false fetch for foreign freeze from full grant group having ilike in "
    " initially inner intersect into is isnull join lateral leading left like limit localtime "
    " localtimestamp natural not notnull null offset on only or order outer overlaps placing primary "
    " references returning right select session_user similar some symmetric system_user table tablesample "
    " then to trailing true union unique user using variadic verbose when where window with "
)


def where(conninfo: Any) -> str:
    """Return host, port and name of a database, with libpq's own defaults: never its password."""
    parts = _whole(conninfo)
    host = parts.get("host") or parts.get("hostaddr") or "local socket"
    return f"{host}:{parts.get('port', '')}/{parts.get('dbname') or parts.get('user', '')}"


def known_as(conninfo: Any, *, apart: bool) -> str:
    """Return the name under which it is noted whether a database is there; `apart`, for its user alone."""
    return f"{where(conninfo)} as {user_of(conninfo)}" if apart else where(conninfo)


def user_of(conninfo: Any) -> str:
    """Return the user of an address: its own, or the one that libpq takes."""
    return str(_whole(conninfo).get("user", ""))


def _whole(conninfo: Any) -> dict[str, Any]:
    given = sessions.place(conninfo)
    # After `place`, which takes libpq's variables out of the environment: these are libpq's own.
    defaults = {
        option.keyword.decode(): option.val.decode(errors="replace")
        for option in pq.Conninfo.get_defaults()
        if option.val is not None
    }
    return {**defaults, **{name: value for name, value in given.items() if value}}


def unreachable(conninfo: Any, error: OperationalError) -> ConfigurationError:
    """Return what to say of a database that cannot be reached; libpq's own advice on it is replaced by ours."""
    if isinstance(error, ConfigurationError):
        return error
    # libpq's own advice begins with a tab.
    told = [line.strip() for line in str(error).splitlines() if not line.startswith("\t")]
    reason = " ".join(told).removeprefix("connection failed: ").rstrip(".")
    helps = _what_helps(conninfo, reason)
    text = f"The database at {where(conninfo)} cannot be reached: {reason}. {helps}"
    if variables := sessions.variables(conninfo):
        text = f"{text} Of the environment it takes {' and '.join(variables)}."
    return ConfigurationError(text)


def _what_helps(conninfo: Any, reason: str) -> str:
    parts = _whole(conninfo)
    setting = name_of_address(str(conninfo))
    user, name = quoted(user_of(conninfo)), quoted(str(parts.get("dbname") or user_of(conninfo)))
    as_admin = "As an administrator of that Postgres, run"
    if sessions.is_embedded(parts) and _GONE.search(reason):
        return "The embedded Postgres of that address does not run: `alpha-monday db up` in its folder starts it."
    if "password authentication failed" in reason or "no password supplied" in reason:
        return f"Check the user and the password in {setting}."
    if "does not have CONNECT privilege" in reason or "permission denied for database" in reason:
        return f"{as_admin} GRANT CONNECT ON DATABASE {name} TO {user};"
    if re.search(r'role ".*" does not exist', reason):
        return f"Check the user in {setting}. {as_admin} CREATE ROLE {user} LOGIN PASSWORD '...'; if it is new."
    if re.search(r'database ".*" does not exist', reason):
        return f"Check the name in {setting}. {as_admin} CREATE DATABASE {name} OWNER {user}; if it is new."
    if "too many" in reason or "remaining connection slots" in reason:
        return "Postgres allows no more connections: end some, or raise its max_connections."
    if "no pg_hba.conf entry" in reason:
        return f"Postgres refuses this host, user or encryption: allow it in pg_hba.conf, or check {setting}."
    if "invalid" in reason and "value:" in reason:
        return f"Check the parameters in {setting}, after its question mark."
    if "SSL" in reason or "certificate" in reason:
        return f"Check sslmode and the certificate in {setting}."
    if "starting up" in reason or "shutting down" in reason:
        return "Wait until Postgres has started, and run this again."
    if "resolve host" in reason or "Name or service not known" in reason:
        return f"Check the host in {setting}."
    if "timeout" in reason:
        return f"Check the host and port in {setting}, and that a firewall lets this machine through."
    return f"Check {setting}."


def denied(conninfo: Any, error: Error) -> str:
    """Return what to say of a right that the user of an address does not have, with the statement that gives it."""
    said = first_line(error)
    user = user_of(conninfo)
    text = f"{said}, for the user {user} of the database at {where(conninfo)}."
    as_admin = "As the owner of the database or an administrator, run"
    if found := _DENIED.search(said):
        kind, named = found[1], found[2].strip().strip('"')
        if grant := _grant(kind, named):
            return f"{text} {as_admin} {grant.format(object=quoted(named), user=quoted(user))}"
    if _NOT_THE_OWNER.search(said):
        return (
            f"{text} The tables belong to their owner: run this as that user (MIGRATE_DATABASE_URL), "
            f"or as an administrator run GRANT ... TO {quoted(user)}; with the owner's name."
        )
    return f"{text} Give that right to {user}, or use another user in {name_of_address(str(conninfo))}."


def _grant(kind: str, named: str) -> str:
    """Return the statement that gives a missing right, no more than the service's role has; empty if it has none."""
    if kind == "schema":
        # Migrations make tables in the shared schema. In the others only their owner makes any.
        return f"GRANT USAGE{', CREATE' if named == rights.SHARED else ''} ON SCHEMA {{object}} TO {{user}};"
    if kind != "table":
        return _GRANTS.get(kind, "")
    for table, given in rights.TABLES.items():
        if table.partition(".")[2] == named:
            updates = [f"UPDATE ({', '.join(given.updates)})"] if given.updates else []
            parts = [*given.service, *updates]
            return f"GRANT {', '.join(parts)} ON TABLE {table} TO {{user}};" if parts else ""
    if not named.startswith("procrastinate_"):  # of another program
        return ""
    return f"GRANT {', '.join(rights.QUEUE_TABLES.service)} ON ALL TABLES IN SCHEMA queue TO {{user}};"


def quoted(name: str) -> str:
    """Return a name as SQL takes it, in quotes only if it needs them."""
    if re.fullmatch(r"[a-z_][a-z0-9_]*", name) and f" {name} " not in _KEYWORDS:
        return name
    return sql.Identifier(name).as_string()
