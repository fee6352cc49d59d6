"""P1, P2, P9, P11: Postgres refuses statements, has no connection free, or is held up."""

import asyncio
import contextlib
import time

import asyncpg
import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from headway import HeadwayError
from headway.v1 import CancelJobRequest, GetJobRequest, SubmitJobRequest
from headway_core import submissions
from headway_core.database import Database
from headway_core.errors import StoreUnavailable
from tests.faults.rig import Rig
from tests.faults.waiting import promised, until
from tests.service.serving import serving
from tests.service.worker import PlayedWorker
from tests.store.conftest import submission

INJECTED = """
CREATE SEQUENCE faults;
CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF nextval('faults') % {every} = 0 THEN
        RAISE EXCEPTION 'injected' USING ERRCODE = '{code}';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER fail BEFORE INSERT OR UPDATE ON jobs FOR EACH ROW EXECUTE FUNCTION fail();
"""
CONFLICTS = ("40P01", "40001", "55P03")
"""A deadlock, a serialization failure, a lock that is not to be had,"""
CODES = (*CONFLICTS, "53200")
"""and memory that is not."""
BATCH = 50
CALLS = 25
REFUSED_SECONDS_MAX = 2.5
"""Of all those calls, that share a process with their server; each alone has 2 s."""
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
SLOWDOWN_MAX = 4.0
"""Between batches; a busy neighbour makes a factor of two."""
REMOVED = """
DROP TRIGGER IF EXISTS fail ON jobs;
DROP FUNCTION IF EXISTS fail;
DROP SEQUENCE IF EXISTS faults;
"""


async def test_failed_statements_are_run_again(rig: Rig) -> None:
    """P1, P2: every seventh change of a job fails, as by a deadlock and so on; callers of the
    worker never see it, and callers of the server only as UNAVAILABLE, which the client retries.
    """
    await rig.worker("--concurrency", "4")
    connection = await asyncpg.connect(rig.stack.database_url)
    try:
        async with rig.client() as client:
            for code in CODES:
                await connection.execute(INJECTED.format(every=7, code=code))
                for _ in range(20):
                    with contextlib.suppress(HeadwayError):
                        rig.accept([await client.submit("fault.work", {})])
                await rig.done()
                assert await connection.fetchval("SELECT last_value FROM faults") > 7
                await connection.execute(REMOVED)
    finally:
        await connection.execute(REMOVED)
        await connection.close()
    assert len(rig.accepted) >= 15 * len(CODES)
    await rig.judge(without_fault=True)


@pytest.mark.parametrize("code", CONFLICTS)
async def test_a_conflict_is_no_failure(database: Database, code: str) -> None:
    """P1, P2: the store runs again what met another, so that nobody above it hears of that."""
    async with database.transaction() as connection:
        await connection.execute(INJECTED.format(every=2, code=code))
    worker = await PlayedWorker.register(database, "noop")
    for _ in range(10):
        item = submission()
        await submissions.submit(database, [item], queue_depth_max=None)
        await worker.complete(item.id)
    assert await database.fetchval("SELECT last_value FROM faults") >= 2 * 10 * 2


