"""
How many cores this process may use.

Python knows the machine's cores (`os.cpu_count`) and those that the process's affinity leaves (`sched_getaffinity`).
A container's share of them (`--cpus=1.5`) is a quota of its control group, which only the kernel's files tell.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

_CONTROL_GROUPS = Path("/sys/fs/cgroup")
_MEMBERSHIPS = Path("/proc/self/cgroup")


def available() -> float:
    """Return how many cores this process may use: by its affinity and its control groups."""
    return min(_by_affinity(), quota())


def quota(groups: Path = _CONTROL_GROUPS, memberships: Path = _MEMBERSHIPS) -> float:
    """
    Return the least quota of this process's control groups, in cores; infinite where there is none.

    A group's parents limit it, too. In a container, the membership often names a folder of the host, and the
    container's own group is at the root of what it sees: so the root is always read.
    """
    try:
        lines = memberships.read_text().splitlines()
    except OSError:
        return float("inf")
    found = [float("inf")]
    for line in lines:
        # "HIERARCHY:CONTROLLERS:PATH"; the second version has one hierarchy, 0, and names no controllers.
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0":
            found += _quotas(groups, path, "cpu.max")
            found += _quotas(groups / "unified", path, "cpu.max")
        elif "cpu" in controllers.split(","):
            found += _quotas(groups / controllers, path, "cpu.cfs_quota_us")
            found += _quotas(groups / "cpu", path, "cpu.cfs_quota_us")
    return min(found)


def _by_affinity() -> float:
    if hasattr(os, "sched_getaffinity"):  # macOS has none
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quotas(hierarchy: Path, path: str, name: str) -> Iterator[float]:
    """Give the quotas, in cores, of a group and of all its parents."""
    group = PurePosixPath(path.lstrip("/"))
    for folder in (group, *group.parents):
        # Not readable, no quota, or text that is none: this file limits nothing.
        with suppress(OSError, ValueError, ZeroDivisionError):
            yield _quota(hierarchy / folder, name)


def _quota(folder: Path, name: str) -> float:
    """Return the quota in a group's file: "200000 100000" in the second version, two files in the first."""
    texts = (folder / name).read_text().split()
    if name == "cpu.cfs_quota_us":
        texts += (folder / "cpu.cfs_period_us").read_text().split()
    quota, period = texts
    cores = int(quota) / int(period)
    if cores <= 0:  # -1: no quota
        raise ValueError(quota)
    return cores
