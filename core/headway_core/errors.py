"""Every error that leaves the core.

HeadwayError
├── Refused                 the caller must change something
│   ├── JobNotFound
│   ├── JobNotDead
│   ├── IdempotencyKeyReused
│   ├── QueueFull           (later it may fit)
│   ├── TooManyQueues
│   ├── ContentRefused
│   ├── SettingsInvalid
│   ├── SchemaOutdated
│   └── TopologyMismatch
├── Unavailable             the same call may work later
│   ├── StoreUnavailable
│   └── BrokerUnavailable
└── Defect                  our bug
"""

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from headway_core.states import JobState


class HeadwayError(Exception):
    """The root. Its text is for people and holds no secret."""


class Refused(HeadwayError):
    """The caller must change something."""

    index: int | None = None
    """Which request of a batch was refused, from 0."""


class Unavailable(HeadwayError):
    """The same call may work later."""


class Defect(HeadwayError):
    """Our bug."""


class JobNotFound(Refused):
    """No job has this ID."""

    def __init__(self, job_id: UUID) -> None:
        super().__init__(f"no job {job_id}")
        self.job_id = job_id


class JobNotDead(Refused):
    """Only a job that died can be replayed."""

    def __init__(self, job_id: UUID, state: JobState) -> None:
        super().__init__(f"job {job_id} is {state.name}; only DEAD jobs can be replayed")
        self.job_id = job_id
        self.state = state


class IdempotencyKeyReused(Refused):
    """The key belongs to a job that another request made, or that is stored no more."""

    def __init__(self, job_id: UUID, *, stored: bool = True) -> None:
        which = "which another request submitted" if stored else "which is done and stored no more"
        super().__init__(
            f"the idempotency key belongs to job {job_id}, {which}; use a new key for a new request"
        )
        self.job_id = job_id


class QueueFull(Refused):
    """As many jobs wait in the queue as may."""

    def __init__(self, queue: str, *, limit: int, depth: int, retry_after: timedelta) -> None:
        super().__init__(f"{depth} jobs wait in queue {queue}; at most {limit} may")
        self.queue = queue
        self.limit = limit
        self.depth = depth
        self.retry_after = retry_after


class TooManyQueues(Refused):
    """A further queue would be one too many."""

    def __init__(self, queue: str, *, limit: int) -> None:
        super().__init__(f"queue {queue} would be one too many; at most {limit} can be named")
        self.queue = queue
        self.limit = limit


class ContentRefused(Refused):
    """A payload or result that cannot be stored. The text says which part and why."""


class SettingsInvalid(Refused):
    """Settings that cannot be used, all problems together."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)


class SchemaOutdated(Refused):
    """The database's schema is not the one this code was written for."""

    def __init__(self, *, found: int, wanted: int) -> None:
        super().__init__(
            f"the database schema is at version {found}, this code wants {wanted}; "
            "run `headway migrate`"
        )
        self.found = found
        self.wanted = wanted


class TopologyMismatch(Refused):
    """A queue or exchange exists with other properties than ours."""

    def __init__(self, queue: str, difference: str) -> None:
        super().__init__(f"{queue} exists with other properties: {difference}")
        self.queue = queue
        self.difference = difference


class StoreUnavailable(Unavailable):
    """Postgres is away, too slow, or has no connection left."""


class BrokerUnavailable(Unavailable):
    """RabbitMQ is away or refuses us."""
