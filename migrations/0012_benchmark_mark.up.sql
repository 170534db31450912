-- The benchmark's moves that no split explains are marked, as a pick's are. Null where it was not examined: without
-- figures, and on the checkpoints that were computed before this column was there.
ALTER TABLE checkpoints
    ADD COLUMN benchmark_unusual_move boolean,
    ADD CONSTRAINT only_figures_have_a_mark CHECK (
        benchmark_unusual_move IS NULL OR (status = 'computed' AND day > 0));

DROP TRIGGER a_figure_is_only_corrected ON checkpoints;
CREATE TRIGGER a_figure_is_only_corrected BEFORE UPDATE ON checkpoints
    FOR EACH ROW WHEN (OLD.status = 'computed')
    EXECUTE FUNCTION only_with_a_correction(
        'benchmark_price', 'benchmark_close_id', 'benchmark_split_factor', 'benchmark_return_pct',
        'benchmark_unusual_move');
