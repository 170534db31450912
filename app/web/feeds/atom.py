"""
The Atom feed (RFC 4287): an entry for each Monday's picks, and an entry for each Monday's result.

The feed has the entries of all series. With several series, titles name the series.

A Monday that failed has an entry with the reason, and a fortnight that ended without a result has
an entry that says so. A correction, or the renaming of a pick, updates the entry that it is about,
so that feed readers show this entry again. The feed is the API's response to the document `Feed`,
written as Atom.

The ids of entries are made from hashes of the journal, whose entries never change. So an id belongs
to one record only, and does not depend on the address of the feed. (The ids of batches could not be
used: the batches of a rehearsal have the same ids as the real ones. But the journal of a rehearsal
has other hashes than the real journal.)

Each entry of the feed names the journal entry that records its event. At the time of the event,
that journal entry was the head of the journal. So a feed reader that stores the entry of the feed
stores a copy of a head, and `alpha-monday verify --head` checks the journal against this copy. Each
entry of the feed also has the current head. Feed readers look at other elements to notice that an
entry has changed. So a new head does not make an entry look new.
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
from api.page_halving import execute_halving_page
from api.persisted import DOCUMENTS_BY_NAME
from app.domain.declarations import Origin
from app.domain.model import SERIES
from app.domain.text import join_words
from app.web.documents import extended
from app.web.formatting import (
    TOO_LARGE_ERRORS,
    long_date,
    price,
    signed,
    ticker_label,
)
from app.web.pages import batch_text, correction_text, timestamp_text
from app.web.pages.series_text import KnownSeries
from app.web.pages.timestamp_text import StampText
from app.web.refusals import error_response, too_large_number_result
from app.web.routes import FEED, FRONT, batch_url

DOCUMENT = extended(
    "Feed",
    checkpoints="checkpoints { skipReason wasSession } checkpoints",
    service="service { origin recordId } service",
)
MAX_ENTRIES = 50
MEDIA_TYPE = "application/atom+xml"
ATOM_NAMESPACE = "http://www.w3.org/2005/Atom"
XHTML_NAMESPACE = "http://www.w3.org/1999/xhtml"
# The namespace of our own elements. `head` and `entry` are the number and the hash of an entry of
# the journal. `record` is the origin of the record and, if it has one, its id.
JOURNAL_NAMESPACE = "urn:uuid:7d125464-81aa-4b7e-afbb-8fc101430442"

register_namespace("", ATOM_NAMESPACE)
register_namespace("x", XHTML_NAMESPACE)
register_namespace("journal", JOURNAL_NAMESPACE)

# The namespace of the feed's id and of the entries' ids. It must never change: feed readers know
# entries by their ids.
_IDS = UUID("da0a5cbf-79c8-489d-93c7-109637edacb1")
# Characters that XML 1.0 cannot contain, not even escaped.
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
# The kinds of journal entries with which a Monday gets its picks, or fails.
_RUN_KINDS = ("BATCH", "FAILURE")
_UNUSUAL = "with a move of a tenth or more in one session that no known split explains"

Node = Mapping[str, Any]


def feed_route(
    engine: Engine, address: str, *, rehearsed: bool, expects_stamps: bool = False
) -> HTTPRouteHandler:
    """
    Return the handler of the feed.

    Links begin with `address`, the public address of the service. The feed of a rehearsal is marked
    as made up. With `expects_stamps`, an entry also says that its batch has no timestamp.
    """

    @route(FEED.path, http_method=FEED.methods, include_in_schema=False)
    async def send(request: Request[Any, Any, Any]) -> Response[bytes]:
        """Send the feed."""
        result = await engine.execute(DOCUMENTS_BY_NAME["SeriesList"])
        if result.error_code or result.damage:
            return error_response(request, result)
        known = KnownSeries(msgspec.json.decode(result.body)["data"]["series"])
        parts = []
        for name in known.names or [known.default]:
            result, _ = await execute_halving_page(
                engine=engine, document=DOCUMENT, first=MAX_ENTRIES, variables={"series": name}
            )
            if result.error_code or result.damage:
                return error_response(request, result)
            data = msgspec.json.decode(result.body)["data"]
            parts.append(_name_batches(data, name, known))
        try:
            xml = render_feed(
                _join_parts(parts),
                address.rstrip("/"),
                rehearsed=rehearsed,
                expects_stamps=expects_stamps,
            )
        except TOO_LARGE_ERRORS as error:
            return error_response(request, too_large_number_result(error))
        headers = {
            "Cache-Control": "no-cache" if result.is_cacheable else "no-store",
            # Pages of other sites may embed the feed. Their scripts can read it only through CORS.
            "Cross-Origin-Resource-Policy": "cross-origin",
        }
        return Response(xml, media_type=f"{MEDIA_TYPE}; charset=utf-8", headers=headers)

    return send


def _name_batches(data: Node, name: str, known: KnownSeries) -> Node:
    """Return the data of a series, each batch with `series` and, with several series, `label`."""
    series = known.named(name)
    label = ""
    if series is not None and known.are_several:
        label = series["label"]
    nodes = [{**batch, "series": name, "label": label} for batch in data["batches"]["nodes"]]
    return {**data, "batches": {"nodes": nodes}}


def _join_parts(parts: list[Node]) -> Node:
    """Return the data of all series as one: the batches of all, and the newest head."""
    nodes: list[Node] = []
    for part in parts:
        nodes += part["batches"]["nodes"]
    return {**parts[-1], "batches": {"nodes": nodes}, "seriesCount": len(parts)}


class FeedEntry(Struct, frozen=True):
    """
    The parts of an entry of the feed. `content` is a list of XHTML elements.

    `journal` is the journal entry that records the event of this entry, or None if that journal
    entry is not known.
    """

    id: UUID
    title: str
    path: str
    published: str
    updated: str
    term: str
    journal: Node | None
    content: list[Element]


def render_feed(
    data: Node, address: str = "", *, rehearsed: bool = False, expects_stamps: bool = False
) -> bytes:
    """
    Return the feed as XML. `data` is the API's response to the document `Feed`.

    With several series, `data` has the batches of all of them and their number, `seriesCount`. Each
    batch has the name of its series and its label; then titles begin with the label.

    The feed of a rehearsal is marked as made up: if `rehearsed` is true, or the record says so.
    Links begin with `address`. If `address` is empty, the links are relative to the address from
    which the feed was read. The Host header of a request is never used, because the response is
    cached for all clients.
    """
    head = data["service"]["journalHead"]
    # The id of the feed is made from the hash of the journal's first entry. An empty journal has no
    # such hash.
    first_hash = ""
    if data["journal"]["nodes"]:
        first_hash = data["journal"]["nodes"][0]["hash"]
    is_stamp_expected = expects_stamps or bool(data["timestamps"]["nodes"])
    entries: list[FeedEntry] = []
    for batch in data["batches"]["nodes"]:
        stamp = timestamp_text.describe_stamp(batch, is_expected=is_stamp_expected)
        entries += _batch_entries(batch, _stamp_content(stamp, address))
    entries = sorted(entries, key=lambda entry: entry.updated)[-MAX_ENTRIES:]
    rehearsed = rehearsed or data["service"]["origin"] == Origin.REHEARSED
    # RFC 4287 requires the time of the last update, also for an empty feed.
    newest_update = "1970-01-01T00:00:00Z"
    if entries:
        newest_update = entries[-1].updated

    feed = Element(_atom("feed"), {"xml:lang": "en"})
    _add(feed, "id", uuid5(_IDS, first_hash).urn)
    title, entry_prefix = "Alpha Monday", ""
    if rehearsed:
        title, entry_prefix = "Alpha Monday, rehearsed: all of it is made up", "Made up: "
    _add(feed, "title", title)
    picked_by = "a language model picks"
    if data.get("seriesCount", 1) > 1:
        picked_by = "each of several series picks"
    _add(
        feed,
        "subtitle",
        f"Three stocks that {picked_by} every Monday, and their results. Not advice.",
    )
    _add(feed, "updated", newest_update)
    _add(feed, "generator", "Alpha Monday", version=version("alpha-monday"))
    _add(SubElement(feed, _atom("author")), "name", "Alpha Monday")
    _add(feed, "link", rel="self", type=MEDIA_TYPE, href=f"{address}{FEED.path}")
    _add(feed, "link", rel="alternate", type="text/html", href=f"{address}{FRONT.path}")
    if rehearsed:
        # Search engines must not index made-up entries. The header X-Robots-Tag says this, too, but
        # a site that copies the feed does not copy the header.
        SubElement(feed, _xhtml("meta"), {"name": "robots", "content": "noindex"})
    _add_journal(feed, "head", head)
    _add_record(feed, data["service"])
    for entry in reversed(entries):
        _add_entry(feed, entry, address=address, head=head, prefix=entry_prefix)
    xml: bytes = tostring(feed, "utf-8", xml_declaration=True)
    return xml


def _add_entry(
    feed: Element, entry: FeedEntry, *, address: str, head: Node | None, prefix: str
) -> None:
    """Add an entry to the feed, with `prefix` before the entry's title."""
    element = SubElement(feed, _atom("entry"))
    _add(element, "id", entry.id.urn)
    _add(element, "title", prefix + entry.title)
    _add(element, "published", entry.published)
    _add(element, "updated", entry.updated)
    _add(element, "category", term=entry.term)
    _add(element, "link", rel="alternate", type="text/html", href=f"{address}{entry.path}")
    _add_journal(element, "entry", entry.journal)
    _add_journal(element, "head", head)
    content = SubElement(element, _atom("content"), {"type": "xhtml"})
    SubElement(content, _xhtml("div")).extend(entry.content)


