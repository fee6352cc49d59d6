"""Records of the jobs table as values, and values as columns of a statement."""

from typing import Final, TypeVar

import orjson

from headway_core.content import Content, ContentKind
from headway_core.database import Record
from headway_core.job import DEFAULT_POLICY, Dispatch, Job, JobError, Progress, RetryPolicy
from headway_core.states import JobState

Value = TypeVar("Value")

_DUE_STATES: Final = (JobState.PENDING, JobState.FAILED)


def job(record: Record) -> Job:
    """A job from the columns of `jobs.get`, `jobs.list` or `events.after`."""
    state = JobState(record["state"])
    return Job(
        id=record["id"],
        type=record["type"],
        queue=record["queue"],
        priority=record["priority"],
        state=state,
        payload=content(record, "payload"),
        result=content(record, "result"),
        error=error(record),
        progress=progress(record["progress"]),
        attempt=record["attempt"],
        max_attempts=given(record["max_attempts"], DEFAULT_POLICY.max_attempts),
        labels=orjson.loads(record["labels"]) if record["labels"] else {},
        sequence=record["sequence"],
        run_epoch=record["run_epoch"],
        dispatch_no=record["dispatch_no"],
        traceparent=record["traceparent"],
        tracestate=record["tracestate"],
        create_time=record["create_time"],
        queue_time=record["queue_time"],
        start_time=record["start_time"],
        end_time=record["end_time"],
        next_attempt_time=record["wait_time"] if state in _DUE_STATES else None,
    )


def content(record: Record, name: str) -> Content | None:
    """A payload or result from its three columns."""
    kind = record[f"{name}_kind"]
    if kind is None:
        return None
    return Content(ContentKind(kind), record[name], record[f"{name}_type"] or "")


def error(record: Record) -> JobError | None:
    """A job's last error."""
    if record["error_type"] is None:
        return None
    return JobError(record["error_type"], record["error_message"] or "", record["error_retryable"])


def progress(data: bytes | None) -> Progress | None:
    """Progress from its column."""
    return Progress.from_bytes(data) if data is not None else None


def policy(record: Record) -> RetryPolicy:
    """The complete policy of a job: what is null takes the default."""
    return RetryPolicy(
        max_attempts=given(record["max_attempts"], DEFAULT_POLICY.max_attempts),
        initial_backoff=given(record["initial_backoff"], DEFAULT_POLICY.initial_backoff),
        max_backoff=given(record["max_backoff"], DEFAULT_POLICY.max_backoff),
        multiplier=given(record["multiplier"], DEFAULT_POLICY.multiplier),
    )


def dispatch(record: Record) -> Dispatch:
    """An outbox row with what its message needs of the job."""
    return Dispatch(
        outbox_id=record["id"],
        job_id=record["job_id"],
        dispatch_no=record["dispatch_no"],
        queue=record["queue"],
        priority=record["priority"],
        dead=record["dead"],
        type=record["type"],
        traceparent=record["traceparent"],
        tracestate=record["tracestate"],
    )


def column(values: list[Value | None]) -> list[Value | None]:
    """Write a column for `unnest`, which fills shorter columns up with nulls.

    Most columns of most statements hold nothing else, and each null costs as much as a value.
    """
    return values if values.count(None) < len(values) else []


def given(value: Value | None, default: Value | None) -> Value:
    """The value, or the default, which is never None itself."""
    if value is not None:
        return value
    if default is None:
        raise AssertionError("a default is missing")
    return default
