"""
Texts that come from outside, cleaned for the place they go to: the record, a log, a terminal, a chat.

Each function removes one kind of thing, for one reason. They are pure: what an operator sees of a provider's error,
what Postgres stores of it and what a log keeps of it are each a composition of these.
"""

from collections.abc import Iterable, Iterator

HIDDEN = "***"

# What is set for a server that wants no key, such as "none" or "ollama", is no secret, and stands in honest answers.
SHORTEST_SECRET = 8

# A mention in a chat ("@channel") calls people, and "<...>" is markup there.
_LOOKALIKES = str.maketrans({"<": "‹", ">": "›", "@": "＠"})


def redact(text: str, secrets: Iterable[str]) -> str:
    """
    Return `text` with `***` in place of every secret, because logs and the record are read by others.

    Where secrets overlap, all that any of them covers is hidden: otherwise the end of the longer one would stay. A
    secret of fewer than eight characters is none (SHORTEST_SECRET).
    """
    found: list[tuple[int, int]] = []
    for secret in secrets:
        if len(secret) >= SHORTEST_SECRET:
            found.extend(_places(text, secret))
    parts: list[str] = []
    end = 0
    for begin, until in sorted(found):
        if begin >= end:
            parts += (text[end:begin], HIDDEN)
        end = max(end, until)
    return "".join([*parts, text[end:]])


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


def for_chat(text: str) -> str:
    """Return `text` for a chat: on one line, no markup, and a mention of no one, whatever it quotes."""
    return without_controls(text, " ").translate(_LOOKALIKES)


def counted(number: int, thing: str) -> str:
    """Return a number and what it counts, such as `1 row` or `1,200 rows`."""
    ending = "" if number == 1 else "s"
    return f"{number:,} {thing}{ending}"
