"""A database that already holds many jobs, filled by set-based SQL: jobs, events, keys, steps.

They were submitted evenly over the last twenty days. Of 1,000 jobs 980 are COMPLETED, 9 CANCELLED,
10 DEAD (with their letters) and one is due in a year, up to 10,000 of them. One in 20 has a step.
20 types share all but one job in 100,000, which has `rare.type` and the label `rare`.
"""

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

import asyncpg

CHUNK: Final = 200_000
"""Jobs in one transaction."""

if TYPE_CHECKING:  # generic in its stubs only
    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record]
else:
    Connection = asyncpg.Connection

_TABLES: Final = ("jobs", "events", "keys", "steps", "letters", "outbox")


def _statements() -> list[str]:
    """Each table's statement, with what they share in front."""
    parts = re.split(
        r"^-- name: (\w+)\n",
        (Path(__file__).parent / "history.sql").read_text(),
        flags=re.MULTILINE,
    )
    named = dict(zip(parts[1::2], parts[2::2], strict=True))
    return [named["numbered"] + named[table] for table in _TABLES]


async def fill(connection: Connection, jobs: int, *, say: Callable[[str], None]) -> None:
    """Make an empty database hold `jobs` jobs, vacuumed and analysed.

    Begins where an earlier call with the same `jobs` was cut off: a chunk is one transaction.
    """
    await connection.execute(
        "CREATE TABLE IF NOT EXISTS bench_history (jobs bigint, done bigint, newest timestamptz)"
    )
    row = await connection.fetchrow("SELECT * FROM bench_history")
    if row is None:
        row = await connection.fetchrow(
            "INSERT INTO bench_history VALUES ($1, 0, clock_timestamp()) RETURNING *", jobs
        )
        assert row is not None
    if row["jobs"] != jobs:
        raise ValueError(f"this database was made for {row['jobs']:,} jobs; use another directory")
    statements = _statements()
    done: int = row["done"]
    while done < jobs:
        begun = time.monotonic()
        end = min(done + CHUNK, jobs)
        async with connection.transaction():
            for statement in statements:
                await connection.execute(statement, done, end, jobs, row["newest"], timeout=600)
            await connection.execute("UPDATE bench_history SET done = $1", end)
        say(f"{end:,} jobs ({(end - done) / (time.monotonic() - begun):,.0f}/s)")
        done = end
    for table in ("jobs", "job_events", "idempotency_keys", "job_steps", "dead_letters"):
        await connection.execute(f"VACUUM (ANALYZE) {table}", timeout=1800)
    await connection.execute("CHECKPOINT", timeout=600)
