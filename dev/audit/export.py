"""Opens the exports with pandas, as most users do, and compares every figure with the API's."""

import io
import json
import sys
import urllib.request
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pandas

QUERY = """{ batches(first: 20) { nodes { runDate picks { ticker metrics {
    checkpoint { day benchmarkReturnPct }
    currentPrice absoluteReturnPct vsBenchmarkPct alphaPct hit } } } } }"""
# The fields of the API, and the columns of the exports.
COLUMNS = {
    "currentPrice": "current_price",
    "absoluteReturnPct": "absolute_return_pct",
    "vsBenchmarkPct": "vs_benchmark_pct",
    "alphaPct": "alpha_pct",
}
KEY = ["run_date", "day", "ticker"]


def fetch(address: str, body: bytes | None = None) -> bytes:
    """Return the response's body of a GET, or of a POST with `body` as JSON."""
    headers = {"content-type": "application/json"} if body else {}
    request = urllib.request.Request(address, body, headers)
    with urllib.request.urlopen(request, timeout=60) as response:
        return response.read()


def read_metrics(origin: str) -> Iterator[tuple[tuple[str, int, str], dict[str, Any]]]:
    """Yield the metrics of the API, each with its run date, day and ticker."""
    answer = json.loads(fetch(f"{origin}/graphql", json.dumps({"query": QUERY}).encode()))
    for batch in answer["data"]["batches"]["nodes"]:
        for pick in batch["picks"]:
            for metric in pick["metrics"]:
                yield (batch["runDate"], metric["checkpoint"]["day"], pick["ticker"]), metric


def compare(origin: str) -> int:
    """
    Return how many figures of the API are in both exports, to the last digit.

    Raises AssertionError for a figure that differs.
    """
    text = fetch(f"{origin}/export.csv")
    # As text for the comparison of every digit, and as most users read it, with numbers.
    texts = pandas.read_csv(io.BytesIO(text), dtype=dict.fromkeys(COLUMNS.values(), str))
    numbers = pandas.read_csv(io.BytesIO(text))
    rows = pandas.DataFrame(json.loads(fetch(f"{origin}/export.json"))["rows"])
    assert len(texts) == len(numbers) == len(rows) > 0
    from_csv, from_json = texts.set_index(KEY).sort_index(), rows.set_index(KEY).sort_index()
    as_numbers = numbers.set_index(KEY).sort_index()

    compared = 0
    for key, metric in read_metrics(origin):
        for field, column in COLUMNS.items():
            value = metric[field]
            assert from_csv.loc[key, column] == from_json.loc[key, column] == value, (key, column)
            difference = abs(Decimal(as_numbers.loc[key, column]) - Decimal(value))
            assert difference < Decimal("1e-9"), (key, column)
            compared += 1
        hits = (bool(as_numbers.loc[key, "hit"]), bool(from_json.loc[key, "hit"]))
        assert hits == (metric["hit"], metric["hit"]), key

    mean = numbers[numbers.result == True].alpha_pct.mean()  # noqa: E712
    has_results = any(row.get("result") for row in rows.to_dict("records"))
    # The mean of no rows is NaN, the only value that differs from itself.
    assert (mean == mean) == has_results
    return compared


if __name__ == "__main__":
    compared = compare(sys.argv[1])
    assert compared > 0
    print(f"  pandas {pandas.__version__}: {compared:,} figures of both exports are the API's")
