"""
Simulators of the providers: a process on loopback that responds with their protocols.

`GET /query` simulates Alpha Vantage: its functions `TIME_SERIES_DAILY`, `SPLITS`, `DIVIDENDS` and
`TREASURY_YIELD`, its limits, and its notices and errors, which have the status 200.
`POST /v1/chat/completions` simulates OpenAI, and `GET /v1/models/NAME` knows every model and is not
logged. The prices are those of the simulated market, and the simulated OpenAI writes its ideas as a
model does. Paths below `/servers/KIND/v1` simulate the kinds of model servers
(`app.simulation.model_servers`). `POST /timestamp` simulates a time-stamping authority, if there is
one (`--timestamp-root`). Paths below `/calendar` simulate a calendar of OpenTimestamps
(`app.simulation.timestamp_calendar`). `app.simulation.faults` describes the faults that can be
injected.

The time is the simulated time of a rehearsal's database, or starts at a given time, or is real.
Every request of these kinds is logged to a file before it is answered, one JSON object per
line, so that no request is missing from the file if the process is killed.

    alpha-monday standins --port 8090 --now 2026-11-23T14:00:00+00:00 --faults faults.json
"""

import asyncio
import os
import re
import socket
import sys
from argparse import ArgumentParser, ArgumentTypeError
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import msgspec
import psycopg
import uvicorn
import uvloop

from app.database.sessions import Session
from app.domain.calendar import Calendar, new_york_date
from app.errors import ConfigurationError
from app.simulation import timestamp_calendar
from app.simulation.faults import (
    BAD_KEY,
    BURST,
    DIVIDENDS,
    QUOTA,
    RANDOM_PROVIDERS,
    SERIES,
    UNKNOWN,
    FaultScript,
    SimulatedReply,
    SimulatedRequest,
    answer_error,
    json_reply,
    read_script,
)
from app.simulation.habits import BOLD, CAREFUL, USUAL, Habit, ideas
from app.simulation.market import FIRST_DAY, Market, alpha_vantage_bar, find_share
from app.simulation.model_servers import MODEL_SERVERS, ModelServer
from app.simulation.odd_faults import ALL_FAULTS
from app.simulation.odd_providers import SPLIT_CHANCE, NamedFault, OddProviders
from app.simulation.timestamp_authority import MalformedQuery, SimulatedAuthority, reject
from jobs.context import RealClock

# Alpha Vantage's limits of a free key: PER_DAY requests a day, and GAP between two requests.
PER_DAY = 25
GAP = timedelta(seconds=1)

# The environment variable with the address of the database whose simulated time is used. The
# address is not an argument, because every user of the machine can read a process's arguments.
CLOCK_VARIABLE = "REHEARSAL_CLOCK"

# How long the fault `hang` waits for the client to disconnect, and the pause between two bytes of a
# slow reply; in seconds.
HANG_SECONDS = 120.0
TRICKLE_SECONDS = 0.2
# How long a request waits for the simulated time while that database is unavailable.
_DATABASE_TIMEOUT = timedelta(seconds=5)

# The days on which simulators can start. On a day before the first of them, the market has no past
# bars. The last one is far enough before the end of the exchange's calendar, and keeps the series
# short enough to be computed for a request.
_EARLIEST_DAY = FIRST_DAY + timedelta(days=1)
_LATEST_DAY = date(2099, 12, 31)

# The seed of the time-stamping authority's root.
_AUTHORITY_SEED = "alpha-monday"

# Alpha Vantage's function with the rates, the first date that it lists here, and how long after a
# date its rate is listed.
_RATES = "TREASURY_YIELD"
_FIRST_RATE = date(2015, 1, 2)
_RATE_LISTED_AFTER = timedelta(days=4)
_WEEK = timedelta(weeks=1)
# The path of the simulated OpenAI, and the one below which each kind of server is simulated.
MODEL_PATH = "/v1"
SERVERS_PATH = "/servers"
_SERVER_PATH = re.compile(f"{SERVERS_PATH}/([a-z]+)/v1/chat/completions")
_LISTED_MODEL_PATH = re.compile(f"{SERVERS_PATH}/[a-z]+/v1/models/(.+)")
# The habits of models, by the kind of their server.
_HABITS: dict[str, Habit] = {
    "openai": USUAL,
    "anthropic": CAREFUL,
    "gemini": BOLD,
    "deepseek": CAREFUL,
    "mistral": BOLD,
    "xai": BOLD,
    "openrouter": USUAL,
    "ollama": CAREFUL,
    "vllm": USUAL,
}

