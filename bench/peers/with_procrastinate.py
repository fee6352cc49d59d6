"""Procrastinate on PostgreSQL, 50 jobs at a time, woken by NOTIFY."""

import os

import uvloop
from procrastinate import App, PsycopgConnector

from bench.peers import marks

CONCURRENCY = 50
connector = PsycopgConnector(conninfo=os.environ["BENCH_DATABASE_URL"], min_size=10, max_size=20)
app = App(connector=connector)
WORKER = ["-m", "bench.peers.with_procrastinate"]


@app.task(name="noop")
async def noop(number: int) -> None:  # noqa: ARG001 - its argument is stored all the same
    """Do nothing."""
    marks.started()


class Client:
    """Its own client API."""

    async def open(self) -> None:
        """Connect, and make the tables."""
        await app.open_async()
        await app.schema_manager.apply_schema_async()

    async def submit(self, number: int) -> None:
        """Submit one job."""
        await noop.defer_async(number=number)

    async def done(self) -> int:
        """Count the jobs that succeeded."""
        row = await connector.execute_query_one_async(
            "SELECT count(*) AS count FROM procrastinate_jobs WHERE status = 'succeeded'"
        )
        return row["count"]

    async def close(self) -> None:
        """Disconnect."""
        await app.close_async()


async def work() -> None:
    """Be the worker."""
    async with app.open_async():
        await app.run_worker_async(concurrency=CONCURRENCY)


if __name__ == "__main__":
    uvloop.run(work())
