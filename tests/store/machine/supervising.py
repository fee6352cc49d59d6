"""What supervisors and the reaper do to the store."""

from collections.abc import Collection
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from headway_core import leases, runs
from tests.store.machine.reference import Reference
from tests.store.machine.world import HOUR, Operation, World

WORKERS_MAX: Final = 100


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
        worker=held.worker,
    )


def beat(world: World, *, worker: int) -> Operation:
    """A supervisor's heartbeat."""
    worker_id = world.worker(worker, lambda id_: not world.live(id_))

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
    worker_id = world.worker(worker, lambda id_: bool(world.reference.running(id_)))
    running = sorted(world.reference.running(worker_id))[: int(guilty)]
    timed_out = {id_: world.reference.jobs[id_].run_epoch for id_ in running}

    async def run(database: Any) -> object:
        judged = await leases.end(
            database, worker_id, how=how, message="ended", timed_out=timed_out
        )
        return sorted((one.job_id, one.state) for one in judged)

    def expect(reference: Reference, jobs: Collection[UUID], rows: Collection[int]) -> object:
        late = {
            id_
            for id_, epoch in timed_out.items()
            if id_ in reference.jobs and reference.jobs[id_].run_epoch == epoch
        }
        return reference.end_lease(worker_id, how, late, jobs)

    return Operation(
        f"end_lease {worker_id} {how.name}",
        run,
        expect,
        lambda reference: set(reference.running(worker_id)),
        worker=worker_id,
    )


def reap(world: World, *, worker: int) -> Operation:
    """A reaper judges."""
    worker_id = world.worker(
        worker, lambda id_: bool(world.reference.running(id_)) and not world.live(id_)
    )

    async def run(database: Any) -> object:
        judged = await leases.reap(database, worker_id)
        return sorted((one.job_id, one.state) for one in judged)

    return Operation(
        f"reap {worker_id}",
        run,
        lambda reference, jobs, rows: reference.reap(worker_id, jobs),
        lambda reference: set(reference.running(worker_id)),
        skips=True,
        worker=worker_id,
    )


def find_lapsed(world: World) -> Operation:
    """A reaper looks."""

    async def run(database: Any) -> object:
        return sorted(await leases.lapsed(database, limit=WORKERS_MAX))

    return Operation("lapsed", run, lambda reference, jobs, rows: reference.lapsed())


def tidy(world: World, *, forgotten: bool) -> Operation:
    """A reaper puts the table of workers in order."""

    async def run(database: Any) -> object:
        return await leases.tidy(
            database,
            ended_after=timedelta(0),
            forgotten_after=timedelta(0) if forgotten else HOUR,
        )

    return Operation(
        f"tidy {forgotten}", run, lambda reference, jobs, rows: reference.tidy(forgotten)
    )
