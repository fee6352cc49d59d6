"""Where a guard matters: each scenario returns what the checks find wrong."""

from datetime import timedelta

from headway_core import claims, dead_letters, jobs, leases, runs
from headway_core.content import Content
from headway_core.job import JobError
from headway_core.outcomes import Failed, Succeeded
from tests.faults.history import check
from tests.mutants.service import Service, result

HOUR = timedelta(hours=1)


async def a_zombie_settles_after_its_successor(service: Service) -> list[str]:
    """Its lease was ended while it ran on."""
    first, second = await service.worker(), await service.worker()
    (job_id,) = [await service.submit()]
    (old,) = await service.claim(first, job_id)
    await leases.end(service.database, first, how=leases.LeaseEnd.DIED, message="cut off")
    (new,) = await service.claim(second, job_id)
    await service.settle(second, new, Succeeded(result("new")))
    await service.settle(first, old, Succeeded(result("old")))
    return await check(service.database, at_rest=False)


async def a_zombie_settles_before_its_successor(service: Service) -> list[str]:
    """The job is RUNNING again by then, in another's name."""
    first, second = await service.worker(), await service.worker()
    (job_id,) = [await service.submit()]
    (old,) = await service.claim(first, job_id)
    await leases.end(service.database, first, how=leases.LeaseEnd.DIED, message="cut off")
    (new,) = await service.claim(second, job_id)
    await service.settle(first, old, Succeeded(result("old")))
    settled = await service.settle(second, new, Succeeded(result("new")))
    words = await check(service.database, at_rest=False)
    job = await jobs.get(service.database, job_id, full=True)
    assert isinstance(job.result, Content)
    if job.result != result("new"):
        words.append("a stale run's write stands")
    if isinstance(settled, runs.Fenced):
        words.append("the run that holds the job is fenced")
    return words


async def the_broker_loses_its_messages(service: Service) -> list[str]:
    """A QUEUED job, and nothing speaks for it."""
    await service.submit()
    await service.relay()
    await service.mark()
    service.messages.clear()
    return await service.finish()


async def a_mark_comes_after_the_failure(service: Service) -> list[str]:
    """The job waits an hour for its retry; the mark is of the dispatch before."""
    job_id, worker = await service.submit(backoff=HOUR), await service.worker()
    await service.relay()
    (claimed,) = await service.claim(worker, job_id)
    await service.settle(worker, claimed, Failed(JobError("E", "x", retryable=True)))
    await service.mark()
    words = await check(service.database, at_rest=False)
    unconfirmed = await service.database.fetch(
        "SELECT id FROM jobs WHERE state = 2 AND EXISTS (SELECT FROM outbox "
        "WHERE job_id = jobs.id AND outbox.dispatch_no = jobs.dispatch_no)"
    )
    return words + [
        f"{row['id']}: QUEUED, and the broker never confirmed it" for row in unconfirmed
    ]


async def a_claim_whose_reply_is_lost(service: Service) -> list[str]:
    """It runs in the name of a worker that lives and knows nothing of it."""
    job_id, worker = await service.submit(), await service.worker()
    await service.relay()
    service.messages.clear()
    await service.claim(worker, job_id)
    return await service.finish()


async def a_run_that_the_reaper_found_locked(service: Service) -> list[str]:
    """SKIP LOCKED: somebody held the row when its worker was judged."""
    job_id, worker = await service.submit(), await service.worker()
    await service.relay()
    service.messages.clear()
    await service.claim(worker, job_id)
    service.workers.remove(worker)
    await service.lapse(worker)
    async with service.database.transaction() as connection:
        await connection.execute("SELECT FROM jobs WHERE id = $1 FOR UPDATE", job_id)
        await service.reap()
    return await service.finish()


async def two_copies_that_nobody_can_run(service: Service) -> list[str]:
    """A relay crashed after its publish; every worker lacks the type."""
    await service.submit("rare")
    worker = await service.worker()
    await service.relay(crashes=True)
    await service.relay()
    for _ in range(3):
        await service.deliver(worker)
        for table, column in (("jobs", "wait_time"), ("outbox", "available_at")):
            await service.database.execute(
                f"UPDATE {table} SET {column} = clock_timestamp() WHERE {column} IS NOT NULL"
            )
        await service.relay()
    return await check(service.database, at_rest=False) + await service.copies()


