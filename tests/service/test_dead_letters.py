"""ListDeadLetters and ReplayDeadLetter."""

import asyncio
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from uuid_utils.compat import uuid7

from headway.v1 import (
    CancelJobRequest,
    DeadLetter,
    DeadLetterFilter,
    GetJobRequest,
    JobState,
    ListDeadLettersRequest,
    ReplayDeadLetterRequest,
    ReplayDeadLetterResponse,
    SubmitJobRequest,
)
from headway_core.database import Database
from tests.service.conftest import JOB_TYPE
from tests.service.serving import Served, refusal
from tests.service.worker import PlayedWorker


async def dead_job(served: Served, worker: PlayedWorker, message: str = "no use") -> str:
    job_id: str = (await served.stub.SubmitJob(SubmitJobRequest(type=JOB_TYPE))).job.id
    await worker.kill(job_id, message)
    return job_id


async def listed(served: Served, **chosen: object) -> list[DeadLetter]:
    request = ListDeadLettersRequest(filter=DeadLetterFilter(**chosen), page_size=2)  # type: ignore[arg-type]
    found: list[DeadLetter] = []
    while True:
        response = await served.stub.ListDeadLetters(request)
        assert not response.groups
        found += response.dead_letters
        if not response.next_page_token:
            return found
        request.page_token = response.next_page_token


async def replay(served: Served, **fields: object) -> ReplayDeadLetterResponse:
    request = ReplayDeadLetterRequest(**fields)  # type: ignore[arg-type]
    response: ReplayDeadLetterResponse = await served.stub.ReplayDeadLetter(request)
    return response


async def state(served: Served, job_id: str) -> int:
    found: int = (await served.stub.GetJob(GetJobRequest(job_id=job_id))).job.state
    return found


async def test_dead_letters_are_listed_latest_first_with_their_reason(
    served: Served, worker: PlayedWorker
) -> None:
    """Over pages, each with what an operator needs to decide."""
    jobs = [await dead_job(served, worker, f"row {n} is broken") for n in range(5)]
    found = await listed(served)
    assert [letter.job.id for letter in found] == jobs[::-1]
    assert "row 4 is broken" in found[0].reason
    assert found[0].job.state == JobState.JOB_STATE_DEAD
    assert found[0].job.error.type == "PermanentError"
    assert len({letter.fingerprint for letter in found}) == 1, "alike but for a number"
    assert abs(found[0].dead_time.ToDatetime(UTC) - datetime.now(UTC)) < timedelta(minutes=1)


async def test_alike_deaths_are_grouped_largest_first(served: Served, worker: PlayedWorker) -> None:
    """With count, first and last; groups have one page."""
    for n in range(3):
        await dead_job(served, worker, f"row {n}")
    await dead_job(served, worker, "disk full")
    response = await served.stub.ListDeadLetters(ListDeadLettersRequest(group=True))
    assert [group.count for group in response.groups] == [3, 1]
    rows = response.groups[0]
    assert (rows.type, rows.queue, rows.error.message) == (JOB_TYPE, "default", "row 2")
    assert rows.first_dead_time.ToDatetime() < rows.last_dead_time.ToDatetime()
    assert not response.dead_letters
    assert not response.next_page_token
    assert len(await listed(served, fingerprint=rows.fingerprint)) == 3
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.stub.ListDeadLetters(ListDeadLettersRequest(group=True, page_token="x"))
    assert refusal(caught.value).fields.keys() == {"page_token"}


async def test_a_dead_job_is_replayed_under_its_own_id(
    served: Served, worker: PlayedWorker, database: Database
) -> None:
    """Fresh budgets, and gone from the dead letters."""
    job_id = await dead_job(served, worker)
    response = await replay(served, job_id=job_id)
    assert response.replayed_count == 1
    (job,) = response.jobs
    assert job.id == job_id
    assert job.state == JobState.JOB_STATE_PENDING
    assert job.attempt == 0
    assert not job.HasField("error")
    assert not await listed(served)
    await worker.complete(job_id)
    assert await state(served, job_id) == JobState.JOB_STATE_COMPLETED
    assert await database.fetchval("SELECT run_epoch FROM jobs") == 2, "the fence goes on"


async def test_a_job_already_replayed_is_left_as_it_is(
    served: Served, worker: PlayedWorker
) -> None:
    """Fifty at once bring it back once; later ones find it replayed, not an error."""
    job_id = await dead_job(served, worker)
    responses = await asyncio.gather(*(replay(served, job_id=job_id) for _ in range(50)))
    assert sum(response.replayed_count for response in responses) == 1
    later = await replay(served, job_id=job_id)
    assert later.replayed_count == 0
    assert [job.id for job in later.jobs] == [job_id]
    assert (await replay(served, job_id=job_id, dry_run=True)).replayed_count == 0


