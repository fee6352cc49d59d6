"""What a run costs and what follows, by the word for its end."""

from dataclasses import replace
from typing import Final

from headway_core.states import EventType, Isolation, JobState
from tests.store.machine.tables import JobRow

MAX_ATTEMPTS: Final = 3
CRASHES_MAX: Final = 3


def spent(job: JobRow, end: str) -> JobRow:
    """What a run has cost, and how the next one is kept apart."""
    suspected = max(job.isolation, Isolation.CHILD)
    match end:
        case "failed" | "failed for good":
            return replace(job, failures=job.failures + 1, error=end)
        case "timed out":
            return replace(job, failures=job.failures + 1, error=end, isolation=suspected)
        case "lost":
            return replace(job, crashes=job.crashes + 1, error=end, isolation=suspected)
        case "suspect" if job.isolation is not Isolation.NONE:
            return replace(job, isolation=Isolation.ALONE)
        case "suspect":
            return replace(job, isolation=Isolation.CHILD)
        case _:
            return job


def follows(job: JobRow, end: str) -> tuple[JobState, EventType, bool]:
    """What follows once that is spent, and whether it is due at once."""
    match end:
        case "succeeded":
            return JobState.COMPLETED, EventType.COMPLETED, False
        case "cancelled":
            return JobState.CANCELLED, EventType.CANCELLED, False
        case "snoozed":
            return JobState.PENDING, EventType.SNOOZED, False
        case "interrupted" | "suspect":
            return JobState.PENDING, EventType.INTERRUPTED, True
    over = job.crashes >= CRASHES_MAX if end == "lost" else job.failures >= MAX_ATTEMPTS
    if over or end == "failed for good":
        return JobState.DEAD, EventType.DEAD, False
    return JobState.FAILED, EventType.RETRY_SCHEDULED, end == "lost" or not job.patient
