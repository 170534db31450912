"""
The advisory locks: the fixed numbers that we pass to Postgres's advisory lock functions.

One lock is not in this list, because its number is random: `is_same_database` in
app/database/pools.py takes it for a moment, to find out whether two addresses lead to one database.

The numbers never change: during a deployment the old and the new version of the service run side by
side, and a lock that one of them holds must exclude the other. The numbers are arbitrary, but
unlikely to be used by another program that shares the database.

Level: a transaction lock (`pg_advisory_xact_lock`) ends with its transaction. A session lock
(`pg_advisory_lock`) ends with its connection. In both cases a killed process leaves no lock behind.

Order: only RECONCILIATION and JOURNAL are ever held together, and RECONCILIATION is taken first.
JOURNAL is the last lock of any transaction, after all row locks: every writer of the record waits
for it, so it must be held only for a short time. A transaction or connection that takes a lock
other than these two takes no second lock.
"""

from enum import IntEnum


class Lock(IntEnum):
    """An advisory lock. Its comment says on which level it is taken, and what it protects."""

    # A session lock. It protects the schema: processes that start at the same time apply each
    # migration once. `alpha-monday roles --apply` takes it as a transaction lock, so that no
    # migration adds a table while the rights of the roles are granted.
    MIGRATIONS = 4_021_970_431

    # A transaction lock. It protects the ledger of one provider, while a process reads the earlier
    # requests and grants the next one. It is taken with two keys, `first_key` and a hash of the
    # provider's name, so that requests to different providers do not wait for each other.
    RATE_LIMITER = 4_021_970_432

    # A transaction lock. It protects the end of the journal: a new entry contains the hash of the
    # last entry, so only one transaction at a time may add entries.
    JOURNAL = 4_021_970_433

    # A transaction lock. It protects a round of reconciliation: one process at a time. Other
    # processes skip the round (`pg_try_advisory_xact_lock`), but a weekly job waits for the lock
    # before it records missed Mondays. The simulated clock reads in `pg_locks` whether it is held.
    RECONCILIATION = 4_021_970_434

    # A transaction lock. It protects the start of the simulated clock: its table and functions.
    SIMULATED_CLOCK = 4_021_970_435

    # A transaction lock. It protects the newest alert about a used-up quota: if several jobs find
    # the quota used up, only one of them stores an alert.
    QUOTA_ALERT = 4_021_970_436

    @property
    def first_key(self) -> int:
        """
        Return the lock's number as the first of two keys.

        Postgres takes one signed 64-bit key, or two signed 32-bit keys. The lock's number does not
        fit into a signed 32-bit key, so only its lower 31 bits are used.
        """
        return self % 2**31
