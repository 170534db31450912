"""
Strikes: how often a job failed by surprise, and how often its process died.

They are rows of `operations.strikes`, because the next attempt may be in another process. The
statements that join them to the queue's tables stand in `jobs/queue_tables.py`.
"""

from app.store.rows import Conn


async def add_surprise(conn: Conn, job_id: int | None) -> int:
    """Count one more surprise of a job; return how many it has."""
    cursor = await conn.execute(
        """
        INSERT INTO operations.strikes AS known (job_id, surprises)
        VALUES (%s, 1)
        ON CONFLICT (job_id) DO UPDATE SET surprises = known.surprises + 1
        RETURNING surprises
        """,
        (job_id,),
    )
    (surprises,) = await cursor.fetchone() or (0,)
    return int(surprises)


async def forget(conn: Conn, job_id: int) -> None:
    """Delete the strikes of a job: its surprises and deaths no longer count."""
    await conn.execute("DELETE FROM operations.strikes WHERE job_id = %s", (job_id,))
