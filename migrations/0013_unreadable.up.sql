-- The rows of an answer that were needed and could not be read: each is logged once, and the figures that need it are not
-- measured by any job that shares the answer.
ALTER TABLE operations.provider_requests ADD COLUMN unreadable jsonb;
