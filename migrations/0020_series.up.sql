-- The series of the record: those that the journal declares, and those that have a batch. A record that was never sealed declares
-- none. What is declared comes from the newest SERIES entry of a series.
--
-- A series is retired from the first entry on that says so, unless a later entry says otherwise. Without a declaration a series
-- has its name as its label.
CREATE VIEW series AS
WITH RECURSIVE
    -- Postgres parses the entries once, and not again for each series.
    declared AS MATERIALIZED (
        SELECT * FROM profiles WHERE series <> ''
    ),
    -- One search of the index for each series: `SELECT DISTINCT` would read all batches.
    with_batches AS (
        SELECT min(series) AS name FROM batches
        UNION ALL
        SELECT (SELECT min(batches.series) FROM batches WHERE batches.series > with_batches.name)
        FROM with_batches
        WHERE with_batches.name IS NOT NULL
    ),
    named AS (
        SELECT name FROM with_batches WHERE name IS NOT NULL
        UNION
        SELECT series FROM declared
    ),
    newest AS (
        SELECT DISTINCT ON (series) * FROM declared ORDER BY series, seq DESC
    ),
    ended AS (
        SELECT series, min(declared_at) AS retired_at
        FROM declared
        WHERE retired AND NOT EXISTS (
            SELECT FROM declared later
            WHERE later.series = declared.series AND later.seq > declared.seq AND NOT later.retired)
        GROUP BY series
    )
SELECT
    named.name,
    CASE WHEN newest.seq IS NULL THEN named.name ELSE newest.label END AS label,
    CASE WHEN newest.seq IS NULL THEN 'model' ELSE newest.kind END AS kind,
    newest.profile ->> 'model' AS model,
    ended.retired_at
FROM named
LEFT JOIN newest ON newest.series = named.name
LEFT JOIN ended ON ended.series = named.name;
