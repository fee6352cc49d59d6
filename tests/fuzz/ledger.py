"""The tables of a server under attack: compared, and brought back to what they were."""

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

import asyncpg

Result = TypeVar("Result")

KEPT = "kept"
"""The schema of the copies."""
TABLES = (
    "dead_letters",
    "idempotency_keys",
    "job_events",
    "job_steps",
    "job_types",
    "jobs",
    "outbox",
    "queues",
    "runs",
    "schema_migrations",
    "workers",
)


class Ledger:
    """Reads and restores over a connection of its own, from any thread."""

    def __init__(self, url: str) -> None:
        """Keep a copy of all tables as they are now."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._connection = self._wait(asyncpg.connect(url, timeout=20))
        parts = [
            f"SELECT '{table}' n, coalesce(string_agg(t::text, '|' ORDER BY t::text), '') c"
            f" FROM {table} t"
            for table in TABLES
        ]
        self._digest = (
            f"SELECT md5(string_agg(n || c, '#' ORDER BY n)) FROM ({' UNION ALL '.join(parts)}) x"
        )
        found = self._wait(
            self._connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        )
        assert {row["tablename"] for row in found} == set(TABLES), "a table without a digest"
        copies = [f"CREATE TABLE {KEPT}.{table} AS TABLE {table}" for table in TABLES]
        self._wait(self._connection.execute(";".join([f"CREATE SCHEMA {KEPT}", *copies])))
        self._restore = ";".join(
            f"DELETE FROM {table};"
            f" INSERT INTO {table} OVERRIDING SYSTEM VALUE SELECT * FROM {KEPT}.{table}"
            for table in TABLES
        )

    def digest(self) -> str:
        """Of every row of every table."""
        return str(self._wait(self._connection.fetchval(self._digest)))

    def due(self) -> bool:
        """Whether the relay still has something to do."""
        query = (
            "SELECT EXISTS (SELECT FROM outbox WHERE available_at <= clock_timestamp())"
            " OR EXISTS (SELECT FROM jobs WHERE state IN (1, 5) AND wait_time <= clock_timestamp())"
        )
        return bool(self._wait(self._connection.fetchval(query)))

    def waiting(self) -> dict[str, int]:
        """The jobs that wait, each with its last sequence."""
        query = "SELECT id, sequence FROM jobs WHERE wait_time IS NOT NULL"
        rows = self._wait(self._connection.fetch(query))
        return {str(row["id"]): row["sequence"] for row in rows}

    def restore(self) -> None:
        """Bring back the rows of the beginning, and no others."""
        self._wait(self._connection.execute(self._restore))

    def close(self) -> None:
        """End the connection and the thread."""
        self._wait(self._connection.close(timeout=5))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _wait(self, work: Coroutine[Any, Any, Result]) -> Result:
        future: Future[Result] = asyncio.run_coroutine_threadsafe(_awaited(work), self._loop)
        return future.result(60)


async def _awaited(work: Any) -> Any:
    return await work
