"""The border to Postgres: connections that are kept, lost and waited for."""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable

import asyncpg
import pytest

from headway_core import sessions
from headway_core.database import Connection, Database
from headway_core.errors import StoreUnavailable
from headway_core.sessions import KEPT_MAX
from tests.worker.stage import eventually

BACKEND = "SELECT pg_backend_pid()"
BACKENDS = (
    "SELECT count(*) FROM pg_stat_activity "
    "WHERE application_name = 'kept' AND datname = current_database()"
)
END_BACKENDS = (
    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
    "WHERE application_name = 'kept' AND datname = current_database()"
)
ASLEEP = (
    "SELECT count(*) FROM pg_stat_activity "
    "WHERE application_name = 'kept' AND datname = current_database() AND wait_event = 'PgSleep'"
)


async def kept(url: str, count: int, *, size: int = 8) -> Database:
    """A database that keeps so many connections."""
    database = await Database.connect(url, name="kept", size=size)
    await asyncio.gather(*(database.fetch("SELECT pg_sleep(0.1)") for _ in range(count)))
    assert len(database._sessions.kept) == count
    return database


async def test_calls_go_over_what_is_kept(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = await kept(database_url, 1)

    async def acquire(*_: object) -> None:
        raise AssertionError("asked the pool")

    monkeypatch.setattr(asyncpg.pool.Pool, "acquire", acquire)
    for _ in range(3):
        assert await database.fetchval("SELECT 7") == 7
    await database.close()


async def test_what_is_kept_for_long_prepares_a_statement_once(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "PREPARED_AFTER", 3)
    used = await kept(database_url, 1)
    prepared = "SELECT count(*) FROM pg_prepared_statements WHERE statement = 'SELECT 7'"
    counts = []
    for _ in range(5):
        assert await used.fetchval("SELECT 7") == 7
        counts.append(await used.fetchval(prepared))
    assert counts == [1, 2, 2, 2, 2], "asyncpg's, and then its own"
    await used.close()


async def test_what_is_not_kept_for_long_prepares_nothing(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where callers wait for connections, each statement would be prepared again and again."""

    async def prepare(*_: object) -> None:
        raise AssertionError("prepared")

    monkeypatch.setattr(asyncpg.Connection, "prepare", prepare)
    used = await kept(database_url, KEPT_MAX, size=KEPT_MAX)

    async def caller() -> None:
        for _ in range(50):
            await used.fetch("SELECT 1")

    await asyncio.gather(*(caller() for _ in range(8)))
    await used.close()


@pytest.mark.parametrize("within_a_transaction", [False, True])
async def test_a_statement_outlives_a_change_of_its_table(
    database: Database,
    database_url: str,
    within_a_transaction: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A migration may come while servers and workers run."""
    monkeypatch.setattr(sessions, "PREPARED_AFTER", 0)
    used = await kept(database_url, 1)

    async def read(connection: Database | Connection) -> list[asyncpg.Record]:
        return await connection.fetch("SELECT * FROM altered")

    async def columns() -> list[str]:
        (row,) = await (used.transact(read) if within_a_transaction else read(used))
        return list(row.keys())

    await database.execute("CREATE TABLE altered AS SELECT 1 AS a")
    try:
        for _ in range(3):
            assert await columns() == ["a"]
        await database.execute("ALTER TABLE altered ADD COLUMN b integer")
        assert await columns() == ["a", "b"]
    finally:
        await database.execute("DROP TABLE altered")
    await used.close()


async def test_a_cancelled_call_is_cancelled(database: Database, database_url: str) -> None:
    """Not turned into an outage, which its caller would survive; and the next call does not wait
    for a backend that does not hear of it.
    """
    used = await kept(database_url, 1)
    backend = await used.fetchval(BACKEND)
    call = asyncio.create_task(used.fetch("SELECT pg_sleep(10)"))
    await eventually(lambda: database.fetchval(ASLEEP))
    os.kill(backend, signal.SIGSTOP)
    try:
        call.cancel()
        async with asyncio.timeout(2):
            with pytest.raises(asyncio.CancelledError):
                await call
            assert await used.fetchval(BACKEND) != backend
    finally:
        os.kill(backend, signal.SIGCONT)
    await used.close()


@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize("prepared_after", [0, 16])
async def test_callers_that_give_up_do_not_cost_their_connection(
    database: Database,
    database_url: str,
    count: int,
    prepared_after: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As long as Postgres answers soon: what was sent is done, too."""
    monkeypatch.setattr(sessions, "PREPARED_AFTER", prepared_after)
    used = await kept(database_url, count, size=1)
    await database.execute("CREATE TABLE given_up (backend integer)")
    write = "INSERT INTO given_up SELECT pg_backend_pid() FROM pg_sleep(0.05)"
    try:
        for _ in range(3):
            call = asyncio.create_task(used.execute(write))
            await eventually(lambda: database.fetchval(ASLEEP))
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
        backends = await database.fetch("SELECT backend FROM given_up")
        assert [row["backend"] for row in backends] == [await used.fetchval(BACKEND)] * 3
    finally:
        await database.execute("DROP TABLE given_up")
    await used.close()


async def test_a_call_that_is_cancelled_again_and_again_ends_as_soon(
    database: Database, database_url: str
) -> None:
    used = await kept(database_url, 1)
    call = asyncio.create_task(used.fetch("SELECT pg_sleep(10)"))
    await eventually(lambda: database.fetchval(ASLEEP))
    began = time.monotonic()
    while not call.done():
        call.cancel()
        await asyncio.sleep(0.02)
    assert call.cancelled()
    assert time.monotonic() - began < 1
    await used.close()


Stop = Callable[[int], None]


async def fetch(used: Database, stop: Stop) -> None:
    stop(await used.fetchval(BACKEND))
    await used.fetch("SELECT 1")


async def transact(used: Database, stop: Stop) -> None:
    async def work(connection: Connection) -> None:
        stop(await connection.fetchval(BACKEND))
        await connection.fetch("SELECT 1")

    await used.transact(work)


async def hold_a_transaction(used: Database, stop: Stop) -> None:
    async with used.transaction() as connection:
        stop(await connection.fetchval(BACKEND))
        await connection.fetch("SELECT 1")


@pytest.mark.parametrize("call", [fetch, transact, hold_a_transaction])
async def test_a_call_ends_in_its_time_while_its_backend_stands_still(
    database_url: str, call: Callable[[Database, Stop], Awaitable[None]]
) -> None:
    """Nobody waits for the command, or for the rollback; the next call has another backend."""
    used = await Database.connect(database_url, name="kept", timeout_seconds=0.5)
    stopped = []

    def stop(backend: int) -> None:
        os.kill(backend, signal.SIGSTOP)
        stopped.append(backend)

    began = time.monotonic()
    try:
        with pytest.raises(StoreUnavailable, match="does not answer"):
            await asyncio.wait_for(call(used, stop), 5)
        assert await used.fetchval(BACKEND) not in stopped
    finally:
        for backend in stopped:
            os.kill(backend, signal.SIGCONT)
    assert 0.4 < time.monotonic() - began < 2
    await used.close()


async def test_the_wait_for_a_connection_has_the_same_end(database_url: str) -> None:
    used = await Database.connect(database_url, name="kept", size=1, timeout_seconds=0.5)
    began = time.monotonic()
    async with used.transaction(timeout_seconds=10):
        with pytest.raises(StoreUnavailable, match="does not answer"):
            await used.fetch("SELECT 1")
    assert 0.4 < time.monotonic() - began < 2
    assert await used.fetchval("SELECT 1") == 1
    await used.close()


async def test_a_value_that_no_row_can_hold_is_no_outage(database: Database) -> None:
    with pytest.raises(asyncpg.DataError):
        await database.fetch("SELECT $1::integer", 2**40)
    assert await database.fetchval("SELECT $1::integer", 7) == 7


async def test_a_cancellation_is_not_lost_with_the_connection(
    database: Database, database_url: str
) -> None:
    used = await kept(database_url, 1)
    held, end = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        async with used.transaction() as connection:
            await connection.fetch("SELECT 1")
            held.set()
            await end.wait()

    call = asyncio.create_task(hold())
    await held.wait()
    await database.fetch(END_BACKENDS)
    await asyncio.sleep(0.1)  # until asyncpg has heard of it
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await used.close()


async def test_connections_that_are_lost_while_nobody_uses_them_do_no_harm(
    database: Database, database_url: str
) -> None:
    used = await kept(database_url, KEPT_MAX)
    await database.fetch(END_BACKENDS)
    await asyncio.sleep(0.1)  # until asyncpg has heard of it
    found = await asyncio.gather(*(used.fetchval("SELECT 1") for _ in range(KEPT_MAX + 2)))
    assert found == [1] * (KEPT_MAX + 2)
    await used.close()


async def test_what_was_idle_for_too_long_is_given_up(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = await kept(database_url, 1)
    backend = await used.fetchval("SELECT pg_backend_pid()")
    assert await used.fetchval("SELECT pg_backend_pid()") == backend
    monkeypatch.setattr(sessions, "IDLE_SECONDS_MAX", -1)
    assert await used.fetchval("SELECT pg_backend_pid()") != backend
    await used.close()


async def test_no_connection_is_kept_within_a_transaction(database_url: str) -> None:
    """What comes over it next would be rolled back with it."""
    used = await kept(database_url, 1)
    with pytest.raises(asyncpg.UndefinedTableError):
        await used.fetch("SELECT FROM nothing")
    assert len(used._sessions.kept) == 1
    await used.fetch("BEGIN")
    assert not used._sessions.kept
    await used.close()


async def test_who_waits_for_a_connection_gets_one(database_url: str) -> None:
    """Those that are kept are none too many."""
    used = await kept(database_url, KEPT_MAX, size=KEPT_MAX)
    async with asyncio.timeout(20):
        await asyncio.gather(*(used.fetch("SELECT pg_sleep(0.01)") for _ in range(50)))
    await used.close()


async def test_a_close_waits_for_calls_and_ends_what_is_kept(
    database: Database, database_url: str
) -> None:
    used = await kept(database_url, KEPT_MAX)
    call = asyncio.create_task(used.fetchval("SELECT 7 FROM pg_sleep(0.5)"))
    await eventually(lambda: database.fetchval(ASLEEP))
    async with asyncio.timeout(1.8):  # after 2 s it would end them by force
        await used.close()
    assert await call == 7
    await eventually(lambda: database.fetchval(f"SELECT ({BACKENDS}) = 0"))
    with pytest.raises(StoreUnavailable):
        await used.fetch("SELECT 1")
