"""Messages waiting to be published, and the mark that they were."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from headway_core import rows
from headway_core.database import Connection, Database
from headway_core.job import Dispatch
from headway_core.queries import load

SQL: Final = load("outbox")


async def take_due(connection: Connection, *, limit: int) -> list[Dispatch]:
    """Lock up to `limit` due rows, by priority, then due time.

    Part of the caller's transaction, which holds them until it ends. Rows that another relay has
    locked, or that are left to another process' fast path, are skipped.
    """
    return [rows.dispatch(record) for record in await connection.fetch(SQL.take_due, limit)]


async def delete(connection: Connection | Database, outbox_ids: Sequence[int]) -> None:
    """Forget rows whose messages the broker has confirmed. Safe to run twice.

    The commit that holds it does not wait for the disk, whatever else the transaction does.
    """
    await connection.fetch(SQL.delete, list(outbox_ids))


async def defer(
    connection: Connection, outbox_ids: Sequence[int], *, for_how_long: timedelta
) -> None:
    """Leave rows that could not be published alone for a while, so that others get their turn.

    Part of the caller's transaction, which holds them.
    """
    await connection.fetch(SQL.defer, list(outbox_ids), for_how_long)


async def mark_queued(
    database: Database, dispatches: Sequence[tuple[UUID, int]]
) -> list[tuple[UUID, int]]:
    """PENDING or FAILED -> QUEUED for (job, dispatch_no) whose message the broker has confirmed.

    One transaction. A job that has moved on, or is locked by a claim, stays as it is. Returns
    (job, sequence of its QUEUED event) of the marked ones. At most one item per job.
    """
    items = dict(dispatches)
    records = await database.fetch(SQL.mark_queued, list(items), list(items.values()))
    return [(record["id"], record["sequence"]) for record in records]


async def next_due(database: Database) -> datetime | None:
    """When the first row is due, by the database's clock. None: there is none."""
    due: datetime | None = await database.fetchval(SQL.next_due)
    return due


async def lag(database: Database) -> timedelta:
    """For how long the first due row has waited; zero if none is due."""
    waited: timedelta | None = await database.fetchval(SQL.lag)
    return waited or timedelta(0)
