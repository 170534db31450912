DROP TABLE operations.heartbeats;
DROP TABLE operations.alerts;
