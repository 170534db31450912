"""
Mutated bodies of both providers, sent over real HTTP to the real clients.

The examples are the known replies of the providers: a good one and every fault of
`app.simulation.faults`. A case is one of them after a few mutations of its JSON (for the model also
of the JSON within its content), of its bytes and of the HTTP message around them. The result of a
case is data that is in the body, word for word, or an error of a known class whose text can be
stored. All cases go through the whole client, ledger and library included, and the jobs' own
functions store the results.

Case n of a seed is always the same; `FUZZ_SEED` in the environment sets another seed. All broken
rules are collected with the numbers of their cases, so that one run shows everything.
"""

import asyncio
import gc
import gzip
import json
import os
import re
import sys
import traceback
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from random import Random
from string import ascii_uppercase
from typing import Any
from uuid import UUID, uuid4

import pytest
import structlog
from clocks import HandSetClock
from job_context import BASELINE, MONDAY, logged, new_york

from app.domain import prompt
from app.domain.calendar import Calendar
from app.domain.declarations import InForce
from app.domain.model import SERIES, Generation
from app.domain.text import make_storable
from app.errors import (
    AlphaMondayError,
    BodyTooLong,
    ConfigurationError,
    ProviderBusy,
    ProviderUnavailable,
    QuotaSpent,
    UnknownTicker,
)
from app.providers import alpha_vantage
from app.providers.alpha_vantage import PRICE_SOURCE, AlphaVantage
from app.providers.head_repository import HeadRepository
from app.providers.llm import ModelClient, ModelOptions
from app.providers.rate_limiter import RequestLedger, rate_limits
from app.providers.webhook import WebhookReceiver
from app.simulation.faults import FAULTS, SimulatedReply, SimulatedRequest, json_reply
from app.simulation.faults import SERIES as DAILY_SERIES
from app.simulation.market import Market
from app.simulation.provider_simulators import ProviderSimulators
from app.store import generations
from app.store.closes import get_newest
from jobs import prices as closes
from jobs import weekly
from jobs.context import Context

SEED = os.environ.get("FUZZ_SEED", "1")
FEW, MANY = 300, 10_000

TICKER, BENCHMARK = "AAPL", "SPY"
NOW = new_york(MONDAY)
NO_RECEIVER = WebhookReceiver("ALERT_WEBHOOK_URL", "", HandSetClock(NOW))
IN_FORCE = InForce(version="0", benchmark=BENCHMARK, price_source=PRICE_SOURCE, calendar=Calendar())
# Long enough that no piece of them occurs anywhere by chance.
KEYS = {"alphavantage": "K7QZ4XW9J2VB8RTM", "openai": "sk-proj-Zq8vX3kR7wJ5tB2nM9cL"}
PIECE = 8  # the shortest piece of a key that must not occur

TIME_LIMIT = 1.0  # of the clients; short, because a case may hang
CASE_TIMEOUT = 30.0  # of the test

Json = Any


# --- JSON that may be wrong: objects keep every member, in order, repeated ones too ---


class Object(list):
    """An object as its members, each a list of name and value."""


class Raw(str):
    """A text that is part of the JSON unchanged."""

    __slots__ = ()


def parsed(text: str) -> Json:
    return json.loads(text, object_pairs_hook=lambda pairs: Object(map(list, pairs)))


def mutable(text: str) -> Json:
    """
    Parse `text` for mutation.

    Raise ValueError if it is not JSON, or so deep that it needs no other mutation.
    """
    if re.search(r"\[{20}|(\[?\{\"a\":){20}", text):
        raise ValueError(text)
    return parsed(text)


def to_json(value: Json) -> str:
    """Return `value` as JSON. At most one part of it is very deep, and that part is Raw."""
    match value:
        case Raw():
            return str(value)
        case Object():
            return (
                "{"
                + ", ".join(f"{to_json(name)}: {to_json(member)}" for name, member in value)
                + "}"
            )
        case list():
            return "[" + ", ".join(map(to_json, value)) + "]"
    return json.dumps(value)


def slots(value: Json) -> list[tuple[list[Json], int]]:
    """Return every place of a value within `value`: its container and its index there."""
    result: list[tuple[list[Json], int]] = []
    if isinstance(value, list):
        for at, item in enumerate(value):
            inner, place = (item, 1) if isinstance(value, Object) else (value, at)
            result += [(inner, place), *slots(inner[place])]
    return result


def objects(value: Json) -> list[Object]:
    own = [value] if isinstance(value, Object) else []
    return own + [one for inner, place in slots(value) if isinstance(one := inner[place], Object)]


# --- mutations ---

STRANGE = [
    "\0",
    "\ud800",
    "\udfff",
    "\u202e",
    "\ufeff",
    "\u200b",
    "\u2028",
    "\x1b[31m",
    "５",
    "٣",
    "ﬃ",
    "İ",
    "\U0001f4c8",
]
NUMBERS = [
    *(
        "NaN",
        "nan",
        "Infinity",
        "-Infinity",
        "-5",
        "0",
        "0.0000",
        "-0",
        "+5",
        "1e3",
        "1E+400",
        "1_000",
        "1,000.5",
    ),
    *(
        "0x10",
        "1.",
        ".5",
        "00012.5",
        "5",
        "0.1",
        "1/3",
        "１２.５",
        "٣٤",
        "244.8400",
        " 5",
        "5 ",
        "5\n",
        "",
    ),
    *(
        "123456789.123456789123456789123456789",
        "9" * 200,
        "9" * 140_000,
        f"0.{'0' * 17_000}1",
        "5" * 5_000_000,
    ),
]
NAMES = [
    "",
    "a",
    "Information",
    "Note",
    "Error Message",
    DAILY_SERIES,
    "4. close",
    "choices",
    "picks",
    "refusal",
    "error",
]
TICKERS = [
    *(
        "SPY",
        "spy",
        "AAPL",
        "aapl",
        "BRK-B",
        "brk.b",
        "A",
        "TOOLONG",
        "ﬃ",
        "ΑAPL",
        "$AAPL",
        "AAPL.US",
        "123",
    ),
    *("BRK.BB", " KO ", "KO\n", "K\0"),
]


