"""A page of rows whose answer is too large is asked for again with half as many rows, down to one."""

from collections.abc import Mapping

from api.engine import Answer, Engine
from api.guard import TOO_LARGE


async def halved(engine: Engine, document: str, first: int, variables: Mapping[str, object] = {}) -> tuple[Answer, int]:
    """
    Return the answer to a document with a page of at most `first` rows, and how many rows it asked for.

    A page of one row may have the longer answer that a single row may have.
    """
    answer = await engine.answer(document, {**variables, "first": first}, larger=first == 1)
    while answer.refused == TOO_LARGE and first > 1:
        first //= 2
        answer = await engine.answer(document, {**variables, "first": first}, larger=first == 1)
    return answer, first
