ALTER TABLE operations.provider_requests DROP COLUMN unreadable;
