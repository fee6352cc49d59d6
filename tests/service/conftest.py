"""A server in this process for each test that asks for one, and what its tests drive it with."""

from collections.abc import AsyncIterator

import pytest

from headway_core.database import Database
from tests.service.serving import Served, serving
from tests.service.worker import PlayedWorker

JOB_TYPE = "test.job"


@pytest.fixture
async def served(database_url: str, amqp_url: str) -> AsyncIterator[Served]:
    """A server on Postgres and RabbitMQ."""
    async with serving(database_url, amqp_url) as found:
        yield found


@pytest.fixture
async def worker(database: Database) -> PlayedWorker:
    """A worker that has the type `test.job`."""
    return await PlayedWorker.register(database, JOB_TYPE)
