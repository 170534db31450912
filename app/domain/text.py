"""
Cleaning of texts from outside, for the place they go to: the record, a log, a terminal, a chat.

Each function is pure. Each cleaning function removes or replaces one kind of thing, for one reason.
Callers combine these functions for each place: an operator, the record and a log get different
forms of a provider's error.
"""

import re
import sys
from base64 import b64encode
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, lru_cache
from html import unescape
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit, urlunsplit

# The text that replaces a secret.
REDACTED = "***"

# The least length of a secret, in characters. A shorter key, such as "none" or "ollama", is set for
# a server that needs no key. Such a text is not secret, and normal answers may contain it.
MIN_SECRET_LENGTH = 8

# The greatest length of an operator's statement, in characters. Such a statement is published
# beside the figure that it explains, and is stored for ever.
MAX_STATEMENT_LENGTH = 1000
STATEMENT_RULE = f"in plain text on one line, of at most {MAX_STATEMENT_LENGTH:,} characters"

# The ports that an address does not need.
_DEFAULT_PORTS = {"http": 80, "https": 443}

# In a chat, "@channel" notifies people, and "<...>" is markup. These look-alikes have no effect.
_LOOKALIKES = str.maketrans({"<": "‹", ">": "›", "@": "＠"})


def public_address(url: str) -> str:
    """
    Return an address without its user information, its query and its fragment.

    These parts may be secrets. Raises ValueError if the text is no address: for example, if a
    bracket is not closed.
    """
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def canonical_host(parts: SplitResult) -> str:
    """
    Return the host and the port of an address, in the form that all their spellings share.

    It has no capitals, and no port that the scheme has anyway. Raises ValueError for an invalid
    port.
    """
    host = parts.hostname or ""
    if ":" in host:
        host = f"[{host}]"
    if parts.port is None or parts.port == _DEFAULT_PORTS.get(parts.scheme):
        return host
    return f"{host}:{parts.port}"


def redact(text: str, secrets: Iterable[str]) -> str:
    """
    Return `text` with `***` in place of every secret.

    Logs and the record are read by people who must not know the secrets. A secret is found as it
    is, and also in these notations:

    - with escapes of URLs, JSON or HTML for all or some of its characters, up to three levels deep
    - in hexadecimal digits
    - in base64, alone or within a longer text

    If secrets overlap, every character that one of them covers is hidden: otherwise the end of the
    longer secret would stay. A text of fewer than eight characters is no secret
    (MIN_SECRET_LENGTH).
    """
    forms = [_forms_of(secret) for secret in secrets if len(secret) >= MIN_SECRET_LENGTH]
    if not forms:
        return text
    parts: list[str] = []
    end = 0
    for begin, until in sorted(_covered_parts(text, forms)):
        if begin >= end:
            parts += (text[end:begin], REDACTED)
        end = max(end, until)
    return "".join([*parts, text[end:]])


# How many levels of escapes are decoded. A URL that is quoted in JSON within JSON has three levels.
_MAX_LEVELS = 3

# One escaped character in the notation of URLs, of JSON (or source code), or of HTML.
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


class _Base64(NamedTuple):
    """
    The part of a base64 text that a secret alone determines.

    `before` and `after` are the numbers of characters (0 or 1) directly before and after this part
    that also contain bits of the secret.
    """

    text: str
    before: int
    after: int


class _Forms(NamedTuple):
    """The notations of a secret, besides escapes: as text, in hexadecimal digits, in base64."""

    texts: tuple[str, ...]
    digits: str
    base64: tuple[_Base64, ...]


@lru_cache(64)
def _forms_of(secret: str) -> _Forms:
    data = secret.encode("utf-8", "surrogatepass")
    pairs = secret.encode("utf-16-be", "surrogatepass")
    units = [int.from_bytes(pairs[at : at + 2]) for at in range(0, len(pairs), 2)]
    texts = [
        secret,
        # HTML forms write a space as a plus.
        secret.replace(" ", "+"),
        # The escapes of a URL are bytes, and each is decoded alone: "%C3%A9" becomes the two
        # characters U+00C3 and U+00A9, not one "é".
        data.decode("latin-1"),
        # The escapes of JSON are UTF-16 code units, and each is decoded alone, too: a character
        # beyond U+FFFF becomes two surrogates.
        "".join(map(chr, units)),
    ]
    # If the secret itself contains escapes, they are decoded together with the escapes of the text
    # around it. So the secret is also searched for in its decoded forms.
    decoded = secret
    for _ in range(_MAX_LEVELS):
        decoded = _ESCAPE.sub(_decode_escape, decoded)
        texts.append(decoded)
    unique = dict.fromkeys(one for one in texts if len(one) >= MIN_SECRET_LENGTH)

    # Base64 encodes groups of three bytes. So the base64 text of a secret depends on where in a
    # group the secret begins: after 0, 1 or 2 other bytes.
    base64 = tuple(_in_base64(data, before) for before in range(3))
    return _Forms(tuple(unique), data.hex(), base64)


