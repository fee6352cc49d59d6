"""Read and cancel jobs."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import orjson

from headway_core import rows
from headway_core.database import Database
from headway_core.errors import (
    JobNotFound,
)
from headway_core.job import Job
from headway_core.queries import load
from headway_core.states import JobState

SQL: Final = load("jobs")


async def get(database: Database, job_id: UUID, *, full: bool) -> Job:
    """Read a job; `full` with payload and result. Raises JobNotFound, StoreUnavailable."""
    record = await database.fetchrow(SQL.get, [job_id], full)
    if record is None:
        raise JobNotFound(job_id)
    return rows.job(record)


async def get_many(database: Database, job_ids: Sequence[UUID]) -> list[Job]:
    """Read those of the jobs that exist, BASIC, in the order asked for."""
    found = {record["id"]: record for record in await database.fetch(SQL.get, list(job_ids), False)}
    return [rows.job(found[job_id]) for job_id in job_ids if job_id in found]


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Which jobs; what is given must all hold."""

    states: frozenset[JobState] = frozenset()
    type: str | None = None
    queue: str | None = None
    labels: tuple[tuple[str, str], ...] = ()
    create_time_from: datetime | None = None
    create_time_to: datetime | None = None


async def list_jobs(
    database: Database, chosen: JobFilter, *, full: bool, before: UUID | None, limit: int
) -> list[Job]:
    """Read a page of jobs, newest first, older than the job `before`."""
    records = await database.fetch(
        SQL.list,
        full,
        before,
        limit,
        sorted(chosen.states) or None,
        chosen.type,
        chosen.queue,
        orjson.dumps(dict(chosen.labels)).decode() if chosen.labels else None,
        chosen.create_time_from,
        chosen.create_time_to,
        _id_bound(chosen.create_time_from, -_CLOCK_SLACK),
        _id_bound(chosen.create_time_to, _CLOCK_SLACK),
    )
    return [rows.job(record) for record in records]


async def cancel(database: Database, job_id: UUID, *, reason: str) -> Job:
    """Cancel a waiting job now, ask a running one to stop, leave a done one as it is.

    One transaction under the job's lock. Returns the job as it stands after it: RUNNING means that
    the request is stored and its worker is to be told. Raises JobNotFound, StoreUnavailable.
    """
    if not await database.fetchval(SQL.cancel, job_id, reason):
        raise JobNotFound(job_id)
    return await get(database, job_id, full=False)


_CLOCK_SLACK: Final = timedelta(hours=1)


def _id_bound(time: datetime | None, slack: timedelta) -> UUID | None:
    """The lowest UUIDv7 of a time: milliseconds since 1970 in its first 48 bits (RFC 9562, 5.7)."""
    if time is None:
        return None
    milliseconds = max(0, int((time + slack).timestamp() * 1000))
    return UUID(int=min(milliseconds, 2**48 - 1) << 80)
