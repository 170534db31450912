"""
The list of heads that the service publishes: its form, and whether it fits the journal.

The list is the file `heads.tsv` of a git repository. It has one line for each published head, with
the number of the entry, its hash and its time, separated by tabs; the first line has the names of
these columns. A commit only adds one line at the end. There is one file with a line for each head,
and not one file for each head, so that plain git answers the questions of a sceptic:

- `git log --format="%cI %s"` prints when each head was committed. The subject of a commit is the
  head, as `alpha-monday verify --head` accepts it.
- `git log --numstat` shows that every commit adds one line and removes none.
- `git blame heads.tsv` shows the commit that added each line.
- `tail -n 1 heads.tsv` is the newest head.

docs/operate/heads.md describes the repository for its readers.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime

from msgspec import Struct

from app.domain.journal import format_head, format_timestamp
from app.errors import Refused

FILE_NAME = "heads.tsv"

_COLUMNS = "seq\thash\tat"
_LINE = re.compile(
    r"(?P<seq>[1-9][0-9]{0,17})\t(?P<hash>[0-9a-f]{64})\t"
    r"(?P<at>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z)",
    re.ASCII,
)

# The end of each message about a list that does not fit.
_NOTHING_PUSHED = "Nothing was pushed."


class PublishedHead(Struct, frozen=True):
    """An entry of the journal: its number, its hash and its time."""

    seq: int
    hash: str
    at: datetime

    @property
    def text(self) -> str:
        """Return the head as `alpha-monday verify --head` accepts it."""
        return format_head(self.seq, self.hash)

    @property
    def line(self) -> str:
        """Return the line of the list, without its end."""
        return f"{self.seq}\t{self.hash}\t{format_timestamp(self.at)}"


def parse_list(content: bytes) -> list[PublishedHead]:
    """
    Return the heads of a list, oldest first. An empty `content` is a list without heads.

    Raises Refused if `content` is not such a list.
    """
    if not content:
        return []
    lines = content.decode("ascii", "replace").split("\n")
    if lines[0] != _COLUMNS:
        raise _unexpected_line(1)
    # The last line has an end, too, so the last part is empty.
    if lines[-1]:
        raise _unexpected_line(len(lines))
    heads: list[PublishedHead] = []
    for number, line in enumerate(lines[1:-1], 2):
        head = _parse_line(line)
        if head is None or (heads and head.seq <= heads[-1].seq):
            raise _unexpected_line(number)
        heads.append(head)
    return heads


def _parse_line(line: str) -> PublishedHead | None:
    match = _LINE.fullmatch(line)
    if match is None:
        return None
    try:
        at = datetime.fromisoformat(match["at"])
    except ValueError:
        return None
    return PublishedHead(int(match["seq"]), match["hash"], at)


def _unexpected_line(number: int) -> Refused:
    return Refused(
        f"HEAD_REPOSITORY has a {FILE_NAME} that this service did not write: its line {number} is "
        f"not the line of a head. {_NOTHING_PUSHED}"
    )


def format_list(heads: Sequence[PublishedHead]) -> bytes:
    """Return the content of the file with these heads."""
    return "".join(f"{line}\n" for line in (_COLUMNS, *(head.line for head in heads))).encode()


def refuse_misfit(
    listed: Sequence[PublishedHead],
    entries: Mapping[int, PublishedHead],
    *,
    newest: PublishedHead,
    known: PublishedHead | None,
) -> None:
    """
    Raise Refused if the heads in the repository do not fit the journal.

    `listed` are the heads in the repository. `entries` are the entries of the journal with these
    numbers, and `newest` is its newest entry. `known` is the head that this service has published
    last, or None if there is none: `listed` must have it.
    """
    for head in listed:
        entry = entries.get(head.seq)
        if entry is None:
            raise Refused(
                f"HEAD_REPOSITORY has the head {head.text}, which is newer than the journal's "
                f"newest entry, {newest.text}. {_NOTHING_PUSHED}"
            )
        if entry != head:
            raise Refused(
                f"HEAD_REPOSITORY contradicts the journal: it has the head {_describe(head)}, and "
                f"the journal has {_describe(entry)}. {_NOTHING_PUSHED}"
            )
    if known and known not in listed:
        last = listed[-1].text if listed else "no head"
        raise rewritten(known, f"it ends with {last}")


def _describe(head: PublishedHead) -> str:
    return f"{head.text} of {format_timestamp(head.at)}"


def rewritten(known: PublishedHead, now: str) -> Refused:
    """
    Return the error for a repository that no longer has the head `known` as it was published.

    `now` is a clause that says what the repository has now.
    """
    return Refused(
        f"HEAD_REPOSITORY was changed by another program: this service published the head "
        f"{known.text} there, and now {now}. {_NOTHING_PUSHED}"
    )
