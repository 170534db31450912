"""Texts from outside: what each cleaning removes, and what it leaves alone."""

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain import text

ANY = st.text(st.characters(categories=None), max_size=200)
KEY = "sk-abc123"


@pytest.mark.parametrize(
    ("given_text", "secrets", "expected"),
    [
        pytest.param("the key sk-abc123 is bad", [KEY], "the key *** is bad", id="within"),
        pytest.param("sk-abc123", [KEY], "***", id="all of it"),
        pytest.param("sk-abc123sk-abc123", [KEY], "******", id="twice, side by side"),
        pytest.param("sk-abc123 sk-abc123", [KEY], "*** ***", id="twice"),
        pytest.param("SK-ABC123", [KEY], "SK-ABC123", id="in capitals"),
        pytest.param("sk-abc12", [KEY], "sk-abc12", id="the beginning of a secret"),
        pytest.param("", [KEY], "", id="nothing"),
        pytest.param("no secret", [], "no secret", id="no secrets"),
        pytest.param("no secret", ["", ""], "no secret", id="empty secrets"),
        pytest.param("none, or ollama", ["none", "ollama"], "none, or ollama", id="too short for a secret"),
        pytest.param("1234567 12345678", ["1234567", "12345678"], "1234567 ***", id="seven and eight characters"),
        pytest.param("abcdefgh1234 abcdefgh", ["abcdefgh", "abcdefgh1234"], "*** ***", id="one begins the other"),
        pytest.param("abcdefgh1234 abcdefgh", ["abcdefgh1234", "abcdefgh"], "*** ***", id="the longer one first"),
        pytest.param("1234abcdefgh5678", ["abcdefgh", "1234abcdefgh5678"], "***", id="one within the other"),
        pytest.param("1234abcdefgh", ["abcdefgh", "1234abcdefgh"], "***", id="one ends the other"),
        pytest.param("abcdefgh1234wxyz", ["abcdefgh1234", "1234wxyz"], "***", id="they overlap"),
        pytest.param("-abcdefgh12345678-", ["abcdefgh", "12345678"], "-******-", id="they touch"),
        pytest.param("ababababab", ["abababab"], "***", id="one overlaps itself"),
        pytest.param("株価株価株価株価!", ["株価株価株価株価"], "***!", id="any language"),
        pytest.param("x\0\ud800sk-abc123", [KEY], "x\0\ud800***", id="beside what cannot be stored"),
        pytest.param("a.b+c*d(e", ["a.b+c*d(e"], "***", id="no pattern"),
        pytest.param("sk-abc123 of sk-abc123", [KEY, KEY], "*** of ***", id="the same secret twice"),
    ],
)
def test_redact(given_text, secrets, expected):
    """No part of a secret stays, however secrets stand in a text; what is no secret stays."""
    assert text.redact(given_text, secrets) == expected
    assert text.redact(given_text, iter(secrets)) == expected


@given(st.lists(st.sampled_from("abc"), max_size=60), st.lists(st.text("abc", min_size=8, max_size=10), max_size=4))
def test_no_character_of_a_secret_is_left(letters, secrets):
    """Each character that a secret covers is hidden, and each other one is there, in its order."""
    said = "".join(letters)
    hidden = [False] * len(said)
    for secret in secrets:
        for found in re.finditer(f"(?={secret})", said):
            hidden[found.start() : found.start() + len(secret)] = [True] * len(secret)
    left = "".join(letter for letter, gone in zip(said, hidden, strict=True) if not gone)
    assert text.redact(said, secrets).replace("***", "") == left


def test_redact_of_a_long_text():
    """A page of a megabyte that is full of secrets takes no noticeable time."""
    said = f"{KEY} <p>" * 100_000
    begun = time.process_time()
    assert text.redact(said, [KEY, "sk-abc123 <p>", "another-secret"]) == "***" * 100_000
    assert time.process_time() - begun < 5


