"""`make million`: a million jobs that do nothing, each exactly once, in flat memory.

Executions are counted by the handler in a file of its process, one byte a job, which Headway knows
nothing of; sequences and states are checked in the tables.
"""

import asyncio
import time
from pathlib import Path
from typing import Final

import asyncpg

from headway import Submission
from headway.client import Client
from headway_dev.schema import migrate
from headway_dev.services import private_services
from tests.soak import report, verdict
from tests.soak.fleet import Fleet
from tests.soak.handlers import COUNTS_VARIABLE
from tests.soak.ledger import Ledger
from tests.soak.onlooker import UNFINISHED, Onlooker
from tests.soak.sampling import Sampler, too_steep
from tests.soak.soak import fresh_directory

BATCH_JOBS: Final = 1_000
CALLERS: Final = 2
BACKLOG_MAX: Final = 20_000
"""Submitted and not done: callers wait then."""
CONCURRENCY: Final = 100
SAY_SECONDS: Final = 10.0
LOOK_SECONDS: Final = 1.0
STALL_SECONDS_MAX: Final = 60.0
"""Without a fault, something ends in this time."""
WARM_UP_SECONDS: Final = 20.0
PAGE_BYTES: Final = 1 << 20
QUERY_SECONDS_MAX: Final = 600.0
SETTINGS: Final = {
    # The defaults: nobody is killed here, so nobody has to be missed soon.
    "HEADWAY_LEASE_SECONDS": "15",
    "HEADWAY_HEARTBEAT_SECONDS": "5",
    "HEADWAY_HANDOFF_SECONDS": "120",
    "HEADWAY_DRAIN_SECONDS": "30",
    "HEADWAY_GRACE_SECONDS": "10",
    "HEADWAY_LOG_LEVEL": "warning",
}

STATES: Final = "SELECT state, count(*) AS count FROM jobs GROUP BY state"
REPEATED: Final = "SELECT count(*) FROM jobs WHERE run_epoch <> 1 OR attempt <> 1"
GAPS: Final = """
SELECT count(*) FROM jobs FULL JOIN (
    SELECT job_id, count(*) AS events, min(sequence) AS least, max(sequence) AS most
    FROM job_events GROUP BY job_id
) AS history ON history.job_id = jobs.id
WHERE history.events IS DISTINCT FROM jobs.sequence OR least IS DISTINCT FROM 1
   OR most IS DISTINCT FROM jobs.sequence
"""
"""Jobs whose events are not 1, 2 … up to their sequence (a number occurs once, by its key)."""


async def count_jobs(jobs: int, directory: Path, *, processes: int) -> int:
    """Run so many jobs, in services of its own. Returns 0, or 1 for a finding."""
    print(f"{jobs} jobs, {processes} worker processes; data and logs in {directory}", flush=True)
    with private_services(directory, durable=True, start=False) as services:
        services.erase()
        logs = fresh_directory(directory / "logs")
        await asyncio.to_thread(services.start)
        await asyncio.to_thread(migrate, services.database_url)
        ledger = Ledger(logs / "accepted")
        fleet = Fleet(
            services,
            database_url=services.database_url,
            amqp_url=services.amqp_url,
            directory=logs,
            complain=ledger.complain,
            settings=SETTINGS,
        )
        counts = fresh_directory(logs / "counts")
        fleet.add_server()
        fleet.add_worker(
            processes=processes,
            concurrency=CONCURRENCY,
            rough=False,
            **{COUNTS_VARIABLE: f"{counts}:{jobs}"},
        )
        sampler = Sampler(fleet.processes, warm_up_seconds=WARM_UP_SECONDS)
        try:
            await fleet.start()
            begun = time.monotonic()
            sampling = asyncio.create_task(sampler.run())
            await _run(jobs, fleet.targets[0], services.database_url, ledger)
            seconds = time.monotonic() - begun
            sampling.cancel()
            await fleet.leave()
            await verdict.no_message_left(services.amqp_url, ["default"], ledger)
            print(f"\n{jobs} jobs in {seconds:.1f} s: {jobs / seconds:.0f} jobs/s", flush=True)
            await _verify(jobs, services.database_url, counts, ledger)
        finally:
            fleet.stack.stop()
            ledger.close()
        slopes = sampler.slopes()
        for finding in too_steep(slopes):
            ledger.complain(finding)
        report.print_slopes(slopes)
        report.print_verdict(ledger)
        if not ledger.findings_count:
            services.erase()
    return 1 if ledger.findings_count else 0


