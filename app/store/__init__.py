"""
The SQL of the record: one module per aggregate, one function per query or change.

Every function takes a connection, so the caller decides what is one transaction. A function that
changes the record also appends the journal entry, in the same transaction. New questions and new
readings get no entry of their own: an entry mentions a question when its outcome is known, and a
reading when a figure uses it.
"""
