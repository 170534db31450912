"""How the service is put together: handlers can use its resources only while it runs."""

import pytest

from app.core import settings
from app.main import Runtime


async def test_what_is_open_is_there_while_the_service_runs(database):
    """Before and after that, a handler gets an error that says why."""
    runtime = Runtime(rehearsed=False)
    with pytest.raises(RuntimeError, match="The service is not running"):
        _ = runtime.running
    async with runtime.opened(
        settings.load({"DATABASE_URL": database}), None, work=False
    ) as running:
        assert runtime.running is running
        assert (await runtime.health()).database == "alive"
        assert await runtime.fetch("SELECT 1::text", []) == [b"1"]
        async with runtime.snapshot_engine() as engine:
            assert (await engine.execute("{ latestBatch { id } }")).error_code is None
    for read in (lambda: runtime.running, runtime.now, lambda: runtime.fetch("SELECT 1", [])):
        with pytest.raises(RuntimeError, match="The service is not running"):
            read()
