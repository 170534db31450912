"""
Stand-ins for both providers: a process on loopback that speaks their protocols.

`GET /query` is Alpha Vantage's (`TIME_SERIES_DAILY` and `SPLITS`, its notices and errors as HTTP 200, its limits kept),
and `POST /v1/chat/completions` is OpenAI's. Prices are the made-up market's; ideas read like a model's. The time is the
rehearsal's told time, asked of its database, a given one, or the real one. Every request is logged to a file before it
is answered, a JSON object a line, so that counts survive a kill. What goes wrong is in `faults`.

    alpha-monday standins --port 8090 --now 2026-11-23T14:00:00+00:00 --faults faults.json --log requests.jsonl
"""

import asyncio
import os
import socket
import sys
from argparse import ArgumentParser, ArgumentTypeError
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

from app.database.sessions import Session
from app.domain.calendar import Calendar, today
from app.domain.model import PICKS_PER_BATCH
from app.errors import ConfigurationError
from app.simulation.faults import (
    BAD_KEY,
    BURST,
    QUOTA,
    SERIES,
    UNKNOWN,
    Asked,
    Reply,
    Script,
    error,
    read,
    said,
)
from app.simulation.market import MARKET, SHARES, Market, as_listed
from app.simulation.odd_faults import EVERY
from app.simulation.odd_providers import SPLITS_OFTEN, Named, OddProviders
from jobs.context import RealClock

PER_DAY = 25

# The variable with the address of the database whose told time it is.
CLOCK = "REHEARSAL_CLOCK"
GAP = timedelta(seconds=1)
HANG = 120.0
TRICKLE = 0.2
AWAY = timedelta(seconds=5)

Now = Callable[[], Awaitable[datetime]]


