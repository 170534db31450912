"""Texts from outside: what each cleaning removes, and what it leaves alone."""

import json
import re
import time
from base64 import b64encode, encodebytes, urlsafe_b64encode
from html import escape
from time import process_time
from urllib.parse import quote, quote_plus, unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain import text

ANY = st.text(st.characters(categories=None), max_size=200)
KEY = "sk-abc123"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("", ""),
        ("https://host.example/v1/", "https://host.example/v1/"),
        ("https://user:pa%40ss@host.example:8443/v1?key=1#part", "https://host.example:8443/v1"),
        ("https://us@er:secret@host.example", "https://host.example"),
        ("http://user@[2001:db8::1]:80/", "http://[2001:db8::1]:80/"),
    ],
)
def test_public_address(url, expected):
    """No user information, no query and no fragment is left."""
    assert text.public_address(url) == expected


def test_public_address_of_no_address():
    """An open bracket has no parts that are safe to show."""
    with pytest.raises(ValueError, match="Invalid IPv6"):
        text.public_address("http://[s3cret")


@pytest.mark.parametrize(
    ("original", "secrets", "expected"),
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
        pytest.param(
            "none, or ollama", ["none", "ollama"], "none, or ollama", id="too short for a secret"
        ),
        pytest.param(
            "1234567 12345678",
            ["1234567", "12345678"],
            "1234567 ***",
            id="seven and eight characters",
        ),
        pytest.param(
            "abcdefgh1234 abcdefgh",
            ["abcdefgh", "abcdefgh1234"],
            "*** ***",
            id="one begins the other",
        ),
        pytest.param(
            "abcdefgh1234 abcdefgh",
            ["abcdefgh1234", "abcdefgh"],
            "*** ***",
            id="the longer one first",
        ),
        pytest.param(
            "1234abcdefgh5678", ["abcdefgh", "1234abcdefgh5678"], "***", id="one within the other"
        ),
        pytest.param("1234abcdefgh", ["abcdefgh", "1234abcdefgh"], "***", id="one ends the other"),
        pytest.param("abcdefgh1234wxyz", ["abcdefgh1234", "1234wxyz"], "***", id="they overlap"),
        pytest.param("-abcdefgh12345678-", ["abcdefgh", "12345678"], "-******-", id="they touch"),
        pytest.param("ababababab", ["abababab"], "***", id="one overlaps itself"),
        pytest.param("株価株価株価株価!", ["株価株価株価株価"], "***!", id="any language"),
        pytest.param(
            "x\0\ud800sk-abc123", [KEY], "x\0\ud800***", id="beside what cannot be stored"
        ),
        pytest.param("a.b+c*d(e", ["a.b+c*d(e"], "***", id="no pattern"),
        pytest.param(
            "sk-abc123 of sk-abc123", [KEY, KEY], "*** of ***", id="the same secret twice"
        ),
    ],
)
def test_redact(original, secrets, expected):
    """No part of a secret stays, also where secrets overlap; all other text is unchanged."""
    assert text.redact(original, secrets) == expected
    assert text.redact(original, iter(secrets)) == expected


@given(
    st.lists(st.sampled_from("abc"), max_size=60),
    st.lists(st.text("abc", min_size=8, max_size=10), max_size=4),
)
def test_no_character_of_a_secret_is_left(letters, secrets):
    """Each character of a secret is hidden, and every other one stays, in its order."""
    whole = "".join(letters)
    hidden = [False] * len(whole)
    for secret in secrets:
        for match in re.finditer(f"(?={secret})", whole):
            hidden[match.start() : match.start() + len(secret)] = [True] * len(secret)
    left = "".join(letter for letter, gone in zip(whole, hidden, strict=True) if not gone)
    assert text.redact(whole, secrets).replace("***", "") == left


def test_redact_of_a_long_text():
    """A page of a megabyte that is full of secrets takes no noticeable time."""
    page = f"{KEY} <p>" * 100_000
    begun = time.process_time()
    assert text.redact(page, [KEY, "sk-abc123 <p>", "another-secret"]) == "***" * 100_000
    assert time.process_time() - begun < 5


