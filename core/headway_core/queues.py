"""The names of queues: known before they are used, and not without end."""

from collections.abc import Sequence
from typing import Final

from headway_core.database import Connection
from headway_core.job import QUEUES_MAX
from headway_core.queries import load

SQL: Final = load("queues")


async def make_known(connection: Connection, names: Sequence[str]) -> set[str]:
    """Make queue names known, within the caller's transaction; those left out are one too many."""
    await connection.fetch(SQL.lock_queues)
    return {row["name"] for row in await connection.fetch(SQL.add_queues, names, QUEUES_MAX)}
