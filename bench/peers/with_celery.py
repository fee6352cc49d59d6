"""Celery over RabbitMQ with confirms, late acks, results in PostgreSQL; its prefork pool."""

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor

import psycopg2
from celery import Celery

from bench.peers import marks

DATABASE_URL = os.environ["BENCH_DATABASE_URL"]
THREADS = 8  # its client is synchronous
app = Celery(
    "bench",
    broker=os.environ["BENCH_AMQP_URL"],
    backend=DATABASE_URL.replace("postgresql://", "db+postgresql+psycopg2://"),
)
app.conf.update(
    task_acks_late=True,
    broker_transport_options={"confirm_publish": True},
    worker_prefetch_multiplier=32,
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
    broker_pool_limit=THREADS,
)
WORKER = [
    *("-m", "celery", "-A", "bench.peers.with_celery", "worker"),
    *("-P", "prefork", "-c", "2", "-l", "ERROR"),
    *("--without-gossip", "--without-mingle", "--without-heartbeat"),
]


@app.task(name="noop")
def noop(number: int) -> int:
    """Do nothing."""
    marks.started()
    return number


class Client:
    """Its own client API, in threads."""

    async def open(self) -> None:
        """Connect; makes the tables."""
        self._threads = ThreadPoolExecutor(THREADS)
        app.backend.ResultSession()
        self._database = psycopg2.connect(DATABASE_URL)
        self._database.autocommit = True

    async def submit(self, number: int) -> None:
        """Submit one job, confirmed by the broker."""
        await asyncio.get_running_loop().run_in_executor(self._threads, noop.delay, number)

    async def done(self) -> int:
        """Count the stored results."""
        with self._database.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM celery_taskmeta WHERE status = 'SUCCESS'")
            return cursor.fetchone()[0]

    async def close(self) -> None:
        """Disconnect."""
        self._threads.shutdown()
        self._database.close()
