"""
A client of Alpha Vantage: daily bars, splits, dividends, and the rate of a loan without risk.

`TIME_SERIES_DAILY` with `outputsize=compact` returns the latest 100 raw bars, each with its own
date. `SPLITS` returns a ticker's splits, and apparently its spin-offs, with factors of four
decimals. `DIVIDENDS` returns a ticker's dividends, also those that are declared for a future day.
`TREASURY_YIELD` returns all weekly yields of three-month Treasury bills.
`app/providers/alpha_vantage_answers.py` interprets the responses.

The notice about the daily quota repeats the key, so every text of the provider is redacted before
it leaves this module.
"""

import asyncio
import hashlib
import logging
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from datetime import date, datetime, timedelta
from http.cookiejar import CookieJar, DefaultCookiePolicy
from time import monotonic
from typing import Protocol, TypeVar

import httpx
import structlog
from msgspec import Struct
from msgspec.structs import replace

from app.domain.calendar import Calendar, Clock
from app.domain.model import Bar
from app.domain.text import redact_for_record
from app.errors import (
    AlphaMondayError,
    ConfigurationError,
    ProviderBusy,
    ProviderError,
    ProviderUnavailable,
    QuotaSpent,
    UnknownTicker,
)
from app.providers import bodies
from app.providers.alpha_vantage_answers import (
    ListedDividend,
    ListedRate,
    ListedSplit,
    MaybeUnknownTicker,
    find_ex_dates,
    read_bars,
    read_dividends,
    read_rates,
    read_splits,
)
from app.providers.rate_limiter import (
    COOLDOWN,
    GRANT_LIFETIME,
    MAX_IN_FLIGHT,
    AlreadyAnswered,
    Grant,
    RequestLedger,
    RequestOutcome,
    UnreadableRow,
)
from app.providers.retry_after import parse_retry_after

BASE_URL = "https://www.alphavantage.co"
DAILY = "TIME_SERIES_DAILY"
SPLITS = "SPLITS"
DIVIDENDS = "DIVIDENDS"
RATES = "TREASURY_YIELD"
# The name of this provider in the record: the sources of its readings begin with it.
PRICE_SOURCE = "alphavantage"
SOURCE = f"{PRICE_SOURCE} TIME_SERIES_DAILY"
SPLITS_SOURCE = f"{PRICE_SOURCE} SPLITS"
DIVIDENDS_SOURCE = f"{PRICE_SOURCE} DIVIDENDS"
RATES_SOURCE = f"{PRICE_SOURCE} TREASURY_YIELD 3month"
# What the rates are about. In the ledger, and in messages, it takes the place of a ticker.
MATURITY = "3month"

MAX_ATTEMPTS = 5
_MAX_PAUSE_SECONDS = 60.0
# The pauses between attempts for a ticker that seems to be unknown, in seconds. With the jitter of
# `_pause` they are at least three minutes in all.
_UNKNOWN_TICKER_PAUSES = (5.0, 15.0, 60.0, 120.0)
# How long one request may take, with the body of its response, in seconds.
_TIME_LIMIT = 30.0
# How many bars a response with `outputsize=compact` has.
_COMPACT_BARS = 100
# In bytes. The expected body is some 20 KB. A server that ignores `outputsize` sends the whole
# history of a ticker, which is one or two million bytes and still readable.
MAX_BODY_BYTES = 5_000_000
_MAX_TEXT_LENGTH = 300

T = TypeVar("T")


class RowReader(Protocol[T]):
    """A function that returns the rows of a response's body: the readable and the unreadable."""

    def __call__(
        self, body: bytes, ticker: str, key: str, now: datetime
    ) -> tuple[list[T], list[UnreadableRow]]:
        """Return the rows of a response about `ticker`, without `key` in any text."""


log = structlog.get_logger()

# httpx logs the address of every request at INFO, and the addresses of our requests contain the
# key. The filter is set here, so that it works with every configuration of the process's logging.
logging.getLogger("httpx").addFilter(lambda record: "apikey=" not in record.getMessage())


class BarsAnswer(Struct, frozen=True):
    """
    The bars of one ticker, oldest first, and the rows of the response that cannot be read.

    The caller has to store the outcome of the request under `grant`. `body_sha256` is the hash of
    the response's body, as 64 hexadecimal digits.
    """

    grant: Grant
    bars: list[Bar]
    unreadable: list[UnreadableRow] = []
    body_sha256: str = ""


class SplitsAnswer(Struct, frozen=True):
    """
    The splits that are listed for one ticker, oldest first.

    `unreadable` are the rows of the response that cannot be read. The caller has to store
    the outcome of the request under `grant`. `body_sha256` is the hash of the response's body.
    """

    grant: Grant
    splits: list[ListedSplit]
    unreadable: list[UnreadableRow] = []
    body_sha256: str = ""


