"""Health checks: `/live` for the process, `/health` for the database and this process's worker."""

from collections.abc import Awaitable, Callable, Sequence

from litestar import MediaType, Response, route
from litestar.handlers import HTTPRouteHandler

from app.ops.snapshot import Health
from app.web.routes import HEALTH, LIVE


def health_routes(check: Callable[[], Awaitable[Health]]) -> Sequence[HTTPRouteHandler]:
    """Return the handlers of `/live` and `/health`; `check` asks for the health at each request."""

    @route(LIVE.litestar_path, http_method=LIVE.methods, media_type=MediaType.JSON, sync_to_thread=False)
    def live() -> dict[str, str]:
        """Say that the process answers."""
        return {"status": "alive"}

    @route(HEALTH.litestar_path, http_method=HEALTH.methods, media_type=MediaType.JSON)
    async def health() -> Response[Health]:
        """Say whether the database and this process's worker are alive."""
        state = await check()
        return Response(state, status_code=200 if state.is_well else 503)

    return [live, health]
