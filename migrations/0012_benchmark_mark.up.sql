-- The benchmark's moves that no split explains are marked, as a pick's are. Null where it was not examined: without
-- figures, and on the checkpoints that were computed before this column was there.
ALTER TABLE checkpoints
    ADD COLUMN benchmark_unusual_move boolean,
    ADD CONSTRAINT only_figures_have_a_mark CHECK (
        benchmark_unusual_move IS NULL OR (status = 'computed' AND day > 0));

-- A database that was taken back over this migration has lost what its journal says: it comes back from there. Only a
-- checkpoint's last mention counts: an earlier version that corrected it meanwhile mentioned it without a mark.
UPDATE checkpoints
SET benchmark_unusual_move = mentioned.mark
FROM (
    SELECT DISTINCT ON (id) content::json #>> '{checkpoint,id}' AS id,
        (content::json #>> '{checkpoint,benchmark_unusual_move}')::boolean AS mark
    FROM journal
    WHERE content LIKE '%"checkpoint":{%'
    ORDER BY id, seq DESC
) AS mentioned
WHERE checkpoints.id = mentioned.id::uuid AND mentioned.mark IS NOT NULL;

DROP TRIGGER a_figure_is_only_corrected ON checkpoints;
CREATE TRIGGER a_figure_is_only_corrected BEFORE UPDATE ON checkpoints
    FOR EACH ROW WHEN (OLD.status = 'computed')
    EXECUTE FUNCTION only_with_a_correction(
        'benchmark_price', 'benchmark_close_id', 'benchmark_split_factor', 'benchmark_return_pct',
        'benchmark_unusual_move');
