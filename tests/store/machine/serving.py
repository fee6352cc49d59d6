"""What callers, the relay and the sweeper do to the store."""

import hashlib
from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from uuid_utils.compat import uuid7

from headway_core import (
    dead_letters,
    jobs,
    outbox,
    retention,
    submissions,
    sweeps,
)
from headway_core.errors import IdempotencyKeyReused, JobNotDead, JobNotFound, Refused
from headway_core.job import RetryPolicy, Submission
from headway_core.states import JobState
from tests.store.conftest import TRACEPARENT
from tests.store.machine.calls import MARKS, New
from tests.store.machine.ends import MAX_ATTEMPTS
from tests.store.machine.reference import Reference
from tests.store.machine.tables import JobRow
from tests.store.machine.world import HOUR, Operation, World

LIMIT: Final = 256


def submit(world: World, *, items: Sequence[dict[str, Any]], queue: str | None) -> Operation:
    """Clients submit; `items` lack what makes a job new, and its queue."""
    new = [New(id=uuid7(), queue=queue, **item) for item in items]
    stored = [_submission(one) for one in new]

    async def run(database: Any) -> object:
        outcomes = await submissions.submit(database, stored, queue_depth_max=None)
        return [_told(outcome) for outcome in outcomes]

    return Operation(
        f"submit {[(one.key, one.text, one.due) for one in new]} to {queue}",
        run,
        lambda reference, jobs, rows: reference.submit(new),
    )


def _submission(one: New) -> Submission:
    return Submission(
        id=one.id,
        type=one.type,
        queue=one.queue,
        priority=one.priority,
        request_hash=hashlib.sha256(one.text.encode()).digest(),
        traceparent=TRACEPARENT,
        idempotency_key=one.key,
        delay=None if one.due else HOUR,
        retry_policy=RetryPolicy(MAX_ATTEMPTS, HOUR if one.patient else timedelta(0), HOUR, 1.0),
    )


def _told(outcome: submissions.Submitted | Refused) -> object:
    if isinstance(outcome, IdempotencyKeyReused):
        return ("gone",) if "stored no more" in str(outcome) else ("reused",)
    assert isinstance(outcome, submissions.Submitted), outcome
    return ("created" if outcome.created else "existing", outcome.job.id)


def relay(world: World, *, how: str) -> Operation:
    """A relay publishes what is due; the broker confirms it, or a part, or the relay crashes."""

    async def run(database: Any) -> object:
        async with database.transaction() as connection:
            due = await outbox.take_due(connection, limit=LIMIT)
            parts: dict[bool, list[int]] = {True: [], False: []}
            for one in due:
                parts[how == "confirmed" or bool(one.dispatch_no % 2)].append(one.outbox_id)
            if how != "crash":
                await outbox.delete(connection, parts[True])
                await outbox.defer(connection, parts[False], for_how_long=HOUR)
        return sorted((one.job_id, one.dispatch_no, one.dead) for one in due)

    return Operation(
        f"relay {how}",
        run,
        lambda reference, jobs, rows: reference.take(how, rows),
        rows=lambda reference: reference.due_rows(),
        skips=True,
    )


def fast_path(world: World) -> Operation:
    """A server publishes what it has just committed itself; nobody else takes those rows."""

    async def run(database: Any) -> None:
        rows = await database.fetch(
            "SELECT id FROM outbox WHERE reserved_until > clock_timestamp()"
        )
        await outbox.delete(database, [row["id"] for row in rows])

    return Operation(
        "fast_path",
        run,
        lambda reference, jobs, rows: reference.forget(reference.reserved_rows()),
        rows=lambda reference: reference.reserved_rows(),
    )


def mark(world: World, *, jobs: Sequence[int], back: int) -> Operation:
    """The lazy mark, of the current dispatch or an older one."""
    pairs = {id_: job.dispatch_no - back for id_, job in world.jobs(jobs, _marks).items()}

    async def run(database: Any) -> object:
        return sorted(await outbox.mark_queued(database, list(pairs.items())))

    return Operation(
        f"mark {pairs}",
        run,
        lambda reference, jobs, rows: reference.mark(pairs, jobs),
        lambda _: set(pairs),
        skips=True,
    )


def find_stranded(world: World) -> Operation:
    """A sweep looks."""

    async def run(database: Any) -> object:
        return sorted(await sweeps.stranded(database, limit=LIMIT))

    return Operation("stranded", run, lambda reference, jobs, rows: reference.stranded())


