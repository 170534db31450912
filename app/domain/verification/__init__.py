"""
Verification: whether a record equals its journal, and whether both follow the record's rules.

- `chain`: one verification. It takes the entries, then the rows of the record.
- `entries`: the content of an entry, as values of the record.
- `state`: what the entries have recorded so far, and the rows that no entry mentions.
- `discrepancies`: the names of the rules, and the error that names a broken one.
- `rules`: the rules, one module per subject. `check` checks one entry; `check_end` checks what only
  the whole record can decide. docs/journal.md#the-rules has a sentence for each rule.
"""
