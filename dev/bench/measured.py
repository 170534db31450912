"""
The measurements and their text: wrk's output, the kernel's accounts of processes, and the table.

This module does no I/O.
"""

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import median
from typing import Any

# The median of fewer runs says nothing of a p99: one run during which the machine was busy would
# decide it.
MIN_RUNS = 3
# wrk's units in milliseconds.
UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}
# The kernel's unit of CPU time, in microseconds.
TICK = 1e6 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, kw_only=True)
class WrkResult:
    """The result of one run of wrk; times in milliseconds."""

    requests: int
    per_second: float
    p50: float
    p99: float
    failed: int


@dataclass(frozen=True, kw_only=True)
class RunSample:
    """One run: wrk's result, CPU in microseconds per request, and the server's memory in MB."""

    load: WrkResult
    server: float
    postgres: float
    memory: float

    @property
    def cpu(self) -> float:
        """Return the CPU time of a request in all."""
        return self.server + self.postgres


@dataclass(frozen=True, kw_only=True)
class ProcessStat:
    """
    A process from /proc: its id, its parent's id and its CPU time in ticks.

    The ticks include those of its children that have ended.
    """

    pid: int
    parent: int
    ticks: int


@dataclass(frozen=True)
class BenchCase:
    """One row of the table: a query, on a record of so many batches, at one server."""

    query: str
    batches: int
    server: str


Samples = Mapping[BenchCase, Sequence[RunSample]]


def parse_wrk(text: str) -> WrkResult:
    """Return the result that wrk printed. Raises ValueError for any other text."""
    percentiles = {
        percent: float(value) * UNITS[unit]
        for percent, value, unit in re.findall(r"(\d+)%\s+([\d.]+)(us|ms|s|m)\b", text)
    }
    requests = re.search(r"(\d+) requests in", text)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    if not requests or not rate or not {"50", "99"} <= percentiles.keys():
        raise ValueError(f"wrk said: {text.strip()}")
    return WrkResult(
        requests=int(requests[1]),
        per_second=float(rate[1]),
        p50=percentiles["50"],
        p99=percentiles["99"],
        failed=_count_failed(text),
    )


def _count_failed(text: str) -> int:
    """Return how many requests failed. wrk prints these lines only if any did."""
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    broken = re.search(
        r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text
    )
    failed = 0
    for match in (refused, broken):
        if match:
            failed += sum(map(int, match.groups()))
    return failed


def parse_stat(stat: str) -> ProcessStat:
    """Return the process of a /proc/PID/stat."""
    # The second field is the program's name in parentheses, which may contain anything.
    head, _, tail = stat.rpartition(")")
    fields = tail.split()
    return ProcessStat(
        pid=int(head.split(" ", 1)[0]),
        parent=int(fields[1]),
        ticks=sum(map(int, fields[11:15])),
    )


def process_tree(processes: Iterable[ProcessStat], root: int) -> list[ProcessStat]:
    """Return a process and all its descendants."""
    children = defaultdict(list)
    tree: list[ProcessStat] = []
    for process in processes:
        children[process.parent].append(process)
        if process.pid == root:
            tree.append(process)
    # The list grows while the loop goes through it.
    for process in tree:
        tree += children[process.pid]
    return tree


def cpu_ticks(processes: Iterable[ProcessStat], root: int) -> int:
    """Return the CPU time of a process and of all its descendants, ended ones included."""
    return sum(process.ticks for process in process_tree(processes, root))


def fingerprint(answer: Any) -> tuple[int, str]:
    """
    Return how many values an answer contains, and a checksum of them.

    Names and order do not count, nor do cursors, which each server makes in its own way. Values of
    enums and times are compared in one spelling.
    """
    # Sorted, because servers return members in another order and nest them in another way.
    leaves = sorted(_leaves(answer))
    return len(leaves), hashlib.sha256("\n".join(leaves).encode()).hexdigest()[:12]


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            if name != "endCursor":
                yield from _leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner)
    elif isinstance(value, str) and re.match(r"\d{4}-\d\d-\d\d[T ]\d\d:", value):
        yield datetime.fromisoformat(value).astimezone(UTC).isoformat()
    else:
        yield str(value).casefold()


