"""P1, P2, P5, P6: servers are killed in every seam between a call, its commit and the broker."""

import asyncio
import contextlib
import signal
import time
from functools import partial

from headway import Event, EventType, JobState, Snapshot, Unavailable
from headway.client import Client
from tests.faults.rig import INTERRUPTED_ONCE, Rig
from tests.faults.waiting import PATIENCE_SECONDS, insist, promised, until

WATCHERS = 300
WATCHERS_SECONDS_MAX = 60.0
BESIDE_SECONDS_MAX = 5.0
LATER_SECONDS = 0.5


async def test_a_server_killed_in_any_seam_of_its_relay_loses_nothing(rig: Rig) -> None:
    """P1, P2, P6: after the submit's commit (its caller never hears, and asks again with its key),
    between publish and delete (published twice, run once), and between delete and mark; on the way
    that follows a submit at once, and, for a job that is due later, in the poll.
    """
    await rig.worker()
    journal = rig.journal()
    async with rig.client() as client:
        for seam, delay in (
            ("after_submit_commit", None),
            ("after_publish", None),
            ("after_publish", LATER_SECONDS),
            ("after_outbox_delete", None),
            ("after_outbox_delete", LATER_SECONDS),
        ):
            rig.arm(f"{seam}=kill@1")
            submit = partial(
                client.submit,
                "fault.work",
                {"journal": str(journal)},
                delay=delay,
                idempotency_key=f"key of {seam} {delay}",
            )
            submitting = asyncio.create_task(submit())
            await rig.hit(seam)
            await rig.restart_server()
            with contextlib.suppress(Unavailable):  # it may have given up meanwhile: it asks again
                await submitting
            job = await insist(submit)
            assert not job.created
            rig.accept([job])
            await rig.done()
    assert len(journal.runs()) == 5
    assert set(journal.runs().values()) == {1}
    await rig.judge()


async def test_a_reaper_killed_under_its_locks_reaps_nothing_twice(rig: Rig) -> None:
    """P4, P7: its transaction goes with it, and the next one judges all of the worker's jobs."""
    first = await rig.worker()
    journal, gate = rig.journal(), rig.gate()
    async with rig.client() as client:
        jobs = await rig.submit(client, 2, journal=str(journal), until=str(gate))
        await journal.begun(2)
        rig.arm("reap_after_lock=kill@1")
        await asyncio.to_thread(first.kill)
        await rig.hit("reap_after_lock")
        await rig.restart_server()
        await rig.worker()
        await journal.begun(4)
        gate.touch()
        await rig.done()
        for job in jobs:
            events = await rig.history(job.id)
            assert events == INTERRUPTED_ONCE
    await rig.judge()


async def test_a_frozen_relay_holds_up_no_other(rig: Rig) -> None:
    """P1, P9: two relays, of which one is stopped with a row locked; Postgres frees it in 10 s.

    The other one publishes what is free at once, and then what the frozen one held, again.
    """
    await rig.worker()
    journal = rig.journal()
    payload = {"journal": str(journal)}
    async with rig.client() as client:
        frozen = rig.server
        rig.arm("after_publish=freeze@1")
        # Due later, so that not the fast path publishes it, which locks nothing.
        held = await client.submit("fault.work", payload, delay=0.5)
        rig.accept([held])
        await rig.hit("after_publish")
        rig.arm("")
    assert await rig.query("SELECT id FROM outbox")
    assert not await rig.query("SELECT id FROM outbox FOR UPDATE SKIP LOCKED"), "nothing is locked"
    await rig.start_elsewhere()
    async with Client(rig.elsewhere, call_timeout=10) as client:
        begun = time.monotonic()
        jobs = await rig.submit(client, 5, **payload)
        await until(lambda: all(job.id in journal.runs() for job in jobs), "the others run")
        took = time.monotonic() - begun
        await rig.done()
        await until(lambda: _nothing_left(rig), "what it held is published")
    assert set(journal.runs().values()) == {1}
    frozen.resume()
    await rig.judge(without_fault=True)
    promised("a job beside a frozen relay -> it runs", took, BESIDE_SECONDS_MAX)


async def _nothing_left(rig: Rig) -> bool:
    rows = await rig.query("SELECT count(*) FROM outbox")
    return bool(rows) and rows[0][0] == 0


