"""The API: the only code that reads the record for clients."""
