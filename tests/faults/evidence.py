"""What is known of jobs beside their tables, and has to agree with them."""

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from headway_core.states import EventType, JobState

Query = Callable[..., Awaitable[list[Any]]]
"""A statement and its arguments to rows."""

Entry = tuple[int, str, int]
"""Of a history: sequence, type, attempt."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What one watcher saw: a snapshot's sequence, or 0, and the events after it."""

    begin: int = 0
    events: list[Entry] = field(default_factory=list)


def unlike(sight: Sight, stored: Sequence[Entry]) -> list[str]:
    """Whether a watcher saw each event that is stored, once, in order, to the end."""
    if sight.events == list(stored[sight.begin :]):
        return []
    return [f"its watcher saw {sight.events} after {sight.begin}, stored is {stored}"]


def unnoticed(deaths: Mapping[UUID, int], notices: Mapping[UUID, int]) -> list[str]:
    """Deaths of which no notice is in a `.dead` queue; there may be more notices than deaths."""
    return [
        f"{job_id}: died {count} times, with {notices.get(job_id, 0)} notices"
        for job_id, count in deaths.items()
        if notices.get(job_id, 0) < count
    ]


def executions(
    begun: Counter[str], jobs: Sequence[tuple[str, JobState, int]], *, without_fault: bool
) -> list[str]:
    """Compare what handlers have noted with the epochs of (job, state, epoch).

    No epoch begins twice, and what is COMPLETED has begun. A fault may come between a claim and its
    run; without one each epoch is begun.
    """
    words = []
    for job_id, state, run_epoch in jobs:
        runs = begun[job_id]
        if runs > run_epoch or (without_fault and runs < run_epoch):
            words.append(f"{job_id}: {runs} executions in {run_epoch} epochs")
        if state is JobState.COMPLETED and not runs:
            words.append(f"{job_id}: completed, and never begun")
    return words


async def executions_found(query: Query, begun: Counter[str], *, without_fault: bool) -> list[str]:
    """`executions` of all jobs."""
    rows = await query("SELECT id, state, run_epoch FROM jobs")
    jobs = [(str(row["id"]), JobState(row["state"]), row["run_epoch"]) for row in rows]
    return executions(begun, jobs, without_fault=without_fault)


async def keys_found(query: Query) -> list[str]:
    """Jobs without a key, or with several: each submit of a client has one."""
    rows = await query(
        "SELECT id, count(key) AS keys FROM jobs LEFT JOIN idempotency_keys ON job_id = id "
        "GROUP BY id HAVING count(key) <> 1"
    )
    return [f"{row['id']}: has {row['keys']} keys" for row in rows]


async def deaths(query: Query) -> dict[UUID, int]:
    """How often each job died; it may have been replayed since."""
    rows = await query(
        "SELECT job_id, count(*) FROM job_events WHERE type = $1 GROUP BY 1", EventType.DEAD
    )
    return {row["job_id"]: row["count"] for row in rows}


async def described(query: Query) -> str:
    """How the jobs stand, for a test that fails."""
    rows = await query(
        "SELECT state, count(*), min(id::text) AS one FROM jobs GROUP BY state ORDER BY state"
    )
    lines = [f"{JobState(row['state']).name} {row['count']} {row['one']}" for row in rows]
    outbox = await query("SELECT * FROM outbox LIMIT 5")
    lines += [f"outbox {dict(row)}" for row in outbox]
    going = await query(
        "SELECT e.job_id, sequence, type, message, time FROM job_events AS e "
        "WHERE job_id IN (SELECT id FROM jobs WHERE state NOT IN (4, 6, 7) LIMIT 2) "
        "ORDER BY job_id, sequence"
    )
    return "\n".join([*lines, *(str(dict(row)) for row in going)])
