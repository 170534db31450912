DROP TABLE journal;
DROP FUNCTION an_entry_follows_the_head;
