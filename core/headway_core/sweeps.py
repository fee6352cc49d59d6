"""Jobs that wait but that no message speaks for, and how the queues stand."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from uuid import UUID

from headway_core import rows
from headway_core.database import Database
from headway_core.job import Dispatch
from headway_core.queries import load
from headway_core.submissions import FAST_PATH

SQL: Final = load("sweeps")


async def stranded(database: Database, *, limit: int) -> list[tuple[UUID, int]]:
    """Find (job, dispatch_no) that are PENDING or FAILED, due, and without an outbox row.

    One finding proves nothing: between a confirm and the lazy mark every job looks so.
    """
    return [(row["id"], row["dispatch_no"]) for row in await database.fetch(SQL.stranded, limit)]


async def queued_counts(database: Database, *, older_than: timedelta) -> dict[str, int]:
    """Count the jobs of each queue that have been QUEUED for so long."""
    return {
        row["queue"]: row["count"] for row in await database.fetch(SQL.queued_counts, older_than)
    }


async def redispatch(database: Database, waiting: Sequence[tuple[UUID, int]]) -> list[Dispatch]:
    """Write outbox rows for (job, dispatch_no) that still wait for that dispatch and have none."""
    if not waiting:
        return []
    items = dict(waiting)
    records = await database.fetch(SQL.redispatch, list(items), list(items.values()), FAST_PATH)
    return [rows.dispatch(record) for record in records]


async def redispatch_queued(
    database: Database, queue: str, *, older_than: timedelta, limit: int
) -> list[Dispatch]:
    """Write outbox rows for up to `limit` jobs that have been QUEUED for so long, oldest first."""
    records = await database.fetch(SQL.queued, queue, older_than, limit)
    return await redispatch(database, [(row["id"], row["dispatch_no"]) for row in records])


async def redispatch_starving(
    database: Database, *, waiting_longer_than: timedelta, limit: int
) -> list[Dispatch]:
    """Publish jobs that have been QUEUED for so long again at priority 9, each once.

    And once more if `redispatch` had to replace a message that the broker lost.
    """
    records = await database.fetch(SQL.redispatch_starving, waiting_longer_than, limit, FAST_PATH)
    return [rows.dispatch(record) for record in records]


@dataclass(frozen=True, slots=True)
class QueueStatistics:
    """How a queue stands."""

    queue: str
    waiting: int
    running: int
    oldest_wait_seconds: float
    dead: int


async def queue_statistics(database: Database) -> list[QueueStatistics]:
    """Count every queue's jobs."""
    return [
        QueueStatistics(
            queue=row["queue"],
            waiting=row["waiting"],
            running=row["running"],
            oldest_wait_seconds=max(0.0, row["oldest_wait_seconds"] or 0.0),
            dead=row["dead"],
        )
        for row in await database.fetch(SQL.queue_statistics)
    ]
