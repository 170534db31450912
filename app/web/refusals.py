"""Errors of pages, charts and feeds. Charts and feeds send them in the form of the API's errors."""

from typing import Any

import structlog
from litestar import Request, Response

from api.damage import DAMAGE_ADVICE, DAMAGE_PREFIX, DAMAGED_CODE
from api.engine import GraphQLResult, error_result
from api.fields import api_error
from api.http import response_head
from app.domain.text import one_line

log = structlog.get_logger()


def error_response(request: Request[Any, Any, Any], result: GraphQLResult) -> Response[bytes]:
    """
    Return the response that explains why a resource cannot be sent. It has the form of API errors.

    GraphQL over HTTP prescribes the status 200 for some of these errors. The status of this
    response is never 200: with that status, a client of a feed or a picture would use the error as
    if it were the resource.
    """
    accept = request.headers.get("accept", "").lower().encode()
    status, headers = response_head(result, request.method, accept)
    if status < 400:
        status = 500 if result.damage else 503
    return Response(result.body, status_code=status, headers=headers)


def too_large_number_result(error: Exception) -> GraphQLResult:
    """
    Log that the record contains a number too large to be formatted, and return the error for it.

    `error` is one of `app.web.formatting.TOO_LARGE_ERRORS`.
    """
    message = f"{DAMAGE_PREFIX}a number is too large to be shown. {DAMAGE_ADVICE}"
    log.error("the record is damaged", damages=1, first=message, reason=one_line(error))
    body = error_result(api_error(DAMAGED_CODE, message)).body
    return GraphQLResult(body, damage=message)
