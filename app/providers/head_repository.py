"""
The git repository to which the journal's heads are pushed, through the program `git`.

All work is done in a temporary bare repository, which has no working tree: no file of the remote
repository is written to the disk under its own name, and no hook, filter or attribute of it has an
effect. git runs

- with an environment of its own: no configuration of the user or of the system, no prompts, and
  none of the service's other variables. docs/operate/heads.md lists the variables that it gets
- with the address and its user information in environment variables: every user of the machine can
  read the arguments of a process. The user information is sent as a header, because git would pass
  it to its helper program as an argument
- with only the protocol of the address, and without following redirects
- for a limited time, and with limited output

No error text contains the address: git's own messages are translated into sentences, or quoted with
all parts of the address replaced.
"""

import asyncio
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from hashlib import sha256
from typing import IO

from msgspec import Struct

from app.core import repository_address
from app.core.repository_address import RepositoryAddress
from app.domain.published_heads import FILE_NAME
from app.domain.text import one_line, redact
from app.errors import AlphaMondayError, ConfigurationError, ProviderUnavailable, Refused

# How long one attempt to publish may take, in seconds, with all its commands.
TIMEOUT_SECONDS = 120.0

# A command of git may write at most this many bytes. The list of heads grows by less than a
# megabyte a year.
_MAX_OUTPUT_BYTES = 16_000_000
_MAX_QUOTED_LENGTH = 300
# The part of git's messages that is searched and quoted, in characters: their end. A server can
# send megabytes of text, and the search for a pattern must not take long.
_MAX_SEARCHED_LENGTH = 10_000

# git does not keep an object of more than this size in memory while it is fetched.
_MAX_IN_MEMORY = "16m"

# A file that git writes may have at most this many bytes. What is fetched is written to one file.
_MAX_FILE_BYTES = 500_000_000

# How long the end of git is waited for after it was killed, in seconds. A program that it has
# started and that has left its session can keep git's output open.
_END_SECONDS = 2.0

# The tip of the remote branch has this name in the temporary repository.
_TIP = "refs/published/tip"

# Variables of the service's environment that git gets, too: where programs are, the proxy, the
# certificates, and how SSH logs in.
INHERITED = (
    "PATH",
    "TMPDIR",
    "http_proxy",
    "https_proxy",
    "HTTPS_PROXY",
    "all_proxy",
    "ALL_PROXY",
    "no_proxy",
    "NO_PROXY",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "GIT_SSL_CAINFO",
    "SSH_AUTH_SOCK",
    "GIT_SSH_COMMAND",
)

_SERVICE_NAME = "Alpha Monday"
# The domain `.invalid` never exists, so no message to this address reaches anyone.
_SERVICE_EMAIL = "service@alpha-monday.invalid"

# What git writes if a push was refused because another process has pushed at the same time.
_RACE = re.compile(
    r"fetch first|non-fast-forward|cannot lock ref|failed to update ref|failed to lock|stale info|"
    r"reference already exists|incorrect old value|remote ref updated since"
)

# A branch cannot be named `main/heads` if there is a branch `main`, nor the other way around.
_NAME_CONFLICT = re.compile(r"cannot create|refname conflict")

# The meaning of git's messages. The first pattern that matches decides: the error's class, and the
# sentence after the name of the setting.
_MEANINGS: tuple[tuple[str, type[AlphaMondayError], str], ...] = (
    (
        r"Authentication failed|could not read (Username|Password)|returned error: 40[13]\b|"
        r"Permission denied|invalid credentials",
        ConfigurationError,
        "does not accept this login: check its token, or the SSH key of the service.",
    ),
    (
        r"Host key verification failed",
        ConfigurationError,
        "has a host key that SSH does not know: add it to the known_hosts of the service's user.",
    ),
    (
        r"cannot run ssh|unable to fork",
        ConfigurationError,
        "needs the program ssh, which was not found on PATH: install it, or use an https address.",
    ),
    (
        r"dubious ownership",
        ConfigurationError,
        "belongs to another user of this machine than the service, so git does not use it.",
    ),
    (
        r"returned error: 30\d|unable to update url base from redirection",
        ConfigurationError,
        "answered with a redirect, which is not followed: set it to the new address.",
    ),
    (
        r"returned error: 404|[Rr]epository .*not found|does not exist|"
        r"does not appear to be a git repository|no such file or directory|no DAV locking",
        ConfigurationError,
        "has no git repository: check the address, and that its login may read it.",
    ),
    (
        rf"died of signal {int(signal.SIGXFSZ)}\b|File too large",
        ConfigurationError,
        f"has more than {_MAX_FILE_BYTES:,} bytes: use a repository for this purpose only.",
    ),
    (
        r"server certificate|server verification failed|certificate verif|SSL certificate",
        ConfigurationError,
        "has a certificate that git does not accept.",
    ),
    # Such a message can quote a part of the proxy's address, with its password.
    (
        r"\b[Pp]roxy\b",
        ProviderUnavailable,
        "cannot be reached through the proxy: check HTTPS_PROXY, http_proxy and ALL_PROXY.",
    ),
    (
        r"[Cc]ould not resolve host|[Ff]ailed to connect|[Cc]ould ?n[o']t connect|refused|"
        r"timed out|Connection (closed|reset)|Empty reply|returned error: (408|429|5\d\d)|"
        r"early EOF|unexpected disconnect|hung up|RPC failed|Network is unreachable",
        ProviderUnavailable,
        "cannot be reached.",
    ),
    (
        _NAME_CONFLICT.pattern,
        ConfigurationError,
        "has a branch whose name does not allow a branch named HEAD_BRANCH: choose another name.",
    ),
    (
        r"hook declined|protected branch|\[remote rejected\]|remote: error",
        ConfigurationError,
        "does not accept the push: check that its login may write to HEAD_BRANCH, and that no rule "
        "or hook of the repository refuses it.",
    ),
)