def cost_ratios(samples: Samples, ours: BenchCase, theirs: BenchCase) -> list[float]:
    """Return how many times the cost of `ours` the cost of `theirs` is, round by round."""
    # Within a round both servers had the same disturbances, so ratios spread less than costs.
    return [b.cpu / a.cpu for a, b in zip(samples[ours], samples[theirs], strict=True)]


def spread(numbers: Sequence[float], form: str = ",.0f") -> str:
    """Return the median of numbers with their minimum and maximum."""
    return f"{median(numbers):{form}} ({min(numbers):{form}}..{max(numbers):{form}})"


def make_table(samples: Samples, reference: str) -> str:
    """Return all rows as Markdown; one column compares the cost with that of server `reference`."""
    head = ["query", "batches", "server", "requests/s", "p50 ms", "p99 ms"]
    head += ["server CPU µs", "Postgres CPU µs", "CPU µs together", f"times {reference}"]
    head += ["memory MB"]
    lines = [head, ["---"] * 3 + ["--:"] * (len(head) - 3)]
    lines += [_make_row(samples, case, reference) for case in samples]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _make_row(samples: Samples, case: BenchCase, reference: str) -> list[str]:
    runs = samples[case]
    reference_case = BenchCase(case.query, case.batches, reference)
    ratio = ""
    if reference_case in samples and reference_case != case:
        ratio = spread(cost_ratios(samples, reference_case, case), ".2f")
    return [
        case.query,
        f"{case.batches:,}",
        case.server,
        f"{median(run.load.per_second for run in runs):,.0f}",
        f"{median(run.load.p50 for run in runs):.2f}",
        spread([run.load.p99 for run in runs], ".1f"),
        f"{median(run.server for run in runs):,.0f}",
        f"{median(run.postgres for run in runs):,.0f}",
        spread([run.cpu for run in runs]),
        ratio,
        f"{max(run.memory for run in runs):,.0f}",
    ]


def _missing_servers(samples: Samples, ours: BenchCase, theirs: BenchCase) -> str:
    """Return the names of the servers of two cases that were not measured, empty if both were."""
    return " and ".join(case.server for case in (ours, theirs) if case not in samples)


@dataclass(frozen=True)
class CostTarget:
    """A bound for how many times the cost of `ours` the cost of `theirs` is."""

    title: str
    ours: BenchCase
    theirs: BenchCase
    bound: float
    # False for a ratio that must not be larger than the bound.
    at_least: bool = True

    def line(self, samples: Samples) -> str:
        """Return one line with the measured ratio, and whether the target is reached."""
        if missing := _missing_servers(samples, self.ours, self.theirs):
            return f"- {self.title}: not measured, {missing} did not run"
        ratios = cost_ratios(samples, self.ours, self.theirs)
        if self.at_least:
            is_reached, bound = median(ratios) >= self.bound, f"at least {self.bound:g}"
        else:
            is_reached, bound = median(ratios) <= self.bound, f"at most {self.bound:g}"
        verdict = "kept" if is_reached else "MISSED"
        return f"- {self.title}: {spread(ratios, '.2f')}, {bound}: {verdict}"


@dataclass(frozen=True)
class TailTarget:
    """A bound for how many times the p99 of `theirs` the p99 of `ours` is: medians of all runs."""

    title: str
    ours: BenchCase
    theirs: BenchCase
    bound: float

    def line(self, samples: Samples) -> str:
        """Return one line with the p99 of every run of both, and whether the target is reached."""
        if missing := _missing_servers(samples, self.ours, self.theirs):
            return f"- {self.title}: not measured, {missing} did not run"
        ours = [run.load.p99 for run in samples[self.ours]]
        theirs = [run.load.p99 for run in samples[self.theirs]]
        ratio = median(ours) / median(theirs)
        verdict = "kept" if ratio <= self.bound else "MISSED"
        if len(ours) < MIN_RUNS:
            verdict = f"not judged, that takes {MIN_RUNS} rounds"
        return (
            f"- {self.title}: {ratio:.2f}, at most {self.bound:g}: {verdict}; "
            f"{_format_runs(ours)} beside {_format_runs(theirs)}"
        )


def _format_runs(times: Sequence[float]) -> str:
    """Return the median of times in milliseconds, and each of them."""
    return f"{median(times):.1f} ms ({', '.join(f'{one:.1f}' for one in times)})"
