"""Looks at the database past every proxy, whatever state that is in."""

from collections.abc import Sequence
from typing import Final

import asyncpg

CONNECT_SECONDS: Final = 3.0
ANSWER_SECONDS: Final = 30.0
AWAY: Final = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError)


class Onlooker:
    """One connection, made anew when it is lost. Not for two tasks at a time."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None

    async def ask(
        self, query: str, *arguments: object, seconds: float = ANSWER_SECONDS
    ) -> Sequence[asyncpg.Record] | None:
        """The rows; None while the database is away."""
        try:
            if self._connection is None or self._connection.is_closed():
                self._connection = await asyncpg.connect(self._url, timeout=CONNECT_SECONDS)
            return await self._connection.fetch(query, *arguments, timeout=seconds)
        except AWAY:
            self.close()
            return None

    async def number(self, query: str, *arguments: object) -> int | None:
        """The first value of the first row; None while the database is away."""
        rows = await self.ask(query, *arguments)
        return None if rows is None else int(rows[0][0])

    def close(self) -> None:
        """Let go of the connection."""
        if self._connection is not None:
            self._connection.terminate()
        self._connection = None


UNFINISHED: Final = """
SELECT (SELECT count(*) FROM jobs WHERE wait_time IS NOT NULL AND state IN (1, 2, 5))
     + (SELECT count(*) FROM runs)
"""
"""How many jobs are not done."""

UNFINISHED_BEFORE: Final = """
SELECT (SELECT count(*) FROM jobs
        WHERE wait_time IS NOT NULL AND state IN (1, 2, 5)
          AND type = 'soak.short' AND create_time <= to_timestamp($1))
     + (SELECT count(*) FROM runs JOIN jobs ON jobs.id = runs.job_id
        WHERE jobs.type = 'soak.short' AND jobs.create_time <= to_timestamp($1))
     + (SELECT count(*) FROM unnest($2::uuid[], $3::integer[]) AS lost (job_id, run_epoch)
        JOIN jobs ON jobs.id = lost.job_id
        WHERE jobs.end_time IS NULL AND jobs.run_epoch <= lost.run_epoch)
"""
"""How many short jobs of before a time ($1, Unix time) are not done, and how many runs ($2 jobs,
$3 epochs) that were cut off are not done over."""

RUNS: Final = "SELECT job_id, run_epoch FROM runs WHERE worker_id = ANY ($1)"
"""What workers ($1) run now."""
