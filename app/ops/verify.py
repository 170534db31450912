"""
The two sources that `alpha-monday verify` can read: a database and an API.

Both give the same entries and rows, in the form of the journal.

The database is read in one snapshot. While an API is read, its service continues to record, so a
row may change after the journal was read. Therefore the journal is read first, then the rows, and
then the entries that were added in the meantime. If a row differs from its last mention in the
entries that were read first, it must be equal to a mention in one of the added entries.
"""

import re
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import aclosing, asynccontextmanager
from datetime import datetime
from functools import partial
from typing import Any, Generic, NamedTuple, Protocol, TypeVar
from urllib.parse import urljoin, urlsplit
from uuid import UUID

import httpx
import msgspec
import psycopg
from msgspec import Struct

from api.damage import DAMAGE_ADVICE, DAMAGE_PREFIX, DAMAGED_CODE
from api.guard import TOO_LARGE
from api.paths import GRAPHQL
from app.database import pools
from app.domain import journal
from app.domain.calendar import Calendar
from app.domain.prompt import VERSION_1
from app.domain.text import escape_unprintable, one_line, public_address
from app.domain.untrusted_json import has_repeated_names
from app.domain.verification.chain import Head, Verification
from app.domain.verification.discrepancies import Rule, discrepancy
from app.domain.verification.entries import NO_BATCH, TABLES, TextRow
from app.domain.verification.state import LEFT_OUT, JournalState
from app.errors import (
    BodyTooLong,
    ConfigurationError,
    Discrepancy,
    ProviderUnavailable,
    RecordDamaged,
)
from app.providers import bodies
from app.store import rows
from app.store.journal import head as newest_head
from app.store.rehearsed import has_clock
from app.store.rows import Conn

T = TypeVar("T")
Node = dict[str, Any]
TableRow = tuple[str, TextRow]
Sleep = Callable[[float], Awaitable[None]]

# Called with what is counted, how many are done, and how many there are.
ReportProgress = Callable[[str, int, int], None]

# The page sizes of the queries. A batch has about sixty rows.
_ENTRIES_PER_PAGE = 100
_BATCHES_PER_PAGE = 4
_READINGS_PER_PAGE = 100

# A request that a busy server refuses is repeated, up to `_ATTEMPTS` attempts. Before each
# repetition there is a wait, in seconds: the server's Retry-After, but at most `_MAX_WAIT`. Without
# a Retry-After, the wait is `_DEFAULT_WAIT`.
_BUSY_STATUSES = (429, 503)
_ATTEMPTS = 6
_DEFAULT_WAIT = 5.0
_MAX_WAIT = 60.0

# How long a request may wait for a part of its response, in seconds.
_TIMEOUT = 30.0

# In bytes: more than the longest answer that a service gives (api.lengths.MAX_LONG_RESULT_BYTES).
LARGEST_BODY = 100_000_000

# The error codes for a page that is too large, and for a page whose query takes too long.
_TOO_LARGE_CODES = (TOO_LARGE, "OPERATION_TOO_LARGE")

# The error code for a query with a field that the server does not know.
_UNKNOWN_FIELD_CODE = "GRAPHQL_VALIDATION_FAILED"

# The advice that older servers give about a damaged record, instead of DAMAGE_ADVICE.
_OLDER_DAMAGE_ADVICE = ("Its operator finds the first misfit", "Run `alpha-monday verify`")


class AnswerTooLargeError(ConfigurationError):
    """An answer is too large: the server refuses the query, or sends more than LARGEST_BODY."""


class RecordSource(Protocol):
    """
    A source of entries and rows, with every value as a text.

    `open_mondays` is true if the source shows the questions of a Monday that has no batch yet.
    """

    open_mondays: bool

    async def is_rehearsal(self) -> bool:
        """Return whether the source shows that it is the database of a rehearsal."""
        ...

    async def head(self) -> Head | None:
        """Return the number and the hash of the newest entry, None for an empty journal."""
        ...

    def entries(self, after: int) -> AsyncGenerator[TextRow]:
        """Yield the entries after the number `after`, in their order."""
        ...

    def rows(self, state: JournalState) -> AsyncGenerator[TableRow]:
        """
        Yield the rows of the record, each with its table.

        `state` has the series and the tickers that the journal mentions.
        """
        ...


