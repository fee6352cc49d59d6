"""Migrations: once each, in order, never changed; and the schema they make is the golden one."""

import asyncio
import os
import re
from pathlib import Path

import asyncpg
import pytest

from headway_core import migrate as migrating
from headway_core.database import Database
from headway_core.errors import Defect, SchemaOutdated, StoreUnavailable
from headway_core.migrate import check_schema, migrate, migrations

GOLDEN = Path(__file__).parent.parent / "golden" / "schema.txt"
DESCRIBE = """
SELECT 'table ' || table_name || '.' || column_name || ' ' || data_type
    || CASE is_nullable WHEN 'NO' THEN ' not null' ELSE '' END
    || coalesce(' default ' || column_default, '') AS line
FROM information_schema.columns WHERE table_schema = 'public'
UNION ALL
SELECT 'index ' || indexdef FROM pg_indexes WHERE schemaname = 'public'
UNION ALL
SELECT 'check ' || conrelid::regclass || ' ' || conname || ' ' || pg_get_constraintdef(oid)
FROM pg_constraint WHERE contype = 'c' AND connamespace = 'public'::regnamespace
UNION ALL
SELECT 'storage ' || relname || ' ' || array_to_string(reloptions, ' ')
FROM pg_class WHERE relnamespace = 'public'::regnamespace AND reloptions IS NOT NULL
ORDER BY 1
"""


async def test_the_schema_is_the_golden_one(database: Database) -> None:
    """A migration changes tests/golden/schema.txt in the same commit, where a reviewer sees it.

    UPDATE_GOLDEN=1 writes the file anew.
    """
    lines = [re.sub(r"\s+", " ", row["line"]) for row in await database.fetch(DESCRIBE)]
    described = "\n".join(lines) + "\n"
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(described, "utf-8")
    assert described == GOLDEN.read_text("utf-8")


async def test_migrating_twice_applies_nothing_twice(database_url: str) -> None:
    """Also when several processes start at once."""
    assert await asyncio.gather(*(migrate(database_url) for _ in range(4))) == [[]] * 4


async def test_an_older_schema_is_refused_and_a_changed_file_too(
    database: Database, database_url: str
) -> None:
    """The server says what to run; a file that changed after the fact is our bug."""
    await check_schema(database)
    await database.execute("UPDATE schema_migrations SET checksum = 'x' WHERE version = 1")
    with pytest.raises(Defect, match="0001_initial"):
        await migrate(database_url)
    await database.execute("DELETE FROM schema_migrations")
    with pytest.raises(SchemaOutdated, match="headway migrate"):
        await check_schema(database)
    await database.execute("DROP TABLE schema_migrations")
    with pytest.raises(SchemaOutdated, match="version 0"):
        await check_schema(database)


async def test_a_migration_that_fails_leaves_nothing(
    database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One transaction each."""
    broken = migrating.Migration(9999, "9999_broken.sql", "CREATE TABLE half (); SELECT 1/0;")
    monkeypatch.setattr(migrating, "migrations", lambda: [*migrations(), broken])
    with pytest.raises(asyncpg.DivisionByZeroError):
        await migrate(database_url)
    assert await database.fetchval("SELECT to_regclass('half')") is None


@pytest.mark.parametrize("url", ["nonsense", "postgresql://u:hunter2@127.0.0.1:1/x"])
async def test_a_wrong_url_is_named_without_its_password(url: str) -> None:
    """Secrets are never printed."""
    with pytest.raises(StoreUnavailable) as caught:
        await migrate(url)
    assert "hunter2" not in str(caught.value)
    database = await Database.connect(url, name="test")
    with pytest.raises(StoreUnavailable) as caught:
        await database.fetchval("SELECT 1")
    assert "hunter2" not in str(caught.value)
    await database.close()
