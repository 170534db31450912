"""
The interpretation of Alpha Vantage's responses: pure functions of their bytes.

Alpha Vantage sends HTTP 200 with an error, too, so only the members of the JSON object show whether
a response is data, a notice or an error. There are three rules:

- Readable data is used, even if the response contains a notice as well. A row that cannot be read
  affects only its own day.
- A ConfigurationError is raised only if the notice proves that the same request will fail again:
  the key is invalid, or the function is for premium keys. Alpha Vantage advertises its premium
  plans in every notice, so the word "premium" alone proves nothing.
- If a response is empty or says that the ticker is unknown, this single response proves nothing
  (see MaybeUnknownTicker).
"""

import decimal
import json
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import reduce
from itertools import combinations
from operator import mul
from typing import Any, TypeGuard, TypeVar
from zoneinfo import ZoneInfo

from msgspec import Struct
from msgspec.structs import replace

from app.domain import splits
from app.domain.calendar import NEW_YORK, new_york_date
from app.domain.model import Bar
from app.domain.prompt import unify_spelling
from app.domain.returns import DECIMAL_CONTEXT, describe_value, parse_price
from app.domain.text import redact_for_record
from app.domain.untrusted_json import AMBIGUOUS, decode
from app.errors import (
    AlphaMondayError,
    ConfigurationError,
    ProviderBusy,
    ProviderUnavailable,
    QuotaSpent,
)
from app.providers.rate_limiter import COOLDOWN, UnreadableRow

# Members of a response.
_BARS = "Time Series (Daily)"
_SPLITS = "data"
_META_DATA = "Meta Data"
_SYMBOL_MEMBERS = ("symbol", "ticker")
_RATES = "data"
_DIVIDENDS = "data"
# The member of a row with a dividend that says on which day its ticker trades without it.
_EX_DATE = "ex_dividend_date"
# What the member has if the ex-date is not known yet: the text `None`, and other usual values.
_NO_EX_DATE = ("None", "", None, "0000-00-00")
# A row that is older belongs to no result that is still computed.
_RECENT = timedelta(days=365)
# The members with which Alpha Vantage answers in place of data, or beside it.
_NOTICES = ("Error Message", "Information", "Note")
# The other dates of such a row.
_OTHER_DATES = ("declaration_date", "record_date", "payment_date")
# The members that describe a response with rates. They are no notice.
_RATE_MEMBERS = ("name", "interval", "unit")
_RATE_INTERVAL = "weekly"
_RATE_UNIT = "percent"
_RATE_NAME = re.compile(r"\b3[- ]?month\b")
# The provider writes this value for a date without an observation, such as a holiday.
_NO_OBSERVATION = "."
# In percent a year. The highest yield of these bills so far was about 17.
_MAX_RATE = 100

_MAX_NOTICE_LENGTH = 200
# The meaning of a notice is in its first sentences; the longest known one has some 400 characters.
_MAX_NOTICE_READ = 2000
# If the relative difference of two factors of one date is smaller than this, one may be a rounding
# of the other, for example 4 of 4.0001 (see `_is_rounding_of`). We know no date with two different
# events whose factors were so close.
_ROUNDING_TOLERANCE = Decimal("0.005")
# The precision of a comparison of two factors, and of a sum of dividends, in digits. No number that
# `app.domain.returns.parse_price` reads has so many digits, so neither is rounded.
_ROUNDING_PRECISION = 300
_DATE_IN_OTHER_SPELLING = re.compile(
    r"\s*([0-9]{4})[-/. ]?([0-9]{1,2})[-/. ]?([0-9]{1,2})(?![0-9])"
)
# A response with more unreadable rows than this is refused: it is not what was requested.
_MAX_UNREADABLE = 1000

Row = TypeVar("Row")


class MaybeUnknownTicker(ProviderUnavailable):
    """
    The response says that the ticker is unknown, or the response is empty.

    At times Alpha Vantage sends such a response for a minute or an hour about tickers that it
    knows. Only the same response in every attempt proves that the ticker is unknown.
    """


class ListedSplit(Struct, frozen=True):
    """
    All splits of one date.

    `text` has the factors as the provider wrote them, `factor` is their product.
    """

    effective_date: date
    factor: Decimal
    text: str


class ListedDividend(Struct, frozen=True):
    """
    All dividends of one ex-date, per share of that day, in the currency of the ticker's prices.

    `amount` is their sum, above zero, with every digit that was sent: 1.6900 keeps its zeros.
    `text` has the amounts as the provider wrote them, the smallest first, with " + " between them.
    """

    ex_date: date
    amount: Decimal
    text: str


class _DividendRow(Struct, frozen=True):
    """
    One row of a response with dividends: its ex-date, and its amount as the provider wrote it.

    `other_dates` has those of _OTHER_DATES that can be read.
    """

    ex_date: date
    text: str
    other_dates: dict[str, date]


