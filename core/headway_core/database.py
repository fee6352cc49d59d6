"""The one border to asyncpg: bounded waits, retried conflicts, translated errors."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias, TypeVar

import asyncpg

from headway_core.errors import StoreUnavailable

Record = asyncpg.Record
if TYPE_CHECKING:  # generic in its stubs only
    Connection: TypeAlias = asyncpg.pool.PoolConnectionProxy[Record]
else:
    Connection = asyncpg.pool.PoolConnectionProxy
Result = TypeVar("Result")

KEPT_MAX: Final = 2
"""Connections that are kept out of asyncpg's pool between two uses: its acquire and release cost
more than a small statement."""
IDLE_SECONDS_MAX: Final = 300
"""A connection that nobody has used for longer is given up: what stands between it and Postgres may
have forgotten it."""
CONFLICT_TRIES_MAX: Final = 6
CONFLICT_WAIT_SECONDS: Final = 0.02

# Safe to run again with the same arguments: nothing of the statement was applied.
_CONFLICTS = (
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.LockNotAvailableError,
)
_AWAY = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.PostgresSystemError,
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


async def connect(*arguments: Any, **options: Any) -> "asyncpg.Connection[Record]":
    """Open one connection, as asyncpg.connect does. Raises StoreUnavailable for what is no URL of
    PostgreSQL, and asyncpg's own errors.
    """
    try:
        return await asyncpg.connect(*arguments, **options)
    except ValueError as error:  # asyncpg.ClientConfigurationError is one, too
        raise StoreUnavailable("HEADWAY_DATABASE_URL is not a PostgreSQL URL") from error


class Database:
    """A pool of connections.

    Every call ends within its timeout: with a result, with StoreUnavailable if Postgres is away or
    too slow (a commit's outcome is then unknown), or with asyncpg's own error, which is a defect of
    ours.
    """

    def __init__(self, pool: "asyncpg.Pool[Record]", timeout_seconds: float) -> None:
        self._pool = pool
        self._kept: list[tuple[float, Connection]] = []
        """With the time since when it is idle."""
        self._waiting = 0
        self._closing = False
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
        pool = asyncpg.create_pool(
            url,
            min_size=0,
            max_size=size,
            timeout=min(timeout_seconds, 2.0),
            reset=_keep_session,
            max_inactive_connection_lifetime=IDLE_SECONDS_MAX,
            connect=connect,
            server_settings={"application_name": name, **SESSION_SETTINGS, **plans},
        )
        return cls(await pool, timeout_seconds)

    async def close(self) -> None:
        """Close all connections, by force after 2 s."""
        self._closing = True
        try:
            async with asyncio.timeout(2):
                while self._kept:
                    await self._pool.release(self._kept.pop()[1])
                await self._pool.close()
        except BaseException as error:
            self._pool.terminate()
            if not isinstance(error, _AWAY):
                raise

    async def fetch(self, query: str, *arguments: object) -> list[Record]:
        """Run one statement as one transaction and return its rows."""

        async def run(deadline: float) -> list[Record]:
            # Without asyncio.timeout, which costs a lone call as much as all else here.
            with _Border():
                async with _Use(self, deadline) as connection:
                    return await connection.fetch(query, *arguments)

        return await self._retried(run)

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

        async def run(deadline: float) -> Result:
            async with self._connection(deadline) as connection, connection.transaction():
                return await work(connection)

        return await self._retried(run)

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
            async with self._connection(deadline) as connection, connection.transaction():
                yield connection
        except _CONFLICTS as error:
            raise _busy(error) from error

    async def _retried(self, run: Callable[[float], Awaitable[Result]]) -> Result:
        # One deadline for all tries together: a lock takes 1 s of it.
        deadline = asyncio.get_running_loop().time() + self._timeout_seconds
        for tries in range(1, CONFLICT_TRIES_MAX + 1):
            try:
                return await run(deadline)
            except _CONFLICTS as error:
                if tries == CONFLICT_TRIES_MAX:
                    raise _busy(error) from error
                await asyncio.sleep(CONFLICT_WAIT_SECONDS * tries * self._random.random())
        raise AssertionError("unreachable")

    @asynccontextmanager
    async def _connection(self, deadline: float) -> AsyncIterator[Connection]:
        with _Border():
            async with asyncio.timeout_at(deadline), _Use(self, deadline) as connection:
                yield connection

    async def take(self, deadline: float) -> Connection:
        """Take a connection, to be given back; for `_Use`."""
        oldest = asyncio.get_running_loop().time() - IDLE_SECONDS_MAX
        while self._kept:
            idle_since, connection = self._kept.pop()
            if _is_open(connection):
                if idle_since >= oldest:
                    return connection
                connection.terminate()
            await self._pool.release(connection)
        self._waiting += 1
        try:
            async with asyncio.timeout_at(deadline):
                return await self._pool.acquire()
        finally:
            self._waiting -= 1

    async def give_back(self, connection: Connection, deadline: float) -> None:
        """Keep it for the next use, or leave it to the pool."""
        time = asyncio.get_running_loop().time()
        wanted = self._waiting or self._closing or len(self._kept) >= KEPT_MAX
        if wanted or not _is_open(connection) or connection.is_in_transaction():
            await self._pool.release(connection, timeout=max(deadline - time, 0))
        else:
            self._kept.append((time, connection))


class _Use:
    """A use of a connection, which its deadline ends: neither a command nor the rollback after a
    cancelled one waits any longer for a server that is cut off or stands still.
    """

    __slots__ = ("_connection", "_database", "_deadline", "_timer")

    def __init__(self, database: Database, deadline: float) -> None:
        self._database = database
        self._deadline = deadline

    async def __aenter__(self) -> Connection:
        self._connection = await self._database.take(self._deadline)
        loop = asyncio.get_running_loop()
        self._timer = loop.call_at(self._deadline, _end, self._connection)
        return self._connection

    async def __aexit__(
        self, _kind: object, error: BaseException | None, _traceback: object
    ) -> None:
        self._timer.cancel()
        if isinstance(error, (*_AWAY, asyncio.CancelledError)):
            # A cancelled command would make the release wait for the server's answer.
            _end(self._connection)
        await self._database.give_back(self._connection, self._deadline)


class _Border:
    """Where errors of asyncpg become ours."""

    __slots__ = ("_cancels", "_task")

    def __enter__(self) -> None:
        self._task = asyncio.current_task()
        self._cancels = self._task.cancelling() if self._task else 0

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if not isinstance(error, _AWAY):
            return
        if self._task and self._task.cancelling() > self._cancels:
            raise asyncio.CancelledError from error  # meanwhile, which the loss must not hide
        raise StoreUnavailable(f"the database does not answer: {_said(error)}") from error


def _end(connection: Connection) -> None:
    if _is_open(connection):
        connection.terminate()


def _is_open(connection: Connection) -> bool:
    try:
        return not connection.is_closed()
    except asyncpg.InterfaceError:  # it was lost or terminated, which takes it out of the pool
        return False


def _busy(error: BaseException) -> StoreUnavailable:
    return StoreUnavailable(f"the database is busy: {_said(error)}")


def _said(error: BaseException) -> str:
    text = str(error).partition("\n")[0]  # below stands Postgres's DETAIL, which may quote a row
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


async def _keep_session(connection: object) -> None:
    """Reset nothing: no session state is ever set, and asyncpg's reset costs a round trip."""
