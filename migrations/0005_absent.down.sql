DROP FUNCTION absent(text);
