"""
Corrections of stored figures: after a late split or dividend, or when an operator adopts a reading.
"""

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from uuid import UUID

from msgspec import Struct
from msgspec.structs import replace

from app.database.pools import Pool, transaction
from app.domain import measurement, prompt, splits
from app.domain.calendar import MEASURED_DAYS, checkpoint_date, require_monday
from app.domain.declarations import InForce
from app.domain.measurement import ShareHistory
from app.domain.model import (
    Batch,
    Checkpoint,
    CheckpointStatus,
    Close,
    Dividend,
    Pick,
    PickMetric,
    Split,
)
from app.domain.text import STATEMENT_RULE, is_publishable, join_words
from app.errors import Refused
from app.store import (
    batches,
    checkpoints,
    closes,
    corrections,
    further_benchmarks,
    share_histories,
)
from app.store.rows import Conn
from jobs import further_corrections

# The adopted readings, which replace those that the figures use, by day and ticker.
Adopted = Mapping[tuple[int, str], Close]

# For each row: the stored row, the corrected row, and the ticker of its pick or its further
# benchmark (None for a batch or a checkpoint).
Rows = list[tuple[measurement.MeasuredRow, measurement.MeasuredRow, str | None]]


async def correct_after_split(
    conn: Conn,
    *,
    locked: Sequence[Batch],
    ticker: str,
    since: date,
    reason: str,
    now: datetime,
    in_force: InForce | None,
) -> int:
    """
    Correct the figures that depend on the splits of `ticker` from the date `since` on.

    Return how many checkpoints changed. `locked` are the batches with the ticker. The caller has
    locked all of them before the first journal entry is written. Otherwise there could be a
    deadlock: this transaction would hold the journal and wait for a batch, and the job that has
    locked the batch would wait for the journal.
    """
    corrected = 0
    for batch in locked:
        if checkpoint_date(batch.run_date, MEASURED_DAYS[-1]) > since:
            correction = _Correction(
                batch=batch,
                ticker=ticker,
                adopted={},
                reason=reason,
                now=now,
                in_force=in_force,
            )
            corrected += await _correct(conn, correction)
            if corrected:
                in_force = None  # see `_correct`
    return corrected


async def correct_totals(
    conn: Conn,
    locked: Sequence[Batch],
    *,
    reason: str,
    now: datetime,
    in_force: InForce | None,
) -> int:
    """
    Correct the total returns of batches for which they are known, after a change of dividends.

    Return how many checkpoints changed. As in `correct_after_split`, the caller has locked the
    batches. All figures are computed again; without a new split, only total returns change. Marks
    stay as they are.
    """
    corrected = 0
    for batch in locked:
        taken = await checkpoints.list_for_batch(conn, batch.id)
        if not any(checkpoint.has_totals for checkpoint in taken):
            continue
        correction = _Correction(
            batch=batch,
            ticker=None,
            adopted={},
            reason=reason,
            now=now,
            in_force=in_force,
        )
        corrected += await _correct(conn, correction)
        if corrected:
            in_force = None  # see `_correct`
    return corrected


async def adopt(
    pool: Pool,
    *,
    now: datetime,
    run_date: date,
    day: int,
    ticker: str,
    reason: str,
    in_force: InForce | None,
    series: str | None = None,
) -> int:
    """
    Replace the reading that a checkpoint's figures use with the newest reading of the same session.

    Day 0 is the baseline. `series` is needed only if the batches of several series use the ticker.
    Return how many checkpoints were corrected. Raise Refused if no figure of `day` uses a reading
    of `ticker`, or if the newest reading cannot replace the used one.
    """
    if not is_publishable(reason):
        raise Refused(f"--reason must say why, {STATEMENT_RULE}.")
    require_monday(run_date)
    async with transaction(pool) as conn:
        ticker = prompt.normalize_ticker(ticker)
        batch = await _find_batch(conn, series, run_date=run_date, ticker=ticker)
        batch = await batches.lock_for_update(conn, batch.id)
        newest = await _newest_reading(conn, batch, day=day, ticker=ticker)
        correction = _Correction(
            batch=batch,
            ticker=ticker,
            adopted={(day, ticker): newest},
            reason=reason,
            now=now,
            in_force=in_force,
        )
        return await _correct(conn, correction)


