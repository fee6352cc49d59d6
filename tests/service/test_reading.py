"""GetJob and ListJobs."""

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from uuid_utils.compat import uuid7

from headway.v1 import (
    BatchSubmitJobsRequest,
    GetJobRequest,
    Job,
    JobState,
    JobView,
    ListJobsRequest,
    Payload,
    SubmitJobRequest,
)
from headway_core import jobs
from headway_core.job import JobError
from headway_core.outcomes import Failed
from tests.service.conftest import JOB_TYPE
from tests.service.serving import Served, refusal
from tests.service.worker import PlayedWorker

FULL = JobView.JOB_VIEW_FULL


async def submit(served: Served, **fields: object) -> Job:
    request = SubmitJobRequest(**{"type": JOB_TYPE, **fields})  # type: ignore[arg-type]
    job: Job = (await served.stub.SubmitJob(request)).job
    return job


async def all_pages(served: Served, request: ListJobsRequest) -> list[list[Job]]:
    """Follow the tokens to the end."""
    pages = []
    while True:
        response = await served.stub.ListJobs(request)
        pages.append(list(response.jobs))
        if not response.next_page_token:
            return pages
        request.page_token = response.next_page_token


async def test_a_job_is_read_lean_or_full(served: Served, worker: PlayedWorker) -> None:
    """Payload and result only where they are asked for."""
    payload = Payload(content_type="x")
    payload.json.update({"n": 1})
    job = await submit(served, payload=payload)
    await worker.complete(job.id, {"pages": 12})
    lean = (await served.stub.GetJob(GetJobRequest(job_id=job.id))).job
    assert lean.state == JobState.JOB_STATE_COMPLETED
    assert lean.done
    assert not lean.HasField("payload")
    assert not lean.HasField("result")
    assert lean.HasField("start_time")
    assert lean.HasField("end_time")
    assert lean.attempt == 1
    full = (await served.stub.GetJob(GetJobRequest(job_id=job.id, view=FULL))).job
    assert full.payload == payload
    assert full.result.json["pages"] == 12


async def test_a_failed_attempt_shows_its_error_and_the_next(
    served: Served, worker: PlayedWorker
) -> None:
    """FAILED is not final."""
    job = await submit(served)
    claim = await worker.claim(job.id)
    await worker.settle(claim, Failed(JobError("ValueError", "no", retryable=True)))
    found = (await served.stub.GetJob(GetJobRequest(job_id=job.id))).job
    assert found.state in {JobState.JOB_STATE_FAILED, JobState.JOB_STATE_QUEUED}
    assert not found.done
    assert (found.error.type, found.error.message, found.error.retryable) == (
        "ValueError",
        "no",
        True,
    )


async def test_an_unknown_id_is_not_found_never_pending(served: Served) -> None:
    """With the resource named."""
    unknown = str(uuid7())
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.stub.GetJob(GetJobRequest(job_id=unknown))
    found = refusal(caught.value)
    assert found.code is grpc.StatusCode.NOT_FOUND
    assert found.reason == "JOB_NOT_FOUND"
    assert found.metadata == {"job_id": unknown}
    resource = found.details["ResourceInfo"]
    assert resource.resource_type == "headway.v1.Job"  # type: ignore[attr-defined]
    assert resource.resource_name == unknown  # type: ignore[attr-defined]


async def test_pages_join_without_gap_or_overlap_newest_first(served: Served) -> None:
    """While new jobs come in at the front."""
    for _ in range(10):
        await submit(served)
    first = await served.stub.ListJobs(ListJobsRequest(page_size=3))
    await submit(served)
    rest = await all_pages(served, ListJobsRequest(page_size=3, page_token=first.next_page_token))
    ids = [job.id for job in first.jobs] + [job.id for page in rest for job in page]
    assert len(ids) == 10
    assert ids == sorted(ids, reverse=True)
    assert [len(page) for page in rest] == [3, 3, 1]


