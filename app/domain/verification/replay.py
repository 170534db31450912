"""
What a journal has recorded: its chain is checked, its rules are not.

The service reads its own journal in this way before it holds a yearly check. `alpha-monday verify`
also checks the rules.
"""

from app.domain.calendar import Calendar
from app.domain.journal import GENESIS_HASH
from app.domain.model import JournalHead, JournalKind
from app.domain.verification import entries
from app.domain.verification.entries import ParsedEntry, TextRow
from app.domain.verification.state import JournalState


class JournalReplay:
    """
    Reads entry after entry into a state.

    `head` is the newest entry that was read; None before the first one.
    """

    def __init__(self) -> None:
        self.state = JournalState(Calendar())
        self.head: JournalHead | None = None

    def add(self, entry: TextRow) -> None:
        """
        Add the next entry.

        Raises Discrepancy if it does not follow the entry before it, or if its content does not
        have its form.
        """
        seq, previous = 1, GENESIS_HASH
        if self.head:
            seq, previous = self.head.seq + 1, self.head.hash
        entries.check_link(seq, previous, entry)
        content = entries.parse_content(seq, entry["content"])
        at = entries.entry_time(seq, content)
        self.head = JournalHead(seq, entry["hash"], at)
        if not entries.is_known_kind(content):
            return
        kind = entries.entry_kind(seq, content)
        content = self.state.with_left_out(content)
        parsed = ParsedEntry(
            seq=seq,
            kind=kind,
            at=at,
            content=content,
            hash=entry["hash"],
            mentions=self.state.add_rows(seq, kind, content),
            ending=entries.parse_ending(seq, content),
            renaming=entries.parse_renaming(seq, content),
        )
        self.state.add_event(parsed)
        match kind:
            case JournalKind.RULES:
                self.state.rules_at = at
            case JournalKind.CHECK:
                self.state.held_checks += 1
