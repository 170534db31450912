"""Entries of the kinds that later versions write, as a test of this version meets them."""

import psycopg
from psycopg import sql

from app.domain import journal
from app.domain.model import JournalEntry, JournalHead, JournalKind

# The kinds that version 0.1.0 wrote.
FIRST_KINDS = (
    JournalKind.GENERATION,
    JournalKind.BATCH,
    JournalKind.CHECKPOINT,
    JournalKind.CORRECTION,
    JournalKind.FAILURE,
    JournalKind.PICK_ENDED,
    JournalKind.PICK_RENAMED,
)

# For each kind that only later versions write, what an entry of it may hold.
LATER_KINDS: dict[JournalKind, dict[str, object]] = {
    JournalKind.NOTE: {"note": {"k": 1, "findings": []}},
    JournalKind.SUPPLEMENT: {"supplement": "a text", "batch": {"id": "no batch"}},
}

# After this statement, the entries of each transaction are followed by one of a later kind. The
# later kinds take turns. The trigger runs at the end of the transaction: a version may append
# several entries without a look at the journal between them, because it holds the journal's lock.
_FOLLOW_EACH_TRANSACTION = """
CREATE FUNCTION add_later_entry() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    kinds text[] := {kinds};
    kind text := kinds[1 + NEW.seq / 2 % array_length(kinds, 1)];
    content text := format(
        '{{"at":"%s","kind":"%s","seq":"%s"}}', NEW.content::json ->> 'at', kind, NEW.seq + 1);
BEGIN
    IF NEW.seq < (SELECT max(seq) FROM public.journal) THEN
        RETURN NULL;
    END IF;
    INSERT INTO public.journal (seq, kind, at, content, previous, hash)
    VALUES (NEW.seq + 1, kind, NEW.at, content, NEW.hash,
        encode(sha256(convert_to(NEW.hash || chr(10) || content, 'UTF8')), 'hex'));
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER add_later_entry AFTER INSERT ON journal
    DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (NEW.kind <> ALL ({kinds})) EXECUTE FUNCTION add_later_entry();
"""


def follow_each_transaction(conn: psycopg.Connection) -> None:
    """From now on, add an entry of a later kind after the entries of each transaction."""
    kinds = sql.Literal(list(map(str, LATER_KINDS)))
    conn.execute(sql.SQL(_FOLLOW_EACH_TRANSACTION).format(kinds=kinds))


def append_later(
    conn: psycopg.Connection, kind: JournalKind, batch_id: object = None
) -> JournalEntry:
    """Append an entry of a later kind after the head, with the time of the head."""
    head = conn.execute("SELECT seq, hash, at FROM journal ORDER BY seq DESC LIMIT 1").fetchone()
    after = JournalHead(*head)
    entry = journal.next_entry(after, kind=kind, at=after.at, recorded=LATER_KINDS.get(kind, {}))
    # A later version knows sealed records, too.
    conn.execute("SELECT set_config('alpha_monday.knows_sealed_records', 'yes', true)")
    conn.execute(
        "INSERT INTO journal (seq, kind, at, content, previous, hash, batch_id) "
        "VALUES (%s, %s, %s, %s, %s, %s, %s)",
        (entry.seq, kind, entry.at, entry.content, entry.previous, entry.hash, batch_id),
    )
    return entry
