"""
What an answer of Alpha Vantage means: pure functions of its bytes.

Every answer is HTTP 200, errors included, so only the members tell what it is. Three rules decide:

- Data that can be read counts, whatever stands beside it. A row that cannot be read concerns its own day alone.
- Only what proves that asking again is of no use is a ConfigurationError: the key is invalid, or the function is for
  premium keys. Alpha Vantage advertises its premium plans in every notice, so that word alone proves nothing.
- An answer that it does not know the ticker, or an empty one, proves nothing by itself (see SaysUnknown).
"""

import decimal
import re
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import reduce
from operator import mul
from typing import Any, TypeGuard, TypeVar
from zoneinfo import ZoneInfo

from msgspec import Struct
from msgspec.structs import replace

from app.domain import splits
from app.domain.calendar import NEW_YORK
from app.domain.model import Bar
from app.domain.returns import CONTEXT, described, price
from app.domain.text import quotable
from app.domain.untrusted_json import AMBIGUOUS, decode
from app.errors import AlphaMondayError, ConfigurationError, ProviderBusy, ProviderUnavailable, QuotaSpent
from app.providers.rate_limiter import REST, UnreadableRow

_BARS = "Time Series (Daily)"
_SPLITS = "data"
_ABOUT = "Meta Data"
_NAMES_OF_A_SYMBOL = ("symbol", "ticker")

_LONGEST_NOTICE = 200
# What a notice means is said at its beginning; the longest one that is known has some 400 characters.
_LONGEST_READ = 2000
# Two events of one date never came so near to each other; two roundings of one event do.
_NEARLY = Decimal("0.005")
# More than the longest factor that is read (`app.domain.returns.price`).
_MOST_DIGITS = 300
_LIKE_A_DAY = re.compile(r"\s*([0-9]{4})[-/. ]?([0-9]{1,2})[-/. ]?([0-9]{1,2})(?![0-9])")
# More rows than that are no slip any more: the answer is not what was asked for.
_MOST_UNREADABLE = 1000

Row = TypeVar("Row")


class SaysUnknown(ProviderUnavailable):
    """
    The answer says that the ticker is unknown, or says nothing at all.

    Alpha Vantage also says so of tickers that it knows, for a minute or an hour: only the same answer again and again
    makes a fact of it.
    """


class Listed(Struct, frozen=True):
    """A date's splits as they were listed: `text` has the factors as written, `factor` is what they mean."""

    effective_date: date
    factor: Decimal
    text: str


def read_bars(body: bytes, ticker: str, key: str, now: datetime) -> tuple[list[Bar], list[UnreadableRow]]:
    """Return the bars of an answer, oldest first, and the rows that cannot be read; or raise what it is instead."""
    answer = _object(body, ticker)
    try:
        _refuse_other_symbol(answer, ticker)
        return _bars(answer, ticker)
    except ProviderUnavailable as error:
        raise _notice(answer, ticker, key, now) or error from None


def read_splits(body: bytes, ticker: str, key: str, now: datetime) -> tuple[list[Listed], list[UnreadableRow]]:
    """Return the splits of an answer, oldest first, and the rows that cannot be read; or raise what it is instead."""
    answer = _object(body, ticker)
    try:
        _refuse_other_symbol(answer, ticker)
        listed, unreadable = _splits(answer, ticker)
    except ProviderUnavailable as error:
        raise _notice(answer, ticker, key, now) or error from None
    refusal = _notice(answer, ticker, key, now)
    # An empty list beside a refusal is no answer that the ticker had no splits.
    if not listed and isinstance(refusal, ProviderBusy | QuotaSpent | ConfigurationError):
        raise refusal
    return listed, unreadable


def _object(body: bytes, ticker: str) -> dict[str, Any]:
    try:
        answer = decode(body)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise ProviderUnavailable(f"{ticker}: Alpha Vantage did not answer with a JSON object.")
    return answer


# Whose answer it is.


