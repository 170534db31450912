"""
What `alpha-monday verify` reads: the database of the record, or anybody's API; both give the same entries and rows.

The database is read in one snapshot. An API goes on recording meanwhile, so its journal is read first, then its rows,
then the entries that came in between: a row that differs from its mention must be what one of those says.
"""

import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Any, Generic, NamedTuple, Protocol, TypeVar
from urllib.parse import urljoin, urlsplit, urlunsplit

import httpx
import msgspec
import psycopg
from msgspec import Struct

from api.damage import ADVICE, BEGINNING
from api.damage import CODE as DAMAGED
from api.guard import TOO_LARGE
from api.paths import GRAPHQL
from app.database import pools
from app.domain import journal, model
from app.domain.calendar import Calendar
from app.domain.text import one_line, printable
from app.domain.untrusted_json import has_repeated_names
from app.domain.verification.chain import Head, Verification
from app.domain.verification.entries import TABLES
from app.domain.verification.entries import Texts as Row
from app.domain.verification.misfits import Rule, misfit
from app.domain.verification.state import State
from app.errors import BodyTooLong, ConfigurationError, ProviderUnavailable, RecordDamaged
from app.providers import bodies
from app.store import rows
from app.store.journal import head as newest
from app.store.rows import Conn

T = TypeVar("T")
Node = dict[str, Any]
RowsOf = Callable[[Node], Iterable[tuple[str, Row]]]
Sleep = Callable[[float], Awaitable[None]]
Tell = Callable[[str, int, int], None]

# How many to ask for at once: a batch has some sixty rows.
_ENTRIES, _BATCHES, _READINGS = 100, 4, 100

# A busy server is asked this often, with these seconds between where it does not say; an answer may take this long.
_BUSY = (429, 503)
_TRIES, _WAIT, _LONGEST_WAIT, _PATIENCE = 6, 5.0, 60.0, 30.0

# In bytes: more than the longest answer that a service gives (api.lengths.MOST_BYTES_OF_ONE).
LARGEST_BODY = 100_000_000

# What a server says of a page that is too large, or that takes it too long.
_TOO_LARGE = (TOO_LARGE, "OPERATION_TOO_LARGE")


class AnswerTooLargeError(ConfigurationError):
    """A server does not give an answer, because it is too large."""


class Source(Protocol):
    """Where entries and rows come from, each value a text."""

    open_mondays: bool

    async def head(self) -> Head | None:
        """Return the journal's newest entry, as the source says."""
        ...

    def entries(self, after: int) -> AsyncGenerator[Row]:
        """Give the entries after one, in their order."""
        ...

    def rows(self, known: State) -> AsyncGenerator[tuple[str, Row]]:
        """Give the rows of the record, each with its table."""
        ...


async def verify(source: Source, heads: Sequence[Head], tell: Tell, sessions: Calendar | None = None) -> Verification:
    """
    Verify a record with the exchange's `sessions`; raises Misfit.

    `tell` hears what is looked at, how many were, and how many there are.
    """
    head = await source.head()
    found = Verification([*heads, head] if head else heads, sessions)
    async for entry in source.entries(0):
        found.entry(entry)
        tell("entries", found.seq, head[0] if head else 0)
    found.end_of_chain(open_mondays=source.open_mondays)
    awaited = found.awaited
    async for table, row in source.rows(found.state):
        found.row(table, row)
        tell("rows", awaited - found.awaited, awaited)
    async for entry in source.entries(found.seq):
        found.entry(entry)
    if doubt := found.doubt():
        raise found.explained(doubt, await _content(source, doubt.seq) if doubt.seq else None)
    found.finish()
    return found


async def _content(source: Source, seq: int) -> str:
    async with aclosing(source.entries(seq - 1)) as entries:
        return (await anext(entries))["content"]


