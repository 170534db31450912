"""The rules of prices: docs/journal.md, "The rules", fifth table, and "The figures"."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal

from independent_verifier.api import Key, Row
from independent_verifier.known import (
    ABOUT,
    Entry,
    Known,
    Readings,
    day_of,
    moment,
    priced_as_of,
    product,
    restated_as_of,
)
from independent_verifier.refused import require
from independent_verifier.sessions import new_york_day

HOUR = timedelta(hours=1)

# The columns that name a reading.
READINGS = {
    "batches": ["benchmark_initial_close_id"],
    "picks": ["initial_close_id", "entry_close_id"],
    "checkpoints": ["benchmark_close_id"],
    "pick_checkpoint_metrics": ["close_id"],
}


def check_prices(entry: Entry, known: Known) -> None:
    """Check all rules of the readings, prices and figures of an entry."""
    check_readings_held(entry, known)
    for key, row in entry.rows:
        for column in READINGS.get(key[0], []):
            if column in row:
                check_reading(entry=entry, known=known, key=key, row=row, column=column)
    check_entry_opens(entry, known)
    check_ended(entry, known)
    for key, row in entry.rows:
        check_figure(where=entry.where, known=known, key=key, row=row)


# Readings.


def check_reading(entry: Entry, known: Known, key: Key, row: Row, column: str) -> None:
    """Check `reading`, `read-before-used` and `newest-reading` for a reading that a row names."""
    held = ("closes", row[column]) in known.first_seq
    require(held, "reading", f"{entry.where}: no entry mentions the {column} of {key}")
    reading = known.close(row[column])
    newly = entry.uses_newly(key, row, column)
    session, tickers = session_and_tickers(
        known=known, key=key, row=row, column=column, newly=newly
    )
    fits = reading["trading_day"] == session
    if column == "entry_close_id":
        fits = reading["trading_day"] in first_sessions(known, row)
    rule = "entry-open" if column == "entry_close_id" else "reading"
    require(fits, rule, f"{entry.where}: {column} is of {reading['trading_day']}, not {session}")
    fits = reading["ticker"] in tickers
    require(fits, "reading", f"{entry.where}: {column} is of {reading['ticker']}, not {tickers}")
    if newly:
        early = moment(reading["read_at"]) > entry.at + ABOUT
        require(not early, "read-before-used", f"{entry.where} uses what was read later")
        check_newest(entry, known, reading)


def session_and_tickers(
    known: Known, key: Key, row: Row, column: str, *, newly: bool
) -> tuple[str, list[str]]:
    """Return the session that a row's reading must have, and its possible tickers."""
    match key[0]:
        case "batches":
            return row["trading_day"], [row["benchmark_symbol"]]
        case "checkpoints":
            benchmark = known.batch(row["batch_id"])["benchmark_symbol"]
            return row["trading_day"], [benchmark]
        case "picks":
            batch, share = known.batch(row["batch_id"]), known.shares[row["id"]]
            session = batch["trading_day"]
            if column == "entry_close_id":
                session = known.newest["closes", row[column]]["trading_day"]
        case _:
            share = known.shares[row["pick_id"]]
            session = known.checkpoint(row["checkpoint_id"])["trading_day"]
    # A row keeps the reading that it named before a rename.
    return session, share.tickers_on(session) if newly else share.all_tickers


def first_sessions(known: Known, pick: Row) -> list[str]:
    """Return the possible first sessions of a pick: closures on short notice may count or not."""
    run_date = day_of(known.batch(pick["batch_id"])["run_date"])
    return [str(day) for day in known.calendar.first_sessions(run_date)]


def check_newest(entry: Entry, known: Known, reading: Row) -> None:
    """Check the rule `newest-reading`, by the entries alone."""
    for key in known.closes_of[reading["ticker"], reading["trading_day"]]:
        other = known.newest[key]
        earlier = known.first_seq[key] < entry.seq
        later_read = moment(other["read_at"]) > moment(reading["read_at"])
        long_known = moment(other["read_at"]) < entry.at - HOUR
        passed_over = earlier and later_read and long_known
        require(not passed_over, "newest-reading", f"{entry.where} passes over {other}")


def check_readings_held(entry: Entry, known: Known) -> None:
    """Check `reading-session` and `read-before-used` for the readings that an entry holds."""
    for (table, _), row in entry.rows:
        if table not in ("closes", "splits", "dividends"):
            continue
        if "adopted" in entry.content:
            if table == "closes":
                check_restated(entry.where, row)
            continue
        read_at = moment(row["read_at"])
        early = read_at > entry.at + ABOUT
        require(not early, "read-before-used", f"{entry.where} holds what was read later: {row}")
        if table == "closes":
            day = day_of(row["trading_day"])
            session = known.calendar.may_be_session(day)
            require(session, "reading-session", f"{entry.where}: {day} is no session")
            over = day < new_york_day(read_at)
            require(over, "reading-session", f"{entry.where}: {day} was not over at {read_at}")
            check_restated(entry.where, row)