def _stamp_content(stamp: StampText | None, address: str) -> list[Element]:
    """Return the sentence about the timestamp of a batch, with a link to the proof."""
    if stamp is None:
        return []
    sentence = _element("p", f"{stamp.words[0].upper()}{stamp.words[1:]}")
    if stamp.path is None:
        sentence.text = f"{sentence.text}."
        return [sentence]
    sentence.text = f"{sentence.text}: "
    link = _element("a", "the proof")
    link.set("href", f"{address}{stamp.path}")
    link.tail = "."
    sentence.append(link)
    return [sentence]


def _batch_entries(batch: Node, stamp: list[Element]) -> Iterator[FeedEntry]:
    """
    Yield the entries of a batch: one for its picks or its failure, and one for its result.

    The entry for the result exists only once the batch is completed. `stamp` is the content about
    the timestamp of the picks.
    """
    run_entries = [entry for entry in batch["journal"] if entry["kind"] in _RUN_KINDS]
    if not run_entries:
        return
    yield _picks_entry(batch, run_entries, stamp)
    if batch["status"] == "COMPLETED":
        yield _result_entry(batch, first_hash=run_entries[0]["hash"])


def _picks_entry(batch: Node, run_entries: list[Node], stamp: list[Element]) -> FeedEntry:
    """
    Return the entry of a Monday's picks, or of its failure.

    `run_entries` are the journal entries of the Monday's runs. A Monday that failed and was run
    again later keeps its entry in the feed: the id is made from the first of `run_entries`.
    """
    first, last = run_entries[0], run_entries[-1]
    if batch["status"] == "FAILED":
        picks, term = "No picks", "failed"
    else:
        picks = join_words([f"{pick['action']} {pick['pickedAs']}" for pick in batch["picks"]])
        term = "picks"
    renames = [entry["at"] for entry in batch["journal"] if entry["kind"] == "PICK_RENAMED"]
    corrections = _corrections(batch, day=0)
    corrected = [correction["madeAt"] for correction in corrections]
    return FeedEntry(
        id=uuid5(_IDS, f"{first['hash']} made"),
        title=f"{_label_prefix(batch)}{picks} on {long_date(batch['runDate'])}",
        path=_path(batch),
        published=first["at"],
        updated=max([last["at"], *renames, *corrected]),
        term=term,
        journal=last,
        content=[
            *_picks_content(batch),
            *stamp,
            *_corrections_content(corrections),
            _journal_note(last),
        ],
    )


