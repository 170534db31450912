-- A value that the API's schema promises and that is not there: an error that names the field, never a broken answer.
-- Volatile, so that the planner does not call it beforehand.
CREATE FUNCTION absent(field text) RETURNS text LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    RAISE null_value_not_allowed USING MESSAGE = format('%s has no value', field);
END $$;