class Database:
    """The record of a database, in one transaction."""

    open_mondays = True

    def __init__(self, conn: Conn) -> None:
        self.conn = conn

    async def head(self) -> Head | None:
        """Return the last entry."""
        try:
            entry = await newest(self.conn)
        except (RecordDamaged, psycopg.DataError):
            return None  # the entries themselves tell what is wrong
        return (entry.seq, entry.hash) if entry else None

    async def entries(self, after: int) -> AsyncGenerator[Row]:
        """Give the entries after one, in their order."""
        where = "WHERE seq > %s ORDER BY seq"
        async for entry in self._every(Rule.COLUMNS, model.JournalEntry, "journal", where, after):
            yield {"batch_id": "none", **entry}

    async def rows(self, _: State) -> AsyncGenerator[tuple[str, Row]]:
        """Give the rows of every table."""
        for table, type_ in TABLES.items():
            async for row in self._every(Rule.ROW, type_, table, ""):
                yield table, row

    async def _every(
        self, rule: Rule, type_: type[Struct], table: str, where: str, *values: object
    ) -> AsyncGenerator[Row]:
        """Give the rows of a table; a misfit of `rule` tells of one that cannot be read."""
        try:
            async for row in rows.every(self.conn, type_, table, where, *values):
                yield journal.texts(row)
        except psycopg.DataError as error:
            found = await rows.impossible_time(self.conn, type_, table)
            raise misfit(rule, found or f"a row of {table} cannot be read: {one_line(error)}") from None


@asynccontextmanager
async def database(address: str) -> AsyncIterator[Database]:
    """Give the record at `address` as it stands now, whatever is recorded meanwhile."""
    async with pools.snapshot(address, "verify") as conn:
        yield Database(conn)


class Api:
    """The record that an API shows."""

    open_mondays = False  # its questions hang on their batch

    def __init__(self, client: httpx.AsyncClient, url: str, sleep: Sleep) -> None:
        self.client, self.url, self.sleep = client, url, sleep
        self.shown = shown(url)
        self._ends: dict[int, str] = {}  # the cursor after an entry, where a page ended

    async def head(self) -> Head | None:
        """Return what the service calls its newest entry."""
        return await self._read("{ service { journalHead { seq hash } } }", _head)

    async def entries(self, after: int) -> AsyncGenerator[Row]:
        """Give the entries after one, in their order."""
        seq = max((seq for seq in self._ends if seq <= after), default=0)
        start = self._ends.get(seq)
        async for page in self._pages("journal", lambda entry: [journal.texts(entry)], start, first=_ENTRIES):
            for entry in page.rows:
                seq += 1
                if seq > after:
                    yield entry
            self._ends[seq] = page.end

    async def rows(self, known: State) -> AsyncGenerator[tuple[str, Row]]:
        """Give the rows of every series' batches, and every ticker's readings, as far as the journal names them."""
        asked: list[tuple[str, RowsOf, int, str]]
        asked = [("batches", _rows_of, _BATCHES, series) for series in sorted(known.series)]
        asked += [("closes", _close, _READINGS, ticker) for ticker in sorted(known.tickers)]
        asked += [("splits", _split, _READINGS, ticker) for ticker in sorted(known.tickers)]
        for field, rows_of, first, whose in asked:
            async for page in self._pages(field, rows_of, first=first, whose=whose):
                for row in page.rows:
                    yield row
                if field == "batches" and page.more:
                    await self._refuse_second_batch(page.rows, whose)

    async def _refuse_second_batch(self, told: Sequence[tuple[str, Row]], series: str) -> None:
        """
        Ask for the last Monday of a page by its date: two batches of it are then told as damaged.

        The cursor of a page is the date of its last Monday, so that the next page begins after both.
        """
        day = [row["run_date"] for table, row in told if table == "batches"][-1]
        await self._read(_BATCH_ON, lambda data: data["batchOn"]["id"], day=day, series=series)

    async def _pages(
        self,
        field: str,
        rows_of: Callable[[Node], Iterable[T]],
        after: str | None = None,
        *,
        first: int,
        **variables: object,
    ) -> AsyncGenerator["Page[T]"]:
        more, size = True, first
        while more:
            page, size = await self._page(field, rows_of, min(2 * size, first), after=after, **variables)
            if page.rows:
                yield page
            more, before, after = page.more, after, page.end
            if more and after == before:
                raise ConfigurationError(f"{self.shown} gives one page of `{field}` again and again.")

    async def _page(
        self, field: str, rows_of: Callable[[Node], Iterable[T]], first: int, **variables: object
    ) -> tuple["Page[T]", int]:
        """Return a page of at most `first` rows, or of half as many where the answer is too large, and how many."""
        while True:
            try:
                page = await self._read(QUERIES[field], partial(_page, field, rows_of), first=first, **variables)
            except AnswerTooLargeError:
                if first == 1:
                    raise
                first //= 2
            else:
                return page, first

    async def _read(self, query: str, read: Callable[[Any], T], **variables: object) -> T:
        """Return what `read` makes of the data of an answer."""
        answer = await self._ask(query, variables)
        if answer.has_redirect_location:
            target = shown(urljoin(self.url, answer.headers["Location"]))
            raise ConfigurationError(f"{self.shown} leads to {printable(target)}: give that address.")
        try:
            if has_repeated_names(answer.text):
                # Which of the two counts is not defined: another reader of the same answer may take the other one.
                raise ConfigurationError(f"{self.shown} answers with an object that has two members of one name.")
            said = msgspec.json.decode(answer.content)
            if errors := said.get("errors"):
                raise _error_of(self.shown, errors)
            return read(said["data"])
        except (LookupError, TypeError, AttributeError, ValueError, RecursionError):
            if answer.status_code >= 500:
                raise ConfigurationError(
                    f"{self.shown} failed to answer (status {answer.status_code}). Try again later."
                ) from None
            raise ConfigurationError(
                f"{self.shown} does not answer as Alpha Monday's API does (status {answer.status_code}). "
                "Check the address: `--from` takes that of the service's first page, or of its /graphql."
            ) from None

    async def _ask(self, query: str, variables: Mapping[str, object]) -> httpx.Response:
        """Return an answer; a server that is busy is asked again when it says."""
        for left in reversed(range(_TRIES)):
            try:
                answer = await self._answer({"query": query, "variables": variables})
            except BodyTooLong as error:
                raise AnswerTooLargeError(str(error)) from None
            except ProviderUnavailable as error:
                raise ConfigurationError(str(error)) from None
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                reason = str(error).rstrip(".") or type(error).__name__
                raise ConfigurationError(f"{self.shown} cannot be reached: {reason}.") from None
            if answer.status_code not in _BUSY:
                break
            if not left:
                raise ConfigurationError(
                    f"{self.shown} is busy (status {answer.status_code}): it was asked {_TRIES} times. Try again later."
                )
            told = answer.headers.get("Retry-After", "")
            await self.sleep(min(float(told), _LONGEST_WAIT) if told.isdecimal() else _WAIT)
        return answer

    async def _answer(self, message: Mapping[str, object]) -> httpx.Response:
        """Return an answer whose body was bounded while it was read, and whose text is UTF-8 whatever it says."""
        async with self.client.stream("POST", self.url, json=message) as answer:
            parts = bodies.bounded(answer.aiter_raw(), answer.headers, LARGEST_BODY, self.shown)
            async with aclosing(parts):
                content = b"".join([part async for part in parts])
        kept = {name: answer.headers[name] for name in ("Location", "Retry-After") if name in answer.headers}
        return httpx.Response(answer.status_code, headers=kept, content=content)


