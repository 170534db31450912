"""
Converts SVG to PNG with resvg: `python -m app.web.charts.png < in.svg > out.png`.

The conversion takes a tenth of a second, in which the library blocks the whole process. So the
conversion runs in a separate process. That process starts quickly and releases its memory when it
ends, and if it fails, the service is not affected.
"""

import os
import subprocess
import sys
from pathlib import Path

import resvg_py

FONTS = [str(file) for file in sorted((Path(__file__).parent / "fonts").glob("*.ttf"))]
FAMILY = "Inter"
RENDER_TIMEOUT = 10.0  # seconds
# The priority of the separate process, so low that requests and jobs go first.
NICE = 10


class RenderError(Exception):
    """An image could not be made; the text explains why."""


def render_png(svg: str) -> bytes:
    """
    Return the image of an SVG as PNG.

    This function waits for another process, so call it in a thread. Raises RenderError.
    """
    command = (sys.executable, "-P", "-m", "app.web.charts.png")
    try:
        done = subprocess.run(
            command,
            input=svg.encode(),
            capture_output=True,
            timeout=RENDER_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise RenderError(f"It took longer than {RENDER_TIMEOUT:g} seconds.") from None
    if done.returncode:
        lines = done.stderr.decode(errors="replace").splitlines()
        # The last line of a traceback is the error.
        reason = lines[-1] if lines else f"The drawing process ended with {done.returncode}."
        raise RenderError(reason)
    return done.stdout


def render_in_this_process(svg: str) -> bytes:
    """Return the image of an SVG as PNG, and block this process meanwhile. Raises ValueError."""
    image: bytes = resvg_py.svg_to_bytes(
        svg_string=svg,
        skip_system_fonts=True,
        font_files=FONTS,
        font_family=FAMILY,
        sans_serif_family=FAMILY,
    )
    return image


def main() -> None:
    """Read an SVG from the standard input, and write its image to the standard output."""
    os.nice(NICE)
    svg = sys.stdin.read()
    sys.stdout.buffer.write(render_in_this_process(svg))


if __name__ == "__main__":
    main()