async def test_a_last_page_that_is_full_has_no_token(served: Served) -> None:
    """The empty token is the only end mark, so it comes with the last job."""
    for _ in range(4):
        await submit(served)
    assert [len(page) for page in await all_pages(served, ListJobsRequest(page_size=2))] == [2, 2]


async def test_an_empty_list_is_one_empty_page(served: Served) -> None:
    """And no error."""
    assert await all_pages(served, ListJobsRequest()) == [[]]


async def test_a_page_ends_before_it_is_too_large_for_a_client(served: Served) -> None:
    """Clients take 4 MiB a message; the token leads on."""
    request = SubmitJobRequest(type=JOB_TYPE, payload=Payload(data=b"x" * 262_144))
    for _ in range(2):
        await served.stub.BatchSubmitJobs(BatchSubmitJobsRequest(requests=[request] * 15))
    pages = await all_pages(served, ListJobsRequest(view=FULL))
    assert sum(len(page) for page in pages) == 30
    assert len(pages) == 3
    assert len({job.id for page in pages for job in page}) == 30


async def test_a_token_belongs_to_its_filter(served: Served) -> None:
    """Size and view may change from page to page, the filter may not; nor does a token travel."""
    for _ in range(3):
        await submit(served, labels={"a": "b"})
    token = (
        await served.stub.ListJobs(ListJobsRequest(page_size=1, labels={"a": "b"}))
    ).next_page_token
    again = ListJobsRequest(page_size=2, labels={"a": "b"}, view=FULL, page_token=token)
    assert len((await served.stub.ListJobs(again)).jobs) == 2
    for wrong in (
        ListJobsRequest(page_token=token),
        ListJobsRequest(page_token=token, labels={"a": "c"}),
        ListJobsRequest(page_token=token[:-4], labels={"a": "b"}),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await served.stub.ListJobs(wrong)
        assert refusal(caught.value).fields.keys() == {"page_token"}


async def test_filters_must_all_hold(served: Served, worker: PlayedWorker) -> None:
    """State, type, queue, labels and time."""
    plain = await submit(served)
    reports = await submit(served, queue="reports", labels={"team": "a", "kind": "x"})
    other = await submit(served, type="other.type", labels={"team": "a"})
    await worker.complete(plain.id)

    async def found(**fields: object) -> set[str]:
        request = ListJobsRequest(**fields)  # type: ignore[arg-type]
        return {job.id for page in await all_pages(served, request) for job in page}

    assert await found(states=[JobState.JOB_STATE_COMPLETED]) == {plain.id}
    assert await found(type="other.type") == {other.id}
    assert await found(queue="reports") == {reports.id}
    assert await found(labels={"team": "a"}) == {reports.id, other.id}
    assert await found(labels={"team": "a", "kind": "x"}) == {reports.id}
    assert await found(labels={"team": "a"}, queue="nowhere") == set()
    soon = Timestamp()
    soon.FromDatetime(datetime.now(UTC) + timedelta(minutes=1))
    assert await found(create_time_to=soon) == {plain.id, reports.id, other.id}
    assert await found(create_time_from=soon) == set()
    assert await found(create_time_from=reports.create_time) == {reports.id, other.id}


async def test_a_page_may_be_empty_and_lead_on(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call looks at a bounded number of jobs; only an empty token is the end."""
    rare = await submit(served, type="rare.type")
    for _ in range(25):
        await submit(served)
    monkeypatch.setattr(jobs, "LOOK_AT_MAX", 10)
    pages = await all_pages(served, ListJobsRequest(type="rare.type"))
    assert [[job.id for job in page] for page in pages] == [[], [], [rare.id]]
    pages = await all_pages(served, ListJobsRequest(page_size=4, type=JOB_TYPE))
    assert len({job.id for page in pages for job in page}) == 25


async def test_ids_are_uuid7_and_lower_case(served: Served) -> None:
    """They sort by time, which the pages rely on."""
    jobs = await asyncio.gather(*(submit(served) for _ in range(20)))
    assert {UUID(job.id).version for job in jobs} == {7}
    assert all(job.id == job.id.lower() for job in jobs)
