DROP TRIGGER this_record_is_sealed ON journal;
