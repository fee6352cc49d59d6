"""Listings that few of many jobs belong to: bounded work, and nothing is missed."""

from uuid import UUID, uuid4

import pytest

from headway_core import claims, jobs
from headway_core.database import Database
from headway_core.jobs import JobFilter
from headway_core.states import JobState

from .conftest import DEATH, Register, Run, Submit

COMPLETED = frozenset({JobState.COMPLETED})


async def store(database: Database, count: int, *, rare: set[int]) -> list[UUID]:
    """COMPLETED jobs, oldest first; those in `rare` have a type and a label of their own."""
    records = await database.fetch(
        "INSERT INTO jobs (id, type, queue, queue_given, priority, state, traceparent, end_time, "
        "labels) "
        "SELECT ('016e0000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, "
        "  CASE WHEN n = ANY ($2) THEN 'rare' ELSE 'noop' END, 'default', false, 4, 4, '', "
        '  clock_timestamp(), CASE WHEN n = ANY ($2) THEN \'{"rare": "yes"}\'::jsonb END '
        "FROM generate_series(0, $1::integer - 1) AS n RETURNING id",
        count,
        sorted(rare),
    )
    return sorted(record["id"] for record in records)


async def follow(
    database: Database, chosen: JobFilter, *, limit: int
) -> tuple[list[list[UUID]], int]:
    """All parts of a listing, and in how many calls."""
    parts, before, calls = [], None, 0
    while True:
        found = await jobs.list_jobs(database, chosen, full=False, before=before, limit=limit)
        calls += 1
        assert len(found.jobs) <= limit
        parts.append([job.id for job in found.jobs])
        if len(found.jobs) == limit:
            before = found.jobs[-1].id
        elif found.looked_up_to is not None:
            before = found.looked_up_to
        else:
            return parts, calls


@pytest.mark.parametrize("look_at", [1, 3, 7, 10, 49, 50, 51, 1000])
@pytest.mark.parametrize("limit", [1, 2, 50])
async def test_parts_join_wherever_the_search_stops(
    database: Database, monkeypatch: pytest.MonkeyPatch, look_at: int, limit: int
) -> None:
    """Each that matches comes once, in order; also where it is the last that was looked at."""
    rare = {0, 6, 7, 20, 30, 43, 49}
    ids = await store(database, 50, rare=rare)
    monkeypatch.setattr(jobs, "LOOK_AT_MAX", look_at)
    expected = [ids[n] for n in sorted(rare, reverse=True)]
    for chosen in (JobFilter(type="rare"), JobFilter(labels=(("rare", "yes"),), states=COMPLETED)):
        parts, _ = await follow(database, chosen, limit=limit)
        assert [job_id for part in parts for job_id in part] == expected
    parts, _ = await follow(database, JobFilter(), limit=limit)
    assert [job_id for part in parts for job_id in part] == ids[::-1]


async def test_a_search_stops_at_its_bound(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rare type among many jobs costs one call no more than a frequent one."""
    ids = await store(database, 100, rare={0})
    monkeypatch.setattr(jobs, "LOOK_AT_MAX", 10)
    found = await jobs.list_jobs(database, JobFilter(type="rare"), full=False, before=None, limit=5)
    assert (found.jobs, found.looked_up_to) == ([], ids[90])
    _, calls = await follow(database, JobFilter(type="rare"), limit=5)
    assert calls == 11


async def test_jobs_that_are_not_over_are_found_behind_any_history(
    database: Database,
    submit: Submit,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The tables that know them are asked; the search along the IDs would stop long before."""
    monkeypatch.setattr(jobs, "LOOK_AT_MAX", 10)
    waiting = [(await submit()).job.id for _ in range(3)]
    dead = await run(DEATH)
    await database.execute(  # as if they were older than all the others
        "UPDATE jobs SET id = ('00' || substr(id::text, 3))::uuid"
    )
    await database.execute(
        "UPDATE dead_letters SET job_id = ('00' || substr(job_id::text, 3))::uuid"
    )
    await store(database, 100, rare=set())

    async def found(*states: JobState, **given: object) -> tuple[list[UUID], UUID | None]:
        chosen = JobFilter(states=frozenset(states), **given)  # type: ignore[arg-type]
        part = await jobs.list_jobs(database, chosen, full=False, before=None, limit=10)
        return [job.id for job in part.jobs], part.looked_up_to

    old = [UUID("00" + str(job_id)[2:]) for job_id in [*waiting, dead]]
    assert await found(JobState.PENDING) == (old[2::-1], None)
    assert await found(JobState.DEAD) == ([old[3]], None)
    assert await found(JobState.PENDING, JobState.DEAD) == (old[::-1], None)
    assert await found(JobState.PENDING, type="other") == ([], None)
    assert await found(JobState.RUNNING) == ([], None)
    everything, stopped = await found(JobState.PENDING, JobState.CANCELLED)
    assert everything == []
    assert stopped is not None
    monkeypatch.setattr(jobs, "UNFINISHED_MAX", 2)
    ids, stopped = await found(JobState.PENDING)
    assert ids == []
    assert stopped is not None, "too many to be sorted at once: along the IDs"


@pytest.mark.parametrize("at_once", [1, 2, 3, 4, 100])
async def test_many_dead_and_running_jobs_are_listed_part_by_part(
    database: Database,
    submit: Submit,
    register: Register,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    at_once: int,
) -> None:
    """Whichever kind there is more of, the parts join."""
    worker = await register("other")
    expected = [await run(DEATH) for _ in range(5)]
    for _ in range(3):
        running = (await submit("other")).job.id
        request = claims.ClaimRequest(running, uuid4(), 1)
        await claims.claim(database, [request], worker_id=worker, types={"other"})
        expected += [running, await run(DEATH)]
    await run()
    monkeypatch.setattr(jobs, "UNFINISHED_MAX", at_once)
    for states, type_, wanted in (
        ({JobState.DEAD, JobState.RUNNING}, None, expected),
        ({JobState.RUNNING}, None, expected[5::2]),
        ({JobState.DEAD, JobState.RUNNING}, "other", expected[5::2]),
    ):
        chosen = JobFilter(states=frozenset(states), type=type_)
        parts, _ = await follow(database, chosen, limit=3)
        assert [job_id for part in parts for job_id in part] == wanted[::-1]
