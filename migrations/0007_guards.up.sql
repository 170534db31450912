-- What may never change in the record, and what may only with a correction that says what stood there before.

CREATE FUNCTION these_never_change() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY TG_ARGV LOOP
        IF to_jsonb(OLD) ->> name IS DISTINCT FROM to_jsonb(NEW) ->> name THEN
            RAISE restrict_violation USING
                CONSTRAINT = TG_NAME,
                MESSAGE = format('%s: %s.%s never changes', TG_NAME, TG_TABLE_NAME, name);
        END IF;
    END LOOP;
    RETURN NEW;
END $$;

-- A correction stands at the figure's checkpoint, a baseline's at day 0, and names the ticker of a pick's figure.
CREATE FUNCTION only_with_a_correction() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    name text;
    checkpoint uuid;
    whose text;
BEGIN
    CASE TG_TABLE_NAME
        WHEN 'checkpoints' THEN
            checkpoint := NEW.id;
        WHEN 'pick_checkpoint_metrics' THEN
            checkpoint := NEW.checkpoint_id;
            SELECT ticker INTO whose FROM picks WHERE id = NEW.pick_id;
        WHEN 'picks' THEN
            SELECT id INTO checkpoint FROM checkpoints WHERE batch_id = NEW.batch_id AND day = 0;
            whose := NEW.ticker;
        WHEN 'batches' THEN
            SELECT id INTO checkpoint FROM checkpoints WHERE batch_id = NEW.id AND day = 0;
    END CASE;
    FOREACH name IN ARRAY TG_ARGV LOOP
        IF to_jsonb(OLD) ->> name IS DISTINCT FROM to_jsonb(NEW) ->> name AND NOT EXISTS (
            SELECT FROM corrections
            WHERE checkpoint_id = checkpoint AND field = name AND ticker IS NOT DISTINCT FROM whose
                AND before IS NOT DISTINCT FROM to_jsonb(OLD) ->> name
                AND after IS NOT DISTINCT FROM to_jsonb(NEW) ->> name
        ) THEN
            RAISE restrict_violation USING
                CONSTRAINT = TG_NAME,
                MESSAGE = format('%s: %s.%s changes only with a correction', TG_NAME, TG_TABLE_NAME, name);
        END IF;
    END LOOP;
    RETURN NEW;
END $$;

CREATE TRIGGER a_batch_keeps_its_name BEFORE UPDATE ON batches
    FOR EACH ROW EXECUTE FUNCTION these_never_change('id', 'series', 'run_date');
-- A failed Monday that is run again by hand keeps its row.
CREATE TRIGGER a_batch_with_picks_keeps_what_it_says BEFORE UPDATE ON batches
    FOR EACH ROW WHEN (OLD.status <> 'failed')
    EXECUTE FUNCTION these_never_change(
        'created_at', 'late', 'failure_reason', 'failure', 'benchmark_symbol', 'trading_day');
CREATE TRIGGER a_completed_batch_stays_completed BEFORE UPDATE ON batches
    FOR EACH ROW WHEN (OLD.status = 'completed') EXECUTE FUNCTION these_never_change('status');
CREATE TRIGGER a_baseline_is_only_corrected BEFORE UPDATE ON batches
    FOR EACH ROW WHEN (OLD.status <> 'failed')
    EXECUTE FUNCTION only_with_a_correction('benchmark_initial_price', 'benchmark_initial_close_id');

CREATE TRIGGER a_pick_keeps_what_was_said BEFORE UPDATE ON picks
    FOR EACH ROW EXECUTE FUNCTION these_never_change('id', 'batch_id', 'position', 'action', 'reasoning');
CREATE TRIGGER an_ended_pick_stays_ended BEFORE UPDATE ON picks
    FOR EACH ROW WHEN (OLD.ended) EXECUTE FUNCTION these_never_change('ended');
