-- The ledger of provider requests: who was asked what and when, so that a quota holds across processes and restarts.
CREATE TABLE operations.provider_requests (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    provider text NOT NULL,
    function text NOT NULL,
    symbol text NOT NULL,
    at timestamptz NOT NULL,
    ended_at timestamptz,
    outcome text,
    CONSTRAINT an_outcome_has_a_time CHECK ((ended_at IS NULL) = (outcome IS NULL))
);
CREATE INDEX provider_requests_by_time ON operations.provider_requests (provider, at DESC);
