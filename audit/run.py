"""
Runs the tools that need Node against a rehearsed service of their own: each `*.mjs` here gets its address.

    make audit
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))

from commands import served  # noqa: E402

NPM = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]


def main() -> int:
    """Return how many of the audits fail."""
    if missing := [tool for tool in ("node", "npm") if not shutil.which(tool)]:
        sys.exit(f"make audit needs Node: {' and '.join(missing)} cannot be found. Install Node 20 or newer.")
    if subprocess.run(NPM, cwd=HERE, check=False).returncode:
        sys.exit("make audit: the audits' npm packages cannot be installed (see above).")
    scripts = sorted(HERE.glob("*.mjs"))
    with (
        tempfile.TemporaryDirectory(prefix="am-audit-") as folder,
        served("rehearse", "--weeks", "2", "--until", "2026-10-09", cwd=Path(folder)) as address,
    ):
        return sum(
            bool(subprocess.run(["node", script, f"{address}/graphql"], timeout=300, check=False).returncode)
            for script in scripts
        )


if __name__ == "__main__":
    sys.exit(main())