@asynccontextmanager
async def api(url: str, sleep: Sleep) -> AsyncIterator[Api]:
    """Give the record that the API at `url` shows, with or without its `/graphql`."""
    url = _endpoint(url)
    try:
        client = httpx.AsyncClient(timeout=_PATIENCE)
    except (ValueError, OSError, httpx.InvalidURL) as error:  # a proxy's address, or a file of certificates
        reason = one_line(error)
        raise ConfigurationError(
            f"{shown(url)} cannot be asked: {reason}. Check HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, SSL_CERT_FILE and "
            "SSL_CERT_DIR in the environment."
        ) from None
    async with client:
        yield Api(client, url, sleep)


def _error_of(shown: str, errors: Sequence[Node]) -> Exception:
    """Return what to raise for the errors of an answer: a misfit, if they say that the record is damaged."""
    for error in errors:
        if error.get("extensions", {}).get("code") == DAMAGED:
            what = error["message"][:400].removeprefix(BEGINNING)
            for advice in (ADVICE, "Run `alpha-monday verify`"):  # what an older server says
                what, _, _ = what.partition(f". {advice}")
            return misfit(Rule.ROW, f"the API calls the record damaged: {what.rstrip('.')}.")
    said = f"{shown} refuses a query: {str(errors[0]['message'])[:200]!r}."
    if any(error.get("extensions", {}).get("code") in _TOO_LARGE for error in errors):
        return AnswerTooLargeError(said)
    return ConfigurationError(said)


def _endpoint(text: str) -> str:
    """Return the address of the API at an address that a person wrote; refuse one that cannot be asked."""
    url = text.strip()
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, or an open bracket
        fits = False
    if not fits or re.search(r"\s", url) or not url.isprintable():
        raise ConfigurationError(
            f"--from takes the http or https address of a service, not {_named(url)}; for example "
            "--from https://alpha-monday.example or --from http://127.0.0.1:8080"
        )
    if parts.query or parts.fragment:
        raise ConfigurationError("--from takes the address of a service without ? and #, and what follows them.")
    url = url.rstrip("/#?")
    return url if url.endswith(GRAPHQL) else f"{url}{GRAPHQL}"


