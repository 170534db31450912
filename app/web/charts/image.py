"""
`/batches/{run_date}/chart.png`: the chart of a Monday as an image, for previews of shared links.

Those of further series are at `/series/{series}/batches/{run_date}/chart.png`.

The image contains only names, dates and figures, so two small fonts have all of its letters. The
fonts come with the service, so the image looks the same on every machine. The key of a cached image
is the response of the API from which the image was drawn. So a batch that has changed gets a new
image.
"""

import asyncio
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

import msgspec
from graphql import GraphQLEnumType, GraphQLError
from litestar import Request, Response, route
from litestar.exceptions import NotFoundException
from litestar.handlers import HTTPRouteHandler

from api.engine import Engine, error_result, unexpected_error_result
from api.fields import api_error
from api.schema import schema
from app.domain.declarations import Origin
from app.domain.model import SERIES, SERIES_PATTERN
from app.web.charts import png, svg
from app.web.charts.batch_chart import chart_of_batch, draw
from app.web.charts.layout import LIGHT_COLOURS, Layout
from app.web.documents import extended
from app.web.formatting import TOO_LARGE_ERRORS, long_date, ticker_label
from app.web.refusals import error_response, too_large_number_result
from app.web.routes import BATCH_CHART, RUN_DATE, SERIES_BATCH_CHART

# The size of an image for previews of links, in pixels, as other sites require it.
WIDTH, HEIGHT = 1200, 630
MARGIN = 64
# The most letters of a summary in its full size. A longer summary is written in a smaller size.
FULL_SIZE_LETTERS = 74
_SUMMARY_SIZE = 26
CHART_LAYOUT = Layout(
    width=WIDTH - 2 * MARGIN,
    height=384,
    text=20,
    left=54,
    right=232,
    top=20,
    bottom=64,
    palette=LIGHT_COLOURS,
)
# How many images are cached. An image has about 40 KB.
MAX_CACHED = 64
# How many requests may wait for their image. It takes a tenth of a second to draw one. A request
# that waits is one of the active requests, whose number is limited (`api.cache.MAX_CONCURRENT`). So
# without this limit, requests for images could take the places of all other requests.
MAX_WAITING = 16
DOCUMENT = extended(
    "Chart",
    skipReason="skipReason wasSession",
    batchOn="service { origin } series { name } batchOn",
)
# Errors of the API for a date that is not a Monday of the record, or not a date at all, and for a
# series that the record does not have.
_NO_SUCH_MONDAY = ("BAD_DATE", "BAD_USER_INPUT", "BAD_SERIES")

Node = Mapping[str, Any]


def chart_image_route(engine: Engine, *, rehearsed: bool) -> HTTPRouteHandler:
    """
    Return the handler of the images.

    In a rehearsal, each image is marked as made up: if `rehearsed` is true, or the record says so.
    """
    images = ChartImages()
    paths = [BATCH_CHART.litestar_path, SERIES_BATCH_CHART.litestar_path]

    @route(paths, http_method=BATCH_CHART.methods, include_in_schema=False)
    async def send(request: Request[Any, Any, Any]) -> Response[bytes]:
        """Send the image of a Monday."""
        run_date = request.path_params["run_date"]
        series = request.path_params.get("series", SERIES)
        if not re.fullmatch(RUN_DATE, run_date) or not re.fullmatch(SERIES_PATTERN, series):
            raise NotFoundException
        result = await engine.execute(DOCUMENT, {"runDate": run_date, "series": series})
        if result.damage or result.error_code not in (None, *_NO_SUCH_MONDAY):
            return error_response(request, result)
        data = msgspec.json.decode(result.body).get("data", {})
        batch = data.get("batchOn")
        if batch is None:
            raise NotFoundException
        is_made_up = rehearsed or data["service"]["origin"] == Origin.REHEARSED
        try:
            # With one series, the image does not name it.
            batch |= {"series": series if len(data["series"]) > 1 else ""}
            image = await images.get(result.body, batch, is_made_up)
        except GraphQLError as error:
            return error_response(request, error_result(error))
        except TOO_LARGE_ERRORS as error:
            return error_response(request, too_large_number_result(error))
        except png.RenderError as error:
            return error_response(request, unexpected_error_result(error))
        headers = {
            "Cache-Control": "no-cache" if result.is_cacheable else "no-store",
            # Other sites may show the image.
            "Cross-Origin-Resource-Policy": "cross-origin",
        }
        return Response(image, media_type="image/png", headers=headers)

    return send


