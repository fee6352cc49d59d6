"""What an index on `jobs` costs every job: `python -m bench.indexes`.

Batches of 32 jobs are submitted, claimed and settled through the core, with this or that index
added, a round of each variant in turn. WAL is counted without page images: so nothing else on a
busy machine changes it.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Final

import asyncpg

from bench.deployment import show
from bench.statements import BATCH, register, submit_and_run
from headway_core.database import Database
from headway_dev.schema import migrate
from headway_dev.services import Services, private_services

if TYPE_CHECKING:
    from uuid import UUID

VARIANTS: Final = {
    "as it is": "SELECT",
    "(queue, id)": "CREATE INDEX ON jobs (queue, id)",
    "(type, id)": "CREATE INDEX ON jobs (type, id)",
    "(state, id)": "CREATE INDEX ON jobs (state, id)",
    "GIN (labels)": "CREATE INDEX ON jobs USING gin (labels jsonb_path_ops)",
    "end_time where finished": (
        "CREATE INDEX ON jobs (end_time) WHERE end_time IS NOT NULL AND state IN (4, 7)"
    ),
}


def main(arguments: Sequence[str]) -> int:
    """Measure and print a table; exit 0."""
    parser = argparse.ArgumentParser(prog="python -m bench.indexes", description=__doc__)
    parser.add_argument("--rounds", type=int, default=150, help="of 32 jobs each (150)")
    options = parser.parse_args(arguments)
    with (
        tempfile.TemporaryDirectory() as directory,
        private_services(
            Path(directory), start=False, postgres_settings={"full_page_writes": "off"}
        ) as services,
    ):
        services.postgres.start()
        rows = asyncio.run(_measure(services, options.rounds))
        services.erase()
    show("submit, claim and settle of a job", rows)
    return 0


async def _measure(services: Services, rounds: int) -> list[tuple[str, dict[str, float]]]:
    administrator = await asyncpg.connect(services.database_url)
    databases: dict[str, tuple[Database, UUID]] = {}
    taken: dict[str, list[float]] = {name: [] for name in VARIANTS}
    wal = dict.fromkeys(VARIANTS, 0.0)
    for number, (name, statements) in enumerate(VARIANTS.items()):
        await administrator.execute(f"CREATE DATABASE variant_{number}")
        url = services.postgres.url_of(f"variant_{number}")
        await asyncio.to_thread(migrate, url)
        connection = await asyncpg.connect(url)
        await connection.execute(statements)
        await connection.close()
        databases[name] = (await Database.connect(url, name="bench", size=1), await register(url))
    for _ in range(rounds):
        for name, (database, worker) in databases.items():
            before, begun = await _position(administrator), time.perf_counter()
            await submit_and_run(database, worker)
            taken[name].append(time.perf_counter() - begun)
            wal[name] += await _position(administrator) - before
    for database, _ in databases.values():
        await database.close()
    await administrator.close()
    return [
        (
            name,
            {
                "WAL bytes": wal[name] / rounds / BATCH,
                "microseconds": median(taken[name]) * 1e6 / BATCH,
            },
        )
        for name in VARIANTS
    ]


async def _position(connection: "asyncpg.Connection[asyncpg.Record]") -> float:
    position: float = await connection.fetchval(
        "SELECT (pg_current_wal_insert_lsn() - '0/0')::float8"
    )
    return position


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