def _label_prefix(batch: Node) -> str:
    """Return the label of a batch's series and a colon; empty if the record has one series."""
    label = batch.get("label", "")
    if label:
        return f"{label}: "
    return ""


def _path(batch: Node) -> str:
    """Return the path of a batch's page."""
    return batch_url(batch.get("series", SERIES), batch["runDate"])


def _picks_content(batch: Node) -> Iterator[Element]:
    if batch["status"] == "FAILED":
        yield _element("p", batch["failure"])
        return
    for pick in batch["picks"]:
        # The model's reasoning is about the ticker that the model chose, so the heading shows that
        # ticker first.
        heading = f"{pick['action']} {pick['pickedAs']}"
        if pick["ticker"] != pick["pickedAs"]:
            heading += f" (now {pick['ticker']})"
        yield _element("h3", heading)
        yield _element("p", pick["reasoning"])
    closes = [f"{pick['pickedAs']} {price(pick['initialPrice'])}" for pick in batch["picks"]]
    closes.append(f"{batch['benchmarkSymbol']} {price(batch['benchmarkInitialPrice'])}")
    yield _element("p", f"Closes of {long_date(batch['tradingDay'])}: {join_words(closes)}.")
    if batch["late"]:
        yield _element(
            "p",
            "Late: the picks were stored after the open of the first session in which they could "
            "be traded. They are not scored.",
        )


