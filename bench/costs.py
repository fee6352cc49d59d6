"""What one job costs PostgreSQL and RabbitMQ: `python -m bench.costs`.

On private services with production durability. No-op jobs with a key, a label and 200 bytes of
payload: a backlog is submitted in batches, then drained by one worker; then single jobs run one
after the other; then nothing happens. CPU time is counted by process, so other load on the machine
disturbs little.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bench.deployment import BATCH, HANDLERS, Deployment, show
from headway.v1 import WatchJobRequest
from headway_dev.rabbitmq import VHOST
from headway_dev.schema import migrate
from headway_dev.services import Services, private_services

CALLS_AT_ONCE: Final = 4
IDLE_SECONDS: Final = 20
POLL_SECONDS: Final = 0.1
BROKER_STATISTICS_SECONDS: Final = 6
"""RabbitMQ counts its queues' memory every five."""


def main(arguments: Sequence[str]) -> int:
    """Measure and print a table; exit 0."""
    parser = argparse.ArgumentParser(prog="python -m bench.costs", description=__doc__)
    parser.add_argument("--jobs", type=int, default=20_000, help="in the backlog (20000)")
    parser.add_argument("--single", type=int, default=300, help="one after the other (300)")
    parser.add_argument("--concurrency", type=int, default=200, help="of the worker (200)")
    options = parser.parse_args(arguments)
    with (
        tempfile.TemporaryDirectory() as directory,
        private_services(Path(directory), postgres_settings={"max_wal_size": "4GB"}) as services,
    ):
        migrate(services.database_url)
        asyncio.run(_measure(services, options.jobs, options.single, options.concurrency))
        services.erase()
    return 0


async def _measure(services: Services, jobs: int, single: int, concurrency: int) -> None:
    rows: list[tuple[str, dict[str, float]]] = []
    async with Deployment.start(services) as deployment:
        # The queue of the type is made known, the pools are opened.
        await deployment.submit_batch()
        await _until(deployment, "NOT EXISTS (SELECT FROM outbox)")
        await deployment.pool.execute("CHECKPOINT")

        batches = jobs // BATCH
        before, begun = await deployment.cost(), time.monotonic()
        left = iter(range(batches))

        async def submit() -> None:
            for _ in left:
                await deployment.submit_batch()

        await asyncio.gather(*(submit() for _ in range(CALLS_AT_ONCE)))
        seconds = time.monotonic() - begun
        await _until(deployment, "NOT EXISTS (SELECT FROM outbox)")
        await _until(deployment, "NOT EXISTS (SELECT FROM jobs WHERE state = 1)")
        cost = (await deployment.cost()).since(before, jobs=batches * BATCH)
        rows.append(("submit, 32 a call", {"jobs/s": batches * BATCH / seconds, **cost}))

        await asyncio.sleep(BROKER_STATISTICS_SECONDS)
        print(services.rabbitmqctl("list_queues", "-p", VHOST, "name", "messages", "memory"))

        before, begun = await deployment.cost(), time.monotonic()
        deployment.run("worker", "worker", HANDLERS, "--concurrency", str(concurrency))
        await _until(deployment, "NOT EXISTS (SELECT FROM jobs WHERE wait_time IS NOT NULL)")
        await _until(deployment, "NOT EXISTS (SELECT FROM runs)")
        seconds = time.monotonic() - begun
        # The start of the worker, a second or so, is in it.
        cost = (await deployment.cost()).since(before, jobs=(batches + 1) * BATCH)
        rows.append(("run, drained by one worker", {"jobs/s": jobs / seconds, **cost}))

        for name, count in (("(warm-up)", 20), ("submit and run, one at a time", single)):
            before, begun = await deployment.cost(), time.monotonic()
            for _ in range(count):
                await _run_one(deployment)
            seconds = time.monotonic() - begun
            cost = (await deployment.cost()).since(before, jobs=count)
            rows.append((name, {"jobs/s": count / seconds, **cost}))

        before = await deployment.cost()
        await asyncio.sleep(IDLE_SECONDS)
        rows.append(("idle, a second", (await deployment.cost()).since(before, jobs=IDLE_SECONDS)))
        size = await deployment.pool.fetch(
            "SELECT relname, pg_total_relation_size(oid)::float8 AS bytes FROM pg_class "
            "WHERE relkind = 'r' AND relname IN ('jobs', 'job_events', 'idempotency_keys')"
        )
        stored = (batches + 1) * BATCH + single + 20
        disk = {record["relname"]: record["bytes"] / stored for record in size}
    show("a job", rows)
    show("disk, bytes a stored job", [("", disk)])


async def _run_one(deployment: Deployment) -> None:
    """Submit a job and see it done."""
    job = (await deployment.stub.SubmitJob(deployment.request())).job
    stream = deployment.stub.WatchJob(WatchJobRequest(job_id=job.id))
    async for _ in stream:
        pass


async def _until(deployment: Deployment, condition: str) -> None:
    async with asyncio.timeout(600):
        while not await deployment.pool.fetchval(f"SELECT {condition}"):  # noqa: ASYNC110 - over there
            await asyncio.sleep(POLL_SECONDS)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
