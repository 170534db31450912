"""
Whether a record is what its journal says.

The law: every row of the record equals its last mention in the journal, and every last mention has its row. Rows that
the journal need not mention: a question that is still open, and readings of prices and splits that nothing used.

Entries and rows are told one by one, as the journal writes them: every value a text, members without value left out.
Of a row no more is kept than a fingerprint, and what its name and the figures that hang on it need.
"""

import hashlib
import json
import sys
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import date
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from app.domain import journal, model, returns, splits
from app.domain.text import without_controls
from app.domain.tickers import Tickers
from app.errors import Misfit

Row = Mapping[str, str]
Head = tuple[int, str]

TABLES: Mapping[str, type[Struct]] = {
    "generations": model.Generation,
    "batches": model.Batch,
    "picks": model.Pick,
    "checkpoints": model.Checkpoint,
    "pick_checkpoint_metrics": model.PickMetric,
    "corrections": model.Correction,
    "closes": model.Close,
    "splits": model.Split,
}

# Under which name an entry holds the rows of a table.
MEMBERS = {
    "generation": "generations",
    "batch": "batches",
    "pick": "picks",
    "picks": "picks",
    "checkpoint": "checkpoints",
    "metrics": "pick_checkpoint_metrics",
    "corrections": "corrections",
    "closes": "closes",
    "splits": "splits",
}

# What is kept of a row's last mention.
_KEPT = {
    "generations": ("series", "run_date"),
    "batches": ("series", "run_date", "trading_day", "benchmark_symbol", "benchmark_initial_price"),
    "picks": ("batch_id", "ticker", "initial_price", "entry_open", "entry_close_id"),
    "checkpoints": ("batch_id", "day", "trading_day", "benchmark_return_pct"),
    "closes": ("ticker", "trading_day", "open", "close"),
}

# What a row cannot be named or known without, besides its id.
_NEEDED = {
    "generations": ("series", "run_date"),
    "batches": ("series", "run_date"),
    "picks": ("ticker",),
    "closes": ("ticker",),
    "splits": ("ticker", "effective_date", "read_at"),
}


class Doubt(NamedTuple):
    """A row that does not fit: as the record has it, if it has; and the entry that mentions it last, if any."""

    mark: bytes
    row: tuple[str, Row] | None
    seq: int | None


