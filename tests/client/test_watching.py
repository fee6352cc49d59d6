"""A watch tells all that happens to a job, each event once and in order."""

import asyncio
from contextlib import aclosing

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
    Snapshot,
    Update,
    v1,
)
from tests.client.following import WITHIN, collect, history, sequences, until, until_streams
from tests.client.scripted_server import ScriptedService


async def test_watch_begins_with_a_snapshot_and_ends_when_done(
    client: Client, service: ScriptedService
) -> None:
    scripted = await service.add()
    running = asyncio.create_task(collect(client, scripted.job.id))
    await until_streams(service, 1)
    await history(scripted, 3)
    updates = await running
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
    running = asyncio.create_task(collect(client, scripted.job.id, after_sequence=1))
    await until_streams(service, 1)
    await scripted.complete()
    first, *rest = await running
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


async def test_closing_a_watch_cancels_its_stream(client: Client, service: ScriptedService) -> None:
    scripted = await service.add()
    async with aclosing(client.watch(scripted.job.id)) as updates:
        await anext(updates)
        assert service.open_streams == 1
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