def strange_text(chance: Random, key: str) -> str:
    return chance.choice(
        [
            chance.choice(NUMBERS[:-1]),
            chance.choice(NUMBERS[:-1]),
            chance.choice(TICKERS),
            chance.choice(NAMES),
            chance.choice(STRANGE),
            chance.choice(STRANGE) * chance.randrange(1, 300),
            key,
            "x" * chance.randrange(600) + key + "x",
            "x" * chance.choice([100, 5_000, 100_000]),
            " \t\r\n\u3000",
            "2026-10-23",
            "length",
        ]
    )


def strange_value(chance: Random, key: str) -> Json:
    return chance.choice(
        [
            strange_text,
            strange_text,
            lambda *_: chance.choice(
                [None, True, False, 0, -1, 5, 244.84, 0.1, 2**31 - 1, 2**31, 2**63, 2**64, 10**400]
            ),
            lambda *_: Raw(
                chance.choice(
                    ["NaN", "-Infinity", "1e999", "1e-999", "-0.0", "9" * 5000, "01", "0x1", "'a'"]
                )
            ),
            lambda *_: chance.choice(
                [[], Object(), [None], ["a", 5], Object([["a", 5]]), [[]], ""]
            ),
            lambda *_: deep(chance),
        ]
    )(chance, key)


def deep(chance: Random) -> Raw:
    """Nesting, often about as deep as Python goes."""
    levels = chance.choice([3, 100, 2000, 100_000, *[chance.randrange(880, 1000)] * 6])
    opening, closing = chance.choice([("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")])
    return Raw(opening * levels + chance.choice(["1", '"a"', ""]) + closing * levels)


def strange_name(name: str, chance: Random, key: str) -> str:
    """Return another name for a member; a date may get another form."""
    forms = [
        strange_text(chance, key),
        name.upper(),
        f"{name} ",
        f"{name}\0",
        name[:-1],
        chance.choice(NAMES),
    ]
    if re.fullmatch(r"20[0-9]{2}-(0[1-9]|1[0-2])-[0-3][0-9]", name):
        year, month, day = map(int, name.split("-"))
        week = BASELINE.replace(year=year, month=month, day=min(day or 1, 28)).isocalendar()
        forms += [name.replace("-", "")] * 3 + [f"{week.year}-W{week.week:02}-{week.weekday}"] * 2
        forms += [
            f"{name}T00:00:00",
            f"{name} 16:00:00",
            f"{day}.{month}.{year}",
            f"{year}-{month}-{day}",
            "2026-10-26",
        ]
        forms += [
            "2026-02-30",
            "0000-00-00",
            "9999-12-31",
            "2026-10-22",
            "2026-10-23",
            "２０２６-10-23",
        ]
    return chance.choice(forms)


def mutate(value: Json, chance: Random, key: str) -> Json:
    """Change one thing in `value`; return it."""
    places, members = slots(value), [one for one in objects(value) if one]
    if not places or chance.random() < 0.02:
        return strange_value(chance, key)
    holder, place = chance.choice(places)
    if members and chance.random() < 0.4:
        members = members[:3] if chance.random() < 0.5 else members
        owner = chance.choice(members)
        member = chance.choice(owner)
        match chance.randrange(5):
            case 0:
                owner.remove(member)
            case 1:
                member[0] = strange_name(member[0], chance, key)
            case 2:  # the same under another name, or the same name again
                owner.insert(
                    chance.randrange(len(owner) + 1),
                    [strange_name(member[0], chance, key), member[1]],
                )
            case 3:
                owner.insert(
                    chance.randrange(len(owner) + 1), [member[0], strange_value(chance, key)]
                )
            case 4:
                chance.shuffle(owner)
        return value
    was = holder[place]
    match chance.randrange(6):
        case 0 | 1:
            holder[place] = strange_value(chance, key)
        case 2:
            inner, other = chance.choice(places)
            holder[place] = Raw(to_json(inner[other]))
        case 3:
            holder[place] = [was] if chance.random() < 0.5 else Object([["a", was]])
        case _ if isinstance(was, str) and not isinstance(was, Raw):
            holder[place] = mutated_text(was, chance, key)
        case _:
            holder[place] = strange_value(chance, key)
    return value


def mutated_text(text: str, chance: Random, key: str) -> str:
    at = chance.randrange(len(text) + 1)
    match chance.randrange(6):
        case 0:  # a number that is another number
            return re.sub(r"\d", lambda _: str(chance.randrange(10)), text)
        case 1:
            return text[:at] + chance.choice([*STRANGE, key]) + text[at:]
        case 2:
            return text[:at] + text[at + 1 :]
        case 3:
            return text * 2
        case 4:
            return text.swapcase()
    return text[:at] + text[at : at + 3] + text[at:]