@pytest.mark.parametrize("dry_run", [False, True])
async def test_a_job_that_never_died_cannot_be_replayed(served: Served, dry_run: bool) -> None:
    """FAILED_PRECONDITION, with the state that it has."""
    job_id = (await served.stub.SubmitJob(SubmitJobRequest(type=JOB_TYPE))).job.id
    await served.stub.CancelJob(CancelJobRequest(job_id=job_id))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await replay(served, job_id=job_id, dry_run=dry_run)
    found = refusal(caught.value)
    assert found.code is grpc.StatusCode.FAILED_PRECONDITION
    assert found.reason == "JOB_NOT_DEAD"
    assert found.metadata == {"job_id": job_id, "state": "CANCELLED"}
    assert found.details.keys() == {"PreconditionFailure"}


async def test_an_unknown_job_cannot_be_replayed(served: Served) -> None:
    """NOT_FOUND."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await replay(served, job_id=str(uuid7()))
    assert refusal(caught.value).reason == "JOB_NOT_FOUND"


async def test_a_dry_run_changes_nothing(served: Served, worker: PlayedWorker) -> None:
    """It tells which jobs, and how many."""
    jobs = [await dead_job(served, worker) for _ in range(2)]
    one = await replay(served, job_id=jobs[0], dry_run=True)
    assert (one.replayed_count, [job.id for job in one.jobs]) == (1, [jobs[0]])
    both = await replay(served, allow_all=True, dry_run=True)
    assert (both.replayed_count, [job.id for job in both.jobs]) == (2, jobs)
    assert len(await listed(served)) == 2


async def test_a_filter_replays_what_matches_oldest_death_first(
    served: Served, worker: PlayedWorker
) -> None:
    """Up to max_jobs, and says whether there are more."""
    rows = [await dead_job(served, worker, f"row {n}") for n in range(3)]
    disk = await dead_job(served, worker, "disk full")
    fingerprint = next(
        letter.fingerprint for letter in await listed(served) if letter.job.id == rows[0]
    )
    chosen = DeadLetterFilter(fingerprint=fingerprint)
    first = await replay(served, filter=chosen, max_jobs=2)
    assert (first.replayed_count, first.more) == (2, True)
    assert [job.id for job in first.jobs] == rows[:2]
    second = await replay(served, filter=chosen, max_jobs=2)
    assert (second.replayed_count, second.more) == (1, False)
    assert [letter.job.id for letter in await listed(served)] == [disk]
    nothing = await replay(served, filter=DeadLetterFilter(type="no.such"))
    assert (nothing.replayed_count, list(nothing.jobs)) == (0, [])


async def test_times_choose_deaths(served: Served, worker: PlayedWorker) -> None:
    """At or after, and before."""
    for _ in range(2):
        await dead_job(served, worker)
    later, earlier = await listed(served)
    assert await listed(served, dead_time_from=later.dead_time) == [later]
    assert await listed(served, dead_time_to=later.dead_time) == [earlier]
    ahead = Timestamp()
    ahead.FromDatetime(datetime.now(UTC) + timedelta(hours=1))
    assert await listed(served, dead_time_from=ahead) == []


async def test_everything_is_replayed_only_if_asked_for(
    served: Served, worker: PlayedWorker
) -> None:
    """Naming nothing is INVALID_ARGUMENT; `allow_all` is the word."""
    await dead_job(served, worker)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await replay(served)
    found = refusal(caught.value)
    assert found.code is grpc.StatusCode.INVALID_ARGUMENT
    assert found.reason == "FILTER_REQUIRED"
    assert found.fields.keys() == {"filter"}
    assert (await replay(served, allow_all=True)).replayed_count == 1
    assert not await listed(served)


async def test_a_token_of_dead_letters_belongs_to_its_filter(
    served: Served, worker: PlayedWorker
) -> None:
    """As with jobs, and one listing's token is none of the other's."""
    for _ in range(2):
        await dead_job(served, worker)
    token = (await served.stub.ListDeadLetters(ListDeadLettersRequest(page_size=1))).next_page_token
    wrong = ListDeadLettersRequest(page_token=token, filter=DeadLetterFilter(type=JOB_TYPE))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.stub.ListDeadLetters(wrong)
    assert refusal(caught.value).fields.keys() == {"page_token"}
