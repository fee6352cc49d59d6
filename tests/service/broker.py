"""The broker's side: what has arrived in its queues."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aio_pika
from aio_pika.abc import AbstractChannel

from headway_core import messages
from headway_core.topology import declare, job_queue


@dataclass(frozen=True, slots=True)
class Arrived:
    """A message, taken for good."""

    job_id: str
    dispatch_no: int
    priority: int | None


class Broker:
    """Looks into the job queues."""

    def __init__(self, channel: AbstractChannel) -> None:
        self._channel = channel

    async def count(self, queue: str = "default") -> int:
        """Messages that are ready."""
        await declare(self._channel, queue)
        found = await self._channel.declare_queue(job_queue(queue), passive=True)
        return found.declaration_result.message_count or 0

    async def declare_foreign(self, queue: str) -> None:
        """Make a queue of ours with other properties than ours."""
        await self._channel.declare_queue(job_queue(queue), durable=True)

    async def take(self, queue: str = "default") -> list[Arrived]:
        """Take all that are ready, in the broker's order."""
        await declare(self._channel, queue)
        source = await self._channel.get_queue(job_queue(queue), ensure=False)
        taken = []
        while (message := await source.get(fail=False, no_ack=True)) is not None:
            found = messages.decode(message)
            assert isinstance(found, messages.Delivered), found
            taken.append(Arrived(str(found.job_id), found.dispatch_no, message.priority))
        return taken


@asynccontextmanager
async def looking(amqp_url: str) -> AsyncIterator[Broker]:
    """A connection of the test's own."""
    async with await aio_pika.connect(amqp_url) as connection:
        yield Broker(await connection.channel())
