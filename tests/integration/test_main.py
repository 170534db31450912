"""How the service is wired: what handlers read of it is there while it runs, and at no other time."""

import pytest

from app.core import settings
from app.main import Runtime


async def test_what_is_open_is_there_while_the_service_runs(database):
    """Before and after, a handler that reads it gets an error that says why."""
    runtime = Runtime(rehearsed=False)
    with pytest.raises(RuntimeError, match="The service is not running"):
        _ = runtime.running
    async with runtime.opened(settings.load({"DATABASE_URL": database}), None, work=False) as running:
        assert runtime.running is running
        assert (await runtime.health()).database == "alive"
        assert await runtime.fetch("SELECT 1::text", []) == [b"1"]
        async with runtime.on_a_snapshot() as engine:
            assert (await engine.answer("{ latestBatch { id } }")).refused is None
    for read in (lambda: runtime.running, runtime.now, lambda: runtime.fetch("SELECT 1", [])):
        with pytest.raises(RuntimeError, match="The service is not running"):
            read()
