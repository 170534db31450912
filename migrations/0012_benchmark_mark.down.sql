DROP TRIGGER a_figure_is_only_corrected ON checkpoints;
CREATE TRIGGER a_figure_is_only_corrected BEFORE UPDATE ON checkpoints
    FOR EACH ROW WHEN (OLD.status = 'computed')
    EXECUTE FUNCTION only_with_a_correction(
        'benchmark_price', 'benchmark_close_id', 'benchmark_split_factor', 'benchmark_return_pct');
ALTER TABLE checkpoints DROP COLUMN benchmark_unusual_move;