class RemoteBranch(Struct, frozen=True):
    """
    The branch in the repository.

    `tip` is its newest commit, and `content` is the list of heads in it. Both are empty if the
    branch does not exist. `has_known` says whether the commit that the caller knows belongs to the
    history of the branch.
    """

    tip: str
    content: bytes
    has_known: bool


class HeadRepository:
    """
    The repository that the settings name. If `address` is empty, `is_configured` is False.
    """

    def __init__(self, address: str, branch: str) -> None:
        self.is_configured = bool(address)
        self.branch = branch
        self._text = address
        self._address = RepositoryAddress("", "")
        if address:
            self._address = repository_address.parse(address)

    @property
    def is_local(self) -> bool:
        """Return whether the repository is on this machine."""
        return self._address.is_local

    @property
    def fingerprint(self) -> str:
        """
        Return a text that differs for every repository and branch, and does not reveal them.

        A new token in the address does not change it.
        """
        return sha256(f"{self._address.url}\n{self.branch}".encode()).hexdigest()

    def require(self) -> str:
        """
        Return the path of the program git.

        Raises ConfigurationError if there is no repository, or if git is missing.
        """
        if not self.is_configured:
            raise ConfigurationError(
                "HEAD_REPOSITORY is not set, so there is no repository for the head. Set it, for "
                "example HEAD_REPOSITORY=https://user:token@git.example.org/owner/heads.git"
            )
        program = shutil.which("git")
        if program is None:
            raise ConfigurationError(
                "HEAD_REPOSITORY needs the program git, which was not found on PATH: install it, "
                "or unset HEAD_REPOSITORY."
            )
        return program

    @asynccontextmanager
    async def opened(self) -> AsyncIterator["Clone"]:
        """
        Provide a temporary clone, which is deleted at the end of the context.

        Raises ConfigurationError if git is missing, and ProviderUnavailable if the work in the
        context takes longer than TIMEOUT_SECONDS.
        """
        program = self.require()
        with _temporary_folder() as folder:
            clone = Clone(self, program=program, folder=folder)
            try:
                async with asyncio.timeout(TIMEOUT_SECONDS):
                    await clone.run("init", "--quiet", "--bare", "--template=")
                    yield clone
            except TimeoutError:
                raise ProviderUnavailable(
                    f"HEAD_REPOSITORY did not answer within {TIMEOUT_SECONDS:.0f} s."
                ) from None

    def environment(self, folder: str) -> Mapping[str, str]:
        """Return the environment variables of git, for a repository in `folder`."""
        inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
        return {
            # SSH must not ask either.
            "GIT_SSH_COMMAND": "ssh -o BatchMode=yes",
            **inherited,
            "LC_ALL": "C",
            "HOME": folder,
            "GIT_DIR": folder,
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ALLOW_PROTOCOL": self._address.protocol,
            "GIT_AUTHOR_NAME": _SERVICE_NAME,
            "GIT_AUTHOR_EMAIL": _SERVICE_EMAIL,
            "GIT_COMMITTER_NAME": _SERVICE_NAME,
            "GIT_COMMITTER_EMAIL": _SERVICE_EMAIL,
            **_configuration(self._address),
        }

    def error(self, command: str, code: int | None, output: str) -> AlphaMondayError:
        """Return the error for a command of git that has failed with this output."""
        output = output[-_MAX_SEARCHED_LENGTH:]
        for pattern, kind, sentence in _MEANINGS:
            if re.search(pattern, output):
                return kind(f"HEAD_REPOSITORY {sentence}")
        lines = [line for line in output.splitlines() if line.startswith(("fatal: ", "error: "))]
        quoted = redact(one_line(lines[0]) if lines else "", self._hidden_texts())
        if not quoted:
            return ProviderUnavailable(
                f"HEAD_REPOSITORY: `git {command}` ended with exit code {code}."
            )
        return ProviderUnavailable(
            f"HEAD_REPOSITORY: `git {command}` failed: {quoted[:_MAX_QUOTED_LENGTH]}"
        )

    def _hidden_texts(self) -> list[str]:
        # A message may name the host or the path alone.
        place = self._address.url.partition("://")[2] or self._address.url
        return [
            self._text,
            *self._address.secret_texts,
            place,
            *re.split(r"[/:]", place, maxsplit=1),
        ]