async def verify(
    source: RecordSource,
    heads: Sequence[Head],
    report_progress: ReportProgress,
    sessions: Calendar | None = None,
) -> Verification:
    """
    Verify a record with the exchange's `sessions`, and return the finished verification.

    `heads` are copies of the journal's head that the chain must contain. Raises Discrepancy for the
    first discrepancy that is found, and ConfigurationError if an API cannot be read.
    """
    head = await source.head()
    verification = Verification([*heads, head] if head else heads, sessions)
    try:
        await _verify(source, verification, head=head, report_progress=report_progress)
    except Discrepancy as error:
        if not verification.links:
            raise
        # The version that wrote such entries may also follow other rules in entries of known kinds.
        raise Discrepancy(
            f"{error} The journal also has entries of kinds that this version does not know, so "
            "this version may not know all rules of this record: verify it with a newer version."
        ) from None
    return verification


async def _verify(
    source: RecordSource,
    verification: Verification,
    *,
    head: Head | None,
    report_progress: ReportProgress,
) -> None:
    """Add the whole record to a new verification. Raises Discrepancy and ConfigurationError."""
    async for entry in source.entries(0):
        verification.add_entry(entry)
        report_progress("entries", verification.seq, head[0] if head else 0)
    verification.end_chain(open_mondays=source.open_mondays)
    if await source.is_rehearsal():
        verification.check_rehearsal()
    row_count = verification.unread_rows
    async for table, row in source.rows(verification.state):
        verification.add_row(table, row)
        report_progress("rows", row_count - verification.unread_rows, row_count)
    # The entries that the service of an API has recorded in the meantime.
    async for entry in source.entries(verification.seq):
        verification.add_entry(entry)
    mismatch = verification.first_mismatch()
    if mismatch:
        content = None
        if mismatch.seq:
            content = await _content_of_entry(source, mismatch.seq)
        raise verification.explain_mismatch(mismatch, content)
    verification.check_whole_record()


async def _content_of_entry(source: RecordSource, seq: int) -> str:
    async with aclosing(source.entries(seq - 1)) as entries:
        entry = await anext(entries)
    return entry["content"]


# The record of a database


class _EntryRow(Struct, frozen=True):
    """
    A row of the journal.

    `kind` is any text, because a later version may have written kinds that this version does not
    know.
    """

    seq: int
    kind: str
    at: datetime
    content: str
    previous: str
    hash: str
    batch_id: UUID | None


class DatabaseRecord:
    """The record of a database, read in one transaction."""

    open_mondays = True

    def __init__(self, conn: Conn) -> None:
        self.conn = conn

    async def is_rehearsal(self) -> bool:
        """Return whether the database has the clock of a rehearsal."""
        return await has_clock(self.conn)

    async def head(self) -> Head | None:
        """Return the number and the hash of the journal's newest entry."""
        try:
            entry = await newest_head(self.conn)
        except (RecordDamaged, psycopg.DataError):
            # The same error is found again when the entries are read, and is then explained.
            return None
        if entry is None:
            return None
        return entry.seq, entry.hash

    async def entries(self, after: int) -> AsyncGenerator[TextRow]:
        """Yield the entries after the number `after`, in their order."""
        where = "WHERE seq > %s ORDER BY seq"
        entries = self._stream(Rule.COLUMNS, _EntryRow, "journal", where=where, values=[after])
        async for entry in entries:
            # `entry` lacks the columns that are null. An API does not show the column `batch_id`.
            # So an entry without `batch_id` would look like an entry of an API, and the column
            # would not be checked. Therefore a text takes the place of a null.
            yield {"batch_id": NO_BATCH, **entry}

    async def rows(self, _: JournalState) -> AsyncGenerator[TableRow]:
        """Yield the rows of every table."""
        for table, type_ in TABLES.items():
            async for row in self._stream(Rule.ROW, type_, table):
                yield table, row

    async def _stream(
        self,
        rule: Rule,
        type_: type[Struct],
        table: str,
        *,
        where: str = "",
        values: Sequence[object] = (),
    ) -> AsyncGenerator[TextRow]:
        """Yield the rows of a table. Raise a Discrepancy of `rule` for an unreadable row."""
        try:
            async for row in rows.stream_rows(
                self.conn, type_, table=table, where=where, values=values
            ):
                yield journal.to_texts(row)
        except psycopg.DataError as error:
            unreadable_time = await rows.find_unreadable_time(self.conn, type_, table)
            reason = unreadable_time or f"a row of {table} cannot be read: {one_line(error)}"
            raise discrepancy(rule, reason) from None


