"""A job whose history a test writes."""

import asyncio
from dataclasses import dataclass, field

from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct

from headway import v1

DONE = {
    v1.JobState.JOB_STATE_COMPLETED,
    v1.JobState.JOB_STATE_DEAD,
    v1.JobState.JOB_STATE_CANCELLED,
}


@dataclass
class ScriptedJob:
    """A job whose history the test writes."""

    job: v1.Job
    events: list[v1.JobEvent] = field(default_factory=list)
    forgotten: int = 0
    """Events up to this sequence are gone."""
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    progress_count: int = 0

    async def event(self, kind: str, state: str, message: str = "", **changes: object) -> None:
        """Write the next event of the history."""
        job = self.job
        job.state = v1.JobState.Value(f"JOB_STATE_{state}")
        job.done = job.state in DONE
        job.sequence += 1
        for name, value in changes.items():
            if isinstance(value, Message):
                getattr(job, name).CopyFrom(value)
            else:
                setattr(job, name, value)
        entry = v1.JobEvent(
            sequence=job.sequence,
            type=v1.JobEventType.Value(f"JOB_EVENT_TYPE_{kind}"),
            attempt=job.attempt,
            message=message,
            job=job,
        )
        entry.event_time.GetCurrentTime()
        entry.job.ClearField("payload")
        self.events.append(entry)
        await self._wake()

    async def start(self, attempt: int = 1) -> None:
        await self.event("STARTED", "RUNNING", attempt=attempt)

    async def advance(self, done: float, total: float, step: str = "", message: str = "") -> None:
        """Report progress."""
        self.job.progress.CopyFrom(
            v1.Progress(fraction=done / total, done=done, total=total, step=step, message=message)
        )
        self.job.progress.estimated_remaining.FromSeconds(int(total - done))
        self.progress_count += 1
        await self._wake()

    async def retry(self, error: str = "no luck") -> None:
        failure = v1.JobError(type="ValueError", message=error, retryable=True)
        await self.event("RETRY_SCHEDULED", "FAILED", error=failure)

    async def complete(self, **result: object) -> None:
        stored = Struct()
        stored.update(result)
        self.job.ClearField("error")
        await self.event("COMPLETED", "COMPLETED", result=v1.Payload(json=stored))

    async def die(self, error: str = "no luck") -> None:
        failure = v1.JobError(type="ValueError", message=error, retryable=True)
        await self.event("DEAD", "DEAD", "attempts are used up", error=failure)

    async def _wake(self) -> None:
        async with self.changed:
            self.changed.notify_all()
