"""WatchJob: every event in order, the newest progress, and an end at the right time."""

import asyncio
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from pydantic import SecretStr
from uuid_utils.compat import uuid7

from headway.v1 import (
    CancelJobRequest,
    JobEventType,
    JobState,
    ReplayDeadLetterRequest,
    RetryPolicy,
    SubmitJobRequest,
    WatchJobRequest,
    WatchJobResponse,
)
from headway_core import events
from headway_core.database import Database
from headway_core.hint_codec import EventHint, ProgressHint
from headway_core.hints import HintPublisher
from headway_core.job import JobError, Progress
from headway_core.outcomes import Failed
from headway_server import service, watching
from headway_server.errors import SlowReader
from headway_server.validate import Watching
from tests.service.conftest import JOB_TYPE
from tests.service.eventually import eventually, running_beside
from tests.service.proxy import proxied
from tests.service.serving import Served, refusal, serving
from tests.service.worker import PlayedWorker

SECONDS = 60


async def submit(served: Served, **fields: Any) -> str:
    job_id: str = (await served.stub.SubmitJob(SubmitJobRequest(type=JOB_TYPE, **fields))).job.id
    return job_id


def watch(served: Served, job_id: str, **fields: Any) -> Any:
    return served.stub.WatchJob(WatchJobRequest(job_id=job_id, **fields), timeout=60)


async def rest(call: Any, *, seconds: float = SECONDS) -> list[WatchJobResponse]:
    """All that still comes. grpc.aio lets nobody mix `read` and `async for` on one call."""
    found: list[WatchJobResponse] = []
    async with asyncio.timeout(seconds):
        while (response := await call.read()) is not grpc.aio.EOF:
            found.append(response)
    if await call.code() is not grpc.StatusCode.OK:
        raise AssertionError(await call.code())
    return found


async def next_of(call: Any, kind: str) -> WatchJobResponse:
    """The next response of a kind; others in between are passed over."""
    async with asyncio.timeout(SECONDS):
        while True:
            response = await call.read()
            assert response is not grpc.aio.EOF, "the stream has ended"
            if response.WhichOneof("update") == kind:
                found: WatchJobResponse = response
                return found


def kinds(responses: list[WatchJobResponse]) -> list[str]:
    """What came, events by their type's name."""
    return [
        JobEventType.Name(response.event.type).removeprefix("JOB_EVENT_TYPE_")
        if response.WhichOneof("update") == "event"
        else str(response.WhichOneof("update"))
        for response in responses
    ]


def progress(done: float, *, second: float = 0.0) -> Progress:
    """Progress reported `second` seconds after some moment."""
    moment = datetime.now(UTC).replace(second=0, microsecond=0)
    return Progress(update_time=moment + timedelta(seconds=second), done=done, total=10)


def hear_progress(served: Served, job_id: str, epoch: int, report: Progress) -> None:
    served.running.hub.hear(ProgressHint(UUID(job_id), epoch, report))


async def test_a_watch_is_a_snapshot_then_every_event_to_the_end(
    served: Served, worker: PlayedWorker
) -> None:
    """Without a gap, with the result on the last one, and then OK."""
    job_id = await submit(served)
    call = watch(served, job_id)
    snapshot = await next_of(call, "snapshot")
    assert snapshot.snapshot.id == job_id
    assert not snapshot.reset
    claim = await worker.claim(job_id)
    await worker.step(claim, "fetch")
    await worker.settle(claim, Failed(JobError("ValueError", "x", retryable=True)))
    await served.stub.CancelJob(CancelJobRequest(job_id=job_id, reason="enough"))
    responses = await rest(call)
    found = [response for response in responses if response.WhichOneof("update") == "event"]
    assert [response.sequence for response in found] == list(
        range(snapshot.sequence + 1, snapshot.sequence + 1 + len(found))
    )
    assert [response.event.sequence for response in found] == [r.sequence for r in found]
    assert [kind for kind in kinds(responses) if kind != "QUEUED"] == [
        "STARTED",
        "STEP_COMPLETED",
        "RETRY_SCHEDULED",
        "CANCELLED",
    ]
    assert found[-1].event.job.state == JobState.JOB_STATE_CANCELLED
    assert found[-1].event.message == "enough"
    assert await call.code() is grpc.StatusCode.OK


