"""
Checks the record of a rehearsal with `--odd`: it must be right although the providers make errors.

Every figure is computed again from the simulated market (`app.simulation.market` has the true
prices and splits), with fractions and without the service's arithmetic. The injected faults are
read from the simulators' log of requests.
"""

import json
import re
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import psycopg
from psycopg.rows import dict_row

from app.domain.calendar import Calendar
from app.simulation.market import BENCHMARK_TICKER, Market
from app.simulation.odd_providers import PERMANENT, SPLIT_CHANCE, OddProviders

NEW_YORK = ZoneInfo("America/New_York")

# A stored figure has 28 digits. A wrong figure differs in its first digits.
TOLERANCE = Fraction(1, 10**18)

# A restated price has four decimals. Its rounding can change a price, and a percentage, by this
# much.
ROUNDING = Fraction(1, 10**4)
ROUNDING_PCT = Fraction(1, 10**3)

# A move of at least this much that no split explains is marked.
MARKED_MOVE = Fraction(1, 10)

# Factors that are rounded to four decimals, and their exact values.
EXACT_FACTORS = {"0.0667": Fraction(1, 15), "0.3333": Fraction(1, 3)}

# If a permanent fault made a Monday fail, the text of the failure contains this word. For a fault
# in GONE, it contains the ticker.
FAILURE_WORDS = {
    ("openai", "bad_key"): "OPENAI_API_KEY",
    ("openai", "no_credit"): "out of credit",
    ("alphavantage", "bad_key"): "ALPHA_VANTAGE_API_KEY",
    ("alphavantage", "premium"): "premium",
    ("alphavantage", "quota"): "quota",
}
GONE = ("unknown_for_good", "delisted_lately")

METRICS = """
SELECT m.*, p.ticker, p.initial_price, p.entry_open, b.run_date, b.trading_day AS baseline, c.day,
    c.trading_day AS session, c.benchmark_return_pct,
    own.source, baseline.source AS baseline_source, entry.source AS entry_source
FROM pick_checkpoint_metrics AS m
JOIN picks AS p ON p.id = m.pick_id
JOIN closes AS baseline ON baseline.id = p.initial_close_id
LEFT JOIN closes AS own ON own.id = m.close_id
LEFT JOIN closes AS entry ON entry.id = p.entry_close_id
JOIN checkpoints AS c ON c.id = m.checkpoint_id
JOIN batches AS b ON b.id = c.batch_id
ORDER BY b.run_date, c.day, p.position
"""
CHECKPOINTS = """
SELECT c.*, b.run_date, b.trading_day AS baseline, b.benchmark_initial_price,
    b.status AS batch_status,
    array(SELECT ticker FROM picks WHERE batch_id = b.id) AS tickers
FROM checkpoints AS c JOIN batches AS b ON b.id = c.batch_id
ORDER BY b.run_date, c.day
"""


class TrueFigures(NamedTuple):
    """The true figures of a pick, from the simulated market."""

    price: Fraction
    factor: Fraction
    absolute: Fraction
    from_open: Fraction


