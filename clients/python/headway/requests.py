"""Requests as the service takes them, built the same way for `Client` and `SyncClient`."""

import uuid
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, TypeVar

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from headway import convert, v1
from headway.convert import duration, state_number, timestamp
from headway.errors import InvalidRequest, JobCancelled, JobDied, Violation
from headway.jobs import DeadLetterFilter, Job, JobState, PayloadOut, RetryPolicy, Submission
from headway.payloads import encode

PAGE_SIZE = 1000
FULL_PAGE_SIZE = 50
"""Jobs a page when payloads and results come along: at most 25 MiB."""

MessageT = TypeVar("MessageT", bound=Message)


def submit(submission: Submission) -> v1.SubmitJobRequest:
    """One job. Without a key of the caller's it gets a random one, so that a retry is safe."""
    request = _build(
        v1.SubmitJobRequest,
        type=submission.type,
        queue=submission.queue or "",
        payload=encode(submission.payload),
        priority=submission.priority,
        idempotency_key=submission.idempotency_key or str(uuid.uuid4()),
        labels=submission.labels,
    )
    if submission.delay is not None and submission.run_time is not None:
        raise ValueError("give delay or run_time, not both")
    if submission.delay is not None:
        request.delay.CopyFrom(duration(submission.delay))
    if submission.run_time is not None:
        request.run_time.CopyFrom(timestamp(submission.run_time))
    if submission.retry_policy is not None:
        request.retry_policy.CopyFrom(_retry_policy(submission.retry_policy))
    if submission.timeout is not None:
        request.timeout.CopyFrom(duration(submission.timeout))
    return request


def submit_many(submissions: Iterable[Submission]) -> v1.BatchSubmitJobsRequest:
    """Several jobs for one commit."""
    return v1.BatchSubmitJobsRequest(requests=map(submit, submissions))


def submitted(submission: Submission, response: v1.SubmitJobResponse) -> Job:
    """The job, and whether it is new.

    Under a random key of our own it always is: the server finds one there only if the answer to an
    earlier try of the same call was lost.
    """
    created = response.created or not submission.idempotency_key
    return convert.job(response.job, created=created)


def outcome(job: Job) -> PayloadOut:
    """The result of a done job that was fetched in full. Raises JobDied or JobCancelled."""
    match job.state:
        case JobState.DEAD:
            raise JobDied(job)
        case JobState.CANCELLED:
            raise JobCancelled(job)
    return job.result


def get(job_id: str, *, full: bool) -> v1.GetJobRequest:
    """One job."""
    return _build(v1.GetJobRequest, job_id=job_id, view=_view(full))


def cancel(job_id: str, *, reason: str) -> v1.CancelJobRequest:
    """One job, and why."""
    return _build(v1.CancelJobRequest, job_id=job_id, reason=reason)


def list_jobs(
    *,
    states: Iterable[JobState | str],
    type: str | None,  # noqa: A002 - the service's word
    queue: str | None,
    labels: Mapping[str, str] | None,
    create_time_from: datetime | None,
    create_time_to: datetime | None,
    full: bool,
    limit: int | None,
) -> v1.ListJobsRequest:
    """The first page; its answer's token goes into the next."""
    return _build(
        v1.ListJobsRequest,
        page_size=_page_size(limit, FULL_PAGE_SIZE if full else PAGE_SIZE),
        states=list(map(state_number, [states] if isinstance(states, str) else states)),
        type=type or "",
        queue=queue or "",
        labels=labels,
        create_time_from=_timestamp(create_time_from),
        create_time_to=_timestamp(create_time_to),
        view=_view(full),
    )


def dead_letter_filter(chosen: DeadLetterFilter | None) -> v1.DeadLetterFilter | None:
    """Which dead letters; None if nothing narrows them down."""
    if chosen is None:
        return None
    request = _build(
        v1.DeadLetterFilter,
        type=chosen.type or "",
        queue=chosen.queue or "",
        fingerprint=chosen.fingerprint or "",
        dead_time_from=_timestamp(chosen.dead_time_from),
        dead_time_to=_timestamp(chosen.dead_time_to),
    )
    return request if request.ByteSize() else None


def dead_letters(
    chosen: DeadLetterFilter | None, *, group: bool, limit: int | None
) -> v1.ListDeadLettersRequest:
    """The first page of dead letters, or all the groups that are wanted."""
    return _build(
        v1.ListDeadLettersRequest,
        page_size=_page_size(limit, PAGE_SIZE),
        filter=dead_letter_filter(chosen),
        group=group,
    )


def replay(
    chosen: str | DeadLetterFilter | None,
    *,
    allow_all: bool,
    dry_run: bool,
    max_jobs: int | None,
) -> v1.ReplayDeadLetterRequest:
    """One job by ID, those that a filter chooses, or all."""
    return _build(
        v1.ReplayDeadLetterRequest,
        job_id=chosen if isinstance(chosen, str) else "",
        filter=None if isinstance(chosen, str) else dead_letter_filter(chosen),
        allow_all=allow_all,
        dry_run=dry_run,
        max_jobs=max_jobs or 0,
    )


def watch(
    job_id: str, *, after_sequence: int | None, min_progress_interval: timedelta | float | None
) -> v1.WatchJobRequest:
    """A stream of one job's updates."""
    interval = None if min_progress_interval is None else duration(min_progress_interval)
    return _build(
        v1.WatchJobRequest,
        job_id=job_id,
        after_sequence=after_sequence,
        min_progress_interval=interval,
    )


def _build(kind: type[MessageT], **fields: Any) -> MessageT:
    """Make a message. Raises InvalidRequest, naming the fields that no message can hold."""
    try:
        return kind(**fields)
    except ValueError as error:
        wrong = [_violation(kind, name, value) for name, value in fields.items()]
        violations = tuple(violation for violation in wrong if violation)
        raise InvalidRequest(str(error), violations) from error


def _violation(kind: type[Message], name: str, value: object) -> Violation | None:
    try:
        kind(**{name: value})
    except UnicodeEncodeError:
        return Violation(name, "is not Unicode text")
    except ValueError:
        return Violation(name, f"{value!r:.40} is out of range")
    return None


def _retry_policy(policy: RetryPolicy) -> v1.RetryPolicy:
    initial, longest = policy.initial_backoff, policy.max_backoff
    return _build(
        v1.RetryPolicy,
        max_attempts=policy.max_attempts,
        initial_backoff=None if initial is None else duration(initial),
        max_backoff=None if longest is None else duration(longest),
        multiplier=policy.multiplier,
    )


def _page_size(limit: int | None, largest: int) -> int:
    return largest if limit is None else max(1, min(limit, largest))


def _timestamp(value: datetime | None) -> Timestamp | None:
    return None if value is None else timestamp(value)


def _view(full: bool) -> v1.JobView.ValueType:
    return v1.JobView.JOB_VIEW_FULL if full else v1.JobView.JOB_VIEW_BASIC
