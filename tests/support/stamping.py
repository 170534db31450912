"""Jobs that stamp the journal, with simulators of an authority and a calendar."""

import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial
from types import SimpleNamespace
from typing import Any

import uvicorn
from job_context import MARKET, JobHarness, open_harness, run_attempt
from local_server import local_server
from provider_server import Reply, Request

from app.domain.rfc3161 import read_roots
from app.domain.timestamps import Timestamp, TimestampKind
from app.providers import timestamp_authority, timestamp_services
from app.providers.timestamp_services import TimestampServices
from app.simulation import timestamp_calendar
from app.simulation.faults import FaultRule, FaultScript
from app.simulation.provider_simulators import ProviderSimulators
from app.simulation.timestamp_authority import SimulatedAuthority
from app.store.rows import select_rows
from jobs import timestamps as jobs


class Stamps:
    """A harness with an authority and a calendar, which `simulators` are."""

    def __init__(
        self,
        harness: JobHarness,
        root: bytes,
        services: TimestampServices,
        simulators: ProviderSimulators,
    ) -> None:
        self.harness, self.root, self.services = harness, root, services
        self.simulators = simulators
        self.context, self.clock = harness.context, harness.clock

    @property
    def authority(self) -> Any:
        (service,) = [one for one in self.services if one.kind == TimestampKind.RFC3161]
        return service

    @property
    def calendar(self) -> Any:
        (service,) = [one for one in self.services if one.kind == TimestampKind.OPENTIMESTAMPS]
        return service

    async def stored(self) -> list[Timestamp]:
        async with self.context.pool.connection() as conn:
            return await select_rows(
                conn, Timestamp, table="timestamps", where="ORDER BY kind DESC, received_at"
            )

    async def stamp(self, service: Any = None, *, attempts: int = 0, id: int = 1) -> None:
        """Run a job that stamps the head."""
        job: Any = SimpleNamespace(attempts=attempts, id=id)
        await jobs.stamp(self.context, service or self.authority, job)

    async def stamp_until(self, moment: datetime, service: Any = None) -> int:
        """
        Run a job that stamps the head, and again at its times, until it is done. Return how often.

        The attempts end, too, if the next one would come at `moment` or later.
        """
        for attempts in itertools.count():
            retry_at = await run_attempt(partial(self.stamp, service, attempts=attempts))
            if retry_at is None or retry_at >= moment:
                return attempts + 1
            self.clock.time = retry_at
        raise AssertionError

    def answer(self, request: Request) -> Reply:
        """Answer a request as the simulators do."""
        host = request.headers["host"].encode()
        scope = {"method": request.method, "path": request.path, "headers": [(b"host", host)]}
        reply = self.simulators.reply(scope, request.body, self.clock.now())
        return Reply(reply.body, reply.status, reply.headers)

    async def waiting(self, task: str) -> list[tuple[dict[str, Any], datetime]]:
        """Return the arguments and times of the waiting jobs of a task."""
        return [(args, at) for name, args, at in await self.harness.jobs() if name == task]


@asynccontextmanager
async def opened(
    database: str, clock: Any, rules: Sequence[FaultRule] = (), address: str = ""
) -> AsyncIterator[Any]:
    """Open a harness whose clients use the simulators, or the services at `address`."""
    authority = SimulatedAuthority()
    script = FaultScript(list(rules))

    async def now() -> datetime:
        return clock.now()

    app = ProviderSimulators(market=MARKET, now=now, script=script, authority=authority)
    config = uvicorn.Config(app, log_level="critical", lifespan="off")
    async with (
        local_server(config) as (host, port),
        open_harness(database, clock) as harness,
    ):
        base_url = address or f"http://{host}:{port}"
        roots = read_roots(authority.root_pem)
        client = timestamp_authority.TimestampAuthority(f"{base_url}/timestamp", roots, clock)
        calendar = timestamp_services.TimestampCalendar(
            f"{base_url}{timestamp_calendar.PATH}", (), clock
        )
        services = TimestampServices({client.name: client}, {calendar.url: calendar})
        object.__setattr__(harness.context, "timestamps", services)
        try:
            yield Stamps(harness, authority.root_pem, services, app)
        finally:
            await services.close()
