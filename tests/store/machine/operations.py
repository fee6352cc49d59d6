"""The store's transitions as values: run them on the store, apply them to the reference.

All that is chosen or generated is fixed in the operation, so it can be run twice, later, inside
a transaction that is held, or beside another.
"""

import hashlib
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from random import Random
from typing import Any, Final, TypeVar
from uuid import UUID, uuid4

from uuid_utils.compat import uuid7

from headway_core import (
    claims,
    dead_letters,
    jobs,
    leases,
    outbox,
    runs,
    steps,
    submissions,
    sweeps,
)
from headway_core.content import json_content
from headway_core.errors import IdempotencyKeyReused, JobNotDead
from headway_core.job import JobError, RetryPolicy, Submission
from headway_core.outcomes import (
    Cancelled,
    Failed,
    Interrupted,
    Outcome,
    Snoozed,
    Succeeded,
    TimedOut,
    WorkerLost,
)
from headway_core.settlement import decide
from headway_core.states import Isolation, JobState
from tests.store.conftest import TRACEPARENT
from tests.store.machine.reference import MAX_ATTEMPTS, JobRow, Reference

Item = TypeVar("Item")

JOBS: Final = 5
NUMBERS_MAX: Final = 9
FITTING_MAX: Final = 7
HOUR: Final = timedelta(hours=1)
TYPES: Final = (frozenset({"noop"}), frozenset({"noop", "rare"}), frozenset({"rare"}))
OUTCOMES: Final[dict[str, Outcome]] = {
    "succeeded": Succeeded(None),
    "failed": Failed(JobError("failed", "x", retryable=True)),
    "failed for good": Failed(JobError("failed for good", "x", retryable=False)),
    "timed out": TimedOut(HOUR, unstoppable=True),
    "lost": WorkerLost("killed"),
    "interrupted": Interrupted("drain"),
    "suspect": Interrupted("company", suspect=True),
    "snoozed": Snoozed(HOUR),
    "cancelled": Cancelled("asked"),
}


class Longest(Random):
    """No chance in a backoff: it is its longest."""

    def random(self) -> float:
        return 1.0


@dataclass(frozen=True, slots=True)
class Held:
    """A run that a worker was told of."""

    worker: UUID
    claim: claims.Claim


@dataclass(frozen=True, slots=True)
class Operation:
    """One transition with all its arguments."""

    name: str
    run: Callable[[Any], Awaitable[object]]
    """On a Database, or what looks like one. Returns what the caller is told."""
    expect: Callable[[Reference, Collection[UUID], Collection[int]], object]
    """On the reference, while others hold these jobs and outbox rows; for those that skip them."""
    locks: Callable[[Reference], set[UUID]] = lambda _: set()
    """The jobs that it locks."""
    worker: UUID | None = None
    alone: bool = False
    """Whether it claims a job that has to run alone: one worker does so one at a time."""


@dataclass(slots=True)
class World:
    """The reference, and what callers and workers know."""

    reference: Reference = field(default_factory=Reference)
    workers: list[UUID] = field(default_factory=list)
    held: list[Held] = field(default_factory=list)

    def job(self, n: int, wanted: Callable[[JobRow], bool]) -> UUID:
        """One of the last few jobs, by preference one of which something can become."""
        recent = list(self.reference.jobs)[-JOBS:]
        fit = [id_ for id_ in recent if wanted(self.reference.jobs[id_])]
        return _choose(n, fit, recent)

    def worker(self, n: int, type_: str | None = None) -> UUID:
        """One of the present workers, by preference a live one that has the type."""
        rows = self.reference.workers
        live = [id_ for id_ in self.workers if rows[id_].live]
        fit = [id_ for id_ in live if type_ is None or type_ in rows[id_].types]
        return _choose(n, fit or live, self.workers)

    def run_of(self, n: int) -> Held | None:
        """One of the last few runs that a worker holds, or thinks it does."""
        recent = self.held[-JOBS:]
        going = [
            one
            for one in recent
            if self.reference.jobs[one.claim.job_id].state is JobState.RUNNING
            and self.reference.jobs[one.claim.job_id].claim == one.claim.claim_id
        ]
        return _choose(n, going, recent) if recent else None


def _choose(n: int, fit: Sequence[Item], all_: Sequence[Item]) -> Item:
    """By a number up to NUMBERS_MAX: the higher ones do not care what fits."""
    chosen = fit if fit and n <= FITTING_MAX else all_
    return chosen[n % len(chosen)]


def _waits(job: JobRow) -> bool:
    return job.claimable


def _marks(job: JobRow) -> bool:
    return job.state in (JobState.PENDING, JobState.FAILED)


def _goes_on(job: JobRow) -> bool:
    return not job.state.done


def _dead(job: JobRow) -> bool:
    return job.state is JobState.DEAD


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


def claim(world: World, *, jobs: Sequence[int], worker: int) -> Operation:
    """Deliveries come to a worker."""
    job_ids = list(dict.fromkeys(world.job(n, _waits) for n in jobs))
    worker_id = world.worker(worker, world.reference.jobs[job_ids[0]].type)
    requests = [
        claims.ClaimRequest(id_, uuid4(), world.reference.jobs[id_].dispatch_no) for id_ in job_ids
    ]
    types = world.reference.workers[worker_id].types

    async def run(database: Any) -> object:
        outcomes = await claims.claim(database, requests, worker_id=worker_id, types=types)
        return [_told(outcome) for outcome in outcomes], [
            Held(worker_id, outcome) for outcome in outcomes if isinstance(outcome, claims.Claim)
        ]

    wanted = [(one.job_id, one.claim_id, one.dispatch_no) for one in requests]
    return Operation(
        f"claim {job_ids} by {worker_id}",
        run,
        lambda reference, jobs, rows: reference.claim(worker_id, wanted),
        lambda _: set(job_ids),
        worker_id,
        any(world.reference.jobs[id_].isolation is Isolation.ALONE for id_ in job_ids),
    )


