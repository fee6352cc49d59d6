"""Queue names become known one transaction at a time, and each sees what the ones before it did."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from headway_core.database import Database
from headway_core.errors import TooManyQueues
from headway_core.job import QUEUES_MAX
from headway_core.queues import make_known
from tests.store.conftest import Register, Submit

WAITS_FOR_THE_LOCK = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"


Naming = Callable[[], Awaitable[object]]


async def named_meanwhile(database: Database, name: str, second: Naming) -> None:
    """Make one name known and commit while `second` waits; raises what `second` raises."""

    async def run() -> None:
        await second()

    async with asyncio.TaskGroup() as group:
        async with database.transaction() as first:
            assert await make_known(first, [name]) == {name}
            waiting = group.create_task(run())
            async with asyncio.timeout(60):
                # Postgres tells nobody who waits.
                while not await database.fetchval(WAITS_FOR_THE_LOCK):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            assert not waiting.done()


async def test_a_worker_that_names_a_queue_after_another_named_it_uses_that_one(
    database: Database, register: Register
) -> None:
    """Two workers of one app start together. Told by one snapshot, the second would find the queue
    neither absent nor present and be refused as if there were too many.
    """
    await named_meanwhile(database, "slow", lambda: register("noop", queue="slow"))


async def test_a_submit_to_a_queue_that_another_is_naming_is_accepted(
    database: Database, submit: Submit
) -> None:
    await named_meanwhile(database, "slow", lambda: submit(queue="slow"))


async def test_the_last_free_place_is_given_once(database: Database, register: Register) -> None:
    """The loser of that race is refused, not the bound exceeded."""
    names = [f"queue-{number}" for number in range(QUEUES_MAX - 2)]
    await database.transact(lambda connection: make_known(connection, names))  # and `default`
    with pytest.raises(ExceptionGroup) as refused:
        await named_meanwhile(database, "winner", lambda: register("noop", queue="loser"))
    assert isinstance(refused.value.exceptions[0], TooManyQueues)
    assert await database.fetchval("SELECT count(*) FROM queues") == QUEUES_MAX
