"""Every airport is in the table exactly once, whatever happens on the way there."""

import asyncio

import asyncpg
import pytest

from examples import airports_import
from examples.airports import all_airports
from headway_worker import PermanentError
from headway_worker.handler_errors import JobCancelled

ROWS_OF_JOB = """
select count(*), count(distinct icao) from headway_examples.airports where job_id = $1
"""


@pytest.fixture(autouse=True)
def database(database_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("HEADWAY_EXAMPLES_DATABASE_URL", database_url)
    return database_url


@pytest.fixture
async def rows_of(database: str):
    """Rows and distinct codes that the job has in the table."""
    connection = await asyncpg.connect(database)

    async def rows_of(history) -> tuple[int, int]:
        return tuple(await connection.fetchrow(ROWS_OF_JOB, history.job_id))

    yield rows_of
    await connection.close()


async def test_all_airports_are_imported_and_told_chunk_by_chunk(
    context, history, rows_of, database
) -> None:
    airports = all_airports()
    ctx = context()
    result = await airports_import.import_airports(ctx, {})
    assert result == {"table": "headway_examples.airports", "rows": len(airports)}
    assert await rows_of(history) == (len(airports), len(airports))
    assert [done for done, _ in ctx.progress_told] == [
        *range(1_000, len(airports), 1_000),
        len(airports),
    ]
    assert {total for _, total in ctx.progress_told} == {len(airports)}
    connection = await asyncpg.connect(database)
    orly = await connection.fetchrow(
        "select name, city, country, elevation_feet, round(latitude) as latitude"
        " from headway_examples.airports where job_id = $1 and icao = 'LFPO'",
        history.job_id,
    )
    await connection.close()
    assert dict(orly) == {
        "name": "Paris-Orly Airport",
        "city": "Paris",
        "country": "FR",
        "elevation_feet": 291.0,
        "latitude": 49.0,
    }


async def test_crash_between_commit_and_stored_step_doubles_no_row(
    context, history, rows_of
) -> None:
    payload = {"chunk_rows": 100, "limit": 450}
    first = context(lose_step="rows 201-300")
    with pytest.raises(ConnectionAbortedError):
        await airports_import.import_airports(first, payload)
    assert await rows_of(history) == (300, 300)
    second = context(attempt=2)
    result = await airports_import.import_airports(second, payload)
    assert second.steps_run == ["rows 201-300", "rows 301-400", "rows 401-450"]
    assert result["rows"] == 450
    assert await rows_of(history) == (450, 450)


async def test_run_beside_its_former_self_doubles_no_row(context, history, rows_of) -> None:
    """A run taken for dead goes on while the next one begins: each chunk has one winner."""
    payload = {"chunk_rows": 50, "limit": 1_000}
    results = await asyncio.gather(
        *(
            airports_import.import_airports(context(type(history)(history.job_id)), payload)
            for _ in range(3)
        )
    )
    assert [result["rows"] for result in results] == [1_000] * 3
    assert await rows_of(history) == (1_000, 1_000)


async def test_two_jobs_at_once_have_their_own_rows(context, history, rows_of) -> None:
    """Also makes the tables twice at the same time."""
    other = type(history)()
    await asyncio.gather(
        airports_import.import_airports(context(), {"limit": 120}),
        airports_import.import_airports(context(other), {"limit": 80}),
    )
    assert await rows_of(history) == (120, 120)
    assert await rows_of(other) == (80, 80)


async def test_cancelled_import_stops_at_a_chunk(context, history, rows_of) -> None:
    ctx = context(cancel_when=lambda ctx: len(ctx.steps_run) == 2)
    with pytest.raises(JobCancelled):
        await airports_import.import_airports(ctx, {"chunk_rows": 10})
    assert await rows_of(history) == (20, 20)


async def test_missing_setting_is_permanent(context, monkeypatch) -> None:
    monkeypatch.delenv("HEADWAY_EXAMPLES_DATABASE_URL")
    monkeypatch.delenv("HEADWAY_DATABASE_URL", raising=False)
    with pytest.raises(PermanentError, match="set HEADWAY_EXAMPLES_DATABASE_URL to a Postgres"):
        await airports_import.import_airports(context(), {})


async def test_headways_own_database_is_the_default(monkeypatch, database) -> None:
    monkeypatch.delenv("HEADWAY_EXAMPLES_DATABASE_URL")
    monkeypatch.setenv("HEADWAY_DATABASE_URL", database)
    assert airports_import.database_url() == database
