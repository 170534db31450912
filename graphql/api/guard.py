"""
The limit on the bytes of an answer, inside the statement that makes it.

libpq holds a row as a whole before Python can count its bytes, so Postgres counts them, and sends no row that is too
long. Two checks bound what it does before that:

- `row_check` stops the statement at the first row whose long texts are too long, before they are written: fifty
  aliases of one long text would take a gigabyte of Postgres's memory. It reads lengths, not the texts themselves.
- What all texts together can be is measured before the statement is run (`api.limits`).
"""

from collections.abc import Mapping, Sequence

from graphql import GraphQLError
from psycopg.errors import DivisionByZero, InternalError_, ProgramLimitExceeded

from api.lengths import MOST_BYTES_OF_ROWS

# What Postgres says of a text that would have over a gigabyte, among other errors of the same classes.
_OVER_A_GIGABYTE = ("string buffer", "invalid memory alloc request size")


# The code of an answer that is refused for its size.
TOO_LARGE = "ANSWER_TOO_LARGE"


class TooLargeError(GraphQLError):
    """An answer, or the rows that it is made of, has more bytes than it may have."""


def is_too_long(error: Exception) -> bool:
    """Return whether an error of a statement says that `row_check` stopped it, or that a text had over a gigabyte."""
    if isinstance(error, DivisionByZero):
        return True
    is_limit = isinstance(error, ProgramLimitExceeded | InternalError_)
    return is_limit and any(text in str(error) for text in _OVER_A_GIGABYTE)


def row_check(texts: Mapping[str, int], most: int) -> str:
    """
    Return an expression without a value that ends the statement if the long texts of a row have over `most` bytes.

    `texts` are columns, each with how often it is selected. `octet_length` does not read a text that Postgres stores
    apart from its row. A division by zero is the only error that an expression can raise; nothing else here divides.
    """
    if len(texts) == 1:
        # The usual case, at half the cost of a sum: rows are many.
        ((text, times),) = texts.items()
        length = f"octet_length({text})"
        return f"CASE WHEN {length} > {most // times} THEN (1 / (0 * {length}))::text END"
    total = " + ".join(f"{times} * coalesce(octet_length({text}), 0)::bigint" for text, times in texts.items())
    return f"CASE WHEN {total} > {most} THEN (1 / (0 * ({total})))::text END"


def guarded(columns: Sequence[str], of_rows: Sequence[bool], most: int) -> str:
    """
    Return the statement of one row of `columns`, or of no row if they have over `most` bytes.

    `of_rows` says which of the columns are rows that a computed field is made of; they have a limit of their own.
    OFFSET 0 has Postgres make each column once: it may neither merge the two levels nor move the condition.
    """
    sent = [f"c{number}" for number, made in enumerate(of_rows, 1) if not made]
    read = [f"c{number}" for number, made in enumerate(of_rows, 1) if made]
    conditions = [_at_most(sent, most), _at_most(read, MOST_BYTES_OF_ROWS)]
    made = ", ".join(f"{column} AS c{number}" for number, column in enumerate(columns, 1))
    names = ", ".join(f"c{number}" for number in range(1, len(columns) + 1))
    condition = " AND ".join(filter(None, conditions))
    return f"SELECT {names} FROM (SELECT {made} OFFSET 0) answer WHERE {condition}"  # noqa: S608


def _at_most(names: Sequence[str], most: int) -> str:
    if not names:
        return ""
    total = " + ".join(f"coalesce(octet_length({name}), 0)::bigint" for name in names)
    return f"{total} <= {most}"


def too_large(most: int, *, of_answer: bool, of_rows: bool) -> TooLargeError:
    """Return the error for an answer that is too long, or for the rows that a computed field is made of."""
    answer = f"The answer has more bytes than it may have; the limit is {most:,}. {_ADVICE}"
    rows = "The rows that a track record is made of have more bytes than they may have; the limit is "
    rows = f"{rows}{MOST_BYTES_OF_ROWS:,}. Ask for a part of the Mondays (`from`, `to`), or for fewer track records."
    if not of_rows:
        return _error(answer, most)
    if not of_answer:
        return _error(rows, MOST_BYTES_OF_ROWS)
    return _error(f"{answer} Or: {rows}", most)


_ADVICE = "Ask for fewer rows (a smaller `first`), or for each long text once."


def _error(message: str, limit: int) -> TooLargeError:
    return TooLargeError(message, extensions={"code": TOO_LARGE, "limit": limit})
