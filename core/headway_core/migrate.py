"""Migrations: numbered SQL files, applied once each, in order, under an advisory lock."""

import argparse
import asyncio
import hashlib
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

import asyncpg

from headway_core.database import Database
from headway_core.errors import Defect, HeadwayError, SchemaOutdated, StoreUnavailable
from headway_core.sessions import connect

_FILE = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")
_LOCK: Final = 0x6865616477617900  # "headway\0"
_CONNECT_SECONDS: Final = 5.0
_LOCK_SECONDS: Final = 60

_TABLE: Final = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    version      integer PRIMARY KEY,
    name         text NOT NULL,
    checksum     text NOT NULL,
    applied_time timestamptz NOT NULL DEFAULT clock_timestamp()
)
"""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file."""

    version: int
    name: str
    text: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the text, in hex."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def migrations() -> list[Migration]:
    """All migrations this code knows, in order."""
    found = [
        Migration(int(matched[1]), file.name, file.read_text("utf-8"))
        for file in files("headway_core").joinpath("migrations").iterdir()
        if (matched := _FILE.fullmatch(file.name))
    ]
    return sorted(found, key=lambda migration: migration.version)


async def migrate(url: str) -> list[Migration]:
    """Bring a database to this code's schema and return what was applied.

    Each migration is one transaction. Only one process migrates at a time; others wait for 60 s.
    Raises StoreUnavailable; Defect if an applied file was changed since.
    """
    try:
        connection = await connect(url, timeout=_CONNECT_SECONDS)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise StoreUnavailable(f"the database does not answer: {error}") from error
    try:
        await connection.execute(f"SET lock_timeout = '{_LOCK_SECONDS}s'")
        await connection.execute("SELECT pg_advisory_lock($1)", _LOCK)
        return await _apply_missing(connection)
    finally:
        await connection.close()


async def check_schema(database: Database) -> None:
    """Raise SchemaOutdated unless the database has every migration of this code."""
    wanted = migrations()[-1].version
    exists = await database.fetchval("SELECT to_regclass('schema_migrations') IS NOT NULL")
    found = await database.fetchval("SELECT max(version) FROM schema_migrations") if exists else 0
    if (found or 0) < wanted:
        raise SchemaOutdated(found=found or 0, wanted=wanted)


def main(arguments: Sequence[str]) -> int:
    """`headway migrate`: exit 0 if the schema is current, 1 with the reason if it cannot be."""
    parser = argparse.ArgumentParser(
        prog="headway migrate", description="Bring the database to this version's schema."
    )
    parser.parse_args(arguments)
    url = os.environ.get("HEADWAY_DATABASE_URL", "")
    if not url:
        print("headway migrate: HEADWAY_DATABASE_URL is not set", file=sys.stderr)
        return 2
    try:
        applied = asyncio.run(migrate(url))
    except HeadwayError as error:
        print(f"headway migrate: {error}", file=sys.stderr)
        return 1
    for migration in applied:
        print(f"applied {migration.name}")
    print(f"the schema is at version {migrations()[-1].version}")
    return 0


async def _apply_missing(connection: "asyncpg.Connection[asyncpg.Record]") -> list[Migration]:
    await connection.execute(_TABLE)
    rows = await connection.fetch("SELECT version, checksum FROM schema_migrations")
    applied = {row["version"]: row["checksum"] for row in rows}
    missing = []
    for migration in migrations():
        checksum = applied.get(migration.version)
        if checksum is None:
            missing.append(migration)
        elif checksum != migration.checksum:
            raise Defect(f"{migration.name} was changed after it had been applied")
    for migration in missing:
        async with connection.transaction():
            await connection.execute(migration.text)
            await connection.execute(
                "INSERT INTO schema_migrations (version, name, checksum) VALUES ($1, $2, $3)",
                migration.version,
                migration.name,
                migration.checksum,
            )
    return missing


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