class Verification:
    """
    A verification under way: the entries in their order, then the rows, then what was journalled meanwhile.

    `heads` are copies of the journal's head: the chain must hold these entries with these hashes. Raises Misfit.
    """

    def __init__(self, heads: Sequence[Head] = ()) -> None:
        self.seq, self.hash, self.rows = 0, journal.GENESIS, 0
        self.known = Known()
        self._heads = list(heads)
        self._last: dict[bytes, bytes] = {}  # by a row's mark: the entry that mentions it last, and its fingerprint
        self._doubted: dict[bytes, Doubt] = {}
        self._walked = False
        self._need_not: set[bytes] = set()

    @property
    def awaited(self) -> int:
        """Return how many rows the journal mentions that were not told yet."""
        return len(self._last)

    def entry(self, entry: Row) -> None:
        """Take the next entry of the chain."""
        seq = self.seq + 1
        content = self._linked(seq, entry)
        _agrees(seq, entry, content)
        mentions = list(_mentions(seq, content))
        if "renaming" in content:
            self.known.rename(seq, content)
        for table, row in mentions:
            self._mention(seq, table, row)
            self.known.learn(table, row)
        match content:
            case {"ending": {"pick_id": str(pick), "value": str(value), "last_session": str(last)}}:
                self.known.endings[pick] = value, last
        for table, row in mentions:
            self.known.check(seq, table, row)
        self.seq, self.hash = seq, entry["hash"]

    def end_of_chain(self, *, open_mondays: bool = True) -> None:
        """
        Take note that all entries were told; from here on rows are, and entries that came meanwhile.

        `open_mondays`: whether the rows will hold questions whose batch is not there yet.
        """
        self._walked = True
        if not open_mondays:
            self._need_not = {mark("generations", {"id": id}) for id in self.known.questions_without_batch()}
        if self._heads:
            raise misfit(
                f"The journal ends at entry {self.seq}, before entry {self._heads[0][0]}, of which a copy was kept. "
                "Its tail was cut off."
            )

    def row(self, table: str, row: Row) -> None:
        """Take a row of the record; what differs may yet be mentioned by an entry that came meanwhile."""
        self.rows += 1
        its = mark(table, row)
        told = self._last.pop(its, b"")
        need_not = table in ("closes", "splits") or (table == "generations" and "accepted" not in row)
        if told[8:] != fingerprint(row) and (told or not need_not):
            self._doubted[its] = Doubt(its, (table, row), int.from_bytes(told[:8]) or None)

    def doubt(self) -> Doubt | None:
        """Return the first misfit between rows and mentions, when everything was told."""
        gone = (Doubt(its, None, int.from_bytes(told[:8])) for its, told in self._last.items())
        doubts = [*self._doubted.values(), *(one for one in gone if one.mark not in self._need_not)]
        return min(doubts, key=lambda doubt: doubt.seq or self.seq + 1, default=None)

    def explained(self, doubt: Doubt, content: str | None) -> Misfit:
        """Return what is to be said of a doubt, given the content of its entry."""
        mentions = list(_mentions(doubt.seq or 0, json.loads(content))) if content else []
        told = next((told for told in mentions if mark(*told) == doubt.mark), None)
        table, row = doubt.row or told or ("", {})
        name = f"{self.known.name(table, row)} ({table}, {key_of(table, row)})"
        if doubt.row is None:
            return misfit(
                f"{name} is not in the record, though entry {doubt.seq} of the journal records it. It was taken out."
            )
        if told is None:
            return misfit(
                f"{name} is in the record, but no entry of the journal records it. "
                "It was written past the journal, or the journal's tail was cut off."
            )
        field = min(name for name in {*row, *told[1]} if row.get(name) != told[1].get(name))
        here, there = _shortened(row.get(field), told[1].get(field))
        return misfit(
            f"{name}: {field} is {here} in the record, but {there} in the journal (entry {doubt.seq}). "
            "The record was changed after it was journalled."
        )

    def _linked(self, seq: int, entry: Row) -> dict[str, Any]:
        """Return the content of an entry that is the next link of the chain."""
        if entry["seq"] != str(seq):
            raise misfit(f"Entry {seq} of the journal is not there: after entry {seq - 1} comes {entry['seq']}.")
        if entry["previous"] != self.hash:
            raise misfit(
                f"Entry {seq} of the journal follows the hash {entry['previous']}, but that of entry {seq - 1} is "
                f"{self.hash}. One of the two was changed, or what stood between them was taken out."
            )
        if entry["hash"] != (hashed := journal.digest(self.hash, entry["content"])):
            raise misfit(
                f"Entry {seq} of the journal has the hash {entry['hash']}, but its content gives {hashed}. "
                "It was changed after it was written."
            )
        for head in [head for head in self._heads if head[0] == seq]:
            self._heads.remove(head)
            if head[1] != entry["hash"]:
                raise misfit(
                    f"Entry {seq} of the journal has the hash {entry['hash']}, but the copy of it says {head[1]}. "
                    "The journal was written anew after the copy was made."
                )
        return _decoded(seq, entry["content"])

    def _mention(self, seq: int, table: str, row: Row) -> None:
        its = mark(table, row)
        if not self._walked:
            self._last[its] = seq.to_bytes(8) + fingerprint(row)
        elif (doubt := self._doubted.get(its)) and doubt.row == (table, row):
            del self._doubted[its]


