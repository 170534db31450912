"""The address of a git repository: its accepted forms, and which parts are secret."""

import pytest

from app.core.repository_address import RepositoryAddress, parse


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("/srv/the heads.git", RepositoryAddress("file", "/srv/the heads.git")),
        ("file:///srv/heads.git", RepositoryAddress("file", "file:///srv/heads.git")),
        (
            "https://git.example/o/heads.git",
            RepositoryAddress("https", "https://git.example/o/heads.git"),
        ),
        (
            "https://t0ken@git.example/o/heads.git",
            RepositoryAddress("https", "https://git.example/o/heads.git", "t0ken"),
        ),
        (
            "http://us%40er:p%2Fw@[::1]:9/heads.git",
            RepositoryAddress("http", "http://[::1]:9/heads.git", "us@er", "p/w"),
        ),
        ("git@git.example:o/r.git", RepositoryAddress("ssh", "git@git.example:o/r.git")),
        ("ssh://git@git.example:22/r", RepositoryAddress("ssh", "ssh://git@git.example:22/r")),
        ("ssh://git.example/r", RepositoryAddress("ssh", "ssh://git.example/r")),
    ],
)
def test_accepted_forms(text, address):
    """The user information of http is separate, so that no argument of a program has it."""
    assert parse(text) == address
    assert address.is_local == (address.protocol == "file")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "heads.git",
        "./heads.git",
        "ext::sh -c id",
        "ext::sh",
        "a@ext::sh",
        "git://git.example/heads.git",
        "ftp://git.example/heads.git",
        "file://host/heads.git",
        "https://git.example",
        "https://git.example/",
        "https:///heads.git",
        "https://git.example:0/heads.git",
        "https://git.example:port/heads.git",
        "https://git.example/heads.git?x=1",
        "https://git.example/heads.git#x",
        "https://git.example/the heads.git",
        "git.example:heads.git",
        "git@-oProxyCommand=id:heads.git",
        "-u@git.example:heads.git",
        "ssh://-oProxyCommand=id/heads.git",
        "ssh://-u@git.example/heads.git",
        "ssh://git:password@git.example/heads.git",
        "ssh://git.example",
        "--upload-pack=id",
        "/srv/heads.git\nx",
        "/srv/\x00",
    ],
)
def test_refused_forms(text):
    """A form that would run a program, be taken for an option, or lack a login is refused."""
    with pytest.raises(ValueError):
        parse(text)


def test_the_authorization():
    """HTTP's Basic scheme, computed by hand: base64 of `user:pass`."""
    assert parse("https://user:pass@h.example/x").authorization == "Basic dXNlcjpwYXNz"
    assert parse("https://h.example/x").authorization == ""
    assert parse("git@h.example:x").authorization == ""


def test_what_is_secret():
    """The address, the password or the token, and both as they are sent."""
    assert parse("https://user:pass@h.example/x").secret_texts == [
        "https://h.example/x",
        "pass",
        "dXNlcjpwYXNz",
    ]
    assert parse("https://token@h.example/x").secret_texts == [
        "https://h.example/x",
        "dG9rZW46",
        "token",
    ]
    assert parse("/srv/heads.git").secret_texts == ["/srv/heads.git"]
