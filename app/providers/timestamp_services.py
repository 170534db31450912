"""The services that stamp the journal: the authorities and calendars of the settings."""

import errno
import stat
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from msgspec import Struct

from app.core.settings import Settings
from app.domain import rfc3161
from app.domain.calendar import Clock
from app.domain.timestamps import TimestampKind
from app.errors import ConfigurationError
from app.providers import timestamp_authority, timestamp_calendar
from app.providers.timestamp_authority import TimestampAuthority
from app.providers.timestamp_calendar import TimestampCalendar

# The reasons of failures, as `/metrics` shows them. `unusable`: the answer does not verify.
# `unavailable`: there was no answer. `configuration`: a person must change a setting.
UNUSABLE, UNAVAILABLE, CONFIGURATION = "unusable", "unavailable", "configuration"
FAILURE_REASONS = (UNUSABLE, UNAVAILABLE, CONFIGURATION)


# In bytes. A file with the roots of all public authorities has some 200,000 bytes.
MAX_ROOT_FILE_BYTES = 1_000_000


class TimestampService(Struct, frozen=True):
    """A service that stamps: the kind of its proofs, and its address as it is stored."""

    kind: TimestampKind
    authority: str


class TimestampServices:
    """
    The clients of all services, by the address that is stored with their proofs.

    Without authorities and calendars, nothing is stamped. `failures` counts the answers of this
    process's requests that gave no proof, by kind and reason.
    """

    def __init__(
        self,
        authorities: Mapping[str, TimestampAuthority] = MappingProxyType({}),
        calendars: Mapping[str, TimestampCalendar] = MappingProxyType({}),
    ) -> None:
        self.authorities = authorities
        self.calendars = calendars
        self.failures: Counter[tuple[str, str]] = Counter()

    def __iter__(self) -> Iterator[TimestampService]:
        for authority in self.authorities:
            yield TimestampService(TimestampKind.RFC3161, authority)
        for authority in self.calendars:
            yield TimestampService(TimestampKind.OPENTIMESTAMPS, authority)

    def __contains__(self, service: TimestampService) -> bool:
        return service in list(self)

    async def close(self) -> None:
        """Close all connections."""
        for authority in self.authorities.values():
            await authority.close()
        for calendar in self.calendars.values():
            await calendar.close()

    def count_failure(self, kind: TimestampKind, reason: str) -> None:
        """Count an answer that gave no proof; `reason` is one of FAILURE_REASONS."""
        self.failures[kind.value, reason] += 1


def make_services(settings: Settings, clock: Clock) -> TimestampServices:
    """
    Return the services of the settings.

    Raises ConfigurationError if the file of TIMESTAMP_ROOTS cannot be read, or if an address cannot
    be used.
    """
    authorities = {}
    if settings.timestamp_urls:
        roots = rfc3161.read_roots(read_root_file(settings.timestamp_roots))
        clients = [TimestampAuthority(url, roots, clock) for url in settings.timestamp_urls]
        authorities = {client.name: client for client in clients}
    calendars = {}
    for url in settings.ots_calendars:
        calendar = TimestampCalendar(url, settings.ots_hosts, clock)
        calendars[calendar.url] = calendar
    return TimestampServices(authorities, calendars)


def list_addresses(settings: Settings) -> list[str]:
    """Return the addresses of the services of the settings, as they are stored with proofs."""
    authorities = map(timestamp_authority.stored_address, settings.timestamp_urls)
    calendars = map(timestamp_calendar.stored_address, settings.ots_calendars)
    return [*authorities, *calendars]


def read_root_file(path: str) -> bytes:
    """
    Return the content of the file of TIMESTAMP_ROOTS. Raises ConfigurationError if there is none.

    The message does not name the file: the operator knows it, and a secret may be there by mistake.
    """
    try:
        return read_pem_file(Path(path))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not a path"
        raise ConfigurationError(
            f"The file of TIMESTAMP_ROOTS cannot be read: {reason}. Set it to the path of a file "
            "with the authority's root certificates, for example "
            "TIMESTAMP_ROOTS=/etc/alpha-monday/timestamp-roots.pem."
        ) from None


def read_pem_file(path: Path) -> bytes:
    """
    Return the content of a file with certificates.

    Raises OSError, with the reason as `strerror`, if it cannot be read, if it is no regular file,
    or if it has more than MAX_ROOT_FILE_BYTES. To read a pipe or a device might never end.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file")
    with path.open("rb") as file:
        content = file.read(MAX_ROOT_FILE_BYTES + 1)
    if len(content) > MAX_ROOT_FILE_BYTES:
        raise OSError(errno.EFBIG, f"it has more than {MAX_ROOT_FILE_BYTES:,} bytes")
    return content