@pytest.mark.parametrize(
    "batches", [4, pytest.param(60, marks=pytest.mark.slow_faults, id="60, at length")]
)
async def test_an_idle_transaction_under_load_slows_nothing_down(rig: Rig, batches: int) -> None:
    """P11: a forgotten session pins the horizon, so that no dead row can be cleaned up, while jobs
    run in batches of 50; the last batches take no longer than the first.
    """
    await rig.worker("--concurrency", "10")
    times: list[float] = []
    holder = await asyncpg.connect(rig.stack.database_url)
    try:
        async with holder.transaction(isolation="repeatable_read"):
            await holder.fetch("SELECT count(*) FROM jobs")
            async with rig.client() as client:
                for _ in range(batches):
                    begun = time.monotonic()
                    await rig.submit(client, BATCH)
                    await rig.done()
                    times.append(time.monotonic() - begun)
            assert await holder.fetchval("SELECT count(*) FROM jobs") == 0
            held = await holder.fetchval(
                "SELECT age(backend_xmin) FROM pg_stat_activity WHERE pid = pg_backend_pid()"
            )
            assert held > batches, "it pinned nothing"
    finally:
        await holder.close()
    await rig.judge(without_fault=True)
    quarter = len(times) // 4
    first, last = (sorted(part)[quarter // 2] for part in (times[:quarter], times[-quarter:]))
    print(f"{BATCH} jobs beside an idle transaction: first {first:.2f} s, last {last:.2f} s")
    assert last <= SLOWDOWN_MAX * first


async def test_an_exhausted_pool_refuses_fast(database_url: str) -> None:
    """P9: UNAVAILABLE within the time of one call, never a hang, and the pool is whole after."""
    database = await Database.connect(database_url, name="small", size=2, timeout_seconds=0.8)
    try:
        async with database.transaction(timeout_seconds=5), database.transaction(timeout_seconds=5):
            begun = time.monotonic()
            submits = [
                submissions.submit(database, [submission()], queue_depth_max=None)
                for _ in range(50)
            ]
            answers = await asyncio.gather(*submits, return_exceptions=True)
            assert all(isinstance(answer, StoreUnavailable) for answer in answers)
            promised("50 submits, no connection free", time.monotonic() - begun, 2.0)
        submits = [
            submissions.submit(database, [submission()], queue_depth_max=None) for _ in range(50)
        ]
        await asyncio.gather(*submits)
        assert await database.fetchval("SELECT count(*) FROM jobs") == 50
    finally:
        await database.close()


async def test_a_locked_table_ends_no_relay(
    database_url: str, amqp_url: str, database: Database
) -> None:
    """P1, P9: somebody reindexes; the relay's poll gives up after a second, and polls again."""
    async with serving(database_url, amqp_url) as served:
        async with database.transaction(timeout_seconds=30) as holder:
            await holder.execute("LOCK TABLE outbox")
            await until(lambda: holder.fetchval(WAITING), "the relay waits")
            await until(lambda: holder.fetchval(f"SELECT ({WAITING}) = 0"), "it has given up")
        request = SubmitJobRequest(type="noop", delay=Duration(nanos=200_000_000))
        await served.stub.SubmitJob(request)  # due later: it is the poll that publishes it
        await until(lambda: database.fetchval("SELECT count(*) = 0 FROM outbox"), "published")


async def test_a_lock_that_stays_is_refused_in_time(database_url: str, database: Database) -> None:
    """P9: it is waited for again and again, but all tries together have the time of one call."""
    store = await Database.connect(database_url, name="waits", size=2, timeout_seconds=1.5)
    try:
        async with database.transaction(timeout_seconds=30) as holder:
            await holder.execute("LOCK TABLE jobs")
            begun = time.monotonic()
            with pytest.raises(StoreUnavailable):
                await submissions.submit(store, [submission()], queue_depth_max=None)
            took = time.monotonic() - begun
    finally:
        await store.close()
    assert took >= 1.0, "no lock was waited for"
    assert took <= 3.0, f"{took:.2f} s"


async def test_a_server_whose_pool_is_exhausted_refuses_fast(
    database_url: str, amqp_url: str, database: Database
) -> None:
    """P9: every connection of its calls waits for a lock; each further call is told so in time.

    Those that get no connection are no worse off than those that have one.
    """
    async with serving(database_url, amqp_url) as served:
        job = (await served.stub.SubmitJob(SubmitJobRequest(type="noop"))).job
        async with database.transaction(timeout_seconds=30) as holder:
            await holder.execute("LOCK TABLE jobs")
            begun = time.monotonic()
            calls = [served.stub.CancelJob(CancelJobRequest(job_id=job.id)) for _ in range(CALLS)]
            calls += [served.stub.SubmitJob(SubmitJobRequest(type="noop")) for _ in range(CALLS)]
            answering = asyncio.gather(*calls, return_exceptions=True)
            waiting = 0
            while not answering.done():
                waiting = max(waiting, await holder.fetchval(WAITING))
                await asyncio.sleep(0.02)
            took = time.monotonic() - begun
            answers = await answering
        assert waiting > 1, "nobody waits for the lock"
        for answer in answers:
            assert isinstance(answer, grpc.aio.AioRpcError)
            assert answer.code() is grpc.StatusCode.UNAVAILABLE
        promised(f"{2 * CALLS} calls, no connection free", took, REFUSED_SECONDS_MAX)
        assert (await served.stub.GetJob(GetJobRequest(job_id=job.id))).job.id == job.id
