"""
All of the record as rows, one for each pick and each morning, in CSV or JSON: over HTTP and as a command.

The rows are read as the API's clients would: page by page, by the document `Export`, through the engine. So an export
cannot say anything else than the API. All of its pages are asked of one snapshot; which one, the journal's head tells.
Nothing is left out without a word: a Monday that failed is one row without a pick, a skipped morning has its rows.

CSV holds no text that a model or a provider wrote. A spreadsheet runs a cell that begins with `=`, and a text that was
changed so that it does not would no longer be the record's; the texts are in JSON, whole. docs/export.md says it all.
"""

import csv
from base64 import b64encode
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Mapping
from datetime import date, timedelta
from io import StringIO
from typing import Any

import msgspec
from msgspec import Struct

from api.engine import Engine
from api.halving import halved
from api.persisted import BY_NAME
from app.domain.model import SERIES
from app.errors import AlphaMondayError

# Of what an export holds and how it is written: a reader of another one must look at docs/export.md again.
FORMAT = 1
# Some 200 rows: what an export takes of memory, and how long it keeps others from being answered at a time. The slowest
# client that is not disconnected (app/web/unsent.py) takes them in less time than it may be silent for.
MONDAYS = 5
_DOCUMENT = BY_NAME["Export"]

Node = Mapping[str, Any]


class ExportStopped(AlphaMondayError):
    """The record could not be read to its end; what there is of the export is not all of it."""


class ExportDamaged(ExportStopped):
    """A row of the record is damaged: nothing of it is exported, because a row that is left out would not be missed."""


class Wanted(Struct, frozen=True):
    """Which Mondays: of a series, and from and to which run date, both among them; None is without end."""

    series: str = SERIES
    begin: date | None = None
    end: date | None = None


class Row(Struct, frozen=True, kw_only=True):
    """
    One pick on one morning; the columns of CSV, in their order. What is not known, or not there, is None.

    Decimals are texts, as the API has them. `result` tells the row that the pick is judged by. `rehearsed` is true in
    a record that is made up.
    """

    series: str
    run_date: str
    batch_status: str
    late: bool
    failure_reason: str | None
    position: int | None = None
    ticker: str | None = None
    picked_as: str | None = None
    action: str | None = None
    initial_price: str | None = None
    entry_open: str | None = None
    day: int | None = None
    checkpoint_date: str | None = None
    checkpoint_status: str | None = None
    skip_reason: str | None = None
    trading_day: str | None = None
    result: bool | None = None
    current_price: str | None = None
    split_factor: str | None = None
    absolute_return_pct: str | None = None
    vs_benchmark_pct: str | None = None
    directional_return_pct: str | None = None
    alpha_pct: str | None = None
    hit: bool | None = None
    return_from_open_pct: str | None = None
    ended: bool | None = None
    renamed: bool | None = None
    unusual_move: bool | None = None
    benchmark_symbol: str
    benchmark_initial_price: str | None
    benchmark_price: str | None = None
    benchmark_split_factor: str | None = None
    benchmark_return_pct: str | None = None
    benchmark_unusual_move: bool | None = None
    batch_id: str
    pick_id: str | None = None
    rehearsed: bool


class Full(Row, frozen=True, kw_only=True):
    """A row of JSON: with the texts. A pick's reasoning stands in its row of day 0, and in no other."""

    failure: str | None = None
    note: str | None = None
    reasoning: str | None = None


class Part(Struct, frozen=True):
    """Some Mondays of an export, newest first: their rows, how many they are, and the journal's head."""

    rows: list[Full]
    mondays: int
    head: Node | None
    rehearsed: bool

    @property
    def head_text(self) -> str | None:
        """Return the head as `verify --head` takes it."""
        return f"{self.head['seq']}:{self.head['hash']}" if self.head else None


async def parts(engine: Engine, wanted: Wanted) -> AsyncGenerator[Part]:
    """Give an export part by part, at least one; raises ExportStopped. `engine` reads one snapshot."""
    after = _just_after(wanted.end)
    first, more = MONDAYS, True
    while more:
        answer, first = await halved(
            engine, _DOCUMENT, min(2 * first, MONDAYS), {"after": after, "series": wanted.series}
        )
        said = msgspec.json.decode(answer.body)
        if answer.damaged:
            raise ExportDamaged(answer.damaged)
        if "errors" in said:
            raise ExportStopped(said["errors"][0]["message"])
        page, service = said["data"]["batches"], said["data"]["service"]
        mondays = [one for one in page["nodes"] if not wanted.begin or one["runDate"] >= wanted.begin.isoformat()]
        rows = [Full(**row, rehearsed=service["rehearsed"]) for batch in mondays for row in _rows_of(batch)]
        yield Part(rows, len(mondays), service["journalHead"], service["rehearsed"])
        more = page["pageInfo"]["hasNextPage"] and len(mondays) == len(page["nodes"])
        after = page["pageInfo"]["endCursor"]


