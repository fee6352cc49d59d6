"""Leases: a worker's right to its runs, and what becomes of the runs when it ends."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum
from random import Random
from typing import Final
from uuid import UUID

from headway_core import runs
from headway_core.database import Connection, Database
from headway_core.errors import TooManyQueues
from headway_core.failpoints import failpoint
from headway_core.job import QUEUES_MAX, RetryPolicy
from headway_core.outcomes import Interrupted, Outcome, TimedOut, WorkerLost
from headway_core.queries import load
from headway_core.queues import make_known
from headway_core.runs import RunFacts, Settle
from headway_core.settlement import decide
from headway_core.states import JobState

SQL: Final = load("workers")

_ADOPTED_MAX: Final = 1000
WAITING_COUNTED_MAX: Final = 10_000


@dataclass(frozen=True, slots=True)
class HandlerType:
    """A handler as it is registered."""

    type: str
    queue: str
    policy: RetryPolicy
    timeout: timedelta | None


async def register(
    database: Database,
    worker_id: UUID,
    *,
    name: str,
    queues: Sequence[str],
    types: Sequence[HandlerType],
    lease: timedelta,
) -> dict[str, int]:
    """Store a worker's handlers, its row and its first lease, in one transaction.

    Then make jobs of its types that were declined due, and give those that were submitted before a
    type was known the handler's queue and policy. Safe to run twice. Returns how many jobs of each
    of its types wait, counted up to WAITING_COUNTED_MAX in all. Raises TooManyQueues,
    StoreUnavailable.
    """
    names = sorted({*queues, *(handler.queue for handler in types)})

    async def store(connection: Connection) -> list[str]:
        known = await make_known(connection, names)
        for queue in names:
            if queue not in known:
                raise TooManyQueues(queue, limit=QUEUES_MAX)
        stored = await connection.fetch(SQL.register_types, *_type_columns(types))
        await connection.fetch(
            SQL.register,
            worker_id,
            name,
            list(queues),
            [handler.type for handler in types],
            lease,
        )
        return [row["type"] for row in stored]

    registered = await database.transact(store)
    while await database.fetchval(SQL.adopt, registered, _ADOPTED_MAX):
        pass
    while await database.fetchval(SQL.make_due, registered, _ADOPTED_MAX):
        pass
    waiting = await database.fetch(SQL.waiting_by_type, registered, WAITING_COUNTED_MAX)
    return {row["type"]: row["count"] for row in waiting}


async def beat(
    database: Database, worker_ids: Sequence[UUID], *, lease: timedelta
) -> dict[UUID, bool]:
    """Renew leases for `lease` from now, by database time. False: ended for good."""
    renewed = {row["id"] for row in await database.fetch(SQL.beat, list(worker_ids), lease)}
    return {worker_id: worker_id in renewed for worker_id in worker_ids}


class LeaseEnd(IntEnum):
    """Why a lease ended, which decides what becomes of the runs still under it."""

    DRAINED = 1
    """The worker took its leave: INTERRUPTED."""
    DIED = 2
    """Its process died: charged if it had one run, else each run is a suspect."""
    STOPPED = 3
    """Its supervisor ended it, which is no fault of its runs: INTERRUPTED."""
    LOST = 4
    """It was heard of no more: judged like DIED."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A run that was ended from outside."""

    job_id: UUID
    state: JobState
    sequence: int


async def end(
    database: Database,
    worker_id: UUID,
    *,
    how: LeaseEnd,
    message: str,
    timed_out: Mapping[UUID, int] | None = None,
) -> list[Judged]:
    """End a lease for good and every run under it, in one transaction.

    `timed_out` (job, epoch) are the runs that outlived their timeout: they end as TIMED_OUT and
    next run in a child process. Waits for jobs that others have locked. Safe to run twice.
    """
    guilty = dict(timed_out or {})

    async def close(connection: Connection) -> list[Judged]:
        locked = await connection.fetch(runs.SQL.lock_waiting, worker_id, None)
        if await connection.fetchrow(SQL.lock_lease, worker_id) is None:
            return []
        await connection.fetchrow(SQL.end, worker_id, how)
        # Claims that committed while we waited for the lease; no further one can. To wait for their
        # jobs now would reverse the lock order, so the reaper gets those that others hold.
        locked += await connection.fetch(runs.SQL.lock, worker_id, None)
        job_ids = [row["id"] for row in locked]
        return await _judge(connection, worker_id, job_ids, message, guilty)

    return await database.transact(close)


