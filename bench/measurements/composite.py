"""The composite floor, ready to be loaded."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import ClassVar, Self

from bench.cpu import Watched
from bench.program import Program
from bench.stage import Place, Stage

MODULE = "bench.floors.composite"


@dataclass(slots=True)
class Composite:
    """Its server in a place of its own, and a worker once started."""

    subject: ClassVar = "composite"

    stage: Stage
    place: Place
    server: Program
    worker: Program | None = None

    @classmethod
    @asynccontextmanager
    async def running(cls, stage: Stage, *, slots: int | None = None) -> AsyncIterator[Self]:
        """Start a server, and a worker if `slots` says how many jobs it may run at a time."""
        async with (
            stage.place(migrated=False) as place,
            await _start(place, role="server") as server,
        ):
            composite = cls(stage, place, server)
            try:
                if slots:
                    await composite.start_worker(slots)
                yield composite
            finally:
                if composite.worker:
                    await composite.worker.stop()

    @property
    def address(self) -> str:
        """Where the server listens."""
        return self.server.address

    async def start_worker(self, slots: int) -> None:
        """Start the worker and wait until it takes jobs."""
        self.worker = await _start(self.place, role="worker", slots=slots)

    def watched(self) -> dict[str, Watched]:
        """All processes there are, for a CpuMeter."""
        found = {"server": Watched(self.server.pid)}
        if self.worker:
            found["worker"] = Watched(self.worker.pid)
        return found | self.stage.watched()

    async def until_relayed(self) -> None:
        """Wait until the broker has every job."""
        await self.place.until("NOT EXISTS (SELECT FROM outbox)")

    async def until_done(self) -> None:
        """Wait until every job is completed."""
        await self.place.until("NOT EXISTS (SELECT FROM jobs WHERE end_time IS NULL)")


async def _start(place: Place, *, role: str, slots: int = 0) -> Program:
    return await Program.start(
        MODULE,
        role=role,
        slots=slots,
        database_url=place.database_url,
        amqp_url=place.amqp_url,
    )
