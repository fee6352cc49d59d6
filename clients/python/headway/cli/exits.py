"""Exit codes, and what goes to stderr with them.

0 completed       1 the job died      2 usage: the request cannot work as it is
3 cancelled       4 not found         5 unreachable or denied
124 timeout       130 Ctrl-C          141 whoever read the output has stopped
"""

from collections.abc import Iterable
from enum import IntEnum

from headway.errors import (
    HeadwayError,
    JobCancelled,
    JobDied,
    JobNotFound,
    NotPermitted,
    Refused,
    Unavailable,
    Unsupported,
    WaitTimeout,
)
from headway.jobs import Job, JobState


class Exit(IntEnum):
    """What the shell is told."""

    COMPLETED = 0
    DIED = 1
    USAGE = 2
    CANCELLED = 3
    NOT_FOUND = 4
    UNREACHABLE = 5
    TIMEOUT = 124
    INTERRUPTED = 130
    BROKEN_PIPE = 141


# Of several jobs the worst end counts, in this order.
_WORST_FIRST = (
    Exit.UNREACHABLE,
    Exit.NOT_FOUND,
    Exit.USAGE,
    Exit.TIMEOUT,
    Exit.DIED,
    Exit.CANCELLED,
)


def of_job(job: Job) -> Exit:
    """By the state of a done job."""
    match job.state:
        case JobState.DEAD:
            return Exit.DIED
        case JobState.CANCELLED:
            return Exit.CANCELLED
    return Exit.COMPLETED


def of_error(error: HeadwayError) -> Exit:
    """By what the client raised."""
    match error:
        case JobDied():
            return Exit.DIED
        case JobCancelled():
            return Exit.CANCELLED
        case WaitTimeout():
            return Exit.TIMEOUT
        case JobNotFound():
            return Exit.NOT_FOUND
        case NotPermitted() | Unsupported():
            return Exit.UNREACHABLE
        case Refused():
            return Exit.USAGE
    return Exit.UNREACHABLE


def worst(codes: Iterable[Exit]) -> Exit:
    """One exit code for several jobs."""
    found = set(codes)
    return next((code for code in _WORST_FIRST if code in found), Exit.COMPLETED)


def describe(error: HeadwayError, target: str) -> str:
    """What went wrong and what to do, for people."""
    if isinstance(error, Unavailable) and not error.reason:
        # Nothing of ours has answered: the words are the transport's, the last ones say most.
        detail = str(error).rpartition("last error: ")[2].removeprefix("UNKNOWN: ")
        return f"cannot reach {target}: {detail} (--target or HEADWAY_TARGET name another server)"
    if isinstance(error, Unavailable) and error.retry_after is not None:
        return f"{error}; try again in {error.retry_after.total_seconds():g} s"
    return str(error)