async def reap(database: Database, worker_id: UUID) -> list[Judged]:
    """End the lease of a worker that is heard of no more, and its runs, in one transaction.

    Jobs that others have locked are left to the next call. Nothing happens if the lease lives after
    all.
    """

    async def judge(connection: Connection) -> list[Judged]:
        locked = [row["id"] for row in await connection.fetch(runs.SQL.lock, worker_id, None)]
        lease = await connection.fetchrow(SQL.lock_lease, worker_id)
        if lease is None or (lease["ended_time"] is None and not lease["lapsed"]):
            return []
        await failpoint("reap_after_lock")
        await connection.fetchrow(SQL.end, worker_id, LeaseEnd.LOST)
        return await _judge(connection, worker_id, locked, "its worker was lost", {})

    return await database.transact(judge)


async def lapsed(database: Database, *, limit: int) -> list[UUID]:
    """Find workers that have runs but no live lease, however long ago it ended."""
    return [row["worker_id"] for row in await database.fetch(SQL.lapsed, limit)]


async def tidy(database: Database, *, ended_after: timedelta, forgotten_after: timedelta) -> None:
    """End long-lapsed leases that cover no run, and drop workers that ended long ago."""
    await database.execute(SQL.end_idle, ended_after)
    await database.execute(SQL.forget, forgotten_after)


@dataclass(frozen=True, slots=True)
class DatabaseClock:
    """The database's time and the time its server was started."""

    now: datetime
    postmaster_start_time: datetime


async def database_clock(database: Database) -> DatabaseClock:
    """Read the database's clock."""
    record = await database.fetchrow(SQL.clock)
    if record is None:
        raise AssertionError("a SELECT without FROM has one row")
    return DatabaseClock(record["now"], record["postmaster_start_time"])


async def _judge(
    connection: Connection,
    worker_id: UUID,
    job_ids: Sequence[UUID],
    message: str,
    timed_out: Mapping[UUID, int],
) -> list[Judged]:
    lease = await connection.fetchrow(SQL.lock_lease, worker_id)
    if lease is None:
        return []
    random = Random()
    items = [
        Settle(
            job_id=facts.job_id,
            run_epoch=facts.run_epoch,
            claim_id=facts.claim_id,
            settlement=decide(
                facts.budget,
                _outcome(facts, LeaseEnd(lease["ended_how"]), lease["company"], message, timed_out),
                random=random,
            ),
            delivery_in_hand=False,
        )
        for facts in await runs.read_facts(connection, worker_id, job_ids)
    ]
    settled = await runs.settle_for(connection, items, worker_id=worker_id)
    return [Judged(job_id, end.state, end.sequence) for job_id, end in settled.items()]


def _outcome(
    facts: RunFacts,
    how: LeaseEnd,
    company: int,
    message: str,
    timed_out: Mapping[UUID, int],
) -> Outcome:
    if timed_out.get(facts.job_id) == facts.run_epoch:
        if facts.timeout is None:
            return TimedOut(timedelta(0), unstoppable=True, message=message)
        return TimedOut(facts.timeout, unstoppable=True)
    if how in (LeaseEnd.DRAINED, LeaseEnd.STOPPED):
        return Interrupted(message)
    if company > 1:
        return Interrupted(f"{message}, with {company} jobs on it", suspect=True)
    return WorkerLost(message)


def _type_columns(types: Sequence[HandlerType]) -> list[object]:
    return [
        [handler.type for handler in types],
        [handler.queue for handler in types],
        [handler.policy.max_attempts for handler in types],
        [handler.policy.initial_backoff for handler in types],
        [handler.policy.max_backoff for handler in types],
        [handler.policy.multiplier for handler in types],
        [handler.timeout for handler in types],
    ]