def _result_entry(batch: Node, *, first_hash: str) -> FeedEntry:
    """
    Return the entry that says how a fortnight ended.

    A fortnight without a result may get a result later. It then keeps its entry in the feed: the id
    is made from `first_hash`, the hash of the journal entry with which the batch began.
    """
    result = batch["result"]
    ended_at = max(
        checkpoint["skippedAt"] or checkpoint["takenAt"] for checkpoint in batch["checkpoints"]
    )
    if result:
        hits = sum(pick["result"]["hit"] for pick in batch["picks"])
        outcome = f"{hits} of {len(batch['picks'])} calls right"
        term = "result"
        recorded_at = result["takenAt"]
        corrections = _corrections(batch, day=result["day"])
    else:
        outcome = term = "unresolved"
        recorded_at = ended_at
        corrections = []
    journal = _checkpoint_entry(batch, recorded_at)
    corrected = [correction["madeAt"] for correction in corrections]
    content = [
        *_result_content(batch, result),
        *_closures_content(batch),
        *_corrections_content(corrections),
    ]
    if journal:
        content.append(_journal_note(journal))
    return FeedEntry(
        id=uuid5(_IDS, f"{first_hash} result"),
        title=f"{_label_prefix(batch)}The picks of {long_date(batch['runDate'])}: {outcome}",
        path=_path(batch),
        published=ended_at,
        updated=max([ended_at, recorded_at, *corrected]),
        term=term,
        journal=journal,
        content=content,
    )


def _checkpoint_entry(batch: Node, at: str) -> Node | None:
    """Return the newest journal entry of a checkpoint with the time `at`, if there is one."""
    newest = None
    for entry in batch["journal"]:
        if entry["kind"] == "CHECKPOINT" and entry["at"] == at:
            newest = entry
    return newest


def _result_content(batch: Node, result: Node | None) -> Iterator[Element]:
    if result is None:
        yield _element(
            "p",
            "The fortnight is over, and its last session has no figures. No earlier day is used in "
            "its place.",
        )
        return
    symbol = batch["benchmarkSymbol"]
    benchmark = f"{symbol} {signed(result['benchmarkReturnPct'])} %"
    if result["benchmarkUnusualMove"]:
        benchmark += f" ({_UNUSUAL})"
    yield _element(
        "p", f"From the baseline to the close of {long_date(result['tradingDay'])}; {benchmark}:"
    )
    picks = Element(_xhtml("ul"))
    for pick in batch["picks"]:
        picks.append(_element("li", _pick_result(pick, symbol)))
    yield picks
    yield _element("p", "Without dividends and costs.")


def _closures_content(batch: Node) -> Iterator[Element]:
    """Yield what a reader is told about closed days that decide the result of a batch."""
    for sentence in batch_text.closure_sentences(batch):
        yield _element("p", sentence)


def _pick_result(pick: Node, benchmark: str) -> str:
    figures = pick["result"]
    right = "right" if figures["hit"] else "wrong"
    directional = f"{signed(figures['directionalReturnPct'])} % in the call's direction"
    points = f"{signed(figures['alphaPct'])} points in the call's favour against {benchmark}"
    line = f"{pick['action']} {ticker_label(pick)}: {right}, {directional}, {points}"
    if figures["unusualMove"]:
        line += f" ({_UNUSUAL})"
    return line


def _corrections(batch: Node, *, day: int) -> list[Node]:
    """Return the corrections of the checkpoint of a day."""
    for checkpoint in batch["checkpoints"]:
        if checkpoint["day"] == day:
            return list(checkpoint["corrections"])
    return []


def _corrections_content(corrections: Iterable[Node]) -> Iterator[Element]:
    for correction in corrections:
        figure = correction_text.figure_name(correction["field"])
        if correction["ticker"]:
            figure = f"{correction['ticker']}, {figure}"
        before, after = correction_text.before_and_after(correction)
        yield _element(
            "p", f"Corrected: {figure}, from {before} to {after}. {correction['reason']}"
        )


def _journal_note(entry: Node) -> Element:
    return _element("p", f"Recorded in journal entry {entry['seq']}:{entry['hash']}.")


def _add(parent: Element, name: str, text: str | None = None, **attributes: str) -> None:
    """Add an Atom element to `parent`."""
    element = SubElement(parent, _atom(name), attributes)
    if text is not None:
        element.text = _xml_text(text)


def _add_record(feed: Element, service: Node) -> None:
    """Add the origin and the id of the record to the feed."""
    attributes = {"origin": service["origin"]}
    if service["recordId"]:
        attributes["id"] = service["recordId"]
    SubElement(feed, f"{{{JOURNAL_NAMESPACE}}}record", attributes)


def _add_journal(parent: Element, name: str, entry: Node | None) -> None:
    """Add an element of our own, with the number and hash of a journal entry, if there is one."""
    if entry:
        element = SubElement(parent, f"{{{JOURNAL_NAMESPACE}}}{name}")
        element.text = f"{entry['seq']}:{entry['hash']}"


def _element(name: str, text: str) -> Element:
    """Return an XHTML element with a text."""
    element = Element(_xhtml(name))
    element.text = _xml_text(text)
    return element


def _xml_text(text: str) -> str:
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)


def _atom(name: str) -> str:
    return f"{{{ATOM_NAMESPACE}}}{name}"


def _xhtml(name: str) -> str:
    return f"{{{XHTML_NAMESPACE}}}{name}"