CREATE TRIGGER an_open_is_filled_once BEFORE UPDATE ON picks
    FOR EACH ROW WHEN (OLD.entry_open IS NOT NULL) EXECUTE FUNCTION these_never_change('entry_open', 'entry_close_id');
CREATE TRIGGER a_baseline_is_only_corrected BEFORE UPDATE ON picks
    FOR EACH ROW EXECUTE FUNCTION only_with_a_correction('initial_price', 'initial_close_id');

CREATE TRIGGER the_day_of_a_checkpoint_is_kept BEFORE UPDATE ON checkpoints
    FOR EACH ROW EXECUTE FUNCTION these_never_change(
        'id', 'batch_id', 'day', 'checkpoint_date', 'skip_reason', 'note', 'skipped_at');
CREATE TRIGGER a_computed_checkpoint_stays_at_its_session BEFORE UPDATE ON checkpoints
    FOR EACH ROW WHEN (OLD.status = 'computed') EXECUTE FUNCTION these_never_change('trading_day', 'taken_at');
CREATE TRIGGER a_figure_is_only_corrected BEFORE UPDATE ON checkpoints
    FOR EACH ROW WHEN (OLD.status = 'computed')
    EXECUTE FUNCTION only_with_a_correction(
        'benchmark_price', 'benchmark_close_id', 'benchmark_split_factor', 'benchmark_return_pct');

CREATE TRIGGER the_place_of_a_metric_is_kept BEFORE UPDATE ON pick_checkpoint_metrics
    FOR EACH ROW EXECUTE FUNCTION these_never_change('id', 'checkpoint_id', 'pick_id', 'ended');
CREATE TRIGGER a_figure_is_only_corrected BEFORE UPDATE ON pick_checkpoint_metrics
    FOR EACH ROW EXECUTE FUNCTION only_with_a_correction(
        'current_price', 'close_id', 'split_factor', 'absolute_return_pct', 'vs_benchmark_pct', 'unusual_move');
-- The open may become known later than the figure.
CREATE TRIGGER a_return_from_the_open_is_only_corrected BEFORE UPDATE ON pick_checkpoint_metrics
    FOR EACH ROW WHEN (OLD.return_from_open_pct IS NOT NULL)
    EXECUTE FUNCTION only_with_a_correction('return_from_open_pct');

CREATE TRIGGER a_question_stays_as_it_was_asked BEFORE UPDATE ON generations
    FOR EACH ROW EXECUTE FUNCTION these_never_change(
        'id', 'series', 'run_date', 'attempt', 'asked_at', 'requested_model', 'prompt_version', 'system_prompt',
        'user_prompt');
CREATE TRIGGER an_answer_stays_as_it_was_given BEFORE UPDATE ON generations
    FOR EACH ROW WHEN (OLD.accepted IS NOT NULL)
    EXECUTE FUNCTION these_never_change(
        'answered_at', 'answered_model', 'answer', 'request_id', 'prompt_tokens', 'completion_tokens');
CREATE TRIGGER a_refusal_stays_a_refusal BEFORE UPDATE ON generations
    FOR EACH ROW WHEN (NOT OLD.accepted) EXECUTE FUNCTION these_never_change('accepted', 'refusal');

CREATE TRIGGER the_record_is_never_deleted BEFORE DELETE OR TRUNCATE ON batches
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER the_record_is_never_deleted BEFORE DELETE OR TRUNCATE ON picks
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER the_record_is_never_deleted BEFORE DELETE OR TRUNCATE ON checkpoints
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER the_record_is_never_deleted BEFORE DELETE OR TRUNCATE ON pick_checkpoint_metrics
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER the_record_is_never_deleted BEFORE DELETE OR TRUNCATE ON generations
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER readings_are_never_emptied BEFORE TRUNCATE ON closes
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER readings_are_never_emptied BEFORE TRUNCATE ON splits
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER corrections_are_never_emptied BEFORE TRUNCATE ON corrections
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
