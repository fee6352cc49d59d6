"""grpc.health.v1: SERVING while Postgres answers, broker or not; NOT_SERVING once draining."""

import asyncio
from datetime import timedelta
from typing import Final, Never

import structlog
from grpc_health.v1.health import aio as health_aio
from grpc_health.v1.health_pb2 import HealthCheckResponse

from headway_core import leases
from headway_core.database import Database
from headway_core.errors import StoreUnavailable

PERIOD: Final = timedelta(seconds=1)

log = structlog.get_logger(__name__)


class Health:
    """Asks Postgres once a second and tells the health service. `run` is to be a task."""

    def __init__(self, database: Database, services: tuple[str, ...]) -> None:
        self._database = database
        self._services = services
        self.servicer = health_aio.HealthServicer()

    async def begin(self) -> None:
        """SERVING: Postgres has just answered. Before it no service is known."""
        await self._tell(serving=True)

    async def run(self) -> Never:
        """Ask until cancelled."""
        serving = True
        while True:
            trouble = await self._ask()
            if serving is not (trouble is None):
                serving = trouble is None
                if trouble is not None:
                    log.warning("database_away", reason=trouble)
                else:
                    log.info("database_answers")
                await self._tell(serving=serving)
            await asyncio.sleep(PERIOD.total_seconds())

    async def drain(self) -> None:
        """NOT_SERVING from now on, whatever Postgres says."""
        await self.servicer.enter_graceful_shutdown()

    async def _ask(self) -> str | None:
        """What is wrong with Postgres; None if it answers."""
        try:
            await leases.database_clock(self._database)
        except StoreUnavailable as error:
            return str(error)
        return None

    async def _tell(self, *, serving: bool) -> None:
        state = HealthCheckResponse.SERVING if serving else HealthCheckResponse.NOT_SERVING
        for service in ("", *self._services):
            await self.servicer.set(service, state)
