"""The jobs: the only code that writes the record."""