async def _find_batch(conn: Conn, series: str | None, *, run_date: date, ticker: str) -> Batch:
    """
    Return the batch of a Monday with a ticker: of a pick, or of the benchmark.

    If no batch has the ticker, the first one is returned, and the caller refuses the ticker. Raise
    Refused if there is no batch with picks, or if those of several series have the ticker.
    """
    of_monday = [
        batch for batch in await batches.list_by_run_date(conn, run_date) if batch.trading_day
    ]
    of_series = ""
    if series is not None:
        of_monday = [batch for batch in of_monday if batch.series == series]
        of_series = f" of the series {series}"
    if not of_monday:
        raise Refused(f"There is no batch of {run_date}{of_series}, or it has no picks.")
    found = []
    for batch in of_monday:
        of_picks = [pick.ticker for pick in await batches.list_picks(conn, batch.id)]
        if ticker in (batch.benchmark_symbol, *of_picks):
            found.append(batch)
    if len(found) > 1:
        names = join_words([batch.series for batch in found])
        raise Refused(
            f"The batches of {run_date} of {names} use {ticker}. Name one with --series, and "
            "repeat the command for each of them."
        )
    if not found:
        return of_monday[0]
    return found[0]


async def _newest_reading(conn: Conn, batch: Batch, *, day: int, ticker: str) -> Close:
    """
    Return the newest reading of a day's session, if it can replace the used reading.

    Raise Refused if both have the same price, or if the newest one is the same price restated for a
    split.
    """
    used = await _get_used_reading(conn, batch, day=day, ticker=ticker)
    # After a rename, the used reading may have the old ticker, and the newest one the new ticker.
    name = await _ticker_of_session(conn, batch, ticker=ticker, used=used)
    is_same_name = name == used.ticker
    newest = await closes.get_newest(conn, name, used.trading_day)
    before = f"{used.ticker} was read as {used.close} for {used.trading_day}"
    if newest is None or newest.close == used.close:
        after = f"{name} was not read as anything else"
        if is_same_name:
            after = "nothing else was read since"
        raise Refused(f"{before}, and {after}. `alpha-monday closes {name}` shows all readings.")

    in_force = await _list_splits(conn, batch, ticker)
    is_restated = splits.is_restated(used, newest, in_force)
    # A restated reading of the baseline session is refused in any case. Its price is per share of a
    # later day, its basis date, and not per share as it was in the baseline session.
    basis_date = splits.basis_date(newest.source, newest.trading_day)
    is_restated_baseline = day == 0 and basis_date > newest.trading_day
    if is_restated or is_restated_baseline:
        after = f"{name} is now {newest.close}"
        if is_same_name:
            after = f"is now {newest.close}"
        raise Refused(
            f"{before} and {after}: the same price, restated for a split after that session, which"
            " the figures count already. Adopting it would count the split twice."
            f" `alpha-monday closes {name}` shows all readings and splits."
        )
    return newest


async def _list_splits(conn: Conn, batch: Batch, ticker: str) -> Sequence[Split]:
    """Return the splits in force of the benchmark or of a pick, under all tickers of the share."""
    if ticker == batch.benchmark_symbol:
        return (await share_histories.for_benchmark(conn, batch)).splits
    picks = await batches.list_picks(conn, batch.id)
    (pick,) = [pick for pick in picks if pick.ticker == ticker]
    histories = await share_histories.for_picks(conn, batch, [pick])
    return histories[pick.id].splits


