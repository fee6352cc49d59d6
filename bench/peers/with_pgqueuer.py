"""PgQueuer on PostgreSQL, 50 jobs a batch."""

import os
from datetime import timedelta

import asyncpg
import uvloop
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgPoolDriver
from pgqueuer.queries import Queries

from bench.peers import marks

DATABASE_URL = os.environ["BENCH_DATABASE_URL"]
BATCH = 50
WORKER = ["-m", "bench.peers.with_pgqueuer"]


class Client:
    """Its own client API."""

    async def open(self) -> None:
        """Connect, and make the tables."""
        self._pool = await asyncpg.create_pool(DATABASE_URL, min_size=16, max_size=16)
        self._queries = Queries(AsyncpgPoolDriver(self._pool))
        await self._queries.install()

    async def submit(self, number: int) -> None:
        """Submit one job."""
        await self._queries.enqueue("noop", str(number).encode())

    async def done(self) -> int:
        """Count the jobs that succeeded."""
        statement = "SELECT count(*) FROM pgqueuer_log WHERE status = 'successful'"
        return await self._pool.fetchval(statement)

    async def close(self) -> None:
        """Disconnect."""
        await self._pool.close()


async def work() -> None:
    """Be the worker."""
    pool = await asyncpg.create_pool(DATABASE_URL, min_size=5, max_size=10)
    queue = PgQueuer(AsyncpgPoolDriver(pool))

    @queue.entrypoint("noop")
    async def noop(_job: object) -> None:
        marks.started()

    await queue.run(batch_size=BATCH, log_aggregation_interval=timedelta(0))


if __name__ == "__main__":
    uvloop.run(work())
