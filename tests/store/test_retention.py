"""Finished jobs and old keys go; everything else stays."""

import asyncio
from datetime import timedelta
from random import Random
from uuid import UUID, uuid4

from headway_core import claims, dead_letters, jobs, retention, runs, submissions
from headway_core.database import Database
from headway_core.errors import JobNotFound
from headway_core.outcomes import Succeeded
from headway_core.settlement import decide
from tests.faults.history import check

from .conftest import DEATH, Register, Run, Submit, submission

BEGINNING = UUID(int=0)
MONTH = timedelta(days=30)
TYPES = frozenset({"noop"})


async def age(database: Database, job_id: UUID, days: float) -> UUID:
    """Make a job older, all of it, and return the ID that goes with its age."""
    older = timedelta(days=days)
    aged = UUID(int=job_id.int - (int(older.total_seconds() * 1000) << 80))
    await database.execute(
        "UPDATE jobs SET id = $2, create_time = create_time - $3::interval, "
        "end_time = end_time - $3::interval WHERE id = $1",
        job_id,
        aged,
        older,
    )
    for table in ("job_events", "job_steps", "outbox", "dead_letters", "runs"):
        await database.execute(f"UPDATE {table} SET job_id = $2 WHERE job_id = $1", job_id, aged)
    await database.execute(
        "UPDATE idempotency_keys SET job_id = $2, create_time = create_time - $3::interval "
        "WHERE job_id = $1",
        job_id,
        aged,
        older,
    )
    return aged


async def remove(database: Database, *, finished_for: timedelta = MONTH) -> int:
    """Walk along all jobs once."""
    removed, after = 0, BEGINNING
    while True:
        step = await retention.remove_finished(
            database, after=after, finished_for=finished_for, limit=3
        )
        removed += step.removed
        if step.seen < 3:
            return removed
        assert step.last_id is not None
        after = step.last_id


async def exists(database: Database, job_id: UUID) -> bool:
    try:
        await jobs.get(database, job_id, full=False)
    except JobNotFound:
        return False
    return True


async def rows(database: Database, table: str) -> int:
    count: int = await database.fetchval(f"SELECT count(*) FROM {table}")
    return count


async def test_old_finished_jobs_go_with_events_and_steps(
    database: Database, submit: Submit, run: Run
) -> None:
    """COMPLETED and CANCELLED, counted from their end; those of yesterday stay whole."""
    cancelled = (await submit()).job.id
    await jobs.cancel(database, cancelled, reason="")
    for job_id in [cancelled, await run(), await run(), await run(), await run()]:
        await age(database, job_id, 31)
    young = await age(database, await run(), 29)
    assert await remove(database) == 5
    assert await rows(database, "jobs") == 1
    assert await exists(database, young)
    assert await rows(database, "job_events") == 4
    assert await rows(database, "job_steps") == 1


async def test_a_job_is_kept_from_its_end_not_from_its_submission(
    database: Database, run: Run
) -> None:
    """It may have waited for a year."""
    job_id = await age(database, await run(), 300)
    await database.execute("UPDATE jobs SET end_time = clock_timestamp()")
    assert await remove(database) == 0
    assert await exists(database, job_id)


async def test_dead_waiting_and_running_jobs_stay_whatever_their_age(
    database: Database, submit: Submit, run: Run, register: Register
) -> None:
    """A dead letter is kept until somebody has replayed it, and it has ended otherwise."""
    dead = await age(database, await run(DEATH), 400)
    await age(database, (await submit()).job.id, 400)
    running = (await submit()).job.id
    worker = await register()
    request = claims.ClaimRequest(running, uuid4(), 1)
    await claims.claim(database, [request], worker_id=worker, types=TYPES)
    await age(database, running, 400)
    assert await remove(database) == 0
    assert await rows(database, "jobs") == 3
    assert await rows(database, "dead_letters") == 1
    await dead_letters.replay(database, dead, dry_run=False)
    await jobs.cancel(database, dead, reason="")
    assert await remove(database) == 0, "it ended just now"
    await database.execute("UPDATE jobs SET end_time = end_time - interval '31 days'")
    assert await remove(database) == 1
    assert not await exists(database, dead)


async def test_a_job_with_an_outbox_row_waits_for_the_relay(database: Database, run: Run) -> None:
    """The relay reads rows together with their jobs: one without its job would stay for ever."""
    job_id = await age(database, await run(), 31)
    await database.execute(
        "INSERT INTO outbox (job_id, dispatch_no, queue, priority, available_at) "
        "VALUES ($1, 1, 'default', 4, clock_timestamp())",
        job_id,
    )
    assert await remove(database) == 0
    await database.execute("DELETE FROM outbox")
    assert await remove(database) == 1


