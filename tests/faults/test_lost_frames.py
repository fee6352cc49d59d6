"""P1, P5, P9: what passes between a server and its broker is lost, doubled, late, out of order."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID

import aio_pika
import pytest
from pydantic import SecretStr

from headway.v1 import SubmitJobRequest, WatchJobRequest
from headway_core import publishing, runs
from headway_core.database import Database
from headway_core.hints import EventHint, HintPublisher
from headway_core.job import JobError, Progress
from headway_core.outcomes import Failed, Succeeded
from headway_core.topology import JOBS_EXCHANGE, job_queue
from tests.faults.broker import QUEUE
from tests.faults.history import check
from tests.faults.proxy import Deed, Proxy, proxied
from tests.faults.waiting import promised, until
from tests.service.broker import looking
from tests.service.serving import Served, serving
from tests.service.worker import PlayedWorker

TYPE = "test.job"
SILENCE_SECONDS_MAX = 15.0
LATE_SECONDS = 1.0
LAG_SECONDS_MAX = 5.0
STEPS = 30


@pytest.fixture
async def amqp_proxy(amqp_url: str) -> AsyncIterator[Proxy]:
    async with proxied(amqp_url) as proxy:
        yield proxy


@pytest.fixture
async def served(database_url: str, amqp_proxy: Proxy) -> AsyncIterator[Served]:
    async with serving(database_url, amqp_proxy.url) as found:
        await until(lambda: found.running.publisher.ready, "it publishes")
        yield found


async def _submit(served: Served) -> UUID:
    response = await served.stub.SubmitJob(SubmitJobRequest(type=TYPE))
    return UUID(response.job.id)


@pytest.mark.parametrize("frame", ["< basic.ack", "> basic.publish"])
async def test_a_publish_cut_off_at_any_frame_is_repeated(
    served: Served, amqp_url: str, amqp_proxy: Proxy, database: Database, frame: str
) -> None:
    """P1, P9: the connection is reset at the message, or at its confirm: its row stays."""
    fault = amqp_proxy.on(frame, Deed.RESET, only="relay")
    job_id = await _submit(served)
    await until(fault.struck.is_set, "the frame comes by")
    await until(lambda: _outbox_empty(database), "the row is published after all")
    async with looking(amqp_url) as broker:
        arrived = [message.job_id for message in await broker.take()]
    assert str(job_id) in arrived
    assert not await check(database, at_rest=False, accepted=[job_id])


async def test_a_late_confirm_is_a_confirm(
    served: Served, amqp_proxy: Proxy, database: Database
) -> None:
    """P1: the row stays until then, and is not published twice."""
    fault = amqp_proxy.on("< basic.ack", Deed.DELAY, only="relay", seconds=LATE_SECONDS)
    published = amqp_proxy.seen["> basic.publish"]
    job_id = await _submit(served)
    await until(fault.struck.is_set, "the confirm comes by")
    assert not await _outbox_empty(database)
    took = await until(lambda: _outbox_empty(database), "the row is deleted")
    assert took > LATE_SECONDS / 2
    assert amqp_proxy.seen["> basic.publish"] == published + 1
    assert not await check(database, at_rest=False, accepted=[job_id])


async def test_an_unroutable_message_is_no_confirmed_one(
    served: Served, amqp_url: str, amqp_proxy: Proxy, database: Database
) -> None:
    """P1: returned, and then acked, by a broker that has lost the binding; the row stays."""
    await _submit(served)  # with which the server has declared the queue
    await until(lambda: _outbox_empty(database), "the first one is published")
    async with await aio_pika.connect(amqp_url) as connection:
        queue = await (await connection.channel()).get_queue(job_queue(QUEUE))
        await queue.purge()
        await queue.unbind(JOBS_EXCHANGE, QUEUE)
        job_id = await _submit(served)
        await until(lambda: amqp_proxy.seen["< basic.return"] > 0, "it is returned")
        await until(lambda: _outbox_empty(database), "bound again, and published")
        message = await queue.get(no_ack=True)
    assert str(job_id) in message.body.decode()
    assert not await check(database, at_rest=False, accepted=[job_id])


@pytest.mark.parametrize("silence", [2.0, pytest.param(None, marks=pytest.mark.slow_faults)])
async def test_confirms_that_never_come_stop_no_relay_for_good(
    served: Served,
    amqp_proxy: Proxy,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    silence: float | None,
) -> None:
    """P1, P9: the connection lives, and the broker says nothing more about what it was given.

    Nothing is deleted unconfirmed, few copies are made, and after a while (20 s, as it is shipped)
    another connection is tried.
    """
    if silence is not None:
        monkeypatch.setattr(publishing, "SILENCE_SECONDS_MAX", silence)
    fault = amqp_proxy.on("< basic.ack", Deed.DROP, only="relay", times=10_000)
    job_ids = [await _submit(served) for _ in range(3)]
    await until(fault.struck.is_set, "a confirm comes by")
    await until(lambda: not served.running.publisher.ready, "it takes no more")
    assert await database.fetchval("SELECT count(*) FROM outbox") == 3
    amqp_proxy.forget(fault)
    took = await until(lambda: _outbox_empty(database), "published after all")
    bound = SILENCE_SECONDS_MAX + (0 if silence else publishing.SILENCE_SECONDS_MAX)
    promised("confirms come again -> published", took, bound)
    assert amqp_proxy.seen["> basic.publish"] <= 30
    assert not await check(database, at_rest=False, accepted=job_ids)


async def _outbox_empty(database: Database) -> bool:
    return bool(await database.fetchval("SELECT count(*) = 0 FROM outbox"))


async def test_lost_doubled_and_shuffled_hints_cost_a_watcher_nothing(
    served: Served, amqp_url: str, amqp_proxy: Proxy, database: Database
) -> None:
    """P5: every real hint is dropped on its way; others come twice, out of order, and of events
    that are not there yet. Each event comes once, in order, within the poll's second, and no
    snapshot is sent in its stead: an event that comes between two reads is not one that is gone.
    """
    dropped = amqp_proxy.on("< basic.deliver", Deed.DROP, only="listener", times=10_000)
    worker = await PlayedWorker.register(database, TYPE)
    job_id = await _submit(served)
    call = served.stub.WatchJob(WatchJobRequest(job_id=str(job_id), after_sequence=0))
    seen: list[int] = []

    async def read() -> None:
        async for response in call:
            if response.HasField("event"):
                seen.append(response.sequence)  # noqa: PERF401 - it is looked at meanwhile

    reading = asyncio.create_task(read())
    claim = await worker.claim(job_id)
    random = Random(7)
    mouth = HintPublisher(SecretStr(amqp_url), name="test")
    speaking = asyncio.create_task(mouth.run())
    await until(lambda: mouth.connected, "hints are sent")
    for number in range(STEPS):
        await worker.step(claim, f"step {number}")
        mouth.send(EventHint(job_id, number + 3, done=False))
        hints = [EventHint(job_id, random.randrange(1, number + 9), done=False) for _ in range(4)]
        for hint in hints + hints[:2]:
            served.running.hear(hint)
        if number % 10 == 0:
            await asyncio.sleep(0.05)
    assert isinstance(await worker.settle(claim, Succeeded(None)), runs.Settled)
    begun = time.monotonic()
    await reading
    promised("no hints: last event -> it is seen", time.monotonic() - begun, LAG_SECONDS_MAX)
    assert seen == list(range(1, len(seen) + 1))
    assert len(seen) >= STEPS + 3
    await until(dropped.struck.is_set, "a hint is dropped")
    speaking.cancel()
    await asyncio.gather(speaking, return_exceptions=True)


async def test_progress_of_a_worker_with_a_slow_clock_is_shown(
    served: Served, database: Database
) -> None:
    """P5: the run before was on a machine whose clock is ten minutes ahead.

    Only epochs, which the database counts, say what is newer.
    """
    worker = await PlayedWorker.register(database, TYPE)
    job_id = await _submit(served)
    call = served.stub.WatchJob(WatchJobRequest(job_id=str(job_id)))
    now = datetime.now(UTC)
    shown: list[float] = []
    watched = asyncio.Event()

    async def read() -> None:
        async for response in call:
            watched.set()
            if response.HasField("progress"):
                shown.append(response.progress.done)

    reading = asyncio.create_task(read())
    await watched.wait()  # progress that the snapshot shows is not shown again
    first = await worker.claim(job_id)
    await worker.save_progress(first, _progress(1, now + timedelta(minutes=10)))
    await until(lambda: shown == [1], "progress of the first run")
    await worker.settle(first, Failed(JobError("E", "bad", retryable=True)))
    await database.execute("UPDATE jobs SET wait_time = clock_timestamp()")
    second = await worker.claim(job_id)
    await worker.save_progress(second, _progress(2, now))
    await until(lambda: shown == [1, 2], "progress of the second run")
    await worker.settle(second, Succeeded(None))
    await reading


def _progress(done: float, time_: datetime) -> Progress:
    fields: dict[str, Any] = {"done": done, "total": 10.0, "update_time": time_}
    return Progress(**fields)
