DROP TABLE operations.published_heads;
