"""
What can go wrong, by what to do next.

    AlphaMondayError
    ├── ConfigurationError      a person must change something; trying again is no use
    ├── Refused                 the record's law does not allow it; nothing was stored
    ├── TryAgainAt              nothing is wrong: it is only too early
    │   ├── QuestionInProgress  somebody else is asking the model right now
    │   └── QuotaSpent          the ledger of requests is full
    ├── ProviderError           the provider did not help
    │   ├── ProviderBusy        it asked us to slow down: wait and try again
    │   ├── ProviderUnavailable no answer, or none that can be read: wait and try again
    │   └── UnknownTicker       it does not know the ticker: choose another
    ├── RecordDamaged           a row is not as the record must be: verify it, restore a backup
    ├── Misfit                  the record is not what its journal says, or breaks a rule: one of the two was changed
    ├── UnusableAnswer          the model's answer breaks a rule: ask again and say which
    └── MissingClose            a session's close is not there yet: ask again later
"""

from collections.abc import Sequence
from datetime import date, datetime

# How a sentence about a damaged record begins, and what its operator does about it.
DAMAGED = "The record is damaged: "
VERIFY = "Run `alpha-monday verify`: it names the first misfit. Then restore a backup."


class AlphaMondayError(Exception):
    """Something Alpha Monday can explain: its text is a sentence for whoever reads it."""


class ConfigurationError(AlphaMondayError):
    """A setting, a key or the surroundings are not as they must be; the text says what to change."""


class Refused(AlphaMondayError):
    """The record's law does not allow what was asked for."""


class TryAgainAt(AlphaMondayError):
    """It is too early; `at` says when it no longer is. Never counted as a failed attempt."""

    def __init__(self, message: str, at: datetime) -> None:
        super().__init__(message)
        self.at = at


class QuestionInProgress(TryAgainAt):
    """A question to the model is open; whoever asked it may still get an answer."""


class QuotaSpent(TryAgainAt):
    """The provider's quota is used up for longer than a job should wait."""


class ProviderError(AlphaMondayError):
    """A provider did not give what it was asked for; the text is safe to store and to show."""


class ProviderBusy(ProviderError):
    """The provider asked us to slow down; `until` when, if it said so."""

    def __init__(self, message: str, until: datetime | None = None) -> None:
        super().__init__(message)
        self.until = until


class ProviderUnavailable(ProviderError):
    """The provider did not answer, or not in a form that can be read."""


class BodyTooLong(ProviderUnavailable):
    """The body of an answer has more bytes than are read."""


class UnknownTicker(ProviderError):
    """The provider does not know the ticker, or the ticker had stopped trading."""

    def __init__(self, message: str, ticker: str) -> None:
        super().__init__(message)
        self.ticker = ticker


class Misfit(AlphaMondayError):
    """The record, its journal and a copy of its head do not fit together, or break a rule; the text says where."""


class RecordDamaged(AlphaMondayError):
    """A row of the record is not as it must be; the text names it. Nothing is worked out from it."""


class UnusableAnswer(AlphaMondayError):
    """The model's answer cannot become three ideas; the text is the refusal it is told."""


class MissingClose(AlphaMondayError):
    """Closes of a session that ended are not there yet."""

    def __init__(self, tickers: Sequence[str], session: date) -> None:
        super().__init__(f"{', '.join(tickers)}: no close of {session} yet.")
        self.tickers = tuple(tickers)
        self.session = session
