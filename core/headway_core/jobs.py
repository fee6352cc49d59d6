"""Read and cancel jobs."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import orjson

from headway_core import rows
from headway_core.database import Database
from headway_core.errors import JobNotFound
from headway_core.job import Job
from headway_core.queries import load
from headway_core.states import JobState

SQL: Final = load("jobs")

LOOK_AT_MAX: Final = 10_000
"""Jobs that one step of a listing reads to find those that are asked for."""
UNFINISHED_MAX: Final = 1_000
"""Running, dead and waiting jobs, of each kind, among which one step looks."""


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


@dataclass(frozen=True, slots=True)
class Found:
    """A part of a listing, newest first."""

    jobs: list[Job]
    looked_up_to: UUID | None
    """Where the search stopped because it had looked at enough; None: it did not have to."""


async def list_jobs(
    database: Database, chosen: JobFilter, *, full: bool, before: UUID | None, limit: int
) -> Found:
    """Find up to `limit` jobs, newest first, older than the job `before`.

    States that few of many jobs are in have tables or an index that know them; anything else is
    looked for along the IDs, LOOK_AT_MAX jobs at most. An index by type, queue or label would cost
    every job something at each of its changes.
    """
    unfinished = await _unfinished(database, chosen.states, before)
    if unfinished is not None:
        records = await database.fetch(
            SQL.list_among, full, unfinished.ids, limit, *_filter_columns(chosen)
        )
        return Found([rows.job(record) for record in records], unfinished.looked_up_to)
    records = await database.fetch(
        SQL.list,
        full,
        before,
        limit,
        *_filter_columns(chosen),
        _id_bound(chosen.create_time_from, -_CLOCK_SLACK),
        _id_bound(chosen.create_time_to, _CLOCK_SLACK),
        LOOK_AT_MAX,
    )
    stopped = bool(records) and records[-1]["is_last_looked_at"]
    return Found(
        [rows.job(record) for record in records if record["matches"]],
        records[-1]["id"] if stopped else None,
    )


@dataclass(frozen=True, slots=True)
class _Unfinished:
    """All jobs in the states that are asked for, down to an ID; None: all there are."""

    ids: list[UUID]
    looked_up_to: UUID | None


async def _unfinished(
    database: Database, states: frozenset[JobState], before: UUID | None
) -> _Unfinished | None:
    """None if the states are such that many jobs are in them, or too many wait to be sorted."""
    if not states or states & {JobState.COMPLETED, JobState.CANCELLED}:
        return None
    records = await database.fetch(SQL.unfinished, sorted(states), before, UNFINISHED_MAX)
    running_or_dead = [record["id"] for record in records if not record["waits"]]
    waiting = [record["id"] for record in records if record["waits"]]
    if len(waiting) == UNFINISHED_MAX:
        return None
    if len(running_or_dead) < UNFINISHED_MAX:
        return _Unfinished(running_or_dead + waiting, None)
    # Below the lowest of the newest there may be more of one kind, which these do not know.
    newest = sorted(running_or_dead, reverse=True)[:UNFINISHED_MAX]
    return _Unfinished(newest + [id_ for id_ in waiting if id_ > newest[-1]], newest[-1])


def _filter_columns(chosen: JobFilter) -> list[object]:
    return [
        sorted(chosen.states) or None,
        chosen.type,
        chosen.queue,
        orjson.dumps(dict(chosen.labels)).decode() if chosen.labels else None,
        chosen.create_time_from,
        chosen.create_time_to,
    ]


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
