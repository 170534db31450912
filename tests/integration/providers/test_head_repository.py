"""Pushing the list of heads with the real git: what arrives, what is refused, what stays secret."""

import asyncio
import os
import subprocess
from pathlib import Path

import pytest
from git_repositories import (
    LOGIN,
    TOKEN,
    USER,
    commit_files,
    git,
    make_bare,
    read_list,
    served_repositories,
    subjects,
)
from provider_server import HANGING, ProviderServer, Reply, refusing

from app.errors import ConfigurationError, ProviderUnavailable, Refused
from app.providers import head_repository
from app.providers.head_repository import HeadRepository

LIST = b"seq\thash\tat\n"


async def push(repository: HeadRepository, content: bytes = LIST, message: str = "7:abc") -> str:
    """Push a list on top of the branch, and return the commit."""
    async with repository.opened() as clone:
        branch = await clone.fetch(None)
        commit = await clone.push(content, parent=branch.tip, message=message)
    assert commit
    return commit


@pytest.fixture
def bare(tmp_path) -> Path:
    """An empty bare repository."""
    return make_bare(tmp_path / "srv" / "heads.git")


async def test_the_first_push_makes_the_branch(bare):
    """The commit has the list and nothing else, and names the service as its author."""
    commit = await push(HeadRepository(str(bare), "main"))
    assert git(bare, "rev-parse", "main") == commit
    assert git(bare, "ls-tree", "--name-only", "main") == "heads.tsv"
    assert read_list(bare) == LIST.decode()
    assert git(bare, "log", "--format=%an <%ae> %cn <%ce> %B", "main") == (
        "Alpha Monday <service@alpha-monday.invalid> "
        "Alpha Monday <service@alpha-monday.invalid> 7:abc"
    )
    assert git(bare, "fsck", "--strict") == ""


@pytest.mark.parametrize("form", ["{}", "file://{}"], ids=["path", "file"])
async def test_a_later_push_keeps_everything_else(bare, form):
    """Other files of the branch and other branches stay, and the commit follows the tip."""
    commit_files(bare, README_md="Heads of a record.\n", license_txt="MIT\n")
    other = commit_files(bare, branch="other", README_md="Something else.\n")
    repository = HeadRepository(form.format(bare), "main")
    await push(repository, message="1:a")
    await push(repository, LIST + b"1\n", message="2:b")
    assert subjects(bare) == ["A change by another program", "1:a", "2:b"]
    names = git(bare, "ls-tree", "--name-only", "main").splitlines()
    assert sorted(names) == ["README.md", "heads.tsv", "license.txt"]
    assert read_list(bare) == (LIST + b"1\n").decode()
    assert git(bare, "rev-parse", "other") == other


async def test_what_is_fetched(bare):
    """The tip, the list in it, and whether a commit belongs to the history of the branch."""
    repository = HeadRepository(str(bare), "main")
    async with repository.opened() as clone:
        assert await clone.fetch(None) == head_repository.RemoteBranch("", b"", has_known=True)
        missing = await clone.fetch("1" * 40)
        assert not missing.has_known
    first = await push(repository, message="1:a")
    second = await push(repository, LIST + b"1\n", message="2:b")
    elsewhere = commit_files(bare, branch="other", README_md="Something else.\n")
    for known, has_known in ((second, True), (first, True), (elsewhere, False), ("1" * 40, False)):
        async with repository.opened() as clone:
            assert await clone.fetch(known) == head_repository.RemoteBranch(
                second, LIST + b"1\n", has_known=has_known
            )


async def test_the_history_behind_a_known_tip_is_not_fetched(bare, monkeypatch):
    """A push needs only the last commit, so a long history costs nothing."""
    repository = HeadRepository(f"file://{bare}", "main")
    await push(repository, message="1:a")
    second = await push(repository, LIST + b"1\n", message="2:b")
    async with repository.opened() as clone:
        await clone.fetch(second)
        assert await clone.run("rev-list", "--count", second) == b"1\n"
        assert await clone.push(LIST + b"1\n2\n", parent=second, message="3:c")
    assert subjects(bare) == ["1:a", "2:b", "3:c"]


