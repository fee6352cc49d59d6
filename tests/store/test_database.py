"""The border to Postgres: connections that are kept, lost and waited for."""

import asyncio

import pytest

from headway_core.database import KEPT_MAX, Database

BACKEND = "SELECT pg_backend_pid()"


async def test_one_call_after_the_other_goes_over_one_connection(database: Database) -> None:
    assert len({await database.fetchval(BACKEND) for _ in range(10)}) == 1


async def test_a_cancelled_call_is_cancelled(database: Database) -> None:
    """Not turned into an outage, which its caller would survive."""
    await database.fetchval(BACKEND)
    for _ in range(3):
        call = asyncio.create_task(database.fetch("SELECT pg_sleep(10)"))
        await asyncio.sleep(0.1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    assert await database.fetchval("SELECT 1") == 1


async def test_connections_that_are_lost_while_nobody_uses_them_do_no_harm(
    database: Database,
) -> None:
    await asyncio.gather(*(database.fetch("SELECT pg_sleep(0.1)") for _ in range(KEPT_MAX + 2)))
    await database.fetch(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE pid <> pg_backend_pid() AND datname = current_database()"
    )
    await asyncio.sleep(0.3)
    for _ in range(KEPT_MAX + 2):
        assert await database.fetchval("SELECT 1") == 1


async def test_who_waits_for_a_connection_gets_one(database_url: str) -> None:
    """Those that are kept are none too many."""
    database = await Database.connect(database_url, name="test", size=KEPT_MAX)
    try:
        calls = (database.fetch("SELECT pg_sleep(0.01)") for _ in range(50))
        async with asyncio.timeout(10):
            await asyncio.gather(*calls)
    finally:
        await database.close()


async def test_a_close_waits_for_calls_and_ends_what_is_kept(database_url: str) -> None:
    database = await Database.connect(database_url, name="test", size=4)
    await database.fetchval(BACKEND)
    call = asyncio.create_task(database.fetchval("SELECT 7 FROM pg_sleep(0.3)"))
    await asyncio.sleep(0.1)
    async with asyncio.timeout(1.5):
        await database.close()
    assert await call == 7
