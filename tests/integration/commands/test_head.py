"""`alpha-monday head`: prints the head, publishes it, and says what is wrong in one line."""

import asyncio
import json
import re
from pathlib import Path

import psycopg
import pytest
from commands import without_place
from git_repositories import (
    TOKEN,
    USER,
    commit_files,
    git,
    make_bare,
    read_list,
    served_repositories,
    subjects,
)
from job_context import clock as clock
from job_context import harness as harness

from app.store.rehearsed import CREATE_CLOCK_TABLE


@pytest.fixture
def bare(tmp_path) -> Path:
    """An empty bare repository."""
    return make_bare(tmp_path / "srv" / "heads.git")


@pytest.fixture
async def ask(commanded, database):
    """Run the command on the test's database."""

    async def run(*arguments: str, **environment: str):
        return await asyncio.to_thread(
            commanded, "head", *arguments, DATABASE_URL=database, **environment
        )

    return run


async def test_the_head(harness, ask, commanded, database):
    """The output is the head alone, in the form that `verify --head` takes."""
    await harness.make_batch()
    entry = (await harness.journal())[-1]
    result = await ask()
    assert (result.exit_code, result.output) == (0, f"{entry.seq}:{entry.hash}\n")
    verified = await asyncio.to_thread(
        commanded, "verify", "--head", result.output.strip(), DATABASE_URL=database
    )
    assert verified.exit_code == 0
    document = json.loads((await ask("--json")).output)
    assert list(document) == ["seq", "hash", "at", "head", "rehearsed"]
    assert (document["seq"], document["head"]) == (entry.seq, f"{entry.seq}:{entry.hash}")
    assert document["rehearsed"] is False


@pytest.mark.parametrize("arguments", [(), ("--json",), ("--publish",)])
async def test_an_empty_journal(ask, bare, arguments):
    """There is no head: one line says so, and a script gets no output."""
    result = await ask(*arguments, HEAD_REPOSITORY=str(bare))
    assert (result.exit_code, result.output, without_place(result.error)) == (
        1,
        "",
        "alpha-monday: The journal is empty, so it has no head yet.\n",
    )
    assert git(bare, "for-each-ref") == ""


async def test_publishing(harness, ask, bare):
    """The first time the head is pushed, and the second time it is there already."""
    await harness.make_batch()
    head = (await ask()).output.strip()
    result = await ask("--publish", HEAD_REPOSITORY=str(bare), HEAD_BRANCH="heads")
    commit = git(bare, "rev-parse", "heads")
    assert (result.exit_code, result.output) == (
        0,
        f"Published: {head}\nBranch heads, commit {commit}\n",
    )
    again = await ask("--publish", HEAD_REPOSITORY=str(bare), HEAD_BRANCH="heads")
    assert (again.exit_code, again.output) == (
        0,
        f"Already published: {head}\nBranch heads, commit {commit}\n",
    )
    document = json.loads(
        (await ask("--publish", "--json", HEAD_REPOSITORY=str(bare), HEAD_BRANCH="heads")).output
    )
    assert (document["head"], document["commit"]) == (head, commit)
    assert document["published"] is False
    assert subjects(bare, "heads") == [head]
    assert str(bare) not in result.output + result.error


async def test_over_http_the_token_is_never_shown(harness, ask, bare):
    """Neither when it is right nor when it is wrong."""
    await harness.make_batch()
    async with served_repositories(bare.parent) as (_, host):
        wrong = await ask("--publish", HEAD_REPOSITORY=f"http://{USER}:x{TOKEN}@{host}/heads.git")
        right = await ask("--publish", HEAD_REPOSITORY=f"http://{USER}:{TOKEN}@{host}/heads.git")
    assert (wrong.exit_code, without_place(wrong.error)) == (
        1,
        "alpha-monday: HEAD_REPOSITORY does not accept this login: check its token, or the SSH key "
        "of the service.\n",
    )
    assert right.exit_code == 0, right.error
    for text in (wrong.output, wrong.error, right.output, right.error):
        assert TOKEN not in text
        assert host not in text


@pytest.mark.parametrize(
    ("environment", "line"),
    [
        pytest.param(
            {},
            "HEAD_REPOSITORY is not set, so there is no repository for the head. Set it, for "
            "example HEAD_REPOSITORY=https://user:token@git.example.org/owner/heads.git",
            id="no repository",
        ),
        pytest.param(
            {"HEAD_REPOSITORY": "/srv/heads.git", "PATH": "/nonexistent"},
            "HEAD_REPOSITORY needs the program git, which was not found on PATH: install it, or "
            "unset HEAD_REPOSITORY.",
            id="no git",
        ),
        pytest.param(
            {"HEAD_REPOSITORY": f"git://user:{TOKEN}@host/x"},
            "HEAD_REPOSITORY must be the address of a git repository: https://, http://, ssh://, "
            "git@host:path, or an absolute path, for example "
            "HEAD_REPOSITORY=https://user:token@git.example.org/owner/heads.git",
            id="another protocol",
        ),
        pytest.param(
            {"HEAD_REPOSITORY": "/srv/heads.git", "HEAD_BRANCH": "--force"},
            "HEAD_BRANCH must be the name of a branch, of letters, digits and the characters "
            ". _ / -, for example HEAD_BRANCH=main",
            id="a branch like an option",
        ),
    ],
)
async def test_settings_that_do_not_fit(ask, environment, line):
    """One line names the setting, before the database is asked."""
    result = await ask("--publish", **environment)
    assert (result.exit_code, result.error) == (1, f"alpha-monday: {line}\n")


async def test_a_refusal_is_one_line(harness, ask, bare):
    """A repository that does not fit is left as it is, and the exit code is 1."""
    await harness.make_batch()
    tip = commit_files(
        bare, heads_tsv=f"seq\thash\tat\n1\t{'a' * 64}\t2026-10-26T13:00:00.000000Z\n"
    )
    result = await ask("--publish", HEAD_REPOSITORY=str(bare))
    assert result.exit_code == 1
    assert re.fullmatch(
        r"alpha-monday: HEAD_REPOSITORY contradicts the journal: .* Nothing was pushed\.\n",
        without_place(result.error),
    )
    assert git(bare, "rev-parse", "main") == tip


async def test_a_rehearsal(harness, ask, bare, database):
    """It is published at a path, and says that it is rehearsed; it is never sent elsewhere."""
    await harness.make_batch()
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(CREATE_CLOCK_TABLE)
    document = json.loads((await ask("--json", "--rehearsal")).output)
    assert document["rehearsed"] is True
    address = f"http://u:{TOKEN}@127.0.0.1:1/heads.git"
    result = await ask("--publish", "--rehearsal", HEAD_REPOSITORY=address)
    assert (result.exit_code, without_place(result.error)) == (
        1,
        "alpha-monday: This is the record of a rehearsal, and HEAD_REPOSITORY is not on this "
        "machine: a rehearsal is published only in a repository that is named by its path.\n",
    )
    result = await ask("--publish", "--rehearsal", HEAD_REPOSITORY=f"file://{bare}")
    assert result.exit_code == 0, result.error
    assert document["head"].partition(":")[2] in read_list(bare)
