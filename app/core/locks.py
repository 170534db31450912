"""
The advisory locks: every number that this project gives to Postgres's advisory lock functions.

The numbers never change: during a deployment the old and the new version run side by side and must
exclude each other. They are arbitrary, apart from being unlikely in another program that shares the
database.

Level: a transaction lock (`pg_advisory_xact_lock`) ends with its transaction, a session lock
(`pg_advisory_lock`) with its connection. Either way a process that is killed leaves no lock behind.

Order: only RECONCILIATION and JOURNAL are ever held together, and RECONCILIATION is taken first.
JOURNAL is the last lock of any transaction, after all row locks: every writer of the record waits
for it. The other locks are each taken in a transaction, or on a connection, that takes no other.
"""

from enum import IntEnum


class Lock(IntEnum):
    """One advisory lock; the comment says what it protects, and at which level it is taken."""

    # The schema, so that processes that start together apply each migration once. Session. The
    # rights of the roles are given under it, too.
    MIGRATIONS = 4_021_970_431

    # The requests to one provider: reading the earlier ones and granting the next. Transaction.
    # It is taken with two keys, `keyed` and the provider: one provider does not wait for another.
    RATE_LIMITER = 4_021_970_432

    # The journal's last entry: each new entry holds the hash of the one before. Transaction.
    JOURNAL = 4_021_970_433

    # A round of reconciliation, which one process does at a time. Transaction; other processes do
    # not wait (`pg_try_advisory_xact_lock`), but a Monday that records missed ones first does. The
    # simulated clock reads in `pg_locks` whether it is held.
    RECONCILIATION = 4_021_970_434

    # The start of the simulated clock: its table and its functions. Transaction.
    SIMULATED_CLOCK = 4_021_970_435

    # The newest alert of a spent quota, so that several jobs do not each send one. Transaction.
    QUOTA_ALERT = 4_021_970_436

    @property
    def keyed(self) -> int:
        """Return the number as the first of two keys, which are signed 32-bit integers in Postgres."""
        return self % 2**31