async def _get_used_reading(conn: Conn, batch: Batch, *, day: int, ticker: str) -> Close:
    """Return the reading that the figures of a day use. Raise Refused if there is none."""
    checkpoint = await checkpoints.get(conn, batch.id, day)
    if checkpoint is None or checkpoint.status != CheckpointStatus.COMPUTED:
        raise Refused(f"Day {day} of {batch.run_date} has no prices.")
    picks = {pick.ticker: pick for pick in await batches.list_picks(conn, batch.id)}
    if ticker == batch.benchmark_symbol:
        close_id = checkpoint.benchmark_close_id
    elif ticker not in picks:
        await _refuse_further_benchmark(conn, batch, ticker)
        raise Refused(f"{ticker} is no pick of {batch.run_date}; its picks: {', '.join(picks)}.")
    elif day == 0:
        close_id = picks[ticker].initial_close_id
    else:
        metrics = await checkpoints.list_metrics(conn, checkpoint.id)
        (close_id,) = [one.close_id for one in metrics if one.pick_id == picks[ticker].id]
    if close_id is None:
        raise Refused(
            f"{ticker} has ended; its price was recorded by an operator and has no reading."
        )
    (used,) = await closes.list_by_ids(conn, [close_id])
    return used


async def _refuse_further_benchmark(conn: Conn, batch: Batch, ticker: str) -> None:
    """Raise Refused if a ticker is a further benchmark of a batch."""
    declared = await further_benchmarks.list_of_batches(conn, [batch.id])
    if ticker in declared.get(batch.id, ()):
        raise Refused(
            f"{ticker} is a further benchmark of {batch.run_date}, and no pick. Its prices are not "
            "corrected: no other figure depends on them. Only a late split corrects its return."
        )


async def _ticker_of_session(conn: Conn, batch: Batch, *, ticker: str, used: Close) -> str:
    """
    Return the share's ticker in the session of a used reading.

    It differs from the reading's ticker if a rename was recorded after the reading was used.
    """
    pick_ids = {pick.ticker: pick.id for pick in await batches.list_picks(conn, batch.id)}
    if ticker not in pick_ids:
        return used.ticker
    tickers = (await batches.get_tickers(conn, batch.id))[pick_ids[ticker]]
    if tickers.is_ticker_on(used.ticker, used.trading_day):
        return used.ticker
    return tickers.ticker_on(used.trading_day)


class _Correction(Struct, frozen=True, kw_only=True):
    """
    The correction of one batch: of the figures that depend on the prices or splits of `ticker`.

    `ticker` is None if the correction is only about total returns. `adopted` has the readings that
    replace the used ones. It is empty after a split or a dividend. `in_force` is declared in the
    journal before the correction, if it is set.
    """

    batch: Batch
    ticker: str | None
    adopted: Adopted
    reason: str
    now: datetime
    in_force: InForce | None


async def _correct(conn: Conn, correction: _Correction) -> int:
    """
    Compute the checkpoints of a batch again, except the skipped ones, and store the changes.

    Return how many checkpoints changed.
    """
    batch, adopted = correction.batch, correction.adopted
    picks = await batches.list_picks(conn, batch.id)
    new_batch, new_picks = _with_new_baseline(batch, picks, adopted)
    benchmark = await share_histories.for_benchmark(conn, batch)
    benchmark = _with_adopted(benchmark, batch.benchmark_symbol, adopted)
    histories: dict[UUID, ShareHistory] = {}
    stored_histories = await share_histories.for_picks(conn, batch, picks)
    for pick in picks:
        histories[pick.id] = _with_adopted(stored_histories[pick.id], pick.ticker, adopted)

    shares = _Shares(
        batch=new_batch,
        picks=picks,
        new_picks=new_picks,
        benchmark=benchmark,
        histories=histories,
    )

    corrected = 0
    for checkpoint in await checkpoints.list_for_batch(conn, batch.id):
        if checkpoint.status != CheckpointStatus.COMPUTED:
            continue
        if checkpoint.day == 0:
            recomputed = _recompute_baseline(correction, shares, checkpoint=checkpoint)
        else:
            recomputed = await _recompute_day(conn, correction, shares, checkpoint=checkpoint)
        if await _store_changes(conn, correction, checkpoint=checkpoint, recomputed=recomputed):
            corrected += 1
            # The first entry has declared what is in force. Its transaction holds the journal's
            # lock, so no other process can declare anything before it ends: nothing is to be
            # compared again.
            correction = replace(correction, in_force=None)
    return corrected


