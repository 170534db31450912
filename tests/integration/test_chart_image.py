"""A Monday's picture for shared links: its size, its words, that it is kept, and what has none."""

import asyncio
import json
import struct
import zlib
from collections.abc import AsyncIterator

import pytest
from api_records import engine_on, plant
from test_api_cache import Service, living, write

from api.persisted import FOLDER
from app.web.charts import png as render
from app.web.charts.batch_chart import LIGHT
from app.web.charts.image import HEIGHT, MOST, WIDTH, Pictures, told, whole

MONDAYS = {
    "2026-01-05": "BUY AAPL, SELL KO, BUY BRK.B: 3 of 3 calls right",
    "2026-01-12": "SELL MSFT, BUY AAPL, BUY NVDA: unresolved",
    "2026-01-19": "No picks",
    "2026-01-26": "SELL AAPL, BUY BRK.B, SELL XOM",
}


@pytest.fixture
async def service(database) -> AsyncIterator[Service]:
    plant(database)
    async with living(database) as service:
        yield service


async def batch_of(pool, monday: str) -> dict:
    answer = await engine_on(pool).answer((FOLDER / "Chart.graphql").read_text(), {"runDate": monday})
    return json.loads(answer.body)["data"]["batchOn"]


def pixels(png: bytes) -> tuple[int, int, set[bytes]]:
    """The width and height of a PNG, and all bytes of its unfiltered lines that begin one."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    at, data, size = 8, b"", (0, 0)
    while at < len(png):
        length, kind = struct.unpack(">I4s", png[at : at + 8])
        body = png[at + 8 : at + 8 + length]
        assert struct.unpack(">I", png[at + 8 + length : at + 12 + length])[0] == zlib.crc32(kind + body)
        if kind == b"IHDR":
            size = struct.unpack(">II", body[:8])
        data += body if kind == b"IDAT" else b""
        at += 12 + length
    return *size, set(zlib.decompress(data))


@pytest.mark.parametrize("monday", MONDAYS)
async def test_each_monday_has_one(service, monday):
    """A PNG of the size that sites ask for, of a finished Monday, an unresolved, a failed and a running one."""
    answer = await service.client.get(f"/batches/{monday}/chart.png")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    width, height, seen = pixels(answer.content)
    assert (width, height, len(seen) > 30) == (1200, 630, True)
    assert len(answer.content) < 150_000


@pytest.mark.parametrize(("monday", "line"), MONDAYS.items())
async def test_what_it_says(database, pool, monday, line):
    """The Monday, its picks and how they ended, in words; a failed one says why, in the schema's."""
    plant(database)
    batch = await batch_of(pool, monday)
    assert told(batch) == line
    svg = whole(batch, rehearsed=False)
    assert line in svg
    assert ("A provider did not give what was asked of it." in svg) == (monday == "2026-01-19")
    assert ("Percentage points in the call's favour against SPY: above zero, the call is right" in svg) == (
        monday != "2026-01-19"
    )
    assert "made up" not in svg
    assert "Rehearsed: all of it is made up" in whole(batch, rehearsed=True)


async def test_a_late_monday_says_so(database, pool):
    """What is not scored is not shown as if it were."""
    plant(database)
    batch = await batch_of(pool, "2026-01-05")
    assert told({**batch, "late": True}) == "BUY AAPL, SELL KO, BUY BRK.B (late): 3 of 3 calls right"


async def test_every_letter_is_in_the_fonts(database, pool):
    """Each letter of a picture is drawn, and not as the box that stands for one that no font has."""
    plant(database)
    svg = whole(await batch_of(pool, "2026-01-05"), rehearsed=True)
    letters = {letter for letter in svg if not letter.isspace()}
    ground = f'<rect width="60" height="60" fill="{LIGHT["paper"]}"/>'

    def alone(letter: str) -> str:
        escaped = {"<": "&lt;", "&": "&amp;"}.get(letter, letter)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="60" height="60">{ground}'
            f'<text x="10" y="40" font-size="30" font-family="{render.FAMILY}">{escaped}</text></svg>'
        )

    lacking = render.drawn(alone("株"))
    drawn = {letter: render.drawn(alone(letter)) for letter in sorted(letters - set("<>&{}#;/=\"'_"))}
    assert [letter for letter, png in drawn.items() if png == lacking] == []
    assert len(set(drawn.values())) == len(drawn)