def check_restated(where: str, close: Row) -> None:
    """
    Check the rule `reading-session` for a restated series.

    It was restated after the session, and not after it was read in this form.
    """
    if (restated := restated_as_of(close)) is None:
        return
    read_on = str(new_york_day(moment(close["read_at"])))
    fits = close["trading_day"] < restated <= read_on
    require(fits, "reading-session", f"{where}: {close['ticker']}, restated as of {restated}")


# The entry opens and the endings of picks.


def check_entry_opens(entry: Entry, known: Known) -> None:
    """Check the rules `entry-open` and `from-open`."""
    for _, pick in entry.of("picks"):
        both = ("entry_open" in pick) == ("entry_close_id" in pick)
        require(both, "entry-open", f"{entry.where}: {pick['ticker']} has only one of the two")
        for _, metric in known.metrics_of_pick(pick):
            check_from_open(entry, pick, metric)
    for _, metric in entry.of("pick_checkpoint_metrics"):
        pick = known.pick(metric["pick_id"])
        check_from_open(entry, pick, metric)


@dataclass
class UnknownOpen:
    """A pick without an entry open, when an entry computes a day of its batch."""

    entry: Entry
    ticker: str  # on its first session
    session: str
    used: Row | None  # the reading of that session that the entry uses


class Uses:
    """Collects what only all readings of the record decide, and checks it when they are known."""

    def __init__(self, known: Known) -> None:
        self.known = known
        self.newly: list[tuple[Entry, Row]] = []  # entries, and the readings that they use newly
        self.without_open: list[UnknownOpen] = []

    def take(self, entry: Entry) -> None:
        """Collect the readings that an entry uses, and the picks without an open."""
        for key, row in entry.rows:
            for column in READINGS.get(key[0], []):
                if entry.uses_newly(key, row, column):
                    self.newly.append((entry, self.known.close(row[column])))
        checkpoint = entry.content.get("checkpoint", {})
        if entry.kind == "CHECKPOINT" and "trading_day" in checkpoint:
            for id in self.known.picks_of[checkpoint["batch_id"]]:
                self.take_pick(entry, checkpoint, self.known.pick(id))

    def take_pick(self, entry: Entry, checkpoint: Row, pick: Row) -> None:
        """Collect a pick without an open."""
        sessions = set(first_sessions(self.known, pick))
        if "entry_open" in pick or len(sessions) > 1:
            return
        (session,) = sessions
        used = None
        if checkpoint["trading_day"] == session:
            for _, metric in entry.of("pick_checkpoint_metrics"):
                if metric["pick_id"] == pick["id"] and "close_id" in metric:
                    used = self.known.close(metric["close_id"])
        ticker = self.known.shares[pick["id"]].tickers_on(session)[-1]
        self.without_open.append(
            UnknownOpen(entry=entry, ticker=ticker, session=session, used=used)
        )

    def finish(self, readings: Readings) -> None:
        """Check the rules `newest-reading` and `entry-open`, by all readings of the record."""
        for entry, used in self.newly:
            for other in readings.closes[used["ticker"], used["trading_day"]]:
                later = moment(other["read_at"]) > moment(used["read_at"])
                passed_over = later and long_read(other, entry)
                require(not passed_over, "newest-reading", f"{entry.where} passes over {other}")
        for one in self.without_open:
            others = readings.closes.get((one.ticker, one.session), [])
            text = f"{one.entry.where}: {one.ticker} has no entry open"
            require(not was_seen(one, others), "entry-open", text)


def long_read(reading: Row, entry: Entry) -> bool:
    """Return whether a reading was read more than an hour before an entry."""
    return moment(reading["read_at"]) < entry.at - HOUR


def was_seen(one: UnknownOpen, readings: list[Row]) -> bool:
    """Return whether an entry must have seen an open."""
    seen = [row for row in readings if long_read(row, one.entry)]
    if one.used:
        seen.append(one.used)
    if not seen:
        return False
    last = max(seen, key=lambda row: row["read_at"])
    meanwhile = [
        row
        for row in readings
        if row["read_at"] > last["read_at"] and moment(row["read_at"]) <= one.entry.at + HOUR
    ]
    return all("open" in row for row in [last, *meanwhile])


def check_from_open(entry: Entry, pick: Row, metric: Row) -> None:
    """Check the rule `from-open`."""
    fits = ("entry_open" in pick) == ("return_from_open_pct" in metric)
    require(fits, "from-open", f"{entry.where}: {pick['ticker']}, {metric['id']}")


def check_ended(entry: Entry, known: Known) -> None:
    """Check the rule `ended`."""
    for key, metric in entry.of("pick_checkpoint_metrics"):
        ended = metric["ended"] == "true"
        fits = ended == ("close_id" not in metric)
        require(fits, "ended", f"{entry.where}: ended is {ended}")
        if key in entry.before:
            continue
        ending = known.endings.get(metric["pick_id"])
        session = known.checkpoint(metric["checkpoint_id"])["trading_day"]
        over = ending is not None and ending["last_session"] < session
        require(ended == over, "ended", f"{entry.where}: ended is {ended}, its ending {ending}")


