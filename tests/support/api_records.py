"""
A whole record, the same every time, for the tests of the API.

Series `main`: a completed batch with a result, a completed one that stays unresolved, a failed
Monday, and an active batch with a gap at day 4. Series `second`: a completed batch on the first of
these Mondays, with a pick that ended, a split, a checkpoint that was skipped first, and a share
that `main` picked too.
"""

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import count
from uuid import UUID

import psycopg
from msgspec.structs import asdict, replace

from api.engine import Engine
from api.schema import Facts, schema
from app.database import pools
from app.database.queries import pool_fetcher
from app.domain import journal, returns
from app.domain.calendar import MEASURED_DAYS, Calendar, checkpoint_date, due_at
from app.domain.model import (
    Action,
    Batch,
    BatchStatus,
    Checkpoint,
    CheckpointStatus,
    Close,
    FailureReason,
    Generation,
    JournalEntry,
    JournalKind,
    Pick,
    PickMetric,
    SkipReason,
)

WON, UNRESOLVED, FAILED, RUNNING = (date(2026, 1, day) for day in (5, 12, 19, 26))
NOW = datetime(2026, 2, 1, 17, 30, tzinfo=UTC)
FACTS = Facts(version="1.2.3", rehearsed=True, now=lambda: NOW, series={"main", "second"})

ODD = 'It "will" rise: 50 % off,\n\tC:\\prices, $1 %s {x}, naïve — 株価 🚀\u2028'
BASE = {"SPY": 690, "AAPL": 270, "MSFT": 480, "BRK.B": 500, "NVDA": 190, "KO": 70, "XOM": 120}


def an_id(kind: int, number: int) -> UUID:
    """Return an id that contains the kind and the number of its row."""
    return UUID(f"{kind:08x}-0000-4000-8000-{number:012x}")


