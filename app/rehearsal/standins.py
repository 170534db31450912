"""
Stand-ins for both providers: a process on loopback that speaks their protocols.

`GET /query` is Alpha Vantage's (`TIME_SERIES_DAILY`, its notices and errors as HTTP 200, its limits kept), and
`POST /v1/chat/completions` is OpenAI's. Prices are the made-up market's; ideas read like a model's. The time is the
rehearsal's told time, asked of its database, a given one, or the real one. Every request is logged to a file before it
is answered, a JSON object a line, so that counts survive a kill.

    python -m app.rehearsal.standins --port 0 --now 2026-11-23T14:00:00+00:00 --log requests.jsonl

The first line on standard output is the address. The process ends when its standard input does.
"""

import asyncio
import os
import socket
import sys
from argparse import ArgumentParser
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import parse_qs

import msgspec
import psycopg
import uvicorn
import uvloop

from app.record.calendar import Calendar, today
from app.rehearsal.market import MARKET, SHARES, Market
from app.tools import RealClock

PER_DAY = 25
GAP = timedelta(seconds=1)

BURST = (
    "Thank you for using Alpha Vantage! Please consider spreading out your free API requests more sparingly "
    "(1 request per second). You may subscribe to any of the premium plans at https://www.alphavantage.co/premium/ to "
    "lift the free key rate limit (25 requests per day) and instantly remove all daily rate limits."
)
QUOTA = (
    "We have detected your API key as {key} and our standard API rate limit is 25 requests per day. Please subscribe "
    "to any of the premium plans at https://www.alphavantage.co/premium/ to instantly remove all daily rate limits."
)
UNKNOWN = (
    "Invalid API call. Please retry or visit the documentation (https://www.alphavantage.co/documentation/) for "
    "TIME_SERIES_DAILY."
)
BAD_KEY = (
    "the parameter apikey is invalid or missing. Please claim your free API key on "
    "(https://www.alphavantage.co/support/#api-key). It should take less than 20 seconds."
)

Reply = tuple[int, dict[str, Any]]
Now = Callable[[], Awaitable[datetime]]


class StandIns:
    """An ASGI app in both providers' place."""

    def __init__(self, market: Market, now: Now, log: Path | None = None, *, limits: bool = True) -> None:
        self.market, self.now, self.limits = market, now, limits
        self._log = log.open("ab", buffering=0) if log else None
        self._recent: deque[datetime] = deque(maxlen=PER_DAY)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        at, body = await self.now(), b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        status, answer = self.answer(scope, body, at)
        payload = msgspec.json.encode(answer)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(payload)).encode())]
        headers.append((b"x-request-id", f"req_{at.timestamp():.6f}".encode()))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": payload})

    def answer(self, scope: Any, body: bytes, at: datetime) -> Reply:
        """Return the status and the body of the answer to a request."""
        match scope["method"], scope["path"]:
            case "GET", "/query":
                query = {name: values[0] for name, values in parse_qs(scope["query_string"].decode()).items()}
                refused, reply = self._alpha_vantage(query, at)
                self._write(
                    "alphavantage", at, function=query.get("function"), symbol=query.get("symbol"), refused=refused
                )
                return reply
            case "POST", "/v1/chat/completions":
                self._write("openai", at)
                return self._openai(dict(scope["headers"]), body, at)
        return 404, {"error": {"message": "Not found.", "type": "invalid_request_error", "param": None, "code": None}}

    def _alpha_vantage(self, query: dict[str, str], at: datetime) -> tuple[str | None, Reply]:
        if not query.get("apikey"):
            return "key", (200, {"Error Message": BAD_KEY})
        if self.limits and self._recent and at - self._recent[-1] < GAP:
            return "burst", (200, {"Information": BURST})
        if self.limits and len(self._recent) == PER_DAY and at - self._recent[0] < timedelta(days=1):
            return "quota", (200, {"Information": QUOTA.format(key=query["apikey"])})
        self._recent.append(at)
        ticker = query.get("symbol", "").replace("-", ".")
        if query.get("function") != "TIME_SERIES_DAILY" or ticker not in SHARES:
            return "unknown", (200, {"Error Message": UNKNOWN})
        return None, (200, self._daily(query["symbol"], ticker, at))

    def _daily(self, symbol: str, ticker: str, at: datetime) -> dict[str, Any]:
        """Return the latest 100 bars, newest first, as of a time at which today's session has not begun."""
        bars = self.market.bars(ticker, today(at) - timedelta(days=1))
        return {
            "Meta Data": {
                "1. Information": "Daily Prices (open, high, low, close) and Volumes",
                "2. Symbol": symbol,
                "3. Last Refreshed": str(bars[-1][0]),
                "4. Output Size": "Compact",
                "5. Time Zone": "US/Eastern",
            },
            "Time Series (Daily)": {
                str(day): {
                    "1. open": bar.open,
                    "2. high": bar.high,
                    "3. low": bar.low,
                    "4. close": bar.close,
                    "5. volume": bar.volume,
                }
                for day, bar in reversed(bars)
            },
        }

    def _openai(self, headers: dict[bytes, bytes], body: bytes, at: datetime) -> Reply:
        if not headers.get(b"authorization", b"").startswith(b"Bearer "):
            message = "You didn't provide an API key."
            return 401, {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}}
        request = msgspec.json.decode(body)
        content = msgspec.json.encode({"picks": ideas(today(at), self.market.seed)}).decode()
        prompt_tokens, completion_tokens = len(body) // 4, len(content) // 4
        return 200, {
            "id": f"chatcmpl-{today(at)}",
            "object": "chat.completion",
            "created": int(at.timestamp()),
            "model": f"{request['model']}-2024-07-18",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": content, "refusal": None},
                    "finish_reason": "stop",
                }
            ],
            "usage": {
                "prompt_tokens": prompt_tokens,
                "completion_tokens": completion_tokens,
                "total_tokens": prompt_tokens + completion_tokens,
            },
        }

    def _write(self, provider: str, at: datetime, **what: object) -> None:
        if self._log:
            self._log.write(msgspec.json.encode({"provider": provider, "at": at, **what}) + b"\n")