@pytest.mark.parametrize(
    ("given_text", "expected"),
    [
        pytest.param("naïve 株価 🚀\n", "naïve 株価 🚀\n", id="any language"),
        pytest.param("", "", id="nothing"),
        pytest.param("a\0b", "a�b", id="NUL"),
        pytest.param("a\ud800", "a�", id="a high surrogate alone"),
        pytest.param("\udfffb", "�b", id="a low surrogate alone"),
        pytest.param("\udfff\ud800", "��", id="a pair in the wrong order"),
        pytest.param("\ud83d\ude80", "🚀", id="a pair"),
        pytest.param("\U0010ffff", "\U0010ffff", id="the last code point"),
        pytest.param("\x1b\u202e\ufeff", "\x1b\u202e\ufeff", id="controls, which can be stored"),
        pytest.param("x" * 1_000_000 + "\0", "x" * 1_000_000 + "�", id="very long"),
    ],
)
def test_storable(given_text, expected):
    """Postgres and JSON carry all text but NUL and lone surrogates."""
    assert text.storable(given_text) == expected


@settings(deadline=None)
@given(ANY)
def test_what_is_storable_is_UTF_8_without_NUL(said):
    """What comes out can be encoded, and stays the same when it is cleaned again."""
    stored = text.storable(said)
    assert b"\0" not in stored.encode()
    assert text.storable(stored) == stored


def test_quotable():
    """A provider's text loses the key and what cannot be stored, and keeps the rest."""
    assert text.quotable("bad key sk-abc123\0\ud800\n", [KEY]) == "bad key ***��\n"


@pytest.mark.parametrize(
    ("given_text", "expected"),
    [
        pytest.param("one", "one", id="one word"),
        pytest.param("", "", id="nothing"),
        pytest.param(" \t\r\n", "", id="blanks"),
        pytest.param(" a\n\tb  c\r\nd ", "a b c d", id="lines and tabs"),
        pytest.param("a\x0b\x0c\x1c\x85\u2028\u2029b", "a b", id="every end of a line"),
        pytest.param(ValueError("a\nb"), "a b", id="an error"),
    ],
)
def test_one_line(given_text, expected):
    """White space of any kind becomes one blank."""
    assert text.one_line(given_text) == expected


@pytest.mark.parametrize(
    ("given_text", "expected"),
    [
        pytest.param("one", "one", id="one line"),
        pytest.param("", "", id="nothing"),
        pytest.param("\nb", "", id="an empty one"),
        pytest.param(ValueError("duplicate key\nDETAIL: Key (id)=(7)."), "duplicate key", id="an error"),
    ],
)
def test_first_line(given_text, expected):
    """Only the first line is there."""
    assert text.first_line(given_text) == expected


@pytest.mark.parametrize(
    ("given_text", "expected"),
    [
        pytest.param("Zürich – 7 €\x1b[2J\n\t\u202e\x00\x9b", "Zürich – 7 €\\x1b[2J\\n\\t\\u202e\\x00\\x9b", id="many"),
        pytest.param("", "", id="nothing"),
        pytest.param("\ud800", "\\ud800", id="a lone surrogate"),
        pytest.param("\u2066\u2069\u200f\u061c", "\\u2066\\u2069\\u200f\\u061c", id="bidirectional controls"),
        pytest.param("\u200b\ufeff\u2028\u00a0", "\\u200b\\ufeff\\u2028\\xa0", id="blanks that are not seen"),
        pytest.param("\U000e0001", "\\U000e0001", id="a tag"),
        pytest.param("\\x1b", "\\x1b", id="an escape stays"),
        pytest.param(7, "7", id="a number"),
        pytest.param("\x07" * 100_000, "\\x07" * 100_000, id="very long"),
    ],
)
def test_printable(given_text, expected):
    """What would move the cursor, break the line or turn the writing is spelt out; the rest stays as it is."""
    assert text.printable(given_text) == expected


def test_without_controls():
    """What is not printable is replaced, letter by letter."""
    assert text.without_controls("a\x1b\n\u202e\0\ud800b é", "?") == "a?????b é"
    assert text.without_controls("", "?") == ""


def test_for_chat():
    """What calls people or is markup becomes a sign that looks like it; lines become one."""
    assert text.for_chat("@all <b>\nx\u202e</b> & *é*") == "＠all ‹b› x ‹/b› & *é*"


@settings(deadline=None)
@given(ANY)
def test_whatever_comes_in_can_be_shown(said):
    """A terminal and a chat get printable text only."""
    assert text.printable(said).isprintable()
    assert text.without_controls(said, "?").isprintable()
    assert text.for_chat(said).isprintable()
    assert not set("<>@") & set(text.for_chat(said))
