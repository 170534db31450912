"""
Texts that come from outside, cleaned for the place they go to: the record, a log, a terminal, a chat.

Each function removes one kind of thing, for one reason. They are pure: what an operator sees of a provider's error,
what Postgres stores of it and what a log keeps of it are each a composition of these.
"""

import re
import sys
from base64 import b64encode
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, lru_cache
from html import unescape
from typing import NamedTuple

HIDDEN = "***"

# What is set for a server that wants no key, such as "none" or "ollama", is no secret, and stands in honest answers.
SHORTEST_SECRET = 8

# In characters: what an operator may state beside a figure, which is published with it and stays for ever.
LONGEST_STATEMENT = 1000
STATED = f"in plain text on one line, of at most {LONGEST_STATEMENT:,} characters"

# A mention in a chat ("@channel") calls people, and "<...>" is markup there.
_LOOKALIKES = str.maketrans({"<": "‹", ">": "›", "@": "＠"})


def redact(text: str, secrets: Iterable[str]) -> str:
    """
    Return `text` with `***` in place of every secret, because logs and the record are read by others.

    A secret is also found as others write it: with the escapes of URLs, JSON and HTML, all or some of its characters,
    up to three times one around another; in hexadecimal digits; and in base64, alone or within a longer text.

    Where secrets overlap, all that any of them covers is hidden: otherwise the end of the longer one would stay. A
    secret of fewer than eight characters is none (SHORTEST_SECRET).
    """
    forms = [_forms(secret) for secret in secrets if len(secret) >= SHORTEST_SECRET]
    if not forms:
        return text
    parts: list[str] = []
    end = 0
    for begin, until in sorted(_covered(text, forms)):
        if begin >= end:
            parts += (text[end:begin], HIDDEN)
        end = max(end, until)
    return "".join([*parts, text[end:]])


# How many escapes may stand one around another, as where a URL is quoted in JSON that is quoted in JSON.
_DEEPEST = 3

# One character, as a URL, JSON (or a program's source) and HTML write it.
_ESCAPE = re.compile(
    r"%(?P<url>[0-9A-Fa-f]{2})"
    r"|\\(?:u|x)\{(?P<braces>[0-9A-Fa-f]{1,6})\}"
    r"|\\u(?P<json>[0-9A-Fa-f]{4})|\\U(?P<long>[0-9A-Fa-f]{8})|\\x(?P<byte>[0-9A-Fa-f]{2})"
    r"|\\(?P<itself>[^0-9A-Za-z\s])"
    r"|\\(?P<space>[nrt])"
    r"|&#[xX](?P<html>[0-9A-Fa-f]{1,6});?|&#(?P<decimal>[0-9]{1,7});?|&(?P<name>[A-Za-z]{2,8});"
)
_SPACES = {"n": "\n", "r": "\r", "t": "\t"}
_LOWER = str.maketrans("ABCDEF", "abcdef")


class _Forms(NamedTuple):
    """How a secret may be written, besides escapes: as text, in hexadecimal digits, and in base64."""

    texts: tuple[str, ...]
    digits: str
    base64: tuple[tuple[str, int, int], ...]  # with how many characters before and after hold a part of it


@lru_cache(64)
def _forms(secret: str) -> _Forms:
    data = secret.encode("utf-8", "surrogatepass")
    pairs = secret.encode("utf-16-be", "surrogatepass")
    texts = [
        secret,
        secret.replace(" ", "+"),  # as in forms
        data.decode("latin-1"),  # as a URL's escapes give it, which are of bytes
        "".join(chr(int.from_bytes(pairs[at : at + 2])) for at in range(0, len(pairs), 2)),  # as those of JSON do
    ]
    decoded = secret
    for _ in range(_DEEPEST):  # a secret that has escapes of its own: they are decoded with the rest
        decoded = _ESCAPE.sub(_letter, decoded)
        texts.append(decoded)
    kept = dict.fromkeys(one for one in texts if len(one) >= SHORTEST_SECRET)
    return _Forms(tuple(kept), data.hex(), tuple(_in_base64(data, before) for before in range(3)))


