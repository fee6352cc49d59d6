"""What a forgotten transaction does to a busy service: `python -m bench.pinned`.

Batches of no-op jobs are submitted and run without a pause, while a REPEATABLE READ transaction
stays open for the middle third: nothing that dies after its snapshot can be vacuumed. `--setting`
changes storage parameters of the hot tables before, to compare.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import asyncpg

from bench.deployment import BATCH, HANDLERS, Deployment, show
from headway_dev.schema import migrate
from headway_dev.services import Services, private_services

TABLES: Final = ("outbox", "runs", "jobs")
CALLS_AT_ONCE: Final = 4
WAITING_MAX: Final = 4_000
"""Submitting pauses beyond it: the jobs that are run are what is measured."""
SAMPLES_A_THIRD: Final = 3


def main(arguments: Sequence[str]) -> int:
    """Measure and print a table; exit 0."""
    parser = argparse.ArgumentParser(prog="python -m bench.pinned", description=__doc__)
    parser.add_argument("--seconds", type=int, default=180, help="in all (180)")
    parser.add_argument(
        "--postgres", action="append", default=[], help="NAME=VALUE of the server, for example "
        "autovacuum_naptime=10s"
    )  # fmt: skip
    parser.add_argument(
        "--reset", action="store_true", help="take Postgres's defaults for the hot tables"
    )
    options = parser.parse_args(arguments)
    settings = dict(item.split("=", 1) for item in options.postgres)
    with (
        tempfile.TemporaryDirectory() as directory,
        private_services(
            Path(directory), postgres_settings={"max_wal_size": "4GB", **settings}
        ) as services,
    ):
        migrate(services.database_url)
        rows = asyncio.run(_measure(services, options.seconds, reset=options.reset))
        show(f"{' '.join(options.postgres)}{' reset' if options.reset else ''}", rows)
        services.erase()
    return 0


async def _measure(
    services: Services, seconds: int, *, reset: bool
) -> list[tuple[str, dict[str, float]]]:
    rows = []
    async with Deployment.start(services) as deployment:
        if reset:
            await _reset(deployment)
        deployment.run("worker", "worker", HANDLERS, "--concurrency", "200")
        pinning = await asyncpg.connect(services.database_url)
        submitted: list[int] = []
        ends_at = time.monotonic() + seconds
        async with asyncio.TaskGroup() as group:
            for _ in range(CALLS_AT_ONCE):
                group.create_task(_submit_until(deployment, submitted, ends_at))
            for name in ("before", "pinned", "released"):
                if name == "pinned":
                    await pinning.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
                if name == "released":
                    await pinning.execute("COMMIT")
                for number in range(SAMPLES_A_THIRD):
                    rows.append((f"{name} {number + 1}", await _sample(deployment, seconds / 9)))  # noqa: PERF401 - one by one
        await pinning.close()
    return rows


async def _reset(deployment: Deployment) -> None:
    for table in TABLES:
        await deployment.pool.execute(
            f"ALTER TABLE {table} RESET (autovacuum_vacuum_scale_factor, "
            "autovacuum_vacuum_threshold, autovacuum_vacuum_cost_delay)"
        )


async def _submit_until(deployment: Deployment, submitted: list[int], ends_at: float) -> None:
    while time.monotonic() < ends_at:
        # By counters, a second late: counting rows would cost more with each dead one.
        if len(submitted) * BATCH - await _completed(deployment) < WAITING_MAX:
            submitted.append(BATCH)
            await deployment.submit_batch()
        else:
            await asyncio.sleep(0.05)


async def _sample(deployment: Deployment, seconds: float) -> dict[str, float]:
    """Watch for a while: jobs run a second, CPU a job, and how the hot tables have grown."""
    pool = deployment.pool
    before, begun = await deployment.cost(), time.monotonic()
    completed = await _completed(deployment)
    await asyncio.sleep(seconds)
    done = await _completed(deployment) - completed
    cost = (await deployment.cost()).since(before, jobs=max(done, 1))
    row = {"jobs/s": done / (time.monotonic() - begun), "postgres_ms": cost["postgres_ms"]}
    records = await pool.fetch(
        "SELECT relname, pg_stat_get_dead_tuples(oid)::float8 AS dead, "
        "pg_total_relation_size(oid) / 1e6::float8 AS size FROM pg_class "
        "WHERE relname = ANY ($1) AND relkind = 'r' ORDER BY relname DESC",
        list(TABLES),
    )
    for record in records:
        row[f"{record['relname']} dead"] = record["dead"]
        row[f"{record['relname']} MB"] = record["size"]
    return row


async def _completed(deployment: Deployment) -> int:
    """Runs that have ended, by the statistics."""
    count: int = await deployment.pool.fetchval(
        "SELECT pg_stat_get_tuples_deleted('runs'::regclass)"
    )
    return count


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
