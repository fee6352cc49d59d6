"""arq on Redis, 50 jobs at a time, polling every 10 ms (its default is half a second)."""

import asyncio
import os

from arq import create_pool
from arq.connections import RedisSettings
from arq.worker import Worker

from bench.peers import marks

CONCURRENCY = 50
POLL_SECONDS = 0.01
KEEP_SECONDS = 600
WORKER = ["-m", "bench.peers.with_arq"]
settings = RedisSettings.from_dsn(os.environ["BENCH_REDIS_URL"])


async def noop(_context: object, number: int) -> int:
    """Do nothing."""
    marks.started()
    return number


class Client:
    """Its own client API."""

    async def open(self) -> None:
        """Connect."""
        self._redis = await create_pool(settings)

    async def submit(self, number: int) -> None:
        """Submit one job."""
        await self._redis.enqueue_job("noop", number)

    async def done(self) -> int:
        """Count the stored results."""
        results = self._redis.scan_iter("arq:result:*", count=5_000)
        return len([key async for key in results])

    async def close(self) -> None:
        """Disconnect."""
        await self._redis.aclose()


async def work() -> None:
    """Be the worker."""
    worker = Worker(
        [noop],
        redis_settings=settings,
        max_jobs=CONCURRENCY,
        poll_delay=POLL_SECONDS,
        keep_result=KEEP_SECONDS,
        handle_signals=False,
    )
    await worker.async_run()


if __name__ == "__main__":
    asyncio.run(work())
