"""
One verification: the entries, then the rows, then the entries that were written in the meantime.

Each row that the journal mentions must exist and must equal its last mention. A row without a
mention is a discrepancy. In a record that is not sealed, there are two exceptions: a question that
is still open, and a reading that no figure used.
"""

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from app.domain import journal
from app.domain.calendar import Calendar
from app.domain.declarations import (
    Genesis,
    Origin,
    ProviderResponse,
    RecordSettings,
)
from app.domain.model import Close, Split
from app.domain.verification import entries
from app.domain.verification.discrepancies import Rule, discrepancy
from app.domain.verification.entries import (
    TABLES,
    ParsedEntry,
    TextRow,
    first_difference,
    row_key,
    show_difference,
)
from app.domain.verification.rules import (
    check,
    closures,
    counted_splits,
    declarations,
    figures,
    gaps,
    marks,
    price_claims,
    prices,
    totals,
    yearly_checks,
)
from app.domain.verification.state import JournalState
from app.errors import Discrepancy

# An entry's number and hash: what a copy of the journal's head consists of.
Head = tuple[int, str]

# The tables of readings: the journal of a record that is not sealed need not mention a reading that
# no figure used.
_READINGS = ("closes", "splits", "dividends", "rates")

_SEQ_BYTES = 8


class Mismatch(NamedTuple):
    """
    A row that does not equal its last mention.

    `digest` identifies the row (see `row_digest`). `row` is its table and its values in the record,
    None if the record does not have the row. `seq` is the number of the entry of its last mention,
    None if no entry mentions the row.
    """

    digest: bytes
    row: tuple[str, TextRow] | None
    seq: int | None