class _Shares(Struct, frozen=True, kw_only=True):
    """
    What the figures of a batch are computed from again.

    `batch` and `new_picks` have the adopted baselines, and `picks` are as they are stored.
    `benchmark` and `histories` (by the pick's id) have the adopted prices.
    """

    batch: Batch
    picks: Sequence[Pick]
    new_picks: Sequence[Pick]
    benchmark: ShareHistory
    histories: Mapping[UUID, ShareHistory]


class _Recomputed(Struct, frozen=True):
    """
    The rows of a checkpoint, computed again.

    `rows` have each row as it is stored, and the new one. The new figures depend on `histories`.
    `dividends` are the readings that the total returns count.
    """

    rows: Rows
    histories: list[ShareHistory]
    dividends: list[Dividend]


def _recompute_baseline(
    correction: _Correction, shares: _Shares, *, checkpoint: Checkpoint
) -> _Recomputed:
    """Return the rows of day 0: the batch, the checkpoint and the picks."""
    new_checkpoint = _with_new_price(correction.batch, checkpoint, correction.adopted)
    rows: Rows = [(correction.batch, shares.batch, None), (checkpoint, new_checkpoint, None)]
    for pick, new_pick in zip(shares.picks, shares.new_picks, strict=True):
        rows.append((pick, new_pick, pick.ticker))
    return _Recomputed(rows, [shares.benchmark], [])


async def _recompute_day(
    conn: Conn, correction: _Correction, shares: _Shares, *, checkpoint: Checkpoint
) -> _Recomputed:
    """Return the rows of a later day: the checkpoint, its metrics and a further benchmark."""
    batch = correction.batch
    new_checkpoint = _with_new_price(batch, checkpoint, correction.adopted)
    new_checkpoint = measurement.measure_benchmark(shares.batch, new_checkpoint, shares.benchmark)
    new_checkpoint = _with_benchmark_mark(
        checkpoint,
        new_checkpoint,
        is_about_benchmark=correction.ticker == batch.benchmark_symbol,
    )
    received: list[Dividend] = []
    if checkpoint.has_totals:
        new_checkpoint, received = measurement.total_of_benchmark(
            shares.batch,
            new_checkpoint,
            await share_histories.with_dividends(conn, shares.benchmark),
        )
    recomputed = _Recomputed([(checkpoint, new_checkpoint, None)], [shares.benchmark], received)
    await _recompute_metrics(
        conn,
        correction,
        shares,
        checkpoint=checkpoint,
        new_checkpoint=new_checkpoint,
        recomputed=recomputed,
    )
    if correction.ticker is not None:
        further = await further_corrections.recompute(
            conn, batch, checkpoint=checkpoint, ticker=correction.ticker
        )
        if further is not None:
            recomputed.rows.append((further.stored, further.corrected, correction.ticker))
            recomputed.histories.append(further.history)
    return recomputed


async def _recompute_metrics(
    conn: Conn,
    correction: _Correction,
    shares: _Shares,
    *,
    checkpoint: Checkpoint,
    new_checkpoint: Checkpoint,
    recomputed: _Recomputed,
) -> None:
    """Compute a checkpoint's metrics again, and add them to `recomputed`."""
    new_picks = {pick.id: pick for pick in shares.new_picks}
    histories = shares.histories
    for metric in await checkpoints.list_metrics(conn, checkpoint.id):
        pick = new_picks[metric.pick_id]
        new_metric = _with_new_close(metric, correction.adopted.get((checkpoint.day, pick.ticker)))
        history = await share_histories.for_metric(
            conn, correction.batch, metric=new_metric, history=histories[pick.id]
        )
        recomputed.histories.append(history)
        figures = measurement.measure_pick(
            shares.batch,
            new_checkpoint,
            pick=pick,
            price=new_metric.current_price,
            history=history,
        )
        new_metric = replace(new_metric, **figures)
        # If the correction is not about the share of this metric, the metric keeps its mark for an
        # unusual move.
        if correction.ticker not in histories[pick.id].tickers.all_tickers:
            new_metric = replace(new_metric, unusual_move=metric.unusual_move)
        if metric.has_totals:
            new_metric, received = measurement.total_of_pick(
                shares.batch,
                new_checkpoint,
                pick=pick,
                metric=new_metric,
                history=await share_histories.with_dividends(conn, history),
            )
            recomputed.dividends.extend(received)
        recomputed.rows.append((metric, new_metric, pick.ticker))