class ListedRate(Struct, frozen=True):
    """An observation of the rate without risk, in percent a year."""

    observed_on: date
    value_pct: Decimal


def read_bars(
    body: bytes, ticker: str, key: str, now: datetime
) -> tuple[list[Bar], list[UnreadableRow]]:
    """
    Return the bars of a response, oldest first, and the rows that cannot be read.

    If there are no bars, raises the error that the response reports. `key` is removed from the text
    of the error.
    """
    answer = _decode_object(body, ticker)
    try:
        _refuse_other_symbol(answer, ticker)
        return _read_bars(answer, ticker)
    except ProviderUnavailable as error:
        # A notice, if there is one, says why there are no bars.
        notice = _parse_notice(answer, ticker=ticker, key=key, now=now)
        raise notice or error from None


def read_splits(
    body: bytes, ticker: str, key: str, now: datetime
) -> tuple[list[ListedSplit], list[UnreadableRow]]:
    """
    Return the splits of a response, oldest first, and the rows that cannot be read.

    If there is no list of splits, raises the error that the response reports. `key` is removed from
    the text of the error.
    """
    answer = _decode_object(body, ticker)
    try:
        _refuse_other_symbol(answer, ticker)
        listed, unreadable = _read_splits(answer, ticker)
    except ProviderUnavailable as error:
        notice = _parse_notice(answer, ticker=ticker, key=key, now=now)
        raise notice or error from None
    _refuse_rejection(answer, listed, ticker=ticker, key=key, now=now)
    return listed, unreadable


def read_dividends(
    body: bytes, ticker: str, key: str, now: datetime
) -> tuple[list[ListedDividend], list[UnreadableRow]]:
    """
    Return the dividends of a response, oldest first, and the rows that cannot be read.

    Dividends of the future are among them. The dividends of one ex-date are added up. Two of its
    rows with equal amounts are two dividends only if one of their other dates can be read in both
    rows and differs; otherwise they are one dividend, listed twice. If one of the rows of an
    ex-date has an amount that cannot be read, this ex-date has no dividend in the result: a part of
    a sum is no sum. The same holds for a row whose ex-date has another spelling: its day is known,
    and it is an unreadable row of this day. A row that states no ex-date (`None`) is an unreadable
    row without a day. Raises ProviderUnavailable if another ex-date cannot be read, and may be of
    the last year: the dividend is real, and it is not known to which day it belongs.

    An empty list without a notice is an answer: the ticker pays no dividends. If there is no list
    of dividends, raises the error that the response reports. `key` is removed from the text of the
    error.
    """
    answer = _decode_object(body, ticker)
    try:
        _refuse_other_symbol(answer, ticker)
        listed, unreadable = _read_dividends(answer, ticker, today=new_york_date(now))
    except ProviderUnavailable as error:
        notice = _parse_notice(answer, ticker=ticker, key=key, now=now)
        raise notice or error from None
    _refuse_rejection(answer, listed, ticker=ticker, key=key, now=now)
    if not listed and any(answer.get(name) for name in _NOTICES):
        # Zero dividends are stated only by an empty list alone: any notice may be an error.
        notice = _parse_notice(answer, ticker=ticker, key=key, now=now)
        raise notice or ProviderUnavailable(
            f"{ticker}: Alpha Vantage listed no dividends, and answered with a notice."
        )
    return listed, unreadable


def find_ex_dates(
    listed: Iterable[ListedDividend], unreadable: Iterable[UnreadableRow]
) -> list[date]:
    """
    Return every ex-date that a response with dividends lists, the earliest first, each once.

    The ex-dates whose amount cannot be read are among them. The arguments are the result of
    `read_dividends`.
    """
    days = {dividend.ex_date for dividend in listed}
    days |= {row.day for row in unreadable if row.day}
    return sorted(days)


def read_rates(
    body: bytes, ticker: str, key: str, now: datetime
) -> tuple[list[ListedRate], list[UnreadableRow]]:
    """
    Return the observations of a response with rates, oldest first, and the unreadable rows.

    Dates without an observation are left out. Rates have no ticker: `ticker` is what names them in
    messages. If there is no list of observations, raises the error that the response reports. `key`
    is removed from the text of the error.
    """
    answer = _decode_object(body, ticker)
    described = {name: value for name, value in answer.items() if name not in _RATE_MEMBERS}
    try:
        _refuse_other_rates(answer, ticker)
        return _read_rates(answer, ticker, latest=new_york_date(now))
    except ProviderUnavailable as error:
        notice = _parse_notice(described, ticker=ticker, key=key, now=now)
        raise notice or error from None