_STAMP_HEADERS = {"content-type": "application/timestamp-reply"}

# Every fault that a script can name, by provider. Faults are drawn at random (`--hostile`, `--odd`)
# only for the providers of RANDOM_PROVIDERS.
KNOWN_FAULTS = {**ALL_FAULTS, timestamp_calendar.PROVIDER: timestamp_calendar.FAULTS}

Now = Callable[[], Awaitable[datetime]]
Sleep = Callable[[float], Awaitable[None]]


class ProviderSimulators:
    """
    An ASGI app that answers like all providers.

    `now` returns the time of a request. `script` chooses the fault of a request; if it chooses
    none, `odd` chooses the faults. `pass_time` lets simulated time pass before an answer with the
    fault "thinks"; without `pass_time`, such an answer is sent at once. `per_day` is the number of
    requests that Alpha Vantage answers in a day. If `limits` is False, its limits do not apply.
    Without `authority`, there are no timestamps.
    """

    def __init__(
        self,
        market: Market,
        now: Now,
        log: Path | None = None,
        script: FaultScript | None = None,
        *,
        odd: OddProviders | None = None,
        pass_time: Sleep | None = None,
        limits: bool = True,
        per_day: int = PER_DAY,
        authority: SimulatedAuthority | None = None,
    ) -> None:
        self.market = market
        self.now = now
        self.script = script or FaultScript()
        self.odd = odd
        self.pass_time = pass_time
        self.limits = limits
        self.authority = authority
        # Not buffered, so that a request is in the file before it is answered.
        self._log = log.open("ab", buffering=0) if log else None
        # The times of the latest requests within the limits, the newest last.
        self._recent: deque[datetime] = deque(maxlen=per_day)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request: correctly, or with the faults that are chosen for it."""
        if scope["type"] != "http":
            return
        now = await self.now()
        body = await _read_request_body(receive)
        reply = self.reply(scope, body, now)
        if reply.thinking_seconds and self.pass_time:
            await self.pass_time(reply.thinking_seconds)
        if reply.hang:
            with suppress(TimeoutError):
                await asyncio.wait_for(receive(), HANG_SECONDS)
            return
        request_id = f"req_{now.timestamp():.6f}"
        await _send_reply(reply, request_id, receive=receive, send=send)

    def reply(self, scope: Any, body: bytes, now: datetime) -> SimulatedReply:
        """Return the reply to a request, and log the request if it is for one of the providers."""
        match scope["method"], scope["path"]:
            case "GET", "/query":
                request = self._parse_price_request(scope, now)
                refusal, reply = self._answer_alpha_vantage(request)
            case "GET", path if path.startswith("/v1/models/"):
                # No fault of a script is used up by it, and the log has only questions.
                name = path.removeprefix("/v1/models/")
                return json_reply({"id": name, "object": "model", "shutdown_date": None})
            case "POST", "/v1/chat/completions":
                request = SimulatedRequest(
                    provider="openai", key=_bearer_key(scope), symbol="", at=now
                )
                refusal, reply = self._answer_openai(body, request)
            case "GET", path if found := _LISTED_MODEL_PATH.fullmatch(path):
                # No fault of a script is used up by it, and the log has only questions.
                return json_reply({"id": found[1], "object": "model"})
            case "POST", path if server := _find_server(path):
                request = SimulatedRequest(
                    provider="openai",
                    function=_model_of(body),
                    key=_bearer_key(scope),
                    symbol="",
                    at=now,
                )
                refusal, reply = self._answer_model(server, body, request)
            case "POST", "/timestamp" if self.authority:
                request = SimulatedRequest(
                    provider="timestamp",
                    key="",
                    symbol="",
                    at=now,
                    stamp=partial(self.authority.stamp, body),
                )
                refusal, reply = self._answer_timestamp(request)
            case _, path if path.startswith(f"{timestamp_calendar.PATH}/"):
                refusal = None
                request, reply = timestamp_calendar.answer(scope, body, now)
            case _:
                request = SimulatedRequest(provider="", key="", symbol="", at=now)
                return answer_error(404, "Not found.")(json_reply({}), request)
        faults = [] if refusal else self._choose_faults(request)
        self._log_request(request, refusal, "+".join(fault.name for fault in faults) or None)
        for fault in faults:
            reply = fault.fault(reply, request)
        return reply

    def _parse_price_request(self, scope: Any, now: datetime) -> SimulatedRequest:
        parsed = parse_qs(scope["query_string"].decode())
        query = {name: values[0] for name, values in parsed.items()}
        return SimulatedRequest(
            provider="alphavantage",
            function=query.get("function", ""),
            key=query.get("apikey", ""),
            # The rates have no symbol, but a maturity.
            symbol=query.get("symbol", query.get("maturity", "")),
            at=now,
            market=self.market,
        )

    def _choose_faults(self, request: SimulatedRequest) -> list[NamedFault]:
        """Return the script's fault for a request; if there is none, the random faults."""
        if name := self.script.next_fault(request):
            return [NamedFault(name, KNOWN_FAULTS[request.provider][name])]
        is_for_rates = request.function == _RATES
        if self.odd and request.provider in RANDOM_PROVIDERS and not is_for_rates:
            return self.odd.faults(request)
        return []

    def _answer_alpha_vantage(self, request: SimulatedRequest) -> tuple[str | None, SimulatedReply]:
        """Return why the request is refused (None if it is not), and the reply without faults."""
        if not request.key:
            return "bad_key", json_reply({"Error Message": BAD_KEY})
        if self._is_burst(request.at):
            return "burst", json_reply({"Information": BURST})
        if self._is_quota_spent(request.at):
            return "quota", json_reply({"Information": QUOTA.format(key=request.key)})
        self._recent.append(request.at)
        if request.function == _RATES:
            return None, json_reply(_rates(request.at))
        ticker = request.symbol.replace("-", ".")
        answers = {
            "TIME_SERIES_DAILY": self._daily,
            "SPLITS": self._splits,
            DIVIDENDS: self._dividends,
        }
        if request.function not in answers or not find_share(ticker):
            return "unknown", json_reply({"Error Message": UNKNOWN})
        answer = answers[request.function](request.symbol, ticker, request.at)
        return None, json_reply(answer)

    def _is_burst(self, now: datetime) -> bool:
        return bool(self.limits and self._recent and now - self._recent[-1] < GAP)

    def _is_quota_spent(self, now: datetime) -> bool:
        is_full = self.limits and len(self._recent) == self._recent.maxlen
        return is_full and now - self._recent[0] < timedelta(days=1)

    def _daily(self, symbol: str, ticker: str, now: datetime) -> dict[str, Any]:
        """
        Return the latest 100 bars of a ticker, newest first.

        No bar is newer than yesterday: the service never needs a bar of today.
        """
        bars = self.market.bars(ticker, new_york_date(now) - timedelta(days=1))
        return {
            "Meta Data": {
                "1. Information": "Daily Prices (open, high, low, close) and Volumes",
                "2. Symbol": symbol,
                "3. Last Refreshed": str(bars[-1][0]),
                "4. Output Size": "Compact",
                "5. Time Zone": "US/Eastern",
            },
            SERIES: {str(day): alpha_vantage_bar(bar) for day, bar in reversed(bars)},
        }

    def _splits(self, symbol: str, ticker: str, now: datetime) -> dict[str, Any]:
        """Return the splits of a ticker up to today, newest first."""
        listed = reversed(self.market.splits(ticker, new_york_date(now)))
        data = [{"effective_date": str(day), "split_factor": factor} for day, factor in listed]
        return {"symbol": symbol, "data": data}

    def _dividends(self, symbol: str, ticker: str, now: datetime) -> dict[str, Any]:
        """Return the dividends of a ticker that the provider knows of, newest first."""
        return {"symbol": symbol, "data": self.market.dividends_known(ticker, now)}

    def _answer_openai(
        self, body: bytes, request: SimulatedRequest
    ) -> tuple[str | None, SimulatedReply]:
        """Return why the request is refused (None if it is not), and the reply without faults."""
        if not request.key:
            refusal = answer_error(401, "You didn't provide an API key.")
            return "bad_key", refusal(json_reply({}), request)
        model = msgspec.json.decode(body)["model"]
        day = new_york_date(request.at)
        picks = ideas(day, self._ideas_seed(day))
        if b"probability" not in body:
            # An earlier version asks for no probability, and refuses an answer with one.
            picks = [
                {name: value for name, value in pick.items() if name != "probability"}
                for pick in picks
            ]
        content = msgspec.json.encode({"picks": picks}).decode()
        # A token has four characters, approximately.
        prompt_tokens, completion_tokens = len(body) // 4, len(content) // 4
        message = {"role": "assistant", "content": content, "refusal": None}
        completion: dict[str, Any] = {
            "id": f"chatcmpl-{day}",
            "object": "chat.completion",
            "created": int(request.at.timestamp()),
            "model": f"{model}-2026-03-17",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {
                "prompt_tokens": prompt_tokens,
                "completion_tokens": completion_tokens,
                "total_tokens": prompt_tokens + completion_tokens,
            },
        }
        return None, json_reply(completion)

    def _answer_model(
        self, server: ModelServer, body: bytes, request: SimulatedRequest
    ) -> tuple[str | None, SimulatedReply]:
        """Return why the request is refused (None if it is not), and the reply without faults."""
        day = new_york_date(request.at)
        # Two series may ask the same model with different settings, and then get different ideas.
        seed = f"{self._ideas_seed(day, request.function)}/{server.name}/{_settings_of(body)}"
        picks = ideas(day, seed, _HABITS[server.name])
        reply = server.reply(body, request.key, picks)
        refusal = None
        if reply.status != HTTPStatus.OK:
            refusal = f"http_{reply.status}"
        return refusal, reply

    def _answer_timestamp(self, request: SimulatedRequest) -> tuple[str | None, SimulatedReply]:
        """Return why the request is refused (None if it is not), and the reply without faults."""
        assert request.stamp
        try:
            return None, SimulatedReply(body=request.stamp(request.at), headers=_STAMP_HEADERS)
        except MalformedQuery:
            return "rejection", SimulatedReply(body=reject(), headers=_STAMP_HEADERS)

    def _ideas_seed(self, day: date, model: str = "") -> str:
        """
        Return the seed of a model's ideas. `model` is the `function` of its requests.

        With `odd`, the price simulator does not know some tickers, even if their prices are
        requested again. So the model must have new ideas for each question of a day: ideas with the
        same tickers would fail again.
        """
        earlier_questions = self.odd.questions_on(day, model) if self.odd else 0
        if not earlier_questions:
            return self.market.seed
        return f"{self.market.seed}/{earlier_questions}"

    def _log_request(
        self, request: SimulatedRequest, refusal: str | None, fault: str | None
    ) -> None:
        if self._log is None:
            return
        line = {
            "provider": request.provider,
            "at": request.at,
            "function": request.function,
            "symbol": request.symbol,
            "refused": refusal,
            "fault": fault,
        }
        self._log.write(msgspec.json.encode(line) + b"\n")


