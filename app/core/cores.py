"""
How many CPU cores this process may use.

Python knows the machine's cores (`os.cpu_count`), and those that the process's affinity allows
(`sched_getaffinity`). It does not know the CPU quota of a container (`--cpus=1.5`): that is set on
the process's control group, and only the kernel's files have it.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

_CONTROL_GROUPS = Path("/sys/fs/cgroup")
_MEMBERSHIPS = Path("/proc/self/cgroup")


def available() -> float:
    """Return how many cores this process may use: its affinity or its quota, the lower one."""
    return min(_cores_by_affinity(), quota())


def quota(groups: Path = _CONTROL_GROUPS, memberships: Path = _MEMBERSHIPS) -> float:
    """
    Return the lowest quota of this process's control groups, in cores.

    It is infinite if there is no quota, or if none can be read. The quotas of a group's parents
    apply, too. Inside a container, `memberships` often names a folder that exists only on the host,
    while the container's own group is the root folder of `groups`. So the root folder is always
    read.
    """
    try:
        lines = memberships.read_text().splitlines()
    except OSError:
        return float("inf")

    quotas = [float("inf")]
    for line in lines:
        # "HIERARCHY:CONTROLLERS:PATH". Version 2 of control groups has a single hierarchy, 0, and
        # names no controllers.
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0":
            quotas += _read_quotas(groups, path, "cpu.max")
            # If both versions are in use, version 2 is mounted in this folder.
            quotas += _read_quotas(groups / "unified", path, "cpu.max")
        elif "cpu" in controllers.split(","):
            quotas += _read_quotas(groups / controllers, path, "cpu.cfs_quota_us")
            quotas += _read_quotas(groups / "cpu", path, "cpu.cfs_quota_us")
    return min(quotas)


def _cores_by_affinity() -> float:
    if hasattr(os, "sched_getaffinity"):  # macOS does not have it
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _read_quotas(hierarchy: Path, path: str, name: str) -> Iterator[float]:
    """Yield the quotas of a group and of all its parents, in cores."""
    group = PurePosixPath(path.lstrip("/"))
    for folder in (group, *group.parents):
        # A file that cannot be read, or that has no quota or an invalid one, is ignored.
        with suppress(OSError, ValueError, ZeroDivisionError):
            yield _read_quota(hierarchy / folder, name)


def _read_quota(folder: Path, name: str) -> float:
    """
    Return the quota of one group, in cores. Raises ValueError if the group has none.

    Version 2 has quota and period in one file, as in "200000 100000"; version 1 has two files.
    Raises OSError if there is no such file.
    """
    values = (folder / name).read_text().split()
    if name == "cpu.cfs_quota_us":
        values += (folder / "cpu.cfs_period_us").read_text().split()
    limit, period = values
    cores = int(limit) / int(period)
    if cores <= 0:  # version 1 writes -1 for no quota
        raise ValueError(limit)
    return cores
