"""The list of published heads: its form, and what is refused."""

from datetime import UTC, datetime

import pytest

from app.domain.published_heads import (
    PublishedHead,
    format_list,
    parse_list,
    refuse_misfit,
    rewritten,
)
from app.errors import Refused

AT = datetime(2026, 10, 26, 13, 0, 0, 8207, UTC)
A, B, C = (PublishedHead(seq, digit * 64, AT) for seq, digit in ((2, "a"), (5, "b"), (9, "c")))
LINE_A = f"2\t{'a' * 64}\t2026-10-26T13:00:00.008207Z\n"
LINE_B = f"5\t{'b' * 64}\t2026-10-26T13:00:00.008207Z\n"
COLUMNS = "seq\thash\tat\n"


def test_the_form():
    """A line with the columns, then a line for each head, each with a line feed."""
    content = f"{COLUMNS}{LINE_A}{LINE_B}".encode()
    assert format_list([A, B]) == content
    assert parse_list(content) == [A, B]
    assert (A.text, B.text) == (f"2:{'a' * 64}", f"5:{'b' * 64}")


@pytest.mark.parametrize("content", ["", COLUMNS])
def test_a_list_without_heads(content):
    """A branch without a list has no heads, and neither has a list of the columns alone."""
    assert parse_list(content.encode()) == []


@pytest.mark.parametrize(
    ("content", "number"),
    [
        ("hello\n", 1),
        ("\n", 1),
        (f"{LINE_A}", 1),
        (f"{COLUMNS}{LINE_A}"[:-1], 2),
        (f"{COLUMNS}{LINE_A}\n", 3),
        (f"{COLUMNS}{LINE_B}{LINE_A}", 3),
        (f"{COLUMNS}{LINE_A}{LINE_A}", 3),
        (f"{COLUMNS}{LINE_A.replace('2', '02', 1)}", 2),
        (f"{COLUMNS}{LINE_A.replace('aa', 'AA', 1)}", 2),
        (f"{COLUMNS}{LINE_A.replace('-10-26', '-13-26')}", 2),
        (f"{COLUMNS}{LINE_A.replace('Z', '+00:00')}", 2),
        (f"{COLUMNS}{LINE_A.replace(chr(9), ' ')}", 2),
        (f"{COLUMNS}{LINE_A}\x00\n", 3),
        (f"{COLUMNS}{LINE_A}{LINE_B.replace('5', '٥', 1)}", 3),
    ],
)
def test_a_list_of_another_program(content, number):
    """The first line that is not a head's is named."""
    with pytest.raises(Refused) as refused:
        parse_list(content.encode())
    assert str(refused.value) == (
        "HEAD_REPOSITORY has a heads.tsv that this service did not write: its line "
        f"{number} is not the line of a head. Nothing was pushed."
    )


def check(listed, entries, known=None):
    """Compare a list with the entries of a journal."""
    refuse_misfit(listed, {entry.seq: entry for entry in entries}, newest=entries[-1], known=known)


def test_lists_that_fit():
    """Every head of the list is an entry of the journal; the journal may be longer."""
    check([], [C])
    check([A, B], [A, B, C])
    check([A, B, C], [A, B, C], known=B)


def test_a_newer_list():
    """The message names both heads."""
    with pytest.raises(Refused) as refused:
        check([A, C], [A, B])
    assert str(refused.value) == (
        f"HEAD_REPOSITORY has the head {C.text}, which is newer than the journal's newest entry, "
        f"{B.text}. Nothing was pushed."
    )


@pytest.mark.parametrize(
    "other", [PublishedHead(5, "d" * 64, AT), PublishedHead(5, "b" * 64, AT.replace(hour=14))]
)
def test_a_list_that_contradicts_the_journal(other):
    """Another hash, or another time, of the same entry; the message names both."""
    with pytest.raises(Refused) as refused:
        check([A, other], [A, B, C])
    assert str(refused.value) == (
        f"HEAD_REPOSITORY contradicts the journal: it has the head {other.text} of "
        f"{other.line.rpartition(chr(9))[2]}, and the journal has {B.text} of "
        "2026-10-26T13:00:00.008207Z. Nothing was pushed."
    )


@pytest.mark.parametrize(("listed", "now"), [([A], A.text), ([], "no head")])
def test_a_list_without_the_head_that_was_published(listed, now):
    """Its line was removed."""
    with pytest.raises(Refused) as refused:
        check(listed, [A, B], known=B)
    assert str(refused.value) == str(rewritten(B, f"it ends with {now}"))
    assert B.text in str(refused.value)
