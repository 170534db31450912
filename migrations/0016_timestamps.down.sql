DROP TABLE timestamps;
DROP FUNCTION a_timestamp_is_of_an_entry;
