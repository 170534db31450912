"""The record's law as code: what its words mean, when things happen, how numbers are made. No I/O."""