class Record:
    """Writes a record into a database, row by row."""

    def __init__(self, conn: psycopg.Connection) -> None:
        self.conn, self.calendar = conn, Calendar()
        self.numbers: dict[int, Iterator[int]] = {}
        self.closes: dict[tuple[str, date], Close] = {}
        self.head: JournalEntry | None = None

    def next(self, kind: int) -> UUID:
        return an_id(kind, next(self.numbers.setdefault(kind, count(1))))

    def add(self, table: str, **row: object) -> None:
        columns, places = ", ".join(row), ", ".join(["%s"] * len(row))
        self.conn.execute(f"INSERT INTO {table} ({columns}) VALUES ({places})", list(row.values()))

    def write(
        self,
        kind: JournalKind,
        at: datetime,
        recorded: dict[str, object],
        batch: UUID | None = None,
    ) -> None:
        self.head = journal.next_entry(
            after=self.head, kind=kind, at=at, recorded=recorded, batch=batch
        )
        # Without this, Postgres takes the writer for an older version in a sealed record.
        self.conn.execute("SELECT set_config('alpha_monday.knows_sealed_records', 'yes', true)")
        self.add("journal", **asdict(self.head))

    def stamp(self, at: datetime, *, token: bool = False, block: int | None = None) -> None:
        """Write a timestamp of the head: a token, or a proof of OpenTimestamps."""
        assert self.head
        row: dict[str, object] = {
            "id": self.next(8), "seq": self.head.seq, "hash": self.head.hash, "at": at,
            "received_at": at + timedelta(seconds=1), "proof": f"proof of {at}".encode(),
        }  # fmt: skip
        if token:
            row |= {
                "kind": "RFC3161", "status": "CONFIRMED", "authority": "https://tsa.example/tsr",
                "accuracy_seconds": Decimal("0.5"), "nonce": "42", "chain": "a chain\n",
            }  # fmt: skip
        else:
            row |= {
                "kind": "OPENTIMESTAMPS", "authority": "https://a.pool.example",
                "status": "CONFIRMED" if block else "PENDING", "block_height": block,
            }  # fmt: skip
        self.add("timestamps", **row)

    def close(self, ticker: str, session: date) -> Close:
        """The close of a session: it moves by some cents a day, differently for each ticker."""
        if (ticker, session) not in self.closes:
            days = (session - date(2026, 1, 1)).days
            cents = (days * 37 + len(ticker) * days * days) % 1000 - 300
            close = BASE[ticker] + Decimal(cents) / 100
            at = due_at(session, 1) + timedelta(seconds=3, microseconds=20)
            reading = Close(
                id=self.next(1),
                ticker=ticker,
                trading_day=session,
                open=close - 1,
                close=close,
                source="test",
                read_at=at,
            )
            self.closes[ticker, session] = reading
            self.add("closes", **asdict(reading))
        return self.closes[ticker, session]

    def question(
        self, series: str, run_date: date, attempt: int, batch: UUID, **outcome: object
    ) -> None:
        generation = Generation(
            id=self.next(2), series=series, run_date=run_date, attempt=attempt,
            asked_at=due_at(run_date) + timedelta(seconds=attempt), requested_model="gpt-test",
            prompt_version="1",
            system_prompt="You choose.", user_prompt=f"Today is {run_date}.", **outcome,
        )  # fmt: skip
        self.add("generations", **asdict(generation))
        if generation.answered_at:
            self.write(
                kind=JournalKind.GENERATION,
                at=generation.answered_at,
                recorded={"generation": generation},
                batch=batch,
            )

    def batch(
        self, series: str, run_date: date, status: BatchStatus, ideas: str
    ) -> tuple[Batch, list[Pick]]:
        """A batch with its picks and day 0; `ideas` reads `AAPL BUY, KO SELL`."""
        session = self.calendar.session_before(run_date)
        at = due_at(run_date) + timedelta(seconds=20, microseconds=123456)
        benchmark = self.close("SPY", session)
        batch = Batch(
            id=self.next(3), series=series, run_date=run_date, created_at=at, status=status,
            late=False,
            benchmark_symbol="SPY", benchmark_initial_price=benchmark.close,
            benchmark_initial_close_id=benchmark.id,
            trading_day=session,
        )  # fmt: skip
        self.add("batches", **asdict(batch))
        picks = []
        # Backwards, so that nothing is in order by chance.
        for position, idea in reversed(list(enumerate(ideas.split(", "), 1))):
            ticker, action = idea.split()
            reading = self.close(ticker, session)
            pick = Pick(
                id=self.next(4), batch_id=batch.id, position=position, ticker=ticker,
                action=Action(action),
                reasoning=ODD if position == 1 else f"{ticker} looks right.",
                initial_price=reading.close,
                initial_close_id=reading.id,
                entry_open=reading.close + 1 if position == 2 else None,
                entry_close_id=reading.id if position == 2 else None,
            )  # fmt: skip
            self.add("picks", **asdict(pick))
            picks.insert(0, pick)
        day_zero = Checkpoint(
            id=self.next(5), batch_id=batch.id, day=0, checkpoint_date=run_date,
            trading_day=session,
            status=CheckpointStatus.COMPUTED, taken_at=at, benchmark_price=benchmark.close,
            benchmark_close_id=benchmark.id, benchmark_split_factor=Decimal(1),
        )  # fmt: skip
        self.add("checkpoints", **asdict(day_zero))
        self.write(
            kind=JournalKind.BATCH, at=at, recorded={"batch": batch, "picks": picks}, batch=batch.id
        )
        return batch, picks

    def checkpoint(
        self, batch: Batch, picks: list[Pick], day: int, missing: bool = False, late: bool = False,
        change: Callable[[PickMetric, Pick], dict[str, object]] = lambda metric, pick: {},
    ) -> UUID:  # fmt: skip
        """
        Add a checkpoint. It is skipped after a closed day or with `missing`, else computed; with
        `late` it was skipped first.
        """
        on = checkpoint_date(batch.run_date, day)
        session, at = (
            self.calendar.trading_day(on),
            due_at(batch.run_date, day) + timedelta(seconds=5),
        )
        row: dict[str, object] = {
            "id": self.next(5), "batch_id": batch.id, "day": day, "checkpoint_date": on,
            "taken_at": at,
            "status": CheckpointStatus.COMPUTED,
        }  # fmt: skip
        if session is None:
            row |= {
                "skip_reason": SkipReason.MARKET_CLOSED,
                "skipped_at": at,
                "note": "No session.",
            }
        elif missing or late:
            row |= {
                "skip_reason": SkipReason.MISSING_CLOSE,
                "skipped_at": at,
                "note": 'No close of "KO".',
            }
        if session is None or missing:
            row["status"] = CheckpointStatus.SKIPPED
            self.add("checkpoints", **row)
            self.write(
                kind=JournalKind.CHECKPOINT, at=at, recorded={"checkpoint": row}, batch=batch.id
            )
            return row["id"]
        benchmark = self.close("SPY", session)
        measured = returns.return_pct(batch.benchmark_initial_price, benchmark.close)
        row |= {
            "trading_day": session, "benchmark_price": benchmark.close,
            "benchmark_close_id": benchmark.id,
            "benchmark_split_factor": Decimal(1), "benchmark_return_pct": measured,
        }  # fmt: skip
        self.add("checkpoints", **row)
        for pick in picks:
            reading = self.close(pick.ticker, session)
            measure = returns.measure_returns(
                initial=pick.initial_price,
                current=reading.close,
                factor=Decimal(1),
                benchmark_return_pct=measured,
            )
            metric = PickMetric(
                id=self.next(6), checkpoint_id=row["id"], pick_id=pick.id,
                current_price=reading.close,
                close_id=reading.id, split_factor=Decimal(1), unusual_move=False, ended=False,
                **asdict(measure),
            )  # fmt: skip
            if pick.entry_open:
                after_open = returns.return_pct(pick.entry_open, reading.close)
                metric = PickMetric(**{**asdict(metric), "return_from_open_pct": after_open})
            self.add("pick_checkpoint_metrics", **{**asdict(metric), **change(metric, pick)})
        self.write(kind=JournalKind.CHECKPOINT, at=at, recorded={"checkpoint": row}, batch=batch.id)
        return row["id"]


