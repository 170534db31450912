-- The record: what was picked, what was read, and what was measured.

CREATE TABLE closes (
    id uuid PRIMARY KEY,
    ticker text NOT NULL,
    trading_day date NOT NULL,
    open numeric,
    close numeric NOT NULL,
    source text NOT NULL,
    read_at timestamptz NOT NULL,
    CONSTRAINT one_reading_at_a_time UNIQUE (ticker, trading_day, read_at),
    CONSTRAINT ticker_is_well_formed CHECK (ticker ~ '^[A-Z]{1,5}(\.[A-Z])?$'),
    CONSTRAINT close_is_a_price CHECK (close > 0 AND close < 'Infinity'),
    CONSTRAINT open_is_a_price CHECK (open > 0 AND open < 'Infinity'),
    CONSTRAINT source_is_named CHECK (source <> ''),
    CONSTRAINT session_has_ended CHECK (trading_day < (read_at AT TIME ZONE 'America/New_York')::date)
);
COMMENT ON TABLE closes IS 'Readings of raw, as-traded prices of one session. A second reading stands beside the first.';

CREATE TABLE splits (
    ticker text NOT NULL,
    effective_date date NOT NULL,
    factor numeric NOT NULL,
    source text NOT NULL,
    read_at timestamptz NOT NULL,
    CONSTRAINT one_split_reading_at_a_time PRIMARY KEY (ticker, effective_date, read_at),
    CONSTRAINT ticker_is_well_formed CHECK (ticker ~ '^[A-Z]{1,5}(\.[A-Z])?$'),
    CONSTRAINT factor_is_positive CHECK (factor > 0 AND factor < 'Infinity'),
    CONSTRAINT source_is_named CHECK (source <> '')
);

CREATE TABLE batches (
    id uuid PRIMARY KEY,
    series text NOT NULL,
    run_date date NOT NULL,
    created_at timestamptz NOT NULL,
    status text NOT NULL,
    late boolean NOT NULL,
    failure_reason text,
    failure text,
    benchmark_symbol text NOT NULL,
    benchmark_initial_price numeric,
    benchmark_initial_close_id uuid REFERENCES closes,
    trading_day date,
    CONSTRAINT one_batch_per_run_date UNIQUE (series, run_date),
    CONSTRAINT series_is_named CHECK (series <> ''),
    CONSTRAINT run_date_is_a_monday CHECK (extract(isodow FROM run_date) = 1),
    CONSTRAINT batch_status_is_known CHECK (status IN ('active', 'completed', 'failed')),
    CONSTRAINT failure_reason_is_known CHECK (
        failure_reason IN ('MISSED', 'NO_USABLE_ANSWER', 'MISSING_CLOSE', 'PROVIDER_ERROR', 'CONFIGURATION')),
    CONSTRAINT failed_has_a_reason CHECK (
        (status = 'failed') = (failure_reason IS NOT NULL) AND (status = 'failed') = (failure IS NOT NULL)),
    CONSTRAINT ticker_is_well_formed CHECK (benchmark_symbol ~ '^[A-Z]{1,5}(\.[A-Z])?$'),
    CONSTRAINT initial_price_is_a_price CHECK (benchmark_initial_price > 0 AND benchmark_initial_price < 'Infinity'),
    CONSTRAINT there_is_never_a_partial_baseline CHECK (
        num_nonnulls(benchmark_initial_price, benchmark_initial_close_id, trading_day)
            = CASE status WHEN 'failed' THEN 0 ELSE 3 END),
    CONSTRAINT baseline_session_is_before_the_run_date CHECK (trading_day < run_date)
);
CREATE INDEX batches_by_status ON batches (series, status, run_date);

CREATE TABLE picks (
    id uuid PRIMARY KEY,
    batch_id uuid NOT NULL REFERENCES batches,
    position integer NOT NULL,
    ticker text NOT NULL,
    action text NOT NULL,
    reasoning text NOT NULL,
    initial_price numeric NOT NULL,
    initial_close_id uuid NOT NULL REFERENCES closes,
    entry_open numeric,
    ended boolean NOT NULL,
    CONSTRAINT one_pick_per_position UNIQUE (batch_id, position),
    CONSTRAINT one_pick_per_ticker UNIQUE (batch_id, ticker),
    CONSTRAINT three_picks CHECK (position BETWEEN 1 AND 3),
    CONSTRAINT ticker_is_well_formed CHECK (ticker ~ '^[A-Z]{1,5}(\.[A-Z])?$'),
    CONSTRAINT action_is_known CHECK (action IN ('BUY', 'SELL')),
    CONSTRAINT reasoning_is_not_empty CHECK (btrim(reasoning, E' \t\r\n') <> ''),
    CONSTRAINT initial_price_is_a_price CHECK (initial_price > 0 AND initial_price < 'Infinity'),
    CONSTRAINT entry_open_is_a_price CHECK (entry_open > 0 AND entry_open < 'Infinity')
);
CREATE INDEX picks_by_ticker ON picks (ticker);

