"""
What must hold when the storm is over, asked of the database and of the stand-ins' own log.

The judge computes by itself: of ours it uses only the made-up market, which is no part of the service, and
`alpha-monday verify` as a further judge beside it.
"""

import hashlib
import json
import subprocess
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from datetime import date, datetime, time, timedelta
from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext
from pathlib import Path
from statistics import median, quantiles
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from app.domain.calendar import Calendar
from app.simulation.market import Market

NEW_YORK = ZoneInfo("America/New_York")
SLOTS = (time(9), time(9, 30), time(10, 30), time(12, 30), time(16, 30), time(20, 30))

# How late at most, in told time, what needs no provider: upkeep looks at the end of every leap.
LATE = timedelta(hours=2)

# What may let a request stray: see the limits.
STRAYING = ("SIGSTOP", "Postgres", "running")


Rows = Callable[[str], list[tuple[Any, ...]]]


class Misfit(Exception):
    """Something does not hold; the text says what, with the rows."""


class Seen(NamedTuple):
    """
    What the run itself saw: the end of told time, heads of the journal, how often what was harmed, oddities.

    `verify` asks `alpha-monday verify` about a head, of the database or through the API.
    """

    end: datetime
    heads: set[tuple[int, str]]
    harm: Counter[str]
    odd: list[str]
    verify: "Callable[[tuple[int, str], str], subprocess.CompletedProcess[str]]"


