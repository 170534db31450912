"""Figures put right: after a split that was learnt of late, and by hand when a reading proves wrong."""

from collections.abc import Mapping, Sequence
from datetime import date, datetime

from msgspec.structs import replace

from app.database.pools import Pool, transaction
from app.domain import measurement, prompt, splits
from app.domain.calendar import FORTNIGHT, checkpoint_date, refuse_other_days
from app.domain.measurement import Course
from app.domain.model import SERIES, Batch, Checkpoint, CheckpointStatus, Close, Pick, PickMetric, Split
from app.domain.text import STATED, is_statement
from app.errors import Refused
from app.store import batches, checkpoints, closes, corrections, courses
from app.store.rows import Conn

# Readings that figures are to rest on from now on, by day and ticker.
Adopted = Mapping[tuple[int, str], Close]

# Rows as they stood and as they should be, each with the ticker of its pick.
Rows = list[tuple[measurement.Row, measurement.Row, str | None]]


async def after_split(conn: Conn, held: Sequence[Batch], ticker: str, since: date, reason: str, at: datetime) -> int:
    """
    Put right whatever hangs on the splits of `ticker` from `since` on; return how many checkpoints changed.

    All batches are `held` before the first entry is written: a job that holds one of them may wait for the journal.
    """
    reached = [batch for batch in held if checkpoint_date(batch.run_date, FORTNIGHT[-1]) > since]
    return sum([await _put_right(conn, batch, ticker, {}, reason, at) for batch in reached])


async def adopt(pool: Pool, at: datetime, run_date: date, day: int, ticker: str, reason: str) -> int:
    """
    Let the newest reading of a checkpoint's session replace the one that its figures rest on; day 0 is the baseline.

    Returns how many checkpoints were corrected. Raises Refused.
    """
    if not is_statement(reason):
        raise Refused(f"--reason must say why, {STATED}.")
    refuse_other_days(run_date)
    async with transaction(pool) as conn:
        found = await batches.on(conn, SERIES, run_date)
        if found is None or found.trading_day is None:
            raise Refused(f"There is no batch of {run_date}, or it has no picks.")
        batch = await batches.hold(conn, found.id)
        ticker = prompt.in_one_form(ticker)
        used = await _used(conn, batch, day, ticker)
        name = await _name_at(conn, batch, ticker, used)
        newest = await closes.newest(conn, name, used.trading_day)
        # After a rename, the reading may be under the old ticker, and the newest one under the new ticker.
        reading = f"{used.ticker} was read as {used.close} for {used.trading_day}"
        is_same_name = name == used.ticker
        if newest is None or newest.close == used.close:
            nothing = "nothing else was read since" if is_same_name else f"{name} was not read as anything else"
            raise Refused(f"{reading}, and {nothing}. `alpha-monday closes {name}` shows all readings.")
        is_restated = splits.is_restated(used, newest, await _splits_of(conn, batch, ticker))
        # A baseline of later shares than the prices that it is compared with is never needed.
        if is_restated or (day == 0 and splits.shares_of(newest.source, newest.trading_day) > newest.trading_day):
            now = f"is now {newest.close}" if is_same_name else f"{name} is now {newest.close}"
            raise Refused(
                f"{reading} and {now}: the same price, restated for a split after that session, which the figures "
                f"count already. Adopting it would count the split twice. "
                f"`alpha-monday closes {name}` shows all readings and splits."
            )
        return await _put_right(conn, batch, ticker, {(day, ticker): newest}, reason, at)


async def _splits_of(conn: Conn, batch: Batch, ticker: str) -> Sequence[Split]:
    """Return the splits of the benchmark or of a pick, under whatever ticker it had."""
    if ticker == batch.benchmark_symbol:
        return (await courses.of_benchmark(conn, batch)).splits
    (pick,) = [pick for pick in await batches.picks_of(conn, batch.id) if pick.ticker == ticker]
    return (await courses.of_picks(conn, batch, [pick]))[pick.id].splits


async def _used(conn: Conn, batch: Batch, day: int, ticker: str) -> Close:
    """Return the reading that the figures of a day rest on."""
    checkpoint = await checkpoints.at(conn, batch.id, day)
    if checkpoint is None or checkpoint.status != CheckpointStatus.COMPUTED:
        raise Refused(f"Day {day} of {batch.run_date} has no prices.")
    picks = {pick.ticker: pick for pick in await batches.picks_of(conn, batch.id)}
    if ticker == batch.benchmark_symbol:
        id = checkpoint.benchmark_close_id
    elif (pick := picks.get(ticker)) is None:
        raise Refused(f"{ticker} is no pick of {batch.run_date}; its picks: {', '.join(picks)}.")
    elif day == 0:
        id = pick.initial_close_id
    else:
        (id,) = [m.close_id for m in await checkpoints.metrics_of(conn, checkpoint.id) if m.pick_id == pick.id]
    if id is None:
        raise Refused(f"{ticker} has ended; its price was recorded by hand and has no reading.")
    (used,) = await closes.among(conn, [id])
    return used