def redispatch(world: World, *, jobs: Sequence[int], back: int) -> Operation:
    """A sweep publishes again what it has seen stranded."""
    pairs = {id_: job.dispatch_no - back for id_, job in world.jobs(jobs, _marks).items()}

    async def run(database: Any) -> object:
        sent = await sweeps.redispatch(database, list(pairs.items()))
        return sorted(one.job_id for one in sent)

    return Operation(
        f"redispatch {pairs}",
        run,
        lambda reference, jobs, rows: reference.redispatch(pairs, jobs),
        lambda _: set(pairs),
        skips=True,
    )


def redispatch_queued(world: World, *, queue: str) -> Operation:
    """A sweep publishes again what the broker has lost."""

    async def run(database: Any) -> object:
        sent = await sweeps.redispatch_queued(database, queue, older_than=timedelta(0), limit=LIMIT)
        return sorted(one.job_id for one in sent)

    def expect(reference: Reference, jobs: Collection[UUID], rows: Collection[int]) -> object:
        return reference.redispatch(reference.queued(queue), jobs)

    return Operation(
        f"redispatch_queued {queue}",
        run,
        expect,
        lambda reference: {id_ for id_ in reference.queued(queue) if not reference.spoken_for(id_)},
        skips=True,
    )


def boost(world: World) -> Operation:
    """A sweep publishes what starves."""

    async def run(database: Any) -> object:
        sent = await sweeps.redispatch_starving(
            database, waiting_longer_than=timedelta(0), limit=LIMIT
        )
        return sorted(one.job_id for one in sent)

    return Operation(
        "boost",
        run,
        lambda reference, jobs, rows: reference.boost(jobs),
        lambda reference: reference.starving(),
        skips=True,
    )


def cancel(world: World, *, job: int) -> Operation:
    """A caller cancels."""
    job_id = world.job(job, _goes_on)

    async def run(database: Any) -> object:
        try:
            return (await jobs.cancel(database, job_id, reason="no more")).state.name
        except JobNotFound:
            return "JobNotFound"

    return Operation(
        f"cancel {job_id}",
        run,
        lambda reference, jobs, rows: reference.cancel(job_id),
        lambda _: {job_id},
        rows=lambda reference: reference.unsent(job_id),
    )


def replay(world: World, *, job: int) -> Operation:
    """A caller replays the dead."""
    job_id = world.job(job, _dead)

    async def run(database: Any) -> object:
        try:
            count = (await dead_letters.replay(database, job_id)).count
        except (JobNotDead, JobNotFound) as error:
            return type(error).__name__
        return "replayed" if count else "replayed before"

    return Operation(
        f"replay {job_id}",
        run,
        lambda reference, jobs, rows: reference.replay(job_id),
        lambda reference: {job_id} if job_id in _deaths(reference) else set(),
    )


def revive(world: World, *, jobs: Sequence[int], back: int) -> Operation:
    """The statement of a replay, with the deaths that its caller saw: the last ones, or older."""
    deaths = {id_: job.run_epoch - back for id_, job in world.jobs(jobs, _dead).items()}

    async def run(database: Any) -> object:
        sent = await dead_letters._replay(database, list(deaths.items()))
        return sorted(one.job_id for one in sent)

    return Operation(
        f"revive {deaths}",
        run,
        lambda reference, jobs, rows: reference.revive(deaths),
        lambda _: set(deaths),
    )


def retire(world: World) -> Operation:
    """What is finished is not kept for ever; here, not at all."""

    async def run(database: Any) -> object:
        # The bound lies two hours ahead, less the hour that a walk stops before it.
        step = await retention.remove_finished(
            database, after=UUID(int=0), finished_for=-2 * HOUR, limit=LIMIT
        )
        return step.removed

    return Operation(
        "retire",
        run,
        lambda reference, jobs, rows: reference.retire(jobs),
        lambda reference: reference.finished(),
        skips=True,
    )


def forget_keys(world: World) -> Operation:
    """Nor are the keys of jobs that are gone."""

    async def run(database: Any) -> object:
        removed, _ = await retention.remove_keys(database, page=0, pages=LIMIT)
        return removed

    return Operation("forget_keys", run, lambda reference, jobs, rows: reference.forget_keys())


def _deaths(reference: Reference) -> set[UUID]:
    return {id_ for id_, job in reference.jobs.items() if _dead(job)}


def _marks(job: JobRow) -> bool:
    return job.state in MARKS


def _goes_on(job: JobRow) -> bool:
    return not job.state.done


def _dead(job: JobRow) -> bool:
    return job.state is JobState.DEAD
