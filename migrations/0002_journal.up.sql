-- The journal: append-only and hash-chained. Postgres itself refuses an entry that does not fit.

CREATE TABLE journal (
    seq bigint PRIMARY KEY,
    kind text NOT NULL,
    at timestamptz NOT NULL,
    content text NOT NULL,
    previous text NOT NULL,
    hash text NOT NULL,
    -- No foreign key: a batch's id is known before its row is there, and its questions come first.
    batch_id uuid,
    CONSTRAINT journal_kind_is_known CHECK (
        kind IN ('GENERATION', 'BATCH', 'CHECKPOINT', 'CORRECTION', 'FAILURE', 'PICK_ENDED', 'PICK_RENAMED')),
    CONSTRAINT the_chain_never_forks UNIQUE (previous),
    CONSTRAINT hash_is_of_previous_and_content CHECK (
        hash = encode(sha256(convert_to(previous || chr(10) || content, 'UTF8')), 'hex'))
);
CREATE INDEX journal_by_batch ON journal (batch_id, seq);
CREATE INDEX journal_by_kind ON journal (kind, seq);

CREATE FUNCTION an_entry_follows_the_head() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    head record;
BEGIN
    SELECT seq, hash INTO head FROM journal ORDER BY seq DESC LIMIT 1;
    IF NEW.seq <> coalesce(head.seq, 0) + 1 OR NEW.previous <> coalesce(head.hash, repeat('0', 64)) THEN
        RAISE check_violation USING
            CONSTRAINT = 'an_entry_follows_the_head',
            MESSAGE = format('an_entry_follows_the_head: entry %s does not follow entry %s', NEW.seq, coalesce(head.seq, 0));
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER an_entry_follows_the_head BEFORE INSERT ON journal
    FOR EACH ROW EXECUTE FUNCTION an_entry_follows_the_head();
CREATE TRIGGER the_journal_is_append_only BEFORE UPDATE OR DELETE ON journal
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER the_journal_is_never_emptied BEFORE TRUNCATE ON journal
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
