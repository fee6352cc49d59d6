"""What a worker, its supervisor and the reaper do to the store."""

from collections.abc import Collection, Sequence
from random import Random
from typing import Any, Final
from uuid import UUID, uuid4

from headway_core import (
    claims,
    leases,
    runs,
    steps,
)
from headway_core.content import json_content
from headway_core.job import JobError
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
from headway_core.states import Isolation
from tests.store.machine.reference import Reference
from tests.store.machine.tables import JobRow
from tests.store.machine.world import HOUR, Held, Operation, World

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
    job_id = world.job(job, _waits)
    worker_id = world.worker(worker, world.reference.jobs[job_id].type, lacks=True)
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


def _waits(job: JobRow) -> bool:
    return job.claimable
