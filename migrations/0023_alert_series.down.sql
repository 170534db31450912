ALTER TABLE operations.alerts DROP COLUMN series;
