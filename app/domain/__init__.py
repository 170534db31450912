"""The rules of the record as code: its types, its calendar, and its arithmetic. No I/O."""
