"""Claims that a price was missing: parts of `skipped`, `answer-refused` and `failed`."""

from dataclasses import dataclass

from independent_verifier.answers import BrokenRuleError, named_benchmark, names, picks_of
from independent_verifier.known import Entry, Known, Readings, day_of
from independent_verifier.prices import long_read
from independent_verifier.refused import require
from independent_verifier.sessions import DAY


@dataclass
class Claim:
    """An entry claims that a close of a session was missing, of at least one of these tickers."""

    rule: str
    entry: Entry
    session: str
    tickers: list[str]
    unless_benchmark: bool = False  # not about a price if a ticker is a benchmark of any settings


class Missing:
    """Collects the claims of entries, and checks them when all readings are known."""

    def __init__(self, known: Known) -> None:
        self.known = known
        self.claims: list[Claim] = []

    def take(self, entry: Entry) -> None:
        """Collect the claims of an entry."""
        for key, row in entry.of("checkpoints"):
            if key not in entry.before and row.get("skip_reason") == "MISSING_CLOSE":
                self.take_skip(entry, row)
        for key, row in entry.of("generations"):
            if entry.before.get(key, {}).get("accepted") == "true" and "refusal" in row:
                self.take_refusal(entry, row)
        for _, row in entry.of("batches"):
            if entry.kind == "FAILURE" and row.get("failure_reason") == "MISSING_CLOSE":
                self.take_failure(entry, row)

    def take_skip(self, entry: Entry, row: dict) -> None:
        """Collect the claim of a checkpoint that was skipped because a close was missing."""
        known = self.known
        picks = known.picks_of[row["batch_id"]]
        changed = any(id in known.endings or len(known.shares[id].spans) > 1 for id in picks)
        if changed:
            return
        tickers = [known.batch(row["batch_id"])["benchmark_symbol"]]
        tickers += [known.pick(id)["ticker"] for id in picks]
        session = str(day_of(row["checkpoint_date"]) - DAY)
        self.claims.append(Claim(rule="skipped", entry=entry, session=session, tickers=tickers))

    def take_refusal(self, entry: Entry, row: dict) -> None:
        """Collect the claim of an accepted answer that was refused because a price was missing."""
        run_date = day_of(row["run_date"])
        sessions = self.known.calendar.last_sessions(run_date)
        of_setting = "benchmark" in row["refusal"]
        changed = row["refusal"] == "The benchmark was changed."
        if changed or len(sessions) > 1 or (of_setting and not self.known.declared.sealed):
            return
        try:
            picks = picks_of(
                row["answer"], row["prompt_version"], named_benchmark(row["user_prompt"])
            )
        except BrokenRuleError:
            return
        tickers = [pick["ticker"] for pick in picks if names(row["refusal"], pick["ticker"])]
        self.claims.append(
            Claim(
                rule="answer-refused",
                entry=entry,
                session=str(sessions[0]),
                tickers=tickers,
                unless_benchmark=of_setting,
            )
        )

    def take_failure(self, entry: Entry, row: dict) -> None:
        """Collect the claim of a Monday that failed because a close was missing."""
        run_date = day_of(row["run_date"])
        sessions = self.known.calendar.last_sessions(run_date)
        questions = map(
            self.known.newest.__getitem__, self.known.questions[row["series"], row["run_date"]]
        )
        accepted = [one for one in questions if one.get("accepted") == "true"]
        if len(sessions) > 1 or not accepted:
            return
        try:
            picks = picks_of(
                accepted[0]["answer"], accepted[0]["prompt_version"], row["benchmark_symbol"]
            )
        except BrokenRuleError:
            return
        tickers = [row["benchmark_symbol"], *(pick["ticker"] for pick in picks)]
        self.claims.append(
            Claim(rule="failed", entry=entry, session=str(sessions[0]), tickers=tickers)
        )

    def finish(self, readings: Readings) -> None:
        """Raise RecordRefused for a claim that the readings of the record contradict."""
        benchmarks = {settings["benchmark"] for settings in self.known.declared.settings}
        for claim in self.claims:
            if claim.unless_benchmark and benchmarks & set(claim.tickers):
                continue
            there = [
                any(long_read(row, claim.entry) for row in readings.closes.get(key, []))
                for key in ((ticker, claim.session) for ticker in claim.tickers)
            ]
            text = f"{claim.entry.where}: {claim.tickers} had closes of {claim.session}"
            require(not all(there), claim.rule, text)
