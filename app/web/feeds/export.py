"""
The export: the whole record as rows, one for each pick and each day, in CSV or JSON.

The rows are read with the document `Export`, page by page, through the engine, as a client of the
API would read them. So an export contains the same figures as the API. All of its pages come from
one snapshot, which the journal's head identifies. No Monday and no day is left out of the export: a
failed Monday has one row without a pick, and a skipped day has a row for each pick.

CSV contains no text that a model or a provider wrote. A spreadsheet executes a cell that begins
with `=`, and a text that is changed to prevent this would no longer be the text of the record. JSON
contains these texts unchanged. docs/export.md describes the format.
"""

import csv
from base64 import b64encode
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from datetime import date, timedelta
from io import StringIO
from typing import Any

import msgspec
from msgspec import Struct

from api.engine import Engine
from api.page_halving import execute_halving_page
from app.domain.model import SERIES
from app.errors import AlphaMondayError
from app.web.documents import extended

# The version of the format. It is increased when a column or a member is removed or changes its
# meaning, so that readers look at docs/export.md again.
FORMAT_VERSION = 1
# How many Mondays are read at a time: about 200 rows. This number determines how much memory an
# export takes, and how long each part delays other requests. A client may read as slowly as
# MIN_PACE in app/web/unsent_responses.py. Even such a client reads a part in less than 20 seconds.
# So neither CREDIT there nor READ_TIMEOUT in app/web/feeds/downloads.py, both 20 seconds, ends its
# export.
MONDAYS_PER_PART = 5
_DOCUMENT = extended("Export", service="service { origin recordId } service")

Node = Mapping[str, Any]


class ExportStopped(AlphaMondayError):
    """The record could not be read to its end; the export so far is incomplete."""


class ExportDamaged(ExportStopped):
    """
    A row of the record is damaged.

    The export stops. If it left the row out, the reader of the export would not notice that.
    """


class ExportRange(Struct, frozen=True):
    """
    The Mondays to export: those of a series, from one run date to another, both included.

    If `begin` is None, the range has no first Monday; if `end` is None, it has no last Monday. If
    `series` is None, the export has several series: their parts are read one after another.
    """

    series: str | None = SERIES
    begin: date | None = None
    end: date | None = None


