"""
Whether a record is what its journal says, and whether both keep the record's rules.

- `chain`: a verification under way. It takes the entries, then the rows of the record.
- `entries`: what an entry holds, as values of the record.
- `state`: what the journal has said up to an entry, and the rows that no entry mentions.
- `misfits`: the names of the rules, and the error that names a broken one.
- `rules`: the rules, one module per subject: what an entry breaks is found with the entry (`check`), and what only the
  whole record shows is found at the end (`check_end`). docs/journal.md#the-rules says each rule in a sentence.
"""
