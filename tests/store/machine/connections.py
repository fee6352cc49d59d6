"""Connections: one that is held inside a transaction, and others beside it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import asyncpg

from headway_core.database import Database
from tests.store.machine.world import Operation

PATIENCE_SECONDS: Final = 60
LOOK_SECONDS: Final = 0.002


class InTransaction:
    """What looks like a Database, inside a transaction that somebody else ends.

    After so many statements it stands still until told to `go`.
    """

    def __init__(self, connection: "asyncpg.Connection[Any]", pause_after: int | None) -> None:
        self._connection = connection
        self._left = pause_after
        self.paused = asyncio.Event()
        self.go = asyncio.Event()

    async def fetch(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        await self._pause()
        return await self._connection.fetch(query, *arguments)

    async def fetchrow(self, query: str, *arguments: object) -> asyncpg.Record | None:
        await self._pause()
        return await self._connection.fetchrow(query, *arguments)

    async def fetchval(self, query: str, *arguments: object) -> Any:
        await self._pause()
        return await self._connection.fetchval(query, *arguments)

    async def execute(self, query: str, *arguments: object) -> None:
        await self._pause()
        await self._connection.execute(query, *arguments)

    async def transact(self, work: Callable[[Any], Awaitable[Any]]) -> Any:
        return await work(self)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        yield self

    async def _pause(self) -> None:
        if self._left is not None:
            if self._left == 0:
                self.paused.set()
                await self.go.wait()
            self._left -= 1


@dataclass(frozen=True, slots=True)
class Met:
    """What came of operations that met."""

    first: object
    others: list[object]
    """The answers of those that were begun."""
    paused: bool
    """Whether the first was stopped between two statements."""
    waited: bool
    """Whether the last that was begun had to wait for the first."""


@dataclass(slots=True)
class Store:
    """The connections."""

    runner: asyncio.Runner
    database: Database
    second: Database
    holder: "asyncpg.Connection[Any]"

    def run(self, work: Any) -> Any:
        """Await it."""
        return self.runner.run(work)

    async def meet(
        self,
        first: Operation,
        others: Sequence[Operation],
        *,
        commits: bool,
        pause_after: int | None = None,
    ) -> Met:
        """Hold the first open, or stop it on its way, while the others run until one waits.

        Then the first goes on to its end and is committed or rolled back. If it was at its end
        already, only one other is begun.
        """
        answers: list[object] = []
        waiting: asyncio.Task[object] | None = None
        async with asyncio.timeout(PATIENCE_SECONDS):
            transaction = self.holder.transaction()
            await transaction.start()
            beside = InTransaction(self.holder, pause_after)
            held = asyncio.ensure_future(first.run(beside))
            try:
                stopped = asyncio.ensure_future(beside.paused.wait())
                await asyncio.wait([held, stopped], return_when=asyncio.FIRST_COMPLETED)
                stopped.cancel()
                paused = not held.done()
                for other in others if paused else others[:1]:
                    task = asyncio.ensure_future(other.run(self.second))
                    if await self._waits(task):
                        waiting = task
                        break
                    answers.append(task.result())
                beside.go.set()
                answer = await held
            except BaseException:
                held.cancel()
                await transaction.rollback()
                raise
            await (transaction.commit() if commits else transaction.rollback())
            if waiting:
                answers.append(await waiting)
            return Met(answer, answers, paused, waiting is not None)

    async def _waits(self, task: "asyncio.Task[object]") -> bool:
        """Until it is done or waits for a lock."""
        while True:
            await asyncio.wait([task], timeout=LOOK_SECONDS)
            if task.done():
                return False
            if await self.database.fetchval(
                "SELECT EXISTS (SELECT FROM pg_stat_activity "
                "WHERE application_name = 'second' AND wait_event_type = 'Lock')"
            ):
                return not task.done()