@asynccontextmanager
async def open_database(address: str) -> AsyncIterator[DatabaseRecord]:
    """Open the record of the database at `address`, as of now, in one snapshot."""
    async with pools.snapshot(address, "verify") as conn:
        yield DatabaseRecord(conn)


# The record of an API


class ApiRecord:
    """The record that an API shows; its rows are read page by page."""

    # The API shows questions only as part of their batch.
    open_mondays = False

    def __init__(self, client: httpx.AsyncClient, url: str, sleep: Sleep) -> None:
        self.client = client
        self.url = url
        self.sleep = sleep
        self.display_url = public_address(url)
        # The cursor of each page that was read, by the number of the page's last entry. To read the
        # entries after a number n, the cursor with the greatest number up to n is used.
        self._cursors: dict[int, str] = {}

    async def is_rehearsal(self) -> bool:
        """Return False: the API says of the origin only what the journal says."""
        return False

    async def head(self) -> Head | None:
        """Return the number and the hash of the entry that the service calls its newest."""
        return await self.query("{ service { journalHead { seq hash } } }", _to_head)

    async def entries(self, after: int) -> AsyncGenerator[TextRow]:
        """Yield the entries after the number `after`, in their order."""
        seq = max((seq for seq in self._cursors if seq <= after), default=0)
        pages = self._pages(
            "journal",
            _entry_texts,
            after=self._cursors.get(seq),
            first=_ENTRIES_PER_PAGE,
        )
        async for page in pages:
            for entry in page.rows:
                seq += 1
                if seq > after:
                    yield entry
            self._cursors[seq] = page.end

    async def rows(self, state: JournalState) -> AsyncGenerator[TableRow]:
        """Yield the rows of every series and ticker that the journal mentions."""
        query = _batches_query(state)
        for series in sorted(state.series):
            pages = self._pages(
                "batches", _batch_rows, query=query, first=_BATCHES_PER_PAGE, parent=series
            )
            async for page in pages:
                for row in page.rows:
                    yield row
                if page.has_more:
                    await self._refuse_second_batch(page.rows, series)
        for field, to_rows in (("closes", _close_rows), ("splits", _split_rows)):
            for ticker in sorted(state.tickers):
                pages = self._pages(field, to_rows, first=_READINGS_PER_PAGE, parent=ticker)
                async for page in pages:
                    for row in page.rows:
                        yield row

        # An API of an earlier version has no dividends and no rates, and its journal mentions none.
        for ticker in sorted(state.dividend_responses):
            pages = self._pages(
                "dividends", _dividend_rows, first=_READINGS_PER_PAGE, parent=ticker
            )
            async for page in pages:
                for row in page.rows:
                    yield row
        if state.rates:
            async for page in self._pages("rates", _rate_rows, first=_READINGS_PER_PAGE):
                for row in page.rows:
                    yield row

    async def _refuse_second_batch(self, page: Sequence[TableRow], series: str) -> None:
        """
        Raise Discrepancy if the last Monday of a page has two batches.

        The cursor of a page is the date of its last Monday. So if a Monday had two batches, and one
        of them were the last of a page, the next page would skip the other. A query for the date
        finds both, and the API reports them as damaged.
        """
        run_dates = [row["run_date"] for table, row in page if table == "batches"]
        await self.query(
            _BATCH_ON, lambda data: data["batchOn"]["id"], day=run_dates[-1], series=series
        )

    async def _pages(
        self,
        field: str,
        to_rows: Callable[[Node], Iterable[T]],
        after: str | None = None,
        *,
        first: int,
        query: str = "",
        **variables: object,
    ) -> AsyncGenerator["_ResultPage[T]"]:
        """
        Yield the pages of a list with at most `first` nodes each, beginning after a cursor.

        `query` takes the place of the list's query in `QUERIES`.
        """
        has_more, size = True, first
        while has_more:
            # If a page was requested with fewer than `first` nodes, the next page may have twice as
            # many.
            page, size = await self._page(
                query or QUERIES[field],
                partial(_to_page, field, to_rows),
                min(2 * size, first),
                after=after,
                **variables,
            )
            if page.rows:
                yield page
            has_more = page.has_more
            if has_more and page.end == after:
                raise ConfigurationError(
                    f"{self.display_url} returns the same page of `{field}` again and again."
                )
            after = page.end

    async def _page(
        self,
        query: str,
        convert: Callable[[Any], "_ResultPage[T]"],
        first: int,
        **variables: object,
    ) -> tuple["_ResultPage[T]", int]:
        """
        Return a page, and the number of nodes that was requested.

        The number begins at `first`, and is halved as long as the answer is too large. Raises
        AnswerTooLargeError if a single node is too large.
        """
        while True:
            try:
                page = await self.query(query, convert, first=first, **variables)
            except AnswerTooLargeError:
                if first == 1:
                    raise
                first //= 2
            else:
                return page, first

    async def query(self, query: str, convert: Callable[[Any], T], **variables: object) -> T:
        """
        Send a query, and return its data after `convert` was applied to it.

        Raises Discrepancy if the API calls the record damaged, and ConfigurationError if the server
        is not a usable API of this service.
        """
        response = await self._request(query, variables)
        if response.has_redirect_location:
            target = public_address(urljoin(self.url, response.headers["Location"]))
            raise ConfigurationError(
                f"{self.display_url} redirects to {escape_unprintable(target)}: use that address."
            )
        try:
            if has_repeated_names(response.text):
                # JSON does not define which of two members with the same name counts: another
                # reader of the response may use a different one than this program.
                raise ConfigurationError(
                    f"{self.display_url} answers with an object that has two members of one name."
                )
            result = msgspec.json.decode(response.content)
            if errors := result.get("errors"):
                raise _to_exception(self.display_url, errors)
            return convert(result["data"])
        except (LookupError, TypeError, AttributeError, ValueError, RecursionError):
            raise self._unusable_response(response) from None

    def _unusable_response(self, response: httpx.Response) -> ConfigurationError:
        if response.status_code >= 500:
            return ConfigurationError(
                f"{self.display_url} failed to answer (status {response.status_code}). "
                "Try again later."
            )
        return ConfigurationError(
            f"{self.display_url} does not answer as Alpha Monday's API does (status "
            f"{response.status_code}). Check the address: `--from` takes the address of the "
            "service's first page, or of its /graphql."
        )

    async def _request(self, query: str, variables: Mapping[str, object]) -> httpx.Response:
        """Return a response. If the server is busy, the request is repeated after a wait."""
        message = {"query": query, "variables": variables}
        for attempt in range(1, _ATTEMPTS + 1):
            response = await self._send(message)
            if response.status_code not in _BUSY_STATUSES:
                return response
            if attempt < _ATTEMPTS:
                await self.sleep(_wait_before_retry(response))
        raise ConfigurationError(
            f"{self.display_url} is busy (status {response.status_code}): it refused {_ATTEMPTS} "
            "requests. Try again later."
        )

    async def _send(self, message: Mapping[str, object]) -> httpx.Response:
        """Send a request and return its response; raise ConfigurationError if there is none."""
        try:
            return await self._read_response(message)
        except BodyTooLong as error:
            raise AnswerTooLargeError(str(error)) from None
        except ProviderUnavailable as error:
            raise ConfigurationError(str(error)) from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            reason = str(error).rstrip(".") or type(error).__name__
            raise ConfigurationError(f"{self.display_url} cannot be reached: {reason}.") from None

    async def _read_response(self, message: Mapping[str, object]) -> httpx.Response:
        """
        Send a request, and return its response with a body of limited length.

        The returned response has only two of the headers, and no Content-Type. So its text is
        decoded as UTF-8, even if the server names another encoding: JSON is always UTF-8.
        """
        async with self.client.stream("POST", self.url, json=message) as response:
            parts = bodies.bounded_parts(
                response.aiter_raw(),
                response.headers,
                max_bytes=LARGEST_BODY,
                sender=self.display_url,
            )
            async with aclosing(parts):
                content = b"".join([part async for part in parts])
        # The headers are copied as bytes. A response may have characters outside ASCII in a header,
        # and httpx refuses such a header if it is passed as a str.
        headers = [
            (name, value)
            for name, value in response.headers.raw
            if name.lower() in (b"location", b"retry-after")
        ]
        return httpx.Response(response.status_code, headers=headers, content=content)