@pytest.mark.parametrize(
    ("original", "expected"),
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
def test_storable(original, expected):
    """Postgres and JSON can store every text except NUL and lone surrogates."""
    assert text.make_storable(original) == expected


@settings(deadline=None)
@given(ANY)
def test_what_is_storable_is_UTF_8_without_NUL(original):
    """The result can be encoded, and does not change when it is cleaned again."""
    stored = text.make_storable(original)
    assert b"\0" not in stored.encode()
    assert text.make_storable(stored) == stored


def test_quotable():
    """A provider's text loses the key and what cannot be stored, and keeps the rest."""
    assert text.redact_for_record("bad key sk-abc123\0\ud800\n", [KEY]) == "bad key ***��\n"


@pytest.mark.parametrize(
    ("original", "expected"),
    [
        pytest.param("one", "one", id="one word"),
        pytest.param("", "", id="nothing"),
        pytest.param(" \t\r\n", "", id="blanks"),
        pytest.param(" a\n\tb  c\r\nd ", "a b c d", id="lines and tabs"),
        pytest.param("a\x0b\x0c\x1c\x85\u2028\u2029b", "a b", id="every end of a line"),
        pytest.param(ValueError("a\nb"), "a b", id="an error"),
    ],
)
def test_one_line(original, expected):
    """White space of any kind becomes one space."""
    assert text.one_line(original) == expected


@pytest.mark.parametrize(
    ("original", "expected"),
    [
        pytest.param("one", "one", id="one line"),
        pytest.param("", "", id="nothing"),
        pytest.param("\nb", "", id="an empty one"),
        pytest.param(
            ValueError("duplicate key\nDETAIL: Key (id)=(7)."), "duplicate key", id="an error"
        ),
    ],
)
def test_first_line(original, expected):
    """Only the first line is returned."""
    assert text.first_line(original) == expected


@pytest.mark.parametrize(
    ("original", "expected"),
    [
        pytest.param(
            "Zürich – 7 €\x1b[2J\n\t\u202e\x00\x9b",
            "Zürich – 7 €\\x1b[2J\\n\\t\\u202e\\x00\\x9b",
            id="many",
        ),
        pytest.param("", "", id="nothing"),
        pytest.param("\ud800", "\\ud800", id="a lone surrogate"),
        pytest.param(
            "\u2066\u2069\u200f\u061c", "\\u2066\\u2069\\u200f\\u061c", id="bidirectional controls"
        ),
        pytest.param(
            "\u200b\ufeff\u2028\u00a0", "\\u200b\\ufeff\\u2028\\xa0", id="blanks that are not seen"
        ),
        pytest.param("\U000e0001", "\\U000e0001", id="a tag"),
        pytest.param("\\x1b", "\\x1b", id="an escape stays"),
        pytest.param(7, "7", id="a number"),
        pytest.param("\x07" * 100_000, "\\x07" * 100_000, id="very long"),
    ],
)
def test_printable(original, expected):
    """
    Characters that move the cursor, break the line or reverse the direction are escaped; all others
    are unchanged.
    """
    assert text.escape_unprintable(original) == expected


def test_without_controls():
    """Each character that is not printable is replaced by one."""
    assert text.replace_unprintable("a\x1b\n\u202e\0\ud800b é", "?") == "a?????b é"
    assert text.replace_unprintable("", "?") == ""


def test_for_chat():
    """Mentions and markup are replaced by similar characters, and lines are joined."""
    assert text.for_chat("@all <b>\nx\u202e</b> & *é*") == "＠all ‹b› x ‹/b› & *é*"


@settings(deadline=None)
@given(ANY)
def test_any_text_can_be_shown(original):
    """A terminal and a chat get printable text only."""
    assert text.escape_unprintable(original).isprintable()
    assert text.replace_unprintable(original, "?").isprintable()
    assert text.for_chat(original).isprintable()
    assert not set("<>@") & set(text.for_chat(original))


@pytest.mark.parametrize(
    ("original", "most", "expected"),
    [
        ("abc", 3, "abc"),
        ("abc", 2, "ab"),
        ("a\u4e2d", 3, "a"),
        ("a\u4e2d", 4, "a\u4e2d"),
        ("\U0001f600", 3, ""),
        ("", 5, ""),
        ("abc", 0, ""),
    ],
)
def test_beginning(original, most, expected):
    """As many whole characters as fit."""
    assert text.truncate_bytes(original, most) == expected


@given(original=ANY, most=st.integers(60, 100))
def test_shortened(original, most):
    """Both ends stay, and the result is never longer than the limit."""
    short = text.shorten_middle(original, most)
    assert len(short) <= most
    assert short == original or (original.startswith(short[:10]) and original.endswith(short[-10:]))


@pytest.mark.parametrize(
    ("original", "expected"),
    [
        ("8-K of 2026-11-06", True),
        ("\u00e9\u4e2d", True),
        ("a" * 1000, True),
        ("a" * 1001, False),
        ("", False),
        ("  ", False),
        ("a\nb", False),
        ("a\tb", False),
        ("a\0", False),
        ("a\ud800", False),
        ("\x1b[2J", False),
        ("\u202egpj", False),
        ("\u2066a", False),
    ],
)
def test_is_statement(original, expected):
    """A statement is one line of printable text."""
    assert text.is_publishable(original) is expected


# The kind: the encodings in which a provider may repeat a secret that it was sent.
OF_A_KEY = "sk-Proj/Ab+9=_~z&Q"
ENCODED = {
    "in a URL": quote(OF_A_KEY, safe=""),
    "in a URL, small digits": quote(OF_A_KEY, safe="").replace("%2F", "%2f").replace("%2B", "%2b"),
    "in a form": quote_plus(OF_A_KEY),
    "in a URL, all of it": "".join(f"%{ord(letter):02X}" for letter in OF_A_KEY),
    "in a URL, some of it": OF_A_KEY.replace("P", "%50").replace("z", "%7a"),
    "in a URL, twice": quote(quote(OF_A_KEY, safe=""), safe=""),
    "in JSON, a slash": OF_A_KEY.replace("/", "\\/"),
    "in JSON, all of it": "".join(f"\\u{ord(letter):04x}" for letter in OF_A_KEY),
    "in JSON, some of it": OF_A_KEY.replace("&", "\\u0026").replace("+", "\\u002B"),
    "in JSON in JSON": OF_A_KEY.replace("/", "\\\\\\/").replace("&", "\\\\u0026"),
    "in a program's source": OF_A_KEY.replace("A", "\\x41").replace("Q", "\\u{51}"),
    "in HTML": OF_A_KEY.replace("&", "&amp;").replace("+", "&#43;").replace("/", "&#x2F;"),
    "in a URL in JSON": quote(OF_A_KEY, safe="").replace("%", "\\u0025"),
    "in HTML in a URL": quote(OF_A_KEY.replace("&", "&amp;"), safe=""),
    "in hexadecimal digits": OF_A_KEY.encode().hex(),
    "in large hexadecimal digits": OF_A_KEY.encode().hex().upper(),
    **{
        f"in base64, behind {before} bytes": b64encode(
            b"u:"[:before] + OF_A_KEY.encode() + b"!"
        ).decode()
        for before in range(3)
    },
    "in base64, alone": b64encode(OF_A_KEY.encode()).decode(),
    "in base64 of a URL": urlsafe_b64encode(b"Bearer " + OF_A_KEY.encode()).decode(),
    "in base64 in a URL": quote(b64encode(b"user:" + OF_A_KEY.encode()).decode(), safe=""),
    "in base64 in JSON": b64encode(b"a" + OF_A_KEY.encode()).decode().replace("/", "\\/"),
    "in base64 on lines": encodebytes(b"x" * 50 + OF_A_KEY.encode() + b"x" * 50).decode(),
    "in base64 on lines in JSON": json.dumps(
        encodebytes(b"x" * 50 + OF_A_KEY.encode() + b"x" * 50).decode()
    )[1:-1],
}


@pytest.mark.parametrize("name", ENCODED)
def test_a_secret_in_an_encoding(name):
    """Nothing of the secret is left, and the text around it is unchanged."""
    left = text.redact(
        f"The key '{ENCODED[name]}' is wrong: 100 % sure.", ["another-secret", OF_A_KEY]
    )
    assert left.startswith("The key '")
    assert left.endswith("' is wrong: 100 % sure.")
    assert text.REDACTED in left
    shown = left.removeprefix("The key '").removesuffix("' is wrong: 100 % sure.")
    if "base64" not in name:
        assert shown == text.REDACTED
        return
    plain = unquote(shown.replace("\\/", "/").replace("\\n", "\n")).translate(
        str.maketrans("-_", "+/")
    )
    for part in plain.split(text.REDACTED):
        assert len("".join(part.split())) < 5 or part.strip().startswith(
            ("eHh4", "QmVh", "dXNl", "h4eH", "4eHh")
        )


@pytest.mark.parametrize(
    "original",
    [
        "%41%42 &amp; \\u0041 \\/ 100% &c. \\",
        "c2stUHJvag==",
        OF_A_KEY[:-1],
        quote(OF_A_KEY[1:], safe=""),
        "%ZZ &#99999999; \\U99999999",
    ],
    ids=[
        "escapes",
        "a part of it in base64",
        "not all of it",
        "not all of it in a URL",
        "no characters",
    ],
)
def test_what_is_no_secret_stays_as_it_is(original):
    assert text.redact(original, [OF_A_KEY, "another-secret"]) == original


@pytest.mark.parametrize(
    "secret",
    [
        "pass word&more",
        "s\u00e9cret-cl\u00e9",
        "p%41ss%2Fword",
        "key\U0001f511-and-more",
        'a\\b"c/d-e',
    ],
)
@pytest.mark.parametrize(
    "encode",
    [
        quote_plus,
        lambda secret: quote(secret, safe=""),
        json.dumps,
        lambda one: json.dumps(quote(one)),
        escape,
        repr,
    ],
    ids=["form", "URL", "JSON", "URL in JSON", "HTML", "repr"],
)
def test_any_secret_in_any_encoding(encode, secret):
    redacted = text.redact(f"<{encode(secret)}>", [secret])
    assert set(redacted.replace(text.REDACTED, "")) <= set("<>\"'")


def test_redact_of_a_long_text_in_encodings():
    """Also if a provider repeats a key a hundred thousand times, or sends only escapes."""
    began = process_time()
    assert text.redact(quote(OF_A_KEY, safe="") * 5_000, [OF_A_KEY]) == text.REDACTED * 5_000
    assert text.redact("%25" * 300_000, [OF_A_KEY]) == "%25" * 300_000
    assert process_time() - began < 20
