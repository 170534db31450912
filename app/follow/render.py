"""
SVG to PNG, by resvg, in a process of its own: `python -m app.follow.render < picture.svg > picture.png`.

Drawing takes a tenth of a second in which the library lets nothing else of its process run. A process that does only
this starts as fast, gives its memory back, and takes nobody along if it fails.
"""

import asyncio
import os
import sys
from pathlib import Path

import resvg_py

FONTS = [str(file) for file in sorted((Path(__file__).parent / "fonts").glob("*.ttf"))]
FAMILY = "Inter"
WITHIN = 10.0  # seconds
NICE = 10


class NotDrawn(Exception):
    """A picture could not be made; the text says why."""


async def png(svg: str) -> bytes:
    """Return the picture that an SVG describes; raises NotDrawn."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "app.follow.render"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(WITHIN):
            drawn, said = await process.communicate(svg.encode())
    except TimeoutError:
        raise NotDrawn(f"It took longer than {WITHIN:g} seconds.") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise NotDrawn(said.decode(errors="replace").strip()[-500:])
    return drawn


def main() -> None:
    """Draw what comes in."""
    os.nice(NICE)
    drawn = resvg_py.svg_to_bytes(
        svg_string=sys.stdin.read(),
        skip_system_fonts=True,
        font_files=FONTS,
        font_family=FAMILY,
        sans_serif_family=FAMILY,
    )
    sys.stdout.buffer.write(drawn)


if __name__ == "__main__":
    main()
