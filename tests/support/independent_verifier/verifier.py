"""
An independent verifier: written from docs/journal.md alone, with the standard library alone.

It imports nothing of Alpha Monday. Read it when you write a verifier of your own. `verify` reads
the record from the public API and checks one rule after the other, under their names in the
document.
"""

import decimal
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date

from independent_verifier import (
    api,
    checkpoints,
    declarations,
    draws,
    entries,
    forms,
    mondays,
    picks,
    prices,
    profiles,
    questions,
    sealed_readings,
    splits,
)
from independent_verifier.api import Key, Row
from independent_verifier.decided import DecidedDays
from independent_verifier.declared import Declared
from independent_verifier.further import Further
from independent_verifier.known import Known, Readings, entry_of
from independent_verifier.long_over import LongOver
from independent_verifier.marks import Marks
from independent_verifier.missing import Missing
from independent_verifier.record_calendar import RecordCalendar
from independent_verifier.refused import RecordRefused, require
from independent_verifier.renamings import Renamings
from independent_verifier.sessions import SessionCalendar
from independent_verifier.totals import Totals
from independent_verifier.yearly_checks import YearlyChecks

Head = tuple[int, str]


@dataclass
class VerificationSummary:
    """The result for a record that keeps all rules."""

    entries: int
    rows: int
    links: int  # entries of kinds that this verifier does not know
    totals: int = 0  # rows with a total return that was computed again
    further: int = 0  # rows of further benchmarks that were computed again


def verify(url: str, head: Head | None = None, closed: Iterable[date] = ()) -> VerificationSummary:
    """
    Read the record of a public API and check it. Raise RecordRefused at the first broken rule.

    `head` is a copy of the journal's head, `closed` are the days that were closed on short notice.
    """
    with decimal.localcontext(prec=28, rounding=decimal.ROUND_HALF_EVEN):
        verification = IndependentVerification(SessionCalendar(closed), head)
        # First the entries, then the rows, then the entries that were written meanwhile.
        journal, cursor = api.entries(url)
        for entry in journal:
            verification.take(entry)
        verification.end_of_chain()
        record = rows_of(url, verification)
        later, _ = api.entries(url, cursor)
        for entry in later:
            verification.take(entry)
        verification.finish(record)
        return VerificationSummary(
            entries=verification.seq,
            rows=len(verification.known.newest),
            links=verification.links,
            totals=verification.totals.computed,
            further=verification.further.computed,
        )


def rows_of(url: str, verification: "IndependentVerification") -> dict[Key, Row]:
    """Read all rows; raise RecordRefused if the API reports a damaged one."""
    try:
        unknown = set()
        if verification.declared.genesis is None:
            unknown |= api.OF_SEALED_RECORDS
        if verification.prompt_versions <= {"1"}:
            unknown |= api.OF_LATER_PROMPTS
        if not verification.paying:
            unknown |= api.OF_TOTAL_RETURNS
        return dict(
            api.rows(
                url,
                verification.series,
                verification.all_tickers,
                paying=verification.paying,
                unknown=unknown,
                has_rates=verification.has_rates,
                has_further=verification.has_further,
            )
        )
    except api.RecordDamagedError as error:
        raise RecordRefused("row", str(error)) from None