def _refuse_rejection(
    answer: dict[str, Any], listed: Sequence[Row], *, ticker: str, key: str, now: datetime
) -> None:
    """
    Raise the error of a notice that rejects the request, if nothing is listed.

    Then an empty list does not mean that the ticker had no splits, or no dividends.
    """
    notice = _parse_notice(answer, ticker=ticker, key=key, now=now)
    if not listed and isinstance(notice, ProviderBusy | QuotaSpent | ConfigurationError):
        raise notice


def _decode_object(body: bytes, ticker: str) -> dict[str, Any]:
    try:
        answer = decode(body)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise ProviderUnavailable(f"{ticker}: Alpha Vantage did not answer with a JSON object.")
    return answer


# The symbol and the time zone of a response.


def _refuse_other_symbol(answer: dict[str, Any], ticker: str) -> None:
    """
    Raise ProviderUnavailable if the response is about a symbol other than `ticker`.

    A response without a symbol is accepted.
    """
    if answer.get(_META_DATA) is AMBIGUOUS:
        raise ProviderUnavailable(f"{ticker}: Alpha Vantage answered about two things at once.")
    for name, symbol in _descriptive_members(answer):
        if _plain_name(name) not in _SYMBOL_MEMBERS or symbol is None:
            continue
        if symbol is AMBIGUOUS:
            raise ProviderUnavailable(f"{ticker}: Alpha Vantage's answer names two symbols.")
        if not isinstance(symbol, str) or unify_spelling(symbol) != unify_spelling(ticker):
            raise ProviderUnavailable(
                f"{ticker}: Alpha Vantage answered about {describe_value(symbol)} instead."
            )


def _descriptive_members(answer: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return the members of a response and of the objects in it, except the members of its rows."""
    members = list(answer.items())
    for name, value in answer.items():
        if name == _BARS:
            continue
        # A list of objects may describe the response, too, unless it is the list of splits or of
        # dividends, which has the same name.
        is_other_list = isinstance(value, list) and name != _SPLITS
        elements = value if is_other_list else [value]
        for element in elements:
            if isinstance(element, dict):
                members += element.items()
    return members


def _plain_name(name: str) -> str:
    """Return a member's name without its number: "2. Symbol" becomes "symbol"."""
    return re.sub(r"^\s*[0-9]+\.\s*", "", name).strip().casefold()


def _refuse_other_time_zone(answer: dict[str, Any], ticker: str) -> None:
    """
    Raise ProviderUnavailable if the days of the bars are not days of New York's time zone.

    A zone whose name is unknown is ignored.
    """
    meta_data = answer.get(_META_DATA)
    if not isinstance(meta_data, dict):
        return
    for name, zone in meta_data.items():
        if _plain_name(name) == "time zone" and isinstance(zone, str) and _is_other_zone(zone):
            raise ProviderUnavailable(
                f"{ticker}: Alpha Vantage answered without a daily series of New York's days."
            )


def _is_other_zone(name: str) -> bool:
    """Return whether `name` is a known time zone whose offsets differ from New York's."""
    try:
        zone = ZoneInfo(name)
    except (ValueError, OSError, KeyError):
        return False
    # Zones with several names, such as US/Eastern, are recognised by their offsets.
    winter, summer = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 7, 1, tzinfo=UTC)
    return any(
        moment.astimezone(zone).utcoffset() != moment.astimezone(NEW_YORK).utcoffset()
        for moment in (winter, summer)
    )


# The rows of a response.


def _read_bars(answer: dict[str, Any], ticker: str) -> tuple[list[Bar], list[UnreadableRow]]:
    series = answer.get(_BARS)
    if not isinstance(series, dict) or not series:
        raise _missing_data_error(answer, ticker, "a daily series")
    _refuse_other_time_zone(answer, ticker)
    rows = [_read_bar(name, values, ticker) for name, values in series.items()]
    unreadable = _unreadable_rows(rows, ticker)
    # A session may be listed twice, with two spellings of its day. If one of the two rows cannot be
    # read, the session's close is unknown, even if the other row can be read.
    ambiguous_days = {row.day for row in unreadable}
    bars = [row for row in rows if isinstance(row, Bar) and row.trading_day not in ambiguous_days]
    if not bars:
        raise ProviderUnavailable(unreadable[0].reason)
    return sorted(bars, key=lambda bar: bar.trading_day), unreadable


def _read_bar(name: str, values: object, ticker: str) -> Bar | UnreadableRow:
    day = _parse_day(name)
    if day is None:
        return UnreadableRow(_guess_day(name), f"{ticker}: {describe_value(name)} is not a day.")
    if not isinstance(values, dict):
        return UnreadableRow(day, f"{ticker}, {day}: {describe_value(values)} is not a bar.")
    try:
        close = parse_price(values.get("4. close"), ticker, day)
    except ProviderUnavailable as error:
        return UnreadableRow(day, str(error))
    try:
        opening = parse_price(values.get("1. open"), ticker, day)
    except ProviderUnavailable:
        # Few figures need the opening price, and these wait for a reading that has it.
        opening = None
    return Bar(trading_day=day, open=opening, close=close)


