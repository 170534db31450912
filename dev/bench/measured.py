"""What is measured and how it is told: wrk's words, the kernel's accounts of processes, and the table. No I/O."""

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import median
from typing import Any

# The median of fewer runs says nothing of a p99: one run during which the machine was busy would decide it.
FEWEST_RUNS = 3
UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}
TICK = 1e6 / os.sysconf("SC_CLK_TCK")  # microseconds


@dataclass(frozen=True)
class Load:
    """What wrk says of one run; times in milliseconds."""

    requests: int
    per_second: float
    p50: float
    p99: float
    failed: int


@dataclass(frozen=True)
class Sample:
    """One run: what wrk saw, CPU in microseconds per request, and the server's memory in MB."""

    load: Load
    server: float
    postgres: float
    memory: float

    @property
    def cpu(self) -> float:
        """Return what a request cost in all."""
        return self.server + self.postgres


@dataclass(frozen=True)
class Process:
    """A process as /proc tells it: whose child it is, and its ticks, those of children that have ended included."""

    pid: int
    parent: int
    ticks: int


@dataclass(frozen=True)
class Case:
    """One row: a query, on a record of so many batches, at one server."""

    query: str
    batches: int
    server: str


Samples = Mapping[Case, Sequence[Sample]]


def load(text: str) -> Load:
    """Read what wrk printed."""
    percentiles = {
        n: float(value) * UNITS[unit] for n, value, unit in re.findall(r"(\d+)%\s+([\d.]+)(us|ms|s|m)\b", text)
    }
    requests = re.search(r"(\d+) requests in", text)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    if not requests or not rate or not {"50", "99"} <= percentiles.keys():
        raise ValueError(f"wrk said: {text.strip()}")
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    broken = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    failed = sum(int(number) for found in (refused, broken) if found for number in found.groups())
    return Load(int(requests[1]), float(rate[1]), percentiles["50"], percentiles["99"], failed)


def process(stat: str) -> Process:
    """Read a /proc/PID/stat. (A program's name, in parentheses, may hold anything.)"""
    head, _, tail = stat.rpartition(")")
    fields = tail.split()
    return Process(int(head.split(" ", 1)[0]), int(fields[1]), sum(int(ticks) for ticks in fields[11:15]))


def tree(processes: Iterable[Process], root: int) -> list[Process]:
    """Return a process and all below it."""
    children = defaultdict(list)
    for one in processes:
        children[one.parent].append(one)
        if one.pid == root:
            children[None].append(one)
    found = list(children[None])
    for one in found:
        found += children[one.pid]
    return found


def ticks(processes: Iterable[Process], root: int) -> int:
    """Return the CPU time of a process and of all that it ever started and waited for."""
    return sum(one.ticks for one in tree(processes, root))


def values(answer: Any) -> tuple[int, str]:
    """
    Return how many values an answer holds and a checksum of them, whatever their names and order.

    Cursors are each server's own; names of enums and ways of writing a time differ.
    """
    leaves = sorted(leaf for leaf in _leaves(answer))
    return len(leaves), hashlib.sha256("\n".join(leaves).encode()).hexdigest()[:12]


def _leaves(value: Any) -> Iterable[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from () if name == "endCursor" else _leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner)
    elif isinstance(value, str) and re.match(r"\d{4}-\d\d-\d\d[T ]\d\d:", value):
        yield datetime.fromisoformat(value).astimezone(UTC).isoformat()
    else:
        yield str(value).casefold()


def ratios(samples: Samples, ours: Case, theirs: Case) -> list[float]:
    """Return how many times what `ours` cost `theirs` did, round by round."""
    return [b.cpu / a.cpu for a, b in zip(samples[ours], samples[theirs], strict=True)]


def spread(numbers: Sequence[float], form: str = ",.0f") -> str:
    """Return the median, and from where to where."""
    return f"{median(numbers):{form}} ({min(numbers):{form}}..{max(numbers):{form}})"


def table(samples: Samples, beside: str) -> str:
    """Return all rows as a Markdown table; the last column is the cost beside that of one server."""
    head = ["query", "batches", "server", "requests/s", "p50 ms", "p99 ms"]
    head += ["server CPU µs", "Postgres CPU µs", "CPU µs together", f"times {beside}", "memory MB"]
    lines = [head, ["---"] * 3 + ["--:"] * (len(head) - 3)]
    for case, runs in samples.items():
        reference = Case(case.query, case.batches, beside)
        times = (
            f"{spread(ratios(samples, reference, case), '.2f')}" if reference in samples and reference != case else ""
        )
        lines.append(
            [
                case.query,
                f"{case.batches:,}",
                case.server,
                f"{median(run.load.per_second for run in runs):,.0f}",
                f"{median(run.load.p50 for run in runs):.2f}",
                spread([run.load.p99 for run in runs], ".1f"),
                f"{median(run.server for run in runs):,.0f}",
                f"{median(run.postgres for run in runs):,.0f}",
                spread([run.cpu for run in runs]),
                times,
                f"{max(run.memory for run in runs):,.0f}",
            ]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


@dataclass(frozen=True)
class Target:
    """Something that shall hold: how many times one case costs another, and the bound that this keeps."""

    says: str
    ours: Case
    theirs: Case
    bound: float
    at_least: bool = True

    def line(self, samples: Samples) -> str:
        """Return one line that says what was measured and whether it holds."""
        if missing := [case.server for case in (self.ours, self.theirs) if case not in samples]:
            return f"- {self.says}: not measured, {' and '.join(missing)} did not run"
        measured = ratios(samples, self.ours, self.theirs)
        kept = median(measured) >= self.bound if self.at_least else median(measured) <= self.bound
        bound = f"{'at least' if self.at_least else 'at most'} {self.bound:g}"
        return f"- {self.says}: {spread(measured, '.2f')}, {bound}: {'kept' if kept else 'MISSED'}"


@dataclass(frozen=True)
class TailTarget:
    """How slow the slowest requests may be: so many times another server's p99, by the median of all runs."""

    says: str
    ours: Case
    theirs: Case
    bound: float

    def line(self, samples: Samples) -> str:
        """Return one line with the p99 of every run of both servers, and whether it holds."""
        if missing := [case.server for case in (self.ours, self.theirs) if case not in samples]:
            return f"- {self.says}: not measured, {' and '.join(missing)} did not run"
        ours = [run.load.p99 for run in samples[self.ours]]
        theirs = [run.load.p99 for run in samples[self.theirs]]
        times = median(ours) / median(theirs)
        verdict = "kept" if times <= self.bound else "MISSED"
        if len(ours) < FEWEST_RUNS:
            verdict = f"not judged, that takes {FEWEST_RUNS} rounds"
        return f"- {self.says}: {times:.2f}, at most {self.bound:g}: {verdict}; {_runs(ours)} beside {_runs(theirs)}"


def _runs(times: Sequence[float]) -> str:
    """Return the median of the runs' times in milliseconds, and each run's."""
    return f"{median(times):.1f} ms ({', '.join(f'{one:.1f}' for one in times)})"
