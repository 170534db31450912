"""
The address of a git repository: which forms are accepted, and which part of them is secret.

    https://TOKEN@host/path     http and https, with or without user information
    ssh://git@host/path         SSH
    git@host:path               SSH in the form of scp; the user's name is needed
    /path, file:///path         a repository on this machine

All other forms are refused. `ext::...` would run a program, and git's own protocol (git://) has
neither a login nor encryption.
"""

import re
from base64 import b64encode
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from msgspec import Struct

_HTTP = ("http", "https")

# The user and the host begin with a letter or a digit, so that no program takes them for an option.
# The second colon of `ext::program` is excluded.
_SCP = re.compile(r"[A-Za-z0-9][\w.+-]*@(?P<host>[A-Za-z0-9][A-Za-z0-9.-]*):(?!:)\S+", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9][\w.+-]*", re.ASCII)

# In a URL no character needs to be white space. In a path, a space is allowed.
_WHITE_SPACE = re.compile(r"\s")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class RepositoryAddress(Struct, frozen=True):
    """
    The parts of an address.

    `protocol` is git's name of the protocol: `file`, `http`, `https` or `ssh`. `url` is the address
    without the user information of http and https. `user` and `password` are this user information,
    decoded; they are empty if there is none. They are empty for SSH, too, because the user's name
    is no secret there: git needs it in `url`.
    """

    protocol: str
    url: str
    user: str = ""
    password: str = ""

    @property
    def is_local(self) -> bool:
        """Return whether the repository is on this machine."""
        return self.protocol == "file"

    @property
    def authorization(self) -> str:
        """Return the value of the HTTP header Authorization, empty without user information."""
        if not self.user and not self.password:
            return ""
        return f"Basic {b64encode(f'{self.user}:{self.password}'.encode()).decode()}"

    @property
    def secret_texts(self) -> list[str]:
        """Return the texts that no line of the log and no error text may contain."""
        texts = [self.url, self.password, self.authorization.removeprefix("Basic ")]
        if not self.password:
            # A token may stand in the place of the user's name.
            texts.append(self.user)
        return [text for text in texts if text]


def parse(text: str) -> RepositoryAddress:
    """Return the parts of an address. Raises ValueError if it has none of the accepted forms."""
    if _CONTROL.search(text):
        raise ValueError
    if text.startswith("/"):
        return RepositoryAddress("file", text)
    if _WHITE_SPACE.search(text):
        raise ValueError
    if _SCP.fullmatch(text) and "://" not in text:
        return RepositoryAddress("ssh", text)
    # `urlsplit` itself raises a ValueError for an invalid port or host.
    parts = urlsplit(text)
    if parts.query or parts.fragment or parts.port == 0:
        raise ValueError
    if parts.scheme in _HTTP:
        return _parse_http(parts)
    if parts.scheme == "ssh":
        return _parse_ssh(parts, text)
    if parts.scheme == "file" and not parts.netloc and parts.path.startswith("/"):
        return RepositoryAddress("file", text)
    raise ValueError


def _parse_http(parts: SplitResult) -> RepositoryAddress:
    if not parts.hostname or not parts.path.strip("/"):
        raise ValueError
    host = parts.netloc.rpartition("@")[2]
    return RepositoryAddress(
        protocol=parts.scheme,
        url=urlunsplit((parts.scheme, host, parts.path, "", "")),
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
    )


def _parse_ssh(parts: SplitResult, text: str) -> RepositoryAddress:
    # A password in an ssh address would have no effect: ssh never reads one from there.
    if parts.password is not None or not parts.path.strip("/"):
        raise ValueError
    names = [name for name in (parts.username, parts.hostname) if name is not None]
    if not parts.hostname or not all(map(_NAME.fullmatch, names)):
        raise ValueError
    return RepositoryAddress("ssh", text)
