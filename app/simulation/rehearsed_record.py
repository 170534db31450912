"""What a rehearsal finds in its database when it continues, and what it leaves there at its end."""

from collections.abc import Sequence
from datetime import date
from urllib.parse import urlsplit

from msgspec import Struct
from msgspec.structs import replace
from psycopg.rows import class_row

from app.core.settings import Settings
from app.database.pools import Pool
from app.domain.declarations import (
    AnyDeclaration,
    ControlProfile,
    Profile,
    SeriesInForce,
    find_renamed,
)
from app.domain.text import one_line, pluralize
from app.errors import ConfigurationError
from app.simulation import rehearsed_series
from app.store import declarations
from jobs import in_force

# How much of a failure's text is shown.
_MAX_FAILURE = 200


class RehearsedSpan(Struct, frozen=True):
    """
    The Mondays of a record.

    `mondays` and `batches` are their numbers. `first` and `last` are None in an empty record.
    """

    mondays: int = 0
    batches: int = 0
    first: date | None = None
    last: date | None = None


class SeriesResult(Struct, frozen=True):
    """
    The Mondays of one series in a record.

    `failure` is the text of its newest Monday's failure; None if that Monday has picks.
    """

    name: str
    mondays: int
    with_picks: int
    newest: date
    failure: str | None

    def describe(self) -> str:
        """Return a line for a terminal."""
        mondays = pluralize(self.mondays, "Monday")
        line = f"{self.name}: picks on {self.with_picks} of {mondays}."
        if self.failure is None:
            return line
        failure = one_line(self.failure)[:_MAX_FAILURE]
        return f"{line} {self.newest} failed: {failure}"


async def get_span(pool: Pool) -> RehearsedSpan:
    """Return the Mondays of the record."""
    async with pool.connection() as conn:
        cursor = conn.cursor(row_factory=class_row(RehearsedSpan))
        await cursor.execute(
            "SELECT count(DISTINCT run_date) AS mondays, count(*) AS batches, "
            "min(run_date) AS first, max(run_date) AS last FROM batches"
        )
        return await cursor.fetchone() or RehearsedSpan()


async def list_results(pool: Pool) -> Sequence[SeriesResult]:
    """Return the Mondays of each series, by its name."""
    async with pool.connection() as conn:
        cursor = conn.cursor(row_factory=class_row(SeriesResult))
        await cursor.execute(
            "SELECT series AS name, count(*) AS mondays, "
            "count(*) FILTER (WHERE status <> 'failed') AS with_picks, max(run_date) AS newest, "
            "(array_agg(failure ORDER BY run_date DESC))[1] AS failure "
            "FROM batches GROUP BY series ORDER BY series"
        )
        return await cursor.fetchall()


async def check_series(pool: Pool, settings: Settings, series_path: str | None) -> Sequence[str]:
    """
    Check the series of a rehearsal against those that its record has already.

    `settings` are those of the last phase. `series_path` is the operator's file, or None if the
    rehearsal plays its own series. Return the names of the series that the file retires.

    Raises ConfigurationError if the file seems to rename a series, or if the record has series of
    a file and none is given: all of them would be retired.
    """
    async with pool.connection() as conn:
        newest = await declarations.list_newest_series(conn)
    played = in_force.make(settings).series
    names = {one.name for one in played}
    active = [name for name, declared in newest.items() if not declared.retired]
    missing = sorted(name for name in active if name not in names)
    if series_path is None:
        _refuse_forgotten_file(missing)
        return []
    _refuse_renamed(series_path, played, list(newest.values()))
    return missing


def _refuse_forgotten_file(missing: Sequence[str]) -> None:
    of_a_file = [name for name in missing if name not in rehearsed_series.OWN_NAMES]
    if of_a_file:
        raise ConfigurationError(
            f"This rehearsal has the series {', '.join(of_a_file)} of a file, which would be "
            "retired. Continue it with --series FILE, or delete it with `alpha-monday db reset`."
        )


def _refuse_renamed(
    series_path: str, played: Sequence[SeriesInForce], declared: Sequence[AnyDeclaration]
) -> None:
    renamed = find_renamed(
        [replace(one, profile=_without_host(one.profile)) for one in played],
        [replace(one, profile=_without_host(one.profile)) for one in declared],
    )
    if renamed is None:
        return
    old, new = renamed
    raise ConfigurationError(
        f"{series_path}: [{new}] is new and asks what the series {old} of this rehearsal asks, and "
        f"[{old}] is missing. The name of a series lasts, so a service refuses this file, too: "
        f"call the table [{old}] again. Its label can change."
    )


def _without_host(profile: Profile | ControlProfile) -> Profile | ControlProfile:
    """Return a profile without the simulators' host and port: they are others after each start."""
    if not isinstance(profile, Profile):
        return profile
    return replace(profile, base_url=urlsplit(profile.base_url).path)
