"""
Error messages about a database: its address, what is wrong, and what to do next.

No message contains a password.
"""

import re
from typing import Any

from psycopg import Error, OperationalError, pq, sql

from app.core.settings import find_url_variable
from app.database import rights, sessions
from app.domain.text import first_line
from app.errors import ConfigurationError

_NOT_RUNNING = re.compile("No such file or directory|Connection refused")

# Postgres's messages about a missing right.
_DENIED = re.compile(r"permission denied for (\w+) (.+)")
_NOT_THE_OWNER = re.compile(r"must be owner of (?:\w+ )?(.+)")

# The rights that the service needs on the queue's objects, by Postgres's word for the kind of an
# object. Procrastinate's names depend on its version, so each right is granted on all objects.
_QUEUE_GRANTS = {
    "table": f"{', '.join(rights.QUEUE_TABLES.service)} ON ALL TABLES",
    "sequence": "USAGE ON ALL SEQUENCES",
    "function": "EXECUTE ON ALL FUNCTIONS",
}
# The names of all objects of the queue begin with this; Postgres's messages have no schema.
_QUEUE_PREFIX = "procrastinate_"

_AS_ADMIN = "As an administrator of that Postgres, run"

# Advice, by patterns for libpq's message. The advice of the first pattern that matches is used. The
# placeholders in the texts are `setting` (the name of the setting with the address), `user`, and
# `name` (the name of the database).
_ADVICE = (
    (
        ("password authentication failed", "no password supplied"),
        "Check the user and the password in {setting}.",
    ),
    (
        ("does not have CONNECT privilege", "permission denied for database"),
        f"{_AS_ADMIN} GRANT CONNECT ON DATABASE {{name}} TO {{user}};",
    ),
    (
        ('role ".*" does not exist',),
        f"Check the user in {{setting}}. {_AS_ADMIN} CREATE ROLE {{user}} LOGIN PASSWORD '...'; if "
        "it is new.",
    ),
    (
        ('database ".*" does not exist',),
        f"Check the name in {{setting}}. {_AS_ADMIN} CREATE DATABASE {{name}} OWNER {{user}}; if "
        "it is new.",
    ),
    (
        ("too many", "remaining connection slots"),
        "Postgres allows no more connections: end some, or raise its max_connections.",
    ),
    (
        ("no pg_hba.conf entry",),
        "Postgres refuses this host, user or encryption: allow it in pg_hba.conf, or check "
        "{setting}.",
    ),
    (
        ("invalid.*value:|value:.*invalid",),
        "Check the parameters in {setting}, after its question mark.",
    ),
    (
        ("SSL", "certificate"),
        "Check sslmode and the certificate in {setting}.",
    ),
    (
        ("starting up", "shutting down"),
        "Wait until Postgres has started, and run this again.",
    ),
    (
        ("resolve host", "Name or service not known"),
        "Check the host in {setting}.",
    ),
    (
        ("timeout",),
        "Check the host and port in {setting}, and that a firewall lets this machine through.",
    ),
)

# The keywords that Postgres accepts as a name only in quotes (pg_get_keywords(), version 18).
_KEYWORDS = (
    " all analyse analyze and any array as asc asymmetric authorization binary both case"
    " cast check collate collation column concurrently constraint create cross"
    " current_catalog current_date current_role current_schema current_time"
    " current_timestamp current_user default deferrable desc distinct do else end except"
    " false fetch for foreign freeze from full grant group having ilike in initially inner"
    " intersect into is isnull join lateral leading left like limit localtime localtimestamp"
    " natural not notnull null offset on only or order outer overlaps placing primary"
    " references returning right select session_user similar some symmetric system_user"
    " table tablesample then to trailing true union unique user using variadic verbose when"
    " where window with "
)


def display_address(conninfo: Any) -> str:
    """Return a database's host, port and name, with libpq's defaults and without its password."""
    parts = _complete(conninfo)
    host = parts.get("host") or parts.get("hostaddr") or "local socket"
    return f"{host}:{parts.get('port', '')}/{parts.get('dbname') or parts.get('user', '')}"


def availability_key(conninfo: Any, *, separate_user: bool) -> str:
    """
    Return the key of an address in `app.core.availability`.

    With `separate_user` the availability of the database is tracked for the address's user alone.
    """
    if separate_user:
        return f"{display_address(conninfo)} as {get_user(conninfo)}"
    return display_address(conninfo)


def get_user(conninfo: Any) -> str:
    """Return the user of an address, or libpq's default if the address has none."""
    return str(_complete(conninfo).get("user", ""))


def _complete(conninfo: Any) -> dict[str, Any]:
    """
    Return all parameters of libpq for an address.

    `sessions.resolve_address` adds the parameters from libpq's variables and service file. libpq's
    compiled defaults are added here.
    """
    resolved = sessions.resolve_address(conninfo)
    # `resolve_address` has removed libpq's variables from the environment, so `get_defaults`
    # returns the compiled defaults.
    defaults = {
        option.keyword.decode(): option.val.decode(errors="replace")
        for option in pq.Conninfo.get_defaults()
        if option.val is not None
    }
    return {**defaults, **{name: value for name, value in resolved.items() if value}}


