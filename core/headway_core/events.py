"""The history of jobs."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from headway_core import rows
from headway_core.database import Database
from headway_core.job import Job, Progress
from headway_core.queries import load
from headway_core.states import EventType, JobState

SQL: Final = load("events")


@dataclass(frozen=True, slots=True)
class Event:
    """One entry. `job` is the job as of this event, with its result if it COMPLETED."""

    job_id: UUID
    sequence: int
    time: datetime
    type: EventType
    attempt: int
    message: str
    job: Job


@dataclass(frozen=True, slots=True)
class Head:
    """How far a job's history goes, and its newest stored progress."""

    state: JobState
    sequence: int
    run_epoch: int
    progress: Progress | None

    @property
    def done(self) -> bool:
        """Whether the job changes no more by itself."""
        return self.state.done


async def after(database: Database, job_id: UUID, sequence: int, *, limit: int) -> list[Event]:
    """Read the events after a sequence, in order, at most `limit`."""
    return [
        Event(
            job_id=job_id,
            sequence=record["sequence"],
            time=record["event_time"],
            type=EventType(record["event_type"]),
            attempt=record["attempt"],
            message=record["message"],
            job=rows.job(record),
        )
        for record in await database.fetch(SQL.after, job_id, sequence, limit)
    ]


async def first_sequence(database: Database, job_id: UUID) -> int | None:
    """The first event that is still stored. None: none is."""
    first: int | None = await database.fetchval(SQL.first_sequence, job_id)
    return first


async def heads(database: Database, job_ids: Sequence[UUID]) -> dict[UUID, Head]:
    """Read how far the histories of jobs go, in one query. Unknown jobs are left out."""
    return {
        record["id"]: Head(
            state=JobState(record["state"]),
            sequence=record["sequence"],
            run_epoch=record["run_epoch"],
            progress=rows.progress(record["progress"]),
        )
        for record in await database.fetch(SQL.heads, list(job_ids))
    }
