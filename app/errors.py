"""
The error tree of Alpha Monday, grouped by what the caller does next.

    AlphaMondayError
    ├── ConfigurationError          a person must change something; a retry does not help
    ├── Refused                     a rule of the record forbids the request; nothing was stored
    ├── TryAgainAt                  try again at the given time; this is not a failed attempt
    │   ├── QuestionInProgress      a question to the model is open; its answer may still arrive
    │   └── QuotaSpent              the provider's quota is used up
    ├── ProviderError               the provider did not return what was requested
    │   ├── ProviderBusy            it asked us to slow down: wait and try again
    │   ├── ProviderUnavailable     no response, or one that cannot be read: wait and try again
    │   │   ├── BodyTooLong         the response has more bytes than we read
    │   │   └── UnusableStamp       the timestamp is not one of what was sent: get another
    │   └── UnknownTicker           it does not know the ticker: choose another one
    ├── RecordDamaged               a row breaks the record's rules: verify it, restore a backup
    ├── Discrepancy                 verification failed: the text says where
    ├── UnusableAnswer              the model's answer breaks a rule: ask again, give the reason
    └── MissingClose                the close of a session is not published yet: ask again later
"""

from collections.abc import Sequence
from datetime import date, datetime

# The beginning of every message about a damaged record, and the advice for the operator.
RECORD_DAMAGED_PREFIX = "The record is damaged: "
RECORD_DAMAGED_ADVICE = (
    "Run `alpha-monday verify`: it names the first discrepancy. Then restore a backup."
)


class AlphaMondayError(Exception):
    """Base of all expected errors. Its text is a sentence that can be shown to an operator."""


class ConfigurationError(AlphaMondayError):
    """A setting, a key or the environment is wrong. The text says what to change."""


class Refused(AlphaMondayError):
    """A rule of the record forbids the request. Nothing was stored."""


class TryAgainAt(AlphaMondayError):
    """
    The work cannot be done now; `at` is the time at which to try again.

    A job that raises this error has not failed, and no failed attempt is counted.
    """

    def __init__(self, message: str, at: datetime) -> None:
        super().__init__(message)
        self.at = at


class QuestionInProgress(TryAgainAt):
    """A question to the model is open, and the process that sent it may still get an answer."""


class QuotaSpent(TryAgainAt):
    """The provider's quota is used up for longer than a job should wait."""


class ProviderError(AlphaMondayError):
    """A provider did not return what was requested. The text is safe to store and to show."""


class ProviderBusy(ProviderError):
    """The provider asked us to slow down; `until` is the time that it named, or None."""

    def __init__(self, message: str, until: datetime | None = None) -> None:
        super().__init__(message)
        self.until = until


class ProviderUnavailable(ProviderError):
    """The provider did not respond, or its response cannot be read."""


class BodyTooLong(ProviderUnavailable):
    """The body of a response has more bytes than we read."""


class UnusableStamp(ProviderUnavailable):
    """
    A response is no valid timestamp of what was sent, by an authority that we trust.

    The text names the authority and says what is wrong. It quotes nothing of the response.
    """


class UnknownTicker(ProviderError):
    """The provider does not know the ticker, or the share stopped trading."""

    def __init__(self, message: str, ticker: str) -> None:
        super().__init__(message)
        self.ticker = ticker


class Discrepancy(AlphaMondayError):
    """
    Verification failed; the text says where.

    The record, its journal and a copy of the journal's head do not agree, or they break a rule.
    """


class RecordDamaged(AlphaMondayError):
    """
    A row breaks the rules of the record. The text names the row; no figure is computed from it.

    A text about the track record is only the end of a sentence, for example "the Monday 2026-11-23
    has two batches": the API puts RECORD_DAMAGED_PREFIX before this text.
    """


class UnusableAnswer(AlphaMondayError):
    """The model's answer cannot become three ideas. The text is the refusal for the next prompt."""


class MissingClose(AlphaMondayError):
    """A session is over, but its closes of `tickers` are not published yet."""

    def __init__(self, tickers: Sequence[str], session: date) -> None:
        super().__init__(f"{', '.join(tickers)}: no close of {session} yet.")
        self.tickers = tuple(tickers)
        self.session = session