def unreachable_error(conninfo: Any, error: OperationalError) -> ConfigurationError:
    """Return the error to raise for a database that cannot be reached, with advice."""
    if isinstance(error, ConfigurationError):
        # UnsuitableDatabase: its text already says what to do.
        return error
    # libpq's own advice begins with a tab; ours replaces it.
    lines = [line.strip() for line in str(error).splitlines() if not line.startswith("\t")]
    reason = " ".join(lines).removeprefix("connection failed: ").rstrip(".")
    text = (
        f"The database at {display_address(conninfo)} cannot be reached: {reason}. "
        f"{_advice_on(conninfo, reason)}"
    )
    variables = sessions.libpq_variables(conninfo)
    if variables:
        text = f"{text} These environment variables are used: {' and '.join(variables)}."
    return ConfigurationError(text)


def _advice_on(conninfo: Any, reason: str) -> str:
    """Return advice about an address whose connection failed with libpq's message `reason`."""
    parts = _complete(conninfo)
    setting = find_url_variable(str(conninfo))
    if sessions.is_embedded(parts) and _NOT_RUNNING.search(reason):
        return (
            "The embedded Postgres of that address does not run. To start it, run `alpha-monday db "
            "up` in its folder."
        )
    user = get_user(conninfo)
    name = str(parts.get("dbname") or user)
    for patterns, advice in _ADVICE:
        if any(re.search(pattern, reason) for pattern in patterns):
            return advice.format(
                setting=setting, user=quote_identifier(user), name=quote_identifier(name)
            )
    return f"Check {setting}."


def permission_denied_message(conninfo: Any, error: Error) -> str:
    """Return a message about a right that an address's user lacks, with the statement to run."""
    line = first_line(error)
    user = get_user(conninfo)
    text = f"{line}, for the user {user} of the database at {display_address(conninfo)}."
    denied = _DENIED.search(line)
    if denied:
        kind = denied[1]
        name = _unquoted(denied[2].strip())
        grant = _grant_statement(kind, name)
        if grant:
            statement = grant.format(object=quote_identifier(name), user=quote_identifier(user))
            return f"{text} As the owner of the database or an administrator, run {statement}"
    if _NOT_THE_OWNER.search(line):
        return (
            f"{text} The tables belong to their owner: run this as that user "
            "(MIGRATE_DATABASE_URL), or as an administrator run "
            f"GRANT ... TO {quote_identifier(user)}; with the owner's name in place of the dots."
        )
    return (
        f"{text} Give that right to {user}, or use another user in "
        f"{find_url_variable(str(conninfo))}."
    )


def _unquoted(name: str) -> str:
    """Return a name of a message without the quotes around it, which only some messages have."""
    if len(name) > 2 and name[0] == name[-1] == '"':
        return name[1:-1]
    return name


def _grant_statement(kind: str, name: str) -> str:
    """
    Return the statement that grants a missing right on an object.

    The statement has placeholders for the object and the user. On a database and on the shared
    schema, it grants the rights that migrations need. On other objects, it grants the rights that
    the service's role has on the object; if the role has none, the statement is empty.
    """
    if kind == "schema":
        # Migrations create tables in the shared schema. In the other schemas, only the owner of the
        # schema creates tables.
        right = "USAGE"
        if name == rights.SHARED_SCHEMA:
            right = "USAGE, CREATE"
        return f"GRANT {right} ON SCHEMA {{object}} TO {{user}};"
    if kind == "database":
        return "GRANT CREATE ON DATABASE {object} TO {user};"
    if kind == "function" and name in rights.FUNCTIONS:
        return f"GRANT EXECUTE ON FUNCTION {rights.SHARED_SCHEMA}.{{object}} TO {{user}};"
    if kind == "table":
        for table, service_rights in rights.TABLES.items():
            if table.partition(".")[2] == name:
                return _grant_on_table(table, service_rights)
    # Any other object belongs to Postgres or to another program.
    if kind in _QUEUE_GRANTS and name.startswith(_QUEUE_PREFIX):
        return f"GRANT {_QUEUE_GRANTS[kind]} IN SCHEMA {rights.QUEUE_SCHEMA} TO {{user}};"
    return ""


def _grant_on_table(table: str, service_rights: rights.TableRights) -> str:
    granted = list(service_rights.service)
    if service_rights.updates:
        granted.append(f"UPDATE ({', '.join(service_rights.updates)})")
    if not granted:
        return ""
    return f"GRANT {', '.join(granted)} ON TABLE {table} TO {{user}};"


def quote_identifier(name: str) -> str:
    """Return a name for use in SQL, in quotes only if it needs them."""
    if re.fullmatch(r"[a-z_][a-z0-9_]*", name) and f" {name} " not in _KEYWORDS:
        return name
    return sql.Identifier(name).as_string()