def _rates(now: datetime) -> dict[str, Any]:
    """
    Return the weekly rates of each Friday, newest first.

    They move slowly, with the days of the calendar, and a Friday near the new year has none.
    """
    latest = new_york_date(now) - _RATE_LISTED_AFTER
    data: list[dict[str, str]] = []
    day = _FIRST_RATE
    while day <= latest:
        value = f"{3 + (day.toordinal() // 7 % 100) / 100:.2f}"
        if (day.month, day.day) == (1, 1):
            value = "."
        data.append({"date": str(day), "value": value})
        day += _WEEK
    data.reverse()
    return {
        "name": "3-Month Treasury Constant Maturity Rate",
        "interval": "weekly",
        "unit": "percent",
        "data": data,
    }


async def _read_request_body(receive: Any) -> bytes:
    parts: list[bytes] = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


async def _send_reply(reply: SimulatedReply, request_id: str, receive: Any, send: Any) -> None:
    headers = {
        **reply.headers,
        "content-length": len(reply.body),
        "x-request-id": request_id,
    }
    encoded = [(name.encode(), str(value).encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": reply.status, "headers": encoded})
    body = reply.body
    if reply.cut:
        body = body[: len(body) // 2]
    if reply.trickle:
        count = int(HANG_SECONDS / TRICKLE_SECONDS)
        for byte in body[:count]:
            await send({"type": "http.response.body", "body": bytes([byte]), "more_body": True})
            with suppress(TimeoutError):
                # The only message that can arrive says that the client has disconnected.
                await asyncio.wait_for(receive(), TRICKLE_SECONDS)
                return
        body = body[count:]
    # With `cut`, this is only half of the body. `more_body` is then true: it promises the other
    # half, which is never sent. So uvicorn closes the connection.
    await send({"type": "http.response.body", "body": body, "more_body": reply.cut})


def _find_server(path: str) -> ModelServer | None:
    """Return the kind of model server that is simulated at a path; None for another path."""
    found = _SERVER_PATH.fullmatch(path)
    if found is None:
        return None
    return MODEL_SERVERS.get(found[1])


def _model_of(body: bytes) -> str:
    """Return the model that a question is for."""
    model: str = msgspec.json.decode(body)["model"]
    return model


def _settings_of(body: bytes) -> str:
    """Return what a question sets, besides its texts and the form of the answer, as JSON."""
    members = msgspec.json.decode(body)
    for name in ("messages", "response_format"):
        members.pop(name, None)
    return msgspec.json.encode(members, order="sorted").decode()


def _bearer_key(scope: Any) -> str:
    """Return the key in the Authorization header, or an empty text if there is no key."""
    headers: dict[bytes, bytes] = dict(scope["headers"])
    return headers.get(b"authorization", b"").decode().removeprefix("Bearer ")


def database_time(conninfo: str) -> Now:
    """
    Return a function that returns the simulated time of a rehearsal's database.

    The lag is the time by which the simulated clock is behind the real one. Simulated time may have
    jumped since the lag was last read, so the last known lag may be wrong. Therefore a request
    waits up to five seconds for a database that is unavailable. After five seconds, the time is
    computed from the last known lag.
    """
    lag = timedelta(0)
    connection: psycopg.AsyncConnection[Any] | None = None
    real_clock = RealClock()

    async def now() -> datetime:
        nonlocal connection, lag
        start = real_clock.now()
        while real_clock.now() - start < _DATABASE_TIMEOUT:
            try:
                if connection is None or connection.closed:
                    connection = await Session.connect(conninfo, name="simulators", autocommit=True)
                row = await (await connection.execute("SELECT told.now()")).fetchone()
                assert row
                simulated: datetime = row[0].astimezone(UTC)
                lag = real_clock.now() - simulated
                break
            except psycopg.Error:
                connection = None
                await real_clock.sleep(0.05)
        return start - lag

    return now


def simulated_sleep(conninfo: str) -> Sleep:
    """
    Return a function that lets seconds of a rehearsal's simulated time pass.

    The returned function moves the clock forward and does not wait. While a job waits for an
    answer, simulated time runs at the pace of real time, so a wait of 90 simulated seconds would
    take 90 real seconds.
    """

    async def sleep(seconds: float) -> None:
        # While the database is unavailable, no simulated time passes.
        with suppress(psycopg.Error):
            async with await Session.connect(conninfo, name="simulators") as connection:
                await connection.execute(
                    "UPDATE told.clock SET lag = greatest(0, lag - %s)", (seconds,)
                )
        # During this pause, the service reads the new lag.
        await RealClock().sleep(0.3)

    return sleep


def time_from(start: datetime) -> Now:
    """Return a function that returns the time of a clock that shows `start` now."""
    real_clock = RealClock()
    lag = real_clock.now() - start

    async def now() -> datetime:
        return real_clock.now() - lag

    return now


async def serve(
    app: ProviderSimulators, listener: socket.socket, *, until_input_ends: bool
) -> None:
    """
    Answer requests until the process is stopped.

    With `until_input_ends`, the server also stops when standard input ends. Standard input is then
    a pipe from the parent process, so the simulators end when the parent ends.
    """
    # With a log level below `critical`, uvicorn would log injected faults as errors.
    config = uvicorn.Config(
        app,
        log_level="critical",
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve([listener]))
    if until_input_ends:
        await asyncio.to_thread(sys.stdin.buffer.read)
        server.should_exit = True
    await running


def _port(text: str) -> int:
    with suppress(ValueError):
        number = int(text)
        if 0 <= number <= 65535:
            return number
    raise ArgumentTypeError(f"{text!r} is not a number from 0 to 65535")


def _moment(text: str) -> datetime:
    # Near Python's first and last date, a time may have no date in New York.
    with suppress(ValueError, OverflowError):
        moment = datetime.fromisoformat(text)
        if moment.tzinfo and _EARLIEST_DAY <= new_york_date(moment) <= _LATEST_DAY:
            return moment
    raise ArgumentTypeError(
        f"{text!r} is not a time such as 2026-11-16T09:00:00-05:00, of a day in New York from "
        f"{_EARLIEST_DAY} to {_LATEST_DAY}"
    )


def _seed(text: str) -> str:
    if not text.strip():
        raise ArgumentTypeError("a seed is a text of any kind such as a-seed; this one is empty")
    return text


def _days(text: str) -> list[date]:
    try:
        return [date.fromisoformat(day) for day in text.split(",") if day]
    except ValueError:
        raise ArgumentTypeError(f"{text!r} are not days such as 2026-11-16,2026-11-17") from None


def _make_parser() -> ArgumentParser:
    description = (
        "Serve simulators of Alpha Vantage, OpenAI and an OpenTimestamps calendar (below "
        "/calendar) on loopback, with faults on request. With --timestamp-root, simulate a "
        "time-stamping authority (/timestamp), too. The first line printed is the address."
    )
    known = "; ".join(
        f"{provider}: {', '.join(faults)}" for provider, faults in KNOWN_FAULTS.items()
    )
    parser = ArgumentParser(
        prog="alpha-monday standins",
        description=description,
        epilog=f"Example: alpha-monday standins --port 8090 --faults faults.json. Faults: {known}.",
    )
    parser.add_argument(
        "--port", type=_port, default=0, help="the port on 127.0.0.1; 0: any free port"
    )
    parser.add_argument(
        "--now", type=_moment, help="the time at the start, with its offset from UTC"
    )
    parser.add_argument(
        "--faults",
        type=Path,
        help="a fault script in JSON: a list of rules with provider and fault, and optionally "
        "function, symbol, since, until, times",
    )
    # `--hostile` and `--odd` each choose all random faults, so the two options exclude each other.
    random_faults = parser.add_mutually_exclusive_group()
    random_faults.add_argument(
        "--hostile",
        type=_seed,
        metavar="SEED",
        help="inject typical faults into some requests, at random",
    )
    random_faults.add_argument(
        "--odd",
        type=_seed,
        metavar="SEED",
        help="inject many kinds of faults, at random: one request in four gets a short fault, and "
        "other faults continue for a morning or longer; the market has more splits",
    )
    parser.add_argument(
        "--log", type=Path, help="the file to which requests are logged, one JSON object per line"
    )
    parser.add_argument(
        "--no-limits", action="store_true", help="do not limit the number of requests"
    )
    parser.add_argument(
        "--per-day",
        type=int,
        default=PER_DAY,
        help="requests that Alpha Vantage answers in a day (by default as for a free key)",
    )
    parser.add_argument(
        "--closed",
        type=_days,
        default="",
        help="days on which the exchange is closed on short notice, separated by commas",
    )
    parser.add_argument(
        "--timestamp-root",
        type=Path,
        metavar="FILE",
        help="simulate a time-stamping authority, too, at /timestamp; its root certificate is "
        "written to FILE, for TIMESTAMP_ROOTS",
    )
    parser.add_argument(
        "--until-input-ends", action="store_true", help="stop when standard input ends"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Run the simulators as a process.

    Raises ConfigurationError if the fault script cannot be read, the root certificate cannot be
    written, or the port cannot be used.
    """
    options = _make_parser().parse_args(arguments)
    rules = []
    authority: SimulatedAuthority | None = None
    try:
        if options.timestamp_root:
            authority = SimulatedAuthority(_AUTHORITY_SEED)
            options.timestamp_root.write_bytes(authority.root_pem)
        if options.faults:
            rules = read_script(options.faults.read_bytes(), KNOWN_FAULTS)
        listener = socket.create_server(("127.0.0.1", options.port))
    except OSError as error:
        # create_server adds "(while attempting to bind on address ...)" to the reason.
        reason = (error.strerror or str(error)).split(" (while")[0]
        subject = error.filename or f"port {options.port}"
        raise ConfigurationError(f"The simulators cannot start: {subject}: {reason}.") from None

    now = time_from(options.now or RealClock().now())
    pass_time: Sleep | None = None
    if clock_database := os.environ.get(CLOCK_VARIABLE):
        now = database_time(clock_database)
        pass_time = simulated_sleep(clock_database)
    odd: OddProviders | None = None
    market = Market(Calendar(options.closed), hostile=options.hostile or "")
    if options.odd:
        odd = OddProviders(options.odd)
        market = Market(Calendar(options.closed), split_chance=SPLIT_CHANCE, hostile=options.odd)
    app = ProviderSimulators(
        market=market,
        now=now,
        log=options.log,
        script=FaultScript(rules, options.hostile or ""),
        odd=odd,
        pass_time=pass_time,
        limits=not options.no_limits,
        per_day=options.per_day,
        authority=authority,
    )
    with suppress(KeyboardInterrupt, BrokenPipeError):
        # Written without a buffer: the process that started this one waits for the line.
        os.write(1, f"http://127.0.0.1:{listener.getsockname()[1]}\n".encode())
        # uvloop switches Nagle's algorithm off; with asyncio's loop an answer takes 40 ms longer.
        uvloop.run(serve(app, listener, until_input_ends=options.until_input_ends))


if __name__ == "__main__":
    main()
