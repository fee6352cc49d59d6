"""When a reaper may judge: a pure decision on what it has seen (DESIGN §5.6).

A lease that has run out proves nothing if the beats could not have arrived: Postgres was away, the
machine slept, a clock was set. Each sign of that gives every worker one lease to be heard again.
"""

from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum
from typing import Final

from headway_core.leases import DatabaseClock

CLOCKS_APART_MAX: Final = timedelta(seconds=1)


class Reason(StrEnum):
    """Why a reaper waits one lease before it judges."""

    STARTED = "the reaper has just started"
    TICK_FAILED = "the tick before failed"
    TICK_LATE = "the tick came late by more than a heartbeat"
    CLOCKS_MOVED_APART = "database time and our own clock moved apart"
    POSTGRES_RESTARTED = "Postgres was restarted"


@dataclass(frozen=True, slots=True)
class Sight:
    """What a tick saw: the database's clock, and ours at the same moment (monotonic seconds)."""

    clock: DatabaseClock
    monotonic: float


@dataclass(frozen=True, slots=True)
class Patience:
    """What a reaper remembers between ticks."""

    lease: timedelta
    heartbeat: timedelta
    tick: timedelta
    last: Sight | None = None
    last_failed: bool = False
    judge_from: float = 0.0
    """Monotonic seconds."""


def see(patience: Patience, sight: Sight) -> tuple[Patience, Reason | None]:
    """A tick has read the clocks. With a reason it judges nobody until one lease has passed."""
    reason = _reason(patience, sight)
    judge_from = patience.judge_from
    if reason is not None:
        judge_from = sight.monotonic + patience.lease.total_seconds()
    seen = replace(patience, last=sight, last_failed=False, judge_from=judge_from)
    return seen, reason


def fail(patience: Patience) -> Patience:
    """A tick has failed, wherever."""
    return replace(patience, last_failed=True)


def may_judge(patience: Patience, now: float) -> bool:
    """Whether the time to judge has come."""
    return patience.last is not None and not patience.last_failed and now >= patience.judge_from


def _reason(patience: Patience, sight: Sight) -> Reason | None:
    last = patience.last
    if last is None:
        return Reason.STARTED
    if patience.last_failed:
        return Reason.TICK_FAILED
    if sight.clock.postmaster_start_time != last.clock.postmaster_start_time:
        return Reason.POSTGRES_RESTARTED
    passed = timedelta(seconds=sight.monotonic - last.monotonic)
    if abs((sight.clock.now - last.clock.now) - passed) > CLOCKS_APART_MAX:
        return Reason.CLOCKS_MOVED_APART
    # With very short heartbeats a busy machine would pass for a sleeping one, tick by tick.
    if passed - patience.tick > max(patience.heartbeat, CLOCKS_APART_MAX):
        return Reason.TICK_LATE
    return None
