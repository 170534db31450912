"""
Where the record is kept: one module per aggregate, each question a function with its SQL inside.

Functions take a connection, so that a caller decides what is one transaction. Whatever is recorded writes its entry in
the journal in that same transaction.
"""