async def test_a_locked_job_is_left_to_who_holds_it(database: Database, run: Run) -> None:
    """Two servers may walk at the same time, and neither waits for the other."""
    first, second = [await age(database, await run(), 31) for _ in range(2)]
    async with database.transaction() as connection:
        await connection.fetch("SELECT FROM jobs WHERE id = $1 FOR UPDATE", first)
        assert await remove(database) == 1
    assert await exists(database, first)
    assert not await exists(database, second)


async def test_the_longest_retention_removes_nothing(database: Database, run: Run) -> None:
    """A hundred years ago there were no milliseconds since 1970."""
    await age(database, await run(), 31)
    assert await remove(database, finished_for=timedelta(days=36_500)) == 0


async def test_a_key_lives_thirty_days_and_as_long_as_its_job(
    database: Database, run: Run, submit: Submit
) -> None:
    """A short retention does not free a key early, nor does its age while the job is there."""
    gone = await age(database, await run(idempotency_key="gone", request_hash=b"1"), 31)
    await age(database, await run(idempotency_key="young", request_hash=b"2"), 29)
    dead = await age(database, await run(DEATH, idempotency_key="dead", request_hash=b"3"), 400)
    assert await retention.remove_keys(database, page=0, pages=64) == (0, True)
    assert await remove(database, finished_for=timedelta(days=1)) == 2
    assert await retention.remove_keys(database, page=0, pages=64) == (1, True)
    keys = {row["key"] for row in await database.fetch("SELECT key FROM idempotency_keys")}
    assert keys == {"young", "dead"}
    assert not await exists(database, gone)
    assert await exists(database, dead)
    again = await submit(idempotency_key="gone", request_hash=b"1")
    assert again.created, "after its time a key is a new one"


async def test_keys_are_walked_page_by_page(database: Database) -> None:
    """Every page is met, the last one says so, and no step reads more than its pages."""
    await database.execute(
        "INSERT INTO idempotency_keys (key, job_id, request_hash, create_time) "
        "SELECT n::text, gen_random_uuid(), '', clock_timestamp() - interval '31 days' "
        "FROM generate_series(1, 1000) AS n"
    )
    removed, page, at_end = 0, 0, False
    while not at_end:
        count, at_end = await retention.remove_keys(database, page=page, pages=2)
        assert count < 300
        removed, page = removed + count, page + 2
    assert removed == 1000
    assert await rows(database, "idempotency_keys") == 0


async def test_jobs_are_removed_while_others_run(
    database: Database, run: Run, register: Register
) -> None:
    """No deadlock, nobody's transition fails, and what is left has a whole history."""
    old = [await age(database, await run(), 31) for _ in range(30)]
    worker = await register(lease=timedelta(minutes=5))
    ended: list[UUID] = []

    async def load() -> None:
        for _ in range(20):
            items = [submission() for _ in range(5)]
            await submissions.submit(database, items, queue_depth_max=None)
            requests = [claims.ClaimRequest(item.id, uuid4(), 1) for item in items]
            # Old messages of jobs that may be gone by now.
            requests += [claims.ClaimRequest(job_id, uuid4(), 1) for job_id in old[:5]]
            claimed = await claims.claim(database, requests, worker_id=worker, types=TYPES)
            mine = [claim for claim in claimed if isinstance(claim, claims.Claim)]
            assert [claim.job_id for claim in mine] == [item.id for item in items]
            assert claimed[5:] == [claims.NothingToDo()] * 5
            settles = [
                runs.Settle(
                    claim.job_id,
                    claim.run_epoch,
                    claim.claim_id,
                    decide(claim.budget, Succeeded(None), random=Random(1)),
                )
                for claim in mine
            ]
            settled = await runs.settle(database, settles, worker_id=worker)
            assert all(isinstance(one, runs.Settled) for one in settled)
            ended.extend(claim.job_id for claim in mine)

    removed = []

    async def keep_removing() -> None:
        while len(ended) < 200:
            removed.append(await remove(database))

    await asyncio.gather(load(), load(), keep_removing(), keep_removing())
    removed.append(await remove(database))
    assert sum(removed) == 30
    assert not any([await exists(database, job_id) for job_id in old])
    await database.execute("DELETE FROM outbox")
    assert not await check(database, accepted=ended, at_rest=True, without_fault=True)