async def _name_at(conn: Conn, batch: Batch, ticker: str, used: Close) -> str:
    """Return under which ticker a share's session is to be read: as it was, unless a rename says otherwise."""
    picks = {pick.ticker: pick.id for pick in await batches.picks_of(conn, batch.id)}
    if ticker not in picks:
        return used.ticker
    share = (await batches.tickers_of(conn, batch.id))[picks[ticker]]
    return used.ticker if share.counts(used.ticker, used.trading_day) else share.at(used.trading_day)


async def _put_right(conn: Conn, batch: Batch, ticker: str, adopted: Adopted, reason: str, at: datetime) -> int:
    """Compute every checkpoint of `batch` anew, and record where `ticker` makes it come to something else."""
    picks = await batches.picks_of(conn, batch.id)
    batch_now, picks_now = _baseline(batch, picks, adopted)
    of_benchmark = _with_adopted(await courses.of_benchmark(conn, batch), batch.benchmark_symbol, adopted)
    courses_of = await courses.of_picks(conn, batch, picks)
    of_picks = {pick.id: _with_adopted(courses_of[pick.id], pick.ticker, adopted) for pick in picks}
    made = 0
    for checkpoint in await checkpoints.of(conn, batch.id):
        if checkpoint.status != CheckpointStatus.COMPUTED:
            continue
        now = _priced(batch, checkpoint, adopted)
        counting = [of_benchmark]
        rows: Rows
        if checkpoint.day == 0:
            rows = [(batch, batch_now, None), (checkpoint, now, None)]
            rows += [(stood, pick, pick.ticker) for stood, pick in zip(picks, picks_now, strict=True)]
        else:
            now = measurement.of_benchmark(batch_now, now, of_benchmark)
            now = _marked(checkpoint, now, its_own=ticker == batch.benchmark_symbol)
            rows = [(checkpoint, now, None)]
            for stood in await checkpoints.metrics_of(conn, checkpoint.id):
                pick = next(one for one in picks_now if one.id == stood.pick_id)
                priced = _metric_priced(checkpoint, pick, stood, adopted)
                course = await courses.of_metric(conn, batch, priced, of_picks[pick.id])
                counting.append(course)
                figures = measurement.of_pick(batch_now, now, pick, priced.current_price, course)
                metric = replace(priced, **figures)
                if ticker not in of_picks[pick.id].tickers.all:  # its own moves are not what this is about
                    metric = replace(metric, unusual_move=stood.unusual_move)
                rows.append((stood, metric, pick.ticker))
        used = [reading for (day, _), reading in adopted.items() if day == checkpoint.day]
        counted = measurement.splits_counted(batch, checkpoint, counting)
        # The transaction may have waited for the batch, and what it used may have been learnt meanwhile.
        made_at = measurement.not_before(at, used, counted)
        if found := measurement.corrections(rows, checkpoint, reason, made_at):
            stood_and_now = [(stood, row) for stood, row, _ in rows]
            await corrections.make(conn, batch.id, stood_and_now, found, used, counted, made_at)
            made += 1
    return made


def _with_adopted(course: Course, ticker: str, adopted: Adopted) -> Course:
    """Return a course whose figures rest on the readings that were adopted for its ticker."""
    return course.using(*(reading for (_, its), reading in adopted.items() if its == ticker))


def _marked(stood: Checkpoint, now: Checkpoint, *, its_own: bool) -> Checkpoint:
    """
    Return `now` with the benchmark's mark as it should be: decided anew only if the benchmark is what this is about.

    One that was never examined (None) stays so, unless a move is found now: that nothing was found corrects nothing.
    """
    was_examined = stood.benchmark_unusual_move is not None
    if its_own and (was_examined or now.benchmark_unusual_move):
        return now
    return replace(now, benchmark_unusual_move=stood.benchmark_unusual_move)


def _baseline(batch: Batch, picks: list[Pick], adopted: Adopted) -> tuple[Batch, list[Pick]]:
    """Return a batch and its picks with the initial prices that they should have."""
    if reading := adopted.get((0, batch.benchmark_symbol)):
        batch = replace(batch, benchmark_initial_price=reading.close, benchmark_initial_close_id=reading.id)
    return batch, [
        replace(pick, initial_price=reading.close, initial_close_id=reading.id)
        if (reading := adopted.get((0, pick.ticker)))
        else pick
        for pick in picks
    ]


def _priced(batch: Batch, checkpoint: Checkpoint, adopted: Adopted) -> Checkpoint:
    reading = adopted.get((checkpoint.day, batch.benchmark_symbol))
    return replace(checkpoint, benchmark_price=reading.close, benchmark_close_id=reading.id) if reading else checkpoint


def _metric_priced(checkpoint: Checkpoint, pick: Pick, stood: PickMetric, adopted: Adopted) -> PickMetric:
    reading = adopted.get((checkpoint.day, pick.ticker))
    return replace(stood, current_price=reading.close, close_id=reading.id) if reading else stood
