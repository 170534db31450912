"""
Prices from Alpha Vantage: raw daily bars, one request per ticker; and the splits that it lists.

`TIME_SERIES_DAILY` (`outputsize=compact`) is the latest 100 raw bars, each with its own date; `SPLITS` is a ticker's
splits, and it seems its spin-offs, with factors of four decimals. Every answer is HTTP 200,
errors included; what a body means is told from its members alone, in the order of `read`. The text of the daily-quota
notice echoes the key, so every provider text is redacted before it goes anywhere.
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import date, datetime, timedelta
from decimal import Decimal
from http.cookiejar import CookieJar, DefaultCookiePolicy
from time import monotonic
from typing import Any, TypeVar

import httpx
import msgspec
import structlog
from msgspec import Struct

from app.domain import splits
from app.domain.calendar import Clock
from app.domain.model import Bar
from app.domain.returns import price
from app.domain.text import quotable
from app.errors import (
    AlphaMondayError,
    ConfigurationError,
    ProviderBusy,
    ProviderUnavailable,
    QuotaSpent,
    UnknownTicker,
)
from app.providers.rate_limiter import IN_FLIGHT, REST, Grant, Ledger, Outcome, Shared
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
_TIME_LIMIT = 30.0
_LARGEST_BODY = 5_000_000
_LONGEST_TEXT = 300

T = TypeVar("T")

log = structlog.get_logger()

# httpx tells every address at INFO, and ours hold the key; whoever sets up the logs need not know that.
logging.getLogger("httpx").addFilter(lambda record: "apikey=" not in record.getMessage())


class Answer(Struct, frozen=True):
    """The bars of one ticker, oldest first, and the grant whose outcome is still to be written down."""

    grant: Grant
    bars: list[Bar]


class Listed(Struct, frozen=True):
    """A split as it was listed: `said` is the factor's text, `factor` what it means."""

    effective_date: date
    factor: Decimal
    said: str


class SplitsAnswer(Struct, frozen=True):
    """The splits that are listed for one ticker, oldest first, and the grant whose outcome is still to be written."""

    grant: Grant
    splits: list[Listed]


class AlphaVantage:
    """A client of one key, within its limits."""

    def __init__(self, key: str, ledger: Ledger, clock: Clock, base_url: str = "") -> None:
        self.key, self.ledger, self.clock = key, ledger, clock
        self.base_url = (base_url or BASE_URL).rstrip("/")
        # A cookie that is not ASCII would be kept, and every later request fail with it.
        self.http = httpx.AsyncClient(
            timeout=httpx.Timeout(10.0),
            follow_redirects=False,
            cookies=CookieJar(policy=DefaultCookiePolicy(allowed_domains=[])),
        )
        self._slots = asyncio.Semaphore(IN_FLIGHT)
        self._spelling: dict[str, str] = {}

    async def close(self) -> None:
        """Give back the connections."""
        await self.http.aclose()

    async def bars(self, ticker: str, since: datetime, begun: datetime | None = None) -> Answer | Shared:
        """
        Return the latest bars of `ticker`, or that somebody got them after `since` and has stored them.

        The caller settles the answer's grant in the transaction that stores the bars. Raises UnknownTicker,
        ConfigurationError, QuotaSpent, and after five attempts ProviderBusy or ProviderUnavailable. The attempts are
        everybody's since `begun`, when what needs the bars was due: whoever comes after the fifth has one.
        """
        permit, bars = await self._asked(DAILY, ticker, since, begun, read_bars)
        return permit if isinstance(permit, Shared) else Answer(permit, bars)

    async def splits(self, ticker: str, since: datetime, begun: datetime | None = None) -> SplitsAnswer | Shared:
        """Return the splits that are listed for `ticker`; otherwise as `bars`."""
        permit, listed = await self._asked(SPLITS, ticker, since, begun, read_splits)
        return permit if isinstance(permit, Shared) else SplitsAnswer(permit, listed)

    async def _asked(
        self,
        function: str,
        ticker: str,
        since: datetime,
        begun: datetime | None,
        reader: Callable[[dict[str, Any], str], list[T]],
    ) -> tuple[Grant | Shared, list[T]]:
        while True:
            permit = await self.ledger.permit(function, ticker, since)
            if isinstance(permit, Shared):
                return permit, []
            try:
                async with self._outcome_of(permit):
                    return permit, await self._read(function, ticker, reader, permit)
            except UnknownTicker:
                if self._spelling_of(ticker) == ticker:
                    self._spelling.pop(ticker, None)  # neither is known now; nothing worked that could be remembered
                    raise
                self._spelling[ticker] = ticker  # the same attempt, in other words
            except (ProviderBusy, ProviderUnavailable) as error:
                # The ledger's count outlives a wait for quota, and this process.
                attempt = await self.ledger.failures(function, ticker, begun or since)
                if attempt >= ATTEMPTS:
                    raise
                pause = min(LONGEST_PAUSE, 2.0**attempt) * random.uniform(0.5, 1)  # noqa: S311
                log.info("provider asked again soon", ticker=ticker, attempt=attempt, reason=str(error), pause=pause)
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
            await self.ledger.fail(grant, Outcome.FAILED, busy.until)
            raise
        except (UnknownTicker, ConfigurationError):
            await self.ledger.fail(grant, Outcome.REFUSED)
            raise
        except AlphaMondayError:
            await self.ledger.fail(grant, Outcome.FAILED)
            raise

    async def _read(
        self, function: str, ticker: str, reader: Callable[[dict[str, Any], str], list[T]], grant: Grant
    ) -> list[T]:
        try:
            return reader(await self._ask(function, ticker, grant), ticker)
        except ProviderUnavailable as error:  # it may quote what was answered
            raise ProviderUnavailable(quotable(str(error), [self.key])[:_LONGEST_TEXT]) from None

    async def _ask(self, function: str, ticker: str, grant: Grant) -> dict[str, Any]:
        symbol = self._spelling_of(ticker)
        size = {"outputsize": "compact"} if function == DAILY else {}
        body = await self._get({"function": function, "symbol": symbol, **size}, grant)
        return read(body, ticker, self.key, self.clock.now())

    def _spelling_of(self, ticker: str) -> str:
        """Return how to ask for `ticker`: class shares with a dash, until only the dot turns out to be known."""
        return self._spelling.get(ticker, ticker.replace(".", "-"))

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