class Verification:
    """
    A verification in progress.

    Call its methods in this order:

    1. `add_entry` for each entry, then `end_chain`
    2. `add_row` for each row
    3. `add_entry` for each entry that was written in the meantime
    4. `first_mismatch`
    5. `check_whole_record`, if there is no mismatch

    The methods that add or check something raise Discrepancy for a broken rule.

    `heads` are copies of the journal's head: the chain must contain these entries with these
    hashes. `sessions` is the calendar with which the rules are checked. `seq` and `hash` are those
    of the newest entry that was added, and `rows` is the number of rows that were added. `links` is
    the number of entries that were checked as links of the chain only (see `add_entry`).
    """

    def __init__(self, heads: Sequence[Head] = (), sessions: Calendar | None = None) -> None:
        self.seq = 0
        self.hash = journal.GENESIS_HASH
        self.rows = 0
        self.links = 0
        self.state = JournalState(sessions or Calendar())
        self._heads = list(heads)
        # By the digest of a row that is mentioned and not added yet: the number of the entry with
        # its last mention, and the fingerprint of the row in that entry. `_pack_mention` packs the
        # two into bytes, because a record may have millions of rows.
        self._last: dict[bytes, bytes] = {}
        # By the digest of a row: rows that had no mention when they were added, or differed from
        # their last mention.
        self._mismatches: dict[bytes, Mismatch] = {}
        self._has_all_entries = False
        # The digests of questions that have no batch yet, if the rows come from an API: it shows
        # questions only together with their batch (see `end_chain`).
        self._not_shown: set[bytes] = set()

    @property
    def unread_rows(self) -> int:
        """Return the number of rows that the journal mentions and that were not added yet."""
        return len(self._last)

    def add_entry(self, entry: TextRow) -> None:
        """
        Check the next entry of the chain, and add it.

        An entry of a kind that this version does not know is checked as a link: its form, its
        columns and its hashes. A later version has written it, and this version does not know the
        rules of its content. It mentions no row: if only such an entry has a row that needs a
        mention, the row is a discrepancy.
        """
        seq = self.seq + 1
        # docs/journal.md#the-rules defines this order. A missing column is found first, because the
        # other checks read the columns. A row that the entry mentions twice is found after the form
        # of all rows was checked, because the row is recognized by its parsed id.
        entries.check_complete(seq, entry)
        content = self._check_link(seq, entry)
        entries.check_columns(seq, entry, content)
        if not entries.is_known_kind(content):
            self.links += 1
            self.state.declared_at = None
            self.seq, self.hash = seq, entry["hash"]
            return

        kind = entries.entry_kind(seq, content)
        content = self.state.with_left_out(content)
        mentions = self.state.add_rows(seq, kind, content)
        entries.check_repeats(seq, mentions)
        for _, table, texts in entries.iter_rows(content):
            self._add_mention(seq, table, texts)

        parsed = ParsedEntry(
            seq=seq,
            kind=kind,
            at=entries.entry_time(seq, content),
            content=content,
            hash=entry["hash"],
            mentions=mentions,
            ending=entries.parse_ending(seq, content),
            renaming=entries.parse_renaming(seq, content),
            genesis=entries.parse_member(seq, content, member="genesis", type_=Genesis),
            settings=entries.parse_member(seq, content, member="settings", type_=RecordSettings),
            series=entries.parse_series(seq, content),
            response=entries.parse_member(seq, content, member="response", type_=ProviderResponse),
        )
        self.state.head = (self.seq, self.hash)
        check(parsed, self.state)
        self.seq, self.hash = seq, entry["hash"]

    def end_chain(self, *, open_mondays: bool = True) -> None:
        """
        End the part of the verification in which the entries of the chain are added.

        The rows are added next, and then the newer entries: those that were written while the rows
        were read. `open_mondays` says whether the rows will include questions whose batch is not
        stored yet. Raises Discrepancy if the journal ends before an entry of which there is a copy.
        """
        self._has_all_entries = True
        self.state.rows_are_read = True
        if not open_mondays:
            ids = self.state.questions_without_batch()
            self._not_shown = {row_digest("generations", {"id": str(id)}) for id in ids}
        if self._heads:
            raise discrepancy(
                Rule.HEAD,
                f"The journal ends at entry {self.seq}, before entry {self._heads[0][0]}, of which "
                "there is a copy. Its tail was cut off.",
            )
        declarations.check_end_of_chain(self.state)

    def check_rehearsal(self) -> None:
        """Raise Discrepancy if the journal does not call the record of a rehearsal REHEARSED."""
        genesis = self.state.genesis
        if genesis is None or genesis.origin is Origin.REHEARSED:
            return
        raise discrepancy(
            Rule.GENESIS,
            f"The origin of the record is {genesis.origin} by its GENESIS entry, but its database "
            "has the clock of a rehearsal.",
        )

    def add_row(self, table: str, row: TextRow) -> None:
        """
        Add a row of the record.

        A row that differs from its last mention is no discrepancy yet: an entry that was written
        while the rows were read may mention it.
        """
        self.rows += 1
        missing = [name for name in entries.key_columns(table) if name not in row]
        if missing:
            raise discrepancy(Rule.ROW, f"a row of {table} has no {missing[0]}")

        digest = row_digest(table, row)
        last = self._last.pop(digest, None)
        if last is not None:
            seq, mentioned = _unpack_mention(last)
            if mentioned != fingerprint(row):
                self._mismatches[digest] = Mismatch(digest, (table, row), seq)
            return

        is_open_question = table == "generations" and "accepted" not in row
        if self.state.is_sealed:
            self._mismatches[digest] = Mismatch(digest, (table, row), None)
        elif table in _READINGS:
            self._add_unused_reading(table, row)
        elif not is_open_question:
            self._mismatches[digest] = Mismatch(digest, (table, row), None)

    def _add_unused_reading(self, table: str, row: TextRow) -> None:
        """Add a reading that no entry mentions: some rules need all readings of the record."""
        subject = f"A row of {table}"
        reading = entries.parse_struct(
            dict(row), TABLES[table], subject=subject, problem="no reading"
        )
        if isinstance(reading, Close):
            prices.check_restated(f"{subject}, {self.state.name(reading)}", reading)
            self.state.unused_closes.append(reading)
        if isinstance(reading, Split):
            self.state.unused_splits.append(reading)

    def first_mismatch(self) -> Mismatch | None:
        """
        Return the first row that does not equal its last mention; None if all rows are equal.

        Call this after everything was added. The first row is the one whose last mention is in the
        oldest entry. Rows that no entry mentions come last.
        """
        mismatches = [*self._mismatches.values()]
        for digest, last in self._last.items():
            if digest not in self._not_shown:
                seq, _ = _unpack_mention(last)
                mismatches.append(Mismatch(digest, None, seq))
        return min(mismatches, key=lambda one: one.seq or self.seq + 1, default=None)

    def check_whole_record(self) -> None:
        """Check the rules about the whole record. Call this if `first_mismatch` returned None."""
        yearly_checks.check_end(self.state)
        gaps.check_end(self.state)
        closures.check_end(self.state)
        figures.check_end(self.state)
        prices.check_end(self.state)
        price_claims.check_end(self.state)
        marks.check_end(self.state)
        counted_splits.check_end(self.state)
        totals.check_end(self.state)

    def explain_mismatch(self, mismatch: Mismatch, content: str | None) -> Discrepancy:
        """
        Return the error for a mismatch.

        `content` is the content of the entry `mismatch.seq`; None if no entry mentions the row.
        """
        mentioned = self._find_mention(mismatch, content)
        table, row = mismatch.row or mentioned or ("", {})
        name = f"{self._name(table, row)} ({table}, {row_key(table, row)})"
        if mismatch.row is None:
            return discrepancy(
                Rule.ROW,
                f"{name} is not in the record, though entry {mismatch.seq} of the journal records "
                "it. It was removed.",
            )
        if mentioned is None:
            return discrepancy(
                Rule.ROW,
                f"{name} is in the record, but no entry of the journal records it. "
                "It was written without the journal, or the journal's tail was cut off.",
            )

        journaled = mentioned[1]
        field = first_difference(row, journaled)
        here, there = show_difference(row.get(field), journaled.get(field))
        return discrepancy(
            Rule.ROW,
            f"{name}: {field} is {here} in the record, but {there} in the journal (entry "
            f"{mismatch.seq}). The record was changed after it was journaled.",
        )

    def _find_mention(self, mismatch: Mismatch, content: str | None) -> tuple[str, TextRow] | None:
        """Return the table and the row of the last mention, from the content of its entry."""
        if not content:
            return None
        members = entries.parse_content(mismatch.seq or 0, content)
        # The row keeps what its last mention leaves out.
        members = self.state.with_left_out(members)
        for _, table, texts in entries.iter_rows(members):
            if row_digest(table, texts) == mismatch.digest:
                return table, texts
        return None

    def _name(self, table: str, row: TextRow) -> str:
        """Return the name of a row of the record for a message; the row may have any values."""
        try:
            typed = msgspec.convert(row, TABLES[table], strict=False)
        except (msgspec.ValidationError, ValueError, ArithmeticError):
            return "A row"
        return self.state.name(typed)

    def _check_link(self, seq: int, entry: TextRow) -> dict[str, Any]:
        """Raise Discrepancy unless the entry follows entry `seq - 1`; return its members."""
        entries.check_link(seq, self.hash, entry)
        self._check_heads(seq, entry["hash"])
        return entries.parse_content(seq, entry["content"])

    def _check_heads(self, seq: int, hash: str) -> None:
        """Raise Discrepancy if a copy of the head has the number `seq`, but not the hash `hash`."""
        for head in [head for head in self._heads if head[0] == seq]:
            self._heads.remove(head)
            if head[1] != hash:
                raise discrepancy(
                    Rule.HEAD,
                    f"Entry {seq} of the journal has the hash {hash}, but the copy of it says "
                    f"{head[1]}. The journal was rewritten after the copy was made.",
                )

    def _add_mention(self, seq: int, table: str, row: TextRow) -> None:
        digest = row_digest(table, row)
        if not self._has_all_entries:
            self._last[digest] = _pack_mention(seq, row)
            return
        # The entry was written while the rows were read. If it mentions a row with exactly the
        # values with which the row was added, the row is no mismatch any more.
        mismatch = self._mismatches.get(digest)
        if mismatch and mismatch.row == (table, row):
            del self._mismatches[digest]


def _pack_mention(seq: int, row: TextRow) -> bytes:
    return seq.to_bytes(_SEQ_BYTES) + fingerprint(row)


def _unpack_mention(packed: bytes) -> tuple[int, bytes]:
    """Return the number of the entry, and the fingerprint of the row."""
    return int.from_bytes(packed[:_SEQ_BYTES]), packed[_SEQ_BYTES:]


def row_digest(table: str, row: TextRow) -> bytes:
    """Return 16 bytes that identify a row of the record by its table and its key."""
    return hashlib.sha256(f"{table} {row_key(table, row)}".encode()).digest()[:16]


def fingerprint(row: TextRow) -> bytes:
    """Return 32 bytes that are equal only for rows with equal values."""
    return hashlib.sha256(journal.canonical_json(row).encode()).digest()
