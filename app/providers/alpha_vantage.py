"""
Prices from Alpha Vantage: raw daily bars, one request per ticker; and the splits that it lists.

`TIME_SERIES_DAILY` (`outputsize=compact`) is the latest 100 raw bars, each with its own date; `SPLITS` is a ticker's
splits, and it seems its spin-offs, with factors of four decimals. What an answer means is in
`app/providers/alpha_vantage_answers.py`. The text of the daily-quota notice echoes the key, so every provider text is
redacted before it goes anywhere.
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from datetime import datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from time import monotonic
from typing import TypeAlias, TypeVar

import httpx
import structlog
from msgspec import Struct
from msgspec.structs import replace

from app.domain.calendar import Clock
from app.domain.model import Bar
from app.domain.text import quotable
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
from app.providers.alpha_vantage_answers import Listed, SaysUnknown, read_bars, read_splits
from app.providers.rate_limiter import IN_FLIGHT, REST, Grant, Ledger, Outcome, Shared, UnreadableRow
from app.providers.retry_after import asked_to_wait

BASE_URL = "https://www.alphavantage.co"
DAILY = "TIME_SERIES_DAILY"
SPLITS = "SPLITS"
SOURCE = "alphavantage TIME_SERIES_DAILY"
SPLITS_SOURCE = "alphavantage SPLITS"

# Leave that is older than so many seconds is not used: whoever slept on it would collide with what was granted since.
LEAVE_LASTS = 1.0

ATTEMPTS = 5
LONGEST_PAUSE = 60.0
# In seconds: together more than three minutes.
_PAUSES_IF_UNKNOWN = (5.0, 15.0, 60.0, 120.0)
_TIME_LIMIT = 30.0
# In bytes. What is asked for is some 20 KB; the whole history of a ticker, which a server that ignores a parameter
# sends, is one or two million.
LARGEST_BODY = 5_000_000
_LONGEST_TEXT = 300

T = TypeVar("T")
# What makes rows of a body, given the ticker, the key and the time; and those that cannot be read.
Reader: TypeAlias = Callable[[bytes, str, str, datetime], tuple[list[T], list[UnreadableRow]]]

log = structlog.get_logger()

# httpx tells every address at INFO, and ours hold the key; whoever sets up the logs need not know that.
logging.getLogger("httpx").addFilter(lambda record: "apikey=" not in record.getMessage())


class Answer(Struct, frozen=True):
    """The bars of one ticker, oldest first, the rows that cannot be read, and the grant that is still to be settled."""

    grant: Grant
    bars: list[Bar]
    unreadable: list[UnreadableRow] = []


class SplitsAnswer(Struct, frozen=True):
    """The splits that are listed for one ticker, oldest first; otherwise as Answer."""

    grant: Grant
    splits: list[Listed]
    unreadable: list[UnreadableRow] = []


class AlphaVantage:
    """A client of one key, within its limits."""

    def __init__(self, key: str, ledger: Ledger, clock: Clock, base_url: str = "", attempts: int = ATTEMPTS) -> None:
        self.key, self.ledger, self.clock, self.attempts = key, ledger, clock, attempts
        self.base_url = (base_url or BASE_URL).rstrip("/")
        # A cookie that is not ASCII would be kept, and every later request fail with it.
        self.http = httpx.AsyncClient(
            timeout=httpx.Timeout(10.0),
            follow_redirects=False,
            cookies=CookieJar(policy=DefaultCookiePolicy(allowed_domains=[])),
            headers=bodies.HEADERS,
        )
        self._slots = asyncio.Semaphore(IN_FLIGHT)
        self._spelling: dict[str, str] = {}

    async def close(self) -> None:
        """Give back the connections."""
        await self.http.aclose()

    async def bars(self, ticker: str, since: datetime, begun: datetime | None = None) -> Answer | Shared:
        """
        Return the latest bars of `ticker`, or that another job got them after `since` and has stored them.

        The caller settles the answer's grant in the transaction that stores the bars. Raises ConfigurationError,
        QuotaSpent, and after the last attempt ProviderBusy or ProviderUnavailable; UnknownTicker when all said so.
        The attempts of all jobs since `begun`, when the bars were first needed, count together: a job that comes after
        the last has one.
        """
        answer = await self._asked(DAILY, ticker, since, begun or since, read_bars)
        return answer if isinstance(answer, Shared) else Answer(*answer)

    async def splits(self, ticker: str, since: datetime, begun: datetime | None = None) -> SplitsAnswer | Shared:
        """
        Return the splits that are listed for `ticker`; otherwise as `bars`.

        Never raises UnknownTicker: splits are asked for only of tickers that had bars.
        """
        answer = await self._asked(SPLITS, ticker, since, begun or since, read_splits)
        return answer if isinstance(answer, Shared) else SplitsAnswer(*answer)

    async def _asked(
        self, function: str, ticker: str, since: datetime, begun: datetime, reader: Reader[T]
    ) -> tuple[Grant, list[T], list[UnreadableRow]] | Shared:
        while True:
            symbol = await self._spelling_of(function, ticker, begun)
            permit = await self.ledger.permit(function, ticker, since)
            if isinstance(permit, Shared):
                return permit
            try:
                async with self._outcome_of(permit):
                    return permit, *await self._read(function, ticker, symbol, reader, permit)
            except (ProviderBusy, ProviderUnavailable) as error:
                # The ledger's count outlives a wait for quota, and this process.
                failures = await self.ledger.failures(function, ticker, begun)
                if len(failures) >= self.attempts:
                    raise _in_the_end(function, ticker, failures, error) from None
                pause = _pause(len(failures), error)
                log.info(
                    "provider asked again soon", ticker=ticker, attempt=len(failures), reason=str(error), pause=pause
                )
                await self.clock.sleep(pause)

    @asynccontextmanager
    async def _outcome_of(self, grant: Grant) -> AsyncIterator[None]:
        """Write down the outcome of a request that failed; that of an answer is the caller's to write."""
        try:
            yield
        except QuotaSpent as spent:
            await self.ledger.fail(grant, Outcome.QUOTA_SPENT, spent.at)
            raise
        except ProviderBusy as busy:
            # An hour at most, whatever it says: one odd answer must not cost a Monday.
            longest = self.clock.now() + REST
            await self.ledger.fail(grant, Outcome.FAILED, busy.until and min(busy.until, longest))
            raise
        except ConfigurationError:
            await self.ledger.fail(grant, Outcome.REFUSED)
            raise
        except SaysUnknown:
            await self.ledger.fail(grant, Outcome.UNKNOWN)
            raise
        except AlphaMondayError:
            await self.ledger.fail(grant, Outcome.FAILED)
            raise

    async def _read(
        self, function: str, ticker: str, symbol: str, reader: Reader[T], grant: Grant
    ) -> tuple[list[T], list[UnreadableRow]]:
        size = {"outputsize": "compact"} if function == DAILY else {}
        body = await self._get({"function": function, "symbol": symbol, **size}, grant)
        try:
            rows, unreadable = reader(body, ticker, self.key, self.clock.now())
        except ProviderUnavailable as error:  # it may quote what was answered
            raise type(error)(self._quotable(str(error))) from None
        self._spelling[ticker] = symbol
        return rows, [replace(row, reason=self._quotable(row.reason)) for row in unreadable]

    def _quotable(self, text: str) -> str:
        return quotable(text, [self.key])[:_LONGEST_TEXT]

    async def _spelling_of(self, function: str, ticker: str, begun: datetime) -> str:
        """
        Return how to ask for `ticker`: a class share with a dash, or with a dot if that is what worked last.

        Each time that the provider did not know it, the next attempt has the other spelling.
        """
        spellings = [ticker.replace(".", "-"), ticker]
        if spellings[0] == ticker:
            return ticker
        if self._spelling.get(ticker) == ticker:
            spellings.reverse()
        unknown = (await self.ledger.failures(function, ticker, begun)).count(Outcome.UNKNOWN)
        return spellings[unknown % 2]

    async def _get(self, parameters: dict[str, str], grant: Grant) -> bytes:
        try:
            async with self._slots, asyncio.timeout(_TIME_LIMIT):
                request = self.http.build_request(
                    "GET", f"{self.base_url}/query", params={**parameters, "apikey": self.key}
                )
                if monotonic() - grant.at > LEAVE_LASTS:
                    raise ProviderUnavailable("This process stood still between its leave to ask and the request.")
                response = await self.http.send(request, stream=True)
                try:
                    return await _body(response, self.clock.now())
                finally:
                    await response.aclose()
        except TimeoutError:
            raise ProviderUnavailable(f"Alpha Vantage did not answer within {_TIME_LIMIT:.0f} s.") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            # The error's own text may hold the address, and with it the key.
            raise ProviderUnavailable(f"Alpha Vantage cannot be reached ({type(error).__name__}).") from None


