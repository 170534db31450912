"""What is known of the record after each entry: the newest mentions, and what the rules derive."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal

from independent_verifier.api import MANY, SINGLE, Key, Row, key_of
from independent_verifier.declared import Declared
from independent_verifier.forms import is_date
from independent_verifier.record_calendar import RecordCalendar

ABOUT = timedelta(minutes=1)  # by how much the clocks of two processes may differ

Monday = tuple[str, str]  # a series and a run date


def moment(text: str) -> datetime:
    """Return a time of the journal."""
    return datetime.fromisoformat(text)


def same(one: str | None, other: str | None, column: str) -> bool:
    """Return whether two values of a column are equal; zeros at a decimal's end mean nothing."""
    if one == other or one is None or other is None:
        return one == other
    if column.endswith(("_price", "_factor", "_pct")) or column in (
        "entry_open",
        "open",
        "close",
        "factor",
        "amount",
        "dividends",
        "benchmark_dividends",
    ):
        return Decimal(one) == Decimal(other)
    return False


@dataclass
class Entry:
    """One entry of the journal."""

    seq: int
    kind: str
    at: datetime
    content: dict
    rows: list[tuple[Key, Row]]
    before: dict[Key, Row]  # the earlier mentions of its rows, where there is one

    def of(self, table: str) -> list[tuple[Key, Row]]:
        """Return the rows of one table."""
        return [(key, row) for key, row in self.rows if key[0] == table]

    def changed(self, key: Key, row: Row) -> set[str]:
        """Return the columns that differ from the mention before; none at the first mention."""
        if (was := self.before.get(key)) is None:
            return set()
        return {name for name in {*was, *row} if not same(was.get(name), row.get(name), name)}

    def uses_newly(self, key: Key, row: Row, column: str) -> bool:
        """Return whether a row names a reading that its mention before did not name."""
        return column in row and self.before.get(key, {}).get(column) != row[column]

    @property
    def where(self) -> str:
        """Return the name of the entry for a message."""
        return f"entry {self.seq}, a {self.kind}"


# The columns that earlier versions leave out: docs/journal.md, "What may change".
LEFT_OUT = {
    "picks": ("probability",),
    "generations": (
        "reasoning_effort",
        "finish_reason",
        "system_fingerprint",
        "reasoning_tokens",
    ),
    "checkpoints": (
        "benchmark_dividends",
        "benchmark_total_return_pct",
        "benchmark_spin_off_counted_once",
    ),
    "pick_checkpoint_metrics": (
        "dividends",
        "total_return_pct",
        "vs_benchmark_total_pct",
        "spin_off_counted_once",
    ),
}


def with_left_out(name: str, member: object, newest: dict[Key, Row]) -> object:
    """Return a member of an entry, with what its rows leave out of the mention before."""
    table = SINGLE.get(name) or MANY.get(name)
    if table not in LEFT_OUT:
        return member
    if isinstance(member, list):
        return [completed(table, row, newest) for row in member]
    return completed(table, member, newest)


def completed(table: str, row: Row, newest: dict[Key, Row]) -> Row:
    """Return a row with the values that it leaves out of its mention before."""
    before = newest.get(key_of(table, row), {})
    return {**{name: before[name] for name in LEFT_OUT[table] if name in before}, **row}


def entry_of(seq: int, content: dict, newest: dict[Key, Row]) -> Entry:
    """Return an entry with the earlier mentions of its rows."""
    rows = []
    content = {name: with_left_out(name, member, newest) for name, member in content.items()}
    for name, member in content.items():
        if name in SINGLE:
            rows.append((key_of(SINGLE[name], member), member))
        if name in MANY:
            rows += [(key_of(MANY[name], row), row) for row in member]
    before = {key: newest[key] for key, _ in rows if key in newest}
    return Entry(
        seq=seq,
        kind=content["kind"],
        at=moment(content["at"]),
        content=content,
        rows=rows,
        before=before,
    )


@dataclass
class Span:
    """The tickers that a share has from one day on."""

    first: str
    tickers: list[str]
    forced: bool = False


@dataclass
class TrackedShare:
    """A share, and its tickers: a new span from each renaming's first session on."""

    spans: list[Span]

    def tickers_on(self, day: str) -> list[str]:
        """Return its tickers on a day; several only after a renaming that names no session."""
        return [span for span in self.spans if span.first <= day][-1].tickers

    @property
    def all_tickers(self) -> list[str]:
        """Return the tickers of all days."""
        return [ticker for span in self.spans for ticker in span.tickers]

    def before_its_last_renaming(self) -> "TrackedShare":
        """Return the share without its last renaming."""
        return TrackedShare(self.spans[:-1])

    def as_read_under(self, ticker: str, day: str) -> "TrackedShare":
        """Return the share without the renamings after which the ticker does not fit the day."""
        share = self
        while ticker not in share.tickers_on(day):
            share = share.before_its_last_renaming()
        return share