def _wait_before_retry(response: httpx.Response) -> float:
    """Return how long to wait before a refused request is repeated, in seconds."""
    retry_after = response.headers.get("Retry-After", "")
    # Python also reads the digits of other scripts; HTTP has only those of ASCII.
    if not retry_after.isascii() or not retry_after.isdecimal():
        return _DEFAULT_WAIT
    return min(float(retry_after), _MAX_WAIT)


@asynccontextmanager
async def open_api(url: str, sleep: Sleep) -> AsyncIterator[ApiRecord]:
    """Open the record that the API at `url` shows; the address may lack its `/graphql`."""
    url = _parse_address(url)
    try:
        client = httpx.AsyncClient(timeout=_TIMEOUT)
    except (ValueError, OSError, httpx.InvalidURL) as error:
        # The address of a proxy, or a file of certificates, is wrong.
        raise ConfigurationError(
            f"{public_address(url)} cannot be requested: {one_line(error)}. Check HTTP_PROXY, "
            "HTTPS_PROXY, ALL_PROXY, SSL_CERT_FILE and SSL_CERT_DIR in the environment."
        ) from None
    async with client:
        yield ApiRecord(client, url, sleep)


def _to_exception(display_url: str, errors: Sequence[Node]) -> Exception:
    """Return the exception for an answer's errors: a Discrepancy if the record is damaged."""
    for error in errors:
        if _error_code(error) == DAMAGED_CODE:
            damage = error["message"][:400].removeprefix(DAMAGE_PREFIX)
            for advice in (DAMAGE_ADVICE, *_OLDER_DAMAGE_ADVICE):
                damage, _, _ = damage.partition(f". {advice}")
            return discrepancy(Rule.ROW, f"the API calls the record damaged: {damage.rstrip('.')}.")
    message = f"{display_url} refuses a query: {str(errors[0]['message'])[:200]!r}."
    if any(_error_code(error) in _TOO_LARGE_CODES for error in errors):
        return AnswerTooLargeError(message)
    if any(_error_code(error) == _UNKNOWN_FIELD_CODE for error in errors):
        # A server that was rolled back after the seal.
        message += (
            " The server is of another version than this command. A record must be served by the "
            "newest version that wrote to it, or by a newer one."
        )
    return ConfigurationError(message)


