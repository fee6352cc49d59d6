"""A watch outlives its streams: restarts, broken connections, silence."""

import asyncio
import contextlib

import grpc
import pytest

from headway import (
    Client,
    JobNotFound,
    ServerDefect,
    Snapshot,
    SyncClient,
    Unavailable,
    Update,
    watching,
)
from headway import cursor as rules
from tests.client.following import WITHIN, collect, history, sequences, until, until_streams
from tests.client.refusals import error_info
from tests.client.scripted_server import Fault, ScriptedServer, ScriptedService


@pytest.mark.parametrize("drain", [True, False], ids=["drained", "killed"])
async def test_restarts_of_the_server_lose_and_repeat_nothing(
    client: Client, server: ScriptedServer, service: ScriptedService, drain: bool
) -> None:
    """Events that are written while no server runs come with the next stream."""
    scripted = await service.add()
    running = asyncio.create_task(collect(client, scripted.job.id))
    await until_streams(service, 1)
    await scripted.start()
    for restart in range(3):
        await scripted.event("STEP_COMPLETED", "RUNNING", f"before {restart}")
        await server.stop(drain=drain)
        await scripted.event("STEP_COMPLETED", "RUNNING", f"down {restart}")
        await server.start()
        await until_streams(service, restart + 2)
    await scripted.complete()
    updates = await running
    assert sequences(updates) == list(range(2, 10))
    asked = [request.after_sequence for request in service.requests("WatchJob")]
    assert asked == sorted(asked)
    assert sum(isinstance(update, Snapshot) for update in updates) == 1


async def test_blocking_watch_survives_a_restart(
    blocking: SyncClient, server: ScriptedServer, service: ScriptedService
) -> None:
    scripted = await service.add()
    reasons: list[str] = []
    running = asyncio.create_task(
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
        updates = await running
    assert isinstance(updates[0], Snapshot)
    assert sequences(updates) == [2, 3, 4]
    assert reasons


async def test_a_job_that_is_gone_after_a_restart_ends_the_watch(
    client: Client, server: ScriptedServer, service: ScriptedService
) -> None:
    scripted = await service.add()
    running = asyncio.create_task(collect(client, scripted.job.id))
    await until_streams(service, 1)
    service.jobs.clear()
    await server.stop()
    await server.start()
    with pytest.raises(JobNotFound):
        await running


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
    running = asyncio.create_task(
        collect(client, scripted.job.id, on_reconnect=lambda error, _: reasons.append(str(error)))
    )
    for number in range(3):
        await until(lambda: service.early_endings < 3 - number)  # noqa: B023 - awaited at once
        await scripted.event("STEP_COMPLETED", "RUNNING")
    await scripted.complete()
    updates = await running
    assert sequences(updates) == [3, 4, 5, 6]
    assert reasons == ["the stream ended before the job was done"] * 3


async def test_silence_is_taken_for_a_dead_connection(
    client: Client, service: ScriptedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A black hole: the connection stands, nothing comes, not even bookmarks."""
    monkeypatch.setattr(rules, "SILENCE_SECONDS", 0.3)
    scripted = await service.add()
    running = asyncio.create_task(collect(client, scripted.job.id))
    await until_streams(service, 1)
    service.speaking.clear()
    await scripted.start()
    await until_streams(service, 2)
    service.speaking.set()
    await scripted.complete()
    assert sequences(await running) == [2, 3]


async def test_blocking_streams_are_renewed_without_a_word(
    blocking: SyncClient, service: ScriptedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A blocking read has no bound of its own: the stream has one, and it is no failure."""
    monkeypatch.setattr(watching, "STREAM_SECONDS", 0.3)
    service.bookmarks = True
    scripted = await service.add()
    reasons: list[Unavailable] = []
    running = asyncio.create_task(
        asyncio.to_thread(
            lambda: list(
                blocking.watch(scripted.job.id, on_reconnect=lambda error, _: reasons.append(error))
            )
        )
    )
    await until_streams(service, 2)
    await scripted.start()
    await until_streams(service, 3)
    await scripted.complete()
    assert sequences(await running) == [2, 3]
    assert reasons == []


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
        running = asyncio.create_task(collect(client, scripted.job.id))
        await until_streams(service, 1)
        await server.stop()
        with pytest.raises(Unavailable):
            await running


async def test_breaking_out_of_a_blocking_watch_cancels_its_stream(
    blocking: SyncClient, service: ScriptedService
) -> None:
    scripted = await service.add()

    def first() -> Update:
        with contextlib.closing(blocking.watch(scripted.job.id)) as updates:
            return next(updates)

    assert isinstance(await asyncio.to_thread(first), Snapshot)
    await until(lambda: service.open_streams == 0)


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
