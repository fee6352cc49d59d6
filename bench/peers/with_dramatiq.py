"""Dramatiq over RabbitMQ with confirms, results in Redis (it has no backend on PostgreSQL)."""

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor

import dramatiq
import redis
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from bench.peers import marks

THREADS = 8
store = redis.Redis.from_url(os.environ["BENCH_REDIS_URL"])
broker = RabbitmqBroker(url=os.environ["BENCH_AMQP_URL"], confirm_delivery=True)
broker.add_middleware(Results(backend=RedisBackend(client=store), store_results=True))
dramatiq.set_broker(broker)
WORKER = [
    *("-m", "dramatiq", "bench.peers.with_dramatiq"),
    *("-p", "1", "-t", str(THREADS)),
]


@dramatiq.actor
def noop(number: int) -> int:
    """Do nothing."""
    marks.started()
    return number


class Client:
    """Its own client API, in threads."""

    async def open(self) -> None:
        """Connect; makes the queue."""
        self._threads = ThreadPoolExecutor(THREADS)
        broker.declare_queue("default", ensure=True)

    async def submit(self, number: int) -> None:
        """Submit one job, confirmed by the broker."""
        await asyncio.get_running_loop().run_in_executor(self._threads, noop.send, number)

    async def done(self) -> int:
        """Count the stored results."""
        return store.dbsize()

    async def close(self) -> None:
        """Disconnect."""
        self._threads.shutdown()
