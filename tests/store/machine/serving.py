"""What callers, the relay and the sweeper do to the store."""

import hashlib
from datetime import timedelta
from typing import Any

from uuid_utils.compat import uuid7

from headway_core import (
    dead_letters,
    jobs,
    outbox,
    submissions,
    sweeps,
)
from headway_core.errors import IdempotencyKeyReused, JobNotDead
from headway_core.job import RetryPolicy, Submission
from headway_core.states import JobState
from tests.store.conftest import TRACEPARENT
from tests.store.machine.ends import MAX_ATTEMPTS
from tests.store.machine.tables import JobRow
from tests.store.machine.world import HOUR, Operation, World


def submit(
    world: World, *, rare: bool, key: str | None, text: str, due: bool, patient: bool
) -> Operation:
    """A client submits."""
    submission = Submission(
        id=uuid7(),
        type="rare" if rare else "noop",
        request_hash=hashlib.sha256(text.encode()).digest(),
        traceparent=TRACEPARENT,
        idempotency_key=key,
        delay=None if due else HOUR,
        retry_policy=RetryPolicy(MAX_ATTEMPTS, HOUR if patient else timedelta(0), HOUR, 1.0),
    )

    async def run(database: Any) -> object:
        (outcome,) = await submissions.submit(database, [submission], queue_depth_max=None)
        if isinstance(outcome, IdempotencyKeyReused):
            return "reused"
        assert isinstance(outcome, submissions.Submitted)
        return ("created" if outcome.created else "existing", outcome.job.id)

    return Operation(
        f"submit key={key} text={text} due={due}",
        run,
        lambda reference, jobs, rows: reference.submit(
            submission.id, submission.type, key, text, due, patient
        ),
    )


def relay(world: World) -> Operation:
    """A relay publishes what is due, and the broker confirms it."""

    async def run(database: Any) -> object:
        async with database.transaction() as connection:
            due = await outbox.take_due(connection, limit=256)
            await outbox.delete(connection, [one.outbox_id for one in due])
        return sorted((one.job_id, one.dispatch_no, one.dead) for one in due)

    return Operation("relay", run, lambda reference, jobs, rows: reference.take(rows))


def mark(world: World, *, job: int, back: int) -> Operation:
    """The lazy mark, of the current dispatch or an older one."""
    job_id = world.job(job, _marks)
    number = world.reference.jobs[job_id].dispatch_no - back

    async def run(database: Any) -> object:
        return sorted(await outbox.mark_queued(database, [(job_id, number)]))

    return Operation(
        f"mark {job_id} {number}",
        run,
        lambda reference, jobs, rows: reference.mark({job_id: number}, jobs),
        lambda _: {job_id},
    )


def redispatch(world: World, *, job: int) -> Operation:
    """A sweep publishes again."""
    job_id = world.job(job, _marks)
    number = world.reference.jobs[job_id].dispatch_no

    async def run(database: Any) -> object:
        sent = await sweeps.redispatch(database, [(job_id, number)])
        return sorted(one.job_id for one in sent)

    return Operation(
        f"redispatch {job_id} {number}",
        run,
        lambda reference, jobs, rows: reference.redispatch({job_id: number}, jobs),
        lambda _: {job_id},
    )


def boost(world: World) -> Operation:
    """A sweep publishes what starves."""

    async def run(database: Any) -> object:
        sent = await sweeps.redispatch_starving(
            database, waiting_longer_than=timedelta(0), limit=100
        )
        return sorted(one.job_id for one in sent)

    return Operation(
        "boost",
        run,
        lambda reference, jobs, rows: reference.boost(jobs),
        lambda reference: {
            id_
            for id_, job in reference.jobs.items()
            if job.state is JobState.QUEUED and not job.boosted
        },
    )


def cancel(world: World, *, job: int) -> Operation:
    """A caller cancels."""
    job_id = world.job(job, _goes_on)

    async def run(database: Any) -> object:
        return (await jobs.cancel(database, job_id, reason="no more")).state

    return Operation(
        f"cancel {job_id}",
        run,
        lambda reference, jobs, rows: reference.cancel(job_id),
        lambda _: {job_id},
    )


def replay(world: World, *, job: int) -> Operation:
    """A caller replays the dead."""
    job_id = world.job(job, _dead)

    async def run(database: Any) -> object:
        try:
            return (await dead_letters.replay(database, job_id)).count
        except JobNotDead:
            return "JobNotDead"

    return Operation(
        f"replay {job_id}",
        run,
        lambda reference, jobs, rows: reference.replay(job_id),
        lambda reference: {job_id} if reference.jobs[job_id].state is JobState.DEAD else set(),
    )


def _marks(job: JobRow) -> bool:
    return job.state in (JobState.PENDING, JobState.FAILED)


def _goes_on(job: JobRow) -> bool:
    return not job.state.done


def _dead(job: JobRow) -> bool:
    return job.state is JobState.DEAD
