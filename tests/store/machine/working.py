"""What a worker does to the store."""

from collections.abc import Sequence
from datetime import UTC, datetime
from random import Random
from typing import Any, Final
from uuid import uuid4

from headway_core import (
    claims,
    runs,
    steps,
)
from headway_core.content import json_content
from headway_core.job import JobError, Progress
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
from tests.store.machine.reference import Ending
from tests.store.machine.tables import JobRow
from tests.store.machine.world import HOUR, Held, Operation, World

OUTCOMES: Final[dict[str, Outcome]] = {
    "failed": Failed(JobError("failed", "x", retryable=True)),
    "failed for good": Failed(JobError("failed for good", "x", retryable=False)),
    "timed out": TimedOut(HOUR, unstoppable=True),
    "lost": WorkerLost("killed"),
    "interrupted": Interrupted("drain"),
    "suspect": Interrupted("company", suspect=True),
    "snoozed": Snoozed(HOUR),
    "cancelled": Cancelled("asked"),
}
ENDS: Final = ("succeeded", *OUTCOMES)


class Longest(Random):
    """No chance in a backoff: it is its longest."""

    def random(self) -> float:
        return 1.0


def claim(world: World, *, jobs: Sequence[int], worker: int) -> Operation:
    """Deliveries come to a worker."""
    found = world.jobs(jobs, _waits)
    first = next(iter(found.values()))
    worker_id = world.worker(worker, lambda id_: world.has(id_, first.type))
    requests = [claims.ClaimRequest(id_, uuid4(), job.dispatch_no) for id_, job in found.items()]
    types = world.reference.lease(worker_id).types

    async def run(database: Any) -> object:
        outcomes = await claims.claim(database, requests, worker_id=worker_id, types=types)
        return [_told(outcome) for outcome in outcomes], [
            Held(worker_id, outcome) for outcome in outcomes if isinstance(outcome, claims.Claim)
        ]

    wanted = [(one.job_id, one.claim_id, one.dispatch_no) for one in requests]
    return Operation(
        f"claim {list(found)} by {worker_id}",
        run,
        lambda reference, jobs, rows: reference.claim(worker_id, wanted),
        lambda _: set(found),
        worker=worker_id,
        alone=any(job.isolation is Isolation.ALONE for job in found.values()),
    )


def _told(outcome: claims.ClaimOutcome | claims.DeclineOutcome) -> object:
    match outcome:
        case claims.Claim():
            return ("Claim", outcome.run_epoch)
        case claims.NothingToDo(dead):
            return "NothingToDo, dead" if dead else "NothingToDo"
        case _:
            return type(outcome).__name__


def decline(world: World, *, job: int, worker: int) -> Operation:
    """A worker gives back what it has no handler for."""
    job_id = world.job(job, _waits)
    row = world.reference.jobs[job_id]
    number = row.dispatch_no
    worker_id = world.worker(worker, lambda id_: world.live(id_) and not world.has(id_, row.type))
    types = world.reference.lease(worker_id).types

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
        worker=worker_id,
    )


def settle(
    world: World,
    *,
    runs_: Sequence[int],
    ends: Sequence[str],
    in_hand: bool,
    progress: int | None,
) -> Operation | None:
    """A worker ends runs that it holds, or thinks it does."""
    found = world.runs_of(runs_)
    if not found:
        return None
    worker_id = found[0].worker
    endings = [
        Ending(one.claim.job_id, one.claim.run_epoch, one.claim.claim_id, end, in_hand, progress)
        for one, end in zip(found, ends, strict=False)
    ]
    items = [
        runs.Settle(
            ending.id,
            ending.epoch,
            ending.claim,
            decide(one.claim.budget, _outcome(ending), random=Longest()),
            delivery_in_hand=in_hand,
            progress=None if progress is None else _progress(progress),
        )
        for one, ending in zip(found, endings, strict=True)
    ]

    async def run(database: Any) -> object:
        return [
            "Fenced" if isinstance(one, runs.Fenced) else ("Settled", one.state, one.sequence)
            for one in await runs.settle(database, items, worker_id=worker_id)
        ]

    return Operation(
        f"settle {[(str(one.id), one.epoch, one.end) for one in endings]} by {worker_id}",
        run,
        lambda reference, jobs, rows: reference.settle(worker_id, endings),
        lambda _: {one.id for one in endings},
        worker=worker_id,
    )


def _outcome(ending: Ending) -> Outcome:
    if ending.end == "succeeded":
        return Succeeded(json_content(str(ending.claim)))
    return OUTCOMES[ending.end]


def _progress(done: int) -> Progress:
    return Progress(update_time=datetime(2026, 1, 1, tzinfo=UTC), done=done)


def save_progress(world: World, *, runs_: Sequence[int], done: int) -> Operation | None:
    """A worker tells how far it is."""
    found = world.runs_of(runs_)
    if not found:
        return None
    epochs = {one.claim.job_id: one.claim.run_epoch for one in found}

    async def run(database: Any) -> object:
        items = [(id_, epoch, _progress(done)) for id_, epoch in epochs.items()]
        return await runs.save_progress(database, items)

    return Operation(
        f"save_progress {epochs}",
        run,
        lambda reference, jobs, rows: reference.save_progress(epochs, done, jobs),
        lambda _: set(epochs),
        skips=True,
        worker=found[0].worker,
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
        worker=held.worker,
    )


def _waits(job: JobRow) -> bool:
    return job.claimable