async def test_watchers_resume_over_a_killed_server(rig: Rig) -> None:
    """P5, P11: 300 watchers of ten jobs; SIGKILL in the middle; each sees every event, in order."""
    await rig.worker()
    gate = rig.gate()
    seen: list[list[Event]] = [[] for _ in range(WATCHERS)]
    async with rig.client() as client:
        jobs = await rig.submit(client, 10, until=str(gate))

        async def watch(number: int) -> None:
            job_id = jobs[number % len(jobs)].id
            async with contextlib.aclosing(client.watch(job_id, after_sequence=0)) as updates:
                async for update in updates:
                    if isinstance(update, Event):
                        seen[number].append(update)

        watches = [asyncio.create_task(watch(number)) for number in range(WATCHERS)]
        await until(lambda: all(_runs(events) for events in seen), "all have seen it start")
        rig.server.kill()
        gate.touch()
        begun = time.monotonic()
        await rig.restart_server()
        await asyncio.gather(*watches)
        took = time.monotonic() - begun
    for events in seen:
        assert [event.sequence for event in events] == list(range(1, len(events) + 1))
        assert events[-1].job.state is JobState.COMPLETED
    await rig.judge()
    promised(f"server killed -> {WATCHERS} watchers at the end", took, WATCHERS_SECONDS_MAX)


def _runs(events: list[Event]) -> bool:
    return any(event.type is EventType.STARTED for event in events)


async def test_events_after_the_snapshot_are_not_missed(rig: Rig) -> None:
    """P5: the run ends between the reading of a snapshot and its sending, and a hint tells so.

    One watcher asked for the snapshot, the other one for everything.
    """
    await rig.worker()
    gate = rig.gate()
    async with rig.client() as client:
        (job,) = await rig.submit(client, 1, until=str(gate), followed=0)
        await until(lambda: _is(client, job.id, JobState.RUNNING), "it runs")
        rig.arm("watch_after_snapshot=pause:5@1-2")

        async def watch(after_sequence: int | None) -> list[Snapshot | Event]:
            watching = client.watch(job.id, after_sequence=after_sequence)
            async with contextlib.aclosing(watching) as updates:
                return [one async for one in updates if isinstance(one, Snapshot | Event)]

        watches = [asyncio.create_task(watch(after)) for after in (None, 0)]
        await rig.hit("watch_after_snapshot", times=2)
        gate.touch()
        await until(lambda: _is(client, job.id, JobState.COMPLETED), "it ends")
        assert not any(watching.done() for watching in watches), "the pause was too short"
        async with asyncio.timeout(PATIENCE_SECONDS):
            from_snapshot, from_beginning = await asyncio.gather(*watches)
        first, *rest = from_snapshot
        assert isinstance(first, Snapshot)
        assert first.job.state is JobState.RUNNING
        assert not first.reset
        assert rest
        assert rest == from_beginning[first.sequence :]
        sequences = [update.sequence for update in from_beginning]
        assert sequences == list(range(1, len(sequences) + 1))
    await rig.judge(without_fault=True)


async def _is(client: Client, job_id: str, state: JobState) -> bool:
    return (await client.get(job_id)).state is state


async def test_a_server_leaves_in_good_order_under_load(rig: Rig) -> None:
    """P1, P10: SIGTERM while jobs are submitted; what was answered runs; the rest is refused."""
    await rig.worker()
    async with rig.client() as client:
        ended = asyncio.Event()

        async def submit() -> None:
            while not ended.is_set():
                with contextlib.suppress(Unavailable):
                    rig.accept([await client.submit("fault.work", {})])
                await asyncio.sleep(0.01)

        tasks = [asyncio.create_task(submit()) for _ in range(4)]
        await until(lambda: len(rig.accepted) > 20, "jobs are accepted")
        assert rig.server.record.find() is not None
        process = rig.server.record.find()
        assert process is not None
        process.send_signal(signal.SIGTERM)
        await rig.restart_server()
        before = len(rig.accepted)
        await until(lambda: len(rig.accepted) > before + 20, "and accepted again")
        ended.set()
        await asyncio.gather(*tasks)
    await rig.judge(without_fault=True)
