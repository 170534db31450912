"""What is said where there is nothing to follow: the same errors, in the same form, as the API's."""

from typing import Any

import structlog
from litestar import Request, Response

from api.damage import ADVICE, BEGINNING, CODE
from api.engine import Answer, refused
from api.fields import refusal
from api.http import head
from app.domain.text import one_line

log = structlog.get_logger()


def unanswered(request: Request[Any, Any, Any], answer: Answer) -> Response[bytes]:
    """Return the response that says why there is no answer; never a 200, which GraphQL would have for some."""
    status, headers = head(answer, request.method, request.headers.get("accept", "").lower().encode())
    if status < 400:
        status = 500 if answer.damaged else 503
    return Response(answer.body, status_code=status, headers=headers)


def unwritable(error: Exception) -> Answer:
    """Return the answer in place of one with a number that is too large to be written for people, and log it."""
    said = f"{BEGINNING}a number is too large to be shown. {ADVICE}"
    log.error("the record is damaged", damages=1, first=said, reason=one_line(error))
    return Answer(refused(refusal(CODE, said)).body, damaged=said)
