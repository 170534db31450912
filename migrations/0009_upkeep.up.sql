-- What upkeep last did, in one row: a live process whose rounds have stopped would otherwise look well.
CREATE TABLE operations.upkeep (
    one boolean PRIMARY KEY DEFAULT true,
    last_round_at timestamptz NOT NULL,
    last_mended_at timestamptz,
    mended jsonb NOT NULL DEFAULT '{}',
    CONSTRAINT there_is_one_row CHECK (one)
);

-- What a job has against it: how often it surprised us, and how often its process died under it. The queue's own count
-- of attempts holds waits and shutdowns too.
CREATE TABLE operations.strikes (
    job_id bigint PRIMARY KEY,
    surprises integer NOT NULL DEFAULT 0,
    deaths integer NOT NULL DEFAULT 0
);

-- Until when the provider is left alone because of what it answered to this request.
ALTER TABLE operations.provider_requests ADD COLUMN rest_until timestamptz;
