"""The reaper on real leases: who is judged, who is not, and who hears of it."""

import asyncio
from datetime import timedelta
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from headway_core import events, jobs, leases, submissions
from headway_core.database import Database
from headway_core.errors import StoreUnavailable
from headway_core.hint_codec import EventHint
from headway_core.job import Submission
from headway_core.states import JobState
from headway_server import reaper as reaper_module
from headway_server.reaper import Reaper
from tests.service.conftest import JOB_TYPE
from tests.service.worker import PlayedWorker

LEASE = timedelta(seconds=1)
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Clock:
    """The reaper's monotonic clock in the test's hand, and the database's in step with it."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    read = leases.database_clock
    born = clock.seconds

    async def in_step(database: Database) -> leases.DatabaseClock:
        found = await read(database)
        first = in_step.__dict__.setdefault("first", found)
        now = first.now + timedelta(seconds=clock.seconds - born)
        return leases.DatabaseClock(now, found.postmaster_start_time)

    monkeypatch.setattr(reaper_module, "monotonic", clock)
    monkeypatch.setattr(leases, "database_clock", in_step)
    return clock


class Scene:
    """A reaper, and what it tells."""

    def __init__(self, database: Database) -> None:
        self.hints: list[EventHint] = []
        self.pokes = 0
        self.reaper = Reaper(
            database,
            lease=LEASE,
            heartbeat=timedelta(seconds=0.4),
            send_hint=self.hints.append,
            poke_relay=self.poke,
        )

    def poke(self) -> None:
        self.pokes += 1


async def running_job(database: Database, worker: PlayedWorker) -> UUID:
    item = Submission(id=uuid7(), type=JOB_TYPE, request_hash=b"", traceparent=TRACEPARENT)
    await submissions.submit(database, [item], queue_depth_max=None)
    await worker.claim(item.id)
    return item.id


async def lapse(database: Database, worker: PlayedWorker) -> None:
    """As if no beat had come for a minute."""
    await database.execute(
        "UPDATE workers SET lease_expires = clock_timestamp() - interval '1 minute' WHERE id = $1",
        worker.id,
    )


async def test_a_lost_workers_run_is_ended_and_everybody_hears_of_it(
    database: Database, clock: Clock
) -> None:
    """FAILED by WORKER_LOST, due at once, watchers and relay woken; a live worker's run goes on."""
    scene = Scene(database)
    lost = await PlayedWorker.register(database, JOB_TYPE)
    live = await PlayedWorker.register(database, JOB_TYPE)
    orphan, kept = await running_job(database, lost), await running_job(database, live)
    await lapse(database, lost)
    await scene.reaper.tick()
    clock.seconds += 1
    await scene.reaper.tick()
    found = await jobs.get(database, orphan, full=False)
    assert found.state is JobState.FAILED
    assert found.error is not None
    assert found.error.type == "WorkerLost"
    assert (await jobs.get(database, kept, full=False)).state is JobState.RUNNING
    assert [(hint.job_id, hint.sequence, hint.done) for hint in scene.hints] == [
        (orphan, found.sequence, False)
    ]
    assert scene.pokes == 1


async def test_a_reaper_that_has_just_started_judges_nobody_for_one_lease(
    database: Database, clock: Clock
) -> None:
    """Perhaps it was started because everything was down."""
    scene = Scene(database)
    worker = await PlayedWorker.register(database, JOB_TYPE)
    job_id = await running_job(database, worker)
    await lapse(database, worker)
    for _ in range(9):
        await scene.reaper.tick()
        clock.seconds += 0.1
    assert (await jobs.get(database, job_id, full=False)).state is JobState.RUNNING
    clock.seconds += 0.1
    await scene.reaper.tick()
    assert (await jobs.get(database, job_id, full=False)).state is JobState.FAILED


async def test_a_failed_tick_gives_every_worker_another_lease(
    database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Postgres was away for the reaper, so it was for the beats; a beat in the meantime saves."""
    scene = Scene(database)
    worker = await PlayedWorker.register(database, JOB_TYPE)
    job_id = await running_job(database, worker)
    await scene.reaper.tick()
    clock.seconds += 1.1
    with monkeypatch.context() as broken:

        async def away(*_: object, **__: object) -> list[UUID]:
            raise StoreUnavailable("away")

        broken.setattr(leases, "lapsed", away)
        broken.setattr(reaper_module, "TICK", timedelta(milliseconds=1))
        task = asyncio.ensure_future(scene.reaper.run())
        await asyncio.sleep(0.1)
        task.cancel()
    await lapse(database, worker)
    for _ in range(2):
        clock.seconds += 0.4
        await scene.reaper.tick()
    assert (await jobs.get(database, job_id, full=False)).state is JobState.RUNNING
    await leases.beat(database, [worker.id], lease=timedelta(minutes=1))
    clock.seconds += 0.6
    await scene.reaper.tick()
    clock.seconds += 1
    await scene.reaper.tick()
    assert (await jobs.get(database, job_id, full=False)).state is JobState.RUNNING


async def test_two_reapers_judge_a_run_once(database: Database, clock: Clock) -> None:
    """Whoever comes second finds nothing: one WORKER_LOST, one crash charged."""
    scenes = [Scene(database) for _ in range(2)]
    worker = await PlayedWorker.register(database, JOB_TYPE)
    job_id = await running_job(database, worker)
    await lapse(database, worker)
    for scene in scenes:
        await scene.reaper.tick()
    clock.seconds += 1
    await asyncio.gather(*(scene.reaper.tick() for scene in scenes))
    assert sum(len(scene.hints) for scene in scenes) == 1
    history = await events.after(database, job_id, 0, limit=10)
    assert [event.type.name for event in history] == ["SUBMITTED", "STARTED", "RETRY_SCHEDULED"]
    assert await database.fetchval("SELECT crashes FROM jobs") == 1
