DROP VIEW profiles;
DROP FUNCTION json_object_or_null(text);
DROP FUNCTION date_or_null(text);

DROP TRIGGER a_pick_keeps_what_was_said ON picks;
CREATE TRIGGER a_pick_keeps_what_was_said BEFORE UPDATE ON picks
    FOR EACH ROW EXECUTE FUNCTION these_never_change('id', 'batch_id', 'position', 'action', 'reasoning');
DROP TRIGGER an_answer_stays_as_it_was_given ON generations;
CREATE TRIGGER an_answer_stays_as_it_was_given BEFORE UPDATE ON generations
    FOR EACH ROW WHEN (OLD.accepted IS NOT NULL)
    EXECUTE FUNCTION these_never_change(
        'answered_at', 'answered_model', 'answer', 'request_id', 'prompt_tokens', 'completion_tokens');
DROP TRIGGER a_question_stays_as_it_was_asked ON generations;
CREATE TRIGGER a_question_stays_as_it_was_asked BEFORE UPDATE ON generations
    FOR EACH ROW EXECUTE FUNCTION these_never_change(
        'id', 'series', 'run_date', 'attempt', 'asked_at', 'requested_model', 'prompt_version', 'system_prompt',
        'user_prompt', 'profile_sha256');

ALTER TABLE picks DROP COLUMN probability;
ALTER TABLE generations
    DROP COLUMN reasoning_effort,
    DROP COLUMN finish_reason,
    DROP COLUMN system_fingerprint,
    DROP COLUMN reasoning_tokens;