def _refuse_other_symbol(answer: dict[str, Any], ticker: str) -> None:
    """Refuse an answer that names another symbol than `ticker`; one that names none is accepted."""
    if answer.get(_ABOUT) is AMBIGUOUS:
        raise ProviderUnavailable(f"{ticker}: Alpha Vantage answered about two things at once.")
    for name, symbol in _said_about(answer):
        if _plain_name(name) not in _NAMES_OF_A_SYMBOL or symbol is None:
            continue
        if symbol is AMBIGUOUS:
            raise ProviderUnavailable(f"{ticker}: Alpha Vantage's answer names two symbols.")
        if not isinstance(symbol, str) or _one_form(symbol) != _one_form(ticker):
            raise ProviderUnavailable(f"{ticker}: Alpha Vantage answered about {described(symbol)} instead.")


def _said_about(answer: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return the members of an answer and of the objects in it, but for its rows."""
    members = list(answer.items())
    for name, value in answer.items():
        objects = value if isinstance(value, list) and name != _SPLITS else [value]
        members += [item for one in objects if isinstance(one, dict) and name != _BARS for item in one.items()]
    return members


def _plain_name(name: str) -> str:
    """Return a member's name without its number: "2. Symbol" is "symbol"."""
    return re.sub(r"^\s*[0-9]+\.\s*", "", name).strip().casefold()


def _one_form(symbol: str) -> str:
    return symbol.upper().replace("-", ".")


def _refuse_other_time_zone(answer: dict[str, Any], ticker: str) -> None:
    """Refuse bars whose days are those of another time zone; a name that is not known says nothing."""
    about = answer.get(_ABOUT)
    members = about.items() if isinstance(about, dict) else ()
    for name, zone in members:
        if _plain_name(name) == "time zone" and isinstance(zone, str) and _is_elsewhere(zone):
            raise ProviderUnavailable(f"{ticker}: Alpha Vantage answered without a daily series of New York's days.")


def _is_elsewhere(zone: str) -> bool:
    try:
        known = ZoneInfo(zone)
    except (ValueError, OSError, KeyError):
        return False
    winter, summer = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 7, 1, tzinfo=UTC)
    return any(
        moment.astimezone(known).utcoffset() != moment.astimezone(NEW_YORK).utcoffset() for moment in (winter, summer)
    )


# Its rows.


def _bars(answer: dict[str, Any], ticker: str) -> tuple[list[Bar], list[UnreadableRow]]:
    series = answer.get(_BARS)
    if not isinstance(series, dict) or not series:
        raise _without(answer, ticker, "a daily series")
    _refuse_other_time_zone(answer, ticker)
    rows = [_bar(name, values, ticker) for name, values in series.items()]
    unreadable = _few(rows, ticker)
    # A session that is there in two spellings is not known, whichever of them can be read.
    spoilt = {row.day for row in unreadable}
    bars = [row for row in rows if isinstance(row, Bar) and row.trading_day not in spoilt]
    if not bars:
        raise ProviderUnavailable(unreadable[0].reason)
    return sorted(bars, key=lambda bar: bar.trading_day), unreadable


def _bar(name: str, values: object, ticker: str) -> Bar | UnreadableRow:
    day = _day(name)
    if day is None:
        return UnreadableRow(_likely_day(name), f"{ticker}: {described(name)} is not a day.")
    if not isinstance(values, dict):
        return UnreadableRow(day, f"{ticker}, {day}: {described(values)} is not a bar.")
    try:
        close = price(values.get("4. close"), ticker, day)
    except ProviderUnavailable as error:
        return UnreadableRow(day, str(error))
    try:
        opened = price(values.get("1. open"), ticker, day)
    except ProviderUnavailable:
        opened = None  # few figures need it, and they wait for a reading that has it
    return Bar(trading_day=day, open=opened, close=close)