async def a_sweep_before_the_mark(service: Service) -> list[str]:
    """Nothing went wrong: the mark is only lazy."""
    await service.submit()
    await service.relay()
    await service.sweep()
    await service.mark()
    return await check(service.database, at_rest=False) + await service.copies()


async def a_poison_job_and_an_innocent_one(service: Service) -> list[str]:
    """They share their worker's deaths until each has one to itself."""
    poison, innocent = await service.submit(), await service.submit()
    for _ in range(3):
        worker = await service.worker()
        for job_id in (poison, innocent):
            state = (await jobs.get(service.database, job_id, full=False)).state
            if not state.done:
                await service._claim(worker, (job_id, 1))
        await leases.end(service.database, worker, how=leases.LeaseEnd.DIED, message="killed")
    words = await check(service.database, at_rest=False)
    crashes = await service.database.fetchval("SELECT crashes FROM jobs WHERE id = $1", innocent)
    return words + [f"{innocent}: charged without a fault of the job"] * bool(crashes)


async def a_late_rerun_of_a_claim(service: Service) -> list[str]:
    """By then the run has ended as INTERRUPTED, and an hour lies before the next."""
    job_id, worker = await service.submit(), await service.worker()
    request = claims.ClaimRequest(job_id, worker, 1)
    kept = {"worker_id": worker, "types": {"noop"}}
    (first,) = await claims.claim(service.database, [request], **kept)  # type: ignore[arg-type]
    assert isinstance(first, claims.Claim)
    await service.settle(worker, first, Failed(JobError("E", "x", retryable=True)))
    await service.database.execute("UPDATE jobs SET wait_time = wait_time + interval '1 hour'")
    (again,) = await claims.claim(service.database, [request], **kept)  # type: ignore[arg-type]
    words = await check(service.database, at_rest=False)
    return words + ["a run begins that the row does not know"] * isinstance(again, claims.Claim)


async def an_older_run_of_the_same_worker_settles(service: Service) -> list[str]:
    """Its worker was found not to hold it, ended it, and has claimed the job again since."""
    worker, (job_id,) = await service.worker(), [await service.submit()]
    (old,) = await service.claim(worker, job_id)
    await service.beat(worker)
    (new,) = await service.claim(worker, job_id)
    await service.settle(worker, old, Succeeded(result("old")))
    await service.settle(worker, new, Succeeded(result("new")))
    words = await check(service.database, at_rest=False)
    job = await jobs.get(service.database, job_id, full=True)
    return words + ["a stale run's write stands"] * (job.result != result("new"))


async def a_replay_arrives_after_a_second_death(service: Service) -> list[str]:
    """Its caller saw the first one; somebody else has replayed that meanwhile."""
    job_id, worker = await service.submit(), await service.worker()
    seen = 0
    for _ in range(2):
        (claimed,) = await service.claim(worker, job_id)
        await service.settle(worker, claimed, Failed(JobError("E", "x", retryable=False)))
        if not seen:
            seen = claimed.run_epoch
            await dead_letters.replay(service.database, job_id)
    revived = await dead_letters._replay(service.database, [(job_id, seen)])
    words = await check(service.database, at_rest=False)
    return words + ["a death is replayed that its caller did not see"] * bool(revived)


async def a_drained_worker_leaves_a_run_behind(service: Service) -> list[str]:
    """A claim whose reply was lost, found RUNNING under a lease that is drained."""
    job_id, worker = await service.submit(), await service.worker()
    await service.claim(worker, job_id)
    await leases.end(service.database, worker, how=leases.LeaseEnd.DRAINED, message="drain")
    crashes = await service.database.fetchval("SELECT crashes FROM jobs WHERE id = $1", job_id)
    words = await check(service.database, at_rest=False)
    return words + [f"{job_id}: charged without a fault of the job"] * bool(crashes)
