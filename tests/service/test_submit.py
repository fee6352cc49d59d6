"""SubmitJob and BatchSubmitJobs."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from headway.v1 import (
    BatchSubmitJobsRequest,
    JobState,
    Payload,
    RetryPolicy,
    SubmitJobRequest,
)
from headway_core.claims import Claim
from headway_core.database import Database
from tests.service.conftest import JOB_TYPE
from tests.service.serving import Served, refusal, serving
from tests.service.worker import PlayedWorker


def payload(**fields: Any) -> Payload:
    found = Payload()
    found.json.update(fields)
    return found


async def count_jobs(database: Database) -> int:
    found = await database.fetchval("SELECT count(*) FROM jobs")
    assert isinstance(found, int)
    return found


async def test_a_submitted_job_is_stored_and_answered_with_its_id(
    served: Served, database: Database
) -> None:
    """The answer tells all that is known of a job that waits."""
    before = datetime.now(UTC)
    response = await served.stub.SubmitJob(
        SubmitJobRequest(
            type=JOB_TYPE,
            queue="reports",
            payload=payload(country="FR"),
            priority=7,
            labels={"team": "billing"},
            retry_policy=RetryPolicy(max_attempts=2),
        )
    )
    job = response.job
    assert response.created
    assert (job.type, job.queue, job.priority) == (JOB_TYPE, "reports", 7)
    assert job.state == JobState.JOB_STATE_PENDING
    assert not job.done
    assert (job.sequence, job.attempt, job.max_attempts) == (1, 0, 2)
    assert dict(job.labels) == {"team": "billing"}
    assert len(job.trace_id) == 32
    assert not job.HasField("payload"), "BASIC"
    assert abs(job.create_time.ToDatetime(UTC) - before) < timedelta(seconds=5)
    assert await count_jobs(database) == 1


async def test_what_is_not_set_takes_the_defaults(served: Served) -> None:
    """Priority 4, queue `default`, five attempts, due at once."""
    job = (await served.stub.SubmitJob(SubmitJobRequest(type=JOB_TYPE))).job
    assert (job.queue, job.priority, job.max_attempts) == ("default", 4, 5)


async def test_priority_zero_is_not_the_default(served: Served) -> None:
    """Explicit presence: 0 is the lowest."""
    job = (await served.stub.SubmitJob(SubmitJobRequest(type=JOB_TYPE, priority=0))).job
    assert job.priority == 0


async def test_a_worker_gets_what_was_submitted(served: Served, worker: PlayedWorker) -> None:
    """Payload, policy, timeout, labels and trace arrive in the claim."""
    request = SubmitJobRequest(
        type=JOB_TYPE,
        payload=payload(year=2026),
        timeout=Duration(seconds=90),
        retry_policy=RetryPolicy(
            max_attempts=3, initial_backoff=Duration(nanos=500_000_000), multiplier=1.5
        ),
        labels={"a": "b"},
    )
    caller = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    response = await served.stub.SubmitJob(request, metadata=(("traceparent", caller),))
    claim = await worker.claim(response.job.id)
    assert claim.payload is not None
    assert claim.payload.data == b'{"year":2026}'
    assert claim.timeout == timedelta(seconds=90)
    assert claim.policy.max_attempts == 3
    assert claim.policy.initial_backoff == timedelta(seconds=0.5)
    assert claim.policy.max_backoff == timedelta(seconds=60)
    assert claim.policy.multiplier == 1.5
    assert claim.labels == {"a": "b"}
    assert claim.traceparent[3:35] == "0af7651916cd43dd8448eb211c80319c" == response.job.trace_id


async def test_a_delayed_job_is_due_later(served: Served) -> None:
    """`delay` and `run_time` are two ways to say it; a past time is now."""
    later = await served.stub.SubmitJob(
        SubmitJobRequest(type=JOB_TYPE, delay=Duration(seconds=3600))
    )
    wait = later.job.next_attempt_time.ToDatetime(UTC) - datetime.now(UTC)
    assert timedelta(minutes=59) < wait < timedelta(minutes=61)
    past = await served.stub.SubmitJob(
        SubmitJobRequest(type=JOB_TYPE, run_time=Timestamp(seconds=1))
    )
    assert past.job.next_attempt_time.ToDatetime(UTC) - datetime.now(UTC) < timedelta(seconds=5)


async def test_200_concurrent_submits_with_one_key_make_one_job(
    served: Served, database: Database
) -> None:
    """One key, one job (P6), however they race; exactly one caller made it."""
    request = SubmitJobRequest(type=JOB_TYPE, idempotency_key="once", payload=payload(n=1))
    responses = await asyncio.gather(*(served.stub.SubmitJob(request) for _ in range(200)))
    assert len({response.job.id for response in responses}) == 1
    assert sum(response.created for response in responses) == 1
    assert await count_jobs(database) == 1


async def test_a_key_with_another_request_is_refused_and_names_the_job(
    served: Served, database: Database
) -> None:
    """A key stands for one request; `delay` counts as it was given."""
    first = SubmitJobRequest(type=JOB_TYPE, idempotency_key="k", delay=Duration(seconds=60))
    job = (await served.stub.SubmitJob(first)).job
    assert (await served.stub.SubmitJob(first)).job.id == job.id
    other = SubmitJobRequest(type=JOB_TYPE, idempotency_key="k", delay=Duration(seconds=61))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.stub.SubmitJob(other)
    found = refusal(caught.value)
    assert found.code is grpc.StatusCode.ALREADY_EXISTS
    assert found.reason == "IDEMPOTENCY_KEY_REUSED"
    assert found.metadata == {"job_id": job.id}
    assert found.details["ResourceInfo"].resource_name == job.id  # type: ignore[attr-defined]
    assert '"k"' not in found.message
    assert await count_jobs(database) == 1


async def test_a_known_key_answers_with_the_job_as_it_stands_now(
    served: Served, worker: PlayedWorker
) -> None:
    """A retry after the job has run gets the finished job, not an old picture."""
    request = SubmitJobRequest(type=JOB_TYPE, idempotency_key="k")
    job = (await served.stub.SubmitJob(request)).job
    await worker.complete(job.id)
    again = await served.stub.SubmitJob(request)
    assert not again.created
    assert again.job.state == JobState.JOB_STATE_COMPLETED


async def test_a_batch_is_stored_whole_in_order(served: Served, database: Database) -> None:
    """A thousand jobs in one commit, answered in the order asked."""
    requests = [SubmitJobRequest(type=JOB_TYPE, labels={"n": str(n)}) for n in range(1000)]
    responses = (
        await served.stub.BatchSubmitJobs(BatchSubmitJobsRequest(requests=requests))
    ).responses
    assert [response.job.labels["n"] for response in responses] == [str(n) for n in range(1000)]
    assert all(response.created for response in responses)
    assert await count_jobs(database) == 1000


async def test_a_batch_with_one_wrong_job_stores_nothing(
    served: Served, database: Database
) -> None:
    """All violations of all jobs at once, each with the way to its field."""
    requests = [SubmitJobRequest(type=JOB_TYPE) for _ in range(5)]
    requests[1].type = "Not A Type"
    requests[3].priority = 10
    requests[3].payload.json.update({"x": float("nan")})
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.stub.BatchSubmitJobs(BatchSubmitJobsRequest(requests=requests))
    assert refusal(caught.value).fields.keys() == {
        "requests[1].type",
        "requests[3].priority",
        "requests[3].payload.json.x",
    }
    assert await count_jobs(database) == 0


async def test_a_batch_with_one_reused_key_stores_nothing(
    served: Served, database: Database
) -> None:
    """What Postgres refuses undoes the others, too, and names the culprit."""
    known = SubmitJobRequest(type=JOB_TYPE, idempotency_key="k")
    job = (await served.stub.SubmitJob(known)).job
    requests = [
        SubmitJobRequest(type=JOB_TYPE, idempotency_key="new"),
        SubmitJobRequest(type=JOB_TYPE, idempotency_key="k", priority=9),
    ]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.stub.BatchSubmitJobs(BatchSubmitJobsRequest(requests=requests))
    found = refusal(caught.value)
    assert found.reason == "IDEMPOTENCY_KEY_REUSED"
    assert found.metadata == {"job_id": job.id, "index": "1"}
    assert await count_jobs(database) == 1
    requests[1] = known
    responses = (
        await served.stub.BatchSubmitJobs(BatchSubmitJobsRequest(requests=requests))
    ).responses
    assert [response.created for response in responses] == [True, False]
    assert responses[1].job.id == job.id


async def test_a_batch_tells_apart_two_jobs_with_the_same_key(
    served: Served, database: Database
) -> None:
    """The same request twice is one job; two requests under one key are refused."""
    same = SubmitJobRequest(type=JOB_TYPE, idempotency_key="k")
    responses = (
        await served.stub.BatchSubmitJobs(BatchSubmitJobsRequest(requests=[same, same]))
    ).responses
    assert responses[0].job.id == responses[1].job.id
    assert [response.created for response in responses] == [True, False]
    other = [
        SubmitJobRequest(type=JOB_TYPE, idempotency_key="x", priority=1),
        SubmitJobRequest(type=JOB_TYPE, idempotency_key="x", priority=2),
    ]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.stub.BatchSubmitJobs(BatchSubmitJobsRequest(requests=other))
    assert refusal(caught.value).reason == "IDEMPOTENCY_KEY_REUSED"
    assert await count_jobs(database) == 1


@pytest.mark.parametrize("count", [0, 1001])
async def test_a_batch_has_one_to_a_thousand_jobs(served: Served, count: int) -> None:
    """Empty is a mistake, and the bound keeps a commit short."""
    requests = [SubmitJobRequest(type=JOB_TYPE)] * count
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.stub.BatchSubmitJobs(BatchSubmitJobsRequest(requests=requests))
    assert refusal(caught.value).fields.keys() == {"requests"}


async def test_a_batch_of_more_than_4_mib_is_refused_with_a_reason(served: Served) -> None:
    """The limit of gRPC itself would say nothing of ours."""
    big = payload(x="y" * 250_000)
    requests = [SubmitJobRequest(type=JOB_TYPE, payload=big)] * 17
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.stub.BatchSubmitJobs(BatchSubmitJobsRequest(requests=requests))
    assert refusal(caught.value).fields.keys() == {"requests"}


async def test_a_batch_whose_answer_nobody_would_take_is_not_stored(
    served: Served, database: Database
) -> None:
    """Labels come back in the answer: 4 MiB of them would be committed and then fail."""
    labels = {f"label-{n}": "x" * 250 for n in range(15)}
    requests = [SubmitJobRequest(type=JOB_TYPE, labels=labels)] * 1000
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.stub.BatchSubmitJobs(BatchSubmitJobsRequest(requests=requests))
    assert refusal(caught.value).fields.keys() == {"requests"}
    assert await count_jobs(database) == 0


async def test_a_full_queue_refuses_with_limit_depth_and_delay(
    database_url: str, amqp_url: str
) -> None:
    """RESOURCE_EXHAUSTED with what a caller needs to wait sensibly; other queues go on."""
    async with serving(database_url, amqp_url, HEADWAY_QUEUE_DEPTH_MAX="2") as served:
        for _ in range(2):
            await served.stub.SubmitJob(SubmitJobRequest(type=JOB_TYPE))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await served.stub.SubmitJob(SubmitJobRequest(type=JOB_TYPE))
        found = refusal(caught.value)
        assert found.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert found.reason == "QUEUE_FULL"
        assert found.metadata == {"queue": "default", "limit": "2", "depth": "2"}
        assert found.details.keys() == {"QuotaFailure", "RetryInfo"}
        assert found.details["RetryInfo"].retry_delay.ToTimedelta() > timedelta(0)  # type: ignore[attr-defined]
        await served.stub.SubmitJob(SubmitJobRequest(type=JOB_TYPE, queue="other"))


async def test_the_257th_queue_is_refused(served: Served) -> None:
    """Each queue is two at the broker: their number is bounded, and known ones go on."""
    requests = [SubmitJobRequest(type=JOB_TYPE, queue=f"q{n}") for n in range(255)]
    await served.stub.BatchSubmitJobs(BatchSubmitJobsRequest(requests=requests))
    for submit in (
        lambda: served.stub.SubmitJob(SubmitJobRequest(type=JOB_TYPE, queue="one-more")),
        lambda: served.stub.BatchSubmitJobs(
            BatchSubmitJobsRequest(requests=[SubmitJobRequest(type=JOB_TYPE, queue="one-more")])
        ),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await submit()
        found = refusal(caught.value)
        assert found.code is grpc.StatusCode.FAILED_PRECONDITION
        assert found.reason == "TOO_MANY_QUEUES"
        assert found.metadata.items() >= {"queue": "one-more", "limit": "256"}.items()
        assert found.details.keys() == {"PreconditionFailure"}
    await served.stub.SubmitJob(SubmitJobRequest(type=JOB_TYPE, queue="q7"))


async def test_a_job_of_each_batch_can_be_claimed(served: Served, worker: PlayedWorker) -> None:
    """A batch leaves jobs like any other, with a trace each."""
    requests = [SubmitJobRequest(type=JOB_TYPE) for _ in range(3)]
    responses = (
        await served.stub.BatchSubmitJobs(BatchSubmitJobsRequest(requests=requests))
    ).responses
    taken = [await worker.claim(response.job.id) for response in responses]
    assert all(isinstance(claim, Claim) for claim in taken)
    assert len({claim.traceparent[3:35] for claim in taken}) == 3
