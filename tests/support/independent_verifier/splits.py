"""Rule `split-counted`: docs/journal.md, "Splits that no entry mentions"."""

from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal

from independent_verifier.api import Key, Row, key_of
from independent_verifier.known import (
    Entry,
    Known,
    TrackedShare,
    day_of,
    moment,
    newest_splits,
    priced_as_of,
    product,
    share_named,
)
from independent_verifier.refused import require

HOUR = timedelta(hours=1)
OF_FIGURES = ("CHECKPOINT", "CORRECTION")


@dataclass
class Count:
    """The splits that a figure of an entry counts."""

    entry: Entry
    share: TrackedShare
    days: tuple[str, str]
    counted: list[Row]


class Factors:
    """Collects the splits that figures count, and checks that no other one should count."""

    def __init__(self, known: Known) -> None:
        self.known = known
        self.counts: list[Count] = []

    def take(self, entry: Entry) -> None:
        """Rule 1: an entry that computes a checkpoint holds the splits that its figures count."""
        checkpoint = entry.content.get("checkpoint", {})
        if entry.kind not in OF_FIGURES or checkpoint["status"] != "computed":
            return
        if checkpoint["day"] == "0":
            return
        known = self.known
        benchmark = known.benchmark_of(known.batch(checkpoint["batch_id"]))
        counts = [self.count(entry, benchmark, known.days_of_benchmark(checkpoint))]
        for _, metric in known.metrics(checkpoint["id"]):
            share = known.share_of(metric["pick_id"], metric, checkpoint["trading_day"])
            counts.append(self.count(entry, share, known.days_of_metric(metric)))
        for _, row in entry.of("further_benchmarks"):
            first, last = (
                known.close(row[name]) for name in ("further_initial_close_id", "further_close_id")
            )
            days = (priced_as_of(first), priced_as_of(last))
            counts.append(self.count(entry, share_named(row["symbol"]), days))
        counted = {key_of("splits", row) for count in counts for row in count.counted}
        held = {key for key, _ in entry.of("splits")}
        fits = held == counted
        require(fits, "split-counted", f"{entry.where} holds {held}, but counts {counted}")
        self.counts += counts

    def count(self, entry: Entry, share: TrackedShare, days: tuple[str, str]) -> Count:
        """Return the splits that a figure counts."""
        since, through = days
        splits = self.known.splits(share)
        counted = [row for day, row in splits.items() if since < day <= through]
        return Count(entry=entry, share=share, days=days, counted=counted)

    def finish(self, splits: dict[str, list[Row]]) -> None:
        """Rule 2: no figure leaves out a split that was read more than an hour before."""
        for count in self.counts:
            read = [
                row
                for ticker in sorted(set(count.share.all_tickers))
                for row in splits.get(ticker, [])
                if moment(row["read_at"]) < count.entry.at - HOUR
            ]
            possible = newest_splits([*read, *count.counted], count.share)
            counted = newest_splits(count.counted, count.share)
            fits = product(possible, *count.days) == product(counted, *count.days)
            tickers = count.share.all_tickers
            require(fits, "split-counted", f"{count.entry.where}: a split of {tickers} was known")


def check_all_splits(known: Known, splits: dict[str, list[Row]]) -> None:
    """Rule 3: at the end, every reading of a split in the record is counted."""
    for key, row in known.newest.items():
        if key[0] == "checkpoints" and row["status"] == "computed" and row["day"] != "0":
            benchmark = known.benchmark_of(known.batch(row["batch_id"]))
            days = known.days_of_benchmark(row)
            expected = [factor_of(benchmark, splits, days)]
            check_factor(
                known=known,
                checkpoint=row,
                days=days,
                stored=row["benchmark_split_factor"],
                expected=expected,
            )
        if key[0] == "pick_checkpoint_metrics":
            check_metric(known=known, splits=splits, key=key, row=row)


def check_metric(known: Known, splits: dict[str, list[Row]], key: Key, row: Row) -> None:
    """Check the factor of a metric, with its share's tickers of now or of its last mention."""
    checkpoint = known.checkpoint(row["checkpoint_id"])
    days = known.days_of_metric(row)
    now = known.share_of(row["pick_id"], row, checkpoint["trading_day"])
    then = TrackedShare(known.shares[row["pick_id"]].spans[: known.spans_at[key]])
    if "close_id" in row:
        ticker = known.close(row["close_id"])["ticker"]
        then = then.as_read_under(ticker, checkpoint["trading_day"])
    expected = [factor_of(share, splits, days) for share in (now, then)]
    check_factor(
        known=known, checkpoint=checkpoint, days=days, stored=row["split_factor"], expected=expected
    )


def factor_of(share: TrackedShare, splits: dict[str, list[Row]], days: tuple[str, str]) -> Decimal:
    """Return the factor of a share, with all splits of the record."""
    rows = [row for ticker in set(share.all_tickers) for row in splits.get(ticker, [])]
    return product(newest_splits(rows, share), *days)


def check_factor(
    known: Known, checkpoint: Row, days: tuple[str, str], stored: str, expected: list[Decimal]
) -> None:
    """Check that a stored factor is one of the expected ones."""
    run_date = day_of(known.batch(checkpoint["batch_id"])["run_date"])
    if days[1] >= str(run_date + timedelta(days=14)):
        return
    fits = Decimal(stored) in expected
    where = f"day {checkpoint['day']} of {run_date}"
    require(fits, "split-counted", f"{where}: {stored} is stored, {expected} counted")
