"""PostgreSQL: there, ours, new enough, with the schema of this code."""

from collections.abc import AsyncIterator

import asyncpg

from headway_core.migrate import migrations
from headway_dev.checks.findings import Finding, ok, wrong
from headway_dev.redaction import without_secrets

SUBJECT = "database"
VERSION_MIN = 14
CONNECT_SECONDS = 5.0


async def check_database(url: str, queues: list[str]) -> AsyncIterator[Finding]:
    """Look at the database; adds the names of our queues to `queues` for the broker's check."""
    shown = without_secrets(url)
    try:
        connection = await asyncpg.connect(url, timeout=CONNECT_SECONDS)
    except Exception as error:  # noqa: BLE001 - every way to fail is a finding
        yield _cannot_connect(shown, error)
        return
    try:
        async for finding in _look(connection, shown, queues):
            yield finding
    finally:
        await connection.close(timeout=CONNECT_SECONDS)


def _cannot_connect(shown: str, error: Exception) -> Finding:
    match error:
        case asyncpg.InvalidAuthorizationSpecificationError():
            return wrong(
                SUBJECT,
                f"{shown} refuses the user or the password",
                "correct them in HEADWAY_DATABASE_URL (special characters as %XX)",
            )
        case asyncpg.InvalidCatalogNameError():
            return wrong(SUBJECT, f"{shown}: there is no such database", "create it: createdb NAME")
        case asyncpg.TooManyConnectionsError():
            return wrong(
                SUBJECT,
                f"{shown} has no connection left",
                "raise max_connections, or run fewer processes",
            )
        case asyncpg.CannotConnectNowError():
            return wrong(SUBJECT, f"{shown} is starting up or shutting down", "try again soon")
        case OSError():
            reason = error.strerror or "no answer"
            return wrong(
                SUBJECT,
                f"{shown} cannot be reached: {reason}",
                "start PostgreSQL, or correct host and port in HEADWAY_DATABASE_URL",
            )
        case _:
            return wrong(
                SUBJECT,
                f"{shown} cannot be used: {type(error).__name__}",
                "HEADWAY_DATABASE_URL takes postgresql://USER:PASSWORD@HOST:PORT/DATABASE",
            )


async def _look(
    connection: "asyncpg.Connection[asyncpg.Record]", shown: str, queues: list[str]
) -> AsyncIterator[Finding]:
    version = await connection.fetchval("SHOW server_version")
    text = f"PostgreSQL {version} at {shown}"
    if connection.get_server_version().major < VERSION_MIN:
        yield wrong(SUBJECT, f"{text} is too old", f"use PostgreSQL {VERSION_MIN} or newer")
        return
    yield ok(SUBJECT, text)
    if await connection.fetchval("SELECT to_regclass('schema_migrations') IS NULL"):
        yield wrong("schema", "this database has no schema of ours", "run `headway migrate`")
        return
    yield await _compare_schema(connection)
    if await connection.fetchval("SELECT to_regclass('queues') IS NOT NULL"):
        rows = await connection.fetch("SELECT name FROM queues ORDER BY name")
        queues.extend(row["name"] for row in rows)


async def _compare_schema(connection: "asyncpg.Connection[asyncpg.Record]") -> Finding:
    rows = await connection.fetch("SELECT version, checksum FROM schema_migrations")
    applied = {row["version"]: row["checksum"] for row in rows}
    known = {migration.version: migration for migration in migrations()}
    changed = [m.name for v, m in known.items() if v in applied and applied[v] != m.checksum]
    missing = [m.name for v, m in known.items() if v not in applied]
    newest = max(applied, default=0)
    if changed:
        return wrong(
            "schema",
            f"{', '.join(changed)} was changed after it had been applied",
            "install the release that made this schema, or begin with an empty database",
        )
    if missing:
        return wrong(
            "schema", f"it lacks {', '.join(missing)}", "run `headway migrate`, then restart"
        )
    if newest > max(known):
        return wrong(
            "schema",
            f"it is at version {newest}, newer than this code ({max(known)})",
            "install the newer release here as well",
        )
    return ok("schema", f"is current (version {newest})")
