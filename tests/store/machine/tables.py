"""Rows as the reference has them, and as they are read from the store to be compared."""

from dataclasses import dataclass, replace
from typing import Final
from uuid import UUID

from headway_core.leases import LeaseEnd
from headway_core.states import WAITING, EventType, Isolation, JobState


@dataclass(frozen=True, slots=True)
class Event:
    """An entry of a history; its sequence is its place."""

    type: EventType
    state: JobState
    attempt: int
    run_epoch: int


@dataclass(frozen=True, slots=True)
class JobRow:
    """A job with its history."""

    type: str
    queue: str
    priority: int
    due: bool | None
    """Of a PENDING or FAILED job."""
    patient: bool
    """Whether it waits before a retry."""
    state: JobState = JobState.PENDING
    sequence: int = 1
    dispatch_no: int = 1
    run_epoch: int = 0
    worker: UUID | None = None
    claim: UUID | None = None
    attempt: int = 0
    failures: int = 0
    crashes: int = 0
    declines: int = 0
    replays: int = 0
    isolation: Isolation = Isolation.NONE
    cancel_asked: bool = False
    boosted: bool = False
    error: str | None = None
    result: str | None = None
    progress: int | None = None
    events: tuple[Event, ...] = (Event(EventType.SUBMITTED, JobState.PENDING, 0, 0),)

    @property
    def claimable(self) -> bool:
        """Whether it waits and is due."""
        return self.state in WAITING and self.due is not False

    def after(self, event: EventType, **changes: object) -> "JobRow":
        """With changes and the event that tells of them."""
        job = replace(self, **changes)  # type: ignore[arg-type]
        told = Event(event, job.state, job.attempt, job.run_epoch)
        return replace(job, sequence=job.sequence + 1, events=(*job.events, told))


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """A message to be published."""

    job: UUID
    dispatch_no: int
    queue: str
    priority: int
    dead: bool = False
    due: bool = True
    reserved: bool = False


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """A lease."""

    types: frozenset[str]
    lapsed: bool = False
    how: LeaseEnd | None = None
    company: int | None = None

    @property
    def live(self) -> bool:
        """Whether it may claim."""
        return self.how is None and not self.lapsed


GONE: Final = WorkerRow(frozenset(), lapsed=True, how=LeaseEnd.LOST)
"""What a worker's row is like once it is dropped."""
