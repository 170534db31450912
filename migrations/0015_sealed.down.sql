-- Refused for a sealed record: without this column, its questions would contradict the journal.
DO $$
BEGIN
    IF EXISTS (SELECT FROM journal WHERE kind = 'GENESIS') THEN
        RAISE check_violation USING
            MESSAGE = 'This record is sealed: it cannot go back to a version before 0.3.0.';
    END IF;
END $$;
DROP TRIGGER a_question_stays_as_it_was_asked ON generations;
CREATE TRIGGER a_question_stays_as_it_was_asked BEFORE UPDATE ON generations
    FOR EACH ROW EXECUTE FUNCTION these_never_change(
        'id', 'series', 'run_date', 'attempt', 'asked_at', 'requested_model', 'prompt_version', 'system_prompt',
        'user_prompt');
DROP TRIGGER this_record_is_sealed ON closes;
DROP TRIGGER this_record_is_sealed ON splits;
DROP TRIGGER this_record_is_sealed ON generations;
DROP TRIGGER this_question_is_sealed ON generations;
DROP FUNCTION refuse_older_version();
ALTER TABLE generations DROP COLUMN profile_sha256;