def _splits(answer: dict[str, Any], ticker: str) -> tuple[list[Listed], list[UnreadableRow]]:
    data = answer.get(_SPLITS)
    if not isinstance(data, list):
        raise _without(answer, ticker, "a list of splits")
    rows = _placed([_split(row, ticker) for row in data])
    unreadable = _few(rows, ticker)
    texts: dict[date, list[str]] = {}
    for row in rows:
        if isinstance(row, Listed):
            texts.setdefault(row.effective_date, []).append(row.text)
    spoilt = {row.day for row in unreadable}
    listed = [_together(day, factors) for day, factors in sorted(texts.items()) if day not in spoilt]
    if unreadable and not listed and all(row.day is None for row in unreadable):
        raise ProviderUnavailable(unreadable[0].reason)
    return listed, unreadable


def _split(row: object, ticker: str) -> Listed | UnreadableRow:
    if not isinstance(row, dict):
        return UnreadableRow(None, f"{ticker}: {described(row)} is not a split.")
    named = row.get("effective_date")
    day = _day(named)
    if day is None:
        likely, reason = _likely_day(named), f"{ticker}: {described(named)} is not a split's day."
        return UnreadableRow(likely, reason, None if likely else _year_end(named))
    text = row.get("split_factor")
    try:
        return Listed(day, price(text, ticker, day, "factor"), str(text))
    except ProviderUnavailable as error:
        return UnreadableRow(day, str(error))


def _together(day: date, texts: Sequence[str]) -> Listed:
    """
    Return what the factors of one date mean together: a reverse split and a spin-off multiply.

    Equal factors are one, however many decimals they have, also where one was rounded to fewer. Which of the texts is
    kept, and their order, does not depend on the order of the rows, so that a list in another order brings no new
    reading.
    """
    by_value: dict[Decimal, str] = {}
    for text in sorted(texts, key=lambda text: (len(text), text)):
        by_value.setdefault(splits.meant(Decimal(text)), text)
    # The most exact first, so that one that only is it with fewer decimals is left out.
    factors: list[Decimal] = []
    for value in sorted(by_value, key=lambda value: (_decimals(by_value[value]), value), reverse=True):
        if not any(_is_rounded(by_value[value], by_value[other]) for other in factors):
            factors.append(value)
    factors.sort()
    kept = [by_value[value] for value in factors]
    with decimal.localcontext(CONTEXT):
        return Listed(day, reduce(mul, factors), " and ".join(kept))


def _decimals(text: str) -> int:
    return len(text.partition(".")[2])


def _is_rounded(text: str, other: str) -> bool:
    """Return whether `text` is what `other` is with fewer decimals, and nearly the same: 4 is 4.0001, but not 3.6."""
    value, exact = Decimal(text), Decimal(other)
    with decimal.localcontext(CONTEXT, prec=_MOST_DIGITS):
        is_near = abs(value - exact) < _NEARLY * exact
        return is_near and round(exact, _decimals(text)) == value


def _placed(rows: Sequence[Listed | UnreadableRow]) -> list[Listed | UnreadableRow]:
    """Return the rows, those without a day with the latest day that they can have: the list has the newest first."""
    days = [_day_of(row) for row in rows]
    dated = [day for day in days if day]
    if dated != sorted(dated, reverse=True):
        return list(rows)
    placed: list[Listed | UnreadableRow] = []
    latest: date | None = None
    for row, day in zip(rows, days, strict=True):
        latest = day or latest
        placed.append(replace(row, not_after=_earlier(row.not_after, latest)) if _is_undated(row) else row)
    return placed


def _earlier(one: date | None, other: date | None) -> date | None:
    return min((day for day in (one, other) if day), default=None)


def _day_of(row: Listed | UnreadableRow) -> date | None:
    return row.effective_date if isinstance(row, Listed) else row.day


def _is_undated(row: Listed | UnreadableRow) -> TypeGuard[UnreadableRow]:
    return isinstance(row, UnreadableRow) and row.day is None


