"""Watchers that stay with a job over every fault, and what they have to have seen."""

import asyncio
import contextlib
from collections.abc import Iterable

import asyncpg

from headway import Event
from headway.client import Client
from headway_core.states import EventType

_EVENTS = "SELECT sequence, type, attempt FROM job_events WHERE job_id = $1 ORDER BY sequence"


class Followers:
    """One watcher for each job that is followed, from its first event, through one client."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._tasks: dict[str, asyncio.Task[list[Event]]] = {}

    def follow(self, job_ids: Iterable[str]) -> None:
        """Watch these from the beginning to the end, over reconnects."""
        for job_id in job_ids:
            if job_id not in self._tasks:
                self._tasks[job_id] = asyncio.create_task(self._watch(job_id))

    async def violations(
        self, connection: "asyncpg.Connection[asyncpg.Record]", *, seconds: float
    ) -> list[str]:
        """Wait until all have seen the end, and compare what they saw with what is stored."""
        words = []
        async with asyncio.timeout(seconds):
            for job_id, task in self._tasks.items():
                seen = [(event.sequence, event.type, event.attempt) for event in await task]
                rows = await connection.fetch(_EVENTS, job_id)
                stored = [
                    (row["sequence"], EventType(row["type"]).name, row["attempt"]) for row in rows
                ]
                if seen != stored:
                    words.append(f"{job_id}: its watcher saw {seen}, stored is {stored}")
        self._tasks.clear()
        return words

    async def close(self) -> None:
        """Give up on what is left."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        self._tasks.clear()
        await self._client.close()

    async def _watch(self, job_id: str) -> list[Event]:
        async with contextlib.aclosing(self._client.watch(job_id, after_sequence=0)) as updates:
            return [update async for update in updates if isinstance(update, Event)]
