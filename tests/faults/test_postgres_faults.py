"""P1, P2, P4, P9: Postgres is killed, cut off, frozen, busy and full while jobs run."""

import asyncio
import contextlib
import time

import asyncpg
import pytest

from headway import HeadwayError
from headway_core import submissions
from headway_core.database import Database
from headway_core.errors import StoreUnavailable
from tests.faults.proxy import proxied
from tests.faults.rig import Rig, until
from tests.store.conftest import submission

SERVING_SECONDS_MAX = 5.0
AWAY_SECONDS = 7.0
"""Two leases of 3 s: they lapse after one, and executors without Postgres are ended after two."""


@pytest.mark.faults
async def test_a_killed_postgres_costs_no_accepted_job(service_rig: Rig) -> None:
    """P1, P9: SIGKILL under load, started again; callers hear of it and ask again with their keys.

    Recovery: serving again ≤ 5 s after it is back.
    """
    rig = service_rig
    await rig.worker("--concurrency", "8")
    refused: list[float] = []
    accepted_at: list[float] = []
    ended = asyncio.Event()

    async with rig.client() as client:

        async def submit() -> None:
            while not ended.is_set():
                begun = time.monotonic()
                try:
                    rig.accept([await client.submit("fault.work", {"seconds": 0.05})])
                    accepted_at.append(time.monotonic())
                except HeadwayError:
                    refused.append(time.monotonic() - begun)
                await asyncio.sleep(0.01)

        tasks = [asyncio.create_task(submit()) for _ in range(4)]
        await until(lambda: len(rig.accepted) > 40, "jobs are accepted")
        await asyncio.to_thread(rig.services.postgres.kill)
        assert not rig.services.postgres.is_running
        await asyncio.sleep(1)
        await asyncio.to_thread(rig.services.postgres.start)
        back = time.monotonic()
        count = len(accepted_at)
        await until(lambda: len(accepted_at) > count + 4, "submits are accepted again")
        took = accepted_at[count] - back
        print(f"Postgres back -> serving: {took:.2f} s")
        ended.set()
        await asyncio.gather(*tasks)
    await rig.judge()
    assert took <= SERVING_SECONDS_MAX


@pytest.mark.faults
async def test_nobody_is_reaped_while_postgres_is_away_longer_than_the_lease(
    service_rig: Rig,
) -> None:
    """P2, P4, P9: 100 jobs run, some end meanwhile: each is executed once, settled once it is back.

    Model trace 10: every lease has expired when Postgres returns, and the reaper waits. So does the
    supervisor, which ends executors that lack Postgres while it has it itself.
    """
    rig = service_rig
    await rig.workers(2, "--concurrency", "50")
    journal, first, second = rig.journal(), rig.gate(), rig.gate()
    async with rig.client() as client:
        await rig.submit(client, 20, journal=str(journal), until=str(first))
        await rig.submit(client, 80, journal=str(journal), until=str(second))
        await journal.begun(100)
        await asyncio.to_thread(rig.services.postgres.kill)
        first.touch()
        await until(lambda: len(journal.lines("end")) == 20, "some end while it is away")
        await asyncio.sleep(AWAY_SECONDS)
        await asyncio.to_thread(rig.services.postgres.start)
        await asyncio.sleep(4)  # the reaper's wait of one lease is over: it would judge now
        second.touch()
        await rig.done()
    assert set(journal.runs().values()) == {1}
    rows = await rig.query("SELECT max(run_epoch) FROM jobs")
    assert rows[0][0] == 1
    await rig.judge()


