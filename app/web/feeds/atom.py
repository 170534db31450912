"""
The feed, as RFC 4287 has it: an entry when a Monday's picks are made or fail, and one when their result stands, or
that there is none. A figure that is put right, or a pick that is renamed, brings its entry up again.

It is the document `Feed`, written as Atom. Ids come from the journal, whose entries never change: they are this
record's and no other's (a rehearsal's batches have the ids of the real ones), wherever it is served. Every entry names
the entry of the journal that tells of it, which was the journal's head at that moment: readers that keep it hold a
copy against which `alpha-monday verify --head` checks the journal. The head of now stands beside it, where it makes no
reader believe that the entry is new.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from typing import Any
from uuid import UUID, uuid5
from xml.etree.ElementTree import Element, SubElement, register_namespace, tostring

import msgspec
from litestar import Request, Response, route
from litestar.handlers import HTTPRouteHandler
from msgspec import Struct

from api.engine import Engine
from api.halving import halved
from api.persisted import BY_NAME
from app.web.formatting import TOO_LARGE, listed, price, share, signed
from app.web.formatting import day as in_full
from app.web.pages import corrected
from app.web.refusals import unanswered, unwritable
from app.web.routes import BATCH, FEED, FRONT

_DOCUMENT = BY_NAME["Feed"]
MOST = 50
MEDIA = "application/atom+xml"
ATOM = "http://www.w3.org/2005/Atom"
XHTML = "http://www.w3.org/1999/xhtml"
# Elements of our own: `head` and `entry`, each the number and the hash of a journal's entry.
OURS = "urn:uuid:7d125464-81aa-4b7e-afbb-8fc101430442"

register_namespace("", ATOM)
register_namespace("x", XHTML)
register_namespace("journal", OURS)

_IDS = UUID("da0a5cbf-79c8-489d-93c7-109637edacb1")
# What XML 1.0 cannot hold, not even escaped.
_UNWRITABLE = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_MADE = ("BATCH", "FAILURE")
_UNUSUAL = "with a move of a tenth or more in one session that no known split explains"

Node = Mapping[str, Any]


def feed(engine: Engine, address: str, *, rehearsed: bool) -> HTTPRouteHandler:
    """Return the handler of the feed; its links begin with `address`, and in a rehearsal it says that it is made up."""

    @route(FEED.path, http_method=FEED.methods, include_in_schema=False)
    async def send(request: Request[Any, Any, Any]) -> Response[bytes]:
        """Send the feed."""
        answer, _ = await halved(engine, _DOCUMENT, MOST)
        if answer.refused or answer.damaged:
            return unanswered(request, answer)
        try:
            xml = written(msgspec.json.decode(answer.body)["data"], address.rstrip("/"), rehearsed=rehearsed)
        except TOO_LARGE as error:
            return unanswered(request, unwritable(error))
        kept = "no-cache" if answer.lasting else "no-store"
        headers = {"Cache-Control": kept, "Cross-Origin-Resource-Policy": "cross-origin"}
        return Response(xml, media_type=f"{MEDIA}; charset=utf-8", headers=headers)

    return send


class Entry(Struct, frozen=True):
    """An entry before it is written: `journal` is the journal's entry that tells of it, where that is known."""

    id: UUID
    title: str
    path: str
    published: str
    updated: str
    term: str
    journal: Node | None
    content: list[Element]


