"""
The judge of a rehearsal with `--odd`: what a record must be, whatever its providers said.

Every figure is computed anew from the market itself (`app.simulation.market`: true prices, true splits), in fractions
and without the product's arithmetic. What was injected is read from the provider simulators' own log of requests.
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
from app.simulation.market import MARKET, Market
from app.simulation.odd_providers import PERMANENT, SPLITS_OFTEN, OddProviders

NEW_YORK = ZoneInfo("America/New_York")

# A stored figure has 28 digits; a wrong one differs in its first.
NEARLY = Fraction(1, 10**18)

# What a provider restates has four decimals: so much of a price, and of a percent, its rounding can make.
ROUNDED = Fraction(1, 10**4)
ROUNDED_PCT = Fraction(1, 10**3)

# From this on a move that no split explains is marked.
MARKED = Fraction(1, 10)

# Factors that were rounded to four decimals, and what they mean.
MEANT = {"0.0667": Fraction(1, 15), "0.3333": Fraction(1, 3)}

# What the record says when a Monday is lost to a permanent fault: words of the failure, or the ticker that is gone.
NAMED = {
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
SELECT c.*, b.run_date, b.trading_day AS baseline, b.benchmark_initial_price, b.status AS batch_status,
    array(SELECT ticker FROM picks WHERE batch_id = b.id) AS tickers
FROM checkpoints AS c JOIN batches AS b ON b.id = c.batch_id ORDER BY b.run_date, c.day
"""


class Figures(NamedTuple):
    """What a figure should be."""

    price: Fraction
    factor: Fraction
    absolute: Fraction
    from_open: Fraction


class Truth:
    """The market: its closes, opens and splits, as exact numbers."""

    def __init__(self, until: date) -> None:
        self.until, self.calendar = until, Calendar()
        self._market = Market(self.calendar, splits_often=SPLITS_OFTEN)
        self._known: dict[str, dict[date, tuple[Fraction, Fraction]]] = {}

    def sessions(self, ticker: str) -> dict[date, tuple[Fraction, Fraction]]:
        """Open and close of every session of a ticker."""
        if ticker not in self._known:
            bars = self._market.bars(ticker, self.until, 10_000)
            self._known[ticker] = {day: (Fraction(bar.open), Fraction(bar.close)) for day, bar in bars}
        return self._known[ticker]

    def close(self, ticker: str, session: date) -> Fraction:
        return self.sessions(ticker)[session][1]

    def splits(self, ticker: str, after: date, through: date) -> list[tuple[date, Fraction]]:
        """The splits of a ticker after a session, up to and including another."""
        listed = self._market.splits(ticker, self.until)
        return [(day, MEANT.get(said) or Fraction(said)) for day, said in listed if after < day <= through]

    def factor(self, ticker: str, after: date, through: date) -> Fraction:
        product = Fraction(1)
        for _, one in self.splits(ticker, after, through):
            product *= one
        return product

    def figures(self, ticker: str, run_date: date, baseline: date, session: date) -> Figures:
        """What a pick's figures are, by the definition in docs/record.md."""
        price, first = self.close(ticker, session), self.close(ticker, baseline)
        factor = self.factor(ticker, baseline, session)
        entry = min(day for day in self.sessions(ticker) if day >= run_date)
        opened = self.sessions(ticker)[entry][0]
        return Figures(
            price,
            factor,
            (price * factor / first - 1) * 100,
            (price * self.factor(ticker, entry, session) / opened - 1) * 100,
        )

    def largest_move(self, ticker: str, baseline: date, session: date) -> Fraction:
        """The largest move between neighbouring sessions that no split explains."""
        days = [day for day in self.sessions(ticker) if baseline <= day <= session]
        moves = [
            abs(self.close(ticker, after) * self.factor(ticker, before, after) / self.close(ticker, before) - 1)
            for before, after in pairwise(days)
        ]
        return max(moves, default=Fraction(0))


def restated_as_of(source: str | None) -> date | None:
    """The day of whose shares a price is, if its source says that its series was restated."""
    _, restated, day = (source or "").rpartition(", restated as of ")
    return date.fromisoformat(day) if restated else None


