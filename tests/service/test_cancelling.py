"""CancelJob."""

from uuid import UUID

import grpc
import pytest
from pydantic import SecretStr
from uuid_utils.compat import uuid7

from headway.v1 import CancelJobRequest, JobState, SubmitJobRequest
from headway_core import events
from headway_core.database import Database
from headway_core.hint_codec import CancelHint, Hint
from headway_core.hints import HintListener
from headway_core.outcomes import Cancelled
from headway_core.states import EventType
from tests.service.conftest import JOB_TYPE
from tests.service.eventually import eventually, running_beside
from tests.service.serving import Served, refusal
from tests.service.worker import PlayedWorker


async def submit(served: Served) -> str:
    job_id: str = (await served.stub.SubmitJob(SubmitJobRequest(type=JOB_TYPE))).job.id
    return job_id


async def test_a_waiting_job_is_cancelled_at_once_and_for_good(
    served: Served, database: Database
) -> None:
    """With the reason in its history; asking again changes nothing."""
    job_id = await submit(served)
    request = CancelJobRequest(job_id=job_id, reason="no longer wanted")
    job = (await served.stub.CancelJob(request)).job
    assert job.state == JobState.JOB_STATE_CANCELLED
    assert job.done
    again = (await served.stub.CancelJob(request)).job
    assert again.sequence == job.sequence
    history = await events.after(database, UUID(job_id), 0, limit=10)
    assert history[-1].type is EventType.CANCELLED
    assert history[-1].message == "no longer wanted"


async def test_a_running_job_is_asked_and_its_worker_is_told(
    served: Served, amqp_url: str, worker: PlayedWorker
) -> None:
    """A hint goes out, the request stands, and the worker's end becomes CANCELLED."""
    heard: list[Hint] = []
    listener = HintListener(
        SecretStr(amqp_url),
        name="test",
        callback=heard.append,
        on_reconnect=lambda: None,
    )
    async with running_beside(listener.run()):
        await eventually(lambda: listener.connected)
        claim = await worker.claim(await submit(served))
        request = CancelJobRequest(job_id=str(claim.job_id), reason="stop")
        job = (await served.stub.CancelJob(request)).job
        assert job.state == JobState.JOB_STATE_RUNNING
        await eventually(lambda: CancelHint(claim.job_id) in heard)
    await worker.settle(claim, Cancelled("asked to"))
    done = (await served.stub.CancelJob(request)).job
    assert done.state == JobState.JOB_STATE_CANCELLED


async def test_a_completed_job_stays_as_it_is(served: Served, worker: PlayedWorker) -> None:
    """Cancelling is idempotent, not an error."""
    job_id = await submit(served)
    await worker.complete(job_id)
    job = (await served.stub.CancelJob(CancelJobRequest(job_id=job_id))).job
    assert job.state == JobState.JOB_STATE_COMPLETED


async def test_an_unknown_job_cannot_be_cancelled(served: Served) -> None:
    """NOT_FOUND."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.stub.CancelJob(CancelJobRequest(job_id=str(uuid7())))
    assert refusal(caught.value).reason == "JOB_NOT_FOUND"