def _pause(failures: int, error: ProviderError) -> float:
    """
    Return how long to wait before the next attempt.

    An answer that the ticker is unknown is given time: a minute of nonsense must not become a fact.
    """
    if isinstance(error, SaysUnknown):
        return _PAUSES_IF_UNKNOWN[failures - 1] * random.uniform(0.9, 1.1)  # noqa: S311
    return min(LONGEST_PAUSE, 2.0**failures) * random.uniform(0.5, 1)  # noqa: S311


def _in_the_end(function: str, ticker: str, failures: Sequence[str], error: ProviderError) -> ProviderError:
    """Return what to raise after the last attempt: that the ticker is unknown only if every attempt said so."""
    if not isinstance(error, SaysUnknown):
        return error
    if function == DAILY and set(failures[:ATTEMPTS]) == {Outcome.UNKNOWN}:
        return UnknownTicker(f"Alpha Vantage does not know {ticker}.", ticker)
    return ProviderUnavailable(str(error))


async def _body(response: httpx.Response, now: datetime) -> bytes:
    until = asked_to_wait(response.headers.get("Retry-After", ""), now)
    if response.status_code == 429 or (response.status_code == 503 and until):
        raise ProviderBusy(f"Alpha Vantage answered {response.status_code}.", until)
    if response.status_code != 200:
        raise ProviderUnavailable(f"Alpha Vantage answered {response.status_code}.")
    parts = bodies.bounded(response.aiter_raw(), response.headers, LARGEST_BODY, "Alpha Vantage")
    async with aclosing(parts):
        return b"".join([part async for part in parts])