class Known:
    """What the journal has mentioned so far, as far as figures and names need it."""

    def __init__(self) -> None:
        self.figures = 0
        self.endings: dict[str, tuple[str, str]] = {}
        self.series, self.tickers = {model.SERIES}, set[str]()
        self._rows: dict[str, dict[str, tuple[str | None, ...]]] = {table: {} for table in _KEPT}
        self._tickers: dict[str, Tickers] = {}  # of each pick
        self._used: dict[str, str] = {}  # the reading that a row of a pick names, by the row's id
        self._splits: dict[str, list[model.Split]] = defaultdict(list)

    def learn(self, table: str, row: Row) -> None:
        """Take note of a row's newest mention."""
        if table in _KEPT:
            kept = map(row.get, _KEPT[table])
            self._rows[table][row["id"]] = tuple(value and sys.intern(value) for value in kept)
        if table in ("closes", "splits"):
            self.tickers.add(row["ticker"])
        if table == "splits":
            self._splits[row["ticker"]].append(msgspec.convert(row, model.Split, strict=False))
        if table == "picks":
            self._learn_ticker(row["id"], row["ticker"])
        self.series |= {row["series"]} if "series" in row else set()

    def _learn_ticker(self, pick: str, ticker: str) -> None:
        share = self._tickers.get(pick) or Tickers.only(ticker)
        if ticker != share.periods[-1].ticker:  # by an entry that says no session
            share = share.renamed(ticker, None)
        self._tickers[pick] = share

    def rename(self, seq: int, content: Mapping[str, Any]) -> None:
        """Take note of a pick's new ticker, and of the session from which on it has it."""
        try:
            renaming = msgspec.convert(content["renaming"], model.Renaming, strict=False)
            pick, ticker = str(renaming.pick_id), content["pick"]["ticker"]
            share = self._tickers[pick]
            self._tickers[pick] = share.renamed(ticker, renaming.from_session, forced=renaming.forced)
        except (msgspec.ValidationError, LookupError, TypeError, OverflowError):
            raise misfit(
                f"Entry {seq} of the journal: what it calls renaming is none of a pick from a session on."
            ) from None

    def check(self, seq: int, table: str, row: Row) -> None:
        """Recompute the figures of a row that entry `seq` mentions; a price must be that of its reading."""
        where = f"Entry {seq} of the journal, {self.name(table, row)}"
        try:
            for field, expected in self._figures(table, row):
                self.figures += 1
                if Decimal(row[field]) != expected:
                    told = f"{field} is {row[field]}, but what it comes from gives {returns.plain(expected)}"
                    raise misfit(f"{where}: {told}. The figure was never computed so.")
            if table == "pick_checkpoint_metrics":
                self._check_mark(where, row)
            if table in ("picks", "pick_checkpoint_metrics"):
                self._used[row["id"]] = sys.intern(row.get("entry_close_id") or row.get("close_id") or "")
        except LookupError as error:
            raise misfit(f"{where}: its figures need {error}, which the journal does not have.") from None
        except (ArithmeticError, ValueError):
            raise misfit(f"{where}: its figures are no numbers.") from None

    def questions_without_batch(self) -> Iterator[str]:
        """Return the ids of the questions whose Monday has no batch."""
        mondays = {row[:2] for row in self._rows["batches"].values()}
        return (id for id, monday in self._rows["generations"].items() if monday not in mondays)

    def name(self, table: str, row: Row) -> str:
        """Return what a person calls a row."""
        metric = table == "pick_checkpoint_metrics"
        pick = self._found("picks", row.get("pick_id")) if metric else row
        checkpoint = self._found("checkpoints", row.get("checkpoint_id")) or row
        batch = self._found("batches", checkpoint.get("batch_id")) or row
        words = {
            "generations": f"question {row.get('attempt')}",
            "batches": "the batch",
            "picks": f"the pick {row.get('ticker')}",
            "checkpoints": f"day {row.get('day')}",
            "pick_checkpoint_metrics": f"{pick.get('ticker')} on day {checkpoint.get('day')}",
            "corrections": f"the correction of {row.get('field')} on day {checkpoint.get('day')}",
            "closes": f"the reading of {row.get('ticker')}",
            "splits": f"the split of {row.get('ticker')}",
        }
        day = row.get("effective_date") or row.get("trading_day") if table in ("closes", "splits") else None
        return f"{words[table]} of {day or batch.get('run_date')}"

    def _figures(self, table: str, row: Row) -> Iterator[tuple[str, Decimal]]:
        """Yield what each figure of a row must be."""
        if table == "batches" and "benchmark_initial_price" in row:
            reading = self._reading(row["benchmark_initial_close_id"], row, {row["benchmark_symbol"]})
            yield "benchmark_initial_price", Decimal(reading["close"])
        elif table == "picks":
            batch = self._row("batches", row["batch_id"])
            yield "initial_price", Decimal(self._own_reading(row, row["id"], row["initial_close_id"], batch)["close"])
            if "entry_open" in row:
                opened = self._row("closes", row["entry_close_id"])
                yield "entry_open", Decimal(self._own_reading(row, row["id"], row["entry_close_id"], opened)["open"])
        elif table == "checkpoints" and "benchmark_price" in row:
            yield from self._of_the_benchmark(row)
        elif table == "pick_checkpoint_metrics":
            yield from self._of_a_pick(row)

    def _of_the_benchmark(self, row: Row) -> Iterator[tuple[str, Decimal]]:
        batch = self._row("batches", row["batch_id"])
        reading = self._reading(row["benchmark_close_id"], row, {batch["benchmark_symbol"]})
        yield "benchmark_price", Decimal(reading["close"])
        factor = self._factor(Tickers.only(batch["benchmark_symbol"]), batch["trading_day"], row["trading_day"])
        yield "benchmark_split_factor", factor
        if row["day"] != "0":
            initial = Decimal(batch["benchmark_initial_price"])
            yield "benchmark_return_pct", returns.return_pct(initial, Decimal(row["benchmark_price"]), factor)

    def _of_a_pick(self, row: Row) -> Iterator[tuple[str, Decimal]]:
        pick, checkpoint = self._row("picks", row["pick_id"]), self._row("checkpoints", row["checkpoint_id"])
        batch, share = self._row("batches", pick["batch_id"]), self._tickers[row["pick_id"]]
        if "close_id" in row:
            reading = self._own_reading(row, row["pick_id"], row["close_id"], checkpoint)
            share = share.as_read(reading["ticker"], _day(reading["trading_day"]))
            price = reading["close"]
        else:
            price = self.endings[row["pick_id"]][0]
        yield "current_price", Decimal(price)
        through = min(checkpoint["trading_day"], self.endings[row["pick_id"]][1] if row["ended"] == "true" else "9")
        factor = self._factor(share, batch["trading_day"], through)
        yield "split_factor", factor
        current = Decimal(row["current_price"])
        benchmark = Decimal(checkpoint["benchmark_return_pct"])
        measured = returns.measure(Decimal(pick["initial_price"]), current, factor, benchmark)
        yield "absolute_return_pct", measured.absolute_return_pct
        yield "vs_benchmark_pct", measured.vs_benchmark_pct
        if "return_from_open_pct" in row:
            since_open = self._factor(share, self._row("closes", pick["entry_close_id"])["trading_day"], through)
            yield "return_from_open_pct", returns.return_pct(Decimal(pick["entry_open"]), current, since_open)

    def _factor(self, share: Tickers, after: str, through: str) -> Decimal:
        """Return the product of the splits of a share, each read under the ticker that it had on that day."""
        readings = [
            split
            for ticker in share.all
            for split in self._splits[ticker]
            if share.counts(ticker, split.effective_date)
        ]
        return splits.factor(splits.in_force(readings), _day(after), _day(through))

    def _check_mark(self, where: str, row: Row) -> None:
        """Refuse a metric that was made after a forced rename and is not marked."""
        forced_from = self._tickers[row["pick_id"]].forced_from
        session = _day(self._row("checkpoints", row["checkpoint_id"])["trading_day"])
        is_new = self._used.get(row["id"]) != row.get("close_id", "")
        if forced_from and forced_from <= session and is_new and row["unusual_move"] != "true":
            raise misfit(f"{where}: unusual_move is not true, but a rename from {forced_from} on was forced.")

    def _own_reading(self, row: Row, pick: str, close: str, session_of: Row) -> Row:
        """Return a pick's reading: under the ticker of its session, unless the row named it before a rename."""
        share = self._tickers[pick]
        kept = self._used.get(row["id"]) == close
        tickers = share.all if kept else share.period(_day(session_of["trading_day"])).tickers
        return self._reading(close, session_of, tickers)

    def _found(self, table: str, id: str | None) -> Row:
        kept = zip(_KEPT[table], self._rows[table].get(id or "", ()), strict=False)
        return {name: value for name, value in kept if value is not None}

    def _row(self, table: str, id: str) -> Row:
        if found := self._found(table, id):
            return found
        raise LookupError(f"{id} of {table}")

    def _reading(self, id: str, session_of: Row, tickers: Collection[str]) -> Row:
        """Return a reading, which must be of one of these tickers and of the session of another row."""
        reading = self._row("closes", id)
        if reading["trading_day"] != session_of["trading_day"] or reading["ticker"] not in tickers:
            told = f"the reading {id} is of {reading['ticker']} on {reading['trading_day']}"
            raise LookupError(f"a reading of {'/'.join(sorted(tickers))} on {session_of['trading_day']} ({told})")
        return reading


