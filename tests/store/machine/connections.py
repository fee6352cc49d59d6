"""Connections: one that is held inside a transaction, and others beside it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import asyncpg

from headway_core.database import Database
from tests.store.machine.world import Operation

PATIENCE_SECONDS: Final = 60
LOOK_SECONDS: Final = 0.002


class InTransaction:
    """What looks like a Database, inside a transaction that somebody else ends."""

    def __init__(self, connection: "asyncpg.Connection[Any]") -> None:
        self._connection = connection

    async def fetch(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        return await self._connection.fetch(query, *arguments)

    async def fetchrow(self, query: str, *arguments: object) -> asyncpg.Record | None:
        return await self._connection.fetchrow(query, *arguments)

    async def fetchval(self, query: str, *arguments: object) -> Any:
        return await self._connection.fetchval(query, *arguments)

    async def execute(self, query: str, *arguments: object) -> None:
        await self._connection.execute(query, *arguments)

    async def transact(self, work: Callable[[Any], Awaitable[Any]]) -> Any:
        return await work(self._connection)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        yield self._connection


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

    async def beside(
        self, first: Operation, second: Operation, *, commits: bool
    ) -> tuple[object, object, bool]:
        """Hold the first open while the second runs: both answers, and whether it waited."""
        transaction = self.holder.transaction()
        await transaction.start()
        held = await first.run(InTransaction(self.holder))
        task = asyncio.ensure_future(second.run(self.second))
        waits = False
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not (task.done() or waits):
                await asyncio.wait([task], timeout=LOOK_SECONDS)
                waits = not task.done() and await self.database.fetchval(
                    "SELECT EXISTS (SELECT FROM pg_stat_activity "
                    "WHERE application_name = 'second' AND wait_event_type = 'Lock')"
                )
            await (transaction.commit() if commits else transaction.rollback())
            return held, await task, waits
