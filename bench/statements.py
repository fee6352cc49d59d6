"""The statements behind the calls, through the core: pages touched and milliseconds in Postgres."""

from datetime import timedelta
from random import Random
from statistics import median, quantiles
from typing import Any, Final
from uuid import UUID, uuid4

from uuid_utils.compat import uuid7

from bench.pages import Explaining
from headway_core import claims, events, jobs, leases, retention, runs, submissions
from headway_core.content import json_content
from headway_core.database import Database
from headway_core.job import RetryPolicy, Submission
from headway_core.jobs import JobFilter
from headway_core.outcomes import Succeeded
from headway_core.settlement import decide
from headway_core.states import JobState

ROUNDS: Final = 100
BATCH: Final = 32
TRACEPARENT: Final = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
LISTINGS: Final = {
    "newest": JobFilter(),
    "RUNNING": JobFilter(states=frozenset({JobState.RUNNING})),
    "a rare type": JobFilter(type="rare.type"),
    "a rare label": JobFilter(labels=(("rare", "yes"),)),
}


async def measure(url: str, ids: list[UUID]) -> list[dict[str, Any]]:
    """Run each ROUNDS times; a row for each with the median of its pages and its milliseconds."""
    notes: dict[str, dict[str, list[tuple[int, float]]]] = {}
    database = await Explaining.connect(url, name="bench", size=2, timeout_seconds=30)
    try:
        database.note_into({})
        worker = await register(url)
        for round_ in range(ROUNDS):
            database.note_into(notes.setdefault(f"{BATCH} jobs: ", {}))
            await submit_and_run(database, worker)
            database.note_into(notes.setdefault("", {}))
            await jobs.get(database, ids[round_], full=True)
            await events.after(database, ids[round_], 0, limit=100)
            database.note_into(notes.setdefault("500 watched jobs: ", {}))
            await events.heads(database, ids[:500])
            for name, chosen in LISTINGS.items():
                database.note_into(notes.setdefault(f"{name}: ", {}))
                await jobs.list_jobs(database, chosen, full=False, before=None, limit=101)
            database.note_into(notes.setdefault("500 old jobs: ", {}))
            await database.explain(
                retention.SQL.remove_finished, UUID(int=0), timedelta(days=19), 500
            )
    finally:
        await database.close()
    return [
        {
            "name": f"{prefix}{statement}",
            "p50_ms": median(time for _, time in taken),
            "p99_ms": quantiles([time for _, time in taken], n=100)[98],
            "pages": median(pages for pages, _ in taken),
        }
        for prefix, noted in notes.items()
        for statement, taken in noted.items()
    ]


async def register(url: str) -> UUID:
    """Make a worker known, with a lease that lasts for all of it."""
    database = await Database.connect(url, name="bench", size=1)
    worker = uuid4()
    handler = leases.HandlerType("bench", "default", RetryPolicy(), None)
    await leases.register(
        database,
        worker,
        name="bench",
        queues=["default"],
        types=[handler],
        lease=timedelta(minutes=10),
    )
    await database.close()
    return worker


async def submit_and_run(database: Database, worker: UUID) -> None:
    """Submit, claim and settle BATCH jobs, a statement each."""
    items = [
        Submission(
            id=uuid7(),
            type="bench",
            request_hash=b"h" * 32,
            traceparent=TRACEPARENT,
            idempotency_key=str(uuid4()),
            labels={"tenant": "t1"},
            payload=json_content({"country": "FR", "text": "x" * 180}),
        )
        for _ in range(BATCH)
    ]
    await submissions.submit(database, items, queue_depth_max=None)
    requests = [claims.ClaimRequest(item.id, uuid4(), 1) for item in items]
    taken = await claims.claim(database, requests, worker_id=worker, types={"bench"})
    settles = [
        runs.Settle(
            claim.job_id,
            claim.run_epoch,
            claim.claim_id,
            decide(claim.budget, Succeeded(json_content({"pages": 12})), random=Random(1)),
        )
        for claim in taken
        if isinstance(claim, claims.Claim)
    ]
    await runs.settle(database, settles, worker_id=worker)
    await database.execute(
        "-- bench.tidy\nDELETE FROM outbox WHERE job_id = ANY ($1)", [item.id for item in items]
    )
