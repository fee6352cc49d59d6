"""What is no longer kept: finished jobs after a while, idempotency keys after theirs.

Both are removed in small steps, each one transaction that waits for nobody. Any number of processes
may walk at the same time: a job that another holds is left to it.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from uuid import UUID

from headway_core.database import Database
from headway_core.queries import load

SQL: Final = load("retention")

KEYS_KEPT: Final = timedelta(days=30)
"""At least so long, and as long as the job is stored (DESIGN §3.1)."""


@dataclass(frozen=True, slots=True)
class Step:
    """What one step along the jobs met."""

    last_id: UUID | None
    """Where the next one begins; None: there were no jobs."""
    seen: int
    removed: int


async def remove_finished(
    database: Database, *, after: UUID, finished_for: timedelta, limit: int
) -> Step:
    """Of the next `limit` jobs after an ID, remove those COMPLETED or CANCELLED for so long.

    With their events and steps. DEAD jobs stay until they are replayed and done. Stops an hour of
    submissions before the limit. Raises StoreUnavailable.
    """
    record = await database.fetchrow(SQL.remove_finished, after, finished_for, limit)
    assert record is not None
    return Step(record["last_id"], record["seen"], record["removed"])


async def remove_keys(database: Database, *, page: int, pages: int) -> tuple[int, bool]:
    """Remove keys as old as KEYS_KEPT whose jobs are gone, from some pages of their table.

    Returns how many, and whether the table ends there. Raises StoreUnavailable.
    """
    record = await database.fetchrow(SQL.remove_keys, page, pages, KEYS_KEPT)
    assert record is not None
    return record["removed"], record["at_end"]