def _day(text: str) -> date:
    return date.fromisoformat(text)


def key_of(table: str, row: Row) -> str:
    """Return what a row is known by in its table."""
    return " ".join((row["ticker"], row["effective_date"], row["read_at"])) if table == "splits" else row["id"]


def mark(table: str, row: Row) -> bytes:
    """Return what a row of the record is known by, in little space."""
    return hashlib.sha256(f"{table} {key_of(table, row)}".encode()).digest()[:16]


def fingerprint(row: Row) -> bytes:
    """Return what tells a row from every other."""
    return hashlib.sha256(journal.canonical(row).encode()).digest()


def misfit(text: str) -> Misfit:
    """Return the misfit that `text` describes, in one line that a terminal can show whatever it quotes."""
    return Misfit(without_controls(text[:1].upper() + text[1:], "?"))


def _decoded(seq: int, content: str) -> dict[str, Any]:
    """Return what canonical JSON says; there is only one way to write it."""
    try:
        told = json.loads(content)
        if isinstance(told, dict) and journal.canonical(told) == content:
            return told
    except (ValueError, RecursionError):
        pass
    raise misfit(f"Entry {seq} of the journal is not canonical JSON. Alpha Monday did not write it so.")


def _agrees(seq: int, entry: Row, content: Mapping[str, Any]) -> None:
    """Refuse an entry whose columns say something else than its content."""
    told = {**content, "batch_id": _about(content)}
    for name in ("seq", "kind", "at", "batch_id"):
        if name in entry and entry[name] != told.get(name):
            here, there = _shortened(entry[name], told.get(name))
            raise misfit(f"Entry {seq} of the journal: its {name} is {here}, but its content says {there}.")


