"""The image of a Monday for shared links: its size, its texts, its cache, and what has no image."""

import asyncio
import json
import struct
import zlib
from collections.abc import AsyncIterator

import pytest
from api_records import engine_on, plant_main

from app.web.charts import png
from app.web.charts.image import (
    DOCUMENT,
    HEIGHT,
    MAX_CACHED,
    WIDTH,
    ChartImages,
    chart_image_svg,
    summary_line,
)
from app.web.charts.layout import LIGHT_COLOURS
from tests.integration.api.test_cache import Service, living, write

MONDAYS = {
    "2026-01-05": "BUY AAPL, SELL KO, BUY BRK.B: 3 of 3 calls right",
    "2026-01-12": "SELL MSFT, BUY AAPL, BUY NVDA: unresolved",
    "2026-01-19": "No picks",
    "2026-01-26": "SELL AAPL, BUY BRK.B, SELL XOM",
}


@pytest.fixture
async def service(database) -> AsyncIterator[Service]:
    plant_main(database)
    async with living(database) as service:
        yield service


async def batch_of(pool, monday: str) -> dict:
    answer = await engine_on(pool).execute(DOCUMENT, {"runDate": monday})
    return json.loads(answer.body)["data"]["batchOn"]


def pixels(png: bytes) -> tuple[int, int, set[bytes]]:
    """Return the width and height of a PNG, and the set of the bytes of its pixels."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    at, data, size = 8, b"", (0, 0)
    while at < len(png):
        length, kind = struct.unpack(">I4s", png[at : at + 8])
        body = png[at + 8 : at + 8 + length]
        assert struct.unpack(">I", png[at + 8 + length : at + 12 + length])[0] == zlib.crc32(
            kind + body
        )
        if kind == b"IHDR":
            size = struct.unpack(">II", body[:8])
        data += body if kind == b"IDAT" else b""
        at += 12 + length
    return *size, set(zlib.decompress(data))


@pytest.mark.parametrize("monday", MONDAYS)
async def test_each_monday_has_one(service, monday):
    """
    There is a PNG of the required size for a completed, an unresolved, a failed and an active
    Monday.
    """
    answer = await service.client.get(f"/batches/{monday}/chart.png")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    width, height, seen = pixels(answer.content)
    assert (width, height, len(seen) > 30) == (1200, 630, True)
    assert len(answer.content) < 150_000


@pytest.mark.parametrize(("monday", "line"), MONDAYS.items())
async def test_the_texts_of_an_image(database, pool, monday, line):
    """
    The image has the Monday, its picks and their result; a failed Monday has the schema's
    description.
    """
    plant_main(database)
    batch = await batch_of(pool, monday)
    assert summary_line(batch) == line
    svg = chart_image_svg(batch, rehearsed=False)
    assert line in svg
    assert ("A provider did not return the requested data." in svg) == (monday == "2026-01-19")
    assert (
        "Percentage points in the call's favour against SPY: above zero, the call is right" in svg
    ) == (monday != "2026-01-19")
    assert "made up" not in svg
    assert "Rehearsed: all of it is made up" in chart_image_svg(batch, rehearsed=True)


async def test_a_late_monday_says_so(database, pool):
    """A batch that is not scored is not shown like a scored one."""
    plant_main(database)
    batch = await batch_of(pool, "2026-01-05")
    assert (
        summary_line({**batch, "late": True})
        == "BUY AAPL, SELL KO, BUY BRK.B (late): 3 of 3 calls right"
    )


async def test_every_letter_is_in_the_fonts(database, pool):
    """Each letter of an image is drawn, and not replaced by the box for a missing letter."""
    plant_main(database)
    svg = chart_image_svg(await batch_of(pool, "2026-01-05"), rehearsed=True)
    letters = {letter for letter in svg if not letter.isspace()}
    ground = f'<rect width="60" height="60" fill="{LIGHT_COLOURS["paper"]}"/>'

    def alone(letter: str) -> str:
        escaped = {"<": "&lt;", "&": "&amp;"}.get(letter, letter)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="60" height="60">{ground}'
            f'<text x="10" y="40" font-size="30" font-family="{png.FAMILY}">{escaped}</text></svg>'
        )

    lacking = png.render_in_this_process(alone("株"))
    drawn = {
        letter: png.render_in_this_process(alone(letter))
        for letter in sorted(letters - set("<>&{}#;/=\"'_"))
    }
    assert [letter for letter, png in drawn.items() if png == lacking] == []
    assert len(set(drawn.values())) == len(drawn)


@pytest.mark.parametrize(
    "name", ["2026-01-06", "2025-12-29", "2026-02-30", "x", "2026-1-5", "%2e%2e", "20260105"]
)
async def test_what_has_none(service, name):
    """A date that is not a Monday of the record, or not a date, gets 404."""
    assert (await service.client.get(f"/batches/{name}/chart.png")).status_code == 404


async def test_it_is_cached(pool, service):
    """
    Until the record changes, its ETag gets 304 without any work. Afterwards the same image is
    not drawn again.
    """
    address = "/batches/2026-01-05/chart.png"
    first = await service.client.get(address)
    again = await service.client.get(address, headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content, service.counts) == (304, b"", (1, 1))
    assert first.headers["cache-control"] == "no-cache"
    await service.notices(write(pool, 1))
    after = await service.client.get(address)
    assert (after.content, after.headers["etag"]) == (first.content, first.headers["etag"])


async def test_only_so_many_are_cached(database, pool, monkeypatch):
    """
    The image that was unused for the longest time is removed; one that many clients request at
    once is drawn once.
    """
    plant_main(database)
    batch = await batch_of(pool, "2026-01-19")
    drawn = []

    def render(svg: str) -> bytes:
        drawn.append(svg)
        return b"a picture"

    monkeypatch.setattr(png, "render_png", render)
    images = ChartImages()
    await asyncio.gather(*(images.get(b"one", batch, False) for _ in range(5)))
    assert len(drawn) == 1
    for number in range(MAX_CACHED):
        await images.get(b"%d" % number, batch, False)
    await images.get(b"%d" % (MAX_CACHED - 1), batch, False)
    assert len(drawn) == 1 + MAX_CACHED
    await images.get(b"one", batch, False)
    assert len(drawn) == 2 + MAX_CACHED


async def test_only_so_many_wait(database, pool):
    """Requests above the limit are refused; images in the cache are sent all the same."""
    plant_main(database)
    batch = await batch_of(pool, "2026-01-19")
    images = ChartImages(max_waiting=2)
    there = await images.get(b"there", batch, False)
    drawing = [asyncio.create_task(images.get(b"%d" % number, batch, False)) for number in range(3)]
    await asyncio.sleep(0)
    assert await images.get(b"there", batch, False) == there
    *taken, refused = await asyncio.gather(*drawing, return_exceptions=True)
    assert taken == [there, there]
    assert refused.extensions["code"] == "SERVICE_UNAVAILABLE"
    assert await images.get(b"2", batch, False) == there


@pytest.mark.parametrize(
    ("svg", "seconds", "reason"),
    [
        pytest.param("no drawing", 10.0, "ValueError: unknown token", id="nonsense"),
        pytest.param(
            "<svg xmlns='http://www.w3.org/2000/svg' width='1' height='1'/>",
            0.0,
            "took longer",
            id="slow",
        ),
    ],
)
def test_what_cannot_be_drawn(monkeypatch, svg, seconds, reason):
    """The error has a reason, and the process that should draw has ended."""
    monkeypatch.setattr(png, "RENDER_TIMEOUT", seconds)
    with pytest.raises(png.RenderError, match=reason):
        png.render_png(svg)


async def test_pages_name_it_where_the_world_finds_it(database):
    """With PUBLIC_URL a page has the address of its image; without PUBLIC_URL it has none."""
    plant_main(database)
    async with living(database) as service:
        assert "og:image" not in (await service.client.get("/batches/2026-01-05")).text
    async with living(database, PUBLIC_URL="https://alpha-monday.example") as service:
        for page, monday in (("/", "2026-01-26"), ("/batches/2026-01-05", "2026-01-05")):
            html = (await service.client.get(page)).text
            named = f"https://alpha-monday.example/batches/{monday}/chart.png"
            assert f'<meta property="og:image" content="{named}">' in html
        assert "og:image" not in (await service.client.get("/about")).text
        assert (WIDTH, HEIGHT) == (1200, 630)
