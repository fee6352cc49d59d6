"""P5, P11: a client dies with hundreds of watches open."""

import asyncio
import sys
from uuid import UUID

from headway.v1 import SubmitJobRequest
from headway_core.database import Database
from tests.faults.history import check
from tests.faults.waiting import promised, until
from tests.service.serving import serving
from tests.service.worker import PlayedWorker

WATCHES = 500
GONE_SECONDS_MAX = 20.0
CLIENT = """
import asyncio, sys
from headway.client import Client

async def main(target, job_ids):
    async with Client(target) as client:
        async def watch(job_id):
            async for _ in client.watch(job_id):
                pass
        await asyncio.gather(*(watch(job_ids[n % len(job_ids)]) for n in range({watches})))

asyncio.run(main(sys.argv[1], sys.argv[2:]))
"""


async def test_a_killed_client_leaves_no_watch_behind(
    database_url: str, amqp_url: str, database: Database
) -> None:
    """P11: SIGKILL with 500 watches of ten jobs; the server lets go of all, and the jobs go on."""
    async with serving(database_url, amqp_url) as served:
        job_ids = [
            (await served.stub.SubmitJob(SubmitJobRequest(type="test.job"))).job.id
            for _ in range(10)
        ]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", CLIENT.format(watches=WATCHES)),
            *(str(served.running.address), *job_ids),
        )
        hub = served.running.hub

        def watchers() -> int:
            return sum(len(topic.watchers) for topic in hub._topics.values())

        try:
            await until(lambda: watchers() == WATCHES, "all watch")
        finally:
            process.kill()
            await process.wait()
        took = await until(lambda: hub.watched == 0, "the server lets go")
        promised(f"client killed -> its {WATCHES} watches gone", took, GONE_SECONDS_MAX)
        worker = await PlayedWorker.register(database, "test.job")
        for job_id in job_ids:
            await worker.complete(job_id)
    assert not await check(database, at_rest=False, accepted=[UUID(one) for one in job_ids])