# Figures.


def check_last_figures(known: Known) -> None:
    """Check `figure` after the last entry: all returns are computed from the newest prices."""
    for (table, id), row in known.newest.items():
        if table == "checkpoints" and "benchmark_return_pct" in row:
            batch = known.batch(row["batch_id"])
            expected = {"benchmark_return_pct": return_of_benchmark(batch, row)}
        elif table == "pick_checkpoint_metrics":
            expected = returns_of_metric(known, row)
        else:
            continue
        for column, value in expected.items():
            fits = Decimal(row[column]) == value
            require(fits, "figure", f"{column} of {table} {id} is {row[column]}, not {value}")


def return_pct(initial: str, price: str, factor: str) -> Decimal:
    """Return the change from one price to another, in percent."""
    return (Decimal(price) * Decimal(factor) - Decimal(initial)) / Decimal(initial) * 100


def return_of_benchmark(batch: Row, row: Row) -> Decimal:
    """Return the benchmark's return, from the row's own price and factor."""
    initial = batch["benchmark_initial_price"]
    return return_pct(initial, row["benchmark_price"], row["benchmark_split_factor"])


def returns_of_metric(known: Known, row: Row) -> dict[str, Decimal]:
    """Return a share's returns, from the row's own price and factor."""
    checkpoint = known.checkpoint(row["checkpoint_id"])
    initial = known.pick(row["pick_id"])["initial_price"]
    absolute = return_pct(initial, row["current_price"], row["split_factor"])
    benchmark = Decimal(checkpoint["benchmark_return_pct"])
    return {"absolute_return_pct": absolute, "vs_benchmark_pct": absolute - benchmark}


def check_figure(where: str, known: Known, key: Key, row: Row) -> None:
    """Check the rule `figure`, of one row."""
    for column, expected in figures(known, key, row):
        stored = row.get(column)
        fits = stored is not None and Decimal(stored) == expected
        require(fits, "figure", f"{where}: {column} is {stored}, not {expected}, of {key}")


def figures(known: Known, key: Key, row: Row) -> Iterator[tuple[str, Decimal]]:
    """Yield each price and figure of a row with its expected value."""
    match key[0]:
        case "batches":
            if "benchmark_initial_close_id" in row:
                reading = known.close(row["benchmark_initial_close_id"])
                yield "benchmark_initial_price", Decimal(reading["close"])
        case "picks":
            yield "initial_price", Decimal(known.close(row["initial_close_id"])["close"])
            if "entry_close_id" in row:
                yield "entry_open", Decimal(known.close(row["entry_close_id"]).get("open", "NaN"))
        case "checkpoints":
            if "benchmark_close_id" in row:
                price = Decimal(known.close(row["benchmark_close_id"])["close"])
                yield "benchmark_price", price
                if row["day"] != "0":
                    yield from figures_of_benchmark(known, row, price)
        case "pick_checkpoint_metrics":
            yield from figures_of_metric(known, row)


def figures_of_benchmark(known: Known, row: Row, price: Decimal) -> Iterator[tuple[str, Decimal]]:
    """Yield the factor and the return of a checkpoint's benchmark."""
    batch = known.batch(row["batch_id"])
    since, through = known.days_of_benchmark(row)
    factor = product(known.splits(known.benchmark_of(batch)), since, through)
    yield "benchmark_split_factor", factor
    initial = Decimal(batch["benchmark_initial_price"])
    yield "benchmark_return_pct", (price * factor - initial) / initial * 100


def figures_of_metric(known: Known, row: Row) -> Iterator[tuple[str, Decimal]]:
    """Yield the price, the factor and the returns of a metric."""
    pick, checkpoint = known.pick(row["pick_id"]), known.checkpoint(row["checkpoint_id"])
    price = price_of_metric(known, row)
    yield "current_price", price
    share = known.share_of(pick["id"], row, checkpoint["trading_day"])
    splits = known.splits(share)
    since, through = known.days_of_metric(row)
    factor = product(splits, since, through)
    yield "split_factor", factor
    initial = Decimal(pick["initial_price"])
    absolute = (price * factor - initial) / initial * 100
    yield "absolute_return_pct", absolute
    yield "vs_benchmark_pct", absolute - Decimal(checkpoint["benchmark_return_pct"])
    if "return_from_open_pct" in row:
        opened = priced_as_of(known.close(pick["entry_close_id"]))
        factor = product(splits, opened, through)
        entry = Decimal(pick["entry_open"])
        yield "return_from_open_pct", (price * factor - entry) / entry * 100


def price_of_metric(known: Known, row: Row) -> Decimal:
    """A reading's close, or what a share is worth that is no longer traded."""
    if "close_id" in row:
        return Decimal(known.close(row["close_id"])["close"])
    return Decimal(known.endings[row["pick_id"]]["value"])