async def test_an_event_shows_the_job_as_of_then(served: Served, worker: PlayedWorker) -> None:
    """Not today's row; the result comes with COMPLETED alone."""
    job_id = await submit(served, labels={"a": "b"})
    await worker.complete(job_id, {"pages": 12})
    history = await rest(watch(served, job_id, after_sequence=0))
    first, last = history[0].event.job, history[-1].event.job
    assert first.state == JobState.JOB_STATE_PENDING
    assert not first.done
    assert not first.HasField("result")
    assert dict(first.labels) == {"a": "b"}
    assert last.state == JobState.JOB_STATE_COMPLETED
    assert last.result.json["pages"] == 12
    assert not last.HasField("payload")


async def test_a_watch_resumes_after_any_sequence(served: Served, worker: PlayedWorker) -> None:
    """0 is the whole history; the last one of a done job is an end with nothing."""
    job_id = await submit(served)
    await worker.complete(job_id)
    whole = await rest(watch(served, job_id, after_sequence=0))
    assert kinds(whole)[0] == "SUBMITTED"
    assert kinds(whole)[-1] == "COMPLETED"
    numbers = [response.sequence for response in whole]
    assert numbers == list(range(1, len(whole) + 1))
    for after in range(1, len(whole) + 1):
        part = await rest(watch(served, job_id, after_sequence=after))
        assert [response.sequence for response in part] == numbers[after:]


async def test_the_snapshot_of_a_done_job_is_all(served: Served, worker: PlayedWorker) -> None:
    """Its last event is in it."""
    job_id = await submit(served)
    await worker.complete(job_id)
    (only,) = await rest(watch(served, job_id))
    assert only.snapshot.done
    assert only.sequence == only.snapshot.sequence


async def test_a_sequence_that_never_was_is_refused(served: Served) -> None:
    """Waiting for it would skip the events before it."""
    job_id = await submit(served)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await rest(watch(served, job_id, after_sequence=7))
    found = refusal(caught.value)
    assert found.code is grpc.StatusCode.INVALID_ARGUMENT
    assert found.fields.keys() == {"after_sequence"}


async def test_an_unknown_job_cannot_be_watched(served: Served) -> None:
    """NOT_FOUND, with or without a sequence."""
    for fields in ({}, {"after_sequence": 0}):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await rest(watch(served, str(uuid7()), **fields))
        assert refusal(caught.value).reason == "JOB_NOT_FOUND"


async def test_a_watch_ends_at_a_death_unless_a_replay_follows(
    served: Served, worker: PlayedWorker
) -> None:
    """A stream at the DEAD ends there; one that reads the history later goes on."""
    job_id = await submit(served)
    call = watch(served, job_id)
    await next_of(call, "snapshot")
    await worker.kill(job_id)
    assert kinds(await rest(call))[-1] == "DEAD"
    await served.stub.ReplayDeadLetter(ReplayDeadLetterRequest(job_id=job_id))
    call = watch(served, job_id, after_sequence=0)
    replayed = await next_of(call, "event")
    while replayed.event.type != JobEventType.JOB_EVENT_TYPE_REPLAYED:
        replayed = await next_of(call, "event")
    await worker.complete(job_id)
    assert kinds(await rest(call))[-1] == "COMPLETED"


async def test_a_failed_attempt_is_not_the_end(served: Served, worker: PlayedWorker) -> None:
    """FAILED waits for its retry, and so does the watch."""
    policy = RetryPolicy(initial_backoff=Duration(nanos=1000))
    job_id = await submit(served, retry_policy=policy)
    call = watch(served, job_id, after_sequence=0)
    claim = await worker.claim(job_id)
    await worker.settle(claim, Failed(JobError("ValueError", "x", retryable=True)))
    while (await next_of(call, "event")).event.type != JobEventType.JOB_EVENT_TYPE_RETRY_SCHEDULED:
        pass
    await worker.complete(job_id)
    assert kinds(await rest(call))[-1] == "COMPLETED"


