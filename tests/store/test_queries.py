"""Every named query is valid against the migrated schema, and the hot ones keep their plans."""

import json
from itertools import product
from pathlib import Path

import asyncpg
import pytest

from headway_core import queries, submissions
from headway_core.database import Connection, Database

TABLES = sorted(path.stem for path in (Path(queries.__file__).parent / "sql").glob("*.sql"))

BATCH_STATEMENTS = [
    ("outbox", "mark_queued"),
    ("claims", "claim"),
    ("runs", "settle"),
    ("runs", "save_progress"),
    ("steps", "complete_step"),
    ("sweeps", "redispatch"),
    ("retention", "remove_finished"),
    ("dead_letters", "replay"),
    ("jobs", "cancel"),
    ("jobs", "get"),
    ("jobs", "list"),
    ("jobs", "list_among"),
    ("events", "heads"),
]


STATEMENTS = {
    f"{table}.{name}": text for table in TABLES for name, text in queries.load(table).texts.items()
}
for one, queues, keys, again in product([False, True], repeat=4):
    STATEMENTS[f"submissions.submit {one=} {queues=} {keys=} {again=}"] = (
        submissions.submit_statement(one=one, queues=queues, keys=keys, again=again)
    )


@pytest.mark.parametrize("one", [False, True])
@pytest.mark.parametrize("queues", [False, True])
@pytest.mark.parametrize("keys", [False, True])
@pytest.mark.parametrize("again", [False, True])
def test_a_submit_is_ready_for_what_is_there_and_no_more(
    one: bool, queues: bool, keys: bool, again: bool
) -> None:
    statement = submissions.submit_statement(one=one, queues=queues, keys=keys, again=again)
    assert ("ON CONFLICT (id)" in statement) is again
    assert ("INTO idempotency_keys" in statement) is keys
    assert ("FROM keyed" in statement) is keys
    assert ("FROM queues" in statement) is queues
    assert ("unnest(" in statement) is not one


@pytest.mark.parametrize("name", STATEMENTS)
async def test_every_query_can_be_prepared(database_url: str, name: str) -> None:
    """A misspelt column shows here, not at three in the morning."""
    connection = await asyncpg.connect(database_url)
    try:
        await connection.prepare(STATEMENTS[name])
    finally:
        await connection.close()


@pytest.mark.parametrize("rows", [0, 1_000_000])
@pytest.mark.parametrize(("table", "name"), BATCH_STATEMENTS)
async def test_batch_statements_find_their_jobs_by_key(
    database: Database, table: str, name: str, rows: int
) -> None:
    """On empty and on full statistics: a plan that walks a table is a thousand times slower."""
    scans = await _planned_scans(database, table, name, rows)
    of_jobs = [scan for scan in scans if "jobs" in (scan.get("Relation Name"), _table(scan))]
    assert of_jobs
    for scan in of_jobs:
        assert "Index Cond" in scan or "Recheck Cond" in scan, scan
        assert scan.get("Index Name", "jobs_pkey") == "jobs_pkey", scan


@pytest.mark.parametrize("rows", [0, 1_000_000])
@pytest.mark.parametrize(
    ("table", "name"),
    [("retention", "remove_finished"), ("jobs", "unfinished"), ("outbox", "delete")],
)
async def test_no_table_is_walked(database: Database, table: str, name: str, rows: int) -> None:
    """What a statement needs of other tables it finds by their keys, too."""
    for scan in await _planned_scans(database, table, name, rows):
        if "Relation Name" in scan or "Index Name" in scan:
            assert "Index Cond" in scan or "Recheck Cond" in scan, scan


async def test_keys_are_removed_by_pages(database: Database) -> None:
    """No index, and no walk along the whole table: the pages that were named."""
    scans = await _planned_scans(database, "retention", "remove_keys", 1_000_000)
    (keys,) = [scan for scan in scans if scan.get("Relation Name") == "idempotency_keys"]
    assert keys["Node Type"] == "Tid Range Scan"


async def _planned_scans(
    database: Database, table: str, name: str, rows: int
) -> list[dict[str, object]]:
    async with database.transaction() as connection:
        if rows:
            await _pretend(connection, rows)
        await connection.execute("SET LOCAL plan_cache_mode = force_generic_plan")
        await connection.execute(f"PREPARE plan AS {queries.load(table).texts[name]}")
        count = await connection.fetchval(
            "SELECT cardinality(parameter_types) FROM pg_prepared_statements WHERE name = 'plan'"
        )
        nulls = ", ".join(["NULL"] * count)
        explained = await connection.fetchval(f"EXPLAIN (FORMAT json) EXECUTE plan ({nulls})")
        await connection.execute("DEALLOCATE plan")
    return list(_scans(json.loads(explained)[0]["Plan"]))


async def _pretend(connection: Connection, rows: int) -> None:
    """Make the planner believe in so many jobs, by real pages and the statistics of many rows."""
    await connection.execute(
        "INSERT INTO jobs (id, type, queue, queue_given, priority, state, traceparent, end_time) "
        "SELECT gen_random_uuid(), 'noop', 'default', false, 4, 4, '', clock_timestamp() "
        "FROM generate_series(1, 20000)"
    )
    await connection.execute("ANALYZE jobs")
    await connection.execute(
        "UPDATE pg_class SET reltuples = $1 WHERE relname = 'jobs'", float(rows)
    )


def _scans(plan: dict[str, object]) -> "list[dict[str, object]]":
    found = [plan] if "Scan" in str(plan["Node Type"]) else []
    for child in plan.get("Plans", []):  # type: ignore[attr-defined]
        found += _scans(child)
    return found


def _table(scan: dict[str, object]) -> str:
    return str(scan.get("Index Name", "")).partition("_")[0]