class ChartImages:
    """Makes images one at a time, outside of the event loop, and caches the ones used last."""

    def __init__(self, max_waiting: int = MAX_WAITING) -> None:
        self.max_waiting = max_waiting
        self.waiting = 0
        self._cached: OrderedDict[bytes, bytes] = OrderedDict()
        self._one_at_a_time = asyncio.Semaphore()

    async def get(self, key: bytes, batch: Node, rehearsed: bool) -> bytes:
        """
        Return the image of `batch`.

        `key` is the API's response from which `batch` was read. Raises SERVICE_UNAVAILABLE if too
        many requests wait for an image.
        """
        if key not in self._cached:
            await self._draw(key, batch, rehearsed)
        self._cached.move_to_end(key)
        return self._cached[key]

    async def _draw(self, key: bytes, batch: Node, rehearsed: bool) -> None:
        if self.waiting >= self.max_waiting:
            raise api_error(
                "SERVICE_UNAVAILABLE",
                "Too many images are being drawn right now. Try again soon.",
            )
        self.waiting += 1
        try:
            async with self._one_at_a_time:
                # Another request may have drawn the same image while this one waited.
                if key not in self._cached:
                    drawing = chart_image_svg(batch, rehearsed=rehearsed)
                    self._cached[key] = await asyncio.to_thread(png.render_png, drawing)
        finally:
            self.waiting -= 1
        if len(self._cached) > MAX_CACHED:
            self._cached.popitem(last=False)


def chart_image_svg(batch: Node, *, rehearsed: bool) -> str:
    """Return the image of a batch as SVG: headings, summary and chart."""
    summary = summary_line(batch)
    summary_size = min(_SUMMARY_SIZE, _SUMMARY_SIZE * FULL_SIZE_LETTERS // len(summary))
    parts = [
        svg.element("rect", width=WIDTH, height=HEIGHT, fill=LIGHT_COLOURS["paper"]),
        _text_line(_heading(batch), y=68, size=22, colour="faint", weight=600),
        _text_line(long_date(batch["runDate"]), y=117, size=42, colour="ink", weight=600),
        _text_line(summary, y=160, size=summary_size, colour="faint"),
        *_draw_middle(batch),
    ]
    if rehearsed:
        parts.append(
            _text_line(
                "Rehearsed: all of it is made up",
                y=68,
                size=22,
                colour="pick-2",
                weight=600,
                right=True,
            )
        )
    return svg.element(
        "svg",
        *parts,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        width=WIDTH,
        height=HEIGHT,
        font_family=png.FAMILY,
    )


def _heading(batch: Node) -> str:
    """
    Return the name of the service, with the name of the series if there are several.

    A label is not used, because it may have letters that the fonts do not have.
    """
    series = batch.get("series", "")
    if series:
        return f"Alpha Monday: {series}"
    return "Alpha Monday"


def summary_line(batch: Node) -> str:
    """Return the picks of a batch and their result in one line."""
    picks = ", ".join(f"{pick['action']} {ticker_label(pick)}" for pick in batch["picks"])
    late = " (late)" if batch["late"] and batch["picks"] else ""
    if batch["result"]:
        hits = sum(pick["result"]["hit"] for pick in batch["picks"])
        return f"{picks}{late}: {hits} of {len(batch['picks'])} calls right"
    if batch["status"] == "COMPLETED":
        return f"{picks}{late}: unresolved"
    return f"{picks or 'No picks'}{late}"


def _draw_middle(batch: Node) -> Iterator[str]:
    """Draw the chart with its heading; for a batch without picks, write why there are none."""
    if not batch["picks"]:
        yield _text_line(_failure_text(batch["failureReason"]), y=340, size=34, colour="ink")
        return
    points = f"Percentage points in the call's favour against {batch['benchmarkSymbol']}"
    yield _text_line(f"{points}: above zero, the call is right", y=212, size=18, colour="faint")
    yield svg.element(
        "svg",
        draw(chart_of_batch(batch), CHART_LAYOUT),
        x=MARGIN,
        y=214,
        width=CHART_LAYOUT.width,
        height=CHART_LAYOUT.height,
    )


def _failure_text(reason: str) -> str:
    """
    Return the schema's description of a failure reason.

    The sentence that the record has for the failure is not used: it may quote a provider, with
    letters that the fonts do not have.
    """
    reasons = schema.type_map["FailureReason"]
    assert isinstance(reasons, GraphQLEnumType)
    return reasons.values[reason].description or reason


def _text_line(
    text: str, *, y: int, size: int, colour: str, weight: int = 400, right: bool = False
) -> str:
    """Return a line of text at the left margin; with `right`, at the right margin."""
    if right:
        x, anchor = WIDTH - MARGIN, "end"
    else:
        x, anchor = MARGIN, "start"
    return svg.element(
        "text",
        escape(text, quote=False),
        x=x,
        y=y,
        font_size=size,
        font_weight=weight,
        text_anchor=anchor,
        fill=LIGHT_COLOURS[colour],
    )
