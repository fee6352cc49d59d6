"""A server removes old jobs by itself, and says NOT_FOUND of them."""

import asyncio
from datetime import timedelta
from uuid import UUID

import grpc
import pytest

from headway.v1 import (
    GetJobRequest,
    Job,
    ListJobsRequest,
    Payload,
    SubmitJobRequest,
    WatchJobRequest,
)
from headway_core.database import Database
from headway_core.errors import StoreUnavailable
from headway_server import retention as retention_module
from headway_server.retention import Retention
from tests.service.conftest import JOB_TYPE
from tests.service.eventually import eventually, running_beside
from tests.service.serving import Served, refusal, serving
from tests.service.worker import PlayedWorker

YEAR = timedelta(days=365)


async def submit(served: Served, **fields: object) -> Job:
    request = SubmitJobRequest(**{"type": JOB_TYPE, **fields})  # type: ignore[arg-type]
    job: Job = (await served.stub.SubmitJob(request)).job
    return job


async def age(database: Database, *job_ids: str) -> list[str]:
    """Let jobs have been submitted and done a year ago; return the IDs that go with that."""
    aged = []
    for job_id in job_ids:
        old = UUID(int=UUID(job_id).int - (int(YEAR.total_seconds() * 1000) << 80))
        await database.execute(
            "WITH event AS (UPDATE job_events SET job_id = $2 WHERE job_id = $1), "
            "key AS (UPDATE idempotency_keys SET job_id = $2 WHERE job_id = $1) "
            "UPDATE jobs SET id = $2, end_time = end_time - $3::interval WHERE id = $1",
            UUID(job_id),
            old,
            YEAR,
        )
        aged.append(str(old))
    return aged


async def test_a_removed_job_is_not_found_and_its_key_still_its_own(
    database_url: str,
    amqp_url: str,
    database: Database,
    worker: PlayedWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By the server's own loop; younger jobs and dead letters are as before."""
    monkeypatch.setattr(retention_module, "PERIOD", timedelta(milliseconds=50))
    async with serving(database_url, amqp_url, HEADWAY_RETENTION_DAYS="7") as served:
        young, dead = await submit(served), await submit(served)
        await worker.complete(young.id)
        await worker.kill(dead.id)
        gone = await submit(served, idempotency_key="k", payload=Payload(data=b"1"))
        await worker.complete(gone.id)
        await eventually(lambda: _is_empty(database, "outbox"))
        gone_id, dead_id = await age(database, gone.id, dead.id)

        async def removed() -> bool:
            return not await database.fetchval("SELECT count(*) FROM jobs WHERE id = $1", gone_id)

        await eventually(removed)
        for call in (
            served.stub.GetJob(GetJobRequest(job_id=gone_id)),
            served.stub.WatchJob(WatchJobRequest(job_id=gone_id)).read(),
            served.stub.WatchJob(WatchJobRequest(job_id=gone_id, after_sequence=2)).read(),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert refusal(caught.value).code is grpc.StatusCode.NOT_FOUND
            assert refusal(caught.value).reason == "JOB_NOT_FOUND"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await submit(served, idempotency_key="k", payload=Payload(data=b"1"))
        assert refusal(caught.value).reason == "IDEMPOTENCY_KEY_REUSED"
        assert refusal(caught.value).metadata == {"job_id": gone_id}
        listed = {job.id for job in (await served.stub.ListJobs(ListJobsRequest())).jobs}
        assert listed == {young.id, dead_id}


async def _is_empty(database: Database, table: str) -> bool:
    return not await database.fetchval(f"SELECT count(*) FROM {table}")


async def _store_old_jobs(database: Database, count: int) -> None:
    """COMPLETED a year ago, an event each."""
    await database.execute(
        "WITH job AS ("
        "  INSERT INTO jobs (id, type, queue, queue_given, priority, state, traceparent, end_time) "
        "  SELECT ('016e0000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 'noop', "
        "  'default', false, 4, 4, '', clock_timestamp() - interval '1 year' "
        "  FROM generate_series(1, $1::integer) AS n RETURNING id) "
        "INSERT INTO job_events (job_id, sequence, type, state, attempt, run_epoch) "
        "SELECT id, 1, 1, 4, 0, 0 FROM job",
        count,
    )


async def test_servers_that_remove_at_the_same_time_share_the_work(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No leader: each walks for itself, in steps, and none gets into another's way."""
    monkeypatch.setattr(retention_module, "JOBS_A_STEP", 100)
    monkeypatch.setattr(retention_module, "PERIOD", timedelta(0))
    await _store_old_jobs(database, 2000)
    loops = [Retention(database, finished_for=timedelta(days=7)) for _ in range(3)]
    async with running_beside(*(loop.run() for loop in loops)):
        await eventually(lambda: _is_empty(database, "jobs"))
    assert await _is_empty(database, "job_events")


async def test_a_walk_goes_on_where_it_stopped_and_begins_anew_once_a_day(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stays is not read again every minute; what became old behind it is found later."""
    walk = Retention(database, finished_for=timedelta(days=7))
    await _store_old_jobs(database, 10)
    await database.execute("UPDATE jobs SET end_time = clock_timestamp()")
    await walk.remove()
    await database.execute("UPDATE jobs SET end_time = clock_timestamp() - interval '8 days'")
    await walk.remove()
    assert await database.fetchval("SELECT count(*) FROM jobs") == 10, "behind it"
    monkeypatch.setattr(retention_module, "monotonic", _later(timedelta(days=1)))
    await walk.remove()
    assert await _is_empty(database, "jobs")


async def test_jobs_too_many_for_one_transaction_get_through_in_smaller_steps(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some have thousands of events: a step that takes too long is halved until it does not."""
    monkeypatch.setattr(retention_module, "PERIOD", timedelta(0))
    await _store_old_jobs(database, 64)
    real, limits = retention_module.retention.remove_finished, []

    async def slow(*arguments: object, limit: int, **others: object) -> object:
        limits.append(limit)
        if limit > 16:
            raise StoreUnavailable("the database does not answer: TimeoutError")
        return await real(*arguments, limit=limit, **others)  # type: ignore[arg-type]

    monkeypatch.setattr(retention_module.retention, "remove_finished", slow)
    async with running_beside(Retention(database, finished_for=timedelta(days=7)).run()):
        await eventually(lambda: _is_empty(database, "jobs"))
    assert limits[0] == retention_module.JOBS_A_STEP
    assert min(limits) > 4


def _later(than_now: timedelta):  # type: ignore[no-untyped-def]
    time = asyncio.get_running_loop().time
    return lambda: time() + than_now.total_seconds() + 1