async def _run(jobs: int, target: str, database_url: str, ledger: Ledger) -> None:
    """Submit all, and wait until all are done."""
    starts = iter(range(0, jobs, BATCH_JOBS))
    room = asyncio.Condition()
    unfinished = 0

    async def call(client: Client) -> None:
        for start in starts:
            async with room:
                await room.wait_for(lambda: unfinished < BACKLOG_MAX)
            numbers = range(start, min(start + BATCH_JOBS, jobs))
            found = await client.submit_many(
                Submission("soak.count", {"number": number}) for number in numbers
            )
            ledger.accept(job.id for job in found)

    async with asyncio.TaskGroup() as group, Client(target, call_timeout=60) as client:
        onlooker = Onlooker(database_url)
        callers = [group.create_task(call(client)) for _ in range(CALLERS)]
        begun = said = moved = time.monotonic()
        done = 0
        while not (all(caller.done() for caller in callers) and done == jobs):
            await asyncio.sleep(LOOK_SECONDS)
            # In this order: what is accepted between the two is not taken for done.
            accepted = ledger.accepted
            found = await onlooker.number(UNFINISHED)
            if found is None:
                continue
            now = time.monotonic()
            if accepted - found > done:
                done, moved = accepted - found, now
            async with room:
                unfinished = found
                room.notify_all()
            if now - said >= SAY_SECONDS:
                said = now
                print(f"{now - begun:7.0f} s  {accepted} accepted, {done} done", flush=True)
            if now - moved > STALL_SECONDS_MAX:
                ledger.complain(f"nothing ends any more: {accepted} accepted, {done} done")
                for caller in callers:
                    caller.cancel()
                break
        onlooker.close()


async def _verify(jobs: int, database_url: str, counts: Path, ledger: Ledger) -> None:
    connection = await asyncpg.connect(database_url, timeout=10)
    try:

        async def number(query: str) -> int:
            return int(await connection.fetchval(query, timeout=QUERY_SECONDS_MAX) or 0)

        states = {
            row["state"]: row["count"]
            for row in await connection.fetch(STATES, timeout=QUERY_SECONDS_MAX)
        }
        found = {
            "jobs not COMPLETED": jobs - states.get(4, 0),
            "jobs too many": sum(states.values()) - jobs,
            "jobs run again": await number(REPEATED),
            "histories with gaps": await number(GAPS),
            "outbox rows left": await number("SELECT count(*) FROM outbox"),
            "runs left": await number("SELECT count(*) FROM runs"),
        }
    finally:
        await connection.close()
    found["jobs never executed"], found["jobs executed twice"] = executions(counts, jobs)
    ledger.counts["jobs"] = sum(states.values())
    for what, count in found.items():
        print(f"  {count} {what}")
        if count:
            ledger.complain(f"{count} {what}")


def executions(directory: Path, jobs: int) -> tuple[int, int]:
    """How many jobs no handler has run, and how many ran more than once, in all processes."""
    files = [path.open("rb") for path in directory.glob("*.counts")]
    never = twice = 0
    try:
        for start in range(0, jobs, PAGE_BYTES):
            size = min(PAGE_BYTES, jobs - start)
            totals = bytearray(size)
            for file in files:
                for number, count in enumerate(file.read(size)):
                    if count:
                        totals[number] = min(255, totals[number] + count)
            never += totals.count(0)
            twice += size - totals.count(0) - totals.count(1)
    finally:
        for file in files:
            file.close()
    return never, twice
