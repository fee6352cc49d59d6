"""Submit jobs."""

import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import cache
from typing import Final, NamedTuple
from uuid import UUID

import orjson

from headway_core import jobs, queues, rows
from headway_core.database import Connection, Database, Record, UniqueViolation
from headway_core.errors import (
    IdempotencyKeyReused,
    Refused,
    StoreUnavailable,
    TooManyQueues,
)
from headway_core.failpoints import failpoint
from headway_core.job import DEFAULT_POLICY, QUEUES_MAX, Dispatch, Job, Submission
from headway_core.queries import load
from headway_core.queue_depth import overflowing
from headway_core.rows import column

SQL: Final = load("submissions")


@cache
def submit_statement(*, one: bool, queues: bool, keys: bool, again: bool) -> str:
    """Make the shortest statement that stores one item or many.

    `queues`, `keys`: whether some item names one; `again`: whether some ID may be there already,
    else it is a UniqueViolation. What a statement is ready for costs every run.
    """
    statement = SQL.submit
    for note, wanted in (("queues", queues), ("keys", keys), ("again", again)):
        if not wanted:
            statement = re.sub(rf".* -- if {note}\n", "", statement)
    if one:  # values in the place of columns
        statement = re.sub(r"unnest\(([^)]*)\)", r"(VALUES (\1))", statement).replace("[]", "")
    return statement


FAST_PATH: Final = timedelta(seconds=3)
"""How long a new outbox row is left to the process that wrote it."""
_PASSES_MAX: Final = 4


class Submitted(NamedTuple):
    """An accepted submission."""

    job: Job
    created: bool
    """False: the idempotency key named a job that was there."""
    outbox_id: int | None = None
    """Of the job's message, left to this process for FAST_PATH. None: due later, or not created."""

    @property
    def dispatch(self) -> Dispatch | None:
        """The job's message, if it is left to this process."""
        if self.outbox_id is None:
            return None
        job = self.job
        return Dispatch(
            outbox_id=self.outbox_id,
            job_id=job.id,
            dispatch_no=job.dispatch_no,
            queue=job.queue,
            priority=job.priority,
            dead=False,
            type=job.type,
            traceparent=job.traceparent,
            tracestate=job.tracestate,
        )


async def submit(
    database: Database, submissions: Sequence[Submission], *, queue_depth_max: int | None
) -> list[Submitted | Refused]:
    """Store jobs that have nothing to do with each other in one commit; a refusal concerns one of
    them.

    Safe to run again with the same submissions after an unknown commit. Raises StoreUnavailable.
    """
    outcomes: dict[UUID, Submitted | Refused] = {}
    left = submissions
    if queue_depth_max is not None:
        outcomes.update(await overflowing(database, submissions, limit=queue_depth_max))
        left = [item for item in submissions if item.id not in outcomes]
    for _ in range(_PASSES_MAX):
        if not left:
            break
        outcomes.update(await _store_new(database, left))
        left = [item for item in left if item.id not in outcomes]
        if left:
            outcomes.update(await _explain(database, left))
            left = [item for item in left if item.id not in outcomes]
    if left:
        raise StoreUnavailable("a submit met others with the same key too often")
    await failpoint("after_submit_commit")
    return [outcomes[item.id] for item in submissions]


async def submit_alone(database: Database, item: Submission) -> Submitted | None:
    """Store a job by one statement, over a connection that is at hand.

    None: it was not stored by this call, and `submit` has to see to it. Raises StoreUnavailable.
    """
    if not database.at_hand:
        return None
    try:
        stored = await _store(database, [item], again=False)
    except UniqueViolation:
        return None
    if stored:
        await failpoint("after_submit_commit")
    return stored.get(item.id)


async def submit_all(
    database: Database, submissions: Sequence[Submission], *, queue_depth_max: int | None
) -> list[Submitted]:
    """Store all jobs in one commit, or none.

    Raises the first Refused, its `index` telling which submission, or StoreUnavailable.
    """
    if queue_depth_max is not None:
        _raise_first(submissions, await overflowing(database, submissions, limit=queue_depth_max))
    await _make_queues_known(database, submissions)

    if all(item.idempotency_key is None for item in submissions):
        # Nothing can be in the way of new IDs in known queues, so a single statement does it.
        stored = await _store_new(database, submissions)
        if len(stored) == len(submissions):
            return [stored[item.id] for item in submissions]

    async def store(connection: Connection) -> dict[UUID, Submitted]:
        stored = await _store(connection, submissions, again=True)
        left = [item for item in submissions if item.id not in stored]
        for item, found in zip(left, await _find(connection, left), strict=True):
            refused_or_job = _judge(item, found)
            if isinstance(refused_or_job, Refused):
                raise _at(submissions.index(item), refused_or_job)  # rolls all back
            if refused_or_job is None:
                raise StoreUnavailable("a submit met another with the same key")
            record = await connection.fetchrow(jobs.SQL.get, [refused_or_job], False)
            if record is None:
                raise _at(
                    submissions.index(item), IdempotencyKeyReused(refused_or_job, stored=False)
                )
            stored[item.id] = Submitted(rows.job(record), created=refused_or_job == item.id)
        return stored

    stored = await database.transact(store)
    return [stored[item.id] for item in submissions]


