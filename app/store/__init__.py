"""
The SQL of the record: one module per aggregate, one function per question or change.

Every function takes a connection, so the caller decides what is one transaction. A function that
changes the record also writes its journal entry, in the same transaction.
"""
