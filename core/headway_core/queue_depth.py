"""Backpressure: which submissions a queue has no room for, and when it may have."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Final
from uuid import UUID

from headway_core.database import Database
from headway_core.errors import QueueFull
from headway_core.job import Submission
from headway_core.queries import load

SQL: Final = load("queue_depth")
_RETRY_AFTER_MIN: Final = timedelta(seconds=1)
_RETRY_AFTER_MAX: Final = timedelta(seconds=60)


async def overflowing(
    database: Database, submissions: Sequence[Submission], *, limit: int
) -> dict[UUID, QueueFull]:
    """Find those whose queue is full, each counted with the ones before it."""
    measured = await database.fetch(
        SQL.measure_depth,
        [item.type for item in submissions],
        [item.queue for item in submissions],
        [item.idempotency_key for item in submissions],
        limit,
    )
    taken: dict[str, int] = {}
    refused: dict[UUID, QueueFull] = {}
    for item, record in zip(submissions, measured, strict=True):
        queue: str = record["queue"]
        depth = record["depth"] + taken.get(queue, 0)
        if record["repeated"]:  # a known key makes no new job
            continue
        if depth >= limit:
            wait = record["oldest_wait"] or _RETRY_AFTER_MIN
            # Little's law: `depth` jobs drain in about the time the first of them has waited.
            retry_after = min(max(wait / max(depth, 1), _RETRY_AFTER_MIN), _RETRY_AFTER_MAX)
            refused[item.id] = QueueFull(queue, limit=limit, depth=depth, retry_after=retry_after)
        else:
            taken[queue] = taken.get(queue, 0) + 1
    return refused