async def test_a_branch_with_a_similar_name(bare):
    """Only the branch with exactly this name counts."""
    commit_files(bare, branch="refs/heads/main", README_md="x")
    commit_files(bare, branch="x/main", README_md="x")
    async with HeadRepository(str(bare), "main").opened() as clone:
        assert (await clone.fetch(None)).tip == ""


async def test_the_loser_of_a_race_pushes_nothing(bare):
    """The second of two pushes onto the same commit is not forced, also for a new branch."""
    repository = HeadRepository(str(bare), "main")
    for parent_exists in (False, True):
        async with repository.opened() as slow, repository.opened() as fast:
            seen = [await slow.fetch(None), await fast.fetch(None)]
            assert bool(seen[0].tip) == parent_exists
            assert await fast.push(LIST + b"fast\n", parent=seen[1].tip, message="2:fast")
            assert await slow.push(LIST + b"slow\n", parent=seen[0].tip, message="2:slow") is None
    assert subjects(bare) == ["2:fast", "2:fast"]


async def test_over_http_with_a_login(bare):
    """The login is sent with the first request, and git's arguments do not have it."""
    async with served_repositories(bare.parent) as (server, host):
        repository = HeadRepository(f"http://{USER}:{TOKEN}@{host}/heads.git", "main")
        await push(repository, message="1:a")
        await push(repository, LIST + b"1\n", message="2:b")
    assert subjects(bare) == ["1:a", "2:b"]
    assert set(server.logins) == {LOGIN}


async def test_the_login_is_in_no_argument_and_in_no_file(bare, tmp_path, monkeypatch):
    """Every user of the machine can read the arguments of a process."""
    program = tmp_path / "bin" / "git"
    program.parent.mkdir()
    real = subprocess.run(
        ["which", "git"], capture_output=True, text=True, check=True
    ).stdout.strip()
    program.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/arguments\nexec {real} "$@"\n', encoding="utf-8"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    async with served_repositories(bare.parent) as (_, host):
        repository = HeadRepository(f"http://{USER}:{TOKEN}@{host}/heads.git", "main")
        async with repository.opened() as clone:
            branch = await clone.fetch(None)
            assert await clone.push(LIST, parent=branch.tip, message="1:a")
            await clone.fetch(None)
            written = [path for path in Path(clone._folder).rglob("*") if path.is_file()]
            assert len(written) > 5
            for path in written:
                assert TOKEN.encode() not in path.read_bytes()
                assert LOGIN.encode() not in path.read_bytes()
    arguments = (tmp_path / "arguments").read_text()
    assert "push" in arguments
    assert TOKEN not in arguments
    assert LOGIN not in arguments


@pytest.mark.parametrize(
    ("address", "branch", "error", "sentence"),
    [
        pytest.param(
            f"http://{USER}:wrong-{TOKEN}@HOST/heads.git",
            "main",
            ConfigurationError,
            "does not accept this login: check its token, or the SSH key of the service.",
            id="wrong token",
        ),
        pytest.param(
            "http://HOST/heads.git",
            "main",
            ConfigurationError,
            "does not accept this login: check its token, or the SSH key of the service.",
            id="no token",
        ),
        pytest.param(
            f"http://{USER}:{TOKEN}@HOST/none.git",
            "main",
            ConfigurationError,
            "has no git repository: check the address, and that its login may read it.",
            id="no repository over http",
        ),
        pytest.param(
            "FOLDER/none.git",
            "main",
            ConfigurationError,
            "has no git repository: check the address, and that its login may read it.",
            id="no repository at a path",
        ),
        pytest.param(
            "FOLDER/heads.git",
            "main/heads",
            ConfigurationError,
            "has a branch whose name does not allow a branch named HEAD_BRANCH: choose another "
            "name.",
            id="a branch below another one",
        ),
    ],
)
async def test_what_the_operator_must_change(bare, address, branch, error, sentence):
    """One sentence says what to change, and has no part of the address."""
    commit_files(bare, README_md="x")
    async with served_repositories(bare.parent) as (_, host):
        text = address.replace("HOST", host).replace("FOLDER", str(bare.parent))
        with pytest.raises(error) as refused:
            await push(HeadRepository(text, branch))
    assert str(refused.value) == f"HEAD_REPOSITORY {sentence}"


