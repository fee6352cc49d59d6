"""The Headway client: submit long jobs, watch them live, fetch what they return.

`Client` is for asyncio, `SyncClient` for scripts and notebooks. Both take and return the plain
values below; the Protobuf messages and the gRPC stub are in `headway.v1`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from headway.errors import (
    Defect,
    HeadwayError,
    IdempotencyKeyReused,
    InvalidRequest,
    InvalidTarget,
    JobCancelled,
    JobDied,
    JobNotDead,
    JobNotFound,
    NotPermitted,
    QueueFull,
    Refused,
    SequenceGap,
    ServerDefect,
    TooManyQueues,
    Unavailable,
    Unsuccessful,
    Unsupported,
    Violation,
    WaitTimeout,
)
from headway.jobs import (
    Data,
    DeadLetter,
    DeadLetterFilter,
    DeadLetterGroup,
    Job,
    JobError,
    JobState,
    Progress,
    Replay,
    RetryPolicy,
    Submission,
)
from headway.updates import Bookmark, Event, EventType, Snapshot, Update

if TYPE_CHECKING:
    from headway.client import Client
    from headway.sync_client import SyncClient

__all__ = [
    "Bookmark",
    "Client",
    "Data",
    "DeadLetter",
    "DeadLetterFilter",
    "DeadLetterGroup",
    "Defect",
    "Event",
    "EventType",
    "HeadwayError",
    "IdempotencyKeyReused",
    "InvalidRequest",
    "InvalidTarget",
    "Job",
    "JobCancelled",
    "JobDied",
    "JobError",
    "JobNotDead",
    "JobNotFound",
    "JobState",
    "NotPermitted",
    "Progress",
    "QueueFull",
    "Refused",
    "Replay",
    "RetryPolicy",
    "SequenceGap",
    "ServerDefect",
    "Snapshot",
    "Submission",
    "SyncClient",
    "TooManyQueues",
    "Unavailable",
    "Unsuccessful",
    "Unsupported",
    "Update",
    "Violation",
    "WaitTimeout",
]

# Imported on first use (PEP 562): they load gRPC, which `headway --help` need not wait for.
_LAZY = {"Client": "headway.client", "SyncClient": "headway.sync_client"}


def __getattr__(name: str) -> object:
    """Import a client when it is first asked for; `__version__` is the distribution's."""
    if name == "__version__":
        from importlib.metadata import version

        return version("headway")
    if name not in _LAZY:
        raise AttributeError(f"module 'headway' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_LAZY[name]), name)
    return value
