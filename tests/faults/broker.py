"""What waits with a rig's broker."""

import json
from collections import Counter
from contextlib import suppress
from typing import Final
from uuid import UUID

import aio_pika

from headway_core.topology import dead_queue, job_queue

QUEUE: Final = "default"
AWAY: Final = (OSError, TimeoutError, aio_pika.exceptions.AMQPError)


class Broker:
    """The queues of one virtual host."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def ready(self) -> int:
        """Messages ready in the work queue, as the broker says."""
        async with await aio_pika.connect(self._url) as connection:
            channel = await connection.channel()
            found = await channel.declare_queue(job_queue(QUEUE), passive=True)
            return found.declaration_result.message_count or 0

    async def nothing_ready(self) -> bool:
        """Whether it answers, and the work queue is empty."""
        try:
            return await self.ready() == 0
        except AWAY:
            return False

    async def take_notices(self) -> Counter[UUID]:
        """Take the notices of deaths: how many of each job."""
        found: Counter[UUID] = Counter()
        async with await aio_pika.connect(self._url) as connection:
            queue = await (await connection.channel()).get_queue(dead_queue(QUEUE))
            while (message := await queue.get(no_ack=True, fail=False)) is not None:
                found[UUID(json.loads(message.body)["job_id"])] += 1
        return found

    async def forget(self) -> bool:
        """Empty the queues. False: it does not answer, or somebody consumes still."""
        try:
            async with await aio_pika.connect(self._url, timeout=5) as connection:
                for name in (job_queue(QUEUE), dead_queue(QUEUE)):
                    channel = await connection.channel()
                    # One that is not there yet holds nothing.
                    with suppress(aio_pika.exceptions.ChannelNotFoundEntity):
                        queue = await channel.declare_queue(name, passive=True)
                        await queue.purge()
                        if queue.declaration_result.consumer_count:
                            return False
        except AWAY:
            return False
        return True