# Where the record's rows come from, each table after those that it refers to. The entries of the
# journal are copied by their number, because each must come directly after the one before it; the
# other rows are copied in the order in which they were stored.
SOURCES = {
    "closes": "closes",
    "generations": "generations",
    "batches": "batches",
    "picks": "picks",
    "checkpoints": "checkpoints",
    "pick_checkpoint_metrics": "pick_checkpoint_metrics",
    "corrections": "corrections",
    "journal": "(SELECT * FROM journal ORDER BY seq)",
    "timestamps": "timestamps",
}
_PLANTED: dict[tuple[str, ...], dict[str, bytes]] = {}


def plant(address: str, series: tuple[str, ...] = ("main", "second")) -> None:
    """
    Write the whole record: row by row the first time in a process, and the same rows later on.

    `series` are the series that are written.
    """
    planted = _PLANTED.setdefault(series, {})
    with psycopg.connect(address) as conn:
        for table, rows in planted.items():
            with conn.cursor().copy(f"COPY {table} FROM STDIN") as copy:
                copy.write(rows)
        if planted:
            return
        first_rows = [conn.execute(f"SELECT FROM {table} LIMIT 1").fetchone() for table in SOURCES]
        _write_record(conn, series)
        if first_rows == [None] * len(SOURCES):
            planted.update({table: _rows_of(conn, source) for table, source in SOURCES.items()})


def plant_main(address: str) -> None:
    """Write the record without the series `second`: with one series, pages name none."""
    plant(address, series=("main",))


def _rows_of(conn: psycopg.Connection, source: str) -> bytes:
    with conn.cursor().copy(f"COPY {source} TO STDOUT") as copy:
        return b"".join(map(bytes, copy))


