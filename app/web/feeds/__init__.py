"""What others follow the record by: exports of all of it, a feed of what is new, a picture of each Monday's course."""