def written(told: Node, address: str = "", *, rehearsed: bool = False) -> bytes:
    """
    Return the feed of what the API told.

    Links begin with `address`, the public one; without it they are relative, and mean the address that the feed was
    read from. What a request calls its host is never written: an answer is kept for everybody.
    """
    head, first = told["service"]["journalHead"], told["journal"]["nodes"]
    batches = told["batches"]["nodes"]
    entries = sorted((entry for one in batches for entry in _entries(one)), key=lambda entry: entry.updated)[-MOST:]
    feed = Element(_atom("feed"), {"xml:lang": "en"})
    # Before the first entry of a journal there is nothing by which to tell it from others.
    _add(feed, "id", uuid5(_IDS, first[0]["hash"] if first else "").urn)
    _add(feed, "title", "Alpha Monday, rehearsed: all of it is made up" if rehearsed else "Alpha Monday")
    _add(feed, "subtitle", "Three stocks that a language model picks every Monday, and what became of them. No advice.")
    _add(feed, "updated", entries[-1].updated if entries else "1970-01-01T00:00:00Z")
    _add(feed, "generator", "Alpha Monday", version=version("alpha-monday"))
    _add(SubElement(feed, _atom("author")), "name", "Alpha Monday")
    _add(feed, "link", rel="self", type=MEDIA, href=f"{address}{FEED.path}")
    _add(feed, "link", rel="alternate", type="text/html", href=f"{address}{FRONT.path}")
    if rehearsed:
        # For readers and aggregators that keep no HTTP header: what is made up is not for search engines.
        SubElement(feed, _xhtml("meta"), {"name": "robots", "content": "noindex"})
    _add_journal(feed, "head", head)
    for entry in reversed(entries):
        _write(feed, entry, address, head, "Made up: " if rehearsed else "")
    xml: bytes = tostring(feed, "utf-8", xml_declaration=True)
    return xml


def _write(feed: Element, entry: Entry, address: str, head: Node | None, before: str) -> None:
    element = SubElement(feed, _atom("entry"))
    _add(element, "id", entry.id.urn)
    _add(element, "title", before + entry.title)
    _add(element, "published", entry.published)
    _add(element, "updated", entry.updated)
    _add(element, "category", term=entry.term)
    _add(element, "link", rel="alternate", type="text/html", href=f"{address}{entry.path}")
    _add_journal(element, "entry", entry.journal)
    _add_journal(element, "head", head)
    content = SubElement(element, _atom("content"), {"type": "xhtml"})
    SubElement(content, _xhtml("div")).extend(entry.content)


def _entries(batch: Node) -> Iterator[Entry]:
    """Yield what the feed says of a Monday: that its picks were made, or failed; and once it is over its result."""
    made = [entry for entry in batch["journal"] if entry["kind"] in _MADE]
    if not made:
        return
    yield _made(batch, made)
    if batch["status"] == "COMPLETED":
        yield _result(batch, made[0]["hash"])


def _made(batch: Node, made: list[Node]) -> Entry:
    """Return the entry of a Monday's picks; a Monday that failed and was run again keeps its entry."""
    failed = batch["status"] == "FAILED"
    picks = listed([f"{pick['action']} {pick['pickedAs']}" for pick in batch["picks"]])
    later = [one for one in batch["journal"] if one["kind"] == "PICK_RENAMED"]
    corrections = _corrections(batch, 0)
    return Entry(
        id=uuid5(_IDS, f"{made[0]['hash']} made"),
        title=f"{'No picks' if failed else picks} on {in_full(batch['runDate'])}",
        path=BATCH.url(run_date=batch["runDate"]),
        published=made[0]["at"],
        updated=max([made[-1]["at"], *(one["at"] for one in later), *(one["madeAt"] for one in corrections)]),
        term="failed" if failed else "picks",
        journal=made[-1],
        content=[*_told_of_picks(batch), *_told_of_corrections(corrections), _told_of(made[-1])],
    )


def _told_of_picks(batch: Node) -> Iterator[Element]:
    if batch["status"] == "FAILED":
        yield _element("p", batch["failure"])
        return
    for pick in batch["picks"]:
        now = "" if pick["ticker"] == pick["pickedAs"] else f" (now {pick['ticker']})"
        yield _element("h3", f"{pick['action']} {pick['pickedAs']}{now}")
        yield _element("p", pick["reasoning"])
    prices = [f"{pick['pickedAs']} {price(pick['initialPrice'])}" for pick in batch["picks"]]
    benchmark = f"{batch['benchmarkSymbol']} {price(batch['benchmarkInitialPrice'])}"
    yield _element("p", f"Closes of {in_full(batch['tradingDay'])}: {listed([*prices, benchmark])}.")
    if batch["late"]:
        yield _element("p", "Late: stored after the open of the first session it could be traded in, and not scored.")


