-- Readings of the rate of a loan without risk: the yield of three-month Treasury bills, in percent a year. The yearly checks
-- compare the benchmark with it. Like readings of prices and splits, a reading is never changed; a second reading stands beside
-- the first.
CREATE TABLE rates (
    observed_on date NOT NULL,
    value_pct numeric NOT NULL,
    source text NOT NULL,
    read_at timestamptz NOT NULL,
    CONSTRAINT one_rate_reading_at_a_time PRIMARY KEY (observed_on, read_at),
    CONSTRAINT value_is_a_rate CHECK (value_pct > -100 AND value_pct < 100),
    CONSTRAINT source_is_named CHECK (source <> ''),
    CONSTRAINT observed_before_it_was_read CHECK (observed_on <= (read_at AT TIME ZONE 'America/New_York')::date)
);
CREATE TRIGGER readings_are_never_changed BEFORE UPDATE OR DELETE ON rates
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER readings_are_never_emptied BEFORE TRUNCATE ON rates
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER announce AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON rates
    FOR EACH STATEMENT EXECUTE FUNCTION announce();

-- A database that was taken back over this migration has lost the readings that its journal mentions: they come back from there.
INSERT INTO rates (observed_on, value_pct, source, read_at)
SELECT
    (rate ->> 'observed_on')::date,
    (rate ->> 'value_pct')::numeric,
    rate ->> 'source',
    (rate ->> 'read_at')::timestamptz
FROM (
    SELECT json_array_elements(json_object_or_null(content) -> 'rates') AS rate
    FROM journal
    WHERE kind IN ('READINGS', 'CHECK') AND content LIKE '%"rates":[{%'
) AS mentioned
ON CONFLICT DO NOTHING;

-- The kinds of entries that later versions write, as in migration 0014: CHECK and RULES are not among them any more.
ALTER TABLE journal DROP CONSTRAINT journal_kind_is_known;
ALTER TABLE journal ADD CONSTRAINT journal_kind_is_known CHECK (
    kind IN ('GENERATION', 'BATCH', 'CHECKPOINT', 'CORRECTION', 'FAILURE', 'PICK_ENDED', 'PICK_RENAMED',
        'GENESIS', 'SETTINGS', 'SERIES', 'READINGS', 'CHECK', 'RULES', 'NOTE', 'EXTENSION'));
