"""
The ends of the series' models: asks each server once a day, and warns in time.

Providers switch models off. A series whose model is gone has no picks, so an operator must know the
day long before. Reconciliation asks the server of each model once a day, and stores the answer in
`operations.model_ends`, for `alpha-monday status` and `/metrics`. For OpenAI's models, the days of
`app.providers.model_ends` count as well: so the day is known even if the server names none.

The servers are asked outside of any transaction: no connection is held meanwhile. A rehearsal asks
nothing, because its models are simulated and never end.
"""

import asyncio
from collections.abc import Collection, Sequence
from datetime import date, datetime, timedelta

import structlog
from msgspec import Struct, field

from app.database.pools import transaction
from app.domain import calendar
from app.domain.model import SERIES
from app.providers.llm import ModelClient
from app.providers.model_ends import ModelEnd, announced_end
from app.providers.model_lookup import ModelLookup
from app.store.rehearsed import is_rehearsed
from app.store.rows import Conn, row_factory
from jobs import alerts
from jobs.context import Context

log = structlog.get_logger()

# A row that was not checked for this long belongs to a series that was retired, or to a model that
# was replaced.
_RETENTION = timedelta(days=2)


class StoredEnd(Struct, frozen=True, kw_only=True):
    """
    A row of `operations.model_ends`: what is known about the end of the model of a series.

    `setting` is what an operator changes to ask another model. `checked_at` is the time at which
    the server was asked last, and `answered_at` the time at which it last said something about the
    model; None if it never did.
    """

    series: str
    model: str
    setting: str
    ends_on: date | None
    is_gone: bool = field(name="gone")
    checked_at: datetime
    answered_at: datetime | None

    @property
    def end(self) -> ModelEnd:
        """Return the end, as warnings need it."""
        return ModelEnd(
            series=self.series,
            model=self.model,
            setting=self.setting,
            ends_on=self.ends_on,
            is_gone=self.is_gone,
        )


async def list_stored(conn: Conn) -> list[StoredEnd]:
    """
    Return what is stored, by the name of the series.

    If the model of a series was changed, this is the model that was checked last.
    """
    async with conn.cursor(row_factory=row_factory(StoredEnd)) as cursor:
        await cursor.execute(
            """
            SELECT DISTINCT ON (series)
                series, model, setting, ends_on, gone, checked_at, answered_at
            FROM operations.model_ends
            ORDER BY series, checked_at DESC, model
            """
        )
        return await cursor.fetchall()


class DailyCheck:
    """
    Checks the models once a day, and remembers that it did.

    Reconciliation calls it before every round, in a rehearsal very often, so it must cost nothing.
    """

    def __init__(self) -> None:
        self._checked: tuple[date, set[tuple[str, str]]] | None = None

    async def run(self, context: Context) -> None:
        """Check the models, unless this process has checked the same ones today."""
        models = {(series, client.model) for series, client in context.model_clients.items()}
        current = (calendar.new_york_date(context.now()), models)
        if current == self._checked:
            return
        await check_if_due(context)
        self._checked = current


async def check_if_due(context: Context) -> None:
    """Ask the servers of the models that were not asked today, and store what they say."""
    clients = context.model_clients
    async with context.pool.connection() as conn:
        checked = await _list_checked(conn, calendar.new_york_date(context.now()))
    due = {
        series: client
        for series, client in clients.items()
        if (series, client.model) not in checked
    }
    if not due or await is_rehearsed(context.pool):
        return
    lookups = await asyncio.gather(*(client.look_up() for client in due.values()))
    async with transaction(context.pool, notify=False) as conn:
        # In the order of their names: another process may store the same rows.
        for (series, client), lookup in sorted(
            zip(due.items(), lookups, strict=True), key=lambda one: one[0][0]
        ):
            await _store_and_warn(conn, context, series=series, client=client, lookup=lookup)
        await conn.execute(
            "DELETE FROM operations.model_ends WHERE checked_at < %s",
            (context.now() - _RETENTION,),
        )


async def _list_checked(conn: Conn, today: date) -> set[tuple[str, str]]:
    """Return the series and models that were checked today, in New York."""
    cursor = await conn.execute("SELECT series, model, checked_at FROM operations.model_ends")
    return {
        (series, model)
        for series, model, checked_at in await cursor.fetchall()
        if calendar.new_york_date(checked_at) >= today
    }


