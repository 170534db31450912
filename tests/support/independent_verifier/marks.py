"""Rule `unusual-move`: docs/journal.md, "Marks"."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal

from independent_verifier.api import Row
from independent_verifier.known import (
    ABOUT,
    Entry,
    Known,
    Readings,
    TrackedShare,
    moment,
    newest_splits,
    priced_as_of,
    product,
)
from independent_verifier.refused import require
from independent_verifier.sessions import new_york_day

FOUR_WEEKS = timedelta(days=28)
DECIDE_METRIC = {
    "current_price",
    "close_id",
    "split_factor",
    "absolute_return_pct",
    "unusual_move",
}
DECIDE_BENCHMARK = {
    "benchmark_price",
    "benchmark_close_id",
    "benchmark_split_factor",
    "benchmark_return_pct",
    "benchmark_unusual_move",
}

Splits = dict[str, Row]
Point = tuple[str, Decimal]  # a session, and a price that was reached on it


@dataclass
class Examined:
    """A row whose mark an entry decides, with all that decides it."""

    share: TrackedShare
    used: list[Row]  # readings, by session
    since: str  # the days whose splits the row's factor counts
    through: str
    added_until: str | None  # the last session of an ended metric
    mentioned: list[Row]  # the splits that the entries so far mention


@dataclass
class Decision:
    """A mark that an entry decides."""

    entry: Entry
    mark: bool
    examined: Examined


class Marks:
    """Collects the marks that each entry decides, and checks them when all readings are known."""

    def __init__(self, known: Known) -> None:
        self.known = known
        self.decisions: list[Decision] = []
        self.first_with: datetime | None = None  # of the benchmark's mark
        self.some_without = False

    def take(self, entry: Entry) -> None:
        """Remember all marks that an entry decides, with what it knows."""
        self.check_presence(entry)
        for key, row in entry.of("checkpoints"):
            if self.is_decided(entry, key, row) and "benchmark_unusual_move" in row:
                self.decide(entry, row["benchmark_unusual_move"], self.benchmark(row))
        for key, row in entry.of("pick_checkpoint_metrics"):
            checkpoint = self.known.checkpoint(row["checkpoint_id"])
            if "benchmark_unusual_move" not in checkpoint:
                continue
            decided = key not in entry.before
            if entry.kind == "CORRECTION":
                decided = bool(entry.changed(key, row) & DECIDE_METRIC)
            if decided and self.is_forced(row, checkpoint):
                marked = row["unusual_move"] == "true"
                require(marked, "unusual-move", f"{entry.where}: {row['id']}, a forced renaming")
            elif decided:
                self.decide(entry, row["unusual_move"], self.metric(row, checkpoint))

    def decide(self, entry: Entry, mark: str, examined: Examined) -> None:
        """Remember one mark."""
        self.decisions.append(Decision(entry, mark == "true", examined))

    def finish(self, readings: Readings, seen: int) -> None:
        """Check all marks. After the first `seen` entries, readings may have come unread."""
        for decision in self.decisions:
            fits = self.is_right(decision, readings) or decision.entry.seq > seen
            share = decision.examined.share.all_tickers
            text = f"{decision.entry.where}: {decision.mark} for {share}"
            require(fits, "unusual-move", text)

    def is_decided(self, entry: Entry, key: object, row: Row) -> bool:
        """Say whether an entry decides the mark of a checkpoint's benchmark."""
        if row["status"] != "computed" or row["day"] == "0":
            return False
        was = entry.before.get(key)
        if entry.kind == "CORRECTION":
            return bool(entry.changed(key, row) & DECIDE_BENCHMARK)
        return was is None or was["status"] == "skipped"

    def check_presence(self, entry: Entry) -> None:
        """Where the benchmark's mark may be absent."""
        if entry.kind != "CHECKPOINT":
            return
        row = entry.content["checkpoint"]
        if not self.is_decided(entry, ("checkpoints", row["id"]), row):
            return
        if "benchmark_unusual_move" in row:
            self.first_with = self.first_with or entry.at
        elif self.first_with is None:
            self.some_without = True
        else:
            fits = self.some_without and entry.at <= self.first_with + FOUR_WEEKS
            require(fits, "unusual-move", f"{entry.where} has no benchmark_unusual_move")

    # What is examined.

    def benchmark(self, row: Row) -> Examined:
        """A checkpoint's benchmark."""
        known = self.known
        batch = known.batch(row["batch_id"])
        used = [known.close(batch["benchmark_initial_close_id"])]
        for other in known.checkpoints(batch["id"]):
            computed = other["status"] == "computed" and other["day"] != "0"
            if computed and other["trading_day"] <= row["trading_day"]:
                used.append(known.close(other["benchmark_close_id"]))
        since, through = known.days_of_benchmark(row)
        return self.examined(known.benchmark_of(batch), used, since=since, through=through)

    def metric(self, row: Row, checkpoint: Row) -> Examined:
        """A metric's share."""
        known = self.known
        pick = known.pick(row["pick_id"])
        until, ended = checkpoint["trading_day"], None
        if row["ended"] == "true":
            ended = known.endings[pick["id"]]["last_session"]
            until = min(until, ended)
        used = [known.close(pick["initial_close_id"])]
        for _, other in known.metrics_of_pick(pick):
            if "close_id" in other:
                reading = known.close(other["close_id"])
                if reading["trading_day"] <= until:
                    used.append(reading)
        share = known.share_of(pick["id"], row, checkpoint["trading_day"])
        since, through = known.days_of_metric(row)
        return self.examined(share, used, since=since, through=through, ended=ended)

    def examined(
        self,
        share: TrackedShare,
        used: list[Row],
        since: str,
        through: str,
        ended: str | None = None,
    ) -> Examined:
        """All that decides a mark, as far as the entries so far say it."""
        tickers = sorted(set(share.all_tickers))
        mentioned = [row for ticker in tickers for row in self.known.splits_of[ticker]]
        return Examined(
            share=share,
            used=by_session(used),
            since=since,
            through=through,
            added_until=ended,
            mentioned=mentioned,
        )

    def is_forced(self, row: Row, checkpoint: Row) -> bool:
        """Step 1: say whether a forced renaming marks the metric."""
        session = checkpoint["trading_day"]
        share = self.known.share_of(row["pick_id"], row, session)
        return any(span.forced and span.first <= session for span in share.spans)

    # The end.

    def is_right(self, decision: Decision, readings: Readings) -> bool:
        """A mark is right if the rule gives it for one of the choices."""
        examined, at = decision.examined, decision.entry.at
        used_until = max(moment(reading["read_at"]) for reading in examined.used)
        for limit in (at, at + ABOUT, max(at - ABOUT, used_until)):
            newest = newest_readings(examined, readings, limit)
            for others in ([], unmentioned_splits(examined, readings, limit)):
                splits = newest_splits([*examined.mentioned, *others], examined.share)
                if is_unusual(examined, newest, splits) == decision.mark:
                    return True
        return False


