"""Repeats the query for a page that is too large with half as many rows, down to one."""

from collections.abc import Mapping

from api.engine import Engine, GraphQLResult
from api.guard import TOO_LARGE


async def execute_halving_page(
    engine: Engine, document: str, first: int, variables: Mapping[str, object] = {}
) -> tuple[GraphQLResult, int]:
    """
    Return the result of a document that selects a page, and how many rows the page may have.

    The first request has at most `first` rows; it is repeated with half as many while its result is
    too large. A page of one row may have the longer result that a single row may have.
    """
    while True:
        result = await engine.execute(
            document, {**variables, "first": first}, allow_long=first == 1
        )
        if result.error_code != TOO_LARGE or first <= 1:
            return result, first
        first //= 2
