-- The kinds of entries that later versions write. This version writes none of them: it reads them as links of the chain. So a later
-- version can record in a database while this version still works in it.
ALTER TABLE journal DROP CONSTRAINT journal_kind_is_known;
ALTER TABLE journal ADD CONSTRAINT journal_kind_is_known CHECK (
    kind IN ('GENERATION', 'BATCH', 'CHECKPOINT', 'CORRECTION', 'FAILURE', 'PICK_ENDED', 'PICK_RENAMED',
        'GENESIS', 'SETTINGS', 'SERIES', 'READINGS', 'CHECK', 'RULES'));