def _read_splits(
    answer: dict[str, Any], ticker: str
) -> tuple[list[ListedSplit], list[UnreadableRow]]:
    data = answer.get(_SPLITS)
    if not isinstance(data, list):
        raise _missing_data_error(answer, ticker, "a list of splits")
    rows = _limit_undated_rows([_read_split(row, ticker) for row in data])
    unreadable = _unreadable_rows(rows, ticker)
    texts: dict[date, list[str]] = {}
    for row in rows:
        if isinstance(row, ListedSplit):
            texts.setdefault(row.effective_date, []).append(row.text)
    # The factor of a day is unknown if one of its rows cannot be read.
    incomplete_days = {row.day for row in unreadable}
    listed = [
        _combine(day, factors)
        for day, factors in sorted(texts.items())
        if day not in incomplete_days
    ]
    # A row without a day could be about any day. If there are only such rows, the list says nothing
    # about any split. So an error is raised, and the request is repeated.
    if unreadable and not listed and all(row.day is None for row in unreadable):
        raise ProviderUnavailable(unreadable[0].reason)
    return listed, unreadable


def _read_split(row: object, ticker: str) -> ListedSplit | UnreadableRow:
    if not isinstance(row, dict):
        return UnreadableRow(None, f"{ticker}: {describe_value(row)} is not a split.")
    text = row.get("effective_date")
    day = _parse_day(text)
    if day is None:
        guess = _guess_day(text)
        reason = f"{ticker}: {describe_value(text)} is not a split's day."
        return UnreadableRow(guess, reason, None if guess else _guess_year_end(text))
    factor = row.get("split_factor")
    try:
        return ListedSplit(day, parse_price(factor, ticker, day, what="factor"), str(factor))
    except ProviderUnavailable as error:
        return UnreadableRow(day, str(error))


def _read_dividends(
    answer: dict[str, Any], ticker: str, *, today: date
) -> tuple[list[ListedDividend], list[UnreadableRow]]:
    data = answer.get(_DIVIDENDS)
    if not isinstance(data, list):
        raise _missing_data_error(answer, ticker, "a list of dividends")
    different = _different_rows(data, ticker)
    rows = _limit_undated_rows([_read_dividend(row, ticker) for row in different])
    unreadable = _unreadable_rows(rows, ticker)
    # If no row has the member for its ex-date, this is another list, for example of splits. A row
    # whose ex-date is the text `None` is a dividend: its ex-date is not known yet.
    if unreadable and not any(isinstance(row, dict) and _EX_DATE in row for row in data):
        raise ProviderUnavailable(unreadable[0].reason)
    _refuse_odd_ex_dates(different, rows, since=today - _RECENT)
    rows_by_day: dict[date, list[_DividendRow]] = {}
    for row in rows:
        if isinstance(row, _DividendRow):
            rows_by_day.setdefault(row.ex_date, []).append(row)
    incomplete_days = {row.day for row in unreadable}
    listed = [
        _add_up(day, [row.text for row in _without_repeated(of_day)])
        for day, of_day in sorted(rows_by_day.items())
        if day not in incomplete_days
    ]
    return listed, unreadable


def _different_rows(data: Sequence[object], ticker: str) -> list[object]:
    """
    Return the rows in their order, and of several rows that are equal in every member the first.

    Raises ProviderUnavailable if a row is nested too deeply to be compared.
    """
    rows: dict[str, object] = {}
    try:
        for row in data:
            # As JSON, 1, 1.0 and true are three values. In Python they are equal.
            rows.setdefault(json.dumps(row, sort_keys=True, default=str), row)
    except RecursionError:
        raise ProviderUnavailable(
            f"{ticker}: Alpha Vantage's list of dividends is nested too deeply."
        ) from None
    return list(rows.values())


def _refuse_odd_ex_dates(
    data: Sequence[object], rows: Sequence[_DividendRow | UnreadableRow], *, since: date
) -> None:
    """
    Raise ProviderUnavailable if a row has an ex-date that cannot be read, of `since` or later.

    Without it, the list would state too few dividends. A row without an ex-date is another thing:
    the dividend has been declared, and its ex-date is not known yet.
    """
    for raw, row in zip(data, rows, strict=True):
        is_absent = isinstance(raw, dict) and raw.get(_EX_DATE, 0) in _NO_EX_DATE
        if not _is_undated(row) or is_absent:
            continue
        if row.not_after is None or row.not_after >= since:
            raise ProviderUnavailable(row.reason)


