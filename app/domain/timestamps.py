"""
Timestamps from outside: proofs that an entry of the journal existed at a time.

A timestamp is about one entry, and covers all entries before it, because each entry contains the
hash of the previous one. docs/journal.md#timestamps describes the two kinds of proofs.
"""

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from functools import cache
from uuid import UUID

from msgspec import Struct

from app.domain import calendar
from app.domain.calendar import Calendar
from app.domain.model import DescribedEnum

# The span of `closed_first_days`.
_FIRST_MONDAY = date(1970, 1, 5)
_END_YEAR = 2100


class TimestampKind(DescribedEnum):
    """The kind of proof that a timestamp has."""

    RFC3161 = (
        "RFC3161",
        "A token of a time-stamping authority (RFC 3161). It proves the time to the second.",
    )
    OPENTIMESTAMPS = (
        "OPENTIMESTAMPS",
        "A proof of OpenTimestamps, which leads into a block of Bitcoin. It proves the day.",
    )


class TimestampStatus(DescribedEnum):
    """Whether a timestamp proves a time already."""

    PENDING = (
        "PENDING",
        "A calendar of OpenTimestamps has promised to put the hash into a block of Bitcoin.",
    )
    CONFIRMED = (
        "CONFIRMED",
        "The proof is complete: it has the token of an authority, or leads into a block.",
    )


class Timestamp(Struct, frozen=True, kw_only=True):
    """
    A row of `timestamps`: a proof that an entry of the journal existed at a time.

    - `seq`, `hash`: the entry of the journal
    - `authority`: the address of the service that issued the proof, without its query
    - `at`: RFC 3161: the time that the token names. OpenTimestamps: when the answer was received
    - `accuracy_seconds`: RFC 3161 only: the true time differs from `at` by at most this
    - `received_at`: when the answer was received, by the clock of our service
    - `nonce`: RFC 3161 only: the random number of the request, as decimal digits
    - `proof`: RFC 3161: the response as it was received (DER). OpenTimestamps: an `.ots` file
    - `chain`: RFC 3161 only: certificates in PEM, the signer's first, the pinned root last
    - `block_height`: only of a confirmed proof of OpenTimestamps
    """

    id: UUID
    seq: int
    hash: str
    kind: TimestampKind
    status: TimestampStatus
    authority: str
    at: datetime
    accuracy_seconds: Decimal | None = None
    received_at: datetime
    nonce: str | None = None
    proof: bytes
    chain: str | None = None
    block_height: int | None = None

    @property
    def latest_time(self) -> datetime | None:
        """
        Return the latest moment at which the entry can have been new, by this proof.

        None if the row has no accuracy, as that of a proof of OpenTimestamps.
        """
        if self.accuracy_seconds is None:
            return None
        return self.at + timedelta(seconds=float(self.accuracy_seconds))


class Head(Struct, frozen=True, kw_only=True):
    """The newest entry of the journal, with the text from which its hash was computed."""

    seq: int
    hash: str
    previous: str
    content: str

    @property
    def data(self) -> bytes:
        """
        Return the bytes whose SHA-256 is `hash`.

        A time-stamping authority hashes nothing itself, but the library that makes its requests
        does. It gets these bytes, so that the digest in the request is the hash of the journal's
        entry.
        """
        return f"{self.previous}\n{self.content}".encode()


@cache
def closed_first_days(sessions: Calendar) -> tuple[date, ...]:
    """
    Return the days without a session with which a week may begin, from 1970 to 2099.

    They are the Mondays without a session, and the days after such a Monday that have none either.
    With them, the first session on or after a run date can be found in SQL.
    """
    days: list[date] = []
    monday = _FIRST_MONDAY
    while monday.year < _END_YEAR:
        day = monday
        while not sessions.is_session(day):
            days.append(day)
            day += timedelta(days=1)
        monday += timedelta(days=7)
    return tuple(days)


def first_open(sessions: Calendar, run_date: date) -> datetime:
    """Return the first open at which the picks of a Monday can be traded."""
    return calendar.from_new_york(sessions.session_from(run_date), calendar.OPEN_TIME)


def is_before(stamps: Sequence[Timestamp], moment: datetime) -> bool:
    """Return whether one of the RFC 3161 timestamps proves a time before `moment`."""
    latest_times = [stamp.latest_time for stamp in stamps if stamp.kind == TimestampKind.RFC3161]
    return any(latest is not None and latest < moment for latest in latest_times)
