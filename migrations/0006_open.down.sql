ALTER TABLE picks DROP COLUMN entry_close_id;
