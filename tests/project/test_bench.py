"""What the bench computes from wrk's output and the kernel's CPU accounts."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest

BENCH = Path(__file__).parents[2] / "dev" / "bench"


def module(name: str):
    """Return a module of the bench, which is not a package."""
    spec = importlib.util.spec_from_file_location(f"bench_{name}", BENCH / f"{name}.py")
    sys.modules[spec.name] = loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


measured = module("measured")

WRK = """Running 3s test @ http://127.0.0.1:8184/graphql
  1 threads and 8 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     3.62ms    5.14ms  67.34ms   98.00%
    Req/Sec     2.64k   297.51     3.01k    83.33%
  Latency Distribution
     50%  890.00us
     75%    3.21ms
     90%    3.78ms
     99%    1.20s
  7901 requests in 3.01s, 113.06MB read
Requests/sec:   2624.92
Transfer/sec:     37.56MB
"""
FAILED = WRK.replace(
    "Requests/sec",
    "  Socket errors: connect 0, read 2, write 0, timeout 3\n"
    "  Non-2xx or 3xx responses: 13\nRequests/sec",
)


def test_what_wrk_says():
    """Units are converted to milliseconds, and all failures are counted."""
    assert measured.parse_wrk(WRK) == measured.WrkResult(
        requests=7901, per_second=2624.92, p50=0.89, p99=1200.0, failed=0
    )
    assert measured.parse_wrk(FAILED).failed == 18
    with pytest.raises(ValueError, match="unable to connect"):
        measured.parse_wrk("unable to connect to 127.0.0.1:1 Connection refused")


STATS = [
    # A name may contain spaces and parentheses; 11 + 7 ticks of its own, 5 + 3 of ended children.
    "100 (post) gres (x) S 1 100 100 0 -1 4194560 1 2 3 4 11 7 5 3 20 0 1 0 99 1 1 1",
    "101 (backend) S 100 101 101 0 -1 0 0 0 0 0 20 10 0 0 20 0 1 0 99 1 1 1",
    "102 (grandchild) S 101 101 101 0 -1 0 0 0 0 0 1 1 0 0 20 0 1 0 99 1 1 1",
    "200 (another one) S 1 200 200 0 -1 0 0 0 0 0 900 900 900 900 20 0 1 0 99 1 1 1",
]


def test_the_cpu_of_a_process_and_all_below_it():
    """Running and ended children are counted, and other processes are not."""
    processes = [measured.parse_stat(stat) for stat in STATS]
    assert [one.pid for one in measured.process_tree(processes, 100)] == [100, 101, 102]
    assert measured.cpu_ticks(processes, 100) == 26 + 30 + 2
    assert measured.cpu_ticks(processes, 101) == 32


def test_the_cpu_of_an_ended_backend_still_counts():
    """When a child ends, its CPU time is added to its parent's, and the sum stays the same."""
    ended = STATS[0].replace("5 3 20", "37 3 20")
    assert measured.cpu_ticks([measured.parse_stat(ended)], 100) == measured.cpu_ticks(
        map(measured.parse_stat, STATS), 100
    )


def test_the_same_values_in_another_shape():
    """
    Names, order, cursors, the case of enums and the format of times do not count; a value that
    differs does.
    """
    ours = {
        "batch": {
            "at": "2026-11-16T14:00:20.100000Z",
            "status": "COMPLETED",
            "picks": [{"n": 1}, {"n": None}],
        }
    }
    theirs = {
        "all": [
            {
                "s": "completed",
                "p": {"b": None, "a": 1},
                "t": "2026-11-16 15:00:20.1+01",
                "endCursor": "x",
            }
        ]
    }
    assert measured.fingerprint(ours) == measured.fingerprint(theirs)
    assert measured.fingerprint(ours)[0] == 4
    assert measured.fingerprint(ours) != measured.fingerprint({**ours, "more": False})


def a_sample(server: float, postgres: float, p99: float = 9.0):
    """Return a run with these costs."""
    load = measured.WrkResult(requests=1000, per_second=500.0, p50=2.0, p99=p99, failed=0)
    return measured.RunSample(load=load, server=server, postgres=postgres, memory=94.4)


OURS, THEIRS, RAW = (measured.BenchCase("latest", 520, name) for name in ("Ours", "Theirs", "Raw"))
SAMPLES = {
    OURS: [a_sample(100, 100), a_sample(150, 150, 7.0), a_sample(110, 130, 80.0)],
    THEIRS: [a_sample(300, 100), a_sample(500, 250), a_sample(400, 200)],
}


def test_the_table():
    """
    It has medians with their spread. Ratios are taken within a round, so that a slow round is slow
    for both.
    """
    _, _, ours, theirs = measured.make_table(SAMPLES, "Ours").splitlines()
    assert (
        ours == "| latest | 520 | Ours | 500 | 2.00 | 9.0 (7.0..80.0) | 110 | 130 | 240 (200..300) "
        "|  | 94 |"
    )
    assert theirs == (
        "| latest | 520 | Theirs | 500 | 2.00 | 9.0 (9.0..9.0) | 400 | 200 | 600 (400..750) "
        "| 2.50 (2.00..2.50) | 94 |"
    )


def test_targets():
    """A target's line says whether it was reached, or that it was not measured."""
    reached = measured.CostTarget("theirs beside ours", OURS, THEIRS, 2.0)
    assert reached.line(SAMPLES) == "- theirs beside ours: 2.50 (2.00..2.50), at least 2: kept"
    missed = measured.CostTarget("theirs beside ours", OURS, THEIRS, 1.2, at_least=False)
    assert missed.line(SAMPLES) == "- theirs beside ours: 2.50 (2.00..2.50), at most 1.2: MISSED"
    assert (
        measured.CostTarget("raw", RAW, OURS, 1.5).line(SAMPLES)
        == "- raw: not measured, Raw did not run"
    )