def _in_base64(data: bytes, before: int) -> tuple[str, int, int]:
    """
    Return what of base64 depends on `data` alone, if so many bytes are before it; and the characters at its ends.

    A character has six bits, so the first and the last one may also depend on the bytes around.
    """
    whole = b64encode(bytes(before) + data).decode()
    first = -(-before * 8 // 6)
    last = (before + len(data)) * 8 // 6
    return whole[first:last], min(before, 1), min((before + len(data)) * 8 % 6, 1)


def _covered(text: str, forms: Sequence[_Forms]) -> Iterator[tuple[int, int]]:
    """Give the parts of `text` that secrets cover, however they are written."""
    outer: list[_Decoded] = []
    for _ in range(_DEEPEST + 1):
        for begin, end in _found(text, forms):
            for decoded in reversed(outer):
                begin, end = decoded.before(begin, end)
            yield begin, end
        if not _ESCAPE.search(text):
            return
        outer.append(_Decoded(text))
        if outer[-1].text == text:
            return
        text = outer[-1].text


class _Decoded:
    """A text in which each escape is replaced by its character, and where these were before."""

    def __init__(self, given: str) -> None:
        self._given = given
        self.text = _ESCAPE.sub(_letter, given)

    @cached_property
    def _escapes(self) -> tuple[list[int], list[int]]:
        """Where the characters of escapes are in the decoded text, and how much longer all up to each were."""
        places, shifts = [], [0]
        for escape in _ESCAPE.finditer(self._given):
            places.append(escape.start() - shifts[-1])
            shifts.append(shifts[-1] + len(escape[0]) - len(_letter(escape)))
        return places, shifts

    def before(self, begin: int, end: int) -> tuple[int, int]:
        """Return where a part of the decoded text was before."""
        places, shifts = self._escapes
        return begin + shifts[bisect_left(places, begin)], end + shifts[bisect_left(places, end)]


def _found(text: str, forms: Sequence[_Forms]) -> Iterator[tuple[int, int]]:
    """Give the parts of a text that secrets cover, without any of its escapes."""
    digits = text.translate(_LOWER)
    folded = "".join(text.split()).replace("-", "+").replace("_", "/")  # base64 is often broken into lines
    kept: list[int] = []  # where the characters of `folded` are in the text
    for form in forms:
        for one in form.texts:
            if one in text:
                yield from _places(text, one)
        if form.digits in digits:
            yield from _places(digits, form.digits)
        for one, before, after in form.base64:
            if one not in folded:
                continue
            for begin, end in _places(folded, one):
                kept = kept or [at for at, letter in enumerate(text) if not letter.isspace()]
                last = end + after
                while last < len(folded) and folded[last] == "=":
                    last += 1
                yield kept[max(begin - before, 0)], kept[min(last, len(kept)) - 1] + 1


def _letter(escape: re.Match[str]) -> str:
    """Return the character that an escape stands for, or the escape if that is none."""
    kind = str(escape.lastgroup)
    text = escape[kind]
    if kind == "itself":
        return text
    if kind == "space":  # where JSON holds base64 that is broken into lines
        return _SPACES[text]
    if kind == "name":
        letters = unescape(escape[0])
        return letters if len(letters) == 1 else escape[0]
    number = int(text, 10 if kind == "decimal" else 16)
    return chr(number) if number <= sys.maxunicode else escape[0]


def _places(text: str, secret: str) -> Iterator[tuple[int, int]]:
    """Give the parts of `text` that a secret covers; where it overlaps itself, one part for the whole run."""
    begin = text.find(secret)
    while begin >= 0:
        last = begin
        # The last hit that begins inside of the one before: a step for each hit would take seconds where a provider
        # answers with megabytes of a secret's only letter.
        while (following := text.rfind(secret, last + 1, last + 2 * len(secret) - 1)) >= 0:
            last = following
        until = last + len(secret)
        yield begin, until
        begin = text.find(secret, until)


def storable(text: str) -> str:
    """Return `text` as Postgres and JSON can carry it: a replacement character for each NUL and lone surrogate."""
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return whole.replace("\0", "\N{REPLACEMENT CHARACTER}")


def beginning(text: str, most: int) -> str:
    """Return as much of a text as fits into `most` bytes of UTF-8, cut between two characters."""
    return text.encode()[:most].decode(errors="ignore")


def shortened(text: str, most: int) -> str:
    """Return a text of at most `most` characters: its two ends, and between them how much is left out."""
    if len(text) <= most:
        return text
    left_out = f" [... {len(text) - most:,} characters ...] "
    half = (most - len(left_out)) // 2
    return f"{text[:half]}{left_out}{text[-half:]}"


def quotable(text: str, secrets: Iterable[str]) -> str:
    """Return what a provider said as we may repeat it: without secrets, for it may echo the key, and storable."""
    return storable(redact(text, secrets))


def as_sentence(text: str) -> str:
    """Return a text to which another sentence is added, so that it ends in one mark: notices are cut, or have none."""
    said = text.rstrip()
    return said if said.endswith((".", "!", "?")) else f"{said}."


def one_line(text: object) -> str:
    """Return a text (often an error's) on one line, so that it is one line of a log or of a terminal."""
    return " ".join(str(text).split())


def first_line(text: object) -> str:
    """Return a text's first line: what follows it in an error of Postgres quotes the row or the statement."""
    return next(iter(str(text).splitlines()), "")


def printable(text: object) -> str:
    """
    Return a text for a terminal, with an escape for every character that is not printable.

    Control characters would move the cursor or break the line, and bidirectional ones would turn what follows.
    """
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in str(text))


def without_controls(text: str, instead: str) -> str:
    """Return `text` with `instead` for every character that is not printable, for a reader who knows no escapes."""
    return "".join(letter if letter.isprintable() else instead for letter in text)


def is_statement(text: str) -> bool:
    """Return whether a text of an operator can be published: not empty, of at most 1,000 printable characters."""
    return bool(text.strip()) and len(text) <= LONGEST_STATEMENT and text.isprintable()


def for_chat(text: str) -> str:
    """Return `text` for a chat: on one line, no markup, and a mention of no one, whatever it quotes."""
    return without_controls(text, " ").translate(_LOOKALIKES)


def counted(number: int, thing: str) -> str:
    """Return a number and what it counts, such as `1 row` or `1,200 rows`."""
    ending = "" if number == 1 else "s"
    return f"{number:,} {thing}{ending}"
