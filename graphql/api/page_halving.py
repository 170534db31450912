"""If a page is too large, repeats its query with half as many rows, down to one row."""

from collections.abc import Mapping

from api.engine import Engine, GraphQLResult
from api.guard import TOO_LARGE


async def execute_halving_page(
    engine: Engine, document: str, first: int, variables: Mapping[str, object] = {}
) -> tuple[GraphQLResult, int]:
    """
    Return the result of a document that selects a page, and how many rows the page may have.

    The first request is for at most `first` rows. While the result is too large, the request is
    repeated with half as many rows. Only the result of a page of one row may be longer than
    MAX_RESULT_BYTES (`allow_long` of `Engine.execute`).
    """
    while True:
        result = await engine.execute(
            document, {**variables, "first": first}, allow_long=first == 1
        )
        if result.error_code != TOO_LARGE or first <= 1:
            return result, first
        first //= 2
