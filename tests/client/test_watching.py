"""A watch resumes by itself, skips nothing and repeats nothing."""

import asyncio
import contextlib
from collections.abc import Callable
from contextlib import aclosing

import grpc
import pytest

from headway import (
    Bookmark,
    Client,
    Event,
    EventType,
    JobNotFound,
    JobState,
    Progress,
    SequenceGap,
    ServerDefect,
    Snapshot,
    SyncClient,
    Unavailable,
    Update,
    v1,
)
from headway import cursor as rules
from tests.client.scripted_server import (
    Fault,
    ScriptedJob,
    ScriptedServer,
    ScriptedService,
    error_info,
)

WITHIN = 20


async def until(reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(WITHIN):
        while not reached():  # noqa: ASYNC110 - the state is the scripted server's, without events
            await asyncio.sleep(0.01)


def sequences(updates: list[Update]) -> list[int]:
    return [update.sequence for update in updates if isinstance(update, Event)]


async def collect(client: Client, job_id: str, **arguments: object) -> list[Update]:
    async with asyncio.timeout(WITHIN), aclosing(client.watch(job_id, **arguments)) as updates:
        return [update async for update in updates]


async def history(scripted: ScriptedJob, steps: int) -> None:
    """STARTED, `steps` finished steps, COMPLETED."""
    await scripted.start()
    for number in range(steps):
        await scripted.event("STEP_COMPLETED", "RUNNING", f"step {number}")
        await scripted.advance(number + 1, steps)
    await scripted.complete(pages=12)


async def until_streams(service: ScriptedService, count: int) -> None:
    await until(lambda: service.streams >= count and service.open_streams > 0)


async def test_watch_begins_with_a_snapshot_and_ends_when_done(
    client: Client, service: ScriptedService
) -> None:
    scripted = await service.add()
    watching = asyncio.create_task(collect(client, scripted.job.id))
    await until_streams(service, 1)
    await history(scripted, 3)
    updates = await watching
    assert isinstance(updates[0], Snapshot)
    assert updates[0].sequence == 1
    assert updates[0].job.state is JobState.PENDING
    assert sequences(updates) == [2, 3, 4, 5, 6]
    last = updates[-1]
    assert isinstance(last, Event)
    assert last.type is EventType.COMPLETED
    assert last.job.result == {"pages": 12}
    assert isinstance(last.job.result["pages"], int)


async def test_watch_of_a_done_job_is_its_snapshot(
    client: Client, service: ScriptedService
) -> None:
    scripted = await service.add()
    await history(scripted, 1)
    (only,) = await collect(client, scripted.job.id)
    assert isinstance(only, Snapshot)
    assert only.job.done


async def test_after_sequence_0_gives_the_whole_history(
    client: Client, service: ScriptedService
) -> None:
    scripted = await service.add()
    await history(scripted, 2)
    updates = await collect(client, scripted.job.id, after_sequence=0)
    assert sequences(updates) == [1, 2, 3, 4, 5]
    assert not any(isinstance(update, Snapshot) for update in updates)


async def test_after_the_last_sequence_of_a_done_job_nothing_comes(
    client: Client, service: ScriptedService
) -> None:
    scripted = await service.add()
    await history(scripted, 0)
    assert await collect(client, scripted.job.id, after_sequence=3) == []


@pytest.mark.parametrize("drain", [True, False], ids=["drained", "killed"])
async def test_restarts_of_the_server_lose_and_repeat_nothing(
    client: Client, server: ScriptedServer, service: ScriptedService, drain: bool
) -> None:
    """Events that are written while no server runs come with the next stream."""
    scripted = await service.add()
    watching = asyncio.create_task(collect(client, scripted.job.id))
    await until_streams(service, 1)
    await scripted.start()
    for restart in range(3):
        await scripted.event("STEP_COMPLETED", "RUNNING", f"before {restart}")
        await server.stop(drain=drain)
        await scripted.event("STEP_COMPLETED", "RUNNING", f"down {restart}")
        await server.start()
        await until_streams(service, restart + 2)
    await scripted.complete()
    updates = await watching
    assert sequences(updates) == list(range(2, 10))
    asked = [request.after_sequence for request in service.requests("WatchJob")]
    assert asked == sorted(asked)
    assert sum(isinstance(update, Snapshot) for update in updates) == 1


async def test_blocking_watch_survives_a_restart(
    blocking: SyncClient, server: ScriptedServer, service: ScriptedService
) -> None:
    scripted = await service.add()
    reasons: list[str] = []
    watching = asyncio.create_task(
        asyncio.to_thread(
            lambda: list(
                blocking.watch(
                    scripted.job.id, on_reconnect=lambda error, _: reasons.append(str(error))
                )
            )
        )
    )
    await until_streams(service, 1)
    await scripted.start()
    await server.stop()
    await scripted.event("STEP_COMPLETED", "RUNNING", "down")
    await server.start()
    await until_streams(service, 2)
    await scripted.complete()
    async with asyncio.timeout(WITHIN):
        updates = await watching
    assert isinstance(updates[0], Snapshot)
    assert sequences(updates) == [2, 3, 4]
    assert reasons


async def test_a_gap_is_a_defect(client: Client, service: ScriptedService) -> None:
    scripted = await service.add()
    await history(scripted, 3)
    service.tamper = lambda _, message: [] if message.sequence == 3 else [message]
    with pytest.raises(SequenceGap) as caught:
        await collect(client, scripted.job.id, after_sequence=0)
    assert (caught.value.expected, caught.value.received) == (3, 4)


async def test_a_bookmark_that_claims_unseen_events_is_a_gap(
    client: Client, service: ScriptedService
) -> None:
    scripted = await service.add()
    ahead = v1.WatchJobResponse(sequence=9, bookmark=v1.Bookmark())
    service.tamper = lambda _, message: [message, ahead]
    with pytest.raises(SequenceGap):
        await collect(client, scripted.job.id)


async def test_repeated_events_are_dropped(client: Client, service: ScriptedService) -> None:
    scripted = await service.add()
    await history(scripted, 2)
    service.tamper = lambda _, message: [message, message]
    updates = await collect(client, scripted.job.id, after_sequence=0)
    assert sequences(updates) == [1, 2, 3, 4, 5]


async def test_a_reset_snapshot_moves_the_cursor(client: Client, service: ScriptedService) -> None:
    """The asked sequence is gone: the snapshot stands for what cannot be sent any more."""
    scripted = await service.add()
    await scripted.start()
    await scripted.event("STEP_COMPLETED", "RUNNING")
    scripted.forgotten = 3
    watching = asyncio.create_task(collect(client, scripted.job.id, after_sequence=1))
    await until_streams(service, 1)
    await scripted.complete()
    first, *rest = await watching
    assert isinstance(first, Snapshot)
    assert first.reset
    assert first.sequence == 3
    assert sequences(rest) == [4]


async def test_bookmarks_and_progress_are_passed_on(
    client: Client, service: ScriptedService
) -> None:
    scripted = await service.add()
    bookmark = v1.WatchJobResponse(sequence=1, bookmark=v1.Bookmark())
    service.tamper = lambda _, message: (
        [message, bookmark] if message.HasField("snapshot") else [message]
    )
    seen: list[Update] = []
    async with asyncio.timeout(WITHIN), aclosing(client.watch(scripted.job.id)) as updates:
        async for update in updates:
            seen.append(update)
            match update:
                case Bookmark():
                    await scripted.start()
                case Event(type=EventType.STARTED):
                    await scripted.advance(1, 4, "fetch", "France")
                case Progress():
                    await scripted.complete()
    progress = next(update for update in seen if isinstance(update, Progress))
    assert progress.fraction == 0.25
    assert progress.step == "fetch"
    assert progress.estimated_remaining is not None
    assert progress.estimated_remaining.total_seconds() == 3


async def test_an_unknown_job_ends_the_watch(client: Client) -> None:
    with pytest.raises(JobNotFound) as caught:
        await collect(client, "no-such-job")
    assert caught.value.job_id == "no-such-job"


async def test_a_job_that_is_gone_after_a_restart_ends_the_watch(
    client: Client, server: ScriptedServer, service: ScriptedService
) -> None:
    scripted = await service.add()
    watching = asyncio.create_task(collect(client, scripted.job.id))
    await until_streams(service, 1)
    service.jobs.clear()
    await server.stop()
    await server.start()
    with pytest.raises(JobNotFound):
        await watching


@pytest.mark.parametrize(
    "code",
    [
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
    ],
)
async def test_what_a_transport_says_when_it_breaks_is_survived(
    client: Client, service: ScriptedService, code: grpc.StatusCode
) -> None:
    """Without ErrorInfo it is not our server that speaks."""
    scripted = await service.add()
    await history(scripted, 1)
    service.faults.append(Fault("WatchJob", code, times=2))
    updates = await collect(client, scripted.job.id, after_sequence=0)
    assert sequences(updates) == [1, 2, 3, 4]


async def test_a_defect_of_the_server_ends_the_watch(
    client: Client, service: ScriptedService
) -> None:
    scripted = await service.add()
    details = (error_info("INTERNAL", error_id="e7"),)
    service.faults.append(Fault("WatchJob", grpc.StatusCode.INTERNAL, details))
    with pytest.raises(ServerDefect) as caught:
        await collect(client, scripted.job.id)
    assert caught.value.error_id == "e7"


async def test_a_stream_that_ends_before_the_job_is_resumed(
    client: Client, service: ScriptedService
) -> None:
    """A proxy may end a stream with OK."""
    service.early_endings = 3
    scripted = await service.add()
    await scripted.start()
    reasons: list[str] = []
    watching = asyncio.create_task(
        collect(client, scripted.job.id, on_reconnect=lambda error, _: reasons.append(str(error)))
    )
    for number in range(3):
        await until(lambda: service.early_endings < 3 - number)  # noqa: B023 - awaited at once
        await scripted.event("STEP_COMPLETED", "RUNNING")
    await scripted.complete()
    updates = await watching
    assert sequences(updates) == [3, 4, 5, 6]
    assert reasons == ["the stream ended before the job was done"] * 3


async def test_silence_is_taken_for_a_dead_connection(
    client: Client, service: ScriptedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A black hole: the connection stands, nothing comes, not even bookmarks."""
    monkeypatch.setattr(rules, "SILENCE_SECONDS", 0.3)
    scripted = await service.add()
    watching = asyncio.create_task(collect(client, scripted.job.id))
    await until_streams(service, 1)
    service.speaking.clear()
    await scripted.start()
    await until_streams(service, 2)
    service.speaking.set()
    await scripted.complete()
    assert sequences(await watching) == [2, 3]


async def test_a_server_that_never_answers_is_given_up(server: ScriptedServer) -> None:
    await server.stop()
    async with Client(server.target, call_timeout=0.5) as client:
        with pytest.raises(Unavailable):
            await collect(client, "x")
    with SyncClient(server.target, call_timeout=0.5) as blocking, pytest.raises(Unavailable):
        await asyncio.to_thread(lambda: list(blocking.watch("x")))


async def test_a_lost_server_is_given_up_after_reconnect_timeout(
    server: ScriptedServer, service: ScriptedService
) -> None:
    scripted = await service.add()
    async with Client(server.target, reconnect_timeout=0.5) as client:
        watching = asyncio.create_task(collect(client, scripted.job.id))
        await until_streams(service, 1)
        await server.stop()
        with pytest.raises(Unavailable):
            await watching


async def test_closing_a_watch_cancels_its_stream(client: Client, service: ScriptedService) -> None:
    scripted = await service.add()
    async with aclosing(client.watch(scripted.job.id)) as updates:
        await anext(updates)
        assert service.open_streams == 1
    await until(lambda: service.open_streams == 0)


async def test_breaking_out_of_a_blocking_watch_cancels_its_stream(
    blocking: SyncClient, service: ScriptedService
) -> None:
    scripted = await service.add()

    def first() -> Update:
        with contextlib.closing(blocking.watch(scripted.job.id)) as updates:
            return next(updates)

    assert isinstance(await asyncio.to_thread(first), Snapshot)
    await until(lambda: service.open_streams == 0)


async def test_an_endless_job_with_a_slow_reader_skips_no_event(
    client: Client, service: ScriptedService
) -> None:
    scripted = await service.add()
    watching = client.watch(scripted.job.id)
    await anext(watching)
    await history(scripted, 200)
    got: list[Update] = []
    async for update in watching:
        got.append(update)
        if len(got) % 50 == 0:
            await asyncio.sleep(0.01)
    assert sequences(got) == list(range(2, 204))


async def test_three_hundred_watches_over_a_restart(
    client: Client, server: ScriptedServer, service: ScriptedService
) -> None:
    jobs = [await service.add() for _ in range(300)]
    watching = [asyncio.create_task(collect(client, item.job.id)) for item in jobs]
    await until(lambda: service.open_streams == len(jobs))
    for item in jobs:
        await item.start()
    await server.stop(drain=True)
    for item in jobs:
        await item.complete()
    await server.start()
    for updates in await asyncio.gather(*watching):
        assert sequences(updates) == [2, 3]