# The p99 of each run, ours and theirs, and the verdict where at most 1.2 times theirs is promised.
TAILS = {
    "as slow": (
        [9, 9, 9],
        [9, 9, 9],
        "1.00, at most 1.2: kept; 9.0 ms (9.0, 9.0, 9.0) beside 9.0 ms (9.0, 9.0, 9.0)",
    ),
    "at the bound": ([12, 12, 12], [10, 10, 10], "1.20, at most 1.2: kept;"),
    "over it": (
        [158, 196, 108],
        [15, 11, 14],
        "11.29, at most 1.2: MISSED; 158.0 ms (158.0, 196.0, 108.0) beside 14.0",
    ),
    "one slow run of three": ([9, 190, 8], [10, 9, 11], "0.90, at most 1.2: kept;"),
    "two slow runs of three": ([9, 190, 180], [10, 9, 11], "18.00, at most 1.2: MISSED;"),
    "their slow run": ([9, 9, 9], [5, 5, 100], "1.80, at most 1.2: MISSED;"),
    "two runs": ([9, 9], [9, 9], "1.00, at most 1.2: not judged, that takes 3 rounds;"),
}


@pytest.mark.parametrize(("ours", "theirs", "verdict"), TAILS.values(), ids=TAILS)
def test_the_p99_that_is_promised(ours, theirs, verdict):
    """The median of all runs counts, each run is shown, and fewer than three are not judged."""
    samples = {
        OURS: [a_sample(1, 1, p99) for p99 in ours],
        THEIRS: [a_sample(1, 1, p99) for p99 in theirs],
    }
    line = measured.TailTarget("p99", OURS, THEIRS, 1.2).line(samples)
    assert line.startswith(f"- p99: {verdict}")


def test_a_p99_that_was_not_measured():
    """A server that did not run is named."""
    line = measured.TailTarget("p99", OURS, RAW, 1.2).line(SAMPLES)
    assert line == "- p99: not measured, Raw did not run"


@pytest.fixture(scope="module")
def run():
    """dev/bench/run.py, which finds the modules beside it only where it stands."""
    sys.path.insert(0, str(BENCH))
    try:
        return module("run")
    finally:
        sys.path.remove(str(BENCH))


def test_every_promise_is_judged_in_the_document(run):
    """
    `make bench` and docs/bench.md have the same targets, and both have the p99 of every query.
    """
    promised = [target.title for target in run.targets(52_000)]
    document = run.DOCUMENT.read_text()
    assert [line for line in promised if f"- {line}: " not in document] == []
    for query in ("latest", "page", "deep page"):
        for batches in ("520", "52,000"):
            for peer in ("PostGraphile", "Mercurius"):
                assert f"{query}, {batches}: p99 beside {peer}'s" in promised


@pytest.mark.parametrize(
    ("files", "line"),
    [
        ([], "dev/bench/serve.py is missing; name a checkout of Alpha Monday."),
        (["README.md"], "dev/bench/serve.py is missing; name a checkout of Alpha Monday."),
        (
            ["dev/bench/serve.py"],
            ".venv/bin/python is missing; run `make .venv/.ready` in it first.",
        ),
    ],
    ids=["an empty folder", "another project", "a checkout without its packages"],
)
def test_a_folder_that_holds_no_server(run, tmp_path, files, line):
    """`--beside` names what is missing before anything is started."""
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(SystemExit) as refused:
        run.server_command(tmp_path)
    assert str(refused.value) == f"--beside {tmp_path}: {line}"


def test_another_version_is_measured_like_this_one(run):
    """For each case of ours, the cost and the p99 beside the other's are judged."""
    judged = {target.title for target in run.comparison(52_000)}
    for case in (
        "latest, 520",
        "page, 520",
        "deep page, 520",
        "latest, 52,000",
        "page, 52,000",
        "deep page, 52,000",
    ):
        assert {
            f"{case}: Alpha Monday: {what} beside the other's" for what in ("cost", "p99")
        } <= judged
    assert len(judged) == 2 * (6 + 3)


def test_peers_are_pinned_without_addresses():
    """The lock file of the peers has hashes, and no address to download from."""
    lock = (BENCH / "peers" / "package-lock.json").read_text()
    assert lock.count('"integrity": "sha512-') > 200
    assert '"resolved"' not in lock


# The record


def test_a_record_of_several_series(database):
    """Each series has as many batches. Those of `main` are the same as without other series."""
    data = module("data")

    def rows_of_main(series: int) -> list[tuple[Any, ...]]:
        with psycopg.connect(database, autocommit=True) as conn:
            data.write(conn, 3, series=series)
            counts = conn.execute("SELECT series, count(*) FROM batches GROUP BY 1 ORDER BY 1")
            expected = [("main", 3), ("model-1", 3), ("model-2", 3)][:series]
            assert counts.fetchall() == expected
            rows = conn.execute(
                "SELECT b.*, p.*, c.*, m.* FROM batches b JOIN picks p ON p.batch_id = b.id "
                "JOIN checkpoints c ON c.batch_id = b.id LEFT JOIN pick_checkpoint_metrics m "
                "ON m.checkpoint_id = c.id AND m.pick_id = p.id WHERE b.series = 'main' "
                "ORDER BY b.run_date, p.position, c.day"
            ).fetchall()
            conn.execute(
                "TRUNCATE batches, picks, checkpoints, pick_checkpoint_metrics, closes, "
                "generations, journal CASCADE"
            )
            return rows

    alone = rows_of_main(1)
    assert len(alone) == 3 * 3 * 15
    assert rows_of_main(3) == alone
