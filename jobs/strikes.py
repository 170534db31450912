"""
Strikes: how often a job failed with an unexpected error, and how often its process died.

They are stored in `operations.strikes`, because each attempt of a job may run in another process.
The column for unexpected errors is called `surprises`. The statements that join the strikes to
the queue's tables are in `jobs/queue_tables.py`.
"""

from app.store.rows import Conn


async def add_unexpected_failure(conn: Conn, job_id: int | None) -> int:
    """Count one more unexpected error of a job. Return how many errors are counted now."""
    cursor = await conn.execute(
        """
        INSERT INTO operations.strikes AS stored (job_id, surprises)
        VALUES (%s, 1)
        ON CONFLICT (job_id) DO UPDATE SET surprises = stored.surprises + 1
        RETURNING surprises
        """,
        (job_id,),
    )
    (count,) = await cursor.fetchone() or (0,)
    return int(count)


async def delete(conn: Conn, job_id: int) -> None:
    """Delete the strikes of a job: its failures so far no longer count."""
    await conn.execute("DELETE FROM operations.strikes WHERE job_id = %s", (job_id,))