def _named(text: str) -> str:
    """Return a text as a message may quote it: short, printable, without a password."""
    hidden = re.sub(r"[^/@]*@", "", text)
    return repr(printable(hidden)[:60])


def shown(url: str) -> str:
    """Return an address without its user and password."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


class Page(NamedTuple, Generic[T]):
    """What a page holds, the cursor of its end, and whether more follows."""

    rows: list[T]
    end: str
    more: bool


def _page(field: str, rows_of: Callable[[Node], Iterable[T]], data: Node) -> Page[T]:
    page, info = data[field], data[field]["pageInfo"]
    return Page([row for node in page["nodes"] for row in rows_of(node)], info["endCursor"], info["hasNextPage"])


def _head(data: Node) -> Head | None:
    head = data["service"]["journalHead"]
    return (int(head["seq"]), str(head["hash"])) if head else None


def _rows_of(batch: Node) -> Iterable[tuple[str, Row]]:
    """Yield a batch and every row that hangs on it."""
    yield _row("batches", batch)
    whose = {"batch_id": batch["id"]}
    for question in batch["generations"]:
        yield _row("generations", question, series=batch["series"], run_date=batch["runDate"])
    for pick in batch["picks"]:
        yield _row("picks", pick, **whose)
    for checkpoint in batch["checkpoints"]:
        yield _row("checkpoints", checkpoint, **whose)
        for table, field in (("pick_checkpoint_metrics", "metrics"), ("corrections", "corrections")):
            for node in checkpoint[field]:
                yield _row(table, node, checkpoint_id=checkpoint["id"])


def _close(node: Node) -> Iterable[tuple[str, Row]]:
    return [_row("closes", node)]


def _split(node: Node) -> Iterable[tuple[str, Row]]:
    return [_row("splits", node)]


def _row(table: str, node: Node, **whose: str) -> tuple[str, Row]:
    """Return the row that an answer's object shows; `whose` are the columns that hang on where it stood."""
    row: dict[str, object] = dict(whose)
    for column in TABLES[table].__struct_fields__:
        if column not in whose:
            value = node[_name(column)]
            row[column] = value["id"] if value and column in _LINKS else value
    if "status" in row:
        row["status"] = str(row["status"]).lower()  # enums' names are in capitals, the record's words are not
    return table, journal.texts(row)


# The columns that an API shows as another object with an id.
_LINKS = {
    "pick_id",
    "close_id",
    "initial_close_id",
    "entry_close_id",
    "benchmark_close_id",
    "benchmark_initial_close_id",
}


def _name(column: str) -> str:
    """Return the name of a column's field in the API."""
    first, *others = column.removesuffix("_id" if column in _LINKS else "").split("_")
    return first + "".join(map(str.capitalize, others))


def _fields(table: str, *less: str) -> str:
    columns = [column for column in TABLES[table].__struct_fields__ if column not in less]
    return " ".join(f"{_name(column)} {{ id }}" if column in _LINKS else _name(column) for column in columns)


def _query(field: str, fields: str, whose: str = "") -> str:
    """Return the query for a page of a list; `whose` is the argument that chooses among several."""
    declared, given = (", $whose: String!", f", {whose}: $whose") if whose else ("", "")
    page = f"nodes {{ {fields} }} pageInfo {{ hasNextPage endCursor }}"
    asked = f"{field}(first: $first, after: $after{given}) {{ {page} }}"
    return f"query($first: Int!, $after: String{declared}) {{ {asked} }}"


_CHECKPOINT = (
    f"{_fields('checkpoints', 'batch_id')} metrics {{ {_fields('pick_checkpoint_metrics', 'checkpoint_id')} }} "
    f"corrections {{ {_fields('corrections', 'checkpoint_id')} }}"
)
_BATCH = (
    f"{_fields('batches')} generations {{ {_fields('generations', 'series', 'run_date')} }} "
    f"picks {{ {_fields('picks', 'batch_id')} }} checkpoints {{ {_CHECKPOINT} }}"
)
_BATCH_ON = "query($day: Date!, $series: String!) { batchOn(runDate: $day, series: $series) { id } }"
QUERIES = {
    "journal": _query("journal", "seq kind at content previous hash"),
    "batches": _query("batches", _BATCH, "series"),
    "closes": _query("closes", _fields("closes"), "ticker"),
    "splits": _query("splits", _fields("splits"), "ticker"),
}
