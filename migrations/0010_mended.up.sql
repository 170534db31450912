-- What upkeep has mended in all, by kind: a counter that outlives processes, unlike what the last round mended.
CREATE TABLE operations.mended (
    kind text COLLATE "C" PRIMARY KEY,
    times bigint NOT NULL,
    CONSTRAINT something_was_mended CHECK (times > 0)
);