def _told(outcome: claims.ClaimOutcome | claims.DeclineOutcome) -> object:
    match outcome:
        case claims.Claim():
            return ("Claim", outcome.run_epoch)
        case claims.NothingToDo(dead):
            return ("NothingToDo", dead)
        case _:
            return type(outcome).__name__


def decline(world: World, *, job: int, worker: int) -> Operation:
    """A worker gives back what it has no handler for."""
    job_id, worker_id = world.job(job, _waits), world.worker(worker)
    number = world.reference.jobs[job_id].dispatch_no
    types = world.reference.workers[worker_id].types

    async def run(database: Any) -> object:
        return _told(
            await claims.decline(
                database, job_id, worker_id=worker_id, dispatch_no=number, types=types
            )
        )

    return Operation(
        f"decline {job_id} by {worker_id}",
        run,
        lambda reference, jobs, rows: reference.decline(worker_id, job_id, number),
        lambda _: {job_id},
        worker_id,
    )


def settle(world: World, *, run_: int, end: str, in_hand: bool) -> Operation | None:
    """A worker ends a run that it holds, or thinks it does."""
    held = world.run_of(run_)
    if held is None:
        return None
    claimed = held.claim
    item = runs.Settle(
        claimed.job_id,
        claimed.run_epoch,
        claimed.claim_id,
        decide(claimed.budget, OUTCOMES[end], random=Longest()),
        delivery_in_hand=in_hand,
    )

    async def run(database: Any) -> object:
        (settled,) = await runs.settle(database, [item], worker_id=held.worker)
        if isinstance(settled, runs.Fenced):
            return "Fenced"
        return ("Settled", settled.state, settled.sequence)

    return Operation(
        f"settle {claimed.job_id} epoch {claimed.run_epoch} {end} by {held.worker}",
        run,
        lambda reference, jobs, rows: reference.settle(
            held.worker, claimed.job_id, claimed.run_epoch, claimed.claim_id, end, in_hand
        ),
        lambda _: {claimed.job_id},
        held.worker,
    )


def step(world: World, *, run_: int, name: str) -> Operation | None:
    """A handler finishes a step."""
    held = world.run_of(run_)
    if held is None:
        return None
    job_id, epoch = held.claim.job_id, held.claim.run_epoch

    async def run(database: Any) -> object:
        stored = await steps.complete_step(
            database,
            job_id=job_id,
            run_epoch=epoch,
            worker_id=held.worker,
            name=name,
            result=json_content(1),
        )
        return type(stored).__name__

    return Operation(
        f"step {name} of {job_id} epoch {epoch} by {held.worker}",
        run,
        lambda reference, jobs, rows: reference.step(held.worker, job_id, epoch, name),
        lambda _: {job_id},
        held.worker,
    )


def interrupt(world: World, *, run_: int) -> Operation | None:
    """A beat finds a run that the worker does not hold."""
    held = world.run_of(run_)
    if held is None:
        return None
    found = {held.claim.job_id: held.claim.run_epoch}

    async def run(database: Any) -> object:
        return sorted(await runs.interrupt_unheld(database, held.worker, list(found.items())))

    return Operation(
        f"interrupt {held.claim.job_id} of {held.worker}",
        run,
        lambda reference, jobs, rows: reference.interrupt(held.worker, found),
        lambda reference: set(reference.running(held.worker)) & found.keys(),
        held.worker,
    )


def beat(world: World, *, worker: int) -> Operation:
    """A supervisor's heartbeat."""
    worker_id = world.worker(worker)

    async def run(database: Any) -> object:
        return (await leases.beat(database, [worker_id], lease=HOUR))[worker_id]

    return Operation(
        f"beat {worker_id}",
        run,
        lambda reference, jobs, rows: reference.beat(worker_id),
        worker=worker_id,
    )


def end_lease(world: World, *, worker: int, how: leases.LeaseEnd, guilty: bool) -> Operation:
    """A supervisor ends a lease, perhaps because of a run that outlived its timeout."""
    worker_id = world.worker(worker)
    running = sorted(world.reference.running(worker_id))[: int(guilty)]
    timed_out = {id_: world.reference.jobs[id_].run_epoch for id_ in running}

    async def run(database: Any) -> object:
        judged = await leases.end(
            database, worker_id, how=how, message="ended", timed_out=timed_out
        )
        return sorted((one.job_id, one.state) for one in judged)

    def expect(reference: Reference, jobs: Collection[UUID], rows: Collection[int]) -> object:
        late = {id_ for id_, epoch in timed_out.items() if reference.jobs[id_].run_epoch == epoch}
        return reference.end_lease(worker_id, how, late)

    return Operation(
        f"end lease {worker_id} {how.name}",
        run,
        expect,
        lambda reference: set(reference.running(worker_id)),
        worker_id,
    )


def reap(world: World, *, worker: int) -> Operation:
    """A reaper judges."""
    worker_id = world.worker(worker)

    async def run(database: Any) -> object:
        judged = await leases.reap(database, worker_id)
        return sorted((one.job_id, one.state) for one in judged)

    return Operation(
        f"reap {worker_id}",
        run,
        lambda reference, jobs, rows: reference.reap(worker_id, jobs),
        lambda reference: set(reference.running(worker_id)),
        worker_id,
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
