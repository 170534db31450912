-- For each git repository and branch: the newest head of the journal that was pushed to it, and since when pushing fails.
-- `repository` names the two without revealing them. `requested` is the last job that was deferred.
CREATE TABLE operations.published_heads (
    repository text PRIMARY KEY,
    seq bigint,
    hash text,
    at timestamptz,
    commit_id text,
    published_at timestamptz,
    requested_seq bigint,
    requested_at timestamptz,
    failing_since timestamptz,
    failure text,
    alerted_at timestamptz,
    CONSTRAINT a_published_head_is_complete CHECK (num_nulls(seq, hash, at, commit_id, published_at) IN (0, 5)),
    CONSTRAINT a_failure_has_a_beginning CHECK (
        (failing_since IS NULL) = (failure IS NULL) AND (alerted_at IS NULL OR failing_since IS NOT NULL)
    )
);