def mutated_bytes(body: bytes, chance: Random) -> bytes:
    at, length = chance.randrange(len(body) + 1), chance.randrange(1, 40)
    match chance.randrange(11):
        case 0:
            return bytes(
                byte ^ (1 << chance.randrange(8)) if chance.random() < 0.002 else byte
                for byte in body
            )
        case 1:
            return body[:at] + body[at + length :]
        case 2:
            return body[: at + length] + body[at:]
        case 3:
            return body[:at]
        case 4:
            return body[:at] + chance.randbytes(length) + body[at:]
        case 5:
            return body[:at] + bytes([chance.randrange(256)]) + body[at + 1 :]
        case 6:
            encodings = [
                "utf-16",
                "utf-16-le",
                "utf-16-be",
                "utf-32",
                "utf-7",
                "utf-8-sig",
                "cp037",
                "latin-1",
            ]
            return body.decode(errors="replace").encode(chance.choice(encodings), errors="replace")
        case 7:
            return chance.choice(
                [
                    body + body,
                    b")]}'\n" + body,
                    b"callback(" + body + b");",
                    body + b"\0",
                    b"\n" * 99 + body,
                ]
            )
        case 8:  # the same JSON, with each letter of a name escaped
            return re.sub(rb'[A-Za-z0-9](?=[^"]*":)', lambda one: b"\\u%04x" % ord(one[0]), body)
        case 9:
            return (
                b" " * chance.choice([100, 100_000, 6_000_000]) + body
                if chance.random() < 0.1
                else body + b"}"
            )
    return body.replace(b'"', b"'") if chance.random() < 0.5 else body.replace(b"\\", b"")


@dataclass
class Case:
    """
    A reply of the server: `body` is its content, `sent` is the content in its content encoding.
    """

    number: int
    name: str
    body: bytes
    sent: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    frame: str = "length"


STATUSES = [
    201,
    202,
    204,
    206,
    301,
    302,
    304,
    307,
    308,
    400,
    401,
    402,
    403,
    404,
    405,
    408,
    409,
    410,
    413,
    418,
    422,
]
STATUSES += [429, 429, 451, 499, 500, 502, 503, 504, 520, 529, 599, 600, 999]
CHARSETS = [
    *(
        "utf-8",
        "utf-16",
        "latin-1",
        "ascii",
        "utf-7",
        "idna",
        "punycode",
        "undefined",
        "unicode_escape",
        "base64",
    ),
    *("hex", "zlib", "rot13", "nonsense", "\xff"),
]
TYPES = [
    "text/html",
    "text/plain",
    "application/xml",
    "application/octet-stream",
    "",
    "/",
    "image/png",
    "text/event-stream",
]
FRAMES = [
    "chunked",
    "close",
    "cut",
    "short",
    "two_lengths",
    "bad_chunk",
    "garbage",
    "early_hints",
    "long_header",
    "slow",
]
LOCATIONS = [
    "",
    "/",
    "/v1/chat/completions",
    "/query",
    "//",
    "::",
    "http://[",
    "http://127.0.0.1:1/",
    "ftp://127.0.0.1/",
]
LOCATIONS += [
    "http://127.0.0.1:99999/",
    "javascript:x",
    "https:",
    "http://127.0.0.1:1/\xff",
    "?a=\x80",
    "http://\xad/",
]


def carried_otherwise(case: Case, chance: Random, key: str) -> None:
    """Change the HTTP message around the body: its status, headers, encoding or framing."""
    match chance.randrange(6):
        case 0:
            case.status = chance.choice(STATUSES)
        case 1:
            case.headers["content-type"] = chance.choice(
                [
                    chance.choice(TYPES),
                    f"{chance.choice(TYPES[:3])}; charset={chance.choice(CHARSETS)}",
                ]
            )
            case.status = chance.choice([200, 200, 400, 404, 429, 500])
        case 2:
            case.headers["content-encoding"], case.sent = encoded(case.body, chance)
        case 3:
            name = chance.choice(
                [
                    "location",
                    "set-cookie",
                    "retry-after",
                    "x-request-id",
                    "x-should-retry",
                    "x-odd",
                    "date",
                ]
            )
            case.headers[name] = chance.choice(
                [key, f"a={key}; path=/", "-1", "9" * 99, "true", "\xff\xfe", "", "x" * 9000, ";=;"]
            )
        case _:
            case.frame = (
                chance.choice(FRAMES)
                if chance.random() < 0.97
                else chance.choice(["hang", "trickle"])
            )