def share_named(ticker: str) -> TrackedShare:
    """Return a share that was never renamed, such as the benchmark."""
    return TrackedShare([Span("", [ticker])])


def restated_as_of(close: Row) -> str | None:
    """Return the day in the source of a reading from a restated series; None without it."""
    match = re.search(r", restated as of (\d{4}-\d\d-\d\d)$", close["source"], re.ASCII)
    return match[1] if match and is_date(match[1]) else None


def priced_as_of(close: Row) -> str:
    """Return the day on whose shares the price of a reading is based."""
    return restated_as_of(close) or close["trading_day"]


def newest_splits(rows: Iterable[Row], share: TrackedShare) -> dict[str, Row]:
    """Return the newest reading of a share's split by date, oldest date first."""
    newest: dict[str, Row] = {}
    for row in rows:
        day = row["effective_date"]
        if row["ticker"] not in share.tickers_on(day):
            continue
        if day not in newest or newest[day]["read_at"] < row["read_at"]:
            newest[day] = row
    return dict(sorted(newest.items()))


def product(splits: dict[str, Row], after: str, through: str) -> Decimal:
    """Return the product of the splits after one day, up to and including another."""
    made = Decimal(1)
    for day, row in splits.items():
        if after < day <= through:
            made *= Decimal(row["factor"])
    return made


@dataclass
class Readings:
    """All readings of the record, those that no entry mentions included."""

    closes: dict[tuple[str, str], list[Row]]  # by ticker and session
    splits: dict[str, list[Row]]  # by ticker


