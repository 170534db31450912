"""Real git repositories for tests: bare ones in folders, and served over HTTP with a login."""

import asyncio
import os
import shutil
import subprocess
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvicorn
from local_server import local_server

USER = "x-access-token"
TOKEN = "ghp-tok3n4711x9Yq0vWm"
LOGIN = f"Basic {b64encode(f'{USER}:{TOKEN}'.encode()).decode()}"

AUTHOR = {
    "GIT_AUTHOR_NAME": "A Person",
    "GIT_AUTHOR_EMAIL": "person@example.org",
    "GIT_COMMITTER_NAME": "A Person",
    "GIT_COMMITTER_EMAIL": "person@example.org",
}


def git(folder: Path, *arguments: str, content: str = "") -> str:
    """Run git in a repository, and return its output."""
    done = subprocess.run(
        ["git", *arguments],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **AUTHOR},
        input=content,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def make_bare(folder: Path) -> Path:
    """Make an empty bare repository to which anyone may push over HTTP."""
    folder.mkdir(parents=True)
    git(folder, "init", "--quiet", "--bare")
    git(folder, "config", "http.receivepack", "true")
    return folder


def commit_files(folder: Path, branch: str = "main", **files: str) -> str:
    """
    Commit files to a branch of a bare repository, as another program does. Return the commit.

    An underscore in the name of a file stands for a dot. The tree has these files and no others.
    """
    entries = ""
    for name, text in files.items():
        blob = git(folder, "hash-object", "-w", "--stdin", content=text)
        entries += f"100644 blob {blob}\t{name.replace('_', '.')}\n"
    tree = git(folder, "mktree", content=entries)
    tip = git(folder, "for-each-ref", "--format=%(objectname)", f"refs/heads/{branch}")
    parents = ["-p", tip] if tip else []
    commit = git(folder, "commit-tree", tree, *parents, content="A change by another program")
    git(folder, "update-ref", f"refs/heads/{branch}", commit)
    return commit


def subjects(folder: Path, branch: str = "main") -> list[str]:
    """Return the subjects of the commits of a branch, oldest first."""
    return git(folder, "log", "--reverse", "--format=%s", branch).splitlines()


def read_list(folder: Path, branch: str = "main") -> str:
    """Return the list of heads at the end of a branch."""
    return git(folder, "show", f"{branch}:heads.tsv") + "\n"


class GitServer:
    """Serves repositories below a folder with `git http-backend`, only with the right login."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.logins: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.logins.append(headers.get("authorization", ""))
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        if self.logins[-1] != LOGIN:
            asks = [(b"www-authenticate", b'Basic realm="git"')]
            await send({"type": "http.response.start", "status": 401, "headers": asks})
            await send({"type": "http.response.body", "body": b""})
            return
        status, answer_headers, answer = await self._backend(scope, headers, body)
        await send({"type": "http.response.start", "status": status, "headers": answer_headers})
        await send({"type": "http.response.body", "body": answer})

    async def _backend(
        self, scope: Any, headers: dict[str, str], body: bytes
    ) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        git_program = shutil.which("git")
        assert git_program
        process = await asyncio.create_subprocess_exec(
            git_program,
            "http-backend",
            env={
                "PATH": os.environ["PATH"],
                "GIT_PROJECT_ROOT": str(self.folder),
                "GIT_HTTP_EXPORT_ALL": "1",
                "REQUEST_METHOD": scope["method"],
                "PATH_INFO": scope["path"],
                "QUERY_STRING": scope["query_string"].decode(),
                "CONTENT_TYPE": headers.get("content-type", ""),
                "CONTENT_LENGTH": str(len(body)),
                "HTTP_CONTENT_ENCODING": headers.get("content-encoding", ""),
                "GIT_PROTOCOL": headers.get("git-protocol", ""),
                "REMOTE_USER": USER,
            },
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate(body)
        head, _, answer = output.partition(b"\r\n\r\n")
        fields = [line.partition(b": ")[::2] for line in head.split(b"\r\n")]
        status = dict(fields).get(b"Status", b"200 OK")
        return (
            int(status.split()[0]),
            [(name.lower(), value) for name, value in fields if name != b"Status"],
            answer,
        )


@asynccontextmanager
async def served_repositories(folder: Path) -> AsyncIterator[tuple[GitServer, str]]:
    """Serve the repositories below `folder`. Yield the server, and its host with the port."""
    server = GitServer(folder)
    config = uvicorn.Config(server, log_level="critical", lifespan="off")
    async with local_server(config) as (host, port):
        yield server, f"{host}:{port}"
