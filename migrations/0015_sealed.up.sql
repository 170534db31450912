-- Sealed records: a question names the profile with which it is asked, and a version that does not know sealed records cannot
-- add a question or a reading to one. (It would add them without the journal entry that such a record demands.) Such a version
-- cannot complete a question that has a profile either: its journal entry would lack the profile. It can complete a question of
-- its own, from before the seal.
ALTER TABLE generations
    ADD COLUMN profile_sha256 text,
    ADD CONSTRAINT profile_is_a_hash CHECK (profile_sha256 ~ '^[0-9a-f]{64}$');

CREATE FUNCTION refuse_older_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('alpha_monday.knows_sealed_records', true) IS DISTINCT FROM 'yes'
        AND EXISTS (SELECT FROM public.journal WHERE kind = 'GENESIS')
    THEN
        RAISE check_violation USING
            CONSTRAINT = 'this_record_is_sealed',
            MESSAGE = 'This record is sealed: use version 0.3.0 or newer of alpha-monday to record in it. This program is older.';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER this_record_is_sealed BEFORE INSERT ON closes
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_older_version();
CREATE TRIGGER this_record_is_sealed BEFORE INSERT ON splits
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_older_version();
CREATE TRIGGER this_record_is_sealed BEFORE INSERT ON generations
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_older_version();
CREATE TRIGGER this_question_is_sealed BEFORE UPDATE ON generations
    FOR EACH ROW WHEN (OLD.profile_sha256 IS NOT NULL) EXECUTE FUNCTION refuse_older_version();

DROP TRIGGER a_question_stays_as_it_was_asked ON generations;
CREATE TRIGGER a_question_stays_as_it_was_asked BEFORE UPDATE ON generations
    FOR EACH ROW EXECUTE FUNCTION these_never_change(
        'id', 'series', 'run_date', 'attempt', 'asked_at', 'requested_model', 'prompt_version', 'system_prompt',
        'user_prompt', 'profile_sha256');
