"""The core's rows to the messages of `headway.v1`."""

from headway.v1 import (
    DeadLetter,
    DeadLetterGroup,
    Job,
    JobError,
    JobEvent,
    JobEventType,
    JobState,
    Progress,
    WatchJobResponse,
)
from headway_core import dead_letters, events
from headway_core import job as core
from headway_server.payloads import from_content
from headway_server.times import duration, timestamp, write_timestamp


def job_message(job: core.Job) -> Job:
    """The job. Payload and result are in it if they were read, so FULL is the reader's choice."""
    message = Job()
    write_job(message, job)
    return message


def write_job(message: Job, job: core.Job) -> None:
    """Fill the message, which may be a field of another."""
    message.id = str(job.id)
    message.type = job.type
    message.queue = job.queue
    message.priority = job.priority
    message.state = JobState.ValueType(job.state)
    message.done = job.done
    message.attempt = job.attempt
    message.max_attempts = job.max_attempts
    message.sequence = job.sequence
    message.trace_id = job.trace_id
    write_timestamp(message.create_time, job.create_time)
    if job.labels:
        message.labels.update(job.labels)
    if job.payload is not None:
        message.payload.CopyFrom(from_content(job.payload))
    if job.result is not None:
        message.result.CopyFrom(from_content(job.result))
    if job.error is not None:
        message.error.CopyFrom(error_message(job.error))
    if job.progress is not None:
        message.progress.CopyFrom(progress_message(job.progress))
    if job.queue_time is not None:
        write_timestamp(message.queue_time, job.queue_time)
    if job.start_time is not None:
        write_timestamp(message.start_time, job.start_time)
    if job.end_time is not None:
        write_timestamp(message.end_time, job.end_time)
    if job.next_attempt_time is not None:
        write_timestamp(message.next_attempt_time, job.next_attempt_time)


def error_message(error: core.JobError) -> JobError:
    """Why an attempt failed."""
    return JobError(type=error.type, message=error.message, retryable=error.retryable)


def progress_message(progress: core.Progress) -> Progress:
    """How far a run has come."""
    message = Progress(
        done=progress.done,
        step=progress.step,
        message=progress.message,
        update_time=timestamp(progress.update_time),
    )
    if progress.fraction is not None:
        message.fraction = progress.fraction
    if progress.total is not None:
        message.total = progress.total
    if progress.estimated_remaining is not None:
        message.estimated_remaining.CopyFrom(duration(progress.estimated_remaining))
    return message


def event_message(event: events.Event) -> JobEvent:
    """One entry of a job's history."""
    return JobEvent(
        sequence=event.sequence,
        event_time=timestamp(event.time),
        type=JobEventType.ValueType(event.type),
        attempt=event.attempt,
        message=event.message,
        job=job_message(event.job),
    )


def event_response(event: events.Event) -> WatchJobResponse:
    """One entry of a job's history, as a stream tells of it."""
    return WatchJobResponse(event=event_message(event), sequence=event.sequence)


def dead_letter_message(letter: dead_letters.DeadLetter) -> DeadLetter:
    """A DEAD job."""
    return DeadLetter(
        job=job_message(letter.job),
        fingerprint=letter.fingerprint,
        reason=letter.reason,
        dead_time=timestamp(letter.dead_time),
    )


def dead_letter_group_message(group: dead_letters.DeadLetterGroup) -> DeadLetterGroup:
    """A set of alike deaths."""
    return DeadLetterGroup(
        fingerprint=group.fingerprint,
        type=group.type,
        queue=group.queue,
        error=error_message(group.error) if group.error is not None else None,
        count=group.count,
        first_dead_time=timestamp(group.first_dead_time),
        last_dead_time=timestamp(group.last_dead_time),
    )
