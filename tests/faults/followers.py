"""Watchers that stay with a job over every fault, and what they have to have seen."""

import asyncio
import contextlib
from collections.abc import Iterable

import asyncpg

from headway import Event, Snapshot
from headway.client import Client
from headway_core.states import EventType
from tests.faults.evidence import Sight, unlike

_EVENTS = "SELECT sequence, type, attempt FROM job_events WHERE job_id = $1 ORDER BY sequence"


class Followers:
    """One watcher for each job that is followed, through one client.

    Every other one watches from the first event, the rest from a snapshot.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._tasks: dict[str, asyncio.Task[Sight]] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    def follow(self, job_ids: Iterable[str]) -> None:
        """Watch these to the end, over reconnects."""
        for job_id in job_ids:
            if job_id not in self._tasks:
                after = None if len(self) % 2 else 0
                self._tasks[job_id] = asyncio.create_task(self._watch(job_id, after))

    async def violations(
        self, connection: "asyncpg.Connection[asyncpg.Record]", *, seconds: float
    ) -> list[str]:
        """Wait until all have seen the end, and compare what they saw with what is stored."""
        words = []
        async with asyncio.timeout(seconds):
            for job_id, task in self._tasks.items():
                sight = await task
                rows = await connection.fetch(_EVENTS, job_id)
                stored = [
                    (row["sequence"], EventType(row["type"]).name, row["attempt"]) for row in rows
                ]
                words += [f"{job_id}: {word}" for word in unlike(sight, stored)]
        self._tasks.clear()
        return words

    async def close(self) -> None:
        """Give up on what is left."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        self._tasks.clear()
        await self._client.close()

    async def _watch(self, job_id: str, after_sequence: int | None) -> Sight:
        sight = Sight()
        watching = self._client.watch(job_id, after_sequence=after_sequence)
        async with contextlib.aclosing(watching) as updates:
            async for update in updates:
                match update:
                    case Snapshot():
                        # A second one would hide what is between.
                        assert not update.reset
                        assert after_sequence is None
                        assert sight == Sight()
                        sight = Sight(update.sequence)
                    case Event():
                        sight.events.append((update.sequence, update.type, update.attempt))
        return sight