def encoded(body: bytes, chance: Random) -> tuple[str, bytes]:
    """Return a content encoding, and bytes that are encoded so: correctly, wrongly, or in part."""
    zipped = gzip.compress(body, 1)
    return chance.choice(
        [
            ("gzip", zipped),
            ("deflate", zlib.compress(body)),
            ("gzip, deflate", zlib.compress(zipped)),
            ("GZIP", zipped),
            ("gzip", body),
            ("deflate", body),
            ("gzip", zipped[: len(zipped) // 2]),
            ("gzip", zipped[:-5] + bytes(5)),
            ("gzip", zipped + zipped),
            ("gzip", b""),
            ("br", body),
            ("zstd", body),
            ("identity", body),
            ("nonsense, gzip", zipped),
            (", ".join(["gzip"] * 50), zipped),
        ]
    )


# --- the cases ---

SPLITS = {"symbol": TICKER, "data": [{"effective_date": "2024-06-10", "split_factor": "10.0000"}]}

DIVIDENDS = {"symbol": TICKER, "data": [{"ex_dividend_date": "2026-08-10", "amount": "0.2600"}]}


def good(provider: str) -> SimulatedReply:
    """Return the usual reply of the rehearsal's provider simulator."""
    headers = [(b"authorization", f"Bearer {KEYS['openai']}".encode())]
    query = f"function=TIME_SERIES_DAILY&symbol={TICKER}&apikey={KEYS['alphavantage']}".encode()
    at = {"alphavantage": ("GET", "/query"), "openai": ("POST", "/v1/chat/completions")}[provider]
    scope = {"method": at[0], "path": at[1], "query_string": query, "headers": headers}
    return ProviderSimulators(Market(Calendar()), None, limits=False).reply(
        scope, b'{"model": "gpt-5.4-mini"}', NOW
    )


def examples(provider: str) -> list[tuple[str, SimulatedReply]]:
    """Return every known reply by name; the good one is the first."""
    first = good(provider)
    request = SimulatedRequest(provider=provider, key=KEYS[provider], symbol=TICKER, at=NOW)
    more = (
        {
            "splits": json_reply(SPLITS),
            "dividends": json_reply(DIVIDENDS),
            "no_quote": json_reply({"Global Quote": {}}),
        }
        if provider == "alphavantage"
        else {}
    )
    known = {name: fault(first, request) for name, fault in FAULTS[provider].items()}
    return [("good", first), *known.items(), *more.items()]


def cases(provider: str, count: int, seed: str = SEED) -> Iterator[Case]:
    """The examples as they are, then mutated ones."""
    known, key = examples(provider), KEYS[provider]
    for number in range(count):
        chance = Random(f"{seed}/{provider}/{number}")
        untouched = number < len(known)
        if untouched:
            name, reply = known[number]
        elif chance.random() < 0.6:
            name, reply = known[0]
        else:
            name, reply = chance.choice(known)
        case = Case(number, name, reply.body, status=reply.status, headers={**reply.headers})
        if reply.cut or reply.hang or reply.trickle:
            kind = "cut"
            if reply.hang or reply.trickle:
                kind = "hang" if reply.hang else "trickle"
            case.frame = kind if untouched or kind == "cut" else "length"
        if not untouched:
            case.name = f"~{name}"
            case.body = mutated(body=reply.body, chance=chance, key=key, provider=provider)
        case.sent = case.body
        if not untouched and chance.random() < 0.2:
            carried_otherwise(case, chance, key)
        if case.status // 100 == 3 or "location" in case.headers:
            case.headers["location"] = chance.choice(
                LOCATIONS
            )  # on loopback only, because the library opens them
        if case.frame == "short" and case.sent == case.body:
            case.body = case.body[: len(case.body) // 2]  # as long as its Content-Length
        yield case


def mutated(body: bytes, chance: Random, key: str, provider: str) -> bytes:
    if chance.random() < 0.85:
        try:
            value = mutable(body.decode())
        except ValueError:
            pass
        else:
            for _ in range(chance.choice([1, 1, 1, 2, 2, 3, 5])):
                value = mutated_within(value=value, chance=chance, key=key, provider=provider)
            body = to_json(value).encode(errors="surrogatepass")
            if chance.random() < 0.8:
                return body
    return mutated_bytes(body, chance)


def mutated_within(value: Json, chance: Random, key: str, provider: str) -> Json:
    """Change one thing, mostly in the newest bars or in the model's picks."""
    if provider == "alphavantage":
        for one in objects(value):
            for member in one:
                if (
                    member[0] == DAILY_SERIES
                    and isinstance(member[1], Object)
                    and len(member[1]) > 3
                ):
                    del member[1][chance.choice([2, 3, 3, 100]) :]
        return mutate(value, chance, key)
    for holder, place in slots(value):
        text = holder[place]
        if isinstance(text, str) and '"picks"' in text and chance.random() < 0.75:
            try:
                picks = mutable(text)
            except ValueError:
                continue
            if chance.random() < 0.1:
                holder[place] = mutated_bytes(text.encode(errors="replace"), chance).decode(
                    errors="surrogateescape"
                )
            else:
                holder[place] = to_json(mutated_picks(picks, chance, key))
            return value
    return mutate(value, chance, key)


def mutated_picks(picks: Json, chance: Random, key: str) -> Json:
    if chance.random() < 0.35:
        named = [
            member for one in objects(picks) for member in one if member[0] in ("ticker", "action")
        ]
        if named:
            member = chance.choice(named)
            member[1] = (
                chance.choice(TICKERS)
                if member[0] == "ticker"
                else chance.choice(["SELL", "BUY", "buy", "HOLD"])
            )
            return picks
    return mutate(picks, chance, key)


# --- the server ---


class Mouth:
    """Answers every request with `case`, and keeps the connection open if the case allows it."""

    def __init__(self) -> None:
        self.case = Case(-1, "none", b"")
        self.answered = 0
        self._talks: set[asyncio.Task[None]] = set()

    def plays(self, case: Case) -> None:
        self.case, self.answered = case, 0

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talk = asyncio.current_task()
        assert talk
        self._talks.add(talk)
        try:
            while await self._answer(reader, writer):
                pass
        except (asyncio.CancelledError, asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has gone, or the test is over
        finally:
            self._talks.discard(talk)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; return whether there may be another one."""
        head = await reader.readuntil(b"\r\n\r\n")
        if length := re.search(rb"(?i)content-length: (\d+)", head):
            await reader.readexactly(int(length[1]))
        case, first = self.case, self.answered == 0
        self.answered += 1
        frame = case.frame if first or case.frame not in ("hang", "trickle") else "length"
        if frame == "hang":
            await reader.read()
            return False
        stays = frame in ("length", "chunked", "slow") and case.status == 200
        data = wire(case, frame, stays)
        step = {"slow": max(1, len(data) // 5), "trickle": 1}.get(frame, len(data) or 1)
        for start in range(0, len(data), step):
            writer.write(data[start : start + step])
            await writer.drain()
            await asyncio.sleep({"slow": 0.002, "trickle": 0.05}.get(frame, 0))
        return stays

    async def end(self) -> None:
        for talk in self._talks:
            talk.cancel()
        await asyncio.gather(*self._talks, return_exceptions=True)


def wire(case: Case, frame: str, stays: bool) -> bytes:
    """Return the bytes of a response."""
    body = b"" if case.status in (204, 304) else case.sent
    headers = {"content-type": "application/json", **case.headers}
    if not stays:
        headers["connection"] = "close"
    if frame in ("chunked", "bad_chunk"):
        headers["transfer-encoding"] = "chunked"
    elif frame != "close":
        headers["content-length"] = str(
            {"cut": len(body) + 100, "short": len(body) // 2}.get(frame, len(body))
        )
    if frame == "long_header":
        headers["x-long"] = "x" * 200_000
    lines = [f"{name}: {text}" for name, text in headers.items()]
    if frame == "two_lengths":
        lines.append(f"content-length: {len(body) + 1}")
    head = "\r\n".join([f"HTTP/1.1 {case.status} Reason", *lines, "", ""]).encode(
        "latin-1", errors="replace"
    )
    match frame:
        case "garbage":
            return b"\x16\x03\x01" + body[:500] + b"\r\n\r\n"
        case "early_hints":
            head = (
                b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n" + head
            )
        case "bad_chunk":
            return head + b"5\r\nabcde\r\nZZ\r\n" + body
        case "chunked":
            pieces = [
                body[start : start + 1000] for start in range(0, min(len(body), 5000), 1000)
            ] + [body[5000:]]
            return (
                head
                + b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in pieces if one)
                + b"0\r\n\r\n"
            )
    return head + body


@asynccontextmanager
async def mouth() -> AsyncIterator[tuple[Mouth, str]]:
    one = Mouth()
    server = await asyncio.start_server(one.accept, "127.0.0.1", 0)
    try:
        yield one, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await one.end()
        await server.wait_closed()


# --- what must hold ---


@dataclass
class Findings:
    """The outcomes of the cases, and the rules that they broke."""

    seen: Counter[str] = field(default_factory=Counter)
    mutated: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    @contextmanager
    def of(self, case: Case) -> Iterator[None]:
        """Record a broken rule, with the data that reproduces it."""
        try:
            yield
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            summary = (
                f"{type(error).__name__} at {os.path.basename(where.filename)}:{where.lineno}: "
                f"{str(error)[:300]!r}"
            )
            about = (
                f"case {case.number} ({case.name}, {case.status}, {case.frame}, "
                f"{case.headers!r:.200})"
            )
            self.wrong.append(f"{summary}\n    {about}\n    {case.body[:300]!r}")

    def add(self, case: Case, kind: str) -> None:
        self.seen[kind] += 1
        self.mutated[kind] += case.name.startswith("~")

    def report(self, provider: str) -> None:
        """Print the outcomes; fail if a rule was broken."""
        print(
            f"\n{provider}, seed {SEED}: {self.seen.total()} cases, {self.mutated.total()} of them "
            f"mutated"
        )
        for kind, number in self.seen.most_common():
            print(f"{number:7}  {kind}")
        kinds = Counter(re.sub(r"\d+", "#", one.split("\n")[0])[:120] for one in self.wrong)
        details = "\n".join(
            [*(f"{number:5}  {kind}" for kind, number in kinds.most_common(30)), *self.wrong[:15]]
        )
        assert not self.wrong, f"{len(self.wrong)} wrong with seed {SEED}:\n{details}"


REASONS = {
    "no JSON object": "JSON object",
    "no daily series": "without a daily series",
    "no price": "not a price",
    "not above zero": "above zero",
    "not reached": "cannot be reached",
    "not read": "cannot be read",
    "no answer in time": "did not answer within",
    "a status": r"answered \d+\.|InternalServerError",
    "a notice": "notice in place of data",
    "no text": "that is no text",
    "too long": r"more than [\d,]+ bytes",
    "compressed": "was not asked for|is not (gzip|deflate)|ends within its (gzip|deflate)",
    "slow down": "slow down",
    "the key": "not accept the key",
    "premium": "asks for a premium key",
    "out of credit": "out of credit",
    "the model": "check OPENAI_MODEL",
    "refused": "refused the request",
    "no connection": "APIConnectionError",
}


def can_be_stored(text: str | None) -> bool:
    return text is None or ("\0" not in text and not re.search("[\ud800-\udfff]", text))


def holds(text: str | None, key: str, body: bytes) -> bool:
    """Return whether `text` has the key, or a long piece of it if the body has the whole key."""
    pieces = [key[at : at + PIECE] for at in range(len(key) - PIECE + 1)]
    if any(piece.encode() in body.replace(key.encode(), b"") for piece in pieces):
        pieces = [key]  # the provider cut it into pieces itself
    return any(piece in (text or "") for piece in pieces)


def check_error(error: AlphaMondayError, key: str, body: bytes) -> None:
    """
    Check that an error has a message that can be stored and shown, and does not contain the key.
    """
    assert str(error)
    assert len(str(error)) < 1000
    assert can_be_stored(str(error)), "its text cannot be stored"
    text = "".join(traceback.format_exception(error)) + repr(error.args)
    assert not holds(text, key, body), "it holds the key"


def kind_of_error(error: AlphaMondayError, *known: type[AlphaMondayError]) -> str:
    assert type(error) in known, f"{error!r} is none of the classes that this client raises"
    reasons = [name for name, pattern in REASONS.items() if re.search(pattern, str(error))]
    return ": ".join([type(error).__name__, *reasons[:1]])


def check_log(lines: list[dict[str, Any]], key: str) -> None:
    """Check that the log has no traceback and no key."""
    text = json.dumps(lines)
    assert "Traceback" not in text
    assert not [line for line in lines if {"exception", "exc_info", "stack_info"} & line.keys()]
    assert key not in text


@contextmanager
def as_deep_as_it_takes() -> Iterator[None]:
    """Let the test parse what the client has parsed, however deep it is."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(before * 3)
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


def members(value: Json, name: str) -> list[Json]:
    return [member[1] for member in value if member[0] == name] if isinstance(value, Object) else []


# --- Alpha Vantage ---

PLAIN = re.compile(r"[0-9]+(\.[0-9]+)?")
SHORT = re.compile(r"[0-9]{1,100}(\.[0-9]{1,100})?")
OF_ALPHA_VANTAGE = (
    UnknownTicker,
    ConfigurationError,
    QuotaSpent,
    ProviderBusy,
    ProviderUnavailable,
    BodyTooLong,
)
SAYS_WHY = {
    UnknownTicker: r"(?i)invalid api call|symbol|\{\}|\[\]|null|^\{\"Meta Data",
    QuotaSpent: r"(?i)detected your api key|day|quota|daily",
    ConfigurationError: r"(?i)apikey|premium",
}


def leniently(body: bytes) -> Json:
    """
    Return the body as JSON, also if it is not UTF-8, or has a number that is too long to be parsed.
    """
    text = body.decode(json.detect_encoding(body), errors="replace")
    return json.loads(
        text, object_pairs_hook=lambda pairs: Object(map(list, pairs)), parse_int=float
    )


def prices_of(body: bytes) -> dict[str, list[tuple[list[str], list[str]]]]:
    """
    Return the texts under open and close in the body, by day.

    A day that the body names twice has two.
    """
    with as_deep_as_it_takes():
        series = members(leniently(body), DAILY_SERIES)[-1]
    prices: dict[str, list[tuple[list[str], list[str]]]] = {}
    for day, bar in series:
        prices.setdefault(day, []).append((members(bar, "1. open"), members(bar, "4. close")))
    return prices


def is_written(price: Decimal, texts: list[Json]) -> bool:
    """Return whether a price is valid, and equal to one of these texts digit by digit."""
    plain = [
        text for text in texts if isinstance(text, str) and text.isascii() and PLAIN.fullmatch(text)
    ]
    return price > 0 and price.as_tuple() in [Decimal(text).as_tuple() for text in plain]


def check_bars(answer: Any, body: bytes) -> None:
    """
    Check that every bar is in the body under its day, and that every other day of the body is
    reported as unreadable.
    """
    stated, bars = prices_of(body), answer.bars
    opens = {day: [text for opens, _ in texts for text in opens] for day, texts in stated.items()}
    ends = {day: [text for _, ends in texts for text in ends] for day, texts in stated.items()}
    days = [str(bar.trading_day) for bar in bars]
    assert days == sorted(days)
    assert set(days) <= set(stated), "other days than the body's"
    for day in set(stated) - set(days):
        assert any(
            row.day is None or str(row.day) in (day, day[:10]) or day in row.reason
            for row in answer.unreadable
        )
    for bar in bars:
        day = str(bar.trading_day)
        if bar.open is None:
            assert not are_one(opens[day]) or not is_price(opens[day][0]), (
                f"{day}: an open that can be read"
            )
        else:
            assert is_written(bar.open, opens[day]), f"{day}: no such open"
        assert is_written(bar.close, ends[day]), f"{day}: no such close"
        assert are_one(ends[day]), f"{day}: which close?"


def are_one(texts: list[Json]) -> bool:
    return bool(texts) and all(text == texts[0] for text in texts)


def is_price(text: Json) -> bool:
    return isinstance(text, str) and bool(SHORT.fullmatch(text)) and Decimal(text) > 0


async def fuzz_alpha_vantage(count: int, pool: Any, monkeypatch: pytest.MonkeyPatch) -> Findings:
    clock, key, findings, log = (
        HandSetClock(NOW),
        KEYS["alphavantage"],
        Findings(),
        structlog.get_logger(),
    )
    monkeypatch.setattr(alpha_vantage, "_TIME_LIMIT", TIME_LIMIT)
    async with mouth() as (server, address):
        with logged("INFO", clock) as lines:
            client = AlphaVantage(
                key=key,
                ledger=RequestLedger(
                    pool=pool,
                    provider="alphavantage",
                    limits=rate_limits(1000, 1000, 1000),
                    clock=clock,
                ),
                clock=clock,
                base_url=address,
            )
            context = Context(
                pool=pool,
                model_clients={},
                prices=client,
                calendar=Calendar(),
                benchmark=BENCHMARK,
                in_force=IN_FORCE,
                clock=clock,
                alerts=NO_RECEIVER,
                heartbeat=NO_RECEIVER,
                head_repository=HeadRepository("", "main"),
            )
            for case in cases("alphavantage", count):
                server.plays(case)
                clock.time = NOW
                # All five attempts would have the same outcome, so most cases make one.
                client.attempts = 1 if case.number % 25 else 5
                with findings.of(case):
                    try:
                        async with asyncio.timeout(CASE_TIMEOUT):
                            answer = await client.bars(TICKER, NOW - timedelta(minutes=1))
                    except AlphaMondayError as error:
                        log.warning("in vain", exc_info=error)
                        findings.add(case, kind_of_error(error, *OF_ALPHA_VANTAGE))
                        check_error(error, key, case.body)
                        if why := SAYS_WHY.get(type(error)):
                            with as_deep_as_it_takes():
                                assert re.search(why, to_json(leniently(case.body))), (
                                    "the body says no such thing"
                                )
                    else:
                        findings.add(case, "some bars" if answer.unreadable else "bars")
                        check_bars(answer, case.body)
                        clock.time = NOW + timedelta(seconds=case.number)
                        # A new ticker for every fifty cases: readings are never deleted, and each
                        # case reads all of them.
                        letters = (case.number // 50 % 26, case.number // 1300 % 26)
                        ticker = "A" + "".join(ascii_uppercase[index] for index in letters)
                        await closes.store_answer(context, ticker, answer=answer, session=BASELINE)
                        await check_closes(pool, ticker, answer.bars)
                async with pool.connection() as conn:
                    await conn.execute("DELETE FROM operations.provider_requests")
            await client.close()
            gc.collect()
    with findings.of(Case(-1, "the log", b"")):
        check_log(lines, key)
    return findings


async def check_closes(pool: Any, ticker: str, bars: list[Any]) -> None:
    """Check that the newest stored readings are equal to the bars."""
    since = Calendar().session_before(BASELINE)
    async with pool.connection() as conn:
        for bar in bars:
            if since <= bar.trading_day < MONDAY and Calendar().is_session(bar.trading_day):
                stored = await get_newest(conn, ticker, bar.trading_day)
                assert stored
                assert bar.open in (None, stored.open)
                assert stored.close == bar.close


async def check_alpha_vantage(count: int, pool: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    findings = await fuzz_alpha_vantage(count, pool, monkeypatch)
    findings.report("Alpha Vantage")
    assert findings.seen.total() == count
    important = [
        "bars",
        "some bars",
        "UnknownTicker",
        "QuotaSpent",
        "ProviderBusy: slow down",
        "ProviderBusy: a status",
    ]
    important += ["ConfigurationError: the key", "ConfigurationError: premium"]
    reasons = ["no JSON object", "no daily series", "no price", "not reached", "no answer in time"]
    important += [f"ProviderUnavailable: {reason}" for reason in [*reasons, "a status", "a notice"]]
    assert [kind for kind in important if not findings.seen[kind]] == []
    assert findings.mutated["bars"] > count / 20
    assert findings.mutated["some bars"] > count / 50


async def test_alpha_vantage(pool, monkeypatch):
    """
    Any answer of Alpha Vantage results in bars that are in it, or in an error of a known class.
    """
    await check_alpha_vantage(FEW, pool, monkeypatch)


@pytest.mark.long
async def test_alpha_vantage_at_length(pool, monkeypatch):
    """The same, ten thousand times."""
    await check_alpha_vantage(MANY, pool, monkeypatch)


# --- OpenAI ---

WELL_FORMED = re.compile(r"[A-Z]{1,5}(\.[A-Z])?")
REFUSALS = {
    "more than is stored": r"^The answer had [\d,]+ bytes; at most 65,536 are read\.$",
    "no choices": "had no choices",
    "truncated": "was truncated",
    "refused": "The model refused",
    "empty": "was empty",
    "not of the schema": "not JSON of the schema",
    "another count": "exactly 3 are needed",
    "repeated": "more than once",
    "the benchmark": "is the benchmark",
    "no ticker": "is not a ticker",
    "no reasoning": "has no reasoning",
    "long reasoning": "is longer than",
    "cannot be stored": "cannot be stored",
    "no JSON": "was not JSON, or not all of it",
    "a page": "a web page in place of JSON",
    "no completion": "JSON that is no completion",
    "too deep": "JSON that is nested too deeply",
    "no message": "choice had no message",
    "an error": "The provider answered with an error",
    "no list": "choices were no list",
    "no text": "content held no text",
    "twice": "stood there twice",
    "one name twice": "two members of one name",
    "no UTF-8": "bytes that are no UTF-8",
    "a tool": "a call of a tool",
    "filtered": "content filter",
}
# Those that a few cases may not bring about.
RARE = {
    "long reasoning",
    "no choices",
    "no list",
    "no text",
    "twice",
    "one name twice",
    "no UTF-8",
    "a tool",
    "filtered",
}


def check_ideas(answer: str) -> None:
    """Check that an accepted answer obeys every rule, and that its ideas are equal to its picks."""
    chosen = prompt.parse_answer(answer, BENCHMARK, "1")
    answered = json.loads(answer)["picks"]
    assert len(chosen) == len(answered) == len({idea.ticker for idea in chosen}) == 3
    for idea, pick in zip(chosen, answered, strict=True):
        assert set(pick) == {"ticker", "action", "reasoning"}
        assert WELL_FORMED.fullmatch(idea.ticker)
        assert idea.ticker != BENCHMARK
        assert idea.ticker == pick["ticker"].strip().upper().replace("-", ".")
        assert pick["ticker"].isascii()
        assert str(idea.action) == pick["action"]
        assert pick["action"] in ("BUY", "SELL")
        assert idea.reasoning == pick["reasoning"].strip()
        assert idea.reasoning
        assert can_be_stored(idea.reasoning)


def a_question(context: Context, attempt: int, id_: UUID) -> Generation:
    return Generation(
        id=id_,
        series=SERIES,
        run_date=MONDAY,
        attempt=attempt,
        asked_at=context.now(),
        requested_model=context.model_clients["main"].model,
        prompt_version="1",
        system_prompt="system",
        user_prompt="user",
    )


async def fuzz_openai(count: int, pool: Any) -> Findings:
    clock, key, findings, log = (
        HandSetClock(NOW),
        KEYS["openai"],
        Findings(),
        structlog.get_logger(),
    )
    completed: list[Generation] = []
    async with mouth() as (server, address):
        with logged("INFO", clock) as lines:
            picker = ModelClient(
                key,
                ModelOptions(model="gpt-5.4-mini"),
                f"{address}/v1",
                timeout=TIME_LIMIT,
                clock=clock,
            )
            prices = AlphaVantage(
                "", RequestLedger(pool=pool, provider="alphavantage", limits=[], clock=clock), clock
            )
            context = Context(
                pool=pool,
                model_clients={SERIES: picker},
                prices=prices,
                calendar=Calendar(),
                benchmark=BENCHMARK,
                in_force=IN_FORCE,
                clock=clock,
                alerts=NO_RECEIVER,
                heartbeat=NO_RECEIVER,
                head_repository=HeadRepository("", "main"),
            )
            for case in cases("openai", count):
                server.plays(case)
                with findings.of(case):
                    try:
                        async with asyncio.timeout(CASE_TIMEOUT):
                            answer = await picker.ask("system", "user")
                    except AlphaMondayError as error:
                        log.warning("in vain", exc_info=error)
                        findings.add(
                            case,
                            kind_of_error(
                                error,
                                ConfigurationError,
                                ProviderBusy,
                                ProviderUnavailable,
                                BodyTooLong,
                            ),
                        )
                        check_error(error, key, case.body)
                    else:
                        done = weekly._with_answer(
                            context, a_question(context, case.number + 1, uuid4()), answer
                        )
                        findings.add(case, kind_of_answer(done))
                        await check_answer(context=context, done=done, case=case, key=key)
                        completed.append(done)
            await picker.close()
            await prices.close()
            gc.collect()
    with findings.of(Case(-1, "the log", b"")):
        check_log(lines, key)
    with findings.of(Case(-1, "the record", b"")):
        await check_record(pool, completed, key)
    return findings


def kind_of_answer(done: Generation) -> str:
    if done.accepted:
        return "accepted"
    reasons = [name for name, pattern in REFUSALS.items() if re.search(pattern, done.refusal or "")]
    assert reasons, done.refusal
    return f"refused: {reasons[0]}"


async def check_answer(context: Context, done: Generation, case: Case, key: str) -> None:
    """
    Check that an answer is stored unchanged, except for the key and for what Postgres cannot store.
    """
    for text in (done.answer, done.refusal, done.answered_model, done.request_id):
        assert not holds(text, key, case.body), "it holds the key"
        assert text is None or can_be_stored(make_storable(text))
    if done.accepted:
        with as_deep_as_it_takes():
            body = json.loads(text_of(case.body), object_pairs_hook=pairs, parse_int=float)
            texts = [
                text.replace(key, "***")
                for choices in members(body, "choices")
                for text in texts_in(choices)
            ]
        assert done.answer in texts, "the answer is not the body's"
        check_ideas((done.answer or "").strip("\ufeff"))
    async with context.pool.connection() as conn:
        assert await generations.claim(
            conn, a_question(context, done.attempt, done.id), in_force=None
        )
    await weekly._complete(context, done)


def pairs(members: list[tuple[str, Json]]) -> Object:
    return Object(map(list, members))


def texts_in(value: Json) -> list[str]:
    """Return every text within a value, however deep, and the joined texts of each list."""
    if isinstance(value, str):
        return [value]
    inner = [place[at] for place, at in slots(value) if isinstance(place[at], str)]
    lists = [value, *(place[at] for place, at in slots(value))]
    whole = [
        one for one in lists if isinstance(one, list) and all(isinstance(part, str) for part in one)
    ]
    return inner + ["".join(one) for one in whole]


def text_of(body: bytes) -> str:
    return body.decode(json.detect_encoding(body), "replace")


async def check_record(pool: Any, completed: list[Generation], key: str) -> None:
    """
    Check that all completed questions are in the table and in the journal, and that the key is not.
    """
    async with pool.connection() as conn:
        stored = {one.id: one for one in await generations.list_by_run_date(conn, SERIES, MONDAY)}
        cursor = await conn.execute("SELECT count(*) FROM journal")
        assert await cursor.fetchone() == (len(completed),)
        cursor = await conn.execute(
            "SELECT count(*) FROM journal WHERE strpos(content, %s) > 0", (key,)
        )
        assert await cursor.fetchone() == (0,)
    for one in completed:
        row = stored[one.id]
        assert (row.answer, row.refusal) == (
            make_storable(one.answer or ""),
            one.refusal and make_storable(one.refusal),
        )
        assert (row.prompt_tokens, row.completion_tokens) == (
            one.prompt_tokens,
            one.completion_tokens,
        )
        assert row.accepted is one.accepted
        assert key not in (row.answer or "") + (row.refusal or "") + (row.answered_model or "")


async def check_openai(count: int, pool: Any) -> None:
    findings = await fuzz_openai(count, pool)
    findings.report("OpenAI")
    assert findings.seen.total() == count
    important = ["accepted", "ProviderBusy: slow down"]
    important += [
        f"ConfigurationError: {reason}"
        for reason in ["the key", "the model", "refused", "out of credit"]
    ]
    important += [
        f"ProviderUnavailable: {reason}"
        for reason in ["no connection", "a status", "no answer in time"]
    ]
    important += [f"refused: {reason}" for reason in REFUSALS if reason not in RARE]
    assert [kind for kind in important if not findings.seen[kind]] == []
    assert findings.mutated["accepted"] > count / 20
    assert findings.mutated["refused: not of the schema"] > count / 20


async def test_openai(pool):
    """
    Any answer of the model's provider results in three good ideas, in a refusal with its reason, or
    in a known error.
    """
    await check_openai(FEW, pool)


@pytest.mark.long
async def test_openai_at_length(pool):
    """The same, ten thousand times."""
    await check_openai(MANY, pool)
