"""From `headway.v1` messages to the plain values of `headway.jobs` and `headway.updates`."""

from datetime import UTC, datetime, timedelta

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from headway import v1
from headway.jobs import (
    DeadLetter,
    DeadLetterGroup,
    Job,
    JobError,
    JobState,
    Progress,
    Replay,
)
from headway.payloads import decode
from headway.updates import Event, EventType


def job(message: v1.Job, *, created: bool | None = None) -> Job:
    """A job; what the view left out is None."""
    return Job(
        id=message.id,
        type=message.type,
        queue=message.queue,
        priority=message.priority,
        state=_STATES.get(message.state, JobState.UNKNOWN),
        done=message.done,
        attempt=message.attempt,
        max_attempts=message.max_attempts,
        sequence=message.sequence,
        payload=decode(message.payload) if message.HasField("payload") else None,
        result=decode(message.result) if message.HasField("result") else None,
        error=error(message.error) if message.HasField("error") else None,
        progress=progress(message.progress) if message.HasField("progress") else None,
        labels=dict(message.labels),
        trace_id=message.trace_id,
        create_time=_time(message, "create_time"),
        queue_time=_time(message, "queue_time"),
        start_time=_time(message, "start_time"),
        end_time=_time(message, "end_time"),
        next_attempt_time=_time(message, "next_attempt_time"),
        created=created,
    )


def error(message: v1.JobError) -> JobError:
    """Why an attempt failed."""
    return JobError(type=message.type, message=message.message, retryable=message.retryable)


def progress(message: v1.Progress) -> Progress:
    """How far an attempt has come."""
    remaining = message.estimated_remaining if message.HasField("estimated_remaining") else None
    return Progress(
        fraction=message.fraction if message.HasField("fraction") else None,
        done=message.done,
        total=message.total if message.HasField("total") else None,
        step=message.step,
        message=message.message,
        estimated_remaining=None if remaining is None else remaining.ToTimedelta(),
        update_time=_time(message, "update_time"),
    )


def event(message: v1.JobEvent) -> Event:
    """One entry of a job's history."""
    return Event(
        sequence=message.sequence,
        event_time=_time(message, "event_time"),
        type=_EVENT_TYPES.get(message.type, EventType.UNKNOWN),
        attempt=message.attempt,
        message=message.message,
        job=job(message.job),
    )


def dead_letter(message: v1.DeadLetter) -> DeadLetter:
    """A DEAD job."""
    return DeadLetter(
        job=job(message.job),
        fingerprint=message.fingerprint,
        reason=message.reason,
        dead_time=_time(message, "dead_time"),
    )


def dead_letter_group(message: v1.DeadLetterGroup) -> DeadLetterGroup:
    """A set of alike deaths."""
    return DeadLetterGroup(
        fingerprint=message.fingerprint,
        type=message.type,
        queue=message.queue,
        error=error(message.error) if message.HasField("error") else None,
        count=message.count,
        first_dead_time=_time(message, "first_dead_time"),
        last_dead_time=_time(message, "last_dead_time"),
    )


def replay(message: v1.ReplayDeadLetterResponse) -> Replay:
    """What a replay did."""
    return Replay(
        jobs=tuple(job(item) for item in message.jobs),
        replayed_count=message.replayed_count,
        more=message.more,
    )


def state_number(state: JobState | str) -> v1.JobState.ValueType:
    """The enum value of a state given by its short name. Raises ValueError for another word."""
    return v1.JobState.Value(f"JOB_STATE_{JobState(state)}")


def duration(value: timedelta | float) -> Duration:
    """A number means seconds."""
    message = Duration()
    message.FromTimedelta(value if isinstance(value, timedelta) else timedelta(seconds=value))
    return message


def timestamp(value: datetime) -> Timestamp:
    """Refuses a datetime without a time zone, which could mean two moments."""
    if value.tzinfo is None:
        raise ValueError(f"{value.isoformat()} has no time zone; use .astimezone()")
    message = Timestamp()
    message.FromDatetime(value)
    return message


def _time(message: Message, field: str) -> datetime | None:
    if not message.HasField(field):
        return None
    value: Timestamp = getattr(message, field)
    return value.ToDatetime(UTC)


_STATES = {
    number: JobState(name.removeprefix("JOB_STATE_"))
    for name, number in v1.JobState.items()
    if number
}
_EVENT_TYPES = {
    number: EventType(name.removeprefix("JOB_EVENT_TYPE_"))
    for name, number in v1.JobEventType.items()
    if number
}