def _just_after(end: date | None) -> str | None:
    """Return the cursor after which the Mondays up to `end` come: that of the next day, Monday or not."""
    return None if end is None or end == date.max else b64encode(f"{end + timedelta(1)}".encode()).decode()


def _rows_of(batch: Node) -> Iterator[dict[str, Any]]:
    """Yield a Monday's rows: by morning, then by pick; one for a Monday without picks."""
    whole = {
        "series": batch["series"],
        "run_date": batch["runDate"],
        "batch_status": batch["status"],
        "late": batch["late"],
        "failure_reason": batch["failureReason"],
        "failure": batch["failure"],
        "benchmark_symbol": batch["benchmarkSymbol"],
        "benchmark_initial_price": batch["benchmarkInitialPrice"],
        "batch_id": batch["id"],
    }
    result = batch["result"] and batch["result"]["day"]
    mornings = [{**_morning(one), "result": one["day"] == result} for one in batch["checkpoints"]]
    metrics = {(one["day"], metric["pick"]["id"]): metric for one in batch["checkpoints"] for metric in one["metrics"]}
    for morning in mornings if batch["picks"] else ():
        for pick in batch["picks"]:
            metric = metrics.get((morning["day"], pick["id"]))
            yield {**whole, **morning, **_pick(pick, morning["day"]), **(_figures(metric) if metric else {})}
    if not (batch["picks"] and mornings):
        yield whole


def _morning(checkpoint: Node) -> dict[str, Any]:
    return {
        "day": checkpoint["day"],
        "checkpoint_date": checkpoint["checkpointDate"],
        "checkpoint_status": checkpoint["status"],
        "skip_reason": checkpoint["skipReason"],
        "note": checkpoint["note"],
        "trading_day": checkpoint["tradingDay"],
        "benchmark_price": checkpoint["benchmarkPrice"],
        "benchmark_split_factor": checkpoint["benchmarkSplitFactor"],
        "benchmark_return_pct": checkpoint["benchmarkReturnPct"],
        "benchmark_unusual_move": checkpoint["benchmarkUnusualMove"],
    }


def _pick(pick: Node, day: int) -> dict[str, Any]:
    return {
        "pick_id": pick["id"],
        "position": pick["position"],
        "ticker": pick["ticker"],
        "picked_as": pick["pickedAs"],
        "action": pick["action"],
        "initial_price": pick["initialPrice"],
        "entry_open": pick["entryOpen"],
        "reasoning": pick["reasoning"] if day == 0 else None,
    }


def _figures(metric: Node) -> dict[str, Any]:
    return {
        "current_price": metric["currentPrice"],
        "split_factor": metric["splitFactor"],
        "absolute_return_pct": metric["absoluteReturnPct"],
        "vs_benchmark_pct": metric["vsBenchmarkPct"],
        "directional_return_pct": metric["directionalReturnPct"],
        "alpha_pct": metric["alphaPct"],
        "hit": metric["hit"],
        "return_from_open_pct": metric["returnFromOpenPct"],
        "ended": metric["ended"],
        "renamed": metric["renamed"],
        "unusual_move": metric["unusualMove"],
    }


async def written(form: str, read: AsyncIterator[Part], wanted: Wanted) -> AsyncGenerator[bytes]:
    """Give the text of an export, as `csv` or `json`, piece by piece as its parts are read."""
    write = FORMS[form]
    first = True
    async for part in read:
        yield write(part, wanted, first)
        first = False
    if form == "json":
        yield b"\n]}\n"


def _csv(part: Part, _: Wanted, first: bool) -> bytes:
    text = StringIO()
    writer = csv.writer(text)  # RFC 4180: commas, CRLF, quotes where they are needed
    if first:
        writer.writerow(Row.__struct_fields__)
    writer.writerows(_cells(row) for row in part.rows)
    return text.getvalue().encode()


def _cells(row: Row) -> Iterable[object]:
    values = (getattr(row, column) for column in Row.__struct_fields__)
    return (("false", "true")[value] if isinstance(value, bool) else value for value in values)


def _json(part: Part, wanted: Wanted, first: bool) -> bytes:
    """Write one document, a row a line: it is only complete, and only JSON, with its last bracket."""
    rows = b",\n".join(msgspec.json.encode(row) for row in part.rows)
    if not first:
        return b",\n" + rows if rows else b""
    said = {
        "format": FORMAT,
        "head": part.head_text,
        "at": part.head and part.head["at"],
        "rehearsed": part.rehearsed,
        "series": wanted.series,
        "from": wanted.begin,
        "to": wanted.end,
    }
    return msgspec.json.encode(said)[:-1] + b',"rows":[\n' + rows


FORMS: Mapping[str, Callable[[Part, Wanted, bool], bytes]] = {"csv": _csv, "json": _json}