CREATE TABLE checkpoints (
    id uuid PRIMARY KEY,
    batch_id uuid NOT NULL REFERENCES batches,
    day integer NOT NULL,
    checkpoint_date date NOT NULL,
    trading_day date,
    status text NOT NULL,
    skip_reason text,
    note text,
    taken_at timestamptz NOT NULL,
    skipped_at timestamptz,
    benchmark_price numeric,
    benchmark_close_id uuid REFERENCES closes,
    benchmark_split_factor numeric,
    benchmark_return_pct numeric,
    CONSTRAINT one_checkpoint_per_day UNIQUE (batch_id, day),
    CONSTRAINT one_checkpoint_per_date UNIQUE (batch_id, checkpoint_date),
    CONSTRAINT day_is_within_the_fortnight CHECK (day BETWEEN 0 AND 14),
    CONSTRAINT checkpoint_status_is_known CHECK (status IN ('computed', 'skipped')),
    CONSTRAINT skip_reason_is_known CHECK (skip_reason IN ('MARKET_CLOSED', 'MISSING_CLOSE', 'PROVIDER_ERROR')),
    CONSTRAINT skipped_has_a_reason CHECK (
        (skip_reason IS NULL) = (skipped_at IS NULL) AND (status <> 'skipped' OR skip_reason IS NOT NULL)),
    CONSTRAINT a_closed_market_stays_closed CHECK (skip_reason <> 'MARKET_CLOSED' OR status = 'skipped'),
    CONSTRAINT skipped_has_no_prices CHECK (
        status <> 'skipped' OR num_nonnulls(
            trading_day, benchmark_price, benchmark_close_id, benchmark_split_factor, benchmark_return_pct) = 0),
    CONSTRAINT computed_has_prices CHECK (
        status <> 'computed' OR num_nonnulls(
            trading_day, benchmark_price, benchmark_close_id, benchmark_split_factor) = 4),
    CONSTRAINT day_zero_is_the_baseline CHECK (
        status <> 'computed' OR (day = 0) = (benchmark_return_pct IS NULL)),
    CONSTRAINT the_baseline_is_never_skipped CHECK (day > 0 OR status = 'computed'),
    CONSTRAINT trading_day_is_before_the_checkpoint_date CHECK (trading_day < checkpoint_date),
    CONSTRAINT benchmark_price_is_a_price CHECK (benchmark_price > 0 AND benchmark_price < 'Infinity'),
    CONSTRAINT split_factor_is_positive CHECK (benchmark_split_factor > 0 AND benchmark_split_factor < 'Infinity'),
    CONSTRAINT return_is_a_number CHECK (benchmark_return_pct > '-Infinity' AND benchmark_return_pct < 'Infinity')
);

CREATE TABLE pick_checkpoint_metrics (
    id uuid PRIMARY KEY,
    checkpoint_id uuid NOT NULL REFERENCES checkpoints,
    pick_id uuid NOT NULL REFERENCES picks,
    current_price numeric NOT NULL,
    close_id uuid REFERENCES closes,
    split_factor numeric NOT NULL,
    absolute_return_pct numeric NOT NULL,
    vs_benchmark_pct numeric NOT NULL,
    return_from_open_pct numeric,
    unusual_move boolean NOT NULL,
    ended boolean NOT NULL,
    CONSTRAINT one_metric_per_pick_and_checkpoint UNIQUE (checkpoint_id, pick_id),
    CONSTRAINT current_price_is_a_price CHECK (current_price > 0 AND current_price < 'Infinity'),
    CONSTRAINT only_an_ended_pick_has_no_reading CHECK (ended OR close_id IS NOT NULL),
    CONSTRAINT split_factor_is_positive CHECK (split_factor > 0 AND split_factor < 'Infinity'),
    CONSTRAINT returns_are_numbers CHECK (
        absolute_return_pct > '-Infinity' AND absolute_return_pct < 'Infinity'
        AND vs_benchmark_pct > '-Infinity' AND vs_benchmark_pct < 'Infinity'
        AND return_from_open_pct > '-Infinity' AND return_from_open_pct < 'Infinity')
);
CREATE INDEX metrics_by_pick ON pick_checkpoint_metrics (pick_id);

