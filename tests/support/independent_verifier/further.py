"""The rule `further-benchmark`, and the figures of further benchmarks."""

import uuid
from decimal import Decimal

from independent_verifier.api import Row, key_of
from independent_verifier.declared import Declared
from independent_verifier.known import (
    Entry,
    Known,
    Readings,
    moment,
    priced_as_of,
    product,
    share_named,
)
from independent_verifier.prices import return_pct
from independent_verifier.refused import require
from independent_verifier.sessions import new_york_day
from independent_verifier.splits import factor_of

TABLE = "further_benchmarks"
HELD = ("further_initial_close_id", "further_close_id")


class Further:
    """Checks the rows of further benchmarks, at their entries and at the end."""

    def __init__(self, known: Known, declared: Declared) -> None:
        self.known = known
        self.declared = declared
        self.named: dict[str, list[str]] = {}  # by batch, the tickers that its settings name
        self.splits_read: dict[str, str] = {}  # by ticker, when its splits were read last
        self.computed = 0

    def take(self, entry: Entry) -> None:
        """Check the rows of an entry, and remember what later ones need."""
        if entry.kind == "BATCH" and self.declared.settings:
            names = self.declared.settings[-1].get(TABLE, [])
            self.named[entry.content["batch"]["id"]] = list(names)
        response = entry.content.get("response", {})
        if response.get("kind") == "SPLITS":
            self.splits_read[response["ticker"]] = response["read_at"]
        for _, row in entry.of(TABLE):
            if entry.kind == "EXTENSION":
                self.check_row(entry, row)
                self.check_held(entry, row)
            else:
                self.check_correction(entry, row)
            self.check_figures(entry, row)

    def refuse_unless(self, fits: object, text: str) -> None:
        require(fits, "further-benchmark", text)

    def check_row(self, entry: Entry, row: Row) -> None:
        """Check which row an EXTENSION may have."""
        known, where = self.known, entry.where
        batch = known.newest.get(("batches", row["batch_id"]))
        require(batch, "belongs", f"{where}: no entry mentions the batch {row['batch_id']}")
        named = self.named.get(batch["id"], [])
        symbol = row["symbol"]
        self.refuse_unless(symbol in named, f"{where}: {symbol} is not among {named}")
        place = str(named.index(symbol) + 1)
        self.refuse_unless(row["position"] == place, f"{where}: position {row['position']}")
        id = str(uuid.uuid5(uuid.UUID(batch["id"]), symbol))
        self.refuse_unless(row["id"] == id, f"{where}: the id is not {id}")
        self.refuse_unless(batch["status"] == "completed", f"{where}: the batch is not completed")
        open_days = [
            one
            for one in known.checkpoints(batch["id"])
            if one["day"] != "0" and one.get("skip_reason") != "MARKET_CLOSED"
        ]
        last = max(open_days, key=lambda one: int(one["day"]), default={})
        computed = last.get("status") == "computed"
        fits = computed and last["trading_day"] == row["trading_day"]
        self.refuse_unless(fits, f"{where}: {row['trading_day']} is not the session of the result")
        read_at = self.splits_read.get(symbol)
        late = read_at and str(new_york_day(moment(read_at))) > row["trading_day"]
        self.refuse_unless(late, f"{where}: no splits of {symbol} were read after the result")

    def check_held(self, entry: Entry, row: Row) -> None:
        """Check that an EXTENSION holds the two readings and the counted splits."""
        held = [close["id"] for close in entry.content["closes"]]
        self.refuse_unless(held == [row[name] for name in HELD], f"{entry.where} holds {held}")
        since, through = self.days(row)
        splits = self.known.splits(share_named(row["symbol"]))
        counted = {key_of("splits", one) for day, one in splits.items() if since < day <= through}
        of_entry = {key for key, _ in entry.of("splits")}
        fits = of_entry == counted
        require(fits, "split-counted", f"{entry.where} holds {of_entry}, but counts {counted}")

    def check_correction(self, entry: Entry, row: Row) -> None:
        """Check the checkpoint of a CORRECTION with such a row."""
        checkpoint = entry.content["checkpoint"]
        fits = checkpoint["day"] != "0" and checkpoint.get("trading_day") == row["trading_day"]
        self.refuse_unless(fits, f"{entry.where} is not of the session {row['trading_day']}")

    def days(self, row: Row) -> tuple[str, str]:
        """Return the day after which the splits of a row count, and the last day."""
        first, last = (self.known.close(row[name]) for name in HELD)
        return priced_as_of(first), priced_as_of(last)

    def check_figures(self, entry: Entry, row: Row) -> None:
        """Check the rules `reading` and `figure`."""
        known, where = self.known, entry.where
        batch = known.batch(row["batch_id"])
        sessions = (batch["trading_day"], row["trading_day"])
        prices = ("further_initial_price", "further_price")
        for column, session, price in zip(HELD, sessions, prices, strict=True):
            close = known.newest.get(("closes", row[column]))
            fits = close and (close["ticker"], close["trading_day"]) == (row["symbol"], session)
            require(fits, "reading", f"{where}: {column} is not of {row['symbol']} on {session}")
            fits = Decimal(close["close"]) == Decimal(row[price])
            require(fits, "figure", f"{where}: {price} is {row[price]}")
        factor = product(known.splits(share_named(row["symbol"])), *self.days(row))
        fits = Decimal(row["further_split_factor"]) == factor
        require(fits, "figure", f"{where}: the factor is not {factor}")
        expected = return_of(row)
        fits = Decimal(row["further_return_pct"]) == expected
        require(fits, "figure", f"{where}: the return is not {expected}")
        self.computed += 1

    def finish(self, readings: Readings) -> None:
        """At the end, compute each return and each factor once more."""
        for (table, _), row in self.known.newest.items():
            if table != TABLE:
                continue
            where = f"{row['symbol']} of {self.known.batch(row['batch_id'])['run_date']}"
            fits = Decimal(row["further_return_pct"]) == return_of(row)
            require(fits, "figure", f"the return of {where}")
            factor = factor_of(share_named(row["symbol"]), readings.splits, self.days(row))
            fits = Decimal(row["further_split_factor"]) == factor
            require(fits, "split-counted", f"{where}: {factor} is counted")


def return_of(row: Row) -> Decimal:
    """Return the return of a row, from its own prices and its factor."""
    return return_pct(
        row["further_initial_price"], row["further_price"], row["further_split_factor"]
    )
