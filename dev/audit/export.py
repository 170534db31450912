"""Open the exports as most people will, with pandas, and compare every figure with the API's."""

import io
import json
import sys
import urllib.request
from decimal import Decimal

import pandas

QUERY = """{ batches(first: 20) { nodes { runDate picks { ticker metrics {
    checkpoint { day benchmarkReturnPct } currentPrice absoluteReturnPct vsBenchmarkPct alphaPct hit } } } } }"""
FIGURES = {
    "currentPrice": "current_price",
    "absoluteReturnPct": "absolute_return_pct",
    "vsBenchmarkPct": "vs_benchmark_pct",
    "alphaPct": "alpha_pct",
}


def read(address: str, body: bytes | None = None) -> bytes:
    """Return what an address answers."""
    request = urllib.request.Request(address, body, {"content-type": "application/json"} if body else {})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.read()


def compare(origin: str) -> int:
    """Return how many figures of the API were found in both exports, to the last digit."""
    text = read(f"{origin}/export.csv")
    whole = pandas.read_csv(io.BytesIO(text), dtype=dict.fromkeys(FIGURES.values(), str))
    numbers = pandas.read_csv(io.BytesIO(text))
    told = pandas.DataFrame(json.loads(read(f"{origin}/export.json"))["rows"])
    assert len(whole) == len(numbers) == len(told) > 0
    keys = ["run_date", "day", "ticker"]
    by_key, as_numbers = whole.set_index(keys).sort_index(), numbers.set_index(keys).sort_index()
    in_json = told.set_index(keys).sort_index()
    answer = json.loads(read(f"{origin}/graphql", json.dumps({"query": QUERY}).encode()))
    compared = 0
    for batch in answer["data"]["batches"]["nodes"]:
        for pick in batch["picks"]:
            for metric in pick["metrics"]:
                at = (batch["runDate"], metric["checkpoint"]["day"], pick["ticker"])
                for field, column in FIGURES.items():
                    value = metric[field]
                    assert by_key.loc[at, column] == in_json.loc[at, column] == value, (at, column)
                    assert abs(Decimal(as_numbers.loc[at, column]) - Decimal(value)) < Decimal("1e-9"), (at, column)
                    compared += 1
                assert bool(as_numbers.loc[at, "hit"]) is bool(in_json.loc[at, "hit"]) is metric["hit"]
    mean = numbers[numbers.result == True].alpha_pct.mean()  # noqa: E712 - as docs/export.md has it
    assert (mean == mean) == any(row.get("result") for row in told.to_dict("records"))
    return compared


if __name__ == "__main__":
    compared = compare(sys.argv[1])
    assert compared > 0
    print(f"  pandas {pandas.__version__}: {compared:,} figures of both exports are the API's")
