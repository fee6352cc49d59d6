"""P1, P2, P4, P9: Postgres is killed, cut off and frozen while jobs run."""

import asyncio
import time
from typing import Any

import grpc
import pytest
from google.protobuf.struct_pb2 import Struct

from headway import HeadwayError
from headway.client import Client
from headway.v1 import GetJobRequest, JobServiceStub, ListJobsRequest, Payload, SubmitJobRequest
from tests.faults.proxy import proxied
from tests.faults.rig import INTERRUPTED_ONCE, LEASE_SECONDS, Rig
from tests.faults.waiting import promised, until

pytestmark = pytest.mark.faults

SERVING_SECONDS_MAX = 5.0
AWAY_SECONDS = 2 * LEASE_SECONDS + 1
"""They lapse after one lease, and executors without Postgres are ended after two."""


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
        await asyncio.sleep(3)  # longer than gRPC's own retries hide it
        await asyncio.to_thread(rig.services.postgres.start)
        back = time.monotonic()
        count = len(accepted_at)
        await until(lambda: len(accepted_at) > count + 4, "submits are accepted again")
        took = accepted_at[count] - back
        ended.set()
        await asyncio.gather(*tasks)
    assert refused, "nobody noticed"
    await rig.judge()
    promised("Postgres back -> serving", took, SERVING_SECONDS_MAX)


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
        assert not rig.services.postgres.is_running
        first.touch()
        await until(lambda: len(journal.lines("end")) == 20, "some end while it is away")
        await asyncio.sleep(AWAY_SECONDS)
        await asyncio.to_thread(rig.services.postgres.start)
        # The reaper's wait of one lease is over then: it would judge.
        await asyncio.sleep(LEASE_SECONDS + 1)
        second.touch()
        await rig.done()
    assert set(journal.runs().values()) == {1}
    await rig.judge(without_fault=True)


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
            assert "cut off from Postgres" in cut_off.log
            for job in waiting:
                events = await rig.history(job.id)
                assert events == INTERRUPTED_ONCE
        proxy.heal()
        await rig.judge()


async def test_a_worker_with_a_black_hole_for_a_postgres_comes_back(service_rig: Rig) -> None:
    """P2, P4: nothing is closed and nothing answers, for longer than the lease; then all passes.

    Its jobs may have been reaped and run elsewhere; whatever it writes late changes nothing.
    """
    rig = service_rig
    async with proxied(rig.stack.database_url) as proxy:
        cut_off = await rig.worker("--concurrency", "2", HEADWAY_DATABASE_URL=proxy.url)
        journal, gate = rig.journal(), rig.gate()
        async with rig.client() as client:
            jobs = await rig.submit(client, 2, journal=str(journal), until=str(gate))
            await journal.begun(2)
            await rig.worker()
            proxy.freeze()
            gate.touch()
            await journal.begun(4)
            assert "heartbeat_failed" in cut_off.log
            proxy.heal()
            await rig.submit(client, 6, journal=str(journal))
            await rig.done()
            for job in jobs:
                events = await rig.history(job.id)
                assert events == INTERRUPTED_ONCE
        await rig.judge()


async def test_a_server_with_a_black_hole_for_a_postgres_refuses_fast(service_rig: Rig) -> None:
    """P9: every call is answered, UNAVAILABLE, in two seconds; once all passes, it serves again."""
    rig = service_rig
    await rig.worker()
    async with proxied(rig.stack.database_url) as proxy:
        await rig.start_elsewhere(HEADWAY_DATABASE_URL=proxy.url)
        async with (
            grpc.aio.insecure_channel(rig.elsewhere) as channel,
            Client(rig.elsewhere) as client,
        ):
            stub: Any = JobServiceStub(channel)
            (job,) = await rig.submit(client, 1)
            await rig.done()
            proxy.freeze()
            # It may be stored all the same, once Postgres reads on: so it can be asked for again.
            late = SubmitJobRequest(
                type="fault.work", payload=Payload(json=Struct()), idempotency_key="late"
            )
            calls = {
                "a submit": lambda: stub.SubmitJob(late),
                "a get": lambda: stub.GetJob(GetJobRequest(job_id=job.id)),
                "a list": lambda: stub.ListJobs(ListJobsRequest()),
            }
            for what, call in calls.items():
                begun = time.monotonic()
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await call()
                assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
                promised(f"{what}, Postgres a black hole", time.monotonic() - begun, 2.0)
            proxy.heal()
            await rig.submit(client, 2)
        await rig.judge()
