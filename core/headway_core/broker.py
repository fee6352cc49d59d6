"""Connections to RabbitMQ that are rebuilt for as long as they are wanted.

aio-pika's robust connections restore channels behind their users' backs and give up in silence when
one restore fails; so these are plain ones, and on loss everything on them is built anew.
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Final, Never, TypeVar

import structlog
from aio_pika import Connection
from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.connection import make_url
from aio_pika.exceptions import AMQPError, ChannelInvalidStateError
from pydantic import SecretStr

from headway_core import buffered_frames, lenient_frames
from headway_core.broker_border import LoginRefused, broker_border, reason_of
from headway_core.buffered_frames import Direct, directs
from headway_core.errors import BrokerUnavailable, TopologyMismatch

HEARTBEAT_SECONDS: Final = 10
"""aiormq takes a connection for dead after three of these without a frame."""
CONNECT_SECONDS_MAX: Final = 5.0
CLOSE_SECONDS_MAX: Final = 3.0

BACKOFF_SECONDS_FIRST: Final = 0.1
BACKOFF_SECONDS_MAX: Final = 4.0
"""With the time to connect, a broker that is back has its backlog moving within 10 s."""
REFUSED_SECONDS: Final = 15.0
"""A wrong password does not mend itself, and brokers log every try."""
STEADY_SECONDS: Final = 10.0
"""A connection that lived this long was good, and the next backoff starts from the beginning."""

log = structlog.get_logger(__name__)

lenient_frames.install()
buffered_frames.install()


class BrokerConnection(Connection):
    """A connection on which deliveries may go past aiormq."""

    def __init__(self, url: str, *, name: str) -> None:
        super().__init__(
            make_url(url, heartbeat=HEARTBEAT_SECONDS), client_properties={"connection_name": name}
        )
        self.directs: dict[int, Direct] = {}
        """By number of the channel: see buffered_frames."""

    async def connect(self, timeout: float | None = None) -> None:
        """Open it."""
        token = directs.set(self.directs)
        try:
            await super().connect(timeout)
        finally:
            directs.reset(token)


Use = Callable[[BrokerConnection], Awaitable[None]]
Trouble = BrokerUnavailable | TopologyMismatch
ExceptionT = TypeVar("ExceptionT", bound=Exception)


class Session:
    """One connection to the broker, rebuilt until cancelled.

    `use` is called once for each connection, builds channels and consumers on it, and is cancelled
    when the connection is lost. When it returns, or raises BrokerUnavailable or TopologyMismatch,
    the connection is closed and rebuilt after a backoff; anything else it raises ends `run`.
    """

    def __init__(self, url: SecretStr, *, name: str, use: Use) -> None:
        self._url = url
        self._name = name
        self._use = use
        self._connected = asyncio.Event()
        self._failures = 0
        self._told: str | None = None
        self.trouble: str | None = "not connected yet"
        """Why there is no connection, in one line without secrets; None while there is one."""

    @property
    def connected(self) -> bool:
        """Whether there is a connection; `use` may still be building on it."""
        return self._connected.is_set()

    async def wait_connected(self) -> None:
        """Wait until there is a connection."""
        await self._connected.wait()

    async def run(self) -> Never:
        """Connect, run `use`, begin again on loss. Ends by cancellation or by a defect of `use`."""
        loop = asyncio.get_running_loop()
        while True:
            begun = loop.time()
            trouble: Trouble = BrokerUnavailable("given up by its user")
            try:
                await self._connect_and_use()
            except (BrokerUnavailable, TopologyMismatch) as error:
                trouble = error
            finally:
                self._connected.clear()
            _raise_if_cancelled()
            lived_long = loop.time() - begun >= STEADY_SECONDS
            self._failures = 0 if lived_long else self._failures + 1
            delay = retry_seconds(self._failures, refused=isinstance(trouble, LoginRefused))
            self._tell(str(trouble), delay)
            await asyncio.sleep(delay)

    def _tell(self, trouble: str, delay: float) -> None:
        # Once: an absent broker is tried every few seconds, perhaps for a night.
        level = logging.INFO if trouble == self._told else logging.WARNING
        self.trouble = self._told = trouble
        facts = {"connection": self._name, "reason": trouble, "retry_seconds": round(delay, 2)}
        log.log(level, "broker_connection_lost", **facts)

    async def _connect_and_use(self) -> None:
        async with connected(self._url, name=self._name) as connection:
            log.info("broker_connected", connection=self._name)
            self.trouble = self._told = None
            self._connected.set()
            # Only for the CancelledErrors that aiormq invents; what `use` raises is in a group.
            with broker_border(self._name):
                await _while_open(connection, self._use)


@asynccontextmanager
async def connected(url: SecretStr, *, name: str) -> AsyncIterator[BrokerConnection]:
    """Open one connection, named for the broker's overviews, and close it in bounded time."""
    connection = BrokerConnection(url.get_secret_value(), name=name)
    try:
        with broker_border("connect"):
            async with asyncio.timeout(CONNECT_SECONDS_MAX):
                await connection.connect()
        yield connection
    finally:
        await _close(connection)