async def _store_changes(
    conn: Conn,
    correction: _Correction,
    *,
    checkpoint: Checkpoint,
    recomputed: _Recomputed,
) -> bool:
    """
    Store the changed rows of a checkpoint, with their corrections.

    Return False if no row has changed.
    """
    batch = correction.batch
    rows, dividends = recomputed.rows, recomputed.dividends
    used = [reading for (day, _), reading in correction.adopted.items() if day == checkpoint.day]
    counted = measurement.counted_splits(batch, checkpoint, recomputed.histories)
    # While this transaction waited for the lock of the batch, another transaction may have stored a
    # reading that is used here. The time of a correction must not be before the times of its
    # readings.
    corrected_at = measurement.not_before_readings(correction.now, used, [*counted, *dividends])
    changes = measurement.build_corrections(
        rows, checkpoint=checkpoint, reason=correction.reason, at=corrected_at
    )
    if not changes:
        return False
    await corrections.apply(
        conn,
        batch.id,
        rows=[(row, new_row) for row, new_row, _ in rows],
        corrections=changes,
        readings=used,
        splits=counted,
        dividends=list(dict.fromkeys(dividends)),
        at=corrected_at,
        in_force=correction.in_force,
    )
    return True


def _with_adopted(history: ShareHistory, ticker: str, adopted: Adopted) -> ShareHistory:
    """Return a history with the adopted readings of its ticker."""
    readings = [reading for (_, name), reading in adopted.items() if name == ticker]
    return history.with_used(*readings)


def _with_benchmark_mark(
    checkpoint: Checkpoint, new_checkpoint: Checkpoint, *, is_about_benchmark: bool
) -> Checkpoint:
    """
    Return `new_checkpoint` with the right mark for an unusual move of the benchmark.

    The mark changes only if the correction is about the benchmark. A checkpoint of an earlier
    version has no mark (None). It gets one only if there is an unusual move: a mark that says "no
    unusual move" would not correct anything.
    """
    has_mark = checkpoint.benchmark_unusual_move is not None
    if is_about_benchmark and (has_mark or new_checkpoint.benchmark_unusual_move):
        return new_checkpoint
    return replace(new_checkpoint, benchmark_unusual_move=checkpoint.benchmark_unusual_move)


def _with_new_baseline(
    batch: Batch, picks: Sequence[Pick], adopted: Adopted
) -> tuple[Batch, list[Pick]]:
    """Return a batch and its picks with the initial prices of the adopted readings."""
    reading = adopted.get((0, batch.benchmark_symbol))
    if reading:
        batch = replace(
            batch, benchmark_initial_price=reading.close, benchmark_initial_close_id=reading.id
        )
    new_picks = []
    for pick in picks:
        reading = adopted.get((0, pick.ticker))
        new_pick = pick
        if reading:
            new_pick = replace(pick, initial_price=reading.close, initial_close_id=reading.id)
        new_picks.append(new_pick)
    return batch, new_picks


def _with_new_price(batch: Batch, checkpoint: Checkpoint, adopted: Adopted) -> Checkpoint:
    """Return a checkpoint with the benchmark's price of an adopted reading, if there is one."""
    reading = adopted.get((checkpoint.day, batch.benchmark_symbol))
    if reading is None:
        return checkpoint
    return replace(checkpoint, benchmark_price=reading.close, benchmark_close_id=reading.id)


def _with_new_close(metric: PickMetric, reading: Close | None) -> PickMetric:
    """Return a metric with the price of an adopted reading, if there is one."""
    if reading is None:
        return metric
    return replace(metric, current_price=reading.close, close_id=reading.id)
