"""How many cores a process may use: its affinity, and the quotas of its control groups."""

import math
import os
import subprocess
import sys

import pytest

from app.core import cores

NONE = math.inf

# The cases: where a quota is set. Each has the text of /proc/self/cgroup, files below
# /sys/fs/cgroup, and the quota.
CASES = {
    "second version, in a container": ("0::/", {"cpu.max": "150000 100000"}, 1.5),
    "second version, a service": (
        "0::/system.slice/am.service",
        {"system.slice/am.service/cpu.max": "50000 100000"},
        0.5,
    ),
    "second version, a parent": (
        "0::/a/b/c",
        {"a/b/c/cpu.max": "max 100000", "a/cpu.max": "300000 100000"},
        3.0,
    ),
    "second version, the least of all": (
        "0::/a/b",
        {"a/cpu.max": "2 1", "a/b/cpu.max": "4 1"},
        2.0,
    ),
    "second version, none": ("0::/", {"cpu.max": "max 100000"}, NONE),
    "second version, the host's path": ("0::/docker/4f1c", {"cpu.max": "200000 100000"}, 2.0),
    "second version beside the first": (
        "1:name=systemd:/\n0::/a",
        {"unified/a/cpu.max": "100000 100000"},
        1.0,
    ),
    "first version": (
        "4:cpu,cpuacct:/a\n0::/",
        {"cpu,cpuacct/a/cpu.cfs_quota_us": "250000", "cpu,cpuacct/a/cpu.cfs_period_us": "100000"},
        2.5,
    ),
    "first version, mounted by one name": (
        "4:cpuacct,cpu:/a",
        {"cpu/a/cpu.cfs_quota_us": "100000", "cpu/a/cpu.cfs_period_us": "50000"},
        2.0,
    ),
    "first version, none": (
        "1:cpu:/",
        {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"},
        NONE,
    ),
    "another controller's": (
        "1:cpuset:/",
        {"cpu/cpu.cfs_quota_us": "1", "cpu/cpu.cfs_period_us": "1"},
        NONE,
    ),
    "no files": ("0::/", {}, NONE),
    "no memberships": ("", {"cpu.max": "100000 100000"}, NONE),
    "text that is no quota": ("0::/", {"cpu.max": "many"}, NONE),
    "an empty file": ("0::/", {"cpu.max": ""}, NONE),
    "a period of none": ("0::/", {"cpu.max": "100000 0"}, NONE),
    "a quota of none": ("0::/", {"cpu.max": "0 100000"}, NONE),
    "a line that is none": ("what", {"cpu.max": "100000 100000"}, NONE),
    "a path that leaves the mount": ("0::/../../a", {"cpu.max": "100000 100000"}, 1.0),
}


@pytest.mark.parametrize(("memberships", "files", "expected"), CASES.values(), ids=CASES)
def test_the_quota_of_control_groups(tmp_path, memberships, files, expected):
    """
    The lowest quota of a group and its parents counts; a file that cannot be read limits
    nothing.
    """
    groups = tmp_path / "cgroup"
    for name, text in files.items():
        (groups / name).parent.mkdir(parents=True, exist_ok=True)
        (groups / name).write_text(f"{text}\n")
    (tmp_path / "memberships").write_text(f"{memberships}\n")
    assert cores.quota(groups, tmp_path / "memberships") == expected


def test_a_system_without_control_groups(tmp_path):
    """Missing files limit nothing."""
    assert cores.quota(tmp_path, tmp_path / "missing") == NONE


def test_the_affinity_of_a_process_counts():
    """A process that may run on one core has one core, however many the machine has."""
    one = min(os.sched_getaffinity(0))
    program = (
        f"import os; os.sched_setaffinity(0, [{one}]); from app.core import cores; "
        "print(cores.available())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert 0 < float(done.stdout) <= 1
    assert 0 < cores.available() <= len(os.sched_getaffinity(0))