def newest_readings(examined: Examined, readings: Readings, limit: datetime) -> dict[str, Row]:
    """Of each session the reading that was read last, as of a time."""
    first = examined.used[0]["trading_day"]
    last = examined.added_until or examined.used[-1]["trading_day"]
    newest = {}
    day = date.fromisoformat(first)
    while str(day) <= last:
        for ticker in examined.share.tickers_on(str(day)):
            rows = readings.closes.get((ticker, str(day)), [])
            read = [row for row in rows if moment(row["read_at"]) <= limit]
            if read:
                newest[str(day)] = max(read, key=lambda row: row["read_at"])
        day += timedelta(days=1)
    return newest


def unmentioned_splits(examined: Examined, readings: Readings, limit: datetime) -> list[Row]:
    """The splits that no entry mentioned so far, outside the days that the row's factor counts."""
    others = []
    for ticker in sorted(set(examined.share.all_tickers)):
        for row in readings.splits.get(ticker, []):
            counted = examined.since < row["effective_date"] <= examined.through
            if row not in examined.mentioned and not counted and moment(row["read_at"]) <= limit:
                others.append(row)
    return others


def by_session(readings: list[Row]) -> list[Row]:
    """Readings in the order of their sessions."""
    return sorted(readings, key=lambda row: row["trading_day"])


# The rule.


def is_unusual(examined: Examined, newest: dict[str, Row], splits: Splits) -> bool:
    """Say whether the rule gives a mark."""
    used = list(examined.used)
    if examined.added_until:
        later = [day for day in newest if used[-1]["trading_day"] < day <= examined.added_until]
        if later:
            used.append(newest[max(later)])
    if len(used) < 2:
        return False
    first, last = used[0], used[-1]
    reached = [(first["trading_day"], as_traded(first, splits))]
    used_on = {row["trading_day"]: row for row in used[1:-1]}
    for session in sorted({*used_on, *newest}):
        if not first["trading_day"] < session < last["trading_day"]:
            continue
        readings = [row for row in (used_on.get(session), newest.get(session)) if row]
        traceable = []
        for reading in readings:
            for price in possible_prices(reading, splits, first["trading_day"]):
                if is_near(reached=reached, session=session, price=price, splits=splits):
                    traceable.append((session, price))
        if session not in used_on:
            traceable = reached + traceable
        reached = traceable
    return not is_near(
        reached=reached, session=last["trading_day"], price=as_traded(last, splits), splits=splits
    )


def as_traded(reading: Row, splits: Splits) -> Decimal:
    """Step 3: a reading's price, as the share traded then."""
    price = Decimal(reading["close"])
    restated = priced_as_of(reading)
    if restated != reading["trading_day"]:
        price *= product(splits, reading["trading_day"], restated)
    return price


def is_near(reached: list[Point], session: str, price: Decimal, splits: Splits) -> bool:
    """Step 4: say whether a price is a usual step away from any point."""
    for day, before in reached:
        factor = product(splits, day, session)
        if abs(price * factor - before) < Decimal("0.10") * before:
            return True
    return False


def possible_prices(reading: Row, splits: Splits, first: str) -> Iterator[Decimal]:
    """Step 6: what a reading's price may be, on either side of the known splits."""
    price, session = as_traded(reading, splits), reading["trading_day"]
    yield price
    read_on = str(new_york_day(moment(reading["read_at"])))
    factor = Decimal(1)
    for day, split in splits.items():
        if session < day <= read_on:
            factor *= Decimal(split["factor"])
            yield price * factor
    factor = Decimal(1)
    for day, split in reversed(splits.items()):
        if first < day <= session:
            factor *= Decimal(split["factor"])
            yield price / factor