class Clone:
    """A temporary bare repository, into which the branch of a HeadRepository is fetched."""

    def __init__(self, repository: HeadRepository, *, program: str, folder: str) -> None:
        self._repository = repository
        self._program = program
        self._folder = folder
        self._branch_ref = f"refs/heads/{repository.branch}"

    async def fetch(self, known: str | None) -> RemoteBranch:
        """
        Fetch the branch, and return it.

        `known` is the commit that this service has pushed last, or None. If the branch still ends
        with it, its history is not fetched: it was checked when this commit was pushed.
        """
        listing = await self.run("ls-remote", "--quiet", "origin", self._branch_ref)
        tip = _find_tip(listing.decode("ascii", "replace"), self._branch_ref)
        if not tip:
            return RemoteBranch(tip="", content=b"", has_known=known is None)
        depth = ["--depth=1"] if tip == known else []
        refspec = f"+{self._branch_ref}:{_TIP}"
        await self.run("fetch", "--quiet", "--no-tags", *depth, "origin", refspec)
        # Another process may have pushed since the listing.
        tip = (await self.run("rev-parse", "--verify", f"{_TIP}^{{commit}}")).decode().strip()
        has_known = known is None or await self._is_ancestor(known, tip)
        content = await self._read_list(tip)
        return RemoteBranch(tip=tip, content=content, has_known=has_known)

    async def _is_ancestor(self, commit: str, tip: str) -> bool:
        arguments = ("merge-base", "--is-ancestor", commit, tip)
        code, _, _ = await self._execute(*arguments)
        # A commit that the repository does not have gives another exit code than 0, too.
        return code == 0

    async def _read_list(self, tip: str) -> bytes:
        """Return the content of the list in a commit, empty if the commit has no list."""
        listing = await self.run("ls-tree", "-z", tip, "--", FILE_NAME)
        if not listing:
            return b""
        mode, kind, object_id = listing.partition(b"\t")[0].decode("ascii").split()
        if kind != "blob" or not mode.startswith("100"):
            raise Refused(f"HEAD_REPOSITORY has a {FILE_NAME} that is no file. Nothing was pushed.")
        return await self.run("cat-file", "blob", object_id)

    async def push(self, content: bytes, *, parent: str, message: str) -> str | None:
        """
        Commit the list `content` after the commit `parent`, and push it. Return the new commit.

        `parent` is empty for a new branch. Other files of the branch stay as they are. Nothing is
        ever forced: return None if another process has pushed since the branch was fetched.
        """
        blob = (await self.run("hash-object", "-w", "--stdin", content=content)).decode().strip()
        entries = [f"100644 blob {blob}\t{FILE_NAME}".encode()]
        parents = []
        if parent:
            listing = await self.run("ls-tree", "-z", parent)
            others = [entry for entry in listing.split(b"\0") if entry]
            entries += [entry for entry in others if _name_of(entry) != FILE_NAME.encode()]
            parents = ["-p", parent]
        tree = await self.run("mktree", "-z", content=b"".join(entry + b"\0" for entry in entries))
        commit = await self.run(
            "commit-tree", tree.decode().strip(), *parents, content=message.encode()
        )
        commit_id = commit.decode().strip()
        arguments = ("push", "--quiet", "--no-verify", "origin", f"{commit_id}:{self._branch_ref}")
        code, _, errors = await self._execute(*arguments)
        if code == 0:
            return commit_id
        if _RACE.search(errors) and not _NAME_CONFLICT.search(errors):
            return None
        raise self._repository.error("push", code, errors)

    async def run(self, *arguments: str, content: bytes = b"") -> bytes:
        """Run a command of git with `content` as its standard input, and return its output."""
        code, output, errors = await self._execute(*arguments, content=content)
        if code != 0:
            raise self._repository.error(arguments[0], code, errors)
        return output

    async def _execute(
        self, *arguments: str, content: bytes = b""
    ) -> tuple[int | None, bytes, str]:
        """Run a command of git. Return its exit code, its output and its messages."""
        # The input comes from a file and not from a pipe: uvloop raises a RuntimeError if a program
        # closes its end of the pipe early.
        with tempfile.TemporaryFile(dir=self._folder) as stdin:
            stdin.write(content)
            stdin.seek(0)
            return await self._communicate(*arguments, stdin=stdin)

    async def _communicate(
        self, *arguments: str, stdin: IO[bytes]
    ) -> tuple[int | None, bytes, str]:
        process = await asyncio.create_subprocess_exec(
            self._program,
            *arguments,
            cwd=self._folder,
            env=self._repository.environment(self._folder),
            stdin=stdin,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            # A session of its own has no terminal on which SSH could ask, and all of git's helper
            # programs can be killed together.
            start_new_session=True,
        )
        assert process.stdout
        assert process.stderr
        _limit_files(process)
        streams = (process.stdout, process.stderr)
        reads = [asyncio.ensure_future(_read(stream)) for stream in streams]
        try:
            output, errors = await asyncio.gather(*reads)
            code = await process.wait()
        # After an error, a time-out or the end of the service.
        except BaseException:
            for read in reads:
                read.cancel()
            await asyncio.gather(*reads, return_exceptions=True)
            await _end(process, streams)
            raise
        return code, output, errors.decode("utf-8", "replace")