class TrueMarket:
    """The simulated market: its closes, opens and splits, as exact numbers."""

    def __init__(self, until: date) -> None:
        self.until, self.calendar = until, Calendar()
        self._market = Market(self.calendar, split_chance=SPLIT_CHANCE)
        self._sessions: dict[str, dict[date, tuple[Fraction, Fraction]]] = {}

    def sessions(self, ticker: str) -> dict[date, tuple[Fraction, Fraction]]:
        """Return the open and the close of every session of a ticker."""
        if ticker not in self._sessions:
            bars = self._market.bars(ticker, self.until, 10_000)
            self._sessions[ticker] = {
                day: (Fraction(bar.open), Fraction(bar.close)) for day, bar in bars
            }
        return self._sessions[ticker]

    def close(self, ticker: str, session: date) -> Fraction:
        return self.sessions(ticker)[session][1]

    def splits(self, ticker: str, after: date, through: date) -> list[tuple[date, Fraction]]:
        """Return the splits of a ticker after the day `after`, up to and including `through`."""
        listed = self._market.splits(ticker, self.until)
        return [
            (day, EXACT_FACTORS.get(text) or Fraction(text))
            for day, text in listed
            if after < day <= through
        ]

    def factor(self, ticker: str, after: date, through: date) -> Fraction:
        product = Fraction(1)
        for _, one in self.splits(ticker, after, through):
            product *= one
        return product

    def figures(self, ticker: str, run_date: date, baseline: date, session: date) -> TrueFigures:
        """Return the true figures of a pick, by the definitions of docs/record.md."""
        price, first = self.close(ticker, session), self.close(ticker, baseline)
        factor = self.factor(ticker, baseline, session)
        entry = min(day for day in self.sessions(ticker) if day >= run_date)
        opened = self.sessions(ticker)[entry][0]
        return TrueFigures(
            price=price,
            factor=factor,
            absolute=(price * factor / first - 1) * 100,
            from_open=(price * self.factor(ticker, entry, session) / opened - 1) * 100,
        )

    def largest_move(self, ticker: str, baseline: date, session: date) -> Fraction:
        """Return the largest move from one session to the next that no split explains."""
        days = [day for day in self.sessions(ticker) if baseline <= day <= session]
        moves = [
            abs(
                self.close(ticker, after)
                * self.factor(ticker, before, after)
                / self.close(ticker, before)
                - 1
            )
            for before, after in pairwise(days)
        ]
        return max(moves, default=Fraction(0))


def restated_as_of(source: str | None) -> date | None:
    """Return the basis date of a restated price, from its source; None if it is not restated."""
    _, restated, day = (source or "").rpartition(", restated as of ")
    return date.fromisoformat(day) if restated else None