def _result(batch: Node, whose: str) -> Entry:
    """Return the entry of how a fortnight ended; one without a result may still get it."""
    result = batch["result"]
    over = max(one["skippedAt"] or one["takenAt"] for one in batch["checkpoints"])
    corrections = _corrections(batch, result["day"]) if result else []
    taken = [one for one in batch["journal"] if one["kind"] == "CHECKPOINT"]
    own = [one for one in taken if one["at"] == (result["takenAt"] if result else over)]
    hits = sum(pick["result"]["hit"] for pick in batch["picks"]) if result else 0
    outcome = f"{hits} of {len(batch['picks'])} calls right" if result else "unresolved"
    return Entry(
        id=uuid5(_IDS, f"{whose} result"),
        title=f"The picks of {in_full(batch['runDate'])}: {outcome}",
        path=BATCH.url(run_date=batch["runDate"]),
        published=over,
        updated=max([over, *([result["takenAt"]] if result else []), *(one["madeAt"] for one in corrections)]),
        term="result" if result else "unresolved",
        journal=own[-1] if own else None,
        content=[
            *_told_of_result(batch, result), *_told_of_corrections(corrections), *([_told_of(own[-1])] if own else []),
        ],
    )  # fmt: skip


def _told_of_result(batch: Node, result: Node | None) -> Iterator[Element]:
    if result is None:
        yield _element(
            "p", "The fortnight is over, and its last session has no figures: no earlier day stands in for it."
        )
        return
    benchmark = f"{batch['benchmarkSymbol']} {signed(result['benchmarkReturnPct'])} %"
    if result["benchmarkUnusualMove"]:
        benchmark = f"{benchmark} ({_UNUSUAL})"
    yield _element("p", f"At the close of {in_full(result['tradingDay'])}, since the baseline; {benchmark}:")
    picks = Element(_xhtml("ul"))
    for pick in batch["picks"]:
        figures = pick["result"]
        right = "right" if figures["hit"] else "wrong"
        points = f"{signed(figures['alphaPct'])} points in the call's favour against {batch['benchmarkSymbol']}"
        directional = f"{signed(figures['directionalReturnPct'])} % in its direction"
        line = f"{pick['action']} {share(pick)}: {right}, {directional}, {points}"
        picks.append(_element("li", f"{line} ({_UNUSUAL})" if figures["unusualMove"] else line))
    yield picks
    yield _element("p", "Without dividends and costs.")


def _corrections(batch: Node, day: int) -> list[Node]:
    return [made for one in batch["checkpoints"] if one["day"] == day for made in one["corrections"]]


def _told_of_corrections(corrections: Iterable[Node]) -> Iterator[Element]:
    for made in corrections:
        figure = corrected.named(made["field"])
        whose = f"{made['ticker']}, {figure}" if made["ticker"] else figure
        before, after = corrected.shown(made)
        yield _element("p", f"Put right: {whose}, from {before} to {after}. {made['reason']}")


def _told_of(entry: Node) -> Element:
    return _element("p", f"The journal tells of it in entry {entry['seq']}:{entry['hash']}.")


def _add(parent: Element, name: str, text: str | None = None, **attributes: str) -> None:
    SubElement(parent, _atom(name), attributes).text = None if text is None else _writable(text)


def _add_journal(parent: Element, name: str, entry: Node | None) -> None:
    if entry:
        SubElement(parent, f"{{{OURS}}}{name}").text = f"{entry['seq']}:{entry['hash']}"


def _element(name: str, text: str) -> Element:
    element = Element(_xhtml(name))
    element.text = _writable(text)
    return element


def _writable(text: str) -> str:
    return _UNWRITABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def _atom(name: str) -> str:
    return f"{{{ATOM}}}{name}"


def _xhtml(name: str) -> str:
    return f"{{{XHTML}}}{name}"
