"""taskiq over RabbitMQ, results in PostgreSQL, a message acked once its result is stored."""

import os

import taskiq.compat
from taskiq_aio_pika import AioPikaBroker

from bench.peers import marks

# taskiq-pg 0.2 imports two helpers that taskiq 0.13 has dropped.
taskiq.compat.model_dump = lambda model: model.model_dump()
taskiq.compat.model_validate = lambda kind, value: kind.model_validate(value)
from taskiq_pg import AsyncpgResultBackend  # noqa: E402 - needs them

backend = AsyncpgResultBackend(os.environ["BENCH_DATABASE_URL"], min_size=10, max_size=10)
broker = AioPikaBroker(os.environ["BENCH_AMQP_URL"], qos=100).with_result_backend(backend)
WORKER = [
    *("-m", "taskiq", "worker", "bench.peers.with_taskiq:broker"),
    *("--workers", "1", "--max-async-tasks", "50", "--ack-type", "when_saved"),
    *("--log-level", "ERROR"),
]


@broker.task(task_name="noop")
async def noop(number: int) -> int:
    """Do nothing."""
    marks.started()
    return number


class Client:
    """Its own client API."""

    async def open(self) -> None:
        """Connect; makes the table and the queue."""
        await broker.startup()

    async def submit(self, number: int) -> None:
        """Submit one job, confirmed by the broker."""
        await noop.kiq(number)

    async def done(self) -> int:
        """Count the stored results."""
        return await backend._database_pool.fetchval("SELECT count(*) FROM taskiq_results")

    async def close(self) -> None:
        """Disconnect."""
        await broker.shutdown()
