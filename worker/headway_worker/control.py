"""What a supervisor and an executor say to each other: JSON lines over a socket pair.

Times are of the monotonic clock, which the processes of one machine share.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import orjson

from headway_core.errors import Defect
from headway_core.job import RetryPolicy
from headway_core.leases import HandlerType

LINE_BYTES_MAX: Final = 16 * 2**20
TRACEBACK_CHARACTERS_MAX: Final = 64_000


@dataclass(frozen=True, slots=True)
class LeaseConfirmed:
    """To the executor: registered, or a heartbeat renewed the lease; it lasts until `deadline`."""

    deadline: float


@dataclass(frozen=True, slots=True)
class CancelRun:
    """To the executor: someone cancels a job, perhaps one of its own."""

    job_id: UUID


@dataclass(frozen=True, slots=True)
class Drain:
    """To the executor: take no more, finish until `deadline`, release the rest, exit 0."""

    deadline: float


@dataclass(frozen=True, slots=True)
class Hello:
    """From the executor: the user's module is imported; these are its handlers."""

    types: tuple[HandlerType, ...]


@dataclass(frozen=True, slots=True)
class Broken:
    """From the executor: it cannot start, and ends."""

    traceback: str


@dataclass(frozen=True, slots=True)
class Ready:
    """From the executor: it consumes."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """From the executor: why it does not consume, for now."""

    reason: str


@dataclass(frozen=True, slots=True)
class Pulse:
    """From the executor's watchdog: when its loop last turned, and when Postgres last answered it.

    `blocker` (job, epoch) is the run whose code holds up the loop, if that is known.
    """

    loop_seen: float
    store_seen: float
    blocker: tuple[UUID, int] | None = None


@dataclass(frozen=True, slots=True)
class Stuck:
    """From the executor's watchdog: code that ignores its end. `timed_out` (job to epoch) may be
    empty, if it was not their timeout that they ignore.
    """

    reason: str
    timed_out: Mapping[UUID, int]


ToExecutor = LeaseConfirmed | CancelRun | Drain
ToSupervisor = Hello | Broken | Ready | Trouble | Pulse | Stuck


def encode(message: ToExecutor | ToSupervisor) -> bytes:
    """Write a message as one line."""
    fields: dict[str, object]
    match message:
        case LeaseConfirmed(deadline) | Drain(deadline):
            fields = {"deadline": deadline}
        case CancelRun(job_id):
            fields = {"job_id": job_id}
        case Hello(types):
            fields = {"types": [_type_fields(handler) for handler in types]}
        case Broken(traceback):
            fields = {"traceback": traceback[-TRACEBACK_CHARACTERS_MAX:]}
        case Ready():
            fields = {}
        case Trouble(reason):
            fields = {"reason": reason}
        case Pulse(loop_seen, store_seen, blocker):
            fields = {"loop_seen": loop_seen, "store_seen": store_seen, "blocker": blocker}
        case Stuck(reason, timed_out):
            fields = {"reason": reason, "timed_out": list(timed_out.items())}
    # asyncpg has a UUID of its own, which orjson does not know.
    return orjson.dumps({"kind": type(message).__name__, **fields}, default=str) + b"\n"


def decode(line: bytes) -> ToExecutor | ToSupervisor:
    """Read a line. Raises Defect for anything that `encode` did not write."""
    try:
        match orjson.loads(line):
            case {"kind": "LeaseConfirmed", "deadline": float(deadline)}:
                return LeaseConfirmed(deadline)
            case {"kind": "CancelRun", "job_id": str(job_id)}:
                return CancelRun(UUID(job_id))
            case {"kind": "Drain", "deadline": float(deadline)}:
                return Drain(deadline)
            case {"kind": "Hello", "types": list(types)}:
                return Hello(tuple(_type(fields) for fields in types))
            case {"kind": "Broken", "traceback": str(traceback)}:
                return Broken(traceback)
            case {"kind": "Ready"}:
                return Ready()
            case {"kind": "Trouble", "reason": str(reason)}:
                return Trouble(reason)
            case {
                "kind": "Pulse",
                "loop_seen": float(loop),
                "store_seen": float(store),
                "blocker": blocker,
            }:
                return Pulse(loop, store, (UUID(blocker[0]), blocker[1]) if blocker else None)
            case {"kind": "Stuck", "reason": str(reason), "timed_out": list(timed_out)}:
                return Stuck(reason, _epochs(timed_out))
    except (ValueError, TypeError, KeyError) as error:
        raise Defect(f"unreadable on the control pipe: {line[:200]!r}") from error
    raise Defect(f"unknown on the control pipe: {line[:200]!r}")


def _epochs(pairs: Iterable[Any]) -> dict[UUID, int]:
    return {UUID(job_id): int(run_epoch) for job_id, run_epoch in pairs}


def _type_fields(handler: HandlerType) -> dict[str, object]:
    policy = handler.policy
    return {
        "type": handler.type,
        "queue": handler.queue,
        "max_attempts": policy.max_attempts,
        "initial_backoff": _seconds(policy.initial_backoff),
        "max_backoff": _seconds(policy.max_backoff),
        "multiplier": policy.multiplier,
        "timeout": _seconds(handler.timeout),
    }


def _type(fields: Mapping[str, Any]) -> HandlerType:
    return HandlerType(
        type=fields["type"],
        queue=fields["queue"],
        policy=RetryPolicy(
            max_attempts=fields["max_attempts"],
            initial_backoff=_duration(fields["initial_backoff"]),
            max_backoff=_duration(fields["max_backoff"]),
            multiplier=fields["multiplier"],
        ),
        timeout=_duration(fields["timeout"]),
    )


def _seconds(duration: timedelta | None) -> float | None:
    return None if duration is None else duration.total_seconds()


def _duration(seconds: float | None) -> timedelta | None:
    return None if seconds is None else timedelta(seconds=seconds)
