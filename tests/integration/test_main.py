"""How the service is wired: what handlers read of it is there while it runs, and at no other time."""

import pytest

from app.core import settings
from app.main import Service


async def test_what_is_open_is_there_while_the_service_runs(database):
    """Before and after, a handler that reads it gets an error that says why."""
    service = Service(rehearsed=False)
    with pytest.raises(RuntimeError, match="The service is not running"):
        _ = service.running
    async with service.opened(settings.load({"DATABASE_URL": database}), None, work=False) as running:
        assert service.running is running
        assert (await service.health()).database == "alive"
        assert await service.fetch("SELECT 1::text", []) == [b"1"]
        async with service.on_a_snapshot() as engine:
            assert (await engine.answer("{ latestBatch { id } }")).refused is None
    for read in (lambda: service.running, service.now, lambda: service.fetch("SELECT 1", [])):
        with pytest.raises(RuntimeError, match="The service is not running"):
            read()
