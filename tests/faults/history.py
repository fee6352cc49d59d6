"""The history checker: what must hold of every database, whatever went wrong before.

violations = await check(database, at_rest=True)
assert not violations, violations
"""

from collections import Counter
from collections.abc import Collection
from itertools import pairwise
from typing import Final
from uuid import UUID

from headway_core.database import Connection, Database, Record
from headway_core.states import DONE, MAY_FOLLOW, EventType, JobState

_TERMINAL: Final = frozenset({EventType.COMPLETED, EventType.DEAD, EventType.CANCELLED})
_EVENTS: Final = """
SELECT job_id, sequence, type, state, run_epoch, attempt FROM job_events
WHERE job_id = ANY ($1) ORDER BY job_id, sequence
"""
_JOBS: Final = """
SELECT id, state, sequence, run_epoch, claim_id, worker_id, wait_time FROM jobs
WHERE id > $1 ORDER BY id LIMIT $2
"""
CHECK_SECONDS_MAX: Final = 600.0
PAGE_JOBS: Final = 2_000
"""Read at a time: a soak leaves more than fits into memory."""


async def check(
    database: Database,
    *,
    at_rest: bool,
    accepted: Collection[UUID] = (),
    without_fault: bool = False,
) -> list[str]:
    """Return every violation, in words; all is read as of one moment.

    `accepted`: jobs whose submit was answered. `at_rest`: nothing is on its way, so every job is
    done and the outbox empty. `without_fault`: nothing was killed, so each run ended by its own.
    """
    async with database.transaction(timeout_seconds=CHECK_SECONDS_MAX) as reader:
        await reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        return await _check(reader, at_rest, accepted, without_fault=without_fault)


async def _check(
    database: Connection, at_rest: bool, accepted: Collection[UUID], *, without_fault: bool
) -> list[str]:
    known: set[UUID] = set()
    violations: list[str] = []
    after = UUID(int=0)
    while jobs := await database.fetch(_JOBS, after, PAGE_JOBS):
        after = jobs[-1]["id"]
        if accepted:
            known.update(job["id"] for job in jobs)
        histories: dict[UUID, list[Record]] = {}
        for row in await database.fetch(_EVENTS, [job["id"] for job in jobs]):
            histories.setdefault(row["job_id"], []).append(row)
        for job in jobs:
            words = _check_job(job, histories.get(job["id"], []))
            if at_rest and JobState(job["state"]) not in DONE:
                words.append(f"{JobState(job['state']).name} at rest")
            if without_fault and job["run_epoch"] > 1:
                words.append(f"ran {job['run_epoch']} times without a fault")
            violations += [f"{job['id']}: {word}" for word in words]
    violations += [f"{job_id}: accepted, and lost" for job_id in accepted if job_id not in known]
    violations += await _check_side_tables(database)
    if at_rest:
        left = await database.fetchval("SELECT count(*) FROM outbox")
        if left:
            violations.append(f"{left} outbox rows at rest")
    return violations


def _check_job(job: Record, history: list[Record]) -> list[str]:
    words = []
    if [row["sequence"] for row in history] != list(range(1, job["sequence"] + 1)):
        words.append(
            f"sequences are {[row['sequence'] for row in history]}, not 1..{job['sequence']}"
        )
    if not history:
        return [*words, "has no history"]
    if history[0]["type"] != EventType.SUBMITTED:
        words.append("does not begin with SUBMITTED")
    for before, row in pairwise(history):
        words += _check_step(before, row)
    last = history[-1]
    if last["state"] != job["state"] and not _declined_again(job, last):
        words.append(f"is {job['state']}, but its last event says {last['state']}")
    words += [
        f"started epoch {epoch} {count} times"
        for epoch, count in Counter(
            row["run_epoch"] for row in history if row["type"] == EventType.STARTED
        ).items()
        if count > 1
    ]
    return words


def _check_step(before: Record, row: Record) -> list[str]:
    words = []
    if row["run_epoch"] < before["run_epoch"]:
        words.append(f"epoch goes back at {row['sequence']}")
    if EventType(before["type"]) in _TERMINAL and row["type"] != EventType.REPLAYED:
        words.append(f"{EventType(row['type']).name} follows the end at {row['sequence']}")
    if EventType(before["type"]) in (EventType.COMPLETED, EventType.CANCELLED):
        words.append(f"goes on after {EventType(before['type']).name}")
    state, then = JobState(before["state"]), JobState(row["state"])
    if state is not then and then not in MAY_FOLLOW[state]:
        words.append(f"{then.name} follows {state.name} at {row['sequence']}")
    return words


def _declined_again(job: Record, last: Record) -> bool:
    """Only the first decline is an event; later ones turn QUEUED to PENDING without one."""
    return bool(job["state"] == JobState.PENDING and last["state"] == JobState.QUEUED)


async def _check_side_tables(database: Connection) -> list[str]:
    queries = {
        "RUNNING without a run": (
            "SELECT id FROM jobs AS j WHERE state = 3 AND NOT EXISTS (SELECT FROM runs AS r "
            "WHERE job_id = id AND r.run_epoch = j.run_epoch AND r.worker_id = j.worker_id)"
        ),
        "a run without RUNNING": (
            "SELECT job_id FROM runs WHERE NOT EXISTS "
            "(SELECT FROM jobs WHERE id = job_id AND state = 3)"
        ),
        "DEAD without a letter": (
            "SELECT id FROM jobs WHERE state = 6 "
            "AND NOT EXISTS (SELECT FROM dead_letters WHERE job_id = id)"
        ),
        "a letter without DEAD": (
            "SELECT job_id FROM dead_letters WHERE NOT EXISTS "
            "(SELECT FROM jobs WHERE id = job_id AND state = 6)"
        ),
        "one key, two jobs or none": (
            "SELECT job_id FROM idempotency_keys AS k "
            "WHERE NOT EXISTS (SELECT FROM jobs WHERE id = k.job_id)"
        ),
        "due later, and no message is to come": (
            "SELECT id FROM jobs AS j WHERE state IN (1, 5) AND wait_time > clock_timestamp() "
            "AND NOT EXISTS (SELECT FROM outbox WHERE job_id = j.id AND NOT dead)"
        ),
        "events of no job": (
            "SELECT DISTINCT job_id FROM job_events AS e "
            "WHERE NOT EXISTS (SELECT FROM jobs WHERE id = e.job_id)"
        ),
    }
    return [
        f"{row[0]}: {word}"
        for word, query in queries.items()
        for row in await database.fetch(query)
    ]
