"""What a call costs when many jobs are stored: `python -m bench.growth --jobs 1000000`.

Fills a private PostgreSQL (production durability) with so many jobs, their events, keys, steps and
dead letters, then measures one call after the other: latencies through a server in this process,
claims and settles through the core, and the pages that each statement touches. The filled database
is kept in DIR for the next time; `--remove` deletes it at the end.
"""

import argparse
import asyncio
import itertools
import json
import random
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg
import grpc

from bench import history, statements
from headway.v1 import (
    GetJobRequest,
    JobServiceStub,
    JobState,
    ListJobsRequest,
    Payload,
    SubmitJobRequest,
    WatchJobRequest,
)
from headway_core.metrics import Metrics
from headway_core.settings import load
from headway_core.telemetry import Telemetry
from headway_dev.schema import migrate
from headway_dev.services import Services, private_services
from headway_server.assembly import running
from headway_server.settings import ServerSettings

ROOT: Final = Path(__file__).parent.parent
OUT: Final = ROOT / "bench" / "out"
WARM_UP: Final = 50
PAYLOAD: Final = b'{"country": "FR"}' * 12
Call = Callable[[], Awaitable[object]]


def main(arguments: Sequence[str]) -> int:
    """Fill, measure, print a table; exit 0."""
    parser = argparse.ArgumentParser(prog="python -m bench.growth", description=__doc__)
    parser.add_argument("--jobs", type=int, default=1_000_000, help="stored jobs (1000000)")
    parser.add_argument("--calls", type=int, default=500, help="measured calls of a kind (500)")
    parser.add_argument("--directory", type=Path, help="where the database is kept")
    parser.add_argument("--fill-only", action="store_true", help="measure nothing yet")
    parser.add_argument("--remove", action="store_true", help="delete the database at the end")
    options = parser.parse_args(arguments)
    place = options.directory or ROOT / ".cache" / f"bench-growth-{options.jobs}"
    with private_services(
        place,
        start=False,
        # To be filled only, it need not survive a power cut meanwhile.
        durable=not options.fill_only,
        postgres_settings={"max_wal_size": "8GB", "checkpoint_timeout": "15min"},
    ) as services:
        services.postgres.start()
        migrate(services.database_url)
        asyncio.run(_fill(services.database_url, options.jobs))
        if not options.fill_only:
            services.start()
            found = asyncio.run(_measure(services, options.jobs, options.calls))
            OUT.mkdir(exist_ok=True)
            (OUT / f"growth-{options.jobs}.json").write_text(json.dumps(found, indent=1) + "\n")
            _show(options.jobs, found)
        if options.remove:
            services.erase()
    return 0


async def _fill(url: str, jobs: int) -> None:
    connection = await asyncpg.connect(url)
    try:
        await history.fill(connection, jobs, say=lambda line: print(line, file=sys.stderr))
    finally:
        await connection.close()


async def _measure(services: Services, jobs: int, calls: int) -> list[dict[str, Any]]:
    connection = await asyncpg.connect(services.database_url)
    try:
        ids = [await _some_job(connection, jobs) for _ in range(calls + WARM_UP)]
    finally:
        await connection.close()
    found = []
    async with _served(services) as stub:
        for name, call in _calls(stub, ids).items():
            found.append({"name": name, **await _time(call, calls)})
    found += await statements.measure(services.database_url, [UUID(job_id) for job_id in ids])
    return found


async def _some_job(connection: history.Connection, jobs: int) -> str:
    number = random.randrange(jobs)
    row = await connection.fetchrow(
        "SELECT job_id FROM idempotency_keys WHERE key = md5($1::bigint::text)", number
    )
    assert row is not None
    return str(row["job_id"])


@asynccontextmanager
async def _served(services: Services) -> AsyncIterator[Any]:
    settings = load(
        ServerSettings,
        {
            "HEADWAY_DATABASE_URL": services.database_url,
            "HEADWAY_AMQP_URL": services.amqp_url,
            "HEADWAY_LISTEN": "127.0.0.1:0",
        },
    )
    async with (
        running(settings, telemetry=Telemetry.off(), metrics=Metrics.off()) as server,
        grpc.aio.insecure_channel(str(server.address)) as channel,
    ):
        yield JobServiceStub(channel)


def _calls(stub: Any, ids: Sequence[str]) -> dict[str, Call]:
    chosen = itertools.cycle(ids)

    async def submit() -> None:
        payload = Payload(data=PAYLOAD)
        key = str(uuid4())
        await stub.SubmitJob(
            SubmitJobRequest(
                type="type.1", payload=payload, idempotency_key=key, labels={"tenant": "t1"}
            )
        )

    def listing(**chosen: Any) -> Call:
        async def list_jobs() -> None:
            await stub.ListJobs(ListJobsRequest(**chosen))

        return list_jobs

    async def watch(after: int | None) -> None:
        stream = stub.WatchJob(WatchJobRequest(job_id=next(chosen), after_sequence=after))
        async for _ in stream:
            break
        stream.cancel()

    return {
        "SubmitJob": submit,
        "GetJob": lambda: stub.GetJob(GetJobRequest(job_id=next(chosen))),
        "WatchJob, snapshot": lambda: watch(None),
        "WatchJob, first of all events": lambda: watch(0),
        "ListJobs, newest 100": listing(),
        "ListJobs, COMPLETED": listing(states=[JobState.JOB_STATE_COMPLETED]),
        "ListJobs, RUNNING (none)": listing(states=[JobState.JOB_STATE_RUNNING]),
        "ListJobs, DEAD": listing(states=[JobState.JOB_STATE_DEAD]),
        "ListJobs, a type of 20": listing(type="type.3"),
        "ListJobs, a rare type": listing(type="rare.type"),
        "ListJobs, a rare label": listing(labels={"rare": "yes"}),
    }


async def _time(call: Call, calls: int) -> dict[str, float]:
    """p50 and p99 in milliseconds of calls one after the other."""
    for _ in range(WARM_UP):
        await call()
    taken = []
    for _ in range(calls):
        begun = time.perf_counter()
        await call()
        taken.append((time.perf_counter() - begun) * 1000)
    return {"p50_ms": median(taken), "p99_ms": quantiles(taken, n=100)[98]}


def _show(jobs: int, found: Sequence[dict[str, Any]]) -> None:
    print(f"\n{jobs:,} stored jobs")
    print(f"{'':44}{'p50 ms':>9}{'p99 ms':>9}{'pages':>9}")
    for row in found:
        pages = f"{row['pages']:.0f}" if "pages" in row else ""
        latency = "".join(
            f"{row[name]:>9.2f}" if name in row else " " * 9 for name in ("p50_ms", "p99_ms")
        )
        print(f"{row['name']:44}{latency}{pages:>9}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