@pytest.mark.parametrize(
    ("reply", "error", "sentence"),
    [
        pytest.param(
            Reply(status=302, headers={"location": "http://127.0.0.1:1/elsewhere"}),
            ConfigurationError,
            "answered with a redirect, which is not followed: set it to the new address.",
            id="redirect",
        ),
        pytest.param(
            Reply(b"<p>A page.</p>", headers={"content-type": "text/html"}),
            ConfigurationError,
            "has no git repository: check the address, and that its login may read it.",
            id="a page",
        ),
        pytest.param(Reply(status=503), ProviderUnavailable, "cannot be reached.", id="503"),
        pytest.param(Reply(status=0), ProviderUnavailable, "cannot be reached.", id="cut"),
        pytest.param(
            Reply(status=403),
            ConfigurationError,
            "does not accept this login: check its token, or the SSH key of the service.",
            id="403",
        ),
    ],
)
async def test_a_server_that_does_not_serve_git(provider, reply, error, sentence):
    """Each response has its meaning, and a redirect is not followed with the login."""
    provider.play(reply)
    repository = HeadRepository(f"{provider.url.replace('//', f'//u:{TOKEN}@')}/heads.git", "main")
    with pytest.raises(error) as refused:
        await push(repository)
    assert str(refused.value) == f"HEAD_REPOSITORY {sentence}"


@pytest.fixture
async def provider():
    """A server that answers with what a test sets."""
    async with ProviderServer() as server:
        yield server


async def test_an_unknown_message_is_quoted_without_the_address(provider):
    """git's own words help, but every part of the address is replaced."""
    form = {"content-type": "application/x-git-upload-pack-advertisement"}
    provider.play(Reply(f"xxxx {TOKEN}".encode(), headers=form))
    host = provider.url.removeprefix("http://")
    with pytest.raises(ProviderUnavailable) as refused:
        await push(HeadRepository(f"http://u:{TOKEN}@{host}/owner/heads.git", "main"))
    assert str(refused.value).startswith("HEAD_REPOSITORY: `git ls-remote` failed: fatal: ")
    for secret in (TOKEN, host, "owner/heads"):
        assert secret not in str(refused.value)


async def test_a_refused_connection():
    """The server is down."""
    with refusing() as url, pytest.raises(ProviderUnavailable) as refused:
        await push(HeadRepository(f"{url}/heads.git", "main"))
    assert str(refused.value) == "HEAD_REPOSITORY cannot be reached."


async def test_a_hook_that_refuses(bare):
    """The repository's own rules decide; the branch stays as it was."""
    hook = bare / "hooks" / "pre-receive"
    hook.write_text("#!/bin/sh\necho no >&2\nexit 1\n", encoding="utf-8")
    hook.chmod(0o755)
    with pytest.raises(ConfigurationError, match=r"^HEAD_REPOSITORY does not accept the push: "):
        await push(HeadRepository(str(bare), "main"))
    assert git(bare, "for-each-ref") == ""


@pytest.mark.parametrize("mode", ["040000 tree", "120000 blob"], ids=["folder", "link"])
async def test_a_list_that_is_no_file(bare, mode):
    """It is refused, and never followed."""
    if mode.endswith("tree"):
        target = git(bare, "mktree")
    else:
        target = git(bare, "hash-object", "-w", "--stdin", content="/etc/passwd")
    tree = git(bare, "mktree", content=f"{mode} {target}\theads.tsv\n")
    git(bare, "update-ref", "refs/heads/main", git(bare, "commit-tree", tree, content="x"))
    with pytest.raises(Refused) as refused:
        await push(HeadRepository(str(bare), "main"))
    assert str(refused.value) == (
        "HEAD_REPOSITORY has a heads.tsv that is no file. Nothing was pushed."
    )


async def test_no_configuration_of_the_user_has_an_effect(bare, tmp_path, monkeypatch):
    """Neither ~/.gitconfig nor GIT_ variables change what is pushed, or where."""
    home = tmp_path / "home"
    home.mkdir()
    (home / ".gitconfig").write_text(
        '[user]\nname = Mallory\n[url "/nonexistent/"]\ninsteadOf = /\n', encoding="utf-8"
    )
    for name, value in {
        "HOME": str(home),
        "GIT_AUTHOR_NAME": "Mallory",
        "GIT_DIR": "/nonexistent",
        "GIT_OBJECT_DIRECTORY": "/nonexistent",
        "GIT_TRACE": "1",
    }.items():
        monkeypatch.setenv(name, value)
    await push(HeadRepository(str(bare), "main"))
    assert git(bare, "log", "--format=%an", "main") == "Alpha Monday"


