"""Questions to the model: each claimed before it is sent, and completed when its answer arrives."""

from datetime import date, datetime
from uuid import UUID

from msgspec import Struct
from msgspec.structs import asdict

from app.domain.model import Generation, JournalKind, batch_id
from app.store import journal
from app.store.rows import Conn, insert, row_of, select


class Asked(Struct, frozen=True):
    """What became of all questions: answers accepted and refused, no answer at all; and the tokens they took."""

    accepted: int
    refused: int
    failed: int
    prompt_tokens: int
    completion_tokens: int


async def of(conn: Conn, series: str, run_date: date) -> list[Generation]:
    """Return the questions of a Monday, in their order."""
    return await select(
        conn, Generation, "generations", "WHERE series = %s AND run_date = %s ORDER BY attempt", series, run_date
    )


async def claim(conn: Conn, generation: Generation) -> bool:
    """Store an open question before it is sent; return False if somebody else asks it already."""
    return await insert(conn, "generations", generation, "ON CONFLICT (series, run_date, attempt) DO NOTHING")


async def hold(conn: Conn, id: UUID) -> Generation:
    """Keep other transactions from changing this question until this one ends; return it as it now stands."""
    (question,) = await select(conn, Generation, "generations", "WHERE id = %s FOR UPDATE", id)
    return question


async def complete(conn: Conn, generation: Generation, at: datetime) -> bool:
    """
    Store what became of a question, with its entry in the journal; return False if that is known already.

    An accepted answer can still be refused when one of its ideas turns out to have no price, but not any more when its
    Monday has the picks that it gave.
    """
    # A statement of its own: only then does the next see a batch that was committed while the question was waited for.
    await hold(conn, generation.id)
    cursor = await conn.execute(
        """
        UPDATE generations
        SET answered_at = %(answered_at)s,
            answered_model = %(answered_model)s,
            answer = %(answer)s,
            request_id = %(request_id)s,
            prompt_tokens = %(prompt_tokens)s,
            completion_tokens = %(completion_tokens)s,
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
    recorded = {"generation": generation}
    await journal.append(conn, JournalKind.GENERATION, at, recorded, batch_id(generation.series, generation.run_date))
    return True


async def asked(conn: Conn) -> Asked:
    """Return what became of all questions that are no longer open."""
    async with conn.cursor(row_factory=row_of(Asked)) as cursor:
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
        (found,) = await cursor.fetchall()
        return found
