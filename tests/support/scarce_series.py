"""Batches of several series, stored with the functions that the weekly job uses."""

from datetime import date
from decimal import Decimal
from uuid import uuid4

from app.database.pools import transaction
from app.domain import calendar
from app.domain.model import (
    Action,
    Batch,
    BatchStatus,
    Checkpoint,
    CheckpointStatus,
    Close,
    Pick,
    batch_id,
)
from app.store import batches
from app.store.checkpoints import DueCheckpoint
from app.store.rows import insert_row
from jobs.context import Context
from jobs.daily import defer_checkpoints

FIRST_MONDAY = date(2026, 6, 1)
SERIES = ("alpha", "beta", "gamma")
PRICE = Decimal("10.0000")


def tickers_of(series: str, run_date: date) -> list[str]:
    """Return three tickers that no other batch has."""
    week = (run_date - FIRST_MONDAY).days // 7
    return [f"{series[0]}{'QRST'[week]}{place}".upper() for place in "XYZ"]


async def store_batches(context: Context, run_date: date) -> None:
    """Store a batch of each series as the weekly job does, with its jobs."""
    session = context.calendar.session_before(run_date)
    at = context.now()
    readings = {}
    for ticker in ["SPY", *(one for series in SERIES for one in tickers_of(series, run_date))]:
        readings[ticker] = Close(
            id=uuid4(),
            ticker=ticker,
            trading_day=session,
            open=PRICE,
            close=PRICE,
            source="alphavantage TIME_SERIES_DAILY",
            read_at=at,
        )
    async with transaction(context.pool) as conn:
        for reading in readings.values():
            await insert_row(conn, "closes", reading)
    for series in SERIES:
        batch = Batch(
            id=batch_id(series, run_date),
            series=series,
            run_date=run_date,
            created_at=at,
            status=BatchStatus.ACTIVE,
            late=False,
            benchmark_symbol="SPY",
            benchmark_initial_price=PRICE,
            benchmark_initial_close_id=readings["SPY"].id,
            trading_day=session,
        )
        picks = [
            Pick(
                id=uuid4(),
                batch_id=batch.id,
                position=position,
                ticker=ticker,
                action=Action.BUY,
                reasoning="It has its reasons.",
                initial_price=PRICE,
                initial_close_id=readings[ticker].id,
            )
            for position, ticker in enumerate(tickers_of(series, run_date), 1)
        ]
        baseline = Checkpoint(
            id=uuid4(),
            batch_id=batch.id,
            day=0,
            checkpoint_date=run_date,
            trading_day=session,
            status=CheckpointStatus.COMPUTED,
            taken_at=at,
            benchmark_price=PRICE,
            benchmark_close_id=readings["SPY"].id,
            benchmark_split_factor=Decimal(1),
        )
        async with transaction(context.pool) as conn:
            assert await batches.insert(
                conn,
                batch,
                picks=picks,
                baseline=baseline,
                readings=[readings["SPY"], *(readings[pick.ticker] for pick in picks)],
                in_force=None,
            )
            due = [DueCheckpoint(batch.id, run_date, day) for day in calendar.MEASURED_DAYS]
            await defer_checkpoints(conn, due)