def _error_code(error: Node) -> object:
    return error.get("extensions", {}).get("code")


def _parse_address(text: str) -> str:
    """Return the address of an API's /graphql; raise ConfigurationError if it is unusable."""
    url = text.strip()
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        # The port is not a number, or a bracket is not closed.
        is_usable = False
    if not is_usable or re.search(r"\s", url) or not url.isprintable():
        raise ConfigurationError(
            f"--from takes the http or https address of a service, not {_quote_address(url)}; for "
            "example --from https://alpha-monday.example or --from http://127.0.0.1:8080"
        )
    if parts.query or parts.fragment:
        raise ConfigurationError(
            "--from takes the address of a service, without ? and # and the text after them."
        )
    url = url.rstrip("/#?")
    if url.endswith(GRAPHQL):
        return url
    return f"{url}{GRAPHQL}"


def _quote_address(text: str) -> str:
    """Return a text for a message: short, printable, without a password."""
    without_user = re.sub(r"[^/@]*@", "", text)
    return repr(escape_unprintable(without_user)[:60])


# How an API's answers become rows


class _ResultPage(NamedTuple, Generic[T]):
    """The rows of a page, the cursor of its end, and whether another page follows."""

    rows: list[T]
    end: str
    has_more: bool


def _to_page(field: str, to_rows: Callable[[Node], Iterable[T]], data: Node) -> _ResultPage[T]:
    page = data[field]
    page_rows: list[T] = []
    for node in page["nodes"]:
        page_rows.extend(to_rows(node))
    page_info = page["pageInfo"]
    return _ResultPage(page_rows, page_info["endCursor"], page_info["hasNextPage"])


