"""
`/batches/{run_date}/chart.png`: a Monday's chart, the page's own, as the picture that goes with a shared link.

Nothing is written on it but what is made of names, dates and figures, so two small fonts hold all of its letters, and
it looks the same wherever it is made. A picture is kept for as long as the API says the same of its Monday.
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

from api.engine import Engine, refused, unexpected
from api.fields import refusal
from api.persisted import BY_NAME
from api.schema import schema
from app.web.charts import png as render
from app.web.charts.batch_chart import LIGHT, Look, drawn, element, of_batch
from app.web.formatting import TOO_LARGE, share
from app.web.formatting import day as in_full
from app.web.refusals import unanswered, unwritable
from app.web.routes import BATCH_CHART, RUN_DATE

# What sites that show links ask for, in pixels.
WIDTH, HEIGHT = 1200, 630
MARGIN = 64
# The letters that a line has room for at its full size; longer ones are written smaller.
LONGEST = 74
CHART = Look(WIDTH - 2 * MARGIN, 384, text=20, left=54, right=232, top=20, bottom=64, palette=LIGHT)
# A picture has some 40 KB.
MOST = 64
# Those that wait for theirs, each a tenth of a second, are under way: they may not keep everybody else from an answer.
MOST_WAITING = 16
_DOCUMENT = BY_NAME["Chart"]

Node = Mapping[str, Any]


def picture(engine: Engine, *, rehearsed: bool) -> HTTPRouteHandler:
    """Return the handler of the pictures; in a rehearsal each says that it is made up."""
    pictures = Pictures()

    @route(BATCH_CHART.litestar_path, http_method=BATCH_CHART.methods, include_in_schema=False)
    async def send(request: Request[Any, Any, Any]) -> Response[bytes]:
        """Send the picture of a Monday."""
        run_date = request.path_params["run_date"]
        if not re.fullmatch(RUN_DATE, run_date):
            raise NotFoundException
        answer = await engine.answer(_DOCUMENT, {"runDate": run_date})
        if answer.damaged or answer.refused not in (None, "BAD_DATE", "BAD_USER_INPUT"):
            return unanswered(request, answer)
        batch = msgspec.json.decode(answer.body).get("data", {}).get("batchOn")
        if batch is None:
            raise NotFoundException
        try:
            png = await pictures.of(answer.body, batch, rehearsed)
        except GraphQLError as error:
            return unanswered(request, refused(error))
        except TOO_LARGE as error:
            return unanswered(request, unwritable(error))
        except render.NotDrawn as error:
            return unanswered(request, unexpected(error))
        kept = "no-cache" if answer.lasting else "no-store"
        headers = {"Cache-Control": kept, "Cross-Origin-Resource-Policy": "cross-origin"}
        return Response(png, media_type="image/png", headers=headers)

    return send


class Pictures:
    """Makes pictures, one at a time and beside the loop, and keeps those that were asked for last."""

    def __init__(self, most_waiting: int = MOST_WAITING) -> None:
        self.most_waiting, self.waiting = most_waiting, 0
        self._kept: OrderedDict[bytes, bytes] = OrderedDict()
        self._one_at_a_time = asyncio.Semaphore()

    async def of(self, said: bytes, batch: Node, rehearsed: bool) -> bytes:
        """
        Return the picture of what the API `said` of a Monday, which is `batch`.

        Raises SERVICE_UNAVAILABLE when too many wait for theirs.
        """
        if said not in self._kept:
            await self._draw(said, batch, rehearsed)
        self._kept.move_to_end(said)
        return self._kept[said]

    async def _draw(self, said: bytes, batch: Node, rehearsed: bool) -> None:
        if self.waiting >= self.most_waiting:
            raise refusal("SERVICE_UNAVAILABLE", "Too many pictures are being drawn right now. Try again soon.")
        self.waiting += 1
        try:
            async with self._one_at_a_time:
                if said not in self._kept:
                    self._kept[said] = await asyncio.to_thread(render.png, whole(batch, rehearsed=rehearsed))
        finally:
            self.waiting -= 1
        if len(self._kept) > MOST:
            self._kept.popitem(last=False)


def whole(batch: Node, *, rehearsed: bool) -> str:
    """Return the picture as SVG: what it is about, the chart, and whose it is."""
    line = told(batch)
    return element(
        "svg",
        element("rect", width=WIDTH, height=HEIGHT, fill=LIGHT["paper"]),
        _line("Alpha Monday", 68, 22, "faint", weight=600),
        _line(in_full(batch["runDate"]), 117, 42, "ink", weight=600),
        _line(line, 160, min(26, 26 * LONGEST // len(line)), "faint"),
        *_middle(batch),
        _line("Rehearsed: all of it is made up", 68, 22, "pick-2", weight=600, right=True) if rehearsed else "",
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        width=WIDTH,
        height=HEIGHT,
        font_family=render.FAMILY,
    )


def told(batch: Node) -> str:
    """Return what there is to say of a Monday in one line."""
    picks = ", ".join(f"{pick['action']} {share(pick)}" for pick in batch["picks"])
    late = " (late)" if batch["late"] and batch["picks"] else ""
    if batch["result"]:
        hits = sum(pick["result"]["hit"] for pick in batch["picks"])
        return f"{picks}{late}: {hits} of {len(batch['picks'])} calls right"
    return f"{picks}{late}: unresolved" if batch["status"] == "COMPLETED" else f"{picks or 'No picks'}{late}"


def _middle(batch: Node) -> Iterator[str]:
    if not batch["picks"]:
        yield _line(_why(batch["failureReason"]), 340, 34, "ink")
        return
    points = f"Percentage points in the call's favour against {batch['benchmarkSymbol']}"
    yield _line(f"{points}: above zero, the call is right", 212, 18, "faint")
    inside = drawn(of_batch(batch), CHART)
    yield element("svg", inside, x=MARGIN, y=214, width=CHART.width, height=CHART.height)


def _why(reason: str) -> str:
    """Return what the schema says of a reason; the sentence of the record itself may hold letters that no font has."""
    reasons = schema.type_map["FailureReason"]
    assert isinstance(reasons, GraphQLEnumType)
    return reasons.values[reason].description or reason


def _line(text: str, y: int, size: int, colour: str, *, weight: int = 400, right: bool = False) -> str:
    x, anchor = (WIDTH - MARGIN, "end") if right else (MARGIN, "start")
    return element(
        "text",
        escape(text, quote=False),
        x=x,
        y=y,
        font_size=size,
        font_weight=weight,
        text_anchor=anchor,
        fill=LIGHT[colour],
    )
