"""What is said where there is nothing to follow: the same errors, in the same form, as the API's."""

from typing import Any

from litestar import Request, Response

from api.engine import Answer
from api.http import head


def unanswered(request: Request[Any, Any, Any], answer: Answer) -> Response[bytes]:
    """Return the response that says why there is no answer; never a 200, which GraphQL would have for some."""
    status, headers = head(answer, request.method, request.headers.get("accept", "").lower().encode())
    return Response(answer.body, status_code=status if status >= 400 else 503, headers=headers)
