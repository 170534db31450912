-- Timestamps from outside: proofs that an entry of the journal existed at a time. A proof of the journal cannot be a part
-- of the journal, so it has a table of its own. Like the journal, this table is append-only.
CREATE TABLE timestamps (
    id uuid PRIMARY KEY,
    -- No foreign key: the trigger below compares number and hash, and the journal never loses an entry.
    seq bigint NOT NULL,
    hash text NOT NULL,
    kind text NOT NULL,
    status text NOT NULL,
    authority text NOT NULL,
    at timestamptz NOT NULL,
    accuracy_seconds numeric,
    received_at timestamptz NOT NULL,
    nonce text,
    proof bytea NOT NULL,
    chain text,
    block_height integer,
    CONSTRAINT a_proof_is_stored_once UNIQUE (seq, kind, authority, status),
    CONSTRAINT an_authority_has_a_name CHECK (octet_length(authority) BETWEEN 1 AND 500),
    CONSTRAINT timestamp_kind_is_known CHECK (kind IN ('RFC3161', 'OPENTIMESTAMPS')),
    CONSTRAINT timestamp_status_is_known CHECK (status IN ('PENDING', 'CONFIRMED')),
    CONSTRAINT a_proof_has_a_length CHECK (octet_length(proof) BETWEEN 1 AND 50000),
    CONSTRAINT a_timestamp_of_an_authority_is_complete CHECK (
        kind <> 'RFC3161' OR (
            status = 'CONFIRMED' AND accuracy_seconds IS NOT NULL AND chain IS NOT NULL
            AND octet_length(chain) BETWEEN 1 AND 65536
            AND nonce ~ '^[0-9]{1,60}$' AND nonce IS NOT NULL AND block_height IS NULL)),
    CONSTRAINT accuracy_is_a_time CHECK (accuracy_seconds >= 0 AND accuracy_seconds <= 1000000000),
    CONSTRAINT a_proof_in_a_block_names_the_block CHECK (
        kind <> 'OPENTIMESTAMPS' OR (
            accuracy_seconds IS NULL AND chain IS NULL AND nonce IS NULL
            AND (block_height IS NOT NULL) = (status = 'CONFIRMED'))),
    CONSTRAINT a_block_has_a_height CHECK (block_height >= 0)
);
CREATE INDEX timestamps_by_seq ON timestamps (seq, id);
CREATE INDEX timestamps_by_service ON timestamps (kind, authority, seq DESC);
CREATE INDEX timestamps_by_time ON timestamps (kind, at);

CREATE FUNCTION a_timestamp_is_of_an_entry() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM journal WHERE seq = NEW.seq AND hash = NEW.hash) THEN
        RAISE check_violation USING
            CONSTRAINT = 'a_timestamp_is_of_an_entry',
            MESSAGE = format('a_timestamp_is_of_an_entry: entry %s of the journal has another hash', NEW.seq);
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER a_timestamp_is_of_an_entry BEFORE INSERT ON timestamps
    FOR EACH ROW EXECUTE FUNCTION a_timestamp_is_of_an_entry();
CREATE TRIGGER timestamps_are_never_changed BEFORE UPDATE OR DELETE ON timestamps
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER timestamps_are_never_emptied BEFORE TRUNCATE ON timestamps
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER announce AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON timestamps
    FOR EACH STATEMENT EXECUTE FUNCTION announce();
