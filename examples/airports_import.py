"""Rows into Postgres, chunk by chunk, each of them once, however often the job runs.

`ctx.step` stores that a chunk is done, so that a re-run skips it. That leaves a gap: the process
can die after the chunk's commit and before the step is stored. The gap is closed by the chunk
itself, which in its own transaction enters the step's idempotency key beside its rows; where the
key is there already, the rows are too.

The SQL stands here and not in a .sql file, so that the example is read in one go.
"""

import asyncio
import os
from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

import asyncpg
from airportsdata import Airport

from examples.airports import AIRPORTS_MAX, all_airports
from examples.fields import Fields
from headway_worker import Context, Jobs, PermanentError

jobs = Jobs()

CONNECT_SECONDS_MAX = 10.0
STATEMENT_SECONDS_MAX = 30.0

# Two jobs may come here at once, and `if not exists` alone does not stand that: hence the lock.
CREATE_TABLES = """
select pg_advisory_xact_lock(hashtext('headway_examples'));
create schema if not exists headway_examples;
create table if not exists headway_examples.chunks (
    idempotency_key text primary key
);
create table if not exists headway_examples.airports (
    job_id uuid not null,
    icao text not null,
    iata text not null,
    name text not null,
    city text not null,
    country text not null,
    elevation_feet double precision not null,
    latitude double precision not null,
    longitude double precision not null,
    primary key (job_id, icao)
);
"""
# Waits while another run holds the same key uncommitted; no row back: the chunk is in the table.
ENTER_CHUNK = """
insert into headway_examples.chunks (idempotency_key) values ($1)
on conflict do nothing returning true
"""
COUNT_ROWS = "select count(*) from headway_examples.airports where job_id = $1"


@jobs.handler("airports.import", timeout=timedelta(minutes=10))
async def import_airports(ctx: Context, payload: dict[str, object]) -> dict[str, object]:
    """Copy all airports, or the first `limit`, in chunks of `chunk_rows`: `{"chunk_rows": 1000}`.

    The database is the one that `HEADWAY_EXAMPLES_DATABASE_URL` names, or Headway's own.
    """
    fields = Fields(payload, known=("chunk_rows", "limit"))
    chunk_rows = fields.integer("chunk_rows", default=1_000, minimum=10, maximum=10_000)
    limit = fields.integer("limit", default=AIRPORTS_MAX, minimum=1, maximum=AIRPORTS_MAX)

    # Parsing the file takes a while; in a thread it does not hold up the other jobs of the loop.
    airports = (await asyncio.to_thread(all_airports))[:limit]
    connection = await asyncpg.connect(
        database_url(), timeout=CONNECT_SECONDS_MAX, command_timeout=STATEMENT_SECONDS_MAX
    )
    try:
        await connection.execute(CREATE_TABLES)
        for start in range(0, len(airports), chunk_rows):
            chunk = airports[start : start + chunk_rows]
            end = start + len(chunk)
            step = f"rows {start + 1}-{end}"
            await ctx.step(
                step, copy_chunk, connection, chunk, ctx.job_id, ctx.idempotency_key(step)
            )
            ctx.progress(end, len(airports), step="copy", message=step)
        rows = await connection.fetchval(COUNT_ROWS, ctx.job_id)
    finally:
        await connection.close(timeout=CONNECT_SECONDS_MAX)
    return {"table": "headway_examples.airports", "rows": rows}


async def copy_chunk(
    connection: asyncpg.Connection, chunk: Sequence[Airport], job_id: UUID, key: str
) -> int:
    """Copy the rows unless a run before this one did; one transaction. Returns the rows copied."""
    async with connection.transaction():
        if not await connection.fetchval(ENTER_CHUNK, key):
            return 0
        await connection.copy_records_to_table(
            "airports",
            schema_name="headway_examples",
            records=[record(airport, job_id) for airport in chunk],
        )
        return len(chunk)


def record(airport: Airport, job_id: UUID) -> tuple[UUID | str | float, ...]:
    """The airport as a row, in the order of the table's columns."""
    return (
        job_id,
        airport["icao"],
        airport["iata"],
        airport["name"],
        airport["city"],
        airport["country"],
        airport["elevation"],
        airport["lat"],
        airport["lon"],
    )


def database_url() -> str:
    """Where to import to. PermanentError if no setting says it."""
    for name in ("HEADWAY_EXAMPLES_DATABASE_URL", "HEADWAY_DATABASE_URL"):
        if url := os.environ.get(name):
            return url
    raise PermanentError("set HEADWAY_EXAMPLES_DATABASE_URL to a Postgres to import into")
