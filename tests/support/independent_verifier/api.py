"""Reads the journal and the rows from a public API, with the queries of docs/journal.md."""

import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

DOCUMENT = Path(__file__).parents[3] / "docs" / "journal.md"
ENTRIES, ROWS, CLOSES, SPLITS, DIVIDENDS, RATES, FURTHER = re.findall(
    r"```graphql\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL
)

# The members of an entry, each with the table of its row or rows.
SINGLE = {
    "generation": "generations",
    "batch": "batches",
    "pick": "picks",
    "checkpoint": "checkpoints",
    "further_benchmark": "further_benchmarks",
}
MANY = {
    "generations": "generations",
    "picks": "picks",
    "metrics": "pick_checkpoint_metrics",
    "corrections": "corrections",
    "closes": "closes",
    "splits": "splits",
    "dividends": "dividends",
    "rates": "rates",
}

Row = dict[str, str]
Key = tuple[str, object]


TOO_LARGE = {"ANSWER_TOO_LARGE", "OPERATION_TOO_LARGE"}


class RecordDamagedError(RuntimeError):
    """The API cannot show a row, because the row does not have the values of the schema."""


def key_of(table: str, row: Row) -> Key:
    """Return the key that identifies a row."""
    if table == "splits":
        return table, (row["ticker"], row["effective_date"], row["read_at"])
    if table == "dividends":
        return table, (row["ticker"], row["ex_date"], row["read_at"])
    if table == "rates":
        return table, (row["observed_on"], row["read_at"])
    return table, row["id"]


def post(url: str, body: bytes) -> dict:
    """Send one query and return the response; a busy server gets it again after `Retry-After`."""
    request = urllib.request.Request(f"{url}/graphql", body, {"content-type": "application/json"})
    while True:
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            if error.code not in (429, 503):
                raise
            time.sleep(float(error.headers.get("Retry-After", "1")))


def ask(url: str, query: str, variables: dict) -> dict:
    """Return one page; if it is too large, ask for half as many rows, down to one."""
    while True:
        answer = post(url, json.dumps({"query": query, "variables": variables}).encode())
        codes = [error["extensions"]["code"] for error in answer.get("errors", [])]
        if not TOO_LARGE.intersection(codes) or variables["first"] == 1:
            return answer
        variables = {**variables, "first": variables["first"] // 2}


def pages(url: str, query: str, **variables: object) -> Iterator[dict]:
    """Yield all nodes of a connection, page after page."""
    more = True
    while more:
        answer = ask(url, query, variables)
        for error in answer.get("errors", []):
            if error["extensions"]["code"] == "RECORD_DAMAGED":
                raise RecordDamagedError(error["message"])
            raise RuntimeError(error["message"])
        (page,) = answer["data"].values()
        yield from page["nodes"]
        more = page["pageInfo"]["hasNextPage"]
        variables["after"] = page["pageInfo"]["endCursor"]


def entries(url: str, after: str | None = None) -> tuple[list[dict], str | None]:
    """Return the entries after a cursor, and the cursor of the last one."""
    nodes = []
    more = True
    while more:
        variables = {"first": 100, "after": after}
        answer = ask(url, ENTRIES, variables)
        page = answer["data"]["journal"]
        nodes += page["nodes"]
        more = page["pageInfo"]["hasNextPage"]
        after = page["pageInfo"]["endCursor"] or after
    return nodes, after


def row_of(table: str, node: dict, **parent: str) -> tuple[Key, Row]:
    """Return a row of the API in the form of the journal, with its key."""
    row = dict(parent)
    for name, value in node.items():
        column = re.sub("[A-Z]", lambda letter: f"_{letter[0].lower()}", name)
        if isinstance(value, dict):
            column, value = f"{column}_id", value["id"]
        if value is None or isinstance(value, list):
            continue
        if isinstance(value, bool) or name == "status":
            row[column] = str(value).lower()
        else:
            row[column] = str(value)
    return key_of(table, row), row


# The fields that a server of an earlier version does not know.
OF_SEALED_RECORDS = {"profileSha256"}
OF_LATER_PROMPTS = {
    "finishReason",
    "probability",
    "reasoningEffort",
    "reasoningTokens",
    "systemFingerprint",
}
OF_TOTAL_RETURNS = {
    "benchmarkDividends",
    "benchmarkSpinOffCountedOnce",
    "benchmarkTotalReturnPct",
    "dividends",
    "spinOffCountedOnce",
    "totalReturnPct",
    "vsBenchmarkTotalPct",
}


def rows(
    url: str,
    series: set[str],
    tickers: set[str],
    *,
    paying: set[str],
    unknown: set[str],
    has_rates: bool = False,
    has_further: bool = False,
) -> Iterator[tuple[Key, Row]]:
    """
    Yield all rows of the record that the API shows, without the fields that it cannot know.

    The dividends are requested for the tickers in `paying`, and the rates and the further
    benchmarks only if the journal mentions some.
    """
    query = ROWS
    for field in unknown:
        query = re.sub(rf"\n *{field}\b", "", query)
    for one in sorted(series):
        for batch in pages(url, query, first=3, series=one):
            yield from rows_of_batch(batch)
    for ticker in sorted(tickers):
        for close in pages(url, CLOSES, first=100, ticker=ticker):
            yield row_of("closes", close)
        for split in pages(url, SPLITS, first=100, ticker=ticker):
            yield row_of("splits", split)
    for ticker in sorted(paying):
        for dividend in pages(url, DIVIDENDS, first=100, ticker=ticker):
            yield row_of("dividends", dividend)
    if has_further:
        for one in sorted(series):
            for batch in pages(url, FURTHER, first=20, series=one):
                for further in batch["furtherBenchmarks"]:
                    yield row_of_further(further, batch["id"])
    if has_rates:
        for rate in pages(url, RATES, first=100):
            yield row_of("rates", rate)


def row_of_further(node: dict, batch_id: str) -> tuple[Key, Row]:
    """Return the row of a further benchmark: most of its columns begin with `further_`."""
    _, row = row_of("further_benchmarks", node, batch_id=batch_id)
    kept = ("id", "batch_id", "symbol", "position", "trading_day", "measured_at")
    row = {name if name in kept else f"further_{name}": value for name, value in row.items()}
    return key_of("further_benchmarks", row), row


def rows_of_batch(batch: dict) -> Iterator[tuple[Key, Row]]:
    """Yield the row of a batch, and all rows that the API shows below it."""
    yield row_of("batches", batch)
    for pick in batch["picks"]:
        yield row_of("picks", pick, batch_id=batch["id"])
    for question in batch["generations"]:
        monday = {"series": batch["series"], "run_date": batch["runDate"]}
        yield row_of("generations", question, **monday)
    for checkpoint in batch["checkpoints"]:
        yield row_of("checkpoints", checkpoint, batch_id=batch["id"])
        for metric in checkpoint["metrics"]:
            yield row_of("pick_checkpoint_metrics", metric, checkpoint_id=checkpoint["id"])
        for correction in checkpoint["corrections"]:
            yield row_of("corrections", correction, checkpoint_id=checkpoint["id"])