class DividendsAnswer(Struct, frozen=True):
    """
    The dividends that are listed for one ticker, oldest first, also those of the future.

    - `unreadable`: the rows of the response that cannot be read; an ex-date with such a row is not
      among `dividends`
    - `body_sha256`: the hash of the response's body
    - `ex_dates`: all ex-dates in the response, the earliest first, each once: also those whose
      amount cannot be read
    - `undated`: the number of rows whose ex-date cannot be read

    The caller has to store the outcome of the request under `grant`.
    """

    grant: Grant
    dividends: list[ListedDividend]
    unreadable: list[UnreadableRow] = []
    body_sha256: str = ""
    ex_dates: list[date] = []
    undated: int = 0


class RatesAnswer(Struct, frozen=True):
    """
    The observations of the rate without risk, oldest first.

    `unreadable` are the rows of the response that cannot be read. The caller has to store
    the outcome of the request under `grant`. `body_sha256` is the hash of the response's body.
    """

    grant: Grant
    rates: list[ListedRate]
    unreadable: list[UnreadableRow] = []
    body_sha256: str = ""


class AlphaVantage:
    """
    A client for one key, within the limits of its ledger.

    `attempts` is the maximum number of attempts at one request. `base_url` is the server's address;
    if it is empty, the server is Alpha Vantage's.
    """

    def __init__(
        self,
        key: str,
        ledger: RequestLedger,
        clock: Clock,
        base_url: str = "",
        attempts: int = MAX_ATTEMPTS,
    ) -> None:
        self.key = key
        self.ledger = ledger
        self.clock = clock
        self.attempts = attempts
        self.base_url = (base_url or BASE_URL).rstrip("/")
        self.http = httpx.AsyncClient(
            timeout=httpx.Timeout(10.0),
            follow_redirects=False,
            # Cookies are not stored. If the client stored a cookie that is not ASCII, every later
            # request would fail.
            cookies=CookieJar(policy=DefaultCookiePolicy(allowed_domains=[])),
            headers=bodies.HEADERS,
        )
        self._slots = asyncio.Semaphore(MAX_IN_FLIGHT)
        self._spellings: dict[str, str] = {}

    async def close(self) -> None:
        """Close the connections."""
        await self.http.aclose()

    async def bars(
        self,
        ticker: str,
        since: datetime,
        needed_since: datetime | None = None,
        *,
        max_attempts: int | None = None,
    ) -> BarsAnswer | AlreadyAnswered:
        """
        Return the latest bars of `ticker`, or AlreadyAnswered if any job got them after `since`.

        If the result is AlreadyAnswered, that job has stored the bars. The caller stores the
        outcome of a BarsAnswer in the transaction that stores its bars.

        `needed_since` is when the bars were first needed (default: `since`). The attempts that all
        jobs and processes have made since then are counted together. A job that starts when all
        attempts are used up still makes one attempt. `max_attempts` is the maximum number of
        attempts if it is below that of this client.

        Raises ConfigurationError and QuotaSpent without another attempt. After the last attempt, it
        raises UnknownTicker if in each of the newest five attempts the provider answered that it
        does not know the ticker. Otherwise it raises ProviderBusy or ProviderUnavailable.
        """
        answer = await self._request(
            DAILY,
            ticker=ticker,
            since=since,
            needed_since=needed_since or since,
            reader=read_bars,
            max_attempts=max_attempts,
        )
        if isinstance(answer, AlreadyAnswered):
            return answer
        return BarsAnswer(*answer)

    async def splits(
        self,
        ticker: str,
        since: datetime,
        needed_since: datetime | None = None,
        *,
        max_attempts: int | None = None,
    ) -> SplitsAnswer | AlreadyAnswered:
        """
        Return the splits that are listed for `ticker`; parameters and errors are those of `bars`.

        It never raises UnknownTicker: splits are requested only for tickers that had bars.
        """
        answer = await self._request(
            SPLITS,
            ticker=ticker,
            since=since,
            needed_since=needed_since or since,
            reader=read_splits,
            max_attempts=max_attempts,
        )
        if isinstance(answer, AlreadyAnswered):
            return answer
        return SplitsAnswer(*answer)

    async def dividends(
        self,
        ticker: str,
        since: datetime,
        needed_since: datetime | None = None,
        *,
        max_attempts: int | None = None,
    ) -> DividendsAnswer | AlreadyAnswered:
        """
        Return the dividends listed for `ticker`; parameters and errors are those of `bars`.

        `max_attempts` is the maximum number of attempts if it is below that of this client. It
        never raises UnknownTicker: dividends are requested only for tickers that had bars.
        """
        answer = await self._request(
            DIVIDENDS,
            ticker=ticker,
            since=since,
            needed_since=needed_since or since,
            reader=read_dividends,
            max_attempts=max_attempts,
        )
        if isinstance(answer, AlreadyAnswered):
            return answer
        grant, dividends, unreadable, sha256 = answer
        return DividendsAnswer(
            grant=grant,
            dividends=dividends,
            unreadable=unreadable,
            body_sha256=sha256,
            ex_dates=find_ex_dates(dividends, unreadable),
            undated=sum(row.day is None for row in unreadable),
        )

    async def rates(
        self,
        since: datetime,
        needed_since: datetime | None = None,
        *,
        max_attempts: int | None = None,
    ) -> RatesAnswer | AlreadyAnswered:
        """
        Return the observations of the rate without risk; parameters and errors are those of `bars`.

        It never raises UnknownTicker.
        """
        answer = await self._request(
            RATES,
            ticker=MATURITY,
            since=since,
            needed_since=needed_since or since,
            reader=read_rates,
            max_attempts=max_attempts,
        )
        if isinstance(answer, AlreadyAnswered):
            return answer
        return RatesAnswer(*answer)

    async def _request(
        self,
        function: str,
        *,
        ticker: str,
        since: datetime,
        needed_since: datetime,
        reader: RowReader[T],
        max_attempts: int | None = None,
    ) -> tuple[Grant, list[T], list[UnreadableRow], str] | AlreadyAnswered:
        attempts = self.attempts
        if max_attempts is not None:
            attempts = min(attempts, max_attempts)
        while True:
            symbol = await self._choose_spelling(function, ticker, needed_since)
            grant = await self.ledger.acquire(function, ticker, since)
            if isinstance(grant, AlreadyAnswered):
                return grant
            try:
                async with self._storing_failures(grant):
                    rows, unreadable, sha256 = await self._read(
                        function, ticker=ticker, symbol=symbol, reader=reader, grant=grant
                    )
                    return grant, rows, unreadable, sha256
            except (ProviderBusy, ProviderUnavailable) as error:
                # The attempts are counted in the ledger, because the count must survive a wait for
                # quota and the end of this process.
                failures = await self.ledger.failures(function, ticker, needed_since)
                if len(failures) >= attempts:
                    raise _final_error(
                        function, ticker=ticker, failures=failures, error=error
                    ) from None
                pause = _pause(len(failures), error)
                log.info(
                    "provider request failed, retrying",
                    ticker=ticker,
                    attempt=len(failures),
                    reason=str(error),
                    pause=pause,
                )
                await self.clock.sleep(pause)

    @asynccontextmanager
    async def _storing_failures(self, grant: Grant) -> AsyncIterator[None]:
        """Store the outcome of the request if it fails. The caller stores a successful outcome."""
        try:
            yield
        except QuotaSpent as error:
            await self.ledger.store_failure(grant, RequestOutcome.QUOTA_SPENT, error.at)
            raise
        except ProviderBusy as error:
            # The pause is at most an hour, even if the response asks for a longer one: a single
            # wrong response must not make a Monday fail.
            latest = self.clock.now() + COOLDOWN
            paused_until = error.until and min(error.until, latest)
            await self.ledger.store_failure(grant, RequestOutcome.FAILED, paused_until)
            raise
        except ConfigurationError:
            await self.ledger.store_failure(grant, RequestOutcome.REJECTED)
            raise
        except MaybeUnknownTicker:
            await self.ledger.store_failure(grant, RequestOutcome.UNKNOWN_TICKER)
            raise
        except AlphaMondayError:
            await self.ledger.store_failure(grant, RequestOutcome.FAILED)
            raise

    async def _read(
        self, function: str, *, ticker: str, symbol: str, reader: RowReader[T], grant: Grant
    ) -> tuple[list[T], list[UnreadableRow], str]:
        """Send one request, and return the rows of its response, and the hash of its body."""
        parameters = _parameters(function, symbol)
        body = await self._get(parameters, grant)
        try:
            rows, unreadable = reader(body, ticker, key=self.key, now=self.clock.now())
        except ProviderUnavailable as error:
            # The error may quote the response, and the response may contain the key.
            raise type(error)(self._redact(str(error))) from None
        # The response could be read, so this spelling is right.
        self._spellings[ticker] = symbol
        redacted = [replace(row, reason=self._redact(row.reason)) for row in unreadable]
        return rows, redacted, hashlib.sha256(body).hexdigest()

    def _redact(self, text: str) -> str:
        return redact_for_record(text, [self.key])[:_MAX_TEXT_LENGTH]

    async def _choose_spelling(self, function: str, ticker: str, needed_since: datetime) -> str:
        """
        Return the spelling of `ticker` for the next request.

        Only class shares such as BRK.B have two spellings: with a dash, and with a dot. The first
        attempt uses the spelling that worked last, or the dash if none has worked yet. Whenever the
        provider answers that the ticker is unknown, the next attempt uses the other spelling.
        """
        spellings = [ticker.replace(".", "-"), ticker]
        if spellings[0] == ticker:
            return ticker
        if self._spellings.get(ticker) == ticker:
            spellings.reverse()
        failures = await self.ledger.failures(function, ticker, needed_since)
        return spellings[failures.count(RequestOutcome.UNKNOWN_TICKER) % 2]

    async def _get(self, parameters: dict[str, str], grant: Grant) -> bytes:
        """Send a request, and return the body of its response."""
        try:
            async with self._slots, asyncio.timeout(_TIME_LIMIT):
                request = self.http.build_request(
                    "GET", f"{self.base_url}/query", params={**parameters, "apikey": self.key}
                )
                # The age of the grant is checked directly before the request is sent, because the
                # process may have been suspended at any point since the grant.
                age = timedelta(seconds=monotonic() - grant.granted_at_monotonic)
                if age > GRANT_LIFETIME:
                    raise ProviderUnavailable(
                        "This process stood still between its leave to ask and the request."
                    )
                response = await self.http.send(request, stream=True)
                try:
                    return await _read_body(response, self.clock.now())
                finally:
                    await response.aclose()
        except TimeoutError:
            raise ProviderUnavailable(
                f"Alpha Vantage did not answer within {_TIME_LIMIT:.0f} s."
            ) from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            # Only the class is named: the error's own text may contain the address, and so the key.
            raise ProviderUnavailable(
                f"Alpha Vantage cannot be reached ({type(error).__name__})."
            ) from None


