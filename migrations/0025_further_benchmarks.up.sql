-- The returns of further benchmarks over the fortnight of a batch. They are shown beside the benchmark's, and decide nothing. A row
-- is stored once per batch and symbol, after the batch is completed. It changes only with a correction, after a late split.
CREATE TABLE further_benchmarks (
    id uuid PRIMARY KEY,
    batch_id uuid NOT NULL REFERENCES batches,
    symbol text NOT NULL,
    position integer NOT NULL,
    trading_day date NOT NULL,
    further_initial_price numeric NOT NULL,
    further_initial_close_id uuid NOT NULL REFERENCES closes,
    further_price numeric NOT NULL,
    further_close_id uuid NOT NULL REFERENCES closes,
    further_split_factor numeric NOT NULL,
    further_return_pct numeric NOT NULL,
    measured_at timestamptz NOT NULL,
    CONSTRAINT one_row_per_further_benchmark UNIQUE (batch_id, symbol),
    CONSTRAINT one_place_per_further_benchmark UNIQUE (batch_id, position),
    CONSTRAINT ticker_is_well_formed CHECK (symbol ~ '^[A-Z]{1,5}(\.[A-Z])?$'),
    CONSTRAINT position_counts_from_one CHECK (position >= 1),
    CONSTRAINT prices_are_positive CHECK (
        further_initial_price > 0 AND further_price > 0 AND further_split_factor > 0),
    CONSTRAINT numbers_are_finite CHECK (
        further_initial_price < 'infinity' AND further_price < 'infinity' AND further_split_factor < 'infinity'
        AND further_return_pct > '-infinity' AND further_return_pct < 'infinity'),
    CONSTRAINT measured_after_the_session CHECK (
        trading_day < (measured_at AT TIME ZONE 'America/New_York')::date)
);

CREATE FUNCTION further_benchmark_belongs_to_its_batch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM checkpoints JOIN batches ON batches.id = checkpoints.batch_id
        WHERE batches.id = NEW.batch_id AND batches.benchmark_symbol <> NEW.symbol
            AND checkpoints.status = 'computed' AND checkpoints.day > 0 AND checkpoints.trading_day = NEW.trading_day
    ) THEN
        RAISE check_violation USING
            CONSTRAINT = 'further_benchmarks_are_of_a_computed_checkpoint',
            MESSAGE = 'further_benchmarks_are_of_a_computed_checkpoint';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER further_benchmark_belongs_to_its_batch BEFORE INSERT ON further_benchmarks
    FOR EACH ROW EXECUTE FUNCTION further_benchmark_belongs_to_its_batch();

-- A correction is of the checkpoint of the result, and names the symbol.
CREATE FUNCTION further_benchmark_only_with_a_correction() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY TG_ARGV LOOP
        IF to_jsonb(OLD) ->> name IS DISTINCT FROM to_jsonb(NEW) ->> name AND NOT EXISTS (
            SELECT FROM corrections JOIN checkpoints ON checkpoints.id = corrections.checkpoint_id
            WHERE checkpoints.batch_id = NEW.batch_id AND checkpoints.trading_day = NEW.trading_day AND checkpoints.day > 0
                AND corrections.field = name AND corrections.ticker = NEW.symbol
                AND corrections.before IS NOT DISTINCT FROM to_jsonb(OLD) ->> name
                AND corrections.after IS NOT DISTINCT FROM to_jsonb(NEW) ->> name
        ) THEN
            RAISE restrict_violation USING
                CONSTRAINT = TG_NAME,
                MESSAGE = format('%s: %s.%s changes only with a correction', TG_NAME, TG_TABLE_NAME, name);
        END IF;
    END LOOP;
    RETURN NEW;
END $$;
CREATE TRIGGER a_figure_is_only_corrected BEFORE UPDATE ON further_benchmarks
    FOR EACH ROW EXECUTE FUNCTION further_benchmark_only_with_a_correction('further_split_factor', 'further_return_pct');
CREATE TRIGGER a_further_benchmark_keeps_its_prices BEFORE UPDATE ON further_benchmarks
    FOR EACH ROW EXECUTE FUNCTION these_never_change(
        'id', 'batch_id', 'symbol', 'position', 'trading_day', 'further_initial_price', 'further_initial_close_id',
        'further_price', 'further_close_id', 'measured_at');
CREATE TRIGGER the_record_is_never_deleted BEFORE DELETE OR TRUNCATE ON further_benchmarks
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER announce AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON further_benchmarks
    FOR EACH STATEMENT EXECUTE FUNCTION announce();

-- A database that was taken back over this migration has lost the rows that its journal mentions: they come back from there, each
-- with the values of its last mention. An entry that is damaged is left out: `alpha-monday verify` names it.
DO $$
DECLARE
    entry json;
    further json;
BEGIN
    FOR entry IN
        SELECT json_object_or_null(content)
        FROM journal
        WHERE kind IN ('EXTENSION', 'CORRECTION') AND content LIKE '%"further_benchmark":{%'
        ORDER BY seq DESC
    LOOP
        BEGIN
            further := entry -> 'further_benchmark';
            INSERT INTO further_benchmarks
            SELECT
                (further ->> 'id')::uuid,
                (further ->> 'batch_id')::uuid,
                further ->> 'symbol',
                (further ->> 'position')::integer,
                (further ->> 'trading_day')::date,
                (further ->> 'further_initial_price')::numeric,
                (further ->> 'further_initial_close_id')::uuid,
                (further ->> 'further_price')::numeric,
                (further ->> 'further_close_id')::uuid,
                (further ->> 'further_split_factor')::numeric,
                (further ->> 'further_return_pct')::numeric,
                (further ->> 'measured_at')::timestamptz
            WHERE further ->> 'id' IS NOT NULL
            ON CONFLICT (id) DO NOTHING;
        EXCEPTION WHEN data_exception OR integrity_constraint_violation THEN
            NULL;
        END;
    END LOOP;
END
$$;