def _write_record(conn: psycopg.Connection, series: tuple[str, ...]) -> None:
    record = Record(conn)
    _won(record)
    if "second" in series:
        _second(record)
    _unresolved(record)
    _failed(record)
    _running(record)


def _won(record: Record) -> None:
    answered = due_at(WON) + timedelta(seconds=9)
    batch_id = an_id(3, 1)
    record.question(
        "main",
        WON,
        1,
        batch_id,
        accepted=False,
        answer='{"picks": []}',
        answered_at=answered,
        refusal='No "picks".',
    )
    record.question(
        "main", WON, 2, batch_id, accepted=True, answer=f'{{"picks": "{ODD!r}"}}',
        answered_at=answered,
        answered_model="gpt-test-2025", request_id="req_1", prompt_tokens=812,
        completion_tokens=301,
    )  # fmt: skip
    batch, picks = record.batch("main", WON, BatchStatus.COMPLETED, "AAPL BUY, KO SELL, BRK.B BUY")
    assert batch.id == batch_id
    stamped = due_at(WON) + timedelta(minutes=4)
    record.stamp(stamped, token=True)
    record.stamp(stamped)
    record.stamp(stamped, block=930_000)
    for day in MEASURED_DAYS:
        checkpoint = record.checkpoint(batch, picks, day, missing=day == 4)
        if day == 3:
            for field, before in (("note", None), ("benchmark_price", "690.1")):
                made = due_at(WON, 9)
                correction = {
                    "id": record.next(7), "checkpoint_id": checkpoint, "field": field,
                    "ticker": None, "before": before,
                    "after": "690", "reason": "It's what the source says now.", "made_at": made,
                }  # fmt: skip
                record.add("corrections", **correction)
                record.write(JournalKind.CORRECTION, made, {"correction": correction}, batch.id)


def _second(record: Record) -> None:
    def change(metric: PickMetric, pick: Pick) -> dict[str, object]:
        if pick.ticker == "XOM":  # bought out: a fixed value, no reading
            return {"ended": True, "close_id": None, "current_price": Decimal("125.50")}
        return {"split_factor": Decimal(2), "unusual_move": True} if pick.ticker == "NVDA" else {}

    batch, picks = record.batch(
        "second", WON, BatchStatus.COMPLETED, "NVDA SELL, XOM BUY, AAPL SELL"
    )
    record.conn.execute("UPDATE picks SET ended = true WHERE id = %s", [picks[1].id])
    for day in MEASURED_DAYS:
        record.checkpoint(batch, picks, day, late=day == 12, change=change)
    ended = {"pick": picks[1].id, "value": Decimal("125.50")}
    record.write(JournalKind.PICK_ENDED, due_at(WON, 14), ended, batch.id)


def _unresolved(record: Record) -> None:
    batch, picks = record.batch(
        "main", UNRESOLVED, BatchStatus.COMPLETED, "MSFT SELL, AAPL BUY, NVDA BUY"
    )
    for day in MEASURED_DAYS:
        record.checkpoint(batch, picks, day, missing=day == 12)


def _failed(record: Record) -> None:
    at, batch_id = due_at(FAILED, 1), record.next(3)
    record.question("main", FAILED, 1, batch_id)
    failed = Batch(
        id=batch_id, series="main", run_date=FAILED, created_at=at, status=BatchStatus.FAILED,
        late=True,
        failure_reason=FailureReason.PROVIDER_ERROR, failure='The model said "429".',
        benchmark_symbol="SPY",
    )  # fmt: skip
    record.add("batches", **asdict(failed))
    record.write(JournalKind.FAILURE, at, {"batch": failed}, batch_id)


def _running(record: Record) -> None:
    batch, picks = record.batch(
        "main", RUNNING, BatchStatus.ACTIVE, "AAPL SELL, BRK.B BUY, XOM SELL"
    )
    record.stamp(due_at(RUNNING) + timedelta(hours=1), token=True)
    for day in (5, 1, 3, 2):
        record.checkpoint(batch, picks, day)


