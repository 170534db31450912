"""Prices said to be missing: parts of the rules `skipped`, `answer-refused` and `failed`."""

from dataclasses import dataclass

from stranger.answers import BrokenRuleError, named_benchmark, names, picks_of
from stranger.known import Entry, Known, Readings, day_of
from stranger.prices import long_read
from stranger.refused import require
from stranger.sessions import DAY, Calendar


@dataclass
class Claim:
    """An entry says that it had no close of a session of at least one of these tickers."""

    rule: str
    entry: Entry
    session: str
    tickers: list[str]


class Missing:
    """What entries say of missing prices, kept until all readings are known."""

    def __init__(self, known: Known) -> None:
        self.known = known
        self.claims: list[Claim] = []

    def take(self, entry: Entry) -> None:
        """Remember what an entry says."""
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
        """A checkpoint that was skipped for want of a close."""
        known = self.known
        picks = known.picks_of[row["batch_id"]]
        changed = any(id in known.endings or len(known.shares[id].spans) > 1 for id in picks)
        if changed:
            return
        tickers = [known.batch(row["batch_id"])["benchmark_symbol"]]
        tickers += [known.pick(id)["ticker"] for id in picks]
        session = str(day_of(row["checkpoint_date"]) - DAY)
        self.claims.append(Claim("skipped", entry, session, tickers))

    def take_refusal(self, entry: Entry, row: dict) -> None:
        """An accepted answer that was refused for want of a price."""
        run_date = day_of(row["run_date"])
        sessions = {one.last_before(run_date) for one in (self.known.calendar, Calendar())}
        if "benchmark" in row["refusal"] or len(sessions) > 1:
            return
        try:
            picks = picks_of(row["answer"], named_benchmark(row["user_prompt"]))
        except BrokenRuleError:
            return
        tickers = [pick["ticker"] for pick in picks if names(row["refusal"], pick["ticker"])]
        self.claims.append(Claim("answer-refused", entry, str(sessions.pop()), tickers))

    def take_failure(self, entry: Entry, row: dict) -> None:
        """A Monday that failed for want of a close."""
        run_date = day_of(row["run_date"])
        sessions = {one.last_before(run_date) for one in (self.known.calendar, Calendar())}
        asked = map(
            self.known.newest.__getitem__, self.known.questions[row["series"], row["run_date"]]
        )
        accepted = [one for one in asked if one.get("accepted") == "true"]
        if len(sessions) > 1 or not accepted:
            return
        try:
            picks = picks_of(accepted[0]["answer"], row["benchmark_symbol"])
        except BrokenRuleError:
            return
        tickers = [row["benchmark_symbol"], *(pick["ticker"] for pick in picks)]
        self.claims.append(Claim("failed", entry, str(sessions.pop()), tickers))

    def finish(self, readings: Readings) -> None:
        """Refuse what the readings of the record contradict."""
        for claim in self.claims:
            there = [
                any(long_read(row, claim.entry) for row in readings.closes.get(key, []))
                for key in ((ticker, claim.session) for ticker in claim.tickers)
            ]
            text = f"{claim.entry.where}: {claim.tickers} had closes of {claim.session}"
            require(not all(there), claim.rule, text)