def earliest_session(sessions: Calendar, day: date) -> date:
    """Return the earliest session of which a request on `day` returns a bar."""
    session = day
    for _ in range(_COMPACT_BARS):
        session = sessions.session_before(session)
    return session


def _parameters(function: str, symbol: str) -> dict[str, str]:
    """Return the parameters of a request, without the key."""
    if function == RATES:
        return {"function": function, "maturity": symbol, "interval": "weekly"}
    parameters = {"function": function, "symbol": symbol}
    if function == DAILY:
        parameters["outputsize"] = "compact"
    return parameters


def _pause(failures: int, error: ProviderError) -> float:
    """
    Return the seconds to wait before the next attempt, with jitter.

    If the provider answered that the ticker is unknown, the pauses are longer: it may give this
    answer wrongly for a minute, and the record must not store it as a fact.
    """
    if isinstance(error, MaybeUnknownTicker):
        return _UNKNOWN_TICKER_PAUSES[failures - 1] * random.uniform(0.9, 1.1)  # noqa: S311
    return min(_MAX_PAUSE_SECONDS, 2.0**failures) * random.uniform(0.5, 1)  # noqa: S311


def _final_error(
    function: str, *, ticker: str, failures: Sequence[str], error: ProviderError
) -> ProviderError:
    """
    Return the error to raise after the last attempt.

    It is UnknownTicker only if bars were requested, and if in each of the newest `MAX_ATTEMPTS`
    attempts the provider answered that it does not know the ticker. `failures` are the outcomes of
    the failed attempts, newest first.
    """
    if not isinstance(error, MaybeUnknownTicker):
        return error
    if function == DAILY and set(failures[:MAX_ATTEMPTS]) == {RequestOutcome.UNKNOWN_TICKER}:
        return UnknownTicker(f"Alpha Vantage does not know {ticker}.", ticker)
    return ProviderUnavailable(str(error))


async def _read_body(response: httpx.Response, now: datetime) -> bytes:
    """
    Return the body of a response with status 200.

    Raises ProviderBusy or ProviderUnavailable if the status is another one.
    """
    until = parse_retry_after(response.headers.get("Retry-After", ""), now)
    if response.status_code == 429 or (response.status_code == 503 and until):
        raise ProviderBusy(f"Alpha Vantage answered {response.status_code}.", until)
    if response.status_code != 200:
        raise ProviderUnavailable(f"Alpha Vantage answered {response.status_code}.")
    parts = bodies.bounded_parts(
        response.aiter_raw(),
        headers=response.headers,
        max_bytes=MAX_BODY_BYTES,
        sender="Alpha Vantage",
    )
    async with aclosing(parts):
        return b"".join([part async for part in parts])
