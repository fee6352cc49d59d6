"""From the outbox to the broker, with it and without it."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from functools import partial
from uuid import UUID

import pytest
from google.protobuf.duration_pb2 import Duration

from headway.v1 import (
    BatchSubmitJobsRequest,
    GetJobRequest,
    JobState,
    ReplayDeadLetterRequest,
    SubmitJobRequest,
)
from headway_core import events, outbox, submissions
from headway_core.database import Connection, Database
from headway_core.errors import StoreUnavailable
from headway_core.hint_codec import OutboxHint
from headway_core.job import Dispatch
from headway_core.publishing import Publisher
from headway_server import relay as relay_module
from headway_server.relay import Relay
from tests.service.broker import looking
from tests.service.conftest import JOB_TYPE
from tests.service.eventually import eventually
from tests.service.proxy import proxied
from tests.service.serving import Served, serving
from tests.service.worker import PlayedWorker


async def rows(database: Database) -> int:
    found = await database.fetchval("SELECT count(*) FROM outbox")
    assert isinstance(found, int)
    return found


async def state(served: Served, job_id: str) -> int:
    found: int = (await served.stub.GetJob(GetJobRequest(job_id=job_id))).job.state
    return found


async def ready(served: Served) -> None:
    await eventually(lambda: served.running.publisher.ready)


async def test_a_submitted_job_is_at_the_broker_and_then_queued(
    served: Served, amqp_url: str, database: Database
) -> None:
    """Published with its priority, its row deleted, its state marked a little later."""
    await ready(served)
    job = (await served.stub.SubmitJob(SubmitJobRequest(type=JOB_TYPE, priority=7))).job
    await eventually(lambda: _is(state(served, job.id), JobState.JOB_STATE_QUEUED))
    assert await rows(database) == 0
    async with looking(amqp_url) as broker:
        (arrived,) = await broker.take()
    assert (arrived.job_id, arrived.dispatch_no, arrived.priority) == (job.id, 1, 7)


async def test_a_server_that_goes_leaves_no_message_without_its_mark(
    database_url: str, amqp_url: str, database: Database
) -> None:
    """The next server's sweep would take them for lost and send them again."""
    async with serving(database_url, amqp_url) as served:
        await ready(served)
        requests = [SubmitJobRequest(type=JOB_TYPE)] * 500
        await served.stub.BatchSubmitJobs(BatchSubmitJobsRequest(requests=requests))
    states = await database.fetch(
        "SELECT state, EXISTS (SELECT FROM outbox WHERE outbox.job_id = jobs.id) AS stays FROM jobs"
    )
    assert {(row["state"] == JobState.JOB_STATE_QUEUED, row["stays"]) for row in states} <= {
        (True, False),
        (False, True),
    }


async def test_a_job_that_has_started_is_not_marked(
    served: Served, worker: PlayedWorker, database: Database
) -> None:
    """STARTED right after SUBMITTED: no event in between for what nobody could see."""
    await ready(served)
    job = (await served.stub.SubmitJob(SubmitJobRequest(type=JOB_TYPE))).job
    await worker.claim(job.id)
    await eventually(lambda: _is(rows(database), 0))
    await asyncio.sleep(0.2)  # nothing is to happen, so there is nothing to wait for
    history = await events.after(database, UUID(job.id), 0, limit=10)
    assert [event.type.name for event in history] == ["SUBMITTED", "STARTED"]