def engine_on(pool: pools.Pool, facts: Facts | None = None) -> Engine:
    """Return an engine as the service creates it. It adds to the `series` of its facts."""
    own = facts or replace(FACTS, series=set(FACTS.series))
    return Engine(schema, pool_fetcher(pool), own)


def plant_years(address: str, mondays: int = 400) -> None:
    """
    Write as many rows as years would bring. They are for query plans only, so the triggers that
    check each row are off.
    """
    with psycopg.connect(address, autocommit=True) as conn:
        for statement in YEARS.strip().split(";\n"):
            conn.execute(statement.replace("MONDAYS", str(mondays)).encode())
        conn.execute("ANALYZE")


YEARS = """
SET session_replication_role = replica;
INSERT INTO closes (id, ticker, trading_day, close, source, read_at)
    SELECT
        md5(n::text)::uuid, 'A' || chr(65 + n % 26) || chr(65 + n % 7), date '2001-01-01' + n, 1,
        'test',
        timestamptz '2030-01-01'
    FROM generate_series(1, MONDAYS * 4) n;
INSERT INTO batches (
        id, series, run_date, created_at, status, late, benchmark_symbol, benchmark_initial_price,
        benchmark_initial_close_id, trading_day)
    SELECT
        md5(series || n)::uuid, series, date '2001-01-01' + 7 * n, now(),
        CASE WHEN n < MONDAYS THEN 'completed' ELSE 'active' END, false, 'SPY', 1,
        md5(n::text)::uuid, date '2000-12-29' + 7 * n
    FROM generate_series(1, MONDAYS) n, unnest(ARRAY['main', 'second']) series;
INSERT INTO picks (id, batch_id, position, ticker, action, reasoning, initial_price,
initial_close_id, ended)
    SELECT
        md5(id::text || n)::uuid, id, n, chr(64 + n) || chr((65 + (run_date - date '2001-01-01') / 7
        % 26)::integer),
        'BUY', 'It rises.', 1, benchmark_initial_close_id, false
    FROM batches, generate_series(1, 3) n;
INSERT INTO checkpoints (
        id, batch_id, day, checkpoint_date, trading_day, status, taken_at, benchmark_price,
        benchmark_close_id, benchmark_split_factor, benchmark_return_pct)
    SELECT
        md5(id::text || 'day' || day)::uuid, id, day, run_date + day, run_date + day - 1,
        'computed', now(), 1,
        benchmark_initial_close_id, 1, CASE WHEN day > 0 THEN 1 END
    FROM batches, generate_series(0, 14) day;
INSERT INTO pick_checkpoint_metrics (
        id, checkpoint_id, pick_id, current_price, close_id, split_factor, absolute_return_pct,
        vs_benchmark_pct,
        unusual_move, ended)
    SELECT
        md5(picks.id::text || checkpoints.id)::uuid, checkpoints.id, picks.id, 1, initial_close_id,
        1, 1, 1,
        false, false
    FROM picks JOIN checkpoints USING (batch_id) WHERE day > 0;
INSERT INTO corrections (id, checkpoint_id, field, reason, made_at)
    SELECT md5(n::text)::uuid, md5(n::text)::uuid, 'note', 'Because.', now() FROM generate_series(1,
    MONDAYS * 4) n;
INSERT INTO generations (
        id, series, run_date, attempt, asked_at, requested_model, prompt_version, system_prompt,
        user_prompt)
    SELECT md5(id::text)::uuid, series, run_date, 1, created_at, 'm', '1', 's', 'u' FROM batches;
INSERT INTO journal (seq, kind, at, content, previous, hash, batch_id)
    SELECT
        row_number() OVER (ORDER BY checkpoint_date, id), 'CHECKPOINT', taken_at, '{}', id::text,
        encode(sha256(convert_to(id::text || chr(10) || '{}', 'UTF8')), 'hex'), batch_id
    FROM checkpoints
"""
