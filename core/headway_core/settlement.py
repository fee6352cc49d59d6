"""What follows from the way a run ended: a pure decision."""

import hashlib
import re
from dataclasses import dataclass, replace
from datetime import timedelta
from random import Random
from typing import Final, assert_never

from headway_core.backoff import exponential, full_jitter
from headway_core.content import Content, storable_text
from headway_core.job import (
    CRASHES_MAX,
    ERROR_BYTES_MAX,
    ERROR_TYPE_BYTES_MAX,
    JobError,
    RetryPolicy,
)
from headway_core.outcomes import (
    Cancelled,
    Failed,
    Interrupted,
    Outcome,
    Snoozed,
    Succeeded,
    TimedOut,
    WorkerLost,
)
from headway_core.rows import given
from headway_core.states import EventType, Isolation, JobState

SNOOZE_MAX: Final = timedelta(days=365)

_VARYING: Final = re.compile(
    r"0x[0-9a-f]+|[0-9a-f]{8}(?:-?[0-9a-f]{4}){3}-?[0-9a-f]{12}|\d+", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class RunBudget:
    """What a run may still cost, as it stood when it was claimed."""

    type: str
    failures: int
    crashes: int
    isolation: Isolation
    policy: RetryPolicy
    """Complete: no field is None."""


@dataclass(frozen=True, slots=True)
class Settlement:
    """How a run leaves its job. Made by `decide` only, so that no wrong mix can be written."""

    state: JobState
    event: EventType
    message: str
    failures: int
    crashes: int
    isolation: Isolation
    delay: timedelta = timedelta(0)
    """Until it is due again, if the state is PENDING or FAILED."""
    result: Content | None = None
    error: JobError | None = None
    """None leaves the error of an earlier attempt."""
    fingerprint: str | None = None
    """For a DEAD job."""


def fingerprint(type_: str, error: JobError) -> str:
    """What alike deaths share: job type, cause and text but for numbers, addresses and IDs."""
    text = _VARYING.sub("#", error.message[:1024])
    return hashlib.sha256(f"{type_}\n{error.type}\n{text}".encode()).hexdigest()[:16]


def decide(budget: RunBudget, outcome: Outcome, *, random: Random) -> Settlement:
    """Tell what follows. All chance is in the answer, so that it can be written twice."""
    if isinstance(outcome, Succeeded):  # nearly always
        return _unspent(budget, JobState.COMPLETED, EventType.COMPLETED, outcome.result)
    unspent = _unspent(budget, JobState.PENDING, EventType.INTERRUPTED)
    match outcome:
        case Failed(error):
            return _failed(budget, unspent, _storable(error), random)
        case TimedOut(timeout, unstoppable, message):
            text = message or f"ran longer than {timeout.total_seconds():g} s"
            error = _storable(JobError("Timeout", text, retryable=True))
            isolation = max(budget.isolation, Isolation.CHILD) if unstoppable else budget.isolation
            return _failed(budget, replace(unspent, isolation=isolation), error, random)
        case WorkerLost(message):
            return _lost(budget, unspent, JobError("WorkerLost", message, True))
        case Interrupted(message, suspect):
            isolation = _next_isolation(budget.isolation) if suspect else budget.isolation
            return replace(unspent, message=message, isolation=isolation)
        case Snoozed(after):
            delay = min(max(after, timedelta(0)), SNOOZE_MAX)
            return replace(
                unspent,
                event=EventType.SNOOZED,
                message=f"again in {delay.total_seconds():g} s",
                delay=delay,
            )
        case Cancelled(message):
            return replace(
                unspent, state=JobState.CANCELLED, event=EventType.CANCELLED, message=message
            )
        case _:
            assert_never(outcome)


def _unspent(
    budget: RunBudget, state: JobState, event: EventType, result: Content | None = None
) -> Settlement:
    return Settlement(
        state, event, "", budget.failures, budget.crashes, budget.isolation, result=result
    )


def _failed(budget: RunBudget, unspent: Settlement, error: JobError, random: Random) -> Settlement:
    failures = budget.failures + 1
    spent = replace(unspent, failures=failures, error=error)
    max_attempts = given(budget.policy.max_attempts, None)
    if not error.retryable:
        return _dead(budget, spent, f"not to be retried: {error.type}: {error.message}")
    if failures >= max_attempts:
        return _dead(
            budget,
            spent,
            f"failed {failures} of {max_attempts} attempts: {error.type}: {error.message}",
        )
    longest = exponential(
        failures,
        initial=given(budget.policy.initial_backoff, None),
        longest=given(budget.policy.max_backoff, None),
        multiplier=given(budget.policy.multiplier, None),
    )
    return _retry(spent, full_jitter(longest, random))


def _lost(budget: RunBudget, unspent: Settlement, error: JobError) -> Settlement:
    crashes = budget.crashes + 1
    isolation = max(budget.isolation, Isolation.CHILD)
    spent = replace(unspent, crashes=crashes, isolation=isolation, error=error)
    if crashes >= CRASHES_MAX:
        return _dead(budget, spent, f"lost its process {crashes} times: {error.message}")
    return _retry(spent, timedelta(0))


def _retry(spent: Settlement, delay: timedelta) -> Settlement:
    error = spent.error
    return replace(
        spent,
        state=JobState.FAILED,
        event=EventType.RETRY_SCHEDULED,
        message=f"{error.type}: {error.message}" if error else "",
        delay=delay,
    )


def _dead(budget: RunBudget, spent: Settlement, reason: str) -> Settlement:
    return replace(
        spent,
        state=JobState.DEAD,
        event=EventType.DEAD,
        message=reason,
        fingerprint=fingerprint(budget.type, spent.error) if spent.error else None,
    )


def _next_isolation(isolation: Isolation) -> Isolation:
    return Isolation.CHILD if isolation is Isolation.NONE else Isolation.ALONE


def _storable(error: JobError) -> JobError:
    return JobError(
        storable_text(error.type, ERROR_TYPE_BYTES_MAX),
        storable_text(error.message, ERROR_BYTES_MAX),
        error.retryable,
    )
