-- What an operator is told, written in the transaction of what it is about, and what became of the telling. `until` is
-- of a spent quota: until when it is known to be spent. No outcome: it waits.
CREATE TABLE operations.alerts (
    id uuid PRIMARY KEY,
    kind text NOT NULL,
    at timestamptz NOT NULL,
    run_date date,
    day integer,
    reason text,
    text text NOT NULL,
    to_do text NOT NULL,
    until timestamptz,
    outcome text,
    ended_at timestamptz,
    CONSTRAINT an_alert_ends_with_an_outcome CHECK ((ended_at IS NULL) = (outcome IS NULL)),
    CONSTRAINT only_a_quota_has_an_end CHECK (until IS NULL OR kind = 'quota_spent')
);
CREATE INDEX alerts_by_time ON operations.alerts (at DESC);

-- The good mornings that were announced: one row a day, whoever notices first.
CREATE TABLE operations.heartbeats (
    morning date PRIMARY KEY,
    at timestamptz NOT NULL,
    outcome text,
    ended_at timestamptz,
    CONSTRAINT a_heartbeat_ends_with_an_outcome CHECK ((ended_at IS NULL) = (outcome IS NULL))
);