class IndependentVerification:
    """A verification under way: it takes entry after entry, then all rows."""

    def __init__(self, calendar: SessionCalendar, head: Head | None = None) -> None:
        self.seq = 0
        self.hash = "0" * 64
        self.head_before: Row = {}
        self.links = 0  # entries of kinds that docs/journal.md does not define
        self.before: dict | None = None  # the content of the entry before, if this page defines it
        self.head = head
        self.contents: list[dict] = []
        self.series = {"main"}
        self.tickers: set[str] = set()
        self.prompt_versions: set[str] = set()
        self.paying: set[str] = set()  # the tickers whose dividends were read
        self.has_rates = False
        self.has_further = False
        self.declared = Declared()
        self.known = Known(self.declared, RecordCalendar(calendar, self.declared))
        self.decided = DecidedDays(self.known)
        self.marks = Marks(self.known)
        self.uses = prices.Uses(self.known)
        self.factors = splits.Factors(self.known)
        self.missing = Missing(self.known)
        self.renamings = Renamings(self.known)
        self.totals = Totals(self.known)
        self.further = Further(self.known, self.declared)
        self.yearly = YearlyChecks(self.known)
        self.seen = 0  # the number of entries that were read before the rows

    @property
    def all_tickers(self) -> set[str]:
        """The tickers whose readings the rules need."""
        missing = {ticker for claim in self.missing.claims for ticker in claim.tickers}
        return self.tickers | missing

    def take(self, entry: dict) -> None:
        """Check the next entry: its bytes, then its content."""
        self.link(entry)
        content = forms.content_of(self.seq, entry["content"])
        for name in ("seq", "kind", "at"):
            fits = content.get(name) == entry[name]
            require(fits, "columns", f"{name} of entry {self.seq}")
        if content["kind"] not in forms.OF_KIND:
            self.links += 1
            self.before = None
            return
        forms.check_members(self.seq, content)
        forms.check_rows(self.seq, content)
        self.remember(content)
        self.check(content)
        self.before = content

    def link(self, entry: dict) -> None:
        """Check the rules `chain` and `head`."""
        seq = self.seq + 1
        require(entry["seq"] == str(seq), "chain", f"after entry {self.seq} comes {entry['seq']}")
        require(entry["previous"] == self.hash, "chain", f"entry {seq} has another previous")
        text = f"{self.hash}\n{entry['content']}"
        hashed = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        require(entry["hash"] == hashed, "chain", f"the hash of entry {seq}")
        if self.head and self.head[0] == seq:
            require(self.head[1] == hashed, "head", f"entry {seq} has another hash")
        self.head_before = {"seq": str(self.seq), "hash": self.hash}
        self.seq, self.hash = seq, hashed

    def remember(self, content: dict) -> None:
        """Store what the requests for rows and the final checks need."""
        self.contents.append(content)
        named = [content.get("batch"), content.get("generation"), *content.get("generations", [])]
        self.series |= {row["series"] for row in named if row}
        questions = [content.get("generation"), *content.get("generations", [])]
        self.prompt_versions |= {row["prompt_version"] for row in questions if row}
        self.has_rates = self.has_rates or bool(content.get("rates"))
        self.has_further = self.has_further or "further_benchmark" in content
        response = content.get("response", {})
        if response.get("kind") == "DIVIDENDS" and "ticker" in response:
            self.paying.add(response["ticker"])
        for member in ("closes", "splits", "picks"):
            self.tickers |= {row["ticker"] for row in content.get(member, [])}

    def check(self, content: dict) -> None:
        """Check all rules of an entry: the specific ones before the general ones."""
        known = self.known
        entry = entry_of(self.seq, content, known.newest)
        kind_before = share_before = None
        if "batch" in content:
            kind_before = known.last_kind_of_batch.get(content["batch"]["id"])
        if "pick" in content:
            share_before = known.shares.get(content["pick"]["id"])
        declarations.check_declarations(
            entry,
            self.declared,
            hash=self.hash,
            mondays=list(known.batch_of_monday),
            series_of_rows=self.series,
        )
        known.learn(entry)
        entries.check_declared_at(entry, self.before)
        entries.check_at(entry, sealed=self.declared.sealed)
        entries.check_first_mention(entry)
        entries.check_belongs(entry, known)
        entries.check_twice(entry)
        sealed_readings.check_sealed_readings(entry, self.declared)
        profiles.check_profiles(entry, self.declared)
        questions.check_questions(entry, known)
        draws.check_draws(entry, known)
        mondays.check_monday(entry, known, kind_before)
        picks.check_ending(entry, known)
        picks.check_renaming(entry, known, share_before)
        checkpoints.check_checkpoints(entry, known)
        prices.check_prices(entry, known)
        self.uses.take(entry)
        picks.check_forced(entry, known)
        self.marks.take(entry)
        self.factors.take(entry)
        self.missing.take(entry)
        self.renamings.take(entry, share_before)
        self.decided.take(entry)
        self.totals.take(entry, content)
        self.further.take(entry)
        self.yearly.take(entry, self.head_before)
        entries.check_readings(entry, known)
        entries.check_unchanged(entry)
        entries.check_corrected(entry, known, self.marks.first_with)
        entries.check_hindsight(entry, known)
        known.remember(entry)

    def end_of_chain(self) -> None:
        """Note that all entries from now on were written while the rows were read."""
        self.seen = self.seq
        if self.head:
            require(self.head[0] <= self.seq, "head", f"there is no entry {self.head[0]}")

    def finish(self, record: dict[Key, Row]) -> None:
        """Check the rules that need the rows, and those of the whole journal."""
        declarations.check_sealing_ended(self.declared)
        check_rows(self.known, record, self.seen)
        long_over = LongOver(self.contents)
        self.yearly.check_in_time()
        mondays.check_every_monday(self.known, long_over)
        checkpoints.check_every_day(self.known, long_over)
        readings = readings_of(self.known, record)
        self.decided.finish(readings)
        prices.check_last_figures(self.known)
        self.uses.finish(readings)
        self.marks.finish(readings, self.seen)
        self.factors.finish(readings.splits)
        splits.check_all_splits(self.known, readings.splits)
        self.missing.finish(readings)
        self.renamings.finish(readings)
        self.totals.finish(readings)
        self.further.finish(readings)


def readings_of(known: Known, record: dict[Key, Row]) -> Readings:
    """Return all readings, whether an entry mentions them or only the API shows them."""
    readings = Readings({}, {})
    for (table, _), row in {**record, **known.newest}.items():
        if table == "closes":
            readings.closes.setdefault((row["ticker"], row["trading_day"]), []).append(row)
        if table == "splits":
            readings.splits.setdefault(row["ticker"], []).append(row)
    return readings


def check_rows(known: Known, record: dict[Key, Row], seen: int) -> None:
    """
    Check the rule `row`.

    A row that an entry after the first `seen` mentions may equal its mention before or after it.
    """
    for key, row in record.items():
        if known.seq_of.get(key, 0) > seen:
            fits = row in known.mentions_since(key, seen)
            require(fits, "row", f"{key} is not what an entry that was written meanwhile says")
            continue
        last = known.newest.get(key)
        if last is None:
            open_question = key[0] == "generations" and "accepted" not in row
            unused = open_question or key[0] in ("closes", "splits", "rates")
            need_not = unused and not known.declared.sealed
            require(need_not, "row", f"no entry mentions {key}")
            if key[0] == "closes":
                prices.check_restated("a reading that no entry mentions", row)
        else:
            differ = {name for name in {*row, *last} if row.get(name) != last.get(name)}
            require(not differ, "row", f"{differ} of {key} differ")
    for key, row in known.newest.items():
        if (
            key[0] == "generations"
            and (row["series"], row["run_date"]) not in known.batch_of_monday
        ):
            continue  # the API shows a question with its batch
        later = known.seq_of[key] > seen
        require(key in record or later, "row", f"{key} is gone")