async def _store_new(
    database: Database, submissions: Sequence[Submission]
) -> dict[UUID, Submitted]:
    """Store what nothing is in the way of."""
    try:
        return await _store(database, submissions, again=False)
    except UniqueViolation:  # an earlier try of this very call has stored some
        return await _store(database, submissions, again=True)


async def _store(
    target: Database | Connection, submissions: Sequence[Submission], *, again: bool
) -> dict[UUID, Submitted]:
    """Store what nothing is in the way of. Raises UniqueViolation for an ID that is there already,
    unless they are stored `again`.
    """
    one = len(submissions) == 1
    values = _values(submissions[0]) if one else _columns(submissions)
    # A column of nulls is empty.
    statement = submit_statement(one=one, queues=bool(values[2]), keys=bool(values[4]), again=again)
    items = {item.id: item for item in submissions}
    stored = {}
    for record in await target.fetch(statement, *values, FAST_PATH):
        job_id = record["id"]
        stored[job_id] = _submitted(items[job_id], record)
    return stored


def _values(item: Submission) -> tuple[object, ...]:
    """What the statement takes of an item, $1 to $19."""
    policy, payload = item.retry_policy, item.payload
    return (
        item.id,
        item.type,
        item.queue,
        item.priority,
        item.idempotency_key,
        item.request_hash if item.idempotency_key is not None else None,
        item.delay,
        item.run_time,
        policy.max_attempts,
        policy.initial_backoff,
        policy.max_backoff,
        policy.multiplier,
        item.timeout,
        orjson.dumps(dict(item.labels)).decode() if item.labels else None,
        item.traceparent,
        item.tracestate or None,
        payload.kind if payload else None,
        payload.content_type if payload else None,
        payload.data if payload else None,
    )


def _columns(submissions: Sequence[Submission]) -> list[object]:
    columns = zip(*map(_values, submissions), strict=True)
    return [column(list(values)) for values in columns]


def _submitted(item: Submission, record: Record) -> Submitted:
    job = Job(
        id=item.id,
        type=item.type,
        queue=record["queue"],
        priority=item.priority,
        max_attempts=rows.given(record["max_attempts"], DEFAULT_POLICY.max_attempts),
        traceparent=item.traceparent,
        tracestate=item.tracestate,
        create_time=record["create_time"],
        next_attempt_time=record["wait_time"],
        labels=item.labels,
    )
    return Submitted(job, created=True, outbox_id=record["outbox_id"])


async def _explain(
    database: Database, left: Sequence[Submission]
) -> dict[UUID, Submitted | Refused]:
    """Tell why submissions made no row. Those that may make one now are left out."""
    outcomes: dict[UUID, Submitted | Refused] = {}
    existing: dict[UUID, UUID] = {}
    unknown: list[Submission] = []
    for item, record in zip(left, await _find(database, left), strict=True):
        judged = _judge(item, record)
        if isinstance(judged, Refused):
            outcomes[item.id] = judged
        elif judged is not None:
            existing[item.id] = judged
        elif record["queue_unknown"]:
            unknown.append(item)
    found_jobs = {job.id: job for job in await jobs.get_many(database, list(existing.values()))}
    for submission_id, job_id in existing.items():
        if job_id in found_jobs:
            created = job_id == submission_id
            outcomes[submission_id] = Submitted(found_jobs[job_id], created)
        else:  # its key outlived it
            outcomes[submission_id] = IdempotencyKeyReused(job_id, stored=False)
    for refused in await _add_queues(database, unknown):
        outcomes[refused[0].id] = refused[1]
    return outcomes


def _judge(item: Submission, found: Record) -> UUID | Refused | None:
    """The job a submission has already, or why it is refused, or None: it may make one."""
    if found["key_job_id"] is not None:
        if found["request_hash"] != item.request_hash:
            return IdempotencyKeyReused(found["key_job_id"])
        job_id: UUID = found["key_job_id"]
        return job_id
    return item.id if found["stored_before"] else None


async def _find(source: Database | Connection, items: Sequence[Submission]) -> list[Record]:
    """Read what stands in the way of submissions, in their order."""
    if not items:
        return []
    found = await source.fetch(
        SQL.find_submitted,
        [item.id for item in items],
        [item.idempotency_key for item in items],
        [item.queue for item in items],
    )
    by_id = {record["id"]: record for record in found}
    return [by_id[item.id] for item in items]


async def _make_queues_known(database: Database, submissions: Sequence[Submission]) -> None:
    refused = await _add_queues(database, [item for item in submissions if item.queue is not None])
    _raise_first(submissions, {item.id: error for item, error in refused})


async def _add_queues(
    database: Database, submissions: Sequence[Submission]
) -> list[tuple[Submission, TooManyQueues]]:
    names = sorted({item.queue for item in submissions if item.queue is not None})
    if not names:
        return []
    known = await database.transact(lambda connection: queues.make_known(connection, names))
    return [
        (item, TooManyQueues(item.queue, limit=QUEUES_MAX))
        for item in submissions
        if item.queue is not None and item.queue not in known
    ]


def _raise_first(
    submissions: Sequence[Submission],
    refused: Mapping[UUID, Refused],
) -> None:
    for index, item in enumerate(submissions):
        if item.id in refused:
            raise _at(index, refused[item.id])


def _at(index: int, refused: Refused) -> Refused:
    refused.index = index
    return refused
