"""
Repositories that harm the service: endless messages, huge objects, odd names, programs that stay.

An attempt ends with one sentence, within its time, and without a process that goes on.
"""

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest
from git_repositories import TOKEN, USER, git, make_bare, served_repositories

from app.errors import ConfigurationError, ProviderUnavailable
from app.providers import head_repository
from app.providers.head_repository import HeadRepository

LIST = b"seq\thash\tat\n"
MEGABYTE = 1_000_000


@pytest.fixture
def bare(tmp_path) -> Path:
    """An empty bare repository."""
    return make_bare(tmp_path / "srv" / "heads.git")


async def push(address: str) -> str:
    """Push a list on top of the branch, and return the commit."""
    async with HeadRepository(address, "main").opened() as clone:
        branch = await clone.fetch(None)
        commit = await clone.push(LIST, parent=branch.tip, message="7:abc")
    assert commit
    return commit


def write_hook(bare: Path, text: str) -> None:
    """Let the repository run a program before it accepts a push."""
    hook = bare / "hooks" / "pre-receive"
    hook.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    hook.chmod(0o755)


def write_file(bare: Path, name: str, content: str) -> None:
    """Let the branch have one file and nothing else."""
    blob = git(bare, "hash-object", "-w", "--stdin", content=content)
    tree = git(bare, "mktree", "-z", content=f"100644 blob {blob}\t{name}\0")
    git(bare, "update-ref", "refs/heads/main", git(bare, "commit-tree", tree, content="x"))


# Messages. Each part is repeated until the message is two megabytes long.