CREATE TABLE generations (
    id uuid PRIMARY KEY,
    series text NOT NULL,
    run_date date NOT NULL,
    attempt integer NOT NULL,
    asked_at timestamptz NOT NULL,
    answered_at timestamptz,
    requested_model text NOT NULL,
    answered_model text,
    prompt_version text NOT NULL,
    system_prompt text NOT NULL,
    user_prompt text NOT NULL,
    answer text,
    request_id text,
    prompt_tokens integer,
    completion_tokens integer,
    accepted boolean,
    refusal text,
    CONSTRAINT one_generation_per_attempt UNIQUE (series, run_date, attempt),
    CONSTRAINT attempts_count_from_one CHECK (attempt >= 1),
    CONSTRAINT run_date_is_a_monday CHECK (extract(isodow FROM run_date) = 1),
    CONSTRAINT accepted_has_an_answer CHECK (accepted IS NOT TRUE OR (answer IS NOT NULL AND answered_at IS NOT NULL)),
    CONSTRAINT refused_has_a_refusal CHECK ((accepted IS FALSE) = (refusal IS NOT NULL)),
    CONSTRAINT open_has_no_answer CHECK (
        accepted IS NOT NULL OR num_nonnulls(answered_at, answered_model, answer, request_id) = 0)
);

CREATE TABLE corrections (
    id uuid PRIMARY KEY,
    checkpoint_id uuid NOT NULL REFERENCES checkpoints,
    field text NOT NULL,
    ticker text,
    before text,
    after text,
    reason text NOT NULL,
    made_at timestamptz NOT NULL,
    CONSTRAINT field_is_named CHECK (field <> ''),
    CONSTRAINT reason_is_given CHECK (reason <> '')
);
CREATE INDEX corrections_by_checkpoint ON corrections (checkpoint_id, made_at);

-- What one row cannot say of itself, a trigger keeps, under a constraint's name.

CREATE FUNCTION checkpoint_belongs_to_its_batch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.checkpoint_date IS DISTINCT FROM (SELECT run_date + NEW.day FROM batches WHERE id = NEW.batch_id) THEN
        RAISE check_violation USING
            CONSTRAINT = 'checkpoint_date_is_run_date_plus_day',
            MESSAGE = format('checkpoint_date_is_run_date_plus_day: day %s is not %s', NEW.day, NEW.checkpoint_date);
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER checkpoint_belongs_to_its_batch BEFORE INSERT OR UPDATE OF batch_id, day, checkpoint_date ON checkpoints
    FOR EACH ROW EXECUTE FUNCTION checkpoint_belongs_to_its_batch();

CREATE FUNCTION metric_belongs_to_its_checkpoint() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM checkpoints JOIN picks USING (batch_id)
        WHERE checkpoints.id = NEW.checkpoint_id AND picks.id = NEW.pick_id
            AND checkpoints.status = 'computed' AND checkpoints.day > 0
    ) THEN
        RAISE check_violation USING
            CONSTRAINT = 'metrics_are_of_a_computed_checkpoint_of_the_same_batch',
            MESSAGE = 'metrics_are_of_a_computed_checkpoint_of_the_same_batch';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER metric_belongs_to_its_checkpoint BEFORE INSERT OR UPDATE OF checkpoint_id, pick_id ON pick_checkpoint_metrics
    FOR EACH ROW EXECUTE FUNCTION metric_belongs_to_its_checkpoint();

CREATE FUNCTION a_computed_checkpoint_never_goes_back() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.status = 'computed' AND NEW.status <> 'computed' THEN
        RAISE check_violation USING
            CONSTRAINT = 'a_computed_checkpoint_never_goes_back',
            MESSAGE = 'a_computed_checkpoint_never_goes_back';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER a_computed_checkpoint_never_goes_back BEFORE UPDATE OF status ON checkpoints
    FOR EACH ROW EXECUTE FUNCTION a_computed_checkpoint_never_goes_back();

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE restrict_violation USING
        CONSTRAINT = TG_NAME,
        MESSAGE = format('%s: %s on %s is refused', TG_NAME, TG_OP, TG_TABLE_NAME);
END $$;
CREATE TRIGGER readings_are_never_changed BEFORE UPDATE OR DELETE ON closes
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER readings_are_never_changed BEFORE UPDATE OR DELETE ON splits
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER corrections_are_never_changed BEFORE UPDATE OR DELETE ON corrections
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
