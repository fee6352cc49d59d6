"""The hints there are, and how they are written: a JSON array of arrays, one for each hint."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Final, NamedTuple, assert_never
from uuid import UUID

import orjson

from headway_core.job import Progress

MESSAGE_BYTES_MAX: Final = 1_048_576
"""More than HINTS_PER_MESSAGE of the longest hints; what is larger is none of ours."""


class EventHint(NamedTuple):
    """The job has an event of this sequence. `done`: it has ended."""

    job_id: UUID
    sequence: int
    done: bool


@dataclass(frozen=True, slots=True)
class ProgressHint:
    """How far a run has come."""

    job_id: UUID
    run_epoch: int
    progress: Progress


@dataclass(frozen=True, slots=True)
class CancelHint:
    """Somebody asks for the running job to be cancelled."""

    mark: ClassVar[bytes] = b'"cancel"'
    """In every message that holds one; perhaps in others."""
    job_id: UUID


@dataclass(frozen=True, slots=True)
class OutboxHint:
    """There are due rows in the outbox."""

    mark: ClassVar[bytes] = b'"outbox"'


Hint = EventHint | ProgressHint | CancelHint | OutboxHint


class HintLoss(StrEnum):
    """Why a hint was not passed on."""

    DROPPED = "dropped"
    MALFORMED = "malformed"


def encode(hints: Iterable[Hint]) -> bytes:
    """Write hints as one message."""
    return orjson.dumps([_written(hint) for hint in hints])


def decode(body: bytes) -> tuple[list[Hint], int]:
    """Read a message; the number is how many of its hints are malformed and left out."""
    if len(body) > MESSAGE_BYTES_MAX:
        return [], 1
    try:
        items = orjson.loads(body)
    except orjson.JSONDecodeError:
        return [], 1
    if not isinstance(items, list):
        return [], 1
    hints = [_read(item) for item in items]
    sound = [hint for hint in hints if hint is not None]
    return sound, len(hints) - len(sound)


def _written(hint: Hint) -> list[object]:
    match hint:
        case EventHint():
            return ["event", str(hint.job_id), hint.sequence, hint.done]
        case ProgressHint():
            progress = orjson.Fragment(hint.progress.to_bytes())
            return ["progress", str(hint.job_id), hint.run_epoch, progress]
        case CancelHint():
            return ["cancel", str(hint.job_id)]
        case OutboxHint():
            return ["outbox"]
        case _:
            assert_never(hint)


def _read(item: object) -> Hint | None:
    # bool is an int to Python, and `true` is no sequence to us: hence `type() is int`.
    try:
        match item:
            case ["event", str(job_id), int(sequence), bool(done)] if type(sequence) is int:
                return EventHint(UUID(job_id), sequence, done)
            case ["progress", str(job_id), int(epoch), list(progress)] if type(epoch) is int:
                read = Progress.from_bytes(orjson.dumps(progress))
                return ProgressHint(UUID(job_id), epoch, read)
            case ["cancel", str(job_id)]:
                return CancelHint(UUID(job_id))
            case ["outbox"]:
                return OutboxHint()
            case _:
                return None
    # All that Progress and UUID make of nonsense; OSError is a time before the calendar.
    except (ValueError, TypeError, OverflowError, OSError):
        return None