def _without_repeated(rows: Iterable[_DividendRow]) -> list[_DividendRow]:
    """
    Return the rows of one ex-date, and each dividend once.

    Two rows with equal amounts are two dividends only if one of their other dates can be read in
    both rows and differs. Example: three rows of 1.00, with payment on May 1, on May 2 and on an
    unknown day, are two dividends, because the third row repeats one of the others. A row with more
    dates is compared first, so the order of the rows makes no difference.
    """
    ordered = sorted(
        rows, key=lambda row: (-len(row.other_dates), sorted(row.other_dates.items()), row.text)
    )
    kept: list[_DividendRow] = []
    # The known dates of each kept row, in each selection. With this, a row is compared with all
    # kept rows at once: the time is proportional to the number of rows.
    known_dates: set[tuple[Decimal, tuple[str, ...], frozenset[tuple[str, date]]]] = set()
    names_of_rows = {tuple(row.other_dates) for row in ordered}
    for row in ordered:
        amount, dates = Decimal(row.text), row.other_dates
        is_repeated = any(
            (amount, names, _select(dates, dates.keys() & set(names))) in known_dates
            for names in names_of_rows
        )
        if is_repeated:
            continue
        kept.append(row)
        names = tuple(dates)
        for count in range(len(names) + 1):
            for selected in combinations(names, count):
                known_dates.add((amount, names, _select(dates, selected)))
    return kept


def _select(dates: dict[str, date], names: Iterable[str]) -> frozenset[tuple[str, date]]:
    return frozenset((name, dates[name]) for name in names)


def _read_dividend(row: object, ticker: str) -> _DividendRow | UnreadableRow:
    if not isinstance(row, dict):
        return UnreadableRow(None, f"{ticker}: {describe_value(row)} is not a dividend.")
    text = row.get(_EX_DATE)
    day = _parse_day(text)
    if day is None:
        reason = f"{ticker}: {describe_value(text)} is not a dividend's ex-date."
        # A date in another spelling shows which day has a dividend whose row cannot be read.
        if guessed := _guess_day(text):
            return UnreadableRow(guessed, reason)
        return UnreadableRow(None, reason, _guess_year_end(text))
    amount = row.get("amount")
    try:
        parse_price(amount, ticker, day, what="dividend")
    except ProviderUnavailable as error:
        return UnreadableRow(day, str(error))
    other_dates = {name: _parse_day(row.get(name)) for name in _OTHER_DATES}
    readable = {name: known for name, known in other_dates.items() if known}
    return _DividendRow(day, str(amount), readable)


def _add_up(day: date, texts: Sequence[str]) -> ListedDividend:
    """
    Return the sum of one ex-date's amounts, for example of an ordinary and a special dividend.

    The order of the rows makes no difference, because the same list in another order must not
    become a new reading.
    """
    ordered = sorted(texts, key=lambda text: (Decimal(text), text))
    amount = Decimal(ordered[0])
    with decimal.localcontext(DECIMAL_CONTEXT, prec=_ROUNDING_PRECISION):
        for text in ordered[1:]:
            amount += Decimal(text)
    return ListedDividend(day, amount, " + ".join(ordered))


def _refuse_other_rates(answer: dict[str, Any], subject: str) -> None:
    """
    Raise ProviderUnavailable if the response has other rates than the requested ones.

    A response that does not describe its rates is accepted.
    """
    name, interval, unit = (answer.get(member) for member in _RATE_MEMBERS)
    is_right_name = isinstance(name, str) and _RATE_NAME.search(name.casefold())
    if name is not None and not is_right_name:
        raise ProviderUnavailable(
            f"{subject}: Alpha Vantage answered about {describe_value(name)} instead."
        )
    for value, expected in ((interval, _RATE_INTERVAL), (unit, _RATE_UNIT)):
        if value is not None and value != expected:
            raise ProviderUnavailable(
                f"{subject}: Alpha Vantage answered with {describe_value(value)} in place of "
                f"{expected}."
            )


def _read_rates(
    answer: dict[str, Any], subject: str, latest: date
) -> tuple[list[ListedRate], list[UnreadableRow]]:
    data = answer.get(_RATES)
    if not isinstance(data, list):
        raise _missing_data_error(answer, subject, "a list of rates")
    rows = [_read_rate(row, subject, latest) for row in data]
    unreadable = _unreadable_rows([row for row in rows if row is not None], subject)
    values: dict[date, set[Decimal]] = {}
    for row in rows:
        if isinstance(row, ListedRate):
            values.setdefault(row.observed_on, set()).add(row.value_pct)
    # The rate of a day is unknown if one of its rows cannot be read, or if two rows differ.
    unknown_days = {row.day for row in unreadable}
    unknown_days |= {day for day, several in values.items() if len(several) > 1}
    listed = [
        ListedRate(day, *several)
        for day, several in sorted(values.items())
        if day not in unknown_days
    ]
    if not listed:
        if unreadable:
            raise ProviderUnavailable(unreadable[0].reason)
        raise ProviderUnavailable(f"{subject}: Alpha Vantage's list of rates has no observation.")
    return listed, unreadable


