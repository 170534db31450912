"""
Limits the bytes of a response, inside the statement that writes the response.

libpq reads a whole row into memory before Python can count its bytes. So Postgres counts them, and
does not send a row that is too long. Two checks before this count bound the work of Postgres:

- Before the statement is run, `api.limits` estimates how many bytes all texts of the response can
  have together.
- `row_bytes_check` aborts the statement at the first row whose long texts are together too long,
  before the texts are written: fifty aliases of one long text would take a gigabyte of Postgres's
  memory. The check reads the lengths, not the texts.
"""

from collections.abc import Mapping, Sequence

from graphql import GraphQLError
from psycopg.errors import DivisionByZero, InternalError_, ProgramLimitExceeded

from api.lengths import MAX_SOURCE_BYTES

# Parts of Postgres's messages about a text of over a gigabyte. The class of such an error is not
# enough to recognise it, because other errors have the same class.
_OVER_A_GIGABYTE = ("string buffer", "invalid memory alloc request size")

# The code of a response that is refused for its size.
TOO_LARGE = "ANSWER_TOO_LARGE"


class TooLargeError(GraphQLError):
    """A response, or the rows from which it is computed, has more bytes than allowed."""


def is_too_long(error: Exception) -> bool:
    """
    Return whether a statement failed because of the length of its texts.

    Either `row_bytes_check` aborted it, or a text had more than a gigabyte.
    """
    if isinstance(error, DivisionByZero):
        return True
    is_limit = isinstance(error, ProgramLimitExceeded | InternalError_)
    return is_limit and any(text in str(error) for text in _OVER_A_GIGABYTE)


def row_bytes_check(columns: Mapping[str, int], max_bytes: int) -> str:
    """
    Return a SQL expression that aborts the statement if a row's long texts are too long.

    Otherwise the expression is null. `columns` has, for each column, how often it is selected.
    `octet_length` does not read a text that Postgres stores apart from its row. The expression
    divides by zero, because SQL has no function that raises an error. No other expression of the
    API divides, so `is_too_long` recognises the error.
    """
    if len(columns) == 1:
        # One column is the usual case. Postgres computes the expression for many rows, and without
        # a sum the expression costs only half as much as with one.
        ((column, times),) = columns.items()
        length = f"octet_length({column})"
        return f"CASE WHEN {length} > {max_bytes // times} THEN (1 / (0 * {length}))::text END"
    total = " + ".join(
        f"{times} * coalesce(octet_length({column}), 0)::bigint"
        for column, times in columns.items()
    )
    return f"CASE WHEN {total} > {max_bytes} THEN (1 / (0 * ({total})))::text END"


def limit_result_bytes(columns: Sequence[str], are_computed: Sequence[bool], max_bytes: int) -> str:
    """
    Return a statement that selects one row of `columns`, or no row if the row is too long.

    `are_computed` says for each column whether it contains the rows of a computed field. Such
    columns together may have MAX_SOURCE_BYTES, and all other columns together `max_bytes`.

    Because of OFFSET 0, Postgres evaluates each column only once: it can neither merge the two
    levels of the statement nor move the condition to the inner one.
    """
    returned: list[str] = []
    computed: list[str] = []
    for number, is_computed in enumerate(are_computed, 1):
        group = computed if is_computed else returned
        group.append(f"c{number}")
    conditions = [_at_most(returned, max_bytes), _at_most(computed, MAX_SOURCE_BYTES)]
    condition = " AND ".join(filter(None, conditions))
    named = ", ".join(f"{column} AS c{number}" for number, column in enumerate(columns, 1))
    names = ", ".join(f"c{number}" for number in range(1, len(columns) + 1))
    return f"SELECT {names} FROM (SELECT {named} OFFSET 0) answer WHERE {condition}"  # noqa: S608


def _at_most(names: Sequence[str], max_bytes: int) -> str:
    if not names:
        return ""
    total = " + ".join(f"coalesce(octet_length({name}), 0)::bigint" for name in names)
    return f"{total} <= {max_bytes}"


def too_large(
    max_bytes: int, *, has_returned_columns: bool, has_computed_columns: bool
) -> TooLargeError:
    """
    Return the error for a statement whose columns are too long.

    If the statement has returned and computed columns, the message names both limits, because the
    statement does not say which one was exceeded.
    """
    response_message = (
        f"The response has more bytes than allowed; the limit is {max_bytes:,}. "
        "Ask for fewer rows (a smaller `first`), or select each long text only once."
    )
    rows_message = (
        "The rows from which a track record is computed have more bytes than allowed; the limit is "
        f"{MAX_SOURCE_BYTES:,}. Ask for a part of the Mondays (`from`, `to`), or for fewer track "
        "records."
    )
    if not has_computed_columns:
        return _error(response_message, max_bytes)
    if not has_returned_columns:
        return _error(rows_message, MAX_SOURCE_BYTES)
    return _error(f"{response_message} Or: {rows_message}", max_bytes)


def _error(message: str, limit: int) -> TooLargeError:
    return TooLargeError(message, extensions={"code": TOO_LARGE, "limit": limit})
