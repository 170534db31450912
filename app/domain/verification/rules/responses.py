"""
The rule `readings`: each reading of a sealed record is first in the entry of its response.

A READINGS entry states a response of a provider and what was kept of it. A READINGS entry with
`adopted` mentions the rows that no entry mentioned before the record was sealed.
"""

import re

from app.domain import calendar
from app.domain.declarations import ProviderResponse, ResponseKind
from app.domain.journal import to_text
from app.domain.model import SHA256_PATTERN, Close, Dividend, JournalKind, Rate, Split
from app.domain.verification.discrepancies import Rule, discrepancy
from app.domain.verification.entries import AnyRow, Mention, ParsedEntry
from app.domain.verification.state import JournalState, locate

# The type of the readings that a response of a kind has.
_TYPES = {
    ResponseKind.CLOSES: Close,
    ResponseKind.SPLITS: Split,
    ResponseKind.DIVIDENDS: Dividend,
    ResponseKind.RATES: Rate,
}
# The kinds of responses that name days after the day on which they were read.
_MAY_NAME_FUTURE_DAYS = (ResponseKind.SPLITS, ResponseKind.DIVIDENDS)
# The members of an entry that belong to responses of one kind alone.
_OWN_MEMBERS = {"dividends": ResponseKind.DIVIDENDS, "rates": ResponseKind.RATES}


def check(entry: ParsedEntry, state: JournalState) -> None:
    """Raise Discrepancy for a reading in the wrong entry, or a wrong statement of a response."""
    if entry.kind is not JournalKind.READINGS:
        _check_first_mentions(entry, state)
        return
    _check_new(entry, state)
    if entry.response is None:
        return
    problem = _response_problem(entry, entry.response, state)
    if problem is not None:
        raise discrepancy(
            Rule.READINGS, f"Entry {entry.seq} of the journal: its response: {problem}."
        )
    readings: list[Close | Split | Dividend | Rate] = [
        *entry.rows(Close),
        *entry.rows(Split),
        *entry.rows(Dividend),
        *entry.rows(Rate),
    ]
    for row in readings:
        problem = _reading_problem(row, entry.response)
        if problem is not None:
            raise discrepancy(Rule.READINGS, f"{locate(entry, state, row)}: {problem}.")


def _check_first_mentions(entry: ParsedEntry, state: JournalState) -> None:
    """Raise Discrepancy for a reading that no READINGS entry of a sealed record mentions."""
    if not state.is_sealed:
        return
    for mention in entry.mentions:
        if mention.before is None and isinstance(mention.row, Close | Split | Dividend | Rate):
            raise discrepancy(
                Rule.READINGS,
                f"{locate(entry, state, mention.row)}: it is first mentioned in a {entry.kind} "
                "entry, but in a sealed record a READINGS entry mentions each reading first.",
            )


def _check_new(entry: ParsedEntry, state: JournalState) -> None:
    """Raise Discrepancy for a row that an earlier entry mentions, or this entry twice."""
    seen = set[object]()
    for mention in entry.mentions:
        key = _key(mention)
        if mention.before is not None or key in seen:
            raise discrepancy(
                Rule.READINGS,
                f"{locate(entry, state, mention.row)}: a READINGS entry mentions only rows that "
                "were not mentioned before.",
            )
        seen.add(key)


def _key(mention: Mention) -> object:
    row: AnyRow = mention.row
    if isinstance(row, Split):
        return row.ticker, row.effective_date, row.read_at
    if isinstance(row, Dividend):
        return "dividend", row.ticker, row.ex_date, row.read_at
    if isinstance(row, Rate):
        return row.observed_on, row.read_at
    return row.id


def _response_problem(
    entry: ParsedEntry, response: ProviderResponse, state: JournalState
) -> str | None:
    if not re.fullmatch(SHA256_PATTERN, response.sha256):
        return f"sha256 is {response.sha256[:80]!r}, but must be 64 lower-case hexadecimal digits"
    if not response.source.startswith(tuple(state.record_calendar.sources)):
        return f"source is {response.source[:80]!r}, but no settings name this source of prices"
    if response.read_at != entry.at:
        return f"read_at is {to_text(response.read_at)}, but the entry's at is {to_text(entry.at)}"
    if (response.ticker is None) != (response.kind is ResponseKind.RATES):
        return "it must have a ticker, except for rates"
    first, last = response.first_session, response.last_session
    if (first is None) != (last is None):
        return "it has only one of first_session and last_session"
    if first is not None and last is not None and first > last:
        return f"first_session is {first}, after last_session, {last}"
    if response.kind not in _MAY_NAME_FUTURE_DAYS and last is not None:
        read_on = calendar.new_york_date(response.read_at)
        if last > read_on:
            return f"last_session is {last}, after {read_on}, the day on which it was read"
    for member, kind in _OWN_MEMBERS.items():
        if (member in entry.content) != (response.kind is kind):
            return f"kind is {response.kind}, but the member {member} belongs to {kind} alone"
    problem = _ex_dates_problem(response)
    if problem is not None:
        return problem
    expected = _TYPES[response.kind]
    if any(not isinstance(mention.row, expected) for mention in entry.mentions):
        return f"kind is {response.kind}, but the entry has other readings"
    return None


def _ex_dates_problem(response: ProviderResponse) -> str | None:
    """Return why the ex-dates of a response cannot be right; None if they can."""
    is_about_dividends = response.kind is ResponseKind.DIVIDENDS
    days = response.ex_dates
    if (days is not None) != is_about_dividends:
        return f"kind is {response.kind}, but ex_dates belong to DIVIDENDS alone"
    if days is None:
        return None
    if list(days) != sorted(set(days)):
        return "its ex_dates are not in ascending order, each once"
    ends = (min(days, default=None), max(days, default=None))
    if (response.first_session, response.last_session) != ends:
        return "first_session and last_session are not the first and the last of its ex_dates"
    return None


def _reading_problem(
    row: Close | Split | Dividend | Rate, response: ProviderResponse
) -> str | None:
    if not isinstance(row, Rate) and row.ticker != response.ticker:
        return f"its ticker is {row.ticker}, but the response is about {response.ticker}"
    if row.read_at != response.read_at:
        return (
            f"read_at is {to_text(row.read_at)}, but the response was read at "
            f"{to_text(response.read_at)}"
        )
    if not row.source.startswith(response.source):
        return f"its source is {row.source[:80]!r}, but that of the response is {response.source!r}"
    if isinstance(row, Split):
        return None
    if isinstance(row, Dividend):
        return _dividend_problem(row, response)
    if isinstance(row, Close):
        name, day = "trading_day", row.trading_day
    else:
        name, day = "observed_on", row.observed_on
    first, last = response.first_session, response.last_session
    if first is None or last is None or not first <= day <= last:
        return f"its {name} is not in the response, which has the days {first} to {last}"
    return None


def _dividend_problem(row: Dividend, response: ProviderResponse) -> str | None:
    """Return why a response cannot have this reading of a dividend; None if it can."""
    read_on = calendar.new_york_date(response.read_at)
    if row.ex_date > read_on:
        return f"its ex_date is {row.ex_date}, after {read_on}, the day on which it was read"
    is_listed = row.ex_date in (response.ex_dates or ())
    if is_listed != (row.amount > 0):
        return (
            f"its amount is {row.amount}, but the response "
            f"{'lists' if is_listed else 'does not list'} its ex_date"
        )
    return None
