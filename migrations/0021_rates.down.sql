-- Versions before this migration cannot read an entry of a newer kind, so it is refused if the journal has one.
DO $$
DECLARE
    first record;
BEGIN
    SELECT seq, kind INTO first FROM journal
    WHERE kind NOT IN (
        'GENERATION', 'BATCH', 'CHECKPOINT', 'CORRECTION', 'FAILURE', 'PICK_ENDED', 'PICK_RENAMED',
        'GENESIS', 'SETTINGS', 'SERIES', 'READINGS', 'CHECK', 'RULES')
    ORDER BY seq LIMIT 1;
    IF FOUND THEN
        RAISE check_violation USING
            CONSTRAINT = 'journal_kind_is_known',
            MESSAGE = format(
                'Migration 0021 (rates) cannot be taken back: entry %s of the journal has the kind %s, '
                'which the versions before this migration cannot read', first.seq, first.kind);
    END IF;
END $$;
ALTER TABLE journal DROP CONSTRAINT journal_kind_is_known;
ALTER TABLE journal ADD CONSTRAINT journal_kind_is_known CHECK (
    kind IN ('GENERATION', 'BATCH', 'CHECKPOINT', 'CORRECTION', 'FAILURE', 'PICK_ENDED', 'PICK_RENAMED',
        'GENESIS', 'SETTINGS', 'SERIES', 'READINGS', 'CHECK', 'RULES'));
DROP TABLE rates;