async def _body(response: httpx.Response, now: datetime) -> bytes:
    until = asked_to_wait(response.headers.get("Retry-After", ""), now)
    if response.status_code == 429 or (response.status_code == 503 and until):
        raise ProviderBusy(f"Alpha Vantage answered {response.status_code}.", until)
    if response.status_code != 200:
        raise ProviderUnavailable(f"Alpha Vantage answered {response.status_code}.")
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > _LARGEST_BODY:
            raise ProviderUnavailable("Alpha Vantage answered with more than anybody asked for.")
    return bytes(body)


def read(body: bytes, ticker: str, key: str, now: datetime) -> dict[str, Any]:
    """
    Return the data of an answer, or raise what else it is.

    The order matters: the text about a burst also mentions the daily limit.
    """
    try:
        answer = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ProviderUnavailable(f"{ticker}: Alpha Vantage did not answer with a JSON object.") from None
    if error := answer.get("Error Message"):
        if "apikey" in _text(error):
            raise ConfigurationError("Alpha Vantage does not accept the key: set ALPHA_VANTAGE_API_KEY to a valid one.")
        raise UnknownTicker(f"Alpha Vantage does not know {ticker}.", ticker)
    if notice := answer.get("Information") or answer.get("Note"):
        raise _notice(quotable(_text(notice), [key]), now)
    return answer


def _text(notice: object) -> str:
    if not isinstance(notice, str):  # it may be deeper than Python can write down
        raise ProviderUnavailable("Alpha Vantage answered with a notice that is no text.")
    return notice


def _notice(text: str, now: datetime) -> AlphaMondayError:
    """Return what a notice in place of data means."""
    lower = text.lower()
    if any(words in lower for words in ("1 request per second", "sparingly", "call frequency")):
        # Which of its limits we met, it says; whoever else is about to ask waits, too.
        rest = timedelta(seconds=61 if "per minute" in lower else 2)
        return ProviderBusy(f"Alpha Vantage asked us to slow down: {text[:200]}", now + rest)
    if any(words in lower for words in ("detected your api key", "requests per day")):
        return QuotaSpent(f"Alpha Vantage says that the day's quota is spent: {text[:200]}", now + REST)
    if "premium" in lower:
        return ConfigurationError(f"Alpha Vantage asks for a premium key for this: {text[:200]}")
    return ProviderUnavailable(f"Alpha Vantage answered with a notice in place of data: {text[:200]}")


class _Series(Struct):
    bars: dict[str, dict[str, Any]] = msgspec.field(name="Time Series (Daily)")


def read_bars(answer: dict[str, Any], ticker: str) -> list[Bar]:
    """Return the bars of an answer, oldest first; every one must be readable, or none counts."""
    try:
        series = msgspec.convert(answer, _Series).bars
        days = sorted((_day(day), values) for day, values in series.items())
    except (msgspec.ValidationError, ValueError, RecursionError):
        raise ProviderUnavailable(f"{ticker}: Alpha Vantage answered without a daily series.") from None
    return [
        Bar(
            trading_day=day,
            open=price(values.get("1. open"), ticker, day),
            close=price(values.get("4. close"), ticker, day),
        )
        for day, values in days
    ]


class _Split(Struct):
    effective_date: str
    split_factor: str


class _Splits(Struct):
    data: list[_Split]


def read_splits(answer: dict[str, Any], ticker: str) -> list[Listed]:
    """Return the splits of an answer, oldest first; every one must be readable, or none counts."""
    try:
        # One that stands there twice, to the letter, is one.
        listed = {(_day(one.effective_date), one.split_factor) for one in msgspec.convert(answer, _Splits).data}
    except (msgspec.ValidationError, ValueError, RecursionError):
        raise ProviderUnavailable(f"{ticker}: Alpha Vantage answered without a list of splits.") from None
    if len({day for day, _ in listed}) < len(listed):
        raise ProviderUnavailable(f"{ticker}: Alpha Vantage lists two splits of one day.")
    return [Listed(day, splits.meant(price(said, ticker, day, "factor")), said) for day, said in sorted(listed)]


def _day(text: str) -> date:
    """Return the day that `text` names; in one spelling only, so that no session can be there twice."""
    day = date.fromisoformat(text)
    if text != str(day):
        raise ValueError(text)
    return day
