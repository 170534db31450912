"""
A record of any length for the bench; its newest Monday is always the same.

A batch is like a real one: three picks with some 300 characters of reasoning, fifteen checkpoints
of which four are of closed days, thirty metrics with 28 digits, the readings that all figures use,
a question with its answer, and seventeen entries of the journal. (The hashes of the journal are no
valid chain, because no query of the bench checks them.)

The record is not sealed: it is one that versions before 0.3.0 made. Such a version can still record
in it, which the rehearsal of an upgrade needs (`dev/image/upgrade.py`). And no query of the bench
reads what a seal adds: the entries of claims and of readings.

A record may have several series with as many Mondays each. The series `main` is the same in all
records, so the queries, which ask for it, have the same answers.
"""

import asyncio
import hashlib
from collections.abc import Callable
from datetime import UTC, datetime

import psycopg

from app.database import migrations, sessions
from app.database.embedded import EmbeddedPostgres

NEWEST = "2026-11-16"


def ensure_database(
    postgres: EmbeddedPostgres, batches: int, report: Callable[[str], None], series: int = 1
) -> str:
    """
    Return the address of the record with `batches` Mondays; write it if no earlier run has.

    `series` is the number of series. The name of the database contains a hash of everything that
    the record depends on.
    """
    schema = "".join(step.up for step in migrations.load_migrations())
    size = str(batches) if series == 1 else f"{batches}x{series}"
    name = f"bench_{size}_{hashlib.sha256((MONDAYS + NEWEST + schema).encode()).hexdigest()[:8]}"
    with sessions.connect(postgres.address(), autocommit=True) as conn:
        if conn.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone():
            return postgres.address(name)
        of_series = "" if series == 1 else f" of each of {series} series"
        report(f"Writing {batches:,} batches{of_series}; later runs find them there")
        others = conn.execute(
            "SELECT datname FROM pg_database WHERE datname LIKE %s", (f"bench\\_{size}\\_%",)
        )
        for (other,) in [*others.fetchall(), ("unfinished",)]:
            conn.execute(f"DROP DATABASE IF EXISTS {other}")
        fill(postgres.ensure_database("unfinished"), batches, series)
        conn.execute(f"ALTER DATABASE unfinished RENAME TO {name}")
    return postgres.address(name)


def fill(address: str, batches: int, series: int = 1) -> None:
    """
    Migrate an empty database and write `batches` Mondays of so many series into it.

    It is vacuumed and checkpointed, so that Postgres has nothing left to do in it.
    """
    asyncio.run(migrations.migrate(address, datetime(2020, 1, 1, tzinfo=UTC)))
    with sessions.connect(address, autocommit=True) as conn:
        write(conn, batches, series=series)


def write(conn: psycopg.Connection, batches: int, newest: str = NEWEST, *, series: int = 1) -> None:
    """
    Write `batches` Mondays, the newest of them `newest`, into a migrated database.

    Each of so many `series` has them. The first one is `main`.
    """
    for statement in MONDAYS.strip().split(";\n"):
        conn.execute(
            statement.replace("NEWEST", f"date '{newest}'")
            .replace("MONDAYS", str(batches))
            .replace("SERIES", str(series))
            .encode()
        )
    conn.execute("VACUUM (ANALYZE)")
    conn.execute("CHECKPOINT")


