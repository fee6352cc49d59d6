"""What an executor and the child process of one run say to each other, over a socket pair.

A frame is two lengths, a JSON header and a body: the stored form of a payload, a step's result or a
result. No pickle: nothing that arrives is ever executed.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import orjson

from headway_core.content import Content, ContentKind
from headway_core.errors import Defect
from headway_core.job import JobError, Progress
from headway_core.outcomes import Failed, Snoozed, Succeeded
from headway_worker.conclusion import UserOutcome

LENGTHS: Final = struct.Struct("!II")
HEADER_BYTES_MAX: Final = 1_048_576
BODY_BYTES_MAX: Final = 1_048_576
START_FIELDS: Final = (
    *("target", "type", "job_id", "attempt", "labels"),
    *("traceparent", "tracestate", "traced", "memory_bytes_max"),
)


@dataclass(frozen=True, slots=True)
class Start:
    """To the child: the run."""

    target: str
    """MODULE:JOBS."""
    type: str
    job_id: UUID
    attempt: int
    labels: Mapping[str, str]
    traceparent: str
    """The process span's, which the run's own spans continue."""
    tracestate: str
    traced: bool
    """Whether its trace is recorded."""
    memory_bytes_max: int | None
    payload: Content | None


@dataclass(frozen=True, slots=True)
class StopRun:
    """To the child: the run is to end; soon its process is killed."""


@dataclass(frozen=True, slots=True)
class StepAnswer:
    """To the child: a step's stored result, or None: it may begin, or its result is stored."""

    number: int
    stored: Content | None


@dataclass(frozen=True, slots=True)
class StepRefused:
    """To the child: no step any more, the run is to end."""

    number: int


@dataclass(frozen=True, slots=True)
class StepAsked:
    """From the child: a step wants to begin."""

    number: int
    name: str


@dataclass(frozen=True, slots=True)
class StepDone:
    """From the child: a step's result, to be stored."""

    number: int
    name: str
    result: Content


@dataclass(frozen=True, slots=True)
class Progressed:
    """From the child: its newest progress."""

    progress: Progress


@dataclass(frozen=True, slots=True)
class Ended:
    """From the child, the last: what the handler's end amounts to."""

    outcome: UserOutcome


ToChild = Start | StopRun | StepAnswer | StepRefused
FromChild = StepAsked | StepDone | Progressed | Ended
Message = ToChild | FromChild


def encode(message: Message) -> bytes:
    """Write a message as one frame."""
    header, content = _fields(message)
    header["kind"] = type(message).__name__
    body = b""
    if content is not None:
        header["content"] = [content.kind, content.content_type]
        body = content.data
    text = orjson.dumps(header, default=str)  # asyncpg's UUID is unknown to orjson
    return LENGTHS.pack(len(text), len(body)) + text + body


def lengths(prefix: bytes) -> tuple[int, int]:
    """Read the lengths of a frame's header and body from its first LENGTHS.size bytes."""
    header, body = LENGTHS.unpack(prefix)
    if header > HEADER_BYTES_MAX or body > BODY_BYTES_MAX:
        raise Defect(f"a frame of {header} + {body} bytes on a child's pipe")
    return header, body


def decode(header: bytes, body: bytes) -> Message:
    """Read a frame. Raises Defect for anything that `encode` did not write."""
    try:
        fields = orjson.loads(header)
        content = None
        if kind := fields.get("content"):
            content = Content(ContentKind(kind[0]), body, kind[1])
        return _message(fields, content)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise Defect(f"unreadable on a child's pipe: {header[:200]!r}") from error


def _fields(message: Message) -> tuple[dict[str, Any], Content | None]:
    match message:
        case Start(payload=payload):
            return {name: getattr(message, name) for name in START_FIELDS}, payload
        case StopRun():
            return {}, None
        case StepAnswer(number, stored):
            return {"number": number}, stored
        case StepRefused(number):
            return {"number": number}, None
        case StepAsked(number, name):
            return {"number": number, "name": name}, None
        case StepDone(number, name, result):
            return {"number": number, "name": name}, result
        case Progressed(progress):
            return {"progress": progress.to_bytes().decode()}, None
        case Ended(Succeeded(result)):
            return {}, result
        case Ended(Failed(error)):
            return {"error": [error.type, error.message, error.retryable]}, None
        case Ended(Snoozed(after)):
            return {"after": after.total_seconds()}, None
        case Ended():
            raise AssertionError("an outcome is one of three")


def _message(fields: Mapping[str, Any], content: Content | None) -> Message:
    match fields["kind"]:
        case "Start":
            return Start(
                target=fields["target"],
                type=fields["type"],
                job_id=UUID(fields["job_id"]),
                attempt=fields["attempt"],
                labels=fields["labels"],
                traceparent=fields["traceparent"],
                tracestate=fields["tracestate"],
                traced=fields["traced"],
                memory_bytes_max=fields["memory_bytes_max"],
                payload=content,
            )
        case "StopRun":
            return StopRun()
        case "StepAnswer":
            return StepAnswer(fields["number"], content)
        case "StepRefused":
            return StepRefused(fields["number"])
        case "StepAsked":
            return StepAsked(fields["number"], fields["name"])
        case "StepDone" if content is not None:
            return StepDone(fields["number"], fields["name"], content)
        case "Progressed":
            return Progressed(Progress.from_bytes(fields["progress"].encode()))
        case "Ended" if "error" in fields:
            return Ended(Failed(JobError(*fields["error"])))
        case "Ended" if "after" in fields:
            return Ended(Snoozed(timedelta(seconds=fields["after"])))
        case "Ended":
            return Ended(Succeeded(content))
        case kind:
            raise ValueError(f"unknown kind {kind}")
