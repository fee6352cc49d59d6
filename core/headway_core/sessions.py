"""Connections to Postgres between two uses and during one, and the end of what does not answer."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import asyncpg

from headway_core.deadlines import Deadlines
from headway_core.errors import StoreUnavailable
from headway_core.uninterrupted import Uninterrupted

Record = asyncpg.Record
if TYPE_CHECKING:  # generic in its stubs only
    Connection: TypeAlias = asyncpg.pool.PoolConnectionProxy[Record]
else:
    Connection = asyncpg.pool.PoolConnectionProxy

KEPT_MAX: Final = 2
"""Connections that are kept out of asyncpg's pool between two uses: its acquire and release cost
more than a small statement."""
IDLE_SECONDS_MAX: Final = 300
"""A connection that nobody has used for longer is given up: what stands between it and Postgres may
have forgotten it."""

PREPARED_AFTER: Final = 16
"""Uses in a row, between which a connection was kept, before it has statements of its own: under
load connections come and go, and each would prepare them anew."""
CANCELLED_SECONDS_MAX: Final = 0.1
"""How long a cancelled call waits for the answer to what it has sent, before it ends the connection
instead: callers that give up must not cost a new connection each."""

AWAY: Final = (
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
"""Errors of a Postgres that is away or unwell; what was sent to it may have been done."""


async def connect(*arguments: Any, **options: Any) -> "asyncpg.Connection[Record]":
    """Open one connection, as asyncpg.connect does. Raises StoreUnavailable for what is no URL of
    PostgreSQL, and asyncpg's own errors.
    """
    try:
        return await asyncpg.connect(*arguments, **options)
    except ValueError as error:  # asyncpg.ClientConfigurationError is one, too
        raise StoreUnavailable("HEADWAY_DATABASE_URL is not a PostgreSQL URL") from error


class Sessions:
    """asyncpg's pool, and the few connections that are kept out of it between two uses."""

    def __init__(self, pool: "asyncpg.Pool[Record]") -> None:
        self._pool = pool
        self.kept: list[Session] = []
        self.deadlines: Deadlines[Session] = Deadlines(Session.end)
        """Of those in use."""
        self._waiting = 0
        self._closing = False

    @classmethod
    async def open(
        cls, url: str, *, size: int, connect_seconds: float, settings: dict[str, str]
    ) -> "Sessions":
        """Make a pool of at most `size` connections; they are opened when needed."""
        pool = asyncpg.create_pool(
            url,
            min_size=0,
            max_size=size,
            timeout=connect_seconds,
            reset=_keep_session,
            max_inactive_connection_lifetime=IDLE_SECONDS_MAX,
            connect=connect,
            server_settings=settings,
        )
        return cls(await pool)

    async def close(self) -> None:
        """Close all connections, by force after 2 s."""
        self._closing = True
        try:
            async with asyncio.timeout(2):
                while self.kept:
                    await self._pool.release(self.kept.pop().connection)
                await self._pool.close()
        except BaseException as error:
            self._pool.terminate()
            if not isinstance(error, AWAY):
                raise

    async def take(self, deadline: float) -> "Session":
        """Take a session, to be given back."""
        oldest = asyncio.get_running_loop().time() - IDLE_SECONDS_MAX
        while self.kept:
            session = self.kept.pop()
            if session.is_open():
                if session.idle_since >= oldest:
                    return session
                session.connection.terminate()
            await self._pool.release(session.connection)
        self._waiting += 1
        try:
            async with asyncio.timeout_at(deadline):
                return Session(await self._pool.acquire(), self.deadlines)
        finally:
            self._waiting -= 1

    async def give_back(self, session: "Session", deadline: float) -> None:
        """Keep it for the next use, or leave it to the pool."""
        time = asyncio.get_running_loop().time()
        wanted = self._waiting or self._closing or len(self.kept) >= KEPT_MAX
        if wanted or not session.is_free():
            await self._pool.release(session.connection, timeout=max(deadline - time, 0))
        else:
            session.idle_since = time
            session.uses += 1
            self.kept.append(session)


