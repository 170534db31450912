DROP TABLE operations.provider_requests;
