"""SAQ on Redis, 50 jobs at a time."""

import asyncio
import os

from saq import Queue
from saq.worker import Worker

from bench.peers import marks

CONCURRENCY = 50
WORKER = ["-m", "bench.peers.with_saq"]


async def noop(_context: object, *, number: int) -> int:
    """Do nothing."""
    marks.started()
    return number


class Client:
    """Its own client API."""

    async def open(self) -> None:
        """Connect."""
        self._queue = Queue.from_url(os.environ["BENCH_REDIS_URL"])
        self._submitted = 0
        await self._queue.connect()

    async def submit(self, number: int) -> None:
        """Submit one job."""
        self._submitted += 1
        await self._queue.enqueue("noop", number=number)

    async def done(self) -> int:
        """Count what is no longer on its way."""
        return self._submitted - await self._queue.count("incomplete")

    async def close(self) -> None:
        """Disconnect."""
        await self._queue.disconnect()


async def work() -> None:
    """Be the worker."""
    queue = Queue.from_url(os.environ["BENCH_REDIS_URL"])
    await Worker(queue, functions=[("noop", noop)], concurrency=CONCURRENCY).start()


if __name__ == "__main__":
    asyncio.run(work())
