"""The exchanges and queues at the broker: their names, arguments and declaration.

    headway.jobs (direct) ──<queue>──> headway.v1.<queue>        classic, durable, priorities 0–9
    headway.dead (direct) ──<queue>──> headway.v1.<queue>.dead   classic, durable
    headway.hints (fanout) ───────────> one exclusive queue per listener

A message rejected in a job queue goes to headway.dead under the queue's name. The arguments are the
few that every broker from 3.10 to 4.x takes for a classic queue; limits are set by policy. They
cannot be changed in place, so a queue that has others is reported and left alone.
"""

import asyncio
import re
from typing import Final

from aio_pika import ExchangeType
from aio_pika.abc import (
    AbstractChannel,
    AbstractConnection,
    AbstractExchange,
    AbstractQueue,
)
from aio_pika.exceptions import ChannelNotFoundEntity, ChannelPreconditionFailed
from pamqp.common import FieldTable

from headway_core.broker import open_channel
from headway_core.broker_border import broker_border, reason_of
from headway_core.errors import TopologyMismatch

JOBS_EXCHANGE: Final = "headway.jobs"
DEAD_EXCHANGE: Final = "headway.dead"
HINTS_EXCHANGE: Final = "headway.hints"
PRIORITY_MAX: Final = 9
HINTS_WAITING_MAX: Final = 10_000
BROKER_SECONDS_MAX: Final = 5.0
"""How long the broker may take to answer one declaration."""

_INEQUIVALENT: Final = re.compile(
    r"inequivalent arg '(?P<argument>.+?)' for (?:queue|exchange) '(?P<name>.+?)' in vhost '.*?': "
    r"(?P<values>received .+)"
)


def job_queue(queue: str) -> str:
    """Name the broker's queue for the jobs of one of our queues."""
    return f"headway.v1.{queue}"


def dead_queue(queue: str) -> str:
    """Name the broker's queue for the dead letters of one of our queues."""
    return f"headway.v1.{queue}.dead"


async def declare(channel: AbstractChannel, queue: str) -> None:
    """Declare a queue, its dead twin and their exchanges, as often as you like.

    Raises BrokerUnavailable; TopologyMismatch if one of them is there with other properties, and
    then the broker has closed the channel.
    """
    arguments: FieldTable = {
        "x-max-priority": PRIORITY_MAX,
        "x-dead-letter-exchange": DEAD_EXCHANGE,
        "x-dead-letter-routing-key": queue,
    }
    with broker_border(f"declare queue {queue}"):
        try:
            async with asyncio.timeout(BROKER_SECONDS_MAX):
                await _declare_bound(channel, JOBS_EXCHANGE, job_queue(queue), queue, arguments)
                await _declare_bound(channel, DEAD_EXCHANGE, dead_queue(queue), queue, {})
        except ChannelPreconditionFailed as error:
            raise _mismatch(error, queue) from error


async def declare_hints_exchange(channel: AbstractChannel) -> AbstractExchange:
    """Declare the exchange for hints. Raises BrokerUnavailable or TopologyMismatch."""
    with broker_border(f"declare {HINTS_EXCHANGE}"):
        try:
            async with asyncio.timeout(BROKER_SECONDS_MAX):
                return await channel.declare_exchange(
                    HINTS_EXCHANGE, ExchangeType.FANOUT, durable=True
                )
        except ChannelPreconditionFailed as error:
            raise _mismatch(error, HINTS_EXCHANGE) from error


async def declare_hints(channel: AbstractChannel) -> AbstractQueue:
    """Declare a queue for all hints, for this connection alone and gone with it.

    Raises BrokerUnavailable or TopologyMismatch.
    """
    exchange = await declare_hints_exchange(channel)
    with broker_border("declare a queue for hints"):
        async with asyncio.timeout(BROKER_SECONDS_MAX):
            queue = await channel.declare_queue(
                exclusive=True, auto_delete=True, arguments={"x-max-length": HINTS_WAITING_MAX}
            )
            await queue.bind(exchange)
    return queue


class Topology:
    """What one connection has declared, on a channel of its own that is reopened when needed."""

    def __init__(self, connection: AbstractConnection) -> None:
        self._connection = connection
        self._channel: AbstractChannel | None = None
        self._declared: set[str] = set()
        # One at a time: an error closes the channel under everyone on it.
        self._lock = asyncio.Lock()

    def knows(self, queue: str) -> bool:
        """Whether this connection has declared the queue."""
        return queue in self._declared

    async def declare(self, queue: str) -> None:
        """Declare a queue, once. Raises BrokerUnavailable or TopologyMismatch."""
        async with self._lock:
            if queue not in self._declared:
                await declare(await self._open(), queue)
                self._declared.add(queue)

    def forget(self, queue: str) -> None:
        """Declare the queue again at the next opportunity: a message found no way to it."""
        self._declared.discard(queue)

    async def ready_count(self, queue: str) -> int | None:
        """Count the messages that wait at the broker and are in no worker's hands.

        None: there is no such queue. Raises BrokerUnavailable.
        """
        async with self._lock:
            channel = await self._open()
            with broker_border(f"count queue {queue}"):
                try:
                    async with asyncio.timeout(BROKER_SECONDS_MAX):
                        found = await channel.declare_queue(job_queue(queue), passive=True)
                except ChannelNotFoundEntity:
                    self.forget(queue)
                    return None
                return found.declaration_result.message_count

    async def _open(self) -> AbstractChannel:
        if self._channel is None or self._channel.is_closed:
            self._channel, _ = await open_channel(self._connection)
        return self._channel


async def _declare_bound(
    channel: AbstractChannel, exchange: str, queue: str, key: str, arguments: FieldTable
) -> None:
    source = await channel.declare_exchange(exchange, ExchangeType.DIRECT, durable=True)
    declared = await channel.declare_queue(queue, durable=True, arguments=arguments)
    await declared.bind(source, routing_key=key)


def _mismatch(error: ChannelPreconditionFailed, queue: str) -> TopologyMismatch:
    """Read the broker's answer, for example "PRECONDITION_FAILED - inequivalent arg
    'x-max-priority' for queue 'headway.v1.default' in vhost '/': received the value '9' of type
    'signedint' but current is none".
    """
    text = reason_of(error)
    found = _INEQUIVALENT.search(text)
    if found is None:
        return TopologyMismatch(queue, text)
    return TopologyMismatch(found["name"], f"{found['argument']}: {found['values']}")
