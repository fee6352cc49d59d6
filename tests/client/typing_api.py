"""Type-checked by test_typing.py, never run: what callers write, and the types they get."""

from datetime import UTC, datetime, timedelta
from typing import Any, assert_never, assert_type

from google.protobuf.message import Message

from headway import (
    Bookmark,
    Client,
    Data,
    DeadLetter,
    DeadLetterFilter,
    DeadLetterGroup,
    Event,
    EventType,
    Job,
    JobState,
    Progress,
    Replay,
    RetryPolicy,
    Snapshot,
    Submission,
    SyncClient,
    Update,
)
from headway.v1 import GetJobRequest, GetJobResponse, JobServiceStub


async def asynchronous(message: Message) -> None:
    async with Client("127.0.0.1:50051", call_timeout=timedelta(seconds=3)) as client:
        job = await client.submit(
            "report.pdf",
            {"country": "FR", "pages": [1, 2]},
            delay=5,
            run_time=datetime.now(UTC),
            retry_policy=RetryPolicy(max_attempts=3, initial_backoff=0.5),
            timeout=timedelta(minutes=5),
            labels={"team": "billing"},
        )
        assert_type(job, Job)
        assert_type(job.state, JobState)
        assert_type(job.created, bool | None)
        assert_type(job.payload, dict[str, Any] | Data | Message | None)
        await client.submit("report.pdf", b"raw")
        await client.submit("report.pdf", message)
        assert_type(await client.submit_many([Submission("a", {})]), tuple[Job, ...])
        async for listed in client.list(states=[JobState.DEAD, "FAILED"], limit=5):
            assert_type(listed, Job)
        async for letter in client.dead_letters(DeadLetterFilter(type="a")):
            assert_type(letter, DeadLetter)
        assert_type(await client.dead_letter_groups(), tuple[DeadLetterGroup, ...])
        assert_type(await client.replay(job.id, dry_run=True), Replay)
        assert_type(await client.wait(job.id, timeout=3), Job)
        assert_type(await client.result(job.id), Any)
        async for update in client.watch(job.id, after_sequence=job.sequence):
            assert_type(update, Update)
            match update:
                case Snapshot(job=current, reset=reset):
                    assert_type(current, Job)
                    assert_type(reset, bool)
                case Event(type=kind, sequence=sequence):
                    assert_type(kind, EventType)
                    assert_type(sequence, int)
                case Progress(fraction=fraction):
                    assert_type(fraction, float | None)
                case Bookmark():
                    pass
                case _:
                    assert_never(update)
        await client.submit("report.pdf", [1])  # type: ignore[arg-type]
        await client.get(7)  # type: ignore[arg-type]


def blocking() -> None:
    with SyncClient() as client:
        assert_type(client.submit("report.pdf"), Job)
        assert_type([item.id for item in client.list(type="a")], list[str])
        for update in client.watch("id"):
            assert_type(update, Update)


def stubs(stub: JobServiceStub) -> None:
    assert_type(stub.GetJob(GetJobRequest(job_id="x")), GetJobResponse)
    stub.GetJob("x")  # type: ignore[arg-type]