def _few(rows: Sequence[Row | UnreadableRow], ticker: str) -> list[UnreadableRow]:
    """Return the rows that cannot be read, by their days; refuse an answer that has too many of them."""
    unreadable = [row for row in rows if isinstance(row, UnreadableRow)]
    if len(unreadable) > _MOST_UNREADABLE:
        raise ProviderUnavailable(f"{ticker}: {len(unreadable):,} rows cannot be read. {unreadable[0].reason}")
    return sorted(unreadable, key=lambda row: row.day or date.max)


def _day(text: object) -> date | None:
    """Return the day that `text` names, in one spelling only: no session can be there twice unseen."""
    try:
        day = date.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return day if str(day) == text else None


def _likely_day(text: object) -> date | None:
    """Return the day that a text in another spelling seems to name, to tell whether its row would be needed."""
    found = _LIKE_A_DAY.match(text) if isinstance(text, str) else None
    try:
        return date(*(int(number) for number in found.groups())) if found else None
    except ValueError:
        return None


def _year_end(text: object) -> date | None:
    """Return the end of the year that a text seems to name which is no day: 1999-02-30 is at least not of today."""
    found = re.match(r"\s*([12][0-9]{3})[-/.]", text) if isinstance(text, str) else None
    return date(int(found[1]), 12, 31) if found else None


def _without(answer: dict[str, Any], ticker: str, what: str) -> ProviderUnavailable:
    """Return the error for an answer without `what` was asked for."""
    if AMBIGUOUS in (answer.get(_BARS), answer.get(_SPLITS)):
        return ProviderUnavailable(f"{ticker}: Alpha Vantage answered with two things in the place of {what}.")
    error = SaysUnknown if _says_nothing(answer) else ProviderUnavailable
    return error(f"{ticker}: Alpha Vantage answered without {what}.")


def _says_nothing(answer: dict[str, Any]) -> bool:
    """Return whether an answer is empty but for what it is about."""
    rest = {name: value for name, value in answer.items() if name != _ABOUT and _plain_name(name) != "symbol"}
    return all(value is None or value == {} or value == [] for value in rest.values())


# Its notices.


# The day's quota is spent, in so many words; then it does not matter what else the text advises.
_DAY_IS_SPENT = re.compile(
    r"\b(reach|exceed|exhaust|used up|use up|spent|hit|over)[^.;,(:]{0,40}"
    r"(\bdaily\b|per day|\ba day\b|day's|today|24[ -]hour)"
    r"|(\bdaily\b|per[- ]day|day's|24[ -]hour)[^.;,(:]{0,40}(reached|exceeded|exhausted|used up|spent)"
)
# A throttle's words. The text about a burst also mentions the day's limit, so these come before `_DAY`.
_THROTTLE = re.compile(
    r"(\bper|/|\beach|\bevery|\ba|\bone)[- ]?(second|sec|minute|min)\b|(second|minute)[- ]level|frequen|sparing"
    r"|spread|slow|too (many|fast|often|quick|soon)|throttl|concurren|simultaneous|in parallel|bandwidth"
    r"|burst|call volume|pacing|back(ing)?[- ]?off|high (load|traffic|demand|volume)|overload"
)
_DAY = re.compile(
    r"detected your api key|per[- ]day|/ ?day\b|\ba day\b|\bdaily\b|day's|today|24[ -]hour|tomorrow|midnight"
    r"|per[- ]hour|hourly|per[- ]month|monthly|quota|credits"
)
# What a day's limit counts: "today's data" or a "daily series" is no word about a quota.
_COUNTED = re.compile(r"\brequests\b|\b(api )?calls\b|limit|quota|credits|allowance|detected your api key")
_LIMIT = re.compile(r"\blimits?\b|rate[- ]limit")
_PAUSE = re.compile(
    r"\b(in|after|for|wait|least) (about |another )?(?P<number>[0-9]{1,4}) ?(?P<unit>s|m|h)(ec|in|our|\b)"
)
_SECONDS = {"s": 1, "m": 60, "h": 3600}
# Of the key and of premium functions only these words are proof: "is invalid or missing", "is a premium endpoint".
_BAD_KEY = re.compile(
    r"api[- _]?key\W+(parameter\W+)?(is|was|are)\W+(\w+\W+){0,2}?(invalid|missing|incorrect|wrong|inactive|revoked)"
    r"|(invalid|missing|incorrect|unknown)\W+(or \w+\W+)?(the\W+|your\W+)?api[- _]?key"
)
# What is premium must be what was asked for: an advertisement says the same of speed, of more requests and the like.
_PREMIUM = re.compile(
    r"\bthis( \w+)?,? (is|was|has become) an?( \w+)? premium([- ]only)?( api)? (endpoint|function)"
    r"|^an?( \w+)? premium( api)? (endpoint|function)\b"
    r"|(endpoint|function|parameter|outputsize|time_series_daily|splits)\b[^.;,:]{0,30} (is|are|has become)"
    r"( an?| now| only)*( \w+)? premium([- ]only)?( api)? (endpoint|feature|function|parameter|data|service)"
)
# Whoever says this too expects another answer of the same request: it is no proof any more.
_PASSING = re.compile(
    r"retry|again\b|temporar|\blater\b|shortly|\bsoon\b|\bbusy\b|maintenance|outage|at the moment|right now"
    r"|\bpeak\b|traffic|capacity|queue|unavailable|could not|cannot|unable"
)
# Each repeat is bounded: `\S`, which may be a mark too, and `\W` share a run of marks in very many ways.
_UNKNOWN = re.compile(
    r"invalid api call|(invalid|unknown|unsupported|unrecognized|no such)\W{1,5}(\w+\W{1,5})?(symbol|ticker)"
    r"|(symbol|ticker)\W{1,5}(\S{1,20}\W{1,5})?(is|was|were)?\W{0,5}(not|invalid|unknown|unsupported)"
)