async def test_what_the_fast_path_leaves_is_found_by_the_poller(
    database_url: str, amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a crash between the commit and the publish."""
    monkeypatch.setattr(Relay, "dispatch", lambda self, dispatches: None)
    async with serving(database_url, amqp_url) as served:
        await ready(served)
        job = (await served.stub.SubmitJob(SubmitJobRequest(type=JOB_TYPE))).job
        await eventually(lambda: _is(state(served, job.id), JobState.JOB_STATE_QUEUED))


async def test_a_backlog_is_published_in_order_of_priority(
    database_url: str, amqp_url: str, database: Database
) -> None:
    """A thousand rows that wait: batch upon batch without a pause, each message once."""
    async with proxied(amqp_url) as (proxy, through):
        proxy.cut()
        async with serving(database_url, through) as served:
            for priority in (1, 9):
                requests = [SubmitJobRequest(type=JOB_TYPE, priority=priority)] * 500
                await served.stub.BatchSubmitJobs(BatchSubmitJobsRequest(requests=requests))
            assert await rows(database) == 1000
            proxy.heal()
            await eventually(lambda: _is(rows(database), 0))
            async with looking(amqp_url) as broker:
                await eventually(lambda: _is(broker.count(), 1000))
                arrived = await broker.take()
    assert len({message.job_id for message in arrived}) == 1000
    assert [message.priority for message in arrived] == [9] * 500 + [1] * 500


async def test_with_the_broker_away_submits_are_accepted_and_run_later(
    database_url: str, amqp_url: str, database: Database
) -> None:
    """The server starts, answers at once, keeps the rows, and publishes when the broker is back."""
    async with proxied(amqp_url) as (proxy, through):
        proxy.cut()
        async with serving(database_url, through) as served:
            for _ in range(20):
                await served.stub.SubmitJob(SubmitJobRequest(type=JOB_TYPE))
            assert await rows(database) == 20
            proxy.heal()
            await eventually(lambda: _is(rows(database), 0))
            proxy.cut()
            job = (await served.stub.SubmitJob(SubmitJobRequest(type=JOB_TYPE))).job
            assert await state(served, job.id) == JobState.JOB_STATE_PENDING
            proxy.heal()
            await eventually(lambda: _is(state(served, job.id), JobState.JOB_STATE_QUEUED))


async def test_a_server_starts_with_wrong_broker_credentials(
    database_url: str, amqp_url: str
) -> None:
    """It says so and keeps trying; callers are served."""
    wrong = amqp_url.replace("://", "://nobody-", 1)
    async with serving(database_url, wrong) as served:
        await eventually(lambda: "refuses" in (served.running.publisher.trouble or ""))
        assert (await served.stub.SubmitJob(SubmitJobRequest(type=JOB_TYPE))).created


async def test_a_delayed_job_is_published_when_it_is_due(
    served: Served, amqp_url: str, database: Database
) -> None:
    """Not before, and within the poll after."""
    await ready(served)
    request = SubmitJobRequest(type=JOB_TYPE, delay=Duration(seconds=1))
    await served.stub.SubmitJob(request)
    async with looking(amqp_url) as broker:
        await asyncio.sleep(0.5)
        assert await broker.count() == 0
        await eventually(lambda: _is(broker.count(), 1))


async def test_a_replayed_job_is_published_again(
    served: Served, worker: PlayedWorker, amqp_url: str
) -> None:
    """At once, with the next dispatch number."""
    await ready(served)
    job = (await served.stub.SubmitJob(SubmitJobRequest(type=JOB_TYPE))).job
    await eventually(lambda: _is(state(served, job.id), JobState.JOB_STATE_QUEUED))
    async with looking(amqp_url) as broker:
        assert len(await broker.take()) == 1
        await worker.kill(job.id)
        await served.stub.ReplayDeadLetter(ReplayDeadLetterRequest(job_id=job.id))
        await eventually(lambda: _is(broker.count(), 1))
        (arrived,) = await broker.take()
    assert arrived.dispatch_no == 2


async def test_a_hint_wakes_the_poller(
    served: Served, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker's retry that is due at once does not wait for the poll."""
    await ready(served)
    monkeypatch.setattr(Relay, "dispatch", lambda self, dispatches: None)
    monkeypatch.setattr(relay_module, "POLL", relay_module.POLL * 1000)
    await asyncio.sleep(0.5)  # the pause under way ends, the next one is long
    job = (await served.stub.SubmitJob(SubmitJobRequest(type=JOB_TYPE))).job
    await database.execute("UPDATE outbox SET reserved_until = NULL")
    served.running.hear(OutboxHint())
    await eventually(lambda: _is(state(served, job.id), JobState.JOB_STATE_QUEUED))


async def test_a_queue_that_cannot_be_published_to_does_not_hold_up_the_others(
    database_url: str, amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six hundred urgent rows for a queue with foreign properties, then one for a sound one."""
    async with looking(amqp_url) as broker:
        await broker.declare_foreign("bad")
    monkeypatch.setattr(Relay, "dispatch", lambda self, dispatches: None)
    async with serving(database_url, amqp_url) as served:
        await ready(served)
        requests = [SubmitJobRequest(type=JOB_TYPE, queue="bad", priority=9)] * 600
        await served.stub.BatchSubmitJobs(BatchSubmitJobsRequest(requests=requests))
        job = (await served.stub.SubmitJob(SubmitJobRequest(type=JOB_TYPE, priority=1))).job
        await eventually(lambda: _is(state(served, job.id), JobState.JOB_STATE_QUEUED))
        assert served.running.publisher.mismatches.keys() == {"bad"}


def hold_first_publish(
    monkeypatch: pytest.MonkeyPatch, *, until: Callable[[], Awaitable[object]]
) -> asyncio.Event:
    """From now on the first publish waits before it begins; the event is set meanwhile."""
    publish, held = Publisher.publish, asyncio.Event()

    async def publish_later(self: Publisher, dispatches: Sequence[Dispatch]) -> list[bool]:
        if not held.is_set():
            held.set()
            await until()
        return await publish(self, dispatches)

    monkeypatch.setattr(Publisher, "publish", publish_later)
    return held


async def test_a_publish_that_hangs_does_not_hold_up_the_next_one(
    served: Served, amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody else may publish the second job here: its row stays reserved for the fast path."""
    monkeypatch.setattr(submissions, "FAST_PATH", timedelta(minutes=5))
    monkeypatch.setattr(relay_module, "FAST_AGE_SECONDS_MAX", 300)
    await ready(served)
    go_on = asyncio.Event()
    held = hold_first_publish(monkeypatch, until=go_on.wait)
    await served.stub.SubmitJob(SubmitJobRequest(type=JOB_TYPE))
    await held.wait()
    await served.stub.SubmitJob(SubmitJobRequest(type=JOB_TYPE))
    async with looking(amqp_url) as broker:
        await eventually(lambda: _is(broker.count(), 1))
        go_on.set()
        await eventually(lambda: _is(broker.count(), 2))


@pytest.mark.alone
async def test_what_waits_while_the_broker_stands_still_is_published_after_it(
    served: Served, amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second is no reason to leave it to a poller, which would wait for its reservation's end."""
    monkeypatch.setattr(submissions, "FAST_PATH", timedelta(minutes=5))
    monkeypatch.setattr(relay_module, "FAST_TURN_SECONDS", 60)
    await ready(served)
    held = hold_first_publish(monkeypatch, until=partial(asyncio.sleep, 1.2))
    await served.stub.SubmitJob(SubmitJobRequest(type=JOB_TYPE))
    await held.wait()
    await served.stub.SubmitJob(SubmitJobRequest(type=JOB_TYPE))
    async with looking(amqp_url) as broker:
        await eventually(lambda: _is(broker.count(), 2))


async def test_two_relays_share_the_rows(
    database_url: str, amqp_url: str, database: Database
) -> None:
    """SKIP LOCKED: every message once, whichever publishes it."""
    async with proxied(amqp_url) as (proxy, through):
        proxy.cut()
        async with serving(database_url, through) as first, serving(database_url, through):
            requests = [SubmitJobRequest(type=JOB_TYPE)] * 1000
            await first.stub.BatchSubmitJobs(BatchSubmitJobsRequest(requests=requests))
            proxy.heal()
            await eventually(lambda: _is(rows(database), 0))
            async with looking(amqp_url) as broker:
                await eventually(lambda: _is(broker.count(), 1000))
                assert len({message.job_id for message in await broker.take()}) == 1000


async def test_rows_survive_a_delete_that_fails(
    served: Served, amqp_url: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Published, but not deleted: published again, which a claim absorbs."""
    await ready(served)
    delete = outbox.delete

    async def delete_by_pollers_alone(source: Connection | Database, rows: Sequence[int]) -> None:
        if isinstance(source, Database):
            raise StoreUnavailable("gone")
        await delete(source, rows)

    monkeypatch.setattr(outbox, "delete", delete_by_pollers_alone)
    job = (await served.stub.SubmitJob(SubmitJobRequest(type=JOB_TYPE))).job
    await eventually(lambda: _is(rows(database), 0))
    async with looking(amqp_url) as broker:
        arrived = await broker.take()
    assert [message.job_id for message in arrived] == [job.id, job.id]


async def _is(found: object, wanted: object) -> bool:
    return await found == wanted  # type: ignore[misc, no-any-return]