def _about(content: Mapping[str, Any]) -> str | None:
    """Return the id of the batch that an entry is about."""
    match content:
        case (
            {"batch": {"id": str(id)}}
            | {"checkpoint": {"batch_id": str(id)}}
            | {"pick": {"batch_id": str(id)}}
            | {"picks": [{"batch_id": str(id)}, *_]}
        ):
            return id
        case {"generation": {"series": str(series), "run_date": str(run_date)}}:
            with suppress(ValueError):
                return str(model.batch_id(series, date.fromisoformat(run_date)))
    return None


def _mentions(seq: int, content: Mapping[str, Any]) -> Iterator[tuple[str, Row]]:
    """Yield the rows that an entry holds, each with its table."""
    for member, table in MEMBERS.items():
        rows = content.get(member, [])
        for row in rows if isinstance(rows, list) else [rows]:
            needed = {name for name in ("id", *_NEEDED.get(table, ())) if name in TABLES[table].__struct_fields__}
            texts = isinstance(row, dict) and all(isinstance(value, str) for value in row.values())
            if not texts or not needed <= row.keys():
                raise misfit(f"Entry {seq} of the journal: what it calls {member} is no row of {table}.")
            yield table, row


def _shortened(*told: str | None) -> Iterator[str]:
    """Yield texts that differ, around where they begin to."""
    texts = [text or "" for text in told]
    start = next((at for at, letters in enumerate(zip(*texts, strict=False)) if len(set(letters)) > 1), 0)
    start = max(0, start - 20) if max(map(len, texts)) > 60 else 0
    for text in told:
        shown = (text or "")[start : start + 60]
        dots = "..." * (start > 0), "..." * (start + 60 < len(text or ""))
        yield "absent" if text is None else f"{dots[0]}{shown!r}{dots[1]}"
