"""
Checks of the configured series against the journal, before a process begins to work.

A process that records in spite of these mistakes would do lasting harm: the journal would state a
retirement that is a mistake of the operator, or the record would have series that it never
declares.
"""

from collections.abc import Mapping

from app.core.settings import Settings
from app.database.pools import Pool
from app.domain.declarations import AnyDeclaration, InForce, explain_other_kind, find_renamed
from app.domain.model import SERIES
from app.errors import ConfigurationError, RecordDamaged
from app.store import declarations
from app.store.rows import Conn


async def require_series(pool: Pool, settings: Settings, in_force: InForce) -> None:
    """
    Raise ConfigurationError if this process must not record with its configured series.

    There are four such cases: a series seems to be renamed, SERIES_FILE seems to be forgotten, a
    series has the name of one of another kind, and a record that is not sealed would get a series
    that it cannot declare.
    """
    async with pool.connection() as conn:
        await _require_sealed_record(conn, in_force)
        try:
            newest = await declarations.list_newest_series(conn)
        except RecordDamaged:
            # The jobs that need the damaged entry name it. The other jobs must go on.
            return
    _refuse_renamed(settings, in_force, newest)
    _refuse_forgotten_file(settings, newest)
    for one in in_force.series:
        # Without this check, the series would have a failed Monday before the operator learns it.
        if problem := explain_other_kind(one, newest.get(one.name)):
            raise ConfigurationError(problem)


async def _require_sealed_record(conn: Conn, in_force: InForce) -> None:
    names = [one.name for one in in_force.series]
    if names == [SERIES] or await declarations.will_be_sealed(conn):
        return
    listed = ", ".join(f"[{name}]" for name in names)
    raise ConfigurationError(
        f"SERIES_FILE has the series {listed}, and this record is not sealed: it can only have "
        f"[{SERIES}]. Run `alpha-monday seal` first: a sealed record declares each series before "
        "its first question."
    )


def _refuse_renamed(
    settings: Settings, in_force: InForce, newest: Mapping[str, AnyDeclaration]
) -> None:
    renamed = find_renamed(in_force.series, newest.values())
    if renamed is None:
        return
    old, new = renamed
    if not settings.series_file:
        raise ConfigurationError(
            f"The journal has the series {old}, and without SERIES_FILE the only series is {new}, "
            "which asks the same. The name of a series lasts. Set SERIES_FILE to a file that has "
            f"[{old}]."
        )
    raise ConfigurationError(
        f"SERIES_FILE ({settings.series_file}): [{new}] is new and asks what the series {old} of "
        f"the journal asks, and [{old}] is missing. The name of a series lasts: call the table "
        f"[{old}] again. Its label can change. If {new} is another series, take {old} out first, "
        f"and add {new} after the next Monday."
    )


def _refuse_forgotten_file(settings: Settings, newest: Mapping[str, AnyDeclaration]) -> None:
    """
    Raise ConfigurationError if SERIES_FILE is not set, and the journal has further series.

    Without the variable, the next question would journal all of them as retired, and the next
    yearly check would not test them. A variable is easily lost when a service moves.
    """
    if settings.series_file:
        return
    active = [name for name, declared in newest.items() if not declared.retired]
    lost = sorted(name for name in active if name != SERIES)
    if not lost:
        return
    raise ConfigurationError(
        f"SERIES_FILE is not set, and the journal has the series {', '.join(lost)}, which would "
        f"be retired. Set SERIES_FILE to the file that has them. To retire all series except "
        f"{SERIES}, set it to a file that has only [{SERIES}]."
    )