PARTS = {
    "repository": "repository ",
    "fatal": "fatal: repository ",
    "errors": "error: ",
    "escapes": "fatal: %41\\u0041&#65;",
    "lines": "fatal: Repository \n",
    "not": "Repository not foun ",
    "carriage": "error: repository \r",
}


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_a_long_message_takes_no_time(part):
    """The search for its meaning is short, whatever a server has repeated."""
    repository = HeadRepository(f"https://{USER}:{TOKEN}@git.example/owner/heads.git", "main")
    begin = time.process_time()
    error = repository.error("push", 1, part * (2 * MEGABYTE // len(part)))
    assert time.process_time() - begin < 1
    assert len(str(error)) < 500
    assert "\n" not in str(error)


async def test_a_long_line_of_a_hook(bare):
    """A repository that answers with a megabyte on one line blocks no other work."""
    write_hook(bare, f"yes repository | tr '\\n' ' ' | head -c {MEGABYTE} >&2; exit 1")
    begin = time.process_time()
    with pytest.raises(ConfigurationError, match=r"^HEAD_REPOSITORY does not accept the push: "):
        await push(str(bare))
    assert time.process_time() - begin < 2


def test_the_meaning_is_at_the_end_of_a_long_message():
    """git writes last why it has failed."""
    repository = HeadRepository("https://git.example/owner/heads.git", "main")
    error = repository.error("push", 1, "remote: a line\n" * 50_000 + "fatal: early EOF\n")
    assert str(error) == "HEAD_REPOSITORY cannot be reached."


@pytest.mark.parametrize(
    "proxy",
    [
        f"http://user:{TOKEN}#x@127.0.0.1:1",
        f"http://user:{TOKEN}@[127.0.0.1",
        f"http://user:{TOKEN}@127.0.0.1:99999",
        f"http://user:{TOKEN}/x@127.0.0.1:1",
        f"socks9://user:{TOKEN}@127.0.0.1:1",
        f"http://user:{TOKEN}@a host.invalid:1",
    ],
)
async def test_the_password_of_a_proxy(monkeypatch, proxy):
    """git's messages about a proxy can quote a part of its address, so they are not quoted."""
    monkeypatch.setenv("https_proxy", proxy)
    with pytest.raises(ProviderUnavailable) as refused:
        await push("https://git.example.invalid/heads.git")
    assert str(refused.value).startswith("HEAD_REPOSITORY cannot be reached")
    assert TOKEN not in str(refused.value)


# Sizes


@pytest.mark.parametrize("protocol", ["file", "http"])
@pytest.mark.parametrize("name", ["other.bin", "heads.tsv"])
async def test_a_file_that_is_too_large(bare, monkeypatch, name, protocol):
    """Nobody can fill the disk: what is fetched has a limit."""
    monkeypatch.setattr(head_repository, "_MAX_FILE_BYTES", 2 * MEGABYTE)
    write_file(bare, name, os.urandom(2 * MEGABYTE).hex())
    sentence = r"bytes: use a repository for this purpose only\.$"
    async with served_repositories(bare.parent) as (_, host):
        address = str(bare)
        if protocol == "http":
            address = f"http://{USER}:{TOKEN}@{host}/heads.git"
        with pytest.raises(ConfigurationError, match=sentence):
            await push(address)


@pytest.mark.parametrize("megabytes", [17, 60])
async def test_a_list_that_grows_when_it_is_decompressed(bare, megabytes):
    """git is ended at once, although its output is still waiting to be read."""
    write_file(bare, "heads.tsv", "0" * megabytes * MEGABYTE)
    begin = time.monotonic()
    with pytest.raises(ProviderUnavailable, match=r"^HEAD_REPOSITORY sent more than 16,000,000 "):
        await push(str(bare))
    assert time.monotonic() - begin < 20


async def test_a_machine_that_allows_no_limit(bare, monkeypatch):
    """A container may refuse to limit a process; publishing goes on."""

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(head_repository.resource, "prlimit", refuse)
    assert await push(str(bare)) == git(bare, "rev-parse", "main")


# Names


@pytest.mark.parametrize(
    "name",
    [
        "heads.tsv\tx",
        "heads.tsv\t",
        "x\theads.tsv",
        "Heads.tsv",
        "-heads.tsv",
        "x heads.tsv",
        "heads.tsv\nx",
        "héads.tsv",
    ],
)
async def test_a_file_with_an_odd_name_stays(bare, name):
    """Only the list itself is replaced."""
    write_file(bare, name, "a text of someone else")
    await push(str(bare))
    names = git(bare, "ls-tree", "-z", "--name-only", "main").split("\0")
    assert sorted(one for one in names if one) == sorted(["heads.tsv", name])
    assert git(bare, "show", f"main:{name}") == "a text of someone else"


# Programs that stay


def running(bare: Path) -> list[int]:
    """Return the processes whose environment or arguments name the repository."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            texts = (folder / "environ").read_bytes() + (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if str(bare).encode() in texts and int(folder.name) != os.getpid():
            found.append(int(folder.name))
    return found


HOOKS = {
    "sleeps": "sleep 300",
    "ignores signals": "trap '' TERM INT HUP PIPE; while :; do sleep 1; done",
    "leaves a program behind": "sleep 300 & exit 0",
    "writes without end": "while :; do echo repository; sleep 0.01; done >&2",
    "works in a pipe": "sleep 300 | sleep 300",
}


@pytest.mark.parametrize("hook", HOOKS.values(), ids=HOOKS)
@pytest.mark.sampled(1)
async def test_a_hook_that_does_not_end(bare, monkeypatch, hook):
    """At the end of the time, git and all of its programs are ended."""
    monkeypatch.setattr(head_repository, "TIMEOUT_SECONDS", 1.5)
    write_hook(bare, hook)
    begin = time.monotonic()
    with pytest.raises(ProviderUnavailable, match=r"^HEAD_REPOSITORY did not answer within 2 s\.$"):
        await push(str(bare))
    assert time.monotonic() - begin < 8
    assert running(bare) == []


async def test_git_is_killed(bare, monkeypatch):
    """The programs that git has started are ended, although git itself has ended before."""
    monkeypatch.setattr(head_repository, "TIMEOUT_SECONDS", 3.0)
    write_hook(bare, "touch started; sleep 300")
    attempt = asyncio.create_task(push(str(bare)))
    while not (bare / "started").exists():
        await asyncio.sleep(0.01)
    (program,) = [one for one in running(bare) if b"--no-verify" in cmdline(one)]
    os.kill(program, signal.SIGKILL)
    with pytest.raises(ProviderUnavailable):
        await attempt
    assert running(bare) == []


def cmdline(process: int) -> bytes:
    """Return the arguments of a process."""
    return Path(f"/proc/{process}/cmdline").read_bytes()
