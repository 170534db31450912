"""
SVG to PNG, by resvg, in a process of its own: `python -m app.web.charts.png < picture.svg > picture.png`.

Drawing takes a tenth of a second in which the library lets nothing else of its process run. A process that does only
this starts as fast, gives its memory back, and takes nobody along if it fails.
"""

import os
import subprocess
import sys
from pathlib import Path

import resvg_py

FONTS = [str(file) for file in sorted((Path(__file__).parent / "fonts").glob("*.ttf"))]
FAMILY = "Inter"
WITHIN = 10.0  # seconds
NICE = 10


class NotDrawn(Exception):
    """A picture could not be made; the text says why."""


def png(svg: str) -> bytes:
    """Return the picture that an SVG describes; raises NotDrawn. Call it in a thread."""
    command = (sys.executable, "-P", "-m", "app.web.charts.png")
    try:
        done = subprocess.run(command, input=svg.encode(), capture_output=True, timeout=WITHIN, check=False)
    except subprocess.TimeoutExpired:
        raise NotDrawn(f"It took longer than {WITHIN:g} seconds.") from None
    if done.returncode:
        lines = done.stderr.decode(errors="replace").splitlines()
        raise NotDrawn(lines[-1] if lines else f"The process that drew ended with {done.returncode}.")
    return done.stdout


def drawn(svg: str) -> bytes:
    """Draw here, and keep everything else of this process waiting; raises ValueError."""
    picture: bytes = resvg_py.svg_to_bytes(
        svg_string=svg, skip_system_fonts=True, font_files=FONTS, font_family=FAMILY, sans_serif_family=FAMILY
    )
    return picture


def main() -> None:
    """Draw what comes in."""
    os.nice(NICE)
    sys.stdout.buffer.write(drawn(sys.stdin.read()))


if __name__ == "__main__":
    main()