@pytest.mark.faults
async def test_an_executor_cut_off_from_postgres_is_ended(service_rig: Rig) -> None:
    """P4, model trace 6: its supervisor beats on; after two leases its jobs run elsewhere."""
    rig = service_rig
    async with proxied(rig.stack.database_url) as proxy:
        cut_off = await rig.worker("--concurrency", "2", HEADWAY_DATABASE_URL=proxy.url)
        journal, gate = rig.journal(), rig.gate()
        async with rig.client() as client:
            waiting = await rig.submit(client, 2, journal=str(journal), until=str(gate))
            await journal.begun(2)
            await rig.worker()
            assert proxy.cut("headway-worker$") > 0
            await journal.begun(4)
            gate.touch()
            await rig.done()
            assert "cut off from Postgres" in cut_off.child.log.read_text()
            for job in waiting:
                events = await rig.history(job.id)
                assert events == ["SUBMITTED", "STARTED", "INTERRUPTED", "STARTED", "COMPLETED"]
        proxy.heal()
        await rig.judge()


@pytest.mark.faults
@pytest.mark.slow_faults
async def test_a_worker_with_a_black_hole_for_a_postgres_comes_back(service_rig: Rig) -> None:
    """P2, P4: nothing is closed and nothing answers, for longer than the lease; then all passes.

    Its jobs may have been reaped and run elsewhere; whatever it writes late changes nothing.
    """
    rig = service_rig
    async with proxied(rig.stack.database_url) as proxy:
        await rig.worker("--concurrency", "2", HEADWAY_DATABASE_URL=proxy.url)
        journal, gate = rig.journal(), rig.gate()
        async with rig.client() as client:
            await rig.submit(client, 2, journal=str(journal), until=str(gate))
            await journal.begun(2)
            await rig.worker()
            proxy.freeze()
            gate.touch()
            await asyncio.sleep(AWAY_SECONDS)
            proxy.heal()
            await rig.submit(client, 6, journal=str(journal))
            await rig.done()
        await rig.judge()


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
REMOVED = "DROP TRIGGER IF EXISTS fail ON jobs; DROP FUNCTION IF EXISTS fail; DROP SEQUENCE faults"


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("40P01", id="deadlock"),
        pytest.param("40001", id="conflict", marks=pytest.mark.slow_faults),
        pytest.param("55P03", id="lock", marks=pytest.mark.slow_faults),
        pytest.param("53100", id="disk full"),
    ],
)
async def test_a_failed_statement_is_run_again(rig: Rig, code: str) -> None:
    """P1, P2: every seventh change of a job fails, as by a deadlock or a full disk; callers of the
    worker never see it, and callers of the server only as UNAVAILABLE, which the client retries.
    """
    await rig.worker("--concurrency", "4")
    connection = await asyncpg.connect(rig.stack.database_url)
    try:
        await connection.execute(INJECTED.format(every=7, code=code))
        async with rig.client() as client:
            for _ in range(20):
                with contextlib.suppress(HeadwayError):
                    rig.accept([await client.submit("fault.work", {})])
            await rig.done()
        assert await connection.fetchval("SELECT last_value FROM faults") > 7
    finally:
        await connection.execute(REMOVED)
        await connection.close()
    await rig.judge()


async def test_an_idle_transaction_under_load_slows_nothing_down(rig: Rig) -> None:
    """P11: a forgotten session that pins the horizon, while 200 jobs run."""
    await rig.worker("--concurrency", "10")
    holder = await asyncpg.connect(rig.stack.database_url)
    try:
        async with holder.transaction(isolation="repeatable_read"):
            await holder.fetch("SELECT count(*) FROM jobs")
            begun = time.monotonic()
            async with rig.client() as client:
                for _ in range(4):
                    await rig.submit(client, 50)
                    await rig.done()
            print(f"200 jobs beside an idle transaction: {time.monotonic() - begun:.2f} s")
            assert await holder.fetchval("SELECT count(*) FROM jobs") == 0
    finally:
        await holder.close()
    await rig.judge(without_fault=True)


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
            assert time.monotonic() - begun < 2
        submits = [
            submissions.submit(database, [submission()], queue_depth_max=None) for _ in range(50)
        ]
        await asyncio.gather(*submits)
        assert await database.fetchval("SELECT count(*) FROM jobs") == 50
    finally:
        await database.close()
