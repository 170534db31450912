-- In a sealed record, a version that does not know sealed records cannot append an entry to the journal: it would not declare its
-- settings first. So its skipped checkpoint could contradict the record's calendar, and no later version could mend that. The
-- outcome of a question of its own, from before the seal, is still its to store: the other triggers of migration 0015 refuse every
-- other GENERATION entry.
CREATE TRIGGER this_record_is_sealed BEFORE INSERT ON journal
    FOR EACH ROW WHEN (NEW.kind <> 'GENERATION') EXECUTE FUNCTION refuse_older_version();