class CsvRow(Struct, frozen=True, kw_only=True):
    """
    One pick on one day. The fields are the columns of CSV, in their order.

    A value that is not known, or does not exist, is None. Decimals are texts, as in the API.
    `result` is true in the row with the final result of the pick. `rehearsed` is true in the record
    of a rehearsal. `origin` and `record_id` are those of the record, as its journal states them.
    `stamped_before_open` is None while the record has no timestamps.
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
    origin: str
    record_id: str | None = None
    stamped_before_open: bool | None = None
    probability: int | None = None
    dividends: str | None = None
    total_return_pct: str | None = None
    vs_benchmark_total_pct: str | None = None
    total_alpha_pct: str | None = None
    spin_off_counted_once: bool | None = None
    benchmark_dividends: str | None = None
    benchmark_total_return_pct: str | None = None
    further_returns_pct: str | None = None


class JsonRow(CsvRow, frozen=True, kw_only=True):
    """
    A row of JSON: the columns of CSV, and the texts of the record.

    Of the rows of a pick, only the row of day 0 has the pick's reasoning.
    """

    failure: str | None = None
    note: str | None = None
    reasoning: str | None = None


class ExportPart(Struct, frozen=True):
    """
    The rows of some batches, newest first, with the number of batches and the journal's head.

    `origin` and `record_id` are those of the record; the id is None if the record has none.
    """

    rows: list[JsonRow]
    batches: int
    head: Node | None
    rehearsed: bool
    origin: str
    record_id: str | None

    @property
    def head_text(self) -> str | None:
        """Return the head as `alpha-monday verify --head` accepts it; None if there is none."""
        if not self.head:
            return None
        return f"{self.head['seq']}:{self.head['hash']}"


async def read_parts(engine: Engine, export_range: ExportRange) -> AsyncGenerator[ExportPart]:
    """
    Yield the parts of an export, at least one. `engine` must read from one snapshot.

    Raises ExportStopped if the record cannot be read to its end.
    """
    after = _cursor_before(export_range.end)
    size = MONDAYS_PER_PART
    has_more = True
    while has_more:
        # If a page was too large, fewer Mondays were read. Try twice as many the next time.
        result, size = await execute_halving_page(
            engine,
            _DOCUMENT,
            first=min(2 * size, MONDAYS_PER_PART),
            variables={"after": after, "series": export_range.series},
        )
        answer = msgspec.json.decode(result.body)
        if result.damage:
            raise ExportDamaged(result.damage)
        if "errors" in answer:
            raise ExportStopped(answer["errors"][0]["message"])
        page, service = answer["data"]["batches"], answer["data"]["service"]
        batches = [batch for batch in page["nodes"] if _is_in_range(batch, export_range.begin)]
        yield ExportPart(
            rows=_json_rows(
                batches, service, has_stamps=bool(answer["data"]["timestamps"]["nodes"])
            ),
            batches=len(batches),
            head=service["journalHead"],
            rehearsed=service["rehearsed"],
            origin=service["origin"],
            record_id=service["recordId"],
        )
        # The newest Mondays come first. So if one Monday is older than the range, all later pages
        # have only older ones.
        has_more = page["pageInfo"]["hasNextPage"] and len(batches) == len(page["nodes"])
        after = page["pageInfo"]["endCursor"]


def _is_in_range(batch: Node, begin: date | None) -> bool:
    return begin is None or bool(batch["runDate"] >= begin.isoformat())


def _cursor_before(end: date | None) -> str | None:
    """
    Return a cursor: the page after it begins with the newest Monday that is not after `end`.

    Return None if `end` limits nothing.
    """
    if end is None or end == date.max:
        return None
    # The API accepts any date as a cursor, Monday or not.
    next_day = end + timedelta(1)
    return b64encode(f"{next_day}".encode()).decode()


def _json_rows(batches: list[Node], service: Node, *, has_stamps: bool) -> list[JsonRow]:
    """
    Return the rows of batches.

    If the record has no timestamps, no batch says whether it has one: none was to be expected.
    """
    record_columns = {
        "rehearsed": service["rehearsed"],
        "origin": service["origin"],
        "record_id": service["recordId"],
    }
    rows = []
    for batch in batches:
        is_stamped = batch["stampedBeforeOpen"] if has_stamps else None
        rows += [
            JsonRow(**row, **record_columns, stamped_before_open=is_stamped)
            for row in _batch_rows(batch)
        ]
    return rows


def _batch_rows(batch: Node) -> Iterator[dict[str, Any]]:
    """Yield the rows of a batch by day, then by pick; one row for a batch without picks."""
    batch_columns = _batch_columns(batch)
    result_day = batch["result"] and batch["result"]["day"]
    has_rows = False
    for checkpoint in batch["checkpoints"]:
        day = checkpoint["day"]
        day_columns = {**_checkpoint_columns(checkpoint), "result": day == result_day}
        if day == result_day:
            day_columns["further_returns_pct"] = _further_returns(batch)
        metrics = {metric["pick"]["id"]: metric for metric in checkpoint["metrics"]}
        for pick in batch["picks"]:
            row = {**batch_columns, **day_columns, **_pick_columns(pick, day)}
            if pick["id"] in metrics:
                row |= _metric_columns(metrics[pick["id"]])
            yield row
            has_rows = True
    if not has_rows:
        yield batch_columns


def _further_returns(batch: Node) -> str | None:
    """Return each further benchmark with its return, such as `RSP 1.25 IWM -0.5`; None if none."""
    parts = [f"{one['symbol']} {one['returnPct']}" for one in batch["furtherBenchmarks"]]
    return " ".join(parts) or None


def _batch_columns(batch: Node) -> dict[str, Any]:
    return {
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


def _checkpoint_columns(checkpoint: Node) -> dict[str, Any]:
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
        "benchmark_dividends": checkpoint["benchmarkDividends"],
        "benchmark_total_return_pct": checkpoint["benchmarkTotalReturnPct"],
    }


def _pick_columns(pick: Node, day: int) -> dict[str, Any]:
    return {
        "pick_id": pick["id"],
        "position": pick["position"],
        "ticker": pick["ticker"],
        "picked_as": pick["pickedAs"],
        "action": pick["action"],
        "probability": pick["probability"],
        "initial_price": pick["initialPrice"],
        "entry_open": pick["entryOpen"],
        "reasoning": pick["reasoning"] if day == 0 else None,
    }


def _metric_columns(metric: Node) -> dict[str, Any]:
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
        "dividends": metric["dividends"],
        "total_return_pct": metric["totalReturnPct"],
        "vs_benchmark_total_pct": metric["vsBenchmarkTotalPct"],
        "total_alpha_pct": metric["totalAlphaPct"],
        "spin_off_counted_once": metric["spinOffCountedOnce"],
    }


async def write_export(
    format_name: str, parts: AsyncIterator[ExportPart], export_range: ExportRange
) -> AsyncGenerator[bytes]:
    """Yield the text of an export as `csv` or `json`, one piece for each part."""
    write = WRITERS[format_name]
    is_first = True
    async for part in parts:
        yield write(part, export_range, is_first)
        is_first = False
    if format_name == "json":
        yield b"\n]}\n"


def _write_csv(part: ExportPart, _: ExportRange, is_first: bool) -> bytes:
    text = StringIO()
    # The defaults of `csv.writer` are the rules of RFC 4180: commas, CRLF, and quotes only where
    # they are needed.
    writer = csv.writer(text)
    if is_first:
        writer.writerow(CsvRow.__struct_fields__)
    for row in part.rows:
        writer.writerow([_csv_cell(getattr(row, column)) for column in CsvRow.__struct_fields__])
    return text.getvalue().encode()


def _csv_cell(value: object) -> object:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value


def _write_json(part: ExportPart, export_range: ExportRange, is_first: bool) -> bytes:
    """
    Return a part of the JSON document, with one row on each line.

    A document that is cut off has no closing bracket, so it is not valid JSON.
    """
    rows = b",\n".join(msgspec.json.encode(row) for row in part.rows)
    if not is_first and not rows:
        # There must be no comma after the last row.
        return b""
    if not is_first:
        return b",\n" + rows
    description = {
        "format": FORMAT_VERSION,
        "head": part.head_text,
        "at": part.head and part.head["at"],
        "rehearsed": part.rehearsed,
        "origin": part.origin,
        "record_id": part.record_id,
        "series": export_range.series,
        "from": export_range.begin,
        "to": export_range.end,
    }
    opened = msgspec.json.encode(description).removesuffix(b"}")
    return opened + b',"rows":[\n' + rows


WRITERS: Mapping[str, Callable[[ExportPart, ExportRange, bool], bytes]] = {
    "csv": _write_csv,
    "json": _write_json,
}
