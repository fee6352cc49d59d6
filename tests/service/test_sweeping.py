"""Jobs that wait but that no message speaks for."""

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from headway_core import outbox, submissions
from headway_core.database import Database
from headway_core.job import Dispatch, Submission
from headway_server import sweeper as sweeper_module
from headway_server.sweeper import Sweeper
from tests.service.conftest import JOB_TYPE
from tests.service.worker import PlayedWorker

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class CountingBroker:
    """The publisher as a sweeper sees it."""

    def __init__(self) -> None:
        self.ready = True
        self.counts: dict[str, int | None] = {}

    async def ready_count(self, queue: str) -> int | None:
        return self.counts.get(queue) if self.ready else None


class Scene:
    """A sweeper, the broker it asks, and what it publishes again."""

    def __init__(self, database: Database) -> None:
        self.broker = CountingBroker()
        self.sent: list[Dispatch] = []
        self.sweeper = Sweeper(
            database,
            self.broker,  # type: ignore[arg-type]
            starvation=timedelta(seconds=300),
            dispatch=self._dispatch,
        )

    def _dispatch(self, dispatches: Sequence[Dispatch]) -> None:
        self.sent += dispatches

    def sent_ids(self) -> set[UUID]:
        return {item.job_id for item in self.sent}


@pytest.fixture
def scene(database: Database) -> Scene:
    return Scene(database)


async def submit(database: Database, count: int = 1) -> list[UUID]:
    """Jobs whose rows have gone out, as after a confirm."""
    items = [
        Submission(id=uuid7(), type=JOB_TYPE, request_hash=b"", traceparent=TRACEPARENT)
        for _ in range(count)
    ]
    await submissions.submit(database, items, queue_depth_max=None)
    await database.execute("DELETE FROM outbox")
    return [item.id for item in items]


async def queued(database: Database, count: int, *, seconds_ago: float) -> list[UUID]:
    """Jobs that have been QUEUED for so long, in the order of their age."""
    ids = await submit(database, count)
    await outbox.mark_queued(database, [(job_id, 1) for job_id in ids])
    for n, job_id in enumerate(ids):
        await database.execute(
            "UPDATE jobs SET wait_time = clock_timestamp() - $2::interval WHERE id = $1",
            job_id,
            timedelta(seconds=seconds_ago + count - n),
        )
    return ids


async def rows(database: Database) -> int:
    found = await database.fetchval("SELECT count(*) FROM outbox")
    assert isinstance(found, int)
    return found


async def test_a_stranded_job_is_published_after_two_sweeps(
    database: Database, scene: Scene
) -> None:
    """Once proves nothing: between a confirm and the lazy mark every job looks so."""
    (job_id,) = await submit(database)
    await scene.sweeper.sweep()
    assert not scene.sent
    await scene.sweeper.sweep()
    (dispatch,) = scene.sent
    assert (dispatch.job_id, dispatch.dispatch_no) == (job_id, 1), "the same number"
    await scene.sweeper.sweep()
    await scene.sweeper.sweep()
    assert len(scene.sent) == 1, "its row is there now"


async def test_a_job_marked_in_between_is_not_stranded(database: Database, scene: Scene) -> None:
    """The lazy mark was only late."""
    (job_id,) = await submit(database)
    await scene.sweeper.sweep()
    await outbox.mark_queued(database, [(job_id, 1)])
    await scene.sweeper.sweep()
    assert not scene.sent


async def test_jobs_queued_for_long_are_published_as_many_as_the_broker_lacks(
    database: Database, scene: Scene
) -> None:
    """Five by our count, two ready at the broker: the three oldest go out again."""
    ids = await queued(database, 5, seconds_ago=31)
    scene.broker.counts["default"] = 2
    await scene.sweeper.sweep()
    assert scene.sent_ids() == set(ids[:3])
    assert {item.dispatch_no for item in scene.sent} == {1}


async def test_a_broker_that_has_all_is_sent_nothing(database: Database, scene: Scene) -> None:
    """A backlog is no loss."""
    await queued(database, 5, seconds_ago=31)
    scene.broker.counts["default"] = 5
    await scene.sweeper.sweep()
    assert not scene.sent


async def test_jobs_queued_a_moment_ago_are_left_alone(database: Database, scene: Scene) -> None:
    """They may be in a worker's hand."""
    await queued(database, 5, seconds_ago=1)
    scene.broker.counts["default"] = 0
    await scene.sweeper.sweep()
    assert not scene.sent


async def test_a_wiped_broker_gets_everything_again(database: Database, scene: Scene) -> None:
    """No such queue any more: nothing is there."""
    ids = await queued(database, 3, seconds_ago=31)
    await scene.sweeper.sweep()
    assert scene.sent_ids() == set(ids)


async def test_with_the_broker_away_nothing_is_concluded(database: Database, scene: Scene) -> None:
    """Unknown is not zero."""
    await queued(database, 3, seconds_ago=31)
    scene.broker.ready = False
    await scene.sweeper.sweep()
    assert not scene.sent


async def test_one_sweep_publishes_a_thousand_at_most(
    database: Database, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all kinds together; the next sweep goes on."""
    monkeypatch.setattr(sweeper_module, "JOBS_MAX", 10)
    await submit(database, 6)
    await queued(database, 8, seconds_ago=31)
    await scene.sweeper.sweep()
    assert len(scene.sent) == 8
    scene.sent.clear()
    await database.execute("DELETE FROM outbox")
    await scene.sweeper.sweep()
    assert len(scene.sent) == 10
    assert await rows(database) == 10


async def test_a_starving_job_is_published_at_the_highest_priority_once(
    database: Database, scene: Scene
) -> None:
    """A stream of urgent jobs must not keep a low one waiting for ever."""
    (job_id,) = await queued(database, 1, seconds_ago=301)
    scene.broker.counts["default"] = 1
    await scene.sweeper.sweep()
    (dispatch,) = scene.sent
    assert (dispatch.job_id, dispatch.priority, dispatch.dispatch_no) == (job_id, 9, 1)
    await scene.sweeper.sweep()
    assert len(scene.sent) == 1


async def test_a_job_published_twice_runs_once(
    database: Database, scene: Scene, worker: PlayedWorker
) -> None:
    """Sweeping at a wrong moment is harmless: the second claim finds nothing to do."""
    (job_id,) = await submit(database)
    await scene.sweeper.sweep()
    await scene.sweeper.sweep()
    claim = await worker.claim(job_id)
    assert claim.run_epoch == 1
    with pytest.raises(AssertionError, match="NothingToDo"):
        await worker.claim(job_id)