@dataclass
class Known:
    """Everything that the journal contains up to an entry."""

    declared: Declared
    calendar: RecordCalendar
    newest: dict[Key, Row] = field(default_factory=dict)
    # The entry that mentioned a row first; of a reading, the first one but READINGS.
    first_seq: dict[Key, int] = field(default_factory=dict)
    mentions: dict[Key, list[tuple[int, Row]]] = field(default_factory=lambda: defaultdict(list))
    seq_of: dict[Key, int] = field(default_factory=dict)  # the entry that mentioned a row last
    questions: dict[Monday, list[Key]] = field(default_factory=lambda: defaultdict(list))
    failures: dict[Monday, int] = field(default_factory=lambda: defaultdict(int))
    batch_of_monday: dict[Monday, str] = field(default_factory=dict)
    last_kind_of_batch: dict[str, str] = field(default_factory=dict)
    picks_of: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    checkpoints_of: dict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))
    metrics_of: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    closes_of: dict[tuple[str, str], list[Key]] = field(default_factory=lambda: defaultdict(list))
    splits_of: dict[str, list[Row]] = field(default_factory=lambda: defaultdict(list))
    shares: dict[str, TrackedShare] = field(default_factory=dict)
    times: list[datetime] = field(default_factory=list)
    endings: dict[str, Row] = field(default_factory=dict)
    accepted_once: set[Key] = field(default_factory=set)
    spans_at: dict[Key, int] = field(
        default_factory=dict
    )  # of a metric: its share's at its mention

    def learn(self, entry: Entry) -> None:
        """Add the rows of an entry."""
        for key, row in entry.rows:
            only_read = key[0] in ("closes", "splits") and entry.kind == "READINGS"
            if key not in self.first_seq and not only_read:
                self.first_seq[key] = entry.seq
                self.meet(key, row)
            self.newest[key] = row
            self.mentions[key].append((entry.seq, row))
            self.seq_of[key] = entry.seq
        self.learn_tickers(entry)
        for key, row in entry.of("pick_checkpoint_metrics"):
            if row["pick_id"] in self.shares:
                self.spans_at[key] = len(self.shares[row["pick_id"]].spans)
        if ending := entry.content.get("ending"):
            self.endings[ending["pick_id"]] = ending
        if entry.kind in ("BATCH", "FAILURE"):
            batch = entry.content["batch"]
            self.last_kind_of_batch[batch["id"]] = entry.kind
        if entry.kind == "FAILURE":
            self.failures[batch["series"], batch["run_date"]] += 1

    def mentions_since(self, key: Key, seen: int) -> list[Row]:
        """Return the last mention up to the entry `seen`, and those after it."""
        mentions = self.mentions[key]
        since = [row for seq, row in mentions if seq > seen]
        before = [row for seq, row in mentions if seq <= seen]
        return before[-1:] + since

    def remember(self, entry: Entry) -> None:
        """Store the time of an entry and the questions that it accepted, for later entries."""
        self.times.append(entry.at)
        for key, row in entry.of("generations"):
            if row.get("accepted") == "true":
                self.accepted_once.add(key)

    def meet(self, key: Key, row: Row) -> None:
        """Add a row at its first mention to the indexes."""
        match key[0]:
            case "generations":
                self.questions[row["series"], row["run_date"]].append(key)
            case "batches":
                self.batch_of_monday[row["series"], row["run_date"]] = row["id"]
            case "picks":
                self.picks_of[row["batch_id"]].append(row["id"])
            case "checkpoints":
                self.checkpoints_of[row["batch_id"]].setdefault(row["day"], row["id"])
            case "pick_checkpoint_metrics":
                self.metrics_of[row["checkpoint_id"]].append(row["id"])
            case "closes":
                self.closes_of[row["ticker"], row["trading_day"]].append(key)
            case "splits":
                self.splits_of[row["ticker"]].append(row)

    def learn_tickers(self, entry: Entry) -> None:
        """Add a renaming, or the first ticker of a pick."""
        renaming = entry.content.get("renaming")
        for _, pick in entry.of("picks"):
            share = self.shares.setdefault(pick["id"], TrackedShare([Span("", [])]))
            if renaming and renaming["pick_id"] == pick["id"]:
                forced = renaming["forced"] == "true"
                span = Span(renaming["from_session"], [pick["ticker"]], forced)
                self.shares[pick["id"]] = TrackedShare([*share.spans, span])
            elif pick["ticker"] not in share.spans[-1].tickers:
                last = share.spans[-1]
                named = Span(last.first, [*last.tickers, pick["ticker"]], last.forced)
                self.shares[pick["id"]] = TrackedShare([*share.spans[:-1], named])

    # One row, by its id.

    def batch(self, id: str) -> Row:
        return self.newest["batches", id]

    def pick(self, id: str) -> Row:
        return self.newest["picks", id]

    def checkpoint(self, id: str) -> Row:
        return self.newest["checkpoints", id]

    def close(self, id: str) -> Row:
        return self.newest["closes", id]

    # Several rows.

    def metrics(self, checkpoint_id: str) -> Iterator[tuple[Key, Row]]:
        """The metrics of a checkpoint, in the order of their first mentions."""
        for id in self.metrics_of[checkpoint_id]:
            key = ("pick_checkpoint_metrics", id)
            yield key, self.newest[key]

    def metrics_of_pick(self, pick: Row) -> Iterator[tuple[Key, Row]]:
        """The metrics of a pick, of all checkpoints so far."""
        for id in self.checkpoints_of[pick["batch_id"]].values():
            yield from ((key, row) for key, row in self.metrics(id) if row["pick_id"] == pick["id"])

    def checkpoints(self, batch_id: str) -> list[Row]:
        """The checkpoints of a batch so far."""
        return [self.checkpoint(id) for id in self.checkpoints_of[batch_id].values()]

    def splits(self, share: TrackedShare) -> dict[str, Row]:
        """The splits of a share that the entries so far mention."""
        rows = [row for ticker in set(share.all_tickers) for row in self.splits_of[ticker]]
        return newest_splits(rows, share)

    # Derived values.

    def share_of(self, pick_id: str, row: Row | None = None, session: str = "") -> TrackedShare:
        """
        Return a pick's share; for a row that keeps an earlier ticker's reading, as it was then.
        """
        share = self.shares[pick_id]
        if row and "close_id" in row:
            return share.as_read_under(self.close(row["close_id"])["ticker"], session)
        return share

    def benchmark_of(self, batch: Row) -> TrackedShare:
        return share_named(batch["benchmark_symbol"])

    def days_of_metric(self, row: Row) -> tuple[str, str]:
        """Return the day after which the splits of a metric count, and the last day."""
        since = priced_as_of(self.close(self.pick(row["pick_id"])["initial_close_id"]))
        if "close_id" in row:
            return since, priced_as_of(self.close(row["close_id"]))
        session = self.checkpoint(row["checkpoint_id"])["trading_day"]
        return since, min(session, self.endings[row["pick_id"]]["last_session"])

    def days_of_benchmark(self, row: Row) -> tuple[str, str]:
        """Return the day after which the splits of a benchmark count, and the last day."""
        batch = self.batch(row["batch_id"])
        since = priced_as_of(self.close(batch["benchmark_initial_close_id"]))
        return since, priced_as_of(self.close(row["benchmark_close_id"]))


def day_of(text: str) -> date:
    """Return a date of the journal."""
    return date.fromisoformat(text)
