"""Postgres away: a fast, clear UNAVAILABLE, nothing lost, and service again when it is back."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from uuid_utils.compat import uuid7

from headway.v1 import (
    BatchSubmitJobsRequest,
    CancelJobRequest,
    GetJobRequest,
    ListDeadLettersRequest,
    ListJobsRequest,
    ReplayDeadLetterRequest,
    SubmitJobRequest,
    WatchJobRequest,
)
from headway_core.database import Database
from headway_core.outcomes import Cancelled
from headway_dev.services import Services
from tests.service.conftest import JOB_TYPE
from tests.service.eventually import PATIENCE_SECONDS, eventually
from tests.service.proxy import Proxy, proxied
from tests.service.serving import Served, refusal, serving
from tests.service.worker import PlayedWorker

SUBMIT = SubmitJobRequest(type=JOB_TYPE)


def calls(served: Served) -> dict[str, Callable[[], Awaitable[Any]]]:
    """Each method, called so that it needs Postgres."""
    job_id = str(uuid7())
    stub = served.stub
    return {
        "SubmitJob": lambda: stub.SubmitJob(SUBMIT),
        "BatchSubmitJobs": lambda: stub.BatchSubmitJobs(BatchSubmitJobsRequest(requests=[SUBMIT])),
        "GetJob": lambda: stub.GetJob(GetJobRequest(job_id=job_id)),
        "ListJobs": lambda: stub.ListJobs(ListJobsRequest()),
        "WatchJob": lambda: stub.WatchJob(WatchJobRequest(job_id=job_id)).read(),
        "CancelJob": lambda: stub.CancelJob(CancelJobRequest(job_id=job_id)),
        "ListDeadLetters": lambda: stub.ListDeadLetters(ListDeadLettersRequest()),
        "ReplayDeadLetter": lambda: stub.ReplayDeadLetter(ReplayDeadLetterRequest(job_id=job_id)),
    }


async def seconds_to_refuse(call: Callable[[], Awaitable[Any]]) -> float:
    """How long it takes to hear DATABASE_UNAVAILABLE."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call()
    found = refusal(caught.value)
    assert found.code is grpc.StatusCode.UNAVAILABLE
    assert found.reason == "DATABASE_UNAVAILABLE"
    assert found.details.keys() == {"RetryInfo"}
    return loop.time() - begun


@pytest.mark.alone
@pytest.mark.parametrize("fault", [Proxy.cut, Proxy.freeze], ids=["stopped", "cut off"])
async def test_every_method_is_unavailable_within_two_seconds(
    database_url: str, amqp_url: str, fault: Callable[[Proxy], None]
) -> None:
    """Whether connections are refused or nothing answers at all; and it works again after."""
    async with (
        proxied(database_url) as (proxy, through),
        serving(through, amqp_url) as served,
    ):
        assert (await served.stub.SubmitJob(SUBMIT)).created
        fault(proxy)
        waits = await asyncio.gather(*map(seconds_to_refuse, calls(served).values()))
        assert max(waits) < 2.2, dict(zip(calls(served), waits, strict=True))
        proxy.heal()
        await eventually(lambda: _works(served))


@pytest.mark.alone
async def test_a_crowd_of_submits_is_refused_in_time(database_url: str, amqp_url: str) -> None:
    """A shared commit that hangs must not make the next one wait its full time, too."""
    async with (
        proxied(database_url) as (proxy, through),
        serving(through, amqp_url) as served,
    ):
        await served.stub.SubmitJob(SUBMIT)
        proxy.freeze()

        async def late(n: int) -> float:
            await asyncio.sleep(n / 100)
            return await seconds_to_refuse(lambda: served.stub.SubmitJob(SUBMIT))

        assert max(await asyncio.gather(*(late(n) for n in range(100)))) < 2.3


async def test_a_watch_is_resumed_over_an_outage_without_a_gap(
    database_url: str, amqp_url: str, database: Database
) -> None:
    """The stream may end with UNAVAILABLE; from its last sequence on nothing is missing."""
    async with (
        proxied(database_url) as (proxy, through),
        serving(through, amqp_url) as served,
    ):
        worker = await PlayedWorker.register(database, JOB_TYPE)
        job_id = (await served.stub.SubmitJob(SUBMIT)).job.id
        claim = await worker.claim(job_id)
        sequences = [0]

        async def follow() -> None:
            while True:
                call = served.stub.WatchJob(
                    WatchJobRequest(job_id=job_id, after_sequence=sequences[-1])
                )
                try:
                    while (response := await call.read()) is not grpc.aio.EOF:
                        if response.WhichOneof("update") == "event":
                            sequences.append(response.sequence)
                    return
                except grpc.aio.AioRpcError as error:
                    if error.code() is not grpc.StatusCode.UNAVAILABLE:
                        raise
                    await asyncio.sleep(0.1)

        async with asyncio.timeout(PATIENCE_SECONDS), asyncio.TaskGroup() as group:
            group.create_task(follow())
            for n in range(30):
                await worker.step(claim, str(n))
                if n == 10:
                    proxy.cut()
                if n == 20:
                    proxy.heal()
                await asyncio.sleep(0.1)
            await served.stub.CancelJob(CancelJobRequest(job_id=job_id))
            await database.execute("UPDATE workers SET lease_expires = clock_timestamp()")
            await worker.settle(claim, Cancelled("asked to"))
        assert sequences == list(range(len(sequences)))


async def test_health_follows_postgres_not_the_broker(database_url: str, amqp_url: str) -> None:
    """SERVING with the broker away, NOT_SERVING with Postgres away, and back."""
    async with (
        proxied(database_url) as (postgres, database_through),
        proxied(amqp_url) as (broker, amqp_through),
        serving(database_through, amqp_through) as served,
    ):
        broker.cut()
        for service in ("", "headway.v1.JobService"):
            await eventually(lambda name=service: _health(served, name, "SERVING"))  # type: ignore[misc]
        postgres.cut()
        for service in ("", "headway.v1.JobService"):
            await eventually(lambda name=service: _health(served, name, "NOT_SERVING"))  # type: ignore[misc]
        postgres.heal()
        await eventually(lambda: _health(served, "", "SERVING"))


@pytest.mark.faults
async def test_postgres_is_killed_and_comes_back(fault_services: Services) -> None:
    """The real thing: SIGKILL, refusals, restart, and every accepted job is there."""
    services = fault_services
    async with serving(services.database_url, services.amqp_url) as served:
        accepted = [(await served.stub.SubmitJob(SUBMIT)).job.id for _ in range(20)]
        await asyncio.to_thread(services.postgres.kill)
        await asyncio.gather(*map(seconds_to_refuse, calls(served).values()))
        await asyncio.to_thread(services.postgres.start)
        await eventually(lambda: _works(served))
        for job_id in accepted:
            assert (await served.stub.GetJob(GetJobRequest(job_id=job_id))).job.id == job_id


async def _works(served: Served) -> bool:
    try:
        await served.stub.SubmitJob(SUBMIT)
    except grpc.aio.AioRpcError:
        return False
    return True


async def _health(served: Served, service: str, state: str) -> bool:
    stub: Any = HealthStub(served.channel)  # type: ignore[arg-type]
    found = await stub.Check(HealthCheckRequest(service=service))
    return HealthCheckResponse.ServingStatus.Name(found.status) == state