async def _store_and_warn(
    conn: Conn, context: Context, *, series: str, client: ModelClient, lookup: ModelLookup | None
) -> None:
    """Store what is known about a model. If it ends soon, log that, and send an alert once."""
    now = context.now()
    today = calendar.new_york_date(now)
    stored, alerted = await _store(conn, series=series, client=client, lookup=lookup, now=now)
    end = stored.end
    warning = end.warning(today)
    if warning:
        log.warning("model ends", series=series, model=end.model, end=_day(end), advice=warning)
    alert = _alert_key(end, today)
    if alert == alerted:
        return
    if alert:
        await alerts.report_model_end(conn, context, end, today=today)
    await conn.execute(
        "UPDATE operations.model_ends SET alerted = %s WHERE series = %s AND model = %s",
        (alert, series, end.model),
    )


def _day(end: ModelEnd) -> str | None:
    return str(end.ends_on) if end.ends_on else None


def _alert_key(end: ModelEnd, today: date) -> str | None:
    """
    Return a text that names the alert that is due, or None if none is.

    There is one alert when the end is 60 days away, one when it is 14 days away, one for each
    change of the day, and one if the server no longer knows the model.
    """
    if end.is_gone:
        return "gone"
    if end.is_urgent(today):
        return f"{end.ends_on}, urgent"
    if end.needs_warning(today):
        return f"{end.ends_on}"
    return None


async def _store(
    conn: Conn, *, series: str, client: ModelClient, lookup: ModelLookup | None, now: datetime
) -> tuple[StoredEnd, str | None]:
    """
    Store an answer of a server, and return the row and the last alert about it.

    If the server said nothing, what it said before still holds. The row is locked until the end of
    the transaction, so that of two processes only one sends an alert.
    """
    announced = announced_end(client.model)
    ends_on = (lookup.ends_on if lookup else None) or announced
    cursor = await conn.execute(
        """
        INSERT INTO operations.model_ends AS stored (
            series, model, setting, ends_on, gone, checked_at, answered_at
        )
        VALUES (
            %(series)s, %(model)s, %(setting)s, %(ends_on)s, %(gone)s, %(now)s, %(answered_at)s
        )
        ON CONFLICT (series, model) DO UPDATE SET
            setting = excluded.setting,
            ends_on = CASE
                WHEN excluded.answered_at IS NULL THEN coalesce(excluded.ends_on, stored.ends_on)
                ELSE excluded.ends_on
            END,
            gone = CASE
                WHEN excluded.answered_at IS NULL THEN stored.gone
                ELSE excluded.gone
            END,
            checked_at = excluded.checked_at,
            answered_at = coalesce(excluded.answered_at, stored.answered_at)
        RETURNING ends_on, gone, answered_at, alerted
        """,
        {
            "series": series,
            "model": client.model,
            "setting": client.model_setting,
            "ends_on": ends_on,
            "gone": bool(lookup and lookup.is_gone),
            "now": now,
            "answered_at": now if lookup else None,
        },
    )
    row = await cursor.fetchone()
    assert row
    stored_ends_on, is_gone, answered_at, alerted = row
    stored = StoredEnd(
        series=series,
        model=client.model,
        setting=client.model_setting,
        ends_on=stored_ends_on,
        is_gone=is_gone,
        checked_at=now,
        answered_at=answered_at,
    )
    return stored, alerted


def known_ends(
    stored: Sequence[StoredEnd], *, series: Collection[str], model: str, has_series_file: bool
) -> list[ModelEnd]:
    """
    Return the ends of the series' models, for `alpha-monday status`.

    `series` are the names of the configured series: what is stored about one that was taken out is
    no news. `model` is that of OPENAI_MODEL. Without a file of series, it is the model of `main`:
    if its server was not asked yet, the announced day counts.
    """
    ends = {one.series: one.end for one in stored}
    if has_series_file:
        return [end for name, end in ends.items() if name in series]
    end = ends.get(SERIES)
    if end is None or end.model != model:
        end = ModelEnd(series=SERIES, model=model, ends_on=announced_end(model))
    return [end]