class StandIns:
    """An ASGI app in both providers' place."""

    def __init__(
        self,
        market: Market,
        now: Now,
        log: Path | None = None,
        script: Script | None = None,
        *,
        odd: OddProviders | None = None,
        think: Callable[[float], Awaitable[None]] | None = None,
        limits: bool = True,
    ) -> None:
        self.market, self.now, self.odd, self.think, self.limits = market, now, odd, think, limits
        self.script = script or Script()
        self._log = log.open("ab", buffering=0) if log else None
        self._recent: deque[datetime] = deque(maxlen=PER_DAY)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request, rightly or with the fault that the script has for it."""
        if scope["type"] != "http":
            return
        at, body = await self.now(), b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        reply = self.reply(scope, body, at)
        if reply.thinks and self.think:
            await self.think(reply.thinks)
        if reply.hang:
            with suppress(TimeoutError):
                await asyncio.wait_for(receive(), HANG)  # until the other side gives up
            return
        headers = {**reply.headers, "content-length": len(reply.body), "x-request-id": f"req_{at.timestamp():.6f}"}
        encoded = [(name.encode(), str(value).encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": reply.status, "headers": encoded})
        rest = reply.body[: len(reply.body) // 2] if reply.cut else reply.body
        slowly = int(HANG / TRICKLE) if reply.trickle else 0
        for byte in rest[:slowly]:
            await send({"type": "http.response.body", "body": bytes([byte]), "more_body": True})
            with suppress(TimeoutError):
                await asyncio.wait_for(receive(), TRICKLE)
                return  # the other side gave up
        await send({"type": "http.response.body", "body": rest[slowly:], "more_body": reply.cut})

    def reply(self, scope: Any, body: bytes, at: datetime) -> Reply:
        """Return the reply to a request, and log it."""
        match scope["method"], scope["path"]:
            case "GET", "/query":
                query = {name: values[0] for name, values in parse_qs(scope["query_string"].decode()).items()}
                symbol = query.get("symbol", "")
                function, key = query.get("function", ""), query.get("apikey", "")
                asked = Asked(
                    provider="alphavantage", function=function, key=key, symbol=symbol, at=at, market=self.market
                )
                refused, good = self._alpha_vantage(asked)
            case "POST", "/v1/chat/completions":
                key = dict(scope["headers"]).get(b"authorization", b"").decode().removeprefix("Bearer ")
                asked = Asked(provider="openai", key=key, symbol="", at=at)
                refused, good = self._openai(body, asked)
            case _:
                return error(404, "Not found.")(said({}), Asked(provider="", key="", symbol="", at=at))
        faults = [] if refused else self._faults(asked)
        self._write(asked, refused, "+".join(one.name for one in faults) or None)
        for one in faults:
            good = one.fault(good, asked)
        return good

    def _faults(self, asked: Asked) -> list[Named]:
        """Return what the script has for a request; without a word of it, what goes wrong by chance."""
        if name := self.script.fault(asked):
            return [Named(name, EVERY[asked.provider][name])]
        return self.odd.faults(asked) if self.odd else []

    def _alpha_vantage(self, asked: Asked) -> tuple[str | None, Reply]:
        if not asked.key:
            return "bad_key", said({"Error Message": BAD_KEY})
        if self.limits and self._recent and asked.at - self._recent[-1] < GAP:
            return "burst", said({"Information": BURST})
        if self.limits and len(self._recent) == PER_DAY and asked.at - self._recent[0] < timedelta(days=1):
            return "quota", said({"Information": QUOTA.format(key=asked.key)})
        self._recent.append(asked.at)
        ticker = asked.symbol.replace("-", ".")
        answers = {"TIME_SERIES_DAILY": self._daily, "SPLITS": self._splits}
        if asked.function not in answers or ticker not in SHARES:
            return "unknown", said({"Error Message": UNKNOWN})
        return None, said(answers[asked.function](asked.symbol, ticker, asked.at))

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
            SERIES: {str(day): as_listed(bar) for day, bar in reversed(bars)},
        }

    def _splits(self, symbol: str, ticker: str, at: datetime) -> dict[str, Any]:
        """Return the splits up to today, newest first."""
        listed = reversed(self.market.splits(ticker, today(at)))
        return {
            "symbol": symbol,
            "data": [{"effective_date": str(day), "split_factor": factor} for day, factor in listed],
        }

    def _openai(self, body: bytes, asked: Asked) -> tuple[str | None, Reply]:
        if not asked.key:
            return "bad_key", error(401, "You didn't provide an API key.")(said({}), asked)
        request = msgspec.json.decode(body)
        # With `odd` some tickers are gone for good: the model has other ideas when it is asked again.
        before = self.odd.questions_on(today(asked.at)) if self.odd else 0
        seed = f"{self.market.seed}/{before}" if before else self.market.seed
        content = msgspec.json.encode({"picks": ideas(today(asked.at), seed)}).decode()
        prompt_tokens, completion_tokens = len(body) // 4, len(content) // 4
        message = {"role": "assistant", "content": content, "refusal": None}
        completion: dict[str, Any] = {
            "id": f"chatcmpl-{today(asked.at)}",
            "object": "chat.completion",
            "created": int(asked.at.timestamp()),
            "model": f"{request['model']}-2026-03-17",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {
                "prompt_tokens": prompt_tokens,
                "completion_tokens": completion_tokens,
                "total_tokens": prompt_tokens + completion_tokens,
            },
        }
        return None, said(completion)

    def _write(self, asked: Asked, refused: str | None, fault: str | None) -> None:
        if self._log:
            line = {
                "provider": asked.provider, "at": asked.at, "function": asked.function, "symbol": asked.symbol
            }  # fmt: skip
            self._log.write(msgspec.json.encode({**line, "refused": refused, "fault": fault}) + b"\n")


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
    chosen = chance.sample([ticker for ticker in SHARES if ticker != MARKET], PICKS_PER_BATCH)
    return [_idea(ticker, chance) for ticker in chosen]


def _idea(ticker: str, chance: Random) -> dict[str, str]:
    share, buy = SHARES[ticker], chance.random() < 0.65
    words = chance.choice(_BUY if buy else _SELL)
    reasoning = words.format(name=share.name, tailwind=share.tailwind, headwind=share.headwind)
    return {"ticker": ticker, "action": "BUY" if buy else "SELL", "reasoning": reasoning}


def told_by(conninfo: str) -> Now:
    """
    Return what asks the rehearsal's database for the time.

    While that is away it is waited for, and then time goes on from the last answer: told time leaps between answers.
    """
    lag = timedelta(0)
    connection: psycopg.AsyncConnection[Any] | None = None
    real = RealClock()

    async def now() -> datetime:
        nonlocal connection, lag
        asked = real.now()
        while real.now() - asked < AWAY:
            try:
                if connection is None or connection.closed:
                    connection = await Session.connect(conninfo, name="simulators", autocommit=True)
                row = await (await connection.execute("SELECT told.now()")).fetchone()
                assert row
                told: datetime = row[0].astimezone(UTC)
                lag = real.now() - told
                break
            except psycopg.Error:
                connection = None
                await real.sleep(0.05)
        return asked - lag

    return now


def thinking_in(conninfo: str) -> Callable[[float], Awaitable[None]]:
    """Return what lets seconds of a rehearsal pass at once: a real answer would take its real time."""

    async def think(seconds: float) -> None:
        with suppress(psycopg.Error):  # the database is away: the answer comes at once
            async with await Session.connect(conninfo, name="simulators") as connection:
                await connection.execute("UPDATE told.clock SET lag = greatest(0, lag - %s)", (seconds,))
        await RealClock().sleep(0.3)  # until the service has seen it, too

    return think


def from_(start: datetime) -> Now:
    """Return what tells the time that begins at `start` and goes on from there."""
    real = RealClock()
    lag = real.now() - start

    async def now() -> datetime:
        return real.now() - lag

    return now


async def serve(app: StandIns, listener: socket.socket, *, until_input_ends: bool) -> None:
    """Answer requests until told to stop, or until standard input ends: it is the starter's, and ends with it."""
    # What uvicorn would log as errors are the faults that were asked for.
    config = uvicorn.Config(app, log_level="critical", lifespan="off", server_header=False, timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve([listener]))
    if until_input_ends:
        await asyncio.to_thread(sys.stdin.buffer.read)
        server.should_exit = True
    await running


