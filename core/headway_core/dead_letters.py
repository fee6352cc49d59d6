"""DEAD jobs: found, grouped, replayed."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from headway_core import jobs, rows, submissions
from headway_core.database import Database
from headway_core.errors import JobNotDead, JobNotFound
from headway_core.failpoints import failpoint
from headway_core.job import Dispatch, Job, JobError
from headway_core.queries import load
from headway_core.states import JobState

SQL: Final = load("dead_letters")


@dataclass(frozen=True, slots=True)
class DeadLetterFilter:
    """Which dead letters; what is given must all hold."""

    type: str | None = None
    queue: str | None = None
    fingerprint: str | None = None
    dead_time_from: datetime | None = None
    dead_time_to: datetime | None = None

    def arguments(self) -> list[object]:
        """As $1 to $5 of the queries."""
        return [self.type, self.queue, self.fingerprint, self.dead_time_from, self.dead_time_to]


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A DEAD job and why it was given up."""

    job: Job
    fingerprint: str
    reason: str
    dead_time: datetime


@dataclass(frozen=True, slots=True)
class DeadLetterGroup:
    """Alike deaths; `error` is the latest one's."""

    fingerprint: str
    type: str
    queue: str
    error: JobError | None
    count: int
    first_dead_time: datetime
    last_dead_time: datetime


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replay did, or would do. `jobs` as they stand after it."""

    jobs: list[Job]
    count: int
    more: bool
    dispatches: list[Dispatch]


async def list_dead(
    database: Database,
    chosen: DeadLetterFilter,
    *,
    before: tuple[datetime, UUID] | None,
    limit: int,
) -> list[DeadLetter]:
    """Read a page, latest death first, earlier than the death `before` (time, job)."""
    dead_time, job_id = before or (None, None)
    records = await database.fetch(SQL.list, *chosen.arguments(), dead_time, job_id, limit)
    return [
        DeadLetter(rows.job(record), record["fingerprint"], record["reason"], record["dead_time"])
        for record in records
    ]


async def group_dead(
    database: Database, chosen: DeadLetterFilter, *, limit: int
) -> list[DeadLetterGroup]:
    """Count alike deaths, most first."""
    return [
        DeadLetterGroup(
            fingerprint=record["fingerprint"],
            type=record["type"],
            queue=record["queue"],
            error=rows.error(record),
            count=record["count"],
            first_dead_time=record["first_dead_time"],
            last_dead_time=record["last_dead_time"],
        )
        for record in await database.fetch(SQL.group, *chosen.arguments(), limit)
    ]


async def replay(database: Database, job_id: UUID, *, dry_run: bool = False) -> Replayed:
    """DEAD -> PENDING with fresh budgets, for the death that is seen now.

    A job that was replayed since it died is returned as it is, with a count of 0. Raises
    JobNotFound, JobNotDead if it never died, StoreUnavailable.
    """
    standing = await database.fetchrow(SQL.standing, job_id)
    if standing is None:
        raise JobNotFound(job_id)
    state = JobState(standing["state"])
    if state is not JobState.DEAD and standing["replays"] == 0:
        raise JobNotDead(job_id, state)
    deaths = [(job_id, standing["run_epoch"])] if state is JobState.DEAD else []
    return await _replayed(database, deaths, also=[job_id], more=False, dry_run=dry_run)


async def replay_matching(
    database: Database, chosen: DeadLetterFilter, *, limit: int, dry_run: bool
) -> Replayed:
    """Replay up to `limit` dead letters that match, oldest death first, in one transaction."""
    records = await database.fetch(SQL.choose, *chosen.arguments(), limit + 1)
    deaths = [(record["id"], record["run_epoch"]) for record in records[:limit]]
    return await _replayed(database, deaths, more=len(records) > limit, dry_run=dry_run)


async def _replayed(
    database: Database,
    deaths: Sequence[tuple[UUID, int]],
    *,
    also: Sequence[UUID] = (),
    more: bool,
    dry_run: bool,
) -> Replayed:
    dispatches = [] if dry_run else await _replay(database, deaths)
    return Replayed(
        jobs=await jobs.get_many(database, also or [job_id for job_id, _ in deaths]),
        count=len(deaths) if dry_run else len(dispatches),
        more=more,
        dispatches=dispatches,
    )


async def _replay(database: Database, deaths: Sequence[tuple[UUID, int]]) -> list[Dispatch]:
    if not deaths:
        return []
    records = await database.fetch(
        SQL.replay,
        [job_id for job_id, _ in deaths],
        [run_epoch for _, run_epoch in deaths],
        submissions.FAST_PATH,
    )
    await failpoint("after_replay_commit")
    return [rows.dispatch(record) for record in records]