def _to_head(data: Node) -> Head | None:
    head = data["service"]["journalHead"]
    if not head:
        return None
    return int(head["seq"]), str(head["hash"])


def _entry_texts(entry: Node) -> Iterable[TextRow]:
    return [journal.to_texts(entry)]


def _batch_rows(batch: Node) -> Iterable[TableRow]:
    """Yield a batch and every row that belongs to it."""
    yield _to_row("batches", batch)
    for question in batch["generations"]:
        yield _to_row("generations", question, series=batch["series"], run_date=batch["runDate"])
    for pick in batch["picks"]:
        yield _to_row("picks", pick, batch_id=batch["id"])
    for checkpoint in batch["checkpoints"]:
        yield _to_row("checkpoints", checkpoint, batch_id=batch["id"])
        for metric in checkpoint["metrics"]:
            yield _to_row("pick_checkpoint_metrics", metric, checkpoint_id=checkpoint["id"])
        for correction in checkpoint["corrections"]:
            yield _to_row("corrections", correction, checkpoint_id=checkpoint["id"])
    # An API of an earlier version has no further benchmarks, and is not asked for them.
    for further in batch.get("furtherBenchmarks", ()):
        yield _to_row("further_benchmarks", further, batch_id=batch["id"])


def _close_rows(node: Node) -> Iterable[TableRow]:
    return [_to_row("closes", node)]


def _split_rows(node: Node) -> Iterable[TableRow]:
    return [_to_row("splits", node)]


def _dividend_rows(node: Node) -> Iterable[TableRow]:
    return [_to_row("dividends", node)]


def _rate_rows(node: Node) -> Iterable[TableRow]:
    return [_to_row("rates", node)]


def _to_row(table: str, node: Node, **parent_columns: str) -> TableRow:
    """
    Return the row that an object of an answer shows, with its table.

    `parent_columns` are the columns that the object does not have, because they follow from the
    object that contains it.
    """
    row: dict[str, object] = dict(parent_columns)
    for column in TABLES[table].__struct_fields__:
        name = _field_name(column)
        if column in parent_columns or (column in _LATER_COLUMNS and name not in node):
            continue
        value = node[name]
        row[column] = value["id"] if value and column in _LINKS else value
    if "status" in row:
        # The API writes a status in capitals, and the record writes it in lower case.
        row["status"] = str(row["status"]).lower()
    return table, journal.to_texts(row)


