"""
Generations: questions to the model with their answers.

A question is stored before it is sent, and completed when its outcome is known.
"""

from datetime import date, datetime
from uuid import UUID

from msgspec import Struct
from msgspec.structs import asdict, replace

from app.core.locks import Lock
from app.domain.declarations import InForce, explain_other_kind
from app.domain.lost_answers import Question
from app.domain.model import Generation, JournalKind, SeriesKind, batch_id
from app.errors import ConfigurationError, TryAgainAt
from app.store import declarations, journal
from app.store.rows import Conn, insert_row, row_factory, select_rows


class GenerationCounts(Struct, frozen=True):
    """
    How many questions had each outcome, over the whole record, and how many tokens they used.

    `accepted` and `refused` count answers; `failed` counts questions without an answer.
    """

    accepted: int
    refused: int
    failed: int
    prompt_tokens: int
    completion_tokens: int


async def list_by_run_date(conn: Conn, series: str, run_date: date) -> list[Generation]:
    """Return the questions for the Monday `run_date`, in the order of their attempts."""
    return await select_rows(
        conn,
        Generation,
        table="generations",
        where="WHERE series = %s AND run_date = %s ORDER BY attempt",
        values=(series, run_date),
    )


async def count(conn: Conn, series: str, run_date: date) -> int:
    """Return the number of questions for the Monday `run_date`."""
    cursor = await conn.execute(
        "SELECT count(*) FROM generations WHERE series = %s AND run_date = %s", (series, run_date)
    )
    (count,) = await cursor.fetchone() or (0,)
    return int(count)


async def list_mondays_without_batch(conn: Conn) -> list[tuple[str, date]]:
    """Return the series and the Monday of each question whose Monday has no batch."""
    cursor = await conn.execute(
        """
        SELECT DISTINCT series, run_date FROM generations
        WHERE NOT EXISTS (
            SELECT FROM batches
            WHERE batches.series = generations.series
                AND batches.run_date = generations.run_date
        )
        """
    )
    return await cursor.fetchall()


async def list_questions(conn: Conn, series: str, run_date: date) -> list[Question]:
    """Return the questions for a Monday without their texts, in the order of their attempts."""
    async with conn.cursor(row_factory=row_factory(Question)) as cursor:
        await cursor.execute(
            """
            SELECT attempt, accepted, answered_at IS NOT NULL AS has_answer
            FROM generations
            WHERE series = %s AND run_date = %s
            ORDER BY attempt
            """,
            (series, run_date),
        )
        return await cursor.fetchall()


async def claim(conn: Conn, generation: Generation, in_force: InForce | None) -> Generation | None:
    """
    Insert a question without an outcome, before it is sent, and return it as it was stored.

    Return None if another process has already stored a question with the same attempt number.

    In a sealed record, the question names the profile that is in force in this process, and the
    journal has an entry of the claim. So a question that never gets an outcome leaves a trace.
    Raises TryAgainAt if another process seals the record, or begins it, at this moment, and
    ConfigurationError if the record has a series of this name and of another kind.
    """
    await declarations.declare_version(conn)
    is_sealed = in_force is not None and await declarations.will_be_sealed(conn)
    if is_sealed and in_force:
        sha256 = await _profile_sha256(conn, generation, in_force)
        generation = replace(generation, profile_sha256=sha256)
    # The constraint one_generation_per_attempt decides which of several processes may send it.
    is_claimed = await insert_row(
        conn,
        "generations",
        generation,
        on_conflict="ON CONFLICT (series, run_date, attempt) DO NOTHING",
    )
    if not is_claimed:
        return None
    if is_sealed:
        await conn.execute("SELECT pg_advisory_xact_lock(%s)", (Lock.JOURNAL,))
    # Read again, because another process may have committed meanwhile. `alpha-monday seal` waits
    # for the INSERTs of others, and the INSERT above has waited for a seal. An older version that
    # works beside this one may have written the first entry of the journal.
    if in_force and is_sealed != await declarations.will_be_sealed(conn):
        raise TryAgainAt("The record was sealed or begun at this moment.", generation.asked_at)
    if is_sealed:
        await journal.append(
            conn,
            JournalKind.GENERATION,
            at=generation.asked_at,
            recorded={"generation": generation},
            batch_id=batch_id(generation.series, generation.run_date),
            in_force=in_force,
            asked_for=generation.run_date,
        )
    return generation


