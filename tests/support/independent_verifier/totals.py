"""The rules `dividend-listed`, `total-return` and `every-total`: docs/journal.md, "Dividends"."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from independent_verifier.api import Key, Row, key_of
from independent_verifier.known import (
    LEFT_OUT,
    Entry,
    Known,
    Readings,
    TrackedShare,
    day_of,
    moment,
    priced_as_of,
    product,
)
from independent_verifier.long_over import days_back
from independent_verifier.refused import require
from independent_verifier.sessions import DAY, SATURDAY, new_york_day

FOUR_WEEKS = timedelta(days=28)
CHECKPOINTS, METRICS = "checkpoints", "pick_checkpoint_metrics"
TABLES = (CHECKPOINTS, METRICS)
# The column that says whether a row has a total return.
TOTAL = {CHECKPOINTS: "benchmark_total_return_pct", METRICS: "total_return_pct"}
SPIN_OFF = {CHECKPOINTS: "benchmark_spin_off_counted_once", METRICS: "spin_off_counted_once"}


@dataclass
class Holding:
    """A share that a row is about, and the days on which it was held."""

    share: TrackedShare
    after: str  # the session of the baseline
    through: str
    bought_at: Decimal
    basis: str  # the day on whose shares the first price is based
    worth: Decimal  # the last price times the factor

    @property
    def days(self) -> Iterator[str]:
        """The days after the first one, up to and including the last one."""
        day = day_of(self.after) + DAY
        while str(day) <= self.through:
            yield str(day)
            day += DAY

    @property
    def periods(self) -> list[tuple[str, str, str]]:
        """The periods in which the share has one ticker: each ticker, the first and last day."""
        periods: list[tuple[str, str, str]] = []
        for day in self.days:
            ticker = self.share.tickers_on(day)[-1]
            if periods and periods[-1][0] == ticker:
                periods[-1] = (ticker, periods[-1][1], day)
            else:
                periods.append((ticker, day, day))
        return periods


@dataclass
class Received:
    """What a holding received."""

    dividends: Decimal
    spin_off_counted_once: bool
    counted: list[Row]


class Totals:
    """Takes entry after entry: it knows all dividends, and checks all total returns."""

    def __init__(self, known: Known) -> None:
        self.known = known
        self.dividends: dict[str, dict[Key, Row]] = defaultdict(dict)  # by ticker
        self.responses: dict[str, list[Row]] = defaultdict(list)  # by ticker
        # The time of the last mention of a row, if it leaves out its total return.
        self.left_out: dict[Key, datetime] = {}
        # Of a metric: the share of its pick when it was mentioned last.
        self.shares: dict[Key, TrackedShare] = {}
        self.completed_at: dict[str, datetime] = {}  # by batch
        self.computed = 0  # how many total returns were computed again at the end

    # The entries.

    def take(self, entry: Entry, content: dict) -> None:
        """Check an entry. `content` is as it was written, without what its rows leave out."""
        self.learn(entry, content)
        response = entry.content.get("response", {})
        if response.get("kind") == "DIVIDENDS":
            self.check_listed(entry, response)
        self.check_first_mentions(entry)
        # An entry about a further benchmark has no checkpoint.
        if entry.kind == "EXTENSION" and "checkpoint" in entry.content:
            self.check_extension(entry)
        if entry.kind == "CORRECTION":
            self.check_correction(entry)
        for key, row in entry.rows:
            if key[0] in TABLES and key not in self.left_out and has_total(key[0], row):
                self.check_row(entry.where, key, row)

    def learn(self, entry: Entry, content: dict) -> None:
        """Remember the dividends, the responses, and what the later rules need."""
        for key, row in entry.of("dividends"):
            self.dividends[row["ticker"]][key] = row
        response = entry.content.get("response", {})
        if response.get("kind") == "DIVIDENDS":
            self.responses[response["ticker"]].append(response)
        written = [(CHECKPOINTS, content[name]) for name in ("checkpoint",) if name in content]
        written += [(METRICS, row) for row in content.get("metrics", [])]
        for table, row in written:
            key = key_of(table, row)
            before = entry.before.get(key, {})
            had = any(name in before for name in LEFT_OUT[table])
            if had and not any(name in row for name in LEFT_OUT[table]):
                self.left_out[key] = entry.at
            else:
                self.left_out.pop(key, None)
        for key, row in entry.of(METRICS):
            self.shares[key] = self.known.shares[row["pick_id"]]
        for key, row in entry.of("batches"):
            was = entry.before.get(key, {}).get("status")
            if row["status"] == "completed" and was != "completed":
                self.completed_at[row["id"]] = entry.at

    def check_listed(self, entry: Entry, response: Row) -> None:
        """Check the rule `dividend-listed`."""
        listed = response["ex_dates"]
        for day in self.in_force_under(response["ticker"]):
            text = f"{entry.where} does not list {day} of {response['ticker']}, but it is in force"
            require(day in listed, "dividend-listed", text)

    def check_first_mentions(self, entry: Entry) -> None:
        """Only an EXTENSION adds a total return, and a row has all of its columns or none."""
        for key, row in entry.rows:
            table = key[0]
            if table not in TABLES:
                continue
            there = set(LEFT_OUT[table]) & set(row)
            fits = not there or there == set(LEFT_OUT[table])
            require(fits, "total-return", f"{entry.where}: a row of {table} has only {there}")
            before = entry.before.get(key)
            is_new = bool(there) and (before is None or not has_total(table, before))
            allowed = entry.kind == "EXTENSION" and before is not None
            text = f"{entry.where}, which is no EXTENSION, gives a row of {table} a total return"
            # A row that another kind of entry changes breaks `unchanged`, which comes later.
            may_come_later = before is not None and entry.kind != "CORRECTION"
            require(not is_new or allowed or may_come_later, "total-return", text)

    def check_extension(self, entry: Entry) -> None:
        """Check the rule `total-return`, of what an EXTENSION is about."""
        known = self.known
        checkpoint = entry.content["checkpoint"]
        require(known.declared.sealed, "total-return", f"{entry.where} is in an unsealed record")
        fits = checkpoint["status"] == "computed" and checkpoint["day"] != "0"
        require(fits, "total-return", f"{entry.where} is of day {checkpoint['day']}")
        batch = known.batch(checkpoint["batch_id"])
        fits = batch["status"] == "completed"
        require(fits, "total-return", f"{entry.where}: its batch is {batch['status']}")
        fits = has_total(CHECKPOINTS, checkpoint)
        require(fits, "total-return", f"{entry.where}: its checkpoint has no total return")
        for other in known.checkpoints(batch["id"]):
            if int(other["day"]) > int(checkpoint["day"]):
                closed = other.get("skip_reason") == "MARKET_CLOSED"
                text = f"{entry.where}: day {other['day']} comes after day {checkpoint['day']}"
                require(closed and other["status"] == "skipped", "total-return", text)
        added = []
        for key, row in entry.rows:
            if key[0] not in TABLES:
                continue
            is_new = has_total(key[0], row) and not has_total(key[0], entry.before[key])
            if is_new:
                added.append((key, row))
            fits = is_new or key[0] == CHECKPOINTS
            require(fits, "total-return", f"{entry.where} adds nothing to the metric {key[1]}")
        require(added, "total-return", f"{entry.where} adds nothing")
        for key, row in added:
            holding = self.holding(key, row)
            fits = self.is_known(holding)
            tickers = [ticker for ticker, _, _ in holding.periods]
            require(fits, "total-return", f"{entry.where}: dividends of {tickers} are not known")
        self.check_held(entry, added)

    def check_correction(self, entry: Entry) -> None:
        """Check the rule `total-return`, of the dividends that a CORRECTION holds."""
        checkpoint = entry.content["checkpoint"]
        key = key_of(CHECKPOINTS, checkpoint)
        if key in self.left_out:
            return
        rows = [(key, checkpoint), *self.known.metrics(checkpoint["id"])]
        self.check_held(entry, [(key, row) for key, row in rows if has_total(key[0], row)])

    def check_held(self, entry: Entry, rows: list[tuple[Key, Row]]) -> None:
        """Check that an entry holds exactly the dividends that its rows count."""
        counted = {
            key_of("dividends", dividend)
            for key, row in rows
            for dividend in self.received(self.holding(key, row)).counted
        }
        held = {key for key, _ in entry.of("dividends")}
        text = f"{entry.where} holds {sorted(held)}, but counts {sorted(counted)}"
        require(held == counted, "total-return", text)

    def check_row(self, where: str, key: Key, row: Row) -> None:
        """Check the columns of a row with a total return."""
        table = key[0]
        if table == METRICS:
            checkpoint = self.known.checkpoint(row["checkpoint_id"])
        else:
            checkpoint = row
        fits = checkpoint["status"] == "computed" and has_total(CHECKPOINTS, checkpoint)
        fits = fits and checkpoint["day"] != "0"
        require(fits, "total-return", f"{where}: the checkpoint of {key} has no total return")
        holding = self.holding(key, row)
        received = self.received(holding)
        bought_at = holding.bought_at
        total = (holding.worth + received.dividends - bought_at) / bought_at * 100
        if table == METRICS:
            benchmark = Decimal(checkpoint["benchmark_total_return_pct"])
            expected = {
                "dividends": received.dividends,
                "total_return_pct": total,
                "vs_benchmark_total_pct": total - benchmark,
            }
        else:
            expected = {
                "benchmark_dividends": received.dividends,
                "benchmark_total_return_pct": total,
            }
        for column, value in expected.items():
            fits = Decimal(row[column]) == value
            text = f"{where}: {column} is {row[column]}, not {value}, of {key}"
            require(fits, "total-return", text)
        fits = row[SPIN_OFF[table]] == str(received.spin_off_counted_once).lower()
        require(fits, "total-return", f"{where}: {SPIN_OFF[table]} of {key}")

    # The figures.

    def holding(self, key: Key, row: Row) -> Holding:
        """Return the share and the days that a row is about."""
        known = self.known
        if key[0] == CHECKPOINTS:
            batch = known.batch(row["batch_id"])
            return Holding(
                share=known.benchmark_of(batch),
                after=batch["trading_day"],
                through=row["trading_day"],
                bought_at=Decimal(batch["benchmark_initial_price"]),
                basis=priced_as_of(known.close(batch["benchmark_initial_close_id"])),
                worth=Decimal(row["benchmark_price"]) * Decimal(row["benchmark_split_factor"]),
            )
        pick, checkpoint = known.pick(row["pick_id"]), known.checkpoint(row["checkpoint_id"])
        through = checkpoint["trading_day"]
        share = known.share_of(pick["id"], row, through)
        if "close_id" not in row:
            through = min(through, known.endings[pick["id"]]["last_session"])
            share = self.shares[key]
        return Holding(
            share=share,
            after=known.batch(pick["batch_id"])["trading_day"],
            through=through,
            bought_at=Decimal(pick["initial_price"]),
            basis=priced_as_of(known.close(pick["initial_close_id"])),
            worth=Decimal(row["current_price"]) * Decimal(row["split_factor"]),
        )

    def received(self, holding: Holding) -> Received:
        """Return what a holding received, by the dividends and splits that are in force."""
        splits = self.known.splits(holding.share)
        received = Received(dividends=Decimal(0), spin_off_counted_once=False, counted=[])
        for day, dividend in self.in_force(holding.share).items():
            if not holding.after < day <= holding.through:
                continue
            amount = Decimal(dividend["amount"])
            factor = Decimal(splits[day]["factor"]) if day in splits else Decimal(1)
            if factor > 1:
                before = shares_of_day(holding, splits, str(day_of(day) - DAY))
                value = holding.bought_at / before * (1 - 1 / factor)
                if 2 * amount >= value and amount <= 2 * value:
                    received.spin_off_counted_once = True
                    continue
            received.dividends += amount * shares_of_day(holding, splits, day)
            received.counted.append(dividend)
        return received

    def in_force(self, share: TrackedShare) -> dict[str, Row]:
        """Return the dividends of a share that are in force, by ex-date, oldest first."""
        rows = [
            row
            for ticker in sorted(set(share.all_tickers))
            for row in self.dividends[ticker].values()
            if ticker in share.tickers_on(row["ex_date"])
        ]
        return newest_above_zero(rows)

    def in_force_under(self, ticker: str) -> dict[str, Row]:
        """Return the dividends of one ticker that are in force, by ex-date, oldest first."""
        return newest_above_zero(list(self.dividends[ticker].values()))

    def is_known(self, holding: Holding) -> bool:
        """Return whether the dividends of a holding are known by the entries so far."""
        for ticker, first, last in holding.periods:
            if not self.responses[ticker]:
                return False
            newest = self.responses[ticker][-1]
            if not is_read_after(newest, holding.through):
                return False
            dividends = self.in_force_under(ticker)
            if any(first <= day <= last and day not in dividends for day in newest["ex_dates"]):
                return False
        return True

    # The end.

    def finish(self, readings: Readings) -> None:
        """Check `total-return` by the last mentions, and `every-total`."""
        times = self.known.times
        for key, row in self.known.newest.items():
            if key[0] not in TABLES or not has_total(key[0], row):
                continue
            if key in self.left_out and self.left_out[key] >= max(times) - FOUR_WEEKS:
                continue
            self.check_row("at the end", key, row)
            self.computed += 1
        limit = days_back(times)
        if not self.known.declared.sealed or limit is None:
            return
        for id in self.known.batch_of_monday.values():
            batch = self.known.batch(id)
            result = self.result_of(batch, readings)
            if batch["status"] == "completed" and result is not None:
                self.check_result(batch, result, limit - FOUR_WEEKS)

    def result_of(self, batch: Row, readings: Readings) -> Row | None:
        """Return the checkpoint that is the result of a batch, if it is computed."""
        checkpoints = self.known.checkpoints(batch["id"])
        for row in sorted(checkpoints, key=lambda one: int(one["day"]), reverse=True):
            if row["day"] == "0":
                continue
            if row.get("skip_reason") == "MARKET_CLOSED":
                day = day_of(row["checkpoint_date"]) - DAY
                priced = (batch["benchmark_symbol"], str(day)) in readings.closes
                if day.weekday() >= SATURDAY or not priced:
                    continue
            return row if row["status"] == "computed" else None
        return None

    def check_result(self, batch: Row, result: Row, limit: datetime) -> None:
        """Check the rule `every-total`, of one result: those known up to a limit are there."""
        key = key_of(CHECKPOINTS, result)
        rows = [(key, result)]
        if has_total(CHECKPOINTS, result):
            rows = list(self.known.metrics(result["id"]))
        for key, row in rows:
            holding = self.holding(key, row)
            if has_total(key[0], row) or not self.is_known(holding):
                continue
            since = max(self.known_since(holding), self.completed_at[batch["id"]])
            text = f"{key} of {batch['run_date']} has no total return, known since {since}"
            require(since > limit, "every-total", text)

    def known_since(self, holding: Holding) -> datetime:
        """Return the time from which on the dividends of a holding were known."""
        times = []
        for ticker, first, last in holding.periods:
            responses = self.responses[ticker]
            read = [one for one in responses if is_read_after(one, holding.through)]
            times.append(min(moment(one["read_at"]) for one in read))
            for day, row in self.in_force_under(ticker).items():
                if first <= day <= last:
                    times.append(moment(row["read_at"]))
        return max(times)


def has_total(table: str, row: Row) -> bool:
    """Return whether a row has a total return."""
    return TOTAL[table] in row


def is_read_after(response: Row, day: str) -> bool:
    """Return whether a response was read on a later day in New York."""
    return str(new_york_day(moment(response["read_at"]))) > day


def newest_above_zero(rows: list[Row]) -> dict[str, Row]:
    """Return the newest dividend of each ex-date, without the ones that were withdrawn."""
    newest: dict[str, Row] = {}
    for row in sorted(rows, key=lambda row: moment(row["read_at"])):
        newest[row["ex_date"]] = row
    return {day: newest[day] for day in sorted(newest) if Decimal(newest[day]["amount"]) > 0}


def shares_of_day(holding: Holding, splits: dict[str, Row], day: str) -> Decimal:
    """Return how many shares one share of the basis date is on a day."""
    if day >= holding.basis:
        return product(splits, holding.basis, day)
    return 1 / product(splits, day, holding.basis)
