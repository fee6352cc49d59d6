"""Jobs in every state, for messages that name them without being their own."""

import asyncio
from collections.abc import Collection
from datetime import timedelta

from headway import JobState
from headway_core.database import Database
from tests.fuzz.live import OUTBOX_DUE, Live
from tests.service.worker import PlayedWorker

LATER_SECONDS = 300 * 86_400
NOBODYS = "nobodys"
"""A queue that no worker consumes."""
ROWS = """
SELECT md5(string_agg(line, '|' ORDER BY line)) AS digest FROM (
    SELECT t::text FROM jobs t WHERE id = ANY ($1::uuid[])
    UNION ALL SELECT t::text FROM job_events t WHERE job_id = ANY ($1::uuid[])
    UNION ALL SELECT t::text FROM runs t WHERE job_id = ANY ($1::uuid[])
    UNION ALL SELECT t::text FROM outbox t WHERE job_id = ANY ($1::uuid[])
    UNION ALL SELECT t::text FROM dead_letters t WHERE job_id = ANY ($1::uuid[])
) AS rows (line)
"""
STARTS = "SELECT count(*) AS starts FROM job_events WHERE job_id = $1::uuid AND type = 3"


def still_jobs(live: Live) -> dict[JobState, str]:
    """Jobs that no message may move, one in each state but QUEUED."""
    client = live.client
    late = client.submit("echo", {}, delay=LATER_SECONDS)
    cancelled = client.cancel(client.submit("echo", {}, delay=LATER_SECONDS).id)
    elsewhere = client.submit("elsewhere", {}, queue=NOBODYS)
    completed = client.submit("echo", {})
    dead = client.submit("hostile.loop", {"how": "error: for good"})
    failed = client.submit("fails", {})
    asyncio.run(_run_elsewhere(live.database_url, elsewhere.id))
    live.wait(completed)
    live.wait(dead)
    live.until(lambda: client.get(failed.id).state is JobState.FAILED)
    # Its backoff is drawn at random, and might be over soon.
    for update in (
        "UPDATE jobs SET wait_time = wait_time + interval '1 day' WHERE id = $1::uuid",
        "UPDATE outbox SET available_at = available_at + interval '1 day' WHERE job_id = $1::uuid",
    ):
        live.query(update, failed.id)
    live.until(lambda: not live.query(OUTBOX_DUE))
    jobs = [late, cancelled, elsewhere, completed, dead, failed]
    found = {client.get(job.id).state: job.id for job in jobs}
    assert len(found) == len(jobs), found
    return found


def rows_of(live: Live, job_ids: Collection[str]) -> str:
    """A digest of all rows that tell of these jobs."""
    return str(live.query(ROWS, list(job_ids))[0]["digest"])


def starts_of(live: Live, job_id: str) -> int:
    """How often a job was begun."""
    return int(live.query(STARTS, job_id)[0]["starts"])


async def _run_elsewhere(url: str, job_id: str) -> None:
    """Let a worker that does nothing more have the job."""
    database = await Database.connect(url, name="test", size=1)
    try:
        worker = await PlayedWorker.register(database, "elsewhere", lease=timedelta(hours=1))
        await worker.claim(job_id)
    finally:
        await database.close()
