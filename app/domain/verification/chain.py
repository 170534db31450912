"""
A verification under way: the entries in their order, then the rows, then what was journalled meanwhile.

Every row of the record equals its last mention, and every last mention has its row. Rows that the
journal need not mention: a question that is still open, and readings that nothing used.
"""

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from app.domain import journal
from app.domain.calendar import Calendar
from app.domain.model import Close, Split
from app.domain.verification import entries
from app.domain.verification.entries import TABLES, Entry, Texts, key_of, shortened
from app.domain.verification.misfits import Rule, misfit
from app.domain.verification.rules import absences, check, figures, marks, missing, prices, uncounted
from app.domain.verification.state import State
from app.errors import Misfit

Head = tuple[int, str]


class Doubt(NamedTuple):
    """A row that does not fit: as the record has it, if it has; and the entry of its last mention, if any."""

    mark: bytes
    row: tuple[str, Texts] | None
    seq: int | None


class Verification:
    """
    A verification under way.

    `heads` are copies of the journal's head: the chain must hold these entries with these hashes.
    `sessions` is the calendar that the rules are checked with. Every method may raise Misfit.
    """

    def __init__(self, heads: Sequence[Head] = (), sessions: Calendar | None = None) -> None:
        self.seq = 0
        self.hash = journal.GENESIS
        self.rows = 0
        self.state = State(sessions or Calendar())
        self._heads = list(heads)
        # By a row's mark: the entry that mentions it last, and its fingerprint.
        self._last: dict[bytes, bytes] = {}
        self._doubted: dict[bytes, Doubt] = {}
        self._walked = False
        self._need_not: set[bytes] = set()

    @property
    def awaited(self) -> int:
        """Return how many rows the journal mentions that were not read yet."""
        return len(self._last)

    def entry(self, entry: Texts) -> None:
        """Take the next entry of the chain."""
        seq = self.seq + 1
        entries.check_complete(seq, entry)
        content = self._linked(seq, entry)
        entries.check_columns(seq, entry, content)
        kind = entries.kind_of(seq, content)
        mentions = self.state.take(seq, kind, content)
        entries.check_repeats(seq, mentions)
        for _, table, texts in entries.rows_of(content):
            self._mention(seq, table, texts)
        taken = Entry(
            seq=seq,
            kind=kind,
            at=entries.time_of(seq, content),
            content=content,
            mentions=mentions,
            ending=entries.ending_of(seq, content),
            renaming=entries.renaming_of(seq, content),
        )
        check(taken, self.state)
        self.seq, self.hash = seq, entry["hash"]

    def end_of_chain(self, *, open_mondays: bool = True) -> None:
        """
        Take note that all entries were read; rows follow, and then the entries that came meanwhile.

        `open_mondays`: whether the rows will hold questions whose batch is not there yet.
        """
        self._walked = self.state.rows_are_told = True
        if not open_mondays:
            ids = self.state.questions_without_batch()
            self._need_not = {mark("generations", {"id": str(id)}) for id in ids}
        if self._heads:
            raise misfit(
                Rule.HEAD,
                f"The journal ends at entry {self.seq}, before entry {self._heads[0][0]}, of which a "
                "copy was kept. Its tail was cut off.",
            )

    def row(self, table: str, row: Texts) -> None:
        """Take a row of the record; what differs may yet be mentioned by an entry that came meanwhile."""
        self.rows += 1
        if missing := [name for name in entries.key_names(table) if name not in row]:
            raise misfit(Rule.ROW, f"a row of {table} has no {missing[0]}")
        its = mark(table, row)
        last = self._last.pop(its, b"")
        is_reading = table in ("closes", "splits")
        need_not = is_reading or (table == "generations" and "accepted" not in row)
        if last[8:] == fingerprint(row):
            return
        if last or not need_not:
            self._doubted[its] = Doubt(its, (table, row), int.from_bytes(last[:8]) or None)
        elif is_reading:
            self._take_unused(table, row)

    def _take_unused(self, table: str, row: Texts) -> None:
        """Take note of a reading that no entry mentions: some rules ask what the record knew."""
        what = f"A row of {table}"
        reading = entries.converted(what, dict(row), TABLES[table], "no reading")
        if isinstance(reading, Close):
            prices.check_restated(f"{what}, {self.state.name(reading)}", reading)
            self.state.unused_closes.append(reading)
        if isinstance(reading, Split):
            self.state.unused_splits.append(reading)

    def doubt(self) -> Doubt | None:
        """Return the first misfit between rows and mentions, when everything was read."""
        gone = (Doubt(its, None, int.from_bytes(last[:8])) for its, last in self._last.items())
        doubts = [*self._doubted.values()]
        doubts += [one for one in gone if one.mark not in self._need_not]
        return min(doubts, key=lambda doubt: doubt.seq or self.seq + 1, default=None)

    def finish(self) -> None:
        """Check the rules about the whole journal and record, when all was read and nothing is doubted."""
        absences.check_end(self.state)
        figures.check_end(self.state)
        prices.check_end(self.state)
        missing.check_end(self.state)
        marks.check_end(self.state)
        uncounted.check_end(self.state)

    def explained(self, doubt: Doubt, content: str | None) -> Misfit:
        """Return what is to be said of a doubt, given the content of its entry."""
        seq = doubt.seq or 0
        mentions = []
        if content:
            rows = entries.rows_of(entries.decoded(seq, content))
            mentions = [(table, texts) for _, table, texts in rows]
        mentioned = next((one for one in mentions if mark(*one) == doubt.mark), None)
        table, row = doubt.row or mentioned or ("", {})
        name = f"{self._name(table, row)} ({table}, {key_of(table, row)})"
        if doubt.row is None:
            return misfit(
                Rule.ROW,
                f"{name} is not in the record, though entry {doubt.seq} of the journal records it. It was taken out.",
            )
        if mentioned is None:
            return misfit(
                Rule.ROW,
                f"{name} is in the record, but no entry of the journal records it. "
                "It was written past the journal, or the journal's tail was cut off.",
            )
        journalled = mentioned[1]
        field = min(name for name in {*row, *journalled} if row.get(name) != journalled.get(name))
        here, there = shortened(row.get(field), journalled.get(field))
        return misfit(
            Rule.ROW,
            f"{name}: {field} is {here} in the record, but {there} in the journal (entry {doubt.seq}). "
            "The record was changed after it was journalled.",
        )

    def _name(self, table: str, row: Texts) -> str:
        """Return what a person calls a row of the record, which may have any values."""
        try:
            typed = msgspec.convert(row, TABLES[table], strict=False)
        except (msgspec.ValidationError, ValueError, ArithmeticError):
            return "A row"
        return self.state.name(typed)

    def _linked(self, seq: int, entry: Texts) -> dict[str, Any]:
        """Return the content of an entry that is the next link of the chain."""
        where = f"Entry {seq} of the journal"
        if entry["seq"] != str(seq):
            raise misfit(Rule.CHAIN, f"{where} is not there: after entry {seq - 1} comes {entry['seq']}.")
        if entry["previous"] != self.hash:
            raise misfit(
                Rule.CHAIN,
                f"{where} follows the hash {entry['previous']}, but that of entry {seq - 1} is "
                f"{self.hash}. One of the two was changed, or what stood between them was taken out.",
            )
        if entry["hash"] != (hashed := journal.digest(self.hash, entry["content"])):
            raise misfit(
                Rule.CHAIN,
                f"{where} has the hash {entry['hash']}, but its content gives {hashed}. "
                "It was changed after it was written.",
            )
        for head in [head for head in self._heads if head[0] == seq]:
            self._heads.remove(head)
            if head[1] != entry["hash"]:
                raise misfit(
                    Rule.HEAD,
                    f"{where} has the hash {entry['hash']}, but the copy of it says {head[1]}. "
                    "The journal was written anew after the copy was made.",
                )
        return entries.decoded(seq, entry["content"])

    def _mention(self, seq: int, table: str, row: Texts) -> None:
        its = mark(table, row)
        if not self._walked:
            self._last[its] = seq.to_bytes(8) + fingerprint(row)
            return
        doubt = self._doubted.get(its)
        if doubt and doubt.row == (table, row):
            del self._doubted[its]


def mark(table: str, row: Texts) -> bytes:
    """Return what a row of the record is known by, in little space."""
    return hashlib.sha256(f"{table} {key_of(table, row)}".encode()).digest()[:16]


def fingerprint(row: Texts) -> bytes:
    """Return what tells a row from every other."""
    return hashlib.sha256(journal.canonical(row).encode()).digest()