@pytest.mark.parametrize("name", ["2026-01-06", "2025-12-29", "2026-02-30", "x", "2026-1-5", "%2e%2e", "20260105"])
async def test_what_has_none(service, name):
    """A day that is no Monday of the record, or no day, is 404."""
    assert (await service.client.get(f"/batches/{name}/chart.png")).status_code == 404


async def test_it_is_kept(pool, service):
    """Until the record moves it is an ETag's 304 and no work at all; and after that, no new drawing of the same."""
    address = "/batches/2026-01-05/chart.png"
    first = await service.client.get(address)
    again = await service.client.get(address, headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content, service.counts) == (304, b"", (1, 1))
    assert first.headers["cache-control"] == "no-cache"
    await service.hears(write(pool, 1))
    after = await service.client.get(address)
    assert (after.content, after.headers["etag"]) == (first.content, first.headers["etag"])


async def test_only_so_many_are_kept(database, pool, monkeypatch):
    """One that was not asked for longest makes room; one that is asked for by many at once is drawn once."""
    plant(database)
    batch = await batch_of(pool, "2026-01-19")
    drawn = []

    def png(svg: str) -> bytes:
        drawn.append(svg)
        return b"a picture"

    monkeypatch.setattr(render, "png", png)
    pictures = Pictures()
    await asyncio.gather(*(pictures.of(b"one", batch, False) for _ in range(5)))
    assert len(drawn) == 1
    for number in range(MOST):
        await pictures.of(b"%d" % number, batch, False)
    await pictures.of(b"%d" % (MOST - 1), batch, False)
    assert len(drawn) == 1 + MOST
    await pictures.of(b"one", batch, False)
    assert len(drawn) == 2 + MOST


async def test_only_so_many_wait(database, pool):
    """Who comes after them is sent away; what is drawn already is given all the same."""
    plant(database)
    batch = await batch_of(pool, "2026-01-19")
    pictures = Pictures(most_waiting=2)
    there = await pictures.of(b"there", batch, False)
    drawing = [asyncio.create_task(pictures.of(b"%d" % number, batch, False)) for number in range(3)]
    await asyncio.sleep(0)
    assert await pictures.of(b"there", batch, False) == there
    *taken, refused = await asyncio.gather(*drawing, return_exceptions=True)
    assert taken == [there, there]
    assert refused.extensions["code"] == "SERVICE_UNAVAILABLE"
    assert await pictures.of(b"2", batch, False) == there


@pytest.mark.parametrize(
    ("svg", "seconds", "reason"),
    [
        pytest.param("no drawing", 10.0, "ValueError: unknown token", id="nonsense"),
        pytest.param("<svg xmlns='http://www.w3.org/2000/svg' width='1' height='1'/>", 0.0, "took longer", id="slow"),
    ],
)
def test_what_cannot_be_drawn(monkeypatch, svg, seconds, reason):
    """An error that says why; the process that was to draw is gone."""
    monkeypatch.setattr(render, "WITHIN", seconds)
    with pytest.raises(render.NotDrawn, match=reason):
        render.png(svg)


async def test_pages_name_it_where_the_world_finds_it(database):
    """With PUBLIC_URL a shared page has its picture, by an address that leads to it; without one it names none."""
    plant(database)
    async with living(database) as service:
        assert "og:image" not in (await service.client.get("/batches/2026-01-05")).text
    async with living(database, PUBLIC_URL="https://alpha-monday.example") as service:
        for page, monday in (("/", "2026-01-26"), ("/batches/2026-01-05", "2026-01-05")):
            html = (await service.client.get(page)).text
            named = f"https://alpha-monday.example/batches/{monday}/chart.png"
            assert f'<meta property="og:image" content="{named}">' in html
        assert "og:image" not in (await service.client.get("/about")).text
        assert (WIDTH, HEIGHT) == (1200, 630)