async def _profile_sha256(conn: Conn, generation: Generation, in_force: InForce) -> str:
    """Return the hash of the profile with which a question of a sealed record is asked."""
    series = in_force.series_named(generation.series)
    assert series is not None, "a process asks only the questions of its series"
    newest = await declarations.get_series(conn, series.name)
    if problem := explain_other_kind(series, newest):
        raise ConfigurationError(problem)
    if series.kind is SeriesKind.RANDOM:
        # A new universe of a control is declared weeks before it holds. Until then, the one of
        # before is drawn from.
        declared = await declarations.get_series_in_force(
            conn, generation.series, generation.run_date
        )
        if declared is not None:
            return declared.profile_sha256
    return series.profile.sha256


async def lock_for_update(conn: Conn, id: UUID) -> Generation:
    """Lock a question until the transaction ends, and return its current row."""
    (generation,) = await select_rows(
        conn, Generation, table="generations", where="WHERE id = %s FOR UPDATE", values=(id,)
    )
    return generation


async def complete(conn: Conn, generation: Generation, at: datetime) -> bool:
    """
    Store a question's outcome with its journal entry. Return False if it already has an outcome.

    There is one exception: an accepted answer can be refused afterwards, for example because one of
    its ideas has no price. If the Monday already has a batch with picks, nothing is stored, and the
    function returns False.
    """
    # A statement sees only what was committed before it started. The UPDATE must also see a batch
    # that was committed while this transaction waited for the lock. So the UPDATE is a later
    # statement, which starts when this transaction has the lock.
    await lock_for_update(conn, generation.id)
    # An older version must not complete a question of a sealed record: its entry would not have the
    # question's profile.
    await declarations.declare_version(conn)
    # A question that was given up without an answer cannot get an answer afterwards, because its
    # `accepted` is false, and no longer null.
    cursor = await conn.execute(
        """
        UPDATE generations
        SET answered_at = %(answered_at)s,
            answered_model = %(answered_model)s,
            answer = %(answer)s,
            request_id = %(request_id)s,
            prompt_tokens = %(prompt_tokens)s,
            completion_tokens = %(completion_tokens)s,
            finish_reason = %(finish_reason)s,
            system_fingerprint = %(system_fingerprint)s,
            reasoning_tokens = %(reasoning_tokens)s,
            accepted = %(accepted)s,
            refusal = %(refusal)s
        WHERE id = %(id)s AND (accepted IS NULL
                OR (accepted AND NOT %(accepted)s AND %(answered_at)s::timestamptz IS NOT NULL))
            AND NOT EXISTS (
                SELECT FROM batches
                WHERE batches.series = generations.series
                    AND batches.run_date = generations.run_date
                    AND batches.status <> 'failed'
            )
        """,
        asdict(generation),
    )
    if cursor.rowcount == 0:
        return False

    await journal.append(
        conn,
        JournalKind.GENERATION,
        at=at,
        recorded={"generation": generation},
        batch_id=batch_id(generation.series, generation.run_date),
    )
    return True


async def count_outcomes(conn: Conn) -> GenerationCounts:
    """Return the outcomes of all questions that are no longer open, and their tokens."""
    async with conn.cursor(row_factory=row_factory(GenerationCounts)) as cursor:
        await cursor.execute(
            """
            SELECT
                count(*) FILTER (WHERE accepted) AS accepted,
                count(*) FILTER (WHERE NOT accepted AND answered_at IS NOT NULL) AS refused,
                count(*) FILTER (WHERE NOT accepted AND answered_at IS NULL) AS failed,
                coalesce(sum(prompt_tokens), 0)::bigint AS prompt_tokens,
                coalesce(sum(completion_tokens), 0)::bigint AS completion_tokens
            FROM generations
            """
        )
        (counts,) = await cursor.fetchall()
        return counts