def _read_rate(row: object, subject: str, latest: date) -> ListedRate | UnreadableRow | None:
    """Return an observation; None if the row says that its date has none."""
    if not isinstance(row, dict):
        return UnreadableRow(None, f"{subject}: {describe_value(row)} is not a rate.")
    text, value = row.get("date"), row.get("value")
    day = _parse_day(text)
    if day is None:
        reason = f"{subject}: {describe_value(text)} is not a rate's day."
        return UnreadableRow(_guess_day(text), reason)
    if value == _NO_OBSERVATION:
        return None
    if day > latest:
        return UnreadableRow(day, f"{subject}: {day} is in the future.")
    if not isinstance(value, str) or not re.fullmatch(r"-?[0-9]{1,3}(\.[0-9]{1,12})?", value):
        return UnreadableRow(day, f"{subject}, {day}: {describe_value(value)} is not a rate.")
    rate = Decimal(value)
    if abs(rate) >= _MAX_RATE:
        return UnreadableRow(day, f"{subject}, {day}: {describe_value(value)} is not a rate.")
    return ListedRate(day, rate)


def _combine(day: date, texts: Sequence[str]) -> ListedSplit:
    """
    Return the product of one date's factors, for example of a reverse split and a spin-off.

    Equal factors count once, and so does a factor with its roundings: 4, 4.00 and 4.0001 count as
    4.0001. The order of the rows makes no difference, because the same list in another order must
    not become a new reading.
    """
    text_by_value: dict[Decimal, str] = {}
    for text in sorted(texts, key=lambda text: (len(text), text)):
        text_by_value.setdefault(splits.intended_factor(Decimal(text)), text)

    # The factor with the most decimals comes first. So it is added to `factors`, and its roundings,
    # which come later, are not.
    most_exact_first = sorted(
        text_by_value,
        key=lambda value: (_decimal_places(text_by_value[value]), value),
        reverse=True,
    )
    factors: list[Decimal] = []
    for value in most_exact_first:
        chosen = (text_by_value[factor] for factor in factors)
        if not _is_rounding_of_any(text_by_value[value], chosen):
            factors.append(value)
    factors.sort()

    with decimal.localcontext(DECIMAL_CONTEXT):
        product = reduce(mul, factors)
    return ListedSplit(day, product, " and ".join(text_by_value[value] for value in factors))


def _decimal_places(text: str) -> int:
    return len(text.partition(".")[2])


def _is_rounding_of_any(text: str, others: Iterable[str]) -> bool:
    return any(_is_rounding_of(text, other) for other in others)


def _is_rounding_of(text: str, other: str) -> bool:
    """
    Return whether `text` is `other` with fewer decimals, and nearly the same value.

    4 is a rounding of 4.0001, but not of 3.6.
    """
    value, exact = Decimal(text), Decimal(other)
    with decimal.localcontext(DECIMAL_CONTEXT, prec=_ROUNDING_PRECISION):
        is_near = abs(value - exact) < _ROUNDING_TOLERANCE * exact
        return is_near and round(exact, _decimal_places(text)) == value


def _limit_undated_rows(rows: Sequence[Row | UnreadableRow]) -> list[Row | UnreadableRow]:
    """
    Return the rows, with the latest possible day for each row that has no day.

    The provider lists the newest row first, so a row without a day is not newer than the row above
    it. If the rows that have a day are not in this order, the place of a row does not show its
    latest possible day, and the rows are returned unchanged.
    """
    days = [_row_day(row) for row in rows]
    dated = [day for day in days if day]
    if dated != sorted(dated, reverse=True):
        return list(rows)
    limited: list[Row | UnreadableRow] = []
    latest: date | None = None
    for row, day in zip(rows, days, strict=True):
        latest = day or latest
        if _is_undated(row):
            limited.append(replace(row, not_after=_earlier(row.not_after, latest)))
        else:
            limited.append(row)
    return limited


def _earlier(one: date | None, other: date | None) -> date | None:
    return min((day for day in (one, other) if day), default=None)


def _row_day(row: object) -> date | None:
    match row:
        case ListedSplit():
            return row.effective_date
        case _DividendRow():
            return row.ex_date
        case UnreadableRow():
            return row.day
    return None


def _is_undated(row: object) -> TypeGuard[UnreadableRow]:
    return isinstance(row, UnreadableRow) and row.day is None