class RecordChecker:
    """Compares a record with the simulated market; each error adds a text to `discrepancies`."""

    def __init__(
        self, address: str, requests: list[dict[str, Any]], seed: str, first: date, until: date
    ) -> None:
        self.address, self.first, self.until = address, first, until
        self.requests = [{**one, "at": datetime.fromisoformat(one["at"])} for one in requests]
        self.odd, self.truth = OddProviders(seed), TrueMarket(until)
        self.discrepancies: list[str] = []
        self.counts: Counter[str] = Counter()

    def check(self) -> list[str]:
        """Check everything, and return the discrepancies."""
        self.check_mondays()
        self.check_mornings()
        self.check_figures()
        self.check_published_figures()
        self.check_readings()
        self.check_jobs()
        return self.discrepancies

    def query_rows(self, query: str) -> list[dict[str, Any]]:
        with psycopg.connect(self.address, row_factory=dict_row) as conn:
            return conn.execute(query.encode()).fetchall()

    def add_discrepancy(self, kind: str, details: str) -> None:
        self.counts[f"wrong: {kind}"] += 1
        self.discrepancies.append(f"{kind}: {details}")

    # Mondays

    def check_mondays(self) -> None:
        """
        Check that every Monday has one row, and that each failed one has a reason.

        The text of a failure must name a permanent fault that was injected on that day.
        """
        batches = {row["run_date"]: row for row in self.query_rows("SELECT * FROM batches")}
        questions = self.query_rows(
            "SELECT run_date, refusal FROM generations ORDER BY run_date, attempt"
        )
        monday = self.first
        while monday <= self.until:
            if monday not in batches:
                self.add_discrepancy("no row", str(monday))
            monday += timedelta(days=7)
        for monday, row in batches.items():
            self.counts["Mondays"] += 1
            if row["status"] == "failed":
                self.counts["Mondays lost"] += 1
                fault = self._find_permanent_fault(monday, row["failure"])
                if fault is None:
                    refusals = [
                        one["refusal"]
                        for one in questions
                        if one["run_date"] == monday and one["refusal"]
                    ]
                    self.add_discrepancy(
                        "Monday lost",
                        f"{monday} {row['failure_reason']}: {row['failure']} {refusals}",
                    )
                self.counts[f"lost to {fault}"] += 1

    def _find_permanent_fault(self, day: date, text: str) -> str | None:
        """Return the permanent fault of a day that `text` names; None if it names no such fault."""
        for one in self._requests_on(day):
            for fault in (one["fault"] or "").split("+"):
                if fault not in PERMANENT[one["provider"]]:
                    continue
                ticker = one["symbol"].replace("-", ".")
                word = ticker if fault in GONE else FAILURE_WORDS[one["provider"], fault]
                if re.search(rf"(?<![A-Za-z.]){re.escape(word)}(?![A-Za-z])", text):
                    return f"{fault} of {one['provider']}"
        return None

    def _requests_on(self, day: date) -> list[dict[str, Any]]:
        return [one for one in self.requests if one["at"].astimezone(NEW_YORK).date() == day]

    # Mornings

    def check_mornings(self) -> None:
        """
        Check that every day of each batch has one row, and that no skip is without a reason.

        A checkpoint stays skipped only if the market was closed, or because of a permanent fault.
        """
        days: dict[date, list[int]] = {}
        for row in self.query_rows(CHECKPOINTS):
            days.setdefault(row["run_date"], []).append(row["day"])
            if row["day"] == 0:
                continue
            day_before = row["run_date"] + timedelta(days=row["day"] - 1)
            self.counts["mornings"] += 1
            closed = not self.truth.calendar.is_session(day_before)
            if closed != (row["skip_reason"] == "MARKET_CLOSED"):
                self.add_discrepancy(
                    "closed day", f"{row['run_date']} day {row['day']}: {row['skip_reason']}"
                )
            if row["skipped_at"] and not closed:
                self.counts["mornings skipped"] += 1
                self.counts["mornings retaken"] += row["status"] == "computed"
            if row["status"] == "skipped" and not closed:
                self._check_stays_skipped(row)
        for run_date, stored_days in days.items():
            expected = list(range(min(14, (self.until - run_date).days) + 1))
            if stored_days != expected:
                self.add_discrepancy("days", f"{run_date}: {stored_days}")

    def _check_stays_skipped(self, row: dict[str, Any]) -> None:
        day = row["run_date"] + timedelta(days=row["day"])
        label = f"{row['run_date']} day {row['day']} {row['skip_reason']}: {row['note']}"
        if row["batch_status"] != "completed":
            self.counts["mornings that may still be retaken"] += 1
        elif self._find_permanent_fault(day, row["note"]) or any(
            self._is_gone(ticker, day) for ticker in row["tickers"]
        ):
            self.counts["mornings skipped for good"] += 1
        else:
            self.add_discrepancy("morning lost", label)

    def _is_gone(self, ticker: str, day: date) -> bool:
        """Return whether the simulators removed a ticker on a day, or within 14 days after it."""
        symbol = ticker.replace(".", "-")
        until = day + timedelta(days=14)
        return any(
            day <= one["at"].astimezone(NEW_YORK).date() <= until
            and set((one["fault"] or "").split("+")) & set(GONE)
            for one in self.requests
            if one["symbol"] == symbol
        )

    # Figures

    def check_figures(self) -> None:
        """Check that every stored figure is true, and that only figures with a move are marked."""
        for row in self.query_rows(CHECKPOINTS):
            if row["status"] == "computed":
                self._check_benchmark(row)
        for row in self.query_rows(METRICS):
            label = f"{row['run_date']} day {row['day']} {row['ticker']}"
            true = self.truth.figures(
                row["ticker"], row["run_date"], row["baseline"], row["session"]
            )
            if self._not_listed_yet(
                ticker=row["ticker"],
                run_date=row["run_date"],
                baseline=row["baseline"],
                session=row["session"],
            ):
                self.counts["figures whose split is not listed before the end"] += 1
                continue
            self._compare(label, row, true)
            move = self.truth.largest_move(row["ticker"], row["baseline"], row["session"])
            self.counts["marks"] += row["unusual_move"]
            if row["unusual_move"] and move < MARKED_MOVE:
                self.add_discrepancy("false mark", f"{label}: largest move {float(move):.4f}")
            if not row["unusual_move"] and move >= MARKED_MOVE:
                self.add_discrepancy("no mark", f"{label}: a move of {float(move):.4f}")

    def _check_benchmark(self, row: dict[str, Any]) -> None:
        label = f"{row['run_date']} day {row['day']} {BENCHMARK_TICKER}"
        price, first = (
            self.truth.close(BENCHMARK_TICKER, row["trading_day"]),
            self.truth.close(BENCHMARK_TICKER, row["baseline"]),
        )
        self._check_value(
            label=label, what="benchmark price", stored=row["benchmark_price"], true=price
        )
        self._check_value(
            label=label,
            what="benchmark's first price",
            stored=row["benchmark_initial_price"],
            true=first,
        )
        if row["day"]:
            self._check_value(
                label=label,
                what="benchmark return",
                stored=row["benchmark_return_pct"],
                true=(price / first - 1) * 100,
            )

    def _compare(self, label: str, row: dict[str, Any], true: TrueFigures) -> None:
        ticker, benchmark = (
            row["ticker"],
            self._change(BENCHMARK_TICKER, row["baseline"], row["session"]),
        )
        own = self._scale(ticker, row["session"], row["source"])
        first = self._scale(ticker, row["baseline"], row["baseline_source"])
        is_restated = any(
            map(restated_as_of, (row["source"], row["baseline_source"], row["entry_source"]))
        )
        price_by, by = (ROUNDING, ROUNDING_PCT) if is_restated else (TOLERANCE, TOLERANCE)
        self.counts["figures of a restated series"] += is_restated
        baseline = self.truth.close(ticker, row["baseline"])
        self._check_value(
            label=label,
            what="initial price",
            stored=row["initial_price"],
            true=baseline / first,
            by=price_by,
        )
        self._check_value(
            label=label,
            what="price",
            stored=row["current_price"],
            true=true.price / own,
            by=price_by,
        )
        self._check_value(
            label=label, what="factor", stored=row["split_factor"], true=true.factor * own / first
        )
        self._check_value(
            label=label,
            what="absolute return",
            stored=row["absolute_return_pct"],
            true=true.absolute,
            by=by,
        )
        self._check_value(
            label=label,
            what="return against the benchmark",
            stored=row["vs_benchmark_pct"],
            true=true.absolute - benchmark,
            by=by,
        )
        if row["return_from_open_pct"] is not None:
            self._check_value(
                label=label,
                what="return from open",
                stored=row["return_from_open_pct"],
                true=true.from_open,
                by=by,
            )
        else:
            self.counts["figures without a return from the open"] += 1

    def _change(self, ticker: str, after: date, session: date) -> Fraction:
        return self.truth.close(ticker, session) / self.truth.close(ticker, after) * 100 - 100

    def _scale(self, ticker: str, session: date, source: str | None) -> Fraction:
        """Return how many shares of a reading's basis date one share of its session has become."""
        as_of = restated_as_of(source)
        return self.truth.factor(ticker, session, as_of) if as_of else Fraction(1)

    def _check_value(
        self, label: str, what: str, stored: Decimal, true: Fraction, by: Fraction = TOLERANCE
    ) -> None:
        self.counts["figures"] += 1
        if abs(Fraction(stored) - true) > by:
            self.add_discrepancy(
                "figure", f"{label}: {what} is {stored:.6f}, not {float(true):.6f}"
            )

    def _not_listed_yet(self, ticker: str, run_date: date, baseline: date, session: date) -> bool:
        """
        Return whether the provider lists a split of these days too late for the rehearsal.

        That is after the last Sunday before the end of the rehearsal on which splits are requested.
        """
        late = self.odd.listed_after(ticker)
        end = min(self.until, run_date + timedelta(days=27))
        last_sunday = end - timedelta(days=(end.weekday() + 1) % 7)
        return any(
            day + late > last_sunday for day, _ in self.truth.splits(ticker, baseline, session)
        )

    def check_published_figures(self) -> None:
        """
        Check the figures as they were first published, from the journal.

        A figure may be wrong until the provider lists a split. Then it must be marked, unless the
        split moves the price by less than 10 %.
        """
        batches: dict[str, dict[str, Any]] = {}
        picks: dict[str, dict[str, Any]] = {}
        sources: dict[str, str] = {}
        for entry in self.query_rows("SELECT content FROM journal ORDER BY seq"):
            content = json.loads(entry["content"])
            if content["kind"] == "BATCH":
                batches[content["batch"]["id"]] = content["batch"]
            picks |= {one["id"]: one for one in content.get("picks", ())}
            sources |= {one["id"]: one["source"] for one in content.get("closes", ())}
            if content["kind"] != "CHECKPOINT" or "trading_day" not in content["checkpoint"]:
                continue
            batch = batches[content["checkpoint"]["batch_id"]]
            run_date, baseline, session = (
                date.fromisoformat(text)
                for text in (
                    batch["run_date"],
                    batch["trading_day"],
                    content["checkpoint"]["trading_day"],
                )
            )
            for metric in content.get("metrics", ()):
                if metric["checkpoint_id"] != content["checkpoint"]["id"]:
                    continue  # a metric of an earlier day, which now gets its return from the open
                ticker = picks[metric["pick_id"]]["ticker"]
                true = self.truth.figures(ticker, run_date, baseline, session)
                self.counts["figures on their day"] += 1
                as_of = restated_as_of(sources.get(metric.get("close_id", "")))
                by = ROUNDING_PCT if as_of else TOLERANCE
                if abs(Fraction(metric["absolute_return_pct"]) - true.absolute) <= by:
                    continue
                self.counts["figures wrong on their day"] += 1
                label = (
                    f"{content['at']} {run_date} {session} {ticker}: "
                    f"{metric['absolute_return_pct']:.10}"
                )
                raw_move = self._raw_move(
                    ticker=ticker, baseline=baseline, session=session, as_of=as_of or session
                )
                if metric["unusual_move"] != "true" and raw_move >= MARKED_MOVE:
                    self.add_discrepancy(
                        "wrong and unmarked", f"{label}, not {float(true.absolute):.6f}"
                    )

    def _raw_move(self, ticker: str, baseline: date, session: date, as_of: date) -> Fraction:
        """
        Return the largest move at a split, as if the split were not known.

        A split after a session counts, too, if the price of that session was restated for it.
        """
        days = list(self.truth.sessions(ticker))
        moves = []
        for day, _ in self.truth.splits(ticker, baseline, session):
            previous = days[days.index(day) - 1]
            moves.append(
                abs(self.truth.close(ticker, day) / self.truth.close(ticker, previous) - 1)
            )
        moves += [abs(1 / factor - 1) for _, factor in self.truth.splits(ticker, session, as_of)]
        return max(moves, default=Fraction(1))

    # The rest

    def check_readings(self) -> None:
        """Check that each reading is of a session, and was read after the day of the session."""
        for row in self.query_rows("SELECT ticker, trading_day, read_at FROM closes"):
            self.counts["readings"] += 1
            if not self.truth.calendar.is_session(row["trading_day"]):
                self.add_discrepancy("no session", f"{row['ticker']} {row['trading_day']}")
            if row["trading_day"] >= row["read_at"].astimezone(NEW_YORK).date():
                self.add_discrepancy("partial bar", f"{row['ticker']} {row['trading_day']}")

    def check_jobs(self) -> None:
        """Check that no job was given up, and that no job is late."""
        for row in self.query_rows(
            "SELECT status::text, count(*) FROM queue.procrastinate_jobs GROUP BY status"
        ):
            self.counts[f"jobs {row['status']}"] = row["count"]
            if row["status"] not in ("succeeded", "todo"):
                self.add_discrepancy("job", f"{row['count']} {row['status']}")
        due = datetime.combine(self.until, datetime.min.time(), UTC)
        for row in self.query_rows(
            "SELECT task_name, scheduled_at FROM queue.procrastinate_jobs WHERE status = 'todo'"
        ):
            if row["scheduled_at"] and row["scheduled_at"] < due:
                self.add_discrepancy("late job", f"{row['task_name']} {row['scheduled_at']}")

    def faults(self) -> Counter[str]:
        """Return how often each fault was injected, by `provider fault`."""
        return Counter(
            f"{one['provider']} {name}"
            for one in self.requests
            for name in (one["fault"] or "").split("+")
            if name
        )
