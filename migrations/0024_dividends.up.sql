-- Readings of dividends: the amount in cash for each share, as declared, by its ex-date. Like readings of prices and splits, a
-- reading is never changed; a second reading stands beside the first. The amount 0 takes back an earlier reading: the
-- provider no longer lists the dividend.
CREATE TABLE dividends (
    ticker text NOT NULL,
    ex_date date NOT NULL,
    amount numeric NOT NULL,
    source text NOT NULL,
    read_at timestamptz NOT NULL,
    CONSTRAINT one_dividend_reading_at_a_time PRIMARY KEY (ticker, ex_date, read_at),
    CONSTRAINT ticker_is_well_formed CHECK (ticker ~ '^[A-Z]{1,5}(\.[A-Z])?$'),
    CONSTRAINT amount_is_not_negative CHECK (amount >= 0 AND amount < 'Infinity'),
    CONSTRAINT source_is_named CHECK (source <> ''),
    CONSTRAINT ex_date_is_not_after_the_reading CHECK (ex_date <= (read_at AT TIME ZONE 'America/New_York')::date)
);
CREATE TRIGGER readings_are_never_changed BEFORE UPDATE OR DELETE ON dividends
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER readings_are_never_emptied BEFORE TRUNCATE ON dividends
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER announce AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON dividends
    FOR EACH STATEMENT EXECUTE FUNCTION announce();

-- The total returns of a result: what a holder received in dividends, per share of the baseline, and the return with them. Null
-- until the dividends are known, and on every other checkpoint.
ALTER TABLE checkpoints
    ADD COLUMN benchmark_dividends numeric,
    ADD COLUMN benchmark_total_return_pct numeric,
    ADD COLUMN benchmark_spin_off_counted_once boolean,
    ADD CONSTRAINT only_figures_have_totals CHECK (
        benchmark_total_return_pct IS NULL OR (status = 'computed' AND day > 0)),
    ADD CONSTRAINT totals_are_complete CHECK (
        num_nonnulls(benchmark_dividends, benchmark_total_return_pct, benchmark_spin_off_counted_once) IN (0, 3)),
    ADD CONSTRAINT dividends_are_not_negative CHECK (benchmark_dividends >= 0 AND benchmark_dividends < 'Infinity'),
    ADD CONSTRAINT total_return_is_a_number CHECK (
        benchmark_total_return_pct > '-Infinity' AND benchmark_total_return_pct < 'Infinity');
ALTER TABLE pick_checkpoint_metrics
    ADD COLUMN dividends numeric,
    ADD COLUMN total_return_pct numeric,
    ADD COLUMN vs_benchmark_total_pct numeric,
    ADD COLUMN spin_off_counted_once boolean,
    ADD CONSTRAINT totals_are_complete CHECK (
        num_nonnulls(dividends, total_return_pct, vs_benchmark_total_pct, spin_off_counted_once) IN (0, 4)),
    ADD CONSTRAINT dividends_are_not_negative CHECK (dividends >= 0 AND dividends < 'Infinity'),
    ADD CONSTRAINT total_returns_are_numbers CHECK (
        total_return_pct > '-Infinity' AND total_return_pct < 'Infinity'
        AND vs_benchmark_total_pct > '-Infinity' AND vs_benchmark_total_pct < 'Infinity');

-- A database that was taken back over this migration has lost what its journal says: it comes back from there. An earlier version
-- mentions a row without these columns, and the row then keeps its values: so the newest mention that has them counts. An entry
-- that is damaged is left out: `alpha-monday verify` names it.
SELECT set_config('alpha_monday.knows_sealed_records', 'yes', true);
DO $$
DECLARE
    entry json;
    checkpoint json;
BEGIN
    FOR entry IN
        SELECT json_object_or_null(content)
        FROM journal
        WHERE (kind = 'READINGS' AND content LIKE '%"dividends":[{%')
            OR (kind IN ('EXTENSION', 'CORRECTION') AND content LIKE '%total_return_pct":%')
        ORDER BY seq
    LOOP
        BEGIN
            INSERT INTO dividends (ticker, ex_date, amount, source, read_at)
            SELECT
                dividend ->> 'ticker',
                (dividend ->> 'ex_date')::date,
                (dividend ->> 'amount')::numeric,
                dividend ->> 'source',
                (dividend ->> 'read_at')::timestamptz
            FROM json_array_elements(entry -> 'dividends') AS dividend
            ON CONFLICT DO NOTHING;

            checkpoint := entry -> 'checkpoint';
            UPDATE checkpoints
            SET benchmark_dividends = (checkpoint ->> 'benchmark_dividends')::numeric,
                benchmark_total_return_pct = (checkpoint ->> 'benchmark_total_return_pct')::numeric,
                benchmark_spin_off_counted_once = (checkpoint ->> 'benchmark_spin_off_counted_once')::boolean
            WHERE id = (checkpoint ->> 'id')::uuid AND checkpoint ->> 'benchmark_total_return_pct' IS NOT NULL;

            UPDATE pick_checkpoint_metrics
            SET dividends = (metric ->> 'dividends')::numeric,
                total_return_pct = (metric ->> 'total_return_pct')::numeric,
                vs_benchmark_total_pct = (metric ->> 'vs_benchmark_total_pct')::numeric,
                spin_off_counted_once = (metric ->> 'spin_off_counted_once')::boolean
            FROM json_array_elements(entry -> 'metrics') AS metric
            WHERE id = (metric ->> 'id')::uuid AND metric ->> 'total_return_pct' IS NOT NULL;
        EXCEPTION WHEN data_exception OR integrity_constraint_violation THEN
            NULL;
        END;
    END LOOP;
END
$$;

-- A total is filled in once. After that, it changes only with a correction.
CREATE TRIGGER a_total_is_only_corrected BEFORE UPDATE ON checkpoints
    FOR EACH ROW WHEN (OLD.benchmark_total_return_pct IS NOT NULL)
    EXECUTE FUNCTION only_with_a_correction(
        'benchmark_dividends', 'benchmark_total_return_pct', 'benchmark_spin_off_counted_once');
CREATE TRIGGER a_total_is_only_corrected BEFORE UPDATE ON pick_checkpoint_metrics
    FOR EACH ROW WHEN (OLD.total_return_pct IS NOT NULL)
    EXECUTE FUNCTION only_with_a_correction(
        'dividends', 'total_return_pct', 'vs_benchmark_total_pct', 'spin_off_counted_once');

-- The kinds of entries that later versions write, as in migration 0021: EXTENSION is not among them any more.
ALTER TABLE journal DROP CONSTRAINT journal_kind_is_known;
ALTER TABLE journal ADD CONSTRAINT journal_kind_is_known CHECK (
    kind IN ('GENERATION', 'BATCH', 'CHECKPOINT', 'CORRECTION', 'FAILURE', 'PICK_ENDED', 'PICK_RENAMED',
        'GENESIS', 'SETTINGS', 'SERIES', 'READINGS', 'CHECK', 'RULES', 'EXTENSION', 'NOTE', 'SUPPLEMENT'));
