"""What a job can be, what may follow, and what its history can say."""

from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType


class JobState(IntEnum):
    """Where a job stands. The numbers are those of `headway.v1.JobState` and of the table."""

    PENDING = 1
    QUEUED = 2
    RUNNING = 3
    COMPLETED = 4
    FAILED = 5
    DEAD = 6
    CANCELLED = 7

    @property
    def done(self) -> bool:
        """Whether the job changes no more by itself."""
        return self in DONE


WAITING = frozenset({JobState.PENDING, JobState.QUEUED, JobState.FAILED})
DONE = frozenset({JobState.COMPLETED, JobState.DEAD, JobState.CANCELLED})

MAY_FOLLOW: Mapping[JobState, frozenset[JobState]] = MappingProxyType(
    {
        JobState.PENDING: frozenset({JobState.QUEUED, JobState.RUNNING, JobState.CANCELLED}),
        # QUEUED goes back to PENDING when a worker declines the type.
        JobState.QUEUED: frozenset({JobState.PENDING, JobState.RUNNING, JobState.CANCELLED}),
        # RUNNING goes back to PENDING when the run is interrupted or snoozed.
        JobState.RUNNING: frozenset(
            {
                JobState.PENDING,
                JobState.COMPLETED,
                JobState.FAILED,
                JobState.DEAD,
                JobState.CANCELLED,
            }
        ),
        JobState.FAILED: frozenset(
            {JobState.PENDING, JobState.QUEUED, JobState.RUNNING, JobState.CANCELLED}
        ),
        JobState.DEAD: frozenset({JobState.PENDING}),
        JobState.COMPLETED: frozenset(),
        JobState.CANCELLED: frozenset(),
    }
)


class EventType(IntEnum):
    """What happened to a job. The numbers are those of `headway.v1.JobEventType`."""

    SUBMITTED = 1
    QUEUED = 2
    STARTED = 3
    STEP_COMPLETED = 4
    RETRY_SCHEDULED = 5
    INTERRUPTED = 6
    SNOOZED = 7
    DECLINED = 8
    CANCEL_REQUESTED = 9
    COMPLETED = 10
    DEAD = 11
    CANCELLED = 12
    REPLAYED = 13


class Isolation(IntEnum):
    """How the next run of a job is kept from its neighbours."""

    NONE = 0
    CHILD = 1
    """A suspect: in a child process of its own."""
    ALONE = 2
    """A suspect whose whole worker died again: in a child, with no other job beside it."""