async def test_git_gets_no_other_variable(bare, monkeypatch):
    """A hook of the repository, which git runs, cannot read the service's keys."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-s3cr3t")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    hook = bare / "hooks" / "post-receive"
    hook.write_text(f"#!/bin/sh\nenv > {bare}/environment\n", encoding="utf-8")
    hook.chmod(0o755)
    await push(HeadRepository(str(bare), "main"))
    names = {line.partition("=")[0] for line in (bare / "environment").read_text().splitlines()}
    assert "OPENAI_API_KEY" not in names
    assert {"GIT_TERMINAL_PROMPT", "HTTPS_PROXY", "GIT_ALLOW_PROTOCOL"} <= names


async def test_only_the_protocol_of_the_address_is_allowed(bare):
    """A configuration of the remote repository cannot lead to another protocol."""
    repository = HeadRepository(str(bare), "main")
    async with repository.opened() as clone:
        with pytest.raises(ProviderUnavailable, match="transport 'ext' not allowed"):
            await clone.run("ls-remote", "ext::sh -c true")


async def test_without_git(bare, monkeypatch, tmp_path):
    """One clear line says what is missing."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigurationError) as refused:
        await push(HeadRepository(str(bare), "main"))
    assert str(refused.value) == (
        "HEAD_REPOSITORY needs the program git, which was not found on PATH: install it, or unset "
        "HEAD_REPOSITORY."
    )


async def test_without_a_place_for_temporary_files(bare, monkeypatch, tmp_path):
    """The image runs on a read-only file system, so the sentence says what to do."""
    monkeypatch.setattr(head_repository.tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(ConfigurationError, match="mount one at /tmp, or set TMPDIR"):
        await push(HeadRepository(str(bare), "main"))


def test_without_an_address():
    """Nothing is configured, so nothing is published."""
    repository = HeadRepository("", "main")
    assert not repository.is_configured
    with pytest.raises(ConfigurationError, match=r"^HEAD_REPOSITORY is not set, "):
        repository.require()


def processes_with(text: str) -> list[str]:
    """Return the command lines of the processes whose environment has a text."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if text.encode() in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_text())
        except OSError:
            continue
    return found


@pytest.mark.parametrize("ending", ["time-out", "cancelled"])
async def test_a_server_that_hangs(provider, monkeypatch, ending):
    """git and its helper programs are ended with the attempt."""
    monkeypatch.setattr(head_repository, "TIMEOUT_SECONDS", 1.0)
    provider.play(HANGING)
    attempt = asyncio.create_task(push(HeadRepository(f"{provider.url}/heads.git", "main")))
    await provider.request_arrived.wait()
    port = provider.url.rpartition(":")[2]
    assert processes_with(f":{port}/heads.git")
    if ending == "cancelled":
        attempt.cancel()
    with pytest.raises((ProviderUnavailable, asyncio.CancelledError)) as ended:
        await attempt
    if ending == "time-out":
        assert str(ended.value) == "HEAD_REPOSITORY did not answer within 1 s."
    assert processes_with(f":{port}/heads.git") == []


async def test_a_list_that_is_too_long(bare, monkeypatch):
    """The output of git is not read without a limit."""
    repository = HeadRepository(str(bare), "main")
    await push(repository, LIST + b"1" * 200_000)
    monkeypatch.setattr(head_repository, "_MAX_OUTPUT_BYTES", 100_000)
    with pytest.raises(ProviderUnavailable, match=r"^HEAD_REPOSITORY sent more than 100,000 bytes"):
        await push(repository)


def test_the_fingerprint_does_not_depend_on_the_token():
    """A new token leads to the same repository; another branch is another place."""
    one = HeadRepository("https://u:token-one@git.example/heads.git", "main")
    two = HeadRepository("https://u:token-two@git.example/heads.git", "main")
    assert one.fingerprint == two.fingerprint
    assert one.fingerprint != HeadRepository("https://git.example/heads.git", "b").fingerprint
    assert len(one.fingerprint) == 64
