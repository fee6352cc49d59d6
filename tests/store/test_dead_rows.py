"""What a forgotten transaction leaves: rows that are gone and that no vacuum may take away."""

import json
from datetime import timedelta
from uuid import uuid4

from headway_core import claims, jobs, leases, sweeps
from headway_core.database import Database

from .conftest import DEATH, Register, Run, Submit

ENDED_RUNS = 20_000
PAGES_MAX = 50


async def test_the_reaper_is_not_slowed_down_by_runs_that_have_ended(
    database: Database, register: Register
) -> None:
    """It looks each second: a walk along all runs since a snapshot would one day take too long."""
    worker = await register(lease=timedelta(minutes=5))
    await database.execute(
        "INSERT INTO runs (job_id, worker_id, run_epoch, claim_id) "
        "SELECT gen_random_uuid(), $1, 1, gen_random_uuid() FROM generate_series(1, $2::integer)",
        worker,
        ENDED_RUNS,
    )
    async with database.transaction() as pinned, database.transaction() as connection:
        await pinned.fetch("SELECT pg_current_xact_id()")
        await connection.execute("DELETE FROM runs")
        explained = await connection.fetchval(
            "EXPLAIN (ANALYZE, BUFFERS, FORMAT json) " + leases.SQL.lapsed, 100
        )
        plan = json.loads(explained)[0]["Plan"]
        assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < PAGES_MAX
        assert plan["Actual Rows"] == 0


async def test_queues_are_counted_each_for_itself(
    database: Database, submit: Submit, register: Register, run: Run
) -> None:
    """Waiting, running, dead; and how long the first QUEUED one has waited."""
    await run()
    await run(DEATH)
    await submit(queue="mail")
    queued = (await submit(queue="mail")).job.id
    await database.execute(
        "UPDATE jobs SET state = 2, wait_time = clock_timestamp() - interval '90 s' WHERE id = $1",
        queued,
    )
    running = (await submit(queue="mail")).job.id
    worker = await register()
    request = claims.ClaimRequest(running, uuid4(), 1)
    await claims.claim(database, [request], worker_id=worker, types={"noop"})
    cancelled = (await submit(queue="mail")).job.id
    await jobs.cancel(database, cancelled, reason="")
    default, mail = await sweeps.queue_statistics(database)
    assert (default.queue, default.waiting, default.running, default.dead) == ("default", 0, 0, 1)
    assert default.oldest_wait_seconds == 0
    assert (mail.queue, mail.waiting, mail.running, mail.dead) == ("mail", 2, 1, 0)
    assert 90 <= mail.oldest_wait_seconds < 150