def _port(text: str) -> int:
    with suppress(ValueError):
        if 0 <= (number := int(text)) <= 65535:
            return number
    raise ArgumentTypeError(f"{text!r} is no number from 0 to 65535")


def _moment(text: str) -> datetime:
    with suppress(ValueError):
        if (moment := datetime.fromisoformat(text)).tzinfo:
            return moment
    raise ArgumentTypeError(f"{text!r} is no time such as 2026-11-16T09:00:00-05:00")


def _seed(text: str) -> str:
    if not text.strip():
        raise ArgumentTypeError("a seed is a text of any kind such as a-seed; this one is empty")
    return text


def _days(text: str) -> list[date]:
    try:
        return [date.fromisoformat(day) for day in text.split(",") if day]
    except ValueError:
        raise ArgumentTypeError(f"{text!r} are no days such as 2026-11-16,2026-11-17") from None


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the stand-ins as a process."""
    about = (
        "Serve simulators of Alpha Vantage and OpenAI on loopback, with faults on request. "
        "The first line printed is the address."
    )
    known = "Faults: " + "; ".join(f"{provider}: {', '.join(faults)}" for provider, faults in EVERY.items())
    parser = ArgumentParser(
        prog="alpha-monday standins",
        description=about,
        epilog=f"Example: alpha-monday standins --port 8090 --faults faults.json. {known}.",
    )
    parser.add_argument("--port", type=_port, default=0, help="where to listen on 127.0.0.1; 0: any free port")
    parser.add_argument("--now", type=_moment, help="the time at the start, with its offset from UTC")
    parser.add_argument(
        "--faults",
        type=Path,
        help="a script of faults, as JSON: a list of rules with provider, fault "
        "and, if wanted, function, symbol, since, until, times",
    )
    # Each decides alone what goes wrong by chance.
    chance = parser.add_mutually_exclusive_group()
    chance.add_argument("--hostile", type=_seed, metavar="SEED", help="let things go wrong now and then")
    chance.add_argument(
        "--odd",
        type=_seed,
        metavar="SEED",
        help="let one request in four go wrong, in every way that is known of providers, in a market with more splits",
    )
    parser.add_argument("--log", type=Path, help="the file to which requests are logged, a JSON object a line")
    parser.add_argument("--no-limits", action="store_true", help="answer however often they are asked")
    parser.add_argument(
        "--closed", type=_days, default="", help="sessions called off on short notice, with commas between them"
    )
    parser.add_argument("--until-input-ends", action="store_true", help="end when standard input does")
    given = parser.parse_args(arguments)
    try:
        rules = read(given.faults.read_bytes(), EVERY) if given.faults else []
        listener = socket.create_server(("127.0.0.1", given.port))
    except OSError as wrong:
        reason = (wrong.strerror or str(wrong)).split(" (while")[0]
        what = wrong.filename or f"port {given.port}"
        raise ConfigurationError(f"The stand-ins cannot start: {what}: {reason}.") from None
    clock = os.environ.get(CLOCK)
    now = told_by(clock) if clock else from_(given.now or RealClock().now())
    script = Script(rules, given.hostile or "")
    odd = OddProviders(given.odd) if given.odd else None
    market = Market(Calendar(given.closed), splits_often=SPLITS_OFTEN) if odd else Market(Calendar(given.closed))
    think = thinking_in(clock) if clock else None
    app = StandIns(market, now, given.log, script, odd=odd, think=think, limits=not given.no_limits)
    with suppress(KeyboardInterrupt, BrokenPipeError):
        os.write(1, f"http://127.0.0.1:{listener.getsockname()[1]}\n".encode())
        # asyncio itself would leave Nagle on: 40 ms an answer
        uvloop.run(serve(app, listener, until_input_ends=given.until_input_ends))


if __name__ == "__main__":
    main()
