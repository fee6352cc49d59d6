"""Jobs, updates and dead letters as JSON documents, with the names of headway.v1.

Fields that are not set are left out; times are RFC 3339, durations numbers of seconds.
"""

import base64
from datetime import UTC, datetime
from typing import Any

from headway.jobs import DeadLetter, DeadLetterGroup, Job, JobError, PayloadOut, Progress, Replay
from headway.updates import Bookmark, Event, Snapshot, Update


def job(value: Job) -> dict[str, Any]:
    """With the names of `headway.v1.Job`; unset fields are left out."""
    fields: dict[str, Any] = {
        "id": value.id,
        "type": value.type,
        "queue": value.queue,
        "priority": value.priority,
        "state": str(value.state),
        "done": value.done,
        "attempt": value.attempt,
        "max_attempts": value.max_attempts,
        "labels": dict(value.labels),
        "sequence": value.sequence,
        "trace_id": value.trace_id,
        "payload": payload(value.payload),
        "result": payload(value.result),
        "error": error(value.error),
        "progress": None if value.progress is None else progress(value.progress),
        "create_time": time(value.create_time),
        "queue_time": time(value.queue_time),
        "start_time": time(value.start_time),
        "end_time": time(value.end_time),
        "next_attempt_time": time(value.next_attempt_time),
        "created": value.created,
    }
    return _set(fields)


def update(job_id: str, value: Update) -> dict[str, Any] | None:
    """One line of a watch; None for what tells nothing."""
    match value:
        case Snapshot(sequence=sequence, job=current, reset=reset):
            return {
                "update": "snapshot",
                "job_id": job_id,
                "sequence": sequence,
                "reset": reset,
                "job": job(current),
            }
        case Event():
            return {
                "update": "event",
                "job_id": job_id,
                "sequence": value.sequence,
                "event_time": time(value.event_time),
                "type": str(value.type),
                "attempt": value.attempt,
                "message": value.message,
                "job": job(value.job),
            }
        case Progress():
            return {"update": "progress", "job_id": job_id, "progress": progress(value)}
        case Bookmark():
            return None


def progress(value: Progress) -> dict[str, Any]:
    """Durations in seconds."""
    remaining = value.estimated_remaining
    return _set(
        {
            "fraction": value.fraction,
            "done": value.done,
            "total": value.total,
            "step": value.step,
            "message": value.message,
            "estimated_remaining_seconds": None if remaining is None else remaining.total_seconds(),
            "update_time": time(value.update_time),
        }
    )


def error(value: JobError | None) -> dict[str, Any] | None:
    """Why an attempt failed."""
    if value is None:
        return None
    return {"type": value.type, "message": value.message, "retryable": value.retryable}


def payload(value: PayloadOut) -> dict[str, Any] | None:
    """In the shape of `headway.v1.Payload`, as grpcurl shows it, so that the kind is plain."""
    match value:
        case None:
            return None
        case dict():
            return {"json": value}
        case bytes():
            encoded = base64.b64encode(value).decode()
            kind = getattr(value, "content_type", "")
            return {"data": encoded, "content_type": kind} if kind else {"data": encoded}
    return {"message": _message(value)}


def dead_letter(value: DeadLetter) -> dict[str, Any]:
    """A DEAD job."""
    return {
        "job": job(value.job),
        "fingerprint": value.fingerprint,
        "reason": value.reason,
        "dead_time": time(value.dead_time),
    }


def dead_letter_group(value: DeadLetterGroup) -> dict[str, Any]:
    """A set of alike deaths."""
    return {
        "fingerprint": value.fingerprint,
        "type": value.type,
        "queue": value.queue,
        "count": value.count,
        "error": error(value.error),
        "first_dead_time": time(value.first_dead_time),
        "last_dead_time": time(value.last_dead_time),
    }


def replay(value: Replay) -> dict[str, Any]:
    """What a replay did."""
    return {
        "replayed_count": value.replayed_count,
        "more": value.more,
        "jobs": [job(item) for item in value.jobs],
    }


def time(value: datetime | None) -> str | None:
    """RFC 3339 in UTC."""
    if value is None:
        return None
    return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _message(value: Any) -> dict[str, Any]:
    from google.protobuf import json_format
    from google.protobuf.any_pb2 import Any as AnyMessage

    if isinstance(value, AnyMessage):
        encoded = base64.b64encode(value.value).decode()
        return {"@type": value.type_url, "value": encoded}
    plain: dict[str, Any] = json_format.MessageToDict(value, preserving_proto_field_name=True)
    return {"@type": f"type.googleapis.com/{value.DESCRIPTOR.full_name}", **plain}


def _set(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value not in (None, "", {})}