_BUY = (
    "{name} goes into the next two weeks with {tailwind}, and the market still prices in a slowdown. "
    "Positioning is light after the last pullback, which leaves room for a re-rating against the index.",
    "Estimates for {name} have been moving up on {tailwind}. The shares have lagged their sector, "
    "and a catch-up is more likely than a further slide over a fortnight.",
    "I expect {name} to do better than the index: {tailwind} should outweigh {headwind} in the near term, "
    "and the chart has held its 50-day average.",
    "{name} combines {tailwind} with a balance sheet that cushions surprises. Nervous tapes reward that.",
)
_SELL = (
    "{name} faces {headwind}, which consensus has been slow to reflect. After a strong run the risk over "
    "the next two weeks lies to the downside.",
    "The optimism about {tailwind} at {name} looks fully priced, while {headwind} is not. "
    "I expect it to do worse than the index.",
    "Momentum in {name} has faded. With {headwind} ahead, holders have reason to take profits before the next report.",
    "At this valuation {name} needs everything to go right; with {headwind} that is unlikely within a fortnight.",
)


def ideas(monday: date, seed: str) -> list[dict[str, str]]:
    """Return three ideas for a Monday that read like a model's."""
    chance = Random(f"{seed}/ideas/{monday}")  # noqa: S311
    chosen = chance.sample([ticker for ticker in SHARES if ticker != MARKET], 3)
    return [_idea(ticker, chance) for ticker in chosen]


def _idea(ticker: str, chance: Random) -> dict[str, str]:
    share, buy = SHARES[ticker], chance.random() < 0.65
    words = chance.choice(_BUY if buy else _SELL)
    reasoning = words.format(name=share.name, tailwind=share.tailwind, headwind=share.headwind)
    return {"ticker": ticker, "action": "BUY" if buy else "SELL", "reasoning": reasoning}


def told_by(conninfo: str) -> Now:
    """Return what asks the rehearsal's database for the time; while that is away, time goes on from the last answer."""
    lag = timedelta(0)
    connection: psycopg.AsyncConnection[Any] | None = None
    real = RealClock()

    async def now() -> datetime:
        nonlocal connection, lag
        try:
            if connection is None or connection.closed:
                connection = await psycopg.AsyncConnection.connect(conninfo, autocommit=True)
            row = await (await connection.execute("SELECT told.now()")).fetchone()
            assert row
            told: datetime = row[0].astimezone(UTC)
            lag = real.now() - told
        except psycopg.Error:
            connection = None
        return real.now() - lag

    return now


def from_(start: datetime) -> Now:
    """Return what tells the time that begins at `start` and goes on from there."""
    real = RealClock()
    lag = real.now() - start

    async def now() -> datetime:
        return real.now() - lag

    return now


async def serve(app: StandIns, listener: socket.socket) -> None:
    """Answer requests until standard input ends: it is the starter's, and ends with it."""
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off", server_header=False))
    running = asyncio.create_task(server.serve([listener]))
    await asyncio.to_thread(sys.stdin.buffer.read)
    server.should_exit = True
    await running


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the stand-ins as a process."""
    parser = ArgumentParser(prog="standins", description=__doc__.splitlines()[1] if __doc__ else None)
    parser.add_argument("--port", type=int, default=0, help="where to listen on 127.0.0.1; 0: any free port")
    parser.add_argument("--clock", default="", help="the rehearsal's database, whose told time it is")
    parser.add_argument("--now", type=datetime.fromisoformat, help="the time at the start, with its offset from UTC")
    parser.add_argument("--log", type=Path, help="the file to which requests are logged")
    parser.add_argument("--no-limits", action="store_true", help="answer however often they are asked")
    parser.add_argument("--closed", default="", help="sessions called off on short notice, with commas between them")
    given = parser.parse_args(arguments)
    closed = [date.fromisoformat(day) for day in given.closed.split(",") if day]
    listener = socket.create_server(("127.0.0.1", given.port))
    now = told_by(given.clock) if given.clock else from_(given.now or RealClock().now())
    app = StandIns(Market(Calendar(closed)), now, given.log, limits=not given.no_limits)
    os.write(1, f"http://127.0.0.1:{listener.getsockname()[1]}\n".encode())
    with suppress(KeyboardInterrupt):
        uvloop.run(serve(app, listener))  # asyncio itself would leave Nagle on: 40 ms an answer


if __name__ == "__main__":
    main()
