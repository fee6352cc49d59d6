"""What the client takes and returns, as plain frozen values.

Nothing here knows gRPC or Protobuf. Times are aware datetimes in UTC, durations are timedeltas,
and None means that the server left the field unset.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self, TypeAlias

if TYPE_CHECKING:
    from google.protobuf.message import Message

PayloadIn: TypeAlias = "Mapping[str, object] | bytes | bytearray | memoryview[int] | Message | None"
"""What a caller may give: JSON, raw bytes (or `Data`), any Protobuf message."""
PayloadOut: TypeAlias = "dict[str, Any] | Data | Message | None"
"""What comes back; whole numbers are int, a message of a type unknown here stays an Any."""


class Data(bytes):
    """Raw bytes with a media type: a `bytes` like any other, and `content_type` beside it."""

    content_type: str

    def __new__(cls, value: bytes = b"", content_type: str = "") -> Self:
        """Headway keeps `content_type` (at most 256 characters) and does not look at it."""
        data = super().__new__(cls, value)
        data.content_type = content_type
        return data

    def __reduce__(self) -> tuple[type[Self], tuple[bytes, str]]:
        """Copies and pickles keep the media type."""
        return type(self), (bytes(self), self.content_type)


class JobState(StrEnum):
    """Where a job stands. `Job.done` tells whether it can still change by itself."""

    UNKNOWN = "UNKNOWN"
    """The server is newer than this client and has a state that this client does not know."""
    PENDING = "PENDING"
    """Stored, not yet with the broker: due later, declined, or the broker is away."""
    QUEUED = "QUEUED"
    """Waits for a free worker."""
    RUNNING = "RUNNING"
    """A worker runs it."""
    COMPLETED = "COMPLETED"
    """It returned a result. Final."""
    FAILED = "FAILED"
    """This attempt failed; a retry is due at `next_attempt_time`. Not final."""
    DEAD = "DEAD"
    """Given up, in the dead-letter queue. Done, yet a replay can bring it back."""
    CANCELLED = "CANCELLED"
    """Cancelled on request. Final."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobError:
    """Why an attempt failed. The stack trace stays in the worker's logs."""

    type: str
    message: str
    retryable: bool

    def __str__(self) -> str:
        """Like the last line of a traceback: `ValueError: no such country`."""
        return f"{self.type}: {self.message}" if self.message else self.type


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far the running attempt has come. Live and lossy: the newest wins."""

    fraction: float | None = None
    """0 to 1."""
    done: float = 0.0
    """Units done."""
    total: float | None = None
    """Units in all."""
    step: str = ""
    message: str = ""
    estimated_remaining: timedelta | None = None
    """By the rate since the step began, as the server reckons it."""
    update_time: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One unit of work as the server described it at one moment."""

    id: str
    type: str
    queue: str
    priority: int
    state: JobState
    done: bool
    """True exactly if the state is COMPLETED, DEAD or CANCELLED."""
    attempt: int
    """1 + the attempts charged since submit or replay; 0 before the first run."""
    max_attempts: int
    sequence: int
    """Number of its last event: where `watch(after_sequence=…)` goes on."""
    payload: PayloadOut = None
    """What it was given; None unless asked for with `full=True`."""
    result: PayloadOut = None
    """What it returned; None unless asked for with `full=True`, or on its COMPLETED event."""
    error: JobError | None = None
    """The last failure, until the job completes or is replayed."""
    progress: Progress | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    trace_id: str = ""
    create_time: datetime | None = None
    queue_time: datetime | None = None
    start_time: datetime | None = None
    end_time: datetime | None = None
    next_attempt_time: datetime | None = None
    """When it is due, for a PENDING or FAILED job."""
    created: bool | None = None
    """From `submit`: False if the idempotency key named a job that was there already."""

    def _repr_html_(self) -> str:
        """Notebooks show a job as a small table with a bar."""
        from headway.notebook import job_as_html

        return job_as_html(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often and how soon a failing job is tried again. None leaves it to the handler."""

    max_attempts: int | None = None
    """Attempts in all, 1 to 1000."""
    initial_backoff: timedelta | float | None = None
    """The longest wait before the second attempt (full jitter); a number means seconds."""
    max_backoff: timedelta | float | None = None
    """The longest wait of all; a number means seconds."""
    multiplier: float | None = None
    """Growth of the wait from one attempt to the next, 1 to 100."""


@dataclass(frozen=True, slots=True)
class Submission:
    """One job to submit with `submit_many`; the fields are the arguments of `submit`."""

    type: str
    payload: PayloadIn = None
    queue: str | None = field(default=None, kw_only=True)
    priority: int | None = field(default=None, kw_only=True)
    idempotency_key: str | None = field(default=None, kw_only=True)
    delay: timedelta | float | None = field(default=None, kw_only=True)
    run_time: datetime | None = field(default=None, kw_only=True)
    retry_policy: RetryPolicy | None = field(default=None, kw_only=True)
    timeout: timedelta | float | None = field(default=None, kw_only=True)
    labels: Mapping[str, str] | None = field(default=None, kw_only=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterFilter:
    """Chooses DEAD jobs; what is set must all hold."""

    type: str | None = None
    queue: str | None = None
    fingerprint: str | None = None
    """As a `DeadLetter` or a `DeadLetterGroup` gives it."""
    dead_time_from: datetime | None = None
    """Died at or after."""
    dead_time_to: datetime | None = None
    """Died before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A DEAD job and why it was given up."""

    job: Job
    fingerprint: str
    """Deaths with the same type, cause and text (but for numbers and IDs) share it."""
    reason: str
    dead_time: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterGroup:
    """A set of alike deaths."""

    fingerprint: str
    type: str
    queue: str
    error: JobError | None
    """The latest."""
    count: int
    """How many are DEAD now."""
    first_dead_time: datetime | None
    last_dead_time: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What a replay brought back or, with `dry_run`, would bring back."""

    jobs: tuple[Job, ...]
    replayed_count: int
    more: bool
    """More jobs match than `max_jobs` let through."""