class Judge:
    """Everything that was stored and asked, and the invariants."""

    def __init__(self, rows: Rows, requests: Path, seen: Seen) -> None:
        self.rows, self.seen = rows, seen
        self.batches = self._table("SELECT * FROM batches ORDER BY run_date")
        self.picks = self._table("SELECT * FROM picks ORDER BY batch_id, position")
        self.checkpoints = self._table("SELECT * FROM checkpoints ORDER BY batch_id, day")
        self.metrics = self._table("SELECT * FROM pick_checkpoint_metrics")
        self.closes = {row["id"]: row for row in self._table("SELECT * FROM closes ORDER BY read_at")}
        self.splits = self._table("SELECT * FROM splits ORDER BY read_at")
        self.journal = self._table("SELECT * FROM journal ORDER BY seq")
        self.generations = self._table("SELECT * FROM generations ORDER BY run_date, attempt")
        self.jobs = self._table("SELECT * FROM procrastinate_jobs ORDER BY id")
        lines = map(json.loads, requests.read_text().splitlines())
        self.requests = [{**one, "at": datetime.fromisoformat(one["at"])} for one in lines]
        self.market = Market(Calendar())

    def _table(self, sql: str) -> list[dict[str, Any]]:
        names = [name for (name,) in self.rows(f"SELECT json_object_keys(to_json(t)) FROM ({sql} LIMIT 1) t")]
        return [dict(zip(names, row, strict=True)) for row in self.rows(sql)]

    def invariants(self) -> Iterator[tuple[str, Any]]:
        """Give each invariant's name and the function that raises Misfit or tells what it counted."""
        for name in dir(self):
            if name.startswith("inv_"):
                yield name[6:].replace("_", " "), getattr(self, name)

    # The record

    def inv_1_every_Monday_has_one_row(self) -> str:
        """From the first on; failed ones say why, and nobody missed one."""
        first = min(row["run_date"] for row in self.batches)
        mondays = [first + timedelta(weeks=week) for week in range((self.seen.end.date() - first).days // 7 + 1)]
        mondays = [monday for monday in mondays if at_nine(monday) <= self.seen.end]
        expect([row["run_date"] for row in self.batches] == mondays, [row["run_date"] for row in self.batches])
        failed = [row for row in self.batches if row["status"] == "failed"]
        asked = Counter(row["run_date"] for row in self.generations)
        for row in failed:
            expect(row["failure_reason"] not in (None, "MISSED") and row["failure"], row)
            expect(asked[row["run_date"]] == 3 or row["failure_reason"] != "NO_USABLE_ANSWER", row)
            expect(not [pick for pick in self.picks if pick["batch_id"] == row["id"]], row)
        expect(len(failed) <= len(mondays) // 3, failed)
        told = "".join(f"; failed {row['run_date']}: {row['failure_reason']}" for row in failed)
        return f"{len(mondays)} Mondays, {len(failed)} failed{told}"

    def inv_2_every_fortnight_has_its_days_once(self) -> str:
        """Days 0 to 14 as far as they are due, each on its date, skipped where there was no session; nothing is due."""
        counted: Counter[str] = Counter()
        for batch in self._made():
            rows = self._days(batch)
            due = [day for day in range(15) if at_nine(batch["run_date"] + timedelta(days=day)) <= self.seen.end]
            expect([row["day"] for row in rows] == due, (batch["run_date"], [row["day"] for row in rows], due))
            expect(batch["status"] == ("completed" if due[-1] == 14 else "active"), batch)
            expect(len(self._picks(batch)) == 3, batch)
            for row in rows:
                session = batch["run_date"] + timedelta(days=row["day"] - 1)
                closed = not self.market.calendar.is_session(session) and row["day"] > 0
                expect(row["checkpoint_date"] == batch["run_date"] + timedelta(days=row["day"]), row)
                expect((row["skip_reason"] == "MARKET_CLOSED") == closed, row)
                late = (row["skipped_at"] or row["taken_at"]) - at_nine(row["checkpoint_date"])
                expect(late >= timedelta(0), row)
                expect(not closed or late < LATE, row)
                metrics = [one for one in self.metrics if one["checkpoint_id"] == row["id"]]
                expect(len(metrics) == (3 if row["status"] == "computed" and row["day"] else 0), row)
                if row["status"] == "computed" and row["day"]:
                    expect(row["trading_day"] == session, row)
                counted["skipped, " + row["skip_reason"] if row["status"] == "skipped" else "computed"] += 1
        unresolved = sum(count for what, count in counted.items() if what not in ("computed", "skipped, MARKET_CLOSED"))
        expect(unresolved <= sum(counted.values()) // 20, counted)
        return ", ".join(f"{count} {what}" for what, count in counted.most_common())

    def inv_3_every_figure_is_what_anybody_computes(self) -> str:
        """From the readings that the rows name and the splits in force, in the order of docs/record.md."""
        figures = 0
        with localcontext(Context(prec=28, rounding=ROUND_HALF_EVEN)):
            for batch in self._made():
                b0 = self._close(batch["benchmark_initial_close_id"], "SPY", batch["trading_day"])
                expect(b0 == batch["benchmark_initial_price"], batch)
                for row in self._days(batch):
                    if row["status"] == "computed":
                        figures += self._figures(batch, b0, row)
        return f"{figures} figures"

    def _figures(self, batch: dict[str, Any], b0: Decimal, row: dict[str, Any]) -> int:
        baseline, session = batch["trading_day"], row["trading_day"]
        b = self._close(row["benchmark_close_id"], "SPY", session)
        factor = self._factor("SPY", baseline, session)
        expect((row["benchmark_price"], row["benchmark_split_factor"]) == (b, factor), row)
        if row["day"] == 0:
            expect(row["benchmark_return_pct"] is None and b == b0, row)
            return 1
        benchmark = (b * factor - b0) / b0 * 100
        expect(row["benchmark_return_pct"] == benchmark, row)
        for pick in self._picks(batch):
            ticker = pick["ticker"]
            (metric,) = [
                one for one in self.metrics if (one["checkpoint_id"], one["pick_id"]) == (row["id"], pick["id"])
            ]
            p0 = self._close(pick["initial_close_id"], ticker, baseline)
            p, factor = self._close(metric["close_id"], ticker, session), self._factor(ticker, baseline, session)
            absolute = (p * factor - p0) / p0 * 100
            told = (metric["current_price"], metric["split_factor"], metric["absolute_return_pct"])
            expect(told == (p, factor, absolute), (ticker, row["checkpoint_date"], told, (p, factor, absolute)))
            expect(metric["vs_benchmark_pct"] == absolute - benchmark, metric)
            expect(pick["initial_price"] == p0, pick)
            entry = self.closes[pick["entry_close_id"]]
            expect(entry["trading_day"] == self._session_from(batch["run_date"]), pick)
            o, since = entry["open"], self._factor(ticker, entry["trading_day"], session)
            expect(pick["entry_open"] == o, pick)
            expect(metric["return_from_open_pct"] == (p * since - o) / o * 100, metric)
        return 1 + 3 * 4

    def inv_4_every_reading_is_the_markets(self) -> str:
        """Of a day before it was read, what the made-up market says, and kept once."""
        kept = Counter((row["ticker"], row["trading_day"], row["open"], row["close"]) for row in self.closes.values())
        twice = [reading for reading, count in kept.items() if count > 1]
        expect(not twice, twice)
        for row in self.closes.values():
            expect(row["trading_day"] < row["read_at"].astimezone(NEW_YORK).date(), row)
            ((day, bar),) = self.market.bars(row["ticker"], row["trading_day"], 1)
            expect((day, Decimal(bar.close), Decimal(bar.open)) == (row["trading_day"], row["close"], row["open"]), row)
        return f"{len(self.closes)} readings of {len({row['ticker'] for row in self.closes.values()})} tickers"

    def inv_5_the_journal_is_whole_and_only_ever_grew(self) -> str:
        """The chain, with nothing but SHA-256; every head that was seen during the run is still in it."""
        previous, chain = "0" * 64, set()
        for number, entry in enumerate(self.journal, 1):
            content = json.loads(entry["content"])
            expect((entry["seq"], content["seq"], entry["previous"]) == (number, str(number), previous), entry)
            previous = hashlib.sha256(f"{previous}\n{entry['content']}".encode()).hexdigest()
            expect(entry["hash"] == previous, entry)
            chain.add((number, previous))
        expect(self.seen.heads <= chain, sorted(self.seen.heads - chain))
        return f"{len(self.journal)} entries, {len(self.seen.heads)} heads seen on the way"

    def inv_6_verify_fits(self) -> str:
        """`alpha-monday verify` finds every row as the journal tells it, in the database and through the API."""
        said = [self.seen.verify(max(self.seen.heads), where) for where in ("database", "API")]
        expect(all(done.returncode == 0 for done in said), [done.stdout + done.stderr for done in said])
        return " ".join((said[-1].stdout or said[-1].stderr).split())[:80]

    # The providers

    def inv_7_the_limits_held(self) -> str:
        """
        One a second, five a minute, 25 a day: by when leave was given, and by when the stand-ins received requests.

        A request that was on its way for longer than the ledger's margin may come too close to the next one, by just
        so much; on its way for longer than leave lasts is only what froze between its last look at the clock and the
        wire, what was sent while Postgres was away (the stand-ins have their time from it), and what belonged to a
        job that was deleted meanwhile: nothing then keeps told time from leaping. A request that ended before it had
        leave was given it just before a process that came up after a long outage of Postgres set told time back.
        """
        granted = self.rows(
            "SELECT least(at, ended_at), function, symbol FROM operations.provider_requests ORDER BY 1, id"
        )
        asked = [one for one in self.requests if one["provider"] == "alphavantage"]
        received = self._on_their_way(asked, granted)
        strays = [(str(at), way) for at, way in received if way > 1.5]
        frozen = sum(count for kind, count in self.seen.harm.items() if any(word in kind for word in STRAYING))
        expect(len(strays) <= frozen, strays)
        shortest, close = {}, 0
        for count, seconds in ((1, 1), (5, 60), (25, 86_400)):
            for (before, *_), (after, *_) in zip(granted, granted[count:], strict=False):
                expect((after - before).total_seconds() >= seconds, (count, seconds, before, after))
            gaps = [
                ((after - before).total_seconds(), max(first, second), str(after))
                for number, ((before, first), (after, second)) in enumerate(
                    zip(received, received[count:], strict=False)
                )
                # One that strayed into the middle is one too many there, and by no fault of the others.
                if all(way <= 1.5 for _, way in received[number : number + count + 1])
            ]
            unexplained = [gap for gap in gaps if gap[0] + gap[1] < seconds]
            expect(not unexplained, (count, seconds, unexplained))
            close += sum(gap[0] < seconds for gap in gaps)
            shortest[count] = min(gaps, default=(0.0,))[0]
        refused = sum(one["refused"] in ("burst", "quota") for one in asked)
        expect(refused <= close + 2 * len(strays), refused)  # a stray, and whoever it came in the way of
        return (
            f"{len(received)} received of {len(granted)} granted, 1, 5 and 25 more within no less than "
            f"{shortest[1]:.2f} s, {shortest[5]:.1f} s and {shortest[25] / 3600:.1f} h; {close} came too close, being "
            f"late by more than the margin ({len(strays)} of them by more than leave lasts); {refused} refused for it"
        )

    def _on_their_way(
        self, asked: Sequence[dict[str, Any]], granted: Sequence[tuple[datetime, str, str]]
    ) -> list[tuple[datetime, float]]:
        """Return when each request was received, and how long after its leave, each leave serving once."""
        unused = defaultdict(list)
        for at, function, ticker in granted:
            unused[function, ticker].append(at)
        received = []
        for one in sorted(asked, key=lambda one: one["at"]):
            leaves = unused[one["function"], one["symbol"].replace("-", ".")]
            before = [at for at in leaves if at <= one["at"] + timedelta(seconds=0.05)]
            expect(before, ("asked without leave", one))
            leaves.remove(before[-1])
            received.append((one["at"], (one["at"] - before[-1]).total_seconds()))
        return received

    def inv_8_no_more_was_asked_than_needed(self) -> str:
        """
        One good answer for each ticker and time of asking, and one more for each harm.

        A harm may fall between a request and the transaction that keeps its answer; who comes after asks again.
        """
        good = Counter(
            (one["function"], one["symbol"].replace("-", "."), slot(one["at"], one["function"]))
            for one in self.requests
            if one["provider"] == "alphavantage" and one["fault"] in (None, "partial_bar", "late_bar", "late_split")
        )
        more = {asked: count - 1 for asked, count in good.items() if count > 1}
        harm = sum(self.seen.harm.values())
        expect(sum(more.values()) <= harm, more)
        return f"{len(good)} good answers needed, {sum(more.values())} asked for again after {harm} harms"

    def inv_9_at_most_three_questions_a_Monday(self) -> str:
        """Each claimed before it was sent; unanswered ones are the provider's or a harm's; accepted once."""
        sent = Counter(one["at"].astimezone(NEW_YORK).date() for one in self.requests if one["provider"] == "openai")
        by_monday = defaultdict(list)
        for row in self.generations:
            by_monday[row["run_date"]].append(row)
        for monday, rows in by_monday.items():
            expect([row["attempt"] for row in rows] == list(range(1, len(rows) + 1)), rows)
            expect(len(rows) <= 3 and sent[monday] <= len(rows), (monday, sent[monday], rows))
            expect(sum(bool(row["accepted"]) for row in rows) <= 1, rows)
            expect(all(row["accepted"] is not None for row in rows), rows)
        expect(set(sent) <= set(by_monday), sent)
        wrong = sum(one["fault"] is not None for one in self.requests if one["provider"] == "openai")
        more = len(self.generations) - len(by_monday) - wrong
        expect(more <= sum(self.seen.harm.values()), more)
        return f"{len(self.generations)} questions, {sum(sent.values())} received, {wrong} of them answered wrongly"

    # The queue and the processes

    def inv_A_the_queue_is_clean(self) -> str:
        """Nothing runs, failed or was given up; what waits is due later, and waits once."""
        status = Counter(job["status"] for job in self.jobs)
        expect(
            set(status) <= {"succeeded", "todo"},
            [job for job in self.jobs if job["status"] not in ("succeeded", "todo")],
        )
        waiting = [job for job in self.jobs if job["status"] == "todo"]
        early = [job for job in waiting if job["scheduled_at"] is None or job["scheduled_at"] <= self.seen.end]
        expect(not early, early)
        twice = Counter((job["task_name"], json.dumps(job["args"], sort_keys=True)) for job in waiting)
        expect(max(twice.values(), default=1) == 1, twice.most_common(3))
        return f"{status['succeeded']} jobs succeeded, {status['todo']} wait for days to come"

    def inv_B_every_process_is_well(self) -> str:
        """None ended by itself or would not end; all say so at the end."""
        expect(not self.seen.odd, self.seen.odd)
        return "none ended by itself but for want of a database; all three answered well at the end"

    def lateness(self) -> Iterator[str]:
        """Give how late, in told time, checkpoints and batches were."""
        checkpoints = [
            (row["skipped_at"] or row["taken_at"]) - at_nine(row["checkpoint_date"])
            for row in self.checkpoints
            if row["day"] and row["skip_reason"] != "MISSING_CLOSE"
        ]
        batches = [row["created_at"] - at_nine(row["run_date"]) for row in self.batches]
        for what, late in (("checkpoints", checkpoints), ("batches", batches)):
            seconds = sorted(one.total_seconds() for one in late)
            ninth = quantiles(seconds, n=10, method="inclusive")[-1] if len(seconds) > 1 else seconds[0]
            yield (
                f"{len(late)} {what} were late by {median(seconds):.1f} s (median), {ninth:.0f} s (nine in ten), "
                f"{seconds[-1]:.0f} s (all)"
            )

    def _made(self) -> list[dict[str, Any]]:
        return [row for row in self.batches if row["status"] != "failed"]

    def _days(self, batch: dict[str, Any]) -> list[dict[str, Any]]:
        return [row for row in self.checkpoints if row["batch_id"] == batch["id"]]

    def _picks(self, batch: dict[str, Any]) -> list[dict[str, Any]]:
        return [row for row in self.picks if row["batch_id"] == batch["id"]]

    def _close(self, id: object, ticker: str, session: date) -> Decimal:
        reading = self.closes[id]
        expect((reading["ticker"], reading["trading_day"]) == (ticker, session), reading)
        return reading["close"]  # type: ignore[no-any-return]

    def _factor(self, ticker: str, after: date, through: date) -> Decimal:
        """Return how many shares one became; the newest reading of a day holds."""
        in_force = {row["effective_date"]: row["factor"] for row in self.splits if row["ticker"] == ticker}
        product = Decimal(1)
        for day in sorted(in_force):
            if after < day <= through:
                product *= in_force[day]
        return product

    def _session_from(self, day: date) -> date:
        while not self.market.calendar.is_session(day):
            day += timedelta(days=1)
        return day


def at_nine(day: date) -> datetime:
    """Return nine o'clock in New York."""
    return datetime.combine(day, time(9), NEW_YORK)


def slot(at: datetime, function: str) -> datetime | date:
    """Return since when an answer given at `at` holds: the last time of asking, or for splits the day."""
    local = at.astimezone(NEW_YORK)
    if function == "SPLITS":
        return local.date()
    moments = [
        datetime.combine(day, clock, NEW_YORK)
        for day in (local.date() - timedelta(days=1), local.date())
        for clock in SLOTS
    ]
    return max(moment for moment in moments if moment <= local)


def expect(holds: object, told: object) -> None:
    """Raise Misfit, telling `told`, unless it holds."""
    if not holds:
        raise Misfit(str(told)[:2000])


def faults_of(requests: Sequence[dict[str, Any]]) -> Counter[str]:
    """Return what the providers did wrong, by name."""
    return Counter(f"{one['provider']} {one['fault']}" for one in requests if one["fault"])
