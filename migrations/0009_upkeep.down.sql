ALTER TABLE operations.provider_requests DROP COLUMN rest_until;
DROP TABLE operations.strikes;
DROP TABLE operations.upkeep;