# The columns that an API of an earlier version does not know: those of a sealed record, those that
# came with version 2 of the prompt, and those of total returns.
_SEALED_COLUMNS = frozenset({"profile_sha256"})
_PROMPT_2_COLUMNS = frozenset(
    {
        "finish_reason",
        "probability",
        "reasoning_effort",
        "reasoning_tokens",
        "system_fingerprint",
    }
)
_TOTAL_COLUMNS = frozenset({*LEFT_OUT["checkpoints"], *LEFT_OUT["pick_checkpoint_metrics"]})
_LATER_COLUMNS = _SEALED_COLUMNS | _PROMPT_2_COLUMNS | _TOTAL_COLUMNS

# The columns that the API shows as another object with an id.
_LINKS = {
    "pick_id",
    "close_id",
    "initial_close_id",
    "entry_close_id",
    "benchmark_close_id",
    "benchmark_initial_close_id",
    "further_close_id",
    "further_initial_close_id",
}

# The columns whose name the API writes without this beginning: their type has the word already.
_FURTHER = "further_"


def _field_name(column: str) -> str:
    """Return the name of a column's field in the API, for example `close` for close_id."""
    name = column
    if column in _LINKS:
        name = column.removesuffix("_id")
    name = name.removeprefix(_FURTHER)
    first, *others = name.split("_")
    return first + "".join(map(str.capitalize, others))


# The queries


def _fields(table: str, left_out: Collection[str] = ()) -> str:
    """Return a selection of all columns of a table, except the columns `left_out`."""
    fields = []
    for column in TABLES[table].__struct_fields__:
        if column in left_out:
            continue
        name = _field_name(column)
        fields.append(f"{name} {{ id }}" if column in _LINKS else name)
    return " ".join(fields)


def _list_query(field: str, fields: str, parent: str = "") -> str:
    """
    Return the query for a page of a list.

    `parent` is the name of the argument that chooses a series or a ticker.
    """
    declaration = argument = ""
    if parent:
        declaration = ", $parent: String!"
        argument = f", {parent}: $parent"
    page = f"nodes {{ {fields} }} pageInfo {{ hasNextPage endCursor }}"
    selection = f"{field}(first: $first, after: $after{argument}) {{ {page} }}"
    return f"query($first: Int!, $after: String{declaration}) {{ {selection} }}"


def _batches_query(state: JournalState) -> str:
    """
    Return the query for the batches of the record that the journal describes.

    It leaves out the columns and the rows that the record cannot have, because an API of an earlier
    version does not know them.
    """
    left_out = set[str]()
    if state.genesis is None:
        left_out |= _SEALED_COLUMNS
    versions = {question.prompt_version for question in state.questions.values()}
    if versions <= {VERSION_1.version}:
        left_out |= _PROMPT_2_COLUMNS
    if not state.dividend_responses:
        left_out |= _TOTAL_COLUMNS
    questions = _fields("generations", {"series", "run_date", *left_out})
    picks = _fields("picks", {"batch_id", *left_out})
    checkpoint = (
        f"{_fields('checkpoints', {'batch_id', *left_out})} "
        f"metrics {{ {_fields('pick_checkpoint_metrics', {'checkpoint_id', *left_out})} }} "
        f"corrections {{ {_fields('corrections', {'checkpoint_id'})} }}"
    )
    fields = (
        f"{_fields('batches')} generations {{ {questions} }} picks {{ {picks} }} "
        f"checkpoints {{ {checkpoint} }}"
    )
    if state.further_benchmarks:
        further = _fields("further_benchmarks", {"batch_id"})
        fields += f" furtherBenchmarks {{ {further} }}"
    return _list_query("batches", fields, parent="series")


_BATCH_ON = (
    "query($day: Date!, $series: String!) { batchOn(runDate: $day, series: $series) { id } }"
)
QUERIES = {
    "journal": _list_query("journal", "seq kind at content previous hash"),
    "closes": _list_query("closes", _fields("closes"), parent="ticker"),
    "splits": _list_query("splits", _fields("splits"), parent="ticker"),
    "dividends": _list_query("dividends", _fields("dividends"), parent="ticker"),
    "rates": _list_query("rates", _fields("rates")),
}
