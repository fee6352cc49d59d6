"""Queue names become known one transaction at a time, and each sees what the ones before it did."""

import asyncio

import pytest

from headway_core.database import Database
from headway_core.errors import TooManyQueues
from headway_core.job import QUEUES_MAX
from headway_core.jobs import Submitted, add_queues
from tests.store.conftest import Register, Submit

WAITS_FOR_THE_LOCK = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"


async def a_waiter(database: Database) -> None:
    async with asyncio.timeout(10):
        while not await database.fetchval(WAITS_FOR_THE_LOCK):
            await asyncio.sleep(0.01)


async def test_a_worker_that_names_a_queue_after_another_named_it_uses_that_one(
    database: Database, register: Register
) -> None:
    """Two workers of one app start together. Told by one snapshot, the second would find the queue
    neither absent nor present and be refused as if there were too many.
    """
    async with asyncio.TaskGroup() as group:
        async with database.transaction() as first:
            assert await add_queues(first, ["slow"]) == {"slow"}
            second = group.create_task(register("noop", queue="slow"))
            await a_waiter(database)
            assert not second.done()
    assert second.result()


async def test_a_submit_to_a_queue_that_another_is_naming_is_accepted(
    database: Database, submit: Submit
) -> None:
    async with asyncio.TaskGroup() as group:
        async with database.transaction() as first:
            await add_queues(first, ["slow"])
            second = group.create_task(submit(queue="slow"))
            await a_waiter(database)
    assert isinstance(second.result(), Submitted)


async def test_the_last_free_place_is_given_once(database: Database, register: Register) -> None:
    """The loser of that race is refused, not the bound exceeded."""
    names = [f"queue-{number}" for number in range(QUEUES_MAX - 2)]
    await database.transact(lambda connection: add_queues(connection, names))  # and `default`
    with pytest.raises(TooManyQueues):
        async with database.transaction() as first:
            assert await add_queues(first, ["winner"]) == {"winner"}
            second = asyncio.ensure_future(register("noop", queue="loser"))
            await a_waiter(database)
        await second
    assert await database.fetchval("SELECT count(*) FROM queues") == QUEUES_MAX
