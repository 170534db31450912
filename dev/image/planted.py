"""
Files that must not get into the image: planted in a copy of the checkout, and searched for.

The search reads every layer of the saved image, including files that a later layer deletes or
replaces, the wheels in it, and the image's description: its history, environment and labels.
"""

import io
import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import context

# In each folder that goes in, and at the top: keys, settings, files of editors, copies of a
# database, local modules; in capitals, hidden, nested, with a suffix of the program's files, and
# with unusual characters.
FILES = (
    ".env",
    ".env.local",
    ".git-credentials",
    ".netrc",
    "app/#keys.py",
    "app/*",
    "app/.env",
    "app/.ssh/id_ed25519",
    "app/My key.py",
    "app/SECRETS.ENV",
    "app/__pycache__/keys.cpython-313.pyc",
    "app/commands/secrets.env",
    "app/core/.secrets.toml",
    "app/core/settings.local.toml",
    "app/core/settings.toml.bak",
    "app/core/settings.toml~",
    "app/database/migrations/9999_dump.up.sql",
    "app/database/service-account.json",
    "app/line\nend.py",
    "app/main.py.orig",
    "app/main.py:Zone.Identifier",
    "app/notes.py",
    "app/schlüssel.py",
    "app/secrets.env",
    "app/secrets.py",
    "app/web/charts/fonts/Keys.ttf",
    "app/web/pages/files/CREDENTIALS.JSON",
    "app/web/pages/templates/draft.html",
    "backup.jsonl",
    "dev/image/id_rsa",
    "dev/image/requirements.lock.key",
    "graphql/.pgpass",
    "graphql/api/graphiql/.npmrc",
    "graphql/api/graphiql/keys.js",
    "graphql/api/graphiql/node_modules/react/id_rsa",
    "graphql/api/id_rsa",
    "graphql/api/local_settings.py",
    "graphql/former_operations/Notes.0a1b2c3d.graphql",
    "graphql/key.pem",
    "graphql/operations/Secret.graphql",
    "graphql/secrets.toml",
    "jobs/.idea/workspace.xml",
    "jobs/ID_RSA",
    "jobs/credentials",
    "jobs/old/prod.toml",
    "jobs/prod.toml",
    "jobs/prod.toml.swp",
    "migrations/.pg_service.conf",
    "migrations/9999_dump.up.sql",
    "migrations/dump.sql",
    "migrations/server.key",
)

# Symbolic links, and their targets: a folder and a file outside of the checkout.
LINKS = {
    "app/outside": "folder",
    "graphql/operations/Outside.graphql": "file",
    "jobs/outside.py": "file",
}

# The files that a build needs besides the program.
NEEDED = (".dockerignore", "Containerfile", "Makefile", "dev/image/context.py")


def copy_checkout(project: Path, to: Path, more: tuple[str, ...] = NEEDED) -> None:
    """Copy the files from which an image is built."""
    for name in (*context.read_list(project), *more):
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(project / name, to / name)


def plant(checkout: Path, outside: Path, marker: str) -> None:
    """
    Write every planted file, with the marker in a line of Python. The links lead into `outside`.
    """
    content = f'KEY = "{marker}"\n'
    for name in FILES:
        path = checkout / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    (outside / "folder").mkdir(parents=True)
    for path in (outside / "file", outside / "folder" / "keys.py"):
        path.write_text(content)
    for name, target in LINKS.items():
        (checkout / name).symlink_to(outside / target)


def find_marker(saved: Path, marker: str) -> list[str]:
    """
    Return the places of the marker in a saved image.

    A place is a part of its description, or a file in one of its layers.
    """
    places = []
    with tarfile.open(saved) as image:
        for part in image.getmembers():
            content = image.extractfile(part) if part.isfile() else None
            if content is None:
                continue
            try:
                with tarfile.open(fileobj=content) as layer:
                    places += _search_layer(layer, marker)
            except tarfile.ReadError:
                # The part is no layer, but a description.
                content.seek(0)
                places += _search_file(content.read(), part.name, marker)
    return places


def _search_layer(layer: tarfile.TarFile, marker: str) -> Iterator[str]:
    """Search the files of a layer, their names, and the targets of links."""
    for member in layer:
        if marker in member.linkname or marker in member.name:
            yield f"/{member.name}"
        content = layer.extractfile(member) if member.isreg() else None
        if content is not None:
            yield from _search_file(content.read(), f"/{member.name}", marker)


def _search_file(content: bytes, path: str, marker: str) -> Iterator[str]:
    """Search a file, and the files in it if it is a wheel or another zip."""
    if marker.encode() in content:
        yield path
    if content.startswith(b"PK\3\4") and zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for name in archive.namelist():
                yield from _search_file(archive.read(name), f"{path}/{name}", marker)