def _in_base64(data: bytes, before: int) -> _Base64:
    """
    Return the base64 characters that depend on `data` alone.

    `before` is the number of other bytes before `data` in its first group.
    """
    whole = b64encode(bytes(before) + data).decode()
    # A base64 character has six bits. So the first and the last character may also depend on the
    # bytes around `data`, and then they are not part of `text`.
    first = -(-before * 8 // 6)
    last = (before + len(data)) * 8 // 6
    return _Base64(
        text=whole[first:last],
        before=min(before, 1),
        after=min((before + len(data)) * 8 % 6, 1),
    )


def _covered_parts(text: str, forms: Sequence[_Forms]) -> Iterator[tuple[int, int]]:
    """Yield the parts of `text` that secrets cover, in any notation, as (begin, end)."""
    outer: list[_Decoded] = []
    for _ in range(_MAX_LEVELS + 1):
        for begin, end in _unescaped_parts(text, forms):
            for decoded in reversed(outer):
                begin, end = decoded.original_place(begin, end)
            yield begin, end
        # Search for an escape before decoding: to decode costs a copy of the text.
        if not _ESCAPE.search(text):
            return
        outer.append(_Decoded(text))
        if outer[-1].text == text:
            return
        text = outer[-1].text


class _Decoded:
    """A text with each escape replaced by its character, and the original place of each part."""

    def __init__(self, original: str) -> None:
        self._original = original
        self.text = _ESCAPE.sub(_decode_escape, original)

    @cached_property
    def _shifts(self) -> tuple[list[int], list[int]]:
        """
        Return the places of the characters that were escapes, and the shifts to the original text.

        The places are places in the decoded text. `shifts[n]` is how much longer the first n
        escapes were than their characters.
        """
        places, shifts = [], [0]
        for escape in _ESCAPE.finditer(self._original):
            places.append(escape.start() - shifts[-1])
            shifts.append(shifts[-1] + len(escape[0]) - len(_decode_escape(escape)))
        return places, shifts

    def original_place(self, begin: int, end: int) -> tuple[int, int]:
        """Return the place in the original text of a part of the decoded text."""
        places, shifts = self._shifts
        return begin + shifts[bisect_left(places, begin)], end + shifts[bisect_left(places, end)]


def _unescaped_parts(text: str, forms: Sequence[_Forms]) -> Iterator[tuple[int, int]]:
    """Yield the parts of a text that secrets cover, without decoding its escapes."""
    digits = text.translate(_LOWER)
    folded = _Folded(text)
    for form in forms:
        for one in form.texts:
            if one in text:
                yield from _occurrences(text, one)
        if form.digits in digits:
            yield from _occurrences(digits, form.digits)
        for base64 in form.base64:
            if base64.text in folded.text:
                yield from folded.parts(base64)


class _Folded:
    """
    A text that is changed so that base64 in it always has the same form.

    White space is removed, because base64 is often broken into lines. The characters of
    base64's URL alphabet are replaced by those of its standard alphabet.
    """

    def __init__(self, original: str) -> None:
        self._original = original
        self.text = "".join(original.split()).replace("-", "+").replace("_", "/")

    @cached_property
    def _places(self) -> list[int]:
        """Return, for each character of the changed text, its place in the original text."""
        return [at for at, letter in enumerate(self._original) if not letter.isspace()]

    def parts(self, base64: _Base64) -> Iterator[tuple[int, int]]:
        """Yield the parts of the original text that contain a secret in base64."""
        places = self._places
        for begin, end in _occurrences(self.text, base64.text):
            last = end + base64.after
            while last < len(self.text) and self.text[last] == "=":
                last += 1
            yield places[max(begin - base64.before, 0)], places[min(last, len(places)) - 1] + 1


def _decode_escape(escape: re.Match[str]) -> str:
    """Return the character that an escape stands for, or the escape if it stands for none."""
    kind = str(escape.lastgroup)
    text = escape[kind]
    if kind == "itself":
        return text
    if kind == "space":  # JSON may contain base64 that is broken into lines
        return _SPACES[text]
    if kind == "name":
        letters = unescape(escape[0])
        # unescape() leaves an unknown name unchanged, and some names stand for two characters.
        if len(letters) != 1:
            return escape[0]
        return letters

    base = 16
    if kind == "decimal":
        base = 10
    number = int(text, base)
    if number > sys.maxunicode:
        return escape[0]
    return chr(number)


def _occurrences(text: str, secret: str) -> Iterator[tuple[int, int]]:
    """Yield the parts of `text` that a secret covers; occurrences that overlap are one part."""
    begin = text.find(secret)
    while begin >= 0:
        last = begin
        # Jump to the last occurrence that begins inside the occurrence at `last`. With one step for
        # each occurrence, the search would take seconds if a secret repeated one letter and a
        # provider sent megabytes of this letter.
        while (following := text.rfind(secret, last + 1, last + 2 * len(secret) - 1)) >= 0:
            last = following
        until = last + len(secret)
        yield begin, until
        begin = text.find(secret, until)


def make_storable(text: str) -> str:
    """
    Return `text` in a form that Postgres and JSON can store.

    Each NUL and each lone surrogate becomes a replacement character.
    """
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return whole.replace("\0", "\N{REPLACEMENT CHARACTER}")


def truncate_bytes(text: str, most: int) -> str:
    """Return the beginning of a text that fits into `most` bytes of UTF-8, in whole characters."""
    return text.encode()[:most].decode(errors="ignore")


def shorten_middle(text: str, most: int) -> str:
    """
    Return a text of at most `most` characters.

    In a longer text, a note takes the place of the middle. The number in the note is the length of
    the text minus `most`. A few more characters than this number are omitted, because the note
    needs room, too.
    """
    if len(text) <= most:
        return text
    left_out = f" [... {len(text) - most:,} characters ...] "
    half = (most - len(left_out)) // 2
    return f"{text[:half]}{left_out}{text[-half:]}"


def redact_for_record(text: str, secrets: Iterable[str]) -> str:
    """
    Return a provider's text in a form that may be stored and shown.

    Secrets are redacted, because a provider may echo the key.
    """
    return make_storable(redact(text, secrets))


def end_sentence(text: str) -> str:
    """
    Return `text` without white space at its end, and with a full stop if it has no end mark.

    So another sentence can follow the text. A provider's message may lack the end mark, or may have
    been cut.
    """
    sentence = text.rstrip()
    if sentence.endswith((".", "!", "?")):
        return sentence
    return f"{sentence}."


def one_line(text: object) -> str:
    """Return a text (often an error's) on one line, for a line of a log or of a terminal."""
    return " ".join(str(text).split())


def first_line(text: object) -> str:
    """
    Return the first line of a text.

    In an error of Postgres, the other lines quote the row or the statement.
    """
    return next(iter(str(text).splitlines()), "")


def escape_unprintable(text: object) -> str:
    """
    Return a text for a terminal, with an escape for every character that is not printable.

    Control characters would move the cursor or break the line, and bidirectional ones would reverse
    the text that follows.
    """
    return "".join(map(_escape_letter, str(text)))


def _escape_letter(letter: str) -> str:
    if letter.isprintable():
        return letter
    return ascii(letter)[1:-1]


def replace_unprintable(text: str, instead: str) -> str:
    """
    Return `text` with `instead` for every character that is not printable.

    For readers who would not understand the escapes of `escape_unprintable`.
    """
    letters = []
    for letter in text:
        if not letter.isprintable():
            letter = instead
        letters.append(letter)
    return "".join(letters)


def is_publishable(text: str) -> bool:
    """Return whether an operator's statement can be published: see STATEMENT_RULE."""
    return bool(text.strip()) and len(text) <= MAX_STATEMENT_LENGTH and text.isprintable()


def for_chat(text: str) -> str:
    """Return `text` for a chat: one line, without markup, and without mentions of people."""
    return replace_unprintable(text, " ").translate(_LOOKALIKES)


def pluralize(number: int, thing: str, things: str | None = None) -> str:
    """
    Return a number with the noun that it counts, such as `1 row` or `1,200 rows`.

    `things` is the plural if it is not `thing` with an s, such as `entries`.
    """
    if number == 1:
        return f"{number:,} {thing}"
    return f"{number:,} {things or f'{thing}s'}"


def join_words(words: Sequence[str]) -> str:
    """Return words as an enumeration, as in "AAPL, KO and XOM"."""
    if not words:
        return ""
    *most, last = words
    if not most:
        return last
    return f"{', '.join(most)} and {last}"
