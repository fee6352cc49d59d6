"""Statements and transactions: bounded waits, retried conflicts, translated errors.

This and `sessions` are the one border to asyncpg.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Any, Final, Self, TypeVar

import asyncpg

from headway_core.errors import StoreUnavailable
from headway_core.sessions import Connection, Record, Sessions, Use, said

__all__ = ["Connection", "Database", "Record", "UniqueViolation"]

Result = TypeVar("Result")

UniqueViolation = asyncpg.UniqueViolationError

CONFLICT_TRIES_MAX: Final = 6
CONFLICT_WAIT_SECONDS: Final = 0.02

# Safe to run again with the same arguments: nothing of the statement was applied.
_CONFLICTS = (
    asyncpg.InvalidCachedStatementError,  # a table has changed since it was prepared
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.LockNotAvailableError,
)
SESSION_SETTINGS: Final = {
    # Frees what a paused process holds.
    "idle_in_transaction_session_timeout": "10s",
    "lock_timeout": "1s",
    "statement_timeout": "10s",
    # Compiling costs more than any of our statements.
    "jit": "off",
    # A plan made while a table was empty must not walk it once it is full.
    "enable_seqscan": "off",
}


class Database:
    """A pool of connections.

    Every call ends within its timeout: with a result, with StoreUnavailable if Postgres is away or
    too slow (a commit's outcome is then unknown), or with asyncpg's own error, which is a defect of
    ours.
    """

    def __init__(self, sessions: Sessions, timeout_seconds: float) -> None:
        self._sessions = sessions
        self._timeout_seconds = timeout_seconds
        self._random = Random()

    @classmethod
    async def connect(
        cls,
        url: str,
        *,
        name: str,
        size: int = 8,
        timeout_seconds: float = 5.0,
        plan_once: bool = False,
    ) -> Self:
        """Make a pool of at most `size` connections; they are opened when needed.

        `name` is shown in pg_stat_activity. `timeout_seconds` bounds each call, waiting for a free
        connection included. `plan_once`: for statements that are run all the time and have one good
        plan; otherwise Postgres plans each run anew, which takes as long as a submit itself.
        """
        plans = {"plan_cache_mode": "force_generic_plan"} if plan_once else {}
        sessions = await Sessions.open(
            url,
            size=size,
            connect_seconds=min(timeout_seconds, 2.0),
            settings={"application_name": name, **SESSION_SETTINGS, **plans},
        )
        return cls(sessions, timeout_seconds)

    @property
    def at_hand(self) -> bool:
        """Whether the next call finds a connection without waiting for one, as far as is known."""
        return bool(self._sessions.kept)

    async def close(self) -> None:
        """Close all connections, by force after 2 s."""
        await self._sessions.close()

    async def fetch(self, query: str, *arguments: object) -> list[Record]:
        """Run one statement as one transaction and return its rows.

        Cancelled, it goes on for up to CANCELLED_SECONDS_MAX; the statement may be done. `query` is
        one of a limited number: a connection may keep it prepared.
        """
        deadline = asyncio.get_running_loop().time() + self._timeout_seconds
        tries = 1
        while True:
            try:
                async with Use(self._sessions, deadline) as session:
                    return await session.fetch(query, arguments)
            except _CONFLICTS as error:
                await self._let_pass(error, tries)
            tries += 1

    async def fetchrow(self, query: str, *arguments: object) -> Record | None:
        """Run one statement as one transaction and return its first row."""
        rows = await self.fetch(query, *arguments)
        return rows[0] if rows else None

    async def fetchval(self, query: str, *arguments: object) -> Any:
        """Run one statement as one transaction and return the first value of its first row."""
        row = await self.fetchrow(query, *arguments)
        return row[0] if row is not None else None

    async def execute(self, query: str, *arguments: object) -> None:
        """Run one statement as one transaction."""
        await self.fetch(query, *arguments)

    async def transact(self, work: Callable[[Connection], Awaitable[Result]]) -> Result:
        """Run `work` in one transaction; it may run several times, so has no other effect."""
        deadline = asyncio.get_running_loop().time() + self._timeout_seconds
        tries = 1
        while True:
            try:
                async with self._transaction(deadline) as connection:
                    return await work(connection)
            except _CONFLICTS as error:
                await self._let_pass(error, tries)
            tries += 1

    @asynccontextmanager
    async def transaction(
        self, *, timeout_seconds: float | None = None
    ) -> AsyncIterator[Connection]:
        """Hold one transaction; it is not retried. Commits unless the block raises.

        A conflict with another transaction is StoreUnavailable here: what to do again is the
        caller's to know.
        """
        seconds = timeout_seconds or self._timeout_seconds
        deadline = asyncio.get_running_loop().time() + seconds
        try:
            async with self._transaction(deadline) as connection:
                yield connection
        except _CONFLICTS as error:
            raise _busy(error) from error

    @asynccontextmanager
    async def _transaction(self, deadline: float) -> AsyncIterator[Connection]:
        async with (
            Use(self._sessions, deadline) as session,
            asyncio.timeout_at(deadline),  # what else the block waits for
            session.connection.transaction(),
        ):
            yield session.connection

    async def _let_pass(self, error: BaseException, tries: int) -> None:
        """Wait before the next try. Raises StoreUnavailable after the last.

        All tries together have one deadline: a lock takes 1 s of it.
        """
        if tries == CONFLICT_TRIES_MAX:
            raise _busy(error) from error
        await asyncio.sleep(CONFLICT_WAIT_SECONDS * tries * self._random.random())


def _busy(error: BaseException) -> StoreUnavailable:
    return StoreUnavailable(f"the database is busy: {said(error)}")