class Session:
    """A connection out of asyncpg's pool, and what is prepared on it."""

    __slots__ = (
        "_deadlines",
        "_prepared",
        "connection",
        "deadline",
        "idle_since",
        "settled",
        "uses",
    )

    def __init__(self, connection: Connection, deadlines: "Deadlines[Session]") -> None:
        self.connection = connection
        self.deadline = 0.0
        """Of the use that is under way."""
        self.settled = False
        """Whether that use was cancelled and has nothing under way all the same."""
        self.idle_since = 0.0
        """Of the loop's clock."""
        self.uses = 0
        """How many in a row it was kept after."""
        self._deadlines = deadlines
        self._prepared: dict[str, asyncpg.prepared_stmt.PreparedStatement[Record]] = {}

    def begin(self, deadline: float) -> None:
        """Begin a use, which its deadline ends."""
        self.deadline = deadline
        self.settled = False
        self._deadlines.add(self, deadline)

    async def fetch(self, query: str, arguments: Sequence[object]) -> list[Record]:
        """Run a statement and return its rows. If cancelled, it waits for them a little longer.

        Statements of its own go past asyncpg's cache of them, which outlives this session and costs
        a lone call as much as all that is above it.
        """
        statement = self._prepared.get(query)
        if statement is not None:
            fetching = statement.fetch(*arguments)
        elif self.uses < PREPARED_AFTER:
            fetching = self.connection.fetch(query, *arguments)
        else:
            fetching = self._prepare(query, arguments)
        try:
            return await Uninterrupted(fetching, self._hurry)
        except asyncpg.InvalidCachedStatementError:
            self._prepared.clear()
            raise
        except asyncio.CancelledError as error:
            self.settled = not isinstance(error.__cause__, AWAY)
            raise

    async def _prepare(self, query: str, arguments: Sequence[object]) -> list[Record]:
        statement = self._prepared[query] = await self.connection.prepare(query)
        return await statement.fetch(*arguments)

    def _hurry(self) -> None:
        soon = asyncio.get_running_loop().time() + CANCELLED_SECONDS_MAX
        self.deadline = min(self.deadline, soon)
        self._deadlines.add(self, self.deadline)

    def is_free(self) -> bool:
        """Whether no transaction is left on it."""
        try:
            return not self.connection.is_in_transaction()
        except asyncpg.InterfaceError:  # lost or ended
            return False

    def is_open(self) -> bool:
        """Whether it can be used, as far as this side knows."""
        try:
            return not self.connection.is_closed()
        except asyncpg.InterfaceError:  # lost or terminated, which takes it out of the pool
            return False

    def end(self) -> None:
        """Close it at once."""
        if self.is_open():
            self.connection.terminate()


class Use:
    """A use of a session, which its deadline ends: neither a command nor the rollback after a
    cancelled one waits any longer for a server that is cut off or stands still.

    It is also where errors of asyncpg become ours.
    """

    __slots__ = ("_cancels", "_deadline", "_session", "_sessions", "_task")

    def __init__(self, sessions: Sessions, deadline: float) -> None:
        self._sessions = sessions
        self._deadline = deadline

    async def __aenter__(self) -> Session:
        self._task = asyncio.current_task()
        self._cancels = self._task.cancelling() if self._task else 0
        try:
            self._session = await self._sessions.take(self._deadline)
        except AWAY as error:
            raise self._translated(error) from error
        self._session.begin(self._deadline)
        return self._session

    async def __aexit__(
        self, _kind: object, error: BaseException | None, _traceback: object
    ) -> None:
        self._sessions.deadlines.discard(self._session)
        cut_off = not isinstance(error, Exception | None) and not self._session.settled
        if cut_off or isinstance(error, AWAY):
            # A command under way would make the release wait for the server's answer.
            self._session.end()
        try:
            await self._sessions.give_back(self._session, self._deadline)
        except AWAY as lost:
            error = lost
        if isinstance(error, AWAY):
            raise self._translated(error) from error

    def _translated(self, error: BaseException) -> BaseException:
        if self._task and self._task.cancelling() > self._cancels:
            return asyncio.CancelledError()  # meanwhile, which the loss must not hide
        return StoreUnavailable(f"the database does not answer: {said(error)}")


def said(error: BaseException) -> str:
    """Its kind and first line: below stands Postgres's DETAIL, which may quote a row."""
    text = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


async def _keep_session(connection: object) -> None:
    """Reset nothing: no session state is ever set, and asyncpg's reset costs a round trip."""