def _name_of(entry: bytes) -> bytes:
    """Return the name of a file in a line of `git ls-tree -z`. The name may contain tabs, too."""
    return entry.partition(b"\t")[2]


def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    """Return a new folder that only this user can read."""
    try:
        return tempfile.TemporaryDirectory(prefix="alpha-monday-head-", ignore_cleanup_errors=True)
    except OSError as error:
        raise ConfigurationError(
            "HEAD_REPOSITORY needs a folder for temporary files, and there is none that can be "
            f"written ({error.strerror}): mount one at /tmp, or set TMPDIR."
        ) from None


def _configuration(address: RepositoryAddress) -> dict[str, str]:
    """Return git's configuration as environment variables."""
    values = {
        "remote.origin.url": address.url,
        "http.followRedirects": "false",
        "transfer.fsckObjects": "true",
        "core.hooksPath": os.devnull,
        "core.bigFileThreshold": _MAX_IN_MEMORY,
        "gc.auto": "0",
        "maintenance.auto": "false",
    }
    if address.authorization:
        values["http.extraHeader"] = f"Authorization: {address.authorization}"
    variables = {"GIT_CONFIG_COUNT": str(len(values))}
    for number, (name, value) in enumerate(values.items()):
        variables[f"GIT_CONFIG_KEY_{number}"] = name
        variables[f"GIT_CONFIG_VALUE_{number}"] = value
    return variables


def _find_tip(listing: str, branch_ref: str) -> str:
    """Return the commit of a branch in the output of `git ls-remote`, empty if it has none."""
    for line in listing.splitlines():
        commit, _, name = line.partition("\t")
        # The pattern of ls-remote also matches the end of longer names.
        if name == branch_ref:
            return commit
    return ""


def _limit_files(process: Process) -> None:
    """Limit the size of the files that git and its helper programs write. Only Linux can."""
    if sys.platform != "linux":
        return
    limits = (_MAX_FILE_BYTES, _MAX_FILE_BYTES)
    # git may have ended, the machine's own limit may be lower, or a container may refuse it.
    with suppress(OSError, ValueError):
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, limits)


async def _end(process: Process, streams: Iterable[asyncio.StreamReader]) -> None:
    """End git and its helper programs, which may still run although git has ended."""
    # Some systems answer with a PermissionError if all of them have ended.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    # asyncio waits for the end of the streams, too, and does not read on while a buffer is full.
    rests = [_discard(stream) for stream in streams]
    with suppress(TimeoutError):
        async with asyncio.timeout(_END_SECONDS):
            await asyncio.gather(process.wait(), *rests)


async def _discard(stream: asyncio.StreamReader) -> None:
    while await stream.read(1 << 16):
        pass


async def _read(stream: asyncio.StreamReader) -> bytes:
    """Return all that a command writes. Raises ProviderUnavailable if it is too long."""
    parts: list[bytes] = []
    size = 0
    while part := await stream.read(1 << 16):
        size += len(part)
        if size > _MAX_OUTPUT_BYTES:
            raise ProviderUnavailable(
                f"HEAD_REPOSITORY sent more than {_MAX_OUTPUT_BYTES:,} bytes."
            )
        parts.append(part)
    return b"".join(parts)