def _unreadable_rows(rows: Sequence[Row | UnreadableRow], ticker: str) -> list[UnreadableRow]:
    """
    Return the unreadable rows, ordered by day.

    Raises ProviderUnavailable if there are more than _MAX_UNREADABLE.
    """
    unreadable = [row for row in rows if isinstance(row, UnreadableRow)]
    if len(unreadable) > _MAX_UNREADABLE:
        raise ProviderUnavailable(
            f"{ticker}: {len(unreadable):,} rows cannot be read. {unreadable[0].reason}"
        )
    return sorted(unreadable, key=lambda row: row.day or date.max)


def _parse_day(text: object) -> date | None:
    """
    Return the day that `text` names in the form 2026-11-16, or None.

    Only this spelling is accepted: with two spellings of one day, a session could be listed twice
    without being noticed.
    """
    if not isinstance(text, str):
        return None
    try:
        day = date.fromisoformat(text)
    except ValueError:
        return None
    return day if str(day) == text else None


def _guess_day(text: object) -> date | None:
    """
    Return the day that a text probably names if `_parse_day` does not accept its spelling, or None.

    This day is only used to decide whether a figure needs the row.
    """
    if not isinstance(text, str):
        return None
    match = _DATE_IN_OTHER_SPELLING.match(text)
    if match is None:
        return None
    year, month, day = map(int, match.groups())
    try:
        return date(year, month, day)
    except ValueError:
        return None


def _guess_year_end(text: object) -> date | None:
    """
    Return the last day of the year that a text probably names, or None.

    A text such as 1999-02-30 is not a date, but its row is certainly not from a later year.
    """
    if not isinstance(text, str):
        return None
    match = re.match(r"\s*([12][0-9]{3})[-/.]", text)
    if match is None:
        return None
    return date(int(match[1]), 12, 31)


def _missing_data_error(answer: dict[str, Any], ticker: str, expected: str) -> ProviderUnavailable:
    """Return the error for a response that does not contain the `expected` data."""
    if AMBIGUOUS in (answer.get(_BARS), answer.get(_SPLITS)):
        return ProviderUnavailable(
            f"{ticker}: Alpha Vantage answered with two things in the place of {expected}."
        )
    error_class = MaybeUnknownTicker if _is_empty(answer) else ProviderUnavailable
    return error_class(f"{ticker}: Alpha Vantage answered without {expected}.")


def _is_empty(answer: dict[str, Any]) -> bool:
    """Return whether a response contains nothing except its symbol and metadata."""
    rest = {
        name: value
        for name, value in answer.items()
        if name != _META_DATA and _plain_name(name) != "symbol"
    }
    return all(value is None or value == {} or value == [] for value in rest.values())


# The notices that Alpha Vantage sends in place of data.


# These words say that the day's quota is spent. Then the rest of the notice does not matter.
_QUOTA_SPENT = re.compile(
    r"\b(reach|exceed|exhaust|used up|use up|spent|hit|over)[^.;,(:]{0,40}"
    r"(\bdaily\b|per day|\ba day\b|day's|today|24[ -]hour)"
    r"|(\bdaily\b|per[- ]day|day's|24[ -]hour)[^.;,(:]{0,40}"
    r"(reached|exceeded|exhausted|used up|spent)"
)
# These words say that we send too many requests in a short time. A notice with them often mentions
# the day's limit, too, so `_DAY` counts only if none of these words is found.
_THROTTLE = re.compile(
    r"(\bper|/|\beach|\bevery|\ba|\bone)[- ]?(second|sec|minute|min)\b"
    r"|(second|minute)[- ]level|frequen|sparing"
    r"|spread|slow|too (many|fast|often|quick|soon)|throttl|concurren|simultaneous|in parallel"
    r"|bandwidth"
    r"|burst|call volume|pacing|back(ing)?[- ]?off|high (load|traffic|demand|volume)|overload"
)
# Words about the limit of a day, or of another long period (an hour, a month).
_DAY = re.compile(
    r"detected your api key|per[- ]day|/ ?day\b|\ba day\b|\bdaily\b|day's|today|24[ -]hour"
    r"|tomorrow|midnight"
    r"|per[- ]hour|hourly|per[- ]month|monthly|quota|credits"
)
# The things that a daily limit counts. Without one of these words, "today's data" or a "daily
# series" says nothing about a quota.
_COUNTED_THINGS = re.compile(
    r"\brequests\b|\b(api )?calls\b|limit|quota|credits|allowance|detected your api key"
)
_LIMIT = re.compile(r"\blimits?\b|rate[- ]limit")
_PAUSE = re.compile(
    r"\b(in|after|for|wait|least) (about |another )?"
    r"(?P<number>[0-9]{1,4}) ?(?P<unit>s|m|h)(ec|in|our|\b)"
)
_SECONDS = {"s": 1, "m": 60, "h": 3600}
# Only these words prove that the key is invalid, for example "is invalid or missing".
_BAD_KEY = re.compile(
    r"api[- _]?key\W+(parameter\W+)?(is|was|are)\W+(\w+\W+){0,2}?"
    r"(invalid|missing|incorrect|wrong|inactive|revoked)"
    r"|(invalid|missing|incorrect|unknown)\W+(or \w+\W+)?(the\W+|your\W+)?api[- _]?key"
)
# Only these words prove that the function is for premium keys: the endpoint itself must be called
# premium, because advertisements use that word for speed, more requests and other things.
_PREMIUM = re.compile(
    r"\bthis( \w+)?,? (is|was|has become) an?( \w+)? premium([- ]only)?( api)? "
    r"(endpoint|function)"
    r"|^an?( \w+)? premium( api)? (endpoint|function)\b"
    r"|(endpoint|function|parameter|outputsize|time_series_daily|splits|dividends)\b[^.;,:]{0,30} "
    r"(is|are|has become)"
    r"( an?| now| only)*( \w+)? premium([- ]only)?( api)? "
    r"(endpoint|feature|function|parameter|data|service)"
)
# A notice with one of these words says that the same request may succeed later, so it proves
# neither an invalid key nor a premium function.
_TEMPORARY = re.compile(
    r"retry|again\b|temporar|\blater\b|shortly|\bsoon\b|\bbusy\b|maintenance|outage"
    r"|at the moment|right now"
    r"|\bpeak\b|traffic|capacity|queue|unavailable|could not|cannot|unable"
)
# Each repetition of `\S` and `\W` is bounded. Both match punctuation, so without a bound a long run
# of punctuation could be divided between them in very many ways, and the search would take very
# long.
_UNKNOWN = re.compile(
    r"invalid api call"
    r"|(invalid|unknown|unsupported|unrecognized|no such)\W{1,5}(\w+\W{1,5})?(symbol|ticker)"
    r"|(symbol|ticker)\W{1,5}(\S{1,20}\W{1,5})?(is|was|were)?\W{0,5}"
    r"(not|invalid|unknown|unsupported)"
)