async def open_channel(
    connection: AbstractConnection, *, confirms: bool = True
) -> tuple[AbstractChannel, asyncio.Future[str]]:
    """Open a channel; the future says why it closed, once it has.

    Raises BrokerUnavailable. With `confirms`, a publish that no queue takes raises.
    """
    with broker_border("open a channel"):
        async with asyncio.timeout(CONNECT_SECONDS_MAX):
            channel = connection.channel(publisher_confirms=confirms, on_return_raises=confirms)
            closed = _closure(channel)
            await channel.initialize()
    return channel, closed


def retry_seconds(failures: int, *, refused: bool = False) -> float:
    """Choose how long to wait before the next try to connect; at random, so that a restarted broker
    does not see all its clients at once.
    """
    longest = min(BACKOFF_SECONDS_MAX, BACKOFF_SECONDS_FIRST * 2.0 ** min(failures, 16))
    return random.uniform(0.5, 1.0) * (REFUSED_SECONDS if refused else longest)


def _closure(resource: AbstractChannel | AbstractConnection) -> asyncio.Future[str]:
    closed: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def on_close(_sender: object, error: BaseException | None = None) -> None:
        if not closed.done():
            closed.set_result(reason_of(error))

    resource.close_callbacks.add(on_close)
    return closed


async def _while_open(connection: BrokerConnection, use: Use) -> None:
    closed = _closure(connection)

    async def watch() -> None:
        raise BrokerUnavailable(f"connection lost: {await closed}")

    trouble: Trouble | None = None
    try:
        async with asyncio.TaskGroup() as group:
            watcher = group.create_task(watch())
            await use(connection)
            watcher.cancel()
    except* (BrokerUnavailable, TopologyMismatch) as errors:
        trouble = next(_leaves(errors))
    except* (AMQPError, ChannelInvalidStateError) as errors:
        # Every call to aio-pika should stand inside a broker_border; a worker need not die of one
        # that does not.
        trouble = BrokerUnavailable(reason_of(next(_leaves(errors))))
    if trouble:
        raise trouble


def _raise_if_cancelled() -> None:
    # Before Python 3.13, a TaskGroup that fails while its task is being cancelled raises what
    # failed and forgets the cancellation (python/cpython#116720): the loop would go on for ever.
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def _leaves(errors: ExceptionGroup[ExceptionT]) -> Iterator[ExceptionT]:
    for error in errors.exceptions:
        if isinstance(error, ExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


async def _close(connection: AbstractConnection) -> None:
    try:
        with broker_border("close"):
            async with asyncio.timeout(CLOSE_SECONDS_MAX):
                await connection.close()
    except BrokerUnavailable as error:
        log.debug("broker_close_failed", reason=str(error))