async def test_with_every_hint_lost_events_come_by_the_poll(
    database_url: str, amqp_url: str, database: Database
) -> None:
    """Hints only wake; the poll, once a second, is the guarantee."""
    async with proxied(amqp_url) as (proxy, through):
        proxy.cut()
        async with serving(database_url, through) as served:
            worker = await PlayedWorker.register(database, JOB_TYPE)
            job_id = await submit(served)
            call = watch(served, job_id)
            await next_of(call, "snapshot")
            await worker.complete(job_id)
            # Sooner than a bookmark, which comes every 15 s.
            assert kinds(await rest(call, seconds=10)) == ["STARTED", "COMPLETED"]


async def test_a_hint_brings_events_before_the_poll(
    served: Served, amqp_url: str, worker: PlayedWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the broker, from another process as it were."""

    async def never(*_: object) -> dict[UUID, events.Head]:
        return {}

    monkeypatch.setattr(events, "heads", never)
    hints = HintPublisher(SecretStr(amqp_url), name="test")
    job_id = await submit(served)
    call = watch(served, job_id)
    await next_of(call, "snapshot")
    claim = await worker.claim(job_id)

    async def send(hint: EventHint | ProgressHint) -> None:
        while True:  # one from before the server's subscription is lost
            hints.send(hint)
            await asyncio.sleep(0.1)

    async with running_beside(hints.run()):
        async with running_beside(send(EventHint(UUID(job_id), claim.sequence, done=False))):
            while (await next_of(call, "event")).event.type != JobEventType.JOB_EVENT_TYPE_STARTED:
                pass
        async with running_beside(send(ProgressHint(UUID(job_id), claim.run_epoch, progress(3)))):
            assert (await next_of(call, "progress")).progress.done == 3
    call.cancel()


async def test_progress_comes_after_its_run_has_started(
    served: Served, worker: PlayedWorker
) -> None:
    """A hint may be faster than the event; the event is sent first all the same."""
    job_id = await submit(served)
    call = watch(served, job_id)
    await next_of(call, "snapshot")
    claim = await worker.claim(job_id)
    hear_progress(served, job_id, claim.run_epoch, progress(1))
    responses = [await next_of(call, "event")]
    while responses[-1].event.type != JobEventType.JOB_EVENT_TYPE_STARTED:
        responses.append(await next_of(call, "event"))
    found = await next_of(call, "progress")
    assert found.progress.done == 1
    assert found.sequence == responses[-1].sequence, "progress takes no number"
    call.cancel()


async def test_progress_of_an_older_run_is_dropped(served: Served, worker: PlayedWorker) -> None:
    """A zombie may go on reporting; nobody sees it."""
    job_id = await submit(served, retry_policy=RetryPolicy(initial_backoff=Duration(nanos=1000)))
    old = await worker.claim(job_id)
    await worker.settle(old, Failed(JobError("ValueError", "x", retryable=True)))
    new = await worker.claim(job_id)
    call = watch(served, job_id)
    await next_of(call, "snapshot")
    hear_progress(served, job_id, new.run_epoch, progress(2, second=1))
    assert (await next_of(call, "progress")).progress.done == 2
    hear_progress(served, job_id, old.run_epoch, progress(9, second=2))
    hear_progress(served, job_id, new.run_epoch, progress(3, second=3))
    assert (await next_of(call, "progress")).progress.done == 3
    call.cancel()


async def test_progress_is_sent_at_most_as_often_as_asked_the_newest_last(
    served: Served, worker: PlayedWorker
) -> None:
    """Fifty reports at once are one or two messages, and none is older than the one before."""
    job_id = await submit(served)
    claim = await worker.claim(job_id)
    call = watch(served, job_id, min_progress_interval=Duration(nanos=300_000_000))
    await next_of(call, "snapshot")
    loop = asyncio.get_running_loop()
    begun = loop.time()
    for n in range(50):
        hear_progress(served, job_id, claim.run_epoch, progress(n, second=n / 100))
        await asyncio.sleep(0)
    found = [(await next_of(call, "progress")).progress.done]
    if found[0] != 49:
        found.append((await next_of(call, "progress")).progress.done)
        assert loop.time() - begun > 0.25
    assert found == sorted(found)
    assert found[-1] == 49
    call.cancel()


async def test_progress_on_the_row_is_found_by_the_poll(
    served: Served, worker: PlayedWorker
) -> None:
    """What was lost as a hint and is stored now and then comes with the poll."""
    job_id = await submit(served)
    claim = await worker.claim(job_id)
    call = watch(served, job_id)
    await next_of(call, "snapshot")
    await worker.save_progress(claim, progress(5))
    found = (await next_of(call, "progress")).progress
    assert (found.done, found.total) == (5, 10)
    call.cancel()


async def test_events_that_are_gone_become_a_snapshot_marked_reset(
    served: Served, worker: PlayedWorker, database: Database
) -> None:
    """Too old a sequence is no error: the job as it stands, then what follows."""
    job_id = await submit(served)
    claim = await worker.claim(job_id)
    for n in range(3):
        await worker.step(claim, str(n))
    await database.execute(
        "DELETE FROM job_events WHERE sequence <= (SELECT max(sequence) - 1 FROM job_events)"
    )
    call = watch(served, job_id, after_sequence=1)
    reset = await next_of(call, "snapshot")
    assert reset.reset
    assert reset.snapshot.state == JobState.JOB_STATE_RUNNING
    await worker.step(claim, "last")
    following = await next_of(call, "event")
    assert following.sequence == reset.sequence + 1
    call.cancel()
    await database.execute("DELETE FROM job_events")
    call = watch(served, job_id, after_sequence=1)
    assert (await next_of(call, "snapshot")).reset, "also if nothing at all is left"
    call.cancel()


async def test_a_drain_sends_watchers_elsewhere_at_once(database_url: str, amqp_url: str) -> None:
    """An idle stream would hold the server for its whole grace."""
    async with serving(database_url, amqp_url, HEADWAY_DRAIN_SECONDS="600") as served:
        calls = [watch(served, await submit(served)) for _ in range(20)]
        for call in calls:
            await next_of(call, "snapshot")
        served.running.hub.drain()
        for call in calls:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await rest(call)
            found = refusal(caught.value)
            assert found.code is grpc.StatusCode.UNAVAILABLE
            assert found.reason == "SERVER_DRAINING"
            assert found.details.keys() == {"RetryInfo"}
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await rest(watch(served, await submit(served)))
        assert refusal(caught.value).reason == "SERVER_DRAINING"


async def test_a_reader_that_goes_away_leaves_nothing_behind(
    served: Served, worker: PlayedWorker
) -> None:
    """Five hundred watches, cancelled: no subscription is left."""
    job_ids = [await submit(served) for _ in range(5)]
    calls = [watch(served, job_ids[n % 5]) for n in range(500)]
    for call in calls:
        await next_of(call, "snapshot")
    assert served.running.hub.watched == 5
    for call in calls:
        call.cancel()
    await eventually(lambda: served.running.hub.watched == 0)


@pytest.mark.alone
async def test_a_storm_of_watchers_is_served(served: Served) -> None:
    """Two thousand streams that come back at once, as after a restart: none is turned away."""
    job_id = await submit(served)
    calls = [watch(served, job_id, after_sequence=0) for _ in range(2000)]
    async with asyncio.timeout(60):
        firsts = await asyncio.gather(*(call.read() for call in calls))
    assert {first.sequence for first in firsts} == {1}
    for call in calls:
        call.cancel()
    await eventually(lambda: served.running.hub.watched == 0)


async def test_watchers_of_one_job_share_their_reads(
    served: Served, worker: PlayedWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred watchers read an event from Postgres a few times, not a hundred."""
    reads = 0
    after = events.after

    async def counted(*args: Any, **kwargs: Any) -> list[events.Event]:
        nonlocal reads
        reads += 1
        return await after(*args, **kwargs)

    job_id = await submit(served)
    calls = [watch(served, job_id) for _ in range(100)]
    for call in calls:
        await next_of(call, "snapshot")
    monkeypatch.setattr(events, "after", counted)
    await worker.complete(job_id)
    for found in await asyncio.gather(*(rest(call) for call in calls)):
        assert kinds(found)[-1] == "COMPLETED"
    assert reads < 10


async def test_a_slow_reader_gets_every_event_and_then_is_let_go(
    database_url: str, amqp_url: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Megabytes of history that nobody reads: bounded memory, UNAVAILABLE, no gap after."""
    patience = timedelta(seconds=1)
    monkeypatch.setattr(service, "watch", partial(watching.watch, write_patience=patience))
    async with serving(database_url, amqp_url) as served:
        worker = await PlayedWorker.register(database, JOB_TYPE)
        labels = {f"label-{n}": "x" * 256 for n in range(32)}
        job_id = await submit(served, labels=labels)
        claim = await worker.claim(job_id)
        for n in range(1200):
            await worker.step(claim, f"step-{n}")
        call = watch(served, job_id, after_sequence=0)
        first = await next_of(call, "event")
        assert first.sequence == 1
        await eventually(lambda: served.running.hub.watched == 0)
        numbers = [first.sequence]

        async def read_on() -> None:
            while (response := await call.read()) is not grpc.aio.EOF:
                numbers.append(response.sequence)

        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await read_on()
        found = refusal(caught.value)
        assert found.code is grpc.StatusCode.UNAVAILABLE
        assert found.reason == "SLOW_READER"
        assert len(numbers) < 1200
        call = watch(served, job_id, after_sequence=numbers[-1])
        while numbers[-1] < 1202:
            numbers.append((await next_of(call, "event")).sequence)
        assert numbers == list(range(1, numbers[-1] + 1))
        call.cancel()


async def test_an_idle_stream_bears_bookmarks(served: Served, worker: PlayedWorker) -> None:
    """So that proxies keep it and a client sees that it lives."""
    job_id = await submit(served)
    await worker.claim(job_id)
    sent: list[WatchJobResponse] = []

    async def write(response: WatchJobResponse) -> None:
        sent.append(response)

    asked = Watching(UUID(job_id), None, timedelta(0))
    stream = watching.watch(
        served.running.hub, asked, write, bookmark_interval=timedelta(milliseconds=50)
    )
    async with running_beside(stream):
        await eventually(lambda: kinds(sent)[-2:] == ["bookmark", "bookmark"])
    assert sent[-1].sequence == sent[0].sequence


async def test_a_write_that_hangs_ends_the_stream(served: Served, worker: PlayedWorker) -> None:
    """Nothing is read ahead for a reader that does not read."""
    job_id = await submit(served)

    async def write(_: WatchJobResponse) -> None:
        await asyncio.Event().wait()

    asked = Watching(UUID(job_id), None, timedelta(0))
    with pytest.raises(SlowReader):
        await watching.watch(
            served.running.hub, asked, write, write_patience=timedelta(milliseconds=50)
        )
    assert served.running.hub.watched == 0


async def test_a_hint_for_an_event_that_is_not_there_does_no_harm(
    served: Served, worker: PlayedWorker
) -> None:
    """A sequence from nowhere: looked up once, then forgotten."""
    job_id = await submit(served)
    call = watch(served, job_id)
    await next_of(call, "snapshot")
    served.running.hub.hear(EventHint(UUID(job_id), 10**9, done=False))
    await worker.complete(job_id)
    assert kinds(await rest(call))[-1] == "COMPLETED"
