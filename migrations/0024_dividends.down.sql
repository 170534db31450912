-- Versions before this migration cannot read an entry of a newer kind, so it is refused if the journal has one.
DO $$
DECLARE
    first record;
BEGIN
    SELECT seq, kind INTO first FROM journal
    WHERE kind NOT IN (
        'GENERATION', 'BATCH', 'CHECKPOINT', 'CORRECTION', 'FAILURE', 'PICK_ENDED', 'PICK_RENAMED',
        'GENESIS', 'SETTINGS', 'SERIES', 'READINGS', 'CHECK', 'RULES', 'NOTE', 'EXTENSION')
    ORDER BY seq LIMIT 1;
    IF FOUND THEN
        RAISE check_violation USING
            CONSTRAINT = 'journal_kind_is_known',
            MESSAGE = format(
                'Migration 0024 (dividends) cannot be taken back: entry %s of the journal has the kind %s, '
                'which the versions before this migration cannot read', first.seq, first.kind);
    END IF;
END $$;
ALTER TABLE journal DROP CONSTRAINT journal_kind_is_known;
ALTER TABLE journal ADD CONSTRAINT journal_kind_is_known CHECK (
    kind IN ('GENERATION', 'BATCH', 'CHECKPOINT', 'CORRECTION', 'FAILURE', 'PICK_ENDED', 'PICK_RENAMED',
        'GENESIS', 'SETTINGS', 'SERIES', 'READINGS', 'CHECK', 'RULES', 'NOTE', 'EXTENSION'));
DROP TRIGGER a_total_is_only_corrected ON pick_checkpoint_metrics;
DROP TRIGGER a_total_is_only_corrected ON checkpoints;
ALTER TABLE pick_checkpoint_metrics
    DROP COLUMN dividends,
    DROP COLUMN total_return_pct,
    DROP COLUMN vs_benchmark_total_pct,
    DROP COLUMN spin_off_counted_once;
ALTER TABLE checkpoints
    DROP COLUMN benchmark_dividends,
    DROP COLUMN benchmark_total_return_pct,
    DROP COLUMN benchmark_spin_off_counted_once;
DROP TABLE dividends;