class Judge:
    """The record of a rehearsal beside the truth; `misfits` says all that is wrong."""

    def __init__(self, address: str, requests: list[dict[str, Any]], seed: str, first: date, until: date) -> None:
        self.address, self.first, self.until = address, first, until
        self.requests = [{**one, "at": datetime.fromisoformat(one["at"])} for one in requests]
        self.odd, self.truth = OddProviders(seed), Truth(until)
        self.misfits: list[str] = []
        self.counted: Counter[str] = Counter()

    def judge(self) -> list[str]:
        """Look at everything; return what is wrong."""
        self.mondays()
        self.mornings()
        self.figures()
        self.figures_on_their_day()
        self.readings()
        self.jobs()
        return self.misfits

    def rows(self, query: str) -> list[dict[str, Any]]:
        with psycopg.connect(self.address, row_factory=dict_row) as conn:
            return conn.execute(query.encode()).fetchall()

    def wrong(self, kind: str, told: str) -> None:
        self.counted[f"wrong: {kind}"] += 1
        self.misfits.append(f"{kind}: {told}")

    # Mondays

    def mondays(self) -> None:
        """Every Monday has one row; each loss names a permanent fault that was injected on that day."""
        found = {row["run_date"]: row for row in self.rows("SELECT * FROM batches")}
        asked = self.rows("SELECT run_date, refusal FROM generations ORDER BY run_date, attempt")
        monday = self.first
        while monday <= self.until:
            if monday not in found:
                self.wrong("no row", str(monday))
            monday += timedelta(days=7)
        for monday, row in found.items():
            self.counted["Mondays"] += 1
            if row["status"] == "failed":
                self.counted["Mondays lost"] += 1
                if not (named := self._permanent(monday, row["failure"])):
                    refused = [one["refusal"] for one in asked if one["run_date"] == monday and one["refusal"]]
                    self.wrong("Monday lost", f"{monday} {row['failure_reason']}: {row['failure']} {refused}")
                self.counted[f"lost to {named}"] += 1

    def _permanent(self, day: date, told: str) -> str | None:
        """The permanent fault of a day, or of a ticker, that a text names."""
        for one in self._on(day):
            for fault in (one["fault"] or "").split("+"):
                if fault not in PERMANENT[one["provider"]]:
                    continue
                ticker = one["symbol"].replace("-", ".")
                word = ticker if fault in GONE else NAMED[one["provider"], fault]
                if re.search(rf"(?<![A-Za-z.]){re.escape(word)}(?![A-Za-z])", told):
                    return f"{fault} of {one['provider']}"
        return None

    def _on(self, day: date) -> list[dict[str, Any]]:
        return [one for one in self.requests if one["at"].astimezone(NEW_YORK).date() == day]

    # Mornings

    def mornings(self) -> None:
        """Each day has one row; what is skipped for good is a closed market, or names a permanent fault."""
        days: dict[date, list[int]] = {}
        for row in self.rows(CHECKPOINTS):
            days.setdefault(row["run_date"], []).append(row["day"])
            if row["day"] == 0:
                continue
            eve = row["run_date"] + timedelta(days=row["day"] - 1)
            self.counted["mornings"] += 1
            closed = not self.truth.calendar.is_session(eve)
            if closed != (row["skip_reason"] == "MARKET_CLOSED"):
                self.wrong("closed day", f"{row['run_date']} day {row['day']}: {row['skip_reason']}")
            if row["skipped_at"] and not closed:
                self.counted["mornings skipped"] += 1
                self.counted["mornings retaken"] += row["status"] == "computed"
            if row["status"] == "skipped" and not closed:
                self._skipped_for_good(row)
        for run_date, found in days.items():
            expected = list(range(min(14, (self.until - run_date).days) + 1))
            if found != expected:
                self.wrong("days", f"{run_date}: {found}")

    def _skipped_for_good(self, row: dict[str, Any]) -> None:
        day = row["run_date"] + timedelta(days=row["day"])
        told = f"{row['run_date']} day {row['day']} {row['skip_reason']}: {row['note']}"
        if row["batch_status"] != "completed":
            self.counted["mornings that may still be retaken"] += 1
        elif self._permanent(day, row["note"]) or any(self._is_gone(ticker, day) for ticker in row["tickers"]):
            self.counted["mornings skipped for good"] += 1
        else:
            self.wrong("morning lost", told)

    def _is_gone(self, ticker: str, day: date) -> bool:
        """Whether a ticker was gone on a day or soon after, by the log."""
        symbol = ticker.replace(".", "-")
        until = day + timedelta(days=14)
        return any(
            day <= one["at"].astimezone(NEW_YORK).date() <= until and set((one["fault"] or "").split("+")) & set(GONE)
            for one in self.requests
            if one["symbol"] == symbol
        )

    # Figures

    def figures(self) -> None:
        """Every figure that is stored is the market's, and every mark has a move."""
        for row in self.rows(CHECKPOINTS):
            if row["status"] == "computed":
                self._benchmark(row)
        for row in self.rows(METRICS):
            told = f"{row['run_date']} day {row['day']} {row['ticker']}"
            true = self.truth.figures(row["ticker"], row["run_date"], row["baseline"], row["session"])
            if self._not_listed_yet(row["ticker"], row["run_date"], row["baseline"], row["session"]):
                self.counted["figures whose split is not listed before the end"] += 1
                continue
            self._compare(told, row, true)
            move = self.truth.largest_move(row["ticker"], row["baseline"], row["session"])
            self.counted["marks"] += row["unusual_move"]
            if row["unusual_move"] and move < MARKED:
                self.wrong("false mark", f"{told}: largest move {float(move):.4f}")
            if not row["unusual_move"] and move >= MARKED:
                self.wrong("no mark", f"{told}: a move of {float(move):.4f}")

    def _benchmark(self, row: dict[str, Any]) -> None:
        told = f"{row['run_date']} day {row['day']} {MARKET}"
        price, first = self.truth.close(MARKET, row["trading_day"]), self.truth.close(MARKET, row["baseline"])
        self._is(told, "benchmark price", row["benchmark_price"], price)
        self._is(told, "benchmark's first price", row["benchmark_initial_price"], first)
        if row["day"]:
            self._is(told, "benchmark return", row["benchmark_return_pct"], (price / first - 1) * 100)

    def _compare(self, told: str, row: dict[str, Any], true: Figures) -> None:
        ticker, benchmark = row["ticker"], self._change(MARKET, row["baseline"], row["session"])
        own = self._scale(ticker, row["session"], row["source"])
        first = self._scale(ticker, row["baseline"], row["baseline_source"])
        is_restated = any(map(restated_as_of, (row["source"], row["baseline_source"], row["entry_source"])))
        price_by, by = (ROUNDED, ROUNDED_PCT) if is_restated else (NEARLY, NEARLY)
        self.counted["figures of a restated series"] += is_restated
        baseline = self.truth.close(ticker, row["baseline"])
        self._is(told, "initial price", row["initial_price"], baseline / first, price_by)
        self._is(told, "price", row["current_price"], true.price / own, price_by)
        self._is(told, "factor", row["split_factor"], true.factor * own / first)
        self._is(told, "absolute return", row["absolute_return_pct"], true.absolute, by)
        self._is(told, "return against the benchmark", row["vs_benchmark_pct"], true.absolute - benchmark, by)
        if row["return_from_open_pct"] is not None:
            self._is(told, "return from open", row["return_from_open_pct"], true.from_open, by)
        else:
            self.counted["figures without a return from the open"] += 1

    def _change(self, ticker: str, after: date, session: date) -> Fraction:
        return self.truth.close(ticker, session) / self.truth.close(ticker, after) * 100 - 100

    def _scale(self, ticker: str, session: date, source: str | None) -> Fraction:
        """How many of the shares that a reading is about one share of its session became."""
        as_of = restated_as_of(source)
        return self.truth.factor(ticker, session, as_of) if as_of else Fraction(1)

    def _is(self, told: str, what: str, stored: Decimal, true: Fraction, by: Fraction = NEARLY) -> None:
        self.counted["figures"] += 1
        if abs(Fraction(stored) - true) > by:
            self.wrong("figure", f"{told}: {what} is {stored:.6f}, not {float(true):.6f}")

    def _not_listed_yet(self, ticker: str, run_date: date, baseline: date, session: date) -> bool:
        """Whether a split that counts is first listed after the last Sunday before the end of the rehearsal."""
        late = self.odd.listed_after(ticker)
        end = min(self.until, run_date + timedelta(days=27))
        last_sunday = end - timedelta(days=(end.weekday() + 1) % 7)
        return any(day + late > last_sunday for day, _ in self.truth.splits(ticker, baseline, session))

    def figures_on_their_day(self) -> None:
        """What was published wrong until a split was listed was marked, unless the split moves less than a tenth."""
        batches: dict[str, dict[str, Any]] = {}
        picks: dict[str, dict[str, Any]] = {}
        sources: dict[str, str] = {}
        for entry in self.rows("SELECT content FROM journal ORDER BY seq"):
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
                for text in (batch["run_date"], batch["trading_day"], content["checkpoint"]["trading_day"])
            )
            for metric in content.get("metrics", ()):
                if metric["checkpoint_id"] != content["checkpoint"]["id"]:
                    continue  # an earlier day's, whose return from the open is known now
                ticker = picks[metric["pick_id"]]["ticker"]
                true = self.truth.figures(ticker, run_date, baseline, session)
                self.counted["figures on their day"] += 1
                as_of = restated_as_of(sources.get(metric.get("close_id", "")))
                by = ROUNDED_PCT if as_of else NEARLY
                if abs(Fraction(metric["absolute_return_pct"]) - true.absolute) <= by:
                    continue
                self.counted["figures wrong on their day"] += 1
                told = f"{content['at']} {run_date} {session} {ticker}: {metric['absolute_return_pct']:.10}"
                moved = self._raw_move(ticker, baseline, session, as_of or session)
                if metric["unusual_move"] != "true" and moved >= MARKED:
                    self.wrong("wrong and unmarked", f"{told}, not {float(true.absolute):.6f}")

    def _raw_move(self, ticker: str, baseline: date, session: date, as_of: date) -> Fraction:
        """
        The largest move between two sessions at which a split came into force, as it looks without the split.

        A price that was restated for a split after its session moved by that split, too.
        """
        days = list(self.truth.sessions(ticker))
        moves = []
        for day, _ in self.truth.splits(ticker, baseline, session):
            eve = days[days.index(day) - 1]
            moves.append(abs(self.truth.close(ticker, day) / self.truth.close(ticker, eve) - 1))
        moves += [abs(1 / factor - 1) for _, factor in self.truth.splits(ticker, session, as_of)]
        return max(moves, default=Fraction(1))

    # The rest

    def readings(self) -> None:
        """No bar of a day without a session is stored, and none of a session that had not ended."""
        for row in self.rows("SELECT ticker, trading_day, read_at FROM closes"):
            self.counted["readings"] += 1
            if not self.truth.calendar.is_session(row["trading_day"]):
                self.wrong("no session", f"{row['ticker']} {row['trading_day']}")
            if row["trading_day"] >= row["read_at"].astimezone(NEW_YORK).date():
                self.wrong("partial bar", f"{row['ticker']} {row['trading_day']}")

    def jobs(self) -> None:
        """No job was given up, and none is late."""
        for row in self.rows("SELECT status::text, count(*) FROM queue.procrastinate_jobs GROUP BY status"):
            self.counted[f"jobs {row['status']}"] = row["count"]
            if row["status"] not in ("succeeded", "todo"):
                self.wrong("job", f"{row['count']} {row['status']}")
        due = datetime.combine(self.until, datetime.min.time(), UTC)
        for row in self.rows("SELECT task_name, scheduled_at FROM queue.procrastinate_jobs WHERE status = 'todo'"):
            if row["scheduled_at"] and row["scheduled_at"] < due:
                self.wrong("late job", f"{row['task_name']} {row['scheduled_at']}")

    def faults(self) -> Counter[str]:
        """What was injected, by name."""
        return Counter(
            f"{one['provider']} {name}" for one in self.requests for name in (one["fault"] or "").split("+") if name
        )
