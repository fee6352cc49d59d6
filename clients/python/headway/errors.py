"""Everything the client raises on purpose.

HeadwayError
├── Refused                    the caller must change something
│   ├── InvalidRequest         violations, all at once
│   ├── JobNotFound            job_id
│   ├── IdempotencyKeyReused   job_id of the job that has the key
│   ├── JobNotDead             job_id, state: only DEAD jobs can be replayed
│   ├── TooManyQueues          queue, limit
│   ├── NotPermitted           not signed in, or not allowed
│   └── Unsupported            the server does not know this call
├── Unavailable                the same call may work later: retry_after
│   └── QueueFull              queue, limit, depth
├── Defect                     a bug of Headway's
│   ├── ServerDefect           error_id, to be found in the server's log
│   └── SequenceGap            a watch skipped an event
├── Unsuccessful               the job is done and has no result: job
│   ├── JobDied
│   └── JobCancelled
└── WaitTimeout                the job was not done in time; also a TimeoutError
InvalidTarget                  apart: a client was told to reach nothing
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headway.jobs import Job


class HeadwayError(Exception):
    """Root of the tree. `reason` is the server's word for it (see headway.v1.ErrorReason)."""

    reason: str = ""


class InvalidTarget(ValueError):
    """A target that cannot name a server; raised where a client is made."""


class Refused(HeadwayError):
    """The call cannot work as it is; nothing was changed."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One field that is out of bounds."""

    field: str
    """Path in the request, as `retry_policy.max_attempts`."""
    description: str

    def __str__(self) -> str:
        """Path and what is wrong with it."""
        return f"{self.field}: {self.description}" if self.field else self.description


class InvalidRequest(Refused, ValueError):
    """Fields are out of bounds; `violations` names each."""

    def __init__(self, message: str, violations: tuple[Violation, ...] = ()) -> None:
        listed = "; ".join(map(str, violations))
        super().__init__(listed or message)
        self.violations = violations


class JobNotFound(Refused, LookupError):
    """No job has this ID."""

    def __init__(self, message: str, job_id: str = "") -> None:
        super().__init__(message)
        self.job_id = job_id


class IdempotencyKeyReused(Refused):
    """The key belongs to `job_id`, which was submitted with another request."""

    def __init__(self, message: str, job_id: str = "") -> None:
        super().__init__(message)
        self.job_id = job_id


class JobNotDead(Refused):
    """Only DEAD jobs can be replayed; this one is in `state`."""

    def __init__(self, message: str, job_id: str = "", state: str = "") -> None:
        super().__init__(message)
        self.job_id = job_id
        self.state = state


class TooManyQueues(Refused):
    """No more queues can be named."""

    def __init__(self, message: str, queue: str = "", limit: int | None = None) -> None:
        super().__init__(message)
        self.queue = queue
        self.limit = limit


class NotPermitted(Refused):
    """The server knows who asks, and does not allow it, or does not know who asks."""


class Unsupported(Refused):
    """The server has no such call: an older Headway, or no Headway at all."""


class Unavailable(HeadwayError):
    """No answer, or a passing refusal. `retry_after` is the server's advice, None without any."""

    def __init__(self, message: str, retry_after: timedelta | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class QueueFull(Unavailable):
    """`depth` jobs wait in `queue`, whose limit is `limit`."""

    def __init__(
        self,
        message: str,
        retry_after: timedelta | None = None,
        *,
        queue: str = "",
        limit: int | None = None,
        depth: int | None = None,
    ) -> None:
        super().__init__(message, retry_after)
        self.queue = queue
        self.limit = limit
        self.depth = depth


class Defect(HeadwayError):
    """A bug of Headway's; please report it."""


class ServerDefect(Defect):
    """The server failed; its log tells why under `error_id`."""

    def __init__(self, message: str, error_id: str = "") -> None:
        super().__init__(message)
        self.error_id = error_id


class SequenceGap(Defect):
    """A watch was sent an event that does not follow the last one."""

    def __init__(self, job_id: str, *, expected: int, received: int) -> None:
        super().__init__(f"job {job_id}: event {expected} was to come next, {received} came")
        self.job_id = job_id
        self.expected = expected
        self.received = received


class Unsuccessful(HeadwayError):
    """The job is done and has no result."""

    def __init__(self, message: str, job: "Job") -> None:
        super().__init__(message)
        self.job = job


class JobDied(Unsuccessful):
    """Given up after its attempts; a replay can bring it back."""

    def __init__(self, job: "Job") -> None:
        super().__init__(f"job {job.id} died: {job.error or 'no error was recorded'}", job)


class JobCancelled(Unsuccessful):
    """Cancelled on request."""

    def __init__(self, job: "Job") -> None:
        super().__init__(f"job {job.id} was cancelled", job)


class WaitTimeout(HeadwayError, TimeoutError):
    """The job was not done in time. It goes on; wait again."""

    def __init__(self, job_id: str, timeout: timedelta) -> None:
        seconds = timeout.total_seconds()
        super().__init__(f"job {job_id} was not done within {seconds:g} s; it goes on")
        self.job_id = job_id
        self.timeout = timeout