# `k` counts Mondays back from the newest, so that two records of different length agree on their
# common Mondays. `s` counts the series, from 0 for `main`, whose rows do not depend on the others.
# Two series have different tickers at a time, because no reading may be there twice. Triggers,
# which would run for each row, are off; constraints hold.
MONDAYS = """
SET session_replication_role = replica;
SET timezone = 'UTC';
CREATE TEMP TABLE weeks AS
    SELECT
        k, s, other, md5('batch' || k || other)::uuid AS id, NEWEST - 7 * k AS run_date,
        CASE s WHEN 0 THEN 'main' ELSE 'model-' || s END AS series
    FROM
        generate_series(0, MONDAYS - 1) k, generate_series(0, SERIES - 1) s,
        LATERAL (SELECT CASE s WHEN 0 THEN '' ELSE '/' || s END AS other) others;
CREATE TEMP TABLE chosen AS
    SELECT
        weeks.*, position, md5('pick' || k || position || other)::uuid AS pick_id,
        chr(65 + place / 676) || chr(65 + place / 26 % 26) || chr(65 + place % 26) AS ticker,
        80 + place * 0.37 AS price
    FROM
        weeks, generate_series(1, 3) position,
        LATERAL (SELECT (k * 3 + position + s * 150) % 1500 AS place) places;
CREATE TEMP TABLE mornings AS
    SELECT
        weeks.*, day, md5('checkpoint' || k || '/' || day || other)::uuid AS checkpoint_id,
        run_date + day - CASE day WHEN 0 THEN 3 ELSE 1 END AS session,
        day IN (6, 7, 13, 14) AS closed,
        round((day * 977 + k * 31) % 601 / 97.0 - 3, 27) AS moved
    FROM weeks, generate_series(0, 14) day;
INSERT INTO closes (id, ticker, trading_day, open, close, source, read_at)
    SELECT
        md5('SPY' || session)::uuid, 'SPY', session, 690.1200, 688.4100, 'alpha_vantage',
        session + 1 + time '13:00:03.000020'
    FROM (SELECT DISTINCT session FROM mornings WHERE NOT closed) sessions;
INSERT INTO closes (id, ticker, trading_day, open, close, source, read_at)
    SELECT
        md5(ticker || session)::uuid, ticker, session, round(price + 1.5, 4),
        round(price + day * 0.11, 4), 'alpha_vantage', session + 1 + time '13:00:04.000020'
    FROM chosen JOIN mornings USING (k, s, other) WHERE NOT closed;
INSERT INTO batches (
        id, series, run_date, created_at, status, late, benchmark_symbol, benchmark_initial_price,
        benchmark_initial_close_id, trading_day)
    SELECT
        id, series, run_date, run_date + time '14:00:20.123456', 'completed', false, 'SPY',
        688.4100, md5('SPY' || run_date - 3)::uuid, run_date - 3
    FROM weeks;
INSERT INTO picks (
        id, batch_id, position, ticker, action, reasoning, initial_price, initial_close_id,
        entry_open, entry_close_id, ended)
    SELECT
        pick_id, id, position, ticker, CASE WHEN (k + position) % 3 = 0 THEN 'SELL' ELSE 'BUY' END,
        left(
            'Margins at ' || ticker || ' widened for the third quarter in a row while "peers" cut '
            || 'their guidance; '
            || repeat(
                'orders grow faster than shipments, buybacks shrink the float, and the market '
                || 'still prices a slowdown. ',
                3),
            270 + k % 60),
        round(price, 4), md5(ticker || run_date - 3)::uuid, round(price + 1.5, 4),
        md5(ticker || run_date)::uuid, false
    FROM chosen;
INSERT INTO checkpoints (
        id, batch_id, day, checkpoint_date, trading_day, status, skip_reason, note, taken_at,
        skipped_at, benchmark_price, benchmark_close_id, benchmark_split_factor,
        benchmark_return_pct)
    SELECT
        checkpoint_id, id, day, run_date + day, session, 'computed', NULL, NULL,
        run_date + day + time '13:00:05.250001', NULL, 688.4100, md5('SPY' || session)::uuid, 1,
        CASE WHEN day > 0 THEN moved END
    FROM mornings WHERE NOT closed
    UNION ALL
    SELECT
        checkpoint_id, id, day, run_date + day, NULL, 'skipped', 'MARKET_CLOSED',
        'The day before was no session.', run_date + day + time '13:00:05.250001',
        run_date + day + time '13:00:05.250001', NULL, NULL, NULL, NULL
    FROM mornings WHERE closed;
INSERT INTO pick_checkpoint_metrics (
        id, checkpoint_id, pick_id, current_price, close_id, split_factor, absolute_return_pct,
        vs_benchmark_pct, return_from_open_pct, unusual_move, ended)
    SELECT
        md5('metric' || k || '/' || day || '/' || position || other)::uuid, checkpoint_id, pick_id,
        round(price + day * 0.11, 4), md5(ticker || session)::uuid, 1, moved * position,
        moved * (position - 1), round(moved * position / 1.1, 27), false, false
    FROM chosen JOIN mornings USING (k, s, other) WHERE NOT closed AND day > 0;
INSERT INTO generations (
        id, series, run_date, attempt, asked_at, answered_at, requested_model, answered_model,
        prompt_version, system_prompt, user_prompt, answer, request_id, prompt_tokens,
        completion_tokens, accepted)
    SELECT
        md5('generation' || k || other)::uuid, series, run_date, 1, run_date + time '14:00:01',
        run_date + time '14:00:09', 'gpt-5.4-mini', 'gpt-5.4-mini-2026-03-17', '1',
        repeat('You choose three shares of the index. ', 20), 'Today is ' || run_date || '.',
        '{"picks":"' || repeat('a reason and another one ', 40) || '"}',
        'req_' || md5('request' || k || other), 812, 301, true
    FROM weeks;
INSERT INTO journal (seq, kind, at, content, previous, hash, batch_id)
    SELECT
        row_number() OVER (ORDER BY at, part), kind, at, content, md5(id::text || part),
        encode(sha256(convert_to(md5(id::text || part) || chr(10) || content, 'UTF8')), 'hex'), id
    FROM (
        SELECT
            id, part, run_date + greatest(part - 2, 0) + time '14:00:21' AS at,
            CASE part WHEN 1 THEN 'GENERATION' WHEN 2 THEN 'BATCH' ELSE 'CHECKPOINT' END AS kind,
            format(
                '{"at":"%s","checkpoint":{"batch_id":"%s","day":"%s","note":"%s"},"kind":"%s"}',
                run_date, id, part, repeat('every figure of the morning ', 8), part) AS content
        FROM weeks, generate_series(1, 17) part
    ) entries
"""
