DROP TABLE operations.model_ends;
