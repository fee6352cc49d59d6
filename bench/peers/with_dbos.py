"""DBOS on PostgreSQL: a queue polled every 10 ms (its default is a second), 50 at a time."""

import asyncio
import os
import subprocess
import sys

import psycopg

from bench.peers import marks

DATABASE_URL = os.environ["BENCH_DATABASE_URL"]
CONCURRENCY = 50
POLL_SECONDS = 0.01
WORKER = ["-m", "bench.peers.with_dbos"]
STATEMENT = "SELECT count(*) FROM dbos.workflow_status WHERE status = 'SUCCESS'"


class Client:
    """Its own client API."""

    async def open(self) -> None:
        """Make the tables, in a process of its own, and connect."""
        from dbos import DBOSClient

        subprocess.run([sys.executable, *WORKER, "prepare"], check=True, stdout=sys.stderr)  # noqa: ASYNC221
        self._client = DBOSClient(
            system_database_url=DATABASE_URL, use_listen_notify=True, system_database_pool_size=16
        )
        self._database = psycopg.connect(DATABASE_URL, autocommit=True)

    async def submit(self, number: int) -> None:
        """Submit one job."""
        options = {"queue_name": "bench", "workflow_name": "noop"}
        await self._client.enqueue_async(options, number)

    async def done(self) -> int:
        """Count the jobs that succeeded."""
        return self._database.execute(STATEMENT).fetchone()[0]

    async def close(self) -> None:
        """Disconnect."""
        self._client.destroy()
        self._database.close()


async def work() -> None:
    """Be the worker, or with `prepare` only make the tables."""
    from dbos import DBOS

    DBOS(
        config={
            "name": "bench",
            "system_database_url": DATABASE_URL,
            "sys_db_pool_size": 20,
            "log_level": "ERROR",
            "run_admin_server": False,
        }
    )

    @DBOS.workflow(name="noop")
    async def noop(number: int) -> int:
        marks.started()
        return number

    DBOS.launch()
    await DBOS.register_queue_async(
        "bench", worker_concurrency=CONCURRENCY, polling_interval_sec=POLL_SECONDS
    )
    if sys.argv[1:] != ["prepare"]:
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(work())
    os._exit(0)  # its threads would go on
