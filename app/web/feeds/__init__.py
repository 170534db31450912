"""What others follow the record by: exports of all of it, and a feed of what is new."""
