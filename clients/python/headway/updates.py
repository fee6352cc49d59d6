"""What `watch` yields: a closed union, for `match`."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from headway.jobs import Job, Progress


class EventType(StrEnum):
    """What happened to a job."""

    UNKNOWN = "UNKNOWN"
    """The server is newer than this client."""
    SUBMITTED = "SUBMITTED"
    QUEUED = "QUEUED"
    STARTED = "STARTED"
    STEP_COMPLETED = "STEP_COMPLETED"
    RETRY_SCHEDULED = "RETRY_SCHEDULED"
    INTERRUPTED = "INTERRUPTED"
    SNOOZED = "SNOOZED"
    DECLINED = "DECLINED"
    CANCEL_REQUESTED = "CANCEL_REQUESTED"
    COMPLETED = "COMPLETED"
    DEAD = "DEAD"
    CANCELLED = "CANCELLED"
    REPLAYED = "REPLAYED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The job as it stands, at the beginning; with `reset`, later events of the past are gone."""

    sequence: int
    job: Job
    reset: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One entry of a job's history: numbered 1, 2, 3 …, each seen once, in order."""

    sequence: int
    event_time: datetime | None
    type: EventType
    attempt: int
    message: str
    job: Job
    """As of this event, not of today; with its result or error if the event is a last one."""


@dataclass(frozen=True, slots=True)
class Bookmark:
    """Nothing new: the stream is alive, and everything up to `sequence` was seen."""

    sequence: int


Update = Snapshot | Event | Progress | Bookmark