def _notice(answer: dict[str, Any], ticker: str, key: str, now: datetime) -> AlphaMondayError | None:
    """Return what the texts of an answer mean that stand there in place of data, or None without any."""
    texts = [
        value
        for name, value in answer.items()
        if isinstance(value, str) and name not in (_BARS, _SPLITS) and _plain_name(name) != "symbol"
    ]
    # Redacted before it is cut: otherwise the beginning of a key could stay.
    text = quotable(" ".join(texts), [key])
    return _meaning(text.strip(), ticker, now) if text.strip() else None


def _meaning(text: str, ticker: str, now: datetime) -> AlphaMondayError:
    words, notice = " ".join(text[:_LONGEST_READ].casefold().split()), text[:_LONGEST_NOTICE]
    is_of_a_day = _DAY.search(words) and _COUNTED.search(words) and not _THROTTLE.search(words)
    if _DAY_IS_SPENT.search(words) or is_of_a_day:
        return QuotaSpent(f"Alpha Vantage says that the day's quota is spent: {notice}", now + REST)
    if _THROTTLE.search(words) or _LIMIT.search(words):
        return ProviderBusy(f"Alpha Vantage asked us to slow down: {notice}", now + _rest(words))
    is_passing = _PASSING.search(words)
    if _BAD_KEY.search(words) and not is_passing:
        return ConfigurationError("Alpha Vantage does not accept the key: set ALPHA_VANTAGE_API_KEY to a valid one.")
    if _PREMIUM.search(words) and not is_passing:
        return ConfigurationError(f"Alpha Vantage asks for a premium key for this: {notice}")
    if _UNKNOWN.search(words):
        return SaysUnknown(f"{ticker}: Alpha Vantage answered as if it did not know the ticker: {notice}")
    return ProviderUnavailable(f"Alpha Vantage answered with a notice in place of data: {notice}")


def _rest(words: str) -> timedelta:
    """Return how long to leave the provider alone: as long as it says, else for the unit of the limit that it names."""
    if pause := _PAUSE.search(words):
        return timedelta(seconds=min(int(pause["number"]) * _SECONDS[pause["unit"]] + 1, 86_400))
    return timedelta(seconds=2 if "second" in words and "minute" not in words else 61)
