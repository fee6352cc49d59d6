"""A job and its parts, as values.

What is made for each job is a NamedTuple: a frozen dataclass takes four times as long.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Final, NamedTuple, Self
from uuid import UUID

import orjson

from headway_core.content import Content
from headway_core.states import JobState

DEFAULT_PRIORITY: Final = 4
DEFAULT_QUEUE: Final = "default"
QUEUES_MAX: Final = 256
CRASHES_MAX: Final = 3
"""Runs that may end with the death of their process before the job is DEAD."""
NO_LABELS: Final[Mapping[str, str]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how soon a failing job is tried again. None: not given."""

    max_attempts: int | None = None
    initial_backoff: timedelta | None = None
    max_backoff: timedelta | None = None
    multiplier: float | None = None


DEFAULT_POLICY: Final = RetryPolicy(
    max_attempts=5,
    initial_backoff=timedelta(seconds=1),
    max_backoff=timedelta(seconds=60),
    multiplier=2.0,
)


ERROR_BYTES_MAX: Final = 4_096
ERROR_TYPE_BYTES_MAX: Final = 256


@dataclass(frozen=True, slots=True)
class JobError:
    """Why an attempt failed. `message` is at most ERROR_BYTES_MAX bytes of UTF-8, `type`
    ERROR_TYPE_BYTES_MAX.
    """

    type: str
    message: str
    retryable: bool


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run has come: `done` of `total` units of its own, or a fraction from 0 to 1."""

    update_time: datetime
    done: float = 0
    total: float | None = None
    fraction: float | None = None
    step: str = ""
    message: str = ""
    estimated_remaining: timedelta | None = None

    def to_bytes(self) -> bytes:
        """As stored and as sent in hints."""
        remaining = self.estimated_remaining
        return orjson.dumps(
            [
                self.update_time.timestamp(),
                self.done,
                self.total,
                self.fraction,
                self.step,
                self.message,
                remaining.total_seconds() if remaining is not None else None,
            ]
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The reverse of to_bytes. Raises ValueError or TypeError for anything else."""
        update, done, total, fraction, step, message, remaining = orjson.loads(data)
        return cls(
            update_time=datetime.fromtimestamp(update, UTC),
            done=float(done),
            total=None if total is None else float(total),
            fraction=None if fraction is None else float(fraction),
            step=str(step),
            message=str(message),
            estimated_remaining=None if remaining is None else timedelta(seconds=remaining),
        )


class Job(NamedTuple):
    """A job as it stands, or as it stood at an event. The defaults are those of a new one."""

    id: UUID
    type: str
    queue: str
    priority: int
    max_attempts: int
    traceparent: str
    tracestate: str
    create_time: datetime
    next_attempt_time: datetime | None
    labels: Mapping[str, str] = NO_LABELS
    state: JobState = JobState.PENDING
    sequence: int = 1
    dispatch_no: int = 1
    run_epoch: int = 0
    attempt: int = 0
    queue_time: datetime | None = None
    start_time: datetime | None = None
    end_time: datetime | None = None
    payload: Content | None = None
    result: Content | None = None
    error: JobError | None = None
    progress: Progress | None = None

    @property
    def done(self) -> bool:
        """Whether it changes no more by itself."""
        return self.state.done

    @property
    def trace_id(self) -> str:
        """32 lower-case hex digits."""
        return self.traceparent[3:35]


class Submission(NamedTuple):
    """A job to be stored, all fixed before the first try, so that a rerun stores the same."""

    id: UUID
    type: str
    request_hash: bytes
    traceparent: str
    tracestate: str = ""
    queue: str | None = None
    payload: Content | None = None
    priority: int = DEFAULT_PRIORITY
    idempotency_key: str | None = None
    delay: timedelta | None = None
    run_time: datetime | None = None
    retry_policy: RetryPolicy = RetryPolicy()
    timeout: timedelta | None = None
    labels: Mapping[str, str] = NO_LABELS


class Dispatch(NamedTuple):
    """A message to be published: one outbox row."""

    outbox_id: int
    job_id: UUID
    dispatch_no: int
    queue: str
    priority: int
    dead: bool
    """Whether it goes to the dead-letter exchange."""
    type: str
    traceparent: str
    tracestate: str
