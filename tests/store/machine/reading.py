"""The store's tables as the reference sees them."""

from collections import Counter
from dataclasses import dataclass
from uuid import UUID

import orjson

from headway_core.database import Connection, Database
from headway_core.job import Progress
from headway_core.leases import LeaseEnd
from headway_core.states import EventType, Isolation, JobState
from tests.store.machine.reference import Reference
from tests.store.machine.tables import Event, JobRow, OutboxRow, WorkerRow

_ERRORS = {"Timeout": "timed out", "WorkerLost": "lost"}
_JOBS = """
SELECT *, wait_time <= clock_timestamp() AS due, initial_backoff > interval '0' AS patient
FROM jobs ORDER BY id
"""
_EVENTS = "SELECT job_id, sequence, type, state, attempt, run_epoch FROM job_events ORDER BY 1, 2"
_OUTBOX = """
SELECT job_id, dispatch_no, queue, priority, dead, available_at <= clock_timestamp() AS due,
       coalesce(reserved_until > clock_timestamp(), false) AS reserved
FROM outbox
"""
_WORKERS = "SELECT *, lease_expires <= clock_timestamp() AS lapsed FROM workers"


@dataclass(frozen=True, slots=True)
class Tables:
    """Everything that is compared."""

    jobs: dict[UUID, JobRow]
    outbox: "Counter[OutboxRow]"
    workers: dict[UUID, WorkerRow]
    runs: dict[UUID, tuple[UUID, int, UUID]]
    letters: dict[UUID, tuple[str, str]]
    queues: set[str]
    keys: dict[str, UUID]
    steps: dict[tuple[UUID, str], int]


def told(reference: Reference) -> Tables:
    """What the reference says of them."""
    running = {id_: job for id_, job in reference.jobs.items() if job.state is JobState.RUNNING}
    return Tables(
        dict(reference.jobs),
        Counter(reference.outbox.values()),
        dict(reference.workers),
        {
            id_: (job.worker, job.run_epoch, job.claim)
            for id_, job in running.items()
            if job.worker and job.claim
        },
        {
            id_: (job.type, job.queue)
            for id_, job in reference.jobs.items()
            if job.state is JobState.DEAD
        },
        set(reference.queues),
        {key: id_ for key, (id_, _) in reference.keys.items()},
        dict(reference.steps),
    )


async def stored(database: Database) -> Tables:
    """What is in the database."""
    return await database.transact(_read)


async def _read(connection: Connection) -> Tables:
    events: dict[UUID, list[Event]] = {}
    for row in await connection.fetch(_EVENTS):
        history = events.setdefault(row["job_id"], [])
        assert row["sequence"] == len(history) + 1, f"a gap in the history of {row['job_id']}"
        history.append(
            Event(EventType(row["type"]), JobState(row["state"]), row["attempt"], row["run_epoch"])
        )
    jobs = {
        row["id"]: JobRow(
            type=row["type"],
            queue=row["queue"],
            priority=row["priority"],
            due=row["due"] if row["state"] in (JobState.PENDING, JobState.FAILED) else None,
            patient=row["patient"],
            state=JobState(row["state"]),
            sequence=row["sequence"],
            dispatch_no=row["dispatch_no"],
            run_epoch=row["run_epoch"],
            worker=row["worker_id"],
            claim=row["claim_id"],
            attempt=row["attempt"],
            failures=row["failures"],
            crashes=row["crashes"],
            declines=row["declines"],
            replays=row["replays"],
            isolation=Isolation(row["isolation"]),
            cancel_asked=row["cancel_time"] is not None,
            boosted=row["boost_time"] is not None,
            error=_ERRORS.get(row["error_type"], row["error_type"]),
            result=orjson.loads(row["result"]) if row["result"] is not None else None,
            progress=int(Progress.from_bytes(row["progress"]).done) if row["progress"] else None,
            events=tuple(events[row["id"]]),
        )
        for row in await connection.fetch(_JOBS)
    }
    return Tables(
        jobs,
        Counter(OutboxRow(*row) for row in await connection.fetch(_OUTBOX)),
        {
            row["id"]: WorkerRow(
                frozenset(row["types"]),
                row["lapsed"],
                LeaseEnd(row["ended_how"]) if row["ended_time"] else None,
                row["company"],
            )
            for row in await connection.fetch(_WORKERS)
        },
        {
            row["job_id"]: (row["worker_id"], row["run_epoch"], row["claim_id"])
            for row in await connection.fetch("SELECT * FROM runs")
        },
        {
            row["job_id"]: (row["type"], row["queue"])
            for row in await connection.fetch("SELECT job_id, type, queue FROM dead_letters")
        },
        {row["name"] for row in await connection.fetch("SELECT name FROM queues")},
        {
            row["key"]: row["job_id"]
            for row in await connection.fetch("SELECT key, job_id FROM idempotency_keys")
        },
        {
            (row["job_id"], row["name"]): row["run_epoch"]
            for row in await connection.fetch("SELECT job_id, name, run_epoch FROM job_steps")
        },
    )
