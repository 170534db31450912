"""Health checks: `/live` for the process; `/health` for the database and this process's worker."""

from collections.abc import Awaitable, Callable, Sequence

from litestar import MediaType, Response, route
from litestar.handlers import HTTPRouteHandler

from app.ops.snapshot import Health
from app.web.routes import HEALTH, LIVE


def health_routes(check: Callable[[], Awaitable[Health]]) -> Sequence[HTTPRouteHandler]:
    """Return the handlers of `/live` and `/health`. Each request to `/health` calls `check`."""

    @route(
        LIVE.litestar_path,
        http_method=LIVE.methods,
        media_type=MediaType.JSON,
        sync_to_thread=False,
    )
    def live() -> dict[str, str]:
        """Answer. An answer shows that the process runs and its event loop is not blocked."""
        return {"status": "alive"}

    @route(HEALTH.litestar_path, http_method=HEALTH.methods, media_type=MediaType.JSON)
    async def health() -> Response[Health]:
        """Answer with the state of the database and of this process's worker: 200 or 503."""
        state = await check()
        status_code = 200 if state.is_well else 503
        return Response(state, status_code=status_code)

    return [live, health]