def _parse_notice(
    answer: dict[str, Any], *, ticker: str, key: str, now: datetime
) -> AlphaMondayError | None:
    """Return the error that the texts of a response report, or None if it has no texts."""
    texts = [
        value
        for name, value in answer.items()
        if isinstance(value, str) and name not in (_BARS, _SPLITS) and _plain_name(name) != "symbol"
    ]
    # The key is removed before the text is shortened: otherwise the beginning of a key that is cut
    # in two could remain.
    text = redact_for_record(" ".join(texts), [key]).strip()
    if not text:
        return None
    return _classify_notice(text, ticker, now)


def _classify_notice(text: str, ticker: str, now: datetime) -> AlphaMondayError:
    """
    Return the error that a notice reports.

    The tests for limits come first, because notices about limits also advertise premium plans.
    """
    words = " ".join(text[:_MAX_NOTICE_READ].casefold().split())
    notice = text[:_MAX_NOTICE_LENGTH]
    is_daily = _DAY.search(words) and _COUNTED_THINGS.search(words) and not _THROTTLE.search(words)
    if _QUOTA_SPENT.search(words) or is_daily:
        return QuotaSpent(
            f"Alpha Vantage says that the day's quota is spent: {notice}", now + COOLDOWN
        )
    if _THROTTLE.search(words) or _LIMIT.search(words):
        return ProviderBusy(
            f"Alpha Vantage asked us to slow down: {notice}", now + _requested_pause(words)
        )
    is_temporary = _TEMPORARY.search(words)
    if _BAD_KEY.search(words) and not is_temporary:
        return ConfigurationError(
            "Alpha Vantage does not accept the key: set ALPHA_VANTAGE_API_KEY to a valid one."
        )
    if _PREMIUM.search(words) and not is_temporary:
        return ConfigurationError(f"Alpha Vantage asks for a premium key for this: {notice}")
    if _UNKNOWN.search(words):
        return MaybeUnknownTicker(
            f"{ticker}: Alpha Vantage answered as if it did not know the ticker: {notice}"
        )
    return ProviderUnavailable(f"Alpha Vantage answered with a notice in place of data: {notice}")


def _requested_pause(words: str) -> timedelta:
    """
    Return how long the notice asks us to wait, plus one second, but at most a day.

    If the notice names no time to wait, the pause is two seconds after a notice about a limit per
    second, and 61 seconds after any other notice.
    """
    if match := _PAUSE.search(words):
        seconds = int(match["number"]) * _SECONDS[match["unit"]]
        return timedelta(seconds=min(seconds + 1, 86_400))
    if "second" in words and "minute" not in words:
        return timedelta(seconds=2)
    return timedelta(seconds=61)
