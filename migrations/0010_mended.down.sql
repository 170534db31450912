DROP TABLE operations.mended;
