-- What a question was asked with, beside its model, and what the server said of its answer. Null where it was not asked
-- or not said, and for the questions of earlier versions.
ALTER TABLE generations
    ADD COLUMN reasoning_effort text,
    ADD COLUMN finish_reason text,
    ADD COLUMN system_fingerprint text,
    ADD COLUMN reasoning_tokens integer,
    ADD CONSTRAINT open_has_no_outcome CHECK (
        accepted IS NOT NULL OR num_nonnulls(finish_reason, system_fingerprint, reasoning_tokens) = 0);

-- The model's own probability that a pick turns out right, in percent. Null under version 1 of the prompt, and for the picks
-- of a control.
ALTER TABLE picks
    ADD COLUMN probability smallint,
    ADD CONSTRAINT probability_is_a_percentage CHECK (probability BETWEEN 50 AND 99);

-- Returns a text as a JSON object, or null if it is none: the content of an entry may be damaged.
CREATE FUNCTION json_object_or_null(content text) RETURNS json
    LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN CASE WHEN json_typeof(content::json) = 'object' THEN content::json END;
EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
    RETURN NULL;
END
$$;

-- Returns a text as a date, or null if it is none.
CREATE FUNCTION date_or_null(value text) RETURNS date
    LANGUAGE plpgsql IMMUTABLE SET datestyle = 'ISO, YMD' AS $$
BEGIN
    RETURN value::date;
EXCEPTION WHEN data_exception THEN
    RETURN NULL;
END
$$;

-- A database that was taken back over this migration has lost what its journal says: it comes back from there. These
-- values never change, but an older version leaves them out of its mentions of a row. A content that is damaged is left out:
-- `alpha-monday verify` names it.
SELECT set_config('alpha_monday.knows_sealed_records', 'yes', true);

UPDATE generations
SET reasoning_effort = mentioned.reasoning_effort,
    finish_reason = mentioned.finish_reason,
    system_fingerprint = mentioned.system_fingerprint,
    reasoning_tokens = mentioned.reasoning_tokens::integer
FROM (
    SELECT
        question ->> 'id' AS id,
        max(question ->> 'reasoning_effort') AS reasoning_effort,
        max(question ->> 'finish_reason') AS finish_reason,
        max(question ->> 'system_fingerprint') AS system_fingerprint,
        max(question ->> 'reasoning_tokens') AS reasoning_tokens
    FROM (
        SELECT json_object_or_null(content) -> 'generation' AS question
        FROM journal
        WHERE kind = 'GENERATION'
    ) AS entries
    WHERE json_typeof(question) = 'object'
    GROUP BY question ->> 'id'
) AS mentioned
WHERE generations.id::text = mentioned.id
    AND num_nonnulls(
        mentioned.reasoning_effort, mentioned.finish_reason, mentioned.system_fingerprint, mentioned.reasoning_tokens) > 0;

UPDATE picks
SET probability = (mentioned.pick ->> 'probability')::smallint
FROM (
    SELECT json_array_elements(picks) AS pick
    FROM (
        SELECT json_object_or_null(content) -> 'picks' AS picks
        FROM journal
        WHERE kind = 'BATCH' AND content LIKE '%"probability":%'
    ) AS entries
    WHERE json_typeof(picks) = 'array'
) AS mentioned
WHERE picks.id::text = mentioned.pick ->> 'id';

DROP TRIGGER a_question_stays_as_it_was_asked ON generations;
CREATE TRIGGER a_question_stays_as_it_was_asked BEFORE UPDATE ON generations
    FOR EACH ROW EXECUTE FUNCTION these_never_change(
        'id', 'series', 'run_date', 'attempt', 'asked_at', 'requested_model', 'prompt_version', 'system_prompt',
        'user_prompt', 'profile_sha256', 'reasoning_effort');
DROP TRIGGER an_answer_stays_as_it_was_given ON generations;
CREATE TRIGGER an_answer_stays_as_it_was_given BEFORE UPDATE ON generations
    FOR EACH ROW WHEN (OLD.accepted IS NOT NULL)
    EXECUTE FUNCTION these_never_change(
        'answered_at', 'answered_model', 'answer', 'request_id', 'prompt_tokens', 'completion_tokens', 'finish_reason',
        'system_fingerprint', 'reasoning_tokens');
DROP TRIGGER a_pick_keeps_what_was_said ON picks;
CREATE TRIGGER a_pick_keeps_what_was_said BEFORE UPDATE ON picks
    FOR EACH ROW EXECUTE FUNCTION these_never_change(
        'id', 'batch_id', 'position', 'action', 'reasoning', 'probability');

-- The declared profiles of each series, one row for each SERIES entry. It is a view, so it cannot differ from the journal. An
-- entry whose content is damaged has no row: `alpha-monday verify` names it.
CREATE VIEW profiles AS
SELECT
    seq,
    at AS declared_at,
    series ->> 'name' AS series,
    series ->> 'label' AS label,
    series ->> 'kind' AS kind,
    date_or_null(series ->> 'holds_from') AS holds_from,
    coalesce(series ->> 'retired', 'false') = 'true' AS retired,
    series -> 'profile' AS profile,
    series ->> 'profile_sha256' AS profile_sha256
FROM journal
-- Each entry is parsed once, because of OFFSET 0, and only after a condition on `seq` was tested.
CROSS JOIN LATERAL (SELECT json_object_or_null(content) -> 'series' AS series OFFSET 0) AS declared
WHERE journal.kind = 'SERIES' AND json_typeof(declared.series) = 'object';
